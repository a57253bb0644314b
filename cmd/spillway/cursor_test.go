package main

import (
	"strings"
	"testing"

	"spillway/relay/cursor"
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

// With its key a sealed id is read as the open one is.
func TestSealedCursor(t *testing.T) {
	const id, key = "1e-hi3hk-aaaaa.1.a", "the key: of 32 bytes or more than that"
	sealer, err := cursor.NewSealer([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	sealed := string(sealer.Seal([]byte(id), 0))
	print := func(id string, env ...string) (code int, out string) {
		p := newProcess(t, env...)
		code = p.run(t.Context(), "cursor", id)
		return code, p.stdout.String() + p.stderr.String()
	}
	_, want := print(id)
	for _, env := range []string{key, "another: of 32 bytes or more than that," + key} {
		if code, got := print("id: "+sealed, "CURSOR_KEY="+env); code != exitOK || got != want {
			t.Errorf("got %d and %q, want what the open one prints, %q", code, got, want)
		}
	}
	if code, got := print(id, "CURSOR_KEY="+key); code != exitOK || got != want {
		t.Errorf("an open one with a key: got %d and %q, want %q", code, got, want)
	}
	for _, env := range []string{"", "another: of 32 bytes or more than that", "short"} {
		if code, got := print(sealed, "CURSOR_KEY="+env); code != exitUsage || strings.Contains(got, key) {
			t.Errorf("with CURSOR_KEY=%s: got %d and %q, want exit code %d", env, code, got, exitUsage)
		}
	}
}

// What relay publishes cannot be protected by settings that are for clients, and
// it says so.
func TestRelayRefusesProtections(t *testing.T) {
	for setting, want := range map[string]string{
		"CURSOR_KEY=the key: of 32 bytes or more than that": "CURSOR_KEY: relay cannot seal cursors",
		"AUTH_URL=http://localhost:1":                       "AUTH_URL, JWT_ISSUER, JWT_JWKS_URL, JWT_KEY: relay publishes to proxies",
		"JWT_KEY=the key: of 32 bytes or more than that":    "relay publishes to proxies and answers no client",
	} {
		p := newProcess(t, `KAFKA_CONSUMER_CONFIG={"bootstrap.servers":"localhost:1","group.id":"g"}`, "GRIP_URL=http://localhost:1", setting)
		if code := p.run(t.Context(), "relay"); code != exitUsage || !strings.Contains(p.stderr.String(), want) {
			t.Errorf("%s: got %d: %s, want %q", setting, code, p.stderr, want)
		}
	}
}
