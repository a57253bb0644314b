package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// hangups returns what calls all of fs for each SIGHUP, until its context ends. Signals
// count from now on.
func hangups(fs ...func()) (run func(context.Context) error) {
	signals := make(chan os.Signal, 1) // one more is as good as many
	signal.Notify(signals, syscall.SIGHUP)
	return func(ctx context.Context) error {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
				for _, f := range fs {
					f()
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}
