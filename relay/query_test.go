package relay

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/filter"
	"spillway/relay/kafkatest"
)

var testQueries = sync.OnceValue(func() *queries {
	qs, err := newQueries(filter.Limits{}, nil, prometheus.NewRegistry())
	if err != nil {
		panic(err)
	}
	return qs
})

// orders produces n records with keys k0 to k4 in turn, a header and a JSON
// value, over two partitions.
func orders(k *kafkatest.Cluster, topic string, from, to int) {
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(i % 2), Key: fmt.Appendf(nil, "k%d", i%5),
			Headers: []kgo.RecordHeader{{Key: "type", Value: fmt.Appendf(nil, "t%d", i%3)}},
			Value:   fmt.Appendf(nil, `{"n":%d,"customer":{"name":"c%d","card":"secret"}}`, i, i%4),
		})
	}
	k.Produce(records...)
}

// chosen are the numbers from up to to that ok says.
func chosen(from, to int, ok func(n int) bool) (want []string) {
	for n := from; n < to; n++ {
		if ok(n) {
			want = append(want, fmt.Sprintf(`{"n":%d,"customer":{"name":"c%d","card":"secret"}}`, n, n%4))
		}
	}
	return want
}

// selections are what may be asked of orders, and what it means.
var selections = []struct {
	query string
	ok    func(n int) bool
}{
	{"key=k3", func(n int) bool { return n%5 == 3 }},
	{"key=k3&key=k1", func(n int) bool { return n%5 == 3 || n%5 == 1 }},
	{"partition=1", func(n int) bool { return n%2 == 1 }},
	{"partition=0&partition=1", func(int) bool { return true }},
	{"header.type=t2", func(n int) bool { return n%3 == 2 }},
	{"filter=value.n>=20", func(n int) bool { return n >= 20 }},
	{"filter=value.customer.name=='c1'", func(n int) bool { return n%4 == 1 }},
	{"filter=value.customer.name=='c1'+%26%26+value.n>9&key=k0&partition=1", func(n int) bool { return n%4 == 1 && n > 9 && n%5 == 0 && n%2 == 1 }},
	{"filter=value.nosuch==1", func(int) bool { return false }},
}

func TestFiltersSelectHistoryAndLive(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		orders(k, topic, 0, 40)
		h := startRelay(t, k)
		streams := make([]*stream, len(selections))
		for i, tt := range selections {
			streams[i] = h.open("/events/" + topic + "/?from=earliest&" + tt.query)
			streams[i].until("hold", func(string) bool { return streams[i].holding })
		}
		orders(k, topic, 40, 80)
		h.eventually("the records are read", func() bool {
			pos, err := h.r.hub.position(scope{topics: []*topicInfo{mustLookup(t, h, topic)}})
			return err == nil && pos[0][0]+pos[0][1] == 80
		})
		for i, tt := range selections {
			want := chosen(0, 80, tt.ok)
			s := streams[i]
			s.until(tt.query, func(string) bool { return len(s.events()) >= len(want) })
			wantSame(t, tt.query, s, want)

			// Who comes back anywhere gets the rest.
			if events := s.events(); len(events) > 3 {
				again := h.open("/events/"+topic+"/?"+tt.query, "Last-Event-ID", events[2].id)
				again.until(tt.query, func(string) bool { return len(again.events()) >= len(events)-3 })
				var rest []string
				for _, e := range events[3:] {
					rest = append(rest, e.data)
				}
				wantSame(t, tt.query+", from the third on", again, rest)
			}
		}
	})
}

// wantSame compares what came with what was wanted, whatever the order of the
// partitions.
func wantSame(t *testing.T, name string, s *stream, want []string) {
	t.Helper()
	left := make(map[string]int)
	for _, w := range want {
		left[w]++
	}
	for _, e := range s.events() {
		left[e.data]--
		if left[e.data] < 0 {
			t.Errorf("%s: %q came once too often, or was not to come", name, e.data)
		}
	}
	for w, n := range left {
		if n > 0 {
			t.Errorf("%s: %s is missing", name, w)
		}
	}
}

func TestLastOfAFilter(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	for i := range 30 {
		k.Produce(&kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%3), Value: fmt.Appendf(nil, "v%d", i), Timestamp: noon.Add(time.Duration(i) * time.Second)})
	}
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?last=3&key=k1")
	s.wantData("v22", "v25", "v28")
	s = h.open("/events/" + topic + "/?from=earliest&limit=2&key=k2")
	s.wantData("v2", "v5", `end {"reason":"limit"}`)
	if id := s.lastEventID(); h.get("/events/"+topic+"/?from=earliest&limit=2&key=k2", "Last-Event-ID", id).Code != http.StatusNoContent {
		t.Errorf("the end mark %q does not stop a browser", id)
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	orders(k, topic, 0, 3)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&partition=0&fields=customer.name,n")
	s.wantData(`{"n":0,"customer":{"name":"c0"}}`, `{"n":2,"customer":{"name":"c2"}}`)
	s.until("hold", func(string) bool { return s.holding })
	whole := h.open("/events/" + topic + "/?fields=n")
	whole.until("hold", func(string) bool { return whole.holding })
	orders(k, topic, 4, 5)
	s.wantData(`{"n":0,"customer":{"name":"c0"}}`, `{"n":2,"customer":{"name":"c2"}}`, `{"n":4,"customer":{"name":"c0"}}`)
	whole.wantData(`{"n":4}`)
	k.Produce(&kgo.Record{Topic: topic, Key: []byte("gone")}, value(topic, 0, "no JSON"))
	s.until("the others", func(string) bool { return len(s.events()) == 5 })
	if e := s.events(); e[3].name != "delete" || e[3].data != "gone" || e[4].data != "null" {
		t.Errorf("got %+v, want a delete of gone and null for what has no fields", e[3:])
	}
}

// A view with a filter is one view, however it is asked for.
func TestEqualSelectionsShareAChannel(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	h := startRelay(t, k)
	for i, query := range []string{
		"key=a&key=b&fields=x,y.z&filter=value.n==1",
		"filter=1==value.n&fields=y.z,x,x&key=b&key=a&key=b",
		"filter=++(value.n+==+1)&fields=y.z,x&key=a&key=b",
		"filter=value.n==1+%26%26+key+in+['b','a']&fields=x,y.z",
	} {
		h.open("/events/" + topic + "/?" + query)
		h.r.hub.mu.Lock()
		views := len(h.r.hub.views)
		h.r.hub.mu.Unlock()
		if views != 1 {
			t.Errorf("after request %d there are %d views, want 1", i, views)
		}
	}
}

func TestBadSelections(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	h := startRelay(t, k)
	for _, tt := range []struct {
		query  string
		status int
		want   string
	}{
		{"partition=2", 404, "topic " + topic + " has the partitions 0 to 1"},
		{"partition=-1", 400, "partition=-1"},
		{"partition=one", 400, "partition=one"},
		{"filter=value.n%20%3D%3D", 400, "filter"},
		{"filter=", 400, "filter= is empty"},
		{"filter=nosuch==1", 400, "nosuch"},
		{"fields=", 400, "fields= is empty"},
		{"fields=a..b", 400, "fields"},
		{"filter=value.n==1&filter=value.n==2", 400, "give it once"},
		{"filtr=value.n==1", 400, `the nearest known one is "filter"`},
		{"header.=x", 400, "unknown parameter"},
	} {
		w := h.get("/events/" + topic + "/?" + tt.query)
		if p := problemOf(t, w); w.Code != tt.status || !strings.Contains(p.Detail, tt.want) {
			t.Errorf("%s: got %d %q, want %d with %q", tt.query, w.Code, p.Detail, tt.status, tt.want)
		}
	}
}

// The cursor of a view moves over records that it does not show: in pages, and
// while it is quiet.
func TestFilterMovesTheCursor(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 2)
	orders(k, topic, 0, 40)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&key=nobody")
	s.until("hold", func(string) bool { return s.holding })
	ends := func(id string) bool { return strings.HasSuffix(id, ".2.k.k") } // 20 and 20
	if id := s.lastEventID(); !ends(id) {
		t.Errorf("after history the id is %q, want the end of both partitions", id)
	}
	h.gw.listen(s.channel)
	orders(k, topic, 40, 44)
	s.until("an id-only block", func(string) bool { return strings.HasSuffix(s.lastEventID(), ".2.m.m") })
	if n := len(s.events()); n != 0 {
		t.Errorf("%d events, want none", n)
	}
	fetches := historyFetches(k)
	again := h.open("/events/"+topic+"/?key=nobody", "Last-Event-ID", s.lastEventID())
	again.until("hold", func(string) bool { return again.holding })
	if n := fetches.Load(); n != 0 {
		t.Errorf("a reconnect read history %d times, want none of it again", n)
	}
}

// Of a view of some partitions a client's cursor names just these, and a cursor
// of another view is understood as far as it goes.
func TestCursorOfSomePartitions(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 3)
	for p := range int32(3) {
		k.Produce(value(topic, p, fmt.Sprint("a", p)), value(topic, p, fmt.Sprint("b", p)))
	}
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/?from=earliest&partition=2")
	s.wantData("a2", "b2")
	if id := s.events()[0].id; !strings.HasSuffix(id, ".1.2_1") {
		t.Errorf("the id %q, want offset 1 of partition 2 alone", id)
	}
	h.open("/events/"+topic+"/?partition=2", "Last-Event-ID", s.events()[0].id).wantData("b2")

	all := h.open("/events/" + topic + "/?from=earliest")
	all.until("all", func(string) bool { return len(all.events()) == 6 })
	h.open("/events/"+topic+"/?partition=2", "Last-Event-ID", all.events()[0].id).until("what follows it", func(out string) bool {
		return strings.Contains(out, "b2")
	})
	two := h.open("/events/"+topic+"/?partition=1&partition=2", "Last-Event-ID", s.events()[0].id)
	two.wantData("b2")
	k.Produce(value(topic, 1, "live"), value(topic, 0, "not asked for"))
	two.wantData("b2", "live")
	if id := two.lastEventID(); !strings.HasSuffix(id, ".2.1_3.2_2") {
		t.Errorf("the id %q, want offsets of partitions 1 and 2", id)
	}
}

// What is gone of a partition is nothing to a view that does not read it.
func TestGapsOfOtherPartitions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		orders(k, topic, 0, 20)
		k.DeleteRecords(topic, 1, 6)
		h := startRelay(t, k)
		past := h.open("/events/" + topic + "/?from=earliest&partition=0")
		past.until("history", func(string) bool { return len(past.events()) == 10 })
		again := startRelay(t, k).open("/events/"+topic+"/?partition=0", "Last-Event-ID", past.events()[3].id)
		again.wantData(chosen(8, 20, func(n int) bool { return n%2 == 0 })...)
		orders(k, topic, 20, 22)
		again.wantData(chosen(8, 22, func(n int) bool { return n%2 == 0 })...)
	})
}
