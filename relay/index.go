package relay

import (
	"slices"
	"sync"

	"spillway/relay/cursor"
)

// An index knows what the sequence numbers of one channel mean: the position
// after each item that the gateway's log still holds. It stores the partition
// and next offset of each item and a full vector every 256 items, so that no
// item costs a cursor, and next to nothing before the first item: most
// channels of many are quiet.
//
// It is the channel's grip.IDs. The gateway calls it from inside Append, so
// its lock is innermost and nothing is called while it is held.
type index struct {
	tags []cursor.Tag

	mu     sync.Mutex
	next   uint64    // the next item's number
	first  uint64    // oldest item that the log still holds, or next
	base   vector    // position where the channel began, grown with new partitions; shared, so replaced and never written to
	minute int64     // of the newest record, minutes since 1970
	here   *standing // the newest position that a stream was told to begin at; nil: none
	past   *past     // nil before the first item
}

// A past is what items did to the position.
type past struct {
	block0 uint64 // number of the first block
	blocks []*indexBlock
	last   vector      // position after the newest item
	spare  *indexBlock // memory of the newest block that was forgotten; nil: none
}

const indexBlockItems = 256

// An indexBlock covers the items [block*256, block*256+256).
type indexBlock struct {
	before vector // position before its first item
	minute int64  // of the record before its first item
	items  []indexItem
	jumps  map[int]vector // by place in items; shared, so replaced and never written to
}

// An indexItem moves one partition. One that jumps moves all of them first, to
// a position in indexBlock.jumps.
type indexItem struct {
	nextOffset int64 // 0: moves nothing itself
	partition  int32
	topic      int16
	jump       bool
}

// newIndex shares base and tags, and changes neither.
func newIndex(tags []cursor.Tag, base vector, minute int64) index {
	return index{tags: tags, next: 1, first: 1, base: base, minute: minute}
}

// addPartition tells that a topic has a new partition, whose records begin at
// start. Every earlier item was before all of them.
func (x *index) addPartition(topic int, start int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.base = x.base.clone()
	x.base[topic] = append(x.base[topic], start)
	if x.past == nil {
		return
	}
	x.past.spare = nil
	x.past.last.extend(x.base)
	for _, b := range x.past.blocks {
		b.before.extend(x.base)
		for i, to := range b.jumps {
			to = to.clone()
			to.extend(x.base)
			b.jumps[i] = to
		}
	}
}

// A move is what an item does that is of one record.
type move struct {
	next   int64 // the partition's next offset
	minute int64 // of the record
}

// items notes that the next items move one partition, one after the other.
func (x *index) items(topic, partition int32, moves []move) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range moves {
		b := x.grow()
		b.items = append(b.items, indexItem{nextOffset: m.next, partition: partition, topic: int16(topic)})
		x.past.last[topic][partition] = m.next
		x.minute = m.minute
		x.next++
	}
}

// jump notes that the next item moves to the whole position base, which is
// shared and never changes.
func (x *index) jump(base vector, minute int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.addJump(base, indexItem{}, minute)
}

// jumpAnd does the same for an item that then moves one partition.
func (x *index) jumpAnd(base vector, topic int, partition int32, m move) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.addJump(base, indexItem{nextOffset: m.next, partition: partition, topic: int16(topic)}, m.minute)
	x.past.last[topic][partition] = m.next
}

// addJump adds it as one that jumps. Call with mu held.
func (x *index) addJump(base vector, it indexItem, minute int64) {
	b := x.grow()
	if b.jumps == nil {
		b.jumps = make(map[int]vector)
	}
	b.jumps[len(b.items)] = base
	it.jump = true
	b.items = append(b.items, it)
	x.past.last.set(base)
	x.minute = minute
	x.next++
}

// isAt reports whether the newest item, or the beginning, is at pos or past it.
func (x *index) isAt(pos vector) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.past == nil {
		return x.base.covers(pos)
	}
	return x.past.last.covers(pos)
}

// grow returns the block of the next item. Call with mu held.
func (x *index) grow() *indexBlock {
	p := x.past
	switch {
	case p == nil: // item 0 stands for the beginning
		p = &past{last: x.base.clone(), blocks: []*indexBlock{{before: x.base.clone(), minute: x.minute, items: make([]indexItem, 1, 4)}}}
		x.past = p
	case x.next%indexBlockItems == 0:
		p.blocks = append(p.blocks, p.block(x.minute))
	}
	return p.blocks[len(p.blocks)-1]
}

// block makes a block that begins after the newest item. A channel with so many
// items as to need another will have as many again.
func (p *past) block(minute int64) *indexBlock {
	b := p.spare
	if b == nil {
		return &indexBlock{before: p.last.clone(), minute: minute, items: make([]indexItem, 0, indexBlockItems)}
	}
	p.spare = nil
	b.before.set(p.last)
	b.minute, b.items, b.jumps = minute, b.items[:0], nil
	return b
}

// trim forgets the items before first, which the log has evicted.
func (x *index) trim(first uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if first > x.next {
		first = x.next
	}
	x.first = max(x.first, first)
	p := x.past
	if p == nil {
		return
	}
	// The position before item first is still wanted, so its block stays.
	keep := (x.first - 1) / indexBlockItems
	for p.block0 < keep {
		p.spare, p.blocks[0] = p.blocks[0], nil
		p.blocks = p.blocks[1:]
		p.block0++
	}
}

// at returns the position after item seq, which is not to be changed. Call
// with mu held, and first-1 <= seq < next.
func (x *index) at(seq uint64) vector {
	if x.past == nil {
		return x.base
	}
	b := x.past.of(seq)
	v := b.before.clone()
	for i := range b.items[:seq%indexBlockItems+1] {
		b.move(v, i)
	}
	return v
}

// move takes v from before the block's item i to after it.
func (b *indexBlock) move(v vector, i int) {
	it := &b.items[i]
	if it.jump {
		v.set(b.jumps[i])
	}
	if it.nextOffset > 0 {
		v[it.topic][it.partition] = it.nextOffset
	}
}

// attach finds the oldest log position at or past want in every partition,
// and returns the position after it, which is not to be changed, and a time
// that is not later than it. ok is false when the newest item is not there
// yet; then the hub's own position decides.
func (x *index) attach(want vector) (at vector, minute int64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.past
	switch {
	case p == nil && x.base.covers(want):
		return x.base, x.minute, true
	case p == nil || !p.last.covers(want):
		return nil, 0, false
	}
	// Vectors only grow: the position is in the last block that begins short of want.
	short, _ := slices.BinarySearchFunc(p.blocks, want, func(b *indexBlock, want vector) int {
		if b.before.covers(want) {
			return 1
		}
		return -1
	})
	seq := x.first - 1
	if short > 0 {
		b := p.blocks[short-1]
		v := b.before.clone()
		i := 0
		for b.move(v, i); !v.covers(want); b.move(v, i) {
			i++
		}
		if found := (p.block0+uint64(short-1))*indexBlockItems + uint64(i); found > seq {
			return v, b.minute, true
		}
	}
	return x.at(seq), x.minuteAt(seq), true
}

// minuteAt is the time of a record not far before item seq: exact to a block.
// Call with mu held.
func (x *index) minuteAt(seq uint64) int64 {
	if x.past == nil {
		return x.minute
	}
	return x.past.of(seq).minute
}

// of is the block that item seq is in.
func (p *past) of(seq uint64) *indexBlock { return p.blocks[seq/indexBlockItems-p.block0] }

// oldest returns the position before the oldest item that the log holds. It is
// not to be changed.
func (x *index) oldest() vector {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.at(x.first - 1)
}

// stand notes what a stream that begins at the newest item is told, and so
// comes back with; nil: nothing that is worth remembering.
func (x *index) stand(s *standing) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s != nil {
		s.seq = x.next - 1
	}
	x.here = s
}

// ID implements grip.IDs: the full cursor after item seq.
func (x *index) ID(seq uint64) (string, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if seq+1 < x.first || seq >= x.next {
		return "", false
	}
	return string(x.at(seq).appendCursor(nil, 0, x.minuteAt(seq), x.tags)), true
}

// Seq implements grip.IDs. The id must be one that this process wrote: a
// position that the hub has been at. Then the newest item at or before it is
// the last one that the holder of the id has.
func (x *index) Seq(id string) (uint64, bool) {
	if seq, ok := x.seqHere(id); ok {
		return seq, true
	}
	pos, tags, _, ok := parsePosition(id)
	if !ok || !slices.Equal(tags, x.tags) {
		return 0, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	pos.extend(x.base)
	return x.seqOf(pos)
}

// has reports whether pos, which has all partitions, is exactly the position
// after an item that the log holds, or before the oldest of them.
func (x *index) has(pos vector) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	seq, ok := x.seqOf(pos)
	return ok && x.at(seq).covers(pos)
}

// seqOf returns the number of the newest item at or before pos, which has all
// partitions. Call with mu held.
func (x *index) seqOf(pos vector) (uint64, bool) {
	p := x.past
	if p == nil {
		return 0, pos.covers(x.base)
	}
	within, _ := slices.BinarySearchFunc(p.blocks, pos, func(b *indexBlock, pos vector) int {
		if pos.covers(b.before) {
			return -1
		}
		return 1
	})
	if within == 0 {
		return 0, false
	}
	// All before the block is behind pos, and so is each item that moves to no further than it.
	b := p.blocks[within-1]
	i := 0
	for i < len(b.items) && !b.passes(i, pos) {
		i++
	}
	seq := (p.block0+uint64(within-1))*indexBlockItems + uint64(i) - 1
	if seq+1 < x.first {
		return 0, false // older than what the log holds
	}
	return seq, true
}

// passes reports whether the block's item i moves to past pos.
func (b *indexBlock) passes(i int, pos vector) bool {
	it := &b.items[i]
	return it.jump && !pos.covers(b.jumps[i]) || it.nextOffset > 0 && it.nextOffset > pos[it.topic][it.partition]
}

// seqHere answers for the position that most streams are told: the newest.
func (x *index) seqHere(id string) (uint64, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.here == nil || string(x.here.id) != id || x.here.seq+1 < x.first {
		return 0, false
	}
	return x.here.seq, true
}
