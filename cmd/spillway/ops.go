package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"spillway/gateway/control"
)

// newRegistry returns the registry of one program, with what is known of the
// Go runtime, the process and the build.
func newRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	build := readBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "spillway_build_info",
		Help:        "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": build.version, "commit": build.commit, "goversion": build.goVersion},
	})
	info.Set(1)
	reg.MustRegister(info)
	return reg
}

// An opsServer is the HTTP server for operators on OPS_ADDR: /metrics,
// /livez, /readyz and, with DEBUG=true, /debug/pprof/.
//
// /livez says 200 as long as the process answers: restarting it helps with
// nothing else. /readyz says 200 between Started and Draining while every
// check passes, and 503 with the reasons otherwise; with an Accept that names
// application/json the answer is
//
//	{"ready":false,"reasons":{"kafka":"no broker answers"}}
type opsServer struct {
	mux      *http.ServeMux
	listener net.Listener // nil when OPS_ADDR is empty
	server   *http.Server
	log      *slog.Logger

	mu     sync.Mutex
	phase  string           // guarded by mu; why not ready: "starting", "draining", or "" when it is up to checks
	checks []readinessCheck // guarded by mu
}

// A readinessCheck says why its part is not ready, or nil. It must not block.
type readinessCheck struct {
	name  string
	ready func() error
}

// newOps listens at once, so that an address in use is known before anything
// else begins; Run serves.
func newOps(cfg Config, reg *prometheus.Registry, log *slog.Logger) (*opsServer, error) {
	o := &opsServer{mux: http.NewServeMux(), log: log, phase: "starting"}
	o.server = &http.Server{
		Handler:           fenced(cfg.OpsAddr, o.mux),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	o.mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		Registry: reg,
	}))
	o.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
	})
	o.mux.HandleFunc("GET /readyz", o.readyz)
	if cfg.Debug {
		o.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		o.mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		o.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		o.mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		o.mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
		o.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	if cfg.OpsAddr == "" {
		return o, nil
	}
	if cfg.Debug && !control.IsLoopback(cfg.OpsAddr) {
		log.Warn("DEBUG=true lets whoever reaches OPS_ADDR profile this process", "addr", cfg.OpsAddr)
	}
	var err error
	var lc net.ListenConfig // its context would only bound the look-up of a host name
	if o.listener, err = lc.Listen(context.Background(), "tcp", cfg.OpsAddr); err != nil {
		return nil, fmt.Errorf("OPS_ADDR=%s: %w", cfg.OpsAddr, err)
	}
	return o, nil
}

// fenced keeps web pages away from what only this machine is to reach: loopback
// is no fence against those that its own browser shows. Elsewhere a balancer or
// a monitor may give any Host.
func fenced(addr string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !control.OwnOrigin(r) || control.IsLoopback(addr) && !control.KnownHost(r.Host, nil) {
			answer(w, http.StatusForbidden, "text/plain; charset=utf-8", []byte("Not for web pages; call this port by its IP address or as localhost.\n"))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// Handle adds a page for operators. Call it before Run.
func (o *opsServer) Handle(pattern string, h http.Handler) { o.mux.Handle(pattern, h) }

// AddCheck makes /readyz depend on ready, which is called for each request
// and must not block.
func (o *opsServer) AddCheck(name string, ready func() error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.checks = append(o.checks, readinessCheck{name, ready})
}

// Started ends the phase in which /readyz says "starting".
func (o *opsServer) Started() { o.setPhase("") }

// Draining makes /readyz say 503 for good.
func (o *opsServer) Draining() { o.setPhase("draining") }

func (o *opsServer) setPhase(phase string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.phase != "draining" { // there is no way back
		o.phase = phase
	}
}

// Addr is where it listens; nil when OPS_ADDR is empty.
func (o *opsServer) Addr() net.Addr {
	if o.listener == nil {
		return nil
	}
	return o.listener.Addr()
}

// Run serves until Shutdown or until ctx ends; then it returns nil.
func (o *opsServer) Run(ctx context.Context) error {
	if o.listener == nil {
		<-ctx.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { o.server.Close() })
	defer stop()
	o.log.Info("ops listening", "addr", o.listener.Addr().String())
	if err := o.server.Serve(o.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown ends Run after the requests in flight, or when ctx ends.
func (o *opsServer) Shutdown(ctx context.Context) error {
	err := o.server.Shutdown(ctx)
	if o.listener != nil {
		o.listener.Close() // if Run was never called, the server does not know it
	}
	return err
}

func (o *opsServer) readyz(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	phase, checks := o.phase, o.checks
	o.mu.Unlock()

	reasons := make(map[string]string)
	var text strings.Builder
	because := func(name, reason string) {
		reasons[name] = reason
		fmt.Fprintf(&text, "%s: %s\n", name, reason)
	}
	if phase != "" {
		because("spillway", phase)
	}
	for _, c := range checks {
		if err := c.ready(); err != nil {
			because(c.name, err.Error())
		}
	}
	status := http.StatusOK
	if len(reasons) > 0 {
		status = http.StatusServiceUnavailable
	} else {
		text.WriteString("ok\n")
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		body, err := json.Marshal(struct {
			Ready   bool              `json:"ready"`
			Reasons map[string]string `json:"reasons,omitempty"`
		}{len(reasons) == 0, reasons})
		if err != nil { // strings only: cannot be
			panic(err)
		}
		answer(w, status, "application/json", append(body, '\n'))
		return
	}
	answer(w, status, "text/plain; charset=utf-8", []byte(text.String()))
}

func answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client went away: nobody to tell
}
