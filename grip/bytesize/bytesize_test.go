package bytesize

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in    string
		want  Bytes
		print string
	}{
		{"0", 0, "0"},
		{"4194304", 4 << 20, "4MiB"},
		{"4MiB", 4 << 20, "4MiB"},
		{"64 kib", 64 << 10, "64KiB"},
		{"1MB", 1e6, "1MB"},
		{"12B", 12, "12"},
		{" 1GiB ", 1 << 30, "1GiB"},
	} {
		got, err := Parse(tt.in)
		if err != nil || got != tt.want || got.String() != tt.print {
			t.Errorf("Parse(%q) = %d %q, %v; want %d %q", tt.in, got, got, err, tt.want, tt.print)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "MiB", "-1", "1.5MiB", "4 parsecs", "9999999TiB", "1e6"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
		} else if !strings.Contains(err.Error(), in) {
			t.Errorf("Parse(%q): %v; want the error to name the input", in, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("4MiB")
	f.Add("12 kb")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(b.String()); err != nil || again != b {
			t.Errorf("Parse(%q) = %d prints %q, which reads as %d, %v", s, b, b, again, err)
		}
	})
}
