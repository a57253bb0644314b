package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const help = `  spillway-load -clients 1000 fanout

Usage: spillway-load [options] [idle-view] [fanout]

Starts spillway serve with a Kafka in memory, and measures it on this machine:
idle-view is one client that reads all there is; fanout is many clients of one
topic, at a light load, at the most that they can be sent with p99 < 1 s and no
loss, and beside a floor program that only writes. Both, unless one is named.

  -server FILE      the binary (bin/spillway)
  -bootstrap HOSTS  a real Kafka instead of the one in memory
  -clients N        of fanout (1000)
  -size BYTES       of a message (128)
  -records N        of idle-view (500000)
  -light N          messages a second to each client of the light load (20)
  -step DURATION    of one load (2s)
  -pairs N          times that server and floor are compared (3)
  -for DURATION     search for the most, of each of the two (30s)
  -out FILE         results as JSON (bin/load.json)
  -profiles DIR     CPU profiles of the server (bin): serve-idle-view.pprof,
                    serve-light.pprof, serve-busy.pprof
`

type options struct {
	server, bootstrap string
	clients, size     int
	records           int
	light             float64
	step              time.Duration
	pairs             int
	searchFor         time.Duration
	out, profiles     string
	profileFor        time.Duration // no option
	scenarios         []string
}

func main() {
	// See start: children end with this thread.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(help)
	default:
		fmt.Fprintf(os.Stderr, "spillway-load: %v\n", err)
		var usage usageError
		if errors.As(err, &usage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// run plays the role that the first argument names, or else measures.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "broker":
			return runBroker(ctx, stdin, stdout)
		case "floor":
			return runFloor(ctx, stdin, stdout)
		case "consume":
			return runConsume(ctx, args[1:], stdin, stdout)
		}
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	return measure(ctx, o, stdout, stderr)
}

// A usageError makes the exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func parseOptions(args []string) (o options, err error) {
	fs := flag.NewFlagSet("spillway-load", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.StringVar(&o.server, "server", "bin/spillway", "")
	fs.StringVar(&o.bootstrap, "bootstrap", "", "")
	fs.IntVar(&o.clients, "clients", 1000, "")
	fs.IntVar(&o.size, "size", 128, "")
	fs.IntVar(&o.records, "records", 500_000, "")
	fs.Float64Var(&o.light, "light", 20, "")
	fs.DurationVar(&o.step, "step", 2*time.Second, "")
	fs.IntVar(&o.pairs, "pairs", 3, "")
	fs.DurationVar(&o.searchFor, "for", 30*time.Second, "")
	fs.StringVar(&o.out, "out", "bin/load.json", "")
	fs.StringVar(&o.profiles, "profiles", "bin", "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, usageError{err}
	}
	o.profileFor = 5 * time.Second
	o.scenarios = fs.Args()
	if len(o.scenarios) == 0 {
		o.scenarios = []string{"idle-view", "fanout"}
	}
	var errs []error
	for _, s := range o.scenarios {
		if s != "idle-view" && s != "fanout" {
			errs = append(errs, fmt.Errorf("no scenario %q: idle-view or fanout", s))
		}
	}
	for _, n := range []struct {
		name          string
		got, min, max float64
	}{
		{"-clients", float64(o.clients), 1, 1_000_000},
		{"-size", float64(o.size), messageBytes, 1 << 20},
		{"-records", float64(o.records), 2, 100_000_000},
		{"-light", o.light, 0.1, 1_000_000},
		{"-step", o.step.Seconds(), 0.1, 3600},
		{"-pairs", float64(o.pairs), 0, 1000},
	} {
		if n.got < n.min || n.got > n.max {
			errs = append(errs, fmt.Errorf("%s %v: must be between %v and %v", n.name, n.got, n.min, n.max))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return o, usageError{err}
	}
	return o, nil
}

// measure runs the scenarios.
func measure(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	binary, err := filepath.Abs(o.server)
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err != nil {
		return usageError{fmt.Errorf("-server: %w; make build makes it", err)}
	}
	res := &report{Began: time.Now(), Machine: thisMachine(), Broker: "kfake"}
	bootstrap := o.bootstrap
	if bootstrap == "" {
		broker, err := startRole("broker")
		if err != nil {
			return err
		}
		defer broker.end()
		var a brokerAnswer
		if err := broker.ask(ctx, nil, &a); err != nil {
			return err
		}
		bootstrap = a.Addr
	} else {
		res.Broker = bootstrap
	}
	k, err := openKafka(ctx, bootstrap, "spillway-load-"+strconv.FormatInt(time.Now().UnixMilli(), 36))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	profiling := func(name, load string) profile {
		return profile{Name: name, File: filepath.Join(o.profiles, "serve-"+name+".pprof"), Load: load, seconds: int(o.profileFor.Seconds())}
	}
	// Each has a server of its own: one would begin with the memory that the
	// other one needed.
	scenario := func(name string, clients int, body func(*runner, *server) error) error {
		if !slices.Contains(o.scenarios, name) {
			return nil
		}
		srv, err := startServer(ctx, binary, k)
		if err != nil {
			return err
		}
		defer srv.end()
		r := newRunner(clients, o.size)
		if err := body(r, srv); err != nil {
			return fmt.Errorf("%s: %w", name, srv.because(err))
		}
		return nil
	}
	err = scenario("idle-view", 1, func(r *runner, srv *server) (err error) {
		res.Idle, err = r.runIdle(ctx, srv, o.records, profiling, func(name string, got reading) {
			fmt.Fprintf(stderr, "idle-view %s: %s records/s\n", name, short(got.perSecond()))
		})
		return errors.Join(err, r.releaseAll(ctx))
	})
	if err != nil {
		return err
	}
	err = scenario("fanout", o.clients, func(r *runner, srv *server) error {
		fl, err := startFloor(ctx)
		if err != nil {
			return err
		}
		defer fl.end()
		res.Fanout, err = r.runFanout(ctx, srv, fl, fanoutOptions{
			light: o.light, step: o.step, pairs: o.pairs, refine: 3, searchFor: o.searchFor,
			profiling: profiling,
		}, func(s step) {
			word := "borne"
			if !s.borne() {
				word = "too much: " + strings.TrimSpace(fmt.Sprintf("%d lost, p99 %s ms %s", s.Lost, ms(s.P99), s.Trouble))
			}
			fmt.Fprintf(stderr, "fanout %-8s %6s msg/s to each of %d: %s\n", s.Target, short(s.Rate), s.Clients, word)
		})
		return errors.Join(err, r.releaseAll(ctx))
	})
	if err != nil {
		return err
	}
	if err := res.write(stdout); err != nil {
		return err
	}
	for _, p := range res.profiles() {
		if err := p.top(ctx, stdout); err != nil {
			fmt.Fprintln(stderr, err) // there may be no go here
		}
	}
	text, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, append(text, '\n'), 0o644)
}
