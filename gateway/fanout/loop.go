package fanout

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A loop writes for some connections: it takes the lanes of channels that have
// something new, and gives each of their connections all that is new for it in
// one system call. There is one per core that owns bare descriptors
// (shard_linux.go), and one for all other connections, which starts goroutines
// (portable.go).
//
// A loop that is busy batches by itself: a lane that gets more while the loop is
// at it is gone through once more, whatever how much has come, and each
// connection is given all there is when its turn comes. After rounds that took
// long the lane rests (pause). A lane that was quiet is gone through at once.
type loop struct {
	engine *Engine
	index  int
	mech   mechanism
	wheel  wheel

	mu     sync.Mutex
	lanes  []*lane // to go through; guarded by mu
	conns  []*Conn // to look at; guarded by mu
	asleep bool    // guarded by mu
	done   bool    // guarded by mu: nobody works on the lists any more

	// The loop's own.
	now      time.Duration // on the engine's clock, as of not long ago
	round    []*lane       // lanes that it is at
	earliest time.Duration // when the first of those that rest goes on; or never
	spare    []*Conn
	some     []*Conn // whose turn it is; at most sweepChunk
	over     []*lane // of which the last have their turn
	ended    []*Conn // that were found closed in their turn
	scratch  []byte
	batch    Batch // that a shard is writing
	random   *rand.Rand

	draining    atomic.Bool            // all connections are to be told that they end
	census      atomic.Pointer[census] // a step that somebody waits for; nil: none
	stopped     chan struct{}          // closed when run has returned
	connections atomic.Int64
	size        atomic.Int64 // of all of them, in bytes

	// What was written. Only this loop's connections add to it.
	writes, items, bytes, blocked atomic.Int64

	// writing are the segments of which a shard writes bytes at this moment: the
	// first pins of them, of which only the loop knows the number.
	writing [sweepChunk + 1]atomic.Pointer[segment]
	pins    int
}

// A mechanism is how a loop waits and writes.
type mechanism interface {
	// begin is called on the loop before anything else.
	begin(l *loop) error
	// wait returns when there may be something to do, at the latest after d; 0:
	// at once, having looked.
	wait(l *loop, d time.Duration)
	// wake ends a wait, or the next one. It may be called from anywhere.
	wake()
	// admit gets a connection that is new.
	admit(l *loop, c *Conn)
	// flush writes what there is for a connection. It is called with c.mu.
	flush(l *loop, c *Conn)
	// flushAll does so for several, without it, which may be the same twice. It
	// adds those that are closed to l.ended.
	flushAll(l *loop, conns []*Conn)
	// read takes what the client of a WebSocket has said, after a pause.
	read(l *loop, c *Conn)
	// close closes a connection that was admitted, or only forgets it where it
	// was returned. Closing twice is fine while something is being written.
	close(l *loop, c *Conn)
	// each calls f for all connections that are admitted and not closed; f may
	// close them.
	each(f func(c *Conn))
	// end releases what begin has taken.
	end()
}

const (
	// sweepChunk is how many connections get their turn together, and how many of
	// one lane before another lane does.
	sweepChunk = 64
	// pollEvery is how long a busy loop works before it looks whether clients
	// have left, said something, or take something again.
	pollEvery = 2 * time.Millisecond
)

func newLoop(e *Engine, index int, mech mechanism) *loop {
	return &loop{engine: e, index: index, mech: mech, earliest: never, some: make([]*Conn, 0, sweepChunk), stopped: make(chan struct{}),
		random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
}

// pushLane gives the loop a lane to go through; it reports that the loop must be
// roused.
func (l *loop) pushLane(ln *lane) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lanes = append(l.lanes, ln)
	return l.wasAsleep()
}

// push gives the loop a connection to look at; it reports that the loop must be
// roused.
func (l *loop) push(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.queued || l.done {
		return false
	}
	c.queued = true
	l.conns = append(l.conns, c)
	return l.wasAsleep()
}

func (l *loop) wasAsleep() bool {
	was := l.asleep
	l.asleep = false
	return was
}

// rouse wakes the loop, which push or pushLane has said is necessary.
func (l *loop) rouse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done { // what it waits on may be gone
		l.mech.wake()
	}
}

// nudge makes the loop look whether it is to stop or to drain.
func (l *loop) nudge() {
	l.mu.Lock()
	asleep := l.wasAsleep()
	l.mu.Unlock()
	if asleep {
		l.rouse()
	}
}

// run works until stopping is closed. Then all connections are cut.
func (l *loop) run(stopping <-chan struct{}) error {
	defer close(l.stopped)
	if err := l.mech.begin(l); err != nil {
		return err
	}
	defer l.mech.end()
	polled := time.Duration(0)
	for {
		l.now = l.engine.now()
		if isClosed(stopping) {
			l.cutAll()
			return nil
		}
		if l.draining.CompareAndSwap(true, false) {
			l.mech.each(func(c *Conn) { c.EndAt(l.engine.started.Add(l.now + l.engine.drainDelay())) })
		}
		l.count()
		l.expire()
		busy := l.work()
		if busy {
			if l.now-polled < pollEvery {
				continue
			}
			polled = l.now
			l.mech.wait(l, 0)
			continue
		}
		l.mu.Lock()
		idle := len(l.lanes) == 0 && len(l.conns) == 0 && !l.draining.Load() && l.census.Load() == nil && !isClosed(stopping)
		l.asleep = idle
		l.mu.Unlock()
		if idle {
			d := l.wheel.wait(l.now)
			if l.earliest != never {
				d = min(d, max(l.earliest-l.now, 0))
			}
			l.mech.wait(l, d)
			polled = l.engine.now()
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// expire does what is due.
func (l *loop) expire() {
	for {
		due := l.wheel.expired(l.some, l.now)
		rested := due[:0]
		for _, c := range due {
			if c.tickAt(l.now) {
				rested = append(rested, c)
			}
		}
		clear(due[len(rested):])
		l.some = rested
		l.give()
		if len(due) < cap(due) {
			return
		}
	}
}

// work looks at the connections that ask for it, and gives one turn to each
// lane. It reports whether there is more to do.
func (l *loop) work() bool {
	l.mu.Lock()
	conns := l.conns
	l.conns = l.spare[:0]
	for _, c := range conns {
		c.queued = false
	}
	l.round = append(l.round, l.lanes...)
	clear(l.lanes)
	l.lanes = l.lanes[:0]
	l.mu.Unlock()

	for _, c := range conns {
		l.look(c)
	}
	clear(conns)
	l.spare = conns

	busy := len(conns) > 0
	l.earliest = never
	left := l.round[:0]
	for i, ln := range l.round {
		more := true
		if ln.begun == 0 && l.now < ln.notBefore {
			l.earliest = min(l.earliest, ln.notBefore)
		} else {
			more = l.sweep(ln)
			busy = true
		}
		if more {
			left = append(left, ln)
		}
		if i%sweepChunk == sweepChunk-1 {
			l.now = l.engine.now()
		}
	}
	l.give()
	clear(l.round[len(left):])
	l.round = left
	return busy
}

// pause is how long a lane rests after a round that took d: three times as long,
// so that what comes meanwhile leaves in one write, but never longer than most.
// Rounds that are quick anyway need no rest.
func pause(d, most time.Duration) time.Duration {
	if d < time.Millisecond {
		return 0
	}
	return min(3*d, most)
}

// look does what a connection asks for.
func (l *loop) look(c *Conn) {
	c.mu.Lock()
	if !c.admitted && c.state < closed {
		c.admitted = true
		l.connections.Add(1)
		l.size.Add(c.size())
		if l.engine.drainWithin.Load() > 0 { // it may have come too late for the word to all
			c.endAt = min(c.endAt, l.now+l.engine.drainDelay())
			c.arm()
		}
		l.mech.admit(l, c)
	}
	l.mech.flush(l, c)
	resumed := c.client != nil && c.client.resumed
	if resumed {
		c.client.resumed = false
		c.mu.Unlock()
		l.mech.read(l, c)
		c.mu.Lock()
	}
	switch {
	case c.state != closed:
		c.mu.Unlock()
		return
	case c.pumping: // it will say when it has ended, which is now
		l.mech.close(l, c)
		c.mu.Unlock()
		return
	}
	c.state = gone
	c.mu.Unlock()
	l.wheel.remove(c)
	switch {
	case c.admitted:
		l.mech.close(l, c)
		l.connections.Add(-1)
		l.size.Add(-c.size())
	case c.ending != Returned:
		c.closeUnseen()
	}
	c.owner.Gone(c.ending)
}

// sweep gives the next members of a lane their turn, of whom there is something
// new. It reports whether the lane has more to do.
func (l *loop) sweep(ln *lane) bool {
	ch := ln.ch
	ch.mu.Lock()
	if ln.left == 0 { // it begins, not always with the same one
		ln.begun = l.now
		ln.again = false
		ln.left = len(ln.members)
		if ln.left > 1 {
			ln.at = l.random.IntN(ln.left)
		}
	}
	for len(l.some) < sweepChunk && ln.left > 0 {
		ln.left--
		if ln.at >= len(ln.members) {
			ln.at = 0
		}
		if ln.at < len(ln.members) {
			if m := ln.members[ln.at]; (m.cursor+1 < ch.next || m.action != nil) && !m.resting() {
				l.some = append(l.some, m.sub.conn)
			}
			ln.at++
		}
	}
	more := ln.left > 0 || ln.again
	if ln.left == 0 {
		l.over = append(l.over, ln)
	}
	ln.queued = more
	ch.mu.Unlock()
	if len(l.some) == sweepChunk {
		l.give()
	}
	return more
}

// give writes to those whose turn it is.
func (l *loop) give() {
	if len(l.some) > 0 {
		l.mech.flushAll(l, l.some)
		clear(l.some)
		l.some = l.some[:0]
		for _, c := range l.ended {
			l.look(c)
		}
		clear(l.ended)
		l.ended = l.ended[:0]
		l.now = l.engine.now()
	}
	for _, ln := range l.over {
		took := l.now - ln.begun
		// One long round may only mean that something else had the core.
		ln.notBefore = l.now + pause(min(took, ln.took), l.engine.cfg.MaxPause)
		ln.begun, ln.took = 0, took
	}
	clear(l.over)
	l.over = l.over[:0]
}

// flushEach is flushAll for mechanisms that write to one connection after the
// other.
func (l *loop) flushEach(conns []*Conn) {
	for _, c := range conns {
		c.mu.Lock()
		if !c.blocked && !c.pumping {
			l.mech.flush(l, c)
		}
		l.unlock(c)
	}
}

// unlock ends a connection's turn.
func (l *loop) unlock(c *Conn) {
	if c.state == closed {
		l.ended = append(l.ended, c)
	}
	c.mu.Unlock()
}

// pin keeps a segment in the log while a shard writes bytes of it: the cursor may
// still have to go back. It is called with the channel's lock.
func (l *loop) pin(s *segment) {
	if l.pins > 0 && l.writing[l.pins-1].Load() == s {
		return
	}
	l.writing[l.pins].Store(s)
	l.pins++
}

// unpin lets go of all but the first n.
func (l *loop) unpin(n int) {
	for l.pins > n {
		l.pins--
		l.writing[l.pins].Store(nil)
	}
}

// cutAll closes every connection. When it returns the loop has ended.
func (l *loop) cutAll() {
	for {
		l.mu.Lock()
		conns := l.conns
		l.conns = nil
		for _, c := range conns {
			c.queued = false
		}
		l.mu.Unlock()
		for _, c := range conns {
			c.Cut()
			l.look(c)
		}
		l.mech.each(func(c *Conn) {
			c.Cut()
			l.look(c)
		})
		l.mu.Lock()
		idle := len(l.conns) == 0
		l.done = idle && l.connections.Load() == 0
		l.asleep = idle && !l.done
		done, writing := l.done, l.asleep
		l.mu.Unlock()
		switch {
		case done:
			return
		case writing: // it is cut off, and says when it has noticed
			l.mech.wait(l, never)
		}
	}
}

// hasEnded reports whether nobody looks at connections any more.
func (l *loop) hasEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}
