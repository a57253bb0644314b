package registry

import "github.com/prometheus/client_golang/prometheus"

// What a look-up came to.
const (
	lookupKnown   = "known"   // the schema was in memory
	lookupAsked   = "asked"   // the registry was asked, or is being asked
	lookupRefused = "refused" // not asked: it failed a short while ago
)

type metrics struct {
	known, asked, refused prometheus.Counter
	fetches               map[Reason]prometheus.Counter // "" for those that brought a schema
	undecodable           map[Reason]prometheus.Counter
	seconds               prometheus.Histogram
}

func newMetrics(r *Registry, reg prometheus.Registerer) *metrics {
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_schema_lookups_total", Help: "Schemas that keys and values named, by whether they were in memory (known), the registry was asked for them, or not because it had failed to bring them a short while ago (refused).",
	}, []string{"result"})
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_schema_fetches_total", Help: "Schemas that the registry was asked for, by what came of it.",
	}, []string{"result"})
	undecodable := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_schema_undecodable_total", Help: "Keys and values that could not be decoded, by the reason.",
	}, []string{"reason"})
	m := &metrics{
		known:   lookups.WithLabelValues(lookupKnown),
		asked:   lookups.WithLabelValues(lookupAsked),
		refused: lookups.WithLabelValues(lookupRefused),
		fetches: map[Reason]prometheus.Counter{"": fetches.WithLabelValues("ok")},
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "spillway_schema_fetch_seconds", Help: "Time that a schema took to be there: the registry's answers, and making it ready.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		undecodable: make(map[Reason]prometheus.Counter),
	}
	for _, why := range []Reason{UnknownSchema, Unavailable, UnusableSchema} {
		m.fetches[why] = fetches.WithLabelValues(string(why))
	}
	for _, why := range Reasons {
		m.undecodable[why] = undecodable.WithLabelValues(string(why))
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			return float64(value())
		})
	}
	if reg != nil {
		reg.MustRegister(lookups, fetches, undecodable, m.seconds,
			gauge("spillway_schema_cache_entries", "Schemas held; SCHEMA_CACHE_ENTRIES bounds them.", func() int { return len(r.known) }),
			gauge("spillway_schema_cache_bytes", "Bytes of schemas held, about; SCHEMA_CACHE_BYTES bounds them.", func() int { return r.bytes }),
		)
	}
	return m
}
