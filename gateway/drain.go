package gateway

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// drain knows what is being served, and ends it when the time has come.
type drain struct {
	started chan struct{} // closed when draining begins

	mu     sync.Mutex
	served int           // handlers, visits and goroutines of connections; guarded by mu
	empty  chan struct{} // guarded by mu; closed when served is 0, while someone waits

	// Set before started is closed.
	within  time.Duration // how long there is
	endOver time.Duration // streams end at a random moment within
}

// perStream is the time in which one stream ends, where there is enough of it:
// a few streams need not wait out a drain window made for thousands.
const perStream = 5 * time.Millisecond

func (d *drain) init() { d.started = make(chan struct{}) }

func (d *drain) begun() bool {
	select {
	case <-d.started:
		return true
	default:
		return false
	}
}

// begin starts draining; ctx has the deadline. Beginning twice is fine.
func (d *drain) begin(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begun() {
		return
	}
	d.within = time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		d.within = max(time.Until(deadline), 0)
	}
	d.endOver = min(d.within*8/10, time.Duration(d.served)*perStream)
	close(d.started)
}

// retry is when a client may reconnect: later than at once, and not with all
// others.
func (d *drain) retry() time.Duration {
	return 500*time.Millisecond + rand.N(max(d.within, time.Second))
}

// spawn runs f on a goroutine that is waited for.
func (d *drain) spawn(f func()) {
	d.enter()
	go func() {
		defer d.leave()
		f()
	}()
}

func (d *drain) enter() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served++
}

func (d *drain) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served--
	if d.served == 0 && d.empty != nil {
		close(d.empty)
		d.empty = nil
	}
}

// wait returns when nothing is being served, or when ctx ends; then it says how
// much still was.
func (d *drain) wait(ctx context.Context) (left int) {
	d.mu.Lock()
	if d.served == 0 {
		d.mu.Unlock()
		return 0
	}
	if d.empty == nil {
		d.empty = make(chan struct{})
	}
	empty := d.empty
	d.mu.Unlock()
	select {
	case <-empty:
		return 0
	case <-ctx.Done():
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.served
	}
}
