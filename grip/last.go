package grip

import (
	"fmt"
	"net/http"
	"strings"
)

// A Last says how far the receiver of a channel has come.
type Last struct{ Channel, ID string }

// ParseLast reads the Grip-Last headers of a request.
//
//	Grip-Last: CHANNEL; last-id=ID
//
// Several may stand in one header, separated by commas, or in several.
func ParseLast(h http.Header) ([]Last, error) {
	elems, err := elements(h.Values("Grip-Last"), false)
	if err != nil {
		return nil, fmt.Errorf("Grip-Last: %w", err)
	}
	var lasts []Last
	for _, e := range elems {
		if e.first == "" && len(e.params) == 0 {
			continue // an empty header, or a comma too many
		}
		id, ok := e.get("last-id")
		if !ok {
			return nil, fmt.Errorf("Grip-Last: channel %q: no last-id", e.first)
		}
		lasts = append(lasts, Last{Channel: e.first, ID: id})
	}
	return lasts, nil
}

// AppendLast adds one Grip-Last header for each channel. A channel whose name
// no header can carry (it holds a comma, a semicolon or a control character)
// is left out, and so is an id with a control character: no origin could have
// named the one, or read the other.
func AppendLast(h http.Header, lasts ...Last) {
	for _, l := range lasts {
		if strings.ContainsAny(l.Channel, ",;") || !isFieldValue(l.Channel) || !isFieldValue(l.ID) {
			continue
		}
		h.Add("Grip-Last", l.Channel+"; last-id="+quoteParam(l.ID))
	}
}

// quoteParam quotes a parameter's value if it would otherwise be read as
// something else.
func quoteParam(s string) string {
	if !strings.ContainsAny(s, ",;\"\\") && strings.TrimSpace(s) == s {
		return s
	}
	return quote(s)
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
