package snapshot

import (
	"time"

	"github.com/tidwall/btree"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Version is a map as of one position. Its records are in the byte order of
// their keys, each key once.
type Version struct {
	m        *Map
	id       string
	position []int64

	// Guarded by Map.mu. The tree itself is never changed.
	entries *btree.BTreeG[*entry] // nil: expired
	until   time.Time
	held    int64 // bytes that were replaced in the map while this was the newest version
	copies  int   // nodes of the tree that were copied for that, at most
}

// ID names the version for Map.Find, on no other map and replica.
func (v *Version) ID() string { return v.id }

// Len is how many records the version has.
func (v *Version) Len() int {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if v.entries == nil { // expired
		return 0
	}
	return v.entries.Len()
}

// Position is the next offset by partition: the version is every record before
// it, and what changes since then begins there. It is not to be changed.
func (v *Version) Position() []int64 { return v.position }

// covers reports whether the version has an entry that is in the map.
func (v *Version) covers(e *entry) bool {
	return int(e.partition) < len(v.position) && e.offset < v.position[e.partition]
}

// maxExamined is how many records a page looks at. Few of them may match, and
// a page must not take as long as all of a snapshot.
const maxExamined = 16 << 10

// Page visits the records after the first seen ones, as far as match says yes
// to them (nil: all), until visit says no. Seen is then how far it came, for
// the next page; done, that there is no next one. A page may be empty without
// being the last. The record is the visitor's until the next visit; its bytes
// stay as they are, and are not to be changed.
//
// The error is ErrExpired.
func (v *Version) Page(seen int, match, visit func(*kgo.Record) bool) (next int, done bool, err error) {
	v.m.mu.Lock()
	entries := v.entries
	v.m.mu.Unlock()
	if entries == nil {
		return seen, false, ErrExpired
	}
	first, ok := entries.GetAt(seen)
	if !ok {
		return seen, true, nil
	}
	next = seen
	var tried, visited kgo.Record // two, so that the last that was visited stays
	entries.Ascend(first, func(e *entry) bool {
		next++
		more := next-seen < maxExamined
		if match != nil {
			if e.record(&tried, v.m.topic); !match(&tried) {
				return more
			}
		}
		e.record(&visited, v.m.topic)
		return visit(&visited) && more
	})
	return next, next >= entries.Len(), nil
}
