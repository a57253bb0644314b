package relay

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/kafkatest"
)

func TestParseRules(t *testing.T) {
	rs, err := parseRules([]byte(`{
		"orders\\.eu": {"redact": ["value.card"]},
		"orders.*": {"filter": "value.public", "headers": ["trace"], "formats": ["plain"], "codec": {"key": "string", "value": "json"},
			"replay": {"records": 10, "bytes": "1MiB", "age": "24h"}},
		".*": {}
	}`), testQueries().compiler, false)
	if err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{
		"orders.eu": `orders\.eu`, "orders.us": "orders.*", "orders": "orders.*", "my.orders": ".*", "orders.eu2": "orders.*",
	} {
		if got := rs.of(topic); got == nil || got.pattern != want {
			t.Errorf("%s: the rule of %v, want %q", topic, got, want)
		}
	}
	if rs, err := parseRules([]byte(" \n"), nil, false); rs.of("orders") != nil || err != nil {
		t.Errorf("blanks: got %v %v, want no rules", rs, err)
	}
}

func TestBadRules(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no object", `[]`, "must be one JSON object of rules by pattern"},
		{"no JSON", `orders`, "must be one JSON object"},
		{"cut off", `{"orders": {`, `"orders": unexpected EOF`},
		{"more than one", `{} {}`, "something follows"},
		{"a pattern", `{"orders(": {}}`, `"orders(": not a regular expression`},
		{"a pattern twice", `{"a": {}, "a": {}}`, "there twice"},
		{"a rule that is none", `{"a": null}`, "null is not a rule"},
		{"an unknown member", `{"a": {"fields": ["id"]}}`, `unknown member "fields"; filter, redact,`},
		{"an unknown member below", `{"a": {"replay": {"recods": 1}}}`, `unknown member "recods"`},
		{"a member twice", `{"a": {"redact": ["value.x"], "redact": ["value.y"]}}`, "duplicate"},
		{"redact as a text", `{"a": {"redact": "value.x"}}`, "redact: must be an array of texts, not a JSON string"},
		{"redact of all", `{"a": {"redact": ["value"]}}`, "would leave nothing"},
		{"redact of a key", `{"a": {"redact": ["key"]}}`, "does not begin with value"},
		{"an unknown format", `{"a": {"formats": ["avro"]}}`, `formats: "avro" is none; must be plain or`},
		{"no format", `{"a": {"formats": []}}`, "allows none"},
		{"a codec", `{"a": {"codec": {"value": "xml"}}}`, `"xml" is not a codec`},
		{"records", `{"a": {"replay": {"records": -1}}}`, "replay.records: -1"},
		{"records as a text", `{"a": {"replay": {"records": "many"}}}`, "replay.records: must be a whole number, not a JSON string"},
		{"bytes as a number", `{"a": {"replay": {"bytes": 5}}}`, `must be a text such as "64MiB", not a JSON number`},
		{"age", `{"a": {"replay": {"age": "a day"}}}`, `"a day" is not a duration such as 24h`},
		{"age as a number", `{"a": {"replay": {"age": 5}}}`, `must be a text such as "24h", not a JSON number`},
		{"a filter", `{"a": {"filter": "value.x =="}}`, `"a": filter: `},
		{"a filter's name", `{"a": {"filter": "valeu.x"}}`, "unknown name 'valeu'"},
		{"claims", `{"a": {"filter": "value.tenant == claims.tenant"}}`, "filter: uses claims, and nobody has any; set AUTH_URL"},
		{"claims by brackets", `{"a": {"filter": "value.tenant == claims['tenant']"}}`, "uses claims"},
		{"claims in a loop", `{"a": {"filter": "value.x.all(x, x in claims.xs)"}}`, "uses claims"},
		{"a filter on what is hidden", `{"a": {"filter": "!has(value.card)", "redact": ["value.card"]}}`, "value.card is hidden by redact"},
		{"above it", `{"a": {"filter": "value == null", "redact": ["value.card"]}}`, "value is hidden by redact"},
		{"below it", `{"a": {"filter": "value['card'].no == 1", "redact": ["value.card"]}}`, "value.card.no is hidden by redact"},
		{"by an unknown name", `{"a": {"filter": "value[key] == 1", "redact": ["value.card"]}}`, "value is hidden by redact"},
		{"in a list", `{"a": {"filter": "value.cards[0].no == 1", "redact": ["value.cards.no"]}}`, "value.cards is hidden by redact"},
		{"in a loop", `{"a": {"filter": "value.cards.exists(c, c.no == 1)", "redact": ["value.cards.no"]}}`, "value.cards is hidden by redact"},
		{"a hidden header", `{"a": {"filter": "headers.type == 'x'", "headers": ["trace"]}}`, "headers.type is hidden by headers"},
		{"all headers", `{"a": {"filter": "'x' in headers", "headers": ["x"]}}`, "headers is hidden by headers"},
	} {
		if _, err := parseRules([]byte(tt.text), testQueries().compiler, false); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	for _, text := range []string{
		`{"a": {"filter": "value.tenant == 'acme' && value.cart.no == 1", "redact": ["value.card", "value.cart.card"]}}`,
		`{"a": {"filter": "headers.trace == 'x' || headers['trace'] == 'y'", "headers": ["trace"]}}`,
		`{"a": {"filter": "value.claims == 'x' && value.exists(value_, value_.headers == 1)", "headers": []}}`,
	} {
		if _, err := parseRules([]byte(text), testQueries().compiler, false); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	for _, text := range []string{`{"orders.*": {"filter": "value.a == 1", "redact": ["value.b"]}}`, `{"a": {"replay": {"age": "24h"}}}`, `{"a":{},"a":{}}`, `{"(":null}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rs, err := parseRules(text, testQueries().compiler, false)
		if err == nil {
			rs.of("orders")
		}
	})
}

func withRules(format string, args ...any) func(*Config) {
	return func(c *Config) { c.TopicRules = fmt.Sprintf(format, args...) }
}

// What a rule hides is nowhere: not in history, not live, not in any form, and
// nobody finds out by asking for it.
func TestRulesHide(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		h := startRelay(t, k, withRules(`{%q: {"redact": ["value.card", "value.cards.no"], "headers": ["trace"]}}`, topic))
		headers := []kgo.RecordHeader{{Key: "trace", Value: []byte("t1")}, {Key: "password", Value: []byte("hidden")}}
		produce := func(n int) {
			k.Produce(
				&kgo.Record{Topic: topic, Key: []byte("k"), Headers: headers, Value: fmt.Appendf(nil, `{"n":%d,"card":"hidden","cards":[{"no":"hidden","ok":1}]}`, n)},
				&kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("hidden is no JSON")},
				&kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("\xffhidden")},
				&kgo.Record{Topic: topic, Key: []byte("k")},
			)
		}
		produce(1)
		shown := func(n int) string { return fmt.Sprintf(`{"n":%d,"cards":[{"ok":1}]}`, n) }
		withheld := func(offset int) string {
			return fmt.Sprintf(`undecodable {"topic":%q,"partition":0,"offset":%d,"reason":"redacted"}`, topic, offset)
		}
		plain := h.open("/events/" + topic + "/?from=earliest&event_from=header:password")
		named := h.open("/events/" + topic + "/?from=earliest&event_from=header:trace")
		streams := []*stream{plain, named}
		for _, header := range []string{"text/event-stream", "application/x-ndjson", grip.ContentTypeEvents} {
			s := h.open("/events/"+topic+"/?from=earliest&format=envelope", "Accept", header)
			streams = append(streams, s)
		}
		for _, query := range []string{"filter=has(value.card)", "filter=value.card=='hidden'", "header.password=hidden", "filter='password'+in+headers", "fields=card"} {
			streams = append(streams, h.open("/events/"+topic+"/?from=earliest&"+query))
		}
		for _, s := range streams {
			s.until("hold", func(string) bool { return s.holding })
		}
		produce(2)
		plain.wantData(shown(1), withheld(1), withheld(2), "delete k", shown(2), withheld(5), withheld(6), "delete k")
		named.wantData("t1 "+shown(1), withheld(1), withheld(2), "delete k", "t1 "+shown(2), withheld(5), withheld(6), "delete k")
		for i, s := range streams[2:5] {
			s.until("all eight", func(out string) bool { return strings.Count(out, `"offset":`) == 8 })
			for _, want := range []string{shown(1), shown(2), `"headers":{"trace":"t1"}`, `"error":"redacted"`} {
				if !strings.Contains(s.out.String(), want) {
					t.Errorf("envelope %d: no %s in %s", i, want, &s.out)
				}
			}
		}
		streams[9].until("all eight", func(string) bool { return len(streams[9].events()) == 8 })
		for i, s := range streams {
			if strings.Contains(strings.ReplaceAll(s.out.String(), base64Hidden, "hidden"), "hidden") {
				t.Errorf("stream %d shows what the rule hides: %s", i, &s.out)
			}
			if i >= 5 && i < 9 && len(s.events()) > 0 {
				t.Errorf("stream %d has %v by what is hidden", i, s.events())
			}
		}
	})
}

// base64Hidden is what any text that ends in "hidden" would have, were it encoded.
const base64Hidden = "aGlkZGVu"

func TestRowsOfRules(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		a := kafkatest.UniqueTopic(t)
		b, c, free := a+"-b", a+"-c", a+"-free"
		for _, topic := range []string{a, b, c, free} {
			k.CreateTopic(topic, 1)
		}
		h := startRelay(t, k, withRules(`{%q: {"filter": "value.n >= 3"}, "%s|%s": {"filter": "value.n == 1 || key == 'k'"}}`, a, b, c))
		produce := func(from, to int) {
			for n := from; n < to; n++ {
				for _, topic := range []string{a, b, c, free} {
					values(k, topic, fmt.Sprintf(`{"n":%d,"t":%q}`, n, topic[len(a):]))
				}
			}
		}
		produce(0, 3)
		var all []string
		for n := range 6 {
			for _, topic := range []string{"", "-b", "-c", "-free"} {
				if topic == "" && n >= 3 || (topic == "-b" || topic == "-c") && n == 1 || topic == "-free" {
					all = append(all, fmt.Sprintf(`{"n":%d,"t":%q}`, n, topic))
				}
			}
		}
		only := func(ts ...string) (want []string) {
			for _, s := range all {
				for _, t := range ts {
					if strings.HasSuffix(s, fmt.Sprintf(`"t":%q}`, t)) {
						want = append(want, s)
					}
				}
			}
			return want
		}
		type wanted struct {
			s    *stream
			want []string
		}
		streams := map[string]wanted{
			"one":                 {h.open("/events/" + a + "/?from=earliest"), only("")},
			"a client's filter":   {h.open("/events/" + a + "/?from=earliest&filter=true||value.n<3"), only("")},
			"two of one rule":     {h.open("/events/" + b + "," + c + "/?from=earliest"), only("-b", "-c")},
			"two rules":           {h.open("/events/" + a + "," + b + "/?from=earliest"), only("", "-b")},
			"all and one without": {h.open("/events/" + strings.Join([]string{a, b, c, free}, ",") + "/?from=earliest"), all},
			"one without":         {h.open("/events/" + free + "/?from=earliest"), only("-free")},
		}
		for name, w := range streams {
			w.s.until(name+" holds", func(string) bool { return w.s.holding })
		}
		if got := streams["one"].s.channel; got == a {
			t.Errorf("the channel %s is called as the whole topic", got)
		}
		if got := streams["one without"].s.channel; got != free {
			t.Errorf("the channel of a topic without a rule is %s, want %s", got, free)
		}
		produce(3, 6)
		for name, w := range streams {
			w.s.until(name, func(string) bool { return len(w.s.events()) >= len(w.want) })
			wantSame(t, name, w.s, w.want)
		}
		last := h.open("/events/" + a + "," + b + "/?last=4")
		last.until("last", func(string) bool { return len(last.events()) >= 4 })
		wantSame(t, "last", last, append(only(""), only("-b")...))
		again := h.open("/events/"+a+"/", "Last-Event-ID", streams["one"].s.events()[0].id)
		again.wantData(only("")[1:]...)
	})
}

// A topic is shown only in the forms that its rule names, whoever asks and
// however; where that excludes envelopes, nothing else shows keys and headers.
func TestFormatsOfRules(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	bare, wrapped := topic+"-bare", topic+"-wrapped"
	k.CreateTopic(bare, 1)
	k.CreateTopic(wrapped, 1)
	h := startRelay(t, k, withRules(`{%q: {"formats": ["plain"], "headers": ["type"]}, %q: {"formats": ["envelope"]}}`, bare, wrapped))
	for _, tt := range []struct {
		path, form string
		status     int
		want       string
	}{
		{bare + "/", "any", 200, ""},
		{bare + "/", "event stream", 200, ""},
		{bare + "/", "WebSocket", 200, ""},
		{bare + "/?format=envelope", "event stream", 403, "topic " + bare + " is not shown as envelope; allowed: format=plain"},
		{bare + "/?format=envelope", "WebSocket", 403, "allowed: format=plain"},
		{bare + "/", "NDJSON", 403, "allowed: format=plain"},
		{bare + "/", "long poll", 403, "allowed: format=plain"},
		{bare + "/", "subprotocol", 403, "allowed: format=plain"},
		{bare + "/?event_from=key", "any", 403, "without keys and headers"},
		{bare + "/?event_from=header:other", "any", 403, "without keys and headers"},
		{bare + "/?event_from=header:type", "any", 200, ""},
		{bare + "/?event_from=topic", "any", 200, ""},
		{wrapped + "/", "any", 403, "topic " + wrapped + " is not shown as plain; allowed: format=envelope"},
		{wrapped + "/?format=envelope&event_from=key", "any", 200, ""},
		{wrapped + "/", "NDJSON", 200, ""},
		{wrapped + "/", "subprotocol", 200, ""},
		{wrapped + "," + bare + "/", "any", 403, wrapped},
		{"missing," + bare + "/?format=envelope", "any", 404, "no such topic"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			w := h.do(httptest.NewRequest(method, "/events/"+tt.path, nil), forms[tt.form]...)
			if w.Code != tt.status || tt.status != 200 && !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%s %s, %s: %d %s, want %d %s", method, tt.path, tt.form, w.Code, w.Body, tt.status, tt.want)
			}
		}
	}
	message := fmt.Sprintf(`{"type":"subscribe","ref":1,"topics":[%q]}`, bare)
	r := httptest.NewRequest(http.MethodPost, "/events/"+wrapped+"/", bytes.NewReader(grip.AppendEvent(nil, grip.Event{Type: grip.EventText, Content: []byte(message)})))
	if w := h.do(r, "Content-Type", grip.ContentTypeEvents); !strings.Contains(w.Body.String(), `"code":"forbidden"`) {
		t.Errorf("subscribe: got %s, want it forbidden", w.Body)
	}

	k.Produce(&kgo.Record{Topic: bare, Key: []byte("secret")}, &kgo.Record{Topic: bare, Key: []byte("secret"), Value: []byte("v")})
	s := h.open("/events/" + bare + "/?from=earliest")
	s.wantData("delete ", "v")
	k.Produce(&kgo.Record{Topic: bare, Key: []byte("secret")})
	s.wantData("delete ", "v", "delete ")
	h.open("/events/"+bare+"/?from=earliest&key=secret").wantData("delete ", "v", "delete ")
}

func TestReplayOfRules(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	free, few, young, small := topic+"-free", topic+"-few", topic+"-young", topic+"-small"
	for _, name := range []string{free, few, young, small} {
		k.CreateTopic(name, 1)
		var records []*kgo.Record
		for i := range 20 {
			records = append(records, &kgo.Record{Topic: name, Value: fmt.Appendf(nil, "v%02d", i), Timestamp: time.Now().Add(time.Duration(i-20) * time.Hour)})
		}
		k.Produce(records...)
	}
	h := startRelay(t, k, withRules(`{%q: {"replay": {"records": 5}}, %q: {"replay": {"age": "3h30m"}}, %q: {"replay": {"bytes": "10B"}}}`, few, young, small),
		func(c *Config) { c.ReplayMaxRecords = 10 })
	kept := func(path string) (events []string, gapAt int) {
		s := h.open("/events/" + path)
		s.until(path, func(string) bool { return s.holding })
		gapAt = -1
		for i, e := range s.events() {
			if e.name == "gap" {
				if !strings.Contains(e.data, `"reason":"replay-limit"`) {
					t.Errorf("%s: %s", path, e.data)
				}
				gapAt = i
				continue
			}
			events = append(events, e.data)
		}
		return events, gapAt
	}
	for _, tt := range []struct {
		name        string
		least, most int
		gapAt       int
	}{
		{free, 5, 10, 0},
		{few, 2, 5, 0},
		{young, 3, 3, 0},
		{small, 4, 4, 5}, // after the first gap, for REPLAY_MAX_RECORDS
	} {
		events, gapAt := kept(tt.name + "/?from=earliest")
		if n := len(events); n < tt.least || n > tt.most || gapAt != tt.gapAt {
			t.Errorf("%s: %d events and a gap at %d, want %d to %d and %d", tt.name, n, gapAt, tt.least, tt.most, tt.gapAt)
		}
	}
	// Of several topics the strictest holds, by any way to begin.
	if events, _ := kept(few + "," + young + "/?from=earliest"); len(events) > 5 {
		t.Errorf("two topics: %q, want at most 5", events)
	}
	if events, _ := kept(few + "/?last=10"); len(events) > 5 {
		t.Errorf("last=10: %q, want at most 5", events)
	}
	if w := h.get("/events/" + few + "/?from=earliest&on_gap=fail"); w.Code != http.StatusGone {
		t.Errorf("on_gap=fail: %d, want 410", w.Code)
	}
	// A cursor that the channel's own log still has is no exception.
	s := h.open("/events/" + few + "/")
	h.gw.listen(s.channel)
	first := s.lastEventID()
	for i := range 9 {
		values(k, few, fmt.Sprint("live", i))
	}
	s.until("all", func(string) bool { return len(s.events()) == 9 })
	w := h.get("/events/"+few+"/", "Last-Event-ID", first)
	if !strings.Contains(w.Body.String(), "replay-limit") {
		t.Errorf("a cursor nine records behind: %s, want a gap", w.Body)
	}
}

// relay publishes nothing that it would have to hide, and says so.
func TestForwarderKeepsRules(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	for _, name := range []string{"-rows", "-redact", "-wrapped", "-bare", "-free"} {
		k.CreateTopic(topic+name, 1)
		k.Produce(&kgo.Record{Topic: topic + name, Key: []byte("k")}, &kgo.Record{Topic: topic + name, Key: []byte("k"), Value: []byte(`{"a":1}`)})
	}
	rules := withRules(`{"%[1]s-rows": {"filter": "true"}, "%[1]s-redact": {"redact": ["value.b"]}, "%[1]s-wrapped": {"formats": ["envelope"]}, "%[1]s-bare": {"formats": ["plain"]}}`, topic)
	proxy := &memPublisher{}
	f, _ := startForwarder(t, k, topic, proxy, rules)
	(&harness{t: t}).eventually("all is read", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		read := int64(0)
		for _, next := range f.last {
			read += next[0]
		}
		return read == 10
	})
	got := map[string]string{}
	for _, it := range proxy.items {
		got[it.Channel] += string(it.HTTPStream.Content)
	}
	event := func(name, data string) string { return "event: " + name + "\nid: %I\ndata: " + data + "\n\n" }
	want := map[string]string{topic + "-bare.0": event("delete", "") + event("message", `{"a":1}`), topic + "-free.0": event("delete", "k") + event("message", `{"a":1}`)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("published %q, want %q", got, want)
	}

	var log bytes.Buffer
	f.decoder.rules.warnUnpublished(slog.New(slog.NewTextHandler(&log, nil)))
	if n := strings.Count(log.String(), "are not published"); n != 3 {
		t.Errorf("%d warnings, want one for each of three rules: %s", n, &log)
	}
}
