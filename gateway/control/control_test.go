package control

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/front"
	"spillway/grip"
	"spillway/grip/secret"
)

// memBackend keeps what it is given and has the channels it is told.
type memBackend struct {
	err      error   // what Publish answers
	receipt  Receipt // likewise
	channels []ChannelInfo
	discards bool // it keeps nothing

	mu    sync.Mutex
	items []grip.Item // guarded by mu
}

func (b *memBackend) Publish(_ context.Context, items ...grip.Item) (Receipt, error) {
	if b.err != nil {
		return Receipt{}, b.err
	}
	if b.discards {
		return b.receipt, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.items = append(b.items, items...)
	return b.receipt, nil
}

func (b *memBackend) Channels(after string, limit int) (infos []ChannelInfo, next string) {
	for _, c := range b.channels { // sorted by name
		if c.Name <= after {
			continue
		}
		if len(infos) == limit {
			return infos, infos[limit-1].Name
		}
		infos = append(infos, c)
	}
	return infos, ""
}

func (b *memBackend) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for _, it := range b.items {
		names = append(names, it.Channel)
	}
	return names
}

type recovering struct {
	*memBackend
	recovered int
}

func (b *recovering) Recover(context.Context) error { b.recovered++; return b.err }

// serve serves the API as the gateway does.
func serve(t *testing.T, cfg Config, b Backend) *httptest.Server {
	t.Helper()
	return serveBy(t, true, cfg, b)
}

// serveBy serves it with or without what answers in the place of net/http.
func serveBy(t testing.TB, fronted bool, cfg Config, b Backend) *httptest.Server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	srv := httptest.NewUnstartedServer(NewHandler(cfg, b, log))
	if fronted {
		srv.Listener = front.Listen(srv.Listener, front.Config{
			Handler: srv.Config.Handler, Quick: Quick, MaxHead: grip.MaxPublishHead, MaxBody: int(cmp.Or(cfg.MaxBody, 1_000_000)),
			FirstTimeout: time.Minute, IdleTimeout: time.Minute, Log: log,
		})
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// raw sends bytes as they are, so that a request can be what no client makes.
// Its host is 127.0.0.1 unless it names one.
func raw(t *testing.T, srv *httptest.Server, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	head, body, _ := strings.Cut(request, "\n\n")
	if !strings.Contains(head, "\nHost:") && !strings.HasSuffix(strings.SplitN(head, "\n", 2)[0], "/1.0") {
		head += "\nHost: 127.0.0.1"
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// sameByNetHTTP compares an answer with that of net/http alone.
func sameByNetHTTP(t *testing.T, cfg Config, request string) {
	t.Helper()
	var answers [2]string
	for i := range answers {
		b := &recovering{memBackend: &memBackend{receipt: Receipt{Receivers: 2, Dropped: 1}}}
		dump, err := httputil.DumpResponse(raw(t, serveBy(t, i == 0, cfg, b), request), true)
		if err != nil {
			t.Fatal(err)
		}
		answers[i] = date.ReplaceAllString(string(dump), "")
	}
	if answers[0] != answers[1] {
		t.Errorf("got %q, want that of net/http: %q", answers[0], answers[1])
	}
}

var date = regexp.MustCompile(`(?m)^Date: .*\r\n`)

const unnamed = `{"items":[{"formats":{"http-stream":{"content":"x"}}}]}`

const item = `{"items":[{"channel":"a","formats":{"http-stream":{"content":"x"}}}]}`

func post(path, extra, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1%s\nContent-Length: %d\n\n%s", path, extra, len(body), body)
}

// The answers of Pushpin 1.36, observed on the wire.
func TestAnswersOfPushpin(t *testing.T) {
	const notAcceptable = "Not Acceptable. Supported formats are text/plain and application/json.\n"
	for _, tt := range []struct {
		name, request string
		code          int
		contentType   string
		body          string
	}{
		{"root", "GET / HTTP/1.1\n\n", 200, "text/plain", "Pushpin API\n"},
		{"root by another method", "PUT / HTTP/1.1\nContent-Length: 0\n\n", 200, "text/plain", "Pushpin API\n"},
		{"root has no JSON", "GET / HTTP/1.1\nAccept: application/json\n\n", 200, "text/plain", "Pushpin API\n"},
		{"root, nothing acceptable", "GET / HTTP/1.1\nAccept: image/png\n\n", 406, "text/plain", notAcceptable},
		{"root with a query", "GET /?x HTTP/1.1\n\n", 404, "text/plain", "Not Found\n"},
		{"length comes before all", "POST / HTTP/1.1\n\n", 411, "text/plain", "Request requires Content-Length.\n"},
		{"length, other path", "POST /nope HTTP/1.1\n\n", 411, "text/plain", "Request requires Content-Length.\n"},
		{"length, other method", "PUT /publish/ HTTP/1.1\n\n", 411, "text/plain", "Request requires Content-Length.\n"},
		{"other path", post("/nope", "", ""), 404, "text/plain", "Not Found\n"},
		{"404 has no JSON", "GET /nope HTTP/1.1\nAccept: application/json\n\n", 404, "text/plain", "Not Found\n"},
		{"publish with a query", post("/publish/?x", "", item), 404, "text/plain", "Not Found\n"},
		{"GET of publish", "GET /publish/ HTTP/1.1\n\n", 405, "text/plain", "Method not allowed: GET.\n"},
		{"DELETE of publish", "DELETE /publish HTTP/1.1\n\n", 405, "text/plain", "Method not allowed: DELETE.\n"},
		{"GET of recover", "GET /recover HTTP/1.1\n\n", 405, "text/plain", "Method not allowed: GET.\n"},
		{"Accept comes before the method", "GET /publish/ HTTP/1.1\nAccept: image/png\n\n", 406, "text/plain", notAcceptable},
		{"Accept comes before the body", post("/publish/", "\nAccept: image/png", "{}"), 406, "text/plain", notAcceptable},

		{"publish", post("/publish/", "", item), 200, "text/plain", "Published\n"},
		{"publish without slash", post("/publish", "", item), 200, "text/plain", "Published\n"},
		{"Content-Type is ignored", post("/publish/", "\nContent-Type: image/png", item), 200, "text/plain", "Published\n"},
		{"text/plain", post("/publish/", "\nAccept: text/plain", item), 200, "text/plain", "Published\n"},
		{"text/*", post("/publish/", "\nAccept: text/*, image/png", item), 200, "text/plain", "Published\n"},
		{"*", post("/publish/", "\nAccept: *", item), 200, "text/plain", "Published\n"},
		{"*/*", post("/publish/", "\nAccept: */*", item), 200, "text/plain", "Published\n"},
		{"JSON", post("/publish/", "\nAccept: application/json", item), 200, "application/json", "{\"message\":\"Published\"}\n"},
		{"application/*", post("/publish/", "\nAccept: application/*", item), 200, "application/json", "{\"message\":\"Published\"}\n"},
		{"the last one wins", post("/publish/", "\nAccept: application/json, text/plain", item), 200, "text/plain", "Published\n"},
		{"whatever its q", post("/publish/", "\nAccept: text/plain,application/json;q=0.1", item), 200, "application/json", "{\"message\":\"Published\"}\n"},
		{"of two fields as well", post("/publish/", "\nAccept: text/plain\nAccept: application/json", item), 200, "application/json", "{\"message\":\"Published\"}\n"},
		{"not understood is no loss", post("/publish/", "\nAccept: image/png, text/*", item), 200, "text/plain", "Published\n"},
		{"text/html", post("/publish/", "\nAccept: text/html", item), 406, "text/plain", notAcceptable},
		{"empty Accept", post("/publish/", "\nAccept: ", item), 406, "text/plain", notAcceptable},
		{"comma as Accept", post("/publish/", "\nAccept: ,", item), 406, "text/plain", notAcceptable},

		{"too large", "POST /publish/ HTTP/1.1\nContent-Length: 1000001\n\n", 400, "text/plain", "Request body too large.\n"},
		{"not JSON", post("/publish/", "", "{"), 400, "text/plain", "Body is not valid JSON.\n"},
		{"no body", post("/publish/", "", ""), 400, "text/plain", "Body is not valid JSON.\n"},
		{"no items", post("/publish/", "", "{}"), 400, "text/plain", "Invalid format: object does not contain 'items'\n"},
		{"errors have no JSON", post("/publish/", "\nAccept: application/json", "{}"), 400, "text/plain", "Invalid format: object does not contain 'items'\n"},
		{"one bad item", post("/publish/", "", `{"items":[{"channel":"b","formats":{"http-stream":{"content":"x"}}},{}]}`),
			400, "text/plain", "Invalid format: publish item object does not contain 'channel'\n"},

		{"recover", post("/recover/", "", ""), 200, "text/plain", "Updated\n"},
		{"recover without slash, JSON", post("/recover", "\nAccept: application/json", ""), 200, "application/json", "{\"message\":\"Updated\"}\n"},
		{"recover, nothing acceptable", post("/recover/", "\nAccept: image/png", ""), 406, "text/plain", notAcceptable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &recovering{memBackend: &memBackend{}}
			resp := raw(t, serve(t, Config{}, b), tt.request)
			if got := resp.StatusCode; got != tt.code {
				t.Errorf("got status %d, want %d", got, tt.code)
			}
			if got := resp.Header.Get("Content-Type"); got != tt.contentType {
				t.Errorf("got Content-Type %q, want %q", got, tt.contentType)
			}
			sameByNetHTTP(t, Config{}, tt.request)
			if got := read(t, resp); got != tt.body {
				t.Errorf("got body %q, want %q", got, tt.body)
			}
			if got, want := resp.ContentLength, int64(len(tt.body)); got != want {
				t.Errorf("got Content-Length %d, want %d", got, want)
			}
			allow := ""
			if tt.code == 405 {
				allow = "POST"
			}
			if got := resp.Header.Get("Allow"); got != allow {
				t.Errorf("got Allow %q, want %q", got, allow)
			}
			wantItems := strings.Contains(tt.body, "Published")
			if got := b.names(); (len(got) > 0) != wantItems {
				t.Errorf("got items for %v, want some: %v", got, wantItems)
			}
			if want := strings.Contains(tt.body, "Updated"); (b.recovered > 0) != want {
				t.Errorf("got %d recoveries, want some: %v", b.recovered, want)
			}
		})
	}
}

// What Pushpin refuses and this API takes.
func TestAnswersBeyondPushpin(t *testing.T) {
	for _, tt := range []struct{ name, request, body string }{
		{"chunked body", "POST /publish/ HTTP/1.1\nTransfer-Encoding: chunked\n\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(item), item), "Published\n"},
		{"realm of a hosted service", post("/realm/me/publish/", "", item), "Published\n"},
		{"service of a hosted service", post("/service/1/publish", "", item), "Published\n"},
		{"realm behind a path", post("/grip/realm/me/publish/", "", item), "Published\n"},
		{"channel in the path", post("/realm/me/publish/a/", "", unnamed), "Published\n"},
		{"channel in the path, escaped, without slash", post("/service/1/publish/%61", "", unnamed), "Published\n"},
		{"channel in the path and in the item", post("/realm/me/publish/a/", "", item), "Published\n"},
		{"gzip", post("/publish/", "\nContent-Encoding: gzip", zipped(item)), "Published\n"},
		{"gzip by its old name", post("/publish/", "\nContent-Encoding: X-GZIP", zipped(item)), "Published\n"},
		{"identity", post("/publish/", "\nContent-Encoding: identity", item), "Published\n"},
		{"Accept in capitals", post("/publish/", "\nAccept: TEXT/PLAIN", item), "Published\n"},
		{"Expect", post("/publish/", "\nExpect: 100-continue", item), "Published\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &memBackend{}
			srv := serve(t, Config{}, b)
			resp := raw(t, srv, tt.request)
			if tt.name == "Expect" && resp.StatusCode != http.StatusContinue {
				t.Fatalf("got %s, want 100 first", resp.Status)
			} else if tt.name == "Expect" {
				return // what follows is the same response as ever
			}
			if got := read(t, resp); resp.StatusCode != 200 || got != tt.body {
				t.Errorf("got %s %q, want 200 %q", resp.Status, got, tt.body)
			}
			if got, want := b.names(), []string{"a"}; !slices.Equal(got, want) {
				t.Errorf("got items for %v, want %v", got, want)
			}
		})
	}
}

func zipped(s string) string {
	var b strings.Builder
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

func TestAnswersToBodies(t *testing.T) {
	const bad = "Content-Encoding not supported; use gzip, or leave it out.\n"
	bomb := zipped(strings.Repeat(" ", 10_000_000) + item)
	for _, tt := range []struct {
		name, request string
		code          int
		body          string
	}{
		{"not gzip", post("/publish/", "\nContent-Encoding: gzip", item), 400, "Request body is not gzip.\n"},
		{"gzip that is cut off", post("/publish/", "\nContent-Encoding: gzip", zipped(item)[:30]), 400, "Request body is not gzip.\n"},
		{"small, but large inside", post("/publish/", "\nContent-Encoding: gzip", bomb), 400, "Request body too large.\n"},
		{"another coding", post("/publish/", "\nContent-Encoding: br", item), 415, bad},
		{"two codings", post("/publish/", "\nContent-Encoding: gzip, gzip", zipped(zipped(item))), 415, bad},
		{"another channel than the path's", post("/realm/me/publish/b/", "", item), 400, "Invalid format: publish item object contains 'channel' that is not the one of the request\n"},
		{"no channel anywhere", post("/realm/me/publish/", "", unnamed), 400, "Invalid format: publish item object does not contain 'channel'\n"},
		{"a channel in the path without a realm", post("/publish/a/", "", unnamed), 404, "Not Found\n"},
		{"no channel where it should be", post("/realm/me/publish//", "", unnamed), 404, "Not Found\n"},
		{"all or nothing", post("/publish/", "", item[:len(item)-2]+`,{"channel":"b","formats":{"ws-message":{}}}]}`), 400,
			"Invalid format: 'ws-message' does not contain 'content' or 'content-bin'\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &memBackend{}
			resp := raw(t, serve(t, Config{}, b), tt.request)
			if got := read(t, resp); resp.StatusCode != tt.code || got != tt.body {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, got, tt.code, tt.body)
			}
			if got, want := resp.Header.Get("Accept-Encoding") != "", tt.code == 415; got != want {
				t.Errorf("got Accept-Encoding %v, want %v", got, want)
			}
			if got := b.names(); len(got) > 0 {
				t.Errorf("got items for %v, want none", got)
			}
		})
	}
}

// The body of the answer is Pushpin's; what came of the items is beside it.
func TestReceipt(t *testing.T) {
	srv := serve(t, Config{}, &memBackend{receipt: Receipt{Receivers: 12, Dropped: 3}})
	resp := raw(t, srv, post("/publish/", "", item))
	if got, want := read(t, resp), "Published\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for name, want := range map[string]string{"Spillway-Receivers": "12", "Spillway-Dropped": "3"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestChunkedBodyTooLarge(t *testing.T) {
	srv := serve(t, Config{MaxBody: 10}, &memBackend{})
	resp := raw(t, srv, "POST /publish/ HTTP/1.1\nTransfer-Encoding: chunked\n\nb\r\n01234567890\r\n0\r\n\r\n")
	if got, want := read(t, resp), "Request body too large.\n"; resp.StatusCode != 400 || got != want {
		t.Errorf("got %s %q, want 400 %q", resp.Status, got, want)
	}
}

func TestConnectionStaysOpen(t *testing.T) {
	srv := serve(t, Config{}, &memBackend{})
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(conn)
	for i := range 3 {
		_, _ = fmt.Fprintf(conn, "POST /publish/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(item), item)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if got := read(t, resp); got != "Published\n" {
			t.Errorf("request %d: got %q, want Published", i, got)
		}
	}
}

func TestPublisherOfGripReachesIt(t *testing.T) {
	key, err := grip.ParseKey("secret")
	if err != nil {
		t.Fatal(err)
	}
	b := &memBackend{}
	srv := serve(t, Config{Keys: secret.Fixed(grip.Keys{key})}, b)
	proxies, err := grip.ParseURLs(srv.URL + "/realm/me?iss=me&key=secret " + srv.URL + "?key=secret")
	if err != nil {
		t.Fatal(err)
	}
	it := grip.Item{Channel: "fruit", HTTPStream: &grip.HTTPStream{Content: []byte("apple\n")}}
	if err := grip.NewHTTPPublisher(proxies, srv.Client()).Publish(t.Context(), it); err != nil {
		t.Fatal(err)
	}
	if got, want := b.names(), []string{"fruit", "fruit"}; !slices.Equal(got, want) {
		t.Errorf("got items for %v, want %v", got, want)
	}
}

func TestPublishErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		code int
		body string
	}{
		{"refused", &Refused{Text: "Invalid format: channel is reserved"}, 400, "Invalid format: channel is reserved\n"},
		{"refused, wrapped", fmt.Errorf("hub: %w", &Refused{Text: "No."}), 400, "No.\n"},
		{"ours", errors.New("disk on fire"), 503, "Not done; try again.\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := raw(t, serve(t, Config{}, &memBackend{err: tt.err}), post("/publish/", "", item))
			if got := read(t, resp); resp.StatusCode != tt.code || got != tt.body {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, got, tt.code, tt.body)
			}
		})
	}
}

func TestRecoverNotSupported(t *testing.T) {
	resp := raw(t, serve(t, Config{}, &memBackend{}), post("/recover/", "", ""))
	if got, want := read(t, resp), "Recover is not supported.\n"; resp.StatusCode != 501 || got != want {
		t.Errorf("got %d %q, want 501 %q", resp.StatusCode, got, want)
	}
}

// everyRequest is one of each that the API answers, with more headers, and some
// that it does not.
func everyRequest(extra string) []string {
	requests := []string{
		post("/publish/", extra, item), post("/publish", extra, item), post("/publish/", extra, "not JSON"), post("/recover/", extra, ""),
		post("/publish/", extra+"\nContent-Type: text/plain", item), // what a page may send without asking first
	}
	for _, line := range []string{
		"GET /", "GET /channels", "GET /channels/?limit=1", "GET /connections", "PURGE /https://example.com/page", "GET /publish/", "OPTIONS /publish/", "GET /nothing", "HEAD /channels",
	} {
		requests = append(requests, line+" HTTP/1.1"+extra+"\nContent-Length: 0\n\n")
	}
	return requests
}

func TestHostAndOrigin(t *testing.T) {
	for _, tt := range []struct {
		name, host, origin string
		code               int
	}{
		{"IPv4", "127.0.0.1:5561", "", 200},
		{"IPv6", "[::1]:5561", "", 200},
		{"IPv6 without port", "[::1]", "", 200},
		{"address of another interface", "10.1.2.3", "", 200},
		{"localhost", "LocalHost:5561", "", 200},
		{"configured", "spillway-control.prod.svc:5561", "", 200},
		{"configured in another spelling", "Spillway.internal.", "", 200},
		{"a page's own name, made to resolve to us", "evil.example:5561", "", 403},
		{"only begins like localhost", "localhost.evil.example", "", 403},
		{"only begins like an address", "127.0.0.1.evil.example", "", 403},
		{"own page", "127.0.0.1:5561", "http://127.0.0.1:5561", 200},
		{"own page behind TLS", "spillway.internal", "https://Spillway.internal", 200},
		{"another page", "127.0.0.1:5561", "https://evil.example", 403},
		{"another port of this host", "localhost:5561", "http://localhost:3000", 403},
		{"sandboxed page", "localhost:5561", "null", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, Config{Hosts: []string{" spillway-control.prod.svc", "SPILLWAY.internal:5561", ""}}, &memBackend{})
			extra := "\nHost: " + tt.host
			if tt.origin != "" {
				extra += "\nOrigin: " + tt.origin
			}
			for _, request := range everyRequest(extra) {
				got := raw(t, srv, request).StatusCode
				if refused := got == http.StatusForbidden; refused != (tt.code == http.StatusForbidden) {
					t.Errorf("%q: got %d, want %d", request, got, tt.code)
				}
				sameByNetHTTP(t, Config{Hosts: []string{"spillway.internal"}}, request)
			}
		})
	}
	t.Run("HTTP/1.0 without Host", func(t *testing.T) {
		if got := raw(t, serve(t, Config{}, &memBackend{}), "GET / HTTP/1.0\n\n").StatusCode; got != 200 {
			t.Errorf("got %d, want 200", got)
		}
	})
}

func TestKey(t *testing.T) {
	key, err := grip.ParseKey("secret")
	if err != nil {
		t.Fatal(err)
	}
	other, err := grip.ParseKey("other")
	if err != nil {
		t.Fatal(err)
	}
	old, err := grip.ParseKey("old")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(k grip.Key, at time.Time) string {
		token, err := k.Sign("me", at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	now := time.Now()
	for _, tt := range []struct {
		name, authorization string
		code                int
	}{
		{"none", "", 401},
		{"key", "Bearer secret", 200},
		{"scheme in another case", "bearer secret", 200},
		{"wrong key", "Bearer secret2", 401},
		{"empty", "Bearer ", 401},
		{"other scheme", "Basic secret", 401},
		{"password", "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret")), 200},
		{"wrong password", "Basic " + base64.StdEncoding.EncodeToString([]byte("secret:me")), 401},
		{"as Fastly's clients show it", "\nFastly-Key: secret", 200},
		{"wrong, as Fastly's clients show it", "\nFastly-Key: secret2", 401},
		{"token", "Bearer " + sign(key, now), 200},
		{"token of another key", "Bearer " + sign(other, now), 401},
		{"expired token", "Bearer " + sign(key, now.Add(-2*time.Hour)), 401},
		{"token by the old key", "Bearer " + sign(old, now), 200},
		{"the old key", "Bearer old", 200},
		{"both keys at once", "Bearer secret,old", 401},
		{"token for later", "Bearer " + forge("HS256", "secret", map[string]any{"exp": now.Unix() + 60, "nbf": now.Unix() + 30}), 401},
		{"token for ever", "Bearer " + forge("HS256", "secret", map[string]any{"iss": "me"}), 401},
		{"token with a header of its own", "Bearer " + forge("HS256", "secret", map[string]any{"exp": now.Unix() + 60}, "kid", "../../dev/null"), 200},
		{"token by the empty key", "Bearer " + forge("HS256", "", map[string]any{"exp": now.Unix() + 60}), 401},
		{"token of no algorithm", "Bearer " + forge("none", "", map[string]any{"exp": now.Unix() + 60}), 401},
		{"token that says none", "Bearer " + forge("none", "secret", map[string]any{"exp": now.Unix() + 60}), 401},
		{"token of another algorithm", "Bearer " + forge("HS512", "secret", map[string]any{"exp": now.Unix() + 60}), 401},
		{"token that says RS256", "Bearer " + forge("RS256", "secret", map[string]any{"exp": now.Unix() + 60}), 401},
		{"two fields of which the second is right", "Bearer no\nAuthorization: Bearer secret", 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, Config{Keys: secret.Fixed(grip.Keys{key, old})}, &memBackend{})
			extra := ""
			if strings.HasPrefix(tt.authorization, "\n") {
				extra = tt.authorization
			} else if tt.authorization != "" {
				extra = "\nAuthorization: " + tt.authorization
			}
			for _, request := range everyRequest(extra) {
				resp := raw(t, srv, request)
				if refused := resp.StatusCode == http.StatusUnauthorized; refused != (tt.code == http.StatusUnauthorized) {
					t.Errorf("%q: got %d, want %d", request, resp.StatusCode, tt.code)
				}
				if got, want := resp.Header.Get("WWW-Authenticate") != "", tt.code == 401; got != want {
					t.Errorf("%q: got WWW-Authenticate: %v, want %v", request, got, want)
				}
			}
		})
	}
}

// A realm's key opens the realm's paths, and nothing else.
// forge makes a token that says an algorithm, with further header members, and is
// signed by HMAC with SHA-256, or not at all without a key.
func forge(alg, key string, claims map[string]any, header ...string) string {
	head := map[string]any{"alg": alg, "typ": "JWT"}
	for i := 0; i < len(header); i += 2 {
		head[header[i]] = header[i+1]
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(head) + "." + part(claims)
	if alg == "none" && key == "" {
		return text + "."
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// A public key verifies what its private half has signed, and is no secret:
// neither shown nor used as one.
func TestPublicKey(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pemOf := func(typ string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	publicPEM := pemOf("PUBLIC KEY", public, err)
	secretPEM, err := x509.MarshalPKCS8PrivateKey(private)
	signer, err := grip.ParseKey(pemOf("PRIVATE KEY", secretPEM, err))
	if err != nil {
		t.Fatal(err)
	}
	good, err := signer.Sign("me", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := grip.ParseKeys(publicPEM + ",a static bearer")
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, Config{Keys: secret.Fixed(keys)}, &memBackend{})
	claims := map[string]any{"iss": "me", "exp": time.Now().Unix() + 60}
	for _, tt := range []struct {
		name, bearer string
		code         int
	}{
		{"token by the private key", good, 200},
		{"the static bearer beside it", "a static bearer", 200},
		{"token by the static bearer", forge("HS256", "a static bearer", claims), 200},
		{"the public key as a secret", forge("HS256", publicPEM, claims), 401},
		{"its bytes as a secret", forge("HS256", string(public), claims), 401},
		{"the same, without the last line end", forge("HS256", strings.TrimSpace(publicPEM), claims), 401},
		{"the public key as the bearer", strings.ReplaceAll(strings.TrimSpace(publicPEM), "\n", ""), 401},
		{"signed as something else", forge("RS256", "a static bearer", claims), 401},
		{"none", forge("none", "", claims), 401},
	} {
		if got := raw(t, srv, post("/publish/", "\nAuthorization: Bearer "+tt.bearer, item)).StatusCode; got != tt.code {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.code)
		}
	}
}

func TestRealms(t *testing.T) {
	key := func(s string) grip.Key {
		k, err := grip.ParseKey(s)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(k grip.Key, iss string) string {
		token, err := k.Sign(iss, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	mine, other, main := key("mine"), key("other"), key("main")
	keys := grip.Keys{main}
	realms := map[string]grip.Key{"me": mine, "them": other}
	for _, tt := range []struct {
		name         string
		main         grip.Keys
		path, bearer string
		code         int
	}{
		{"token of the realm", keys, "/realm/me/publish/", sign(mine, "me"), 200},
		{"token of the service", keys, "/service/me/publish/", sign(mine, "fastly:me"), 200},
		{"key itself", keys, "/service/me/publish/", "mine", 200},
		{"channel in the path", keys, "/realm/me/publish/a/", "mine", 200},
		{"behind a path", keys, "/grip/realm/me/publish/", "mine", 200},
		{"token that names another", keys, "/realm/me/publish/", sign(mine, "them"), 401},
		{"key of another", keys, "/realm/me/publish/", "other", 401},
		{"realm that nobody knows", keys, "/realm/nobody/publish/", "mine", 401},
		{"no realm", keys, "/publish/", "mine", 401},
		{"not to publish", keys, "/realm/me/channels", "mine", 401},
		{"main key opens all", keys, "/realm/me/publish/", "main", 200},
		{"main key of any issuer", keys, "/realm/me/publish/", sign(main, "x"), 200},
		{"main key", keys, "/publish/", "main", 200},
		{"without a main key", nil, "/realm/me/publish/", "mine", 200},
		{"without a main key, no realm", nil, "/publish/", "mine", 401},
		{"without a main key and any other", nil, "/publish/", "", 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, Config{Keys: secret.Fixed(tt.main), Realms: secret.Fixed(realms)}, &memBackend{})
			if got := raw(t, srv, post(tt.path, "\nAuthorization: Bearer "+tt.bearer, item)).StatusCode; got != tt.code {
				t.Errorf("got %d, want %d", got, tt.code)
			}
		})
	}
	srv := serve(t, Config{Keys: secret.Fixed(keys), Realms: secret.Fixed(realms)}, &memBackend{})
	if got := raw(t, srv, "PURGE /http://example.com/realm/me/publish/ HTTP/1.1\nAuthorization: Bearer mine\n\n").StatusCode; got != 401 {
		t.Errorf("purge of a URL that ends like a realm's: got %d, want 401", got)
	}
}

func TestChannels(t *testing.T) {
	b := &memBackend{channels: []ChannelInfo{{"a", 1}, {"b <&>", 2}, {"c", 3}}}
	for _, tt := range []struct {
		name, target string
		code         int
		body         string
	}{
		{"all", "/channels", 200, `{"channels":[{"name":"a","subscribers":1},{"name":"b <&>","subscribers":2},{"name":"c","subscribers":3}],"next":null}` + "\n"},
		{"with slash", "/channels/?limit=1", 200, `{"channels":[{"name":"a","subscribers":1}],"next":"a"}` + "\n"},
		{"next page", "/channels?limit=1&after=a", 200, `{"channels":[{"name":"b <&>","subscribers":2}],"next":"b <&>"}` + "\n"},
		{"last page", "/channels?limit=1&after=b%20%3C%26%3E", 200, `{"channels":[{"name":"c","subscribers":3}],"next":null}` + "\n"},
		{"after the last", "/channels?after=c", 200, `{"channels":[],"next":null}` + "\n"},
		{"limit too small", "/channels?limit=0", 400, "Invalid limit: must be a number from 1 to 1000.\n"},
		{"limit too large", "/channels?limit=1001", 400, "Invalid limit: must be a number from 1 to 1000.\n"},
		{"limit no number", "/channels?limit=x", 400, "Invalid limit: must be a number from 1 to 1000.\n"},
		{"broken query", "/channels?after=%zz", 400, "Invalid query.\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := raw(t, serve(t, Config{}, b), "GET "+tt.target+" HTTP/1.1\n\n")
			if got := read(t, resp); resp.StatusCode != tt.code || got != tt.body {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, got, tt.code, tt.body)
			}
		})
	}
	resp := raw(t, serve(t, Config{}, b), post("/channels", "", ""))
	if got := resp.Header.Get("Allow"); resp.StatusCode != 405 || got != "GET, HEAD" {
		t.Errorf("POST: got %d, Allow %q, want 405, GET, HEAD", resp.StatusCode, got)
	}
}

func TestChannelsPageByPage(t *testing.T) {
	b := &memBackend{}
	for i := range 257 {
		b.channels = append(b.channels, ChannelInfo{fmt.Sprintf("c%03d", i), i})
	}
	srv := serve(t, Config{}, b)
	var got []ChannelInfo
	for after, pages := "", 0; ; pages++ {
		if pages > 10 {
			t.Fatal("got no last page in 10")
		}
		resp, err := srv.Client().Get(srv.URL + "/channels?after=" + url.QueryEscape(after))
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			Channels []ChannelInfo
			Next     *string
		}
		if err := json.Unmarshal([]byte(read(t, resp)), &page); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		got = append(got, page.Channels...)
		if page.Next == nil {
			break
		}
		after = *page.Next
	}
	if !slices.Equal(got, b.channels) {
		t.Errorf("got %d channels, want %d, each once and in order", len(got), len(b.channels))
	}
}

// lister is a memBackend that knows its connections.
type lister struct{ memBackend }

func (*lister) Connections(_ context.Context, after string, limit int) (infos []ConnectionInfo, next string, err error) {
	switch after {
	case "":
		return []ConnectionInfo{{ID: "7", Address: "192.0.2.1", Route: "*", Transport: "stream", Channels: []string{"<a>"},
			Since: time.Unix(0, 0).UTC(), Bytes: uint64(limit)}}, "7", nil
	case "7":
		return nil, "", nil
	case "away":
		return nil, "", errors.New("away")
	}
	return nil, "", &Refused{Text: "Invalid after."}
}

func TestConnections(t *testing.T) {
	for _, tt := range []struct {
		name, target, header string
		backend              Backend
		code                 int
		body                 string
	}{
		{"a page", "/connections?limit=2", "", &lister{}, 200, `{"connections":[{"id":"7","address":"192.0.2.1","route":"*","transport":"stream","channels":["<a>"],"since":"1970-01-01T00:00:00Z","bytes":2}],"next":"7"}` + "\n"},
		{"the last", "/connections/?after=7", "", &lister{}, 200, `{"connections":[],"next":null}` + "\n"},
		{"no such place", "/connections?after=x", "", &lister{}, 400, "Invalid after.\n"},
		{"limit", "/connections?limit=1001", "", &lister{}, 400, "Invalid limit: must be a number from 1 to 1000.\n"},
		{"it cannot", "/connections?after=away", "", &lister{}, 503, "Not done; try again.\n"},
		{"not known", "/connections", "", &memBackend{}, 501, "Connections are not listed.\n"},
		{"of somebody else's page", "/connections", "Host: evil.example\n", &lister{}, 403, "Host not allowed; add it to CONTROL_HOSTS.\n"},
		{"from another site", "/connections", "Host: localhost\nOrigin: http://evil.example\n", &lister{}, 403, "Origin not allowed.\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := raw(t, serve(t, Config{}, tt.backend), "GET "+tt.target+" HTTP/1.1\n"+tt.header+"\n")
			if got := read(t, resp); resp.StatusCode != tt.code || got != tt.body {
				t.Errorf("got %d %s, want %d %s", resp.StatusCode, got, tt.code, tt.body)
			}
		})
	}
	key, err := grip.ParseKey("of the operator")
	if err != nil {
		t.Fatal(err)
	}
	resp := raw(t, serve(t, Config{Keys: secret.Fixed(grip.Keys{key})}, &lister{}), "GET /connections HTTP/1.1\n\n")
	if got := read(t, resp); resp.StatusCode != 401 || strings.Contains(got, "connections") {
		t.Errorf("without the key: got %d %s, want 401", resp.StatusCode, got)
	}
}

func TestCheckAddr(t *testing.T) {
	for _, tt := range []struct {
		addr     string
		keyed    bool
		insecure bool
		ok       bool
	}{
		{"127.0.0.1:5561", false, false, true},
		{"127.1.2.3:5561", false, false, true},
		{"[::1]:5561", false, false, true},
		{"localhost:5561", false, false, true},
		{":5561", false, false, false},
		{"0.0.0.0:5561", false, false, false},
		{"[::]:5561", false, false, false},
		{"10.0.0.1:5561", false, false, false},
		{"control.example:5561", false, false, false},
		{":5561", true, false, true},
		{":5561", false, true, true},
		{"5561", true, true, false},
	} {
		if err := CheckAddr(tt.addr, tt.keyed, tt.insecure); (err == nil) != tt.ok {
			t.Errorf("%s, key %v, insecure %v: got %v, want fine: %v", tt.addr, tt.keyed, tt.insecure, err, tt.ok)
		}
	}
}

func TestMetrics(t *testing.T) {
	key, err := grip.ParseKey("secret")
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	srv := serve(t, Config{Keys: secret.Fixed(grip.Keys{key}), Metrics: reg}, &memBackend{})
	two := strings.Replace(item, "[", "["+item[len(`{"items":[`):len(item)-2]+",", 1)
	for _, request := range []string{
		post("/publish/", "\nAuthorization: Bearer secret", two),
		post("/publish/", "\nAuthorization: Bearer secret", "{"),
		post("/publish/", "", item),
		post("/publish/", "\nHost: evil.example", item),
	} {
		raw(t, srv, request)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{
		"spillway_control_items_total":                 2,
		"spillway_control_requests_total failed":       0,
		"spillway_control_requests_total forbidden":    1,
		"spillway_control_requests_total published":    1,
		"spillway_control_requests_total refused":      1,
		"spillway_control_requests_total unauthorized": 1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFailuresAreLoggedSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		h := NewHandler(Config{}, &memBackend{err: errors.New("disk on fire")}, slog.New(slog.NewTextHandler(&out, nil)))
		fail := func() {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "http://localhost/publish/", strings.NewReader(item)))
		}
		for range 100 {
			fail()
		}
		time.Sleep(logInterval)
		fail()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "disk on fire") || !strings.Contains(lines[1], "swallowed=99") {
			t.Errorf("got %q, want one line, then one with swallowed=99", lines)
		}
	})
}
