package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
	"spillway/relay/kafkatest"
)

// parseCloudEvent reads an event as others do, and checks it against the
// specification.
func parseCloudEvent(t *testing.T, text []byte) cloudevents.Event {
	t.Helper()
	var e cloudevents.Event
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if err := e.Validate(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return e
}

// Each kind of record as a CloudEvent, as the SDK reads it.
func TestAppendCloudEvent(t *testing.T) {
	w := writer{rendering: rendering{form: formCloudLines, eventFrom: "header:type", schema: true}, maxBytes: 100, maxID: cursor.MaxBytes,
		cloud: newCloud(formCloudLines, "/events/", []string{"or ders"}, []cursor.Tag{{'4', 'f', 'z', '1', 'q'}})}
	for _, tt := range []struct {
		name      string
		r         kgo.Record
		typ       string
		subject   string
		mediaType string
		data      string
		ext       map[string]any // beside topic, partition, offset, cursor, and those of the key
	}{
		{"JSON", kgo.Record{Key: []byte("42"), Value: []byte("{\"a\":\n 1.50}")}, "spillway.message", "42", "application/json", `{"a":  1.50}`, nil},
		{"text", kgo.Record{Value: []byte("a\n\x00\"b")}, "spillway.message", "", "text/plain", "a\n\x00\"b", nil},
		{"empty", kgo.Record{Value: []byte{}}, "spillway.message", "", "text/plain", "", nil},
		{"binary", kgo.Record{Value: []byte{0xff, 0}}, "spillway.message", "", "application/octet-stream", "\xff\x00", nil},
		{"tombstone", kgo.Record{Key: []byte("42")}, "spillway.delete", "42", "", "", nil},
		{"oversize", kgo.Record{Value: bytes.Repeat([]byte("x"), 101)}, "spillway.oversize", "", "", "", map[string]any{"error": "oversize", "size": int32(101)}},
		{"undecodable", kgo.Record{Context: &outcome{undecodable: "unknown-schema", raw: []byte{0, 1}, size: 2, schema: 7}}, "spillway.undecodable", "", "application/octet-stream", "\x00\x01", map[string]any{"error": "unknown-schema", "schemaid": int32(7)}},
		{"what a rule hides", kgo.Record{Context: &outcome{undecodable: "redacted", size: 2}}, "spillway.undecodable", "", "", "", map[string]any{"error": "redacted"}},
		{"a type", kgo.Record{Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("com.example.created")}}, Value: []byte("1")}, "com.example.created", "", "application/json", "1", nil},
		{"a type of ours", kgo.Record{Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("gap")}}, Value: []byte("1")}, "x-gap", "", "application/json", "1", nil},
		{"a type with controls", kgo.Record{Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("a\x01\u0085\ufffe\nb")}}, Value: []byte("1")}, "ab", "", "application/json", "1", nil},
		{"a type of controls", kgo.Record{Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("\x01")}}, Value: []byte("1")}, "spillway.message", "", "application/json", "1", nil},
		{"a binary key", kgo.Record{Key: []byte{0xff}, Value: []byte("1")}, "spillway.message", "", "application/json", "1", map[string]any{"keybase64": "/w=="}},
		{"an empty key", kgo.Record{Key: []byte{}, Value: []byte("1")}, "spillway.message", "", "application/json", "1", map[string]any{"keybase64": ""}},
		{"a key with a line end", kgo.Record{Key: []byte("a\nb"), Value: []byte("1")}, "spillway.message", "", "application/json", "1", map[string]any{"keybase64": "YQpi"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.r
			r.Topic, r.Partition, r.Offset, r.Timestamp = "or ders", 2, 1<<40, noon
			line := w.appendStream(nil, &r, w.kind(&r), []byte("1-hi3hk-4fz1q.3.xg.rq.3ej"))
			if bytes.IndexByte(line, '\n') != len(line)-1 {
				t.Errorf("%q is not one line", line)
			}
			e := parseCloudEvent(t, line)
			if got, want := e.ID()+" "+e.Source()+" "+e.Type()+" "+e.Subject()+" "+e.Time().Format(time.RFC3339Nano), "4fz1q-2-1099511627776 /events/or%20ders/ "+tt.typ+" "+tt.subject+" "+noon.Format(time.RFC3339Nano); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if got := e.DataContentType(); got != tt.mediaType {
				t.Errorf("content type %q, want %q", got, tt.mediaType)
			}
			data := string(e.Data())
			if tt.mediaType == "text/plain" { // the SDK leaves it as JSON has it
				if err := json.Unmarshal(e.Data(), &data); err != nil {
					data = string(e.Data())
				}
			}
			if data != tt.data {
				t.Errorf("data %q, want %q", data, tt.data)
			}
			want := map[string]any{"topic": "or ders", "partition": int32(2), "offset": "1099511627776", "cursor": "1-hi3hk-4fz1q.3.xg.rq.3ej"}
			if tt.subject != "" {
				want["partitionkey"] = tt.subject
			}
			for name, v := range tt.ext {
				want[name] = v
			}
			if got := fmt.Sprint(e.Extensions()); got != fmt.Sprint(want) {
				t.Errorf("extensions %v, want %v", got, want)
			}
		})
	}
}

// The same events by every way out: live and from history.
func TestCloudEvents(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := startRelay(t, k, func(c *Config) { c.EventMaxBytes = 100 })
		produce := func() {
			k.Produce(
				&kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(`{"a":1}`)},
				&kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("text")},
				&kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte{0xff}},
				&kgo.Record{Topic: topic, Key: []byte("k"), Value: bytes.Repeat([]byte("x"), 101)},
				&kgo.Record{Topic: topic, Key: []byte("k")},
			)
		}
		produce()
		path := "/events/" + topic + "/?from=earliest&marks=1&format=cloudevents"
		ways := map[string]*stream{
			"SSE":         h.open(path),
			"lines":       h.open(path, "Accept", "application/x-ndjson"),
			"WebSocket":   h.open(path, "Accept", grip.ContentTypeEvents),
			"subprotocol": h.open(strings.TrimSuffix(path, "&format=cloudevents"), "Accept", grip.ContentTypeEvents, "Sec-WebSocket-Protocol", "cloudevents.json"),
		}
		for name, s := range ways {
			s.until(name+" holds", func(string) bool { return s.holding })
		}
		produce()
		want := []string{
			"0 message", "1 message", "2 message", "3 oversize", "4 delete", " live",
			"5 message", "6 message", "7 message", "8 oversize", "9 delete",
		}
		var same []string // what each way says of the records, but for the cursor
		for name, s := range ways {
			var texts [][]byte
			s.until(name+" is complete", func(out string) bool {
				texts = cloudTexts(t, name, out)
				return len(texts) >= len(want)-1
			})
			var got, records []string
			for _, text := range texts {
				e := parseCloudEvent(t, text)
				if e.Type() == ownTypes+"cursor" {
					continue
				}
				at, _ := e.Extensions()["offset"].(string)
				got = append(got, at+" "+strings.TrimPrefix(e.Type(), ownTypes))
				if id, ok := e.Extensions()["cursor"].(string); name != "SSE" && !ok {
					t.Errorf("%s: %s has no cursor", name, text)
				} else if _, err := cursor.Parse(id); ok && err != nil {
					t.Errorf("%s: cursor %q: %v", name, id, err)
				}
				e.SetExtension("cursor", nil)
				if at != "" {
					b, err := json.Marshal(e)
					if err != nil {
						t.Fatal(err)
					}
					records = append(records, string(b))
				}
			}
			wanted := want
			if name == "SSE" { // its control events are SSE's own
				wanted = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return s == " live" })
			}
			if !slices.Equal(got, wanted) {
				t.Errorf("%s: got %q, want %q", name, got, wanted)
			}
			if same == nil {
				same = records
			} else if !slices.Equal(records, same) {
				t.Errorf("%s: got %q, want what others got: %q", name, records, same)
			}
		}
	})
}

// cloudTexts takes the events out of what carries them.
func cloudTexts(t *testing.T, way, out string) (texts [][]byte) {
	t.Helper()
	switch way {
	case "SSE":
		for _, e := range parseSSE(out) {
			if strings.HasPrefix(e.data, `{"specversion"`) {
				texts = append(texts, []byte(e.data))
			}
		}
	case "lines":
		for line := range strings.Lines(out) {
			if line != "\n" {
				texts = append(texts, []byte(line))
			}
		}
	default:
		events, err := grip.ParseEvents([]byte(out))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Type == grip.EventText && !bytes.HasPrefix(e.Content, []byte("c:")) {
				texts = append(texts, e.Content)
			}
		}
	}
	return texts
}

// A long poll by the type of batches gets an array, and where to go on in a field.
func TestCloudEventsBatch(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "1", "2", "3")
	h := startRelay(t, k)
	batch := []string{"Accept", "application/cloudevents-batch+json", "Origin", "https://a.example"}
	read := func(url string) (events []cloudevents.Event, id string) {
		w := h.get(url, batch...)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != batch[1] || !strings.Contains(w.Header().Get("Access-Control-Expose-Headers"), lastIDHeader) {
			t.Fatalf("%s: %d %v", url, w.Code, w.Header())
		}
		if err := json.Unmarshal(w.Body.Bytes(), &events); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		for _, e := range events {
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
		}
		return events, w.Header().Get(lastIDHeader)
	}
	events, id := read("/events/" + topic + "/?from=earliest")
	if len(events) != 3 || string(events[2].Data()) != "3" || events[2].Extensions()["cursor"] != id {
		t.Fatalf("got %v and %q, want three events and the cursor of the last", events, id)
	}
	values(k, topic, "4")
	h.eventually("the next poll has it", func() bool {
		events, id = read("/events/" + topic + "/?last_event_id=" + id)
		return len(events) == 1
	})
	if events, again := read("/events/" + topic + "/?last_event_id=" + id); len(events) != 0 || again == "" {
		t.Errorf("got %v and %q, want an empty array and a cursor", events, again)
	}
	if w := h.get("/events/"+topic+"/?format=envelope", batch...); w.Code != http.StatusBadRequest {
		t.Errorf("with format=envelope: %d, want 400", w.Code)
	}
	w := h.get("/events/"+topic+"/?from=earliest&format=cloudevents", "Accept", "application/json")
	var body struct {
		Events []cloudevents.Event `json:"events"`
		ID     string              `json:"id"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Events) != 4 || body.ID == "" {
		t.Errorf("an ordinary long poll: %s %v", w.Body, err)
	}
}
