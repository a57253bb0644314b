package filter

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"github.com/twmb/franz-go/pkg/kgo"
)

func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`key == 'a' && value.a in [1, 2u, 1.5, "x", b"\x00", null]`, `!(value.a == 1) || -value.b < -(5) + 3 * (2 - 1) % 4 / 5`, `value.a ? value.b : value.c ? true : false`,
		"has(headers.`content-type`) && headers[\"x\"] == value['in'][0]", `value.l.exists(x, x.a == 1) && value.l.map(x, x + 1).all(y, y > 0)`, `{"a": [1, {}]}["a"] == value`,
		`timestamp > timestamp("2026-01-01T00:00:00Z") - duration("1h")`, `anyHeader(headers, "x", ["a"])`, `math.greatest(value.a, 1) == 1 && sets.contains(value.l, [1])`, `key.matches("^a+$") && key.startsWith(r'\')`,
		`(-value.a).b == 1`, `-(1) == -1 && - -1 == 1 && !(!true)`, `1e300 == value.a || 1e-7 == value.a || -0.0 == value.b`, `"\a\b\f\v\x7f\u00ad\U0001f600" == key`, `.value.a == 1 && dyn(value) == 1`,
		`key.contains("a") || key.endsWith("a") || size(key) == 1 || key.size() > 0`, `key.lowerAscii() + key.upperAscii() == key.trim().reverse()`,
		`key.charAt(0) == "a" && key.indexOf("a", 0) == key.lastIndexOf("a") && key.substring(0, 1) in key.split(",", -1)`,
		`strings.quote(key) == key && ["b", "a"] == ["a"] + [key]`, `math.least([1, 2]) == math.abs(-1) && math.ceil(1.5) == math.round(2.0) && math.bitAnd(1, 3) == 1 && math.isNaN(0.0 / 0.0)`,
		`sets.intersects([1], [1]) && sets.equivalent([1], [1, 1])`, `string(1) == "1" && int("1") == int(1.0) && uint(1) == 1u && double(1) == 1.0 && bytes(key) == b"a" && bool("true")`,
		`timestamp.getHours("Europe/Berlin") == 1 && timestamp.getDayOfWeek() == 1 && duration("1h").getSeconds() > 0`, `value.l.exists_one(x, x == 1) && value.l.filter(x, has(x.a)).size() == 1`,
		`type(value) == map && type(key) == string && type(null) == null_type`, `value.a == value.b == true`, "// comment\ntrue",
	} {
		f.Add(text)
	}
	c := newCompiler(f)
	records := []*kgo.Record{{}, {Key: []byte("a"), Value: []byte(`{"a":1,"b":{"c":"x"},"l":[1,{"a":1}]}`), Headers: []kgo.RecordHeader{{Key: "x", Value: []byte("a")}}}, {Value: []byte("text")}}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := c.Compile(Spec{Expr: text})
		if err != nil || filter == nil {
			return
		}
		again, err := c.Parse(filter.Key())
		if err != nil {
			t.Fatalf("%q has the key %q: %v", text, filter.Key(), err)
		}
		if got, want := again.Key(), filter.Key(); got != want {
			t.Fatalf("%q has the key %q, and that the key %q", text, want, got)
		}
		p, err := c.plan(text)
		if err != nil {
			t.Fatalf("plan %q: %v", text, err)
		}
		for _, rec := range records {
			var r Record
			r.Reset(rec)
			out, _, _ := p.Eval((*activation)(&r))
			if got, want := again.Match(&r), out == types.True; got != want {
				t.Errorf("%q, or %q, shows %s: %v, want %v", text, filter.Key(), describe(rec), got, want)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(`key == "a"`)
	f.Add(`foo(1) && bar`)
	f.Add(`"x" == value.a.b && partition in [99999999999, -1]`)
	c := newCompiler(f)
	f.Fuzz(func(t *testing.T, key string) {
		filter, err := c.Parse(key)
		if err != nil {
			return
		}
		var r Record
		r.Reset(&kgo.Record{Value: []byte(`{"a":1}`)})
		filter.Match(&r)
	})
}

// FuzzScan compares what a tree finds in a text, and what is parsed of it, with
// encoding/json.
func FuzzScan(f *testing.F) {
	for _, text := range append(sampleValues, `{"a":{"b":1},"a":{"c":2}}`, `{"a":{"b":1},"a":3}`, `{"a":1,"a":{"b":2}}`, `{"\u0061":{"\ud83d\ude00":1}} `, `{"a":1}{}`, `{"a":1`, `[{"a":1}]`, ` "a" `, "", strings.Repeat(`{"a":`, 20)+"1"+strings.Repeat("}", 20), `{"":{"":1}}`) {
		f.Add([]byte(text))
	}
	paths := [][]string{nil, {"a"}, {"a", "b"}, {"a", "b", "c"}, {"b"}, {""}, {"", ""}, {"é"}, {"a", "😀"}}
	var all tree
	for _, p := range paths {
		all.add(p)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		valid := utf8.Valid(text) && json.Valid(text) && d.Decode(&want) == nil
		rec := &kgo.Record{Value: append([]byte{}, text...)}
		var scanned, parsed Record
		scanned.Reset(rec)
		scanned.scan(&all, &scanned.values)
		parsed.Reset(rec)
		for i, names := range paths {
			at, ok := want, valid
			for _, name := range names {
				var m map[string]any
				if m, _ = at.(map[string]any); m == nil {
					ok = false
					break
				}
				if at, ok = m[name]; !ok {
					break
				}
			}
			expected := scalar{}
			switch {
			case ok:
				expected = expectedScalar(at)
			case !valid && len(names) == 0:
				expected = textScalar(rec.Value)
			}
			for by, got := range map[string]scalar{"scanned": scanned.values.at[i], "parsed": parsed.member(names)} {
				if got.kind != expected.kind || got.bits != expected.bits || !bytes.Equal(got.text, expected.text) {
					t.Errorf("%q %s at %q: got %+v, want %+v", text, by, names, got, expected)
				}
			}
		}
		if (scanned.form == jsonText) != valid || (parsed.form == jsonText) != valid {
			t.Errorf("%q is JSON: scanned %v, parsed %v, want %v", text, scanned.form, parsed.form, valid)
		}
	})
}

func expectedScalar(v any) scalar {
	switch v := v.(type) {
	case nil:
		return scalar{kind: isNull}
	case bool:
		if v {
			return scalar{kind: isBool, bits: 1}
		}
		return scalar{kind: isBool}
	case string:
		return scalar{kind: isString, text: []byte(v)}
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return scalar{kind: isInt, bits: uint64(i)}
		}
		var u uint64
		if json.Unmarshal([]byte(v), &u) == nil {
			return scalar{kind: isUint, bits: u}
		}
		n, _ := v.Float64()
		return scalar{kind: isDouble, bits: math.Float64bits(n)}
	}
	return scalar{kind: isOther}
}
