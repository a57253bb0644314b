package relay

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

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
