package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// apart makes records with these values and with timestamps that far apart.
func apart(topic string, d time.Duration, vs ...string) []*kgo.Record {
	rs := values(topic, 0, vs...)
	for i, r := range rs {
		r.Timestamp = time.Now().Add(-24*time.Hour + time.Duration(i)*d)
	}
	return rs
}

// TestPace replays history as it once was, and at a rate. That takes its time,
// and asks for nothing meanwhile.
func TestPace(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		const gap, n = 250 * time.Millisecond, 4
		const least = (n-1)*gap - 10*time.Millisecond // clocks of milliseconds may take a few of them off
		s := serve(t, k)
		for _, tt := range []struct{ query, member string }{
			{"speed=1", `"speed":1`},
			{"rate=4/s", `"rate":"4/s"`},
		} {
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, 1)
			k.Produce(apart(topic, gap, numbers(0, n)...)...)
			url := s.await(topic)
			begin := time.Now()
			st := subscribe(t, url+"?from=earliest&"+tt.query)
			st.wantData(numbers(0, n)...)
			if took := time.Since(begin); took < least {
				t.Errorf("%s: %d records took %v, want %v at least", tt.query, n, took, least)
			}

			begin = time.Now()
			ws := dial(t, s.url+"/events/?topic="+topic, "spillway.v1.json")
			for ref := range 2 {
				ws.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"ref":%d,"from":"earliest",%s}`, topic, ref, tt.member))
			}
			for range 2 * n {
				ws.record()
			}
			if took := time.Since(begin); took < least {
				t.Errorf("%s: %d records for each of two subscriptions took %v, want %v at least", tt.member, n, took, least)
			}
			k.Produce(values(topic, 0, "live "+tt.query)...)
			st.wantData("live " + tt.query)
		}
		if n := s.metric(`spillway_links_asked_total{reason="attach"}`); n != 0 {
			t.Errorf("links that were asked because a hold could not be attached: %v, want none", n)
		}
	})
}

// TestPausedStreams is what happens to streams whose next record is due in an
// hour: heartbeats go on, and nobody can put anything between.
func TestPausedStreams(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		k.Produce(apart(topic, time.Hour, "first", "second")...)
		control := "127.0.0.1:" + port(t)
		s := serve(t, k, "CONTROL_ADDR="+control)
		url := s.await(topic) + "?from=earliest&speed=1&heartbeat=1s"

		st := subscribe(t, url)
		st.wantData("first")
		ws := dial(t, url+"&format=envelope")
		if _, got, err := ws.read(); err != nil || !strings.Contains(got, `"value":"first"`) {
			t.Fatalf("got %q, %v, want the first record", got, err)
		}
		eventually(t, "both hold the channel of pauses", func() (bool, string) {
			_, body := fetch(t, "http://"+control+"/channels")
			return strings.Contains(body, `{"name":"~pause","subscribers":2}`), body
		})
		resp, err := http.Post("http://"+control+"/publish/", "application/json",
			strings.NewReader(`{"items":[{"channel":"~pause","formats":{"http-stream":{"content":"data: forged\n\n"}}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("publish: got %s, want 400", resp.Status)
		}
		const quiet, closed = `spillway_links_asked_total{reason="timeout"}`, `spillway_links_asked_total{reason="attach"}`
		before := s.metric(quiet) + s.metric(closed)
		st.heartbeat()
		st.heartbeat()
		if after := s.metric(quiet) + s.metric(closed); after != before {
			t.Errorf("links asked before the next record is due: %v, want none", after-before)
		}
	})
}
