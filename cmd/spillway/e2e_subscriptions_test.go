package main_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// TestSubscriptions has several subscriptions on one WebSocket, each with a
// selection and a position of its own, that come and go while it is open.
func TestSubscriptions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic, other := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		k.CreateTopic(other, 1)
		for i := range 6 {
			k.Produce(&kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%2), Value: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
		s := serve(t, k)
		s.await(topic)
		url := s.await(other)
		ws := dial(t, url, "spillway.v1.json")

		// What came, by channel; records may come before an answer.
		got, lastID := make(map[string]string), make(map[string]string)
		read := func(ok func(m string) bool) string {
			t.Helper()
			return ws.message(func(m string) bool {
				var r struct {
					Type, ID, Channel string
					Value             json.RawMessage
				}
				if err := json.Unmarshal([]byte(m), &r); err != nil {
					t.Fatalf("message %s: %v", m, err)
				}
				if r.Type == "record" {
					got[r.Channel] = strings.TrimSpace(got[r.Channel] + " " + string(r.Value))
					lastID[r.Channel] = r.ID
				}
				return ok(m)
			})
		}
		subscribe := func(ref, more string) (channel string) {
			t.Helper()
			ws.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"ref":%s%s}`, topic, ref, more))
			var m struct{ Type, Channel string }
			reply := read(func(m string) bool { return strings.Contains(m, `"ref":`+ref) })
			if err := json.Unmarshal([]byte(reply), &m); err != nil || m.Type != "subscribed" || m.Channel == "" {
				t.Fatalf("got %s, %v, want that it is subscribed, and to which channel", reply, err)
			}
			return m.Channel
		}
		// want reads until a channel has had these values, and nothing else.
		want := func(channel, values string) {
			t.Helper()
			if got[channel] != values {
				read(func(string) bool { return len(got[channel]) >= len(values) })
			}
			if got[channel] != values {
				t.Errorf("channel %s: got %s, want %s", channel, got[channel], values)
			}
			got[channel] = ""
		}

		even := subscribe(`1`, `,"key":"k0","last":2`)
		odd := subscribe(`"two"`, `,"filter":"value.n % 2 == 1","from":"earliest"`)
		bounded := subscribe(`3`, `,"fields":["n"],"from":"earliest","limit":1`)
		if even == odd || odd == bounded || even == bounded {
			t.Fatalf("channels %s, %s and %s are not told apart", even, odd, bounded)
		}
		want(even, `{"n":2} {"n":4}`)
		want(odd, `{"n":1} {"n":3} {"n":5}`)
		want(bounded, `{"n":0}`)

		// The end of one is not that of the socket, and one that is taken away
		// leaves the others.
		ws.send(`{"type":"unsubscribe","ref":"two"}`)
		read(func(m string) bool { return strings.Contains(m, `"type":"unsubscribed","ref":"two"`) })
		k.Produce(&kgo.Record{Topic: topic, Key: []byte("k1"), Value: []byte(`{"n":7}`)}, &kgo.Record{Topic: topic, Key: []byte("k0"), Value: []byte(`{"n":8}`)})
		want(even, `{"n":8}`)
		from := lastID[even]
		k.Produce(&kgo.Record{Topic: topic, Key: []byte("k1"), Value: []byte(`{"n":9}`)}, &kgo.Record{Topic: topic, Key: []byte("k0"), Value: []byte(`{"n":10}`)})
		want(even, `{"n":10}`)
		want(odd, "")

		// It comes back with the cursor of another, and gets what it missed since.
		if again := subscribe(`"two"`, fmt.Sprintf(`,"filter":"value.n%%2==1","last_event_id":%q`, from)); again != odd {
			t.Errorf("the same selection is channel %s, and was %s", again, odd)
		}
		want(odd, `{"n":9}`)

		answer := func(ref string) string {
			return read(func(m string) bool { return strings.Contains(m, `"ref":`+ref) })
		}
		ws.send(`{"type":"auth","token":"secret","ref":4}`)
		wantJSON(t, answer(`4`), `{"type":"error","code":"not-configured"}`)
		ws.send(`{"type":"subscribe","topics":["` + topic + `"],"filter":"value.n ==","ref":5}`)
		wantJSON(t, answer(`5`), `{"type":"error","code":"bad-message"}`)
	})
}

// TestSnapshotSubscriptions has snapshots of one topic on a WebSocket, each with
// a pace of its own, and what changes behind them.
func TestSnapshotSubscriptions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic, other := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1, "cleanup.policy=compact")
		k.CreateTopic(other, 1)
		keep := func(key, value string) {
			k.Produce(&kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)})
		}
		for i := range 4 {
			keep(fmt.Sprint("k", i%3), fmt.Sprint(i))
		}
		s := serve(t, k)
		s.await(topic)
		ws := dial(t, s.await(other), "spillway.v1.json")
		got, channels := make(map[string][]string), make(map[string]string)
		// read takes messages until a subscription has had as many.
		read := func(ref string, n int) {
			t.Helper()
			for len(got[channels[ref]]) < n {
				_, text, err := ws.read()
				if err != nil {
					t.Fatal(err)
				}
				var m struct {
					Type, Channel, Key string
					Ref                json.Number
					Value              json.RawMessage
				}
				if err := json.Unmarshal([]byte(text), &m); err != nil {
					t.Fatalf("message %s: %v", text, err)
				}
				switch m.Type {
				case "subscribed":
					channels[m.Ref.String()] = m.Channel
				case "record":
					got[m.Channel] = append(got[m.Channel], m.Key+"="+string(m.Value))
				case "live":
					got[m.Channel] = append(got[m.Channel], "live")
				case "error", "gap", "end":
					t.Fatalf("got %s", text)
				}
			}
		}
		// Each has a selection of its own, so that its messages can be told apart.
		begin := time.Now()
		for ref, more := range []string{`"id":"every"`, `"rate":"10/s","id":"batch"`, `"slow":"latest","partition":0`} {
			ws.send(fmt.Sprintf(`{"type":"subscribe","ref":%d,"topics":[%q],"from":"snapshot",%s}`, ref, topic, more))
		}
		refs := []string{"0", "1", "2"}
		for _, ref := range refs {
			read(ref, 4)
		}
		if took := time.Since(begin); took < 290*time.Millisecond {
			t.Errorf("three records at 10/s and what follows took %v, want 300ms", took)
		}
		keep("k1", "9")
		for _, ref := range refs {
			read(ref, 5)
			if got, want := fmt.Sprint(got[channels[ref]]), "[k0=3 k1=1 k2=2 live k1=9]"; got != want {
				t.Errorf("subscription %s: got %s, want %s", ref, got, want)
			}
		}
	})
}
