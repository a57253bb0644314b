package grip_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway"
	"spillway/gateway/fanout"
	"spillway/grip"
)

// A world is what the examples run in: an origin, and a gateway in front of it.
type world struct {
	url     string       // of the gateway, as clients see it
	proxies []grip.Proxy // the gateway, as the origin sees it
	engine  *fanout.Engine
	stop    func()
}

// startWorld puts a gateway in front of an origin, which is told the proxies that
// it has. Options are those of its target.
func startWorld(origin func(proxies []grip.Proxy) http.Handler, options ...string) *world {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	server := httptest.NewUnstartedServer(nil)
	var cfg gateway.Config
	check(envconfig.Process("", &cfg))
	cfg.HTTPAddr, cfg.ControlAddr, cfg.EventsPath = "127.0.0.1:0", "127.0.0.1:0", ""
	cfg.Routes = "* " + strings.Join(append([]string{server.Listener.Addr().String()}, options...), ",")
	log, reg := slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry()
	engine := fanout.New(cfg.Fanout(), log, reg)
	gw, err := gateway.New(cfg, engine, nil, log, reg)
	check(err)
	check(gw.Listen())
	proxies, err := grip.ParseURLs("http://" + gw.ControlAddr().String() + "?verify-key=changeme")
	check(err)
	server.Config.Handler = origin(proxies)
	server.Start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gw.Run(ctx) }()
	return &world{
		url:     "http://" + gw.Addr().String(),
		proxies: proxies,
		engine:  engine,
		stop: func() {
			cancel()
			check(<-done)
			server.CloseClientConnections()
			server.Close()
		},
	}
}

// get is a client's request, whose answer may take its time.
func (w *world) get(path string) (lines *bufio.Scanner, end func()) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, nil)
	if err != nil {
		panic(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		panic(err)
	}
	return bufio.NewScanner(resp.Body), func() { resp.Body.Close(); cancel() }
}

// listening waits until n clients listen to a channel.
func (w *world) listening(channel string, n int) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		infos, _ := w.engine.Channels("", 100)
		for _, info := range infos {
			if info.Name == channel && info.Subscribers == n {
				return
			}
		}
	}
	panic(fmt.Sprintf("nobody listens to %s", channel))
}
