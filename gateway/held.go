package gateway

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// A visit is a request that was counted in, until it is answered, or until the
// connection that it has become has ended.
type visit struct {
	g        *Gateway
	peer     *peer // whose requests are limited; nil: they are not
	reader   *reader
	seat     *seat // of the connection, once it is not net/http's; nil: not counted
	as       transport
	admitted bool // limits count it
}

// enter counts a request in.
func (g *Gateway) enter() visit {
	g.drain.enter()
	g.metrics.connections[byRequest].Inc()
	g.metrics.requests.Add(1)
	g.metrics.present.change(1)
	return visit{g: g, as: byRequest}
}

// become moves the visit to another transport.
func (v *visit) become(t transport) {
	v.g.metrics.connections[v.as].Dec()
	v.g.metrics.connections[t].Inc()
	v.as = t
}

// leave counts it out. Leaving twice is fine.
func (v *visit) leave() {
	g := v.g
	if g == nil {
		return
	}
	v.g = nil
	g.metrics.connections[v.as].Dec()
	g.metrics.present.change(-1)
	if v.admitted {
		g.limits.leave(v.peer)
	}
	g.limits.leaveSubject(v.reader)
	if v.seat != nil {
		v.seat.leave()
	}
	g.drain.leave()
}

// A held is a connection that the engine has: a stream, a long poll, or a
// WebSocket.
type held struct {
	g      *Gateway
	visit  visit
	client address
	conn   *fanout.Conn
	record *audited      // of AUDIT_LOG; nil: none
	gone   chan struct{} // closed in the end; nil where the connection was taken over

	mu     sync.Mutex
	over   bool      // the connection has ended; guarded by mu
	asking *question // guarded by mu
	result *ending   // by which we end it; nil: not yet; guarded by mu
}

// A question is work for a connection that is done on a goroutine.
type question struct {
	cancel context.CancelFunc
	other  *question // another one of the connection; nil: there is none
}

// ask returns a context that ends with the connection, or when done is called.
func (h *held) ask() (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(h.g.base)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		cancel()
		return ctx, cancel
	}
	q := &question{cancel, h.asking}
	h.asking = q
	return ctx, func() {
		cancel()
		h.mu.Lock()
		defer h.mu.Unlock()
		for at := &h.asking; *at != nil; at = &(*at).other {
			if *at == q {
				*at = q.other
				return
			}
		}
	}
}

// end notes how we end the connection; it reports false when that is decided
// already.
func (h *held) end(e ending) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.result != nil || h.over {
		return false
	}
	h.result = &e
	return true
}

// left is called when the connection has ended.
func (h *held) left(why fanout.Ending) {
	h.mu.Lock()
	h.over = true
	asking, result := h.asking, h.result
	h.asking = nil
	h.mu.Unlock()
	for q := asking; q != nil; q = q.other {
		q.cancel()
	}
	e := ending{reason: closedByClient, broken: true}
	switch {
	case result != nil:
		e = *result
	case why == fanout.Stalled:
		e.reason = closedStalled
	case why == fanout.TooBig:
		e.reason = closedMessageTooBig
	case why == fanout.Crowded:
		e.reason = closedForMemory
	case why == fanout.CutOff:
		e.reason = closedAborted
	}
	h.g.metrics.closed[e.reason].Inc()
	h.record.closed(e, h.conn)
	if e.err != nil {
		h.g.log.Debug("stream ended", "reason", e.reason, "err", e.err)
	}
	h.visit.leave()
	if h.gone != nil {
		close(h.gone)
	}
}

// keepAlive sets what is sent while the connection is quiet. On a WebSocket the
// last word of any of its streams counts.
func (h *held) keepAlive(k *grip.KeepAlive) {
	if h.conn.Framing() == fanout.Framed && k == nil {
		return
	}
	h.conn.SetKeepAlive(k)
}

// timeOver is the ending of a connection whose time has come.
func (h *held) timeOver() ending {
	if h.g.drain.begun() {
		return ending{reason: closedDraining}
	}
	return ending{reason: closedMaxAge}
}

// take makes the connection of out the engine's, which begins with conn.Start.
// Where wait is not nil, the engine writes through out, and the handler must not
// return before wait has.
func (h *held) take(out *output, o fanout.Options) (wait func()) {
	o.WriteTimeout = h.g.cfg.WriteTimeout
	if out.request.ProtoMajor < 2 {
		o.Framing = fanout.Chunked
		if !out.request.ProtoAtLeast(1, 1) {
			o.Framing = fanout.Plain
		}
		if nc, rw, err := out.hijack(); err == nil {
			o.Return = !out.request.Close && wasRead(out.request) && rw.Reader.Buffered() == 0 && len(unread(nc)) == 0
			h.takeOver(out, nc, o)
			return nil
		}
	}
	o.Framing = fanout.Plain
	h.gone = make(chan struct{})
	h.visit = out.handOver(nil)
	h.conn = h.g.engine.Adopt(through{out}, o)
	return func() {
		select {
		case <-h.gone:
		case <-out.request.Context().Done():
			h.conn.Left()
			<-h.gone
		}
	}
}

// takeOver makes a connection the engine's that net/http has no more. Where the engine
// has only its descriptor, the connection itself is never closed, and the visit counts
// it out.
func (h *held) takeOver(out *output, nc net.Conn, o fanout.Options) {
	conn, bare := h.g.engine.TakeBare(nc, o)
	if bare {
		h.visit = out.handOver(nc)
	} else {
		h.visit = out.handOver(nil)
		conn = h.g.engine.Adopt(nc, o)
	}
	h.conn = conn
}

// A through is a stream of HTTP/2, or whatever cannot be taken over: the engine
// writes through the response.
type through struct{ out *output }

func (t through) Write(p []byte) (int, error) {
	n, err := t.out.Write(p)
	if err == nil {
		err = t.out.flush()
	}
	return n, err
}

// SetWriteDeadline does nothing: out sets its own.
func (t through) SetWriteDeadline(time.Time) error { return nil }

// Close makes a Write that is going on fail.
func (t through) Close() error {
	_ = t.out.control.SetWriteDeadline(time.Unix(1, 0)) // where there are no deadlines, it blocks no longer than its client
	return nil
}

// abort cuts the client's connection, so that it can tell that the body is
// incomplete.
func abort() { panic(http.ErrAbortHandler) }
