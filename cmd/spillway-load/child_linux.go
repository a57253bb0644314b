package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A child is a process of ours: the server, or this program in another role. It
// is a process of its own so that the CPU time of each part is known.
//
// A role reads commands from standard input, a line of JSON each, answers on
// standard output in the same way, and ends when its input does.
type child struct {
	label  string // for errors
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	answer *json.Decoder // of stdout
	stderr *tailBuffer
	exited chan struct{}
	err    error // set before exited is closed
	lost   error // an answer was not waited for: what comes next is no answer to what is asked next
}

// start starts a child. Call it from the main goroutine, which is locked to its
// thread: a child is killed when the thread that started it ends, so that none
// is left behind by a generator that was killed.
func start(label string, cmd *exec.Cmd) (*child, error) {
	c := &child{label: label, cmd: cmd, stderr: new(tailBuffer), exited: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = c.stderr
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", label, err)
	}
	// A pipe of our own: Wait would close one of exec's before we have read it.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", label, err)
	}
	cmd.Stdout = in
	err = cmd.Start()
	in.Close() // the child has it
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("start %s: %w", label, err)
	}
	c.answer = json.NewDecoder(bufio.NewReader(out))
	go func() { // ends with the child; waited for by end
		defer out.Close()
		c.err = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// startRole starts this program in another role.
func startRole(role string, args ...string) (*child, error) { return startRoleEnv(role, nil, args...) }

// startRoleEnv does so with more variables of the environment ("A=b").
func startRoleEnv(role string, env []string, args ...string) (*child, error) {
	return startRoleUnder(nil, role, env, args...)
}

// startRoleUnder does so as the last arguments of another program, if there are
// any before them.
func startRoleUnder(program []string, role string, env []string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	line := slices.Concat(program, []string{self, role}, args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	return start(role, cmd)
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ask sends a command, unless it is nil, and reads the answer.
func (c *child) ask(ctx context.Context, command, answer any) error {
	if c.lost != nil {
		return c.lost
	}
	if command != nil {
		line, err := json.Marshal(command)
		if err != nil {
			return err
		}
		if _, err := c.stdin.Write(append(line, '\n')); err != nil {
			return c.because(err)
		}
	}
	decoded := make(chan error, 1)
	go func() { decoded <- c.answer.Decode(answer) }() // ends with the child at the latest
	select {
	case err := <-decoded:
		if err != nil {
			return c.because(err)
		}
		return nil
	case <-ctx.Done():
		c.lost = fmt.Errorf("%s: %w", c.label, ctx.Err())
		return c.lost
	}
}

// because adds what the child said last.
func (c *child) because(err error) error {
	return fmt.Errorf("%s: %w\n%s", c.label, err, c.stderr)
}

// end ends the child: the end of its input and SIGTERM, which it should obey
// within seconds, then SIGKILL. Ending twice is fine.
func (c *child) end() {
	c.stdin.Close()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.exited:
	case <-time.After(5 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
}

// untilEOF returns a context that ends with ctx or with r, which is how roles
// notice that the generator is gone.
func untilEOF(ctx context.Context, r io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with r; the process ends soon after
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	return ctx, cancel
}

// A tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 8 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String is the last lines.
func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(t.buf), []byte("\n"))
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-20):] {
		fmt.Fprintf(&b, "  | %s\n", line)
	}
	return b.String()
}

// errExited is a child that ended by itself.
var errExited = errors.New("ended before its time")
