package registry

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/avro"

	"spillway/grip/jsonstring"
)

// The library reads schemas. Data goes from Avro's bytes to JSON's in one walk
// of our own, with nothing between: in the order of the schema's fields, which
// a map would lose, and with a bound that holds before memory is taken. An
// array of a million nulls is five bytes long.

// An avroKind is how a value is read and written.
type avroKind uint8

const (
	avroNull avroKind = iota
	avroBoolean
	avroInt
	avroLong
	avroFloat
	avroDouble
	avroBytes
	avroString
	avroFixed
	avroEnum
	avroRecord
	avroArray
	avroMap
	avroUnion

	// Logical types.
	avroDecimal      // bytes
	avroDecimalFixed // fixed
	avroUUIDFixed
	avroDuration
	avroDate
	avroTimeMillis
	avroTimeMicros
	avroTimestamp
)

var avroPrimitives = map[string]avroKind{
	"null": avroNull, "boolean": avroBoolean, "int": avroInt, "long": avroLong, "float": avroFloat,
	"double": avroDouble, "bytes": avroBytes, "string": avroString,
}

// An avroType is a schema, made ready. It does not change.
type avroType struct {
	kind    avroKind
	name    string      // for errors
	size    int         // of fixed, in bytes
	scale   int         // of decimals
	unit    int64       // of timestamps: how many are a second
	layout  string      // of timestamps
	symbols []string    // of an enum, as JSON strings
	fields  []avroField // of a record
	types   []*avroType // branches; or the one of items or values
}

type avroField struct {
	name   string
	member string // the name as JSON, with a colon
	typ    *avroType
}

// newAvro compiles a schema. Those that it refers to come first.
func newAvro(texts []string) (*avroType, error) {
	var cache avro.SchemaCache
	c := avroCompiler{defined: make(map[string]*avroType)}
	lax := avro.WithLaxNames(nil) // Java's own check of names can be turned off, and is
	for i, text := range texts {
		s, err := cache.Parse(text, lax)
		if err != nil {
			return nil, errors.New(cut(err.Error()))
		}
		t, err := c.compile(s.Root(), "", 0)
		if err != nil {
			return nil, err
		}
		if i == len(texts)-1 {
			return t, nil
		}
	}
	return nil, errors.New("no schema")
}

type avroCompiler struct {
	defined map[string]*avroType // by full name
}

func (c *avroCompiler) compile(n *avro.SchemaNode, space string, depth int) (*avroType, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	t := &avroType{name: n.Type, size: n.Size, scale: n.Scale}
	if n.Name != "" {
		full := n.Name
		if !strings.Contains(full, ".") && n.Namespace != "" {
			full = n.Namespace + "." + full
		}
		space = ""
		if i := strings.LastIndexByte(full, '.'); i >= 0 {
			space = full[:i]
		}
		t.name = full
		if known := c.defined[full]; known != nil {
			return known, nil // a reference's, written out once more
		}
		c.defined[full] = t
	}
	one := func(n *avro.SchemaNode) error {
		item, err := c.compile(n, space, depth+1)
		t.types = append(t.types, item)
		return err
	}
	switch n.Type {
	case "record", "error":
		t.kind = avroRecord
		for i := range n.Fields {
			f := &n.Fields[i]
			typ, err := c.compile(&f.Type, space, depth+1)
			if err != nil {
				return nil, err
			}
			t.fields = append(t.fields, avroField{f.Name, string(jsonstring.Append(nil, f.Name)) + ":", typ})
		}
		return t, nil
	case "array":
		t.kind = avroArray
		return t, one(n.Items)
	case "map":
		t.kind = avroMap
		return t, one(n.Values)
	case "union":
		t.kind = avroUnion
		for i := range n.Branches {
			if err := one(&n.Branches[i]); err != nil {
				return nil, err
			}
		}
		return t, nil
	case "enum":
		t.kind = avroEnum
		for _, s := range n.Symbols {
			t.symbols = append(t.symbols, string(jsonstring.Append(nil, s)))
		}
		return t, nil
	case "fixed":
		t.kind = avroFixed
		t.logical(n)
		return t, nil
	}
	if kind, ok := avroPrimitives[n.Type]; ok {
		t.kind = kind
		t.logical(n)
		return t, nil
	}
	if !strings.Contains(n.Type, ".") && space != "" {
		if known := c.defined[space+"."+n.Type]; known != nil {
			return known, nil
		}
	}
	if known := c.defined[n.Type]; known != nil {
		return known, nil
	}
	return nil, fmt.Errorf("no definition of %s", n.Type)
}

// logical makes t what the schema says beyond its type. What we do not know, or
// what does not fit the type, counts for nothing, as the specification has it.
func (t *avroType) logical(n *avro.SchemaNode) {
	const clock = "2006-01-02T15:04:05.000000000"
	name, local := strings.CutPrefix(n.LogicalType, "local-")
	zone := "Z07:00"
	if local {
		zone = ""
	}
	switch {
	case t.kind == avroBytes && name == "decimal":
		t.kind = avroDecimal
	case t.kind == avroFixed && name == "decimal":
		t.kind = avroDecimalFixed
	case t.kind == avroFixed && name == "uuid" && t.size == 16:
		t.kind = avroUUIDFixed
	case t.kind == avroFixed && name == "duration" && t.size == 12:
		t.kind = avroDuration
	case t.kind == avroInt && name == "date":
		t.kind = avroDate
	case t.kind == avroInt && name == "time-millis":
		t.kind = avroTimeMillis
	case t.kind == avroLong && name == "time-micros":
		t.kind = avroTimeMicros
	case t.kind == avroLong && name == "timestamp-millis":
		t.kind, t.unit, t.layout = avroTimestamp, 1e3, clock[:len(clock)-6]+zone
	case t.kind == avroLong && name == "timestamp-micros":
		t.kind, t.unit, t.layout = avroTimestamp, 1e6, clock[:len(clock)-3]+zone
	case t.kind == avroLong && name == "timestamp-nanos":
		t.kind, t.unit, t.layout = avroTimestamp, 1e9, clock+zone
	}
}

// decode appends the JSON of data, which must be one value and nothing else.
func (t *avroType) decode(dst, data []byte, limit int) ([]byte, error) {
	w := avroWalk{in: data, out: dst, limit: len(dst) + limit}
	if err := w.value(t, 0); err != nil {
		return dst, err
	}
	if len(w.in) > 0 {
		return dst, fmt.Errorf("%d bytes are left over", len(w.in))
	}
	return w.out, nil
}

// An avroWalk is on its way through one value.
type avroWalk struct {
	in    []byte
	out   []byte
	limit int // of out
}

var errShort = errors.New("the data ends too early")

// value moves the next value from in to out. Whatever the type, out grows, so
// the limit also bounds how long that takes.
func (w *avroWalk) value(t *avroType, depth int) error {
	if depth > maxDepth {
		return errTooDeep
	}
	var err error
	switch t.kind {
	case avroNull:
		w.out = append(w.out, "null"...)
	case avroBoolean:
		var b []byte
		if b, err = w.take(1); err == nil {
			if b[0] > 1 {
				return errors.New("a boolean is neither 0 nor 1")
			}
			w.out = strconv.AppendBool(w.out, b[0] == 1)
		}
	case avroInt:
		var n int64
		if n, err = w.int(); err == nil {
			w.out = strconv.AppendInt(w.out, n, 10)
		}
	case avroLong:
		var n int64
		if n, err = w.long(); err == nil {
			w.out = strconv.AppendInt(w.out, n, 10)
		}
	case avroFloat:
		var b []byte
		if b, err = w.take(4); err == nil {
			w.out = appendFloat(w.out, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 32)
		}
	case avroDouble:
		var b []byte
		if b, err = w.take(8); err == nil {
			w.out = appendFloat(w.out, math.Float64frombits(binary.LittleEndian.Uint64(b)), 64)
		}
	case avroString:
		err = w.text()
	case avroBytes:
		var b []byte
		if b, err = w.bytes(); err == nil {
			err = w.base64(b)
		}
	case avroFixed:
		var b []byte
		if b, err = w.take(t.size); err == nil {
			err = w.base64(b)
		}
	case avroEnum:
		err = w.enum(t)
	case avroRecord:
		return w.record(t, depth)
	case avroArray, avroMap:
		err = w.blocks(t, depth)
	case avroUnion:
		var n int64
		if n, err = w.long(); err != nil {
			return err
		}
		if n < 0 || n >= int64(len(t.types)) {
			return fmt.Errorf("no branch %d in a union of %d", n, len(t.types))
		}
		return w.value(t.types[n], depth+1)
	default:
		err = w.logical(t)
	}
	if err == nil && len(w.out) > w.limit {
		return errTooLarge
	}
	return err
}

func (w *avroWalk) logical(t *avroType) error {
	switch t.kind {
	case avroDecimal, avroDecimalFixed, avroUUIDFixed, avroDuration:
		b, err := w.sized(t)
		if err != nil {
			return err
		}
		switch t.kind {
		case avroUUIDFixed:
			w.out = appendUUID(w.out, b)
		case avroDuration:
			w.out = appendDuration(w.out, b)
		default:
			return w.decimal(b, t.scale)
		}
		return nil
	case avroDate, avroTimeMillis:
		n, err := w.int()
		if err != nil {
			return err
		}
		if t.kind == avroDate {
			w.time(n, time.Unix(n*24*60*60, 0), time.DateOnly)
		} else {
			w.clock(n, time.UnixMilli(n), 24*time.Hour.Milliseconds(), "15:04:05.000")
		}
		return nil
	}
	n, err := w.long()
	if err != nil {
		return err
	}
	switch {
	case t.kind == avroTimeMicros:
		w.clock(n, time.UnixMicro(n), 24*time.Hour.Microseconds(), "15:04:05.000000")
	case t.unit == 1e3:
		w.time(n, time.UnixMilli(n), t.layout)
	case t.unit == 1e6:
		w.time(n, time.UnixMicro(n), t.layout)
	default:
		w.time(n, time.Unix(0, n), t.layout)
	}
	return nil
}

// sized takes what t has as bytes, or as fixed.
func (w *avroWalk) sized(t *avroType) ([]byte, error) {
	if t.kind == avroDecimal {
		return w.bytes()
	}
	return w.take(t.size)
}

func (w *avroWalk) take(n int) ([]byte, error) {
	if n > len(w.in) {
		return nil, errShort
	}
	b := w.in[:n]
	w.in = w.in[n:]
	return b, nil
}

func (w *avroWalk) long() (int64, error) {
	n, size := binary.Varint(w.in) // the same zigzag
	switch {
	case size == 0:
		return 0, errShort
	case size < 0:
		return 0, errors.New("a number has more than 64 bits")
	}
	w.in = w.in[size:]
	return n, nil
}

func (w *avroWalk) int() (int64, error) {
	n, err := w.long()
	if err == nil && int64(int32(n)) != n {
		return 0, errors.New("an int has more than 32 bits")
	}
	return n, err
}

func (w *avroWalk) bytes() ([]byte, error) {
	n, err := w.long()
	switch {
	case err != nil:
		return nil, err
	case n < 0:
		return nil, errors.New("a length is negative")
	case n > int64(len(w.in)):
		return nil, errShort
	}
	return w.take(int(n))
}

func (w *avroWalk) text() error {
	b, err := w.bytes()
	if err != nil {
		return err
	}
	if len(w.out)+len(b) > w.limit {
		return errTooLarge
	}
	if !utf8.Valid(b) {
		return errors.New("a string is not UTF-8")
	}
	w.out = jsonstring.Append(w.out, b)
	return nil
}

func (w *avroWalk) base64(b []byte) error {
	if len(w.out)+base64.StdEncoding.EncodedLen(len(b)) > w.limit {
		return errTooLarge
	}
	w.out = append(w.out, '"')
	w.out = base64.StdEncoding.AppendEncode(w.out, b)
	w.out = append(w.out, '"')
	return nil
}

func (w *avroWalk) enum(t *avroType) error {
	n, err := w.int()
	if err != nil {
		return err
	}
	if n < 0 || n >= int64(len(t.symbols)) {
		return fmt.Errorf("no symbol %d in an enum of %d", n, len(t.symbols))
	}
	w.out = append(w.out, t.symbols[n]...)
	return nil
}

func (w *avroWalk) record(t *avroType, depth int) error {
	w.out = append(w.out, '{')
	for i := range t.fields {
		f := &t.fields[i]
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, f.member...)
		if err := w.value(f.typ, depth+1); err != nil {
			if errors.Is(err, errTooLarge) || errors.Is(err, errTooDeep) {
				return err // not with a path as long as that
			}
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	w.out = append(w.out, '}')
	if len(w.out) > w.limit {
		return errTooLarge
	}
	return nil
}

// blocks writes an array or a map: any number of blocks, each a count and as
// many items. Where the count is negative, the length in bytes follows it.
func (w *avroWalk) blocks(t *avroType, depth int) error {
	open, end := byte('['), byte(']')
	if t.kind == avroMap {
		open, end = '{', '}'
	}
	w.out = append(w.out, open)
	for first := true; ; {
		n, err := w.long()
		if err != nil {
			return err
		}
		if n == 0 {
			w.out = append(w.out, end)
			return nil
		}
		if n < 0 {
			if _, err := w.long(); err != nil {
				return err
			}
			if n = -n; n < 0 {
				return errors.New("a count has more than 63 bits")
			}
		}
		for ; n > 0; n-- {
			if !first {
				w.out = append(w.out, ',')
			}
			first = false
			if t.kind == avroMap {
				if err := w.text(); err != nil {
					return err
				}
				w.out = append(w.out, ':')
			}
			if err := w.value(t.types[0], depth+1); err != nil {
				return err
			}
		}
	}
}

// maxDecimalBytes bounds the unscaled number of a decimal, whose digits take
// more than linear time. It is 9,864 digits.
const maxDecimalBytes = 4096

// decimal writes a big-endian two's complement number with its point.
func (w *avroWalk) decimal(b []byte, scale int) error {
	if len(b) > maxDecimalBytes {
		return fmt.Errorf("a decimal of %d bytes; at most %d are read", len(b), maxDecimalBytes)
	}
	if len(w.out)+scale > w.limit {
		return errTooLarge
	}
	var few [32]byte
	digits := few[:0]
	if len(b) <= 8 {
		var n int64
		if len(b) > 0 {
			n = int64(int8(b[0]))
		}
		for _, c := range b[min(1, len(b)):] {
			n = n<<8 | int64(c)
		}
		digits = strconv.AppendInt(digits, n, 10)
	} else {
		n := new(big.Int).SetBytes(b)
		if b[0] >= 0x80 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
		}
		digits = n.Append(digits, 10)
	}
	w.out = append(w.out, '"')
	if digits[0] == '-' {
		w.out = append(w.out, '-')
		digits = digits[1:]
	}
	whole := len(digits) - scale
	switch {
	case scale <= 0:
		w.out = append(w.out, digits...)
	case whole > 0:
		w.out = append(w.out, digits[:whole]...)
		w.out = append(w.out, '.')
		w.out = append(w.out, digits[whole:]...)
	default:
		w.out = append(w.out, "0."...)
		w.out = append(w.out, slices.Repeat([]byte{'0'}, -whole)...)
		w.out = append(w.out, digits...)
	}
	w.out = append(w.out, '"')
	return nil
}

// time writes t, or n where the year has not four digits.
func (w *avroWalk) time(n int64, t time.Time, layout string) {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		w.out = strconv.AppendInt(w.out, n, 10)
		return
	}
	w.out = append(w.out, '"')
	w.out = t.AppendFormat(w.out, layout)
	w.out = append(w.out, '"')
}

// clock writes the time of t, or n where it is not within a day.
func (w *avroWalk) clock(n int64, t time.Time, day int64, layout string) {
	if n < 0 || n >= day {
		w.out = strconv.AppendInt(w.out, n, 10)
		return
	}
	w.time(n, t, layout)
}

// appendFloat appends a number as JavaScript prints it, and what is none as a
// string.
func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	if a := math.Abs(f); a == 0 || a >= 1e-6 && a < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, bits)
	}
	return strconv.AppendFloat(dst, f, 'e', -1, bits)
}

func appendUUID(dst, b []byte) []byte {
	dst = append(dst, '"')
	for i, c := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, []byte{c})
	}
	return append(dst, '"')
}

// appendDuration appends months, days and milliseconds as ISO 8601 has them.
func appendDuration(dst, b []byte) []byte {
	ms := binary.LittleEndian.Uint32(b[8:])
	return fmt.Appendf(dst, `"P%dM%dDT%d.%03dS"`, binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), ms/1000, ms%1000)
}
