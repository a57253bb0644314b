package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// The earliest start that fits the limit, using at least half of it, whatever
// the records' times are (event-semantics.md, section 10, replay cut).
func TestReplayCutUsesHalfOfTheLimit(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	const partitions, records, limit = 3, 300, 100
	begin := time.Now().Add(-30 * 24 * time.Hour).Truncate(time.Millisecond)
	for _, tt := range []struct {
		name string
		at   func(i int) time.Time
		part func(i int) int
	}{
		{"a record a minute", func(i int) time.Time { return begin.Add(time.Duration(i) * time.Minute) }, nil},
		{"all in one millisecond", func(int) time.Time { return begin }, nil},
		{"two bulks", func(i int) time.Time { return begin.Add(time.Duration(i/150) * time.Hour) }, nil},
		{"one bulk and then few", func(i int) time.Time { return begin.Add(time.Duration(max(0, i-290)) * time.Hour) }, nil},
		{"in no order", func(i int) time.Time { return begin.Add(time.Duration(i*7919%records) * time.Second) }, nil},
		{"before 1970", func(int) time.Time { return time.UnixMilli(-1) }, nil},
		{"in the future", func(int) time.Time { return time.Now().Add(time.Hour) }, nil},
		{"one partition has nearly all", func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second) }, func(i int) int { return max(0, i-297) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, partitions)
			head := vector{make([]int64, partitions)}
			var produce []*kgo.Record
			for i := range records {
				p := i % partitions
				if tt.part != nil {
					p = tt.part(i)
				}
				head[0][p]++
				produce = append(produce, &kgo.Record{Topic: topic, Partition: int32(p), Value: []byte("v"), Timestamp: tt.at(i)})
			}
			k.Produce(produce...)
			h := startRelay(t, k, func(c *Config) { c.ReplayMaxRecords = limit })
			v := h.r.origin.resolver
			info, err := h.r.catalog.lookup(context.Background(), topic)
			if err != nil {
				t.Fatal(err)
			}
			pos := vector{make([]int64, partitions)}
			got, gaps, err := v.limit(context.Background(), []*topicInfo{info}, pos, head)
			if err != nil {
				t.Fatal(err)
			}
			if n := got.distance(head); n > limit || n < limit/2 {
				t.Errorf("from %v to %v is %d records, want %d to %d", got, head, n, limit/2, limit)
			}
			for p := range got[0] {
				if got[0][p] < pos[0][p] || got[0][p] > head[0][p] {
					t.Errorf("partition %d begins at %d of %d", p, got[0][p], head[0][p])
				}
			}
			for _, g := range gaps {
				if g.Reason != gapReplayLimit || *g.From != 0 || *g.To != got[0][*g.Partition] {
					t.Errorf("gap %s", mustJSON(g))
				}
			}
			if got, gaps, err := v.limit(context.Background(), []*topicInfo{info}, got, head); err != nil || len(gaps) != 0 {
				t.Errorf("what fits is cut again: %v %v %v", got, gaps, err)
			}
		})
	}
}

func TestReplayMaxAge(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	for i, v := range numbered("v", 0, 4) {
		k.Produce(&kgo.Record{Topic: topic, Value: []byte(v), Timestamp: time.Now().Add(-time.Duration(4-i) * time.Hour)})
	}
	h := startRelay(t, k, func(c *Config) { c.ReplayMaxAge = 150 * time.Minute })
	gap := fmt.Sprintf(`gap {"topic":%q,"partition":0,"reason":"replay-limit","from":0,"to":2,"exact":true}`, topic)
	h.open("/events/"+topic+"/?from=earliest").wantData(gap, "v2", "v3")
	h.open("/events/"+topic+"/?last=3").wantData("v2", "v3") // a look back promises nothing before it
	if w := h.get("/events/" + topic + "/?from=earliest&on_gap=fail"); w.Code != 410 {
		t.Errorf("on_gap=fail: %d, want 410", w.Code)
	}
}

// The newest N are the newest by timestamp, as suffixes of the partitions.
func TestNewest(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	const partitions = 5
	k.CreateTopic(topic, partitions)
	rnd := rand.New(rand.NewPCG(1, 2))
	to := vector{make([]int64, partitions)}
	var records []*kgo.Record
	for i := range 2000 {
		p := rnd.IntN(partitions)
		to[0][p]++
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Value: []byte("v"), Timestamp: noon.Add(time.Duration(i) * time.Second)})
	}
	k.Produce(records...)
	h := startRelay(t, k)
	info, err := h.r.catalog.lookup(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 2, 63, 64, 65, 700, 1999, 2000, 5000} {
		from := vector{make([]int64, partitions)}
		want := to.clone()
		for i := len(records) - 1; i >= max(0, len(records)-int(n)); i-- {
			want[0][records[i].Partition]--
		}
		got, err := h.r.blocks.newest(context.Background(), scope{topics: []*topicInfo{info}}, from, to, n)
		if err != nil || !sameVector(got, want) {
			t.Errorf("newest %d: %v %v, want %v", n, got, err, want)
		}
	}
	// Not before where it may begin.
	from := to.clone()
	from[0][0] -= 3
	if got, err := h.r.blocks.newest(context.Background(), scope{topics: []*topicInfo{info}}, from, to, 100); err != nil || !sameVector(got, from) {
		t.Errorf("bounded below: %v %v, want %v", got, err, from)
	}
}

// A cursor that another replica wrote may be ahead of this one.
func TestCursorAheadOfThisReplica(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/")
	values(k, topic, "v0")
	s.wantData("v0")
	id := s.lastEventID()
	h.r.hub.mu.Lock() // this replica is slow
	values(k, topic, "v1", "v2")
	ahead := strings.TrimSuffix(id, ".1") + ".3"
	answer := make(chan *stream, 1)
	go func() { answer <- h.open("/events/"+topic+"/", "Last-Event-ID", ahead) }()
	h.r.hub.mu.Unlock()
	again := <-answer
	values(k, topic, "v3")
	again.wantData("v3")

	// Past the end of the log it is a truncated one.
	beyond := strings.TrimSuffix(id, ".1") + ".zz"
	s = h.open("/events/"+topic+"/", "Last-Event-ID", beyond)
	values(k, topic, "v4")
	s.wantData(fmt.Sprintf(`gap {"topic":%q,"partition":0,"reason":"truncated","from":4,"to":1295,"exact":true}`, topic), "v4")
	if w := h.get("/events/"+topic+"/?on_gap=fail", "Last-Event-ID", beyond); w.Code != 410 {
		t.Errorf("on_gap=fail: %d, want 410", w.Code)
	}
}

// Each gap that a client is told of counts once, at the start of a stream and
// in the middle of a replay.
func TestGapsAreCounted(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, numbered("v", 0, 5)...)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest")
	s.wantData(numbered("v", 0, 5)...)
	id := s.events()[0].id
	k.DeleteRecords(topic, 0, 3)
	other := startRelay(t, k)
	again := other.open("/events/"+topic+"/", "Last-Event-ID", id)
	again.until("a gap and the rest", func(string) bool { return len(again.events()) == 3 })
	if got := countOf(t, other.r.origin.metrics.gaps[gapRetention]); got != 1 {
		t.Errorf("spillway_gaps_total{reason=retention}: got %v, want 1", got)
	}
}
