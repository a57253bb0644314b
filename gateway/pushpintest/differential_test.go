package pushpintest

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	record = flag.Bool("record", false, "ask a real Pushpin, and write its answers to testdata/grip")
	check  = flag.Bool("check", false, "ask a real Pushpin, and compare with testdata/grip")
	only   = flag.String("only", "", "only scenarios whose names match")
)

// sections are the scenarios, as the reference has its sections.
var sections = [][]scenario{forwarding, fields, documents, holds, publishing, filters, reliability, overhttp, websockets, browsers, routes}

// patience is how long what is waited for may take to come. A scenario that was not
// played as it should be gets a second look with more time, but less than the second
// after which origins are asked again.
const (
	patience       = 8 * time.Second
	secondPatience = 30 * time.Second
	secondSettle   = 8 * settle
)

// raceEnabled is set where the race detector is on.
var raceEnabled bool

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of a scenario is waiting.
	if flag.Lookup("test.parallel").Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", "48")
	}
	os.Exit(m.Run())
}

// chosen are the scenarios of a run.
func chosen(t *testing.T) []*scenario {
	pattern, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	var out []*scenario
	seen := map[string]bool{}
	for _, list := range sections {
		for i := range list {
			s := &list[i]
			if seen[s.name] {
				t.Fatalf("two scenarios are called %s", s.name)
			}
			seen[s.name] = true
			if pattern.MatchString(s.name) {
				out = append(out, s)
			}
		}
	}
	return out
}

func read(t *testing.T, name string) book {
	t.Helper()
	b, err := readBook(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The gateway does what Pushpin does, but for what differences.txt says.
func TestAsPushpin(t *testing.T) {
	if raceEnabled {
		t.Skip("transcripts need the program's own pace; the gateway's tests look for races")
	}
	if *record || *check {
		t.Skip("Pushpin itself is asked")
	}
	scenarios := chosen(t)
	recorded := map[string]book{}
	for _, s := range scenarios {
		if recorded[s.section()] == nil {
			recorded[s.section()] = read(t, s.section()+".txt")
		}
	}
	wanted := read(t, "differences.txt")
	for i, s := range scenarios {
		want, ok := recorded[s.section()][s.name]
		if !ok {
			t.Errorf("%s: no transcript of Pushpin; make grip-record writes it", s.name)
			continue
		}
		reason, isWanted := wanted[s.name]
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			delta := diff(want, play(t, s, i, patience, settle))
			if delta != changes(reason) {
				// A machine that is busy may be slow to show the last of it.
				delta = diff(want, play(t, s, i, secondPatience, secondSettle))
			}
			switch {
			case isWanted && delta == "":
				t.Error("it does what Pushpin does now: take it out of testdata/grip/differences.txt")
			case isWanted && changes(reason) != delta:
				t.Errorf("Pushpin (-) and we (+) differ in another way than differences.txt says:\n== %s\n%s", s.name, delta)
			case isWanted:
				t.Logf("wanted:\n%s", reason)
			case delta != "":
				t.Errorf("Pushpin (-) and we (+) differ:\n== %s\n%s", s.name, delta)
			}
		})
	}
}

// play plays a scenario against the gateway.
func play(t *testing.T, s *scenario, number int, limit, settle time.Duration) string {
	t.Helper()
	w, err := newWorld(t, number)
	if err != nil {
		t.Fatal(err)
	}
	p, err := startSpillway(t, w.routes(s), s.conf, s.tls)
	if err != nil {
		w.origin.close()
		return "the gateway does not start: " + strings.NewReplacer(w.word, "fruit", w.origin.addr(), "$origin").Replace(err.Error()) + "\n"
	}
	return w.run(s, p, limit, settle)
}

// changes are the lines of an entry of differences.txt that begin with - or +;
// the others are the reason.
func changes(entry string) string {
	var out strings.Builder
	for _, l := range lines(entry) {
		if strings.HasPrefix(l, "- ") || strings.HasPrefix(l, "+ ") {
			out.WriteString(l + "\n")
		}
	}
	return out.String()
}

// The list names scenarios that exist, and every difference has a reason.
func TestDifferences(t *testing.T) {
	for _, e := range everywhere {
		t.Logf("%sdoes not count: %s: %s", e.from, e.field, e.reason)
	}
	known := map[string]bool{}
	for _, list := range sections {
		for _, s := range list {
			known[s.name] = true
		}
	}
	for name, text := range read(t, "differences.txt") {
		if !known[name] {
			t.Errorf("differences.txt: there is no scenario %s", name)
		}
		if changes(text) == text {
			t.Errorf("differences.txt: %s has no reason", name)
		}
	}
}

// With -record Pushpin's transcripts are written, with -check they are compared.
func TestPushpin(t *testing.T) {
	if !*record && !*check {
		t.Skip("make grip-record and make grip-check ask a real Pushpin")
	}
	if *check {
		for _, group := range grouped(chosen(t)) {
			compare(t, group)
		}
		return
	}
	now := book{}
	for _, group := range grouped(chosen(t)) {
		maps.Copy(now, agreed(t, group))
	}
	written := map[string]book{}
	for _, list := range sections {
		for _, s := range list {
			file := s.section() + ".txt"
			if written[file] == nil {
				written[file] = book{}
			}
			if text, ok := now[s.name]; ok {
				written[file][s.name] = text
			} else if text, ok := read(t, file)[s.name]; ok {
				written[file][s.name] = text
			}
		}
	}
	for file, b := range written {
		if err := b.write(file, "Transcripts of Pushpin 1.36; make grip-record writes them."); err != nil {
			t.Error(err)
		}
	}
}

// grouped are scenarios that one Pushpin can play: those of one configuration.
func grouped(scenarios []*scenario) [][]*scenario {
	var groups [][]*scenario
	together := map[string][]*scenario{}
	for _, s := range scenarios {
		if s.alone {
			groups = append(groups, []*scenario{s})
			continue
		}
		together[s.conf] = append(together[s.conf], s)
	}
	for _, conf := range slices.Sorted(maps.Keys(together)) {
		groups = append(groups, together[conf])
	}
	return groups
}

// compare plays scenarios until each has had the transcript that was recorded. A
// machine that is busy may be slow to show the last of one.
func compare(t *testing.T, scenarios []*scenario) {
	t.Helper()
	const rounds = 3
	recorded := book{}
	for _, s := range scenarios {
		recorded[s.name] = read(t, s.section()+".txt")[s.name]
	}
	limit, rest := patience, settle
	for round := 1; round <= rounds && len(scenarios) > 0; round++ {
		got := askOnce(t, scenarios, limit, rest)
		scenarios = slices.DeleteFunc(slices.Clone(scenarios), func(s *scenario) bool {
			delta := diff(recorded[s.name], got[s.name])
			switch {
			case delta == "":
				return true
			case round == rounds:
				t.Errorf("%s: recorded (-) and now (+), %d times:\n%s", s.name, rounds, delta)
			default:
				t.Logf("%s: recorded (-) and at first (+):\n%s", s.name, delta)
			}
			return false
		})
		limit, rest = secondPatience, secondSettle
	}
}

// agreed plays scenarios until each has had the same transcript twice: one that
// Pushpin does not play in the same way each time shows nothing.
func agreed(t *testing.T, scenarios []*scenario) book {
	t.Helper()
	before, same := book{}, book{}
	for round := 0; round < 4 && len(scenarios) > 0; round++ {
		got := askOnce(t, scenarios, patience, settle)
		scenarios = slices.DeleteFunc(slices.Clone(scenarios), func(s *scenario) bool {
			text := got[s.name]
			if round > 0 && before[s.name] != text {
				t.Logf("%s: one time (-) and another (+):\n%s", s.name, diff(before[s.name], text))
			}
			again := before[s.name] == text
			before[s.name] = text
			if again && strings.Contains(text, stopped) {
				t.Errorf("%s: Pushpin cannot play it:\n%s", s.name, text)
			} else if again {
				same[s.name] = text
			}
			return again
		})
	}
	for _, s := range scenarios {
		t.Errorf("%s: Pushpin plays it each time in another way", s.name)
	}
	return same
}

// askOnce plays scenarios of one configuration.
func askOnce(t *testing.T, scenarios []*scenario, limit, settle time.Duration) book {
	t.Helper()
	var routes strings.Builder
	var worlds []*world
	for i, s := range scenarios {
		w, err := newWorld(t, i)
		if err != nil {
			t.Fatal(err)
		}
		worlds = append(worlds, w)
		routes.WriteString(w.routes(s) + "\n")
	}
	p, err := startPushpin(t, routes.String(), scenarios[0].conf)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	got := book{}
	var mu sync.Mutex
	var all sync.WaitGroup
	turn := make(chan struct{}, 16)
	for i, s := range scenarios {
		all.Go(func() {
			turn <- struct{}{}
			text := worlds[i].run(s, p, limit, settle)
			<-turn
			mu.Lock()
			defer mu.Unlock()
			got[s.name] = text
		})
	}
	all.Wait()
	return got
}
