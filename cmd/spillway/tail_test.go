package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// A scriptedStream answers each connection with the next of its scripts; after
// the last it answers 204.
type scriptedStream struct {
	*httptest.Server
	mu       sync.Mutex
	scripts  []script        // guarded by mu
	requests []*http.Request // guarded by mu
}

// A script answers one connection. The stream's headers have not been sent.
type script func(w http.ResponseWriter, r *http.Request)

func newStream(t *testing.T, scripts ...script) *scriptedStream {
	t.Helper()
	s := &scriptedStream{scripts: scripts}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		next := script(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
		if len(s.scripts) > 0 {
			next, s.scripts = s.scripts[0], s.scripts[1:]
		}
		s.mu.Unlock()
		next(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// lastIDs are the Last-Event-ID headers of the connections so far.
func (s *scriptedStream) lastIDs() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		ids = append(ids, r.Header.Get("Last-Event-ID"))
	}
	return ids
}

// says answers 200 with this text, and ends.
func says(text string) script {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, text)
	}
}

// saysAndStays answers 200 with this text, and keeps the connection open.
func saysAndStays(text string) script {
	return func(w http.ResponseWriter, r *http.Request) {
		says(text)(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// saysAndBreaks answers with this text, and tears the connection.
func saysAndBreaks(text string) script {
	return func(w http.ResponseWriter, r *http.Request) {
		says(text)(w, r)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func refuses(status int, contentType, body string) script {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// head is what a stream of ours begins with, with a short pause between
// connections.
const head = ":ok\nretry: 1\n\n"

func TestTailPrints(t *testing.T) {
	for _, tt := range []struct {
		name, stream   string
		options        []string
		stdout, stderr string
	}{
		{"the data", head + "event: message\nid: 1-a\ndata: hello\n\nevent: message\nid: 1-b\ndata: world\n\n", nil, "hello\nworld\n", ""},
		{"several lines", "data: a\ndata: b\n\n", nil, "a\nb\n", ""},
		{"an empty record is an empty line", "event: message\nid: 1-a\ndata: \n\n", nil, "\n", ""},
		{"even without event and id", "data\n\n", nil, "\n", ""},
		{"CRLF", "id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n", nil, "a\nb\n", ""},
		{"CR", "id: 1\rdata: a\r\rdata: b\r\r", nil, "a\nb\n", ""},
		{"byte order mark", "\ufeffdata: a\n\n", nil, "a\n", ""},
		{"comments and id-only blocks are not events", "id: 1-a\ndata: a\n\n:\n\nid: 1-b\n\n: hb\n\nretry: 5\n\n", nil, "a\n", ""},
		{"an event without data is none", "event: orders\nid: 1\n\n", nil, "", ""},
		{"other names are shown", "event: delete\ndata: 42\n\nevent: orders\ndata: {}\n\n", nil, "delete: 42\norders: {}\n", ""},
		{"control events are for stderr", "event: gap\nid: 1-b\ndata: {\"reason\":\"retention\"}\n\nevent: stream-error\ndata: {\"code\":\"draining\"}\n\ndata: a\n\n", nil,
			"a\n", "spillway: gap {\"reason\":\"retention\"}\nspillway: stream-error {\"code\":\"draining\"}\n"},
		{"-n", "data: a\n\ndata: b\n\ndata: c\n\n", []string{"-n", "2"}, "a\nb\n", ""},
		{"-n counts records, not control events", "event: gap\ndata: {}\n\ndata: a\n\nevent: live\ndata: {}\n\ndata: b\n\ndata: c\n\n", []string{"-n", "2"},
			"a\nb\n", "spillway: gap {}\nspillway: live {}\n"},
		{"the end is the end", "data: a\n\nevent: end\nid: 1e-b\ndata: {\"reason\":\"limit\"}\n\n", nil, "a\n", "spillway: end {\"reason\":\"limit\"}\n"},
		{"-json", "id: 1-a\ndata: <a>\ndata: b\n\n:\n\nevent: gap\nid: 1-b\ndata: {}\n\n", []string{"-json"},
			`{"event":"message","id":"1-a","data":"<a>\nb"}` + "\n" + `{"event":"gap","id":"1-b","data":"{}"}` + "\n", ""},
		{"what is torn at the end is no event", "id: 1\ndata: a\n\nid: 12\ndata: tor", nil, "a\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A short pause until the reconnect is told that there is no more.
			bom, text := "", tt.stream
			if strings.HasPrefix(text, "\ufeff") {
				bom, text = text[:3], text[3:]
			}
			s := newStream(t, says(bom+"retry: 1\n\n"+text))
			p := newProcess(t)
			args := append(append([]string{"tail"}, tt.options...), s.URL)
			if code := p.run(t.Context(), args...); code != exitOK {
				t.Errorf("exit code: got %d, want %d", code, exitOK)
			}
			if got := p.stdout.String(); got != tt.stdout {
				t.Errorf("stdout: got %q, want %q", got, tt.stdout)
			}
			stderr := p.stderr.String()
			var notes []string
			for line := range strings.Lines(stderr) {
				if !strings.Contains(line, "reconnecting") {
					notes = append(notes, line)
				}
			}
			if got := strings.Join(notes, ""); got != tt.stderr {
				t.Errorf("stderr: got %q, want %q", got, tt.stderr)
			}
		})
	}
}

// After a clean end, a torn connection and a server in trouble it goes on
// where it was: with the id of the last whole block, also one without data.
func TestTailResumes(t *testing.T) {
	s := newStream(t,
		says(head+"id: 1-a\ndata: a\n\n"),
		saysAndBreaks("id: 1-b\ndata: b\n\nid: 1-bb"),
		refuses(http.StatusServiceUnavailable, "text/plain", "starting"),
		says("id: 1-c\n\n"),
		says(":ok\n\n"),
		says("data: d\n\n"),
	)
	p := newProcess(t)
	if code := p.run(t.Context(), "tail", "-resume", "1-0", s.URL); code != exitOK {
		t.Errorf("exit code: got %d, want %d: %s", code, exitOK, p.stderr)
	}
	if got, want := p.stdout.String(), "a\nb\nd\n"; got != want {
		t.Errorf("stdout: got %q, want %q", got, want)
	}
	want := []string{"1-0", "1-a", "1-b", "1-b", "1-c", "1-c", "1-c"}
	if got := s.lastIDs(); !slices.Equal(got, want) {
		t.Errorf("Last-Event-ID: got %q, want %q", got, want)
	}
	for _, want := range []string{"stream ended; reconnecting in 100ms\n", "unexpected EOF; reconnecting", "the server answers 503 Service Unavailable: starting; reconnecting"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("stderr: got %q, want in it %q", p.stderr, want)
		}
	}
}

// The server's retry field sets the pause.
func TestTailHonoursRetry(t *testing.T) {
	s := newStream(t, says("retry: 230\n\n"), says("retry: soon\n\n"), says("retry: 310\n\n"))
	p := newProcess(t)
	p.run(t.Context(), "tail", s.URL)
	var pauses []string
	for line := range strings.Lines(p.stderr.String()) {
		_, pause, _ := strings.Cut(line, "reconnecting in ")
		pauses = append(pauses, strings.TrimSpace(pause))
	}
	if want := []string{"230ms", "230ms", "310ms"}; !slices.Equal(pauses, want) {
		t.Errorf("got pauses of %q, want %q", pauses, want)
	}
}

func TestTailBigEvents(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB
	s := newStream(t, says(head+"data: "+big+"\n\ndata: "+big[:70_000]+"\n\n"))
	p := newProcess(t)
	if code := p.run(t.Context(), "tail", s.URL); code != exitOK {
		t.Errorf("exit code: got %d: %.200s", code, p.stderr)
	}
	if got, want := p.stdout.String(), big+"\n"+big[:70_000]+"\n"; got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
}

// Ctrl-C is the normal end of a tail, in the middle of a stream and between
// two connections.
func TestTailInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script script
		wait   func(*testing.T, *testProcess)
	}{
		{"in a stream", saysAndStays("data: a\n\n"), func(t *testing.T, p *testProcess) { p.stdout.waitFor(t, "a\n") }},
		{"between two", says("retry: 3600000\n\n"), func(t *testing.T, p *testProcess) { p.stderr.waitFor(t, "reconnecting in 1h") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStream(t, tt.script)
			p := newProcess(t)
			ctx, interrupt := context.WithCancel(t.Context())
			wait := p.start(ctx, t, "tail", s.URL)
			tt.wait(t, p)
			before := p.stderr.String()
			interrupt()
			if code := wait(); code != exitOK {
				t.Errorf("exit code: got %d, want %d", code, exitOK)
			}
			if got := p.stderr.String(); got != before {
				t.Errorf("stderr: got %q, want no word about the interruption", got)
			}
		})
	}
}

func TestTailRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script script
		stderr string
	}{
		{"problem", refuses(404, "application/problem+json", `{"title":"Not Found","detail":"no topic orders"}`),
			"spillway: tail: the server answers 404 Not Found: no topic orders\n"},
		{"problem without detail", refuses(401, "application/problem+json", `{"title":"who are you?"}`),
			"spillway: tail: the server answers 401 Unauthorized: who are you?\n"},
		{"text", refuses(400, "text/plain", "bad cursor\nmore\n"), "spillway: tail: the server answers 400 Bad Request: bad cursor\n"},
		{"nothing to say", refuses(410, "text/plain", ""), "spillway: tail: the server answers 410 Gone\n"},
		{"in trouble from the start", refuses(503, "text/plain", "starting"), "spillway: tail: the server answers 503 Service Unavailable: starting\n"},
		{"not a stream", refuses(200, "text/html; charset=utf-8", "<html>"),
			"spillway: tail: the server answers with \"text/html\", not with an event stream\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), "tail", newStream(t, tt.script).URL); code != exitFail {
				t.Errorf("exit code: got %d, want %d", code, exitFail)
			}
			if got := p.stderr.String(); got != tt.stderr {
				t.Errorf("stderr: got %q, want %q", got, tt.stderr)
			}
		})
	}
}

// A refusal ends it also when it has been connected before.
func TestTailRefusedLater(t *testing.T) {
	s := newStream(t, says(head+"data: a\n\n"), refuses(410, "text/plain", "gone"))
	p := newProcess(t)
	if code := p.run(t.Context(), "tail", s.URL); code != exitFail {
		t.Errorf("exit code: got %d, want %d", code, exitFail)
	}
}

func TestTailRequest(t *testing.T) {
	for _, tt := range []struct {
		name  string
		args  []string
		query string
	}{
		{"as given", []string{"/events/a,b/?key=x%20y&_=1"}, "key=x%20y&_=1"},
		{"positions", []string{"-since", "15m", "-last", "5", "/events/a/?from=latest"}, "from=latest&last=5&since=15m"},
		{"from", []string{"/events/a/?from=latest", "-from", "earliest"}, "from=earliest"},
		{"records", []string{"-key", "a b", "-key", "", "-filter", "value.n > 1 && key != 'x'", "/events/a/?key=c&limit=2"},
			"filter=value.n+%3E+1+%26%26+key+%21%3D+%27x%27&key=a+b&key=&limit=2"},
		{"form", []string{"-fields", "id,customer.name", "-format", "envelope", "/events/a/"}, "fields=id%2Ccustomer.name&format=envelope"},
		{"what is no query", []string{"-last", "5", "/events/a/?a=%zz"}, "a=%zz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStream(t)
			var args []string
			for _, a := range tt.args {
				if strings.HasPrefix(a, "/") {
					a = strings.TrimPrefix(s.URL, "http://") + a // the scheme may be left out
				}
				args = append(args, a)
			}
			args = append([]string{"tail", "-H", "Authorization: Bearer x:y", "-H", "X-A: 1", "-H", "X-A: 2"}, args...)
			p := newProcess(t)
			if code := p.run(t.Context(), args...); code != exitOK {
				t.Fatalf("exit code %d: %s", code, p.stderr)
			}
			r := s.requests[0]
			if r.URL.RawQuery != tt.query {
				t.Errorf("query: got %q, want %q", r.URL.RawQuery, tt.query)
			}
			for name, want := range map[string]string{"Authorization": "Bearer x:y", "X-A": "1, 2", "Accept": "text/event-stream", "Accept-Encoding": "", "Last-Event-Id": ""} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestTailUsage(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no URL", nil, "takes one URL, but got 0 arguments"},
		{"two URLs", []string{"a", "b"}, "takes one URL, but got 2 arguments"},
		{"another scheme", []string{"kafka://h/t"}, `"kafka://h/t" is not a URL of a stream`},
		{"not a URL", []string{"http://[::1"}, "missing ']'"},
		{"negative n", []string{"-n", "-1", "h"}, "-n -1: must not be negative"},
		{"not a header", []string{"-H", "nonsense", "h"}, `-H "nonsense": write 'Name: value'`},
		{"a header in a header", []string{"-H", "A: b\r\nC: d", "h"}, "write 'Name: value'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), append([]string{"tail"}, tt.args...)...); code != exitUsage {
				t.Errorf("exit code: got %d, want %d", code, exitUsage)
			}
			if got := p.stderr.String(); !strings.Contains(got, tt.want) {
				t.Errorf("stderr: got %q, want %q in it", got, tt.want)
			}
		})
	}
}

// However the bytes are cut, the blocks are the same.
func TestEventReader(t *testing.T) {
	const stream = "\ufeff:c\nid: 1\r\ndata: a\rdata: b\n\r\n: c\n\n\n\ndata: c\r\r\ndata: torn\n"
	const want = "event: message\nid: 1\ndata: a\ndata: b\n\nevent: message\ndata: c\n\n"
	for _, tt := range []struct {
		name string
		cut  func(io.Reader) io.Reader
	}{
		{"at once", func(r io.Reader) io.Reader { return r }},
		{"byte by byte", iotest.OneByteReader},
		{"by halves", iotest.HalfReader},
		{"end with the data", iotest.DataErrReader},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := io.ReadAll(newEventReader(io.NopCloser(tt.cut(strings.NewReader(stream)))))
			if err != nil || string(got) != want {
				t.Errorf("got  %q, %v\nwant %q", got, err, want)
			}
		})
	}
}

func TestEventReaderBound(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("data: "), endlessReader{})
	n, err := io.Copy(io.Discard, newEventReader(io.NopCloser(endless)))
	if !errors.Is(err, errTooLarge) || n != 0 {
		t.Errorf("got %d bytes and %v, want none and %v", n, err, errTooLarge)
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func FuzzEventReader(f *testing.F) {
	for _, s := range []string{"data: a\n\n", ":\r\rid:1\r\n\r\ndata", "\ufeff\n\n\n", "a\n\r\n\r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		whole, err := io.ReadAll(newEventReader(io.NopCloser(strings.NewReader(s))))
		if err != nil {
			t.Fatal(err)
		}
		slow, err := io.ReadAll(newEventReader(io.NopCloser(iotest.OneByteReader(strings.NewReader(s)))))
		if err != nil || string(slow) != string(whole) {
			t.Errorf("byte by byte: got %q, %v, want %q", slow, err, whole)
		}
		if strings.ContainsRune(string(whole), '\r') || len(whole) > 0 && !strings.HasSuffix(string(whole), "\n\n") {
			t.Errorf("got %q", whole)
		}
	})
}
