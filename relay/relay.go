package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no CA roots of its own

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"spillway/grip"
	"spillway/relay/auth"
	"spillway/relay/cursor"
	"spillway/relay/filter"
	"spillway/relay/properties"
)

const (
	// pingInterval is how often Kafka is asked whether it is there, for Ready.
	pingInterval = 2 * time.Second
	pingTimeout  = 3 * time.Second
	// readerMetadataMinAge is how soon the reader may ask for metadata again: a
	// first listener waits for it.
	readerMetadataMinAge = 250 * time.Millisecond
	// maxRefreshInterval bounds how long a new topic or partition goes
	// unnoticed, whatever the consumer properties say.
	maxRefreshInterval = 10 * time.Second
)

// A Relay is the Kafka side of `serve`: it reads the topics that someone
// listens to and appends their records to a gateway in the same process.
type Relay struct {
	log     *slog.Logger
	props   *properties.Properties
	reader  *kgo.Client // live records
	asker   *kgo.Client // metadata, offsets, history
	catalog *catalog
	hub     *hub
	blocks  *blocks
	decoder *decoder
	auth    *auth.Authenticator // nil: nobody is asked who they are
	origin  *Origin
	duty    *duty // nil without group.id
	refresh time.Duration
	pings   sync.WaitGroup
	kafka   atomic.Pointer[error] // what the last ping said; nil before the first
}

// New connects to nothing yet; Run does. The error says which variable is wrong.
func New(cfg Config, gateway grip.Gateway, log *slog.Logger, reg prometheus.Registerer) (*Relay, error) {
	props, err := cfg.kafka()
	if err != nil {
		return nil, err
	}
	exposed, err := exposure(cfg.Topics, cfg.TopicsExclude, props.TopicBlacklist())
	if err != nil {
		return nil, err
	}
	rules, err := cfg.rules()
	if err != nil {
		return nil, err
	}
	sealer, err := newSealer(&cfg)
	if err != nil {
		return nil, fmt.Errorf("LINK_KEY: %w", err)
	}
	r := &Relay{log: log, props: props, refresh: min(props.MetadataMaxAge(), maxRefreshInterval)}
	if cfg.CursorKey == "" {
		rules.warn(log)
	}
	if r.decoder, err = newDecoder(&cfg, rules, log, reg); err != nil {
		return nil, err
	}
	veil, err := newVeil(&cfg, r.decoder)
	if err != nil {
		return nil, fmt.Errorf("CURSOR_KEY: %w", err)
	}
	readerOpts := append(props.ClientOpts("read", log), props.ReadOpts()...)
	// A topic that nobody read before is read as soon as its leaders are known.
	readerOpts = append(readerOpts, kgo.MetadataMinAge(min(readerMetadataMinAge, props.MetadataMaxAge())), kgo.WithPools(new(recordPool)))
	if r.reader, err = kgo.NewClient(readerOpts...); err != nil {
		return nil, fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)
	}
	if r.asker, err = kgo.NewClient(props.ClientOpts("ask", log)...); err != nil {
		r.reader.Close()
		return nil, fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)
	}
	queries, err := newQueries(filter.Limits{Length: int(cfg.FilterMaxBytes), Cost: uint64(cfg.FilterMaxCost)}, r.decoder, reg)
	if err != nil {
		return nil, err
	}
	admin := kadm.NewClient(r.asker)
	r.catalog = newCatalog(r.asker, exposed, log)
	offsets := newOffsets(admin)
	r.blocks = newBlocks(r.asker, r.catalog, offsets, r.decoder, props.FetchSettings(), int64(cfg.HistoryCacheBytes), reg)
	r.hub = &hub{
		log: log, client: r.reader, gateway: gateway, catalog: r.catalog, offsets: offsets, decoder: r.decoder, veil: veil,
		path: cfg.EventsPath, linger: cfg.TopicLinger, heartbeat: cfg.HeartbeatInterval, maxBytes: int(cfg.EventMaxBytes), maxID: cursor.MaxBytes, maxViews: cfg.MaxViews, pollMax: pollMax(props),
		now:    time.Now,
		topics: make(map[string]*topic), views: make(map[string]*view), idle: make(map[*topic]struct{}), dropped: make(map[string][]int32), held: make(map[string][16]byte), adds: make(map[string]map[int32]kgo.Offset),
	}
	r.hub.metrics, r.hub.waiting = newHubMetrics(reg, r.hub), newWaitingRoom(reg)
	r.hub.snapshots = newKeyMapSettings(int64(cfg.SnapshotMaxBytes), int64(cmp.Or(cfg.SnapshotMemory, cfg.SnapshotMaxBytes)), r.blocks, r.hub, reg)
	gateway.Open(pauseChannel, silence{})
	r.origin = &Origin{
		path: cfg.EventsPath, log: log, hub: r.hub, catalog: r.catalog, blocks: r.blocks, decoder: r.decoder, sealer: sealer,
		resolver: &resolver{
			catalog: r.catalog, offsets: offsets, blocks: r.blocks, decoder: r.decoder, slack: cfg.CursorTimeSlack,
			maxRecs: cfg.ReplayMaxRecords, maxAge: cfg.ReplayMaxAge, now: time.Now,
		},
		turns: newTurns(pagesAtOnce(&cfg), time.Now, reg), cors: newCORS(cfg.CORSOrigins, cfg.Auth.Enabled()), ignore: cfg.IgnoreParams, queries: queries,
		policies:   newPolicies(admin),
		keepAlives: newKeepAlives(cfg.HeartbeatInterval), maxBytes: int(cfg.EventMaxBytes), pageBytes: int(cfg.HistoryPageBytes),
		replayBytes: int64(cfg.ReplayMaxBytes), lagBytes: int64(cfg.CatchupMaxBytes), lagAge: cfg.CatchupMaxAge,
		metrics: newOriginMetrics(reg, &r.hub.metrics), now: time.Now, tells: cfg.TellReaders,
		away: func(*http.Request, string) bool { return false },
	}
	if cfg.Auth.Enabled() {
		if r.auth, err = auth.New(cfg.Auth, log, reg); err != nil {
			return nil, err
		}
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "spillway_auth_renewals", Help: "WebSockets whose token was renewed, as long as that has to be known.",
		}, func() float64 { return float64(r.origin.renewals.count()) }))
		r.origin.renewals.most = cfg.Auth.MaxRenewals
		r.origin.auth, r.origin.recheck, r.origin.cookies = r.auth, cfg.Auth.Recheck, cfg.Auth.URL != "" || cfg.Auth.Cookie != ""
	}
	if props.Group() != "" {
		r.duty = newDuty(props, cfg.Instance, r.hub, r.catalog, admin, log, reg)
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_kafka_up", Help: "1 while Kafka answers, else 0.",
	}, func() float64 {
		if r.Ready() == nil {
			return 1
		}
		return 0
	}))
	return r, nil
}

// pollMax is how many records one poll takes at the most.
func pollMax(p *properties.Properties) int {
	if n := p.MaxPollRecords(); n > 0 {
		return n
	}
	return 10_000
}

// Origin is the http.Handler for EVENTS_PATH.
func (r *Relay) Origin() *Origin { return r.origin }

// Owns reports whether a channel is that of a topic that clients read here, or of
// a view of some, so that publishing to it by hand would forge records.
func (r *Relay) Owns(channel string) bool {
	t, _, _ := r.catalog.cached(channel)
	return t != nil || isViewName(channel)
}

// Listen makes sure that the channel has the records of its topic from now on, for
// clients that another origin subscribes to it. A channel that is neither the plain
// one of an exposed topic nor one of a view is not ours, which is no error.
func (r *Relay) Listen(ctx context.Context, channel string) error {
	if isViewName(channel) {
		return errors.New("it is of a selection of records, which only the built-in origin may show; use the name of a topic")
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	topic, err := r.catalog.lookup(ctx, channel)
	switch {
	case errors.Is(err, errUnknownTopic):
		return nil
	case err != nil:
		return err
	case r.decoder.rowsOf([]string{channel}) != nil:
		return errors.New("a rule of TOPIC_RULES filters this topic by who asks, and another origin does not say who that is; let AUTH_URL ask it instead")
	case !r.decoder.ruleOf(channel).shows("plain"):
		return errors.New("a rule of TOPIC_RULES does not show this topic as plain")
	}
	_, _, err = r.hub.open(ctx, scope{topics: []*topicInfo{topic}}, rendering{})
	return err
}

// Leave has the Origin answer as if there were no such topic where away says so of
// a request: another origin has taken it over, and this one must not show what
// that one might not. Call it before Run.
func (r *Relay) Leave(away func(r *http.Request, topic string) bool) { r.origin.away = away }

// Topics counts the exposed topics that exist.
func (r *Relay) Topics() int { return len(r.catalog.all()) }

// Ready is nil while Kafka answers and the topics are known, else the reason.
func (r *Relay) Ready() error {
	switch err := r.kafka.Load(); {
	case err == nil:
		return errors.New("not asked yet")
	case *err != nil:
		return *err
	}
	return r.catalog.state()
}

// Run reads until ctx ends. It never gives up on Kafka.
func (r *Relay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.watchKafka(ctx); return nil })
	g.Go(func() error { r.hub.run(ctx); return nil })
	g.Go(func() error { r.hub.maintain(ctx, r.refresh); return nil })
	if r.duty != nil {
		g.Go(func() error { r.duty.run(ctx); return nil })
	}
	if r.auth != nil {
		g.Go(func() error { return r.auth.Run(ctx) })
	}
	return g.Wait()
}

// watchKafka keeps what Ready says true, and reads metadata as soon as Kafka
// is there.
func (r *Relay) watchKafka(ctx context.Context) {
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	var answer chan error // of the ping under way; nil when there is none
	for {
		if answer == nil {
			answer = make(chan error, 1)
			r.pings.Go(func() { answer <- r.asker.Ping(ctx) }) // ends with ctx and the client at the latest
		}
		// The library's ping outlasts any context where a broker takes
		// connections and never answers.
		err := fmt.Errorf("no answer within %v", pingTimeout)
		late := time.NewTimer(pingTimeout)
		select {
		case err = <-answer:
			answer = nil
		case <-late.C:
		case <-ctx.Done():
		}
		late.Stop()
		if ctx.Err() != nil {
			return
		}
		before := r.kafka.Swap(&err)
		switch {
		case err == nil && (before == nil || *before != nil || r.catalog.state() != nil):
			if err := r.catalog.refresh(ctx); err == nil {
				r.log.Info("kafka is there", "topics", r.Topics())
			}
		case err != nil && (before == nil || *before == nil):
			r.log.Warn("kafka is not there; streams stay open", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close commits what was published, leaves the group, and closes the clients.
// Call it after Run has returned.
func (r *Relay) Close(ctx context.Context) error {
	var err error
	if r.duty != nil {
		err = r.duty.close(ctx) // commit, then leave: never the other way round
	}
	r.closeClients()  // ends the requests that those below wait for,
	r.decoder.close() // and this the rest
	if r.auth != nil {
		r.auth.Close()
	}
	r.pings.Wait()
	r.hub.starts.Wait()
	r.blocks.loads.Wait()
	r.hub.offsets.calls.Wait()
	r.origin.policies.calls.Wait()
	return err
}

func (r *Relay) closeClients() {
	r.hub.close()
	r.asker.Close()
}

type originMetrics struct {
	gaps                  map[gapReason]prometheus.Counter
	pages                 prometheus.Gauge
	oversize, undecodable prometheus.Counter // the hub's
	tooSlow               prometheus.Counter
	overSubscribed        prometheus.Counter
}

func newOriginMetrics(reg prometheus.Registerer, hub *hubMetrics) originMetrics {
	gaps := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_gaps_total", Help: "Gap events sent, by reason.",
	}, []string{"reason"})
	m := originMetrics{
		gaps:        make(map[gapReason]prometheus.Counter),
		oversize:    hub.encoded[kindOversize],
		undecodable: hub.encoded[kindUndecodable],
		tooSlow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_too_slow_total", Help: "Streams that ended because they fell behind further than CATCHUP_MAX_BYTES or CATCHUP_MAX_AGE allow.",
		}),
		overSubscribed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_subscriptions_refused_total", Help: "Subscriptions that were refused because a WebSocket had MAX_SUBSCRIPTIONS of them.",
		}),
		pages: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "spillway_history_pages", Help: "Pages of history that are being made; CATCHUP_PAGES bounds them.",
		}),
	}
	reg.MustRegister(gaps, m.pages, m.tooSlow, m.overSubscribed)
	for _, reason := range gapReasons {
		m.gaps[reason] = gaps.WithLabelValues(string(reason))
	}
	return m
}
