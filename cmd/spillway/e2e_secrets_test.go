package main_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"spillway/relay/kafkatest"
)

// notFollowed are variables with _FILE that are read once.
var notFollowed = map[string]string{
	"TOPIC_RULES": "is no secret; views are made by it",
}

// TestSecretsAreFollowed has the program take a new value of every secret that
// can come from a file, without a restart.
func TestSecretsAreFollowed(t *testing.T) {
	const one, two = "a-secret-of-32-characters-or-more", "another-one-of-32-characters-or-so"
	secrets := map[string]struct{ command, first, second string }{
		"CONTROL_KEY":          {"serve", one, two},
		"CONTROL_REALMS":       {"serve", "me=" + one, "me=" + two},
		"CURSOR_KEY":           {"serve", one, two},
		"GRIP_URL":             {"relay", "", ""},
		"JWT_KEY":              {"serve", one, two},
		"LINK_KEY":             {"serve", one, two},
		"SCHEMA_REGISTRY_AUTH": {"serve", "me:" + one, "me:" + two},
		"SCHEMA_REGISTRY_URL":  {"serve", "http://127.0.0.1:1", "http://127.0.0.1:2"},
		"SIG_KEY":              {"serve", one, two},
		"UPSTREAM_KEY":         {"serve", one, two},
	}
	var bearer atomic.Value // of what was published last
	bearer.Store("")
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		bearer.Store(r.Header.Get("Authorization"))
	}))
	t.Cleanup(proxy.Close)
	gripURL := secrets["GRIP_URL"]
	gripURL.first, gripURL.second = proxy.URL+"?key="+one, proxy.URL+"?key="+two
	secrets["GRIP_URL"] = gripURL

	help, err := spillway(t, nil, "help", "config").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range regexp.MustCompile(`(?m)^  (\w+) \(_FILE\)`).FindAllSubmatch(help, -1) {
		name := string(found[1])
		if _, ok := secrets[name]; !ok && notFollowed[name] == "" {
			t.Errorf("%s: may come from a file, and nothing here changes it; add it to this test", name)
		}
		names = append(names, name)
	}
	for name := range secrets {
		if !slices.Contains(names, name) {
			t.Errorf("%s: help config knows no such secret", name)
		}
	}

	k := kafkatest.Fake(t)
	k.CreateTopic("orders", 1)
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	servers := map[string]*server{
		"serve": newServer(t, consumerConfig(k)),
		"relay": newServer(t, consumerConfig(k, `"group.id":"g","auto.offset.reset":"earliest"`)),
	}
	for name, s := range secrets {
		put(name, s.first)
		on := servers[s.command]
		on.env = append(on.env, name+"_FILE="+filepath.Join(dir, name))
	}
	for command, s := range servers {
		s.command = command
		s.start()
	}
	published := func(want string) {
		t.Helper()
		eventually(t, "a record is published with "+want, func() (bool, string) {
			k.Produce(values("orders", 0, "x")...)
			got := bearer.Load().(string)
			return got == "Bearer "+want, got
		})
	}
	published(one)
	for name, s := range secrets {
		put(name, s.second)
		on := servers[s.command]
		eventually(t, name+" is read again", func() (bool, string) {
			n := on.metric(fmt.Sprintf(`spillway_secret_reloads_total{name=%q,result="ok"}`, name))
			return n == 1, fmt.Sprint(n)
		})
	}
	published(two)
	for command, s := range servers {
		if log := s.log.String(); strings.Contains(log, one) || strings.Contains(log, two) {
			t.Errorf("%s shows a secret:\n%s", command, log)
		}
	}
}
