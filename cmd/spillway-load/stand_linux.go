package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// A stand is a subject with its clients, ready for loads.
type stand struct {
	subject
	label string // in the report; by default the subject's name
	as    mode

	clients      int
	channels     int // client i is of channel i mod channels
	stalledEvery int // see crew; those clients are among clients
	window       int // how many wait for an answer at a time
	tries        int // of connecting, where some clients are refused or dropped
	json         bool
	size         int // of a message in bytes, unless json

	crowd *crowd
	seq   uint32 // of the last message sent
}

// newStand opens a stand for a subject, which is its own from then on.
func newStand(s subject, as mode, clients, channels, size int) (*stand, error) {
	crowd, err := openCrowd(clients)
	if err != nil {
		s.end()
		return nil, err
	}
	return &stand{subject: s, label: s.name(), as: as, clients: clients, channels: channels, window: connectWindow, tries: 1, size: size, crowd: crowd}, nil
}

// end ends the clients, then the subject.
func (s *stand) end() {
	s.crowd.end()
	s.subject.end()
}

// maxLatency is what p99 must stay under for a load to count as borne.
const maxLatency = time.Second

// A step is one load on one subject.
type step struct {
	Scenario string  `json:"scenario"`
	Target   string  `json:"target"`
	Clients  int     `json:"clients"`
	Channels int     `json:"channels"`
	Rate     float64 `json:"rate"`  // messages a second to each client, offered
	Group    int     `json:"group"` // messages that were handed over together

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

	// Of the target's processes.
	CPU    float64 `json:"cpuSeconds"`
	Writes uint64  `json:"writes"` // system calls
	RSS    uint64  `json:"rssBytes"`

	WireBytes uint64  `json:"wireBytes"` // read by the clients
	Reads     uint64  `json:"reads"`     // system calls of the clients
	ClientCPU float64 `json:"clientCpuSeconds"`
	OriginCPU float64 `json:"originCpuSeconds,omitempty"` // of an HTTP origin in a process of its own

	latency histogram
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

// perCPUSecond is delivered messages per second of the target's CPU time.
func (s *step) perCPUSecond() float64 { return float64(s.Delivered) / s.CPU }

// perWrite is delivered messages per write system call.
func (s *step) perWrite() float64 { return float64(s.Delivered) / float64(s.Writes) }

// bytesPerMessage is what the clients read for each.
func (s *step) bytesPerMessage() float64 { return float64(s.WireBytes) / float64(s.Delivered) }

// A load is what a step is to be.
type load struct {
	rate  float64 // messages a second to each client
	group int     // messages that are handed over together, to one channel
	beat  int     // messages that are due together; 0: a group
	time  time.Duration
}

// connect brings the clients up to their number and sends each channel a
// message, so that everything between the subject and its clients has been done
// once.
func (s *stand) connect(ctx context.Context) (connection, error) {
	for try := 1; ; try++ {
		c, err := s.connectTo(ctx, s.clients)
		if err == nil || try == s.tries || ctx.Err() != nil {
			return c, err
		}
	}
}

// connectWindow is how many clients wait for an answer at a time. More make a
// server no faster. Pushpin loses its way among the parts of itself when many
// come at once ("received message out of sequence"), and closes some of them at
// the first message, most when it has just started: targets are given a few at a
// time, and more than one try.
const (
	connectWindow = 100
	targetWindow  = 8
	targetTries   = 5
)

// connectTo brings the clients up to n.
func (s *stand) connectTo(ctx context.Context, n int) (connection, error) {
	missing := n - s.crowd.clients()
	if missing <= 0 {
		return connection{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	c, err := s.crowd.connect(ctx, s.addr(), crew{Count: missing, Channels: s.channels, Window: s.window, StalledEvery: s.stalledEvery, Gzip: s.as == sseGzip},
		func(i int) []byte { return s.request(s.as, i%s.channels, i) })
	if err != nil {
		return c, errors.Join(fmt.Errorf("connect to %s: %w", s.label, err), s.disconnect(ctx))
	}
	if err := s.sync(ctx); err != nil {
		return c, errors.Join(err, s.disconnect(ctx))
	}
	return c, nil
}

// sync sends a message to each channel and waits until every client has it. Some
// servers answer a client before it is subscribed, so it is sent more than once
// where it has to be.
func (s *stand) sync(ctx context.Context) (err error) {
	for range 10 {
		p := s.plan(s.channels, load{group: 1})
		if err := s.crowd.expect(ctx, p); err != nil {
			return err
		}
		if _, err := s.send(ctx, p); err != nil {
			return err
		}
		if _, err = s.crowd.arrived(ctx, 2*time.Second); !errors.Is(err, errLate) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%s: a first message to every client: %w", s.label, err)
	}
	return nil
}

// disconnect closes the clients, and waits until the subject has noticed.
func (s *stand) disconnect(ctx context.Context) error {
	if s.crowd.clients() == 0 {
		return nil
	}
	if err := s.crowd.disconnect(ctx); err != nil {
		return err
	}
	if err := s.left(ctx); err != nil {
		return err
	}
	return s.quiet(ctx)
}

// quiet waits until the subject does next to nothing, for a few seconds at most:
// what it does after a load that was too much is not part of the next.
func (s *stand) quiet(ctx context.Context) error { return quiet(ctx, s.pids()...) }

func quiet(ctx context.Context, pids ...int) error {
	const look = 50 * time.Millisecond
	before, err := readUsage(pids...)
	for range 100 {
		if err != nil {
			return err
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
		var now usage
		now, err = readUsage(pids...)
		if now.cpu-before.cpu < look/10 {
			return err
		}
		before = now
	}
	return err
}

// plan makes the plan of count messages that begin now; more where channels and
// groups would not come out even.
func (s *stand) plan(count int, l load) plan {
	group := max(l.group, 1)
	unit := group * s.channels
	p := plan{
		First:    s.seq + 1,
		Count:    max(1, (count+unit-1)/unit) * unit,
		Rate:     l.rate * float64(s.channels),
		Beat:     max(l.beat, group),
		Channels: s.channels,
		Group:    group,
		Size:     s.size,
		JSON:     s.json,
		StartNs:  time.Now().UnixNano(),
	}
	s.seq += uint32(p.Count)
	return p
}

// grace is how long after a step's end messages may still arrive. It is longer
// than maxLatency, so that what is late is told from what is lost.
const grace = 3 * time.Second

// step puts one load on the subject. It returns an error only where measuring
// went wrong; a load that was not borne is a result.
func (s *stand) step(ctx context.Context, l load) (*step, error) {
	if _, err := s.connect(ctx); err != nil {
		return nil, err
	}
	wrote, err := s.writes(ctx)
	if err != nil {
		return nil, err
	}
	before, err1 := readUsage(s.pids()...)
	own, err2 := readUsage(s.crowd.pids()...)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	p := s.plan(int(math.Round(l.rate*l.time.Seconds()*float64(s.channels))), l)
	if err := s.crowd.expect(ctx, p); err != nil {
		return nil, err
	}
	planned := time.Duration(float64(p.Count) / p.Rate * float64(time.Second))
	limit := p.start().Add(planned + grace)
	limited, cancel := context.WithDeadline(ctx, limit)
	acked, errSend := s.send(limited, p)
	cancel()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	within := time.Until(limit)
	if errSend != nil {
		within = time.Millisecond
	}
	tally, errArrived := s.crowd.arrived(ctx, within)
	if tally == nil {
		return nil, errArrived
	}
	after, err1 := readUsage(s.pids()...)
	ownAfter, err2 := readUsage(s.crowd.pids()...)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	used := after.since(before)
	got := &step{
		Target: s.label, Clients: s.clients, Channels: s.channels, Rate: l.rate, Group: p.Group,
		Seconds: max(planned, tally.Last.Sub(p.start())).Seconds(),
		Sent:    p.Count, Delivered: tally.Delivered, Lost: tally.Lost,
		Repeated: tally.Repeated, Late: tally.Late, Other: tally.Other, Trouble: tally.Oddity,
		P50: inMilliseconds(tally.Latency.quantile(0.50)),
		P99: inMilliseconds(tally.Latency.quantile(0.99)),
		Max: inMilliseconds(tally.Latency.max),
		CPU: used.cpu.Seconds(), RSS: after.rss,
		WireBytes: tally.Bytes, Reads: tally.Reads, ClientCPU: ownAfter.since(own).cpu.Seconds(),
		latency: tally.Latency,
	}
	if acked != nil {
		got.Acked = inMilliseconds(acked.quantile(0.99))
	}
	switch {
	case errors.Is(errSend, context.DeadlineExceeded), errSend == nil && errors.Is(errArrived, errLate):
		got.Trouble = fmt.Sprintf("not everything arrived within %v of its end", grace)
	case errSend != nil:
		got.Trouble = errSend.Error()
	case errArrived != nil:
		got.Trouble = errArrived.Error()
	}
	now, err := s.writes(ctx)
	if err != nil {
		return nil, err
	}
	got.Writes = now - wrote
	if got.borne() {
		return got, nil
	}
	// The next step begins with clients that are owed nothing.
	return got, s.disconnect(ctx)
}
