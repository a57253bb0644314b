package relay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"spillway/relay/cursor"
)

// Whatever moves between two records, a trail says what is said anew.
func TestTrail(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tags := []cursor.Tag{cursor.TagOfName("c", "a"), cursor.TagOfName("c", "b")}
	for _, tt := range []struct {
		name  string
		parts parts
	}{
		{"all partitions", nil},
		{"some partitions", parts{0, 2, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c trail
			v, minute, phase := vector{make([]int64, 2), make([]int64, 1)}, int64(1000), cursor.PhaseSnapshot
			for i := range 5000 {
				topic := r.IntN(len(v))
				switch at := &v[topic][r.IntN(len(v[topic]))]; r.IntN(200) {
				case 0:
					minute++
				case 1:
					v[topic] = append(v[topic], r.Int64N(100))
				case 2:
					*at = 0 // a topic that was created again
				case 3:
					*at += r.Int64N(1 << 40)
				case 4:
					phase = cursor.PhaseLive
				case 5:
					for p := range v[topic] {
						v[topic][p] += r.Int64N(1000)
					}
				default:
					*at++
				}
				got, want := c.at(v, phase, minute, tags, tt.parts), v.appendVisible(nil, phase, minute, tags, tt.parts)
				if string(got) != string(want) {
					t.Fatalf("step %d: got %s, want %s", i, got, want)
				}
			}
		})
	}
}

func BenchmarkTrail(b *testing.B) {
	for _, partitions := range []int{1, 12, 48} {
		v, tags := vector{make([]int64, partitions)}, []cursor.Tag{cursor.TagOfName("c", "a")}
		for p := range v[0] {
			v[0][p] = int64(1_000_000 + p)
		}
		var c trail
		var id []byte
		for _, way := range []struct {
			name string
			at   func()
		}{
			{"anew", func() { id = v.appendVisible(id[:0], 0, 29_000_000, tags, nil) }},
			{"trail", func() { id = append(id[:0], c.at(v, 0, 29_000_000, tags, nil)...) }},
		} {
			b.Run(fmt.Sprintf("partitions=%d/by=%s", partitions, way.name), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					v[0][i%partitions]++
					way.at()
				}
			})
		}
	}
}
