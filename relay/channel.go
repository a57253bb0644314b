package relay

import (
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
)

// batchIDInterval and batchIDEvents bound how many events in a row may go
// without an id under idBatch.
const (
	batchIDInterval = time.Second
	batchIDEvents   = 100
)

// A channel is a view in one rendering: what the gateway fans out. All fields
// but writer, index and links are guarded by hub.mu. There may be very many,
// most of them quiet.
type channel struct {
	writer
	log     grip.Channel
	view    *view // nil when it is closed
	index   index
	here    *standing // where it stands; nil when nobody has asked yet
	links   linkCache
	metrics *hubMetrics

	lastItem stamp
	wanted   stamp // when a stream was last seen to be attached, or a request asked for it
	lastID   stamp // when an item last carried an id
	sinceID  int32 // events since then
	atView   int32 // places in view.channels,
	inRound  int32 // and in hub.round

	// stale says that the hub has moved since the newest item, over records
	// that made none.
	stale    bool
	inQuiet  bool // it is in hub.quiet
	attached bool // streams were attached when sweep last looked
}

// A stamp is a time in a third of the memory: nanoseconds since 1970.
type stamp int64

func stampOf(t time.Time) stamp { return stamp(t.UnixNano()) }

// since is how long ago s was at t.
func (s stamp) since(t time.Time) time.Duration { return time.Duration(stampOf(t) - s) }

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

// append adds a batch to the channel. h is the hub's position before it;
// afterwards the caller moves it past the last record.
func (c *channel) append(h vector, topic int, b *batch) {
	c.here = nil
	switch {
	case len(b.records) == 0:
	case c.form == formHint:
		c.appendHint(h, topic, b)
	default:
		c.appendAll(h, topic, b)
	}
	c.stale = c.stale || b.moved
}

// appendAll does so for records that make items.
func (c *channel) appendAll(h vector, topic int, b *batch) {
	b.c, b.h, b.topic, b.done, b.offset = c, h, topic, 0, 0
	b.kinds = b.kindsFor(&c.writer)
	b.cursorAround()
	if b.write == nil {
		b.write = b.writeSome
	}
	for before := -1; before < b.done && b.done < len(b.records); { // a closed log takes none
		before = b.done
		c.log.Write(b.write)
	}
	c.appended(b.now)
	for kind, n := range b.counted {
		if n > 0 {
			c.metrics.encoded[kind].Add(float64(n))
		}
	}
	c.metrics.unsent.Add(float64(b.unsent))
	b.counted, b.unsent = [numKinds]int{}, 0
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

// jump tells the index of an item after records that made none. h is the hub's
// position at the beginning of the batch.
func (c *channel) jump(h vector, topic int, partition int32, at move) {
	c.stale = false
	to := h.clone()
	to[topic][partition] = at.next
	c.index.jump(to, at.minute)
}

// appended notes that items were appended.
func (c *channel) appended(now time.Time) {
	c.lastItem = stampOf(now)
	first, _ := c.log.Retained()
	c.index.trim(first)
}

// appendHint tells whoever waits that the view has news, up to the batch's end.
func (c *channel) appendHint(h vector, topic int, b *batch) {
	last := b.records[len(b.records)-1]
	at := move{last.Offset + 1, minuteOf(last.Timestamp, b.now)}
	if c.stale {
		c.jump(h, topic, b.partition, at)
	} else {
		b.moves = append(b.moves, at)
		c.index.items(int32(topic), b.partition, b.moves)
		b.moves = b.moves[:0]
	}
	c.log.Write(addHint)
	c.appended(b.now)
}

func addHint(out grip.Batch) { out.Add(grip.Entry{Action: grip.ActionHint}) }

// hasIDOnly reports whether the cursors of quiet listeners are to be moved.
func (c *channel) hasIDOnly() bool { return !c.commentOnly && c.form != formHint }

// moveCursor moves the cursor of quiet listeners to the hub's position h
// (event-semantics.md 3.4).
func (c *channel) moveCursor(h vector, now time.Time) {
	minute := now.Unix() / 60
	id := h.appendCursor(nil, 0, minute, c.index.tags)
	if len(id) > c.maxID {
		id = appendTimeOnly(nil, 0, minute, c.index.tags, h)
	}
	content := c.appendIDOnly(nil, id)
	e := grip.Entry{Stream: content}
	if c.form == formJSON {
		e = grip.Entry{Message: content}
	}
	c.index.jump(h, minute)
	c.stale, c.lastID, c.sinceID = false, stampOf(now), 0
	c.log.Write(func(out grip.Batch) { out.Add(e) })
	c.appended(now)
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

// wireID is what an event shows of its id, by the rule for long cursors
// (event-semantics.md 3.6).
func (c *channel) wireID(id []byte, h vector, minute int64, lastOfBatch bool, now time.Time) []byte {
	var timeOnly bool
	switch {
	case len(id) > c.maxID:
		timeOnly = true
	case c.ids == idEvery, c.ids == idAuto && len(id) <= cursor.EveryEventBytes:
		return id
	}
	c.sinceID++
	if !lastOfBatch && c.sinceID < batchIDEvents && c.lastID.since(now) < batchIDInterval {
		return nil
	}
	c.sinceID, c.lastID = 0, stampOf(now)
	if timeOnly {
		return appendTimeOnly(nil, 0, minute, c.index.tags, h)
	}
	return id
}

// appendTimeOnly writes a cursor that resumes by time: for views with more
// partitions than a request header has room for.
func appendTimeOnly(dst []byte, phase cursor.Phase, minute int64, tags []cursor.Tag, h vector) []byte {
	dst = cursor.AppendHead(dst, phase, minute)
	for t := range h {
		dst = append(dst, separator(t))
		dst = cursor.AppendUnknown(dst, tags[t], len(h[t]))
	}
	return dst
}

func separator(topic int) byte {
	if topic == 0 {
		return '-'
	}
	return '~'
}

// minuteOf is the time that a cursor carries: of the record, or now, if earlier.
func minuteOf(t, now time.Time) int64 {
	return max(min(t.Unix(), now.Unix())/60, 0)
}
