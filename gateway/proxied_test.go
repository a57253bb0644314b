package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/ws"
	"spillway/grip"
)

// socketOrigin is an HTTP origin that accepts WebSockets, and lets a test speak for
// it frame by frame.
type socketOrigin struct {
	*apiOrigin
	t        *testing.T
	sockets  chan *originSocket
	header   http.Header // of the answers
	refusing bool
}

// originSocket is the origin's side.
type originSocket struct {
	rawSocket
	request *http.Request
	reader  ws.Reader
	heard   []ws.Message
}

func startProxied(t *testing.T, routes string, header ...string) (*fixture, *socketOrigin) {
	t.Helper()
	checkGoroutines(t)
	o := &socketOrigin{t: t, sockets: make(chan *originSocket, 10), header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		o.header.Set(header[i], header[i+1])
	}
	o.apiOrigin = newAPI(t, nil)
	o.Config.Handler = http.HandlerFunc(o.serve)
	f := start(t, func(c *Config) {
		c.Routes = strings.ReplaceAll(routes, "ORIGIN", o.Listener.Addr().String())
	})
	return f, o
}

func (o *socketOrigin) serve(w http.ResponseWriter, r *http.Request) {
	for name, values := range o.header {
		w.Header()[name] = values
	}
	if o.refusing {
		w.WriteHeader(403)
		io.WriteString(w, "not you")
		return
	}
	conn, early, _, err := ws.Upgrade(&extending{w, o.header["Sec-Websocket-Extensions"]}, r, o.header.Get("Sec-WebSocket-Protocol"), false)
	if err != nil || len(early) > 0 {
		o.t.Errorf("upgrade: %v, %d early bytes", err, len(early))
		return
	}
	conn.SetDeadline(time.Now().Add(2 * patience))
	o.t.Cleanup(func() { conn.Close() })
	s := &originSocket{rawSocket: rawSocket{t: o.t, conn: conn, r: bufio.NewReader(conn)}, request: r}
	s.reader = ws.NewReader(&ws.Rules{Limit: 4 << 20})
	o.sockets <- s
}

// next reads a message of the gateway, unmasked.
func (s *originSocket) next() (ws.Message, error) {
	buf := make([]byte, 4<<10)
	for len(s.heard) == 0 {
		n, err := s.r.Read(buf)
		if err != nil {
			return ws.Message{}, err
		}
		err = s.reader.Feed(buf[:n], func(m ws.Message) error {
			s.heard = append(s.heard, ws.Message{Op: m.Op, Payload: append([]byte(nil), m.Payload...)})
			return nil
		})
		if err != nil {
			return ws.Message{}, err
		}
	}
	m := s.heard[0]
	s.heard = s.heard[1:]
	return m, nil
}

func (s *originSocket) want(op ws.Op, payload string) {
	s.t.Helper()
	m, err := s.next()
	if err != nil || m.Op != op || string(m.Payload) != payload {
		s.t.Fatalf("origin: got %d %.200q, %v, want %d %.200q", m.Op, m.Payload, err, op, payload)
	}
}

func (s *originSocket) wantCut() {
	s.t.Helper()
	m, err := s.next()
	var netErr net.Error
	if err == nil || errors.As(err, &netErr) && netErr.Timeout() {
		s.t.Fatalf("origin: got %d %q, %v, want the end of the connection", m.Op, m.Payload, err)
	}
}

// say sends frames without a mask.
func (s *originSocket) say(frames ...any) {
	s.t.Helper()
	var b []byte
	for i := 0; i < len(frames); i += 2 {
		b = ws.AppendFrame(b, frames[i].(ws.Op), []byte(frames[i+1].(string)))
	}
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

// both are the two ends of one WebSocket through the gateway.
func (o *socketOrigin) both(f *fixture, header ...string) (client *rawSocket, origin *originSocket) {
	o.t.Helper()
	client = f.shake(o.t, "/chat?room=1", header...).answered(101)
	select {
	case origin = <-o.sockets:
	case <-time.After(patience):
		o.t.Fatal("waited in vain for the handshake of the gateway")
	}
	return client, origin
}

func TestProxied(t *testing.T) {
	f, o := startProxied(t, "*,header=X-Route:r ORIGIN", "X-Own", "yes", "Sec-WebSocket-Protocol", "two")
	c, s := o.both(f, "Cookie", "a=b", "Sec-WebSocket-Protocol", "one, two", "Sec-WebSocket-Extensions", "permessage-deflate", "Meta-A", "1",
		"Grip-Last", "forged")
	for name, want := range map[string]string{"Cookie": "a=b", "X-Route": "r", "Sec-WebSocket-Extensions": "grip", "Sec-WebSocket-Protocol": "one, two",
		"Meta-A": "1", "Grip-Last": "", "Sec-WebSocket-Version": "13"} {
		if got := s.request.Header.Get(name); got != want {
			t.Errorf("header %s of the request: got %q, want %q", name, got, want)
		}
	}
	if s.request.Header.Get("Grip-Sig") == "" || s.request.Host != "h.example" || s.request.URL.String() != "/chat?room=1" {
		t.Errorf("request: got %v of %s, Grip-Sig %q", s.request.URL, s.request.Host, s.request.Header.Get("Grip-Sig"))
	}
	for name, want := range map[string]string{"X-Own": "yes", "Sec-WebSocket-Protocol": "two", "Sec-WebSocket-Extensions": ""} {
		if got := c.resp.Header.Get(name); got != want {
			t.Errorf("header %s of the answer: got %q, want %q", name, got, want)
		}
	}
	long := strings.Repeat("long ", 100_000)
	for _, tt := range []struct {
		op      ws.Op
		payload string
	}{
		{ws.OpText, "c:hello"}, {ws.OpText, ""}, {ws.OpBinary, "\x00\xff"}, {ws.OpPing, "there?"}, {ws.OpPing, ""}, {ws.OpPong, "yes"}, {ws.OpText, long},
	} {
		c.say(tt.op, tt.payload)
		s.want(tt.op, tt.payload)
		s.say(tt.op, tt.payload)
		c.want(tt.op, tt.payload)
	}
	f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "websocket"}, 1)
	c.say(ws.OpClose, closing(4000, "bye"))
	s.want(ws.OpClose, closing(4000, "bye"))
	s.say(ws.OpClose, closing(4001, "bye bye"))
	c.want(ws.OpClose, closing(4001, "bye bye"))
	c.wantCut()
	s.wantCut()
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "client"}, 1)
}

func TestProxiedGrip(t *testing.T) {
	f, o := startProxied(t, "*,prefix=p- ORIGIN,sub=all", "Sec-WebSocket-Extensions", "grip")
	c, s := o.both(f)
	f.listening(t, "all", 1)
	s.say(ws.OpText, subscribeX, ws.OpText, "m:ok", ws.OpText, "dropped", ws.OpBinary, "m:\xff")
	c.want(ws.OpText, "ok")
	c.want(ws.OpBinary, "\xff")
	f.listening(t, "p-x", 1)
	f.publish(t, message("p-x", grip.WSMessage{Content: []byte("to all")}), message("all", grip.WSMessage{Type: grip.BinaryMessage, Content: []byte("b")}))
	got := map[string]bool{}
	for range 2 {
		_, content, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		got[content] = true
	}
	if !got["to all"] || !got["b"] {
		t.Errorf("got %v, want both items", got)
	}
	c.say(ws.OpText, "m:as it is")
	s.want(ws.OpText, "m:as it is")

	s.say(ws.OpText, `c:{"type":"detach"}`)
	s.want(ws.OpClose, "")
	c.say(ws.OpText, "to nobody", ws.OpPing, "p")
	c.want(ws.OpPong, "p")
	f.publish(t, message("p-x", grip.WSMessage{Content: []byte("still here")}))
	c.want(ws.OpText, "still here")
	s.say(ws.OpClose, "")
	s.wantCut()
	c.say(ws.OpClose, closing(4000, ""))
	c.want(ws.OpClose, closing(4000, ""))
	c.wantCut()
}

func TestProxiedEnds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		do     func(t *testing.T, f *fixture, c *rawSocket, s *originSocket)
		reason closeReason
	}{
		{"the client closes without a code", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			c.say(ws.OpClose, "")
			s.want(ws.OpClose, "")
			s.say(ws.OpClose, "")
			c.want(ws.OpClose, closing(1000, ""))
		}, closedByClient},
		{"the client vanishes behind a message", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			c.say(ws.OpText, "last")
			c.conn.Close()
			s.want(ws.OpText, "last")
		}, closedByClient},
		{"the origin closes", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			s.say(ws.OpText, "last", ws.OpClose, closing(4000, "enough"))
			c.want(ws.OpText, "last")
			c.want(ws.OpClose, closing(4000, "enough"))
			c.say(ws.OpClose, closing(4000, "enough"))
			s.want(ws.OpClose, closing(4000, "enough"))
		}, closedByOrigin},
		{"the origin closes, and the client vanishes", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			s.say(ws.OpClose, closing(4000, "enough"))
			c.want(ws.OpClose, closing(4000, "enough"))
			c.conn.Close()
		}, closedByOrigin},
		{"the origin vanishes behind a message", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			s.say(ws.OpText, "last")
			s.conn.Close()
			c.want(ws.OpText, "last")
		}, closedByOrigin},
		{"the origin says nonsense", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			io.WriteString(s.conn, string(ws.AppendFrame(nil, ws.OpText, []byte("last")))+"\xff\xff\xff\xff")
			c.want(ws.OpText, "last")
		}, closedOriginError},
		{"an item closes", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			f.publish(t, message("all", grip.WSMessage{Action: grip.ActionClose, Code: 4002, Reason: "by order"}))
			c.want(ws.OpClose, closing(4002, "by order"))
			s.want(ws.OpClose, "")
			s.say(ws.OpClose, "")
			c.say(ws.OpClose, closing(4002, ""))
		}, closedByPublisher},
		{"the client sends too much", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			c.say(ws.OpBinary, strings.Repeat("x", testMessageMax+1))
			c.want(ws.OpClose, closing(1009, "message too large"))
		}, closedMessageTooBig},
		{"the origin sends too much", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			go s.conn.Write(ws.AppendFrame(nil, ws.OpBinary, make([]byte, testMessageMax+1)))
		}, closedOriginError},
		{"the origin leaves a close without an answer", func(t *testing.T, f *fixture, c *rawSocket, s *originSocket) {
			c.say(ws.OpClose, closing(4000, ""))
			s.want(ws.OpClose, closing(4000, ""))
		}, closedByClient},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o := startProxied(t, "* ORIGIN,sub=all")
			f.cfg.WriteTimeout = time.Second // nothing was served yet
			c, s := o.both(f)
			f.listening(t, "all", 1)
			tt.do(t, f, c, s)
			f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": string(tt.reason)}, 1)
			if c.conn.SetDeadline(time.Now().Add(patience)) == nil {
				c.wantCut()
			}
			s.wantCut()
			f.listening(t, "all", 0)
			eventually(t, "the talk to end", func() bool { return f.drain.count() == 0 })
		})
	}
}

func TestProxiedRefusals(t *testing.T) {
	f, o := startProxied(t, "* ORIGIN", "X-Why", "because")
	o.refusing = true
	c := f.shake(t, "/chat").answered(403)
	c.wantBody("not you")
	if got := c.resp.Header.Get("X-Why"); got != "because" {
		t.Errorf("header: got %q, want that of the origin", got)
	}
	o.Close()
	f.shake(t, "/chat").answered(502).wantBody("Error while proxying to origin.\n")

	f, _ = startProxied(t, "* ORIGIN", "Sec-WebSocket-Extensions", "permessage-deflate")
	f.shake(t, "/chat").answered(502)

	for name, status := range map[string]int{"Sec-WebSocket-Version: 13": 426, "dGhlIHNhbXBsZSBub25jZQ==": 400} {
		conn, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		request := "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
		io.WriteString(conn, strings.Replace(request, name, "Sec-WebSocket-Version: 8", 1))
		(&rawSocket{t: t, conn: conn, r: bufio.NewReader(conn)}).answered(status)
	}
}

func TestProxiedSecondTarget(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	f, o := startProxied(t, "* "+dead.Addr().String()+",over_http "+dead.Addr().String()+" ORIGIN,sub=second")
	c, s := o.both(f)
	s.say(ws.OpText, "hello")
	c.want(ws.OpText, "hello")
	f.listening(t, "second", 1)
}

// A quiet WebSocket takes no goroutine but the one that listens to the origin.
func TestProxiedIdle(t *testing.T) {
	f, o := startProxied(t, "* ORIGIN")
	first, origin := o.both(f)
	origin.say(ws.OpText, "b")
	first.want(ws.OpText, "b") // so that all it takes is running
	before := runtime.NumGoroutine()
	const n = 50
	for range n {
		c, s := o.both(f)
		c.say(ws.OpText, "a")
		s.want(ws.OpText, "a")
	}
	eventually(t, "one goroutine for each", func() bool { return runtime.NumGoroutine() <= before+n })
}

// Libraries at both ends, with much to say in both directions at once.
func TestProxiedLibraries(t *testing.T) {
	f, o := startProxied(t, "* ORIGIN")
	o.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(1 << 20)
		for {
			typ, p, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if err := conn.Write(r.Context(), typ, p); err != nil {
				return
			}
		}
	})
	c := f.dial(t, "/chat")
	c.conn.SetReadLimit(1 << 20)
	const n = 300
	payload := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), i*i%70_000) }
	go func() {
		for i := range n {
			if err := c.conn.Write(c.ctx, websocket.MessageBinary, []byte(payload(i))); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range n {
		_, got, err := c.conn.Read(c.ctx)
		if err != nil || string(got) != payload(i) {
			t.Fatalf("message %d: got %d bytes, %v, want %d", i, len(got), err, len(payload(i)))
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	c.conn.CloseRead(ctx)
	if err := c.conn.Ping(ctx); err != nil {
		t.Errorf("ping, which the origin answers: %v", err)
	}
	if err := c.conn.Close(4000, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
}
