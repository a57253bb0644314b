package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

// wsClient is a WebSocket that is being read.
type wsClient struct {
	t    testing.TB
	ctx  context.Context
	conn *websocket.Conn
	resp *http.Response
}

func (f *fixture) dial(t testing.TB, path string, protocols ...string) *wsClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	conn, resp, err := websocket.Dial(ctx, f.url+path, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return &wsClient{t, ctx, conn, resp}
}

func (c *wsClient) send(text string) {
	c.t.Helper()
	if err := c.conn.Write(c.ctx, websocket.MessageText, []byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *wsClient) want(texts ...string) {
	c.t.Helper()
	for _, want := range texts {
		typ, got, err := c.conn.Read(c.ctx)
		if err != nil || typ != websocket.MessageText || strings.TrimRight(string(got), " ") != want {
			c.t.Fatalf("message: got %v %q, %v, want %q", typ, got, err, want)
		}
	}
}

func (c *wsClient) wantLines(from, to int) {
	c.t.Helper()
	for n := from; n <= to; n++ {
		c.want(strconv.Itoa(n))
	}
}

func (c *wsClient) wantClose(code websocket.StatusCode, reason string) {
	c.t.Helper()
	_, got, err := c.conn.Read(c.ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != code || closed.Reason != reason {
		c.t.Fatalf("close: got message %q, %v, want %d %q", got, err, code, reason)
	}
}

func (f *fixture) attached(t testing.TB, n int) {
	t.Helper()
	eventually(t, strconv.Itoa(n)+" subscribers", func() bool { return f.list.channel.Subscribers() == n })
}

func TestWebSocket(t *testing.T) {
	f := start(t, nil)
	f.list.page = 10
	f.list.publish(25)
	c := f.dial(t, "/events/list/", "spillway.v1.json", "other")
	if got := c.conn.Subprotocol(); got != "spillway.v1.json" {
		t.Errorf("subprotocol: got %q", got)
	}
	for name := range c.resp.Header {
		if strings.HasPrefix(name, "Grip-") || name == "Content-Type" {
			t.Errorf("header %s reached the client", name)
		}
	}
	if got := c.resp.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control: got %q, want that of the origin", got)
	}
	f.attached(t, 1)
	f.list.publish(2)
	c.wantLines(26, 27)

	c.send("count")
	c.want("count 1 id true")
	c.send("count")
	c.want("count 2 id true")
	c.send("c:{\"type\":\"none\"}") // of a client it is a message like any other
	c.send("count")
	c.want("count 3 id true")
	f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "websocket"}, 1)
	c.conn.Close(websocket.StatusNormalClosure, "")
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "client"}, 1)
	f.attached(t, 0)
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	if got := strings.Count(strings.Join(f.list.posts, ""), "TEXT"); got != 4 {
		t.Errorf("posts: got %q, want the four messages and nothing when the client left", f.list.posts)
	}
}

func TestWebSocketCatchesUp(t *testing.T) {
	f := start(t, nil)
	f.list.page = 10
	f.list.publish(35)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, f.url+"/events/list/", &websocket.DialOptions{HTTPHeader: http.Header{"Last-Event-Id": {"3"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	c := &wsClient{t: t, ctx: ctx, conn: conn}
	c.wantLines(4, 35)
	f.list.publish(1)
	c.wantLines(36, 36)
}

func TestWebSocketSubscriptions(t *testing.T) {
	f := start(t, nil) // at most 3 streams
	f.list.page = 10
	f.list.publish(3)
	c := f.dial(t, "/events/list/")
	f.attached(t, 1)
	c.send("subscribe a") // begins with history
	c.wantLines(1, 3)
	f.attached(t, 2)
	c.send("attach b")
	f.attached(t, 3)
	c.send("attach c")
	f.wantMetric(t, "spillway_subscriptions_ignored_total", nil, 1)
	f.list.publish(1)
	c.want("4", "4", "4")
	c.send("unsubscribe a")
	c.want("unsubscribed a")
	f.list.publish(1)
	c.want("5", "5")
	f.attached(t, 2)
	c.send("drop list")
	c.want("dropped list")
	f.attached(t, 0)
	f.list.publish(1)
	c.send("still there")
	c.want("still there")
	c.send("subscribe a")
	c.wantLines(1, 6)
}

func TestWebSocketEnds(t *testing.T) {
	t.Run("close event of the origin", func(t *testing.T) {
		f := start(t, nil)
		c := f.dial(t, "/events/list/")
		c.send("close bye")
		c.wantClose(4000, "bye")
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "origin_end"}, 1)
	})
	t.Run("close item, after what precedes it", func(t *testing.T) {
		f := start(t, nil)
		c := f.dial(t, "/events/list/")
		f.attached(t, 1)
		f.list.publish(1)
		f.list.act(grip.Item{WSMessage: &grip.WSMessage{Action: grip.ActionClose, Code: 1008, Reason: "forbidden"}})
		c.wantLines(1, 1)
		c.wantClose(1008, "forbidden")
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "close_item"}, 1)
	})
	t.Run("a message that is too large", func(t *testing.T) {
		f := start(t, nil)
		c := f.dial(t, "/events/list/")
		c.send(strings.Repeat("x", maxClientMessage+1))
		_, _, err := c.conn.Read(c.ctx)
		if got := websocket.CloseStatus(err); got != 1009 {
			t.Errorf("close: got %v, want 1009", err)
		}
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "message_size"}, 1)
	})
	t.Run("age", func(t *testing.T) {
		f := start(t, func(c *Config) { c.ConnectionMaxAge = time.Second })
		c := f.dial(t, "/events/list/")
		c.wantClose(1012, "connect again")
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "max_age"}, 1)
	})
	t.Run("refused by the origin", func(t *testing.T) {
		f := start(t, nil)
		_, resp, err := websocket.Dial(context.Background(), f.url+"/events/list/?refuse=1", nil)
		if err == nil {
			t.Fatal("connected")
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 403 || string(body) != "not for you\n" {
			t.Errorf("got %d %q, want the origin's 403", resp.StatusCode, body)
		}
	})
	t.Run("the channel closes, the stream goes on at the link", func(t *testing.T) {
		f := start(t, nil)
		c := f.dial(t, "/events/list/")
		f.attached(t, 1)
		f.list.publish(2)
		c.wantLines(1, 2)
		f.list.mu.Lock()
		old := f.list.channel
		f.list.channel = f.engine.Open("list", ids{})
		f.list.lines = nil
		f.list.mu.Unlock()
		old.Close()
		eventually(t, "the link to be asked", func() bool {
			asked := f.list.askedIDs()
			return len(asked) > 1 && asked[1] == "2"
		})
	})
}

func TestWebSocketDetached(t *testing.T) {
	f := start(t, nil)
	c := f.dial(t, "/events/list/?detach=1")
	f.attached(t, 1)
	for range 100 {
		c.send(strings.Repeat("x", 10_000)) // more than may be pending
	}
	f.list.publish(1)
	c.wantLines(1, 1)
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	if len(f.list.posts) > 0 {
		t.Errorf("posts: got %d, want none", len(f.list.posts))
	}
}

// A client that had said too much is read from again once nobody wants to know.
func TestWebSocketDetachedWhilePaused(t *testing.T) {
	f := start(t, nil)
	f.list.gate = make(chan struct{})
	answer := sync.OnceFunc(func() { close(f.list.gate) })
	defer answer()
	c := f.dial(t, "/events/list/")
	c.send("detach")
	eventually(t, "the origin to be asked", func() bool {
		f.list.mu.Lock()
		defer f.list.mu.Unlock()
		return len(f.list.posts) == 1
	})
	go func() { // or no pong would be seen
		for {
			if _, _, err := c.conn.Read(c.ctx); err != nil {
				return
			}
		}
	}()
	ping := func(d time.Duration) error {
		ctx, cancel := context.WithTimeout(c.ctx, d)
		defer cancel()
		return c.conn.Ping(ctx)
	}
	eventually(t, "the client to be read from no more", func() bool {
		c.send(strings.Repeat("x", 10_000))
		return ping(100*time.Millisecond) != nil
	})
	answer()
	if err := ping(patience); err != nil {
		t.Errorf("ping after detach: got %v, want an answer", err)
	}
}

// Messages that come together are posted together, one request at a time, and
// none is lost.
func TestWebSocketManyMessages(t *testing.T) {
	f := start(t, nil)
	c := f.dial(t, "/events/list/")
	f.attached(t, 1)
	const n = 500
	go func() {
		for i := range n {
			c.conn.Write(c.ctx, websocket.MessageText, []byte(strings.Repeat("y", i)+" "+strconv.Itoa(i)))
		}
	}()
	for i := range n {
		c.want(strings.Repeat("y", i) + " " + strconv.Itoa(i))
	}
}

func TestWebSocketKeepAlive(t *testing.T) {
	f := start(t, nil)
	f.list.keep = "x; timeout=1"
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pings := make(chan struct{}, 10)
	conn, _, err := websocket.Dial(ctx, f.url+"/events/list/", &websocket.DialOptions{
		OnPingReceived: func(context.Context, []byte) bool { pings <- struct{}{}; return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.CloseRead(ctx)
	for range 2 {
		select {
		case <-pings:
		case <-ctx.Done():
			t.Fatal("no ping")
		}
	}
}

func TestWebSocketEventsFromClients(t *testing.T) {
	f := start(t, nil)
	for _, name := range []string{"Accept", "Content-Type"} {
		c := f.get(t, "/events/list/", name, "application/websocket-events").wantStatus(403)
		c.wantEnd("Client not allowed to send WebSocket events directly.\n")
	}
}

func (f *fixture) dialTight(t testing.TB, path string, header http.Header) *wsClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	conn, resp, err := websocket.Dial(ctx, f.url+path, &websocket.DialOptions{HTTPClient: tightClient(t), HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return &wsClient{t, ctx, conn, resp}
}

// A client that reads nothing until the log is past it gets all the same.
func TestWebSocketBehind(t *testing.T) {
	f := start(t, func(c *Config) { c.ChannelLogBytes = 32 << 10 })
	f.list.pad = strings.Repeat(".", 500)
	f.list.page = 50
	c := f.dialTight(t, "/events/list/", nil)
	f.attached(t, 1)
	for range 500 {
		f.list.publish(4)
	}
	f.attached(t, 0) // fell behind
	c.wantLines(1, 2000)
	f.list.publish(1)
	c.wantLines(2001, 2001)
	if got := f.metric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "behind"}); got == 0 {
		t.Error("did not fall behind: the test shows nothing")
	}
}

func TestWebSocketStalled(t *testing.T) {
	f := start(t, func(c *Config) { c.WriteTimeout, c.ChannelLogBytes = time.Second, 64<<20 })
	f.dialTight(t, "/events/list/", nil)
	f.attached(t, 1)
	content := []byte(strings.Repeat("x", 64<<10))
	for range 100 {
		f.list.channel.Append([]grip.Item{{WSMessage: &grip.WSMessage{Content: content}}})
	}
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "write_timeout"}, 1)
	f.attached(t, 0)
}

// A client that does not answer pings is gone.
func TestWebSocketSilent(t *testing.T) {
	f := start(t, func(c *Config) { c.WriteTimeout = time.Second })
	f.list.keep = "x; timeout=1"
	f.dial(t, "/events/list/") // does not read, so sends no pong
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "write_timeout"}, 1)
}
