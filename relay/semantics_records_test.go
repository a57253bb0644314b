package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/cursor"
	"spillway/relay/kafkatest"
)

// TestRecordRows is the table of event-semantics.md section 5, each row as the
// clients of each form read it: live, and from history by another replica.
func TestRecordRows(t *testing.T) {
	const limit = 10<<20 - 1
	large := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	rows := []struct {
		name       string
		key, value []byte
		sse        string // the event's name and its data
		message    string // of a plain WebSocket: its type and content; "" none
		envelope   string // from the timestamp on
	}{
		{"text", nil, []byte("text"), "message text", "TEXT text", `,"value":"text"}`},
		{"LF", nil, []byte("a\nb"), "message a\nb", "TEXT a\nb", `,"value":"a\nb"}`},
		{"CR", nil, []byte("a\rb"), "message a\nb", "TEXT a\rb", `,"value":"a\rb"}`},
		{"CRLF", nil, []byte("a\r\nb"), "message a\nb", "TEXT a\r\nb", `,"value":"a\r\nb"}`},
		{"NUL", nil, []byte("a\x00b"), "message a\x00b", "TEXT a\x00b", `,"value":"a\u0000b"}`},
		{"JSON", nil, []byte(`{"n":1.50}`), `message {"n":1.50}`, `TEXT {"n":1.50}`, `,"value":{"n":1.50}}`},
		{"empty", nil, []byte{}, "message ", "TEXT ", `,"value":""}`},
		{"null", []byte("k"), nil, "delete k", "", `,"key":"k","value":null,"op":"delete"}`},
		{"null, of no key", nil, nil, "delete ", "", `,"value":null,"op":"delete"}`},
		{"not UTF-8", []byte{0xfe}, []byte{0xff, 'a'}, "binary /2E=", "BINARY \xffa", `,"key_base64":"/g==","value_base64":"/2E="}`},
		{"looks like an instruction", nil, []byte(`c:{"type":"detach"}`), `message c:{"type":"detach"}`, `TEXT c:{"type":"detach"}`, `,"value":"c:{\"type\":\"detach\"}"}`},
		{"10 MiB", []byte("k"), large, "oversize LOCATOR", "TEXT LOCATOR", fmt.Sprintf(`,"key":"k","error":"oversize","size":%d}`, len(large))},
	}
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1, "max.message.bytes=20000000")
		producer := k.Client(kgo.ProducerBatchMaxBytes(20_000_000), kgo.MaxBufferedBytes(50_000_000))
		url := "/events/" + topic + "/?from=earliest"
		socket := []string{"Accept", grip.ContentTypeEvents}
		open := func(h *harness) map[string]*stream {
			return map[string]*stream{
				"SSE": h.open(url), "envelope": h.open(url + "&format=envelope"), "NDJSON": h.open(url, "Accept", "application/x-ndjson"),
				"WebSocket": h.open(url, socket...), "envelopes on a WebSocket": h.open(url+"&format=envelope", socket...),
				protocolJSON: h.open(url, append(socket, "Sec-WebSocket-Protocol", protocolJSON)...),
			}
		}
		bounded := func(c *Config) { c.EventMaxBytes = limit }
		live := open(startRelay(t, k, bounded))
		for _, s := range live {
			s.until("hold", func(string) bool { return s.holding })
		}
		for _, row := range rows {
			if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: row.key, Value: row.value, Timestamp: noon}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		for when, streams := range map[string]map[string]*stream{"live": live, "history": open(startRelay(t, k, bounded))} {
			for form, s := range streams {
				t.Run(when+"/"+form, func(t *testing.T) {
					place := func(offset int) string { return fmt.Sprintf(`{"topic":%q,"partition":0,"offset":%d`, topic, offset) }
					var want []string
					for i, row := range rows {
						locator := place(i) + fmt.Sprintf(`,"reason":"oversize","size":%d}`, len(row.value))
						w := place(i) + `,"timestamp":"2026-05-01T12:00:00.000Z"` + row.envelope
						switch {
						case form == "SSE":
							w = strings.Replace(row.sse, "LOCATOR", locator, 1)
						case form == "WebSocket":
							if w = strings.Replace(row.message, "LOCATOR", locator, 1); w == "" {
								continue
							}
						case form == "envelope" && strings.HasPrefix(row.sse, "oversize"):
							w = "oversize " + locator
						case form == "envelope":
							name, _, _ := strings.Cut(row.sse, " ")
							w = strings.Replace(name, "binary", "message", 1) + " " + w
						case form == protocolJSON:
							w = fmt.Sprintf(`TEXT {"type":"record","channel":%q,`, s.channelName()) + w[1:]
						case form != "NDJSON":
							w = "TEXT " + w
						}
						want = append(want, w)
					}
					var got []string
					s.until("all", func(string) bool { got = s.read(t, form); return len(got) >= len(want) })
					if !slices.Equal(got, want) {
						t.Errorf("got  %.2000q\nwant %.2000q", got, want)
					}
				})
			}
		}
	})
}

// channelName is the channel that the stream holds, or will hold.
func (s *stream) channelName() string {
	s.until("hold", func(string) bool { return s.holding })
	return s.channel
}

// read is what the stream's client reads, in few words: ids left out.
func (s *stream) read(t *testing.T, form string) (got []string) {
	t.Helper()
	withoutID := func(text string) string {
		if i := strings.LastIndex(text, `,"id":"`); i >= 0 {
			return text[:i] + "}"
		}
		return text
	}
	switch form {
	case "SSE", "envelope":
		events, unknown := readEventStream(s.out.Bytes())
		if len(unknown) > 0 {
			t.Fatalf("unknown fields %q", unknown)
		}
		for _, e := range events {
			got = append(got, e.typ+" "+e.data)
		}
	case "NDJSON":
		for line := range strings.Lines(s.out.String()) {
			members(t, []byte(strings.TrimSuffix(line, "\n")))
			got = append(got, withoutID(strings.TrimSuffix(line, "\n")))
		}
	default:
		events, err := grip.ParseEvents(s.out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events[1:] { // after OPEN
			text := string(e.Content)
			if text == `c:{"type":"detach"}` && len(got) == 0 || strings.HasPrefix(text, `{"type":"cursor"`) {
				continue
			}
			got = append(got, string(e.Type)+" "+withoutID(text))
		}
	}
	return got
}

// The time of a topic whose broker sets it says so. Only a real one does.
func TestTimestampType(t *testing.T) {
	k := kafkatest.Real(t)
	created, appended := kafkatest.UniqueTopic(t)+"-a", kafkatest.UniqueTopic(t)+"-b"
	k.CreateTopic(created, 1)
	k.CreateTopic(appended, 1, "message.timestamp.type=LogAppendTime")
	h := startRelay(t, k)
	for topic, want := range map[string]bool{created: false, appended: true} {
		k.Produce(&kgo.Record{Topic: topic, Value: []byte("v"), Timestamp: noon})
		for _, tt := range []struct{ format, member string }{{"envelope", `,"timestamp_type":"log-append"`}, {"cloudevents", `,"timestamptype":"log-append"`}} {
			s := h.open("/events/" + topic + "/?from=earliest&format=" + tt.format)
			s.until("the record", func(string) bool { return len(s.events()) == 1 })
			data := s.events()[0].data
			if got := strings.Contains(data, tt.member); got != want || strings.Contains(data, "2026-05-01T12:00:00.000Z") == want {
				t.Errorf("%s: %s, want %s: %v", tt.format, data, tt.member, want)
			}
		}
	}
}

// Where not every event has an id, one has in every second, in every hundred, and
// at the end of what is appended at once.
func TestLongIDsInLiveBatches(t *testing.T) {
	ch, h := newTestChannel(rendering{form: formPlain, ids: idBatch}, 1, &discard{})
	id := []byte("1-hi3hk-4fz1q.1.1")
	ch.lastID = stampOf(noon)
	for _, tt := range []struct {
		name   string
		events int
		last   bool
		after  time.Duration
		want   bool // an id on the last of them, and on none before
	}{
		{"at once", 1, false, 0, false},
		{"the end of a batch", 1, true, 0, true},
		{"within a second", 3, false, batchIDInterval - time.Millisecond, false},
		{"a second later", 1, false, batchIDInterval, true},
		{"then not again", 1, false, batchIDInterval, false},
		{"of the next hundred, ninety-nine", batchIDEvents - 2, false, batchIDInterval, false},
		{"and the last", 1, false, batchIDInterval, true},
	} {
		for i := range tt.events {
			got := ch.wireID(id, nil, h, 1, tt.last, noon.Add(tt.after))
			if want := tt.want && i == tt.events-1; (got != nil) != want {
				t.Errorf("%s, event %d: got the id %q, want one: %v", tt.name, i, got, want)
			}
		}
	}
	ch.ids = idEvery
	if got := ch.wireID(id, nil, h, 1, false, noon); got == nil {
		t.Error("id=every: no id")
	}
	ch.ids = idAuto
	if got := ch.wireID(bytes.Repeat(id, cursor.EveryEventBytes/len(id)), nil, h, 1, false, noon); got == nil {
		t.Error("id=auto: no id though the cursor is short")
	}
}
