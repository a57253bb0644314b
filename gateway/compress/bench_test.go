package compress

import (
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"testing"

	kflate "github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// runLengths are messages of 128 bytes in a run: one at a time when a channel is
// quiet, hundreds under load.
var runLengths = []int{1, 4, 16, 64, 256}

// benchmarkRuns reports what one message of a run costs, in time and bytes.
func benchmarkRuns(b *testing.B, name string, f func(dst, src []byte) []byte) {
	all := messages(4096)
	for _, n := range runLengths {
		b.Run(fmt.Sprintf("%s/run=%d", name, n), func(b *testing.B) {
			size := 128 * n
			dst := make([]byte, 0, 2*size)
			bytes, at := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				bytes += len(f(dst, all[at:at+size]))
				at = (at + size) % len(all)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
			b.ReportMetric(float64(bytes)/float64(b.N*n), "bytes/message")
		})
	}
}

func BenchmarkDeflate(b *testing.B) {
	benchmarkRuns(b, "encoder=ours", AppendDeflate)
	d := &deflater{}
	with := func(name string, w interface {
		io.Writer
		Reset(io.Writer)
		Flush() error
	}, err error) {
		if err != nil {
			b.Fatal(err)
		}
		benchmarkRuns(b, name, func(dst, src []byte) []byte {
			d.out = dst
			w.Reset(d)
			_, err := w.Write(src)
			if err := errors.Join(err, w.Flush()); err != nil {
				b.Fatal(err)
			}
			return d.out
		})
	}
	for _, level := range []int{1, 6} {
		w, err := flate.NewWriter(d, level)
		with(fmt.Sprintf("encoder=flate-%d", level), w, err)
	}
	for level := 1; level <= 6; level++ {
		w, err := kflate.NewWriter(d, level)
		with(fmt.Sprintf("encoder=klauspost-%d", level), w, err)
	}
	benchmarkRuns(b, "encoder=stateless", func(dst, src []byte) []byte {
		d.out = dst
		if err := kflate.StatelessDeflate(d, src, false, nil); err != nil {
			b.Fatal(err)
		}
		return d.out
	})
}

func BenchmarkZstd(b *testing.B) {
	benchmarkRuns(b, "encoder=ours", AppendZstd)
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(zstdFrame), zstd.WithEncoderCRC(false))
		if err != nil {
			b.Fatal(err)
		}
		benchmarkRuns(b, "encoder="+level.String(), func(dst, src []byte) []byte { return e.EncodeAll(src, dst) })
	}
}

// A message by itself, as WebSocket clients send and get it.
func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{128, 512, 4096} {
		text := messages(32)[:size]
		dst := make([]byte, 0, 2*size)
		payload := AppendMessage(nil, text)
		b.Run(fmt.Sprintf("do=compress/size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				AppendMessage(dst, text)
			}
			b.ReportMetric(float64(len(payload)), "bytes/message")
		})
		b.Run(fmt.Sprintf("do=inflate/size=%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Inflate(dst, payload, size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSumAfter(b *testing.B) {
	for _, n := range []uint64{1 << 10, 1 << 30, 1 << 50} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			whole, prefix := Sum{CRC: 0x12345678, Len: 2 * n}, Sum{CRC: 0x9abcdef0, Len: n}
			for b.Loop() {
				whole.After(prefix)
			}
		})
	}
}

func BenchmarkChoose(b *testing.B) {
	allowed := []Coding{Zstd, Gzip}
	b.ReportAllocs()
	for b.Loop() {
		Choose("gzip, deflate, br, zstd", allowed)
	}
}
