package gateway

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"spillway/gateway/fanout"
)

// returns gives connections back to net/http, which accepts them like new ones.
// They are those of long polls that have their answer, which net/http writes, and
// of streams that have ended; the client goes on with its next request.
type returns struct {
	mu      sync.Mutex
	some    *sync.Cond            // on mu: one waits, or this is the end
	waiting []leaver              // guarded by mu; each has a connection that was counted
	resting map[*resting]struct{} // guarded by mu
	closed  bool                  // guarded by mu
}

// A leaver has a connection that the engine has returned.
type leaver interface {
	// back is the connection as net/http gets it; nil where it is lost.
	back() net.Conn
}

func newReturns() *returns {
	l := &returns{resting: make(map[*resting]struct{})}
	l.some = sync.NewCond(&l.mu)
	return l
}

// push reports false when nobody accepts any more.
func (l *returns) push(p leaver) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.waiting = append(l.waiting, p)
	l.some.Signal()
	return true
}

// comeBack gives a connection back to net/http.
func (g *Gateway) comeBack(p leaver) {
	if !g.returns.push(p) {
		if c := p.back(); c != nil {
			_ = c.Close()
		}
	}
}

// Accept implements net.Listener.
func (l *returns) Accept() (net.Conn, error) {
	for {
		p, err := l.pop()
		if err != nil {
			return nil, err
		}
		if c := p.back(); c != nil {
			return c, nil
		}
	}
}

func (l *returns) pop() (leaver, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) == 0 {
		if l.closed {
			return nil, net.ErrClosed
		}
		l.some.Wait()
	}
	p := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return p, nil
}

// Close implements net.Listener. Closing twice is fine.
func (l *returns) Close() error {
	l.mu.Lock()
	left, quiet := l.waiting, l.resting
	l.waiting, l.resting, l.closed = nil, nil, true
	l.some.Broadcast()
	l.mu.Unlock()
	for c := range quiet {
		_ = c.Conn.Close()
	}
	for _, p := range left {
		if c := p.back(); c != nil {
			_ = c.Close()
		}
	}
	return nil
}

// Addr implements net.Listener.
func (l *returns) Addr() net.Addr { return returnsAddr{} }

type returnsAddr struct{}

func (returnsAddr) Network() string { return "returns" }
func (returnsAddr) String() string  { return "returns" }

// A returned is a connection that net/http has again. The first that it reads is
// a request of ours, whose answer is that of the poll.
type returned struct {
	net.Conn
	first []byte // to be read before what comes from the client
	poll  atomic.Pointer[poll]
}

// NetConn is for who takes the connection over.
func (c *returned) NetConn() net.Conn { return c.Conn }

func (c *returned) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// Close also ends the poll, where no handler has come for it.
func (c *returned) Close() error {
	if p := c.poll.Swap(nil); p != nil {
		p.abandon()
	}
	return c.Conn.Close()
}

type returnedKey struct{}

// withReturned lets the handlers of a connection know that it was returned.
func withReturned(ctx context.Context, c net.Conn) context.Context {
	if r, ok := c.(*returned); ok {
		return context.WithValue(ctx, returnedKey{}, r)
	}
	return ctx
}

// returnedPoll is the poll that a request of ours is to be answered with; nil for
// the requests of clients.
func returnedPoll(r *http.Request) *poll {
	c, ok := r.Context().Value(returnedKey{}).(*returned)
	if !ok {
		return nil
	}
	return c.poll.Swap(nil)
}

// unread is what a client has said that not even net/http has read yet.
func unread(nc net.Conn) []byte {
	switch c := nc.(type) {
	case *returned:
		return c.first
	case *cappedConn:
		if p, ok := c.Conn.(*presented); ok {
			return p.rest
		}
	}
	return nil
}

// bareConn is a connection without what counts it, and what that is.
func bareConn(nc net.Conn) (net.Conn, *seat) {
	if c, ok := nc.(*returned); ok {
		nc = c.Conn
	}
	if c, ok := nc.(*cappedConn); ok {
		return c.Conn, c.seat
	}
	return nc, nil
}

// A finished is the connection of a stream that has ended. It is ready for the
// client's next request.
type finished struct {
	g    *Gateway
	conn *fanout.Conn
	seat *seat // of the connection, which is counted; or nil
}

func (f *finished) back() net.Conn {
	nc, err := f.conn.Net()
	if err == nil {
		nc, err = f.g.returns.rest(nc)
	}
	switch {
	case err == nil && f.seat != nil:
		return f.seat.again(nc)
	case err == nil:
		return nc
	case f.seat != nil:
		f.seat.leave()
	}
	return nil
}

// A resting connection has ended its stream, and its client has asked for nothing
// since. To net/http it is new, and new ones are not closed at once when a server
// ends; so the listener closes it.
type resting struct {
	net.Conn
	l    *returns
	rest atomic.Bool
}

// rest makes a connection rest, which fails when nobody accepts any more.
func (l *returns) rest(nc net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	c := &resting{Conn: nc, l: l}
	c.rest.Store(true)
	l.resting[c] = struct{}{}
	return c, nil
}

func (c *resting) over() {
	if c.rest.Swap(false) {
		c.l.mu.Lock()
		delete(c.l.resting, c)
		c.l.mu.Unlock()
	}
}

// NetConn is for who takes the connection over.
func (c *resting) NetConn() net.Conn { return c.Conn }

func (c *resting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.over()
	return n, err
}

func (c *resting) Close() error {
	c.over()
	return c.Conn.Close()
}
