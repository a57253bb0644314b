package compress

import (
	"encoding/binary"
	"hash/crc32"
)

// GzipHeader begins a gzip stream (RFC 1952, 2.3): deflate, no time, unknown
// system. It is read-only.
var GzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

// AppendGzipEnd appends the end of a gzip stream to dst: an empty final block,
// and CRC32 and length of all that the stream holds (RFC 1952, 2.3.1).
func AppendGzipEnd(dst []byte, sum Sum) []byte {
	dst = append(dst, 3, 0) // final, fixed codes, end of block
	dst = binary.LittleEndian.AppendUint32(dst, sum.CRC)
	return binary.LittleEndian.AppendUint32(dst, uint32(sum.Len)) // modulo 2^32, as it says there
}

// A Sum is what the end of a gzip stream tells of the bytes before it. The zero
// Sum is that of no bytes.
type Sum struct {
	CRC uint32 // IEEE 802.3, as of hash/crc32
	Len uint64 // bytes
}

// SumOf is the sum of p.
func SumOf(p []byte) Sum { return Sum{}.Add(p) }

// Add is the sum of the bytes of s followed by p.
func (s Sum) Add(p []byte) Sum {
	return Sum{crc32.Update(s.CRC, crc32.IEEETable, p), s.Len + uint64(len(p))}
}

// Join is the sum of the bytes of s followed by those of b. It takes about a
// microsecond, whatever their length.
func (s Sum) Join(b Sum) Sum {
	return Sum{shift(s.CRC, b.Len) ^ b.CRC, s.Len + b.Len}
}

// After is the sum of what stands behind prefix in the bytes of s, which begin
// with it. It takes about a microsecond, whatever their length.
func (s Sum) After(prefix Sum) Sum {
	n := s.Len - prefix.Len
	return Sum{s.CRC ^ shift(prefix.CRC, n), n}
}

// A CRC is the remainder of the message, a polynomial over GF(2), divided by P.
// Bit 31 is the coefficient of x^0. What the CRC adds before and after (all ones,
// twice) cancels out: the CRC of A followed by n bytes B is A's times x^(8n), plus
// B's. zlib's crc32_combine is the same.

// shift is crc times x^(8n) modulo P.
func shift(crc uint32, n uint64) uint32 {
	for power := uint32(1 << (31 - 8)); n != 0; n >>= 1 { // x^8, then its squares
		if n&1 != 0 {
			crc = multiply(crc, power)
		}
		power = multiply(power, power)
	}
	return crc
}

// multiply is a times b modulo P.
func multiply(a, b uint32) uint32 {
	product := uint32(0)
	for ; a != 0; a <<= 1 {
		if a&(1<<31) != 0 {
			product ^= b
		}
		// b times x: what leaves at x^32 comes back as P.
		b = b>>1 ^ crc32.IEEE&-(b&1)
	}
	return product
}
