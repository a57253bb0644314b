package relay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/registry"
)

// A decoder makes of records what views see of them: keys and values that a
// schema registry knows as JSON, and nothing that the topic's rule hides. It
// comes before everything that looks at a record: filters, projections, forms.
type decoder struct {
	rules    rules
	registry *registry.Registry // nil: none is configured

	mu    sync.Mutex
	plans map[string]*plan // by topic
}

// A plan is what is done to the records of a topic; nil: nothing.
type plan struct {
	rule       *rule
	key, value registry.Codec
	registry   *registry.Registry // nil: not asked
}

// noRule is for topics that no rule names. A key is decoded only where a rule
// says so: one of eight bytes looks as if a schema had written it.
var noRule = func() *rule {
	r := &rule{}
	r.Codec.Key = registry.String
	return r
}()

// maxPlans bounds the plans that are kept: clients cannot make topics, but
// there may be very many.
const maxPlans = 10_000

// planFor returns the plan of a topic.
func (d *decoder) planFor(topic string) *plan {
	if d == nil || d.rules == nil && d.registry == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p, known := d.plans[topic]
	if known {
		return p
	}
	r := d.rules.of(topic)
	if r == nil {
		r = noRule
	}
	if d.registry != nil || r.Header != nil || r.redaction != nil {
		p = &plan{rule: r, key: r.Codec.Key, value: r.Codec.Value, registry: d.registry}
	}
	if d.plans == nil || len(d.plans) >= maxPlans {
		d.plans = make(map[string]*plan)
	}
	d.plans[topic] = p
	return p
}

// decode returns the records of a topic as views see them: the same where
// nothing is to be done, else copies. It may wait for the registry.
func (d *decoder) decode(ctx context.Context, topic string, records []*kgo.Record) []*kgo.Record {
	p := d.planFor(topic)
	if p == nil {
		return records
	}
	copies := make([]kgo.Record, len(records))
	seen := make([]*kgo.Record, len(records))
	for i, r := range records {
		if r.Attrs.IsControl() {
			seen[i] = r
			continue
		}
		copies[i] = *r
		seen[i] = &copies[i]
		p.apply(ctx, seen[i])
	}
	return seen
}

// An outcome is what decoding a record has told beside its key and value. It
// travels in kgo.Record.Context, which is there to enrich records.
type outcome struct {
	undecodable string // why the value cannot be shown; "": it can
	raw         []byte // of such a record: the value; nil where it may hold what a rule hides
	size        int    // of the value as it was produced, in bytes
	schema      int    // id of the value's schema; 0: none
}

type outcomeKey struct{}

// outcomeOf returns what decoding has told of a record, or nil.
func outcomeOf(r *kgo.Record) *outcome {
	if r.Context == nil {
		return nil
	}
	o, _ := r.Context.Value(outcomeKey{}).(*outcome)
	return o
}

// apply makes r, which is a copy, what views see of it. A value that cannot be
// decoded is null to them, and outcomeOf tells it from a tombstone.
func (p *plan) apply(ctx context.Context, r *kgo.Record) {
	o := outcome{size: len(r.Value), raw: r.Value}
	if p.registry != nil {
		if d, err := p.registry.Decode(ctx, nil, p.key, r.Key); err == nil && d.JSON != nil {
			r.Key = d.JSON // one that cannot be decoded stays as it is: it is a name, whatever it says
		}
		if r.Value != nil {
			d, err := p.registry.Decode(ctx, nil, p.value, r.Value)
			switch {
			case err != nil:
				o.undecodable = reasonOf(err)
			case d.JSON != nil:
				r.Value, o.schema = d.JSON, d.SchemaID
			}
		}
	}
	if p.rule.Header != nil {
		r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), func(h kgo.RecordHeader) bool { return !slices.Contains(*p.rule.Header, h.Key) })
	}
	if p.rule.redaction != nil {
		o.raw = nil
		if r.Value != nil && o.undecodable == "" {
			left, err := p.rule.redaction.Append(nil, r.Value)
			if err != nil {
				o.undecodable = "redacted" // nobody knows what it holds
			}
			r.Value = left
		}
	}
	if o.undecodable != "" {
		r.Value = nil
	}
	if o.undecodable != "" || o.schema != 0 {
		r.Context = context.WithValue(context.Background(), outcomeKey{}, &o)
	}
}

// reasonOf is what a client is told of an error of the registry.
func reasonOf(err error) string {
	var e *registry.Error
	if errors.As(err, &e) {
		return string(e.Reason)
	}
	return strings.ToLower(string(registry.Unavailable))
}
