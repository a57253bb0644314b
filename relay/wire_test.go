package relay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
	"spillway/relay/registry"
)

// What is written is read here by parsers that know nothing of the encoders:
// SSE by the standard's own steps, JSON with each name once.

// A browserEvent is what EventSource would dispatch.
type browserEvent struct{ typ, data, lastID string }

// readEventStream is "Interpreting an event stream" of the standard (HTML,
// "Server-sent events", 9.2.6), step by step. unknown are the names of fields
// that it ignores.
func readEventStream(stream []byte) (events []browserEvent, unknown []string) {
	text := strings.TrimPrefix(strings.ToValidUTF8(string(stream), "\uFFFD"), "\uFEFF")
	var data, typ, id, lastID string
	for text != "" {
		end := strings.IndexAny(text, "\r\n")
		if end < 0 { // what no blank line ends is discarded
			break
		}
		line := text[:end]
		if text[end] == '\r' && strings.HasPrefix(text[end:], "\r\n") {
			end++
		}
		text = text[end+1:]
		if line == "" {
			lastID = id
			if data != "" {
				if typ == "" {
					typ = "message"
				}
				events = append(events, browserEvent{typ, strings.TrimSuffix(data, "\n"), lastID})
			}
			data, typ = "", ""
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimPrefix(value, " "); {
		case name == "": // a comment
		case name == "event":
			typ = value
		case name == "data":
			data += value + "\n"
		case name == "id":
			if !strings.Contains(value, "\x00") {
				id = value
			}
		case name == "retry":
		default:
			unknown = append(unknown, name)
		}
	}
	return events, unknown
}

// members reads one JSON object of which each name is there once, and nothing
// around it. What the members hold is as it was written.
func members(t *testing.T, text []byte) map[string]json.RawMessage {
	t.Helper()
	if !json.Valid(text) || !utf8.Valid(text) || text[0] != '{' || text[len(text)-1] != '}' || bytes.ContainsAny(text, "\r\n") {
		t.Fatalf("%q is not an object of JSON on one line", text)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]json.RawMessage)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if _, twice := all[name.(string)]; twice {
			t.Fatalf("%q has the name %q twice", text, name)
		}
		all[name.(string)] = value
	}
	if _, err := d.Token(); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("%q is not one object", text)
	}
	return all
}

// A wireCase is a record and what its channel is, as a fuzz test makes them.
type wireCase struct {
	w    writer
	r    *kgo.Record
	o    outcome // of the record, if it has one
	id   []byte
	keys bool // of a tombstone
}

const wireMaxBytes = 200

func newWireCase(key, value, headers []byte, millis int64, flags uint32) *wireCase {
	bit := func(n int) bool { return flags>>n&1 == 1 }
	c := &wireCase{id: []byte("1-hi3hk-4fz1q.3.xg.rq.3ej"), keys: true}
	c.r = &kgo.Record{Topic: "or.ders", Partition: 2, Offset: 4410, Key: append([]byte{}, key...), Value: append([]byte{}, value...), Timestamp: time.UnixMilli(millis)}
	if bit(0) {
		c.r.Key = nil
	}
	if bit(1) {
		c.r.Value = nil
	}
	if bit(2) {
		c.r.Attrs = kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1})
	}
	for h := range bytes.SplitSeq(headers, []byte{0x1e}) {
		name, value, found := bytes.Cut(h, []byte{0x1f})
		if len(h) == 0 {
			continue
		}
		header := kgo.RecordHeader{Key: string(name)}
		if found {
			header.Value = append([]byte{}, value...)
		}
		c.r.Headers = append(c.r.Headers, header)
	}
	c.w = writer{channel: `c~"1`, maxBytes: wireMaxBytes, maxID: cursor.MaxBytes}
	c.w.eventFrom = []string{"", "topic", "key", "header:type"}[flags>>3&3]
	c.w.schema, c.w.bare = bit(5), bit(6)
	c.o.size = len(c.r.Value)
	switch flags >> 7 & 7 {
	case 1:
		c.o.codec = registry.String
	case 2:
		c.o.codec = registry.Binary
	case 3: // decoded from something that is not as long
		if !json.Valid(c.r.Value) || !utf8.Valid(c.r.Value) {
			return nil
		}
		c.o.schema, c.o.size = 7, 5
	case 4:
		c.o.undecodable, c.o.raw, c.o.schema = "bad-data", c.r.Value, 7
		c.r.Value = nil
	case 5:
		c.o.undecodable = "redacted"
		c.r.Value = nil
	case 6:
		if c.r.Value != nil {
			return nil
		}
		c.o.keyless, c.keys = true, false
	default:
		return c
	}
	c.r.Context = &c.o
	return c
}

// The rows of event-semantics.md section 5, said once more.
func (c *wireCase) row() string {
	switch {
	case c.o.size > wireMaxBytes:
		return "oversize"
	case c.o.undecodable != "":
		return "undecodable"
	case c.r.Value == nil:
		return "delete"
	case c.o.codec == registry.Binary || !utf8.Valid(c.r.Value):
		return "binary"
	case c.o.codec != registry.String && json.Valid(c.r.Value):
		return "json"
	}
	return "text"
}

// eventType is the name of the event, and binary what it is if the value is not text.
func (c *wireCase) eventType(binary string) string {
	switch row := c.row(); row {
	case "oversize", "undecodable", "delete":
		return row
	case "binary":
		if binary != "" {
			return binary
		}
	}
	var name string
	switch c.w.eventFrom {
	case "topic":
		name = c.r.Topic
	case "key":
		name = string(c.r.Key)
	case "header:type":
		if !c.w.bare {
			for _, h := range slices.Backward(c.r.Headers) {
				if h.Key == "type" {
					name = string(h.Value)
				}
			}
		}
	}
	name = strings.ToValidUTF8(name, "\uFFFD")
	name = strings.NewReplacer("\r", "", "\n", "", "\x00", "").Replace(name)
	switch name {
	case "":
		return "message"
	case "open", "error", "gap", "live", "end", "stream-error", "delete", "binary", "undecodable", "oversize":
		return "x-" + name
	}
	return name
}

// asLines is text as a browser has it: all ends of lines are LF.
func asLines(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
}

func textOf(b []byte) string {
	if utf8.Valid(b) {
		return asLines(string(b))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// checkStream holds what one record made of a stream against what browsers
// dispatch: it alone, whatever is around it.
func (c *wireCase) checkStream(t *testing.T, stream []byte) string {
	t.Helper()
	around := func(id string) string { return "event: message\nid: " + id + "\ndata: around\n\n" }
	events, unknown := readEventStream([]byte(":ok\nretry: 2000\n\n" + around("before") + string(stream) + around("after")))
	if len(events) != 3 || len(unknown) > 0 {
		t.Fatalf("%q makes the events %q and the fields %q", stream, events, unknown)
	}
	if events[0] != (browserEvent{"message", "around", "before"}) || events[2] != (browserEvent{"message", "around", "after"}) {
		t.Fatalf("%q changes what is around it: %q", stream, events)
	}
	if events[1].lastID != string(c.id) {
		t.Fatalf("%q has the id %q, want %q", stream, events[1].lastID, c.id)
	}
	binary := ""
	if c.w.form == formPlain {
		binary = "binary"
	}
	if got, want := events[1].typ, c.eventType(binary); got != want {
		t.Fatalf("%q is an event %q, want %q", stream, got, want)
	}
	return events[1].data
}

// checkLocator holds the JSON that stands for a value which is not sent against the record.
func (c *wireCase) checkLocator(t *testing.T, text []byte) {
	t.Helper()
	want := map[string]any{"topic": c.r.Topic, "partition": c.r.Partition, "offset": c.r.Offset, "reason": "oversize", "size": c.o.size}
	if c.row() == "undecodable" {
		want["reason"] = c.o.undecodable
		delete(want, "size")
	}
	wantMembers(t, text, want)
}

// wantMembers wants an object of exactly these members.
func wantMembers(t *testing.T, text []byte, want map[string]any) {
	t.Helper()
	got := members(t, text)
	for name, v := range want {
		raw, verbatim := v.(json.RawMessage)
		if !verbatim {
			raw = mustJSON(v)
		}
		var a, b any
		if verbatim {
			if !bytes.Equal(got[name], raw) {
				t.Fatalf("%s of %s is not %s", name, text, raw)
			}
		} else if json.Unmarshal(raw, &a) != nil || got[name] == nil || json.Unmarshal(got[name], &b) != nil || fmt.Sprintf("%#v", a) != fmt.Sprintf("%#v", b) {
			t.Fatalf("%s of %s is not %s", name, text, raw)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s has other members than %v", text, want)
	}
}

// checkEnvelope holds an envelope against the record.
func (c *wireCase) checkEnvelope(t *testing.T, text []byte, more map[string]any) {
	t.Helper()
	want := map[string]any{"topic": c.r.Topic, "partition": c.r.Partition, "offset": c.r.Offset}
	for name, v := range more {
		want[name] = v
	}
	want["timestamp"] = c.r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z")
	if c.r.Attrs.TimestampType() == 1 {
		want["timestamp_type"] = "log-append"
	}
	put := func(name string, b []byte) {
		if utf8.Valid(b) {
			want[name] = string(b)
		} else {
			want[name+"_base64"] = b
		}
	}
	if c.r.Key != nil {
		put("key", c.r.Key)
	}
	if !c.w.bare {
		for name, v := range wantHeaders(c.r.Headers) {
			want[name] = v
		}
	}
	switch c.row() {
	case "oversize":
		want["error"], want["size"] = "oversize", c.o.size
	case "undecodable":
		want["error"] = c.o.undecodable
		if c.o.raw != nil {
			want["value_base64"] = c.o.raw
		}
	case "delete":
		want["value"], want["op"] = nil, "delete"
	case "binary":
		want["value_base64"] = c.r.Value
	case "json":
		want["value"] = jsonLine(c.r.Value)
	default:
		want["value"] = string(c.r.Value)
	}
	if c.w.schema && c.o.schema != 0 {
		want["schema"] = map[string]int{"id": c.o.schema}
	}
	wantMembers(t, text, want)
}

// jsonLine is a JSON text as it stands in an envelope.
func jsonLine(text []byte) json.RawMessage {
	return bytes.Trim([]byte(strings.NewReplacer("\r", " ", "\n", " ").Replace(string(text))), " \t")
}

// wantHeaders are the members of an envelope that headers make.
func wantHeaders(headers []kgo.RecordHeader) map[string]any {
	texts, bytesOf := map[string]any{}, map[string]any{}
	for _, h := range headers {
		name := string([]rune(h.Key))
		if texts[name] != nil || bytesOf[name] != nil {
			continue
		}
		var text []any
		var raw []any
		binary := false
		for _, other := range headers {
			switch {
			case string([]rune(other.Key)) != name:
			case other.Value == nil:
				text, raw = append(text, nil), append(raw, nil)
			default:
				binary = binary || !utf8.Valid(other.Value)
				text, raw = append(text, string(other.Value)), append(raw, other.Value)
			}
		}
		list, into := text, texts
		if binary {
			list, into = raw, bytesOf
		}
		if len(list) > 1 {
			into[name] = list
		} else if into[name] = list[0]; list[0] == nil {
			into[name] = json.RawMessage("null")
		}
	}
	all := map[string]any{}
	if len(texts) > 0 {
		all["headers"] = texts
	}
	if len(bytesOf) > 0 {
		all["headers_base64"] = bytesOf
	}
	return all
}

// checkCloudEvent holds a CloudEvent against the record, by an SDK and by us.
func (c *wireCase) checkCloudEvent(t *testing.T, text []byte, more map[string]any) {
	t.Helper()
	parseCloudEvent(t, text)
	want := map[string]any{
		"specversion": "1.0", "id": "4fz1q-2-4410", "source": "/events/or.ders/",
		"topic": c.r.Topic, "partition": c.r.Partition, "offset": "4410",
	}
	for name, v := range more {
		want[name] = v
	}
	var typ string
	if err := json.Unmarshal(members(t, text)["type"], &typ); err != nil || typ == "" {
		t.Fatalf("%s has no type", text)
	}
	want["type"] = typ
	if name := c.eventType(""); c.w.eventFrom == "" || name == c.row() || name == "message" {
		want["type"] = "spillway." + name
	}
	switch {
	case c.r.Key == nil:
	case members(t, text)["subject"] != nil:
		want["subject"], want["partitionkey"] = string(c.r.Key), string(c.r.Key)
	default:
		want["keybase64"] = c.r.Key
	}
	if year := c.r.Timestamp.UTC().Year(); year >= 0 && year <= 9999 {
		want["time"] = c.r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if c.r.Attrs.TimestampType() == 1 {
		want["timestamptype"] = "log-append"
	}
	data := func(typ string, name string, v any) { want["datacontenttype"], want[name] = typ, v }
	switch c.row() {
	case "oversize":
		want["error"], want["size"] = "oversize", c.o.size
	case "undecodable":
		want["error"] = c.o.undecodable
		if c.o.raw != nil {
			data("application/octet-stream", "data_base64", c.o.raw)
		}
	case "delete":
	case "binary":
		data("application/octet-stream", "data_base64", c.r.Value)
	case "json":
		data("application/json", "data", jsonLine(c.r.Value))
	default:
		data("text/plain", "data", string(c.r.Value))
	}
	if c.w.schema && c.o.schema != 0 {
		want["schemaid"] = c.o.schema
	}
	wantMembers(t, text, want)
}

// FuzzForms writes any record in every form, and reads it back.
func FuzzForms(f *testing.F) {
	for _, value := range []string{"", "text", `{"order":42}`, "[1.50,\r\n1e400]", "a\rb\nc\r\nd\n\re\r", "x\n\nid: 9\nevent: open\nretry: 0", ": comment", "data: x", "\ufeffbom", " leading", "nul\x00", "\xff\xfe", `{"a":1,"a":2}`, `"\ud800"`, "null", " 1 ", strings.Repeat("x", wireMaxBytes), strings.Repeat("x", wireMaxBytes+1), "\u2028\u2029\u0085"} {
		f.Add([]byte("k"), []byte(value), []byte("type\x1fcreated"), int64(1_777_629_600_123), uint32(0))
	}
	for flags := range uint32(1 << 10) {
		if flags%37 == 0 || flags < 16 {
			f.Add([]byte("open\r\nid: 1"), []byte(`{"n":1}`), []byte("a\x1f1\x1ea\x1f2\x1eb\x1f\xff\x1en\x1etype\x1fgap"), int64(0), flags)
		}
	}
	f.Add([]byte("\xff"), []byte("v"), []byte("\xff\x1f1\x1e\xfe\x1f2\x1e\x1f3\x1e\ufffd\x1f4"), int64(-1), uint32(0))
	f.Add([]byte("\ufffe"), []byte("v"), []byte("type\x1f\x01\u0085"), int64(1)<<62, uint32(3<<3))
	tag := cursor.Tag{'4', 'f', 'z', '1', 'q'}
	f.Fuzz(func(t *testing.T, key, value, headers []byte, millis int64, flags uint32) {
		c := newWireCase(key, value, headers, millis, flags)
		if c == nil {
			return
		}
		inLine := map[string]any{"id": string(c.id)}
		cloudLine := map[string]any{"cursor": string(c.id)}
		for form := formPlain; form < formHint; form++ {
			c.w.form = form
			c.w.cloud = newCloud(form, "/events/", []string{c.r.Topic}, []cursor.Tag{tag})
			kind := c.w.kind(c.r)
			stream := c.w.appendStream(nil, c.r, kind, c.id)
			message, typ, sent := c.w.message(c.r, kind, c.id)
			if typ == grip.TextMessage && !utf8.Valid(message) {
				t.Fatalf("%v: the text message %q is not UTF-8", form, message)
			}
			switch form {
			case formPlain:
				data := c.checkStream(t, stream)
				switch c.row() {
				case "oversize", "undecodable":
					c.checkLocator(t, []byte(data))
					c.checkLocator(t, message)
				case "delete":
					want := textOf(c.r.Key)
					if !c.keys {
						want = ""
					}
					if data != want || sent {
						t.Fatalf("a tombstone of %q is %q, and %q on a WebSocket", c.r.Key, data, message)
					}
				default:
					want, wantType := asLines(string(c.r.Value)), grip.TextMessage
					if c.row() == "binary" {
						want, wantType = base64.StdEncoding.EncodeToString(c.r.Value), grip.BinaryMessage
					}
					if data != want || !bytes.Equal(message, c.r.Value) || typ != wantType {
						t.Fatalf("%q is %q, and %v %q on a WebSocket", c.r.Value, data, typ, message)
					}
				}
			case formEnvelope:
				if data := c.checkStream(t, stream); c.row() == "oversize" {
					c.checkLocator(t, []byte(data))
				} else {
					c.checkEnvelope(t, []byte(data), nil)
					s, m := c.w.appendEnvelopes(nil, nil, c.r, kind, c.id)
					if !bytes.Equal(s, stream) || !bytes.Equal(m, message) {
						t.Fatalf("written together they are %q and %q, else %q and %q", s, m, stream, message)
					}
				}
				c.checkEnvelope(t, message, inLine)
			case formCloud:
				c.checkCloudEvent(t, []byte(c.checkStream(t, stream)), nil)
				c.checkCloudEvent(t, message, cloudLine)
				s, m := c.w.appendEnvelopes(nil, nil, c.r, kind, c.id)
				if !bytes.Equal(s, stream) || !bytes.Equal(m, message) {
					t.Fatalf("written together they are %q and %q, else %q and %q", s, m, stream, message)
				}
			case formNDJSON, formCloudLines, formCloudBatch:
				line, ended := bytes.CutSuffix(stream, []byte("\n"))
				if !ended {
					t.Fatalf("%q is not a line", stream)
				}
				if form == formNDJSON {
					c.checkEnvelope(t, line, inLine)
				} else {
					c.checkCloudEvent(t, line, cloudLine)
				}
			case formJSON:
				c.checkEnvelope(t, message, map[string]any{"id": string(c.id), "type": "record", "channel": c.w.channel})
			}
		}
	})
}
