package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/filter"
)

const (
	// catchUpWait is how long a request waits for the hub to reach a position
	// that another replica has already been at.
	catchUpWait = 5 * time.Second
	// startTimeout bounds how long a topic may take to be read for the first time.
	startTimeout = 10 * time.Second
	// dropInterval groups the topics that lost their listeners: taking
	// partitions out of the client stops its whole fetch session.
	dropInterval = time.Minute
	// sweepInterval is how often quiet channels and some of the others are looked at.
	sweepInterval = time.Second
	// addInterval groups the topics that get their first listeners.
	addInterval = 10 * time.Millisecond
	// roundTime is how long sweep takes to look at every channel once, unless
	// the linger is so short that it must be sooner.
	roundTime = 8 * time.Second
	// warnInterval is how often an error of reading is logged at most.
	warnInterval = 10 * time.Second
	// batchRecords bounds how many records are appended under one lock.
	batchRecords = 1000
)

// A hub reads the topics that someone listens to, each once per process, and
// appends their records to the channels of every view. For each topic it
// knows H, the position up to which every record has been appended.
type hub struct {
	log       *slog.Logger
	client    *kgo.Client // consumes partitions at offsets of our choosing
	gateway   grip.Gateway
	catalog   *catalog
	offsets   *offsets
	decoder   *decoder
	waiting   *waitingRoom
	linger    time.Duration
	heartbeat time.Duration
	veil      *veil  // nil: positions are shown
	path      string // EVENTS_PATH
	maxBytes  int    // of a value
	maxID     int    // of a cursor with offsets
	maxViews  int    // channels that there may be; 0: no bound
	pollMax   int
	metrics   hubMetrics
	now       func() time.Time

	starts sync.WaitGroup // goroutines that start topics; each ends by its own timeout

	mu        sync.Mutex
	topics    map[string]*topic
	views     map[string]*view
	idle      map[*topic]struct{}             // topics that no view wants
	round     []*channel                      // all channels, in the order in which sweep looks at them
	swept     int                             // how far this round of it has come,
	roundSize int                             // and how many there were when it began, or have been since
	quiet     []*channel                      // channels that were stale at some time since sweep last saw them
	moved     chan struct{}                   // closed when a position moves while someone waits; nil when nobody does
	dropped   map[string][]int32              // paused partitions that still have to be taken out of the client
	held      map[string][16]byte             // by name, the id of the topic as the client knows it
	adds      map[string]map[int32]kgo.Offset // partitions that the client has still to be told of
	adding    bool                            // addSoon is running
	closed    bool                            // nothing is to be added any more
	polls     uint64                          // how many polls have returned

	warned    time.Time // when an error of reading was last logged,
	swallowed int       // and how many were not since

	snapshots *keyMapSettings
	keyMaps   []*keyMap // of all topics

	batch  batch  // memory of process
	viewAt vector // and of the view that it is at
}

// A topic is one that is being read, or about to be.
type topic struct {
	info     *topicInfo
	started  chan struct{} // closed when next or err is set
	err      error
	next     []int64                   // H: by partition, the next offset to append
	since    uint64                    // hub.polls when it was started: what earlier polls returned is of a former life
	views    []membership              // all of them,
	whole    []membership              // those that have every record,
	filters  filter.Index[*membership] // and the others,
	changing []*membership             // of which these tell what leaves them
	maps     *keyMaps                  // nil: nobody asks for snapshots
	bytes    int64                     // of keys and values that were read
	idle     time.Time                 // since when no view wants it; meaningless while one does

	snapshot vector // see position; nil once next has moved
}

func (t *topic) reading() bool {
	select {
	case <-t.started:
		return t.err == nil
	default:
		return false
	}
}

// is reports whether t is the topic that info describes, with no partition
// less. Call while it is being read.
func (t *topic) is(info *topicInfo) bool {
	return t.info == info || t.info.id == info.id && len(t.next) >= info.partitions()
}

type hubMetrics struct {
	records prometheus.Counter
	encoded [numKinds]prometheus.Counter
	unsent  prometheus.Counter
	resets  prometheus.Counter
	refused prometheus.Counter
}

func newHubMetrics(reg prometheus.Registerer, h *hub) hubMetrics {
	m := hubMetrics{
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_records_total", Help: "Records read from Kafka for live delivery.",
		}),
		unsent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_events_unsent_total", Help: "Tombstones that a plain WebSocket has no form for.",
		}),
		resets: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_topic_resets_total", Help: "Times a topic's live reading began again: offsets out of range, deletion.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_views_refused_total", Help: "Requests that were refused because MAX_VIEWS were kept.",
		}),
	}
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_events_total", Help: "Events encoded for channels, by the kind of the record.",
	}, []string{"kind"})
	for k := range numKinds {
		m.encoded[k] = events.WithLabelValues(k.String())
	}
	gauge := func(name, help string, count func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(count())
		})
	}
	reg.MustRegister(m.records, m.unsent, m.resets, m.refused, events,
		gauge("spillway_topics_read", "Topics that are read now, because someone listens or just did.", func() int { return len(h.topics) }),
		gauge("spillway_views", "Views that are kept now.", func() int { return len(h.views) }),
		gauge("spillway_view_channels", "The same, each counted once for every form in which it is kept; MAX_VIEWS bounds them.", func() int { return len(h.round) }),
	)
	return m
}

// open returns the channel of a view and rendering, and the hub's position at
// that moment, which is not to be changed, and keeps it for at least the
// linger. It starts reading topics that nobody read before.
func (h *hub) open(ctx context.Context, sc scope, r rendering) (*channel, vector, error) {
	for {
		switch ch, pos, err := h.channel(sc, r); {
		case err == nil:
			return ch, pos, nil
		case !errors.Is(err, errNotRead):
			return nil, nil, err
		}
		if err := h.start(ctx, sc.topics); err != nil {
			return nil, nil, err
		}
		if err := h.grow(ctx, sc.topics); err != nil {
			return nil, nil, err
		}
		// A topic may be dropped again before the next look.
		if err := ctx.Err(); err != nil {
			return nil, nil, unavailable("open channel", err)
		}
	}
}

// here returns the channel of a view and rendering and where it stands, if the
// channel is open and nothing makes one doubt the topics. Then nothing was
// allocated, and the channel is kept as by open.
func (h *hub) here(topics []string, q *query, r rendering) (*channel, *standing) {
	if q.partsOf() != nil {
		return nil, nil // what clients are told of its position is not what the gateway is
	}
	if q.isChanging() {
		return nil, nil // its channel may lack what leaves the view
	}
	var buf [256]byte
	key := appendViewKey(buf[:0], topics, q)
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.views[string(key)]
	if v == nil {
		return nil, nil
	}
	for _, m := range v.topics {
		if info := h.catalog.known(m.topic.info.name); info == nil || !m.topic.is(info) {
			return nil, nil
		}
	}
	ch := v.find(r)
	if ch == nil {
		return nil, nil
	}
	now := h.now()
	ch.wanted = stampOf(now)
	return ch, ch.standing(now.Unix() / 60)
}

// start makes sure that every topic is being read, and waits for it.
func (h *hub) start(ctx context.Context, infos []*topicInfo) error {
	var waitFor []*topic
	h.mu.Lock()
	for _, info := range infos {
		t := h.topics[info.name]
		if t != nil && t.info.id != info.id && t.reading() {
			if now, _, err := h.catalog.cached(info.name); err == nil && now.id == t.info.id {
				h.mu.Unlock()
				return unavailable("start reading "+info.name, errors.New("it was created again meanwhile"))
			}
			h.reset(t) // deleted and created again
			t = nil
		}
		if t == nil {
			t = &topic{info: info, started: make(chan struct{})}
			h.topics[info.name] = t
			h.starts.Go(func() { h.startTopic(context.WithoutCancel(ctx), t) })
		}
		waitFor = append(waitFor, t)
	}
	h.mu.Unlock()
	for i, t := range waitFor {
		select {
		case <-t.started:
			if t.err != nil {
				return t.err
			}
		case <-ctx.Done():
			return unavailable("start reading "+infos[i].name, ctx.Err())
		}
	}
	return nil
}

// startTopic asks where the topic ends and begins to read there.
func (h *hub) startTopic(ctx context.Context, t *topic) {
	h.forgetFormer(t.info)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ends, err := h.offsets.ends(ctx, t.info.name, t.info.partitions())
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		t.err = fmt.Errorf("start reading %s: %w", t.info.name, err)
		if h.topics[t.info.name] == t {
			delete(h.topics, t.info.name)
		}
	} else {
		t.next, t.since = ends, h.polls
		h.unwanted(t)
		h.consume(t, ends, 0)
		h.catalog.change(t.info.name) // watch may have passed over it meanwhile
	}
	close(t.started)
}

// forgetFormer takes a former life of a topic out of the client, which else
// would go on to ask for that.
func (h *hub) forgetFormer(info *topicInfo) {
	h.mu.Lock()
	id, held := h.held[info.name]
	former := map[string][]int32{info.name: h.dropped[info.name]}
	if held = held && id != info.id; held {
		delete(h.held, info.name)
		delete(h.dropped, info.name)
	}
	h.mu.Unlock()
	if held { // without the lock, since it waits for metadata that are being asked for
		h.client.RemoveConsumePartitions(former)
		h.client.ResumeFetchPartitions(former)
		h.client.PurgeTopicsFromConsuming(info.name)
	}
}

// consume adds the partitions from first on to the client, in a moment. Call
// with mu held: the client only takes note, it asks nobody.
func (h *hub) consume(t *topic, at []int64, first int) {
	name := t.info.name
	if old := h.dropped[name]; old != nil {
		// It was paused a moment ago; reading goes on at another offset.
		h.client.RemoveConsumePartitions(map[string][]int32{name: old})
		h.client.ResumeFetchPartitions(map[string][]int32{name: old})
		delete(h.dropped, name)
	}
	h.held[name] = t.info.id
	add := make(map[int32]kgo.Offset, len(at))
	for p := first; p < len(at); p++ {
		add[int32(p)] = kgo.NewOffset().At(at[p])
	}
	maps.Copy(add, h.adds[name])
	h.adds[name] = add
	if !h.adding {
		h.adding = true
		h.starts.Go(h.addSoon)
	}
}

// addSoon gives the client what is to be consumed: at once, and then all that
// has come together in a while, until nothing comes. Each time the client goes
// through all topics that it knows.
func (h *hub) addSoon() {
	for {
		h.mu.Lock()
		adds := h.adds
		if len(adds) == 0 || h.closed {
			h.adding = false
			h.mu.Unlock()
			return
		}
		h.adds = make(map[string]map[int32]kgo.Offset)
		h.client.AddConsumePartitions(adds)
		h.mu.Unlock()
		time.Sleep(addInterval)
	}
}

var (
	// errNotRead says that a topic is not being read yet.
	errNotRead = errors.New("not being read")
	// errTooManyViews says that MAX_VIEWS are kept.
	errTooManyViews = errors.New("as many views are kept as MAX_VIEWS allows")
)

// channel finds or makes the channel, if all topics are being read, as far as
// the scope knows them, else the error is errNotRead.
func (h *hub) channel(sc scope, r rendering) (*channel, vector, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, info := range sc.topics {
		if t := h.topics[info.name]; t == nil || !t.reading() || !t.is(info) {
			return nil, nil, errNotRead
		}
	}
	v, now := h.view(sc), h.now()
	ch := v.find(r)
	if ch == nil {
		if h.maxViews > 0 && len(h.round) >= h.maxViews {
			if len(v.channels) == 0 {
				h.forgetView(v)
			}
			h.metrics.refused.Inc()
			return nil, nil, errTooManyViews
		}
		ch = h.newChannel(v, r, now)
	}
	ch.wanted = stampOf(now)
	return ch, v.position(), nil
}

// unwanted notes that no view wants the topic any more. Call with mu held.
func (h *hub) unwanted(t *topic) {
	t.idle = h.now()
	h.idle[t] = struct{}{}
}

// attach finds where a client that holds position want joins the channel: the
// oldest position of the log at or past it, and a time (in minutes) before all
// that follows. It waits for the hub to get there.
func (h *hub) attach(ctx context.Context, ch *channel, sc scope, want vector) (at vector, minute int64, err error) {
	var late <-chan time.Time // most never wait
	for {
		h.mu.Lock()
		pos, ok := h.positionOf(sc)
		if !ok {
			h.mu.Unlock()
			return nil, 0, unavailable("attach", errors.New("a topic stopped being read"))
		}
		// The log may have evicted items by age since the last append.
		first, _ := ch.log.Retained()
		ch.index.trim(first)
		if at, minute, ok := ch.index.attach(want); ok {
			h.mu.Unlock()
			return at, minute, nil
		}
		if pos.covers(want) {
			h.mu.Unlock()
			return pos, h.now().Unix() / 60, nil
		}
		if h.moved == nil {
			h.moved = make(chan struct{})
		}
		moved := h.moved
		h.mu.Unlock()
		if late == nil {
			t := time.NewTimer(catchUpWait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-moved:
		case <-late:
			return nil, 0, unavailable("wait for the hub to reach the cursor", context.DeadlineExceeded)
		case <-ctx.Done():
			return nil, 0, unavailable("wait for the hub to reach the cursor", ctx.Err())
		}
	}
}

// positionOf is H of the topics, if all are still being read in the same life.
// It is not to be changed. Call with mu held.
func (h *hub) positionOf(sc scope) (vector, bool) {
	pos := make(vector, len(sc.topics))
	for i, info := range sc.topics {
		t := h.topics[info.name]
		if t == nil || !t.reading() || t.info.id != info.id {
			return nil, false
		}
		pos[i] = t.position()[0]
	}
	if p := sc.parts(); p != nil {
		pos = pos.clone()
		p.mask(pos...)
	}
	return pos, true
}

// run polls until ctx ends.
func (h *hub) run(ctx context.Context) {
	defer h.waiting.topics.Wait()
	for ctx.Err() == nil {
		fetches := h.client.PollRecords(ctx, h.pollMax)
		if fetches.IsClientClosed() {
			return
		}
		h.mu.Lock()
		h.polls++
		poll := h.polls
		h.mu.Unlock()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if p.Err != nil && ctx.Err() == nil {
				h.failed(p.Topic, p.Partition, p.Err)
			}
			for records := range slices.Chunk(p.Records, batchRecords) {
				h.take(ctx, haul{poll: poll, topic: p.Topic, partition: p.Partition, logStart: p.LogStartOffset, records: records})
			}
		})
	}
}

// process appends records of a haul, control records included, to all channels
// of all views of the topic. This is the way of every live record.
func (h *hub) process(in *haul, records []*kgo.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, partition := h.topics[in.topic], in.partition
	if t == nil || !t.reading() || in.poll <= t.since || int(partition) >= len(t.next) {
		return // dropped while the fetch was on its way
	}
	i := slices.IndexFunc(records, func(r *kgo.Record) bool { return r.Offset >= t.next[partition] })
	if i < 0 {
		return
	}
	records = records[i:]
	if next := t.next[partition]; records[0].Offset > next && in.logStart > next {
		// A client that has yet to learn of a partition moves an offset that
		// retention has passed, and says nothing.
		h.restart(t, partition, kerr.OffsetOutOfRange)
		return
	}
	h.metrics.records.Add(float64(len(records)))
	h.batch.set(partition, records, h.now())
	for _, in := range t.whole {
		h.viewAt = h.viewAt[:0] // read only, and only until t.next moves
		for _, m := range in.view.topics {
			h.viewAt = append(h.viewAt, m.topic.next)
		}
		c := h.batch.wholeFor(in.view.query)
		for _, ch := range in.view.channels {
			ch.append(h.viewAt, in.at, &h.batch, c)
			if ch.stale && !ch.inQuiet && ch.hasIDOnly() {
				ch.inQuiet = true
				h.quiet = append(h.quiet, ch)
			}
		}
	}
	if len(t.views) > len(t.whole) || t.maps != nil {
		h.batch.filter(t)
		for _, in := range h.batch.hit {
			at := in.view.position()
			c := h.batch.hitsOf(in.view)
			for _, ch := range in.view.channels {
				ch.append(at, in.at, &h.batch, c)
			}
		}
	}
	h.batch.reset() // records are not to live as long as its memory
	t.next[partition] = records[len(records)-1].Offset + 1
	t.snapshot = nil
	for _, r := range records {
		t.bytes += int64(len(r.Key) + len(r.Value))
	}
	if t.maps != nil {
		h.settleKeyMaps(t)
	}
	h.notify()
}

// notify wakes those who wait for a position. Call with mu held.
func (h *hub) notify() {
	if h.moved != nil {
		close(h.moved)
		h.moved = nil
	}
}
