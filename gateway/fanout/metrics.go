package fanout

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// An evictReason is why items left a log. It is a metric label.
type evictReason uint8

const (
	evictedForBytes    evictReason = iota // CHANNEL_LOG_BYTES
	evictedForAge                         // CHANNEL_LOG_AGE
	evictedForMemory                      // LOG_MEMORY
	evictedWithChannel                    // the channel was closed
	evictReasons
)

var evictReasonNames = [evictReasons]string{"bytes", "age", "memory", "closed"}

// An orderFate is what became of an item that came before those that its prev-id
// says are before it. It is a metric label.
type orderFate uint8

const (
	orderWaited  orderFate = iota // for them
	orderOverdue                  // it went without them
	orderDropped                  // too many or too much waited already, or one for the same
	orderFates
)

var orderFateNames = [orderFates]string{"waited", "overdue", "dropped"}

type metrics struct {
	appended, published, duplicates atomic.Int64
	evicted                         [evictReasons]atomic.Int64
	fellBehind                      atomic.Int64
	deliveredItems, deliveredBytes  atomic.Int64 // to those who pull
	keepAlives, filtered, conflated atomic.Int64
	outOfOrder                      [orderFates]atomic.Int64
}

// sum adds up what the loops have counted.
func (e *Engine) sum(count func(*loop) *atomic.Int64) float64 {
	var n int64
	for _, l := range e.loops {
		n += count(l).Load()
	}
	return float64(n)
}

// delivered counts a batch that was handed to one subscriber.
func (m *metrics) delivered(b *Batch) {
	m.deliveredItems.Add(int64(b.Items))
	m.deliveredBytes.Add(int64(len(b.Frames)))
}

// Delivered is how many items were handed to subscribers, each counted for each
// of them.
func (e *Engine) Delivered() float64 {
	return float64(e.metrics.deliveredItems.Load()) + e.sum(func(l *loop) *atomic.Int64 { return &l.items })
}

// Published is how many items came from outside.
func (e *Engine) Published() int64 { return e.metrics.published.Load() }

func newMetrics(e *Engine, reg prometheus.Registerer) *metrics {
	m := &metrics{}
	with := promauto.With(reg)
	gauge := func(name, help string, read func() float64) {
		with.NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_" + name, Help: help}, read)
	}
	count := func(name, help string, n *atomic.Int64, labels prometheus.Labels) {
		with.NewCounterFunc(prometheus.CounterOpts{Name: "spillway_" + name, Help: help, ConstLabels: labels},
			func() float64 { return float64(n.Load()) })
	}
	gauge("channels", "Channels that exist.", func() float64 { return float64(e.count()) })
	gauge("subscribers", "Subscriptions of streams, sockets and long polls to channels.", func() float64 {
		return float64(e.subscribers.Load())
	})
	gauge("log_bytes", "Memory that the logs of all channels occupy, in bytes.", func() float64 {
		return float64(e.logBytes.Load())
	})
	gauge("log_limit_bytes", "What LOG_MEMORY allows the logs of all channels, in bytes.", func() float64 {
		return float64(e.cfg.LogMemory)
	})
	gauge("id_cache_entries", "Ids of published items that are remembered, to recognise repetitions.", func() float64 {
		n, _ := e.seen.stats()
		return float64(n)
	})
	with.NewCounterFunc(prometheus.CounterOpts{
		Name: "spillway_id_cache_evicted_total",
		Help: "Ids of published items that were forgotten before their time, because there were too many.",
	}, func() float64 {
		_, n := e.seen.stats()
		return float64(n)
	})
	count("items_total", "Items that were added to a channel's log.", &m.appended, nil)
	count("published_items_total", "Items that came from outside, by the control API.", &m.published, nil)
	count("duplicate_items_total", "Items from outside that repeated an id, and were dropped.", &m.duplicates, nil)
	for i := range m.evicted {
		count("evicted_items_total", "Items that left a channel's log, by what made them.", &m.evicted[i],
			prometheus.Labels{"reason": evictReasonNames[i]})
	}
	for i := range m.outOfOrder {
		count("out_of_order_items_total", "Items from outside that came before those that they follow, by what became of them.", &m.outOfOrder[i],
			prometheus.Labels{"fate": orderFateNames[i]})
	}
	gauge("out_of_order_bytes", "Memory of items from outside that wait for those that they follow, in bytes.", func() float64 {
		return float64(e.waitingBytes.Load())
	})
	gauge("out_of_order_limit_bytes", "What MESSAGE_WAIT_MEMORY allows them; others are dropped.", func() float64 {
		return float64(e.cfg.WaitingMemory)
	})
	count("fell_behind_total", "Times that a log dropped items before a subscriber had taken them.", &m.fellBehind, nil)
	count("filtered_items_total", "Items that filters kept from a subscriber, each counted for each of them.", &m.filtered, nil)
	count("conflated_items_total", "Items that a later one of the same key stood in for, each counted for each subscriber that was not sent it.", &m.conflated, nil)
	count("keep_alives_total", "Keep-alives sent on quiet streams and WebSockets.", &m.keepAlives, nil)
	total := func(name, help string, read func() float64) {
		with.NewCounterFunc(prometheus.CounterOpts{Name: "spillway_" + name, Help: help}, read)
	}
	total("delivered_items_total", "Items that were handed to subscribers, each counted for each of them.", e.Delivered)
	total("delivered_bytes_total", "Bytes that were handed to subscribers, with what frames them.", func() float64 {
		return float64(m.deliveredBytes.Load()) + e.sum(func(l *loop) *atomic.Int64 { return &l.bytes })
	})
	total("socket_writes_total", "System calls that wrote to held streams and WebSockets.", func() float64 {
		return e.sum(func(l *loop) *atomic.Int64 { return &l.writes })
	})
	total("socket_blocked_total", "Times that a held stream or WebSocket took less than there was for it.", func() float64 {
		return e.sum(func(l *loop) *atomic.Int64 { return &l.blocked })
	})
	for i, l := range e.loops {
		kind := "bare"
		if i == len(e.loops)-1 {
			kind = "portable"
		}
		with.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "spillway_held_connections",
			Help:        "Streams, WebSockets and long polls that the fan-out engine has, by loop: on bare descriptors, or by goroutines (portable).",
			ConstLabels: prometheus.Labels{"loop": strconv.Itoa(i), "kind": kind},
		}, func() float64 { return float64(l.connections.Load()) })
	}
	gauge("connection_bytes", "Memory that is kept for connections which the engine has, in bytes, with what waits for one of them alone.", func() float64 {
		return e.sum(func(l *loop) *atomic.Int64 { return &l.size }) + float64(e.privateBytes.Load())
	})
	gauge("private_bytes", "Bytes that wait for one connection alone: rests of frames, pages, pongs, halves of clients' messages, messages that the origin has not taken.", func() float64 {
		return float64(e.privateBytes.Load())
	})
	gauge("private_limit_bytes", "How many such bytes there may be before connections that need more are closed, and new ones refused.", func() float64 {
		return float64(e.cfg.PrivateMemory)
	})
	return m
}
