package fanout

import (
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

	mu      sync.Mutex
	segs    []*segment // oldest first
	next    uint64     // sequence number of the next item
	class   int        // capacity of the next segment's byte slices
	bytes   int64      // cost of all segs
	sealed  int        // segs[:sealed] hold nothing of the newest batch
	members []*member
	parked  []*member // members that wait for the next item
	spare   []*member // an empty slice to be parked in
	dead    bool      // no longer the engine's; nothing is appended any more

	// Of foreign channels only.
	lastID    string            // of the newest item; empty when it had none
	byID      map[string]uint64 // newest item of each id in the log; made when first asked for
	idleSince time.Duration     // when the last member left, or the last item came
}

func newChannel(e *Engine, name string, ids grip.IDs) *channel {
	return &channel{engine: e, name: name, ids: ids, next: 1, class: firstSegmentBytes, idleSince: e.now()}
}

func (ch *channel) foreign() bool { return ch.ids == nil }

// append adds items in order, wakes who waited for them, and evicts what is
// over the limits. It returns the number of the last item; ok is false when the
// channel is dead and took nothing.
func (ch *channel) append(items []grip.Item) (last uint64, ok bool) {
	e := ch.engine
	ch.mu.Lock()
	if ch.dead {
		defer ch.mu.Unlock()
		return ch.next - 1, false
	}
	if len(items) == 0 {
		defer ch.mu.Unlock()
		return ch.next - 1, true
	}
	now := e.now()
	ch.seal()
	for i := range items {
		ch.add(&items[i], now)
	}
	if ch.foreign() {
		ch.lastID = items[len(items)-1].ID
		ch.idleSince = now
	}
	e.metrics.appended.Add(int64(len(items)))
	ch.limit(now)
	last = ch.next - 1
	woken := ch.unpark()
	ch.mu.Unlock()

	wake(woken)
	ch.reuse(woken)
	e.enforce()
	return last, true
}

// seal hands the segments that are complete to the engine's order of eviction.
// It is called when a new batch begins, so that the newest batch never is in it.
func (ch *channel) seal() {
	for ch.sealed < len(ch.segs)-1 {
		ch.engine.order.push(ch.segs[ch.sealed])
		ch.sealed++
	}
}

// add puts one item into the last segment, or a new one.
func (ch *channel) add(it *grip.Item, now time.Duration) {
	var s *segment
	if n := len(ch.segs); n > 0 && ch.segs[n-1].fits(it) {
		s = ch.segs[n-1]
	} else {
		s = &segment{ch: ch, first: ch.next}
		if n > 0 {
			ch.class = ch.engine.nextClass(ch.class)
		}
		ch.segs = append(ch.segs, s)
	}
	s.add(it, ch.class, ch.foreign())
	s.newest = now
	if ch.byID != nil && it.ID != "" {
		ch.byID[it.ID] = ch.next
	}
	ch.next++
	ch.account(s, s.memory())
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
		ch.evict(evictedForBytes)
	}
	for len(ch.segs) > 0 && now-ch.segs[0].newest > e.cfg.ChannelLogAge {
		ch.evict(evictedForAge)
	}
}

// evict drops the oldest segment. Members that were not given all of it first
// learn the id of the last item that they were given.
func (ch *channel) evict(why evictReason) {
	s := ch.segs[0]
	for i := len(ch.members) - 1; i >= 0; i-- {
		if m := ch.members[i]; m.cursor < s.last() {
			ch.expel(m, Behind)
			ch.engine.metrics.fellBehind.Add(1)
		}
	}
	ch.drop(s, why)
	ch.segs[0] = nil
	ch.segs = ch.segs[1:]
	if len(ch.segs) == 0 {
		ch.segs, ch.class = nil, firstSegmentBytes
	}
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

// seqOf returns the newest item with this id. Foreign channels only.
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
	seq, ok := ch.byID[id]
	return seq, ok
}

// join makes m a member that was given everything up to seq.
func (ch *channel) join(m *member, seq uint64) {
	m.ch, m.cursor, m.attached, m.status = ch, seq, seq, Ready
	m.index = len(ch.members)
	ch.members = append(ch.members, m)
	ch.engine.subscribers.Add(1)
}

// leave ends m's membership. Leaving twice is fine.
func (ch *channel) leave(m *member) {
	if m.index < 0 {
		return
	}
	if m.parked.Load() {
		n := len(ch.parked) - 1
		ch.parked[n].parkedAt = m.parkedAt
		ch.parked[m.parkedAt] = ch.parked[n]
		ch.parked[n] = nil
		ch.parked = ch.parked[:n]
		m.parked.Store(false)
	}
	n := len(ch.members) - 1
	ch.members[n].index = m.index
	ch.members[m.index] = ch.members[n]
	ch.members[n] = nil
	ch.members = ch.members[:n]
	m.index = -1
	ch.engine.subscribers.Add(-1)
	if n == 0 {
		ch.idleSince = ch.engine.now()
	}
}

// expel ends a membership from the channel's side, and tells the subscriber why.
func (ch *channel) expel(m *member, why Status) {
	m.id, m.hasID = m.lastID()
	m.status = why
	ch.leave(m)
	m.sub.wakeUp()
}

// park makes m wait for the next item.
func (ch *channel) park(m *member) {
	m.parkedAt = len(ch.parked)
	ch.parked = append(ch.parked, m)
	m.parked.Store(true)
}

// unpark returns the members that wait, who now do not any more. They are woken
// without the lock: waking ten thousand takes longer than appending.
func (ch *channel) unpark() []*member {
	woken := ch.parked
	ch.parked, ch.spare = ch.spare, nil
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
	if ch.spare == nil && len(ch.members) > 0 {
		ch.spare = woken[:0]
	}
	ch.mu.Unlock()
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
	for len(ch.members) > 0 {
		part(ch.members[len(ch.members)-1])
	}
	for len(ch.segs) > 0 {
		ch.drop(ch.segs[0], evictedWithChannel)
		ch.segs = ch.segs[1:]
	}
	ch.segs, ch.byID, ch.parked, ch.spare = nil, nil, nil, nil
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

func (h handle) Retained() (first, last uint64) {
	h.ch.mu.Lock()
	defer h.ch.mu.Unlock()
	return h.ch.retained()
}

func (h handle) Subscribers() int {
	h.ch.mu.Lock()
	defer h.ch.mu.Unlock()
	return len(h.ch.members)
}

func (h handle) Close() {
	if h.ch.retire(func(m *member) { h.ch.expel(m, Closed) }) {
		h.ch.engine.forget(h.ch)
	}
}
