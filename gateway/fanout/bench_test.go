package fanout

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkAppend is what a publisher pays, without anyone listening.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{128, 1024} {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("size=%d/batch=%d", size, batch), func(b *testing.B) {
				e := newEngine(b, Config{})
				ch := e.Open("c", numbers{})
				var items = streams()
				for range batch {
					items = append(items, stream(strings.Repeat("x", size)))
				}
				b.SetBytes(int64(size * batch))
				b.ReportAllocs()
				for b.Loop() {
					ch.Append(items)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/item")
			})
		}
	}
}

// BenchmarkFanout is one item to all subscribers, each of which takes it in its
// turn on one goroutine: the cost of logs and cursors, without sockets and
// without the scheduler.
func BenchmarkFanout(b *testing.B) {
	for _, subscribers := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("size=128/subscribers=%d", subscribers), func(b *testing.B) {
			e := newEngine(b, Config{})
			ch := e.Open("c", numbers{})
			var all []*Subscriber
			for range subscribers {
				s := subscribe(b, e, Stream, Want{Channel: "c"})
				s.Next(1)
				all = append(all, s)
			}
			items := streams(strings.Repeat("x", 128))
			b.ReportAllocs()
			for b.Loop() {
				ch.Append(items)
				for _, s := range all {
					<-s.Wake()
					if batch, status := s.Next(64 << 10); status != Ready || batch.Items != 1 {
						b.Fatalf("got %d items, status %d", batch.Items, status)
					}
					s.Next(64 << 10) // parks
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*subscribers), "ns/subscriber")
		})
	}
}
