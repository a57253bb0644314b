package cursor

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

func tag(s string) Tag { return Tag([]byte(s)) }

// minuteOf is the time of the documented example, hi3hk.
var minuteOf = time.Unix(29397800*60, 0).UTC()

func TestCursor(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Cursor
	}{
		{"the documented example", "1-hi3hk-4fz1q.3.xg.rq.3ej",
			Cursor{Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Partitions: 3, Offsets: []int64{1204, 998, 4411}}}}},
		{"inside a snapshot", "1s-hi3hk-4fz1q.1.0",
			Cursor{Phase: PhaseSnapshot, Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Partitions: 1, Offsets: []int64{0}}}}},
		{"after the end", "1e-hi3hk-4fz1q.1.a",
			Cursor{Phase: PhaseEnd, Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Partitions: 1, Offsets: []int64{10}}}}},
		{"sparse: n counts the pairs", "1-0-00000.2.3_z.z_10",
			Cursor{Time: time.Unix(0, 0).UTC(), Blocks: []Block{{Tag: tag("00000"), Partitions: 2, Parts: []PartitionOffset{{3, 35}, {35, 36}}}}}},
		{"position unknown", "1-hi3hk-zzzzz.1000!",
			Cursor{Time: minuteOf, Blocks: []Block{{Tag: tag("zzzzz"), Partitions: 1000, Unknown: true}}}},
		{"several topics, each in its own form", "1-hi3hk-aaaaa.1.1~bbbbb.1.0_2~ccccc.7!~aaaaa.1.3",
			Cursor{Time: minuteOf, Blocks: []Block{
				{Tag: tag("aaaaa"), Partitions: 1, Offsets: []int64{1}},
				{Tag: tag("bbbbb"), Partitions: 1, Parts: []PartitionOffset{{0, 2}}},
				{Tag: tag("ccccc"), Partitions: 7, Unknown: true},
				{Tag: tag("aaaaa"), Partitions: 1, Offsets: []int64{3}},
			}}},
		{"the largest numbers", "1-zzzzzz-zzzzz.1.1y2p0ij32e8e7",
			Cursor{Time: time.Unix(maxMinute*60, 0).UTC(), Blocks: []Block{{Tag: tag("zzzzz"), Partitions: 1, Offsets: []int64{math.MaxInt64}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.text)
			if err != nil {
				t.Fatalf("Parse: %v", err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("Parse: got %+v, want %+v", got, tt.want)
			}
			if s := tt.want.String(); s != tt.text {
				t.Errorf("String: got %q, want %q", s, tt.text)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", `cursor: byte 0: cut short: want version "1"`},
		{"another version", "3-0-00000.1.0", `cursor: byte 0: got '3', want version "1"`},
		{"a sealed one", "2-AbCd", `cursor: byte 0: version 2: a sealed cursor, which only a server with its CURSOR_KEY can read`},
		{"an unknown phase", "1x-0-00000.1.0", `cursor: byte 1: got 'x', want '-'`},
		{"upper case", "1-HI3HK-00000.1.0", `cursor: byte 2: got 'H', want time`},
		{"upper case inside", "1-hi3Hk-00000.1.0", `cursor: byte 5: got 'H', want '-'`},
		{"blank in front", " 1-0-00000.1.0", `cursor: byte 0: got ' ', want version "1"`},
		{"no time", "1--00000.1.0", `cursor: byte 2: got '-', want time`},
		{"time after 6108", "1-1000000-00000.1.0", `cursor: byte 2: time above 2176782335`},
		{"leading zero in time", "1-0hi3hk-00000.1.0", `cursor: byte 2: time with a leading zero`},
		{"head only", "1-hi3hk", `cursor: byte 7: cut short: want '-'`},
		{"no block", "1-hi3hk-", `cursor: byte 8: cut short: want a tag of 5 base 36 digits`},
		{"short tag", "1-hi3hk-4fz1.1.0", `cursor: byte 12: got '.', want a tag of 5 base 36 digits`},
		{"long tag", "1-hi3hk-4fz1qq.1.0", `cursor: byte 13: got 'q', want '.'`},
		{"upper case tag", "1-hi3hk-4fZ1q.1.0", `cursor: byte 10: got 'Z', want a tag of 5 base 36 digits`},
		{"no count", "1-0-00000.", `cursor: byte 10: cut short: want partition count`},
		{"count in base 36", "1-0-00000.a.0", `cursor: byte 10: got 'a', want partition count`},
		{"leading zero in count", "1-0-00000.01.0", `cursor: byte 10: partition count with a leading zero`},
		{"no partitions", "1-0-00000.0", `cursor: byte 10: partition count 0: a topic has at least one`},
		{"no partitions, unknown", "1-0-00000.0!", `cursor: byte 10: partition count 0: a topic has at least one`},
		{"a count that would be a huge allocation", "1-0-00000.999999.0", `cursor: byte 16: 999999 offsets announced, but only 2 bytes follow`},
		{"a count above the bound", "1-0-00000.1000001!", `cursor: byte 10: partition count above 1000000`},
		{"a count beyond 64 bits", "1-0-00000.99999999999999999999!", `cursor: byte 10: partition count above 1000000`},
		{"truncated between offsets", "1-0-00000.3.10.20", `cursor: byte 17: 2 of 3 offsets: cut short: want "."`},
		{"truncated after the dot", "1-0-00000.3.10.20.", `cursor: byte 18: cut short: want offset`},
		{"an offset too many", "1-0-00000.2.1.2.3", `cursor: byte 15: more than the 2 offsets announced`},
		{"offset with a leading zero", "1-0-00000.2.1.02", `cursor: byte 14: offset with a leading zero`},
		{"negative offset", "1-0-00000.1.-1", `cursor: byte 12: got '-', want offset`},
		{"offset beyond 63 bits", "1-0-00000.1.1y2p0ij32e8e8", `cursor: byte 12: offset above 9223372036854775807`},
		{"sparse, then dense", "1-0-00000.2.0_1.2", `cursor: byte 16: offsets with and without a partition in one block`},
		{"dense, then sparse", "1-0-00000.2.1.0_2", `cursor: byte 14: offsets with and without a partition in one block`},
		{"a partition twice", "1-0-00000.2.1_5.1_6", `cursor: byte 16: partition 1 after 1: not in ascending order`},
		{"partitions out of order", "1-0-00000.2.2_5.1_6", `cursor: byte 16: partition 1 after 2: not in ascending order`},
		{"partition above the bound", "1-0-00000.1.lfls_0", `cursor: byte 12: partition 1000000: at most 999999`},
		{"pair without an offset", "1-0-00000.1.1_", `cursor: byte 14: cut short: want offset`},
		{"empty second block", "1-0-00000.1.0~", `cursor: byte 14: cut short: want a tag of 5 base 36 digits`},
		{"blocks without separator", "1-0-00000.1!11111.1!", `cursor: byte 12: got '1', want "~" or the end`},
		{"something behind", "1-0-00000.1.0 ", `cursor: byte 13: got ' ', want "~" or the end`},
		{"line break", "1-0-00000.1.0\n", `cursor: byte 13: got '\n', want "~" or the end`},
		{"too long", "1-0-00000.1." + strings.Repeat("0", maxParseBytes), `cursor of 8204 bytes: at most 8192 are allowed`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.text)
			if err == nil {
				t.Fatalf("got %+v, want the error %s", got, tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

// Every proper prefix of a dense cursor is an error or a different number in
// its last offset; never fewer partitions.
func TestTruncationIsSeen(t *testing.T) {
	const whole = "1-hi3hk-4fz1q.3.xg.rq.3ej"
	for i := range len(whole) {
		c, err := Parse(whole[:i])
		if err != nil {
			continue
		}
		if n := len(c.Blocks[0].Offsets); n != 3 {
			t.Errorf("Parse(%q): %d offsets, want 3 or an error", whole[:i], n)
		}
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	c := Cursor{Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Offsets: []int64{1}}}}
	if got, want := string(c.Append([]byte("id: "))), "id: 1-hi3hk-4fz1q.1.1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAppendHead(t *testing.T) {
	for _, tt := range []struct {
		name   string
		phase  Phase
		minute int64
		want   string
	}{
		{"live", PhaseLive, 29397800, "1-hi3hk"},
		{"snapshot", PhaseSnapshot, 29397800, "1s-hi3hk"},
		{"end", PhaseEnd, 29397800, "1e-hi3hk"},
		{"before 1970", PhaseLive, -1, "1-0"},
		{"beyond what Parse takes", PhaseLive, math.MaxInt64, "1-zzzzzz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendHead(nil, tt.phase, tt.minute)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestMinute(t *testing.T) {
	for _, tt := range []struct {
		name string
		t    time.Time
		want int64
	}{
		{"rounds down", time.Unix(119, 999), 1},
		{"Kafka's no timestamp", time.UnixMilli(-1), 0},
		{"zero time", time.Time{}, 0},
	} {
		if got := Minute(tt.t); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestTag(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  Tag
		want string
	}{
		{"small numbers are padded", TagOf([16]byte{7: 35, 8: 1}), "0000z"},
		{"only the first eight bytes count", TagOf([16]byte{7: 36, 15: 9}), "00010"},
		{"modulo 36^5", TagOf([16]byte{4: 0x03, 5: 0x9A, 6: 0xA4, 7: 0x00}), "00000"},
		// Reckoned outside of Go: sha256("cluster\0orders")[:8] mod 36^5.
		{"by name", TagOfName("cluster", "orders"), "61xqe"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.got.String() != tt.want {
				t.Errorf("got %s, want %s", tt.got, tt.want)
			}
		})
	}
	if TagOfName("a", "bc") == TagOfName("ab", "c") {
		t.Error("the NUL between cluster id and topic is missing")
	}
}

// Sizes that the documentation promises (event semantics, table 3.5).
func TestSizes(t *testing.T) {
	for _, tt := range []struct {
		partitions int
		offset     int64
		want       int
	}{
		{1, 50_000, 20}, {1, 5_000_000, 21}, {1, 2_000_000_000, 22}, {1, 300_000_000_000, 24},
		{6, 50_000, 45}, {6, 300_000_000_000, 69},
		{16, 2_000_000_000, 128},
		{100, 50_000, 517}, {100, 300_000_000_000, 917},
		{256, 5_000_000, 1553},
		{1000, 50_000, 5018}, {1000, 300_000_000_000, 9018},
	} {
		t.Run(fmt.Sprintf("partitions=%d/offset=%d", tt.partitions, tt.offset), func(t *testing.T) {
			c := Cursor{Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Offsets: repeat(tt.offset, tt.partitions)}}}
			if got := len(c.String()); got != tt.want {
				t.Errorf("got %d bytes, want %d", got, tt.want)
			}
		})
	}
}

func TestAppendBase36(t *testing.T) {
	for shift := range 64 {
		for _, n := range []uint64{1 << shift, 1<<shift - 1, 1<<shift + 1} {
			if got, want := string(appendBase36(nil, n)), strconv.FormatUint(n, 36); got != want {
				t.Errorf("%d: got %s, want %s", n, got, want)
			}
		}
	}
	if got, want := string(appendBase36(nil, math.MaxUint64)), strconv.FormatUint(math.MaxUint64, 36); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	offsets := repeat(2_000_000_000, 12)
	parts := []PartitionOffset{{3, 1 << 40}, {17, 0}}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		b := AppendHead(buf, PhaseSnapshot, 29397800)
		b = AppendDense(append(b, '-'), tag("4fz1q"), offsets)
		b = AppendSparse(append(b, '~'), tag("4fz1q"), parts)
		AppendUnknown(append(b, '~'), tag("4fz1q"), 1000)
	}); n != 0 {
		t.Errorf("%v allocations per cursor, want 0", n)
	}
	c := Cursor{Time: minuteOf, Blocks: []Block{{Offsets: offsets}, {Parts: parts}, {Unknown: true, Partitions: 9}}}
	if n := testing.AllocsPerRun(100, func() { c.Append(buf) }); n != 0 {
		t.Errorf("Cursor.Append: %v allocations, want 0", n)
	}
}

// FuzzParse: whatever is accepted is printed as it was, and nothing panics.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"1-hi3hk-4fz1q.3.xg.rq.3ej", "1s-hi3hk-4fz1q.1.0", "1e-0-00000.2.3_z.z_10", "1-hi3hk-zzzzz.1000!",
		"1-hi3hk-aaaaa.1.1~bbbbb.1.0_2~ccccc.7!", "1-zzzzzz-zzzzz.1.1y2p0ij32e8e7", "1-0-00000.1000000.0", "2-x",
		"1-0-00000.01.0", "1--", "1-0-00000.2.0_1.2", "1-0-00000.1.1y2p0ij32e8e8",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			return
		}
		if got := c.String(); got != s {
			t.Errorf("printed %q, want %q", got, s)
		}
		for _, b := range c.Blocks {
			forms := 0
			for _, has := range []bool{b.Offsets != nil, b.Parts != nil, b.Unknown} {
				if has {
					forms++
				}
			}
			if forms != 1 {
				t.Errorf("%q: block %+v has %d forms, want 1", s, b, forms)
			}
			if !b.Unknown && int(b.Partitions) != len(b.Offsets)+len(b.Parts) {
				t.Errorf("%q: n = %d, but %d offsets", s, b.Partitions, len(b.Offsets)+len(b.Parts))
			}
		}
	})
}

// The floor is strconv for the numbers, and nothing else.
func BenchmarkAppendDense(b *testing.B) {
	for _, partitions := range []int{1, 12, 100} {
		offsets := repeat(2_000_000_000, partitions)
		buf := make([]byte, 0, 4096)
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				AppendDense(buf, tag("4fz1q"), offsets)
			}
		})
		b.Run(fmt.Sprintf("partitions=%d/floor=strconv", partitions), func(b *testing.B) {
			for b.Loop() {
				out := buf
				for _, off := range offsets {
					out = strconv.AppendInt(append(out, '.'), off, 36)
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, partitions := range []int{1, 12, 100} {
		s := Cursor{Time: minuteOf, Blocks: []Block{{Tag: tag("4fz1q"), Offsets: repeat(2_000_000_000, partitions)}}}.String()
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func repeat(offset int64, n int) []int64 {
	offsets := make([]int64, n)
	for i := range offsets {
		offsets[i] = offset
	}
	return offsets
}
