package gateway

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"spillway/gateway/cache"
	"spillway/gateway/route"
	"spillway/gateway/upstream"
	"spillway/grip"
)

// serveLocal answers a client's request by the origin in this process.
func (g *Gateway) serveLocal(out *output, r *http.Request) {
	if mentionsEvents(r.Header) {
		out.text(http.StatusForbidden, "Client not allowed to send WebSocket events directly.")
		return
	}
	r = withoutGrip(r)
	if isWebSocket(r) {
		g.serveWebSocket(out, r)
		return
	}
	p, err := g.call(r)
	if err != nil {
		if r.Context().Err() == nil {
			g.log.Error("no answer from the built-in origin", "err", err)
		}
		out.text(http.StatusInternalServerError, "Internal error.")
		return
	}
	g.auditRefusal(r, true, nil, p.refused)
	if !g.admitReader(out, r, p) {
		return
	}
	if p.ins.Hold != grip.HoldStream && p.ins.Next == nil || p.ins.Hold == grip.HoldResponse {
		g.auditRead(r, localSource{g}, p.told) // a long poll
	}
	g.deliver(out, r, p, localSource{g}, nil)
}

// admitReader counts an answer for who it is for, or refuses it.
func (g *Gateway) admitReader(out *output, r *http.Request, p *page) bool {
	if p.told == nil {
		return true
	}
	var ok bool
	if out.visit.reader, ok = g.limits.enterSubject(p.told.subject); !ok {
		g.refuse(out, r, true, nil, refusedSubject, p.told)
	}
	return ok
}

// serveRoute answers a client's request by an HTTP origin.
func (g *Gateway) serveRoute(out *output, r *http.Request, rt *route.Route) {
	if carriesEvents(r.Header) && speaksOverHTTP(rt) && !g.upstream.Trusted(r) {
		out.text(http.StatusForbidden, "Client not allowed to send WebSocket events directly.")
		return
	}
	if r.Body != nil && r.Body != http.NoBody {
		// An origin may answer before it has the whole request. HTTP/2 needs no
		// leave for that, and a recorder in a test has none to give.
		out.duplex = out.control.EnableFullDuplex() == nil
	}
	x := &exchange{route: rt, body: keepBody(r)}
	a, err := g.ask(r, rt)
	if err != nil {
		g.badGateway(out, r, rt, err)
		return
	}
	if lasts, redo := g.carryOut(out, r, x, a); redo {
		g.redo(out, r, x, lasts)
	}
}

// redo makes a client's request again, with these ids, until it is answered or
// held.
func (g *Gateway) redo(out *output, r *http.Request, x *exchange, lasts []grip.Last) {
	for redo := true; redo; {
		body, ok := x.body.whole()
		if !ok {
			out.text(http.StatusBadRequest, "Request too large to accept GRIP instruct.")
			return
		}
		x.rounds++
		if !pause(r.Context(), circling(x.rounds)) {
			return
		}
		a, err := g.askAgain(r, x.route, body, lasts)
		if err != nil {
			g.badGateway(out, r, x.route, err)
			return
		}
		lasts, redo = g.carryOut(out, r, x, a)
	}
}

// carryOut does what an HTTP origin's answer asks for. With redo, the request
// is to be made once more, with these ids.
func (g *Gateway) carryOut(out *output, r *http.Request, x *exchange, a *cache.Answer) (lasts []grip.Last, redo bool) {
	rt, resp := x.route, a.Response
	if rt.NoGrip || g.upstream.Trusted(r) || !grip.IsInstruct(resp.Header) {
		passOn(out, resp)
		return nil, false
	}
	// All of it, whether or not the origin wanted it: a connection that is held
	// is read from by nobody else, and the request may be made again.
	ok := !x.body.tooLarge()
	if ok {
		_, ok = x.body.whole()
	}
	if !ok {
		resp.Body.Close()
		out.text(http.StatusBadRequest, "Request too large to accept GRIP instruct.")
		return nil, false
	}
	p, err := readPage(resp, false)
	if err != nil {
		g.badGateway(out, r, rt, err)
		return nil, false
	}
	p.marks = a.Attach
	from := &httpSource{g: g, base: g.upstream.URL(r, rt), route: rt, first: rt, named: rt.Prefix, subs: a.Implied}
	if err := g.listen(r.Context(), rt, wants(&p.ins, from)); err != nil {
		p.close()
		g.badGateway(out, r, rt, err)
		return nil, false
	}
	if p.ins.Hold == grip.HoldResponse && x.rounds == 0 {
		g.auditRead(r, from, g.toldChannels(wants(&p.ins, from)))
	}
	return g.deliver(out, r, p, from, x)
}

// badGateway answers when the origin gave no answer, or one that cannot be
// used (GRIP reference, 1.6).
func (g *Gateway) badGateway(out *output, r *http.Request, rt *route.Route, err error) {
	if r.Context().Err() != nil {
		return // the client left, and so did the request to the origin
	}
	if out.coming != nil && out.coming.isBroken() {
		out.Header().Set("Connection", "close")
		out.text(http.StatusBadRequest, "The request's body is malformed.")
		return
	}
	if !errors.Is(err, upstream.ErrUnreachable) { // that is logged already, with a limit
		g.log.Debug("error while proxying", "route", rt.String(), "err", err)
	}
	text := "Error while proxying to origin."
	if rt.Debug || g.cfg.ProxyDebug {
		text = whatWentWrong(rt, err)
	}
	out.text(http.StatusBadGateway, text)
}

// whatWentWrong is what a client is told on a debug route.
func whatWentWrong(rt *route.Route, err error) string {
	var bad *badInstructions
	var large *tooLargePage
	switch {
	case errors.Is(err, upstream.ErrUnreachable):
		var tried []string
		for _, t := range rt.Targets {
			tried = append(tried, t.Addr)
		}
		return "Unable to connect to any targets. Tried: " + strings.Join(tried, ", ")
	case errors.As(err, &bad):
		return "Failed to parse accept instructions: " + bad.err.Error()
	case errors.As(err, &large):
		return "GRIP instruct response too large from " + large.target
	}
	return "Error while proxying to origin: " + err.Error()
}

// passOn sends a response that holds no instructions.
func passOn(out *output, resp *http.Response) {
	defer resp.Body.Close()
	upstream.CopyHeaders(out.Header(), resp.Header)
	out.reason = reasonOf(resp)
	out.WriteHeader(resp.StatusCode)
	if resp.ContentLength < 0 && out.flush() != nil { // its end may be far away, and its beginning, too
		return
	}
	if read, _ := out.copy(resp.Body); read != nil {
		abort()
	}
}

// deliver carries out an origin's answer. x is nil where it is the origin in this
// process. With redo, it was a long poll whose request is to be made once more,
// with these ids.
func (g *Gateway) deliver(out *output, r *http.Request, p *page, from source, x *exchange) (lasts []grip.Last, redo bool) {
	status := p.status
	if p.ins.Code != 0 {
		status = p.ins.Code
	}
	if status < 200 || status > 999 { // net/http cannot send them
		p.close()
		g.log.Debug("an origin answered with a status that cannot be sent", "status", status)
		out.text(http.StatusBadGateway, "Error while proxying to origin.")
		return nil, false
	}
	switch {
	case p.ins.Hold == grip.HoldResponse:
		return g.poll(out, r, p, status, from, x)
	case p.ins.Hold == grip.HoldNone && p.ins.Next == nil:
		g.plain(out, p, status)
	case out.crossing != nil && out.crossing.script != nil:
		p.close()
		out.text(http.StatusBadGateway, "A stream cannot be sent as a script.")
	default:
		g.stream(out, r, p, status, from)
	}
	return nil, false
}

// plain sends an answer that is complete.
func (g *Gateway) plain(out *output, p *page, status int) {
	defer p.close()
	out.reason = p.phrase()
	if p.rest == nil {
		length := p.ins.Header.Get("Content-Length")
		upstream.CopyHeaders(out.Header(), p.ins.Header)
		if out.request.Method == http.MethodHead && length != "" && bodyAllowed(status) {
			out.Header().Set("Content-Length", length)
			out.WriteHeader(status)
			return
		}
		_ = out.body(status, p.ins.Body)
		return
	}
	upstream.CopyHeaders(out.Header(), p.ins.Header)
	out.Header().Del("Content-Length")
	out.WriteHeader(status)
	if err := out.page(p); err != nil {
		var broken *brokenPage
		if errors.As(err, &broken) {
			abort()
		}
	}
}

// endOfAge is when a connection that began now has lasted long enough; zero if
// there is no such moment. ± 20 %, so that what began together ends apart.
func (g *Gateway) endOfAge(now time.Time) time.Time {
	age := g.cfg.ConnectionMaxAge
	if age == 0 {
		return time.Time{}
	}
	return now.Add(age*8/10 + rand.N(age*4/10+1))
}

// mentionsEvents reports whether a request claims to come from a gateway that
// carries WebSocket events.
func mentionsEvents(h http.Header) bool {
	for _, v := range append(h.Values("Accept"), h.Values("Content-Type")...) {
		if strings.Contains(strings.ToLower(v), grip.ContentTypeEvents) {
			return true
		}
	}
	return false
}

// carriesEvents reports whether a request's body is WebSocket events.
func carriesEvents(h http.Header) bool {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(media), grip.ContentTypeEvents)
}

// speaksOverHTTP reports whether a route carries WebSockets as requests.
func speaksOverHTTP(rt *route.Route) bool {
	return slices.ContainsFunc(rt.Targets, func(t route.Target) bool { return t.OverHTTP })
}

// withoutGrip takes the Grip headers of a client away: only we say them to the
// origin in this process. The URL is a copy, too.
func withoutGrip(r *http.Request) *http.Request {
	out := r.WithContext(r.Context())
	out.Header = make(http.Header, len(r.Header))
	for name, values := range r.Header {
		if len(name) < 5 || !strings.EqualFold(name[:5], "Grip-") {
			out.Header[name] = values
		}
	}
	out.URL = new(url.URL)
	*out.URL = *r.URL
	return out
}

// isWebSocket reports whether a request is a WebSocket handshake of HTTP/1.1.
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}
