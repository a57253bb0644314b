package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
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

// runIdle measures the server with one client.
func runIdle(ctx context.Context, b *bench) (err error) {
	s, srv, err := b.serve(ctx, sse, 1)
	if err != nil {
		return err
	}
	defer s.end()
	res := &idleView{Records: b.records, Size: b.size}
	if _, err := s.connect(ctx); err != nil {
		return srv.because(err)
	}
	read := func(name string, hold bool) (reading, time.Duration, error) {
		got, took, err := b.readAll(ctx, s, srv, hold)
		if err != nil {
			return got, 0, fmt.Errorf("%s: %w", name, srv.because(err))
		}
		fmt.Fprintf(b.stderr, "idle-view %s: %s records/s\n", name, short(got.perSecond()))
		return got, took, nil
	}
	var took time.Duration
	if res.Live, took, err = read("live", false); err != nil {
		return err
	}
	res.ProducedPerSecond = float64(b.records) / took.Seconds()
	offset, err := srv.kafka.end(ctx)
	if err != nil {
		return err
	}
	if res.Backlog, _, err = read("backlog", true); err != nil {
		return err
	}
	if res.Consumer, err = consume(ctx, srv.kafka, offset, b.records); err != nil {
		return err
	}
	fmt.Fprintf(b.stderr, "idle-view consumer: %s records/s\n", short(res.Consumer.perSecond()))
	b.report.Idle = res
	if b.profiles == "" {
		return nil
	}
	p := profile{Name: "idle-view", File: filepath.Join(b.profiles, "idle-view.pprof"), Load: fmt.Sprintf("%d records at a time to one client", b.records)}
	profiled := make(chan error, 1)
	go func() { profiled <- srv.profile(ctx, p.File, b.profileFor) }() // waited for below
	for {
		select {
		case err := <-profiled:
			b.report.Profiles = append(b.report.Profiles, p)
			return err
		default:
		}
		if _, _, err := read("profiled", false); err != nil {
			return errors.Join(err, <-profiled)
		}
	}
}

// readAll produces records and waits until the client has them all; with hold
// the server is stopped until they are produced. took is how long producing took.
func (b *bench) readAll(ctx context.Context, s *stand, srv *server, hold bool) (got reading, took time.Duration, err error) {
	const within = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	wrote, err1 := srv.writes(ctx)
	behindBefore, err2 := srv.counter(ctx, behindSeries)
	before, err3 := readUsage(srv.pid())
	if err := errors.Join(err1, err2, err3); err != nil {
		return got, 0, err
	}
	p := s.plan(b.records, load{})
	if err := s.crowd.expect(ctx, p); err != nil {
		return got, 0, err
	}
	if hold {
		if err := syscall.Kill(srv.pid(), syscall.SIGSTOP); err != nil {
			return got, 0, fmt.Errorf("stop the server: %w", err)
		}
	}
	_, err = srv.send(ctx, p)
	took = time.Since(p.start())
	released := time.Now()
	if hold { // also when sending has failed: it must be able to end
		if err := syscall.Kill(srv.pid(), syscall.SIGCONT); err != nil {
			return got, 0, fmt.Errorf("continue the server: %w", err)
		}
	}
	if err != nil {
		return got, 0, err
	}
	tally, err := s.crowd.arrived(ctx, within)
	if err != nil {
		if tally != nil {
			err = fmt.Errorf("%d of %d records did not arrive: %s: %w", tally.Lost, p.Count, tally.Oddity, err)
		}
		return got, 0, err
	}
	if bad := tally.Repeated + tally.Late + tally.Other; bad > 0 {
		return got, 0, fmt.Errorf("%d repeated, %d late, %d other events: %s", tally.Repeated, tally.Late, tally.Other, tally.Oddity)
	}
	after, err1 := readUsage(srv.pid())
	writes, err2 := srv.writes(ctx)
	behind, err3 := srv.counter(ctx, behindSeries)
	if err := errors.Join(err1, err2, err3); err != nil {
		return got, 0, err
	}
	began := tally.First
	if hold {
		began = released
	}
	return reading{
		Records: tally.Delivered, Seconds: tally.Last.Sub(began).Seconds(), CPU: after.since(before).cpu.Seconds(),
		WireBytes: tally.Bytes, Writes: writes - wrote, FellBehind: int(behind - behindBefore),
	}, took, nil
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
