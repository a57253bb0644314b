package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"spillway/grip"
	"spillway/grip/secret"
	"spillway/relay"
)

func relayCommand() command {
	return command{
		name:    "relay",
		summary: "only the relay: publish topics to the GRIP proxies of GRIP_URL",
		help: `  spillway relay
      with KAFKA_CONSUMER_CONFIG and GRIP_URL=http://localhost:5561 in .env

Usage: spillway relay

Reads Kafka topics as a member of group.id, and publishes every record to all
GRIP proxies that GRIP_URL names: Spillway gateways, Pushpin, Fastly Fanout. It
commits what all of them have accepted. It takes no options: all settings are
environment variables. The most used:

  KAFKA_CONSUMER_CONFIG   consumer properties; bootstrap.servers and group.id
  GRIP_URL                proxies, blank or comma separated
  RELAY_CHANNELS          partition (<topic>.<p>), topic (<topic>), or both
  TOPICS, TOPICS_EXCLUDE  patterns of the topics that are published

'spillway help config' lists them all.
`,
		run: func(ctx context.Context, p *process, args []string) error {
			if len(args) > 0 {
				return wrongUsage("takes no argument, but got %q", args[0])
			}
			return runRelay(ctx, p)
		},
	}
}

// runRelay forwards until ctx ends.
func runRelay(ctx context.Context, p *process) error {
	var cfg Config
	rlCfg := relay.Config{RequireGroup: true}
	warnings, err := p.load(&cfg, &rlCfg)
	proxies, urlErr := followProxies(&rlCfg)
	if urlErr != nil {
		err = addProblem(err, fmt.Errorf("GRIP_URL: %w", urlErr))
	}
	if rlCfg.CursorKey != "" {
		err = addProblem(err, errors.New("CURSOR_KEY: relay cannot seal cursors, since GRIP proxies put them together from the ids of single partitions; unset it, or use spillway serve"))
	}
	if rlCfg.Auth.Enabled() {
		err = addProblem(err, errors.New("AUTH_URL, JWT_ISSUER, JWT_JWKS_URL, JWT_KEY: relay publishes to proxies and answers no client, so nothing would be protected by these; unset them here, and let the origin that the proxies ask say who may read"))
	}
	if err != nil {
		return err
	}
	log := newLogger(cfg, p.stderr, p.terminal)
	for _, w := range warnings {
		log.Warn(w)
	}
	rlCfg.Instance = instanceName("relay")
	reg := newRegistry()
	ops, err := newOps(cfg, reg, log.With("part", "ops"))
	if err != nil {
		return err
	}
	f, err := relay.NewForwarder(rlCfg, proxies, log.With("part", "relay"), reg)
	if err != nil {
		return errors.Join(usageError{err}, ops.Shutdown(ctx))
	}
	ops.AddCheck("relay", f.Ready)
	log.Info("forwarding", "proxies", proxies.Get().count, "channels", rlCfg.RelayChannels, "version", readBuild().version)
	return lifecycle(ctx, cfg, log, ops,
		part{"relay", f.Run, nil},
		part{"kafka", nil, f.Close},
		part{"ops", ops.Run, ops.Shutdown},
		part{"secrets", cfg.Secrets.Watch(log.With("part", "secrets"), reg), nil},
		part{"hangups", hangups(cfg.Secrets.Reload), nil},
	)
}

// proxies publish to all that GRIP_URL names, as it is now.
type proxies struct{ *secret.Value[proxyList] }

type proxyList struct {
	*grip.HTTPPublisher
	count int
}

func followProxies(cfg *relay.Config) (proxies, error) {
	v, err := secret.Follow(cfg.Secrets, "GRIP_URL", cfg.GripURL, func(text string) (proxyList, error) {
		urls, err := grip.ParseURLs(text)
		if err == nil && len(urls) == 0 {
			err = errors.New("not set; name the proxies to publish to, such as http://localhost:5561")
		}
		return proxyList{grip.NewHTTPPublisher(urls, http.DefaultClient), len(urls)}, err
	})
	return proxies{v}, err
}

// Publish implements grip.Publisher.
func (p proxies) Publish(ctx context.Context, items ...grip.Item) error {
	return p.Get().Publish(ctx, items...)
}
