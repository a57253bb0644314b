package relay

import (
	"slices"
	"sync"

	"spillway/relay/cursor"
)

// An index knows what the sequence numbers of one channel mean: the position
// after each item that the gateway's log still holds. It stores the partition
// and next offset of each item and a full vector every 256 items, so that no
// item costs a cursor.
//
// It is the channel's grip.IDs. The gateway calls it from inside Append, so
// its lock is innermost and nothing is called while it is held.
type index struct {
	tags []cursor.Tag

	mu     sync.Mutex
	block0 uint64 // number of the first block in blocks
	blocks []*indexBlock
	next   uint64 // the next item's number
	first  uint64 // oldest item that the log still holds, or next
	base   vector // position where the channel began, grown with new partitions
	last   vector // position after the newest item
	minute int64  // of the newest record, minutes since 1970
}

const indexBlockItems = 256

// An indexBlock covers the items [block*256, block*256+256).
type indexBlock struct {
	before vector // position before its first item
	minute int64  // of the record before its first item
	items  []indexItem
	jumps  map[int]vector // full positions of items with topic -1
}

// An indexItem moves one partition, or, with topic -1, any number of them.
type indexItem struct {
	nextOffset int64
	partition  int32
	topic      int32
}

func newIndex(tags []cursor.Tag, base vector, minute int64) *index {
	return &index{
		tags:   tags,
		blocks: []*indexBlock{{before: base.clone(), minute: minute, items: make([]indexItem, 1, 4)}}, // item 0 stands for the beginning
		next:   1,
		first:  1,
		base:   base.clone(),
		last:   base.clone(),
		minute: minute,
	}
}

// addPartition tells that a topic has a new partition, whose records begin at
// start. Every earlier item was before all of them.
func (x *index) addPartition(topic int, start int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.base[topic] = append(x.base[topic], start)
	x.last.extend(x.base)
}

// item notes that the next item moves one partition.
func (x *index) item(topic, partition int32, nextOffset, minute int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.grow()
	b.items = append(b.items, indexItem{nextOffset: nextOffset, partition: partition, topic: topic})
	x.last[topic][partition] = nextOffset
	x.minute = minute
	x.next++
}

// jump notes that the next item moves to a whole new position.
func (x *index) jump(to vector, minute int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	b := x.grow()
	if b.jumps == nil {
		b.jumps = make(map[int]vector)
	}
	b.jumps[len(b.items)] = to.clone()
	b.items = append(b.items, indexItem{topic: -1})
	x.last = to.clone()
	x.minute = minute
	x.next++
}

// grow returns the block of the next item. Call with mu held.
func (x *index) grow() *indexBlock {
	if x.next%indexBlockItems == 0 {
		x.blocks = append(x.blocks, &indexBlock{before: x.last.clone(), minute: x.minute})
	}
	return x.blocks[len(x.blocks)-1]
}

// trim forgets the items before first, which the log has evicted.
func (x *index) trim(first uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if first > x.next {
		first = x.next
	}
	x.first = max(x.first, first)
	// The position before item first is still wanted, so its block stays.
	keep := (x.first - 1) / indexBlockItems
	for x.block0 < keep {
		x.blocks[0] = nil
		x.blocks = x.blocks[1:]
		x.block0++
	}
}

// at returns the position after item seq. Call with mu held, and
// first-1 <= seq < next.
func (x *index) at(seq uint64) vector {
	b := x.blocks[seq/indexBlockItems-x.block0]
	v := b.before.clone()
	for i := range b.items[:seq%indexBlockItems+1] {
		switch it := &b.items[i]; {
		case it.topic < 0:
			v = b.jumps[i].clone()
		case it.nextOffset > 0: // item 0 is the beginning and moves nothing
			v.extend(x.base)
			v[it.topic][it.partition] = it.nextOffset
		}
	}
	v.extend(x.base)
	return v
}

// attach finds the oldest log position at or past want in every partition,
// and returns the position after it and a time that is not later than it. ok
// is false when the newest item is not there yet; then the hub's own position
// decides.
func (x *index) attach(want vector) (at vector, minute int64, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.last.covers(want) {
		return nil, 0, false
	}
	lo, hi := x.first-1, x.next-1 // at(hi) covers want
	for lo < hi {
		mid := lo + (hi-lo)/2
		if x.at(mid).covers(want) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return x.at(lo), x.minuteAt(lo), true
}

// minuteAt is the time of a record not far before item seq: exact to a block.
// Call with mu held.
func (x *index) minuteAt(seq uint64) int64 { return x.blocks[seq/indexBlockItems-x.block0].minute }

// oldest returns the position before the oldest item that the log holds.
func (x *index) oldest() vector {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.at(x.first - 1)
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
	pos, tags, _, ok := parsePosition(id)
	if !ok || !slices.Equal(tags, x.tags) {
		return 0, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	pos.extend(x.base)
	lo, hi := x.first-1, x.next-1
	if !pos.covers(x.at(lo)) {
		return 0, false // older than what the log holds
	}
	for lo < hi { // at(lo) is covered by pos
		mid := lo + (hi-lo+1)/2
		if pos.covers(x.at(mid)) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo, true
}
