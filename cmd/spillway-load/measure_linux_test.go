package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain plays the roles that the generator starts its own binary for, which
// in a test is the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "broker", "floor", "consume":
			if err := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// All of it once, on the built binary, too small to measure anything.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary and takes seconds")
	}
	runtime.LockOSThread() // see start
	dir := t.TempDir()
	binary := filepath.Join(dir, "spillway")
	if out, err := exec.Command("go", "build", "-o", binary, "../spillway").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	o, err := parseOptions([]string{"-server", binary, "-clients", "20", "-records", "2000", "-light", "50", "-pairs", "1",
		"-step", "200ms", "-for", "1s", "-out", filepath.Join(dir, "load.json"), "-profiles", dir})
	if err != nil {
		t.Fatal(err)
	}
	o.profileFor = time.Second
	var table, progress strings.Builder
	if err := measure(ctx, o, &table, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	text, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r.Idle == nil || r.Idle.Live.Records != 2000 || r.Idle.Backlog.Records != 2000 || r.Idle.Consumer.Records < 2000 {
		t.Errorf("idle-view: got %+v, want 2000 records in three ways", r.Idle)
	}
	if r.Fanout == nil || len(r.Fanout.Light) != 1 || len(r.Fanout.Steps) == 0 {
		t.Fatalf("fanout: got %+v, want a pair and a search", r.Fanout)
	}
	for _, s := range []step{r.Fanout.Light[0].Spillway, r.Fanout.Light[0].Floor} {
		if s.Delivered != 10*20 || s.Lost != 0 || s.P99 <= 0 || s.Writes < 20 {
			t.Errorf("light: got %+v, want 10 messages at 20 clients", s)
		}
	}
	for _, p := range r.profiles() {
		if info, err := os.Stat(p.File); err != nil || info.Size() == 0 {
			t.Errorf("profile %s: %v, %v", p.Name, info, err)
		}
	}
	// A second is enough only where the machine is slow.
	if said := strings.Contains(table.String(), "longer -for"); said != r.Fanout.TimeUp {
		t.Errorf("time was up: %v, but the table says so: %v", r.Fanout.TimeUp, said)
	}
	for _, want := range []string{"bare consumer", "light, spillway", "light, floor"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in the table:\n%s", want, table.String())
		}
	}
}
