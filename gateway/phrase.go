package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http/httpguts"
)

// A phrased is a client's connection on which a status may have another reason
// phrase than the standard one: net/http can say no other, so the first line of
// the response is exchanged when it is written. There is no such thing behind
// TLS, where net/http must see the bare connection, nor in HTTP/2.
type phrased struct {
	net.Conn
	line    atomic.Pointer[statusLine] // nil: as it is
	preface *preface                   // nil: any client may speak any protocol
	headers prometheus.Counter         // of refused heads
}

// headTooLarge is what net/http, which has no hook for it, writes to a client whose
// head exceeds MAX_HEADER_BYTES.
const headTooLarge = "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"

// A preface looks for the one word that HTTP/2 begins with and no request of
// HTTP/1 does.
type preface struct {
	trusted []netip.Prefix // who may say it
	refused prometheus.Counter
	said    int // bytes of the word; -1: it is another one
}

const prefaceWord = "PRI "

// hears reports whether HTTP/2 begins.
func (p *preface) hears(text []byte) bool {
	for _, c := range text {
		if p.said < 0 || c != prefaceWord[p.said] {
			p.said = -1
			return false
		}
		if p.said++; p.said == len(prefaceWord) {
			p.said = -1
			return true
		}
	}
	return false
}

func (c *phrased) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if p := c.preface; p != nil && p.said >= 0 && p.hears(b[:n]) && !isTrusted(addressIn(c.RemoteAddr().String()), p.trusted) {
		p.refused.Inc()
		sayAndClose(c.Conn, http.StatusHTTPVersionNotSupported, "HTTP/2 without TLS is spoken with TRUSTED_PROXIES only")
		return 0, net.ErrClosed
	}
	return n, err
}

type statusLine struct{ standard, own []byte }

// NetConn is for who takes the connection over.
func (c *phrased) NetConn() net.Conn { return c.Conn }

// Write exchanges the status line, which net/http writes at the beginning of a
// buffer.
func (c *phrased) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte(headTooLarge)) {
		c.headers.Inc()
	}
	line := c.line.Load()
	if line == nil || !bytes.HasPrefix(p, line.standard) {
		return c.Conn.Write(p)
	}
	c.line.Store(nil)
	n, err := c.Conn.Write(append(bytes.Clone(line.own), p[len(line.standard):]...))
	if err != nil {
		return min(n, len(p)), err
	}
	return len(p), nil
}

// say makes the next response begin with this status and reason.
func (c *phrased) say(r *http.Request, status int, reason string) {
	version := "HTTP/1.0"
	if r.ProtoAtLeast(1, 1) {
		version = "HTTP/1.1"
	}
	standard := http.StatusText(status)
	if standard == "" {
		standard = fmt.Sprintf("status code %d", status) // what net/http says
	}
	if reason == standard || !httpguts.ValidHeaderFieldValue(reason) {
		return
	}
	c.line.Store(&statusLine{fmt.Appendf(nil, "%s %03d %s\r\n", version, status, standard), fmt.Appendf(nil, "%s %03d %s\r\n", version, status, reason)})
}

// A phrasing listener gives connections the ability.
type phrasing struct {
	net.Listener
	g *Gateway
}

func (l phrasing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	p := &phrased{Conn: c, headers: l.g.metrics.refused[refusedHeaders]}
	if len(l.g.trusted) > 0 { // else net/http speaks no HTTP/2 without TLS
		p.preface = &preface{trusted: l.g.trusted, refused: l.g.metrics.refused[refusedHTTP2]}
	}
	return p, nil
}

type phrasedKey struct{}

type arrivalKey struct{}

// arrivalOf is the connection of a request, as it was accepted; nil where nothing of
// it matters.
func arrivalOf(r *http.Request) *cappedConn {
	c, _ := r.Context().Value(arrivalKey{}).(*cappedConn)
	return c
}

// withConn lets handlers know what is special about their connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if a := cappedOf(c); a != nil && a.seat.of.pace != nil {
		ctx = context.WithValue(ctx, arrivalKey{}, a)
	}
	if p, ok := c.(*phrased); ok {
		ctx, c = context.WithValue(ctx, phrasedKey{}, p), p.Conn
	}
	return withReturned(ctx, c)
}

// phrasedOf is the connection of a request; nil where it has no phrases.
func phrasedOf(r *http.Request) *phrased {
	p, _ := r.Context().Value(phrasedKey{}).(*phrased)
	return p
}

// reasonOf is the reason phrase of an origin's response.
func reasonOf(resp *http.Response) string {
	_, reason, _ := strings.Cut(resp.Status, " ")
	return strings.TrimSpace(reason)
}

// phrase is the reason phrase that a page asks for; empty: the standard one.
func (p *page) phrase() string {
	switch {
	case p.ins.Code == 0:
		return p.reason
	case p.ins.Reason == "" && http.StatusText(p.ins.Code) == "":
		return "Undefined Reason" // as Pushpin
	}
	return p.ins.Reason
}
