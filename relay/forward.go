package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/properties"
)

const (
	forwardRetryMin = 100 * time.Millisecond
	forwardRetryMax = 10 * time.Second
	forwardTimeout  = 30 * time.Second // one publish to all proxies
)

// A Forwarder is the `relay` command: a member of group.id that publishes
// every record of its partitions to GRIP proxies over HTTP, and commits what
// every proxy has accepted. A record is published again after a crash, with
// the same id, by which proxies drop it.
type Forwarder struct {
	log      *slog.Logger
	client   *kgo.Client
	proxies  grip.Publisher
	channels string
	writer   writer
	exposed  func(string) bool
	decoder  *decoder
	commit   bool
	interval time.Duration
	maxPoll  int
	problem  atomic.Pointer[error] // why nothing moves; nil while all is well

	published prometheus.Counter
	retries   prometheus.Counter

	mu       sync.Mutex
	accepted map[string]map[int32]kgo.EpochOffset // not yet committed
	last     map[string]map[int32]int64           // next offset of the last item, by partition
}

// NewForwarder connects to nothing yet; Run does.
func NewForwarder(cfg Config, proxies grip.Publisher, log *slog.Logger, reg prometheus.Registerer) (*Forwarder, error) {
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
	decoder, err := newDecoder(&cfg, rules, log, reg)
	if err != nil {
		return nil, err
	}
	rules.warnUnpublished(log)
	f := &Forwarder{
		log: log, proxies: proxies, channels: cfg.RelayChannels, exposed: exposed, decoder: decoder, maxPoll: pollMax(props),
		writer:   writer{rendering: rendering{form: formPlain}, maxBytes: int32(cfg.EventMaxBytes)},
		accepted: make(map[string]map[int32]kgo.EpochOffset),
		last:     make(map[string]map[int32]int64),
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_forwarded_items_total", Help: "Items that every proxy has accepted.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_forward_retries_total", Help: "Publishes to proxies that did not work and were tried again.",
		}),
	}
	f.commit, f.interval = props.AutoCommit()
	reg.MustRegister(f.published, f.retries)
	opts := append(props.ClientOpts("grp", log), props.ReadOpts()...)
	opts = append(opts, props.GroupOpts(cfg.Instance)...)
	f.client, err = kgo.NewClient(append(opts,
		kgo.ConsumeRegex(),
		kgo.ConsumeTopics(wholeNames(cfg.Topics)...),
		kgo.ConsumeExcludeTopics(append(wholeNames(cfg.TopicsExclude), "^__")...),
		kgo.ConsumeResetOffset(resetOffset(props.OffsetReset())),
		kgo.BlockRebalanceOnPoll(),
		kgo.AdjustFetchOffsetsFn(func(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			f.begin(offsets)
			return offsets, nil
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, revoked map[string][]int32) {
			f.commitAccepted(ctx)
			f.forget(revoked)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { f.forget(lost) }),
	)...)
	if err != nil {
		return nil, fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)
	}
	return f, nil
}

// wholeNames makes patterns match whole names, as exposure does.
func wholeNames(patterns []string) []string {
	whole := make([]string, len(patterns))
	for i, p := range patterns {
		whole[i] = "^(?:" + p + ")$"
	}
	return whole
}

func resetOffset(r properties.OffsetReset) kgo.Offset {
	switch r {
	case properties.Earliest:
		return kgo.NewOffset().AtStart()
	case properties.Error:
		return kgo.NoResetOffset()
	}
	return kgo.NewOffset().AtEnd()
}

// Ready is nil while records can move, else the reason.
func (f *Forwarder) Ready() error {
	if err := f.problem.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *Forwarder) setProblem(err error) {
	if err == nil {
		f.problem.Store(nil)
		return
	}
	f.problem.Store(&err)
}

// Run forwards until ctx ends. It never gives up on Kafka or on a proxy.
func (f *Forwarder) Run(ctx context.Context) error {
	lastCommit := time.Now()
	for ctx.Err() == nil {
		pollCtx, cancel := context.WithTimeout(ctx, time.Second) // so that commits keep their interval
		fetches := f.client.PollRecords(pollCtx, f.maxPoll)
		cancel()
		if fetches.IsClientClosed() {
			return nil
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				f.setProblem(fmt.Errorf("read %s/%d: %w", topic, partition, err))
				f.log.Warn("fetch", "topic", topic, "partition", partition, "err", err)
			}
		})
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) > 0 {
				f.forward(ctx, p)
			}
		})
		f.client.AllowRebalance()
		if f.commit && f.interval > 0 && time.Since(lastCommit) >= f.interval {
			f.commitAccepted(ctx)
			lastCommit = time.Now()
		}
	}
	return nil
}

// forward publishes one batch of a partition, again and again until every
// proxy has accepted it or ctx ends.
func (f *Forwarder) forward(ctx context.Context, p kgo.FetchTopicPartition) {
	// The commit names the last item, so that after a restart the next one
	// follows it; marks of transactions are none.
	p.Records = slices.DeleteFunc(p.Records, func(r *kgo.Record) bool { return r.Attrs.IsControl() })
	if len(p.Records) == 0 {
		return
	}
	if !f.exposed(p.Topic) || !f.decoder.ruleOf(p.Topic).publishes() {
		f.done(p)
		return
	}
	for left := p.Records; len(left) > 0; {
		var err error
		if p.Records, left, err = f.decoder.decode(ctx, p.Topic, left); err != nil {
			return // what was read is not accepted, so not committed
		}
		items := f.items(p)
		for delay := forwardRetryMin; ; delay = min(2*delay, forwardRetryMax) {
			pubCtx, cancel := context.WithTimeout(ctx, forwardTimeout)
			err := f.proxies.Publish(pubCtx, items...)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return // not accepted, so not committed
			}
			f.setProblem(fmt.Errorf("publish to the proxies: %w", err))
			f.retries.Inc()
			f.log.Warn("publish is tried again", "topic", p.Topic, "partition", p.Partition, "in", delay, "err", err)
			wait(ctx, delay)
		}
		f.published.Add(float64(len(items)))
		f.done(p)
	}
}

// done notes that nothing is owed of a partition's records any more.
func (f *Forwarder) done(p kgo.FetchTopicPartition) {
	f.setProblem(nil)
	next := p.Records[len(p.Records)-1].Offset + 1
	f.mu.Lock()
	defer f.mu.Unlock()
	set(f.accepted, p.Topic, p.Partition, next)
	if f.last[p.Topic] == nil {
		f.last[p.Topic] = make(map[int32]int64)
	}
	f.last[p.Topic][p.Partition] = next
}

// items makes the items of one batch.
//
//	partition: channel <topic>.<p>, id the next offset in base 36, prev-id that
//	           of the item before; the gateway's build-id filter writes the SSE id
//	topic:     channel <topic>, id <partition>-<offset>, no SSE id
func (f *Forwarder) items(p kgo.FetchTopicPartition) []grip.Item {
	f.mu.Lock()
	prev, known := f.last[p.Topic][p.Partition]
	f.mu.Unlock()
	if !known {
		prev = p.Records[0].Offset
	}
	var items []grip.Item
	for _, r := range p.Records {
		kind := f.writer.kind(r)
		content, typ, isMessage := f.writer.message(r, kind, nil)
		var message *grip.WSMessage
		if isMessage {
			message = &grip.WSMessage{Type: typ, Content: content}
		}
		if f.channels != channelsTopic {
			stream := f.writer.appendStream(nil, r, kind, []byte{idPlaceholder})
			items = append(items, grip.Item{
				Channel:    p.Topic + "." + strconv.Itoa(int(p.Partition)),
				ID:         strconv.FormatInt(r.Offset+1, 36),
				PrevID:     strconv.FormatInt(prev, 36),
				HTTPStream: &grip.HTTPStream{Content: buildID(stream), ContentFilters: []string{grip.FilterBuildID}},
				WSMessage:  message,
			})
		}
		if f.channels != channelsPartition {
			items = append(items, grip.Item{
				Channel:    p.Topic,
				ID:         strconv.Itoa(int(p.Partition)) + "-" + strconv.FormatInt(r.Offset, 10),
				HTTPStream: &grip.HTTPStream{Content: f.writer.appendStream(nil, r, kind, nil)},
				WSMessage:  message,
			})
		}
		prev = r.Offset + 1
	}
	return items
}

// idPlaceholder stands for the id while content is escaped; it cannot stand at
// the end of an id: line of its own otherwise.
const idPlaceholder = 0

// buildID makes content for the build-id filter, in which the id is a directive
// (GRIP reference, 6.1).
func buildID(stream []byte) []byte {
	line := []byte{'i', 'd', ':', ' ', idPlaceholder, '\n'}
	before, after, _ := bytes.Cut(stream, line)
	out := append(grip.EscapeContent(before), "id: %I\n"...)
	return append(out, grip.EscapeContent(after)...)
}

// begin remembers the committed offsets that reading begins at: they are the
// ids of the last items that every proxy accepted.
func (f *Forwarder) begin(offsets map[string]map[int32]kgo.Offset) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for topic, partitions := range offsets {
		for p, o := range partitions {
			if at := o.EpochOffset().Offset; at >= 0 { // else there is no commit yet
				if f.last[topic] == nil {
					f.last[topic] = make(map[int32]int64)
				}
				f.last[topic][p] = at
			}
		}
	}
}

func (f *Forwarder) forget(partitions map[string][]int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for topic, list := range partitions {
		for _, p := range list {
			delete(f.accepted[topic], p)
			delete(f.last[topic], p)
		}
	}
}

// commitAccepted commits what every proxy has accepted.
func (f *Forwarder) commitAccepted(ctx context.Context) {
	if !f.commit {
		return
	}
	f.mu.Lock()
	offsets := f.accepted
	f.accepted = make(map[string]map[int32]kgo.EpochOffset)
	f.mu.Unlock()
	for topic, partitions := range offsets {
		if len(partitions) == 0 {
			delete(offsets, topic)
		}
	}
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, finalCommitTimeout)
	defer cancel()
	if err := commitSync(ctx, f.client, offsets); err != nil {
		f.log.Warn("commit", "err", err)
		f.mu.Lock()
		defer f.mu.Unlock()
		for topic, partitions := range offsets { // next time, unless there is news
			for p, o := range partitions {
				if _, newer := f.accepted[topic][p]; !newer {
					set(f.accepted, topic, p, o.Offset)
				}
			}
		}
	}
}

// Close commits and leaves the group. Call it after Run has returned.
func (f *Forwarder) Close(ctx context.Context) error {
	f.commitAccepted(ctx)
	f.client.AllowRebalance()
	err := f.client.LeaveGroupContext(ctx)
	f.client.Close()
	f.decoder.close()
	if err != nil {
		return fmt.Errorf("leave group: %w", err)
	}
	return nil
}
