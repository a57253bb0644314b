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

// A scratch is memory that is used again for every batch of every channel.
// Guarded by hub.mu.
type scratch struct {
	buf      []byte
	id       []byte
	before   []byte
	after    []byte
	position vector
	spans    []span
	items    []grip.Item
	streams  []grip.HTTPStream
	messages []grip.WSMessage
}

const (
	// flushBytes is how many bytes of frames are collected at most before the
	// gateway gets them; one larger record still is one.
	flushBytes = 1 << 20
	// keepBytes is how large a buffer may be to be used again.
	keepBytes = 4 << 20
)

// A span is where the frames of one item lie in scratch.buf.
type span struct {
	stream     [2]int
	message    [2]int
	raw        []byte // the message, where it is the value itself
	typ        grip.MessageType
	hasMessage bool
	stale      bool // the hub moved over records that made no item before this one
	topic      int32
	partition  int32
	next       int64
	minute     int64
}

// append adds the records of one partition to the channel. h is the hub's
// position before them; afterwards the caller moves it past the last one.
func (c *channel) append(h vector, topic int, partition int32, records []*kgo.Record, now time.Time, sc *scratch) {
	c.here = nil
	last := len(records) - 1
	for last >= 0 && records[last].Attrs.IsControl() {
		last--
	}
	moved := last < len(records)-1 // past the last item that follows from here
	switch {
	case last < 0:
	case c.form == formHint:
		c.appendHint(h, topic, partition, records[last], now)
	default:
		c.appendAll(h, topic, partition, records[:last+1], now, sc)
	}
	c.stale = c.stale || moved
}

// appendAll does so for records of which the last is an item.
func (c *channel) appendAll(h vector, topic int, partition int32, records []*kgo.Record, now time.Time, sc *scratch) {
	c.cursorAround(h, topic, partition, sc)
	for i, r := range records {
		if r.Attrs.IsControl() {
			c.stale = true
			continue
		}
		s := span{topic: int32(topic), partition: partition, next: r.Offset + 1, minute: minuteOf(r.Timestamp, now), stale: c.stale}
		c.stale = false
		sc.id = cursor.AppendHead(sc.id[:0], 0, s.minute)
		sc.id = append(sc.id, sc.before...)
		sc.id = strconv.AppendInt(sc.id, s.next, 36)
		sc.id = append(sc.id, sc.after...)
		kind := c.kind(r)
		c.metrics.encoded[kind].Inc()
		id := c.wireID(sc.id, h, s.minute, i == len(records)-1, now)

		s.stream[0] = len(sc.buf)
		if c.form != formJSON {
			sc.buf = c.appendStream(sc.buf, r, kind, id)
		}
		s.stream[1] = len(sc.buf)
		if c.form != formNDJSON {
			var content []byte
			s.message[0] = len(sc.buf)
			sc.buf, content, s.typ, s.hasMessage = c.appendMessage(sc.buf, r, kind, id)
			s.message[1] = len(sc.buf)
			if s.message[0] == s.message[1] {
				s.raw = content
			}
			if !s.hasMessage {
				c.metrics.unsent.Inc()
			}
		}
		sc.spans = append(sc.spans, s)
		if len(sc.buf) >= flushBytes {
			c.publish(h, now, sc)
		}
	}
	c.publish(h, now, sc)
}

// publish hands the spans to the gateway, position by position.
func (c *channel) publish(h vector, now time.Time, sc *scratch) {
	n := len(sc.spans)
	if n == 0 {
		return
	}
	sc.items, sc.streams, sc.messages = grown(sc.items, n), grown(sc.streams, n), grown(sc.messages, n)
	for i := range sc.spans {
		s := &sc.spans[i]
		sc.items[i] = grip.Item{}
		if s.stream[1] > s.stream[0] {
			sc.streams[i] = grip.HTTPStream{Content: sc.buf[s.stream[0]:s.stream[1]]}
			sc.items[i].HTTPStream = &sc.streams[i]
		}
		if s.hasMessage {
			content := s.raw
			if content == nil {
				content = sc.buf[s.message[0]:s.message[1]]
			}
			sc.messages[i] = grip.WSMessage{Type: s.typ, Content: content}
			sc.items[i].WSMessage = &sc.messages[i]
		}
		c.note(h, s.stale, int(s.topic), s.partition, s.next, s.minute)
	}
	c.appendItems(sc.items[:n], now)
	clear(sc.spans) // no record must live as long as the scratch
	clear(sc.messages)
	sc.spans, sc.buf = sc.spans[:0], sc.buf[:0]
	if cap(sc.buf) > keepBytes {
		sc.buf = nil
	}
}

// note tells the index of the next item, after which partition is at next.
func (c *channel) note(h vector, stale bool, topic int, partition int32, next, minute int64) {
	if !stale {
		c.index.item(int32(topic), partition, next, minute)
		return
	}
	to := h.clone()
	to[topic][partition] = next
	c.index.jump(to, minute)
}

// appendItems hands items that the index knows to the gateway.
func (c *channel) appendItems(items []grip.Item, now time.Time) {
	c.log.Append(items)
	c.lastItem = stampOf(now)
	first, _ := c.log.Retained()
	c.index.trim(first)
}

// appendHint tells whoever waits that the view has news, up to last.
func (c *channel) appendHint(h vector, topic int, partition int32, last *kgo.Record, now time.Time) {
	c.note(h, c.stale, topic, partition, last.Offset+1, minuteOf(last.Timestamp, now))
	c.stale = false
	c.appendItems([]grip.Item{{
		HTTPStream:   &grip.HTTPStream{Action: grip.ActionHint},
		HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint},
		WSMessage:    &grip.WSMessage{Action: grip.ActionHint},
	}}, now)
}

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
	item := grip.Item{}
	if c.form == formJSON {
		item.WSMessage = &grip.WSMessage{Content: content}
	} else {
		item.HTTPStream = &grip.HTTPStream{Content: content}
	}
	c.index.jump(h, minute)
	c.stale, c.lastID, c.sinceID = false, stampOf(now), 0
	c.appendItems([]grip.Item{item}, now)
}

// cursorAround writes the text of h's cursor before and after the offset of
// one partition, without the head: the only parts that change from record to
// record are the head's time and that offset.
func (c *channel) cursorAround(h vector, topic int, partition int32, sc *scratch) {
	sc.before, sc.after = sc.before[:0], sc.after[:0]
	text := &sc.before
	for t := range h {
		*text = append(*text, separator(t))
		*text = append(*text, c.index.tags[t][:]...)
		*text = append(*text, '.')
		*text = strconv.AppendInt(*text, int64(len(h[t])), 10)
		for p, next := range h[t] {
			*text = append(*text, '.')
			if t == topic && p == int(partition) {
				text = &sc.after
				continue
			}
			*text = strconv.AppendInt(*text, next, 36)
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

func grown[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/2)
	}
	return s[:n]
}
