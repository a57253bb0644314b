package filter

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// order is a record such as shops have.
func order(user string) *kgo.Record {
	return &kgo.Record{
		Topic: "orders", Key: []byte("o-1204"), Headers: []kgo.RecordHeader{{Key: "trace", Value: []byte("4bf92f3577b34da6")}},
		Value: fmt.Appendf(nil, `{"id":1204,"user":%q,"customer":{"id":"c-77","country":"FI","name":"Aino K."},"amount":12.5,"currency":"EUR","paid":true,`+
			`"lines":[{"sku":"A-1","n":2,"price":4.25},{"sku":"B-9","n":1,"price":4}],"note":null,"created":"2026-05-01T10:00:00Z","address":{"street":"Main 1","city":"Oulu","zip":"90100"}}`, user),
	}
}

func BenchmarkIndex(b *testing.B) {
	c := newCompiler(b)
	equal := func(i int) string { return fmt.Sprintf(`value.user == "u%d"`, i) }
	for _, bb := range []struct {
		name    string
		filters int
		expr    func(int) string
	}{
		{"equality", 1, equal},
		{"equality", 100, equal},
		{"equality", 100_000, equal},
		{"equality-and-more", 100_000, func(i int) string { return equal(i%1000) + fmt.Sprintf(" && value.amount > %d", i/1000) }},
		{"expression", 1, func(i int) string { return fmt.Sprintf(`value.amount > %d.5`, i) }},
		{"expression", 10, func(i int) string { return fmt.Sprintf(`value.amount > %d.5`, i) }},
		{"expression", 100, func(i int) string { return fmt.Sprintf(`value.amount > %d.5`, i) }},
		{"loop", 10, func(i int) string { return fmt.Sprintf(`value.lines.exists(l, l.n > %d)`, i) }},
	} {
		b.Run(fmt.Sprintf("kind=%s/filters=%d", bb.name, bb.filters), func(b *testing.B) {
			var x Index[int]
			for i := range bb.filters {
				x.Add(compile(b, c, Spec{Expr: bb.expr(i)}), i)
			}
			var r Record
			rec := order("u7")
			found := 0
			b.SetBytes(int64(len(rec.Value)))
			b.ReportAllocs()
			for b.Loop() {
				r.Reset(rec)
				x.Match(&r, func(int) { found++ })
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(found)/float64(b.N), "found")
		})
	}
}

func BenchmarkScan(b *testing.B) {
	rec := order("u7")
	var t tree
	t.add([]string{"user"})
	t.add([]string{"customer", "country"})
	for _, bb := range []struct {
		name string
		run  func(*Record)
	}{
		{"scan", func(r *Record) { r.scan(&t, &r.values); r.values.reset() }},
		{"parse", func(r *Record) { r.parse() }},
	} {
		b.Run("by="+bb.name, func(b *testing.B) {
			var r Record
			b.SetBytes(int64(len(rec.Value)))
			b.ReportAllocs()
			for b.Loop() {
				r.Reset(rec)
				bb.run(&r)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	c := newCompiler(b)
	rule := ruleOf(b, c, `value.tenant == claims.tenant && value.kind != "internal"`)
	for name, spec := range map[string]Spec{
		"key":        {Keys: []string{"a"}},
		"equality":   {Expr: `value.user == "u7"`},
		"expression": {Expr: `value.amount > 10 && value.lines.exists(l, l.sku.startsWith("A-"))`},
		"rule":       {Rule: rule, Claims: map[string]any{"tenant": "acme"}},
	} {
		b.Run("of="+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				compile(b, c, spec)
			}
		})
	}
}
