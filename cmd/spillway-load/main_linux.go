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

const help = `  spillway-load per-write light

Usage: spillway-load [options] [scenario …]

Starts what it measures, on this machine: the server with a Kafka in memory, the
gateway alone with messages made in its process, floor programs that do nothing
but send, and other servers where they are installed; and clients in processes
of their own. It prints a table and writes JSON. A ratio is the median of pairs
that were measured in turns, with its quartiles.

Scenarios; those with * unless one is named:

%s
  -server FILE      the binary (bin/spillway)
  -bootstrap HOSTS  a real Kafka instead of the one in memory
  -all              all scenarios, with all their rows
  -pairs N          times that each is measured (9)
  -step DURATION    of one load (700ms)
  -clients LIST     sizes of per-write, most and peers; the first is that of
                    websocket, compression and kafka (1000; with -all 1000,10000)
  -size BYTES       of a message (128)
  -writes N         a second, to all clients together, of per-write and others (20000)
  -streams N        of memory and accept (19000)
  -records N        of idle-view (500000)
  -out FILE         results as JSON (bin/load.json)
  -profiles DIR     CPU profiles of the server under the loads (none)
`

type options struct {
	server, bootstrap string
	whole             bool
	pairs             int
	step              time.Duration
	sizes             []int
	size              int
	writes            float64
	streams           int
	records           int
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
		var list strings.Builder
		for _, sc := range scenarios {
			star := " "
			if sc.quick {
				star = "*"
			}
			fmt.Fprintf(&list, "  %s %-14s  %s\n", star, sc.name, sc.what)
		}
		fmt.Printf(help, list.String())
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
		case "lag":
			return runLag(ctx, args[1:], stdin, stdout)
		case "fleet":
			return runFleet(ctx, stdin, stdout)
		case "origin":
			return runOrigin(ctx, stdin, stdout)
		case "callers":
			return runCallers(ctx, stdin, stdout)
		case "inproc":
			return runInproc(ctx, args[1:], stdin, stdout, stderr)
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
	sizes := ""
	fs.StringVar(&o.server, "server", "bin/spillway", "")
	fs.StringVar(&o.bootstrap, "bootstrap", "", "")
	fs.BoolVar(&o.whole, "all", false, "")
	fs.IntVar(&o.pairs, "pairs", 9, "")
	fs.DurationVar(&o.step, "step", 700*time.Millisecond, "")
	fs.StringVar(&sizes, "clients", "", "")
	fs.IntVar(&o.size, "size", 128, "")
	fs.Float64Var(&o.writes, "writes", 20_000, "")
	fs.IntVar(&o.streams, "streams", 19_000, "")
	fs.IntVar(&o.records, "records", 500_000, "")
	fs.StringVar(&o.out, "out", "bin/load.json", "")
	fs.StringVar(&o.profiles, "profiles", "", "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return o, err
	} else if err != nil {
		return o, usageError{err}
	}
	o.profileFor = 5 * time.Second
	o.scenarios = fs.Args()
	var errs []error
	for _, name := range o.scenarios {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			errs = append(errs, fmt.Errorf("no scenario %q; --help lists them", name))
		}
	}
	if len(o.scenarios) == 0 {
		for _, s := range scenarios {
			if o.whole || s.quick {
				o.scenarios = append(o.scenarios, s.name)
			}
		}
	}
	if sizes == "" {
		if sizes = "1000"; o.whole {
			sizes = "1000,10000"
		}
	}
	for text := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > fleetClients {
			errs = append(errs, fmt.Errorf("-clients %q: must be numbers between 1 and %d", text, fleetClients))
		}
		o.sizes = append(o.sizes, n)
	}
	for _, n := range []struct {
		name          string
		got, min, max float64
	}{
		{"-size", float64(o.size), messageBytes, 1 << 20},
		{"-records", float64(o.records), 2, 100_000_000},
		{"-writes", o.writes, 10, 10_000_000},
		{"-streams", float64(o.streams), 2000, fleetClients},
		{"-step", o.step.Seconds(), 0.1, 3600},
		{"-pairs", float64(o.pairs), 1, 1000},
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
	began := time.Now()
	b := &bench{
		options: o, binary: binary, stderr: stderr,
		report: &report{Began: began, Machine: thisMachine(), Broker: "kfake", Args: o.scenarios},
	}
	if o.bootstrap != "" {
		b.report.Broker = o.bootstrap
	}
	defer func() { err = errors.Join(err, b.end()) }()
	for _, sc := range scenarios {
		if !slices.Contains(o.scenarios, sc.name) {
			continue
		}
		b.scenario = sc.name
		began := time.Now()
		if err := sc.run(ctx, b); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// What the others say is worth having.
			b.note("failed: %v", err)
			b.failed = append(b.failed, sc.name)
		}
		fmt.Fprintf(stderr, "%s took %v\n", sc.name, time.Since(began).Round(time.Second))
	}
	b.report.Took = time.Since(began).Seconds()
	if err := b.report.write(stdout); err != nil {
		return err
	}
	for _, p := range b.report.Profiles {
		if err := p.top(ctx, stdout); err != nil {
			fmt.Fprintln(stderr, err) // there may be no go here
		}
	}
	text, err := json.MarshalIndent(b.report, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if len(b.failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(b.failed, ", "))
	}
	return nil
}
