package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/kafkatest"
)

// A memPublisher keeps what it accepted. While refuse is not nil it accepts
// nothing.
type memPublisher struct {
	mu      sync.Mutex
	refuse  error
	refused int
	items   []grip.Item
}

func (p *memPublisher) Publish(_ context.Context, items ...grip.Item) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != nil {
		p.refused++
		return p.refuse
	}
	p.items = append(p.items, items...)
	return nil
}

func (p *memPublisher) set(refuse error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// accepted is each item as "channel id<prev-id stream|message".
func (p *memPublisher) accepted() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range p.items {
		s := fmt.Sprintf("%s %s<%s", it.Channel, it.ID, it.PrevID)
		if it.HTTPStream != nil {
			s += " " + strings.Join(it.HTTPStream.ContentFilters, ",") + strings.ReplaceAll(string(it.HTTPStream.Content), "\n", "$")
		}
		if it.WSMessage != nil {
			s += "|" + string(it.WSMessage.Content)
		}
		out = append(out, s)
	}
	return out
}

// startForwarder runs a forwarder until stop is called or the test ends.
func startForwarder(t *testing.T, k *kafkatest.Cluster, topic string, proxies grip.Publisher, configure ...func(*Config)) (f *Forwarder, stop func()) {
	t.Helper()
	cfg := Config{
		KafkaConsumerConfig: fmt.Sprintf(`{"bootstrap.servers":%q,"group.id":%q,"auto.offset.reset":"earliest","auto.commit.interval.ms":100,"topic.metadata.refresh.interval.ms":200}`, k.Bootstrap(), topic),
		Topics:              []string{topic + ".*"},
		RelayChannels:       channelsPartition,
		EventMaxBytes:       1 << 20,
		RequireGroup:        true,
	}
	for _, c := range configure {
		c(&cfg)
	}
	f, err := NewForwarder(cfg, proxies, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := f.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	t.Cleanup(stop)
	return f, stop
}

func TestForwardedItems(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		channels string
		want     []string
	}{
		{channelsPartition, []string{
			"T.0 1<0 build-idevent: message$id: %I$data: 100%% sure$$|100% sure",
			"T.0 2<1 build-idevent: delete$id: %I$data: 5%%$$", // a raw message has no room for it
			"T.0 3<2 build-idevent: binary$id: %I$data: /w==$$|\xff",
			"T.0 4<3 build-idevent: message$id: %I$data: id: $data: x$$|id: \nx",
		}},
		{channelsTopic, []string{
			"T 0-0< event: message$data: 100% sure$$|100% sure",
			"T 0-1< event: delete$data: 5%$$",
			"T 0-2< event: binary$data: /w==$$|\xff",
			"T 0-3< event: message$data: id: $data: x$$|id: \nx",
		}},
	} {
		t.Run(tt.channels, func(t *testing.T) {
			k := kafkatest.Fake(t)
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, 1)
			k.Produce(
				&kgo.Record{Topic: topic, Value: []byte("100% sure")},
				&kgo.Record{Topic: topic, Key: []byte("5%")},
				&kgo.Record{Topic: topic, Value: []byte{0xff}},
				&kgo.Record{Topic: topic, Value: []byte("id: \nx")},
			)
			var p memPublisher
			f, _ := startForwarder(t, k, topic, &p, func(c *Config) { c.RelayChannels = tt.channels })
			h := &harness{t: t}
			h.eventually("all items", func() bool { return len(p.accepted()) >= len(tt.want) })
			for i, got := range p.accepted() {
				if want := topic + tt.want[i][1:]; got != want {
					t.Errorf("item %d: got %q, want %q", i, got, want)
				}
			}
			h.eventually("the counter", func() bool { return countOf(t, f.published) == float64(len(tt.want)) })
		})
	}
}

func TestForwardToBothKindsOfChannels(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	k.CreateTopic(topic+"-secret", 1)
	values(k, topic+"-secret", "hidden")
	k.Produce(value(topic, 1, "v"))
	var p memPublisher
	startForwarder(t, k, topic, &p, func(c *Config) {
		c.RelayChannels = channelsBoth
		c.TopicsExclude = []string{".*-secret"}
	})
	h := &harness{t: t}
	h.eventually("both items", func() bool { return len(p.accepted()) >= 2 })
	want := []string{topic + ".1 1<0 build-idevent: message$id: %I$data: v$$|v", topic + " 1-0< event: message$data: v$$|v"}
	if got := p.accepted(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A proxy as an HTTP server sees it: down at first, then refusing, then up.
func TestForwardCommitsWhatWasAccepted(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		values(k, topic, "v0", "v1")
		var mu sync.Mutex
		status, asked := http.StatusServiceUnavailable, 0
		var bodies []string
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			if asked++; status == http.StatusOK {
				bodies = append(bodies, string(body))
			}
			w.WriteHeader(status)
		}))
		defer proxy.Close()
		proxies, err := grip.ParseURLs(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		f, stop := startForwarder(t, k, topic, grip.NewHTTPPublisher(proxies, nil))
		h := &harness{t: t}
		h.eventually("a second try", func() bool { mu.Lock(); defer mu.Unlock(); return asked >= 2 })
		if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "publish to the proxies") {
			t.Errorf("ready says %v while no proxy accepts", err)
		}
		if n := countOf(t, f.retries); n < 1 {
			t.Errorf("%v retries were counted", n)
		}
		if lag, ok := k.GroupLag(topic, topic); ok && lag < 2 {
			t.Errorf("a lag of %d: something was committed that no proxy accepted", lag)
		}
		mu.Lock()
		status = http.StatusOK
		mu.Unlock()
		h.eventually("accepted", func() bool { return countOf(t, f.published) == 2 })
		h.eventually("committed", func() bool { lag, ok := k.GroupLag(topic, topic); return ok && lag == 0 })
		if err := f.Ready(); err != nil {
			t.Errorf("not ready though all is well: %v", err)
		}
		if all := strings.Join(bodies, ""); strings.Count(all, `"id":"1"`) != 1 || strings.Count(all, `"id":"2"`) != 1 {
			t.Errorf("accepted bodies %s, want each item once", all)
		}
		stop()
	})
}

// A restarted relay goes on at the commit, and its first item follows the last
// one of before.
func TestForwardResumes(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := &harness{t: t}
		var first memPublisher
		values(k, topic, "v0", "v1")
		_, stop := startForwarder(t, k, topic, &first)
		h.eventually("two items", func() bool { return len(first.accepted()) == 2 })
		// What is on its way when it stops was not accepted, and is not committed.
		first.set(errors.New("down"))
		values(k, topic, "v2")
		h.eventually("a refusal", func() bool { first.mu.Lock(); defer first.mu.Unlock(); return first.refused > 0 })
		stop()
		k.ProduceTxn(false, value(topic, 0, "aborted"))
		values(k, topic, "v3")

		var second memPublisher
		startForwarder(t, k, topic, &second)
		h.eventually("the rest", func() bool { return len(second.accepted()) >= 2 })
		want := []string{
			topic + ".0 3<2 build-idevent: message$id: %I$data: v2$$|v2",
			topic + ".0 6<3 build-idevent: message$id: %I$data: v3$$|v3",
		}
		if got := second.accepted(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// After a mark of a transaction the next batch does not begin where the last
// item ended; its prev-id still names that item, also after a restart.
func TestForwardKeepsThePrevIDOverHoles(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := &harness{t: t}
	var first, second memPublisher
	values(k, topic, "v0")
	_, stop := startForwarder(t, k, topic, &first)
	h.eventually("an item", func() bool { return len(first.accepted()) == 1 })
	stop()
	k.ProduceTxn(false, value(topic, 0, "aborted"))
	values(k, topic, "v1")
	startForwarder(t, k, topic, &second)
	h.eventually("an item", func() bool { return len(second.accepted()) == 1 })
	if got, want := second.accepted()[0], topic+".0 4<1 "; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q…", got, want)
	}
}

func TestBuildID(t *testing.T) {
	w := writer{rendering: rendering{form: formPlain}, maxBytes: 100}
	for _, tt := range []struct{ value, want string }{
		{"x", "event: message\nid: %I\ndata: x\n\n"},
		{"100%", "event: message\nid: %I\ndata: 100%%\n\n"},
		{"%I %%", "event: message\nid: %I\ndata: %%I %%%%\n\n"},
		{"a\x00\nid: \x00\nb", "event: message\nid: %I\ndata: a\x00\ndata: id: \x00\ndata: b\n\n"},
	} {
		r := aRecord(nil, []byte(tt.value))
		if got := string(buildID(w.appendStream(nil, r, kindText, []byte{idPlaceholder}))); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.value, got, tt.want)
		}
	}
}
