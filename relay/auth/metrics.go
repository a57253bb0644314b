package auth

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	tokens map[string]prometheus.Counter // by what they are worth

	asked, cached, shared        prometheus.Counter
	allowed, denied, unavailable prometheus.Counter
	seconds                      prometheus.Histogram

	fetchesOK, fetchesFailed prometheus.Counter
}

func newMetrics(a *Authenticator, reg prometheus.Registerer) *metrics {
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_auth_tokens_total", Help: "JWTs that were looked at, by what they are worth: ok, missing, expired, refused, or unavailable where their keys cannot be had.",
	}, []string{"result"})
	questions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_auth_questions_total", Help: "Questions to AUTH_URL, by where the answer came from: asked, cached, or shared with an equal question at the same time.",
	}, []string{"from"})
	answers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_auth_answers_total", Help: "Answers of AUTH_URL: allowed, denied, or unavailable where there was none or one that says neither.",
	}, []string{"result"})
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_auth_key_fetches_total", Help: "Times that keys of JWTs were fetched, by result.",
	}, []string{"result"})
	m := &metrics{
		tokens:      make(map[string]prometheus.Counter),
		asked:       questions.WithLabelValues("asked"),
		cached:      questions.WithLabelValues("cached"),
		shared:      questions.WithLabelValues("shared"),
		allowed:     answers.WithLabelValues("allowed"),
		denied:      answers.WithLabelValues("denied"),
		unavailable: answers.WithLabelValues("unavailable"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "spillway_auth_answer_seconds", Help: "Time until AUTH_URL had answered, with the wait for one's turn.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		fetchesOK:     fetches.WithLabelValues("ok"),
		fetchesFailed: fetches.WithLabelValues("failed"),
	}
	for _, worth := range []string{tokenOK, tokenMissing, tokenExpired, tokenRefused, tokenUnavailable} {
		m.tokens[worth] = tokens.WithLabelValues(worth)
	}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	if a.cfg.ByJWT() {
		reg.MustRegister(tokens, fetches, gauge("spillway_auth_keys", "Keys that JWTs are verified by.", func() float64 { return float64(a.tokens.count()) }))
	}
	if a.api != nil {
		cache := func(value func() int) func() float64 {
			return func() float64 {
				a.api.mu.Lock()
				defer a.api.mu.Unlock()
				return float64(value())
			}
		}
		reg.MustRegister(questions, answers, m.seconds,
			gauge("spillway_auth_cache_entries", "Answers of AUTH_URL that are kept; AUTH_CACHE_ENTRIES bounds them.", cache(func() int { return len(a.api.answers) })),
			gauge("spillway_auth_cache_bytes", "Bytes of these, about; AUTH_CACHE_BYTES bounds them.", cache(func() int { return a.api.bytes })),
		)
	}
	return m
}
