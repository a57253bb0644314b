package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"spillway/relay/filter"
	"spillway/relay/snapshot"
)

const (
	// mapLoads is how many maps are loaded at a time.
	mapLoads = 2
	// mapLoadTimeout bounds how long one takes. A topic for which that is not
	// enough is one that is too large.
	mapLoadTimeout = 10 * time.Minute
	// mapRounds is how often a load goes after what came meanwhile.
	mapRounds = 50
	// backlogRecords and backlogBytes bound the records that the hub keeps for a
	// map of which all but so many have been loaded.
	backlogRecords = 10_000
	backlogBytes   = 8 << 20
	// mapRetry is how long a map that was too large is not tried again.
	mapRetry = 5 * time.Minute
	// mapRest is how long a map is used whose records may be decoded better by
	// another try.
	mapRest = time.Minute
	// mapLinger is how long a map stays at least that nobody wants: who waited for
	// it has still to come.
	mapLinger = 5 * time.Second
)

// A keyMap is a map of a topic's newest records, or of the part of them that a
// filter passes, for all streams that begin with a snapshot. It is loaded from
// history while the hub goes on; from then on it is where the hub is. Guarded by
// hub.mu, but for what says something else.
type keyMap struct {
	topic  *topic
	filter *filter.Filter // nil: all records
	seen   filter.Record  // of whoever applies records: the load, then the hub
	m      *snapshot.Map
	ready  chan struct{} // closed when it is live or has ended
	live   bool
	err    error     // why it ended; wraps snapshot.ErrTooLarge where it did not fit
	ended  time.Time // when it did,
	at     []int64   // and the hub's position then
	wanted stamp     // when somebody was last seen to have use for it

	begun     time.Time
	mayChange atomic.Bool // another try to decode its records may tell more of some

	keeping bool // what the hub reads goes into backlog
	backlog []*kgo.Record
	bytes   int64 // of it
}

// keyMaps are those of a topic.
type keyMaps struct {
	whole *keyMap   // nil: nobody asked
	parts []*keyMap // where whole is too large
}

// keyMapSettings is what the hub needs for them.
type keyMapSettings struct {
	maxBytes int64 // SNAPSHOT_MAX_BYTES
	budget   *snapshot.Budget
	blocks   *blocks
	loads    *semaphore.Weighted
	metrics  keyMapMetrics
	ended    keyMapCounts // of maps that are no more
}

type keyMapMetrics struct {
	loads    prometheus.Counter
	tooLarge prometheus.Counter
	restarts prometheus.Counter
	replays  prometheus.Counter
}

// keyMapCounts are counted by the maps themselves.
type keyMapCounts struct{ nullKeys, evicted atomic.Uint64 }

func (c *keyMapCounts) add(s snapshot.Stats) {
	c.nullKeys.Add(s.NullKeys)
	c.evicted.Add(s.Evicted)
}

func newKeyMapSettings(maxBytes, memory int64, b *blocks, h *hub, reg prometheus.Registerer) *keyMapSettings {
	s := &keyMapSettings{maxBytes: maxBytes, budget: snapshot.NewBudget(memory), blocks: b, loads: semaphore.NewWeighted(mapLoads)}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	s.metrics = keyMapMetrics{
		loads:    counter("spillway_snapshot_loads_total", "Times that a topic was read to know the newest record of each key."),
		tooLarge: counter("spillway_snapshot_too_large_total", "Maps that SNAPSHOT_MAX_BYTES or SNAPSHOT_MEMORY had no room for."),
		restarts: counter("spillway_snapshot_restarts_total", "Snapshots that began again within a stream."),
		replays:  counter("spillway_snapshot_replays_total", "Streams that got a plain replay in place of a snapshot."),
	}
	stats := func(of func(snapshot.Stats) float64) float64 {
		h.mu.Lock()
		defer h.mu.Unlock()
		sum := 0.0
		for _, k := range h.keyMaps {
			sum += of(k.m.Stats())
		}
		return sum
	}
	reg.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "spillway_snapshot_maps", Help: "Maps of newest records that are kept or loaded now.",
		}, func() float64 { return stats(func(snapshot.Stats) float64 { return 1 }) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "spillway_snapshot_keys", Help: "Keys in all maps of newest records.",
		}, func() float64 { return stats(func(s snapshot.Stats) float64 { return float64(s.Keys) }) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "spillway_snapshot_bytes", Help: "Bytes of all maps of newest records and their versions; SNAPSHOT_MEMORY bounds them.",
		}, func() float64 { return float64(s.budget.Used()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "spillway_snapshot_null_keys_total", Help: "Records without a key that snapshots left out.",
		}, func() float64 {
			return float64(s.ended.nullKeys.Load()) + stats(func(s snapshot.Stats) float64 { return float64(s.NullKeys) })
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "spillway_snapshot_versions_evicted_total", Help: "States of maps that went before their readers had read them, for want of memory.",
		}, func() float64 {
			return float64(s.ended.evicted.Load()) + stats(func(s snapshot.Stats) float64 { return float64(s.Evicted) })
		}),
	)
	return s
}

// keyMap returns the map that snapshots of what f passes are taken from: the
// topic's if that fits, else one of its own. It begins to load one where there
// is none. Call with mu held.
func (h *hub) keyMap(ctx context.Context, t *topic, f *filter.Filter) *keyMap {
	if t.maps == nil {
		t.maps = &keyMaps{}
	}
	now := h.now()
	whole := t.maps.whole
	if whole != nil && whole.live && whole.mayChange.Load() && now.Sub(whole.begun) > mapRest {
		h.endKeyMap(whole, errMapClosed)
		if whole = nil; t.maps == nil {
			t.maps = &keyMaps{}
		}
	}
	if whole == nil {
		whole = h.newKeyMap(ctx, t, nil)
		t.maps.whole = whole
	}
	whole.wanted = stampOf(now)
	if f == nil || whole.err == nil {
		return whole
	}
	part := t.maps.part(f)
	if part == nil {
		part = h.newKeyMap(ctx, t, f)
		t.maps.parts = append(t.maps.parts, part)
	}
	part.wanted = stampOf(now)
	return part
}

// current is keyMap where nothing is to be loaded; nil: there is none that is
// live. Call with mu held.
func (s *keyMaps) current(f *filter.Filter) *keyMap {
	if s == nil {
		return nil
	}
	if s.whole != nil && s.whole.live {
		return s.whole
	}
	if f != nil {
		if part := s.part(f); part != nil && part.live {
			return part
		}
	}
	return nil
}

// part returns the map of what f passes, or nil.
func (s *keyMaps) part(f *filter.Filter) *keyMap {
	i := slices.IndexFunc(s.parts, func(k *keyMap) bool { return k.filter.Key() == f.Key() })
	if i < 0 {
		return nil
	}
	return s.parts[i]
}

// newKeyMap begins to load a map. Call with mu held.
func (h *hub) newKeyMap(ctx context.Context, t *topic, f *filter.Filter) *keyMap {
	k := &keyMap{topic: t, filter: f, ready: make(chan struct{}), wanted: stampOf(h.now()), begun: h.now()}
	cfg := snapshot.Config{
		Topic: t.info.name, Deletes: isTombstone, MaxBytes: h.snapshots.maxBytes, Budget: h.snapshots.budget,
		Extra: func(r *kgo.Record) int {
			o := outcomeOf(r)
			if o == nil {
				return 0
			}
			if o.mayChange {
				k.mayChange.Store(true)
			}
			return len(o.raw) + outcomeOverhead
		},
	}
	if f != nil {
		cfg.Match = func(r *kgo.Record) bool {
			k.seen.Reset(r)
			defer k.seen.Reset(nil)
			return f.Match(&k.seen)
		}
	}
	k.m = snapshot.New(cfg)
	h.keyMaps = append(h.keyMaps, k)
	h.snapshots.metrics.loads.Inc()
	name := t.info.name // t.info changes with its partitions
	h.starts.Go(func() { h.loadKeyMap(context.WithoutCancel(ctx), k, name) })
	return k
}

var errMapClosed = errors.New("nobody wants the map any more")

// loadKeyMap reads the topic of that name into the map, up to where the hub is.
func (h *hub) loadKeyMap(ctx context.Context, k *keyMap, name string) {
	ctx, cancel := context.WithTimeout(ctx, mapLoadTimeout)
	defer cancel()
	err := h.snapshots.loads.Acquire(ctx, 1)
	if err == nil {
		begun := time.Now()
		err = h.fillKeyMap(ctx, k)
		h.snapshots.loads.Release(1)
		if err == nil {
			s := k.m.Stats()
			h.log.Info("snapshot was loaded", "topic", name, "filtered", k.filter != nil, "keys", s.Keys, "bytes", s.Bytes, "took", time.Since(begun))
		}
	}
	if err == nil {
		return
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: it could not be read within %v", snapshot.ErrTooLarge, mapLoadTimeout)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.endKeyMap(k, err)
}

// fillKeyMap does so. When it returns nil the map is live.
func (h *hub) fillKeyMap(ctx context.Context, k *keyMap) error {
	h.mu.Lock()
	info, n := k.topic.info, len(k.topic.next)
	h.mu.Unlock()
	pos, err := h.offsets.starts(ctx, info.name, n)
	if err != nil {
		return err
	}
	l := &mapLoad{m: k.m}
	for range mapRounds {
		h.mu.Lock()
		if err := k.err; err != nil {
			h.mu.Unlock()
			return err
		}
		info = k.topic.info
		to := slices.Clone(k.topic.next)
		if (vector{pos}).distance(vector{to}) <= backlogRecords {
			k.keeping = true
		}
		h.mu.Unlock()
		if len(pos) < len(to) {
			starts, err := h.offsets.starts(ctx, info.name, len(to))
			if err != nil {
				return err
			}
			pos = append(pos, starts[len(pos):]...)
		}
		at := vector{pos}
		for !at.covers(vector{to}) && l.err == nil {
			if err := h.snapshots.blocks.walk(ctx, []*topicInfo{info}, at, vector{to}, nil, l); err != nil {
				return err
			}
		}
		if l.err != nil {
			return l.err
		}
		if h.goLive(k) {
			return k.m.Err()
		}
	}
	return fmt.Errorf("%w: records come faster than it can be read", snapshot.ErrTooLarge)
}

// goLive applies what came while the last records were loaded, and makes the map
// one that the hub keeps current. It reports false if too much came.
func (h *hub) goLive(k *keyMap) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k.err != nil {
		return true
	}
	backlog, kept := k.backlog, k.keeping
	k.backlog, k.bytes, k.keeping = nil, 0, false
	if !kept {
		return false
	}
	for _, r := range backlog {
		if _, err := k.m.Apply(r); err != nil {
			return true
		}
	}
	k.m.Live()
	k.live = true
	close(k.ready)
	// What channels have said up to now, they said without the map.
	h.closeChanging(k)
	return true
}

// closeChanging closes the views that say what leaves them by this map. Their
// streams ask again. Call with mu held.
func (h *hub) closeChanging(k *keyMap) {
	for _, in := range slices.Clone(k.topic.changing) {
		if k.filter == nil || k.filter.Key() == in.view.query.filter.Key() {
			h.closeView(in.view)
		}
	}
}

// endKeyMap empties a map for ever. Call with mu held.
func (h *hub) endKeyMap(k *keyMap, err error) {
	if k.err != nil {
		return
	}
	k.err, k.ended, k.at = err, h.now(), slices.Clone(k.topic.next)
	if errors.Is(err, snapshot.ErrTooLarge) {
		h.snapshots.metrics.tooLarge.Inc()
		h.log.Info("snapshot is not kept", "topic", k.topic.info.name, "err", err)
	} else { // the next who wants it tries again
		h.forgetKeyMap(k)
	}
	k.m.Close()
	k.backlog, k.keeping = nil, false
	if k.live {
		k.live = false
		h.closeChanging(k)
		return
	}
	close(k.ready)
}

// forgetKeyMap takes a map out of the look-up. Call with mu held.
func (h *hub) forgetKeyMap(k *keyMap) {
	i := slices.Index(h.keyMaps, k)
	if i < 0 {
		return
	}
	h.snapshots.ended.add(k.m.Stats())
	h.keyMaps = slices.Delete(h.keyMaps, i, i+1)
	s := k.topic.maps
	if s.whole == k {
		s.whole = nil
	}
	s.parts = slices.DeleteFunc(s.parts, func(p *keyMap) bool { return p == k })
	if s.whole == nil && len(s.parts) == 0 {
		k.topic.maps = nil
	}
}

// closeKeyMaps ends all maps of a topic. Call with mu held.
func (h *hub) closeKeyMaps(t *topic) {
	for t.maps != nil {
		k := t.maps.whole
		if k == nil {
			k = t.maps.parts[0]
		}
		h.endKeyMap(k, errMapClosed)
		h.forgetKeyMap(k)
	}
}

// sweepKeyMaps lets go of states that were kept long enough, and of maps that
// nobody has wanted for the linger. Call with mu held.
func (h *hub) sweepKeyMaps(now time.Time) {
	for _, k := range slices.Clone(h.keyMaps) {
		k.m.Expire(now)
		if k.live && slices.ContainsFunc(k.topic.changing, func(in *membership) bool { return k.topic.maps.current(in.view.query.filter) == k }) {
			k.wanted = stampOf(now)
		}
		unwanted := k.live && k.wanted.since(now) > max(h.linger, mapLinger) && k.m.Stats().Versions == 0
		if unwanted || k.err != nil && now.Sub(k.ended) > mapRetry {
			h.endKeyMap(k, errMapClosed)
			h.forgetKeyMap(k)
		}
	}
}

// mapLoad is a walker that applies records.
type mapLoad struct {
	m   *snapshot.Map
	err error
}

func (l *mapLoad) record(_ int, r *kgo.Record) bool {
	_, l.err = l.m.Apply(r)
	return l.err == nil
}

func (*mapLoad) missing(int, int32, int64, int64) {}

func (*mapLoad) scanned(int64, bool) bool { return true }

// take gives the maps record number i of a batch, and adds it to the hits of
// views that it takes something out of.
func (s *keyMaps) take(t *topic, b *batch, i int, r *kgo.Record) {
	if whole := s.whole; whole != nil && whole.live {
		if len(t.changing) > 0 {
			b.leaving(&t.filters, i, whole.m.Newest(r.Key))
		}
		_, _ = whole.m.Apply(r) // see settle
	} else if whole != nil {
		whole.keep(r)
	}
	for _, k := range s.parts {
		if !k.live {
			k.keep(r)
			continue
		}
		if v, err := k.m.Apply(r); err == nil && v == snapshot.Delete && !(s.whole != nil && s.whole.live) {
			for _, in := range t.changing {
				if in.view.query.filter.Key() == k.filter.Key() {
					b.leaves(in, i)
				}
			}
		}
	}
}

// keep takes note of a record for a map that is not there yet.
func (k *keyMap) keep(r *kgo.Record) {
	if !k.keeping {
		return
	}
	if len(k.backlog) >= backlogRecords || k.bytes >= backlogBytes {
		k.keeping, k.backlog, k.bytes = false, nil, 0
		return
	}
	k.backlog = append(k.backlog, detached(r))
	k.bytes += recordBytes(r)
}

// detached copies a record into memory of its own, since that of live records is
// used again.
func detached(r *kgo.Record) *kgo.Record {
	own := &kgo.Record{
		Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), Headers: slices.Clone(r.Headers), Timestamp: r.Timestamp,
		Topic: r.Topic, Partition: r.Partition, Attrs: r.Attrs, Offset: r.Offset,
	}
	for i := range own.Headers {
		h := &own.Headers[i]
		h.Key, h.Value = strings.Clone(h.Key), bytes.Clone(h.Value)
	}
	if o := outcomeOf(r); o != nil {
		own.Context = o // the library's leads to all memory of the batch
	}
	return own
}

// recordBytes is what a record takes with memory of its own.
func recordBytes(r *kgo.Record) int64 {
	n := int64(unsafe.Sizeof(*r)) + int64(len(r.Key)+len(r.Value))
	if o := outcomeOf(r); o != nil {
		n += outcomeOverhead + int64(len(o.raw))
	}
	for i := range r.Headers {
		n += headerOverhead + int64(len(r.Headers[i].Key)+len(r.Headers[i].Value))
	}
	return n
}

// settleKeyMaps ends those maps of a topic that had no room for what they were
// given. Call with mu held.
func (h *hub) settleKeyMaps(t *topic) {
	if s := t.maps; s != nil {
		for _, k := range append(slices.Clone(s.parts), s.whole) {
			if k != nil && k.live {
				if err := k.m.Err(); err != nil {
					h.endKeyMap(k, err)
				}
			}
		}
	}
}
