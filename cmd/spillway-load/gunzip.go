package main

import (
	"bytes"
	"compress/flate"
	"fmt"
	"hash/maphash"
	"io"
)

// A gunzip reads a gzip stream (RFC 1952) whose server ends each block with an
// empty stored one and lets it refer to nothing before it, so that any client
// can be given the same bytes. A stream that is compressed in another way is an
// error: Go's reader of deflate cannot stop in the middle and go on.
type gunzip struct {
	inflater *inflater
	buf      []byte // what has come of the header, or of a block without its end
	body     bool   // the header has come
}

// gzipHeaderBytes is the length of a header without a name, a comment or
// anything extra.
const gzipHeaderBytes = 10

// blockEnd is the end of an empty stored block on a byte's boundary (RFC 1951,
// section 3.2.4), which is what flushing a compressor writes.
var blockEnd = []byte{0, 0, 0xff, 0xff}

// feed takes the next bytes and calls plain with what each complete block
// holds, which is valid during the call.
func (z *gunzip) feed(p []byte, plain func([]byte) error) error {
	z.buf = append(z.buf, p...)
	if len(z.buf) > maxLine {
		return fmt.Errorf("gzip: a block of more than %d bytes", maxLine)
	}
	rest := z.buf
	if !z.body {
		if len(rest) < gzipHeaderBytes {
			return nil
		}
		if rest[0] != 0x1f || rest[1] != 0x8b || rest[2] != 8 || rest[3] != 0 {
			return fmt.Errorf("gzip: unexpected header % x", rest[:4])
		}
		rest, z.body = rest[gzipHeaderBytes:], true
	}
	from := 0 // where the end of the block is looked for
	for {
		i := bytes.Index(rest[from:], blockEnd)
		if i < 0 {
			break
		}
		end := from + i + len(blockEnd)
		text, err := z.inflater.inflate(rest[:end])
		if err != nil && end < maxBlock {
			from += i + 1 // those bytes may have been data
			continue
		}
		if err != nil {
			return fmt.Errorf("gzip: a block that cannot be read by itself: %w", err)
		}
		if err := plain(text); err != nil {
			return err
		}
		rest, from = rest[end:], 0
	}
	z.buf = z.buf[:copy(z.buf, rest)]
	return nil
}

// An inflater remembers the blocks that it inflated last: a thousand clients of
// one channel are sent the same ones, and then only their bytes are compared.
// The zero inflater is ready. It is used by one goroutine at a time.
type inflater struct {
	seed   maphash.Seed
	blocks map[uint64]inflatedBlock
	bytes  int // in blocks
	reader io.ReadCloser
}

type inflatedBlock struct{ packed, plain []byte }

const (
	inflatedBytes = 8 << 20 // that an inflater remembers
	maxBlock      = 256 << 10
)

// inflate returns what a run of deflate blocks holds that ends with an empty
// stored block. It returns an error when the run is cut off inside a block. The
// result must not be changed.
func (f *inflater) inflate(packed []byte) ([]byte, error) {
	if f.blocks == nil {
		f.seed, f.blocks, f.reader = maphash.MakeSeed(), make(map[uint64]inflatedBlock), flate.NewReader(nil)
	}
	hash := maphash.Bytes(f.seed, packed)
	if b, ok := f.blocks[hash]; ok && bytes.Equal(b.packed, packed) {
		return b.plain, nil
	}
	// A last block, empty, makes it a whole stream.
	whole := io.MultiReader(bytes.NewReader(packed), bytes.NewReader([]byte{1, 0, 0, 0xff, 0xff}))
	if err := f.reader.(flate.Resetter).Reset(whole, nil); err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(f.reader, maxLine))
	if err != nil {
		return nil, err
	}
	if f.bytes += len(plain) + len(packed); f.bytes > inflatedBytes {
		clear(f.blocks)
		f.bytes = len(plain) + len(packed)
	}
	f.blocks[hash] = inflatedBlock{bytes.Clone(packed), plain}
	return plain, nil
}
