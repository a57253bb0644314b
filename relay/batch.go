package relay

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
)

// flushBytes is how many bytes of frames are collected at most before streams
// get them; one larger record still is one.
const flushBytes = 1 << 20

// A batch is the records of one partition that are being appended: what of them
// is the same for all channels is worked out once. Its memory is used again.
// Guarded by hub.mu.
type batch struct {
	records   []*kgo.Record // up to the last that makes an item
	partition int32
	moved     bool // the partition goes on behind them, over records that make none
	now       time.Time
	plain     []recordKind // by record, as formPlain sees it; empty: not worked out
	rich      []recordKind // as all other forms do

	// What is being written to one channel.
	c       *channel
	h       vector // the hub's position before the records
	topic   int    // of the view, the one that the records are of
	done    int    // records that were written
	kinds   []recordKind
	id      []byte // the cursor after a record,
	minute  int64  // the time in it,
	offset  int    // and where in it the partition's offset begins; 0: it is of another channel
	before  []byte // text between the time and that offset,
	after   []byte // and after it
	moves   []move // that the index has not been told of
	counted [numKinds]int
	unsent  int
	write   func(grip.Batch) // writeSome
}

// set makes b the batch of these records.
func (b *batch) set(partition int32, records []*kgo.Record, now time.Time) {
	last := len(records) - 1
	for last >= 0 && records[last].Attrs.IsControl() {
		last--
	}
	b.records, b.partition, b.now = records[:last+1], partition, now
	b.moved = last < len(records)-1
	b.plain, b.rich = b.plain[:0], b.rich[:0]
}

// reset lets go of everything but memory.
func (b *batch) reset() { b.records, b.c, b.h, b.kinds = nil, nil, nil, nil }

// kindsFor returns what kind each record is to a channel.
func (b *batch) kindsFor(w *writer) []recordKind {
	if len(b.plain) == 0 {
		for _, r := range b.records {
			b.plain = append(b.plain, w.plainKind(r))
		}
	}
	if w.form == formPlain {
		return b.plain
	}
	if len(b.rich) == 0 {
		for i, r := range b.records {
			b.rich = append(b.rich, richKind(r, b.plain[i]))
		}
	}
	return b.rich
}

// writeSome writes records into the channel's log, as far as they go out
// together, and tells the index of them before they can be seen.
func (b *batch) writeSome(out grip.Batch) {
	c := b.c
	for size := 0; b.done < len(b.records) && size < flushBytes; b.done++ {
		r := b.records[b.done]
		if r.Attrs.IsControl() {
			c.stale = true
			continue
		}
		kind, at := b.kinds[b.done], move{r.Offset + 1, minuteOf(r.Timestamp, b.now)}
		b.counted[kind]++
		id := c.wireID(b.cursor(at), b.h, at.minute, b.done == len(b.records)-1, b.now)
		e := b.encode(out, r, kind, id)
		if c.stale {
			b.tellIndex()
			c.jump(b.h, b.topic, b.partition, at)
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
	if w.form == formEnvelope && kind != kindOversize {
		e.Stream, e.Message = w.appendEnvelopes(out.Stream(w.streamSize(r, kind, id)), out.Message(w.messageSize(r, kind, id)), r, kind, id)
		return e
	}
	if w.form != formJSON {
		e.Stream = w.appendStream(out.Stream(w.streamSize(r, kind, id)), r, kind, id)
	}
	if w.form == formNDJSON {
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
	for t := range b.h {
		*text = append(*text, separator(t))
		*text = append(*text, b.c.index.tags[t][:]...)
		*text = append(*text, '.')
		*text = strconv.AppendInt(*text, int64(len(b.h[t])), 10)
		for p, next := range b.h[t] {
			*text = append(*text, '.')
			if t == b.topic && p == int(b.partition) {
				text = &b.after
				continue
			}
			*text = cursor.AppendOffset(*text, next)
		}
	}
}
