package relay

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

func keyed(topic, key, v string) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(v)}
}

// History leaves out of a page what a later record of the page supersedes; the
// ids of what is left go on right.
func TestHistoryConflatesWithinThePage(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.Produce(keyed(topic, "a", "a1"), keyed(topic, "b", "b1"), value(topic, 0, "no key"), keyed(topic, "a", "a2"),
		value(topic, 0, "no key"), keyed(topic, "a", "a3"), keyed(topic, "c", "c1"))
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&slow=latest")
	s.wantData("b1", "no key", "no key", "a3", "c1")
	s.until("hold", func(string) bool { return s.holding })
	want := map[string][]string{
		"b1": {"no key", "no key", "a3", "c1"},
		"a3": {"c1"},
		"c1": nil,
	}
	for _, e := range s.events() {
		if rest, ok := want[e.data]; ok {
			h.open("/events/"+topic+"/?slow=latest", "Last-Event-ID", e.id).wantData(rest...)
		}
	}
}

// A stream with a rate gets history one event at a time, the newest of each key
// as far as it is known.
func TestHistoryWithARate(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	for i := range 20 {
		r := keyed(topic, fmt.Sprint("k", i%4), fmt.Sprint("v", i))
		r.Partition, r.Timestamp = int32(i%2), noon.Add(time.Duration(i)*time.Second)
		k.Produce(r)
	}
	h := startRelay(t, k)
	begin := time.Now()
	s := h.open("/events/" + topic + "/?from=earliest&rate=20/s")
	s.wantData("v16", "v17", "v18", "v19")
	if took := time.Since(begin); took < 3*50*time.Millisecond {
		t.Errorf("four events at 20/s took %v", took)
	}
	s.until("live", func(string) bool { return s.live() })
	if s.channel != topic {
		t.Errorf("it holds %q, want the channel of all others", s.channel)
	}
	again := h.open("/events/"+topic+"/?rate=20/s", "Last-Event-ID", s.events()[1].id)
	again.wantData("v18", "v19")
}

// Whose rights are looked at again while the stream rests gets nothing early.
func TestLinkOfARateAskedEarly(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, numbered("v", 0, 3)...)
	h := startRelay(t, k)
	now := time.Now()
	h.r.origin.now = func() time.Time { return now }
	s := h.open("/events/" + topic + "/?from=earliest&rate=1/m")
	s.wantData("v0")
	for range 2 {
		now = now.Add(29 * time.Second)
		s.follow()
		s.wantData("v0")
	}
	now = now.Add(2 * time.Second)
	s.follow()
	s.wantData("v0", "v1")
}

func TestRateIsPassedByTheLog(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	h.gw.retain = 3
	s := h.open("/events/" + topic + "/?rate=100/s")
	values(k, topic, numbered("v", 0, 10)...)
	h.eventually("the records are read", func() bool {
		pos, err := h.r.hub.position(scope{topics: []*topicInfo{mustLookup(t, h, topic)}})
		return err == nil && pos[0][0] == 10
	})
	s.until("the oldest there is", func(out string) bool { return strings.Contains(out, "v9") })
	var got []string
	for _, e := range s.events() {
		got = append(got, e.name+" "+e.data)
	}
	want := []string{
		`gap {"topic":"` + topic + `","partition":0,"reason":"rate","from":0,"to":7,"exact":true}`,
		"message v7", "message v8", "message v9",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// What the gateway is told, on the quick way and on the others.
func TestHoldsSayHowTheyAreSpared(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	for _, tt := range []struct{ query, want string }{
		{"slow=latest", "; conflate"},
		{"rate=5/s", "; rate=5/s"},
		{"rate=30/m&slow=latest", "; rate=30/m"},
		{"", ""},
	} {
		for range 2 { // the second finds the channel open
			w := h.get("/events/" + topic + "/?" + tt.query)
			_, got, _ := strings.Cut(w.Header().Get("Grip-Channel"), "; prev-id=")
			if _, params, _ := strings.Cut(got, ";"); params != strings.TrimPrefix(tt.want, ";") {
				t.Errorf("%q: Grip-Channel has %q behind the id, want %q", tt.query, params, tt.want)
			}
		}
	}
	for _, tt := range []struct{ query, accept, want string }{
		{"slow=yes", "", "must be latest"},
		{"rate=fast", "", "rate=fast"},
		{"rate=1000/s", "", "rate=1000/s"},
		{"rate=1&limit=3", "", "do not go with limit= or until="},
		{"slow=latest&until=0", "", "do not go with limit= or until="},
		{"slow=latest", "application/json", "long poll"},
		{"rate=1&speed=2&from=earliest", "", "give one"},
	} {
		w := h.get("/events/"+topic+"/?"+tt.query, "Accept", tt.accept)
		if p := problemOf(t, w); w.Code != http.StatusBadRequest || !strings.Contains(p.Detail, tt.want) {
			t.Errorf("%s: got %d %q, want 400 with %q", tt.query, w.Code, p.Detail, tt.want)
		}
	}
}
