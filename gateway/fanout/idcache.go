package fanout

import (
	"sync"
	"time"
)

// idCache remembers which items were published, for a time.
type idCache struct {
	age  time.Duration
	size int

	mu    sync.Mutex
	at    map[channelID]time.Duration // when each id came; guarded by mu
	queue []channelID                 // in the order in which they came, from head on; guarded by mu
	head  int

	evicted int64 // ids that had to go before their time; guarded by mu
}

type channelID struct{ channel, id string }

func (c *idCache) init(age time.Duration, size int) {
	c.age, c.size = age, size
	c.at = make(map[channelID]time.Duration)
}

// add remembers an id, and reports false when it was there already.
func (c *idCache) add(channel, id string, now time.Duration) bool {
	key := channelID{channel, id}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expireLocked(now)
	if _, ok := c.at[key]; ok {
		return false
	}
	if len(c.at) >= c.size {
		c.pop()
		c.evicted++
	}
	c.at[key] = now
	c.queue = append(c.queue, key)
	return true
}

func (c *idCache) expire(now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expireLocked(now)
}

func (c *idCache) expireLocked(now time.Duration) {
	for c.head < len(c.queue) && now-c.at[c.queue[c.head]] > c.age {
		c.pop()
	}
}

// pop forgets the oldest id.
func (c *idCache) pop() {
	delete(c.at, c.queue[c.head])
	c.queue[c.head] = channelID{}
	c.head++
	if c.head == len(c.queue) {
		c.queue, c.head = nil, 0
	} else if c.head > len(c.queue)/2 {
		c.queue, c.head = append([]channelID(nil), c.queue[c.head:]...), 0
	}
}

func (c *idCache) stats() (size int, evicted int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.at), c.evicted
}
