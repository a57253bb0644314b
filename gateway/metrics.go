package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"spillway/gateway/fanout"
)

// A closeReason is why a stream, long poll or WebSocket ended. It is a metric
// label: add one here, and to closeReasons.
type closeReason string

const (
	closedByClient      closeReason = "client"        // the peer went away, or closed the WebSocket
	closedByOrigin      closeReason = "origin_end"    // the origin's last page had neither hold nor link
	closedByPublisher   closeReason = "close_item"    // an item closed it
	closedTooSlow       closeReason = "too_slow"      // fell behind the channel's log, and no next link
	closedStalled       closeReason = "write_timeout" // took nothing for WRITE_TIMEOUT
	closedMaxAge        closeReason = "max_age"       // CONNECTION_MAX_AGE
	closedDraining      closeReason = "draining"      // we are shutting down
	closedAnswered      closeReason = "answered"      // a long poll got its answer
	closedTimeout       closeReason = "poll_timeout"  // a long poll got none in time
	closedMessageTooBig closeReason = "message_size"  // a WebSocket message of the client was too large
	closedMessageRate   closeReason = "message_rate"  // a client sent too many WebSocket messages
	closedForMemory     closeReason = "memory"        // more was waiting for single clients than there is memory for
	closedOriginError   closeReason = "origin_error"  // a page could not be had, or was not understood
	closedAborted       closeReason = "aborted"       // cut off at the end of the drain window
)

var closeReasons = []closeReason{closedByClient, closedByOrigin, closedByPublisher, closedTooSlow, closedStalled, closedMaxAge,
	closedDraining, closedAnswered, closedTimeout, closedMessageTooBig, closedMessageRate, closedForMemory, closedOriginError, closedAborted}

// An askReason is why a held stream asked its next link.
type askReason string

const (
	askedForPage    askReason = "page"    // the page before had no hold
	askedForHint    askReason = "hint"    // an item said so
	askedForAttach  askReason = "attach"  // the channel has not what follows prev-id
	askedForBehind  askReason = "behind"  // the log went past the client, or an item is missing
	askedForClosed  askReason = "closed"  // the channel was closed
	askedForQuiet   askReason = "timeout" // the link's timeout
	askedForItem    askReason = "item"    // a long poll's channel has news
	askedForTimeout askReason = "poll_timeout"
)

var askReasons = []askReason{askedForPage, askedForHint, askedForAttach, askedForBehind, askedForClosed, askedForQuiet, askedForItem, askedForTimeout}

// A transport is what a connection is used for.
type transport uint8

const (
	byRequest transport = iota // none of the others, or not yet
	byStream
	byPoll
	byWebSocket
	transports
)

var transportNames = [transports]string{"request", "stream", "poll", "websocket"}

// A refusal is why a request was turned away.
type refusal string

const (
	refusedDraining refusal = "draining"
	refusedTotal    refusal = "max_connections"
	refusedPerIP    refusal = "max_connections_per_ip"
	refusedSubject  refusal = "max_connections_per_subject"
	refusedMemory   refusal = "memory"  // too much waits for single clients
	refusedSocket   refusal = "sockets" // far too many connections: closed without an answer

	refusedIdle        refusal = "idle_connections"    // closed, since too many asked for nothing
	refusedConnectRate refusal = "connect_rate_per_ip" // a new connection
	refusedRate        refusal = "request_rate_per_ip" //
	refusedHeadTime    refusal = "header_timeout"      // of HEADER_TIMEOUT
	refusedHeaders     refusal = "headers"             // more than MAX_HEADERS
	refusedURL         refusal = "url"                 // longer than MAX_URL_BYTES
	refusedBodyTime    refusal = "body_timeout"        // a body stopped coming
	refusedPresented   refusal = "proxy_protocol"      // no or a wrong header, or not from TRUSTED_PROXIES
	refusedHTTP2       refusal = "http2_without_tls"   // not from TRUSTED_PROXIES
)

var allRefusals = []refusal{refusedDraining, refusedTotal, refusedPerIP, refusedSubject, refusedMemory, refusedSocket, refusedIdle, refusedConnectRate,
	refusedRate, refusedHeadTime, refusedHeaders, refusedURL, refusedBodyTime, refusedPresented, refusedHTTP2}

type metrics struct {
	connections   [transports]prometheus.Gauge
	limit         prometheus.Gauge
	closed        map[closeReason]prometheus.Counter
	asked         map[askReason]prometheus.Counter
	refused       map[refusal]prometheus.Counter
	overSubscribe prometheus.Counter
	filterErrors  prometheus.Counter
	requests      atomic.Int64
	present       presence
	eventsAgain   prometheus.Counter
	eventsLost    prometheus.Counter
	waiting       prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	with := promauto.With(reg)
	m := &metrics{
		closed:  make(map[closeReason]prometheus.Counter),
		asked:   make(map[askReason]prometheus.Counter),
		refused: make(map[refusal]prometheus.Counter),
		filterErrors: with.NewCounter(prometheus.CounterOpts{Name: "spillway_filter_errors_total",
			Help: "Items that a subscriber did not get because a filter could not be carried out."}),
		overSubscribe: with.NewCounter(prometheus.CounterOpts{Name: "spillway_subscriptions_ignored_total",
			Help: "Streams that were not started because a WebSocket had MAX_SUBSCRIPTIONS of them."}),
	}
	m.waiting = with.NewGauge(prometheus.GaugeOpts{Name: "spillway_websocket_waiting_bytes",
		Help: "What clients of WebSockets have said and their origins have not been given yet."})
	m.eventsLost = with.NewCounter(prometheus.CounterOpts{Name: "spillway_websocket_requests_lost_total",
		Help: "WebSocket-over-HTTP requests that no origin could be given, often enough tried, or with too many others waiting."})
	m.eventsAgain = with.NewCounter(prometheus.CounterOpts{Name: "spillway_websocket_requests_repeated_total",
		Help: "WebSocket-over-HTTP requests that were made once more, because an origin had not got all of them."})
	connections := with.NewGaugeVec(prometheus.GaugeOpts{Name: "spillway_connections",
		Help: "Requests and WebSockets being served now, by what they have become."}, []string{"transport"})
	for t, name := range transportNames {
		m.connections[t] = connections.WithLabelValues(name)
	}
	with.NewCounterFunc(prometheus.CounterOpts{Name: "spillway_requests_total",
		Help: "Requests of clients, WebSocket handshakes included."}, func() float64 { return float64(m.requests.Load()) })
	with.NewCounterFunc(prometheus.CounterOpts{Name: "spillway_connection_seconds_total",
		Help: "Time that requests and WebSockets were being served, added up, in seconds."}, func() float64 { return m.present.sum() })
	m.limit = with.NewGauge(prometheus.GaugeOpts{Name: "spillway_connections_limit",
		Help: "Requests and WebSockets that are served at once at most; more are refused."})
	closed := with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_connections_closed_total",
		Help: "Streams, long polls and WebSockets that ended, by what ended them."}, []string{"reason"})
	for _, r := range closeReasons {
		m.closed[r] = closed.WithLabelValues(string(r))
	}
	asked := with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_links_asked_total",
		Help: "Next links that were followed, by what made it necessary."}, []string{"reason"})
	for _, r := range askReasons {
		m.asked[r] = asked.WithLabelValues(string(r))
	}
	refused := with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_refused_total",
		Help: "Requests and connections that were turned away, by the limit they met."}, []string{"reason"})
	for _, r := range allRefusals {
		m.refused[r] = refused.WithLabelValues(string(r))
	}
	return m
}

// countIdle measures the lobby.
func (m *metrics) countIdle(l *lobby, reg prometheus.Registerer) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_connections_idle",
		Help: "Connections of clients on which no request is being served now."}, func() float64 { return float64(l.size()) })
	promauto.With(reg).NewGauge(prometheus.GaugeOpts{Name: "spillway_connections_idle_limit",
		Help: "How many such connections there may be before those are closed that have been idle longest."}).Set(float64(l.most))
}

// A presence adds up how long visits last, those included that do yet.
type presence struct {
	mu    sync.Mutex
	count int       // visits now; guarded by mu
	since time.Time // when total was last brought up to date; guarded by mu
	total float64   // seconds; a million clients fill a Duration in months; guarded by mu
}

// change counts visits in, or out.
func (p *presence) change(by int) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(now)
	p.count += by
}

func (p *presence) update(now time.Time) {
	if d := now.Sub(p.since); d > 0 { // others may have been here since now was
		p.total += float64(p.count) * d.Seconds()
		p.since = now
	}
}

// sum is the time until now, in seconds.
func (p *presence) sum() float64 {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.update(now)
	return p.total
}

// now is how many visits there are.
func (p *presence) now() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// asPushpin adds the metrics that Pushpin has, by the names that it has for them
// (GRIP reference, 13), so that dashboards made for it go on.
func (m *metrics) asPushpin(prefix string, engine *fanout.Engine, reg prometheus.Registerer) {
	with := promauto.With(reg)
	count := func(name, help string, read func() float64) {
		with.NewCounterFunc(prometheus.CounterOpts{Name: prefix + name, Help: help}, read)
	}
	count("request_received", "Number of requests received", func() float64 { return float64(m.requests.Load()) })
	with.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + "connection_connected", Help: "Number of concurrent connections"},
		func() float64 { return float64(m.present.now()) })
	count("connection_minute", "Number of minutes clients have been connected", func() float64 { return m.present.sum() / 60 })
	count("message_received", "Number of messages received by the publish API", func() float64 { return float64(engine.Published()) })
	count("message_sent", "Number of messages sent to clients", func() float64 { return engine.Delivered() })
}

// lostReason is why a request's context has ended.
func lostReason(ctx context.Context) closeReason {
	if errors.Is(context.Cause(ctx), errCutOff) {
		return closedAborted
	}
	return closedByClient
}

// errCutOff ends what is still there when the time to drain is over.
var errCutOff = errors.New("cut off at the end of the drain window")
