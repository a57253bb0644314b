package relay

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/twmb/franz-go/pkg/kgo"
	"spillway/grip"

	"spillway/relay/kafkatest"
)

// holdLive keeps the live reader of a fake broker's records from getting any
// until release is called. History is read as ever.
func holdLive(t *testing.T, k *kafkatest.Cluster) (release func()) {
	t.Helper()
	open := make(chan struct{})
	k.Fake().ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		if req.(*kmsg.FetchRequest).SessionEpoch != -1 {
			k.Fake().SleepControl(func() { <-open })
		}
		return nil, nil, false
	})
	done := false
	release = func() {
		if !done {
			close(open)
			done = true
		}
	}
	t.Cleanup(release)
	return release
}

// waiting reports whether a request waits for the hub to get on.
func (h *harness) waiting() bool {
	h.r.hub.mu.Lock()
	defer h.r.hub.mu.Unlock()
	return h.r.hub.moved != nil
}

// What existed at connect time is what Kafka has, not what this process has
// read of it.
func TestBoundsAreKafkasNotOurs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, query string
		want        []string
	}{
		{"marks", "from=earliest&marks=1", []string{"v0", "v1", `live {"replayed":2}`}},
		{"marks, live", "marks=1", []string{"v0", "v1", `live {"replayed":2}`}},
		{"until now", fmt.Sprintf("from=earliest&until=%d", time.Now().UnixMilli()), []string{"v0", "v1", `end {"reason":"until"}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := kafkatest.Fake(t)
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, 1)
			h := startRelay(t, k)
			h.open("/events/" + topic + "/") // now it is read
			release := holdLive(t, k)
			for _, r := range recordsOf(0, "v0", "v1") {
				r.Topic, r.Timestamp = topic, time.Now().Add(-time.Minute)
				k.Produce(r)
			}
			s := h.open("/events/" + topic + "/?" + tt.query)
			followed := make(chan struct{})
			go func() {
				defer close(followed)
				s.follow()
			}()
			h.eventually("the page waits for the hub", h.waiting)
			release()
			<-followed
			s.wantData(tt.want...)
		})
	}
}

func TestEdgesOfUntilAndLimit(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	h := startRelay(t, k)
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i, r := range recordsOf(0, "v0", "v1", "v2") {
		r.Topic, r.Partition, r.Timestamp = topic, int32(i%2), begin.Add(time.Duration(i)*time.Minute)
		k.Produce(r)
	}
	end := `end {"reason":"until"}`
	for _, tt := range []struct {
		query string
		want  []string
	}{
		{"from=earliest&until=0", []string{end}},
		{"from=earliest&until=1960-01-01T00:00:00Z", []string{end}},
		{"until=1h", []string{end}},
		{fmt.Sprintf("since=%d&until=%d", begin.Add(time.Minute).UnixMilli(), begin.Add(2*time.Minute).UnixMilli()), []string{"v1", end}},
		{fmt.Sprintf("from=earliest&until=%d&limit=1", begin.Add(2*time.Minute).UnixMilli()), []string{"v0", `end {"reason":"limit"}`}},
		{fmt.Sprintf("from=earliest&until=%d&limit=9&marks=1", begin.Add(2*time.Minute).UnixMilli()), []string{"v0", "v1", end}},
		{"from=earliest&limit=3&marks=1", []string{"v0", "v1", "v2", `end {"reason":"limit"}`}},
		{"last=2&limit=1", []string{"v1", `end {"reason":"limit"}`}},
	} {
		s := h.open("/events/" + topic + "/?" + tt.query)
		s.until("end of "+tt.query, func(string) bool { return s.ended })
		t.Log(tt.query)
		s.wantData(tt.want...)
		w := h.get("/events/"+topic+"/?"+tt.query, "Last-Event-ID", s.lastEventID())
		if w.Code != http.StatusNoContent || w.Body.Len() != 0 || w.Header().Get("Cache-Control") != "no-store, no-transform" {
			t.Errorf("%s: the reconnect gets %d %v, want 204", tt.query, w.Code, w.Header())
		}
		// Without a bound it is a position like any other.
		if s := h.open("/events/"+topic+"/", "Last-Event-ID", s.lastEventID()); s.ended {
			t.Errorf("%s: without a bound the end's id ends the stream again", tt.query)
		}
	}

	// A time that is far away is asked for again, not turned into a timeout that
	// no timer holds.
	for _, until := range []string{"9999-12-31T23:59:59Z", fmt.Sprint(int64(math.MaxInt64))} {
		s := h.open("/events/" + topic + "/?until=" + until)
		s.follow()
		if !s.holding || s.timeout <= 0 || s.timeout > 24*time.Hour {
			t.Errorf("until=%s: holding %v, asked again after %v", until, s.holding, s.timeout)
		}
	}
}

func TestUntilSoon(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	const soon = 3 * time.Second
	until := time.Now().Add(soon)
	s := h.open(fmt.Sprintf("/events/%s/?until=%d", topic, until.UnixMilli()))
	s.follow()
	if !s.holding || s.timeout <= 0 || s.timeout > soon+time.Second {
		t.Fatalf("holding %v, asked again after %v, want about %v", s.holding, s.timeout, soon)
	}
	values(k, topic, "v0")
	s.until("the record", func(string) bool { return len(s.events()) > 0 })
	s.until("end", func(string) bool { return s.ended })
	s.wantData("v0", `end {"reason":"until"}`)
	if time.Now().Before(until) {
		t.Error("it ended too early")
	}
}

// A page that is late may find records from after the end.
func TestUntilPassesWhileAPageIsMade(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	until := time.Now().Add(-time.Minute).Truncate(time.Second)
	for i, at := range []time.Time{until.Add(-time.Second), until} {
		k.Produce(&kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "v%d", i), Timestamp: at})
	}
	h := startRelay(t, k)
	looks := 0 // at the clock: by the check of the link, and the beginning of the page
	now := func() time.Time { return until.Add(-time.Second) }
	h.r.origin.now = func() time.Time { return now() }
	s := h.open(fmt.Sprintf("/events/%s/?from=earliest&until=%d", topic, until.UnixMilli()))
	now = func() time.Time {
		if looks++; looks <= 2 {
			return until.Add(-time.Millisecond)
		}
		return until.Add(time.Second)
	}
	s.until("end", func(string) bool { return s.ended })
	s.wantData("v0", `end {"reason":"until"}`)
}

func TestLongPollWithBounds(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "v0", "v1", "v2")
	h := startRelay(t, k)
	poll := func(query string, header ...string) (int, string, string) {
		w := h.get("/events/"+topic+"/?"+query, append(header, "Accept", "application/json")...)
		_, id, _ := strings.Cut(w.Body.String(), `],"id":"`)
		id, _, _ = strings.Cut(id, `"`)
		return w.Code, w.Body.String(), id
	}
	code, body, id := poll("from=earliest&limit=2")
	if code != http.StatusOK || strings.Count(body, `"value"`) != 2 || !strings.Contains(body, `{"type":"end","reason":"limit","id":"1e-`) || !strings.HasPrefix(id, "1e-") {
		t.Errorf("limit: %d %s", code, body)
	}
	if code, _, _ := poll("from=earliest&limit=2", "Last-Event-ID", id); code != http.StatusNoContent {
		t.Errorf("after the end: %d, want 204", code)
	}

	// Fewer than the limit: what there is, then a hold, then the rest.
	w := h.get("/events/"+topic+"/?limit=2&wait=5", "Accept", "application/json")
	in, err := grip.ParseInstruct(w.Code, w.Header(), w.Body.Bytes())
	if err != nil || in.Hold != grip.HoldResponse || in.Next == nil {
		t.Fatalf("got %v %v, want a hold", w.Header(), err)
	}
	values(k, topic, "v3", "v4", "v5")
	h.eventually("the hub has them", func() bool {
		h.r.hub.mu.Lock()
		defer h.r.hub.mu.Unlock()
		return h.r.hub.topics[topic].next[0] == 6
	})
	r, _ := http.NewRequest(http.MethodGet, in.Next.URL, nil)
	grip.AppendLast(r.Header, grip.Last{Channel: in.Channels[0].Channel, ID: in.Channels[0].PrevID})
	w = h.do(r.WithContext(grip.WithLink(r.Context())))
	if body := w.Body.String(); strings.Count(body, `"value"`) != 2 || !strings.Contains(body, `"v3"`) || !strings.Contains(body, `"type":"end"`) || strings.Contains(body, `"v5"`) {
		t.Errorf("the rest: %s", body)
	}
}

// The end of a stream of several topics is the end in all of them.
func TestEndOfSeveralTopics(t *testing.T) {
	k := kafkatest.Fake(t)
	a, b := kafkatest.UniqueTopic(t)+"a", kafkatest.UniqueTopic(t)+"b"
	k.CreateTopic(a, 1)
	k.CreateTopic(b, 2)
	values(k, a, "a0")
	values(k, b, "b0")
	h := startRelay(t, k)
	url := "/events/" + a + "," + b + "/?from=earliest&until=" + fmt.Sprint(time.Now().Add(time.Millisecond).UnixMilli())
	s := h.open(url)
	s.until("end", func(string) bool { return s.ended })
	id := s.lastEventID()
	if !strings.HasPrefix(id, "1e-") || strings.Count(id, "~") != 1 || len(s.events()) != 3 {
		t.Errorf("events %v", s.events())
	}
	if w := h.get(url, "Last-Event-ID", id); w.Code != http.StatusNoContent {
		t.Errorf("reconnect: %d, want 204", w.Code)
	}
	// The same end is none for a request that asks for one topic more or less.
	values(k, a, "a1")
	h.open("/events/"+a+"/", "Last-Event-ID", id).wantData("a1")
}
