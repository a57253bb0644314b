package front

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers with all that it was asked, so that no difference remains unseen.
func echo(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/panic") {
		panic(http.ErrAbortHandler)
	}
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "%s %s %s\n", r.Method, r.RequestURI, r.Host)
	_ = r.Header.Write(&buf)
	if n, err := io.Copy(&buf, r.Body); err != nil {
		fmt.Fprintf(&buf, "\n%d bytes, then %v", n, err)
	}
	code := http.StatusOK
	if s := r.Header.Get("Answer"); s != "" {
		code, _ = strconv.Atoi(s)
	}
	if s := r.URL.Query().Get("size"); s != "" {
		n, _ := strconv.Atoi(s)
		buf.Write(bytes.Repeat([]byte("x"), n))
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(buf.Len()))
	w.Header().Set("X-Answer", "yes")
	w.WriteHeader(code)
	_, _ = w.Write(buf.Bytes())
}

type served struct {
	*http.Server
	addr string
	here atomic.Int64 // requests that net/http did not answer
	done chan error
}

// start serves echo, with a front or without.
func start(t *testing.T, fronted bool, change func(*Config)) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{addr: l.Addr().String(), done: make(chan error, 1)}
	s.Server = &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	if fronted {
		cfg := Config{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.here.Add(1)
				echo(w, r)
			}),
			Quick: quick, MaxHead: 10_000, MaxBody: 1 << 20, FirstTimeout: time.Minute, IdleTimeout: time.Minute, Loops: 2,
			Log: slog.New(slog.DiscardHandler),
		}
		if change != nil {
			change(&cfg)
		}
		l = Listen(l, cfg)
	}
	go func() { s.done <- s.Serve(l) }() // ends with Close; waited for below
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("got %v from Serve, want %v", err, http.ErrServerClosed)
		}
	})
	return s
}

func dial(t *testing.T, s *served) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*net.TCPConn)
}

var date = regexp.MustCompile(`(?m)^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r$`)

// answers is all that comes for text, which is sent in pieces of so many bytes.
// whole is false where the connection was reset, which may have cost some of it: a
// server that hangs up has not read all that a client goes on to say.
func (s *served) answers(t *testing.T, text string, pieces int) (answers string, whole bool) {
	t.Helper()
	c := dial(t, s)
	written := make(chan struct{})
	go func() { // ends with the connection
		defer close(written)
		for len(text) > 0 {
			n := min(pieces, len(text))
			if _, err := io.WriteString(c, text[:n]); err != nil {
				return
			}
			text = text[n:]
		}
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Fatalf("no end after %q", got)
	}
	_ = c.Close()
	<-written
	return date.ReplaceAllString(string(got), "Date: …\r"), err == nil
}

func TestAnswersAreThoseOfNetHTTP(t *testing.T) {
	plain, fronted := start(t, false, nil), start(t, true, nil)
	for _, tt := range exchanges {
		t.Run(tt.name, func(t *testing.T) {
			for _, pieces := range []int{1 << 20, 7, 1} {
				before := fronted.here.Load()
				compare(t, fronted, plain, tt.text, pieces)
				if here := fronted.here.Load() - before; pieces == 1<<20 && here != tt.here {
					t.Errorf("got %d requests answered without net/http, want %d", here, tt.here)
				}
			}
		})
	}
	t.Run("a body of a megabyte", func(t *testing.T) {
		text := quickly + "Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1_000_000)
		for _, pieces := range []int{1 << 20, 60_000, 1000} {
			compare(t, fronted, plain, text, pieces)
		}
	})
}

func compare(t *testing.T, fronted, plain *served, text string, pieces int) {
	t.Helper()
	const tries = 50
	for try := 1; ; try++ {
		got, gotAll := fronted.answers(t, text, pieces)
		want, wantAll := plain.answers(t, text, pieces)
		if got == want {
			return
		}
		if gotAll && wantAll || try == tries {
			t.Errorf("in pieces of %d: got %.1000q, want %.1000q", pieces, got, want)
			return
		}
	}
}

// Who does not read its answers stops nobody else, and gets them all.
func TestAnswersThatAreNotRead(t *testing.T) {
	s := start(t, true, func(cfg *Config) { cfg.Loops = 1 })
	const each, requests = 100_000, 600 // far beyond what sockets hold
	one := fmt.Sprintf("POST /quick?size=%d HTTP/1.1\r\nHost: a\r\n\r\n", each)
	slow := dial(t, s)
	wrote := make(chan error, 1)
	go func() { // ends when all has been read
		_, err := io.WriteString(slow, strings.Repeat(one, requests)+strings.Replace(one, "Host", "Connection: close\r\nHost", 1))
		wrote <- err
	}()
	for range 100 {
		if got, _ := s.answers(t, quickly+"\r\n", 1<<20); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
			t.Fatalf("got %q beside one that does not read", got)
		}
	}
	got, err := io.ReadAll(slow)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(got, []byte("HTTP/1.1 200 OK\r\n")); n != requests+1 {
		t.Errorf("got %d answers, want %d", n, requests+1)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := start(t, true, func(cfg *Config) { cfg.Loops = 3 })
	var group sync.WaitGroup
	for i := range 30 {
		group.Go(func() {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: i%3 == 0}}
			defer client.CloseIdleConnections()
			for j := range 50 {
				path, text := "quick", fmt.Sprintf("%d of %d", j, i)
				if j%10 == 9 {
					path = "slow"
				}
				resp, err := client.Post("http://"+s.addr+"/"+path, "text/plain", strings.NewReader(text))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || !strings.HasSuffix(string(body), text) {
					t.Errorf("got %q, %v, want one that ends with %q", body, err, text)
					return
				}
			}
		})
	}
	group.Wait()
	if s.here.Load() == 0 {
		t.Error("net/http has answered them all")
	}
}

func TestTimeouts(t *testing.T) {
	const within = 30 * time.Second // of the test; none of those below
	for _, tt := range []struct {
		name, text string
		cfg        func(*Config)
	}{
		{"one that says nothing", "", func(cfg *Config) { cfg.FirstTimeout = time.Millisecond }},
		{"one that says nothing more", quickly + "\r\n", func(cfg *Config) { cfg.IdleTimeout = time.Millisecond }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, true, tt.cfg)
			c := dial(t, s)
			if _, err := io.WriteString(c, tt.text); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(within))
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatalf("%v after %q", err, got)
			}
			if answered := len(got) > 0; answered != (tt.text != "") {
				t.Errorf("got %q", got)
			}
		})
	}
}

// What is owed leaves before anything is read.
func TestLeft(t *testing.T) {
	for _, last := range []bool{false, true} {
		client, server := net.Pipe()
		c := &left{Conn: server, rest: []byte("rest"), owed: []byte("owed"), last: last}
		wrote := make(chan string, 1)
		go func() { // ends with Close below, at the latest
			buf := make([]byte, 8)
			n, _ := client.Read(buf)
			wrote <- string(buf[:n])
		}()
		buf := make([]byte, 8)
		n, err := c.Read(buf)
		_ = server.Close()
		want := "rest"
		if last {
			want = ""
		}
		if got := string(buf[:n]); got != want || errors.Is(err, io.EOF) != last {
			t.Errorf("last %v: read %q, %v, want %q", last, got, err, want)
		}
		if got := <-wrote; got != "owed" {
			t.Errorf("last %v: wrote %q, want %q", last, got, "owed")
		}
		_ = client.Close()
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A shutdown ends what is idle, lets net/http finish, and leaves nothing behind.
func TestShutdown(t *testing.T) {
	runtime.GC()
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	t.Run("serving", func(t *testing.T) {
		s := start(t, true, nil)
		for i := range 20 {
			c := dial(t, s)
			br := bufio.NewReader(c)
			for _, request := range []string{quickly + "\r\n", "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"}[:1+i%2] {
				if _, err := io.WriteString(c, request); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			defer func() { // after the shutdown
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("got %v from connection %d, want its end", err, i)
				}
			}()
		}
		quiet := dial(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := quiet.Read(make([]byte, 1)); err == nil {
			t.Error("a connection that said nothing got something")
		}
	})
	eventually(t, "no more goroutines than before", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "no more descriptors than before", func() bool { return descriptors(t) <= fds })
}

// A listener that nobody accepts from holds nothing after Close.
func TestCloseUnserved(t *testing.T) {
	s := start(t, true, nil)
	_ = s // it warms what the runtime opens once
	fds := descriptors(t)
	l := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("got a connection of a closed listener")
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if got := descriptors(t); got > fds {
		t.Errorf("got %d descriptors, want %d", got, fds)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return Listen(l, Config{Loops: 2, Log: slog.New(slog.DiscardHandler)})
}
