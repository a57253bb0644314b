package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// listening says how many streams the gateway has on a channel.
func (s *stream) listening(n int) {
	s.h.gw.mu.Lock()
	defer s.h.gw.mu.Unlock()
	s.ch.listeners = n
}

func (h *harness) read(topic string) bool {
	h.r.hub.mu.Lock()
	defer h.r.hub.mu.Unlock()
	return h.r.hub.topics[topic] != nil
}

// channels are the names of the views' channels.
func (h *harness) channels() (names []string) {
	h.gw.mu.Lock()
	defer h.gw.mu.Unlock()
	for name := range h.gw.channels {
		if name != pauseChannel {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestTopicsWithoutListenersAreReleased(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic, other := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)+"-other"
		k.CreateTopic(topic, 2)
		k.CreateTopic(other, 1)
		h := startRelay(t, k, func(c *Config) { c.TopicLinger = 0 })
		stays := h.open("/events/" + other + "/")
		stays.listening(1)
		s := h.open("/events/" + topic + "/")
		s.listening(1)
		values(k, topic, "v0")
		s.wantData("v0")
		s.listening(0)
		h.eventually("the topic is released", func() bool { return !h.read(topic) && len(h.channels()) == 1 })

		before := countOf(t, h.r.hub.metrics.records)
		values(k, topic, "nobody", "reads", "these")
		values(k, other, "o0") // read after them
		stays.wantData("o0")
		if n := countOf(t, h.r.hub.metrics.records) - before; n != 1 {
			t.Errorf("%v records were read, want only the one that has a listener", n)
		}

		again := h.open("/events/" + topic + "/")
		again.listening(1)
		values(k, topic, "v1")
		again.wantData("v1")
		// The last id still finds all that came between, in the middle of purging
		// what was paused and after it.
		id := s.lastEventID()
		want := []string{"nobody", "reads", "these", "v1"}
		h.open("/events/"+topic+"/", "Last-Event-ID", id).wantData(want...)
		h.r.hub.purge()
		h.open("/events/"+topic+"/", "Last-Event-ID", id).wantData(want...)
		values(k, topic, "v2")
		again.wantData("v1", "v2")
	})
}

func TestRenderingsWithoutListenersAreClosed(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k, func(c *Config) { c.TopicLinger = 0 })
	plain := h.open("/events/" + topic + "/")
	plain.listening(1)
	h.open("/events/" + topic + "/?format=envelope")
	h.eventually("the rendering that nobody wants is closed", func() bool { return slices.Equal(h.channels(), []string{topic}) })
	values(k, topic, "v0")
	plain.wantData("v0")
	h.open("/events/"+topic+"/?format=envelope&from=earliest").until("again", func(out string) bool { return strings.Contains(out, `"value":"v0"`) })
}

func TestViewsShareOneRead(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		a, b := kafkatest.UniqueTopic(t)+"-a", kafkatest.UniqueTopic(t)+"-b"
		k.CreateTopic(a, 3)
		k.CreateTopic(b, 1)
		h := startRelay(t, k)
		streams := []*stream{
			h.open("/events/" + a + "/"), h.open("/events/" + a + "/"),
			h.open("/events/" + a + "/?format=envelope"),
			h.open("/events/"+a+"/", "Accept", "application/x-ndjson"),
			h.open("/events/" + a + "," + b + "/"), h.open("/events/" + b + "/?topic=" + a),
		}
		for i := range 30 {
			k.Produce(value(a, int32(i%3), fmt.Sprintf("rec-%02d", i)))
		}
		for _, s := range streams {
			s.until("all", func(out string) bool { return strings.Count(out, "rec-") >= 30 })
		}
		h.eventually("the last are counted", func() bool { return countOf(t, h.r.hub.metrics.records) >= 30 }) // after they are sent
		if n := countOf(t, h.r.hub.metrics.records); n != 30 {
			t.Errorf("%v records were read for six streams, want each of the 30 once", n)
		}
		if n := len(h.channels()); n != 4 {
			t.Errorf("%d channels, want 4: streams with equal bytes share one", n)
		}
	})
}

// Retention passes the live reader. Its streams ask their links and hear what
// they missed.
func TestLiveReaderOutOfRange(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/")
	release := holdLive(t, k)
	values(k, topic, numbered("v", 0, 10)...)
	k.DeleteRecords(topic, 0, 5)
	release()
	gap := fmt.Sprintf(`gap {"topic":%q,"partition":0,"reason":"retention","from":0,"to":5,"exact":true}`, topic)
	s.wantData(append([]string{gap}, numbered("v", 5, 10)...)...)
	values(k, topic, "live")
	s.until("the live record", func(out string) bool { return strings.Contains(out, "data: live\n") })
}

// The client may begin further on than it was told to, where a partition begins
// by then.
func TestLiveReaderBeginsBehindRetention(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/")
	holdLive(t, k)
	values(k, topic, numbered("v", 0, 10)...)
	k.DeleteRecords(topic, 0, 5)
	h.r.hub.process(&haul{poll: math.MaxUint64, topic: topic, logStart: 5}, []*kgo.Record{{Topic: topic, Offset: 5, Value: []byte("v5")}})
	s.wantData(append([]string{
		fmt.Sprintf(`gap {"topic":%q,"partition":0,"reason":"retention","from":0,"to":5,"exact":true}`, topic),
	}, numbered("v", 5, 10)...)...)
}

// A poll that was in hand when a topic began to be read anew holds records of
// its former life.
func TestRecordsOfAFormerLifeAreDropped(t *testing.T) {
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k)
	s := h.open("/events/" + topic + "/")
	hub := h.r.hub
	stale := []*kgo.Record{{Topic: topic, Offset: 7, Value: []byte("stale")}}
	hub.mu.Lock()
	poll := hub.polls
	hub.mu.Unlock()
	hub.process(&haul{poll: poll, topic: topic}, stale)
	values(k, topic, "fresh")
	s.wantData("fresh")
}

// Another replica has seen partitions that this one does not know yet.
func TestCursorWithMorePartitionsThanAreKnown(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	begin := time.Now().Add(-time.Hour)
	k.Produce(&kgo.Record{Topic: topic, Value: []byte("old"), Timestamp: begin})
	slow := startRelay(t, k, func(c *Config) {
		c.KafkaConsumerConfig = strings.Replace(c.KafkaConsumerConfig, `:200}`, `:60000}`, 1)
	})
	slow.open("/events/" + topic + "/") // it is being read, with one partition
	k.AddPartitions(topic, 2)
	k.Produce(value(topic, 1, "new0"), value(topic, 2, "new1"))
	quick := startRelay(t, k).open("/events/" + topic + "/?from=earliest")
	quick.until("all", func(string) bool { return len(quick.events()) == 3 })
	k.Produce(value(topic, 1, "new2"))
	slow.open("/events/"+topic+"/", "Last-Event-ID", quick.lastEventID()).wantData("new2")
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	k.CreateTopic(kafkatest.UniqueTopic(t), 1)
	k.Stop()
	cfg := Config{
		KafkaConsumerConfig: fmt.Sprintf(`{"bootstrap.servers":%q,"reconnect.backoff.max.ms":100}`, k.Bootstrap()),
		Topics:              []string{".*"}, EventsPath: "/events/",
	}
	r, err := New(cfg, newMemGateway(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Ready(); err == nil {
		t.Error("ready before anything was asked")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	h := &harness{t: t, r: r}
	h.eventually("an answer", func() bool { return r.kafka.Load() != nil })
	if err := r.Ready(); err == nil || err.Error() == "" {
		t.Errorf("while Kafka is away: %v", err)
	}
	k.Start()
	h.eventually("ready", func() bool { return r.Ready() == nil })
	if n := r.Topics(); n != 1 {
		t.Errorf("%d topics, want 1", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// A broker that takes connections and never answers keeps nobody waiting: not
// a client for its first bytes, not /readyz, not the end.
func TestBrokerThatNeverAnswers(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with l
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	cfg := testConfig(l.Addr().String())
	r, err := New(cfg, newMemGateway(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	h := &harness{t: t, r: r}
	w := h.get("/events/test/", "Accept", "text/event-stream")
	if !strings.Contains(w.Body.String(), `"code":"kafka-unavailable"`) {
		t.Errorf("got %d %s, want a stream that says kafka-unavailable", w.Code, w.Body)
	}
	h.eventually("readiness knows", func() bool { err := r.Ready(); return err != nil && err.Error() != "not asked yet" })
	cancel()
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(<-done, r.Close(context.Background())) }() // waited for below
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the end: %v", err)
		}
	case <-time.After(patience):
		t.Errorf("no end within %v", patience)
	}
}

// A topic that was deleted and created again is read live again, and not by one
// page of history after the other.
func TestTopicCreatedAgainIsReadLive(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		h := startRelay(t, k)
		s := h.open("/events/" + topic + "/")
		values(k, topic, "old")
		s.wantData("old")
		id := s.lastEventID()
		for life := range 2 {
			k.DeleteTopic(topic)
			k.CreateTopic(topic, 2)
			first, second := fmt.Sprint("first of ", life), fmt.Sprint("second of ", life)
			values(k, topic, first)
			h.eventually("the new topic is seen", func() bool {
				w := h.get("/events/"+topic+"/", "Last-Event-ID", id)
				return w.Code == http.StatusOK && strings.Contains(w.Body.String(), "topic-changed")
			})
			for _, query := range []string{"", "?partition=0"} {
				s = h.open("/events/"+topic+"/"+query, "Last-Event-ID", id)
				s.until(first+" "+query, func(out string) bool { return strings.Contains(out, "data: "+first+"\n") })
			}
			s.until("hold", func(string) bool { return s.holding })
			resets, pages := countOf(t, h.r.hub.metrics.resets), s.pages
			values(k, topic, second)
			s.until(second, func(out string) bool { return strings.Contains(out, "data: "+second+"\n") })
			if n := countOf(t, h.r.hub.metrics.resets); n != resets || s.pages != pages {
				t.Errorf("life %d: reading began again %v times, and %d pages were asked for, want none", life, n-resets, s.pages-pages)
			}
			id = s.lastEventID()
		}
	})
}
