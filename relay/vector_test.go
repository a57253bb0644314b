package relay

import (
	"testing"

	"spillway/relay/cursor"
)

func TestVectorCovers(t *testing.T) {
	for _, tt := range []struct {
		name string
		v, o vector
		want bool
	}{
		{"equal", vector{{1, 2}}, vector{{1, 2}}, true},
		{"past in one", vector{{2, 2}}, vector{{1, 2}}, true},
		{"past in one, behind in another", vector{{2, 1}}, vector{{1, 2}}, false},
		{"behind in the second topic", vector{{5}, {1}}, vector{{5}, {2}}, false},
		{"the other has seen nothing of a partition", vector{{1, 7}}, vector{{1}}, true},
		{"a partition that is not known, at 0", vector{{1}}, vector{{1, 0}}, true},
		{"a partition that is not known", vector{{1}}, vector{{1, 1}}, false},
	} {
		if got := tt.v.covers(tt.o); got != tt.want {
			t.Errorf("%s: %v covers %v: %v, want %v", tt.name, tt.v, tt.o, got, tt.want)
		}
	}
}

func TestVectorArithmetic(t *testing.T) {
	v := vector{{1, 2}, {3}}
	c := v.clone()
	c[0][0] = 9
	if v[0][0] != 1 {
		t.Error("a clone shares memory")
	}
	v.extend(vector{{7, 7, 7}, {8, 8}})
	if want := (vector{{1, 2, 7}, {3, 8}}); !sameVector(v, want) {
		t.Errorf("extend: got %v, want %v", v, want)
	}
	for _, tt := range []struct {
		name     string
		from, to vector
		want     int64
	}{
		{"sum over partitions", vector{{1, 2}, {3}}, vector{{4, 4}, {3}}, 5},
		{"what is ahead does not count", vector{{9, 2}}, vector{{4, 4}}, 2},
		{"a missing partition counts from 0", vector{{1}}, vector{{1, 6}}, 6},
	} {
		if got := tt.from.distance(tt.to); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	if got, want := latest(vector{{1, 5}}, vector{{3, 2}}), (vector{{3, 5}}); !sameVector(got, want) {
		t.Errorf("latest: got %v, want %v", got, want)
	}
	if got, want := earliest(vector{{1, 5}}, vector{{3, 2}}), (vector{{1, 2}}); !sameVector(got, want) {
		t.Errorf("earliest: got %v, want %v", got, want)
	}
}

func TestVectorAsCursor(t *testing.T) {
	tags := []cursor.Tag{cursor.TagOfName("c", "a"), cursor.TagOfName("c", "b")}
	v := vector{{1204, 998, 4411}, {0}}
	text := string(v.appendCursor(nil, cursor.PhaseEnd, 29_000_000, tags))
	c, err := cursor.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	got, ok := vectorOf(c, tags)
	if !ok || !sameVector(got, v) || c.Phase != cursor.PhaseEnd {
		t.Errorf("%s: got %v %v %q, want %v", text, got, ok, c.Phase, v)
	}
	if _, ok := vectorOf(c, tags[:1]); ok {
		t.Error("a cursor of two topics is none of one")
	}
	if _, ok := vectorOf(c, []cursor.Tag{tags[1], tags[0]}); ok {
		t.Error("tags decide, not places")
	}
}
