package main

import (
	"bufio"
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
	"testing"
	"time"
)

// The origin holds what it is asked for, and says what it hears, also where a
// request comes in pieces or two come together.
func TestOrigin(t *testing.T) {
	runtime.LockOSThread() // see start
	o, err := startOrigin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer o.end()
	conn, err := net.Dial("tcp", o.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(hold, channel, body string) {
		t.Helper()
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != body {
			t.Errorf("got %q, %v, want %q", got, err, body)
		}
		if resp.Header.Get("Grip-Hold") != hold || resp.Header.Get("Grip-Channel") != channel {
			t.Errorf("got %v, want a %s of %s", resp.Header, hold, channel)
		}
	}
	events := "OPEN\r\nTEXT 2\r\nhi\r\nPING\r\nCLOSE 2\r\n\x03\xe8\r\n"
	post := fmt.Sprintf("POST /chat HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", len(events), events)
	say("GET /news HTTP/1.1\r\n\r\nGET /poll/mail HTTP/1.1\r\nHost: a\r\n\r\n" + post[:len(post)-5])
	answer("stream", "news", "")
	answer("response", "mail", "nothing\n")
	say(post[len(post)-5:])
	answer("", "", "OPEN\r\nTEXT 4\r\nm:hi\r\nCLOSE 2\r\n\x03\xe8\r\n")
}

// callersFor is what callers say of an errand at a server.
func callersFor(t *testing.T, h http.Handler, e errand) callAnswer {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	c, err := openCallers()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	e.Addr = netip.MustParseAddrPort(server.Listener.Addr().String())
	e.Request = []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	e.For = 100 * time.Millisecond
	got, err := c.run(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCallersAsk(t *testing.T) {
	for _, tt := range []struct {
		name   string
		depth  int
		closes bool
		want   string
		bad    string // in the example
	}{
		{"on open connections", 1, false, "hello\n", ""},
		{"several at once", 4, false, "hello\n", ""},
		{"a connection for each", 1, true, "hello\n", ""},
		{"what is not wanted", 1, false, "other\n", `body "hello\n", want "other\n"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			served := make(chan struct{}, 1<<20)
			got := callersFor(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tt.closes {
					w.Header().Set("Connection", "close")
				}
				served <- struct{}{}
				_, _ = io.WriteString(w, "hello\n")
			}), errand{Does: asks, Clients: 3, Depth: tt.depth, Want: []byte(tt.want)})
			if tt.bad != "" {
				if got.Done > 0 || got.Bad == 0 || !strings.Contains(got.Example, tt.bad) {
					t.Errorf("got %d done, %d bad: %s", got.Done, got.Bad, got.Example)
				}
				return
			}
			// Every answer is counted, once.
			if got.Done != len(served) || got.Done < 3 || got.Bad != 0 {
				t.Errorf("got %d done, %d bad (%s), %d were served", got.Done, got.Bad, got.Example, len(served))
			}
		})
	}
}

func TestCallersRefused(t *testing.T) {
	got := callersFor(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
	}), errand{Does: holds, Clients: 5, Window: 2})
	if got.Done != 0 || got.Bad != 5 || got.Example != "status 502, want 200" {
		t.Errorf("got %d done, %d bad: %s", got.Done, got.Bad, got.Example)
	}
}

// Those that hold streams hear while others ask, and it is known how many do.
func TestCallersHold(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.Flush()
		if r.URL.Path != "/silent" {
			_, _ = io.WriteString(w, "one~two~")
			_ = control.Flush()
		}
		<-r.Context().Done()
	}))
	defer server.Close()
	c, err := openCallers()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, path := range []string{"/", "/silent"} {
		got, err := c.run(t.Context(), errand{Does: holds, Addr: netip.MustParseAddrPort(server.Listener.Addr().String()), Clients: 3, Window: 2,
			Request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path), For: patience})
		if err != nil || got.Done != 3 || got.Bad != 0 {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	got, err := c.wait(t.Context(), listening{Marks: 6, Within: patience})
	if err != nil || got.Marks != 6 || got.Streams != 3 || got.Ended != 0 {
		t.Errorf("got %+v, %v, want 6 marks at 3 streams", got, err)
	}
	server.CloseClientConnections()
	for deadline := time.Now().Add(patience); c.heard.Ended < 6 && time.Now().Before(deadline); {
		if _, err := c.wait(t.Context(), listening{Marks: 7, Within: time.Millisecond}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.wait(t.Context(), listening{HangUp: true}); err != nil || got.Ended != 6 || len(c.calls) != 0 {
		t.Errorf("got %+v, %v, %d calls, want that 6 were ended", got, err, len(c.calls))
	}
}

// Each part once, at the built binary, too short to measure anything.
func TestGrip(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary and takes seconds")
	}
	runtime.LockOSThread() // see start
	binary := filepath.Join(t.TempDir(), "spillway")
	if out, err := exec.Command("go", "build", "-o", binary, "../spillway").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	var progress strings.Builder
	b := &bench{options: options{pairs: 1, step: 100 * time.Millisecond, size: 128}, binary: binary, report: new(report), stderr: &progress}
	parts := slices.Concat(publishParts, gripParts)
	err := b.onGripRig(ctx, func(r *gripRig, ours *gatewayPeer, _ []*gripPeer) error {
		return errors.Join(r.floor(ctx, &ours.gripPeer, 2), r.compareAll(ctx, parts, ours, []*gripPeer{&ours.gripPeer}))
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	if got, want := len(b.report.Rows), 2+2*len(parts); got != want {
		t.Errorf("%d rows, want %d", got, want)
	}
	for _, s := range b.report.Steps {
		if s.Delivered == 0 || s.Lost != 0 || s.CPU == 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestGripRemark(t *testing.T) {
	ours := []*step{{Target: "a", Seconds: 1, OriginCPU: 0.1, Delivered: 10}, {Target: "a", Seconds: 1, OriginCPU: 0.3, Delivered: 10}}
	theirs := []*step{{Target: "b", Seconds: 2, OriginCPU: 0.1, Delivered: 10}, {Target: "b", Seconds: 2, OriginCPU: 0.1, Delivered: 8, Lost: 2}}
	got, want := gripRemark(ours, theirs), "origin: 20 and 5 % of a core; b: 2 failed of 20, in 1 of 2 pairs"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
