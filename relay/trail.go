package relay

import (
	"slices"
	"strconv"

	"spillway/relay/cursor"
)

// A trail writes the cursors of positions that follow one another. From record
// to record little more than some digits of one offset change: they are written
// over those before.
type trail struct {
	phase   cursor.Phase
	minute  int64
	text    []byte
	offsets []int64 // that text has, of the partitions that are read,
	ends    []int   // and where in it each ends
}

// at writes v as appendVisible does. What it returns holds until the next.
func (c *trail) at(v vector, phase cursor.Phase, minute int64, tags []cursor.Tag, parts parts) []byte {
	if len(c.text) == 0 || phase != c.phase || minute != c.minute || !c.move(v, parts) {
		c.phase, c.minute = phase, minute
		c.begin(v, tags, parts)
	}
	return c.text
}

// move writes the offsets of v over those that differ, and reports whether there
// is room for that.
func (c *trail) move(v vector, parts parts) bool {
	n := 0
	for t := range v {
		for p, next := range v[t] {
			if !parts.has(p) {
				continue
			}
			if n == len(c.offsets) {
				return false
			}
			if next != c.offsets[n] {
				if !cursor.OverwriteOffset(c.text[:c.ends[n]], next) {
					return false
				}
				c.offsets[n] = next
			}
			n++
		}
	}
	return n == len(c.offsets)
}

// begin writes all of it.
func (c *trail) begin(v vector, tags []cursor.Tag, parts parts) {
	n := 0
	for t := range v {
		n += parts.count(len(v[t]))
	}
	c.offsets, c.ends = slices.Grow(c.offsets[:0], n), slices.Grow(c.ends[:0], n)
	c.text = cursor.AppendHead(c.text[:0], c.phase, c.minute)
	for t := range v {
		c.text = append(c.text, separator(t))
		c.text = append(c.text, tags[t][:]...)
		c.text = append(c.text, '.')
		c.text = strconv.AppendInt(c.text, int64(parts.count(len(v[t]))), 10)
		for p, next := range v[t] {
			if !parts.has(p) {
				continue
			}
			c.text = append(c.text, '.')
			if parts != nil {
				c.text = append(cursor.AppendOffset(c.text, int64(p)), '_')
			}
			c.text = cursor.AppendOffset(c.text, next)
			c.offsets, c.ends = append(c.offsets, next), append(c.ends, len(c.text))
		}
	}
}
