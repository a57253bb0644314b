package relay

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"spillway/grip/bytesize"
	"spillway/relay/filter"
	"spillway/relay/kafkatest"
)

func counted(t testing.TB, c prometheus.Counter) int64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return int64(m.GetCounter().GetValue())
}

// A some ends a walk after so many records, as a page does.
type some struct{ left, found int }

func (s *some) record(int, *kgo.Record) bool {
	s.found++
	s.left--
	return s.left > 0
}

func (*some) missing(int, int32, int64, int64) {}
func (*some) scanned(int64, bool) bool         { return true }

// window produces records of about size bytes, a few in a batch, to each partition.
func window(k *kafkatest.Cluster, topic string, partitions, records, size int) (bytes int64) {
	rnd := rand.NewChaCha8([32]byte{})
	pad := make([]byte, size*3/4)
	var some []*kgo.Record
	for i := range records {
		for p := range partitions {
			_, _ = rnd.Read(pad) // what clients compress, brokers count as compressed
			r := &kgo.Record{Topic: topic, Partition: int32(p), Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, i, base64.StdEncoding.EncodeToString(pad))}
			some = append(some, r)
			bytes += int64(len(r.Value) + len(r.Key))
		}
		if len(some) >= 16 || i == records-1 {
			k.Produce(some...)
			some = some[:0]
		}
	}
	return bytes
}

// Thousands of readers who come back at once, each at another place of the last
// minute, read that minute once, not each for himself.
func TestCrowdSharesFetches(t *testing.T) {
	kafkatest.Each(t, crowdSharesFetches)
}

func crowdSharesFetches(t *testing.T, k *kafkatest.Cluster) {
	const partitions, records = 2, 500
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, partitions)
	bytes := window(k, topic, partitions, records, 4<<10)
	for _, tt := range []struct {
		name    string
		readers int
		cache   int64
		most    int64 // that is to be read
	}{
		{"the window fits", 2000, 64 << 20, 2 * bytes},
		{"a third of the window fits", 2000, bytes / 3, 3 * bytes},
		{"a third of the window fits, and as many pages are made as there are readers", 200, bytes / 3, 3 * bytes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := startRelay(t, k)
			b := h.r.blocks
			b.maxBytes = tt.cache
			info, err := h.r.catalog.lookup(context.Background(), topic)
			if err != nil {
				t.Fatal(err)
			}
			turns := newTurns(pagesAtOnce(&Config{CatchupPages: 256, HistoryCacheBytes: bytesize.Bytes(tt.cache)}), func() time.Time { return noon }, prometheus.NewRegistry())
			var wg sync.WaitGroup
			var over atomic.Int64
			rnd := rand.New(rand.NewPCG(1, 2))
			for range tt.readers {
				left := rnd.Int64N(records)
				pos := vector{{left, min(left+rnd.Int64N(3), records)}} // when the client left
				wg.Go(func() {
					want, found := int(2*records-pos[0][0]-pos[0][1]), 0
					to := vector{{records, records}}
					for !pos.covers(to) {
						_ = turns.take(context.Background(), spotOf([]string{topic}, pos, b.reach([]*topicInfo{info})))
						page := some{left: 16}
						err := b.walk(context.Background(), []*topicInfo{info}, pos, to, nil, &page)
						turns.giveBack()
						if err != nil {
							t.Error(err)
							return
						}
						found += page.found
						b.mu.Lock()
						over.Store(max(over.Load(), b.bytes))
						b.mu.Unlock()
					}
					if found != want {
						t.Errorf("a reader found %d records, want %d", found, want)
					}
				})
			}
			wg.Wait()
			read := counted(t, b.read)
			t.Logf("%d bytes were read of a window of %d, in %d fetches; at most %d were kept", read, bytes, counted(t, b.fetches), over.Load())
			if read > tt.most {
				t.Errorf("%d bytes were read of a window of %d, want at most %d", read, bytes, tt.most)
			}
			if over.Load() > tt.cache {
				t.Errorf("%d bytes of blocks were kept, want at most %d", over.Load(), tt.cache)
			}
		})
	}
}

// However many readers want some records of the same window, each looks at his
// own, and one of them at all.
func TestCrowdOfFiltersSharesLookups(t *testing.T) {
	t.Parallel()
	const readers, records = 2000, 2000
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	bytes := window(k, topic, 1, records, 900)
	h := startRelay(t, k)
	b := h.r.blocks
	info, err := h.r.catalog.lookup(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	compiler := testQueries().compiler
	var wg sync.WaitGroup
	limit := semaphore.NewWeighted(64)
	var visited atomic.Int64
	for i := range readers {
		wg.Go(func() {
			_ = limit.Acquire(context.Background(), 1)
			defer limit.Release(1)
			f, err := compiler.Compile(filter.Spec{Keys: []string{fmt.Sprint("k", i)}})
			if err != nil {
				t.Error(err)
				return
			}
			page := some{left: 64}
			if err := b.walk(context.Background(), []*topicInfo{info}, vector{{0}}, vector{{records}}, f, &page); err != nil || page.found != 1 {
				t.Errorf("reader %d found %d records (%v), want one", i, page.found, err)
			}
			visited.Add(int64(page.found))
		})
	}
	wg.Wait()
	if read := counted(t, b.read); read > 2*bytes {
		t.Errorf("%d bytes were read of a window of %d, want at most twice", read, bytes)
	}
	if looked := counted(t, b.looked); looked > 2*records+readers {
		t.Errorf("%d records were looked at, want the window's %d and one for each of %d readers", looked, records, readers)
	}
}
