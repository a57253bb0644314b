package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"spillway/relay"
)

func checkCommand() command {
	timeout := 10 * time.Second
	return command{
		name:    "check",
		summary: "validate the configuration, then say what Kafka says",
		help: `  spillway check

Usage: spillway check [options]

Reads the configuration of serve, reports every problem at once, and starts
nothing. If there is none it connects to Kafka, and prints the brokers, the
topics that would be exposed, and the state of the consumer group. Exit code 2
means that the configuration is wrong, 1 that Kafka cannot be reached.

  -timeout DURATION  how long to wait for Kafka, default 10s
`,
		flags: func(fs *flag.FlagSet) { fs.DurationVar(&timeout, "timeout", timeout, "") },
		run: func(ctx context.Context, p *process, args []string) error {
			if len(args) > 0 {
				return wrongUsage("takes no argument, but got %q", args[0])
			}
			return check(ctx, p, timeout)
		},
	}
}

// check prints what serve would start with, and what Kafka says to it.
func check(ctx context.Context, p *process, timeout time.Duration) error {
	var s settings
	warnings, err := s.load(p)
	if err != nil {
		return err
	}
	props, err := s.relay.Properties()
	if err != nil {
		return usageError{fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)}
	}
	for _, w := range append(warnings, props.Warnings()...) {
		fmt.Fprintf(p.stdout, "warning: %s\n", w)
	}
	fmt.Fprintln(p.stdout, "configuration: ok")
	for _, l := range props.Effective() {
		fmt.Fprintf(p.stdout, "  %s = %s (%s)\n", l.Name, l.Effective, l.Status)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	report, err := relay.Inspect(ctx, s.relay, newLogger(s.program, p.stderr, p.terminal))
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("no answer from %s within %v: %w", strings.Join(props.Brokers(), ", "), timeout, err)
		}
		return err
	}
	fmt.Fprintf(p.stdout, "kafka: cluster %s, %d brokers\n", report.Cluster, len(report.Brokers))
	for _, b := range report.Brokers {
		fmt.Fprintf(p.stdout, "  %s\n", b)
	}
	fmt.Fprintf(p.stdout, "topics: %d exposed, %d hidden\n", len(report.Topics), report.Hidden)
	for _, t := range report.Topics {
		fmt.Fprintf(p.stdout, "  %s (%d partitions) at %s%s/\n", t.Name, t.Partitions, s.relay.EventsPath, t.Name)
	}
	switch {
	case props.Group() == "":
		fmt.Fprintln(p.stdout, "group: none; nothing is committed, and delivery is not affected")
	case report.GroupProblem != nil:
		fmt.Fprintf(p.stdout, "group %s: %v; delivery is not affected\n", props.Group(), report.GroupProblem)
	default:
		fmt.Fprintf(p.stdout, "group %s: %s, %d members\n", props.Group(), report.GroupState, report.GroupMembers)
	}
	return nil
}
