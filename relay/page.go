package relay

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
)

const (
	longPollEvents = 500
	longPollBytes  = 1 << 20
)

// A page is a piece of history, written down, and what follows it.
type page struct {
	w      *writer
	link   link // its state moves along with the page
	topics []*topicInfo
	tags   []cursor.Tag
	pos    vector
	now    time.Time

	maxBytes  int
	maxEvents int64  // 0: none
	until     vector // where a bounded replay ends; nil while unknown

	out     []byte
	id      []byte
	events  int64
	minute  int64
	sinceID int64 // events since one carried an id
	spent   bool  // ReplayBytes are used up
	ended   string
}

// record implements walker.
func (p *page) record(_ int, r *kgo.Record) bool {
	p.minute = minuteOf(r.Timestamp, p.now)
	p.id = p.appendID(p.id[:0], 0)
	id := p.id
	if long := len(id) > cursor.EveryEventBytes && p.w.ids != idEvery; long && p.sinceID+1 < batchIDEvents {
		p.sinceID++
		id = nil
	} else {
		p.sinceID = 0
	}
	p.add(func(dst []byte) []byte { return p.w.appendRecord(dst, p.link.Via, r, id) })
	p.events++
	p.link.Replayed++
	if p.link.Limit > 0 {
		if p.link.Limit--; p.link.Limit == 0 {
			p.ended = "limit"
			return false
		}
	}
	if p.link.ReplayBytes > 0 {
		if p.link.ReplayBytes -= recordBytes(r) - recordOverhead; p.link.ReplayBytes <= 0 {
			p.link.ReplayBytes, p.spent = 0, true
			return false
		}
	}
	return len(p.out) < p.maxBytes && (p.maxEvents == 0 || p.events < p.maxEvents)
}

// missing implements walker: retention passed the reader.
func (p *page) missing(t int, partition int32, from, to int64) {
	p.control(offsetGap(p.topics[t].name, partition, gapRetention, from, to).event(), 0)
}

// control adds a control event, with the id of where the page is now.
func (p *page) control(e controlEvent, phase cursor.Phase) {
	if p.minute == 0 {
		p.minute = p.now.Unix() / 60
	}
	p.id = p.appendID(p.id[:0], phase)
	p.add(func(dst []byte) []byte { return p.w.appendControl(dst, p.link.Via, e, p.id) })
	p.sinceID = 0
}

// mark ends a page whose last events carried no id, so that a reconnect does
// not repeat them.
func (p *page) mark() {
	p.sinceID = 0
	stream, message := p.w.idOnly(p.id)
	switch {
	case p.link.LongPoll: // the answer carries the id
	case p.link.Via == overHTTP:
		p.out = append(p.out, stream...)
	case message != nil:
		p.out = grip.AppendEvent(p.out, grip.Event{Type: grip.EventText, Content: message})
	}
}

// appendID is the cursor of where the page is, in the form that clients see.
func (p *page) appendID(dst []byte, phase cursor.Phase) []byte {
	start := len(dst)
	dst = p.pos.appendCursor(dst, phase, p.minute, p.tags)
	if len(dst)-start > cursor.MaxBytes {
		dst = appendTimeOnly(dst[:start], p.minute, p.tags, p.pos)
	}
	return dst
}

// add appends one event; in a long poll, one member of the events array.
func (p *page) add(write func(dst []byte) []byte) {
	if !p.link.LongPoll {
		p.out = write(p.out)
		return
	}
	if len(p.out) > 0 {
		p.out = append(p.out, ',')
	}
	p.out = write(p.out)
	p.out = p.out[:len(p.out)-1] // the line's end
}

// internalID is the exact position, for the gateway and for links.
func (p *page) internalID() string {
	return string(p.pos.appendCursor(nil, 0, p.now.Unix()/60, p.tags))
}

// follow makes the page that a link asks for, from position pos on. After it,
// p.ended says why the stream ends, or held where it may be held.
func (o *Origin) follow(ctx context.Context, p *page) (ch *channel, held bool, err error) {
	if err := o.pages.Acquire(ctx, 1); err != nil {
		return nil, false, unavailable("wait for a page", err)
	}
	defer o.pages.Release(1)
	ch, to, err := o.target(ctx, p)
	if err != nil {
		return nil, false, err
	}
	bounded := to
	if p.until != nil {
		bounded = earliest(to, p.until)
	}
	if err := o.blocks.walk(ctx, p.topics, p.pos, bounded, p); err != nil {
		return nil, false, err
	}
	switch {
	case p.ended != "":
	case p.spent:
		// The rest of what was asked for is more than one request may replay.
		for t, topic := range p.topics {
			for i := range to[t] {
				if from, end := p.pos[t][i], to[t][i]; from < end {
					p.pos[t][i] = end
					p.control(offsetGap(topic.name, int32(i), gapReplayLimit, from, end).event(), 0)
				}
			}
		}
	case p.until != nil && p.pos.covers(p.until):
		p.ended = "until"
	}
	if p.sinceID > 0 && p.ended == "" {
		p.mark()
	}
	if p.ended != "" {
		p.control(controlEvent{name: "end", data: endData{Reason: p.ended}}, cursor.PhaseEnd)
		return ch, false, nil
	}
	if !p.pos.covers(to) {
		return ch, false, nil
	}
	if p.link.Marks && !p.link.LongPoll {
		p.control(controlEvent{name: "live", data: liveData{Replayed: p.link.Replayed}}, 0)
		p.link.Marks = false
	}
	return ch, true, nil
}

// target is where the page's stream joins the live channel.
func (o *Origin) target(ctx context.Context, p *page) (*channel, vector, error) {
	ch, head, err := o.hub.open(ctx, p.topics, p.link.holdRendering())
	if err != nil {
		return nil, nil, err
	}
	if err := o.resolver.complete(ctx, p.topics, p.pos, head); err != nil {
		return nil, nil, err
	}
	if p.link.Until > 0 && p.until == nil {
		if until := time.UnixMilli(p.link.Until); !until.After(p.now) {
			if p.until, err = o.resolver.after(ctx, p.topics, head, until); err != nil {
				return nil, nil, err
			}
			p.link.Bound = string(p.until.appendCursor(nil, 0, p.now.Unix()/60, p.tags))
		}
	}
	to, err := o.hub.attach(ctx, ch, p.topics, p.pos)
	if err != nil {
		return nil, nil, err
	}
	if ch.form == formHint {
		// A hint has no content to skip: the newest position saves going
		// through them one by one.
		if to, err = o.hub.position(p.topics); err != nil {
			return nil, nil, err
		}
	}
	return ch, to, o.resolver.complete(ctx, p.topics, p.pos, to)
}

// position is H of the topics now.
func (h *hub) position(topics []*topicInfo) (vector, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pos, ok := h.positionOf(topics)
	if !ok {
		return nil, unavailable("read position", errors.New("a topic stopped being read"))
	}
	return pos, nil
}

// earliest is the earlier of two positions, partition by partition.
func earliest(a, b vector) vector {
	out := a.clone()
	for t := range out {
		for p := range out[t] {
			if p < len(b[t]) {
				out[t][p] = min(out[t][p], b[t][p])
			}
		}
	}
	return out
}
