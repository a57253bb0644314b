// Package gateway is the web side of Spillway: it listens for clients, decides
// who answers a request, and holds responses open on channels as GRIP asks.
//
// A request goes to an origin: the one in this process (Origin), or an HTTP
// server that a route names. The origin answers with a response, and with
// instructions what to do with it: send it, hold it open on channels, ask for
// more at a link. What is held is a stream (stream.go), a long poll (poll.go)
// or a WebSocket (websocket.go); items reach it from the engine of package
// fanout. The gateway knows nothing of Kafka, nor of topics.
//
// Start at Gateway.ServeHTTP, then follow.run.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"spillway/gateway/cache"
	"spillway/gateway/control"
	"spillway/gateway/fanout"
	"spillway/gateway/front"
	"spillway/gateway/route"
	"spillway/gateway/sockjs"
	"spillway/gateway/upstream"
	"spillway/grip"
	"spillway/grip/bearer"
	"spillway/grip/secret"
)

// An Origin answers EVENTS_PATH in the same process, with GRIP instructions. It
// is called for each request of a client there, and with a request of the
// gateway's own (grip.FromLink), which has nothing of the client, for each next
// link. Its links are paths from the root.
type Origin interface {
	http.Handler

	// Refuse writes the answer that a request gets when the gateway cannot
	// serve it now, in the form that its client understands. code is one of
	// those of a stream-error event: draining, too-many-connections.
	Refuse(w http.ResponseWriter, r *http.Request, code, message string)
}

// A Gateway serves clients and the control API.
type Gateway struct {
	cfg        Config
	eventsPath string // with a slash at both ends; empty: off
	engine     *fanout.Engine
	origin     Origin // nil: none in this process
	log        *slog.Logger
	metrics    *metrics
	routes     *routes
	trusted    []netip.Prefix
	upstream   *upstream.Forwarder
	answers    *cache.Cache
	limits     *limits
	idle       *lobby
	pace       *paces // of requests; nil: any number
	drain      drain
	services   *services  // of filters
	farewells  *farewells // of sessions that have ended
	audit      *audit     // nil: none
	links      *links     // that streams ask together

	compression compression
	proxied     proxiedRules
	eventsRules eventsRules
	again       atomic.Int64 // requests with events that wait to be made once more

	clients *http.Server
	returns *returns // to clients, of what has left it
	sockjs  *sockjs.Server
	control *http.Server // nil: off

	mu              sync.Mutex
	clientListener  net.Listener // guarded by mu; nil before Listen
	controlListener net.Listener

	base   context.Context         // of all requests, and of what is done for streams
	cutOff context.CancelCauseFunc // ends it
}

// New makes a gateway that listens when Run or Listen is called. Without an
// origin only routes are served.
func New(cfg Config, engine *fanout.Engine, origin Origin, log *slog.Logger, reg prometheus.Registerer) (*Gateway, error) {
	g := &Gateway{
		cfg:        cfg,
		eventsPath: cfg.NormalEventsPath(),
		engine:     engine,
		origin:     origin,
		log:        log,
		metrics:    newMetrics(reg),
		returns:    newReturns(),
	}
	g.drain.init()
	g.services, g.farewells, g.links = newServices(g, reg), newFarewells(g, reg), newLinks(g, reg)
	g.metrics.asPushpin(cfg.PrometheusPrefix, engine, reg)
	g.compression, _ = parseCompression(cfg.Compression) // it was validated
	g.proxied = newProxiedRules(int(cfg.MessageMaxBytes))
	g.eventsRules = newEventsRules(int(cfg.EventsMessageMaxBytes))
	var err error
	if g.audit, err = newAudit(&g.cfg, log.With("part", "audit"), reg); err != nil {
		return nil, err
	}
	if g.routes, err = newRoutes(&g.cfg, log, reg); err != nil {
		return nil, err
	}
	if g.trusted, err = cfg.trustedProxies(); err != nil {
		return nil, err
	}
	g.limits = newLimits(cfg.capacity(maxDescriptors()), cfg.MaxConnectionsPerIP, cfg.MaxConnectionsPerSubject)
	g.metrics.limit.Set(float64(g.limits.most))
	g.idle = newLobby(g.limits.idle, g.metrics.refused[refusedIdle])
	g.metrics.countIdle(g.idle, reg)
	g.pace = newPaces(cfg.RequestRatePerIP)
	if g.upstream, err = newUpstream(cfg, g.trusted, log, reg); err != nil {
		return nil, err
	}
	base, cutOff := context.WithCancelCause(context.Background())
	g.base, g.cutOff = base, cutOff
	g.answers = cache.New(cache.Config{
		MaxBytes:        int64(cfg.CacheBytes()),
		MaxAnswer:       int64(cfg.mostAnswer()),
		PublishInterval: cfg.CachePublishInterval,
		Logs:            engine,
		Spawn:           g.drain.spawn,
		Base:            base,
	}, reg)
	g.sockjs = newSockJS(g, log, reg)
	g.clients = &http.Server{
		Handler:           g,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withConn,
		ConnState:         g.idle.changed,
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    int(cfg.MaxHeaderBytes),
		ErrorLog:          slog.NewLogLogger(log.With("part", "http").Handler(), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 500},
	}
	// Behind a proxy that speaks it, many streams share a connection without
	// TLS. Nobody else gets a second protocol on the port (see preface).
	g.clients.Protocols = new(http.Protocols)
	g.clients.Protocols.SetHTTP1(true)
	g.clients.Protocols.SetHTTP2(true)
	g.clients.Protocols.SetUnencryptedHTTP2(len(g.trusted) > 0)
	if cfg.TLSCertFile != "" {
		cert, err := newCertificate(cfg.certificateFiles(), log)
		if err != nil {
			return nil, err
		}
		cert.measure(reg)
		g.clients.TLSConfig = cert.config()
	}
	if cfg.ControlAddr != "" {
		keys, err := secret.Follow(cfg.Secrets, "CONTROL_KEY", string(cfg.ControlKey), parseControlKeys)
		if err != nil {
			return nil, fmt.Errorf("CONTROL_KEY: %w", err)
		}
		realms, err := secret.Follow(cfg.Secrets, "CONTROL_REALMS", string(cfg.ControlRealms), parseRealms)
		if err != nil {
			return nil, err
		}
		handler := control.NewHandler(control.Config{
			Keys:    keys,
			Realms:  realms,
			Hosts:   trimmed(cfg.ControlHosts),
			MaxBody: int64(cfg.ControlMaxBody),
			Metrics: reg,
		}, &backend{g: g}, log.With("part", "control"))
		g.control = &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout:       time.Minute,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    grip.MaxPublishHead,
			ErrorLog:          g.clients.ErrorLog,
		}
	}
	g.warn()
	return g, nil
}

func newUpstream(cfg Config, trusted []netip.Prefix, log *slog.Logger, reg prometheus.Registerer) (*upstream.Forwarder, error) {
	sigKey, err := secret.Follow(cfg.Secrets, "SIG_KEY", string(cfg.SigKey), parseSigKey)
	if err != nil {
		return nil, fmt.Errorf("SIG_KEY: %w", err)
	}
	upstreamKeys, err := secret.Follow(cfg.Secrets, "UPSTREAM_KEY", string(cfg.UpstreamKey), parseUpstreamKeys)
	if err != nil {
		return nil, fmt.Errorf("UPSTREAM_KEY: %w", err)
	}
	roots, err := upstream.LoadRoots(cfg.UpstreamCAFile)
	if err != nil {
		return nil, fmt.Errorf("UPSTREAM_CA_FILE: %w", err)
	}
	forwardedFor, err := upstream.ParseForwardedFor(cfg.XForwardedFor)
	if err != nil {
		return nil, fmt.Errorf("X_FORWARDED_FOR: %w", err)
	}
	forwardedForTrusted, err := upstream.ParseForwardedFor(cfg.XForwardedForTrusted)
	if err != nil {
		return nil, fmt.Errorf("X_FORWARDED_FOR_TRUSTED: %w", err)
	}
	linkHosts, err := upstream.ParseLinkHosts(cfg.LinkHosts)
	if err != nil {
		return nil, fmt.Errorf("LINK_HOSTS: %w", err)
	}
	return upstream.New(upstream.Config{
		Features:       slices.Concat(upstream.Features, features),
		SigKey:         sigKey,
		SigIss:         cfg.SigIss,
		UpstreamKeys:   upstreamKeys,
		TrustedProxies: trusted,
		Roots:          roots,

		Proto:               upstream.ProtoHeader(cfg.SetXForwardedProtocol),
		ForwardedFor:        forwardedFor,
		ForwardedForTrusted: forwardedForTrusted,
		CDNLoop:             cfg.CDNLoop,
		LinkHosts:           linkHosts,
		NeedMark:            cfg.OrigHeadersNeedMark,
		AcceptPushpinRoute:  cfg.AcceptPushpinRoute,
		ConnectTimeout:      cfg.UpstreamConnectTimeout,
		ResponseTimeout:     cfg.UpstreamTimeout,
	}, log.With("part", "upstream"), reg), nil
}

// warn says at start what an operator should know.
func (g *Gateway) warn() {
	if g.cfg.SigKey == "changeme" && !g.routes.now().Empty() {
		g.log.Warn("SIG_KEY has its public default: origins cannot tell our requests from forged ones")
	}
	g.tellOverrides(g.routes.now())
	g.routes.changed = func(table *route.Table) {
		g.upstream.Keep(table.Routes())
		g.tellOverrides(table)
	}
}

// tellOverrides names the routes that take paths from the built-in origin.
func (g *Gateway) tellOverrides(table *route.Table) {
	if g.origin == nil || g.eventsPath == "" {
		return
	}
	for _, rt := range table.Routes() {
		if g.overrides(rt) {
			g.log.Info("a route takes precedence over the built-in origin", "path", rt.PathBeg, "events_path", g.eventsPath, "route", rt.String())
		}
	}
}

// overrides reports whether a route wins over the built-in origin for what it
// matches: its path_beg equals EVENTS_PATH or lies inside.
func (g *Gateway) overrides(rt *route.Route) bool {
	return strings.HasPrefix(rt.PathBeg, g.eventsPath) || rt.PathBeg+"/" == g.eventsPath
}

// RoutesAway reports whether a route has taken the events of a topic from the
// origin in this process, for clients like that of r: what it answers there must
// not be had here by another way.
func (g *Gateway) RoutesAway(r *http.Request, topic string) bool {
	table := g.routes.now()
	if !slices.ContainsFunc(table.Routes(), g.overrides) {
		return false
	}
	socket := r.Header.Get("Accept") == grip.ContentTypeEvents // as the origin is asked
	rt, matched := table.Match(r.Host, g.eventsPath+url.PathEscape(topic)+"/", socket, g.upstream.ClientTLS(r))
	return matched && g.overrides(rt)
}

// Listen opens the listeners, so that Addr is known before Run. Listening twice
// is fine.
func (g *Gateway) Listen() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.clientListener != nil {
		return nil
	}
	l, err := net.Listen("tcp", g.cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("HTTP_ADDR=%s: %w", g.cfg.HTTPAddr, err)
	}
	if g.control != nil {
		c, err := net.Listen("tcp", g.cfg.ControlAddr)
		if err != nil {
			l.Close()
			return fmt.Errorf("CONTROL_ADDR=%s: %w", g.cfg.ControlAddr, err)
		}
		g.controlListener = front.Listen(c, front.Config{
			Handler:      g.control.Handler,
			Quick:        control.Quick,
			MaxHead:      g.control.MaxHeaderBytes,
			MaxBody:      int(g.cfg.ControlMaxBody),
			FirstTimeout: g.control.ReadHeaderTimeout,
			IdleTimeout:  g.control.IdleTimeout,
			Log:          g.log.With("part", "control"),
		})
	}
	clients := listen(l, g.limits.sockets, g.idle, g.metrics.refused)
	clients.pace, clients.trusted, clients.encrypted = newPaces(g.cfg.ConnectRatePerIP), g.trusted, g.clients.TLSConfig != nil
	if g.cfg.ProxyProtocol {
		clients.presented = &presentation{timeout: g.cfg.HeaderTimeout, log: g.log, sometimes: rate.Sometimes{First: 1, Interval: 10 * time.Second}}
	}
	g.clientListener = clients
	return nil
}

// Addr is where clients connect, known after Listen.
func (g *Gateway) Addr() net.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.clientListener == nil {
		return nil
	}
	return g.clientListener.Addr()
}

// ControlAddr is where the control API listens, known after Listen; nil if it
// is off.
func (g *Gateway) ControlAddr() net.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.controlListener == nil {
		return nil
	}
	return g.controlListener.Addr()
}

// Run listens and serves, and keeps the engine's logs within their age, until
// ctx ends or Drain has ended. Connections that are still there are cut.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.Listen(); err != nil {
		return err
	}
	encrypted := g.clients.TLSConfig != nil // as it is now: Serve makes one
	g.log.Info("listening", "http", g.Addr(), "tls", encrypted, "control", g.ControlAddr(), "routes", len(g.routes.now().Routes()),
		"max_descriptors", maxDescriptors())
	g.log.Info("connections are limited", "max_connections", g.limits.most, "because", g.limits.because)
	if most := maxDescriptors(); most > 0 && uint64(g.cfg.MaxConnections) > most {
		g.log.Warn("MAX_CONNECTIONS is more than the system lets this process have open; raise its limit of open files",
			"max_connections", g.cfg.MaxConnections, "max_descriptors", most)
	}
	engineCtx, stopEngine := context.WithCancel(ctx)
	g.audit.start()
	var group errgroup.Group
	group.Go(func() error { return g.engine.Run(engineCtx) })
	group.Go(func() error { return g.routes.watch(engineCtx) })
	group.Go(func() error {
		defer stopEngine()
		defer func() { _ = g.returns.Close() }()
		if encrypted {
			return served(g.clients.ServeTLS(g.clientListener, "", ""))
		}
		return served(g.clients.Serve(phrasing{g.clientListener, g}))
	})
	if !encrypted {
		// With TLS nothing leaves net/http, and a Serve that came before
		// ServeTLS would have switched HTTP/2 off.
		group.Go(func() error { return served(g.clients.Serve(phrasing{g.returns, g})) })
	}
	if g.control != nil {
		group.Go(func() error { return served(g.control.Serve(g.controlListener)) })
	}
	stop := context.AfterFunc(ctx, func() { g.close() })
	defer stop()
	err := group.Wait()
	g.close()
	g.drain.wait(context.Background()) // handlers end at once: their contexts have
	g.audit.finish()
	return err
}

// served turns the error of an orderly end into nil.
func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// close cuts everything. Closing twice is fine.
func (g *Gateway) close() {
	g.cutOff(errCutOff)
	_ = g.clients.Close()
	if g.control != nil {
		_ = g.control.Close()
	}
	g.upstream.Close()
}

// Drain turns new requests away and ends all streams, spread over the time
// until ctx ends, less a margin. Run returns afterwards. The error says how
// many had to be cut off.
func (g *Gateway) Drain(ctx context.Context) error {
	g.drain.begin(ctx)
	g.engine.Drain(g.drain.endOver)
	g.clients.SetKeepAlivesEnabled(false) // what is idle closes, what answers says so
	left := g.drain.wait(ctx)
	if left > 0 {
		g.cutOff(errCutOff)
	}
	var errs []error
	if left > 0 {
		errs = append(errs, fmt.Errorf("%d connections were cut off: %w", left, context.Cause(ctx)))
	}
	// What is not a stream gets to finish its answer. A connection on which nobody
	// has asked for anything is not cut off from it: browsers and others open some
	// to have them, and Shutdown waits five seconds for what they may say.
	if err := g.clients.Shutdown(ctx); err != nil && left == 0 && g.drain.wait(ctx) > 0 {
		errs = append(errs, fmt.Errorf("stop listening: %w", err))
	}
	_ = g.clients.Close()
	if g.control != nil {
		if err := g.control.Shutdown(ctx); err != nil {
			_ = g.control.Close()
		}
	}
	return errors.Join(errs...)
}

// ServeHTTP answers a client.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.drain.enter() // the handler, besides the visit that may outlive it
	defer g.drain.leave()
	if p := returnedPoll(r); p != nil {
		g.resume(p, w, r)
		return
	}
	rt, local := g.choose(r)
	out := newOutput(w, r, g.enter(), g.cfg.WriteTimeout)
	defer out.done()
	if !local && (g.cfg.AutoCrossOrigin || rt != nil && rt.CORS) {
		out.cross(crossingOf(r))
	}

	client := clientAddress(r, g.trusted)
	out.client = addressOf(client)
	if !g.acceptable(out, r, local, rt) {
		return
	}
	out.patience(g)
	rest, isSockJS := sockJSRest(r, rt)
	why, ok := g.ready()
	if ok {
		why, ok = g.inPace(r, out.client)
	}
	if ok && !(isSockJS && g.sockjs.Continues(rt.Host+rt.SockJS, rest)) { // or its session is counted
		why, ok = g.admit(&out.visit, client)
	}
	if !ok {
		g.refuse(out, r, local, rt, why, nil)
		return
	}

	if g.origin != nil && !local && g.isEvents(r.URL.Path) {
		// The origin that owns the path gets the token of a client that could not
		// send the field.
		var err error
		if r, err = bearer.Move(r); err != nil {
			out.text(http.StatusBadRequest, "Bad request: "+err.Error())
			return
		}
	}
	switch {
	case local:
		g.serveLocal(out, r)
	case isSockJS:
		g.serveSockJS(out, r, rt, rest)
	case rt == nil:
		out.text(http.StatusBadGateway, "Route not found")
	case isWebSocket(r):
		g.serveSocket(out, r, rt)
	case out.crossing != nil:
		g.serveCrossing(out, r, rt)
	default:
		g.serveRoute(out, r, rt)
	}
}

// choose decides who answers: a route, or the origin in this process (local),
// or nobody.
func (g *Gateway) choose(r *http.Request) (rt *route.Route, local bool) {
	table := g.routes.now()
	rt, matched := g.match(table, r)
	if g.origin != nil {
		if g.isEvents(r.URL.Path) && !(matched && g.overrides(rt)) {
			return nil, true
		}
		if table.Empty() {
			return nil, true // it has a page for / and an answer for the rest
		}
	}
	if !matched {
		return nil, false
	}
	return rt, false
}

func (g *Gateway) isEvents(path string) bool {
	return g.eventsPath != "" && (strings.HasPrefix(path, g.eventsPath) || path+"/" == g.eventsPath)
}

// ready says why no request is served now.
func (g *Gateway) ready() (why refusal, ok bool) {
	switch {
	case g.drain.begun():
		return refusedDraining, false
	case g.engine.Crowded():
		return refusedMemory, false
	}
	return "", true
}

// admit counts a request in, or says which limit it met.
func (g *Gateway) admit(v *visit, address netip.Addr) (why refusal, ok bool) {
	v.peer, why, v.admitted = g.limits.enter(address)
	return why, v.admitted
}

// acceptable answers a request that can only have come by mistake, or worse. Waiting
// would not help.
func (g *Gateway) acceptable(out *output, r *http.Request, local bool, rt *route.Route) bool {
	count := 0
	for _, values := range r.Header {
		count += len(values)
	}
	switch {
	case len(r.RequestURI) > int(g.cfg.MaxURLBytes):
		g.turnedAway(r, local, rt, refusedURL, nil)
		out.text(http.StatusRequestURITooLong, fmt.Sprintf("The URL has %d bytes; at most %d are taken.", len(r.RequestURI), g.cfg.MaxURLBytes))
	case count > g.cfg.MaxHeaders:
		g.turnedAway(r, local, rt, refusedHeaders, nil)
		out.text(http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("The request has %d headers; at most %d are taken.", count, g.cfg.MaxHeaders))
	default:
		return true
	}
	return false
}

// turnedAway notes that a request meets a limit.
func (g *Gateway) turnedAway(r *http.Request, local bool, rt *route.Route, why refusal, t *told) {
	g.metrics.refused[why].Inc()
	by := told{refused: string(why)}
	if t != nil {
		by.subject, by.topics = t.subject, t.topics
	}
	g.auditRefusal(r, local, rt, &by)
}

// inPace says why a client has to go slower.
func (g *Gateway) inPace(r *http.Request, client address) (why refusal, ok bool) {
	if c := arrivalOf(r); c != nil && c.hasty {
		return refusedConnectRate, false
	}
	if g.pace.take(client, time.Now()) != inPace {
		return refusedRate, false
	}
	return "", true
}

var refusals = map[refusal]struct {
	status     int
	code, text string
}{
	refusedDraining:    {http.StatusServiceUnavailable, "draining", "this server is restarting; connect again"},
	refusedTotal:       {http.StatusServiceUnavailable, "too-many-connections", "this server has as many connections as it may have; try again later"},
	refusedMemory:      {http.StatusServiceUnavailable, "too-many-connections", "too much waits for clients of this server that are slow; try again later"},
	refusedPerIP:       {http.StatusTooManyRequests, "too-many-connections", "your address has as many connections as it may have; close some"},
	refusedSubject:     {http.StatusTooManyRequests, "too-many-connections", "you have as many connections as you may have; close some"},
	refusedRate:        {http.StatusTooManyRequests, "too-many-connections", "your address makes more requests than it may; wait a little"},
	refusedConnectRate: {http.StatusTooManyRequests, "too-many-connections", "your address opens more connections than it may; wait a little"},
}

// refuse answers a request that was turned away, which is of a route, or of t, as far
// as that is known.
func (g *Gateway) refuse(out *output, r *http.Request, local bool, rt *route.Route, why refusal, t *told) {
	g.turnedAway(r, local, rt, why, t)
	text := refusals[why]
	out.Header().Set("Connection", "close")
	if local && !isWebSocket(r) {
		g.origin.Refuse(out, r, text.code, text.text)
		return
	}
	out.Header().Set("Retry-After", "5")
	out.text(text.status, text.text)
}

func trimmed(list []string) []string {
	var out []string
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
