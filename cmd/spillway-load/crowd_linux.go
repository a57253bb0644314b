package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// A fleetCommand is one of its fields.
type fleetCommand struct {
	Connect *crew `json:"connect,omitempty"`
	Expect  *plan `json:"expect,omitempty"`

	// Arrived is how long to wait until every client has everything.
	Arrived time.Duration `json:"arrived,omitempty"`

	Shorten *int `json:"shorten,omitempty"` // to so many clients
}

// A fleetAnswer follows each command.
type fleetAnswer struct {
	Err     string        `json:"err,omitempty"`
	Timeout bool          `json:"timeout,omitempty"` // Arrived was not enough
	Tally   *tally        `json:"tally,omitempty"`   // of Arrived
	Took    time.Duration `json:"took,omitempty"`    // of Connect
	Answers *histogram    `json:"answers,omitempty"` // of Connect: from connect to the answer's head
}

// runFleet is the role of clients, until its input ends.
func runFleet(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	f, err := openFleet()
	if err != nil {
		return err
	}
	defer f.close()
	commands, answers := json.NewDecoder(stdin), json.NewEncoder(stdout)
	for {
		var c fleetCommand
		if err := commands.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		var a fleetAnswer
		switch {
		case c.Connect != nil:
			began := time.Now()
			limit, cancel := context.WithTimeout(ctx, connectFor)
			err := f.connect(limit, *c.Connect)
			cancel()
			if err != nil {
				a.Err = err.Error()
			}
			a.Took = time.Since(began)
			f.mu.Lock()
			answered := f.answers
			f.mu.Unlock()
			a.Answers = &answered
		case c.Expect != nil:
			f.expect(*c.Expect)
		case c.Arrived > 0:
			limit, cancel := context.WithTimeout(ctx, c.Arrived)
			err := f.arrived(limit)
			cancel()
			if a.Timeout = errors.Is(err, context.DeadlineExceeded); err != nil && !a.Timeout {
				a.Err = err.Error()
			}
			t := f.result()
			a.Tally = &t
		case c.Shorten != nil:
			f.shorten(*c.Shorten)
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// connectFor bounds connecting.
const connectFor = time.Minute

// fleetClients is how many clients one process has: fewer than descriptors,
// which cannot be raised everywhere (RLIMIT_NOFILE).
const fleetClients = 19_500

// A crowd is any number of clients of one server, in processes of their own.
type crowd struct {
	fleets []*child
	counts []int // clients of each
}

// openCrowd starts processes enough for n clients.
func openCrowd(n int) (*crowd, error) {
	c := new(crowd)
	for range max(1, (n+fleetClients-1)/fleetClients) {
		role, err := startRole("fleet")
		if err != nil {
			c.end()
			return nil, err
		}
		c.fleets = append(c.fleets, role)
		c.counts = append(c.counts, 0)
	}
	return c, nil
}

// clients is how many there are.
func (c *crowd) clients() (n int) {
	for _, count := range c.counts {
		n += count
	}
	return n
}

// pids are the processes of the clients.
func (c *crowd) pids() (pids []int) {
	for _, f := range c.fleets {
		pids = append(pids, f.pid())
	}
	return pids
}

// each asks every fleet at the same time, unless the command is nil.
func (c *crowd) each(ctx context.Context, command func(i int) *fleetCommand) ([]fleetAnswer, error) {
	answers := make([]fleetAnswer, len(c.fleets))
	errs := make([]error, len(c.fleets))
	var wg sync.WaitGroup
	for i, f := range c.fleets {
		if cmd := command(i); cmd != nil {
			wg.Go(func() { errs[i] = f.ask(ctx, cmd, &answers[i]) })
		}
	}
	wg.Wait()
	return answers, errors.Join(errs...)
}

// A connection says how connecting went.
type connection struct {
	took    time.Duration
	answers histogram // from connect to the answer's head
}

// connect connects more clients: the crew's count of them, split over the
// processes. request is what client i sends, counted from the crowd's first.
func (c *crowd) connect(ctx context.Context, addr netip.AddrPort, want crew, request func(i int) []byte) (connection, error) {
	from, left := c.clients(), want.Count
	began := time.Now()
	answers, err := c.each(ctx, func(i int) *fleetCommand {
		part := want
		part.Addr, part.From = addr, from
		part.Count = min(left, fleetClients-c.counts[i])
		if i == len(c.fleets)-1 {
			part.Count = left
		}
		if part.Count == 0 {
			return nil
		}
		part.Requests = nil
		same := true
		for j := range part.Count {
			part.Requests = append(part.Requests, request(from+j))
			same = same && string(part.Requests[j]) == string(part.Requests[0])
		}
		if same {
			part.Requests = part.Requests[:1]
		}
		c.counts[i] += part.Count
		from, left = from+part.Count, left-part.Count
		return &fleetCommand{Connect: &part}
	})
	got := connection{took: time.Since(began)}
	for _, a := range answers {
		if a.Err != "" {
			err = errors.Join(err, errors.New(a.Err))
		}
		if a.Answers != nil {
			got.answers.merge(a.Answers)
		}
		if len(c.fleets) == 1 {
			got.took = a.Took
		}
	}
	return got, err
}

// expect begins a step.
func (c *crowd) expect(ctx context.Context, p plan) error {
	_, err := c.each(ctx, func(int) *fleetCommand { return &fleetCommand{Expect: &p} })
	return err
}

// errLate is a step whose messages did not all arrive in time.
var errLate = errors.New("not everything arrived in time")

// arrived waits until every client has every message of the step, and returns
// what they saw. The error is errLate, or what broke clients.
func (c *crowd) arrived(ctx context.Context, within time.Duration) (*tally, error) {
	answers, err := c.each(ctx, func(int) *fleetCommand { return &fleetCommand{Arrived: max(within, time.Millisecond)} })
	if err != nil {
		return nil, err
	}
	all := new(tally)
	var broken []error
	for i := range answers {
		a := &answers[i]
		if a.Timeout {
			broken = append(broken, errLate)
		} else if a.Err != "" {
			broken = append(broken, errors.New(a.Err))
		}
		all.add(a.Tally)
	}
	return all, errors.Join(broken...)
}

// disconnect closes all clients.
func (c *crowd) disconnect(ctx context.Context) error { return c.shorten(ctx, 0) }

// shorten closes the clients behind the first n.
func (c *crowd) shorten(ctx context.Context, n int) error {
	_, err := c.each(ctx, func(i int) *fleetCommand {
		keep := min(n, c.counts[i])
		n -= keep
		c.counts[i] = keep
		return &fleetCommand{Shorten: &keep}
	})
	return err
}

func (c *crowd) end() {
	for _, f := range c.fleets {
		f.end()
	}
}
