package fanout

import (
	"fmt"
	"io"
	"os"
	"runtime"
	runtimemetrics "runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway/grip"
)

// A sink is a mechanism without sockets: it takes everything at once, and counts
// it. What is left is the engine's own work.
type sink struct {
	conns []*Conn
	bytes int64
}

func (*sink) begin(*loop) error         { return nil }
func (*sink) end()                      {}
func (*sink) wait(*loop, time.Duration) {}
func (*sink) wake()                     {}
func (*sink) read(*loop, *Conn)         {}
func (*sink) close(*loop, *Conn)        {}

func (s *sink) admit(_ *loop, c *Conn) { s.conns = append(s.conns, c) }

func (s *sink) each(f func(c *Conn)) {
	for _, c := range s.conns {
		f(c)
	}
}

func (s *sink) flushAll(l *loop, conns []*Conn) { l.flushEach(conns) }

func (s *sink) flush(l *loop, c *Conn) {
	b := &l.batch
	for {
		private, ok := c.next(b, l.now)
		if !ok {
			return
		}
		p := private
		if private == nil {
			p = c.wire(b, &l.scratch)
		}
		s.bytes += int64(len(p))
		c.lastSent, c.progress = l.now, l.now
		l.writes.Add(1)
		if private != nil {
			c.took(len(p))
		} else {
			l.items.Add(int64(b.Items))
			l.unpin(0)
			if b.newest && len(c.subs) == 1 {
				return
			}
		}
	}
}

// sunk makes an engine whose connections are sinks, of channels with as many
// each. Its loop runs when it is told to.
func sunk(t testing.TB, channels, each int) (e *Engine, l *loop, chans []grip.Channel) {
	t.Helper()
	e = newEngine(t, Config{Portable: true, ChannelLogBytes: 64 << 10})
	l = newLoop(e, 0, &sink{})
	e.loops = []*loop{l, newLoop(e, 1, newPortable())}
	owner := newPeer(t)
	for i := range channels {
		name := channelName(i)
		chans = append(chans, e.Open(name, numbers{}))
		for range each {
			c := e.newConn(l, Options{Owner: owner, Framing: Chunked, WriteTimeout: time.Minute})
			c.Start()
			c.SetKeepAlive(&grip.KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second})
			if _, ok := c.Hold(Hold{Wants: []Want{{Channel: name}}, OpenOnly: true}); !ok {
				t.Fatal("not attached")
			}
		}
	}
	work(l)
	return e, l, chans
}

// work has a loop do all there is to do.
func work(l *loop) {
	l.now = l.engine.now()
	l.expire()
	for l.work() {
	}
}

func writeInPlace(ch grip.Channel, content []byte) {
	ch.(handle).Write(func(b grip.Batch) {
		b.Add(grip.Entry{Stream: append(b.Stream(len(content)), content...)})
	})
}

// Sending to those who keep up takes no memory, but that of the log.
func TestSweepDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("two million items take long under the race detector")
	}
	_, l, chans := sunk(t, 1, 1000)
	content := []byte(strings.Repeat("x", 128))
	publish := func() {
		writeInPlace(chans[0], content)
		work(l)
	}
	for range 2000 { // until the log evicts as much as it takes
		publish()
	}
	before := l.items.Load()
	const runs = 100
	if got := testing.AllocsPerRun(runs, publish); got != 0 {
		t.Errorf("got %v allocations for each item to 1,000 connections, want 0", got)
	}
	if got := l.items.Load() - before; got != (runs+1)*1000 {
		t.Errorf("delivered %d items, want %d", got, (runs+1)*1000)
	}
}

// The same with sockets.
func TestDeliveryDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newRig(t, Config{ChannelLogBytes: 64 << 10})
	if len(r.loops) == 1 {
		t.Skip("there are no shards on this system")
	}
	ch := r.Open("c", numbers{})
	const conns = 50
	content := []byte(strings.Repeat("x", 128))
	d := newDrain(conns, frameBytes(Stream, len(content)))
	var all []*peer
	for range conns {
		p := r.take(Options{Framing: Chunked})
		p.hold(Hold{Wants: wanted("c")})
		all = append(all, p)
		go d.read(p.client)
	}
	publish := func() {
		writeInPlace(ch, content)
		d.wait()
	}
	for range 1000 {
		publish()
	}
	if got := testing.AllocsPerRun(200, publish); got != 0 {
		t.Errorf("got %v allocations for each item to %d sockets, want 0", got, conns)
	}
	for _, p := range all {
		p.conn.Finish(nil, 0, "")
		_ = p.client.CloseWrite()
	}
	for _, p := range all {
		recv(t, p.gone, "Gone")
	}
}

// BenchmarkSweep is one item to all connections of a channel, or one to each of
// many channels, without system calls. With SPILLWAY_MILLION=1 there are a
// million connections, too.
//
// It tells the time for each delivery, what a connection takes of the heap, and
// how long the collector stopped the world while items went out.
func BenchmarkSweep(b *testing.B) {
	shapes := []struct{ channels, each int }{{1, 1}, {1, 1000}, {1, 100_000}, {10_000, 1}, {100_000, 1}}
	if os.Getenv("SPILLWAY_MILLION") == "1" {
		shapes = append(shapes, struct{ channels, each int }{1, 1_000_000})
	}
	for _, shape := range shapes {
		b.Run(fmt.Sprintf("size=128/channels=%d/connections=%d", shape.channels, shape.channels*shape.each), func(b *testing.B) {
			before := heap()
			e, l, chans := sunk(b, shape.channels, shape.each)
			conns := shape.channels * shape.each
			perConn := float64(heap()-before) / float64(conns)
			content := []byte(strings.Repeat("x", 128))
			publish := func() {
				for _, ch := range chans {
					writeInPlace(ch, content)
				}
				work(l)
			}
			publish()
			items, pauses := l.items.Load(), pauseBuckets()
			b.ReportAllocs()
			for b.Loop() {
				publish()
			}
			if conns >= 100_000 { // so that there is a collection to tell of
				runtime.GC()
			}
			if got, want := l.items.Load()-items, int64(b.N*conns); got != want {
				b.Fatalf("delivered %d items, want %d", got, want)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*conns), "ns/delivery")
			if conns >= 1000 {
				b.ReportMetric(perConn, "heap-B/connection")
			}
			b.ReportMetric(float64(quantile(pauseBuckets(), pauses, 0.99))*1e6, "p99-pause-µs")
			runtime.KeepAlive(e)
		})
	}
}

// heap is how many bytes of the heap are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what a finalizer or a pool kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func pauseBuckets() *runtimemetrics.Float64Histogram {
	sample := []runtimemetrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Float64Histogram()
}

// quantile is a quantile of what came into a histogram since before: the upper
// bound of its bucket; 0 when nothing did.
func quantile(now, before *runtimemetrics.Float64Histogram, q float64) float64 {
	total := uint64(0)
	for i := range now.Counts {
		total += now.Counts[i] - before.Counts[i]
	}
	seen := uint64(0)
	for i := range now.Counts {
		if seen += now.Counts[i] - before.Counts[i]; total > 0 && float64(seen) >= q*float64(total) {
			return now.Buckets[i+1]
		}
	}
	return 0
}

// BenchmarkSend is one item to all connections of a channel, through sockets that
// someone drains.
func BenchmarkSend(b *testing.B) {
	for _, conns := range []int{1, 1000} {
		b.Run(fmt.Sprintf("size=128/connections=%d", conns), func(b *testing.B) {
			r := newRig(b, Config{})
			ch := r.Open("c", numbers{})
			content := []byte(strings.Repeat("x", 128))
			d := newDrain(conns, frameBytes(Stream, len(content)))
			for range conns {
				p := r.take(Options{Framing: Chunked})
				p.hold(Hold{Wants: wanted("c")})
				_ = p.client.SetDeadline(time.Time{})
				go d.read(p.client)
			}
			b.ReportAllocs()
			for b.Loop() {
				writeInPlace(ch, content)
				d.wait()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*conns), "ns/delivery")
		})
	}
}

// A drain is clients who are all sent the same items, of one length.
type drain struct {
	all   int64         // bytes of an item to all of them
	got   atomic.Int64  // bytes
	whole chan struct{} // receives when all of them have an item
}

func newDrain(clients, frameBytes int) *drain {
	return &drain{all: int64(clients * frameBytes), whole: make(chan struct{}, 1)}
}

// read is one client; it ends with the connection. There is one item on its way
// at a time.
func (d *drain) read(r io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && d.got.Add(int64(n))%d.all == 0 {
			d.whole <- struct{}{}
		}
		if err != nil {
			return
		}
	}
}

func (d *drain) wait() { <-d.whole }

func TestPause(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct{ took, most, want time.Duration }{
		{0, 10 * ms, 0},
		{ms - 1, 10 * ms, 0},
		{ms, 10 * ms, 3 * ms},
		{5 * ms, 10 * ms, 10 * ms},
		{5 * ms, 0, 0},
	} {
		if got := pause(tt.took, tt.most); got != tt.want {
			t.Errorf("after %v, at most %v: got %v, want %v", tt.took, tt.most, got, tt.want)
		}
	}
}

// A lane that rests is gone through when its time has come, with all that has
// come meanwhile, and the loop waits no longer than that.
func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l, chans := sunk(t, 1, 3)
		work := func(when string, writes int64) {
			t.Helper()
			before := l.writes.Load()
			l.now = l.engine.now()
			for l.work() {
			}
			if got := l.writes.Load() - before; got != writes {
				t.Errorf("%s: %d writes, want %d", when, got, writes)
			}
		}
		chans[0].Append(streams("1"))
		work("at first", 3)
		chans[0].(handle).ch.lanes[1].notBefore = l.engine.now() + 10*time.Millisecond
		chans[0].Append(streams("2"))
		chans[0].Append(streams("3"))
		work("while it rests", 0)
		if d := l.earliest - l.engine.now(); d != 10*time.Millisecond {
			t.Errorf("the loop would wait for %v, want 10ms", d)
		}
		time.Sleep(10 * time.Millisecond)
		work("after it", 3)
		if l.earliest != never {
			t.Error("the loop would not wait until something comes")
		}
	})
}
