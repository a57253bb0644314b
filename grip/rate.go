package grip

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MinEvery and MaxEvery bound the time between two items that a rate stands for:
// at most 100 in a second, at least one in an hour.
const (
	MinEvery = 10 * time.Millisecond
	MaxEvery = time.Hour
)

// ParseRate reads how many items there may be in a second or a minute, "5/s",
// "0.5/s" or "30/m"; a bare number is per second. It returns the time that there
// has to be between two.
func ParseRate(s string) (every time.Duration, err error) {
	number, unit, given := strings.Cut(s, "/")
	per := time.Second
	switch {
	case !given, unit == "s":
	case unit == "m":
		per = time.Minute
	default:
		return 0, fmt.Errorf("rate %q is not N/s or N/m", s)
	}
	n := 0.0
	if strings.Trim(number, "0123456789.") == "" { // strconv knows other spellings
		n, err = strconv.ParseFloat(number, 64)
	}
	if n == 0 || err != nil {
		return 0, fmt.Errorf("rate %q is not N/s or N/m", s)
	}
	// Compared before it is converted: what is too much for a Duration stays so.
	switch t := float64(per) / n; {
	case t < float64(MinEvery):
		return 0, fmt.Errorf("rate %q is more than %d/s", s, time.Second/MinEvery)
	case t > float64(MaxEvery):
		return 0, fmt.Errorf("rate %q is less than one in an hour", s)
	default:
		return time.Duration(t), nil
	}
}
