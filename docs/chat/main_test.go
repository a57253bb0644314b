package main

import (
	"bufio"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/kelseyhightower/envconfig"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway"
	"spillway/gateway/fanout"
	"spillway/grip"
)

// What one says, all hear, on whatever way they listen.
func TestChat(t *testing.T) {
	gw := startChat(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	say(ctx, t, gw, "first  of\nall")

	early := listen(ctx, t, gw, "")
	want(t, early, "id: 1", "data: first of all")
	socket, _, err := websocket.Dial(ctx, gw+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.CloseNow() }()
	write := func(text string) {
		t.Helper()
		if err := socket.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string) {
		t.Helper()
		_, got, err := socket.Read(ctx)
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	write("/since") // and be subscribed by the answer
	hear("you are here since ")
	write("second")
	hear("second")
	want(t, early, "id: 2", "data: second")
	say(ctx, t, gw, "third")
	hear("third")
	want(t, early, "id: 3", "data: third")

	want(t, listen(ctx, t, gw, "1"), "id: 2", "data: second", "id: 3", "data: third")
	if err := socket.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("got %v, want the origin's answer to the close", err)
	}
}

// Clients that reach the origin itself are sent away.
func TestChatWantsAProxy(t *testing.T) {
	key, err := grip.ParseKey("another")
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	newChat([]grip.Proxy{{VerifyKey: key}}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/chat", nil))
	if w.Code != http.StatusNotImplemented {
		t.Errorf("got %d, want 501", w.Code)
	}
}

// The page shows this program, and no other.
func TestPageShowsTheProgram(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../origins.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(program), "\npackage main\n")
	if _, shown, _ := strings.Cut(string(page), "```go\npackage main\n"); !strings.HasPrefix(shown, code+"```\n") {
		t.Error("docs/origins.md differs from docs/chat/main.go; copy what follows the comment")
	}
}

// startChat starts the origin and a gateway in front of it, and returns where
// clients find it.
func startChat(t *testing.T) string {
	t.Helper()
	origin := httptest.NewUnstartedServer(nil)
	for name, value := range map[string]string{
		"HTTP_ADDR": "127.0.0.1:0", "CONTROL_ADDR": "127.0.0.1:0", "EVENTS_PATH": "",
		"ROUTES": "* " + origin.Listener.Addr().String() + ",over_http", "SIG_KEY": "a secret",
	} {
		t.Setenv(name, value)
	}
	var cfg gateway.Config
	if err := envconfig.Process("", &cfg); err != nil {
		t.Fatal(err)
	}
	log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	gw, err := gateway.New(cfg, fanout.New(cfg.Fanout(), log, reg), nil, log, reg)
	if err != nil {
		t.Fatal(err)
	}
	if err := gw.Listen(); err != nil {
		t.Fatal(err)
	}
	proxies, err := grip.ParseURLs("http://" + gw.ControlAddr().String() + "?verify-key=a+secret")
	if err != nil {
		t.Fatal(err)
	}
	origin.Config.Handler = newChat(proxies)
	origin.Start()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gw.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		origin.CloseClientConnections()
		origin.Close()
	})
	return "http://" + gw.Addr().String()
}

func say(ctx context.Context, t *testing.T, gw, line string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, gw+"/chat", strings.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("got %s, want 200", resp.Status)
	}
}

func listen(ctx context.Context, t *testing.T, gw, lastEventID string) *bufio.Scanner {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, gw+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Last-Event-ID", lastEventID)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return bufio.NewScanner(resp.Body)
}

func want(t *testing.T, lines *bufio.Scanner, want ...string) {
	t.Helper()
	for _, w := range want {
		for lines.Scan() && (lines.Text() == "" || lines.Text() == ":") {
		}
		if lines.Text() != w {
			t.Fatalf("got %q, %v, want %q", lines.Text(), lines.Err(), w)
		}
	}
}
