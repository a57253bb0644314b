package grip

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"spillway/grip/jsonstring"
)

// decodeJSON reads one JSON value and nothing after it. Objects become
// map[string]any and not structs: encoding/json would match the names of
// fields in any case, and the protocol does not. Numbers keep their digits.
func decodeJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("text after the value")
	}
	return v, nil
}

// An object is a JSON object together with the name that errors call it by.
type object struct {
	name    string
	members map[string]any
}

// asObject is for a value of any type; the error says what it is called.
func asObject(v any, name string) (object, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return object{}, fmt.Errorf("%s is not an object", name)
	}
	return object{name: name, members: m}, nil
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

// str returns a member that is a string. A null is not one.
func (o object) str(member string) (s string, ok bool, err error) {
	v, ok := o.members[member]
	if !ok {
		return "", false, nil
	}
	if s, ok = v.(string); !ok {
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
	v, ok := o.members[member]
	if !ok {
		return object{}, false, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return object{}, false, o.wrongType(member)
	}
	return object{name: name, members: m}, true, nil
}

func (o object) list(member string) (list []any, ok bool, err error) {
	v, ok := o.members[member]
	if !ok {
		return nil, false, nil
	}
	if list, ok = v.([]any); !ok {
		return nil, false, o.wrongType(member)
	}
	return list, true, nil
}

// integer returns a number, which may also be written as a string; a string
// that is no number counts as 0, and a fraction is rounded, as Qt's variants
// have it.
func (o object) integer(member string) (n int, ok bool, err error) {
	v, ok := o.members[member]
	if !ok {
		return 0, false, nil
	}
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		if err != nil || math.Abs(f) > math.MaxInt32 {
			return 0, false, o.invalid(member)
		}
		return int(math.Round(f)), true, nil
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 32)
		if err != nil {
			n = 0
		}
		return int(n), true, nil
	case bool:
		if v {
			n = 1
		}
		return n, true, nil
	}
	return 0, false, o.wrongType(member)
}

// strings returns all members, each of which must be a string.
func (o object) strings() (map[string]string, error) {
	m := make(map[string]string, len(o.members))
	for _, name := range o.sorted() {
		s, ok := o.members[name].(string)
		if !ok {
			return nil, o.wrongType(name)
		}
		m[name] = s
	}
	return m, nil
}

// sorted returns the names of the members in order, so that of several wrong
// ones it is always the same that is reported.
func (o object) sorted() []string {
	names := make([]string, 0, len(o.members))
	for name := range o.members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// headers returns the member "headers": an object of strings, whose order
// says nothing and becomes that of the names, or a list of pairs.
func (o object) headers() ([]Header, error) {
	v, ok := o.members["headers"]
	if !ok {
		return nil, nil
	}
	switch v := v.(type) {
	case []any:
		list := make([]Header, 0, len(v))
		for _, v := range v {
			pair, ok := v.([]any)
			if !ok {
				return nil, errors.New("headers contains element with wrong type")
			}
			if len(pair) != 2 {
				return nil, errors.New("headers contains list with wrong number of elements")
			}
			name, ok := pair[0].(string)
			if !ok {
				return nil, errors.New("header contains name element with wrong type")
			}
			value, ok := pair[1].(string)
			if !ok {
				return nil, errors.New("header contains value element with wrong type")
			}
			list = append(list, Header{name, value})
		}
		return list, nil
	case map[string]any:
		inner := object{name: "headers", members: v}
		list := make([]Header, 0, len(v))
		for _, name := range inner.sorted() {
			value, ok := v[name].(string)
			if !ok {
				return nil, inner.wrongType(name)
			}
			list = append(list, Header{name, value})
		}
		return list, nil
	}
	return nil, o.wrongType("headers")
}

// content returns bytes that are given as text in member, or as base64 in
// member + "-bin", which wins. ok is false when neither is there.
func (o object) content(member string) (content []byte, binary, ok bool, err error) {
	bin := member + "-bin"
	s, ok, err := o.str(bin)
	if err != nil {
		return nil, false, false, err
	}
	if ok {
		if content, err = decodeBase64(s); err != nil {
			return nil, false, false, o.invalid(bin)
		}
		return content, true, true, nil
	}
	s, ok, err = o.str(member)
	return []byte(s), false, ok, err
}

// decodeBase64 reads the standard alphabet, with or without padding and with
// line breaks. Qt, and so Pushpin, would skip whatever else stands there and
// deliver garbage.
func decodeBase64(s string) ([]byte, error) {
	s = strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, s)
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
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
