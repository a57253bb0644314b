package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

func TestHints(t *testing.T) {
	f := start(t, nil)
	f.list.publish(2)
	c := f.get(t, "/events/list/")
	c.want(":ok\n\n")
	f.attached(t, 1)
	before := len(f.list.askedIDs())
	f.list.publish(1)
	hint := grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}
	f.list.act(hint)
	c.wantLines(3, 3)
	eventually(t, "the link to be asked", func() bool { return len(f.list.askedIDs()) == before+1 })
	if got := f.list.askedIDs()[before]; got != "3" {
		t.Errorf("Grip-Last: got %q, want 3, the last item with content", got)
	}
	f.attached(t, 1)
	f.list.publish(1) // position 5
	c.wantLines(5, 5)
	f.wantMetric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "hint"}, 1)
}

func TestCloseItem(t *testing.T) {
	f := start(t, nil)
	c := f.get(t, "/events/list/")
	f.attached(t, 1)
	f.list.publish(2)
	f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	f.list.publish(1)
	c.wantEnd(":ok\n\n" + sse("1") + sse("2"))
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "close_item"}, 1)
}

func TestKeepAlive(t *testing.T) {
	f := start(t, nil)
	f.list.keep = `:\n\n; format=cstring; timeout=1; mode=idle`
	c := f.get(t, "/events/list/")
	c.want(":ok\n\n")
	f.attached(t, 1)
	began := time.Now()
	c.want(":\n\n")
	if d := time.Since(began); d < 800*time.Millisecond || d > 5*time.Second {
		t.Errorf("first keep-alive after %v, want about 1s", d)
	}
	c.want(":\n\n")
}

// Clients that are quick, slow, or stall until the log is past them: each gets
// every line once, in order. So does one that starts again in the middle.
func TestEveryLineOnce(t *testing.T) {
	const lines, clients = 4000, 10
	f := start(t, func(c *Config) { c.ChannelLogBytes = 32 << 10 })
	f.list.page = 50
	f.list.pad = strings.Repeat(".", 500)
	f.list.publish(100)
	tight := tightClient(t)
	var next [clients]atomic.Int64 // the line that each must get next
	var wg sync.WaitGroup
	for i := range clients {
		next[i].Store(int64(1 + 10*i))
		wg.Go(func() {
			for next[i].Load() <= lines && !t.Failed() {
				readLines(t, f, tight, i, &next[i], lines)
			}
		})
	}
	for n := 100; n < lines; {
		batch := min(1+rand.IntN(20), lines-n)
		f.list.publish(batch)
		n += batch
		for i := range next { // not so far ahead that all is read from history
			for int64(n)-next[i].Load() > 800 && !t.Failed() {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}
	wg.Wait()
	behind := f.metric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "behind"})
	t.Logf("fell behind %v times, %v pages", behind, len(f.list.askedIDs()))
	if behind == 0 {
		t.Error("nobody fell behind: the test shows nothing")
	}
}

// readLines reads a stream from line next on, until the last or a random break.
func readLines(t *testing.T, f *fixture, tight *http.Client, client int, next *atomic.Int64, last int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", f.url+"/events/list/", nil)
	at := next.Load()
	r.Header.Set("Last-Event-ID", strconv.FormatInt(at-1, 10))
	resp, err := tight.Do(r)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	body := bufio.NewScanner(resp.Body)
	breakAt := at + 500 + rand.Int64N(3000)
	for at <= last && (at < breakAt || client%3 != 0) && body.Scan() {
		id, ok := strings.CutPrefix(body.Text(), "id: ")
		if !ok {
			continue
		}
		if id != strconv.FormatInt(at, 10) {
			t.Errorf("client %d: got line %s, want %d", client, id, at)
			return
		}
		at++
		next.Store(at)
		if client%4 == 1 && at%500 == 0 { // stall until the log has gone on
			for first, newest := f.list.channel.Retained(); first < uint64(at)+400 && newest < uint64(last); first, newest = f.list.channel.Retained() {
				time.Sleep(time.Millisecond)
			}
		}
	}
	if err := body.Err(); err != nil {
		t.Errorf("client %d at line %d: %v", client, at, err)
	}
}

// While the origin cannot make a page, the client stays.
func TestPageIsLate(t *testing.T) {
	f := start(t, nil)
	f.list.publish(3)
	f.list.late = 3
	c := f.get(t, "/events/list/", "Last-Event-ID", "1")
	c.want(":ok\n\n")
	c.wantLines(2, 3)

	f.list.mu.Lock()
	f.list.late = 1
	f.list.mu.Unlock()
	f.get(t, "/events/list/", "Last-Event-ID", "1", "Accept", "application/json").wantStatus(503).wantEnd("Kafka is away\n")
}

func TestMaxAge(t *testing.T) {
	f := start(t, func(c *Config) { c.ConnectionMaxAge = time.Second })
	began := time.Now()
	f.get(t, "/events/list/").wantEnd(":ok\n\n")
	if d := time.Since(began); d < 800*time.Millisecond || d > 5*time.Second {
		t.Errorf("ended after %v, want 1s ± 20 %%", d)
	}
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "max_age"}, 1)
}

func TestDrain(t *testing.T) {
	f := start(t, nil)
	f.list.wait = "60"
	stream := f.get(t, "/events/list/")
	stream.want(":ok\n\n")
	socket := f.dial(t, "/events/list/")
	f.attached(t, 2)
	polled := make(chan string, 1)
	go func() {
		resp, err := http.DefaultClient.Do(mustRequest(f.url+"/events/list/", "Accept", "application/json"))
		if err != nil {
			polled <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		polled <- string(body)
	}()
	f.attached(t, 3)

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	drained := make(chan error, 1)
	began := time.Now()
	go func() { drained <- f.Drain(ctx) }()
	rest, err := io.ReadAll(stream.body)
	if ms, ok := strings.CutPrefix(string(rest), "retry: "); err != nil || !ok || !strings.HasSuffix(ms, "\n\n") {
		t.Errorf("stream ended with %q, %v, want retry: and a clean end", rest, err)
	} else if n, err := strconv.Atoi(strings.TrimSpace(ms)); err != nil || n < 500 || n > 1000+int(patience.Milliseconds()) {
		t.Errorf("retry: got %q, want 500 to a second more than the drain's time", ms)
	}
	socket.wantClose(1012, "restarting")
	if got := <-polled; got != `{"events":[],"id":"0"}` {
		t.Errorf("long poll: got %q, want the answer of its timeout", got)
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	if err := <-f.done; err != nil {
		t.Errorf("run: %v", err)
	}
	f.done <- nil
	if d := time.Since(began); d > patience/2 {
		t.Errorf("draining three connections took %v", d)
	}
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "draining"}, 3)
}

func mustRequest(url string, header ...string) *http.Request {
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// What does not end by itself is cut when the time is over.
func TestDrainCutsOff(t *testing.T) {
	f := start(t, nil)
	f.list.gate = make(chan struct{})
	f.list.publish(1)
	c := f.get(t, "/events/list/", "Last-Event-ID", "0")
	c.want(":ok\n\n") // and now its page never comes
	f.drain.enter()   // something that never ends
	defer f.drain.leave()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := f.Drain(ctx); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("drain: got %v, want that connections were cut off", err)
	}
	if _, err := io.ReadAll(c.body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Logf("stream: %v", err)
	}
}

func TestRefusedWhileDraining(t *testing.T) {
	f := start(t, nil)
	f.drain.enter() // keeps the drain from ending
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- f.Drain(ctx) }()
	eventually(t, "the drain to begin", f.drain.begun)
	f.get(t, "/events/list/").wantStatus(200).wantEnd("event: stream-error\ndata: {\"code\":\"draining\"}\n\n")
	r := mustRequest(f.url+"/events/list/", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("websocket: got %d, Retry-After %q, want 503 and one", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	f.drain.leave()
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "draining"}, 2)
}

func TestLimits(t *testing.T) {
	refused := "event: stream-error\ndata: {\"code\":\"too-many-connections\"}\n\n"
	t.Run("in total", func(t *testing.T) {
		f := start(t, func(c *Config) { c.MaxConnections = 1 })
		c := f.get(t, "/events/list/")
		c.want(":ok\n\n")
		f.get(t, "/events/list/").wantEnd(refused)
		c.resp.Body.Close()
		f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}, 0)
		f.get(t, "/events/list/").want(":ok\n\n")
		f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "max_connections"}, 1)
	})
	t.Run("per address, behind a trusted proxy", func(t *testing.T) {
		f := start(t, func(c *Config) { c.MaxConnectionsPerIP, c.TrustedProxies = 1, []string{"127.0.0.0/8", "10.0.0.9"} })
		for _, tt := range []struct {
			from string
			want string
		}{
			{"192.0.2.1", ":ok\n\n"},
			{"192.0.2.1", refused},
			{"192.0.2.2", ":ok\n\n"},
			{"192.0.2.1, 10.0.0.9", refused},  // by way of a second proxy
			{"192.0.2.3, 192.0.2.2", refused}, // what the client claims does not count
			{"2001:db8::1", ":ok\n\n"},
			{"2001:db8::2", refused}, // the same network
		} {
			f.get(t, "/events/list/", "X-Forwarded-For", tt.from).want(tt.want)
		}
	})
	t.Run("header size", func(t *testing.T) {
		f := start(t, func(c *Config) { c.MaxHeaderBytes = 1 << 10 })
		f.get(t, "/events/list/", "X-Large", strings.Repeat("x", 8<<10)).wantStatus(http.StatusRequestHeaderFieldsTooLarge)
	})
	t.Run("sockets", func(t *testing.T) {
		f := start(t, func(c *Config) { c.MaxConnections, c.MaxIdleConnections = 1, 1000 }) // 65 sockets
		for range 65 {
			conn, err := net.Dial("tcp", f.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		conn, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the 66th socket was not closed")
		}
		f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "sockets"}, 1)
	})
}

// A client that takes nothing is closed, and does not delay another.
func TestWriteTimeout(t *testing.T) {
	f := start(t, func(c *Config) { c.WriteTimeout, c.ChannelLogBytes = time.Second, 64<<20 })
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET /events/list/ HTTP/1.1\r\nHost: x\r\n\r\n")
	other := f.get(t, "/events/list/")
	other.want(":ok\n\n")
	f.attached(t, 2)
	const n, size = 100, 64 << 10
	read := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, other.body, n*size)
		read <- err
	}()
	line := []byte(strings.Repeat("x", size))
	for range n {
		f.list.channel.Append([]grip.Item{{HTTPStream: &grip.HTTPStream{Content: line}}})
	}
	if err := <-read; err != nil {
		t.Errorf("the other client: %v", err)
	}
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "write_timeout"}, 1)
	f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}, 1)
}

func TestHTTP10(t *testing.T) {
	f := start(t, nil)
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /events/list/ HTTP/1.0\r\n\r\n")
	f.attached(t, 1)
	f.list.publish(1)
	f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	got, err := io.ReadAll(conn)
	head, body, _ := strings.Cut(string(got), "\r\n\r\n")
	if err != nil || !strings.HasPrefix(head, "HTTP/1.0 200 OK") || strings.Contains(head, "chunked") || body != ":ok\n\n"+sse("1") {
		t.Errorf("got %q, %v, want a body that ends with the connection", got, err)
	}
}

func TestHead(t *testing.T) {
	f := start(t, nil)
	c := f.do(t, http.MethodHead, "/events/list/", nil).wantStatus(200)
	if got := c.resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("type: got %q", got)
	}
	c.wantEnd("")
}

func TestLinksAreNotForClients(t *testing.T) {
	f := start(t, nil)
	f.get(t, "/events/~next/sse/0").wantStatus(404)
	c := f.get(t, "/events/list/", "Grip-Last", "list; last-id=0")
	c.want(":ok\n\n")
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	for _, h := range f.list.headers[:2] {
		if len(h.Values("Grip-Last")) > 0 {
			t.Error("a client's Grip-Last reached the origin")
		}
	}
}

// A connection outlives its stream, where the client can tell the two apart.
func TestStreamsOnOneConnection(t *testing.T) {
	origin := map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "jobs")
	}}
	end := grip.Item{Channel: "jobs", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}}
	for _, tt := range []struct {
		name, request string
		stays         bool
	}{
		{"HTTP/1.1", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"for the last time", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, _ := routed(t, origin, "")
			c := f.call(t)
			for range 3 {
				c.say(tt.request)
				f.listening(t, "jobs", 1)
				f.publish(t, text("jobs", "", "", "done"))
				f.publish(t, end)
				c.wantAnswer("GET", 200, "done")
				if !tt.stays {
					c.wantHangUp()
					break
				}
				if n := f.sockets(); n != 1 {
					t.Errorf("sockets: got %d, want 1", n)
				}
			}
			c.Close()
			eventually(t, "no socket", func() bool { return f.sockets() == 0 })
			f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}, 0)
		})
	}
}

// A connection whose stream is over does not delay the gateway's end.
func TestFinishedStreamsEnd(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "jobs")
	}}, "")
	c := f.call(t)
	c.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	f.listening(t, "jobs", 1)
	f.publish(t, grip.Item{Channel: "jobs", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	c.wantAnswer("GET", 200, "")
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
	if took := time.Since(began); took > 3*time.Second { // net/http waits 5 for new connections
		t.Errorf("the end took %v", took)
	}
	c.wantHangUp()
}
