package control

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"spillway/grip"
)

func benchItems(n, size int) []byte {
	items := make([]grip.Item, n)
	for i := range items {
		content := bytes.Repeat([]byte("x"), size)
		items[i] = grip.Item{Channel: "orders", ID: fmt.Sprint(i + 1), PrevID: fmt.Sprint(i),
			HTTPStream: &grip.HTTPStream{Content: content}, WSMessage: &grip.WSMessage{Content: content}}
	}
	return grip.AppendItems(nil, items...)
}

// One request after the other on a connection that stays open: what a publisher
// waits for.
func BenchmarkPublish(b *testing.B) {
	for _, tt := range []struct{ items, size int }{{1, 128}, {1, 4096}, {100, 128}} {
		b.Run(fmt.Sprintf("items=%d/size=%d", tt.items, tt.size), func(b *testing.B) {
			srv := serveBy(b, true, Config{}, &memBackend{discards: true})
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			body := benchItems(tt.items, tt.size)
			request := append(fmt.Appendf(nil, "POST /publish/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
			br := bufio.NewReader(conn)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(request); err != nil {
					b.Fatal(err)
				}
				resp, err := http.ReadResponse(br, nil)
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(resp, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N*tt.items), "ns/item")
		})
	}
}
