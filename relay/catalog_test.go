package relay

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/relay/kafkatest"
)

func TestLookupWhileDoubted(t *testing.T) {
	k := kafkatest.Fake(t, kafkatest.Topic("orders", 1))
	c := newCatalog(k.Client(), func(string) bool { return true }, slog.Default())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 300 {
				info, err := c.lookup(context.Background(), "orders")
				if errors.Is(err, errUnknownTopic) {
					t.Error("a topic that exists is unknown")
					return
				}
				if err == nil {
					c.doubt(info)
				}
			}
		})
	}
	wg.Wait()
}

// A doubt is a matter of the next look-up. To everyone else the topic is there:
// it is listed, HEAD finds it, the group keeps it and its streams go on.
func TestDoubtHidesNothing(t *testing.T) {
	k := kafkatest.Fake(t, kafkatest.Topic("orders", 1))
	c := newCatalog(k.Client(), func(string) bool { return true }, slog.Default())
	before, err := c.lookup(context.Background(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	c.doubt(before)
	if got, _, err := c.cached("orders"); got != before || err != nil || len(c.all()) != 1 {
		t.Errorf("a doubted topic is %v, %v; %d are listed", got, err, len(c.all()))
	}
	sent := c.sent
	after, err := c.lookup(context.Background(), "orders")
	if err != nil || c.sent == sent || after.id != before.id {
		t.Errorf("the look-up did not ask: %v, %v", after, err)
	}
	if again, err := c.lookup(context.Background(), "orders"); again != after || err != nil {
		t.Errorf("the doubt was not dispelled: %v, %v", again, err)
	}
	// One that is raised while an answer is on its way outlives that answer.
	c.mu.Lock()
	c.sent++
	c.mu.Unlock()
	c.doubt(after)
	c.store(&kmsg.MetadataResponse{}, errors.New("late"))
	if !c.doubted(after) {
		t.Error("an answer that was asked for before the doubt dispelled it")
	}
}

// What did not change stays the same memory, and only what did is worth a look.
func TestMetadataChanges(t *testing.T) {
	k := kafkatest.Fake(t, kafkatest.Topic("orders", 1), kafkatest.Topic("payments", 1), kafkatest.Topic("refunds", 1))
	c := newCatalog(k.Client(), func(string) bool { return true }, slog.Default())
	refresh := func() []string {
		t.Helper()
		if err := c.refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
		names := c.takeChanged()
		slices.Sort(names)
		return names
	}
	if got := refresh(); !slices.Equal(got, []string{"orders", "payments", "refunds"}) {
		t.Errorf("at first %q changed, want all", got)
	}
	orders := c.known("orders")
	if got := refresh(); len(got) > 0 || c.known("orders") != orders {
		t.Errorf("%q changed though nothing did", got)
	}
	k.AddPartitions("payments", 1)
	k.DeleteTopic("refunds")
	k.CreateTopic("returns", 1)
	if got := refresh(); !slices.Equal(got, []string{"payments", "refunds", "returns"}) {
		t.Errorf("%q changed, want payments, refunds and returns", got)
	}
	if c.known("orders") != orders || c.known("payments").partitions() != 2 || c.known("refunds") != nil {
		t.Error("the entries are not those of the answer")
	}
	c.change("orders")
	if got := c.takeChanged(); !slices.Equal(got, []string{"orders"}) {
		t.Errorf("%q changed, want what was asked for", got)
	}
}
