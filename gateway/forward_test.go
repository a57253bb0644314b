package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// rawOrigin answers requests with whatever answer writes to the connection,
// which is closed afterwards.
func rawOrigin(t *testing.T, answer func(r *http.Request, c net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the listener; done tells
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				answer(r, c)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// raw sends bytes to the gateway as a client would, and reads what comes.
func (f *fixture) raw(t *testing.T, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	if _, err := io.WriteString(c, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func wantBytes(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if string(got[:n]) != want {
		t.Fatalf("read: got %q (%v), want %q", got[:n], err, want)
	}
}

// What an origin answers, and what of it reaches a client with HTTP/1.1, byte
// for byte but for Date.
func TestForwardResponse(t *testing.T) {
	for _, tt := range []struct{ name, request, response, want string }{
		{"length is kept", "GET / HTTP/1.1", "200 OK\nContent-Length: 2\nX-A: 1\nX-A: 2\n\nhi", "200 OK\nContent-Length: 2\nX-A: 1\nX-A: 2\n\nhi"},
		{"HEAD", "HEAD / HTTP/1.1", "200 OK\nContent-Length: 99\n\n", "200 OK\nContent-Length: 99\n\n"},
		{"HEAD without a length", "HEAD / HTTP/1.1", "200 OK\nTransfer-Encoding: chunked\n\n", "200 OK\n\n"},
		{"204", "GET / HTTP/1.1", "204 No Content\nX-A: 1\n\n", "204 No Content\nX-A: 1\n\n"},
		{"304", "GET / HTTP/1.1", "304 Not Modified\nETag: \"a\"\n\n", "304 Not Modified\nEtag: \"a\"\n\n"},
		{"1xx are skipped", "GET / HTTP/1.1", "103 Early Hints\nLink: x\n\nHTTP/1.1 404 Not Found\nContent-Length: 0\n\n", "404 Not Found\nContent-Length: 0\n\n"},
		{"trailers are dropped", "GET / HTTP/1.1", "200 OK\nTrailer: X-T\nTransfer-Encoding: chunked\n\n2\nhi\n0\nX-T: 1\n\n", "200 OK\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n"},
		{"HTTP/1.0 client gets no chunks", "GET / HTTP/1.0", "200 OK\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n", "200 OK\n\nhi"},
		{"a switch that nobody asked for", "GET / HTTP/1.1", "101 Switching Protocols\nConnection: Upgrade\nUpgrade: x\n\n",
			"502 Bad Gateway\nContent-Length: 32\nContent-Type: text/plain\n\nError while proxying to origin.\n"},
		{"an Upgrade that is not a WebSocket's is a request", "GET / HTTP/1.1\nConnection: Upgrade\nUpgrade: h2c", "200 OK\nContent-Length: 2\n\nhi", "200 OK\nContent-Length: 2\n\nhi"},
		{"another reason", "GET / HTTP/1.1", "200 Fine\nContent-Length: 2\n\nhi", "200 Fine\nContent-Length: 2\n\nhi"},
		{"a reason to HTTP/1.0", "GET / HTTP/1.0", "404 Gone fishing\nContent-Length: 2\n\nhi", "404 Gone fishing\nContent-Length: 2\n\nhi"},
		{"a status of nobody", "GET / HTTP/1.1", "599 Own\nContent-Length: 0\n\n", "599 Own\nContent-Length: 0\n\n"},
		{"reason of Grip-Status", "GET / HTTP/1.1", "200 OK\nGrip-Status: 299 Sort of\nContent-Length: 2\n\nhi", "299 Sort of\nContent-Length: 2\n\nhi"},
		{"Grip-Status without a reason", "GET / HTTP/1.1", "201 Made\nGrip-Status: 202\nContent-Length: 2\n\nhi", "202 Accepted\nContent-Length: 2\n\nhi"},
		{"an instructed response is whole", "GET / HTTP/1.1", "200 OK\nGrip-Foo: x\nTransfer-Encoding: chunked\n\n2\nhi\n0\n\n", "200 OK\nContent-Length: 2\n\nhi"},
		{"no answer", "GET / HTTP/1.1", "", "502 Bad Gateway\nContent-Length: 32\nContent-Type: text/plain\n\nError while proxying to origin.\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			origin := rawOrigin(t, func(_ *http.Request, c net.Conn) {
				if tt.response != "" {
					io.WriteString(c, "HTTP/1.1 "+strings.ReplaceAll(tt.response, "\n", "\r\n"))
				}
			})
			f := start(t, func(c *Config) { c.Routes, c.EventsPath = "* "+origin, "" })
			c, r := f.raw(t, tt.request+"\nHost: h\n\n")
			var got strings.Builder
			for { // the head, without what differs each time
				line, err := r.ReadString('\n')
				if !strings.HasPrefix(line, "Date: ") {
					got.WriteString(line)
				}
				if err != nil || line == "\r\n" {
					break
				}
			}
			want := "HTTP/1.1 " + strings.ReplaceAll(tt.want, "\n", "\r\n")
			if strings.HasSuffix(tt.want, "origin.\n") { // the body's newline is no line end of the protocol
				want = strings.TrimSuffix(want, "\r\n") + "\n"
			}
			if strings.Contains(tt.request, "HTTP/1.0") {
				want = strings.Replace(want, "HTTP/1.1", "HTTP/1.0", 1)
			}
			body := make([]byte, max(0, len(want)-got.Len()))
			n, _ := io.ReadFull(r, body)
			got.Write(body[:n])
			if got.String() != want {
				t.Errorf("got\n%q\nwant\n%q", got.String(), want)
			}
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if rest, _ := io.ReadAll(r); len(rest) > 0 {
				t.Errorf("got %q after the response, want nothing", rest)
			}
		})
	}
}

// The origin's head, and each piece of its body, are passed on as they come.
func TestForwardAtOnce(t *testing.T) {
	for _, tt := range []struct{ name, header string }{
		{"plain", ""},
		{"stream hold", "Grip-Hold: stream\r\nGrip-Channel: fruit\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			more := make(chan string)
			origin := rawOrigin(t, func(_ *http.Request, c net.Conn) {
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+tt.header+"Transfer-Encoding: chunked\r\n\r\n")
				for {
					select {
					case s, ok := <-more:
						if !ok {
							return
						}
						fmt.Fprintf(c, "%x\r\n%s\r\n", len(s), s)
					case <-t.Context().Done(): // the test has failed
						return
					}
				}
			})
			f := start(t, func(c *Config) { c.Routes = "* " + origin })
			c := f.get(t, "/").wantStatus(200) // its head is here
			more <- "one"
			c.want("one")
			more <- "two"
			c.want("two")
			close(more)
			if got, err := io.ReadAll(c.body); err == nil {
				t.Errorf("the origin broke off: got %q and a clean end, want an error the client can see", got)
			}
		})
	}
}

// The origin has the beginning of an upload before its end is sent, and the
// client the whole answer before it has sent all.
func TestForwardUpload(t *testing.T) {
	began := make(chan string, 1)
	origin := rawOrigin(t, func(r *http.Request, c net.Conn) {
		buf := make([]byte, 5)
		_, _ = io.ReadFull(r.Body, buf)
		began <- string(buf)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
		_, _ = io.Copy(io.Discard, r.Body)
	})
	f := start(t, func(c *Config) { c.Routes = "* " + origin })
	for name, length := range map[string]string{"known length": "Content-Length: 10\n\nfirst", "unknown length": "Transfer-Encoding: chunked\n\n5\nfirst\n"} {
		t.Run(name, func(t *testing.T) {
			_, r := f.raw(t, "POST / HTTP/1.1\nHost: h\n"+length)
			if got := <-began; got != "first" {
				t.Errorf("the origin got %q, want first", got)
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if string(body) != "hi" || err != nil {
				t.Errorf("got %q, %v, want hi", body, err)
			}
		})
	}
}

// A hold begins when all of the request is here.
func TestForwardUploadThenHold(t *testing.T) {
	answered := make(chan struct{})
	origin := rawOrigin(t, func(r *http.Request, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nGrip-Hold: stream\r\nGrip-Channel: fruit\r\nContent-Length: 2\r\n\r\nhi")
		close(answered)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	f := start(t, func(c *Config) { c.Routes = "* " + origin })
	c, r := f.raw(t, "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n5\nfirst\n")
	<-answered
	io.WriteString(c, "4\r\nlast\r\n0\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, resp.Body, "hi")
	f.listening(t, "fruit", 1)
	f.publish(t, text("fruit", "", "", "apple"))
	wantBytes(t, resp.Body, "apple")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	f.listening(t, "fruit", 0)
}

func TestForwardExpect(t *testing.T) {
	origin := rawOrigin(t, func(r *http.Request, c net.Conn) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Expect: %s\r\n\r\n%s", len(body), r.Header.Get("Expect"), body)
	})
	f := start(t, func(c *Config) { c.Routes = "* " + origin })
	c, r := f.raw(t, "POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 3\n\n")
	wantBytes(t, r, "HTTP/1.1 100 Continue\r\n\r\n")
	io.WriteString(c, "abc")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("X-Expect"); resp.StatusCode != 200 || got != "" {
		t.Errorf("got %d, and the origin Expect %q, want 200 and none", resp.StatusCode, got)
	}
	wantBytes(t, resp.Body, "abc")
}

// Errors say more where the route, or the configuration, wants that.
func TestForwardDebug(t *testing.T) {
	for _, tt := range []struct{ name, response, plain, debug string }{
		{"unreachable", "", "Error while proxying to origin.\n", "Unable to connect to any targets. Tried: 127.0.0.1:1, localhost:1\n"},
		{"instructions", "200 OK\r\nGrip-Hold: nope\r\nContent-Length: 0\r\n\r\n", "Error while proxying to origin.\n",
			"Failed to parse accept instructions: Grip-Hold must be set to either 'response' or 'stream'\n"},
		{"too large", "200 OK\r\nGrip-Hold: response\r\nGrip-Channel: a\r\n\r\n" + strings.Repeat("x", grip.MaxHoldBody+1), "Error while proxying to origin.\n",
			"GRIP instruct response too large from ORIGIN\n"},
		{"nonsense", "\r\n\r\n", "Error while proxying to origin.\n", "Error while proxying to origin: target ORIGIN: net/http: HTTP/1.x transport connection broken: malformed HTTP status code \"\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			targets, origin := "127.0.0.1:1 localhost:1", ""
			if tt.response != "" {
				origin = rawOrigin(t, func(_ *http.Request, c net.Conn) {
					io.WriteString(c, "HTTP/1.1 "+tt.response)
				})
				targets = origin
			}
			for _, on := range []struct {
				route string
				all   bool
				want  string
			}{{"*", false, tt.plain}, {"*,debug", false, tt.debug}, {"*", true, tt.debug}} {
				f := start(t, func(c *Config) { c.Routes, c.ProxyDebug = on.route+" "+targets, on.all })
				f.get(t, "/").wantStatus(502).wantEnd(strings.ReplaceAll(on.want, "ORIGIN", origin))
			}
		})
	}
}

// Only gateways carry WebSockets as requests, to origins that speak so.
func TestForwardEvents(t *testing.T) {
	key, err := grip.ParseKey("front")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign("front", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, params, sig, want string
		status                  int
	}{
		{"a client", ",over_http", "", "Client not allowed to send WebSocket events directly.\n", 403},
		{"another gateway", ",over_http", sig, "got it", 200},
		{"to another kind of origin", "", "", "got it", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAPI(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "got it") }})
			f := start(t, func(c *Config) {
				c.Routes, c.UpstreamKey, c.EventsPath = "* "+a.Listener.Addr().String()+tt.params, "front", ""
			})
			f.do(t, "POST", "/", strings.NewReader("OPEN\r\n"), "Content-Type", "application/websocket-events; x=y", "Grip-Sig", tt.sig).
				wantStatus(tt.status).wantEnd(tt.want)
		})
	}
}

// Two gateways in a row: the first holds, the second passes on.
func TestForwardChain(t *testing.T) {
	a := newAPI(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "fruit")
		io.WriteString(w, "hello\n")
	}})
	cfg := testConfig()
	cfg.Routes, cfg.UpstreamKey, cfg.SigKey, cfg.EventsPath = "* "+a.Listener.Addr().String(), "front", "back", ""
	cfg.XForwardedFor, cfg.XForwardedForTrusted = []string{"truncate:0"}, []string{"append"}
	gw, err := New(cfg, fanout.New(cfg.Fanout(), slog.New(slog.DiscardHandler), nil), nil, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	back := httptest.NewServer(gw) // its engine does not run: it must not hold anything
	t.Cleanup(func() { back.Close(); gw.close() })
	front := start(t, func(c *Config) {
		c.Routes, c.SigKey, c.SigIss, c.EventsPath = "* "+back.Listener.Addr().String(), "front", "the front", ""
		c.XForwardedFor = []string{"truncate:1", "append"}
	})
	c := front.get(t, "/", "X-Forwarded-For", "192.0.2.1, 192.0.2.2").wantStatus(200)
	c.want("hello\n")
	front.listening(t, "fruit", 1)
	front.publish(t, text("fruit", "", "", "apple\n"))
	c.want("apple\n")

	h := a.last().Header
	key, err := grip.ParseKey("front")
	if err != nil {
		t.Fatal(err)
	}
	if iss, err := key.Verify(h.Get("Grip-Sig"), time.Now()); iss != "the front" || err != nil {
		t.Errorf("the origin's Grip-Sig: got iss %q, %v, want that of the front gateway", iss, err)
	}
	if got, want := h.Get("X-Forwarded-For"), "192.0.2.2, 127.0.0.1, 127.0.0.1"; got != want {
		t.Errorf("X-Forwarded-For: got %q, want %q", got, want)
	}
}

// What goes to a target with sub is subscribed to that, too, without a prefix.
func TestForwardSub(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grip-Hold", r.URL.RawQuery)
		w.Header().Set("Grip-Channel", "own")
	}}, "")
	f.Gateway.routes.set(mustRoutes(t, "*,prefix=p- 127.0.0.1:1,sub=no "+f.routes.now().Routes()[0].Targets[0].Addr+",sub=all,sub=more"))
	c := f.get(t, "/?stream")
	for _, channel := range []string{"p-own", "all", "more"} {
		f.listening(t, channel, 1)
		f.publish(t, text(channel, "", "", channel+"\n"))
		c.want(channel + "\n")
	}
	f.listening(t, "no", 0)
	got := make(chan string, 1)
	go func() {
		resp, err := http.Get(f.url + "/?response")
		if err != nil {
			t.Error(err)
			got <- ""
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	f.listening(t, "all", 2)
	f.publish(t, text("all", "", "", "answer"))
	if got := <-got; got != "answer" {
		t.Errorf("long poll: got %q, want answer", got)
	}
}

// A client that leaves takes its request to the origin along.
func TestForwardClientLeaves(t *testing.T) {
	came, left := make(chan struct{}), make(chan error, 1)
	origin := rawOrigin(t, func(_ *http.Request, c net.Conn) {
		close(came)
		_, err := c.Read(make([]byte, 1))
		left <- err
	})
	f := start(t, func(c *Config) { c.Routes = "* " + origin })
	c, _ := f.raw(t, "GET / HTTP/1.1\nHost: h\n\n")
	<-came
	_ = c.Close()
	if err := <-left; err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want the connection to the origin closed", err)
	}
}

// Responses with reasons of their own, one after another on a connection, and
// where there is none to say it on.
func TestForwardReasons(t *testing.T) {
	f, _ := routed(t, nil, "")
	origin := rawOrigin(t, func(r *http.Request, c net.Conn) {
		status := strings.ReplaceAll(strings.TrimPrefix(r.URL.Path, "/"), "_", " ")
		io.WriteString(c, "HTTP/1.1 "+status+"\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
	})
	f.routes.set(mustRoutes(t, "* "+origin))
	c, r := f.raw(t, "")
	for _, status := range []string{"200 Fine", "200 OK", "404 Fine", "200 ", "200 Fine again"} {
		fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: h\r\n\r\n", strings.ReplaceAll(status, " ", "_"))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		want := status
		if want == "200 " {
			want = "200 OK"
		}
		if resp.Status != want || string(body) != "hi" {
			t.Errorf("got %q %q, want %q hi", resp.Status, body, want)
		}
	}
}

func TestPhrased(t *testing.T) {
	for _, tt := range []struct{ name, reason, write, want string }{
		{"exchanged", "Fine", "HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "HTTP/1.1 200 Fine\r\nA: b\r\n\r\n"},
		{"something else before", "Fine", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"},
		{"an attempt to say more", "x\r\nSet-Cookie: a", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			c := &phrased{Conn: ours}
			c.say(httptest.NewRequest("GET", "/", nil), 200, tt.reason)
			go func() { // ends with the write; the reader below waits for both
				if n, err := c.Write([]byte(tt.write)); n != len(tt.write) || err != nil {
					t.Errorf("got %d, %v, want all of %d bytes", n, err, len(tt.write))
				}
				_ = c.Close()
			}()
			if got, err := io.ReadAll(theirs); string(got) != tt.want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
