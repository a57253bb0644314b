package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// A usage is what processes have used since they began, and hold now.
type usage struct {
	cpu    time.Duration // user and system
	writes uint64        // write(2) and writev(2) calls; send(2) is not among them
	rss    uint64        // bytes
}

// readUsage asks the kernel about processes, and adds them up.
func readUsage(pids ...int) (sum usage, err error) {
	for _, pid := range pids {
		cpu, err := cpuTime(pid)
		if err != nil {
			return usage{}, err
		}
		dir := "/proc/" + strconv.Itoa(pid) + "/" // proc(5)
		io, err1 := os.ReadFile(dir + "io")
		statm, err2 := os.ReadFile(dir + "statm")
		if err := errors.Join(err1, err2); err != nil {
			return usage{}, err
		}
		writes, err := parseIO(io)
		if err != nil {
			return usage{}, err
		}
		fields := strings.Fields(string(statm))
		if len(fields) < 2 {
			return usage{}, fmt.Errorf("/proc/<pid>/statm: %q", statm)
		}
		pages, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return usage{}, fmt.Errorf("/proc/<pid>/statm: %w", err)
		}
		sum.cpu += cpu
		sum.writes += writes
		sum.rss += pages * uint64(os.Getpagesize())
	}
	return sum, nil
}

// cpuTime is what all threads of a process have used, to the nanosecond, where
// /proc/<pid>/stat counts in hundredths of a second: its CPU clock, as
// clock_getcpuclockid(3) makes the number of one.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // user and system
	clock := int32(^uint32(pid)<<3 | sched)
	var t syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&t)), 0); errno != 0 {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, errno)
	}
	return time.Duration(t.Nano()), nil
}

// parseIO returns the number of system calls that wrote.
func parseIO(io []byte) (writes uint64, err error) {
	for line := range strings.Lines(string(io)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), ": "); name == "syscw" {
			return strconv.ParseUint(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/<pid>/io: %q", io)
}

// since is what was used between before and u.
func (u usage) since(before usage) usage {
	return usage{cpu: u.cpu - before.cpu, writes: u.writes - before.writes, rss: u.rss}
}
