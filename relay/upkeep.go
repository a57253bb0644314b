package relay

import (
	"context"
	"errors"
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
	t := h.topics[topicName]
	if t == nil || !t.reading() {
		h.mu.Unlock()
		return
	}
	if lost || gone {
		// The client would repeat the error without back-off. Every stream asks
		// its link, and the history it gets says what is missing.
		h.reset(t)
		h.catalog.doubt(t.info)
	}
	now, swallowed := h.now(), h.swallowed
	quiet := now.Sub(h.warned) < warnInterval
	if quiet {
		h.swallowed++
	} else {
		h.warned, h.swallowed = now, 0
	}
	h.mu.Unlock()
	if !quiet {
		h.log.Warn("reading stopped", "topic", topicName, "partition", partition, "reset", lost || gone, "err", err, "others", swallowed)
	}
}

// reset ends the reading of a topic and all its channels: streams that hold
// them ask their next link, which starts it again. Call with mu held.
func (h *hub) reset(t *topic) {
	h.metrics.resets.Inc()
	for _, v := range slices.Clone(t.views) {
		h.closeView(v)
	}
	h.drop(t)
}

// closeView closes a view's channels and forgets it. Call with mu held.
func (h *hub) closeView(v *view) {
	for _, ch := range v.channels {
		ch.log.Close()
	}
	delete(h.views, v.key)
	for _, t := range v.topics {
		t.views = slices.DeleteFunc(t.views, func(o *view) bool { return o == v })
		if len(t.views) == 0 {
			t.idle = h.now()
		}
	}
}

// drop stops reading a topic: it is paused at once and taken out of the client
// later, together with others. Call with mu held.
func (h *hub) drop(t *topic) {
	delete(h.topics, t.info.name)
	all := make([]int32, len(t.next))
	for p := range all {
		all[p] = int32(p)
	}
	h.client.PauseFetchPartitions(map[string][]int32{t.info.name: all})
	h.dropped[t.info.name] = all
	h.notify()
}

// sweep ends what nobody has wanted for the linger, and moves the cursors of
// quiet channels.
func (h *hub) sweep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	for _, v := range h.views {
		for key, ch := range v.channels {
			switch {
			case ch.log.Subscribers() == 0:
				if now.Sub(ch.wanted) > h.linger {
					ch.log.Close()
					delete(v.channels, key)
				}
				continue
			case ch.stale && !ch.commentOnly && ch.form != formHint && now.Sub(ch.lastItem) >= h.heartbeat:
				ch.appendIDOnly(v.position(), now)
			}
			ch.wanted = now
		}
		if len(v.channels) == 0 {
			h.closeView(v)
		}
	}
	for _, t := range h.topics {
		if t.reading() && len(t.views) == 0 && !t.idle.IsZero() && now.Sub(t.idle) > h.linger {
			h.drop(t)
		}
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
		}
	}
	h.client.PurgeTopicsFromConsuming(names...)
	clear(h.dropped)
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
	h.mu.Lock()
	for name, t := range h.topics {
		if !t.reading() {
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
	}
	h.mu.Unlock()
	for _, g := range grown {
		starts, err := h.offsets.starts(ctx, g.info.name, g.info.partitions())
		if err != nil {
			h.log.Warn("new partitions are not read yet", "topic", g.info.name, "err", err)
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
	for _, v := range t.views {
		at := slices.Index(v.topics, t)
		for _, ch := range v.channels {
			for _, start := range starts[first:] {
				ch.index.addPartition(at, start)
			}
		}
	}
	t.next = append(t.next, starts[first:]...)
	h.consume(t, t.next, first)
	h.log.Info("partitions were added", "topic", info.name, "from", first, "to", len(t.next))
}

// positions is H of every topic that is being read, for commits.
func (h *hub) positions() map[string][]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string][]int64, len(h.topics))
	for name, t := range h.topics {
		if t.reading() {
			all[name] = slices.Clone(t.next)
		}
	}
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
