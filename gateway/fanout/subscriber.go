package fanout

import (
	"slices"
	"sort"
	"sync/atomic"
	"time"

	"spillway/grip"
)

// MaxSubscriptions is how many channels one Subscriber can read (GRIP
// reference, 2.1); more are ignored.
const MaxSubscriptions = 20

// A Want is a channel to attach to.
type Want struct {
	Channel string
	// PrevID names the last item that the client already has. Without
	// HasPrevID it is attached behind the newest item.
	PrevID    string
	HasPrevID bool

	// Mark, where it is not zero, is what Engine.Marks said earlier: without
	// PrevID, or where that is in no item of the log, it is attached behind what
	// was the newest item then.
	Mark Mark

	// Since, where it is not zero, is what Engine.Marks said when the origin was
	// asked for PrevID: a newest item that was there already does not speak
	// against it.
	Since Mark

	// Filter is what items have to pass; nil: nothing.
	Filter Filter

	// Conflate says that an item need not be given when a later one of its key is
	// there. Every, where it is not 0, is how long there has to be between two
	// items that a connection is given; that conflates, too. Neither goes together
	// with a filter, or with forms that have no bytes.
	Conflate bool
	Every    time.Duration
}

// A Mark is a place in a channel's log.
type Mark uint64

// Status is what there is for a subscriber.
type Status uint8

const (
	Wait    Status = iota // nothing now; receive from Wake, then ask again
	Ready                 // the batch holds content
	Hint                  // an item asks that the next link be asked; see Detach
	End                   // an item ends the response or the socket
	Behind                // the log dropped items that the subscriber was not given, or one is missing in it
	Closed                // the channel's publisher closed it
	Refresh               // an item asks for a WebSocket-over-HTTP request
	Quiet                 // of a connection's subscription: nothing came for its time

	asking        // a filter has to be asked first
	uncoded       // the segment has to be compressed first
	movedOn       // the channel's name belongs to a newer channel, where to go on
	closedUnnamed // Closed, and the id is still to be asked
)

// A Batch is a run of items in one form. Its bytes are shared with other
// subscribers and the log: read-only.
type Batch struct {
	// Frames are the frames of all items, one after the other, ready for the
	// wire: chunks of HTTP/1.1, or WebSocket frames.
	Frames []byte
	// Items is how many items with content there are.
	Items int
	// Response is set for subscribers of the Response form: one item at a time.
	Response *grip.HTTPResponse
	// Content is that of an item that a filter had in its hands, in place of
	// Frames.
	Content []byte
	// Code and Reason of an End on a WebSocket; 0 means 1000.
	Code   int
	Reason string

	form    Form
	entries []entry
	base    uint32 // where Frames begin in the segment

	// What it takes to take some of it back.
	member  *member
	seg     *segment
	from    int    // where entries begin in seg.items
	newest  bool   // nothing came behind it yet
	follows bool   // of the member, before the batch
	prev    string // of the same

	passing *Passing // of an item that goes out alone
	filter  Filter   // that has it in its hands
	typ     grip.MessageType
}

// A Subscriber reads the logs of some channels in one form. Except for Wake and
// what other goroutines do to its channels it belongs to one goroutine, or to a
// connection.
type Subscriber struct {
	engine  *Engine
	members []*member
	turn    int32 // the member to begin with, so that none is starved
	form    Form

	wake chan struct{} // nil where a connection is served
	conn *Conn         // nil where items are pulled
	hold
}

// A member is a subscriber's place in one channel. Guarded by the channel's
// lock, except where said.
type member struct {
	sub *Subscriber
	ch  *channel // changed only by the subscriber's goroutine

	cursor   uint64 // the last item given
	attached uint64 // cursor at the time of joining: what began stands for
	began    string // the prev-id that it was subscribed with

	// On foreign channels, when the subscriber named a prev-id: an item is
	// given only if it follows this one (GRIP reference, 7.3).
	prev string

	filter    Filter      // nil: none
	conflates *conflating // nil: it does not

	// An action that was not published through the log, but to those who
	// listened at that moment.
	action *action

	id string // for Grip-Last, set when the membership ends or a hint was met

	index    int32       // in lane.members; -1: not there
	parked   atomic.Bool // in channel.parked; set under the lock, read without
	parkedAt int32
	status   Status // Ready while a member

	hasBegan, follows, hasID bool // there is one, of began, prev and id
	hinted                   bool
}

type action struct {
	after  uint64 // due when the cursor is here
	kind   kind
	code   int
	reason string
}

// Wake receives when there may be something new. It is never closed.
func (s *Subscriber) Wake() <-chan struct{} { return s.wake }

// IsOn reports whether a connection's subscription that has not ended is to a
// channel.
func (s *Subscriber) IsOn(channel string) bool {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(s.members, func(m *member) bool { return m.ch.name == channel })
}

func (s *Subscriber) wakeUp() {
	if s.conn != nil {
		s.conn.kick()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// Next returns what comes next: content of at most about maxBytes (but at least
// one item), or a word about it. After Wait it says nothing new until Wake has
// received. After Hint, Behind and Closed the caller detaches; where it calls
// Next again instead, hints are passed over.
func (s *Subscriber) Next(maxBytes int) (b Batch, status Status) {
	status = s.next(&b, maxBytes)
	s.engine.metrics.delivered(&b)
	return b, status
}

func (s *Subscriber) next(b *Batch, maxBytes int) Status {
	if s.asking {
		return Wait
	}
	for i := range s.members {
		at := int(s.turn) + i
		if at >= len(s.members) {
			at -= len(s.members)
		}
		m := s.members[at]
		if m.parked.Load() {
			continue
		}
		if status := m.next(b, maxBytes); status != Wait {
			if s.turn = int32(at + 1); at+1 == len(s.members) {
				s.turn = 0
			}
			return status
		}
	}
	return Wait
}

// Detach ends the subscription and returns the last id on each channel where
// one is known, in the order of subscription: what to send as Grip-Last.
func (s *Subscriber) Detach() []grip.Last {
	var lasts []grip.Last
	for _, m := range s.members {
		m.ch.mu.Lock()
		switch m.status {
		case Ready, movedOn, closedUnnamed:
			if !m.hinted {
				m.id, m.hasID = m.lastID()
			}
		}
		m.ch.leave(m)
		m.ch.mu.Unlock()
		if m.hasID {
			lasts = append(lasts, grip.Last{Channel: m.ch.name, ID: m.id})
		}
	}
	s.members = nil
	return lasts
}

// Close ends the subscription. Closing twice is fine.
func (s *Subscriber) Close() {
	for _, m := range s.members {
		m.ch.mu.Lock()
		m.ch.leave(m)
		m.ch.mu.Unlock()
	}
	s.members = nil
}

// lastID is the id of the last item that m was given.
func (m *member) lastID() (string, bool) {
	switch {
	case m.ch.foreign():
		return m.prev, m.follows
	case m.cursor == m.attached && m.hasBegan:
		return m.began, true
	}
	if id, ok := m.ch.ids.ID(m.cursor); ok {
		return id, true
	}
	// Repeating what the client may have is better than losing what it has not.
	return m.began, m.hasBegan
}

// next is Subscriber.Next for one channel.
func (m *member) next(b *Batch, maxBytes int) Status {
	for {
		status := m.tryNext(b, maxBytes)
		switch {
		case status == uncoded:
			m.ch.code(b.seg, b.from, m.sub.conn.code.coding)
		case status != Ready || b.passing == nil:
			return status
		default:
			ok, ask := m.pass(b)
			if ask {
				return asking
			}
			if ok {
				return Ready
			}
			*b = Batch{}
		}
	}
}

// tryNext does so, but where something has to be compressed first, it says that
// (and where it begins).
func (m *member) tryNext(b *Batch, maxBytes int) Status {
	ch := m.ch
	ch.mu.Lock()
	for m.status == movedOn {
		ch.mu.Unlock()
		ch = m.sub.engine.rejoin(m) // returns with the lock of the new one
	}
	defer ch.mu.Unlock()
	if m.status != Ready {
		if m.status == closedUnnamed {
			m.id, m.hasID = m.lastID()
			m.status = Closed
		}
		return m.status
	}
	if m.resting() {
		return Wait
	}
	if m.conflates != nil && m.conflates.every > 0 {
		maxBytes = 0 // one item
	}
	m.hinted = false
	for {
		if m.cursor+1 < ch.next {
			if status := m.run(b, maxBytes); status != Wait {
				return status
			}
			*b = Batch{}
			if status := m.scan(b, maxBytes); status != Wait {
				if status == Ready {
					m.pace(b)
				}
				return status
			}
		}
		a := m.action
		if a == nil {
			if m.sub.conn == nil {
				ch.park(m)
			}
			return Wait
		}
		m.action = nil
		if status := m.act(b, a.kind, a.code, a.reason); status != Wait {
			return status
		}
	}
}

// run is what scan finds in the most usual case, without a look at each item: a
// connection, and nothing but content. Wait means that it is another case.
func (m *member) run(b *Batch, maxBytes int) Status {
	c, form := m.sub.conn, m.sub.form
	if c == nil || form >= byteForms || m.follows || m.action != nil || m.filter != nil || m.conflates != nil {
		return Wait
	}
	s, from := m.ch.find(m.cursor + 1)
	if s.special[form] {
		return Wait
	}
	if c.code != nil {
		*b = Batch{form: form, member: m, seg: s, from: from}
		if !m.inCode(b, s, from, len(s.items), maxBytes) {
			return uncoded
		}
		b.Items = len(b.entries)
		m.cursor += uint64(b.Items)
		if c.stream == nil && len(b.Frames) > 0 {
			c.loop.pin(s)
		}
		return Ready
	}
	to := s.upTo(form, from, maxBytes)
	start, end := s.start(form, from), s.items[to-1].end[form]
	b.Frames, b.Items, b.form = s.bytes[form][start:end:end], to-from, form
	b.entries, b.base, b.member, b.seg, b.from, b.follows = s.items[from:to:to], start, m, s, from, false
	m.cursor = s.first + uint64(to) - 1
	b.newest = m.cursor+1 == m.ch.next
	if c.stream == nil && len(b.Frames) > 0 {
		c.loop.pin(s)
	}
	return Ready
}

// scan moves the cursor through the log to the next thing to tell.
func (m *member) scan(b *Batch, maxBytes int) Status {
	form := m.sub.form
	s, from := m.ch.find(m.cursor + 1)
	for ; s != nil; s, from = m.ch.after(s), 0 {
		run := b
		*run = Batch{form: form, follows: m.follows, prev: m.prev}
		i := from
	items:
		for ; i < len(s.items); i++ {
			if a := m.action; a != nil && s.first+uint64(i) > a.after {
				break
			}
			e := &s.items[i]
			k := m.kind(e)
			switch k {
			case absent:
				continue
			case content:
				if form < byteForms && run.Items > 0 && int(e.end[form]-s.start(form, from)) > maxBytes {
					break items
				}
				if m.follows {
					v := m.follow(s.ids[i])
					if v != takeItem && run.Items > 0 {
						break items // first what came before
					}
					if v == hasItem {
						from, m.cursor = i+1, s.first+uint64(i)
						continue
					}
					if v == missesItem {
						return Behind
					}
				}
				way := m.passage(s, i)
				if way != shared && run.Items > 0 {
					break items // the same
				}
				if m.follows {
					m.prev, m.follows = s.ids[i].id, s.ids[i].id != ""
				}
				switch way {
				case none, superseded:
					if way == none {
						m.sub.engine.metrics.filtered.Add(1)
					} else {
						i = m.skip(s, i)
					}
					from, m.cursor = i+1, s.first+uint64(i)
					run.follows, run.prev = m.follows, m.prev
					continue
				case private:
					m.cursor = s.first + uint64(i)
					m.alone(run, s, i)
					return Ready
				}
				run.Items++
				if form >= byteForms { // one at a time
					if form == Response {
						run.Response = s.response(i)
					}
					m.cursor = s.first + uint64(i)
					return Ready
				}
			default:
				if run.Items > 0 {
					break items
				}
				m.cursor = s.first + uint64(i) - 1
				code, reason := s.close(i)
				if k == hint && m.follows && s.ids[i].id != "" && s.ids[i].prev == m.prev {
					m.prev = s.ids[i].id
				}
				status := m.act(b, k, code, reason)
				m.cursor++
				if status == Wait {
					from = i + 1
					continue
				}
				return status
			}
		}
		if i > from {
			m.cursor = s.first + uint64(i) - 1
		}
		if run.Items > 0 {
			run.member, run.seg, run.from = m, s, from
			if c := m.sub.conn; c != nil && c.code != nil {
				if !m.inCode(run, s, from, i, maxBytes) {
					m.cursor, m.follows, m.prev = s.first+uint64(from)-1, run.follows, run.prev
					return uncoded
				}
				if n := len(run.entries); n < i-from {
					m.back(run, n)
					run.Items = contentsOf(run.entries, form)
				}
			} else {
				start, end := s.start(form, from), s.items[i-1].end[form]
				run.Frames, run.base = s.bytes[form][start:end:end], start
				run.entries = s.items[from:i:i]
			}
			if c := m.sub.conn; c != nil && c.stream == nil && len(run.Frames) > 0 {
				c.loop.pin(s)
			}
			return Ready
		}
		if i < len(s.items) { // stopped at m.action
			break
		}
	}
	return Wait
}

// contentsOf is how many of some items are content in a form.
func contentsOf(items []entry, form Form) (n int) {
	for i := range items {
		if items[i].kind[form] == content {
			n++
		}
	}
	return n
}

// pieces is how many frames a batch has at most; piece i ends at pieceEnd(i), in
// Frames, and pieceItems(i) items of the batch are given with it and those before
// it.
func (b *Batch) pieces() int {
	if k := b.member.sub.conn.code; k != nil {
		return len(k.blocks)
	}
	return len(b.entries)
}

func (b *Batch) pieceEnd(i int) int {
	if k := b.member.sub.conn.code; k != nil {
		return int(k.blocks[i].end - b.base)
	}
	return int(b.entries[i].end[b.form] - b.base)
}

func (b *Batch) pieceItems(i int) int {
	if k := b.member.sub.conn.code; k != nil {
		return k.blocks[i].items - b.from
	}
	return i + 1
}

// rewind takes back what of a batch did not leave: all that stands behind its
// first n bytes, but for the rest of a frame of which a part did. That is
// returned: it has to be sent before anything else. Items are those that are
// given.
func (b *Batch) rewind(n int) (rest []byte) {
	given := sort.Search(b.pieces(), func(i int) bool { return b.pieceEnd(i) > n })
	if start := b.pieceStart(given); given < b.pieces() && start < n {
		rest = b.Frames[n:b.pieceEnd(given)]
		given++
	}
	items := 0
	if given > 0 {
		items = b.pieceItems(given - 1)
	}
	b.Items = contentsOf(b.entries[:items], b.form)
	m := b.member
	if k := m.sub.conn.code; k != nil {
		k.gave(given)
	}
	m.ch.mu.Lock()
	defer m.ch.mu.Unlock()
	m.back(b, items)
	if m.status != Ready { // it ended meanwhile, with the id of what was not sent
		m.id, m.hasID = m.lastID()
	}
	return rest
}

func (b *Batch) pieceStart(i int) int {
	if i == 0 {
		return 0
	}
	return b.pieceEnd(i - 1)
}

// back sets the member's cursor behind the first items of a batch. It is called
// with the channel's lock.
func (m *member) back(b *Batch, items int) {
	m.cursor = b.seg.first + uint64(b.from+items) - 1
	if !b.follows {
		return
	}
	m.follows, m.prev = true, b.prev
	for i := range items {
		if b.seg.items[b.from+i].kind[b.form] == content {
			id := b.seg.ids[b.from+i].id
			m.prev, m.follows = id, id != ""
		}
	}
}

// A verdict is what to do with an item that should follow another.
type verdict uint8

const (
	takeItem   verdict = iota
	hasItem            // a response already contained it
	missesItem         // something between is not in the log
)

// follow compares an item with the last one that m was given. An item without a
// prev-id follows nothing.
func (m *member) follow(id itemID) verdict {
	switch {
	case id.id != "" && id.id == m.prev:
		return hasItem
	case id.prev == m.prev:
		return takeItem
	default:
		return missesItem
	}
}

// kind is what an item is to m. To the Any form everything is content.
func (m *member) kind(e *entry) kind {
	if m.sub.form == Any {
		return content
	}
	return e.kind[m.sub.form]
}

// act turns an action into the word for it; Wait where it has no meaning.
func (m *member) act(b *Batch, k kind, code int, reason string) Status {
	switch k {
	case closing:
		if m.sub.form == Response { // does nothing to a long poll (GRIP reference, 4.2)
			return Wait
		}
		*b = Batch{Code: code, Reason: reason}
		return End
	case refresh:
		return Refresh
	case hint:
		m.id, m.hasID = m.lastID()
		m.hinted = true
		return Hint
	case content: // of the Any form
		*b = Batch{Items: 1}
		return Ready
	default:
		return Wait
	}
}
