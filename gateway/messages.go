package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"spillway/grip"
)

// maxPending is how much of a client's messages waits for the origin, in
// bytes; with more, nothing is read.
const maxPending = 64 << 10

// read takes the client's messages until the socket ends.
func (s *session) read() {
	for {
		typ, content, err := s.sock.read()
		switch {
		case errors.Is(err, errMessageSize):
			s.end(ending{reason: closedMessageTooBig, code: 1009, text: "message too large"})
			return
		case err != nil && s.sock.stalled():
			s.end(ending{reason: closedStalled})
			return
		case err != nil:
			s.end(ending{reason: closedByClient})
			return
		case s.detached.Load():
			continue
		}
		e := grip.Event{Type: grip.EventText, Content: content}
		if typ == grip.BinaryMessage {
			e.Type = grip.EventBinary
		}
		s.inbox.Lock()
		for !s.over && len(s.pending) > 0 && s.bytes+len(content) > maxPending {
			s.arrived.Wait()
		}
		s.pending, s.bytes = append(s.pending, e), s.bytes+len(content)
		s.arrived.Broadcast()
		s.inbox.Unlock()
	}
}

// post gives the client's messages to the origin, all that have come at once.
func (s *session) post() {
	for {
		s.inbox.Lock()
		for !s.over && len(s.pending) == 0 {
			s.arrived.Wait()
		}
		events, over := s.pending, s.over
		s.pending, s.bytes = nil, 0
		s.arrived.Broadcast()
		s.inbox.Unlock()
		if over {
			return
		}
		answers, err := s.ask(events)
		if err != nil {
			if s.ctx.Err() == nil {
				s.end(ending{reason: closedOriginError, code: 1011, text: "internal error", err: err})
			}
			return
		}
		if !s.carryOut(nil, answers) {
			return
		}
	}
}

// ask posts events and returns the events of the answer.
func (s *session) ask(events []grip.Event) ([]grip.Event, error) {
	var body []byte
	for _, e := range events {
		body = grip.AppendEvent(body, e)
	}
	r := newEventsRequest(s.ctx, s.request, body)
	r.Header = s.header.Clone()
	r.Header.Set("Accept", grip.ContentTypeEvents)
	r.Header.Set("Content-Type", grip.ContentTypeEvents)
	r.Header.Set("Connection-Id", s.id)
	for name, value := range s.meta {
		r.Header.Set("Meta-"+name, value)
	}
	p, err := s.g.call(r)
	if err != nil {
		return nil, err
	}
	if p.status != http.StatusOK || !isEvents(p.ins.Header) {
		return nil, fmt.Errorf("messages: the origin answered %d, %s", p.status, p.ins.Header.Get("Content-Type"))
	}
	s.setMeta(p.ins.Header)
	return grip.ParseEvents(p.ins.Body)
}

// setMeta remembers what the origin wants to be told again (GRIP reference,
// 8.5).
func (s *session) setMeta(h http.Header) {
	for name, values := range h {
		if name, ok := strings.CutPrefix(name, "Set-Meta-"); ok && len(values) > 0 {
			if values[0] == "" {
				delete(s.meta, name)
			} else {
				s.meta[name] = values[0]
			}
		}
	}
}
