package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A comingBody is that of a client's request, which must not pause longer than
// BODY_TIMEOUT. Time in which nobody reads does not count.
type comingBody struct {
	io.ReadCloser
	control *http.ResponseController
	shared  bool // the connection has other requests, too (HTTP/2)
	pause   time.Duration
	stalled prometheus.Counter

	mu       sync.Mutex
	deadline time.Time // the newest that was set; guarded by mu
	reading  bool      // Read waits for the client; guarded by mu
	ended    bool      // nothing more comes; guarded by mu
	late     bool      // since nothing came in time; guarded by mu
	broken   bool      // since what came is no body; guarded by mu
	over     bool      // the handler has returned: the deadlines are net/http's; guarded by mu
}

// patience bounds the pauses of a request's body.
func (o *output) patience(g *Gateway) {
	if r := o.request; r.Body != nil && r.Body != http.NoBody {
		o.coming = &comingBody{
			ReadCloser: r.Body, control: o.control, shared: r.ProtoMajor >= 2,
			pause: g.cfg.BodyTimeout, stalled: g.metrics.refused[refusedBodyTime],
		}
		r.Body = o.coming
	}
}

func (b *comingBody) Read(p []byte) (int, error) {
	b.expect()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	switch {
	case b.ended:
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.giveUp()
	case err != nil:
		b.ended, b.broken = true, !errors.Is(err, io.EOF)
		b.wait(time.Time{}) // what becomes of the connection has nothing to do with it
	case b.shared:
		b.wait(time.Time{}) // a stream is reset when its time is over, reading or not
	}
	return n, err
}

// expect bounds the next read. One bound that was set a moment ago will do.
func (b *comingBody) expect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = true
	if at := time.Now().Add(b.pause); b.shared || at.Sub(b.deadline) > b.pause/16 {
		b.deadline = at
		b.wait(at)
	}
}

// wait is called with b.mu.
func (b *comingBody) wait(until time.Time) {
	if !b.over {
		_ = b.control.SetReadDeadline(until)
	}
}

// giveUp is called with b.mu.
func (b *comingBody) giveUp() {
	b.ended, b.late = true, true
	b.stalled.Inc()
}

// isWhole reports whether all of it has come.
func (b *comingBody) isWhole() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && !b.late && !b.broken
}

// isBroken reports whether the client has sent something that is no body, or left.
func (b *comingBody) isBroken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// leave is called when the handler returns, and reports whether it was for want of a
// body. Where the connection stays with net/http, that reads the rest.
//
// net/http cancels the request's context before it returns the error of a read, so
// that the handler may be here before Read is: the time tells.
func (b *comingBody) leave(stays bool) (late bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading && !b.ended && !b.shared && !time.Now().Before(b.deadline) {
		b.giveUp()
	}
	if stays && !b.ended && !b.shared {
		b.wait(time.Now().Add(b.pause))
	}
	b.over = true
	return b.late
}
