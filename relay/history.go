package relay

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// mergeWidth is how many partitions a walk merges by timestamp at a time. More
// would need more blocks in memory than one page is worth.
const mergeWidth = 32

// A walker receives what a walk over history finds. The position has already
// moved past it.
type walker interface {
	// record gets a record of the view's topic number t; false ends the walk.
	record(t int, r *kgo.Record) bool
	// missing says that [from, to) of a partition no longer exists.
	missing(t int, partition int32, from, to int64)
}

// A strand is one partition of a walk.
type strand struct {
	topic     int
	partition int32
	records   []*kgo.Record // loaded and not yet visited
	next      int64         // where the loaded block ends
}

// walk visits every record in [pos, to), partition by partition in offset
// order and across partitions by timestamp as far as blocks allow, and moves
// pos along. It stops early when the walker says so, and then pos is right
// after the last record it visited.
func (b *blocks) walk(ctx context.Context, topics []*topicInfo, pos, to vector, w walker) error {
	var todo []*strand
	for t := range to {
		for p := range to[t] {
			if pos[t][p] < to[t][p] {
				todo = append(todo, &strand{topic: t, partition: int32(p)})
			}
		}
	}
	var active []*strand
	for {
		for len(active) < mergeWidth && len(todo) > 0 {
			active, todo = append(active, todo[0]), todo[1:]
		}
		if len(active) == 0 {
			return nil
		}
		var err error
		if active, err = b.fill(ctx, topics, active, pos, to, w); err != nil {
			return err
		}
		if len(active) == 0 {
			continue
		}
		s := slices.MinFunc(active, func(x, y *strand) int {
			return x.records[0].Timestamp.Compare(y.records[0].Timestamp)
		})
		r := s.records[0]
		s.records = s.records[1:]
		pos[s.topic][s.partition] = r.Offset + 1
		if !w.record(s.topic, r) {
			return nil
		}
	}
}

// fill gives every strand a record to offer, and leaves out those that have
// reached their end.
func (b *blocks) fill(ctx context.Context, topics []*topicInfo, active []*strand, pos, to vector, w walker) ([]*strand, error) {
	for {
		var wants []blockWant
		var empty []*strand
		kept := active[:0]
		for _, s := range active {
			at, end := &pos[s.topic][s.partition], to[s.topic][s.partition]
			if len(s.records) > 0 && s.records[0].Offset >= end {
				s.records, s.next = nil, end
			}
			if len(s.records) == 0 {
				// What is left of the block was filtered out, aborted or compacted.
				*at = max(*at, min(s.next, end))
				if *at >= end {
					continue
				}
				wants = append(wants, blockWant{topics[s.topic], s.partition, *at, end})
				empty = append(empty, s)
			}
			kept = append(kept, s)
		}
		active = kept
		if len(wants) == 0 {
			return active, nil
		}
		got, errs := b.get(ctx, wants)
		for i, s := range empty {
			at, end := &pos[s.topic][s.partition], to[s.topic][s.partition]
			var gone *outOfRangeError
			switch {
			case errs[i] == nil:
				s.records, s.next = got[i].after(*at), got[i].next
			case errors.As(errs[i], &gone) && gone.start > *at:
				from := *at
				*at = min(gone.start, end)
				w.missing(s.topic, s.partition, from, *at)
			case errors.As(errs[i], &gone):
				*at = end // the log was cut off under us; the live reader finds out too
			default:
				return nil, errs[i]
			}
		}
	}
}

// A suffix is the end of one partition, as far as newest has looked back.
type suffix struct {
	topic     int
	partition int32
	older     []moment // looked at, oldest first, not yet taken
	loaded    int64    // everything from this offset on was looked at
	step      int64    // how many offsets further the next look goes back
}

// A moment is where and when one record is. A look back over a million of them
// must not keep their values.
type moment struct {
	offset int64
	millis int64
}

const (
	firstStep = 64
	largeStep = 64 << 10
)

// newest finds the position from which exactly the n newest records before to
// are read (fewer where that many do not exist after from), growing a suffix
// of each partition backwards where the next older record is the newest.
func (b *blocks) newest(ctx context.Context, topics []*topicInfo, from, to vector, n int64) (vector, error) {
	pos := to.clone()
	var all []*suffix
	for t := range to {
		for p := range to[t] {
			if from[t][p] < to[t][p] {
				all = append(all, &suffix{topic: t, partition: int32(p), loaded: to[t][p], step: max(firstStep, min(n, 4096))})
			}
		}
	}
	if err := b.lookBack(ctx, topics, from, to, all); err != nil {
		return nil, err
	}
	for ; n > 0; n-- {
		var best *suffix
		for _, s := range all {
			for len(s.older) == 0 && s.loaded > from[s.topic][s.partition] {
				if err := b.lookBack(ctx, topics, from, to, []*suffix{s}); err != nil {
					return nil, err
				}
			}
			if len(s.older) > 0 && (best == nil || s.older[len(s.older)-1].millis > best.older[len(best.older)-1].millis) {
				best = s
			}
		}
		if best == nil {
			break
		}
		pos[best.topic][best.partition] = best.older[len(best.older)-1].offset
		best.older = best.older[:len(best.older)-1]
	}
	return pos, nil
}

// lookBack moves the beginnings of suffixes one step back, all in one walk.
func (b *blocks) lookBack(ctx context.Context, topics []*topicInfo, from, to vector, suffixes []*suffix) error {
	lo, hi := to.clone(), to.clone()
	found := make(moments, len(topics))
	for t := range found {
		found[t] = make([][]moment, len(to[t]))
	}
	for _, s := range suffixes {
		hi[s.topic][s.partition] = s.loaded
		s.loaded = max(from[s.topic][s.partition], s.loaded-s.step)
		lo[s.topic][s.partition] = s.loaded
		s.step = min(2*s.step, largeStep) // compacted logs have wide holes
	}
	if err := b.walk(ctx, topics, lo, hi, found); err != nil {
		return err
	}
	for _, s := range suffixes {
		s.older = found[s.topic][s.partition]
	}
	return nil
}

// moments is a walker that keeps them by topic and partition.
type moments [][][]moment

func (m moments) record(t int, r *kgo.Record) bool {
	m[t][r.Partition] = append(m[t][r.Partition], moment{r.Offset, r.Timestamp.UnixMilli()})
	return true
}

func (moments) missing(int, int32, int64, int64) {}
