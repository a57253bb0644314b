package fanout

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway/grip"
)

// keyedItem is one for streams and WebSockets.
func keyedItem(key, content string) grip.Item {
	it := item(content)
	it.Channel, it.Key = "a", key
	return it
}

func slowly(every time.Duration, prevID ...string) []Want {
	w := wanted("a", prevID...)
	w[0].Conflate, w[0].Every = true, every
	return w
}

// What is left out is what a later item of the same key stands in for.
func TestConflate(t *testing.T) {
	for _, tt := range []struct {
		name  string
		items []grip.Item
		want  string
	}{
		{"the newest of each key, in the order of the log", []grip.Item{keyedItem("k", "1"), keyedItem("l", "2"), keyedItem("k", "3"), keyedItem("m", "4"), keyedItem("l", "5")}, "345"},
		{"no key stands for itself", []grip.Item{keyedItem("", "1"), keyedItem("k", "2"), keyedItem("", "3"), keyedItem("k", "4")}, "134"},
		{"keys alike but for a byte", []grip.Item{keyedItem("k\x00", "1"), keyedItem("k", "2"), keyedItem("K", "3")}, "123"},
		{"long keys", []grip.Item{keyedItem(strings.Repeat("k", 9000), "1"), keyedItem(strings.Repeat("k", 9000), "2"), keyedItem(strings.Repeat("k", 8999), "3")}, "23"},
		{
			"what is not for everyone supersedes nothing, nor is superseded",
			[]grip.Item{keyedItem("k", "1"), func() grip.Item { it := from("bob", "2"); it.Key = "k"; return it }(), keyedItem("k", "3")}, "23",
		},
		{
			"what has no bytes for streams supersedes nothing that has",
			[]grip.Item{keyedItem("k", "1"), {Channel: "a", Key: "k", WSMessage: &grip.WSMessage{Content: []byte("2")}}}, "1",
		},
		{
			"a hint is no word about a key",
			[]grip.Item{keyedItem("k", "1"), {Channel: "a", Key: "k", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}}, "1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, open := range []bool{true, false} {
				e := newEngine(t, Config{})
				if open {
					e.Open("a", numbers{})
				}
				s := subscribe(t, e, Stream, slowly(0)...)
				plain := subscribe(t, e, Stream, wanted("a")...)
				ch := e.channels["a"]
				ch.append(tt.items)
				checkKeys(t, ch)
				got, status := "", Ready
				for status == Ready || status == Hint {
					var b Batch
					b, status = s.Next(1 << 20)
					got += string(contents(b))
				}
				if got != tt.want {
					t.Errorf("open %t: got %q, want %q", open, got, tt.want)
				}
				all := 0
				for status = Ready; status == Ready || status == Hint; {
					var b Batch
					b, status = plain.Next(1 << 20)
					all += b.Items
				}
				if all < len(tt.items)-1 {
					t.Errorf("open %t: who does not conflate got %d items of %d", open, all, len(tt.items))
				}
			}
		})
	}
}

// Ids go on over what was left out, on channels where each item has to follow the
// one before.
func TestConflateFollows(t *testing.T) {
	e := newEngine(t, Config{})
	s := subscribe(t, e, Stream, slowly(0, "0")...)
	keyed := func(id, prev, key string) grip.Item {
		it := foreignItem("a", id, prev, id)
		it.Key = key
		return it
	}
	publish(t, e, keyed("1", "0", "k"), keyed("2", "1", "l"), keyed("3", "2", "k"), keyed("4", "3", "l"))
	wantNext(t, s, "34", Ready)
	late := keyed("9", "8", "k")
	late.NoSeq = true
	publish(t, e, late)
	wantNext(t, s, "", Behind)
	wantLasts(t, s, grip.Last{Channel: "a", ID: "4"})
}

// A filter decides about each item for itself, so that no other can stand in for
// one.
func TestConflateNotWithFilter(t *testing.T) {
	e := newEngine(t, Config{})
	w := slowly(time.Second)
	w[0].Filter = &testFilter{}
	s := subscribe(t, e, Stream, w...)
	publish(t, e, keyedItem("k", "1"), keyedItem("k", "2"))
	wantNext(t, s, "12", Ready)
}

// Items of a subscription with a rate keep their distance, whatever writes them.
func TestRate(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("a", numbers{})
		p := r.take(Options{Framing: framing})
		const every = 30 * time.Millisecond
		sub := p.hold(Hold{Wants: slowly(every), OpenOnly: true})
		began := time.Now()
		ch.Append([]grip.Item{keyedItem("", "1"), keyedItem("k", "2"), keyedItem("", "3"), keyedItem("k", "4")})
		p.want("134")
		if d := time.Since(began); d < 2*every {
			t.Errorf("three items within %v, want %v between two", d, every)
		}
		ch.Append(items("5"))
		p.want("5")
		if d := time.Since(began); d < 3*every {
			t.Errorf("four items within %v, want %v between two", d, every)
		}
		if !p.conn.Drop(sub) {
			t.Error("drop: got false, want true")
		}
		p.hold(Hold{Wants: slowly(every), OpenOnly: true})
		ch.Append(items("6"))
		p.want("6")
		if d := time.Since(began); d < 4*every {
			t.Errorf("five items within %v, the last by another subscription, want %v between two", d, every)
		}
	})
}

// Who rests hears at once when it is over, and knows what it was given.
func TestRateRests(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		ch := r.Open("a", numbers{})
		p, other := r.take(Options{Framing: Chunked}), r.take(Options{Framing: Chunked})
		sub := p.hold(Hold{Wants: slowly(time.Hour), OpenOnly: true})
		other.hold(Hold{Wants: wanted("a"), OpenOnly: true})
		ch.Append(items("1"))
		p.want("1")
		ch.Append(items("2", "3"))
		other.want("123")
		ch.Close()
		p.wantHeld(sub, Closed)
		p.wantRelease(sub, true, grip.Last{Channel: "a", ID: "1"})
		p.conn.Finish([]byte("bye"), 0, "")
		p.wantEnd("bye", true)
	})
}

// checkKeys compares what a channel has noted of keys, and of its memory, with
// what is there.
func checkKeys(t testing.TB, ch *channel) {
	t.Helper()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	var bytes int64
	newest := 0
	for _, s := range ch.segs {
		bytes += s.cost
		if s.cost != s.memory() {
			t.Fatalf("segment %d: %d bytes are accounted for, it has %d", s.first, s.cost, s.memory())
		}
		if s.keyed == nil {
			continue
		}
		n := 0
		for i, k := range s.keyed.keys {
			if ch.keys != nil && k != (key{}) && ch.keys.newest[k] == s.first+uint64(i) {
				n++
				if s.isStale(i) {
					t.Fatalf("item %d is stale, and the newest of its key", s.first+uint64(i))
				}
			}
		}
		if n != s.keyed.newest {
			t.Fatalf("segment %d: %d are counted as newest, %d are", s.first, s.keyed.newest, n)
		}
		newest += n
	}
	if ch.keys != nil && len(ch.keys.newest) != newest {
		t.Fatalf("the channel knows %d keys, the log has %d", len(ch.keys.newest), newest)
	}
	if bytes != ch.bytes {
		t.Fatalf("%d bytes are accounted for, the segments have %d", ch.bytes, bytes)
	}
}

// What keys take is counted, goes with the items, and all of it some time after
// nobody conflates any more.
func TestKeysMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, Config{ChannelLogBytes: 1 << 20, ChannelLogAge: time.Hour})
		ch := e.Open("a", numbers{}).(handle)
		fill := func(key func(i int) string) int64 {
			for i := range 20_000 {
				ch.Write(func(b grip.Batch) {
					b.Add(grip.Entry{Stream: append(b.Stream(8), "content "...), Key: []byte(key(i))})
				})
			}
			checkKeys(t, ch.ch)
			return e.logBytes.Load()
		}
		different := func(i int) string { return strconv.Itoa(i) }
		plain := fill(different)
		s := subscribe(t, e, Stream, slowly(0)...)
		few := fill(func(i int) string { return different(i % 10) })
		many := fill(different)
		first, last := ch.Retained()
		if got := len(ch.ch.keys.newest); got != int(last-first+1) || ch.ch.keys.most > 2*max(got, 20_000) {
			t.Errorf("keys: got %d (once %d), want one for each of %d items", got, ch.ch.keys.most, last-first+1)
		}
		if few < plain || many > 1<<20+maxSegmentBytes {
			t.Errorf("log: got %d bytes, %d with few keys, %d with many; want no more than the limit", plain, few, many)
		}
		s.Close()
		time.Sleep(59 * time.Second)
		e.sweep()
		if ch.ch.keys == nil {
			t.Error("keys are forgotten while a client may come back")
		}
		back := subscribe(t, e, Stream, slowly(0)...)
		back.Close()
		time.Sleep(59 * time.Second)
		e.sweep()
		if ch.ch.keys == nil {
			t.Error("keys are forgotten although someone has come back")
		}
		time.Sleep(2 * time.Second)
		e.sweep()
		checkKeys(t, ch.ch)
		if got := e.logBytes.Load(); ch.ch.keys != nil || got > many/2 {
			t.Errorf("later: got %d bytes, want the items alone; keys are known: %t", got, ch.ch.keys != nil)
		}
		s = subscribe(t, e, Stream, slowly(0, strconv.FormatUint(last-1, 10))...)
		ch.Append([]grip.Item{keyedItem("19999", "new")})
		wantNext(t, s, "content new", Ready) // what had come before stands for itself
		ch.Close()
		if got := e.logBytes.Load(); got != 0 {
			t.Errorf("in the end: got %d bytes, want 0", got)
		}
	})
}

// A map of many keys that have gone is made anew.
func TestKeysShrink(t *testing.T) {
	e := newEngine(t, Config{ChannelLogBytes: 256 << 10})
	ch := e.Open("a", numbers{}).(handle)
	subscribe(t, e, Stream, slowly(0)...)
	for i := range 5000 {
		ch.Append([]grip.Item{keyedItem(strconv.Itoa(i), "x")})
	}
	before := ch.ch.keys.most
	for range 300 {
		ch.Append([]grip.Item{keyedItem("k", strings.Repeat("x", 8<<10))})
	}
	checkKeys(t, ch.ch)
	if after := ch.ch.keys.most; before < 500 || after > before/2 {
		t.Errorf("entries that there once were: got %d, then %d, want less than half", before, after)
	}
}

// A valve is a mechanism without sockets that takes some of what there is: at each
// write a random part, and then nothing for a while. It checks each batch before
// that.
type valve struct {
	sink
	random *rand.Rand
	open   bool // takes everything
	batch  func(c *Conn, b *Batch, before uint64)
	takes  func(c *Conn, p []byte)
}

func (v *valve) flushAll(l *loop, conns []*Conn) {
	for _, c := range conns {
		c.mu.Lock()
		if !c.blocked {
			v.flush(l, c)
		}
		l.unlock(c)
	}
}

func (v *valve) flush(l *loop, c *Conn) {
	b := &l.batch
	for !c.blocked {
		before := uint64(0)
		if len(c.subs) > 0 {
			before = c.subs[0].members[0].cursor
		}
		private, ok := c.next(b, l.now)
		if !ok {
			c.said(l.now)
			return
		}
		p := private
		if private == nil {
			v.batch(c, b, before)
			p = c.wire(b, &l.scratch)
		}
		n := len(p)
		if !v.open && v.random.IntN(3) > 0 {
			n = v.random.IntN(n + 1)
		}
		v.takes(c, p[:n])
		c.lastSent, c.progress = l.now, l.now
		switch {
		case private != nil:
			c.took(n)
		case n < len(p):
			c.unsent(b, n)
		default:
			c.sent()
		}
		l.unpin(0)
		if n < len(p) {
			c.block(l)
		}
	}
}

// A modelItem is what the model knows of an item: for whom it is, and whether a
// later one stands in for it.
type modelItem struct {
	key   string
	has   [byteForms]bool
	stale bool
}

// A model is what must be true of a channel's readers.
type model struct {
	t       *testing.T
	random  *rand.Rand
	items   []modelItem // by number, from 1 on
	newest  map[string]uint64
	readers map[*Conn]*modelReader
	skipped int
	paced   int
}

type modelReader struct {
	conn  *Conn
	every time.Duration
	plain bool
	given time.Duration // when it was given an item last; -1: never
	wire  []byte        // what it was sent
	pages int

	mu   sync.Mutex
	sub  *Subscriber // that Held was called for; guarded by mu
	lost bool        // Held was called with something else than Behind; guarded by mu
}

func (r *modelReader) Held(s *Subscriber, why Status, _ Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sub, r.lost = s, r.lost || why != Behind
}
func (*modelReader) Received(grip.MessageType, []byte) {}
func (*modelReader) TimeOver()                         {}
func (*modelReader) Gone(Ending)                       {}

func (m *model) append(ch handle) {
	ch.Write(func(b grip.Batch) {
		for range 1 + m.random.IntN(8) {
			n := uint64(len(m.items))
			it := modelItem{has: [byteForms]bool{true, true}}
			if m.random.IntN(10) > 0 {
				it.key = string('a' + rune(m.random.IntN(1+m.random.IntN(12))))
			}
			if m.random.IntN(10) == 0 {
				it.has[m.random.IntN(byteForms)] = false
			}
			e := grip.Entry{}
			text := fmt.Sprintf("%d%s ", n, strings.Repeat(".", m.random.IntN(40)))
			if it.has[Stream] {
				e.Stream = append(b.Stream(len(text)), text...)
			}
			if it.has[Message] {
				e.Message = append(b.Message(len(text)), text...)
			}
			if it.key != "" {
				e.Key = []byte(it.key)
				if p, ok := m.newest[it.key]; ok {
					old := &m.items[p]
					old.stale = (!old.has[Stream] || it.has[Stream]) && (!old.has[Message] || it.has[Message])
				}
				m.newest[it.key] = n
			}
			m.items = append(m.items, it)
			b.Add(e)
		}
	})
}

// batch checks what a reader is given.
func (m *model) batch(c *Conn, b *Batch, before uint64) {
	r := m.readers[c]
	form := b.form
	from := b.seg.first + uint64(b.from)
	to := from + uint64(len(b.entries))
	items := 0
	for n := before + 1; n < to; n++ {
		it := &m.items[n]
		switch given := n >= from; {
		case given && it.has[form]:
			if items++; it.stale && !r.plain {
				m.t.Errorf("item %d of key %s was given although there is a later one", n, it.key)
			}
		case !given && it.has[form]:
			if m.skipped++; r.plain || !it.stale {
				m.t.Fatalf("item %d of key %q was left out, and no later one is in the log; plain: %t", n, it.key, r.plain)
			}
		}
	}
	if r.every == 0 {
		return
	}
	now := c.engine().now()
	if items != 1 || r.given >= 0 && now < r.given+r.every {
		m.t.Fatalf("%d items %v after the last, want 1 each %v", items, now-r.given, r.every)
	}
	m.paced++
	r.given = now
}

// settle lets readers that fell behind go on at the log's oldest item, as after a
// page.
func (m *model) settle(e *Engine, ch handle) {
	e.telling.Wait()
	for _, r := range m.readers {
		r.mu.Lock()
		sub, lost := r.sub, r.lost
		r.sub = nil
		r.mu.Unlock()
		if lost {
			m.t.Fatal("held with something else than Behind")
		}
		if sub == nil {
			continue
		}
		lasts, _ := r.conn.Release(sub)
		at, _ := strconv.ParseUint(lasts[0].ID, 10, 64)
		first, _ := ch.Retained()
		if at >= first {
			m.t.Fatalf("behind at item %d, the log begins at %d", at, first)
		}
		r.pages++
		m.hold(r, first-1)
	}
}

func (m *model) hold(r *modelReader, after uint64) {
	w := wanted("a", strconv.FormatUint(after, 10))
	w[0].Conflate, w[0].Every = !r.plain, r.every
	if _, ok := r.conn.Hold(Hold{Wants: w, OpenOnly: true}); !ok {
		m.t.Fatal("not attached")
	}
}

// TestConflateModel has readers of all kinds, whose sockets take what they like,
// read a channel whose log is short: nobody is kept from an item unless a later
// one of its key is in the log, nobody is given one that is not the newest, or
// more often than its rate says.
func TestConflateModel(t *testing.T) {
	skipped, paced, pages, passed := 0, 0, 0, 0.0
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			m := &model{
				t: t, random: rand.New(rand.NewPCG(seed, 1)), items: make([]modelItem, 1),
				newest: make(map[string]uint64), readers: make(map[*Conn]*modelReader),
			}
			v := &valve{random: m.random, batch: m.batch, takes: func(c *Conn, p []byte) {
				r := m.readers[c]
				r.wire = append(r.wire, p...)
			}}
			e := newEngine(t, Config{Portable: true, ChannelLogBytes: []int64{6 << 10, 32 << 10, 1 << 20}[seed%3]})
			l := newLoop(e, 0, v)
			e.loops = []*loop{l, newLoop(e, 1, newPortable())}
			ch := e.Open("a", numbers{}).(handle)
			for i := range 12 {
				r := &modelReader{given: -1, plain: i < 2}
				if i%3 == 2 {
					r.every = time.Duration(10+m.random.IntN(1000)) * time.Millisecond
				}
				o := Options{Owner: r, Framing: Framing(i % len(framings)), WriteTimeout: time.Hour, Rules: &testRules}
				r.conn = e.newConn(l, o)
				m.readers[r.conn] = r
				r.conn.Start()
				m.hold(r, 0)
			}
			work(l)
			for range 300 {
				switch m.random.IntN(4) {
				case 0, 1:
					m.append(ch)
				case 2:
					time.Sleep(time.Duration(m.random.IntN(60)) * time.Millisecond)
				default:
					for _, c := range v.conns { // in an order that is the same each time
						if m.random.IntN(3) == 0 {
							m.unblock(l, v, c)
						}
					}
				}
				work(l)
				m.settle(e, ch)
				m.check(e, ch)
			}
			v.open = true
			for range 2 * 60 * 60 {
				for _, c := range v.conns {
					m.unblock(l, v, c)
				}
				work(l)
				m.settle(e, ch)
				if m.complete(ch) {
					break
				}
				time.Sleep(500 * time.Millisecond)
			}
			if !m.complete(ch) {
				t.Error("somebody is still to be given something")
			}
			checkKeys(t, ch.ch)
			for _, r := range m.readers {
				pages += r.pages
				m.wantOrder(r)
				r.conn.Cut()
			}
			work(l)
			e.telling.Wait()
			ch.Close()
			if n := e.logBytes.Load() + e.privateBytes.Load() + e.subscribers.Load(); n != 0 {
				t.Errorf("%d bytes and subscriptions are left in the end", n)
			}
			skipped, paced, passed = skipped+m.skipped, paced+m.paced, passed+float64(e.metrics.conflated.Load())
		})
	}
	t.Logf("%d items left out (%v counted), %d given at a rate, %d pages", skipped, passed, paced, pages)
	if skipped == 0 || paced == 0 || pages == 0 {
		t.Error("nothing was left out, nobody had a rate, or nobody fell behind: the test shows nothing")
	}
}

// unblock is what the kernel's word does that a socket takes something.
func (m *model) unblock(l *loop, v *valve, c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocked {
		c.blocked = false
		l.now = l.engine.now()
		v.flush(l, c)
	}
}

// check looks at what is true whenever the loop has nothing to do: who could be
// given something has been.
func (m *model) check(e *Engine, ch handle) {
	checkKeys(m.t, ch.ch)
	now := e.now()
	for c, r := range m.readers {
		if c.blocked || len(c.subs) == 0 {
			continue
		}
		member := c.subs[0].members[0]
		switch rests := member.resting(); {
		case rests && now > member.conflates.next+wheelTick:
			m.t.Fatalf("a reader still rests %v after its time", now-member.conflates.next)
		case !rests && member.cursor+1 != ch.ch.next && member.status == Ready && !c.queued:
			m.t.Fatalf("a reader with rate %v is at %d of %d, and nothing keeps it", r.every, member.cursor, ch.ch.next-1)
		}
	}
}

func (m *model) complete(ch handle) bool {
	for c := range m.readers {
		if len(c.subs) == 0 || c.out != nil || c.subs[0].members[0].cursor+1 != ch.ch.next {
			return false
		}
	}
	return true
}

// wantOrder checks that what a reader was sent is whole items, each later than the
// one before, and the newest of each key among them at least.
func (m *model) wantOrder(r *modelReader) {
	p := &peer{t: m.t, conn: r.conn}
	p.understand(strings.NewReader(string(r.wire)))
	var content []byte
	buf := make([]byte, 1<<10)
	for {
		n, err := p.body.Read(buf)
		content = append(content, buf[:n]...)
		if err != nil { // there is no end
			break
		}
	}
	form := Stream
	if r.conn.framing == Framed {
		form = Message
	}
	last, got := 0, make(map[int]bool)
	for _, word := range strings.Fields(string(content)) {
		n, err := strconv.Atoi(strings.TrimRight(word, "."))
		if err != nil || n <= last || n >= len(m.items) || !m.items[n].has[form] {
			m.t.Fatalf("got %q behind item %d", word, last)
		}
		last, got[n] = n, true
	}
	if r.pages > 0 {
		return
	}
	for n, it := range m.items[1:] {
		if it.has[form] && !it.stale && !got[n+1] {
			m.t.Errorf("item %d of key %q never came", n+1, it.key)
		}
	}
}

// BenchmarkConflate is ten items at a time, of which two have the same key, to
// connections that keep up, and to such that are thirty times as much behind,
// without system calls.
func BenchmarkConflate(b *testing.B) {
	for _, rounds := range []int{1, 30} {
		for _, kind := range []string{"plain", "conflating"} {
			b.Run(fmt.Sprintf("kind=%s/size=128/items=%d/connections=1000", kind, 10*rounds), func(b *testing.B) {
				e, l, chans := sunk(b, 1, 0)
				for range 1000 {
					c := e.newConn(l, Options{Owner: newPeer(b), Framing: Chunked, WriteTimeout: time.Minute})
					c.Start()
					w := wanted(channelName(0))
					w[0].Conflate = kind == "conflating"
					if _, ok := c.Hold(Hold{Wants: w, OpenOnly: true}); !ok {
						b.Fatal("not attached")
					}
				}
				work(l)
				content, keys := []byte(strings.Repeat("x", 128)), []byte("012345678")
				before := l.items.Load()
				b.ReportAllocs()
				for b.Loop() {
					for range rounds {
						chans[0].(handle).Write(func(out grip.Batch) {
							for i := range 10 {
								out.Add(grip.Entry{Stream: append(out.Stream(len(content)), content...), Key: keys[i%9 : i%9+1]})
							}
						})
					}
					work(l)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/connection")
				b.ReportMetric(float64(l.items.Load()-before)/float64(b.N*1000), "items/connection")
			})
		}
	}
}
