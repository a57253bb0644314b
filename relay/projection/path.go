package projection

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"spillway/grip/jsonstring"
)

// These bound what a request and a rule may say.
const (
	// MaxText is how many bytes fields= may have.
	MaxText = 2048
	// MaxPaths is how many paths a projection may have of each kind.
	MaxPaths = 100
	// MaxDepth is how many names a path may have.
	MaxDepth = 16
)

// reserved are the characters that only a name in quotes may have, beside
// blanks and what cannot be seen.
const reserved = `.,"|*[](){}'\`

// Compile makes a projection. Fields is the text of fields=, paths into the
// value with commas between them; "" leaves all of it. Redact is what a rule
// hides, a path in each, which begins with value: value.card.
//
// The projection is nil where everything is left. The error begins with which
// of the two it is about.
func Compile(fields string, redact []string) (*Projection, error) {
	var keep, drop [][]string
	if len(fields) > MaxText {
		return nil, fmt.Errorf("fields: %d bytes are too many; at most %d", len(fields), MaxText)
	}
	if fields != "" {
		var err error
		if keep, err = parse(fields); err != nil {
			return nil, fmt.Errorf("fields: %w", err)
		}
	}
	if len(redact) > MaxPaths {
		return nil, fmt.Errorf("redact: %d paths are too many; at most %d", len(redact), MaxPaths)
	}
	for _, text := range redact {
		paths, err := parse(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("redact: %w", err)
		case len(paths) > 1:
			return nil, fmt.Errorf("redact: %q is %d paths; write each as a string of its own", text, len(paths))
		case paths[0][0] != "value":
			return nil, fmt.Errorf("redact: %q does not begin with value; only what is in the value can be hidden, as in value.card", text)
		case len(paths[0]) == 1:
			return nil, fmt.Errorf("redact: %q would leave nothing; name a member, as in value.card", text)
		}
		drop = append(drop, paths[0][1:])
	}
	return build(keep, drop), nil
}

// Parse makes the projection that has this Key.
func Parse(key string) (*Projection, error) {
	var keep, drop [][]string
	var err error
	fields, hidden, redacts := cutBar(key)
	if fields != "" {
		if keep, err = parse(fields); err != nil {
			return nil, fmt.Errorf("fields: %w", err)
		}
	}
	if redacts {
		if drop, err = parse(hidden); err != nil {
			return nil, fmt.Errorf("hidden: %w", err)
		}
	}
	return build(keep, drop), nil
}

func build(keep, drop [][]string) *Projection {
	if len(keep)+len(drop) == 0 {
		return nil
	}
	p := &Projection{keep: everything}
	var key []byte
	if len(keep) > 0 {
		p.keep = tree(keep)
		key = p.keep.appendPaths(key, nil)
	}
	if len(drop) > 0 {
		p.drop = tree(drop)
		key = p.drop.appendPaths(append(key, '|'), nil)
	}
	p.key = string(key)
	return p
}

// tree returns a node that all paths begin under.
func tree(paths [][]string) *node {
	root := new(node)
	for _, path := range paths {
		root.add(path)
	}
	return root
}

// add makes a path end at a node under n.
func (n *node) add(path []string) {
	for _, name := range path {
		if n.whole {
			return // more than the path says
		}
		i, found := n.at([]byte(name))
		if !found {
			n.below = slices.Insert(n.below, i, &node{name: name})
		}
		n = n.below[i]
	}
	n.whole, n.below = true, nil
}

// appendPaths appends the paths under n, with commas between them and before
// each of them what leads to n.
func (n *node) appendPaths(dst, before []byte) []byte {
	for i, b := range n.below {
		if i > 0 {
			dst = append(dst, ',')
		}
		path := appendName(before, b.name)
		if b.whole {
			dst = append(dst, path...)
		} else {
			dst = b.appendPaths(dst, append(path, '.'))
		}
	}
	return dst
}

func appendName(dst []byte, name string) []byte {
	if name != "" && strings.IndexFunc(name, isReserved) < 0 {
		return append(dst, name...)
	}
	return jsonstring.Append(dst, name)
}

// isReserved reports whether only a name in quotes may have the character.
func isReserved(r rune) bool {
	return r == utf8.RuneError || strings.ContainsRune(reserved, r) || !unicode.IsPrint(r) || unicode.IsSpace(r)
}

// parse reads paths with commas between them.
//
//	paths = path *( "," path )       blanks around a path are left out
//	path  = name *( "." name )
//	name  = 1*( any character that is not reserved ) / a JSON string
func parse(text string) ([][]string, error) {
	var paths [][]string
	for at := 0; ; at++ {
		at = skipBlanks(text, at)
		var path []string
		for ; ; at++ {
			name, end, err := parseName(text, at)
			if err != nil {
				return nil, fmt.Errorf("%q at %d: %w", text, at, err)
			}
			if path = append(path, name); len(path) > MaxDepth {
				return nil, fmt.Errorf("%q at %d: more than %d names in a path", text, at, MaxDepth)
			}
			if at = end; at == len(text) || text[at] != '.' {
				break
			}
		}
		if paths = append(paths, path); len(paths) > MaxPaths {
			return nil, fmt.Errorf("%q at %d: more than %d paths", text, at, MaxPaths)
		}
		at = skipBlanks(text, at)
		switch {
		case at == len(text):
			return paths, nil
		case text[at] == '[', text[at] == '*':
			return nil, fmt.Errorf("%q at %d: a path goes on in all elements of an array by itself; write items.price", text, at)
		case text[at] != ',':
			return nil, fmt.Errorf("%q at %d: want a comma, a dot or the end; a name with other characters stands in quotes, as in \"a b\".c", text, at)
		}
	}
}

// parseName reads the name that begins at a place in text, and says where it ends.
func parseName(text string, at int) (name string, end int, err error) {
	if at < len(text) && text[at] == '"' {
		for end = at + 1; end < len(text) && text[end] != '"'; end++ {
			if text[end] == '\\' {
				end++
			}
		}
		if end >= len(text) {
			return "", at, errors.New("the quotes are not closed")
		}
		end++
		unquoted, err := jsontext.AppendUnquote(nil, text[at:end])
		if err != nil {
			return "", at, errors.New("not a JSON string")
		}
		return string(unquoted), end, nil
	}
	end = len(text)
	if n := strings.IndexFunc(text[at:], isReserved); n >= 0 {
		end = at + n
	}
	switch {
	case end > at:
		return text[at:end], end, nil
	case end < len(text) && (text[end] == '[' || text[end] == '*'):
		return "", at, errors.New("a path goes on in all elements of an array by itself; write items.price")
	case end < len(text) && text[end] != '.' && text[end] != ',':
		return "", at, errors.New(`a name with such a character stands in quotes, as in "a b".c`)
	}
	return "", at, errors.New("a name is missing; want paths such as id,customer.name")
}

func skipBlanks(text string, at int) int {
	for at < len(text) && text[at] == ' ' {
		at++
	}
	return at
}

// cutBar cuts a key at the bar that no quotes are around.
func cutBar(key string) (fields, hidden string, found bool) {
	quoted := false
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '|' && !quoted:
			return key[:i], key[i+1:], true
		}
	}
	return key, "", false
}
