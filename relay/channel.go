package relay

import (
	"time"

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
	query   *query
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
	stale     bool
	inQuiet   bool // it is in hub.quiet
	attached  bool // streams were attached when sweep last looked
	snapshots bool // some of them began with a snapshot, at some time
}

// A stamp is a time in a third of the memory: nanoseconds since 1970.
type stamp int64

func stampOf(t time.Time) stamp { return stamp(t.UnixNano()) }

// since is how long ago s was at t.
func (s stamp) since(t time.Time) time.Duration { return time.Duration(stampOf(t) - s) }

// append adds the records of a batch that are the view's. h is the hub's
// position before it; afterwards the caller moves it past the last record. Where
// records are chosen, h is shared and never changes.
func (c *channel) append(h vector, topic int, b *batch, records *cut) {
	c.here = nil
	if records.chosen {
		c.stale = true // it never hears of records that it does not have
	}
	switch {
	case len(records.records) == 0:
	case c.form == formHint:
		c.appendHint(h, topic, b, records)
	default:
		c.appendAll(h, topic, b, records)
	}
	c.stale = c.stale || b.moved
}

// appendAll does so for records that make items.
func (c *channel) appendAll(h vector, topic int, b *batch, records *cut) {
	b.c, b.cut, b.h, b.topic, b.done, b.offset = c, records, h, topic, 0, 0
	b.kinds, b.sealer = records.kindsFor(&c.writer), c.veil.sealer()
	b.cursorAround()
	if b.write == nil {
		b.write = b.writeSome
	}
	for before := -1; before < b.done && b.done < len(records.records); { // a closed log takes none
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

// jump tells the index of an item after records that made none. h is the hub's
// position at the beginning of the batch.
func (c *channel) jump(h vector, topic int, partition int32, at move, records *cut) {
	c.stale = false
	if !records.chosen {
		h = h.clone() // it is the hub's own; that of views with a filter is shared
	}
	c.index.jumpAnd(h, topic, partition, at)
}

// appended notes that items were appended.
func (c *channel) appended(now time.Time) {
	c.lastItem = stampOf(now)
	first, _ := c.log.Retained()
	c.index.trim(first)
}

// appendHint tells whoever waits that the view has news, up to the batch's end.
func (c *channel) appendHint(h vector, topic int, b *batch, records *cut) {
	last := records.records[len(records.records)-1]
	at := move{last.Offset + 1, minuteOf(last.Timestamp, b.now)}
	if c.stale {
		c.jump(h, topic, b.partition, at, records)
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

// moveCursor moves the cursor of quiet listeners to the hub's position h, which
// is shared (event-semantics.md 3.4).
func (c *channel) moveCursor(h vector, now time.Time) {
	minute := now.Unix() / 60
	id, sealer := h.appendVisible(nil, 0, minute, c.index.tags, c.query.partsOf()), c.veil.sealer()
	if sealer.Len(len(id)) > int(c.maxID) {
		id = appendTimeOnly(nil, 0, minute, c.index.tags, h)
	}
	id = sealer.Seal(id, 0)
	content := c.appendIDOnly(nil, id)
	e := grip.Entry{Stream: content}
	switch c.form {
	case formJSON:
		e = grip.Entry{Message: content}
	case formCloud:
		e.Message = c.appendControlJSON(nil, controlEvent{name: "cursor"}, id)
	}
	c.here = nil
	c.index.jump(h, minute)
	c.stale, c.lastID, c.sinceID = false, stampOf(now), 0
	c.log.Write(func(out grip.Batch) { out.Add(e) })
	c.appended(now)
}

// wireID is what an event shows of its id, by the rule for long cursors
// (event-semantics.md 3.6), before it is sealed.
func (c *channel) wireID(id []byte, sealer *cursor.Sealer, h vector, minute int64, lastOfBatch bool, now time.Time) []byte {
	var timeOnly bool
	switch length := sealer.Len(len(id)); {
	case length > int(c.maxID):
		timeOnly = true
	case c.ids == idEvery, c.ids == idAuto && length <= cursor.EveryEventBytes:
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
