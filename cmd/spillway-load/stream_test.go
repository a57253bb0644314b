package main

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

// msg is a message's data as servers send it.
func msg(seq uint32, due time.Duration) string { return string(message{seq, due}.append(nil, 40)) }

// An arrival is one event of a stream.
type arrival struct {
	message
	ok         bool // the event is one of the generator's messages
	name, text string
	ping       string
}

// arrivals is a sink that keeps everything.
type arrivals []arrival

func (a *arrivals) message(m message)       { *a = append(*a, arrival{message: m, ok: true}) }
func (a *arrivals) other(name, text string) { *a = append(*a, arrival{name: name, text: text}) }
func (a *arrivals) ping(payload []byte)     { *a = append(*a, arrival{ping: string(payload)}) }

func arrived(seq uint32, due time.Duration) arrival {
	return arrival{message: message{seq, due}, ok: true}
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// zipped is a gzip stream of blocks, which refer to nothing before them.
func zipped(blocks ...string) string {
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	for _, block := range blocks {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 6)
		io.WriteString(w, block)
		w.Flush()
		out = append(out, b.Bytes()...)
	}
	return string(out)
}

// frame is a WebSocket frame of a server.
func frame(op byte, payload string) string {
	head := []byte{0x80 | op, byte(len(payload))}
	switch {
	case len(payload) > 1<<16-1:
		head = binary.BigEndian.AppendUint64([]byte{0x80 | op, 127}, uint64(len(payload)))
	case len(payload) > 125:
		head = binary.BigEndian.AppendUint16([]byte{0x80 | op, 126}, uint16(len(payload)))
	}
	return string(head) + payload
}

const (
	zippedHead  = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
	wsHead      = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	plainHead   = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
	chunkedHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// streams are responses and what is in them.
var streams = []struct {
	name, bytes string
	want        []arrival
	status      int
	err         error // io.EOF, or io.ErrUnexpectedEOF for any other
}{
	{"one event", plainHead + "event: message\nid: 1-a\ndata: " + msg(7, 3*time.Millisecond) + "\n\n",
		[]arrival{arrived(7, 3*time.Millisecond)}, 200, nil},
	{"the name need not be there", plainHead + "data: " + msg(7, 0) + "\n\n", []arrival{arrived(7, 0)}, 200, nil},
	{"no blank behind the colon", plainHead + "data:" + msg(7, 0) + "\n\n", []arrival{arrived(7, 0)}, 200, nil},
	{"CRLF", plainHead + "data: " + msg(7, 0) + "\r\n\r\n", []arrival{arrived(7, 0)}, 200, nil},
	{"an event without its blank line has not come", plainHead + "data: " + msg(7, 0) + "\n", nil, 200, nil},
	{"comments, retry and ids are no events", plainHead + ":ok\nretry: 2713\n\n:\n\nid: 1-b\n\n", nil, 200, nil},
	{"a name does not outlast its event", plainHead + "event: gap\n\ndata: " + msg(7, 0) + "\n\n", []arrival{arrived(7, 0)}, 200, nil},
	{"other events", plainHead + "event: gap\ndata: {\"to\":5}\n\nevent: end\ndata:\n\n",
		[]arrival{{name: "gap", text: `{"to":5}`}, {name: "end"}}, 200, nil},
	{"a foreign record", plainHead + "data: hello\n\n", []arrival{{name: "message"}}, 200, nil},
	{"one event a chunk", chunkedHead + chunk("data: "+msg(1, 0)+"\n\n") + chunk("data: "+msg(2, 0)+"\n\n"),
		[]arrival{arrived(1, 0), arrived(2, 0)}, 200, nil},
	{"two events a chunk", chunkedHead + chunk("data: "+msg(1, 0)+"\n\ndata: "+msg(2, 0)+"\n\n"),
		[]arrival{arrived(1, 0), arrived(2, 0)}, 200, nil},
	{"chunks that end inside a line", chunkedHead + chunk("da") + chunk("ta: "+msg(1, 0)[:20]) + chunk(msg(1, 0)[20:]+"\n") + chunk("\n"),
		[]arrival{arrived(1, 0)}, 200, nil},
	{"chunk extensions and capitals", chunkedHead + "2E;a=b\r\ndata: " + msg(1, 0)[:40] + "\r\n" + "2\r\n\n\n\r\n", []arrival{arrived(1, 0)}, 200, nil},
	{"the last chunk", chunkedHead + chunk("data: "+msg(1, 0)+"\n\n") + "0\r\n\r\n", []arrival{arrived(1, 0)}, 200, io.EOF},
	{"as Spillway writes them", chunkedHead + strings.Repeat(chunk("event: message\nid: 1-a\ndata: "+msg(7, time.Second)+"\n\n"), 2),
		[]arrival{arrived(7, time.Second), arrived(7, time.Second)}, 200, nil},
	{"as Spillway writes them, one that is none of ours between", chunkedHead + chunk("event: message\nid: 1-a\ndata: "+msg(7, 0)+"\n\nevent: message\nid: 1-b\ndata: x\n\nevent: message\nid: 1-a\ndata: "+msg(8, 0)+"\n\n"),
		[]arrival{arrived(7, 0), {name: "message"}, arrived(8, 0)}, 200, nil},
	{"a JSON object", plainHead + "data: " + string(message{9, time.Second}.appendJSON(nil)) + "\n\n", []arrival{arrived(9, time.Second)}, 200, nil},
	{"gzip", zippedHead + zipped("data: "+msg(1, 0)+"\n\n", "data: "+msg(2, 0)+"\n", "\n"), []arrival{arrived(1, 0), arrived(2, 0)}, 200, nil},
	{"gzip in chunks", strings.Replace(chunkedHead, "\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n", 1) +
		chunk(zipped("data: " + msg(1, 0) + "\n\n")[:30]) + chunk(zipped("data: " + msg(1, 0) + "\n\n")[30:]), []arrival{arrived(1, 0)}, 200, nil},
	{"gzip of something else", zippedHead + "this is not it", nil, 200, io.ErrUnexpectedEOF},
	{"an encoding that was not asked for", strings.Replace(zippedHead, "gzip", "br", 1), nil, 200, io.ErrUnexpectedEOF},
	{"WebSocket", wsHead + frame(1, msg(1, 0)) + frame(2, msg(2, 0)) + frame(1, "hello") + frame(9, "you?") + frame(10, ""),
		[]arrival{arrived(1, 0), arrived(2, 0), {name: "message", text: "hello"}, {ping: "you?"}}, 101, nil},
	{"long WebSocket messages", wsHead + frame(1, msg(1, 0)+strings.Repeat("x", 200)) + frame(1, msg(2, 0)+strings.Repeat("x", 1<<16)),
		[]arrival{arrived(1, 0), arrived(2, 0)}, 101, nil},
	{"WebSocket's end", wsHead + frame(1, msg(1, 0)) + frame(8, ""), []arrival{arrived(1, 0)}, 101, io.EOF},
	{"a masked frame", wsHead + "\x81\x84aaaabbbb", nil, 101, io.ErrUnexpectedEOF},
	{"a fragment", wsHead + "\x01\x01a", nil, 101, io.ErrUnexpectedEOF},
	{"an opcode that there is not", wsHead + "\x83\x01a", nil, 101, io.ErrUnexpectedEOF},
	{"a WebSocket message without end", wsHead + "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", nil, 101, io.ErrUnexpectedEOF},
	{"refused", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", nil, 404, nil},
	{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n\r\n", nil, 0, io.ErrUnexpectedEOF},
	{"a chunk without a size", chunkedHead + "\r\n", nil, 200, io.ErrUnexpectedEOF},
	{"a chunk that goes on", chunkedHead + "1\r\n::", nil, 200, io.ErrUnexpectedEOF},
	{"a size that no chunk has", chunkedHead + "ffffffffff\r\n", nil, 200, io.ErrUnexpectedEOF},
}

// feedAll feeds a stream pieces of at most n bytes, until it errs.
func feedAll(s *stream, bytes string, n int) (got []arrival, err error) {
	for len(bytes) > 0 && err == nil {
		// A copy that is overwritten, so that nothing of a piece can be kept.
		piece := []byte(bytes[:min(n, len(bytes))])
		err = s.feed(piece, (*arrivals)(&got))
		clear(piece)
		bytes = bytes[min(n, len(bytes)):]
	}
	return got, err
}

func TestStream(t *testing.T) {
	for _, tt := range streams {
		for _, n := range []int{1, 2, 3, 7, 64, 1 << 20} {
			t.Run(fmt.Sprintf("%s/pieces=%d", tt.name, n), func(t *testing.T) {
				var s stream
				got, err := feedAll(&s, tt.bytes, n)
				if !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
				if s.status != tt.status {
					t.Errorf("status %d, want %d", s.status, tt.status)
				}
				switch {
				case tt.err == nil || errors.Is(tt.err, io.EOF):
					if !errors.Is(err, tt.err) {
						t.Errorf("error %v, want %v", err, tt.err)
					}
				case err == nil || errors.Is(err, io.EOF):
					t.Errorf("error %v, want one that is not the stream's end", err)
				}
				if err := s.check(); (err != nil) != (s.status != 0 && s.status != 200 && s.status != 101) {
					t.Errorf("check says %v for status %d", err, s.status)
				}
			})
		}
	}
}

func TestStreamBoundsWhatItKeeps(t *testing.T) {
	for _, tt := range []struct{ name, head, fill string }{
		{"head", "HTTP/1.1 200 OK\r\n", "x"},
		{"line", plainHead + "data: ", "x"},
		{"chunk size extension", chunkedHead + "1;", ""}, // is not kept at all
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s stream
			_, err := feedAll(&s, tt.head, 1<<20)
			for range 2 * maxLine >> 10 {
				if err != nil {
					break
				}
				_, err = feedAll(&s, strings.Repeat(tt.fill, 1<<10), 1<<10)
			}
			if (err == nil) != (tt.fill == "") {
				t.Errorf("got error %v after %d bytes without an end", err, 2*maxLine)
			}
		})
	}
}

// A counter is a sink that counts messages.
type counter int

func (c *counter) message(message)      { *c++ }
func (c *counter) other(string, string) {}
func (c *counter) ping([]byte)          {}

func TestStreamDoesNotAllocatePerEvent(t *testing.T) {
	var s stream
	if _, err := feedAll(&s, chunkedHead, 1<<10); err != nil {
		t.Fatal(err)
	}
	event := []byte(chunk("event: message\nid: 1-hi3hk-4fz1q.1.xg\ndata: " + msg(9, time.Second) + "\n\n"))
	n := new(counter)
	if got := testing.AllocsPerRun(100, func() {
		if err := s.feed(event, n); err != nil {
			t.Fatal(err)
		}
	}); got != 0 || *n == 0 {
		t.Errorf("%v allocations for an event, want 0; %d events seen", got, *n)
	}
}

// FuzzStream: whatever comes, in whatever pieces, the events are the same.
func FuzzStream(f *testing.F) {
	for _, tt := range streams {
		f.Add(tt.bytes, 5)
	}
	f.Fuzz(func(t *testing.T, bytes string, n int) {
		if n < 1 {
			n = 1
		}
		var whole, pieces stream
		want, wantErr := feedAll(&whole, bytes, len(bytes)+1)
		got, err := feedAll(&pieces, bytes, n)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in pieces of %d: got %+v, want %+v", n, got, want)
		}
		// A head that comes in pieces is refused where it grows too long, one
		// that comes at once is read.
		if (err == nil) != (wantErr == nil) && len(bytes) < maxHead {
			t.Errorf("in pieces of %d: error %v, want %v", n, err, wantErr)
		}
	})
}

// Many clients of one channel are sent the same blocks, which cost inflating
// once.
func TestInflateOnce(t *testing.T) {
	var shared inflater
	text := zipped(strings.Repeat("data: "+msg(1, 0)+"\n\n", 100))
	for range 3 {
		s := stream{inflater: &shared}
		got, err := feedAll(&s, zippedHead+text, 1<<20)
		if err != nil || len(got) != 100 {
			t.Fatalf("%d events, %v, want 100", len(got), err)
		}
	}
	if len(shared.blocks) != 1 {
		t.Errorf("%d blocks are remembered, want 1", len(shared.blocks))
	}
	for i := range 100 { // bounded
		shared.inflate([]byte(zipped(strings.Repeat(msg(uint32(i), 0), 5000))[gzipHeaderBytes:]))
	}
	if shared.bytes > inflatedBytes {
		t.Errorf("%d bytes are remembered, want at most %d", shared.bytes, inflatedBytes)
	}
}

func BenchmarkStream(b *testing.B) {
	var s stream
	if _, err := feedAll(&s, chunkedHead, 1<<10); err != nil {
		b.Fatal(err)
	}
	const events = 16
	data := string(message{1, 1}.append(nil, 128))
	piece := []byte(strings.Repeat(chunk("event: message\nid: 1-hi3hk-4fz1q.1.xg\ndata: "+data+"\n\n"), events))
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	n := new(counter)
	for b.Loop() {
		if err := s.feed(piece, n); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
}

func TestMessage(t *testing.T) {
	for _, tt := range []struct {
		m    message
		size int
		want string
	}{
		{message{42, 77 * time.Millisecond}, 24, "0000002a 0000012cc8 xxxx"},
		{message{1<<32 - 1, 12 * 24 * time.Hour}, 20, "ffffffff f166188000 "},
		{message{1, -time.Second}, 20, "00000001 0000000000 "},
	} {
		got := tt.m.append([]byte(">"), tt.size)
		if string(got) != ">"+tt.want {
			t.Errorf("%+v: got %q, want %q", tt.m, got[1:], tt.want)
		}
		back, ok := parseMessage(got[1:])
		if want := (message{tt.m.seq, max(tt.m.due, 0)}); !ok || back != want {
			t.Errorf("%q: got %+v, %v, want %+v", got[1:], back, ok, want)
		}
	}
	for _, m := range []message{{0, 0}, {1<<32 - 1, 12 * 24 * time.Hour}, {12345, time.Second}} {
		text := m.appendJSON(nil)
		if got, ok := parseMessage(text); !ok || got != m || !json.Valid(text) || len(text) < 100 || len(text) > jsonBytes {
			t.Errorf("%s (%d bytes) was read as %+v, %v, want %+v", text, len(text), got, ok, m)
		}
	}
	for _, foreign := range []string{"", "hello", "0000002a 0000012cc8", "0000002A 0000012cc8 x", "0000002a-0000012cc8 x", "0000002a 0000012cc8-x"} {
		if m, ok := parseMessage([]byte(foreign)); ok {
			t.Errorf("%q was read as %+v", foreign, m)
		}
	}
}
