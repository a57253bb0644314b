package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// TestRecordKinds sends every kind of record through every way out, once as it
// happens and once as history (event semantics, section 5).
func TestRecordKinds(t *testing.T) {
	const maxBytes = 64 << 10 // EVENT_MAX_BYTES
	b64 := base64.StdEncoding.EncodeToString
	at := time.Now().Add(-time.Hour).Truncate(time.Second).Add(120 * time.Millisecond)
	long := strings.Repeat("0123456789abcdef", maxBytes/16)

	tests := []struct {
		name   string
		record kgo.Record

		event string // of plain SSE
		data  string // of plain SSE, as a browser gets it; "JSON" for the locator of an oversize record
		ws    string // plain WebSocket message: "" none, "=" the value as text, "#" as binary, "JSON" as data

		envelope string // members of the envelope besides topic, partition and offset
	}{
		{name: "text", record: kgo.Record{Value: []byte("hello")},
			event: "message", data: "hello", ws: "=", envelope: `{"value":"hello"}`},
		{name: "JSON", record: kgo.Record{Value: []byte(`{"order":42}`)},
			event: "message", data: `{"order":42}`, ws: "=", envelope: `{"value":{"order":42}}`},
		{name: "several lines", record: kgo.Record{Value: []byte("a\nb\n\nc\n")},
			event: "message", data: "a\nb\n\nc\n", ws: "=", envelope: `{"value":"a\nb\n\nc\n"}`},
		{name: "CR", record: kgo.Record{Value: []byte("a\rb")},
			event: "message", data: "a\nb", ws: "=", envelope: `{"value":"a\rb"}`},
		{name: "CRLF", record: kgo.Record{Value: []byte("a\r\nb\r\n")},
			event: "message", data: "a\nb\n", ws: "=", envelope: `{"value":"a\r\nb\r\n"}`},
		{name: "looks like a field", record: kgo.Record{Value: []byte("x\nid: 9\n\nevent: open\r: y")},
			event: "message", data: "x\nid: 9\n\nevent: open\n: y", ws: "=", envelope: `{"value":"x\nid: 9\n\nevent: open\r: y"}`},
		{name: "looks like an instruction to a gateway", record: kgo.Record{Value: []byte(`c:{"type":"subscribe","channel":"x"}`)},
			event: "message", data: `c:{"type":"subscribe","channel":"x"}`, ws: "=", envelope: `{"value":"c:{\"type\":\"subscribe\",\"channel\":\"x\"}"}`},
		{name: "looks like an instruction that is wrong", record: kgo.Record{Value: []byte("c:x")},
			event: "message", data: "c:x", ws: "=", envelope: `{"value":"c:x"}`},
		{name: "looks as if it were marked for a client", record: kgo.Record{Value: []byte("m:x")},
			event: "message", data: "m:x", ws: "=", envelope: `{"value":"m:x"}`},
		{name: "begins with a blank", record: kgo.Record{Value: []byte(" x")},
			event: "message", data: " x", ws: "=", envelope: `{"value":" x"}`},
		{name: "empty", record: kgo.Record{Value: []byte{}},
			event: "message", data: "", ws: "=", envelope: `{"value":""}`},
		{name: "NUL", record: kgo.Record{Value: []byte("a\x00b")},
			event: "message", data: "a\x00b", ws: "=", envelope: `{"value":"a\u0000b"}`},
		{name: "beyond the BMP", record: kgo.Record{Value: []byte("Grüße 🌊")},
			event: "message", data: "Grüße 🌊", ws: "=", envelope: `{"value":"Grüße 🌊"}`},
		{name: "tombstone", record: kgo.Record{Key: []byte("k1")},
			event: "delete", data: "k1", ws: "", envelope: `{"key":"k1","value":null,"op":"delete"}`},
		{name: "tombstone of a binary key", record: kgo.Record{Key: []byte{0xff, 1}},
			event: "delete", data: b64([]byte{0xff, 1}), ws: "", envelope: `{"key_base64":"/wE=","value":null,"op":"delete"}`},
		{name: "tombstone of nothing", record: kgo.Record{},
			event: "delete", data: "", ws: "", envelope: `{"value":null,"op":"delete"}`},
		{name: "binary", record: kgo.Record{Value: []byte{0xff, 0xfe, '\n', 0}},
			event: "binary", data: b64([]byte{0xff, 0xfe, '\n', 0}), ws: "#", envelope: `{"value_base64":"//4KAA=="}`},
		{name: "as large as may be", record: kgo.Record{Value: []byte(long)},
			event: "message", data: long, ws: "=", envelope: fmt.Sprintf(`{"value":%q}`, long)},
		{name: "too large", record: kgo.Record{Value: []byte(long + "x")},
			event: "oversize", data: "JSON", ws: "JSON", envelope: fmt.Sprintf(`{"error":"oversize","size":%d}`, len(long)+1)},
		{name: "key, headers and time", record: kgo.Record{
			Key: []byte("42"), Value: []byte("v"), Timestamp: at,
			Headers: []kgo.RecordHeader{
				{Key: "trace", Value: []byte("abc")},
				{Key: "twice", Value: []byte("1")}, {Key: "twice", Value: []byte("2")},
				{Key: "none"}, {Key: "raw", Value: []byte{0xff}},
			}},
			event: "message", data: "v", ws: "=",
			envelope: `{"key":"42","value":"v","timestamp":"` + at.UTC().Format("2006-01-02T15:04:05.000Z") + `",
				"headers":{"trace":"abc","twice":["1","2"],"none":null},"headers_base64":{"raw":"/w=="}}`},
	}

	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		s := serve(t, k, fmt.Sprintf("EVENT_MAX_BYTES=%d", maxBytes))
		url := s.url + "/events/" + topic + "/"

		// The same views are read twice: live, then from the beginning.
		for _, from := range []string{"latest", "earliest"} {
			t.Run("from="+from, func(t *testing.T) {
				plain := subscribe(t, url+"?from="+from)
				enveloped := subscribe(t, url+"?format=envelope&from="+from)
				ndjson := ndjson(t, url+"?from="+from)
				ws := dial(t, url+"?from="+from)
				wsJSON := dial(t, url+"?from="+from, "spillway.v1.json")
				if from == "latest" {
					var records []*kgo.Record
					for _, tt := range tests {
						r := tt.record
						r.Topic = topic
						records = append(records, &r)
					}
					k.Produce(records...)
				}
				for offset, tt := range tests {
					t.Run(tt.name, func(t *testing.T) {
						locator := fmt.Sprintf(`{"topic":%q,"partition":0,"offset":%d}`, topic, offset)
						wantEnvelope := func(got string) {
							t.Helper()
							wantJSON(t, got, locator)
							wantJSON(t, got, tt.envelope)
							wantNoMembers(t, got, tt.envelope)
						}

						plain.t = t
						b := plain.next()
						if b.name != tt.event || b.id == "" {
							t.Errorf("plain: got event %q, id %q, want %q and an id", b.name, b.id, tt.event)
						}
						wantLocator := func(got string) {
							t.Helper()
							wantJSON(t, got, locator)
							wantJSON(t, got, fmt.Sprintf(`{"size":%d}`, len(tt.record.Value)))
							wantNoMembers(t, got, `{"size":0}`)
						}
						if tt.data == "JSON" {
							wantLocator(b.data)
						} else if b.data != tt.data {
							t.Errorf("plain: got data %.200q, want %.200q", b.data, tt.data)
						}

						enveloped.t = t
						if b := enveloped.next(); tt.data == "JSON" {
							wantLocator(b.data)
						} else {
							wantEnvelope(b.data)
						}

						ndjson.t = t
						line := ndjson.nextFull()
						wantEnvelope(line)
						if !strings.Contains(line, `"id":"1`) {
							t.Errorf("NDJSON: got %.200s, want an id", line)
						}

						wsJSON.t = t
						wantEnvelope(wsJSON.message(func(m string) bool { return !strings.Contains(m, `"type":"cursor"`) }))

						ws.t = t
						switch tt.ws {
						case "":
						case "=":
							ws.want(websocket.MessageText, string(tt.record.Value))
						case "#":
							ws.want(websocket.MessageBinary, string(tt.record.Value))
						case "JSON":
							typ, m, err := ws.read()
							if err != nil || typ != websocket.MessageText {
								t.Fatalf("WebSocket: got %v, %v, want a text message", typ, err)
							}
							wantLocator(m)
						}
					})
				}
			})
		}
	})
}

// wantNoMembers wants that members which would contradict those in want are
// not in got.
func wantNoMembers(t *testing.T, got, want string) {
	t.Helper()
	var g, w map[string]json.RawMessage
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("got %.200q, which is not a JSON object: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("want %.200q: %v", want, err)
	}
	for _, name := range []string{"op", "value", "value_base64", "key", "key_base64", "headers", "headers_base64", "size", "error"} {
		v, there := g[name]
		if _, wanted := w[name]; there && !wanted {
			t.Errorf("got %s: %.200s, want no such member", name, v)
		}
	}
}

// ndjson opens an NDJSON stream and returns when its header is here.
func ndjson(t *testing.T, url string) *lineReader {
	t.Helper()
	resp := get(t, t.Context(), url, "Accept: application/x-ndjson")
	if got, want := resp.Header.Get("Content-Type"), "application/x-ndjson"; resp.StatusCode != http.StatusOK || !strings.HasPrefix(got, want) {
		resp.Body.Close()
		t.Fatalf("GET %s: got %s, %s, want 200, %s", url, resp.Status, got, want)
	}
	l := &lineReader{t: t, what: "NDJSON of " + url, lines: make(chan string, 1000)}
	done := make(chan struct{})
	go func() { // ends with the response
		defer close(done)
		l.read(resp.Body)
	}()
	t.Cleanup(func() { resp.Body.Close(); <-done })
	return l
}

// What a record holds is for clients, never an instruction to the gateway: not
// in history either, which comes to the gateway among instructions.
func TestRecordsAreNoInstructions(t *testing.T) {
	k := kafkatest.Fake(t)
	topic, other := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)+"-other"
	k.CreateTopic(topic, 1)
	k.CreateTopic(other, 1)
	values := []string{
		`c:{"type":"subscribe","channel":"` + other + `"}`, `c:{"type":"unsubscribe","channel":"` + topic + `"}`,
		`c:{"type":"set-meta","name":"user","value":"x"}`, "c:x", "c:", "m:x", `c:{"type":"send-delayed","content":"x"}`,
	}
	produce := func() {
		for _, v := range values {
			k.Produce(&kgo.Record{Topic: topic, Value: []byte(v)})
		}
	}
	produce()
	s := serve(t, k)
	ws := dial(t, s.url+"/events/"+topic+"/?from=earliest")
	for range 2 {
		for _, v := range values {
			ws.want(websocket.MessageText, v)
		}
		k.Produce(&kgo.Record{Topic: other, Value: []byte("not asked for")})
		produce()
	}
}
