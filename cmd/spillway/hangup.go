package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// hangups returns what calls f for each SIGHUP, until its context ends. Signals
// count from now on.
func hangups(f func()) (run func(context.Context) error) {
	signals := make(chan os.Signal, 1) // one more is as good as many
	signal.Notify(signals, syscall.SIGHUP)
	return func(ctx context.Context) error {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				f()
			case <-ctx.Done():
				return nil
			}
		}
	}
}
