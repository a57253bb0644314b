package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/filter"
	"spillway/relay/registry"
)

const (
	// jsonFactor is how many times larger than EVENT_MAX_BYTES the JSON may be
	// that a value is decoded to.
	jsonFactor = 4
	// decodeBytes is what records that were decoded take together before
	// something is done with them; one larger record still is decoded.
	decodeBytes = 8 << 20
	// maxPlans bounds the plans that are kept: clients cannot make topics, but
	// there may be very many.
	maxPlans = 10_000
)

// A decoder makes of records what views see of them: keys and values that a
// schema registry knows as JSON, and nothing that the topic's rule hides. It
// comes before everything that looks at a record: filters, projections, forms.
// The nil decoder leaves all as it is.
type decoder struct {
	rules    rules
	registry *registry.Registry // nil: none is configured
	maxBytes int                // a larger value is an oversize event, and not decoded

	mu    sync.Mutex
	plans map[string]*plan // by topic
}

// newDecoder makes the decoder of a configuration; nil where there is nothing
// for one to do. Close ends it.
func newDecoder(cfg *Config, rs rules, log *slog.Logger, reg prometheus.Registerer) (*decoder, error) {
	if rs == nil && !cfg.Registry.Enabled() {
		return nil, nil
	}
	d := &decoder{rules: rs, maxBytes: int(cfg.EventMaxBytes)}
	if cfg.Registry.Enabled() {
		conf := cfg.Registry
		conf.MaxBytes = jsonFactor * d.maxBytes
		var err error
		if d.registry, err = registry.New(conf, log, reg); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// close ends what is asked of the registry. Who waits for it goes on at once.
func (d *decoder) close() {
	if d != nil && d.registry != nil {
		d.registry.Close()
	}
}

// checkCodecs reports a codec that needs a schema registry where there is none.
func (rs rules) checkCodecs(registry bool) error {
	if registry {
		return nil
	}
	var errs []error
	for _, r := range rs {
		if r.Codec.Key.UsesRegistry() {
			errs = append(errs, fmt.Errorf("%q: codec.key %v needs a schema registry; set SCHEMA_REGISTRY_URL", r.pattern, r.Codec.Key))
		}
		if r.Codec.Value.UsesRegistry() {
			errs = append(errs, fmt.Errorf("%q: codec.value %v needs a schema registry; set SCHEMA_REGISTRY_URL", r.pattern, r.Codec.Value))
		}
	}
	return errors.Join(errs...)
}

// A plan is what is done to the records of a topic; nil: nothing.
type plan struct {
	rule       *rule
	key, value registry.Codec
	registry   *registry.Registry // nil: not asked
	maxBytes   int
	always     bool // the rule does something to every record
	keyless    bool // a tombstone is not to show its key
}

// noRule is for topics that no rule names. A key is decoded only where a rule
// says so: one of eight bytes looks as if a schema had written it.
var noRule = func() *rule {
	r := &rule{}
	r.Codec.Key = registry.String
	return r
}()

// ruleOf returns the rule of a topic.
func (d *decoder) ruleOf(topic string) *rule {
	if d == nil {
		return noRule
	}
	return d.known(topic).rule
}

// planFor returns the plan of a topic.
func (d *decoder) planFor(topic string) *plan {
	if d == nil {
		return nil
	}
	if p := d.known(topic); p.registry != nil || p.always || p.keyless {
		return p
	}
	return nil
}

// known is the plan of a topic, worked out once.
func (d *decoder) known(topic string) *plan {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.plans[topic]; p != nil {
		return p
	}
	r := d.rules.of(topic)
	if r == nil {
		r = noRule
	}
	always := r.Header != nil || r.redaction != nil || isFixed(r.Codec.Value)
	p := &plan{r, r.Codec.Key, r.Codec.Value, d.registry, d.maxBytes, always, !r.showsKeys()}
	if d.plans == nil || len(d.plans) >= maxPlans {
		d.plans = make(map[string]*plan)
	}
	d.plans[topic] = p
	return p
}

// isFixed reports whether a value is what the codec says, whatever its bytes
// look like.
func isFixed(c registry.Codec) bool { return c == registry.String || c == registry.Binary }

// decode returns the first of a topic's records as views see them, and those
// that are left: when they take decodeBytes, or when ctx has ended, and then err
// says so. They are the same where nothing is to be done, else copies. It waits
// for schemas that the registry is asked for.
func (d *decoder) decode(ctx context.Context, topic string, records []*kgo.Record) (seen, left []*kgo.Record, err error) {
	p := d.planFor(topic)
	if p == nil {
		return records, nil, nil
	}
	p.ask(records)
	return p.decode(ctx, records)
}

// decodeNow is decode without waiting; waits reports that it would have. Then
// the registry is being asked for what is left.
func (d *decoder) decodeNow(topic string, records []*kgo.Record) (seen, left []*kgo.Record, waits bool) {
	p := d.planFor(topic)
	if p == nil {
		return records, nil, false
	}
	seen, left, err := p.decode(ended, records)
	if err != nil {
		p.ask(left)
	}
	return seen, left, err != nil
}

var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (p *plan) decode(ctx context.Context, records []*kgo.Record) (seen, left []*kgo.Record, err error) {
	first := slices.IndexFunc(records, p.touches)
	if first < 0 {
		return records, nil, nil
	}
	seen = slices.Clone(records)
	copies := make([]kgo.Record, 0, len(records)-first)
	memory, size := make([]byte, 0, len(records[first].Value)), 0 // an empty value is not nil
	for i, r := range records[first:] {
		if !p.touches(r) {
			continue
		}
		if size >= decodeBytes {
			return seen[:first+i], records[first+i:], nil
		}
		copies = append(copies, *r)
		shown := &copies[len(copies)-1]
		if memory, err = p.apply(ctx, shown, memory); err != nil {
			return seen[:first+i], records[first+i:], err
		}
		seen[first+i] = shown
		size += len(shown.Key) + len(shown.Value)
	}
	return seen, nil, nil
}

// touches reports whether views may see a record in another way than it is.
func (p *plan) touches(r *kgo.Record) bool {
	return !r.Attrs.IsControl() && (p.always || p.keyless && r.Value == nil || p.wantsKey(r) || p.wantsValue(r))
}

// wantsKey and wantsValue report whether there is something for the registry.
func (p *plan) wantsKey(r *kgo.Record) bool {
	return p.registry != nil && r.Key != nil && registry.Takes(p.key, r.Key)
}

func (p *plan) wantsValue(r *kgo.Record) bool {
	return p.registry != nil && r.Value != nil && len(r.Value) <= p.maxBytes && registry.Takes(p.value, r.Value)
}

// ask has the registry asked for all schemas that are not known, at the same time.
func (p *plan) ask(records []*kgo.Record) {
	if p.registry == nil {
		return
	}
	for _, r := range records {
		if r.Attrs.IsControl() {
			continue
		}
		if p.wantsKey(r) {
			p.registry.Ask(p.key, r.Key)
		}
		if p.wantsValue(r) {
			p.registry.Ask(p.value, r.Value)
		}
	}
}

// An outcome is what decoding a record has told beside its key and value. It
// travels in kgo.Record.Context, which is there to enrich records.
type outcome struct {
	context.Context
	undecodable string         // why the value cannot be shown; "": it can
	mayChange   bool           // another try may tell otherwise
	keyless     bool           // it is a tombstone whose key is not shown
	raw         []byte         // of such a record: the value; nil where it may hold what a rule hides
	size        int            // of the value as it was produced, in bytes
	schema      int            // id of the value's schema; 0: none
	codec       registry.Codec // of the value, by the topic's rule
}

// outcomeOf returns what decoding has told of a record, or nil.
func outcomeOf(r *kgo.Record) *outcome {
	o, _ := r.Context.(*outcome)
	return o
}

// Content tells filters what a topic's rule says that values are.
func (o *outcome) Content() filter.Content {
	switch o.codec {
	case registry.String:
		return filter.Text
	case registry.Binary:
		return filter.Bytes
	}
	return filter.Guessed
}

// apply makes r, which is a copy, what views see of it. It appends what it
// writes down to memory. A value that cannot be decoded is null to views, and
// outcomeOf tells it from a tombstone. The error is that of ctx.
func (p *plan) apply(ctx context.Context, r *kgo.Record, memory []byte) (grown []byte, err error) {
	o := outcome{Context: context.Background(), size: len(r.Value), codec: p.value, keyless: p.keyless && r.Value == nil}
	if p.wantsKey(r) {
		if r.Key, memory, o.mayChange, err = p.decodeKey(ctx, r.Key, memory); err != nil {
			return memory, err
		}
	}
	if p.wantsValue(r) {
		from := len(memory)
		d, err := p.registry.Decode(ctx, memory, p.value, r.Value)
		var why *registry.Error
		switch {
		case errors.As(err, &why):
			o.undecodable, o.schema, o.mayChange = string(why.Reason), why.SchemaID, o.mayChange || why.Reason.MayChange()
		case err != nil:
			return memory, err
		case d.JSON != nil:
			memory = d.JSON
			r.Value, o.schema = memory[from:len(memory):len(memory)], d.SchemaID
		}
	}
	if p.rule.Header != nil {
		r.Headers = slices.DeleteFunc(slices.Clone(r.Headers), func(h kgo.RecordHeader) bool { return !slices.Contains(*p.rule.Header, h.Key) })
	}
	if o.undecodable != "" && p.rule.redaction == nil {
		o.raw = slices.Clone(r.Value) // the library uses its memory again
	}
	if p.rule.redaction != nil && r.Value != nil && o.undecodable == "" {
		from := len(memory)
		if memory, err = p.rule.redaction.Append(memory, r.Value); err != nil {
			memory, o.undecodable = memory[:from], "redacted" // nobody knows what it holds
		}
		r.Value = memory[from:len(memory):len(memory)]
	}
	if o.undecodable != "" {
		r.Value = nil
	}
	if o.undecodable != "" || o.mayChange || o.keyless || o.schema != 0 || o.size != len(r.Value) || isFixed(o.codec) {
		r.Context = &o
	}
	return memory, nil
}

// decodeKey returns a key as views see it: the text of a JSON string, other
// JSON as it is. One that cannot be decoded stays what it was: it is a name,
// whatever it says.
func (p *plan) decodeKey(ctx context.Context, key, memory []byte) (seen, grown []byte, mayChange bool, err error) {
	from := len(memory)
	d, err := p.registry.Decode(ctx, memory, p.key, key)
	if why := new(registry.Error); errors.As(err, &why) {
		return key, memory, why.Reason.MayChange(), nil
	}
	if err != nil {
		return key, memory, false, err
	}
	memory = d.JSON
	if memory[from] == '"' {
		if text, err := jsontext.AppendUnquote(memory, memory[from:]); err == nil {
			memory, from = text, len(memory)
		}
	}
	return memory[from:len(memory):len(memory)], memory, false, nil
}
