package relay

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kadm"

	"spillway/relay/kafkatest"
)

// An answer must not be older than its question; those who ask while one is on
// its way share the next.
func TestOffsetQuestionsShareWhatIsNotSentYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffsets(nil)
		release := make(chan struct{})
		sent := 0
		ask := func() {
			go func() {
				list, err := o.list(t.Context(), "ends", "t", 1, func(context.Context) (kadm.ListedOffsets, error) {
					sent++
					answer := int64(sent)
					<-release
					return kadm.ListedOffsets{"t": {0: {Offset: answer}}}, nil
				})
				if err != nil || list[0] < 1 || list[0] > 2 {
					t.Errorf("answer %v, %v", list, err)
				}
				list[0] = -1 // everyone has a copy
			}()
		}
		ask()
		synctest.Wait()
		for range 5 {
			ask()
		}
		synctest.Wait()
		if sent != 1 || o.waiting["ends t"] == nil {
			t.Fatalf("%d sent while one is on its way", sent)
		}
		close(release)
		synctest.Wait()
		if sent != 2 || len(o.waiting)+len(o.sent) != 0 {
			t.Errorf("%d sent, want one more for the five; %d wait, %d are on their way", sent, len(o.waiting), len(o.sent))
		}
	})
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
