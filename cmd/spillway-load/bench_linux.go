package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A bench runs scenarios and fills the report.
type bench struct {
	options
	binary string
	report *report
	stderr io.Writer // progress

	scenario string   // that runs now
	failed   []string // scenarios
	kafka    *kafka   // nil until somebody wants it
	broker   *child   // of kafka; nil where it is a real one
}

// A scenario is a part of the report.
type scenario struct {
	name string
	what string // for help
	run  func(ctx context.Context, b *bench) error

	// quick scenarios are run where none is named.
	quick bool
}

// end ends what is shared by scenarios.
func (b *bench) end() (err error) {
	if b.kafka != nil {
		err = b.kafka.close()
	}
	if b.broker != nil {
		b.broker.end()
	}
	return err
}

// topic is a Kafka with a topic, made when it is first asked for.
func (b *bench) topic(ctx context.Context) (*kafka, error) {
	if b.kafka != nil {
		return b.kafka, nil
	}
	bootstrap := b.bootstrap
	if bootstrap == "" {
		broker, err := startRole("broker")
		if err != nil {
			return nil, err
		}
		b.broker = broker
		var a brokerAnswer
		if err := broker.ask(ctx, nil, &a); err != nil {
			return nil, err
		}
		bootstrap = a.Addr
	}
	var err error
	b.kafka, err = openKafka(ctx, bootstrap, "spillway-load-"+strconv.FormatInt(time.Now().UnixMilli(), 36))
	return b.kafka, err
}

// serve is a stand with the whole server, fed from Kafka.
func (b *bench) serve(ctx context.Context, as mode, clients int, env ...string) (*stand, *server, error) {
	k, err := b.topic(ctx)
	if err != nil {
		return nil, nil, err
	}
	srv, err := startServer(ctx, b.binary, k, env...)
	if err != nil {
		return nil, nil, err
	}
	s, err := newStand(srv, as, clients, 1, b.size)
	return s, srv, err
}

// inproc is a stand with the gateway and an origin in its process.
func (b *bench) inproc(ctx context.Context, as mode, clients, channels int, env ...string) (*stand, *inproc, error) {
	form := "sse"
	if as == wsFrames {
		form = "ws"
	}
	p, err := startInproc(ctx, channels, form, env...)
	if err != nil {
		return nil, nil, err
	}
	s, err := newStand(p, as, clients, channels, b.size)
	return s, p, err
}

// floors are stands with the floors: Go's, and C's where there is a compiler.
func (b *bench) floors(ctx context.Context, clients, channels int) (stands []*stand, err error) {
	defer func() {
		if err != nil {
			endAll(stands)
		}
	}()
	add := func(f *floorSubject, err error, label string) error {
		if err != nil {
			return err
		}
		s, err := newStand(f, sse, clients, channels, b.size)
		if err != nil {
			return err
		}
		s.label = label
		stands = append(stands, s)
		return nil
	}
	f, err := startFloor(ctx)
	if err := add(f, err, "Go floor"); err != nil {
		return stands, err
	}
	c, err := startCFloor(ctx)
	if errors.Is(err, errNoCompiler) {
		b.note("%v", err)
		return stands, nil
	}
	return stands, add(c, err, "C floor")
}

func endAll(stands []*stand) {
	for _, s := range stands {
		s.end()
	}
}

// note puts a remark into the report.
func (b *bench) note(format string, a ...any) {
	text := b.scenario + ": " + fmt.Sprintf(format, a...)
	fmt.Fprintln(b.stderr, text)
	if !slices.Contains(b.report.Notes, text) {
		b.report.Notes = append(b.report.Notes, text)
	}
}

// one runs a step and records it.
func (b *bench) one(ctx context.Context, s *stand, l load) (*step, error) {
	got, err := s.step(ctx, l)
	if err != nil {
		return nil, err
	}
	got.Scenario = b.scenario
	b.report.Steps = append(b.report.Steps, got)
	word := fmt.Sprintf("%s/CPU-s, %s a write, p50 %s ms, p99 %s ms, clients' CPU %.0f %%",
		short(got.perCPUSecond()), short(got.perWrite()), ms(got.P50), ms(got.P99), 100*got.ClientCPU/got.Seconds)
	if !got.borne() {
		word = "too much: " + strings.TrimSpace(fmt.Sprintf("%d lost, p99 %s ms %s", got.Lost, ms(got.P99), got.Trouble))
	}
	fmt.Fprintf(b.stderr, "%s: %-22s %7s msg/s to each of %d: %s/s, %s\n", b.scenario, got.Target, short(got.Rate), got.Clients, short(got.perSecond()), word)
	return got, nil
}

// interleave measures each side n times in turns, every round beginning with
// another: whoever comes second finds a warmer, or a busier, machine. The
// result is by side.
func interleave[T any](n int, sides ...func() (T, error)) ([][]T, error) {
	got := make([][]T, len(sides))
	for round := range n {
		for j := range sides {
			side := (round + j) % len(sides)
			v, err := sides[side]()
			if err != nil {
				return nil, err
			}
			got[side] = append(got[side], v)
		}
	}
	return got, nil
}

// warmed runs a step behind a shorter one that does not count.
func (b *bench) warmed(ctx context.Context, s *stand, l load) (*step, error) {
	if _, err := s.step(ctx, warmUp(l)); err != nil {
		return nil, err
	}
	return b.one(ctx, s, l)
}

// warmUp is a load to go before another. A receiver that was sent nothing for
// 200 ms acknowledges the next 16 segments at once (TCP_MAX_QUICKACKS in Linux),
// and later ones two at a time: a quarter less CPU for the sender. Whoever has
// just been idle would be the dearer one, so those 16 go before what is measured;
// except where messages are so rare that it never changes.
func warmUp(l load) load {
	const quickAcks, idle = 16, 200 * time.Millisecond
	group := float64(max(l.group, 1))
	if each := time.Duration(group / l.rate * float64(time.Second)); each > idle {
		l.time /= 4
		return l
	}
	const faster = 3
	l.rate *= faster
	l.time = time.Duration((quickAcks + 4) * group / l.rate * float64(time.Second))
	return l
}

// steps interleaves one load on each stand; loads[i] is of stands[i].
func (b *bench) steps(ctx context.Context, stands []*stand, loads []load) ([][]*step, error) {
	var sides []func() (*step, error)
	for i, s := range stands {
		sides = append(sides, func() (*step, error) { return b.warmed(ctx, s, loads[i]) })
	}
	return interleave(b.pairs, sides...)
}

// A row is a line of the table: a figure of two sides, and how they compare.
type row struct {
	Scenario string `json:"scenario"`
	What     string `json:"what"`
	Unit     string `json:"unit"`

	Ours   side `json:"ours"`
	Theirs side `json:"theirs"` // no name: there is nothing to compare with

	// Ratio is ours divided by theirs, of each pair; where there is no other
	// side, the figure itself.
	Ratio   spread `json:"ratio"`
	Goal    goal   `json:"goal"`
	Verdict string `json:"verdict,omitempty"`
	Remark  string `json:"remark,omitempty"`
}

// A side is what one of them reached, by pair.
type side struct {
	Name    string    `json:"name,omitempty"`
	Figures []float64 `json:"figures,omitempty"` // NaN, for a step that was not borne, is left out with its pair
	Spread  spread    `json:"spread"`
}

// compare adds a row of pairs.
func (b *bench) compare(what, unit, ourName string, ours []float64, theirName string, theirs []float64, g goal) *row {
	r := row{Scenario: b.scenario, What: what, Unit: unit, Goal: g}
	var ratios []float64
	bad := 0
	for i := range ours {
		if !isNumber(ours[i]) || !isNumber(theirs[i]) || theirs[i] == 0 {
			bad++
			continue
		}
		r.Ours.Figures = append(r.Ours.Figures, ours[i])
		r.Theirs.Figures = append(r.Theirs.Figures, theirs[i])
		ratios = append(ratios, ours[i]/theirs[i])
	}
	if bad > 0 {
		r.Remark = fmt.Sprintf("%d of %d pairs left out: not borne", bad, len(ours))
	}
	r.Ours.Name, r.Ours.Spread = ourName, spreadOf(r.Ours.Figures)
	r.Theirs.Name, r.Theirs.Spread = theirName, spreadOf(r.Theirs.Figures)
	r.Ratio = spreadOf(ratios)
	r.Verdict = g.verdict(r.Ratio)
	return b.add(r)
}

// single adds a row of figures that have no other side.
func (b *bench) single(what, unit, name string, figures []float64, g goal) {
	figures = slices.DeleteFunc(slices.Clone(figures), func(v float64) bool { return !isNumber(v) })
	r := row{Scenario: b.scenario, What: what, Unit: unit, Goal: g, Ratio: spreadOf(figures)}
	r.Ours = side{name, figures, r.Ratio}
	r.Verdict = g.verdict(r.Ratio)
	b.add(r)
}

func (b *bench) add(r row) *row {
	b.report.Rows = append(b.report.Rows, &r)
	return &r
}

func isNumber(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// figures takes a figure of each step; NaN of those that were not borne.
func figures(steps []*step, of func(*step) float64) (out []float64) {
	for _, s := range steps {
		if s.borne() {
			out = append(out, of(s))
		} else {
			out = append(out, math.NaN())
		}
	}
	return out
}

func p99(s *step) float64 { return float64(s.P99) }

// perWriteRemark adds to a row how many messages were in a write, which is what makes
// costs comparable.
func perWriteRemark(r *row, ours, theirs []*step) {
	text := fmt.Sprintf("messages a write: %.3g and %.3g", spreadOf(figures(ours, (*step).perWrite)).Median, spreadOf(figures(theirs, (*step).perWrite)).Median)
	if r.Remark != "" {
		text = r.Remark + "; " + text
	}
	r.Remark = text
}

// climb looks for the most that a stand bears, a step at a time, from a load
// that it may or may not bear: up by the factor for as long as it does, or down
// until it does. It returns the step with the most delivered, nil when nothing
// was borne, and the load to begin with the next time.
func (b *bench) climb(ctx context.Context, s *stand, from, factor float64, l load) (best *step, level float64, err error) {
	try := func(rate float64) (bool, error) {
		l.rate = rate
		got, err := b.one(ctx, s, l)
		if err != nil {
			return false, err
		}
		if got.borne() && (best == nil || got.perSecond() > best.perSecond()) {
			best = got
		}
		return got.borne(), nil
	}
	const least, tries = 0.1, 20
	level = from
	borne, err := try(level)
	for i := 0; err == nil && !borne && level > least && i < tries; i++ {
		level /= factor
		if borne, err = try(level); borne {
			return best, level, err
		}
	}
	for i := 0; err == nil && borne && i < tries; i++ {
		if borne, err = try(level * factor); borne {
			level *= factor
		}
	}
	return best, level, err
}

// most finds the most that each stand bears, in turns: once from far below, with
// large strides, then by pairs. The figures are messages delivered a second, by
// stand; NaN where nothing was borne.
func (b *bench) most(ctx context.Context, stands []*stand, from, factor float64, l load) ([][]float64, []float64, error) {
	levels := make([]float64, len(stands))
	for i, s := range stands {
		_, level, err := b.climb(ctx, s, from, 2, l)
		if err := b.revive(ctx, s, err); err != nil {
			return nil, nil, err
		}
		levels[i] = level
	}
	var sides []func() (float64, error)
	for i, s := range stands {
		sides = append(sides, func() (float64, error) {
			best, level, err := b.climb(ctx, s, levels[i], factor, l)
			if err := b.revive(ctx, s, err); err != nil || best == nil {
				return math.NaN(), err
			}
			levels[i] = level
			return best.perSecond(), nil
		})
	}
	got, err := interleave(b.pairs, sides...)
	return got, levels, err
}

// revive returns err, unless it is of a target, which may have ended under a load
// that was too much (Pushpin does): then it is started again.
func (b *bench) revive(ctx context.Context, s *stand, err error) error {
	p, ok := s.subject.(*posted)
	if err == nil || !ok || ctx.Err() != nil {
		return err
	}
	b.note("%s is started again: %v", s.label, err)
	if err := s.crowd.disconnect(ctx); err != nil {
		return err
	}
	p.stop()
	return p.start(ctx)
}

// profiled runs one more step under the CPU profiler of the gateway in process,
// where profiles are wanted.
func (b *bench) profiled(ctx context.Context, name string, s *stand, p *inproc, l load) error {
	if b.profiles == "" {
		return nil
	}
	if _, err := s.connect(ctx); err != nil {
		return err
	}
	file := filepath.Join(b.profiles, name+".pprof")
	stop, err := p.profile(ctx, file)
	if err != nil {
		return err
	}
	l.time = b.profileFor
	_, err = b.one(ctx, s, l)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	b.report.Profiles = append(b.report.Profiles, profile{Name: name, File: file,
		Load: fmt.Sprintf("%s msg/s to each of %d clients in groups of %d", short(l.rate), s.clients, max(l.group, 1))})
	return nil
}
