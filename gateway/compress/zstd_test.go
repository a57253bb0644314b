package compress

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func TestAppendZstd(t *testing.T) {
	for name, text := range texts() {
		t.Run(name, func(t *testing.T) {
			run := AppendZstd([]byte("before"), text)
			run, ok := bytes.CutPrefix(run, []byte("before"))
			if !ok {
				t.Fatal("what stood in dst is gone")
			}
			frames := (len(text) + zstdFrame - 1) / zstdFrame
			if most := len(text) + 9*frames + 3*(len(text)>>16+1); len(run) > most {
				t.Errorf("%d bytes became %d, want at most %d", len(text), len(run), most)
			}
			var h zstd.Header
			if err := h.Decode(run); err != nil {
				t.Fatal(err)
			}
			if want := uint64(min(len(text), zstdFrame)); !h.HasFCS || h.FrameContentSize != want || !h.SingleSegment || h.HasCheckSum {
				t.Errorf("header: got %+v, want a single segment of %d bytes without checksum", h, want)
			}
			if got := unzstd(t, run); !bytes.Equal(got, text) {
				t.Errorf("got %d other bytes back", len(got))
			}
		})
	}
}

// unzstd decodes a stream of frames with a window no larger than ours.
func unzstd(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(bytes.Join(parts, nil)), zstd.WithDecoderMaxWindow(zstdFrame), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got, err := io.ReadAll(d)
	if err != nil {
		t.Fatalf("zstd: %v", err)
	}
	return got
}
