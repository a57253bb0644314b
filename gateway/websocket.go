package gateway

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"spillway/gateway/compress"
	"spillway/gateway/fanout"
	"spillway/gateway/upstream"
	"spillway/gateway/ws"
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
		g.auditRefusal(r, true, nil, p.refused)
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

	if !g.admitReader(out, r, p) {
		return
	}
	from := localSource{g}
	attach := g.marks(&p.ins, from)
	asking := &localEvents{g: g, handshake: r, header: header}
	d := &dialogue{origin: asking}
	d.note(p.ins.Header)
	s := &session{told: p.told, from: from, speech: speechOf(p.ins.Header), talk: &talk{partner: d, manners: &localManners}, posting: true}
	asking.session = s
	rules := &g.eventsRules.plain
	if g.compression.frames {
		rules = &g.eventsRules.deflate
	}
	if s.take(g, out, r, p.ins.Header, fanout.Options{EndAt: g.endOfAge(time.Now()), Rules: rules}) {
		s.begin(&p.ins, events[1:], attach)
	}
}

// take answers a handshake as the origin does, and gives the connection to the
// engine. With rules that inflate, permessage-deflate is agreed on, if the client
// offers it. It reports false when that is not possible; the client has been told.
func (s *session) take(g *Gateway, out *output, r *http.Request, answer http.Header, o fanout.Options) bool {
	upstream.CopyHeaders(out.Header(), answer)
	for name := range out.Header() {
		switch {
		case name == "Content-Length", name == "Content-Type", name == "Sec-Websocket-Accept", name == "Sec-Websocket-Extensions",
			name == "Sec-Websocket-Protocol", name == "Keep-Alive-Interval", name == "Upgrade",
			strings.HasPrefix(name, "Set-Meta-"), strings.HasPrefix(name, "Content-Bytes-"), strings.HasPrefix(name, "Grip-"):
			out.Header().Del(name)
		}
	}
	out.deadline(g.cfg.WriteTimeout) // the one of an earlier request may be over
	nc, early, compressed, err := ws.Upgrade(out.ResponseWriter, r, answer.Get("Sec-Websocket-Protocol"), o.Rules.Inflate != nil)
	if err != nil {
		return false
	}
	early = append(early, unread(nc)...)
	out.visit.become(byWebSocket)
	s.held = held{g: g, client: out.client}
	o.Owner, o.Relay, o.Framing, o.WriteTimeout, o.Early = s, s.relays, fanout.Framed, g.cfg.WriteTimeout, early
	switch {
	case compressed && o.Rules == &g.eventsRules.deflate:
		o.Coding = fanout.Deflate
	case o.Rules == &g.eventsRules.deflate:
		o.Rules = &g.eventsRules.plain
	}
	s.takeOver(out, nc, o)
	s.record, s.told = g.auditOpened(r, byWebSocket, s.conn, s.from, s.told, nil), nil
	s.conn.Start()
	return true
}

// malformed says what is wrong with a handshake, so that no origin hears of it; 0:
// nothing is (RFC 6455, 4.2.1).
func malformed(r *http.Request) (status int, text string) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Header.Get("Sec-Websocket-Key")))
	switch {
	case r.Header.Get("Sec-Websocket-Version") != "13":
		return http.StatusUpgradeRequired, "Sec-WebSocket-Version must be 13."
	case err != nil || len(key) != 16:
		return http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64."
	}
	return 0, ""
}

// eventsRules are what clients of EVENTS_PATH must keep to, without
// permessage-deflate and with it.
type eventsRules struct{ plain, deflate ws.Rules }

func newEventsRules(limit int) eventsRules {
	return eventsRules{plain: ws.Rules{Limit: limit}, deflate: ws.Rules{Limit: limit, Inflate: compress.Inflate}}
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

// isEvents reports whether a body holds events. The type has no parameters.
func isEvents(h http.Header) bool { return h.Get("Content-Type") == grip.ContentTypeEvents }

// connectionID is a random UUID (RFC 9562, version 4).
func connectionID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// A speech is how an origin that speaks GRIP on a WebSocket marks what it says
// (GRIP reference, 8.4).
type speech struct{ prefix string } // of what is for the client

// bare is the speech of origins whose messages are not marked.
var bare speech

// speechOf reads an answer to a handshake; nil means that all is for the client.
func speechOf(h http.Header) *speech {
	prefix, ok := grip.ParseExtension(h)
	switch {
	case !ok:
		return nil
	case prefix == "":
		return &bare
	}
	return &speech{prefix}
}

// A session is one WebSocket. The engine has the connection. A goroutine runs
// while messages of the client go to the origin, and while a stream asks for its
// next page.
type session struct {
	held
	from   source
	speech *speech
	relays bool  // the origin also hears pings, pongs and the end
	told   *told // of the answer that is being carried out; nil: it lets nobody read

	mu      sync.Mutex
	streams []*substream // guarded by mu
	talk    *talk        // nil: the origin wants no messages; guarded by mu
	posting bool         // a goroutine gives messages to the origin; guarded by mu
	ended   bool         // no new streams; guarded by mu
	extra   *extra       // nil: nothing; guarded by mu

	first substream // most have no others
}

// A substream is one stream on a WebSocket.
type substream struct {
	s       *session
	name    string // as given by the origin; may be empty
	channel string // that it was started with
	follow  follow
	told    *told // who reads what by it, where AUDIT_LOG has it as begun; nil: it has not

	paging  sync.Mutex         // held while it sends a page
	stopped atomic.Bool        // it sends nothing more
	fixed   bool               // not the origin's to end
	sub     *fanout.Subscriber // by which it holds; nil: it asks; guarded by session.mu
}

// begin carries out the origin's first answer. What a stream or the origin
// sends does not overtake it.
func (s *session) begin(ins *grip.Instruct, events []grip.Event, attach []fanout.Want) {
	if s.carryOut(nil, events) && (ins.Hold != grip.HoldNone || ins.Next != nil) {
		s.start("", "", ins, attach, nil)
	}
	s.mu.Lock()
	if s.extra != nil {
		s.extra.marks = nil
	}
	s.mu.Unlock()
	s.post()
}

// finish ends the session; the first reason counts. A code of 0 hangs up
// without a close frame.
func (s *session) finish(e ending) {
	if s.end(e) {
		s.conn.Finish(nil, e.code, e.text)
	}
}

// Held implements fanout.Owner.
func (s *session) Held(sub *fanout.Subscriber, status fanout.Status, b fanout.Batch) {
	ctx, done := s.ask()
	defer done()
	st := sub.Context().(*follow).sink.(*substream)
	s.mu.Lock()
	st.sub = nil
	s.mu.Unlock()
	st.settle(st.follow.resume(ctx, sub, status, b))
}

// TimeOver implements fanout.Owner.
func (s *session) TimeOver() {
	e := s.timeOver()
	e.code, e.text = 1012, "connect again"
	if e.reason == closedDraining {
		e.text = "restarting"
	}
	s.finish(e)
}

// Size implements fanout.Sized.
func (s *session) Size() int {
	n := int(unsafe.Sizeof(*s))
	if s.relays {
		n += relayBytes
	}
	return n
}

// relayBytes is what a session keeps for an HTTP origin, about: its talk, and the
// header of the handshake.
const relayBytes = 3 << 10

// Gone implements fanout.Owner.
func (s *session) Gone(why fanout.Ending) {
	s.mu.Lock()
	s.ended, s.streams = true, nil
	s.tellGone()
	s.mu.Unlock()
	s.left(why)
}

// carryOut does what the origin's events say, in order. by is the stream whose
// page they are of; nil: none. It reports false when the socket has ended.
func (s *session) carryOut(by *substream, events []grip.Event) bool {
	var frames []byte
	for _, e := range events {
		if by != nil && by.stopped.Load() {
			return false
		}
		switch e.Type {
		case grip.EventText, grip.EventBinary:
			content, control, forClient := s.understand(e)
			switch {
			case control != nil:
				if s.conn.WriteFrames(frames) != nil {
					return false
				}
				frames = frames[:0]
				s.obey(by, *control)
			case forClient && e.Type == grip.EventText:
				frames = s.conn.AppendFrame(frames, grip.TextMessage, content)
			case forClient:
				frames = s.conn.AppendFrame(frames, grip.BinaryMessage, content)
			}
		case grip.EventPing:
			frames = s.conn.AppendFrame(frames, grip.PingMessage, e.Content)
		case grip.EventPong:
			frames = s.conn.AppendFrame(frames, grip.PongMessage, e.Content)
		case grip.EventClose:
			code, reason, err := grip.ParseClose(e.Content)
			if err != nil || code == 0 {
				code, reason = 1000, ""
			}
			_ = s.conn.WriteFrames(frames)
			e := ending{reason: closedByOrigin, code: code, text: reason}
			if s.from.local() {
				e.says = reason
			}
			if s.clientClosed() {
				e.reason = closedByClient
			}
			s.finish(e)
			return false
		case grip.EventDisconnect:
			_ = s.conn.WriteFrames(frames)
			s.hush()
			s.finish(ending{reason: closedByOrigin})
			return false
		}
	}
	return s.conn.WriteFrames(frames) == nil
}

// understand tells what a message of the origin is: a control message, or one for
// the client, or neither.
func (s *session) understand(e grip.Event) (content []byte, control *grip.Control, forClient bool) {
	if s.speech == nil {
		return e.Content, nil, true
	}
	if e.Type == grip.EventText {
		switch c, ok, err := grip.ParseControl(e.Content); {
		case err != nil: // a wrong one is ignored (GRIP reference, 8.4)
			return nil, nil, false
		case ok:
			return nil, &c, false
		}
	}
	content, forClient = bytes.CutPrefix(e.Content, []byte(s.speech.prefix))
	return content, nil, forClient
}

// start follows one more stream on the socket, by which t reads; nil: who opened it.
func (s *session) start(name, channel string, ins *grip.Instruct, attach []fanout.Want, t *told) {
	if st := s.add(name, channel, t); st != nil {
		s.record.subscribed(t)
		st.begin(ins, attach)
	}
}

// begin follows a new stream.
func (st *substream) begin(ins *grip.Instruct, attach []fanout.Want) {
	if ins.Hold == grip.HoldStream {
		if sub, end, ok := st.follow.hold(ins, attach); ok {
			st.settle(sub, end)
			return
		}
	}
	st.s.g.drain.spawn(func() { // ends with the connection, or when the stream holds
		ctx, done := st.s.ask()
		defer done()
		st.settle(st.follow.run(ctx, &page{ins: *ins}, nil))
	})
}

// add returns a new stream, or nil where there can be none.
func (s *session) add(name, channel string, t *told) *substream {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return nil
	case len(s.streams) >= s.g.cfg.MaxSubscriptions:
		s.g.metrics.overSubscribe.Inc()
		return nil
	}
	st := &s.first
	if st.s != nil {
		st = new(substream)
	}
	st.s, st.name, st.channel, st.told = s, name, channel, t
	st.follow = follow{held: &s.held, source: s.from, sink: st}
	s.streams = append(s.streams, st)
	return st
}

// full reports whether there may be no more streams, and how those that there are
// are called.
func (s *session) full() (names []string, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) < s.g.cfg.MaxSubscriptions {
		return nil, false
	}
	for _, st := range s.streams {
		names = append(names, st.name)
	}
	return names, true
}

// settle is what happens when a stream holds, or has ended.
func (st *substream) settle(sub *fanout.Subscriber, end ending) {
	if sub != nil {
		return
	}
	s := st.s
	s.mu.Lock()
	s.streams = slices.DeleteFunc(s.streams, func(other *substream) bool { return other == st })
	s.mu.Unlock()
	switch {
	case st.stopped.Load():
		return
	case end.code != 0, end.broken:
		s.tellClosed()
		s.finish(end)
		return
	case end.err != nil:
		s.g.log.Debug("stream on a websocket ended", "reason", end.reason, "err", end.err)
	}
	s.record.unsubscribed(st.told, end)
}

// stop ends the streams that which says. When it returns they send nothing more;
// but by, which calls it, ends later.
func (s *session) stop(by *substream, which func(*substream) bool) {
	why := ending{reason: closedByClient}
	if !s.from.local() {
		why.reason = closedByOrigin // whatever the client may have said to it
	}
	s.mu.Lock()
	var asking []*substream
	s.streams = slices.DeleteFunc(s.streams, func(st *substream) bool {
		if !which(st) {
			return false
		}
		st.stopped.Store(true)
		s.record.unsubscribed(st.told, why)
		if st.sub == nil || !s.conn.Drop(st.sub) {
			asking = append(asking, st)
		}
		return true
	})
	s.mu.Unlock()
	if by != nil {
		return // two streams that stop each other must not wait
	}
	for _, st := range asking {
		st.paging.Lock()   // the page that it is at
		st.paging.Unlock() //nolint:staticcheck // it sends no other
	}
}

// is reports whether a stream is on a channel. It is called with session.mu.
func (st *substream) is(channel string) bool {
	return st.channel == channel || st.sub != nil && st.sub.IsOn(st.s.from.prefix()+channel)
}

// errEnded ends a stream when it was stopped, or its socket has ended.
var errEnded = errors.New("the websocket has ended")

func (st *substream) hold(h fanout.Hold) (sub *fanout.Subscriber, ok bool) {
	st.s.mu.Lock() // so that stop knows of it
	defer st.s.mu.Unlock()
	if st.stopped.Load() {
		return nil, false
	}
	if sub, ok = st.s.conn.Hold(h); ok {
		st.sub = sub
	}
	return sub, ok
}

func (st *substream) page(p *page) error {
	defer p.close()
	if len(p.ins.Body) == 0 {
		return nil
	}
	events, err := grip.ParseEvents(p.ins.Body)
	if err != nil {
		return &brokenPage{err}
	}
	st.paging.Lock()
	defer st.paging.Unlock()
	if !st.s.carryOut(st, events) {
		return errEnded
	}
	return nil
}
