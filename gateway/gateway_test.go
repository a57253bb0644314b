package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/fanout"
)

const patience = 60 * time.Second

// fixture is a gateway on real ports, with a listOrigin.
type fixture struct {
	*Gateway
	engine *fanout.Engine
	list   *listOrigin
	url    string // http://127.0.0.1:port
	reg    *prometheus.Registry
	opaque atomic.Bool // see tightListener
	done   chan error  // Run's
}

const (
	testMessageMax   = 1 << 20
	maxClientMessage = 64 << 10
)

func testConfig() Config {
	return Config{
		HTTPAddr: "127.0.0.1:0", EventsPath: "/events/", SigKey: "changeme", SigIss: "pushpin", ControlAddr: "127.0.0.1:0",
		ControlMaxBody: 1e6, ChannelLogBytes: 4 << 20, ChannelLogAge: time.Minute, MaxSubscriptions: 3, MessageWait: 50 * time.Millisecond, MessageWaitMemory: 1 << 20,
		MessageMaxBytes: testMessageMax, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, MaxHeaders: 100, MaxURLBytes: 8 << 10, EventsMessageMaxBytes: maxClientMessage, HeaderTimeout: patience, BodyTimeout: patience,
		UpstreamConnectTimeout: patience, UpstreamTimeout: patience, SetXForwardedProtocol: "proto-only",
		CacheMaxAnswer: 1 << 20, CachePublishInterval: 50 * time.Millisecond,
		SockJSURL: "/sockjs.js", SockJSHeartbeat: 25 * time.Second, SockJSSessionTimeout: 5 * time.Second,
		SockJSResponseBytes: 128 << 10, SockJSBufferBytes: 256 << 10, SockJSSendBytes: 256 << 10,
	}
}

// start starts a gateway with a changed configuration, on an engine with one.
func start(t testing.TB, change func(*Config), engine ...func(*fanout.Config)) *fixture {
	t.Helper()
	checkGoroutines(t)
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	f := &fixture{reg: prometheus.NewRegistry(), done: make(chan error, 1)}
	fanoutCfg := cfg.Fanout()
	for _, change := range engine {
		change(&fanoutCfg)
	}
	f.engine = fanout.New(fanoutCfg, log, f.reg)
	f.list = newListOrigin(f.engine)
	var err error
	if f.Gateway, err = New(cfg, f.engine, f.list, log, f.reg); err != nil {
		t.Fatal(err)
	}
	if err := f.Listen(); err != nil {
		t.Fatal(err)
	}
	if capped, ok := f.clientListener.(*cappedListener); ok {
		capped.Listener = &tightListener{Listener: capped.Listener, opaque: &f.opaque}
	}
	f.url = "http://" + f.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { f.done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-f.done; err != nil {
			t.Errorf("run: %v", err)
		}
		f.done <- nil // for who looks again
		http.DefaultClient.CloseIdleConnections()
	})
	return f
}

// tightListener gives connections small buffers, so that a client that does not
// read is felt soon.
type tightListener struct {
	net.Listener
	opaque *atomic.Bool // nobody can see that they are TCP
}

func (l *tightListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if c, ok := conn.(*net.TCPConn); ok {
		c.SetWriteBuffer(16 << 10)
		if l.opaque.Load() {
			conn = struct{ net.Conn }{c}
		}
	}
	return conn, err
}

// tightClient is the other side of it.
func tightClient(t testing.TB) *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if c, ok := conn.(*net.TCPConn); ok {
			c.SetReadBuffer(16 << 10)
		}
		return conn, err
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// checked are the tests whose goroutines are looked at.
var checked sync.Map

// checkGoroutines fails the test when goroutines are left behind in the end. The
// first call of a test counts: later on there are some that have yet to begin.
func checkGoroutines(t testing.TB) {
	if _, again := checked.LoadOrStore(t.Name(), true); again {
		return
	}
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		checked.Delete(t.Name())
		http.DefaultClient.CloseIdleConnections()
		for deadline := time.Now().Add(patience); ; {
			if runtime.NumGoroutine() <= before {
				return
			}
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Errorf("goroutines: %d before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// eventually waits for a thing that has no event of its own.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// client is a response that is being read.
type client struct {
	t    testing.TB
	resp *http.Response
	body *bufio.Reader
}

// get asks for a path; header is name, value, name, value …
func (f *fixture) get(t testing.TB, path string, header ...string) *client {
	t.Helper()
	return f.do(t, http.MethodGet, path, nil, header...)
}

func (f *fixture) do(t testing.TB, method, path string, body io.Reader, header ...string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, f.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &client{t, resp, bufio.NewReader(resp.Body)}
}

// want reads as many bytes as text has, and compares.
func (c *client) want(text string) {
	c.t.Helper()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c.body, got)
	if string(got[:n]) != text {
		c.t.Fatalf("read: got %q (%v), want %q", got[:n], err, text)
	}
}

// wantLines reads the events of lines from to to.
func (c *client) wantLines(from, to int) {
	c.t.Helper()
	for n := from; n <= to; n++ {
		c.want(sse(strconv.Itoa(n)))
	}
}

// wantEnd reads the rest, and checks that it ends cleanly.
func (c *client) wantEnd(text string) {
	c.t.Helper()
	got, err := io.ReadAll(c.body)
	if string(got) != text || err != nil {
		c.t.Fatalf("rest: got %q, %v, want %q and a clean end", got, err, text)
	}
}

func (c *client) wantStatus(status int) *client {
	c.t.Helper()
	if c.resp.StatusCode != status {
		body, _ := io.ReadAll(c.body)
		c.t.Fatalf("status: got %d, want %d; body %q", c.resp.StatusCode, status, body)
	}
	return c
}

func (f *fixture) wantMetric(t testing.TB, name string, labels prometheus.Labels, want float64) {
	t.Helper()
	var got float64
	eventually(t, fmt.Sprintf("metric %s%v to be %v (is %v)", name, labels, want, got), func() bool {
		got = f.metric(t, name, labels)
		return got == want
	})
}

func (f *fixture) metric(t testing.TB, name string, labels prometheus.Labels) float64 {
	t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	metrics:
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if want, ok := labels[l.GetName()]; ok && want != l.GetValue() {
					continue metrics
				}
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s%v", name, labels)
	return 0
}

func TestStream(t *testing.T) {
	f := start(t, nil)
	c := f.get(t, "/events/list/").wantStatus(200)
	if got := c.resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("type: got %q", got)
	}
	for name := range c.resp.Header {
		if strings.HasPrefix(name, "Grip-") {
			t.Errorf("header %s reached the client", name)
		}
	}
	c.want(":ok\n\n")
	eventually(t, "the stream to attach", func() bool { return f.list.channel.Subscribers() == 1 })
	f.list.publish(2)
	c.wantLines(1, 2)
	f.list.publish(1)
	c.wantLines(3, 3)
	f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}, 1)
	c.resp.Body.Close()
	eventually(t, "the stream to end", func() bool { return f.list.channel.Subscribers() == 0 })
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "client"}, 1)
	f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}, 0)
}

// The head and first bytes are there while history is still being read.
func TestFirstBytesAtOnce(t *testing.T) {
	f := start(t, nil)
	f.list.gate = make(chan struct{})
	f.list.publish(5)
	c := f.get(t, "/events/list/", "Last-Event-ID", "3").wantStatus(200)
	c.want(":ok\n\n")
	close(f.list.gate)
	c.wantLines(4, 5)
}

func TestHistoryInPages(t *testing.T) {
	f := start(t, nil)
	f.list.page = 10
	f.list.publish(35)
	c := f.get(t, "/events/list/", "Last-Event-ID", "2")
	c.want(":ok\n\n")
	c.wantLines(3, 35)
	f.list.publish(1)
	c.wantLines(36, 36)
	for i, id := range f.list.askedIDs() {
		if id != "" {
			t.Errorf("page %d was asked with Grip-Last %q; no channel was held", i, id)
		}
	}
}

func contextWithTimeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func bufioReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }

// The series exist before the first thing goes wrong.
func TestMetricsExistFromTheStart(t *testing.T) {
	f := start(t, nil)
	for _, r := range closeReasons {
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": string(r)}, 0)
	}
	for _, r := range askReasons {
		f.wantMetric(t, "spillway_links_asked_total", prometheus.Labels{"reason": string(r)}, 0)
	}
	for _, name := range []string{"spillway_channels", "spillway_subscribers", "spillway_log_bytes", "spillway_fell_behind_total",
		"spillway_evicted_items_total", "spillway_refused_total", "spillway_subscriptions_ignored_total",
		"spillway_websocket_waiting_bytes", "spillway_websocket_requests_repeated_total", "spillway_websocket_requests_lost_total"} {
		f.metric(t, name, nil)
	}
}

func TestDrainDoesNotMissConnectionsWithoutARequest(t *testing.T) {
	f := start(t, nil)
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	listener, ok := f.clientListener.(*cappedListener)
	if !ok {
		t.Fatalf("listener: got %T", f.clientListener)
	}
	eventually(t, "the connection is accepted", func() bool { return listener.open.Load() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := f.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
}
