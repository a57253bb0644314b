package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"spillway/gateway/route"
	"spillway/gateway/upstream"
	"spillway/gateway/ws"
	"spillway/grip"
)

// A proxied is a WebSocket to an HTTP origin (GRIP reference, 9): the partner of a
// session that has one of its own. Messages are passed on whole.
type proxied struct {
	socket  *upstream.Socket
	timeout time.Duration // how long the origin may take nothing, or leave a close without an answer
	closing atomic.Bool   // it was sent a close
	closed  atomic.Bool   // it has sent one
	left    atomic.Bool
	buf     []byte // of who gives
}

// goodBye is how long an origin may take to answer a close that nobody waits for.
const goodBye = 2 * time.Second

var proxiedManners = manners{pauseAt: 64 << 10}

// proxiedRules are what both sides of such WebSockets must keep to.
type proxiedRules struct{ client, origin ws.Rules }

func newProxiedRules(limit int) proxiedRules {
	return proxiedRules{client: ws.Rules{Limit: limit}, origin: ws.Rules{Limit: limit, FromServer: true}}
}

var (
	opOf = map[grip.EventType]ws.Op{
		grip.EventText: ws.OpText, grip.EventBinary: ws.OpBinary, grip.EventPing: ws.OpPing, grip.EventPong: ws.OpPong, grip.EventClose: ws.OpClose,
	}
	eventOf = map[ws.Op]grip.EventType{
		ws.OpText: grip.EventText, ws.OpBinary: grip.EventBinary, ws.OpPing: grip.EventPing, ws.OpPong: grip.EventPong, ws.OpClose: grip.EventClose,
	}
)

// give implements partner. What the origin says is heard by listen.
func (p *proxied) give(_ context.Context, said []grip.Event, _ int) (reply, error) {
	re := reply{accepted: contentOf(said)}
	p.buf = p.buf[:0]
	for _, e := range said {
		op, ok := opOf[e.Type]
		if !ok {
			continue // DISCONNECT: leave follows
		}
		if e.Type == grip.EventClose {
			re.askAfter = p.timeout
			p.closing.Store(true)
		}
		p.buf = ws.AppendMasked(p.buf, op, e.Content, rand.Uint32())
	}
	if len(p.buf) == 0 {
		return re, nil
	}
	_ = p.socket.SetWriteDeadline(time.Now().Add(p.timeout)) // an error is met by Write
	if _, err := p.socket.Write(p.buf); err != nil {
		return re, fmt.Errorf("write to the origin: %w", err)
	}
	if cap(p.buf) > keptBuffer {
		p.buf = nil
	}
	return re, nil
}

// keptBuffer is how much of a buffer stays with a quiet WebSocket, in bytes.
const keptBuffer = 4 << 10

// leave implements partner. It makes listen end, at once or with the origin's
// answer to a close.
func (p *proxied) leave() {
	p.left.Store(true)
	end := time.Unix(1, 0)
	if p.closing.Load() && !p.closed.Load() {
		end = time.Now().Add(goodBye)
	}
	_ = p.socket.SetReadDeadline(end)
}

// serveProxied answers a handshake by one of the origin. On error the client has
// no answer yet.
func (g *Gateway) serveProxied(out *output, r *http.Request, rt *route.Route) error {
	resp, socket, err := g.upstream.Handshake(r, rt).Dial(r.Context())
	switch {
	case err != nil:
		return err
	case socket == nil: // a refusal
		passOn(out, resp)
		return nil
	}
	p := &proxied{socket: socket, timeout: g.cfg.WriteTimeout}
	s := g.relay(rt, r, resp.Header, &talk{partner: p, manners: &proxiedManners})
	subs := upstream.TargetOf(resp).Subs
	s.premark(nil, subs)
	if !s.takeRelay(g, out, r, resp.Header, &g.proxied.client) {
		socket.Close()
		return nil
	}
	s.beginRelay(nil, subs)
	g.drain.spawn(func() { // ends with the talk, or when the origin hangs up
		defer socket.Close()
		s.hangUp(p.listen(s))
		p.linger()
	})
	return nil
}

// errOriginClosed ends the reading when the origin has said close.
var errOriginClosed = errors.New("the origin has closed the websocket")

// listen carries out what the origin says, until it hangs up.
func (p *proxied) listen(s *session) error {
	reader := ws.NewReader(&s.g.proxied.origin)
	defer reader.Reset()
	buf := make([]byte, keptBuffer)
	for {
		n, err := p.socket.Read(buf)
		var events []grip.Event
		said := reader.Feed(buf[:n], func(m ws.Message) error {
			events = append(events, grip.Event{Type: eventOf[m.Op], Content: bytes.Clone(m.Payload)})
			if m.Op == ws.OpClose {
				p.closed.Store(true)
				return errOriginClosed
			}
			return nil
		})
		if len(events) > 0 && s.hears() {
			s.carryOut(nil, events)
		}
		switch {
		case said != nil:
			return said
		case err != nil:
			return err
		}
	}
}

// linger gives the client time to answer an origin's close.
func (p *proxied) linger() {
	_ = p.socket.SetReadDeadline(time.Now().Add(p.timeout))
	if !p.left.Load() && p.closed.Load() && !p.closing.Load() { // it may have changed just now
		_, _ = io.Copy(io.Discard, p.socket)
	}
}

// hears reports whether what the partner says still counts.
func (s *session) hears() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.talk != nil && !s.talk.over
}

// hangUp is what happens when the origin has hung up, or has said what cannot be
// understood. After its close it still gets the client's.
func (s *session) hangUp(err error) {
	if errors.Is(err, errOriginClosed) || !s.hears() {
		return
	}
	e := ending{reason: closedByOrigin}
	var wrong *ws.Error
	if errors.As(err, &wrong) {
		e = ending{reason: closedOriginError, err: fmt.Errorf("origin: %w", err)}
	}
	s.hush()
	s.finish(e)
}
