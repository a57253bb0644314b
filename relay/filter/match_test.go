package filter

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMatch(t *testing.T) {
	c := newCompiler(t)
	record := func(key, value string, headers ...string) *kgo.Record {
		r := &kgo.Record{Topic: "orders", Partition: 1, Offset: 7, Timestamp: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC), Key: []byte(key), Value: []byte(value)}
		for i := 0; i < len(headers); i += 2 {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
		}
		return r
	}
	tombstone := record("k", "")
	tombstone.Value = nil
	noKey := record("", "1")
	noKey.Key = nil
	for _, tt := range []struct {
		name   string
		expr   string
		record *kgo.Record
		want   bool
	}{
		{"key", `key == "k"`, record("k", "1"), true},
		{"key that is no UTF-8", `key == b"\xff"`, record("\xff", "1"), true},
		{"bytes are no text", `key == b"k"`, record("k", "1"), false},
		{"no key", `key == null`, noKey, true},
		{"empty key", `key == null`, record("", "1"), false},
		{"header", `headers.a == "1"`, record("k", "1", "a", "1"), true},
		{"header that repeats", `headers.a == "1"`, record("k", "1", "a", "1", "a", "2"), false},
		{"header that repeats is a list", `"2" in headers.a`, record("k", "1", "a", "1", "a", "2"), true},
		{"any header", `anyHeader(headers, "a", ["2"])`, record("k", "1", "a", "1", "a", "2"), true},
		{"any header of none", `!anyHeader(headers, "a", ["2"])`, record("k", "1"), true},
		{"no header", `headers.a != "1"`, record("k", "1"), false},
		{"has", `!has(headers.a) && !has(value.b)`, record("k", `{"a":1}`), true},
		{"number of another type", `value.a == 1.0 && value.b == 2`, record("k", `{"a":1,"b":2e0}`), true},
		{"large integer", `value.a == 9007199254740993`, record("k", `{"a":9007199254740993}`), true},
		{"its neighbour", `value.a == 9007199254740993`, record("k", `{"a":9007199254740992}`), false},
		{"larger than an int", `value.a == 18446744073709551615u`, record("k", `{"a":18446744073709551615}`), true},
		{"its neighbour", `value.a == 18446744073709551615u`, record("k", `{"a":18446744073709551614}`), false},
		{"the last of two", `value.a == 2`, record("k", `{"a":1,"a":2}`), true},
		{"not the first", `value.a == 1`, record("k", `{"a":1,"a":2}`), false},
		{"nothing is left of the first", `value.a.b == 1`, record("k", `{"a":{"b":1},"a":{"c":1}}`), false},
		{"escapes", `value.a == "é\n"`, record("k", `{"\u0061":"\u00e9\n"}`), true},
		{"text", `value == "hello"`, record("k", `hello`), true},
		{"JSON text", `value == "hello"`, record("k", `"hello"`), true},
		{"two JSON texts are none", `value == "1 2"`, record("k", `1 2`), true},
		{"empty text", `value == ""`, record("k", ``), true},
		{"bytes", `value == b"\xff"`, record("k", "\xff"), true},
		{"tombstone by key", `key == "k" && partition == 1`, tombstone, true},
		{"tombstone by value", `value.a == 1`, tombstone, false},
		{"tombstone by what is not", `value.a != 1`, tombstone, false},
		{"null", `value.a == null`, record("k", `{"a":null}`), true},
		{"missing is not null", `value.a == null`, record("k", `{}`), false},
		{"wrong type", `value.a > 1`, record("k", `{"a":"2"}`), false},
		{"no bool", `value.a`, record("k", `{"a":1}`), false},
		{"bool", `value.a`, record("k", `{"a":true}`), true},
		{"an error that does not decide", `value.x == 1 || key == "k"`, record("k", `{}`), true},
		{"one of two partitions", `partition in [0, 1]`, record("k", `{}`), true},
		{"two partitions at once", `partition == 0 && partition == 1`, record("k", `{}`), false},
		{"time", `timestamp >= timestamp("2026-05-01T10:00:00Z") && timestamp < timestamp("2026-05-01T10:00:01Z") && timestamp.getHours() == 10`, record("k", `{}`), true},
		{"topic and offset", `topic == "orders" && offset == 7`, record("k", `{}`), true},
		{"loop", `value.l.exists(x, x.sku.startsWith("A-") && x.n > 1)`, record("k", `{"l":[{"sku":"B-1","n":2},{"sku":"A-1","n":2}]}`), true},
		{"pattern", `value.a.matches("^[a-c]+$")`, record("k", `{"a":"abc"}`), true},
		{"functions", `value.a.lowerAscii() == "x" && math.greatest(value.n, 3) == 3 && sets.intersects(value.l, [1])`, record("k", `{"a":"X","n":2,"l":[1,2]}`), true},
		{"choice", `value.a > 1 ? key == "k" : key == "x"`, record("k", `{"a":2}`), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Record
			r.Reset(tt.record)
			if got := compile(t, c, Spec{Expr: tt.expr}).Match(&r); got != tt.want {
				t.Errorf("%s shows %s: %v, want %v", tt.expr, describe(tt.record), got, tt.want)
			}
		})
	}
}

func TestErrsAreCounted(t *testing.T) {
	c := newCompiler(t)
	f := compile(t, c, Spec{Expr: `value.a > 1`})
	var r Record
	for _, value := range []string{`{"a":2}`, `{"a":0}`, `{}`, `{"a":"x"}`} {
		r.Reset(&kgo.Record{Value: []byte(value)})
		f.Match(&r)
	}
	if c.Evaluations() != 4 || c.Errs() != 2 {
		t.Errorf("%d evaluations and %d errors, want 4 and 2", c.Evaluations(), c.Errs())
	}
}

func TestCost(t *testing.T) {
	c, err := NewCompiler(Limits{Cost: 1000})
	if err != nil {
		t.Fatal(err)
	}
	const loops = `value.l.exists(x, value.l.exists(y, x == y))`
	if _, err := c.Compile(Spec{Expr: loops}); err == nil || !strings.Contains(err.Error(), "steps a record; 1000 are the most") {
		t.Errorf("%s: error %v, want that it costs too much", loops, err)
	}
	f := compile(t, c, Spec{Expr: `value.l.exists(x, x == 5)`})
	for _, tt := range []struct {
		elements int
		want     bool
	}{{10, true}, {10_000, false}} {
		var r Record
		r.Reset(&kgo.Record{Value: []byte(`{"l":[` + strings.Repeat("1,", tt.elements) + `5]}`)})
		if got := f.Match(&r); got != tt.want {
			t.Errorf("%d elements: %v, want %v", tt.elements, got, tt.want)
		}
	}
	if got, want := c.Errs(), int64(1); got != want {
		t.Errorf("%d errors, want %d", got, want)
	}
}

func TestPartitions(t *testing.T) {
	c := newCompiler(t)
	for _, tt := range []struct {
		expr string
		want string
	}{
		{`true`, "[] true"},
		{`key == "a"`, "[] true"},
		{`partition in [3, 1]`, "[1 3] false"},
		{`partition == 1 && key == "a"`, "[1] false"},
		{`partition in [1, 2] && partition in [2, 3]`, "[2] false"},
		{`partition == 1 && partition == 2`, "[] true, never"},
		{`partition == -1`, "[] true, never"},
		{`false`, "[] true, never"},
		{`partition == 1 || key == "a"`, "[] true"},
		{`partition > 1`, "[] true"},
	} {
		f := compile(t, c, Spec{Expr: tt.expr})
		p := f.Partitions()
		got := fmt.Sprint(p, p == nil)
		if f.Never() {
			got += ", never"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.expr, got, tt.want)
		}
	}
}

// TestShared lets many goroutines use the same filters and postings.
func TestShared(t *testing.T) {
	c := newCompiler(t)
	var records []*kgo.Record
	for i := range 100 {
		records = append(records, &kgo.Record{Value: fmt.Appendf(nil, `{"a":%d,"b":%d}`, i%10, i)})
	}
	var postings Postings
	var bytes atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var r Record
			for i := range 10 {
				f := compile(t, c, Spec{Expr: fmt.Sprintf(`value.a == %d && value.b > 49`, i)})
				positions, _, grown := postings.Candidates(f, someRecords(records), &r)
				bytes.Add(grown)
				n := 0
				for _, p := range positions {
					if r.Reset(records[p]); f.Match(&r) {
						n++
					}
				}
				if want := 5; len(positions) != 10 || n != want {
					t.Errorf("%d: %d candidates and %d matches, want 10 and %d", i, len(positions), n, want)
				}
			}
		})
	}
	wg.Wait()
	if got, want := bytes.Load(), int64(100*postingBytes+len(`3"a"`)); got != want {
		t.Errorf("postings take %d bytes, want %d", got, want)
	}
}

// TestProgramsAreShared makes sure that filters which differ in a clause have one
// program, and that it goes with them.
func TestProgramsAreShared(t *testing.T) {
	c := newCompiler(t)
	rule := ruleOf(t, c, `value.tenant == claims.tenant && value.kind != "internal"`)
	a := compile(t, c, Spec{Rule: rule, Claims: map[string]any{"tenant": "a"}})
	b := compile(t, c, Spec{Rule: rule, Claims: map[string]any{"tenant": "b"}})
	if a.rest == nil || a.rest != b.rest {
		t.Errorf("programs %p and %p, want the same", a.rest, b.rest)
	}
	runtime.KeepAlive(a)
	runtime.KeepAlive(b)
	a, b = nil, nil
	for deadline := time.Now().Add(30 * time.Second); ; runtime.Gosched() {
		runtime.GC()
		c.programs.mu.Lock()
		n := len(c.programs.byText)
		c.programs.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d programs are kept", n)
		}
	}
}

func TestIndexDoesNotAllocate(t *testing.T) {
	c := newCompiler(t)
	var x Index[int]
	for i := range 100 {
		x.Add(compile(t, c, Spec{Expr: fmt.Sprintf(`value.user == "u%d"`, i)}), i)
		x.Add(compile(t, c, Spec{Keys: []string{fmt.Sprint(i)}}), i)
	}
	var r Record
	rec := order("u7")
	if got := testing.AllocsPerRun(100, func() {
		r.Reset(rec)
		x.Match(&r, func(int) {})
	}); got != 0 {
		t.Errorf("%v allocations a record, want 0", got)
	}
}
