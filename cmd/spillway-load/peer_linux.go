package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peers are the targets of the scenario of that name, ours first, each to be
// started when its turn comes. One that does not start because of
// errNotInstalled is left out of the table, which says so.
func peers(binary string) []target {
	return []target{newGatewayPeer(binary), newNchan(2, false), newPushpin()}
}

// errNotInstalled is a peer that this machine does not have.
var errNotInstalled = errors.New("not installed; tools/peers.sh does that")

// A peer is what all targets of the scenario peers have in common: a process
// that starts others, a directory with all that they write, a place for clients
// and one for messages.
type peer struct {
	label string
	http  netip.AddrPort
	dir   string // "" when it is not running
	*child
	poster
	processes []int // the child and all that it has started
}

func (p *peer) name() string         { return p.label }
func (p *peer) addr() netip.AddrPort { return p.http }
func (p *peer) pids() []int          { return p.processes }

// installed finds the programs, all of which it takes, and adds the version of
// the Debian package to the label where that is known.
func (p *peer) installed(ctx context.Context, debian string, programs ...string) error {
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s: %w", p.label, errNotInstalled)
		}
	}
	version, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", debian).Output()
	if err == nil && !strings.Contains(p.label, string(version)) {
		p.label += " " + string(version)
	}
	return nil
}

// prepare makes the directory and writes files into it, and returns that many
// free addresses.
func (p *peer) prepare(addrs int, files func(dir string, free []netip.AddrPort) map[string]string) error {
	var free []netip.AddrPort
	for range addrs {
		a, err := freeAddr()
		if err != nil {
			return err
		}
		free = append(free, a)
	}
	var err error
	if p.dir, err = os.MkdirTemp("", "spillway-load-"); err != nil {
		return err
	}
	for name, text := range files(p.dir, free) {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// run starts the command and waits until a client is answered with 200.
func (p *peer) run(ctx context.Context, probe []byte, args ...string) error {
	// start has a child killed when the generator goes, which would leave the
	// processes of this one behind: it is asked to end them instead. What it
	// says goes to one place.
	script := `exec setpriv --pdeathsig TERM -- "$@" >&2`
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Dir = p.dir
	var err error
	if p.child, err = start(p.label, cmd); err != nil {
		return err
	}
	errReady := p.ready(ctx, probe)
	// Also of one that is not ready, for stop.
	p.processes, err = family(p.pid())
	if errReady != nil {
		return p.because(errReady)
	}
	return err
}

// ready waits until a client that sends the probe is answered with 200 or 101.
func (p *peer) ready(ctx context.Context, probe []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		code, err := askStatus(ctx, p.http, probe)
		switch {
		case err == nil && (code == http.StatusOK || code == http.StatusSwitchingProtocols):
			return nil
		case err == nil:
			last = fmt.Errorf("status %d", code)
		case ctx.Err() == nil:
			last = err
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return errExited
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w, %w", ctx.Err(), last)
		}
	}
}

// stop ends its processes and removes what they wrote.
func (p *peer) stop() {
	p.poster.close()
	if p.child != nil {
		p.end()
		p.child = nil
	}
	// It has ended those that it started, unless it had to be killed.
	for _, pid := range p.processes {
		if parent, err := parentOf(pid); err == nil && parent == 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
	p.processes = nil
	if p.dir != "" {
		_ = os.RemoveAll(p.dir) // the system removes old ones
		p.dir = ""
	}
}

// subscribeTo is the request of a client for Server-Sent Events, or for a
// WebSocket.
func subscribeTo(addr netip.AddrPort, path string, webSocket bool) []byte {
	accept := "Accept: text/event-stream\r\n"
	if webSocket {
		accept = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3BpbGx3YXktbG9hZC0wMA==\r\n"
	}
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, addr, accept)
}

// family is a process with all that it has started and they have.
func family(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, e := range entries {
		one, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // no process
		}
		if parent, err := parentOf(one); err == nil { // it may have ended
			children[parent] = append(children[parent], one)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// parentOf reads field 4 of /proc/<pid>/stat; see parseStat.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/<pid>/stat: %q", stat)
	}
	return strconv.Atoi(fields[1])
}
