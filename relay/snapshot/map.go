package snapshot

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/tidwall/btree"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Map is the newest record of each key of a topic. Its methods may be called
// by any goroutine.
//
// A key is one key in all partitions: where it was produced to more than one, as
// happens when partitions are added, the map has the newest by time while it is
// loaded, and the one that was applied last afterwards, as whoever listens has.
//
// What versions hold beyond the map itself counts towards its bytes. When they
// do not suffice, versions go before their time, the oldest first, and then
// the map lets go of everything: see ErrTooLarge.
type Map struct {
	topic    string
	match    func(*kgo.Record) bool
	deletes  func(*kgo.Record) bool
	extra    func(*kgo.Record) int
	maxBytes int64
	budget   *Budget
	name     string // no other map has it, on any replica

	mu      sync.Mutex // innermost
	err     error      // why the map is empty for ever; nil while it is not
	next    []int64    // the position, by partition
	live    bool
	entries *btree.BTreeG[*entry]
	probe   entry // only a key, to look it up with

	versions []*Version // oldest first
	made     uint64     // versions, ever
	bytes    int64      // of entries
	held     int64      // of what only versions have
	nullKeys uint64
	evicted  uint64
}

// Config says what a map is of.
type Config struct {
	Topic string
	// Match is the view's filter, or nil: only records that it says yes to are
	// kept. It must always say the same of the same record. Apply calls it before
	// it takes the map's lock.
	Match func(*kgo.Record) bool
	// Deletes says of which records the key is gone; nil: of those without a value.
	Deletes func(*kgo.Record) bool
	// Extra is how many bytes a record's Context takes, which is kept as it is;
	// nil: none.
	Extra func(*kgo.Record) int
	// MaxBytes bounds this map, and Budget all that share it.
	MaxBytes int64
	Budget   *Budget
}

// New makes an empty map, which is being loaded until Live is called.
func New(cfg Config) *Map {
	if cfg.Deletes == nil {
		cfg.Deletes = func(r *kgo.Record) bool { return r.Value == nil }
	}
	if cfg.Extra == nil {
		cfg.Extra = func(*kgo.Record) int { return 0 }
	}
	return &Map{
		topic: cfg.Topic, match: cfg.Match, deletes: cfg.Deletes, extra: cfg.Extra, maxBytes: cfg.MaxBytes, budget: cfg.Budget,
		name:    strconv.FormatUint(rand.Uint64(), 36),
		entries: newTree(),
	}
}

func newTree() *btree.BTreeG[*entry] {
	return btree.NewBTreeGOptions(before, btree.Options{NoLocks: true}) // Map.mu guards it, and nothing changes a copy
}

// Live says that the map has been loaded: from now on records come in the order
// in which listeners get them.
func (m *Map) Live() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = true
}

// Apply takes the next record of its partition, and says what those who listen
// are sent of it. A null value deletes, unless Config says otherwise. A record before the map's position is
// one that was applied already: Nothing. The map keeps none of r's memory.
//
// The error is ErrTooLarge, which says what was not enough, or ErrClosed.
func (m *Map) Apply(r *kgo.Record) (Verdict, error) {
	matches := !m.deletes(r) && (m.match == nil || m.match(r))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return Nothing, m.err
	}
	if !m.advance(r.Partition, r.Offset+1) {
		return Nothing, nil
	}
	if r.Key == nil {
		if matches {
			m.nullKeys++
		}
		return verdict(matches, false), nil
	}
	old := m.find(r.Key)
	switch {
	case old == nil && !matches:
		return Nothing, nil
	case old != nil && !m.live && old.partition != r.Partition && old.millis > r.Timestamp.UnixMilli():
		return Nothing, nil // the partition it was moved to has been read first
	}
	var need int64
	if matches {
		need = entryBytes(r.Key, r.Value, r.Headers, m.extra(r))
	}
	if err := m.reserve(need, old); err != nil {
		return Nothing, err
	}
	if matches {
		m.entries.Set(newEntry(r, m.extra(r)))
	} else {
		m.entries.Delete(old)
	}
	return verdict(matches, old != nil), nil
}

// Advance says that there is nothing before offset next of a partition that was
// not applied, such as control records. The position never goes back.
func (m *Map) Advance(partition int32, next int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance(partition, next)
}

func (m *Map) advance(partition int32, next int64) (moved bool) {
	for int(partition) >= len(m.next) {
		m.next = append(m.next, 0)
	}
	if next <= m.next[partition] {
		return false
	}
	m.next[partition] = next
	return true
}

// Position is the next offset by partition: every record before it was applied.
func (m *Map) Position() []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.next)
}

// Newest returns the record of a key, or nil. Its bytes are not to be changed.
func (m *Map) Newest(key []byte) *kgo.Record {
	m.mu.Lock()
	e := m.find(key)
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	r := new(kgo.Record)
	e.record(r, m.topic)
	return r
}

// Verdict is what those who listen to a part of the map are sent of a record:
// the part that match says yes to, which it must always say of the same record.
// Ask before the record is applied.
func (m *Map) Verdict(r *kgo.Record, match func(*kgo.Record) bool) (Verdict, error) {
	m.mu.Lock()
	err, old := m.err, m.find(r.Key)
	applied := int(r.Partition) < len(m.next) && r.Offset < m.next[r.Partition]
	m.mu.Unlock()
	switch {
	case err != nil || applied:
		return Nothing, err
	case !m.deletes(r) && match(r):
		return Send, nil
	case old == nil:
		return Nothing, nil
	}
	var was kgo.Record
	old.record(&was, m.topic)
	return verdict(false, match(&was)), nil
}

// find returns the entry of a key, or nil. Call with mu held.
func (m *Map) find(key []byte) *entry {
	if key == nil {
		return nil // it is not the empty key
	}
	m.probe.key = key
	e, _ := m.entries.Get(&m.probe)
	m.probe.key = nil // it is the caller's
	return e
}

// reserve takes the bytes for a change that adds need and takes old away, or
// lets go of everything. Call with mu held.
func (m *Map) reserve(need int64, old *entry) error {
	if old != nil {
		// Nobody has it any more, or only the versions do. Counted first, since a
		// full map may still have a record replaced by one as large.
		m.release(old)
	}
	var copied int64
	if v := m.newest(); v != nil && v.copies < 1+m.entries.Len()/leafEntries {
		copied = nodeBytes
	}
	for m.bytes+m.held+need+copied > m.maxBytes || !m.budget.take(need+copied) {
		if len(m.versions) == 0 {
			return m.giveUp(need)
		}
		m.evicted++
		if m.drop(1); len(m.versions) == 0 {
			copied = 0
		}
	}
	m.bytes += need
	if v := m.newest(); copied > 0 {
		v.copies++
		v.held += copied
		m.held += copied
	}
	return nil
}

// release counts an entry out of the map. Call with mu held.
func (m *Map) release(old *entry) {
	n := old.bytes()
	m.bytes -= n
	// If the newest version has it not, none has.
	if v := m.newest(); v != nil && v.covers(old) {
		v.held += n
		m.held += n
		return
	}
	m.budget.give(n)
}

// giveUp ends the map, which has no room for need bytes more. Call with mu held.
func (m *Map) giveUp(need int64) error {
	limit, of := m.maxBytes, "for one snapshot"
	if m.bytes+need <= m.maxBytes {
		limit, of = m.budget.max, "for all snapshots together"
	}
	m.end(fmt.Errorf("snapshot of %s: %w: %d keys take %d bytes, and %d more are needed, of %d %s",
		m.topic, ErrTooLarge, m.entries.Len(), m.bytes, need, limit, of))
	return m.err
}

// Close lets go of everything.
func (m *Map) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.end(ErrClosed)
	}
}

// end empties the map for ever. Call with mu held.
func (m *Map) end(reason error) {
	m.drop(len(m.versions))
	m.budget.give(m.bytes)
	m.bytes, m.entries, m.err = 0, newTree(), reason
}

// Err is why the map is empty for ever, or nil.
func (m *Map) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Stats are counts of a map.
type Stats struct {
	Keys     int
	Bytes    int64  // of all that the map and its versions hold
	Held     int64  // of them, what only versions hold
	Versions int    // that are kept
	NullKeys uint64 // records that were left out because they have no key, since the beginning
	Evicted  uint64 // versions that went before their time for want of memory, since the beginning
}

// Stats returns the counts now.
func (m *Map) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stats{
		Keys: m.entries.Len(), Bytes: m.bytes + m.held, Held: m.held, Versions: len(m.versions),
		NullKeys: m.nullKeys, Evicted: m.evicted,
	}
}

// Version returns the state as of now. Versions between which the position did
// not move are one.
func (m *Map) Version(now time.Time) (*Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	m.expire(now)
	v := m.newest()
	if v == nil || !slices.Equal(v.position, m.next) {
		m.made++
		v = &Version{
			m: m, id: m.name + "." + strconv.FormatUint(m.made, 36),
			position: slices.Clone(m.next), entries: m.entries.Copy(),
		}
		m.versions = append(m.versions, v)
	}
	v.until = now.Add(KeepFor)
	return v, nil
}

// Find returns the version with an ID, or ErrExpired.
func (m *Map) Find(id string, now time.Time) (*Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
	for _, v := range m.versions {
		if v.id == id {
			return v, nil
		}
	}
	return nil, ErrExpired
}

// Expire lets go of the versions whose time is over. Whoever keeps the map
// calls it every few seconds, so that memory is not held while nobody asks.
func (m *Map) Expire(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
}

func (m *Map) expire(now time.Time) {
	n := 0
	for n < len(m.versions) && !now.Before(m.versions[n].until) {
		n++
	}
	m.drop(n)
}

// drop lets go of the n oldest versions. What each held was replaced while it
// was the newest, so no younger one has it. Call with mu held.
func (m *Map) drop(n int) {
	for _, v := range m.versions[:n] {
		m.held -= v.held
		m.budget.give(v.held)
		v.entries, v.held = nil, 0
	}
	m.versions = slices.Delete(m.versions, 0, n)
}

func (m *Map) newest() *Version {
	if n := len(m.versions); n > 0 {
		return m.versions[n-1]
	}
	return nil
}
