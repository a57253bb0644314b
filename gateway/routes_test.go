package gateway

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/route"
	"spillway/grip"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRoutesFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "routes")
	writeFile(t, name, "# ours\nexample.com localhost:1\n")
	c := Config{Routes: "* localhost:2; *,path_beg=/a localhost:3", RoutesFile: name}
	table, err := c.routes()
	if err != nil || len(table.Routes()) != 3 {
		t.Errorf("got %v, %v, want the routes of both", table.Routes(), err)
	}
	writeFile(t, name, "\n*,path_beg=/a h:1\nx")
	_, err = c.routes()
	if want := name + ":3 (x): no target; write CONDITION TARGET, such as: * localhost:8000\n" +
		"ROUTES:2 (*): same condition as " + name + ":2; put all targets on one line"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	writeFile(t, name, strings.Repeat("#", maxRoutesFile+1))
	if _, err = c.routes(); err == nil || !strings.Contains(err.Error(), "ROUTES_FILE: "+name+": more than") {
		t.Errorf("too large: got %v, want an error", err)
	}
}

// named starts an origin that answers with its name.
func named(t *testing.T, name string) (addr string) {
	return newAPI(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) },
		"/hold": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit")
			w.Header().Set("Grip-Link", "</more>; rel=next")
			io.WriteString(w, name)
		},
		"/more": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, " more of "+name) },
	}).Listener.Addr().String()
}

func TestRoutesReload(t *testing.T) {
	name := filepath.Join(t.TempDir(), "routes")
	one, two := named(t, "one"), named(t, "two")
	writeFile(t, name, "* "+one+"\n")
	f := start(t, func(c *Config) { c.RoutesFile, c.EventsPath = name, "" })
	answer := func() string {
		c := f.get(t, "/")
		body, _ := io.ReadAll(c.body)
		return string(body)
	}
	if got := answer(); got != "one" {
		t.Fatalf("got %q, want one", got)
	}
	held := f.get(t, "/hold")
	held.want("one")
	f.listening(t, "fruit", 1)

	writeFile(t, name, "* "+two+"\nx.example "+two+"\n")
	eventually(t, "the new routes", func() bool { return answer() == "two" })
	f.wantMetric(t, "spillway_routes", nil, 2)
	f.wantMetric(t, "spillway_routes_reloads_total", prometheus.Labels{"result": "ok"}, 1)

	writeFile(t, name, "* "+one+"\nnonsense\n")
	f.wantMetric(t, "spillway_routes_reloads_total", prometheus.Labels{"result": "failed"}, 1)
	f.wantMetric(t, "spillway_routes_last_reload_successful", nil, 0)
	if got := answer(); got != "two" {
		t.Errorf("with a file that has mistakes: got %q, want the old routes", got)
	}

	// Another file in its place, as with a mounted ConfigMap.
	writeFile(t, name+".new", "* "+one)
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the newest routes", func() bool { return answer() == "one" })
	f.wantMetric(t, "spillway_routes_last_reload_successful", nil, 1)

	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	f.wantMetric(t, "spillway_routes_reloads_total", prometheus.Labels{"result": "failed"}, 2)
	if got := answer(); got != "one" {
		t.Errorf("without a file: got %q, want the old routes", got)
	}

	// What was held all the while still asks the origin that it came from.
	writeFile(t, name, "* "+two)
	f.ReloadRoutes()
	if got := answer(); got != "two" {
		t.Errorf("at once: got %q, want two", got)
	}
	f.publish(t, grip.Item{Channel: "fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
	held.wantEnd(" more of one")
}

func TestPushpinRoute(t *testing.T) {
	routes := fmt.Sprintf("* %s; ,id=second %s", named(t, "one"), named(t, "two"))
	for _, tt := range []struct {
		name, id string
		accept   bool
		want     string
	}{
		{"by id", "second", true, "two"},
		{"unknown id", "third", true, "Route not found\n"},
		{"none", "", true, "one"},
		{"not accepted", "second", false, "one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, func(c *Config) { c.Routes, c.AcceptPushpinRoute, c.EventsPath = routes, tt.accept, "" })
			var header []string
			if tt.id != "" {
				header = []string{"Pushpin-Route", tt.id}
			}
			f.get(t, "/", header...).wantEnd(tt.want)
		})
	}
}

func mustRoutes(t *testing.T, text string) *route.Table {
	t.Helper()
	table, err := route.Parse(route.Source{Text: text, Semicolons: true})
	if err != nil {
		t.Fatal(err)
	}
	return table
}
