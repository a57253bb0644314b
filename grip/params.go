package grip

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// A paramReader walks a GRIP header value.
//
//	value; name=value; name="quoted \" value"
//
// With list set, a comma ends an element, except in quotes or in <…>. Without,
// it is a byte like any other.
type paramReader struct {
	s    string
	list bool
}

type param struct{ name, value string }

// An element is one member of a list: its first part, and its parameters in
// order.
type element struct {
	first  string
	params []param
}

func (e element) get(name string) (value string, ok bool) {
	for _, p := range e.params {
		if p.name == name {
			return p.value, true
		}
	}
	return "", false
}

var errQuote = errors.New("quote without end")

// element reads up to and including the comma that ends it. link says that
// the first part may be a <URL>, in which semicolons and commas are ordinary.
func (r *paramReader) element(link bool) (element, error) {
	var e element
	at := 0
	if trimmed := strings.TrimLeft(r.s, " \t"); link && strings.HasPrefix(trimmed, "<") {
		if end := strings.IndexByte(r.s, '>'); end > 0 {
			at = end
		}
	}
	at += r.end(r.s[at:], false)
	e.first = strings.TrimSpace(r.s[:at])
	r.s = r.s[at:]
	for strings.HasPrefix(r.s, ";") {
		r.s = r.s[1:]
		p, err := r.param()
		if err != nil {
			return element{}, err
		}
		if p.name != "" {
			e.params = append(e.params, p)
		}
	}
	r.s = strings.TrimPrefix(r.s, ",")
	return e, nil
}

// param reads name=value and stops at the separator after it.
func (r *paramReader) param() (param, error) {
	at := r.end(r.s, true)
	p := param{name: strings.TrimSpace(r.s[:at])}
	r.s = r.s[at:]
	if !strings.HasPrefix(r.s, "=") {
		return p, nil
	}
	r.s = strings.TrimLeft(r.s[1:], " \t")
	if !strings.HasPrefix(r.s, `"`) {
		at := r.end(r.s, false)
		p.value = strings.TrimSpace(r.s[:at])
		r.s = r.s[at:]
		return p, nil
	}
	var quoted strings.Builder
	for i := 1; i < len(r.s); i++ {
		switch r.s[i] {
		case '"':
			p.value = quoted.String()
			r.s = r.s[i+1:]
			r.s = r.s[r.end(r.s, false):] // what follows the quote means nothing
			return p, nil
		case '\\':
			if i++; i == len(r.s) {
				return p, errQuote
			}
		}
		quoted.WriteByte(r.s[i])
	}
	return p, errQuote
}

// end returns where the part that s begins with ends: at a semicolon, at a
// comma of a list, or at an equals sign if that counts.
func (r *paramReader) end(s string, equals bool) int {
	for i := range len(s) {
		switch s[i] {
		case ';':
			return i
		case ',':
			if r.list {
				return i
			}
		case '=':
			if equals {
				return i
			}
		}
	}
	return len(s)
}

// elements reads all members of a list that may be spread over headers.
func elements(values []string, link bool) ([]element, error) {
	var all []element
	for _, v := range values {
		for r := (paramReader{s: v, list: true}); ; {
			e, err := r.element(link)
			if err != nil {
				return nil, err
			}
			all = append(all, e)
			if r.s == "" {
				break
			}
		}
	}
	return all, nil
}

// names splits a plain list of names and drops the empty ones.
func names(values []string) []string {
	var all []string
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" {
				all = append(all, name)
			}
		}
	}
	return all
}

var (
	errNotSeconds = errors.New("not a number of seconds")
	errNegative   = errors.New("is negative")
)

// parseSeconds reads digits with an optional fraction. Other spellings that
// strconv knows (hexadecimal, exponents, Inf) are not numbers here.
func parseSeconds(s string) (time.Duration, error) {
	s = strings.TrimPrefix(strings.TrimSpace(s), "+")
	if strings.Trim(strings.TrimPrefix(s, "-"), "0123456789.") != "" {
		return 0, errNotSeconds
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, errNotSeconds
	}
	return seconds(f)
}

// seconds refuses what Pushpin's 32-bit integers could not hold either, so
// that the duration cannot overflow.
func seconds(f float64) (time.Duration, error) {
	switch {
	case f < 0:
		return 0, errNegative
	case f > math.MaxInt32 || math.IsNaN(f):
		return 0, errNotSeconds
	}
	return time.Duration(math.Round(f * float64(time.Second))), nil
}
