package relay

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/relay/kafkatest"
)

// An answer must not be older than its question; those who ask while one is on
// its way share the next.
func TestOffsetQuestionsShareWhatIsNotSentYet(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	var requests atomic.Int64
	asked, release := make(chan struct{}, 10), make(chan struct{})
	k.Fake().ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.Fake().KeepControl()
		requests.Add(1)
		asked <- struct{}{}
		k.Fake().SleepControl(func() { <-release })
		return nil, nil, false
	})
	o := h.r.hub.offsets
	var wg sync.WaitGroup
	var mu sync.Mutex
	var answers [][]int64
	ask := func() {
		wg.Go(func() {
			list, err := o.ends(context.Background(), topic, 1)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			answers = append(answers, list)
			mu.Unlock()
		})
	}
	ask()
	<-asked
	for range 5 {
		ask()
	}
	h.eventually("the others wait for a question of their own", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.waiting["ends "+topic] != nil
	})
	close(release)
	wg.Wait()
	if n := requests.Load(); n < 2 || n > 6 {
		t.Errorf("%d requests, want the second for those who came after the first was sent", n)
	}
	if len(answers) != 6 || !slices.Equal(answers[5], []int64{0}) {
		t.Errorf("answers %v", answers)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting)+len(o.sent) != 0 {
		t.Errorf("%d calls wait and %d are on their way after all was answered", len(o.waiting), len(o.sent))
	}
}

func TestOffsetsOfTooFewPartitions(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	h := startRelay(t, k)
	if _, err := h.r.hub.offsets.starts(context.Background(), topic, 3); err == nil {
		t.Error("two partitions answered for three")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := h.r.hub.offsets.starts(ctx, topic, 1); err == nil {
		t.Error("no error though nobody waits")
	}
}
