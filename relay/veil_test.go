package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/grip/secret"
	"spillway/relay/cursor"
	"spillway/relay/kafkatest"
)

const cursorKeyA, cursorKeyB = "the first key: of 32 bytes or more", "the second key: of 32 bytes or more"

func sealedBy(key string) func(*Config) { return func(c *Config) { c.CursorKey = key } }

// opened is a cursor as the holder of the key reads it.
func opened(t *testing.T, key, id string) cursor.Cursor {
	t.Helper()
	s, err := ParseCursorKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Parse(id)
	if err != nil {
		t.Fatalf("%q: %v", id, err)
	}
	return c
}

// wantNoOpenCursor fails where anything that a client got is a cursor of version 1.
func wantNoOpenCursor(t *testing.T, got string, topics ...*topicInfo) {
	t.Helper()
	for _, topic := range topics {
		if strings.Contains(got, "-"+topic.tag.String()+".") {
			t.Errorf("an open cursor in %q", tail(got))
		}
	}
	if !strings.Contains(got, "2-") {
		t.Errorf("no sealed cursor in %q", tail(got))
	}
}

// With CURSOR_KEY every way out has sealed cursors, and every way in takes them, on
// any replica that has the key.
func TestSealedCursors(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("t", 2)
	k.CreateTopic("map", 1, "cleanup.policy=compact")
	values(k, "t", numbered("v", 0, 6)...)
	k.Produce(&kgo.Record{Topic: "map", Key: []byte("k"), Value: []byte("m")})
	h, other := startRelay(t, k, sealedBy(cursorKeyA)), startRelay(t, k, sealedBy(cursorKeyA))
	topic, compacted := mustLookup(t, h, "t"), mustLookup(t, h, "map")

	// Out and in as SSE, by every name that a position has.
	s := h.open("/events/t/?from=earliest")
	s.wantData(numbered("v", 0, 6)...)
	wantNoOpenCursor(t, s.out.String(), topic)
	third := s.events()[2].id
	if c := opened(t, cursorKeyA, third); c.Phase != cursor.PhaseLive || c.Blocks[0].Offsets[0] != 3 {
		t.Errorf("the id of the third event: got %s, want offset 3", c)
	}
	for _, r := range []*harness{h, other} {
		r.open("/events/t/", "Last-Event-ID", third).wantData(numbered("v", 3, 6)...)
		for _, name := range []string{"last_event_id", "lastEventId"} {
			r.open("/events/t/?" + name + "=" + third).wantData(numbered("v", 3, 6)...)
		}
	}

	// Live, and the id that comes before the first event.
	live := h.open("/events/t/")
	live.until("hold", func(string) bool { return live.holding })
	first := live.lastEventID()
	opened(t, cursorKeyA, first)
	again := h.open("/events/t/") // from what the streams of a channel share
	again.until("hold", func(string) bool { return again.holding })
	if c := opened(t, cursorKeyA, again.lastEventID()); c.Blocks[0].Offsets[0] != 6 {
		t.Errorf("the second stream begins at %s, want offset 6", c)
	}
	values(k, "t", "v6", "v7")
	live.wantData("v6", "v7")
	wantNoOpenCursor(t, live.out.String(), topic)
	elsewhere := other.open("/events/t/?from=earliest")
	elsewhere.wantData(numbered("v", 0, 8)...)
	// Replicas write the same position alike, but for the minute in it.
	mine, theirs := live.events(), elsewhere.events()
	if a, b := opened(t, cursorKeyA, mine[1].id), opened(t, cursorKeyA, theirs[7].id); a.Blocks[0].Offsets[0] != b.Blocks[0].Offsets[0] {
		t.Errorf("after the last event: got %s here and %s there", a, b)
	}
	if a, b := opened(t, cursorKeyA, mine[1].id), opened(t, cursorKeyA, theirs[7].id); a.String() == b.String() && mine[1].id != theirs[7].id {
		t.Errorf("one cursor is sealed as %s and %s", mine[1].id, theirs[7].id)
	}
	other.open("/events/t/", "Last-Event-ID", first).wantData("v6", "v7")
	h.open("/events/t/", "Last-Event-ID", mine[0].id).wantData("v7") // the channel's log has it

	// Views of some partitions, and ends.
	part := h.open("/events/t/?partition=0&limit=2&from=earliest")
	part.until("the end", func(out string) bool { return strings.Contains(out, "event: end") })
	end := part.lastEventID()
	if c := opened(t, cursorKeyA, end); c.Phase != cursor.PhaseEnd || len(c.Blocks[0].Parts) != 1 {
		t.Errorf("the id of the end: got %s, want a sparse cursor of phase e", c)
	}
	for _, r := range []*harness{h, other} {
		if w := r.get("/events/t/?partition=0&limit=2&from=earliest", "Last-Event-ID", end); w.Code != http.StatusNoContent {
			t.Errorf("after the end: got %d, want 204", w.Code)
		}
	}

	// Snapshots.
	snapshot := h.open("/events/map/?from=snapshot")
	snapshot.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
	begun := snapshot.events()[0]
	if c := opened(t, cursorKeyA, begun.id); begun.data != "m" || c.Phase != cursor.PhaseSnapshot {
		t.Errorf("within the snapshot: got %q with %s, want m with phase s", begun.data, c)
	}
	anew := other.open("/events/map/", "Last-Event-ID", begun.id)
	anew.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
	if got := anew.events()[0].data; got != "m" {
		t.Errorf("with a cursor from within: got %q, want the snapshot again", got)
	}
	wantNoOpenCursor(t, snapshot.out.String()+anew.out.String(), compacted)

	// Long polls, and lines.
	var poll struct {
		Events []struct{ ID string }
		ID     string
	}
	w := h.get("/events/t/?last_event_id="+third, "Accept", "application/json")
	if err := json.Unmarshal(w.Body.Bytes(), &poll); err != nil || len(poll.Events) != 5 {
		t.Fatalf("long poll: got %v and %d events, want 5", err, len(poll.Events))
	}
	for _, id := range append([]string{poll.ID}, poll.Events[4].ID) {
		if c := opened(t, cursorKeyA, id); c.Blocks[0].Offsets[0] != 8 {
			t.Errorf("long poll: got %s, want offset 8", c)
		}
	}
	batch := h.get("/events/t/?last_event_id="+third, "Accept", "application/cloudevents-batch+json")
	opened(t, cursorKeyA, batch.Header().Get(lastIDHeader))
	wantNoOpenCursor(t, batch.Body.String(), topic)
	lines := h.open("/events/t/?last_event_id="+third, "Accept", "application/x-ndjson")
	lines.until("five lines", func(out string) bool { return strings.Count(out, `"offset"`) == 5 })
	wantNoOpenCursor(t, lines.out.String(), topic)

	// WebSockets.
	ws := h.open("/events/t/?last_event_id="+third, "Accept", grip.ContentTypeEvents, "Sec-WebSocket-Protocol", "spillway.v1.json")
	ws.until("five messages", func(out string) bool { return strings.Count(out, `"type":"record"`) == 5 })
	wantNoOpenCursor(t, ws.out.String(), topic)
	message := fmt.Sprintf(`{"type":"subscribe","topics":["t"],"ref":1,"last_event_id":%q}`, third)
	if got := h.say(message); !strings.Contains(got, `"subscribed"`) {
		t.Errorf("subscribe: got %s", got)
	}
	open := "1-" + strings.TrimPrefix(opened(t, cursorKeyA, third).String(), "1-")
	if got := h.say(strings.Replace(message, third, open, 1)); !strings.Contains(got, codeBadMessage) {
		t.Errorf("subscribe with an open cursor: got %s, want %s", got, codeBadMessage)
	}

	// All else is refused.
	stranger, err := ParseCursorKey(cursorKeyB)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, id string }{
		{"open", open},
		{"open, with a phase", "1s" + open[1:]},
		{"of another key", string(stranger.Seal([]byte(open), 0))},
		{"cut short", third[:len(third)-1]},
		{"longer", third + "A"},
		{"changed", third[:5] + string(third[5]^1) + third[6:]},
		{"nothing sealed", "2-"},
		{"a next version", "3-" + third[2:]},
	} {
		for _, w := range []*httptest.ResponseRecorder{
			h.get("/events/t/", "Last-Event-ID", tt.id),
			h.get("/events/t/?last_event_id=" + url.QueryEscape(tt.id)),
			h.get("/events/t/?limit=1&lastEventId="+url.QueryEscape(tt.id), "Accept", "application/json"),
		} {
			if w.Code != http.StatusBadRequest {
				t.Errorf("%s: got %d %s, want 400", tt.name, w.Code, w.Body)
			}
		}
	}

	// The ids that a quiet stream gets while others' records pass.
	quiet := h.open("/events/t/?key=nobody")
	quiet.until("hold", func(string) bool { return quiet.holding })
	h.gw.listen(quiet.channel)
	values(k, "t", "v8")
	quiet.until("an id-only block", func(out string) bool { return strings.Count(out, "id: ") > 1 })
	wantNoOpenCursor(t, quiet.out.String(), topic)
	if c := opened(t, cursorKeyA, quiet.lastEventID()); c.Blocks[0].Offsets[0] != 9 {
		t.Errorf("an id-only block: got %s, want offset 9", c)
	}

	// A server without the key, or with another, takes none of them.
	plain := startRelay(t, k)
	if w := plain.get("/events/t/", "Last-Event-ID", third); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "CURSOR_KEY") {
		t.Errorf("without a key: got %d %s, want 400 that names CURSOR_KEY", w.Code, w.Body)
	}
}

// say makes a message of a WebSocket, and returns what answers it.
func (h *harness) say(message string) string {
	h.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/events/", bytes.NewReader(grip.AppendEvent(nil, grip.Event{Type: grip.EventText, Content: []byte(message)})))
	return h.do(r, "Content-Type", grip.ContentTypeEvents, "Accept", grip.ContentTypeEvents).Body.String()
}

// A key is replaced in three steps, and each cursor works until the last.
func TestCursorKeyIsReplaced(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("t", 1)
	values(k, "t", "a", "b")
	var file atomic.Value
	file.Store(cursorKeyA)
	source := secret.NewSource()
	source.Add("CURSOR_KEY", cursorKeyA, func() (string, error) { return file.Load().(string), nil })
	h := startRelay(t, k, sealedBy(cursorKeyA), func(c *Config) { c.Secrets = source })
	source.Watch(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	change := func(key string) {
		file.Store(key)
		source.Reload()
	}
	ids := func() (first, here string) {
		s := h.open("/events/t/?from=earliest")
		s.until("both", func(string) bool { return len(s.events()) >= 2 })
		l := h.open("/events/t/")
		l.until("hold", func(string) bool { return l.holding })
		return s.events()[0].id, l.lastEventID()
	}
	status := func(id string) int { return h.get("/events/t/", "Last-Event-ID", id).Code }

	old, oldHere := ids()
	change(cursorKeyA + "," + cursorKeyB) // so that all replicas read the new key's before any writes them
	if now, here := ids(); now != old || opened(t, cursorKeyA, here).Blocks[0].Offsets[0] != 2 {
		t.Errorf("the first of two keys does not seal: got %s, want %s", now, old)
	}
	change(cursorKeyB + ", " + cursorKeyA)
	rotated, rotatedHere := ids()
	opened(t, cursorKeyB, rotated)
	opened(t, cursorKeyB, rotatedHere) // not what streams shared before
	for _, id := range []string{old, oldHere, rotated, rotatedHere} {
		if got := status(id); got != http.StatusOK {
			t.Errorf("with both keys: got %d for %s, want 200", got, id)
		}
	}
	h.open("/events/t/", "Last-Event-ID", old).wantData("b")
	for _, bad := range []string{"", "short", cursorKeyA + "," + cursorKeyB + "," + cursorKeyA, cursorKeyA + ","} {
		change(bad)
		if got := status(rotated); got != http.StatusOK {
			t.Errorf("after the bad key %q: got %d, want 200", bad, got)
		}
	}
	change(cursorKeyB)
	for id, want := range map[string]int{old: http.StatusBadRequest, oldHere: http.StatusBadRequest, rotated: http.StatusOK, rotatedHere: http.StatusOK} {
		if got := status(id); got != want {
			t.Errorf("with the new key alone: got %d for %s, want %d", got, id, want)
		}
	}
}

// Long cursors are shortened by what clients see of them.
func TestLongSealedCursors(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("t", 300)
	h := startRelay(t, k, sealedBy(cursorKeyA))
	h.r.hub.maxID = 1100 // the open cursor has 615 bytes, the sealed one 844
	s := h.open("/events/t/?from=earliest&id=every")
	values(k, "t", "a")
	s.wantData("a")
	if c := opened(t, cursorKeyA, s.events()[0].id); len(c.Blocks[0].Offsets) != 300 {
		t.Errorf("got %s, want all offsets", c)
	}
	h = startRelay(t, k, sealedBy(cursorKeyA))
	h.r.hub.maxID = 700 // only the open one would fit
	s = h.open("/events/t/")
	s.until("hold", func(string) bool { return s.holding })
	values(k, "t", "b")
	s.wantData("b")
	if c := opened(t, cursorKeyA, s.events()[0].id); !c.Blocks[0].Unknown {
		t.Errorf("got %s, want a time alone", c)
	}
	if n := strings.Count(s.out.String(), "id: "); n > 3 {
		t.Errorf("got %d ids, want few", n)
	}
}

// Where a topic's rule shows no envelopes, offsets stand nowhere else.
func TestGapsWithoutPlaces(t *testing.T) {
	k := kafkatest.Fake(t)
	for _, topic := range []string{"plain", "rich"} {
		k.CreateTopic(topic, 1)
		values(k, topic, numbered("v", 0, 6)...)
		k.Produce(value(topic, 0, strings.Repeat("x", 200)))
		k.DeleteRecords(topic, 0, 4)
	}
	rules := func(c *Config) { c.TopicRules, c.EventMaxBytes = `{"plain":{"formats":["plain"]}}`, 100 }
	for _, tt := range []struct {
		key, topic, gap, oversize string
	}{
		{cursorKeyA, "plain", `{"topic":"plain","reason":"retention","exact":true}`, `{"topic":"plain","reason":"oversize","size":200}`},
		{cursorKeyA, "rich", `{"topic":"rich","partition":0,"reason":"retention","from":1,"to":4,"exact":true}`, `{"topic":"rich","partition":0,"offset":6,"reason":"oversize","size":200}`},
		{"", "plain", `{"topic":"plain","partition":0,"reason":"retention","from":1,"to":4,"exact":true}`, `{"topic":"plain","partition":0,"offset":6,"reason":"oversize","size":200}`},
	} {
		t.Run(fmt.Sprintf("%s/sealed=%v", tt.topic, tt.key != ""), func(t *testing.T) {
			h := startRelay(t, k, rules, sealedBy(tt.key))
			s, err := ParseCursorKey(tt.key)
			if err != nil {
				t.Fatal(err)
			}
			id := string(s.Seal([]byte("1-hi3hk-"+mustLookup(t, h, tt.topic).tag.String()+".1.1"), 0))
			h.open("/events/"+tt.topic+"/", "Last-Event-ID", id).wantData("gap "+tt.gap, "v4", "v5", "oversize "+tt.oversize)
			live := h.open("/events/" + tt.topic + "/")
			live.until("hold", func(string) bool { return live.holding })
			w := h.get("/events/"+tt.topic+"/?on_gap=fail", "Last-Event-ID", id)
			if !strings.Contains(w.Body.String(), tt.gap) {
				t.Errorf("on_gap=fail: got %d %s, want %s in it", w.Code, w.Body, tt.gap)
			}
		})
	}
}

func TestParseCursorKey(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"not set", "", ""},
		{"text", cursorKeyA, ""},
		{"base64", "base64:" + strings.Repeat("A", 43) + "=", ""},
		{"two", cursorKeyA + " , base64:" + strings.Repeat("A", 43) + "=", ""},
		{"too short", "hunter2", "7 bytes are too few"},
		{"base64 of too little", "base64:aHVudGVyMg==", "7 bytes are too few"},
		{"the second too short", cursorKeyA + ",hunter2", "key 2 of 2, comma separated: 7 bytes are too few"},
		{"not base64", "base64:hunter2!", "not base64"},
		{"three", cursorKeyA + "," + cursorKeyA + "," + cursorKeyA, "more than two keys"},
		{"nothing behind the comma", cursorKeyA + ",", "0 bytes are too few"},
	} {
		cfg := testConfig("localhost:1")
		cfg.CursorKey = tt.text
		err := cfg.Validate()
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: got %v", tt.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "CURSOR_KEY: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// Whoever hides records by a rule is told that open ids count them.
func TestRowRuleWithoutCursorKey(t *testing.T) {
	k := kafkatest.Fake(t)
	for key, want := range map[string]bool{"": true, cursorKeyA: false} {
		var log bytes.Buffer
		cfg := testConfig(k.Bootstrap())
		cfg.TopicRules, cfg.CursorKey = `{"orders":{"filter":"value.public == true"}}`, key
		r, err := New(cfg, newMemGateway(), slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(log.String(), "CURSOR_KEY"); got != want {
			t.Errorf("with CURSOR_KEY=%q: warned %v, want %v: %s", key, got, want, log.String())
		}
	}
}
