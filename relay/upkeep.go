package relay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// failed handles an error of one partition's reading.
func (h *hub) failed(topicName string, partition int32, err error) {
	var loss *kgo.ErrDataLoss
	lost := errors.As(err, &loss) || errors.Is(err, kerr.OffsetOutOfRange)
	gone := errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[topicName]
	if t == nil || !t.reading() {
		return
	}
	if lost || gone {
		h.restart(t, partition, err)
	} else {
		h.warn(t, partition, err, false)
	}
}

// restart resets a topic of which a partition cannot be read on where it was.
// The client would repeat the error without back-off. Every stream asks its
// link, and the history it gets says what is missing. Call with mu held.
func (h *hub) restart(t *topic, partition int32, err error) {
	h.reset(t)
	h.catalog.doubt(t.info)
	h.warn(t, partition, err, true)
}

// warn logs why reading stopped, not too often. Call with mu held.
func (h *hub) warn(t *topic, partition int32, err error, reset bool) {
	now := h.now()
	if now.Sub(h.warned) < warnInterval {
		h.swallowed++
		return
	}
	h.log.Warn("reading stopped", "topic", t.info.name, "partition", partition, "reset", reset, "err", err, "others", h.swallowed)
	h.warned, h.swallowed = now, 0
}

// reset ends the reading of a topic and all its channels: streams that hold
// them ask their next link, which starts it again. Call with mu held.
func (h *hub) reset(t *topic) {
	h.metrics.resets.Inc()
	for len(t.views) > 0 {
		h.closeView(t.views[len(t.views)-1].view)
	}
	h.drop(t)
}

// closeView closes a view's channels, and so the view. Call with mu held.
func (h *hub) closeView(v *view) {
	for len(v.channels) > 0 {
		h.closeChannel(v.channels[len(v.channels)-1])
	}
}

// closeChannel closes a channel, and forgets its view if that was the last one.
// Call with mu held.
func (h *hub) closeChannel(ch *channel) {
	ch.log.Close()
	last := len(h.round) - 1
	moved := h.round[last]
	h.round[ch.inRound], moved.inRound = moved, ch.inRound
	h.round[last] = nil
	h.round = h.round[:last]
	v := ch.view
	v.remove(ch)
	if len(v.channels) == 0 {
		h.forgetView(v)
	}
}

// forgetView forgets a view without channels. Call with mu held.
func (h *hub) forgetView(v *view) {
	delete(h.views, v.key)
	v.leave()
	for _, m := range v.topics {
		if len(m.topic.views) == 0 {
			h.unwanted(m.topic)
		}
	}
}

// drop stops reading topics: they are paused at once and taken out of the
// client later, together with others. Call with mu held, and with all topics
// that there are to drop: the client goes through all that are paused.
func (h *hub) drop(topics ...*topic) {
	pause := make(map[string][]int32, len(topics))
	for _, t := range topics {
		h.closeKeyMaps(t)
		delete(h.topics, t.info.name)
		delete(h.idle, t)
		delete(h.adds, t.info.name)
		all := make([]int32, len(t.next))
		for p := range all {
			all[p] = int32(p)
		}
		pause[t.info.name], h.dropped[t.info.name] = all, all
	}
	h.client.PauseFetchPartitions(pause)
	h.notify()
}

// sweep moves the cursors of quiet channels, and ends what nobody has wanted
// for the linger. How long it takes hardly depends on how many channels there
// are: each time it looks at a part of them.
func (h *hub) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	h.sweepQuiet(now)
	rounds := max(1, min(h.linger/2, roundTime)/sweepInterval) // sweeps in one round
	h.roundSize = max(h.roundSize, len(h.round))
	for n := (h.roundSize + int(rounds) - 1) / int(rounds); n > 0; n -= sweepStep {
		h.sweepSome(now, min(n, sweepStep))
		h.mu.Unlock() // records must not wait for very many channels
		h.mu.Lock()
	}
	h.sweepKeyMaps(now)
	var unwanted []*topic
	for t := range h.idle {
		if now.Sub(t.idle) > h.linger {
			unwanted = append(unwanted, t)
		}
	}
	if len(unwanted) > 0 {
		h.drop(unwanted...)
	}
}

// sweepStep is how many channels or topics are looked at in one go.
const sweepStep = 1000

// sweepQuiet moves the cursors of channels that have been quiet for a
// heartbeat, though the hub moved on. Call with mu held.
func (h *hub) sweepQuiet(now time.Time) {
	h.quiet = slices.DeleteFunc(h.quiet, func(ch *channel) bool {
		if ch.view != nil && ch.stale && ch.lastItem.since(now) >= h.heartbeat && ch.log.Subscribers() > 0 {
			ch.moveCursor(ch.view.position(), now)
		}
		ch.inQuiet = ch.view != nil && ch.stale
		return !ch.inQuiet
	})
}

// sweepSome looks at the next n channels of the round, and closes those that
// nobody has wanted for the linger. Call with mu held.
func (h *hub) sweepSome(now time.Time, n int) {
	for ; n > 0 && len(h.round) > 0; n-- {
		if h.swept >= len(h.round) {
			h.swept, h.roundSize = 0, len(h.round)
		}
		ch := h.round[h.swept]
		attached := ch.log.Subscribers() > 0
		if attached || ch.attached {
			ch.wanted = stampOf(now) // the last one may have left a moment ago
		}
		ch.attached = attached
		if attached && ch.snapshots {
			ch.view.wantKeyMaps(now)
		}
		if attached && ch.view.query.filterOf() != nil {
			h.sweepFiltered(ch, now)
		}
		ch.forgetStanding() // it is made again when somebody asks
		if !attached && ch.wanted.since(now) > h.linger {
			h.closeChannel(ch) // and another takes its place in the round
			continue
		}
		h.swept++
	}
}

// sweepFiltered moves the cursor of a channel that has only some of the records
// before it has been quiet for a heartbeat. Nobody tells such a channel of the
// records that are not its own, of which there may be very many, so it is looked
// at once a round. Call with mu held.
func (h *hub) sweepFiltered(ch *channel, now time.Time) {
	if !ch.hasIDOnly() || ch.lastItem.since(now) < h.heartbeat-min(h.heartbeat/2, roundTime) {
		return
	}
	if at := ch.view.position(); !ch.index.isAt(at) {
		ch.moveCursor(at, now)
	}
}

// purge takes the dropped topics out of the client, all in one go.
func (h *hub) purge() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.dropped) == 0 {
		return
	}
	h.client.RemoveConsumePartitions(h.dropped)
	h.client.ResumeFetchPartitions(h.dropped)
	var names []string
	for name := range h.dropped {
		if h.topics[name] == nil {
			names = append(names, name)
			delete(h.held, name)
		}
	}
	h.client.PurgeTopicsFromConsuming(names...)
	clear(h.dropped)
}

// close stops reading for ever. It takes all partitions out of the client before
// that is closed: what it began to fetch meanwhile would be in its way.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	all := maps.Clone(h.dropped)
	for name, t := range h.topics {
		for p := range t.next {
			all[name] = append(all[name], int32(p))
		}
	}
	h.client.RemoveConsumePartitions(all)
	h.client.Close()
}

// watch compares the topics that are read with new metadata: partitions that
// were added are read from their beginning, and a topic that is gone or was
// created again is reset.
func (h *hub) watch(ctx context.Context) {
	type growth struct {
		t    *topic
		info *topicInfo
	}
	var grown []growth
	for _, name := range h.catalog.takeChanged() {
		h.mu.Lock()
		t := h.topics[name]
		if t == nil || !t.reading() { // startTopic will look itself
			h.mu.Unlock()
			continue
		}
		info, _, err := h.catalog.cached(name)
		switch {
		case errors.Is(err, errUnknownTopic), err == nil && info.id != t.info.id:
			h.log.Info("topic is gone", "topic", name, "created_again", err == nil)
			h.reset(t)
		case err == nil && info.partitions() > len(t.next):
			grown = append(grown, growth{t, info})
		}
		h.mu.Unlock()
	}
	for _, g := range grown {
		starts, err := h.offsets.starts(ctx, g.info.name, g.info.partitions())
		if err != nil {
			h.log.Warn("new partitions are not read yet", "topic", g.info.name, "err", err)
			h.catalog.change(g.info.name)
			continue
		}
		h.addPartitions(g.t, g.info, starts)
	}
}

// grow makes sure that as many partitions are read as infos say: a request may
// have learnt of new ones before watch did.
func (h *hub) grow(ctx context.Context, infos []*topicInfo) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	for _, info := range infos {
		h.mu.Lock()
		t := h.topics[info.name]
		grown := t != nil && t.reading() && t.info.id == info.id && info.partitions() > len(t.next)
		h.mu.Unlock()
		if !grown {
			continue
		}
		starts, err := h.offsets.starts(ctx, info.name, info.partitions())
		for err != nil && ctx.Err() == nil { // the client asks by older metadata for a moment
			wait(ctx, fetchBackoff)
			starts, err = h.offsets.starts(ctx, info.name, info.partitions())
		}
		if err != nil {
			return err
		}
		h.addPartitions(t, info, starts)
	}
	return nil
}

func (h *hub) addPartitions(t *topic, info *topicInfo, starts []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.topics[info.name] != t || len(t.next) >= len(starts) {
		return
	}
	first := len(t.next)
	t.info = info
	for _, in := range t.views {
		for _, ch := range in.view.channels {
			ch.here = nil
			for i, start := range starts[first:] {
				if !ch.query.partsOf().has(first + i) {
					start = 0
				}
				ch.index.addPartition(in.at, start)
			}
		}
	}
	t.next = append(t.next, starts[first:]...)
	t.snapshot = nil
	h.consume(t, t.next, first)
	h.log.Info("partitions were added", "topic", info.name, "from", first, "to", len(t.next))
}

// eachTopic calls f, with mu held, for every topic that is being read.
func (h *hub) eachTopic(f func(name string, t *topic)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Collect(maps.Keys(h.topics))
	for chunk := range slices.Chunk(all, sweepStep) {
		for _, name := range chunk {
			if t := h.topics[name]; t != nil && t.reading() {
				f(name, t)
			}
		}
		h.mu.Unlock() // records must not wait for very many topics
		h.mu.Lock()
	}
}

// positions is H of every topic that is being read, for commits. They are not
// to be changed.
func (h *hub) positions() map[string][]int64 {
	all := make(map[string][]int64)
	h.eachTopic(func(name string, t *topic) { all[name] = t.position()[0] })
	return all
}

// maintain runs sweep, purge and watch until ctx ends.
func (h *hub) maintain(ctx context.Context, refresh time.Duration) {
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	purge := time.NewTicker(dropInterval)
	defer purge.Stop()
	watch := time.NewTicker(refresh)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			h.sweep()
		case <-purge.C:
			h.purge()
		case <-watch.C:
			if err := h.catalog.refresh(ctx); err != nil {
				if ctx.Err() == nil {
					h.log.Debug("metadata is stale", "err", err)
				}
				continue
			}
			h.watch(ctx)
		}
	}
}
