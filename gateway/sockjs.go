package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/route"
	"spillway/gateway/sockjs"
	"spillway/grip"
	"spillway/grip/bytesize"
)

func newSockJS(g *Gateway, log *slog.Logger, reg prometheus.Registerer) *sockjs.Server {
	return sockjs.New(sockjs.Config{
		URL:           g.cfg.SockJSURL,
		Heartbeat:     g.cfg.SockJSHeartbeat,
		Timeout:       g.cfg.SockJSSessionTimeout,
		ResponseBytes: int(g.cfg.SockJSResponseBytes),
		BufferBytes:   int(g.cfg.SockJSBufferBytes),
		SendBytes:     int(g.cfg.SockJSSendBytes),
		WriteTimeout:  g.cfg.WriteTimeout,
	}, func(f func(context.Context)) { g.drain.spawn(func() { f(g.base) }) }, log.With("part", "sockjs"), reg)
}

// checkSockJS is the part of Validate that is about SockJS.
func (c *Config) checkSockJS(bad func(env string, got any, want string), between func(env string, got, low, high bytesize.Bytes)) {
	if u, err := url.Parse(c.SockJSURL); err != nil || u.Scheme != "http" && u.Scheme != "https" && !strings.HasPrefix(c.SockJSURL, "/") {
		bad("SOCKJS_URL", c.SockJSURL, "write the URL of a script, such as https://example.com/sockjs.min.js")
	}
	if d := c.SockJSHeartbeat; d < time.Second || d > 10*time.Minute {
		bad("SOCKJS_HEARTBEAT", d, "must be between 1s and 10m")
	}
	if d := c.SockJSSessionTimeout; d < time.Second || d > 10*time.Minute {
		bad("SOCKJS_SESSION_TIMEOUT", d, "must be between 1s and 10m")
	}
	between("SOCKJS_RESPONSE_BYTES", c.SockJSResponseBytes, 1<<10, 1<<30)
	between("SOCKJS_BUFFER_BYTES", c.SockJSBufferBytes, 1<<10, 1<<30)
	between("SOCKJS_SEND_BYTES", c.SockJSSendBytes, 1<<10, 1<<30)
}

// sockJSRest is what stands behind the base path of a route's SockJS; ok is false
// where the request is not under it.
func sockJSRest(r *http.Request, rt *route.Route) (rest string, ok bool) {
	if rt == nil || rt.SockJS == "" {
		return "", false
	}
	rest, ok = strings.CutPrefix(route.EncodedPath(r), strings.TrimSuffix(rt.SockJS, "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}

// serveSockJS answers a request of a SockJS client. To the origin each session is a
// WebSocket like any other.
func (g *Gateway) serveSockJS(out *output, r *http.Request, rt *route.Route, rest string) {
	out.crossing = nil // SockJS has its own ways
	if rest == "/websocket" {
		if isWebSocket(r) {
			g.serveSocket(out, asWebSocket(r.Context(), r, rt), rt)
		} else {
			out.text(http.StatusBadRequest, `Can "Upgrade" only to "WebSocket".`)
		}
		return
	}
	g.sockjs.Serve(out, r, rt.Host+rt.SockJS, rest, func(ctx context.Context, polled bool) (*websocket.Conn, error) {
		return g.openInside(ctx, out, r, rt, polled)
	})
}

// asWebSocket is a request of a SockJS client as the handshake of its WebSocket.
func asWebSocket(ctx context.Context, r *http.Request, rt *route.Route) *http.Request {
	path := rt.SockJSAsPath
	if path == "" {
		path = strings.TrimSuffix(rt.SockJS, "/") + "/websocket"
	}
	out := r.Clone(ctx)
	out.Method, out.Body, out.ContentLength, out.TransferEncoding = http.MethodGet, http.NoBody, 0, nil
	out.RequestURI = path
	if r.URL.RawQuery != "" {
		out.RequestURI += "?" + r.URL.RawQuery
	}
	if u, err := out.URL.Parse(out.RequestURI); err == nil { // the route has an encoded path
		out.URL = u
	}
	for _, name := range []string{"Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Expect"} {
		out.Header.Del(name)
	}
	return out
}

// insideRoute is a route by which the origin gets the key of the client's own
// handshake, or none, and not that of ours.
func insideRoute(r *http.Request, rt *route.Route) *route.Route {
	out := *rt
	out.Header = append(slices.Clip(out.Header), grip.Header{Name: "Sec-WebSocket-Key", Value: r.Header.Get("Sec-WebSocket-Key")},
		grip.Header{Name: "Sec-WebSocket-Version", Value: r.Header.Get("Sec-WebSocket-Version")})
	return &out
}

// errInside says that a handshake was answered by none of its own handlers.
var errInside = errors.New("the handshake has no answer")

// openInside makes the WebSocket of a session: the gateway serves it as that of a
// client, at the other end of a pipe. One that is polled counts as a connection, in
// the place of the requests that wait for it.
func (g *Gateway) openInside(ctx context.Context, out *output, r *http.Request, rt *route.Route, polled bool) (*websocket.Conn, error) {
	v := g.enter()
	switch first := &out.visit; {
	case !polled:
	case first.admitted:
		v.peer, v.admitted = first.peer, true
		first.peer, first.admitted = nil, false
	default: // its session ended just now
		why, ok := g.admit(&v, clientAddress(r, g.trusted))
		if !ok {
			v.leave()
			g.turnedAway(r, false, rt, why, nil)
			return nil, &sockjs.Refusal{Status: http.StatusServiceUnavailable,
				Header: http.Header{"Retry-After": {"5"}, "Content-Type": {"text/plain"}}, Body: []byte(refusals[why].text + "\n")}
		}
	}
	life, cancel := context.WithCancel(g.base) // of the handshake alone
	defer context.AfterFunc(ctx, cancel)()
	in := &inside{g: g, handshake: asWebSocket(life, r, rt), route: insideRoute(r, rt), visit: v, cancel: cancel, header: make(http.Header), answered: make(chan struct{})}
	ws, _, err := websocket.Dial(ctx, "ws://inside/", &websocket.DialOptions{HTTPClient: &http.Client{Transport: in}}) //nolint:bodyclose // the library has it
	if err != nil {
		if in.near != nil {
			_ = in.near.Close()
		} else {
			cancel()
			v.leave()
		}
		if in.refusal != nil {
			return nil, in.refusal
		}
		return nil, err
	}
	return ws, nil
}

// An inside is a way to the gateway that needs no network: it is the client's
// http.RoundTripper, and the handler's http.ResponseWriter.
type inside struct {
	g         *Gateway
	handshake *http.Request
	route     *route.Route
	visit     visit
	cancel    context.CancelFunc // ends the handshake

	near, far net.Conn

	header   http.Header
	once     sync.Once
	answered chan struct{} // closed when the answer is there
	status   int           // of the answer; 0: not yet
	body     bytes.Buffer  // of a refusal
	refusal  *sockjs.Refusal
}

// RoundTrip implements http.RoundTripper.
func (in *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	for name, values := range r.Header {
		if name == "Connection" || name == "Upgrade" || name == "Sec-Websocket-Key" || name == "Sec-Websocket-Version" {
			in.handshake.Header[name] = values
		}
	}
	in.handshake.Header.Del("Sec-Websocket-Extensions")
	in.handshake.Header.Del("Sec-Websocket-Protocol")
	in.near, in.far = net.Pipe()
	in.g.drain.spawn(in.serve) // ends with the handshake
	select {
	case <-in.answered:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	switch in.status {
	case http.StatusSwitchingProtocols:
		return &http.Response{StatusCode: in.status, ProtoMajor: 1, ProtoMinor: 1, Header: in.header, Body: in.near, Request: r}, nil
	case 0:
		return nil, errInside
	}
	in.refusal = &sockjs.Refusal{Status: in.status, Header: in.header, Body: in.body.Bytes()}
	return nil, in.refusal
}

// serve runs the gateway's handler.
func (in *inside) serve() {
	out := newOutput(in, in.handshake, in.visit, in.g.cfg.WriteTimeout)
	out.client = addressOf(clientAddress(in.handshake, in.g.trusted))
	defer func() {
		if p := recover(); p != nil && p != any(http.ErrAbortHandler) { // a panic's value is compared as net/http does
			panic(p)
		}
		out.done()
		in.cancel()
		in.once.Do(func() {
			_ = in.far.Close()
			close(in.answered)
		})
	}()
	in.g.serveSocket(out, in.handshake, in.route)
}

func (in *inside) Header() http.Header { return in.header }

func (in *inside) WriteHeader(status int) {
	if in.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	in.status = status
	in.header = in.header.Clone()
	if status == http.StatusSwitchingProtocols {
		in.once.Do(func() { close(in.answered) })
	}
}

func (in *inside) Write(p []byte) (int, error) {
	in.WriteHeader(http.StatusOK)
	if in.body.Len()+len(p) > grip.MaxRefusal {
		return 0, errInside // the rest of a long refusal is for nobody
	}
	return in.body.Write(p)
}

// Hijack implements http.Hijacker.
func (in *inside) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return in.far, bufio.NewReadWriter(bufio.NewReader(in.far), bufio.NewWriter(in.far)), nil
}

// FlushError is for http.ResponseController.
func (*inside) FlushError() error { return nil }
