package main

import (
	"fmt"
	"strings"
	"time"
)

// A message is what the generator sends, and looks for in what arrives:
//
//	0000002a 0000012cc4 xxxx…
//
// a sequence number (8 hexadecimal digits), a blank, when it was due in
// microseconds after the step began (10 digits), a blank, and filling. Where
// what is sent should look like records, for compression, it is the first field
// of a JSON object:
//
//	{"m":"0000002a 0000012cc4 ","user":48213,"page":"/products/842",…}
type message struct {
	seq uint32
	due time.Duration
}

// messageBytes is the shortest message.
const messageBytes = seqDigits + 1 + dueDigits + 1

const (
	seqDigits  = 8
	dueDigits  = 10
	jsonPrefix = `{"m":"`
	jsonBytes  = 128 // that a JSON object has at most
)

// append appends the message with size bytes to dst. A due time before the
// step counts as its beginning.
func (m message) append(dst []byte, size int) []byte {
	end := len(dst) + size
	dst = m.digits(dst)
	for len(dst) < end {
		dst = append(dst, filling[:min(end-len(dst), len(filling))]...)
	}
	return dst
}

var filling = strings.Repeat("x", 1<<10)

// appendJSON appends the message as a JSON object of about 120 bytes, whose
// other fields differ from message to message as those of a click stream do.
func (m message) appendJSON(dst []byte) []byte {
	// Any two messages differ, and the same message is always the same.
	n := m.seq * 2654435761 // Knuth, TAOCP volume 3, section 6.4
	actions := [...]string{"view", "click", "cart", "search", "order", "return", "login", "share"}
	dst = append(dst, jsonPrefix...)
	dst = m.digits(dst)
	return fmt.Appendf(dst, `","user":%d,"page":"/products/%d","action":"%s","ms":%d,"mobile":%v}`,
		10000+n>>8%90000, n>>16%2000, actions[n>>29], n>>4%1000, n&1 == 1)
}

func (m message) digits(dst []byte) []byte {
	dst = appendHex(dst, uint64(m.seq), seqDigits)
	dst = append(dst, ' ')
	dst = appendHex(dst, uint64(max(m.due, 0).Microseconds()), dueDigits)
	return append(dst, ' ')
}

func appendHex(dst []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

// parseMessage reads a message in either form; ok is false when p is something
// else.
func parseMessage(p []byte) (m message, ok bool) {
	if len(p) > len(jsonPrefix) && p[0] == '{' && string(p[:len(jsonPrefix)]) == jsonPrefix {
		p = p[len(jsonPrefix):]
	}
	if len(p) < messageBytes || p[seqDigits] != ' ' || p[messageBytes-1] != ' ' {
		return message{}, false
	}
	seq, ok1 := hex(p[:seqDigits])
	due, ok2 := hex(p[seqDigits+1 : messageBytes-1])
	return message{seq: uint32(seq), due: time.Duration(due) * time.Microsecond}, ok1 && ok2
}

// hexDigits is the value of each lower-case hexadecimal digit, and notHex for
// every other byte.
var hexDigits = func() (table [256]uint8) {
	for c := range table {
		switch {
		case '0' <= c && c <= '9':
			table[c] = uint8(c - '0')
		case 'a' <= c && c <= 'f':
			table[c] = uint8(c - 'a' + 10)
		default:
			table[c] = notHex
		}
	}
	return table
}()

const notHex = 0x80

// hex reads lower-case hexadecimal digits, at most 15. Package strconv would
// want a string and be slower; this runs twice per delivery.
func hex(p []byte) (n uint64, ok bool) {
	var all uint8
	for _, c := range p {
		d := hexDigits[c]
		all |= d
		n = n<<4 | uint64(d&15)
	}
	return n, all&notHex == 0
}
