package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"spillway/grip"
)

// runPublish compares how fast GRIP proxies take what is published, with a server
// that does nothing with it as the floor.
func runPublish(ctx context.Context, b *bench) error {
	return b.onGripRig(ctx, func(r *gripRig, ours *gatewayPeer, sides []*gripPeer) error {
		for _, connections := range []int{fewPublishers, manyPublishers} {
			if err := r.floor(ctx, &ours.gripPeer, connections); err != nil {
				return err
			}
		}
		return r.compareAll(ctx, publishParts, ours, sides)
	})
}

// runGrip compares what GRIP proxies do with an HTTP origin, which is a process of
// its own.
func runGrip(ctx context.Context, b *bench) error {
	return b.onGripRig(ctx, func(r *gripRig, ours *gatewayPeer, sides []*gripPeer) error {
		return r.compareAll(ctx, gripParts, ours, sides)
	})
}

// onGripRig starts all that it takes. sides are ours and, where it is installed,
// Pushpin.
func (b *bench) onGripRig(ctx context.Context, do func(r *gripRig, ours *gatewayPeer, sides []*gripPeer) error) error {
	r := &gripRig{bench: b}
	var err error
	if r.origin, err = startOrigin(ctx); err != nil {
		return err
	}
	defer r.origin.end()
	if r.callers, err = startRole("callers"); err != nil {
		return err
	}
	defer r.callers.end()
	ours, theirs := newGatewayPeer(b.binary), newPushpin()
	ours.outside, theirs.outside = r.origin.addr, r.origin.addr
	defer ours.stop()
	if err := ours.start(ctx); err != nil {
		return err
	}
	sides := []*gripPeer{&ours.gripPeer}
	defer theirs.stop()
	switch err := theirs.start(ctx); {
	case errors.Is(err, errNotInstalled):
		b.note("%v", err)
	case ctx.Err() != nil:
		return err
	case err != nil:
		b.note("left out: %v", err)
	default:
		sides = append(sides, &theirs.gripPeer)
	}
	return do(r, ours, sides)
}

// compareAll adds the rows of all parts.
func (r *gripRig) compareAll(ctx context.Context, parts []gripPart, ours *gatewayPeer, sides []*gripPeer) error {
	for _, p := range parts {
		if err := r.compare(ctx, p, sides); err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
		if err := r.profiled(ctx, p, ours); err != nil {
			return err
		}
	}
	return nil
}

// floor says how many requests to publish a second there can be: the origin answers
// them, and does nothing else.
func (r *gripRig) floor(ctx context.Context, like *gripPeer, connections int) error {
	p := r.publisher(like)
	request := p.request(nil, "published", [][]byte{markedPayload(r.size)})
	e := errand{Addr: r.origin.addr, Does: asks, Clients: connections, Request: request, Want: []byte(publishedBody), For: r.step}
	var perSecond, perCPU []float64
	for range r.pairs {
		if _, err := r.warm(ctx, e); err != nil {
			return err
		}
		before, err := readUsage(r.origin.pid())
		if err != nil {
			return err
		}
		got, err := do(ctx, r.callers, callCommand{Errand: &e})
		if err != nil {
			return err
		}
		after, err := readUsage(r.origin.pid())
		if err != nil {
			return err
		}
		perSecond = append(perSecond, float64(got.Done)/got.Took.Seconds())
		perCPU = append(perCPU, float64(got.Done)/after.since(before).cpu.Seconds())
	}
	what := fmt.Sprintf("%d open connections", connections)
	r.single(what, "items/s", "floor", perSecond, goal{})
	r.single(what, "items/CPU-s", "floor", perCPU, goal{})
	return nil
}

// A gripPart is one thing that proxies are measured at.
type gripPart struct {
	name, what, unit string
	goal             goal // of what is done a second
	step             func(r *gripRig, ctx context.Context, g *gripPeer, of time.Duration) (*step, error)
}

// Pushpin closes the connection of each publisher after the answer, whatever it
// asks for, so that we are measured in that way as well.
var publishParts = []gripPart{
	{"publish-few", "8 open connections, nobody subscribed", "items", atLeast(5), publishTo(0, fewPublishers, 1, false)},
	{"publish-many", "32 open connections, nobody subscribed", "items", atLeast(5), publishTo(0, manyPublishers, 1, false)},
	{"publish-few-heard", "8 open connections, 5 subscribers", "items", atLeast(5), publishTo(5, fewPublishers, 1, false)},
	{"publish-many-heard", "32 open connections, 5 subscribers", "items", atLeast(5), publishTo(5, manyPublishers, 1, false)},
	{"publish-deep", "8, 16 requests on their way on each, 5 subscribers", "items", goal{}, publishTo(5, fewPublishers, 16, false)},
	{"publish-close", "8, a connection for each, 5 subscribers", "items", goal{}, publishTo(5, fewPublishers, 1, true)},
}

var gripParts = []gripPart{
	{"streams", "streams opened by an HTTP origin, 0 → 2,000", "streams", atLeast(5), (*gripRig).streams},
	{"polls", "long polls held by an HTTP origin, and answered", "polls", atLeast(5), (*gripRig).polls},
	{"over-http", "WebSocket messages answered over HTTP", "messages", goal{}, (*gripRig).overHTTP},
}

// A gripRig is what is around the proxies.
type gripRig struct {
	*bench
	origin  *originRole
	callers *child
}

// How many ask at a time. Pushpin answers some with 502 when more streams are being
// opened, and has room for 50 publishers to be accepted: others try again after a
// second.
const (
	fewPublishers  = 8
	manyPublishers = 32
	gripWindow     = 32
	gripPolls      = 128
	gripSockets    = 64
	gripStreams    = 2000 // altogether
)

// compare adds the rows of a part.
func (r *gripRig) compare(ctx context.Context, p gripPart, sides []*gripPeer) error {
	var steps []func() (*step, error)
	for _, g := range sides {
		steps = append(steps, func() (*step, error) {
			got, err := p.step(r, ctx, g, r.step)
			if err != nil {
				return nil, err
			}
			got.Scenario, got.Target = r.scenario, g.name()
			r.report.Steps = append(r.report.Steps, got)
			fmt.Fprintf(r.stderr, "%s: %-22s %s: %s/s, %s/CPU-s, p50 %s ms, p99 %s ms, CPU of the origin %.0f %%, of clients %.0f %%; %d failed %s\n", r.scenario, got.Target, p.name,
				short(got.perSecond()), short(got.perCPUSecond()), ms(got.P50), ms(got.P99), 100*got.OriginCPU/got.Seconds, 100*got.ClientCPU/got.Seconds, got.Lost, got.Trouble)
			return got, quiet(ctx, g.pids()...)
		})
	}
	got, err := interleave(r.pairs, steps...)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		unit string
		of   func(*step) float64
		goal goal
	}{{p.unit + "/s", (*step).perSecond, p.goal}, {p.unit + "/CPU-s", (*step).perCPUSecond, goal{}}} {
		mine := all(got[0], f.of)
		if len(sides) == 1 {
			r.single(p.what, f.unit, sides[0].label, mine, goal{})
			continue
		}
		line := r.bench.compare(p.what, f.unit, sides[0].label, mine, sides[1].label, all(got[1], f.of), f.goal)
		line.Remark = gripRemark(got[0], got[1])
	}
	return nil
}

// all takes a figure of each step, also of those in which something failed: that is
// remarked.
func all(steps []*step, of func(*step) float64) (out []float64) {
	for _, s := range steps {
		out = append(out, of(s))
	}
	return out
}

// gripRemark says how busy the origin was, and what failed.
func gripRemark(ours, theirs []*step) string {
	share := func(steps []*step) float64 {
		return 100 * spreadOf(all(steps, func(s *step) float64 { return s.OriginCPU / s.Seconds })).Median
	}
	var parts []string
	if busy := share(ours); busy >= 1 { // publishers do not need it
		parts = append(parts, fmt.Sprintf("origin: %.0f and %.0f %% of a core", busy, share(theirs)))
	}
	for _, side := range [][]*step{ours, theirs} {
		failed, tried, pairs := 0, uint64(0), 0
		for _, s := range side {
			tried += s.Delivered + uint64(s.Lost)
			if failed += s.Lost; s.Lost > 0 {
				pairs++
			}
		}
		if failed > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d failed of %d, in %d of %d pairs", side[0].Target, failed, tried, pairs, len(side)))
		}
	}
	return strings.Join(parts, "; ")
}

// act has callers do an errand, and then more of it, all of which is what the step
// costs.
func (r *gripRig) act(ctx context.Context, g *gripPeer, e errand, more func(done *callAnswer) error) (*step, error) {
	all := [][]int{g.pids(), {r.origin.pid()}, {r.callers.pid()}}
	var before, used [3]usage
	for i, pids := range all {
		var err error
		if before[i], err = readUsage(pids...); err != nil {
			return nil, err
		}
	}
	a, err := do(ctx, r.callers, callCommand{Errand: &e})
	if err == nil && more != nil {
		err = more(&a)
	}
	if err != nil {
		return nil, err
	}
	for i, pids := range all {
		now, err := readUsage(pids...)
		if err != nil {
			return nil, err
		}
		used[i] = now.since(before[i])
	}
	return &step{
		Clients: e.Clients, Seconds: a.Took.Seconds(), Delivered: uint64(a.Done), Lost: a.Bad, Trouble: a.Example,
		P50: inMilliseconds(a.Latency.quantile(0.5)), P99: inMilliseconds(a.Latency.quantile(0.99)), Max: inMilliseconds(a.Latency.max),
		CPU: used[0].cpu.Seconds(), OriginCPU: used[1].cpu.Seconds(), ClientCPU: used[2].cpu.Seconds(), RSS: used[0].rss,
	}, nil
}

// warm does an errand that does not count.
func (r *gripRig) warm(ctx context.Context, e errand) (callAnswer, error) {
	e.For /= 4
	return do(ctx, r.callers, callCommand{Errand: &e})
}

// listen waits for what those that hold streams hear.
func (r *gripRig) listen(ctx context.Context, l listening) (callAnswer, error) {
	return do(ctx, r.callers, callCommand{Listen: &l})
}

// holdStreams opens streams of a channel.
func (r *gripRig) holdStreams(g *gripPeer, channel string, n int) errand {
	return errand{Addr: g.addr(), Does: holds, Clients: n, Window: gripWindow, Request: g.subscribeRequest(channel, 0), For: 30 * time.Second}
}

// publishTo publishes one item a request to a channel with so many subscribers, who
// have to hear them all. depth, how many requests are on their way on each
// connection, is for a proxy that leaves them open.
func publishTo(subscribers, connections, depth int, closes bool) func(r *gripRig, ctx context.Context, g *gripPeer, of time.Duration) (*step, error) {
	return func(r *gripRig, ctx context.Context, g *gripPeer, of time.Duration) (*step, error) {
		const channel = "published"
		if subscribers > 0 {
			if err := r.subscribe(ctx, g, channel, subscribers); err != nil {
				return nil, err
			}
		}
		p := r.publisher(g)
		request := p.request(nil, channel, [][]byte{markedPayload(r.size)})
		if closes {
			request = bytes.Replace(request, crlf, []byte("\r\nConnection: close\r\n"), 1)
		}
		deep := depth
		if g.oneByOne {
			deep = 1
		}
		e := errand{Addr: p.to, Does: asks, Clients: connections, Depth: deep, Request: request, Want: []byte(publishedBody), For: of}
		early, err := r.warm(ctx, e)
		if err != nil {
			return nil, err
		}
		missing := 0
		got, err := r.act(ctx, g, e, func(done *callAnswer) error {
			l := listening{Marks: (early.Done + done.Done) * subscribers, Within: 30 * time.Second, HangUp: true}
			if subscribers > 0 {
				l.Marks += subscribers // of subscribe
			}
			heard, err := r.listen(ctx, l)
			missing = l.Marks - heard.Marks
			return err
		})
		if err == nil && missing != 0 {
			got.Lost += abs(missing)
			got.Trouble = fmt.Sprintf("%d messages too few at subscribers %s", missing, got.Trouble)
		}
		return got, err
	}
}

func abs(n int) int { return max(n, -n) }

// markedPayload is one that callers count.
func markedPayload(size int) []byte {
	return append(bytes.Repeat([]byte("x"), size-1), mark)
}

// pollChannel is the one whose items are for long polls, and not for streams.
const pollChannel = "polls"

// publisher makes requests to publish, an item each, which are no events.
func (r *gripRig) publisher(g *gripPeer) *poster {
	return &poster{
		to: g.to, kind: "application/json", path: g.path, oneByOne: g.oneByOne,
		body: func(channel string, payloads [][]byte) []byte {
			var items []grip.Item
			for _, p := range payloads {
				it := grip.Item{Channel: channel, HTTPStream: &grip.HTTPStream{Content: p}}
				if channel == pollChannel {
					it = grip.Item{Channel: channel, HTTPResponse: &grip.HTTPResponse{Body: p}}
				}
				items = append(items, it)
			}
			return grip.AppendItems(nil, items...)
		},
	}
}

// subscribe opens streams, each of which then hears one mark.
func (r *gripRig) subscribe(ctx context.Context, g *gripPeer, channel string, n int) error {
	const tries = 5
	for try := 1; ; try++ {
		err := r.trySubscribe(ctx, g, channel, n)
		if err == nil || try == tries || ctx.Err() != nil {
			return err
		}
	}
}

func (r *gripRig) trySubscribe(ctx context.Context, g *gripPeer, channel string, n int) error {
	opened, err := do(ctx, r.callers, callCommand{Errand: new(r.holdStreams(g, channel, n))})
	if err != nil {
		return err
	}
	p := r.publisher(g)
	defer p.close()
	if err := p.publish(ctx, channel, [][]byte{markedPayload(2)}, 1); err != nil {
		return err
	}
	heard, err := r.listen(ctx, listening{Marks: n, Within: 10 * time.Second})
	if err != nil {
		return err
	}
	if opened.Bad > 0 || heard.Marks != n {
		_, err := r.listen(ctx, listening{HangUp: true})
		return errors.Join(fmt.Errorf("%s: %d of %d subscribers hear %s", g.name(), heard.Marks, n, opened.Example), err)
	}
	return nil
}

// streams opens streams, all of which have to hear a message then.
func (r *gripRig) streams(ctx context.Context, g *gripPeer, _ time.Duration) (*step, error) {
	const channel = "streams"
	done := 0
	got, err := r.act(ctx, g, r.holdStreams(g, channel, gripStreams), func(a *callAnswer) error {
		done = a.Done
		return nil
	})
	if err != nil {
		return nil, err
	}
	p := r.publisher(g)
	defer p.close()
	var heard callAnswer
	for try := 0; try < 3 && heard.Streams < done; try++ { // it may answer a client before it is subscribed
		if err := p.publish(ctx, channel, [][]byte{markedPayload(2)}, 1); err != nil {
			return nil, err
		}
		if heard, err = r.listen(ctx, listening{Streams: done, Within: 10 * time.Second}); err != nil {
			return nil, err
		}
	}
	if missing := done - heard.Streams; missing > 0 {
		got.Lost += missing
		got.Trouble = fmt.Sprintf("%d streams hear nothing %s", missing, got.Trouble)
	}
	_, err = r.listen(ctx, listening{HangUp: true})
	return got, err
}

// polls are answered by what is published every few milliseconds, and asked again.
func (r *gripRig) polls(ctx context.Context, g *gripPeer, of time.Duration) (*step, error) {
	const channel, every = pollChannel, 5 * time.Millisecond
	e := errand{Addr: g.addr(), Does: asks, Clients: gripPolls, Request: requestFor(sse, g.addr(), "/poll/"+channel), Want: []byte("news\n"), For: of}
	p := r.publisher(g)
	defer p.close()
	publishing, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { // ends with publishing; waited for below
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-publishing.Done():
				stopped <- nil
				return
			case <-tick.C:
			}
			if err := p.publish(publishing, channel, [][]byte{e.Want}, 1); err != nil && publishing.Err() == nil {
				stopped <- err
				return
			}
		}
	}()
	_, err := r.warm(ctx, e)
	var got *step
	if err == nil {
		got, err = r.act(ctx, g, e, nil)
	}
	stop()
	return got, errors.Join(err, <-stopped)
}

// overHTTP says messages on WebSockets, each when the last one has been answered.
func (r *gripRig) overHTTP(ctx context.Context, g *gripPeer, of time.Duration) (*step, error) {
	const short = 100 // bytes; the callers know no longer frames than of 125
	text := bytes.Repeat([]byte("x"), short)
	frame := append([]byte{0x80 | opText, 0x80 | short, 0, 0, 0, 0}, text...) // a mask of zeros changes nothing
	e := errand{Addr: g.addr(), Does: talks, Clients: gripSockets, Request: requestFor(wsFrames, g.addr(), "/chat"), Frame: frame, Want: text, For: of}
	if _, err := r.warm(ctx, e); err != nil {
		return nil, err
	}
	return r.act(ctx, g, e, nil)
}

// profiled does a part once more under the CPU profiler, where profiles are wanted.
func (r *gripRig) profiled(ctx context.Context, p gripPart, ours *gatewayPeer) error {
	if r.profiles == "" {
		return nil
	}
	file := filepath.Join(r.profiles, "grip-"+p.name+".pprof")
	written := make(chan error, 1)
	go func() { written <- profileAt(ctx, ours.ops, file, r.profileFor) }() // ends with the profile
	for {
		if _, err := p.step(r, ctx, &ours.gripPeer, r.step); err != nil {
			return errors.Join(err, <-written)
		}
		select {
		case err := <-written:
			r.report.Profiles = append(r.report.Profiles, profile{Name: "grip-" + p.name, File: file, Load: p.what})
			return err
		default:
		}
	}
}
