package filter

import (
	"errors"
	"io"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Record is a record that filters look at. What they need of it is worked out
// once for all of them, when the first needs it. It belongs to one goroutine;
// Reset makes it the next record, in the same memory.
type Record struct {
	r     *kgo.Record
	form  form
	scans int
	val   ref.Val // value, if it was parsed
	heads ref.Val // headers

	scanner scanner
	values  values // of a filter's own paths
}

// A form is what a value is.
type form uint8

const (
	unknown form = iota
	jsonText
	otherText // a string, bytes or null
)

// A Content is what a value is, whatever its bytes look like.
type Content uint8

const (
	Guessed Content = iota // JSON if it looks so, else text or bytes
	Text                   // never JSON
	Bytes                  // not even text
)

// A Knower is the Context of a record of whose value it is known what it is.
type Knower interface{ Content() Content }

// content is what is known of the record's value.
func (r *Record) content() Content {
	if k, ok := r.r.Context.(Knower); ok {
		return k.Content()
	}
	return Guessed
}

// manyScans is how often a value is read for a few paths before all of it is
// parsed instead.
const manyScans = 2

// Reset makes r the record rec, which must not change meanwhile.
func (r *Record) Reset(rec *kgo.Record) {
	r.r, r.form, r.scans = rec, unknown, 0
	r.val, r.heads = nil, nil
	if rec == nil {
		// Nothing of the last record is kept alive by memory that waits.
		r.scanner.open(nil)
	}
}

// scan finds what the paths of t lead to. Paths into a value that is no JSON
// lead nowhere, except the empty one. Reset v before it is used again.
func (r *Record) scan(t *tree, v *values) {
	if len(v.at) < t.count {
		v.at = append(v.at, make([]scalar, t.count-len(v.at))...)
	}
	if r.form == unknown && !r.mayBeJSON() {
		r.form = otherText
	}
	if r.form != otherText {
		if err := r.scanner.scan(t, r.r.Value, v); err == nil {
			r.form = jsonText
			return
		}
		r.form = otherText
		v.reset()
	}
	if t.root.leaf > 0 {
		v.set(t.root.leaf-1, r.text())
	}
}

func (r *Record) mayBeJSON() bool {
	return len(r.r.Value) > 0 && r.content() == Guessed && utf8.Valid(r.r.Value)
}

// text is a value that is no JSON.
func (r *Record) text() scalar {
	if r.r.Value != nil && r.content() == Bytes {
		return scalar{kind: isBytes, text: r.r.Value}
	}
	return textScalar(r.r.Value)
}

// object is a JSON object, for CEL and for us.
type object struct {
	traits.Mapper
	members map[string]any
}

// parse returns value as CEL has it.
func (r *Record) parse() ref.Val {
	if r.val != nil {
		return r.val
	}
	if r.form == jsonText || r.form == unknown && r.mayBeJSON() {
		d := r.scanner.open(r.r.Value)
		v, err := parseValue(d)
		if err == nil {
			if _, err = d.ReadToken(); errors.Is(err, io.EOF) {
				r.form, r.val = jsonText, v
				return v
			}
		}
	}
	s := r.text()
	r.form, r.val = otherText, s.val()
	return r.val
}

// parseValue reads the next value.
func parseValue(d *jsontext.Decoder) (ref.Val, error) {
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case 'n':
		return types.NullValue, nil
	case 't':
		return types.True, nil
	case 'f':
		return types.False, nil
	case '"':
		return types.String(t.String()), nil
	case '0':
		s := numberOf([]byte(t.String()))
		return s.val(), nil
	case '[':
		list := []ref.Val{}
		for d.PeekKind() != ']' {
			v, err := parseValue(d)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.ReadToken()
		return types.NewRefValList(types.DefaultTypeAdapter, list), err
	}
	members := map[string]any{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		text := name.String()
		v, err := parseValue(d)
		if err != nil {
			return nil, err
		}
		members[text] = v
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	return &object{types.NewStringInterfaceMap(types.DefaultTypeAdapter, members), members}, nil
}

// member returns what is at a path into the tree of value.
func (r *Record) member(names []string) scalar {
	at := r.parse()
	for _, name := range names {
		o, ok := at.(*object)
		if !ok {
			return scalar{}
		}
		member, ok := o.members[name]
		if !ok {
			return scalar{}
		}
		at = member.(ref.Val)
	}
	l, ok := literalOf(at)
	if !ok {
		return scalar{kind: isOther}
	}
	return scalar{l.kind, l.bits, []byte(l.text)}
}

// header returns a header's value if its name does not repeat.
func (r *Record) header(name string) (s scalar) {
	for i := range r.r.Headers {
		switch h := &r.r.Headers[i]; {
		case h.Key != name:
		case s.kind != missing:
			return scalar{kind: isOther}
		default:
			s = textScalar(h.Value)
		}
	}
	return s
}

// headers is the map that expressions see.
func (r *Record) headers() ref.Val {
	if r.heads == nil {
		members := make(map[string]any, len(r.r.Headers))
		for _, h := range r.r.Headers {
			s := textScalar(h.Value)
			v := s.val()
			switch before := members[h.Key].(type) {
			case nil:
				members[h.Key] = v
			case []ref.Val:
				members[h.Key] = append(before, v)
			case ref.Val:
				members[h.Key] = []ref.Val{before, v}
			}
		}
		for name, v := range members {
			if list, ok := v.([]ref.Val); ok {
				members[name] = types.NewRefValList(types.DefaultTypeAdapter, list)
			}
		}
		r.heads = types.NewStringInterfaceMap(types.DefaultTypeAdapter, members)
	}
	return r.heads
}

// An activation is a record as CEL asks for variables.
type activation Record

func (a *activation) Parent() interpreter.Activation { return nil }

func (a *activation) ResolveName(name string) (any, bool) {
	r := (*Record)(a)
	switch name {
	case "key":
		s := textScalar(r.r.Key)
		return s.val(), true
	case "headers":
		return r.headers(), true
	case "value":
		return r.parse(), true
	case "topic":
		return types.String(r.r.Topic), true
	case "partition":
		return types.Int(r.r.Partition), true
	case "offset":
		return types.Int(r.r.Offset), true
	case "timestamp":
		return types.Timestamp{Time: r.r.Timestamp}, true
	}
	return nil, false
}
