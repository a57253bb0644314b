package filter

import (
	"hash/maphash"
	"math"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Postings say where in a run of records a filter has to look. For a path they
// are made when the first filter asks that looks at it. They are safe for use by
// many goroutines.
type Postings struct {
	mu    sync.Mutex
	lists map[string][]posting // by path
}

// A posting is the hash of what a path leads to in one record, and the record's
// position: lists of them are in order.
type posting struct {
	hash     uint32
	position int32
}

// postingBytes is what a posting takes.
const postingBytes = 8

var seed = maphash.MakeSeed()

// Records are a run of records.
type Records interface {
	Len() int
	// Record makes r record number i.
	Record(i int, r *kgo.Record)
}

// Candidates returns the positions of the records that the filter may show, in
// order; narrowed is false where it may be any. records must be the same each
// time, and r is memory for looking at them. grown is how much more memory the
// lists take since this call: it has looked at every record.
func (p *Postings) Candidates(f *Filter, records Records, r *Record) (positions []int32, narrowed bool, grown int64) {
	if f == nil || len(f.clauses) == 0 && !f.never {
		return nil, false, 0
	}
	if f.never {
		return nil, true, 0
	}
	c := &f.clauses[0]
	list, grown := p.list(c, records, r)
	for i := range c.literals {
		hash := c.literals[i].hash()
		at, _ := slices.BinarySearchFunc(list, hash, func(p posting, hash uint32) int { return compareHashes(p.hash, hash) })
		for ; at < len(list) && list[at].hash == hash; at++ {
			positions = append(positions, list[at].position)
		}
	}
	if len(c.literals) > 1 || c.root == inAnyHeader {
		slices.Sort(positions)
		positions = slices.Compact(positions)
	}
	return positions, true, grown
}

func compareHashes(a, b uint32) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (p *Postings) list(c *clause, records Records, r *Record) (list []posting, grown int64) {
	var buf [128]byte
	name := c.appendName(buf[:0])
	p.mu.Lock()
	defer p.mu.Unlock()
	list, ok := p.lists[string(name)]
	if ok {
		return list, 0
	}
	list = make([]posting, 0, records.Len())
	var rec kgo.Record
	for i := range records.Len() {
		records.Record(i, &rec)
		r.Reset(&rec)
		list = c.appendPostings(list, r, int32(i))
	}
	slices.SortFunc(list, func(a, b posting) int {
		if a.hash != b.hash {
			return compareHashes(a.hash, b.hash)
		}
		return int(a.position - b.position)
	})
	if p.lists == nil {
		p.lists = map[string][]posting{}
	}
	p.lists[string(name)] = list
	return list, int64(len(name) + cap(list)*postingBytes)
}

// appendPostings adds what the clause's path leads to in r.
func (c *clause) appendPostings(list []posting, r *Record, position int32) []posting {
	add := func(s *scalar) {
		if s.kind != missing && s.kind != isOther {
			list = append(list, posting{s.hash(), position})
		}
	}
	switch c.root {
	case inKey:
		s := textScalar(r.r.Key)
		add(&s)
	case inHeader:
		s := r.header(c.names[0])
		add(&s)
	case inAnyHeader:
		for i := range r.r.Headers {
			if h := &r.r.Headers[i]; h.Key == c.names[0] {
				s := textScalar(h.Value)
				add(&s)
			}
		}
	case inValue:
		var t tree
		number := t.add(c.names)
		r.scan(&t, &r.values)
		add(&r.values.at[number])
		r.values.reset()
	}
	return list
}

// hash is the same for what is equal.
func (s *scalar) hash() uint32 {
	switch s.kind {
	case isString, isBytes:
		return uint32(maphash.Bytes(seed, s.text)) + uint32(s.kind)
	}
	return hashBits(s.kind, s.bits)
}

func (l *literal) hash() uint32 {
	switch l.kind {
	case isString, isBytes:
		return uint32(maphash.String(seed, l.text)) + uint32(l.kind)
	}
	return hashBits(l.kind, l.bits)
}

func hashBits(k kind, bits uint64) uint32 {
	if isInt <= k && k <= isDouble {
		k, bits = isDouble, math.Float64bits(toDouble(k, bits)+0) // + 0 makes a zero of -0
	}
	return uint32(maphash.Comparable(seed, bits)) + uint32(k)
}
