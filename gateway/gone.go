package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"spillway/gateway/route"
	"spillway/grip"
)

const (
	goneTimeout = 10 * time.Second
	goneWorkers = 32     // farewells on their way at a time
	maxFarewell = 10_000 // that wait
)

// A farewell is a gone link that is to be asked when its session ends (GRIP
// reference, 2.3).
type farewell struct {
	url   string
	base  *url.URL
	route *route.Route
}

// newFarewell returns the one of a first response; nil: it has none.
func newFarewell(ins *grip.Instruct, from source) *farewell {
	s, ok := from.(*httpSource)
	if ins.Gone == nil || !ok {
		return nil
	}
	return &farewell{ins.Gone.URL, s.base, s.route}
}

// farewells are those to be said: in turn, by few goroutines, once and without
// much ado.
type farewells struct {
	g *Gateway

	mu      sync.Mutex
	waiting []*farewell // guarded by mu
	workers int         // guarded by mu

	said, failed, dropped prometheus.Counter
}

func newFarewells(g *Gateway, reg prometheus.Registerer) *farewells {
	counter := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_gone_links_total",
		Help: "Gone links of sessions that have ended, by what became of the request: answered, failed, or dropped, because too many waited.",
	}, []string{"result"})
	return &farewells{g: g, said: counter.WithLabelValues("answered"), failed: counter.WithLabelValues("failed"), dropped: counter.WithLabelValues("dropped")}
}

// say asks a gone link soon; nil is none. It does not block. While we shut down
// nothing is said: the session has not ended for the origin's sake.
func (f *farewells) say(link *farewell) {
	if link == nil || f.g.drain.begun() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) >= maxFarewell {
		f.dropped.Inc()
		return
	}
	f.waiting = append(f.waiting, link)
	if f.workers < goneWorkers {
		f.workers++
		f.g.drain.spawn(f.work) // ends when nothing waits
	}
}

func (f *farewells) work() {
	for {
		f.mu.Lock()
		if len(f.waiting) == 0 {
			f.waiting = nil
			f.workers--
			f.mu.Unlock()
			return
		}
		link := f.waiting[0]
		f.waiting = f.waiting[1:]
		f.mu.Unlock()
		if err := f.ask(link); err != nil {
			f.failed.Inc()
			f.g.log.Debug("a gone link failed", "url", link.url, "err", err)
			continue
		}
		f.said.Inc()
	}
}

func (f *farewells) ask(link *farewell) error {
	ctx, cancel := context.WithTimeout(f.g.base, goneTimeout)
	defer cancel()
	resp, err := f.g.upstream.DoGone(ctx, link.url, link.base, link.route)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	if n, err := io.CopyN(io.Discard, resp.Body, 1); n > 0 {
		return errors.New("the answer is not empty")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
