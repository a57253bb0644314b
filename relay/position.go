package relay

import (
	"context"
	"slices"
	"time"

	"spillway/relay/cursor"
)

// A resolver turns where a request wants to start into a position
// (event-semantics.md 2 and 3.3).
type resolver struct {
	catalog *catalog
	offsets *offsets
	blocks  *blocks
	decoder *decoder
	slack   time.Duration
	maxRecs int64         // REPLAY_MAX_RECORDS; 0: none
	maxAge  time.Duration // REPLAY_MAX_AGE; 0: none
	now     func() time.Time
}

// resolve returns the position to start at, which is the caller's, and what of the promise of a
// cursor cannot be kept. head is the hub's position at the time of the request.
func (v *resolver) resolve(ctx context.Context, sc scope, ch *channel, head vector, s start) (vector, []gap, error) {
	topics := sc.topics
	var pos vector
	var gaps []gap
	var err error
	switch s.kind {
	case startLive, startSnapshot:
		return head.clone(), nil, nil
	case startEarliest:
		pos, err = v.starts(ctx, sc, head)
	case startTime:
		pos, err = v.after(ctx, topics, head, s.time)
	case startLast:
		var from vector
		if from, err = v.starts(ctx, sc, head); err == nil {
			if from, gaps, err = v.limit(ctx, topics, from, head); err == nil {
				pos, err = v.blocks.newest(ctx, sc, from, head, s.last)
				return pos, nil, err // a bounded look back promises nothing before it
			}
		}
	case startCursor:
		pos, gaps, err = v.fromCursor(ctx, sc, ch, head, s.cursor)
	}
	if err != nil {
		return nil, nil, err
	}
	pos, more, err := v.limit(ctx, topics, pos, head)
	return pos, append(gaps, more...), err
}

// starts is where the logs begin, of as many partitions as head has.
func (v *resolver) starts(ctx context.Context, sc scope, head vector) (vector, error) {
	pos := make(vector, len(sc.topics))
	for i, t := range sc.topics {
		var err error
		if pos[i], err = v.offsets.starts(ctx, t.name, len(head[i])); err != nil {
			return nil, err
		}
	}
	sc.parts().mask(pos...)
	return pos, nil
}

// ends is where the logs end, of as many partitions as head has.
func (v *resolver) ends(ctx context.Context, sc scope, head vector) (vector, error) {
	pos := make(vector, len(sc.topics))
	for i, t := range sc.topics {
		var err error
		if pos[i], err = v.offsets.ends(ctx, t.name, len(head[i])); err != nil {
			return nil, err
		}
	}
	sc.parts().mask(pos...)
	return pos, nil
}

// after is where records at or after t begin; never past head, since what
// lies between is on its way to the hub.
func (v *resolver) after(ctx context.Context, topics []*topicInfo, head vector, t time.Time) (vector, error) {
	pos := make(vector, len(topics))
	for i := range topics {
		var err error
		if pos[i], err = v.topicAfter(ctx, topics[i], head[i], t); err != nil {
			return nil, err
		}
	}
	return pos, nil
}

func (v *resolver) topicAfter(ctx context.Context, topic *topicInfo, head []int64, t time.Time) ([]int64, error) {
	if t.After(v.now()) {
		return slices.Clone(head), nil
	}
	at, err := v.offsets.after(ctx, topic.name, len(head), t)
	if err != nil {
		return nil, err
	}
	for p := range at {
		at[p] = min(at[p], head[p])
	}
	return at, nil
}

// complete gives pos the partitions that head has and pos has not: they were
// added since, so that its holder has seen nothing of them.
func (v *resolver) complete(ctx context.Context, sc scope, pos, head vector) error {
	for i, t := range sc.topics {
		if len(pos[i]) >= len(head[i]) {
			continue
		}
		starts, err := v.offsets.starts(ctx, t.name, len(head[i]))
		if err != nil {
			return err
		}
		pos[i] = append(pos[i], starts[len(pos[i]):]...)
		sc.parts().mask(pos[i])
	}
	return nil
}

func (v *resolver) fromCursor(ctx context.Context, sc scope, ch *channel, head vector, c cursor.Cursor) (vector, []gap, error) {
	topics := sc.topics
	pos := make(vector, len(topics))
	var gaps []gap
	blocks := matchBlocks(topics, c.Blocks)
	oldest := ch.index.oldest()
	for i, t := range topics {
		b := blocks[i]
		switch {
		case b == nil: // the client added a topic
			pos[i] = slices.Clone(head[i])
		case b.Tag != t.tag || len(b.Offsets) > len(head[i]):
			from := c.Time.Add(-v.slack)
			at, err := v.topicAfter(ctx, t, head[i], from)
			if err != nil {
				return nil, nil, err
			}
			pos[i] = at
			gaps = append(gaps, timeGap(t.name, gapTopicChanged, from))
		case b.Unknown:
			from := c.Time.Add(-v.slack)
			at, err := v.topicAfter(ctx, t, head[i], from)
			if err != nil {
				return nil, nil, err
			}
			pos[i] = at
			if (vector{at}).distance(vector{head[i]}) > 0 {
				gaps = append(gaps, timeGap(t.name, gapTimeResume, from))
			}
		default:
			want := blockOffsets(b, head[i])
			sc.parts().mask(want)
			at, more, err := v.check(ctx, t, sc.parts(), want, oldest[i], head[i])
			if err != nil {
				return nil, nil, err
			}
			pos[i] = at
			gaps = append(gaps, more...)
		}
	}
	return pos, gaps, nil
}

// matchBlocks gives each topic its block: by tag first; a topic without one
// takes the left-over block at its place only if there are as many blocks as
// topics (it was created again, or this is another cluster).
func matchBlocks(topics []*topicInfo, blocks []cursor.Block) []*cursor.Block {
	matched := make([]*cursor.Block, len(topics))
	used := make([]bool, len(blocks))
	for i, t := range topics {
		for j := range blocks {
			if !used[j] && blocks[j].Tag == t.tag {
				matched[i], used[j] = &blocks[j], true
				break
			}
		}
	}
	if len(blocks) == len(topics) {
		for i := range topics {
			if matched[i] == nil && !used[i] {
				matched[i], used[i] = &blocks[i], true
			}
		}
	}
	return matched
}

// unseen marks a partition that the cursor's holder has seen nothing of.
const unseen = -1

// blockOffsets is the wanted offset of every partition.
func blockOffsets(b *cursor.Block, head []int64) []int64 {
	want := slices.Repeat([]int64{unseen}, len(head))
	if b.Parts == nil {
		copy(want, b.Offsets)
		return want
	}
	copy(want, head) // partitions that were not selected begin live
	for _, p := range b.Parts {
		if int(p.Partition) < len(want) {
			want[p.Partition] = p.Offset
		}
	}
	return want
}

// check holds wanted offsets against the log. Kafka is asked only where the
// channel's own log does not answer already.
func (v *resolver) check(ctx context.Context, t *topicInfo, parts parts, want, oldest, head []int64) ([]int64, []gap, error) {
	pos := slices.Clone(want)
	var below, above bool
	for p, w := range want {
		below = below || w < oldest[p] // unseen is below too
		above = above || w > head[p]
	}
	var gaps []gap
	if below {
		starts, err := v.offsets.starts(ctx, t.name, len(want))
		if err != nil {
			return nil, nil, err
		}
		for p, w := range want {
			if w < starts[p] && parts.has(p) {
				pos[p] = starts[p]
				if w != unseen {
					gaps = append(gaps, offsetGap(t.name, int32(p), gapRetention, w, starts[p]))
				}
			}
		}
	}
	if above {
		marks, err := v.offsets.highWatermarks(ctx, t.name, len(want))
		if err != nil {
			return nil, nil, err
		}
		for p, w := range want {
			if w > head[p] && w > marks[p] {
				// A log that ends too early may be that of a new topic.
				if err := v.confirm(ctx, t); err != nil {
					return nil, nil, err
				}
				pos[p] = marks[p]
				gaps = append(gaps, offsetGap(t.name, int32(p), gapTruncated, marks[p], w))
			}
		}
	}
	return pos, gaps, nil
}

// confirm asks Kafka whether the topic is still the one that was looked up. The
// error is errRecreated when it is not.
func (v *resolver) confirm(ctx context.Context, t *topicInfo) error {
	v.catalog.doubt(t)
	now, err := v.catalog.lookup(ctx, t.name)
	if err == nil && now.id != t.id {
		return errRecreated
	}
	return err
}

// mayReplay reports whether so many offsets may be replayed, whatever their age.
func (v *resolver) mayReplay(topics []string, offsets int64) bool {
	records, age := v.bounds(topics)
	return age == 0 && (records == 0 || offsets <= records)
}

// bounds are how many offsets one request for topics may replay, and how old
// they may be: the least of what REPLAY_* and the topics' rules say; 0: no bound.
func (v *resolver) bounds(topics []string) (records int64, age time.Duration) {
	records, age = v.maxRecs, v.maxAge
	for _, topic := range topics {
		replay := &v.decoder.ruleOf(topic).Replay
		records, age = leastBound(records, replay.Records), leastBound(age, time.Duration(replay.Age))
	}
	return records, age
}

// leastBound is the lesser of two bounds; 0 is none.
func leastBound[N int64 | time.Duration](a, b N) N {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// replayBytes is how many bytes one request for topics may replay, at most as many
// as all others; 0: no bound.
func (d *decoder) replayBytes(most int64, topics []string) int64 {
	for _, topic := range topics {
		most = leastBound(most, int64(d.ruleOf(topic).Replay.Bytes))
	}
	return most
}

// limit moves pos forward to what one request may replay.
func (v *resolver) limit(ctx context.Context, topics []*topicInfo, pos, head vector) (vector, []gap, error) {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.name
	}
	maxRecs, maxAge := v.bounds(names)
	limited := pos
	if maxAge > 0 && pos.distance(head) > 0 {
		oldest, err := v.after(ctx, topics, head, v.now().Add(-maxAge))
		if err != nil {
			return nil, nil, err
		}
		limited = latest(limited, oldest)
	}
	if maxRecs > 0 && limited.distance(head) > maxRecs {
		cut, err := v.cut(ctx, topics, limited, head, maxRecs)
		if err != nil {
			return nil, nil, err
		}
		limited = cut
	}
	var gaps []gap
	for i, t := range topics {
		for p := range limited[i] {
			if from, to := pos[i][p], limited[i][p]; from < to {
				gaps = append(gaps, offsetGap(t.name, int32(p), gapReplayLimit, from, to))
			}
		}
	}
	return limited, gaps, nil
}

// cut finds the earliest start from which at most maxRecs offsets are left,
// using at least half of that: one time for all partitions. Where no time
// parts the records so, because too many have the same or none that fits, each
// partition gives up its share.
func (v *resolver) cut(ctx context.Context, topics []*topicInfo, pos, head vector, maxRecs int64) (vector, error) {
	early, late := pos, head // too much, and within the limit
	within, beyond := time.Duration(0), time.Duration(0)
	for age := time.Minute; ; {
		at, err := v.after(ctx, topics, head, v.now().Add(-age))
		if err != nil {
			return nil, err
		}
		at = latest(pos, at)
		if n := at.distance(head); n > maxRecs {
			early, beyond = at, age
		} else if late, within = at, age; n > maxRecs/2 {
			return late, nil
		}
		switch {
		case beyond == 0 && age > 100*365*24*time.Hour: // timestamps do not say which records are older
			return between(early, late, head, maxRecs), nil
		case beyond == 0:
			age *= 4
		case beyond-within <= time.Millisecond: // as fine as Kafka's clock is
			return between(early, late, head, maxRecs), nil
		default:
			age = within + (beyond-within)/2
		}
	}
}

// between is a position from early to late from which at most most offsets,
// and hardly fewer, are left to head.
func between(early, late, head vector, most int64) vector {
	out := late.clone()
	room, all := float64(most-late.distance(head)), float64(early.distance(late))
	for t := range out {
		for p := range out[t] {
			if d := late[t][p] - early[t][p]; d > 0 {
				out[t][p] -= int64(float64(d) * room / all)
			}
		}
	}
	return out
}

// latest is the later of two positions, partition by partition.
func latest(a, b vector) vector {
	out := a.clone()
	for t := range out {
		for p := range out[t] {
			if p < len(b[t]) {
				out[t][p] = max(out[t][p], b[t][p])
			}
		}
	}
	return out
}
