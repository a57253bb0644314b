package cache

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A result is how a request was answered; a metric label.
type result string

const (
	resultHit   result = "hit"   // with what was kept
	resultStale result = "stale" // with what was kept and is stale, as its origin allows
	resultWait  result = "wait"  // together with another
	resultMiss  result = "miss"  // by the origin, for all who waited
	resultPass  result = "pass"  // by the origin, for this client alone
)

// A purgeReason is why answers were dropped, or made stale; a metric label.
type purgeReason string

const (
	purgedByRequest purgeReason = "request" // PURGE
	purgedByPublish purgeReason = "publish" // something was published on a channel that they hold
	purgedByMethod  purgeReason = "method"  // a POST, PUT, … to the same URL
)

type metrics struct {
	results map[result]prometheus.Counter
	purged  map[purgeReason]prometheus.Counter
	evicted prometheus.Counter
}

func (m *metrics) count(r result) { m.results[r].Inc() }

func newMetrics(c *Cache, reg prometheus.Registerer) *metrics {
	with := promauto.With(reg)
	m := &metrics{
		results: make(map[result]prometheus.Counter),
		purged:  make(map[purgeReason]prometheus.Counter),
		evicted: with.NewCounter(prometheus.CounterOpts{Name: "spillway_cache_evictions_total",
			Help: "Answers that were dropped to make room for others."}),
	}
	results := with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_cache_requests_total",
		Help: "Requests by routes with a cache, by how they were answered."}, []string{"result"})
	for _, r := range []result{resultHit, resultStale, resultWait, resultMiss, resultPass} {
		m.results[r] = results.WithLabelValues(string(r))
	}
	purged := with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_cache_purges_total",
		Help: "Answers that were dropped or made stale before their time, by what did it."}, []string{"by"})
	for _, p := range []purgeReason{purgedByRequest, purgedByPublish, purgedByMethod} {
		m.purged[p] = purged.WithLabelValues(string(p))
	}
	with.NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_cache_bytes",
		Help: "What the answers that are kept, or on their way, take."}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.bytes)
	})
	with.NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_cache_urls",
		Help: "URLs of which answers are kept."}, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(len(c.records))
	})
	return m
}
