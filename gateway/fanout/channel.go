package fanout

import (
	"iter"
	"sort"
	"sync"
	"time"

	"spillway/grip"
)

// A channel is one log and those who read it.
type channel struct {
	engine *Engine
	name   string
	ids    grip.IDs // nil: foreign

	sequence   sequence   // of foreign channels
	publishing sync.Mutex // held while items are written; taken before mu

	mu      sync.Mutex
	segs    []*segment // oldest first
	next    uint64     // sequence number of the next item
	class   int        // capacity of the next segment's byte slices
	bytes   int64      // cost of all segs
	keys    *keys      // nil: nobody conflates
	sealed  int32      // segs[:sealed] hold nothing of the newest batch
	writing bool       // someone writes behind the end of the last of segs
	dead    bool       // no longer the engine's; nothing is appended any more

	lanes   []lane   // the readers, by who writes for them; nil: there never was one
	readers int      // members of all lanes
	coders  *coders  // nil: nobody wants anything compressed
	pulling *pulling // of lane 0; nil: nobody ever waited there

	// Of foreign channels only.
	lastID    string            // of the newest item; empty when it had none
	byID      map[string]uint64 // newest item of each id in the log; made when first asked for
	follow    string            // the id that the next item has to follow; empty: any does
	idleSince time.Duration     // when the last member left, or the last item came

	lingerUntil time.Duration // until when a long poll that has left counts as a subscriber
}

// A lane is the members of a channel that one loop writes for. The first lane
// of a channel is of those who come for items themselves ([Engine.Subscribe]).
// Guarded by the channel's lock.
type lane struct {
	ch      *channel
	loop    *loop // nil: the first
	members []*member

	// How far the loop is with giving the members what is new.
	queued bool // the loop has it to do, or is at it
	again  bool // there is more since it began
	at     int  // the next member
	left   int  // how many are to be looked at; 0: not begun

	// The loop's own, on the engine's clock.
	begun     time.Duration // when the round began; 0: it has not
	took      time.Duration // how long the last one took
	notBefore time.Duration // when the next one may
}

// pulling is who waits for the next item in the first lane.
type pulling struct {
	parked []*member
	spare  []*member // an empty slice to be parked in
}

func newChannel(e *Engine, name string, ids grip.IDs) *channel {
	return &channel{engine: e, name: name, ids: ids, next: 1, class: firstSegmentBytes, idleSince: e.now()}
}

func (ch *channel) foreign() bool { return ch.ids == nil }

// append adds items in order, wakes who waited for them, and evicts what is
// over the limits. It returns the number of the last item; ok is false when the
// channel is dead and took nothing.
func (ch *channel) append(items []grip.Item) (last uint64, ok bool) {
	return ch.write(func(w *writer) {
		for i := range items {
			w.item(&items[i], ch.foreign())
		}
	})
}

// write does so with the items that fill adds.
func (ch *channel) write(fill func(*writer)) (last uint64, ok bool) {
	e := ch.engine
	ch.publishing.Lock()
	defer ch.publishing.Unlock()

	ch.mu.Lock()
	if ch.dead {
		defer ch.mu.Unlock()
		return ch.next - 1, false
	}
	now := e.now()
	ch.writing = true
	w := ch.begin(now)
	ch.mu.Unlock()

	fill(w)

	ch.mu.Lock()
	ch.writing = false
	if ch.dead || w.count == 0 {
		defer ch.mu.Unlock()
		defer w.release()
		return ch.next - 1, !ch.dead
	}
	w.publish()
	e.metrics.appended.Add(int64(w.count))
	ch.limit(now)
	last = ch.next - 1
	woken := ch.unpark()
	asleep := ch.markDirty()
	ch.mu.Unlock()

	w.release()
	wake(woken)
	ch.reuse(woken)
	e.rouse(asleep)
	e.enforce()
	return last, true
}

// seal hands the segments that are complete to the engine's order of eviction.
// It is called when a new batch begins, so that the newest batch never is in it.
func (ch *channel) seal() {
	for int(ch.sealed) < len(ch.segs)-1 {
		ch.engine.order.push(ch.segs[ch.sealed])
		ch.sealed++
	}
}

// account sets what segment s costs.
func (ch *channel) account(s *segment, cost int64) {
	delta := cost - s.cost
	s.cost = cost
	ch.bytes += delta
	ch.engine.logBytes.Add(delta)
}

// limit evicts what is beyond the limits of one channel: bytes spare the newest
// batch, age spares nothing.
func (ch *channel) limit(now time.Duration) {
	e := ch.engine
	for ch.bytes > e.cfg.ChannelLogBytes && len(ch.segs) > 1 && ch.sealed > 0 {
		young := now-ch.segs[0].newest < e.cfg.ChannelLogMinAge
		if young && e.logBytes.Load() < e.cfg.LogMemory/2 || !ch.evict(evictedForBytes) {
			break
		}
	}
	for len(ch.segs) > 0 && now-ch.segs[0].newest > e.cfg.ChannelLogAge && ch.evict(evictedForAge) {
	}
}

// evict drops the oldest segment. Members that were not given all of it first
// learn the id of the last item that they were given. It reports false where
// the segment is in use at this moment: being written to, or to a socket.
func (ch *channel) evict(why evictReason) bool {
	s := ch.segs[0]
	if ch.writing && len(ch.segs) == 1 || ch.engine.inFlight(s) {
		return false
	}
	for i := range ch.lanes {
		ln := &ch.lanes[i]
		for j := len(ln.members) - 1; j >= 0; j-- {
			if m := ln.members[j]; m.cursor < s.last() && !m.passOver(s) {
				ch.expel(m, Behind)
				ch.engine.metrics.fellBehind.Add(1)
			}
		}
	}
	ch.drop(s, why)
	ch.segs[0] = nil
	ch.segs = ch.segs[1:]
	if len(ch.segs) == 0 {
		ch.segs, ch.class = nil, firstSegmentBytes
	}
	return true
}

// drop takes a segment out of the accounts; the caller takes it out of segs.
func (ch *channel) drop(s *segment, why evictReason) {
	e := ch.engine
	e.metrics.evicted[why].Add(int64(len(s.items)))
	if ch.sealed > 0 {
		ch.sealed--
		e.order.remove(s)
	}
	for i, id := range s.ids {
		if seq, ok := ch.byID[id.id]; ok && seq == s.first+uint64(i) {
			delete(ch.byID, id.id)
		}
	}
	ch.dropKeys(s)
	ch.account(s, 0)
}

// retained returns the numbers of the oldest and newest item in the log.
func (ch *channel) retained() (first, last uint64) {
	first = ch.next
	if len(ch.segs) > 0 {
		first = ch.segs[0].first
	}
	return first, ch.next - 1
}

// find returns the segment that holds item seq, which is in the log, and where.
func (ch *channel) find(seq uint64) (*segment, int) {
	n := len(ch.segs)
	i := n - 1
	if ch.segs[i].first > seq {
		i = sort.Search(n, func(i int) bool { return ch.segs[i].first > seq }) - 1
	}
	return ch.segs[i], int(seq - ch.segs[i].first)
}

// after returns the segment behind s; nil when s is the last.
func (ch *channel) after(s *segment) *segment {
	if next := s.last() + 1; next < ch.next {
		s, _ = ch.find(next)
		return s
	}
	return nil
}

// seqOf returns the newest item with this id, or the place of the one before the
// log, if that had it. Foreign channels only.
func (ch *channel) seqOf(id string) (uint64, bool) {
	if ch.byID == nil {
		ch.byID = make(map[string]uint64)
		for _, s := range ch.segs {
			for i, item := range s.ids {
				if item.id != "" {
					ch.byID[item.id] = s.first + uint64(i)
				}
			}
		}
	}
	if seq, ok := ch.byID[id]; ok {
		return seq, true
	}
	if len(ch.segs) > 0 && id != "" {
		if oldest := ch.segs[0]; len(oldest.ids) > 0 && oldest.ids[0].prev == id {
			return oldest.first - 1, true
		}
	}
	return 0, false
}

// followers is how many items are looked at for one that follows an id.
const followers = 1000

// seqBefore returns the place in front of the newest item that follows one with
// this id, which need not be in the log. Foreign channels only.
func (ch *channel) seqBefore(id string) (uint64, bool) {
	left := followers
	if id == "" { // what follows nothing is called so, too
		return 0, false
	}
	for i := len(ch.segs) - 1; i >= 0; i-- {
		s := ch.segs[i]
		for j := len(s.items) - 1; j >= 0 && left > 0; j, left = j-1, left-1 {
			if s.ids[j].prev == id {
				return s.first + uint64(j) - 1, true
			}
		}
	}
	return 0, false
}

// join makes m a member that was given everything up to seq.
func (ch *channel) join(m *member, seq uint64) {
	if ch.lanes == nil {
		ch.lanes = make([]lane, 1+len(ch.engine.loops))
		for i := range ch.lanes {
			ch.lanes[i].ch = ch
			if i > 0 {
				ch.lanes[i].loop = ch.engine.loops[i-1]
			}
		}
	}
	m.ch, m.cursor, m.attached, m.status = ch, seq, seq, Ready
	if c := m.sub.conn; c != nil && c.code != nil && ch.coders == nil {
		ch.coders = new(coders)
	}
	if ch.foreign() && ch.readers == 0 {
		ch.first()
	}
	ln := ch.lane(m)
	m.index = int32(len(ln.members))
	ln.members = append(ln.members, m)
	if ln.left > 0 { // or another would have no turn for this one's
		ln.left++
	}
	ch.readers++
	ch.engine.subscribers.Add(1)
	if m.conflates != nil {
		ch.joinKeys()
	}
}

// first is what the first subscription of a foreign channel brings with it.
func (ch *channel) first() {
	now, after := ch.engine.now(), ch.engine.cfg.FirstUpdate
	if ch.present(now) {
		return
	}
	ch.follow = ""
	if after > 0 {
		ch.engine.agenda.add(now+after, ch, updateFirst)
	}
}

// subscribers is how many members there are.
func (ch *channel) subscribers() int {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.readers
}

// lane is the one that m is in, or belongs to.
func (ch *channel) lane(m *member) *lane {
	if c := m.sub.conn; c != nil {
		return &ch.lanes[1+c.loop.index]
	}
	return &ch.lanes[0]
}

// all iterates over the members of all lanes.
func (ch *channel) all() iter.Seq[*member] {
	return func(yield func(*member) bool) {
		for i := range ch.lanes {
			for _, m := range ch.lanes[i].members {
				if !yield(m) {
					return
				}
			}
		}
	}
}

// leave ends m's membership. Leaving twice is fine.
func (ch *channel) leave(m *member) {
	if m.index < 0 {
		return
	}
	if m.parked.Load() {
		p := ch.pulling
		n := len(p.parked) - 1
		p.parked[n].parkedAt = m.parkedAt
		p.parked[m.parkedAt] = p.parked[n]
		p.parked[n] = nil
		p.parked = p.parked[:n]
		m.parked.Store(false)
	}
	ln := ch.lane(m)
	n := len(ln.members) - 1
	moved := ln.members[n]
	moved.index = m.index
	ln.members[m.index] = moved
	ln.members[n] = nil
	ln.members = ln.members[:n]
	if ln.loop != nil && ln.left > 0 && moved != m {
		ln.again = true // it may have come to where the loop has been already
	}
	m.index = -1
	ch.readers--
	ch.engine.subscribers.Add(-1)
	if m.conflates != nil {
		ch.leaveKeys()
	}
	now := ch.engine.now()
	if m.sub.form == Response {
		ch.lingerUntil = now + ch.engine.cfg.Linger
	}
	if ch.readers == 0 {
		ch.idleSince = now
		if !ch.present(now) {
			ch.follow = ""
		}
	}
}

// expel ends a membership from the channel's side, and tells the subscriber why.
func (ch *channel) expel(m *member, why Status) {
	if !m.hinted { // else it has yet to go and ask for what the hint was about
		m.id, m.hasID = m.lastID()
	}
	m.status = why
	ch.leave(m)
	m.sub.wakeUp()
}

// park makes m wait for the next item.
func (ch *channel) park(m *member) {
	if ch.pulling == nil {
		ch.pulling = new(pulling)
	}
	p := ch.pulling
	m.parkedAt = int32(len(p.parked))
	p.parked = append(p.parked, m)
	m.parked.Store(true)
}

// unpark returns the members that wait, who now do not any more. They are woken
// without the lock: waking ten thousand takes longer than appending.
func (ch *channel) unpark() []*member {
	p := ch.pulling
	if p == nil {
		return nil
	}
	woken := p.parked
	p.parked, p.spare = p.spare, nil
	for _, m := range woken {
		m.parked.Store(false)
	}
	return woken
}

func wake(members []*member) {
	for _, m := range members {
		m.sub.wakeUp()
	}
}

// reuse takes back a slice that unpark gave out.
func (ch *channel) reuse(woken []*member) {
	if cap(woken) == 0 {
		return
	}
	clear(woken)
	ch.mu.Lock()
	if p := ch.pulling; p != nil && p.spare == nil && ch.readers > 0 {
		p.spare = woken[:0]
	}
	ch.mu.Unlock()
}

// markDirty gives the loops their lanes to do, and returns those that must be
// roused for it, a bit for each.
func (ch *channel) markDirty() (asleep uint64) {
	for i := range ch.lanes {
		ln := &ch.lanes[i]
		switch {
		case ln.loop == nil || len(ln.members) == 0:
		case ln.queued:
			ln.again = ln.left > 0
		default:
			ln.queued = true
			if ln.loop.pushLane(ln) {
				asleep |= 1 << ln.loop.index
			}
		}
	}
	return asleep
}

// retire makes the channel dead, sends every member off with part, and drops
// the log. It reports false when the channel was dead already.
func (ch *channel) retire(part func(*member)) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.dead {
		return false
	}
	ch.dead = true
	for i := range ch.lanes {
		for ln := &ch.lanes[i]; len(ln.members) > 0; {
			part(ln.members[len(ln.members)-1])
		}
	}
	for len(ch.segs) > 0 {
		ch.drop(ch.segs[0], evictedWithChannel)
		ch.segs = ch.segs[1:]
	}
	ch.segs, ch.byID, ch.pulling, ch.keys = nil, nil, nil, nil
	return true
}

// replace retires a channel whose name another one has taken. Members of a
// foreign one go on at the other's beginning. Those of an open one learn that it
// was closed; its ids are asked when they come for it, not now: see
// grip.Gateway.Open.
func (ch *channel) replace() {
	ch.retire(func(m *member) {
		m.status = movedOn
		if !ch.foreign() {
			m.status = closedUnnamed
		}
		ch.leave(m)
		m.sub.wakeUp()
	})
}

// A handle is the door of an open channel's publisher.
type handle struct{ ch *channel }

func (h handle) Append(items []grip.Item) uint64 {
	last, _ := h.ch.append(items)
	return last
}

func (h handle) Write(write func(grip.Batch)) uint64 {
	last, _ := h.ch.write(func(w *writer) { write(w) })
	return last
}

func (h handle) Retained() (first, last uint64) {
	h.ch.mu.Lock()
	defer h.ch.mu.Unlock()
	return h.ch.retained()
}

func (h handle) Subscribers() int { return h.ch.subscribers() }

func (h handle) Close() {
	if h.ch.retire(func(m *member) { h.ch.expel(m, Closed) }) {
		h.ch.engine.forget(h.ch)
	}
}
