package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A usage is what a process has used since it began, and holds now.
type usage struct {
	cpu    time.Duration // user and system, to a hundredth of a second
	writes uint64        // write(2) and writev(2) calls; send(2) is not among them
	reads  uint64        // read(2) calls
	rss    uint64        // bytes
}

// readUsage asks the kernel about a process (proc(5)).
func readUsage(pid int) (u usage, err error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	stat, err1 := os.ReadFile(dir + "stat")
	io, err2 := os.ReadFile(dir + "io")
	statm, err3 := os.ReadFile(dir + "statm")
	if err := errors.Join(err1, err2, err3); err != nil {
		return u, err
	}
	if u.cpu, err = parseStat(stat); err != nil {
		return u, err
	}
	if u.reads, u.writes, err = parseIO(io); err != nil {
		return u, err
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return u, fmt.Errorf("/proc/<pid>/statm: %q", statm)
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	u.rss = pages * uint64(os.Getpagesize())
	return u, err
}

// tick is the unit of times in /proc/<pid>/stat: USER_HZ, which is 100 on every
// architecture that Go runs on.
const tick = 10 * time.Millisecond

// parseStat returns utime + stime, the fields 14 and 15. The name in field 2
// may hold blanks and parentheses, so counting begins behind the last of them.
func parseStat(stat []byte) (time.Duration, error) {
	behind := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[behind+1:]))
	const utime, stime = 14 - 3, 15 - 3
	if behind < 0 || len(fields) <= stime {
		return 0, fmt.Errorf("/proc/<pid>/stat: %q", stat)
	}
	user, err1 := strconv.ParseUint(fields[utime], 10, 64)
	system, err2 := strconv.ParseUint(fields[stime], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// parseIO returns the numbers of system calls that read and wrote.
func parseIO(io []byte) (reads, writes uint64, err error) {
	found := 0
	for line := range strings.Lines(string(io)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		var to *uint64
		switch name {
		case "syscr":
			to = &reads
		case "syscw":
			to = &writes
		default:
			continue
		}
		if *to, err = strconv.ParseUint(value, 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/<pid>/io: %w", err)
		}
		found++
	}
	if found != 2 {
		return 0, 0, fmt.Errorf("/proc/<pid>/io: %q", io)
	}
	return reads, writes, nil
}

// since is what was used between before and u.
func (u usage) since(before usage) usage {
	return usage{cpu: u.cpu - before.cpu, writes: u.writes - before.writes, reads: u.reads - before.reads, rss: u.rss}
}
