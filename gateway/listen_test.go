package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"spillway/grip"
)

// routedWith is routed with another configuration.
func routedWith(t testing.TB, change func(*Config), answer map[string]http.HandlerFunc) (*fixture, *apiOrigin) {
	t.Helper()
	checkGoroutines(t)
	a := newAPI(t, answer)
	return start(t, func(c *Config) {
		c.Routes = "* " + a.Listener.Addr().String()
		change(c)
	}), a
}

// bareClient is a connection on which a test says what it likes.
type bareClient struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func (f *fixture) bareTCP(t testing.TB) *bareClient {
	t.Helper()
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return &bareClient{conn, t, bufio.NewReader(conn)}
}

// say does not mind that nobody listens any more.
func (c *bareClient) say(text string) *bareClient {
	_, _ = io.WriteString(c, text)
	return c
}

// answer is the next response, with its body.
func (c *bareClient) answer() (status int, header http.Header, body string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("answer: %v", err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body: %v", err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// wantEnd reads to the end of the connection, which is not reset.
func (c *bareClient) wantEnd() (rest string) {
	c.t.Helper()
	text, err := io.ReadAll(c.r)
	if err != nil {
		c.t.Fatalf("end: got %v after %q", err, text)
	}
	return string(text)
}

func presentedAs(t testing.TB, version byte, client string) string {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", client)
	if err != nil {
		t.Fatal(err)
	}
	text, err := proxyproto.HeaderProxyFromAddrs(version, addr, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 200), Port: 80}).Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The PROXY protocol names the client, for limits and origins, also after the
// connection was with the engine and came back.
func TestProxyProtocol(t *testing.T) {
	for _, way := range []string{"v1", "v2", "v2 with TLS", "v1 opaque"} {
		t.Run(way, func(t *testing.T) {
			version := way[1] - '0'
			f, _ := routedWith(t, func(c *Config) {
				c.ProxyProtocol, c.TrustedProxies = true, []string{"127.0.0.0/8"}
				if strings.HasSuffix(way, "TLS") {
					dir := t.TempDir()
					c.TLSCertFile, c.TLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
					writeCertificate(t, c.TLSCertFile, c.TLSKeyFile, 1)
				}
			}, map[string]http.HandlerFunc{
				"/who": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["X-Forwarded-For"]) },
				"/poll": func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Grip-Hold", "response")
					w.Header().Set("Grip-Channel", "poll")
				},
				"/stream": func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Grip-Hold", "stream")
					w.Header().Set("Grip-Channel", "stream")
				},
			})
			f.opaque.Store(strings.HasSuffix(way, "opaque"))
			c := f.bareTCP(t)
			who := "GET /who HTTP/1.1\r\nHost: h\r\n\r\n"
			c.say(presentedAs(t, version, "198.51.100.7:4711"))
			if strings.HasSuffix(way, "TLS") {
				c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
				c.r = bufio.NewReader(c.Conn)
			}
			ask := func(what string) {
				t.Helper()
				if status, _, body := c.answer(); status != 200 || body != "[198.51.100.7]" {
					t.Errorf("%s: got %d %s, want the client's address", what, status, body)
				}
			}
			c.say(who + who)
			ask("first")
			ask("second, in the same packet")
			c.say("GET /poll HTTP/1.1\r\nHost: h\r\n\r\n")
			f.listening(t, "poll", 1)
			if got := f.connections(t, 10); len(got) != 1 || got[0].Address != "198.51.100.7" {
				t.Errorf("connections: got %+v, want the client's address", got)
			}
			f.publish(t, grip.Item{Channel: "poll", HTTPResponse: &grip.HTTPResponse{Body: []byte("x")}}).wantStatus(200)
			if _, _, body := c.answer(); body != "x" {
				t.Errorf("poll: got %q", body)
			}
			c.say(who)
			ask("after a poll")
			c.say("GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
			f.listening(t, "stream", 1)
			f.publish(t, grip.Item{Channel: "stream", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}}).wantStatus(200)
			if status, _, _ := c.answer(); status != 200 {
				t.Errorf("stream: got %d", status)
			}
			if way[1:] == "1" || way[1:] == "2" { // over TLS it is closed
				c.say(who)
				ask("after a stream")
			}
			c.Close()
			eventually(t, "no socket", func() bool { return f.sockets() == 0 })
		})
	}
}

func TestProxyProtocolRefuses(t *testing.T) {
	request := "GET /events/list/ HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, tt := range []struct {
		name, say string
		trusted   string
		status    int
		text      string
	}{
		{"no header", request, "127.0.0.0/8", 400, "must begin with a PROXY protocol header"},
		{"another protocol", "\x16\x03\x01" + request, "127.0.0.0/8", 400, "must begin with"},
		{"a wrong line", "PROXY TCP4 nobody 10.0.0.1 1 2\r\n" + request, "127.0.0.0/8", 400, "must begin with"},
		{"a line without end", "PROXY TCP4 " + strings.Repeat("1", 200), "127.0.0.0/8", 400, "must begin with"},
		{"bare LF", "PROXY TCP4 10.0.0.2 10.0.0.1 1 2\n" + request, "127.0.0.0/8", 400, "must begin with"},
		{"version 2 of nothing", "\r\n\r\n\x00\r\nQUIT\n\x2f\x11\x00\x0c" + request, "127.0.0.0/8", 400, "must begin with"},
		{"not from a trusted proxy", presentedAs(t, 1, "198.51.100.7:1") + request, "10.0.0.0/8", 403, "TRUSTED_PROXIES"},
		{"not from a trusted proxy, without", request, "10.0.0.0/8", 403, "TRUSTED_PROXIES"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, func(c *Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{tt.trusted} })
			c := f.bareTCP(t).say(tt.say)
			status, _, body := c.answer()
			if status != tt.status || !strings.Contains(body, tt.text) {
				t.Errorf("got %d %q, want %d …%s…", status, body, tt.status, tt.text)
			}
			f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "proxy_protocol"}, 1)
			eventually(t, "no socket", func() bool { return f.sockets() == 0 })
			if f.list.channel.Subscribers() != 0 {
				t.Error("a request came through")
			}
		})
	}
	t.Run("a header that does not end", func(t *testing.T) {
		f := start(t, func(c *Config) {
			c.ProxyProtocol, c.TrustedProxies, c.HeaderTimeout = true, []string{"127.0.0.1"}, 100*time.Millisecond
		})
		f.bareTCP(t).say("\r\n\r\n\x00\r\nQUIT\n").answer()
		f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "proxy_protocol"}, 1)
	})
	t.Run("the proxy's own connection", func(t *testing.T) {
		f := start(t, func(c *Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{"127.0.0.1"} })
		for _, header := range []string{"PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
			if status, _, _ := f.bareTCP(t).say(header + "GET /events/none/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").answer(); status != 404 && status != 200 {
				t.Errorf("%q: got %d", header, status)
			}
		}
	})
}

// HTTP/2 without TLS is for trusted proxies, whoever else knows its first words.
func TestUnencryptedHTTP2OnlyForProxies(t *testing.T) {
	f := start(t, func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8"} })
	for _, first := range []string{"", "PR", "PRI"} {
		c := f.bareTCP(t).say(first)
		status, _, body := c.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[len(first):]).answer()
		if status != 505 || !strings.Contains(body, "TRUSTED_PROXIES") {
			t.Errorf("%q first: got %d %q, want 505", first, status, body)
		}
	}
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "http2_without_tls"}, 3)
	c := f.bareTCP(t).say("PRINT / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if status, _, _ := c.answer(); status == 505 {
		t.Errorf("another method: got %d", status)
	}
}

// Of idle connections the oldest go when there are too many, so that whoever opens
// thousands keeps nobody else out.
func TestIdleConnections(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxIdleConnections = 2 })
	first, second := f.bareTCP(t), f.bareTCP(t)
	served := f.bareTCP(t)
	served.say("GET /events/list/ HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp, err := http.ReadResponse(served.r, nil); err != nil || resp.StatusCode != 200 {
		t.Fatalf("the third: got %v, %v, want a stream", resp, err)
	}
	if _, err := first.r.ReadByte(); err == nil {
		t.Error("the first is still open")
	}
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "idle_connections"}, 1)
	if status, _, _ := second.say("GET /none HTTP/1.1\r\nHost: h\r\n\r\n").answer(); status != 404 {
		t.Errorf("the second: got %d", status)
	}
	f.wantMetric(t, "spillway_connections_idle", nil, 1)
	f.attached(t, 1)
	f.list.publish(1) // which is served counts no more
	second.Close()
	f.wantMetric(t, "spillway_connections_idle", nil, 0)
}

func TestRates(t *testing.T) {
	const refused = "event: stream-error\ndata: {\"code\":\"too-many-connections\"}\n\n"
	t.Run("requests", func(t *testing.T) {
		f := start(t, func(c *Config) {
			c.RequestRatePerIP, c.TrustedProxies = 1, []string{"127.0.0.0/8"}
			c.Routes = "* test"
		})
		for i, from := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"} {
			if got := f.get(t, "/", "X-Forwarded-For", from).resp.StatusCode; got != 200 {
				t.Errorf("%d: got %d, want 200", i, got)
			}
		}
		for _, from := range []string{"192.0.2.1", "2001:db8::3"} {
			eventually(t, "a request to be refused", func() bool {
				c := f.get(t, "/", "X-Forwarded-For", from)
				return c.resp.StatusCode == 429 && c.resp.Header.Get("Retry-After") != ""
			})
		}
		eventually(t, "a stream to be refused", func() bool {
			c := f.get(t, "/events/list/", "X-Forwarded-For", "192.0.2.1").wantStatus(200)
			got := make([]byte, 5)
			io.ReadFull(c.body, got)
			c.resp.Body.Close()
			return string(got) == refused[:5]
		})
		f.get(t, "/", "X-Forwarded-For", "192.0.2.3").wantStatus(200)
	})
	t.Run("connections", func(t *testing.T) {
		f := start(t, func(c *Config) { c.ConnectRatePerIP = 1 })
		counts := map[string]int{}
		eventually(t, "all answers", func() bool {
			c := f.bareTCP(t).say("GET /none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			if resp, err := http.ReadResponse(c.r, nil); err == nil {
				counts[fmt.Sprint(resp.StatusCode)]++
			} else {
				counts["closed"]++
			}
			return counts["404"] > 0 && counts["200"] > 0 && counts["closed"] > 0
		})
	})
	t.Run("connections by proxies", func(t *testing.T) {
		f := start(t, func(c *Config) {
			c.ConnectRatePerIP, c.ProxyProtocol, c.TrustedProxies = 1, true, []string{"127.0.0.0/8"}
		})
		closed := func(client string) bool {
			c := f.bareTCP(t).say(presentedAs(t, 2, client) + "GET /none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			_, err := http.ReadResponse(c.r, nil)
			return err != nil
		}
		eventually(t, "one client to be closed", func() bool { return closed("192.0.2.1:1") })
		if closed("192.0.2.2:1") {
			t.Error("another client was closed, too")
		}
		eventually(t, "no socket", func() bool { return f.sockets() == 0 })
	})
}

// Who says too much on a WebSocket is closed with 1008, and the origin has not heard
// all of it.
func TestMessageRate(t *testing.T) {
	f := start(t, func(c *Config) { c.EventsMessageRate = 5 })
	c := f.dial(t, "/events/list/")
	go func() { // ends with the connection
		for range 10_000 {
			if c.conn.Write(c.ctx, websocket.MessageText, []byte("x")) != nil {
				return
			}
		}
	}()
	for {
		if _, _, err := c.conn.Read(c.ctx); err != nil {
			if got := websocket.CloseStatus(err); got != websocket.StatusPolicyViolation {
				t.Errorf("got %v, want 1008", err)
			}
			break
		}
	}
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "message_rate"}, 1)
}

func TestPaces(t *testing.T) {
	p := newPaces(10)
	now := time.Now()
	count := func(a address) (got [3]int) {
		for range 100 {
			got[p.take(a, now)]++
		}
		return got
	}
	if got, want := count(1), [3]int{20, 20, 60}; got != want {
		t.Errorf("at once: got %v, want %v", got, want)
	}
	if got, want := count(2), [3]int{20, 20, 60}; got != want {
		t.Errorf("another address: got %v, want %v", got, want)
	}
	now = now.Add(time.Second)
	if got, want := count(1), [3]int{10, 10, 80}; got != want {
		t.Errorf("a second later: got %v, want %v", got, want)
	}
	if got, want := count(0), [3]int{100, 0, 0}; got != want {
		t.Errorf("nobody knows who: got %v, want %v", got, want)
	}
	for a := range address(3 * mostPaces) {
		p.take(a+10, now)
	}
	if got := len(p.young) + len(p.old); got > 2*mostPaces {
		t.Errorf("addresses: got %d, want %d at most", got, 2*mostPaces)
	}
	now = now.Add(time.Minute)
	p.take(1, now)
	now = now.Add(time.Minute)
	p.take(1, now)
	if got := len(p.young) + len(p.old); got != 2 { // the one, by both names
		t.Errorf("after two minutes: got %d addresses, want 2", got)
	}
	if got := newPaces(0).take(1, now); got != inPace {
		t.Errorf("without a limit: got %v", got)
	}
}

func TestRequestLimits(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxHeaders, c.MaxURLBytes, c.Routes = 10, 256, "* test" })
	ask := func(path string, headers int) string {
		r := mustRequest(f.url + path)
		for i := range headers {
			r.Header.Add("X-A", fmt.Sprint(i))
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(body))
	}
	for _, tt := range []struct {
		path    string
		headers int
		want    string
	}{
		{"/", 8, "200 "}, // besides User-Agent and Accept-Encoding
		{"/", 9, "431 The request has 11 headers; at most 10 are taken.\n"},
		{"/?" + strings.Repeat("x", 254), 0, "200 "},
		{"/?" + strings.Repeat("x", 255), 0, "414 The URL has 257 bytes; at most 256 are taken.\n"},
		{"/events/list/?" + strings.Repeat("x", 254), 0, "414 "},
	} {
		if got := ask(tt.path, tt.headers); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%.20s, %d headers: got %q, want %q", tt.path, tt.headers, got, tt.want)
		}
	}
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "url"}, 2)
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "headers"}, 1)
}

// A body that stops coming ends its request, and no other of the connection.
func TestStalledBody(t *testing.T) {
	f, _ := routedWith(t, func(c *Config) { c.BodyTimeout = time.Second }, map[string]http.HandlerFunc{
		"/": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "whole") },
		"/stream": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "a")
			w.Header().Set("Grip-Keep-Alive", ".; timeout=2") // longer than BODY_TIMEOUT
			io.WriteString(w, "hi")
		},
	})
	c := f.bareTCP(t).say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab")
	if status, _, body := c.answer(); status != 200 || body != "whole" {
		t.Errorf("whole: got %d %q", status, body)
	}
	if status, _, body := c.answer(); status != 408 || !strings.Contains(body, "takes too long") {
		t.Errorf("stalled: got %d %q, want 408", status, body)
	}
	c.wantEnd()
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "body_timeout"}, 1)

	// An answer that comes before the body does not keep the connection for ever.
	c = f.bareTCP(t).say("POST /events/list/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nab")
	io.ReadAll(c.r)
	eventually(t, "its end", func() bool { return f.sockets() == 0 })

	// A stream that began with a body outlasts the time for it.
	c = f.bareTCP(t).say("POST /stream HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.listening(t, "a", 1)
	for _, want := range []string{"hi", "."} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Errorf("stream: got %q, %v, want %q", got, err, want)
		}
	}
}

// The time for a body is over when it is, also where the handler hears of that before
// the read has returned.
func TestLateBodyOfHastyHandler(t *testing.T) {
	for _, late := range []bool{true, false} {
		begun, end := make(chan struct{}), make(chan struct{})
		body := &comingBody{
			ReadCloser: readerFunc(func([]byte) (int, error) { close(begun); <-end; return 0, os.ErrDeadlineExceeded }),
			control:    http.NewResponseController(httptest.NewRecorder()),
			pause:      time.Hour,
			stalled:    prometheus.NewCounter(prometheus.CounterOpts{Name: "stalled"}),
		}
		var reading sync.WaitGroup
		reading.Go(func() { body.Read(make([]byte, 1)) })
		<-begun
		if late {
			body.mu.Lock()
			body.deadline = time.Now()
			body.mu.Unlock()
		}
		if got := body.leave(true); got != late {
			t.Errorf("got late %v, want %v", got, late)
		}
		close(end)
		reading.Wait()
		var m dto.Metric
		if err := body.stalled.Write(&m); err != nil || m.Counter.GetValue() != 1 {
			t.Errorf("got %v bodies that stalled and error %v, want 1", m.Counter.GetValue(), err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
func (f readerFunc) Close() error               { return nil }

// An answer that begins before its request has ended is the last of its connection:
// what still comes of a body is not taken for a request.
func TestAnswerBeforeBody(t *testing.T) {
	origin := rawOrigin(t, func(r *http.Request, c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhasty")
		_, _ = io.Copy(io.Discard, r.Body)
	})
	f := start(t, func(c *Config) { c.Routes, c.BodyTimeout = "* "+origin, 100*time.Millisecond })
	for name, length := range map[string]string{
		"more than net/http reads": "Content-Length: 1000000", "comes too late": "Content-Length: 100000", "chunked": "Transfer-Encoding: chunked",
		"expected": "Expect: 100-continue\r\nContent-Length: 1000000",
	} {
		t.Run(name, func(t *testing.T) {
			c := f.bareTCP(t).say("POST / HTTP/1.1\r\nHost: h\r\n" + length + "\r\n\r\n1000\r\n" + strings.Repeat("b", 0x1000))
			status, _, body := c.answer()
			for status == http.StatusContinue {
				status, _, body = c.answer()
			}
			if status != 200 || body != "hasty" {
				t.Errorf("got %d %q", status, body)
			}
			eventually(t, "its end", func() bool {
				c.say("GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
				return f.sockets() == 0
			})
			if rest, err := io.ReadAll(c.r); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %q and error %v, want the end of the connection", rest, err)
			}
		})
	}
}

// writeAuthority makes an authority and a certificate by it for a client.
func writeAuthority(t *testing.T, file string) tls.Certificate {
	t.Helper()
	make := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			by = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca.Subject.CommonName = "authority"
	caDER, caKey := make(ca, ca, nil)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	client := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, key := make(client, ca, caKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// With TLS_CLIENT_CA_FILE a client has to show a certificate, by the authorities
// that the file names now.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, caFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	writeCertificate(t, certFile, keyFile, 1)
	known, stranger := writeAuthority(t, caFile), writeAuthority(t, filepath.Join(dir, "other.crt"))
	f := start(t, func(c *Config) { c.TLSCertFile, c.TLSKeyFile, c.TLSClientCAFile = certFile, keyFile, caFile })
	ask := func(show ...tls.Certificate) bool {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: show}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + f.Addr().String() + "/none")
		if err != nil {
			return false
		}
		resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Errorf("got %s, want HTTP/2", resp.Proto)
		}
		return true
	}
	if !ask(known) || ask() || ask(stranger) {
		t.Errorf("got %v, %v, %v for the known one, none, and a stranger's, want only the first", ask(known), ask(), ask(stranger))
	}
	next := writeAuthority(t, caFile)
	eventually(t, "the other authority", func() bool { return ask(next) })
	if ask(known) {
		t.Error("the authority that was taken out is still believed")
	}
}

func TestTLSVersions(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, 1)
	f := start(t, func(c *Config) { c.TLSCertFile, c.TLSKeyFile = certFile, keyFile })
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", f.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version})
		if err == nil {
			conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: got %v, want ok=%t", tls.VersionName(version), err, want)
		}
	}
	expiry := f.metric(t, "spillway_tls_certificate_expiry_timestamp_seconds", nil)
	if left := time.Until(time.Unix(int64(expiry), 0)); left < 50*time.Minute-patience || left > time.Hour {
		t.Errorf("expiry: got %v from now, want an hour at most", left)
	}
}
