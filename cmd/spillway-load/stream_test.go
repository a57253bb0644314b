package main

import (
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

func arrived(seq uint32, due time.Duration) arrival {
	return arrival{message: message{seq, due}, ok: true}
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

const (
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
		err = s.feed(piece, func(a arrival) { got = append(got, a) })
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
				if err := s.check(); (err != nil) != (s.status != 0 && s.status != 200) {
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

func TestStreamDoesNotAllocatePerEvent(t *testing.T) {
	var s stream
	if _, err := feedAll(&s, chunkedHead, 1<<10); err != nil {
		t.Fatal(err)
	}
	event := []byte(chunk("event: message\nid: 1-hi3hk-4fz1q.1.xg\ndata: " + msg(9, time.Second) + "\n\n"))
	n := 0
	on := func(a arrival) { n++ }
	if got := testing.AllocsPerRun(100, func() {
		if err := s.feed(event, on); err != nil {
			t.Fatal(err)
		}
	}); got != 0 || n == 0 {
		t.Errorf("%v allocations for an event, want 0; %d events seen", got, n)
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

func BenchmarkStream(b *testing.B) {
	var s stream
	if _, err := feedAll(&s, chunkedHead, 1<<10); err != nil {
		b.Fatal(err)
	}
	const events = 16
	data := string(message{1, 1}.append(nil, 128))
	piece := []byte(chunk(strings.Repeat("event: message\nid: 1-hi3hk-4fz1q.1.xg\ndata: "+data+"\n\n", events)))
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.feed(piece, func(arrival) {}); err != nil {
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
	for _, foreign := range []string{"", "hello", "0000002a 0000012cc8", "0000002A 0000012cc8 x", "0000002a-0000012cc8 x", "0000002a 0000012cc8-x"} {
		if m, ok := parseMessage([]byte(foreign)); ok {
			t.Errorf("%q was read as %+v", foreign, m)
		}
	}
}
