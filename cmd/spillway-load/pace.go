package main

import (
	"context"
	"time"
)

// A plan is what is sent in one step, whoever sends it.
type plan struct {
	First uint32  `json:"first"` // sequence number of the first message
	Count int     `json:"count"` // a multiple of Group × Channels
	Rate  float64 `json:"rate"`  // messages a second, of all channels together; 0: as fast as it goes

	// Beat is how many messages are due together: they are due every Beat/Rate,
	// when the last of them is complete. 0 means 1.
	Beat int `json:"beat"`

	// Channels is how many channels there are, which get Group messages each in
	// turn. 0 means 1.
	Channels int `json:"channels"`
	Group    int `json:"group"`

	Size int  `json:"size"` // of a message in bytes
	JSON bool `json:"json"` // messages are JSON objects of their own size

	StartNs int64 `json:"startNs"` // when the step begins, Unix time
}

// start is when the step begins.
func (p plan) start() time.Time { return time.Unix(0, p.StartNs) }

// message appends message i (0 … Count-1) to dst.
func (p plan) message(dst []byte, i int) []byte {
	m := message{seq: p.First + uint32(i), due: p.due(i)}
	if p.JSON {
		return m.appendJSON(dst)
	}
	return m.append(dst, p.Size)
}

// due is when message i is to be sent, after the start.
func (p plan) due(i int) time.Duration {
	if p.Rate == 0 {
		return 0
	}
	beat := max(p.Beat, 1)
	last := min(i/beat*beat+beat, p.Count) - 1
	return time.Duration(float64(last) / p.Rate * float64(time.Second))
}

// channel is the channel of message i (0 … Channels-1).
func (p plan) channel(i int) int {
	if p.Channels <= 1 {
		return 0
	}
	return i / max(p.Group, 1) % p.Channels
}

// place is how many messages of its channel come before message i.
func (p plan) place(i int) int {
	if p.Channels <= 1 {
		return i
	}
	group := max(p.Group, 1)
	return i/(group*p.Channels)*group + i%group
}

// each is how many messages every channel gets.
func (p plan) each() int { return p.Count / max(p.Channels, 1) }

// groups calls send for each group in from … to-1: the messages that go to one
// channel together.
func (p plan) groups(from, to int, send func(channel, from, to int) error) error {
	group := max(p.Group, 1)
	for from < to {
		next := min(from/group*group+group, to)
		if err := send(p.channel(from), from, next); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// pace calls send with each run of messages from … to-1 when it is due. It
// never waits for what was sent: a sender that is late is given all that became
// due meanwhile. It returns ctx's error when that ends first.
func (p plan) pace(ctx context.Context, send func(from, to int) error) error {
	t := time.NewTimer(0)
	defer t.Stop()
	start := p.start()
	for next := 0; next < p.Count; {
		if wait := p.due(next) - time.Since(start); wait > 0 {
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
		next = p.dueBy(time.Since(start), from)
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
