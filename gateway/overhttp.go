package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"spillway/gateway/fanout"
	"spillway/gateway/route"
	"spillway/gateway/upstream"
	"spillway/gateway/ws"
	"spillway/grip"
)

// An eventsOrigin is asked with the events of one WebSocket.
type eventsOrigin interface {
	// ask makes one request. header is for it alone; body holds events.
	ask(ctx context.Context, header http.Header, body []byte) (*page, error)
	// again waits before a request whose failure was err is made once more, for
	// the nth time; false means that it is not.
	again(ctx context.Context, err error, n int) bool
}

// A dialogue is WebSocket over HTTP (GRIP reference, 8): it is the partner by
// requests. It belongs to who gives.
type dialogue struct {
	origin   eventsOrigin
	id       string            // Connection-Id; made when first needed
	meta     map[string]string // Set-Meta-*
	askAfter time.Duration     // Keep-Alive-Interval; 0: none
}

// leave implements partner.
func (*dialogue) leave() {}

// give implements partner.
func (d *dialogue) give(ctx context.Context, said []grip.Event, replayed int) (reply, error) {
	header := d.header()
	if replayed > 0 {
		header["Content-Bytes-Replayed"] = []string{strconv.Itoa(replayed)}
	}
	body := appendEvents(nil, said)
	p, err := d.origin.ask(ctx, header, body)
	for n := 0; err != nil && d.origin.again(ctx, err, n); n++ {
		p, err = d.origin.ask(ctx, header, body)
	}
	if err != nil {
		return reply{}, err
	}
	if p.status != http.StatusOK || !isEvents(p.ins.Header) {
		return reply{}, fmt.Errorf("events: the origin answered %d, %s", p.status, p.ins.Header.Get("Content-Type"))
	}
	d.note(p.ins.Header)
	events, err := grip.ParseEvents(p.ins.Body)
	if err != nil {
		return reply{}, err
	}
	for _, e := range events {
		if e.Type == grip.EventOpen {
			return reply{}, errors.New("events: a second OPEN")
		}
	}
	re := reply{told: p.told, refused: p.refused, events: events, accepted: contentOf(said), askAfter: d.askAfter}
	if v := p.ins.Header.Get("Content-Bytes-Accepted"); v != "" {
		if re.accepted, err = strconv.Atoi(v); err != nil || re.accepted < 0 {
			return reply{}, fmt.Errorf("Content-Bytes-Accepted: %q is not a number of bytes", v)
		}
	}
	return re, nil
}

func appendEvents(dst []byte, events []grip.Event) []byte {
	for _, e := range events {
		dst = grip.AppendEvent(dst, e)
	}
	return dst
}

// header is what each request says of the WebSocket.
func (d *dialogue) header() http.Header {
	if d.id == "" {
		d.id = connectionID()
	}
	h := http.Header{"Connection-Id": {d.id}}
	for name, value := range d.meta {
		h["Meta-"+name] = []string{value}
	}
	return h
}

// note remembers what the origin wants to be told again, and when it wants to be
// asked (GRIP reference, 8.5 and 8.6).
func (d *dialogue) note(h http.Header) {
	for name, values := range h {
		if name, ok := strings.CutPrefix(name, "Set-Meta-"); ok && len(values) > 0 {
			if values[0] == "" {
				delete(d.meta, name)
				continue
			}
			if d.meta == nil {
				d.meta = make(map[string]string)
			}
			d.meta[name] = values[0]
		}
	}
	if v := h.Values("Keep-Alive-Interval"); len(v) > 0 {
		seconds, err := strconv.Atoi(strings.TrimSpace(v[0]))
		switch {
		case err != nil, seconds <= 0:
			d.askAfter = 0
		default:
			d.askAfter = max(time.Duration(min(seconds, maxInterval))*time.Second, minInterval)
		}
	}
}

// maxInterval is far beyond what any connection lasts, in seconds.
const maxInterval = 1 << 30

// minInterval is changed by tests alone.
var minInterval = grip.MinEventsInterval

// localEvents asks the origin in this process.
type localEvents struct {
	g         *Gateway
	handshake *http.Request
	header    http.Header // of it, for all requests with events
	session   *session    // that asks
}

func (o *localEvents) ask(ctx context.Context, header http.Header, body []byte) (*page, error) {
	r := o.handshake.Clone(ctx)
	r.Method, r.ContentLength = http.MethodPost, int64(len(body))
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.Header = o.header.Clone()
	r.Header.Set("Accept", grip.ContentTypeEvents)
	r.Header.Set("Content-Type", grip.ContentTypeEvents)
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Del(grip.FullField) // whatever a client says
	if names, full := o.session.full(); full {
		r.Header[grip.FullField] = names
	}
	return o.g.call(r)
}

func (o *localEvents) again(context.Context, error, int) bool { return false }

// httpEvents asks an HTTP origin.
type httpEvents struct {
	g         *Gateway
	handshake *upstream.Handshake
	target    route.Target // that the newest answer is of
}

// answerTimeout is how long an HTTP origin may take for a whole answer with
// events.
const answerTimeout = 90 * time.Second

func (o *httpEvents) ask(ctx context.Context, header http.Header, body []byte) (*page, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	resp, err := o.handshake.Post(ctx, header, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	o.target = upstream.TargetOf(resp)
	most := grip.MaxRefusal
	if resp.StatusCode == http.StatusOK && isEvents(resp.Header) {
		most = grip.MaxEventsResponse
	}
	buf, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("events: answer: %w", err)
	case len(buf) > most:
		return nil, fmt.Errorf("events: an answer of status %d and type %q must not exceed %d bytes", resp.StatusCode, resp.Header.Get("Content-Type"), most)
	}
	return &page{status: resp.StatusCode, ins: grip.Instruct{Header: resp.Header, Body: buf}}, nil
}

// maxAgain bounds how many requests wait to be made once more: an origin that is
// away must not cost more than so many goroutines, whoever leaves meanwhile.
const maxAgain = 10_000

// again waits as long as before a next link is asked once more.
func (o *httpEvents) again(ctx context.Context, err error, n int) bool {
	if !errors.Is(err, upstream.ErrUnreachable) && !errors.Is(err, upstream.ErrNotSent) {
		return false
	}
	defer o.g.again.Add(-1)
	if o.g.again.Add(1) > maxAgain || n == len(retries) {
		o.g.metrics.eventsLost.Inc()
		return false
	}
	o.g.metrics.eventsAgain.Inc()
	return pause(ctx, retries[n]+rand.N(time.Second))
}

// What differs among kinds of partners.
var (
	localManners    = manners{pauseAt: 64 << 10, oneEvent: true, failed: 1011} // so that it is known which message an answer is to
	overHTTPManners = manners{pauseAt: grip.MaxEventsRequest, batch: grip.MaxEventsRequest}
	oneEventManners = manners{pauseAt: grip.MaxEventsRequest, batch: grip.MaxEventsRequest, oneEvent: true}
)

// overHTTPRules are what clients of WebSockets over HTTP must keep to.
var overHTTPRules = ws.Rules{Limit: grip.MaxEventsRequest}

// serveSocket answers a handshake by an HTTP origin, and runs the WebSocket.
func (g *Gateway) serveSocket(out *output, r *http.Request, rt *route.Route) {
	if status, text := malformed(r); status != 0 {
		out.Header().Set("Sec-WebSocket-Version", "13")
		out.text(status, text)
		return
	}
	var err error
	for _, part := range alike(rt) {
		if overHTTP(&part.Targets[0]) {
			err = g.serveOverHTTP(out, r, part)
		} else {
			err = g.serveProxied(out, r, part)
		}
		if !errors.Is(err, upstream.ErrUnreachable) {
			break
		}
	}
	if err != nil {
		g.badGateway(out, r, rt, err)
	}
}

// alike splits a route where its targets take WebSockets in another way than
// those before. Most routes are whole.
func alike(rt *route.Route) []*route.Route {
	parts := []*route.Route{rt}
	for i := 1; i < len(rt.Targets); i++ {
		if overHTTP(&rt.Targets[i]) == overHTTP(&rt.Targets[i-1]) {
			continue
		}
		last := *parts[len(parts)-1]
		next := last
		at := i - (len(rt.Targets) - len(last.Targets))
		last.Targets, next.Targets = last.Targets[:at:at], last.Targets[at:]
		parts = append(parts[:len(parts)-1], &last, &next)
	}
	return parts
}

func overHTTP(t *route.Target) bool { return t.OverHTTP || t.Test }

// serveOverHTTP answers a handshake by requests with events. On error the client
// has no answer yet.
func (g *Gateway) serveOverHTTP(out *output, r *http.Request, rt *route.Route) error {
	o := &httpEvents{g: g, handshake: g.upstream.Handshake(r, rt)}
	d := &dialogue{origin: o, id: connectionID()}
	p, events, err := d.open(r.Context())
	switch {
	case err != nil:
		if errors.Is(err, errLeftOpening) {
			g.part(d)
		}
		return err
	case events == nil: // a refusal
		g.plain(out, p, p.status)
		return nil
	}
	t := &talk{partner: d, manners: &overHTTPManners, askAfter: d.askAfter}
	if o.target.OneEvent {
		t.manners = &oneEventManners
	}
	s := g.relay(rt, r, p.ins.Header, t)
	s.premark(events, o.target.Subs)
	if !s.takeRelay(g, out, r, p.ins.Header, &overHTTPRules) {
		g.part(d)
		return nil
	}
	s.beginRelay(events[1:], o.target.Subs)
	return nil
}

// errLeftOpening says that the client left when the origin may have heard of it,
// and had not opened the WebSocket yet.
var errLeftOpening = errors.New("the client left before the origin opened the WebSocket")

// open says OPEN, and waits until the origin says so too. Without events, it
// refuses.
func (d *dialogue) open(ctx context.Context) (p *page, events []grip.Event, err error) {
	for body := []byte("OPEN\r\n"); ; body = nil {
		p, err = d.origin.ask(ctx, d.header(), body)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, nil, errLeftOpening
		case err != nil:
			return nil, nil, err
		}
		if p.status != http.StatusOK || !isEvents(p.ins.Header) {
			return p, nil, nil
		}
		d.note(p.ins.Header)
		if events, err = grip.ParseEvents(p.ins.Body); err != nil {
			return nil, nil, err
		}
		switch {
		case len(events) > 0 && events[0].Type == grip.EventOpen:
			return p, events, nil
		case len(events) > 0:
			return nil, nil, fmt.Errorf("events: the first is %s, not OPEN", events[0].Type)
		case d.askAfter == 0:
			return nil, nil, errors.New("events: neither OPEN nor Keep-Alive-Interval")
		}
		if !pause(ctx, d.askAfter) {
			return nil, nil, errLeftOpening
		}
	}
}

// part says good-bye for a client that has left before it was the engine's.
func (g *Gateway) part(d *dialogue) {
	g.drain.spawn(func() { // ends with the request
		_, _ = d.give(g.base, []grip.Event{{Type: grip.EventDisconnect}}, 0)
	})
}

// relay makes the session of an HTTP origin that has taken a handshake. What
// another gateway in front of this one is to do is left to it.
func (g *Gateway) relay(rt *route.Route, r *http.Request, answer http.Header, t *talk) *session {
	s := &session{held: held{g: g}, from: linkless{g.upstream.URL(r, rt), rt}, relays: true, talk: t, posting: true}
	if !rt.NoGrip && !g.upstream.Trusted(r) {
		s.speech = speechOf(answer)
	}
	return s
}

// takeRelay is take for an HTTP origin.
func (s *session) takeRelay(g *Gateway, out *output, r *http.Request, answer http.Header, rules *ws.Rules) bool {
	extensions := answer["Sec-Websocket-Extensions"]
	if _, offered := grip.ParseExtension(r.Header); offered && len(extensions) > 0 && g.upstream.Trusted(r) {
		out.ResponseWriter = &extending{out.ResponseWriter, extensions}
	}
	return s.take(g, out, r, answer, fanout.Options{Rules: rules})
}

// An extending is the answer to a handshake by another gateway, which is told
// that the origin speaks GRIP.
type extending struct {
	http.ResponseWriter
	extensions []string
}

func (e *extending) Unwrap() http.ResponseWriter { return e.ResponseWriter }

func (e *extending) WriteHeader(status int) {
	if status == http.StatusSwitchingProtocols {
		e.Header()["Sec-Websocket-Extensions"] = e.extensions
	}
	e.ResponseWriter.WriteHeader(status)
}

// beginRelay is begin with the channels of a target.
func (s *session) beginRelay(events []grip.Event, fixed []string) {
	for _, name := range fixed {
		attach := []fanout.Want{{Channel: name}}
		s.mark(attach)
		t := s.g.toldChannels(attach)
		if st := s.add("", "", t); st != nil { // the origin may know another channel by the name, where it has a prefix
			st.fixed = true
			s.record.subscribed(t)
			st.begin(&grip.Instruct{Hold: grip.HoldStream}, attach)
		}
	}
	s.begin(&grip.Instruct{}, events, nil)
}
