package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A part is something that runs as long as the program.
type part struct {
	name string

	// run blocks until stop has done its work or ctx ends, whichever is
	// first, and then returns nil. Any other return means that the part gave
	// up: the program stops. Nil when the part has nothing to run.
	run func(ctx context.Context) error

	// stop ends the part in an orderly way within ctx; afterwards run's ctx
	// ends too. It is called once, whether or not run has returned. Nil when
	// the end of ctx is orderly enough.
	stop func(ctx context.Context) error
}

// readiness is what load balancers are told; opsServer is it.
type readiness interface {
	Started()
	Draining()
}

// cutOffTime is what a part has to return from run when the deadline has
// passed and its context has ended.
const cutOffTime = time.Second

// lifecycle runs parts until ctx ends or one of them gives up, then stops
// them in the order given: those that bring new work first, those that others
// lean on last. The error tells of every part that gave up or did not stop
// cleanly; it is nil after an orderly end.
func lifecycle(ctx context.Context, cfg Config, log *slog.Logger, ready readiness, parts ...part) error {
	type exit struct {
		part int
		err  error
	}
	var (
		exits   = make(chan exit, len(parts)) // room for all: no part ever waits to end
		cancels = make([]context.CancelFunc, len(parts))
		ended   = make([]bool, len(parts))
		errs    []error
	)
	// A signal does not end the parts: they work on while they are drained.
	outlive := context.WithoutCancel(ctx)
	for i, p := range parts {
		runCtx, cancel := context.WithCancel(outlive)
		cancels[i] = cancel
		defer cancel()
		if p.run == nil {
			ended[i] = true
			continue
		}
		go func() { exits <- exit{i, p.run(runCtx)} }()
	}
	ready.Started()

	note := func(e exit, stopping bool) {
		ended[e.part] = true
		switch name := parts[e.part].name; {
		case e.err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", name, e.err))
		case !stopping:
			errs = append(errs, fmt.Errorf("%s: stopped by itself", name))
		}
	}
	select {
	case <-ctx.Done(): // SIGTERM or SIGINT
		log.Info("draining", "delay", cfg.DrainDelay, "timeout", cfg.DrainTimeout)
	case e := <-exits:
		note(e, false)
		log.Error("stopping", "reason", errs[0])
	}

	// Every step has the same deadline; one that fails does not stop the next.
	began := time.Now()
	ctx, cancel := context.WithTimeout(outlive, cfg.DrainTimeout)
	defer cancel()
	endAll := context.AfterFunc(ctx, func() { // the deadline: no part gets more than another
		for _, cancel := range cancels {
			cancel()
		}
	})
	defer endAll()
	cutOff, cancelCutOff := context.WithTimeout(outlive, cfg.DrainTimeout+cutOffTime)
	defer cancelCutOff()
	ready.Draining() // /readyz says 503; connections go on as before
	if len(errs) == 0 {
		pause(ctx, cfg.DrainDelay) // balancers need a moment to look away
	}
	for i, p := range parts {
		if p.stop != nil {
			if err := p.stop(ctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", p.name, err))
			}
		}
		cancels[i]()
		for late := false; !ended[i] && !late; { // others may end meanwhile
			select {
			case e := <-exits:
				note(e, true)
			case <-cutOff.Done():
				late = true
				errs = append(errs, fmt.Errorf("%s: still running after %v", p.name, cfg.DrainTimeout))
			}
		}
	}
	log.Info("stopped", "took", time.Since(began).Round(time.Millisecond))
	return errors.Join(errs...)
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
