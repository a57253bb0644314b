package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/auth"
	"spillway/relay/kafkatest"
	"spillway/relay/registry"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

const patience = 60 * time.Second

// A memGateway is a gateway that keeps every item it is given, up to retain
// of each channel, and lets a test follow a stream as a real one would.
type memGateway struct {
	mu       sync.Mutex
	channels map[string]*memChannel
	retain   int
	grew     chan struct{} // closed and replaced at every change
}

type memChannel struct {
	g         *memGateway
	name      string
	ids       grip.IDs
	items     []grip.Item // deep copies
	keys      []string    // of all that was written, by which some items supersede others
	first     uint64
	listeners int
	closed    bool
}

func newMemGateway() *memGateway {
	return &memGateway{channels: make(map[string]*memChannel), retain: 1 << 20, grew: make(chan struct{})}
}

func (g *memGateway) Publish(context.Context, ...grip.Item) error { return nil }

func (g *memGateway) changed() {
	close(g.grew)
	g.grew = make(chan struct{})
}

func (g *memGateway) Open(name string, ids grip.IDs) grip.Channel {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old := g.channels[name]; old != nil {
		old.closed = true
	}
	c := &memChannel{g: g, name: name, ids: ids, first: 1}
	g.channels[name] = c
	g.changed()
	return c
}

func (c *memChannel) Append(items []grip.Item) uint64 {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for _, it := range items {
		var keep grip.Item
		if it.HTTPStream != nil {
			s := *it.HTTPStream
			s.Content = bytes.Clone(s.Content)
			keep.HTTPStream = &s
		}
		if it.WSMessage != nil {
			m := *it.WSMessage
			m.Content = bytes.Clone(m.Content)
			keep.WSMessage = &m
		}
		c.items = append(c.items, keep)
	}
	for len(c.items) > c.g.retain {
		c.items = c.items[1:]
		c.first++
	}
	c.g.changed()
	return c.first + uint64(len(c.items)) - 1
}

func (c *memChannel) Write(write func(grip.Batch)) uint64 {
	var b memBatch
	write(&b)
	c.g.mu.Lock()
	c.keys = append(c.keys, b.keys...)
	c.g.mu.Unlock()
	return c.Append(b.items)
}

// A memBatch turns entries into items.
type memBatch struct {
	items []grip.Item
	keys  []string
}

func (*memBatch) Stream(n int) []byte  { return make([]byte, 0, n) }
func (*memBatch) Message(n int) []byte { return make([]byte, 0, n) }

func (b *memBatch) Add(e grip.Entry) {
	var it grip.Item
	if e.Stream != nil || e.Action != grip.ActionSend {
		it.HTTPStream = &grip.HTTPStream{Action: e.Action, Content: e.Stream}
	}
	if e.Message != nil || e.Action != grip.ActionSend {
		it.WSMessage = &grip.WSMessage{Action: e.Action, Type: e.Type, Content: e.Message}
	}
	b.items, b.keys = append(b.items, it), append(b.keys, string(e.Key))
}

func (c *memChannel) Retained() (first, last uint64) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.first, c.first + uint64(len(c.items)) - 1
}

func (c *memChannel) Subscribers() int {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	return c.listeners
}

func (c *memChannel) Close() {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.closed = true
	if c.g.channels[c.name] == c {
		delete(c.g.channels, c.name)
	}
	c.g.changed()
}

// A harness is a relay on a cluster, with a gateway in memory.
type harness struct {
	t  testing.TB
	gw *memGateway
	r  *Relay
}

// testConfig is a configuration that notices what is new soon.
func testConfig(brokers string) Config {
	return Config{
		KafkaConsumerConfig: fmt.Sprintf(`{"bootstrap.servers":%q,"topic.metadata.refresh.interval.ms":200}`, brokers),
		Topics:              []string{".*"},
		RelayChannels:       channelsPartition,
		CORSOrigins:         []string{"*"},
		HeartbeatInterval:   time.Second,
		EventMaxBytes:       1 << 20,
		TopicLinger:         30 * time.Second,
		ReplayMaxRecords:    1e6,
		ReplayMaxBytes:      1 << 30,
		HistoryPageBytes:    64 << 10,
		HistoryCacheBytes:   64 << 20,
		CatchupPages:        256,
		FilterMaxBytes:      2 << 10,
		FilterMaxCost:       100_000,
		SnapshotMaxBytes:    64 << 20,
		CursorTimeSlack:     time.Minute,
		EventsPath:          "/events/",
		Auth: auth.Config{
			Timeout: 5 * time.Second, CacheTTL: 10 * time.Second, CacheEntries: 100, CacheBytes: 1 << 20, MaxAsked: 10, MaxRenewals: 1000, Recheck: time.Minute,
			TopicsHeader: "X-Spillway-Topics", ClaimsHeader: "X-Spillway-Claims", ExpiresHeader: "X-Spillway-Expires", SubjectHeader: "X-Spillway-Subject",
			TopicsClaim: "topics", SubjectClaim: "sub",
		},
		Registry: registry.Config{Timeout: 2 * time.Second, CacheEntries: 1000, CacheBytes: 64 << 20},
	}
}

// startRelay runs a relay until the test ends. configure may change the config.
func startRelay(t testing.TB, k *kafkatest.Cluster, configure ...func(*Config)) *harness {
	t.Helper()
	cfg := testConfig(k.Bootstrap())
	for _, f := range configure {
		f(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	gw := newMemGateway()
	r, err := New(cfg, gw, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	h := &harness{t, gw, r}
	h.eventually("kafka is ready", func() bool { return r.Ready() == nil })
	return h
}

func (h *harness) eventually(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond) // between two looks at the condition
	}
}

// get makes a request to the origin as a gateway passes it on.
func (h *harness) get(url string, header ...string) *httptest.ResponseRecorder {
	h.t.Helper()
	return h.do(httptest.NewRequest(http.MethodGet, url, nil), header...)
}

func (h *harness) do(r *http.Request, header ...string) *httptest.ResponseRecorder {
	h.t.Helper()
	return h.doInto(new(bytes.Buffer), r, header...)
}

// doInto is do with memory for the body.
func (h *harness) doInto(body *bytes.Buffer, r *http.Request, header ...string) *httptest.ResponseRecorder {
	h.t.Helper()
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	w.Body = body
	h.r.Origin().ServeHTTP(w, r)
	return w
}

// A stream is a client as a gateway sees it: what it was sent, and what it holds.
type stream struct {
	h       *harness
	out     bytes.Buffer
	page    bytes.Buffer // memory of the newest
	pages   int
	ch      *memChannel
	seq     uint64
	channel string // the name of what it held,
	lastID  string // and the last id of it; empty: none
	next    string
	timeout time.Duration // after which next is asked though nothing happened; 0: never
	applied time.Time
	holding bool
	ended   bool
	ws      bool
	prefix  string // of messages for the client, on a WebSocket
}

// open begins a stream, and fails the test unless the answer is 200.
func (h *harness) open(url string, header ...string) *stream {
	h.t.Helper()
	w := h.get(url, header...)
	if w.Code != http.StatusOK {
		h.t.Fatalf("GET %s: %d %s", url, w.Code, w.Body)
	}
	s := &stream{h: h, ws: strings.Contains(w.Header().Get("Content-Type"), "websocket-events")}
	s.prefix, _ = grip.ParseExtension(w.Header())
	s.apply(w)
	return s
}

// apply carries out GRIP instructions.
func (s *stream) apply(w *httptest.ResponseRecorder) {
	s.h.t.Helper()
	s.out.Write(s.forClient(w.Body.Bytes()))
	in, err := grip.ParseInstruct(w.Code, w.Header(), nil)
	if err != nil {
		s.h.t.Fatalf("instructions %v: %v", w.Header(), err)
	}
	s.holding, s.next, s.timeout, s.applied = false, "", 0, time.Now()
	if in.Next != nil {
		s.next, s.timeout = in.Next.URL, in.Next.Timeout
	}
	if in.Hold == grip.HoldNone {
		s.ended = s.next == ""
		return
	}
	s.channel, s.lastID = in.Channels[0].Channel, in.Channels[0].PrevID
	s.h.gw.mu.Lock()
	ch := s.h.gw.channels[in.Channels[0].Channel]
	s.h.gw.mu.Unlock()
	if ch == nil {
		return // it was closed meanwhile, so the link is asked at once
	}
	seq, ok := ch.ids.Seq(s.lastID)
	if first, _ := ch.Retained(); !ok || seq+1 < first {
		s.ch = ch
		return
	}
	s.ch, s.seq, s.holding = ch, seq, true
}

// live reports whether the stream holds a view's channel.
func (s *stream) live() bool { return s.holding && s.channel != pauseChannel }

// forClient takes the marks off that a gateway knows the client's messages by.
func (s *stream) forClient(body []byte) (out []byte) {
	s.h.t.Helper()
	if !s.ws {
		return body
	}
	events, err := grip.ParseEvents(body)
	if err != nil {
		s.h.t.Fatalf("the body %q: %v", body, err)
	}
	for _, e := range events {
		if e.Type == grip.EventText || e.Type == grip.EventBinary {
			_, control, _ := grip.ParseControl(e.Content)
			content, marked := bytes.CutPrefix(e.Content, []byte(s.prefix))
			if e.Type == grip.EventText && control {
				content = e.Content
			} else if !marked {
				s.h.t.Errorf("the message %q is for nobody", e.Content)
			}
			e.Content = content
		}
		out = grip.AppendEvent(out, e)
	}
	return out
}

// step does what a gateway does next; false when there is nothing to do yet.
func (s *stream) step() bool {
	s.h.t.Helper()
	if s.ended {
		return false
	}
	if s.holding {
		g := s.h.gw
		g.mu.Lock()
		var frames []byte
		hint := false
		switch {
		case s.ch.closed, s.seq+1 < s.ch.first:
			hint = true
		default:
			for _, it := range s.ch.items[s.seq+1-s.ch.first:] {
				s.seq++
				switch {
				case it.HTTPStream != nil && it.HTTPStream.Action == grip.ActionHint:
					hint = true
				case it.HTTPStream != nil && !s.ws:
					frames = append(frames, it.HTTPStream.Content...)
				case it.WSMessage != nil && s.ws:
					typ := grip.EventText
					if it.WSMessage.Type == grip.BinaryMessage {
						typ = grip.EventBinary
					}
					frames = grip.AppendEvent(frames, grip.Event{Type: typ, Content: it.WSMessage.Content})
				}
			}
			if !hint && len(frames) > 0 {
				var ok bool
				if s.lastID, ok = s.ch.ids.ID(s.seq); !ok {
					s.h.t.Errorf("item %d was retained, and its id is not known", s.seq)
				}
			}
		}
		g.mu.Unlock()
		s.out.Write(frames)
		if !hint && (s.timeout == 0 || time.Since(s.applied) < s.timeout) {
			return len(frames) > 0
		}
		s.holding = false
	}
	s.follow()
	return true
}

// follow asks the next link.
func (s *stream) follow() {
	s.h.t.Helper()
	r := httptest.NewRequest(http.MethodGet, s.next, nil)
	if s.lastID != "" {
		grip.AppendLast(r.Header, grip.Last{Channel: s.channel, ID: s.lastID})
	}
	s.pages++
	s.page.Reset()
	w := s.h.doInto(&s.page, r.WithContext(grip.WithLink(r.Context())))
	if w.Code == http.StatusServiceUnavailable {
		time.Sleep(20 * time.Millisecond) // a gateway retries too
		return
	}
	if w.Code != http.StatusOK {
		s.h.t.Fatalf("GET %s: %d %s", s.next, w.Code, w.Body)
	}
	s.ch, s.lastID = nil, ""
	s.apply(w)
}

// until steps until the text that was sent satisfies ok.
func (s *stream) until(what string, ok func(out string) bool) {
	s.h.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok(s.out.String()) {
		s.h.gw.mu.Lock()
		grew := s.h.gw.grew
		s.h.gw.mu.Unlock()
		if s.step() {
			continue
		}
		wait := 50 * time.Millisecond
		select {
		case <-grew:
		case <-time.After(wait):
		}
		if time.Now().After(deadline) || s.ended {
			s.h.t.Fatalf("waited for %s; ended=%v holding=%v; got %q", what, s.ended, s.holding, tail(s.out.String()))
		}
	}
}

func tail(s string) string {
	if len(s) > 4000 {
		return "…" + s[len(s)-4000:]
	}
	return s
}

// An sseEvent is one event of an SSE stream.
type sseEvent struct{ name, id, data string }

// parseSSE reads a stream as the standard does, comments and retry left out.
func parseSSE(text string) (events []sseEvent) {
	for block := range strings.SplitSeq(text, "\n\n") {
		var e sseEvent
		var data []string
		fields := false
		for line := range strings.SplitSeq(block, "\n") {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch name {
			case "event":
				e.name, fields = value, true
			case "id":
				e.id, fields = value, true
			case "data":
				data, fields = append(data, value), true
			}
		}
		if fields {
			e.data = strings.Join(data, "\n")
			events = append(events, e)
		}
	}
	return events
}

// events are what the stream was sent, id-only blocks left out.
func (s *stream) events() []sseEvent {
	return slices.DeleteFunc(parseSSE(s.out.String()), func(e sseEvent) bool { return e.name == "" })
}

// wantData waits until exactly these events came, by "name data" or data alone
// for messages.
func (s *stream) wantData(want ...string) {
	s.h.t.Helper()
	s.until(fmt.Sprint(len(want), " events"), func(string) bool { return len(s.events()) >= len(want) })
	var got []string
	for _, e := range s.events() {
		if e.name == "message" {
			got = append(got, e.data)
		} else {
			got = append(got, e.name+" "+e.data)
		}
	}
	if !slices.Equal(got, want) {
		s.h.t.Fatalf("got %q\nwant %q", got, want)
	}
}

// lastEventID is what a browser would send after losing the connection now.
func (s *stream) lastEventID() (id string) {
	for _, e := range parseSSE(s.out.String()) {
		if e.id != "" {
			id = e.id
		}
	}
	return id
}

func value(topic string, partition int32, v string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)}
}

// values produces one record per value to partition 0, one after the other.
func values(k *kafkatest.Cluster, topic string, vs ...string) {
	for _, v := range vs {
		k.Produce(value(topic, 0, v))
	}
}

func numbered(prefix string, from, to int) (vs []string) {
	for i := from; i < to; i++ {
		vs = append(vs, fmt.Sprintf("%s%d", prefix, i))
	}
	return vs
}

func problemOf(t *testing.T, w *httptest.ResponseRecorder) problem {
	t.Helper()
	var p problem
	body, _ := io.ReadAll(w.Body)
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("not a problem body: %q", body)
	}
	return p
}

// listen makes a channel believe that someone is attached to it.
func (g *memGateway) listen(channel string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.channels[channel].listeners++
}
