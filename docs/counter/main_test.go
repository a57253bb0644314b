package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway"
	"spillway/gateway/fanout"
	"spillway/grip"
)

// A thousand clients see the number as it is, and each change, and the origin
// is asked once.
func TestThousandClientsCostOneRequest(t *testing.T) {
	const clients = 1000
	var asked atomic.Int32
	var c *counter
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		c.ServeHTTP(w, r)
	}))
	t.Cleanup(origin.Close)
	gw := startGateway(t, "*,cache "+origin.Listener.Addr().String())
	c = newCounter(grip.NewHTTPPublisher([]grip.Proxy{{ControlURI: "http://" + gw.ControlAddr().String()}}, nil))
	c.n = 41

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var ready, done sync.WaitGroup
	ready.Add(clients)
	for range clients {
		done.Go(func() {
			began := sync.OnceFunc(ready.Done)
			defer began()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+gw.Addr().String()+"/counter", nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			lines := bufio.NewScanner(resp.Body)
			for want := 41; want <= 44 && lines.Scan(); {
				if lines.Text() == "" {
					continue
				}
				if lines.Text() != fmt.Sprintf("data: %d", want) {
					t.Errorf("got %q, want %d", lines.Text(), want)
					return
				}
				want++
				began()
			}
			if err := lines.Err(); err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("got %d requests to the origin for %d clients, want 1", n, clients)
	}
	for range 3 {
		if err := c.raise(ctx); err != nil {
			t.Fatal(err)
		}
	}
	done.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("got %d requests to the origin after three changes, want 1", n)
	}
}

// Who comes after a change sees it.
func TestLaterClientsSeeTheChange(t *testing.T) {
	var c *counter
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.ServeHTTP(w, r) }))
	t.Cleanup(origin.Close)
	gw := startGateway(t, "*,cache "+origin.Listener.Addr().String())
	c = newCounter(grip.NewHTTPPublisher([]grip.Proxy{{ControlURI: "http://" + gw.ControlAddr().String()}}, nil))
	for want := range 5 {
		resp, err := http.Get("http://" + gw.Addr().String() + "/counter")
		if err != nil {
			t.Fatal(err)
		}
		line := ""
		for lines := bufio.NewScanner(resp.Body); line != fmt.Sprintf("data: %d", want); {
			if !lines.Scan() {
				t.Fatalf("got %q and then the end (%v), want %d", line, lines.Err(), want)
			}
			line = strings.TrimSpace(lines.Text())
		}
		resp.Body.Close()
		if err := c.raise(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func startGateway(t *testing.T, routes string) *gateway.Gateway {
	t.Helper()
	for name, value := range map[string]string{
		"HTTP_ADDR": "127.0.0.1:0", "CONTROL_ADDR": "127.0.0.1:0", "ROUTES": routes,
		"MAX_CONNECTIONS": "5000", "MEMORY_LIMIT": "1GiB", "CACHE_PUBLISH_INTERVAL": "50ms",
		// It has all of them ask their link once more, together, when a second has passed.
		"UPDATE_ON_FIRST_SUBSCRIPTION": "false",
	} {
		t.Setenv(name, value)
	}
	var cfg gateway.Config
	if err := envconfig.Process("", &cfg); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	engine := fanout.New(cfg.Fanout(), log, reg)
	gw, err := gateway.New(cfg, engine, nil, log, reg)
	if err != nil {
		t.Fatal(err)
	}
	if err := gw.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gw.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return gw
}
