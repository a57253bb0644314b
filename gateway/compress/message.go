package compress

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// AppendMessage appends src to dst as the payload of a compressed WebSocket
// message that refers to no other message: deflate without the 00 00 FF FF at its
// end (RFC 7692, 7.2.1). What is not shorter than src is better sent as it is,
// without RSV1.
func AppendMessage(dst, src []byte) []byte {
	dst = AppendDeflate(dst, src)
	return dst[:len(dst)-len("\x00\x00\xff\xff")]
}

// ErrTooLarge is the error of Inflate when a message holds more than it may.
var ErrTooLarge = errors.New("message is too large once inflated")

// Inflate appends to dst what src holds, the payload of a compressed WebSocket
// message that refers to no other (RFC 7692, 7.2.2). It reads no further, and
// makes no more room, than limit bytes need; if there are more, the error is
// ErrTooLarge. Any other error says that src is not deflate. With an error, dst is
// returned as it was.
func Inflate(dst, src []byte, limit int) ([]byte, error) {
	f := inflaters.get()
	defer func() {
		f.src = nil
		inflaters.put(f)
	}()
	f.src, f.tail = src, inflateTail

	out := dst
	for f.reset(); ; {
		room := out[len(out):cap(out)]
		left := limit - (len(out) - len(dst))
		switch {
		case left <= 0:
			room = f.beyond[:]
		case len(room) == 0:
			// Text is inflated to about four times its size.
			n := min(max(2*(len(out)-len(dst)), 4*len(src), 512), limit)
			out = append(make([]byte, 0, len(dst)+n), out...)
			continue
		case len(room) > left:
			room = room[:left]
		}
		n, err := f.r.Read(room)
		if n > 0 && left <= 0 {
			return dst, ErrTooLarge
		}
		out = out[:len(out)+n]
		if err == io.EOF {
			if len(f.src) == 0 && (len(f.tail) == 0 || len(f.tail) == len(inflateTail)) {
				return out, nil
			}
			// The sender has set BFINAL, and may go on (RFC 7692, 7.2.3.4).
			f.reset()
		} else if err != nil {
			return dst, fmt.Errorf("inflate: %w", err)
		}
	}
}

// inflateTail is what the sender has cut off (RFC 7692, 7.2.2), and an empty
// final block, so that the end of the message is an end for the decoder too.
const inflateTail = "\x00\x00\xff\xff\x03\x00"

// An inflater is 40 kB.
type inflater struct {
	r      io.ReadCloser // flate's, reading from the inflater
	src    []byte        // not read yet
	tail   string        // read after src
	beyond [1]byte       // for the byte that must not be
}

var inflaters = newPool(func() *inflater {
	f := &inflater{}
	f.r = flate.NewReader(f)
	return f
})

// reset begins a new deflate stream where the last has ended.
func (f *inflater) reset() {
	if err := f.r.(flate.Resetter).Reset(f, nil); err != nil {
		panic(fmt.Sprintf("compress: reset a decoder: %v", err)) // without a dictionary there is none
	}
}

// ReadByte makes flate read no further than the end of a stream.
func (f *inflater) ReadByte() (byte, error) {
	if len(f.src) > 0 {
		c := f.src[0]
		f.src = f.src[1:]
		return c, nil
	}
	if f.tail == "" {
		return 0, io.EOF
	}
	c := f.tail[0]
	f.tail = f.tail[1:]
	return c, nil
}

// Read is for stored blocks.
func (f *inflater) Read(p []byte) (int, error) {
	if len(f.src) > 0 {
		n := copy(p, f.src)
		f.src = f.src[n:]
		return n, nil
	}
	if f.tail == "" {
		return 0, io.EOF
	}
	n := copy(p, f.tail)
	f.tail = f.tail[n:]
	return n, nil
}
