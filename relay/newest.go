package relay

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/cursor"
	"spillway/relay/filter"
	"spillway/relay/snapshot"
)

const (
	// mapPatience is how long a page waits for a map that is being loaded. Then it
	// says "later", so that a stream does not take a goroutine meanwhile.
	mapPatience = time.Second
	// maxRestarts is how often a stream may begin its snapshot again, before it
	// gets a plain replay.
	maxRestarts = 3
)

// A stage is what a stream gets before it is an ordinary one.
type stage uint8

const (
	stageOrdinary stage = iota
	stageSnapshot       // the newest record of each key, as of one position
	stageReplay         // all records instead, since there is no room for that
)

// A newest is how far a stream is with its snapshot.
type newest struct {
	Stage    stage    `json:"ns,omitempty"`
	Places   []string `json:"np,omitempty"` // by topic, where in its version the stream is; none: it has not begun
	Topic    int      `json:"nt,omitempty"` // the first that has something left
	Restarts int      `json:"nr,omitempty"`
}

// phase is the mark of the ids that the stream's events carry now. A client that
// comes back with that of a snapshot begins it again.
func (n *newest) phase() cursor.Phase {
	if n.Stage != stageOrdinary {
		return cursor.PhaseSnapshot
	}
	return cursor.PhaseLive
}

// checkCompacted refuses topics whose newest records are not all there.
func (o *Origin) checkCompacted(ctx context.Context, topics []*topicInfo) error {
	for _, t := range topics {
		p, err := o.policies.of(ctx, t.name)
		if err != nil {
			return err
		}
		if !p.compacts() {
			return badf("from=snapshot: topic %s is not compacted (its cleanup.policy is %s), so nobody knows all of its keys; use from=earliest", t.name, p.cleanup)
		}
	}
	return nil
}

// outdated are the gaps of a client that was away for longer than deletes are
// kept, where there is something that it has not seen.
func (o *Origin) outdated(ctx context.Context, topics []*topicInfo, c *cursor.Cursor, pos, head vector, known []gap) (gaps []gap, err error) {
	for i, t := range topics {
		p, err := o.policies.of(ctx, t.name)
		if err != nil {
			return nil, err
		}
		changed := slices.ContainsFunc(known, func(g gap) bool { return g.Topic == t.name && g.Reason == gapTopicChanged })
		// The cursor has whole minutes.
		if !changed && o.now().Sub(c.Time)-time.Minute > p.keepDeletes && (vector{pos[i]}).distance(vector{head[i]}) > 0 {
			gaps = append(gaps, timeGap(t.name, gapCompaction, c.Time))
		}
	}
	return gaps, nil
}

// beginsAnew reports whether what a client has is worth nothing after a gap, if
// it has the newest record of each key.
func beginsAnew(gaps []gap) bool {
	return slices.ContainsFunc(gaps, func(g gap) bool { return g.Reason == gapCompaction || g.Reason == gapTopicChanged })
}

// beginSnapshot makes the stream of a link one that begins with a snapshot.
func (l *link) beginSnapshot(restarts int) {
	l.newest = newest{Stage: stageSnapshot, Restarts: restarts}
	l.Marks, l.Existed, l.Replayed = true, "", 0
}

// restart begins the snapshot of a stream again, and tells the client that what
// it has may not be true any more.
func (o *Origin) restart(p *page) {
	o.hub.snapshots.metrics.restarts.Inc()
	p.link.beginSnapshot(p.link.Restarts + 1)
	p.existed = nil
	for _, t := range p.topics {
		p.control(timeGap(t.name, gapCompaction, p.now).event(), 0)
	}
}

// prepare makes sure that the maps are there which the page needs, or makes it
// one that needs none. It reports whether the view's channel says what leaves
// the view.
func (o *Origin) prepare(ctx context.Context, p *page) (changing bool, err error) {
	if p.link.Stage != stageSnapshot && (!p.query.isChanging() || p.link.Stage == stageReplay) {
		return false, nil
	}
	ended, complete, err := o.hub.awaitKeyMaps(ctx, p.scope)
	if err != nil {
		return false, err
	}
	if !complete && p.link.Stage == stageOrdinary && !p.pos.covers(ended) {
		o.restart(p) // what left the view since then, nobody knows
	}
	if p.link.Stage == stageSnapshot && (!complete || p.link.Restarts > maxRestarts) {
		return false, o.replayInstead(ctx, p)
	}
	return complete && p.query.isChanging(), nil
}

// replayInstead makes the page the first of a plain replay of all that there is.
func (o *Origin) replayInstead(ctx context.Context, p *page) error {
	o.hub.snapshots.metrics.replays.Inc()
	head, err := o.hub.position(p.scope)
	if err != nil {
		return err
	}
	starts, err := o.resolver.starts(ctx, p.scope, head)
	if err != nil {
		return err
	}
	pos, gaps, err := o.resolver.limit(ctx, p.topics, starts, head)
	if err != nil {
		return err
	}
	p.link.newest, p.pos = newest{Stage: stageReplay}, pos
	p.gaps(gaps)
	return nil
}

// snapshotPage adds to the page what it has room for of the snapshot, which for a
// stream with a rate is one event. When all of it has been sent it says that the
// stream is live, and reports true: the page goes on from the snapshot's position.
func (o *Origin) snapshotPage(ctx context.Context, p *page) (done bool, err error) {
	if p.link.Places == nil {
		if err := o.takeSnapshot(ctx, p); err != nil {
			return false, err
		}
		if p.link.Stage == stageReplay {
			return false, nil
		}
	}
	for ; p.link.Topic < len(p.topics); p.link.Topic++ {
		place, err := snapshot.ParsePlace(p.link.Places[p.link.Topic])
		if err != nil {
			return false, err
		}
		more := true
		v, match, err := o.hub.version(p, place.Version)
		if err == nil {
			place.Seen, done, err = v.Page(place.Seen, match, func(r *kgo.Record) bool {
				p.write(p.shown(r))
				more = len(p.out) < p.maxBytes && p.link.Rate == ""
				return more
			})
		}
		if errors.Is(err, snapshot.ErrExpired) {
			o.restart(p)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		p.link.Places[p.link.Topic] = place.String()
		if !done || !more && (p.link.Topic+1 < len(p.topics) || p.link.Rate != "") {
			if done {
				p.link.Topic++
			}
			if !more {
				p.pause = p.link.every()
			}
			p.mark()
			return false, nil
		}
	}
	p.mark()
	p.link.newest, p.link.Marks, p.link.Existed, p.existed = newest{}, false, "", nil
	p.control(controlEvent{name: "live", data: liveData{Replayed: p.link.Replayed}}, 0)
	return true, nil
}

// takeSnapshot chooses the position of which the snapshot is: where the hub is,
// once it has read all that existed. A stream whose rate would take longer than
// versions are kept gets a plain replay.
func (o *Origin) takeSnapshot(ctx context.Context, p *page) error {
	ch, head, err := o.hub.open(ctx, p.scope, p.link.holdRendering())
	if err != nil {
		return err
	}
	if err := o.bound(ctx, p, head); err != nil {
		return err
	}
	if _, _, err := o.hub.attach(ctx, ch, p.scope, p.existed); err != nil {
		return err
	}
	places, pos, records, err := o.hub.versions(p.scope, p.now)
	if err != nil {
		return err
	}
	if p.link.every() > snapshot.KeepFor/time.Duration(max(records, 1)) {
		return o.replayInstead(ctx, p)
	}
	p.link.Places, p.pos, p.minute = places, pos, p.now.Unix()/60
	return nil
}

// A changes is a walker over history of a view that tells what leaves it. Whether
// a record that the filter does not pass takes its key out of the view is not
// known any more: it depends on one that may have been compacted away.
type changes struct {
	*page
	filter    *filter.Filter
	seen      filter.Record
	undecided bool
}

func (c *changes) record(t int, r *kgo.Record) bool {
	c.seen.Reset(r)
	shows := !isTombstone(r) && c.filter.Match(&c.seen)
	if !shows && r.Key != nil {
		c.undecided = true
		return false
	}
	more := c.scanned(recordBytes(r), false)
	return (!shows || c.page.record(t, r)) && more
}

// awaitKeyMaps waits until the maps that the snapshots of a view are taken from
// are there. Where one is too large it reports false, and where each such ended.
func (h *hub) awaitKeyMaps(ctx context.Context, sc scope) (ended vector, complete bool, err error) {
	late := time.NewTimer(mapPatience)
	defer late.Stop()
	for {
		ended, loading, err := h.lookForKeyMaps(ctx, sc)
		if loading == nil {
			return ended, !slices.ContainsFunc(ended, func(at []int64) bool { return at != nil }), err
		}
		select {
		case <-loading.ready:
			h.mu.Lock()
			err := loading.err
			h.mu.Unlock()
			if err != nil && !errors.Is(err, snapshot.ErrTooLarge) {
				return nil, false, unavailable("load a snapshot", err)
			}
		case <-late.C:
			return nil, false, unavailable("take a snapshot", errors.New("it is being loaded"))
		case <-ctx.Done():
			return nil, false, unavailable("take a snapshot", ctx.Err())
		}
	}
}

// lookForKeyMaps returns one that is not there yet, and where those ended that
// were too large.
func (h *hub) lookForKeyMaps(ctx context.Context, sc scope) (ended vector, loading *keyMap, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ended = make(vector, len(sc.topics))
	for i, info := range sc.topics {
		t := h.topics[info.name]
		if t == nil || !t.reading() || t.info.id != info.id {
			return nil, nil, unavailable("take a snapshot", errors.New("a topic stopped being read"))
		}
		switch k := h.keyMap(ctx, t, sc.query.filterOf()); {
		case k.live:
		case k.err != nil:
			ended[i] = slices.Clone(k.at)
			sc.parts().mask(ended[i])
		default:
			loading = k
		}
	}
	return ended, loading, nil
}

// tellsChanges reports whether all maps of a view are live.
func (h *hub) tellsChanges(sc scope) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, info := range sc.topics {
		if t := h.topics[info.name]; t == nil || t.maps.current(sc.query.filterOf()) == nil {
			return false
		}
	}
	return true
}

// versions makes versions of the maps of a view, all as of the position that it
// returns, and counts their records as far as they are of this view alone.
func (h *hub) versions(sc scope, now time.Time) (places []string, at vector, records int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pos, ok := h.positionOf(sc)
	if !ok {
		return nil, nil, 0, unavailable("take a snapshot", errors.New("a topic stopped being read"))
	}
	for _, info := range sc.topics {
		k := h.topics[info.name].maps.current(sc.query.filterOf())
		if k == nil {
			return nil, nil, 0, unavailable("take a snapshot", errors.New("the map is gone"))
		}
		v, err := k.m.Version(now)
		if err != nil {
			return nil, nil, 0, unavailable("take a snapshot", err)
		}
		if sc.query.filterOf() == nil || k.filter != nil {
			records += v.Len()
		}
		places = append(places, snapshot.Place{Version: v.ID()}.String())
	}
	return places, pos.clone(), records, nil
}

// version returns the version that the page reads, and what of it belongs to the
// view; nil: all. The error is snapshot.ErrExpired.
func (h *hub) version(p *page, id string) (*snapshot.Version, func(*kgo.Record) bool, error) {
	f := p.query.filterOf()
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[p.topics[p.link.Topic].name]
	if t == nil || t.maps == nil {
		return nil, nil, snapshot.ErrExpired
	}
	for _, k := range append(slices.Clone(t.maps.parts), t.maps.whole) {
		if k == nil {
			continue
		}
		v, err := k.m.Find(id, p.now)
		if err != nil {
			continue
		}
		k.wanted = stampOf(p.now)
		if f == nil || k.filter != nil {
			return v, nil, nil
		}
		var seen filter.Record
		return v, func(r *kgo.Record) bool {
			seen.Reset(r)
			return f.Match(&seen)
		}, nil
	}
	return nil, nil, snapshot.ErrExpired
}

// keepSnapshots notes that a stream with a snapshot goes on in a channel: as long
// as it has listeners the maps are kept.
func (h *hub) keepSnapshots(ch *channel) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ch.snapshots = true
}

// wantKeyMaps notes that somebody listens who began with a snapshot. Call with
// hub.mu held.
func (v *view) wantKeyMaps(now time.Time) {
	for _, m := range v.topics {
		if k := m.topic.maps.current(v.query.filterOf()); k != nil {
			k.wanted = stampOf(now)
		}
	}
}
