package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func get(t *testing.T, url, accept string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// waitReady waits until /readyz says 200.
func waitReady(t *testing.T, base string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		status, body := get(t, base+"/readyz", "")
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz: got %d %q after %v", status, body, patience)
		}
	}
}

// startOps serves ops until the test ends.
func startOps(t *testing.T, cfg Config) (*opsServer, string) {
	t.Helper()
	cfg.OpsAddr = "127.0.0.1:0"
	ops, err := newOps(cfg, newRegistry(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ops.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := ops.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ops, "http://" + ops.Addr().String()
}

func TestReadyz(t *testing.T) {
	ops, base := startOps(t, Config{})
	var kafkaUp atomic.Bool
	ops.AddCheck("kafka", func() error {
		if kafkaUp.Load() {
			return nil
		}
		return errors.New("no broker answers")
	})
	ops.AddCheck("gateway", func() error { return nil })

	want := func(when string, status int, text, json string) {
		t.Helper()
		if s, body := get(t, base+"/readyz", ""); s != status || body != text {
			t.Errorf("%s: got %d %q, want %d %q", when, s, body, status, text)
		}
		if s, body := get(t, base+"/readyz", "application/json"); s != status || body != json {
			t.Errorf("%s: got %d %q, want %d %q", when, s, body, status, json)
		}
		if s, body := get(t, base+"/livez", ""); s != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: /livez: got %d %q", when, s, body)
		}
	}
	want("starting", 503, "spillway: starting\nkafka: no broker answers\n",
		`{"ready":false,"reasons":{"kafka":"no broker answers","spillway":"starting"}}`+"\n")
	ops.Started()
	want("Kafka away", 503, "kafka: no broker answers\n", `{"ready":false,"reasons":{"kafka":"no broker answers"}}`+"\n")
	kafkaUp.Store(true)
	ops.AddCheck("late", func() error { return nil })
	want("ready", 200, "ok\n", `{"ready":true}`+"\n")
	ops.Draining()
	want("draining", 503, "spillway: draining\n", `{"ready":false,"reasons":{"spillway":"draining"}}`+"\n")
	ops.Started()
	want("no way back", 503, "spillway: draining\n", `{"ready":false,"reasons":{"spillway":"draining"}}`+"\n")
}

func TestOpsPages(t *testing.T) {
	_, plain := startOps(t, Config{})
	_, debug := startOps(t, Config{Debug: true})
	for _, tt := range []struct {
		name, url string
		status    int
		contains  string
	}{
		{"metrics", plain + "/metrics", 200, "\nspillway_build_info{commit="},
		{"metrics of the runtime", plain + "/metrics", 200, "\ngo_goroutines "},
		{"profiles are off", plain + "/debug/pprof/", 404, ""},
		{"profiles are on with DEBUG=true", debug + "/debug/pprof/", 200, "goroutine"},
		{"a profile", debug + "/debug/pprof/goroutine?debug=1", 200, "goroutine profile: total"},
		{"nothing else", plain + "/", 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body := get(t, tt.url, "")
			if status != tt.status || !strings.Contains(body, tt.contains) {
				t.Errorf("got %d %.200q, want %d with %q", status, body, tt.status, tt.contains)
			}
		})
	}
}

func TestOpsAddressInUse(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	_, err := newOps(Config{OpsAddr: addr}, newRegistry(), quiet())
	if err == nil || !strings.HasPrefix(err.Error(), "OPS_ADDR="+addr+": ") {
		t.Errorf("got %v", err)
	}
}

// OPS_ADDR= turns the port off; the lifecycle does not notice.
func TestOpsOff(t *testing.T) {
	ops, err := newOps(Config{}, newRegistry(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if ops.Addr() != nil {
		t.Errorf("listens at %v", ops.Addr())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ops.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := ops.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpsNeverStarted(t *testing.T) {
	ops, err := newOps(Config{OpsAddr: "127.0.0.1:0"}, newRegistry(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	addr := ops.Addr().String()
	for range 2 {
		if err := ops.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	again, err := newOps(Config{OpsAddr: addr}, newRegistry(), quiet())
	if err != nil {
		t.Fatalf("the address is still taken: %v", err)
	}
	_ = again.Shutdown(t.Context())
}

func TestLogger(t *testing.T) {
	for _, tt := range []struct {
		name     string
		format   string
		terminal bool
		json     bool
	}{
		{"text on a terminal", "", true, false},
		{"JSON elsewhere", "", false, true},
		{"text when asked for", "text", false, false},
		{"JSON when asked for", "json", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			log := newLogger(Config{LogFormat: tt.format, LogLevel: slog.LevelWarn}, &b, tt.terminal)
			log.Info("below the level")
			log.Warn("client cut off", "behind", 3)
			if got := strings.HasPrefix(b.String(), "{"); got != tt.json || strings.Count(b.String(), "\n") != 1 {
				t.Errorf("got %q", b.String())
			}
		})
	}
}

// A page in a browser of this machine reads nothing, by whatever name it calls.
func TestOpsIsNotForPages(t *testing.T) {
	_, base := startOps(t, Config{})
	_, port, _ := strings.Cut(strings.TrimPrefix(base, "http://"), ":")
	for _, tt := range []struct {
		name, host, origin string
		status             int
	}{
		{"by address", "127.0.0.1:" + port, "", 200},
		{"as localhost", "localhost:" + port, "", 200},
		{"by its own page", "localhost:" + port, "http://localhost:" + port, 200},
		{"a name that was made to resolve to us", "evil.example:" + port, "", 403},
		{"the page of that name", "evil.example:" + port, "http://evil.example:" + port, 403},
		{"a page of another site", "127.0.0.1:" + port, "https://evil.example", 403},
		{"a page in a sandbox", "127.0.0.1:" + port, "null", 403},
	} {
		for _, path := range []string{"/metrics", "/livez", "/readyz", "/nothing"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Host = tt.host
			if tt.origin != "" {
				r.Header.Set("Origin", tt.origin)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if refused := resp.StatusCode == http.StatusForbidden; refused != (tt.status == http.StatusForbidden) {
				t.Errorf("%s: %s: got %d, want %d", tt.name, path, resp.StatusCode, tt.status)
			}
		}
	}
	// Where others reach it, a monitor calls it by any name.
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://spillway-ops.prod.svc:9464/metrics", nil)
	fenced(":9464", http.NotFoundHandler()).ServeHTTP(w, r)
	if w.Code != http.StatusNotFound {
		t.Errorf("on all interfaces: got %d, want the request to pass", w.Code)
	}
}
