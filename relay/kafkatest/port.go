package kafkatest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Ports for tests: 120 blocks of 100. They are below the range from which systems
// take the ports of outgoing connections (32768 and up on Linux, 49152
// elsewhere): a server that comes back must find its port free, and a client that
// calls while it is away must not be connected to itself.
const (
	firstPort    = 20000
	portBlocks   = 120
	portsOfBlock = 100
)

// ports hands out each port once. Processes that test at the same time do not
// meet: each owns the blocks whose first port it listens on.
var ports struct {
	mu    sync.Mutex
	owned []net.Listener // of blocks, until the process ends; guarded by mu
	next  int            // guarded by mu
	left  int            // of the newest block; guarded by mu
}

// FreePort returns a port of 127.0.0.1 that nothing listens on, and that no other
// test is given.
func FreePort(tb testing.TB) int {
	tb.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for range portBlocks {
		for ports.left > 0 {
			port := ports.next
			ports.next++
			ports.left--
			if isFree(port) {
				return port
			}
		}
		first := firstPort + portsOfBlock*rand.IntN(portBlocks)
		if ln, err := listenOn(first); err == nil {
			ports.owned = append(ports.owned, ln)
			ports.next, ports.left = first+1, portsOfBlock-1
		}
	}
	tb.Fatalf("no free block of ports in %d tries from port %d on", portBlocks, firstPort)
	return 0
}

// isFree says whether nothing listens on a port. A process that is forked while the
// port is tried would keep it open until it becomes its program, so none is.
func isFree(port int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	ln, err := listenOn(port)
	if err != nil {
		return false
	}
	return ln.Close() == nil
}

// Listen is net.Listen for the address of a server that was closed just before: a
// process that was forked meanwhile may hold it for a moment more.
func Listen(network, address string) (net.Listener, error) {
	deadline := time.Now().Add(patience)
	for {
		ln, err := net.Listen(network, address)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return ln, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func listenOn(port int) (net.Listener, error) {
	return net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
}
