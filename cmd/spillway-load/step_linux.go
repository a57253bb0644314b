package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"
)

// A runner measures subjects with fleets of clients.
type runner struct {
	clients int
	size    int // of a message in bytes

	fleets map[subject]*fleet
	seqs   map[subject]uint32 // of the last message sent
}

func newRunner(clients, size int) *runner {
	return &runner{clients: clients, size: size, fleets: make(map[subject]*fleet), seqs: make(map[subject]uint32)}
}

// maxLatency is what p99 must stay under for a load to count as borne.
const maxLatency = time.Second

// A step is one load on one subject.
type step struct {
	Target  string  `json:"target"`
	Clients int     `json:"clients"`
	Rate    float64 `json:"rate"`  // messages a second to each client, offered
	Group   int     `json:"group"` // messages that were due together

	Seconds   float64 `json:"seconds"` // from the beginning to the last arrival, or the plan's length
	Sent      int     `json:"sent"`
	Delivered uint64  `json:"delivered"` // to all clients together
	Lost      int     `json:"lost"`
	Repeated  uint64  `json:"repeated"`
	Late      uint64  `json:"late"`
	Other     uint64  `json:"other"`             // events that are no messages
	Trouble   string  `json:"trouble,omitempty"` // what ended the step early, or an example of Other

	// After they were due.
	P50   milliseconds `json:"p50Ms"`
	P99   milliseconds `json:"p99Ms"`
	Max   milliseconds `json:"maxMs"`
	Acked milliseconds `json:"ackedP99Ms,omitempty"` // safe in Kafka

	// Of the subject's process.
	CPU    float64 `json:"cpuSeconds"`
	Writes uint64  `json:"writes"` // system calls
	RSS    uint64  `json:"rssBytes"`

	WireBytes uint64  `json:"wireBytes"` // read by the clients
	Reads     uint64  `json:"reads"`     // system calls of the clients
	OwnCPU    float64 `json:"generatorCpuSeconds"`
}

// milliseconds is a duration in JSON.
type milliseconds float64

func inMilliseconds(d time.Duration) milliseconds {
	return milliseconds(float64(d.Microseconds()) / 1000)
}

// borne reports whether the subject bore the load.
func (s *step) borne() bool {
	return s.Trouble == "" && s.Lost == 0 && s.Repeated == 0 && s.Late == 0 && s.Other == 0 &&
		s.P99 < inMilliseconds(maxLatency)
}

// perSecond is delivered messages a second.
func (s *step) perSecond() float64 { return float64(s.Delivered) / s.Seconds }

// perCPUSecond is delivered messages per second of the subject's CPU time.
func (s *step) perCPUSecond() float64 { return float64(s.Delivered) / s.CPU }

// perWrite is delivered messages per write system call.
func (s *step) perWrite() float64 { return float64(s.Delivered) / float64(s.Writes) }

// A load is what a step is to be.
type load struct {
	rate  float64 // messages a second
	group int     // messages that are due together; 1: each by itself
	time  time.Duration

	// during, where not nil, runs beside the load.
	during func(ctx context.Context) error
}

// fleet returns connected clients of a subject that have received a message:
// everything between the subject and its clients has been done once. It closes
// other fleets where the process has not descriptors enough for both.
func (r *runner) fleet(ctx context.Context, t subject) (*fleet, error) {
	if f := r.fleets[t]; f != nil {
		return f, nil
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("descriptor limit: %w", err)
	}
	const others = 100
	if need := uint64(r.clients*(len(r.fleets)+1) + others); need > limit.Cur {
		if err := r.releaseAll(ctx); err != nil {
			return nil, err
		}
		if need := uint64(r.clients + others); need > limit.Cur {
			return nil, fmt.Errorf("%d clients need %d descriptors, and the process has %d: fewer -clients, or raise ulimit -n", r.clients, need, limit.Cur)
		}
	}
	connectCtx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	f, err := openFleet(r.clients)
	if err != nil {
		return nil, err
	}
	r.fleets[t] = f
	if err := f.connect(connectCtx, t.addr(), t.path()); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", t.name(), err), r.release(ctx, t))
	}
	if err := r.sync(ctx, t, f); err != nil {
		return nil, errors.Join(err, r.release(ctx, t))
	}
	return f, nil
}

// sync sends one message and waits until every client has it.
func (r *runner) sync(ctx context.Context, t subject, f *fleet) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p := r.plan(t, 1, load{rate: 1, group: 1})
	f.expect(p)
	if _, err := t.send(ctx, p); err != nil {
		return err
	}
	if err := f.arrived(ctx); err != nil {
		return fmt.Errorf("%s: a first message to every client: %w", t.name(), err)
	}
	return nil
}

// release closes a subject's clients.
func (r *runner) release(ctx context.Context, t subject) error {
	f := r.fleets[t]
	if f == nil {
		return nil
	}
	f.close()
	delete(r.fleets, t)
	return t.left(ctx)
}

// releaseAll closes all clients.
func (r *runner) releaseAll(ctx context.Context) error {
	var errs []error
	for t := range r.fleets {
		errs = append(errs, r.release(ctx, t))
	}
	return errors.Join(errs...)
}

// plan makes the plan of count messages that begin now.
func (r *runner) plan(t subject, count int, l load) plan {
	p := plan{
		First: r.seqs[t] + 1,
		Count: count,
		Rate:  l.rate,
		Group: l.group,
		Size:  r.size,
		Start: time.Now(),
	}
	r.seqs[t] += uint32(p.Count)
	return p
}

// grace is how long after a step's end messages may still arrive. It is longer
// than maxLatency, so that what is late is told from what is lost.
const grace = 3 * time.Second

// step puts one load on a subject. It returns an error only where measuring went
// wrong; a load that was not borne is a result.
func (r *runner) step(ctx context.Context, t subject, l load) (*step, error) {
	f, err := r.fleet(ctx, t)
	if err != nil {
		return nil, err
	}
	before, err := readUsage(t.pid())
	if err != nil {
		return nil, err
	}
	own, err := ownCPU()
	if err != nil {
		return nil, err
	}
	p := r.plan(t, max(1, int(math.Round(l.rate*l.time.Seconds()))), l)
	f.expect(p)
	during := make(chan error, 1)
	if l.during != nil {
		go func() { during <- l.during(ctx) }() // waited for below
	} else {
		during <- nil
	}
	planned := time.Duration(float64(p.Count) / p.Rate * float64(time.Second))
	limitCtx, cancel := context.WithDeadline(ctx, p.Start.Add(planned+grace))
	defer cancel()
	acked, err := t.send(limitCtx, p)
	if err == nil {
		err = f.arrived(limitCtx)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	after, errUsage := readUsage(t.pid())
	ownAfter, errOwn := ownCPU()
	if err := errors.Join(<-during, errUsage, errOwn); err != nil {
		return nil, err
	}
	tally, lost := f.result()
	used := after.since(before)
	s := &step{
		Target: t.name(), Clients: r.clients, Rate: l.rate, Group: l.group,
		Seconds: max(planned, tally.last.Sub(p.Start)).Seconds(),
		Sent:    p.Count, Delivered: tally.delivered, Lost: lost,
		Repeated: tally.repeated, Late: tally.late, Other: tally.other, Trouble: tally.oddity,
		P50: inMilliseconds(tally.latency.quantile(0.50)),
		P99: inMilliseconds(tally.latency.quantile(0.99)),
		Max: inMilliseconds(tally.latency.max),
		CPU: used.cpu.Seconds(), Writes: used.writes, RSS: after.rss,
		WireBytes: tally.bytes, Reads: tally.reads, OwnCPU: (ownAfter - own).Seconds(),
	}
	if acked != nil {
		s.Acked = inMilliseconds(acked.quantile(0.99))
	}
	if err != nil {
		s.Trouble = err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			s.Trouble = fmt.Sprintf("not everything arrived within %v of its end", grace)
		}
	}
	if s.borne() {
		return s, nil
	}
	// The next step begins with clients that are owed nothing.
	return s, r.release(ctx, t)
}
