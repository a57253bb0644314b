package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A cappedListener accepts clients within limits: so many connections at once, so
// many of them that ask for nothing, and so many new ones of an address.
type cappedListener struct {
	net.Listener
	most      int64
	open      atomic.Int64
	idle      *lobby
	pace      *paces // of new connections; nil: any number
	trusted   []netip.Prefix
	encrypted bool // what is said without TLS is not understood
	presented *presentation
	refused   map[refusal]prometheus.Counter
	shared    seat // of all connections whose client is their peer
}

// A seat is what the listener knows of a connection for as long as it is open,
// whoever has it.
type seat struct {
	of     *cappedListener
	client net.Addr // as the PROXY protocol says; nil: the peer
}

func (s *seat) leave() { s.of.open.Add(-1) }

// again is the connection of a seat when net/http gets it back.
func (s *seat) again(nc net.Conn) net.Conn {
	c := &cappedConn{Conn: nc, seat: s}
	c.phase.Store(phaseIdle)
	return c
}

func listen(l net.Listener, most int, idle *lobby, refused map[refusal]prometheus.Counter) *cappedListener {
	c := &cappedListener{Listener: l, most: int64(most), idle: idle, refused: refused}
	c.shared.of = c
	return c
}

func (l *cappedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return conn, err
		}
		if c := l.admit(conn); c != nil {
			return c, nil
		}
		_ = conn.Close()
	}
}

// Close ends Accept, where it waits for room as well.
func (l *cappedListener) Close() error {
	l.idle.end()
	return l.Listener.Close()
}

// admit counts a new connection; nil: it is to be closed.
func (l *cappedListener) admit(nc net.Conn) net.Conn {
	if l.open.Add(1) > l.most {
		l.open.Add(-1)
		l.refused[refusedSocket].Inc()
		return nil
	}
	c := &cappedConn{Conn: nc, seat: &l.shared}
	peer := addressIn(nc.RemoteAddr().String())
	switch {
	case l.presented != nil:
		c.seat = &seat{of: l}
		c.Conn = &presented{Conn: nc, by: c, trusted: isTrusted(peer, l.trusted)}
	case isTrusted(peer, l.trusted): // it has the connections of many
	case !c.keepsPace(peer):
		l.open.Add(-1)
		return nil
	}
	l.idle.wait(c)
	return c
}

// A cappedConn counts as open until it is closed, or until who has taken it over
// says so.
type cappedConn struct {
	net.Conn
	seat *seat
	once sync.Once

	hasty bool          // its address has made too many of late: it is served with a refusal
	phase atomic.Uint32 // see phases

	// Guarded by lobby.mu.
	before, after *cappedConn
	since         time.Time // zero: it is not in the lobby
}

// The phases of a connection, as far as its requests go.
const (
	phaseNew     = iota // nothing has come yet
	phaseHead           // some of a request, or of a TLS handshake
	phaseRequest        // a request is being served
	phaseIdle           // there was one, and its answer is out
)

// keepsPace takes a new connection of an address into account. It reports false
// where there are so many that the connection is not even told.
func (c *cappedConn) keepsPace(client netip.Addr) bool {
	l := c.seat.of
	switch l.pace.take(addressOf(network(client)), time.Now()) {
	case overPace:
		c.hasty = true
	case farOverPace:
		l.refused[refusedConnectRate].Inc()
		return false
	}
	return true
}

// NetConn is for who takes the connection over.
func (c *cappedConn) NetConn() net.Conn { return c.Conn }

func (c *cappedConn) Close() error {
	c.once.Do(func() {
		c.seat.leave()
		c.seat.of.idle.leave(c)
	})
	return c.Conn.Close()
}

// RemoteAddr is the client's, as far as we know.
func (c *cappedConn) RemoteAddr() net.Addr {
	if p, ok := c.Conn.(*presented); ok {
		p.introduce()
	}
	return c.client()
}

// client is RemoteAddr without a wait for whoever says it.
func (c *cappedConn) client() net.Addr {
	if c.seat.client != nil {
		return c.seat.client
	}
	if p, ok := c.Conn.(*presented); ok {
		return p.Conn.RemoteAddr()
	}
	return c.Conn.RemoteAddr()
}

func (c *cappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	phase := c.phase.Load()
	if n > 0 && (phase == phaseNew || phase == phaseIdle) {
		c.phase.CompareAndSwap(phase, phaseHead)
	}
	if err != nil && phase < phaseRequest && errors.Is(err, os.ErrDeadlineExceeded) {
		c.seat.of.refused[refusedHeadTime].Inc()
		if phase == phaseHead {
			c.say(http.StatusRequestTimeout, "the head of a request takes too long")
		}
	}
	return n, err
}

// say answers in place of net/http, which then finds the connection at its end.
func (c *cappedConn) say(status int, text string) {
	if !c.seat.of.encrypted {
		sayAndClose(c.Conn, status, text)
	}
}

// sayAndClose writes a last answer. What the client has sent meanwhile is read for
// a moment, since a connection that is closed with bytes unread loses what was
// written.
func sayAndClose(nc net.Conn, status int, text string) {
	for {
		under, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		nc = under.NetConn()
	}
	_ = nc.SetDeadline(time.Now().Add(lastWord))
	if _, err := fmt.Fprintf(nc, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n%s\n", status, http.StatusText(status), text); err != nil {
		return
	}
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, nc, 64<<10)
	}
}

// lastWord is how long a last answer may take.
const lastWord = 500 * time.Millisecond

// cappedOf finds the listener's part of a connection; nil: it has none.
func cappedOf(nc net.Conn) *cappedConn {
	for {
		if c, ok := nc.(*cappedConn); ok {
			return c
		}
		under, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = under.NetConn()
	}
}

// changed is told by net/http what a connection is at.
func (l *lobby) changed(nc net.Conn, state http.ConnState) {
	c := cappedOf(nc)
	if c == nil {
		return
	}
	switch state {
	case http.StateActive:
		c.phase.Store(phaseRequest)
		l.leave(c)
	case http.StateIdle:
		c.phase.Store(phaseIdle)
		l.enter(c)
	case http.StateHijacked, http.StateClosed:
		l.leave(c)
	}
}

// A lobby is the connections on which no request is being served: those that have
// yet to make one, and those that have their answer. Each takes the memory and the
// goroutine that net/http has for it. When there are too many, the one that has
// been there longest is closed.
type lobby struct {
	most   int
	grace  time.Duration // how long a connection may be there in any case
	closed prometheus.Counter
	room   chan struct{} // has one when somebody has left
	over   chan struct{} // closed in the end
	once   sync.Once

	mu          sync.Mutex
	count       int         // guarded by mu
	first, last *cappedConn // by how long they have been there; guarded by mu
}

// requestTime is what it takes, at worst, to begin with a request that is there.
const requestTime = 200 * time.Microsecond

func newLobby(most int, closed prometheus.Counter) *lobby {
	// When many clients come at once, they are slow because we are: new ones wait as
	// long as we may take for those who are here.
	grace := min(max(time.Duration(most)*requestTime, 100*time.Millisecond), 2*time.Second)
	return &lobby{most: most, grace: grace, closed: closed, room: make(chan struct{}, 1), over: make(chan struct{})}
}

// wait lets a new connection in when there is room for it.
func (l *lobby) wait(c *cappedConn) {
	for {
		now := time.Now()
		l.mu.Lock()
		if l.count < l.most {
			l.add(c, now)
			l.mu.Unlock()
			return
		}
		oldest := l.first
		rest := l.grace - now.Sub(oldest.since)
		if rest <= 0 {
			l.remove(oldest)
		}
		l.mu.Unlock()
		if rest <= 0 {
			l.closed.Inc()
			_ = oldest.Conn.Close() // net/http finds out
			continue
		}
		timer := time.NewTimer(rest)
		select {
		case <-l.room:
			timer.Stop()
		case <-timer.C:
		case <-l.over:
			timer.Stop()
			return
		}
	}
}

// enter lets a connection in that has its answer. It does not wait: there may be
// more than there should be, until a new one comes.
func (l *lobby) enter(c *cappedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.since.IsZero() {
		l.add(c, time.Now())
	}
}

// leave lets a connection out. Leaving twice is fine.
func (l *lobby) leave(c *cappedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.since.IsZero() {
		return
	}
	l.remove(c)
	select {
	case l.room <- struct{}{}:
	default:
	}
}

// add is called with l.mu, as remove is.
func (l *lobby) add(c *cappedConn, now time.Time) {
	c.since, c.before, c.after = now, l.last, nil
	if l.last != nil {
		l.last.after = c
	} else {
		l.first = c
	}
	l.last = c
	l.count++
}

func (l *lobby) remove(c *cappedConn) {
	if c.before != nil {
		c.before.after = c.after
	} else {
		l.first = c.after
	}
	if c.after != nil {
		c.after.before = c.before
	} else {
		l.last = c.before
	}
	c.since, c.before, c.after = time.Time{}, nil, nil
	l.count--
}

// size is how many there are.
func (l *lobby) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// end lets whoever waits go. Ending twice is fine.
func (l *lobby) end() { l.once.Do(func() { close(l.over) }) }
