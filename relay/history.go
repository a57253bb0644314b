package relay

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/filter"
)

// mergeWidth is how many partitions a walk merges by timestamp at a time. More
// would need more blocks in memory than one page is worth.
const mergeWidth = 32

// A walker receives what a walk over history finds. The position has already
// moved past it.
type walker interface {
	// record gets a record of the view's topic number t, which is gone when it
	// returns, while what it refers to stays; false ends the walk.
	record(t int, r *kgo.Record) bool
	// missing says that [from, to) of a partition no longer exists.
	missing(t int, partition int32, from, to int64)
	// scanned says that so many bytes of records were gone through by a walk
	// with a filter, looked at one by one or, narrowed, found in a list; false
	// ends it soon.
	scanned(bytes int64, narrowed bool) bool
}

// A strand is one partition of a walk.
type strand struct {
	topic     int
	partition int32
	next      int64 // where the loaded block ends
	matched   bool  // the filter has passed the first record

	// What is loaded and not yet visited.
	block  *block
	places []int32 // numbers of its records, in order; nil: all from at to the block's end
	at     int     // in places, or the number
	end    int
	first  kgo.Record // the first of them
}

// left is how many records are loaded and not yet visited.
func (s *strand) left() int { return s.end - s.at }

// load takes a block from the record with this number on.
func (s *strand) load(b *block, from int) {
	s.block, s.places, s.at, s.end, s.next = b, nil, from, b.Len(), b.next
	s.begin()
}

// narrow leaves of it what has one of these numbers.
func (s *strand) narrow(places []int32) {
	s.places, s.at, s.end = places, 0, len(places)
	s.begin()
}

// advance passes over the first record.
func (s *strand) advance() {
	s.at++
	s.begin()
}

func (s *strand) begin() {
	s.matched = false
	switch {
	case s.at >= s.end:
	case s.places != nil:
		s.block.Record(int(s.places[s.at]), &s.first)
	default:
		s.block.Record(s.at, &s.first)
	}
}

// A walk visits the records of a range that a filter passes.
type walk struct {
	blocks  *blocks
	topics  []*topicInfo
	pos, to vector
	filter  *filter.Filter // nil: all
	seen    filter.Record
	walker  walker

	atHand bool // nothing is to be read from Kafka

	active []*strand
	moved  bool // pos has moved
	enough bool // the walker has
	looked int  // records that the filter was asked about
}

// walk visits every record in [pos, to) that f passes, partition by partition in
// offset order and across partitions by timestamp as far as blocks allow, and
// moves pos along. It stops early when the walker says so, and then pos is right
// after the last record it visited, and in other partitions at most past records
// that f did not pass.
func (b *blocks) walk(ctx context.Context, topics []*topicInfo, pos, to vector, f *filter.Filter, w walker) error {
	return (&walk{blocks: b, topics: topics, pos: pos, to: to, filter: f, walker: w}).run(ctx)
}

// walkAtHand is a walk that ends where something would have to be read from
// Kafka, so that it waits for nobody.
func (b *blocks) walkAtHand(topics []*topicInfo, pos, to vector, f *filter.Filter, w walker) {
	k := &walk{blocks: b, topics: topics, pos: pos, to: to, filter: f, walker: w, atHand: true}
	_ = k.run(context.Background()) // only what is read from Kafka errs
}

func (k *walk) run(ctx context.Context) error {
	var todo []*strand
	pos := k.pos
	for t := range k.to {
		for p := range k.to[t] {
			if k.filter.Never() {
				pos[t][p] = max(pos[t][p], k.to[t][p])
			}
			if pos[t][p] < k.to[t][p] {
				todo = append(todo, &strand{topic: t, partition: int32(p)})
			}
		}
	}
	defer func() { k.blocks.looked.Add(float64(k.looked)) }()
	for {
		for len(k.active) < mergeWidth && len(todo) > 0 {
			k.active, todo = append(k.active, todo[0]), todo[1:]
		}
		if len(k.active) == 0 {
			return nil
		}
		if err := k.fill(ctx); err != nil {
			return err
		}
		if k.enough && k.moved {
			return nil
		}
		if len(k.active) == 0 {
			continue
		}
		s := slices.MinFunc(k.active, func(x, y *strand) int {
			return x.first.Timestamp.Compare(y.first.Timestamp)
		})
		pos[s.topic][s.partition], k.moved = s.first.Offset+1, true
		if !k.walker.record(s.topic, &s.first) {
			return nil
		}
		s.advance()
	}
}

// fill gives every strand a record to offer, and leaves out those that have
// reached their end.
func (k *walk) fill(ctx context.Context) error {
	for {
		var wants []blockWant
		var empty []*strand
		kept := k.active[:0]
		for _, s := range k.active {
			at, end := &k.pos[s.topic][s.partition], k.to[s.topic][s.partition]
			if k.filter != nil {
				k.skip(s)
			}
			if s.left() > 0 && s.first.Offset >= end {
				s.at, s.next = s.end, end
			}
			if s.left() == 0 {
				// What is left of the block was filtered out, aborted or compacted.
				k.move(at, min(s.next, end))
				if *at >= end {
					continue
				}
				wants = append(wants, blockWant{info: k.topics[s.topic], partition: s.partition, offset: *at, end: end})
				empty = append(empty, s)
			} else if k.filter != nil {
				k.move(at, s.first.Offset)
			}
			kept = append(kept, s)
		}
		k.active = kept
		if len(wants) == 0 || k.enough && k.moved {
			return nil
		}
		got, errs := make([]*block, len(wants)), make([]error, len(wants))
		if !k.atHand {
			got, errs = k.blocks.get(ctx, wants)
		} else if !k.blocks.have(wants, got) {
			k.enough, k.moved = true, true
			return nil
		}
		for i, s := range empty {
			at, end := &k.pos[s.topic][s.partition], k.to[s.topic][s.partition]
			var gone *outOfRangeError
			switch {
			case errs[i] == nil:
				from := got[i].from(*at)
				s.load(got[i], from)
				if k.filter != nil {
					bytes := got[i].bytesOf(s.left())
					places, narrowed := k.blocks.candidates(got[i], k.filter, from, &k.seen)
					if narrowed {
						s.narrow(places)
					}
					k.enough = !k.walker.scanned(bytes, narrowed) || k.enough
				}
			case errors.As(errs[i], &gone) && gone.start > *at:
				from := *at
				k.move(at, min(gone.start, end))
				k.walker.missing(s.topic, s.partition, from, *at)
			case errors.As(errs[i], &gone):
				k.move(at, end) // the log was cut off under us; the live reader finds out too
			default:
				return errs[i]
			}
		}
	}
}

// move moves a partition's position forward.
func (k *walk) move(at *int64, to int64) {
	if *at < to {
		*at, k.moved = to, true
	}
}

// skip takes the first records from a strand that the filter does not pass.
func (k *walk) skip(s *strand) {
	for s.left() > 0 && !s.matched {
		k.looked++
		k.seen.Reset(&s.first)
		if s.matched = k.filter.Match(&k.seen); !s.matched {
			s.advance()
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

// newest finds the position from which exactly the n newest records of a view
// before to are read (fewer where that many do not exist after from), growing a suffix
// of each partition backwards where the next older record is the newest.
func (b *blocks) newest(ctx context.Context, sc scope, from, to vector, n int64) (vector, error) {
	pos := to.clone()
	var all []*suffix
	for t := range to {
		for p := range to[t] {
			if from[t][p] < to[t][p] {
				all = append(all, &suffix{topic: t, partition: int32(p), loaded: to[t][p], step: max(firstStep, min(n, 4096))})
			}
		}
	}
	if err := b.lookBack(ctx, sc, from, to, all); err != nil {
		return nil, err
	}
	for ; n > 0; n-- {
		var best *suffix
		for _, s := range all {
			for len(s.older) == 0 && s.loaded > from[s.topic][s.partition] {
				if err := b.lookBack(ctx, sc, from, to, []*suffix{s}); err != nil {
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
func (b *blocks) lookBack(ctx context.Context, sc scope, from, to vector, suffixes []*suffix) error {
	lo, hi := to.clone(), to.clone()
	found := make(moments, len(sc.topics))
	for t := range found {
		found[t] = make([][]moment, len(to[t]))
	}
	for _, s := range suffixes {
		hi[s.topic][s.partition] = s.loaded
		s.loaded = max(from[s.topic][s.partition], s.loaded-s.step)
		lo[s.topic][s.partition] = s.loaded
		s.step = min(2*s.step, largeStep) // compacted logs have wide holes
	}
	if err := b.walk(ctx, sc.topics, lo, hi, sc.query.filterOf(), found); err != nil {
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

func (moments) scanned(int64, bool) bool { return true }
