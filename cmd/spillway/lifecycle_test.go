package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// A journal notes what happens, in order.
type journal struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) note(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *journal) Started()  { j.note("started") }
func (j *journal) Draining() { j.note("draining") }

// fakePart runs until it is stopped, and takes `takes` to stop.
func (j *journal) fakePart(name string, takes time.Duration, stopErr error) part {
	stopped := make(chan struct{})
	return part{
		name: name,
		run: func(ctx context.Context) error {
			select {
			case <-stopped:
				j.note(name + " ran to its end")
			case <-ctx.Done():
				j.note(name + " was cut off")
			}
			return nil
		},
		stop: func(ctx context.Context) error {
			j.note("stop " + name)
			pause(ctx, takes)
			if ctx.Err() == nil {
				close(stopped)
				synctest.Wait() // run notes its end before the next step
			}
			return stopErr
		},
	}
}

func TestLifecycleStopsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, sigterm := context.WithCancel(t.Context())
		cfg := Config{DrainDelay: 5 * time.Second, DrainTimeout: 30 * time.Second}
		done := make(chan error)
		began := time.Now()
		go func() {
			done <- lifecycle(ctx, cfg, quiet(), &j,
				j.fakePart("gateway", 3*time.Second, nil),
				part{name: "relay", stop: func(context.Context) error { j.note("stop relay"); return nil }},
				part{name: "watcher", run: func(ctx context.Context) error { <-ctx.Done(); j.note("watcher ends"); return nil }},
				j.fakePart("ops", 0, nil))
		}()
		synctest.Wait()
		if got, want := j.all(), []string{"started"}; !slices.Equal(got, want) {
			t.Errorf("before the signal: got %q, want %q", got, want)
		}
		sigterm()
		if err := <-done; err != nil {
			t.Errorf("got error %v", err)
		}
		want := []string{"started", "draining", "stop gateway", "gateway ran to its end", "stop relay", "watcher ends", "stop ops", "ops ran to its end"}
		if got := j.all(); !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if got, want := time.Since(began), 8*time.Second; got != want {
			t.Errorf("took %v, want %v: the drain delay and the gateway's time", got, want)
		}
	})
}

// A step that fails does not stop the next; all errors are told.
func TestLifecycleGoesOnAfterAFailedStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, sigterm := context.WithCancel(t.Context())
		sigterm()
		errDrain, errCommit := errors.New("3 clients left"), errors.New("commit: no coordinator")
		err := lifecycle(ctx, Config{DrainTimeout: time.Second}, quiet(), &j,
			j.fakePart("gateway", 0, errDrain), j.fakePart("relay", 0, errCommit), j.fakePart("ops", 0, nil))
		if !errors.Is(err, errDrain) || !errors.Is(err, errCommit) {
			t.Errorf("got %v, want both errors", err)
		}
		if got, want := err.Error(), "stop gateway: 3 clients left\nstop relay: commit: no coordinator"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := j.all(); got[len(got)-1] != "ops ran to its end" {
			t.Errorf("got %q, want ops stopped too", got)
		}
	})
}

// All steps share one deadline. What does not end by then is cut off, and what
// ignores even that is left behind.
func TestLifecycleDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, sigterm := context.WithCancel(t.Context())
		sigterm()
		release := make(chan struct{})
		stubborn := part{name: "stubborn", run: func(context.Context) error { <-release; return nil }}
		began := time.Now()
		err := lifecycle(ctx, Config{DrainTimeout: 10 * time.Second}, quiet(), &j,
			j.fakePart("gateway", time.Hour, nil), stubborn, j.fakePart("relay", time.Hour, nil))
		if got, want := time.Since(began), 10*time.Second+cutOffTime; got != want {
			t.Errorf("took %v, want %v", got, want)
		}
		if err == nil || err.Error() != "stubborn: still running after 10s" {
			t.Errorf("got %v", err)
		}
		got := j.all()
		for _, want := range []string{"stop gateway", "gateway was cut off", "stop relay", "relay was cut off"} {
			if !slices.Contains(got, want) {
				t.Errorf("got %q, want %q in it", got, want)
			}
		}
		close(release)
		synctest.Wait() // nothing may be left when the test ends
	})
}

func TestLifecycleEndsWhenAPartGivesUp(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"with a reason", errors.New("kafka refuses us: not authorised"), "relay: kafka refuses us: not authorised"},
		{"without one", nil, "relay: stopped by itself"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				began := time.Now()
				err := lifecycle(t.Context(), Config{DrainDelay: 20 * time.Second, DrainTimeout: 30 * time.Second}, quiet(), &j,
					j.fakePart("gateway", 0, nil),
					part{name: "relay", run: func(context.Context) error { return tt.err }},
					j.fakePart("ops", 0, nil))
				if err == nil || err.Error() != tt.want {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				if got := time.Since(began); got != 0 {
					t.Errorf("took %v, want no drain delay: nobody is to look away first", got)
				}
				if got := j.all(); !slices.Contains(got, "gateway ran to its end") || !slices.Contains(got, "ops ran to its end") {
					t.Errorf("got %q, want the others stopped in order", got)
				}
			})
		})
	}
}

// The real ops server in the real lifecycle: it answers to the very end.
func TestLifecycleWithOps(t *testing.T) {
	ops, err := newOps(Config{OpsAddr: "127.0.0.1:0"}, newRegistry(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + ops.Addr().String()
	ctx, sigterm := context.WithCancel(t.Context())
	draining := make(chan struct{})
	proceed := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- lifecycle(ctx, Config{DrainTimeout: patience}, quiet(), ops,
			part{name: "gateway", stop: func(context.Context) error { close(draining); <-proceed; return nil }},
			part{name: "ops", run: ops.Run, stop: ops.Shutdown})
	}()
	waitReady(t, base)
	sigterm()
	<-draining
	if status, body := get(t, base+"/readyz", ""); status != http.StatusServiceUnavailable || body != "spillway: draining\n" {
		t.Errorf("/readyz while draining: got %d %q", status, body)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := http.Get(base + "/livez"); err == nil {
		t.Error("still answers after the end")
	}
}
