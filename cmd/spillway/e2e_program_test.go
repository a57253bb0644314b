package main_test

// The built binary as a process: started, asked whether it is ready, signalled,
// and looked at when it has ended.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// patience bounds every single thing that a test waits for. It is long because
// a loaded machine is slow, and never reached when all is well.
const patience = 60 * time.Second

// TestMain also ends the real broker, where a test has started it.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "spillway-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programDir = dir
	// In the background of a shell SIGINT is ignored, and what is started here would
	// inherit that: a program that does not ask for it would not end with Ctrl-C.
	if signal.Ignored(os.Interrupt) {
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
	code := kafkatest.Main(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var programDir string // set by TestMain

// program builds the binary, once per run; with RACE=1 it has the race
// detector in it, which makes it exit with 66.
var program = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(programDir, "spillway")
	args := []string{"build", "-o", bin}
	if os.Getenv("RACE") == "1" {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return bin, nil
})

// spillway makes a command of the built binary, in an empty directory and with
// no environment but the given one, so that nothing of this machine gets in.
func spillway(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}, env...)
	return cmd
}

// A server is one running "spillway serve", or another command that serves.
type server struct {
	t       *testing.T
	command string
	url     string // of HTTP_ADDR, without a final slash
	ops     string // of OPS_ADDR
	env     []string
	dir     string // its working directory

	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{} // closed when cmd has ended; then err says how
	err  error
}

// newServer has its addresses but does not run. Later settings win over
// earlier ones and over those made here.
func newServer(t *testing.T, env ...string) *server {
	t.Helper()
	addr := func() string { return fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t)) }
	http, ops := addr(), addr()
	return &server{
		t: t, command: "serve", url: "http://" + http, ops: "http://" + ops, dir: t.TempDir(),
		env: append([]string{
			"HTTP_ADDR=" + http, "OPS_ADDR=" + ops, "CONTROL_ADDR=" + addr(),
			"DRAIN_TIMEOUT=5s",
		}, env...),
		log: &logBuffer{},
	}
}

// serve starts "spillway serve" on a cluster and waits until it is ready.
func serve(t *testing.T, k *kafkatest.Cluster, env ...string) *server {
	t.Helper()
	s := newServer(t, append([]string{consumerConfig(k)}, env...)...)
	s.start()
	return s
}

// consumerConfig is the variable of that name. Metadata are refreshed often,
// so that what is new is noticed within a test's patience.
func consumerConfig(k *kafkatest.Cluster, more ...string) string {
	props := append([]string{
		fmt.Sprintf(`"bootstrap.servers":%q`, k.Bootstrap()),
		`"topic.metadata.refresh.interval.ms":500`,
	}, more...)
	return "KAFKA_CONSUMER_CONFIG={" + strings.Join(props, ",") + "}"
}

// start starts the server and waits until /readyz says so. At the end of the
// test it must stop in good order.
func (s *server) start() {
	s.t.Helper()
	cmd := spillway(s.t, s.env, s.command)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if s.cmd == nil {
		s.t.Cleanup(s.checkEnd)
	}
	s.cmd, s.done = cmd, make(chan struct{})
	go func(done chan struct{}) { // ends with the process, which checkEnd waits for
		s.err = cmd.Wait()
		close(done)
	}(s.done)

	eventually(s.t, "server is ready", func() (bool, string) {
		select {
		case <-s.done:
			s.t.Fatalf("spillway %s ended before it was ready: %v\n%s", s.command, s.err, s.log)
		default:
		}
		status, body := s.readyz()
		return status == http.StatusOK, body
	})
}

// readyz is the answer of /readyz; status 0 means none.
func (s *server) readyz() (status int, body string) {
	resp, err := http.Get(s.ops + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// metric is the value of a series of /metrics.
func (s *server) metric(series string) float64 {
	s.t.Helper()
	_, text := fetch(s.t, s.ops+"/metrics")
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	s.t.Fatalf("/metrics has no %s", series)
	return 0
}

// wantReady waits until /readyz answers with status.
func (s *server) wantReady(status int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("/readyz says %d", status), func() (bool, string) {
		got, body := s.readyz()
		return got == status, fmt.Sprintf("%d %s", got, body)
	})
}

func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal %v: %v", sig, err)
	}
}

// wait waits until the process has ended and returns its exit code, -1 for one
// that a signal has killed.
func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatalf("spillway does not end within %v", patience)
	}
	return exitCode(s.t, s.err)
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatalf("wait: %v", err)
	return -1
}

// stop stops the server as an orchestrator would; it must exit 0.
func (s *server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		s.t.Errorf("exit code after SIGTERM: got %d, want 0", code)
	}
}

// kill is a crash.
func (s *server) kill() {
	s.t.Helper()
	s.signal(os.Kill)
	s.wait()
}

// checkEnd stops the server if it still runs, and shows its log when the test
// has failed.
func (s *server) checkEnd() {
	select {
	case <-s.done:
	default:
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.done:
			if s.err != nil {
				s.t.Errorf("end after SIGTERM: got %v, want exit code 0", s.err)
			}
		case <-time.After(patience):
			_ = s.cmd.Process.Kill()
			<-s.done
			s.t.Errorf("spillway does not end within %v of SIGTERM", patience)
		}
	}
	if log := s.log.String(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		s.t.Error("the program raced or panicked")
	}
	if s.t.Failed() {
		s.t.Logf("log of %s:\n%s", s.url, s.log)
	}
}

// A logBuffer keeps what a process writes; safe for concurrent use.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// eventually waits until f is true; what f last said goes into the failure.
func eventually(t *testing.T, what string, f func() (ok bool, got string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, got := f()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s; last got %s", patience, what, got)
		}
		time.Sleep(20 * time.Millisecond) // between two looks, not instead of one
	}
}

// lines runs a command and hands out the lines of its stdout as they come; the
// command ends with the test.
func lines(t *testing.T, name string, args ...string) *lineReader {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		kafkatest.Skip(t, fmt.Sprintf("%s is not installed (Debian: apt-get install %s)", name, name))
	}
	cmd := exec.Command(name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &lineReader{t: t, what: name, lines: make(chan string, 1000), cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the command's stdout
		defer close(l.done)
		l.read(out)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-l.done
		_ = cmd.Wait()
	})
	return l
}
