package relay

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
)

// aRecord is orders/2 at 4410, made at 10:00 on the first of May 2026.
func aRecord(key, value []byte, headers ...kgo.RecordHeader) *kgo.Record {
	return &kgo.Record{
		Topic: "orders", Partition: 2, Offset: 4410, Key: key, Value: value, Headers: headers,
		Timestamp: time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.FixedZone("CEST", 7200)),
	}
}

// place is how the envelope of aRecord begins.
const place = `"topic":"orders","partition":2,"offset":4410,"timestamp":"2026-05-01T10:00:00.123Z"`

// TestOneRecordInEveryForm is event-semantics.md section 5, row by row.
func TestOneRecordInEveryForm(t *testing.T) {
	const limit = 20
	const lost = `{"topic":"orders","partition":2,"offset":4410,"reason":"oversize","size":21}`
	for _, tt := range []struct {
		name             string
		key, value       []byte
		plain, message   string // message: type and content; "" is not sent
		envelope, ending string // event name of the envelope form; what its JSON ends with
	}{
		{"text", nil, []byte("hello"),
			"event: message\nid: 1-a\ndata: hello\n\n", "text hello", "message", `,"value":"hello"}`},
		{"json", nil, []byte(`{"order":42}`),
			"event: message\nid: 1-a\ndata: {\"order\":42}\n\n", `text {"order":42}`, "message", `,"value":{"order":42}}`},
		{"json keeps its numbers", nil, []byte(`[1.50,1e400]`),
			"event: message\nid: 1-a\ndata: [1.50,1e400]\n\n", `text [1.50,1e400]`, "message", `,"value":[1.50,1e400]}`},
		{"json over lines", nil, []byte("{\"a\":\r\n1}"),
			"event: message\nid: 1-a\ndata: {\"a\":\ndata: 1}\n\n", "text {\"a\":\r\n1}", "message", `,"value":{"a":  1}}`},
		{"LF", nil, []byte("a\nb"),
			"event: message\nid: 1-a\ndata: a\ndata: b\n\n", "text a\nb", "message", `,"value":"a\nb"}`},
		{"CR", nil, []byte("a\rb"),
			"event: message\nid: 1-a\ndata: a\ndata: b\n\n", "text a\rb", "message", `,"value":"a\rb"}`},
		{"CRLF is one line end", nil, []byte("a\r\nb"),
			"event: message\nid: 1-a\ndata: a\ndata: b\n\n", "text a\r\nb", "message", `,"value":"a\r\nb"}`},
		{"LF CR are two", nil, []byte("a\n\rb"),
			"event: message\nid: 1-a\ndata: a\ndata: \ndata: b\n\n", "text a\n\rb", "message", `,"value":"a\n\rb"}`},
		{"a line end at the end", nil, []byte("a\n"),
			"event: message\nid: 1-a\ndata: a\ndata: \n\n", "text a\n", "message", `,"value":"a\n"}`},
		{"a forged field", nil, []byte("x\n\nid: 9"),
			"event: message\nid: 1-a\ndata: x\ndata: \ndata: id: 9\n\n", "text x\n\nid: 9", "message", `,"value":"x\n\nid: 9"}`},
		{"empty", nil, []byte{},
			"event: message\nid: 1-a\ndata: \n\n", "text ", "message", `,"value":""}`},
		{"NUL", nil, []byte("a\x00b"),
			"event: message\nid: 1-a\ndata: a\x00b\n\n", "text a\x00b", "message", `,"value":"a\u0000b"}`},
		{"not UTF-8", nil, []byte{0xff, 0xfe},
			"event: binary\nid: 1-a\ndata: //4=\n\n", "binary \xff\xfe", "message", `,"value_base64":"//4="}`},
		{"tombstone", []byte("k1"), nil,
			"event: delete\nid: 1-a\ndata: k1\n\n", "", "delete", `,"key":"k1","value":null,"op":"delete"}`},
		{"tombstone with a key over lines", []byte("k\r1"), nil,
			"event: delete\nid: 1-a\ndata: k\ndata: 1\n\n", "", "delete", `,"key":"k\r1","value":null,"op":"delete"}`},
		{"tombstone with a binary key", []byte{0xfe}, nil,
			"event: delete\nid: 1-a\ndata: /g==\n\n", "", "delete", `,"key_base64":"/g==","value":null,"op":"delete"}`},
		{"tombstone without a key", nil, nil,
			"event: delete\nid: 1-a\ndata: \n\n", "", "delete", `,"value":null,"op":"delete"}`},
		{"as large as allowed", nil, bytes.Repeat([]byte("x"), limit),
			"event: message\nid: 1-a\ndata: " + strings.Repeat("x", limit) + "\n\n", "text " + strings.Repeat("x", limit), "message", `,"value":"` + strings.Repeat("x", limit) + `"}`},
		{"oversize", []byte("k"), bytes.Repeat([]byte("x"), limit+1),
			"event: oversize\nid: 1-a\ndata: " + lost + "\n\n", "text " + lost, "oversize", `,"key":"k","error":"oversize","size":21}`},
		{"oversize and not UTF-8", nil, bytes.Repeat([]byte{0xff}, limit+1),
			"event: oversize\nid: 1-a\ndata: " + lost + "\n\n", "text " + lost, "oversize", `,"error":"oversize","size":21}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, id := aRecord(tt.key, tt.value), []byte("1-a")
			plain := writer{rendering: rendering{form: formPlain}, maxBytes: limit}
			kind := plain.kind(r)
			if got := string(plain.appendStream(nil, r, kind, id)); got != tt.plain {
				t.Errorf("plain SSE: got %q, want %q", got, tt.plain)
			}
			content, typ, ok := plain.message(r, kind, id)
			got := ""
			if ok {
				got = map[grip.MessageType]string{grip.TextMessage: "text ", grip.BinaryMessage: "binary "}[typ] + string(content)
			}
			if got != tt.message {
				t.Errorf("plain WebSocket: got %q, want %q", got, tt.message)
			}

			envelope := writer{rendering: rendering{form: formEnvelope}, maxBytes: limit}
			want := "event: " + tt.envelope + "\nid: 1-a\ndata: {" + place + tt.ending + "\n\n"
			if tt.envelope == "oversize" {
				want = tt.plain // the locator, in every form of SSE
			}
			if got := string(envelope.appendStream(nil, r, envelope.kind(r), id)); got != want {
				t.Errorf("envelope SSE: got %q, want %q", got, want)
			}

			lines := writer{rendering: rendering{form: formNDJSON}, maxBytes: limit}
			want = "{" + place + strings.TrimSuffix(tt.ending, "}") + `,"id":"1-a"}` + "\n"
			line := string(lines.appendStream(nil, r, lines.kind(r), id))
			if line != want {
				t.Errorf("NDJSON: got %q, want %q", line, want)
			}
			if strings.Count(line, "\n") != 1 || !json.Valid([]byte(line)) {
				t.Errorf("NDJSON: %q is not one line of JSON", line)
			}

			sub := writer{rendering: rendering{form: formJSON}, channel: `o~"1`, maxBytes: limit}
			want = `{"type":"record","channel":"o~\"1",` + want[1:len(want)-1]
			if content, _, ok := sub.message(r, sub.kind(r), id); !ok || string(content) != want {
				t.Errorf("spillway.v1.json: got %q, want %q", content, want)
			}
		})
	}
}

func TestEnvelopeMembers(t *testing.T) {
	header := func(name string, value []byte) kgo.RecordHeader {
		return kgo.RecordHeader{Key: name, Value: value}
	}
	for _, tt := range []struct {
		name   string
		record *kgo.Record
		want   string
	}{
		{"a key", aRecord([]byte("42"), []byte("1")), `,"key":"42","value":1}`},
		{"an empty key", aRecord([]byte{}, []byte("1")), `,"key":"","value":1}`},
		{"a key that looks like JSON is text", aRecord([]byte(`{"a":1}`), []byte("1")), `,"key":"{\"a\":1}","value":1}`},
		{"headers", aRecord(nil, []byte("1"), header("trace", []byte("abc")), header("n", nil)), `,"headers":{"trace":"abc","n":null},"value":1}`},
		{"a name that repeats", aRecord(nil, []byte("1"), header("h", []byte("1")), header("x", []byte("2")), header("h", nil)), `,"headers":{"h":["1",null],"x":"2"},"value":1}`},
		{"a binary header", aRecord(nil, []byte("1"), header("b", []byte{0xff}), header("t", []byte("x"))), `,"headers":{"t":"x"},"headers_base64":{"b":"/w=="},"value":1}`},
		{"a name with text and binary values keeps its order", aRecord(nil, []byte("1"), header("b", []byte("x")), header("b", []byte{0xff})), `,"headers_base64":{"b":["eA==","/w=="]},"value":1}`},
		{"null is a value, not a tombstone", aRecord(nil, []byte("null")), `,"value":null}`},
		{"nearly JSON", aRecord(nil, []byte(`{"a":1}x`)), `,"value":"{\"a\":1}x"}`},
		{"blanks are not JSON", aRecord(nil, []byte("  ")), `,"value":"  "}`},
	} {
		w := writer{rendering: rendering{form: formEnvelope}, maxBytes: 100}
		got := string(w.appendJSON(nil, tt.record, w.kind(tt.record), nil))
		if want := "{" + place + tt.want; got != want {
			t.Errorf("%s: got %s, want %s", tt.name, got, want)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("%s: %s is not JSON", tt.name, got)
		}
	}
}

func TestAppendTime(t *testing.T) {
	for _, at := range []time.Time{
		noon, time.UnixMilli(0), time.UnixMilli(-1), time.UnixMilli(1), time.UnixMilli(1<<62 - 1), time.UnixMilli(-1 << 62),
		time.Date(2026, 12, 31, 23, 59, 59, 999_999_999, time.FixedZone("", -3600)), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, want := string(appendTime(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("%v: got %s, want %s", at, got, want)
		}
	}
}

func TestEventNames(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"created", "created"},
		{"", "message"},
		{"\r\n\x00", "message"},
		{"a\r\ndata: forged", "adata: forged"},
		{"not \xff UTF-8", "not \uFFFD UTF-8"},
		{"o\npen", "x-open"}, // reserved only after the strip
		{"open", "x-open"}, {"error", "x-error"}, {"gap", "x-gap"}, {"live", "x-live"}, {"end", "x-end"},
		{"stream-error", "x-stream-error"}, {"delete", "x-delete"}, {"binary", "x-binary"},
		{"undecodable", "x-undecodable"}, {"oversize", "x-oversize"},
		{"Open", "Open"}, {"message", "message"},
	} {
		if got := eventName(tt.in); got != tt.want {
			t.Errorf("eventName(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	record := aRecord([]byte("created"), []byte("v"), kgo.RecordHeader{Key: "type", Value: []byte("gap")})
	for _, tt := range []struct{ from, want string }{
		{"", "message"}, {"key", "created"}, {"topic", "orders"}, {"header:type", "x-gap"}, {"header:none", "message"},
	} {
		w := writer{rendering: rendering{form: formPlain, eventFrom: tt.from}, maxBytes: 10}
		if got := w.event(kindText, record); got != tt.want {
			t.Errorf("event_from=%s: got %q, want %q", tt.from, got, tt.want)
		}
		if got := w.event(kindDelete, record); got != "delete" {
			t.Errorf("event_from=%s: a tombstone is %q, want delete", tt.from, got)
		}
	}
}

func TestControlEvents(t *testing.T) {
	e := offsetGap("orders", 2, gapRetention, 1204, 5000).event()
	const data = `"topic":"orders","partition":2,"reason":"retention","from":1204,"to":5000,"exact":true`
	for _, tt := range []struct {
		form form
		via  transport
		want string
	}{
		{formPlain, overHTTP, "event: gap\nid: 1-a\ndata: {" + data + "}\n\n"},
		{formEnvelope, overHTTP, "event: gap\nid: 1-a\ndata: {" + data + "}\n\n"},
		{formNDJSON, overHTTP, `{"type":"gap",` + data + `,"id":"1-a"}` + "\n"},
		{formPlain, overWebSocket, ""},
		{formJSON, overWebSocket, string(grip.AppendEvent(nil, grip.Event{Type: grip.EventText,
			Content: []byte(`{"type":"gap","channel":"c",` + data + `,"id":"1-a"}`)}))},
	} {
		w := writer{rendering: rendering{form: tt.form}, channel: "c"}
		if got := string(w.appendControl(nil, tt.via, e, []byte("1-a"))); got != tt.want {
			t.Errorf("%s over %d: got %q, want %q", tt.form, tt.via, got, tt.want)
		}
	}
	w := writer{rendering: rendering{form: formNDJSON}}
	got := string(w.appendControlStream(nil, controlEvent{name: "stream-error", data: streamError{codeInternal, "m", true}}, nil))
	if want := `{"type":"error","code":"internal","message":"m","retry":true}` + "\n"; got != want {
		t.Errorf("stream-error as NDJSON: got %q, want %q", got, want)
	}
	if g := timeGap("t", gapTopicChanged, time.Unix(0, 0)); string(mustJSON(g)) != `{"topic":"t","reason":"topic-changed","exact":false,"time":"1970-01-01T00:00:00Z"}` {
		t.Errorf("time gap: %s", mustJSON(g))
	}
}

// sseLines reads one event of a stream strictly by the standard (HTML,
// "Server-sent events", 9.2.6): every field of every line, in order.
func sseLines(t *testing.T, text string) (fields [][2]string) {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	event, rest, found := strings.Cut(text, "\n\n")
	if !found || rest != "" {
		t.Fatalf("%q is not exactly one event", text)
	}
	for line := range strings.SplitSeq(event, "\n") {
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, [2]string{name, strings.TrimPrefix(value, " ")})
	}
	return fields
}

func FuzzAppendStream(f *testing.F) {
	for _, s := range []string{"", "a", "a\nb", "a\r\nb", "\r", "\n\r\n\r", "id: 1\n\nevent: x", ": comment", " leading", "data: x", "\ufeffbom"} {
		f.Add([]byte(s), []byte("name"))
	}
	f.Add([]byte("v"), []byte("x\nid: forged"))
	f.Fuzz(func(t *testing.T, value, key []byte) {
		if value == nil || !utf8.Valid(value) {
			value = []byte(strings.ToValidUTF8(string(value), "?"))
		}
		w := writer{rendering: rendering{form: formPlain, eventFrom: "key"}, maxBytes: 1 << 30}
		r := &kgo.Record{Topic: "t", Key: key, Value: value}
		fields := sseLines(t, string(w.appendStream(nil, r, kindText, []byte("1-a"))))
		if fields[0] != [2]string{"event", eventName(string(key))} || fields[1] != [2]string{"id", "1-a"} {
			t.Fatalf("the event begins with %q", fields[:2])
		}
		var lines []string
		for _, field := range fields[2:] {
			if field[0] != "data" {
				t.Fatalf("value %q forged the field %q", value, field)
			}
			lines = append(lines, field[1])
		}
		want := strings.ReplaceAll(strings.ReplaceAll(string(value), "\r\n", "\n"), "\r", "\n")
		if got := strings.Join(lines, "\n"); got != want {
			t.Errorf("value %q reads as %q, want %q", value, got, want)
		}
	})
}
