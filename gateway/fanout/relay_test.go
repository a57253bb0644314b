package fanout

import (
	"testing"
	"time"

	"spillway/gateway/ws"
	"spillway/grip"
)

// A relayPeer is a peer whose owner passes on what the client says.
type relayPeer struct {
	*peer
	closing   chan string
	refreshed chan struct{}
	alarms    chan time.Time
}

func (p *relayPeer) Closing(content []byte) { p.closing <- string(content) }
func (p *relayPeer) Refresh()               { p.refreshed <- struct{}{} }
func (p *relayPeer) Alarm()                 { p.alarms <- time.Now() }

func (r *rig) takeRelay() *relayPeer {
	r.t.Helper()
	server, client := r.pair()
	p := &relayPeer{newPeer(r.t), make(chan string, 10), make(chan struct{}, 10), make(chan time.Time, 10)}
	o := Options{Framing: Framed, Relay: true}.withDefaults(p.peer)
	o.Owner = p
	p.client = client
	p.conn = r.Take(server, o)
	p.understand(client)
	p.conn.Start()
	return p
}

func eachRelay(t *testing.T, f func(t *testing.T, r *rig, p *relayPeer)) {
	t.Helper()
	eachMechanism(t, func(t *testing.T, cfg Config) {
		r := newRig(t, cfg)
		f(t, r, r.takeRelay())
	})
}

func (p *relayPeer) wantReceived(typ grip.MessageType, content string) {
	p.t.Helper()
	if got, want := recv(p.t, p.received, "a message"), string('0'+rune(typ))+content; got != want {
		p.t.Errorf("received: got %q, want %q", got, want)
	}
}

func TestRelayControlFrames(t *testing.T) {
	eachRelay(t, func(t *testing.T, _ *rig, p *relayPeer) {
		p.say(fromClient(ws.OpPing, true, "a"), fromClient(ws.OpText, true, "b"), fromClient(ws.OpPong, true, ""))
		p.wantReceived(grip.PingMessage, "a")
		p.wantReceived(grip.TextMessage, "b")
		p.wantReceived(grip.PongMessage, "")
		p.say(fromClient(ws.OpClose, true, "\x0f\xa0bye"), fromClient(ws.OpText, true, "after it"))
		if got, want := recv(t, p.closing, "a close"), "\x0f\xa0bye"; got != want {
			t.Errorf("closing: got %q, want %q", got, want)
		}
		if err := p.conn.WriteFrames(p.conn.AppendFrame(nil, grip.TextMessage, []byte("one more"))); err != nil {
			t.Errorf("write after the client's close: got %v", err)
		}
		p.wantFrame(frame{ws.OpText, []byte("one more")}) // and no answer of the engine before it
		p.conn.Finish(nil, 4001, "see you")
		p.wantFrame(closeFrame(4001, "see you"))
		p.wantGone(Finished)
		if len(p.received) > 0 {
			t.Errorf("received %q behind a close", <-p.received)
		}
	})
}

// The answer to our close is told, too.
func TestRelayClosing(t *testing.T) {
	eachRelay(t, func(t *testing.T, _ *rig, p *relayPeer) {
		p.conn.Finish(nil, 1000, "")
		p.wantFrame(closeFrame(1000, ""))
		p.say(fromClient(ws.OpClose, true, "\x03\xe8"))
		if got, want := recv(t, p.closing, "a close"), "\x03\xe8"; got != want {
			t.Errorf("closing: got %q, want %q", got, want)
		}
		p.wantGone(Finished)
	})
}

func TestEndRelay(t *testing.T) {
	eachRelay(t, func(t *testing.T, _ *rig, p *relayPeer) {
		p.conn.EndRelay()
		p.say(fromClient(ws.OpPing, true, "a"), fromClient(ws.OpPong, true, ""))
		p.wantFrame(frame{ws.OpPong, []byte("a")})
		p.say(fromClient(ws.OpClose, true, "\x03\xe8"))
		p.wantFrame(closeFrame(1000, ""))
		p.wantGone(Left)
		if len(p.received)+len(p.closing) > 0 {
			t.Errorf("told: %d messages, %d closes, want none", len(p.received), len(p.closing))
		}
	})
}

func TestRelayRefresh(t *testing.T) {
	eachRelay(t, func(t *testing.T, r *rig, p *relayPeer) {
		ch := r.Open("c", numbers{})
		p.hold(Hold{Wants: wanted("c"), PassHints: true})
		ch.Append([]grip.Item{item("before "), {WSMessage: &grip.WSMessage{Action: grip.ActionRefresh}}, item("after ")})
		p.want("before after ")
		recv(t, p.refreshed, "a refresh")
		p.conn.EndRelay()
		ch.Append([]grip.Item{{WSMessage: &grip.WSMessage{Action: grip.ActionRefresh}}, item("end ")})
		p.want("end ")
		if len(p.refreshed) > 0 {
			t.Error("refreshed when nobody is told any more")
		}
	})
}

func TestSetAlarm(t *testing.T) {
	eachRelay(t, func(t *testing.T, _ *rig, p *relayPeer) {
		const wait = 50 * time.Millisecond
		began := time.Now()
		p.conn.SetAlarm(began.Add(time.Hour))
		p.conn.SetAlarm(began.Add(wait))
		if got := recv(t, p.alarms, "an alarm").Sub(began); got < wait {
			t.Errorf("alarm after %v, want %v or later", got, wait)
		}
		p.conn.SetAlarm(time.Now().Add(wait))
		p.conn.SetAlarm(time.Time{})
		p.conn.SetKeepAliveMessage(grip.TextMessage, &grip.KeepAlive{Content: []byte("tick"), Timeout: 2 * wait})
		p.wantFrame(frame{ws.OpText, []byte("tick")}) // when the alarm would have rung
		if len(p.alarms) > 0 {
			t.Error("an alarm that was taken back")
		}
	})
}

// What is sent to keep the connection alive can be any message; only a ping has to
// be answered.
func TestSetKeepAliveMessage(t *testing.T) {
	for typ, op := range map[grip.MessageType]ws.Op{
		grip.TextMessage: ws.OpText, grip.BinaryMessage: ws.OpBinary, grip.PingMessage: ws.OpPing, grip.PongMessage: ws.OpPong,
	} {
		eachRelay(t, func(t *testing.T, _ *rig, p *relayPeer) {
			p.conn.SetKeepAliveMessage(typ, &grip.KeepAlive{Content: []byte("tick"), Timeout: 10 * time.Millisecond})
			for range 2 {
				p.wantFrame(frame{op, []byte("tick")})
			}
			p.conn.mu.Lock()
			waits := p.conn.client.pingAt != 0
			p.conn.mu.Unlock()
			if waits != (op == ws.OpPing) {
				t.Errorf("type %d: waits for an answer: got %t", op, waits)
			}
			p.conn.Cut()
		})
	}
}
