package pushpintest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelseyhightower/envconfig"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway"
	"spillway/gateway/fanout"
)

// spillway is the gateway in this process.
type spillway struct {
	*gateway.Gateway
	engine *fanout.Engine
}

// settings are those of pushpin.conf, as the gateway's.
var settings = map[string]func(c *gateway.Config, value string){
	"sig_key":      func(c *gateway.Config, v string) { c.SigKey = gateway.Secret(v) },
	"sig_iss":      func(c *gateway.Config, v string) { c.SigIss = v },
	"upstream_key": func(c *gateway.Config, v string) { c.UpstreamKey = gateway.Secret(v) },

	"x_forwarded_for":          func(c *gateway.Config, v string) { c.XForwardedFor = strings.Split(v, ",") },
	"x_forwarded_for_trusted":  func(c *gateway.Config, v string) { c.XForwardedForTrusted = strings.Split(v, ",") },
	"set_x_forwarded_protocol": func(c *gateway.Config, v string) { c.SetXForwardedProtocol = v },
	"accept_x_forwarded_protocol": func(c *gateway.Config, _ string) {
		c.TrustedProxies = []string{"127.0.0.1"}
		c.XForwardedFor = []string{"truncate:65535"} // not the address of the proxy besides
	},
	"orig_headers_need_mark": func(c *gateway.Config, v string) { c.OrigHeadersNeedMark = strings.Split(v, ",") },
	"accept_pushpin_route":   func(c *gateway.Config, v string) { c.AcceptPushpinRoute = v == "true" },
	"auto_cross_origin":      func(c *gateway.Config, v string) { c.AutoCrossOrigin = v == "true" },
	"debug":                  func(c *gateway.Config, v string) { c.ProxyDebug = v == "true" },
}

// startSpillway starts a gateway that ends with the test.
func startSpillway(t *testing.T, routes, conf string, byTLS bool) (*spillway, error) {
	var cfg gateway.Config
	if err := envconfig.Process("", &cfg); err != nil {
		return nil, err
	}
	cfg.HTTPAddr, cfg.ControlAddr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.EventsPath, cfg.Routes = "", routes
	for _, l := range lines(conf) {
		name, value, _ := strings.Cut(l, "=")
		set, ok := settings[name]
		if !ok {
			return nil, fmt.Errorf("the gateway has no setting like %s", name)
		}
		set(&cfg, value)
	}
	if byTLS {
		dir := t.TempDir()
		if err := writeCertificate(dir, "gateway"); err != nil {
			return nil, err
		}
		cfg.TLSCertFile, cfg.TLSKeyFile = filepath.Join(dir, "gateway.crt"), filepath.Join(dir, "gateway.key")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if *only != "" {
		log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	reg := prometheus.NewRegistry()
	engine := fanout.New(cfg.Fanout(), log, reg)
	g, err := gateway.New(cfg, engine, nil, log, reg)
	if err != nil {
		return nil, err
	}
	if err := g.Listen(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return &spillway{g, engine}, nil
}

func (s *spillway) clients() string      { return s.Addr().String() }
func (s *spillway) clientsByTLS() string { return s.clients() }
func (s *spillway) control() string      { return s.ControlAddr().String() }

func (s *spillway) listening(channel string, n int, patience time.Duration) error {
	count := -1
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		count = 0
		infos, _ := s.engine.Channels("", 1000)
		for _, info := range infos {
			if info.Name == channel {
				count = info.Subscribers
			}
		}
		if count == n {
			return nil
		}
	}
	return fmt.Errorf("there are %d", count)
}
