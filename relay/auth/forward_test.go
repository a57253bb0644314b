package auth

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// An apiServer is an API that says who may read.
type apiServer struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []*http.Request
}

// newAPIServer answers 200 until it is told otherwise.
func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
	}
}

// says changes the answer: a status, and header fields, name and value in turns.
func (s *apiServer) says(status int, body string, fields ...string) {
	s.does(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

func (s *apiServer) does(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *apiServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *apiServer) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

// asking is an Authenticator that asks an API.
func asking(t *testing.T, change func(*Config)) (*fixture, *apiServer) {
	t.Helper()
	api := newAPIServer(t)
	return authenticator(t, func(c *Config) {
		c.URL = api.URL + "/auth?from=events"
		if change != nil {
			change(c)
		}
	}), api
}

const events = "http://events.example/events/orders/?limit=1"

// The API is shown what it would see of a request by nginx' auth_request,
// Traefik's ForwardAuth and Caddy's forward_auth, and nothing that the client
// could have made up.
func TestWhatAPIsAreShown(t *testing.T) {
	f, api := asking(t, func(c *Config) {
		c.ForwardHeaders, c.Cookie, c.CacheTTL = []string{"x-tenant", "Accept-Language"}, "session", 0
	})
	for _, tt := range []struct {
		name string
		r    *http.Request
		want http.Header // beside those below
	}{
		{"nothing", with(events), nil},
		{"a token", with(events, "Authorization", "Bearer abc"), http.Header{"Authorization": {"Bearer abc"}}},
		{"another scheme", with(events, "Authorization", "Basic eDp5"), http.Header{"Authorization": {"Basic eDp5"}}},
		{"cookies", with(events, "Cookie", "a=b; session=abc", "Cookie", "c=d"), http.Header{"Cookie": {"a=b; session=abc; c=d"}}},
		{"a token in the query", with(events + "&access_token=abc"), http.Header{"Authorization": {"Bearer abc"}}},
		{"a token as subprotocol", with(events, "Sec-WebSocket-Protocol", "spillway.v1.json, bearer.YWJj", "Upgrade", "websocket", "Connection", "Upgrade"), http.Header{"Authorization": {"Bearer abc"}}},
		{"what the client made up", with(events, "X-Forwarded-For", "10.0.0.1", "X-Forwarded-Host", "evil", "X-Forwarded-Uri", "/public/", "X-Forwarded-Method", "OPTIONS",
			"X-Forwarded-Proto", "https", "X-Forwarded-User", "root", "X-Forwarded-Prefix", "/x", "Forwarded", "for=1", "X-Real-Ip", "1", "X-Original-Url", "/", "X-Spillway-Topics", ".*"), nil},
		{"further fields", with(events, "X-Tenant", "acme", "X-Tenant", "b", "Accept-Language", "de", "X-Other", "x", "Content-Length", "5"), http.Header{"X-Tenant": {"acme", "b"}, "Accept-Language": {"de"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.wantOK(t, tt.r)
			got := api.last()
			want := http.Header{
				"User-Agent": {"spillway"}, "X-Forwarded-Method": {"GET"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"events.example"},
				"X-Forwarded-Uri": {"/events/orders/?limit=1"}, "X-Forwarded-For": {"192.0.2.1"},
			}
			maps.Copy(want, tt.want)
			if !reflect.DeepEqual(got.Header, want) {
				t.Errorf("got %v, want %v", got.Header, want)
			}
			if got.Method != "GET" || got.RequestURI != "/auth?from=events" || got.ContentLength != 0 {
				t.Errorf("got %s %s with %d bytes, want GET /auth?from=events", got.Method, got.RequestURI, got.ContentLength)
			}
		})
	}
	if got := f.metric(t, "spillway_auth_answers_total", "allowed"); got != float64(api.count()) {
		t.Errorf("%v answers were counted, want %d", got, api.count())
	}
}

// Where a request came from is the wiring's to say.
func TestClientOfWiring(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.Client = func(*http.Request) (ip, proto string) { return "2001:db8::1", "https" } })
	f.wantOK(t, with(events))
	if h := api.last().Header; h.Get("X-Forwarded-For") != "2001:db8::1" || h.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("got %v", h)
	}
	f, api = asking(t, nil)
	r := httptest.NewRequest("GET", "https://events.example/events/x/", nil)
	r.RemoteAddr = "[::1]:5"
	f.wantOK(t, r)
	if h := api.last().Header; h.Get("X-Forwarded-For") != "::1" || h.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("got %v", h)
	}
	r.RemoteAddr = "@"
	f.wantOK(t, r)
	if h := api.last().Header; h["X-Forwarded-For"] != nil {
		t.Errorf("of a Unix socket: got %v", h)
	}
}

func TestAnswers(t *testing.T) {
	soon := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
	past := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	for _, tt := range []struct {
		name    string
		status  int
		fields  []string
		may     []string // not checked when nil
		mustNot []string
		reason  string // ErrUnavailable with it
		denied  int
	}{
		{"200", 200, nil, []string{"orders"}, nil, "", 0},
		{"204", 204, nil, []string{"orders"}, nil, "", 0},
		{"299", 299, nil, []string{"orders"}, nil, "", 0},
		{"topics", 200, []string{"X-Spillway-Topics", "orders stock\\..*,x"}, []string{"orders", "stock.eu", "x"}, []string{"stock", "orders2"}, "", 0},
		{"topics in two fields", 200, []string{"X-Spillway-Topics", "orders", "X-Spillway-Topics", "x"}, []string{"orders", "x"}, []string{"y"}, "", 0},
		{"no topics", 200, []string{"X-Spillway-Topics", ""}, []string{}, []string{"orders", ""}, "", 0},
		{"topics that are no patterns", 200, []string{"X-Spillway-Topics", "orders *"}, nil, nil, "X-Spillway-Topics: 1 of the patterns", 0},
		{"too many topics", 200, []string{"X-Spillway-Topics", strings.Repeat("a ", maxPatterns+1)}, nil, nil, "1001 patterns", 0},
		{"claims", 200, []string{"X-Spillway-Claims", `{"tenant":9007199254740993}`}, []string{"orders"}, nil, "", 0},
		{"claims that are no object", 200, []string{"X-Spillway-Claims", `["a"]`}, nil, nil, "X-Spillway-Claims: not a JSON object", 0},
		{"claims and more", 200, []string{"X-Spillway-Claims", `{} {}`}, nil, nil, "something follows", 0},
		{"claims that are broken", 200, []string{"X-Spillway-Claims", `{"a":`}, nil, nil, "not a JSON object", 0},
		{"claims twice", 200, []string{"X-Spillway-Claims", `{}`, "X-Spillway-Claims", `{"admin":true}`}, nil, nil, "there 2 times", 0},
		{"an expiry", 200, []string{"X-Spillway-Expires", soon}, []string{"orders"}, nil, "", 0},
		{"an expiry that is over", 200, []string{"X-Spillway-Expires", past}, nil, nil, "", 401},
		{"an expiry as a date", 200, []string{"X-Spillway-Expires", time.Now().Format(http.TimeFormat)}, nil, nil, "no time in whole seconds", 0},
		{"an expiry of 1960", 200, []string{"X-Spillway-Expires", "-5"}, nil, nil, "no time in whole seconds", 0},
		{"an expiry twice", 200, []string{"X-Spillway-Expires", soon, "X-Spillway-Expires", past}, nil, nil, "there 2 times", 0},
		{"a subject", 200, []string{"X-Spillway-Subject", "ada"}, []string{"orders"}, nil, "", 0},
		{"a long subject", 200, []string{"X-Spillway-Subject", strings.Repeat("a", maxSubjectBytes+1)}, nil, nil, "at most 1024", 0},
		{"100 times all", 200, []string{"X-Pad", strings.Repeat("a", maxBody)}, nil, nil, "exceeded", 0},
		{"401", 401, nil, nil, nil, "", 401},
		{"403", 403, nil, nil, nil, "", 403},
		{"301", 301, []string{"Location", "/login"}, nil, nil, "redirects are not followed", 0},
		{"302 to what would let in", 302, []string{"Location", "/"}, nil, nil, "redirects are not followed", 0},
		{"307 elsewhere", 307, []string{"Location", "http://127.0.0.1:1/"}, nil, nil, "redirects are not followed", 0},
		{"304", 304, nil, nil, nil, "304", 0},
		{"400", 400, nil, nil, nil, "400", 0},
		{"404", 404, nil, nil, nil, "404", 0},
		{"407", 407, nil, nil, nil, "407", 0},
		{"429", 429, nil, nil, nil, "429", 0},
		{"500", 500, nil, nil, nil, "500", 0},
		{"502", 502, nil, nil, nil, "502", 0},
		{"503", 503, nil, nil, nil, "503", 0},
		{"fields of a refusal count for nothing", 403, []string{"X-Spillway-Topics", ".*"}, nil, nil, "", 403},
		{"fields of an error count for nothing", 500, []string{"X-Spillway-Topics", ".*"}, nil, nil, "500", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, api := asking(t, nil)
			api.says(tt.status, "", tt.fields...)
			r := with(events, "Authorization", "Bearer abc")
			switch {
			case tt.denied != 0:
				f.wantDenied(t, r, tt.denied, "")
			case tt.reason != "":
				f.wantUnavailable(t, r, tt.reason)
			default:
				id := f.wantOK(t, r)
				for _, topic := range tt.may {
					if !id.MayRead(topic) {
						t.Errorf("%q must be readable, by %s", topic, id.Topics)
					}
				}
				for _, topic := range tt.mustNot {
					if id.MayRead(topic) {
						t.Errorf("%q must not be readable, by %s", topic, id.Topics)
					}
				}
				if id.Question == nil || id.Question.Authorization != "Bearer abc" {
					t.Errorf("got question %+v", id.Question)
				}
			}
			if api.count() != 1 {
				t.Errorf("the API was asked %d times, want once", api.count())
			}
			want := "allowed"
			if tt.denied != 0 {
				want = "denied"
			} else if tt.reason != "" {
				want = "unavailable"
			}
			if got := f.metric(t, "spillway_auth_answers_total", want); got != 1 {
				t.Errorf("%v answers were counted as %s, want 1", got, want)
			}
		})
	}
}

func TestWhatAnswersSay(t *testing.T) {
	f, api := asking(t, func(c *Config) {
		c.TopicsHeader, c.ClaimsHeader, c.ExpiresHeader, c.SubjectHeader = "X-T", "x-c", "X-E", "X-S"
	})
	at := time.Now().Add(time.Hour).Truncate(time.Second)
	api.says(200, "ignored", "X-T", "a", "X-C", `{"tenant":9007199254740993}`, "X-E", strconv.FormatInt(at.Unix(), 10), "X-S", "ada", "X-Spillway-Topics", ".*")
	id := f.wantOK(t, with(events))
	if !id.MayRead("a") || id.MayRead("b") || id.Claims["tenant"] != json.Number("9007199254740993") || !id.Expires.Equal(at) || id.Subject != "ada" || id.Anonymous {
		t.Errorf("got %+v", id)
	}
}

func TestAnonymous(t *testing.T) {
	k := keysOfTests()
	token := "Bearer " + sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(nil), nil)
	for _, tt := range []struct {
		name   string
		r      *http.Request
		byJWT  bool
		answer []string
		want   bool
	}{
		{"nothing shown", with(events), false, nil, true},
		{"Authorization", with(events, "Authorization", "Basic eDp5"), false, nil, false},
		{"a cookie", with(events, "Cookie", "a=b"), false, nil, false},
		{"a token in the query", with(events + "&access_token=abc"), false, nil, false},
		{"known by something else", with(events), false, []string{"X-Spillway-Subject", "ada"}, false},
		{"a cookie of which the API knows nothing", with(events, "Cookie", "a=b"), false, []string{"X-Spillway-Subject", ""}, true},
		{"a token, of which the API knows nothing", with(events, "Authorization", token), true, []string{"X-Spillway-Subject", ""}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, api := asking(t, func(c *Config) {
				if tt.byJWT {
					c.Key = string(k.secret)
				}
			})
			api.says(200, "", tt.answer...)
			if got := f.wantOK(t, tt.r).Anonymous; got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A refusal goes to the client as the API worded it, as far as that is safe.
func TestRefusals(t *testing.T) {
	f, api := asking(t, nil)
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		header http.Header
		body   string
	}{
		{"worded", func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h["Www-Authenticate"] = []string{`Bearer realm="a"`, "Negotiate"}
			h.Set("Content-Type", "application/problem+json")
			h.Set("Content-Language", "de")
			h.Set("Set-Cookie", "session=evil")
			h.Set("Location", "/login")
			h.Set("Refresh", "0; url=/login")
			h.Set("Clear-Site-Data", "*")
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Grip-Hold", "stream")
			h.Set("Grip-Channel", "secrets")
			h.Set("Cache-Control", "max-age=1000")
			h.Set("X-Accel-Redirect", "/etc/passwd")
			w.WriteHeader(401)
			io.WriteString(w, `{"detail":"no"}`)
		}, 401, http.Header{"Www-Authenticate": {`Bearer realm="a"`, "Negotiate"}, "Content-Type": {"application/problem+json"}, "Content-Language": {"de"}, "X-Content-Type-Options": {"nosniff"}}, `{"detail":"no"}`},
		{"without words", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(403)
		}, 403, http.Header{}, ""},
		{"of no type", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			w.WriteHeader(403)
			io.WriteString(w, "<script>")
		}, 403, http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}}, "<script>"},
		{"as long as can be", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(403)
			io.WriteString(w, strings.Repeat("a", maxBody))
		}, 403, http.Header{"Content-Type": {"text/plain"}, "X-Content-Type-Options": {"nosniff"}}, strings.Repeat("a", maxBody)},
		{"too long", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(403)
			io.WriteString(w, strings.Repeat("a", maxBody+1))
		}, 403, http.Header{}, ""},
		{"compressed, which nobody asked for", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				t.Errorf("got Accept-Encoding: %s", r.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(403)
			io.WriteString(w, "\x1f\x8b")
		}, 403, http.Header{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api.does(tt.answer)
			d := f.wantDenied(t, with(events), tt.status, "AUTH_URL answered")
			if !reflect.DeepEqual(d.Header, tt.header) || string(d.Body) != tt.body {
				t.Errorf("got %v and %d bytes, want %v and %d", d.Header, len(d.Body), tt.header, len(tt.body))
			}
		})
	}
}

// An endless refusal is cut off, and one that breaks off is none.
func TestBrokenRefusals(t *testing.T) {
	f, api := asking(t, nil)
	gone := make(chan struct{})
	api.does(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(401)
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("a", 1<<16)); err != nil {
				break
			}
		}
		close(gone)
	})
	if d := f.wantDenied(t, with(events), 401, ""); d.Body != nil {
		t.Errorf("got a body of %d bytes", len(d.Body))
	}
	<-gone
	api.does(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(401)
		io.WriteString(w, "a")
	})
	f.wantUnavailable(t, with(events), "unexpected EOF")
}

// What an API says counts for the same question and no other, for as long as it
// allows.
func TestCache(t *testing.T) {
	base := func() *http.Request {
		return with(events, "Authorization", "Bearer abc", "Cookie", "a=b", "X-Tenant", "acme")
	}
	forward := func(c *Config) { c.ForwardHeaders = []string{"X-Tenant", "X-Else"} }
	change := func(f func(*http.Request)) *http.Request { r := base(); f(r); return r }
	for _, tt := range []struct {
		name   string
		config func(*Config)
		second *http.Request
		asked  int
	}{
		{"the same", forward, base(), 1},
		{"another port of the client", forward, change(func(r *http.Request) { r.RemoteAddr = "192.0.2.1:9" }), 1},
		{"a field that is not shown", forward, change(func(r *http.Request) { r.Header.Set("Accept", "x") }), 1},
		{"the token in the query", forward, change(func(r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery += "&access_token=abc" }), 1},
		{"another token", forward, change(func(r *http.Request) { r.Header.Set("Authorization", "Bearer abd") }), 2},
		{"no token", forward, change(func(r *http.Request) { r.Header.Del("Authorization") }), 2},
		{"another cookie", forward, change(func(r *http.Request) { r.Header.Set("Cookie", "a=c") }), 2},
		{"a further cookie", forward, change(func(r *http.Request) { r.Header.Set("Cookie", "a=b; c=d") }), 2},
		{"another method", forward, change(func(r *http.Request) { r.Method = "HEAD" }), 2},
		{"another host", forward, change(func(r *http.Request) { r.Host = "other.example" }), 2},
		{"another path", forward, change(func(r *http.Request) { r.URL.Path = "/events/stock/" }), 2},
		{"another query", forward, change(func(r *http.Request) { r.URL.RawQuery = "limit=2" }), 2},
		{"another address", forward, change(func(r *http.Request) { r.RemoteAddr = "192.0.2.2:9" }), 2},
		{"another address, which does not count", func(c *Config) { forward(c); c.CacheIgnoreIP = true }, change(func(r *http.Request) { r.RemoteAddr = "192.0.2.2:9" }), 1},
		{"another field", forward, change(func(r *http.Request) { r.Header.Set("X-Tenant", "b") }), 2},
		{"the field twice", forward, change(func(r *http.Request) { r.Header.Add("X-Tenant", "acme") }), 2},
		{"the value in another field", forward, change(func(r *http.Request) { r.Header.Del("X-Tenant"); r.Header.Set("X-Else", "acme") }), 2},
		{"not kept at all", func(c *Config) { c.CacheTTL = 0 }, base(), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, api := asking(t, tt.config)
			f.wantOK(t, base())
			f.wantOK(t, tt.second)
			if got := api.count(); got != tt.asked {
				t.Errorf("asked %d times, want %d", got, tt.asked)
			}
			if got := f.metric(t, "spillway_auth_questions_total", "cached"); got != float64(2-tt.asked) {
				t.Errorf("%v answers were counted as cached, want %d", got, 2-tt.asked)
			}
		})
	}
}

// No two questions that differ are the same to the cache, however their parts
// are cut.
func TestCacheKeys(t *testing.T) {
	f, _ := asking(t, nil)
	seen := make(map[cacheKey]Question)
	for _, q := range []Question{
		{}, {Method: "GET"}, {Method: "G", Proto: "ET"}, {Proto: "GET"}, {Host: "GET"}, {URI: "GET"}, {IP: "GET"}, {Authorization: "GET"}, {Cookie: "GET"},
		{Authorization: "a", Cookie: "b"}, {Authorization: "ab"}, {Cookie: "ab"},
		{Header: map[string][]string{"A": {"b", "C", "d"}}}, {Header: map[string][]string{"A": {"b"}, "C": {"d"}}},
		{Header: map[string][]string{"A": {"b", "c"}}}, {Header: map[string][]string{"A": {"b"}, "C": nil}}, {Header: map[string][]string{"A": {"bc"}}},
		{Header: map[string][]string{"A": {"b"}, "C": {""}}}, {Header: map[string][]string{"A": nil}}, {Header: map[string][]string{"A": {""}}},
	} {
		k := f.api.key(&q)
		if other, ok := seen[k]; ok {
			t.Errorf("%+v and %+v are the same", q, other)
		}
		seen[k] = q
	}
	g, _ := asking(t, nil)
	if f.api.key(&Question{}) == g.api.key(&Question{}) {
		t.Error("keys can be told without the secret of the process")
	}
}

func TestFreshness(t *testing.T) {
	const ttl = 10 * time.Second
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tt := range []struct {
		name   string
		fields []string
		want   time.Duration // it is still kept shortly before, and not shortly after
	}{
		{"nothing said", nil, ttl},
		{"no-store", []string{"Cache-Control", "no-store"}, 0},
		{"no-cache", []string{"Cache-Control", "private, No-Cache"}, 0},
		{"no-cache of a field", []string{"Cache-Control", `no-cache="Set-Cookie"`}, 0},
		{"in a second field", []string{"Cache-Control", "max-age=5", "Cache-Control", "no-store"}, 0},
		{"private", []string{"Cache-Control", "private"}, ttl},
		{"max-age", []string{"Cache-Control", "max-age=4"}, 4 * time.Second},
		{"max-age in quotes", []string{"Cache-Control", `max-age="4"`}, 4 * time.Second},
		{"max-age is long", []string{"Cache-Control", "max-age=1000"}, ttl},
		{"max-age is very long", []string{"Cache-Control", "max-age=99999999999999999999"}, 0},
		{"max-age is 0", []string{"Cache-Control", "max-age=0"}, 0},
		{"max-age is none", []string{"Cache-Control", "max-age=x"}, 0},
		{"max-age lacks its number", []string{"Cache-Control", "max-age"}, 0},
		{"the shorter of two", []string{"Cache-Control", "max-age=8, s-maxage=4"}, 4 * time.Second},
		{"Age", []string{"Cache-Control", "max-age=6", "Age", "2"}, 4 * time.Second},
		{"Age is no number", []string{"Cache-Control", "max-age=6", "Age", "x"}, 0},
		{"Vary of everything", []string{"Vary", "*"}, 0},
		{"Vary", []string{"Vary", "Authorization"}, ttl},
		{"Expires of old", []string{"Expires", "0"}, 0},
		{"Expires in the past", []string{"Expires", in(-time.Hour)}, 0},
		{"Expires", []string{"Date", in(0), "Expires", in(4 * time.Second)}, 4 * time.Second},
		{"max-age wins", []string{"Cache-Control", "max-age=4", "Expires", "0"}, 4 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := make(http.Header)
			for i := 0; i+1 < len(tt.fields); i += 2 {
				h.Add(tt.fields[i], tt.fields[i+1])
			}
			if got := min(ttl, freshness(h, time.Now())); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			f, api := asking(t, func(c *Config) { c.CacheTTL = ttl })
			api.says(200, "", tt.fields...)
			f.wantOK(t, with(events))
			f.wantOK(t, with(events))
			if want := map[bool]int{true: 2, false: 1}[tt.want == 0]; api.count() != want {
				t.Errorf("asked %d times, want %d", api.count(), want)
			}
		})
	}
}

// An answer is kept as long as AUTH_CACHE_TTL says, and never beyond what it
// says of its own end.
func TestCacheEnds(t *testing.T) {
	f, api := asking(t, nil)
	f.wantOK(t, with(events))
	f.advance(9 * time.Second)
	f.wantOK(t, with(events))
	f.advance(2 * time.Second)
	f.wantOK(t, with(events))
	if api.count() != 2 {
		t.Errorf("asked %d times, want 2", api.count())
	}
	api.says(200, "", "X-Spillway-Expires", strconv.FormatInt(f.now().Add(4*time.Second).Unix(), 10))
	f.wantOK(t, with(events+"&x=1"))
	f.advance(5 * time.Second)
	f.wantDenied(t, with(events+"&x=1"), 401, "expired")
	if got := f.metric(t, "spillway_auth_cache_entries", ""); got > 1 {
		t.Errorf("%v answers are kept, want 1 at most", got)
	}
}

// Refusals and errors are asked for each time.
func TestErrorsAreNotKept(t *testing.T) {
	f, api := asking(t, nil)
	api.says(403, "", "Cache-Control", "max-age=100")
	f.wantDenied(t, with(events), 403, "")
	api.says(500, "", "Cache-Control", "max-age=100")
	f.wantUnavailable(t, with(events), "500")
	f.wantUnavailable(t, with(events), "500")
	for range 100 { // as if some requests made the API fail
		api.says(200, "", "Cache-Control", "no-store")
		f.wantOK(t, with(events))
		api.says(500, "")
		f.wantUnavailable(t, with(events), "500")
	}
	f.advance(sayEvery)
	api.says(200, "")
	f.wantOK(t, with(events))
	if api.count() != 204 {
		t.Errorf("asked %d times, want 204", api.count())
	}
	for what, want := range map[string]int{"AUTH_URL does not say": 1, "AUTH_URL says again": 1} {
		if got := strings.Count(f.log.String(), what); got != want {
			t.Errorf("%q was logged %d times, want %d: %s", what, got, want, f.log)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.CacheEntries = 10 })
	for i := range 30 {
		f.wantOK(t, with(events+"&n="+strconv.Itoa(i)))
	}
	if got := f.metric(t, "spillway_auth_cache_entries", ""); got != 10 {
		t.Errorf("%v answers are kept, want 10", got)
	}
	f.wantOK(t, with(events+"&n=29"))
	f.wantOK(t, with(events+"&n=20"))
	if api.count() != 30 {
		t.Errorf("asked %d times, want 30", api.count())
	}
	f.wantOK(t, with(events+"&n=19"))
	f.wantOK(t, with(events+"&n=20")) // used lately, so it stayed
	if api.count() != 31 {
		t.Errorf("asked %d times, want 31", api.count())
	}

	f, api = asking(t, func(c *Config) { c.CacheBytes = 64 << 10 })
	claims := `{"a":["` + strings.Repeat("a", 20<<10) + `",1,{"b":null}]}`
	api.says(200, "", "X-Spillway-Claims", claims, "X-Spillway-Topics", "a.b c")
	for i := range 10 {
		f.wantOK(t, with(events+"&n="+strconv.Itoa(i)))
	}
	if n, bytes := f.metric(t, "spillway_auth_cache_entries", ""), f.metric(t, "spillway_auth_cache_bytes", ""); n < 1 || n > 3 || bytes > 64<<10 || bytes < 20<<10*n {
		t.Errorf("%v answers of %v bytes are kept, want at most 3, and 65536 bytes", n, bytes)
	}
}

// Equal questions at the same time are one, and who leaves takes nobody along.
func TestQuestionsAreShared(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.CacheTTL = 0 })
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	api.does(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := f.Identify(ctx, with(events))
		left <- err
	}()
	<-asked
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := f.Identify(t.Context(), with(events)); err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return f.metric(t, "spillway_auth_questions_total", "shared") == 20 })
	leave()
	if err := <-left; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(answer)
	all.Wait()
	if api.count() != 1 {
		t.Errorf("asked %d times, want once", api.count())
	}
}

// No more are asked at the same time than AUTH_MAX_REQUESTS says.
func TestTurns(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.MaxAsked = 2 })
	answer := make(chan struct{})
	var most, now atomic.Int32
	api.does(func(http.ResponseWriter, *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-answer
		now.Add(-1)
	})
	var all sync.WaitGroup
	for i := range 5 {
		all.Go(func() {
			if _, err := f.Identify(t.Context(), with(events+"&n="+strconv.Itoa(i))); err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
	eventually(t, "all want to ask, and two do", func() bool {
		return f.metric(t, "spillway_auth_questions_total", "asked") == 5 && api.count() == 2
	})
	close(answer)
	all.Wait()
	if got := most.Load(); got > 2 {
		t.Errorf("%d questions at the same time, want 2", got)
	}
}

// Who leaves before their question has its turn leaves nothing behind; one that is
// being asked is answered for others.
func TestQuestionsOfThoseWhoLeft(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.MaxAsked = 1 })
	answer := make(chan struct{})
	api.does(func(http.ResponseWriter, *http.Request) { <-answer })
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	ask := func(ctx context.Context, n int) {
		all.Go(func() {
			if _, err := f.Identify(ctx, with(events+"&n="+strconv.Itoa(n))); !errors.Is(err, context.Canceled) {
				t.Errorf("who left got %v", err)
			}
		})
	}
	ask(ctx, 0)
	eventually(t, "one is asked", func() bool { return api.count() == 1 })
	for n := range 50 {
		ask(ctx, n/2+1) // each by two
	}
	eventually(t, "all wait", func() bool {
		return f.metric(t, "spillway_auth_questions_total", "asked") == 26 && f.metric(t, "spillway_auth_questions_total", "shared") == 25
	})
	leave()
	all.Wait()
	f.api.mu.Lock()
	if left := len(f.api.asked); left != 1 {
		t.Errorf("%d questions are left, want the one that is being asked", left)
	}
	f.api.mu.Unlock()
	close(answer)
	f.wantOK(t, with(events+"&n=0"))
	f.wantOK(t, with(events+"&n=1"))
	if got := api.count(); got != 2 {
		t.Errorf("asked %d times, want 2", got)
	}
}

// Who cannot have a turn in time is told to come again.
func TestNoTurn(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.MaxAsked, c.Timeout = 1, 100*time.Millisecond })
	f.api.turn <- struct{}{}
	f.wantUnavailable(t, with(events), "AUTH_MAX_REQUESTS are under way")
	if api.count() != 0 {
		t.Error("asked without a turn")
	}
	<-f.api.turn
}

func TestSilentAPI(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := authenticator(t, func(c *Config) { c.URL, c.Timeout = "http://"+l.Addr().String(), 100*time.Millisecond })
	f.wantUnavailable(t, with(events), "deadline exceeded")
	l.Close()
	f.wait(patience)
	f.wantUnavailable(t, with(events), "refused")
	if got := f.metric(t, "spillway_auth_answer_seconds", ""); got != 2 {
		t.Errorf("%v answers were timed, want 2", got)
	}
}

// A request must pass both; it reads what both allow, for as long as both do.
func TestBoth(t *testing.T) {
	k := keysOfTests()
	f, api := asking(t, func(c *Config) { c.Key = string(k.secret) })
	exp := time.Now().Add(time.Hour).Truncate(time.Second)
	token := func(changes map[string]any) *http.Request {
		claims := claimsOf(map[string]any{"exp": exp.Unix(), "topics": "a b", "tenant": "acme", "level": 1})
		maps.Copy(claims, changes)
		return of(sign(t, jwt.SigningMethodHS256, k.secret, claims, nil))
	}
	f.wantDenied(t, with(events), 401, "a token is needed")
	f.wantDenied(t, of("a.b.c"), 401, "no JWT")
	if api.count() != 0 {
		t.Errorf("the API was asked %d times about tokens that are none", api.count())
	}
	api.says(403, "")
	f.wantDenied(t, token(nil), 403, "")
	api.says(500, "")
	f.wantUnavailable(t, token(nil), "500")

	api.says(200, "", "X-Spillway-Topics", "b c", "X-Spillway-Claims", `{"level":2,"admin":true}`, "X-Spillway-Expires", strconv.FormatInt(exp.Add(time.Hour).Unix(), 10), "Cache-Control", "no-store")
	id := f.wantOK(t, token(nil))
	if got, want := id.Topics.String(), `[["a","b"],["b","c"]]`; got != want {
		t.Errorf("got topics %s, want %s", got, want)
	}
	for topic, want := range map[string]bool{"a": false, "b": true, "c": false} {
		if got := id.MayRead(topic); got != want {
			t.Errorf("%s: got %v, want %v", topic, got, want)
		}
	}
	for name, want := range map[string]any{"tenant": "acme", "level": json.Number("2"), "admin": true, "sub": "ada"} {
		if got := id.Claims[name]; got != want {
			t.Errorf("claim %s: got %v, want %v", name, got, want)
		}
	}
	if !id.Expires.Equal(exp) || id.Subject != "ada" || id.Anonymous {
		t.Errorf("got %+v, want the token's expiry, %v", id, exp)
	}

	api.says(200, "", "X-Spillway-Expires", strconv.FormatInt(exp.Add(-time.Minute).Unix(), 10), "X-Spillway-Subject", "user-7")
	id = f.wantOK(t, token(map[string]any{"topics": nil}))
	if !id.Expires.Equal(exp.Add(-time.Minute)) || id.Subject != "user-7" {
		t.Errorf("got %+v, want the API's expiry and subject", id)
	}
	if id.MayRead("a") || id.MayRead("") {
		t.Error("a token without topics may read, since the API does not say which")
	}
}

// Where the API says which topics may be read, tokens need not.
func TestTopicsOfAPIOnly(t *testing.T) {
	k := keysOfTests()
	f, api := asking(t, func(c *Config) { c.Key, c.TopicsClaim = string(k.secret), "" })
	api.says(200, "", "X-Spillway-Topics", "b")
	id := f.wantOK(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"topics": "a"}), nil)))
	if id.MayRead("a") || !id.MayRead("b") {
		t.Errorf("got %s", id.Topics)
	}
}

func TestRecheck(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.CacheTTL, c.ForwardHeaders = 10*time.Second, []string{"X-Tenant"} })
	id := f.wantOK(t, with(events+"&access_token=abc", "X-Tenant", "acme", "Cookie", "a=b"))
	text, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	var kept Identity
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(kept.Question, id.Question) {
		t.Errorf("got %+v, want %+v", kept.Question, id.Question)
	}
	if _, err := f.Recheck(t.Context(), kept.Question); err != nil || api.count() != 1 {
		t.Errorf("got %v with %d questions, want a cached answer", err, api.count())
	}
	f.advance(time.Minute)
	before := api.last()
	if _, err := f.Recheck(t.Context(), kept.Question); err != nil || api.count() != 2 {
		t.Errorf("got %v with %d questions, want a second one", err, api.count())
	}
	if !reflect.DeepEqual(api.last().Header, before.Header) {
		t.Errorf("got %v, asked before %v", api.last().Header, before.Header)
	}
	f.advance(time.Minute)
	api.says(403, "")
	if _, err := f.Recheck(t.Context(), kept.Question); !errors.As(err, new(*Denied)) {
		t.Errorf("got %v, want a Denied", err)
	}
	api.says(500, "")
	if _, err := f.Recheck(t.Context(), kept.Question); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if got := fmt.Sprint(kept.Question.LogValue()); strings.Contains(got, "abc") || strings.Contains(got, "a=b") || strings.Contains(got, "acme") {
		t.Errorf("credentials are logged: %s", got)
	}
}

// A question is asked again with the token that it had, by JWT and by the API.
func TestRecheckOfBoth(t *testing.T) {
	k := keysOfTests()
	f, api := asking(t, func(c *Config) { c.Key, c.Cookie, c.Leeway = string(k.secret), "session", 0 })
	token := sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"exp": time.Now().Add(time.Minute).Unix()}), nil)
	id := f.wantOK(t, with(events, "Cookie", "session="+token))
	f.advance(30 * time.Second)
	if _, err := f.Recheck(t.Context(), id.Question); err != nil || api.count() != 2 {
		t.Errorf("got %v with %d questions", err, api.count())
	}
	f.advance(time.Minute)
	if _, err := f.Recheck(t.Context(), id.Question); !errors.As(err, new(*Denied)) || api.count() != 2 {
		t.Errorf("got %v with %d questions, want a Denied without one", err, api.count())
	}
}

func TestRenew(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key = string(k.secret) })
	token := func(changes map[string]any) string {
		return sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(changes), nil)
	}
	was := f.wantOK(t, of(token(nil)))
	exp := time.Now().Add(5 * time.Hour).Truncate(time.Second)
	id, err := f.Renew(t.Context(), was, token(map[string]any{"exp": exp.Unix(), "topics": "stock"}))
	if err != nil || !id.Expires.Equal(exp) || id.MayRead("orders") || !id.MayRead("stock") {
		t.Errorf("got %+v, %v", id, err)
	}
	for _, tt := range []struct {
		name, token string
		status      int
	}{
		{"another subject", token(map[string]any{"sub": "eve"}), 403},
		{"no subject", token(map[string]any{"sub": nil}), 403},
		{"expired", token(map[string]any{"exp": 5}), 401},
		{"no token", "x", 401},
		{"empty", "", 400},
		{"a line's end", "x\r\nX: y", 400},
	} {
		id, err := f.Renew(t.Context(), was, tt.token)
		var d *Denied
		got := 0
		switch {
		case errors.As(err, &d):
			got = d.Status
		case errors.As(err, new(*BadRequest)):
			got = 400
		}
		if id != nil || got != tt.status {
			t.Errorf("%s: got %v, %v, want %d", tt.name, id, err, tt.status)
		}
	}
}

// With AUTH_URL the new token takes the old one's place in the question.
func TestRenewAsks(t *testing.T) {
	f, api := asking(t, func(c *Config) { c.Cookie = "session" })
	api.says(200, "", "X-Spillway-Subject", "ada")
	was := f.wantOK(t, with(events, "Cookie", "a=b; session=abc;c=d"))
	id, err := f.Renew(t.Context(), was, "def")
	if err != nil {
		t.Fatal(err)
	}
	h := api.last().Header
	if h.Get("Authorization") != "Bearer def" || h.Get("X-Forwarded-Uri") != "/events/orders/?limit=1" {
		t.Errorf("got %v", h)
	}
	if got, want := h.Get("Cookie"), "a=b;c=d"; got != want {
		t.Errorf("got Cookie: %s, want %s", got, want)
	}
	if was.Question.Authorization != "" || id.Question.Authorization != "Bearer def" {
		t.Errorf("got %+v, from %+v", id.Question, was.Question)
	}
	if _, err := f.Recheck(t.Context(), id.Question); err != nil {
		t.Errorf("asked again: %v", err)
	}
	api.says(200, "", "X-Spillway-Subject", "eve")
	if _, err := f.Renew(t.Context(), was, "ghi"); !errors.As(err, new(*Denied)) {
		t.Errorf("got %v, want a Denied", err)
	}
}

// AUTH_CA_FILE is what https is verified by.
func TestCAFile(t *testing.T) {
	api := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(api.Close)
	authenticator(t, func(c *Config) { c.URL = api.URL }).wantUnavailable(t, with(events), "certificate")
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	authenticator(t, func(c *Config) { c.URL, c.CAFile = api.URL, path }).wantOK(t, with(events))
}

// Whatever an API answers, it is read or refused, and what is granted can be
// written down and read again.
func FuzzAnswer(f *testing.F) {
	f.Add("orders a.*", `{"tenant":1}`, "4102444800", "ada", "max-age=5", "1", "0")
	f.Add("* (", "[]", "x", "", "no-store", "", "")
	f.Add(",,, a{1000}{1000}", `{"a":{"b":[1e400]}}`, "99999999999999999999", "\x00", "max-age=", "-1", "Thu, 01 Jan 1970 00:00:00 GMT")
	cfg := defaults()
	a := &api{cfg: &cfg, now: time.Now}
	f.Fuzz(func(t *testing.T, topics, claims, expires, subject, cacheControl, age, expiresAt string) {
		h := http.Header{"X-Spillway-Topics": {topics}, "X-Spillway-Claims": {claims}, "X-Spillway-Expires": {expires}, "X-Spillway-Subject": {subject},
			"Cache-Control": {cacheControl}, "Age": {age}, "Expires": {expiresAt}}
		if d := freshness(h, time.Now()); d < 0 {
			t.Errorf("fresh for %v", d)
		}
		id, err := a.read(h)
		if err != nil {
			if id != nil {
				t.Errorf("got %+v and %v", id, err)
			}
			return
		}
		if sizeOf(id) < len(topics) {
			t.Errorf("%d bytes for %q", sizeOf(id), topics)
		}
		text, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		var again Identity
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if !again.Expires.Equal(id.Expires) || !slices.EqualFunc(again.Topics.lists, id.Topics.lists, func(a, b *patternList) bool { return len(a.rest) == len(b.rest) && len(a.names) == len(b.names) }) {
			t.Errorf("got %+v, written and read again %+v", id, again)
		}
	})
}
