package relay

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/grip/jsonstring"
	"spillway/relay/registry"
)

// A writer writes the records and control events of one channel. It holds no
// state: pages of history and the live log use the same one, so that a client
// cannot tell them apart.
type writer struct {
	rendering
	channel  string // carried by formJSON messages
	maxBytes int32  // a larger value is an oversize event
	maxID    int32  // a longer cursor is written without offsets; cursor.MaxBytes
	cloud    *cloud // of forms that are CloudEvents
	veil     *veil  // nil: positions are shown
}

// A recordKind is which row of event-semantics.md section 5 a record is.
type recordKind uint8

const (
	kindText recordKind = iota
	kindJSON            // text that is one JSON text; formPlain does not tell it apart
	kindBinary
	kindDelete
	kindOversize
	kindUndecodable
	numKinds
)

func (k recordKind) String() string {
	return [numKinds]string{"text", "json", "binary", "delete", "oversize", "undecodable"}[k]
}

func (w *writer) kind(r *kgo.Record) recordKind {
	if w.form == formPlain {
		return w.plainKind(r)
	}
	return richKind(r, w.plainKind(r))
}

// plainKind is kind in formPlain, whatever the form is.
func (w *writer) plainKind(r *kgo.Record) recordKind {
	o := outcomeOf(r)
	switch {
	case sizeOf(r) > int(w.maxBytes):
		return kindOversize
	case o != nil && o.undecodable != "":
		return kindUndecodable
	case r.Value == nil:
		return kindDelete
	case o != nil && o.codec == registry.Binary, !utf8.Valid(r.Value):
		return kindBinary
	}
	return kindText
}

// richKind is kind in the other forms, for a record that is plain in formPlain.
func richKind(r *kgo.Record, plain recordKind) recordKind {
	if plain != kindText {
		return plain
	}
	switch o := outcomeOf(r); {
	case o != nil && o.codec == registry.String:
		return kindText
	case o != nil && o.schema != 0, isJSON(r.Value):
		return kindJSON
	}
	return kindText
}

// appendStream appends what a held HTTP stream receives for a record: one SSE
// event, or one line of NDJSON. id is empty where the event carries none.
func (w *writer) appendStream(dst []byte, r *kgo.Record, kind recordKind, id []byte) []byte {
	if w.form.lines() {
		return append(w.appendJSON(dst, r, kind, id), '\n')
	}
	dst = appendEventStart(dst, w.event(kind, r), id)
	switch {
	case kind == kindOversize && w.form != formCloud, kind == kindUndecodable && w.form == formPlain:
		dst = append(dst, "data: "...)
		dst = append(w.appendWithheld(dst, r, kind), '\n')
	case w.form != formPlain:
		dst = append(dst, "data: "...)
		dst = append(w.appendJSON(dst, r, kind, nil), '\n')
	case kind == kindDelete:
		key := r.Key
		if o := outcomeOf(r); o != nil && o.keyless {
			key = nil
		}
		dst = appendDataText(dst, key)
	case kind == kindBinary:
		dst = append(dst, "data: "...)
		dst = append(base64.StdEncoding.AppendEncode(dst, r.Value), '\n')
	default:
		dst = appendData(dst, r.Value)
	}
	return append(dst, '\n')
}

// appendEnvelopes appends what appendStream and appendMessage do in
// formCloud, and in formEnvelope for a record that is not oversize: the same JSON, but for the
// id, written down once.
func (w *writer) appendEnvelopes(stream, message []byte, r *kgo.Record, kind recordKind, id []byte) (s, m []byte) {
	stream = appendEventStart(stream, w.event(kind, r), id)
	stream = append(stream, "data: "...)
	from := len(stream)
	stream = w.appendJSON(stream, r, kind, nil)
	message = append(message, stream[from:len(stream)-1]...)
	stream = append(stream, "\n\n"...)
	if w.form == formCloud {
		return stream, appendCloudEnd(message, id)
	}
	return stream, appendJSONEnd(message, id)
}

// event is the name on the event: line.
func (w *writer) event(kind recordKind, r *kgo.Record) string {
	switch kind {
	case kindDelete:
		return "delete"
	case kindBinary:
		if w.form == formPlain {
			return "binary"
		}
	case kindOversize:
		return "oversize"
	case kindUndecodable:
		return "undecodable"
	}
	const header = "header:"
	switch from := w.eventFrom; {
	case from == "":
	case from == "topic":
		return eventName(r.Topic)
	case from == "key":
		return eventName(string(r.Key))
	default:
		for _, h := range w.headers(r) {
			if h.Key == from[len(header):] {
				return eventName(string(h.Value))
			}
		}
	}
	return "message"
}

// rawMessage returns the content of a WebSocket message that is the value
// itself; ok is false where it is something else.
func (w *writer) rawMessage(r *kgo.Record, kind recordKind) (content []byte, typ grip.MessageType, ok bool) {
	switch {
	case w.form != formPlain:
	case kind == kindText:
		return r.Value, grip.TextMessage, true
	case kind == kindBinary:
		return r.Value, grip.BinaryMessage, true
	}
	return nil, 0, false
}

// hasMessage reports whether a WebSocket gets a message for a record. A raw one
// has none for a tombstone.
func (w *writer) hasMessage(kind recordKind) bool { return w.form != formPlain || kind != kindDelete }

// appendMessage appends the content of the WebSocket message for a record that
// has one and where it is not raw. It is text.
func (w *writer) appendMessage(dst []byte, r *kgo.Record, kind recordKind, id []byte) []byte {
	if w.form == formPlain {
		return w.appendWithheld(dst, r, kind)
	}
	return w.appendJSON(dst, r, kind, id)
}

// message is the WebSocket message for a record; ok is false where there is none.
func (w *writer) message(r *kgo.Record, kind recordKind, id []byte) (content []byte, typ grip.MessageType, ok bool) {
	if content, typ, ok = w.rawMessage(r, kind); ok || !w.hasMessage(kind) {
		return content, typ, ok
	}
	return w.appendMessage(nil, r, kind, id), grip.TextMessage, true
}

// streamSize and messageSize are how many bytes the content is likely to have
// at most. More is no mistake, only another copy.
func (w *writer) streamSize(r *kgo.Record, kind recordKind, id []byte) int {
	const line = len("data: ")
	const around = len("event: oversize\nid: \n\n") + line
	switch {
	case w.form != formPlain:
		return around + w.messageSize(r, kind, id)
	case kind == kindText:
		lines := bytes.Count(r.Value, []byte{'\n'}) + bytes.Count(r.Value, []byte{'\r'})
		return around + len(r.Key) + len(id) + len(r.Value) + lines*line // the key may name the event
	}
	return around + len(r.Key) + len(id) + w.sizeOfValue(r, kind)
}

func (w *writer) messageSize(r *kgo.Record, kind recordKind, id []byte) int {
	const around = 192 // names of members, numbers, the time
	n := around + len(w.channel) + len(r.Topic) + len(r.Key) + len(id) + w.sizeOfValue(r, kind)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + len(`"":"",`)
	}
	return n
}

// sizeOfValue is how many bytes the value is likely to have at most when it is
// written down.
func (w *writer) sizeOfValue(r *kgo.Record, kind recordKind) int {
	switch kind {
	case kindBinary:
		return base64.StdEncoding.EncodedLen(len(r.Value))
	case kindDelete, kindOversize:
		return 128 // where it is
	case kindUndecodable:
		return 192 + base64.StdEncoding.EncodedLen(len(outcomeOf(r).raw))
	}
	return len(r.Value) + len(r.Value)/16 // what has to be escaped
}

// appendJSON appends the envelope of a record: one line, without its end.
//
//	{"topic":…,"partition":…,"offset":…,"timestamp":…,"key":…,"headers":{…},"value":…}
//
// with "schema":{"id":…} where it is asked for and known, "type":"record" and "channel" first in formJSON, and "id" where there
// is no id: line.
func (w *writer) appendJSON(dst []byte, r *kgo.Record, kind recordKind, id []byte) []byte {
	if w.form.cloud() {
		return w.appendCloudEvent(dst, r, kind, id)
	}
	dst = append(dst, '{')
	if w.form == formJSON {
		dst = append(dst, `"type":"record","channel":`...)
		dst = jsonstring.Append(dst, w.channel)
		dst = append(dst, ',')
	}
	dst = appendPlace(dst, r)
	dst = append(dst, `,"timestamp":"`...)
	dst = appendTime(dst, r.Timestamp)
	dst = append(dst, '"')
	if r.Attrs.TimestampType() == 1 {
		dst = append(dst, `,"timestamp_type":"log-append"`...)
	}
	if r.Key != nil {
		dst = append(dst, ',')
		dst = appendText(dst, "key", r.Key)
	}
	dst = appendHeaders(dst, w.headers(r))
	switch kind {
	case kindDelete:
		dst = append(dst, `,"value":null,"op":"delete"`...)
	case kindOversize:
		dst = append(dst, `,"error":"oversize","size":`...)
		dst = strconv.AppendInt(dst, int64(sizeOf(r)), 10)
	case kindUndecodable:
		o := outcomeOf(r)
		dst = append(dst, `,"error":`...)
		dst = jsonstring.Append(dst, o.undecodable)
		if o.raw != nil {
			dst = append(dst, `,"value_base64":"`...)
			dst = base64.StdEncoding.AppendEncode(dst, o.raw)
			dst = append(dst, '"')
		}
	case kindBinary:
		dst = append(dst, `,"value_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, r.Value)
		dst = append(dst, '"')
	case kindJSON:
		dst = append(dst, `,"value":`...)
		dst = appendOneLine(dst, r.Value)
	default:
		dst = append(dst, `,"value":`...)
		dst = jsonstring.Append(dst, r.Value)
	}
	if w.schema {
		if o := outcomeOf(r); o != nil && o.schema != 0 {
			dst = append(dst, `,"schema":{"id":`...)
			dst = strconv.AppendInt(dst, int64(o.schema), 10)
			dst = append(dst, '}')
		}
	}
	return appendJSONEnd(dst, id)
}

// appendJSONEnd appends the id, unless it is empty, and the brace that closes.
func appendJSONEnd(dst, id []byte) []byte {
	if len(id) > 0 {
		dst = append(dst, `,"id":"`...)
		dst = append(dst, id...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

// appendTime appends t in UTC, to the millisecond (RFC 3339): what
// AppendFormat does, without reading a layout.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 { // a producer may write anything
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	}
	hour, minute, second := t.Clock()
	dst = appendDigits(dst, year, 4, '-')
	dst = appendDigits(dst, int(month), 2, '-')
	dst = appendDigits(dst, day, 2, 'T')
	dst = appendDigits(dst, hour, 2, ':')
	dst = appendDigits(dst, minute, 2, ':')
	dst = appendDigits(dst, second, 2, '.')
	return appendDigits(dst, t.Nanosecond()/1e6, 3, 'Z')
}

// appendDigits appends n with this many digits, and what follows it.
func appendDigits(dst []byte, n, digits int, next byte) []byte {
	at := len(dst) + digits
	dst = append(dst, "0000"[:digits]...)
	dst = append(dst, next)
	for ; n > 0; n /= 10 {
		at--
		dst[at] = '0' + byte(n%10)
	}
	return dst
}

// appendPlace appends the members that say where a record is.
func appendPlace(dst []byte, r *kgo.Record) []byte {
	dst = append(dst, `"topic":`...)
	dst = jsonstring.Append(dst, r.Topic)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(r.Partition), 10)
	dst = append(dst, `,"offset":`...)
	return strconv.AppendInt(dst, r.Offset, 10)
}

// appendWithheld appends where a record is whose value is not sent, and why.
func (w *writer) appendWithheld(dst []byte, r *kgo.Record, kind recordKind) []byte {
	dst = append(dst, '{')
	if w.veil.hides(r.Topic) {
		dst = append(dst, `"topic":`...)
		dst = jsonstring.Append(dst, r.Topic)
	} else {
		dst = appendPlace(dst, r)
	}
	if kind == kindUndecodable {
		dst = append(dst, `,"reason":`...)
		dst = jsonstring.Append(dst, outcomeOf(r).undecodable)
		return append(dst, '}')
	}
	dst = append(dst, `,"reason":"oversize","size":`...)
	dst = strconv.AppendInt(dst, int64(sizeOf(r)), 10)
	return append(dst, '}')
}

// sizeOf is the size of a record's value as it was produced, in bytes.
func sizeOf(r *kgo.Record) int {
	if o := outcomeOf(r); o != nil {
		return o.size
	}
	return len(r.Value)
}

// appendText appends "name":"text", or "name_base64":"…" where text is not UTF-8.
func appendText(dst []byte, name string, text []byte) []byte {
	dst = append(dst, '"')
	dst = append(dst, name...)
	if utf8.Valid(text) {
		dst = append(dst, `":`...)
		return jsonstring.Append(dst, text)
	}
	dst = append(dst, `_base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, text)
	return append(dst, '"')
}

// appendHeaders appends ,"headers":{…} and ,"headers_base64":{…}, each only if
// it has a member. A name that repeats becomes an array, in order.
func appendHeaders(dst []byte, headers []kgo.RecordHeader) []byte {
	headers = readable(headers)
	for _, binary := range []bool{false, true} {
		member := `,"headers":{`
		if binary {
			member = `,"headers_base64":{`
		}
		n := 0
		for i, h := range headers {
			if headerIsBinary(headers, h.Key) != binary || firstHeader(headers, h.Key) != i {
				continue
			}
			if n == 0 {
				dst = append(dst, member...)
			} else {
				dst = append(dst, ',')
			}
			n++
			dst = jsonstring.Append(dst, h.Key)
			dst = append(dst, ':')
			dst = appendHeaderValues(dst, headers[i:], binary)
		}
		if n > 0 {
			dst = append(dst, '}')
		}
	}
	return dst
}

// readable returns headers with names as JSON can have them: those that differ
// only in what is not UTF-8 are one name.
func readable(headers []kgo.RecordHeader) []kgo.RecordHeader {
	if !slices.ContainsFunc(headers, func(h kgo.RecordHeader) bool { return !utf8.ValidString(h.Key) }) {
		return headers
	}
	headers = slices.Clone(headers)
	for i := range headers {
		headers[i].Key = string([]rune(headers[i].Key)) // each such byte becomes U+FFFD
	}
	return headers
}

// appendHeaderValues appends the values of the name that headers begins with.
func appendHeaderValues(dst []byte, headers []kgo.RecordHeader, binary bool) []byte {
	count := 0
	for _, h := range headers {
		if h.Key == headers[0].Key {
			count++
		}
	}
	if count > 1 {
		dst = append(dst, '[')
	}
	n := 0
	for _, h := range headers {
		if h.Key != headers[0].Key {
			continue
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		n++
		switch {
		case h.Value == nil:
			dst = append(dst, "null"...)
		case binary:
			dst = append(dst, '"')
			dst = base64.StdEncoding.AppendEncode(dst, h.Value)
			dst = append(dst, '"')
		default:
			dst = jsonstring.Append(dst, h.Value)
		}
	}
	if count > 1 {
		dst = append(dst, ']')
	}
	return dst
}

func firstHeader(headers []kgo.RecordHeader, name string) int {
	for i, h := range headers {
		if h.Key == name {
			return i
		}
	}
	return -1
}

// headerIsBinary reports whether any value of the name is not UTF-8; then all
// of them move to headers_base64, so that an array keeps its order.
func headerIsBinary(headers []kgo.RecordHeader, name string) bool {
	for _, h := range headers {
		if h.Key == name && !utf8.Valid(h.Value) {
			return true
		}
	}
	return false
}

// appendEventStart appends the event: line and, unless id is empty, the id: line.
func appendEventStart(dst []byte, event string, id []byte) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, event...)
	dst = append(dst, '\n')
	if len(id) > 0 {
		dst = append(dst, "id: "...)
		dst = append(dst, id...)
		dst = append(dst, '\n')
	}
	return dst
}

// appendData appends a data: line for each line of data. CR, LF and CRLF each
// end a line, as the standard reads them (HTML, "Server-sent events", 9.2.6),
// so a record cannot forge a field. Empty data is one empty line, without
// which a browser would discard the event.
func appendData(dst, data []byte) []byte {
	for {
		dst = append(dst, "data: "...)
		i := lineEnd(data)
		if i < 0 {
			dst = append(dst, data...)
			return append(dst, '\n')
		}
		dst = append(dst, data[:i]...)
		dst = append(dst, '\n')
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			i++
		}
		data = data[i+1:]
	}
}

// lineEnd is where the first line of data ends; -1 where nothing ends it. Most
// values have no line end, and two searches for a byte see that ten times
// faster than one for either.
func lineEnd(data []byte) int {
	lf := bytes.IndexByte(data, '\n')
	if lf >= 0 {
		data = data[:lf]
	}
	if cr := bytes.IndexByte(data, '\r'); cr >= 0 {
		return cr
	}
	return lf
}

// appendDataText is appendData for a key: base64 where it is not UTF-8.
func appendDataText(dst, text []byte) []byte {
	if utf8.Valid(text) {
		return appendData(dst, text)
	}
	dst = append(dst, "data: "...)
	return append(base64.StdEncoding.AppendEncode(dst, text), '\n')
}

// appendOneLine appends a JSON text with its line ends, which can only stand
// between tokens, as blanks.
func appendOneLine(dst, text []byte) []byte {
	start := len(dst)
	dst = append(dst, text...)
	for rest := dst[start:]; ; {
		i := lineEnd(rest)
		if i < 0 {
			return dst
		}
		rest[i] = ' '
		rest = rest[i+1:]
	}
}
