package gateway

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"spillway/grip"
)

// BenchmarkStreams is one publish of some items to clients over loopback, until
// each client has read them: server and clients share the machine. The floor
// is one send(2) and one recv(2) per client.
func BenchmarkStreams(b *testing.B) {
	for _, clients := range []int{100, 1000} {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("transport=sse/size=128/clients=%d/batch=%d", clients, batch), func(b *testing.B) {
				f := start(b, nil)
				content := []byte(strings.Repeat("x", 127) + "\n")
				var got atomic.Int64
				arrived := make(chan struct{}, 1)
				for range clients {
					conn, err := net.Dial("tcp", f.Addr().String())
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() { conn.Close() })
					fmt.Fprintf(conn, "GET /events/list/ HTTP/1.1\r\nHost: x\r\n\r\n")
					go func() { // ends with conn
						buf := make([]byte, 32<<10)
						for {
							n, err := conn.Read(buf)
							if err != nil {
								return
							}
							got.Add(int64(bytes.Count(buf[:n], []byte("x\n"))))
							select {
							case arrived <- struct{}{}:
							default:
							}
						}
					}()
				}
				f.attached(b, clients)
				items := make([]grip.Item, batch)
				for i := range items {
					items[i].HTTPStream = &grip.HTTPStream{Content: content}
				}
				b.ReportAllocs()
				want := int64(0)
				for b.Loop() {
					f.list.channel.Append(items)
					for want += int64(clients * batch); got.Load() < want; {
						<-arrived
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*clients*batch), "ns/delivery")
			})
		}
	}
}
