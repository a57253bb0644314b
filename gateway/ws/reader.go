package ws

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"
	"unsafe"

	"spillway/gateway/compress"
)

// Rules are what the other side must keep to. Connections share them.
type Rules struct {
	// FromServer says that the other side is a server, which masks nothing.
	FromServer bool

	// Limit is how long a message may be, in bytes, after it was inflated.
	// Control frames are not counted.
	Limit int

	// Inflate is nil unless permessage-deflate has been agreed on. It appends
	// to dst what src, a message without its tail (RFC 7692, 7.2.2), inflates
	// to. Its error is compress.ErrTooLarge when that is more than limit
	// bytes, and any other when src is damaged.
	Inflate func(dst, src []byte, limit int) ([]byte, error)
}

// An Error says how a client broke the protocol. The connection ends with its
// Code.
type Error struct {
	Code int // CodeProtocolError, CodeInvalidData or CodeTooBig
	Text string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

func protocolError(text string) error { return &Error{CodeProtocolError, text} }

// A Message is a message, whole and inflated, or a control frame. A Reader has
// checked that text is UTF-8, and so is the reason of a close frame, and that
// its code is one that may be sent.
type Message struct {
	Op      Op // not OpContinuation
	Payload []byte
}

// A Reader takes apart what a client sends. It is two words, and owns memory
// only within a frame or between the fragments of a message. It is not safe for
// concurrent use.
type Reader struct {
	rules   *Rules
	partial *partial // nil: at the beginning of a message
}

// NewReader returns a Reader for a connection that has just been opened.
func NewReader(rules *Rules) Reader { return Reader{rules: rules} }

// A header is of a frame from a client.
type header struct {
	op         Op
	fin        bool
	compressed bool
	key        uint32 // for the next byte of the payload; see unmask
	length     int    // of the payload
}

// maxMaskedHeader is the longest header of a client, in bytes.
const maxMaskedHeader = maxHeader + 4

// partial is what is kept until the rest arrives.
type partial struct {
	head  [maxMaskedHeader]byte // the beginning of a header
	heads int                   // bytes in head

	frame header // that is being read
	left  int    // bytes of its payload that are missing; 0: not within a payload

	control  [MaxControl]byte // payload of a control frame
	controls int              // bytes in control

	op         Op // of the message that has begun; OpContinuation: none has
	compressed bool
	message    []byte // its payload so far
}

// keptMessage is the largest buffer that stays with a partial in the pool, in
// bytes. A client that sends one byte may come by it.
const keptMessage = 2 << 10

var partials = sync.Pool{New: func() any { return new(partial) }}

// begin returns r.partial, which is there from now on.
func (r *Reader) begin() *partial {
	if r.partial == nil {
		r.partial = partials.Get().(*partial)
	}
	return r.partial
}

// Reset forgets what is unfinished, and gives its memory back.
func (r *Reader) Reset() {
	p := r.partial
	if p == nil {
		return
	}
	r.partial = nil
	p.heads, p.left, p.controls, p.op = 0, 0, 0, OpContinuation
	p.message = p.message[:0]
	if cap(p.message) > keptMessage {
		p.message = nil
	}
	partials.Put(p)
}

// Held returns how much memory r has besides itself, in bytes: none when
// nothing is unfinished.
func (r *Reader) Held() int {
	if r.partial == nil {
		return 0
	}
	return int(unsafe.Sizeof(partial{})) + cap(r.partial.message)
}

// Feed reads the bytes that arrived next and calls on for each message and
// control frame that is complete with them. How the bytes are split among calls
// makes no difference. Feed writes over data, and a Message is valid only until
// on returns.
//
// It returns an [*Error] when the client broke the protocol; whatever came
// before has been handed to on. An error of on ends Feed too, and is returned
// as it is. After an error nothing more of the connection can be understood.
func (r *Reader) Feed(data []byte, on func(Message) error) error {
	err := r.feed(data, on)
	if p := r.partial; p != nil && (err != nil || p.heads == 0 && p.left == 0 && p.op == OpContinuation) {
		r.Reset()
	}
	return err
}

func (r *Reader) feed(data []byte, on func(Message) error) error {
	for len(data) > 0 {
		if p := r.partial; p != nil && p.left > 0 {
			n := min(p.left, len(data))
			p.keep(data[:n])
			data = data[n:]
			if p.left == 0 {
				if err := r.end(p, on); err != nil {
					return err
				}
			}
			continue
		}
		h, n, err := r.next(data)
		if n == 0 {
			return err
		}
		data = data[n:]
		if h.length > len(data) || !h.fin || h.op == OpContinuation {
			p := r.begin()
			p.start(h)
			n = min(h.length, len(data))
			p.keep(data[:n])
			if p.left == 0 {
				err = r.end(p, on)
			}
		} else {
			n = h.length
			unmask(data[:n], h.key)
			err = r.hand(h.op, h.compressed, data[:n], on)
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// next reads a header, of which the beginning may have been kept, and returns
// how many bytes of data belong to it. It returns 0 on error, and when there are
// not enough; then those are kept.
func (r *Reader) next(data []byte) (h header, n int, err error) {
	before := 0
	head := data
	if p := r.partial; p != nil && p.heads > 0 {
		before = p.heads
		head = p.head[:before+copy(p.head[before:], data)]
	}
	h, n, err = r.header(head)
	switch {
	case err != nil:
		return h, 0, err
	case n == 0:
		p := r.begin()
		p.heads = copy(p.head[:], head)
		return h, 0, nil
	case before > 0:
		r.partial.heads = 0
	}
	return h, n - before, nil
}

// header reads the header at the beginning of b and returns its length, or 0
// when b is too short. It says what is wrong as soon as it can be seen.
func (r *Reader) header(b []byte) (h header, n int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h = header{op: Op(b[0] & bitsOp), fin: b[0]&bitFIN != 0, compressed: b[0]&bitRSV1 != 0}
	length := uint64(b[1] & bitsLength)
	begun := r.partial != nil && r.partial.op != OpContinuation
	switch {
	case h.op > OpPong, h.op > OpBinary && !h.op.Control():
		err = protocolError(fmt.Sprintf("reserved opcode %d", h.op))
	case b[0]&bitsRSV23 != 0:
		err = protocolError("reserved bit set")
	case h.compressed && r.rules.Inflate == nil:
		err = protocolError("compressed without an agreement")
	case h.compressed && h.op != OpText && h.op != OpBinary:
		err = protocolError("compressed bit not at the beginning of a message")
	case b[1]&bitMask == 0 && !r.rules.FromServer:
		err = protocolError("frame not masked")
	case b[1]&bitMask != 0 && r.rules.FromServer:
		err = protocolError("frame of a server masked")
	case h.op.Control() && !h.fin:
		err = protocolError("fragmented control frame")
	case h.op.Control() && length > MaxControl:
		err = protocolError("control frame too long")
	case h.op == OpContinuation && !begun:
		err = protocolError("continuation of nothing")
	case (h.op == OpText || h.op == OpBinary) && begun:
		err = protocolError("new message within a message")
	}
	if err != nil {
		return h, 0, err
	}

	n = 2
	switch length {
	case length16:
		if n += 2; len(b) < n {
			return h, 0, nil
		}
		if length = uint64(binary.BigEndian.Uint16(b[2:])); length < length16 {
			return h, 0, protocolError("length not in the shortest form")
		}
	case length64:
		if n += 8; len(b) < n {
			return h, 0, nil
		}
		length = binary.BigEndian.Uint64(b[2:])
		if length>>63 != 0 {
			return h, 0, protocolError("length out of range")
		}
		if length < 1<<16 {
			return h, 0, protocolError("length not in the shortest form")
		}
	}
	if !h.op.Control() && length > r.room(h.compressed) {
		return h, 0, errTooBig
	}
	h.length = int(length)

	if r.rules.FromServer {
		return h, n, nil
	}
	if len(b) < n+4 {
		return h, 0, nil
	}
	h.key = binary.LittleEndian.Uint32(b[n:])
	return h, n + 4, nil
}

var errTooBig = &Error{CodeTooBig, "message too large"}

// room returns how many bytes of payload the message may still have on the
// wire, where compressed is of its first frame.
func (r *Reader) room(compressed bool) uint64 {
	limit, have := r.rules.Limit, 0
	if p := r.partial; p != nil && p.op != OpContinuation {
		compressed, have = p.compressed, len(p.message)
	}
	if compressed {
		// Deflate adds a little to what it cannot make smaller: 5 bytes to a
		// stored block, of which zlib makes one of 16 KiB or smaller with
		// little memory.
		limit += limit/256 + 64
	}
	return uint64(max(limit-have, 0))
}

// start begins a frame.
func (p *partial) start(h header) {
	p.frame, p.left = h, h.length
	if h.op == OpText || h.op == OpBinary {
		p.op, p.compressed = h.op, h.compressed
	}
}

// keep takes the next bytes of the frame's payload, as they came.
func (p *partial) keep(data []byte) {
	p.frame.key = unmask(data, p.frame.key)
	p.left -= len(data)
	if p.frame.op.Control() {
		p.controls += copy(p.control[p.controls:], data)
	} else {
		p.message = append(p.message, data...)
	}
}

// end hands over what is complete with the frame that has ended.
func (r *Reader) end(p *partial, on func(Message) error) error {
	switch {
	case p.frame.op.Control():
		n := p.controls
		p.controls = 0
		return r.hand(p.frame.op, false, p.control[:n], on)
	case p.frame.fin:
		err := r.hand(p.op, p.compressed, p.message, on)
		p.op = OpContinuation
		p.message = p.message[:0]
		return err
	}
	return nil
}

// inflated are buffers for messages.
var inflated = sync.Pool{New: func() any { return new([]byte) }}

// keptInflated is the largest buffer that stays in the pool, in bytes.
const keptInflated = 64 << 10

// hand inflates a message if need be, and hands it over.
func (r *Reader) hand(op Op, compressed bool, payload []byte, on func(Message) error) error {
	if !compressed {
		return deliver(op, payload, on)
	}
	buf := inflated.Get().(*[]byte)
	defer inflated.Put(buf)
	p, err := r.rules.Inflate((*buf)[:0], payload, r.rules.Limit)
	if cap(p) <= keptInflated {
		*buf = p
	}
	switch {
	case err == nil:
		return deliver(op, p, on)
	case errors.Is(err, compress.ErrTooLarge):
		return errTooBig
	}
	return &Error{CodeInvalidData, "damaged compressed message"}
}

// deliver checks what is inside a message or control frame and calls on.
func deliver(op Op, payload []byte, on func(Message) error) error {
	switch op {
	case OpText:
		if !utf8.Valid(payload) {
			return &Error{CodeInvalidData, "text not in UTF-8"}
		}
	case OpClose:
		code, reason := ParseClose(payload)
		switch {
		case len(payload) == 0:
		case len(payload) == 1, !ValidCode(code):
			return protocolError("invalid close code")
		case !utf8.Valid(reason):
			return &Error{CodeInvalidData, "reason not in UTF-8"}
		}
	}
	return on(Message{Op: op, Payload: payload})
}
