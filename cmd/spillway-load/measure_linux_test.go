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
		case "broker", "floor", "consume", "lag", "fleet", "inproc", "origin", "callers":
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
	var table, progress strings.Builder
	all := func(args ...string) (r report) {
		t.Helper()
		o, err := parseOptions(append([]string{"-server", binary, "-clients", "20", "-records", "2000", "-pairs", "1", "-step", "100ms",
			"-writes", "4000", "-out", filepath.Join(dir, "load.json")}, args...))
		if err != nil {
			t.Fatal(err)
		}
		o.profileFor = 200 * time.Millisecond
		if err := measure(ctx, o, &table, &progress); err != nil {
			t.Fatalf("%v\n%s", err, progress.String())
		}
		text, err := os.ReadFile(o.out)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	idle := all("-profiles", dir, "idle-view") // a profile takes go a second to print
	r := all("per-write", "websocket", "compression", "added")
	if idle.Idle == nil || idle.Idle.Live.Records != 2000 || idle.Idle.Backlog.Records != 2000 || idle.Idle.Consumer.Records < 2000 {
		t.Errorf("idle-view: got %+v, want 2000 records in three ways", idle.Idle)
	}
	rows := make(map[string]int)
	for _, l := range r.Rows {
		rows[l.Scenario]++
	}
	// There may be no C compiler, and the server may not compress.
	if rows["per-write"] < 3 || rows["websocket"] != 2 || rows["added"] != 3 {
		t.Errorf("rows: %v", rows)
	}
	for _, s := range r.Steps {
		if s.Delivered == 0 || s.CPU == 0 {
			t.Errorf("a step that measured nothing: %+v", s)
		}
	}
	for _, p := range idle.Profiles {
		if info, err := os.Stat(p.File); err != nil || info.Size() == 0 {
			t.Errorf("profile %s: %v, %v", p.Name, info, err)
		}
	}
	if len(idle.Profiles) != 1 {
		t.Errorf("%d profiles, want 1", len(idle.Profiles))
	}
	for _, want := range []string{"bare consumer", "Go floor", "WebSocket", "1,000 records/s"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in the table:\n%s", want, table.String())
		}
	}
}
