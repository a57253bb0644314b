package relay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A form is how the events of a channel are written down.
type form uint8

const (
	formPlain      form = iota // SSE and raw WebSocket messages
	formEnvelope               // the same carriers, with the record's place and metadata around the value
	formNDJSON                 // a line of JSON for each event
	formJSON                   // WebSocket subprotocol spillway.v1.json
	formCloud                  // as formEnvelope, in CloudEvents' JSON format,
	formCloudLines             // as formNDJSON in it,
	formCloudBatch             // and as the array that answers a long poll
	formHint                   // no content: each item only says that there is news
)

var formNames = []string{formPlain: "plain", formEnvelope: "envelope", formNDJSON: "ndjson", formJSON: "json", formCloud: "cloudevents", formCloudLines: "cloudevents-lines", formCloudBatch: "cloudevents-batch", formHint: "hint"}

func (f form) String() string { return formNames[f] }

// format is the name in TOPIC_RULES of what a form shows.
func (f form) format() string {
	switch {
	case f == formPlain:
		return "plain"
	case f.cloud():
		return "cloudevents"
	}
	return "envelope"
}

// lines reports whether the events of HTTP streams are lines of JSON.
func (f form) lines() bool { return f == formNDJSON || f == formCloudLines || f == formCloudBatch }

// cloud reports whether events are CloudEvents.
func (f form) cloud() bool { return f == formCloud || f == formCloudLines || f == formCloudBatch }

// MarshalText and UnmarshalText are for links: what a number means may change
// between versions.
func (f form) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

func (f *form) UnmarshalText(text []byte) error {
	i := slices.Index(formNames, string(text))
	if i < 0 {
		return fmt.Errorf("form %q is unknown", text)
	}
	*f = form(i)
	return nil
}

// An idRule says which events carry an id (event-semantics.md 3.6).
type idRule uint8

const (
	idAuto  idRule = iota // by the length of the cursor
	idEvery               // on every event
	idBatch               // on the last event of what is appended at once
)

var idRuleNames = []string{idAuto: "auto", idEvery: "every", idBatch: "batch"}

func (i idRule) String() string { return idRuleNames[i] }

// MarshalText and UnmarshalText are for links.
func (i idRule) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

func (i *idRule) UnmarshalText(text []byte) error {
	at := slices.Index(idRuleNames, string(text))
	if at < 0 {
		return fmt.Errorf("id rule %q is unknown", text)
	}
	*i = idRule(at)
	return nil
}

// A rendering is everything that decides the bytes of a channel, apart from
// the view. Two clients share a channel only if their bytes are equal.
type rendering struct {
	// eventFrom names the source of the event: "", "topic", "key" or
	// "header:<name>".
	eventFrom string

	form form
	ids  idRule

	// commentOnly turns id-only blocks off.
	commentOnly bool

	// schema says in envelopes which schema the value was written with.
	schema bool

	// bare leaves all headers out.
	bare bool
}

// headers are those of a record that are shown.
func (r *rendering) headers(of *kgo.Record) []kgo.RecordHeader {
	if r.bare {
		return nil
	}
	return of.Headers
}

// key is the canonical text of the rendering; it is part of channel names and
// of sealed links.
func (r rendering) key() string {
	var b strings.Builder
	b.WriteString(r.form.String())
	if r.ids != idAuto {
		b.WriteString(";id=" + r.ids.String())
	}
	if r.eventFrom != "" {
		b.WriteString(";event_from=" + r.eventFrom)
	}
	if r.commentOnly {
		b.WriteString(";heartbeat=comment")
	}
	if r.schema {
		b.WriteString(";schema=1")
	}
	if r.bare {
		b.WriteString(";headers=0")
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
