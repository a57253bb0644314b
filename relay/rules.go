package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"spillway/grip/bytesize"
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

// parseRules reads TOPIC_RULES. The error names the pattern and what is wrong.
func parseRules(text []byte) (rules, error) {
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
		r, err := parseRule(name.(string), raw)
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

func parseRule(pattern string, raw []byte) (*rule, error) {
	r := &rule{pattern: pattern}
	r.Codec.Key = noRule.Codec.Key
	var err error
	if r.match, err = regexp.Compile("^(?:" + pattern + ")$"); err != nil {
		return nil, fmt.Errorf("not a regular expression: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		const unknown = "json: unknown field "
		if name, ok := strings.CutPrefix(err.Error(), unknown); ok {
			return nil, fmt.Errorf("unknown member %s; filter, redact, headers, formats, codec and replay are known", name)
		}
		return nil, err
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
	r.redaction, err = projection.Compile("", r.Redact)
	return r, err
}

// ruleFormats are what formats may name.
var ruleFormats = []string{"plain", "envelope"}

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
