package sockjs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const patience = 60 * time.Second

// fixture is a Server on a port, under /echo, in front of a WebSocket that says
// everything back, closes at "close", and speaks when told to.
type fixture struct {
	*Server
	t     *testing.T
	url   string // of the base
	conns chan *websocket.Conn
	heard chan string // messages that were not said back
}

func start(t *testing.T, change func(*Config)) *fixture {
	t.Helper()
	cfg := Config{URL: "/sockjs.js", Heartbeat: time.Minute, Timeout: time.Minute, ResponseBytes: 4096, BufferBytes: 1 << 20,
		SendBytes: 1 << 20, WriteTimeout: patience}
	if change != nil {
		change(&cfg)
	}
	f := &fixture{t: t, conns: make(chan *websocket.Conn, 100), heard: make(chan string, 100)}
	var spawned sync.WaitGroup
	life, end := context.WithCancel(context.Background())
	f.Server = New(cfg, func(run func(context.Context)) { spawned.Go(func() { run(life) }) }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(-1)
		f.conns <- c
		for {
			_, m, err := c.Read(r.Context())
			switch {
			case err != nil:
				return
			case string(m) == "close":
				_ = c.Close(3000, "Go away!")
				return
			case strings.HasPrefix(string(m), "hear "):
				f.heard <- string(m)
				continue
			}
			if c.Write(r.Context(), websocket.MessageText, m) != nil {
				return
			}
		}
	}))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest := strings.TrimPrefix(r.URL.EscapedPath(), "/echo")
		f.Serve(w, r, "echo", rest, func(ctx context.Context, _ bool) (*websocket.Conn, error) {
			switch r.URL.Query().Get("open") {
			case "refused":
				return nil, &Refusal{Status: http.StatusForbidden, Header: http.Header{"X-A": {"1"}}, Body: []byte("no")}
			case "failed":
				return nil, errors.New("away")
			}
			c, _, err := websocket.Dial(ctx, origin.URL, nil)
			return c, err
		})
	}))
	f.url = front.URL + "/echo"
	t.Cleanup(func() {
		front.CloseClientConnections()
		end()
		spawned.Wait()
		front.Close()
		origin.CloseClientConnections()
		origin.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return f
}

// answered is a response that was read to its end.
type answered struct {
	*http.Response
	body string
}

func (f *fixture) do(method, path, body string, header ...string) answered {
	f.t.Helper()
	resp := f.begin(method, path, body, header...)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answered{resp, string(b)}
}

// begin makes a request and returns when it has the head of its response.
func (f *fixture) begin(method, path, body string, header ...string) *http.Response {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp
}

func (f *fixture) want(method, path, body, want string) {
	f.t.Helper()
	if got := f.do(method, path, body); got.StatusCode != http.StatusOK || got.body != want {
		f.t.Errorf("%s %s: got %d, %q, want %q", method, path, got.StatusCode, got.body, want)
	}
}

// wantStatus checks an answer that begins with want.
func (f *fixture) wantStatus(method, path, body string, status int, want string, header ...string) {
	f.t.Helper()
	if got := f.do(method, path, body, header...); got.StatusCode != status || !strings.HasPrefix(got.body, want) {
		f.t.Errorf("%s %s %q: got %d, %q, want %d, %q", method, path, body, got.StatusCode, got.body, status, want)
	}
}

func (f *fixture) eventually(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// value is that of a gauge or counter.
func value(m prometheus.Metric) float64 {
	var out dto.Metric
	_ = m.Write(&out) // never fails
	return out.GetGauge().GetValue() + out.GetCounter().GetValue()
}

func TestPaths(t *testing.T) {
	f := start(t, nil)
	for _, path := range []string{"", "/"} {
		f.want("GET", path, "", "Welcome to SockJS!\n")
	}
	for _, path := range []string{"/a", "/a.html", "//", "///", "/a/a", "/a/a/", "/iframe.htm", "/iframe", "/IFRAME.HTML", "/iframe.HTML",
		"/iframe.xml", "/iframe-/.html", "/a./a/xhr", "/a/a./xhr", "/./a/xhr", "//a/xhr", "/a//xhr", "/a/a/a/xhr", "/a/a/nosuch"} {
		f.wantStatus("GET", path, "", 404, "Not Found\n")
		f.wantStatus("POST", path, "", 404, "Not Found\n")
	}
	for _, path := range []string{"/info", "/iframe.html", "/a/a/jsonp?c=x", "/a/a/eventsource", "/a/a/htmlfile?c=x", "/a/a/websocket"} {
		got := f.do("POST", path, "")
		if allow := got.Header.Get("Allow"); got.StatusCode != http.StatusMethodNotAllowed || allow != "OPTIONS, GET" || got.body != "" {
			t.Errorf("POST %s: got %d, Allow: %s, %q", path, got.StatusCode, allow, got.body)
		}
	}
	f.wantStatus("GET", "/a/a/xhr", "", 405, "")
	f.wantStatus("GET", "/a/a/websocket", "", 400, "Can \"Upgrade\" only")
	f.wantStatus("GET", "/a/a/websocket", "", 400, "Can \"Upgrade\" only", "Upgrade", "websocket", "Connection", "close")
}

func TestInfo(t *testing.T) {
	f := start(t, nil)
	entropy := map[uint32]bool{}
	for range 3 {
		got := f.do("GET", "/info", "", "Origin", "http://x.test")
		var info struct {
			WebSocket    bool
			Origins      []string
			CookieNeeded bool `json:"cookie_needed"`
			Entropy      uint32
		}
		if err := json.Unmarshal([]byte(got.body), &info); err != nil || !info.WebSocket || info.CookieNeeded || fmt.Sprint(info.Origins) != "[*:*]" {
			t.Errorf("got %s, %v", got.body, err)
		}
		entropy[info.Entropy] = true
		if h := got.Header; h.Get("Access-Control-Allow-Origin") != "http://x.test" || h.Get("Cache-Control") != notStored {
			t.Errorf("header: got %v", h)
		}
	}
	if len(entropy) < 2 {
		t.Error("the entropy is always the same")
	}
}

func TestPreflight(t *testing.T) {
	f := start(t, nil)
	for _, path := range []string{"/info", "/abc/abc/xhr", "/abc/abc/xhr_send", "/abc/abc/xhr_streaming"} {
		got := f.do("OPTIONS", path, "", "Origin", "null", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "a, b")
		for name, want := range map[string]string{"Access-Control-Allow-Origin": "null", "Access-Control-Allow-Credentials": "true",
			"Access-Control-Allow-Methods": "OPTIONS, GET, POST", "Access-Control-Allow-Headers": "a, b", "Access-Control-Max-Age": "31536000",
			"Cache-Control": "public, max-age=31536000"} {
			if have := got.Header.Get(name); have != want || got.StatusCode != http.StatusNoContent {
				t.Errorf("%s: %d, %s: got %q, want %q", path, got.StatusCode, name, have, want)
			}
		}
	}
}

func TestFrame(t *testing.T) {
	f := start(t, func(c *Config) { c.URL = `/a"b.js` })
	one := f.do("GET", "/iframe.html", "")
	two := f.do("GET", "/iframe-0.1.2abc-dirty.2144.html?t=1", "")
	if one.body != two.body || !strings.Contains(one.body, `<script src="/a&#34;b.js">`) || one.Header.Get("Content-Type") != "text/html; charset=UTF-8" {
		t.Errorf("got %s and %s", one.body, two.body)
	}
	tag := one.Header.Get("ETag")
	f.wantStatus("GET", "/iframe.html", "", 304, "", "If-None-Match", tag)
	if tag == "" || !strings.Contains(one.Header.Get("Cache-Control"), "public") {
		t.Errorf("header: got %v", one.Header)
	}
}

func TestPolling(t *testing.T) {
	f := start(t, nil)
	f.want("POST", "/000/one/xhr", "", "o\n")
	f.want("POST", "/000/one/xhr_send", `["a"]`, "ok")
	f.want("POST", "/999/one/xhr", "", "a[\"a\"]\n") // the server does not count
	f.want("POST", "/000/one/xhr_send", `[]`, "ok")
	f.want("POST", "/000/one/xhr_send", `["b","c"]`, "ok")
	f.want("POST", "/000/one/xhr_send", `["hear d"]`, "ok")
	<-f.heard // what was said before is back, or on its way
	var got string
	for !strings.Contains(got, "c") {
		got += f.do("POST", "/000/one/xhr", "").body
	}
	if got != "a[\"b\",\"c\"]\n" && got != "a[\"b\"]\na[\"c\"]\n" {
		t.Errorf("got %q, want b and c", got)
	}
	f.wantStatus("POST", "/000/nosuch/xhr_send", `["x"]`, 404, "Not Found")
	f.wantStatus("POST", "/000/one/xhr_send", `["x`, 500, "Broken JSON encoding.")
	f.wantStatus("POST", "/000/one/xhr_send", `[1]`, 500, "Broken JSON encoding.")
	f.wantStatus("POST", "/000/one/xhr_send", `null`, 500, "Broken JSON encoding.")
	f.wantStatus("POST", "/000/one/xhr_send", ``, 500, "Payload expected.")
	f.want("POST", "/000/one/xhr_send", `"alone"`, "ok")
	f.want("POST", "/000/one/xhr", "", "a[\"alone\"]\n")

	// Until it is forgotten, the session says how it ended.
	f.want("POST", "/000/one/xhr_send", `["close"]`, "ok")
	for range 3 {
		f.want("POST", "/000/one/xhr", "", "c[3000,\"Go away!\"]\n")
	}
	f.wantStatus("POST", "/000/one/xhr_send", `["x"]`, 404, "Not Found")
	if n := value(f.metrics.ended[endedByOrigin]); n != 1 {
		t.Errorf("ended by the origin: got %v, want 1", n)
	}
}

func TestSendTooMuch(t *testing.T) {
	f := start(t, func(c *Config) { c.SendBytes = 10 })
	f.want("POST", "/000/one/xhr", "", "o\n")
	f.want("POST", "/000/one/xhr_send", `["123456"]`, "ok")
	f.wantStatus("POST", "/000/one/xhr_send", `["1234567"]`, 413, "A request must not have more than SOCKJS_SEND_BYTES.")
}

func TestJSONP(t *testing.T) {
	f := start(t, nil)
	for _, name := range []string{"jsonp", "htmlfile"} {
		f.wantStatus("GET", "/a/a/"+name, "", 500, `"callback" parameter required`)
		for _, callback := range []string{"%20", "*", "abc(", "abc%28", strings.Repeat("a", 257)} {
			f.wantStatus("GET", "/a/a/"+name+"?c="+callback, "", 500, `invalid "callback" parameter`)
		}
	}
	const form = "application/x-www-form-urlencoded"
	f.want("GET", "/000/one/jsonp?c=%63b", "", `/**/cb("o");`+"\n")
	f.wantStatus("POST", "/000/one/jsonp_send", "d=%5B%22%3C/script%3E%22%5D", 200, "ok", "Content-Type", form)
	f.want("GET", "/000/one/jsonp?c=cb", "", `/**/cb("a[\"\u003c/script\u003e\"]");`+"\n")
	f.wantStatus("POST", "/000/one/jsonp_send", `["%61"]`, 200, "ok", "Content-Type", "text/plain")
	f.want("GET", "/000/one/jsonp?callback=cb", "", `/**/cb("a[\"%61\"]");`+"\n")
	f.wantStatus("POST", "/000/one/jsonp_send", "d=%5B%22x", 500, "Broken JSON encoding.", "Content-Type", form)
	for _, body := range []string{"", "d=", "p=p"} {
		f.wantStatus("POST", "/000/one/jsonp_send", body, 500, "Payload expected.", "Content-Type", form)
	}
}

// Streams begin with what browsers need, and end when the client is to come again.
func TestStreams(t *testing.T) {
	f := start(t, nil)
	for _, tt := range []struct {
		method, name, query, contentType string
		prelude                          string // begins with
		open, message, format            string
	}{
		{"POST", "xhr_streaming", "", "application/javascript; charset=UTF-8", strings.Repeat("h", 2048) + "\n", "o\n", "a[\"x\"]\n", "a[%q]\n"},
		{"GET", "eventsource", "", "text/event-stream; charset=UTF-8", "\r\n", "data: o\r\n\r\n", "data: a[\"x\"]\r\n\r\n", "data: a[%q]\r\n\r\n"},
		{"GET", "htmlfile", "?c=%63b", "text/html; charset=UTF-8", page("cb"), "<script>\np(\"o\");\n</script>\r\n",
			"<script>\np(\"a[\\\"x\\\"]\");\n</script>\r\n", "<script>\np(\"a[\\\"%s\\\"]\");\n</script>\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			session := "/000/" + tt.name
			resp := f.begin(tt.method, session+"/"+tt.name+tt.query, "")
			defer resp.Body.Close()
			if got := resp.Header.Get("Content-Type"); got != tt.contentType || resp.Header.Get("Cache-Control") != streamed {
				t.Errorf("header: got %v", resp.Header)
			}
			r := bufio.NewReader(resp.Body)
			read := func(want string) {
				t.Helper()
				b := make([]byte, len(want))
				if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
					t.Fatalf("got %q, %v, want %q", b, err, want)
				}
			}
			read(tt.prelude)
			read(tt.open)
			f.want("POST", session+"/xhr_send", `["x"]`, "ok")
			read(tt.message)
			long := strings.Repeat("y", 4096)
			f.want("POST", session+"/xhr_send", `["`+long+`"]`, "ok")
			read(fmt.Sprintf(tt.format, long))
			if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
				t.Errorf("after enough: got %q, %v, want the end", rest, err)
			}
			// The session goes on with the next.
			f.want("POST", session+"/xhr_send", `["close"]`, "ok")
			resp = f.begin(tt.method, session+"/"+tt.name+tt.query, "")
			defer resp.Body.Close()
			if all, err := io.ReadAll(resp.Body); !strings.Contains(string(all), "c[3000,") || err != nil {
				t.Errorf("the close: got %q, %v", all, err)
			}
		})
	}
}

// A session has one receiver, and ends when that breaks off.
func TestReceivers(t *testing.T) {
	f := start(t, nil)
	first := f.begin("POST", "/000/one/xhr_streaming", "")
	r := bufio.NewReader(first.Body)
	if _, err := r.ReadString('o'); err != nil {
		t.Fatal(err)
	}
	got := f.do("POST", "/000/one/xhr_streaming", "")
	if want := `c[2010,"Another connection still open"]` + "\n"; !strings.HasSuffix(got.body, want) {
		t.Errorf("the second: got %q, want %q", got.body, want)
	}
	first.Body.Close()
	f.eventually("the session has ended", func() bool { return value(f.metrics.ended[endedBroken]) == 1 })
	f.eventually("its WebSocket has, too", func() bool { return value(f.metrics.sessions) == 0 })
	f.want("POST", "/000/one/xhr", "", "o\n")
}

func TestTimes(t *testing.T) {
	f := start(t, func(c *Config) { c.Heartbeat, c.Timeout = 20*time.Millisecond, 50*time.Millisecond })
	f.want("POST", "/000/one/xhr", "", "o\n")
	f.want("POST", "/000/one/xhr", "", "h\n")
	resp := f.begin("POST", "/000/two/xhr_streaming", "")
	r := bufio.NewReader(resp.Body)
	for _, want := range []string{"hhhh", "o\n", "h\n", "h\n"} {
		if got, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	resp.Body.Close()
	// Alone for long enough, a session ends with what it has.
	f.want("POST", "/000/three/xhr", "", "o\n")
	_ = f.newest().Write(t.Context(), websocket.MessageText, []byte("for nobody")) // on a slow machine it has ended already
	f.eventually("all have ended", func() bool {
		return value(f.metrics.sessions) == 0 && value(f.metrics.waiting) == 0
	})
	if f.find("echo three") != nil {
		t.Error("the session is not forgotten")
	}
	f.want("POST", "/000/three/xhr", "", "o\n")
}

// newest is the origin's side of the session that was opened last.
func (f *fixture) newest() (c *websocket.Conn) {
	f.t.Helper()
	select { // the client may know of it before the origin does
	case c = <-f.conns:
	case <-time.After(patience):
		f.t.Fatal("no session was opened")
	}
	for {
		select {
		case c = <-f.conns:
		default:
			return c
		}
	}
}

// What waits for a client is bounded: beyond it the WebSocket is not read.
func TestBuffer(t *testing.T) {
	f := start(t, func(c *Config) { c.BufferBytes = 1000 })
	f.want("POST", "/000/one/xhr", "", "o\n")
	c := f.newest()
	const count = 100_000
	sent := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < count && err == nil; i++ {
			err = c.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, "%0100d", i))
		}
		sent <- err
	}()
	f.eventually("the buffer is full", func() bool { return value(f.metrics.waiting) > 800 })
	next := 0
	for next < count/100 {
		body := f.do("POST", "/000/one/xhr", "").body
		if len(body) > 1200 {
			t.Fatalf("a response of %d bytes", len(body))
		}
		var messages []string
		if err := json.Unmarshal([]byte(strings.TrimSpace(body[1:])), &messages); err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if want := fmt.Sprintf("%0100d", next); m != want {
				t.Fatalf("got %s, want %s", m, want)
			}
			next++
		}
	}
	select {
	case err := <-sent:
		t.Errorf("all was taken, %v; want the writer to wait", err)
	default:
	}
	_ = c.CloseNow()
	<-sent
}

func TestRefused(t *testing.T) {
	f := start(t, nil)
	for _, path := range []string{"/000/one/xhr", "/000/one/xhr_streaming"} {
		got := f.do("POST", path+"?open=refused", "")
		if got.StatusCode != http.StatusForbidden || got.body != "no" || got.Header.Get("X-A") != "1" || got.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: got %d, %q, %v", path, got.StatusCode, got.body, got.Header)
		}
	}
	f.wantStatus("GET", "/000/one/jsonp?c=x&open=failed", "", 502, "Error while proxying to origin.")
	_, resp, err := websocket.Dial(t.Context(), f.url+"/000/one/websocket?open=refused", nil)
	if err == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("websocket: got %v, %v, want 403", resp, err)
	}
	f.want("POST", "/000/one/xhr", "", "o\n") // there was no session
}

func TestWebSocket(t *testing.T) {
	f := start(t, nil)
	dial := func() (*websocket.Conn, func(want string)) {
		c, _, err := websocket.Dial(t.Context(), f.url+"/000/one/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseNow() })
		return c, func(want string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, got, err := c.Read(ctx); err != nil || string(got) != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
	}
	write := func(c *websocket.Conn, m string) {
		t.Helper()
		if err := c.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	one, readOne := dial()
	two, readTwo := dial() // the id means nothing
	readOne("o")
	readTwo("o")
	for _, m := range []string{"", "[]", `["a"]`} {
		write(one, m)
	}
	readOne(`a["a"]`)
	write(two, `["close"]`)
	readTwo(`c[3000,"Go away!"]`)
	if _, _, err := two.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("after the close: got %v, want a normal end", err)
	}
	write(one, `["a`)
	if _, _, err := one.Read(t.Context()); err == nil {
		t.Error("after broken JSON: got a message, want the end")
	}
	f.eventually("all have ended", func() bool { return value(f.metrics.sessions) == 0 })
}

// Everything that browsers mangle is escaped.
func TestAppendString(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", `""`},
		{"a\"\x00\x1f", `"a\"\u0000\u001f"`},
		{"é😀", `"é😀"`},
		{"é\u200c\u200fa\u2028\u202f", `"é\u200c\u200fa\u2028\u202f"`},
		{"\u2060\u206f\ufff0\uffffé", `"\u2060\u206f\ufff0\uffffé"`},
		{"\xff", `"\ufffd"`},
	} {
		if got := string(appendString(nil, []byte(tt.s))); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.s, got, tt.want)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\u2028é")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		b := appendString(nil, []byte(s))
		if err := json.Unmarshal(b, &got); err != nil || got != strings.ToValidUTF8(s, "\uFFFD") && utf8.ValidString(s) {
			t.Errorf("%q: %s is %q, %v", s, b, got, err)
		}
		for _, r := range string(b) {
			if mangled(r) {
				t.Errorf("%q: %U is not escaped in %s", s, r, b)
			}
		}
	})
}

func FuzzParseMessages(f *testing.F) {
	for _, s := range []string{`["a","b"]`, `"a"`, `[]`, `[null]`, `["\ud800"]`, `["`, `{}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		messages, problem := parseMessages(body)
		if (problem == "") != (messages != nil) {
			t.Errorf("%q: got %q and %q", body, messages, problem)
		}
		for _, m := range messages {
			if !utf8.ValidString(m) {
				t.Errorf("%q: got %q", body, m)
			}
		}
	})
}
