package relay

import (
	"strconv"
	"strings"
	"time"

	"spillway/relay/cursor"
)

// A vector is a position in every partition of a view: the next offset to
// read, by topic (in the view's order, byte order of the names) and partition.
// Positions of one stream are compared as vectors, never as cursor text: two
// replicas write the same position with another time.
type vector [][]int64

// clone copies v into memory of its own.
func (v vector) clone() vector {
	n := 0
	for i := range v {
		n += len(v[i])
	}
	all := make([]int64, 0, n)
	c := make(vector, len(v))
	for i := range v {
		all = append(all, v[i]...)
		c[i] = all[len(all)-len(v[i]) : len(all) : len(all)]
	}
	return c
}

// set makes v the position to, which has the same partitions.
func (v vector) set(to vector) {
	for i := range to {
		copy(v[i], to[i])
	}
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

// appendVisible does so for clients: of a view that reads some partitions only,
// just these.
func (v vector) appendVisible(dst []byte, phase cursor.Phase, minute int64, tags []cursor.Tag, parts parts) []byte {
	if parts == nil {
		return v.appendCursor(dst, phase, minute, tags)
	}
	dst = cursor.AppendHead(dst, phase, minute)
	var pairs []cursor.PartitionOffset
	for t := range v {
		pairs = pairs[:0]
		for p, next := range v[t] {
			if parts.has(p) {
				pairs = append(pairs, cursor.PartitionOffset{Partition: int32(p), Offset: next})
			}
		}
		dst = append(dst, separator(t))
		dst = cursor.AppendSparse(dst, tags[t], pairs)
	}
	return dst
}

// parsePosition reads what appendCursor wrote. Unlike cursor.Parse it takes a
// text of any length: the ids that we and the gateway tell each other are
// never shortened.
func parsePosition(text string) (v vector, tags []cursor.Tag, minute int64, ok bool) {
	rest, ok := strings.CutPrefix(text, "1-")
	if !ok {
		return nil, nil, 0, false
	}
	time, blocks, ok := strings.Cut(rest, "-")
	minute, err := strconv.ParseInt(time, 36, 64)
	if !ok || err != nil || len(time) > len("zzzzzz") {
		return nil, nil, 0, false
	}
	for block := range strings.SplitSeq(blocks, "~") {
		tag, offsets, ok := parseDense(block)
		if !ok {
			return nil, nil, 0, false
		}
		v, tags = append(v, offsets), append(tags, tag)
	}
	return v, tags, minute, true
}

// parseDense reads tag "." n 1*( "." off ).
func parseDense(block string) (tag cursor.Tag, offsets []int64, ok bool) {
	name, rest, _ := strings.Cut(block, ".")
	count, rest, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(count)
	if copy(tag[:], name) != len(tag) || len(name) != len(tag) || err != nil || n < 1 || n > len(rest) {
		return tag, nil, false
	}
	offsets = make([]int64, 0, n)
	for off := range strings.SplitSeq(rest, ".") {
		o, err := strconv.ParseInt(off, 36, 64)
		if err != nil || o < 0 {
			return tag, nil, false
		}
		offsets = append(offsets, o)
	}
	return tag, offsets, len(offsets) == n
}

// cursor is v as the client's cursor would say it.
func (v vector) cursor(minute int64, tags []cursor.Tag) cursor.Cursor {
	c := cursor.Cursor{Time: time.Unix(minute*60, 0), Blocks: make([]cursor.Block, len(v))}
	for t := range v {
		c.Blocks[t] = cursor.Block{Tag: tags[t], Partitions: int32(len(v[t])), Offsets: v[t]}
	}
	return c
}
