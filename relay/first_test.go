package relay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// A stream's first answer has what is at hand, and nothing is read from Kafka for
// it: the client's first bytes do not wait for that.
func TestFirstAnswerHasWhatIsAtHand(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	var all []string
	for i := range 20 {
		v := fmt.Sprint("v", i)
		all = append(all, v)
		k.Produce(&kgo.Record{Topic: topic, Partition: int32(i % 2), Key: fmt.Appendf(nil, "k%d", i%4), Value: []byte(v), Timestamp: noon.Add(time.Duration(i) * time.Millisecond)})
	}
	h := startRelay(t, k)
	url := "/events/" + topic + "/?from=earliest"
	first := h.open(url)
	if first.holding || len(first.events()) > 0 {
		t.Errorf("before anything was read, the first answer holds (%v) and has %d events, want none", first.holding, len(first.events()))
	}
	first.wantData(all...)
	first.until("hold", func(string) bool { return first.holding })

	read := counted(t, h.r.blocks.fetches)
	for _, tt := range []struct {
		params string
		want   []string
	}{
		{"", all},
		{"&id=batch", all},
		{"&key=k1", []string{"v1", "v5", "v9", "v13", "v17"}},
		{"&key=none", nil},
		{"&filter=key in ['k1','k2'] %26%26 partition == 0", []string{"v2", "v6", "v10", "v14", "v18"}},
	} {
		s := h.open(strings.ReplaceAll(url+tt.params, " ", "%20"))
		if !s.holding {
			t.Errorf("%s: the first answer does not hold", tt.params)
		}
		s.wantData(tt.want...)
		again := h.open(strings.ReplaceAll("/events/"+topic+"/?"+strings.TrimPrefix(tt.params, "&"), " ", "%20"), "Last-Event-ID", s.lastEventID())
		if again.wantData(); !again.holding {
			t.Errorf("%s: the id at the end of the first answer is not where it ends", tt.params)
		}
	}
	ws := h.open("/events/"+topic+"/?from=earliest&partition=1", "Accept", "application/websocket-events")
	if want := "TEXT 2\r\nv1\r\n"; !ws.holding || !strings.Contains(ws.out.String(), want) {
		t.Errorf("the first answer to a WebSocket holds (%v) and is %q, want %q in it", ws.holding, ws.out.String(), want)
	}
	if got := counted(t, h.r.blocks.fetches); got != read {
		t.Errorf("%d blocks were read for first answers", got-read)
	}
}

// What is large, or takes long to find, comes with a page of its own.
func TestFirstAnswerIsSmall(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	all := numbered("v", 0, 3)
	all = append(all, strings.Repeat("x", firstRecordBytes+1))
	for i := range 200 {
		all = append(all, fmt.Sprintf("%d %s", i, strings.Repeat("y", 500)))
	}
	values(k, topic, all...)
	h := startRelay(t, k)
	url := "/events/" + topic + "/?from=earliest"
	h.open(url).wantData(all...)
	s := h.open(url)
	if n := len(s.events()); n != 3 {
		t.Errorf("%d events are before the large record, want 3", n)
	}
	s.wantData(all...)

	s = h.open("/events/"+topic+"/", "Last-Event-ID", s.events()[3].id)
	if n := s.out.Len(); n < firstPageBytes || n > 2*firstPageBytes {
		t.Errorf("the first answer has %d bytes, want about %d", n, firstPageBytes)
	}
	s.wantData(all[4:]...)
}

// More than one request may replay is announced in the first answer too.
func TestFirstAnswerKeepsToTheReplayLimit(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, numbered("value", 0, 10)...)
	h := startRelay(t, k, func(c *Config) { c.ReplayMaxBytes = 12 })
	url := "/events/" + topic + "/?from=earliest"
	want := []string{"value0", "value1", `gap {"topic":"` + topic + `","partition":0,"reason":"replay-limit","from":2,"to":10,"exact":true}`}
	h.open(url).wantData(want...)
	s := h.open(url)
	if !s.holding {
		t.Error("the first answer does not hold")
	}
	s.wantData(want...)
}
