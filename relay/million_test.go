//go:build unix

package relay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip/bytesize"
	"spillway/relay/kafkatest"
)

// BenchmarkSnapshot is a stream that begins with the newest record of each of a
// million keys: the first, for which they are loaded, and another one. over=true
// is where SNAPSHOT_MAX_BYTES has no room for them, and the stream gets all
// records instead.
func BenchmarkSnapshot(b *testing.B) {
	const keys = 1_000_000
	k, topic := kafkatest.Fake(b), "customers"
	k.CreateTopic(topic, 1, "cleanup.policy=compact")
	var bytes int64
	for i := 0; i < keys; i += 1000 {
		records := make([]*kgo.Record, 1000)
		for j := range records {
			records[j] = sales(topic, 1)[0]
			records[j].Key = fmt.Append(nil, "customer-", i+j)
			bytes += int64(len(records[j].Key) + len(records[j].Value))
		}
		k.Produce(records...)
	}
	for _, tt := range []struct {
		over bool
		max  bytesize.Bytes
	}{{false, 1 << 30}, {true, 64 << 20}} {
		b.Run(fmt.Sprint("over=", tt.over), func(b *testing.B) {
			for b.Loop() {
				h := startRelay(b, k, func(c *Config) { c.SnapshotMaxBytes, c.ReplayMaxRecords = tt.max, 2*keys })
				read := func() (took, cpu time.Duration, sent int, complete bool) {
					begin, began := time.Now(), cpuTime(b)
					s := h.open("/events/" + topic + "/?from=snapshot")
					complete = true
					for !s.holding {
						sent += s.out.Len()
						s.out.Reset()
						s.step()
						complete = complete && !strings.Contains(s.out.String(), `"complete":false`)
					}
					return time.Since(begin), cpuTime(b) - began, sent + s.out.Len(), complete
				}
				first, firstCPU, sent, complete := read()
				if complete == tt.over {
					b.Fatalf("the snapshot is complete: %v, want %v", complete, !tt.over)
				}
				held := h.r.hub.snapshots.budget.Used()
				again, againCPU, _, _ := read()
				b.ReportMetric(first.Seconds(), "first-s")
				b.ReportMetric(firstCPU.Seconds(), "first-cpu-s")
				b.ReportMetric(again.Seconds(), "again-s")
				b.ReportMetric(againCPU.Seconds(), "again-cpu-s")
				b.ReportMetric(float64(bytes)/1e6, "topic-MB")
				b.ReportMetric(float64(sent)/1e6, "sent-MB")
				b.ReportMetric(float64(held)/1e6, "map-MB")
			}
		})
	}
}
