package main

// The scenarios that take minutes, or need other servers.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// runMost looks for the most that is delivered, beside the Go floor.
func runMost(ctx context.Context, b *bench) error {
	for _, clients := range b.sizes {
		err := func() error {
			ours, p, err := b.inproc(ctx, sse, clients, 1)
			if err != nil {
				return err
			}
			defer ours.end()
			floors, err := b.floors(ctx, clients, 1)
			if err != nil {
				return err
			}
			defer endAll(floors)
			l := load{group: 1, time: b.mostStep()}
			got, levels, err := b.most(ctx, []*stand{ours, floors[0]}, 200_000/float64(clients), 1.15, l)
			if err != nil {
				return err
			}
			b.compare(fmt.Sprintf("most, %s clients", thousands(clients)), "msg/s", ours.label, got[0], floors[0].label, got[1], goal{})
			l.rate = levels[0]
			return b.profiled(ctx, fmt.Sprintf("most-%d", clients), ours, p, l)
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// runKafka compares the whole server with the gateway alone.
func runKafka(ctx context.Context, b *bench) error {
	clients := b.sizes[0]
	whole, _, err := b.serve(ctx, sse, clients)
	if err != nil {
		return err
	}
	defer whole.end()
	alone, _, err := b.inproc(ctx, sse, clients, 1)
	if err != nil {
		return err
	}
	defer alone.end()
	whole.label, alone.label = "from Kafka", "in process"
	stands := []*stand{whole, alone}
	got, levels, err := b.most(ctx, stands, 200_000/float64(clients), 1.15, load{group: 1, time: b.mostStep()})
	if err != nil {
		return err
	}
	b.compare(fmt.Sprintf("most, %s clients", thousands(clients)), "msg/s", whole.label, got[0], alone.label, got[1], atLeast(0.7))
	l := load{rate: levels[0] / 2, group: 1, time: b.step}
	steps, err := b.steps(ctx, stands, []load{l, l})
	if err != nil {
		return err
	}
	r := b.compare("half of that", "msg/CPU-s", whole.label, figures(steps[0], (*step).perCPUSecond),
		alone.label, figures(steps[1], (*step).perCPUSecond), atLeast(0.7))
	perWriteRemark(r, steps[0], steps[1])
	return nil
}

// runStalled compares the latency of clients with that of as many clients that
// have others among them which read nothing.
func runStalled(ctx context.Context, b *bench) error {
	const every, clients = 10, 10_000
	// They would be closed in the middle of it.
	patient := "WRITE_TIMEOUT=10m"
	stalled, srv, err := b.serve(ctx, sse, clients, patient)
	if err != nil {
		return err
	}
	defer stalled.end()
	stalled.stalledEvery, stalled.label = every, "with stalled clients"
	none, _, err := b.serve(ctx, sse, clients-clients/every, patient)
	if err != nil {
		return err
	}
	defer none.end()
	none.label = "without"
	fill := load{rate: 160, group: 16, time: 5 * time.Second}
	if _, err := b.one(ctx, stalled, fill); err != nil {
		return err
	}
	waiting, err := unsent(srv.http.Port())
	if err != nil {
		return err
	}
	if waiting < clients/every*9/10 {
		b.note("only %d of %d clients are stalled: something of theirs waits at the server", waiting, clients/every)
	}
	l := load{rate: 4, group: 1, time: 2 * b.step}
	got, err := b.steps(ctx, []*stand{stalled, none}, []load{l, l})
	if err != nil {
		return err
	}
	r := b.compare("p99 of 9,000 clients beside 1,000 stalled ones", "ms", stalled.label, figures(got[0], p99), none.label, figures(got[1], p99), atMost(1.1))
	r.Remark = strings.TrimPrefix(r.Remark+fmt.Sprintf("; %d stalled", waiting), "; ")
	return nil
}

// unsent is how many connections of a listening port have bytes that their
// client has not taken (/proc/net/tcp, proc(5)).
func unsent(port uint16) (n int, err error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	local := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		const address, queues = 1, 4
		if len(fields) > queues && strings.HasSuffix(fields[address], local) && !strings.HasPrefix(fields[queues], "00000000:") && fields[3] == "01" {
			n++
		}
	}
	return n, nil
}

// runAccept compares how fast streams are opened.
func runAccept(ctx context.Context, b *bench) error {
	var nchan target
	for _, t := range peers(b.binary) {
		if !strings.HasPrefix(t.name(), "Nchan") {
			continue
		}
		switch err := t.start(ctx); {
		case errors.Is(err, errNotInstalled):
			b.note("%v", err)
		case err != nil:
			t.stop()
			return err
		default:
			nchan = t
		}
	}
	p, err := startInproc(ctx, 1, "sse")
	if err != nil {
		return err
	}
	ours, err := newStand(p, sse, b.streams, 1, b.size)
	if err != nil {
		return err
	}
	defer ours.end()
	stands := []*stand{ours}
	if nchan != nil {
		theirs, err := newStand(&posted{nchan, 1}, sse, b.streams, 1, b.size)
		if err != nil {
			return err
		}
		defer theirs.end()
		stands = append(stands, theirs)
	}
	const more, window = 1000, 64
	var mine [][]float64 // streams a second
	for _, open := range []int{0, b.streams - more} {
		var perSecond []func() ([2]float64, error)
		for _, s := range stands {
			if open > 0 {
				if _, err := s.connectTo(ctx, open); err != nil {
					return err
				}
			}
			perSecond = append(perSecond, func() ([2]float64, error) {
				before, err := readUsage(s.pids()...)
				if err != nil {
					return [2]float64{}, err
				}
				c, err := s.crowd.connect(ctx, s.addr(), crew{Count: more, Window: window}, func(i int) []byte { return s.request(s.as, 0, i) })
				if err != nil {
					return [2]float64{}, err
				}
				after, err := readUsage(s.pids()...)
				if err != nil {
					return [2]float64{}, err
				}
				got := [2]float64{more / c.took.Seconds(), more / after.since(before).cpu.Seconds()}
				fmt.Fprintf(b.stderr, "accept: %-22s %d → %d: %s streams/s, %s/CPU-s, p99 %s ms\n", s.label, open, open+more,
					short(got[0]), short(got[1]), ms(inMilliseconds(c.answers.quantile(0.99))))
				if err := s.crowd.shorten(ctx, open); err != nil {
					return got, err
				}
				return got, s.quiet(ctx)
			})
		}
		got, err := interleave(b.pairs, perSecond...)
		if err != nil {
			return err
		}
		pick := func(side, i int) (out []float64) {
			for _, v := range got[side] {
				out = append(out, v[i])
			}
			return out
		}
		what := fmt.Sprintf("new streams, %s → %s", thousands(open), thousands(open+more))
		mine = append(mine, pick(0, 0))
		for i, unit := range []string{"streams/s", "streams/CPU-s"} {
			g := goal{}
			if i == 0 {
				g = atLeast(1)
			}
			if len(stands) == 1 {
				b.single(what, unit, ours.label, pick(0, i), goal{})
				continue
			}
			b.compare(what, unit, ours.label, pick(0, i), stands[1].label, pick(1, i), g)
		}
	}
	b.compare("the latter against the former", "streams/s", ours.label, mine[1], ours.label, mine[0], goal{})
	return nil
}

// runPeers compares whole servers that are published to over HTTP.
func runPeers(ctx context.Context, b *bench) error {
	for _, clients := range b.sizes {
		err := func() error {
			var stands []*stand
			defer func() { endAll(stands) }()
			add := func(t target, perPost int) error {
				err := t.start(ctx)
				if errors.Is(err, errNotInstalled) {
					b.note("%v", err)
					return nil
				}
				if err != nil {
					t.stop()
					return err
				}
				s, err := newStand(&posted{t, perPost}, sse, clients, 1, b.size)
				if err != nil {
					return err
				}
				s.window, s.tries = targetWindow, targetTries
				if _, err := s.connect(ctx); err != nil {
					s.end()
					if ctx.Err() == nil {
						b.note("left out: %v", err)
						return nil
					}
					return err
				}
				stands = append(stands, s)
				return nil
			}
			for _, t := range peers(b.binary) {
				if err := add(t, 1); err != nil {
					return err
				}
			}
			if err := add(peers(b.binary)[0], batchedPerPost); err != nil { // ours again
				return err
			}
			got, _, err := b.most(ctx, stands, 20_000/float64(clients), 1.25, load{group: 1, time: b.mostStep()})
			if err != nil {
				return err
			}
			batched := len(stands) - 1
			for _, mine := range []int{0, batched} {
				for i := 1; i < batched; i++ {
					b.compare(fmt.Sprintf("most, %s clients", thousands(clients)), "msg/s", stands[mine].label, got[mine], stands[i].label, got[i], peerGoal(stands[i].label))
				}
			}
			if clients != 1000 {
				return nil
			}
			var loads []load
			for range batched {
				loads = append(loads, load{rate: 10, group: 1, time: b.step})
			}
			steps, err := b.steps(ctx, stands[:batched], loads)
			if err != nil {
				return err
			}
			for i := 1; i < batched; i++ {
				b.compare("p99, 1,000 clients × 10 msg/s", "ms", stands[0].label, figures(steps[0], p99), stands[i].label, figures(steps[i], p99), goal{})
				b.compare("the same", "msg/CPU-s", stands[0].label, figures(steps[0], (*step).perCPUSecond), stands[i].label, figures(steps[i], (*step).perCPUSecond), goal{})
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// batchedPerPost is how many messages a POST carries at most where a server
// takes several.
const batchedPerPost = 64

// peerGoal is what we should reach against a peer.
func peerGoal(name string) goal {
	switch {
	case strings.HasPrefix(name, "Nchan"):
		return atLeast(8)
	case strings.HasPrefix(name, "Pushpin"):
		return atLeast(50)
	default:
		return goal{}
	}
}
