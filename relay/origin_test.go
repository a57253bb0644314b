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

func TestLiveStream(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		values(k, topic, "before")
		h := startRelay(t, k)
		s := h.open("/events/" + topic + "/")
		if !s.holding {
			t.Fatal("a live stream is held at once")
		}
		if !strings.HasPrefix(s.out.String(), ":ok\nretry: ") {
			t.Errorf("first bytes are %q, want :ok and retry:", s.out.String())
		}
		values(k, topic, "one", "two")
		s.wantData("one", "two")
		k.Produce(value(topic, 1, "other partition"))
		s.wantData("one", "two", "other partition")
		for _, e := range s.events() {
			if !strings.HasPrefix(e.id, "1-") {
				t.Errorf("event %q has id %q", e.data, e.id)
			}
		}
	})
}

func TestResumeIsExact(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		one := startRelay(t, k)
		s := one.open("/events/" + topic + "/")
		values(k, topic, numbered("a", 0, 5)...)
		s.wantData(numbered("a", 0, 5)...)
		id := s.lastEventID()
		values(k, topic, numbered("b", 0, 5)...) // while the client is away

		for name, h := range map[string]*harness{"same replica": one, "another replica": startRelay(t, k)} {
			again := h.open("/events/"+topic+"/", "Last-Event-ID", id)
			again.wantData(numbered("b", 0, 5)...)
			if t.Failed() {
				t.Fatal(name)
			}
		}
		for _, parameter := range []string{"last_event_id", "lastEventId"} {
			one.open("/events/" + topic + "/?" + parameter + "=" + id).wantData(numbered("b", 0, 5)...)
		}
		// The header wins over every parameter: a browser repeats the URL.
		one.open("/events/"+topic+"/?from=earliest", "Last-Event-ID", id).wantData(numbered("b", 0, 5)...)
	})
}

func TestHistoryComesInPages(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 3)
	const n = 600
	var records []*kgo.Record
	for i := range n {
		records = append(records, value(topic, int32(i%3), fmt.Sprintf("%04d %s", i, strings.Repeat("x", 100))))
	}
	k.Produce(records...)
	h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes = 4 << 10 })
	s := h.open("/events/" + topic + "/?from=earliest")
	if s.holding || len(s.events()) != 0 {
		t.Fatal("the first answer carries no history: its bytes must be on their way at once")
	}
	s.until("all history", func(string) bool { return len(s.events()) >= n })
	if s.pages < 10 {
		t.Errorf("%d pages, want the history in many", s.pages)
	}
	seen := make(map[string]int)
	for _, e := range s.events() {
		seen[e.data[:4]]++
	}
	for i := range n {
		if got := seen[fmt.Sprintf("%04d", i)]; got != 1 {
			t.Errorf("record %d came %d times", i, got)
		}
	}
	values(k, topic, "live")
	s.until("the live record", func(string) bool { return len(s.events()) == n+1 })
}

func TestStartPositions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		begin := time.Now().Add(-time.Hour).Truncate(time.Second)
		for i, v := range numbered("v", 0, 6) {
			k.Produce(&kgo.Record{Topic: topic, Partition: int32(i % 2), Value: []byte(v), Timestamp: begin.Add(time.Duration(i) * time.Minute)})
		}
		h := startRelay(t, k)
		for _, tt := range []struct {
			name, query string
			want        []string
		}{
			{"earliest", "from=earliest", numbered("v", 0, 6)},
			{"latest", "from=latest", nil},
			{"since a time", "since=" + begin.Add(3*time.Minute).UTC().Format(time.RFC3339), numbered("v", 3, 6)},
			{"since milliseconds", fmt.Sprintf("since=%d", begin.Add(4*time.Minute).UnixMilli()), numbered("v", 4, 6)},
			{"since a duration", "since=58m30s", numbered("v", 2, 6)},
			{"since the future", fmt.Sprintf("since=%d", time.Now().Add(time.Hour).UnixMilli()), nil},
			{"last across partitions", "last=3", numbered("v", 3, 6)},
			{"last more than there are", "last=100", numbered("v", 0, 6)},
			{"last none", "last=0", nil},
		} {
			s := h.open("/events/" + topic + "/?" + tt.query)
			s.until("hold", func(string) bool { return s.holding })
			t.Log(tt.name)
			s.wantData(tt.want...)
		}
	})
}

func TestBoundedReplay(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		begin := time.Now().Add(-time.Hour).Truncate(time.Second)
		for i, v := range numbered("v", 0, 6) {
			k.Produce(&kgo.Record{Topic: topic, Value: []byte(v), Timestamp: begin.Add(time.Duration(i) * time.Minute)})
		}
		h := startRelay(t, k)

		s := h.open("/events/" + topic + "/?from=earliest&limit=2")
		s.until("end", func(string) bool { return s.ended })
		s.wantData("v0", "v1", `end {"reason":"limit"}`)
		end := s.lastEventID()
		if !strings.HasPrefix(end, "1e-") {
			t.Errorf("the id of end is %q, want 1e-…", end)
		}
		if w := h.get("/events/"+topic+"/?from=earliest&limit=2", "Last-Event-ID", end); w.Code != http.StatusNoContent {
			t.Errorf("reconnect after end: %d, want 204", w.Code)
		}

		s = h.open(fmt.Sprintf("/events/%s/?from=earliest&until=%d", topic, begin.Add(3*time.Minute).UnixMilli()))
		s.until("end", func(string) bool { return s.ended })
		s.wantData("v0", "v1", "v2", `end {"reason":"until"}`)

		// A limit counts live records too.
		s = h.open("/events/" + topic + "/?last=1&limit=3")
		s.wantData("v5")
		values(k, topic, "live0", "live1", "live2")
		s.until("end", func(string) bool { return s.ended })
		s.wantData("v5", "live0", "live1", `end {"reason":"limit"}`)

		s = h.open("/events/" + topic + "/?from=earliest&marks=1")
		s.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
		if want := `data: {"replayed":9}`; !strings.Contains(s.out.String(), want) {
			t.Errorf("no %s in %q", want, s.out.String())
		}
	})
}

func TestSeveralTopics(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		a, b := kafkatest.UniqueTopic(t)+"a", kafkatest.UniqueTopic(t)+"b"
		k.CreateTopic(a, 1)
		k.CreateTopic(b, 2)
		values(k, a, "a0")
		values(k, b, "b0")
		h := startRelay(t, k)
		s := h.open("/events/" + b + "," + a + "/?from=earliest&event_from=topic")
		s.until("both", func(string) bool { return len(s.events()) == 2 })
		values(k, a, "a1")
		s.until("live", func(string) bool { return len(s.events()) == 3 })
		if got := s.events()[2]; got.name != a || got.data != "a1" {
			t.Errorf("got %+v, want an event %s with a1", got, a)
		}
		id := s.lastEventID()
		values(k, b, "b1")
		again := h.open("/events/"+a+"/?topic="+b, "Last-Event-ID", id)
		again.wantData("b1")
		// A topic that the client adds begins live.
		only := h.open("/events/" + a + "/")
		values(k, a, "a2")
		only.wantData("a2")
		again = h.open("/events/"+a+","+b+"/", "Last-Event-ID", only.lastEventID())
		values(k, b, "b2")
		again.wantData("b2")
	})
}

func TestGaps(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := startRelay(t, k)
		s := h.open("/events/" + topic + "/")
		values(k, topic, numbered("v", 0, 3)...)
		s.wantData(numbered("v", 0, 3)...)
		id := s.lastEventID()
		values(k, topic, numbered("v", 3, 10)...)
		k.DeleteRecords(topic, 0, 5)

		other := startRelay(t, k) // has none of it in a log
		again := other.open("/events/"+topic+"/", "Last-Event-ID", id)
		gap := fmt.Sprintf(`gap {"topic":%q,"partition":0,"reason":"retention","from":3,"to":5,"exact":true}`, topic)
		again.wantData(append([]string{gap}, numbered("v", 5, 10)...)...)
		if w := startRelay(t, k).get("/events/"+topic+"/?on_gap=fail", "Last-Event-ID", id); w.Code != http.StatusGone || len(problemOf(t, w).Gaps) != 1 {
			t.Errorf("on_gap=fail: %d, want 410 with the gap", w.Code)
		}

		k.DeleteTopic(topic)
		k.CreateTopic(topic, 1)
		values(k, topic, "new life")
		h.eventually("the new topic is seen", func() bool {
			w := other.get("/events/"+topic+"/", "Last-Event-ID", id)
			return w.Code == http.StatusOK && strings.Contains(w.Body.String(), "topic-changed")
		})
		again = other.open("/events/"+topic+"/", "Last-Event-ID", id)
		again.until("the record of the new topic", func(out string) bool { return strings.Contains(out, "data: new life\n") })
		if got := again.events()[0]; got.name != "gap" || !strings.Contains(got.data, `"reason":"topic-changed","exact":false,"time":"`) {
			t.Errorf("first event is %+v, want a gap for topic-changed", got)
		}
	})
}

func TestReplayLimit(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	begin := time.Now().Add(-24 * time.Hour)
	var records []*kgo.Record
	for i := range 200 {
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: fmt.Appendf(nil, "v%d", i), Timestamp: begin.Add(time.Duration(i) * time.Minute)})
	}
	k.Produce(records...)

	h := startRelay(t, k, func(c *Config) { c.ReplayMaxRecords = 50 })
	s := h.open("/events/" + topic + "/?from=earliest")
	s.until("hold", func(string) bool { return s.holding })
	gaps, messages := 0, 0
	for _, e := range s.events() {
		switch e.name {
		case "gap":
			gaps++
			if !strings.Contains(e.data, `"reason":"replay-limit"`) {
				t.Errorf("gap %s", e.data)
			}
		case "message":
			messages++
		}
	}
	if gaps != 2 || messages > 50 || messages < 25 {
		t.Errorf("%d gaps and %d messages; want one gap for each partition and 25 to 50 messages", gaps, messages)
	}

	h = startRelay(t, k, func(c *Config) { c.ReplayMaxBytes = 100 })
	s = h.open("/events/" + topic + "/?from=earliest")
	s.until("hold", func(string) bool { return s.holding })
	if last := s.events()[len(s.events())-1]; last.name != "gap" || !strings.Contains(last.data, "replay-limit") {
		t.Errorf("last event is %+v, want a gap", last)
	}
	values(k, topic, "live")
	s.until("live", func(out string) bool { return strings.Contains(out, "data: live\n") })
}

func TestTransactions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := startRelay(t, k)
		s := h.open("/events/" + topic + "/")
		h.gw.mu.Lock()
		s.ch.listeners = 1
		h.gw.mu.Unlock()
		k.ProduceTxn(true, value(topic, 0, "committed"))
		k.ProduceTxn(false, value(topic, 0, "aborted"))
		s.wantData("committed")
		// The marks of the transactions move the cursor, with no event to carry it.
		before := s.lastEventID()
		s.until("an id-only block", func(string) bool { return s.lastEventID() != before })
		if blocks := parseSSE(s.out.String()); blocks[len(blocks)-1].name != "" {
			t.Errorf("the last block is %+v, want an id alone", blocks[len(blocks)-1])
		}
		values(k, topic, "after")
		s.wantData("committed", "after")

		startRelay(t, k).open("/events/"+topic+"/", "Last-Event-ID", before).wantData("after")
		startRelay(t, k).open("/events/"+topic+"/?from=earliest").wantData("committed", "after")
	})
}

func TestPartitionsAreAdded(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := startRelay(t, k)
		s := h.open("/events/" + topic + "/")
		values(k, topic, "old")
		s.wantData("old")
		id := s.lastEventID()
		k.AddPartitions(topic, 2)
		k.Produce(value(topic, 2, "first of the new"))
		s.wantData("old", "first of the new")
		for _, h := range []*harness{h, startRelay(t, k)} {
			h.open("/events/"+topic+"/", "Last-Event-ID", id).wantData("first of the new")
		}
	})
}

func TestEvictedPositionsBecomeHistory(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	h := startRelay(t, k)
	h.gw.retain = 3
	s := h.open("/events/" + topic + "/")
	var want []string
	for i := range 40 {
		k.Produce(value(topic, int32(i%2), fmt.Sprintf("v%d", i)))
		want = append(want, fmt.Sprintf("v%d", i))
	}
	s.until("all", func(string) bool { return len(s.events()) >= len(want) })
	if s.pages == 0 {
		t.Error("no page was asked for, though the log holds 3 items")
	}
	seen := make(map[string]int)
	for _, e := range s.events() {
		seen[e.data]++
	}
	for _, v := range want {
		if seen[v] != 1 {
			t.Errorf("%s came %d times", v, seen[v])
		}
	}
}

func TestTopicDeletedUnderAStream(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/")
	k.DeleteTopic(topic)
	s.until("stream-error", func(out string) bool { return strings.Contains(out, `"code":"topic-deleted"`) })
	if !s.ended {
		t.Error("the stream goes on after stream-error")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.CreateTopic("__hidden", 1)
	k.CreateTopic("secret", 1)
	h := startRelay(t, k, func(c *Config) { c.TopicsExclude = []string{"secret"}; c.IgnoreParams = []string{"fbclid"} })

	unknown := h.get("/events/nope/")
	for _, path := range []string{"/events/__hidden/", "/events/secret/", "/events/" + topic + ",secret/", "/events/~next/AAAA"} {
		if w := h.get(path); w.Code != http.StatusNotFound || w.Body.String() != unknown.Body.String() {
			t.Errorf("%s: %d %s; want the same 404 as for a topic that does not exist: %s", path, w.Code, w.Body, unknown.Body)
		}
	}
	for _, tt := range []struct{ query, want string }{
		{"form=envelope", `nearest known one is "format"`},
		{"format=xml", "plain, envelope or cloudevents"},
		{"from=middle", "earliest or latest"},
		{"last=-1", "0 or more"},
		{"limit=0", "1 or more"},
		{"since=-5", "must not be negative"},
		{"since=yesterday", "2026-05-01T10:00:00Z"},
		{"last_event_id=nonsense", "last_event_id"},
		{"last_event_id=1-hi3hk-4fz1q.1.0&lastEventId=1-hi3hk-4fz1q.1.1", "differ"},
		{"limit=1&limit=2", "given 2 times"},
		{"wait=soon", "20s"},
		{"event_from=value", "header:<name>"},
	} {
		w := h.get("/events/" + topic + "/?" + tt.query)
		if w.Code != http.StatusBadRequest || !strings.Contains(problemOf(t, w).Detail, tt.want) {
			t.Errorf("%s: %d, want 400 with %q", tt.query, w.Code, tt.want)
		}
	}
	if got, want := h.get("/events/"+topic+"/?fitler=<").Body.String(), `{"title":"Bad Request","status":400,"detail":"unknown parameter \"fitler\"; the nearest known one is \"filter\"","suggestion":"filter"}`+"\n"; got != want {
		t.Errorf("a typo: got %s, want %s", got, want)
	}
	if got, want := h.get("/events/"+topic+"/?event_from=x").Body.String(), "topic, key or header:<name>"; !strings.Contains(got, want) {
		t.Errorf("a problem body: got %s, want %s in it as it is", got, want)
	}
	for _, query := range []string{"_=123", "utm_source=x", "fbclid=1"} {
		if w := h.get("/events/" + topic + "/?" + query); w.Code != http.StatusOK {
			t.Errorf("%s: %d, want 200", query, w.Code)
		}
	}
	if w := h.get("/events/" + topic); w.Code != http.StatusOK {
		t.Errorf("no final slash: %d, want 200", w.Code)
	}
	if w := h.do(httptest.NewRequest(http.MethodPost, "/events/"+topic+"/", nil)); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Errorf("POST: %d, want 405 with Allow", w.Code)
	}
	if w := h.do(httptest.NewRequest(http.MethodHead, "/events/"+topic+"/", nil)); w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d %q, want 200 and no body", w.Code, w.Body)
	}
	if w := h.do(httptest.NewRequest(http.MethodHead, "/events/nope/", nil)); w.Code != http.StatusNotFound {
		t.Errorf("HEAD of an unknown topic: %d, want 404", w.Code)
	}
	if w := h.get("/elsewhere"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "/events/<topic>/") {
		t.Errorf("other path: %d %s", w.Code, w.Body)
	}
	if w := h.get("/events/"); w.Code != http.StatusOK || w.Body.String() != fmt.Sprintf(`{"topics":[{"name":%q,"partitions":1,"url":"/events/%s/"}]}`+"\n", topic, topic) {
		t.Errorf("list: %d %s", w.Code, w.Body)
	}
	if w := h.get("/", "Accept", "text/html"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), topic) {
		t.Errorf("page: %d %s", w.Code, w.Body)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	any := startRelay(t, k)
	listed := startRelay(t, k, func(c *Config) { c.CORSOrigins = []string{"https://app.example.com"} })
	for _, tt := range []struct {
		name        string
		h           *harness
		origin      string
		allow, cred string
	}{
		{"any", any, "https://x.example", "*", ""},
		{"listed", listed, "https://app.example.com", "https://app.example.com", "true"},
		{"not listed", listed, "https://x.example", "", ""},
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions} {
			w := tt.h.do(httptest.NewRequest(method, "/events/"+topic+"/", nil), "Origin", tt.origin)
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != tt.allow {
				t.Errorf("%s %s: origin %q, want %q", tt.name, method, got, tt.allow)
			}
			if got := w.Header().Get("Access-Control-Allow-Credentials"); got != tt.cred {
				t.Errorf("%s %s: credentials %q, want %q", tt.name, method, got, tt.cred)
			}
			if method == http.MethodOptions && (w.Code != http.StatusNoContent || (tt.allow != "") != strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Last-Event-ID")) {
				t.Errorf("%s preflight: %d %v", tt.name, w.Code, w.Header())
			}
		}
	}
}

func TestKafkaAway(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	k.Stop()
	h.eventually("not ready", func() bool { return h.r.Ready() != nil })
	// A browser gets a stream that says so and ends; it will come back.
	w := h.get("/events/"+topic+"/?since=1m", "Accept", "text/event-stream")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `event: stream-error`+"\n"+`data: {"code":"kafka-unavailable"`) || w.Header().Get("Grip-Hold") != "" {
		t.Errorf("EventSource: %d %s", w.Code, w.Body)
	}
	w = h.get("/events/" + topic + "/?since=1m")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("curl: %d %v, want 503 with Retry-After", w.Code, w.Header())
	}
	k.Start()
	h.eventually("ready again", func() bool { return h.r.Ready() == nil })
	s := h.open("/events/" + topic + "/")
	values(k, topic, "back")
	s.wantData("back")
}

func TestNothingIsCached(t *testing.T) {
	k := kafkatest.Fake(t)
	h := startRelay(t, k)
	for _, tt := range []struct {
		name, url string
		header    []string
		want      string
	}{
		{"an error", "/events/nope/", nil, "no-store, no-transform"},
		{"a list", "/events/", nil, "no-store, no-transform"},
		{"with a token", "/events/nope/", []string{"Authorization", "Bearer x"}, "private, no-store, no-transform"},
		{"with a cookie", "/events/nope/", []string{"Cookie", "a=b"}, "private, no-store, no-transform"},
	} {
		if got := h.get(tt.url, tt.header...).Header().Get("Cache-Control"); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A connection that is lost before its first event has an id to come back with.
func TestResumeBeforeTheFirstEvent(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	values(k, topic, "before")
	h := startRelay(t, k)
	url := "/events/" + topic + "/"
	s := h.open(url)
	if len(s.events()) != 0 {
		t.Fatalf("got events %q, want none", s.events())
	}
	id := s.lastEventID()
	values(k, topic, "while away")
	s.wantData("while away") // so that it is past for who comes now
	h.open(url, "Last-Event-ID", id).wantData("while away")

	// Parsers that take such a block for an event can do without.
	if s := h.open(url + "?heartbeat=comment"); s.lastEventID() != "" {
		t.Errorf("with heartbeat=comment: got id %q, want none", s.lastEventID())
	}
	// Who came with a cursor has one.
	if s := h.open(url, "Last-Event-ID", id); s.lastEventID() != "" {
		t.Errorf("with a cursor: the first bytes have id %q, want none", s.lastEventID())
	}
	ws := h.open(url, "Accept", grip.ContentTypeEvents, "Sec-WebSocket-Protocol", "spillway.v1.json")
	if want := `{"type":"cursor","channel":"`; !strings.Contains(ws.out.String(), want) {
		t.Errorf("spillway.v1.json: got %q, want %s…", ws.out.String(), want)
	}
}
