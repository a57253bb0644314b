package properties

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestJAAS(t *testing.T) {
	const scramModule = "org.apache.kafka.common.security.scram.ScramLoginModule"
	for _, tt := range []struct{ name, config, mechanism, user, password, want string }{
		{"SCRAM", scramModule + ` required username="alice" password="secret";`, scram512Name, "alice", "secret", ""},
		{"PLAIN", `org.apache.kafka.common.security.plain.PlainLoginModule required username="$ConnectionString" password="Endpoint=sb://x/;Key=a=";`, plainName, "$ConnectionString", "Endpoint=sb://x/;Key=a=", ""},
		{"lines", scramModule + " required\n  password='a b'\n\tusername=alice ;\n", scram256Name, "alice", "a b", ""},
		{"escapes", scramModule + ` required username="a\"b" password="c\\d";`, scram256Name, `a"b`, `c\d`, ""},
		{"the other module", scramModule + ` required username="a" password="b";`, plainName, "", "", "ScramLoginModule does not belong to sasl.mechanism=PLAIN; must be the module of the mechanism"},
		{"another module", `software.amazon.msk.auth.iam.IAMLoginModule required;`, plainName, "", "", `the login module "IAMLoginModule" is not understood`},
		{"another option", scramModule + ` required username="a" password="b" tokenauth="true";`, scram256Name, "", "", `the option "tokenauth" is not understood; must be username or password`},
		{"no option", scramModule + ` required username="a" password;`, scram256Name, "", "", "an option without a value"},
		{"no password", scramModule + ` required username="a";`, scram256Name, "", "", "no username or no password"},
		{"no semicolon", scramModule + ` required username="a" password="b"`, scram256Name, "", "", "the semicolon at the end is missing"},
		{"two modules", scramModule + ` required username="a" password="b"; ` + scramModule + ` required;`, scram256Name, "", "", "something follows the first semicolon"},
		{"an open quote", scramModule + ` required username="a password="b";`, scram256Name, "", "", "a quote is not closed"},
		{"nothing", ``, scram256Name, "", "", "the semicolon at the end is missing"},
		{"a semicolon", `;`, scram256Name, "", "", "not a login module"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseJAAS(tt.config, tt.mechanism)
			if tt.want != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.want) || !strings.Contains(err.Error(), "must be") {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil || got != (credentials{tt.user, tt.password}) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// A password that changes in the mounted file is used from the next
// connection on; what cannot be read leaves the last one in use.
func TestReread(t *testing.T) {
	broker := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "me", "new"))
	file := func(password string) []byte {
		return config(t, map[string]string{"sasl.mechanism": "PLAIN", "sasl.username": "me", "sasl.password": password, "security.protocol": "sasl_plaintext"})
	}
	now, nowErr := file("old"), error(nil)
	p, err := Parse(now, config(t, map[string]string{"bootstrap.servers": broker}), false)
	if err != nil {
		t.Fatal(err)
	}
	p.Reread(func() ([]byte, error) { return now, nowErr })
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := connect(t, p, log); err == nil {
		t.Fatal("the old password was let in")
	}
	now = file("new")
	said.Reset()
	if err := connect(t, p, log); err != nil {
		t.Fatal(err)
	}
	if said.Len() > 0 {
		t.Errorf("log: got %s", said.String())
	}
	for _, tt := range []struct {
		name string
		now  []byte
		err  error
		want string
	}{
		{"gone", nil, errors.New("no such file"), "no such file"},
		{"half written", file("x")[:20], nil, "not JSON"},
		{"another mechanism", []byte(strings.Replace(string(file("x")), "PLAIN", "SCRAM-SHA-256", 1)), nil, "restart to use another"},
		{"no mechanism", []byte(`{}`), nil, "restart to use another"},
	} {
		now, nowErr = tt.now, tt.err
		said.Reset()
		if err := connect(t, p, log); err != nil {
			t.Errorf("%s: got %v", tt.name, err)
		}
		if got := said.String(); !strings.Contains(got, tt.want) || !strings.Contains(got, "the last good credentials are used") || strings.Contains(got, `"new"`) {
			t.Errorf("%s: log: got %s", tt.name, got)
		}
	}
	// Without SASL there is nothing to read again.
	parse(t, `{}`).Reread(func() ([]byte, error) { t.Error("read"); return nil, nil })
}
