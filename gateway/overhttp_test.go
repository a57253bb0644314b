package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/ws"
	"spillway/grip"
)

// scripted is an HTTP origin whose answers a test gives one by one.
type scripted struct {
	*apiOrigin
	t     *testing.T
	asked chan *asked
}

// asked is a request that waits for its answer.
type asked struct {
	*http.Request
	t      *testing.T
	body   string
	answer chan func(http.ResponseWriter)
}

// overHTTP starts a gateway in front of a scripted origin. ORIGIN stands for its
// address in the routes.
func startOverHTTP(t *testing.T, routes string, change ...func(*Config)) (*fixture, *scripted) {
	t.Helper()
	checkGoroutines(t)
	o := &scripted{t: t, asked: make(chan *asked)}
	o.apiOrigin = newAPI(t, nil)
	o.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a := &asked{r, t, string(body), make(chan func(http.ResponseWriter), 1)}
		select {
		case o.asked <- a:
		case <-t.Context().Done():
			return
		}
		select {
		case answer := <-a.answer:
			answer(w)
		case <-t.Context().Done():
		}
	})
	f := start(t, func(c *Config) {
		c.Routes = strings.ReplaceAll(routes, "ORIGIN", o.Listener.Addr().String())
		for _, f := range change {
			f(c)
		}
	})
	return f, o
}

// next is the next request, with the events in its body.
func (o *scripted) next(body string) *asked {
	o.t.Helper()
	select {
	case a := <-o.asked:
		if a.body != body {
			a.reply("")
			o.t.Fatalf("request: got %q, want %q", a.body, body)
		}
		return a
	case <-time.After(patience):
		o.t.Fatalf("waited in vain for a request with %q", body)
	}
	return nil
}

// quiet checks that no request comes before something else has happened.
func (o *scripted) quiet(until func()) {
	o.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); until() }()
	select {
	case a := <-o.asked:
		a.reply("")
		<-done
		o.t.Fatalf("got a request with %q, want none", a.body)
	case <-done:
	}
}

// reply answers with events; header is name, value, name, value …
func (a *asked) reply(body string, header ...string) {
	a.answer <- func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/websocket-events")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		io.WriteString(w, body)
	}
}

func (a *asked) fail(status int, body string, header ...string) {
	a.answer <- func(w http.ResponseWriter) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func (a *asked) wantHeader(name, want string) {
	a.t.Helper()
	if got := strings.Join(a.Header.Values(name), "|"); got != want {
		a.t.Errorf("header %s of the request: got %q, want %q", name, got, want)
	}
}

// events joins events: TYPE and content alternate.
func events(typesAndContents ...string) string {
	var b []byte
	for i := 0; i < len(typesAndContents); i += 2 {
		e := grip.Event{Type: grip.EventType(typesAndContents[i])}
		if c := typesAndContents[i+1]; c != "" {
			e.Content = []byte(c)
		}
		b = grip.AppendEvent(b, e)
	}
	return string(b)
}

func textEvent(content string) string { return events("TEXT", content) }

// rawSocket is the client's side of a WebSocket, frame by frame.
type rawSocket struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	resp *http.Response
}

// shake sends a handshake. What comes of it is seen by answered.
func (f *fixture) shake(t testing.TB, path string, header ...string) *rawSocket {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * patience))
	req := "GET " + path + " HTTP/1.1\r\nHost: h.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for i := 0; i < len(header); i += 2 {
		req += header[i] + ": " + header[i+1] + "\r\n"
	}
	if _, err := io.WriteString(conn, req+"\r\n"); err != nil {
		t.Fatal(err)
	}
	return &rawSocket{t: t, conn: conn, r: bufio.NewReader(conn)}
}

func (c *rawSocket) answered(status int) *rawSocket {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodGet})
	if err != nil {
		c.t.Fatal(err)
	}
	c.resp = resp
	if resp.StatusCode != status {
		body, _ := io.ReadAll(resp.Body)
		c.t.Fatalf("status: got %d with %q, want %d", resp.StatusCode, body, status)
	}
	return c
}

func (c *rawSocket) wantBody(want string) {
	c.t.Helper()
	if got, err := io.ReadAll(c.resp.Body); string(got) != want || err != nil {
		c.t.Errorf("body: got %q, %v, want %q", got, err, want)
	}
}

// say sends frames: op and payload alternate.
func (c *rawSocket) say(frames ...any) {
	c.t.Helper()
	var b []byte
	for i := 0; i < len(frames); i += 2 {
		b = ws.AppendMasked(b, frames[i].(ws.Op), []byte(frames[i+1].(string)), 0x1badcafe)
	}
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// frame reads a frame, which has to be a whole message.
func (c *rawSocket) frame() (op ws.Op, payload string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, "", err
	}
	n := int(head[1])
	for extra := map[int]int{126: 2, 127: 8}[n]; extra > 0; extra-- {
		b, err := c.r.ReadByte()
		if err != nil {
			return 0, "", err
		}
		if n == 126 && extra == 2 || n == 127 && extra == 8 {
			n = 0
		}
		n = n<<8 | int(b)
	}
	if head[0]&0xf0 != 0x80 || n > 4<<20 {
		return 0, "", fmt.Errorf("frame with first bytes %x", head)
	}
	buf := make([]byte, n)
	_, err = io.ReadFull(c.r, buf)
	return ws.Op(head[0] & 0xf), string(buf), err
}

func (c *rawSocket) want(op ws.Op, payload string) {
	c.t.Helper()
	gotOp, got, err := c.frame()
	if gotOp != op || got != payload || err != nil {
		c.t.Fatalf("frame: got %d %.200q, %v, want %d %.200q", gotOp, got, err, op, payload)
	}
}

// sayTogether sends frames of this weight while the origin has a request already,
// so that all of them go into the next.
func (c *rawSocket) sayTogether(f *fixture, o *scripted, weight int, frames ...any) {
	c.t.Helper()
	c.say(ws.OpText, "before")
	a := o.next(textEvent("before"))
	c.say(frames...)
	eventually(c.t, "all to be read", func() bool { return f.waits(c.t, weight) })
	a.reply("")
}

func closing(code int, reason string) string { return string(grip.CloseContent(code, reason)) }

// wantCut checks that the connection ends without a close frame.
func (c *rawSocket) wantCut() {
	c.t.Helper()
	op, got, err := c.frame()
	var netErr net.Error
	if err == nil || errors.As(err, &netErr) && netErr.Timeout() {
		c.t.Fatalf("got frame %d %q, %v, want the end of the connection", op, got, err)
	}
}

const subscribeX = `c:{"type":"subscribe","channel":"x"}`

// opened is a WebSocket whose origin speaks GRIP and has carried out what more
// says.
func opened(t *testing.T, f *fixture, o *scripted, more string, header ...string) *rawSocket {
	t.Helper()
	c := f.shake(t, "/chat")
	o.next("OPEN\r\n").reply("OPEN\r\n"+more, append([]string{"Sec-WebSocket-Extensions", "grip"}, header...)...)
	return c.answered(101)
}

// answerAll gives the same answer to what a client's end makes of requests.
func (o *scripted) answerAll() {
	go func() {
		for {
			select {
			case a := <-o.asked:
				a.reply("")
			case <-o.t.Context().Done():
				return
			}
		}
	}()
}

func message(channel string, m grip.WSMessage) grip.Item {
	return grip.Item{Channel: channel, WSMessage: &m}
}

// As TestRouteListens, with the channels that a WebSocket is subscribed to, at first
// and later.
func TestOverHTTPListens(t *testing.T) {
	heard := make(chan string, 10)
	f, o := startOverHTTP(t, "*,path_beg=/events/chat,replace_beg=/chat ORIGIN,over_http", func(c *Config) {
		c.Listen = func(_ context.Context, channel string) error {
			heard <- channel
			if channel == "y" {
				return errors.New("nothing is known of it")
			}
			return nil
		}
	})
	c := f.shake(t, "/events/chat")
	o.next("OPEN\r\n").reply("OPEN\r\n"+textEvent(subscribeX), "Sec-WebSocket-Extensions", "grip")
	c.answered(101)
	if got := <-heard; got != "x" {
		t.Errorf("heard of %q, want x", got)
	}
	f.listening(t, "x", 1)
	c.say(ws.OpText, "more")
	o.next(textEvent("more")).reply(textEvent(`c:{"type":"subscribe","channel":"y"}`))
	c.want(ws.OpClose, closing(1011, "internal error"))
}

func TestOverHTTP(t *testing.T) {
	f, o := startOverHTTP(t, "*,header=X-Route:r ORIGIN,over_http")
	c := f.shake(t, "/chat?room=1", "Cookie", "a=b", "Connection-Id", "forged", "Meta-User", "forged", "Grip-Last", "forged",
		"Sec-WebSocket-Protocol", "one, two", "Sec-WebSocket-Extensions", "permessage-deflate", "Origin", "http://h.example")
	first := o.next("OPEN\r\n")
	id := first.Header.Get("Connection-Id")
	if first.Method != "POST" || first.URL.String() != "/chat?room=1" || first.Host != "h.example" || len(id) != 36 || id == "forged" {
		t.Errorf("request: got %s %v of %s, Connection-Id %q", first.Method, first.URL, first.Host, id)
	}
	common := func(a *asked) {
		t.Helper()
		for name, want := range map[string]string{"Content-Type": "application/websocket-events", "Accept": "application/websocket-events",
			"Sec-WebSocket-Extensions": "grip", "Sec-WebSocket-Protocol": "one, two", "Sec-WebSocket-Version": "13", "Upgrade": "", "Connection": "",
			"Cookie": "a=b", "Origin": "http://h.example", "X-Route": "r", "Connection-Id": id, "Grip-Last": ""} {
			a.wantHeader(name, want)
		}
		if a.Header.Get("Grip-Sig") == "" {
			t.Error("a request without signature")
		}
	}
	common(first)
	first.wantHeader("Meta-User", "")
	first.reply("OPEN\r\n"+textEvent(subscribeX)+textEvent("m:welcome")+textEvent("not for the client")+events("BINARY", "m:\x00\x01")+
		textEvent("c:{nonsense")+textEvent("m:c:{}")+events("PING", "p", "PONG", ""),
		"Sec-WebSocket-Extensions", "grip", "Sec-WebSocket-Protocol", "two", "Set-Meta-User", "alice", "Set-Meta-Room", "1",
		"X-Own", "yes", "Keep-Alive-Interval", "60", "Grip-Hold", "stream")
	c.answered(101)
	for name, want := range map[string]string{"Sec-WebSocket-Protocol": "two", "Sec-WebSocket-Extensions": "", "X-Own": "yes", "Set-Meta-User": "",
		"Keep-Alive-Interval": "", "Content-Type": "", "Content-Length": "", "Grip-Hold": "", "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="} {
		if got := c.resp.Header.Get(name); got != want {
			t.Errorf("header %s of the answer: got %q, want %q", name, got, want)
		}
	}
	c.want(ws.OpText, "welcome")
	c.want(ws.OpBinary, "\x00\x01")
	c.want(ws.OpText, "c:{}")
	c.want(ws.OpPing, "p")
	c.want(ws.OpPong, "")

	f.listening(t, "x", 1)
	f.publish(t, message("x", grip.WSMessage{Content: []byte("to all")}), message("x", grip.WSMessage{Type: grip.BinaryMessage, Content: []byte{0xff}}),
		message("x", grip.WSMessage{Type: grip.PingMessage, Content: []byte("there?")}), message("y", grip.WSMessage{Content: []byte("to others")}))
	c.want(ws.OpText, "to all")
	c.want(ws.OpBinary, "\xff")
	c.want(ws.OpPing, "there?")

	c.say(ws.OpText, "c:hello")
	second := o.next(textEvent("c:hello"))
	common(second)
	second.wantHeader("Meta-User", "alice")
	second.wantHeader("Meta-Room", "1")
	c.say(ws.OpBinary, "\x00", ws.OpPing, "", ws.OpPong, "there", ws.OpText, "")
	eventually(t, "all to be read", func() bool { return f.waits(t, 65, 64, 69, 64) })
	second.reply(textEvent(`c:{"type":"unsubscribe","channel":"x"}`)+textEvent("m:bye"), "Set-Meta-User", "")
	c.want(ws.OpText, "bye")
	f.listening(t, "x", 0)
	third := o.next("BINARY 1\r\n\x00\r\nPING\r\nPONG 5\r\nthere\r\nTEXT 0\r\n\r\n") // what came meanwhile goes together
	third.wantHeader("Meta-User", "")
	third.wantHeader("Meta-Room", "1")
	third.reply("")
	f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "websocket"}, 1)

	c.sayTogether(f, o, 68+69, ws.OpText, "last", ws.OpClose, closing(4000, "bye"))
	o.next(textEvent("last") + events("CLOSE", closing(4000, "bye"))).reply(events("CLOSE", closing(4001, "bye bye")))
	c.want(ws.OpClose, closing(4001, "bye bye"))
	c.wantCut()
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "client"}, 1)
	if got := f.metric(t, "spillway_upstream_requests_total", prometheus.Labels{"kind": "events", "result": "answered"}); got != 5 {
		t.Errorf("requests with events: got %v, want 5", got)
	}
	o.quiet(func() { f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "websocket"}, 0) })
}

// waits reports whether at least events of these weights wait for origins.
func (f *fixture) waits(t testing.TB, weights ...int) bool {
	t.Helper()
	for _, w := range weights[1:] {
		weights[0] += w
	}
	return f.metric(t, "spillway_websocket_waiting_bytes", nil) >= float64(weights[0])
}

// count is how much is being served.
func (d *drain) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served
}

func TestOverHTTPWithoutGrip(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := f.shake(t, "/chat")
	o.next("OPEN\r\n").reply("OPEN\r\n" + textEvent(subscribeX) + textEvent("m:x"))
	c.answered(101)
	c.want(ws.OpText, subscribeX)
	c.want(ws.OpText, "m:x")
	f.listening(t, "x", 0)

	f, o = startOverHTTP(t, "*,no_grip ORIGIN,over_http")
	c = f.shake(t, "/chat")
	a := o.next("OPEN\r\n")
	a.wantHeader("Sec-WebSocket-Extensions", "")
	a.wantHeader("Grip-Sig", "")
	a.reply("OPEN\r\n"+textEvent(subscribeX), "Sec-WebSocket-Extensions", "grip")
	c.answered(101).want(ws.OpText, subscribeX)
	o.answerAll()
}

func TestOverHTTPPrefixes(t *testing.T) {
	for _, tt := range []struct{ extension, sent, want string }{
		{"grip", "m:a", "a"},
		{`grip; message-prefix=""`, "m:a", "m:a"},
		{`grip; message-prefix="x"`, "xa", "a"},
	} {
		t.Run(tt.extension, func(t *testing.T) {
			f, o := startOverHTTP(t, "* ORIGIN,over_http")
			c := f.shake(t, "/chat")
			o.next("OPEN\r\n").reply("OPEN\r\n"+textEvent(tt.sent), "Sec-WebSocket-Extensions", tt.extension)
			c.answered(101).want(ws.OpText, tt.want)
			o.answerAll()
		})
	}
}

// How it ends, and what either side hears of it.
func TestOverHTTPEnds(t *testing.T) {
	const reason = "spillway_connections_closed_total"
	for _, tt := range []struct {
		name   string
		do     func(t *testing.T, f *fixture, o *scripted, c *rawSocket)
		reason closeReason
	}{
		{"the client closes, and is answered without a code", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpClose, "")
			o.next("CLOSE\r\n").reply("CLOSE\r\n")
			c.want(ws.OpClose, closing(1000, ""))
		}, closedByClient},
		{"the client closes, and is not answered", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpClose, closing(1000, ""))
			o.next(events("CLOSE", closing(1000, ""))).reply(textEvent("m:one more"))
			c.want(ws.OpText, "one more")
		}, closedByClient},
		{"the client vanishes", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.conn.Close()
			o.next("DISCONNECT\r\n").fail(500, "whatever")
		}, closedByClient},
		{"the client vanishes behind a message", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			a := o.next(textEvent("a"))
			c.say(ws.OpText, "b")
			c.conn.Close()
			f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "websocket"}, 0)
			a.reply(textEvent("m:into the void"))
			o.next(textEvent("b") + "DISCONNECT\r\n").reply("")
		}, closedByClient},
		{"the origin closes", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply(textEvent("m:b") + events("CLOSE", closing(4000, "enough")) + textEvent("m:c"))
			c.want(ws.OpText, "b")
			c.want(ws.OpClose, closing(4000, "enough"))
			c.say(ws.OpClose, closing(4000, ""))
			o.next(events("CLOSE", closing(4000, ""))).reply("")
		}, closedByOrigin},
		{"the origin closes without a code", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply("CLOSE\r\n")
			c.want(ws.OpClose, closing(1000, ""))
			c.conn.Close()
			o.next("DISCONNECT\r\n").reply("")
		}, closedByOrigin},
		{"the origin disconnects", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply(textEvent("m:b") + "DISCONNECT\r\n")
			c.want(ws.OpText, "b")
		}, closedByOrigin},
		{"an item closes", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			f.publish(t, message("x", grip.WSMessage{Action: grip.ActionClose, Code: 4002, Reason: "by order"}))
			o.next("CLOSE\r\n").reply("CLOSE\r\n")
			c.want(ws.OpClose, closing(4002, "by order"))
			c.say(ws.OpClose, closing(4002, ""))
		}, closedByPublisher},
		{"a status that is not 200", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).fail(503, "")
		}, closedOriginError},
		{"another type", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).fail(200, textEvent("m:a"), "Content-Type", "application/websocket-events; charset=utf-8")
		}, closedOriginError},
		{"nonsense", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply("TEXT 5\r\nabc")
		}, closedOriginError},
		{"a second OPEN", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply("OPEN\r\n")
		}, closedOriginError},
		{"an answer that is too large", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply(textEvent(strings.Repeat("x", grip.MaxEventsResponse)))
		}, closedOriginError},
		{"an answer that breaks off", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).answer <- func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", "application/websocket-events")
				w.Header().Set("Content-Length", "100")
				io.WriteString(w, "TEXT")
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		}, closedOriginError},
		{"a message that is too large", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpBinary, strings.Repeat("x", grip.MaxEventsRequest+1))
			o.next("DISCONNECT\r\n").reply("")
			c.want(ws.OpClose, closing(1009, "message too large"))
		}, closedMessageTooBig},
		{"too many filters", func(t *testing.T, f *fixture, o *scripted, c *rawSocket) {
			c.say(ws.OpText, "a")
			o.next(textEvent("a")).reply(textEvent(`c:{"type":"subscribe","channel":"y","filters":["1","2","3","4","5","6"]}`))
			c.want(ws.OpClose, closing(1011, "too many filters"))
			c.say(ws.OpClose, closing(1011, ""))
			o.next(events("CLOSE", closing(1011, ""))).reply("")
		}, closedOriginError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o := startOverHTTP(t, "* ORIGIN,over_http")
			c := opened(t, f, o, textEvent(subscribeX))
			f.listening(t, "x", 1)
			tt.do(t, f, o, c)
			o.quiet(func() {
				f.wantMetric(t, reason, prometheus.Labels{"reason": string(tt.reason)}, 1)
				if c.conn.SetDeadline(time.Now().Add(patience)) == nil {
					c.wantCut()
				}
				f.listening(t, "x", 0)
				eventually(t, "the talk to end", func() bool { return f.drain.count() == 0 })
			})
		})
	}
}

func TestOverHTTPRefusals(t *testing.T) {
	long := strings.Repeat("x", grip.MaxRefusal)
	const bad = "Error while proxying to origin.\n"
	for _, tt := range []struct {
		name   string
		answer func(a *asked)
		status int
		body   string
	}{
		{"a status", func(a *asked) { a.fail(403, "not you", "X-Why", "because", "Content-Type", "text/x") }, 403, "not you"},
		{"a redirect", func(a *asked) { a.fail(302, "", "X-Why", "because", "Location", "/other") }, 302, ""},
		{"another type", func(a *asked) { a.fail(200, "OPEN\r\n", "X-Why", "because", "Content-Type", "text/plain") }, 200, "OPEN\r\n"},
		{"a type with a parameter", func(a *asked) {
			a.fail(200, "OPEN\r\n", "X-Why", "because", "Content-Type", "application/websocket-events; charset=x")
		}, 200, "OPEN\r\n"},
		{"as large as it may be", func(a *asked) { a.fail(500, long, "X-Why", "because") }, 500, long},
		{"larger", func(a *asked) { a.fail(500, long+"x") }, 502, bad},
		{"nonsense", func(a *asked) { a.reply("OPEN") }, 502, bad},
		{"not OPEN first", func(a *asked) { a.reply(textEvent("m:a") + "OPEN\r\n") }, 502, bad},
		{"no events", func(a *asked) { a.reply("") }, 502, bad},
		{"no answer", func(a *asked) { a.answer <- func(http.ResponseWriter) { panic(http.ErrAbortHandler) } }, 502, bad},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o := startOverHTTP(t, "* ORIGIN,over_http")
			c := f.shake(t, "/chat")
			tt.answer(o.next("OPEN\r\n"))
			c.answered(tt.status).wantBody(tt.body)
			if got := c.resp.Header.Get("X-Why"); tt.status != 502 && got != "because" {
				t.Errorf("header: got %q, want that of the origin", got)
			}
		})
	}
}

// What every target refuses before it hears anything.
func TestOverHTTPForged(t *testing.T) {
	f, _ := startOverHTTP(t, "* ORIGIN,over_http")
	c := f.do(t, "POST", "/chat", strings.NewReader("OPEN\r\n"), "Content-Type", "Application/WebSocket-Events").wantStatus(403)
	c.wantEnd("Client not allowed to send WebSocket events directly.\n")
}

func TestOverHTTPTargets(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	for _, routes := range []string{"* DEAD,over_http ORIGIN,over_http", "* DEAD ORIGIN,over_http", "* DEAD,over_http DEAD ORIGIN,over_http DEAD"} {
		t.Run(routes, func(t *testing.T) {
			f, o := startOverHTTP(t, strings.ReplaceAll(routes, "DEAD", dead.Addr().String()))
			c := opened(t, f, o, textEvent("m:a"))
			c.want(ws.OpText, "a")
			c.say(ws.OpClose, closing(1000, ""))
			o.next(events("CLOSE", closing(1000, ""))).reply(events("CLOSE", closing(1000, "")))
			c.want(ws.OpClose, closing(1000, ""))
		})
	}
	f, _ := startOverHTTP(t, strings.ReplaceAll("* DEAD,over_http DEAD", "DEAD", dead.Addr().String()))
	f.shake(t, "/chat").answered(502).wantBody("Error while proxying to origin.\n")

	f, _ = startOverHTTP(t, strings.ReplaceAll("* DEAD,over_http test", "DEAD", dead.Addr().String()))
	c := f.shake(t, "/any?channel=a").answered(101)
	f.listening(t, "a", 1)
	c.say(ws.OpText, "c:echo", ws.OpPing, "p", ws.OpBinary, "")
	c.want(ws.OpText, "c:echo")
	c.want(ws.OpPong, "p")
	c.want(ws.OpBinary, "")
	f.publish(t, message("a", grip.WSMessage{Content: []byte("hi")}))
	c.want(ws.OpText, "hi")
	c.say(ws.OpClose, closing(1000, ""))
	c.want(ws.OpClose, closing(1000, ""))
}

// short makes what is given in seconds short, for a test.
func short[T any](t *testing.T, what *T, value T) {
	t.Helper()
	old := *what
	*what = value
	t.Cleanup(func() { *what = old })
}

func TestOverHTTPInterval(t *testing.T) {
	short(t, &minInterval, 50*time.Millisecond)
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := f.shake(t, "/chat")
	o.next("OPEN\r\n").reply("", "Keep-Alive-Interval", "1", "Set-Meta-A", "1")
	a := o.next("") // not open yet
	a.wantHeader("Meta-A", "1")
	a.reply("OPEN\r\n"+textEvent("m:now"), "Sec-WebSocket-Extensions", "grip")
	c.answered(101).want(ws.OpText, "now")
	a = o.next("") // without being said again
	a.wantHeader("Content-Length", "0")
	a.reply(textEvent("m:tick"), "Keep-Alive-Interval", "3600")
	c.want(ws.OpText, "tick")
	c.say(ws.OpClose, "")
	o.next("CLOSE\r\n").reply("", "Keep-Alive-Interval", "1") // there is time for an answer
	o.next("").reply(events("CLOSE", closing(4000, "")))
	c.want(ws.OpClose, closing(4000, ""))
	c.wantCut()

	c = f.shake(t, "/chat") // and leaves before it is open
	o.next("OPEN\r\n").reply("", "Keep-Alive-Interval", "60")
	c.conn.Close()
	o.next("DISCONNECT\r\n").reply("")

	c = opened(t, f, o, "", "Keep-Alive-Interval", "1")
	o.next("").reply(textEvent(`c:{"type":"send-delayed","content":"later","timeout":2}`), "Keep-Alive-Interval", "0") // off
	o.quiet(func() { c.want(ws.OpText, "later") })
	c.conn.Close()
	o.next("DISCONNECT\r\n").reply("")
}

func TestDialogueNote(t *testing.T) {
	for _, tt := range []struct {
		value string
		want  time.Duration
	}{
		{"30", 30 * time.Second}, {"19", 20 * time.Second}, {" 20 ", 20 * time.Second}, {"0", 0}, {"-1", 0}, {"x", 0}, {"", 0},
		{"99999999999999999999", 0}, {"2000000000", 1 << 30 * time.Second},
	} {
		d := &dialogue{askAfter: time.Hour}
		d.note(http.Header{"Keep-Alive-Interval": {tt.value}})
		if d.askAfter != tt.want {
			t.Errorf("Keep-Alive-Interval %q: got %v, want %v", tt.value, d.askAfter, tt.want)
		}
	}
	d := &dialogue{askAfter: time.Hour}
	d.note(http.Header{"Set-Meta-A": {"1"}, "Set-Meta-B": {"2"}})
	d.note(http.Header{"Set-Meta-A": {""}, "Set-Meta-C": {"3"}})
	if got, want := fmt.Sprint(d.meta), "map[B:2 C:3]"; got != want || d.askAfter != time.Hour {
		t.Errorf("got %s and %v, want %s and the same interval", got, d.askAfter, want)
	}
}

func TestOverHTTPRefresh(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := opened(t, f, o, textEvent(subscribeX))
	f.listening(t, "x", 1)
	f.publish(t, message("x", grip.WSMessage{Action: grip.ActionRefresh}))
	a := o.next("")
	f.publish(t, message("x", grip.WSMessage{Action: grip.ActionRefresh}), message("x", grip.WSMessage{Content: []byte("during it")}))
	c.want(ws.OpText, "during it")
	a.reply(textEvent("m:fresh"))
	c.want(ws.OpText, "fresh")
	o.next("").reply(textEvent("m:fresh again"))
	c.want(ws.OpText, "fresh again")
	c.conn.Close()
	o.next("DISCONNECT\r\n").reply("")
}

func TestOverHTTPDetach(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := opened(t, f, o, textEvent(subscribeX))
	c.say(ws.OpText, "leave me")
	a := o.next(textEvent("leave me"))
	a.reply(textEvent(`c:{"type":"detach"}`) + textEvent("m:detached"))
	o.next("CLOSE\r\n").reply(textEvent("m:of no interest") + "CLOSE\r\n")
	c.want(ws.OpText, "detached")
	o.quiet(func() {
		c.say(ws.OpText, "to nobody", ws.OpPing, "p")
		c.want(ws.OpPong, "p") // by the gateway
		f.publish(t, message("x", grip.WSMessage{Content: []byte("still here")}))
		c.want(ws.OpText, "still here")
		c.say(ws.OpClose, closing(4000, "bye"))
		c.want(ws.OpClose, closing(4000, ""))
		c.wantCut()
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "client"}, 1)
	})

	// The client had closed already.
	c = opened(t, f, o, "")
	c.say(ws.OpClose, closing(4000, "bye"))
	o.next(events("CLOSE", closing(4000, "bye"))).reply(textEvent(`c:{"type":"detach"}`))
	c.want(ws.OpClose, closing(4000, ""))
	o.quiet(c.wantCut)
}

func TestOverHTTPSubscriptions(t *testing.T) {
	f, o := startOverHTTP(t, "*,prefix=p- ORIGIN,over_http,sub=all,sub=x", func(c *Config) { c.MaxSubscriptions = 4 })
	subscribe := func(channel string) string { return textEvent(`c:{"type":"subscribe","channel":"` + channel + `"}`) }
	unsubscribe := func(channel string) string { return textEvent(`c:{"type":"unsubscribe","channel":"` + channel + `"}`) }
	c := opened(t, f, o, subscribe("x")+subscribe("y")+subscribe("x")+subscribe("z")+subscribe("w")+textEvent("m:ok"))
	c.want(ws.OpText, "ok")
	for channel, n := range map[string]int{"all": 1, "x": 1, "p-x": 1, "p-y": 1, "p-z": 0, "p-w": 0} {
		f.listening(t, channel, n)
	}
	if got := f.metric(t, "spillway_subscriptions_ignored_total", nil); got != 2 {
		t.Errorf("ignored: got %v, want 2", got)
	}
	for _, channel := range []string{"all", "x", "p-x", "p-y"} {
		f.publish(t, message(channel, grip.WSMessage{Content: []byte(channel)}))
		c.want(ws.OpText, channel)
	}
	c.say(ws.OpText, "a")
	o.next(textEvent("a")).reply(unsubscribe("all") + unsubscribe("x") + unsubscribe("none") + textEvent("m:ok"))
	c.want(ws.OpText, "ok")
	for channel, n := range map[string]int{"all": 1, "x": 1, "p-x": 0, "p-y": 1} {
		f.listening(t, channel, n)
	}
	o.answerAll()
}

// Who knows of a subscription from the answer to its handshake misses nothing.
func TestOverHTTPSubscribedWithTheAnswer(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	for i := range 50 {
		c := opened(t, f, o, textEvent(subscribeX))
		f.publish(t, message("x", grip.WSMessage{Content: []byte(strconv.Itoa(i))}))
		c.want(ws.OpText, strconv.Itoa(i))
		c.conn.Close()
		o.next("DISCONNECT\r\n").reply("")
	}
}

func TestOverHTTPKeepAlive(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := opened(t, f, o, textEvent(`c:{"type":"keep-alive","content-bin":"/w==","message-type":"binary","timeout":1}`))
	for range 2 {
		c.want(ws.OpBinary, "\xff")
	}
	c.say(ws.OpText, "stop")
	o.next(textEvent("stop")).reply(textEvent(`c:{"type":"keep-alive"}`) +
		textEvent(`c:{"type":"send-delayed","content":"replaced","timeout":100}`) + textEvent("m:first") +
		textEvent(`c:{"type":"send-delayed","content":"later","message-type":"ping"}`) + textEvent("m:second"))
	for _, want := range []string{"first", "replaced", "second"} {
		c.want(ws.OpText, want)
	}
	c.want(ws.OpPing, "later") // after a second, without a keep-alive before it
	c.say(ws.OpText, "flush")
	o.next(textEvent("flush")).reply(textEvent(`c:{"type":"flush-delayed"}`) + textEvent(`c:{"type":"send-delayed","content":"x","timeout":100}`) +
		textEvent(`c:{"type":"flush-delayed"}`) + textEvent("m:end"))
	c.want(ws.OpText, "x")
	c.want(ws.OpText, "end")
	o.answerAll()
}

func TestOverHTTPOneEvent(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http,one_event")
	c := opened(t, f, o, "")
	c.say(ws.OpText, "a", ws.OpText, "b", ws.OpClose, "")
	o.next(textEvent("a")).reply("")
	o.next(textEvent("b")).reply("")
	o.next("CLOSE\r\n").reply("CLOSE\r\n")
	c.want(ws.OpClose, closing(1000, ""))
}

// A request holds so much, and what waits beyond is not read.
func TestOverHTTPBatches(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := opened(t, f, o, "")
	c.say(ws.OpText, "a")
	first := o.next(textEvent("a"))
	piece := strings.Repeat("x", 60_000)
	go func() {
		for range 100 {
			if _, err := c.conn.Write(ws.AppendMasked(nil, ws.OpBinary, []byte(piece), 1)); err != nil {
				t.Error(err)
			}
		}
	}()
	eventually(t, "enough to be read", func() bool { return f.waits(t, 4*60_064) })
	first.reply("")
	for n := 0; n < 100; {
		select {
		case a := <-o.asked:
			got := strings.Count(a.body, "BINARY")
			if n += got; len(a.body) > grip.MaxEventsRequest+100 || got == 0 {
				t.Fatalf("a request with %d bytes, %d messages", len(a.body), got)
			}
			if f.waits(t, 6*60_064) {
				t.Fatal("6 messages wait, want 4 at most and what one read brings")
			}
			a.reply("")
		case <-time.After(patience):
			t.Fatal("waited in vain for a request")
		}
	}
	o.answerAll()
}

func TestOverHTTPPartly(t *testing.T) {
	start := func(t *testing.T) (*fixture, *scripted, *rawSocket) {
		f, o := startOverHTTP(t, "* ORIGIN,over_http")
		c := opened(t, f, o, textEvent(subscribeX))
		f.listening(t, "x", 1)
		return f, o, c
	}
	t.Run("the rest goes with new data", func(t *testing.T) {
		f, o, c := start(t)
		c.sayTogether(f, o, 69+69, ws.OpText, "hello", ws.OpBinary, "world")
		a := o.next(textEvent("hello") + events("BINARY", "world"))
		a.reply("", "Content-Bytes-Accepted", "2")
		o.quiet(func() {
			f.publish(t, message("x", grip.WSMessage{Content: []byte("sync")}))
			c.want(ws.OpText, "sync")
		})
		c.say(ws.OpPing, "")
		a = o.next(textEvent("llo") + events("BINARY", "world", "PING", ""))
		a.wantHeader("Content-Bytes-Replayed", "8")
		a.reply("", "Content-Bytes-Accepted", "8")
		c.say(ws.OpText, "new")
		a = o.next(textEvent("new"))
		a.wantHeader("Content-Bytes-Replayed", "")
		a.reply("", "Content-Bytes-Accepted", "1")
		f.publish(t, message("x", grip.WSMessage{Action: grip.ActionRefresh}))
		a = o.next(textEvent("ew"))
		a.wantHeader("Content-Bytes-Replayed", "2")
		a.reply("", "Content-Bytes-Accepted", "0")
		c.conn.Close()
		a = o.next(textEvent("ew") + "DISCONNECT\r\n")
		a.wantHeader("Content-Bytes-Replayed", "2")
		a.reply("", "Content-Bytes-Accepted", "0")
		o.quiet(func() { eventually(t, "the talk to end", func() bool { return f.drain.count() == 0 }) })
	})
	t.Run("a close is asked for again", func(t *testing.T) {
		f, o, c := start(t)
		c.sayTogether(f, o, 69+66, ws.OpText, "hello", ws.OpClose, closing(1000, ""))
		a := o.next(textEvent("hello") + events("CLOSE", closing(1000, "")))
		a.reply("", "Content-Bytes-Accepted", "3")
		a = o.next(textEvent("lo") + events("CLOSE", closing(1000, "")))
		a.wantHeader("Content-Bytes-Replayed", "4")
		a.reply(events("CLOSE", closing(1000, "")))
		c.want(ws.OpClose, closing(1000, ""))
	})
	for _, tt := range []struct{ name, accepted string }{
		{"more than there was", "6"}, {"less than nothing", "-1"}, {"no number", "x"}, {"all but the close", "3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o, c := start(t)
			c.sayTogether(f, o, 67+66, ws.OpText, "abc", ws.OpClose, closing(1000, ""))
			o.next(textEvent("abc")+events("CLOSE", closing(1000, ""))).reply("", "Content-Bytes-Accepted", tt.accepted)
			o.quiet(c.wantCut)
		})
	}
	t.Run("nothing, though more is waiting", func(t *testing.T) {
		f, o, c := start(t)
		long := strings.Repeat("x", 150_000)
		c.say(ws.OpText, "a")
		a := o.next(textEvent("a"))
		c.say(ws.OpText, long, ws.OpText, long)
		eventually(t, "both to be read", func() bool { return f.waits(t, 2*150_064) })
		a.reply("")
		o.next(textEvent(long)).reply("", "Content-Bytes-Accepted", "0")
		o.quiet(c.wantCut)
	})
}

func TestOverHTTPAgain(t *testing.T) {
	short(t, &retries, []time.Duration{time.Millisecond, time.Millisecond})
	for _, tt := range []struct {
		name     string
		waiting  int64
		repeated float64
	}{
		{"as often as it may be", 0, 2},
		{"with too many others waiting", maxAgain, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o := startOverHTTP(t, "* ORIGIN,over_http")
			c := opened(t, f, o, "")
			f.again.Store(tt.waiting)
			o.CloseClientConnections()
			o.Listener.Close()
			c.say(ws.OpText, "a")
			c.wantCut()
			for name, want := range map[string]float64{"spillway_websocket_requests_repeated_total": tt.repeated, "spillway_websocket_requests_lost_total": 1} {
				if got := f.metric(t, name, nil); got != want {
					t.Errorf("%s: got %v, want %v", name, got, want)
				}
			}
			if got := f.again.Load(); got != tt.waiting {
				t.Errorf("waiting in the end: got %d, want %d", got, tt.waiting)
			}
		})
	}
}

func TestOverHTTPAgainInTime(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := opened(t, f, o, "")
	address := o.Listener.Addr().String()
	o.CloseClientConnections()
	o.Listener.Close()
	c.say(ws.OpText, "b")
	eventually(t, "a first try", func() bool { return f.metric(t, "spillway_websocket_requests_repeated_total", nil) == 1 })
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	again := &http.Server{Handler: o.Config.Handler}
	go again.Serve(listener)
	defer again.Close()
	o.next(textEvent("b")).reply(textEvent("m:at last"))
	c.want(ws.OpText, "at last")
	c.conn.Close()
	o.next("DISCONNECT\r\n").reply("")
}

// Two gateways, one behind the other: the one in front does what GRIP asks for.
func TestOverHTTPChain(t *testing.T) {
	back, o := startOverHTTP(t, "* ORIGIN,over_http", func(c *Config) { c.UpstreamKey = "between us" })
	back.do(t, "HEAD", "/events/list/", nil).wantStatus(200) // it runs
	for _, how := range []string{"", ",over_http"} {
		t.Run("front"+how, func(t *testing.T) {
			front := start(t, func(c *Config) { c.Routes = "*,sig_key=\"between us\" " + back.Addr().String() + how })
			c := front.shake(t, "/chat")
			a := o.next("OPEN\r\n")
			if _, err := mustKey(t, "between us").Verify(a.Header.Get("Grip-Sig"), time.Now()); err != nil {
				t.Errorf("signature: %v", err)
			}
			a.reply("OPEN\r\n"+textEvent(subscribeX)+textEvent("m:welcome"), "Sec-WebSocket-Extensions", "grip")
			c.answered(101).want(ws.OpText, "welcome")
			front.listening(t, "x", 1)
			back.listening(t, "x", 0)
			front.publish(t, message("x", grip.WSMessage{Content: []byte("hi")}))
			c.want(ws.OpText, "hi")
			c.say(ws.OpClose, closing(4000, "bye"))
			o.next(events("CLOSE", closing(4000, "bye"))).reply(events("CLOSE", closing(4001, "")))
			c.want(ws.OpClose, closing(4001, ""))
		})
	}
}

func mustKey(t *testing.T, s Secret) grip.Key {
	t.Helper()
	k, err := grip.ParseKey(string(s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// When the gateway stops, clients are told, and origins hear of it.
func TestOverHTTPDrain(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	c := opened(t, f, o, "")
	ctx, cancel := contextWithTimeout()
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- f.Drain(ctx) }()
	c.want(ws.OpClose, closing(1012, "restarting"))
	c.say(ws.OpClose, closing(1012, ""))
	o.next(events("CLOSE", closing(1012, ""))).reply("")
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
}

func TestOverHTTPIdle(t *testing.T) {
	f, o := startOverHTTP(t, "* ORIGIN,over_http")
	opened(t, f, o, textEvent(subscribeX)) // whatever begins with the first
	settled := func() int {
		o.CloseClientConnections()
		f.upstream.Close()
		return runtime.NumGoroutine()
	}
	eventually(t, "posts to end", func() bool { return f.drain.count() == 1 })
	before := settled()
	const n = 100
	for range n {
		opened(t, f, o, textEvent(subscribeX), "Keep-Alive-Interval", "60")
	}
	f.listening(t, "x", n+1)
	eventually(t, fmt.Sprintf("no goroutines for %d quiet WebSockets over HTTP (%d before)", n, before), func() bool { return settled() <= before+2 })
	o.answerAll()
}

// anyAnswer is an origin of which a fuzz test makes the answer.
type anyAnswer struct{ page }

func (o *anyAnswer) ask(context.Context, http.Header, []byte) (*page, error) { return &o.page, nil }
func (o *anyAnswer) again(context.Context, error, int) bool                  { return false }

// Whatever an origin answers, what it has not taken stays in its order, and all
// bytes are counted.
func FuzzDialogue(f *testing.F) {
	f.Add("", "", "", uint8(3), false)
	f.Add("TEXT 5\r\nhello\r\n", "4", "20", uint8(5), true)
	f.Add("CLOSE\r\n", "0", "-1", uint8(0), true)
	f.Add("OPEN\r\n", "99999999999999999999", "x", uint8(9), false)
	f.Fuzz(func(t *testing.T, body, accepted, interval string, size uint8, closed bool) {
		h := http.Header{"Content-Type": {grip.ContentTypeEvents}, "Keep-Alive-Interval": {interval}, "Set-Meta-A": {interval}}
		if accepted != "" {
			h.Set("Content-Bytes-Accepted", accepted)
		}
		d := &dialogue{origin: &anyAnswer{page{status: 200, ins: grip.Instruct{Header: h, Body: []byte(body)}}}}
		tk := &talk{partner: d, manners: &overHTTPManners}
		said := make([]byte, size)
		for i := range said {
			said[i] = byte(i)
		}
		tk.add(grip.Event{Type: grip.EventText, Content: said})
		tk.add(grip.Event{Type: grip.EventPing})
		tk.add(grip.Event{Type: grip.EventBinary, Content: said})
		if closed {
			tk.sayLast(grip.Event{Type: grip.EventClose})
		}
		events, replayed := tk.next()
		if len(tk.pending) != 0 || tk.weight != 0 || replayed != 0 {
			t.Fatalf("%d events are left, of weight %d; replayed %d", len(tk.pending), tk.weight, replayed)
		}
		re, err := d.give(t.Context(), events, replayed)
		if err != nil {
			return
		}
		if d.askAfter != 0 && d.askAfter < minInterval {
			t.Errorf("interval: got %v", d.askAfter)
		}
		if tk.untaken(events, re.accepted) != nil {
			return
		}
		var left []byte
		weight := 0
		for _, e := range tk.pending {
			left = append(left, e.Content...)
			weight += len(e.Content) + eventWeight
		}
		all := append(append([]byte(nil), said...), said...)
		if want := all[re.accepted:]; string(left) != string(want) || tk.replayed != len(want) || tk.weight != weight {
			t.Errorf("accepted %d: left %x, replayed %d, weight %d, want %x, %d, %d", re.accepted, left, tk.replayed, tk.weight, want, len(want), weight)
		}
	})
}
