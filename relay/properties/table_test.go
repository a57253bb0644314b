package properties

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestNames holds the table against the list of names that must be known, in
// both directions: a name in one and not in the other is a mistake.
func TestNames(t *testing.T) {
	raw, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	letters := map[Status]string{Supported: "S", Approximated: "A", Ignored: "I", Warned: "W", refused: "R"}
	listed := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		want, name, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || want == "#" {
			continue
		}
		if listed[name] {
			t.Errorf("%s is listed twice", name)
		}
		listed[name] = true
		got := "unknown"
		switch prop := known[name]; {
		case prop != nil:
			got = letters[prop.status]
		case slices.Contains(producerOnly, name):
			got = "P"
		case slices.Contains(fromCode, name) || strings.HasSuffix(name, "_cb"):
			got = "C"
		case strings.HasPrefix(name, "share."):
			got = "R"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for name := range known {
		if !listed[name] {
			t.Errorf("%s is in the table and not in testdata/names.txt", name)
		}
	}
	if len(listed) < 200 {
		t.Errorf("only %d names listed", len(listed))
	}
}

func TestTableIsConsistent(t *testing.T) {
	seen := map[string]bool{}
	p := &parser{}
	for _, section := range table {
		for i := range section {
			prop := &section[i]
			for _, name := range slices.Concat([]string{prop.name}, prop.aliases, prop.old) {
				if seen[name] || slices.Contains(producerOnly, name) || slices.Contains(fromCode, name) {
					t.Errorf("%s stands in the table twice", name)
				}
				seen[name] = true
				if len(name) > longestName {
					t.Errorf("%s is longer than longestName", name)
				}
			}
			p.get(prop.name) // panics on a default that does not parse
			switch prop.status {
			case Ignored, Warned, Approximated, refused:
				if prop.note == "" && prop.user != viaTLS {
					t.Errorf("%s: %s without a reason", prop.name, prop.status)
				}
			}
			if (prop.kind == word) != (prop.words != nil) {
				t.Errorf("%s: words and kind contradict each other", prop.name)
			}
			hide := strings.Contains(prop.name, "password") || strings.Contains(prop.name, "passphrase") ||
				strings.Contains(prop.name, "secret") || strings.HasSuffix(prop.name, "key.pem")
			if hide && !prop.secret {
				t.Errorf("%s is shown", prop.name)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"enable.auto.comit", "enable.auto.commit"},
		{"bootstrap_servers", "bootstrap.servers"},
		{"BOOTSTRAP.SERVERS", "bootstrap.servers"},
		{"boostrap.server", "bootstrap.servers"},
		{"gruop.id", "group.id"},
		{"ssl.ca.path", "ssl.ca.pem"},
		{"sasl.pasword", "sasl.password"},
		{"enable.ssl.certificate.verfication", "enable.ssl.certificate.verification"},
		{"", "debug"},
	} {
		if got := nearest(tt.name, names); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.name, got, tt.want)
		}
	}
}
