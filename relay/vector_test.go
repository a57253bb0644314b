package relay

import (
	"slices"
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
	text := string(v.appendCursor(nil, 0, 29_000_000, tags))
	got, gotTags, minute, ok := parsePosition(text)
	if !ok || !sameVector(got, v) || !slices.Equal(gotTags, tags) || minute != 29_000_000 {
		t.Errorf("%s: got %v %v at %d, %v; want %v %v", text, got, gotTags, minute, ok, v, tags)
	}
	if c := v.cursor(29_000_000, tags).String(); c != text {
		t.Errorf("as a client's cursor it is %s, want %s", c, text)
	}
	// Longer than any client's cursor may be.
	many := vector{slices.Repeat([]int64{1 << 40}, 5000)}
	if got, _, _, ok := parsePosition(string(many.appendCursor(nil, 0, 1, tags[:1]))); !ok || !sameVector(got, many) {
		t.Errorf("5000 partitions: %v", ok)
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"1-hi3hk-4fz1q.3.xg.rq.3ej", "1-0-aaaaa.1.0~bbbbb.2.1.2", "1e-0-aaaaa.1.0", "1-0-aaaaa.3!", "1-0-aaaaa.2.1", "1-0-aaaaa.1.-1", "1-0-aa.1.1", "1-0-aaaaa.1.1_1", "1-1000000-00000.3.0.0.0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, tags, minute, ok := parsePosition(s)
		if !ok {
			return
		}
		again := string(v.appendCursor(nil, 0, minute, tags))
		v2, tags2, minute2, ok := parsePosition(again)
		if !ok || !sameVector(v2, v) || !slices.Equal(tags2, tags) || minute2 != minute {
			t.Errorf("%q → %q: %v %v %d, want %v %v %d", s, again, v2, tags2, minute2, v, tags, minute)
		}
		// What a client's parser takes in this form, this one takes alike.
		if c, err := cursor.Parse(s); err == nil && c.String() != again {
			t.Errorf("%q reads as %q and as %s", s, again, c)
		}
	})
}
