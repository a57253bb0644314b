package compress

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/flate"
)

// AppendDeflate appends src to dst as raw deflate (RFC 1951): one or more blocks
// that are not final and refer to nothing before src, and an empty stored block,
// 00 00 FF FF, after which the next byte begins. So runs can be joined in any
// way, and a stream may begin with any of them.
//
// The more src holds, the smaller each message gets: compress what is pending as
// one run. Noise grows by at most 10 bytes, and 5 more for each 64 KiB.
func AppendDeflate(dst, src []byte) []byte {
	if len(src) <= shortRun {
		return appendShort(dst, src)
	}
	d := deflaters.get()
	defer deflaters.put(d)
	d.out = dst
	d.w.Reset(d)
	_, err := d.w.Write(src)
	if err == nil {
		err = d.w.Flush()
	}
	if err != nil {
		panic(fmt.Sprintf("compress: deflate into memory: %v", err)) // Write below gives none
	}
	dst, d.out = d.out, nil
	return dst
}

// A deflater is 0.8 MB, most of it tables.
type deflater struct {
	w   *flate.Writer
	out []byte
}

var deflaters = newPool(func() *deflater {
	d := &deflater{}
	w, err := flate.NewWriter(d, deflateLevel)
	if err != nil {
		panic(fmt.Sprintf("compress: %v", err)) // there is such a level
	}
	d.w = w
	return d
})

// Level 1 of this library takes about half the time of compress/flate's, for fewer
// bytes. The levels above save 1 to 7 % of the bytes for 15 to 100 % more time;
// StatelessDeflate takes as long, and up to 6 % more bytes (BenchmarkDeflate).
const deflateLevel = 1

// Write takes compressed bytes; it never fails.
func (d *deflater) Write(p []byte) (int, error) {
	d.out = append(d.out, p...)
	return len(p), nil
}

// shortRun is the most bytes for which appendShort is used. Above, codes made for
// the text save more than the 50 bytes and more that it takes to describe them.
const shortRun = 192

const (
	hashBits = 9
	minMatch = 3 // RFC 1951, 3.2.5; the most, 258, is more than shortRun
)

// appendShort is AppendDeflate for at most shortRun bytes: one block with the
// fixed codes of RFC 1951, 3.2.6, or a stored one when that is no longer. The
// library would store most messages of 100 bytes, so that they grow.
func appendShort(dst, src []byte) []byte {
	begin := len(dst)
	b := bitWriter{out: dst}
	b.put(0b010, 3)               // not final, fixed codes
	var seen [1 << hashBits]uint8 // by hash of 3 bytes: the place behind their first
	for i := 0; i < len(src); {
		n, distance := 0, 0
		if i+minMatch < len(src) {
			at := &seen[hash(src[i:])]
			if *at != 0 {
				distance = i + 1 - int(*at)
				n = matchLen(src[i-distance:], src[i:])
			}
			*at = uint8(i + 1)
		}
		if n < minMatch {
			b.literal(src[i])
			i++
			continue
		}
		b.match(n, distance)
		for end := i + n; i < end; i++ {
			if i+minMatch < len(src) {
				seen[hash(src[i:])] = uint8(i + 1)
			}
		}
	}
	b.put(0, 7) // end of block
	if stored := begin + 5 + len(src); len(b.out) >= stored {
		b = bitWriter{out: append(dst, 0, byte(len(src)), 0, ^byte(len(src)), 0xff)}
		b.out = append(b.out, src...)
	}
	b.put(0, 3) // not final, stored
	b.align()
	return append(b.out, 0, 0, 0xff, 0xff)
}

// hash is of the first three of at least four bytes.
func hash(p []byte) uint32 {
	return binary.LittleEndian.Uint32(p) << 8 * 0x9e3779b1 >> (32 - hashBits)
}

// matchLen is how many bytes p, which is the shorter, begins with that old
// begins with too.
func matchLen(old, p []byte) int {
	n := 0
	for n < len(p) && old[n] == p[n] {
		n++
	}
	return n
}

// A bitWriter appends bits, the lowest first (RFC 1951, 3.1.1).
type bitWriter struct {
	out  []byte
	bits uint64
	n    uint // bits that are not in out yet
}

// put appends the n lowest bits of v, at most 32. The others are zero.
func (b *bitWriter) put(v uint32, n uint) {
	b.bits |= uint64(v) << b.n
	for b.n += n; b.n >= 8; b.n -= 8 {
		b.out = append(b.out, byte(b.bits))
		b.bits >>= 8
	}
}

// code appends a Huffman code of at most 9 bits, the highest first.
func (b *bitWriter) code(v uint16, n uint) {
	b.put(uint32(bits.Reverse16(v)>>(16-n)), n)
}

// align fills up the last byte.
func (b *bitWriter) align() {
	if b.n > 0 {
		b.put(0, 8-b.n)
	}
}

func (b *bitWriter) literal(c byte) {
	if c < 144 {
		b.code(0x30+uint16(c), 8)
	} else {
		b.code(0x190+uint16(c)-144, 9)
	}
}

// match appends "n bytes from distance before": a code for n and one for
// distance, each with further bits of the number itself (RFC 1951, 3.2.5).
func (b *bitWriter) match(n, distance int) {
	length := uint32(n - minMatch)
	symbol, extra := length, uint(0) // symbol counts from 257
	if length >= 8 {                 // four symbols for each number of further bits
		extra = uint(bits.Len32(length)) - 3
		symbol = 4*uint32(extra) + length>>extra
	}
	if symbol < 23 {
		b.code(uint16(symbol)+1, 7)
	} else {
		b.code(0xc0+uint16(symbol)-23, 8)
	}
	b.put(length&(1<<extra-1), extra)

	back := uint32(distance - 1)
	symbol, extra = back, 0
	if back >= 4 { // two for each
		extra = uint(bits.Len32(back)) - 2
		symbol = 2*uint32(extra) + back>>extra
	}
	b.code(uint16(symbol), 5)
	b.put(back&(1<<extra-1), extra)
}
