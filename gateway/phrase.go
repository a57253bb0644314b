package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"golang.org/x/net/http/httpguts"
)

// A phrased is a client's connection on which a status may have another reason
// phrase than the standard one: net/http can say no other, so the first line of
// the response is exchanged when it is written. There is no such thing behind
// TLS, where net/http must see the bare connection, nor in HTTP/2.
type phrased struct {
	net.Conn
	line atomic.Pointer[statusLine] // nil: as it is
}

type statusLine struct{ standard, own []byte }

// NetConn is for who takes the connection over.
func (c *phrased) NetConn() net.Conn { return c.Conn }

// Write exchanges the status line, which net/http writes at the beginning of a
// buffer.
func (c *phrased) Write(p []byte) (int, error) {
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
type phrasing struct{ net.Listener }

func (l phrasing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &phrased{Conn: c}, nil
}

type phrasedKey struct{}

// withConn lets handlers know what is special about their connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
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
