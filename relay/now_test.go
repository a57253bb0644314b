package relay

import (
	"slices"
	"testing"
	"time"
)

// Parsers that take each blank line for the end of an event must not take a
// heartbeat for one.
func TestKeepAlive(t *testing.T) {
	for _, tt := range []struct {
		form form
		want string
	}{
		{formPlain, `:\n; format=cstring; timeout=15.000; mode=idle`},
		{formNDJSON, `\n; format=cstring; timeout=15.000; mode=idle`},
	} {
		if got := keepAlive(tt.form, 15*time.Second); !slices.Equal(got, []string{tt.want}) {
			t.Errorf("form %v: got %q, want %q", tt.form, got, tt.want)
		}
	}
}
