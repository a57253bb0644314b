package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// A fanout is the result of the scenario of that name: many clients of one topic.
type fanout struct {
	Clients int `json:"clients"`
	Size    int `json:"size"` // of a message in bytes

	OpenedPerSecond float64 `json:"openedPerSecond"` // streams
	RSSPerStream    float64 `json:"rssBytesPerStream"`

	Light []pair `json:"light"` // one message at a time, far from any limit
	Busy  []pair `json:"busy"`  // at busyShare of the most, as many messages per write

	Most      *step  `json:"most"`      // of the server; nil when even the first load was too much
	MostFloor *step  `json:"mostFloor"` // of the floor
	Steps     []step `json:"steps"`     // all of the searches

	// TimeUp says that a search ended before it had met a load that was too
	// much: Most, or MostFloor, is not the most.
	TimeUp bool `json:"timeUp,omitempty"`

	Profiles []profile    `json:"profiles"`
	Ratios   []comparison `json:"ratios"`
}

// A comparison is a figure of the server divided by the same of the floor.
type comparison struct {
	Of       string  `json:"of"`
	Median   float64 `json:"median"`
	Least    float64 `json:"least"`
	Greatest float64 `json:"greatest"`
	Pairs    int     `json:"pairs"`
}

// compare makes the ratios of what was measured.
func (f *fanout) compare() {
	add := func(of string, ratios ...float64) {
		if len(ratios) > 0 {
			middle, least, greatest := median(ratios)
			f.Ratios = append(f.Ratios, comparison{of, middle, least, greatest, len(ratios)})
		}
	}
	of := func(pairs []pair) (ratios []float64) {
		for i := range pairs {
			p := &pairs[i]
			if p.Spillway.CPU == 0 || p.Floor.CPU == 0 {
				continue // below the clock's tick: nothing to divide by
			}
			ratios = append(ratios, p.Spillway.perCPUSecond()/p.Floor.perCPUSecond())
		}
		return ratios
	}
	add("messages per CPU-second, light", of(f.Light)...)
	add("messages per CPU-second, busy", of(f.Busy)...)
	if f.Most != nil && f.MostFloor != nil && !f.TimeUp {
		add(fmt.Sprintf("most delivered/s with p99 < %v and no loss", maxLatency), f.Most.perSecond()/f.MostFloor.perSecond())
	}
}

// A pair is the same load on both, one after the other.
type pair struct {
	Spillway step `json:"spillway"`
	Floor    step `json:"floor"`
}

// busyShare of the most that the server bears is a load that it bears every
// time, even where others use the machine.
const busyShare = 0.5

type fanoutOptions struct {
	light     float64       // messages a second to each client
	step      time.Duration // of each load
	pairs     int
	refine    int
	searchFor time.Duration // no further load is tried in a search after this
	profiling func(name, load string) profile
}

// errTimeUp ends a search.
var errTimeUp = errors.New("time is up")

// runFanout finds what the server bears, and compares it with the floor.
func (r *runner) runFanout(ctx context.Context, srv *server, fl *floorTarget, o fanoutOptions, progress func(step)) (*fanout, error) {
	res := &fanout{Clients: r.clients, Size: r.size}
	before, err := readUsage(srv.pid())
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := r.fleet(ctx, srv); err != nil {
		return nil, err
	}
	res.OpenedPerSecond = float64(r.clients) / time.Since(began).Seconds()
	after, err := readUsage(srv.pid())
	if err != nil {
		return nil, err
	}
	res.RSSPerStream = (float64(after.rss) - float64(before.rss)) / float64(r.clients)

	one := func(t subject, l load) (*step, error) {
		s, err := r.step(ctx, t, l)
		if err == nil {
			progress(*s)
		}
		return s, err
	}
	pairs := func(server, floor load) (out []pair, err error) {
		for i := range o.pairs {
			var p pair
			for j := range 2 {
				// Whoever comes second finds a warmer, or a busier, machine.
				if (i+j)%2 == 0 {
					s, err := one(srv, server)
					if err != nil {
						return nil, err
					}
					p.Spillway = *s
				} else {
					s, err := one(fl, floor)
					if err != nil {
						return nil, err
					}
					p.Floor = *s
				}
			}
			out = append(out, p)
		}
		return out, nil
	}
	profiled := func(name string, l load) error {
		p := o.profiling(name, fmt.Sprintf("%s msg/s to each of %d clients", short(l.rate), r.clients))
		l.time = time.Duration(p.seconds) * time.Second
		l.during = func(ctx context.Context) error { return p.take(ctx, srv) }
		res.Profiles = append(res.Profiles, p)
		_, err := one(srv, l)
		return err
	}
	light := load{rate: o.light, group: 1, time: o.step}
	if res.Light, err = pairs(light, light); err != nil {
		return nil, err
	}
	if err := profiled("light", light); err != nil {
		return nil, err
	}

	most := func(t subject, from float64) (*step, error) {
		var best *step
		met := false // a load that was too much
		until := time.Now().Add(o.searchFor)
		_, err := search(from, 1e6, o.refine, func(rate float64) (bool, error) {
			if time.Now().After(until) {
				return false, errTimeUp
			}
			s, err := one(t, load{rate: rate, group: 1, time: o.step})
			if err != nil {
				return false, err
			}
			res.Steps = append(res.Steps, *s)
			if s.borne() && (best == nil || s.perSecond() > best.perSecond()) {
				best = s
			}
			met = met || !s.borne()
			return s.borne(), nil
		})
		if errors.Is(err, errTimeUp) {
			err = nil
			res.TimeUp = res.TimeUp || !met
		}
		return best, err
	}
	if res.Most, err = most(srv, 2*o.light); err != nil {
		return nil, err
	}
	if res.Most == nil {
		res.compare()
		return res, nil
	}
	busy := load{rate: busyShare * res.Most.Rate, group: 1, time: o.step}
	probe, err := one(srv, busy)
	if err != nil {
		return nil, err
	}
	grouped := busy
	grouped.group = max(1, int(math.Round(probe.perWrite())))
	if res.Busy, err = pairs(busy, grouped); err != nil {
		return nil, err
	}
	if err := profiled("busy", busy); err != nil {
		return nil, err
	}
	if res.MostFloor, err = most(fl, res.Most.Rate/2); err != nil {
		return nil, err
	}
	res.compare()
	return res, nil
}

// median returns the middle value, and the least and the greatest, of at least
// one.
func median(values []float64) (middle, least, greatest float64) {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2, v[0], v[n-1]
}
