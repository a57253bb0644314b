package relay

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
// but index are guarded by hub.mu.
type channel struct {
	writer
	name  string
	log   grip.Channel
	index *index
	tags  []cursor.Tag

	// stale says that the hub has moved since the newest item, over records
	// that made none.
	stale    bool
	lastItem time.Time
	lastID   time.Time // when an item last carried an id
	sinceID  int       // events since then

	// Scratch space, used again for every batch.
	buf     []byte
	items   []grip.Item
	streams []grip.HTTPStream
	message []grip.WSMessage
	spans   []span

	encoded *[numKinds]prometheus.Counter
	unsent  prometheus.Counter
}

// A span is where the frames of one item lie in channel.buf.
type span struct {
	stream     [2]int
	message    [2]int
	raw        []byte // the message, where it is the value itself
	typ        grip.MessageType
	hasMessage bool
	topic      int32
	partition  int32
	next       int64
	minute     int64
}

// append adds the records of one partition to the channel. h is the hub's
// position before them; afterwards the caller moves it past the last one.
func (c *channel) append(h vector, topic int, partition int32, records []*kgo.Record, now time.Time) {
	if !slices.ContainsFunc(records, func(r *kgo.Record) bool { return !r.Attrs.IsControl() }) {
		c.stale = true
		return
	}
	if c.form == formHint {
		c.appendHint(h, topic, partition, records, now)
		return
	}
	before, after := c.cursorAround(h, topic, partition)
	c.buf, c.spans = c.buf[:0], c.spans[:0]
	var id []byte
	for i, r := range records {
		if r.Attrs.IsControl() {
			c.stale = true
			continue
		}
		s := span{topic: int32(topic), partition: partition, next: r.Offset + 1, minute: minuteOf(r.Timestamp, now)}
		id = cursor.AppendHead(id[:0], 0, s.minute)
		id = append(id, before...)
		id = strconv.AppendInt(id, s.next, 36)
		id = append(id, after...)
		kind := c.kind(r)
		c.encoded[kind].Inc()
		wireID := c.wireID(id, h, s.minute, i == len(records)-1, now)

		s.stream[0] = len(c.buf)
		if c.form != formJSON {
			c.buf = c.appendStream(c.buf, r, kind, wireID)
		}
		s.stream[1] = len(c.buf)
		if c.form != formNDJSON {
			var content []byte
			s.message[0] = len(c.buf)
			c.buf, content, s.typ, s.hasMessage = c.appendMessage(c.buf, r, kind, wireID)
			s.message[1] = len(c.buf)
			if s.message[0] == s.message[1] {
				s.raw = content
			}
			if !s.hasMessage {
				c.unsent.Inc()
			}
		}
		c.spans = append(c.spans, s)
	}
	c.publish(h, now)
}

// publish hands the spans to the gateway, position by position.
func (c *channel) publish(h vector, now time.Time) {
	n := len(c.spans)
	if n == 0 {
		return
	}
	c.items, c.streams, c.message = grown(c.items, n), grown(c.streams, n), grown(c.message, n)
	for i, s := range c.spans {
		c.items[i] = grip.Item{}
		if s.stream[1] > s.stream[0] {
			c.streams[i] = grip.HTTPStream{Content: c.buf[s.stream[0]:s.stream[1]]}
			c.items[i].HTTPStream = &c.streams[i]
		}
		if s.hasMessage {
			content := s.raw
			if content == nil {
				content = c.buf[s.message[0]:s.message[1]]
			}
			c.message[i] = grip.WSMessage{Type: s.typ, Content: content}
			c.items[i].WSMessage = &c.message[i]
		}
		if c.stale {
			to := h.clone()
			to[s.topic][s.partition] = s.next
			c.index.jump(to, s.minute)
			c.stale = false
		} else {
			c.index.item(s.topic, s.partition, s.next, s.minute)
		}
	}
	c.log.Append(c.items[:n])
	c.lastItem = now
	first, _ := c.log.Retained()
	c.index.trim(first)
}

// appendHint tells whoever waits that the view has news.
func (c *channel) appendHint(h vector, topic int, partition int32, records []*kgo.Record, now time.Time) {
	last := records[len(records)-1]
	to := h.clone()
	to[topic][partition] = last.Offset + 1
	c.index.jump(to, minuteOf(last.Timestamp, now))
	c.log.Append([]grip.Item{{
		HTTPStream:   &grip.HTTPStream{Action: grip.ActionHint},
		HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint},
		WSMessage:    &grip.WSMessage{Action: grip.ActionHint},
	}})
	c.lastItem = now
	first, _ := c.log.Retained()
	c.index.trim(first)
}

// appendIDOnly moves the cursor of quiet listeners to the hub's position h
// (event-semantics.md 3.4).
func (c *channel) appendIDOnly(h vector, now time.Time) {
	minute := now.Unix() / 60
	id := h.appendCursor(nil, 0, minute, c.tags)
	if len(id) > c.maxID {
		id = appendTimeOnly(nil, 0, minute, c.tags, h)
	}
	stream, message := c.idOnly(id)
	item := grip.Item{}
	if stream != nil {
		item.HTTPStream = &grip.HTTPStream{Content: stream}
	}
	if message != nil {
		item.WSMessage = &grip.WSMessage{Content: message}
	}
	c.index.jump(h, minute)
	c.log.Append([]grip.Item{item})
	c.stale, c.lastItem, c.lastID, c.sinceID = false, now, now, 0
	first, _ := c.log.Retained()
	c.index.trim(first)
}

// cursorAround is the text of h's cursor before and after the offset of one
// partition, without the head: the only parts that change from record to
// record are the head's time and that offset.
func (c *channel) cursorAround(h vector, topic int, partition int32) (before, after []byte) {
	var text []byte
	var cut int
	for t := range h {
		text = append(text, separator(t))
		text = append(text, c.tags[t][:]...)
		text = append(text, '.')
		text = strconv.AppendInt(text, int64(len(h[t])), 10)
		for p, next := range h[t] {
			text = append(text, '.')
			if t == topic && p == int(partition) {
				cut = len(text)
				continue
			}
			text = strconv.AppendInt(text, next, 36)
		}
	}
	return text[:cut:cut], text[cut:]
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
	if !lastOfBatch && c.sinceID < batchIDEvents && now.Sub(c.lastID) < batchIDInterval {
		return nil
	}
	c.sinceID, c.lastID = 0, now
	if timeOnly {
		return appendTimeOnly(nil, 0, minute, c.tags, h)
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
