package relay

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/properties"
)

// A duty is the membership in group.id: a member that fetches nothing, and
// commits for the partitions that it owns what the hub has published, so that
// the usual tools show the true lag. It never has a say in delivery: a
// rebalance interrupts nobody, and a group that refuses us is a warning.
type duty struct {
	props    *properties.Properties
	instance string // Config.Instance
	hub      *hub
	catalog  *catalog
	admin    *kadm.Client
	log      *slog.Logger
	commit   bool
	interval time.Duration
	commits  *prometheus.CounterVec

	client  *kgo.Client // nil until there is a topic; owned by run, then by close
	trouble string      // the error that was logged last; owned by run

	mu        sync.Mutex
	owned     map[string]map[int32]bool
	committed map[string]map[int32]int64
}

// finalCommitTimeout bounds the commits on revoke and at the end.
const finalCommitTimeout = 5 * time.Second

// membershipInterval is how often new topics are looked for.
const membershipInterval = time.Second

func newDuty(props *properties.Properties, instance string, h *hub, c *catalog, admin *kadm.Client, log *slog.Logger, reg prometheus.Registerer) *duty {
	d := &duty{
		props: props, instance: instance, hub: h, catalog: c, admin: admin, log: log,
		owned: make(map[string]map[int32]bool), committed: make(map[string]map[int32]int64),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "spillway_commits_total", Help: "Commits to the consumer group, by result.",
		}, []string{"result"}),
	}
	d.commit, d.interval = props.AutoCommit()
	d.commits.WithLabelValues("ok")
	d.commits.WithLabelValues("error")
	reg.MustRegister(d.commits, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_group_partitions", Help: "Partitions that this member of group.id commits for.",
	}, func() float64 {
		d.mu.Lock()
		defer d.mu.Unlock()
		n := 0
		for _, partitions := range d.owned {
			n += len(partitions)
		}
		return float64(n)
	}))
	return d
}

// run joins the group as soon as there is a topic, follows the topics that
// come and go, and commits on the interval, until ctx ends.
func (d *duty) run(ctx context.Context) {
	members := time.NewTicker(membershipInterval)
	defer members.Stop()
	var commits <-chan time.Time
	if d.commit && d.interval > 0 {
		t := time.NewTicker(d.interval)
		defer t.Stop()
		commits = t.C
	}
	joined := make(map[string]bool)
	for {
		d.follow(joined)
		select {
		case <-ctx.Done():
			return
		case <-members.C:
			d.listen()
		case <-commits:
			d.commitAll(ctx)
		}
	}
}

// follow subscribes the member to the topics that exist.
func (d *duty) follow(joined map[string]bool) {
	now := make(map[string]bool)
	for _, t := range d.catalog.all() {
		now[t.name] = true
	}
	var added, gone []string
	for name := range now {
		if !joined[name] {
			added = append(added, name)
		}
	}
	for name := range joined {
		if !now[name] {
			gone = append(gone, name)
			delete(joined, name)
		}
	}
	for _, name := range added {
		joined[name] = true
	}
	switch {
	case len(added) > 0 && d.client == nil:
		client, err := d.join(added)
		if err != nil {
			d.log.Warn("no membership in the group; delivery is not affected", "group", d.props.Group(), "err", err)
			clear(joined) // and try again
			return
		}
		d.client = client
	case len(added) > 0:
		d.client.PauseFetchTopics(added...)
		d.client.AddConsumeTopics(added...)
	}
	if len(gone) > 0 && d.client != nil {
		d.client.PurgeTopicsFromConsuming(gone...)
		d.client.ResumeFetchTopics(gone...) // forget that they were paused
	}
}

// listen takes the errors that the client has for whoever polls: it keeps them
// for ever otherwise. There are no records, since all topics are paused.
func (d *duty) listen() {
	if d.client == nil {
		return
	}
	trouble := ""
	//nolint:staticcheck // a nil context means: take what there is and do not wait
	d.client.PollFetches(nil).EachError(func(topic string, _ int32, err error) {
		if topic == "" { // errors of partitions concern reading, which this member does not do
			trouble = err.Error()
		}
	})
	if trouble != "" && trouble != d.trouble {
		d.log.Warn("the group does not work; delivery is not affected", "group", d.props.Group(), "err", trouble)
		d.trouble = trouble
	}
	if len(d.ownedList()) > 0 {
		d.trouble = ""
	}
}

func (d *duty) join(topics []string) (*kgo.Client, error) {
	opts := append(d.props.ClientOpts("grp", d.log), d.props.GroupOpts(d.instance)...)
	client, err := kgo.NewClient(append(opts,
		kgo.ConsumeTopics(topics...),
		// It fetches only while it is polled, and then only what is not paused:
		// nothing.
		kgo.MaxConcurrentFetches(0),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			d.mu.Lock()
			defer d.mu.Unlock()
			for topic, partitions := range assigned {
				if d.owned[topic] == nil {
					d.owned[topic] = make(map[int32]bool)
				}
				for _, p := range partitions {
					d.owned[topic][p] = true
				}
			}
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, client *kgo.Client, revoked map[string][]int32) {
			if d.commit {
				ctx, cancel := context.WithTimeout(ctx, finalCommitTimeout)
				defer cancel()
				d.commitFor(ctx, client, d.read(revoked))
			}
			d.disown(revoked)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { d.disown(lost) }),
	)...)
	if err == nil {
		client.PauseFetchTopics(topics...)
	}
	return client, err
}

func (d *duty) disown(partitions map[string][]int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for topic, list := range partitions {
		for _, p := range list {
			delete(d.owned[topic], p)
			delete(d.committed[topic], p)
		}
		if len(d.owned[topic]) == 0 {
			delete(d.owned, topic)
			delete(d.committed, topic)
		}
	}
}

// ownedList is what this member owns now.
func (d *duty) ownedList() map[string][]int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make(map[string][]int32, len(d.owned))
	for topic, partitions := range d.owned {
		list[topic] = slices.Collect(maps.Keys(partitions))
	}
	return list
}

// commitAll commits for every owned partition: the hub's position where the
// topic is read, else the end, since nothing is owed to anyone there.
func (d *duty) commitAll(ctx context.Context) {
	owned := d.ownedList()
	if len(owned) == 0 || d.client == nil {
		return
	}
	offsets := d.read(owned)
	var unread []string
	for topic := range owned {
		if offsets[topic] == nil {
			unread = append(unread, topic)
		}
	}
	if len(unread) > 0 {
		ends, err := d.admin.ListCommittedOffsets(ctx, unread...)
		if err != nil && ctx.Err() == nil {
			d.log.Debug("ends of unread topics are not committed", "err", err)
		}
		for _, topic := range unread {
			for _, p := range owned[topic] {
				if end, ok := ends.Lookup(topic, p); ok && end.Err == nil {
					set(offsets, topic, p, end.Offset)
				}
			}
		}
	}
	d.commitFor(ctx, d.client, offsets)
}

// read is the hub's position of those partitions whose topic is read.
func (d *duty) read(partitions map[string][]int32) map[string]map[int32]kgo.EpochOffset {
	positions := d.hub.positions()
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	for topic, list := range partitions {
		for _, p := range list {
			if at := positions[topic]; int(p) < len(at) {
				set(offsets, topic, p, at[p])
			}
		}
	}
	return offsets
}

func set(offsets map[string]map[int32]kgo.EpochOffset, topic string, partition int32, offset int64) {
	if offsets[topic] == nil {
		offsets[topic] = make(map[int32]kgo.EpochOffset)
	}
	offsets[topic][partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
}

// commitFor commits what has changed since the last time.
func (d *duty) commitFor(ctx context.Context, client *kgo.Client, offsets map[string]map[int32]kgo.EpochOffset) {
	d.mu.Lock()
	for topic, partitions := range offsets {
		for p, o := range partitions {
			if before, ok := d.committed[topic][p]; ok && before == o.Offset {
				delete(partitions, p)
			}
		}
		if len(partitions) == 0 {
			delete(offsets, topic)
		}
	}
	d.mu.Unlock()
	if len(offsets) == 0 {
		return
	}
	err := commitSync(ctx, client, offsets)
	if err != nil {
		d.commits.WithLabelValues("error").Inc()
		if ctx.Err() == nil {
			d.log.Warn("commit", "group", d.props.Group(), "err", err)
		}
		return
	}
	d.commits.WithLabelValues("ok").Inc()
	d.mu.Lock()
	defer d.mu.Unlock()
	for topic, partitions := range offsets {
		if d.owned[topic] == nil {
			continue // revoked meanwhile
		}
		if d.committed[topic] == nil {
			d.committed[topic] = make(map[int32]int64)
		}
		for p, o := range partitions {
			d.committed[topic][p] = o.Offset
		}
	}
}

// close commits once more and leaves the group.
func (d *duty) close(ctx context.Context) error {
	if d.client == nil {
		return nil
	}
	if d.commit {
		ctx, cancel := context.WithTimeout(ctx, finalCommitTimeout)
		d.commitAll(ctx)
		cancel()
	}
	err := d.client.LeaveGroupContext(ctx)
	d.client.Close()
	if err != nil {
		return fmt.Errorf("leave group %s: %w", d.props.Group(), err)
	}
	return nil
}
