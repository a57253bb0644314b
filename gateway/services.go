package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"spillway/gateway/fanout"
	"spillway/grip"
)

const (
	// serviceTimeout bounds a question to a service, and its wait to be asked:
	// so at most serviceRate times as many seconds of questions wait.
	serviceTimeout = 10 * time.Second
	serviceRate    = 100 // questions a second and URL
	serviceBurst   = 10

	// maxServices is how many URLs are known at a time: those asked lately.
	maxServices = 10_000
)

// services are asked about items by the filters http-check and http-modify (GRIP
// reference, 6.2). Whoever asks the same at the same time shares the answer.
type services struct {
	g       *Gateway
	flights singleflight.Group

	mu    sync.Mutex
	rates map[string]*rate.Limiter // by URL; guarded by mu

	verdicts *prometheus.CounterVec
}

// A verdict is what a service says of an item. It is a metric label.
type verdict string

const (
	verdictPass   verdict = "pass"
	verdictChange verdict = "change"
	verdictDrop   verdict = "drop"
	verdictError  verdict = "error"
)

func newServices(g *Gateway, reg prometheus.Registerer) *services {
	s := &services{g: g, rates: make(map[string]*rate.Limiter)}
	s.verdicts = promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_filter_verdicts_total",
		Help: "Answers of the services that http-check and http-modify ask, by what they say of the item.",
	}, []string{"verdict"})
	for _, v := range []verdict{verdictPass, verdictChange, verdictDrop, verdictError} {
		s.verdicts.WithLabelValues(string(v))
	}
	return s
}

// An opinion is a service's answer.
type opinion struct {
	verdict verdict
	content []byte
}

// ask asks the service that the metadata of a subscription names about an item.
// content is for http-modify; nil: http-check. It returns what the item's content
// is now.
func (s *services) ask(f *filter, meta map[string]string, it *fanout.Passing, content []byte) (changed []byte, ok bool, err error) {
	address, err := serviceURL(meta["url"], f.base)
	if err != nil {
		s.verdicts.WithLabelValues(string(verdictError)).Inc()
		return nil, false, err
	}
	header := make(http.Header)
	header.Set("Sub-Meta", metaText(meta))
	header.Set("Pub-Meta", metaText(it.Meta))
	var lasts []grip.Last
	for _, l := range it.Lasts {
		if l.ID != "" {
			lasts = append(lasts, grip.Last{Channel: strings.TrimPrefix(l.Channel, f.prefix), ID: l.ID})
		}
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %p %t %q %q %q %q", address, f.route, content != nil, header["Sub-Meta"], header["Pub-Meta"], lasts, content)
	answer, err, _ := s.flights.Do(string(h.Sum(nil)), func() (any, error) {
		o, err := s.request(f, address, header, content, lasts)
		if err != nil {
			o.verdict = verdictError
		}
		s.verdicts.WithLabelValues(string(o.verdict)).Inc()
		return o, err
	})
	if err != nil {
		return nil, false, err
	}
	switch o := answer.(opinion); o.verdict {
	case verdictDrop:
		return nil, false, nil
	case verdictChange:
		return o.content, true, nil
	default:
		return content, true, nil
	}
}

func (s *services) request(f *filter, address string, header http.Header, content []byte, lasts []grip.Last) (o opinion, err error) {
	ctx, cancel := context.WithTimeout(s.g.base, serviceTimeout)
	defer cancel()
	if err := s.turn(ctx, address); err != nil {
		return o, fmt.Errorf("%s: %w", address, err)
	}
	resp, err := s.g.upstream.DoFilter(ctx, address, f.base, f.route, header, content, lasts)
	if err != nil {
		return o, fmt.Errorf("%s: %w", address, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
		return o, fmt.Errorf("%s: status %d, neither 200 nor 204", address, resp.StatusCode)
	case resp.Header.Get("Action") == "drop":
		return opinion{verdict: verdictDrop}, nil
	case content == nil || resp.StatusCode == http.StatusNoContent:
		return opinion{verdict: verdictPass}, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, grip.MaxHoldBody+1))
	switch {
	case err != nil:
		return o, fmt.Errorf("%s: %w", address, err)
	case len(body) > grip.MaxHoldBody:
		return o, fmt.Errorf("%s: the answer must not exceed %d bytes", address, grip.MaxHoldBody)
	}
	return opinion{verdictChange, body}, nil
}

// turn waits until a URL may be asked once more.
func (s *services) turn(ctx context.Context, address string) error {
	s.mu.Lock()
	r := s.rates[address]
	if r == nil {
		if len(s.rates) >= maxServices {
			for address, r := range s.rates { // who is rested is as good as new
				if r.Tokens() >= serviceBurst {
					delete(s.rates, address)
				}
			}
		}
		if len(s.rates) >= maxServices {
			s.mu.Unlock()
			return errors.New("too many services are being asked")
		}
		r = rate.NewLimiter(serviceRate, serviceBurst)
		s.rates[address] = r
	}
	s.mu.Unlock()
	return r.Wait(ctx)
}

// serviceURL is where a subscription's service is.
func serviceURL(ref string, base *url.URL) (string, error) {
	if ref == "" {
		return "", errors.New("there is no url in the metadata")
	}
	u, err := base.Parse(ref)
	if err != nil {
		return "", fmt.Errorf("url: %w", err)
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	}
	return u.String(), nil
}

// metaText is metadata as a JSON object, for a header.
func metaText(meta map[string]string) string {
	if len(meta) == 0 {
		return "{}"
	}
	b, _ := json.Marshal(meta) // strings always can be
	return string(b)
}
