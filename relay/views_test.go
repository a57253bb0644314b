package relay

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// queryOf is the query that parameters ask for.
func queryOf(t testing.TB, params string) *query {
	t.Helper()
	values, err := url.ParseQuery(params)
	if err != nil {
		t.Fatal(err)
	}
	q, err := new(selection).parseQuery(values, testQueries())
	if err != nil {
		t.Fatalf("%s: %v", params, err)
	}
	return q
}

// forget lets go of what was made not long ago.
func (qs *queries) forget() {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	qs.recent, qs.older = nil, nil
}

// openQuery is mustOpen for what of one topic a query shows.
func (h *hub) openQuery(t testing.TB, info *topicInfo, params string) *channel {
	t.Helper()
	ch, _, err := h.open(t.Context(), scope{[]*topicInfo{info}, queryOf(t, params)}, plain)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// sales are records as shops have them, of users u0 to u9999 in turn.
func sales(topic string, n int) []*kgo.Record {
	records := make([]*kgo.Record, n)
	for i := range records {
		user := fmt.Sprint("u", i%10_000)
		records[i] = &kgo.Record{
			Topic: topic, Offset: int64(5 + i), Timestamp: noon.Add(time.Duration(i) * time.Millisecond), Key: []byte(user),
			Value: fmt.Appendf(nil, `{"id":%d,"user":%q,"customer":{"country":"FI","name":"Aino K."},"amount":12.5,"currency":"EUR",`+
				`"lines":[{"sku":"A-1","n":2,"price":4.25}],"created":"2026-05-01T10:00:00Z"}`, i, user),
		}
	}
	return records
}

// Which views have a record takes a look-up for each path that filters look at,
// whatever the number of views, and one that has none of a batch is not touched.
func TestRecordsReachTheirViewsAlone(t *testing.T) {
	h, _, infos := newTestHub(t, 1)
	const views = 2000
	channels := make([]*channel, views)
	for i := range channels {
		channels[i] = h.openQuery(t, infos[0], fmt.Sprintf("key=u%d", i))
	}
	byValue := h.openQuery(t, infos[0], "filter=value.user=='u7'")
	evaluations := testQueries().compiler.Evaluations()
	h.process(&haul{poll: 1, topic: infos[0].name}, sales(infos[0].name, 100))
	for i, ch := range channels {
		if got, want := ch.index.next-1, uint64(1); i < 100 && got != want {
			t.Errorf("the view of u%d has %d records, want %d", i, got, want)
		} else if i >= 100 && (got != 0 || ch.stale) {
			t.Errorf("the view of u%d has %d records, stale %v, want to have heard of none", i, got, ch.stale)
		}
	}
	if got := byValue.index.next - 1; got != 1 {
		t.Errorf("the view by value has %d records, want 1", got)
	}
	if n := testQueries().compiler.Evaluations() - evaluations; n != 0 {
		t.Errorf("%d expressions were evaluated, want none", n)
	}
}

// BenchmarkProcess is what records of a topic with many views cost, a thousand
// in a batch. Of kind=whole each record is written for one channel, which is the
// least that delivering it can cost; kind=none has no view, the floor of all.
func BenchmarkProcess(b *testing.B) {
	amount := func(i int) string { return fmt.Sprintf("filter=value.amount>%d.25", 12+i) }
	for _, bb := range []struct {
		kind   string
		views  int
		params func(i int) string
	}{
		{"none", 0, nil},
		{"whole", 1, func(int) string { return "" }},
		{"key,hit=none", 1, func(i int) string { return fmt.Sprint("key=x", i) }},
		{"key,hit=none", 100, func(i int) string { return fmt.Sprint("key=x", i) }},
		{"key,hit=none", 100_000, func(i int) string { return fmt.Sprint("key=x", i) }},
		{"key,hit=all", 100_000, func(i int) string { return fmt.Sprint("key=u", i) }},
		{"value,hit=none", 1, func(i int) string { return fmt.Sprintf("filter=value.user=='x%d'", i) }},
		{"value,hit=none", 100, func(i int) string { return fmt.Sprintf("filter=value.user=='x%d'", i) }},
		{"value,hit=none", 100_000, func(i int) string { return fmt.Sprintf("filter=value.user=='x%d'", i) }},
		{"value,hit=all", 100_000, func(i int) string { return fmt.Sprintf("filter=value.user=='u%d'", i) }},
		{"expression,hit=none", 1, amount},
		{"expression,hit=none", 10, amount},
		{"expression,hit=none", 100, amount},
	} {
		h, g, infos := newTestHub(b, 1)
		g.log.listeners = 1
		for i := range bb.views {
			h.openQuery(b, infos[0], bb.params(i))
		}
		b.Run(fmt.Sprintf("kind=%s/views=%d", bb.kind, bb.views), func(b *testing.B) {
			records := sales(infos[0].name, 1000)
			b.SetBytes(int64(len(records) * len(records[0].Value)))
			b.ReportAllocs()
			for b.Loop() {
				h.process(&haul{poll: 1, topic: infos[0].name}, records)
				for _, r := range records {
					r.Offset += 1000
				}
			}
			b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "records/s")
		})
	}
}
