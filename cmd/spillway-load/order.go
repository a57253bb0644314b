package main

// An order checks one client's sequence numbers: each exactly once, rising.
// The zero order takes nothing; see expect.
type order struct {
	first uint32 // what was sent before is not looked at
	next  uint32 // what comes next when all is well
	holes []hole // what was passed over and has not come since
}

type hole struct{ from, to uint32 } // to is not part of it

// A verdict is what one sequence number was.
type verdict uint8

const (
	inOrder  verdict = iota
	early            // in order, but others are missing before it
	late             // one that was missing
	repeated         // came before
	ignored          // from before the first that is looked at
)

// expect begins anew with first.
func (o *order) expect(first uint32) { *o = order{first: first, next: first} }

// take judges the next number. Numbers do not wrap within a run.
func (o *order) take(seq uint32) verdict {
	switch {
	case seq == o.next:
		o.next++
		return inOrder
	case seq > o.next:
		o.holes = append(o.holes, hole{o.next, seq})
		o.next = seq + 1
		return early
	case seq < o.first:
		return ignored
	}
	for i, h := range o.holes {
		if seq < h.from || seq >= h.to {
			continue
		}
		o.holes = append(o.holes[:i], o.holes[i+1:]...)
		if h.from < seq {
			o.holes = append(o.holes, hole{h.from, seq})
		}
		if seq+1 < h.to {
			o.holes = append(o.holes, hole{seq + 1, h.to})
		}
		return late
	}
	return repeated
}

// missing is how many of the numbers before end have not come.
func (o *order) missing(end uint32) int {
	n := 0
	for _, h := range o.holes {
		n += int(h.to - h.from)
	}
	if o.next < end {
		n += int(end - o.next)
	}
	return n
}
