package registry

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/sr"
	"golang.org/x/time/rate"
)

const (
	// firstRest and maxRest are how long the registry is not asked again after
	// the first failure, and after many.
	firstRest = time.Second
	maxRest   = 30 * time.Second

	// maxRestUnusable is the same for a schema that came and does not compile:
	// what an id means never changes, but a reference may come.
	maxRestUnusable = 10 * time.Minute

	// maxFetchTimeouts is how many timeouts a schema with all its references may
	// take. Records wait for one of them.
	maxFetchTimeouts = 10

	// asksPerSecond, after as many as asksAtOnce, bound what random bytes that
	// look like ids make us ask.
	asksPerSecond = 10
	asksAtOnce    = 500

	// maxFailures bounds the ids that are remembered not to be there.
	maxFailures = 10_000

	// entryBytes and textFactor say how much memory a schema takes by its text.
	entryBytes = 4 << 10
	textFactor = 16
)

// A Registry decodes what was written with a schema registry. All methods are
// safe for concurrent use.
type Registry struct {
	cfg     Config
	client  *client
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
	limiter *rate.Limiter

	ctx     context.Context // of what is asked; ends with Close
	end     context.CancelFunc
	flights sync.WaitGroup

	mu      sync.Mutex
	closed  bool             // guarded by mu
	known   map[int]*schema  // guarded by mu
	recent  list.List        // of *schema, the one last used in front; guarded by mu
	bytes   int              // of known; guarded by mu
	asking  map[int]*flight  // guarded by mu
	failed  map[int]*failure // of ids; guarded by mu
	outage  failure          // of the registry as a whole; guarded by mu
	probing bool             // it is asked whether the outage is over; guarded by mu
}

// A decoder appends the JSON of what follows the schema's id: at most limit
// bytes, or errTooLarge.
type decoder interface {
	decode(dst, data []byte, limit int) ([]byte, error)
}

// A schema is ready to decode with.
type schema struct {
	id    int
	kind  Codec
	bytes int
	decoder
	place *list.Element
}

// A flight asks for one schema, for all who want it.
type flight struct {
	patience time.Time // nobody waits longer
	done     chan struct{}
	schema   *schema // set before done is closed
	err      *Error  // likewise
}

// A failure is remembered for a while, which grows.
type failure struct {
	err   *Error
	times int
	until time.Time
}

// New makes a Registry. Close ends it. reg may be nil.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Registry, error) {
	if !cfg.Enabled() {
		return nil, errors.New(`SCHEMA_REGISTRY_URL="": need at least one URL`)
	}
	if cfg.MaxBytes <= 0 {
		return nil, fmt.Errorf("a bound of %d bytes for JSON; must be positive", cfg.MaxBytes)
	}
	cl, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		cfg:     cfg,
		client:  cl,
		log:     log,
		now:     time.Now,
		limiter: rate.NewLimiter(asksPerSecond, asksAtOnce),
		known:   make(map[int]*schema),
		asking:  make(map[int]*flight),
		failed:  make(map[int]*failure),
	}
	r.ctx, r.end = context.WithCancel(context.Background())
	r.metrics = newMetrics(r, reg)
	return r, nil
}

// Close ends what is asked, and waits for it. After it, only known schemas are
// decoded with.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	r.flights.Wait()
	r.client.close()
}

// Decoded is what bytes say.
type Decoded struct {
	JSON     []byte // one JSON text in one line, appended to dst; nil: the bytes are not for a registry to decode
	SchemaID int    // 0 where JSON is nil
}

// Decode appends the JSON of a key or value to dst. It waits for a schema that
// is not known yet, for SCHEMA_REGISTRY_TIMEOUT at most. The error is an *Error,
// or that of ctx, which says nothing about the bytes.
func (r *Registry) Decode(ctx context.Context, dst []byte, codec Codec, data []byte) (Decoded, error) {
	if !Takes(codec, data) {
		return Decoded{}, nil
	}
	id, body, ok := cutID(data)
	if !ok {
		return Decoded{}, r.undecodable(&Error{NotWireFormat, 0, nil})
	}
	s, err := r.schema(ctx, id)
	if err != nil {
		return Decoded{}, r.undecodable(err)
	}
	if codec != Auto && codec != s.kind {
		return Decoded{}, r.undecodable(&Error{OtherSchema, id, fmt.Errorf("it is %v, and the codec is %v", s.kind, codec)})
	}
	out, err := s.decode(dst, body, r.cfg.MaxBytes)
	if err != nil {
		return Decoded{}, r.undecodable(badData(id, err))
	}
	return Decoded{out, id}, nil
}

// Takes reports whether bytes are for a registry to decode.
func Takes(codec Codec, data []byte) bool {
	if codec == Auto {
		_, _, ok := cutID(data)
		return ok
	}
	return codec.UsesRegistry()
}

// cutID takes the wire format apart.
func cutID(data []byte) (id int, body []byte, ok bool) {
	id, body, err := new(sr.ConfluentHeader).DecodeID(data)
	return id, body, err == nil && id > 0 && id <= math.MaxInt32
}

// Ask begins to ask for the schema of a key or value, if it is not known, and
// does not wait: who has many to decode waits only once.
func (r *Registry) Ask(codec Codec, data []byte) {
	id, _, ok := cutID(data)
	if !ok || !Takes(codec, data) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[id] == nil && r.asking[id] == nil && r.refusal(id) == nil {
		r.takeOff(id)
	}
}

// undecodable counts an error.
func (r *Registry) undecodable(err error) error {
	var e *Error
	if errors.As(err, &e) {
		r.metrics.undecodable[e.Reason].Inc()
	}
	return err
}

// schema returns the schema of an id: from memory, or from the registry.
func (r *Registry) schema(ctx context.Context, id int) (*schema, error) {
	r.mu.Lock()
	if s := r.known[id]; s != nil {
		r.recent.MoveToFront(s.place)
		r.mu.Unlock()
		r.metrics.known.Inc()
		return s, nil
	}
	f := r.asking[id]
	if f == nil {
		if err := r.refusal(id); err != nil {
			r.mu.Unlock()
			r.metrics.refused.Inc()
			return nil, err
		}
		f = r.takeOff(id)
	}
	r.mu.Unlock()
	r.metrics.asked.Inc()
	timer := time.NewTimer(f.patience.Sub(r.now()))
	defer timer.Stop()
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timer.C:
		return nil, &Error{Unavailable, id, fmt.Errorf("no answer for %v; it is still awaited", r.cfg.Timeout)}
	}
	if f.err != nil {
		return nil, f.err
	}
	return f.schema, nil
}

// refusal is why an id is not asked for now; nil if it may be. Call with mu
// locked.
func (r *Registry) refusal(id int) error {
	now := r.now()
	switch failed := r.failed[id]; {
	case failed != nil && now.Before(failed.until):
		return failed.err
	case r.closed:
		return &Error{Unavailable, id, errors.New("shutting down")}
	case r.outage.times > 0 && (r.probing || now.Before(r.outage.until)):
		return &Error{Unavailable, id, r.outage.err.Err}
	case !r.limiter.AllowN(now, 1):
		return &Error{Unavailable, id, fmt.Errorf("more than %d ids a second that were not known", asksPerSecond)}
	}
	return nil
}

// takeOff begins to ask for an id. Call with mu locked.
func (r *Registry) takeOff(id int) *flight {
	f := &flight{patience: r.now().Add(r.cfg.Timeout), done: make(chan struct{})}
	r.asking[id] = f
	r.probing = r.outage.times > 0
	r.flights.Go(func() {
		begun := time.Now()
		s, err := r.fetch(id)
		r.metrics.seconds.Observe(time.Since(begun).Seconds())
		r.land(id, f, s, err)
	})
	return f
}

// fetch asks for a schema and makes it ready.
func (r *Registry) fetch(id int) (*schema, *Error) {
	ctx, cancel := context.WithTimeout(r.ctx, maxFetchTimeouts*r.cfg.Timeout)
	defer cancel()
	t, err := r.client.fetch(ctx, id)
	var missing *missingError
	switch {
	case errors.Is(err, errNotFound):
		return nil, &Error{UnknownSchema, id, nil}
	case errors.As(err, &missing):
		return nil, &Error{UnusableSchema, id, err}
	case err != nil:
		return nil, &Error{Unavailable, id, err}
	}
	s := &schema{id: id, bytes: entryBytes + textFactor*t.bytes}
	switch t.schema.Type {
	case sr.TypeAvro:
		s.kind = Avro
		s.decoder, err = newAvro(t.ordered)
	case sr.TypeProtobuf:
		s.kind = Protobuf
		s.decoder, err = newProto(ctx, t.schema.Schema, t.imports)
	case sr.TypeJSON:
		s.kind, s.bytes = JSONSchema, entryBytes
		s.decoder = jsonSchema{}
	default:
		err = fmt.Errorf("of a kind that is not known: %v", t.schema.Type)
	}
	if err != nil {
		return nil, &Error{UnusableSchema, id, err}
	}
	return s, nil
}

// land keeps what a flight has brought, and lets those go who wait for it.
func (r *Registry) land(id int, f *flight, s *schema, err *Error) {
	defer close(f.done)
	f.schema, f.err = s, err
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.asking, id)
	r.probing = false
	switch {
	case err == nil:
		r.metrics.fetches[""].Inc()
		delete(r.failed, id)
		r.keep(s)
	case r.closed:
		return
	default:
		r.metrics.fetches[err.Reason].Inc()
		r.remember(id, err)
	}
	if err != nil && err.Reason == Unavailable {
		r.outage.fail(err, r.now(), maxRest)
		if r.outage.times == 1 {
			r.log.Warn("schema registry unavailable: records that need a new schema are undecodable", "schema", id, "error", err.Err)
		}
		return
	}
	if err != nil && err.Reason == UnusableSchema {
		r.log.Warn("schema is unusable: its records are undecodable", "schema", id, "error", err.Err)
	}
	if r.outage.times > 0 {
		r.log.Info("schema registry answers again", "failures", r.outage.times)
		r.outage = failure{}
	}
}

// remember keeps an id that could not be had. Call with mu locked.
func (r *Registry) remember(id int, err *Error) {
	failed := r.failed[id]
	if failed == nil {
		if len(r.failed) >= maxFailures {
			clear(r.failed)
		}
		failed = new(failure)
		r.failed[id] = failed
	}
	longest := maxRest
	if err.Reason == UnusableSchema {
		longest = maxRestUnusable
	}
	failed.fail(err, r.now(), longest)
}

// fail is one more failure: twice the rest of the last one, but for a tenth, so
// that replicas do not ask together.
func (f *failure) fail(err *Error, now time.Time, longest time.Duration) {
	rest := min(firstRest<<min(f.times, 30), longest)
	f.err, f.until = err, now.Add(rest-rand.N(rest/10))
	f.times++
}

// keep puts a schema into memory, and others out. Call with mu locked.
func (r *Registry) keep(s *schema) {
	s.place = r.recent.PushFront(s)
	r.known[s.id] = s
	r.bytes += s.bytes
	for r.recent.Len() > 1 && (r.recent.Len() > r.cfg.CacheEntries || r.bytes > int(r.cfg.CacheBytes)) {
		oldest := r.recent.Remove(r.recent.Back()).(*schema)
		delete(r.known, oldest.id)
		r.bytes -= oldest.bytes
	}
}
