package relay

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/relay/kafkatest"
)

// A visit keeps what a walk found, in words, for topics with one partition.
type visit struct {
	found []string
	most  int // records after which it ends the walk; 0: none
}

func (v *visit) record(_ int, r *kgo.Record) bool {
	v.found = append(v.found, fmt.Sprint(r.Partition, "@", r.Offset))
	return v.most == 0 || len(v.found) < v.most
}

func (v *visit) missing(_ int, partition int32, from, to int64) {
	v.found = append(v.found, fmt.Sprint(partition, " gone ", from, "-", to))
}

func (v *visit) scanned(int64, bool) bool { return true }

// walkAll walks one topic from pos to to, and fails the test if it cannot.
func (h *harness) walkAll(topic string, pos, to []int64) []string {
	h.t.Helper()
	info, err := h.r.catalog.lookup(context.Background(), topic)
	if err != nil {
		h.t.Fatal(err)
	}
	var v visit
	if err := h.r.blocks.walk(context.Background(), []*topicInfo{info}, vector{pos}, vector{to}, nil, &v); err != nil {
		h.t.Fatal(err)
	}
	return v.found
}

// historyFetches counts the requests for history that a fake broker gets from
// now on: they are those outside of any fetch session.
func historyFetches(k *kafkatest.Cluster) *atomic.Int64 {
	var n atomic.Int64
	k.Fake().ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		if req.(*kmsg.FetchRequest).SessionEpoch == -1 {
			n.Add(1)
		}
		return nil, nil, false
	})
	return &n
}

func offsetsFrom(partition, from, to int) (found []string) {
	for o := from; o < to; o++ {
		found = append(found, fmt.Sprint(partition, "@", o))
	}
	return found
}

func TestWalksShareFetches(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, numbered("v", 0, 20)...)
	h := startRelay(t, k)
	fetches := historyFetches(k)
	var wg sync.WaitGroup
	got := make([][]string, 8)
	for i := range got {
		wg.Go(func() { got[i] = h.walkAll(topic, []int64{0}, []int64{20}) })
	}
	wg.Wait()
	for i := range got {
		if !slices.Equal(got[i], offsetsFrom(0, 0, 20)) {
			t.Errorf("walk %d found %v", i, got[i])
		}
	}
	if got := h.walkAll(topic, []int64{7}, []int64{12}); !slices.Equal(got, offsetsFrom(0, 7, 12)) {
		t.Errorf("a walk inside a block found %v", got)
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches for nine walks over the same range, want 1", n)
	}
}

func TestOneWalkerLeavingFailsNoOther(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "v0")
	h := startRelay(t, k)
	info, err := h.r.catalog.lookup(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}), make(chan struct{})
	k.Fake().ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(asked)
		k.Fake().SleepControl(func() { <-release })
		return nil, nil, false
	})
	ctx, leave := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() { first <- h.r.blocks.walk(ctx, []*topicInfo{info}, vector{{0}}, vector{{1}}, nil, &visit{}) }()
	<-asked
	second := make(chan []string, 1)
	go func() { second <- h.walkAll(topic, []int64{0}, []int64{1}) }()
	leave()
	if err := <-first; err == nil {
		t.Error("the walk that was left has no error")
	}
	close(release)
	if got := <-second; !slices.Equal(got, offsetsFrom(0, 0, 1)) {
		t.Errorf("the walk that stayed found %v", got)
	}
}

func TestBlockCacheIsBounded(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 30) // the fake broker's answers know no bound for a partition
	to := slices.Repeat([]int64{1}, 30)
	for p := range to {
		k.Produce(value(topic, int32(p), strings.Repeat("x", 100_000)))
	}
	const most = 1 << 20
	h := startRelay(t, k, func(c *Config) { c.HistoryCacheBytes = most })
	for range 2 {
		if got := h.walkAll(topic, make([]int64, 30), to); len(got) != 30 {
			t.Fatalf("found %v", got)
		}
	}
	b := h.r.blocks
	b.mu.Lock()
	defer b.mu.Unlock()
	var held int64
	entries := 0
	for e := b.recent.Front(); e != nil; e = e.Next() {
		held += e.Value.(*blockEntry).block.bytes
	}
	for _, list := range b.byPart {
		entries += len(list.entries)
	}
	if b.bytes > most || b.bytes != held || entries != b.recent.Len() {
		t.Errorf("%d bytes are accounted and %d held in %d of %d entries, want at most %d", b.bytes, held, b.recent.Len(), entries, most)
	}
}

// Retention passes a reader between two of its fetches.
func TestRecordsGoneInTheMiddleOfAWalk(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		values(k, topic, numbered("v", 0, 10)...)
		h := startRelay(t, k)
		k.DeleteRecords(topic, 0, 5)
		want := append([]string{"0 gone 2-5"}, offsetsFrom(0, 5, 10)...)
		if got := h.walkAll(topic, []int64{2}, []int64{10}); !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
		if got, want := h.walkAll(topic, []int64{2}, []int64{4}), []string{"0 gone 2-4"}; !slices.Equal(got, want) {
			t.Errorf("a walk that ends before the log begins found %v, want %v", got, want)
		}
	})
}

func TestWalkAfterLeadersMoved(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t, kafkatest.Nodes(3))
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, numbered("v", 0, 5)...)
	h := startRelay(t, k, func(c *Config) {
		c.KafkaConsumerConfig = strings.Replace(c.KafkaConsumerConfig, `:200}`, `:60000}`, 1) // so that nothing else finds the new leader
	})
	info, err := h.r.catalog.lookup(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Fake().MoveTopicPartition(topic, 0, (info.leaders[0]+1)%3); err != nil {
		t.Fatal(err)
	}
	if got := h.walkAll(topic, []int64{0}, []int64{5}); !slices.Equal(got, offsetsFrom(0, 0, 5)) {
		t.Errorf("found %v", got)
	}
}

func TestWalkSurvivesPassingErrors(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "v0")
	h := startRelay(t, k)
	var left atomic.Int64
	left.Store(2)
	k.Fake().ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if left.Add(-1) < 0 {
			return nil, nil, false
		}
		k.Fake().KeepControl()
		r := req.(*kmsg.FetchRequest)
		resp := r.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = r.Topics[0].Topic, r.Topics[0].TopicID
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.ErrorCode = kerr.NotLeaderForPartition.Code
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	if got := h.walkAll(topic, []int64{0}, []int64{1}); !slices.Equal(got, offsetsFrom(0, 0, 1)) {
		t.Errorf("found %v", got)
	}
}

func TestWalkMergesByTimestamp(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	const partitions = mergeWidth + 8
	k.CreateTopic(topic, partitions)
	var records []*kgo.Record
	to := make([]int64, partitions)
	for i := range 3 * partitions {
		p := i % partitions
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Value: []byte("v"), Timestamp: noon.AddDate(0, 0, i)})
		to[p]++
	}
	k.Produce(records...)
	h := startRelay(t, k)
	found := h.walkAll(topic, make([]int64, partitions), to)
	if len(found) != len(records) {
		t.Fatalf("%d records, want %d", len(found), len(records))
	}
	next := make(map[string]int)
	for i, f := range found {
		p, o, _ := strings.Cut(f, "@")
		if o != fmt.Sprint(next[p]) {
			t.Fatalf("partition %s: offset %s, want %d", p, o, next[p])
		}
		next[p]++
		if i < mergeWidth && f != fmt.Sprint(i, "@0") {
			t.Errorf("record %d is %s, want the oldest of partition %d", i, f, i)
		}
	}

	var v visit // a walk that stops says exactly where
	v.most = 5
	info, _, err := h.r.catalog.cached(topic)
	if err != nil {
		t.Fatal(err)
	}
	pos := vector{make([]int64, partitions)}
	if err := h.r.blocks.walk(context.Background(), []*topicInfo{info}, pos, vector{to}, nil, &v); err != nil {
		t.Fatal(err)
	}
	if want := append([]int64{1, 1, 1, 1, 1}, make([]int64, partitions-5)...); !slices.Equal(pos[0], want) {
		t.Errorf("stopped at %v, want %v", pos[0], want)
	}
}

func TestRecordsKeptShareNothing(t *testing.T) {
	answer := []byte("keyvaluehead")
	in := func() []*kgo.Record {
		return []*kgo.Record{
			{Topic: "t", Partition: 2, Offset: 6, Timestamp: time.UnixMilli(-1), Value: []byte{}, Context: &outcome{size: 3}},
			{
				Key: answer[:3], Value: answer[3:8], Topic: "t", Partition: 2, Offset: 7, Timestamp: time.UnixMilli(5),
				Headers: []kgo.RecordHeader{{Key: "h", Value: answer[8:]}, {Key: "none"}},
			},
			{Topic: "t", Partition: 2, Offset: 9, Timestamp: noon.Local(), Key: []byte{}, Attrs: kgo.RecordAttrs{}},
			{Topic: "t", Partition: 2, Offset: 10, Timestamp: noon.Local(), Headers: []kgo.RecordHeader{{Key: "last", Value: []byte{}}}},
		}
	}
	b := newBlock(blockWant{info: &topicInfo{name: "t"}, partition: 2, offset: 5}, 12, in())
	var alone []*kgo.Record
	for _, r := range in() {
		alone = append(alone, detached(r))
	}
	want := in()
	copy(answer, "xxxxxxxxxxxx")
	want[1].Key, want[1].Value, want[1].Headers[0].Value = []byte("key"), []byte("value"), []byte("head")
	r := kgo.Record{Headers: []kgo.RecordHeader{{Key: "of another"}}}
	for i, want := range want {
		if b.Record(i, &r); !reflect.DeepEqual(&r, want) {
			t.Errorf("record %d of the block: got %+v, want %+v", i, r, *want)
		}
		if !reflect.DeepEqual(alone[i], want) {
			t.Errorf("record %d alone: got %+v, want %+v", i, *alone[i], *want)
		}
	}
	for offset, want := range map[int64]int{5: 0, 6: 0, 7: 1, 8: 2, 10: 3, 11: 4} {
		if got := b.from(offset); got != want {
			t.Errorf("the first record at or past %d: got number %d, want %d", offset, got, want)
		}
	}
}
