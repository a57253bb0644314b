package grip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A proxy is a control API that keeps what it was sent.
type proxy struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request) // instead of 200

	mu       sync.Mutex
	requests []*http.Request // guarded by mu; bodies read
	bodies   [][]byte        // guarded by mu
}

func newProxy(t *testing.T, answer func(http.ResponseWriter, *http.Request)) *proxy {
	t.Helper()
	p := &proxy{answer: answer}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.requests, p.bodies = append(p.requests, r), append(p.bodies, body)
	p.mu.Unlock()
	if p.answer != nil {
		p.answer(w, r)
		return
	}
	_, _ = io.WriteString(w, "Published\n")
}

// ids returns the ids of all items received, in order.
func (p *proxy) ids(t *testing.T) []string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for _, body := range p.bodies {
		items, err := ParseItems(body)
		if err != nil {
			t.Fatalf("got body %.100s: %v", body, err)
		}
		for _, it := range items {
			ids = append(ids, it.ID)
		}
	}
	return ids
}

func (p *proxy) first(t *testing.T) *http.Request {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requests) == 0 {
		t.Fatal("got no request, want one")
	}
	return p.requests[0]
}

func newPublisher(t *testing.T, urls ...string) *HTTPPublisher {
	t.Helper()
	proxies, err := ParseURLs(strings.Join(urls, " "))
	if err != nil {
		t.Fatal(err)
	}
	return NewHTTPPublisher(proxies, nil)
}

func someItems(n, size int) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i] = Item{Channel: "a", ID: fmt.Sprint(i), HTTPStream: &HTTPStream{Content: []byte(strings.Repeat("x", size))}}
	}
	return items
}

func someIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	return ids
}

func TestPublish(t *testing.T) {
	p := newProxy(t, nil)
	if err := newPublisher(t, p.URL+"/prefix/?x=1").Publish(t.Context(), someItems(3, 1)...); err != nil {
		t.Fatal(err)
	}
	r := p.first(t)
	if r.Method != "POST" || r.URL.String() != "/prefix/publish/?x=1" {
		t.Errorf("got %s %s, want POST /prefix/publish/?x=1", r.Method, r.URL)
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" || r.ContentLength <= 0 {
		t.Errorf("got type %q, length %d, want application/json and a length", ct, r.ContentLength)
	}
	if a := r.Header.Get("Authorization"); a != "" {
		t.Errorf("got Authorization %q, want none", a)
	}
	if got := p.ids(t); !slices.Equal(got, someIDs(3)) || len(p.bodies) != 1 {
		t.Errorf("got %q in %d bodies, want 3 items in one", got, len(p.bodies))
	}
}

func TestPublishNothing(t *testing.T) {
	p := newProxy(t, nil)
	if err := newPublisher(t, p.URL).Publish(t.Context()); err != nil || p.ids(t) != nil {
		t.Errorf("got %v and %q, want nothing to happen", err, p.ids(t))
	}
	if err := NewHTTPPublisher(nil, nil).Publish(t.Context(), someItems(1, 1)...); err == nil {
		t.Error("no proxies: got no error, but the item went nowhere")
	}
}

func TestPublishSplitsLargeBatches(t *testing.T) {
	p := newProxy(t, nil)
	items := slices.Concat(someItems(25, 100_000), someItems(1, 2*MaxPublishBody), someItems(2, 1))
	for i := range items {
		items[i].ID = fmt.Sprint(i)
	}
	if err := newPublisher(t, p.URL).Publish(t.Context(), items...); err != nil {
		t.Fatal(err)
	}
	if got := p.ids(t); !slices.Equal(got, someIDs(len(items))) {
		t.Errorf("got %q, want all in order", got)
	}
	var sizes []int
	for _, body := range p.bodies {
		sizes = append(sizes, len(body))
		if len(body) > MaxPublishBody && len(body) < 2*MaxPublishBody {
			t.Errorf("got a body of %d bytes, want at most %d, or one item alone", len(body), MaxPublishBody)
		}
	}
	if len(sizes) != 5 { // 9 + 9 + 7 items, the giant, the rest
		t.Errorf("got bodies of %d bytes, want 5 of them", sizes)
	}
}

func TestSplitItems(t *testing.T) {
	items := someItems(7, 1)
	one := len(AppendItems(nil, items[0]))
	pair := len(AppendItems(nil, items[:2]...))
	for _, tt := range []struct{ limit, bodies int }{{1, 7}, {one, 7}, {pair - 1, 7}, {pair, 4}, {1 << 20, 1}} {
		bodies := splitItems(items, tt.limit)
		var got []Item
		for _, body := range bodies {
			some, err := ParseItems(body)
			if err != nil {
				t.Fatalf("limit %d: got %s: %v", tt.limit, body, err)
			}
			got = append(got, some...)
		}
		if len(bodies) != tt.bodies || string(AppendItems(nil, got...)) != string(AppendItems(nil, items...)) {
			t.Errorf("limit %d: got %q, want the items in %d bodies", tt.limit, bodies, tt.bodies)
		}
	}
}

func TestPublishToAll(t *testing.T) {
	refuses := func(code int, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, code) }
	}
	good, bad, worse := newProxy(t, nil), newProxy(t, refuses(400, "Invalid\r\n  format: no\x1b formats")), newProxy(t, refuses(503, ""))
	gone := httptest.NewServer(nil)
	gone.Close()
	err := newPublisher(t, bad.URL+"/?token=sesame", good.URL, gone.URL+"/?token=sesame", worse.URL).Publish(t.Context(), someItems(2, 1)...)
	if got := good.ids(t); !slices.Equal(got, someIDs(2)) {
		t.Errorf("got %q, want the good proxy to have all", got)
	}
	text := errorText(err)
	for _, want := range []string{
		"publish: " + bad.URL + "/publish/ answers 400: Invalid format: no formats",
		"publish: " + worse.URL + "/publish/ answers 503: Service Unavailable",
		"publish: " + gone.URL + ": dial tcp",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got error %q, want %q in it", text, want)
		}
	}
	if strings.Contains(text, "sesame") {
		t.Errorf("got error %q, which shows the query", text)
	}
	if status := new(StatusError); !errors.As(err, &status) || status.Code != 400 || status.Temporary() {
		t.Errorf("got %+v, want status 400, for good", status)
	}
}

func TestStatusErrorTemporary(t *testing.T) {
	for code, want := range map[int]bool{302: false, 400: false, 401: false, 404: false, 408: true, 413: false, 429: true, 500: true, 502: true, 503: true} {
		if got := (&StatusError{Code: code}).Temporary(); got != want {
			t.Errorf("%d: got %t, want %t", code, got, want)
		}
	}
}

func TestPublishStopsAtARefusal(t *testing.T) {
	var p *proxy
	p = newProxy(t, func(w http.ResponseWriter, _ *http.Request) {
		if p.mu.Lock(); len(p.bodies) == 2 {
			w.WriteHeader(500)
		}
		p.mu.Unlock()
	})
	if err := newPublisher(t, p.URL).Publish(t.Context(), someItems(4, 600_000)...); err == nil {
		t.Error("got no error, want one")
	}
	if got := p.ids(t); !slices.Equal(got, someIDs(2)) {
		t.Errorf("got %q, want nothing after what was refused", got)
	}
}

func TestPublishFollowsNoRedirect(t *testing.T) {
	elsewhere := newProxy(t, nil)
	p := newProxy(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusFound)
	})
	err := newPublisher(t, p.URL).Publish(t.Context(), someItems(1, 1)...)
	if status := new(StatusError); !errors.As(err, &status) || status.Code != 302 {
		t.Errorf("got %v, want status 302", err)
	}
}

func TestPublishCanBeCancelled(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	p := newProxy(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	start := time.Now()
	err := newPublisher(t, p.URL).Publish(ctx, someItems(1, 1)...)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v, want it to end with the context", took)
	}
}

func TestPublishAuthorization(t *testing.T) {
	kf := keyFiles(t)[1]
	for _, tt := range []struct {
		name, user, query string
		want              string // as it stands, or
		verify            string // the key that verifies a token
	}{
		{"bearer as it stands", "", "key=tok%2Ben", "Bearer tok+en", ""},
		{"bearer in base64", "", "key=base64:dG9rZW4=", "Bearer token", ""},
		{"token", "", "iss=realm&key=base64:c2VjcmV0", "", "secret"},
		{"token by EC", "", "iss=realm&key=" + url.QueryEscape(kf.jwk), "", kf.public},
		{"basic", "bob:pass@", "", "Basic Ym9iOnBhc3M=", ""},
		{"a key wins over a user", "bob:pass@", "key=token", "Bearer token", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProxy(t, nil)
			pub := newPublisher(t, strings.Replace(p.URL, "http://", "http://"+tt.user, 1)+"/?"+tt.query)
			for range 2 { // the second may use the token again
				if err := pub.Publish(t.Context(), someItems(1, 1)...); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range p.requests {
				got := r.Header.Get("Authorization")
				if tt.verify == "" {
					if got != tt.want {
						t.Errorf("got %q, want %q", got, tt.want)
					}
					continue
				}
				bearer, _ := strings.CutPrefix(got, "Bearer ")
				if iss, err := parsedKey(t, tt.verify).Verify(bearer, time.Now()); iss != "realm" || err != nil {
					t.Errorf("got token of %q, %v, want one of realm", iss, err)
				}
			}
		})
	}
}

func TestTokenIsSignedAgainInTime(t *testing.T) {
	tg := &target{Proxy: Proxy{Iss: "realm", Key: parsedKey(t, "secret")}}
	var tokens []string
	for _, after := range []time.Duration{0, tokenReuse - 1, tokenReuse, SigLifetime} {
		at := now.Add(after)
		token, err := tg.sign(at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tg.Key.Verify(token, at.Add(SigLifetime/2)); err != nil {
			t.Errorf("after %v: got %v half an hour later, want it to be valid still", after, err)
		}
		tokens = append(tokens, token)
	}
	if tokens[0] != tokens[1] || tokens[1] == tokens[2] || tokens[2] == tokens[3] {
		t.Errorf("got %q, want the second to be the first and the others new", tokens)
	}
}

func TestPublishConcurrently(t *testing.T) {
	p := newProxy(t, nil)
	pub := newPublisher(t, p.URL+"?iss=a&key=b")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := pub.Publish(t.Context(), Item{Channel: "a", ID: fmt.Sprint(i), HTTPStream: &HTTPStream{}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got := p.ids(t)
	if slices.Sort(got); !slices.Equal(got, someIDs(8)) {
		t.Errorf("got %q, want all of them", got)
	}
}

// What every proxy would refuse, together with all that is published with it, is
// sent to none.
func TestPublishMistakes(t *testing.T) {
	good := Item{Channel: "a", HTTPStream: &HTTPStream{}}
	for _, tt := range []struct {
		item Item
		want string
	}{
		{Item{HTTPStream: &HTTPStream{}}, "publish: item 2 of 3: no channel"},
		{Item{Channel: "b"}, `publish: item 2 of 3: channel "b": no format; set HTTPStream, HTTPResponse or WSMessage`},
		{Item{Channel: "b", HTTPResponse: &HTTPResponse{Code: 1000}}, `publish: item 2 of 3: channel "b": HTTPResponse: 1000 is no status`},
		{Item{Channel: "b", HTTPResponse: &HTTPResponse{BodyPatch: []byte("[")}}, `publish: item 2 of 3: channel "b": HTTPResponse: BodyPatch is not JSON`},
	} {
		t.Run(tt.want, func(t *testing.T) {
			p := newProxy(t, nil)
			err := NewHTTPPublisher([]Proxy{{ControlURI: p.URL}}, nil).Publish(t.Context(), good, tt.item, good)
			if errorText(err) != tt.want {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
			if got := p.ids(t); len(got) > 0 {
				t.Errorf("got %d items sent, want none", len(got))
			}
		})
	}
}

// Many publishes at once leave their connections to those that follow, and a
// publisher that is no longer needed keeps none.
func TestPublisherKeepsConnections(t *testing.T) {
	const atOnce = 20
	together := make(chan chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		goOn := make(chan struct{})
		together <- goOn
		<-goOn
	}))
	var opened, open atomic.Int32
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			opened.Add(1)
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	p := NewHTTPPublisher([]Proxy{{ControlURI: server.URL}}, nil)
	publish := func() {
		var all sync.WaitGroup
		for range atOnce {
			all.Go(func() {
				if err := p.Publish(t.Context(), Item{Channel: "a", HTTPStream: &HTTPStream{}}); err != nil {
					t.Error(err)
				}
			})
		}
		var waiting []chan struct{}
		for range atOnce {
			waiting = append(waiting, <-together)
		}
		for _, goOn := range waiting {
			close(goOn)
		}
		all.Wait()
	}
	// A connection that was used just now may come back too late for one round.
	end := time.Now().Add(30 * time.Second)
	for before := int32(-1); before != opened.Load(); {
		if time.Now().After(end) {
			t.Fatalf("got %d connections opened for %d publishes at once, again and again, want none in the end", opened.Load(), atOnce)
		}
		before = opened.Load()
		publish()
	}
	p.CloseIdleConnections()
	for open.Load() > 0 {
		if time.Now().After(end) {
			t.Fatalf("got %d connections, want none", open.Load())
		}
		time.Sleep(time.Millisecond)
	}
}
