package compress

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// zstdFrame is the most bytes of text in one frame, and so the memory that a
// decoder needs for its window. Browsers refuse more than 8 MiB (RFC 9659); the
// encoder's tables and the browser's memory gain from less.
const zstdFrame = 128 << 10

// AppendZstd appends src to dst as one zstd frame (RFC 8878), or one for each
// 128 KiB: with the length of its content, which is its window too, and without a
// checksum. Frames that follow one another are a stream, and a stream may begin
// with any of them (RFC 8878, 3.1). Nothing is appended for no bytes.
//
// It grows by at most 9 bytes for each frame and 3 for each 64 KiB.
func AppendZstd(dst, src []byte) []byte {
	e := zstdEncoders.get()
	defer zstdEncoders.put(e)
	for len(src) > 0 {
		n := min(len(src), zstdFrame)
		dst = e.EncodeAll(src[:n], dst)
		src = src[n:]
	}
	return dst
}

// An encoder is 0.4 MB. The levels above take more time and memory, and save 0 to
// 3 % of the bytes (BenchmarkZstd).
var zstdEncoders = newPool(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), // the pool has as many as are needed
		zstd.WithWindowSize(zstdFrame),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(false), // TCP and TLS have theirs
		zstd.WithLowerEncoderMem(true),
		zstd.WithAllLitEntropyCompression(true), // a short message repeats nothing
	)
	if err != nil {
		panic(fmt.Sprintf("compress: %v", err)) // the options are constant
	}
	return e
})
