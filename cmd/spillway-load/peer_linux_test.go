package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

func testPayloads(n int) (payloads [][]byte) {
	for i := range n {
		payloads = append(payloads, fmt.Appendf(nil, "payload-%03d", i))
	}
	return payloads
}

// posterTo posts lines to a server at addr.
func posterTo(t *testing.T, addr net.Addr) *poster {
	p := &poster{
		to: addr.(*net.TCPAddr).AddrPort(), kind: "text/plain",
		path: func(channel string) string { return "/to/" + channel },
		body: func(_ string, payloads [][]byte) []byte { return bytes.Join(payloads, []byte("\n")) },
	}
	t.Cleanup(p.close)
	return p
}

func TestPosterKeepsOrder(t *testing.T) {
	for _, tt := range []struct {
		name     string
		perPost  int
		oneByOne bool
		requests int
	}{
		{"one in each", 1, false, 200},
		{"three in each", 3, false, 67},
		{"a connection for each", 1, true, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var bodies []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || r.URL.Path != "/to/news" || r.Method != http.MethodPost {
					t.Errorf("got %s %s, %v", r.Method, r.URL, err)
				}
				bodies = append(bodies, string(body)) // by one connection at a time
				if tt.oneByOne {
					w.Header().Set("Connection", "close")
				}
				w.WriteHeader(http.StatusCreated)
			}))
			defer server.Close()
			p := posterTo(t, server.Listener.Addr())
			p.oneByOne = tt.oneByOne
			payloads := testPayloads(200)
			for _, part := range [][][]byte{payloads[:150], payloads[150:]} {
				if err := p.publish(t.Context(), "news", part, tt.perPost); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := strings.Join(bodies, "\n"), string(bytes.Join(payloads, []byte("\n"))); got != want {
				t.Errorf("got %q", got)
			}
			if len(bodies) != tt.requests {
				t.Errorf("in %d requests, want %d", len(bodies), tt.requests)
			}
		})
	}
}

// A server that answers nothing before it has read several requests gets them.
func TestPosterDoesNotWaitForAnswers(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const n = 10
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			conn, err := ln.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			for range n {
				r, err := http.ReadRequest(in)
				if err != nil {
					return err
				}
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return err
				}
			}
			_, err = io.WriteString(conn, strings.Repeat("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", n))
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, in) // until it is closed
			if errors.Is(err, syscall.ECONNRESET) {
				err = nil
			}
			return err
		}()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p := posterTo(t, ln.Addr())
	if err := p.publish(ctx, "news", testPayloads(n), 1); err != nil {
		t.Error(err)
	}
	p.close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// What a server refuses is an error that says so, and the next try is a new one.
func TestPosterRefused(t *testing.T) {
	var refuse atomic.Bool
	refuse.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if refuse.Load() {
			http.Error(w, "too much", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	p := posterTo(t, server.Listener.Addr())
	// More than fit on the way, so that the sender is waiting for room.
	err := p.publish(t.Context(), "weather", testPayloads(3*postsAtOnce), 1)
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "too much") {
		t.Errorf("got %v, want the status and the text", err)
	}
	server.CloseClientConnections()
	refuse.Store(false)
	if err := p.publish(t.Context(), "weather", testPayloads(2), 1); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestPosterGivesUpWithItsContext(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	}))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // ends with the request
		<-arrived
		cancel()
	}()
	p := posterTo(t, server.Listener.Addr())
	if err := p.publish(ctx, "news", testPayloads(1), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

func TestFamily(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 600 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	_, errScan := fmt.Fscan(out, &child)
	got, err := family(cmd.Process.Pid)
	if errScan != nil || err != nil || !slices.Equal(got, []int{cmd.Process.Pid, child}) {
		t.Errorf("got %v, want %d and %d (%v, %v)", got, cmd.Process.Pid, child, errScan, err)
	}
	for _, pid := range got {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = cmd.Wait() // it was killed
}

// Each peer that is installed here takes clients and messages, and leaves
// nothing behind.
func TestPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary and takes seconds")
	}
	runtime.LockOSThread() // see start
	binary := filepath.Join(t.TempDir(), "spillway")
	if out, err := exec.Command("go", "build", "-o", binary, "../spillway").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, p := range append(peers(binary), newNchan(1, true)) {
		testPeer(t, p)
	}
}

func testPeer(t *testing.T, p target) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	defer p.stop()
	if err := p.start(ctx); errors.Is(err, errNotInstalled) {
		t.Logf("left out: %v", err)
		return
	} else if err != nil {
		t.Error(err)
		return
	}
	perPost, processes := 2, 1
	switch p := p.(type) {
	case *nchan:
		perPost, processes = 1, 1+p.workers
	case *pushpin:
		processes = 5
	}
	pids := p.pids()
	if len(pids) != processes {
		t.Errorf("%s: %d processes, want %d", p.name(), len(pids), processes)
	}
	if err := exchange(ctx, p, perPost); err != nil {
		t.Errorf("%s: %v", p.name(), err)
	}
	p.stop()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s: process %d was left behind: %v", p.name(), pid, err)
		}
	}
}

// exchange subscribes a client and sends it messages.
func exchange(ctx context.Context, to target, perPost int) error {
	conn, err := dialReset(ctx, to.addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(to.subscribeRequest("news", 0)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	if err := until(in, "\r\n\r\n"); err != nil {
		return fmt.Errorf("head: %w", err)
	}
	payloads := testPayloads(100)
	if err := to.publish(ctx, "news", payloads, perPost); err != nil {
		return err
	}
	for _, payload := range payloads {
		if err := until(in, string(payload)); err != nil {
			return fmt.Errorf("%s did not come in its turn: %w", payload, err)
		}
	}
	return nil
}

// until reads to the end of what is looked for.
func until(in *bufio.Reader, what string) error {
	var tail []byte
	for !bytes.HasSuffix(tail, []byte(what)) {
		c, err := in.ReadByte()
		if err != nil {
			return fmt.Errorf("%w behind %q", err, tail[max(0, len(tail)-100):])
		}
		tail = append(tail, c)
	}
	return nil
}

// A peer that cannot start says why.
func TestPeerDoesNotStart(t *testing.T) {
	runtime.LockOSThread() // see start
	g := newGatewayPeer("/bin/false")
	defer g.stop()
	if err := g.start(t.Context()); !errors.Is(err, errExited) {
		t.Errorf("got %v, want %v", err, errExited)
	}
}

// The request is one that a server understands.
func TestSubscribeTo(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:80")
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(subscribeTo(addr, "/a?id=b", true))))
	if err != nil {
		t.Fatal(err)
	}
	if r.URL.String() != "/a?id=b" || r.Host != "127.0.0.1:80" || r.Header.Get("Upgrade") != "websocket" {
		t.Errorf("got %s, host %s, %v", r.URL, r.Host, r.Header)
	}
}
