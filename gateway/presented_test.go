package gateway

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// Whatever a proxy says first, the connection has a client or an end, and what came
// behind the header is there byte for byte.
func FuzzPresented(f *testing.F) {
	for _, s := range []string{
		"PROXY TCP4 198.51.100.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\n\r\n",
		"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\nx",
		"PROXY UNKNOWN\r\nx",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\xc0\x00\x02\x01\x12\x67\x00\x50x",
		"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00x",
		"GET / HTTP/1.1\r\n\r\n",
		"",
	} {
		f.Add([]byte(s))
	}
	l := listen(nil, 1, newLobby(1, prometheus.NewCounter(prometheus.CounterOpts{Name: "idle"})),
		map[refusal]prometheus.Counter{refusedPresented: prometheus.NewCounter(prometheus.CounterOpts{Name: "presented"})})
	l.encrypted = true // nobody is told
	l.presented = &presentation{timeout: time.Minute, log: slog.New(slog.DiscardHandler), sometimes: rate.Sometimes{First: 1}}
	f.Fuzz(func(t *testing.T, said []byte) {
		near, far := net.Pipe()
		heard := make(chan struct{})
		go func() { // ends with the pipe
			defer close(heard)
			_, _ = far.Write(said)
			_ = far.SetReadDeadline(time.Now()) // nobody waits for the answer
			far.Close()
		}()
		c := &cappedConn{seat: &seat{of: l}}
		p := &presented{Conn: near, by: c, trusted: true}
		c.Conn = p
		if c.RemoteAddr() == nil {
			t.Error("no address")
		}
		rest, err := io.ReadAll(c)
		if p.err == nil && (err != nil || !bytes.HasSuffix(said, rest)) {
			t.Errorf("got %q, %v, want the end of %q", rest, err, said)
		}
		near.Close()
		<-heard
	})
}
