package kafkatest

import (
	"net"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFreePortWhileProcessesStart has a port be free at once though processes are
// forked all the time, each with a copy of every open socket.
func TestFreePortWhileProcessesStart(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Skip("no program named true here:", err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				if err := exec.Command(program).Run(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 300 {
		port := FreePort(t)
		ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			t.Fatal(err)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
