package properties

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A value is what a property has come to.
type value struct {
	prop  *property
	as    string   // the name it was given under; empty for a default
	shown string   // as given, for people
	text  string   // canonical: words in our spelling, numbers in digits
	num   int64    // of number and millis
	on    bool     // of flag
	items []string // of list and patterns, trimmed, none of them empty

	effective string // when it is not text
	status    Status
}

// known finds a property by any of its names; names lists them all, sorted.
var known, names = index()

func index() (map[string]*property, []string) {
	all := map[string]*property{}
	for _, section := range table {
		for i := range section {
			prop := &section[i]
			all[prop.name] = prop
			for _, a := range slices.Concat(prop.aliases, prop.old) {
				all[a] = prop
			}
		}
	}
	return all, slices.Sorted(maps.Keys(all))
}

// parse reads what was given. Its errors start with the name as written and
// never show a secret.
func (prop *property) parse(g given) (*value, error) {
	bad := func(format string, args ...any) error {
		want := fmt.Sprintf(format, args...)
		if prop.secret || prop.pem {
			return fmt.Errorf("%s: %s", g.name, want)
		}
		return fmt.Errorf("%s=%s: %s", g.name, cut(strings.Join(g.parts, ",")), want)
	}
	if g.array && prop.kind != list && prop.kind != patterns {
		return nil, bad("an array; must be one value")
	}
	v := &value{prop: prop, as: g.name, status: prop.status}
	v.text = strings.Join(g.parts, ",")
	v.shown = v.text
	switch prop.kind {
	case text:
		if prop.max > 0 && int64(len(v.text)) > prop.max {
			return nil, bad("%d bytes; must be at most %d", len(v.text), prop.max)
		}
		if strings.ContainsRune(v.text, 0) {
			return nil, bad("holds a zero byte; must be text")
		}
	case list:
		v.items = nonBlank(strings.Split(v.text, ","))
		v.text = strings.Join(v.items, ",")
	case patterns:
		v.items = patternItems(g)
		v.text = strings.Join(v.items, ",")
	case number, millis:
		n, ok := whole(v.text)
		unit := ""
		if prop.kind == millis {
			unit = " milliseconds"
		}
		if !ok {
			return nil, bad("must be a whole number from %d to %d%s", prop.min, prop.max, unit)
		}
		if n < prop.min || n > prop.max {
			return nil, bad("must be from %d to %d%s", prop.min, prop.max, unit)
		}
		v.num, v.text = n, strconv.FormatInt(n, 10)
	case flag:
		switch strings.ToLower(strings.TrimSpace(v.text)) {
		case "true", "t", "1":
			v.on, v.text = true, "true"
		case "false", "f", "0":
			v.text = "false"
		default:
			return nil, bad("must be true or false")
		}
	case word:
		w, ok := canonical(v.text, prop.words)
		if !ok {
			return nil, bad("must be %s", oneOf(prop.words))
		}
		v.text = w
	}
	return v, nil
}

// canonical finds a word, in any case, by any of its spellings.
func canonical(s string, words [][]string) (string, bool) {
	s = strings.TrimSpace(s)
	for _, spellings := range words {
		for _, w := range spellings {
			if strings.EqualFold(w, s) {
				return spellings[0], true
			}
		}
	}
	return "", false
}

// oneOf lists words for a message: a, b or c.
func oneOf(words [][]string) string {
	var all []string
	for _, spellings := range words {
		all = append(all, spellings[0])
	}
	if len(all) == 1 {
		return all[0]
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// patternItems splits at commas, except those written \, as librdkafka does.
// An item of a JSON array is one pattern, commas and all.
func patternItems(g given) []string {
	if g.array {
		return nonBlank(g.parts)
	}
	var (
		out  []string
		item strings.Builder
		s    = g.parts[0]
	)
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\,`):
			item.WriteByte(',')
			i++
		case s[i] == ',':
			out = append(out, item.String())
			item.Reset()
		default:
			item.WriteByte(s[i])
		}
	}
	return nonBlank(append(out, item.String()))
}

// nonBlank trims items and drops those that are empty then.
func nonBlank(parts []string) []string {
	var out []string
	for _, item := range parts {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// whole reads a whole number, also when JSON wrote it as 5e3 or 5000.0.
func whole(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(s, 64)
	const exact = 1 << 53 // float64 holds every whole number up to here
	if err != nil || f != math.Trunc(f) || math.Abs(f) > exact {
		return 0, false
	}
	return int64(f), true
}

// A parser collects values and everything there is to say about them.
type parser struct {
	values    map[string]*value // by canonical name; only what was given
	producing map[string]bool   // names that only producers use
	unsound   map[string]bool   // names whose value was wrong and reported
	errs      []error
	warnings  []string
}

func (p *parser) problem(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *parser) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// get returns a property's value, its default when it was not given.
func (p *parser) get(name string) *value {
	if v := p.values[name]; v != nil {
		return v
	}
	prop := known[name]
	if prop == nil || prop.name != name {
		panic("properties: no property is called " + name)
	}
	v := &value{prop: prop, status: prop.status}
	if prop.def != "" {
		def, err := prop.parse(given{name: name, parts: []string{prop.def}})
		if err != nil {
			panic("properties: default of " + err.Error())
		}
		v = def
		v.as = ""
	}
	return v
}

func (p *parser) text(name string) string    { return p.get(name).text }
func (p *parser) items(name string) []string { return p.get(name).items }
func (p *parser) num(name string) int64      { return p.get(name).num }
func (p *parser) on(name string) bool        { return p.get(name).on }
func (p *parser) millis(name string) time.Duration {
	return time.Duration(p.num(name)) * time.Millisecond
}

// has reports whether a property was given and holds something.
func (p *parser) has(name string) bool {
	v := p.values[name]
	return v != nil && v.text != ""
}

// sound reports that none of the properties was found wrong, so that what is
// said about them together is not a mere consequence.
func (p *parser) sound(names ...string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return p.unsound[n] })
}

// clamp returns a number, moved into the narrower range that the client
// library allows. Moving what was given is worth a warning.
func (p *parser) clamp(name string, low, high int64) int64 {
	v := p.get(name)
	n := min(max(v.num, low), high)
	if n != v.num && v.as != "" {
		p.warn("%s=%d: %d is used, since the range here is %d to %d", name, v.num, n, low, high)
		p.becomes(name, strconv.FormatInt(n, 10))
	}
	return n
}

func (p *parser) clampMillis(name string, low, high time.Duration) time.Duration {
	return time.Duration(p.clamp(name, low.Milliseconds(), high.Milliseconds())) * time.Millisecond
}

// says shows another spelling of the same value.
func (p *parser) says(name, effective string) {
	if v := p.values[name]; v != nil {
		v.effective = effective
	}
}

// becomes records that a property takes effect as something else than given.
func (p *parser) becomes(name, effective string) {
	if v := p.values[name]; v != nil {
		v.effective = effective
		if v.status == Supported {
			v.status = Approximated
		}
	}
}
