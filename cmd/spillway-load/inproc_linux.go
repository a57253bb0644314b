package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"

	"github.com/kelseyhightower/envconfig"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway"
	"spillway/gateway/fanout"
	"spillway/grip"
)

// The role inproc is the real gateway in front of an origin in the same process
// that holds streams of its channels, and appends to them what is due: all of
// the server but Kafka. Settings of the gateway are taken from the environment.
//
// Its first answer is its address; then each command is answered.

// An inprocCommand is one of its fields.
type inprocCommand struct {
	Plan *plan `json:"plan,omitempty"` // answered when all has been appended

	// Profile is a file for the CPU profile of the time until the next command
	// with an empty name.
	Profile *string `json:"profile,omitempty"`

	Series string `json:"series,omitempty"` // a counter, as /metrics writes it
}

type inprocAnswer struct {
	Addr string `json:"addr,omitempty"`
	Err  string `json:"err,omitempty"`

	Value float64 `json:"value,omitempty"` // of Series
	Found bool    `json:"found,omitempty"`
}

// An appender is the origin and publisher of the role inproc.
type appender struct {
	channels []grip.Channel
	form     string // what items hold: sse, ws
}

// runInproc is the role. Options: how many channels, and what form items have.
func runInproc(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) != 2 {
		return errors.New("inproc: wants the number of channels and sse or ws")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return fmt.Errorf("inproc: %q channels", args[0])
	}
	var cfg gateway.Config
	if err := envconfig.Process("", &cfg); err != nil {
		return err
	}
	cfg.HTTPAddr, cfg.ControlAddr = "127.0.0.1:0", ""
	if err := cfg.Validate(); err != nil {
		return err
	}
	// As the program does (GOMEMLIMIT wins there as well).
	if limit, _ := cfg.Memory(); os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(limit - limit/10))
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	reg := prometheus.NewRegistry()
	engine := fanout.New(cfg.Fanout(), log, reg)
	a := &appender{form: args[1]}
	for i := range n {
		a.channels = append(a.channels, engine.Open(channelName(i), numbers{}))
	}
	gw, err := gateway.New(cfg, engine, a, log, reg)
	if err != nil {
		return err
	}
	if err := gw.Listen(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- gw.Run(ctx) }() // ends with ctx, waited for below
	err = a.obey(ctx, reg, gw.Addr().String(), stdin, stdout)
	cancel()
	return errors.Join(err, <-served)
}

// obey carries out commands until there are no more.
func (a *appender) obey(ctx context.Context, reg prometheus.Gatherer, addr string, stdin io.Reader, stdout io.Writer) error {
	answers := json.NewEncoder(stdout)
	if err := answers.Encode(inprocAnswer{Addr: addr}); err != nil {
		return err
	}
	commands := json.NewDecoder(stdin)
	var profile *os.File
	for {
		var c inprocCommand
		if err := commands.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		var answer inprocAnswer
		var err error
		switch {
		case c.Plan != nil:
			err = c.Plan.pace(ctx, func(from, to int) error {
				return c.Plan.groups(from, to, func(channel, from, to int) error {
					a.append(c.Plan, channel, from, to)
					return nil
				})
			})
		case c.Profile != nil && *c.Profile != "":
			if profile, err = os.Create(*c.Profile); err == nil {
				err = pprof.StartCPUProfile(profile)
			}
		case c.Profile != nil:
			pprof.StopCPUProfile()
			err = profile.Close()
		case c.Series != "":
			answer.Value, answer.Found, err = gathered(reg, c.Series)
		}
		if err != nil {
			answer.Err = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
}

// append appends messages from … to-1 of a plan to a channel, in one call.
func (a *appender) append(p *plan, channel, from, to int) {
	room := p.Size
	if p.JSON {
		room = jsonBytes
	}
	a.channels[channel].Write(func(out grip.Batch) {
		for i := from; i < to; i++ {
			if a.form == "ws" {
				out.Add(grip.Entry{Message: p.message(out.Message(room), i)})
				continue
			}
			event := append(out.Stream(room+len(eventFront)+len(eventEnd)), eventFront...)
			event = p.message(event, i)
			out.Add(grip.Entry{Stream: append(event, eventEnd...)})
		}
	})
}

// ServeHTTP holds a stream of the channel that the path names.
func (a *appender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/events/")
	name, behind, _ := strings.Cut(rest, "/")
	number := channelOf(r.URL.Path)
	if !ok || behind != "" || number >= len(a.channels) {
		http.NotFound(w, r)
		return
	}
	_, last := a.channels[number].Retained()
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Grip-Hold", string(grip.HoldStream))
	h.Set("Grip-Channel", name+"; prev-id="+strconv.FormatUint(last, 10))
	if r.Header.Get("Accept") == grip.ContentTypeEvents {
		h.Set("Content-Type", grip.ContentTypeEvents)
		h.Set("Sec-WebSocket-Extensions", `grip; message-prefix=""`)
		_, _ = w.Write(grip.AppendEvent(nil, grip.Event{Type: grip.EventOpen})) // the gateway's own memory
		return
	}
	h.Set("Content-Type", "text/event-stream")
}

// Refuse is part of gateway.Origin.
func (a *appender) Refuse(w http.ResponseWriter, _ *http.Request, _, message string) {
	http.Error(w, message, http.StatusServiceUnavailable)
}

// numbers are the ids of the channels: those that the gateway gives out.
type numbers struct{}

func (numbers) ID(seq uint64) (string, bool) { return strconv.FormatUint(seq, 10), true }

func (numbers) Seq(id string) (uint64, bool) {
	seq, err := strconv.ParseUint(id, 10, 64)
	return seq, err == nil
}

// gathered is the value of a counter or gauge without labels.
func gathered(reg prometheus.Gatherer, series string) (value float64, found bool, err error) {
	families, err := reg.Gather()
	if err != nil {
		return 0, false, err
	}
	for _, f := range families {
		if f.GetName() != series {
			continue
		}
		for _, m := range f.GetMetric() {
			value += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return value, true, nil
	}
	return 0, false, nil
}

// An inproc is the role as a subject.
type inproc struct {
	*child
	http netip.AddrPort
	form string
}

// startInproc starts the role, with more variables of the environment ("A=b").
func startInproc(ctx context.Context, channels int, form string, env ...string) (*inproc, error) {
	return startInprocUnder(ctx, nil, channels, form, env...)
}

// startInprocUnder starts it as the last arguments of another program.
func startInprocUnder(ctx context.Context, program []string, channels int, form string, env ...string) (*inproc, error) {
	c, err := startRoleUnder(program, "inproc", env, strconv.Itoa(channels), form)
	if err != nil {
		return nil, err
	}
	p := &inproc{child: c, form: form}
	if _, err := p.tell(ctx, nil); err != nil {
		c.end()
		return nil, err
	}
	return p, nil
}

// tell gives a command. The first answer, without one, is the address.
func (p *inproc) tell(ctx context.Context, c *inprocCommand) (inprocAnswer, error) {
	var a inprocAnswer
	var command any
	if c != nil {
		command = c
	}
	err := p.ask(ctx, command, &a)
	if err == nil && a.Err != "" {
		err = p.because(errors.New(a.Err))
	}
	if err == nil && a.Addr != "" {
		err = p.http.UnmarshalText([]byte(a.Addr))
	}
	return a, err
}

func (p *inproc) name() string         { return "spillway" }
func (p *inproc) addr() netip.AddrPort { return p.http }
func (p *inproc) pids() []int          { return []int{p.pid()} }

func (p *inproc) request(as mode, channel, _ int) []byte {
	return requestFor(as, p.http, "/events/"+channelName(channel)+"/")
}

func (p *inproc) left(context.Context) error { return nil } // it sees for itself

func (p *inproc) send(ctx context.Context, pl plan) (*histogram, error) {
	_, err := p.tell(ctx, &inprocCommand{Plan: &pl})
	return nil, err
}

// writes counts the system calls that wrote to clients.
func (p *inproc) writes(ctx context.Context) (uint64, error) {
	a, err := p.tell(ctx, &inprocCommand{Series: writesSeries})
	if err != nil || a.Found {
		return uint64(a.Value), err
	}
	u, err := readUsage(p.pid())
	return u.writes, err
}

// profile writes a CPU profile of the time until stop is called.
func (p *inproc) profile(ctx context.Context, file string) (stop func() error, err error) {
	if _, err := p.tell(ctx, &inprocCommand{Profile: &file}); err != nil {
		return nil, err
	}
	return func() error {
		_, err := p.tell(ctx, &inprocCommand{Profile: new(string)})
		return err
	}, nil
}
