package relay

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/cursor"
	"spillway/relay/kafkatest"
)

// TestCursorRows is the table of event-semantics.md section 3.3, row by row, as
// far as it depends on nothing but the cursor and the log. The other rows: a
// replica that is behind (TestCursorAheadOfThisReplica), an unknown topic
// (TestNothingTellsHiddenFromMissing), too much to replay (TestReplayLimit).
func TestCursorRows(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic, other := kafkatest.UniqueTopic(t)+"-a", kafkatest.UniqueTopic(t)+"-b"
		k.CreateTopic(topic, 2)
		k.CreateTopic(other, 1)
		// A record a minute in partition 0, and one every two minutes in 1.
		begin := time.Now().Add(-time.Hour).Truncate(time.Minute)
		for i := range 10 {
			at := begin.Add(time.Duration(i) * time.Minute)
			k.Produce(&kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "v%d", i), Timestamp: at})
			if i%2 == 1 {
				k.Produce(&kgo.Record{Topic: topic, Partition: 1, Value: fmt.Appendf(nil, "w%d", i/2), Timestamp: at})
			}
		}
		values(k, other, "before")
		k.DeleteRecords(topic, 0, 3)
		h := startRelay(t, k)
		own, others := mustLookup(t, h, topic).tag, mustLookup(t, h, other).tag

		offset := func(p int, reason string, from, to int) string {
			return fmt.Sprintf(`{"topic":%q,"partition":%d,"reason":%q,"from":%d,"to":%d,"exact":true}`, topic, p, reason, from, to)
		}
		timed := func(reason string, minute int) string {
			return fmt.Sprintf(`{"topic":%q,"reason":%q,"exact":false,"time":%q}`, topic, reason, begin.Add(time.Duration(minute)*time.Minute).UTC().Format("2006-01-02T15:04:05Z"))
		}
		for _, tt := range []struct {
			name   string
			minute int    // of the cursor, after begin
			blocks string // TAG is the topic's
			more   string // topics besides it
			gaps   []string
			v, w   int // the first record of each partition that is delivered; -1: none
		}{
			{name: "within the log", blocks: "TAG.2.5.2", v: 5, w: 2},
			{name: "at the end of the log", blocks: "TAG.2.a.5", v: -1, w: -1},
			{name: "before the log: retention", blocks: "TAG.2.1.2", gaps: []string{offset(0, "retention", 1, 3)}, v: 3, w: 2},
			{name: "past the end: truncated", blocks: "TAG.2.8.9", gaps: []string{offset(1, "truncated", 5, 9)}, v: 8, w: -1},
			{name: "one partition before the log, one past its end", blocks: "TAG.2.0.9",
				gaps: []string{offset(0, "retention", 0, 3), offset(1, "truncated", 5, 9)}, v: 3, w: -1},
			{name: "a partition added since", blocks: "TAG.1.8", v: 8, w: 0},
			{name: "fewer partitions now", minute: 7, blocks: "TAG.3.8.2.4", gaps: []string{timed("topic-changed", 6)}, v: 6, w: 3},
			{name: "another tag", minute: 7, blocks: "zzzzz.2.8.2", gaps: []string{timed("topic-changed", 6)}, v: 6, w: 3},
			{name: "another tag, nothing since", minute: 50, blocks: "zzzzz.2.8.2", gaps: []string{timed("topic-changed", 49)}, v: -1, w: -1},
			{name: "another tag, partitions of it", minute: 7, blocks: "zzzzz.1.1_2", gaps: []string{timed("topic-changed", 6)}, v: 6, w: 3},
			{name: "position unknown", minute: 7, blocks: "TAG.2!", gaps: []string{timed("time-resume", 6)}, v: 6, w: 3},
			{name: "position unknown, nothing to replay", minute: 50, blocks: "TAG.2!", v: -1, w: -1},
			{name: "a topic without a block begins live", blocks: "TAG.2.9.4", more: other, v: 9, w: 4},
			{name: "only another topic's block, of two", blocks: "OTHER.1.1", more: other, v: -1, w: -1},
			{name: "a block of a topic that is not asked for", blocks: "TAG.2.9.4~OTHER.1.0", v: 9, w: 4},
			{name: "blocks in another order", blocks: "OTHER.1.1~TAG.2.9.4", more: other, v: 9, w: 4},
			{name: "a partition that the cursor's view had not begins live", blocks: "TAG.1.1_2", v: -1, w: 2},
		} {
			t.Run(tt.name, func(t *testing.T) {
				blocks := strings.NewReplacer("TAG", own.String(), "OTHER", others.String()).Replace(tt.blocks)
				id := "1-" + strconv.FormatInt(cursor.Minute(begin)+int64(tt.minute), 36) + "-" + blocks
				url := "/events/" + topic + "/"
				if tt.more != "" {
					url += "?topic=" + tt.more
				}
				s := h.open(url, "Last-Event-ID", id)
				s.until("hold", func(string) bool { return s.holding })
				var gaps, v, w []string
				for _, e := range s.events() {
					switch {
					case e.name == "gap":
						gaps = append(gaps, e.data)
					case strings.HasPrefix(e.data, "v"):
						v = append(v, e.data)
					case strings.HasPrefix(e.data, "w"):
						w = append(w, e.data)
					default:
						t.Errorf("unexpected %+v", e)
					}
				}
				if !slices.Equal(gaps, tt.gaps) {
					t.Errorf("gaps: got %q, want %q", gaps, tt.gaps)
				}
				var wantV, wantW []string
				if tt.v >= 0 {
					wantV = numbered("v", tt.v, 10)
				}
				if tt.w >= 0 {
					wantW = numbered("w", tt.w, 5)
				}
				if !slices.Equal(v, wantV) || !slices.Equal(w, wantW) {
					t.Errorf("got %q and %q, want %q and %q", v, w, wantV, wantW)
				}

				// A gap that is known before the stream begins can refuse it.
				join := "?"
				if tt.more != "" {
					join = "&"
				}
				refused := h.get(url+join+"on_gap=fail", "Last-Event-ID", id)
				if want := map[bool]int{true: http.StatusGone, false: http.StatusOK}[len(tt.gaps) > 0]; refused.Code != want {
					t.Errorf("on_gap=fail: got %d, want %d", refused.Code, want)
				}
				// What a client was told of once it is not told again.
				for _, e := range s.events() {
					if e.name != "gap" {
						continue
					}
					if e.id == "" {
						t.Fatalf("gap %s has no id", e.data)
					}
					id = e.id
				}
				if len(tt.gaps) > 0 {
					again := h.open(url, "Last-Event-ID", id)
					again.until("hold", func(string) bool { return again.holding })
					var got []string
					for _, e := range again.events() {
						got = append(got, e.name)
					}
					if len(got) != len(v)+len(w) || slices.Contains(got, "gap") {
						t.Errorf("who comes back with the gap's id gets %q, want the %d records and no gap", got, len(v)+len(w))
					}
				}
			})
		}
	})
}

// TestPrecedenceOfStarts is the table of event-semantics.md section 2: each
// source beside all those that it wins over.
func TestPrecedenceOfStarts(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	begin := time.Now().Add(-time.Hour).Truncate(time.Minute)
	for i := range 8 {
		k.Produce(&kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "v%d", i), Timestamp: begin.Add(time.Duration(i) * time.Minute)})
	}
	h := startRelay(t, k)
	at := func(offset int) string {
		return "1-" + strconv.FormatInt(cursor.Minute(begin), 36) + "-" + mustLookup(t, h, topic).tag.String() + ".1." + strconv.Itoa(offset)
	}
	const last, earliest = "last=1", "from=earliest"
	since := "since=" + begin.Add(4*time.Minute).UTC().Format(time.RFC3339)
	for _, tt := range []struct {
		name, query string
		header      []string
		first       int
	}{
		{"header", strings.Join([]string{"last_event_id=" + at(5), since, earliest, last}, "&"), []string{"Last-Event-ID", at(6)}, 6},
		{"last_event_id", strings.Join([]string{"last_event_id=" + at(5), since, earliest, last}, "&"), nil, 5},
		{"lastEventId", strings.Join([]string{"lastEventId=" + at(5), since, earliest, last}, "&"), nil, 5},
		{"an empty header is none", "last_event_id=" + at(5), []string{"Last-Event-ID", ""}, 5},
		{"since", strings.Join([]string{since, earliest, last}, "&"), nil, 4},
		{"from=earliest", strings.Join([]string{earliest, last}, "&"), nil, 0},
		{"from=latest", strings.Join([]string{"from=latest", last}, "&"), nil, 8},
		{"last", last, nil, 7},
		{"nothing", "", nil, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := h.open("/events/"+topic+"/?"+tt.query, tt.header...)
			s.until("hold", func(string) bool { return s.holding })
			s.wantData(numbered("v", tt.first, 8)...)
		})
	}
}

// The id of each event of interleaved partitions is a place to go on from, on a
// replica that merged them in another order.
func TestReconnectBetweenPartitions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		const partitions, rounds = 4, 6
		k.CreateTopic(topic, partitions)
		one := startRelay(t, k)
		live := one.open("/events/" + topic + "/")
		for i := range rounds * partitions {
			k.Produce(value(topic, int32(i%partitions), fmt.Sprint(i)))
		}
		all := chosenNumbers(rounds*partitions, nil)
		live.wantOnce(all)
		other := startRelay(t, k)
		old := other.open("/events/" + topic + "/?from=earliest")
		old.wantOnce(all)
		for _, from := range []struct {
			s  *stream
			to *harness
		}{{live, other}, {old, one}} {
			seen := make(map[string]bool)
			for _, e := range from.s.events() {
				seen[e.data] = true
				again := from.to.open("/events/"+topic+"/", "Last-Event-ID", e.id)
				again.wantOnce(chosenNumbers(rounds*partitions, seen))
			}
		}
	})
}

// chosenNumbers are the numbers up to n but those that were seen.
func chosenNumbers(n int, seen map[string]bool) (want []string) {
	for i := range n {
		if v := fmt.Sprint(i); !seen[v] {
			want = append(want, v)
		}
	}
	return want
}

// A cursor that lies a few thousand records behind a topic on which there is
// always something going on reaches the live channel, by one read of what lies
// between.
func TestAttachToABusyTopic(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	made := 0
	produce := func(n int) {
		var records []*kgo.Record
		for range n {
			records = append(records, value(topic, 0, fmt.Sprintf("%d %s", made, strings.Repeat("x", 50))))
			made++
		}
		k.Produce(records...)
	}
	produce(5000)
	h := startRelay(t, k)
	h.open("/events/" + topic + "/") // somebody listens
	fetches := historyFetches(k)
	s := h.open("/events/"+topic+"/", "Last-Event-ID", fmt.Sprintf("1-0-%s.1.%s", mustLookup(t, h, topic).tag, strconv.FormatInt(2000, 36)))
	for !s.holding {
		produce(300)
		if !s.step() || s.pages > 50 {
			t.Fatalf("after %d pages it has not reached the live channel", s.pages)
		}
	}
	if n := fetches.Load(); n > 2 {
		t.Errorf("%d reads of history for %d pages, want one", n, s.pages)
	}
	produce(10)
	s.until("the live records", func(out string) bool { return strings.Contains(out, fmt.Sprintf("data: %d ", made-1)) })
	for i, e := range s.events() {
		if want := fmt.Sprintf("%d ", 2000+i); !strings.HasPrefix(e.data, want) {
			t.Fatalf("event %d is %.20q, want record %s", i, e.data, want)
		}
	}
}

// A view of which hardly anything is shown asks nothing again while others'
// records go by, though its channel's log remembers next to nothing.
func TestSparseViewOnABusyTopic(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	h := startRelay(t, k)
	h.gw.retain = 2
	s := h.open("/events/" + topic + "/?key=k3&filter=value.n==4003")
	fetches := historyFetches(k)
	for n := 0; n < 5000; n += 500 {
		orders(k, topic, n, n+500)
		h.eventually("the records are read", func() bool {
			pos, err := h.r.hub.position(scope{topics: []*topicInfo{mustLookup(t, h, topic)}})
			return err == nil && int(pos[0][0]+pos[0][1]) == n+500
		})
		s.step()
	}
	s.wantData(chosen(4003, 4004, func(int) bool { return true })...)
	if s.pages != 0 || fetches.Load() != 0 {
		t.Errorf("%d pages were asked for, and history was read %d times, want none", s.pages, fetches.Load())
	}
}

// With a hundred partitions ids fit any header, the last event of a batch has
// one, and whoever is cut off anywhere sees again at most what came after it.
func TestHundredPartitions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		const partitions = 100
		k.CreateTopic(topic, partitions)
		h, other := startRelay(t, k), startRelay(t, k)
		s := h.open("/events/" + topic + "/")
		want := everywhere(k, topic, partitions, "v", 60, time.Now()) // so that offsets have two digits
		s.wantOnce(want)
		for name, s := range map[string]*stream{"live": s, "history": other.open("/events/" + topic + "/?from=earliest")} {
			s.wantOnce(want)
			events := s.events()
			since := 0
			for i, e := range events {
				since++
				if e.id != "" {
					since = 0
				}
				if len(e.id) > cursor.MaxBytes || since > batchIDEvents {
					t.Fatalf("%s: event %d has an id of %d bytes, and the last one was %d events ago", name, i, len(e.id), since)
				}
			}
			if last := events[len(events)-1].id; len(last) <= cursor.EveryEventBytes {
				t.Errorf("%s: the last event has an id of %d bytes, want a long one", name, len(last))
			}
			for cut := 37; cut <= len(events); cut += 701 {
				id, at := s.lastIDOf(cut)
				var rest []string
				for _, e := range events[at:] {
					rest = append(rest, e.data)
				}
				if id == "" { // nothing that it could come back with: it begins anew
					continue
				}
				h.open("/events/"+topic+"/", "Last-Event-ID", id).wantOnce(rest)
			}
		}
	})
}

// lastIDOf is the last id among the first n events, and how many they are up to
// it.
func (s *stream) lastIDOf(n int) (id string, at int) {
	for i, e := range s.events()[:n] {
		if e.id != "" {
			id, at = e.id, i+1
		}
	}
	return id, at
}

// A value of 10 MiB is told of where events may be smaller, and whole where
// they may not.
func TestTenMegabytes(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1, "max.message.bytes=20000000")
		producer := k.Client(kgo.ProducerBatchMaxBytes(20_000_000), kgo.MaxBufferedBytes(50_000_000))
		large := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
		small, whole := startRelay(t, k), startRelay(t, k, func(c *Config) { c.EventMaxBytes = 16 << 20 })
		live := []*stream{small.open("/events/" + topic + "/"), whole.open("/events/" + topic + "/")}
		for _, v := range [][]byte{[]byte("before"), large, []byte("after")} {
			if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: v}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		past := []*stream{small.open("/events/" + topic + "/?from=earliest"), whole.open("/events/" + topic + "/?from=earliest")}
		for _, streams := range [][]*stream{live, past} {
			streams[0].wantData("before", fmt.Sprintf(`oversize {"topic":%q,"partition":0,"offset":1,"reason":"oversize","size":%d}`, topic, len(large)), "after")
			s := streams[1]
			s.until("all three", func(out string) bool { return strings.HasSuffix(out, "data: after\n\n") })
			if e := s.events(); len(e) != 3 || e[1].name != "message" || e[1].data != string(large) {
				t.Errorf("got %d events, want the value as it is between two others", len(e))
			}
		}
	})
}

// A stream-error carries no id, so that a reconnect goes on where the data
// stopped; gap, live and end carry where the stream is after them.
func TestIDsOfControlEvents(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, numbered("v", 0, 5)...)
	k.DeleteRecords(topic, 0, 2)
	h := startRelay(t, k)
	tag := mustLookup(t, h, topic).tag.String()
	s := h.open("/events/"+topic+"/?marks=1&limit=3", "Last-Event-ID", "1-0-"+tag+".1.1")
	s.until("end", func(string) bool { return s.ended })
	want := []string{"gap .2", "message .3", "message .4", "message .5", "end .5"}
	for i, e := range s.events() {
		name, suffix, _ := strings.Cut(want[i], " ")
		if e.name != name || !strings.HasSuffix(e.id, tag+".1"+suffix) {
			t.Errorf("event %d: got %s with id %s, want %s with the offset %s", i, e.name, e.id, name, suffix)
		}
	}
	s = h.open("/events/" + topic + "/?from=earliest&marks=1")
	s.until("live", func(string) bool { return len(s.events()) == 4 })
	if e := s.events()[3]; e.name != "live" || !strings.HasSuffix(e.id, tag+".1.5") {
		t.Errorf("got %+v, want live with the position it is at", e)
	}
	k.DeleteTopic(topic)
	s.until("stream-error", func(out string) bool { return strings.Contains(out, "event: stream-error") })
	if last := s.events()[len(s.events())-1]; last.name != "stream-error" || last.id != "" {
		t.Errorf("got %+v, want stream-error without an id", last)
	}
}

// untilRead waits until the hub has read n records of a topic, those included
// that were there before it began.
func (h *harness) untilRead(topic string, n int64) {
	h.t.Helper()
	h.eventually(fmt.Sprint(n, " records are read"), func() bool {
		info, err := h.r.catalog.lookup(h.t.Context(), topic)
		if err != nil {
			return false
		}
		pos, err := h.r.hub.position(scope{topics: []*topicInfo{info}})
		return err == nil && make(vector, 1).distance(pos) == n
	})
}

// A cursor of a topic that was created again is known by a replica that has not
// heard of that: who has been told of the gap is not told once more, and gets no
// record again.
func TestCursorOfANewTopicOnAReplicaThatKnowsTheOld(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic, other := kafkatest.UniqueTopic(t)+"-a", kafkatest.UniqueTopic(t)+"-b"
		k.CreateTopic(topic, 1)
		k.CreateTopic(other, 1)
		rarely := func(c *Config) {
			c.KafkaConsumerConfig = strings.Replace(c.KafkaConsumerConfig, `:200}`, `:600000}`, 1)
		}
		quick := startRelay(t, k)
		late := map[string]*harness{"not read here": startRelay(t, k, rarely), "read here": startRelay(t, k, rarely)}
		url := "/events/" + topic + "/?from=earliest"
		values(k, topic, "old")
		late["read here"].open(url).wantData("old")
		s := quick.open(url)
		s.wantData("old")
		old := s.lastEventID()

		k.DeleteTopic(topic)
		k.CreateTopic(topic, 1)
		values(k, topic, "new0", "new1")
		quick.eventually("the new topic is seen", func() bool {
			w := quick.get(url+"&on_gap=fail", "Last-Event-ID", old)
			return w.Code == http.StatusGone && strings.Contains(w.Body.String(), "topic-changed")
		})
		s = quick.open(url, "Last-Event-ID", old)
		s.until("the new records", func(string) bool { return len(s.events()) == 3 })
		for name, h := range late {
			for _, more := range []string{"", "&topic=" + other} {
				again := h.open(url+more, "Last-Event-ID", s.events()[1].id)
				again.until("hold", func(string) bool { return again.holding })
				if got := again.events(); len(got) != 1 || got[0].data != "new1" {
					t.Errorf("%s, %q: got %+v, want new1", name, more, got)
				}
			}
		}
	})
}
