package fanout

import (
	"slices"
	"time"

	"spillway/gateway/compress"
	"spillway/gateway/ws"
	"spillway/grip"
)

// A Filter stands between a channel and one subscription to it (GRIP reference,
// 6). Actions pass it.
type Filter interface {
	// Skip reports whether an item with this metadata is not for the
	// subscription. on says whether the connection is subscribed to a channel. It
	// is called with locks held, and returns at once.
	Skip(item map[string]string, on func(channel string) bool) bool

	// ContentFilters are those that change content. An item that is made for
	// others is not for the subscription.
	ContentFilters() []string

	// Effort says whether Change is called, and how.
	Effort() Effort

	// Change returns the content as the subscription gets it. ok is false when it
	// gets nothing of the item.
	Change(it *Passing) (content []byte, ok bool)
}

// Effort is what a Filter's Change is.
type Effort uint8

const (
	NoEffort Effort = iota // it does nothing: not called
	Quick                  // it does not block
	Slow                   // it may take a while: a connection's other subscriptions go on meanwhile
)

// A Passing is an item on its way through a Filter. What it refers to is
// read-only.
type Passing struct {
	Channel string
	ID      string // empty: it has none
	Meta    map[string]string
	Content []byte
	Lasts   []grip.Last // the ids of the connection's channels before the item; without an id where none is known
}

// terms say for whom an item is.
type terms struct {
	meta    map[string]string
	content [forms][]string // content-filters of a form; nil: it names none
}

// termsOf returns nil where an item is for everyone.
func termsOf(it *grip.Item) *terms {
	var content [forms][]string
	if f := it.HTTPStream; f != nil {
		content[Stream] = f.ContentFilters
	}
	if f := it.WSMessage; f != nil {
		content[Message] = f.ContentFilters
	}
	if f := it.HTTPResponse; f != nil {
		content[Response] = f.ContentFilters
	}
	if len(it.Meta) == 0 && content[Stream] == nil && content[Message] == nil && content[Response] == nil {
		return nil
	}
	return &terms{it.Meta, content}
}

// bytes is about what they occupy in memory.
func (t *terms) bytes() int64 {
	n := int64(128)
	for name, value := range t.meta {
		n += int64(len(name)+len(value)) + 64
	}
	for _, list := range t.content {
		for _, name := range list {
			n += int64(len(name)) + 16
		}
	}
	return n
}

// forAll are the terms of an item that has none.
var forAll terms

// termsAt returns those of item i.
func (s *segment) termsAt(i int) *terms {
	if s.terms == nil || s.terms[i] == nil {
		return &forAll
	}
	return s.terms[i]
}

// A passage is what becomes of an item's content on its way to a member.
type passage uint8

const (
	shared     passage = iota // its bytes in the log are what the member gets
	private                   // the member gets bytes of its own
	none                      // it gets nothing
	superseded                // the same: it conflates, and there is a later item
)

// passage says so of item i of s. It is called with the channel's lock.
func (m *member) passage(s *segment, i int) passage {
	if m.conflates != nil && s.isStale(i) {
		return superseded
	}
	if m.filter == nil && s.terms == nil {
		return shared
	}
	t := s.termsAt(i)
	var content []string
	if m.filter != nil {
		content = m.filter.ContentFilters()
	}
	form := m.sub.form
	if form < forms && t.content[form] != nil && !slices.Equal(t.content[form], content) {
		return none
	}
	c := m.sub.conn
	coded := c != nil && c.code != nil // blocks hold every item of a run
	switch {
	case m.filter == nil:
		if coded {
			return private
		}
		return shared
	case m.filter.Skip(t.meta, m.sub.isOn):
		return none
	case coded || m.filter.Effort() != NoEffort:
		return private
	default:
		return shared
	}
}

// siblings calls f for the members of all subscriptions of a subscriber's
// connection.
func (s *Subscriber) siblings(f func(m *member) (goOn bool)) {
	subs := []*Subscriber{s}
	if s.conn != nil {
		subs = s.conn.subs
	}
	for _, s := range subs {
		for _, m := range s.members {
			if !f(m) {
				return
			}
		}
	}
}

func (s *Subscriber) isOn(channel string) (on bool) {
	s.siblings(func(m *member) bool {
		on = m.ch.name == channel
		return !on
	})
	return on
}

// alone makes b of item i, which goes out by itself. It is called with the
// channel's lock, and the member is behind the item.
func (m *member) alone(b *Batch, s *segment, i int) {
	t, e, form := s.termsAt(i), &s.items[i], b.form
	it := &Passing{Channel: m.ch.name, Meta: t.meta}
	if s.ids != nil {
		it.ID = s.ids[i].id
	}
	switch {
	case form < byteForms:
		start, end := s.start(form, i), e.end[form]
		it.Content = unframed(form, s.bytes[form][start:end])
	case form == Response:
		b.Response = s.response(i)
		it.Content = b.Response.Body
	}
	b.Items, b.member, b.passing, b.typ = 1, m, it, e.msg
}

// pass carries out the filter of a batch that is one item. asking is true when
// that is to be done on a goroutine, by change.
func (m *member) pass(b *Batch) (ok, asking bool) {
	b.filter = m.filter
	if m.filter == nil || m.filter.Effort() == NoEffort {
		b.Content = b.passing.Content
		return true, false
	}
	m.sub.siblings(func(other *member) bool {
		last := grip.Last{Channel: other.ch.name, ID: other.prev}
		if other == m {
			last.ID = b.prev
		}
		b.passing.Lasts = append(b.passing.Lasts, last)
		return true
	})
	if m.filter.Effort() == Slow && m.sub.conn != nil {
		return true, true
	}
	return b.change(), false
}

// change makes the content that the member gets; false: it gets none.
func (b *Batch) change() (ok bool) {
	content, ok := b.filter.Change(b.passing)
	if !ok {
		b.member.sub.engine.metrics.filtered.Add(1)
		return false
	}
	b.Content = content
	if b.Response != nil {
		r := *b.Response
		r.Body = content
		b.Response = &r
	}
	return true
}

// ask has a filter that is slow make the content of a batch. Until it has, the
// subscription gives nothing else. It is called with c.mu.
func (c *Conn) ask(s *Subscriber, b Batch) {
	s.asking = true
	c.engine().telling.Go(func() { // as long as Change takes
		ok := b.change()
		c.mu.Lock()
		defer c.mu.Unlock()
		s.asking = false
		if s.ended || c.state != open {
			return
		}
		if ok {
			c.emit(s, &b, c.engine().now())
		}
		c.kick()
	})
}

// SetFilter puts a filter in the place of the one that a subscription has on a
// channel. What a filter is being asked about goes on with the old one.
func (c *Conn) SetFilter(s *Subscriber, channel string, f Filter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range s.members {
		if m.ch.name == channel {
			m.filter = f
		}
	}
}

// emit sends a batch that is one item with bytes of its own. It is called with
// c.mu.
func (c *Conn) emit(s *Subscriber, b *Batch, now time.Duration) {
	s.sent(now)
	if s.form >= byteForms {
		c.engine().metrics.delivered(b)
		c.tell(s, Ready, *b)
		return
	}
	if b.typ == grip.PingMessage || b.typ == grip.PongMessage {
		b.Content = b.Content[:min(len(b.Content), ws.MaxControl)]
	}
	c.engine().metrics.deliveredItems.Add(1) // its bytes are counted where they leave
	c.put(c.AppendFrame(nil, b.typ, b.Content))
	if c.code != nil {
		c.code.add(compress.SumOf(b.Content))
	}
}
