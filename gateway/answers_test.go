package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/grip"
)

// cached answers with a header, which allows to keep it, and a body.
func cached(body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = io.WriteString(w, body)
	}
}

func (f *fixture) tell(t *testing.T, method, target string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.ControlAddr().String()+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func wantCount(t *testing.T, a *apiOrigin, want int) {
	t.Helper()
	if got := a.count(); got != want {
		t.Errorf("got %d requests to the origin, want %d", got, want)
	}
}

func TestCacheOfPlainAnswers(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{
		"/page":  cached("page", "Etag", `"a"`, "Vary", "Accept-Encoding, Accept-Language"),
		"/other": cached("other"),
	}, ",cache")
	f.get(t, "/page").wantStatus(200).wantEnd("page")
	c := f.get(t, "/page").wantStatus(200)
	c.wantEnd("page")
	if c.resp.Header.Get("Age") == "" || !strings.HasPrefix(c.resp.Header.Get("Cache-Status"), "spillway; hit") || c.resp.ContentLength != 4 {
		t.Errorf("got %v, want Age, a hit, and the length", c.resp.Header)
	}
	f.do(t, "HEAD", "/page", nil).wantStatus(200).wantEnd("")
	f.get(t, "/page", "If-None-Match", `"a"`).wantStatus(304).wantEnd("")
	wantCount(t, a, 1)

	f.get(t, "/page?x").wantStatus(200)
	f.get(t, "/page", "Accept-Language", "de").wantStatus(200)
	f.get(t, "/page", "Cookie", "a=b").wantStatus(200)
	wantCount(t, a, 4)

	f.get(t, "/other")
	f.do(t, "POST", "/other", strings.NewReader("x")).wantStatus(200)
	f.get(t, "/other")
	wantCount(t, a, 7)
}

func TestNoCacheUnlessTheRouteSaysSo(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{"/page": cached("page")}, "")
	for range 3 {
		if c := f.get(t, "/page").wantStatus(200); c.resp.Header.Get("Cache-Status") != "" {
			t.Errorf("got Cache-Status %q, want none", c.resp.Header.Get("Cache-Status"))
		}
	}
	wantCount(t, a, 3)
}

func TestPurge(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{"/page": cached("page")}, ",cache")
	f.get(t, "/page?x=1").wantEnd("page")
	for _, tt := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"PURGE", "/" + f.url + "/page", 200, "Purged: 0\n"},
		{"PURGE", "/" + f.url + "/page?x=1", 200, "Purged: 1\n"},
		{"PURGE", "/page", 400, "Invalid URL: \"page\" is not a URL; write http://HOST/PATH?QUERY, or https://, after the first slash.\n"},
	} {
		if status, body := f.tell(t, tt.method, tt.target); status != tt.status || body != tt.body {
			t.Errorf("%s %s: got %d %q, want %d %q", tt.method, tt.target, status, body, tt.status, tt.body)
		}
	}
	f.get(t, "/page?x=1").wantEnd("page")
	wantCount(t, a, 2)

	f.do(t, "PURGE", "/page?x=1", nil) // of a client: the origin's affair
	if a.last().Method != "PURGE" {
		t.Errorf("got %s, want that the method goes on", a.last().Method)
	}
	f.tell(t, "POST", "/recover/")
	f.get(t, "/page?x=1").wantEnd("page") // it holds nothing, but the PURGE may have changed it
	wantCount(t, a, 4)
}

// The origin answers with what there is now, and holds: each client gets that,
// and everything that is published from then on, wherever its own subscription
// falls between publications.
func TestCachedHoldsMissNothing(t *testing.T) {
	const items, clients = 200, 60
	for _, tt := range []struct {
		name    string
		channel func(total int) string
		link    bool
		ids     bool
	}{
		{"without ids", func(int) string { return "c" }, false, false},
		{"with prev-id and link", func(n int) string { return fmt.Sprintf("c; prev-id=%d", n) }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			total := 0
			page := func(w http.ResponseWriter, from int) {
				mu.Lock()
				n := total
				mu.Unlock()
				w.Header().Set("Cache-Control", "s-maxage=60")
				w.Header().Set("Grip-Hold", "stream")
				w.Header().Set("Grip-Channel", tt.channel(n))
				if tt.link {
					w.Header().Set("Grip-Link", "</next>; rel=next")
				}
				for i := from; i <= n; i++ {
					fmt.Fprintf(w, "%d\n", i)
				}
			}
			f, a := routed(t, map[string]http.HandlerFunc{
				"/all": func(w http.ResponseWriter, _ *http.Request) { page(w, 1) },
				"/next": func(w http.ResponseWriter, r *http.Request) {
					_, id, _ := strings.Cut(r.Header.Get("Grip-Last"), "last-id=")
					n, _ := strconv.Atoi(id)
					page(w, n+1)
				},
			}, ",cache")
			f.get(t, "/all").wantStatus(200) // before it, the gateway does not know the channel

			var all sync.WaitGroup
			var bad atomic.Int32
			for i := range clients {
				all.Go(func() {
					eventually(t, "its time", func() bool {
						mu.Lock()
						defer mu.Unlock()
						return total >= i*items/clients
					})
					c := f.get(t, "/all").wantStatus(200)
					last := 0
					for last < items {
						line, err := c.body.ReadString('\n')
						n, _ := strconv.Atoi(strings.TrimSpace(line))
						// Without ids an item may come twice, in the body and after it.
						if err != nil || n > last+1 || n <= last && tt.ids {
							bad.Add(1)
							t.Errorf("client %d: got %q, %v after %d", i, line, err, last)
							return
						}
						last = max(last, n)
					}
				})
			}
			for i := 1; i <= items && bad.Load() == 0; i++ {
				mu.Lock()
				total = i
				mu.Unlock()
				it := text("c", "", "", fmt.Sprintf("%d\n", i))
				if tt.ids {
					it.ID, it.PrevID = strconv.Itoa(i), strconv.Itoa(i-1)
				}
				f.publish(t, it).wantStatus(200)
				time.Sleep(2 * time.Millisecond) // some items a cache interval, and many intervals
			}
			all.Wait()
			t.Logf("%d requests for %d clients and %d publications", a.count(), clients+1, items)
			if n := a.count(); n > 40 {
				t.Errorf("got %d requests to the origin, want few", n)
			}
		})
	}
}

// A poll gets the hold from the cache, and the item that came after the origin
// answered.
func TestCachedPolls(t *testing.T) {
	var total atomic.Int64
	f, a := routed(t, map[string]http.HandlerFunc{"/poll": func(w http.ResponseWriter, r *http.Request) {
		cached("nothing yet", "Grip-Hold", "response", "Grip-Channel", fmt.Sprintf("c; prev-id=%d", total.Load()))(w, r)
	}}, ",cache")
	const clients = 20
	answers := make(chan string, clients)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			c := f.get(t, "/poll").wantStatus(200)
			b, _ := io.ReadAll(c.body)
			answers <- string(b)
		})
	}
	f.listening(t, "c", clients)
	wantCount(t, a, 1)
	total.Store(1)
	f.publish(t, text("c", "1", "0", "one"))
	all.Wait()
	close(answers)
	for got := range answers {
		if got != "one" {
			t.Errorf("got %q, want one", got)
		}
	}

	// By the answer that is kept it would get the same item again.
	c := make(chan string, 1)
	all.Go(func() {
		b, _ := io.ReadAll(f.get(t, "/poll").wantStatus(200).body)
		c <- string(b)
	})
	f.listening(t, "c", 1)
	wantCount(t, a, 2)
	f.publish(t, text("c", "2", "1", "two"))
	if got := <-c; got != "two" {
		t.Errorf("got %q, want two", got)
	}
	all.Wait()
}

// A hold from the cache is subscribed to a target's sub as well, and stale when
// something is published there.
func TestCachedHoldsOfTargetsWithSub(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{"/": cached("", "Grip-Hold", "stream", "Grip-Channel", "own; prev-id=1", "Grip-Link", "</n>; rel=next")}, ",cache")
	f.Gateway.routes.set(mustRoutes(t, "*,cache,prefix=p- "+a.Listener.Addr().String()+",sub=all"))
	for range 3 {
		f.get(t, "/").wantStatus(200)
	}
	wantCount(t, a, 1)
	for _, channel := range []string{"p-own", "all"} {
		f.listening(t, channel, 3)
	}
	f.publish(t, text("all", "", "", "x"))
	f.get(t, "/").wantStatus(200)
	wantCount(t, a, 2)
}

// What a hint makes streams ask, they ask together.
func TestHintedStreamsShareALink(t *testing.T) {
	var version atomic.Int64
	page := func(w http.ResponseWriter, _ *http.Request) {
		n := version.Load()
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", fmt.Sprintf("c; prev-id=%d", n))
		w.Header().Set("Grip-Link", "</next?all>; rel=next")
		fmt.Fprintf(w, "version %d\n", n)
	}
	f, a := routed(t, map[string]http.HandlerFunc{"/": page, "/next": page}, ",cache")
	const clients = 50
	streams := make([]*client, clients)
	for i := range streams {
		streams[i] = f.get(t, "/").wantStatus(200)
		streams[i].want("version 0\n")
	}
	f.listening(t, "c", clients)
	before := a.count()
	version.Store(1)
	f.publish(t, grip.Item{Channel: "c", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
	for _, s := range streams {
		s.want("version 1\n")
	}
	if n := a.count() - before; n > clients/5 {
		t.Errorf("got %d requests for the link of %d streams, want few", n, clients)
	}
}

// A crowd costs the origin one request, whatever it holds on to: a page, streams,
// or long polls.
func TestCrowds(t *testing.T) {
	each := 4
	if os.Getenv("SPILLWAY_E2E") == "full" {
		each = 20 // 100,000 requests for pages
	}
	for _, tt := range []struct {
		name  string
		hold  string
		crowd int // that comes at once, to wait for one another
		each  int // requests of each, one after the other
		waves int
	}{
		{"pages", "", 1000, each, 5},
		{"streams", "stream", 1000, 1, 3},
		{"long polls", "response", 1000, 1, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			release := make(chan struct{}, 1)
			f, a := routed(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, r *http.Request) {
				<-release
				var header []string
				if tt.hold != "" {
					header = []string{"Grip-Hold", tt.hold, "Grip-Channel", "c"}
				}
				cached("page", header...)(w, r)
			}}, ",cache")
			t.Cleanup(func() { close(release) }) // for what should not have been asked
			for wave := range tt.waves {
				ctx, cancel := context.WithCancel(t.Context())
				var all sync.WaitGroup
				var bad atomic.Int64
				for range tt.crowd {
					all.Go(func() {
						for range tt.each {
							w := f.inProcess(ctx, "http://api.test/")
							if body := w.Body.String(); w.Code != http.StatusOK || body != "page" && tt.hold == "" {
								bad.Add(1)
								t.Logf("got %d %q", w.Code, body)
							}
						}
					})
				}
				eventually(t, "the origin is asked", func() bool { return a.count() == wave+1 })
				release <- struct{}{}
				switch tt.hold {
				case "":
					all.Wait()
					if status, body := f.tell(t, "PURGE", "/http://api.test/"); status != 200 || body != "Purged: 1\n" {
						t.Errorf("purge: got %d %q", status, body)
					}
				default:
					f.listening(t, "c", tt.crowd)
					f.publish(t, text("c", "", "", "item")).wantStatus(200)
					if tt.hold == "stream" {
						cancel()
					}
					all.Wait()
					f.listening(t, "c", 0)
				}
				cancel()
				if n := bad.Load(); n > 0 {
					t.Errorf("%d wrong answers", n)
				}
				wantCount(t, a, wave+1)
			}
		})
	}
}

// inProcess has the handler answer a request that comes by no connection.
func (f *fixture) inProcess(ctx context.Context, url string) (w *httptest.ResponseRecorder) {
	w = httptest.NewRecorder()
	defer func() {
		if p := recover(); p != nil && p != any(http.ErrAbortHandler) { // a panic's value is compared as net/http does
			panic(p)
		}
	}()
	f.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, url, nil))
	return w
}

// What the origin in this process says is not kept, whatever a route says.
func TestTheOriginInTheProcessIsNotCached(t *testing.T) {
	a := newAPI(t, map[string]http.HandlerFunc{"/": cached("page")})
	f := start(t, func(c *Config) { c.Routes = "*,cache " + a.Listener.Addr().String() })
	for range 3 {
		if c := f.get(t, "/events/list/").wantStatus(200); c.resp.Header.Get("Cache-Status") != "" {
			t.Errorf("got Cache-Status %q, want none", c.resp.Header.Get("Cache-Status"))
		}
	}
	f.list.mu.Lock()
	defer f.list.mu.Unlock()
	if n := len(f.list.headers); n < 3 {
		t.Errorf("got %d requests, want each", n)
	}
	wantCount(t, a, 0)
}

// A gateway in front of this one has its own clients: it gets what the origin
// says, each time.
func TestTrustedGatewaysAreNotAnsweredFromTheCache(t *testing.T) {
	key, err := grip.ParseKey("of gateways")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign("front", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := newAPI(t, map[string]http.HandlerFunc{"/": cached("page")})
	f := start(t, func(c *Config) {
		c.Routes = "*,cache " + a.Listener.Addr().String()
		c.UpstreamKey = "of gateways"
	})
	f.get(t, "/").wantEnd("page")
	f.get(t, "/").wantEnd("page")
	wantCount(t, a, 1)
	f.get(t, "/", "Grip-Sig", sig).wantEnd("page")
	wantCount(t, a, 2)
}

func TestStaleAnswersOfAnOriginThatIsDown(t *testing.T) {
	f, a := routed(t, map[string]http.HandlerFunc{"/": cached("page", "Cache-Control", "max-age=0, stale-if-error=60")}, ",cache")
	f.get(t, "/").wantStatus(200).wantEnd("page")
	a.Close()
	for range 3 {
		f.get(t, "/").wantStatus(200).wantEnd("page")
	}
	f.get(t, "/never-asked").wantStatus(502)
}

func TestCacheConfig(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // of the error
	}{
		{"defaults", func(*Config) {}, ""},
		{"too small", func(c *Config) { c.CacheMemory = 1000 }, "CACHE_MEMORY"},
		{"more than there is", func(c *Config) { c.MemoryLimit, c.CacheMemory = 64<<20, 128<<20 }, "CACHE_MEMORY"},
		{"leaves nothing for connections", func(c *Config) { c.MemoryLimit, c.CacheMemory, c.LogMemory = 64<<20, 48<<20, 16<<20 }, "LOG_MEMORY"},
		{"answer", func(c *Config) { c.CacheMaxAnswer = 1 }, "CACHE_MAX_ANSWER"},
		{"interval", func(c *Config) { c.CachePublishInterval = time.Hour }, "CACHE_PUBLISH_INTERVAL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig()
			tt.change(&cfg)
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if (got == "") != (tt.want == "") || !bytes.Contains([]byte(got), []byte(tt.want)) {
				t.Errorf("got %q, want it to name %q", got, tt.want)
			}
		})
	}
}
