package fanout

import (
	"fmt"
	"testing"
	"time"

	"spillway/grip"
)

// named is an item with an id that follows prev; its content is the id.
func named(id, prev string) grip.Item {
	it := foreignItem("a", id, prev, id+" ")
	it.WSMessage = &grip.WSMessage{Content: it.HTTPStream.Content}
	return it
}

// In one request or in several, items go in the order that their ids tell.
func TestSequence(t *testing.T) {
	noSeq := named("3", "2")
	noSeq.NoSeq = true
	for _, tt := range []struct {
		name  string
		items []grip.Item
		want  string // before anything is overdue
	}{
		{"in order", []grip.Item{named("1", ""), named("2", "1"), named("3", "2")}, "1 2 3 "},
		{"one is late", []grip.Item{named("1", ""), named("3", "2"), named("2", "1")}, "1 2 3 "},
		{"several are", []grip.Item{named("1", ""), named("4", "3"), named("3", "2"), named("2", "1"), named("5", "4")}, "1 2 3 4 5 "},
		{"the first of all", []grip.Item{named("5", "4"), named("6", "5")}, "5 6 "},
		{"without an id nothing is known", []grip.Item{named("1", ""), named("", ""), named("9", "8")}, "1  9 "},
		{"without a prev-id it follows", []grip.Item{named("1", ""), named("5", ""), named("6", "5")}, "1 5 6 "},
		{"no-seq waits for nothing", []grip.Item{named("1", ""), noSeq, named("4", "3")}, "1 3 4 "},
		{"one waits for each", []grip.Item{named("1", ""), named("3", "2"), named("3b", "2"), named("2", "1")}, "1 2 3 "},
		{"one never comes", []grip.Item{named("1", ""), named("3", "2"), named("4", "3")}, "1 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, together := range []bool{true, false} {
				e := newEngine(t, Config{})
				s := subscribe(t, e, Stream, Want{Channel: "a"})
				if together {
					publish(t, e, tt.items...)
				} else {
					for _, it := range tt.items {
						publish(t, e, it)
					}
				}
				got := ""
				for b, status := s.Next(1000); status == Ready; b, status = s.Next(1000) {
					got += string(contents(b))
				}
				if got != tt.want {
					t.Errorf("together %t: got %q, want %q", together, got, tt.want)
				}
			}
		})
	}
}

// What waits in vain goes in the end, to connections of each kind.
func TestSequenceOverdue(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		cfg.MessageWait = 20 * time.Millisecond
		r := newRig(t, cfg)
		p := r.take(Options{Framing: framing})
		p.hold(Hold{Wants: wanted("a")})
		publish(t, r.Engine, named("1", ""), named("3", "2"), named("4", "3"), named("6", "5"))
		p.want("1 3 4 6 ")
		publish(t, r.Engine, named("7", "6"))
		p.want("7 ")
	})
}

// Nobody is there whose items could be in order.
func TestSequenceWithoutSubscribers(t *testing.T) {
	e := newEngine(t, Config{})
	s := subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("1", ""))
	s.Close()
	s = subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("9", "8"))
	wantNext(t, s, "9 ", Ready)

	poll := subscribe(t, e, Response, Want{Channel: "a"}) // it counts for a while
	s.Close()
	poll.Close()
	s = subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("12", "11"), named("11", "10"), named("10", "9"))
	wantNext(t, s, "10 11 12 ", Ready)
	s.Close()

	// What was published in between is not what the next has to follow, even if
	// the last subscriber left just when something was.
	e = newEngine(t, Config{})
	s = subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("1", ""))
	s.Close()
	ch := e.channels["a"]
	ch.follow = "1"
	publish(t, e, named("2", "1"))
	s = subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("3", "2"))
	wantNext(t, s, "3 ", Ready)
}

func TestSequenceIsBounded(t *testing.T) {
	e := newEngine(t, Config{})
	s := subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("0", ""))
	for i := range maxWaiting + 5 {
		publish(t, e, named(fmt.Sprint(2*i+2), fmt.Sprint(2*i+1)))
	}
	if got := e.metrics.outOfOrder[orderDropped].Load(); got != 5 {
		t.Errorf("dropped: got %d, want 5", got)
	}
	wantNext(t, s, "0 ", Ready)
	wantNext(t, s, "", Wait)
}

// What waits is bounded for all channels together, and not counted any more when it
// has left or its channel is gone.
func TestSequenceIsBoundedTogether(t *testing.T) {
	late := named("3", "2")
	e := newEngine(t, Config{WaitingMemory: 2*sizeOf(&late) + 1, MessageWait: time.Millisecond})
	subs := make([]*Subscriber, 3)
	for i, name := range []string{"a", "b", "c"} {
		subs[i] = subscribe(t, e, Stream, Want{Channel: name})
		first, late := named("1", ""), late
		first.Channel, late.Channel = name, name
		publish(t, e, first, late)
	}
	if got, want := e.waitingBytes.Load(), 2*sizeOf(&late); got != want {
		t.Errorf("waiting: got %d bytes, want %d", got, want)
	}
	if got := e.metrics.outOfOrder[orderDropped].Load(); got != 1 {
		t.Errorf("dropped: got %d, want 1", got)
	}
	publish(t, e, named("2", "1"))
	wantNext(t, subs[0], "1 2 3 ", Ready)
	if got, want := e.waitingBytes.Load(), sizeOf(&late); got != want {
		t.Errorf("one is in order: got %d bytes, want %d", got, want)
	}
	ch := e.channels["b"]
	ch.retire(ch.leave)
	overdueItems(ch, e.now()+time.Hour)
	if got := e.waitingBytes.Load(); got != 0 {
		t.Errorf("in the end: got %d bytes, want 0", got)
	}
}

// The first who subscribes to a channel is asked to ask, once; others are too who
// came meanwhile.
func TestFirstUpdate(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		cfg.FirstUpdate = time.Second // by when all three are there
		r := newRig(t, cfg)
		hold := func(h Hold) (*peer, *Subscriber) {
			p := r.take(Options{Framing: Chunked})
			return p, p.hold(h)
		}
		poll, first := hold(Hold{Form: Response, Wants: wanted("a", "3")})
		with, second := hold(Hold{Wants: wanted("a", "3")})
		without, _ := hold(Hold{Wants: wanted("a"), PassHints: true})
		poll.wantHeld(first, Hint)
		poll.wantRelease(first, false, grip.Last{Channel: "a", ID: "3"})
		with.wantHeld(second, Hint)
		with.wantRelease(second, false, grip.Last{Channel: "a", ID: "3"})
		publish(t, r.Engine, named("4", "3"))
		without.want("4 ")
	})
}

// A long poll that comes again is not the first.
func TestFirstUpdateOfPolls(t *testing.T) {
	e := newEngine(t, Config{FirstUpdate: time.Second})
	want := 1
	for range 3 {
		s := subscribe(t, e, Response, Want{Channel: "a"})
		if got := len(e.agenda.entries); got != want {
			t.Errorf("agenda: got %d entries, want %d", got, want)
		}
		s.Close()
	}
	for range 2 {
		s := subscribe(t, e, Stream, Want{Channel: "b"})
		if want++; len(e.agenda.entries) != want {
			t.Errorf("agenda: got %d entries, want %d", len(e.agenda.entries), want)
		}
		s.Close()
	}
}

// A hint that does not follow is a gap like any other item's.
func TestHintFollows(t *testing.T) {
	for _, tt := range []struct{ prev, want string }{{"3", "8"}, {"", "3"}, {"7", "3"}} {
		e := newEngine(t, Config{})
		s := subscribe(t, e, Stream, Want{Channel: "a", PrevID: "3", HasPrevID: true})
		publish(t, e, grip.Item{Channel: "a", ID: "8", PrevID: tt.prev, HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
		wantNext(t, s, "", Hint)
		wantLasts(t, s, grip.Last{Channel: "a", ID: tt.want})
	}
}

// A prev-id that is not in the log is where the item belongs that follows it; and
// where nothing came since the origin was asked for it, its word counts.
func TestAttachToUnknownID(t *testing.T) {
	e := newEngine(t, Config{})
	first := subscribe(t, e, Stream, Want{Channel: "a"})
	publish(t, e, named("5", "4"), named("6", "5"))
	want := Want{Channel: "a", PrevID: "4", HasPrevID: true}
	wantNext(t, subscribe(t, e, Stream, want), "5 6 ", Ready)

	marks := []Want{{Channel: "a"}}
	e.Marks(marks, false)
	want.PrevID = "9"
	if _, ok := e.Subscribe(Stream, []Want{want}, false); ok {
		t.Error("attached behind an id that nobody knows")
	}
	want.Since = marks[0].Mark
	s := subscribe(t, e, Stream, want)
	publish(t, e, named("7", "6"), named("10", "9"))
	wantNext(t, s, "", Behind)
	if _, ok := e.Subscribe(Stream, []Want{{Channel: "a", PrevID: "8", HasPrevID: true, Since: want.Since}}, false); ok {
		t.Error("attached behind an id that nobody knew before newer items came")
	}
	first.Close()
}
