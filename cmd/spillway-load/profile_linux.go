package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// A profile is the server's CPU profile under a load.
type profile struct {
	Name string `json:"name"`
	File string `json:"file"`
	Load string `json:"load"` // in words
}

// profile writes the server's CPU profile of the next time, at least a second
// of it, to a file.
func (s *server) profile(ctx context.Context, file string, of time.Duration) error {
	return profileAt(ctx, s.ops, file, of)
}

// profileAt does so of a server with that ops port.
func profileAt(ctx context.Context, ops netip.AddrPort, file string, of time.Duration) error {
	body, err := getOps(ctx, ops, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(of.Seconds()))))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return os.WriteFile(file, body, 0o644)
}

// top prints where the server's CPU time went: in which functions, and on whose
// behalf.
func (p profile) top(ctx context.Context, stdout io.Writer) error {
	for _, by := range []string{"flat", "cum"} {
		fmt.Fprintf(stdout, "\nCPU of the server, %s: %s (%s), by %s time:\n\n", p.Name, p.Load, p.File, by)
		cmd := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=25", "-"+by, p.File)
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("go tool pprof -top %s: %w", p.File, err)
		}
		// The table begins with its heading; what is above repeats ours.
		if i := bytes.Index(out, []byte("      flat  flat%")); i > 0 {
			out = out[i:]
		}
		if _, err := stdout.Write(out); err != nil {
			return err
		}
	}
	return nil
}

// counter asks the server for a counter, by its name and labels as /metrics
// writes them.
func (s *server) counter(ctx context.Context, series string) (float64, error) {
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	return findSeries(body, series)
}

// findSeries reads one value of a page in Prometheus' text format.
func findSeries(page []byte, series string) (float64, error) {
	for line := range bytes.Lines(page) {
		if rest, ok := bytes.CutPrefix(line, []byte(series+" ")); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
		}
	}
	return 0, fmt.Errorf("/metrics: no %s", series)
}
