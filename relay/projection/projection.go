// Package projection leaves out parts of JSON values before they are encoded:
// what a client did not ask for (fields=), and what a topic's rule hides
// (redact). It works on the text: what is kept stays as it was written, digit
// by digit, in the order in which it was written.
//
//	fields=id,customer.name   {"id":7,"customer":{"name":"Ann","card":"…"},"x":1}  →  {"id":7,"customer":{"name":"Ann"}}
//	redact value.customer.card                                                     →  {"id":7,"customer":{"name":"Ann"},"x":1}
//
// A path names members, from the outside in. What is in the way:
//
//   - An array: the path goes on in each of its elements, at the top too, so
//     that items.price is the price of every item.
//   - A member that is missing, or one with a path that goes on where there is
//     neither object nor array: left out. An element of that kind is null, so
//     that the others keep their places; so is the value itself.
//   - Members of the same name in one object: the last counts, as for most who
//     read JSON. A part that is kept as a whole is not looked into.
//   - Names are compared as they read, whatever is escaped in them.
//
// A name with a dot, a comma, a blank or a bracket in it is written as a JSON
// string: "a.b".c is member c of member a.b.
//
// Begin at Compile and Projection.Append.
package projection

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sort"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// ErrNotJSON says that a value is not JSON, or not UTF-8, while something in it
// is to be hidden: nobody may see it, since nobody knows what it holds.
var ErrNotJSON = errors.New("value is not JSON, and this topic hides parts of its values")

// A Projection says what is left of a value. The nil one leaves everything. It
// may be used by any goroutine.
type Projection struct {
	keep *node // whole: everything
	drop *node // nil: nothing
	key  string
}

// everything is what is kept where no fields are named.
var everything = &node{whole: true}

// A node is a member that paths lead to or through.
type node struct {
	name  string
	whole bool    // a path ends here; then there are no members
	below []*node // its members, in the order of their names
}

// at is where among the members one of this name is, or would be.
func (n *node) at(name []byte) (i int, found bool) {
	i = sort.Search(len(n.below), func(i int) bool { return n.below[i].name >= string(name) })
	return i, i < len(n.below) && n.below[i].name == string(name)
}

func (n *node) member(name []byte) *node {
	if n == nil {
		return nil
	}
	if i, found := n.at(name); found {
		return n.below[i]
	}
	return nil
}

// Key is the text that all projections have that leave the same, whatever the
// order and the repeats of their paths were. Parse reads it.
func (p *Projection) Key() string {
	if p == nil {
		return ""
	}
	return p.key
}

// Hides reports whether something of what is at path is hidden.
func (p *Projection) Hides(path []string) bool {
	if !p.Redacts() {
		return false
	}
	n := p.drop
	for _, name := range path {
		if n.whole {
			return true
		}
		i, found := n.at([]byte(name))
		if !found {
			return false
		}
		n = n.below[i]
	}
	return true
}

// Redacts reports whether something is hidden, so that a value which is not
// JSON must not be seen: see Append.
func (p *Projection) Redacts() bool { return p != nil && p.drop != nil }

// Append appends what is left of value, which is not null, to dst.
//
// Of a value that is not JSON, or not UTF-8, fields alone leave null; where
// something is hidden it is ErrNotJSON, and dst is as it was. An empty value
// hides nothing.
func (p *Projection) Append(dst, value []byte) ([]byte, error) {
	if p == nil {
		return append(dst, value...), nil
	}
	left, err := p.append(dst, value)
	switch {
	case err == nil:
		return left, nil
	case p.drop == nil:
		return append(dst, "null"...), nil
	case len(value) == 0:
		return dst, nil
	}
	return dst, ErrNotJSON
}

func (p *Projection) append(dst, value []byte) ([]byte, error) {
	if !utf8.Valid(value) {
		return nil, ErrNotJSON
	}
	s := scan(value)
	defer s.release()
	dst, some, err := s.value(dst, p.keep, p.drop)
	if err != nil {
		return nil, err
	}
	if _, err := s.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, ErrNotJSON
	}
	if !some {
		dst = append(dst, "null"...)
	}
	return dst, nil
}

// A scanner goes through one value.
type scanner struct {
	jsontext.Decoder
	text    []byte
	buf     bytes.Buffer
	name    []byte   // the last name that had escapes
	members []member // of the objects that it is in, as far as a path leads there
}

// A member is where in the output a member of an object is.
type member struct {
	node     *node
	from, to int
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// scan returns a scanner that the caller releases.
func scan(text []byte) *scanner {
	s := scanners.Get().(*scanner)
	s.text, s.buf = text, *bytes.NewBuffer(text)
	s.Reset(&s.buf, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) // half a surrogate pair, that is; see append
	return s
}

// maxKeptName is how long a name may have been for its memory to be used again.
const maxKeptName = 4 << 10

func (s *scanner) release() {
	s.text, s.buf = nil, bytes.Buffer{}
	s.Reset(&s.buf)
	clear(s.members)
	s.members = s.members[:0]
	if cap(s.name) > maxKeptName {
		s.name = nil
	}
	scanners.Put(s)
}

// raw reads the next value, or name, as it stands in the text.
func (s *scanner) raw() ([]byte, error) {
	v, err := s.ReadValue()
	if err != nil {
		return nil, err
	}
	end := s.InputOffset()
	return s.text[end-int64(len(v)) : end], nil
}

// value appends what is left of the value that begins here. Some is false, and
// dst as it was, where a path goes on and the value does not.
func (s *scanner) value(dst []byte, keep, drop *node) (left []byte, some bool, err error) {
	switch kind := s.PeekKind(); {
	case keep.whole && drop == nil:
	case kind == '{':
		dst, err = s.object(dst, keep, drop)
		return dst, true, err
	case kind == '[':
		dst, err = s.array(dst, keep, drop)
		return dst, true, err
	case !keep.whole:
		return dst, false, s.SkipValue()
	}
	v, err := s.raw()
	return append(dst, v...), true, err
}

// array appends [element,…]: what is left of each, or null.
func (s *scanner) array(dst []byte, keep, drop *node) ([]byte, error) {
	if _, err := s.ReadToken(); err != nil {
		return nil, err
	}
	begin := len(dst)
	for s.PeekKind() != ']' {
		left, some, err := s.value(append(dst, ','), keep, drop)
		if err != nil {
			return nil, err
		}
		if !some {
			left = append(left, "null"...)
		}
		dst = left
	}
	_, err := s.ReadToken()
	return enclose(dst, begin, "[]"), err
}

// object appends {"name":value,…}.
func (s *scanner) object(dst []byte, keep, drop *node) ([]byte, error) {
	if _, err := s.ReadToken(); err != nil {
		return nil, err
	}
	begin, first := len(dst), len(s.members)
	for s.PeekKind() != '}' {
		raw, err := s.raw()
		if err != nil {
			return nil, err
		}
		name := s.unquote(raw)
		k, d := keep, drop.member(name)
		n := d // what leads here
		if !keep.whole {
			k = keep.member(name)
			n = k
		}
		if n != nil {
			dst = s.forget(dst, first, n)
		}
		if k == nil || (d != nil && d.whole) {
			if err := s.SkipValue(); err != nil {
				return nil, err
			}
			continue
		}
		from := len(dst)
		dst = append(dst, ',')
		dst = append(dst, raw...)
		left, some, err := s.value(append(dst, ':'), k, d)
		if err != nil {
			return nil, err
		}
		if !some {
			dst = left[:from]
			continue
		}
		dst = left
		if n != nil {
			s.members = append(s.members, member{n, from, len(dst)})
		}
	}
	s.members = s.members[:first]
	_, err := s.ReadToken()
	return enclose(dst, begin, "{}"), err
}

// forget takes the member that n stands for out of the output again, if it is
// in the object whose members begin at first: a later one of its name counts.
func (s *scanner) forget(dst []byte, first int, n *node) []byte {
	for i := first; i < len(s.members); i++ {
		m := s.members[i]
		if m.node != n {
			continue
		}
		s.members = slices.Delete(s.members, i, i+1)
		for j := i; j < len(s.members); j++ {
			s.members[j].from -= m.to - m.from
			s.members[j].to -= m.to - m.from
		}
		return slices.Delete(dst, m.from, m.to)
	}
	return dst
}

// unquote returns the name that a JSON string is, until the next call.
func (s *scanner) unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	s.name, _ = jsontext.AppendUnquote(s.name[:0], raw) // it was read as one; the error is half a surrogate pair, which is U+FFFD
	return s.name
}

// enclose puts brackets around what was appended since begin, each part of it
// with a comma in front.
func enclose(dst []byte, begin int, brackets string) []byte {
	if len(dst) == begin {
		return append(dst, brackets...)
	}
	dst[begin] = brackets[0]
	return append(dst, brackets[1])
}
