package gateway

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

func TestCapacity(t *testing.T) {
	for _, tt := range []struct {
		name          string
		cfg           Config
		descriptors   uint64
		most, sockets int
		because       string
	}{
		{"a quarter of the memory", Config{MemoryLimit: 1 << 30}, 1 << 20, 32768, 32768 + 8192 + 64, "256 MiB of MEMORY_LIMIT (1024 MiB) are for connections, at 8KiB each"},
		{"connections with TLS cost more", Config{MemoryLimit: 1 << 30, TLSCertFile: "x"}, 1 << 20, 5461, 5461 + 1365 + 64, "at 48KiB each"},
		{"what others leave", Config{MemoryLimit: 128 << 20, OtherMemory: 80 << 20}, 1 << 20, 2048, 2048 + 512 + 64, "16 MiB of MEMORY_LIMIT"},
		{"others leave nothing, which is refused elsewhere", Config{MemoryLimit: 64 << 20, OtherMemory: 64 << 20}, 1 << 20, 1024, 1024 + 256 + 64, "8 MiB of"},
		{"descriptors", Config{MemoryLimit: 1 << 30}, 1024, 1024 - 128 - 64, 1024 - 128, "1024 files and sockets open, of which 128 are kept"},
		{"many descriptors", Config{MemoryLimit: 1 << 40}, 20_000, 20_000 - 512 - 64, 20_000 - 512, "20000 files and sockets open, of which 512 are kept"},
		{"hardly any", Config{MemoryLimit: 1 << 30}, 16, 1, 14, "16 files and sockets"},
		{"more than can be counted", Config{MemoryLimit: 1 << 30}, 1<<63 - 1, 32768, 32768 + 8192 + 64, "MEMORY_LIMIT"},
		{"unknown", Config{MemoryLimit: 1 << 30}, 0, 32768, 32768 + 8192 + 64, "MEMORY_LIMIT"},
		{"as configured", Config{MemoryLimit: 1 << 30, MaxConnections: 10}, 1 << 20, 10, 76, "MAX_CONNECTIONS says so"},
		{"as configured, beyond the descriptors", Config{MemoryLimit: 1 << 30, MaxConnections: 50_000}, 1024, 50_000, 896, "MAX_CONNECTIONS says so"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.cfg.capacity(tt.descriptors)
			if got.most != tt.most || got.sockets != tt.sockets || !strings.Contains(got.because, tt.because) {
				t.Errorf("got %+v, want most %d, sockets %d, because …%s…", got, tt.most, tt.sockets, tt.because)
			}
		})
	}
}

func TestIdleCapacity(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want int
	}{
		{"what sockets there are besides", Config{MemoryLimit: 1 << 30, MaxConnections: 1000}, 250 + 64},
		{"a fifth of them", Config{MemoryLimit: 1 << 30, MaxConnections: 50_000}, (20_000 - 512) / 5},
		{"as configured", Config{MemoryLimit: 1 << 30, MaxConnections: 1000, MaxIdleConnections: 10}, 10},
	} {
		if got := tt.cfg.capacity(20_000).idle; got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestConnectionsAreLimitedByDefault(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxConnections, c.MemoryLimit = 0, 64<<20 })
	if got := f.metric(t, "spillway_connections_limit", nil); got != 2048 {
		t.Errorf("limit: got %v, want 16MiB / 8KiB", got)
	}
}

// While too much waits for slow clients nobody new is served, and no page is made
// that would wait as well.
func TestCrowded(t *testing.T) {
	f := start(t, nil)
	c := f.get(t, "/events/list/")
	c.want(":ok\n\n")
	f.attached(t, 1)
	asked := func() float64 { return f.metric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "hint"}) }
	limit := int(f.metric(t, "spillway_private_limit_bytes", nil))
	f.engine.Keep(limit)
	f.get(t, "/events/list/").wantEnd("event: stream-error\ndata: {\"code\":\"too-many-connections\"}\n\n")
	f.wantMetric(t, "spillway_refused_total", prometheus.Labels{"reason": "memory"}, 1)
	pages := len(f.list.askedIDs())
	f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
	eventually(t, "the link to be due", func() bool { return asked() == 1 })
	if got := len(f.list.askedIDs()); got != pages {
		t.Errorf("pages: got %d, want %d as before", got, pages)
	}
	f.engine.Keep(-limit)
	eventually(t, "the page", func() bool { return len(f.list.askedIDs()) == pages+1 })
	f.get(t, "/events/list/").want(":ok\n\n")
}

// What of a client's messages waits for the origin is counted, until it has them or
// the client has left.
func TestMessagesAreCounted(t *testing.T) {
	f := start(t, nil)
	f.list.gate = make(chan struct{})
	answer := sync.OnceFunc(func() { close(f.list.gate) })
	defer answer()
	waiting := func() float64 { return f.metric(t, "spillway_private_bytes", nil) }
	talk := func(nth int) *wsClient {
		c := f.dial(t, "/events/list/")
		c.send("detach")
		eventually(t, "the origin to be asked", func() bool {
			f.list.mu.Lock()
			defer f.list.mu.Unlock()
			return len(f.list.posts) == nth
		})
		c.send(strings.Repeat("x", 1000))
		eventually(t, "the message to be counted", func() bool { return waiting() == 1000+eventWeight })
		return c
	}
	talk(1).conn.CloseNow()
	eventually(t, "nothing to be kept", func() bool { return waiting() == 0 })
	talk(2)
	answer()
	eventually(t, "nothing to be kept", func() bool { return waiting() == 0 })
}

// A session of SockJS that is polled counts once, whether or not a request waits for
// it, and when there is no room for others it goes on.
func TestPolledSessionsCountOnce(t *testing.T) {
	f := start(t, func(c *Config) {
		c.Routes, c.MaxConnections, c.SockJSSessionTimeout = "*,sockjs=/sock,sockjs_as_path=/ test", 2, time.Minute
	})
	poll := func(session string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, f.url+"/sock/000/"+session, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	counted := func() int {
		f.limits.mu.Lock()
		defer f.limits.mu.Unlock()
		return f.limits.total
	}
	for i, session := range []string{"a", "b"} {
		if resp := poll(session + "/xhr"); resp.StatusCode != http.StatusOK {
			t.Errorf("session %s: got status %d, want 200", session, resp.StatusCode)
		}
		eventually(t, "the session to be counted", func() bool { return counted() == i+1 })
	}
	f.listening(t, "test", 2)
	f.publish(t, grip.Item{Channel: "test", WSMessage: &grip.WSMessage{Content: []byte("x")}}).wantStatus(200)
	for _, session := range []string{"a", "b"} { // their streams begin, and go on
		if resp := poll(session + "/xhr_streaming"); resp.StatusCode != http.StatusOK {
			t.Errorf("session %s: got status %d, want 200", session, resp.StatusCode)
		}
	}
	if got := counted(); got != 2 {
		t.Errorf("with requests that wait: got %d counted, want 2", got)
	}
	if resp := poll("c/xhr"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third: got status %d, want 503", resp.StatusCode)
	}
	f.publish(t, grip.Item{Channel: "test", WSMessage: &grip.WSMessage{Action: grip.ActionClose}}).wantStatus(200)
	eventually(t, "nobody to be counted", func() bool { return counted() == 0 })
}
