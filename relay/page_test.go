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

// everywhere produces rounds of one record for each partition, and returns the
// values in the order of their timestamps.
func everywhere(k *kafkatest.Cluster, topic string, partitions int, prefix string, rounds int, begin time.Time) (values []string) {
	var records []*kgo.Record
	for i := range rounds * partitions {
		v := fmt.Sprint(prefix, i)
		values = append(values, v)
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % partitions), Value: []byte(v), Timestamp: begin.Add(time.Duration(i) * time.Millisecond)})
	}
	k.Produce(records...)
	return values
}

// wantOnce waits for as many messages as want has, and that each came once.
func (s *stream) wantOnce(want []string) {
	s.h.t.Helper()
	messages := func() (got []string) {
		for _, e := range s.events() {
			if e.name == "message" {
				got = append(got, e.data)
			}
		}
		return got
	}
	s.until(fmt.Sprint(len(want), " messages"), func(string) bool { return len(messages()) >= len(want) })
	seen := make(map[string]int)
	for _, v := range messages() {
		seen[v]++
	}
	for _, v := range want {
		if seen[v] != 1 {
			s.h.t.Fatalf("%s came %d times; %d messages in all, want %d", v, seen[v], len(messages()), len(want))
		}
	}
	if len(messages()) != len(want) {
		s.h.t.Fatalf("%d messages, want %d", len(messages()), len(want))
	}
}

// idsOf is how many of the events carry an id, and how many blocks are only one.
func (s *stream) idsOf() (events, alone int) {
	for _, e := range parseSSE(s.out.String()) {
		switch {
		case e.name == "":
			alone++
		case e.id != "":
			events++
		}
	}
	return events, alone
}

func TestLongCursorsAreOnTheLastOfABatch(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	const partitions = 200 // more than 256 bytes, fewer than 4096
	k.CreateTopic(topic, partitions)
	old := everywhere(k, topic, partitions, "old", 3, time.Now().Add(-time.Hour))
	h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes = 8 << 10 })

	s := h.open("/events/" + topic + "/?from=earliest")
	s.wantOnce(old)
	s.until("hold", func(string) bool { return s.holding })
	if with, alone := s.idsOf(); alone != 0 || with < s.pages || with > s.pages+len(old)/batchIDEvents {
		t.Errorf("%d of %d events in %d pages carry an id and %d ids stand alone, want one at the end of each page", with, len(old), s.pages, alone)
	}
	if last := s.events()[len(old)-1]; last.id == "" {
		t.Error("the last event of history has no id: a reconnect would repeat others")
	}
	// A client that was cut off anywhere comes back with the last id it saw, and
	// sees again at most what came after that.
	events := s.events()
	for cut := 150; cut <= len(events); cut += 150 {
		id, at := "", 0
		for i, e := range events[:cut] {
			if e.id != "" {
				id, at = e.id, i+1
			}
		}
		if cut-at > batchIDEvents {
			t.Errorf("cut after %d: the last id is %d events old", cut, cut-at)
		}
		var rest []string
		for _, e := range events[at:] {
			rest = append(rest, e.data)
		}
		h.open("/events/"+topic+"/", "Last-Event-ID", id).wantOnce(rest)
	}

	fresh := everywhere(k, topic, partitions, "live", 1, time.Now())
	s.wantOnce(append(old, fresh...))
	if s.events()[len(s.events())-1].id == "" {
		t.Error("the last live event has no id")
	}
	h.open("/events/"+topic+"/", "Last-Event-ID", s.lastEventID()).wantOnce(nil)

	for query, want := range map[string]int{"id=every": len(old) + len(fresh), "id=batch": 0} {
		s := h.open("/events/" + topic + "/?from=earliest&" + query)
		s.wantOnce(append(old, fresh...))
		s.until("hold", func(string) bool { return s.holding })
		if with, _ := s.idsOf(); (want > 0 && with != want) || with == 0 || (want == 0 && with > s.pages+8) {
			t.Errorf("%s: %d events carry an id, want %d", query, with, want)
		}
	}
}

func TestShortCursorsInBatches(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	old := everywhere(k, topic, 1, "v", 250, time.Now())
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&id=batch")
	s.wantOnce(old)
	s.until("hold", func(string) bool { return s.holding })
	with := 0
	for i, e := range s.events() {
		if e.id != "" {
			with++
		} else if i == len(old)-1 {
			t.Error("the last event of the page has no id")
		}
	}
	if with != 3 {
		t.Errorf("%d of 250 events carry an id, want every 100th and the last", with)
	}
}

// Above 4096 bytes a cursor is only a time. As long as history is being sent,
// there is no time before which everything was.
func TestCursorsWithoutOffsets(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	const partitions = 60
	k.CreateTopic(topic, partitions)
	old := everywhere(k, topic, partitions, "old", 5, time.Now().Add(-time.Hour))
	h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes = 4 << 10 })
	h.r.hub.maxID = 130

	for _, query := range []string{"from=earliest", "from=earliest&id=every"} {
		s := h.open("/events/" + topic + "/?" + query)
		s.wantOnce(old)
		s.until("hold", func(string) bool { return s.holding })
		for i, e := range s.events()[:len(old)-1] {
			if e.id != "" {
				t.Fatalf("%s: event %d of history has the id %s; who came back with it would miss what other partitions hold", query, i, e.id)
			}
		}
		id := s.lastEventID()
		if want := fmt.Sprintf(".%d!", partitions); !strings.HasSuffix(id, want) || len(id) > 30 {
			t.Fatalf("%s: after history the id is %q, want …%s", query, id, want)
		}
		// Resumed by time, it finds what came meanwhile, and an old record again
		// at the most.
		k.Produce(&kgo.Record{Topic: topic, Partition: partitions - 1, Value: []byte("meanwhile " + query)})
		other := startRelay(t, k)
		other.r.hub.maxID = 130
		again := other.open("/events/"+topic+"/", "Last-Event-ID", id)
		again.until("the record", func(out string) bool { return strings.Contains(out, "data: meanwhile "+query+"\n") })
		if first := again.events()[0]; first.name != "gap" || !strings.Contains(first.data, `"reason":"time-resume","exact":false`) {
			t.Errorf("the first event is %+v, want a gap for time-resume", first)
		}
		old = append(old, "meanwhile "+query)
	}

	// Live, the last of a batch carries it.
	s := h.open("/events/" + topic + "/")
	values(k, topic, "live")
	s.wantData("live")
	if id := s.lastEventID(); !strings.HasSuffix(id, "!") {
		t.Errorf("a live event has the id %q, want one that ends in !", id)
	}

	// A bounded replay ends with a mark, even so.
	s = h.open("/events/" + topic + "/?from=earliest&limit=3")
	s.until("end", func(string) bool { return s.ended })
	if id := s.lastEventID(); !strings.HasPrefix(id, "1e-0-") {
		t.Errorf("the id of end is %q, want the time at which the replay began", id)
	}
	if w := h.get("/events/"+topic+"/?from=earliest&limit=3", "Last-Event-ID", s.lastEventID()); w.Code != http.StatusNoContent {
		t.Errorf("reconnect after end: %d, want 204", w.Code)
	}
}

// The answer to a long poll is no header: its cursor may be long, and must be
// exact, or a poll that has its most events would never get on.
func TestLongPollsHaveExactCursors(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	const partitions = 60
	k.CreateTopic(topic, partitions)
	want := everywhere(k, topic, partitions, "v", 20, time.Now().Add(-time.Hour))
	h := startRelay(t, k)
	h.r.hub.maxID = 130
	got, id := 0, ""
	for range 3 {
		header := []string{"Accept", "application/json"}
		if id != "" {
			header = append(header, "Last-Event-ID", id)
		}
		w := h.get("/events/"+topic+"/?from=earliest", header...)
		if w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		got += strings.Count(w.Body.String(), `"value"`)
		_, id, _ = strings.Cut(w.Body.String(), `],"id":"`)
		id, _, _ = strings.Cut(id, `"`)
	}
	if got != len(want) || len(id) <= 130 {
		t.Errorf("%d records in three polls, want %d; the id is %s", got, len(want), id)
	}
}

func TestManyPartitions(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	const partitions = 700
	k.CreateTopic(topic, partitions)
	old := everywhere(k, topic, partitions, "old", 1, time.Now().Add(-time.Hour))
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest")
	s.wantOnce(old)
	id := s.lastEventID()
	if len(id) < 700 {
		t.Errorf("the id after history is %q", id)
	}
	k.Produce(value(topic, 699, "live"))
	s.wantOnce(append(old, "live"))
	h.open("/events/"+topic+"/", "Last-Event-ID", id).wantOnce([]string{"live"})
}

// What history sends is counted as what is live, and a poll that brings records
// from before says where they end.
func TestHistoryCountsAndMarks(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "small", strings.Repeat("x", 101))
	h := startRelay(t, k, func(c *Config) { c.EventMaxBytes = 100 })
	url := "/events/" + topic + "/"
	s := h.open(url + "?from=earliest")
	s.until("both", func(string) bool { return len(s.events()) == 2 })
	if got := countOf(t, h.r.hub.metrics.encoded[kindOversize]); got != 1 {
		t.Errorf("oversize events: got %v, want 1", got)
	}
	poll := func(query string) string {
		t.Helper()
		return h.get(url+query, "Accept", "application/json").Body.String()
	}
	if got, want := poll("?last=1&marks=1"), `{"type":"live","replayed":1`; !strings.Contains(got, want) {
		t.Errorf("poll with records: got %s, want %s…", got, want)
	}
	if got := poll("?marks=1&wait=1s"); strings.Contains(got, `"live"`) {
		t.Errorf("poll without: got %s, want no mark, or every poll would be answered at once", got)
	}
	// A start that finds nothing to replay gives an id like a live one.
	future := h.open(url + "?since=9999999999999")
	if future.lastEventID() == "" {
		t.Errorf("since the future: got %q, want an id", future.out.String())
	}
}

func TestPageMemory(t *testing.T) {
	var m pageMemory
	out := m.grow([]byte("begun"))
	if string(out) != "begun" || cap(out) < largePage {
		t.Errorf("got %q with room for %d bytes, want what was there, and a page's", out, cap(out))
	}
	m.keep(append(out, " and sent"...))
	for range 3 { // whether or not the pool has it still
		if again := m.grow([]byte("another")); string(again) != "another" || cap(again) < largePage {
			t.Errorf("got %q with room for %d bytes, want nothing of the page before", again, cap(again))
		}
	}
	for _, n := range []int{0, largePage - 1, 4*largePage + 1} {
		var m pageMemory
		if m.keep(make([]byte, 0, n)); m.Get() != nil {
			t.Errorf("memory of %d bytes is kept", n)
		}
	}
}
