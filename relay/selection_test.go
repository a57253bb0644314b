package relay

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/relay/cursor"
)

// noon is when the requests of these tests arrive.
var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func selectionOf(t *testing.T, path, query string, header ...string) (selection, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.URL.RawQuery = query
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return parseSelection(path, r, []string{"fbclid"}, testQueries(), nil, nil, noon)
}

func TestSelection(t *testing.T) {
	const id, other = "1-hi3hk-4fz1q.1.0", "1-hi3hk-4fz1q.1.1"
	at := func(id string) start {
		c, err := cursor.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		return start{kind: startCursor, cursor: c}
	}
	for _, tt := range []struct {
		name, path, query string
		header            []string
		want              func(s *selection) // what differs from a plain live stream of x
	}{
		{name: "nothing", path: "x/", want: func(*selection) {}},
		{name: "no final slash", path: "x", want: func(*selection) {}},
		{name: "several topics, sorted, each once", path: "b,a,b/", query: "topic=c&topic=a,d",
			want: func(s *selection) { s.topics = []string{"a", "b", "c", "d"} }},
		{name: "ignored parameters", path: "x/", query: "_=1&_x=2&utm_source=3&fbclid=4&fbclid=5", want: func(*selection) {}},

		{name: "header before parameters", path: "x/", query: "last_event_id=" + other + "&since=1h&from=earliest&last=3", header: []string{"Last-Event-ID", id},
			want: func(s *selection) { s.start = at(id) }},
		{name: "last_event_id before since", path: "x/", query: "last_event_id=" + id + "&since=1h", want: func(s *selection) { s.start = at(id) }},
		{name: "lastEventId", path: "x/", query: "lastEventId=" + id, want: func(s *selection) { s.start = at(id) }},
		{name: "both spellings alike", path: "x/", query: "lastEventId=" + id + "&last_event_id=" + id, want: func(s *selection) { s.start = at(id) }},
		{name: "since before from", path: "x/", query: "since=15m&from=latest",
			want: func(s *selection) { s.start = start{kind: startTime, time: noon.Add(-15 * time.Minute)} }},
		{name: "since in milliseconds", path: "x/", query: "since=1000", want: func(s *selection) { s.start = start{kind: startTime, time: time.UnixMilli(1000)} }},
		{name: "since with a zone whose + was not escaped", path: "x/", query: "since=2026-05-01T12:00:00+02:00",
			want: func(s *selection) { s.start = start{kind: startTime, time: noon.Add(-2 * time.Hour)} }},
		{name: "from before last", path: "x/", query: "from=earliest&last=3", want: func(s *selection) { s.start = start{kind: startEarliest} }},
		{name: "latest is live", path: "x/", query: "from=latest", want: func(*selection) {}},
		{name: "last", path: "x/", query: "last=3", want: func(s *selection) { s.start = start{kind: startLast, last: 3} }},
		{name: "last none is live", path: "x/", query: "last=0", want: func(*selection) {}},

		{name: "limit", path: "x/", query: "limit=2", want: func(s *selection) { s.limit = 2 }},
		{name: "until", path: "x/", query: "until=2026-05-01T13:00:00Z", want: func(s *selection) { s.until = noon.Add(time.Hour) }},
		{name: "until 1970", path: "x/", query: "until=0", want: func(s *selection) { s.until = time.UnixMilli(0) }},

		{name: "envelope", path: "x/", query: "format=envelope", want: func(s *selection) { s.form = formEnvelope }},
		{name: "NDJSON", path: "x/", header: []string{"Accept", "text/html, Application/X-NDJSON;q=0.5"}, want: func(s *selection) { s.form = formNDJSON }},
		{name: "event stream before others", path: "x/", header: []string{"Accept", "application/json, text/event-stream"}, want: func(*selection) {}},
		{name: "any", path: "x/", header: []string{"Accept", "*/*"}, want: func(*selection) {}},
		{name: "long poll", path: "x/", header: []string{"Accept", "application/json"}, want: func(s *selection) { s.form, s.longPoll = formNDJSON, true }},
		{name: "WebSocket", path: "x/", header: []string{"Accept", "application/websocket-events"}, want: func(s *selection) { s.via = overWebSocket }},
		{name: "WebSocket, first known protocol", path: "x/", header: []string{"Accept", "application/websocket-events", "Sec-WebSocket-Protocol", "bearer.eA, foo", "Sec-WebSocket-Protocol", "spillway.v1.json"},
			want: func(s *selection) { s.via, s.form, s.protocol = overWebSocket, formJSON, protocolJSON }},
		{name: "WebSocket, plain protocol, envelope", path: "x/", query: "format=envelope", header: []string{"Accept", "application/websocket-events", "Sec-WebSocket-Protocol", "spillway.v1.plain, spillway.v1.json"},
			want: func(s *selection) { s.via, s.form, s.protocol = overWebSocket, formEnvelope, protocolPlain }},

		{name: "ids", path: "x/", query: "id=every", want: func(s *selection) { s.ids = idEvery }},
		{name: "ids by default", path: "x/", query: "id=auto", want: func(*selection) {}},
		{name: "flags", path: "x/", query: "marks=1&padding=1&on_gap=fail", want: func(s *selection) { s.marks, s.padding, s.failOnGap = true, true, true }},
		{name: "flags off", path: "x/", query: "marks=0&padding=0&on_gap=event", want: func(*selection) {}},
		{name: "event from a header", path: "x/", query: "event_from=header:type", want: func(s *selection) { s.eventFrom = "header:type" }},
		{name: "heartbeat", path: "x/", query: "heartbeat=30s", want: func(s *selection) { s.heartbeat = 30 * time.Second }},
		{name: "heartbeat is clamped", path: "x/", query: "heartbeat=1ms", want: func(s *selection) { s.heartbeat = time.Second }},
		{name: "comments only", path: "x/", query: "heartbeat=comment", want: func(s *selection) { s.commentOnly = true }},
		{name: "wait", path: "x/", query: "wait=30s", want: func(s *selection) { s.wait = 30 * time.Second }},
		{name: "wait in seconds", path: "x/", query: "wait=30", want: func(s *selection) { s.wait = 30 * time.Second }},
		{name: "wait is clamped", path: "x/", query: "wait=10m", want: func(s *selection) { s.wait = maxWait }},
		{name: "no wait is clamped", path: "x/", query: "wait=0", want: func(s *selection) { s.wait = minWait }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := selectionOf(t, tt.path, tt.query, tt.header...)
			if err != nil {
				t.Fatal(err)
			}
			want := selection{topics: []string{"x"}, rendering: rendering{form: formPlain}, wait: defaultWait}
			tt.want(&want)
			if !got.until.Equal(want.until) || !got.start.time.Equal(want.start.time) {
				t.Errorf("got until %v and start %v, want %v and %v", got.until, got.start.time, want.until, want.start.time)
			}
			got.until, got.start.time = want.until, want.start.time
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestSelectionRefused(t *testing.T) {
	many := strings.Repeat("t,", maxTopics) // one name
	for i := range maxTopics + 1 {
		many += "t" + string(rune('a'+i)) + ","
	}
	for _, tt := range []struct {
		name, path, query, want string
		header                  []string
	}{
		{name: "a typo", path: "x/", query: "sinse=1h", want: `unknown parameter "sinse"; the nearest known one is "since"`},
		{name: "a name in the wrong case", path: "x/", query: "Limit=1", want: `"limit"`},
		{name: "a malformed query", path: "x/", query: "a=%zz", want: "malformed"},
		{name: "given twice", path: "x/", query: "since=1h&since=2h", want: "since is given 2 times"},
		{name: "no topic", path: "/", query: "topic=,", want: "no topic"},
		{name: "too many topics", path: many, want: "22 topics"},
		{name: "two cursors", path: "x/", query: "last_event_id=1-hi3hk-4fz1q.1.0&lastEventId=1-hi3hk-4fz1q.1.1", want: "differ"},
		{name: "cursor cut short", path: "x/", header: []string{"Last-Event-ID", "1-hi3hk-4fz1q.3.xg.rq"}, want: "Last-Event-ID: cursor: byte"},
		{name: "a sealed cursor", path: "x/", query: "last_event_id=2-AAAA", want: "CURSOR_KEY"},
		{name: "since of a day", path: "x/", query: "since=1d", want: "a duration back from now such as 15m"},
		{name: "negative since", path: "x/", query: "since=-1h", want: "negative"},
		{name: "negative milliseconds", path: "x/", query: "since=-1", want: "negative"},
		{name: "until", path: "x/", query: "until=never", want: "until=never"},
		{name: "limit 0", path: "x/", query: "limit=0", want: "1 or more"},
		{name: "limit", path: "x/", query: "limit=all", want: "1 or more"},
		{name: "last", path: "x/", query: "last=-1", want: "0 or more"},
		{name: "format", path: "x/", query: "format=xml", want: "plain, envelope or cloudevents"},
		{name: "id", path: "x/", query: "id=none", want: "auto, every or batch"},
		{name: "rate", path: "x/", query: "rate=fast", want: "5/s or 30/m"},
		{name: "a rate that is too high", path: "x/", query: "rate=101", want: "to 100/s"},
		{name: "marks", path: "x/", query: "marks=yes", want: "0 or 1"},
		{name: "on_gap", path: "x/", query: "on_gap=stop", want: "event or fail"},
		{name: "event_from nothing", path: "x/", query: "event_from=header:", want: "header:<name>"},
		{name: "heartbeat", path: "x/", query: "heartbeat=often", want: "comment, or a duration"},
		{name: "wait", path: "x/", query: "wait=soon", want: "20s"},
		{name: "unknown subprotocol", path: "x/", header: []string{"Accept", "application/websocket-events", "Sec-WebSocket-Protocol", "mqtt"}, want: "spillway.v1.json and spillway.v1.plain are known"},
	} {
		_, err := selectionOf(t, tt.path, tt.query, tt.header...)
		var bad *badRequest
		if !errors.As(err, &bad) || !strings.Contains(bad.detail, tt.want) {
			t.Errorf("%s: %v, want a bad request with %q", tt.name, err, tt.want)
		}
	}
}

// selectionSeeds name every parameter.
var selectionSeeds = []struct{ path, query, accept, id string }{
	{"a,b/", "since=1h&limit=3&topic=c", "text/event-stream", "1-hi3hk-4fz1q.1.0"},
	{"a", "last=5&until=0&format=envelope&id=batch&schema=1", "application/json", ""},
	{"", "topic=x&_=1&event_from=header:h&heartbeat=30s&wait=7", "application/websocket-events", "1e-hi3hk-4fz1q.1!"},
	{"%2f", "since=9223372036854775807&until=9999-12-31T23:59:59Z", "a/b;q=1,,", "\x00"},
	{"a", "key=k1&key=%ff&key=&partition=2&partition=0&header.type=x&header.type=y&header.a.b=", "", ""},
	{"a", "filter=value.n%3E1+%26%26+has(headers.x)+||+key+in+['a',b'%5Cxff']&fields=id,customer.name,\"a.b\".c", "application/x-ndjson", ""},
	{"a", "from=snapshot&filter=value.n==1&marks=1&padding=1&on_gap=fail", "", "1s-hi3hk-4fz1q.2.0.1"},
	{"a", "from=earliest&speed=1.5&id=every&heartbeat=comment", "", ""},
	{"a", "slow=latest&rate=30/m&event_from=topic", "*/*", ""},
	{"a", "last_event_id=1-hi3hk-4fz1q.2.1_5.3_0&access_token=x&format=cloudevents", "application/cloudevents-batch+json", ""},
	{"a", "lastEventId=1-hi3hk-4fz1q.1.0~bbbbb.2!", "", ""},
}

func FuzzSelection(f *testing.F) {
	named := make(map[string]bool)
	for _, seed := range selectionSeeds {
		f.Add(seed.path, seed.query, seed.accept, seed.id)
		query, err := url.ParseQuery(seed.query)
		if err != nil {
			f.Fatal(err)
		}
		for name := range query {
			if strings.HasPrefix(name, headerPrefix) {
				name = "header.<name>"
			}
			named[name] = true
		}
	}
	for name := range params {
		if !named[name] {
			f.Errorf("no seed has the parameter %s", name)
		}
	}
	qs := testQueries()
	f.Fuzz(func(t *testing.T, path, query, accept, id string) {
		r := &http.Request{URL: &url.URL{RawQuery: query}, Header: http.Header{"Accept": {accept}, "Last-Event-Id": {id}}}
		s, err := parseSelection(path, r, nil, qs, nil, nil, noon)
		var bad *badRequest
		if err != nil {
			if !errors.As(err, &bad) {
				t.Fatalf("%v is no bad request", err)
			}
			return
		}
		if n := len(s.topics); n == 0 || n > maxTopics || !slices.IsSorted(s.topics) || slices.Contains(s.topics, "") ||
			len(slices.Compact(slices.Clone(s.topics))) != n {
			t.Errorf("topics %q", s.topics)
		}
		if s.limit < 0 || s.wait < minWait || s.wait > maxWait || s.start.last < 0 || (s.heartbeat != 0 && s.heartbeat < time.Second) {
			t.Errorf("out of bounds: %+v", s)
		}
		if s.start.kind == startCursor && s.start.cursor.String() != firstOf(id, r.URL.Query().Get("last_event_id"), r.URL.Query().Get("lastEventId")) {
			t.Errorf("cursor %s was not what was sent", s.start.cursor)
		}
		if s.query == nil {
			return
		}
		// What a link says of the query is the query, made by whoever opens the
		// link: here one that has not seen the request.
		other := &queries{compiler: qs.compiler}
		q, err := other.of(s.query.textOf())
		if err != nil || q.key != s.query.key || q.changing != s.query.changing || !slices.Equal(q.partsOf(), s.query.partsOf()) {
			t.Errorf("%q has the link %+v: %+v, %v, want %+v", query, s.query.text, q, err, s.query)
		}
	})
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
