package gateway

import (
	"bufio"
	"bytes"
	"context"
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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// apiOrigin is an HTTP origin that speaks GRIP, like somebody's existing API.
type apiOrigin struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   map[string]http.HandlerFunc // by path
}

func newAPI(t testing.TB, answer map[string]http.HandlerFunc) *apiOrigin {
	a := &apiOrigin{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.requests = append(a.requests, r)
		a.bodies = append(a.bodies, string(body))
		a.mu.Unlock()
		if h := a.answer[r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *apiOrigin) last() *http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests[len(a.requests)-1]
}

func (a *apiOrigin) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.requests)
}

// routed starts a gateway in front of an HTTP origin.
func routed(t testing.TB, answer map[string]http.HandlerFunc, params string, engine ...func(*fanout.Config)) (*fixture, *apiOrigin) {
	t.Helper()
	checkGoroutines(t)
	a := newAPI(t, answer)
	f := start(t, func(c *Config) { c.Routes = "*" + params + " " + a.Listener.Addr().String() }, engine...)
	return f, a
}

// publish posts items to the control API.
func (f *fixture) publish(t *testing.T, items ...grip.Item) *client {
	t.Helper()
	resp, err := http.Post("http://"+f.ControlAddr().String()+"/publish/", "application/json", bytes.NewReader(grip.AppendItems(nil, items...)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	body, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	c := &client{t: t, resp: resp}
	if resp.StatusCode == 200 && string(body) != "Published\n" {
		t.Errorf("publish: got %q, want Published", body)
	}
	return c
}

func (f *fixture) listening(t testing.TB, channel string, n int) {
	t.Helper()
	eventually(t, fmt.Sprint(n, " subscribers of ", channel), func() bool {
		infos, _ := f.engine.Channels("", 1000)
		for _, info := range infos {
			if info.Name == channel {
				return info.Subscribers == n
			}
		}
		return n == 0
	})
}

func text(channel, id, prev, content string) grip.Item {
	return grip.Item{Channel: channel, ID: id, PrevID: prev, HTTPStream: &grip.HTTPStream{Content: []byte(content)},
		HTTPResponse: &grip.HTTPResponse{Body: []byte(content)}}
}

func TestRouteStream(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{"/fruit/": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "fruit")
		w.WriteHeader(201)
		io.WriteString(w, "hello\n")
	}}, "")
	c := f.get(t, "/fruit/?x=1", "X-Own", "1").wantStatus(201)
	c.want("hello\n")
	if c.resp.ContentLength >= 0 || c.resp.Header.Get("Grip-Hold") != "" {
		t.Errorf("head: length %d, Grip-Hold %q, want neither", c.resp.ContentLength, c.resp.Header.Get("Grip-Hold"))
	}
	r := a.last()
	if r.Header.Get("Grip-Sig") == "" || r.Header.Get("X-Own") != "1" || r.URL.RawQuery != "x=1" {
		t.Errorf("the origin got %v %v", r.URL, r.Header)
	}
	f.listening(t, "fruit", 1)
	f.publish(t, text("fruit", "", "", "apple\n"), text("other", "", "", "x"), text("fruit", "7", "", "pear\n")).wantStatus(200)
	f.publish(t, text("fruit", "7", "", "pear\n")).wantStatus(200) // a repetition
	f.publish(t, grip.Item{Channel: "fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	c.wantEnd("apple\npear\n")
}

func TestRoutePlain(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/": func(w http.ResponseWriter, r *http.Request) {
			w.Header()["X-Two"] = []string{"a", "b"}
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(418)
			io.WriteString(w, "plain")
		},
		"/status": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Status", "404 Gone fishing")
			io.WriteString(w, "body")
		},
		"/bad": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Grip-Hold", "Stream") },
		"/broken": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "part")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"/slow": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "first\n")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"/instruct": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/grip-instruct")
			io.WriteString(w, `{"hold":{"mode":"stream","channels":[{"name":"doc"}]},"response":{"body":"from the document\n"}}`)
		},
	}, "")
	c := f.get(t, "/").wantStatus(418)
	if got := c.resp.Header["X-Two"]; len(got) != 2 || c.resp.ContentLength != 5 {
		t.Errorf("headers: got %v, length %d", got, c.resp.ContentLength)
	}
	c.wantEnd("plain")
	f.get(t, "/status").wantStatus(404).wantEnd("body")
	f.get(t, "/bad").wantStatus(502).wantEnd("Error while proxying to origin.\n")
	f.get(t, "/slow").want("first\n") // as it comes
	broken := f.get(t, "/broken")
	if got, err := io.ReadAll(broken.body); err == nil || string(got) != "part" {
		t.Errorf("broken off: got %q, %v, want an error the client can see", got, err)
	}
	doc := f.get(t, "/instruct")
	doc.want("from the document\n")
	f.listening(t, "doc", 1)
	f.publish(t, text("doc", "", "", "more"))
	doc.want("more")
}

// What an origin does not say, nobody guesses.
func TestRouteContentTypeIsTheOrigins(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{"/page": func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = nil
		fmt.Fprint(w, "<html><script>alert(1)</script>")
	}}, "")
	resp, err := http.Get(f.url + "/page")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, ok := resp.Header["Content-Type"]; ok {
		t.Errorf("Content-Type: got %q, want none", got)
	}
}

func TestRouteNotThere(t *testing.T) {
	f := start(t, func(c *Config) { c.Routes = "example.com localhost:1" })
	f.get(t, "/").wantStatus(502).wantEnd("Route not found\n")
	f.get(t, "/events/list/").wantStatus(200) // the built-in origin comes first
	dead := start(t, func(c *Config) { c.Routes = "* 127.0.0.1:1" })
	dead.get(t, "/").wantStatus(502).wantEnd("Error while proxying to origin.\n")
}

func TestRouteOverridesEvents(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{"/events/mine/": func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "mine")
	}}, ",path_beg=/events/mine")
	f.get(t, "/events/mine/").wantStatus(200).wantEnd("mine")
	f.get(t, "/events/list/").want(":ok\n\n")
}

// A publisher in the process hears of the channels that the origin of a route below
// EVENTS_PATH holds a client on, before the client has an answer; of no others.
func TestRouteListens(t *testing.T) {
	checkGoroutines(t)
	hold := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "orders")
		io.WriteString(w, ":ok\n")
	}
	a := newAPI(t, map[string]http.HandlerFunc{"/events/mine/": hold, "/events/away/": hold, "/else/": hold, "/else/topic/": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "mine, topic")
	}})
	var f *fixture
	var asked []string
	f = start(t, func(c *Config) {
		origin := " " + a.Listener.Addr().String()
		c.Routes = "*,path_beg=/events/mine/,prefix=a-" + origin + ";*,path_beg=/events/away/,debug" + origin + ";*,debug" + origin
		c.Listen = func(_ context.Context, channel string) error {
			asked = append(asked, channel)
			if channel != "a-orders" {
				return errors.New("nothing is known of it")
			}
			f.engine.Open(channel, ids{})
			return nil
		}
		c.Owns = func(channel string) bool { return channel == "topic" }
	})
	f.get(t, "/events/mine/").wantStatus(200).want(":ok\n")
	f.listening(t, "a-orders", 1)
	if !f.engine.IsOpen("a-orders") {
		t.Error("a-orders is not open when the client has its answer")
	}
	f.get(t, "/events/away/").wantStatus(502).wantEnd("Error while proxying to origin: channel \"orders\": nothing is known of it\n")
	f.get(t, "/else/").wantStatus(200).want(":ok\n")
	f.get(t, "/else/topic/").wantStatus(502).wantEnd("Error while proxying to origin: channel \"topic\": it has the records of a topic, and clients are held on those only by a route whose path_beg is /events/ or lies below it\n")
	f.listening(t, "topic", 0)
	if want := []string{"a-orders", "orders"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
}

// A token that a browser could only send in the URL or as a subprotocol reaches
// the origin of a route below EVENTS_PATH as a header field; elsewhere it is not
// ours to touch.
func TestRouteGetsTokens(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{
		"/events/mine/": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "mine") },
		"/else/":        func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "else") },
	}, "")
	mine, b := routed(t, a.answer, ",path_beg=/events/mine")
	for _, tt := range []struct {
		f             *fixture
		a             *apiOrigin
		path          string
		header        []string
		want, wantURI string
	}{
		{mine, b, "/events/mine/?a=1&access_token=abc&b=2", nil, "Bearer abc", "/events/mine/?a=1&b=2"},
		{mine, b, "/events/mine/", []string{"Sec-WebSocket-Protocol", "grip, bearer.YWJj"}, "Bearer abc", "/events/mine/"},
		{mine, b, "/events/mine/", []string{"Authorization", "Basic x"}, "Basic x", "/events/mine/"},
		{f, a, "/else/?access_token=abc", nil, "", "/else/?access_token=abc"},
	} {
		tt.f.get(t, tt.path, tt.header...).wantStatus(200)
		got := tt.a.last()
		if got.Header.Get("Authorization") != tt.want || got.RequestURI != tt.wantURI || strings.Contains(got.Header.Get("Sec-WebSocket-Protocol"), "bearer.") {
			t.Errorf("%s %v: the origin got %s %v, want %q and %s", tt.path, tt.header, got.RequestURI, got.Header, tt.want, tt.wantURI)
		}
	}
	n := b.count()
	mine.get(t, "/events/mine/?access_token=abc", "Authorization", "Bearer other").wantStatus(400)
	if b.count() != n {
		t.Error("the origin was asked with two tokens")
	}
}

// The origin's pages, its holds with prev-id, and Grip-Last.
func TestRouteReliable(t *testing.T) {
	var a *apiOrigin
	page := func(after, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit; prev-id="+after)
			w.Header().Set("Grip-Link", "<more>; rel=next")
			io.WriteString(w, body)
		}
	}
	f, a := routed(t, map[string]http.HandlerFunc{
		"/list/": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Link", "<page>; rel=next")
			io.WriteString(w, "1")
		},
		"/list/page": page("3", "2,3"),
	}, ",prefix=shop-")
	c := f.get(t, "/list/", "Cookie", "a=b")
	c.want("12,3")
	if got := a.last().Header; got.Get("Cookie") != "" || got.Get("Grip-Last") != "" {
		t.Errorf("page was asked with %v, want nothing of the client, and no Grip-Last", got)
	}
	f.listening(t, "shop-fruit", 1)
	f.publish(t, text("shop-fruit", "4", "3", "4"))
	c.want("4")
	a.mu.Lock()
	a.answer["/list/more"] = page("7", "5,6,7")
	a.mu.Unlock()
	f.publish(t, text("shop-fruit", "7", "6", "7")) // 5 and 6 are missing
	c.want("5,6,7")
	if got := a.last().Header.Get("Grip-Last"); got != "fruit; last-id=4" {
		t.Errorf("Grip-Last: got %q, want fruit; last-id=4", got)
	}
	f.listening(t, "shop-fruit", 1)
	f.publish(t, text("shop-fruit", "8", "7", "8"))
	c.want("8")
	f.wantMetric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "behind"}, 1)
}

// While an origin takes its time for the next page, the stream is kept alive.
func TestRouteKeepAliveWhileALinkIsAsked(t *testing.T) {
	eachWay(t, func(t *testing.T, engine func(*fanout.Config)) {
		ready := make(chan struct{})
		answer := sync.OnceFunc(func() { close(ready) })
		page := func(w http.ResponseWriter, body string) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "a")
			w.Header().Set("Grip-Keep-Alive", `alive\n; format=cstring; timeout=1`)
			w.Header().Set("Grip-Link", "</next>; rel=next")
			_, _ = io.WriteString(w, body)
		}
		f, a := routed(t, map[string]http.HandlerFunc{
			"/":     func(w http.ResponseWriter, _ *http.Request) { page(w, "one\n") },
			"/next": func(w http.ResponseWriter, _ *http.Request) { <-ready; page(w, "two\n") },
		}, "", engine)
		t.Cleanup(answer)
		c := f.get(t, "/")
		c.want("one\n")
		f.listening(t, "a", 1)
		f.publish(t, grip.Item{Channel: "a", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}).wantStatus(200)
		eventually(t, "the link to be asked", func() bool { return a.count() == 2 })
		c.want("alive\nalive\n")
		answer()
		lines := bufio.NewScanner(c.body)
		for lines.Scan() && lines.Text() == "alive" { // that was on its way
		}
		if got := lines.Text(); got != "two" {
			t.Errorf("after the page: got %q, want two", got)
		}
	})
}

// A link that fails is asked again; one that goes on failing ends the response.
func TestRouteLinkRetried(t *testing.T) {
	saved := retries
	retries = []time.Duration{time.Millisecond}
	t.Cleanup(func() { retries = saved })
	var mu sync.Mutex
	failures := 1
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/": func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Grip-Link", "</next>; rel=next") },
		"/next": func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if failures--; failures >= 0 {
				http.Error(w, "not now", http.StatusServiceUnavailable)
				return
			}
			io.WriteString(w, "here")
		},
	}, "")
	f.get(t, "/").wantEnd("here")
	mu.Lock()
	failures = 2
	mu.Unlock()
	f.get(t, "/").wantEnd("")
	f.wantMetric(t, "spillway_connections_closed_total", prometheus.Labels{"reason": "origin_error"}, 1)
}

// A channel that is Kafka's takes no content from outside, but actions.
func TestPublishToOwned(t *testing.T) {
	f := start(t, func(c *Config) {
		c.CheckPublish = func(channel string) error {
			if channel == "topic" {
				return fmt.Errorf("produce to the topic %s instead", channel)
			}
			return nil
		}
	})
	f.publish(t, text("topic", "", "", "x")).wantStatus2(400, "produce to the topic topic instead")
	f.publish(t, text("free", "", "", "x"), text("list", "", "", "x")).wantStatus2(400, "belongs to a publisher in this process")
	c := f.get(t, "/events/list/")
	c.want(":ok\n\n")
	f.attached(t, 1)
	f.publish(t, grip.Item{Channel: "list", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}}).wantStatus(200)
	c.wantEnd("")
}

func (c *client) wantStatus2(status int, part string) {
	c.t.Helper()
	body, _ := io.ReadAll(c.resp.Body)
	if c.resp.StatusCode != status || !strings.Contains(string(body), part) {
		c.t.Errorf("got %d %q, want %d and %q", c.resp.StatusCode, body, status, part)
	}
}

// TLS: HTTP/2, and a certificate that is replaced while we run.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, 1)
	f := start(t, func(c *Config) { c.TLSCertFile, c.TLSKeyFile = certFile, keyFile })
	serial := func() int64 {
		conn, err := tls.Dial("tcp", f.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("serial: got %d, want 1", got)
	}
	f.url = "https://" + f.Addr().String()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 4 * patience}).Get(f.url + "/events/list/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Errorf("protocol: got %s, want HTTP/2", resp.Proto)
	}
	c := &client{t, resp, bufioReader(resp.Body)}
	c.want(":ok\n\n")
	f.attached(t, 1)
	f.list.publish(2)
	c.wantLines(1, 2)

	writeCertificate(t, certFile, keyFile, 2)
	eventually(t, "the new certificate", func() bool { return serial() == 2 })
	if err := os.WriteFile(certFile, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("serial while the file is no certificate: got %d, want the old one's 2", got)
	}
	f.list.publish(1)
	c.wantLines(3, 3)
}

// With HTTP/2 a stream that is quiet longer than the write timeout lives on.
func TestQuietHTTP2(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writeCertificate(t, certFile, keyFile, 1)
	f := start(t, func(c *Config) { c.TLSCertFile, c.TLSKeyFile, c.WriteTimeout = certFile, keyFile, 3*time.Second })
	f.list.keep = `:\n\n; format=cstring; timeout=5`
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 4 * patience}).Get("https://" + f.Addr().String() + "/events/list/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	c := &client{t, resp, bufioReader(resp.Body)}
	c.want(":ok\n\n:\n\n") // the second after 5s of quiet
}

// Proxies may speak HTTP/2 without TLS, where any are named.
func TestUnencryptedHTTP2(t *testing.T) {
	for name, proxies := range map[string][]string{"with proxies": {"127.0.0.0/8"}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(c *Config) { c.TrustedProxies = proxies })
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetUnencryptedHTTP2(true)
			defer tr.CloseIdleConnections()
			resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get(f.url + "/events/list/")
			if proxies == nil {
				if err == nil {
					resp.Body.Close()
					t.Fatalf("got %s, want no HTTP/2", resp.Proto)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.ProtoMajor != 2 {
				t.Errorf("protocol: got %s, want HTTP/2", resp.Proto)
			}
			c := &client{t, resp, bufioReader(resp.Body)}
			c.want(":ok\n\n")
			f.list.publish(2)
			c.wantLines(1, 2)
		})
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}},
		&x509.Certificate{SerialNumber: big.NewInt(serial)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "EC PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
