package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// eachWay runs a test where the engine alone has long polls that wait, if the
// system lets it, and where their handlers wait.
func eachWay(t *testing.T, f func(t *testing.T, engine func(*fanout.Config))) {
	t.Helper()
	t.Run("parked", func(t *testing.T) { f(t, func(*fanout.Config) {}) })
	t.Run("waiting", func(t *testing.T) { f(t, func(c *fanout.Config) { c.Portable = true }) })
}

func TestLongPoll(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		poll := []string{"Accept", "application/json"}
		t.Run("an item answers", func(t *testing.T) {
			f := start(t, nil, engine)
			f.list.publish(3)
			go func() {
				f.attached(t, 1)
				f.list.publish(2)
			}()
			c := f.get(t, "/events/list/", poll...).wantStatus(200)
			if got := c.resp.Header.Get("Content-Type"); got != "application/json" {
				t.Errorf("type: got %q", got)
			}
			if c.resp.ContentLength < 0 {
				t.Error("no Content-Length")
			}
			body, _ := io.ReadAll(c.body)
			if got := string(body); got != `{"events":[4,5],"id":"5"}` && got != `{"events":[4],"id":"4"}` {
				t.Errorf("got %s, want what is new", got)
			}
			if got := f.list.askedIDs(); len(got) != 1 || got[0] != "3" {
				t.Errorf("Grip-Last: got %q, want 3 once", got)
			}
			f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "answered"}, 1)
		})
		t.Run("what is there already answers at once", func(t *testing.T) {
			f := start(t, nil, engine)
			f.list.publish(3)
			c := f.get(t, "/events/list/", append(poll, "Last-Event-ID", "1")...)
			c.wantEnd(`{"events":[2,3],"id":"3"}`)
		})
		t.Run("the timeout is that of the hold, in fractions", func(t *testing.T) {
			f := start(t, nil, engine)
			f.list.wait = "0.2"
			began := time.Now()
			c := f.get(t, "/events/list/", poll...).wantStatus(200)
			c.wantEnd(`{"events":[],"id":"0"}`)
			if d := time.Since(began); d < 200*time.Millisecond || d > 4*time.Second {
				t.Errorf("answered after %v, want 200ms", d)
			}
			f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "poll_timeout"}, 1)
		})
	})
}

func TestPollOfRoute(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		hold := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Hold", "response")
			w.Header().Set("Grip-Channel", "jobs; prev-id=1")
			w.Header().Set("Grip-Timeout", "60")
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Keep", "kept")
			if r.Header.Get("Grip-Last") != "" {
				w.Header().Set("Grip-Channel", "jobs; prev-id=5")
			}
			io.WriteString(w, "{\"a\":[1]}\n")
		}
		held := func(t *testing.T, f *fixture) <-chan *http.Response {
			t.Helper()
			got := make(chan *http.Response, 1)
			go func() {
				resp, err := http.Post(f.url+"/jobs", "text/plain", strings.NewReader("the request"))
				if err != nil {
					t.Error(err)
				}
				got <- resp
			}()
			f.listening(t, "jobs", 1)
			return got
		}
		body := func(resp *http.Response) string {
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			return string(b)
		}
		t.Run("an item answers", func(t *testing.T) {
			f, _ := routed(t, map[string]http.HandlerFunc{"/jobs": hold}, "", engine)
			got := held(t, f)
			f.publish(t, grip.Item{Channel: "jobs", ID: "2", PrevID: "1", HTTPResponse: &grip.HTTPResponse{Code: 202,
				Headers: []grip.Header{{Name: "content-type", Value: "text/plain"}, {Name: "Grip-X", Value: "x"}, {Name: "X-Two", Value: "a"}, {Name: "X-Two", Value: "b"}}, Body: []byte("done")}})
			resp := <-got
			h := resp.Header
			if got := body(resp); resp.StatusCode != 202 || got != "done" || h.Get("Content-Type") != "text/plain" ||
				h.Get("X-Keep") != "kept" || h.Get("Grip-X") != "" || len(h["X-Two"]) != 2 || resp.ContentLength != 4 {
				t.Errorf("got %d %q %v", resp.StatusCode, got, h)
			}
		})
		t.Run("a patch of the hold's body", func(t *testing.T) {
			f, _ := routed(t, map[string]http.HandlerFunc{"/jobs": hold}, "", engine)
			got := held(t, f)
			f.publish(t, grip.Item{Channel: "jobs", ID: "2", PrevID: "1", HTTPResponse: &grip.HTTPResponse{
				BodyPatch: json.RawMessage(`[{"op":"add","path":"/a/-","value":2}]`)}})
			if got := body(<-got); got != "{\"a\":[1,2]}\n" {
				t.Errorf("got %q", got)
			}
		})
		t.Run("a gap makes the request again", func(t *testing.T) {
			f, a := routed(t, map[string]http.HandlerFunc{"/jobs": hold}, "", engine)
			got := held(t, f)
			f.publish(t, text("jobs", "5", "4", "not delivered"))
			eventually(t, "the second request", func() bool { return a.count() == 2 })
			r := a.last()
			a.mu.Lock()
			second := a.bodies[1]
			a.mu.Unlock()
			if r.Header.Get("Grip-Last") != "jobs; last-id=1" || r.Method != "POST" || second != "the request" {
				t.Errorf("second request: %s, Grip-Last %q, body %q", r.Method, r.Header.Get("Grip-Last"), second)
			}
			f.listening(t, "jobs", 1)
			f.publish(t, text("jobs", "6", "5", "six"))
			if got := body(<-got); got != "six" {
				t.Errorf("got %q, want six", got)
			}
		})
		t.Run("too large a request", func(t *testing.T) {
			f, _ := routed(t, map[string]http.HandlerFunc{"/jobs": hold}, "", engine)
			f.do(t, "POST", "/jobs", strings.NewReader(strings.Repeat("x", grip.MaxHoldBody+1))).
				wantStatus(400).wantEnd("Request too large to accept GRIP instruct.\n")
		})
		t.Run("draining answers as the timeout does", func(t *testing.T) {
			f, _ := routed(t, map[string]http.HandlerFunc{"/jobs": hold}, "", engine)
			got := held(t, f)
			ctx, cancel := contextWithTimeout()
			defer cancel()
			if err := f.Drain(ctx); err != nil {
				t.Error(err)
			}
			if resp := <-got; resp.StatusCode != 200 || body(resp) != "{\"a\":[1]}\n" {
				t.Errorf("got %d, want the hold's own response", resp.StatusCode)
			}
		})
	})
}

// A caller is a client's connection, without a goroutine of its own.
type caller struct {
	*net.TCPConn
	t    testing.TB
	from *bufio.Reader
}

func (f *fixture) call(t testing.TB) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(4 * patience))
	return &caller{conn.(*net.TCPConn), t, bufio.NewReader(conn)}
}

const pollRequest = "GET /events/list/ HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n"

func (c *caller) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// wantAnswer reads one response.
func (c *caller) wantAnswer(method string, status int, body string) *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.from, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status || string(got) != body {
		c.t.Fatalf("got %d %q and error %v, want %d %q", resp.StatusCode, got, err, status, body)
	}
	return resp
}

func (c *caller) wantHangUp() {
	c.t.Helper()
	if n, err := c.from.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		c.t.Errorf("after the answer: got %d bytes and error %v, want the end", n, err)
	}
}

// One connection carries any number of polls, however early the client asks.
func TestPollsOnOneConnection(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		t.Run("one after the other", func(t *testing.T) {
			f := start(t, nil, engine)
			c := f.call(t)
			for i := 1; i <= 3; i++ {
				c.say(pollRequest)
				f.attached(t, 1)
				f.list.publish(1)
				c.wantAnswer("GET", 200, fmt.Sprintf(`{"events":[%d],"id":"%[1]d"}`, i))
				f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "poll"}, 0)
			}
			c.say("GET /events/list/ HTTP/1.1\r\nHost: x\r\n\r\n")
			f.attached(t, 1)
			f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}, 1)
			c.Close()
			f.attached(t, 0)
		})
		t.Run("all asked at once", func(t *testing.T) {
			f := start(t, nil, engine)
			c := f.call(t)
			c.say(strings.Repeat(pollRequest, 80)) // more than net/http reads at a time
			for i := 1; i <= 80; i++ {
				f.attached(t, 1)
				f.list.publish(1)
				c.wantAnswer("GET", 200, fmt.Sprintf(`{"events":[%d],"id":"%[1]d"}`, i))
			}
		})
		t.Run("in requests shorter than ours", func(t *testing.T) {
			f, _ := routed(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Grip-Hold", "response")
				w.Header().Set("Grip-Channel", "jobs")
			}}, "", engine)
			c := f.call(t)
			const requests = 200 // more than net/http reads at a time
			c.say(strings.Repeat("GET / HTTP/1.1\nHost:\n\n", requests))
			for range requests {
				f.listening(t, "jobs", 1)
				f.publish(t, text("jobs", "", "", "done"))
				c.wantAnswer("GET", 200, "done")
			}
		})
		t.Run("asked while one waits", func(t *testing.T) {
			f := start(t, nil, engine)
			c := f.call(t)
			c.say(pollRequest)
			f.attached(t, 1)
			c.say(pollRequest[:20])
			f.list.publish(1)
			c.wantAnswer("GET", 200, `{"events":[1],"id":"1"}`)
			c.say(pollRequest[20:])
			f.attached(t, 1)
			f.list.publish(1)
			c.wantAnswer("GET", 200, `{"events":[2],"id":"2"}`)
		})
	})
}

// What the request says of the connection holds for the answer.
func TestPollForms(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		const answer = `{"events":[1],"id":"1"}`
		for _, tt := range []struct {
			name, request string
			body          string
			keeps         bool
		}{
			{"HTTP/1.1", "GET /events/list/ HTTP/1.1\r\nHost: x\r\n", answer, true},
			{"HTTP/1.1 for the last time", "GET /events/list/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", answer, false},
			{"HTTP/1.0", "GET /events/list/ HTTP/1.0\r\n", answer, false},
			{"HTTP/1.0 that stays", "GET /events/list/ HTTP/1.0\r\nConnection: keep-alive\r\n", answer, true},
		} {
			t.Run(tt.name, func(t *testing.T) {
				f := start(t, nil, engine)
				c := f.call(t)
				c.say(tt.request + "Accept: application/json\r\n\r\n")
				f.attached(t, 1)
				f.list.publish(1)
				resp := c.wantAnswer("GET", 200, tt.body)
				if tt.keeps {
					c.say(pollRequest)
					f.attached(t, 1)
				} else {
					c.wantHangUp()
				}
				if proto, _, _ := strings.Cut(tt.name, " "); resp.ContentLength != int64(len(answer)) || resp.Proto != proto {
					t.Errorf("got Content-Length %d of %s, want %d of %s", resp.ContentLength, resp.Proto, len(answer), proto)
				}
			})
		}
		t.Run("HEAD", func(t *testing.T) {
			f, _ := routed(t, map[string]http.HandlerFunc{"/jobs": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Grip-Hold", "response")
				w.Header().Set("Grip-Channel", "jobs")
			}}, "", engine)
			c := f.call(t)
			for range 2 {
				c.say("HEAD /jobs HTTP/1.1\r\nHost: x\r\n\r\n")
				f.listening(t, "jobs", 1)
				f.publish(t, text("jobs", "", "", "not sent"))
				c.wantAnswer("HEAD", 200, "")
			}
		})
	})
}

// A poll that waits has no goroutine, and a descriptor of its own.
func TestPollsCostNoGoroutine(t *testing.T) {
	f := start(t, nil)
	if !f.engine.HasShards() {
		t.Skip("there are no shards on this system")
	}
	const polls = 300
	before := runtime.NumGoroutine()
	for range polls {
		f.call(t).say(pollRequest)
	}
	f.attached(t, polls)
	eventually(t, "few goroutines", func() bool { return runtime.NumGoroutine() < before+polls/10 })
}

// Clients hang up at any moment, politely or not: nothing of them stays.
func TestPollsLeave(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		f := start(t, func(c *Config) { c.MaxConnections = 10_000 }, engine)
		f.list.wait = "0.3"
		descriptors := func() int {
			all, err := os.ReadDir("/proc/self/fd")
			if err != nil {
				t.Skip("there is no /proc")
			}
			return len(all)
		}
		c := f.call(t) // everything else is open when its poll waits
		c.say(pollRequest)
		f.attached(t, 1)
		c.Close()
		eventually(t, "its end", func() bool { return f.sockets() == 0 })
		before := descriptors()
		var publishing, calling sync.WaitGroup
		over := make(chan struct{})
		publishing.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-over:
					return
				case <-tick.C:
					f.list.publish(1)
				}
			}
		})
		for range 20 {
			calling.Go(func() {
				for range 100 {
					conn, err := net.Dial("tcp", f.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					io.WriteString(conn, strings.Repeat(pollRequest, 1+rand.IntN(2)))
					conn.SetReadDeadline(time.Now().Add(rand.N(30 * time.Millisecond)))
					io.Copy(io.Discard, conn)
					if rand.IntN(2) == 0 {
						conn.(*net.TCPConn).SetLinger(0)
					}
					conn.Close()
				}
			})
		}
		calling.Wait()
		close(over)
		publishing.Wait()
		eventually(t, "all descriptors to be closed", func() bool { return f.sockets() == 0 && descriptors() <= before })
		f.attached(t, 0)
		for _, by := range []string{"poll", "request", "stream"} {
			f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": by}, 0)
		}
		if n := f.sockets(); n != 0 {
			t.Errorf("sockets that count as open: got %d, want none", n)
		}
		f.limits.mu.Lock()
		defer f.limits.mu.Unlock()
		if f.limits.total != 0 {
			t.Errorf("requests that count: got %d, want none", f.limits.total)
		}
	})
}

// sockets is how many connections count as open.
func (f *fixture) sockets() int64 { return f.clientListener.(*cappedListener).open.Load() }

// A poll is one connection and one request, waiting or not.
func TestPollCountsOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		f := start(t, func(c *Config) { c.MaxConnections = 1 }, engine)
		refused := "event: stream-error\ndata: {\"code\":\"too-many-connections\"}\n\n"
		c := f.call(t)
		for i := 1; i <= 3; i++ {
			c.say(pollRequest)
			f.attached(t, 1)
			other := f.call(t)
			other.say(pollRequest)
			other.wantAnswer("GET", 200, refused)
			other.wantHangUp()
			eventually(t, "one socket", func() bool { return f.sockets() == 1 })
			f.list.publish(1)
			c.wantAnswer("GET", 200, fmt.Sprintf(`{"events":[%d],"id":"%[1]d"}`, i))
			if n := f.sockets(); n != 1 {
				t.Errorf("sockets: got %d, want 1", n)
			}
		}
		c.Close()
		eventually(t, "no socket", func() bool { return f.sockets() == 0 })
	})
}

// All polls are answered when the gateway drains, and their connections end.
func TestPollsDrain(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		f := start(t, nil, engine)
		f.list.wait = "60"
		var callers []*caller
		for range 40 {
			c := f.call(t)
			c.say(pollRequest)
			callers = append(callers, c)
		}
		f.attached(t, len(callers))
		ctx, cancel := contextWithTimeout()
		defer cancel()
		if err := f.Drain(ctx); err != nil {
			t.Error(err)
		}
		for _, c := range callers {
			if resp := c.wantAnswer("GET", 200, `{"events":[],"id":"0"}`); !resp.Close {
				t.Error("the answer does not say that the connection ends")
			}
			c.wantHangUp()
		}
		f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "draining"}, 40)
	})
}

// The time of a hold goes on while its link says to wait, and what the link does
// meanwhile does not answer twice.
func TestPollHoldsAgain(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		f := start(t, nil, engine)
		f.list.wait = "1"
		f.list.holds = 3
		c := f.call(t)
		began := time.Now()
		c.say(pollRequest)
		for n := range 3 {
			f.attached(t, 1)
			f.list.publish(1)
			eventually(t, "the link to be asked", func() bool { return len(f.list.askedIDs()) == n+1 })
		}
		f.attached(t, 1)
		c.wantAnswer("GET", 200, `{"events":[],"id":"3"}`)
		if d := time.Since(began); d < time.Second || d > 5*time.Second {
			t.Errorf("answered after %v, want 1s", d)
		}
		f.wantMetric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "item"}, 3)
		f.wantMetric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "poll_timeout"}, 1)
	})
}

// While the link is asked the client may leave, and the time may be over.
func TestPollWhoseLinkIsSlow(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		t.Run("the client leaves", func(t *testing.T) {
			f := start(t, nil, engine)
			f.list.gate = make(chan struct{})
			c := f.call(t)
			c.say(pollRequest)
			f.attached(t, 1)
			f.list.publish(1)
			f.attached(t, 0) // it asks
			c.Close()
			f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "client"}, 1)
			f.wantMetric(t, "spillway_connections", prometheus.Labels{"transport": "poll"}, 0)
		})
		t.Run("the time is over", func(t *testing.T) {
			f := start(t, nil, engine)
			f.list.gate, f.list.wait, f.list.holds = make(chan struct{}), "0.2", 1
			c := f.call(t)
			began := time.Now()
			c.say(pollRequest)
			f.attached(t, 1)
			f.list.publish(1)
			f.attached(t, 0)
			time.Sleep(time.Until(began.Add(300 * time.Millisecond))) // its end is what the link does not wait for
			close(f.list.gate)
			c.wantAnswer("GET", 200, `{"events":[],"id":"1"}`)
			f.wantMetric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "poll_timeout"}, 1)
		})
	})
}

// The request that is made again has everything of the first, and whatever it is
// answered with, the client gets.
func TestPollMadeAgain(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		ask := func(t *testing.T, answer http.HandlerFunc) (*caller, *apiOrigin) {
			t.Helper()
			asked := false
			f, a := routed(t, map[string]http.HandlerFunc{"/jobs": func(w http.ResponseWriter, r *http.Request) {
				if asked {
					answer(w, r)
					return
				}
				asked = true
				w.Header().Set("Grip-Hold", "response")
				w.Header().Set("Grip-Channel", "jobs")
			}}, "", engine)
			c := f.call(t)
			c.say("PUT /jobs?a=%20b& HTTP/1.1\r\nHost: example.com\r\nX-Two: a\r\nx-two: b\r\nTransfer-Encoding: chunked\r\n\r\n" +
				"3\r\nthe\r\n8\r\n request\r\n0\r\n\r\n" + pollRequest)
			f.listening(t, "jobs", 1)
			f.publish(t, grip.Item{Channel: "jobs", ID: "8", HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint}})
			return c, a
		}
		t.Run("by a response", func(t *testing.T) {
			long := strings.Repeat("x", 200_000)
			c, a := ask(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, long) })
			c.wantAnswer("PUT", 200, long)
			c.wantHangUp() // it came in chunks
			r, body := a.last(), a.bodies[1]
			if two := r.Header["X-Two"]; r.Method != "PUT" || r.RequestURI != "/jobs?a=%20b&" || r.Host != "example.com" ||
				len(two) != 2 || body != "the request" {
				t.Errorf("second request: got %s %s of %s, X-Two %q, body %q", r.Method, r.RequestURI, r.Host, two, body)
			}
		})
		t.Run("by a stream", func(t *testing.T) {
			c, _ := ask(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Grip-Link", "</end>; rel=next")
				io.WriteString(w, "stream")
			})
			resp, err := http.ReadResponse(c.from, nil)
			if err != nil {
				t.Fatal(err)
			}
			first := make([]byte, len("stream"))
			if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "stream" {
				t.Errorf("got %q and error %v, want the stream", first, err)
			}
		})
	})
}

// Where the origin answers before it has the request, the rest of that is not
// taken for another.
func TestPollOfUnfinishedRequest(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		origin, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer origin.Close()
		f := start(t, func(c *Config) { c.Routes = "* " + origin.Addr().String() }, engine)
		c := f.call(t)
		c.say("POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
		conn, err := origin.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nGrip-Hold: response\r\nGrip-Channel: jobs\r\nContent-Length: 0\r\n\r\n")
		c.say("67890")
		f.listening(t, "jobs", 1)
		f.publish(t, text("jobs", "", "", "done"))
		c.wantAnswer("POST", 200, "done")
	})
}

// What cannot become a bare descriptor waits in a handler.
func TestPollThatCannotBeParked(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxConnections = 5 })
	f.opaque.Store(true)
	c := f.call(t)
	for i := 1; i <= 3; i++ {
		c.say(pollRequest + pollRequest[:10])
		f.attached(t, 1)
		f.list.publish(1)
		c.wantAnswer("GET", 200, fmt.Sprintf(`{"events":[%d],"id":"%[1]d"}`, 2*i-1))
		c.say(pollRequest[10:])
		f.attached(t, 1)
		f.list.publish(1)
		c.wantAnswer("GET", 200, fmt.Sprintf(`{"events":[%d],"id":"%[1]d"}`, 2*i))
	}
	c.Close()
	eventually(t, "no socket", func() bool { return f.sockets() == 0 })
}
