package relay

import (
	"cmp"
	"container/list"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tidwall/btree"
)

const (
	// turnPatience is how long somebody waits for a turn before the order of
	// coming counts.
	turnPatience = time.Second
	// turnBatch is how long the hand goes on from where such a one is, before it
	// jumps again.
	turnBatch = 250 * time.Millisecond
)

// turns are handed out to those who make pages of history, so many at a time.
//
// Where more want one, they come in the order of their places, like the floors of
// a lift that only goes up: readers of the same blocks come one after the other,
// and who goes on from there is taken along, for who is a little behind comes
// first. So a block is read from Kafka once for all of them, even where the cache
// holds only few of those that are wanted. Who has waited for long comes before
// all others, wherever that is.
type turns struct {
	now func() time.Time

	mu      sync.Mutex
	free    int // nobody waits while there are some
	waiting *btree.BTreeG[*turn]
	line    list.List // of *turn, as they came
	came    uint64
	hand    *turn     // the furthest that had to wait and was given one
	jumped  time.Time // when it was last that of somebody who had waited for long
}

// A turn is what somebody waits for.
type turn struct {
	spot
	number uint64 // of all, in the order of coming
	since  time.Time
	inLine *list.Element
	given  chan struct{} // closed when it is
}

// A spot is about where in which topics a page begins.
type spot struct {
	topics []string
	at     int64 // the sum of the offsets
	reach  int64 // how far behind it the cache has what was read before
}

func spotOf(topics []string, pos vector, reach int64) spot {
	p := spot{topics: topics, reach: reach}
	for _, offsets := range pos {
		for _, offset := range offsets {
			p.at += offset
		}
	}
	return p
}

func newTurns(atOnce int, now func() time.Time, reg prometheus.Registerer) *turns {
	t := &turns{now: now, free: atOnce, hand: &turn{}}
	t.waiting = btree.NewBTreeGOptions(inOrder, btree.Options{NoLocks: true})
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_history_pages_waiting", Help: "Pages of history that wait for their turn, since CATCHUP_PAGES are being made.",
	}, func() float64 {
		t.mu.Lock()
		defer t.mu.Unlock()
		return float64(t.line.Len())
	}))
	return t
}

// pagesAtOnce is how many turns there are at a time: more would push each other's
// blocks out of the cache.
func pagesAtOnce(cfg *Config) int {
	return min(cfg.CatchupPages, max(int(cfg.HistoryCacheBytes/blockFetchBytes), 1))
}

// take waits for a turn, which is to be given back.
func (t *turns) take(ctx context.Context, at spot) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	t.came++
	w := &turn{spot: at, number: t.came, since: t.now(), given: make(chan struct{})}
	w.inLine = t.line.PushBack(w)
	t.waiting.Set(w)
	t.mu.Unlock()
	select {
	case <-w.given:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-w.given:
		t.pass()
	default:
		t.leave(w)
	}
	return ctx.Err()
}

// tryTake takes a turn if nobody has to wait for one.
func (t *turns) tryTake() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free == 0 {
		return false
	}
	t.free--
	return true
}

// giveBack ends a turn.
func (t *turns) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass()
}

// pass gives a turn to whoever is next. Call with mu held.
func (t *turns) pass() {
	w := t.next()
	if w == nil {
		t.free++
		return
	}
	t.leave(w)
	close(w.given)
}

// next decides who that is, and moves the hand. Call with mu held.
func (t *turns) next() (w *turn) {
	front := t.line.Front()
	if front == nil {
		return nil
	}
	oldest, now := front.Value.(*turn), t.now()
	if now.Sub(oldest.since) > turnPatience && now.Sub(t.jumped) > turnBatch {
		t.jumped, t.hand = now, oldest
		return oldest
	}
	from := &turn{spot: t.hand.spot}
	from.at -= from.reach
	t.waiting.Ascend(from, func(found *turn) bool {
		w = found
		return false
	})
	if w == nil {
		w, _ = t.waiting.Min()
		t.hand = w
	} else if inOrder(t.hand, w) {
		t.hand = w
	}
	return w
}

func inOrder(a, b *turn) bool {
	return cmp.Or(slices.Compare(a.topics, b.topics), cmp.Compare(a.at, b.at), cmp.Compare(a.number, b.number)) < 0
}

func (t *turns) leave(w *turn) {
	t.waiting.Delete(w)
	t.line.Remove(w.inLine)
}
