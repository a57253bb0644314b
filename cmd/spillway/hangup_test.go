//go:build unix

package main

import (
	"context"
	"syscall"
	"testing"
)

func TestHangups(t *testing.T) {
	called := make(chan struct{})
	run := hangups(func() { called <- struct{}{} })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- run(ctx) }() // waited for below
	for range 2 {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-called
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
