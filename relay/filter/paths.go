package filter

import (
	"bytes"
	"errors"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// A path is what a clause looks at.
type path struct {
	root  root
	names []string // the header's name, or members of value, from the outermost
}

type root uint8

// The less, the better for an index: keys are there to tell records apart.
const (
	inKey       root = iota
	inAnyHeader      // any value of the name
	inHeader         // the value of a name that does not repeat
	inValue
)

// A tree is a set of paths into JSON values. It finds what is at all of them in
// one pass. Paths have numbers, which are used again when they are removed.
type tree struct {
	root  treeNode
	count int // of numbers in use or free
	free  []int32
}

type treeNode struct {
	members map[string]*treeNode
	leaf    int32 // the path's number, plus 1; 0: no path ends here
}

// add adds a path, unless it is there, and returns its number.
func (t *tree) add(names []string) int32 {
	n := &t.root
	for _, name := range names {
		if n.members == nil {
			n.members = map[string]*treeNode{}
		}
		next := n.members[name]
		if next == nil {
			next = &treeNode{}
			n.members[name] = next
		}
		n = next
	}
	if n.leaf > 0 {
		return n.leaf - 1
	}
	number := int32(t.count)
	if last := len(t.free) - 1; last >= 0 {
		number, t.free = t.free[last], t.free[:last]
	} else {
		t.count++
	}
	n.leaf = number + 1
	return number
}

func (t *tree) remove(names []string) {
	if leaf := t.root.remove(names); leaf > 0 {
		t.free = append(t.free, leaf-1)
	}
}

func (n *treeNode) remove(names []string) (leaf int32) {
	if len(names) == 0 {
		leaf, n.leaf = n.leaf, 0
		return leaf
	}
	next := n.members[names[0]]
	if next == nil {
		return 0
	}
	leaf = next.remove(names[1:])
	if next.leaf == 0 && len(next.members) == 0 {
		delete(n.members, names[0])
	}
	return leaf
}

// values are what a tree's paths lead to, by the paths' numbers.
type values struct {
	at    []scalar
	found []int32 // numbers of what was found, some more than once, or taken back
	text  []byte  // strings that had to be unescaped
}

// reset forgets what was found.
func (v *values) reset() {
	for _, number := range v.found {
		v.at[number] = scalar{}
	}
	v.found, v.text = v.found[:0], v.text[:0]
}

// A scanner reads JSON texts. Its memory is used again.
type scanner struct {
	buffer  bytes.Buffer
	decoder *jsontext.Decoder
}

// Names may repeat, and surrogates stand alone, as far as RFC 8259 goes; that the
// text is UTF-8 is made sure of before.
var jsonOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

func (s *scanner) open(text []byte) *jsontext.Decoder {
	s.buffer = *bytes.NewBuffer(text)
	if s.decoder == nil {
		s.decoder = jsontext.NewDecoder(&s.buffer, jsonOptions...)
	} else {
		s.decoder.Reset(&s.buffer, jsonOptions...)
	}
	return s.decoder
}

var errTrailing = errors.New("more than one JSON text")

// scan finds what the paths of t lead to in text, and adds it to v. It fails if
// text is not one JSON text; what v holds is to be forgotten then.
func (s *scanner) scan(t *tree, text []byte, v *values) error {
	d := s.open(text)
	if err := v.value(d, &t.root); err != nil {
		return err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return errTrailing
	}
	return nil
}

// value reads the next value, at which n is.
func (v *values) value(d *jsontext.Decoder, n *treeNode) error {
	if n == nil {
		return d.SkipValue()
	}
	if d.PeekKind() != '{' || len(n.members) == 0 {
		return v.leaf(d, n)
	}
	if n.leaf > 0 {
		v.set(n.leaf-1, scalar{kind: isOther})
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadValue()
		if err != nil {
			return err
		}
		next := n.members[string(v.unquoted(name))]
		if next != nil {
			v.forget(next) // what a member of the same name had
		}
		if err := v.value(d, next); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

func (v *values) leaf(d *jsontext.Decoder, n *treeNode) error {
	if n.leaf == 0 {
		return d.SkipValue()
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	s := scalar{kind: isOther}
	switch raw.Kind() {
	case 'n':
		s.kind = isNull
	case 't':
		s = scalar{kind: isBool, bits: 1}
	case 'f':
		s.kind = isBool
	case '"':
		s = scalar{kind: isString, text: v.unquoted(raw)}
	case '0':
		s = numberOf(raw)
	}
	v.set(n.leaf-1, s)
	return nil
}

// unquoted is a JSON string's text. It stays in raw if nothing is escaped.
func (v *values) unquoted(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	from := len(v.text)
	v.text, _ = jsontext.AppendUnquote(v.text, raw)
	return v.text[from:]
}

func (v *values) set(number int32, s scalar) {
	v.at[number] = s
	v.found = append(v.found, number)
}

// forget takes back what was found at n and below.
func (v *values) forget(n *treeNode) {
	if n.leaf > 0 {
		v.at[n.leaf-1] = scalar{}
	}
	for _, next := range n.members {
		v.forget(next)
	}
}
