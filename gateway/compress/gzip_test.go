package compress

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
	"testing/quick"
)

// Clients join a channel's shared runs anywhere, and each gets an end that is
// right for what it was sent, from two sums that the log had at the time.
func TestGzipJoinedAnywhere(t *testing.T) {
	all := messages(60)
	const size = 300
	var runs [][]byte
	sums := []Sum{{}} // before each run
	for begin := 0; begin < len(all); begin += size {
		text := all[begin:min(begin+size, len(all))]
		runs = append(runs, AppendDeflate(nil, text))
		sums = append(sums, sums[len(sums)-1].Add(text))
	}
	for from := range runs {
		for to := from; to <= len(runs); to++ {
			stream := bytes.Clone(GzipHeader)
			for _, run := range runs[from:to] {
				stream = append(stream, run...)
			}
			stream = AppendGzipEnd(stream, sums[to].After(sums[from]))
			r, err := gzip.NewReader(bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			r.Multistream(false)
			got, err := io.ReadAll(r) // checks the sum
			if want := all[from*size : min(to*size, len(all))]; err != nil || !bytes.Equal(got, want) {
				t.Fatalf("runs %d to %d: got %d bytes, %v; want %d", from, to, len(got), err, len(want))
			}
		}
	}
}

func TestSum(t *testing.T) {
	law := func(a, b, c []byte) bool {
		whole := SumOf(bytes.Join([][]byte{a, b, c}, nil)) // by hash/crc32
		ab := SumOf(a).Join(SumOf(b))
		return ab == SumOf(a).Add(b) &&
			ab.Join(SumOf(c)) == whole &&
			whole.After(ab) == SumOf(c) &&
			whole.After(SumOf(a)) == SumOf(b).Add(c) &&
			whole.After(Sum{}) == whole &&
			whole.After(whole) == Sum{}
	}
	if err := quick.Check(law, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

// Lengths beyond 32 bits count, and no bytes change nothing.
func TestSumOfMuch(t *testing.T) {
	megabyte := make([]byte, 1<<20)
	want, sum := Sum{}, SumOf(megabyte)
	for range 5 << 10 {
		want = want.Add(megabyte)
	}
	got := Sum{}
	for range 5 {
		part := sum
		for range 10 {
			part = part.Join(part)
		}
		got = got.Join(part)
	}
	if got != want || got.Len != 5<<30 {
		t.Errorf("5 GiB of zeros: got %+v, want %+v", got, want)
	}
	if end := want.Add([]byte("end")); end.After(want) != SumOf([]byte("end")) {
		t.Errorf("after 5 GiB: got %+v, want %+v", end.After(want), SumOf([]byte("end")))
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add([]byte{0}, []byte{0, 0})
	f.Add([]byte("before"), []byte("after"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		whole := SumOf(append(a[:len(a):len(a)], b...))
		if got := SumOf(a).Join(SumOf(b)); got != whole {
			t.Errorf("join: got %+v, want %+v", got, whole)
		}
		if got := whole.After(SumOf(a)); got != SumOf(b) {
			t.Errorf("after: got %+v, want %+v", got, SumOf(b))
		}
	})
}
