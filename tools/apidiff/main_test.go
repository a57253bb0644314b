package main

import (
	"os"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Chdir(t.TempDir())
	file := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file("go.mod", "module m\n\ngo 1.26.0\n")
	const before = "package m\n\ntype T struct{ A int }\n\nfunc F(error, T) {}\n"
	file("m.go", before)
	if err := run(new(strings.Builder), "record", ".", true); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, now, want, err string }{
		{"the same", before, "", ""},
		{"only the places differ", strings.ReplaceAll(before, "\n\n", "\n\n// C.\n\n"), "", ""},
		{"more", before + "\nfunc G() {}\n", "added: G: added\n.: 'make grip-api' adds this to record\n", ""},
		{"less", strings.ReplaceAll(before, "A int", ""), "INCOMPATIBLE: T.A: removed\n", "breaks programs that use it"},
		{"different", strings.ReplaceAll(before, "error", "string"), "INCOMPATIBLE: F: changed from func(error, T) to func(string, T)\n", "'make grip-api' renews record"},
		{"broken", before + "\nfunc", "", "m.go:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file("m.go", tt.now)
			var out strings.Builder
			err := run(&out, "record", ".", false)
			if out.String() != tt.want {
				t.Errorf("got %q, want %q", out.String(), tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
		})
	}
	file("m.go", before)
	file("garbage", "x")
	for _, record := range []string{"garbage", "missing"} {
		if err := run(new(strings.Builder), record, ".", false); err == nil || !strings.Contains(err.Error(), record) {
			t.Errorf("record %s: got error %v, want one that names it", record, err)
		}
	}
}
