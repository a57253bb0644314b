package gateway

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"spillway/grip"
)

// A partner is whom the client of a WebSocket talks to.
type partner interface {
	// give passes on what the client has said, and returns what is said to that. The
	// first bytes of content, as many as replayed, were given before and not taken. It
	// belongs to one goroutine at a time.
	give(ctx context.Context, said []grip.Event, replayed int) (reply, error)

	// leave is called once, when there is nothing more to say.
	leave()
}

// A reply is what a partner says to what it was given.
type reply struct {
	events   []grip.Event
	told     *told         // who reads more by it; nil: nobody
	refused  *told         // who may not; nil: nobody
	accepted int           // how many bytes of content were taken
	askAfter time.Duration // when to give it nothing, if there is nothing new; 0: never
}

// Manners are what partners of one kind have in common.
type manners struct {
	pauseAt  int  // with more waiting for the partner, in bytes, nothing is read from the client
	batch    int  // how many bytes of content are given at once at most; 0: any number
	oneEvent bool // each event is given alone
	failed   int  // close code for the client when the partner fails; 0: it is cut off
}

// A talk is what it takes to give what a client says to its partner.
type talk struct {
	partner partner
	manners *manners

	// Guarded by session.mu.
	pending  []grip.Event  // that the partner has not taken yet
	weight   int           // of pending, in bytes
	counted  int           // what of weight was told
	replayed int           // bytes of content, at its beginning, that the partner was given before
	due      bool          // the partner is to be given what is pending, or nothing
	more     bool          // that is more than it was given the last time at once
	closed   bool          // the last word about the client is pending, or was given
	over     bool          // what the partner says is of no interest any more
	askAfter time.Duration // of the newest reply
	code     int           // of the client's close, which waits for its answer; 0: it has said none
	pace     *rate.Limiter // of messages; nil: the client has said none, or may say any number
}

// eventWeight is what an event counts besides its content, in bytes: empty ones
// take memory, too.
const eventWeight = 64

func (t *talk) add(e grip.Event) {
	t.pending = append(t.pending, e)
	t.weight += len(e.Content) + eventWeight
}

// sayLast adds the last word about the client.
func (t *talk) sayLast(e grip.Event) {
	if !t.closed {
		t.closed = true
		t.add(e)
	}
}

// next takes what is given at once out of pending.
func (t *talk) next() (said []grip.Event, replayed int) {
	n, content := 0, 0
	for n < len(t.pending) && !(t.manners.oneEvent && n == 1) {
		content += len(t.pending[n].Content)
		if t.manners.batch > 0 && content > t.manners.batch && n > 0 {
			content -= len(t.pending[n].Content)
			break
		}
		t.weight -= len(t.pending[n].Content) + eventWeight
		n++
	}
	said, t.pending = t.pending[:n:n], t.pending[n:]
	if len(t.pending) == 0 {
		t.pending = nil
	}
	replayed = min(t.replayed, content)
	t.replayed -= replayed
	t.more = len(t.pending) > 0
	t.due = t.more
	return said, replayed
}

// untaken puts back what a partner has not taken (GRIP reference, 8.7). Bytes that
// were put back are given again only together with something else.
func (t *talk) untaken(said []grip.Event, accepted int) error {
	left, i := accepted, 0
	for ; i < len(said) && len(said[i].Content) <= left; i++ {
		left -= len(said[i].Content)
	}
	if i == len(said) {
		if left > 0 {
			return fmt.Errorf("the origin has taken %d bytes, %d more than there were", accepted, left)
		}
		return nil
	}
	rest := append([]grip.Event(nil), said[i:]...)
	rest[0].Content = rest[0].Content[left:]
	switch {
	case rest[0].Type == grip.EventClose:
		return fmt.Errorf("the origin has taken all before a CLOSE, %d bytes, but not the CLOSE", accepted)
	case accepted == 0 && t.more:
		return fmt.Errorf("the origin has taken none of %d bytes, and more are waiting", contentOf(said))
	case accepted > 0 && t.closed:
		t.due = true
	}
	for _, e := range rest {
		t.weight += len(e.Content) + eventWeight
	}
	t.replayed += contentOf(rest)
	t.pending = append(rest, t.pending...)
	return nil
}

func contentOf(events []grip.Event) (n int) {
	for _, e := range events {
		n += len(e.Content)
	}
	return n
}

var eventTypes = map[grip.MessageType]grip.EventType{
	grip.TextMessage: grip.EventText, grip.BinaryMessage: grip.EventBinary, grip.PingMessage: grip.EventPing, grip.PongMessage: grip.EventPong,
}

// Received implements fanout.Owner.
func (s *session) Received(typ grip.MessageType, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.talk
	if t == nil || t.closed {
		return
	}
	if s.hurries(t) {
		s.finish(ending{reason: closedMessageRate, code: 1008, text: "too many messages"})
		return
	}
	t.add(grip.Event{Type: eventTypes[typ], Content: bytes.Clone(content)})
	if s.posting && s.g.engine.Crowded() {
		s.finish(ending{reason: closedForMemory, code: 1013, text: "try again later"})
	}
	if t.weight > t.manners.pauseAt {
		s.conn.Pause()
	}
	s.give()
}

// hurries reports whether the client says more than it may. HTTP origins have
// opinions of their own. It is called with s.mu.
func (s *session) hurries(t *talk) bool {
	most := s.g.cfg.EventsMessageRate
	if most == 0 || !s.from.local() {
		return false
	}
	if t.pace == nil {
		t.pace = rate.NewLimiter(rate.Limit(most), 2*most)
	}
	return !t.pace.Allow()
}

// give makes a goroutine give the partner what is pending, or nothing. It is called
// with s.mu.
func (s *session) give() {
	t := s.talk
	t.due = true
	s.count(t)
	switch {
	case s.posting:
	case t.over && len(t.pending) == 0:
		s.endTalk()
	default:
		s.posting = true
		s.g.drain.spawn(s.post) // ends when nothing is due
	}
}

// post gives what is pending to the partner, all that has come at once, until there
// is nothing.
func (s *session) post() {
	ctx, done := s.ask()
	defer done()
	if s.relays { // the partner also hears of the end
		ctx = s.g.base
	}
	for {
		t, said, replayed := s.nextSaid()
		if t == nil {
			return
		}
		s.conn.Resume()
		re, err := t.partner.give(ctx, said, replayed)
		answered, err := s.note(t, said, re, err)
		if err != nil {
			if ctx.Err() == nil {
				e := ending{reason: closedOriginError, code: t.manners.failed, err: err}
				if e.code != 0 {
					e.text = "internal error"
				}
				s.finish(e)
			}
			return
		}
		s.told = re.told
		s.record.refused(re.refused)
		switch {
		case answered && s.carryOut(nil, re.events):
			s.unanswered(t)
		case !s.relays: // the socket has ended, and with it all that counts
			return
		}
	}
}

// nextSaid returns what is to be given. Without a talk, nobody gives any more.
func (s *session) nextSaid() (t *talk, said []grip.Event, replayed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t = s.talk
	if t != nil && t.over && len(t.pending) == 0 {
		s.endTalk()
		t = nil
	}
	if t == nil || !t.due {
		s.posting = false
		if t != nil && t.askAfter > 0 {
			s.askAt(time.Now().Add(t.askAfter))
		}
		return nil, nil, 0
	}
	if t.askAfter > 0 {
		s.askAt(time.Time{})
	}
	said, replayed = t.next()
	s.count(t)
	return t, said, replayed
}

// note keeps what follows from a reply, or from an error. answered says that the
// events of the reply are to be carried out.
func (s *session) note(t *talk, said []grip.Event, re reply, err error) (answered bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && !(t.over && len(t.pending) == 0) { // else there is no other time
		err = t.untaken(said, re.accepted)
	}
	if err != nil {
		s.posting = false
		if s.talk == t {
			s.endTalk()
		}
		return false, err
	}
	s.count(t)
	t.askAfter = re.askAfter
	return !t.over && s.talk == t, nil
}

// unanswered cuts a client off that has said close, when nobody is going to answer
// it (GRIP reference, 8.6).
func (s *session) unanswered(t *talk) {
	s.mu.Lock()
	waits := t.code != 0 && !t.due && t.askAfter == 0 && !t.over
	s.mu.Unlock()
	if waits {
		s.finish(ending{reason: closedByClient})
	}
}

// endTalk is called with s.mu.
func (s *session) endTalk() {
	t := s.talk
	t.partner.leave()
	t.weight = 0
	s.count(t)
	s.talk = nil
}

// count tells what is pending to who counts all that is kept for clients. It is
// called with s.mu.
func (s *session) count(t *talk) {
	if more := t.weight - t.counted; more != 0 {
		s.g.engine.Keep(more)
		s.g.metrics.waiting.Add(float64(more))
		t.counted = t.weight
	}
}

// detach makes the partner hear a last word, and the client be heard by nobody.
func (s *session) detach() {
	if s.relays { // before the origin knows that nobody but the engine answers the client now
		s.conn.EndRelay()
	}
	s.mu.Lock()
	code := 0
	switch t := s.talk; {
	case t == nil:
	case s.relays:
		t.sayLast(grip.Event{Type: grip.EventClose})
		t.over, code = true, t.code
		s.give()
	default:
		s.endTalk()
	}
	s.mu.Unlock()
	s.conn.Resume()
	if code != 0 {
		s.finish(ending{reason: closedByClient, code: code})
	}
}

// Closing implements fanout.Relay.
func (s *session) Closing(content []byte) {
	code, _, err := grip.ParseClose(content)
	if err != nil || code == 0 {
		code = noStatus
	}
	s.mu.Lock()
	t := s.talk
	if t != nil && !t.over {
		t.code = code
		t.sayLast(grip.Event{Type: grip.EventClose, Content: bytes.Clone(content)})
		s.give()
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.finish(ending{reason: closedByClient, code: code})
}

// clientClosed reports whether the client has said close.
func (s *session) clientClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.talk != nil && s.talk.code != 0
}

// noStatus is for a close frame without a code, and never in one (RFC 6455,
// 7.4.1).
const noStatus = 1005

// Refresh implements fanout.Relay.
func (s *session) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.talk; t != nil && !t.over {
		s.give()
	}
}

// tellClosed tells the partner that the WebSocket is being closed, by none of the two
// sides.
func (s *session) tellClosed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.talk; t != nil && s.relays && !t.closed {
		t.sayLast(grip.Event{Type: grip.EventClose})
		t.over = true
		s.give()
	}
}

// hush keeps the partner from hearing anything more.
func (s *session) hush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.talk; t != nil && s.relays {
		t.closed, t.over, t.pending, t.weight = true, true, nil, 0
		s.give()
	}
}

// tellGone is called when the client has gone. It is called with s.mu.
func (s *session) tellGone() {
	switch t := s.talk; {
	case t == nil:
	case s.relays:
		t.sayLast(grip.Event{Type: grip.EventDisconnect})
		t.over = true
		s.give()
	default:
		s.endTalk()
	}
}
