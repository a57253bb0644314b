package relay

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/kafkatest"
)

func TestRecordKinds(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := startRelay(t, k, func(c *Config) { c.EventMaxBytes = 100 })
		records := []*kgo.Record{
			{Value: []byte("a\r\nb\rc\nd")},
			{Value: []byte("")},
			{Key: []byte("k1"), Value: nil},
			{Value: []byte{0xff, 0xfe}},
			{Value: []byte("nul \x00 here")},
			{Value: []byte(strings.Repeat("x", 101))},
			{Key: []byte{0xfe}, Value: []byte("{\n \"n\": 1.50\r\n}"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}, {Key: "b", Value: []byte{0xff}}}},
		}
		for _, r := range records {
			r.Topic = topic
		}
		live := map[string]*stream{
			"plain":    h.open("/events/" + topic + "/"),
			"envelope": h.open("/events/" + topic + "/?format=envelope"),
			"ndjson":   h.open("/events/"+topic+"/", "Accept", "application/x-ndjson"),
		}
		k.Produce(records...)
		oversize := fmt.Sprintf(`{"topic":%q,"partition":0,"offset":5,"reason":"oversize","size":101}`, topic)
		want := []string{"a\nb\nc\nd", "", "delete k1", "binary //4=", "nul \x00 here", "oversize " + oversize, "{\n \"n\": 1.50\n}"}
		live["plain"].wantData(want...)
		h.open("/events/" + topic + "/?from=earliest").wantData(want...)

		place := func(offset int) string {
			return fmt.Sprintf(`{"topic":%q,"partition":0,"offset":%d,"timestamp":"`, topic, offset)
		}
		wantEnvelopes := []struct{ name, end string }{
			{"message", `,"value":"a\r\nb\rc\nd"}`},
			{"message", `,"value":""}`},
			{"delete", `,"key":"k1","value":null,"op":"delete"}`},
			{"message", `,"value_base64":"//4="}`},
			{"message", `,"value":"nul \u0000 here"}`},
			{"oversize", oversize},
			{"message", `,"key_base64":"/g==","headers":{"h":["1",null]},"headers_base64":{"b":"/w=="},"value":{  "n": 1.50  }}`},
		}
		for _, s := range []*stream{live["envelope"], h.open("/events/" + topic + "/?format=envelope&from=earliest")} {
			s.until("all", func(string) bool { return len(s.events()) >= len(records) })
			for i, e := range s.events() {
				w := wantEnvelopes[i]
				if e.name != w.name || !strings.HasSuffix(e.data, w.end) || (w.name != "oversize" && !strings.HasPrefix(e.data, place(i))) {
					t.Errorf("envelope %d: got %s %s, want %s %s…%s", i, e.name, e.data, w.name, place(i), w.end)
				}
			}
		}
		nd := live["ndjson"]
		nd.until("all lines", func(out string) bool { return strings.Count(out, "\n") >= len(records) })
		for i, line := range strings.Split(strings.TrimSpace(nd.out.String()), "\n") {
			if !strings.HasPrefix(line, place(i)) || !strings.Contains(line, `,"id":"1-`) {
				t.Errorf("line %d: %s", i, line)
			}
		}
	})
}

func TestWebSocketForms(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	ws := []string{"Accept", grip.ContentTypeEvents}
	plain := h.open("/events/"+topic+"/?from=earliest", ws...)
	json := h.open("/events/"+topic+"/?from=earliest&limit=3", append(ws, "Sec-WebSocket-Protocol", "bearer.eA, spillway.v1.json")...)
	k.Produce(
		&kgo.Record{Topic: topic, Value: []byte("hello")},
		&kgo.Record{Topic: topic, Key: []byte("k")},
		&kgo.Record{Topic: topic, Value: []byte{0xff}},
	)
	texts := func(s *stream) (out []string) {
		events, err := grip.ParseEvents(s.out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			out = append(out, string(e.Type)+" "+string(e.Content))
		}
		return out
	}
	plain.until("the binary message", func(string) bool { return len(texts(plain)) >= 4 })
	if got, want := fmt.Sprintf("%q", texts(plain)), fmt.Sprintf("%q", []string{"OPEN ", `TEXT c:{"type":"detach"}`, "TEXT hello", "BINARY \xff"}); got != want {
		t.Errorf("plain: got %s, want %s", got, want)
	}
	json.until("end", func(string) bool { return json.ended })
	got := texts(json)
	if len(got) != 6 || !strings.HasPrefix(got[1], `TEXT {"type":"record","channel":"`+topic+`~`) || !strings.Contains(got[2], `"op":"delete"`) ||
		!strings.HasPrefix(got[4], `TEXT {"type":"end"`) || got[5] != "CLOSE \x03\xe8" {
		t.Errorf("json: got %q", got)
	}

	if w := h.get("/events/"+topic+"/", append(ws, "Sec-WebSocket-Protocol", "bearer.eA")...); w.Code != http.StatusBadRequest {
		t.Errorf("no known subprotocol: %d, want 400", w.Code)
	}
}

func TestSubscribeMessages(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "one")
	h := startRelay(t, k)
	say := func(messages ...string) []grip.Event {
		var body []byte
		for _, m := range messages {
			body = grip.AppendEvent(body, grip.Event{Type: grip.EventText, Content: []byte(m)})
		}
		r := httptest.NewRequest(http.MethodPost, "/events/"+topic+"/", strings.NewReader(string(body)))
		w := h.do(r, "Content-Type", grip.ContentTypeEvents, "Accept", grip.ContentTypeEvents)
		events, err := grip.ParseEvents(w.Body.Bytes())
		if err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %q: %v", w.Code, w.Body, err)
		}
		return events
	}
	events := say(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"from":"earliest","ref":7}`, topic))
	if len(events) != 2 || !strings.HasPrefix(string(events[0].Content), `{"type":"subscribed","ref":7,"channel":"`+topic+`~`) {
		t.Fatalf("got %q", events)
	}
	c, ok, err := grip.ParseControl(events[1].Content)
	if !ok || err != nil || c.Type != "subscribe" || c.Name != "ref 7" || c.Link == "" {
		t.Fatalf("control message %q: %+v %v", events[1].Content, c, err)
	}
	s := &stream{h: h, ws: true, next: c.Link}
	s.follow()
	s.until("the record", func(out string) bool { return strings.Contains(out, `"value":"one"`) })

	for _, tt := range []struct{ message, want string }{
		{`{"type":"unsubscribe","ref":7}`, `{"type":"unsubscribed","ref":7}`},
		{`{"type":"subscribe","topics":["nope"],"ref":"x"}`, `{"type":"error","ref":"x","code":"not-found"`},
		{`{"type":"subscribe","topics":[` + fmt.Sprintf("%q", topic) + `]}`, `"code":"bad-message","message":"ref is missing`},
		{`{"type":"subscribe","topics":[],"ref":1}`, `"code":"bad-message"`},
		{`{"type":"sing"}`, `"code":"bad-message"`},
		{`not json`, `"code":"bad-message"`},
	} {
		found := false
		for _, e := range say(tt.message) {
			found = found || strings.Contains(string(e.Content), tt.want)
		}
		if !found {
			t.Errorf("%s: got %q, want %s", tt.message, say(tt.message), tt.want)
		}
	}
}

func TestLongPoll(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "one")
	h := startRelay(t, k)
	w := h.get("/events/"+topic+"/?from=earliest", "Accept", "application/json")
	if w.Code != http.StatusOK || w.Header().Get("Grip-Hold") != "" || !strings.Contains(w.Body.String(), `"value":"one"`) {
		t.Fatalf("with something to send the answer comes at once; got %d %v %s", w.Code, w.Header(), w.Body)
	}
	_, id, _ := strings.Cut(w.Body.String(), `],"id":"`)
	id, _, _ = strings.Cut(id, `"`)

	w = h.get("/events/"+topic+"/?wait=7s&last_event_id="+id, "Accept", "application/json")
	in, err := grip.ParseInstruct(w.Code, w.Header(), w.Body.Bytes())
	if err != nil || in.Hold != grip.HoldResponse || in.Timeout != 7*time.Second || in.Next == nil {
		t.Fatalf("got %v %+v %v, want a response hold with a link", w.Header(), in, err)
	}
	values(k, topic, "two")
	h.eventually("the hint", func() bool {
		h.gw.mu.Lock()
		defer h.gw.mu.Unlock()
		return len(h.gw.channels[in.Channels[0].Channel].items) == 1
	})
	r := httptest.NewRequest(http.MethodGet, in.Next.URL, nil)
	grip.AppendLast(r.Header, grip.Last{Channel: in.Channels[0].Channel, ID: in.Channels[0].PrevID})
	w = h.do(r.WithContext(grip.WithLink(r.Context())))
	if w.Header().Get("Grip-Hold") != "" || strings.Count(w.Body.String(), `"value"`) != 1 || !strings.Contains(w.Body.String(), `"value":"two"`) {
		t.Errorf("got %v %s, want the one new event and no hold", w.Header(), w.Body)
	}
}
