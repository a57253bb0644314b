package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds each single thing that a test waits for.
const patience = 30 * time.Second

// testLoads puts loads on a stand, also after its clients went and came back.
func testLoads(t *testing.T, s *stand) {
	t.Helper()
	defer s.end()
	for _, tt := range []struct {
		name  string
		group int
		again bool
	}{{"one by one", 1, false}, {"in groups", 10, false}, {"with new clients", 1, true}} {
		if tt.again && s.channels > 1 {
			continue // no other than with one channel
		}
		t.Run(tt.name, func(t *testing.T) {
			if tt.again {
				if err := s.disconnect(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			rate := 1000 / float64(s.channels)
			got, err := s.step(t.Context(), load{rate: rate, group: tt.group, time: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			clients := uint64(s.clients)
			if s.stalledEvery > 0 {
				clients -= clients / uint64(s.stalledEvery)
			}
			if got.Sent != 200 || got.Delivered != 200*clients/uint64(s.channels) || !got.borne() {
				t.Errorf("got %+v, want 200 messages at %d clients, each once", got, clients)
			}
			if got.Max == 0 || got.P50 > got.P99 || got.P99 > got.Max {
				t.Errorf("latency: p50 %v, p99 %v, max %v", got.P50, got.P99, got.Max)
			}
			if got.CPU <= 0 || got.ClientCPU <= 0 || got.RSS == 0 {
				t.Errorf("usage: %+v", got)
			}
			// Fewer where the sender was late.
			if most := got.Delivered * 2; got.Writes == 0 || got.Writes > most {
				t.Errorf("%d writes, want at most %d", got.Writes, most)
			}
		})
	}
}

func testStand(t *testing.T, s subject, err error, as mode, clients, channels int) *stand {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	st, err := newStand(s, as, clients, channels, 128)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestLoads(t *testing.T) {
	runtime.LockOSThread() // see start
	for _, channels := range []int{1, 10} {
		t.Run(fmt.Sprintf("Go floor, channels=%d", channels), func(t *testing.T) {
			f, err := startFloor(t.Context())
			testLoads(t, testStand(t, f, err, sse, 50, channels))
		})
		t.Run(fmt.Sprintf("C floor, channels=%d", channels), func(t *testing.T) {
			f, err := startCFloor(t.Context())
			if errors.Is(err, errNoCompiler) {
				t.Skip(err)
			}
			testLoads(t, testStand(t, f, err, sse, 50, channels))
		})
		for _, as := range []mode{sse, wsFrames} {
			t.Run(fmt.Sprintf("gateway, %s, channels=%d", as, channels), func(t *testing.T) {
				form := "sse"
				if as == wsFrames {
					form = "ws"
				}
				p, err := startInproc(t.Context(), channels, form)
				testLoads(t, testStand(t, p, err, as, 50, channels))
			})
		}
	}
	t.Run("some clients do not read", func(t *testing.T) {
		f, err := startFloor(t.Context())
		s := testStand(t, f, err, sse, 50, 1)
		s.stalledEvery = 10
		testLoads(t, s)
	})
}

// Both floors and the gateway send the same bytes for the same message.
func TestFloorsSendTheSame(t *testing.T) {
	runtime.LockOSThread() // see start
	var sizes []float64
	for _, start := range []func() (subject, error){
		func() (subject, error) { return startFloor(t.Context()) },
		func() (subject, error) { return startCFloor(t.Context()) },
		func() (subject, error) { return startInproc(t.Context(), 1, "sse") },
	} {
		sub, err := start()
		if errors.Is(err, errNoCompiler) {
			continue
		}
		s := testStand(t, sub, err, sse, 2, 1)
		defer s.end()
		got, err := s.step(t.Context(), load{rate: 100, group: 1, time: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, got.bytesPerMessage())
	}
	for _, size := range sizes {
		if size != sizes[0] {
			t.Errorf("bytes for a message: %v", sizes)
		}
	}
}

// What is unsent is seen at the server.
func TestUnsent(t *testing.T) {
	runtime.LockOSThread() // see start
	f, err := startFloor(t.Context())
	s := testStand(t, f, err, sse, 10, 1)
	defer s.end()
	s.stalledEvery, s.size = 2, 1000
	if _, err := s.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := unsent(f.http.Port()); err != nil || n != 0 {
		t.Errorf("%d connections have something unsent, %v, want none yet", n, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	// The floor waits for the clients that do not read; nobody waits for it.
	p := s.plan(1000, load{rate: 100_000, group: 1})
	if _, err := f.send(ctx, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the floor got rid of a megabyte: %v", err)
	}
	waitFor(t, func() bool {
		n, err := unsent(f.http.Port())
		return err == nil && n == 5
	})
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, until func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !until(); {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// serveEvents is a server that sends the events of body to each client. A final
// "hold" keeps the stream open.
func serveEvents(t *testing.T, body string) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		body, hold := strings.CutSuffix(body, "hold")
		io.WriteString(w, body)
		if hold {
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func events(seqs ...uint32) string {
	var b strings.Builder
	for _, seq := range seqs {
		fmt.Fprintf(&b, "data: %s\n\n", msg(seq, 0))
	}
	return b.String()
}

// A server that is wrong is found out.
func TestFleetFindsFaults(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		delivered  uint64
		lost       int
		check      func(tally) bool
		ends       string // in the error of arrived; empty: the server keeps the stream
	}{
		{"all is well", events(1, 2, 3) + "hold", 3, 0, func(t tally) bool { return t.Repeated+t.Late+t.Other == 0 }, ""},
		{"one is missing", events(1, 3), 2, 1, func(t tally) bool { return t.Late == 0 }, "the server ended the stream"},
		{"one is there twice", events(1, 2, 2, 3) + "hold", 3, 0, func(t tally) bool { return t.Repeated == 1 }, ""},
		{"two are swapped", events(2, 1, 3) + "hold", 3, 0, func(t tally) bool { return t.Late == 1 }, ""},
		{"a gap event", "event: gap\ndata: {\"from\":1}\n\n" + events(2, 3), 2, 1,
			func(t tally) bool { return t.Other == 1 && strings.Contains(t.Oddity, `{"from":1}`) }, "the server ended the stream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			addr := serveEvents(t, tt.body)
			f := newFleet(t)
			f.expect(plan{First: 1, Count: 3, StartNs: time.Now().UnixNano()}) // before they come
			f.mu.Lock()
			f.open = 3 // of the client that is to come
			f.mu.Unlock()
			if err := f.connect(ctx, crewOf(1, addr, "/events")); err != nil && tt.ends == "" {
				t.Fatal(err)
			}
			err := f.arrived(ctx)
			if tt.ends == "" && err != nil || tt.ends != "" && (err == nil || !strings.Contains(err.Error(), tt.ends)) {
				t.Errorf("arrived says %v, want %q", err, tt.ends)
			}
			tally := f.result()
			if tally.Delivered != tt.delivered || tally.Lost != tt.lost || !tt.check(tally) {
				t.Errorf("got %+v, want %d delivered, %d lost", tally, tt.delivered, tt.lost)
			}
		})
	}
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f, err := openFleet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func crewOf(n int, addr netip.AddrPort, path string) crew {
	return crew{Addr: addr, Count: n, Requests: [][]byte{requestFor(sse, addr, path)}}
}

func TestConnectSaysWhy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	addr := serveEvents(t, "hold")
	err := newFleet(t).connect(ctx, crewOf(3, addr, "/wrong"))
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v, want it to name the status", err)
	}
	wanting := crewOf(1, addr, "/events")
	wanting.Gzip = true
	if err := newFleet(t).connect(ctx, wanting); !errors.Is(err, errNotCompressed) {
		t.Errorf("got %v, want %v", err, errNotCompressed)
	}
	nobody, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	err = newFleet(t).connect(ctx, crewOf(1, nobody, "/events"))
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want it to say that nobody listens", err)
	}
}

// Clients come a few at a time, and the last go first.
func TestConnectInParts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	addr := serveEvents(t, "hold")
	f := newFleet(t)
	few := crewOf(20, addr, "/events")
	few.Window = 3
	for _, want := range []int{20, 40} {
		if err := f.connect(ctx, few); err != nil {
			t.Fatal(err)
		}
		if f.mu.Lock(); f.ready != want || f.answers.count != 20 {
			t.Errorf("%d ready, %d answers timed, want %d and 20", f.ready, f.answers.count, want)
		}
		f.mu.Unlock()
	}
	f.shorten(5)
	if err := f.connect(ctx, few); err != nil {
		t.Fatal(err)
	}
	if f.mu.Lock(); f.ready != 25 || len(f.clients) != 25 {
		t.Errorf("%d of %d ready, want 25", f.ready, len(f.clients))
	}
	f.mu.Unlock()
}

// The producer, the broker and the bare consumer, as roles in this process.
func TestKafkaRoles(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- runBroker(context.Background(), inR, outW) }()
	t.Cleanup(func() {
		inW.Close()
		if err := <-done; err != nil {
			t.Errorf("the broker ended with %v", err)
		}
	})
	var b brokerAnswer
	if err := json.NewDecoder(outR).Decode(&b); err != nil {
		t.Fatal(err)
	}
	k, err := openKafka(ctx, b.Addr, "load")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := k.close(); err != nil {
			t.Error(err)
		}
	}()
	const records = 3000
	acked, err := k.send(ctx, plan{First: 1, Count: records, Size: 128, StartNs: time.Now().UnixNano()})
	if err != nil {
		t.Fatal(err)
	}
	if acked.count != records {
		t.Errorf("%d of %d records were counted as acknowledged", acked.count, records)
	}
	if end, err := k.end(ctx); err != nil || end != records {
		t.Errorf("the topic ends at %d, %v, want %d", end, err, records)
	}
	var out strings.Builder
	args := []string{"-bootstrap", b.Addr, "-topic", "load", "-offset", "1000", "-records", strconv.Itoa(records - 1000)}
	open, _ := io.Pipe() // never ends
	if err := runConsume(ctx, args, open, &out); err != nil {
		t.Fatal(err)
	}
	var a consumeAnswer
	if err := json.Unmarshal([]byte(out.String()), &a); err != nil {
		t.Fatal(err)
	}
	if a.Records != records-1000 || a.Took <= 0 || a.CPU <= 0 {
		t.Errorf("got %+v, want %d records that took something", a, records-1000)
	}
}

func TestUsage(t *testing.T) {
	before, err := readUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const writes = 1000
	for range writes {
		if _, err := null.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	now, err := readUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	own, err := ownCPU()
	if err != nil {
		t.Fatal(err)
	}
	if used := now.since(before); used.cpu <= 0 || used.writes < writes || used.rss == 0 {
		t.Errorf("got %+v after %d writes", used, writes)
	}
	// The kernel counts both at other places, to some milliseconds.
	if diff := (own - now.cpu).Abs(); diff > 50*time.Millisecond {
		t.Errorf("CPU time of this process: %v by its clock, %v by getrusage", now.cpu, own)
	}
	both, err := readUsage(os.Getpid(), os.Getpid())
	if err != nil || both.rss < 2*now.rss*9/10 {
		t.Errorf("two processes: got %+v, %v, want twice %+v", both, err, now)
	}
	if _, err := readUsage(1 << 30); err == nil {
		t.Error("no error for a process that there is not")
	}
}

func TestParseIO(t *testing.T) {
	writes, err := parseIO([]byte("rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\n"))
	if writes != 4 || err != nil {
		t.Errorf("got %d, %v, want 4", writes, err)
	}
	if _, err := parseIO([]byte("rchar: 1\n")); err == nil {
		t.Error("no error without the count")
	}
}

func TestFindSeries(t *testing.T) {
	page := []byte("# HELP a_total x\na_total 3\na_total{reason=\"b\"} 1.5e+06\nlast 7\n")
	for series, want := range map[string]float64{"a_total": 3, `a_total{reason="b"}`: 1.5e6, "last": 7} {
		if got, err := findSeries(page, series); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", series, got, err, want)
		}
	}
	if _, err := findSeries(page, "a"); err == nil {
		t.Error("found a series that is not there")
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-clients", "10, 20", "per-write", "light"})
	if err != nil || len(o.sizes) != 2 || o.sizes[1] != 20 || len(o.scenarios) != 2 {
		t.Errorf("got %+v, %v for a good command line", o, err)
	}
	for _, args := range [][]string{{"-clients", "0"}, {"-clients", "x"}, {"-size", "5"}, {"idle"}, {"-nonsense"}, {"-pairs", "0"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	_, err = parseOptions([]string{"-clients", "0", "-size", "5", "idle"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want all three problems", err)
	}
	some, err1 := parseOptions(nil)
	all, err2 := parseOptions([]string{"-all"})
	if err1 != nil || err2 != nil || len(some.scenarios) == 0 || len(all.scenarios) != len(scenarios) || len(all.scenarios) <= len(some.scenarios) {
		t.Errorf("%d scenarios, with -all %d of %d", len(some.scenarios), len(all.scenarios), len(scenarios))
	}
}

// Every client gets an address of loopback, and none has more than its ports.
func TestSourceAddresses(t *testing.T) {
	seen := make(map[[4]byte]int)
	for i := range 1_000_000 {
		a := sourceOf(i)
		if a[0] != 127 {
			t.Fatalf("client %d is at %v", i, a)
		}
		seen[a]++
	}
	for a, n := range seen {
		if n > 20_000 {
			t.Errorf("%d clients at %v: more than it has ports", n, a)
		}
	}
}

// Rows leave out pairs of which a side was not borne.
func TestCompare(t *testing.T) {
	b := &bench{report: new(report), scenario: "x"}
	good := func(delivered uint64) *step { return &step{Delivered: delivered, CPU: 1} }
	bad := &step{Delivered: 1000, CPU: 1, Lost: 1}
	ours := figures([]*step{good(100), good(200), bad, good(300)}, (*step).perCPUSecond)
	theirs := figures([]*step{good(100), good(100), good(100), bad}, (*step).perCPUSecond)
	r := b.compare("cost", "msg/CPU-s", "a", ours, "b", theirs, atLeast(1.5))
	if r.Ratio != (spread{1.25, 1.5, 1.75, 2}) || r.Verdict != met || !strings.Contains(r.Remark, "2 of 4") {
		t.Errorf("got %+v, want the pairs 1 and 2", r)
	}
	var out strings.Builder
	if err := b.report.write(&out); err != nil || !strings.Contains(out.String(), "150 %") {
		t.Errorf("%v, in the table:\n%s", err, out.String())
	}
	if _, err := json.Marshal(b.report); err != nil {
		t.Error(err)
	}
}

// Every side begins a round in its turn.
func TestInterleave(t *testing.T) {
	var order string
	side := func(name string) func() (string, error) {
		return func() (string, error) { order += name; return name + fmt.Sprint(len(order)), nil }
	}
	got, err := interleave(3, side("a"), side("b"))
	if err != nil || order != "abbaab" || fmt.Sprint(got) != "[[a1 a4 a5] [b2 b3 b6]]" {
		t.Errorf("got %v in the order %s, %v", got, order, err)
	}
	refused := errors.New("refused")
	if _, err := interleave(1, func() (int, error) { return 0, refused }); !errors.Is(err, refused) {
		t.Errorf("got %v, want the side's error", err)
	}
}

func TestReadCallgrind(t *testing.T) {
	const file = "version: 1\npid: 12 13\npositions: line\nevents: Ir\nsummary: 130\n\nfl=(1) a.go\nfn=(1) main.a\n16 50\n+2 20\n" +
		"cfn=(2) main.b\ncalls=1 20\n18 999\n* 10\nfn=(2)\n-3 40\nfn=(3) main.a'2\n5 10\n\ntotals: 130\n"
	total, most, err := readCallgrind([]byte(file))
	want := []functionCost{{"main.a", 90.0 / 130}, {"main.b", 40.0 / 130}}
	if err != nil || total != 130 || !slices.Equal(most, want) {
		t.Errorf("got %d, %v, %v, want 130 and %v", total, most, err, want)
	}
	if _, _, err := readCallgrind([]byte("events: Ir\n")); err == nil {
		t.Error("no error for a file without costs")
	}
}

// What goes before a step is enough writes for what quick acknowledgements cost,
// and short.
func TestWarmUp(t *testing.T) {
	for _, tt := range []struct {
		name   string
		l      load
		writes float64 // to each client
		time   time.Duration
	}{
		{"often", load{rate: 20, group: 1, time: time.Second}, 20, 333 * time.Millisecond},
		{"often, in groups", load{rate: 320, group: 16, time: time.Second}, 20, 333 * time.Millisecond},
		{"so rarely that all are quick", load{rate: 1, group: 1, time: 4 * time.Second}, 1, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := warmUp(tt.l)
			writes := w.rate * w.time.Seconds() / float64(w.group)
			if math.Abs(writes-tt.writes) > 0.01 || w.time.Round(time.Millisecond) != tt.time {
				t.Errorf("%v writes in %v, want %v in %v", writes, w.time, tt.writes, tt.time)
			}
		})
	}
}
