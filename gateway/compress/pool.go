package compress

import (
	"runtime"
	"sync"
)

// A pool lends values that are expensive to make, at most two per processor at
// a time. Who asks for one more waits: a value is lent for some microseconds
// of computing and never across I/O. sync.Pool has no such bound, and makes
// values anew after each garbage collection.
type pool[T any] struct {
	newT func() *T
	lent chan struct{} // holds one element for each value that is lent

	mu   sync.Mutex
	free []*T // guarded by mu; the last is the one in the processor's caches
}

func newPool[T any](newT func() *T) *pool[T] {
	return &pool[T]{newT: newT, lent: make(chan struct{}, 2*runtime.GOMAXPROCS(0))}
}

func (p *pool[T]) get() *T {
	p.lent <- struct{}{}
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.free) - 1
	if last < 0 {
		return p.newT()
	}
	v := p.free[last]
	p.free = p.free[:last]
	return v
}

func (p *pool[T]) put(v *T) {
	p.mu.Lock()
	p.free = append(p.free, v)
	p.mu.Unlock()
	<-p.lent
}
