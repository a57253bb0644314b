package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestPercentFor(t *testing.T) {
	for _, tt := range []struct {
		live, floor uint64
		want        int
	}{
		{0, 32 << 20, 700},
		{4 << 20, 32 << 20, 700},
		{6 << 20, 32 << 20, 400},
		{15 << 20, 32 << 20, 100},
		{16 << 20, 32 << 20, 100},
		{1 << 40, 32 << 20, 100},
	} {
		if got := percentFor(tt.live, tt.floor); got != tt.want {
			t.Errorf("%d of %d: got %d, want %d", tt.live, tt.floor, got, tt.want)
		}
	}
}

// It is in force after a collection, and the usual again after its end.
func TestCollectRarely(t *testing.T) {
	const floor = 16 << 30 // more than a test uses
	c := collectRarely(floor)
	percent := func() uint64 {
		now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(now)
		return now[0].Value.Uint64()
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); runtime.GC() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d", what, percent())
			}
		}
	}
	until("with a floor", func() bool { return percent() > usualPercent })
	c.end()
	until("after the end", func() bool { return percent() == usualPercent })
}
