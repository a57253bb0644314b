// Spillway puts Kafka topics live into the browser: Kafka consumer, GRIP
// origin and GRIP gateway in one program.
//
// There is one file per subcommand; serve.go is the one that matters. What all
// of them share is here (arguments, exit codes, signals), in env.go (the
// environment), config.go, log.go, ops.go and lifecycle.go.
//
//go:generate go run ./internal/configdoc
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	// CA roots for an image that holds nothing but the program.
	_ "golang.org/x/crypto/x509roots/fallback"

	"spillway/grip/secret"
)

// Exit codes.
const (
	exitOK    = 0 // done, or stopped by a signal
	exitFail  = 1 // something went wrong while running, or a second signal
	exitUsage = 2 // wrong arguments or configuration: nothing was started
)

func main() {
	p := &process{
		env:      environ(os.Environ()),
		setenv:   os.Setenv,
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: isTerminal(os.Stderr),
	}
	if os.Getenv("GOGC") == "" {
		collectRarely(heapFloor)
	}
	os.Exit(p.exitCode(run(signalContext(), os.Args[1:], p)))
}

// signalContext ends with the first SIGINT or SIGTERM; the second ends the
// process at once.
func signalContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // lives as long as the process
		<-signals
		cancel()
		<-signals
		os.Exit(exitFail)
	}()
	return ctx
}

// A process is what a command has of the world outside. Tests make their own,
// so that several programs can run in one.
type process struct {
	// env holds the environment variables. load adds those of the .env file.
	env map[string]string

	// setenv is told every variable that the .env file adds, for libraries
	// that read the environment by themselves (SSL_CERT_FILE, AWS_REGION).
	// Nil does nothing.
	setenv func(name, value string) error

	// secrets are those that were read from files; nil before the first.
	secrets *secret.Source

	// dir is where .env and relative file names are looked for; empty is the
	// working directory.
	dir string

	stdin          io.Reader
	stdout, stderr io.Writer // results; logs and messages
	terminal       bool      // a person looks at stderr
}

// A command is one subcommand.
type command struct {
	name    string
	summary string // one line in spillway help

	// help is all that --help prints: an example that works when pasted, the
	// usage, every option; 24 lines of 80 columns at most.
	help string

	// flags adds the command's options. Nil for none.
	flags func(*flag.FlagSet)

	// run gets the arguments that are not options. It returns when it is done
	// or ctx ends; that ctx ended is not an error.
	run func(ctx context.Context, p *process, args []string) error
}

// commands are all subcommands in the order in which help lists them. Each
// call makes new ones: their options are theirs alone.
func commands() []command {
	return []command{
		serveCommand(),
		demoCommand(),
		gatewayCommand(),
		relayCommand(),
		checkCommand(),
		tailCommand(),
		publishCommand(),
		cursorCommand(),
		versionCommand(),
		helpCommand(),
	}
}

// run runs one command line, without the program's name.
func run(ctx context.Context, args []string, p *process) error {
	if len(args) == 0 {
		return usageError{errors.New("which command? See spillway help")}
	}
	name, args := args[0], args[1:]
	switch name {
	case "-h", "-help", "--help":
		name = "help"
	case "-v", "-version", "--version":
		name = "version"
	}
	cmd, err := findCommand(name)
	if err != nil {
		return err
	}
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // our own words below
	fs.Usage = func() {}
	if cmd.flags != nil {
		cmd.flags(fs)
	}
	args, err = parseFlags(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(p.stdout, cmd.help)
		return err
	case err != nil:
		// Package flag has one sentence for two cases that people tell apart.
		text := strings.Replace(err.Error(), "flag provided but not defined:", "unknown option", 1)
		return wrongUsage("%s: %s; see spillway %s --help", name, text, name)
	}
	if err := cmd.run(ctx, p, args); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func findCommand(name string) (command, error) {
	var names []string
	for _, c := range commands() {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	hint := "See spillway help"
	if near, ok := nearest(name, names, 2); ok {
		hint = fmt.Sprintf("Did you mean %s?", near)
	}
	return command{}, usageError{fmt.Errorf("unknown command %q. %s", name, hint)}
}

// parseFlags parses options wherever they stand, as people write them, and
// returns the other arguments. What follows -- is no option.
func parseFlags(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		ended := len(left) < len(args) && args[len(args)-len(left)-1] == "--"
		if len(left) == 0 || ended {
			return append(rest, left...), nil
		}
		rest = append(rest, left[0])
		args = left[1:]
	}
}

// A usageError is a mistake in the arguments or the configuration, found
// before anything was started. It makes the exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// wrongUsage returns a usageError with these words.
func wrongUsage(format string, a ...any) error {
	return usageError{fmt.Errorf(format, a...)}
}

// exitCode tells the person about err, and returns the code to exit with.
func (p *process) exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(p.stderr, "spillway: %s\n", strings.TrimSuffix(err.Error(), "\n"))
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFail
}

// A flagList is an option that may be given several times.
type flagList []string

func (l *flagList) String() string     { return strings.Join(*l, ", ") }
func (l *flagList) Set(s string) error { *l = append(*l, s); return nil }
