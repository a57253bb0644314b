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

// A talk is what it takes to give a client's messages to the origin.
type talk struct {
	request *http.Request // the handshake
	header  http.Header   // of it, for all requests with messages

	// Of who posts.
	id   string            // Connection-Id; made when first needed
	meta map[string]string // Set-Meta-*

	pending []grip.Event // that the origin has not taken yet; guarded by session.mu
	bytes   int          // content of pending; guarded by session.mu
}

// Received implements fanout.Owner.
func (s *session) Received(typ grip.MessageType, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.talk
	if t == nil {
		return
	}
	e := grip.Event{Type: grip.EventText, Content: bytes.Clone(content)}
	if typ == grip.BinaryMessage {
		e.Type = grip.EventBinary
	}
	t.pending, t.bytes = append(t.pending, e), t.bytes+len(content)
	s.g.engine.Keep(len(content))
	if s.posting && s.g.engine.Crowded() {
		s.finish(ending{reason: closedForMemory, code: 1013, text: "try again later"})
	}
	if t.bytes > maxPending {
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
		t, events := s.takePending()
		if len(events) == 0 {
			return
		}
		s.conn.Resume()
		answers, err := s.give(ctx, t, events)
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

// takePending returns what is to be posted. Without any, nobody posts any more.
func (s *session) takePending() (*talk, []grip.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.talk
	if t == nil || len(t.pending) == 0 {
		s.posting = false
		return t, nil
	}
	events := t.pending
	s.g.engine.Keep(-t.bytes)
	t.pending, t.bytes = nil, 0
	return t, events
}

// hush makes the session keep nothing of what the client says.
func (s *session) hush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.talk != nil {
		s.g.engine.Keep(-s.talk.bytes)
	}
	s.talk = nil
}

// give posts events and returns the events of the answer.
func (s *session) give(ctx context.Context, t *talk, events []grip.Event) ([]grip.Event, error) {
	var body []byte
	for _, e := range events {
		body = grip.AppendEvent(body, e)
	}
	if t.id == "" {
		t.id = connectionID()
	}
	r := newEventsRequest(ctx, t.request, body)
	r.Header = t.header.Clone()
	r.Header.Set("Accept", grip.ContentTypeEvents)
	r.Header.Set("Content-Type", grip.ContentTypeEvents)
	r.Header.Set("Connection-Id", t.id)
	for name, value := range t.meta {
		r.Header.Set("Meta-"+name, value)
	}
	p, err := s.g.call(r)
	if err != nil {
		return nil, err
	}
	if p.status != http.StatusOK || !isEvents(p.ins.Header) {
		return nil, fmt.Errorf("messages: the origin answered %d, %s", p.status, p.ins.Header.Get("Content-Type"))
	}
	t.setMeta(p.ins.Header)
	return grip.ParseEvents(p.ins.Body)
}

// setMeta remembers what the origin wants to be told again (GRIP reference,
// 8.5).
func (t *talk) setMeta(h http.Header) {
	for name, values := range h {
		if name, ok := strings.CutPrefix(name, "Set-Meta-"); ok && len(values) > 0 {
			if values[0] == "" {
				delete(t.meta, name)
				continue
			}
			if t.meta == nil {
				t.meta = make(map[string]string)
			}
			t.meta[name] = values[0]
		}
	}
}
