package gateway

import (
	"bytes"
	"compress/flate"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"spillway/gateway/ws"
	"spillway/grip"
)

// served fails the test unless others are served: a stream that began before goes
// on, and new requests are answered.
func (f *fixture) served(t testing.TB, c *client, line int) {
	t.Helper()
	f.list.publish(1)
	c.wantLines(line, line)
	other := f.get(t, "/events/list/")
	other.want(":ok\n\n")
	other.resp.Body.Close()
}

// Heads that come byte by byte are given up after HEADER_TIMEOUT, the first of a
// connection and later ones, and a TLS handshake, too.
func TestSlowloris(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", encrypted), func(t *testing.T) {
			dir := t.TempDir()
			f := start(t, func(c *Config) {
				c.HeaderTimeout = 2 * time.Second
				if encrypted {
					c.TLSCertFile, c.TLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
					writeCertificate(t, c.TLSCertFile, c.TLSKeyFile, 1)
				}
			})
			const slow = 50
			var drips sync.WaitGroup
			for i := range slow {
				c := f.bareTCP(t)
				if i%2 == 1 && !encrypted {
					if status, _, _ := c.say("GET /none HTTP/1.1\r\nHost: h\r\n\r\n").answer(); status != 404 {
						t.Fatalf("first request: got %d", status)
					}
				}
				head := "GET /none HTTP/1.1\r\nHost: h\r\nX-Slow: "
				if encrypted {
					head = "\x16\x03\x01\x40\x00" // of a record with a hello
				}
				drips.Go(func() {
					for _, b := range []byte(head + strings.Repeat("x", 10_000)) {
						if _, err := c.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(20 * time.Millisecond) // how slow it is
					}
				})
				if i == 0 && !encrypted {
					if status, _, body := c.answer(); status != 408 || !strings.Contains(body, "takes too long") {
						t.Errorf("got %d %q, want 408", status, body)
					}
				}
			}
			if !encrypted {
				c := f.get(t, "/events/list/")
				c.want(":ok\n\n")
				f.attached(t, 1)
				f.served(t, c, 1)
				c.resp.Body.Close()
			}
			drips.Wait() // each is closed
			eventually(t, "no slow one to be left", func() bool {
				return f.metric(t, "spillway_refused_total", prometheus.Labels{"reason": "header_timeout"}) >= slow
			})
		})
	}
}

// Ten thousand connections that say nothing keep nobody out, take a bounded amount of
// memory, and are gone after HEADER_TIMEOUT.
func TestHalfOpenConnections(t *testing.T) {
	n := 10_000
	if limit := int(maxDescriptors()); limit > 0 {
		n = min(n, limit/2-2000) // both ends are here
	}
	if n < 1000 {
		t.Fatalf("%d connections would show nothing; raise the limit of open files (ulimit -n) to 6000 or more", n)
	}
	f := start(t, func(c *Config) { c.MaxConnections, c.MemoryLimit, c.HeaderTimeout = 4000, 1<<30, 5*time.Second })
	c := f.get(t, "/events/list/")
	c.want(":ok\n\n")
	f.attached(t, 1)
	before := usedMemory()
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	dialer := net.Dialer{Timeout: patience}
	for range n {
		conn, err := dialer.DialContext(t.Context(), "tcp", f.Addr().String())
		if err != nil {
			t.Fatalf("after %d: %v", len(conns), err)
		}
		conns = append(conns, conn)
	}
	f.served(t, c, 1)
	eventually(t, "all to be accepted", func() bool {
		return f.metric(t, "spillway_refused_total", prometheus.Labels{"reason": "idle_connections"})+f.metric(t, "spillway_refused_total", prometheus.Labels{"reason": "header_timeout"}) >= float64(n-f.idle.most)
	})
	if got := f.idle.size(); got > f.idle.most {
		t.Errorf("idle connections: got %d, want %d at most", got, f.idle.most)
	}
	// About 1 KiB for the test's own end of each.
	if grown := usedMemory() - before; grown > int64(n)<<10+int64(f.idle.most)*(32<<10) {
		t.Errorf("memory: %d bytes more for %d connections", grown, n)
	}
	f.served(t, c, 2)
	f.wantMetric(t, "spillway_connections_idle", nil, 0)
	f.served(t, c, 3)
}

func usedMemory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// frame is a client's, with a mask of zeros.
func frame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	default:
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	}
	return string(append(b, 0, 0, 0, 0)) + payload
}

// What breaks the protocol of WebSockets, or its limits, ends with the code for it,
// without a byte more in memory than a message may have.
func TestWebSocketAttacks(t *testing.T) {
	bomb := func() string {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestCompression)
		zeros := make([]byte, 1<<20)
		for range 32 {
			w.Write(zeros)
		}
		w.Flush()
		return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
	}()
	huge := binary.BigEndian.AppendUint64([]byte{0x81, 0x80 | 127}, 1<<62)
	f := start(t, func(c *Config) { c.Compression = []string{"permessage-deflate"} })
	c := f.get(t, "/events/list/")
	c.want(":ok\n\n")
	f.attached(t, 1)
	for i, tt := range []struct {
		name, say string
		code      uint16
	}{
		{"not masked", "\x81\x02hi", 1002},
		{"a length of 2^62", string(huge) + "\x00\x00\x00\x00", 1009},
		{"a length beyond 2^63", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1002},
		{"a longer form of a length", "\x81\xfe\x00\x02\x00\x00\x00\x00hi", 1002},
		{"too long", frame(0x01, strings.Repeat("x", 60_000)) + frame(0x80, strings.Repeat("x", 6_000)), 1009},
		{"reserved bits", frame(0xa1, "hi"), 1002},
		{"a reserved opcode", frame(0x83, "hi"), 1002},
		{"a fragmented ping", frame(0x09, "hi"), 1002},
		{"a long ping", frame(0x89, strings.Repeat("x", 126)), 1002},
		{"the end of nothing", frame(0x80, "hi"), 1002},
		{"a message in a message", frame(0x01, "hi") + frame(0x81, "hi"), 1002},
		{"text that is none", frame(0x81, "\xff\xfe"), 1007},
		{"a close code that is none", frame(0x88, "\x03\xed"), 1002},
		{"a compression bomb", frame(0xc1, bomb), 1009},
		{"damaged compression", frame(0xc1, "\xff\xff\xff\xff"), 1007},
		{"compressed fragments of a bomb", frame(0x41, bomb[:100]) + frame(0x80, bomb[100:]), 1009},
		{"a flood of fragments", frame(0x01, "") + strings.Repeat(frame(0x00, "x"), maxClientMessage+1), 1009},
		{"a flood of empty fragments", frame(0x01, "") + strings.Repeat(frame(0x00, ""), 1<<17) + frame(0x83, ""), 1002},
		{"a flood of pings", strings.Repeat(frame(0x89, strings.Repeat("x", 125)), 1<<13) + frame(0x83, ""), 1002},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kept := f.metric(t, "spillway_private_bytes", nil)
			s := f.bareTCP(t)
			s.say("GET /events/list/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
				"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
			resp, err := http.ReadResponse(s.r, nil)
			if err != nil || resp.StatusCode != 101 {
				t.Fatalf("handshake: got %v, %v", resp, err)
			}
			go s.say(tt.say) // ends with the connection
			code, pongs := s.closeCode()
			if code != tt.code {
				t.Errorf("got code %d, want %d", code, tt.code)
			}
			if pongs > 1<<13 {
				t.Errorf("got %d pongs", pongs)
			}
			s.Close()
			eventually(t, "nothing to be kept", func() bool { return f.metric(t, "spillway_private_bytes", nil) <= kept })
			f.served(t, c, i+1)
		})
	}
}

// closeCode reads frames until that which closes, and counts pongs.
func (c *bareClient) closeCode() (code uint16, pongs int) {
	c.t.Helper()
	for {
		var head [2]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			c.t.Fatalf("no close frame: %v", err)
		}
		n := uint64(head[1])
		switch n {
		case 126:
			var b [2]byte
			io.ReadFull(c.r, b[:])
			n = uint64(binary.BigEndian.Uint16(b[:]))
		case 127:
			var b [8]byte
			io.ReadFull(c.r, b[:])
			n = binary.BigEndian.Uint64(b[:])
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(c.r, payload); err != nil {
			c.t.Fatalf("frame: %v", err)
		}
		switch ws.Op(head[0] & 0xf) {
		case ws.OpPong:
			pongs++
		case ws.OpClose:
			return binary.BigEndian.Uint16(payload), pongs
		}
	}
}

// Nothing that an origin or a publisher says in GRIP ends a header field early: not to
// clients, nor to origins.
func TestLineBreaksInGrip(t *testing.T) {
	const evil = "x\r\nX-Evil: 1\r\n\r\n"
	quoted := strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(evil)
	document := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", grip.ContentTypeInstruct)
			io.WriteString(w, text)
		}
	}
	f, a := routed(t, map[string]http.HandlerFunc{
		"/reason": document(`{"response":{"code":200,"reason":"` + quoted + `","body":"hi"}}`),
		"/value":  document(`{"response":{"headers":{"X-A":"` + quoted + `"},"body":"hi"}}`),
		"/name":   document(`{"response":{"headers":{"X-A` + quoted + `":"b"},"body":"hi"}}`),
		"/poll":   document(`{"hold":{"mode":"response","channels":[{"name":"poll"}]}}`),
		"/stream": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Link", "</stream>; rel=next")
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "stream")
		},
	}, "")
	clean := func(what string, say string, meanwhile func()) {
		t.Helper()
		c := f.bareTCP(t).say(say)
		if meanwhile != nil {
			meanwhile()
		}
		text, err := io.ReadAll(c.r)
		head, _, _ := strings.Cut(string(text), "\r\n\r\n")
		if err != nil || head == "" || strings.Contains(strings.ToLower(head), "\nx-evil") {
			t.Errorf("%s: the client got %q, %v", what, text, err)
		}
	}
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" }
	for _, path := range []string{"/reason", "/value", "/name"} {
		clean(path, get(path), nil)
	}
	clean("a published header", get("/poll"), func() {
		f.listening(t, "poll", 1)
		h := []grip.Header{{Name: "X-A", Value: evil}, {Name: "X-B" + evil, Value: "b"}}
		f.publish(t, grip.Item{Channel: "poll", HTTPResponse: &grip.HTTPResponse{Code: 200, Reason: evil, Headers: h, Body: []byte("hi")}})
	})
	clean("a published id", get("/stream"), func() {
		f.listening(t, "stream", 1)
		f.publish(t, grip.Item{Channel: "stream", ID: evil, HTTPStream: &grip.HTTPStream{Content: []byte("hi")}})
		f.publish(t, grip.Item{Channel: "stream", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
		eventually(t, "the link to be asked", func() bool {
			return f.metric(t, "spillway_links_asked_total", prometheus.Labels{"reason": "hint"}) == 1
		})
		f.listening(t, "stream", 1)
		f.publish(t, grip.Item{Channel: "stream", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		if r.Header.Get("X-Evil") != "" {
			t.Errorf("the origin got %q", r.Header)
		}
	}
}

// h2 is a client of HTTP/2 that says what it likes.
func (f *fixture) h2(t *testing.T) (*http2.Framer, net.Conn) {
	t.Helper()
	conn, err := tls.Dial("tcp", f.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(conn, conn)
	if err := fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return fr, conn
}

func requestBlock(path string, more ...hpack.HeaderField) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range append([]hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "h"}, {Name: ":path", Value: path}}, more...) {
		e.WriteField(h)
	}
	return b.Bytes()
}

// goAway reads until the server says that it has had enough.
func goAway(t *testing.T, fr *http2.Framer) http2.ErrCode {
	t.Helper()
	for {
		got, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		if g, ok := got.(*http2.GoAwayFrame); ok {
			return g.ErrCode
		}
	}
}

func TestHTTP2Attacks(t *testing.T) {
	dir := t.TempDir()
	f := start(t, func(c *Config) {
		c.TLSCertFile, c.TLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		writeCertificate(t, c.TLSCertFile, c.TLSKeyFile, 1)
	})
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	hc := &http.Client{Transport: tr, Timeout: 4 * patience}
	open := func() *client {
		t.Helper()
		resp, err := hc.Get("https://" + f.Addr().String() + "/events/list/")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		c := &client{t, resp, bufioReader(resp.Body)}
		c.want(":ok\n\n")
		return c
	}
	others, line := open(), 0
	f.attached(t, 1)
	served := func() {
		t.Helper()
		line++
		f.list.publish(1)
		others.wantLines(line, line)
		open().resp.Body.Close()
	}

	t.Run("many streams", func(t *testing.T) {
		var streams []*client
		for range 260 {
			streams = append(streams, open())
		}
		f.attached(t, 261)
		line++
		f.list.publish(1)
		others.wantLines(line, line)
		for _, c := range streams {
			c.wantLines(line, line)
			c.resp.Body.Close()
		}
		f.attached(t, 1)
	})
	t.Run("rapid reset", func(t *testing.T) {
		fr, _ := f.h2(t)
		go func() { // ends with the connection
			for id := uint32(1); id < 40_001; id += 2 {
				if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: requestBlock("/events/list/"), EndStream: true, EndHeaders: true}) != nil ||
					fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					return
				}
			}
			fr.AllowIllegalWrites = true
			_ = fr.WriteData(0, true, nil) // in case the server kept up
		}()
		goAway(t, fr)
		served()
		f.attached(t, 1)
	})
	t.Run("a bomb of headers", func(t *testing.T) {
		fr, _ := f.h2(t)
		large := hpack.HeaderField{Name: "x-large", Value: strings.Repeat("x", 3000)}
		many := make([]hpack.HeaderField, 1000) // of which all but one are a byte each
		for i := range many {
			many[i] = large
		}
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: requestBlock("/events/list/", many...), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
		status := ""
		d := hpack.NewDecoder(4096, func(h hpack.HeaderField) {
			if h.Name == ":status" {
				status = h.Value
			}
		})
		for status == "" {
			got, err := fr.ReadFrame()
			if err != nil {
				break // or it hangs up
			}
			if h, ok := got.(*http2.HeadersFrame); ok {
				d.Write(h.HeaderBlockFragment())
			}
		}
		if status != "" && status != "431" {
			t.Errorf("got %s, want 431 or an end", status)
		}
		served()
	})
	t.Run("headers without end", func(t *testing.T) {
		fr, _ := f.h2(t)
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: requestBlock("/events/list/")}); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 8000), Sensitive: true})
		go func() { // ends with the connection
			for fr.WriteContinuation(1, false, b.Bytes()) == nil {
			}
		}()
		if got := goAway(t, fr); got == http2.ErrCodeNo {
			t.Errorf("got %v", got)
		}
		served()
	})
	t.Run("a flood of pings and settings", func(t *testing.T) {
		fr, _ := f.h2(t)
		for fr.WritePing(false, [8]byte{}) == nil && fr.WriteSettings() == nil { // until the server hangs up: nobody reads what it says
		}
		served()
	})
	t.Run("a window that never opens", func(t *testing.T) {
		fr, _ := f.h2(t)
		if err := fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
			t.Fatal(err)
		}
		if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: requestBlock("/events/list/"), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
		for {
			got, err := fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := got.(*http2.RSTStreamFrame); ok { // after WRITE_TIMEOUT
				break
			}
		}
		served()
	})
}

// Requests with thousands of headers are refused by their number or their size.
func TestManyHeaders(t *testing.T) {
	f := start(t, func(c *Config) { c.Routes = "* test" })
	for _, n := range []int{101, 1000, 5000, 100_000} {
		c := f.bareTCP(t)
		go c.say("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + strings.Repeat("a:b\r\n", n) + "\r\n") // ends with the connection
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil || resp.StatusCode != 431 {
			t.Errorf("%d: got %v, %v, want 431", n, resp, err)
		}
		c.Close()
	}
}
