package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip/jsonstring"
	"spillway/relay/cursor"
)

// A cloud is what CloudEvents of a channel say of where they come from.
type cloud struct {
	path string // EVENTS_PATH
	tags map[string]cursor.Tag
}

// newCloud is nil for a form that has no use for it.
func newCloud(f form, path string, topics []string, tags []cursor.Tag) *cloud {
	if !f.cloud() {
		return nil
	}
	c := &cloud{path: path, tags: make(map[string]cursor.Tag, len(topics))}
	for i, topic := range topics {
		c.tags[topic] = tags[i]
	}
	return c
}

// ownTypes begins the types of events that no record names.
const ownTypes = "spillway."

// appendCloudEvent appends a record in CloudEvents' JSON format, 1.0: one line,
// without its end.
//
//	{"specversion":"1.0","id":"<tag>-<partition>-<offset>","source":"/events/<topic>/","type":…,
//	 "subject":<key>,"partitionkey":<key>,"time":…,"topic":…,"partition":…,"offset":"…",
//	 "datacontenttype":…,"data":…,"cursor":…}
//
// The tag tells topics apart that had the same name one after the other: an id
// may never come again. The offset is a string since integers of CloudEvents
// have 32 bits.
func (w *writer) appendCloudEvent(dst []byte, r *kgo.Record, kind recordKind, id []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":"`...)
	tag := w.cloud.tags[r.Topic]
	dst = append(dst, tag[:]...)
	dst = append(dst, '-')
	dst = strconv.AppendInt(dst, int64(r.Partition), 10)
	dst = append(dst, '-')
	dst = strconv.AppendInt(dst, r.Offset, 10)
	dst = append(dst, `","source":`...)
	dst = jsonstring.Append(dst, w.cloud.path+url.PathEscape(r.Topic)+"/")
	dst = append(dst, `,"type":`...)
	dst = jsonstring.Append(dst, w.cloudType(kind, r))
	switch {
	case r.Key == nil:
	case isCloudText(r.Key):
		dst = append(dst, `,"subject":`...)
		dst = jsonstring.Append(dst, r.Key)
		dst = append(dst, `,"partitionkey":`...)
		dst = jsonstring.Append(dst, r.Key)
	default:
		dst = append(dst, `,"keybase64":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, r.Key), '"')
	}
	if year := r.Timestamp.UTC().Year(); year >= 0 && year <= 9999 { // else it has no form there
		dst = append(dst, `,"time":"`...)
		dst = append(appendTime(dst, r.Timestamp), '"')
	}
	if r.Attrs.TimestampType() == 1 {
		dst = append(dst, `,"timestamptype":"log-append"`...)
	}
	dst = append(dst, `,"topic":`...)
	dst = jsonstring.Append(dst, r.Topic)
	dst = append(dst, `,"partition":`...)
	dst = strconv.AppendInt(dst, int64(r.Partition), 10)
	dst = append(dst, `,"offset":"`...)
	dst = append(strconv.AppendInt(dst, r.Offset, 10), '"')
	o := outcomeOf(r)
	if w.schema && o != nil && o.schema != 0 {
		dst = append(dst, `,"schemaid":`...)
		dst = strconv.AppendInt(dst, int64(o.schema), 10)
	}
	switch kind {
	case kindDelete:
	case kindOversize:
		dst = append(dst, `,"error":"oversize","size":`...)
		dst = strconv.AppendInt(dst, int64(sizeOf(r)), 10)
	case kindUndecodable:
		dst = append(dst, `,"error":`...)
		dst = jsonstring.Append(dst, o.undecodable)
		if o.raw != nil {
			dst = appendCloudBytes(dst, o.raw)
		}
	case kindBinary:
		dst = appendCloudBytes(dst, r.Value)
	case kindJSON:
		dst = append(dst, `,"datacontenttype":"application/json","data":`...)
		dst = appendOneLine(dst, r.Value)
	default:
		dst = append(dst, `,"datacontenttype":"text/plain","data":`...)
		dst = jsonstring.Append(dst, r.Value)
	}
	return appendCloudEnd(dst, id)
}

func appendCloudBytes(dst, b []byte) []byte {
	dst = append(dst, `,"datacontenttype":"application/octet-stream","data_base64":"`...)
	return append(base64.StdEncoding.AppendEncode(dst, b), '"')
}

// appendCloudEnd appends the cursor, unless it is empty, and the brace that closes.
func appendCloudEnd(dst, id []byte) []byte {
	if len(id) > 0 {
		dst = append(dst, `,"cursor":"`...)
		dst = append(append(dst, id...), '"')
	}
	return append(dst, '}')
}

// cloudType is what event_from names, and else a type of our own.
func (w *writer) cloudType(kind recordKind, r *kgo.Record) string {
	name := w.event(kind, r)
	switch {
	case w.eventFrom == "", kind == kindDelete, kind == kindOversize, kind == kindUndecodable, name == "message":
		return ownTypes + name
	}
	if name = strings.Map(func(c rune) rune {
		if isCloudRune(c) {
			return c
		}
		return -1
	}, name); strings.TrimSpace(name) == "" {
		return ownTypes + "message"
	}
	return name
}

// isCloudText reports whether text may be an attribute's value that must not be
// empty. To some SDKs blanks are empty.
func isCloudText(text []byte) bool {
	if len(bytes.TrimSpace(text)) == 0 || !utf8.Valid(text) {
		return false
	}
	for _, c := range string(text) {
		if !isCloudRune(c) {
			return false
		}
	}
	return true
}

// isCloudRune reports whether strings of CloudEvents may have a character: no
// control and no noncharacter.
func isCloudRune(c rune) bool {
	return c >= ' ' && (c < 0x7f || c > 0x9f) && (c < 0xfdd0 || c > 0xfdef) && c&0xfffe != 0xfffe
}

// appendCloudControl appends a control event in the same format. Its source is
// EVENTS_PATH itself.
func (w *writer) appendCloudControl(dst []byte, e controlEvent, id []byte) []byte {
	dst = append(dst, `{"specversion":"1.0","id":"`...)
	dst = append(dst, rand.Text()...)
	dst = append(dst, `","source":`...)
	dst = jsonstring.Append(dst, w.cloud.path)
	dst = append(dst, `,"type":`...)
	dst = jsonstring.Append(dst, ownTypes+e.name)
	if e.data != nil {
		dst = append(dst, `,"datacontenttype":"application/json","data":`...)
		dst = append(dst, mustJSON(e.data)...)
	}
	return appendCloudEnd(dst, id)
}
