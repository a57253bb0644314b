// Package bytesize reads amounts of memory as operators write them.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a number of bytes. In configuration it is a plain integer or an
// integer with a unit: KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB
// (powers of 1000). A blank before the unit and any case are accepted.
type Bytes int64

// In the order in which String tries them.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3},
	{"B", 1},
}

// Parse reads s. The error says what would be right.
func Parse(s string) (Bytes, error) {
	number, unit := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if n := len(number) - len(u.suffix); n > 0 && strings.EqualFold(number[n:], u.suffix) {
			number, unit = strings.TrimSpace(number[:n]), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of bytes; write an integer with or without KiB, MiB or GiB, such as 64MiB", s)
	}
	if n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is more than 8 EiB", s)
	}
	return Bytes(n * unit), nil
}

// UnmarshalText implements encoding.TextUnmarshaler; envconfig and JSON use it.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := Parse(string(text))
	if err != nil {
		return err
	}
	*b = n
	return nil
}

// String prints the shortest exact form: 4MiB, 1500, 1MB.
func (b Bytes) String() string {
	for _, u := range units {
		if u.bytes > 1 && b != 0 && int64(b)%u.bytes == 0 {
			return strconv.FormatInt(int64(b)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
