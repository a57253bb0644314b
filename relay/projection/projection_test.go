package projection

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func compile(t testing.TB, fields string, redact ...string) *Projection {
	t.Helper()
	p, err := Compile(fields, redact)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var projections = []struct {
	name   string
	fields string
	redact string // with blanks between the paths
	value  string
	want   string
}{
	{"fields of an object", "a,c", "", `{"a":1,"b":2,"c":{"x":[3]}}`, `{"a":1,"c":{"x":[3]}}`},
	{"the order is the value's", "c,a", "", `{"a":1,"c":2}`, `{"a":1,"c":2}`},
	{"below", "b.c", "", `{"a":1,"b":{"c":2,"d":3}}`, `{"b":{"c":2}}`},
	{"two below the same", "b.c,b.e", "", `{"b":{"c":2,"d":3,"e":4}}`, `{"b":{"c":2,"e":4}}`},
	{"the whole contains its parts", "b.c,b", "", `{"b":{"c":2,"d":3}}`, `{"b":{"c":2,"d":3}}`},
	{"a missing field", "x,b.x", "", `{"a":1,"b":{"c":2}}`, `{"b":{}}`},
	{"nothing of it", "x", "", `{"a":1}`, `{}`},
	{"null is a value", "a", "", `{"a":null}`, `{"a":null}`},
	{"a path that goes on where nothing does", "a.b,c.d", "", `{"a":5,"c":"d","e":1}`, `{}`},
	{"in all elements of an array", "items.price", "", `{"items":[{"price":1,"sku":2},{"sku":3},{"price":null}]}`, `{"items":[{"price":1},{},{"price":null}]}`},
	{"elements keep their places", "a.b", "", `{"a":[1,{"b":2},"x",[{"b":3,"c":4},5],[]]}`, `{"a":[null,{"b":2},null,[{"b":3},null],[]]}`},
	{"an array at the top", "a", "", `[{"a":1,"b":2}, 3]`, `[{"a":1},null]`},
	{"no object", "a", "", `"a"`, `null`},
	{"null itself", "a", "", `null`, `null`},
	{"not JSON", "a", "", `{"a":1`, `null`},
	{"JSON and more", "a", "", `{"a":1} {"a":2}`, `null`},
	{"not UTF-8", "a", "", "{\"a\":\"\xff\"}", `null`},
	{"an empty value", "a", "", ``, `null`},
	{"numbers as they were written", "a", "", `{"a":[1.50,-0,1e400,12345678901234567890123, 0.10E-007]}`, `{"a":[1.50,-0,1e400,12345678901234567890123, 0.10E-007]}`},
	{"blanks inside stay, around go", "a,b", "", " {\n \"a\" : { \"x\" : 1 } ,\t\"b\":\r\n2 } ", `{"a":{ "x" : 1 },"b":2}`},
	{"strings as they were written", "a", "", `{"a":"\u0041\/\n\ud83d\ude00 \ud800"}`, `{"a":"\u0041\/\n\ud83d\ude00 \ud800"}`},
	{"an escaped name", "card", "", `{"\u0063ard":1,"ca\u0072d2":2}`, `{"\u0063ard":1}`},
	{"a name in quotes", `"a.b"."c,d"," "`, "", `{"a.b":{"c,d":1,"c":2},"a":{"b":3}," ":4}`, `{"a.b":{"c,d":1}," ":4}`},
	{"an empty name", `""`, "", `{"":1,"a":2}`, `{"":1}`},
	{"names in other cases are others", "a", "", `{"A":1,"a":2}`, `{"a":2}`},
	{"of repeated members the last", "a", "", `{"a":1,"b":2,"a":3}`, `{"a":3}`},
	{"whatever is escaped in it", "a,b", "", `{"a":1,"b":2,"\u0061":3}`, `{"b":2,"\u0061":3}`},
	{"the last has nothing of it", "a.b", "", `{"a":{"b":1},"a":5}`, `{}`},
	{"repeated below and above", "a.b,c", "", `{"a":{"b":1},"c":1,"a":{"b":2,"b":3},"c":4,"a":{"b":5,"b":6,"b":7}}`, `{"c":4,"a":{"b":7}}`},
	{"repeated inside a whole", "a", "", `{"a":{"b":1,"b":2}}`, `{"a":{"b":1,"b":2}}`},

	{"redacted", "", "value.card", `{"id":1,"card":"4111","x":{"card":2}}`, `{"id":1,"x":{"card":2}}`},
	{"redacted below", "", "value.c.card value.c.cvc", `{"c":{"card":1,"cvc":2,"name":3},"card":4}`, `{"c":{"name":3},"card":4}`},
	{"redacted, all of it", "", "value.c value.c.card", `{"c":{"card":1,"name":3}}`, `{}`},
	{"redacted in arrays", "", "value.c.card", `[{"c":[{"card":1,"x":2},[{"card":3}],"card"]},7]`, `[{"c":[{"x":2},[{}],"card"]},7]`},
	{"no copy of a redacted member survives", "", "value.card", `{"card":1,"a":2,"\u0063ard":3,"card":{"card":4}}`, `{"a":2}`},
	{"nor one below", "", "value.c.card", `{"c":{"card":1},"a":2,"c":{"x":1,"card":2,"\u0063\u0061\u0072\u0064":3}}`, `{"a":2,"c":{"x":1}}`},
	{"nothing to redact in it", "", "value.card", ` "card" `, `"card"`},
	{"nothing to redact below", "", "value.c.card", `{"c":"card","d":5}`, `{"c":"card","d":5}`},
	{"an empty value hides nothing", "", "value.card", ``, ``},
	{"both", "a,c", "value.c.card", `{"a":1,"b":2,"c":{"card":3,"x":4}}`, `{"a":1,"c":{"x":4}}`},
	{"asked for and hidden", "card,a", "value.card", `{"a":1,"card":2}`, `{"a":1}`},
	{"more asked for than hidden", "c.card.number,c.name", "value.c.card", `{"c":{"card":{"number":1},"name":2}}`, `{"c":{"name":2}}`},
	{"less asked for than hidden", "c", "value.c.card.number", `{"c":{"card":{"number":1,"type":2},"name":3}}`, `{"c":{"card":{"type":2},"name":3}}`},
	{"nothing asked for or hidden", "", "", `{"a": not JSON`, `{"a": not JSON`},
}

func TestAppend(t *testing.T) {
	for _, tt := range projections {
		t.Run(tt.name, func(t *testing.T) {
			got, err := compile(t, tt.fields, strings.Fields(tt.redact)...).Append([]byte("before "), []byte(tt.value))
			if string(got) != "before "+tt.want || err != nil {
				t.Errorf("got  %s, %v\nwant before %s", got, err, tt.want)
			}
		})
	}
}

func TestDeepArrays(t *testing.T) {
	deep := strings.Repeat("[", 9000) + `{"card":1,"a":2}` + strings.Repeat("]", 9000)
	got, err := compile(t, "", "value.card").Append(nil, []byte(deep))
	if want := strings.Replace(deep, `"card":1,`, "", 1); string(got) != want || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
	}
}

// What cannot be read might be the very thing that is hidden.
func TestWhatIsNotJSONIsNotShown(t *testing.T) {
	for _, fields := range []string{"", "a"} {
		p := compile(t, fields, "value.card")
		if !p.Redacts() {
			t.Error("a projection that redacts says that it does not")
		}
		for _, value := range []string{`card=4111`, `{"a":1,"card":"4111"`, `{"a":1}{"card":1}`, "{\"c\xffard\":1}", "\x00", " ", `{"a":01}`, `{"a":1,}`, "\ufeff{}",
			strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)} {
			got, err := p.Append([]byte("before"), []byte(value))
			if !errors.Is(err, ErrNotJSON) || string(got) != "before" {
				t.Errorf("%.40q: got %q, %v, want %v", value, got, err, ErrNotJSON)
			}
		}
	}
	if compile(t, "a").Redacts() || compile(t, "").Redacts() {
		t.Error("a projection that hides nothing says that it does")
	}
}

func TestKey(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields string
		redact string
		want   string
	}{
		{"everything", "", "", ""},
		{"in order", "c, a ,b", "", "a,b,c"},
		{"repeats", "a,b,a", "", "a,b"},
		{"the whole and its part", "a.b.c,a.b.d,a.b", "", "a.b"},
		{"the part and its whole", "a,a.b", "", "a"},
		{"quotes that need not be", `"a"."\u0062"`, "", "a.b"},
		{"quotes that must be", `"a.b","|"." ","\"",""`, "", `"","\"","a.b","|"." "`},
		{"other alphabets", "größe,@type,$ref,a-b,a_b,x:y", "", "$ref,@type,a-b,a_b,größe,x:y"},
		{"hidden", "", "value.b value.a.c value.a", "|a,b"},
		{"both", "b,a", "value.card", "a,b|card"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := compile(t, tt.fields, strings.Fields(tt.redact)...)
			if got := p.Key(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			again, err := Parse(tt.want)
			if err != nil || !reflect.DeepEqual(again, p) {
				t.Errorf("%s is read as %v, %v, want %v", tt.want, again, err, p)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	many := strings.Repeat("a.", MaxDepth) + "a"
	paths := make([]string, MaxPaths+1)
	for i := range paths {
		paths[i] = fmt.Sprint("value.", i)
	}
	for _, tt := range []struct {
		name   string
		fields string
		redact []string
		want   string
	}{
		{"nothing between commas", "a,,b", nil, `fields: "a,,b" at 2: a name is missing`},
		{"a comma at the end", "a,", nil, `fields: "a," at 2: a name is missing`},
		{"only a blank", " ", nil, `fields: " " at 1: a name is missing`},
		{"a dot at the end", "a.", nil, "at 2: a name is missing"},
		{"a dot in front", ".a", nil, "at 0: a name is missing"},
		{"two dots", "a..b", nil, "at 2: a name is missing"},
		{"an index", "items[0].price", nil, "at 5: a path goes on in all elements of an array by itself"},
		{"a star", "items.*.price", nil, "at 6: a path goes on in all elements of an array by itself"},
		{"a blank in a name", "a b", nil, `at 2: want a comma`},
		{"a blank behind a dot", "a. b", nil, `at 2: a name with such a character stands in quotes`},
		{"single quotes", "'a'", nil, "at 0: a name with such a character stands in quotes"},
		{"open quotes", `a,"b`, nil, "at 2: the quotes are not closed"},
		{"open quotes behind a backslash", `"b\"`, nil, "at 0: the quotes are not closed"},
		{"no JSON string", `"\x"`, nil, "at 0: not a JSON string"},
		{"text behind quotes", `"a"b`, nil, "at 3: want a comma"},
		{"not UTF-8", "a\xff", nil, "at 1: want a comma"},
		{"a bar", "a|b", nil, "at 1: want a comma"},
		{"too deep", many, nil, "more than 16 names"},
		{"too many", strings.Repeat("a,", MaxPaths) + "a", nil, "more than 100 paths"},
		{"too long", strings.Repeat("a", MaxText+1), nil, "fields: 2049 bytes are too many; at most 2048"},
		{"not in the value", "", []string{"key"}, `redact: "key" does not begin with value`},
		{"the whole value", "", []string{"value"}, `redact: "value" would leave nothing`},
		{"two in one", "", []string{"value.a,value.b"}, `redact: "value.a,value.b" is 2 paths`},
		{"an empty rule", "", []string{""}, `redact: "" at 0: a name is missing`},
		{"too many rules", "", paths, "redact: 101 paths are too many; at most 100"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Compile(tt.fields, tt.redact)
			if err == nil || !strings.Contains(err.Error(), tt.want) || p != nil {
				t.Errorf("got %v, %v, want %s", p, err, tt.want)
			}
		})
	}
	for _, key := range []string{"|", "a|", "|a|b", "a,|b", `"|`} {
		if p, err := Parse(key); err == nil {
			t.Errorf("key %q is read as %v, want an error", key, p)
		}
	}
}

// picked is what is left of a tree: what Append does, by the words of the
// package's page.
func picked(value any, fields [][]string, hidden [][]string) (left any, some bool) {
	whole := slices.ContainsFunc(fields, func(path []string) bool { return len(path) == 0 })
	switch value := value.(type) {
	case map[string]any:
		left := make(map[string]any)
		for name, v := range value {
			f, h := below(fields, name), below(hidden, name)
			if whole {
				f = [][]string{nil}
			}
			if len(f) == 0 || slices.ContainsFunc(h, func(path []string) bool { return len(path) == 0 }) {
				continue
			}
			if v, some := picked(v, f, h); some {
				left[name] = v
			}
		}
		return left, true
	case []any:
		left := make([]any, len(value))
		for i, v := range value {
			left[i], _ = picked(v, fields, hidden)
		}
		return left, true
	}
	if !whole {
		return nil, false
	}
	return value, true
}

// below are the rests of the paths that begin with a name.
func below(paths [][]string, name string) (rests [][]string) {
	for _, path := range paths {
		if len(path) > 0 && path[0] == name {
			rests = append(rests, path[1:])
		}
	}
	return rests
}

func decode(text []byte) (value any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err == nil || !json.Valid(text) {
		return nil, errors.New("more than one value")
	}
	return value, nil
}

func FuzzAppend(f *testing.F) {
	for _, tt := range projections {
		f.Add(tt.fields, strings.ReplaceAll(tt.redact, "value.", ""), tt.value)
	}
	f.Fuzz(wantPicked)
}

// TestRandom is what a fuzzer seldom finds: values whose members are named in
// the paths, and named twice.
func TestRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	name := func() string { return []string{"a", "b", "c"}[rng.IntN(3)] }
	var value func(depth int) string
	value = func(depth int) string {
		kind := rng.IntN(3 + depth)
		if kind < 3 {
			return []string{"1.0", "null", `"\u0061"`}[kind]
		}
		var parts []string
		array := rng.IntN(3) == 0
		for range rng.IntN(5) {
			part := value(depth - 1)
			if !array {
				part = []string{`"`, `"\u0061`, ` "`}[rng.IntN(3)] + name() + `" :` + part
				part = strings.Replace(part, `\u0061a`, `\u0061`, 1)
			}
			parts = append(parts, part)
		}
		if array {
			return "[" + strings.Join(parts, ",") + "]"
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	paths := func(separator string) string {
		paths := make([]string, rng.IntN(4))
		for i := range paths {
			path := []string{name()}
			for rng.IntN(2) == 0 {
				path = append(path, name())
			}
			paths[i] = strings.Join(path, ".")
		}
		return strings.Join(paths, separator)
	}
	for range 50_000 {
		if wantPicked(t, paths(","), paths(" "), value(4)); t.Failed() {
			return
		}
	}
}

// wantPicked compares what Append leaves with what is left of the tree.
func wantPicked(t *testing.T, fields, redact, value string) {
	t.Helper()
	hide := strings.Fields(redact)
	for i := range hide {
		hide[i] = "value." + hide[i]
	}
	p, err := Compile(fields, hide)
	if err != nil {
		return
	}
	again, err := Parse(p.Key())
	if err != nil || again.Key() != p.Key() {
		t.Fatalf("key %s is read as %s, %v", p.Key(), again.Key(), err)
	}
	if p == nil {
		return
	}
	got, err := p.Append(nil, []byte(value))
	tree, notJSON := decode([]byte(value))
	if notJSON != nil || !utf8.ValidString(value) {
		want := error(nil)
		if p.Redacts() && value != "" {
			want = ErrNotJSON
		}
		if !errors.Is(err, want) || (err == nil && value != "" && string(got) != "null") {
			t.Fatalf("of %q, which is not JSON: %q, %v, want %v", value, got, err, want)
		}
		return
	}
	if err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	keep, drop := [][]string{nil}, [][]string(nil)
	if fields != "" {
		keep, _ = parse(fields)
	}
	for _, path := range hide {
		paths, _ := parse(path)
		drop = append(drop, paths[0][1:])
	}
	want, _ := picked(tree, keep, drop)
	left, err := decode(got)
	if err != nil || !reflect.DeepEqual(left, want) {
		t.Errorf("%q of %q is %s, %v\nwant %v", p.Key(), value, got, err, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, key := range []string{"", "a,b.c", `"a.b".c|d`, "|card", `"\u0061","|"`, "a|", "größe"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		p, err := Parse(key)
		if err != nil {
			return
		}
		again, err := Parse(p.Key())
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%q has the key %q, which is read as %v, %v", key, p.Key(), again, err)
		}
	})
}

const order = `{"id":1204,"customer":{"name":"Ann","card":{"number":"4111","type":"visa"}},"amount":12.50,"paid":true,"lines":[{"sku":"A-1","n":2,"price":5.25},{"sku":"B-9","n":1,"price":2.00}],"note":null}`

// raceEnabled is set where the race detector is on, under which a pool loses
// some of what it is given.
var raceEnabled bool

func TestAppendAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools lose what they are given")
	}
	dst, value := make([]byte, 0, 1024), []byte(strings.Replace(order, "card", `\u0063ard`, 1))
	for _, p := range []*Projection{compile(t, "id,lines.price"), compile(t, "", "value.customer.card"), compile(t, "id,customer", "value.customer.card")} {
		if n := testing.AllocsPerRun(1000, func() { dst, _ = p.Append(dst[:0], value) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", p.Key(), n)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	large := []byte(`{"id":7,"text":"` + strings.Repeat("x", 10_000) + `","lines":[` + strings.Repeat(`{"sku":"A-1","price":5.25},`, 500) + `{}]}`)
	for _, value := range []struct {
		name string
		text []byte
	}{{"order", []byte(order)}, {"large", large}} {
		for _, of := range []struct {
			name   string
			fields string
			redact []string
		}{{"fields", "id,lines.price", nil}, {"redact", "", []string{"value.customer.card"}}} {
			b.Run(fmt.Sprintf("value=%s/by=%s", value.name, of.name), func(b *testing.B) {
				p := compile(b, of.fields, of.redact...)
				b.SetBytes(int64(len(value.text)))
				b.ReportAllocs()
				var dst []byte
				for b.Loop() {
					var err error
					if dst, err = p.Append(dst[:0], value.text); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("value=%s/by=json.Valid", value.name), func(b *testing.B) { // the floor: to read it once
			b.SetBytes(int64(len(value.text)))
			for b.Loop() {
				if !json.Valid(value.text) {
					b.Fatal("not JSON")
				}
			}
		})
	}
}
