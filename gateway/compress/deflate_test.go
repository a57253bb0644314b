package compress

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// messages are n Server-Sent Events of 128 bytes: an id, JSON, and in it some
// bytes that nothing can foresee.
func messages(n int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	states := []string{"created", "paid", "packed", "shipped", "returned"}
	var out []byte
	for i := range n {
		begin := len(out)
		out = fmt.Appendf(out, "id: 1-29384%03d-Zx81.1.%d\ndata: {\"order\":%d,\"customer\":\"c-%05d\",\"state\":%q,\"total\":%d.%02d,\"note\":\"",
			i/300%1000, 1204000+i, 880000+i*3, random.IntN(100000), states[random.IntN(5)], random.IntN(900), random.IntN(100))
		for len(out)-begin < 124 {
			out = append(out, "abcdefghij klmnop"[random.IntN(17)])
		}
		out = append(out, "\"}\n\n"...)
	}
	return out
}

func noise(n int) []byte {
	random := rand.New(rand.NewPCG(3, 4))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(random.Uint32())
	}
	return p
}

// texts are what a run can hold, by what is special about it.
func texts() map[string][]byte {
	all := messages(4096)
	m := map[string][]byte{
		"one byte":                      {'x'},
		"high byte":                     {0xff},
		"three bytes, nothing to match": []byte("abc"),
		"one match to the end":          []byte("abcdabcd"),
		"the longest short match":       bytes.Repeat([]byte{'a'}, shortRun),
		"nothing repeats":               noise(shortRun),
		"nothing repeats, long":         noise(200_000),
		"one message":                   all[:128],
		"64 KiB":                        all[:64<<10],
		"beyond the window":             all,
		"zeros":                         make([]byte, 300_000),
	}
	for _, n := range []int{shortRun - 1, shortRun, shortRun + 1, 255, 256, 257, 32<<10 - 1, 32 << 10, 32<<10 + 1, 65535, 65536, 65537} {
		m[fmt.Sprintf("%d bytes", n)] = all[:n]
		m[fmt.Sprintf("%d random bytes", n)] = noise(n)
	}
	return m
}

func TestAppendDeflate(t *testing.T) {
	for name, text := range texts() {
		t.Run(name, func(t *testing.T) {
			run := AppendDeflate([]byte("before"), text)
			run, ok := bytes.CutPrefix(run, []byte("before"))
			if !ok {
				t.Fatal("what stood in dst is gone")
			}
			if !bytes.HasSuffix(run, []byte{0, 0, 0xff, 0xff}) {
				t.Errorf("ends with % x, want an empty stored block", run[max(0, len(run)-4):])
			}
			if most := len(text) + 10 + 5*(len(text)>>16); len(run) > most {
				t.Errorf("%d bytes became %d, want at most %d", len(text), len(run), most)
			}
			if got := inflate(t, run, []byte{3, 0}); !bytes.Equal(got, text) {
				t.Errorf("got %d other bytes back", len(got))
			}
		})
	}
}

func TestAppendDeflateShrinks(t *testing.T) {
	all := messages(256)
	for _, tt := range []struct{ messages, most int }{{1, 127}, {4, 60}, {16, 37}, {64, 31}, {256, 29}} {
		n := len(AppendDeflate(nil, all[:128*tt.messages]))
		if got := n / tt.messages; got > tt.most {
			t.Errorf("%d messages of 128 bytes: got %d bytes each, want at most %d", tt.messages, got, tt.most)
		}
	}
}

// A decoder that has seen nothing else reads every suffix of the runs: none
// refers to one before it, although all are made by the same encoder and say
// the same things.
func TestAnySuffixDecodes(t *testing.T) {
	all := messages(400)
	var runs, zruns [][]byte
	var ends []int
	for end, i := 0, 0; end < len(all); i++ {
		begin := end
		end = min(begin+[]int{128, 7, 4000, 190, 1300, 193, 64}[i%7], len(all))
		runs = append(runs, AppendDeflate(nil, all[begin:end]))
		zruns = append(zruns, AppendZstd(nil, all[begin:end]))
		ends = append(ends, begin)
	}
	for i := range runs {
		if got := inflate(t, append(runs[i:len(runs):len(runs)], []byte{3, 0})...); !bytes.Equal(got, all[ends[i]:]) {
			t.Fatalf("deflate from run %d: got other bytes", i)
		}
		if got := unzstd(t, zruns[i:]...); !bytes.Equal(got, all[ends[i]:]) {
			t.Fatalf("zstd from run %d: got other bytes", i)
		}
	}
	if len(runs) < 50 {
		t.Fatalf("%d runs are too few to show anything", len(runs))
	}
}

// inflate decodes by the standard library.
func inflate(t testing.TB, parts ...[]byte) []byte {
	t.Helper()
	got, err := io.ReadAll(flate.NewReader(bytes.NewReader(bytes.Join(parts, nil))))
	if err != nil {
		t.Fatalf("inflate: %v", err)
	}
	return got
}

func TestAllocations(t *testing.T) {
	for _, size := range []int{128, 512, 64 << 10} {
		text := messages(512)[:size]
		dst := make([]byte, 0, 2*size)
		message := AppendMessage(nil, text)
		for _, f := range []struct {
			name string
			call func()
		}{
			{"AppendDeflate", func() { AppendDeflate(dst, text) }},
			{"AppendZstd", func() { AppendZstd(dst, text) }},
			{"AppendMessage", func() { AppendMessage(dst, text) }},
			{"Inflate", func() {
				if _, err := Inflate(dst, message, size); err != nil {
					t.Error(err)
				}
			}},
		} {
			if n := testing.AllocsPerRun(100, f.call); n != 0 {
				t.Errorf("%s of %d bytes allocates %v times, want 0", f.name, size, n)
			}
		}
	}
	sum, later := SumOf([]byte("before")), SumOf([]byte("before and after"))
	dst := make([]byte, 0, 100)
	if n := testing.AllocsPerRun(100, func() { AppendGzipEnd(dst, later.After(sum).Join(sum)) }); n != 0 {
		t.Errorf("AppendGzipEnd allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() { Choose("gzip, deflate, br, zstd;q=0.5", []Coding{Zstd, Gzip}) }); n != 0 {
		t.Errorf("Choose allocates %v times, want 0", n)
	}
}

func FuzzAppendDeflate(f *testing.F) {
	f.Add([]byte("x"), []byte("y"))
	f.Add([]byte("abcabcabc"), []byte(strings.Repeat("a", 300)))
	f.Add(messages(1), messages(2))
	f.Add(noise(100), noise(500))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		runs := AppendDeflate(AppendDeflate(nil, a), b)
		if got, want := inflate(t, runs, []byte{3, 0}), append(a[:len(a):len(a)], b...); !bytes.Equal(got, want) {
			t.Errorf("%q and %q came back as %q", a, b, got)
		}
		if got := unzstd(t, AppendZstd(nil, a), AppendZstd(nil, b)); !bytes.Equal(got, append(a[:len(a):len(a)], b...)) {
			t.Errorf("zstd: %q and %q came back as %q", a, b, got)
		}
	})
}
