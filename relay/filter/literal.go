package filter

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// A scalar is a value of a record as far as clauses are concerned.
type scalar struct {
	kind kind
	bits uint64 // of an int, uint, double or bool
	text []byte // of a string or bytes
}

type kind uint8

const (
	missing kind = iota // the path leads nowhere
	isNull
	isBool
	isInt
	isUint
	isDouble
	isString
	isBytes
	isOther // a list or an object: no literal is equal to it
)

// A literal is a scalar that an expression names.
type literal struct {
	kind kind
	bits uint64
	text string
}

// literalOf returns the literal that a constant of an expression is.
func literalOf(v ref.Val) (l literal, ok bool) {
	switch v := v.(type) {
	case types.Null:
		return literal{kind: isNull}, true
	case types.Bool:
		l.kind = isBool
		if v {
			l.bits = 1
		}
	case types.Int:
		l = literal{kind: isInt, bits: uint64(v)}
	case types.Uint:
		l = literal{kind: isUint, bits: uint64(v)}
	case types.Double:
		l = literal{kind: isDouble, bits: math.Float64bits(float64(v))}
	case types.String:
		l = literal{kind: isString, text: string(v)}
	case types.Bytes:
		l = literal{kind: isBytes, text: string(v)}
	default:
		return l, false
	}
	return l, true
}

// equals is CEL's equality: numbers compare across their types, all else only
// within its own.
func (l *literal) equals(s *scalar) bool {
	if l.numeric() && s.numeric() {
		return equalNumbers(l.kind, l.bits, s.kind, s.bits)
	}
	return l.kind == s.kind && l.bits == s.bits && l.text == string(s.text)
}

func (l *literal) numeric() bool { return isInt <= l.kind && l.kind <= isDouble }
func (s *scalar) numeric() bool  { return isInt <= s.kind && s.kind <= isDouble }

// equalNumbers compares two integers exactly, and all else as doubles.
func equalNumbers(ka kind, a uint64, kb kind, b uint64) bool {
	switch {
	case ka == kb && ka != isDouble:
		return a == b
	case ka != isDouble && kb != isDouble: // an int and a uint
		return a == b && a <= math.MaxInt64
	}
	return toDouble(ka, a) == toDouble(kb, b)
}

func toDouble(k kind, bits uint64) float64 {
	switch k {
	case isInt:
		return float64(int64(bits))
	case isUint:
		return float64(bits)
	}
	return math.Float64frombits(bits)
}

// numberOf reads a JSON number.
func numberOf(text []byte) scalar {
	if !bytes.ContainsAny(text, ".eE") {
		if i, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			return scalar{kind: isInt, bits: uint64(i)}
		}
		if u, err := strconv.ParseUint(string(text), 10, 64); err == nil {
			return scalar{kind: isUint, bits: u}
		}
	}
	f, _ := strconv.ParseFloat(string(text), 64) // too large a number is infinite
	return scalar{kind: isDouble, bits: math.Float64bits(f)}
}

// textScalar is what a key, a header or a value that is no JSON is to an expression.
func textScalar(b []byte) scalar {
	switch {
	case b == nil:
		return scalar{kind: isNull}
	case utf8.Valid(b):
		return scalar{kind: isString, text: b}
	}
	return scalar{kind: isBytes, text: b}
}

// val is the scalar as CEL has it.
func (s *scalar) val() ref.Val {
	switch s.kind {
	case isBool:
		return types.Bool(s.bits != 0)
	case isInt:
		return types.Int(s.bits)
	case isUint:
		return types.Uint(s.bits)
	case isDouble:
		return types.Double(math.Float64frombits(s.bits))
	case isString:
		return types.String(s.text)
	case isBytes:
		return types.Bytes(s.text)
	}
	return types.NullValue
}

// appendLiteral writes a constant so that CEL reads the same again.
func appendLiteral(dst []byte, v ref.Val) []byte {
	switch v := v.(type) {
	case types.Bool:
		return strconv.AppendBool(dst, bool(v))
	case types.Int:
		return strconv.AppendInt(dst, int64(v), 10)
	case types.Uint:
		return append(strconv.AppendUint(dst, uint64(v), 10), 'u')
	case types.Double:
		text := strconv.FormatFloat(float64(v), 'g', -1, 64)
		dst = append(dst, text...)
		if !strings.ContainsAny(text, ".e") {
			dst = append(dst, ".0"...)
		}
		return dst
	case types.String:
		return strconv.AppendQuote(dst, string(v))
	case types.Bytes:
		const digits = "0123456789abcdef"
		dst = append(dst, `b"`...)
		for _, c := range v {
			dst = append(dst, '\\', 'x', digits[c>>4], digits[c&15])
		}
		return append(dst, '"')
	}
	return append(dst, "null"...)
}
