package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The table in the program and the one in the README are what the comments of
// the Config structs say today.
func TestUpToDate(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is out of date; run go generate ./cmd/spillway", name)
		}
	}
}

func TestSentence(t *testing.T) {
	for _, tt := range []struct{ name, field, comment, want string }{
		{"is", "Wait", "Wait is how long\nit takes.", "How long it takes."},
		{"are", "Topics", "Topics are the patterns.\n\nSee there.", "The patterns. See there."},
		{"another verb", "Addr", "Addr serves /metrics.", "Serves /metrics."},
		{"a name that is only a word", "Brokers", "Brokers to ask first.", "Brokers to ask first."},
		{"a longer word", "Log", "Logs nothing.", "Logs nothing."},
		{"none", "Wait", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := sentence(tt.field, tt.comment); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// module writes files into a new folder, by name and text.
func module(t *testing.T, files ...string) string {
	t.Helper()
	root := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(root, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSettings(t *testing.T) {
	root := module(t,
		"gateway/config.go", "package gateway\nimport \"spillway/gateway/fanout\"\n"+
			"type Config struct {\n"+
			"\t// Key is a key.\n\tKey string `envconfig:\"KEY\" secret:\"true\"`\n"+
			"\tFanout fanout.Config\n"+
			"\tInternal int `ignored:\"true\"`\n"+
			"\tOwn Limits\n"+
			"}\n",
		"gateway/limits.go", "package gateway\ntype Limits struct {\n\t// Max is most. 0 means none.\n\tMax int `envconfig:\"MAX\" default:\"0\"`\n}\n",
		"gateway/fanout/engine.go", "package fanout\ntype Config struct {\n\t// Bytes bounds a log.\n\tBytes int `envconfig:\"LOG_BYTES\" default:\"4MiB\"`\n}\n",
	)
	got, err := settings(root, "gateway", "Config")
	if err != nil {
		t.Fatal(err)
	}
	want := []setting{
		{name: "KEY", doc: "A key.", twin: true},
		{name: "LOG_BYTES", deflt: "4MiB", doc: "Bounds a log."},
		{name: "MAX", deflt: "0", doc: "Most. 0 means none."},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestSettingsErrors(t *testing.T) {
	for _, tt := range []struct{ name, field, want string }{
		{"no comment", "A int `envconfig:\"A\"`", "a: A has no comment, which is its documentation"},
		{"two fields", "// A and B are one.\nA, B int `envconfig:\"A\"`", "a: A stands at 2 fields"},
		{"a field that nobody reads", "// A is what?\nA int", "a: a field of Config has neither envconfig nor ignored:\"true\""},
		{"a type of a stranger", "T time.Time", "a: a field of Config has neither envconfig nor ignored:\"true\""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := module(t, "a/a.go", "package a\nimport \"time\"\ntype Config struct {\n"+tt.field+"\n}\n")
			_, err := settings(root, "a", "Config")
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	if _, err := settings(module(t, "a/a.go", "package a\n"), "a", "Config"); err == nil || err.Error() != "a: no struct Config" {
		t.Errorf("got %v", err)
	}
}

func TestMarkdown(t *testing.T) {
	got := string(markdown([]setting{
		{part: "P", name: "KEY", doc: "Text or <file> | PEM, not *.", twin: true},
		{part: "P", name: "WAIT", deflt: "15s", doc: "How long."},
		{part: "Q", name: "TOPICS", deflt: ".*|b", doc: "Which."},
	}))
	const want = `
### P

| name | default | meaning |
| --- | --- | --- |
| ` + "`KEY` (`_FILE`)" + ` | – | Text or &lt;file&gt; \| PEM, not \*. |
| ` + "`WAIT`" + ` | ` + "`15s`" + ` | How long. |

### Q

| name | default | meaning |
| --- | --- | --- |
| ` + "`TOPICS`" + ` | ` + "`.*\\|b`" + ` | Which. |

`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSplice(t *testing.T) {
	got, err := splice([]byte("a\n"+begin+"\nold\n"+end+"\nb\n"), []byte("new\n"))
	if want := "a\n" + begin + "\nnew\n" + end + "\nb\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := splice([]byte("a\n"+end+"\n"+begin), nil); err == nil || !strings.Contains(err.Error(), begin) {
		t.Errorf("markers in the wrong order: got %v", err)
	}
}
