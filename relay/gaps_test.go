package relay

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// A client that loses the connection after the first of several gaps hears of the
// others when it comes back.
func TestEveryGapIsAnnounced(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		name := kafkatest.UniqueTopic(t)
		a, b := name+"-a", name+"-b"
		for _, topic := range []string{a, b} {
			k.CreateTopic(topic, 2)
			for p := range int32(2) {
				k.Produce(&kgo.Record{Topic: topic, Partition: p, Value: []byte("1")})
				k.DeleteRecords(topic, p, 1)
			}
		}
		h := startRelay(t, k)
		url := "/events/" + a + "," + b + "/"
		tagA, tagB := mustLookup(t, h, a).tag, mustLookup(t, h, b).tag
		for _, tt := range []struct {
			name, cursor string
			want         int
		}{
			{"retention", fmt.Sprintf("1-hi3hk-%s.2.0.0~%s.2.0.0", tagA, tagB), 4},
			{"past the end", fmt.Sprintf("1-hi3hk-%s.2.zz.0~%s.2.0.zz", tagA, tagB), 4},
			{"another topic", fmt.Sprintf("1-hi3hk-%s.2.0.0~aaaaa.2.0.0", tagA), 3},
			{"two other topics", "1-hi3hk-aaaaa.2.0.0~bbbbb.2.0.0", 2},
		} {
			t.Run(tt.name, func(t *testing.T) {
				heard := make(map[string]bool)
				for id, left := tt.cursor, tt.want; left > 0; {
					s := h.open(url, "Last-Event-ID", id)
					s.until("gaps", func(string) bool { return len(s.events()) >= left })
					for _, e := range s.events()[:left] {
						if e.name != "gap" {
							t.Fatalf("with %d gaps left: got %v", left, s.events())
						}
					}
					// It has read no further than to the first id.
					id = ""
					for _, e := range s.events() {
						if heard[e.data] {
							t.Errorf("gap %s is announced again, behind its id", e.data)
						}
						heard[e.data] = true
						if id, left = e.id, left-1; id != "" {
							break
						}
					}
				}
			})
		}
	})
}
