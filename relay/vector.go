package relay

import (
	"slices"

	"spillway/relay/cursor"
)

// A vector is a position in every partition of a view: the next offset to
// read, by topic (in the view's order, byte order of the names) and partition.
// Positions of one stream are compared as vectors, never as cursor text: two
// replicas write the same position with another time.
type vector [][]int64

func (v vector) clone() vector {
	c := make(vector, len(v))
	for i := range v {
		c[i] = slices.Clone(v[i])
	}
	return c
}

// covers reports whether v is at or past o in every partition. A partition
// that is missing in o is one that o's holder has seen nothing of; one that is
// missing in v cannot be said to be covered, unless o is there at offset 0.
func (v vector) covers(o vector) bool {
	for t := range o {
		for p, want := range o[t] {
			if p >= len(v[t]) {
				if want > 0 {
					return false
				}
				continue
			}
			if v[t][p] < want {
				return false
			}
		}
	}
	return true
}

// extend gives v every partition that base has and v has not, at base's offset.
func (v vector) extend(base vector) {
	for t := range base {
		if n := len(v[t]); n < len(base[t]) {
			v[t] = append(v[t], base[t][n:]...)
		}
	}
}

// distance is how many offsets lie in [v, to), summed over the partitions.
func (v vector) distance(to vector) (offsets int64) {
	for t := range to {
		for p, end := range to[t] {
			from := int64(0)
			if p < len(v[t]) {
				from = v[t][p]
			}
			if end > from {
				offsets += end - from
			}
		}
	}
	return offsets
}

// appendCursor writes v as a cursor: dense, and of any length. What is sent to
// clients may be shortened (see idRule); what the gateway hands back is not.
func (v vector) appendCursor(dst []byte, phase cursor.Phase, minute int64, tags []cursor.Tag) []byte {
	dst = cursor.AppendHead(dst, phase, minute)
	for t := range v {
		dst = append(dst, separator(t))
		dst = cursor.AppendDense(dst, tags[t], v[t])
	}
	return dst
}

// vectorOf reads the internal form that appendCursor wrote.
func vectorOf(c cursor.Cursor, tags []cursor.Tag) (vector, bool) {
	if len(c.Blocks) != len(tags) {
		return nil, false
	}
	v := make(vector, len(tags))
	for t, b := range c.Blocks {
		if b.Tag != tags[t] || b.Unknown || b.Parts != nil {
			return nil, false
		}
		v[t] = slices.Clone(b.Offsets)
	}
	return v, true
}
