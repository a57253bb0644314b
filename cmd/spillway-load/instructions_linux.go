package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// runInstructions counts the instructions of user space for each delivery, the
// figure without noise, by valgrind's callgrind: all that a process executes
// while messages are delivered. The kernel's are not among them.
func runInstructions(ctx context.Context, b *bench) error {
	if path, _ := exec.LookPath("callgrind_control"); path == "" {
		b.note("valgrind is not installed: left out")
		return nil
	}
	const clients = 500
	for _, group := range []int{1, 16} {
		what := fmt.Sprintf("%d clients, %d a write", clients, group)
		for _, c := range []counted{
			{"spillway", what, sse, 1, group, true, func(ctx context.Context, under []string, channels int) (subject, error) {
				return startInprocUnder(ctx, under, channels, "sse", quietGo)
			}},
			{"spillway, WebSocket", what, wsFrames, 1, group, false, func(ctx context.Context, under []string, channels int) (subject, error) {
				return startInprocUnder(ctx, under, channels, "ws", quietGo)
			}},
			{"spillway, a channel each", what, sse, clients, group, true, func(ctx context.Context, under []string, channels int) (subject, error) {
				return startInprocUnder(ctx, under, channels, "sse", quietGo)
			}},
			{"Go floor", what, sse, 1, group, false, func(ctx context.Context, under []string, _ int) (subject, error) {
				return startFloorUnder(ctx, under, quietGo)
			}},
			{"C floor", what, sse, 1, group, false, func(ctx context.Context, under []string, _ int) (subject, error) {
				return startCFloorUnder(ctx, under)
			}},
			{"Go floor, a channel each", what, sse, clients, group, false, func(ctx context.Context, under []string, _ int) (subject, error) {
				return startFloorUnder(ctx, under, quietGo)
			}},
		} {
			err := b.count(ctx, c, clients)
			if errors.Is(err, errNoCompiler) {
				b.note("%v", err)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// quietGo keeps Go from sending itself signals, which callgrind does not bear.
const quietGo = "GODEBUG=asyncpreemptoff=1"

// A counted is what instructions are counted of.
type counted struct {
	name, what      string
	as              mode
	channels, group int
	keep            bool // callgrind's file, where profiles are wanted
	start           func(ctx context.Context, under []string, channels int) (subject, error)
}

// count adds a row of instructions for each delivery.
func (b *bench) count(ctx context.Context, c counted, clients int) (err error) {
	dir, err := os.MkdirTemp("", "spillway-load-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // the system removes old ones
	file := filepath.Join(dir, "callgrind")
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	sub, err := c.start(ctx, []string{"valgrind", "--quiet", "--tool=callgrind", "--callgrind-out-file=" + file}, c.channels)
	if err != nil {
		return err
	}
	s, err := newStand(sub, c.as, clients, c.channels, b.size)
	if err != nil {
		return err
	}
	defer s.end()
	s.label = c.name
	// Slow enough for each group to be a write: everything takes fifty times as
	// long as else.
	const beat, groups = 200 * time.Millisecond, 25
	l := load{rate: float64(c.group) / beat.Seconds(), group: c.group, time: groups * beat}
	if c.channels > 1 {
		l.beat = c.group * c.channels / 10
	}
	short := l
	short.time /= 5
	if _, err := s.step(ctx, short); err != nil { // what is done once is done
		return err
	}
	control := func(option string) error {
		out, err := exec.CommandContext(ctx, "callgrind_control", option, strconv.Itoa(s.pids()[0])).CombinedOutput()
		if err != nil {
			return fmt.Errorf("callgrind_control %s: %w\n%s", option, err, out)
		}
		return nil
	}
	if err := control("--zero"); err != nil {
		return err
	}
	got, err := b.one(ctx, s, l)
	if err != nil {
		return err
	}
	if got.Lost+int(got.Repeated+got.Late+got.Other) > 0 || got.Delivered == 0 { // slowness is no fault here
		return fmt.Errorf("%d lost %s", got.Lost, got.Trouble)
	}
	if err := control("--dump"); err != nil {
		return err
	}
	dump, err := os.ReadFile(file + ".1")
	if err != nil {
		return err
	}
	total, functions, err := readCallgrind(dump)
	if err != nil {
		return err
	}
	each := float64(total) / float64(got.Delivered)
	b.report.Instructions = append(b.report.Instructions, executed{c.name, c.what, each, functions})
	b.single(c.what, "instructions/msg", c.name, []float64{each}, goal{})
	b.report.Rows[len(b.report.Rows)-1].Remark = fmt.Sprintf("%s for a write of %s messages", digits(each*got.perWrite()), digits(got.perWrite()))
	fmt.Fprintf(b.stderr, "instructions: %s, %s: %s for a message\n", c.name, c.what, digits(each))
	if c.keep && b.profiles != "" {
		return os.WriteFile(filepath.Join(b.profiles, fmt.Sprintf("callgrind-%d-%d", c.channels, c.group)), dump, 0o644)
	}
	return nil
}

// An executed is where instructions went.
type executed struct {
	Name       string         `json:"name"`
	What       string         `json:"what"`
	PerMessage float64        `json:"perMessage"`
	Functions  []functionCost `json:"functions"` // those with the most
}

// A functionCost is what a function executed itself.
type functionCost struct {
	Name  string  `json:"name"`
	Share float64 `json:"share"` // of all instructions
}

// readCallgrind reads callgrind's file (Valgrind manual, "Callgrind Format
// Specification"). What functions called is not looked at: callgrind cannot
// follow a program that switches stacks.
func readCallgrind(text []byte) (total int, most []functionCost, err error) {
	names := make(map[string]string) // by number
	costs := make(map[string]int)    // by number
	current, ofCall := "", false     // the next line is the cost of a call
	for line := range bytes.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "=")
		switch {
		case name == "fn", name == "cfn":
			number, known, ok := strings.Cut(value, " ")
			if ok {
				names[number] = known
			}
			if name == "fn" {
				current = number
			}
		case name == "calls":
			ofCall = true
		case ofCall:
			ofCall = false
		default: // a place and a cost, "+3 12", or something else
			place, cost, ok := strings.Cut(name, " ")
			if !ok || strings.Trim(place, "+-*0123456789") != "" {
				continue
			}
			n, err := strconv.Atoi(cost)
			if err != nil {
				continue
			}
			costs[current] += n
			total += n
		}
	}
	if total == 0 {
		return 0, nil, errors.New("callgrind's file has no costs")
	}
	byName := make(map[string]int)
	for number, n := range costs {
		name, _, _ := strings.Cut(names[number], "'") // 'f'2' is f called by itself
		byName[name] += n
	}
	for name, n := range byName {
		most = append(most, functionCost{name, float64(n) / float64(total)})
	}
	slices.SortFunc(most, func(a, b functionCost) int { return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Name, b.Name)) })
	return total, most[:min(len(most), functionsShown)], nil
}

// functionsShown is how many functions of each row are reported.
const functionsShown = 15
