package relay

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// A reader is a client that loses its connection at random and comes back with
// its last id, to either of two replicas.
type reader struct {
	url  string
	id   string
	s    *stream
	next map[string]int // by partition, the number that comes next
	got  int

	has func(partition string, number int) bool // what the URL selects
}

// expected is the number of the record that comes next of a partition.
func (r *reader) expected(partition string) int {
	for !r.has(partition, r.next[partition]) {
		r.next[partition]++
	}
	return r.next[partition]
}

// collect takes the events that came since the last time, each of which is
// <partition>:<number>, and fails the test at the first that is not the next.
func (r *reader) collect(t *testing.T) {
	t.Helper()
	for _, e := range parseSSE(r.s.out.String()) {
		if e.id != "" {
			r.id = e.id
		}
		if e.name == "" {
			continue
		}
		partition, number, ok := strings.Cut(e.data, ":")
		if e.name != "message" || !ok {
			t.Fatalf("%s: unexpected event %+v", r.url, e)
		}
		if want := r.expected(partition); number != fmt.Sprint(want) {
			t.Fatalf("%s: got %s:%s, want %d next", r.url, partition, number, want)
		}
		r.next[partition]++
		r.got++
	}
	r.s.out.Reset()
}

// Every record exactly once and in the order of its partition, while logs
// forget what they had a moment ago, partitions are added, topics are released
// and clients move between two replicas.
func TestEveryRecordOnce(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	a, b := kafkatest.UniqueTopic(t)+"-a", kafkatest.UniqueTopic(t)+"-b"
	k.CreateTopic(a, 3)
	k.CreateTopic(b, 1)
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	var replicas []*harness
	for _, retain := range []int{3, 40} {
		h := startRelay(t, k, func(c *Config) { c.HistoryPageBytes, c.TopicLinger = 4<<10, 0 })
		h.gw.retain = retain
		replicas = append(replicas, h)
	}
	var readers []*reader
	// A record's key is its number modulo 3, and its value <partition>:<number>.
	selects := []struct {
		query string
		has   func(partition string, number int) bool
	}{
		{"", func(string, int) bool { return true }},
		{"&key=1", func(_ string, n int) bool { return n%3 == 1 }},
		{"&partition=0", func(p string, _ int) bool { return strings.HasSuffix(p, "/0") }},
		{"&filter=value.endsWith('7')", func(_ string, n int) bool { return n%10 == 7 }},
		{"&filter=key=='2'%26%26offset>=20", func(_ string, n int) bool { return n%3 == 2 && n >= 20 }},
	}
	for i := range 20 {
		url := "/events/" + a + "/?from=earliest"
		if i%2 == 1 {
			url = "/events/" + a + "," + b + "/?from=earliest"
		}
		s := selects[i/2%len(selects)]
		readers = append(readers, &reader{url: url + s.query, has: s.has, next: make(map[string]int)})
	}
	partitions := []string{a + "/0", a + "/1", a + "/2", b + "/0"}
	numbers := make(map[string]int)
	produced := func(r *reader) (n int) {
		for p, made := range numbers {
			if strings.HasPrefix(p, a) || strings.Contains(r.url, b) {
				for number := range made {
					if r.has(p, number) {
						n++
					}
				}
			}
		}
		return n
	}
	turn := func(r *reader) {
		switch {
		case r.s != nil && (r.s.ended || rnd.IntN(12) == 0): // the connection is lost
			r.collect(t)
			if r.s.ch != nil {
				r.s.listening(0)
			}
			r.s = nil
		case r.s == nil:
			var header []string
			if r.id != "" {
				header = []string{"Last-Event-ID", r.id}
			}
			r.s = replicas[rnd.IntN(len(replicas))].open(r.url, header...)
		default:
			for range rnd.IntN(4) {
				r.s.step()
			}
			r.collect(t)
		}
	}
	for round := range 120 {
		var batch []*kgo.Record
		for range rnd.IntN(60) {
			p := partitions[rnd.IntN(len(partitions))]
			topic, number, _ := strings.Cut(p, "/")
			var n int32
			fmt.Sscan(number, &n)
			batch = append(batch, &kgo.Record{Topic: topic, Partition: n, Key: fmt.Append(nil, numbers[p]%3), Value: fmt.Appendf(nil, "%s:%d", p, numbers[p]), Timestamp: time.Now()})
			numbers[p]++
		}
		k.Produce(batch...)
		if round == 60 {
			k.AddPartitions(a, 1)
			partitions = append(partitions, a+"/3")
		}
		if round%40 == 39 { // a reader's error starts a topic over
			h := replicas[rnd.IntN(len(replicas))]
			h.r.hub.mu.Lock()
			if t := h.r.hub.topics[a]; t != nil && t.reading() {
				h.r.hub.reset(t)
			}
			h.r.hub.mu.Unlock()
		}
		for _, r := range readers {
			turn(r)
		}
	}
	for _, r := range readers {
		deadline := time.Now().Add(patience)
		for want := produced(r); r.got < want; {
			if r.s == nil {
				turn(r)
			} else if !r.s.step() {
				time.Sleep(time.Millisecond) // between two looks
			}
			r.collect(t)
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d of %d records", r.url, r.got, want)
			}
		}
	}
}
