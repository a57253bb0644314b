package main

import (
	"context"
	"errors"
	"strings"

	"spillway/gateway"
	"spillway/gateway/fanout"
)

func gatewayCommand() command {
	return command{
		name:    "gateway",
		summary: "only the GRIP gateway, in front of HTTP origins; no Kafka",
		help: `  spillway gateway
      with ROUTES=* localhost:8000 in .env, in front of an API on port 8000

Usage: spillway gateway

Passes requests on to HTTP origins, holds those that the origin answers with
Grip-Hold, and sends them what is published to their channels. It takes no
options: all settings are environment variables. The most used:

  ROUTES, ROUTES_FILE  routes in the grammar of Pushpin's routes file
  HTTP_ADDR            where clients connect, :7999
  CONTROL_ADDR         /publish/, /channels and /connections, 127.0.0.1:5561
  CONTROL_KEY          what the control API asks publishers for
  SIG_KEY, SIG_ISS     how origins know requests of this gateway (Grip-Sig)
  OPS_ADDR             /metrics, /livez and /readyz, 127.0.0.1:9464

'spillway help config' lists them all.
`,
		run: func(ctx context.Context, p *process, args []string) error {
			if len(args) > 0 {
				return wrongUsage("takes no argument, but got %q", args[0])
			}
			return runGateway(ctx, p)
		},
	}
}

// runGateway runs only the gateway until ctx ends, then drains.
func runGateway(ctx context.Context, p *process) error {
	var cfg Config
	var gwCfg gateway.Config
	warnings, err := p.load(&cfg, &gwCfg)
	if err != nil {
		return err
	}
	gwCfg.EventsPath = "" // there is no built-in origin
	p.limitHeap(&gwCfg)
	log := newLogger(cfg, p.stderr, p.terminal)
	for _, w := range warnings {
		log.Warn(w)
	}
	if strings.TrimSpace(gwCfg.Routes) == "" && gwCfg.RoutesFile == "" {
		log.Warn("no routes: every request is answered 502; set ROUTES or ROUTES_FILE")
	}
	reg := newRegistry()
	ops, err := newOps(cfg, reg, log.With("part", "ops"))
	if err != nil {
		return err
	}
	engine := fanout.New(gwCfg.Fanout(), log.With("part", "fanout"), reg)
	gw, err := gateway.New(gwCfg, engine, nil, log.With("part", "gateway"), reg)
	if err != nil {
		return errors.Join(err, ops.Shutdown(ctx))
	}
	if err := gw.Listen(); err != nil {
		return errors.Join(usageError{err}, ops.Shutdown(ctx))
	}
	log.Info("serving", "http", gw.Addr().String(), "version", readBuild().version)
	return lifecycle(ctx, cfg, log, ops,
		part{"gateway", gw.Run, gw.Drain},
		part{"ops", ops.Run, ops.Shutdown},
		part{"secrets", cfg.Secrets.Watch(log.With("part", "secrets"), reg), nil},
		part{"hangups", hangups(gw.ReloadRoutes, gw.ReopenAudit, cfg.Secrets.Reload), nil},
	)
}
