package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
)

// scenarios are all of them, in the order in which they run.
var scenarios = []scenario{
	{"per-write", "messages per CPU-second against the floors, 1, 4 and 16 in each write", runPerWrite, true},
	{"light", "the same and latency, at a light load", runLight, true},
	{"channels", "10,000 channels with one client each, against the floors", runChannels, true},
	{"websocket", "WebSocket against Server-Sent Events", runWebSocket, true},
	{"compression", "shared gzip against none", runCompression, true},
	{"added", "latency of the whole way from Kafka over that of a bare consumer", runAdded, true},
	{"memory", "of an idle stream, SSE and WebSocket, at -streams", runMemory, true},
	{"most", "the most that is delivered, against the Go floor", runMost, false},
	{"kafka", "the whole server fed from Kafka against the gateway fed in its process", runKafka, false},
	{"stalled", "latency of the others while a tenth of the clients reads nothing", runStalled, false},
	{"accept", "new streams a second, against Nchan", runAccept, false},
	{"peers", "the most and latency, against Nchan and Pushpin", runPeers, false},
	{"publish", "publishes taken a second, against the floor and Pushpin", runPublish, false},
	{"grip", "streams and long polls held by an HTTP origin a second, and WebSockets over HTTP, against Pushpin", runGrip, false},
	{"instructions", "of user space for each message, by callgrind", runInstructions, false},
	{"idle-view", "one client that reads everything", runIdle, false},
}

// writesLoad is the load of a stand's clients at so many writes a second to all
// of them, with group messages in each.
func (b *bench) writesLoad(clients, group int) load {
	l := load{rate: b.writes / float64(clients) * float64(group), group: group, time: b.step}
	// At least four groups, also to many clients.
	l.time = max(l.time, time.Duration(4*float64(group)/l.rate*float64(time.Second)))
	return l
}

// likeWrites is a load for the floors with as many messages in each write as the
// server had in its last step: where it puts more or fewer into one than are
// handed over together, they get as many together.
func likeWrites(l load, server *step) load {
	if got := server.perWrite(); isNumber(got) && math.Abs(math.Log(got/float64(l.group))) > math.Log(1.15) {
		l.group = max(1, int(math.Round(got)))
	}
	return l
}

// runPerWrite compares costs with the floors at the same number of messages in
// each write.
func runPerWrite(ctx context.Context, b *bench) error {
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
			for _, group := range []int{1, 4, 16} {
				l := b.writesLoad(clients, group)
				what := fmt.Sprintf("%s clients, %d a write", thousands(clients), group)
				if err := b.againstFloors(ctx, what, ours, floors, l, atLeast(0.9)); err != nil {
					return err
				}
				if err := b.profiled(ctx, fmt.Sprintf("per-write-%d-%d", clients, group), ours, p, l); err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// againstFloors adds a row of messages per CPU-second for each floor; the goal
// is against the first.
func (b *bench) againstFloors(ctx context.Context, what string, ours *stand, floors []*stand, l load, g goal) error {
	last, err := b.one(ctx, ours, l)
	if err != nil {
		return err
	}
	sides := []func() (*step, error){func() (*step, error) {
		var err error
		last, err = b.warmed(ctx, ours, l)
		return last, err
	}}
	for _, f := range floors {
		sides = append(sides, func() (*step, error) { return b.warmed(ctx, f, likeWrites(l, last)) })
	}
	got, err := interleave(b.pairs, sides...)
	if err != nil {
		return err
	}
	mine := figures(got[0], (*step).perCPUSecond)
	for i, f := range floors {
		r := b.compare(what, "msg/CPU-s", ours.label, mine, f.label, figures(got[i+1], (*step).perCPUSecond), g)
		perWriteRemark(r, got[0], got[i+1])
		g = goal{}
	}
	return nil
}

// oneOf ends the floors but the first, which goals are against.
func oneOf(floors []*stand) []*stand {
	endAll(floors[1:])
	return floors[:1]
}

// runLight compares with the floors where there is little to do.
func runLight(ctx context.Context, b *bench) error {
	for _, clients := range []int{1000, 10_000} {
		err := func() error {
			ours, _, err := b.inproc(ctx, sse, clients, 1)
			if err != nil {
				return err
			}
			defer ours.end()
			floors, err := b.floors(ctx, clients, 1)
			if err != nil {
				return err
			}
			defer endAll(floors)
			if !b.whole {
				floors = oneOf(floors)
			}
			rate, of := 10.0, b.step
			if clients > 1000 {
				rate, of = 1, 2*time.Second
			} else {
				l := load{rate: 20, group: 1, time: b.step}
				if err := b.againstFloors(ctx, "1,000 clients × 20 msg/s", ours, floors, l, atLeast(0.85)); err != nil {
					return err
				}
			}
			stands := []*stand{ours, floors[0]}
			l := load{rate: rate, group: 1, time: of}
			got, err := b.steps(ctx, stands, []load{l, l})
			if err != nil {
				return err
			}
			b.compare(fmt.Sprintf("p99, %s clients × %.0f msg/s", thousands(clients), rate), "ms", ours.label, figures(got[0], p99), floors[0].label, figures(got[1], p99), atMost(1.3))
			return nil
		}()
		if err != nil {
			return err
		}
	}
	return nil
}

// runChannels compares with the floors where no two clients share anything. What
// is due is due every 5 ms, to other channels each time, as a fetch from Kafka
// brings it.
func runChannels(ctx context.Context, b *bench) error {
	const channels = 10_000
	ours, p, err := b.inproc(ctx, sse, channels, channels)
	if err != nil {
		return err
	}
	defer ours.end()
	floors, err := b.floors(ctx, channels, channels)
	if err != nil {
		return err
	}
	defer endAll(floors)
	if !b.whole {
		floors = oneOf(floors)
	}
	for _, group := range []int{1, 16} {
		l := b.writesLoad(channels, group)
		l.time = b.step // something is due all the time
		l.beat = max(1, int(b.writes/200)) * group
		what := fmt.Sprintf("10,000 channels × 1 client, %d a write", group)
		if err := b.againstFloors(ctx, what, ours, floors, l, atLeast(0.7)); err != nil {
			return err
		}
		if err := b.profiled(ctx, fmt.Sprintf("channels-%d", group), ours, p, l); err != nil {
			return err
		}
	}
	return nil
}

// runWebSocket compares the two transports.
func runWebSocket(ctx context.Context, b *bench) error {
	clients := b.sizes[0]
	ws, _, err := b.inproc(ctx, wsFrames, clients, 1)
	if err != nil {
		return err
	}
	defer ws.end()
	plain, _, err := b.inproc(ctx, sse, clients, 1)
	if err != nil {
		return err
	}
	defer plain.end()
	ws.label, plain.label = string(wsFrames), string(sse)
	stands := []*stand{ws, plain}
	for _, group := range []int{1, 16} {
		l := b.writesLoad(clients, group)
		got, err := b.steps(ctx, stands, []load{l, l})
		if err != nil {
			return err
		}
		r := b.compare(fmt.Sprintf("%s clients, %d a write", thousands(clients), group), "msg/CPU-s", ws.label, figures(got[0], (*step).perCPUSecond),
			plain.label, figures(got[1], (*step).perCPUSecond), atLeast(0.95))
		perWriteRemark(r, got[0], got[1])
	}
	if !b.whole {
		return nil
	}
	got, _, err := b.most(ctx, stands, 200_000/float64(clients), 1.15, load{group: 1, time: b.mostStep()})
	if err != nil {
		return err
	}
	b.compare(fmt.Sprintf("most, %s clients", thousands(clients)), "msg/s", ws.label, got[0], plain.label, got[1], atLeast(0.95))
	return nil
}

// mostStep is how long a load of a search lasts: so long that one which is too
// much is far behind at its end.
func (b *bench) mostStep() time.Duration { return 2 * b.step }

// runCompression compares shared compression with none, on JSON records.
func runCompression(ctx context.Context, b *bench) error {
	clients := b.sizes[0]
	packed, _, err := b.inproc(ctx, sseGzip, clients, 1, "COMPRESSION=gzip")
	if err != nil {
		return err
	}
	defer packed.end()
	plain, _, err := b.inproc(ctx, sse, clients, 1, "COMPRESSION=gzip")
	if err != nil {
		return err
	}
	defer plain.end()
	packed.json, plain.json = true, true
	packed.label, plain.label = "gzip", "not compressed"
	if _, err := packed.connect(ctx); err != nil && strings.Contains(err.Error(), errNotCompressed.Error()) {
		b.note("the server does not compress: left out")
		return nil
	} else if err != nil {
		return err
	}
	groups := []int{4, 16}
	if b.whole {
		groups = []int{1, 4, 16}
	}
	for _, group := range groups {
		l := b.writesLoad(clients, group)
		got, err := b.steps(ctx, []*stand{packed, plain}, []load{l, l})
		if err != nil {
			return err
		}
		costs := func(s *step) float64 { return 1e6 / s.perCPUSecond() }
		cost, size := goal{}, goal{}
		if group == 16 { // "under load"
			cost, size = atMost(1.3), atMost(1.0/3)
		}
		r := b.compare(fmt.Sprintf("CPU per message, %d a write", group), "µs", packed.label, figures(got[0], costs), plain.label, figures(got[1], costs), cost)
		perWriteRemark(r, got[0], got[1])
		b.compare(fmt.Sprintf("bytes per message, %d a write", group), "bytes", packed.label, figures(got[0], (*step).bytesPerMessage),
			plain.label, figures(got[1], (*step).bytesPerMessage), size)
	}
	return nil
}

// runAdded compares the way from Kafka through the whole server with that to a
// bare consumer of the same records.
func runAdded(ctx context.Context, b *bench) error {
	s, srv, err := b.serve(ctx, sse, 100)
	if err != nil {
		return err
	}
	defer s.end()
	if _, err := s.connect(ctx); err != nil {
		return err
	}
	offset, err := srv.kafka.end(ctx)
	if err != nil {
		return err
	}
	bare, err := startRole("lag", srv.kafka.bootstrap, srv.kafka.topic, fmt.Sprint(offset))
	if err != nil {
		return err
	}
	defer bare.end()
	if err := bare.ask(ctx, nil, new(consumeAnswer)); err != nil {
		return err
	}
	lagging := &watched{subject: s.subject, bare: bare}
	s.subject = lagging
	var p50s, p99s, bare50s, bare99s, added []float64
	for range b.pairs {
		got, err := b.one(ctx, s, load{rate: 1000, group: 1, time: b.mostStep()})
		if err != nil {
			return err
		}
		if !got.borne() || lagging.latency == nil {
			b.note("a step was not borne: %s", got.Trouble)
			continue
		}
		bare50, bare99 := inMilliseconds(lagging.latency.quantile(0.5)), inMilliseconds(lagging.latency.quantile(0.99))
		p50s, p99s = append(p50s, float64(got.P50)), append(p99s, float64(got.P99))
		bare50s, bare99s = append(bare50s, float64(bare50)), append(bare99s, float64(bare99))
		added = append(added, float64(got.P99-bare99))
	}
	b.single("added to p99, 1,000 records/s to 100 clients", "ms", "Kafka to socket", added, atMost(2))
	b.compare("p99 of both", "ms", "Kafka to socket", p99s, "bare consumer", bare99s, goal{})
	b.compare("p50 of both", "ms", "Kafka to socket", p50s, "bare consumer", bare50s, goal{})
	return nil
}

// A watched is a subject whose plans a bare consumer is given as well.
type watched struct {
	subject
	bare    *child
	latency *histogram // of the consumer, in the last plan
}

func (w *watched) send(ctx context.Context, p plan) (*histogram, error) {
	if p.Rate == 0 {
		return w.subject.send(ctx, p)
	}
	w.latency = nil
	var a consumeAnswer
	heard := make(chan error, 1)
	go func() { heard <- w.bare.ask(ctx, p, &a) }() // ends with ctx at the latest
	acked, err := w.subject.send(ctx, p)
	if err := <-heard; err != nil {
		return nil, err
	}
	if a.Err != "" {
		return nil, fmt.Errorf("bare consumer: %s", a.Err)
	}
	w.latency = a.Latency
	return acked, err
}

// runMemory says what idle streams of the whole server cost.
func runMemory(ctx context.Context, b *bench) error {
	const kibibyte = 1024
	for _, as := range []mode{sse, wsFrames} {
		var rss, heap []float64
		runs := 1 // a process each
		if b.whole {
			runs = 3
		}
		for range runs {
			err := func() error {
				s, srv, err := b.serve(ctx, as, b.streams)
				if err != nil {
					return err
				}
				defer s.end()
				// What the first clients bring about is there once.
				if _, err := s.connectTo(ctx, 100); err != nil {
					return srv.because(err)
				}
				before, heapBefore, err := srv.settled(ctx)
				if err != nil {
					return err
				}
				c, err := s.connect(ctx)
				if err != nil {
					return srv.because(err)
				}
				after, heapAfter, err := srv.settled(ctx)
				if err != nil {
					return err
				}
				n := float64(b.streams - 100)
				rss = append(rss, (float64(after)-float64(before))/n/kibibyte)
				heap = append(heap, (heapAfter-heapBefore)/n/kibibyte)
				fmt.Fprintf(b.stderr, "memory: %s: %.2f KiB of RSS, %.2f KiB of heap each; %s streams/s opened\n",
					as, rss[len(rss)-1], heap[len(heap)-1], short(n/c.took.Seconds()))
				return nil
			}()
			if err != nil {
				return err
			}
		}
		b.single(fmt.Sprintf("RSS of an idle stream, %s, at %s", as, thousands(b.streams)), "KiB", "spillway", rss, atMost(1.5))
		b.single(fmt.Sprintf("live heap of it, %s", as), "KiB", "spillway", heap, goal{})
	}
	return nil
}

// settled waits until the server's memory does not change any more, having
// collected garbage, and returns RSS and live heap, in bytes.
func (s *server) settled(ctx context.Context) (rss uint64, heap float64, err error) {
	const look = 2 * time.Second
	for range 10 {
		if _, err := s.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return 0, 0, err
		}
		before := rss
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return 0, 0, ctx.Err()
		}
		u, err := readUsage(s.pid())
		if err != nil {
			return 0, 0, err
		}
		rss = u.rss
		if change := math.Abs(float64(rss)-float64(before)) / float64(rss); change < 0.005 {
			break
		}
	}
	heap, err = s.counter(ctx, "go_memstats_heap_alloc_bytes")
	return rss, heap, err
}
