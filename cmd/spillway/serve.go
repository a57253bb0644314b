package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"

	"spillway/gateway"
	"spillway/gateway/fanout"
	"spillway/grip/bytesize"
	"spillway/relay"
)

func serveCommand() command {
	return command{
		name:    "serve",
		summary: "Kafka topics at /events/<topic>/: relay and gateway in one process",
		help: `  spillway serve
      with KAFKA_CONSUMER_CONFIG={"bootstrap.servers":"localhost:9092"} in .env

Usage: spillway serve

Reads the Kafka topics that someone listens to, and serves them as Server-Sent
Events, WebSocket messages, NDJSON or long polls. It takes no options: all
settings are environment variables, and a .env file in the working directory is
read too. The most used:

  KAFKA_CONSUMER_CONFIG   consumer properties as JSON; needs bootstrap.servers
  TOPICS, TOPICS_EXCLUDE  patterns of the topics that are exposed; default all
  HTTP_ADDR               where clients connect, :7999
  ROUTES                  other paths go to your API, such as '* localhost:8000'
  CORS_ORIGINS            web origins whose pages may read
  OPS_ADDR                /metrics, /livez and /readyz, 127.0.0.1:9464

'spillway help config' lists them all; 'spillway check' tries them out.
SIGTERM drains and ends the program, a second one ends it at once.
`,
		run: func(ctx context.Context, p *process, args []string) error {
			if len(args) > 0 {
				return wrongUsage("takes no argument, but got %q", args[0])
			}
			s, log, err := p.settle()
			if err != nil {
				return err
			}
			return serve(ctx, s, log, nil)
		},
	}
}

// settings is the configuration of everything that serve runs.
type settings struct {
	program Config
	relay   relay.Config
	gateway gateway.Config
}

// settle reads the settings, begins to log, and bounds the heap.
func (p *process) settle() (settings, *slog.Logger, error) {
	var s settings
	warnings, err := s.load(p)
	if err != nil {
		return settings{}, nil, err
	}
	log := newLogger(s.program, p.stderr, p.terminal)
	for _, w := range warnings {
		log.Warn(w)
	}
	p.limitHeap(&s.gateway)
	return s, log, nil
}

// load reads and checks all of it, and copies what one part needs to know of
// another.
func (s *settings) load(p *process) (warnings []string, err error) {
	warnings, err = p.load(&s.program, &s.relay, &s.gateway)
	if s.gateway.NormalEventsPath() == "" {
		err = addProblem(err, errors.New("EVENTS_PATH=: serve has nothing to serve without a path; write /events/, or use spillway gateway"))
	}
	s.gateway.OtherMemory = s.relay.HistoryCacheBytes + s.pageMemory() + s.schemaMemory()
	s.shareSnapshots()
	s.gateway.OtherMemory += s.relay.SnapshotMemory
	if problem := s.checkMemory(); problem != nil && err == nil {
		err = addProblem(nil, problem)
	}
	if err != nil {
		return nil, err
	}
	s.relay.EventsPath = s.gateway.NormalEventsPath()
	s.relay.TellReaders = s.gateway.AuditLog != "" || s.gateway.MaxConnectionsPerSubject > 0
	s.relay.Instance = instanceName(s.gateway.HTTPAddr)
	return warnings, nil
}

// checkMemory holds the shares of memory that have a bound of their own against
// the whole.
func (s *settings) checkMemory() error {
	limit, logs := s.gateway.Memory()
	connections, answers := s.gateway.ConnectionMemory(), s.gateway.CacheBytes()
	if sum := logs + connections + answers + s.gateway.OtherMemory; sum > limit {
		return fmt.Errorf("MEMORY_LIMIT: there are %d bytes, and LOG_MEMORY (%d), HISTORY_CACHE_BYTES (%d), SNAPSHOT_MEMORY (%d), CATCHUP_PAGES of HISTORY_PAGE_BYTES (%d), SCHEMA_CACHE_BYTES (%d), CACHE_MEMORY (%d) and MAX_CONNECTIONS at %d each (%d) may take %d; lower one of them",
			int64(limit), int64(logs), int64(s.relay.HistoryCacheBytes), int64(s.relay.SnapshotMemory), int64(s.pageMemory()), int64(s.schemaMemory()), int64(answers), int64(s.gateway.ConnectionCost()), int64(connections), int64(sum))
	}
	return nil
}

// shareSnapshots chooses SNAPSHOT_MEMORY where nobody did.
func (s *settings) shareSnapshots() {
	if s.relay.SnapshotMemory > 0 {
		return
	}
	limit, logs := s.gateway.Memory()
	left := limit - logs - s.gateway.CacheBytes() - s.gateway.OtherMemory
	s.relay.SnapshotMemory = max(min(limit/8, left/2), 0)
}

// pageMemory is what the pages of history may take that are made at a time.
func (s *settings) pageMemory() bytesize.Bytes {
	return s.relay.HistoryPageBytes * bytesize.Bytes(s.relay.CatchupPages)
}

// schemaMemory is what schemas of keys and values may take.
func (s *settings) schemaMemory() bytesize.Bytes {
	if !s.relay.Registry.Enabled() {
		return 0
	}
	return s.relay.Registry.CacheBytes
}

// limitHeap makes the garbage collector keep to MEMORY_LIMIT, with a tenth for
// what is not heap. GOMEMLIMIT wins, as everywhere in Go.
func (p *process) limitHeap(cfg *gateway.Config) {
	if limit, _ := cfg.Memory(); p.env["GOMEMLIMIT"] == "" {
		debug.SetMemoryLimit(int64(limit - limit/10))
	}
}

// instanceName tells replicas apart that have the same group.instance.id, on
// one host too.
func instanceName(httpAddr string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	sum := sha256.Sum256([]byte(httpAddr))
	return host + "-" + hex.EncodeToString(sum[:4])
}

// serve runs relay and gateway in one process until ctx ends, then drains.
// ready, where not nil, is told the address of clients once they can connect.
//
// Start here: a record enters at relay.hub.process, becomes bytes in
// relay.channel.append, is kept by fanout.Engine, and leaves in gateway.
func serve(ctx context.Context, s settings, log *slog.Logger, ready func(httpAddr string)) error {
	reg := newRegistry()
	ops, err := newOps(s.program, reg, log.With("part", "ops"))
	if err != nil {
		return err
	}
	engine := fanout.New(s.gateway.Fanout(), log.With("part", "fanout"), reg)
	var gw *gateway.Gateway
	s.relay.Auth.Client = func(r *http.Request) (ip, proto string) { return gw.Sender(r) }
	rl, err := relay.New(s.relay, engine, log.With("part", "relay"), reg)
	if err != nil {
		return errors.Join(usageError{err}, ops.Shutdown(ctx))
	}
	s.gateway.CheckPublish = func(channel string) error {
		if rl.Owns(channel) {
			return fmt.Errorf("channel %q is a Kafka topic; produce to the topic instead", channel)
		}
		return nil
	}
	s.gateway.Owns = rl.Owns
	s.gateway.Listen = rl.Listen
	gw, err = gateway.New(s.gateway, engine, rl.Origin(), log.With("part", "gateway"), reg)
	if err != nil {
		return errors.Join(err, rl.Close(ctx), ops.Shutdown(ctx))
	}
	rl.Leave(gw.RoutesAway)
	if err := gw.Listen(); err != nil {
		return errors.Join(usageError{err}, rl.Close(ctx), ops.Shutdown(ctx))
	}
	ops.AddCheck("kafka", rl.Ready)
	ops.Handle("GET /config", rl.ConfigHandler())
	rl.LogConfig()
	if !s.relay.Auth.Enabled() {
		log.Warn("every topic that TOPICS exposes is readable by anyone who reaches HTTP_ADDR", "addr", gw.Addr().String(), "events", s.relay.EventsPath)
	}
	log.Info("serving", "http", gw.Addr().String(), "events", s.relay.EventsPath, "version", readBuild().version)
	if ready != nil {
		ready(gw.Addr().String())
	}
	return lifecycle(ctx, s.program, log, ops,
		part{"gateway", gw.Run, gw.Drain},  // no new clients, and those that are here leave in order
		part{"relay", rl.Run, nil},         // the last records are out
		part{"kafka", nil, rl.Close},       // commit, then leave the group: never the other way round
		part{"ops", ops.Run, ops.Shutdown}, // metrics and probes answer to the very end
		part{"secrets", s.program.Secrets.Watch(log.With("part", "secrets"), reg), nil},
		part{"hangups", hangups(gw.ReloadRoutes, gw.ReopenAudit, s.program.Secrets.Reload), nil},
	)
}

// addProblem adds to the configuration problems that were found before.
func addProblem(err, problem error) error {
	var usage usageError
	if errors.As(err, &usage) {
		return usageError{configError(append(flatten(usage.error), problem))}
	}
	return usageError{configError{problem}}
}
