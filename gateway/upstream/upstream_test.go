package upstream

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/route"
	"spillway/grip"
	"spillway/grip/secret"
)

func newForwarder(t *testing.T, cfg Config) *Forwarder {
	t.Helper()
	f := New(cfg, slog.New(slog.DiscardHandler), nil)
	t.Cleanup(f.Close)
	return f
}

func key(t *testing.T, s string) grip.Key {
	t.Helper()
	k, err := grip.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// routeTo parses a line in which ORIGIN, and DEAD for a port where nobody
// listens, stand for addresses.
func routeTo(t *testing.T, line, origin string) *route.Route {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	table, err := route.Parse(route.Source{Text: strings.NewReplacer("ORIGIN", origin, "DEAD", l.Addr().String()).Replace(line)})
	if err != nil {
		t.Fatal(err)
	}
	return table.Routes()[0]
}

// echo is an origin that answers with the request's bytes.
func echo(t *testing.T) string {
	t.Helper()
	return serveRaw(t, func(request string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(request), request)
	})
}

// serveRaw answers each request, of which it sees the head and a body of known
// length, with the bytes of answer, and closes the connection.
func serveRaw(t *testing.T, answer func(request string) string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	done := make(chan struct{})
	go func() { // ends with the listener; done tells
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				var request strings.Builder
				r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &request)))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(c, answer(request.String()))
			})
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done; conns.Wait() })
	return l.Addr().String()
}

// request is what a server makes of the bytes a client sent.
func request(t *testing.T, wire string) *http.Request {
	t.Helper()
	head, body, _ := strings.Cut(wire, "\n\n")
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + body)))
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.7:4711"
	return r
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// lines are those of a request's head, sorted but for the first; the token of
// Grip-Sig is replaced by who signed it with which key.
func lines(t *testing.T, wire string, keys map[string]grip.Key) []string {
	t.Helper()
	head, _, _ := strings.Cut(wire, "\r\n\r\n")
	all := strings.Split(head, "\r\n")
	for i, line := range all {
		if token, ok := strings.CutPrefix(line, "Grip-Sig: "); ok {
			for name, k := range keys {
				if iss, err := k.Verify(token, time.Now()); err == nil {
					all[i] = "Grip-Sig: " + name + "/" + iss
				}
			}
		}
	}
	slices.Sort(all[1:])
	return all
}

func TestDoHeaders(t *testing.T) {
	keys := map[string]grip.Key{"config": key(t, "changeme"), "route": key(t, "mine"), "upstream": key(t, "up")}
	trustedSig, err := keys["upstream"].Sign("front", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	expiredSig, err := keys["upstream"].Sign("front", time.Now().Add(-2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	const signed = "Grip-Feature: status, link:next|Grip-Sig: config/pushpin"
	for _, tt := range []struct {
		name, route, request, want string // want: lines apart by "|", in order
	}{
		{"nothing is invented", "* ORIGIN", "GET / HTTP/1.1\nHost: h",
			"GET / HTTP/1.1|" + signed + "|Host: h"},
		{"what goes on", "* ORIGIN", "GET /a/b?c=d HTTP/1.1\nHost: h:1\nUser-Agent: me\nCookie: a=b\nTE: trailers\nVia: x\nForwarded: for=1\n" +
			"X-Forwarded-For: 1.1.1.1\nRange: bytes=0-\nIf-None-Match: x\nMeta-A: b\nConnection-Id: 1\nUpgrade: h2c\nX-Two: a\nX-Two: b",
			"GET /a/b?c=d HTTP/1.1|Connection-Id: 1|Cookie: a=b|Forwarded: for=1|" + signed + "|Host: h:1|If-None-Match: x|Meta-A: b|Range: bytes=0-|" +
				"Te: trailers|Upgrade: h2c|User-Agent: me|Via: x|X-Forwarded-For: 1.1.1.1|X-Two: a|X-Two: b"},
		{"what stays here", "* ORIGIN", "GET / HTTP/1.1\nHost: h\nConnection: keep-alive\nKeep-Alive: 5\nAccept-Encoding: gzip\nContent-Encoding: gzip\n" +
			"Expect: x\nX-Forwarded-Proto: https\nX-Forwarded-Protocol: https\neb9bf0f5-Cookie: a",
			"GET / HTTP/1.1|" + signed + "|Host: h"},
		{"a client cannot speak GRIP", "* ORIGIN", "GET / HTTP/1.1\nHost: h\nGrip-Sig: x\ngrip-last: a; last-id=1\nGRIP-Anything: 1\nGrip: 1",
			"GET / HTTP/1.1|" + signed + "|Grip: 1|Host: h"},
		{"another gateway can", "* ORIGIN", "GET / HTTP/1.1\nHost: h\nGrip-Sig: " + trustedSig + "\nGrip-Last: a; last-id=1\nGrip-Feature: status",
			"GET / HTTP/1.1|Grip-Feature: status|Grip-Last: a; last-id=1|Grip-Sig: upstream/front|Host: h"},
		{"not with an old signature", "* ORIGIN", "GET / HTTP/1.1\nHost: h\nGrip-Sig: " + expiredSig + "\nGrip-Last: a; last-id=1",
			"GET / HTTP/1.1|" + signed + "|Host: h"},
		{"plain proxy", "*,no_grip ORIGIN", "GET / HTTP/1.1\nHost: h\nGrip-Sig: x", "GET / HTTP/1.1|Host: h"},
		{"key and issuer of the route", "*,sig_iss=us,sig_key=mine ORIGIN", "GET / HTTP/1.1\nHost: h",
			"GET / HTTP/1.1|Grip-Feature: status, link:next|Grip-Sig: route/us|Host: h"},
		{"header of the route", `*,header="X-A: b, c",header=Cookie:,header=User-Agent:us ORIGIN`, "GET / HTTP/1.1\nHost: h\nX-A: 1\nX-A: 2\nCookie: a=b\nUser-Agent: me",
			"GET / HTTP/1.1|" + signed + "|Host: h|User-Agent: us|X-A: b, c"},
		{"as_host", "*,as_host=o.example:99 ORIGIN", "GET / HTTP/1.1\nHost: h", "GET / HTTP/1.1|" + signed + "|Host: o.example:99"},
		{"host in small letters", "* ORIGIN", "GET / HTTP/1.1\nHost: H.Example:1", "GET / HTTP/1.1|" + signed + "|Host: h.example:1"},
		{"host of the target wins", "*,as_host=o.example ORIGIN,host=t.example", "GET / HTTP/1.1\nHost: h", "GET / HTTP/1.1|" + signed + "|Host: t.example"},
		{"path_rem", "*,path_beg=/api/,path_rem=4 ORIGIN", "GET /api/x%2Fy?q HTTP/1.1\nHost: h", "GET /x%2Fy?q HTTP/1.1|" + signed + "|Host: h"},
		{"replace_beg", "*,path_beg=/api/,replace_beg=/v2/ ORIGIN", "GET /api/x HTTP/1.1\nHost: h", "GET /v2/x HTTP/1.1|" + signed + "|Host: h"},
		{"path byte for byte, bad bytes escaped", "* ORIGIN", `GET //a%2fb%2F{"x//?a&&c=%zz HTTP/1.1` + "\nHost: h",
			`GET //a%2fb%2F%7B%22x//?a&&c=%zz HTTP/1.1|` + signed + "|Host: h"},
		{"a bare question mark", "* ORIGIN", "GET /a? HTTP/1.1\nHost: h", "GET /a? HTTP/1.1|" + signed + "|Host: h"},
		{"whole server", "* ORIGIN", "OPTIONS * HTTP/1.1\nHost: h", "OPTIONS * HTTP/1.1|" + signed + "|Host: h"},
		{"body of known length", "* ORIGIN", "POST / HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc",
			"POST / HTTP/1.1|Content-Length: 3|" + signed + "|Host: h"},
		{"body of unknown length", "* ORIGIN", "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\n\r\n",
			"POST / HTTP/1.1|" + signed + "|Host: h|Transfer-Encoding: chunked"},
		{"trailers stay here", "* ORIGIN", "POST / HTTP/1.1\nHost: h\nTrailer: X-T\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
			"POST / HTTP/1.1|" + signed + "|Host: h|Transfer-Encoding: chunked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newForwarder(t, Config{SigKey: secret.Fixed(keys["config"]), UpstreamKeys: secret.Fixed(grip.Keys{keys["upstream"]})})
			wire := tt.request
			if !strings.Contains(wire, "\n\n") {
				wire += "\n\n"
			}
			resp, err := f.Do(t.Context(), request(t, wire), routeTo(t, tt.route, echo(t)))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(lines(t, read(t, resp), keys), "|"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestDoForwarded(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for _, tt := range []struct {
		name    string
		trusted []netip.Prefix
		peer    string
		tls     bool
		request string
		want    []string // Forwarded and X-Forwarded-* lines
	}{
		{"plain", nil, "192.0.2.7:1", false, "X-Forwarded-Proto: https\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-Host: a", []string{"X-Forwarded-For: 1.1.1.1", "X-Forwarded-Host: a"}},
		{"TLS", nil, "192.0.2.7:1", true, "X-A: b", []string{"X-Forwarded-Proto: https"}},
		{"TLS WebSocket", nil, "192.0.2.7:1", true, "Connection: keep-alive, Upgrade\nUpgrade: WebSocket", []string{"X-Forwarded-Proto: wss"}},
		{"trusted proxy", proxies, "192.0.2.7:1", false, "X-Forwarded-Proto: https\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 2.2.2.2\nForwarded: for=1",
			[]string{"Forwarded: for=1", "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 192.0.2.7", "X-Forwarded-Proto: https"}},
		{"trusted proxy over IPv6 socket", proxies, "[::ffff:192.0.2.7]:1", false, "X-Forwarded-Proto: wss", []string{"X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"}},
		{"trusted proxy, plain client", proxies, "192.0.2.7:1", false, "X-Forwarded-Proto: http", []string{"X-Forwarded-For: 192.0.2.7"}},
		{"somebody else", proxies, "198.51.100.1:1", false, "X-Forwarded-Proto: https\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-Host: a\nForwarded: for=1",
			[]string{"X-Forwarded-For: 198.51.100.1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, "GET / HTTP/1.1\nHost: h\n"+tt.request+"\n\n")
			r.RemoteAddr = tt.peer
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			resp, err := newForwarder(t, Config{TrustedProxies: tt.trusted}).Do(t.Context(), r, routeTo(t, "*,no_grip ORIGIN", echo(t)))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, line := range lines(t, read(t, resp), nil) {
				if strings.Contains(line, "Forwarded") {
					got = append(got, line)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDoResponse(t *testing.T) {
	var zipped strings.Builder
	zw := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(zw, "hello")
	_ = zw.Close()

	for _, tt := range []struct {
		name, method, response string
		code                   int
		header, body           string // header as CopyHeaders gives it: sorted "Name: value" apart by "|"
	}{
		{"as it is", "GET", "200 Fine\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n\r\nhello", 200, "Content-Length: 5|X-A: 1|X-A: 2", "hello"},
		{"redirects are the client's", "GET", "302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302, "Content-Length: 0|Location: /x", ""},
		{"GRIP headers are there to act on", "GET", "200 OK\r\nGrip-Hold: stream\r\nContent-Length: 0\r\n\r\n", 200, "Content-Length: 0|Grip-Hold: stream", ""},
		{"the connection's stay here", "GET", "200 OK\r\nConnection: close\r\nKeep-Alive: 5\r\nContent-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "", "hello"},
		{"trailers stay here", "GET", "200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", 200, "", "hello"},
		{"unwanted gzip is undone", "GET", "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + fmt.Sprint(zipped.Len()) + "\r\n\r\n" + zipped.String(), 200, "", "hello"},
		{"gzip of nothing", "GET", "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", 200, "", ""},
		{"gzip in answer to HEAD", "HEAD", "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 99\r\n\r\n", 200, "", ""},
		{"a part of gzip is passed on", "GET", "206 Partial Content\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", 206, "Content-Encoding: gzip|Content-Length: 2", "xx"},
		{"unknown encoding is passed on", "GET", "200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nxx", 200, "Content-Encoding: br|Content-Length: 2", "xx"},
		{"HEAD keeps the length", "HEAD", "200 OK\r\nContent-Length: 99\r\n\r\n", 200, "Content-Length: 99", ""},
		{"until the connection ends", "GET", "200 OK\r\n\r\nhello", 200, "", "hello"},
		{"early hints are not the response", "GET", "103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "Content-Length: 0", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			origin := serveRaw(t, func(string) string { return "HTTP/1.1 " + tt.response })
			resp, err := newForwarder(t, Config{}).Do(t.Context(), request(t, tt.method+" / HTTP/1.1\nHost: h\nAccept-Encoding: gzip\n\n"), routeTo(t, "* ORIGIN", origin))
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, resp); resp.StatusCode != tt.code || got != tt.body {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, got, tt.code, tt.body)
			}
			dst := http.Header{}
			CopyHeaders(dst, resp.Header)
			var got []string
			for name, values := range dst {
				for _, v := range values {
					got = append(got, name+": "+v)
				}
			}
			slices.Sort(got)
			if got := strings.Join(got, "|"); got != tt.header {
				t.Errorf("got header %s, want %s", got, tt.header)
			}
		})
	}
}

func TestDoReportsABrokenBody(t *testing.T) {
	origin := serveRaw(t, func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello" })
	resp, err := newForwarder(t, Config{}).Do(t.Context(), request(t, "GET / HTTP/1.1\nHost: h\n\n"), routeTo(t, "* ORIGIN", origin))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if got, err := io.ReadAll(resp.Body); string(got) != "hello" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v, want hello and an unexpected end", got, err)
	}
}

func TestDoFailover(t *testing.T) {
	const post = "POST / HTTP/1.1\nHost: h\nContent-Length: 5\n\nhello"
	plain := echo(t)
	for _, tt := range []struct {
		name, route, origin string
		unreachable, broken bool
		passedOver          float64
	}{
		{"first", "* ORIGIN DEAD", plain, false, false, 0},
		{"second, with the whole body", "* DEAD ORIGIN", plain, false, false, 1},
		{"none", "* DEAD DEAD", "", true, false, 2},
		{"TLS failure is one to connect", "* ORIGIN,ssl ORIGIN", plain, false, false, 1},
		{"test as the last resort", "* DEAD test", "", false, false, 1},
		{"a broken answer is final", "* ORIGIN test", serveRaw(t, func(string) string { return "" }), false, true, 0},
		{"nonsense is final", "* ORIGIN test", serveRaw(t, func(string) string { return "SSH-2.0\r\n\r\n" }), false, true, 0},
		{"an answer nobody asked for", "* ORIGIN test", serveRaw(t, func(string) string {
			return "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
		}), false, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			f := New(Config{}, slog.New(slog.DiscardHandler), reg)
			t.Cleanup(f.Close)
			resp, err := f.Do(t.Context(), request(t, post), routeTo(t, tt.route, tt.origin))
			if got := errors.Is(err, ErrUnreachable); got != tt.unreachable {
				t.Errorf("got unreachable: %v (%v), want %v", got, err, tt.unreachable)
			}
			if got := err != nil && !errors.Is(err, ErrUnreachable); got != tt.broken {
				t.Errorf("got broken: %v (%v), want %v", got, err, tt.broken)
			}
			if err == nil {
				if got := read(t, resp); !strings.HasSuffix(got, "\r\n\r\nhello") && !strings.HasPrefix(got, "Hello from") {
					t.Errorf("got %q, want the request with its body, or the test origin", got)
				}
			}
			ended := answered
			if tt.unreachable {
				ended = unreachable
			} else if tt.broken {
				ended = broken
			}
			want := map[string]float64{}
			for _, k := range []kind{kindRequest, kindLink, kindEvents, kindSocket, kindFilter, kindGone} {
				for _, r := range []string{"answered", "unreachable", "broken", "canceled", "foreign"} {
					want["spillway_upstream_requests_total "+string(k)+" "+r] = 0
				}
			}
			want["spillway_upstream_requests_total request "+string(ended)] = 1
			want["spillway_upstream_targets_unreachable_total"] = tt.passedOver
			if got := counters(t, reg); !maps.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func counters(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetCounter() == nil {
				continue
			}
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	return got
}

func TestDoErrorNamesEveryTarget(t *testing.T) {
	rt := routeTo(t, "* DEAD no-such-host.invalid:1", "")
	_, err := newForwarder(t, Config{}).Do(t.Context(), request(t, "GET / HTTP/1.1\nHost: h\n\n"), rt)
	for _, target := range rt.Targets {
		if err == nil || !strings.Contains(err.Error(), "target "+target.Addr+": ") {
			t.Errorf("got %v, want it to name %s", err, target.Addr)
		}
	}
}

func TestDoCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	origin := serveRaw(t, func(string) string { cancel(); return "" })
	_, err := newForwarder(t, Config{}).Do(ctx, request(t, "GET / HTTP/1.1\nHost: h\n\n"), routeTo(t, "* ORIGIN test", origin))
	if err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want an error, and no other target tried", err)
	}
}

func TestDoSlowOrigin(t *testing.T) {
	release := make(chan struct{})
	origin := serveRaw(t, func(string) string { <-release; return "" })
	t.Cleanup(func() { close(release) })
	_, err := newForwarder(t, Config{ResponseTimeout: 20 * time.Millisecond}).Do(t.Context(), request(t, "GET / HTTP/1.1\nHost: h\n\n"), routeTo(t, "* ORIGIN test", origin))
	if nerr := (net.Error)(nil); !errors.As(err, &nerr) || !nerr.Timeout() || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want a timeout that is final", err)
	}
}

// A body streams: the origin has its beginning, and the client the beginning of
// the answer, before its end is sent.
func TestDoStreams(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 10)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}))
	t.Cleanup(origin.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)

	pr, pw := io.Pipe()
	r := httptest.NewRequestWithContext(ctx, "POST", "http://h/", pr)
	r.ContentLength = -1
	resp, err := newForwarder(t, Config{}).Do(ctx, r, routeTo(t, "* ORIGIN", origin.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two"} {
		_, _ = io.WriteString(pw, want)
		buf := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != want {
			t.Fatalf("got %q, %v, want %q", buf, err, want)
		}
	}
	_ = pw.Close()
	if got := read(t, resp); got != "" {
		t.Errorf("got %q, want the end", got)
	}
	if _, err := resp.Request.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("got %v, want nobody to read from the client any more", err)
	}
}

// The origin goes away while the client, which has not sent all, is silent.
func TestDoOriginGoneDuringUpload(t *testing.T) {
	hangUp := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = c.Close()
		}
	})
	for _, tt := range []struct {
		name, route string
		start       func(http.Handler) *httptest.Server
	}{
		{"plain", "* ORIGIN test", httptest.NewServer},
		{"TLS", "* ORIGIN,ssl,insecure test", httptest.NewTLSServer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			origin := tt.start(hangUp)
			t.Cleanup(origin.Close)
			pr, pw := io.Pipe()
			t.Cleanup(func() { _ = pw.Close() }) // lets the read under way end
			r := httptest.NewRequestWithContext(t.Context(), "POST", "http://h/", pr)
			r.ContentLength = -1
			ended := make(chan error, 1)
			f, rt := newForwarder(t, Config{}), routeTo(t, tt.route, origin.Listener.Addr().String())
			go func() { // ends with Do; ended tells
				_, err := f.Do(r.Context(), r, rt)
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil || errors.Is(err, ErrUnreachable) {
					t.Errorf("got %v, want a final error", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("got no answer in 10 s, want an error at once")
			}
		})
	}
}

func TestDoKeepsConnections(t *testing.T) {
	var mu sync.Mutex
	peers := map[string]bool{}
	origin := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		peers[r.RemoteAddr] = true
	}))
	t.Cleanup(origin.Close)
	f := newForwarder(t, Config{})
	rt := routeTo(t, "* ORIGIN", origin.Listener.Addr().String())
	for i := range 5 {
		resp, err := f.Do(t.Context(), request(t, fmt.Sprintf("GET / HTTP/1.1\nHost: h%d\n\n", i)), rt)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
	}
	if len(peers) != 1 {
		t.Errorf("got %d connections for 5 requests to different hosts, want 1", len(peers))
	}
}

// httptest's certificate is for example.com and 127.0.0.1.
func TestDoTLS(t *testing.T) {
	origin := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "host=%s name=%s", r.Host, r.TLS.ServerName)
	}))
	origin.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(origin.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: origin.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	roots, err := LoadRoots(ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, host, target string
		roots              *x509.CertPool
		want               string // "" is unreachable
	}{
		{"the client's host is what the certificate must be for", "example.com:9", "ORIGIN,ssl", roots, "host=example.com:9 name=example.com"},
		{"another is refused", "other.test", "ORIGIN,ssl", roots, ""},
		{"host of the target", "other.test", "ORIGIN,ssl,host=example.com", roots, "host=example.com name=example.com"},
		{"trust_connect_host", "other.test", "ORIGIN,ssl,trust_connect_host", roots, "host=other.test name=other.test"},
		{"trust_connect_host is not blind", "other.test", "ORIGIN,ssl,trust_connect_host", x509.NewCertPool(), ""},
		{"insecure is", "other.test", "ORIGIN,ssl,insecure", nil, "host=other.test name=other.test"},
		{"unknown authority", "example.com", "ORIGIN,ssl", nil, ""},
		{"an address as host", "127.0.0.1", "ORIGIN,ssl", roots, "host=127.0.0.1 name="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newForwarder(t, Config{Roots: tt.roots})
			rt := routeTo(t, "* "+tt.target, origin.Listener.Addr().String())
			for range 2 { // the second may resume the first's session
				resp, err := f.Do(t.Context(), request(t, "GET / HTTP/1.1\nHost: "+tt.host+"\n\n"), rt)
				if tt.want == "" {
					if !errors.Is(err, ErrUnreachable) {
						t.Errorf("got %v, want it unreachable", err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := read(t, resp); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

// httptest's certificate serves as the client's, too.
func TestDoClientCertificate(t *testing.T) {
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, len(r.TLS.PeerCertificates))
	}))
	origin.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	origin.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	origin.StartTLS()
	t.Cleanup(origin.Close)
	pair := origin.TLS.Certificates[0]
	keyDER, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := newForwarder(t, Config{})
	get := func(rt *route.Route) (string, error) {
		resp, err := f.Do(t.Context(), request(t, "GET / HTTP/1.1\nHost: h\n\n"), rt)
		if err != nil {
			return "", err
		}
		return read(t, resp), nil
	}
	with := routeTo(t, "* ORIGIN,ssl,insecure,client_cert="+certFile+",client_key="+keyFile, origin.Listener.Addr().String())
	if got, err := get(with); got != "1" || err != nil {
		t.Errorf("with a certificate: got %q, %v, want 1", got, err)
	}
	if got, err := get(routeTo(t, "* ORIGIN,ssl,insecure", origin.Listener.Addr().String())); err == nil {
		t.Errorf("without: got %q, want an error", got)
	}
	f.Keep(nil)
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if got, err := get(with); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("key gone: got %q, %v, want it unreachable, and the file named", got, err)
	}
}

func TestKeep(t *testing.T) {
	f := newForwarder(t, Config{})
	origin := echo(t)
	kept, dropped := routeTo(t, "* ORIGIN,sub=x", origin), routeTo(t, "* ORIGIN,ssl,insecure ORIGIN", origin)
	for _, rt := range []*route.Route{kept, dropped} {
		resp, err := f.Do(t.Context(), request(t, "GET / HTTP/1.1\nHost: h\n\n"), rt)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
	}
	if got := len(f.pools); got != 2 {
		t.Errorf("got %d pools, want 2", got)
	}
	f.Keep([]*route.Route{kept})
	if _, ok := f.pools[poolKeyOf(kept.Targets[0])]; len(f.pools) != 1 || !ok {
		t.Errorf("got %d pools, that of the route %v, want only that", len(f.pools), ok)
	}
}

func TestLoadRoots(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if roots, err := LoadRoots(""); roots != nil || err != nil {
		t.Errorf("no file: got %v, %v, want nil, nil", roots, err)
	}
	for _, file := range []string{empty, empty + ".missing"} {
		if _, err := LoadRoots(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want an error that names it", file, err)
		}
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name, base, link string
		direct           bool
		want             string // "" is an error
	}{
		{"relative", "http://h/a/b?c", "/a/x?after=3", false, "http://h/a/x?after=3"},
		{"relative to the path", "http://h/a/b?c", "x", false, "http://h/a/x"},
		{"only a query", "http://h/a/b?c", "?d", false, "http://h/a/b?d"},
		{"the same host", "http://h/a/b", "http://H:80/a/", false, "http://H:80/a/"},
		{"another path than the route's", "http://h/a/b", "/b", true, "http://h/b"},
		{"another host", "http://h/a/b", "http://i/a/x", true, "http://i/a/x"},
		{"another port", "http://h/a/b", "http://h:81/a/x", true, "http://h:81/a/x"},
		{"another scheme", "http://h/a/b", "https://h/a/x", true, "https://h/a/x"},
		{"no path", "http://h/a/b", "http://i", true, "http://i/"},
		{"fragment and user are not sent", "http://h/a/b", "http://u:p@h/a/x#f", false, "http://h/a/x"},
		{"escapes stay", "http://h/a/b", "/a/x%2Fy", false, "http://h/a/x%2Fy"},
		{"another protocol", "http://h/a/b", "ftp://h/", false, ""},
		{"no URL", "http://h/a/b", "http://[", false, ""},
		{"no host", "http://h/a/b", "http:///a", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rt := routeTo(t, "*,path_beg=/a/ test", "")
			u, got, err := Resolve(tt.link, mustURL(t, tt.base), rt)
			if tt.want == "" {
				if err == nil {
					t.Errorf("got %v, want an error", u)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if u.String() != tt.want || (got == nil) != tt.direct {
				t.Errorf("got %v, direct %v, want %s, direct %v", u, got == nil, tt.want, tt.direct)
			}
		})
	}
}

func TestDoLink(t *testing.T) {
	keys := map[string]grip.Key{"config": key(t, "changeme"), "route": key(t, "mine")}
	origin := echo(t)
	for _, tt := range []struct {
		name, route, base, link, want string
	}{
		{"by the route", `*,path_beg=/a/,replace_beg=/v2/,sig_iss=us,sig_key=mine,header="X-A: b" ORIGIN`, "http://h/a/", "/a/next?x",
			"GET /v2/next?x HTTP/1.1|Grip-Feature: status, link:next|Grip-Last: one; last-id=1|Grip-Last: two; last-id=2|Grip-Sig: route/us|Host: h|X-A: b"},
		{"by the route of a TLS client", "* ORIGIN", "https://h/", "/next",
			"GET /next HTTP/1.1|Grip-Feature: status, link:next|Grip-Last: one; last-id=1|Grip-Last: two; last-id=2|Grip-Sig: config/pushpin|Host: h|X-Forwarded-Proto: https"},
		{"host of the target", "* ORIGIN,host=t.example", "http://h/", "/next",
			"GET /next HTTP/1.1|Grip-Feature: status, link:next|Grip-Last: one; last-id=1|Grip-Last: two; last-id=2|Grip-Sig: config/pushpin|Host: t.example"},
		{"directly", `*,sig_iss=us,sig_key=mine,header="X-A: b" test`, "http://h/", "http://ORIGIN/next",
			"GET /next HTTP/1.1|Grip-Feature: status, link:next|Grip-Last: one; last-id=1|Grip-Last: two; last-id=2|Grip-Sig: config/pushpin|Host: ORIGIN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newForwarder(t, Config{SigKey: secret.Fixed(keys["config"]), LinkHosts: anyHost})
			link, want := strings.ReplaceAll(tt.link, "ORIGIN", origin), strings.ReplaceAll(tt.want, "ORIGIN", origin)
			resp, err := f.DoLink(t.Context(), link, mustURL(t, tt.base), routeTo(t, tt.route, origin),
				[]grip.Last{{Channel: "one", ID: "1"}, {Channel: "two", ID: "2"}})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(lines(t, read(t, resp), keys), "|"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Origins may link anywhere; what is kept for each host must not pile up.
func TestDoLinkKeepsNothingPerHost(t *testing.T) {
	f := newForwarder(t, Config{LinkHosts: anyHost})
	for range 3 {
		resp, err := f.DoLink(t.Context(), "http://"+echo(t)+"/", mustURL(t, "http://h/"), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
	}
	if got := len(f.pools); got != 0 {
		t.Errorf("got %d pools, want 0", got)
	}
}

func TestURL(t *testing.T) {
	for _, tt := range []struct {
		name, route, request string
		tls                  bool
		want                 string
	}{
		{"plain", "* test", "GET /a%2Fb?c HTTP/1.1\nHost: h:1", false, "http://h:1/a%2Fb?c"},
		{"TLS", "* test", "GET / HTTP/1.1\nHost: h", true, "https://h/"},
		{"as_host, before rewriting", "*,as_host=o.example,path_rem=2 test", "GET /ab HTTP/1.1\nHost: h", false, "http://o.example/ab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, tt.request+"\n\n")
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if got := newForwarder(t, Config{}).URL(r, routeTo(t, tt.route, "")).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTestTarget(t *testing.T) {
	for _, tt := range []struct {
		name, route, target string
		code                int
		contentType, body   string // contentType and body as the client gets them
		mode                grip.HoldMode
		channels            []string
	}{
		{"root", "* test", "/", 200, "text/plain", "Hello from the Spillway test handler!\n", grip.HoldNone, nil},
		{"unknown", "* test", "/x", 404, "text/plain", "no such test resource\n", grip.HoldNone, nil},
		{"path_beg is removed", "*,path_beg=/t test", "/t/", 200, "text/plain", "Hello from the Spillway test handler!\n", grip.HoldNone, nil},
		{"and nothing put in its place", "*,path_beg=/t test", "/t", 404, "text/plain", "no such test resource\n", grip.HoldNone, nil},
		{"stream", "* test", "/stream", 200, "text/plain", "[stream opened]\n", grip.HoldStream, []string{"test"}},
		{"stream of channels no header can hold", "* test", "/stream?channel=a%2Cb&channel=c;d&channel=e%3B", 200, "text/plain", "[stream opened]\n", grip.HoldStream, []string{"a,b", "e;"}},
		{"response", "* test", "/response?channel=%22x%22", 200, "text/plain", "nothing for now\n", grip.HoldResponse, []string{`"x"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := newForwarder(t, Config{}).Do(t.Context(), request(t, "GET "+tt.target+" HTTP/1.1\nHost: h\n\n"), routeTo(t, tt.route, ""))
			if err != nil {
				t.Fatal(err)
			}
			body := read(t, resp)
			if got, want := resp.ContentLength, int64(len(body)); got != want {
				t.Errorf("got length %d, want %d", got, want)
			}
			in := grip.Instruct{Header: resp.Header, Body: []byte(body)}
			if grip.IsInstruct(resp.Header) {
				if in, err = grip.ParseInstruct(resp.StatusCode, resp.Header, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
			var channels []string
			for _, s := range in.Channels {
				channels = append(channels, s.Channel)
			}
			if resp.StatusCode != tt.code || in.Hold != tt.mode || !slices.Equal(channels, tt.channels) {
				t.Errorf("got %d, %q of %q, want %d, %q of %q", resp.StatusCode, in.Hold, channels, tt.code, tt.mode, tt.channels)
			}
			if got := in.Header.Get("Content-Type"); got != tt.contentType || string(in.Body) != tt.body {
				t.Errorf("got %s %q, want %s %q", got, in.Body, tt.contentType, tt.body)
			}
		})
	}
}

func TestTrusted(t *testing.T) {
	up := key(t, "up")
	sign := func(k grip.Key, at time.Time) string {
		token, err := k.Sign("front", at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, tt := range []struct {
		name string
		keys grip.Keys
		sig  string
		want bool
	}{
		{"by the upstream key", grip.Keys{up}, sign(up, time.Now()), true},
		{"by another", grip.Keys{up}, sign(key(t, "changeme"), time.Now()), false},
		{"by the old key while there is a new one", grip.Keys{key(t, "new"), up}, sign(up, time.Now()), true},
		{"expired", grip.Keys{up}, sign(up, time.Now().Add(-2*time.Hour)), false},
		{"none", grip.Keys{up}, "", false},
		{"no upstream key", nil, sign(up, time.Now()), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, "GET / HTTP/1.1\nHost: h\nGrip-Sig: "+tt.sig+"\n\n")
			if got := newForwarder(t, Config{UpstreamKeys: secret.Fixed(tt.keys)}).Trusted(r); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	t0 := time.Unix(0, 0)
	for _, tt := range []struct {
		after     time.Duration
		swallowed int
		ok        bool
	}{
		{0, 0, true}, {1, 0, false}, {logInterval - 1, 0, false}, {logInterval, 2, true}, {2 * logInterval, 0, true},
	} {
		if n, ok := l.due(t0.Add(tt.after)); n != tt.swallowed || ok != tt.ok {
			t.Errorf("after %v: got %d, %v, want %d, %v", tt.after, n, ok, tt.swallowed, tt.ok)
		}
	}
}
