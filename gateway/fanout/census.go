package fanout

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// ConnInfo is what an operator may know of a connection.
type ConnInfo struct {
	ID       uint64 // 1 and up, in the order in which they came
	Owner    Owner
	Channels []string
	Since    time.Time // when the engine got it, to a second
	Bytes    uint64    // that the engine has written to it
}

// Connections lists at most n connections, in the order in which they came,
// beginning behind the id given. more says that there are others behind the last.
// It returns early when ctx ends.
func (e *Engine) Connections(ctx context.Context, after uint64, n int) (infos []ConnInfo, more bool) {
	var found []*Conn
	for _, l := range e.loops {
		found = l.list(ctx, found, after)
	}
	slices.SortFunc(found, func(a, b *Conn) int { return cmp.Compare(a.id, b.id) })
	for _, c := range found {
		if len(infos) == n {
			return infos, true
		}
		if info, ok := c.info(); ok {
			infos = append(infos, info)
		}
	}
	return infos, false
}

// info is false when the connection has ended.
func (c *Conn) info() (ConnInfo, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state >= closed {
		return ConnInfo{}, false
	}
	e := c.engine()
	info := ConnInfo{ID: c.id, Owner: c.owner, Since: e.started.Add(time.Duration(c.since) * time.Second), Bytes: c.bytes, Channels: []string{}}
	for _, s := range c.subs {
		for _, m := range s.members {
			info.Channels = append(info.Channels, m.ch.name)
		}
	}
	slices.Sort(info.Channels)
	info.Channels = slices.Compact(info.Channels)
	return info, true
}

// ID is that of ConnInfo.
func (c *Conn) ID() uint64 { return c.id }

// Sent is how many bytes have been written, and since when.
func (c *Conn) Sent() (bytes uint64, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.engine().started.Add(time.Duration(c.since) * time.Second)
}

// A census is one step of a list of a loop's connections, which the loop makes:
// only it knows them.
type census struct {
	at    int // where to go on; -1: it is complete
	found []*Conn
	made  chan struct{} // closed when the step is made
}

// A pager is a mechanism that can list its connections in steps. Of others all
// are listed at once.
type pager interface {
	// page calls f for some connections, from the place at, and returns the place
	// of the next; -1: there are no more.
	page(at int, f func(*Conn)) int
}

// list appends the loop's connections with ids beyond after. In between steps the
// loop does what else it has to.
func (l *loop) list(ctx context.Context, found []*Conn, after uint64) []*Conn {
	for at := 0; at >= 0; {
		step := &census{at: at, made: make(chan struct{})}
		if !l.make(ctx, step) {
			return found
		}
		for _, c := range step.found {
			if c.id > after {
				found = append(found, c)
			}
		}
		at = step.at
	}
	return found
}

// make gives the loop a step, after those of others, and waits until it is made;
// false: it will not be.
func (l *loop) make(ctx context.Context, step *census) bool {
	for !l.census.CompareAndSwap(nil, step) {
		other := l.census.Load()
		if other == nil {
			continue
		}
		select {
		case <-other.made:
		case <-ctx.Done():
			return false
		case <-l.stopped:
			return false
		}
	}
	l.nudge()
	select {
	case <-step.made:
		return true
	case <-ctx.Done():
	case <-l.stopped:
	}
	return false
}

// count makes a step that somebody waits for.
func (l *loop) count() {
	step := l.census.Load()
	if step == nil {
		return
	}
	add := func(c *Conn) { step.found = append(step.found, c) }
	if p, ok := l.mech.(pager); ok {
		step.at = p.page(step.at, add)
	} else {
		l.mech.each(add)
		step.at = -1
	}
	l.census.Store(nil)
	close(step.made)
}
