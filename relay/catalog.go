package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/singleflight"

	"spillway/relay/cursor"
)

// errUnknownTopic means that a topic does not exist or is not exposed: callers
// cannot tell the two apart, and must not.
var errUnknownTopic = errors.New("unknown topic")

// errRecreated means that a topic was deleted and created again since it was
// looked up: looking it up once more gives the new one.
var errRecreated = errors.New("topic was created again")

// errUnavailable means that Kafka cannot be asked now. It wraps the reason.
var errUnavailable = errors.New("kafka is unavailable")

func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, errUnavailable, err)
}

const (
	refreshMinInterval = time.Second     // at most one refresh per second and process
	negativeTTL        = 5 * time.Second // how long "there is no such topic" holds
	maxNegatives       = 10_000          // names remembered as unknown
	lookupTries        = 10              // refreshes that one look-up waits for while others doubt the topic
	metadataTimeout    = 5 * time.Second
)

// A topicInfo is what the cluster's metadata says of one exposed topic. It is
// never changed.
type topicInfo struct {
	name    string
	id      kadm.TopicID
	tag     cursor.Tag
	leaders []int32 // broker id by partition; -1 while there is none
}

func (t *topicInfo) partitions() int { return len(t.leaders) }

// same reports whether t says nothing else than o of the same name.
func (t *topicInfo) same(o *topicInfo) bool {
	return t.id == o.id && t.tag == o.tag && slices.Equal(t.leaders, o.leaders)
}

// A catalog caches the metadata of the exposed topics, so that a request for
// any name, known or not, is answered without asking a broker.
type catalog struct {
	client  *kgo.Client
	exposed func(name string) bool
	log     *slog.Logger
	now     func() time.Time

	flight singleflight.Group

	mu        sync.Mutex
	topics    map[string]*topicInfo // replaced by refresh, never written to
	changed   map[string]struct{}   // names whose entry may be another than when takeChanged was last called
	refreshed time.Time             // when topics was last complete
	asked     time.Time             // when it was last tried
	err       error                 // why the last try did not work
	negatives map[string]time.Time
	foreign   map[cursor.Tag]time.Time // tags of no topic that a cursor was of, until when that holds
	sent      uint64                   // how many requests for metadata were sent
	doubts    map[string]uint64        // by topic, sent when it was doubted
	cluster   string
}

func newCatalog(client *kgo.Client, exposed func(string) bool, log *slog.Logger) *catalog {
	return &catalog{
		client:    client,
		exposed:   exposed,
		log:       log,
		now:       time.Now,
		topics:    make(map[string]*topicInfo),
		negatives: make(map[string]time.Time),
		foreign:   make(map[cursor.Tag]time.Time),
		doubts:    make(map[string]uint64),
		changed:   make(map[string]struct{}),
	}
}

// exposure decides by TOPICS, TOPICS_EXCLUDE and topic.blacklist which names
// may be seen at all. Topics of Kafka's own begin with __ and never may.
func exposure(include, exclude []string, blacklist []*regexp.Regexp) (func(name string) bool, error) {
	compile := func(patterns []string) ([]*regexp.Regexp, error) {
		var out []*regexp.Regexp
		for _, p := range patterns {
			re, err := regexp.Compile(`^(?:` + p + `)$`)
			if err != nil {
				return nil, err
			}
			out = append(out, re)
		}
		return out, nil
	}
	in, err := compile(include)
	if err != nil {
		return nil, fmt.Errorf("TOPICS: %w", err)
	}
	out, err := compile(exclude)
	if err != nil {
		return nil, fmt.Errorf("TOPICS_EXCLUDE: %w", err)
	}
	matches := func(list []*regexp.Regexp, name string) bool {
		return slices.ContainsFunc(list, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}
	return func(name string) bool {
		return !strings.HasPrefix(name, "__") && matches(in, name) && !matches(out, name) && !matches(blacklist, name)
	}, nil
}

// lookup finds a topic. It asks Kafka only for a name that it does not know,
// within the limits above. The error is errUnknownTopic or errUnavailable.
func (c *catalog) lookup(ctx context.Context, name string) (*topicInfo, error) {
	if t := c.known(name); t != nil {
		return t, nil
	}
	if !c.exposed(name) {
		return nil, errUnknownTopic
	}
	for range lookupTries {
		t, again, err := c.cached(name)
		if !again && (t == nil || !c.doubted(t)) {
			return t, err
		}
		if err := c.refresh(ctx); err != nil {
			return nil, err
		}
	}
	// Others doubt the topic faster than Kafka answers. That is no reason to
	// say that there is none: a browser would give up for good.
	return nil, unavailable("look up topic", errors.New("its metadata changes too fast"))
}

// known returns a topic that exists and is exposed, as far as memory says and
// nobody doubts; nil says that lookup has more to do.
func (c *catalog) known(name string) *topicInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[name]
	if t == nil {
		return nil
	}
	if _, doubted := c.doubts[name]; doubted {
		return nil
	}
	return t
}

// cached answers from memory; again says that a refresh might change it.
func (c *catalog) cached(name string) (t *topicInfo, again bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t = c.topics[name]; t != nil {
		return t, false, nil
	}
	now := c.now()
	if until, ok := c.negatives[name]; ok && now.Before(until) {
		return nil, false, errUnknownTopic
	}
	again = now.Sub(c.asked) >= refreshMinInterval
	if c.refreshed.IsZero() || (c.err != nil && !again) {
		err := c.err
		if err == nil {
			err = errors.New("no metadata yet")
		}
		return nil, again, unavailable("look up topic", err)
	}
	if !again {
		c.negative(name, now)
	}
	return nil, again, errUnknownTopic
}

// doubt makes the next look-up of the topic ask Kafka: something happened that
// an outdated entry would explain. To all others the entry stands until then.
func (c *catalog) doubt(t *topicInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.topics[t.name] == t {
		c.doubts[t.name] = c.sent
	}
}

func (c *catalog) doubted(t *topicInfo) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, doubted := c.doubts[t.name]
	return doubted
}

// negative remembers an unknown name. Call with mu held.
func (c *catalog) negative(name string, now time.Time) {
	if len(c.negatives) >= maxNegatives {
		clear(c.negatives) // an attack or a typo loop: starting over costs one refresh a second
	}
	c.negatives[name] = now.Add(negativeTTL)
}

// compare holds a cursor's blocks against the topics that it is for. foreign are
// the tags that are of none of them and were not remembered. more says that the
// cursor knows of more partitions, or may know of a topic that took the place of
// one that has no block.
func (c *catalog) compare(blocks []cursor.Block, topics []*topicInfo) (more bool, foreign []cursor.Tag) {
	if len(blocks) == 0 {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now, found := c.now(), 0
	for _, b := range blocks {
		i := slices.IndexFunc(topics, func(t *topicInfo) bool { return t.tag == b.Tag })
		switch {
		case i >= 0:
			found++
			more = more || len(b.Offsets) > topics[i].partitions()
		case !now.Before(c.foreign[b.Tag]):
			foreign = append(foreign, b.Tag)
		}
	}
	return more || len(foreign) > 0 && found < len(topics), foreign
}

// remember notes that tags are of none of the topics that they were looked for
// among: when a cluster takes the place of another, all clients bring the same.
func (c *catalog) remember(foreign []cursor.Tag) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tag := range foreign {
		if len(c.foreign) >= maxNegatives {
			clear(c.foreign)
		}
		c.foreign[tag] = c.now().Add(negativeTTL)
	}
}

// refresh reads the metadata of all topics. Callers at the same time share one
// request; it is bounded by its own timeout, not by the first caller's context.
func (c *catalog) refresh(ctx context.Context) error {
	done := c.flight.DoChan("all", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), metadataTimeout)
		defer cancel()
		c.mu.Lock()
		c.sent++
		c.mu.Unlock()
		// Not through kadm, which answers from the client's cache: whoever
		// comes here has reason to think that something changed.
		m, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, c.client)
		if err == nil {
			err = kerr.ErrorForCode(m.ErrorCode)
		}
		c.store(m, err)
		return nil, err
	})
	// The request outlasts its context where a broker takes connections and
	// never answers.
	patient, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	select {
	case r := <-done:
		if r.Err != nil {
			return unavailable("read metadata", r.Err)
		}
		return nil
	case <-patient.Done():
		return unavailable("read metadata", patient.Err())
	}
}

// refreshSoon refreshes as soon as the limit of one a second allows, or waits
// for who does.
func (c *catalog) refreshSoon(ctx context.Context) error {
	c.mu.Lock()
	asked := c.asked
	c.mu.Unlock()
	wait(ctx, refreshMinInterval-c.now().Sub(asked))
	c.mu.Lock()
	done := c.asked.After(asked)
	c.mu.Unlock()
	if done {
		return nil
	}
	return c.refresh(ctx)
}

// store takes an answer to a request for metadata. One call at a time.
func (c *catalog) store(m *kmsg.MetadataResponse, err error) {
	c.mu.Lock()
	old, cluster := c.topics, c.cluster
	c.mu.Unlock()
	var topics map[string]*topicInfo
	var changed []string
	if err == nil {
		if m.ClusterID != nil {
			cluster = *m.ClusterID
		}
		// With very many topics this takes a while, and nobody is to wait for it.
		topics, changed = c.read(m, cluster, old)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	c.asked = now
	c.err = err
	if err != nil {
		return
	}
	c.refreshed = now
	c.cluster = cluster
	c.topics = topics
	for _, name := range changed {
		c.changed[name] = struct{}{}
		if topics[name] != nil {
			delete(c.negatives, name)
		}
	}
	for name, before := range c.doubts {
		if before < c.sent { // else it was doubted while this answer was on its way
			delete(c.doubts, name)
		}
	}
}

// read returns the exposed topics of an answer, entries of old where nothing
// is new, and the names of all others, those that are gone included.
func (c *catalog) read(m *kmsg.MetadataResponse, cluster string, old map[string]*topicInfo) (topics map[string]*topicInfo, changed []string) {
	topics = make(map[string]*topicInfo, len(m.Topics))
	kept := 0
	for i := range m.Topics {
		mt := &m.Topics[i]
		if mt.Topic == nil || mt.IsInternal || !c.exposed(*mt.Topic) {
			continue
		}
		name := *mt.Topic
		before := old[name]
		t := before
		if err := kerr.ErrorForCode(mt.ErrorCode); err != nil && !errors.Is(err, kerr.LeaderNotAvailable) {
			if !kerr.IsRetriable(err) || errors.Is(err, kerr.UnknownTopicOrPartition) {
				continue
			} // a passing trouble does not delete a topic
		} else if t = newTopicInfo(name, mt, cluster); before != nil && t.same(before) {
			t = before
		}
		if t == nil || t.partitions() == 0 {
			continue
		}
		topics[name] = t
		if t == before {
			kept++
		} else {
			changed = append(changed, name)
		}
	}
	if kept < len(old) {
		for name := range old {
			if topics[name] == nil {
				changed = append(changed, name)
			}
		}
	}
	return topics, changed
}

// takeChanged returns the names of topics that are new, gone or different since
// it was last called.
func (c *catalog) takeChanged() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := slices.Collect(maps.Keys(c.changed))
	clear(c.changed)
	return names
}

// change makes takeChanged name a topic once more.
func (c *catalog) change(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed[name] = struct{}{}
}

func newTopicInfo(name string, mt *kmsg.MetadataResponseTopic, cluster string) *topicInfo {
	t := &topicInfo{name: name, id: mt.TopicID, leaders: slices.Repeat([]int32{-1}, len(mt.Partitions))}
	for _, p := range mt.Partitions {
		if int(p.Partition) < len(t.leaders) {
			t.leaders[p.Partition] = p.Leader
		}
	}
	if t.id == (kadm.TopicID{}) {
		t.tag = cursor.TagOfName(cluster, name)
	} else {
		t.tag = cursor.TagOf(t.id)
	}
	return t
}

// all lists the exposed topics by name.
func (c *catalog) all() []*topicInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*topicInfo, 0, len(c.topics))
	for _, t := range c.topics {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *topicInfo) int { return strings.Compare(a.name, b.name) })
	return list
}

// state reports whether the last try to read metadata worked: nil, or why not.
func (c *catalog) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.refreshed.IsZero():
		return errors.New("no metadata yet")
	}
	return nil
}
