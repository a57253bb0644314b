package grip

import "strings"

// isFieldName reports whether s may be the name of a header (RFC 9110, 5.6.2).
func isFieldName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// isFieldValue reports whether s may stand in a header: anything but control
// characters, a tab excepted (RFC 9110, 5.5).
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isGripField reports whether a header is for the proxy only.
func isGripField(name string) bool {
	return len(name) >= 5 && strings.EqualFold(name[:5], "grip-")
}
