package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"spillway/gateway/route"
)

// maxRoutesFile bounds what is read of ROUTES_FILE, in bytes.
const maxRoutesFile = 16 << 20

// routes reads ROUTES_FILE and ROUTES.
func (c *Config) routes() (*route.Table, error) {
	var sources []route.Source
	if c.RoutesFile != "" {
		text, err := readRoutesFile(c.RoutesFile)
		if err != nil {
			return nil, fmt.Errorf("ROUTES_FILE: %w", err)
		}
		sources = append(sources, route.Source{Name: c.RoutesFile, Text: text})
	}
	sources = append(sources, route.Source{Name: "ROUTES", Text: c.Routes, Semicolons: true})
	return route.Parse(sources...)
}

func readRoutesFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRoutesFile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxRoutesFile {
		return "", fmt.Errorf("%s: more than %d bytes; write fewer routes", name, maxRoutesFile)
	}
	return string(text), nil
}

// routes is the table of routes in force. A request keeps the route that it was
// given, whatever comes afterwards.
type routes struct {
	cfg     *Config
	table   atomic.Pointer[route.Table]
	metrics routeMetrics
	log     *slog.Logger
	changed func(*route.Table) // told of each new table

	mu     sync.Mutex  // one reads at a time
	loaded os.FileInfo // of ROUTES_FILE when it was read; nil: it was not there; guarded by mu
}

type routeMetrics struct {
	count   prometheus.Gauge
	good    prometheus.Gauge
	reloads *prometheus.CounterVec // by result
}

func newRoutes(cfg *Config, log *slog.Logger, reg prometheus.Registerer) (*routes, error) {
	with := promauto.With(reg)
	r := &routes{cfg: cfg, log: log, metrics: routeMetrics{
		count: with.NewGauge(prometheus.GaugeOpts{Name: "spillway_routes", Help: "Routes in force."}),
		good: with.NewGauge(prometheus.GaugeOpts{Name: "spillway_routes_last_reload_successful",
			Help: "1 while the routes in force are those of ROUTES_FILE, 0 while it has mistakes and older ones are."}),
		reloads: with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_routes_reloads_total",
			Help: "Times ROUTES_FILE was read again, by result: ok, failed."}, []string{"result"}),
	}}
	for _, result := range []string{"ok", "failed"} {
		r.metrics.reloads.WithLabelValues(result)
	}
	r.loaded = r.stat() // before it is read: what changes in between is read again
	table, err := cfg.routes()
	if err != nil {
		return nil, err
	}
	r.set(table)
	return r, nil
}

func (r *routes) set(table *route.Table) {
	r.table.Store(table)
	r.metrics.count.Set(float64(len(table.Routes())))
	r.metrics.good.Set(1)
}

// now is the table in force.
func (r *routes) now() *route.Table { return r.table.Load() }

// read reads the routes again. While they have mistakes, the old ones stay.
func (r *routes) read() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = r.stat()
	table, err := r.cfg.routes()
	if err != nil {
		r.metrics.reloads.WithLabelValues("failed").Inc()
		r.metrics.good.Set(0)
		r.log.Error("routes not read again; the old ones stay", "file", r.cfg.RoutesFile, "err", err)
		return
	}
	r.set(table)
	r.metrics.reloads.WithLabelValues("ok").Inc()
	r.log.Info("routes read again", "file", r.cfg.RoutesFile, "routes", len(table.Routes()))
	r.changed(table)
}

// stat is of ROUTES_FILE as it is now; nil if it is not there.
func (r *routes) stat() os.FileInfo {
	if r.cfg.RoutesFile == "" {
		return nil
	}
	info, err := os.Stat(r.cfg.RoutesFile)
	if err != nil {
		return nil
	}
	return info
}

// routesPoll is how often ROUTES_FILE is looked at.
const routesPoll = 500 * time.Millisecond

// watch reads ROUTES_FILE again when it has changed and is at rest: half a file
// is often a valid one. A mounted ConfigMap changes by a link to another file,
// of which change notifications say nothing.
func (r *routes) watch(ctx context.Context) error {
	if r.cfg.RoutesFile == "" {
		return nil
	}
	tick := time.NewTicker(routesPoll)
	defer tick.Stop()
	var last os.FileInfo
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		info := r.stat()
		r.mu.Lock()
		is := sameFile(info, r.loaded)
		r.mu.Unlock()
		if !is && sameFile(info, last) {
			r.read()
		}
		last = info
	}
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// match chooses the route of a request, by its id where the client may name it.
func (g *Gateway) match(table *route.Table, r *http.Request) (*route.Route, bool) {
	if ids := r.Header["Pushpin-Route"]; g.cfg.AcceptPushpinRoute && len(ids) > 0 {
		return table.ByID(ids[0])
	}
	return table.Match(r.Host, route.EncodedPath(r), isWebSocket(r), g.upstream.ClientTLS(r))
}

// ReloadRoutes reads ROUTES_FILE again, and the keys that its routes name, at
// once. What is wrong with them is logged, and the old routes stay.
func (g *Gateway) ReloadRoutes() { g.routes.read() }
