package upstream

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A kind is why a request is made; a metric label.
type kind string

const (
	kindRequest kind = "request" // a client's
	kindLink    kind = "link"    // the gateway's own, after a next link
	kindEvents  kind = "events"  // the gateway's own, for a WebSocket over HTTP
	kindSocket  kind = "websocket"
	kindFilter  kind = "filter" // the gateway's own, about an item
	kindGone    kind = "gone"   // the gateway's own, after a gone link
)

// A result is how a request to an origin ended; a metric label.
type result string

const (
	answered    result = "answered"    // a response head came, of any status
	unreachable result = "unreachable" // no target could be connected
	broken      result = "broken"      // connected, but no whole response head came in time
	canceled    result = "canceled"    // the client went away first
	foreign     result = "foreign"     // a link led where it may not
)

type metrics struct {
	requests    *prometheus.CounterVec // by kind and result
	unreachable prometheus.Counter
	seconds     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	auto := promauto.With(reg)
	m := metrics{
		requests: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_upstream_requests_total",
			Help: "Requests to HTTP origins, by kind and how they ended.",
		}, []string{"kind", "result"}),
		unreachable: auto.NewCounter(prometheus.CounterOpts{
			Name: "spillway_upstream_targets_unreachable_total",
			Help: "Times a target could not be connected and the next one was tried, if any.",
		}),
		seconds: auto.NewHistogram(prometheus.HistogramOpts{
			Name:    "spillway_upstream_response_seconds",
			Help:    "Time from a request to the head of the origin's response.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
	}
	for _, k := range []kind{kindRequest, kindLink, kindEvents, kindSocket, kindFilter, kindGone} {
		for _, r := range []result{answered, unreachable, broken, canceled, foreign} {
			m.requests.WithLabelValues(string(k), string(r))
		}
	}
	return m
}
