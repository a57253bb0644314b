package properties

import (
	"strconv"
	"strings"
	"unicode"
)

// longestName bounds the work that an unknown name can cause. The longest
// real one has 49 bytes.
const longestName = 80

// nearest returns the known name that takes the fewest edits to get to from
// name. Upper case and underscores cost nothing: they are the usual slips of
// people who come from environment variables.
func nearest(name string, known []string) string {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", ".") }
	name = plain(name[:min(len(name), longestName)])
	best, bestEdits := "", 1<<30
	for _, k := range known {
		if n := edits(name, plain(k)); n < bestEdits {
			best, bestEdits = k, n
		}
	}
	return best
}

// edits is the number of bytes to insert, delete, replace or swap with their
// neighbour to turn a into b (optimal string alignment distance).
func edits(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// cut makes fit for a message what somebody wrote: not too long, and in quotes
// if it is empty or would break the line or hide in it.
func cut(s string) string {
	if len(s) > longestName {
		s = strings.ToValidUTF8(s[:longestName], "") + "…"
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
