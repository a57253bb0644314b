package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"spillway/gateway/fanout"
	"spillway/gateway/upstream"
	"spillway/grip"
)

// serveWebSocket answers a handshake by the origin in this process, and runs
// the WebSocket. The origin speaks of it in WebSocket-over-HTTP events (GRIP
// reference, 8).
func (g *Gateway) serveWebSocket(out *output, r *http.Request) {
	header := handshakeHeader(r.Header)
	ask := r.Clone(r.Context())
	ask.Header = header.Clone()
	ask.Header.Set("Accept", grip.ContentTypeEvents)
	p, err := g.call(ask)
	if err != nil {
		if r.Context().Err() == nil {
			g.log.Error("no answer from the built-in origin", "err", err)
		}
		out.text(http.StatusInternalServerError, "Internal error.")
		return
	}
	if p.status != http.StatusOK || !isEvents(p.ins.Header) {
		g.plain(out, p, p.status) // a refusal
		return
	}
	events, err := grip.ParseEvents(p.ins.Body)
	if err == nil && (len(events) == 0 || events[0].Type != grip.EventOpen) {
		err = errors.New("the first event is not OPEN")
	}
	if err != nil {
		g.log.Error("the built-in origin answered a WebSocket handshake wrongly", "err", err)
		out.text(http.StatusBadGateway, "Error while proxying to origin.")
		return
	}

	protocol := p.ins.Header.Get("Sec-Websocket-Protocol")
	upstream.CopyHeaders(out.Header(), p.ins.Header)
	for name := range out.Header() {
		switch {
		case name == "Content-Length", name == "Content-Type", name == "Sec-Websocket-Extensions", name == "Sec-Websocket-Protocol",
			name == "Keep-Alive-Interval", strings.HasPrefix(name, "Set-Meta-"):
			out.Header().Del(name)
		}
	}
	out.deadline(g.cfg.WriteTimeout) // the one of an earlier request may be over
	sock, err := openSocket(out.ResponseWriter, r, protocol, g.cfg.WriteTimeout)
	if err != nil {
		return // the client has its answer
	}
	g.metrics.become(byRequest, byWebSocket)
	defer g.metrics.become(byWebSocket, byRequest)
	s := &session{
		g: g, sock: sock, request: r, header: header, id: connectionID(),
		meta: make(map[string]string), streams: make(map[*substream]bool), ended: make(chan struct{}),
	}
	s.arrived = sync.NewCond(&s.inbox)
	s.setMeta(p.ins.Header)
	end := s.run(&p.ins, events[1:])
	g.metrics.closed[end.reason].Inc()
	if end.err != nil {
		g.log.Debug("websocket ended", "reason", end.reason, "err", end.err)
	}
}

// handshakeHeader is what of a handshake every request of the WebSocket
// carries. Connection-Id and Meta-* are ours to say.
func handshakeHeader(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		switch {
		case name == "Connection", name == "Upgrade", name == "Sec-Websocket-Key", name == "Sec-Websocket-Version",
			name == "Sec-Websocket-Extensions", name == "Accept", name == "Content-Length", name == "Connection-Id",
			strings.HasPrefix(name, "Meta-"):
		default:
			out[name] = values
		}
	}
	return out
}

func isEvents(h http.Header) bool {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(media), grip.ContentTypeEvents)
}

// connectionID is a random UUID (RFC 9562, version 4).
func connectionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A session is one WebSocket of the origin in this process. run owns it; a
// goroutine reads messages, one posts them to the origin, and one follows each
// stream.
type session struct {
	g       *Gateway
	ctx     context.Context // the connection's own life
	tasks   sync.WaitGroup  // everything that run waits for
	sock    *socket
	request *http.Request // the handshake
	header  http.Header   // of it, for all requests to the origin
	id      string

	meta     map[string]string // Set-Meta-*; used by the posting goroutine once it runs
	detached atomic.Bool       // the origin wants no messages

	lastSent atomic.Int64 // when a message was last written; Unix nanoseconds

	mu      sync.Mutex
	streams map[*substream]bool // guarded by mu; nil when the session is ending

	once   sync.Once
	ended  chan struct{} // closed when result is set
	result ending

	inbox   sync.Mutex
	arrived *sync.Cond   // on inbox: a message came, went, or the session ends
	pending []grip.Event // guarded by inbox
	bytes   int          // content of pending; guarded by inbox
	over    bool         // guarded by inbox
}

// A substream is one stream on a WebSocket.
type substream struct {
	name    string // as given by the origin; may be empty
	cancel  context.CancelFunc
	done    chan struct{} // closed when its goroutine has ended
	channel string        // that it was started with

	mu   sync.Mutex
	held []grip.Subscription // by the hold it is in; guarded by mu
}

// run carries out the origin's first answer and serves the socket until it
// ends; then everything else has ended, too.
func (s *session) run(ins *grip.Instruct, events []grip.Event) ending {
	ctx, cancel := context.WithCancel(s.request.Context())
	defer cancel()
	s.ctx = ctx
	// What a stream or the origin sends must not overtake the first answer.
	if s.carryOut(nil, events) && (ins.Hold != grip.HoldNone || ins.Next != nil) {
		s.start(&substream{}, ins)
	}
	s.tasks.Go(s.read)
	s.tasks.Go(s.post)

	var age <-chan time.Time
	if at := s.g.endOfAge(time.Now()); !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		age = t.C
	}
	drains := s.g.drain.started
	var drained <-chan time.Time
	for waiting := true; waiting; {
		select {
		case <-s.ended:
			waiting = false
		case <-age:
			s.end(ending{reason: closedMaxAge, code: 1012, text: "connect again"})
		case <-drains:
			drains = nil
			t := time.NewTimer(s.g.drain.delay())
			defer t.Stop()
			drained = t.C
		case <-drained:
			s.end(ending{reason: closedDraining, code: 1012, text: "restarting"})
		case <-ctx.Done():
			s.end(ending{reason: lostReason(ctx, nil)})
		}
	}
	s.mu.Lock()
	s.streams = nil // no new ones
	s.mu.Unlock()
	if s.result.code == 0 {
		s.sock.cut()
	} else {
		stop := context.AfterFunc(ctx, s.sock.cut)
		s.sock.close(s.result.code, s.result.text)
		stop()
	}
	cancel()
	s.inbox.Lock()
	s.over = true
	s.arrived.Broadcast()
	s.inbox.Unlock()
	s.sock.release()
	s.tasks.Wait()
	return s.result
}

// end ends the session; the first reason counts.
func (s *session) end(e ending) {
	s.once.Do(func() {
		s.result = e
		close(s.ended)
	})
}

// carryOut does what the origin's events say, in order. by is the stream whose
// page they are of; nil: none. It reports false when the socket has ended.
func (s *session) carryOut(by *substream, events []grip.Event) bool {
	for _, e := range events {
		switch e.Type {
		case grip.EventText:
			if c, ok, err := grip.ParseControl(e.Content); ok {
				if err == nil { // a wrong one is ignored (GRIP reference, 8.4)
					s.obey(by, c)
				}
				continue
			}
			if !s.send(grip.TextMessage, e.Content) {
				return false
			}
		case grip.EventBinary:
			if !s.send(grip.BinaryMessage, e.Content) {
				return false
			}
		case grip.EventPing:
			s.sock.ping()
		case grip.EventClose:
			code, reason, err := grip.ParseClose(e.Content)
			if err != nil || code == 0 {
				code, reason = 1000, ""
			}
			s.end(ending{reason: closedByOrigin, code: code, text: reason})
			return false
		case grip.EventDisconnect:
			s.end(ending{reason: closedByOrigin})
			return false
		}
	}
	return true
}

// send writes a message; false means that the socket has ended.
func (s *session) send(typ grip.MessageType, content []byte) bool {
	if err := s.sock.write(typ, content); err != nil {
		s.end(ending{reason: lostReason(s.ctx, err)})
		return false
	}
	s.lastSent.Store(time.Now().UnixNano())
	return true
}

// obey carries out a control message.
func (s *session) obey(by *substream, c grip.Control) {
	switch c.Type {
	case "detach":
		s.detached.Store(true)
	case "subscribe":
		ins := &grip.Instruct{}
		if c.Link != "" {
			ins.Next = &grip.Link{URL: c.Link}
		}
		if c.Channel != "" {
			ins.Hold = grip.HoldStream
			ins.Channels = []grip.Subscription{{Channel: c.Channel, PrevID: c.PrevID, HasPrevID: c.HasPrevID}}
		}
		if c.Name != "" {
			s.stop(by, func(st *substream) bool { return st.name == c.Name })
		}
		s.start(&substream{name: c.Name, channel: c.Channel}, ins)
	case "unsubscribe":
		s.stop(by, func(st *substream) bool {
			if c.Name != "" {
				return st.name == c.Name
			}
			return c.Channel != "" && st.on(c.Channel)
		})
	}
}

// start follows one more stream on the socket.
func (s *session) start(st *substream, ins *grip.Instruct) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		return
	}
	if len(s.streams) >= s.g.cfg.MaxSubscriptions {
		s.g.metrics.overSubscribe.Inc()
		return
	}
	st.done = make(chan struct{})
	ctx, cancel := context.WithCancel(s.ctx)
	st.cancel = cancel
	s.streams[st] = true
	s.tasks.Go(func() { // ends with ctx, or when the stream does
		defer close(st.done)
		defer cancel()
		f := &follow{g: s.g, source: s.g.newLocalSource(s.request), sink: &socketSink{s, st, ctx}, holding: st.hold}
		end := f.run(ctx, ins)
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
		if ctx.Err() == nil && (end.code != 0 || end.broken) {
			s.end(end)
		} else if end.err != nil {
			s.g.log.Debug("stream on a websocket ended", "reason", end.reason, "err", end.err)
		}
	})
}

// stop ends the streams that which says, and returns when they send nothing
// more; but by, which calls it, ends later.
func (s *session) stop(by *substream, which func(*substream) bool) {
	s.mu.Lock()
	var stopped []*substream
	for st := range s.streams {
		if which(st) {
			st.cancel()
			delete(s.streams, st)
			stopped = append(stopped, st)
		}
	}
	s.mu.Unlock()
	if by != nil {
		return // two streams that stop each other must not wait
	}
	for _, st := range stopped {
		<-st.done
	}
}

func (st *substream) hold(channels []grip.Subscription) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.held = channels
}

func (st *substream) on(channel string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.channel == channel ||
		slices.ContainsFunc(st.held, func(c grip.Subscription) bool { return c.Channel == channel })
}

// socketSink is where a stream on a WebSocket goes.
type socketSink struct {
	s   *session
	st  *substream
	ctx context.Context // of the stream
}

// errEnded ends a stream when its socket has ended already.
var errEnded = errors.New("the websocket has ended")

func (*socketSink) form() fanout.Form { return fanout.Message }

func (k *socketSink) page(p *page) error {
	defer p.close()
	if len(p.ins.Body) == 0 {
		return nil
	}
	events, err := grip.ParseEvents(p.ins.Body)
	if err != nil {
		return &brokenPage{err}
	}
	if k.ctx.Err() != nil || !k.s.carryOut(k.st, events) {
		return errEnded
	}
	return nil
}

func (k *socketSink) batch(b fanout.Batch) error {
	for typ, content := range b.Messages() {
		if k.ctx.Err() != nil || !k.s.send(typ, content) {
			return errEnded
		}
	}
	return nil
}

func (k *socketSink) flush() error { return nil }

// keepAlive sends a ping, whatever its content, unless another stream has kept
// the socket busy.
func (k *socketSink) keepAlive(ka *grip.KeepAlive) error {
	if idle := time.Since(time.Unix(0, k.s.lastSent.Load())); ka.Interval || idle >= ka.Timeout*8/10 {
		k.s.sock.ping()
	}
	return nil
}
