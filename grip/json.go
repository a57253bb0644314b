package grip

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"spillway/grip/jsonstring"
)

// A scanner goes through a text of JSON. It never copies what it finds: values
// are slices of the text. Names are compared as they stand, and not in any case as
// encoding/json would; of members with the same name the last counts. Bytes that
// are not UTF-8 become U+FFFD.
type scanner struct {
	jsontext.Decoder
	text []byte
	buf  bytes.Buffer
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// scan returns a scanner that the caller releases.
func scan(text []byte) *scanner {
	s := scanners.Get().(*scanner)
	s.text, s.buf = text, *bytes.NewBuffer(text)
	s.Reset(&s.buf, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return s
}

func (s *scanner) release() {
	s.text, s.buf = nil, bytes.Buffer{}
	s.Reset(&s.buf)
	scanners.Put(s)
}

// value returns the next value as it stands in the text.
func (s *scanner) value() (value, error) {
	v, err := s.ReadValue()
	if err != nil {
		return nil, err
	}
	end := s.InputOffset()
	return s.text[end-int64(len(v)) : end : end], nil
}

// each calls f for each member of the object that begins here. f reads its value.
func (s *scanner) each(f func(name []byte) error) error {
	if _, err := s.ReadToken(); err != nil {
		return err
	}
	for {
		switch s.PeekKind() {
		case '}':
			_, err := s.ReadToken()
			return err
		default:
			name, err := s.value()
			if err != nil {
				return err
			}
			if err := f(name.content()); err != nil {
				return err
			}
		}
	}
}

// members appends the members of the object that begins here.
func (s *scanner) members(dst []member) ([]member, error) {
	err := s.each(func(name []byte) error {
		v, err := s.value()
		dst = append(dst, member{name, v})
		return err
	})
	return dst, err
}

// elements appends the elements of the list that begins here.
func (s *scanner) elements(dst []value) ([]value, error) {
	if _, err := s.ReadToken(); err != nil {
		return nil, err
	}
	for s.PeekKind() != ']' {
		v, err := s.value()
		if err != nil {
			return nil, err
		}
		dst = append(dst, v)
	}
	_, err := s.ReadToken()
	return dst, err
}

// end makes sure that nothing follows.
func (s *scanner) end() error {
	switch _, err := s.ReadToken(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return errors.New("text after the value")
}

// A value is a JSON value, as it stands in a text that was found to be valid.
type value jsontext.Value

func (v value) kind() jsontext.Kind { return jsontext.Value(v).Kind() }

// content returns what a string stands for; it may be a part of the text.
func (v value) content() []byte {
	inner := v[1 : len(v)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner
	}
	content, _ := jsontext.AppendUnquote(make([]byte, 0, len(v)), v) // an error is one of UTF-8, and mended
	return content
}

// str returns a string; ok is false for a value of another type.
func (v value) str() (s string, ok bool) {
	if v.kind() != '"' {
		return "", false
	}
	return string(v.content()), true
}

// list returns the elements of a list; ok is false for a value of another type.
func (v value) list() (list []value, ok bool) {
	if v.kind() != '[' {
		return nil, false
	}
	s := scan(v)
	defer s.release()
	list, err := s.elements(nil)
	return list, err == nil
}

// decodeJSON finds one JSON value and nothing after it.
func decodeJSON(text []byte) (value, error) {
	s := scan(text)
	defer s.release()
	v, err := s.value()
	if err == nil {
		err = s.end()
	}
	return v, err
}

// An object is a JSON object together with the name that errors call it by.
type object struct {
	name    string
	members []member
}

type member struct {
	name  []byte
	value value
}

// asObject is for a value of any type; the error says what it is called.
func asObject(v value, name string) (object, error) {
	if v.kind() != '{' {
		return object{}, fmt.Errorf("%s is not an object", name)
	}
	s := scan(v)
	defer s.release()
	members, err := s.members(nil)
	return object{name: name, members: members}, err
}

func (o object) wrongType(member string) error {
	return fmt.Errorf("%s contains '%s' with wrong type", o.name, member)
}

func (o object) invalid(member string) error {
	return fmt.Errorf("%s contains '%s' with invalid value", o.name, member)
}

func (o object) missing(member string) error {
	return fmt.Errorf("%s does not contain '%s'", o.name, member)
}

// find returns a member, of several the last.
func (o object) find(member string) (v value, ok bool) {
	for i := len(o.members) - 1; i >= 0; i-- {
		if string(o.members[i].name) == member {
			return o.members[i].value, true
		}
	}
	return nil, false
}

// str returns a member that is a string. A null is not one.
func (o object) str(member string) (s string, ok bool, err error) {
	v, ok := o.find(member)
	if !ok {
		return "", false, nil
	}
	if s, ok = v.str(); !ok {
		return "", false, o.wrongType(member)
	}
	return s, true, nil
}

// text is str for a member that may be absent as well as empty.
func (o object) text(member string) (string, error) {
	s, _, err := o.str(member)
	return s, err
}

func (o object) required(member string) (string, error) {
	s, ok, err := o.str(member)
	if err == nil && !ok {
		err = o.missing(member)
	}
	return s, err
}

// object returns a member that is an object, under the given name.
func (o object) object(member, name string) (inner object, ok bool, err error) {
	v, ok := o.find(member)
	if !ok {
		return object{}, false, nil
	}
	if v.kind() != '{' {
		return object{}, false, o.wrongType(member)
	}
	inner, err = asObject(v, name)
	return inner, err == nil, err
}

func (o object) list(member string) (list []value, ok bool, err error) {
	v, ok := o.find(member)
	if !ok {
		return nil, false, nil
	}
	if list, ok = v.list(); !ok {
		return nil, false, o.wrongType(member)
	}
	return list, true, nil
}

// integer returns a number, which may also be written as a string; a string
// that is no number counts as 0, and a fraction is rounded, as Qt's variants
// have it.
func (o object) integer(member string) (n int, ok bool, err error) {
	v, ok := o.find(member)
	if !ok {
		return 0, false, nil
	}
	switch v.kind() {
	case '0':
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil || math.Abs(f) > math.MaxInt32 {
			return 0, false, o.invalid(member)
		}
		return int(math.Round(f)), true, nil
	case '"':
		n, err := strconv.ParseInt(strings.TrimSpace(string(v.content())), 10, 32)
		if err != nil {
			n = 0
		}
		return int(n), true, nil
	case 't':
		return 1, true, nil
	case 'f':
		return 0, true, nil
	}
	return 0, false, o.wrongType(member)
}

// strings returns all members, each of which must be a string.
func (o object) strings() (map[string]string, error) {
	m := make(map[string]string, len(o.members))
	for _, name := range o.sorted() {
		s, ok, err := o.str(name)
		if err != nil || !ok {
			return nil, err
		}
		m[name] = s
	}
	return m, nil
}

// sorted returns the names of the members in order, so that of several wrong
// ones it is always the same that is reported.
func (o object) sorted() []string {
	names := make([]string, 0, len(o.members))
	for _, m := range o.members {
		names = append(names, string(m.name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// headers returns the member "headers": an object of strings, whose order
// says nothing and becomes that of the names, or a list of pairs.
func (o object) headers() ([]Header, error) {
	v, ok := o.find("headers")
	if !ok {
		return nil, nil
	}
	if list, ok := v.list(); ok {
		headers := make([]Header, 0, len(list))
		for _, v := range list {
			h, err := headerPair(v)
			if err != nil {
				return nil, err
			}
			headers = append(headers, h)
		}
		return headers, nil
	}
	inner, ok, err := o.object("headers", "headers")
	if err != nil || !ok {
		return nil, err
	}
	headers := make([]Header, 0, len(inner.members))
	for _, name := range inner.sorted() {
		value, err := inner.text(name)
		if err != nil {
			return nil, err
		}
		headers = append(headers, Header{name, value})
	}
	return headers, nil
}

func headerPair(v value) (h Header, err error) {
	pair, ok := v.list()
	if !ok {
		return h, errors.New("headers contains element with wrong type")
	}
	if len(pair) != 2 {
		return h, errors.New("headers contains list with wrong number of elements")
	}
	if h.Name, ok = pair[0].str(); !ok {
		return h, errors.New("header contains name element with wrong type")
	}
	if h.Value, ok = pair[1].str(); !ok {
		return h, errors.New("header contains value element with wrong type")
	}
	return h, nil
}

// content returns bytes that are given as text in member, or as base64 in
// member + "-bin", which wins. ok is false when neither is there.
func (o object) content(member string) (content []byte, binary, ok bool, err error) {
	bin := member + "-bin"
	if v, ok := o.find(bin); ok {
		if v.kind() != '"' {
			return nil, false, false, o.wrongType(bin)
		}
		if content, err = decodeBase64(v.content()); err != nil {
			return nil, false, false, o.invalid(bin)
		}
		return content, true, true, nil
	}
	v, ok := o.find(member)
	if ok && v.kind() != '"' {
		return nil, false, false, o.wrongType(member)
	}
	if !ok {
		return []byte{}, false, false, nil
	}
	return append([]byte{}, v.content()...), false, true, nil
}

// decodeBase64 reads the standard alphabet, with or without padding and with
// line breaks. Qt, and so Pushpin, would skip whatever else stands there and
// deliver garbage.
func decodeBase64[T string | []byte](s T) ([]byte, error) {
	text := make([]byte, 0, len(s))
	for i := range len(s) {
		if c := s[i]; c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			text = append(text, c)
		}
	}
	text = bytes.TrimRight(text, "=")
	n, err := base64.RawStdEncoding.Decode(text, text)
	return text[:n], err
}

// appendMember appends ,"name": and leaves the comma out after a brace.
func appendMember(dst []byte, name string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = jsonstring.Append(dst, name)
	return append(dst, ':')
}

func appendText(dst []byte, name, value string) []byte {
	return jsonstring.Append(appendMember(dst, name), value)
}

func appendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonstring.Append(dst, s)
	}
	return append(dst, ']')
}

// appendContent appends what object.content reads: text if the bytes are
// UTF-8 and nothing asks for binary, else base64.
func appendContent(dst []byte, member string, content []byte, binary bool) []byte {
	if !binary && utf8.Valid(content) {
		return jsonstring.Append(appendMember(dst, member), content)
	}
	dst = append(appendMember(dst, member+"-bin"), '"')
	dst = base64.StdEncoding.AppendEncode(dst, content)
	return append(dst, '"')
}
