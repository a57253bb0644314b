package upstream

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it, to tell servers apart and not as a proof
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"spillway/gateway/route"
	"spillway/grip"
)

// ErrNotSent says that an origin was connected, but has not got all of a request
// with events: it may be made again. So may one that an origin has answered by
// closing a kept connection, as it does with one that it took for idle.
var ErrNotSent = errors.New("request not wholly sent")

// A Handshake is a client's request for a WebSocket as the origin gets it: once,
// to become a WebSocket of its own (Dial), or with each request that carries
// events (Post). It keeps nothing of the client's request but its header.
type Handshake struct {
	f   *Forwarder
	rt  *route.Route
	out outgoing // without what is fresh in each request
	own bool     // signed here
}

// Handshake makes one for a route, of whose targets all or none are over_http.
func (f *Forwarder) Handshake(r *http.Request, rt *route.Route) *Handshake {
	// Who came by WebSocket came so also where its events travel by HTTP.
	if t := rt.Targets[0]; t.OverHTTP || t.Test {
		r = withoutEventFields(r)
	}
	header := f.requestHeader(r, rt)
	header.Del("Upgrade")
	header.Del("Sec-WebSocket-Extensions")
	own := !f.Trusted(r)
	if !rt.NoGrip {
		header.Set("Sec-WebSocket-Extensions", "grip")
	}
	return &Handshake{f: f, rt: rt, own: own, out: outgoing{
		path:       route.EncodedPath(r),
		query:      r.URL.RawQuery,
		forceQuery: r.URL.ForceQuery,
		host:       hostOf(r, rt),
		header:     header,
	}}
}

// withoutEventFields takes away what only a gateway says of a WebSocket (GRIP
// reference, 8.2).
func withoutEventFields(r *http.Request) *http.Request {
	out := new(http.Request)
	*out = *r
	out.Header = make(http.Header, len(r.Header))
	for name, values := range r.Header {
		if name != "Connection-Id" && !hasPrefixFold(name, "Meta-") {
			out.Header[name] = values
		}
	}
	return out
}

// Post makes a request with events, and more fields in its header. A target that
// cannot be reached is passed over for the next; the error is ErrUnreachable when
// none was left.
func (h *Handshake) Post(ctx context.Context, header http.Header, events []byte) (*http.Response, error) {
	out := h.out
	out.kind, out.method, out.events, out.header = kindEvents, http.MethodPost, events, h.fresh()
	out.header.Set("Accept", grip.ContentTypeEvents)
	out.header.Set("Content-Type", grip.ContentTypeEvents)
	for name, values := range header {
		out.header[name] = values
	}
	return h.f.send(ctx, &out, h.rt)
}

// fresh is the header with a new signature.
func (h *Handshake) fresh() http.Header {
	header := h.out.header.Clone()
	if h.own {
		h.f.setGripHeader(header, h.rt)
	}
	return header
}

// Dial asks for a WebSocket. When the origin refuses, the Socket is nil, and the
// response is what it said; the caller closes its body. Targets are passed over as
// with Post.
func (h *Handshake) Dial(ctx context.Context) (*http.Response, *Socket, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	out := h.out
	out.kind, out.method, out.upgrade, out.header = kindSocket, http.MethodGet, true, h.fresh()
	out.header.Set("Connection", "Upgrade")
	out.header.Set("Upgrade", "websocket")
	out.header.Set("Sec-WebSocket-Version", "13")
	out.header.Set("Sec-WebSocket-Key", key)
	resp, err := h.f.send(ctx, &out, h.rt)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, nil, err
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	switch {
	case !httpguts.HeaderValuesContainsToken(resp.Header["Upgrade"], "websocket"):
		err = fmt.Errorf("the origin switches to %q, not to websocket", resp.Header.Get("Upgrade"))
	case resp.Header.Get("Sec-WebSocket-Accept") != acceptOf(key):
		err = fmt.Errorf("the origin's Sec-WebSocket-Accept is %q, want %q", resp.Header.Get("Sec-WebSocket-Accept"), acceptOf(key))
	case !ok || out.taken == nil:
		err = errors.New("the connection cannot be taken over")
	case otherExtension(resp.Header):
		err = fmt.Errorf("the origin uses an extension that was not offered: %q", resp.Header["Sec-Websocket-Extensions"])
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, nil, err
	}
	return resp, &Socket{body, out.taken}, nil
}

// acceptOf is the answer to a key (RFC 6455, 4.2.2).
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func otherExtension(h http.Header) bool {
	for _, v := range h["Sec-Websocket-Extensions"] {
		for e := range strings.SplitSeq(v, ",") {
			if name, _, _ := strings.Cut(e, ";"); strings.TrimSpace(name) != "grip" {
				return true
			}
		}
	}
	return false
}

// A Socket is the connection of a WebSocket to an origin. Who has it closes it.
type Socket struct {
	io.ReadWriteCloser
	conn net.Conn
}

// SetReadDeadline bounds the reads from now on.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds the writes from now on.
func (s *Socket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }
