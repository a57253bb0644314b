// Package ws speaks the server's half of WebSocket (RFC 6455) and of
// permessage-deflate without context takeover (RFC 7692), and does no I/O: it
// makes the bytes to send, reads the bytes that came, and answers handshakes. Of
// the client's half it has what a proxy needs that passes on what it reads.
// Who owns a connection, when it is written and what is said in return to a
// ping or a close is the caller's business.
//
// Frames go out whole and unmasked, so that the bytes of one are good for every
// client: begin at [AppendFrame]. What a client says goes through a [Reader],
// which is two words while the client is silent. [Upgrade] answers a handshake
// and hands over the connection.
package ws

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// An Op says what a frame is (RFC 6455, 5.2).
type Op byte

// The opcodes that there are. Those from OpClose on are control frames.
const (
	OpContinuation Op = 0x0
	OpText         Op = 0x1
	OpBinary       Op = 0x2
	OpClose        Op = 0x8
	OpPing         Op = 0x9
	OpPong         Op = 0xa
)

// Control reports whether op is of a control frame: short, whole, and allowed
// between the fragments of a message (RFC 6455, 5.5).
func (op Op) Control() bool { return op&0x8 != 0 }

// MaxControl is what the payload of a control frame may have, in bytes (RFC
// 6455, 5.5).
const MaxControl = 125

// maxHeader is the longest header of an unmasked frame, in bytes.
const maxHeader = 10

// The first two bytes of a frame (RFC 6455, 5.2).
const (
	bitFIN    = 0x80
	bitRSV1   = 0x40 // the message is compressed (RFC 7692, 6)
	bitsRSV23 = 0x30
	bitsOp    = 0x0f

	bitMask    = 0x80
	bitsLength = 0x7f
	length16   = 126 // the length is in the next two bytes
	length64   = 127 // the length is in the next eight bytes
)

// HeaderLen returns how long the header of a frame with n bytes of payload is,
// in bytes.
func HeaderLen(n int) int {
	switch {
	case n < length16:
		return 2
	case n < 1<<16:
		return 4
	}
	return maxHeader
}

// PutHeader writes the header of a frame that is a whole message, or a control
// frame, with n bytes of payload, and returns how long it is. compressed says
// that the payload is deflated. It panics when dst has not HeaderLen(n) bytes.
func PutHeader(dst []byte, op Op, compressed bool, n int) int {
	size := HeaderLen(n)
	_ = dst[size-1]
	dst[0] = bitFIN | byte(op)
	if compressed {
		dst[0] |= bitRSV1
	}
	switch size {
	case 2:
		dst[1] = byte(n)
	case 4:
		dst[1] = length16
		binary.BigEndian.PutUint16(dst[2:], uint16(n))
	default:
		dst[1] = length64
		binary.BigEndian.PutUint64(dst[2:], uint64(n))
	}
	return size
}

// AppendHeader appends what [PutHeader] writes.
func AppendHeader(dst []byte, op Op, compressed bool, n int) []byte {
	var b [maxHeader]byte
	return append(dst, b[:PutHeader(b[:], op, compressed, n)]...)
}

// AppendFrame appends a whole message, or a control frame. The payload of a
// control frame has at most [MaxControl] bytes.
func AppendFrame(dst []byte, op Op, payload []byte) []byte {
	return append(AppendHeader(dst, op, false, len(payload)), payload...)
}

// AppendMasked appends a whole message, or a control frame, as a client sends it
// (RFC 6455, 5.3).
func AppendMasked(dst []byte, op Op, payload []byte, key uint32) []byte {
	start := len(dst)
	dst = AppendHeader(dst, op, false, len(payload))
	dst[start+1] |= bitMask
	dst = binary.LittleEndian.AppendUint32(dst, key)
	start = len(dst)
	dst = append(dst, payload...)
	unmask(dst[start:], key)
	return dst
}

// What is said when a connection ends for an error of the client (RFC 6455,
// 7.4.1), and when a close frame says nothing.
const (
	CodeProtocolError = 1002
	CodeNoStatus      = 1005 // never on the wire
	CodeInvalidData   = 1007
	CodeTooBig        = 1009
)

// ValidCode reports whether a close frame may carry code: what is registered
// for the wire (IANA, WebSocket Close Code Number Registry), and 3000 to 4999.
func ValidCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// AppendClose appends a close frame. One with a code that must not be sent,
// such as 0 or [CodeNoStatus], is empty. A reason that is too long for a control
// frame is cut between two characters; what in it is not UTF-8 is replaced.
func AppendClose(dst []byte, code int, reason string) []byte {
	if !ValidCode(code) {
		return AppendHeader(dst, OpClose, false, 0)
	}
	reason = cut(strings.ToValidUTF8(reason, string(utf8.RuneError)), MaxControl-2)
	dst = AppendHeader(dst, OpClose, false, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// cut returns the beginning of s, which is UTF-8, in at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ParseClose returns what the payload of a close frame says, as a [Reader]
// gives it: [CodeNoStatus] when it is empty. The reason is part of the payload.
func ParseClose(payload []byte) (code int, reason []byte) {
	if len(payload) < 2 {
		return CodeNoStatus, nil
	}
	return int(binary.BigEndian.Uint16(payload)), payload[2:]
}
