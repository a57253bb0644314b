package fanout

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway/gateway/ws"
	"spillway/grip"
)

// From here on every test of a connection runs on both mechanisms, with clients
// at the other end of real sockets.

func TestConnContent(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		ch.Append(items("one ", "two ", "three "))
		now, before := r.take(Options{Framing: framing}), r.take(Options{Framing: framing})
		now.hold(Hold{Wants: wanted("c")})
		before.hold(Hold{Wants: wanted("c", "1")})
		before.want("two three ")

		ch.Append(items("four ", "", "five "))
		ch.Append([]grip.Item{{HTTPResponse: &grip.HTTPResponse{Body: []byte("not for them")}}})
		ch.Append(items("six "))
		for _, p := range []*peer{now, before} {
			p.want("four five six ")
		}
		if _, ok := before.conn.Hold(Hold{Wants: wanted("c", "never"), OpenOnly: true}); ok {
			t.Error("attached behind an unknown item")
		}
		if _, ok := before.conn.Hold(Hold{Wants: []Want{{Channel: "c"}, {Channel: "none"}}, OpenOnly: true}); ok {
			t.Error("attached to a channel that is not open")
		}
		if got := ch.Subscribers(); got != 2 {
			t.Errorf("subscribers: got %d, want 2", got)
		}
	})
}

// An empty message is a message, and a ping mostly is one.
func TestConnEmptyMessages(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		p := r.take(Options{Framing: Framed})
		p.hold(Hold{Wants: wanted("c")})
		ch.Append([]grip.Item{
			{WSMessage: &grip.WSMessage{Type: grip.PingMessage}},
			{WSMessage: &grip.WSMessage{Type: grip.BinaryMessage}},
			{WSMessage: &grip.WSMessage{Content: []byte("x")}},
		})
		for _, want := range []frame{{op: ws.OpPing}, {op: ws.OpBinary}, {ws.OpText, []byte("x")}} {
			p.wantFrame(want)
		}
	})
}

func TestConnSeveralChannels(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		const channels, each = 5, 200
		r := newRig(t, cfg)
		p := r.take(Options{Framing: framing})
		var all []Want
		var publishers sync.WaitGroup
		for c := range channels {
			name := string('a' + rune(c))
			ch := r.Open(name, numbers{})
			all = append(all, Want{Channel: name, PrevID: "0", HasPrevID: true})
			publishers.Go(func() {
				for i := range each {
					ch.Append(items(fmt.Sprintf("%s%d ", name, i)))
				}
			})
		}
		p.hold(Hold{Wants: all[:2]})
		p.hold(Hold{Wants: all[2:4]})
		p.hold(Hold{Wants: all[4:]})
		next := map[byte]int{}
		var tokens strings.Builder
		for range channels * each {
			token := p.token()
			if want := next[token[0]]; token[1:] != strconv.Itoa(want) {
				t.Fatalf("got %s, want number %d", token, want)
			}
			next[token[0]]++
			tokens.WriteByte(token[0])
		}
		publishers.Wait()
		if len(next) != channels {
			t.Errorf("got items of %d channels, want %d", len(next), channels)
		}
	})
}

// token reads up to the next blank.
func (p *peer) token() string {
	p.t.Helper()
	var token []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(p.body, b); err != nil {
			p.t.Fatalf("behind %q: %v", token, err)
		}
		if b[0] == ' ' {
			return string(token)
		}
		token = append(token, b[0])
	}
}

// What is written to one connection alone comes ahead of what is in the logs, at
// once behind what is on its way, and never inside a frame.
func TestConnWrite(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		ch.Append(items("item "))
		p := r.takeNarrow(Options{Framing: framing})
		for _, content := range []string{"first ", "", "second "} {
			if err := p.conn.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		if framing == Framed { // of which the empty one is a message, too
			for _, content := range []string{"first ", "", "second "} {
				p.wantFrame(frame{ws.OpText, []byte(content)})
			}
		} else {
			p.want("first second ")
		}
		p.hold(Hold{Wants: wanted("c", "0")})
		p.want("item ")

		const each = 300
		padding := strings.Repeat("-", 300)
		written := make(chan error, each)
		go func() {
			for i := range each {
				written <- p.conn.Write(fmt.Appendf(nil, "p%d%s ", i, padding))
			}
		}()
		go func() {
			for i := range each {
				ch.Append(items(fmt.Sprintf("i%d%s ", i, padding)))
			}
		}()
		p.waitBlocked()
		next := map[byte]int{}
		for range 2 * each {
			token := p.token()
			if want := strconv.Itoa(next[token[0]]) + padding; token[1:] != want {
				t.Fatalf("got %s, want %s", token, want)
			}
			next[token[0]]++
		}
		for range each {
			if err := recv(t, written, "a write"); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestConnWriteWhereTheConnectionEnds(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		p := r.takeNarrow(Options{Framing: framing})
		written := make(chan error, 3)
		for range cap(written) {
			go func() { written <- p.conn.Write(make([]byte, 4<<20)) }()
		}
		p.waitBlocked()
		p.conn.Cut()
		p.wantGone(CutOff)
		for range cap(written) {
			if err := recv(t, written, "a write"); !errors.Is(err, ErrGone) {
				t.Errorf("got %v, want %v", err, ErrGone)
			}
		}
		if err := p.conn.Write([]byte("x")); !errors.Is(err, ErrGone) {
			t.Errorf("afterwards: got %v, want %v", err, ErrGone)
		}
		if _, ok := p.conn.Hold(Hold{Wants: wanted("c")}); ok || !p.conn.Over() {
			t.Error("holding after the end")
		}
	})
}

func TestConnHeld(t *testing.T) {
	action := func(a grip.Action, code int, reason string) grip.Item {
		return grip.Item{
			HTTPStream: &grip.HTTPStream{Action: a},
			WSMessage:  &grip.WSMessage{Action: a, Code: code, Reason: reason},
		}
	}
	for _, tt := range []struct {
		name   string
		act    func(r *rig, ch grip.Channel)
		hold   Hold
		why    Status
		last   string
		code   int // on a WebSocket
		reason string
	}{
		{"hint in the log", func(_ *rig, ch grip.Channel) {
			ch.Append([]grip.Item{item("b "), action(grip.ActionHint, 0, ""), item("c ")})
		}, Hold{}, Hint, "2", 0, ""},
		{"hint from outside", func(r *rig, ch grip.Channel) {
			ch.Append(items("b "))
			hint := action(grip.ActionHint, 0, "")
			hint.Channel = "c"
			_ = r.Publish(t.Context(), hint)
		}, Hold{}, Hint, "2", 0, ""},
		{"close in the log", func(_ *rig, ch grip.Channel) {
			ch.Append([]grip.Item{item("b "), action(grip.ActionHint, 0, ""), action(grip.ActionClose, 3001, "over")})
		}, Hold{PassHints: true}, End, "4", 3001, "over"},
		{"closed", func(_ *rig, ch grip.Channel) {
			ch.Append(items("b "))
		}, Hold{}, Closed, "2", 0, ""},
		{"quiet", func(_ *rig, ch grip.Channel) {
			ch.Append(items("b "))
		}, Hold{LinkAfter: 100 * time.Millisecond}, Quiet, "2", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
				r := newRig(t, cfg)
				ch := r.Open("c", numbers{})
				ch.Append(items("a "))
				p := r.take(Options{Framing: framing})
				tt.hold.Wants = wanted("c", "0")
				tt.hold.Context = "mine"
				s := p.hold(tt.hold)
				p.want("a ")
				tt.act(r, ch)
				p.want("b ")
				if tt.why == Closed {
					ch.Close()
				}
				w := p.wantHeld(s, tt.why)
				if framing == Framed && (w.b.Code != tt.code || w.b.Reason != tt.reason) {
					t.Errorf("got %d %q, want %d %q", w.b.Code, w.b.Reason, tt.code, tt.reason)
				}
				if got := s.Context(); got != "mine" {
					t.Errorf("context: got %v, want mine", got)
				}
				if p.conn.Drop(s) {
					t.Error("dropped what Held was called for")
				}
				p.wantRelease(s, true, grip.Last{Channel: "c", ID: tt.last})

				// It holds again, and gets what it has not had.
				ch = r.Open("d", numbers{})
				s = p.hold(Hold{Wants: wanted("d")})
				ch.Append(items("d "))
				p.want("d ")
				ch.Close()
				p.wantHeld(s, Closed)
				p.wantRelease(s, true, grip.Last{Channel: "d", ID: "1"})
				s = p.hold(Hold{Wants: wanted("other")})
				if !p.conn.Drop(s) || p.conn.Drop(s) {
					t.Error("drop: want true, then false")
				}
				if len(p.held) > 0 {
					t.Errorf("told once more: %v", <-p.held)
				}
			})
		})
	}
}

// Whoever was told of a hint goes back to before it, whatever becomes of the channel
// until it asks.
func TestConnHintedThenClosed(t *testing.T) {
	for name, end := range map[string]func(*rig, grip.Channel){
		"closed":   func(_ *rig, ch grip.Channel) { ch.Close() },
		"replaced": func(r *rig, _ grip.Channel) { r.Open("c", numbers{}) },
		"grown":    func(_ *rig, ch grip.Channel) { ch.Append(items("b", "c")) },
	} {
		t.Run(name, func(t *testing.T) {
			eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
				r := newRig(t, cfg)
				ch := r.Open("c", numbers{})
				p := r.take(Options{Framing: framing})
				s := p.hold(Hold{Wants: wanted("c")})
				hint := grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}, WSMessage: &grip.WSMessage{Action: grip.ActionHint}}
				ch.Append([]grip.Item{items("a ")[0], hint})
				p.want("a ")
				p.wantHeld(s, Hint)
				end(r, ch)
				p.wantRelease(s, true, grip.Last{Channel: "c", ID: "1"})
			})
		})
	}
}

// A hold that is for a time ends then, though there is always something to send.
func TestConnHeldForATime(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		p := r.take(Options{Framing: framing})
		s := p.hold(Hold{Wants: wanted("c"), LinkAfter: 200 * time.Millisecond, LinkAnyway: true})
		over, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				select {
				case <-over:
					tick.Stop()
					return
				case <-tick.C:
					ch.Append(items("a"))
				}
			}
		}()
		p.wantHeld(s, Quiet)
		close(over)
		<-stopped
		p.conn.Release(s)
	})
}

// A channel that takes another's name over is closed for those of the other, or
// goes on where it was foreign.
func TestConnReplaced(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: Chunked})
		foreign := p.hold(Hold{Wants: wanted("c")})
		_ = r.Publish(t.Context(), foreignItem("c", "1", "", "foreign "))
		p.want("foreign ")
		ch := r.Open("c", numbers{})
		ch.Append(items("open "))
		p.want("open ")
		r.Open("c", numbers{})
		p.wantHeld(foreign, Closed)
		p.wantRelease(foreign, true, grip.Last{Channel: "c", ID: "1"})
	})
}

// An item of which a part is in the socket is given to the end, whatever becomes
// of its channel, and the last id is of it.
func TestConnEndsInTheMiddle(t *testing.T) {
	const size = 999 // so that no item is aligned
	content := func(i int) string { return fmt.Sprintf("%09d ", i) + strings.Repeat("x", size-10) }
	foreign := func(i int) grip.Item {
		it := foreignItem("f", strconv.Itoa(i), strconv.Itoa(i-1), content(i))
		it.WSMessage = &grip.WSMessage{Content: []byte(content(i))}
		return it
	}
	for _, tt := range []struct {
		name    string
		channel string
		publish func(r *rig, ch grip.Channel, i int)
		end     func(r *rig, ch grip.Channel)
		why     Status
	}{
		{"closed", "c", func(_ *rig, ch grip.Channel, i int) { ch.Append(items(content(i))) },
			func(_ *rig, ch grip.Channel) { ch.Close() }, Closed},
		{"replaced", "c", func(_ *rig, ch grip.Channel, i int) { ch.Append(items(content(i))) },
			func(r *rig, _ grip.Channel) { r.Open("c", numbers{}) }, Closed},
		{"behind", "c", func(_ *rig, ch grip.Channel, i int) { ch.Append(items(content(i))) },
			func(_ *rig, ch grip.Channel) {
				for i := 1; ch.Subscribers() > 0; i++ {
					ch.Append(items(strings.Repeat("y", size)))
				}
			}, Behind},
		{"foreign, behind", "f", func(r *rig, _ grip.Channel, i int) { _ = r.Publish(t.Context(), foreign(i)) },
			func(r *rig, _ grip.Channel) {
				for i := 1; r.subscribers.Load() > 0; i++ {
					it := foreignItem("f", fmt.Sprint("y", i), "?", strings.Repeat("y", size))
					it.NoSeq = true
					_ = r.Publish(t.Context(), it)
				}
			}, Behind},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
				cfg.ChannelLogBytes = 1 << 20
				r := newRig(t, cfg)
				ch := r.Open("c", numbers{})
				p := r.takeNarrow(Options{Framing: framing})
				s := p.hold(Hold{Wants: wanted(tt.channel, "0")})
				const n = 400
				for i := range n {
					tt.publish(r, ch, i+1)
				}
				p.waitBlocked()
				tt.end(r, ch)
				type result struct {
					content []byte
					err     error
				}
				read := make(chan result, 1)
				go func() {
					content, err := io.ReadAll(p.body)
					read <- result{content, err}
				}()
				p.wantHeld(s, tt.why)
				lasts, gave := p.conn.Release(s)
				p.conn.Finish(nil, 1000, "")
				got := recv(t, read, "the end of the content")
				if len(lasts) != 1 || !gave || got.err != nil {
					t.Fatalf("got last ids %v, gave %t, error %v", lasts, gave, got.err)
				}
				last, err := strconv.Atoi(lasts[0].ID)
				if err != nil || last < 1 || last > n {
					t.Fatalf("last id %v, want one of 1 to %d", lasts, n)
				}
				var want strings.Builder
				for i := range last {
					want.WriteString(content(i + 1))
				}
				if string(got.content) != want.String() {
					t.Errorf("last id %d: got %d bytes, %s, want %d", last, len(got.content), short(got.content), want.Len())
				}
				t.Logf("%d of %d items", last, n)
			})
		})
	}
}

func TestConnFinish(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		for _, last := range []string{"", "retry: 5\n\n"} {
			r := newRig(t, cfg)
			ch := r.Open("c", numbers{})
			ch.Append(items("item "))
			p := r.take(Options{Framing: framing})
			s := p.hold(Hold{Wants: wanted("c", "0")})
			p.want("item ")
			p.conn.Finish([]byte(last), 1012, "again")
			p.conn.Finish([]byte("not said"), 1000, "")
			ch.Append(items("too late"))
			if framing == Framed {
				p.wantFrame(closeFrame(1012, "again"))
				p.say(fromClient(ws.OpClose, true, "\x03\xf4"))
				if f, err := readFrame(p.client); !errors.Is(err, io.EOF) {
					t.Errorf("behind the close frame: got %v, %v", f, err)
				}
			} else {
				p.wantEnd(last, true)
				_ = p.client.Close()
			}
			p.wantGone(Finished)
			if p.conn.Drop(s) {
				t.Error("dropped a subscription of a connection that has ended")
			}
		}
	})
}

// What is on its way to a slow client gets there before the end.
func TestConnFinishSlow(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		p := r.takeNarrow(Options{Framing: framing})
		page := strings.Repeat("0123456789", 500_000)
		written := make(chan error, 1)
		go func() { written <- p.conn.Write([]byte(page[:len(page)/8])) }()
		p.waitBlocked()
		last := "last"
		if framing == Framed {
			last = ""
		}
		p.conn.Finish([]byte(last), 1000, "")
		p.wantEnd(page[:len(page)/8]+last, true)
		if err := recv(t, written, "the write"); err != nil {
			t.Error(err)
		}
		_ = p.client.Close()
		p.wantGone(Finished)
	})
}

// Clients that do not hang up are not waited for for long, also where nothing
// else makes the loop look.
func TestConnFinishLingers(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: framing, WriteTimeout: 50 * time.Millisecond})
		p.waitAsleep()
		p.conn.Finish(nil, 1000, "")
		p.wantEnd("", true)
		p.wantGone(Finished)
	})
}

// waitAsleep waits until the connection's loop waits for something to happen.
func (p *peer) waitAsleep() {
	p.t.Helper()
	eventually(p.t, "the loop to sleep", func() bool {
		p.conn.mu.Lock()
		admitted := p.conn.admitted
		p.conn.mu.Unlock()
		l := p.conn.loop
		l.mu.Lock()
		defer l.mu.Unlock()
		return admitted && l.asleep
	})
}

func TestConnCut(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		p := r.take(Options{Framing: framing})
		p.hold(Hold{Wants: wanted("c", "0")})
		ch.Append(items("item "))
		p.want("item ")
		p.conn.Cut()
		p.wantEnd("", false)
		p.wantGone(CutOff)
	})
}

func TestConnTimeOver(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		finish := func(p *peer) {
			recv(p.t, p.over, "TimeOver")
			p.conn.Finish(nil, 0, "")
			p.wantEnd("", framing != Framed)
			_ = p.client.Close()
			p.wantGone(Finished)
			if len(p.over) > 0 {
				p.t.Error("TimeOver was called twice")
			}
		}
		soon := func() time.Time { return time.Now().Add(30 * time.Millisecond) }
		t.Run("at a time", func(t *testing.T) {
			finish(newRig(t, cfg).take(Options{Framing: framing, EndAt: soon()}))
		})
		t.Run("at a time that was set later", func(t *testing.T) {
			p := newRig(t, cfg).take(Options{Framing: framing, EndAt: time.Now().Add(time.Hour)})
			p.waitAsleep()
			p.conn.EndAt(soon())
			p.conn.EndAt(time.Now().Add(time.Hour)) // later than that changes nothing
			finish(p)
		})
		t.Run("by a drain", func(t *testing.T) {
			r := newRig(t, cfg)
			before := r.take(Options{Framing: framing})
			before.waitAsleep()
			server, client := r.pair()
			between := newPeer(t)
			between.client = client
			between.conn = r.Take(server, Options{Framing: framing}.withDefaults(between))
			between.understand(client)
			r.Drain(30 * time.Millisecond)
			finish(before)
			between.conn.Start()
			finish(between)
			finish(r.take(Options{Framing: framing}))
		})
	})
}

func TestConnStalled(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		stalled := r.takeNarrow(Options{Framing: framing, WriteTimeout: 100 * time.Millisecond})
		stalled.hold(Hold{Wants: wanted("c")})
		other := r.take(Options{Framing: framing})
		other.hold(Hold{Wants: wanted("c")})
		big := strings.Repeat("x", 1<<20)
		for i := range 8 {
			ch.Append(items(big + strconv.Itoa(i)))
			other.want(big + strconv.Itoa(i))
			if i == 0 { // it is in the middle of a frame, and not left behind before its first byte
				if _, err := stalled.client.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		stalled.wantGone(Stalled)
		ch.Append(items("more"))
		other.want("more")
	})
}

// What was quiet for longer than WriteTimeout is not stalled when a write begins.
func TestPortableWriteAfterQuiet(t *testing.T) {
	r := newRig(t, Config{Portable: true})
	r.Open("c", numbers{})
	p := r.take(Options{WriteTimeout: time.Minute})
	p.hold(Hold{Wants: wanted("c")})
	p.conn.mu.Lock()
	p.conn.progress -= time.Hour
	p.conn.put([]byte("at last"))
	l := &loop{engine: r.Engine, now: r.now()}
	(&portable{}).flush(l, p.conn)
	due := p.conn.due()
	p.conn.mu.Unlock() // and the write begins
	if due <= l.now {
		t.Errorf("the connection is cut %v before its write", l.now-due)
	}
	p.want("at last")
}

// A client that hangs up is noticed without anything being written.
func TestConnLeft(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		for _, tt := range []struct {
			name  string
			leave func(*net.TCPConn) error
		}{
			{"fin", (*net.TCPConn).Close},
			{"half-close", (*net.TCPConn).CloseWrite},
			{"reset", func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }},
			{"more of a request, and fin", func(c *net.TCPConn) error {
				_, err := c.Write(fromClient(ws.OpText, true, "x"))
				return errors.Join(err, c.Close())
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				r := newRig(t, cfg)
				p := r.take(Options{Framing: framing})
				p.hold(Hold{Wants: wanted("c")})
				p.waitAsleep()
				if err := tt.leave(p.client); err != nil {
					t.Fatal(err)
				}
				p.wantGone(Left)
			})
			t.Run(tt.name+" of one that takes nothing", func(t *testing.T) {
				r := newRig(t, cfg)
				p := r.takeNarrow(Options{Framing: framing})
				ch := r.Open("c", numbers{})
				p.hold(Hold{Wants: wanted("c")})
				ch.Append(items(strings.Repeat("x", 2<<20)))
				p.waitBlocked()
				if err := tt.leave(p.client); err != nil {
					t.Fatal(err)
				}
				p.wantGone(Left)
			})
		}
	})
}

func TestConnEngineEnds(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		var peers []*peer
		for i := range 60 {
			take := r.take
			if i%3 == 0 {
				take = r.takeNarrow
			}
			p := take(Options{Framing: framing})
			p.hold(Hold{Wants: wanted("c")})
			peers = append(peers, p)
		}
		ch.Append(items(strings.Repeat("x", 2<<20)))
		peers[0].waitBlocked()
		r.stop()
		for _, p := range peers {
			p.wantGone(CutOff)
		}
		late := r.take(Options{Framing: framing})
		late.wantGone(CutOff)
		late.wantEnd("", false)
		for _, p := range append(peers, late) {
			if n := p.goneHow.Load(); n != 1 {
				t.Errorf("Gone was called %d times", n)
			}
		}
	})
}

func TestConnKeepAlive(t *testing.T) {
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		for _, interval := range []bool{false, true} {
			r := newRig(t, cfg)
			ch := r.Open("c", numbers{})
			p := r.take(Options{Framing: framing})
			p.hold(Hold{Wants: wanted("c")})
			p.waitAsleep()
			p.conn.SetKeepAlive(&grip.KeepAlive{Content: []byte(":\n"), Timeout: 20 * time.Millisecond, Interval: interval})
			p.wantKeepAlive()
			ch.Append(items("item"))
			p.wantKeepAlive("item")
			p.wantKeepAlive()
		}
	})
}

// wantKeepAlive waits for a keep-alive, ahead of which may be content.
func (p *peer) wantKeepAlive(content ...string) {
	p.t.Helper()
	if p.conn.Framing() != Framed {
		for len(content) > 0 {
			b := make([]byte, 1)
			if _, err := io.ReadFull(p.body, b); err != nil {
				p.t.Fatal(err)
			}
			if b[0] == content[0][0] {
				p.want(content[0][1:])
				content = nil
			} else {
				p.want("\n")
			}
		}
		p.want(":\n")
		return
	}
	for {
		f, err := readFrame(p.client)
		switch {
		case err != nil:
			p.t.Fatal(err)
		case f.op == ws.OpPing:
			p.say(fromClient(ws.OpPong, true, ""))
			if len(content) == 0 {
				return
			}
		case len(content) == 0 || string(f.payload) != content[0]:
			p.t.Fatalf("got %s", f.payload)
		default:
			content = nil
		}
	}
}

// When keep-alives come, to the tick: on a clock that stands still while anyone
// works.
func TestKeepAliveTimes(t *testing.T) {
	for _, tt := range []struct {
		interval bool
		least    time.Duration
	}{
		{false, 13 * time.Second}, // after the item
		{true, 9 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newEngine(t, Config{Portable: true, ChannelLogAge: time.Hour})
			ch := e.Open("c", numbers{})
			ended := make(chan error, 1)
			ctx, stop := context.WithCancel(t.Context())
			go func() { ended <- e.Run(ctx) }()
			server, client := net.Pipe()
			p := newPeer(t)
			p.conn = e.Take(server, Options{Framing: Plain}.withDefaults(p))
			p.body = client
			p.conn.Start()
			began := time.Now()
			p.conn.SetKeepAlive(&grip.KeepAlive{Content: []byte(":\n"), Timeout: 10 * time.Second, Interval: tt.interval})
			p.hold(Hold{Wants: wanted("c")})
			time.AfterFunc(4*time.Second, func() { ch.Append(items("item")) })
			p.want("item")
			if got := time.Since(began); got != 4*time.Second {
				t.Errorf("the item came after %v, want 4s", got)
			}
			for i, least, most := 0, tt.least, tt.least+time.Second+wheelTick; i < 5; i++ {
				p.want(":\n")
				if got := time.Since(began); got < least || got > most {
					t.Errorf("interval %t: keep-alive %d came after %v, want %v to %v", tt.interval, i, got, least, most)
				}
				least, most = time.Since(began)+9*time.Second, time.Since(began)+10*time.Second+wheelTick
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			p.wantGone(CutOff)
		})
	}
}

func TestWebSocketAnswers(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		p := newRig(t, cfg).take(Options{Framing: Framed})
		p.say(fromClient(ws.OpPing, true, "are you there"))
		p.wantFrame(frame{ws.OpPong, []byte("are you there")})
		p.say(fromClient(ws.OpText, false, "in "), fromClient(ws.OpPing, true, ""), fromClient(ws.OpContinuation, true, "pieces"))
		p.wantFrame(frame{op: ws.OpPong})
		for _, b := range append(fromClient(ws.OpBinary, false, "byte by"), fromClient(ws.OpContinuation, true, " byte")...) {
			p.say([]byte{b})
		}
		for _, want := range []string{"0in pieces", "1byte by byte"} {
			if got := recv(t, p.received, "a message"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		p.say(fromClient(ws.OpClose, true, "\x03\xe8bye"))
		p.wantFrame(closeFrame(1000, ""))
		if f, err := readFrame(p.client); !errors.Is(err, io.EOF) {
			t.Errorf("behind the close frame: got %v, %v", f, err)
		}
		p.wantGone(Left)
	})
}

// What is kept of a message that is not complete is counted, until it is or its
// client has left.
func TestWebSocketHalves(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: Framed})
		half := fromClient(ws.OpText, false, "a half of it")
		p.say(half)
		eventually(t, "the half to be counted", func() bool { return r.privateBytes.Load() >= int64(len("a half of it")) })
		p.say(fromClient(ws.OpContinuation, true, ""))
		recv(t, p.received, "the message")
		eventually(t, "nothing to be kept", func() bool { return r.privateBytes.Load() == 0 })
		p.say(half)
		eventually(t, "the half to be counted", func() bool { return r.privateBytes.Load() > 0 })
		_ = p.client.Close()
		p.wantGone(Left)
		eventually(t, "nothing to be kept", func() bool { return r.privateBytes.Load() == 0 })
	})
}

// What would need more memory than there is for all connections together ends, and
// nothing else.
func TestCrowded(t *testing.T) {
	crowded := func(t *testing.T, cfg Config) *rig {
		cfg.PrivateMemory = 1 << 20
		r := newRig(t, cfg)
		r.Keep(1 << 20)
		t.Cleanup(func() { r.Keep(-1 << 20) })
		return r
	}
	t.Run("half a message", func(t *testing.T) {
		eachMechanism(t, func(t *testing.T, cfg Config) {
			r := crowded(t, cfg)
			p, whole := r.take(Options{Framing: Framed}), r.take(Options{Framing: Framed})
			p.say(fromClient(ws.OpText, false, "a half of it"))
			f, err := readFrame(p.client)
			if err != nil || f.op != ws.OpClose || string(f.payload) != string(closeFrame(1013, "try again later").payload) {
				t.Fatalf("got %v and error %v, want a close frame with 1013", f, err)
			}
			_ = p.client.Close()
			p.wantGone(Crowded)
			whole.say(fromClient(ws.OpText, true, "good"))
			recv(t, whole.received, "a message that is complete")
		})
	})
	t.Run("the rest of a frame", func(t *testing.T) {
		eachMechanism(t, func(t *testing.T, cfg Config) {
			if cfg.Portable {
				t.Skip("a goroutine waits with it")
			}
			r := crowded(t, cfg)
			ch := r.Open("c", numbers{})
			p := r.takeNarrow(Options{Framing: Chunked})
			p.hold(Hold{Wants: []Want{{Channel: "c"}}})
			ch.Append(items(strings.Repeat("x", 1<<20)))
			p.wantGone(Crowded)
		})
	})
}

// Whoever waits for a page gets an answer to its ping all the same.
func TestWebSocketPongBehindAPage(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.takeNarrow(Options{Framing: Framed})
		go func() {
			_ = p.conn.Write(make([]byte, 4<<20)) // ends with the connection
		}()
		p.waitBlocked()
		p.say(fromClient(ws.OpPing, true, "?"), fromClient(ws.OpText, true, "heard"))
		recv(t, p.received, "a message behind the ping")
		for _, want := range []frame{{op: ws.OpText, payload: make([]byte, 4<<20)}, {op: ws.OpPong, payload: []byte("?")}} {
			if f, err := readFrame(p.client); err != nil || f.op != want.op || !bytes.Equal(f.payload, want.payload) {
				t.Fatalf("got opcode %d, %d bytes and error %v, want %d, %d", f.op, len(f.payload), err, want.op, len(want.payload))
			}
		}
	})
}

func TestWebSocketRefusals(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  []byte
		want frame
		why  Ending
	}{
		{"too big", fromClient(ws.OpText, true, strings.Repeat("x", testRules.Limit+1)), closeFrame(1009, ""), TooBig},
		{"too big in pieces", append(fromClient(ws.OpText, false, strings.Repeat("x", testRules.Limit)), fromClient(ws.OpContinuation, true, "x")...),
			closeFrame(1009, ""), TooBig},
		{"not masked", ws.AppendFrame(nil, ws.OpText, []byte("x")), closeFrame(1002, ""), Wrong},
		{"not UTF-8", fromClient(ws.OpText, true, "\xff"), closeFrame(1007, ""), Wrong},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachMechanism(t, func(t *testing.T, cfg Config) {
				p := newRig(t, cfg).take(Options{Framing: Framed})
				p.say(fromClient(ws.OpText, true, "good"), tt.say, fromClient(ws.OpText, true, "not heard"))
				f, err := readFrame(p.client)
				if err != nil || f.op != ws.OpClose || string(f.payload[:2]) != string(tt.want.payload) {
					t.Fatalf("got %v and error %v, want %v", f, err, tt.want)
				}
				if f, err := readFrame(p.client); !errors.Is(err, io.EOF) {
					t.Errorf("behind the close: got %v and error %v, want the end", f, err)
				}
				p.conn.mu.Lock()
				state := p.conn.state
				p.conn.mu.Unlock()
				if state != lingering {
					t.Errorf("state: got %d, want %d: the client is to hang up", state, lingering)
				}
				_ = p.client.Close()
				p.wantGone(tt.why)
				close(p.received)
				for got := range p.received {
					if got != "0good" {
						t.Errorf("got %q", got)
					}
				}
			})
		})
	}
}

func TestWebSocketPause(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		p := r.take(Options{Framing: Framed})
		p.hold(Hold{Wants: wanted("c")})
		p.waitAsleep()
		p.conn.Pause()
		if cfg.Portable { // it waits for something already
			p.say(fromClient(ws.OpText, true, "last"))
			if got := recv(t, p.received, "what was waited for"); got != "0last" {
				t.Errorf("got %q, want %q", got, "0last")
			}
		}
		for _, m := range []string{"a", "b", "c"} {
			p.say(fromClient(ws.OpText, true, m))
			ch.Append(items(m)) // by when the loop has looked
			p.want(m)
		}
		if n := len(p.received); n > 0 {
			t.Errorf("%d messages were received while paused", n)
		}
		p.conn.Resume()
		p.conn.Resume() // does nothing
		for _, want := range []string{"0a", "0b", "0c"} {
			if got := recv(t, p.received, "a message"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		p.conn.Pause()
		_ = p.client.Close()
		if cfg.Portable {
			p.conn.Resume() // nobody reads while it pauses
		}
		p.wantGone(Left)
	})
}

// What came along with the handshake is heard at once.
func TestWebSocketEarly(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		early := append(fromClient(ws.OpText, true, "first"), fromClient(ws.OpText, true, "second")...)
		for cut := range len(early) + 1 {
			if cut%7 != 0 && cut != len(early) {
				continue
			}
			r := newRig(t, cfg)
			p := r.take(Options{Framing: Framed, Early: append([]byte(nil), early[:cut]...)})
			if cut < len(early) {
				p.say(early[cut:])
			}
			for _, want := range []string{"0first", "0second"} {
				if got := recv(t, p.received, "a message"); got != want {
					t.Errorf("cut at %d: got %q, want %q", cut, got, want)
				}
			}
		}
	})
}

func TestWebSocketSilent(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.take(Options{Framing: Framed, WriteTimeout: 250 * time.Millisecond})
		p.conn.SetKeepAlive(&grip.KeepAlive{Timeout: 20 * time.Millisecond})
		for began := time.Now(); time.Since(began) < 400*time.Millisecond; { // longer than it may be silent
			p.wantFrame(frame{op: ws.OpPing})
			p.say(fromClient(ws.OpPong, true, ""))
		}
		p.wantGone(Stalled)
	})
}

// A client that sends pings and takes nothing does not make us keep a pong for
// each.
func TestWebSocketPongsAreBounded(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := r.takeNarrow(Options{Framing: Framed})
		ping := fromClient(ws.OpPing, true, strings.Repeat("p", 125))
		go func() {
			_ = p.conn.Write(make([]byte, 4<<20)) // ends with the connection
		}()
		p.waitBlocked()
		waits := r.privateBytes.Load()
		for range 1000 {
			p.say(ping)
		}
		p.say(fromClient(ws.OpText, true, "heard"))
		recv(t, p.received, "a message behind the pings")
		if n := r.privateBytes.Load() - waits; n > pongBytes+1000 { // and what is kept of half a frame
			t.Errorf("%d bytes of pongs wait, want at most %d", n, pongBytes)
		}
	})
}

// A TLS connection is served, whatever the mechanism, by the portable loop.
func TestConnTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil)
	defer certified.Close()
	trusting := certified.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trusting.ServerName = "example.com"
	eachFraming(t, func(t *testing.T, cfg Config, framing Framing) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		take := func(o Options) (*peer, *tls.Conn) {
			server, client := r.pair()
			narrow(t, server, client)
			secret := tls.Client(client, trusting)
			shaken := make(chan error, 1)
			go func() { shaken <- secret.Handshake() }()
			over := tls.Server(server, &tls.Config{Certificates: certified.TLS.Certificates})
			if err := errors.Join(over.Handshake(), recv(t, shaken, "the handshake")); err != nil {
				t.Fatal(err)
			}
			p := r.takeOver(over, client, o)
			p.understand(secret)
			return p, secret
		}
		p, secret := take(Options{Framing: framing})
		p.hold(Hold{Wants: wanted("c")})
		ch.Append(items("item ", strings.Repeat("x", 200_000)))
		p.want("item " + strings.Repeat("x", 200_000))
		p.conn.Finish(nil, 1000, "")
		p.wantEnd("", true)
		_ = secret.Close()
		p.wantGone(Finished)

		p, secret = take(Options{Framing: framing})
		p.waitAsleep()
		_ = secret.Close()
		p.wantGone(Left)

		p, _ = take(Options{Framing: framing, WriteTimeout: 100 * time.Millisecond})
		other, _ := take(Options{Framing: framing})
		p.hold(Hold{Wants: wanted("c")})
		other.hold(Hold{Wants: wanted("c")})
		big := strings.Repeat("x", 4<<20)
		for range 8 {
			ch.Append(items(big))
			other.want(big)
		}
		p.wantGone(Stalled)
		other.conn.Cut()
		other.wantEnd("", false)
		other.wantGone(CutOff)
	})
}

// A handler is a connection that someone else reads from and closes.
type handler struct {
	io.WriteCloser // its other end is the client's
}

func (handler) SetWriteDeadline(time.Time) error { return nil }

func TestConnAdopt(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		ch := r.Open("c", numbers{})
		adopt := func() *peer {
			p := newPeer(t)
			from, to := io.Pipe()
			t.Cleanup(func() { _ = from.Close() })
			p.conn = r.Adopt(handler{to}, Options{Framing: Plain}.withDefaults(p))
			p.understand(from)
			p.conn.Start()
			return p
		}
		finished, left, cut := adopt(), adopt(), adopt()
		for _, p := range []*peer{finished, left, cut} {
			p.hold(Hold{Wants: wanted("c")})
		}
		ch.Append(items("item "))
		for _, p := range []*peer{finished, left, cut} {
			p.want("item ")
		}
		finished.conn.Finish([]byte("last"), 0, "")
		finished.want("last")
		finished.wantGone(Finished)
		left.conn.Left()
		left.wantGone(Left)
		ch.Append(items("nobody takes this"))
		cut.waitBlocked()
		cut.conn.Cut()
		cut.wantGone(CutOff)
	})
}
