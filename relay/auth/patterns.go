package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Patterns say which topics may be read: regular expressions, each of which must
// match a whole name, as in TOPICS. The zero Patterns match nothing. They can be
// written as JSON and read again, and must not be changed.
type Patterns struct {
	lists []*patternList // a name must match one of each
}

// A patternList matches what one of its patterns matches.
type patternList struct {
	texts []string // as they were given
	all   bool     // one of them matches everything
	names map[string]struct{}
	rest  []*regexp.Regexp // of those that are no plain names
	cost  int              // of these
}

const (
	everything = ".*"

	// maxPatterns bounds what one token or answer may list.
	maxPatterns = 1000
	// maxPatternCost bounds what its patterns take in all, in steps of compiled
	// expressions (40 bytes each): a{1000} is short and large.
	maxPatternCost = 50_000
)

// Everything matches every name.
func Everything() Patterns {
	return Patterns{[]*patternList{{texts: []string{everything}, all: true}}}
}

// newPatterns makes Patterns of texts. Those that are no regular expressions
// match nothing, and are counted in broken. The error says that they are too many.
func newPatterns(texts []string) (p Patterns, broken int, err error) {
	if len(texts) > maxPatterns {
		return Patterns{}, 0, fmt.Errorf("%d patterns of topics; at most %d are allowed", len(texts), maxPatterns)
	}
	l := &patternList{texts: texts, names: make(map[string]struct{})}
	for _, text := range texts {
		switch {
		case text == everything:
			l.all = true
			continue
		case regexp.QuoteMeta(text) == text && utf8.ValidString(text):
			l.names[text] = struct{}{}
			continue
		}
		one, size, err := compilePattern(text)
		if err != nil {
			broken++
			continue
		}
		if l.cost += size; l.cost > maxPatternCost {
			return Patterns{}, 0, errors.New("the patterns of topics are too large, as expressions with large repetitions are")
		}
		l.rest = append(l.rest, one)
	}
	return Patterns{[]*patternList{l}}, broken, nil
}

func compilePattern(text string) (*regexp.Regexp, int, error) {
	// By itself, so that no parenthesis in it can be one of ours.
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, 0, err
	}
	if len(program.Inst) > maxPatternCost {
		return nil, len(program.Inst), nil // the caller refuses it
	}
	one, err := regexp.Compile("^(?:" + text + ")$")
	return one, len(program.Inst), err
}

// Match reports whether a topic of this name may be read.
func (p Patterns) Match(topic string) bool {
	for _, l := range p.lists {
		if !l.match(topic) {
			return false
		}
	}
	return len(p.lists) > 0
}

func (l *patternList) match(topic string) bool {
	if _, ok := l.names[topic]; ok || l.all {
		return true
	}
	for _, re := range l.rest {
		if re.MatchString(topic) {
			return true
		}
	}
	return false
}

// and returns Patterns that match what both match.
func (p Patterns) and(q Patterns) Patterns {
	if len(p.lists) == 0 || len(q.lists) == 0 {
		return Patterns{}
	}
	var both Patterns
	for _, l := range [][]*patternList{p.lists, q.lists} {
		for _, l := range l {
			if !l.all {
				both.lists = append(both.lists, l)
			}
		}
	}
	if len(both.lists) == 0 {
		return Everything()
	}
	return both
}

// String returns the patterns as JSON.
func (p Patterns) String() string {
	text, err := p.MarshalJSON()
	if err != nil {
		panic("auth: marshal patterns: " + err.Error()) // texts only
	}
	return string(text)
}

// MarshalJSON implements json.Marshaler: a list of lists of patterns.
func (p Patterns) MarshalJSON() ([]byte, error) {
	lists := make([][]string, len(p.lists))
	for i, l := range p.lists {
		if lists[i] = l.texts; l.texts == nil {
			lists[i] = []string{}
		}
	}
	return json.Marshal(lists)
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *Patterns) UnmarshalJSON(text []byte) error {
	var lists [][]string
	if err := json.Unmarshal(text, &lists); err != nil {
		return err
	}
	*p = Patterns{}
	for _, texts := range lists {
		one, _, err := newPatterns(texts)
		if err != nil {
			return err
		}
		p.lists = append(p.lists, one.lists...)
	}
	return nil
}

// splitPatterns takes a list in a header field apart: at blanks, and at commas,
// which fields are joined with on their way.
func splitPatterns(fields []string) []string {
	return strings.FieldsFunc(strings.Join(fields, " "), func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
}
