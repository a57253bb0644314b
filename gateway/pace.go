package gateway

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// paces are how fast the addresses of clients may do a thing: so many a second,
// twice as many at once. What lies within once more that much is told apart, so
// that most clients learn why they are refused.
type paces struct {
	each int

	mu         sync.Mutex
	young, old map[address]*pace // who was here lately, and before; guarded by mu
	turned     time.Time         // when young was empty; guarded by mu
}

type pace struct{ served, told *rate.Limiter }

// mostPaces is how many addresses each of the two maps of paces holds. An address
// is forgotten when as many others came since: then it is as if it had rested.
const mostPaces = 50_000

// A tempo is how an address keeps a pace.
type tempo int

const (
	inPace      tempo = iota
	overPace          // it is to be refused
	farOverPace       // it is not even to be told
)

// newPaces returns nil, which lets all pass, for 0 a second.
func newPaces(each int) *paces {
	if each == 0 {
		return nil
	}
	return &paces{each: each, young: make(map[address]*pace)}
}

// take counts one more thing of an address. Who is unknown is not held up.
func (p *paces) take(a address, now time.Time) tempo {
	if p == nil || a == 0 {
		return inPace
	}
	of := p.of(a, now)
	switch {
	case of.served.AllowN(now, 1):
		return inPace
	case of.told.AllowN(now, 1):
		return overPace
	}
	return farOverPace
}

func (p *paces) of(a address, now time.Time) *pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Whoever was quiet for 2s may do all again.
	if len(p.young) >= mostPaces || now.Sub(p.turned) >= 10*time.Second {
		p.young, p.old, p.turned = make(map[address]*pace), p.young, now
	}
	of := p.young[a]
	if of == nil {
		if of = p.old[a]; of == nil {
			of = &pace{rate.NewLimiter(rate.Limit(p.each), 2*p.each), rate.NewLimiter(rate.Limit(p.each), 2*p.each)}
		}
		p.young[a] = of
	}
	return of
}
