package kafkatest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
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
			if ln, err := listenOn(port); err == nil {
				_ = ln.Close()
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

func listenOn(port int) (net.Listener, error) {
	return net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
}
