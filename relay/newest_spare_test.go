package relay

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/grip"
	"spillway/relay/kafkatest"
)

// A rate holds for the snapshot too, and for what changes behind it.
func TestSnapshotWithARate(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	other := topic + "-2" // behind it
	k.CreateTopic(other, 1, "cleanup.policy=compact")
	keep(k, topic, "a=1", "b=1", "c=1", "a=2")
	keep(k, other, "d=1")
	h := startRelay(t, k)
	for _, tt := range []struct {
		query string
		want  []string
	}{
		{topic + "/?rate=20/s", []string{"2", "1", "1", `live {"replayed":3}`}},
		{topic + "/?rate=20/s&filter=value==1", []string{"1", "1", `live {"replayed":2}`}},
		{topic + "," + other + "/?rate=20/s", []string{"2", "1", "1", "1", `live {"replayed":4}`}},
	} {
		begin := time.Now()
		s := h.open("/events/" + tt.query + "&from=snapshot")
		s.wantData(tt.want...)
		// A page between two events, and one between the last and what is live.
		if took, least := time.Since(begin), time.Duration(len(tt.want)-1)*50*time.Millisecond; took < least {
			t.Errorf("%s: it took %v, want %v at least", tt.query, took, least)
		}
		s.until("live", func(string) bool { return s.live() })
		for i, e := range s.events() {
			if got, want := strings.HasPrefix(e.id, "1s-"), i < len(tt.want)-1; got != want {
				t.Errorf("%s: event %d has the id %s; of a snapshot: %v", tt.query, i, e.id, want)
			}
		}
	}
}

// A version is kept for a minute. A rate by which it would take longer makes it a
// replay at once.
func TestSnapshotWithARateThatIsTooSlow(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1", "b=1", "a=2")
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=snapshot&rate=1/m")
	for !strings.Contains(s.out.String(), "event: live\n") {
		before := s.pages
		s.until("a page", func(string) bool { return s.pages > before })
		s.timeout = min(s.timeout, time.Nanosecond) // the minute is over
	}
	s.wantData("1", "2", `live {"replayed":2,"complete":false}`)
	if got := strings.Count(s.out.String(), string(gapCompaction)); got != 0 {
		t.Errorf("it began again %d times, want none", got)
	}
	h.open("/events/"+topic+"/?from=snapshot&rate=2/m").until("the first", func(out string) bool { return strings.Contains(out, "id: 1s-") })
	if got := countOf(t, h.r.hub.snapshots.metrics.replays); got != 1 {
		t.Errorf("%v replays, want one: two records are there in a minute", got)
	}
}

// Nothing is left out of a snapshot by slow=latest; of what changes behind it is.
func TestSnapshotForSlowClients(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1", "b=1", "a=2")
	h := startRelay(t, k)
	h.gw.retain = 2
	s := h.open("/events/" + topic + "/?from=snapshot&slow=latest")
	s.wantData("2", "1", `live {"replayed":2}`)
	s.until("live", func(string) bool { return s.live() })
	keep(k, topic, "a=3", "b", "a=4", "c=1", "c=2")
	h.eventually("the records are read", func() bool {
		pos, err := h.r.hub.position(scope{topics: []*topicInfo{mustLookup(t, h, topic)}})
		return err == nil && pos[0][0] == 8
	})
	// What its channel has no more, it gets from history; then the channel goes on.
	s.wantData("2", "1", `live {"replayed":2}`, "delete b", "4", "1", "2")
	w := h.get("/events/"+topic+"/?slow=latest", "Last-Event-ID", s.lastEventID())
	if got := w.Header().Get("Grip-Channel"); !strings.HasSuffix(got, "; conflate") {
		t.Errorf("Grip-Channel %q does not conflate", got)
	}
}

// Snapshots by messages, with what a URL may say too.
func TestSubscriptionsWithASnapshot(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	plain := kafkatest.UniqueTopic(t)
	k.CreateTopic(plain, 1)
	keep(k, topic, "a=1", "b=1", "a=2")
	h := startRelay(t, k)
	subscribe := func(more string) *stream {
		t.Helper()
		events, err := grip.ParseEvents([]byte(h.say(fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q]%s}`, topic, more))))
		if err != nil || len(events) != 2 {
			t.Fatalf("%s: got %v %v, want a reply and a control message", more, events, err)
		}
		c, _, err := grip.ParseControl(events[1].Content)
		if err != nil || c.Link == "" {
			t.Fatalf("%s: control message %s, %v", more, events[1].Content, err)
		}
		s := &stream{h: h, ws: true, next: c.Link}
		s.until("live", func(out string) bool { return s.live() })
		return s
	}
	// texts are what its messages say: values, and the types of all but records.
	texts := func(s *stream) (got []string, ids []string) {
		t.Helper()
		events, err := grip.ParseEvents(s.out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			var m struct {
				Type, ID, Channel, Op string
				Value                 any
			}
			if err := json.Unmarshal(e.Content, &m); err != nil {
				t.Fatalf("message %s: %v", e.Content, err)
			}
			if m.Channel != s.channel {
				t.Errorf("message %s is not of channel %s", e.Content, s.channel)
			}
			switch {
			case m.Type == "cursor":
				continue
			case m.Type != "record":
				got = append(got, m.Type)
			default:
				got = append(got, fmt.Sprint(m.Op, m.Value))
			}
			ids = append(ids, m.ID)
		}
		return got, ids
	}
	want := []string{"2", "1", "live"}
	var cut, live string
	for _, more := range []string{"", `,"slow":"latest"`, `,"rate":20`, `,"rate":"20/s","heartbeat":"2s"`} {
		s := subscribe(`,"from":"snapshot"` + more)
		got, ids := texts(s)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", more, got, want)
		}
		if cut, live = ids[0], ids[len(ids)-1]; !strings.HasPrefix(cut, "1s-") || !strings.HasPrefix(live, "1-") {
			t.Errorf("%s: ids %q, want those of a snapshot, and then others", more, ids)
		}
	}
	keep(k, topic, "c=1", "b")
	s := subscribe(fmt.Sprintf(`,"last_event_id":%q`, live))
	s.until("two changes", func(string) bool { got, _ := texts(s); return len(got) == 2 })
	if got, _ := texts(s); !slices.Equal(got, []string{"1", "delete<nil>"}) {
		t.Errorf("after live: got %q, want what has changed", got)
	}
	if got, _ := texts(subscribe(fmt.Sprintf(`,"last_event_id":%q`, cut))); !slices.Equal(got, []string{"2", "1", "live"}) {
		t.Errorf("after half a snapshot: got %q, want another one", got)
	}
	for _, tt := range []struct{ message, want string }{
		{fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q],"from":"snapshot"}`, plain), "is not compacted"},
		{fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q],"from":"snapshot","limit":1}`, topic), "limit= does not go with from=snapshot"},
		{fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q],"from":"snapshot","speed":1}`, topic), "speed= does not go with from=snapshot"},
	} {
		if got := h.say(tt.message); !strings.Contains(got, codeBadMessage) || !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.message, got, tt.want)
		}
	}
}
