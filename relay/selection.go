package relay

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"

	"spillway/relay/cursor"
	"spillway/relay/filter"
)

// A start is where a request wants to begin (event-semantics.md, section 2).
type start struct {
	kind   startKind
	newest bool // a snapshot is asked for, wherever the kind begins
	cursor cursor.Cursor
	time   time.Time
	last   int64
}

// minute is a time before everything that follows the start, in minutes since
// 1970; 0 where it is not known.
func (s *start) minute(now time.Time) int64 {
	switch s.kind {
	case startLive, startSnapshot:
		return now.Unix() / 60
	case startCursor:
		return cursor.Minute(s.cursor.Time)
	case startTime:
		return minuteOf(s.time, now)
	}
	return 0
}

type startKind uint8

const (
	startLive startKind = iota
	startCursor
	startEarliest
	startTime
	startLast
	startSnapshot
)

// A selection is a request for events, parsed: what to send, from where, in
// which form. Topics are names, in byte order, each once.
type selection struct {
	caller *caller
	topics []string
	query  *query
	start  start
	rendering
	via       transport
	longPoll  bool
	wait      time.Duration // of a long poll
	limit     int64         // 0: none
	until     time.Time     // zero: none
	sparing   sparing
	speed     float64 // of a replay, against that of the records' timestamps; 0: as fast as can be
	marks     bool
	padding   bool
	failOnGap bool
	heartbeat time.Duration // 0: the default
	protocol  string        // subprotocol of a WebSocket; "": none was offered
}

// bounded reports whether the stream ends by itself.
func (s *selection) bounded() bool { return s.limit > 0 || !s.until.IsZero() }

// Subprotocols of the WebSocket form.
const (
	protocolJSON  = "spillway.v1.json"
	protocolPlain = "spillway.v1.plain"
	protocolCloud = "cloudevents.json" // of CloudEvents' binding for WebSockets
	bearerPrefix  = "bearer."
)

// params are the query parameters of EVENTS_PATH, each with how often it may
// be given.
var params = map[string]struct{ many bool }{
	"topic":         {many: true},
	"key":           {many: true},
	"partition":     {many: true},
	"header.<name>": {many: true}, // see checkParams
	"filter":        {},
	"fields":        {},
	"last_event_id": {},
	"lastEventId":   {},
	"since":         {},
	"from":          {},
	"last":          {},
	"until":         {},
	"limit":         {},
	"speed":         {},
	"slow":          {},
	"rate":          {},
	"format":        {},
	"id":            {},
	"event_from":    {},
	"heartbeat":     {},
	"marks":         {},
	"padding":       {},
	"schema":        {},
	"on_gap":        {},
	"wait":          {},
	"access_token":  {},
}

const (
	maxTopics   = 20 // of one request
	defaultWait = 20 * time.Second
	minWait     = time.Second
	maxWait     = 55 * time.Second
)

// A badRequest is a mistake of the client: 400, with the text as the detail.
type badRequest struct {
	detail     string
	suggestion string // the name that was probably meant; "" where there is none
}

func (e *badRequest) Error() string { return e.detail }

func badf(format string, args ...any) error { return &badRequest{detail: fmt.Sprintf(format, args...)} }

// parseSelection reads path (what follows EVENTS_PATH, decoded), query and
// headers. The error is a *badRequest.
func parseSelection(path string, r *http.Request, ignore []string, qs *queries, sealer *cursor.Sealer, c *caller, now time.Time) (s selection, err error) {
	s.caller = c
	var query url.Values // most requests have none
	if r.URL.RawQuery != "" {
		if query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
			return s, badf("the query is malformed: %v", err)
		}
	}
	if err := checkParams(query, ignore); err != nil {
		return s, err
	}
	if s.topics, err = parseTopics(path, query["topic"]); err != nil {
		return s, err
	}
	if s.start, err = parseStart(r.Header, query, sealer, now); err != nil {
		return s, err
	}
	s.bare = !c.seesHeaders(qs.decoder, s.topics)
	if s.query, err = s.parseQuery(query, qs); err != nil {
		return s, err
	}
	if err := s.parseForm(r, query); err != nil {
		return s, err
	}
	if err := s.parseBounds(query, now); err != nil {
		return s, err
	}
	if err := s.parseOptions(query); err != nil {
		return s, err
	}
	if s.form == formPlain && !strings.HasPrefix(s.eventFrom, "header:") {
		s.bare = false // it shows none anyway
	}
	return s, nil
}

// checkParams refuses names that nothing reads: a typo in a filter must not
// silently select everything.
func checkParams(query url.Values, ignore []string) error {
	for name, values := range query {
		p, known := params[name]
		if strings.HasPrefix(name, headerPrefix) && len(name) > len(headerPrefix) {
			p, known = params["header.<name>"]
		}
		switch {
		case known && len(values) > 1 && !p.many:
			return badf("parameter %s is given %d times; give it once", name, len(values))
		case known, strings.HasPrefix(name, "_"), strings.HasPrefix(name, "utm_"), slices.Contains(ignore, name):
		default:
			meant := nearest(name, slices.Collect(maps.Keys(params)))
			return &badRequest{fmt.Sprintf("unknown parameter %q; the nearest known one is %q", name, meant), meant}
		}
	}
	return nil
}

// nearest is the known name that is most like another.
func nearest(name string, known []string) (most string) {
	best := -1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(name, k); best < 0 || d < best || (d == best && k < most) {
			best, most = d, k
		}
	}
	return most
}

func parseTopics(path string, more []string) ([]string, error) {
	topics := appendNames(nil, strings.TrimSuffix(path, "/"))
	for _, list := range more {
		topics = appendNames(topics, list)
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	switch {
	case len(topics) == 0:
		return nil, badf("no topic; name one in the path, or as topic=<topic>")
	case len(topics) > maxTopics:
		return nil, badf("%d topics in one request; %d are the most", len(topics), maxTopics)
	}
	return topics, nil
}

// appendNames appends the names of a comma list that are not empty.
func appendNames(names []string, list string) []string {
	for name := range strings.SplitSeq(list, ",") {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

const headerPrefix = "header."

// parseQuery reads what is selected of the records, and what is shown of them.
func (s *selection) parseQuery(params url.Values, qs *queries) (*query, error) {
	asked := make(url.Values)
	for name, values := range params {
		switch {
		case name == "key", name == "partition", name == "filter", name == "fields", strings.HasPrefix(name, headerPrefix):
			asked[name] = values
		}
	}
	var rows *filter.Rule
	text := asked.Encode()
	if s.caller.mayReadAll(s.topics) { // else there is nothing but the syntax to look at
		rows = qs.decoder.rowsOf(s.topics)
	}
	if rows != nil {
		text = strings.Join(s.topics, ",") + "\x00" + s.caller.bindings(rows) + "\x00" + text
	} else if len(asked) == 0 {
		return nil, nil
	}
	spec := filter.Spec{Keys: asked["key"], Expr: asked.Get("filter"), Rule: rows, Claims: s.caller.claims()}
	if s.bare {
		spec.Visible = []string{}
	}
	for name, values := range asked {
		header, isHeader := strings.CutPrefix(name, headerPrefix)
		switch {
		case isHeader:
			if spec.Headers == nil {
				spec.Headers = make(map[string][]string)
			}
			spec.Headers[header] = values
		case name == "partition":
			for _, text := range values {
				n, err := strconv.ParseInt(text, 10, 32)
				if err != nil || n < 0 {
					return nil, badf("partition=%s: must be the number of a partition, 0 or more", text)
				}
				spec.Partitions = append(spec.Partitions, int32(n))
			}
		case name != "key" && values[0] == "":
			return nil, badf("%s= is empty; leave it out for all there is", name)
		}
	}
	return qs.asked(text, spec, asked.Get("fields"), s.start.newest)
}

// parseForm decides the way out: by Accept, by subprotocol, and by format=.
func (s *selection) parseForm(r *http.Request, query url.Values) error {
	format := query.Get("format")
	switch format {
	case "", "plain", "envelope", "cloudevents":
	default:
		return badf("format=%s: must be plain, envelope or cloudevents", format)
	}
	lines := formNDJSON
	switch format {
	case "envelope":
		s.form = formEnvelope
	case "cloudevents":
		s.form, lines = formCloud, formCloudLines
	}
	accept := r.Header["Accept"]
	switch {
	case accepts(accept, "application/websocket-events"):
		s.via = overWebSocket
		var err error
		if s.protocol, err = chooseProtocol(r.Header["Sec-Websocket-Protocol"]); err != nil {
			return err
		}
		switch s.protocol {
		case protocolJSON:
			s.form = formJSON
		case protocolCloud:
			s.form = formCloud
		}
	case accepts(accept, "text/event-stream"):
	case accepts(accept, "application/x-ndjson"):
		s.form = lines
	case accepts(accept, typeCloudBatch[0]):
		if format != "" && format != "cloudevents" {
			return badf("format=%s: Accept names %s, which is format=cloudevents", format, typeCloudBatch[0])
		}
		s.form, s.longPoll = formCloudBatch, true
	case accepts(accept, "application/json"):
		s.form, s.longPoll = lines, true
	}
	return nil
}

// accepts reports whether a media type is named in an Accept field. Weights
// and wildcards are left aside: each type names another way out.
func accepts(fields []string, mediaType string) bool {
	for _, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), mediaType) {
				return true
			}
		}
	}
	return false
}

// chooseProtocol picks the first subprotocol that is ours: "" when none was
// offered.
func chooseProtocol(fields []string) (string, error) {
	offered := 0
	for _, field := range fields {
		for name := range strings.SplitSeq(field, ",") {
			switch name = strings.TrimSpace(name); {
			case name == "":
			case name == protocolJSON, name == protocolPlain, name == protocolCloud:
				return name, nil
			default:
				offered++
			}
		}
	}
	if offered > 0 {
		return "", badf("no known subprotocol offered; %s, %s and %s are known", protocolCloud, protocolJSON, protocolPlain)
	}
	return "", nil
}

func parseStart(h http.Header, query url.Values, sealer *cursor.Sealer, now time.Time) (start, error) {
	text, name := first(h["Last-Event-Id"]), "Last-Event-ID"
	a, b := query.Get("last_event_id"), query.Get("lastEventId")
	if a != "" && b != "" && a != b {
		return start{}, badf("last_event_id and lastEventId differ; give one")
	}
	if text == "" {
		text, name = a, "last_event_id"
	}
	if text == "" {
		text, name = b, "lastEventId"
	}
	if text != "" {
		c, err := sealer.Parse(text)
		if err != nil {
			return start{}, badf("%s: %v", name, err)
		}
		s := start{kind: startCursor, cursor: c, newest: query.Get("from") == "snapshot"}
		if c.Phase == cursor.PhaseSnapshot {
			s.kind, s.newest = startSnapshot, true
		}
		return s, nil
	}
	if since := query.Get("since"); since != "" {
		t, err := parseTime("since", since, now)
		return start{kind: startTime, time: t}, err
	}
	switch from := query.Get("from"); from {
	case "":
	case "latest":
		return start{}, nil
	case "earliest":
		return start{kind: startEarliest}, nil
	case "snapshot":
		return start{kind: startSnapshot, newest: true}, nil
	default:
		return start{}, badf("from=%s: must be snapshot, earliest or latest", from)
	}
	if last := query.Get("last"); last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			return start{}, badf("last=%s: must be a number of records, 0 or more", last)
		}
		if n > 0 {
			return start{kind: startLast, last: n}, nil
		}
	}
	return start{}, nil
}

// parseTime reads RFC 3339, epoch milliseconds, or a duration back from now.
func parseTime(name, text string, now time.Time) (time.Time, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil {
		if ms < 0 {
			return time.Time{}, badf("%s=%s: must not be negative", name, text)
		}
		return time.UnixMilli(ms), nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d < 0 {
			return time.Time{}, badf("%s=%s: must not be negative", name, text)
		}
		return now.Add(-d), nil
	}
	// A + in a query is a blank; a time zone offset that was not escaped has one.
	if t, err := time.Parse(time.RFC3339, strings.Replace(text, " ", "+", 1)); err == nil {
		return t, nil
	}
	return time.Time{}, badf("%s=%s: must be a time such as 2026-05-01T10:00:00Z, epoch milliseconds, or a duration back from now such as 15m", name, text)
}

func (s *selection) parseBounds(query url.Values, now time.Time) error {
	if s.start.newest {
		for _, name := range []string{"last", "limit", "until", "speed"} {
			if query.Get(name) != "" {
				return badf("%s= does not go with from=snapshot, which is the newest record of each key and then what changes", name)
			}
		}
		if s.longPoll {
			return badf("from=snapshot is for streams; ask for text/event-stream or application/x-ndjson, or open a WebSocket")
		}
	}
	if limit := query.Get("limit"); limit != "" {
		n, err := strconv.ParseInt(limit, 10, 64)
		if err != nil || n < 1 {
			return badf("limit=%s: must be a number of records, 1 or more", limit)
		}
		s.limit = n
	}
	if until := query.Get("until"); until != "" {
		t, err := parseTime("until", until, now)
		if err != nil {
			return err
		}
		s.until = t
	}
	if speed := query.Get("speed"); speed != "" {
		v, err := strconv.ParseFloat(speed, 64)
		switch {
		case err != nil || !(v >= minSpeed && v <= maxSpeed):
			return badf("speed=%s: must be a number from %v to %v; 1 is the spacing that the records had", speed, minSpeed, maxSpeed)
		case s.longPoll:
			return badf("speed= is for streams; a long poll has all that is there")
		case s.start.kind == startLive:
			return badf("speed= needs a start in the past, such as since=15m, last=100 or from=earliest")
		}
		s.speed = v
	}
	return s.parseSparing(query)
}

const minSpeed, maxSpeed = 0.01, 1000.0

func (s *selection) parseOptions(query url.Values) error {
	oneOf := func(name string, allowed ...string) (string, error) {
		v := query.Get(name)
		if v == "" || slices.Contains(allowed, v) {
			return v, nil
		}
		last := len(allowed) - 1
		return "", badf("%s=%s: must be %s or %s", name, v, strings.Join(allowed[:last], ", "), allowed[last])
	}
	id, err := oneOf("id", idRuleNames...)
	if err != nil {
		return err
	}
	s.ids = idRule(max(slices.Index(idRuleNames, id), 0)) // none is the first
	marks, err := oneOf("marks", "0", "1")
	if err != nil {
		return err
	}
	padding, err := oneOf("padding", "0", "1")
	if err != nil {
		return err
	}
	schema, err := oneOf("schema", "0", "1")
	if err != nil {
		return err
	}
	s.marks, s.padding = marks == "1", padding == "1"
	s.schema = schema == "1" && s.form != formPlain // which has no place for it
	onGap, err := oneOf("on_gap", "event", "fail")
	if err != nil {
		return err
	}
	s.failOnGap = onGap == "fail"

	switch from := query.Get("event_from"); {
	case from == "", from == "topic", from == "key":
		s.eventFrom = from
	case strings.HasPrefix(from, "header:") && len(from) > len("header:"):
		s.eventFrom = from
	default:
		return badf("event_from=%s: must be topic, key or header:<name>", from)
	}
	switch heartbeat := query.Get("heartbeat"); heartbeat {
	case "":
	case "comment":
		s.commentOnly = true
	default:
		d, err := time.ParseDuration(heartbeat)
		if err != nil {
			return badf("heartbeat=%s: must be comment, or a duration such as 30s", heartbeat)
		}
		s.heartbeat = min(max(d, time.Second), 10*time.Minute)
	}
	s.wait = defaultWait
	if wait := query.Get("wait"); wait != "" {
		d, err := time.ParseDuration(wait)
		if seconds, numErr := strconv.Atoi(wait); numErr == nil {
			d, err = time.Duration(seconds)*time.Second, nil
		}
		if err != nil {
			return badf("wait=%s: must be a duration such as 20s", wait)
		}
		s.wait = min(max(d, minWait), maxWait)
	}
	return nil
}
