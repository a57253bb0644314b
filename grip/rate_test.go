package grip

import (
	"strings"
	"testing"
	"time"
)

func TestParseRate(t *testing.T) {
	for _, tt := range []struct {
		rate string
		want time.Duration
		err  string
	}{
		{"5/s", 200 * time.Millisecond, ""},
		{"5", 200 * time.Millisecond, ""},
		{"0.5/s", 2 * time.Second, ""},
		{".5", 2 * time.Second, ""},
		{"30/m", 2 * time.Second, ""},
		{"0.5/m", 2 * time.Minute, ""},
		{"100/s", 10 * time.Millisecond, ""},
		{"6000/m", 10 * time.Millisecond, ""},
		{"101/s", 0, `rate "101/s" is more than 100/s`},
		{"1e3/s", 0, "is not N/s or N/m"},
		{strings.Repeat("9", 400), 0, "is not N/s or N/m"},
		{"0." + strings.Repeat("0", 400) + "1", 0, "is not N/s or N/m"},
		{"0.01/m", 0, "is less than one in an hour"},
		{"0.000000000001/s", 0, "is less than one in an hour"},
		{"0/s", 0, "is not N/s or N/m"},
		{"-1/s", 0, "is not N/s or N/m"},
		{"1/h", 0, "is not N/s or N/m"},
		{"1/", 0, "is not N/s or N/m"},
		{"/s", 0, "is not N/s or N/m"},
		{"", 0, "is not N/s or N/m"},
		{"1.2.3", 0, "is not N/s or N/m"},
		{"inf", 0, "is not N/s or N/m"},
		{"0x10", 0, "is not N/s or N/m"},
	} {
		got, err := ParseRate(tt.rate)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: got %v and error %v, want %v and %q", tt.rate, got, err, tt.want, tt.err)
		}
	}
}

// Whatever is taken is within the bounds.
func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"5/s", "0.5/m", "100", "101/s", "1/h", "1e9", "-1", "NaN", "0x1p-2/s", "0.0000000000000000001/m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		every, err := ParseRate(s)
		if err == nil && (every < MinEvery || every > MaxEvery) || err != nil && every != 0 {
			t.Errorf("%q: got %v and error %v", s, every, err)
		}
	})
}
