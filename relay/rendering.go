package relay

import (
	"strings"
)

// A form is how the events of a channel are written down.
type form string

const (
	formPlain    form = "plain"    // SSE and raw WebSocket messages
	formEnvelope form = "envelope" // the same carriers, with the record's place and metadata around the value
	formNDJSON   form = "ndjson"   // a line of JSON for each event
	formJSON     form = "json"     // WebSocket subprotocol spillway.v1.json
	formHint     form = "hint"     // no content: each item only says that there is news
)

// An idRule says which events carry an id (event-semantics.md 3.6).
type idRule string

const (
	idAuto  idRule = ""      // by the length of the cursor
	idEvery idRule = "every" // on every event
	idBatch idRule = "batch" // on the last event of what is appended at once
)

// A rendering is everything that decides the bytes of a channel, apart from
// the view. Two clients share a channel only if their bytes are equal.
type rendering struct {
	form form
	ids  idRule

	// eventFrom names the source of the event: "", "topic", "key" or
	// "header:<name>".
	eventFrom string

	// commentOnly turns id-only blocks off.
	commentOnly bool
}

// key is the canonical text of the rendering; it is part of channel names and
// of sealed links.
func (r rendering) key() string {
	var b strings.Builder
	b.WriteString(string(r.form))
	if r.ids != idAuto {
		b.WriteString(";id=" + string(r.ids))
	}
	if r.eventFrom != "" {
		b.WriteString(";event_from=" + r.eventFrom)
	}
	if r.commentOnly {
		b.WriteString(";heartbeat=comment")
	}
	return b.String()
}

// hint is the rendering that long polls and bounded streams hold: the view's
// channel that only says when to ask again.
var hint = rendering{form: formHint}

// reservedEvents are names that a record's event may not have: EventSource
// fires open and error itself, the others are Spillway's own.
var reservedEvents = map[string]bool{
	"open": true, "error": true, "gap": true, "live": true, "end": true, "stream-error": true,
	"delete": true, "binary": true, "undecodable": true, "oversize": true,
}

// eventName makes a name that is safe on an event: line. Empty means message.
func eventName(s string) string {
	s = strings.Map(func(c rune) rune {
		if c == '\r' || c == '\n' || c == 0 {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD"))
	switch {
	case s == "":
		return "message"
	case reservedEvents[s]:
		return "x-" + s
	}
	return s
}
