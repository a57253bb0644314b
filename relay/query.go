package relay

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/filter"
	"spillway/relay/projection"
	"spillway/relay/registry"
)

// A query is what a view shows of its topics' records: which, by a filter, and
// what of their values, by a projection. It is never changed. The nil query
// shows all of everything.
type query struct {
	text   queryText
	filter *filter.Filter         // nil: every record
	fields *projection.Projection // nil: the whole value
	key    string                 // canonical: equal queries have equal keys

	// changing says that the view tells of keys that leave it: those whose
	// newest record the filter does not pass, while an older one was passed.
	// Such a view begins with a snapshot.
	changing bool
}

// A queryText is a query as links carry it. What it holds is canonical, so that
// equal queries have equal links.
type queryText struct {
	Filter string `json:"fi,omitempty"`
	Fields string `json:"fs,omitempty"`

	Changing bool `json:"ch,omitempty"` // query.changing
}

// filterOf, textOf, isChanging and partsOf are for queries that may be nil.
func (q *query) filterOf() *filter.Filter {
	if q == nil {
		return nil
	}
	return q.filter
}

func (q *query) textOf() queryText {
	if q == nil {
		return queryText{}
	}
	return q.text
}

func (q *query) isChanging() bool { return q != nil && q.changing }

func (q *query) partsOf() parts {
	return q.filterOf().Partitions()
}

// parts are the partitions that a view reads of each of its topics, in
// ascending order; nil: all. In the positions of such a view all others are at
// offset 0, whatever happens to them.
type parts []int32

func (p parts) has(partition int) bool {
	if p == nil {
		return true
	}
	_, found := slices.BinarySearch(p, int32(partition))
	return found
}

// count is how many of n partitions are read.
func (p parts) count(n int) int {
	if p == nil {
		return n
	}
	within, _ := slices.BinarySearch(p, int32(n))
	return within
}

// mask puts the partitions of v that are not read at offset 0.
func (p parts) mask(v ...[]int64) {
	if p == nil {
		return
	}
	for _, offsets := range v {
		for i := range offsets {
			if !p.has(i) {
				offsets[i] = 0
			}
		}
	}
}

// queries makes queries, and remembers those that were made not long ago:
// clients ask for the same ones again and again, and every page of a stream does.
type queries struct {
	compiler *filter.Compiler
	decoder  *decoder // for the filters of rules

	mu     sync.Mutex
	recent map[string]*query
	older  map[string]*query // what recent was before it was full
}

// maxQueries bounds each of the two.
const maxQueries = 4096

func newQueries(limits filter.Limits, d *decoder, reg prometheus.Registerer) (*queries, error) {
	compiler, err := filter.NewCompiler(limits)
	if err != nil {
		return nil, err
	}
	counter := func(name, help string, count func() int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(count()) })
	}
	reg.MustRegister(
		counter("spillway_expression_evaluations_total", "Times that an expression was evaluated for a record; what a look-up decides is not among them.", compiler.Evaluations),
		counter("spillway_expression_errors_total", "Evaluations that erred, as for a member that is missing, or took more than FILTER_MAX_COST; the record is not shown.", compiler.Errs),
		counter("spillway_filters_refused_total", "Filters, and other selections, that were longer or would cost more than FILTER_MAX_BYTES and FILTER_MAX_COST let them.", compiler.Refused),
	)
	return &queries{compiler: compiler, decoder: d}, nil
}

// remembered returns the query that was made of a text, or makes it.
func (qs *queries) remembered(text string, compile func() (*query, error)) (*query, error) {
	qs.mu.Lock()
	q, known := qs.recent[text]
	if !known {
		if q, known = qs.older[text]; known {
			qs.remember(text, q)
		}
	}
	qs.mu.Unlock()
	if known {
		return q, nil
	}
	q, err := compile()
	if err != nil {
		return nil, err
	}
	qs.mu.Lock()
	defer qs.mu.Unlock()
	qs.remember(text, q)
	return q, nil
}

// remember adds a query. Call with mu held.
func (qs *queries) remember(text string, q *query) {
	if qs.recent == nil || len(qs.recent) >= maxQueries {
		qs.older, qs.recent = qs.recent, make(map[string]*query)
	}
	qs.recent[text] = q
}

// of makes the query that a link names.
func (qs *queries) of(text queryText) (*query, error) {
	if text == (queryText{}) {
		return nil, nil
	}
	return qs.remembered(text.memo(), func() (*query, error) {
		f, err := qs.compiler.Parse(text.Filter)
		if err != nil {
			return nil, err
		}
		fields, err := projection.Parse(text.Fields)
		if err != nil {
			return nil, err
		}
		return newQuery(f, fields, text.Changing), nil
	})
}

// asked makes the query that a request asks for. text is all of it, in any form
// that other requests have, and changing says that it begins with a snapshot. The
// error is a *badRequest.
func (qs *queries) asked(text string, spec filter.Spec, fields string, changing bool) (*query, error) {
	name := "request\x00"
	if changing {
		name = "changing " + name
	}
	if spec.Visible != nil {
		name = "bare " + name // in front, where no name of a topic can say it
	}
	return qs.remembered(name+text, func() (*query, error) {
		f, err := qs.compiler.Compile(spec)
		if err != nil {
			return nil, badf("%v", err)
		}
		shown, err := projection.Compile(fields, nil)
		if err != nil {
			return nil, badf("%v", err)
		}
		q := newQuery(f, shown, changing)
		if q == nil {
			return nil, nil
		}
		// The link that follows is not to be compiled again.
		return qs.remembered(q.text.memo(), func() (*query, error) { return q, nil })
	})
}

// memo is what a query is remembered by that a link names.
func (t queryText) memo() string {
	name := "link\x00"
	if t.Changing {
		name = "changing link\x00"
	}
	return name + t.Filter + "\x00" + t.Fields
}

func newQuery(f *filter.Filter, fields *projection.Projection, changing bool) *query {
	if f == nil && fields == nil {
		return nil
	}
	changing = changing && !f.ByKey() // no key ever leaves that one
	q := &query{filter: f, fields: fields, changing: changing, text: queryText{Filter: f.Key(), Fields: fields.Key(), Changing: changing}}
	q.key = q.text.Filter
	if fields != nil {
		q.key += "\x00" + q.text.Fields
	}
	if changing {
		q.key += "\x00\x00changing"
	}
	return q
}

// project makes of shown, which is a copy of a record, what the query shows of
// it. It appends the value to memory.
func (q *query) project(shown *kgo.Record, memory []byte) (grown []byte) {
	if q.fields == nil || shown.Value == nil {
		return memory
	}
	if o := outcomeOf(shown); o != nil && isFixed(o.codec) { // text and bytes have no members
		null := *o
		null.codec = registry.Auto
		shown.Value, shown.Context = []byte("null"), &null
		return memory
	}
	from := len(memory)
	grown, err := q.fields.Append(memory, shown.Value)
	if err != nil { // it never is where nothing is hidden
		shown.Value = []byte("null")
		return memory
	}
	shown.Value = grown[from:len(grown):len(grown)]
	return grown
}
