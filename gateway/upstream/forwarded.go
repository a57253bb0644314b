package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// A ProtoHeader says which headers tell an origin that the client came by TLS.
type ProtoHeader string

const (
	ProtoOnly ProtoHeader = "proto-only" // X-Forwarded-Proto
	ProtoBoth ProtoHeader = "true"       // X-Forwarded-Protocol too, an older name
	ProtoNone ProtoHeader = "false"      // what the client says is passed on
)

// A ForwardedFor is what happens to X-Forwarded-For (GRIP reference, 12.2). The
// zero value leaves it alone.
type ForwardedFor struct {
	Truncate bool // keep only the last Keep entries
	Keep     int
	Append   bool // add the address of the peer
}

// ParseForwardedFor reads the items of Pushpin's x_forwarded_for: truncate:N and
// append.
func ParseForwardedFor(items []string) (rule ForwardedFor, err error) {
	for _, item := range items {
		switch n, isTruncate := strings.CutPrefix(item, "truncate:"); {
		case item == "append":
			rule.Append = true
		case isTruncate:
			keep, err := strconv.ParseUint(n, 10, 16)
			if err != nil {
				return ForwardedFor{}, fmt.Errorf("%s: write truncate:N, where N is how many entries stay, such as truncate:0", item)
			}
			rule.Truncate, rule.Keep = true, int(keep)
		default:
			return ForwardedFor{}, fmt.Errorf("%q: must be truncate:N or append", item)
		}
	}
	return rule, nil
}

// apply returns the entries of X-Forwarded-For as the origin gets them: one list.
func (rule ForwardedFor) apply(values []string, peer string) []string {
	if rule == (ForwardedFor{}) {
		return values
	}
	var entries []string
	for _, v := range values {
		for e := range strings.SplitSeq(v, ",") {
			if e = strings.TrimSpace(e); e != "" {
				entries = append(entries, e)
			}
		}
	}
	if rule.Truncate {
		entries = entries[max(0, len(entries)-rule.Keep):]
	}
	if rule.Append && peer != "" {
		entries = append(entries, peer)
	}
	if len(entries) == 0 {
		return nil
	}
	return []string{strings.Join(entries, ", ")}
}

// peerAddress is the address that the client's connection comes from.
func peerAddress(r *http.Request) (netip.Addr, error) {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, errors.New("no address") // a Unix socket has none
	}
	return peer.Addr().Unmap().WithZone(""), nil
}

// setForwarded says how the client came. X-Forwarded-Proto is absent on plain
// connections, as in Pushpin, so that its mere presence can be tested for.
func (f *Forwarder) setForwarded(h http.Header, r *http.Request, trusted bool) {
	if len(f.cfg.TrustedProxies) > 0 && !trusted && !f.fromTrustedProxy(r) {
		for name := range h {
			if hasPrefixFold(name, "X-Forwarded-") || name == "Forwarded" {
				delete(h, name)
			}
		}
	}
	if f.ClientTLS(r) {
		proto := "https"
		if isWebSocket(r.Header) {
			proto = "wss"
		}
		f.setProto(h, proto)
	}
	rule := f.cfg.ForwardedFor
	if trusted {
		rule = f.cfg.ForwardedForTrusted
	} else if rule == (ForwardedFor{}) && len(f.cfg.TrustedProxies) > 0 {
		rule.Append = true // who is told whom to believe has a list that is worth something
	}
	peer := ""
	if addr, err := peerAddress(r); err == nil {
		peer = addr.String()
	}
	if values := rule.apply(h["X-Forwarded-For"], peer); len(values) > 0 {
		h["X-Forwarded-For"] = values
	} else {
		delete(h, "X-Forwarded-For")
	}
}

// setProto says that the client came by TLS.
func (f *Forwarder) setProto(h http.Header, proto string) {
	switch f.cfg.Proto {
	case ProtoBoth:
		h.Set("X-Forwarded-Protocol", proto)
		fallthrough
	case ProtoOnly:
		h.Set("X-Forwarded-Proto", proto)
	}
}

// setLoop adds this hop to CDN-Loop (RFC 8586).
func (f *Forwarder) setLoop(h http.Header) {
	if f.cfg.CDNLoop != "" {
		h["Cdn-Loop"] = []string{strings.Join(append(h["Cdn-Loop"], f.cfg.CDNLoop), ", ")}
	}
}
