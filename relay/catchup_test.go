//go:build unix

package relay

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// cpuTime is what the process has used so far, the fake broker included.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// readAll reads a stream's history until it is live, and returns its bytes.
func (s *stream) readAll() (bytes int) {
	s.h.t.Helper()
	for !s.holding {
		bytes += s.out.Len()
		s.out.Reset()
		s.step()
	}
	return bytes + s.out.Len()
}

func salesTopic(b *testing.B, records int) (k *kafkatest.Cluster, topic string, bytes int64) {
	b.Helper()
	k, topic = kafkatest.Fake(b), "sales"
	k.CreateTopic(topic, 1)
	all := sales(topic, records)
	for i := 0; i < len(all); i += 100 { // batches as producers with a little patience make them
		k.Produce(all[i:min(i+100, len(all))]...)
	}
	for _, r := range all {
		bytes += int64(len(r.Value))
	}
	return k, topic, bytes
}

// BenchmarkCatchup is one client that reads all of a topic, without a gateway;
// what=bare is a reader of the same client library that does nothing with what
// it reads. The cache is smaller than the topic, so that nothing stays in it.
func BenchmarkCatchup(b *testing.B) {
	const records = 200_000
	k, topic, bytes := salesTopic(b, records)
	measure := func(b *testing.B, read func()) {
		b.SetBytes(bytes)
		began := cpuTime(b)
		for b.Loop() {
			read()
		}
		b.ReportMetric(float64(bytes)*float64(b.N)/1e6/(cpuTime(b)-began).Seconds(), "MB/cpu-s")
	}
	b.Run("what=bare", func(b *testing.B) {
		measure(b, func() {
			client, err := kgo.NewClient(kgo.SeedBrokers(k.Bootstrap()), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			for n := 0; n < records; {
				fetches := client.PollFetches(context.Background())
				if err := fetches.Err(); err != nil {
					b.Fatal(err)
				}
				n += fetches.NumRecords()
			}
		})
	})
	h := startRelay(b, k, func(c *Config) { c.HistoryCacheBytes = 16 << 20 })
	for _, params := range []string{"", "&format=envelope", "&key=u7", "&filter=value.user=='u7'", "&filter=value.amount>20.5"} {
		b.Run("what=all"+params, func(b *testing.B) {
			measure(b, func() { h.open("/events/" + topic + "/?from=earliest" + params).readAll() })
		})
	}
}

// BenchmarkCrowd is 20,000 clients with keys of their own who come back at once
// and go through the same window: how much more CPU time they take than the
// first who goes through it, and than as many requests that go through nothing.
func BenchmarkCrowd(b *testing.B) {
	const records, clients = 60_000, 20_000
	k, topic, _ := salesTopic(b, records)
	for b.Loop() {
		h := startRelay(b, k)
		h.open("/events/" + topic + "/").readAll() // the topic is being read
		cost := func(n int, params func(i int) string) (cpu time.Duration, bytes int64) {
			runtime.GC()
			began := cpuTime(b)
			var wg sync.WaitGroup
			var next, sent atomic.Int64
			for range 64 {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
						sent.Add(int64(h.open("/events/" + topic + "/?" + params(int(i))).readAll()))
					}
				})
			}
			wg.Wait()
			return cpuTime(b) - began, sent.Load()
		}
		live, _ := cost(clients, func(i int) string { return fmt.Sprint("key=v", i) })
		scan, _ := cost(1, func(int) string { return "from=earliest&filter=value.amount>20.5" })
		first, _ := cost(1, func(int) string { return "from=earliest&key=first" })
		read, looked := counted(b, h.r.blocks.read), counted(b, h.r.blocks.looked)
		crowd, bytes := cost(clients, func(i int) string { return fmt.Sprint("from=earliest&key=u", i) })
		b.ReportMetric(scan.Seconds()*1e3, "scan-ms")
		b.ReportMetric(first.Seconds()*1e3, "first-ms")
		b.ReportMetric(live.Seconds()*1e3, "live-ms")
		b.ReportMetric(crowd.Seconds()*1e3, "crowd-ms")
		b.ReportMetric(float64(bytes)/1e6, "crowd-MB")
		b.ReportMetric(float64(counted(b, h.r.blocks.read)-read)/1e6, "read-MB")
		b.ReportMetric(float64(counted(b, h.r.blocks.looked)-looked), "looked")
	}
}
