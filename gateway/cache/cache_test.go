package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// A rig is a cache over an origin that is a function.
type rig struct {
	*Cache
	t        *testing.T
	engine   *fanout.Engine
	registry *prometheus.Registry

	mu     sync.Mutex
	origin func(r *http.Request) (*http.Response, error)
	asked  []*http.Request // what came to the origin
}

func newRig(t *testing.T, more ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, registry: prometheus.NewRegistry(), engine: fanout.New(fanout.Config{Portable: true}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())}
	var running sync.WaitGroup
	base, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	cfg := Config{MaxBytes: 1 << 20, MaxAnswer: 64 << 10, PublishInterval: 250 * time.Millisecond, Logs: r.engine, Base: base, Spawn: running.Go}
	for _, m := range more {
		m(&cfg)
	}
	r.Cache = New(cfg, r.registry)
	return r
}

// answers makes the origin answer with these lines of header, and a body.
func (r *rig) answers(body string, lines ...string) {
	r.does(func(*http.Request) (*http.Response, error) {
		return respond(200, header(lines...), []byte(body)).Response, nil
	})
}

func (r *rig) does(origin func(r *http.Request) (*http.Response, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.origin = origin
}

func (r *rig) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked)
}

func (r *rig) last() *http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[len(r.asked)-1]
}

func (r *rig) request(lines ...string) *Request {
	h := header(lines...)
	ask := func(ctx context.Context, h http.Header) (*http.Response, error) {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://a/", nil)
		if err != nil {
			return nil, err
		}
		q.Header = h
		r.mu.Lock()
		r.asked = append(r.asked, q)
		origin := r.origin
		r.mu.Unlock()
		return origin(q)
	}
	return &Request{
		URL: "http://a/", Header: h, Route: "one",
		Ask: func(ctx context.Context, conditions http.Header) (*http.Response, error) {
			q := h.Clone()
			q.Del("If-None-Match")
			q.Del("If-Modified-Since")
			for name, values := range conditions {
				q[name] = values
			}
			return ask(ctx, q)
		},
		Pass: func(ctx context.Context) (*http.Response, error) { return ask(ctx, h.Clone()) },
	}
}

// requestOf is a request that the origin answers after a while, with a body of its
// own.
func (r *rig) requestOf(body string, lines ...string) *Request {
	rq := r.request()
	rq.Pass = func(ctx context.Context) (*http.Response, error) { return rq.Ask(ctx, nil) }
	rq.Ask = func(ctx context.Context, h http.Header) (*http.Response, error) {
		r.mu.Lock()
		r.asked = append(r.asked, &http.Request{Header: h})
		r.mu.Unlock()
		time.Sleep(time.Second)
		return respond(200, header(lines...), []byte(body)).Response, nil
	}
	return rq
}

type got struct {
	status int
	header http.Header
	body   string
	attach []fanout.Want
}

func (r *rig) get(lines ...string) got {
	r.t.Helper()
	return r.serve(r.request(lines...))
}

func (r *rig) serve(rq *Request) got {
	r.t.Helper()
	a, err := r.Serve(context.Background(), rq)
	if err != nil {
		r.t.Errorf("no answer: %v", err)
		return got{}
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Errorf("read the body: %v", err)
	}
	return got{a.StatusCode, a.Header, string(b), a.Attach}
}

func (r *rig) wantRequests(want int) {
	r.t.Helper()
	if got := r.requests(); got != want {
		r.t.Errorf("got %d requests to the origin, want %d", got, want)
	}
}

func (r *rig) publish(channel, id string) {
	items := []grip.Item{{Channel: channel, ID: id, PrevID: map[string]string{"2": "1"}[id], HTTPStream: &grip.HTTPStream{Content: []byte("x")}}}
	r.Published(items)
	_ = r.engine.Publish(context.Background(), items...)
}

func (g got) want(t *testing.T, status int, body, cacheStatus string) {
	t.Helper()
	if g.status != status || g.body != body {
		t.Errorf("got %d %q, want %d %q", g.status, g.body, status, body)
	}
	if have := g.header.Get("Cache-Status"); have != "spillway; "+cacheStatus {
		t.Errorf("got Cache-Status %q, want %q", have, "spillway; "+cacheStatus)
	}
}

func TestFreshAnswerIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=10", "Content-Type: a/b")
		r.get().want(t, 200, "one", "fwd=uri-miss; fwd-status=200; stored")
		time.Sleep(4 * time.Second)
		g := r.get()
		g.want(t, 200, "one", "hit; ttl=6")
		if g.header.Get("Age") != "4" || g.header.Get("Content-Type") != "a/b" || g.header.Get("Date") == "" {
			t.Errorf("got header %v, want the origin's with Age: 4", g.header)
		}
		r.wantRequests(1)
		time.Sleep(6 * time.Second)
		r.answers("two", "Cache-Control: max-age=10")
		r.get().want(t, 200, "two", "fwd=stale; fwd-status=200; stored")
		r.wantRequests(2)
	})
}

func TestValidation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=1", `Etag: "a"`, "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT")
		r.get()
		time.Sleep(2 * time.Second)
		r.does(func(q *http.Request) (*http.Response, error) {
			if q.Header.Get("If-None-Match") != `"a"` || q.Header.Get("If-Modified-Since") != "Sun, 06 Nov 1994 08:49:37 GMT" {
				t.Errorf("got a request with %v, want the conditions of the answer", q.Header)
			}
			return respond(304, header("Cache-Control: max-age=5"), nil).Response, nil
		})
		r.get().want(t, 200, "one", "fwd=stale; fwd-status=304; stored")
		time.Sleep(3 * time.Second)
		r.get().want(t, 200, "one", "hit; ttl=2")
		r.wantRequests(2)
		r.get(`If-None-Match: "a"`).want(t, 304, "", "hit; ttl=2")
		r.get("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT").want(t, 200, "one", "hit; ttl=2")
	})
}

// A client's conditions never reach the origin with a request whose answer is
// for all.
func TestConditionalRequestsShareToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=5", `Etag: "a"`)
		r.get(`If-None-Match: "a"`).want(t, 304, "", "fwd=uri-miss; fwd-status=200; stored")
		if c := r.last().Header.Get("If-None-Match"); c != "" {
			t.Errorf("got a request with If-None-Match: %s, want none", c)
		}
		r.get().want(t, 200, "one", "hit; ttl=5")

		hold := []string{"Cache-Control: max-age=5", "Grip-Hold: stream", "Grip-Channel: c"}
		r.Purge("http://a/")
		r.answers("held", hold...)
		r.get(`If-None-Match: "a"`).want(t, 200, "held", "fwd=bypass; fwd-status=200")
		if c := r.last().Header.Get("If-None-Match"); c != `"a"` {
			t.Errorf("got If-None-Match: %q, want the client's: what to hold may depend on it", c)
		}
	})
}

func TestVary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.does(func(q *http.Request) (*http.Response, error) {
			return respond(200, header("Cache-Control: max-age=5", "Vary: X-A"), []byte(q.Header.Get("X-A"))).Response, nil
		})
		for range 2 {
			for _, v := range []string{"1", "2", "3"} {
				if g := r.get("X-A: " + v); g.body != v {
					t.Errorf("got %q, want %q", g.body, v)
				}
			}
		}
		r.wantRequests(3)
		if n := r.Purge("http://a/"); n != 3 {
			t.Errorf("got %d purged, want all 3 variants", n)
		}
	})
}

func TestWhoWaitsGetsTheVariantOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.does(func(q *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, header("Cache-Control: max-age=5", "Vary: X-A"), []byte(q.Header.Get("X-A"))).Response, nil
		})
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				v := string("abc"[i%3])
				if g := r.get("X-A: " + v); g.body != v {
					t.Errorf("got %q, want %q", g.body, v)
				}
			})
		}
		all.Wait()
		r.wantRequests(3)
	})
}

func TestOneRequestForAllWhoWait(t *testing.T) {
	for _, tt := range []struct {
		name      string
		request   []string
		answer    []string
		alsoHeads bool
		want      int
	}{
		{"shared", nil, []string{"Cache-Control: max-age=5"}, true, 1},
		{"stale when it comes, but for all who waited", nil, []string{"Cache-Control: max-age=1"}, false, 1},
		{"without an age each asks", nil, nil, false, 100},
		{"no-store", nil, []string{"Cache-Control: no-store, max-age=5"}, false, 100},
		{"private", nil, []string{"Cache-Control: private, max-age=5"}, false, 100},
		{"Set-Cookie", nil, []string{"Cache-Control: max-age=5", "Set-Cookie: a=b"}, false, 100},
		{"metadata of a subscription", nil, []string{"Cache-Control: max-age=5", "Grip-Hold: stream", "Grip-Channel: c", "Grip-Set-Meta: user=a"}, false, 100},
		{"a session", nil, []string{"Cache-Control: max-age=5", "Grip-Session-Id: 1"}, false, 100},
		{"with a cookie nobody waits", []string{"Cookie: a=b"}, []string{"Cache-Control: public, max-age=5"}, false, 100},
		{"nor with Authorization", []string{"Authorization: Bearer x"}, []string{"Cache-Control: s-maxage=5"}, false, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.does(func(*http.Request) (*http.Response, error) {
					time.Sleep(2 * time.Second)
					return respond(200, header(tt.answer...), []byte("one")).Response, nil
				})
				var all sync.WaitGroup
				for i := range 100 {
					all.Go(func() {
						rq := r.request(tt.request...)
						rq.Head = tt.alsoHeads && i%2 == 0
						if g := r.serve(rq); g.status != 200 || g.body != "one" {
							t.Errorf("got %d %q, want the answer", g.status, g.body)
						}
					})
				}
				all.Wait()
				r.wantRequests(tt.want)
			})
		})
	}
}

// A crowd costs the origin one request, each time that what is kept is of no more
// use, however large the crowd.
func TestCrowds(t *testing.T) {
	const crowd = 10_000
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.does(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, header(streamHold...), []byte("one")).Response, nil
		})
		want := 0
		for _, tt := range []struct {
			name   string
			before func()
			asks   int
		}{
			{"nothing is kept", func() {}, 1},
			{"it is kept", func() {}, 0},
			{"it is too old", func() { time.Sleep(time.Minute) }, 1},
			{"dropped by an operator", func() { r.Purge("http://a/") }, 1},
			{"changed by somebody", func() { r.Changed("http://a/") }, 1},
			{"something was published", func() { r.publish("c", "") }, 1},
			{"much was published", func() {
				for range 1000 {
					r.publish("c", "")
				}
			}, 1},
			{"publications may have been missed", r.Recovered, 1},
			{"it is still kept", func() { time.Sleep(30 * time.Second) }, 0},
			{"nobody has come for long", func() { time.Sleep(time.Hour) }, 1},
		} {
			tt.before()
			var all sync.WaitGroup
			for range crowd {
				all.Go(func() {
					if g := r.get(); g.status != 200 || g.body != "one" || len(g.attach) != 1 {
						t.Errorf("got %d %q at %v, want the hold", g.status, g.body, g.attach)
					}
				})
			}
			all.Wait()
			want += tt.asks
			if got := r.requests(); got != want {
				t.Fatalf("%s: got %d requests to the origin in all, want %d", tt.name, got, want)
			}
		}
	})
}

// What goes to one of two routes is not answered by the other, also while it is
// on its way.
func TestRoutesDoNotShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var all sync.WaitGroup
		for i := range 100 {
			name := []string{"one", "two"}[i%2]
			rq := r.requestOf(name, "Cache-Control: max-age=60")
			rq.Route = name
			all.Go(func() {
				if g := r.serve(rq); g.body != name {
					t.Errorf("got %q, want %q", g.body, name)
				}
			})
		}
		all.Wait()
		r.wantRequests(2)
	})
}

// An answer that is always to be validated is not for who came when the origin
// had been asked: they wait for the next one, together.
func TestAnswersToBeValidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.does(func(*http.Request) (*http.Response, error) {
			time.Sleep(2 * time.Second)
			return respond(200, header("Cache-Control: no-cache", `Etag: "a"`), []byte("one")).Response, nil
		})
		var all sync.WaitGroup
		all.Go(func() { r.get() })
		synctest.Wait()
		for range 99 {
			all.Go(func() {
				if g := r.get(); g.body != "one" {
					t.Errorf("got %q, want the answer", g.body)
				}
			})
		}
		all.Wait()
		r.wantRequests(2)
	})
}

// Who has looked before an answer landed, and joins after it, finds it.
func TestJoinAfterLanding(t *testing.T) {
	r := newRig(t)
	r.answers("one", "Cache-Control: max-age=60")
	r.get()
	if f, _ := r.join(r.request(), nil); f != nil {
		t.Error("got another request to the origin, want none")
	}
	kept, _, _ := r.find(r.request())
	f, leads := r.join(r.request(), kept)
	if f == nil || !leads {
		t.Fatal("got no request to the origin for who has seen what is kept, want one")
	}
	<-f.done
	r.wantRequests(2)
}

// What was not for others is asked for without waiting, for a while.
func TestPersonalAnswersDoNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("mine", "Cache-Control: private")
		r.get().want(t, 200, "mine", "fwd=uri-miss; fwd-status=200")
		r.get().want(t, 200, "mine", "fwd=bypass; fwd-status=200")
		time.Sleep(aloneFor + time.Second)
		r.answers("ours", "Cache-Control: max-age=5")
		r.get().want(t, 200, "ours", "fwd=uri-miss; fwd-status=200; stored")
	})
}

func TestCredentials(t *testing.T) {
	for _, tt := range []struct {
		name, credential, control string
		want                      int // requests, for two with the credential and two without
	}{
		{"Authorization, not open", "Authorization: Basic eA==", "max-age=5", 3},
		{"Authorization, public", "Authorization: Basic eA==", "public, max-age=5", 1},
		{"Authorization, s-maxage", "Authorization: Basic eA==", "s-maxage=5", 1},
		{"Cookie, not open", "Cookie: a=b", "max-age=5", 3},
		{"Cookie, public", "Cookie: a=b", "public, max-age=5", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.answers("one", "Cache-Control: "+tt.control)
				r.get(tt.credential)
				r.get(tt.credential)
				r.get()
				r.get()
				r.wantRequests(tt.want)
			})
		})
	}
}

func TestNotFromTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: public, max-age=60")
		r.get()
		for _, line := range []string{"Range: bytes=0-1", "If-Range: x", `If-Match: "a"`, "If-Unmodified-Since: x", "Cache-Control: no-store"} {
			before := r.requests()
			r.get(line).want(t, 200, "one", "fwd=bypass; fwd-status=200")
			r.wantRequests(before + 1)
		}
		// RFC 9111, 5.2.1: what a client would like does not oblige a cache.
		r.get("Cache-Control: no-cache, max-age=0").want(t, 200, "one", "hit; ttl=60")

		r.Purge("http://a/")
		r.get("Cache-Control: only-if-cached").want(t, 504, "Not in the cache.\n", "fwd=uri-miss; detail=only-if-cached")
	})
}

func TestStaleWhileRevalidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=1, stale-while-revalidate=10")
		r.get()
		time.Sleep(3 * time.Second)
		r.does(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, header("Cache-Control: max-age=1"), []byte("two")).Response, nil
		})
		for range 10 {
			r.get().want(t, 200, "one", "hit; ttl=-2")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.wantRequests(2)
		if g := r.get(); g.body != "two" {
			t.Errorf("got %q, want what came meanwhile", g.body)
		}
	})
}

func TestStaleIfError(t *testing.T) {
	refuse := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }
	status := func(n int) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) {
			return respond(n, header(), []byte("trouble")).Response, nil
		}
	}
	for _, tt := range []struct {
		name, control string
		fails         func(*http.Request) (*http.Response, error)
		kept          bool
	}{
		{"no connection", "max-age=1, stale-if-error=60", refuse, true},
		{"500", "max-age=1, stale-if-error=60", status(500), true},
		{"503", "max-age=1, stale-if-error=60", status(503), true},
		{"404 is an answer", "max-age=1, stale-if-error=60", status(404), false},
		{"not asked for", "max-age=1", status(503), false},
		{"too late", "max-age=1, stale-if-error=1", status(503), false},
		{"must-revalidate", "max-age=1, stale-if-error=60, must-revalidate", status(503), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.answers("one", "Cache-Control: "+tt.control)
				r.get()
				time.Sleep(3 * time.Second)
				r.does(tt.fails)
				g := r.get()
				if got := g.body == "one"; got != tt.kept {
					t.Fatalf("got %d %q, want the old answer: %v", g.status, g.body, tt.kept)
				}
				if !tt.kept {
					return
				}
				for range 5 { // the origin is left alone for a moment
					r.get().want(t, 200, "one", "hit; ttl=-2")
				}
				r.wantRequests(2)
				time.Sleep(2 * time.Second)
				r.answers("two", "Cache-Control: max-age=9")
				r.get().want(t, 200, "one", "hit; ttl=-4")
				synctest.Wait()
				r.get().want(t, 200, "two", "hit; ttl=9")
			})
		})
	}
}

// Who has credentials waits for nobody, but a stale answer is renewed by one of
// them.
func TestRenewalWithCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: public, max-age=1, stale-while-revalidate=9")
		r.get("Cookie: a=b")
		time.Sleep(2 * time.Second)
		r.does(func(q *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, header("Cache-Control: public, max-age=9"), []byte(q.Header.Get("Cookie"))).Response, nil
		})
		for range 5 {
			r.get("Cookie: a=c").want(t, 200, "one", "hit; ttl=-1")
		}
		time.Sleep(2 * time.Second)
		r.get("Cookie: a=d").want(t, 200, "a=c", "hit; ttl=7")
		r.wantRequests(2)
	})
}

// A 304 may say that the answer is not to be kept any more.
func TestValidatedForTheLastTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=1", `Etag: "a"`)
		r.get()
		time.Sleep(2 * time.Second)
		r.does(func(*http.Request) (*http.Response, error) {
			return respond(304, header("Cache-Control: no-store"), nil).Response, nil
		})
		r.get().want(t, 200, "one", "fwd=stale; fwd-status=200")
	})
}

func TestErrorIsForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		gone := errors.New("gone")
		r.does(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return nil, gone
		})
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := r.Serve(t.Context(), r.request()); !errors.Is(err, gone) {
					t.Errorf("got %v, want %v", err, gone)
				}
			})
		}
		all.Wait()
		r.wantRequests(1)
	})
}

func TestWhoLeavesTakesNothingFromTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.does(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, header("Cache-Control: max-age=5"), []byte("one")).Response, nil
		})
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := r.Serve(ctx, r.request()); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want %v", err, context.Canceled)
			}
		})
		synctest.Wait()
		all.Go(func() { r.get().want(t, 200, "one", "fwd=uri-miss; fwd-status=200; collapsed") })
		synctest.Wait()
		leave()
		all.Wait()
		r.wantRequests(1)
	})
}

func TestSlowAndLargeBodies(t *testing.T) {
	for _, tt := range []struct {
		name string
		give func(w *io.PipeWriter)
		want string
	}{
		{"slow", func(w *io.PipeWriter) {
			_, _ = io.WriteString(w, "a")
			time.Sleep(10 * time.Second)
			_, _ = io.WriteString(w, "b")
			w.Close()
		}, "ab"},
		{"large", func(w *io.PipeWriter) {
			_, _ = io.WriteString(w, strings.Repeat("a", 200<<10))
			w.Close()
		}, strings.Repeat("a", 200<<10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.does(func(*http.Request) (*http.Response, error) {
					body, w := io.Pipe()
					go tt.give(w)
					resp := respond(200, header("Cache-Control: max-age=5"), nil).Response
					resp.Body, resp.ContentLength = body, -1
					return resp, nil
				})
				var all sync.WaitGroup
				for range 3 {
					all.Go(func() {
						if g := r.get(); g.body != tt.want {
							t.Errorf("got %d bytes, want %d", len(g.body), len(tt.want))
						}
					})
				}
				all.Wait()
				r.wantRequests(3)
				if n := r.used(); n > 4<<10 {
					t.Errorf("got %v bytes in use, want next to none", n)
				}
			})
		})
	}
}

// The one who asked first begins to get a slow body before it is complete, and
// its end when it breaks off.
func TestSlowBodyBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		broken := errors.New("broken")
		r.does(func(*http.Request) (*http.Response, error) {
			body, w := io.Pipe()
			go func() {
				_, _ = io.WriteString(w, "a")
				time.Sleep(5 * time.Second)
				w.CloseWithError(broken)
			}()
			resp := respond(200, header("Cache-Control: max-age=5"), nil).Response
			resp.Body, resp.ContentLength = body, -1
			return resp, nil
		})
		began := time.Now()
		a, err := r.Serve(t.Context(), r.request())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > slowBody {
			t.Errorf("got the head after %v, want within %v", took, slowBody)
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		if string(b) != "a" || !errors.Is(err, broken) {
			t.Errorf("got %q, %v, want a and %v", b, err, broken)
		}
	})
}

func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.MaxBytes = 64 << 10 })
		r.answers(strings.Repeat("a", 10<<10), "Cache-Control: max-age=60")
		for i := range 20 {
			rq := r.request()
			rq.URL = URL("http", "a", "/"+string(rune('a'+i)))
			r.serve(rq)
			first := r.request() // used again and again
			first.URL = "http://a/a"
			r.serve(first)
		}
		r.wantRequests(20)
		if n := r.used(); n > 64<<10 || n < 32<<10 {
			t.Errorf("got %v bytes, want at most, and about, 64 KiB", n)
		}
		r.answers(strings.Repeat("a", 63<<10), "Cache-Control: max-age=60") // smaller than MaxAnswer, larger than what there is with the head
		large := r.request()
		large.URL = "http://a/large"
		if g := r.serve(large); len(g.body) != 63<<10 {
			t.Errorf("got %d bytes, want all", len(g.body))
		}
		for url := range r.records {
			r.Purge(url)
		}
		if n := r.used(); n != 0 {
			t.Errorf("got %v bytes after everything was dropped, want 0", n)
		}
	})
}

func (r *rig) used() float64 { return r.metric("spillway_cache_bytes", "") }

// metric is the value of the series with this label.
func (r *rig) metric(name, label string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	r.t.Fatalf("there is no %s with %q", name, label)
	return 0
}

func TestPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=60")
		r.get()
		if n := r.Purge("http://a/other"); n != 0 {
			t.Errorf("got %d purged, want 0", n)
		}
		if n := r.Purge("http://a/"); n != 1 {
			t.Errorf("got %d purged, want 1", n)
		}
		r.does(func(*http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return respond(200, header("Cache-Control: max-age=60"), []byte("old")).Response, nil
		})
		var all sync.WaitGroup
		all.Go(func() { r.get() })
		synctest.Wait()
		r.Purge("http://a/") // while the origin is being asked
		r.answers("new", "Cache-Control: max-age=60")
		if g := r.get(); g.body != "new" {
			t.Errorf("got %q, want what the origin says after the purge", g.body)
		}
		all.Wait()
		if g := r.get(); g.body != "new" {
			t.Errorf("got %q, want that what came late is not kept", g.body)
		}
		r.wantRequests(3)

		r.Changed("http://a/")
		r.get()
		r.wantRequests(4)
	})
}

// An answer is used only for the route by which it came.
func TestAnotherRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=60")
		r.get()
		rq := r.request()
		rq.Route = "two"
		r.serve(rq)
		r.wantRequests(2)
	})
}

var streamHold = []string{"Cache-Control: max-age=60", "Grip-Hold: stream", "Grip-Channel: c"}

func TestPublicationMakesHoldsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("0", streamHold...)
		rq := func() *Request {
			rq := r.request()
			rq.Prefix = "p-"
			return rq
		}
		r.serve(rq())
		g := r.serve(rq())
		g.want(t, 200, "0", "hit; ttl=60")
		if len(g.attach) != 1 || g.attach[0].Channel != "p-c" || g.attach[0].Mark == 0 {
			t.Errorf("got attach %+v, want a place in p-c", g.attach)
		}
		r.publish("c", "") // another channel: the route has a prefix
		r.serve(rq()).want(t, 200, "0", "hit; ttl=60")
		r.publish("p-c", "")
		r.answers("1", streamHold...)
		r.serve(rq()).want(t, 200, "1", "fwd=stale; fwd-status=200; stored")
		time.Sleep(time.Second)
		r.serve(rq()).want(t, 200, "1", "hit; ttl=59")
		r.wantRequests(2)
		if n := r.metric("spillway_cache_purges_total", "publish"); n != 1 {
			t.Errorf("got %v purged by publications, want 1", n)
		}
	})
}

// However much is published, and however many come, the origin is asked at most
// once in PublishInterval, and nobody misses anything.
func TestBurstOfPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var at int // what was published; the bubble has one thing running at a time
		var mu sync.Mutex
		r.does(func(*http.Request) (*http.Response, error) {
			mu.Lock()
			body := strings.Repeat("x", at)
			mu.Unlock()
			time.Sleep(30 * time.Millisecond)
			return respond(200, header(streamHold...), []byte(body)).Response, nil
		})
		const every, count = 10 * time.Millisecond, 300
		var all sync.WaitGroup
		r.get() // the first one tells which channels there are
		for i := range count {
			time.Sleep(every)
			mu.Lock()
			at++
			r.publish("c", "")
			mu.Unlock()
			_ = i
			for range 5 {
				all.Go(func() {
					g := r.get()
					if len(g.attach) != 1 {
						t.Errorf("got attach %+v, want one place", g.attach)
						return
					}
					// The channel's first item has number 1: whoever has a body of n
					// must begin at item n+1 or before.
					if next := int(g.attach[0].Mark); next > len(g.body)+1 {
						t.Errorf("got %d items and then those from %d, so that some are missing", len(g.body), next)
					}
				})
			}
		}
		all.Wait()
		if got, most := r.requests(), int(count*every/(250*time.Millisecond))+3; got > most {
			t.Errorf("got %d requests to the origin, want at most %d", got, most)
		}
	})
}

// With prev-id and a link the channel's log has what came since.
func TestPrevIDKeepsAnswersUsable(t *testing.T) {
	hold := []string{"Cache-Control: max-age=60", "Grip-Hold: stream", "Grip-Channel: c; prev-id=1", "Grip-Link: </n>; rel=next"}
	for _, tt := range []struct {
		name   string
		header []string
		first  string // id of an item before the answer
		want   int
	}{
		{"in the log", hold, "1", 1},
		{"not in the log", hold, "0", 2},
		{"before the log", hold, "", 1},
		{"without a link", hold[:3], "1", 2},
		{"a long poll would get the same again", []string{"Cache-Control: max-age=60", "Grip-Hold: response", "Grip-Channel: c; prev-id=1"}, "1", 2},
		{"one of two channels without", append(hold[:2:2], "Grip-Channel: c; prev-id=1, d", "Grip-Link: </n>; rel=next"), "1", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.engine.Marks([]fanout.Want{{Channel: "c"}}, false) // somebody listens
				if tt.first != "" {
					r.publish("c", tt.first)
				}
				r.answers("one", tt.header...)
				r.get()
				r.publish("c", "2")
				r.get()
				r.wantRequests(tt.want)
			})
		})
	}
}

// A request that joins one that is under way does not get what may be older than
// a publication.
func TestJoinAfterPublication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := 0
		r.does(func(*http.Request) (*http.Response, error) {
			n++
			body := string(rune('0' + n))
			time.Sleep(time.Second)
			return respond(200, header(streamHold...), []byte(body)).Response, nil
		})
		var all sync.WaitGroup
		all.Go(func() { r.get() })
		synctest.Wait()
		r.publish("c", "")
		all.Go(func() {
			if g := r.get(); g.body != "2" {
				t.Errorf("got %q, want what the origin says after the publication", g.body)
			}
		})
		all.Wait()
		r.wantRequests(2)
	})
}

func TestChannelOfAPublisherInTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.engine.Open("c", noIDs{})
		r.answers("one", streamHold...)
		r.get().want(t, 200, "one", "fwd=uri-miss; fwd-status=200")
		r.get().want(t, 200, "one", "fwd=bypass; fwd-status=200")
	})
}

type noIDs struct{}

func (noIDs) ID(uint64) (string, bool)  { return "", false }
func (noIDs) Seq(string) (uint64, bool) { return 0, false }

func TestLinks(t *testing.T) {
	link := func(r *rig, lasts ...grip.Last) *Request {
		rq := r.request()
		rq.Link, rq.Header, rq.Lasts = true, nil, lasts
		return rq
	}
	three := grip.Last{Channel: "c", ID: "3"}
	for _, tt := range []struct {
		name   string
		lasts  []grip.Last
		header []string
		want   int // of ten at once, and one later
	}{
		{"who asks at the same time shares, without an age", []grip.Last{three}, []string{"Grip-Hold: stream", "Grip-Channel: c; prev-id=4"}, 2},
		{"but not what says no", []grip.Last{three}, []string{"Cache-Control: no-store"}, 11},
		{"nor what is to be validated", []grip.Last{three}, []string{"Cache-Control: no-cache"}, 11},
		{"an age does not keep answers to Grip-Last", []grip.Last{three}, []string{"Cache-Control: max-age=60", "Grip-Hold: stream", "Grip-Channel: c; prev-id=4"}, 2},
		{"public does", []grip.Last{three}, []string{"Cache-Control: public, max-age=60", "Grip-Hold: stream", "Grip-Channel: c; prev-id=4"}, 1},
		{"without Grip-Last an age is enough", nil, []string{"Cache-Control: max-age=60"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.does(func(*http.Request) (*http.Response, error) {
					time.Sleep(time.Second)
					return respond(200, header(tt.header...), []byte("one")).Response, nil
				})
				var all sync.WaitGroup
				for range 10 {
					all.Go(func() { r.serve(link(r, tt.lasts...)) })
				}
				all.Wait()
				r.serve(link(r, tt.lasts...))
				r.wantRequests(tt.want)

				before := r.requests()
				r.serve(link(r, grip.Last{Channel: "c", ID: "4"}))
				r.wantRequests(before + 1)
			})
		})
	}
}

// Links that differ in anything lead to answers of their own, and those that do
// not lead to one, whoever asks.
func TestLinksNeverMix(t *testing.T) {
	lasts := [][]grip.Last{nil,
		{{Channel: "c", ID: "1"}}, {{Channel: "c", ID: "2"}}, {{Channel: "d", ID: "1"}}, {{Channel: "c", ID: ""}},
		{{Channel: "c", ID: "1"}, {Channel: "d", ID: "1"}}, {{Channel: "c", ID: "1\"\n\"d\"=\"1"}}, {{Channel: "c=1", ID: ""}}}
	urls := []string{"http://a/", "http://a/?", "http://a/?x=1", "http://a/?x=2", "http://a/?x=1&y", "http://a/%3Fx=1"}
	for _, control := range []string{"", "max-age=60", "public, max-age=60"} {
		t.Run(control, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				var all sync.WaitGroup
				for i := range 100 * len(urls) * len(lasts) {
					url, last := urls[i%len(urls)], lasts[i/len(urls)%len(lasts)]
					own := fmt.Sprintf("%s %q", url, last)
					rq := r.requestOf(own, "Cache-Control: "+control, "Grip-Hold: stream", "Grip-Channel: c; prev-id=1")
					rq.Link, rq.Header, rq.URL, rq.Lasts = true, nil, url, last
					all.Go(func() {
						if g := r.serve(rq); g.body != own {
							t.Errorf("got the answer to %s, want that to %s", g.body, own)
						}
					})
				}
				all.Wait()
				r.wantRequests(len(urls) * len(lasts))

				// A client's own request is not one by a link.
				for _, url := range urls {
					rq := r.requestOf("own", "Cache-Control: max-age=60")
					rq.URL = url
					if g := r.serve(rq); g.body != "own" {
						t.Errorf("got %q without a link, want its own", g.body)
					}
				}
				r.wantRequests(len(urls) * (len(lasts) + 1))
			})
		})
	}
}

// A long poll that is made again with Grip-Last has an answer of its own.
func TestGripLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.answers("one", "Cache-Control: max-age=60")
		r.get()
		again := r.request()
		again.Lasts = []grip.Last{{Channel: "c", ID: "3"}}
		r.serve(again)
		r.serve(again)
		r.wantRequests(3)
		r.get().want(t, 200, "one", "hit; ttl=60")
	})
}
