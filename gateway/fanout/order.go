package fanout

import (
	"sync"
	"time"
)

// order lists the segments that may be evicted when all logs together are over
// LogMemory, oldest first. The segments of each channel stand in its own order,
// so the first of any channel in the list is the first of its log.
type order struct {
	mu             sync.Mutex
	oldest, newest *segment // guarded by mu, as are the links in the segments
}

func (o *order) push(s *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.queued, s.older = true, o.newest
	if o.newest != nil {
		o.newest.newer = s
	} else {
		o.oldest = s
	}
	o.newest = s
}

// remove takes s out; removing what is not in is fine.
func (o *order) remove(s *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !s.queued {
		return
	}
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		o.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		o.newest = s.older
	}
	s.queued, s.older, s.newer = false, nil, nil
}

func (o *order) first() *segment {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.oldest
}

// enforce evicts until all logs together are within LogMemory, or nothing is
// left but the newest batch of each channel. It is called without any lock.
func (e *Engine) enforce() {
	for e.logBytes.Load() > e.cfg.LogMemory {
		s := e.order.first()
		if s == nil {
			e.warnMemory()
			return
		}
		ch := s.ch
		ch.mu.Lock()
		inUse := len(ch.segs) > 0 && ch.segs[0] == s && ch.sealed > 0 && !ch.evict(evictedForMemory)
		ch.mu.Unlock()
		if inUse {
			return // for some microseconds; the next append sees to it
		}
	}
}

// warnMemory says, at most once a minute, that LogMemory does not suffice for
// what the channels must keep.
func (e *Engine) warnMemory() {
	now, last := e.now(), e.warned.Load()
	if last != 0 && int64(now)-last < int64(time.Minute) || !e.warned.CompareAndSwap(last, int64(now)) {
		return
	}
	e.log.Warn("the newest items alone take more than LOG_MEMORY; raise it, or serve fewer channels",
		"log_bytes", e.logBytes.Load(), "limit", e.cfg.LogMemory, "channels", e.count())
}
