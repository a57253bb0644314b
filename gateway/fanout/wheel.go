package fanout

import (
	"math"
	"sync"
	"time"
)

// A wheel knows which connections have something due. Each is in it at most
// once, at the earliest moment of all that it waits for; what has moved to a later
// moment meanwhile is found out when the time comes. So a write moves nothing
// here, however often it puts a keep-alive off.
type wheel struct {
	mu    sync.Mutex
	slots [wheelSlots]*Conn // each the head of a list; guarded by mu, as are the links in the connections
	count int               // guarded by mu
	at    int64             // the tick up to which slots are empty; guarded by mu
	until int64             // the tick for which the loop waits; 0: it works; guarded by mu
}

const (
	// wheelTick is how exact the wheel is, and wheelSlots how far it reaches:
	// what is due later comes up at the end of its reach, and goes in again.
	wheelTick  = 10 * time.Millisecond
	wheelSlots = 1024
)

// never is a due time that does not come.
const never = time.Duration(1<<63 - 1)

// add puts c in at the moment due, or leaves it where it is when that is
// earlier. It reports that the loop waits for longer.
func (w *wheel) add(c *Conn, due time.Duration) (early bool) {
	if due == never {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	tick := int64((due + wheelTick - 1) / wheelTick)
	tick = max(min(tick, w.at+wheelSlots-1), w.at)
	if c.ticking {
		if w.ticksTo(c.slot) <= tick-w.at {
			return false
		}
		w.unlink(c)
	}
	c.slot, c.ticking = int32(tick%wheelSlots), true
	slot := &w.slots[c.slot]
	c.earlier, c.later = nil, *slot
	if *slot != nil {
		(*slot).earlier = c
	}
	*slot = c
	w.count++
	return tick < w.until
}

// ticksTo is how many ticks it is until a slot's turn.
func (w *wheel) ticksTo(slot int32) int64 {
	return (int64(slot) - w.at%wheelSlots + wheelSlots) % wheelSlots
}

// remove takes c out; removing what is not in is fine.
func (w *wheel) remove(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.ticking {
		w.unlink(c)
	}
}

func (w *wheel) unlink(c *Conn) {
	if c.earlier != nil {
		c.earlier.later = c.later
	} else {
		w.slots[c.slot] = c.later
	}
	if c.later != nil {
		c.later.earlier = c.earlier
	}
	c.earlier, c.later, c.ticking = nil, nil, false
	w.count--
}

// expired appends at most cap(dst) connections whose moment has come to dst, and
// takes them out.
func (w *wheel) expired(dst []*Conn, now time.Duration) []*Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = 0
	until := int64(now / wheelTick)
	for ; w.at <= until && w.count > 0; w.at++ {
		slot := &w.slots[w.at%wheelSlots]
		for *slot != nil {
			if len(dst) == cap(dst) {
				return dst
			}
			c := *slot
			w.unlink(c)
			dst = append(dst, c)
		}
	}
	w.at = max(w.at, until)
	return dst
}

// wait is how long it is until something may be due; never if nothing is in. The
// loop waits as long, or is told by add.
func (w *wheel) wait(now time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count == 0 {
		w.until = math.MaxInt64
		return never
	}
	tick := w.at
	for w.slots[tick%wheelSlots] == nil {
		tick++
	}
	w.until = tick
	return max(time.Duration(tick)*wheelTick-now, 0)
}
