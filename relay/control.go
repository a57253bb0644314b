package relay

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/grip/jsonstring"
)

// A controlEvent is something Spillway itself says on a stream
// (event-semantics.md, section 4).
type controlEvent struct {
	name string // gap, live, end, stream-error
	data any    // marshals to a JSON object
}

// A gapReason is why records that a cursor promised cannot be delivered. It is
// a metric label and a row in the README.
type gapReason string

const (
	gapRetention    gapReason = "retention"     // deleted by retention or DeleteRecords
	gapTruncated    gapReason = "truncated"     // the log ends before the cursor: unclean election
	gapTopicChanged gapReason = "topic-changed" // deleted and created again, or another cluster
	gapTimeResume   gapReason = "time-resume"   // the cursor held only a time
	gapReplayLimit  gapReason = "replay-limit"  // more than one request may replay
	gapRate         gapReason = "rate"          // a stream with a rate was passed by its channel's log
	gapCompaction   gapReason = "compaction"    // it may have been missed that a key is gone; a snapshot follows
)

var gapReasons = []gapReason{gapRetention, gapTruncated, gapTopicChanged, gapTimeResume, gapReplayLimit, gapRate, gapCompaction}

// A gap is the data of a gap event. Partition, From and To are absent where
// only a time is known.
type gap struct {
	Topic     string    `json:"topic"`
	Partition *int32    `json:"partition,omitempty"`
	Reason    gapReason `json:"reason"`
	From      *int64    `json:"from,omitempty"`
	To        *int64    `json:"to,omitempty"`
	Exact     bool      `json:"exact"`
	Time      string    `json:"time,omitempty"`
}

func offsetGap(topic string, partition int32, reason gapReason, from, to int64) gap {
	return gap{Topic: topic, Partition: &partition, Reason: reason, From: &from, To: &to, Exact: true}
}

func timeGap(topic string, reason gapReason, resumed time.Time) gap {
	return gap{Topic: topic, Reason: reason, Time: resumed.UTC().Format(time.RFC3339)}
}

// around are the positions of a client that has not heard of a gap in a partition,
// and of one that has.
func (g gap) around() (before, after int64) {
	if g.Reason == gapTruncated {
		return *g.To, *g.From
	}
	return *g.From, *g.To
}

func (g gap) event() controlEvent { return controlEvent{name: "gap", data: g} }

type liveData struct {
	Replayed int64 `json:"replayed"`
	Complete *bool `json:"complete,omitempty"` // false: a plain replay stands in for a snapshot
}

type endData struct {
	Reason string `json:"reason"` // limit, until
}

// A streamError says that the stream must stop.
type streamError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Retry   bool   `json:"retry"`
}

// The codes of a stream-error. Clients must accept unknown ones.
const (
	codeKafkaUnavailable   = "kafka-unavailable"
	codeTopicDeleted       = "topic-deleted"
	codeDraining           = "draining"
	codeTooManyConnections = "too-many-connections"
	codeTooManyViews       = "too-many-views"
	codeTooSlow            = "too-slow"
	codeTokenExpired       = "token-expired"
	codeForbidden          = "forbidden"
	codeAuthUnavailable    = "auth-unavailable"
	codeInternal           = "internal"
)

// appendControlStream appends a control event to a held HTTP stream.
func (w *writer) appendControlStream(dst []byte, e controlEvent, id []byte) []byte {
	if w.form.lines() {
		return append(w.appendControlJSON(dst, e, id), '\n')
	}
	dst = appendEventStart(dst, e.name, id)
	dst = append(dst, "data: "...)
	dst = append(dst, mustJSON(e.data)...)
	return append(dst, "\n\n"...)
}

// appendControlMessage is the same for a WebSocket. ok is false for a raw
// one, which has no room for it.
func (w *writer) appendControlMessage(dst []byte, e controlEvent, id []byte) (out []byte, ok bool) {
	if w.form != formJSON && w.form != formCloud {
		return dst, false
	}
	return w.appendControlJSON(dst, e, id), true
}

// appendControlJSON appends {"type":…,…data…,"channel":…,"id":…}.
func (w *writer) appendControlJSON(dst []byte, e controlEvent, id []byte) []byte {
	if w.form.cloud() {
		return w.appendCloudControl(dst, e, id)
	}
	typ := e.name
	if typ == "stream-error" {
		typ = "error"
	}
	dst = append(dst, `{"type":`...)
	dst = jsonstring.Append(dst, typ)
	if w.form == formJSON {
		dst = append(dst, `,"channel":`...)
		dst = jsonstring.Append(dst, w.channel)
	}
	if e.data != nil {
		data := mustJSON(e.data)
		dst = append(dst, ',')
		dst = append(dst, data[1:len(data)-1]...)
	}
	return appendJSONEnd(dst, id)
}

// appendIDOnly appends the block or message that moves a client's cursor and
// fires no event (3.4). A raw WebSocket has none.
func (w *writer) appendIDOnly(dst, id []byte) []byte {
	switch {
	case w.form.lines():
		return append(w.appendControlJSON(dst, controlEvent{name: "cursor"}, id), '\n')
	case w.form == formJSON:
		return w.appendControlJSON(dst, controlEvent{name: "cursor"}, id)
	}
	dst = append(dst, "id: "...)
	dst = append(dst, id...)
	return append(dst, "\n\n"...)
}

// appendAnnouncement appends what gives a live stream its first id before its
// first event. Without it a client that loses the connection before anything
// has happened would come back with nothing, and miss what happened meanwhile.
func (w *writer) appendAnnouncement(dst []byte, via transport, id []byte) []byte {
	switch {
	case w.form.lines(): // they are records and control objects; a client has no use for either here
	case w.form == formJSON, w.form == formCloud && via == overWebSocket:
		dst = grip.AppendEvent(dst, grip.Event{Type: grip.EventText, Content: w.appendControlJSON(nil, controlEvent{name: "cursor"}, id)})
	case via == overHTTP:
		dst = w.appendIDOnly(dst, id)
	}
	return dst
}

// mustJSON marshals our own data, which cannot fail. People read it: <topic>
// stays as it is.
func mustJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("relay: marshal control data: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// A transport is how the frames of a channel travel.
type transport uint8

const (
	overHTTP transport = iota
	overWebSocket
)

// appendRecord appends what a page of history holds for a record: stream bytes,
// or a WebSocket-over-HTTP event.
func (w *writer) appendRecord(dst []byte, via transport, r *kgo.Record, id []byte) []byte {
	if via == overHTTP {
		return w.appendStream(dst, r, w.kind(r), id)
	}
	content, typ, ok := w.message(r, w.kind(r), id)
	if !ok {
		return dst
	}
	e := grip.Event{Type: grip.EventText, Content: content}
	if typ == grip.BinaryMessage {
		e.Type = grip.EventBinary
	}
	if w.form == formPlain {
		// Else a record could be an instruction to the gateway (GRIP reference, 8.4).
		e.Content = append([]byte(grip.DefaultMessagePrefix), content...)
	}
	return grip.AppendEvent(dst, e)
}

// appendControl is appendRecord for a control event.
func (w *writer) appendControl(dst []byte, via transport, e controlEvent, id []byte) []byte {
	if via == overHTTP {
		return w.appendControlStream(dst, e, id)
	}
	content, ok := w.appendControlMessage(nil, e, id)
	if !ok {
		return dst
	}
	return grip.AppendEvent(dst, grip.Event{Type: grip.EventText, Content: content})
}
