package main_test

// What clients see. The SSE reader here is the standard's and nobody's library,
// so that a fault of a library cannot hide one of ours.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A block is what stands between two blank lines of an event stream, or a
// comment line.
type block struct {
	name    string // "message" when there is no event field
	id      string
	data    string // the data lines, joined with LF
	fires   bool   // there was data: a browser fires an event
	retry   int    // milliseconds; 0 for none
	comment bool
}

// An eventReader reads an event stream as the HTML standard says (§9.2.6),
// except that it wants LF at the end of lines and valid numbers: we send those.
type eventReader struct {
	r      *bufio.Reader
	lastID string // what a browser would send as Last-Event-ID
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next block; io.EOF at a clean end between two blocks.
func (e *eventReader) next() (block, error) {
	b := block{name: "message"}
	var data []byte
	begun := false
	for {
		line, err := e.r.ReadSlice('\n')
		var long []byte
		for errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, line...)
			line, err = e.r.ReadSlice('\n')
		}
		if long != nil {
			line = append(long, line...)
		}
		if err != nil {
			if errors.Is(err, io.EOF) && (begun || len(line) > 0) {
				err = io.ErrUnexpectedEOF
			}
			return block{}, err
		}
		line = line[:len(line)-1]
		if len(line) == 0 {
			if !begun {
				continue
			}
			if b.fires {
				b.data = string(data[:len(data)-1])
			}
			return b, nil
		}
		if line[0] == ':' {
			if begun {
				continue // a comment inside a block
			}
			return block{comment: true, data: string(line[1:])}, nil
		}
		begun = true
		field, value := line, []byte(nil)
		for i, c := range line {
			if c == ':' {
				field, value = line[:i], line[i+1:]
				break
			}
		}
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
		switch string(field) {
		case "event":
			b.name = string(value)
		case "data":
			b.fires = true
			data = append(append(data, value...), '\n')
		case "id":
			b.id = string(value)
			e.lastID = b.id
		case "retry":
			if b.retry, err = strconv.Atoi(string(value)); err != nil {
				return block{}, err
			}
		}
	}
}

// A stream is one SSE connection.
type stream struct {
	t      *testing.T
	resp   *http.Response
	cancel context.CancelFunc
	reader *eventReader
	blocks chan block // closed at the end, when err says which

	// Owned by the test's goroutine.
	lastID string // of the last block that next has passed
	err    error  // why the stream ended; valid once blocks is closed
}

// get makes a request with header fields "Name: value" and does not read the body.
func get(t *testing.T, ctx context.Context, url string, header ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return resp
}

// fetch makes a request and reads the whole answer.
func fetch(t *testing.T, url string, header ...string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp := get(t, ctx, url, header...)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: read the body: %v; so far %q", url, err, body)
	}
	return resp, string(body)
}

// subscribe opens an event stream; it ends with the test.
func subscribe(t *testing.T, url string, header ...string) *stream {
	t.Helper()
	s, status := trySubscribe(t, url, header...)
	if s == nil {
		t.Fatalf("GET %s: got %s, want 200", url, status)
	}
	return s
}

// trySubscribe is subscribe that returns nil when the answer is not 200.
func trySubscribe(t *testing.T, url string, header ...string) (s *stream, status string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	resp := get(t, ctx, url, append([]string{"Accept: text/event-stream"}, header...)...)
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		resp.Body.Close()
		cancel()
		return nil, fmt.Sprintf("%s %s", resp.Status, body)
	}
	if got, want := resp.Header.Get("Content-Type"), "text/event-stream; charset=utf-8"; got != want {
		t.Errorf("Content-Type of %s: got %q, want %q", url, got, want)
	}
	return readStream(t, resp, cancel), resp.Status
}

// readStream reads the events of a response until the test ends.
func readStream(t *testing.T, resp *http.Response, cancel context.CancelFunc) *stream {
	s := &stream{t: t, resp: resp, cancel: cancel, reader: newEventReader(resp.Body), blocks: make(chan block, 100_000)}
	go func() { // ends with the response
		defer close(s.blocks)
		for {
			b, err := s.reader.next()
			if err != nil {
				s.err = err
				return
			}
			s.blocks <- b
		}
	}()
	t.Cleanup(s.close)
	return s
}

// close goes away as a client does, and waits until nothing is read any more.
func (s *stream) close() {
	s.cancel()
	s.resp.Body.Close()
	for range s.blocks {
	}
}

// block returns the next block that f wants, and passes over the others.
func (s *stream) block(what string, f func(block) bool) block {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case b, ok := <-s.blocks:
			if !ok {
				s.t.Fatalf("the stream ended with %v, want %s", s.err, what)
			}
			if b.id != "" {
				s.lastID = b.id
			}
			if f(b) {
				return b
			}
		case <-timeout:
			s.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// next returns the next event that a browser would fire.
func (s *stream) next() block {
	s.t.Helper()
	return s.block("an event", func(b block) bool { return b.fires })
}

// heartbeat waits for something that is not an event: a comment, or an id by
// itself.
func (s *stream) heartbeat() {
	s.t.Helper()
	s.block("a heartbeat", func(b block) bool {
		if b.fires {
			s.t.Errorf("event while waiting for a heartbeat: %+v", b)
		}
		return b.comment || b.id != ""
	})
}

// wantData wants messages with these data, in this order, each with an id.
func (s *stream) wantData(want ...string) {
	s.t.Helper()
	var got []string
	for range want {
		b := s.next()
		if b.name != "message" || b.id == "" {
			s.t.Fatalf("after %q: got %+v, want a message with an id", got, b)
		}
		got = append(got, b.data)
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("data: got %q, want %q", got, want)
	}
}

// tryNext is next that returns false when the stream ends, or has nothing for
// a second.
func (s *stream) tryNext() (block, bool) {
	timeout := time.After(time.Second)
	for {
		select {
		case b, ok := <-s.blocks:
			if !ok || b.fires {
				return b, ok
			}
		case <-timeout:
			return block{}, false
		}
	}
}

// wantSet wants messages with these data in any order.
func (s *stream) wantSet(want ...string) {
	s.t.Helper()
	got := s.take(len(want))
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		s.t.Fatalf("data: got %q, want %q in any order", got, want)
	}
}

// take returns the data of the next n messages.
func (s *stream) take(n int) []string {
	s.t.Helper()
	var got []string
	for range n {
		b := s.next()
		if b.name != "message" {
			s.t.Fatalf("after %d of %d messages: got %+v", len(got), n, b)
		}
		got = append(got, b.data)
	}
	return got
}

// wantEvent wants an event of this name, whose data are this JSON.
func (s *stream) wantEvent(name, want string) {
	s.t.Helper()
	b := s.next()
	if b.name != name {
		s.t.Fatalf("got %+v, want event %s", b, name)
	}
	wantJSON(s.t, b.data, want)
}

// wantEnd wants that the stream ends cleanly, with no further event.
func (s *stream) wantEnd() {
	s.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case b, ok := <-s.blocks:
			if !ok {
				if !errors.Is(s.err, io.EOF) {
					s.t.Errorf("end of stream: got %v, want a clean one", s.err)
				}
				return
			}
			if b.fires {
				s.t.Errorf("before the end of the stream: got %+v", b)
			}
		case <-timeout:
			s.t.Fatalf("the stream does not end within %v", patience)
		}
	}
}

// wantJSON compares JSON texts by value. Members that want does not name may
// be there too; a null in want says that the member is there and null.
func wantJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w map[string]any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("got %q, which is not a JSON object: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("want %q: %v", want, err)
	}
	for name, wv := range w {
		gv, ok := g[name]
		if gj, wj := compact(gv), compact(wv); !ok || gj != wj {
			t.Errorf("%s: got %s in %s, want %s", name, gj, got, wj)
		}
	}
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// A lineReader hands out the lines that a program prints while it runs.
type lineReader struct {
	t     *testing.T
	what  string
	lines chan string // closed at the end of its output
	cmd   *exec.Cmd
	done  chan struct{}
}

func (l *lineReader) read(r io.Reader) {
	defer close(l.lines)
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		l.lines <- strings.TrimSuffix(line, "\n")
	}
}

// next returns the next line; CR at its end is kept.
func (l *lineReader) next() string {
	l.t.Helper()
	select {
	case line, ok := <-l.lines:
		if !ok {
			l.t.Fatalf("%s: no more output", l.what)
		}
		return line
	case <-time.After(patience):
		l.t.Fatalf("%s: no line within %v", l.what, patience)
	}
	return ""
}

// nextFull returns the next line that is not empty.
func (l *lineReader) nextFull() string {
	l.t.Helper()
	for {
		if line := l.next(); line != "" {
			return line
		}
	}
}
