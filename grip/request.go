package grip

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

var (
	errNotSigned = errors.New("grip: no Grip-Sig: the request did not come through a GRIP proxy, or not through one that signs")
	errNoSigners = errors.New("grip: no proxies to verify a Grip-Sig by; is GRIP_URL set?")
)

// VerifyRequest checks that one of proxies made r, by its Grip-Sig. Each needs
// a VerifyKey, such as GRIP_URL=http://localhost:5561?verify-key=changeme gives
// it. Only then is what proxies alone may say (Grip-Last, Connection-Id, Meta-*,
// the events of a WebSocket) not what a client made up.
func VerifyRequest(r *http.Request, proxies ...Proxy) error {
	if len(proxies) == 0 {
		return errNoSigners
	}
	sig := r.Header.Get("Grip-Sig")
	if sig == "" {
		return errNotSigned
	}
	now := time.Now()
	errs := make([]error, len(proxies))
	for i, p := range proxies {
		err := p.VerifySig(sig, now)
		switch {
		case err == nil:
			return nil
		case p.VerifyKey.IsZero():
			err = errors.New("no key to verify by; add verify-key=… to the GRIP_URL")
		}
		errs[i] = fmt.Errorf("grip: Grip-Sig: %s: %w", p, err)
	}
	return errors.Join(errs...)
}

// Proxied reports whether r says that it came through a GRIP proxy. Anybody can
// say so: it tells an origin whether to answer with a hold or with a plain
// response, where a hold gives nothing away. See VerifyRequest for the rest.
func Proxied(r *http.Request) bool {
	return r.Header.Get("Grip-Sig") != "" || r.Header.Get("Grip-Feature") != ""
}

// RequireProxy returns a handler that passes on to next what VerifyRequest finds
// one of proxies to have made, and answers 501 to everything else.
func RequireProxy(next http.Handler, proxies ...Proxy) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch err := VerifyRequest(r, proxies...); {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.Is(err, errNotSigned):
			http.Error(w, "This is served through a GRIP proxy only.", http.StatusNotImplemented)
		default:
			// Which proxies there are, and what is wrong, is not for the client.
			http.Error(w, "The Grip-Sig of the request is not one that this server accepts.", http.StatusNotImplemented)
		}
	})
}

// Features returns what the proxy can do, as its Grip-Feature headers say it:
// status, session, link:next, link:gone, and filter:NAME for each filter.
func Features(h http.Header) []string { return names(h.Values("Grip-Feature")) }

// LastID returns the last id of a channel that the proxy knows of, from the
// Grip-Last headers of a request: where to go on. ok is false when there is
// none, or when they cannot be read (see ParseLast).
func LastID(h http.Header, channel string) (id string, ok bool) {
	lasts, err := ParseLast(h)
	if err != nil {
		return "", false
	}
	for _, l := range lasts {
		if l.Channel == channel {
			return l.ID, true
		}
	}
	return "", false
}

const metaPrefix = "Meta-"

// ParseMeta returns the Meta-* headers of a request about a WebSocket: what
// the origin has set for the connection before. Names are in lower case.
func ParseMeta(h http.Header) map[string]string {
	meta := make(map[string]string)
	for name, values := range h {
		if len(name) > len(metaPrefix) && strings.EqualFold(name[:len(metaPrefix)], metaPrefix) && len(values) > 0 {
			meta[strings.ToLower(name[len(metaPrefix):])] = values[0]
		}
	}
	return meta
}
