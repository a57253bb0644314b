package properties

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A given is one property as a source wrote it, before anything is known
// about its type.
type given struct {
	name  string // as written
	parts []string
	array bool  // parts came from a JSON array; otherwise there is one
	unset bool  // null
	err   error // the value is none that any property can have
}

// A source is one JSON object of properties.
type source struct {
	variable string // environment variable to name in messages
	json     []byte
}

// entries reads the object, with the content of default.topic.config beside
// the rest: what could be read, and everything that could not.
func (s source) entries() ([]given, []error) {
	all, errs := s.object(s.json, nil)
	top := map[string]bool{}
	for _, g := range all {
		top[g.name] = true
	}
	var out []given
	for _, g := range all {
		if !slices.Contains(topicConfig, g.name) {
			out = append(out, g)
			continue
		}
		if g.err != nil {
			errs = append(errs, g.err)
		}
		if g.unset || g.err != nil {
			continue
		}
		inner, innerErrs := s.object([]byte(g.parts[0]), []string{g.name})
		errs = append(errs, innerErrs...)
		for _, in := range inner {
			if !top[in.name] || in.err != nil { // what stands at the top wins, as old clients had it
				top[in.name] = true
				out = append(out, in)
			}
		}
	}
	return out, errs
}

// object reads the members of one JSON object in their order. path is where
// it stands, nil for the outermost one.
func (s source) object(data []byte, path []string) ([]given, []error) {
	const example = `write {"bootstrap.servers":"localhost:9092"}`
	at := strings.Join(append([]string{s.variable}, path...), ": ")
	if !json.Valid(data) {
		// Unmarshal's message quotes one character at most, so that no secret
		// gets into a log by way of a missing comma.
		return nil, []error{fmt.Errorf("%s: not JSON: %w; %s", at, json.Unmarshal(data, new(any)), example)}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, []error{fmt.Errorf("%s: not a JSON object; %s", at, example)}
	}
	var (
		out  []given
		errs []error
		seen = map[string]bool{}
	)
	for dec.More() {
		name, value, err := nextMember(dec)
		if err != nil { // json.Valid has seen these bytes
			return nil, []error{fmt.Errorf("%s: %w; %s", at, err, example)}
		}
		if seen[name] {
			errs = append(errs, fmt.Errorf("%s: given twice; keep one", cut(name)))
			continue
		}
		seen[name] = true
		out = append(out, scalar(name, value, path == nil && slices.Contains(topicConfig, name)))
	}
	return out, errs
}

// nextMember reads one name and its value; dec stands inside an object.
func nextMember(dec *json.Decoder) (name string, value json.RawMessage, err error) {
	t, err := dec.Token()
	if err != nil {
		return "", nil, err
	}
	if err := dec.Decode(&value); err != nil {
		return "", nil, err
	}
	return fmt.Sprint(t), value, nil
}

// scalar takes a property's value apart: a string, number or boolean is one
// part, an array of those is several, and null is none. Numbers keep the
// digits they were written with. An object is one part too, where nested wants
// one.
func scalar(name string, value json.RawMessage, nested bool) given {
	g := given{name: name}
	switch first := value[0]; {
	case first == 'n':
		g.unset = true
	case nested && first != '{':
		g.err = fmt.Errorf("%s: not an object; write {\"auto.offset.reset\":\"earliest\"}", name)
	case nested:
		g.parts = []string{string(value)}
	case first == '{':
		g.err = fmt.Errorf("%s: an object; only default.topic.config may be one, write a string, number or boolean", cut(name))
	case first == '[':
		g.array = true
		var items []json.RawMessage
		if err := json.Unmarshal(value, &items); err != nil { // json.Valid has seen these bytes
			g.err = fmt.Errorf("%s: %w; write a string", cut(name), err)
		}
		for _, item := range items {
			if strings.ContainsRune("n[{", rune(item[0])) {
				g.err = fmt.Errorf("%s: an array that holds more than strings, numbers and booleans; write [\"a\",\"b\"] or \"a,b\"", cut(name))
			}
			g.parts = append(g.parts, unquoted(item))
		}
	default:
		g.parts = []string{unquoted(value)}
	}
	return g
}

// unquoted is the text of a JSON string, or the literal itself.
func unquoted(value json.RawMessage) string {
	var s string
	if value[0] == '"' && json.Unmarshal(value, &s) == nil {
		return s
	}
	return string(value)
}

// read turns the sources into typed values; a later source wins, property by
// property, and a null in it takes the earlier one's value away.
func (p *parser) read(sources []source) {
	for _, s := range sources {
		entries, errs := s.entries()
		p.errs = append(p.errs, errs...)
		found := map[string]*value{}
		for _, g := range entries {
			p.entry(g, found)
		}
		for name, v := range found {
			if v == nil {
				delete(p.values, name)
			} else {
				p.values[name] = v
			}
		}
	}
	if len(p.producing) > 0 {
		p.warn("%s: ignored, since only producers use it", strings.Join(slices.Sorted(maps.Keys(p.producing)), ", "))
	}
}

// entry reads one property of a source into found, under its canonical name.
// A nil there means null.
func (p *parser) entry(g given, found map[string]*value) {
	prop := known[g.name]
	switch {
	case g.err != nil:
		p.errs = append(p.errs, g.err)
		if prop != nil {
			p.unsound[prop.name] = true
		}
		return
	case prop != nil:
	case slices.Contains(fromCode, g.name) || strings.HasSuffix(g.name, "_cb"):
		if !g.unset {
			p.problem("%s: a function or pointer, which JSON cannot hold; remove it", cut(g.name))
		}
		return
	case strings.HasPrefix(g.name, "share."):
		if !g.unset {
			p.problem("%s: share groups give each record to one member, which is the opposite of fan-out; remove it and use group.id", cut(g.name))
		}
		return
	case slices.Contains(producerOnly, g.name):
		if !g.unset {
			p.producing[g.name] = true
		}
		return
	default:
		// The value is not shown: it may be a password under a misspelt name.
		p.problem("%s: unknown property; did you mean %s", cut(g.name), nearest(g.name, names))
		return
	}
	if g.unset {
		if found[prop.name] == nil {
			found[prop.name] = nil
		}
		return
	}
	v, err := prop.parse(g)
	if err != nil {
		p.errs = append(p.errs, err)
		p.unsound[prop.name] = true
		return
	}
	if slices.Contains(prop.old, g.name) {
		p.warn("%s: an old name; write %s", g.name, prop.name)
	}
	other := found[prop.name]
	if other != nil && other.text != v.text {
		p.problem("%s and %s: two names of one property with different values; keep %s", other.as, v.as, prop.name)
		p.unsound[prop.name] = true
		return
	}
	found[prop.name] = v
}
