package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/grip"
	"spillway/relay/cursor"
	"spillway/relay/kafkatest"
)

// forms are the headers by which a client asks for each way out.
var forms = map[string][]string{
	"any":          nil,
	"event stream": {"Accept", "text/event-stream"},
	"NDJSON":       {"Accept", "application/x-ndjson"},
	"long poll":    {"Accept", "application/json"},
	"WebSocket":    {"Accept", grip.ContentTypeEvents},
	"subprotocol":  {"Accept", grip.ContentTypeEvents, "Sec-WebSocket-Protocol", protocolJSON},
}

// gripHeaders are those that only a gateway may see.
func gripHeaders(h http.Header) (names []string) {
	for name := range h {
		if strings.HasPrefix(name, "Grip-") {
			names = append(names, name)
		}
	}
	return names
}

// Whoever may not read a topic, or asks for a page that is not for clients,
// learns nothing from the answer: status, fields and body are those for a
// topic that does not exist.
func TestNothingTellsHiddenFromMissing(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.CreateTopic("hidden", 1)
	k.CreateTopic("__internal", 1)
	h := startRelay(t, k, func(c *Config) { c.TopicsExclude = []string{"hidden"} })
	sealed, err := h.r.origin.sealer.seal(&link{Topics: []string{topic}, Form: formPlain, Cursor: "1-0-aaaaa.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := h.r.origin.sealer.seal(&link{Topics: []string{"hidden"}, Form: formPlain})
	if err != nil {
		t.Fatal(err)
	}
	for form, header := range forms {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			ask := func(path string) *httptest.ResponseRecorder {
				return h.do(httptest.NewRequest(method, path, nil), append(header, "Origin", "https://a.example")...)
			}
			missing := ask("/events/missing/")
			if missing.Code != http.StatusNotFound || len(gripHeaders(missing.Header())) != 0 {
				t.Fatalf("%s %s: a missing topic is %d %v", method, form, missing.Code, missing.Header())
			}
			for what, path := range map[string]string{
				"excluded": "/events/hidden/", "Kafka's own": "/events/__internal/", "one of two": "/events/" + topic + ",hidden/",
				"by parameter": "/events/" + topic + "/?topic=hidden", "list form": "/events/?topic=hidden", "deeper": "/events/" + topic + "/x/",
				"a link of ours": "/events/" + sealed, "a link to hidden": "/events/" + hidden, "no link": "/events/~next/", "no slash": "/events/~next",
				"with a position": "/events/hidden/?from=earliest&limit=1",
			} {
				w := ask(path)
				if w.Code != missing.Code || w.Body.String() != missing.Body.String() || !maps.EqualFunc(w.Header(), missing.Header(), func(a, b []string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
					t.Errorf("%s %s, %s: %d %v %s\nwant %d %v %s", method, form, what, w.Code, w.Header(), w.Body, missing.Code, missing.Header(), missing.Body)
				}
			}
		}
	}
	// Even a gateway is told the stream's end when the topic is not for anyone.
	r := httptest.NewRequest(http.MethodGet, "/events/"+hidden, nil)
	w := h.do(r.WithContext(grip.WithLink(r.Context())))
	if !strings.Contains(w.Body.String(), codeTopicDeleted) || len(gripHeaders(w.Header())) != 0 {
		t.Errorf("a gateway's link: %d %v %s", w.Code, w.Header(), w.Body)
	}
}

// What a caller may not read is refused by its name, before anybody looks whether
// there is such a topic: Kafka is asked for neither, so that time does not tell
// them apart either.
func TestKafkaIsNotAskedForWhatIsForbidden(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("forbidden-there", 1)
	k.CreateTopic("excluded-there", 1)
	k.CreateTopic("open-there", 1)
	h := startRelay(t, k, byToken, func(c *Config) { c.TopicsExclude = []string{"excluded-.*"} })
	token := bearer(signed(t, time.Hour, "open-.* excluded-.*", nil))
	h.open("/events/open-there/", token...) // the topics are known
	k.Fake().ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		resp.ErrorCode = kerr.UnknownServerError.Code
		return resp, nil, true
	})
	status := func(topic string) int {
		c := h.r.catalog
		c.mu.Lock()
		c.asked = time.Time{} // as if Kafka had not been asked for long
		c.mu.Unlock()
		return h.do(httptest.NewRequest(http.MethodGet, "/events/"+topic+"/", nil), token...).Code
	}
	for topic, want := range map[string]int{
		"forbidden-there": http.StatusNotFound, "forbidden-missing": http.StatusNotFound,
		"excluded-there": http.StatusNotFound, "excluded-missing": http.StatusNotFound,
		"open-there": http.StatusOK, "open-missing": http.StatusServiceUnavailable, // for this one alone Kafka is asked
	} {
		if got := status(topic); got != want {
			t.Errorf("%s: got %d, want %d", topic, got, want)
		}
	}
}

// While Kafka does not answer, no answer holds anything, and each has the form
// that its client understands.
func TestTransientRefusals(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	k.Fake().ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.(*kmsg.ListOffsetsRequest).Topics {
			t := kmsg.NewListOffsetsResponseTopic()
			t.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, kerr.TopicAuthorizationFailed.Code
				t.Partitions = append(t.Partitions, p)
			}
			resp.Topics = append(resp.Topics, t)
		}
		return resp, nil, true
	})
	for form, header := range forms {
		w := h.get("/events/"+topic+"/", header...)
		if names := gripHeaders(w.Header()); len(names) != 0 {
			t.Errorf("%s: a refusal has %v", form, names)
		}
		if form == "event stream" {
			if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "retry: ") || !strings.Contains(w.Body.String(), `"code":"kafka-unavailable"`) {
				t.Errorf("%s: %d %s", form, w.Code, w.Body)
			}
		} else if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || problemOf(t, w).Code != codeKafkaUnavailable {
			t.Errorf("%s: %d %v", form, w.Code, w.Header())
		}
		if w := h.do(httptest.NewRequest(http.MethodHead, "/events/"+topic+"/", nil), header...); w.Code != http.StatusOK || w.Body.Len() != 0 || len(gripHeaders(w.Header())) != 0 {
			t.Errorf("HEAD %s: %d %v %s, want 200 without waiting for Kafka", form, w.Code, w.Header(), w.Body)
		}
		if w := h.do(httptest.NewRequest(http.MethodOptions, "/events/"+topic+"/", nil), header...); w.Code != http.StatusNoContent {
			t.Errorf("OPTIONS %s: %d, want 204", form, w.Code)
		}
	}
}

func TestRefuse(t *testing.T) {
	h := startRelay(t, kafkatest.Fake(t))
	for _, tt := range []struct {
		form, code string
		status     int
	}{
		{"event stream", codeDraining, 200}, {"any", codeDraining, 503}, {"WebSocket", codeDraining, 503},
		{"event stream", codeTooManyConnections, 200}, {"NDJSON", codeTooManyConnections, 429}, {"long poll", codeTooManyConnections, 429},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Grip-Hold", "stream") // an answer that was begun otherwise
		r := httptest.NewRequest(http.MethodGet, "/events/x/", nil)
		for i := 0; i < len(forms[tt.form]); i += 2 {
			r.Header.Set(forms[tt.form][i], forms[tt.form][i+1])
		}
		h.r.Origin().Refuse(w, r, tt.code, "later")
		if w.Code != tt.status || len(gripHeaders(w.Header())) != 0 || w.Header().Get("Cache-Control") != "no-store, no-transform" ||
			(tt.status != 200) != (w.Header().Get("Retry-After") != "") || !strings.Contains(w.Body.String(), `"code":"`+tt.code+`"`) {
			t.Errorf("%s, %s: %d %v %s", tt.form, tt.code, w.Code, w.Header(), w.Body)
		}
	}
}

// A page's own position counts: whatever was held before it, and whatever the
// gateway still remembers of that.
func TestPageLinksKnowTheirPosition(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "v0", "v1", "v2")
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest")
	info, err := h.r.catalog.lookup(context.Background(), topic)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, s.next, nil)
	grip.AppendLast(r.Header, grip.Last{Channel: topic, ID: string(vector{{2}}.appendCursor(nil, 0, 1, []cursor.Tag{info.tag}))})
	w := h.do(r.WithContext(grip.WithLink(r.Context())))
	if n := len(parseSSE(w.Body.String())); n != 3 {
		t.Errorf("%d events, want the three from the link's own position: %s", n, w.Body)
	}
	// A link that asks where the gateway is, and is not told.
	sealed, err := h.r.origin.sealer.seal(&link{Topics: []string{topic}, Form: formPlain})
	if err != nil {
		t.Fatal(err)
	}
	for _, last := range []string{"", topic + "; last-id=nonsense", topic + "; last-id=1-0-aaaaa.1!"} {
		r := httptest.NewRequest(http.MethodGet, "/events/"+sealed, nil)
		if last != "" {
			r.Header.Set("Grip-Last", last)
		}
		w := h.do(r.WithContext(grip.WithLink(r.Context())))
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"code":"internal"`) || len(gripHeaders(w.Header())) != 0 {
			t.Errorf("Grip-Last %q: %d %v %s, want the stream's end", last, w.Code, w.Header(), w.Body)
		}
	}
}

func TestClientMessages(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	for _, tt := range []struct{ name, message, want string }{
		{"two in one", `{"type":"unsubscribe","ref":1}{"type":"unsubscribe","ref":2}`, `"code":"bad-message"`},
		{"an unknown member", `{"type":"unsubscribe","ref":1,"topicz":[]}`, `unknown member \"topicz\"; the nearest known one is \"topics\"`},
		{"a member of another kind", `{"type":"subscribe","ref":1,"topics":"a"}`, `topics: must be an array of strings, not string`},
		{"a token, though nobody asks for one", `{"type":"auth","token":"eyJ","ref":"r"}`, `{"type":"error","ref":"r","code":"not-configured"`},
		{"another type", `{"type":"publish","ref":1}`, `type must be subscribe, unsubscribe or auth`},
		{"a number for text", `{"type":"subscribe","ref":1,"topics":["a"],"filter":1}`, `filter: must be a string, not number`},
		{"an array for an object", `{"type":"subscribe","ref":1,"topics":["a"],"header":[]}`, `header: must be an object, not array`},
		{"no topics", `{"type":"subscribe","ref":1}`, `topics is missing; list their names as an array`},
		{"no object", `[1]`, `"code":"bad-message","message":"a message is one JSON object, not array"`},
		{"a member twice", `{"type":"unsubscribe","ref":1,"ref":2}`, `"code":"bad-message","message":"a message is one JSON object: duplicate object member name \"ref\"`},
		{"not UTF-8", "{\"type\":\"unsubscribe\",\"ref\":\"\xff\"}", `a message is one JSON object: invalid UTF-8`},
		{"a ref that is null", `{"type":"unsubscribe","ref":null}`, `ref must be`},
		{"a ref that is an object", `{"type":"unsubscribe","ref":{"a":1}}`, `ref must be`},
		{"a long ref", `{"type":"unsubscribe","ref":"` + strings.Repeat("x", 100) + `"}`, `longer than 64 bytes`},
		{"a comma in a name", `{"type":"subscribe","ref":1,"topics":["a,b"]}`, `array`},
		{"numbers and flags as in JSON", fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q],"limit":3,"marks":true,"since":0}`, topic), `"type":"subscribed","ref":1`},
		{"and as text", fmt.Sprintf(`{"type":"subscribe","ref":"a","topics":[%q],"limit":"3","marks":"1"}`, topic), `"type":"subscribed","ref":"a"`},
		{"a bad value", fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q],"limit":-1}`, topic), `1 or more`},
		{"a cursor", fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q],"last_event_id":"x"}`, topic), `last_event_id`},
	} {
		r := httptest.NewRequest(http.MethodPost, "/events/"+topic+"/", strings.NewReader(string(grip.AppendEvent(nil, grip.Event{Type: grip.EventText, Content: []byte(tt.message)}))))
		w := h.do(r, "Content-Type", grip.ContentTypeEvents)
		events, err := grip.ParseEvents(w.Body.Bytes())
		if err != nil || len(events) == 0 || !strings.Contains(string(events[0].Content), tt.want) {
			t.Errorf("%s: got %q %v, want %s", tt.name, w.Body, err, tt.want)
		}
	}
	for name, body := range map[string]string{"no events": "hello", "too long": strings.Repeat("x", 2<<20)} {
		w := h.do(httptest.NewRequest(http.MethodPost, "/events/"+topic+"/", strings.NewReader(body)), "Content-Type", grip.ContentTypeEvents)
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d, want 400", name, w.Code)
		}
	}
}

// FuzzClientMessage has a client say anything: what answers it is messages of
// one JSON object each, with the client's ref as it was, and instructions that a
// gateway can read.
func FuzzClientMessage(f *testing.F) {
	for _, m := range []string{
		`{"type":"subscribe","topics":["orders"],"ref":1}`,
		`{"type":"subscribe","topics":["orders","payments"],"ref":"a","last_event_id":"1-hi3hk-4fz1q.1.0","key":["a","b"],"partition":0,"header":{"type":"x","n":[1,true]}}`,
		`{"type":"subscribe","topics":["orders"],"ref":-1.5e3,"filter":"value.n > 3","fields":["n","a.b"],"since":"15m","limit":3,"until":0}`,
		`{"type":"subscribe","topics":["orders"],"ref":true,"from":"earliest","last":"5","marks":true,"id":"batch","schema":1,"heartbeat":"30s"}`,
		`{"type":"subscribe","topics":["orders"],"ref":"\u003c\ud83d\ude00\n","from":"earliest","speed":2}`,
		`{"type":"subscribe","topics":["orders"],"ref":2,"slow":"latest"}`, `{"type":"subscribe","topics":["orders"],"ref":2,"rate":"5/s"}`,
		`{"type":"subscribe","topics":["compacted"],"ref":2,"from":"snapshot","last_event_id":""}`, `{"type":"subscribe","topics":["no such topic"],"ref":2}`,
		`{"type":"unsubscribe","ref":"r"}`, `{"type":"auth","token":"e30","ref":3}`, `{"type":"publish"}`, `{}`, `null`, `[]`, `{"type":"unsubscribe","ref":1,"ref":2}`, "{\"ref\":\"\xff\"}", `{"ref":{}}`,
	} {
		f.Add([]byte(m))
	}
	k := kafkatest.Fake(f, kafkatest.Topic("orders", 2), kafkatest.Topic("payments", 1), kafkatest.Topic("compacted", 1, "cleanup.policy=compact"))
	h := startRelay(f, k, func(c *Config) { c.MaxViews, c.TopicLinger = 1000, 0 })
	f.Fuzz(func(t *testing.T, message []byte) {
		r := httptest.NewRequest(http.MethodPost, "/events/orders/", nil)
		out := h.r.origin.message(nil, make(http.Header), r, message)
		events, err := grip.ParseEvents(out)
		if err != nil || len(events) == 0 {
			t.Fatalf("%q is answered by %q: %v", message, out, err)
		}
		var sent struct{ Ref any }
		known := json.Unmarshal(message, &sent) == nil && sent.Ref != nil
		replies := 0
		for _, e := range events {
			if e.Type != grip.EventText {
				t.Fatalf("%q is answered by %q, which is not text", message, e.Content)
			}
			content := e.Content
			if c, ok, err := grip.ParseControl(content); ok {
				if err != nil || !strings.HasPrefix(c.Name, "ref ") {
					t.Fatalf("%q is answered by the instruction %q: %v", message, content, err)
				}
				continue
			}
			m := members(t, content)
			switch typ := string(m["type"]); typ {
			case `"subscribed"`, `"unsubscribed"`, `"authenticated"`, `"error"`:
				replies++
			case `"gap"`, `"cursor"`, `"live"`, `"end"`, `"record"`:
				if m["channel"] == nil || m["id"] == nil {
					t.Fatalf("%q: %s does not say where it belongs", message, content)
				}
				continue
			default:
				t.Fatalf("%q is answered by %s", message, content)
			}
			var ref any
			if m["ref"] != nil {
				if err := json.Unmarshal(m["ref"], &ref); err != nil {
					t.Fatal(err)
				}
			}
			if string(m["code"]) != `"bad-message"` && (!known || fmt.Sprint(ref) != fmt.Sprint(sent.Ref)) {
				t.Fatalf("%q is answered by %s", message, content)
			}
			if string(m["code"]) == `"internal"` {
				t.Fatalf("%q is answered by %s", message, content)
			}
		}
		if replies != 1 {
			t.Fatalf("%q has %d replies in %q, want one", message, replies, out)
		}
	})
}
