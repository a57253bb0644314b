package relay

import (
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
	"spillway/relay/filter"
)

// flushBytes is how many bytes of frames are collected at most before streams
// get them; one larger record still is one.
const flushBytes = 1 << 20

// none is the place of nothing in a list.
const none = -1

// A batch is the records of one partition that are being appended: what of them
// is the same for all channels is worked out once. Its memory is used again.
// Guarded by hub.mu.
type batch struct {
	all       cut // all records
	part      cut // those that one view has, as it shows them
	partition int32
	moved     bool // the partition goes on behind them, over records that make none
	now       time.Time

	hit       []*membership // views with a filter that have some of the records,
	hits      []hit         // and which
	seen      filter.Record
	projected []kgo.Record // memory of part's records where a projection made them,
	values    []byte       // and of their values

	// What is being written to one channel.
	c       *channel
	cut     *cut
	h       vector // the hub's position before the records
	topic   int    // of the view, the one that the records are of
	done    int    // records that were written
	kinds   []recordKind
	sealer  *cursor.Sealer
	sealed  []byte // memory of what clients get of id
	id      []byte // the cursor after a record,
	minute  int64  // the time in it,
	offset  int    // and where in it the partition's offset begins; 0: it is of another channel
	key     []byte // memory of keyOf
	before  []byte // text between the time and that offset,
	after   []byte // and after it
	moves   []move // that the index has not been told of
	counted [numKinds]int
	unsent  int
	write   func(grip.Batch) // writeSome
}

// A cut is the records of a batch that a view has.
type cut struct {
	records []*kgo.Record // up to the last that makes an item
	plain   []recordKind  // by record, as formPlain sees it; empty: not worked out
	rich    []recordKind  // as all other forms do
	chosen  bool          // there may be records between them that the view has not
}

func (c *cut) set(records []*kgo.Record) {
	c.records, c.plain, c.rich = records, c.plain[:0], c.rich[:0]
}

// A hit is a record of the batch that a view has, and where the view's next is.
// One that is gone takes its key out of the view.
type hit struct {
	record, next int32
	gone         bool
}

// set makes b the batch of these records.
func (b *batch) set(partition int32, records []*kgo.Record, now time.Time) {
	last := len(records) - 1
	for last >= 0 && records[last].Attrs.IsControl() {
		last--
	}
	b.all.set(records[:last+1])
	b.partition, b.now, b.moved = partition, now, last < len(records)-1
}

// reset lets go of everything but memory.
func (b *batch) reset() {
	b.all.records, b.c, b.cut, b.h, b.kinds = nil, nil, nil, nil, nil
	clear(b.part.records)
	clear(b.hit)
	clear(b.projected)
	b.hit, b.hits = b.hit[:0], b.hits[:0]
	b.seen.Reset(nil)
	if cap(b.values) > flushBytes {
		b.values = nil
	}
}

// filter finds the views that have some of the records, and which, and gives
// the records to the topic's maps.
func (b *batch) filter(t *topic) {
	for i, r := range b.all.records {
		if r.Attrs.IsControl() {
			continue
		}
		b.seen.Reset(r)
		t.filters.Match(&b.seen, func(in *membership) {
			if !isTombstone(r) || !in.view.query.changing || t.maps.current(in.view.query.filter) == nil {
				b.add(in, hit{record: int32(i)})
			}
		})
		if t.maps != nil {
			t.maps.take(t, b, i, r)
		}
	}
}

// add notes that a view has a hit.
func (b *batch) add(in *membership, h hit) {
	v, n := in.view, int32(len(b.hits))
	h.next = none
	b.hits = append(b.hits, h)
	if v.firstHit == none {
		b.hit = append(b.hit, in)
		v.firstHit = n
	} else {
		b.hits[v.lastHit].next = n
	}
	v.lastHit = n
}

// leaving adds a hit of record number i, which replaces old, to the views that
// had old and have not got the record.
func (b *batch) leaving(filters *filter.Index[*membership], i int, old *kgo.Record) {
	if old == nil {
		return
	}
	b.seen.Reset(old)
	filters.Match(&b.seen, func(in *membership) {
		if v := in.view; v.query.changing && (v.firstHit == none || b.hits[v.lastHit].record != int32(i)) {
			b.leaves(in, i)
		}
	})
}

// leaves adds a hit of record number i to a view that has no longer got its key.
func (b *batch) leaves(in *membership, i int) {
	if in.view.query.partsOf().has(int(b.partition)) { // else its cursors do not move with the record
		b.add(in, hit{record: int32(i), gone: true})
	}
}

// hitsOf returns the records of a view that filter found, and forgets that it
// did. What it returns holds until the next.
func (b *batch) hitsOf(v *view) *cut {
	b.part.set(b.part.records[:0])
	for i := v.firstHit; i != none; i = b.hits[i].next {
		r := b.all.records[b.hits[i].record]
		if b.hits[i].gone {
			r = tombstone(r)
		}
		b.part.records = append(b.part.records, r)
	}
	v.firstHit, v.lastHit = none, none
	b.part.chosen = true
	b.project(v.query)
	return &b.part
}

// isTombstone reports whether a record says that its key is gone.
func isTombstone(r *kgo.Record) bool {
	if r.Value != nil {
		return false
	}
	o := outcomeOf(r)
	return o == nil || o.undecodable == ""
}

// tombstone is what a view shows of a record that its filter does not pass:
// where it is, and the key.
func tombstone(r *kgo.Record) *kgo.Record {
	return &kgo.Record{Key: r.Key, Timestamp: r.Timestamp, Topic: r.Topic, Partition: r.Partition, Attrs: r.Attrs, Offset: r.Offset}
}

// wholeFor returns all records as a view without a filter shows them. What it
// returns holds until the next.
func (b *batch) wholeFor(q *query) *cut {
	if q == nil || q.fields == nil {
		return &b.all
	}
	b.part.set(append(b.part.records[:0], b.all.records...))
	b.part.chosen = false
	b.project(q)
	return &b.part
}

// project replaces the records of part by what the query shows of them.
func (b *batch) project(q *query) {
	if q.fields == nil {
		return
	}
	b.projected, b.values = slices.Grow(b.projected[:0], len(b.part.records)), b.values[:0]
	for i, r := range b.part.records {
		b.projected = append(b.projected, *r)
		shown := &b.projected[i]
		b.values = q.project(shown, b.values)
		b.part.records[i] = shown
	}
}

// kindsFor returns what kind each record of the cut is to a channel.
func (c *cut) kindsFor(w *writer) []recordKind {
	if len(c.plain) == 0 {
		for _, r := range c.records {
			c.plain = append(c.plain, w.plainKind(r))
		}
	}
	if w.form == formPlain {
		return c.plain
	}
	if len(c.rich) == 0 {
		for i, r := range c.records {
			c.rich = append(c.rich, richKind(r, c.plain[i]))
		}
	}
	return c.rich
}

// writeSome writes records into the channel's log, as far as they go out
// together, and tells the index of them before they can be seen.
func (b *batch) writeSome(out grip.Batch) {
	c := b.c
	for size := 0; b.done < len(b.cut.records) && size < flushBytes; b.done++ {
		r := b.cut.records[b.done]
		if r.Attrs.IsControl() {
			c.stale = true
			continue
		}
		kind, at := b.kinds[b.done], move{r.Offset + 1, minuteOf(r.Timestamp, b.now)}
		b.counted[kind]++
		id := c.wireID(b.cursor(at), b.sealer, b.h, at.minute, b.done == len(b.cut.records)-1, b.now)
		if b.sealer != nil && id != nil {
			b.sealed = b.sealer.Seal(append(b.sealed[:0], id...), 0)
			id = b.sealed
		}
		e := b.encode(out, r, kind, id)
		if c.stale {
			b.tellIndex()
			c.jump(b.h, b.topic, b.partition, at, b.cut)
		} else {
			b.moves = append(b.moves, at)
		}
		out.Add(e)
		size += len(e.Stream) + len(e.Message)
	}
	b.tellIndex()
}

// tellIndex tells the index of the items that were added since it was last told.
func (b *batch) tellIndex() {
	b.c.index.items(int32(b.topic), b.partition, b.moves)
	b.moves = b.moves[:0]
}

// encode writes one record down in every form that the channel has.
func (b *batch) encode(out grip.Batch, r *kgo.Record, kind recordKind, id []byte) (e grip.Entry) {
	w := &b.c.writer
	e.Key = b.keyOf(r)
	if w.form == formEnvelope && kind != kindOversize || w.form == formCloud {
		e.Stream, e.Message = w.appendEnvelopes(out.Stream(w.streamSize(r, kind, id)), out.Message(w.messageSize(r, kind, id)), r, kind, id)
		return e
	}
	if w.form != formJSON {
		e.Stream = w.appendStream(out.Stream(w.streamSize(r, kind, id)), r, kind, id)
	}
	if w.form.lines() {
		return e
	}
	var raw bool
	switch e.Message, e.Type, raw = w.rawMessage(r, kind); {
	case raw:
	case w.hasMessage(kind):
		e.Message = w.appendMessage(out.Message(w.messageSize(r, kind, id)), r, kind, id)
	default:
		b.unsent++
	}
	return e
}

// keyOf is what the record is the newest word about; nil: nothing. What it
// returns holds until the next.
func (b *batch) keyOf(r *kgo.Record) []byte {
	if len(b.h) == 1 || r.Key == nil {
		return r.Key
	}
	b.key = append(append(append(b.key[:0], r.Topic...), 0), r.Key...)
	return b.key
}

// cursor writes the cursor after a record. What it returns holds until the next.
func (b *batch) cursor(at move) []byte {
	if b.offset == 0 || b.minute != at.minute {
		b.id = cursor.AppendHead(b.id[:0], 0, at.minute)
		b.id = append(b.id, b.before...)
		b.minute, b.offset = at.minute, len(b.id)
	}
	b.id = cursor.AppendOffset(b.id[:b.offset], at.next)
	b.id = append(b.id, b.after...)
	return b.id
}

// cursorAround writes the text of the channel's cursor before and after the
// partition's offset, without the head: the only parts that change from record to
// record are the head's time and that offset.
func (b *batch) cursorAround() {
	b.before, b.after = b.before[:0], b.after[:0]
	text := &b.before
	parts := b.c.query.partsOf()
	for t := range b.h {
		*text = append(*text, separator(t))
		*text = append(*text, b.c.index.tags[t][:]...)
		*text = append(*text, '.')
		*text = strconv.AppendInt(*text, int64(parts.count(len(b.h[t]))), 10)
		for p, next := range b.h[t] {
			if !parts.has(p) {
				continue
			}
			*text = append(*text, '.')
			if parts != nil {
				*text = append(cursor.AppendOffset(*text, int64(p)), '_')
			}
			if t == b.topic && p == int(b.partition) {
				text = &b.after
				continue
			}
			*text = cursor.AppendOffset(*text, next)
		}
	}
}
