package fanout

import (
	"time"

	"spillway/grip"
)

// A Hold is a subscription of a connection.
type Hold struct {
	// Form is what is wanted of items; in place of Stream a WebSocket has
	// Message.
	Form     Form
	Wants    []Want
	OpenOnly bool
	// LinkAfter is how long the channels may be quiet before Held is called with
	// Quiet; 0: for ever.
	LinkAfter time.Duration
	// LinkAnyway says that it is called after LinkAfter though they are not quiet.
	LinkAnyway bool
	// PassHints says that hints are nothing to tell.
	PassHints bool
	// Context is for the owner: Subscriber.Context returns it.
	Context any
}

// hold is what a connection knows of a subscription.
type hold struct {
	linkAfter time.Duration
	quiet     time.Duration // since when, on the engine's clock; with anyway, since the beginning
	anyway    bool
	passHints bool
	gave      bool // something was sent
	asking    bool // a filter is
	ended     bool // Held is called, or will not be
	paced     bool // some member has a rate
	context   any
}

// sent notes that something was sent.
func (h *hold) sent(now time.Duration) {
	h.gave = true
	if !h.anyway {
		h.quiet = now
	}
}

// Context is what the subscription was made with.
func (s *Subscriber) Context() any { return s.context }

// Hold subscribes the connection: from now on it is sent what comes, until Held
// is called. ok is false as with Engine.Subscribe, and when the connection has
// ended.
func (c *Conn) Hold(h Hold) (s *Subscriber, ok bool) {
	wants := h.Wants[:min(len(h.Wants), MaxSubscriptions)]
	form := h.Form
	if c.framing == Framed && form == Stream {
		form = Message
	}
	e := c.engine()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != open {
		return nil, false
	}
	var m *member
	if c.first.conn == nil { // free
		s, m = &c.first, &c.firstMember[0]
		*s = Subscriber{members: c.firstList[:0]}
	} else {
		s = new(Subscriber)
	}
	s.engine, s.form, s.conn = e, form, c
	s.hold = hold{linkAfter: h.LinkAfter, quiet: e.now(), anyway: h.LinkAnyway, passHints: h.PassHints, context: h.Context}
	for i, want := range wants {
		if i > 0 || m == nil {
			m = new(member)
		}
		*m = member{sub: s, index: -1}
		if !e.attach(m, want, h.OpenOnly) {
			s.Close()
			s.free()
			return nil, false
		}
		s.members = append(s.members, m)
	}
	if c.subs == nil {
		c.subs = c.firstSubs[:0]
	}
	c.subs = append(c.subs, s)
	c.arm()
	c.kick() // there may be something already
	return s, true
}

// free lets the connection use the memory of a subscription again.
func (s *Subscriber) free() {
	if c := s.conn; c != nil && s == &c.first && !s.asking {
		s.conn = nil
	}
}

// Drop ends a subscription. It reports false when Held has been called for it
// or is going to be.
func (c *Conn) Drop(s *Subscriber) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ended {
		return false
	}
	c.forget(s)
	s.Close()
	s.free()
	return true
}

// Release ends a subscription that Held was called for. It returns the last id
// on each channel where one is known (see Subscriber.Detach), and whether the
// connection was sent anything by it.
func (c *Conn) Release(s *Subscriber) (lasts []grip.Last, gave bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lasts, gave = s.Detach(), s.gave
	s.context = nil
	s.free()
	return lasts, gave
}

// forget takes a subscription out of the list. It is called with c.mu.
func (c *Conn) forget(s *Subscriber) {
	s.ended = true
	for i, other := range c.subs {
		if other == s {
			c.subs = append(c.subs[:i], c.subs[i+1:]...)
			break
		}
	}
}

// tell calls Held. It is called with c.mu.
func (c *Conn) tell(s *Subscriber, why Status, b Batch) {
	c.forget(s)
	c.engine().telling.Go(func() { c.owner.Held(s, why, b) })
}

// dropAll ends all subscriptions. It is called with c.mu.
func (c *Conn) dropAll() {
	for _, s := range c.subs {
		s.ended = true
		s.Close()
	}
	c.subs = nil
}
