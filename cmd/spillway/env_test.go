package main

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway"
	"spillway/grip/bytesize"
	"spillway/grip/secret"
	"spillway/relay"
)

func TestParseDotEnv(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       map[string]string
	}{
		{"empty", "", map[string]string{}},
		{"JSON without quotes around", `KAFKA_CONSUMER_CONFIG={"bootstrap.servers":"localhost:9092","group.id":"mygroup"}`,
			map[string]string{"KAFKA_CONSUMER_CONFIG": `{"bootstrap.servers":"localhost:9092","group.id":"mygroup"}`}},
		{"JSON in single quotes", `A='{"a":"b"}'`, map[string]string{"A": `{"a":"b"}`}},
		{"comments and empty lines", "# one\n\n  # two\nA=1\n", map[string]string{"A": "1"}},
		{"a # inside a value is no comment", "A=b #c", map[string]string{"A": "b #c"}},
		{"a comment after quotes", "A='b' # c", map[string]string{"A": "b"}},
		{"blanks around", "  A =  b c  \n", map[string]string{"A": "b c"}},
		{"blanks in quotes stay", `A=" b "`, map[string]string{"A": " b "}},
		{"no expansion", "A=$HOME\nB=\"$HOME\\n\"", map[string]string{"A": "$HOME", "B": `$HOME\n`}},
		{"export", "export A=1", map[string]string{"A": "1"}},
		{"set but empty", "A=\nB=''", map[string]string{"A": "", "B": ""}},
		{"the last wins", "A=1\nA=2", map[string]string{"A": "2"}},
		{"an = in the value", "A=b=c", map[string]string{"A": "b=c"}},
		{"several lines in quotes", "A='{\n \"a\": 1\r\n}'\nB=2", map[string]string{"A": "{\n \"a\": 1\n}", "B": "2"}},
		{"CRLF", "A=1\r\nB=2\r\n", map[string]string{"A": "1", "B": "2"}},
		{"byte order mark", "\ufeffA=1", map[string]string{"A": "1"}},
		{"no line break at the end", "A=1", map[string]string{"A": "1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseDotEnv(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestParseDotEnvErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no =", "\nHELLO", `line 2: no = after "HELLO"; write NAME=value`},
		{"not a name", "1A=2", `line 1: "1A" is not a name; use letters, digits and _`},
		{"no name", "=2", `line 1: "" is not a name; use letters, digits and _`},
		{"quotes in quotes", `A="{"a":1}"`,
			`line 1: A: text after the closing "; a value with such quotes inside needs the other kind around it, or none`},
		{"no closing quote", "B=1\nA='x\ny\nz", `line 2: A: no closing '`},
		{"NUL", "A=a\x00b", "line 1: A: NUL in the value"},
		{"every error, and lines counted through quotes", "A='\n\n'\nB\nC",
			"line 4: no = after \"B\"; write NAME=value\nline 5: no = after \"C\"; write NAME=value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseDotEnv(tt.text)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func FuzzParseDotEnv(f *testing.F) {
	for _, s := range []string{"A=1\nB='x\ny' # z\n", `A="b"`, "export A = b", "A='", "\ufeff#\n=\n", "A=\x00", "A='\x00'", "A='\r\n'x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		vars, _ := parseDotEnv(text)
		for name, value := range vars {
			if !isName(name) {
				t.Errorf("name %q", name)
			}
			if strings.ContainsRune(value, 0) {
				t.Errorf("%s: value %q cannot be in an environment", name, value)
			}
			// Written in quotes, what was read is read again.
			quote := `'`
			if strings.Contains(value, quote) {
				quote = `"`
			}
			if strings.Contains(value, quote) {
				continue
			}
			again, err := parseDotEnv(name + "=" + quote + value + quote)
			if err != nil || again[name] != strings.ReplaceAll(value, "\r\n", "\n") {
				t.Errorf("%q: read again as %q, %v", value, again[name], err)
			}
		}
	})
}

// sample has a field of each kind that a Config struct may have.
type sample struct {
	Text     string         `envconfig:"S_TEXT" default:"a,b"`
	Name     string         `envconfig:"S_NAME"`
	List     []string       `envconfig:"S_LIST" default:"x,y"`
	Wait     time.Duration  `envconfig:"S_WAIT" default:"15s"`
	On       bool           `envconfig:"S_ON" default:"true"`
	Count    int            `envconfig:"S_COUNT" default:"3"`
	Small    uint8          `envconfig:"S_SMALL"`
	Ratio    float64        `envconfig:"S_RATIO" default:"0.5"`
	Size     bytesize.Bytes `envconfig:"S_SIZE" default:"1MiB"`
	Level    slog.Level     `envconfig:"S_LEVEL" default:"info"`
	Key      string         `envconfig:"S_KEY" secret:"true"`
	Rules    string         `envconfig:"S_RULES" file:"true"`
	Doc      string         `envconfig:"S_DOC" secret:"true"`
	DocFile  string         `envconfig:"S_DOC_FILE"`
	Internal string         `ignored:"true"`
}

func (s *sample) Validate() error {
	var errs []error
	if s.Wait > time.Minute {
		errs = append(errs, errors.New("S_WAIT="+s.Wait.String()+": must be at most 1m"))
	}
	if s.Count == 13 {
		errs = append(errs, errors.New("S_COUNT=13: brings bad luck"))
	}
	return errors.Join(errs...)
}

func TestLoad(t *testing.T) {
	defaults := sample{Text: "a,b", List: []string{"x", "y"}, Wait: 15 * time.Second, On: true, Count: 3,
		Ratio: 0.5, Size: 1 << 20, Internal: "kept"}
	for _, tt := range []struct {
		name string
		env  []string
		want func(*sample)
	}{
		{"defaults", nil, func(*sample) {}},
		{"every kind", []string{"S_TEXT=t", "S_LIST=a,b", "S_WAIT=1m", "S_ON=false", "S_COUNT=0x10", "S_SMALL=255", "S_RATIO=1e3", "S_SIZE=2 KiB", "S_LEVEL=warn"},
			func(s *sample) {
				s.Text, s.List, s.Wait, s.On, s.Count = "t", []string{"a", "b"}, time.Minute, false, 16
				s.Small, s.Ratio, s.Size, s.Level = 255, 1000, 2048, slog.LevelWarn
			}},
		{"list items are trimmed, and empty ones dropped", []string{"S_LIST= a , b,,"}, func(s *sample) { s.List = []string{"a", "b"} }},
		{"blanks around a number do no harm", []string{"S_COUNT= 4 ", "S_WAIT= 2s"}, func(s *sample) { s.Count, s.Wait = 4, 2*time.Second }},
		{"but a text is kept as it is", []string{"S_TEXT= t "}, func(s *sample) { s.Text = " t " }},
		{"an empty text is a value", []string{"S_TEXT=", "S_LIST="}, func(s *sample) { s.Text, s.List = "", nil }},
		{"a text may look like a tag", []string{"S_TEXT=`\"\\\xff\x01"}, func(s *sample) { s.Text = "`\"\\\xff\x01" }},
		{"ignored fields are not read", []string{"INTERNAL=x", "Internal=x", "==x"}, func(*sample) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProcess(t, tt.env...)
			got, want := sample{Internal: "kept"}, defaults
			tt.want(&want)
			if _, err := p.load(&got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// All problems are in one report, each with the variable and what is right.
func TestLoadReportsEverything(t *testing.T) {
	p := newProcess(t, "S_WAIT=30", "S_ON=yes", "S_COUNT=many", "S_SMALL=256", "S_RATIO=half", "S_SIZE=big",
		"S_LEVEL=loud", "S_KEY_FILE=/does/not/exist", "S_RULES={}", "S_RULES_FILE=rules.json",
		"DRAIN_TIMEOUT=0s", "OPS_ADDR=9464", "LOG_FORMAT=xml", "DRAIN_DELAY=soon", "DEBUG=")
	writeFile(t, p, ".env", "A B=1\nS_COUNT=4\n")
	_, err := p.load(new(sample), new(Config))
	if err == nil {
		t.Fatal("got no error")
	}
	const want = `15 problems in the configuration:
  .env: line 1: "A B" is not a name; use letters, digits and _
  S_WAIT=30: add a unit, such as 30s
  S_ON=yes: write true or false
  S_COUNT=many: not a whole number
  S_SMALL=256: too large for 8 bits
  S_RATIO=half: not a number
  S_SIZE=big: "big" is not a number of bytes; write an integer with or without KiB, MiB or GiB, such as 64MiB
  S_LEVEL=loud: must be debug, info, warn or error
  S_KEY_FILE: stat /does/not/exist: no such file or directory
  S_RULES_FILE: S_RULES is set too; unset one of them
  DEBUG=: empty; write a value, or do not set it
  DRAIN_DELAY=soon: not a duration; write a number and ms, s, m or h, such as 30s or 1h30m
  OPS_ADDR=9464: write host:port, such as 127.0.0.1:9464 or :9464
  LOG_FORMAT=xml: must be text or json
  DRAIN_TIMEOUT=0s: must be between 1s and 1h
See spillway help config for every variable.`
	if got := err.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if code := p.exitCode(err); code != exitUsage {
		t.Errorf("exit code: got %d, want %d", code, exitUsage)
	}
}

func TestLoadFiles(t *testing.T) {
	p := newProcess(t, "S_KEY_FILE=key", "S_RULES_FILE=rules", "S_DOC_FILE=doc", "S_NAME_FILE=name", "S_KEY=")
	writeFile(t, p, "key", "s3cret\r\n")
	writeFile(t, p, "rules", "{\n}\n")
	var got sample
	if _, err := p.load(&got); err != nil {
		t.Fatal(err)
	}
	if got.Key != "s3cret" {
		t.Errorf("Key: got %q, want the file without its line end", got.Key)
	}
	if got.Rules != "{\n}" {
		t.Errorf("Rules: got %q", got.Rules)
	}
	if got.Doc != "" || got.DocFile != "doc" {
		t.Errorf("a struct with a field for the file reads it itself: got %q, %q", got.Doc, got.DocFile)
	}
	if got.Name != "" {
		t.Errorf("Name has no twin, but got %q", got.Name)
	}
}

// Both sources of the consumer properties reach the relay; its Validate says
// what becomes of them.
func TestLoadConsumerConfig(t *testing.T) {
	p := newProcess(t, `KAFKA_CONSUMER_CONFIG={"group.id":"g"}`, "KAFKA_CONSUMER_CONFIG_FILE=consumer.json")
	writeFile(t, p, "consumer.json", `{"bootstrap.servers":"kafka:9092"}`)
	var cfg relay.Config
	if _, err := p.load(&cfg); err != nil {
		t.Fatal(err)
	}
	if got, want := string(cfg.KafkaConsumerConfigJSON), `{"bootstrap.servers":"kafka:9092"}`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}

	p = newProcess(t, "KAFKA_CONSUMER_CONFIG_FILE=gone.json", "TOPICS=(")
	_, err := p.load(new(relay.Config))
	if err == nil || !strings.Contains(err.Error(), "KAFKA_CONSUMER_CONFIG_FILE: stat ") || !strings.Contains(err.Error(), "TOPICS=(: ") {
		t.Errorf("got %v, want both problems", err)
	}
}

func TestLoadFileErrors(t *testing.T) {
	p := newProcess(t, "S_KEY_FILE=.", "S_RULES_FILE=big")
	writeFile(t, p, "big", strings.Repeat("x", maxFileBytes+1))
	_, err := p.load(new(sample))
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"S_KEY_FILE: " + p.dir + ": not a file", "S_RULES_FILE: " + filepath.Join(p.dir, "big") + ": 1048577 bytes; at most 1048576 are read"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want in it %s", err, want)
		}
	}
}

// The value of a secret is in no message, whatever is wrong with it.
func TestSecretsAreNotShown(t *testing.T) {
	var cfg struct {
		Number int `envconfig:"S_NUMBER" secret:"true"`
	}
	_, err := newProcess(t, "S_NUMBER=hunter2").load(&cfg)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "S_NUMBER: not a whole number") {
		t.Errorf("got %v", err)
	}
}

func TestDotEnv(t *testing.T) {
	p := newProcess(t, "S_COUNT=5")
	writeFile(t, p, ".env", "S_COUNT=6\nS_TEXT=from file\nSSL_CERT_FILE=/ca.pem\n")
	told := make(map[string]string)
	p.setenv = func(name, value string) error { told[name] = value; return nil }
	var got sample
	if _, err := p.load(&got); err != nil {
		t.Fatal(err)
	}
	if got.Count != 5 {
		t.Errorf("S_COUNT: got %d, want 5: the environment wins", got.Count)
	}
	if got.Text != "from file" {
		t.Errorf("S_TEXT: got %q, want that of the file", got.Text)
	}
	if want := map[string]string{"S_TEXT": "from file", "SSL_CERT_FILE": "/ca.pem"}; !maps.Equal(told, want) {
		t.Errorf("told to the process: got %q, want %q", told, want)
	}
}

func TestMisspelt(t *testing.T) {
	for _, tt := range []struct {
		name string
		want string // what it is taken for; empty for no warning
	}{
		{"LOG_LEVL", "LOG_LEVEL"},
		{"LOGLEVEL", "LOG_LEVEL"},
		{"LOG_ELVEL", "LOG_LEVEL"},
		{"DRAIN_TIME_OUT", "DRAIN_TIMEOUT"},
		{"OPS_ADDRS", "OPS_ADDR"},
		{"LOG_LEVEL", ""},        // right
		{"HOME", ""},             // someone else's
		{"LOG", ""},              // too far
		{"DEBUT", "DEBUG"},       // one edit
		{"DEMO", ""},             // two edits from a short name mean nothing
		{"OPS_PORT", ""},         // a Kubernetes Service named ops
		{"OPS_SERVICE_HOST", ""}, // the same
		{"OPS_PORT_80_TCP_ADDR", ""},
		{"OPS_SERVICE_PORT_HTTP", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want []string
			if tt.want != "" {
				want = []string{tt.name + " is not a variable of ours; did you mean " + tt.want + "?"}
			}
			if got := misspelt(map[string]string{tt.name: ""}); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// Without any configuration the program's own part is valid.
func TestDefaultsAreValid(t *testing.T) {
	var cfg Config
	if warnings, err := newProcess(t).load(&cfg); err != nil || warnings != nil {
		t.Errorf("got %v, %v", warnings, err)
	}
}

func TestDrainDelayIsPartOfDrainTimeout(t *testing.T) {
	_, err := newProcess(t, "DRAIN_DELAY=10s", "DRAIN_TIMEOUT=10s").load(new(Config))
	if err == nil || !strings.Contains(err.Error(), "DRAIN_DELAY=10s: must be at least 0s, and less than DRAIN_TIMEOUT (10s)") {
		t.Errorf("got %v", err)
	}
}

func writeFile(t *testing.T, p *testProcess, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// All parts get the same source of secrets, which reads the files again.
func TestLoadedSecretsChange(t *testing.T) {
	p := newProcess(t, "CONTROL_KEY_FILE=key", "SIG_KEY=fixed")
	writeFile(t, p, "key", "first\n")
	var program Config
	var gw gateway.Config
	if _, err := p.load(&program, &gw); err != nil {
		t.Fatal(err)
	}
	if program.Secrets == nil || program.Secrets != gw.Secrets {
		t.Fatalf("got sources %p and %p, want the same", program.Secrets, gw.Secrets)
	}
	parse := func(text string) (string, error) { return text, nil }
	control, err := secret.Follow(gw.Secrets, "CONTROL_KEY", string(gw.ControlKey), parse)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := secret.Follow(gw.Secrets, "SIG_KEY", string(gw.SigKey), parse)
	if err != nil {
		t.Fatal(err)
	}
	program.Secrets.Watch(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	writeFile(t, p, "key", "second\r\n")
	program.Secrets.Reload()
	if got := control.Get(); got != "second" {
		t.Errorf("CONTROL_KEY: got %q, want what the file holds, without its line end", got)
	}
	if got := sig.Get(); got != "fixed" {
		t.Errorf("SIG_KEY: got %q, want what was set", got)
	}
}
