package gateway

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// returns gives connections back to net/http, which accepts them like new ones.
// They are those of long polls that have their answer: net/http writes it, and
// the client goes on with its next request.
type returns struct {
	mu      sync.Mutex
	some    *sync.Cond // on mu: one waits, or this is the end
	waiting []*poll    // guarded by mu; each is a connection that was counted
	closed  bool       // guarded by mu
}

func newReturns() *returns {
	l := &returns{}
	l.some = sync.NewCond(&l.mu)
	return l
}

// push reports false when nobody accepts any more.
func (l *returns) push(p *poll) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.waiting = append(l.waiting, p)
	l.some.Signal()
	return true
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

func (l *returns) pop() (*poll, error) {
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
	left := l.waiting
	l.waiting, l.closed = nil, true
	l.some.Broadcast()
	l.mu.Unlock()
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
	if c, ok := nc.(*returned); ok {
		return c.first
	}
	return nil
}

// bareConn is a connection without what counts it, and what that is.
func bareConn(nc net.Conn) (net.Conn, *atomic.Int64) {
	if c, ok := nc.(*returned); ok {
		nc = c.Conn
	}
	if c, ok := nc.(*cappedConn); ok {
		return c.Conn, c.open
	}
	return nc, nil
}
