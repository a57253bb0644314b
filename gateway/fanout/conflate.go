package fanout

import (
	"crypto/sha256"
	"maps"
	"math/bits"
	"time"
	"unsafe"
)

// Members that conflate are given items in the order of the log, as all others,
// but need not be given one of whose key a later item is in the log already. So
// the cursor still means that everything up to it was given, or is superseded by
// something still to come.

// A key stands for that of an item: half of its SHA-256 together with a secret of
// the engine, so that nobody can find two that have the same. The zero key is none.
type key [16]byte

// keyOf makes one; buf is used again.
func (e *Engine) keyOf(buf []byte, of []byte) (key, []byte) {
	buf = append(append(buf[:0], e.secret[:]...), of...)
	sum := sha256.Sum256(buf)
	return key(sum[:len(key{})]), buf
}

// keys is what a channel knows of its items' keys: from when the first member that
// conflates has joined, until Config.Linger after the last has left. Items that
// were there before stand for themselves.
type keys struct {
	newest  map[key]uint64 // number of the newest item; all of them are in the log
	most    int            // entries that newest once had
	readers int            // members that conflate
	idle    time.Duration  // since when there are none, on the engine's clock
}

// keyed is what a segment knows of its items' keys. Guarded by the channel's lock.
type keyed struct {
	keys   []key    // of the first items
	stale  []uint64 // by item a bit: a later one of its key is in the log
	newest int      // how many items are the newest of their keys
}

const (
	keyBytes = int64(unsafe.Sizeof(key{}))
	// newestBytes is about what an entry of keys.newest takes at most: a map is
	// less than full, and half of it may have gone before it is made anew.
	newestBytes = 96
)

func (k *keyed) memory() int64 {
	if k == nil {
		return 0
	}
	return int64(unsafe.Sizeof(*k)) + int64(cap(k.keys))*keyBytes + int64(cap(k.stale))*8 + int64(k.newest)*newestBytes
}

// isStale reports whether a later item of the key of item i is in the log.
func (s *segment) isStale(i int) bool {
	return s.keyed != nil && i/64 < len(s.keyed.stale) && s.keyed.stale[i/64]&(1<<(i%64)) != 0
}

// staleTo returns where a run of such items ends that goes on at i.
func (s *segment) staleTo(i int) int {
	for s.isStale(i) {
		fresh := ^s.keyed.stale[i/64] >> (i % 64)
		if fresh != 0 {
			return i + bits.TrailingZeros64(fresh)
		}
		i += 64 - i%64
	}
	return i
}

// outdate notes that item i is not the newest of its key any more, but by. It may
// be left out where that has content in its place, for everyone.
func (s *segment) outdate(i int, by *entry) {
	s.keyed.newest--
	for form, k := range s.items[i].kind[:byteForms] {
		if k == content && by.kind[form] != content {
			return
		}
	}
	for len(s.keyed.stale) <= i/64 {
		s.keyed.stale = append(s.keyed.stale, 0)
	}
	s.keyed.stale[i/64] |= 1 << (i % 64)
}

// learnKeys notes the keys of what is new in s, from item from on.
func (ch *channel) learnKeys(s *segment, from int) {
	for i := from; i < len(s.keyed.keys); i++ {
		k := s.keyed.keys[i]
		if k == (key{}) {
			continue
		}
		if seq, ok := ch.keys.newest[k]; ok {
			old, at := ch.find(seq)
			old.outdate(at, &s.items[i])
			if old != s {
				ch.account(old, old.memory())
			}
		}
		ch.keys.newest[k] = s.first + uint64(i)
		s.keyed.newest++
	}
	ch.keys.most = max(ch.keys.most, len(ch.keys.newest))
}

// dropKeys forgets those of which the newest item is in s.
func (ch *channel) dropKeys(s *segment) {
	if ch.keys == nil || s.keyed == nil {
		return
	}
	newest := ch.keys.newest
	for i, k := range s.keyed.keys {
		if newest[k] == s.first+uint64(i) { // there is no item 0
			delete(newest, k)
		}
	}
	if n := len(newest); ch.keys.most > 64 && n < ch.keys.most/2 { // a map never gets smaller
		smaller := make(map[key]uint64, n)
		maps.Copy(smaller, newest)
		ch.keys.newest, ch.keys.most = smaller, n
	}
}

// forgetKeys does so with all, when nobody has conflated for a while.
func (ch *channel) forgetKeys(now time.Duration) {
	if ch.keys == nil || ch.keys.readers > 0 || now-ch.keys.idle <= ch.engine.cfg.Linger {
		return
	}
	ch.keys = nil
	for _, s := range ch.segs {
		if s.keyed != nil {
			s.keyed = nil
			ch.account(s, s.memory())
		}
	}
}

// A conflating is what a member has besides that conflates. It is guarded by the
// connection's lock; what the loop's round reads, by the channel's lock too.
type conflating struct {
	every time.Duration // how long there has to be between two items; 0: no matter
	next  time.Duration // when the next one may be given, on the engine's clock
	rests bool          // nothing is given until then; both locks
}

// conflatesBy makes m conflate, if a subscription says so.
func (m *member) conflatesBy(want *Want) {
	if m.sub.form >= byteForms || want.Filter != nil || !want.Conflate && want.Every == 0 {
		return
	}
	m.conflates = new(conflating)
	if c := m.sub.conn; c != nil && want.Every > 0 { // who pulls has its own pace
		m.sub.paced = true
		m.conflates.every, m.conflates.next = want.Every, c.restUntil
		m.conflates.rests = c.engine().now() < c.restUntil
	}
}

// joinKeys and leaveKeys are called with the channel's lock for members that
// conflate.
func (ch *channel) joinKeys() {
	if ch.keys == nil {
		ch.keys = &keys{newest: make(map[key]uint64)}
	}
	ch.keys.readers++
}

func (ch *channel) leaveKeys() {
	ch.keys.readers--
	ch.keys.idle = ch.engine.now()
}

// conflated counts items that m is not given.
func (m *member) conflated(n int) { m.sub.engine.metrics.conflated.Add(int64(n)) }

// skip returns the last of some items from i on, in s, that m is not given.
// Nothing else is to be seen in those behind the first.
func (m *member) skip(s *segment, i int) (last int) {
	last = i
	if !m.follows && m.action == nil {
		last = s.staleTo(i) - 1
	}
	m.conflated(last + 1 - i)
	return last
}

// passOver moves the cursor to the end of a segment that is about to be evicted,
// where nothing is left in it that m needs. On foreign channels it has to look at
// each item's id.
func (m *member) passOver(s *segment) bool {
	if m.conflates == nil || m.follows {
		return false
	}
	from := int(m.cursor + 1 - s.first)
	if s.staleTo(from) < len(s.items) {
		return false
	}
	m.conflated(len(s.items) - from)
	m.cursor = s.last()
	return true
}

// resting reports whether m is given nothing now.
func (m *member) resting() bool { return m.conflates != nil && m.conflates.rests }

// pace makes m rest after an item, if it has a rate.
func (m *member) pace(b *Batch) {
	c := m.conflates
	if c == nil || c.every == 0 || len(b.Frames) == 0 && b.passing == nil {
		return
	}
	c.rests, c.next = true, m.sub.engine.now()+c.every
	m.sub.conn.restUntil = c.next
}

// restsUntil is when the first member that rests goes on; or never. It is called
// with the connection's lock.
func (s *Subscriber) restsUntil() time.Duration {
	first := never
	if s.paced {
		for _, m := range s.members {
			if m.resting() {
				first = min(first, m.conflates.next)
			}
		}
	}
	return first
}

// goOn ends the rest of members whose time has come, and reports whether there
// are any. It is called with the connection's lock.
func (s *Subscriber) goOn(now time.Duration) (some bool) {
	if !s.paced {
		return false
	}
	for _, m := range s.members {
		if m.resting() && now >= m.conflates.next {
			m.ch.mu.Lock()
			m.conflates.rests = false
			m.ch.mu.Unlock()
			some = true
		}
	}
	return some
}
