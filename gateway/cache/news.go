package cache

import (
	"hash/maphash"
	"sync/atomic"
)

// news remembers in which order channels were published to, in memory that does
// not grow: channels share places, so that one may seem to have news that are
// another's. An answer is then asked for once more, and nobody misses anything.
type news struct {
	seed  maphash.Seed
	count atomic.Uint64
	all   atomic.Uint64 // when there was something on every channel
	last  [places]atomic.Uint64
}

const places = 1 << 14

func (n *news) place(channel string) *atomic.Uint64 {
	return &n.last[maphash.String(n.seed, channel)%places]
}

// now is a moment, for since.
func (n *news) now() uint64 { return n.count.Load() }

// note says that something is about to be published to channel.
func (n *news) note(channel string) {
	at := n.count.Add(1)
	raise(n.place(channel), at)
}

// noteAll says so of every channel.
func (n *news) noteAll() { raise(&n.all, n.count.Add(1)) }

func raise(last *atomic.Uint64, at uint64) {
	for old := last.Load(); old < at && !last.CompareAndSwap(old, at); old = last.Load() {
	}
}

// since reports whether channel has had news after a moment.
func (n *news) since(channel string, moment uint64) bool {
	return n.place(channel).Load() > moment
}
