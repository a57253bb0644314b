package upstream

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"

	"spillway/gateway/route"
)

// Trusted reports whether the client is a GRIP gateway that signs with the
// upstream key: its Grip headers are forwarded as they are, and the response,
// GRIP headers included, belongs to it (GRIP reference, 1.4).
func (f *Forwarder) Trusted(r *http.Request) bool {
	if f.cfg.UpstreamKey.IsZero() {
		return false
	}
	sig := r.Header.Get("Grip-Sig")
	if sig == "" {
		return false
	}
	_, err := f.cfg.UpstreamKey.Verify(sig, f.now())
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
	proto := strings.ToLower(strings.TrimSpace(r.Header.Get("X-Forwarded-Proto")))
	return proto == "https" || proto == "wss"
}

func (f *Forwarder) fromTrustedProxy(r *http.Request) bool {
	if len(f.cfg.TrustedProxies) == 0 {
		return false
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false // a Unix socket has no address that a prefix could hold
	}
	addr := peer.Addr().Unmap().WithZone("")
	for _, p := range f.cfg.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// requestHeader returns the header of a client's request as the origin gets it
// (GRIP reference, 1.2 and 1.3).
func (f *Forwarder) requestHeader(r *http.Request, rt *route.Route) http.Header {
	trusted := f.Trusted(r)
	h := make(http.Header, len(r.Header)+4)
	for name, values := range r.Header {
		if !requestOnly(name) && (trusted || !isGrip(name)) {
			h[name] = append([]string(nil), values...)
		}
	}
	f.setForwarded(h, r)
	setRouteHeader(h, rt)
	if !trusted {
		f.setGripHeader(h, rt)
	}
	return h
}

// requestOnly reports whether a header of the client stays here. Proxy-*, TE,
// Upgrade and Via go on, as in Pushpin.
func requestOnly(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Connection", "Keep-Alive", "Transfer-Encoding", "Expect",
		// Bodies must come unencoded, so that items can be appended to them.
		"Accept-Encoding", "Content-Encoding",
		// net/http writes it from Request.ContentLength.
		"Content-Length",
		// Made anew by setForwarded; a client must not claim TLS.
		"X-Forwarded-Proto", "X-Forwarded-Protocol":
		return true
	}
	return hasPrefixFold(name, origHeaderPrefix)
}

// origHeaderPrefix marks the copies that Pushpin makes of a client's headers on
// orig_headers routes. Such routes are not carried out, but a client must not
// be able to make an origin believe in one.
const origHeaderPrefix = "eb9bf0f5-"

func isGrip(name string) bool { return hasPrefixFold(name, "Grip-") }

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// setForwarded says how the client came. X-Forwarded-Proto is absent on plain
// connections, as in Pushpin, so that its mere presence can be tested for.
func (f *Forwarder) setForwarded(h http.Header, r *http.Request) {
	if f.ClientTLS(r) {
		proto := "https"
		if isWebSocket(r.Header) {
			proto = "wss"
		}
		h.Set("X-Forwarded-Proto", proto)
	}
	if len(f.cfg.TrustedProxies) == 0 {
		return
	}
	if !f.fromTrustedProxy(r) {
		for name := range h {
			if hasPrefixFold(name, "X-Forwarded-") && name != "X-Forwarded-Proto" || name == "Forwarded" {
				delete(h, name)
			}
		}
	}
	if peer, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		h["X-Forwarded-For"] = []string{strings.Join(append(h.Values("X-Forwarded-For"), peer), ", ")}
	}
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
		key = f.cfg.SigKey
	}
	if iss == "" {
		iss = f.cfg.SigIss
	}
	if !key.IsZero() {
		// Configuration has refused keys that cannot sign. Should one get
		// here, an unsigned request is what the origin will refuse.
		if sig, err := key.Sign(iss, f.now()); err == nil {
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
