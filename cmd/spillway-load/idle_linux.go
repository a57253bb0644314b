package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"
)

// An idleView is the result of the scenario of that name: one client that reads
// whatever there is, so that what Kafka and encoding cost is seen.
type idleView struct {
	Records int `json:"records"`
	Size    int `json:"size"` // of a record in bytes

	Live     reading `json:"live"`     // while they are produced, as fast as that goes
	Backlog  reading `json:"backlog"`  // produced while the server was stopped, then read at once
	Consumer reading `json:"consumer"` // the same records by a bare franz-go client: the floor

	// ProducedPerSecond is what the producer and the broker made of it while
	// the records were read live: a bound of Live.
	ProducedPerSecond float64 `json:"producedPerSecond"`

	Profile profile `json:"profile"` // of the same again, live, until it was long enough
}

// A reading is how records came out.
type reading struct {
	Records   uint64  `json:"records"`
	Seconds   float64 `json:"seconds"` // from the first, or from when they could be read, to the last
	CPU       float64 `json:"cpuSeconds"`
	WireBytes uint64  `json:"wireBytes,omitempty"`
	Writes    uint64  `json:"writes,omitempty"`

	// FellBehind is how often the client was further behind than the channel's
	// log reaches, and was served from history until it had caught up.
	FellBehind int `json:"fellBehind,omitempty"`
}

// behindSeries counts that.
const behindSeries = `spillway_links_asked_total{reason="behind"}`

func (r reading) perSecond() float64    { return float64(r.Records) / r.Seconds }
func (r reading) perCPUSecond() float64 { return float64(r.Records) / r.CPU }

// runIdle measures the server with one client. It is the runner's scenario only
// in so far as both use fleets: r has one client.
func (r *runner) runIdle(ctx context.Context, srv *server, records int, profiling func(name, load string) profile, progress func(name string, got reading)) (*idleView, error) {
	res := &idleView{Records: records, Size: r.size}
	f, err := r.fleet(ctx, srv)
	if err != nil {
		return nil, err
	}
	read := func(name string, hold bool) (got reading, took time.Duration, err error) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		before, err := readUsage(srv.pid())
		if err != nil {
			return got, 0, err
		}
		behindBefore, err := srv.counter(ctx, behindSeries)
		if err != nil {
			return got, 0, err
		}
		p := r.plan(srv, records, load{})
		f.expect(p)
		if hold {
			if err := syscall.Kill(srv.pid(), syscall.SIGSTOP); err != nil {
				return got, 0, fmt.Errorf("stop the server: %w", err)
			}
		}
		_, err = srv.send(ctx, p)
		took = time.Since(p.Start)
		released := time.Now()
		if hold { // also when sending has failed: it must be able to end
			if err := syscall.Kill(srv.pid(), syscall.SIGCONT); err != nil {
				return got, 0, fmt.Errorf("continue the server: %w", err)
			}
		}
		if err != nil {
			return got, 0, err
		}
		if err := f.arrived(ctx); err != nil {
			tally, lost := f.result()
			return got, 0, fmt.Errorf("%d of %d records did not arrive: %s: %w", lost, records, tally.oddity, err)
		}
		after, err := readUsage(srv.pid())
		if err != nil {
			return got, 0, err
		}
		behind, err := srv.counter(ctx, behindSeries)
		if err != nil {
			return got, 0, err
		}
		tally, _ := f.result()
		if bad := tally.repeated + tally.late + tally.other; bad > 0 {
			return got, 0, fmt.Errorf("%d repeated, %d late, %d other events: %s", tally.repeated, tally.late, tally.other, tally.oddity)
		}
		used := after.since(before)
		began := tally.first
		if hold {
			began = released
		}
		got = reading{
			Records: tally.delivered, Seconds: tally.last.Sub(began).Seconds(), CPU: used.cpu.Seconds(),
			WireBytes: tally.bytes, Writes: used.writes, FellBehind: int(behind - behindBefore),
		}
		progress(name, got)
		return got, took, nil
	}
	var took time.Duration
	if res.Live, took, err = read("live", false); err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	res.ProducedPerSecond = float64(records) / took.Seconds()
	offset, err := srv.kafka.end(ctx)
	if err != nil {
		return nil, err
	}
	if res.Backlog, _, err = read("backlog", true); err != nil {
		return nil, fmt.Errorf("backlog: %w", err)
	}
	if res.Consumer, err = consume(ctx, srv.kafka, offset, records); err != nil {
		return nil, err
	}
	progress("consumer", res.Consumer)

	res.Profile = profiling("idle-view", fmt.Sprintf("%d records at a time to one client", records))
	profiled := make(chan error, 1)
	go func() { profiled <- res.Profile.take(ctx, srv) }() // waited for below
	for {
		select {
		case err := <-profiled:
			return res, err
		default:
		}
		if _, _, err := read("profiled", false); err != nil {
			return nil, errors.Join(err, <-profiled)
		}
	}
}

// consume reads the records with a bare client in a process of its own.
func consume(ctx context.Context, k *kafka, offset int64, records int) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := startRole("consume", "-bootstrap", k.bootstrap, "-topic", k.topic,
		"-offset", strconv.FormatInt(offset, 10), "-records", strconv.Itoa(records))
	if err != nil {
		return reading{}, err
	}
	defer c.end()
	var a consumeAnswer
	if err := c.ask(ctx, nil, &a); err != nil {
		return reading{}, err
	}
	return reading{Records: uint64(a.Records), Seconds: a.Took.Seconds(), CPU: a.CPU.Seconds()}, nil
}
