package fanout

import (
	"io"
	"slices"
	"strings"
	"testing"

	"spillway/gateway/compress"
	"spillway/gateway/ws"
	"spillway/grip"
)

// A testFilter skips what its user sent, and brackets the content of the rest.
type testFilter struct {
	user    string
	content []string
	effort  Effort
	turn    chan bool // where effort is Slow: what Change waits for, and says
	seen    chan Passing
}

func (f *testFilter) Skip(item map[string]string, on func(string) bool) bool {
	need := item["require_sub"]
	return f.user != "" && item["sender"] == f.user || need != "" && !on(need)
}
func (f *testFilter) ContentFilters() []string { return f.content }
func (f *testFilter) Effort() Effort           { return f.effort }

func (f *testFilter) Change(it *Passing) ([]byte, bool) {
	if f.seen != nil {
		f.seen <- *it
	}
	if f.turn != nil && !<-f.turn {
		return nil, false
	}
	return []byte("<" + string(it.Content) + ">"), string(it.Content) != "bad"
}

// from is an item with metadata.
func from(sender, content string) grip.Item {
	it := item(content)
	it.Channel, it.Meta = "a", map[string]string{"sender": sender}
	return it
}

// only is an item for subscriptions with these content filters.
func only(content string, filters ...string) grip.Item {
	it := item(content)
	it.Channel = "a"
	it.HTTPStream.ContentFilters = append([]string{}, filters...)
	it.WSMessage.ContentFilters = it.HTTPStream.ContentFilters
	return it
}

func publish(t testing.TB, e *Engine, items ...grip.Item) {
	t.Helper()
	if err := e.Publish(t.Context(), items...); err != nil {
		t.Fatal(err)
	}
}

func through(f Filter) []Want { return []Want{{Channel: "a", Filter: f}} }

// Each connection gets what its own filters leave, whatever others have.
func TestFilters(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		peers := map[*peer]string{}
		add := func(f Filter, want string) {
			p := r.take(Options{Framing: framing})
			p.hold(Hold{Wants: through(f)})
			peers[p] = want
		}
		add(nil, "1234")
		add(&testFilter{user: "bob"}, "134")
		add(&testFilter{user: "bob", effort: Quick}, "<1><3><4>")
		add(&testFilter{effort: Slow}, "<1><2><3><4>")
		add(&testFilter{content: []string{"x"}}, "12x3")
		publish(t, r.Engine, from("", "1"), from("bob", "2"), only("x", "x"), itemA("3"), only("4"))
		for p, want := range peers {
			p.want(want)
		}
	})
}

func itemA(content string) grip.Item {
	it := item(content)
	it.Channel = "a"
	return it
}

// What is compressed is so for a filtered connection, too.
func TestFiltersCompressed(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		for _, f := range []Filter{nil, &testFilter{user: "bob"}, &testFilter{user: "bob", effort: Quick}} {
			rules := ws.Rules{Limit: 1000, Inflate: compress.Inflate}
			p := r.take(Options{Framing: Framed, Coding: Deflate, Rules: &rules})
			p.hold(Hold{Wants: through(f)})
			publish(t, r.Engine, from("", strings.Repeat("1", 200)), from("bob", "no"), only("no", "x"), from("", "3"), itemA("4"))
			var got []string
			for range 3 {
				got = append(got, p.inflated())
			}
			want := []string{strings.Repeat("1", 200), "3", "4"}
			if f == nil {
				got, want = append(got, p.inflated()), []string{want[0], "no", "3", "4"}
			} else if f.(*testFilter).effort == Quick {
				want = []string{"<" + want[0] + ">", "<3>", "<4>"}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// inflated reads a message that may be compressed.
func (p *peer) inflated() string {
	p.t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(p.client, head[:]); err != nil {
		p.t.Fatal(err)
	}
	payload := make([]byte, head[1])
	if head[1] == 126 {
		var long [2]byte
		_, _ = io.ReadFull(p.client, long[:])
		payload = make([]byte, int(long[0])<<8|int(long[1]))
	}
	if _, err := io.ReadFull(p.client, payload); err != nil {
		p.t.Fatal(err)
	}
	if head[0]&0x40 == 0 {
		return string(payload)
	}
	plain, err := compress.Inflate(nil, payload, 1<<20)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(plain)
}

// A connection is subscribed to all channels of all its subscriptions.
func TestFilterSees(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: Framed})
		f := &testFilter{effort: Quick, seen: make(chan Passing, 10)}
		p.hold(Hold{Wants: []Want{{Channel: "b", PrevID: "9", HasPrevID: true}}})
		p.hold(Hold{Wants: []Want{{Channel: "a", PrevID: "1", HasPrevID: true, Filter: f}}})
		needs := func(id, prev, channel string) grip.Item {
			it := foreignItem("a", id, prev, id)
			it.WSMessage, it.Meta = &grip.WSMessage{Content: []byte(id)}, map[string]string{"require_sub": channel}
			return it
		}
		publish(t, r.Engine, needs("2", "1", "c"), needs("3", "2", "b"))
		p.want("<3>")
		got := recv(t, f.seen, "the filter")
		if want := []grip.Last{{Channel: "b", ID: "9"}, {Channel: "a", ID: "2"}}; got.ID != "3" || got.Channel != "a" || !slices.Equal(got.Lasts, want) {
			t.Errorf("got item %s of %s after %v, want 3 of a after %v", got.ID, got.Channel, got.Lasts, want)
		}
	})
}

// While a slow filter is asked, nothing overtakes the item, but other
// subscriptions of the connection go on.
func TestSlowFilter(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: Framed})
		f := &testFilter{effort: Slow, turn: make(chan bool), seen: make(chan Passing, 10)}
		p.hold(Hold{Wants: through(f)})
		p.hold(Hold{Wants: wanted("b")})
		other := item("other")
		other.Channel = "b"
		publish(t, r.Engine, itemA("1"), itemA("2"), itemA("bad"), itemA("3"), other)
		p.want("other")
		for range 4 {
			f.turn <- true
		}
		p.want("<1><2><3>")

		publish(t, r.Engine, itemA("4"))
		for string(recv(t, f.seen, "the filter").Content) != "4" {
		}
		left := r.take(Options{Framing: Framed})
		left.hold(Hold{Wants: wanted("b")})
		p.client.Close()
		p.wantGone(Left)
		f.turn <- true // nobody is there any more
		publish(t, r.Engine, other)
		left.want("other")
	})
}

// A subscription that ended while its filter was asked leaves nothing behind for
// the next one.
func TestSlowFilterOfEndedSubscription(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: Framed})
		f := &testFilter{effort: Slow, turn: make(chan bool), seen: make(chan Passing, 1)}
		first := p.hold(Hold{Wants: through(f)})
		publish(t, r.Engine, itemA("1"))
		recv(t, f.seen, "the filter")
		if !p.conn.Drop(first) {
			t.Error("drop: got false, want true")
		}
		p.hold(Hold{Wants: through(nil)})
		f.turn <- true
		publish(t, r.Engine, itemA("2"))
		p.want("2")
	})
}

// A long poll is answered with the first item that passes, as its filter has it.
func TestFilterResponse(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		for _, effort := range []Effort{NoEffort, Quick, Slow} {
			r := newRig(t, cfg)
			p := r.take(Options{})
			f := &testFilter{user: "bob", effort: effort}
			sub := p.hold(Hold{Form: Response, Wants: through(f)})
			pulled, _ := r.Subscribe(Response, through(f), false)
			reply := func(sender, body string) grip.Item {
				return grip.Item{Channel: "a", Meta: map[string]string{"sender": sender}, HTTPResponse: &grip.HTTPResponse{Code: 201, Body: []byte(body)}}
			}
			publish(t, r.Engine, reply("bob", "no"), reply("", "bad"), reply("alice", "yes"))
			want := "bad"
			if effort != NoEffort {
				want = "<yes>"
			}
			if got := p.wantHeld(sub, Ready).b.Response; string(got.Body) != want || got.Code != 201 {
				t.Errorf("effort %d: got %d %q, want 201 %q", effort, got.Code, got.Body, want)
			}
			b, status := pulled.Next(1000)
			if status != Ready || string(b.Response.Body) != want {
				t.Errorf("effort %d, pulled: got %d, %v, want %q", effort, status, b.Response, want)
			}
			p.conn.Release(sub)
			pulled.Close()
			r.stop()
		}
	})
}

// Ids go on over items that a filter has dropped: there is no gap.
func TestFilterFollows(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		for _, effort := range []Effort{NoEffort, Quick} {
			r := newRig(t, cfg)
			p := r.take(Options{Framing: Chunked})
			sub := p.hold(Hold{Wants: []Want{{Channel: "a", PrevID: "0", HasPrevID: true, Filter: &testFilter{user: "bob", effort: effort}}}})
			own := foreignItem("a", "2", "1", "no")
			own.Meta = map[string]string{"sender": "bob"}
			publish(t, r.Engine, foreignItem("a", "1", "0", "x"), own, foreignItem("a", "3", "2", "y"))
			want := "xy"
			if effort != NoEffort {
				want = "<x><y>"
			}
			p.want(want)
			gap := foreignItem("a", "9", "8", "gap")
			gap.NoSeq = true
			publish(t, r.Engine, gap)
			p.wantHeld(sub, Behind)
			p.wantRelease(sub, true, grip.Last{Channel: "a", ID: "3"})
			r.stop()
		}
	})
}
