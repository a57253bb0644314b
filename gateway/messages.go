package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"

	"spillway/grip"
)

// maxPending is how much of a client's messages waits for the origin, in
// bytes; with more, nothing is read.
const maxPending = 64 << 10

// Received implements fanout.Owner.
func (s *session) Received(typ grip.MessageType, content []byte) {
	e := grip.Event{Type: grip.EventText, Content: bytes.Clone(content)}
	if typ == grip.BinaryMessage {
		e.Type = grip.EventBinary
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.detached || s.ended {
		return
	}
	s.pending, s.bytes = append(s.pending, e), s.bytes+len(content)
	if s.bytes > maxPending {
		s.conn.Pause()
	}
	if !s.posting {
		s.posting = true
		s.g.drain.spawn(s.post) // ends when nothing is pending
	}
}

// post gives the client's messages to the origin, all that have come at once,
// until there are none.
func (s *session) post() {
	ctx, done := s.ask()
	defer done()
	for {
		s.mu.Lock()
		events := s.pending
		s.pending, s.bytes = nil, 0
		s.posting = len(events) > 0
		s.mu.Unlock()
		if len(events) == 0 {
			return
		}
		s.conn.Resume()
		answers, err := s.give(ctx, events)
		if err != nil {
			if ctx.Err() == nil {
				s.finish(ending{reason: closedOriginError, code: 1011, text: "internal error", err: err})
			}
			return
		}
		if !s.carryOut(nil, answers) {
			return
		}
	}
}

// give posts events and returns the events of the answer.
func (s *session) give(ctx context.Context, events []grip.Event) ([]grip.Event, error) {
	var body []byte
	for _, e := range events {
		body = grip.AppendEvent(body, e)
	}
	s.mu.Lock()
	request, header := s.request, s.header
	s.mu.Unlock()
	if request == nil {
		return nil, nil
	}
	if s.id == "" {
		s.id = connectionID()
	}
	r := newEventsRequest(ctx, request, body)
	r.Header = header.Clone()
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
				continue
			}
			if s.meta == nil {
				s.meta = make(map[string]string)
			}
			s.meta[name] = values[0]
		}
	}
}
