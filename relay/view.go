package relay

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"slices"
	"strings"
	"time"

	"spillway/relay/cursor"
	"spillway/relay/filter"
)

// A view is a selection of topics and of what their records show. Its key is
// canonical, so that equal selections are one view. Guarded by hub.mu.
//
// There may be very many views, and of one view many channels: everything that
// happens to one of them takes the same time whatever their number.
type view struct {
	key      string
	query    *query
	topics   []member // in byte order of their names
	channels []*channel
	// byRendering finds one of channels where they are too many to look at
	// each; nil before.
	byRendering map[rendering]*channel

	// Of the batch that is being appended: the first and last of batch.hits
	// that are the view's. Only views with a filter have hits.
	firstHit, lastHit int32
}

// A member is a topic of a view, and its place in the topic's views.
type member struct {
	topic  *topic
	at     int32
	reads  int32                      // place in topic.whole, for a view without a filter,
	filter *filter.Entry[*membership] // and in topic.filters for one that has one
}

// A membership is a view of a topic, and the topic's place in the view's topics.
type membership struct {
	view *view
	at   int
}

// A scope is what a view reads: topics that were looked up, in byte order of
// their names, and what of their records is shown.
type scope struct {
	topics []*topicInfo
	query  *query
}

func (s scope) parts() parts { return s.query.partsOf() }

// manyChannels is from how many channels on a view has a map of them.
const manyChannels = 8

// view finds or makes the view of a scope whose topics are all being read. Call
// with mu held, and give a new one a channel before letting go of it.
func (h *hub) view(sc scope) *view {
	var buf [256]byte
	key := buf[:0]
	for i, info := range sc.topics {
		key = appendName(key, i, info.name)
	}
	key = appendQueryKey(key, sc.query)
	if v := h.views[string(key)]; v != nil {
		return v
	}
	v := &view{key: sc.topics[0].name, query: sc.query, topics: make([]member, len(sc.topics)), firstHit: none, lastHit: none}
	if len(key) > len(v.key) {
		v.key = string(key)
	}
	for i, info := range sc.topics {
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
		writer:   writer{rendering: r, channel: channelName(names, v.query, r), maxBytes: int32(h.maxBytes), maxID: int32(h.maxID), cloud: newCloud(r.form, h.path, names, tags), veil: h.veil},
		index:    newIndex(tags, v.position(), now.Unix()/60),
		query:    v.query,
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
		t, in := m.topic, membership{v, i}
		m.at = int32(len(t.views))
		t.views = append(t.views, in)
		if f := v.query.filterOf(); f != nil {
			m.filter = t.filters.Add(f, &in)
			if v.query.changing {
				t.changing = append(t.changing, &in)
			}
			continue
		}
		m.reads = int32(len(t.whole))
		t.whole = append(t.whole, in)
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
		if m.filter != nil {
			m.topic.filters.Remove(m.filter)
			if v.query.changing {
				m.topic.changing = slices.DeleteFunc(m.topic.changing, func(in *membership) bool { return in.view == v })
			}
			continue
		}
		whole, last := m.topic.whole, len(m.topic.whole)-1
		moved = whole[last]
		whole[m.reads] = moved
		moved.view.topics[moved.at].reads = m.reads
		whole[last] = membership{}
		m.topic.whole = whole[:last]
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
	p := v.query.partsOf()
	if len(v.topics) == 1 && p == nil {
		return v.topics[0].topic.position()
	}
	pos := make(vector, len(v.topics))
	for i, m := range v.topics {
		pos[i] = m.topic.position()[0]
	}
	if p != nil {
		pos = pos.clone()
		p.mask(pos...)
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
func viewKey(topics []string, q *query) string { return string(appendViewKey(nil, topics, q)) }

func appendViewKey(dst []byte, topics []string, q *query) []byte {
	for i, name := range topics {
		dst = appendName(dst, i, name)
	}
	return appendQueryKey(dst, q)
}

// appendQueryKey appends what no name of a topic can hold, and the query's key;
// nothing for the nil query.
func appendQueryKey(dst []byte, q *query) []byte {
	if q == nil {
		return dst
	}
	dst = append(dst, 0)
	return append(dst, q.key...)
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
func channelName(topics []string, q *query, r rendering) string {
	if len(topics) == 1 && q == nil && r == (rendering{form: formPlain}) {
		return topics[0]
	}
	sum := sha256.Sum256([]byte(viewKey(topics, q) + "\x00" + r.key()))
	return strings.Join(topics, "+") + "~" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// viewName is what channelName makes of all but plain topics.
var viewName = regexp.MustCompile(`^[A-Za-z0-9._+-]+~[a-z2-7]{26}$`)

// isViewName reports whether a channel of that name may be a view's. Anybody can
// work such a name out, so it is no right to what is in it.
func isViewName(channel string) bool { return viewName.MatchString(channel) }

// A standing is where a channel stands: H, as every stream that begins there
// is told it. It is never changed once streams share it.
type standing struct {
	id      []byte   // the position as a cursor,
	shown   []byte   // and as clients get it
	channel []string // the value of Grip-Channel
	pos     vector   // the position itself
	minute  int64    // when it was noted, which is the time in id
	sealer  *cursor.Sealer
	seq     uint64 // the newest item then; written by index.stand
}

// standing returns where the channel stands now. Call with hub.mu held.
func (c *channel) standing(minute int64) *standing {
	if sealer := c.veil.sealer(); c.here == nil || c.here.minute != minute || c.here.sealer != sealer {
		value := append([]byte(c.channel), "; prev-id="...)
		begin := len(value)
		pos := c.view.position()
		value = pos.appendCursor(value, 0, minute, c.index.tags)
		c.here = &standing{id: value[begin:], channel: []string{string(value)}, pos: pos, minute: minute, sealer: sealer}
		if c.here.shown = c.here.id; sealer != nil {
			c.here.shown = sealer.Seal(slices.Clone(c.here.id), 0)
		}
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
