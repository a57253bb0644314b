package kafkatest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The real broker is a child of this process and of nothing that outlives it:
// kafka.sh ends it when its stdin ends, and the system closes that pipe
// however this process goes, by a panic, a timeout of go test or SIGKILL.

var shared struct {
	sync.Mutex
	broker *real // guarded by the mutex; nil until the first test needs it
	err    error // guarded by the mutex; why there is none
}

// Real returns the real broker of this process, which the first call starts.
// Where there cannot be one, the test is skipped aloud (see Skip).
func Real(tb testing.TB) *Cluster {
	tb.Helper()
	if !Full() {
		tb.Skip("a real broker runs with SPILLWAY_E2E=full")
	}
	shared.Lock()
	if shared.broker == nil && shared.err == nil {
		shared.broker, shared.err = newReal(tb)
	}
	broker, err := shared.broker, shared.err
	shared.Unlock()
	if isUnavailable(err) {
		Skip(tb, err.Error())
	}
	if err != nil {
		tb.Fatalf("kafka: %v", err)
	}
	c := &Cluster{tb: tb, backend: broker}
	c.Start() // an earlier test may have left it stopped
	tb.Cleanup(c.closeProducer)
	return c
}

// Main runs the tests of a package and then ends the real broker, if there is
// one, and removes its files.
func Main(m *testing.M) int {
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.broker == nil {
			return
		}
		if err := shared.broker.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "kafkatest: stop Kafka:", err)
		}
		_ = os.RemoveAll(shared.broker.dir)
	}()
	return m.Run()
}

// Skip skips a test for want of something on this machine, which why names,
// together with the remedy. So that nobody takes it for a pass, it leaves a
// line in the file named by SPILLWAY_SKIPS, and with CI=true it is a failure.
func Skip(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatalf("CI must not skip: %s", why)
	}
	if file := os.Getenv("SPILLWAY_SKIPS"); file != "" {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			tb.Fatalf("SPILLWAY_SKIPS: %v", err)
		}
		// One write, so that lines of other processes stay whole.
		_, err = fmt.Fprintf(f, "%s: %s\n", tb.Name(), strings.ReplaceAll(why, "\n", "; "))
		if err = errors.Join(err, f.Close()); err != nil {
			tb.Fatalf("SPILLWAY_SKIPS: %v", err)
		}
	}
	tb.Skip(why)
}

// real is Kafka started through testdata/kafka/kafka.sh.
type real struct {
	port, controllerPort int
	dir                  string

	mu    sync.Mutex
	cmd   *exec.Cmd      // guarded by mu; nil while stopped
	stdin io.WriteCloser // guarded by mu; closing it ends the broker
}

func newReal(tb testing.TB) (*real, error) {
	dir, err := os.MkdirTemp("", "spillway-kafka-")
	if err != nil {
		return nil, err
	}
	r := &real{port: FreePort(tb), controllerPort: FreePort(tb), dir: dir}
	if err := r.start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return r, nil
}

func (r *real) name() string      { return "kafka" }
func (r *real) brokers() []string { return []string{"127.0.0.1:" + strconv.Itoa(r.port)} }

func (r *real) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		return nil
	}
	cmd := kafkaSh("start", "--until-eof", "--dir", r.dir,
		"--port", strconv.Itoa(r.port), "--controller-port", strconv.Itoa(r.controllerPort))
	var errs strings.Builder
	cmd.Stderr = &errs
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	// The first run on a machine may have to install and to fetch.
	timer := time.AfterFunc(10*time.Minute, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	timer.Stop()
	if err != nil || !strings.HasPrefix(line, "ready ") {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("start: %w: %s", err, strings.TrimSpace(errs.String()))
		}
		return fmt.Errorf("start: kafka.sh said %q: %s", line, strings.TrimSpace(errs.String()))
	}
	r.cmd, r.stdin = cmd, stdin
	return nil
}

func (r *real) stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return nil
	}
	_ = r.stdin.Close()
	timer := time.AfterFunc(patience, r.kill)
	// Its exit status is that of a signal, which says nothing; what counts
	// is that it is gone.
	_ = r.cmd.Wait()
	r.cmd = nil
	if !timer.Stop() {
		return fmt.Errorf("the broker did not end in %v and was killed; see %s", patience, filepath.Join(r.dir, "server.log"))
	}
	return nil
}

// kill ends a broker that does not end; kafka.sh ends after it.
func (r *real) kill() {
	pid, err := os.ReadFile(filepath.Join(r.dir, "pid"))
	if err != nil {
		return
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		return
	}
	if p, err := os.FindProcess(n); err == nil {
		_ = p.Kill()
	}
}

// kafkaSh is a command that runs testdata/kafka/kafka.sh of this module.
func kafkaSh(args ...string) *exec.Cmd {
	return exec.Command("bash", append([]string{filepath.Join(moduleRoot(), "testdata", "kafka", "kafka.sh")}, args...)...)
}

// moduleRoot is the folder of go.mod; go test runs a test in its package's.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}

// isUnavailable reports whether kafka.sh said that there can be no Kafka here.
func isUnavailable(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == 3
}
