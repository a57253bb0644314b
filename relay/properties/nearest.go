package properties

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"
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
		if n := levenshtein.ComputeDistance(name, plain(k)); n < bestEdits {
			best, bestEdits = k, n
		}
	}
	return best
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
