package filter

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
	"github.com/twmb/franz-go/pkg/kgo"
)

func newCompiler(t testing.TB) *Compiler {
	t.Helper()
	c, err := NewCompiler(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func compile(t testing.TB, c *Compiler, s Spec) *Filter {
	t.Helper()
	f, err := c.Compile(s)
	if err != nil {
		t.Fatalf("compile %+v: %v", s, err)
	}
	return f
}

func ruleOf(t testing.TB, c *Compiler, text string) *Rule {
	t.Helper()
	r, err := c.CompileRule(text)
	if err != nil {
		t.Fatalf("compile rule %s: %v", text, err)
	}
	return r
}

func TestKey(t *testing.T) {
	c := newCompiler(t)
	expr := func(text string) Spec { return Spec{Expr: text} }
	tenant := ruleOf(t, c, "value.tenant == claims.tenant")
	level := ruleOf(t, c, `has(claims.admin) && claims.admin || value.tenant in claims.tenants && value.level <= claims.level`)
	claims := func(r *Rule, m map[string]any) Spec { return Spec{Rule: r, Claims: m} }
	for _, tt := range []struct {
		name string
		a, b Spec
		same bool
	}{
		{"spaces", expr("value.a==1"), expr(" value . a  ==\n1 "), true},
		{"quotes", expr(`key == 'a"b'`), expr(`key == "a\"b"`), true},
		{"raw and triple quotes", expr(`key == r"a\b"`), expr(`key == """a\\b"""`), true},
		{"escapes", expr(`key == "\u00e9"`), expr(`key == "é"`), true},
		{"parentheses", expr(`((value.a) == (1)) && (key == "x")`), expr(`value.a == 1 && key == "x"`), true},
		{"parentheses that matter", expr(`(value.a || value.b) && value.c`), expr(`value.a || value.b && value.c`), false},
		{"order of &&", expr(`value.a == 1 && value.b == 2 && value.c > 3`), expr(`value.c > 3 && (value.b == 2 && value.a == 1)`), true},
		{"order of ||", expr(`value.a < 1 || value.b < 2`), expr(`value.b < 2 || value.a < 1`), true},
		{"repeats", expr(`value.a == 1 && value.a == 1`), expr(`value.a == 1`), true},
		{"repeats of ||", expr(`value.a || value.a`), expr(`value.a`), true},
		{"a value is not a bool by itself", expr(`dyn(value.a || value.a) == 5`), expr(`dyn(value.a) == 5`), false},
		{"sides of ==", expr(`1 == value.a`), expr(`value.a == 1`), true},
		{"sides of == with two paths", expr(`value.b == value.a`), expr(`value.a == value.b`), true},
		{"sides of !=", expr(`1 != value.a`), expr(`value.a != 1`), true},
		{"> and <", expr(`value.a > 1`), expr(`1 < value.a`), true},
		{"> is not >=", expr(`value.a > 1`), expr(`value.a >= 1`), false},
		{"sides of -", expr(`value.a - value.b > 0`), expr(`value.b - value.a > 0`), false},
		{"member and index", expr(`value["a"].b == 1`), expr(`value.a["b"] == 1`), true},
		{"member in backquotes", expr("headers.`content-type` == 'x'"), expr(`headers["content-type"] == "x"`), true},
		{"a member that is no name", expr(`value["in"] == 1`), expr("value.`in` == 1"), true},
		{"leading dot", expr(`.value.a == 1`), expr(`value.a == 1`), true},
		{"list of one", expr(`value.a in ["x"]`), expr(`value.a == "x"`), true},
		{"order and repeats of a list", expr(`value.a in ["x", "y", "x"]`), expr(`value.a in ["y", "x"]`), true},
		{"alternatives and a list", expr(`value.a == "x" || value.a == "y"`), expr(`value.a in ["y", "x"]`), true},
		{"other alternatives stay", expr(`value.a == "x" || value.b == "y" || value.a == "z"`), expr(`value.b == "y" || value.a in ["z", "x"]`), true},
		{"order within a macro", expr(`value.l.exists(x, x.a == 1 && x.b == 2)`), expr(`value.l.exists(x, 2 == x.b && x.a == 1)`), true},
		{"has", expr(`has(value.a) && has(value.b)`), expr(`has(value.b) && has(value["a"].b) || has(value.b)`), false},
		{"int and double", expr(`value.a == 1`), expr(`value.a == 1.0`), false},
		{"string and number", expr(`value.a == "1"`), expr(`value.a == 1`), false},
		{"true", Spec{}, expr("true"), true},
		{"true &&", expr("true && value.a == 1"), expr("value.a == 1"), true},
		{"false ||", expr("false || value.a == 1"), expr("value.a == 1 || !true"), true},
		{"nothing", expr("value.a == 1 && false"), expr("false"), true},
		{"choice of constants", expr("true ? value.a : value.b"), expr("value.a"), true},

		{"parameter and expression", Spec{Keys: []string{"a"}}, expr(`key == "a"`), true},
		{"parameters in any order", Spec{Keys: []string{"a", "b"}, Partitions: []int32{2, 1}}, Spec{Keys: []string{"b", "a", "b"}, Expr: "partition in [1, 2]"}, true},
		{"key that is no UTF-8", Spec{Keys: []string{"\xff"}}, expr(`key == b"\xff"`), true},
		{"header parameter", Spec{Headers: map[string][]string{"x": {"b", "a"}}}, expr(`anyHeader(headers, "x", ["a", "b"])`), true},
		{"a header may repeat", Spec{Headers: map[string][]string{"x": {"a"}}}, expr(`headers.x == "a"`), false},
		{"no parameter can be a part of an expression", Spec{Keys: []string{`a" || true || "`}}, expr(`key == "a" || true || ""==""`), false},

		{"same claim", claims(tenant, map[string]any{"tenant": "acme", "sub": "1"}), claims(tenant, map[string]any{"tenant": "acme", "sub": "2"}), true},
		{"claim and filter", claims(tenant, map[string]any{"tenant": "acme"}), expr(`value.tenant == "acme"`), true},
		{"other claim", claims(tenant, map[string]any{"tenant": "acme"}), claims(tenant, map[string]any{"tenant": "evil"}), false},
		{"no claim is not the claim null", claims(tenant, nil), claims(tenant, map[string]any{"tenant": nil}), false},
		{"claim cannot be a part of an expression", claims(tenant, map[string]any{"tenant": `x" || true || "`}), claims(tenant, map[string]any{"tenant": "x"}), false},
		{"admins see everything", claims(level, map[string]any{"admin": true, "tenants": []any{"a"}}), Spec{}, true},
		{"others see theirs", claims(level, map[string]any{"tenants": []any{"b", "a"}, "level": 3.0}), expr(`value.tenant in ["a", "b"] && value.level <= dyn(3)`), true},
		{"a filter only narrows", Spec{Rule: tenant, Claims: map[string]any{"tenant": "acme"}, Expr: "true || value.x"}, expr(`value.tenant == "acme"`), true},
		{"hidden header", Spec{Expr: `headers.x == "a"`, Visible: []string{"y"}}, expr(`headers.x == "a"`), false},
		{"hidden header in a parameter", Spec{Headers: map[string][]string{"x": {"a"}}, Visible: []string{}}, expr("false"), true},
		{"visible header", Spec{Expr: `headers["x"] == "a"`, Visible: []string{"x"}}, expr(`headers.x == "a"`), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := compile(t, c, tt.a), compile(t, c, tt.b)
			if same := a.Key() == b.Key(); same != tt.same {
				t.Errorf("keys %q and %q, same: %v, want %v", a.Key(), b.Key(), same, tt.same)
			}
			for _, f := range []*Filter{a, b} {
				again, err := c.Parse(f.Key())
				if err != nil {
					t.Fatalf("parse %q: %v", f.Key(), err)
				}
				if got, want := again.Key(), f.Key(); got != want {
					t.Errorf("key of the key %q, want %q", got, want)
				}
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	c := newCompiler(t)
	for _, tt := range []struct {
		name, expr   string
		line, column int
		message      string // begins so
	}{
		{"unknown name", `value.a == 1 && vlaue.b == 2`, 1, 17, "unknown name 'vlaue' (did you mean 'value'?); there are key, headers, value"},
		{"claims are for rules", `value.a == claims.a`, 1, 12, "unknown name 'claims'"},
		{"unknown function", `size2(value.a) == 1`, 1, 6, "unknown name 'size2'"},
		{"a single =", `value.a = 1`, 1, 9, "token recognition error"},
		{"second line", "value.a == 1 &&\n  )", 2, 3, "mismatched input ')'"},
		{"characters, not bytes", `key == "é" && vlaue.b`, 1, 15, "unknown name"},
		{"wrong type", `partition == "1"`, 1, 11, "found no matching overload for '_==_' applied to '(int, string)'"},
		{"no bool", `partition + 1`, 1, 1, "a filter is true or false, and this is of type int"},
		{"pattern", `key.matches("(")`, 1, 13, "invalid matches argument"},
		{"large pattern", `key.matches("a{600}b{600}")`, 1, 13, "regex program size"},
		{"pattern of the record", `key.matches(value.p)`, 1, 18, "the pattern of matches must be a literal"},
		{"time", `timestamp > timestamp("yesterday")`, 1, 23, "invalid timestamp argument"},
		{"messages", `google.protobuf.Int32Value{value: 1} == 1`, 1, 27, "there are no messages in filters"},
		{"growing text", `key.replace("a", "b") == "c"`, 1, 12, "replace is not there in filters"},
		{"name of a variable", `value.l.exists(key, key == 1)`, 1, 15, "key is a name of filters"},
		{"loops", `value.a.all(x, x.all(y, y.all(z, z)))`, 1, 30, "comprehension exceeds nesting limit"},
		{"length", `key == "` + strings.Repeat("x", 2048) + `"`, 0, 0, "2057 bytes long; 2048 are the most"},
		{"depth", strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300), 0, 0, "expression recursion limit exceeded"},
		{"no UTF-8", "key == \"\xff\"", 0, 0, "not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Compile(Spec{Expr: tt.expr})
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("error %v, want a *SyntaxError", err)
			}
			if syntax.Line != tt.line || syntax.Column != tt.column || !strings.HasPrefix(syntax.Message, tt.message) {
				t.Errorf("got %d:%d %s, want %d:%d %s", syntax.Line, syntax.Column, syntax.Message, tt.line, tt.column, tt.message)
			}
		})
	}
}

// sample is what random records and filters are made of: little, so that they meet.
var (
	sampleTexts    = []string{"", "a", "b", "é", "10", "\\\"", "\xff"}
	sampleValues   = []string{`null`, `true`, `false`, `0`, `-0`, `1`, `1.0`, `1e0`, `10`, `9007199254740993`, `9007199254740992.0`, `18446744073709551615`, `1e999`, `"a"`, `"\u0061"`, `"\ud800"`, `"é"`, `"10"`, `[1]`, `{}`, `{"a":1}`, `{"a":{"b":"a"}}`, `{"b":"a","b":"b"}`}
	sampleLiterals = []string{`null`, `true`, `false`, `0`, `1`, `1.0`, `1u`, `-1`, `10`, `9007199254740993`, `9007199254740992.0`, `18446744073709551615u`, `"a"`, `"b"`, `"é"`, `"10"`, `"\ufffd"`, `""`, `b"a"`, `b"\xff"`}
	samplePaths    = []string{"key", "headers.x", "headers.y", "value", "value.a", "value.b", "value.a.b", `value["é"]`, "value.a.b.c"}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func randomRecord(r *rand.Rand) *kgo.Record {
	text := func() []byte {
		if r.IntN(8) == 0 {
			return nil
		}
		return []byte(pick(r, sampleTexts))
	}
	rec := &kgo.Record{Topic: "t", Partition: int32(r.IntN(3)), Offset: int64(r.IntN(3)), Timestamp: time.Unix(int64(r.IntN(3)), 0), Key: text()}
	for range r.IntN(4) {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: pick(r, []string{"x", "y", "z"}), Value: text()})
	}
	switch r.IntN(8) {
	case 0:
	case 1:
		rec.Value = []byte(pick(r, sampleTexts))
	case 2:
		rec.Value = []byte(pick(r, sampleValues))
	case 3:
		rec.Value = []byte(`{"a":1} x`)
	default:
		var members []string
		for range r.IntN(4) {
			members = append(members, pick(r, []string{`"a"`, `"b"`, `"\u0062"`, `"é"`, `"c"`})+" : "+pick(r, sampleValues))
		}
		rec.Value = []byte(" {" + strings.Join(members, ", ") + "} ")
	}
	return rec
}

func randomExpr(r *rand.Rand, depth int) string {
	path := pick(r, samplePaths)
	if depth > 0 && r.IntN(2) == 0 {
		a, b := randomExpr(r, depth-1), randomExpr(r, depth-1)
		switch r.IntN(8) {
		case 0:
			return "!(" + a + ")"
		case 1:
			return "(" + a + " ? " + b + " : " + randomExpr(r, depth-1) + ")"
		case 2, 3:
			return "(" + a + " || " + b + ")"
		case 4:
			return "((" + a + ") == (" + b + "))"
		}
		return a + " && " + b
	}
	switch r.IntN(12) {
	case 0:
		return path + " in [" + pick(r, sampleLiterals) + "," + pick(r, sampleLiterals) + "," + pick(r, sampleLiterals) + "]"
	case 1:
		return pick(r, sampleLiterals) + " != " + path
	case 2:
		return path + " == " + pick(r, samplePaths)
	case 3:
		return pick(r, []string{"has(value.a)", "has(headers.x)", "value.a", "(value.a && value.b)", "true", "false", "dyn(true)", "value.exists(m, m == 'a')", "'a' in value", "size(value) == 1"})
	case 4:
		return "partition" + pick(r, []string{" == 1", " in [0, 2]", " > 0"})
	case 5:
		return path + pick(r, []string{" > ", " <= "}) + pick(r, []string{"0", "1.5", `"a"`})
	case 6:
		return `anyHeader(headers, "` + pick(r, []string{"x", "y"}) + `", [` + pick(r, sampleLiterals) + "," + pick(r, sampleLiterals) + "])"
	case 7:
		return pick(r, sampleLiterals) + " == " + path
	}
	return path + " == " + pick(r, sampleLiterals)
}

// TestAgreement compares what we make of expressions with what CEL makes of them
// as they are written.
func TestAgreement(t *testing.T) {
	const filters, records = 400, 200
	c := newCompiler(t)
	r := rand.New(rand.NewPCG(1, 2))
	recs := make([]*kgo.Record, records)
	for i := range recs {
		recs[i] = randomRecord(r)
	}
	var index Index[int]
	var entries []*Entry[int]
	var list []*Filter
	var exprs []string
	want := make([][]bool, filters)
	narrowed := 0
	for i := range filters {
		expr := randomExpr(r, 3)
		f := compile(t, c, Spec{Expr: expr})
		list, exprs = append(list, f), append(exprs, expr)
		entries = append(entries, index.Add(f, i))
		p, err := c.plan(expr)
		if err != nil {
			t.Fatalf("plan %s: %v", expr, err)
		}
		for _, rec := range recs {
			var one Record
			one.Reset(rec)
			got, _, _ := p.Eval((*activation)(&one))
			want[i] = append(want[i], got == types.True)
		}
	}
	var rec Record
	check := func(by string, i, j int, got bool) {
		t.Helper()
		if got != want[i][j] {
			t.Errorf("%s: %s shows %+v: %v, want %v", by, exprs[i], describe(recs[j]), got, want[i][j])
		}
	}
	var postings Postings
	for i, f := range list {
		for j := range recs {
			rec.Reset(recs[j])
			check("Match of "+f.Key(), i, j, f.Match(&rec))
		}
		positions, ok, _ := postings.Candidates(f, someRecords(recs), &rec)
		if !ok {
			continue
		}
		narrowed++
		for j := range recs {
			if want[i][j] && !slices.Contains(positions, int32(j)) {
				t.Errorf("Candidates of %s leave out %s", f.Key(), describe(recs[j]))
			}
		}
	}
	if narrowed < filters/4 {
		t.Errorf("postings helped %d filters of %d", narrowed, filters)
	}
	removed := map[int]bool{}
	for range 3 {
		for j := range recs {
			got := make([]int, filters)
			rec.Reset(recs[j])
			index.Match(&rec, func(i int) { got[i]++ })
			for i := range got {
				if got[i] > 1 || removed[i] && got[i] > 0 {
					t.Fatalf("index visits %s %d times, removed: %v", exprs[i], got[i], removed[i])
				}
				if !removed[i] {
					check("Index", i, j, got[i] > 0)
				}
			}
		}
		for i := range filters {
			if !removed[i] && r.IntN(2) == 0 {
				index.Remove(entries[i])
				removed[i] = true
			}
		}
	}
	for i := range filters {
		if !removed[i] {
			index.Remove(entries[i])
		}
	}
	if len(index.paths) > 0 || len(index.others) > 0 || len(index.tree.root.members) > 0 {
		t.Errorf("the empty index has paths %v", index.paths)
	}
}

func describe(r *kgo.Record) string {
	return "key " + string(r.Key) + ", value " + string(r.Value) + ", " + strings.Join(func() (h []string) {
		for _, x := range r.Headers {
			h = append(h, x.Key+"="+string(x.Value))
		}
		return h
	}(), " ")
}

type someRecords []*kgo.Record

func (s someRecords) Len() int                    { return len(s) }
func (s someRecords) Record(i int, r *kgo.Record) { *r = *s[i] }
