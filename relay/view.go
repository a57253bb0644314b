package relay

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"spillway/relay/cursor"
)

// A view is a selection of topics. Filters, projections and codecs will be
// part of it; its key is canonical, so that equal selections are one view.
// Guarded by hub.mu.
//
// There may be very many views, and of one view many channels: everything that
// happens to one of them takes the same time whatever their number.
type view struct {
	key      string
	topics   []member // in byte order of their names
	channels []*channel
	// byRendering finds one of channels where they are too many to look at
	// each; nil before.
	byRendering map[rendering]*channel
}

// A member is a topic of a view, and its place in the topic's views.
type member struct {
	topic *topic
	at    int
}

// A membership is a view of a topic, and the topic's place in the view's topics.
type membership struct {
	view *view
	at   int
}

// manyChannels is from how many channels on a view has a map of them.
const manyChannels = 8

// view finds or makes the view of topics that are all being read. Call with mu
// held, and give a new one a channel before letting go of it.
func (h *hub) view(infos []*topicInfo) *view {
	var buf [256]byte
	key := buf[:0]
	for i, info := range infos {
		key = appendName(key, i, info.name)
	}
	if v := h.views[string(key)]; v != nil {
		return v
	}
	v := &view{key: infos[0].name, topics: make([]member, len(infos))}
	if len(infos) > 1 {
		v.key = string(key)
	}
	for i, info := range infos {
		t := h.topics[info.name]
		v.topics[i].topic = t
		delete(h.idle, t)
	}
	v.join()
	h.views[v.key] = v
	return v
}

// newChannel opens a channel of a view. Call with mu held.
func (h *hub) newChannel(v *view, r rendering, now time.Time) *channel {
	names, tags := make([]string, len(v.topics)), make([]cursor.Tag, len(v.topics))
	for i, m := range v.topics {
		names[i], tags[i] = m.topic.info.name, m.topic.info.tag
	}
	ch := &channel{
		writer:   writer{rendering: r, channel: channelName(names, v.key, r), maxBytes: h.maxBytes, maxID: h.maxID},
		index:    newIndex(tags, v.position(), now.Unix()/60),
		metrics:  &h.metrics,
		lastItem: stampOf(now),
		inRound:  int32(len(h.round)),
	}
	ch.log = h.gateway.Open(ch.writer.channel, &ch.index)
	v.add(ch)
	h.round = append(h.round, ch)
	return ch
}

// join adds a new view to its topics.
func (v *view) join() {
	for i := range v.topics {
		m := &v.topics[i]
		m.at = len(m.topic.views)
		m.topic.views = append(m.topic.views, membership{v, i})
	}
}

// leave takes it out again.
func (v *view) leave() {
	for _, m := range v.topics {
		views, last := m.topic.views, len(m.topic.views)-1
		moved := views[last]
		views[m.at] = moved
		moved.view.topics[moved.at].at = m.at
		views[last] = membership{}
		m.topic.views = views[:last]
	}
}

// find returns the channel of a rendering, or nil.
func (v *view) find(r rendering) *channel {
	if v.byRendering != nil {
		return v.byRendering[r]
	}
	for _, ch := range v.channels {
		if ch.rendering == r {
			return ch
		}
	}
	return nil
}

func (v *view) add(ch *channel) {
	ch.view, ch.atView = v, int32(len(v.channels))
	v.channels = append(v.channels, ch)
	switch {
	case v.byRendering != nil:
		v.byRendering[ch.rendering] = ch
	case len(v.channels) > manyChannels:
		v.byRendering = make(map[rendering]*channel, 2*manyChannels)
		for _, ch := range v.channels {
			v.byRendering[ch.rendering] = ch
		}
	}
}

func (v *view) remove(ch *channel) {
	last := len(v.channels) - 1
	moved := v.channels[last]
	v.channels[ch.atView], moved.atView = moved, ch.atView
	v.channels[last] = nil
	v.channels = v.channels[:last]
	delete(v.byRendering, ch.rendering)
	ch.view = nil
}

// position is H of the view's topics. It is shared, and not to be changed. Call
// with hub.mu held.
func (v *view) position() vector {
	if len(v.topics) == 1 {
		return v.topics[0].topic.position()
	}
	pos := make(vector, len(v.topics))
	for i, m := range v.topics {
		pos[i] = m.topic.position()[0]
	}
	return pos
}

// position is H of one topic, the same memory as long as it does not move. It
// is not to be changed.
func (t *topic) position() vector {
	if t.snapshot == nil {
		t.snapshot = vector{slices.Clone(t.next)}
	}
	return t.snapshot
}

// viewKey is the canonical text of a selection.
func viewKey(topics []string) string { return string(appendViewKey(nil, topics)) }

func appendViewKey(dst []byte, topics []string) []byte {
	for i, name := range topics {
		dst = appendName(dst, i, name)
	}
	return dst
}

// appendName appends the name of the view's topic number i.
func appendName(dst []byte, i int, name string) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	return append(dst, name...)
}

// channelName is <topic> for the plain channel of one whole topic, as any GRIP
// client would expect, and <topics>~<hash> for all others.
func channelName(topics []string, key string, r rendering) string {
	if len(topics) == 1 && r == (rendering{form: formPlain}) {
		return topics[0]
	}
	sum := sha256.Sum256([]byte(key + "\x00" + r.key()))
	return strings.Join(topics, "+") + "~" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// A standing is where a channel stands: H, as every stream that begins there
// is told it. It is never changed once streams share it.
type standing struct {
	id      []byte   // the position as a cursor
	channel []string // the value of Grip-Channel
	pos     vector   // the position itself
	minute  int64    // when it was noted, which is the time in id
	seq     uint64   // the newest item then; written by index.stand
}

// standing returns where the channel stands now. Call with hub.mu held.
func (c *channel) standing(minute int64) *standing {
	if c.here == nil || c.here.minute != minute {
		value := append([]byte(c.channel), "; prev-id="...)
		begin := len(value)
		pos := c.view.position()
		value = pos.appendCursor(value, 0, minute, c.index.tags)
		c.here = &standing{id: value[begin:], channel: []string{string(value)}, pos: pos, minute: minute}
		c.index.stand(c.here)
	}
	return c.here
}

// forgetStanding frees the memory of it. Call with hub.mu held.
func (c *channel) forgetStanding() {
	if c.here != nil {
		c.here = nil
		c.index.stand(nil)
	}
}
