package relay

import (
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"spillway/grip/bytesize"
	"spillway/relay/kafkatest"
)

// There are at most MAX_VIEWS views, each in as many forms as it has; who wants
// one that is there already gets it.
func TestViewsAreBounded(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k, func(c *Config) { c.MaxViews, c.TopicLinger = 3, 0 })
	var names []string
	for _, query := range []string{"key=a", "key=a&event_from=key", "key=b"} {
		s := h.open("/events/" + topic + "/?" + query)
		s.until("hold", func(string) bool { return s.holding })
		h.gw.listen(s.channel)
		names = append(names, s.channel)
	}
	for _, query := range []string{"key=c", "key=b&event_from=key"} {
		for form, header := range forms {
			w := h.get("/events/"+topic+"/?"+query, header...)
			body := w.Body.String()
			if form == "event stream" {
				if w.Code != http.StatusOK || !strings.Contains(body, `"code":"too-many-views"`) || !strings.Contains(body, "retry: ") {
					t.Errorf("%s, %s: %d %s", query, form, w.Code, body)
				}
			} else if p := problemOf(t, w); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || p.Code != codeTooManyViews {
				t.Errorf("%s, %s: %d %s", query, form, w.Code, body)
			}
		}
	}
	h.open("/events/"+topic+"/?key=b").until("hold", func(string) bool { return true })
	hub := h.r.hub
	hub.mu.Lock()
	views, channels := len(hub.views), len(hub.round)
	hub.mu.Unlock()
	if views != 2 || channels != 3 {
		t.Errorf("%d views in %d channels, want 2 in 3", views, channels)
	}
	var m dto.Metric
	if err := hub.metrics.refused.Write(&m); err != nil {
		t.Fatal(err)
	}
	if got, want := m.GetCounter().GetValue(), float64(2*len(forms)); got != want {
		t.Errorf("%v refusals are counted, want %v", got, want)
	}
	h.gw.mu.Lock()
	h.gw.channels[names[2]].listeners = 0
	h.gw.mu.Unlock()
	h.eventually("there is room again", func() bool {
		return h.get("/events/"+topic+"/?key=c", "Accept", "application/x-ndjson").Code == http.StatusOK
	})
}

func TestFiltersAreBounded(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k, func(c *Config) { c.FilterMaxBytes, c.FilterMaxCost = 40, 50 })
	for _, tt := range []struct{ query, want string }{
		{"filter=" + strings.Repeat("value.n==1||", 4) + "value.n==2", "58 bytes long; 40 are the most"},
		{"filter=value.exists(x,x.a=='b')", "50 are the most"},
		{"key=" + strings.Repeat("a", 9000), "8192 are the most"},
		{"header.x=" + strings.Repeat("a", 9000), "8192 are the most"},
	} {
		if w := h.get("/events/" + topic + "/?" + tt.query); w.Code != http.StatusBadRequest || !strings.Contains(problemOf(t, w).Detail, tt.want) {
			t.Errorf("%.40s: %d %s, want 400 with %q", tt.query, w.Code, w.Body, tt.want)
		}
	}
	if w := h.get("/events/" + topic + "/?filter=value.n==1"); w.Code != http.StatusOK {
		t.Errorf("a short filter: %d %s", w.Code, w.Body)
	}
}

// A filter that nothing can pass moves on without reading anything, and its
// cursors are as good as any.
func TestFiltersThatNothingPasses(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	orders(k, topic, 0, 40)
	h := startRelay(t, k)
	fetches := historyFetches(k)
	for _, query := range []string{"filter=false", "partition=0&filter=partition==1", "partition=0&filter=partition==1+%26%26+value.n==1"} {
		s := h.open("/events/" + topic + "/?from=earliest&" + query)
		s.until("hold", func(string) bool { return s.holding })
		if id := s.lastEventID(); !strings.HasSuffix(id, ".2.k.k") {
			t.Errorf("%s: the id %q, want the end of both partitions", query, id)
		}
		again := h.open("/events/"+topic+"/?"+query, "Last-Event-ID", s.lastEventID())
		again.until("hold", func(string) bool { return again.holding })
		last := h.open("/events/" + topic + "/?last=5&" + query)
		last.until("hold", func(string) bool { return last.holding })
		end := h.open("/events/" + topic + "/?from=earliest&until=0s&" + query)
		end.until("the end", func(string) bool { return end.ended })
	}
	if n := fetches.Load(); n != 0 {
		t.Errorf("history was read %d times, want never", n)
	}
}

func TestEvaluationsAreCounted(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, `{"n":1}`, `{"n":20}`, `{"m":20}`)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&filter=value.n>9")
	s.wantData(`{"n":20}`)
	s.until("hold", func(string) bool { return s.holding })
	if c := h.r.origin.queries.compiler; c.Evaluations() != 3 || c.Errs() != 1 {
		t.Errorf("%d evaluations and %d errors are counted, want 3 and 1", c.Evaluations(), c.Errs())
	}
}

func TestLimitsOfViewsAreChecked(t *testing.T) {
	for _, tt := range []struct {
		want string
		set  func(*Config)
	}{
		{"FILTER_MAX_BYTES=0: must be between 1 and 65536", func(c *Config) { c.FilterMaxBytes = 0 }},
		{"FILTER_MAX_COST=0: must be between 1 and 1000000000", func(c *Config) { c.FilterMaxCost = 0 }},
		{"MAX_VIEWS=-1: must be between 0 and 1000000000", func(c *Config) { c.MaxViews = -1 }},
		{"SNAPSHOT_MAX_BYTES=65535: must be between 65536 and 1099511627776", func(c *Config) { c.SnapshotMaxBytes = 64<<10 - 1 }},
		{"SNAPSHOT_MAX_BYTES=1099511627777: must be between 65536 and 1099511627776", func(c *Config) { c.SnapshotMaxBytes = 1<<40 + 1 }},
		{"SNAPSHOT_MEMORY=1048575: must be 0 or at least 1MiB", func(c *Config) { c.SnapshotMemory = 1<<20 - 1 }},
		{"SNAPSHOT_MEMORY=-1: must be 0 or at least 1MiB", func(c *Config) { c.SnapshotMemory = -1 }},
	} {
		c := testConfig("127.0.0.1:9092")
		if tt.set(&c); c.Validate() == nil || c.Validate().Error() != tt.want {
			t.Errorf("got %v, want %s", c.Validate(), tt.want)
		}
	}
	c := testConfig("127.0.0.1:9092")
	c.HeartbeatInterval, c.MaxViews, c.SnapshotMaxBytes = time.Second, 0, 64<<10
	for _, c.SnapshotMemory = range []bytesize.Bytes{0, 1 << 20} {
		if err := c.Validate(); err != nil {
			t.Errorf("MAX_VIEWS=0, SNAPSHOT_MAX_BYTES=64KiB, SNAPSHOT_MEMORY=%v: %v", c.SnapshotMemory, err)
		}
	}
}
