package relay

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// begin makes the hub read a topic of one partition from its beginning, and
// open a channel of it.
func (h *hub) begin(tb testing.TB, info *topicInfo) *topic {
	started := make(chan struct{})
	close(started)
	h.mu.Lock()
	if old := h.topics[info.name]; old != nil {
		h.reset(old)
	}
	t := &topic{info: info, started: started, next: []int64{0}, since: h.polls}
	h.topics[info.name] = t
	h.unwanted(t)
	h.consume(t, t.next, 0)
	h.mu.Unlock()
	h.mustOpen(tb, plain, info)
	return t
}

// read waits until the hub has read all records before offset.
func (h *hub) read(tb testing.TB, t *topic, offset int64) {
	for {
		h.mu.Lock()
		at := t.next[0]
		if h.moved == nil {
			h.moved = make(chan struct{})
		}
		moved := h.moved
		h.mu.Unlock()
		if at >= offset {
			return
		}
		select {
		case <-moved:
		case <-time.After(patience):
			tb.Fatalf("the hub is at %d after %v, want %d", at, patience, offset)
		}
	}
}

// BenchmarkConsume is the way of 100,000 records from Kafka into the log of
// their channel, in batches as a busy producer makes them. The broker is in
// this process: its share of the figures is the same whatever the hub does.
func BenchmarkConsume(b *testing.B) {
	const all = 100_000
	for name, codec := range map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "zstd": kgo.ZstdCompression()} {
		b.Run("size=128/codec="+name, func(b *testing.B) {
			k := kafkatest.Fake(b)
			k.CreateTopic("orders", 1)
			var records []*kgo.Record
			for i := range all {
				records = append(records, &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "%08d%s", i, strings.Repeat("x", 120))})
			}
			producer := k.Client(kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(50*time.Millisecond))
			if err := producer.ProduceSync(b.Context(), records...).FirstErr(); err != nil {
				b.Fatal(err)
			}
			g := &quietGateway{log: quietLog{listeners: 1, discard: discard{retain: 10_000}}}
			r, err := New(testConfig(k.Bootstrap()), g, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					b.Error(err)
				}
				if err := r.Close(context.Background()); err != nil {
					b.Error(err)
				}
			}()
			h := &harness{t: b, r: r}
			h.eventually("kafka is ready", func() bool { return r.Ready() == nil })
			info, err := r.catalog.lookup(ctx, "orders")
			if err != nil {
				b.Fatal(err)
			}
			r.hub.read(b, r.hub.begin(b, info), all)
			b.SetBytes(all * 128)
			b.ReportAllocs()
			for b.Loop() {
				r.hub.read(b, r.hub.begin(b, info), all)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*all), "ns/record")
		})
	}
}
