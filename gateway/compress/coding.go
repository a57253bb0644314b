package compress

import "strings"

// A Coding is a content coding, as Content-Encoding names it.
type Coding string

const (
	Identity Coding = "" // no Content-Encoding
	Gzip     Coding = "gzip"
	Zstd     Coding = "zstd"
)

// Choose is the coding of allowed that the client likes best by its
// Accept-Encoding (RFC 9110, 12.5.3; several fields are joined by commas), the
// first of those it likes equally. It is Identity when the client accepts none of
// them or prefers identity by name, and also when it refuses even that: a client
// that reads what it did not ask for is better off than one with an error.
//
// x-gzip is gzip (RFC 9110, 8.4.1.3). A member with a malformed weight does not count.
func Choose(acceptEncoding string, allowed []Coding) Coding {
	best, bestWeight := Identity, 0
	for _, c := range allowed {
		if w := weight(acceptEncoding, c); w > bestWeight {
			best, bestWeight = c, w
		}
	}
	if weight(acceptEncoding, Identity) > bestWeight {
		return Identity
	}
	return best
}

// weight is what the client makes of a coding, in thousandths. Identity that is
// not named has 0: it is acceptable, and less than anything that is asked for.
func weight(acceptEncoding string, c Coding) int {
	name := string(c)
	if c == Identity {
		name = "identity"
	}
	others := 0
	for member := range strings.SplitSeq(acceptEncoding, ",") {
		token, parameters, _ := strings.Cut(member, ";")
		token = strings.Trim(token, " \t")
		w, ok := parseWeight(parameters)
		switch {
		case !ok:
		case strings.EqualFold(token, name), c == Gzip && strings.EqualFold(token, "x-gzip"):
			return w
		case token == "*" && c != Identity:
			others = w
		}
	}
	return others
}

// parseWeight reads q=0.123 (RFC 9110, 12.4.2) as thousandths, and nothing as 1000.
func parseWeight(s string) (thousandths int, ok bool) {
	s = strings.Trim(s, " \t")
	if s == "" {
		return 1000, true
	}
	if len(s) < len("q=0") || s[0]|0x20 != 'q' || s[1] != '=' {
		return 0, false
	}
	s = s[2:]
	whole, digits, dot := strings.Cut(s, ".")
	if whole != "0" && whole != "1" || dot && len(digits) > 3 {
		return 0, false
	}
	unit := 1000
	w := unit * int(whole[0]-'0')
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
		unit /= 10
		w += unit * int(digits[i]-'0')
	}
	return w, w <= 1000
}
