package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// heapFloor is how large the heap may always become before garbage is collected,
// in bytes. That of a gateway with few connections is some MiB, which a few
// thousand requests a second fill dozens of times a second.
const heapFloor = 32 << 20

// A collector makes the garbage collector wait until the heap is as large as a
// floor, and lets it run as usual (GOGC=100) where what is in use needs more. A
// memory limit goes before it.
type collector struct {
	floor   uint64
	percent int // in force; changed by one cleanup at a time
	ended   atomic.Bool
}

// collectRarely begins it.
func collectRarely(floor uint64) *collector {
	c := &collector{floor: floor, percent: usualPercent}
	c.adjust()
	return c
}

// end makes the next collection the last that changes anything.
func (c *collector) end() { c.ended.Store(true) }

// A canary is found to be garbage by the next collection.
type canary struct{ _ *canary }

// adjust sets what the newest collection makes right, and comes again after the
// next.
func (c *collector) adjust() {
	if c.ended.Load() {
		debug.SetGCPercent(usualPercent)
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if want := percentFor(live[0].Value.Uint64(), c.floor); want != c.percent {
		c.percent = want
		debug.SetGCPercent(want)
	}
	runtime.AddCleanup(new(canary), (*collector).adjust, c)
}

const usualPercent = 100

// percentFor is the GOGC with which a heap of which so much is in use grows to the
// floor, in steps, so that it seldom changes: to change it stops the world.
func percentFor(live, floor uint64) int {
	const least, step = 4 << 20, 50 // the runtime itself takes a heap for no smaller
	live = max(live, least)
	if live >= floor/2 {
		return usualPercent
	}
	return max(usualPercent, int((floor-live)*100/live)/step*step)
}
