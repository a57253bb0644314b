package fanout

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever the order in which moments are added and time passes, a connection
// comes up in the tick of its moment, or at the end of the wheel's reach, and none
// is forgotten.
func TestWheel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	reach := wheelTick * (wheelSlots - 1)
	var w wheel
	due := make(map[*Conn]time.Duration)
	added := make(map[*Conn]time.Duration)
	conns := make([]*Conn, 500)
	for i := range conns {
		conns[i] = new(Conn)
	}
	var now time.Duration
	far := 0
	for range 20_000 {
		c := conns[random.IntN(len(conns))]
		switch random.IntN(10) {
		case 0:
			w.remove(c)
			delete(due, c)
		case 1, 2, 3, 4, 5:
			at := now + time.Duration(random.Int64N(int64(time.Second)))
			if random.IntN(5) == 0 {
				at = now - time.Second + time.Duration(random.Int64N(int64(30*time.Second)))
			}
			before, in := due[c]
			if early := w.add(c, at); early {
				t.Fatal("the loop waits for longer, but it does not wait")
			}
			if !in || at < before {
				due[c], added[c] = at, now
			}
			w.add(c, never)
		default:
			wait := w.wait(now)
			for c, at := range due {
				if latest := max(at-now, 0) + wheelTick; wait > latest {
					t.Fatalf("wait %v, but a connection is due in %v", wait, at-now)
				}
				if early := w.add(c, at); early {
					t.Fatal("what is in already is earlier than what the loop waits for")
				}
			}
			if other := new(Conn); wait > 2*wheelTick {
				if !w.add(other, now+wait-2*wheelTick) {
					t.Fatal("nothing told that the loop waits for too long")
				}
				w.remove(other)
			}
			switch random.IntN(20) {
			case 0:
				now += 20 * time.Second
			default:
				now += time.Duration(random.Int64N(int64(100 * time.Millisecond)))
			}
			var some [7]*Conn
			for {
				expired := w.expired(some[:0], now)
				for _, c := range expired {
					at, in := due[c]
					switch {
					case !in:
						t.Fatal("a connection came up that was not in")
					case at > now && added[c]+reach > now+2*wheelTick:
						t.Fatalf("a connection came up %v too early, within reach", at-now)
					case at > now:
						far++
					}
					delete(due, c)
				}
				if len(expired) < cap(some) {
					break
				}
			}
			for c, at := range due {
				if late := now - max(at, added[c]); late > wheelTick {
					t.Fatalf("a connection that was due %v ago is still in", late)
				}
			}
		}
	}
	if far == 0 {
		t.Error("no moment was out of reach: the test shows nothing")
	}
	if w.count != len(due) {
		t.Errorf("count: got %d, want %d", w.count, len(due))
	}
	for c := range due {
		w.remove(c)
		w.remove(c)
	}
	if got := w.wait(now); got != never {
		t.Errorf("an empty wheel waits %v", got)
	}
	if !w.add(new(Conn), now+time.Hour) {
		t.Error("nothing told that the loop waits for ever")
	}
}
