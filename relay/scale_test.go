package relay

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
)

// quietGateway is a gateway of logs that nobody listens to, or many.
type quietGateway struct{ log quietLog }

func (*quietGateway) Publish(context.Context, ...grip.Item) error { return nil }
func (g *quietGateway) Open(string, grip.IDs) grip.Channel        { return &g.log }

type quietLog struct {
	discard
	listeners int
	closed    int
}

func (l *quietLog) Subscribers() int { return l.listeners }
func (l *quietLog) Close()           { l.closed++ }

// newTestHub is the hub of a relay without a Kafka, which reads n topics of one
// partition each.
func newTestHub(t testing.TB, n int) (*hub, *quietGateway, []*topicInfo) {
	t.Helper()
	g := &quietGateway{}
	r, err := New(testConfig("127.0.0.1:1"), g, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.closeClients)
	h := r.hub
	infos := make([]*topicInfo, n)
	for i := range infos {
		info := &topicInfo{name: fmt.Sprintf("topic-%06d", i), leaders: []int32{0}}
		info.id[0], info.id[1], info.id[2] = byte(i), byte(i>>8), byte(i>>16)
		started := make(chan struct{})
		close(started)
		topic := &topic{info: info, started: started, next: []int64{5}}
		h.topics[info.name], h.catalog.topics[info.name], infos[i] = topic, info, info
		h.unwanted(topic)
	}
	return h, g, infos
}

// open is hub.open for a channel of topics that are being read.
func (h *hub) mustOpen(t testing.TB, r rendering, infos ...*topicInfo) *channel {
	t.Helper()
	ch, _, err := h.open(t.Context(), scope{topics: infos}, r)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

var plain = rendering{form: formPlain}

// Views and channels come and go in any order, and what finds them stays right.
func TestViewsAndChannelsThatComeAndGo(t *testing.T) {
	h, g, infos := newTestHub(t, 5)
	rnd := rand.New(rand.NewPCG(1, 2))
	open := make(map[*channel]string)
	check := func() {
		t.Helper()
		views := make(map[*view]bool)
		for i, ch := range h.round {
			if int(ch.inRound) != i || open[ch] == "" || ch.view.channels[ch.atView] != ch || ch.view.find(ch.rendering) != ch {
				t.Fatalf("channel %d of the round is lost", i)
			}
			views[ch.view] = true
		}
		memberships := 0
		for v := range views {
			if h.views[v.key] != v {
				t.Fatalf("view %s is lost", v.key)
			}
			memberships += len(v.topics)
		}
		for _, topic := range h.topics {
			if _, idle := h.idle[topic]; idle != (len(topic.views) == 0) {
				t.Fatalf("%s has %d views, idle %v", topic.info.name, len(topic.views), idle)
			}
			for i, in := range topic.views {
				if m := in.view.topics[in.at]; m.topic != topic || int(m.at) != i {
					t.Fatalf("view %d of %s is lost", i, topic.info.name)
				}
			}
			memberships -= len(topic.views)
		}
		if len(h.round) != len(open) || len(h.views) != len(views) || memberships != 0 {
			t.Fatalf("%d channels of %d views, want %d of %d; %d memberships are left", len(h.round), len(h.views), len(open), len(views), memberships)
		}
	}
	for range 3000 {
		if len(open) > 0 && rnd.IntN(100) < 45 {
			ch := h.round[rnd.IntN(len(h.round))]
			h.closeChannel(ch)
			delete(open, ch)
		} else {
			var topics []*topicInfo
			for _, info := range infos {
				if rnd.IntN(2) == 0 {
					topics = append(topics, info)
				}
			}
			if topics == nil {
				continue
			}
			ch := h.mustOpen(t, rendering{form: formPlain, eventFrom: fmt.Sprint("header:", rnd.IntN(20))}, topics...)
			if name, again := open[ch]; again && name != ch.channel {
				t.Fatalf("%s is %s", name, ch.channel)
			}
			open[ch] = ch.channel
		}
		check()
	}
	for _, topic := range h.topics {
		for _, in := range topic.views {
			for _, ch := range in.view.channels {
				delete(open, ch)
			}
		}
		h.reset(topic)
	}
	h.idle = make(map[*topic]struct{})
	check()
	if g.log.closed == 0 {
		t.Error("no log was closed")
	}
}

// Every channel is looked at within a round, whatever goes meanwhile: none that
// is wanted is closed, and each that is not is, soon after the linger.
func TestRoundOfManyChannels(t *testing.T) {
	h, g, infos := newTestHub(t, 5000)
	now := noon
	h.now, h.linger = func() time.Time { return now }, 30*time.Second
	for _, info := range infos {
		h.mustOpen(t, plain, info)
	}
	g.log.listeners = 1
	for range 60 {
		now = now.Add(sweepInterval)
		h.sweep()
	}
	if len(h.round) != len(infos) {
		t.Fatalf("%d channels are left of %d that have listeners", len(h.round), len(infos))
	}
	g.log.listeners = 0
	for range int(h.linger / sweepInterval) {
		now = now.Add(sweepInterval)
		h.sweep()
	}
	if len(h.round) != len(infos) {
		t.Fatalf("%d channels are left of %d before the linger is over", len(h.round), len(infos))
	}
	for range 2*int(roundTime/sweepInterval) + 1 {
		now = now.Add(sweepInterval)
		h.sweep()
	}
	if len(h.round) != 0 || len(h.views) != 0 {
		t.Fatalf("%d channels and %d views are left", len(h.round), len(h.views))
	}
	for range int(h.linger/sweepInterval) + 1 {
		now = now.Add(sweepInterval)
		h.sweep()
	}
	if len(h.topics) != 0 || len(h.dropped) != len(infos) {
		t.Fatalf("%d topics are still read, %d were dropped", len(h.topics), len(h.dropped))
	}
}

// heapOf is how many bytes of heap what make leaves behind takes.
func heapOf(make func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	make()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// A view that is quiet takes little memory, whatever it is of: 1 KiB is to be
// enough for it and the gateway's log together, and for one with a filter, whose
// text and place in the index come on top, 1.5 KiB.
func TestMemoryOfQuietViews(t *testing.T) {
	const most, mostOfFilters = 760, 1150 // bytes; names of channels are among them, and no topic
	const n = 20_000
	for _, tt := range []struct {
		name string
		most int64
		open func(h *hub, infos []*topicInfo)
	}{
		{"topics", most, func(h *hub, infos []*topicInfo) {
			for _, info := range infos {
				h.mustOpen(t, plain, info)
			}
		}},
		{"pairs of topics", most, func(h *hub, infos []*topicInfo) {
			for i := range infos {
				h.mustOpen(t, plain, infos[i/200], infos[200+i%200])
			}
		}},
		{"renderings", most, func(h *hub, infos []*topicInfo) {
			for i, info := range infos {
				h.mustOpen(t, rendering{form: formPlain, eventFrom: "key"}, infos[i/2], info)
			}
		}},
		{"keys", mostOfFilters, func(h *hub, infos []*topicInfo) {
			for i := range n / 4 {
				h.openQuery(t, infos[0], fmt.Sprintf("key=customer-%d", i))
			}
			testQueries().forget()
		}},
		{"values", mostOfFilters, func(h *hub, infos []*topicInfo) {
			for i := range n / 4 {
				h.openQuery(t, infos[0], fmt.Sprintf("filter=value.user=='customer-%d'", i))
			}
			testQueries().forget()
		}},
	} {
		h, _, infos := newTestHub(t, n)
		bytes := heapOf(func() { tt.open(h, infos) }) / int64(len(h.round))
		t.Logf("%s: %d bytes for each of %d views", tt.name, bytes, len(h.round))
		if bytes > tt.most {
			t.Errorf("%s: %d bytes for each view, want at most %d", tt.name, bytes, tt.most)
		}
		runtime.KeepAlive(h)
	}
}

// BenchmarkManyViews is what one thing costs in a hub with very many views.
func BenchmarkManyViews(b *testing.B) {
	for _, views := range []int{100, 100_000} {
		h, g, infos := newTestHub(b, views+1)
		g.log.listeners = 1
		for _, info := range infos[:views] {
			h.mustOpen(b, plain, info)
		}
		b.Run(fmt.Sprintf("what=record/views=%d", views), func(b *testing.B) {
			topic := infos[views/2].name
			records := []*kgo.Record{{Topic: topic, Offset: 5, Value: []byte("some words"), Timestamp: noon}}
			b.ReportAllocs()
			for b.Loop() {
				h.process(&haul{poll: 1, topic: topic}, records)
				records[0].Offset++
			}
		})
		b.Run(fmt.Sprintf("what=open+close/views=%d", views), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.closeChannel(h.mustOpen(b, plain, infos[views]))
			}
		})
		b.Run(fmt.Sprintf("what=sweep/views=%d", views), func(b *testing.B) {
			for b.Loop() {
				h.sweep() // once a second
			}
		})
		b.Run(fmt.Sprintf("what=watch/views=%d", views), func(b *testing.B) {
			for b.Loop() {
				h.watch(b.Context()) // once in maxRefreshInterval
			}
		})
	}
}
