package relay

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// maxJSONDepth is how deep arrays and objects of a value may be nested. For
// encoding/json, which is what many a reader of envelopes has, it is 10,000 in
// all, and the answer to a long poll is three around the value.
const maxJSONDepth = 10_000 - 3

// isJSON reports whether text is one JSON text (RFC 8259): what json.Valid
// does, but for texts that are too deep, several times as fast. Every record of an envelope goes through it.
func isJSON(text []byte) bool {
	var few [64]byte
	open := few[:0] // the brackets that are open
	i := skipBlanks(text, 0)
	for {
		// A value begins at i.
		if i == len(text) {
			return false
		}
		switch c := text[i]; c {
		case '{', '[':
			if len(open) == maxJSONDepth {
				return false
			}
			if i = skipBlanks(text, i+1); i == len(text) {
				return false
			}
			switch {
			case text[i] == c+2: // both brackets stand two after their partners
				i++
			case c == '[':
				open = append(open, c)
				continue
			default:
				open = append(open, c)
				if i = skipName(text, i); i < 0 {
					return false
				}
				continue
			}
		case '"':
			i = skipString(text, i)
		case 't':
			i = skipWord(text, i, "true")
		case 'f':
			i = skipWord(text, i, "false")
		case 'n':
			i = skipWord(text, i, "null")
		default:
			i = skipNumber(text, i)
		}
		if i < 0 {
			return false
		}
		// A value ended before i.
		for i = skipBlanks(text, i); ; i = skipBlanks(text, i+1) {
			if len(open) == 0 {
				return i == len(text)
			}
			if i == len(text) {
				return false
			}
			if text[i] != open[len(open)-1]+2 {
				break
			}
			open = open[:len(open)-1]
		}
		if text[i] != ',' {
			return false
		}
		i = skipBlanks(text, i+1)
		if open[len(open)-1] == '{' {
			if i = skipName(text, i); i < 0 {
				return false
			}
		}
	}
}

// These return where what begins at i ends, or -1 if it does not begin there.

func skipBlanks(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// skipName skips the name of a member, the colon, and the blanks around it.
func skipName(text []byte, i int) int {
	if i == len(text) || text[i] != '"' {
		return -1
	}
	if i = skipString(text, i); i < 0 {
		return -1
	}
	if i = skipBlanks(text, i); i == len(text) || text[i] != ':' {
		return -1
	}
	return skipBlanks(text, i+1)
}

func skipString(text []byte, i int) int {
	for i++; ; i++ {
		if i = plainEnd(text, i); i == len(text) {
			return -1
		}
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			if i++; i == len(text) {
				return -1
			}
			switch text[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if len(text)-i <= 4 || strings.Trim(string(text[i+1:i+5]), "0123456789abcdefABCDEF") != "" {
					return -1
				}
				i += 4
			default:
				return -1
			}
		default: // a control character
			return -1
		}
	}
}

// plainEnd returns where the next quote, backslash or control character is at
// or after i, or the length of text.
func plainEnd(text []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(text)-i >= 8; i += 8 {
		// The top bit of a byte is set if the byte is such a one, and of no byte
		// before the first such.
		x := binary.LittleEndian.Uint64(text[i:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		if found := ((quote-ones)&^quote | (slash-ones)&^slash | (x-ones*' ')&^x) & tops; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(text); i++ {
		if c := text[i]; c == '"' || c == '\\' || c < ' ' {
			break
		}
	}
	return i
}

func skipWord(text []byte, i int, word string) int {
	if len(text)-i < len(word) || string(text[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

func skipNumber(text []byte, i int) int {
	if text[i] == '-' {
		i++
	}
	whole := i
	if i = skipDigits(text, i); i < 0 || (text[whole] == '0' && i > whole+1) {
		return -1
	}
	if i < len(text) && text[i] == '.' {
		if i = skipDigits(text, i+1); i < 0 {
			return -1
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		if i++; i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		return skipDigits(text, i)
	}
	return i
}

// skipDigits skips one digit or more.
func skipDigits(text []byte, i int) int {
	from := i
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}
