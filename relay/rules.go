package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"spillway/grip/bytesize"
	"spillway/relay/filter"
	"spillway/relay/projection"
	"spillway/relay/registry"
)

// A rule is what TOPIC_RULES says of the topics that one pattern matches
// (event-semantics.md 10).
type rule struct {
	pattern string
	match   *regexp.Regexp

	Filter string    `json:"filter"`  // an expression that a record must pass, whoever asks
	Redact []string  `json:"redact"`  // paths into the value that nobody sees
	Header *[]string `json:"headers"` // that may be seen; nil: all
	Format []string  `json:"formats"` // that may be asked for; nil: all
	Codec  struct {
		Key   registry.Codec `json:"key"`
		Value registry.Codec `json:"value"`
	} `json:"codec"`
	Replay struct {
		Records int64          `json:"records"` // 0: as REPLAY_MAX_RECORDS
		Bytes   bytesize.Bytes `json:"bytes"`
		Age     ruleDuration   `json:"age"`
	} `json:"replay"`

	row       *filter.Rule           // of Filter; nil: every record
	redaction *projection.Projection // of Redact; nil: nothing
}

// A ruleDuration is a time.Duration in JSON, such as "24h".
type ruleDuration time.Duration

func (d *ruleDuration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration such as 24h", text)
	}
	*d = ruleDuration(v)
	return nil
}

// rules are those of TOPIC_RULES, in the order of its text.
type rules []*rule

// parseRules reads TOPIC_RULES. Filters may use claims where clients have some.
// The error names the pattern and what is wrong.
func parseRules(text []byte, c *filter.Compiler, claims bool) (rules, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New(`must be one JSON object of rules by pattern, such as {"orders.*": {"redact": ["value.card"]}}`)
	}
	var rs rules
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		r, err := parseRule(name.(string), raw, c, claims)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		if slices.ContainsFunc(rs, func(other *rule) bool { return other.pattern == r.pattern }) {
			return nil, fmt.Errorf("%q is there twice, and only the first would count", name)
		}
		rs = append(rs, r)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return rs, nil
}

func parseRule(pattern string, raw []byte, c *filter.Compiler, claims bool) (*rule, error) {
	r := &rule{pattern: pattern}
	r.Codec.Key = noRule.Codec.Key
	var err error
	if r.match, err = regexp.Compile("^(?:" + pattern + ")$"); err != nil {
		return nil, fmt.Errorf("not a regular expression: %w", err)
	}
	if raw[0] != '{' {
		return nil, fmt.Errorf("%s is not a rule; write an object with some of %s", raw, ruleMembers)
	}
	// A member that is there twice would count only once.
	if _, err := jsontext.NewDecoder(bytes.NewReader(raw)).ReadValue(); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, explainRule(err)
	}
	for _, f := range r.Format {
		if !slices.Contains(ruleFormats, f) {
			return nil, fmt.Errorf("formats: %q is none; must be %s", f, strings.Join(ruleFormats, " or "))
		}
	}
	if r.Format != nil && len(r.Format) == 0 {
		return nil, errors.New("formats: [] allows none; TOPICS_EXCLUDE hides a topic")
	}
	if r.Replay.Records < 0 {
		return nil, fmt.Errorf("replay.records: %d must not be negative", r.Replay.Records)
	}
	if r.redaction, err = projection.Compile("", r.Redact); err != nil {
		return nil, err
	}
	if r.Filter != "" {
		if r.row, err = c.CompileRule(r.Filter); err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
		if err = r.checkRow(claims); err == nil {
			_, err = c.Compile(filter.Spec{Rule: r.row})
		}
		if err != nil {
			return nil, fmt.Errorf("filter: %w", err)
		}
	}
	return r, nil
}

const ruleMembers = "filter, redact, headers, formats, codec and replay"

// explainRule puts what encoding/json says of a rule into our words.
func explainRule(err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("unknown member %s; %s are known", name, ruleMembers)
	}
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return err
	}
	want := "a text"
	switch kind := wrong.Type.Kind(); {
	case wrong.Type == reflect.TypeFor[bytesize.Bytes]():
		want = `a text such as "64MiB"`
	case wrong.Type == reflect.TypeFor[ruleDuration]():
		want = `a text such as "24h"`
	case kind == reflect.Slice:
		want = "an array of texts"
	case kind == reflect.Struct:
		want = "an object"
	case kind == reflect.Int64:
		want = "a whole number"
	}
	return fmt.Errorf("%s: must be %s, not a JSON %s", wrong.Field, want, wrong.Value)
}

// checkRow refuses a filter that could not do what it says: claims need someone
// who has some, and what the rule hides is gone before the filter looks.
func (r *rule) checkRow(claims bool) error {
	if len(r.row.Reads("claims")) > 0 && !claims {
		return errors.New("uses claims, and nobody has any; set AUTH_URL, JWT_ISSUER, JWT_JWKS_URL or JWT_KEY to say who clients are")
	}
	for _, path := range r.row.Reads("value") {
		if r.redaction.Hides(path) {
			return fmt.Errorf("%s is hidden by redact, before the filter looks at it", strings.Join(append([]string{"value"}, path...), "."))
		}
	}
	for _, path := range r.row.Reads("headers") {
		if r.Header != nil && (len(path) == 0 || !slices.Contains(*r.Header, path[0])) {
			return fmt.Errorf("%s is hidden by headers, before the filter looks at it; use only headers that are listed, by name", strings.Join(append([]string{"headers"}, path...), "."))
		}
	}
	return nil
}

// ruleFormats are what formats may name.
var ruleFormats = []string{"plain", "envelope", "cloudevents"}

// of returns the rule of a topic: the first whose pattern matches the whole
// name. There may be none.
func (rs rules) of(topic string) *rule {
	for _, r := range rs {
		if r.match.MatchString(topic) {
			return r
		}
	}
	return nil
}

// shows reports whether the topic may be asked for in a format.
func (r *rule) shows(format string) bool { return r.Format == nil || slices.Contains(r.Format, format) }

// showsKeys reports whether anyone sees keys, and headers that are not listed:
// format=plain has none of them.
func (r *rule) showsKeys() bool { return r.shows("envelope") || r.shows("cloudevents") }

// publishes reports whether relay may publish records under the rule: there,
// nobody looks at them again.
func (r *rule) publishes() bool { return r.row == nil && r.redaction == nil && r.shows("plain") }

// A forbiddenError says that what was asked for is not shown to anyone: 403.
type forbiddenError struct{ detail string }

func (e *forbiddenError) Error() string { return e.detail }

// allows refuses selections that show what the topics' rules do not.
func (d *decoder) allows(s *selection) error {
	for _, topic := range s.topics {
		r := d.ruleOf(topic)
		if f := s.form.format(); !r.shows(f) {
			return &forbiddenError{fmt.Sprintf("topic %s is not shown as %s; allowed: format=%s", topic, f, strings.Join(r.Format, ", format="))}
		}
		header, isHeader := strings.CutPrefix(s.eventFrom, "header:")
		if hidden := isHeader && (r.Header == nil || !slices.Contains(*r.Header, header)); (hidden || s.eventFrom == "key") && !r.showsKeys() {
			return &forbiddenError{fmt.Sprintf("event_from=%s: topic %s is shown without keys and headers; allowed: format=%s", s.eventFrom, topic, strings.Join(r.Format, ", format="))}
		}
	}
	return nil
}

// rowsOf is the filter that records of topics must pass, whoever asks; nil: all do.
func (d *decoder) rowsOf(topics []string) *filter.Rule {
	if d == nil || d.rules == nil {
		return nil
	}
	rows := make([]*filter.Rule, len(topics))
	for i, topic := range topics {
		rows[i] = d.ruleOf(topic).row
	}
	return filter.ForTopics(topics, rows)
}

// warn says at start what operators may not expect of rules.
func (rs rules) warn(log *slog.Logger) {
	for _, r := range rs {
		if r.row != nil {
			log.Warn("without CURSOR_KEY the ids of events show how many records a topic has, with those that a rule's filter hides", "rule", r.pattern)
		}
	}
}

// warnUnpublished says at start which topics relay leaves out.
func (rs rules) warnUnpublished(log *slog.Logger) {
	for _, r := range rs {
		if !r.publishes() {
			log.Warn("topics of this rule are not published: a proxy could not keep to its filter, redact or formats", "rule", r.pattern)
		}
	}
}
