package ws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"spillway/gateway/compress"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

// handshake is a request for a WebSocket with more header fields.
func handshake(fields ...string) string {
	return "GET /x HTTP/1.1\r\nHost: example.org\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		strings.Join(append(fields, "", ""), "\r\n")
}

// dial connects to a server and sends.
func dial(t testing.TB, srv *httptest.Server, send string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	return conn
}

func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func TestUpgrade(t *testing.T) {
	const both = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	for _, tt := range []struct {
		name       string
		fields     []string // of the request
		protocol   string
		compress   bool
		chosen     string
		extensions string
	}{
		{name: "nothing offered", compress: true, protocol: "grip"},
		{name: "protocol offered", fields: []string{"Sec-WebSocket-Protocol: chat, grip"}, protocol: "grip", chosen: "grip"},
		{name: "another protocol offered", fields: []string{"Sec-WebSocket-Protocol: chat"}, protocol: "grip"},
		{name: "protocol not wanted", fields: []string{"Sec-WebSocket-Protocol: chat"}},
		{name: "from another origin", fields: []string{"Origin: https://elsewhere.example"}},
		{name: "deflate not wanted", fields: []string{"Sec-WebSocket-Extensions: permessage-deflate"}},
		{name: "deflate", fields: []string{"Sec-WebSocket-Extensions: permessage-deflate"}, compress: true, extensions: both},
		{name: "deflate as browsers offer it", fields: []string{"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"}, compress: true, extensions: both},
		{name: "deflate with all", fields: []string{"Sec-WebSocket-Extensions: " + both + "; client_max_window_bits=10"}, compress: true, extensions: both},
		{name: "a window that we cannot make", fields: []string{"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10"}, compress: true},
		{name: "the second offer", fields: []string{"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10, permessage-deflate"}, compress: true, extensions: both},
		{name: "something unknown", fields: []string{"Sec-WebSocket-Extensions: x-other, permessage-deflate; sugar"}, compress: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Origin", "says")
				w.Header().Set("Sec-WebSocket-Protocol", "stale")
				w.Header().Set("Sec-WebSocket-Extensions", "stale")
				conn, early, compressed, err := Upgrade(w, r, tt.protocol, tt.compress)
				if err != nil {
					t.Errorf("error %v", err)
					return
				}
				defer conn.Close()
				if want := tt.extensions != ""; compressed != want {
					t.Errorf("compressed: %t, want %t", compressed, want)
				}
				if early != nil {
					t.Errorf("early: %q, want nil", early)
				}
				conn.Write(AppendFrame(nil, OpText, []byte("first")))
			})
			conn := dial(t, srv, handshake(tt.fields...))
			br := bufio.NewReader(conn)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %s, want 101", resp.Status)
			}
			for name, want := range map[string]string{
				"Upgrade":                  "websocket",
				"Connection":               "Upgrade",
				"Sec-WebSocket-Accept":     "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", // RFC 6455, 1.3
				"Sec-WebSocket-Protocol":   tt.chosen,
				"Sec-WebSocket-Extensions": tt.extensions,
				"X-Origin":                 "says",
			} {
				if got := strings.Join(resp.Header.Values(name), "|"); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			rest, err := io.ReadAll(br)
			if want := "\x81\x05first"; err != nil || string(rest) != want {
				t.Errorf("behind the answer: %q, error %v; want %q", rest, err, want)
			}
		})
	}
}

func TestUpgradeRefuses(t *testing.T) {
	good := handshake()
	for _, tt := range []struct {
		name    string
		request string
		want    int
	}{
		{"no WebSocket at all", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426},
		{"another upgrade", strings.Replace(good, "Upgrade: websocket", "Upgrade: h2c", 1), 426},
		{"HTTP/1.0", strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1), 426},
		{"not GET", strings.Replace(good, "GET", "PUT", 1), 405},
		{"version 8", strings.Replace(good, "Version: 13", "Version: 8", 1), 400},
		{"no key", strings.Replace(good, "Sec-WebSocket-Key", "X-Key", 1), 400},
		{"two keys", handshake("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400},
		{"short key", strings.Replace(good, "dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 1), 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if conn, _, _, err := Upgrade(w, r, "", true); err == nil || conn != nil {
					t.Errorf("got %v, error %v; want an error", conn, err)
				}
			})
			resp, err := http.ReadResponse(bufio.NewReader(dial(t, srv, tt.request)), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.want {
				t.Errorf("status %s, want %d", resp.Status, tt.want)
			}
		})
	}
}

// TestUpgradeNothingToTakeOver is about a ResponseWriter without a connection of
// its own, and one around it.
func TestUpgradeNothingToTakeOver(t *testing.T) {
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(handshake())))
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	if _, _, _, err := Upgrade(wrapped{rec}, req, "", false); err == nil {
		t.Error("no error")
	}
	if rec.Code != http.StatusNotImplemented {
		t.Errorf("status %d, want 501", rec.Code)
	}
}

// wrapped hides all of a ResponseWriter that http.ResponseController does not
// find.
type wrapped struct{ w http.ResponseWriter }

func (w wrapped) Header() http.Header         { return w.w.Header() }
func (w wrapped) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w wrapped) WriteHeader(code int)        { w.w.WriteHeader(code) }
func (w wrapped) Unwrap() http.ResponseWriter { return w.w }

// TestUpgradeTakeoverFails is about a connection that is gone.
func TestUpgradeTakeoverFails(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mine, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer mine.Close()
		if conn, _, _, err := Upgrade(w, r, "", false); !errors.Is(err, http.ErrHijacked) || conn != nil {
			t.Errorf("got %v, error %v; want %v", conn, err, http.ErrHijacked)
		}
	})
	if rest, err := io.ReadAll(dial(t, srv, handshake())); err != nil || len(rest) > 0 {
		t.Errorf("the client got %q, error %v; want nothing", rest, err)
	}
}

// TestUpgradeEarly is about a client that does not wait for the answer.
func TestUpgradeEarly(t *testing.T) {
	for _, size := range []int{0, 1, 500, 100_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			sent := make([]byte, size)
			rand.Read(sent)
			got := make(chan []byte, 1)
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				conn, early, _, err := Upgrade(wrapped{w}, r, "", false)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				rest, err := io.ReadAll(io.LimitReader(conn, int64(size-len(early))))
				if err != nil {
					t.Error(err)
				}
				got <- append(early, rest...)
			})
			dial(t, srv, handshake()+string(sent))
			select {
			case got := <-got:
				if !bytes.Equal(got, sent) {
					t.Errorf("%d bytes arrived, other than the %d sent", len(got), size)
				}
			case <-time.After(patience):
				t.Error("nothing arrived")
			}
		})
	}
}

// watched counts what is done with a connection.
type watched struct {
	net.Conn
	writes, closes *atomic.Int64
}

func (w *watched) Write(p []byte) (int, error) { w.writes.Add(1); return w.Conn.Write(p) }
func (w *watched) Close() error                { w.closes.Add(1); return w.Conn.Close() }

type watchedListener struct {
	net.Listener
	writes, closes atomic.Int64
}

func (l *watchedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watched{conn, &l.writes, &l.closes}, nil
}

// TestUpgradeLeavesNothing looks for what the library may do with a connection
// later: a goroutine, a finalizer, a write, a close.
func TestUpgradeLeavesNothing(t *testing.T) {
	const clients = 20
	taken := make(chan net.Conn, clients)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, _, err := Upgrade(w, r, "", true)
		if err != nil {
			t.Error(err)
		}
		taken <- conn
	}))
	l := &watchedListener{Listener: srv.Listener}
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	before := runtime.NumGoroutine()

	var conns [clients]net.Conn
	for i := range conns {
		client := dial(t, srv, handshake("Sec-WebSocket-Extensions: permessage-deflate"))
		if _, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil {
			t.Fatal(err)
		}
		conns[i] = <-taken
	}
	for began := time.Now(); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Since(began) > patience {
			buf := make([]byte, 64<<10)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
	// A finalizer of ours, set after the library's, runs after them: they run
	// in one goroutine.
	for range 3 {
		done := make(chan struct{})
		runtime.SetFinalizer(new([16]*int), func(*[16]*int) { close(done) })
		runtime.GC()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("no finalizer runs")
		}
	}
	if writes, closes := l.writes.Load(), l.closes.Load(); writes != clients || closes != 0 {
		t.Errorf("%d writes, %d closes; want one write, the answer, for each of %d", writes, closes, clients)
	}
	for _, conn := range conns {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

// An echo is a server on this package: it sends back what it gets, compressed
// when that was agreed on, and answers pings and a close.
func echo(t testing.TB, offer bool, closed chan<- string) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		conn, data, compressed, err := Upgrade(w, r, "echo", offer)
		if err != nil {
			return
		}
		defer conn.Close()
		rules := &Rules{Limit: 1 << 20}
		if compressed {
			rules.Inflate = compress.Inflate
		}
		reader := NewReader(rules)
		bye := errors.New("bye")
		hear := func(m Message) error {
			switch m.Op {
			case OpText, OpBinary:
				p := m.Payload
				if compressed {
					p = compress.AppendMessage(nil, p)
				}
				_, err := conn.Write(append(AppendHeader(nil, m.Op, compressed, len(p)), p...))
				return err
			case OpPing:
				_, err := conn.Write(AppendFrame(nil, OpPong, m.Payload))
				return err
			case OpClose:
				code, reason := ParseClose(m.Payload)
				closed <- fmt.Sprintf("%d %s", code, reason)
				conn.Write(AppendClose(nil, code, string(reason)))
				return bye
			}
			return nil
		}
		buf := make([]byte, 8<<10)
		for err = reader.Feed(data, hear); err == nil; err = reader.Feed(data, hear) {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			data = buf[:n]
		}
		var broken *Error
		if errors.As(err, &broken) {
			conn.Write(AppendClose(nil, broken.Code, broken.Text))
		}
	})
}

// TestClient talks to the client of coder/websocket.
func TestClient(t *testing.T) {
	for _, tt := range []struct {
		name     string
		compress bool
		mode     websocket.CompressionMode
		agreed   bool
	}{
		{"plain", false, websocket.CompressionDisabled, false},
		{"compression refused", false, websocket.CompressionContextTakeover, false},
		{"compression not offered", true, websocket.CompressionDisabled, false},
		{"compressed", true, websocket.CompressionNoContextTakeover, true},
		{"context takeover offered", true, websocket.CompressionContextTakeover, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			closed := make(chan string, 1)
			srv := echo(t, tt.compress, closed)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c, resp, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{
				Subprotocols: []string{"echo"}, CompressionMode: tt.mode, CompressionThreshold: 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if c.Subprotocol() != "echo" {
				t.Errorf("protocol %q, want echo", c.Subprotocol())
			}
			if got := resp.Header.Get("Sec-WebSocket-Extensions") != ""; got != tt.agreed {
				t.Errorf("compression agreed on: %t, want %t", got, tt.agreed)
			}
			c.SetReadLimit(1 << 20)
			back := func(typ websocket.MessageType, want string) {
				t.Helper()
				gotType, got, err := c.Read(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if gotType != typ || string(got) != want {
					t.Fatalf("%v of %d bytes came back, want %v of %d", gotType, len(got), typ, len(want))
				}
			}
			for _, n := range []int{0, 1, 7, 125, 126, 127, 4096, 8191, 65535, 65536, 200_000} {
				text := strings.Repeat("0123456789", n/10+1)[:n]
				if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
					t.Fatal(err)
				}
				back(websocket.MessageText, text)
				noise := make([]byte, n)
				rand.Read(noise)
				if err := c.Write(ctx, websocket.MessageBinary, noise); err != nil {
					t.Fatal(err)
				}
				back(websocket.MessageBinary, string(noise))
			}

			w, err := c.Writer(ctx, websocket.MessageText)
			if err != nil {
				t.Fatal(err)
			}
			part := strings.Repeat("fragment of a message ", 1000)
			for range 5 {
				io.WriteString(w, part)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			back(websocket.MessageText, strings.Repeat(part, 5))

			pinged := make(chan error, 1)
			go func() { pinged <- c.Ping(ctx) }() // needs the reader below; ends with ctx
			for waiting := true; waiting; {
				// The answer to this is behind the pong, or the next one is.
				if err := c.Write(ctx, websocket.MessageText, []byte("x")); err != nil {
					t.Fatal(err)
				}
				back(websocket.MessageText, "x")
				select {
				case err := <-pinged:
					if err != nil {
						t.Fatal(err)
					}
					waiting = false
				default:
				}
			}

			if err := c.Close(4321, "tschüß"); err != nil {
				t.Errorf("close: %v", err)
			}
			if got, want := <-closed, "4321 tschüß"; got != want {
				t.Errorf("the server heard %q, want %q", got, want)
			}
		})
	}
}

// TestClientTold is about what a client learns of its mistake.
func TestClientTold(t *testing.T) {
	srv := echo(t, true, make(chan string, 1))
	for _, tt := range []struct {
		name string
		mode websocket.CompressionMode
		send []byte
		typ  websocket.MessageType
		want websocket.StatusCode
	}{
		{"not UTF-8", websocket.CompressionDisabled, []byte("\xff"), websocket.MessageText, CodeInvalidData},
		{"too large once inflated", websocket.CompressionNoContextTakeover, make([]byte, 1<<20+1), websocket.MessageBinary, CodeTooBig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c, _, err := websocket.Dial(ctx, srv.URL, &websocket.DialOptions{CompressionMode: tt.mode})
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseNow()
			if err := c.Write(ctx, tt.typ, tt.send); err != nil {
				t.Fatal(err)
			}
			_, _, err = c.Read(ctx)
			if got := websocket.CloseStatus(err); got != tt.want {
				t.Errorf("error %v, want code %d", err, tt.want)
			}
		})
	}
}

func BenchmarkUpgrade(b *testing.B) {
	request := handshake("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil {
		b.Fatal(err)
	}
	mine, _ := net.Pipe()
	w := &ready{conn: mine, rw: bufio.NewReadWriter(bufio.NewReader(mine), bufio.NewWriter(mine))}
	b.ReportAllocs()
	for b.Loop() {
		w.header = make(http.Header)
		if _, _, _, err := Upgrade(w, req, "", true); err != nil {
			b.Fatal(err)
		}
	}
}

// ready is a ResponseWriter that costs nothing.
type ready struct {
	header http.Header
	conn   net.Conn
	rw     *bufio.ReadWriter
}

func (r *ready) Header() http.Header                          { return r.header }
func (r *ready) Write(p []byte) (int, error)                  { return len(p), nil }
func (r *ready) WriteHeader(int)                              {}
func (r *ready) Hijack() (net.Conn, *bufio.ReadWriter, error) { return r.conn, r.rw, nil }
