package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"spillway/gateway/route"
	"spillway/grip"
)

// links lets streams that ask the same next link at the same time share one
// request (GRIP reference, 7.2): it has nothing of a client. Who asks while a
// request is under way shares the next one, so that nobody is given what the origin
// knew before.
type links struct {
	g          *Gateway
	gatherTime time.Duration // how long those wait who come while a request is under way
	sharedTime time.Duration // how long the body of an answer may take that is for several

	mu    sync.Mutex
	lines map[string]*line // that are being asked; guarded by mu

	shared prometheus.Counter
}

// A line is those who ask one link.
type line struct {
	running int       // requests under way
	next    *together // those who wait for the next one; nil: nobody does
}

// A together is one request for several.
type together struct {
	waiting int         // who has not left; guarded by links.mu
	cancel  func()      // ends the request; nil: it has not begun; guarded by links.mu
	late    *time.Timer // makes it begin

	done chan struct{} // closed when the rest is set
	resp *http.Response
	body []byte
	err  error
}

// errNotShared says that an answer is too large for several, or too slow.
var errNotShared = errors.New("the answer cannot be shared")

func newLinks(g *Gateway, reg prometheus.Registerer) *links {
	shared := promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "spillway_links_shared_total",
		Help: "Next links of HTTP origins that were answered by a request for another stream, which asked the same at the same time.",
	})
	return &links{g: g, gatherTime: time.Second, sharedTime: 2 * time.Second, lines: make(map[string]*line), shared: shared}
}

// linkKey tells the requests apart that links make.
func linkKey(u *url.URL, rt *route.Route, lasts []grip.Last) string {
	return fmt.Sprintf("%p %s %q", rt, u, lasts)
}

// do makes a request, or has a part in one.
func (l *links) do(ctx context.Context, key string, ask func(context.Context) (*http.Response, error)) (*http.Response, error) {
	l.mu.Lock()
	ln := l.lines[key]
	if ln == nil {
		l.lines[key] = &line{running: 1}
		l.mu.Unlock()
		defer l.answered(key, ask)
		return ask(ctx)
	}
	t := ln.next
	if t == nil {
		t = &together{done: make(chan struct{})}
		ln.next = t
		t.late = time.AfterFunc(l.gatherTime, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if ln.next == t {
				l.begin(key, ln, ask)
			}
		})
	}
	t.waiting++
	l.mu.Unlock()
	select {
	case <-t.done:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.waiting--; t.waiting == 0 && t.cancel != nil {
			t.cancel()
		}
		return nil, context.Cause(ctx)
	}
	switch {
	case errors.Is(t.err, errNotShared):
		return ask(ctx)
	case t.err != nil:
		return nil, t.err
	}
	resp := *t.resp
	resp.Header, resp.Body = t.resp.Header.Clone(), io.NopCloser(bytes.NewReader(t.body))
	return &resp, nil
}

// answered is called when a request has its answer: those who came meanwhile make
// theirs.
func (l *links) answered(key string, ask func(context.Context) (*http.Response, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln := l.lines[key]
	ln.running--
	switch {
	case ln.next != nil:
		l.begin(key, ln, ask)
	case ln.running == 0:
		delete(l.lines, key)
	}
}

// begin makes the next request of a line. It is called with l.mu.
func (l *links) begin(key string, ln *line, ask func(context.Context) (*http.Response, error)) {
	t := ln.next
	ln.next = nil
	ln.running++
	t.late.Stop()
	ctx, cancel := context.WithCancel(l.g.base)
	t.cancel = cancel
	if t.waiting == 0 {
		cancel()
	}
	l.g.drain.spawn(func() { // ends with the request
		defer l.answered(key, ask)
		defer cancel()
		t.run(ctx, cancel, l.sharedTime, ask)
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.err == nil && t.waiting > 1 {
			l.shared.Add(float64(t.waiting - 1))
		}
		close(t.done)
	})
}

// run makes the request, and reads all of the answer, for which there is so much
// time.
func (t *together) run(ctx context.Context, cancel func(), d time.Duration, ask func(context.Context) (*http.Response, error)) {
	resp, err := ask(ctx)
	if err != nil {
		t.err = err
		return
	}
	defer resp.Body.Close()
	late := time.AfterFunc(d, cancel)
	defer late.Stop()
	t.resp = resp
	t.body, t.err = readStart(resp.Body, true)
	switch {
	case errors.Is(t.err, io.EOF):
		t.err = nil
	case errors.Is(t.err, errLargeBody), ctx.Err() != nil:
		t.err = errNotShared
	}
}
