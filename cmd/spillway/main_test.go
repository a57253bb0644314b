package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// patience is how long a test waits for something that must happen.
const patience = 60 * time.Second

// A testProcess is a process without a world: no environment, an empty
// directory, and outputs that can be read while it runs.
type testProcess struct {
	*process
	stdout, stderr *output
}

func newProcess(t *testing.T, env ...string) *testProcess {
	t.Helper()
	tp := &testProcess{stdout: newOutput(), stderr: newOutput()}
	tp.process = &process{
		env:    environ(env),
		dir:    t.TempDir(),
		stdin:  strings.NewReader(""),
		stdout: tp.stdout,
		stderr: tp.stderr,
	}
	return tp
}

// run runs a command line to its end and returns the exit code.
func (tp *testProcess) run(ctx context.Context, args ...string) int {
	return tp.exitCode(run(ctx, args, tp.process))
}

// start runs a command line in the background. The returned function waits
// for its exit code.
func (tp *testProcess) start(ctx context.Context, t *testing.T, args ...string) (wait func() int) {
	t.Helper()
	code := make(chan int, 1)
	go func() { code <- tp.run(ctx, args...) }()
	return func() int {
		t.Helper()
		select {
		case c := <-code:
			return c
		case <-time.After(patience):
			t.Fatalf("still running after %v; stdout %q, stderr %q", patience, tp.stdout, tp.stderr)
			return -1
		}
	}
}

// An output collects what is written, for readers on other goroutines.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer  // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced by each write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// waitFor waits until text has been written.
func (o *output) waitFor(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		o.mu.Lock()
		got, changed := o.buf.String(), o.changed
		o.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("got %q, want %q in it within %v", got, text, patience)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stderr string
	}{
		{"no command", nil, exitUsage, "spillway: which command? See spillway help\n"},
		{"unknown command", []string{"frobnicate"}, exitUsage, "spillway: unknown command \"frobnicate\". See spillway help\n"},
		{"nearly a command", []string{"tial"}, exitUsage, "spillway: unknown command \"tial\". Did you mean tail?\n"},
		{"unknown option", []string{"tail", "-x", "http://h/"}, exitUsage,
			"spillway: tail: unknown option -x; see spillway tail --help\n"},
		{"option without value", []string{"tail", "-n"}, exitUsage, "spillway: tail: flag needs an argument: -n; see spillway tail --help\n"},
		{"too many arguments", []string{"version", "now"}, exitUsage, "spillway: version: takes no argument, but got \"now\"\n"},
		{"help on nothing known", []string{"help", "curser"}, exitUsage, "spillway: help: unknown command \"curser\". Did you mean cursor?\n"},
		{"help on two", []string{"help", "tail", "publish"}, exitUsage, "spillway: help: takes one argument, but got 2\n"},
		{"failure while running", []string{"tail", "http://127.0.0.1:1/events/x/?access_token=s3cret"}, exitFail,
			"spillway: tail: http://127.0.0.1:1/events/x/: dial tcp 127.0.0.1:1: connect: connection refused\n"},
		{"fine", []string{"help"}, exitOK, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), tt.args...); code != tt.code {
				t.Errorf("exit code: got %d, want %d", code, tt.code)
			}
			if got := p.stderr.String(); got != tt.stderr {
				t.Errorf("stderr:\ngot  %q\nwant %q", got, tt.stderr)
			}
		})
	}
}

func TestParseFlags(t *testing.T) {
	for _, tt := range []struct {
		name, args string
		n          int
		rest       string
		err        bool
	}{
		{"before the argument", "-n 3 url", 3, "url", false},
		{"after the argument", "url -n 3", 3, "url", false},
		{"two dashes are as good as one", "--n=3 url", 3, "url", false},
		{"between arguments", "a -n 3 b", 3, "a b", false},
		{"after -- nothing is an option", "a -- -n 3", 0, "a -n 3", false},
		{"-- first", "-- -n", 0, "-n", false},
		{"-- before an argument", "-- a -n 3", 0, "a -n 3", false},
		{"a single dash is an argument", "- -n 3", 3, "-", false},
		{"unknown after the argument", "a -x", 0, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fs := flag.NewFlagSet("", flag.ContinueOnError)
			fs.SetOutput(io.Discard)
			n := fs.Int("n", 0, "")
			rest, err := parseFlags(fs, strings.Fields(tt.args))
			if (err != nil) != tt.err {
				t.Fatalf("got error %v, want one: %v", err, tt.err)
			}
			if got := strings.Join(rest, " "); got != tt.rest || *n != tt.n && !tt.err {
				t.Errorf("got n=%d and %q, want n=%d and %q", *n, got, tt.n, tt.rest)
			}
		})
	}
}

// The help texts are what people see first: as in testdata, on one screen,
// with an example in front and a line for every option.
func TestHelp(t *testing.T) {
	texts := map[string][]string{"help": {"help"}}
	for _, c := range commands() {
		texts["help-"+c.name] = []string{c.name, "--help"}
	}
	for name, args := range texts {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), args...); code != exitOK {
				t.Fatalf("exit code %d: %s", code, p.stderr)
			}
			got := p.stdout.String()
			golden(t, name+".txt", got)
			lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
			if len(lines) > 24 {
				t.Errorf("%d lines, want at most 24", len(lines))
			}
			for _, line := range lines {
				if len([]rune(line)) > 80 {
					t.Errorf("%d columns, want at most 80: %s", len([]rune(line)), line)
				}
			}
			if !strings.HasPrefix(got, "  spillway ") {
				t.Errorf("begins with %q, want an example", lines[0])
			}
			if !strings.Contains(got, "\nUsage: spillway ") {
				t.Error("no usage line")
			}
		})
	}
}

func TestHelpNamesEveryOption(t *testing.T) {
	for _, c := range commands() {
		if c.flags == nil {
			continue
		}
		fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
		c.flags(fs)
		fs.VisitAll(func(f *flag.Flag) {
			if !regexp.MustCompile(`(?m)^  (-[^ ]+, )?-` + f.Name + `[ ,]`).MatchString(c.help) {
				t.Errorf("%s --help does not name -%s", c.name, f.Name)
			}
		})
	}
}

func TestHelpOfCommandIsItsHelpOption(t *testing.T) {
	for _, c := range commands() {
		one, other := newProcess(t), newProcess(t)
		one.run(t.Context(), c.name, "-h")
		other.run(t.Context(), "help", c.name)
		if got, want := other.stdout.String(), one.stdout.String(); got != want || got == "" {
			t.Errorf("help %s: got %q, want %q", c.name, got, want)
		}
	}
}

func TestHelpConfig(t *testing.T) {
	p := newProcess(t)
	if code := p.run(t.Context(), "help", "config"); code != exitOK {
		t.Fatalf("exit code %d: %s", code, p.stderr)
	}
	text := p.stdout.String()
	for _, s := range configTable {
		if !strings.Contains(text, "\n  "+s.name) {
			t.Errorf("%s is missing", s.name)
		}
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimSpace(line))); n > 80 && strings.Contains(strings.TrimSpace(line), " ") {
			t.Errorf("%d columns, want at most 80: %s", n, line)
		}
	}
	for _, want := range []string{"\n  LOG_LEVEL  default: info\n      The least that is logged", "\n  KAFKA_CONSUMER_CONFIG\n", "\n  LINK_KEY (_FILE)\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwant in it %q", text, want)
		}
	}
}

func TestVersion(t *testing.T) {
	p := newProcess(t)
	if code := p.run(t.Context(), "--version"); code != exitOK {
		t.Fatalf("exit code %d: %s", code, p.stderr)
	}
	if got := p.stdout.String(); !strings.HasPrefix(got, "spillway devel, commit ") || !strings.Contains(got, ", go1.") {
		t.Errorf("got %q", got)
	}
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (rewrite with -update):\ngot\n%s\nwant\n%s", path, got, want)
	}
}
