package main

import (
	"fmt"
	"time"
)

// A message is what the generator sends, and looks for in what arrives:
//
//	0000002a 0000012cc4 xxxx…
//
// a sequence number (8 hexadecimal digits), a blank, when it was due in
// microseconds after the step began (10 digits), a blank, and filling.
type message struct {
	seq uint32
	due time.Duration
}

// messageBytes is the shortest message.
const messageBytes = seqDigits + 1 + dueDigits + 1

const (
	seqDigits = 8
	dueDigits = 10
)

// append appends the message with size bytes to dst. A due time before the
// step counts as its beginning.
func (m message) append(dst []byte, size int) []byte {
	end := len(dst) + size
	dst = fmt.Appendf(dst, "%08x %010x ", m.seq, max(m.due, 0).Microseconds())
	for len(dst) < end {
		dst = append(dst, 'x')
	}
	return dst
}

// parseMessage reads a message; ok is false when p is something else.
func parseMessage(p []byte) (m message, ok bool) {
	if len(p) < messageBytes || p[seqDigits] != ' ' || p[messageBytes-1] != ' ' {
		return message{}, false
	}
	seq, ok1 := hex(p[:seqDigits])
	due, ok2 := hex(p[seqDigits+1 : messageBytes-1])
	return message{seq: uint32(seq), due: time.Duration(due) * time.Microsecond}, ok1 && ok2
}

// hex reads lower-case hexadecimal digits, at most 15. Package strconv would
// want a string and be slower; this runs twice per delivery.
func hex(p []byte) (n uint64, ok bool) {
	for _, c := range p {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
