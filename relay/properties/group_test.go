package properties

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// joined waits until the group has settled with exactly these members, and
// returns their instance ids, sorted.
func joined(t *testing.T, admin *kadm.Client, name string, members int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		groups, err := admin.DescribeGroups(ctx, name)
		if g := groups[name]; err == nil && g.State == "Stable" && len(g.Members) == members {
			var ids []string
			for _, m := range g.Members {
				if m.InstanceID != nil {
					ids = append(ids, *m.InstanceID)
				}
			}
			slices.Sort(ids)
			return ids
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("group has not settled: %v, %v", groups[name], err)
		}
	}
}

// Replicas with one group.instance.id stay in the group together, and so does
// a client with librdkafka's own default strategies while they roll.
func TestGroupMembers(t *testing.T) {
	broker := cluster(t, kfake.SeedTopics(6, "orders"))
	p, err := Parse(nil, config(t, map[string]string{
		"bootstrap.servers": broker, "group.id": "mygroup", "group.instance.id": "web", "session.timeout.ms": "6000", "heartbeat.interval.ms": "100",
	}), true)
	if err != nil {
		t.Fatal(err)
	}
	failures := make(chan error, 100)
	start := func(opts ...kgo.Opt) {
		c := client(t, append(opts, kgo.ConsumeTopics("orders")))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for ctx.Err() == nil {
				c.PollFetches(ctx).EachError(func(_ string, _ int32, err error) {
					if ctx.Err() == nil {
						failures <- err
					}
				})
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
	}
	admin := kadm.NewClient(client(t, p.ClientOpts("adm", quiet)))
	start(append(p.ClientOpts("grp", quiet), p.GroupOpts("host-1")...)...)
	joined(t, admin, "mygroup", 1)
	start(append(p.ClientOpts("grp", quiet), p.GroupOpts("host-2")...)...)
	joined(t, admin, "mygroup", 2)
	start(kgo.SeedBrokers(broker), kgo.ConsumerGroup("mygroup"), kgo.Balancers(kgo.RangeBalancer(), kgo.RoundRobinBalancer()), kgo.HeartbeatInterval(100*time.Millisecond))
	if got := joined(t, admin, "mygroup", 3); !slices.Equal(got, []string{"web-host-1", "web-host-2"}) {
		t.Errorf("got %v", got)
	}
	select {
	case err := <-failures:
		t.Errorf("a member was told %v", err)
	default:
	}
}

// Where the group's member begins without a commit.
func TestStartWithoutCommit(t *testing.T) {
	broker := cluster(t, kfake.SeedTopics(1, "orders"))
	produce := client(t, []kgo.Opt{kgo.SeedBrokers(broker), kgo.DefaultProduceTopic("orders"), kgo.ProducerLinger(0)})
	put := func(s string) {
		t.Helper()
		if err := produce.ProduceSync(t.Context(), kgo.StringRecord(s)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	for _, tt := range []struct{ reset, want, wantErr string }{
		{"earliest", "before", ""},
		{"latest", "after", ""},
		{"error", "", "commit"},
	} {
		t.Run(tt.reset, func(t *testing.T) {
			p, err := Parse(nil, config(t, map[string]string{"bootstrap.servers": broker, "group.id": tt.reset, "auto.offset.reset": tt.reset}), true)
			if err != nil {
				t.Fatal(err)
			}
			assigned := make(chan struct{}, 1)
			c := client(t, slices.Concat(p.ClientOpts("grp", quiet), p.GroupOpts(""), p.ReadOpts(), []kgo.Opt{kgo.ConsumeTopics("orders"),
				kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { assigned <- struct{}{} })}))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if tt.reset == "latest" {
				// The end is looked up after the assignment, we cannot see when:
				// so records follow one another until one is seen.
				<-assigned
				go func() {
					tick := time.NewTicker(20 * time.Millisecond)
					defer tick.Stop()
					for ctx.Err() == nil {
						_ = produce.ProduceSync(ctx, kgo.StringRecord("after")).FirstErr()
						<-tick.C
					}
				}()
			}
			fetches := c.PollFetches(ctx)
			if tt.wantErr != "" {
				if err := fetches.Err(); err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %s", err, tt.wantErr)
				}
				return
			}
			if err := fetches.Err(); err != nil {
				t.Fatal(err)
			}
			if got := string(fetches.Records()[0].Value); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
