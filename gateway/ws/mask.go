package ws

import (
	"encoding/binary"
	"math/bits"
)

// unmask masks or unmasks p in place (RFC 6455, 5.3). The key has its first
// byte lowest. It returns the key for the bytes that follow p.
func unmask(p []byte, key uint32) uint32 {
	if key == 0 { // of a server, most likely
		return 0
	}
	if len(p) >= 8 {
		k := uint64(key)<<32 | uint64(key)
		for ; len(p) >= 32; p = p[32:] {
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
			binary.LittleEndian.PutUint64(p[8:], binary.LittleEndian.Uint64(p[8:])^k)
			binary.LittleEndian.PutUint64(p[16:], binary.LittleEndian.Uint64(p[16:])^k)
			binary.LittleEndian.PutUint64(p[24:], binary.LittleEndian.Uint64(p[24:])^k)
		}
		for ; len(p) >= 8; p = p[8:] {
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
		}
	}
	for i := range p {
		p[i] ^= byte(key)
		key = bits.RotateLeft32(key, -8)
	}
	return key
}
