package fanout

import (
	"testing"
	"time"
)

func TestJitter(t *testing.T) {
	for _, tt := range []struct{ d, most time.Duration }{
		{time.Second, 100 * time.Millisecond},
		{55 * time.Second, 999 * time.Millisecond},
	} {
		lowest := tt.d
		for range 1000 {
			got := jittered(tt.d)
			if got > tt.d || got < tt.d-tt.most {
				t.Fatalf("jittered(%v): got %v, want at most %v less", tt.d, got, tt.most)
			}
			lowest = min(lowest, got)
		}
		if lowest > tt.d-tt.most/2 {
			t.Errorf("jittered(%v): never under %v", tt.d, lowest)
		}
	}
}
