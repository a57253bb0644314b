package upstream

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"spillway/gateway/route"
)

// Trusted reports whether the client is a GRIP gateway that signs with the
// upstream key: its Grip headers are forwarded as they are, and the response,
// GRIP headers included, belongs to it (GRIP reference, 1.4).
func (f *Forwarder) Trusted(r *http.Request) bool {
	keys := f.cfg.UpstreamKeys.Get()
	if len(keys) == 0 {
		return false
	}
	sig := r.Header.Get("Grip-Sig")
	if sig == "" {
		return false
	}
	_, err := keys.Verify(sig, f.now())
	return err == nil
}

// ClientTLS reports whether the client came by TLS: to this process, or to a
// trusted proxy in front of it.
func (f *Forwarder) ClientTLS(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	if !f.fromTrustedProxy(r) {
		return false
	}
	for _, name := range []string{"X-Forwarded-Proto", "X-Forwarded-Protocol"} {
		switch strings.ToLower(strings.TrimSpace(r.Header.Get(name))) {
		case "https", "wss":
			return true
		}
	}
	return false
}

func (f *Forwarder) fromTrustedProxy(r *http.Request) bool {
	if len(f.cfg.TrustedProxies) == 0 {
		return false
	}
	addr, err := peerAddress(r)
	if err != nil {
		return false
	}
	for _, p := range f.cfg.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// hostOf is the host that an origin is told, where its target has no other: in
// small letters, as in Pushpin, so that origins that compare names bytewise see
// one.
func hostOf(r *http.Request, rt *route.Route) string {
	return cmp.Or(rt.AsHost, strings.ToLower(r.Host))
}

// requestHeader returns the header of a client's request as the origin gets it
// (GRIP reference, 1.2 and 1.3).
func (f *Forwarder) requestHeader(r *http.Request, rt *route.Route) http.Header {
	trusted := f.Trusted(r)
	h := make(http.Header, len(r.Header)+4)
	for name, values := range r.Header {
		if !f.requestOnly(name) && (trusted || !isGrip(name)) {
			h[name] = append([]string(nil), values...)
		}
	}
	if rt.OrigHeaders {
		f.copyOriginal(h, r)
	}
	f.setForwarded(h, r, trusted)
	f.setLoop(h)
	setRouteHeader(h, rt)
	if !trusted {
		f.setGripHeader(h, rt)
	}
	return h
}

// requestOnly reports whether a header of the client stays here. Proxy-*, TE,
// Upgrade and Via go on, as in Pushpin.
func (f *Forwarder) requestOnly(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Connection", "Keep-Alive", "Transfer-Encoding", "Expect",
		// Bodies must come unencoded, so that items can be appended to them.
		"Accept-Encoding", "Content-Encoding",
		// net/http writes it from Request.ContentLength.
		"Content-Length":
		return true
	case "X-Forwarded-Proto", "X-Forwarded-Protocol":
		return f.cfg.Proto != ProtoNone // made anew by setForwarded; a client must not claim TLS
	case "Pushpin-Route":
		return f.cfg.AcceptPushpinRoute
	}
	return hasPrefixFold(name, origHeaderPrefix)
}

// origHeaderPrefix marks the copies of a client's headers that go to the origin
// of an orig_headers route, and nowhere else: a client must not be able to make
// an origin believe in one.
const origHeaderPrefix = "eb9bf0f5-"

// copyOriginal adds the client's headers as they came, marked. Those that the
// client has marked itself are taken over; a header that needs a mark has no
// other copy.
func (f *Forwarder) copyOriginal(h http.Header, r *http.Request) {
	add := func(name string, values []string) {
		marked := origHeaderPrefix + name // not canonical: sent in small letters, as in Pushpin
		h[marked] = append(h[marked], values...)
	}
	for name, values := range r.Header {
		if hasPrefixFold(name, origHeaderPrefix) {
			add(http.CanonicalHeaderKey(name[len(origHeaderPrefix):]), values)
		}
	}
	needsMark := func(name string) bool {
		return slices.ContainsFunc(f.cfg.NeedMark, func(n string) bool { return strings.EqualFold(n, name) })
	}
	if !needsMark("Host") && r.Host != "" {
		add("Host", []string{r.Host})
	}
	for name, values := range r.Header {
		if !hasPrefixFold(name, origHeaderPrefix) && !needsMark(name) {
			add(name, values)
		}
	}
}

func isGrip(name string) bool { return hasPrefixFold(name, "Grip-") }

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func isWebSocket(h http.Header) bool {
	return httpguts.HeaderValuesContainsToken(h["Upgrade"], "websocket") &&
		httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
}

// setRouteHeader applies the route's header= values, and keeps net/http from
// naming itself where the client gave no name.
func setRouteHeader(h http.Header, rt *route.Route) {
	for _, rh := range rt.Header {
		if rh.Value == "" {
			h.Del(rh.Name)
		} else {
			h.Set(rh.Name, rh.Value)
		}
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil
	}
}

// setGripHeader signs the request and says what this gateway can do, unless the
// route is a plain proxy.
func (f *Forwarder) setGripHeader(h http.Header, rt *route.Route) {
	if rt.NoGrip {
		return
	}
	key, iss := rt.SigKey, rt.SigIss
	if key.IsZero() {
		key = f.cfg.SigKey.Get()
	}
	if iss == "" {
		iss = f.cfg.SigIss
	}
	if !key.IsZero() {
		// Configuration has refused keys that cannot sign. Should one get
		// here, an unsigned request is what the origin will refuse.
		if sig, err := f.signer.sign(key, iss, f.now()); err == nil {
			h.Set("Grip-Sig", sig)
		} else {
			f.log.Error("Grip-Sig not made", "cause", err)
		}
	}
	if f.feature != "" {
		h.Set("Grip-Feature", f.feature)
	}
}

// CopyHeaders adds the headers of an origin's response to a client's, without
// those that belong to the connection between gateway and origin (GRIP
// reference, 1.5).
//
// Content-Encoding is one of them where Do has undone the encoding. A body in
// an encoding that it does not know keeps the header, since without it the
// bytes mean nothing; Pushpin removes it.
func CopyHeaders(dst, src http.Header) {
	for name, values := range src {
		switch http.CanonicalHeaderKey(name) {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer":
			continue
		case "Content-Encoding":
			if identity(values) {
				continue
			}
		}
		dst[name] = append(dst[name], values...)
	}
}

// identity reports whether the values of Content-Encoding name no encoding.
func identity(values []string) bool {
	for _, v := range values {
		for c := range strings.SplitSeq(v, ",") {
			if c = strings.TrimSpace(c); c != "" && !strings.EqualFold(c, "identity") {
				return false
			}
		}
	}
	return true
}
