package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds each single thing that a test waits for.
const patience = 30 * time.Second

// A testFloor is the floor in this process.
type testFloor struct {
	http     netip.AddrPort
	commands *json.Encoder
	answers  *json.Decoder
}

func startTestFloor(t *testing.T) *testFloor {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- runFloor(context.Background(), inR, outW) }()
	f := &testFloor{commands: json.NewEncoder(inW), answers: json.NewDecoder(outR)}
	var a floorAnswer
	if err := f.answers.Decode(&a); err != nil {
		t.Fatal(err)
	}
	f.http = netip.MustParseAddrPort(a.Addr)
	t.Cleanup(func() {
		inW.Close()
		if err := <-done; err != nil {
			t.Errorf("the floor ended with %v", err)
		}
	})
	return f
}

func (f *testFloor) name() string         { return "floor" }
func (f *testFloor) addr() netip.AddrPort { return f.http }
func (f *testFloor) path() string         { return "/" }
func (f *testFloor) pid() int             { return os.Getpid() }

func (f *testFloor) send(ctx context.Context, p plan) (*histogram, error) {
	if err := f.commands.Encode(p); err != nil {
		return nil, err
	}
	var a floorAnswer
	if err := f.answers.Decode(&a); err != nil {
		return nil, err
	}
	if a.Err != "" {
		return nil, fmt.Errorf("floor: %s", a.Err)
	}
	return nil, nil
}

func (f *testFloor) left(ctx context.Context) error {
	_, err := f.send(ctx, plan{})
	return err
}

// Steps against a server that is right, with groups and without, after its
// clients went and came back.
func TestSteps(t *testing.T) {
	f := startTestFloor(t)
	r := newRunner(50, 128)
	for _, tt := range []struct {
		name  string
		group int
		again bool
	}{{"one by one", 1, false}, {"in groups", 10, false}, {"with new clients", 1, true}} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.again {
				if err := r.release(t.Context(), f); err != nil {
					t.Fatal(err)
				}
			}
			s, err := r.step(t.Context(), f, load{rate: 1000, group: tt.group, time: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if s.Sent != 200 || s.Delivered != 200*50 || s.Lost+int(s.Repeated+s.Late+s.Other) != 0 || s.Trouble != "" {
				t.Errorf("got %+v, want 200 messages at 50 clients, each once", s)
			}
			if s.Max == 0 || s.P50 > s.P99 || s.P99 > s.Max {
				t.Errorf("latency: p50 %v, p99 %v, max %v", s.P50, s.P99, s.Max)
			}
			if s.WireBytes < s.Delivered*128 {
				t.Errorf("%d bytes for %d messages of 128", s.WireBytes, s.Delivered)
			}
			// Fewer where the floor was late, never more.
			if most := uint64(200 / tt.group * 50 * 3 / 2); s.Writes > most {
				t.Errorf("%d writes, want at most %d", s.Writes, most)
			}
		})
	}
	if err := r.releaseAll(t.Context()); err != nil {
		t.Error(err)
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
		{"all is well", events(1, 2, 3) + "hold", 3, 0, func(t tally) bool { return t.repeated+t.late+t.other == 0 }, ""},
		{"one is missing", events(1, 3), 2, 1, func(t tally) bool { return t.late == 0 }, "the server ended the stream"},
		{"one is there twice", events(1, 2, 2, 3) + "hold", 3, 0, func(t tally) bool { return t.repeated == 1 }, ""},
		{"two are swapped", events(2, 1, 3) + "hold", 3, 0, func(t tally) bool { return t.late == 1 }, ""},
		{"a gap event", "event: gap\ndata: {\"from\":1}\n\n" + events(2, 3), 2, 1,
			func(t tally) bool { return t.other == 1 && strings.Contains(t.oddity, `{"from":1}`) }, "the server ended the stream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			addr := serveEvents(t, tt.body)
			f := newFleet(t, 1)
			f.expect(plan{First: 1, Count: 3, Start: time.Now()}) // before they come
			if err := f.connect(ctx, addr, "/events"); err != nil && tt.ends == "" {
				t.Fatal(err)
			}
			err := f.arrived(ctx)
			if tt.ends == "" && err != nil || tt.ends != "" && (err == nil || !strings.Contains(err.Error(), tt.ends)) {
				t.Errorf("arrived says %v, want %q", err, tt.ends)
			}
			tally, lost := f.result()
			if tally.delivered != tt.delivered || lost != tt.lost || !tt.check(tally) {
				t.Errorf("%d delivered, %d lost, %d repeated, %d late, %d other (%s)",
					tally.delivered, lost, tally.repeated, tally.late, tally.other, tally.oddity)
			}
		})
	}
}

func newFleet(t *testing.T, clients int) *fleet {
	t.Helper()
	f, err := openFleet(clients)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func TestConnectSaysWhy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := newFleet(t, 3).connect(ctx, serveEvents(t, "hold"), "/wrong")
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v, want it to name the status", err)
	}
	nobody, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	err = newFleet(t, 1).connect(ctx, nobody, "/events")
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want it to say that nobody listens", err)
	}
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
	acked, err := k.send(ctx, plan{First: 1, Count: records, Size: 128, Start: time.Now()})
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
	deadline := time.Now().Add(patience)
	used := usage{}
	for used.cpu < 2*tick && time.Now().Before(deadline) {
		for range writes {
			if _, err := null.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		now, err := readUsage(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		used = now.since(before)
	}
	if used.cpu < 2*tick || used.writes < writes || used.rss == 0 {
		t.Errorf("got %+v after at least %d writes", used, writes)
	}
}

func TestParseStat(t *testing.T) {
	const behind = " S 1 2 3 4 5 6 7 8 9 10 250 50 11 12 20 0 8 0 100"
	for _, tt := range []struct {
		name, stat string
		want       time.Duration
		ok         bool
	}{
		{"plain", "12 (spillway)" + behind, 3 * time.Second, true},
		{"a name that misleads", "12 (a) S 1 (b)" + behind, 3 * time.Second, true},
		{"short", "12 (spillway) S 1", 0, false},
		{"empty", "", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseStat([]byte(tt.stat))
			if got != tt.want || (err == nil) != tt.ok {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestParseIO(t *testing.T) {
	reads, writes, err := parseIO([]byte("rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\n"))
	if reads != 3 || writes != 4 || err != nil {
		t.Errorf("got %d, %d, %v, want 3, 4", reads, writes, err)
	}
	if _, _, err := parseIO([]byte("rchar: 1\n")); err == nil {
		t.Error("no error without the counts")
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
	if _, err := parseOptions([]string{"-clients", "10", "fanout"}); err != nil {
		t.Errorf("got %v for a good command line", err)
	}
	for _, args := range [][]string{{"-clients", "0"}, {"-size", "5"}, {"idle"}, {"-nonsense"}} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	_, err := parseOptions([]string{"-clients", "0", "-size", "5", "idle"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want all three problems", err)
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

func TestRatios(t *testing.T) {
	f := fanout{
		Light: []pair{
			{step{Delivered: 100, CPU: 2}, step{Delivered: 100, CPU: 1}},
			{step{Delivered: 100, CPU: 4}, step{Delivered: 100, CPU: 1}},
			{step{Delivered: 100, CPU: 4}, step{Delivered: 100, CPU: 3}},
			{step{Delivered: 100, CPU: 4}, step{Delivered: 100, CPU: 0}}, // below the clock's tick
		},
		Most:      &step{Delivered: 100, Seconds: 1},
		MostFloor: &step{Delivered: 400, Seconds: 1},
	}
	f.compare()
	want := []comparison{
		{"messages per CPU-second, light", 0.5, 0.25, 0.75, 3},
		{"most delivered/s with p99 < 1s and no loss", 0.25, 0.25, 0.25, 1},
	}
	if fmt.Sprint(f.Ratios) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", f.Ratios, want)
	}
	if middle, _, _ := median([]float64{4, 1, 2, 3}); middle != 2.5 {
		t.Errorf("the median of 1 to 4 is %v, want 2.5", middle)
	}
}
