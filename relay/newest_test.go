package relay

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
	"spillway/relay/snapshot"
)

// keyText is key=value; a bare key is a tombstone, and a text that begins with =
// has no key.
func keyText(topic string, partition int32, text string) *kgo.Record {
	key, value, found := strings.Cut(text, "=")
	r := &kgo.Record{Topic: topic, Partition: partition}
	if key != "" {
		r.Key = []byte(key)
	}
	if found {
		r.Value = []byte(value)
	}
	return r
}

// keep produces such records to partition 0, one after the other.
func keep(k *kafkatest.Cluster, topic string, texts ...string) {
	for _, text := range texts {
		k.Produce(keyText(topic, 0, text))
	}
}

func compacted(t testing.TB, k *kafkatest.Cluster, partitions int, configs ...string) string {
	t.Helper()
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, partitions, append([]string{"cleanup.policy=compact"}, configs...)...)
	return topic
}

// snapshotOf opens a stream with a snapshot, and waits until it is live.
func (h *harness) snapshotOf(path string, header ...string) *stream {
	h.t.Helper()
	s := h.open(path, header...)
	s.until("live", func(out string) bool { return strings.Contains(out, "event: live\n") })
	return s
}

func TestSnapshotThenLive(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := compacted(t, k, 1)
		keep(k, topic, "b=1", "a=1", "c=1", "b=2", "c", "d=")
		h := startRelay(t, k)
		url := "/events/" + topic + "/?from=snapshot"
		s := h.open(url)
		s.wantData("1", "2", "", `live {"replayed":3}`)
		ids := s.events()
		for _, e := range ids[:3] {
			if !strings.HasPrefix(e.id, "1s-") {
				t.Errorf("inside the snapshot the id is %q, want one with the phase mark", e.id)
			}
		}
		if !strings.HasPrefix(ids[3].id, "1-") || !strings.HasSuffix(ids[3].id, ".1.6") {
			t.Errorf("the id of live is %q, want the ordinary cursor at 6", ids[3].id)
		}
		keep(k, topic, "a", "e=1", "nobody")
		s.wantData("1", "2", "", `live {"replayed":3}`, "delete a", "1", "delete nobody")

		again := h.open(url, "Last-Event-ID", ids[3].id)
		again.wantData("delete a", "1", "delete nobody")
		again = h.open(url, "Last-Event-ID", ids[1].id)
		again.wantData("2", "", "1", `live {"replayed":3}`)
		if loads := countOf(t, h.r.hub.snapshots.metrics.loads); loads != 1 {
			t.Errorf("the topic was loaded %v times, want once for all", loads)
		}
		if got := countOf(t, h.r.origin.metrics.gaps[gapCompaction]); got != 0 {
			t.Errorf("%v gaps, want none", got)
		}
	})
}

// Where a cursor says that its holder is inside a snapshot, the snapshot begins
// again, whatever else is asked for.
func TestSnapshotCursorBeginsTheSnapshot(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1", "b=1")
	h := startRelay(t, k)
	id := h.snapshotOf("/events/" + topic + "/?from=snapshot").events()[0].id
	h.open("/events/"+topic+"/", "Last-Event-ID", id).wantData("1", "1", `live {"replayed":2}`)
}

// A broker takes no records without a key for a compacted topic, but may have
// some from before it was one.
func TestSnapshotLeavesOutNullKeys(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1", "=no key", "b=2")
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=snapshot")
	s.wantData("1", "2", `live {"replayed":2}`)
	keep(k, topic, "=live")
	s.wantData("1", "2", `live {"replayed":2}`, "live")
}

func TestSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic, plain, both := compacted(t, k, 1), kafkatest.UniqueTopic(t)+"-plain", kafkatest.UniqueTopic(t)+"-both"
	k.CreateTopic(plain, 1)
	k.CreateTopic(both, 1, "cleanup.policy=compact,delete")
	h := startRelay(t, k)
	for _, tt := range []struct{ path, accept, want string }{
		{plain + "/?", "", "cleanup.policy"},
		{topic + "," + plain + "/?", "", "topic " + plain + " is not compacted"},
		{topic + "/?limit=3&", "", "limit= does not go with from=snapshot"},
		{topic + "/?last=3&", "", "last= does not go"},
		{topic + "/?until=2030-01-01T00:00:00Z&", "", "until= does not go"},
		{topic + "/?speed=1&", "", "speed= does not go"},
		{topic + "/?", "application/json", "is for streams"},
	} {
		w := h.get("/events/"+tt.path+"from=snapshot", "Accept", tt.accept)
		if p := problemOf(t, w); w.Code != http.StatusBadRequest || !strings.Contains(p.Detail, tt.want) {
			t.Errorf("%s: got %d %q, want 400 with %q", tt.path, w.Code, p.Detail, tt.want)
		}
	}
	h.snapshotOf("/events/" + both + "/?from=snapshot")
	if w := h.get("/events/nosuch/?from=snapshot"); w.Code != http.StatusNotFound {
		t.Errorf("a topic that does not exist: %d, want 404", w.Code)
	}
}

func TestSnapshotForms(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, `a={"n":1,"m":2}`, "b=x")
	h := startRelay(t, k)
	has := func(s *stream, parts ...string) {
		t.Helper()
		s.until(fmt.Sprint(parts), func(out string) bool {
			for _, p := range parts {
				i := strings.Index(out, p)
				if i < 0 {
					return false
				}
				out = out[i+len(p):]
			}
			return true
		})
	}
	has(h.open("/events/"+topic+"/?from=snapshot", "Accept", "application/x-ndjson"),
		`"key":"a","value":{"n":1,"m":2},"id":"1s-`, `"key":"b","value":"x","id":"1s-`, `{"type":"live","replayed":2,"id":"1-`)
	has(h.open("/events/"+topic+"/?from=snapshot&format=envelope"), "id: 1s-", `"key":"a"`, "event: live\nid: 1-")
	has(h.open("/events/"+topic+"/?from=snapshot&fields=n"), `data: {"n":1}`, "data: null", "event: live")
	has(h.open("/events/"+topic+"/?from=snapshot", "Accept", "application/websocket-events"), "TEXT", `{"n":1,"m":2}`, "TEXT", "x")
	has(h.open("/events/"+topic+"/?from=snapshot", "Accept", "application/websocket-events", "Sec-WebSocket-Protocol", protocolJSON),
		`{"type":"record"`, `"id":"1s-`, `{"type":"record"`, `{"type":"live"`, `"replayed":2,"id":"1-`)
}

// The snapshot is as of one position, and nothing of what follows it is missed
// or said twice, however much is written meanwhile.
func TestSnapshotOfABusyTopic(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 3)
	const keys, rounds = 100, 40
	write := func(round int) {
		var records []*kgo.Record
		for n := range keys {
			records = append(records, keyText(topic, int32(n%3), fmt.Sprintf("k%d=%d", n, round)))
		}
		k.Produce(records...)
	}
	write(0)
	h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes = 4 << 10 })
	var writer sync.WaitGroup
	writer.Go(func() {
		for round := range rounds {
			write(round + 1)
		}
	})
	var streams []*stream
	for range 5 {
		streams = append(streams, h.snapshotOf("/events/"+topic+"/?from=snapshot&format=envelope"))
	}
	writer.Wait()
	for i, s := range streams {
		newest := make(map[string]int)
		s.until("the last round", func(out string) bool {
			return strings.Count(tail(out), fmt.Sprintf(`"value":%d}`, rounds)) > 0 && strings.Count(out, fmt.Sprintf(`"value":%d}`, rounds)) >= keys
		})
		live := false
		at := make(map[string]int)
		for _, e := range s.events() {
			var key string
			var round int
			if e.name == "live" {
				live = true
				continue
			}
			if _, err := fmt.Sscanf(e.data[strings.Index(e.data, `"key":`):], `"key":%q,"value":%d}`, &key, &round); err != nil {
				t.Fatalf("%q: %v", e.data, err)
			}
			if old, known := newest[key]; known && (!live || round != old+1) {
				t.Fatalf("stream %d: after %d came %d of %s, live %v", i, old, round, key, live)
			}
			newest[key] = round
			if !live {
				at[key] = round
			}
		}
		if len(at) != keys || len(newest) != keys {
			t.Errorf("stream %d: the snapshot had %d keys of %d", i, len(at), keys)
		}
	}
}

func TestSnapshotOfAFilter(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := compacted(t, k, 1)
		keep(k, topic, `a={"open":true}`, `b={"open":false}`, `c={"open":true}`, `d={"open":true}`, `d={"open":false}`)
		h := startRelay(t, k)
		url := "/events/" + topic + "/?from=snapshot&filter=value.open"
		s := h.open(url)
		s.wantData(`{"open":true}`, `{"open":true}`, `live {"replayed":2}`)
		s.until("hold", func(string) bool { return s.holding })
		keep(k, topic,
			`a={"open":false}`, // leaves
			`b={"open":false}`, // never was there
			"b", "c",           // the same, and deleted
			`b={"open":true}`, `b={"open":false}`, // comes and goes
			"nobody",
			`e={"open":true}`,
		)
		changes := []string{"delete a", "delete c", `{"open":true}`, "delete b", `{"open":true}`}
		s.wantData(append([]string{`{"open":true}`, `{"open":true}`, `live {"replayed":2}`}, changes...)...)

		// Who lost the connection finds the same in the channel's log.
		again := h.open(url, "Last-Event-ID", s.events()[2].id)
		again.wantData(changes...)
		if !again.holding {
			t.Error("it does not hold the channel")
		}
		// Nothing of this is said to a view that did not begin with a snapshot.
		plain := h.open("/events/" + topic + "/?filter=value.open")
		if plain.channel == s.channel {
			t.Error("views that differ share a channel")
		}
	})
}

// Whether a key has left a filtered view is not known any more once the channel's
// log is gone. Then the snapshot comes again.
func TestFilteredSnapshotAfterTheLog(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, `a={"open":true}`, `b={"open":true}`)
	h := startRelay(t, k)
	url := "/events/" + topic + "/?from=snapshot&filter=value.open"
	s := h.snapshotOf(url)
	s.until("hold", func(string) bool { return s.holding })
	id := s.lastEventID()
	keep(k, topic, `c={"open":true}`)

	other := startRelay(t, k)
	again := other.open(url, "Last-Event-ID", id)
	again.wantData(`{"open":true}`) // what it missed left nothing in doubt
	again.until("hold", func(string) bool { return again.holding })

	keep(k, topic, `a={"open":false}`)
	third := startRelay(t, k)
	again = third.open(url, "Last-Event-ID", id)
	again.until("live", func(out string) bool { return strings.Contains(out, "event: live\n") })
	events := again.events()
	if len(events) != 5 || events[1].name != "gap" || !strings.Contains(events[1].data, `"reason":"compaction"`) || !strings.HasPrefix(events[1].id, "1s-") ||
		events[4].data != `{"replayed":2}` {
		t.Errorf("got %+v, want c, a gap, and the snapshot of b and c", events)
	}
}

// A view by key alone needs no channel of its own: all of a key's records are in
// it.
func TestSnapshotOfAKey(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1", "b=1", "c=1", "a=2")
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=snapshot&key=a&key=b")
	s.wantData("2", "1", `live {"replayed":2}`)
	s.until("hold", func(string) bool { return s.holding })
	keep(k, topic, "c", "a")
	s.wantData("2", "1", `live {"replayed":2}`, "delete a")
	if plain := h.open("/events/" + topic + "/?key=b&key=a"); plain.channel != s.channel {
		t.Errorf("the channels %s and %s are two", plain.channel, s.channel)
	}
}

func TestSnapshotOfSeveralTopics(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	a, b := topic+"-a", topic+"-b"
	k.CreateTopic(a, 1, "cleanup.policy=compact")
	k.CreateTopic(b, 2, "cleanup.policy=compact")
	for n := range 300 {
		k.Produce(keyText(a, 0, fmt.Sprintf("k%d=a%d", n, n)), keyText(b, int32(n%2), fmt.Sprintf("k%d=b%d", n, n)))
	}
	h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes = 4 << 10 })
	s := h.snapshotOf("/events/" + a + "," + b + "/?from=snapshot")
	if got := s.events(); len(got) != 601 || got[0].data[0] != 'a' || got[299].data[0] != 'a' || got[300].data[0] != 'b' {
		t.Errorf("%d events, want 300 of a, 300 of b and live", len(got))
	}
	if s.pages < 5 {
		t.Errorf("all came in %d pages, so the test tries nothing", s.pages)
	}
	k.Produce(keyText(b, 1, "k1=news"))
	s.until("news", func(out string) bool { return strings.HasSuffix(out, "data: news\n\n") })
}

func TestSnapshotThatDoesNotFit(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	large := strings.Repeat("x", 1000)
	var records []*kgo.Record
	for n := range 200 {
		records = append(records, keyText(topic, 0, fmt.Sprintf(`k%d={"n":%d,"x":%q}`, n%100, n, large)))
	}
	k.Produce(records...)
	h := startRelay(t, k, func(c *Config) { c.SnapshotMaxBytes = 64 << 10 })
	s := h.snapshotOf("/events/" + topic + "/?from=snapshot")
	events := s.events()
	if len(events) != 201 || events[200].data != `{"replayed":200,"complete":false}` {
		t.Fatalf("%d events, the last is %+v; want all 200 records and live that says so", len(events), events[len(events)-1])
	}
	if !strings.HasPrefix(events[7].id, "1s-") || !strings.HasPrefix(events[200].id, "1-") {
		t.Errorf("the ids are %q and %q, want the first with the mark of a snapshot", events[7].id, events[200].id)
	}
	keep(k, topic, "k1")
	s.until("delete", func(out string) bool { return strings.Contains(out, "event: delete\n") })
	if n := countOf(t, h.r.hub.snapshots.metrics.tooLarge); n != 1 {
		t.Errorf("%v maps did not fit, want 1", n)
	}

	// What a filter passes has a map of its own.
	f := h.snapshotOf("/events/" + topic + "/?from=snapshot&filter=value.n>189")
	if events := f.events(); len(events) != 11 || events[10].data != `{"replayed":10}` {
		t.Errorf("%d events, want the 10 that the filter passes, and live", len(events))
	}
	f.until("hold", func(string) bool { return f.holding })
	keep(k, topic, "k1", "k99", "k98={}", `k2={"n":500}`)
	f.until("what changes", func(string) bool { return len(f.events()) >= 14 })
	var got []string
	for _, e := range f.events()[11:] {
		got = append(got, e.name+" "+e.data)
	}
	if want := `["delete k99" "delete k98" "message {\"n\":500}"]`; fmt.Sprintf("%q", got) != want {
		t.Errorf("got %q, want %s", got, want)
	}

	// One that passes too much has none.
	g := h.snapshotOf("/events/" + topic + "/?from=snapshot&filter=value.n>=0")
	if events := g.events(); !strings.Contains(events[len(events)-1].data, `"complete":false`) {
		t.Errorf("the last event is %+v, want live that says that it is not complete", events[len(events)-1])
	}
}

// A map that grows too large while it is kept takes its listeners with it.
func TestSnapshotThatOutgrowsItsBound(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, `a={"n":1}`)
	h := startRelay(t, k, func(c *Config) { c.SnapshotMaxBytes = 64 << 10 })
	s := h.snapshotOf("/events/" + topic + "/?from=snapshot&filter=value.n>0")
	s.listening(1)
	large := strings.Repeat("x", 1000)
	for n := range 100 {
		keep(k, topic, fmt.Sprintf(`k%d={"n":1,"x":%q}`, n, large))
	}
	s.until("a replay that says so", func(out string) bool { return strings.Contains(out, `"complete":false`) })
	s.until("hold", func(string) bool { return s.holding })
	if !strings.Contains(s.out.String(), `"reason":"compaction"`) {
		t.Error("the client was not told that what it has may not be true any more")
	}
	if used := h.r.hub.snapshots.budget.Used(); used != 0 {
		t.Errorf("%d bytes are used, want none", used)
	}
}

// A version is kept for a minute; who has not read all of it by then begins
// again, but not for ever.
func TestSnapshotForSlowReaders(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	var records []*kgo.Record
	for n := range 200 {
		records = append(records, keyText(topic, 0, fmt.Sprintf("k%03d=%0100d", n, n)))
	}
	k.Produce(records...)
	h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes = 4 << 10 })
	now := time.Now()
	h.r.origin.now = func() time.Time { return now }
	s := h.open("/events/" + topic + "/?from=snapshot")
	s.until("the first page", func(string) bool { return len(s.events()) > 0 })
	now = now.Add(70 * time.Second)
	s.until("a gap", func(out string) bool { return strings.Contains(out, `"reason":"compaction"`) })
	from := len(s.events())
	s.until("live", func(out string) bool { return strings.Contains(out, "event: live\n") })
	if events := s.events(); len(events)-from != 201 || events[len(events)-1].data != `{"replayed":200}` {
		t.Errorf("after the gap there are %d events, want the whole snapshot and live", len(events)-from)
	}

	s = h.open("/events/" + topic + "/?from=snapshot")
	for !strings.Contains(s.out.String(), `"complete":false`) {
		before := s.pages
		s.until("a page", func(string) bool { return s.pages > before })
		now = now.Add(70 * time.Second)
	}
	if got := strings.Count(s.out.String(), `"reason":"compaction"`); got != maxRestarts+1 {
		t.Errorf("%d gaps, want %d", got, maxRestarts+1)
	}
}

// A cursor that is older than the topic's delete.retention.ms may have missed a
// tombstone.
func TestSnapshotAfterDeleteRetention(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1, "delete.retention.ms=600000")
	keep(k, topic, "a=1", "b=1")
	h := startRelay(t, k)
	url := "/events/" + topic + "/?from=snapshot"
	now := time.Now()
	h.r.origin.now = func() time.Time { return now }
	id := h.snapshotOf(url).lastEventID()

	now = now.Add(20 * time.Minute)
	quiet := h.open(url, "Last-Event-ID", id)
	quiet.until("hold", func(string) bool { return quiet.holding }) // nothing happened, so nothing was missed
	if n := len(quiet.events()); n != 0 {
		t.Errorf("%d events, want none", n)
	}
	keep(k, topic, "c=1")
	quiet.wantData("1")

	h.open(url, "Last-Event-ID", id).wantData("1") // from the channel's log

	h = startRelay(t, k)
	h.r.origin.now = func() time.Time { return now }
	events := h.snapshotOf(url, "Last-Event-ID", id).events()
	if len(events) != 5 || events[0].name != "gap" || !strings.Contains(events[0].data, `"topic":"`+topic+`","reason":"compaction","exact":false,"time":"`) {
		t.Errorf("got %+v, want a gap and the snapshot of three keys", events)
	}
	w := h.get(url+"&on_gap=fail", "Last-Event-ID", id)
	if p := problemOf(t, w); w.Code != http.StatusGone || len(p.Gaps) != 1 || p.Gaps[0].Reason != gapCompaction {
		t.Errorf("on_gap=fail: %d %+v, want 410 with the gap", w.Code, p)
	}
	// Who asks for no snapshot gets what there is.
	h.open("/events/"+topic+"/", "Last-Event-ID", id).wantData("1")
	now = now.Add(-15 * time.Minute) // within what deletes are kept for
	h.open(url, "Last-Event-ID", id).wantData("1")
}

func TestSnapshotOfATopicThatWasCreatedAgain(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1")
	h := startRelay(t, k)
	s := h.snapshotOf("/events/" + topic + "/?from=snapshot")
	id := s.lastEventID()
	k.DeleteTopic(topic)
	k.CreateTopic(topic, 1, "cleanup.policy=compact")
	keep(k, topic, "b=1")
	h.eventually("the new topic is known", func() bool {
		w := h.get("/events/"+topic+"/?from=snapshot", "Last-Event-ID", id)
		return w.Code == http.StatusOK && strings.Contains(w.Body.String(), "topic-changed")
	})
	again := h.snapshotOf("/events/"+topic+"/?from=snapshot", "Last-Event-ID", id)
	if events := again.events(); len(events) != 3 || events[0].name != "gap" || events[1].data != "1" || !strings.HasPrefix(events[0].id, "1s-") {
		t.Errorf("got %+v, want a gap, the new topic's snapshot and live", events)
	}
}

// Maps are there as long as somebody has use for them.
func TestSnapshotIsLetGo(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1")
	h := startRelay(t, k, func(c *Config) { c.TopicLinger = time.Second })
	maps := func() int {
		h.r.hub.mu.Lock()
		defer h.r.hub.mu.Unlock()
		return len(h.r.hub.keyMaps)
	}
	// Readers of a version have a minute; here it is almost over.
	h.r.origin.now = func() time.Time { return time.Now().Add(time.Second - snapshot.KeepFor) }
	s := h.snapshotOf("/events/" + topic + "/?from=snapshot")
	s.until("hold", func(string) bool { return s.holding })
	h.gw.listen(s.channel)
	if maps() != 1 {
		t.Fatalf("%d maps, want 1", maps())
	}
	begun := time.Now()
	h.eventually("the linger is over", func() bool { return time.Since(begun) > mapLinger+3*time.Second })
	if maps() != 1 {
		t.Error("the map went while somebody listened")
	}
	h.gw.mu.Lock()
	h.gw.channels[s.channel].listeners--
	h.gw.mu.Unlock()
	h.eventually("the map is let go", func() bool { return maps() == 0 && h.r.hub.snapshots.budget.Used() == 0 })
	h.snapshotOf("/events/" + topic + "/?from=snapshot")
}

// A partition that is added is part of snapshots that begin afterwards, and of
// streams that are live.
func TestSnapshotAndNewPartitions(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := compacted(t, k, 1)
	keep(k, topic, "a=1")
	h := startRelay(t, k)
	s := h.snapshotOf("/events/" + topic + "/?from=snapshot")
	k.AddPartitions(topic, 1)
	k.Produce(keyText(topic, 1, "b=2"))
	s.wantData("1", `live {"replayed":1}`, "2")
	h.open("/events/"+topic+"/?from=snapshot").wantData("1", "2", `live {"replayed":2}`)
}
