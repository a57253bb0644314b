package relay

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

func TestPacedReplay(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	const n, apart = 5, 100 * time.Millisecond
	for i, v := range numbered("v", 0, n) {
		k.Produce(&kgo.Record{Topic: topic, Partition: int32(i % 2), Value: []byte(v), Timestamp: noon.Add(time.Duration(i) * apart)})
	}
	h := startRelay(t, k)
	for _, tt := range []struct {
		speed string
		least time.Duration // that it takes
	}{
		{"1", (n - 1) * apart},
		{"2", (n - 1) * apart / 2},
		{"1000", 0},
	} {
		begin := time.Now()
		s := h.open("/events/" + topic + "/?from=earliest&speed=" + tt.speed)
		s.wantData(numbered("v", 0, n)...)
		if took := time.Since(begin); took < tt.least {
			t.Errorf("speed=%s: it took %v, want %v at least", tt.speed, took, tt.least)
		}
		s.until("live", func(string) bool { return s.live() })
	}
}

// Between two records a stream holds a channel that nothing that happens to its
// topic touches, and takes no listener's place.
func TestPausedStream(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	produce := func() {
		k.Produce(
			&kgo.Record{Topic: topic, Value: []byte("first"), Timestamp: noon},
			&kgo.Record{Topic: topic, Value: []byte("an hour later"), Timestamp: noon.Add(time.Hour)},
		)
	}
	produce()
	h := startRelay(t, k, func(c *Config) { c.TopicLinger = 0 })
	s := h.open("/events/" + topic + "/?from=earliest&speed=1")
	s.until("a pause", func(string) bool { return s.holding && s.channel == pauseChannel })
	s.wantData("first")
	if s.timeout < 59*time.Minute || s.timeout > time.Hour {
		t.Errorf("the link is asked after %v, want nearly an hour", s.timeout)
	}
	h.eventually("the topic is released", func() bool { return !h.read(topic) && len(h.channels()) == 0 })
	h.open("/events/" + topic + "/")
	former := mustLookup(t, h, topic).id
	k.DeleteTopic(topic)
	k.CreateTopic(topic, 1)
	produce()
	h.eventually("the new topic is known", func() bool {
		info, err := h.r.catalog.lookup(t.Context(), topic) // for a moment there is none
		return err == nil && info.id != former && len(h.channels()) == 0
	})
	if s.step() || !s.holding {
		t.Error("it did not wait on when its topic was created again")
	}
	s.timeout = time.Nanosecond // the hour is over
	s.wantData("first", `gap {"topic":"`+topic+`","reason":"topic-changed","exact":false,"time":"`+noon.Add(-time.Minute).Format(time.RFC3339)+`"}`, "first")
}

// What comes when a paced replay has reached the end is live, also where it is
// counted.
func TestPaceEndsWithTheReplay(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	h := startRelay(t, k)
	for _, query := range []string{"", "&limit=2", "&until=2100-01-01T00:00:00Z"} {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		k.Produce(&kgo.Record{Topic: topic, Value: []byte("old"), Timestamp: noon})
		h.eventually("the topic is known", func() bool { return h.get("/events/"+topic+"/").Code == http.StatusOK })
		s := h.open("/events/" + topic + "/?speed=1&from=earliest" + query)
		s.until("live", func(string) bool { return s.live() })
		k.Produce(&kgo.Record{Topic: topic, Value: []byte("new"), Timestamp: noon.Add(24 * time.Hour)})
		s.until("what is new"+query, func(out string) bool { return strings.Contains(out, "data: new\n") })
	}
}

func TestPacedReplayGoesOn(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.Produce(
		&kgo.Record{Topic: topic, Value: []byte("first"), Timestamp: noon},
		&kgo.Record{Topic: topic, Value: []byte("an hour later"), Timestamp: noon.Add(time.Hour)},
	)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&speed=1")
	s.wantData("first")
	again := h.open("/events/"+topic+"/?from=earliest&speed=1", "Last-Event-ID", s.lastEventID())
	again.wantData("an hour later") // what comes first begins the replay
}

func TestSpeedIsRefused(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	for _, tt := range []struct{ query, accept, want string }{
		{"speed=1", "", "needs a start in the past"},
		{"speed=0&from=earliest", "", "from 0.01 to 1000"},
		{"speed=NaN&from=earliest", "", "from 0.01 to 1000"},
		{"speed=fast&from=earliest", "", "from 0.01 to 1000"},
		{"speed=1&from=earliest", "application/json", "long poll"},
	} {
		w := h.get("/events/"+topic+"/?"+tt.query, "Accept", tt.accept)
		if p := problemOf(t, w); w.Code != http.StatusBadRequest || !strings.Contains(p.Detail, tt.want) {
			t.Errorf("%s: got %d %q, want 400 with %q", tt.query, w.Code, p.Detail, tt.want)
		}
	}
}

// A stream that fell out of its channel's log may fall behind so far and no
// further; what it had not caught up with then does not count.
func TestTooSlow(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k, func(c *Config) { c.CatchupMaxBytes, c.HistoryPageBytes = 20_000, 4<<10 })
	h.gw.retain = 4
	produce := func(prefix string, n int) {
		t.Helper()
		want := h.r.hub.appended([]*topicInfo{mustLookup(t, h, topic)}) + int64(n)*100
		var records []*kgo.Record
		for i := range n {
			records = append(records, value(topic, 0, fmt.Sprintf("%-100s", fmt.Sprintf("%s%d", prefix, i))))
		}
		k.Produce(records...)
		h.eventually("the records are read", func() bool { return h.r.hub.appended([]*topicInfo{mustLookup(t, h, topic)}) == want })
	}
	s := h.open("/events/" + topic + "/")
	if !s.holding {
		t.Fatal("it does not hold the live channel")
	}
	produce("a", 1000) // five times what it may fall behind
	s.step()
	if s.holding || len(s.events()) == 0 || strings.Contains(s.out.String(), codeTooSlow) {
		t.Fatalf("it does not get what its channel no longer has: %q", tail(s.out.String()))
	}
	produce("b", 150)
	s.step()
	if strings.Contains(s.out.String(), codeTooSlow) {
		t.Fatal("it ended before it was too slow")
	}
	produce("c", 300)
	s.step()
	last := s.events()[len(s.events())-1]
	if !s.ended || last.name != "stream-error" || !strings.Contains(last.data, `"code":"too-slow"`) || last.id != "" {
		t.Fatalf("ended %v, the last event is %+v; want stream-error too-slow without an id", s.ended, last)
	}
	got := len(s.events()) - 1
	again := h.open("/events/"+topic+"/", "Last-Event-ID", s.lastEventID())
	again.until("the rest", func(string) bool { return len(again.events()) >= 1450-got })
	if n := countOf(t, h.r.origin.metrics.tooSlow); n != 1 {
		t.Errorf("streams counted as too slow: %v, want 1", n)
	}
}

func mustLookup(t *testing.T, h *harness, topic string) *topicInfo {
	t.Helper()
	info, err := h.r.catalog.lookup(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
