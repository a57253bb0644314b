package fanout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

// numbers is a publisher's knowledge of its items: item 7 has id "7".
type numbers struct{ known uint64 } // ids from here on are known

func (n numbers) ID(seq uint64) (string, bool) {
	return strconv.FormatUint(seq, 10), seq >= n.known
}

func (n numbers) Seq(id string) (uint64, bool) {
	seq, err := strconv.ParseUint(id, 10, 64)
	return seq, err == nil && seq >= n.known
}

func newEngine(t testing.TB, cfg Config) *Engine {
	t.Helper()
	return New(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry())
}

func stream(content string) grip.Item {
	return grip.Item{HTTPStream: &grip.HTTPStream{Content: []byte(content)}}
}

func streams(contents ...string) []grip.Item {
	var items []grip.Item
	for _, c := range contents {
		items = append(items, stream(c))
	}
	return items
}

func subscribe(t testing.TB, e *Engine, form Form, wants ...Want) *Subscriber {
	t.Helper()
	s, ok := e.Subscribe(form, wants, false)
	if !ok {
		t.Fatalf("subscribe %v: not attached", wants)
	}
	t.Cleanup(s.Close)
	return s
}

// contents is what is in the frames of a batch.
func contents(b Batch) (all []byte) {
	for c := range b.Contents() {
		all = append(all, c...)
	}
	return all
}

// wantNext checks what Next returns: content, and what comes after it.
func wantNext(t testing.TB, s *Subscriber, wantBytes string, wantStatus Status) Batch {
	t.Helper()
	var got []byte
	for {
		b, status := s.Next(1 << 20)
		got = append(got, contents(b)...)
		if status == Ready && len(got) < len(wantBytes) {
			continue
		}
		if string(got) != wantBytes || status != wantStatus {
			t.Fatalf("next: got %q and status %d, want %q and %d", got, status, wantBytes, wantStatus)
		}
		return b
	}
}

func wantLasts(t testing.TB, s *Subscriber, want ...grip.Last) {
	t.Helper()
	if got := s.Detach(); !slices.Equal(got, want) {
		t.Errorf("last ids: got %v, want %v", got, want)
	}
}

func TestAttach(t *testing.T) {
	e := newEngine(t, Config{})
	ch := e.Open("c", numbers{known: 2})
	ch.Append(streams("a", "b", "c", "d"))
	for _, tt := range []struct {
		name     string
		want     Want
		attached bool
		content  string
	}{
		{"no prev-id: from now on", Want{Channel: "c"}, true, ""},
		{"after an item", Want{Channel: "c", PrevID: "2", HasPrevID: true}, true, "cd"},
		{"after the newest", Want{Channel: "c", PrevID: "4", HasPrevID: true}, true, ""},
		{"an id the publisher has forgotten", Want{Channel: "c", PrevID: "1", HasPrevID: true}, false, ""},
		{"an id that is to come", Want{Channel: "c", PrevID: "5", HasPrevID: true}, false, ""},
		{"not an id", Want{Channel: "c", PrevID: "x", HasPrevID: true}, false, ""},
		{"a channel that is not open", Want{Channel: "other", PrevID: "2", HasPrevID: true}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, ok := e.Subscribe(Stream, []Want{tt.want}, true)
			if ok != tt.attached {
				t.Fatalf("attached: got %t, want %t", ok, tt.attached)
			}
			if !ok {
				return
			}
			defer s.Close()
			if tt.content != "" {
				wantNext(t, s, tt.content, Ready)
			}
			wantNext(t, s, "", Wait)
			if got := ch.Subscribers(); got != 1 {
				t.Errorf("subscribers: got %d, want 1", got)
			}
		})
	}
	if got := ch.Subscribers(); got != 0 {
		t.Errorf("subscribers in the end: got %d, want 0", got)
	}
}

func TestRetained(t *testing.T) {
	e := newEngine(t, Config{ChannelLogBytes: 8 << 10})
	ch := e.Open("c", numbers{})
	if first, last := ch.Retained(); first != 1 || last != 0 {
		t.Errorf("empty: got %d to %d, want 1 to 0", first, last)
	}
	if last := ch.Append(nil); last != 0 {
		t.Errorf("append of nothing: got %d, want 0", last)
	}
	for i := range 1000 {
		if last := ch.Append(streams(strings.Repeat("x", 100))); last != uint64(i+1) {
			t.Fatalf("append: got %d, want %d", last, i+1)
		}
	}
	first, last := ch.Retained()
	if last != 1000 || first < 900 || first > 990 {
		t.Errorf("8 KiB of 100-byte items: got %d to %d, want some of the last hundred to 1000", first, last)
	}
	if _, ok := e.Subscribe(Stream, []Want{{Channel: "c", PrevID: strconv.FormatUint(first-2, 10), HasPrevID: true}}, true); ok {
		t.Error("attached before what is retained")
	}
	s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: strconv.FormatUint(first-1, 10), HasPrevID: true})
	wantNext(t, s, strings.Repeat("x", int(100*(last-first+1))), Ready)
}

func TestBehind(t *testing.T) {
	e := newEngine(t, Config{ChannelLogBytes: 4 << 10})
	ch := e.Open("c", numbers{})
	ch.Append(streams("a", "b"))
	s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "0", HasPrevID: true})
	fresh := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "2", HasPrevID: true})
	wantNext(t, s, "ab", Ready)
	for range 200 {
		ch.Append(streams(strings.Repeat("x", 100)))
	}
	if got := ch.Subscribers(); got != 0 {
		t.Errorf("subscribers after both fell behind: got %d, want 0", got)
	}
	select {
	case <-s.Wake():
	default:
		t.Error("not woken")
	}
	wantNext(t, s, "", Behind)
	wantLasts(t, s, grip.Last{Channel: "c", ID: "2"})
	wantNext(t, fresh, "", Behind)
	wantLasts(t, fresh, grip.Last{Channel: "c", ID: "2"}) // its prev-id: it was given nothing
}

func TestForms(t *testing.T) {
	e := newEngine(t, Config{})
	ch := e.Open("c", numbers{})
	both, messages := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "0", HasPrevID: true}), subscribe(t, e, Message, Want{Channel: "c", PrevID: "0", HasPrevID: true})
	polls := subscribe(t, e, Any, Want{Channel: "c", PrevID: "0", HasPrevID: true})
	ch.Append([]grip.Item{
		{HTTPStream: &grip.HTTPStream{Content: []byte("data: 1\n\n")}, WSMessage: &grip.WSMessage{Content: []byte("1")}},
		{HTTPStream: &grip.HTTPStream{Content: []byte("event: delete\n\n")}},
		{WSMessage: &grip.WSMessage{}},
		{WSMessage: &grip.WSMessage{Type: grip.BinaryMessage, Content: []byte{0, 1}}},
	})
	wantNext(t, both, "data: 1\n\nevent: delete\n\n", Ready)
	wantNext(t, both, "", Wait)

	b := wantNext(t, messages, "1\x00\x01", Ready)
	var got []string
	for typ, content := range b.Messages() {
		got = append(got, fmt.Sprintf("%d:%s", typ, content))
	}
	if want := []string{"0:1", "0:", "1:\x00\x01"}; !slices.Equal(got, want) || b.Items != 3 {
		t.Errorf("messages: got %q (%d), want %q", got, b.Items, want)
	}
	if b, status := polls.Next(1); status != Ready || b.Frames != nil {
		t.Errorf("any: got %v, %d, want an item without content", b, status)
	}
}

func TestActions(t *testing.T) {
	hint := grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}
	end := grip.Item{
		HTTPStream: &grip.HTTPStream{Action: grip.ActionClose},
		WSMessage:  &grip.WSMessage{Action: grip.ActionClose, Code: 1013, Reason: "later"},
	}
	t.Run("a hint names the item before it", func(t *testing.T) {
		e := newEngine(t, Config{})
		ch := e.Open("c", numbers{})
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "0", HasPrevID: true})
		ch.Append([]grip.Item{stream("a"), hint, hint, stream("b")})
		wantNext(t, s, "a", Ready)
		wantNext(t, s, "", Hint)
		wantLasts(t, s, grip.Last{Channel: "c", ID: "1"})
	})
	t.Run("a hint at once names the prev-id", func(t *testing.T) {
		e := newEngine(t, Config{})
		ch := e.Open("c", numbers{})
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "00", HasPrevID: true}) // other spelling of 0
		ch.Append([]grip.Item{hint})
		wantNext(t, s, "", Hint)
		wantLasts(t, s, grip.Last{Channel: "c", ID: "00"})
	})
	t.Run("who asks again passes hints over", func(t *testing.T) {
		e := newEngine(t, Config{})
		ch := e.Open("c", numbers{})
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "0", HasPrevID: true})
		ch.Append([]grip.Item{hint, stream("b"), end})
		wantNext(t, s, "", Hint)
		wantNext(t, s, "b", Ready)
		wantNext(t, s, "", End)
	})
	t.Run("a close has code and reason", func(t *testing.T) {
		e := newEngine(t, Config{})
		ch := e.Open("c", numbers{})
		s := subscribe(t, e, Message, Want{Channel: "c", PrevID: "0", HasPrevID: true})
		ch.Append([]grip.Item{end})
		if b := wantNext(t, s, "", End); b.Code != 1013 || b.Reason != "later" {
			t.Errorf("close: got %d %q, want 1013 later", b.Code, b.Reason)
		}
	})
	t.Run("from outside, on an open channel, after what is in the log", func(t *testing.T) {
		e := newEngine(t, Config{})
		ch := e.Open("c", numbers{})
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "0", HasPrevID: true})
		ch.Append(streams("a"))
		end.Channel = "c"
		if err := e.Publish(context.Background(), end); err != nil {
			t.Fatal(err)
		}
		if last := ch.Append(streams("b")); last != 2 {
			t.Errorf("the close took a number: item after it got %d, want 2", last)
		}
		wantNext(t, s, "a", Ready)
		wantNext(t, s, "", End)
	})
	t.Run("content from outside is refused", func(t *testing.T) {
		e := newEngine(t, Config{})
		e.Open("c", numbers{})
		item := stream("x")
		item.Channel = "c"
		var owned *OwnedError
		if err := e.Publish(context.Background(), item); !errors.As(err, &owned) {
			t.Errorf("publish: got %v, want an OwnedError", err)
		}
	})
}

func TestCloseAndReplace(t *testing.T) {
	e := newEngine(t, Config{})
	first := e.Open("c", numbers{})
	first.Append(streams("a", "b"))
	closed := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "1", HasPrevID: true})
	wantNext(t, closed, "b", Ready)
	first.Close()
	first.Close()
	wantNext(t, closed, "", Closed)
	wantLasts(t, closed, grip.Last{Channel: "c", ID: "2"})
	if got := e.logBytes.Load(); got != 0 {
		t.Errorf("log bytes after close: got %d, want 0", got)
	}
	if _, ok := e.Subscribe(Stream, []Want{{Channel: "c", PrevID: "2", HasPrevID: true}}, true); ok {
		t.Error("attached to a closed channel")
	}

	second := e.Open("c", numbers{})
	second.Append(streams("a"))
	replaced := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "0", HasPrevID: true})
	wantNext(t, replaced, "a", Ready)
	third := e.Open("c", numbers{})
	third.Append(streams("z"))
	wantNext(t, replaced, "", Closed)
	wantLasts(t, replaced, grip.Last{Channel: "c", ID: "1"})
	second.Close() // is not the engine's any more, and takes nothing away
	subscribe(t, e, Stream, Want{Channel: "c", PrevID: "1", HasPrevID: true})
	if got := third.Subscribers(); got != 1 {
		t.Errorf("subscribers of the newest: got %d, want 1", got)
	}

	foreign := subscribe(t, e, Stream, Want{Channel: "orders"})
	orders := e.Open("orders", numbers{})
	orders.Append(streams("from the topic"))
	select {
	case <-foreign.Wake():
	default:
		t.Error("not woken when its channel was opened")
	}
	wantNext(t, foreign, "from the topic", Ready)
}

// Items of the last moment stay beyond ChannelLogBytes, as long as there is room
// for them.
func TestLogMinAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, Config{Portable: true, ChannelLogBytes: 16 << 10, ChannelLogMinAge: time.Second, LogMemory: 512 << 10})
		ch := e.Open("c", numbers{})
		line := strings.Repeat("x", 1000)
		for range 100 {
			ch.Append(streams(line))
		}
		if first, last := ch.Retained(); first != 1 || last != 100 {
			t.Errorf("within the second: retained %d to %d, want all", first, last)
		}
		time.Sleep(2 * time.Second)
		ch.Append(streams(line))
		ch.Append(streams(line))
		if first, last := ch.Retained(); last-first > 20 {
			t.Errorf("after it: retained %d to %d, want about 16 KiB", first, last)
		}
		for range 1000 {
			ch.Append(streams(line))
		}
		if got, most := e.logBytes.Load(), int64(400<<10); got > most {
			t.Errorf("when memory is short: %d bytes, want at most %d", got, most)
		}
	})
}

func TestLogMemory(t *testing.T) {
	e := newEngine(t, Config{LogMemory: 256 << 10})
	a, b := e.Open("a", numbers{}), e.Open("b", numbers{})
	line := strings.Repeat("x", 1000)
	for range 20 {
		a.Append(streams(line))
	}
	for range 500 {
		b.Append(streams(line))
	}
	if got, limit := e.logBytes.Load(), int64(256<<10); got > limit {
		t.Errorf("log bytes: got %d, want at most %d", got, limit)
	}
	if first, last := a.Retained(); first > last || last != 20 || first == 1 {
		t.Errorf("quiet channel: got %d to %d, want only the newest segment", first, last)
	}
	if first, last := b.Retained(); last-first < 5 {
		t.Errorf("busy channel: got %d to %d, want several items", first, last)
	}

	batch := streams(slices.Repeat([]string{line}, 300)...)
	first := b.Append(batch) - uint64(len(batch)) + 1
	if got, last := b.Retained(); got > first {
		t.Errorf("newest batch, larger than the limit: retained %d to %d, want all from %d", got, last, first)
	}
	b.Append(streams("next"))
	if got := e.logBytes.Load(); got > 256<<10 {
		t.Errorf("log bytes after the next batch: got %d, want at most %d", got, 256<<10)
	}
}

func TestAgeAndLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, Config{Portable: true, ChannelLogAge: time.Minute, Linger: time.Minute})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		ch := e.Open("c", numbers{})
		ch.Append(streams("a"))
		s := subscribe(t, e, Stream, Want{Channel: "foreign"})
		time.Sleep(59 * time.Second)
		if first, last := ch.Retained(); first != 1 || last != 1 {
			t.Errorf("after 59s: got %d to %d, want 1 to 1", first, last)
		}
		time.Sleep(10 * time.Second)
		if first, last := ch.Retained(); first != 2 || last != 1 {
			t.Errorf("after 69s: got %d to %d, want 2 to 1", first, last)
		}
		if got := e.logBytes.Load(); got != 0 {
			t.Errorf("log bytes: got %d, want 0", got)
		}
		subscribe(t, e, Stream, Want{Channel: "c", PrevID: "1", HasPrevID: true}).Close() // behind the newest, which is gone
		s.Close()
		time.Sleep(50 * time.Second)
		if got := e.count(); got != 2 {
			t.Errorf("channels 50s after the last subscriber left: got %d, want 2", got)
		}
		time.Sleep(20 * time.Second)
		if got := e.count(); got != 1 || !e.IsOpen("c") {
			t.Errorf("channels 70s after: got %d, want only c", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func foreignItem(channel, id, prev, content string) grip.Item {
	it := stream(content)
	it.Channel, it.ID, it.PrevID = channel, id, prev
	return it
}

func TestForeign(t *testing.T) {
	ctx := context.Background()
	publish := func(t *testing.T, e *Engine, items ...grip.Item) {
		t.Helper()
		if err := e.Publish(ctx, items...); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("without subscribers nothing is stored, but ids are seen", func(t *testing.T) {
		e := newEngine(t, Config{})
		publish(t, e, foreignItem("c", "1", "", "a"))
		s := subscribe(t, e, Stream, Want{Channel: "c"})
		publish(t, e, foreignItem("c", "1", "", "a"), foreignItem("c", "2", "", "b"), foreignItem("c", "2", "", "b"))
		wantNext(t, s, "b", Ready)
		wantNext(t, s, "", Wait)
		wantLasts(t, s)
	})
	t.Run("prev-id is looked up in the log", func(t *testing.T) {
		e := newEngine(t, Config{})
		subscribe(t, e, Stream, Want{Channel: "c"})
		publish(t, e, foreignItem("c", "1", "", "a"), foreignItem("c", "2", "1", "b"), foreignItem("c", "3", "2", "c"))
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "1", HasPrevID: true})
		wantNext(t, s, "bc", Ready)
		wantLasts(t, s, grip.Last{Channel: "c", ID: "3"})
		if _, ok := e.Subscribe(Stream, []Want{{Channel: "c", PrevID: "0", HasPrevID: true}}, false); ok {
			t.Error("attached after an id that is not in the log, nor the newest")
		}
		publish(t, e, foreignItem("c", "4", "3", "d")) // the look-up table is kept up
		wantNext(t, subscribe(t, e, Stream, Want{Channel: "c", PrevID: "3", HasPrevID: true}), "d", Ready)
	})
	t.Run("an item that does not follow", func(t *testing.T) {
		e := newEngine(t, Config{})
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "1", HasPrevID: true})
		publish(t, e, foreignItem("c", "1", "0", "a"), foreignItem("c", "2", "1", "b"))
		gap := foreignItem("c", "5", "4", "e")
		gap.NoSeq = true
		publish(t, e, gap)
		wantNext(t, s, "b", Ready) // 1 was in the response already
		wantNext(t, s, "", Behind)
		wantLasts(t, s, grip.Last{Channel: "c", ID: "2"})
	})
	t.Run("a hint's id becomes the last one", func(t *testing.T) {
		e := newEngine(t, Config{})
		s := subscribe(t, e, Stream, Want{Channel: "c", PrevID: "1", HasPrevID: true})
		publish(t, e, grip.Item{Channel: "c", ID: "8", PrevID: "1", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
		wantNext(t, s, "", Hint)
		wantLasts(t, s, grip.Last{Channel: "c", ID: "8"})
	})
	t.Run("answers of long polls", func(t *testing.T) {
		e := newEngine(t, Config{})
		s := subscribe(t, e, Response, Want{Channel: "c"})
		publish(t, e,
			grip.Item{Channel: "c", HTTPResponse: &grip.HTTPResponse{Action: grip.ActionClose}},
			foreignItem("c", "", "", "not for polls"),
			grip.Item{Channel: "c", HTTPResponse: &grip.HTTPResponse{Code: 201, Body: []byte("x")}})
		b, status := s.Next(1)
		if status != Ready || b.Response == nil || b.Response.Code != 201 {
			t.Errorf("got %+v, status %d, want the response", b.Response, status)
		}
	})
	t.Run("several channels, each in its turn", func(t *testing.T) {
		e := newEngine(t, Config{})
		s := subscribe(t, e, Stream, Want{Channel: "a"}, Want{Channel: "b"})
		publish(t, e, foreignItem("a", "", "", "1"), foreignItem("b", "", "", "2"), foreignItem("a", "", "", "3"))
		wantNext(t, s, "13", Ready)
		publish(t, e, foreignItem("a", "", "", "4"))
		wantNext(t, s, "2", Ready)
		wantNext(t, s, "4", Ready)
		wantNext(t, s, "", Wait)
	})
	t.Run("twenty channels and no more", func(t *testing.T) {
		e := newEngine(t, Config{})
		var wants []Want
		for i := range 25 {
			wants = append(wants, Want{Channel: fmt.Sprint("c", i)})
		}
		subscribe(t, e, Stream, wants...)
		got, more := e.Channels("c1", 5)
		if want := (ChannelInfo{"c10", 1}); len(got) != 5 || !more || got[0] != want {
			t.Errorf("channels: got %v, %t, want 5 of more, from %v on", got, more, want)
		}
		if got, more := e.Channels("", 100); len(got) != MaxSubscriptions || more {
			t.Errorf("channels: got %d, %t, want %d", len(got), more, MaxSubscriptions)
		}
	})
}

func TestIDCacheIsBounded(t *testing.T) {
	var c idCache
	c.init(time.Minute, 3)
	for i, tt := range []struct {
		id   string
		at   time.Duration
		want bool
	}{
		{"a", 0, true},
		{"a", time.Second, false},
		{"b", 2 * time.Second, true},
		{"c", 3 * time.Second, true},
		{"d", 4 * time.Second, true}, // a has to go
		{"a", 5 * time.Second, true}, // b has to go
		{"c", 6 * time.Second, false},
		{"c", 64 * time.Second, true}, // too long ago
	} {
		if got := c.add("x", tt.id, tt.at); got != tt.want {
			t.Errorf("step %d, %s: got %t, want %t", i, tt.id, got, tt.want)
		}
	}
	if n, evicted := c.stats(); n > 3 || evicted != 2 {
		t.Errorf("got %d ids and %d evicted, want at most 3, and 2", n, evicted)
	}
}

// Every subscriber gets every item exactly once and in order, while some of
// them stall so long that the log passes them and they read history.
func TestNothingLostUnderLoad(t *testing.T) {
	const items = 10_000
	e := newEngine(t, Config{ChannelLogBytes: 4 << 10}) // some 600 items
	ch := e.Open("c", numbers{})
	var (
		mu      sync.Mutex
		history []string // what the publisher has appended
	)
	var wg sync.WaitGroup
	behind := make([]int, 8)
	reached := make([]atomic.Int64, len(behind))
	for r := range behind {
		wg.Go(func() {
			var got []byte
			next := 0 // the number that must come next
			take := func(b []byte) {
				got = append(got, b...)
				for {
					line, rest, ok := strings.Cut(string(got), "\n")
					if !ok {
						return
					}
					if line != strconv.Itoa(next) {
						t.Errorf("reader %d: got %s, want %d", r, line, next)
						panic("stop")
					}
					next++
					reached[r].Store(int64(next))
					got = []byte(rest)
				}
			}
			for next < items {
				s, ok := e.Subscribe(Stream, []Want{{Channel: "c", PrevID: strconv.Itoa(next), HasPrevID: true}}, true)
				if !ok { // page of history
					mu.Lock()
					page := strings.Join(history[next:min(next+500, len(history))], "")
					mu.Unlock()
					take([]byte(page))
					continue
				}
				for next < items {
					b, status := s.Next(1 << (r + 4))
					take(contents(b))
					for r%2 == 1 && status == Ready && behind[r] == 0 { // a client that is slow once
						if first, last := ch.Retained(); first > uint64(next)+1 || last == items {
							break
						}
						runtime.Gosched()
					}
					if status == Wait {
						<-s.Wake()
					} else if status != Ready {
						behind[r]++
						lasts := s.Detach()
						if want := (grip.Last{Channel: "c", ID: strconv.Itoa(next)}); len(lasts) != 1 || lasts[0] != want {
							t.Errorf("reader %d: got %v, want %v", r, lasts, want)
						}
						break
					}
				}
				s.Close()
			}
		})
	}
	for i := 0; i < items; {
		var batch []grip.Item
		mu.Lock()
		for range 1 + i%7 {
			line := strconv.Itoa(i) + "\n"
			history = append(history, line)
			batch = append(batch, stream(line))
			i++
			if i == items {
				break
			}
		}
		mu.Unlock()
		ch.Append(batch)
		for r := range reached { // not so far ahead that everything is read from history
			for int64(i)-reached[r].Load() > 1000 && !t.Failed() {
				runtime.Gosched()
			}
		}
	}
	wg.Wait()
	total := 0
	for _, n := range behind {
		total += n
	}
	t.Logf("fell behind %d times", total)
	if total == 0 {
		t.Error("nobody fell behind: the test shows nothing")
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	e := newEngine(t, Config{ChannelLogBytes: 1 << 20})
	ch := e.Open("c", numbers{})
	items := streams(strings.Repeat("x", 128))
	for range 20_000 { // until the log is full, and every append evicts as much
		ch.Append(items)
	}
	s := subscribe(t, e, Stream, Want{Channel: "c"})
	s.Next(1) // parks
	if got := testing.AllocsPerRun(10_000, func() {
		ch.Append(items)
		<-s.Wake()
		for {
			if _, status := s.Next(64 << 10); status == Wait {
				break
			}
		}
	}); got != 0 {
		t.Errorf("append and next: got %v allocations, want 0", got)
	}
}
