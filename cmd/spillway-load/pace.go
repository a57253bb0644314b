package main

import (
	"context"
	"time"
)

// A plan is what is sent in one step, whoever sends it.
type plan struct {
	First uint32  `json:"first"` // sequence number of the first message
	Count int     `json:"count"`
	Rate  float64 `json:"rate"` // messages a second; 0: as fast as it goes

	// Group is how many messages are due together: the schedule has a beat of
	// Group/Rate, and each message is due when its group is complete.
	Group int `json:"group"`

	Size  int       `json:"size"`  // of a message in bytes
	Start time.Time `json:"start"` // when the step begins
}

// due is when message i (0 … Count-1) is to be sent, after the start.
func (p plan) due(i int) time.Duration {
	if p.Rate == 0 {
		return 0
	}
	group := max(p.Group, 1)
	last := min(i/group*group+group, p.Count) - 1
	return time.Duration(float64(last) / p.Rate * float64(time.Second))
}

// pace calls send with each run of messages from … to-1 when it is due. It
// never waits for what was sent: a sender that is late is given all that became
// due meanwhile. It returns ctx's error when that ends first.
func (p plan) pace(ctx context.Context, send func(from, to int) error) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for next := 0; next < p.Count; {
		if wait := p.due(next) - time.Since(p.Start); wait > 0 {
			t.Reset(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		from := next
		next = p.dueBy(time.Since(p.Start), from)
		if err := send(from, next); err != nil {
			return err
		}
	}
	return nil
}

// atOnce is the most that is sent in one go, so that a message that was due
// long ago does not wait for ten thousand others to be made.
const atOnce = 1024

// dueBy is the first message behind from that is not due by then.
func (p plan) dueBy(then time.Duration, from int) int {
	next := from + 1
	for next < p.Count && next-from < atOnce && p.due(next) <= then {
		next++
	}
	return next
}
