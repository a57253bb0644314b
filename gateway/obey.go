package gateway

import (
	"maps"
	"sync/atomic"
	"time"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// An extra is what few WebSockets have. It is guarded by session.mu.
type extra struct {
	askAt time.Time // when the partner is to be given nothing; zero: never

	sayAt time.Time // when delayed is sent; zero: there is none
	say   []byte    // a frame

	meta  atomic.Pointer[map[string]string] // of all subscriptions, for filters: set-meta; replaced as a whole
	marks []fanout.Want                     // of the channels that the first answer subscribes to, as of before the client had it
}

// more returns what few have. It is called with s.mu.
func (s *session) more() *extra {
	if s.extra == nil {
		s.extra = new(extra)
	}
	return s.extra
}

// obey carries out a control message. by is the stream whose page it is of; nil:
// none.
func (s *session) obey(by *substream, c grip.Control) {
	switch c.Type {
	case grip.ControlDetach:
		s.detach()
	case grip.ControlSubscribe:
		s.subscribe(by, c)
	case grip.ControlUnsubscribe:
		s.stop(by, func(st *substream) bool {
			if st.fixed {
				return false
			}
			if c.Name != "" {
				return st.name == c.Name
			}
			return c.Channel != "" && st.is(c.Channel)
		})
	case grip.ControlSetMeta:
		s.setMeta(c)
	case grip.ControlKeepAlive:
		typ, content, ok := c.Message()
		if !ok {
			s.conn.SetKeepAliveMessage(typ, nil)
			return
		}
		s.conn.SetKeepAliveMessage(typ, &grip.KeepAlive{Content: content, Timeout: c.Timeout, Interval: c.Mode == "interval"})
	case grip.ControlSendDelayed:
		if typ, content, ok := c.Message(); ok {
			s.sayNow(s.delay(s.conn.AppendFrame(nil, typ, content), time.Now().Add(c.Timeout)))
		}
	case grip.ControlFlushDelayed:
		s.sayNow(s.delay(nil, time.Time{}))
	}
}

// subscribe starts a stream. What goes beyond GRIP is for the origin in this
// process.
func (s *session) subscribe(by *substream, c grip.Control) {
	if len(c.Filters) > grip.MaxFilters {
		s.finish(ending{reason: closedOriginError, code: 1011, text: "too many filters"})
		return
	}
	if !s.from.local() {
		if c.Channel == "" || s.refilter(c) {
			return
		}
		c.Link, c.Name, c.HasPrevID = "", "", false
	}
	ins := &grip.Instruct{}
	if c.Link != "" {
		ins.Next = &grip.Link{URL: c.Link}
	}
	if c.Channel != "" {
		ins.Hold = grip.HoldStream
		ins.Channels = []grip.Subscription{{Channel: c.Channel, PrevID: c.PrevID, HasPrevID: c.HasPrevID}}
	}
	if c.Name != "" {
		s.stop(by, func(st *substream) bool { return st.name == c.Name })
	}
	attach := wants(ins, s.from)
	for i := range attach {
		if attach[i].Channel == s.from.prefix()+c.Channel {
			s.mu.Lock()
			attach[i].Filter = s.filter(c.Filters)
			s.mu.Unlock()
		}
	}
	if err := s.listen(attach); err != nil {
		s.finish(ending{reason: closedOriginError, code: 1011, text: "internal error", err: err})
		return
	}
	s.mark(attach)
	var t *told
	switch {
	case !s.from.local():
		t = s.g.toldChannels(attach)
	case by == nil:
		t = s.told
	}
	s.start(c.Name, c.Channel, ins, attach, t)
}

// filter makes one of the names that an origin has sent; nil: there is nothing to
// filter. It is called with s.mu.
func (s *session) filter(names []string) fanout.Filter {
	from, ok := s.from.(linkless)
	if !ok || len(names) == 0 {
		return nil
	}
	meta := &s.more().meta // read with the connection's lock: s.mu must not be needed
	return s.g.newFilter(names, from.prefix(), func() map[string]string {
		if m := meta.Load(); m != nil {
			return *m
		}
		return nil
	}, from.base, from.route)
}

// refilter gives a subscription that there is already other filters, and reports
// whether there is one.
func (s *session) refilter(c grip.Control) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if !st.is(c.Channel) {
			continue
		}
		if st.sub != nil {
			s.conn.SetFilter(st.sub, s.from.prefix()+c.Channel, s.filter(c.Filters))
		}
		return true
	}
	return false
}

func (s *session) setMeta(c grip.Control) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.more()
	meta := make(map[string]string)
	if old := x.meta.Load(); old != nil {
		maps.Copy(meta, *old)
	}
	delete(meta, c.Name)
	if c.HasValue {
		meta[c.Name] = c.Value
	}
	x.meta.Store(&meta)
}

// premark notes where the channels end that an answer subscribes to, so that the
// client, which does not have that answer yet, misses nothing from when it has.
func (s *session) premark(events []grip.Event, fixed []string) {
	var attach []fanout.Want
	for _, name := range fixed {
		attach = append(attach, fanout.Want{Channel: name})
	}
	for _, e := range events {
		if e.Type != grip.EventText || s.speech == nil {
			continue
		}
		if c, ok, err := grip.ParseControl(e.Content); ok && err == nil && c.Type == grip.ControlSubscribe && c.Channel != "" {
			attach = append(attach, fanout.Want{Channel: s.from.prefix() + c.Channel})
		}
	}
	if len(attach) > 0 {
		_ = s.listen(attach) // subscribe asks again, and meets the error
		s.g.engine.Marks(attach, false)
		s.extra = &extra{marks: attach}
	}
}

// listen is Gateway.listen for the WebSocket of an HTTP origin.
func (s *session) listen(attach []fanout.Want) error {
	from, ok := s.from.(linkless)
	if !ok {
		return nil
	}
	ctx, done := s.ask()
	defer done()
	return s.g.listen(ctx, from.route, attach)
}

// mark gives a first subscription the place that premark has noted.
func (s *session) mark(attach []fanout.Want) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return
	}
	for i := range attach {
		for _, m := range s.extra.marks {
			if m.Channel == attach[i].Channel {
				attach[i].Mark = m.Mark
			}
		}
	}
}

// askAt names the moment when the partner is given nothing; zero: never. It is called
// with s.mu.
func (s *session) askAt(at time.Time) {
	s.more().askAt = at
	s.ring()
}

// delay sets the frame that is sent later, and returns the one that was to be.
func (s *session) delay(frame []byte, at time.Time) (before []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil && frame == nil {
		return nil
	}
	x := s.more()
	before, x.say, x.sayAt = x.say, frame, at
	s.ring()
	return before
}

func (s *session) sayNow(frame []byte) {
	if len(frame) > 0 {
		_ = s.conn.WriteFrames(frame) // who has gone is noticed elsewhere
	}
}

// ring sets the alarm for what is due first. It is called with s.mu.
func (s *session) ring() {
	if !s.relays {
		return // the origin in this process asks for nothing later
	}
	at := s.extra.askAt
	if say := s.extra.sayAt; at.IsZero() || !say.IsZero() && say.Before(at) {
		at = say
	}
	s.conn.SetAlarm(at)
}

// Alarm implements fanout.Relay.
func (s *session) Alarm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, now := s.extra, time.Now()
	if !x.askAt.IsZero() && !now.Before(x.askAt) {
		x.askAt = time.Time{}
		if s.talk != nil {
			s.give()
		}
	}
	if !x.sayAt.IsZero() && !now.Before(x.sayAt) {
		frame := x.say
		x.say, x.sayAt = nil, time.Time{}
		s.g.drain.spawn(func() { s.sayNow(frame) }) // ends when it is in the socket, or the client has gone
	}
	s.ring()
}
