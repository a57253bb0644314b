package relay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"spillway/relay/cursor"
)

// A modelIndex is the index written without care for memory: the position
// after every item, in full.
type modelIndex struct {
	after []vector // by sequence number; after[0] is the beginning
	first uint64
}

func (m *modelIndex) last() vector { return m.after[len(m.after)-1] }

// attach is the oldest position of the log at or past want.
func (m *modelIndex) attach(want vector) (vector, bool) {
	for _, at := range m.after[m.first-1:] {
		if at.covers(want) {
			return at, true
		}
	}
	return nil, false
}

// seq is the newest item at or before pos.
func (m *modelIndex) seq(pos vector) (uint64, bool) {
	for n := len(m.after) - 1; n >= int(m.first)-1; n-- {
		if pos.covers(m.after[n]) {
			return uint64(n), true
		}
	}
	return 0, false
}

func sameVector(a, b vector) bool {
	return slices.EqualFunc(a, b, func(x, y []int64) bool { return slices.Equal(x, y) })
}

// An indexWorld applies the same random history to an index and its model.
type indexWorld struct {
	rnd  *rand.Rand
	tags []cursor.Tag
	x    *index
	m    *modelIndex
	h    vector // the hub's position, ahead of the last item where nothing made one
}

func newIndexWorld(seed uint64) *indexWorld {
	w := &indexWorld{rnd: rand.New(rand.NewPCG(seed, 1))}
	for t := range 1 + w.rnd.IntN(3) {
		w.tags = append(w.tags, cursor.TagOfName("cluster", fmt.Sprint(t)))
		var offsets []int64
		for range 1 + w.rnd.IntN(4) {
			offsets = append(offsets, w.rnd.Int64N(50))
		}
		w.h = append(w.h, offsets)
	}
	x := newIndex(w.tags, w.h.clone(), 1)
	w.x = &x
	w.m = &modelIndex{after: []vector{w.h.clone()}, first: 1}
	return w
}

// somewhere moves the hub in one random partition.
func (w *indexWorld) somewhere() (topic, partition int) {
	topic = w.rnd.IntN(len(w.h))
	partition = w.rnd.IntN(len(w.h[topic]))
	w.h[topic][partition] += 1 + w.rnd.Int64N(3)
	return topic, partition
}

func (w *indexWorld) step() {
	switch n := w.rnd.IntN(100); {
	case n < 80: // a record
		t, p := w.somewhere()
		if sameVector(w.m.last(), w.before(t, p)) {
			w.x.items(int32(t), int32(p), []move{{w.h[t][p], 1}})
		} else {
			w.x.jump(w.h.clone(), 1)
		}
		w.m.after = append(w.m.after, w.h.clone())
	case n < 90: // records that make no item, then perhaps an id alone
		w.somewhere()
		if w.rnd.IntN(2) == 0 {
			w.x.jump(w.h.clone(), 1)
			w.m.after = append(w.m.after, w.h.clone())
		}
	case n < 92 && len(w.h[0]) < 8: // a new partition
		t, start := w.rnd.IntN(len(w.h)), w.rnd.Int64N(3)
		w.x.addPartition(t, start)
		w.h[t] = append(w.h[t], start)
		for _, at := range w.m.after {
			at[t] = append(at[t], start)
		}
	default: // the log evicts
		w.m.first = min(w.m.first+uint64(w.rnd.IntN(40)), uint64(len(w.m.after)))
		w.x.trim(w.m.first)
	}
}

// before is the hub's position without what the last item of one partition added.
func (w *indexWorld) before(t, p int) vector {
	v := w.h.clone()
	v[t][p] = w.m.last()[t][p]
	return v
}

// probe is a position near one that the log was at.
func (w *indexWorld) probe() vector {
	v := w.m.after[w.rnd.IntN(len(w.m.after))].clone()
	for t := range v {
		for p := range v[t] {
			if w.rnd.IntN(3) == 0 {
				v[t][p] = max(0, v[t][p]+w.rnd.Int64N(9)-4)
			}
		}
	}
	return v
}

func TestIndexAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		w := newIndexWorld(seed)
		for i := range 700 {
			w.step()
			want := w.probe()
			gotAt, _, gotOK := w.x.attach(want)
			wantAt, wantOK := w.m.attach(want)
			if gotOK != wantOK || !sameVector(gotAt, wantAt) {
				t.Fatalf("seed %d, step %d: attach(%v) = %v, %v; want %v, %v", seed, i, want, gotAt, gotOK, wantAt, wantOK)
			}
			gotSeq, gotOK := w.x.Seq(string(want.appendCursor(nil, 0, 7, w.tags)))
			wantSeq, wantOK := w.m.seq(want)
			// Random positions are no positions of the hub; where vectors do not
			// compare, any answer that loses nothing would do, and the newest is given.
			if gotOK != wantOK || gotSeq != wantSeq {
				t.Fatalf("seed %d, step %d: Seq(%v) = %d, %v; want %d, %v", seed, i, want, gotSeq, gotOK, wantSeq, wantOK)
			}
			exact := wantOK && sameVector(w.m.after[wantSeq], want)
			if got := w.x.has(want); got != exact {
				t.Fatalf("seed %d, step %d: has(%v) = %v, want %v", seed, i, want, got, exact)
			}
			n := uint64(w.rnd.IntN(len(w.m.after) + 1))
			id, ok := w.x.ID(n)
			if known := n+1 >= w.m.first && n < uint64(len(w.m.after)); ok != known {
				t.Fatalf("seed %d, step %d: ID(%d) known %v, want %v", seed, i, n, ok, known)
			} else if known {
				if got, _, _, ok := parsePosition(id); !ok || !sameVector(got, w.m.after[n]) {
					t.Fatalf("seed %d, step %d: ID(%d) = %v, want %v", seed, i, n, got, w.m.after[n])
				}
			}
			if got := w.x.oldest(); !sameVector(got, w.m.after[w.m.first-1]) {
				t.Fatalf("seed %d, step %d: oldest %v, want %v", seed, i, got, w.m.after[w.m.first-1])
			}
		}
	}
}

func TestIndexForgetsWhatTheLogEvicted(t *testing.T) {
	w := newIndexWorld(1)
	for i := range 100 * indexBlockItems {
		p, tp := w.rnd.IntN(len(w.h[0])), 0
		w.h[0][p]++
		w.x.items(int32(tp), int32(p), []move{{w.h[0][p], 1}})
		if i > 10 {
			w.x.trim(uint64(i - 10))
		}
	}
	if n := len(w.x.past.blocks); n > 2 {
		t.Errorf("%d blocks are kept for 10 items, want at most 2", n)
	}
}

// The id that new streams are given is found without being read, for as long
// as the log goes back to it.
func TestIndexRemembersWhereStreamsBegin(t *testing.T) {
	tags := []cursor.Tag{cursor.TagOfName("c", "t")}
	x := newIndex(tags, vector{{10}}, 1)
	x.items(0, 0, []move{{11, 1}, {12, 1}})
	here := &standing{id: []byte("any text")}
	x.stand(here)
	x.items(0, 0, []move{{13, 1}})
	if seq, ok := x.Seq("any text"); !ok || seq != 2 {
		t.Errorf("Seq = %d, %v; want the newest item of then, 2", seq, ok)
	}
	x.trim(3)
	if seq, ok := x.Seq("any text"); !ok || seq != 2 {
		t.Errorf("Seq = %d, %v; the oldest item that the log holds follows it", seq, ok)
	}
	x.trim(4)
	if _, ok := x.Seq("any text"); ok {
		t.Error("the log does not go back to it any more")
	}
	x.stand(nil)
	if _, ok := x.Seq("any text"); ok {
		t.Error("it is not forgotten")
	}
}

func TestIndexRefusesForeignIDs(t *testing.T) {
	tags := []cursor.Tag{cursor.TagOfName("c", "t")}
	x := newIndex(tags, vector{{10, 10}}, 1)
	x.items(0, 0, []move{{11, 1}})
	for _, tt := range []struct {
		name, id string
		ok       bool
	}{
		{"the beginning", string(vector{{10, 10}}.appendCursor(nil, 0, 1, tags)), true},
		{"another time", string(vector{{11, 10}}.appendCursor(nil, 0, 999, tags)), true},
		{"before the beginning", string(vector{{9, 10}}.appendCursor(nil, 0, 1, tags)), false},
		{"another topic", string(vector{{11, 10}}.appendCursor(nil, 0, 1, []cursor.Tag{cursor.TagOfName("c", "u")})), false},
		{"no offsets", string(appendTimeOnly(nil, 0, 1, tags, vector{{11, 10}})), false},
		{"not a cursor", "42", false},
		{"empty", "", false},
	} {
		if _, ok := x.Seq(tt.id); ok != tt.ok {
			t.Errorf("%s: Seq(%q) known %v, want %v", tt.name, tt.id, ok, tt.ok)
		}
	}
}
