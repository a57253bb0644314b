package main_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// TestRelayKilled has two relays share the partitions of a topic, and kills one
// of them under load. Subscribers at both gateways get every record once, each
// partition in its order: what the other one publishes again is dropped by its
// id.
func TestRelayKilled(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		const partitions, records = 6, 3000
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, partitions)
		var channels, ids []string
		for p := range partitions {
			channel := topic + "." + strconv.Itoa(p)
			channels, ids = append(channels, channel+"; filter=build-id"), append(ids, "%("+channel+")s")
		}
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", strings.Join(channels, ", "))
			w.Header().Set("Grip-Set-Meta", `id_format="`+strings.Join(ids, ".")+`"`)
			fmt.Fprint(w, ":ok\n\n")
		}))
		t.Cleanup(origin.Close)
		var proxies []string
		var streams []*stream
		for range 2 {
			control := fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t))
			g := newServer(t, "CONTROL_ADDR="+control, "ROUTES=* "+strings.TrimPrefix(origin.URL, "http://"))
			g.command = "gateway"
			g.start()
			resp := get(t, t.Context(), g.url+"/")
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("GET: got %s, want a held stream", resp.Status)
			}
			streams = append(streams, readStream(t, resp, func() {}))
			proxies = append(proxies, "http://"+control)
		}
		var relays []*server
		for range 2 {
			r := newServer(t, consumerConfig(k, fmt.Sprintf(`"group.id":%q,"auto.offset.reset":"earliest","session.timeout.ms":6000,"heartbeat.interval.ms":500`, topic)),
				"GRIP_URL="+strings.Join(proxies, " "), "TOPICS="+topic)
			r.command = "relay"
			r.start()
			relays = append(relays, r)
		}

		numbers := make([]int, partitions)
		produce := func(n int) {
			var batch []*kgo.Record
			for i := range n {
				p := i % partitions
				batch = append(batch, values(topic, int32(p), fmt.Sprintf("%d %d", p, numbers[p]))...)
				numbers[p]++
			}
			k.Produce(batch...)
		}
		forwarded := func(r *server) int {
			_, body := fetch(t, r.ops+"/metrics")
			for line := range strings.Lines(body) {
				if n, ok := strings.CutPrefix(line, "spillway_forwarded_items_total "); ok {
					v, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
					if err != nil {
						t.Fatal(err)
					}
					return int(v)
				}
			}
			t.Fatal("spillway_forwarded_items_total: not there")
			return 0
		}
		eventually(t, "both relays have work", func() (bool, string) {
			produce(partitions)
			a, b := forwarded(relays[0]), forwarded(relays[1])
			return a > 0 && b > 0, fmt.Sprint(a, " and ", b, " items")
		})
		for sum := 0; sum < records; sum += 60 {
			produce(60)
			if sum == records/2 {
				relays[0].kill()
			}
		}
		next := make([][]int, len(streams))
		for i, s := range streams {
			next[i] = make([]int, partitions)
			want := 0
			for _, n := range numbers {
				want += n
			}
			for got := 0; got < want; got++ {
				b := s.next()
				var p, n int
				if _, err := fmt.Sscanf(b.data, "%d %d", &p, &n); err != nil || n != next[i][p] {
					t.Fatalf("gateway %d, after %d of %d records: got %+v, want number %d of partition %d next", i, got, want, b, next[i][p], p)
				}
				next[i][p]++
			}
		}
		// Nothing comes once more: the next thing is what is produced now.
		produce(1)
		for i, s := range streams {
			if b := s.next(); b.data != fmt.Sprintf("0 %d", next[i][0]) {
				t.Errorf("gateway %d: got %+v, want the newest record", i, b)
			}
		}
	})
}
