package relay

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
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
	// sweepInterval is how often lingering views and quiet channels are looked at.
	sweepInterval = time.Second
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
	linger    time.Duration
	heartbeat time.Duration
	maxBytes  int // of a value
	maxID     int // of a cursor with offsets
	pollMax   int
	metrics   hubMetrics
	now       func() time.Time

	starts sync.WaitGroup // goroutines that start topics; each ends by its own timeout

	mu      sync.Mutex
	topics  map[string]*topic
	views   map[string]*view
	moved   chan struct{}      // closed when a position moves while someone waits; nil when nobody does
	dropped map[string][]int32 // paused partitions that still have to be taken out of the client
	polls   uint64             // how many polls have returned

	warned    time.Time // when an error of reading was last logged,
	swallowed int       // and how many were not since

	scratch scratch
}

// A topic is one that is being read, or about to be.
type topic struct {
	info    *topicInfo
	started chan struct{} // closed when next or err is set
	err     error
	next    []int64 // H: by partition, the next offset to append
	since   uint64  // hub.polls when it was started: what earlier polls returned is of a former life
	views   []*view
	idle    time.Time // since when no view wants it; zero while one does
}

func (t *topic) reading() bool {
	select {
	case <-t.started:
		return t.err == nil
	default:
		return false
	}
}

// A view is a selection of topics. Filters, projections and codecs will be
// part of it; its key is canonical, so that equal selections are one view.
type view struct {
	key      string
	topics   []*topic
	channels map[string]*channel // by rendering key; a view without channels is forgotten
}

type hubMetrics struct {
	records prometheus.Counter
	encoded [numKinds]prometheus.Counter
	unsent  prometheus.Counter
	resets  prometheus.Counter
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
	reg.MustRegister(m.records, m.unsent, m.resets, events,
		gauge("spillway_topics_read", "Topics that are read now, because someone listens or just did.", func() int { return len(h.topics) }),
		gauge("spillway_views", "Views that are kept now.", func() int { return len(h.views) }),
	)
	return m
}

// open returns the channel of a view and rendering, and the hub's position at
// that moment, and keeps it for at least the linger. It starts reading topics
// that nobody read before. topics are in byte order of their names.
func (h *hub) open(ctx context.Context, topics []*topicInfo, r rendering) (*channel, vector, error) {
	for {
		if err := h.start(ctx, topics); err != nil {
			return nil, nil, err
		}
		if err := h.grow(ctx, topics); err != nil {
			return nil, nil, err
		}
		if ch, pos, ok := h.channel(topics, r); ok {
			return ch, pos, nil
		}
		// A topic was dropped between the two; begin again.
		if err := ctx.Err(); err != nil {
			return nil, nil, unavailable("open channel", err)
		}
	}
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
	for _, t := range waitFor {
		select {
		case <-t.started:
			if t.err != nil {
				return t.err
			}
		case <-ctx.Done():
			return unavailable("start reading "+t.info.name, ctx.Err())
		}
	}
	return nil
}

// startTopic asks where the topic ends and begins to read there.
func (h *hub) startTopic(ctx context.Context, t *topic) {
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
		t.idle = h.now()
		h.consume(t, ends, 0)
	}
	close(t.started)
}

// consume adds the partitions from first on to the client. Call with mu held:
// the client only takes note, it asks nobody.
func (h *hub) consume(t *topic, at []int64, first int) {
	name := t.info.name
	if old := h.dropped[name]; old != nil {
		// It was paused a moment ago; reading goes on at another offset.
		h.client.RemoveConsumePartitions(map[string][]int32{name: old})
		h.client.ResumeFetchPartitions(map[string][]int32{name: old})
		delete(h.dropped, name)
	}
	add := make(map[int32]kgo.Offset, len(at))
	for p := first; p < len(at); p++ {
		add[int32(p)] = kgo.NewOffset().At(at[p])
	}
	h.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{name: add})
}

// channel finds or makes the channel, if all topics are still being read.
func (h *hub) channel(infos []*topicInfo, r rendering) (*channel, vector, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	topics := make([]*topic, len(infos))
	names := make([]string, len(infos))
	for i, info := range infos {
		t := h.topics[info.name]
		if t == nil || !t.reading() || t.info.id != info.id {
			return nil, nil, false
		}
		topics[i], names[i] = t, info.name
	}
	key := viewKey(names)
	v := h.views[key]
	if v == nil {
		v = &view{key: key, topics: topics, channels: make(map[string]*channel)}
		h.views[key] = v
		for _, t := range topics {
			t.views = append(t.views, v)
			t.idle = time.Time{}
		}
	}
	now := h.now()
	pos := v.position()
	ch := v.channels[r.key()]
	if ch == nil {
		tags := tagsOf(infos)
		ch = &channel{
			writer:   writer{rendering: r, channel: channelName(names, key, r), maxBytes: h.maxBytes, maxID: h.maxID},
			tags:     tags,
			index:    newIndex(tags, pos, now.Unix()/60),
			lastItem: now,
			wanted:   now,
			encoded:  &h.metrics.encoded,
			unsent:   h.metrics.unsent,
		}
		ch.name = ch.writer.channel
		ch.log = h.gateway.Open(ch.name, ch.index)
		v.channels[r.key()] = ch
	}
	ch.wanted = now
	return ch, pos, true
}

// position is H of the view's topics. Call with hub.mu held.
func (v *view) position() vector {
	pos := make(vector, len(v.topics))
	for i, t := range v.topics {
		pos[i] = slices.Clone(t.next)
	}
	return pos
}

// viewKey is the canonical text of a selection.
func viewKey(topics []string) string { return strings.Join(topics, ",") }

// channelName is <topic> for the plain channel of one whole topic, as any GRIP
// client would expect, and <topics>~<hash> for all others.
func channelName(topics []string, key string, r rendering) string {
	if len(topics) == 1 && r == (rendering{form: formPlain}) {
		return topics[0]
	}
	sum := sha256.Sum256([]byte(key + "\x00" + r.key()))
	return strings.Join(topics, "+") + "~" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// attach finds where a client that holds position want joins the channel: the
// oldest position of the log at or past it, and a time (in minutes) before all
// that follows. It waits for the hub to get there.
func (h *hub) attach(ctx context.Context, ch *channel, topics []*topicInfo, want vector) (at vector, minute int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	for {
		h.mu.Lock()
		pos, ok := h.positionOf(topics)
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
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, unavailable("wait for the hub to reach the cursor", ctx.Err())
		}
	}
}

// positionOf is H of the topics, if all are still being read in the same life.
// Call with mu held.
func (h *hub) positionOf(infos []*topicInfo) (vector, bool) {
	pos := make(vector, len(infos))
	for i, info := range infos {
		t := h.topics[info.name]
		if t == nil || !t.reading() || t.info.id != info.id {
			return nil, false
		}
		pos[i] = slices.Clone(t.next)
	}
	return pos, true
}

// run polls until ctx ends.
func (h *hub) run(ctx context.Context) {
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
			for records := p.Records; len(records) > 0; {
				n := min(len(records), batchRecords)
				h.process(poll, p.Topic, p.Partition, records[:n])
				records = records[n:]
			}
		})
	}
}

// process appends what a poll returned of one partition, control records included, to all
// channels of all views of the topic. This is the way of every live record.
func (h *hub) process(poll uint64, topicName string, partition int32, records []*kgo.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[topicName]
	if t == nil || !t.reading() || poll <= t.since || int(partition) >= len(t.next) {
		return // dropped while the fetch was on its way
	}
	i := slices.IndexFunc(records, func(r *kgo.Record) bool { return r.Offset >= t.next[partition] })
	if i < 0 {
		return
	}
	records = records[i:]
	now := h.now()
	for _, v := range t.views {
		at := slices.Index(v.topics, t)
		pos := h.scratch.position[:0] // read only, and only until t.next moves
		for _, t := range v.topics {
			pos = append(pos, t.next)
		}
		for _, ch := range v.channels {
			ch.append(pos, at, partition, records, now, &h.scratch)
		}
		h.scratch.position = pos
	}
	t.next[partition] = records[len(records)-1].Offset + 1
	h.metrics.records.Add(float64(len(records)))
	h.notify()
}

// notify wakes those who wait for a position. Call with mu held.
func (h *hub) notify() {
	if h.moved != nil {
		close(h.moved)
		h.moved = nil
	}
}
