package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// A policy is what the cleaner does with a topic's records.
type policy struct {
	cleanup string // cleanup.policy
	// keepDeletes is delete.retention.ms: who is away for longer may have missed
	// that a key is gone.
	keepDeletes time.Duration
}

func (p policy) compacts() bool {
	return slices.ContainsFunc(strings.Split(p.cleanup, ","), func(s string) bool { return strings.TrimSpace(s) == "compact" })
}

const (
	// policyTTL is how long an answer holds: operators may change it.
	policyTTL = time.Minute
	// maxPolicies bounds how many are remembered.
	maxPolicies = 10_000
)

// policies asks Kafka for the policies of topics, and remembers them a while.
type policies struct {
	admin *kadm.Client
	calls sync.WaitGroup // each ends by its own timeout
	now   func() time.Time

	mu      sync.Mutex
	byTopic map[string]*policyCall
}

// A policyCall is an answer, or the promise of one.
type policyCall struct {
	done   chan struct{} // closed when policy or err is set
	asked  time.Time
	policy policy
	err    error
}

func newPolicies(admin *kadm.Client) *policies {
	return &policies{admin: admin, now: time.Now, byTopic: make(map[string]*policyCall)}
}

// of returns the policy of a topic. The error is a *badRequest where Kafka does
// not say, else errUnavailable.
func (p *policies) of(ctx context.Context, topic string) (policy, error) {
	p.mu.Lock()
	c := p.byTopic[topic]
	if c == nil || p.now().Sub(c.asked) > policyTTL {
		if len(p.byTopic) >= maxPolicies {
			clear(p.byTopic)
		}
		c = &policyCall{done: make(chan struct{}), asked: p.now()}
		p.byTopic[topic] = c
		p.calls.Go(func() { p.ask(context.WithoutCancel(ctx), topic, c) })
	}
	p.mu.Unlock()
	select {
	case <-c.done:
		return c.policy, c.err
	case <-ctx.Done():
		return policy{}, unavailable("read the configuration of "+topic, ctx.Err())
	}
}

// ask settles a promise. One that could not be kept is forgotten at once.
func (p *policies) ask(ctx context.Context, topic string, c *policyCall) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	c.policy, c.err = p.describe(ctx, topic)
	if c.err != nil {
		p.mu.Lock()
		if p.byTopic[topic] == c {
			delete(p.byTopic, topic)
		}
		p.mu.Unlock()
	}
	close(c.done)
}

func (p *policies) describe(ctx context.Context, topic string) (policy, error) {
	all, err := p.admin.DescribeTopicConfigs(ctx, topic)
	if err == nil {
		var one kadm.ResourceConfig
		if one, err = all.On(topic, nil); err == nil {
			err = one.Err
		}
		if err == nil {
			return readPolicy(one.Configs)
		}
	}
	if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) || errors.As(err, new(*kadm.AuthError)) {
		return policy{}, badf("from=snapshot: whether topic %s is compacted cannot be read: DescribeConfigs is not allowed", topic)
	}
	return policy{}, unavailable("read the configuration of "+topic, err)
}

func readPolicy(configs []kadm.Config) (policy, error) {
	var p policy
	for _, c := range configs {
		switch c.Key {
		case "cleanup.policy":
			p.cleanup = c.MaybeValue()
		case "delete.retention.ms":
			ms, err := strconv.ParseInt(c.MaybeValue(), 10, 64)
			if err != nil || ms < 0 {
				return policy{}, fmt.Errorf("delete.retention.ms is %q, which is no number of milliseconds", c.MaybeValue())
			}
			p.keepDeletes = time.Duration(min(ms, int64(1<<63-1)/int64(time.Millisecond))) * time.Millisecond
		}
	}
	return p, nil
}
