package fanout

import (
	"io"
	"testing"
	"time"

	"spillway/grip"
)

func TestJitter(t *testing.T) {
	for _, tt := range []struct{ d, most time.Duration }{
		{time.Second, 100 * time.Millisecond},
		{55 * time.Second, 999 * time.Millisecond},
	} {
		lowest := tt.d
		for range 1000 {
			got := jittered(tt.d)
			if got > tt.d || got < tt.d-tt.most {
				t.Fatalf("jittered(%v): got %v, want at most %v less", tt.d, got, tt.most)
			}
			lowest = min(lowest, got)
		}
		if lowest > tt.d-tt.most/2 {
			t.Errorf("jittered(%v): never under %v", tt.d, lowest)
		}
	}
}

// Items that are no bytes of the log are told, one at a time, and the connection
// can be had back: with what its client said meanwhile.
func TestConnReturned(t *testing.T) {
	if !newEngine(t, Config{}).HasShards() {
		t.Skip("there are no shards on this system")
	}
	r := newRig(t, Config{})
	ch := r.Open("c", numbers{})
	p := r.take(Options{})
	sub := p.hold(Hold{Form: Any, Wants: wanted("c")})
	if _, err := p.client.Write([]byte("next")); err != nil {
		t.Fatal(err)
	}
	ch.Append(items("one", "two"))
	if w := p.wantHeld(sub, Ready); w.b.Items != 1 || len(w.b.Frames) > 0 {
		t.Errorf("held: got %d items and frames %q, want one without bytes", w.b.Items, w.b.Frames)
	}
	p.wantRelease(sub, true, grip.Last{Channel: "c", ID: "1"})

	sub = p.hold(Hold{Form: Response, Wants: []Want{{Channel: "other"}}})
	answer := &grip.HTTPResponse{Body: []byte("answer")}
	if err := r.Publish(t.Context(), grip.Item{Channel: "other", HTTPResponse: answer}); err != nil {
		t.Fatal(err)
	}
	if w := p.wantHeld(sub, Ready); w.b.Response == nil || string(w.b.Response.Body) != "answer" {
		t.Errorf("held: got %v, want the answer", w.b.Response)
	}
	p.wantRelease(sub, true)

	p.conn.Return()
	p.wantGone(Returned)
	nc, err := p.conn.Net()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	got := make([]byte, 4)
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != "next" {
		t.Errorf("read: got %q and error %v, want what the client said", got, err)
	}
	if _, err := nc.Write([]byte("bye")); err != nil {
		t.Errorf("write: %v", err)
	}
	nc.Close()
	p.wantEnd("bye", true)
}

// A connection that was returned before its loop has seen it is as good, and one
// whose client has left is not returned any more.
func TestConnReturnedAtOnce(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		p := newPeer(t)
		from, to := io.Pipe()
		defer from.Close()
		server, _ := r.pair()
		defer server.Close()
		if r.HasShards() {
			p.conn = r.Take(server, Options{}.withDefaults(p))
		} else {
			p.conn = r.Adopt(handler{to}, Options{}.withDefaults(p))
		}
		p.conn.Return()
		p.conn.Start()
		p.wantGone(Returned)
		if r.HasShards() {
			nc, err := p.conn.Net()
			if err != nil {
				t.Fatal(err)
			}
			nc.Close()
		}

		p = r.take(Options{})
		p.waitAsleep()
		p.client.Close()
		p.wantGone(Left)
		p.conn.Return()
		if len(p.gone) > 0 {
			t.Error("a connection that had ended was returned")
		}
	})
}
