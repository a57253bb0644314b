package fanout

import (
	"math/bits"
	"strconv"

	"spillway/gateway/ws"
	"spillway/grip"
)

// frameTail is what stands behind the content in a frame at most, in bytes.
const frameTail = len("\r\n")

// headBytes is how much stands before content of n bytes.
func headBytes(form Form, n int) int {
	if form == Message {
		return ws.HeaderLen(n)
	}
	return hexDigits(n) + len("\r\n")
}

// frameBytes is how long the frame of n bytes of content is.
func frameBytes(form Form, n int) int {
	if form == Message {
		return ws.HeaderLen(n) + n
	}
	return hexDigits(n) + len("\r\n") + n + len("\r\n")
}

// putFrame writes into frame what stands around its content, n bytes that are
// in their place.
func putFrame(frame []byte, form Form, n int, typ grip.MessageType) {
	if form == Message {
		ws.AppendHeader(frame[:0], opcode(typ), false, n)
		return
	}
	appendChunkHead(frame[:0], n)
	copy(frame[len(frame)-len("\r\n"):], "\r\n")
}

// appendChunkHead appends what stands before n bytes of a chunk (RFC 9112,
// 7.1).
func appendChunkHead(dst []byte, n int) []byte {
	return append(strconv.AppendInt(dst, int64(n), 16), "\r\n"...)
}

// unframed is what is inside a frame of the log.
func unframed(form Form, frame []byte) []byte {
	if len(frame) == 0 {
		return frame
	}
	if form == Message {
		head := 2
		switch frame[1] { // RFC 6455, 5.2; frames of a server have no mask
		case 126:
			head = 4
		case 127:
			head = 10
		}
		return frame[head:]
	}
	// The head is as long as the content's length says: of d digits and as
	// many bytes as they tell, exactly one d fits the whole.
	for d := 1; ; d++ {
		if n := len(frame) - d - 2*len("\r\n"); hexDigits(n) == d {
			return frame[d+len("\r\n") : d+len("\r\n")+n]
		}
	}
}

// hexDigits is how many hexadecimal digits n has.
func hexDigits(n int) int { return max((bits.Len(uint(n))+3)/4, 1) }

func opcode(typ grip.MessageType) ws.Op {
	switch typ {
	case grip.BinaryMessage:
		return ws.OpBinary
	case grip.PingMessage:
		return ws.OpPing
	case grip.PongMessage:
		return ws.OpPong
	default:
		return ws.OpText
	}
}
