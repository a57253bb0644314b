//go:build unix

package gateway

import (
	"math"
	"syscall"
)

// maxDescriptors is how many files and sockets the process may have open. The
// runtime has raised it as far as it may be raised. 0 means unknown.
func maxDescriptors() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return min(uint64(limit.Cur), math.MaxInt64) //nolint:unconvert // signed on some systems
}
