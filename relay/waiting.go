package relay

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// maxWaitingBytes bounds the live records that wait for the schema registry.
// While there are more, the reader waits too, and with it all topics.
const maxWaitingBytes = 16 << 20

// A waitingRoom has the live records of topics for which the registry is being
// asked for a schema, so that all other topics go on. A topic's records keep
// their order: what comes behind those that wait does so too.
type waitingRoom struct {
	topics sync.WaitGroup // goroutines, one for each topic that waits

	maxBytes int64

	mu     sync.Mutex
	queues map[string][]haul // by topic; there as long as its goroutine is
	bytes  int64
	space  chan struct{} // closed when some go; nil while the reader does not wait

	stalls prometheus.Counter
}

// A haul is what a poll returned of a partition, or some of it.
type haul struct {
	poll      uint64
	topic     string
	partition int32
	logStart  int64 // where the partition begins, as its leader said with the records
	records   []*kgo.Record
	bytes     int64
}

func newWaitingRoom(reg prometheus.Registerer) *waitingRoom {
	w := &waitingRoom{
		maxBytes: maxWaitingBytes,
		queues:   make(map[string][]haul),
		stalls: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_schema_stalls_total", Help: "Times that all reading paused because too many records waited for the schema registry.",
		}),
	}
	reg.MustRegister(w.stalls, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_schema_waiting_bytes", Help: "Bytes of live records that wait for the schema registry.",
	}, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(w.bytes)
	}))
	return w
}

// take gives a haul to process: at once, or when its schemas are there. The
// reader calls it.
func (h *hub) take(ctx context.Context, in haul) {
	if h.decoder.planFor(in.topic) != nil {
		waits := h.waiting.busy(in.topic)
		for !waits && len(in.records) > 0 {
			var seen, left []*kgo.Record
			seen, left, waits = h.decoder.decodeNow(in.topic, in.records)
			h.passOn(&in, seen, left)
		}
		if waits {
			h.wait(ctx, in)
		}
		return
	}
	h.passOn(&in, in.records, nil)
}

// passOn processes the first records of a haul, as they are seen, and lets go
// of them.
func (h *hub) passOn(in *haul, seen, left []*kgo.Record) {
	h.process(in, seen)
	for _, r := range in.records[:len(seen)] { // see recordPool
		r.Recycle()
	}
	in.records = left
}

// wait puts a haul into the waiting room, and waits itself while that is full.
func (h *hub) wait(ctx context.Context, in haul) {
	w := h.waiting
	for _, r := range in.records {
		in.bytes += recordBytes(r)
	}
	w.mu.Lock()
	queue, busy := w.queues[in.topic]
	w.queues[in.topic] = append(queue, in)
	w.bytes += in.bytes
	w.mu.Unlock()
	if !busy {
		w.topics.Go(func() { h.takeWaiting(ctx, in.topic) })
	}
	for stalled := false; ctx.Err() == nil; stalled = true {
		w.mu.Lock()
		if w.bytes <= w.maxBytes {
			w.mu.Unlock()
			return
		}
		if w.space == nil {
			w.space = make(chan struct{})
		}
		space := w.space
		w.mu.Unlock()
		if !stalled {
			w.stalls.Inc()
		}
		select {
		case <-space:
		case <-ctx.Done():
		}
	}
}

// takeWaiting takes what waits of a topic, until there is nothing more or ctx
// ends. No schema is waited for longer than SCHEMA_REGISTRY_TIMEOUT.
func (h *hub) takeWaiting(ctx context.Context, topic string) {
	for in, ok := h.waiting.first(topic); ok; in, ok = h.waiting.next(topic) {
		for len(in.records) > 0 {
			seen, left, err := h.decoder.decode(ctx, topic, in.records)
			h.passOn(&in, seen, left)
			if err != nil {
				h.waiting.clear(topic)
				return
			}
		}
	}
}

func (w *waitingRoom) busy(topic string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queues[topic]) > 0
}

func (w *waitingRoom) first(topic string) (in haul, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queues[topic][0], true
}

// next lets go of the first haul and returns the one behind it. Where there is
// none, the topic does not wait any more.
func (w *waitingRoom) next(topic string) (in haul, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	queue := w.queues[topic]
	w.left(queue[0].bytes)
	queue[0] = haul{}
	if len(queue) == 1 {
		delete(w.queues, topic)
		return haul{}, false
	}
	w.queues[topic] = queue[1:]
	return queue[1], true
}

// clear lets go of all that waits of a topic.
func (w *waitingRoom) clear(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.queues[topic] {
		w.left(in.bytes)
	}
	delete(w.queues, topic)
}

// left notes that so many bytes do not wait any more. Call with mu held.
func (w *waitingRoom) left(bytes int64) {
	w.bytes -= bytes
	if w.space != nil {
		close(w.space)
		w.space = nil
	}
}
