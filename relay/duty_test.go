package relay

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/relay/kafkatest"
)

// inGroup makes a relay a member of a group of the test's own, and commit often.
func inGroup(group string) func(*Config) {
	return func(c *Config) {
		c.KafkaConsumerConfig = strings.TrimSuffix(c.KafkaConsumerConfig, "}") + fmt.Sprintf(`,"group.id":%q,"auto.commit.interval.ms":100,"heartbeat.interval.ms":200}`, group)
	}
}

// wantNoLag waits until the usual tools would show no lag.
func (h *harness) wantNoLag(k *kafkatest.Cluster, group, topic string) {
	h.t.Helper()
	h.eventually("it has joined the group", func() bool { return len(h.r.duty.ownedList()) > 0 })
	var lag int64
	var ok bool
	h.eventually("no lag is shown for "+topic, func() bool {
		lag, ok = k.GroupLag(group, topic)
		return ok && lag == 0
	})
}

func TestGroupShowsNoLag(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		heard, unheard := kafkatest.UniqueTopic(t)+"-heard", kafkatest.UniqueTopic(t)+"-unheard"
		group := heard
		k.CreateTopic(heard, 3)
		k.CreateTopic(unheard, 2)
		values(k, unheard, "before")
		h := startRelay(t, k, inGroup(group), func(c *Config) { c.Topics = []string{heard, unheard} })
		s := h.open("/events/" + heard + "/")
		values(k, heard, "v0", "v1")
		values(k, unheard, "after")
		s.wantData("v0", "v1")
		h.wantNoLag(k, group, heard)
		h.wantNoLag(k, group, unheard)
		// What comes later is committed too, marks of transactions included.
		k.ProduceTxn(true, value(heard, 1, "v2"))
		k.ProduceTxn(true, value(unheard, 1, "v3"))
		s.wantData("v0", "v1", "v2")
		h.wantNoLag(k, group, heard)
		h.wantNoLag(k, group, unheard)
	})
}

// Two members share the partitions; neither stops delivering when the other
// comes or goes.
func TestGroupNeverInterruptsDelivery(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 4)
	one := startRelay(t, k, inGroup(topic))
	s := one.open("/events/" + topic + "/")
	values(k, topic, "v0")
	s.wantData("v0")
	one.wantNoLag(k, topic, topic)
	t.Run("with another member", func(t *testing.T) {
		two := startRelay(t, k, inGroup(topic))
		owned := func(h *harness) int {
			n := 0
			for _, partitions := range h.r.duty.ownedList() {
				n += len(partitions)
			}
			return n
		}
		two.eventually("both have a share", func() bool { return owned(one) == 2 && owned(two) == 2 })
		values(k, topic, "v1")
		s.wantData("v0", "v1")
		two.wantNoLag(k, topic, topic)
	})
	values(k, topic, "v2")
	s.wantData("v0", "v1", "v2")
	one.wantNoLag(k, topic, topic)
}

func TestMembershipNeverFetches(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	values(k, topic, numbered("v", 0, 10)...)
	var fetches atomic.Int64
	k.Fake().ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		fetches.Add(1)
		return nil, nil, false
	})
	h := startRelay(t, k, inGroup(topic))
	h.wantNoLag(k, topic, topic)
	values(k, topic, "more")
	h.wantNoLag(k, topic, topic)
	if n := fetches.Load(); n != 0 {
		t.Errorf("%d fetches, though nobody listens", n)
	}
	h.open("/events/" + topic + "/?from=earliest").wantData(append(numbered("v", 0, 10), "more")...)
}

func TestTopicsComeAndGoInTheGroup(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	first, second := kafkatest.UniqueTopic(t)+"-1", kafkatest.UniqueTopic(t)+"-2"
	h := startRelay(t, k, inGroup(first))
	k.CreateTopic(first, 1)
	values(k, first, "v0")
	h.wantNoLag(k, first, first)
	k.CreateTopic(second, 2)
	values(k, second, "v0")
	h.wantNoLag(k, first, second)
	k.DeleteTopic(first)
	h.eventually("the topic that is gone is given up", func() bool { return len(h.r.duty.ownedList()) == 1 })
	values(k, second, "v1")
	h.wantNoLag(k, first, second)
}

// A lineLog keeps what was logged at warn and above.
type lineLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *lineLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *lineLog) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func TestGroupThatRefusesUsDisturbsNobody(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	var refused atomic.Int64
	k.Fake().ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		refused.Add(1)
		resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.GroupAuthorizationFailed.Code
		return resp, nil, true
	})
	h := startRelay(t, k)
	cfg := Config{
		KafkaConsumerConfig: fmt.Sprintf(`{"bootstrap.servers":%q,"group.id":"denied","auto.commit.interval.ms":100}`, k.Bootstrap()),
	}
	props, err := cfg.Properties()
	if err != nil {
		t.Fatal(err)
	}
	var lines lineLog
	log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelWarn}))
	d := newDuty(props, "", h.r.hub, h.r.catalog, nil, log, prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.run(ctx) }()
	defer func() {
		cancel()
		<-done
		if err := d.close(context.Background()); err != nil {
			t.Log("close:", err) // there is no group to leave
		}
	}()
	s := h.open("/events/" + topic + "/")
	values(k, topic, "v0", "v1")
	s.wantData("v0", "v1")
	h.eventually("the refusal is logged", func() bool { return lines.count("delivery is not affected") > 0 })
	h.eventually("it is tried again", func() bool { return refused.Load() > 2 })
	values(k, topic, "v2")
	s.wantData("v0", "v1", "v2")
	if n := lines.count("delivery is not affected"); n != 1 {
		t.Errorf("the same refusal was logged %d times in a row", n)
	}
}
