package main

import (
	"strings"
	"testing"
)

// The example in the help text is what the program prints.
func TestCursorHelpExample(t *testing.T) {
	help := cursorCommand().help
	example, _, _ := strings.Cut(help, "\n\nUsage:")
	line, want, _ := strings.Cut(example, "\n")
	p := newProcess(t)
	if code := p.run(t.Context(), strings.Fields(line)[1:]...); code != exitOK {
		t.Fatalf("exit code %d: %s", code, p.stderr)
	}
	var got strings.Builder
	for l := range strings.Lines(p.stdout.String()) {
		got.WriteString("      " + l)
	}
	if strings.TrimSuffix(got.String(), "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}

func TestCursor(t *testing.T) {
	const id = "1s-hi3hk-aaaaa.1.1y2p0ij32e8e7~bbbbb.2.0_2.z_0~ccccc.7!"
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"text", []string{id}, `time   2025-11-23T03:20:00Z
phase  snapshot
topic  aaaaa, 1 partition
         partition  next offset
         0          9223372036854775807
topic  bbbbb, 2 partitions
         partition  next offset
         0          2
         35         0
topic  ccccc, 7 partitions, resumed by time
`},
		{"JSON, as pasted from curl", []string{"-json", "id: " + id},
			`{"time":"2025-11-23T03:20:00Z","phase":"snapshot","topics":[` +
				`{"tag":"aaaaa","partitions":1,"offsets":[{"partition":0,"offset":9223372036854775807}]},` +
				`{"tag":"bbbbb","partitions":2,"offsets":[{"partition":0,"offset":2},{"partition":35,"offset":0}]},` +
				`{"tag":"ccccc","partitions":7}]}` + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), append([]string{"cursor"}, tt.args...)...); code != exitOK {
				t.Fatalf("exit code %d: %s", code, p.stderr)
			}
			if got := p.stdout.String(); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestCursorErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"none", nil, "spillway: cursor: takes one id, but got 0 arguments; see spillway cursor --help\n"},
		{"not a cursor", []string{"hello"}, "spillway: cursor: cursor: byte 0: got 'h', want version \"1\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t)
			if code := p.run(t.Context(), append([]string{"cursor"}, tt.args...)...); code != exitUsage {
				t.Errorf("exit code: got %d, want %d", code, exitUsage)
			}
			if got := p.stderr.String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
