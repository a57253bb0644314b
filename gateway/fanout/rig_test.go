package fanout

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/gateway/ws"
	"spillway/grip"
)

// patience is how long tests wait for what must happen.
const patience = 60 * time.Second

// A rig is an engine that runs, and a place where its clients come from.
type rig struct {
	*Engine
	t    testing.TB
	ln   net.Listener
	stop func() // ends Run; calling it again is fine
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Engine: newEngine(t, cfg), t: t, ln: ln}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := recv(t, ended, "Run to end"); err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(func() {
		r.stop()
		_ = ln.Close()
		r.wantNothingLeft()
	})
	return r
}

// wantNothingLeft checks that nothing is kept for connections.
func (r *rig) wantNothingLeft() {
	r.t.Helper()
	for i, l := range r.loops {
		if n := l.connections.Load(); n != 0 {
			r.t.Errorf("loop %d has %d connections in the end", i, n)
		}
		l.wheel.mu.Lock()
		if l.wheel.count != 0 {
			r.t.Errorf("the wheel of loop %d has %d connections in the end", i, l.wheel.count)
		}
		l.wheel.mu.Unlock()
	}
	if n := r.privateBytes.Load(); n != 0 {
		r.t.Errorf("%d private bytes are kept in the end", n)
	}
	if n := r.subscribers.Load(); n != 0 {
		r.t.Errorf("%d subscriptions are left in the end", n)
	}
}

// eachMechanism runs a test on shards, where the system has them, and on the
// portable loop.
func eachMechanism(t *testing.T, f func(t *testing.T, cfg Config)) {
	t.Helper()
	for name, cfg := range map[string]Config{"shard": {NoIOUring: true}, "ring": {}} {
		t.Run("mechanism="+name, func(t *testing.T) {
			if len(newMechanisms(cfg)) == 0 {
				t.Skip("there are no shards on this system")
			}
			f(t, cfg)
		})
	}
	t.Run("mechanism=portable", func(t *testing.T) { f(t, Config{Portable: true}) })
}

// eachFraming does so with connections of each framing.
func eachFraming(t *testing.T, f func(t *testing.T, cfg Config, framing Framing)) {
	t.Helper()
	eachMechanism(t, func(t *testing.T, cfg Config) {
		for framing, name := range framings {
			t.Run("framing="+name, func(t *testing.T) { f(t, cfg, Framing(framing)) })
		}
	})
}

var framings = [...]string{Plain: "plain", Chunked: "chunked", Framed: "websocket"}

// recv waits for a value.
func recv[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// eventually waits for a condition that nothing tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// A word is what Held was called with.
type word struct {
	sub *Subscriber
	why Status
	b   Batch
}

// A peer is a connection seen from both sides: it is the owner of the engine's,
// and the client.
type peer struct {
	t      testing.TB
	conn   *Conn
	client *net.TCPConn
	body   io.Reader // content, as the client understands what it gets

	held     chan word
	received chan string
	over     chan struct{}
	gone     chan Ending
	goneHow  atomic.Int32 // often Gone was called
}

func (p *peer) Held(s *Subscriber, why Status, b Batch) { p.held <- word{s, why, b} }
func (p *peer) TimeOver()                               { p.over <- struct{}{} }
func (p *peer) Received(typ grip.MessageType, content []byte) {
	p.received <- string('0'+rune(typ)) + string(content)
}

func (p *peer) Gone(why Ending) {
	p.goneHow.Add(1)
	p.gone <- why
}

func newPeer(t testing.TB) *peer {
	return &peer{t: t, held: make(chan word, 100), received: make(chan string, 1000), over: make(chan struct{}, 100), gone: make(chan Ending, 100)}
}

// pair returns both ends of a connection over the loopback device.
func (r *rig) pair() (server, client *net.TCPConn) {
	r.t.Helper()
	c, err := net.Dial("tcp", r.ln.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	s, err := r.ln.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// narrow makes a connection's buffers small, but the window not so small that
// the kernel waits with every segment.
func narrow(t testing.TB, server, client *net.TCPConn) {
	t.Helper()
	if err := errors.Join(server.SetWriteBuffer(1), client.SetReadBuffer(32<<10)); err != nil {
		t.Fatal(err)
	}
}

var testRules = ws.Rules{Limit: 1000}

func (o Options) withDefaults(p *peer) Options {
	o.Owner = p
	if o.WriteTimeout == 0 {
		o.WriteTimeout = patience
	}
	if o.Framing == Framed && o.Rules == nil {
		o.Rules = &testRules
	}
	return o
}

// take gives the engine a connection, and starts it.
func (r *rig) take(o Options) *peer {
	r.t.Helper()
	server, client := r.pair()
	return r.takeOver(server, client, o)
}

// takeNarrow does so with one whose buffers are small.
func (r *rig) takeNarrow(o Options) *peer {
	r.t.Helper()
	server, client := r.pair()
	narrow(r.t, server, client)
	return r.takeOver(server, client, o)
}

func (r *rig) takeOver(server net.Conn, client *net.TCPConn, o Options) *peer {
	p := newPeer(r.t)
	p.client = client
	p.conn = r.Take(server, o.withDefaults(p))
	p.understand(client)
	p.conn.Start()
	return p
}

// understand makes body of what the client gets.
func (p *peer) understand(r io.Reader) {
	switch p.conn.Framing() {
	case Plain:
		p.body = r
	case Chunked:
		p.body = httputil.NewChunkedReader(r)
	case Framed:
		p.body = &messages{r: r}
	}
}

func (p *peer) hold(h Hold) *Subscriber {
	p.t.Helper()
	s, ok := p.conn.Hold(h)
	if !ok {
		p.t.Fatalf("hold %v: not attached", h.Wants)
	}
	return s
}

// want checks what content the client gets next.
func (p *peer) want(content string) {
	p.t.Helper()
	got := make([]byte, len(content))
	n, err := io.ReadFull(p.body, got)
	if err != nil || string(got) != content {
		p.t.Fatalf("got %s and error %v, want %s", short(got[:n]), err, short([]byte(content)))
	}
}

// wantEnd checks that the client gets some last content, and then a complete end
// or not.
func (p *peer) wantEnd(content string, complete bool) {
	p.t.Helper()
	rest, err := io.ReadAll(p.body)
	if string(rest) != content {
		p.t.Errorf("last content: got %s, want %s", short(rest), short([]byte(content)))
	}
	if p.conn.Framing() == Plain { // its client cannot tell
		complete = err == nil
	}
	if (err == nil) != complete {
		p.t.Errorf("end: got error %v, want complete: %t", err, complete)
	}
}

func (p *peer) wantHeld(sub *Subscriber, why Status) word {
	p.t.Helper()
	w := recv(p.t, p.held, "Held")
	if w.sub != sub || w.why != why {
		p.t.Fatalf("held: got status %d, want %d, or it is of another subscription", w.why, why)
	}
	return w
}

func (p *peer) wantRelease(sub *Subscriber, gave bool, want ...grip.Last) {
	p.t.Helper()
	lasts, got := p.conn.Release(sub)
	if got != gave {
		p.t.Errorf("release: got gave %t, want %t", got, gave)
	}
	if len(lasts) != len(want) {
		p.t.Fatalf("release: got %v, want %v", lasts, want)
	}
	for i := range want {
		if lasts[i] != want[i] {
			p.t.Errorf("release: got %v, want %v", lasts, want)
		}
	}
}

// wantGone checks how the connection ends, and that it does so once.
func (p *peer) wantGone(want Ending) {
	p.t.Helper()
	if got := recv(p.t, p.gone, "Gone"); got != want {
		p.t.Errorf("ending: got %d, want %d", got, want)
	}
	p.conn.Cut() // does nothing
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if p.conn.state != gone {
		p.t.Errorf("state: got %d, want %d", p.conn.state, gone)
	}
}

// waitBlocked waits until the socket of a connection takes nothing.
func (p *peer) waitBlocked() {
	p.t.Helper()
	eventually(p.t, "a full socket", func() bool {
		p.conn.mu.Lock()
		defer p.conn.mu.Unlock()
		return p.conn.blocked || p.conn.pumping && p.conn.engine().now() > p.conn.progress+50*time.Millisecond
	})
}

func short(p []byte) string {
	if len(p) > 120 {
		return strings.ToValidUTF8(string(p[:60]), "?") + " ... " + strings.ToValidUTF8(string(p[len(p)-60:]), "?")
	}
	return `"` + string(p) + `"`
}

// A frame is one of a WebSocket's server.
type frame struct {
	op      ws.Op
	payload []byte
}

// readFrame reads a whole frame, by the letter of RFC 6455, 5.2. io.EOF: none
// has begun.
func readFrame(r io.Reader) (f frame, err error) {
	var head [10]byte
	if _, err = io.ReadFull(r, head[:2]); err != nil {
		return f, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(r, head[2:4])
		n = uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		_, err = io.ReadFull(r, head[2:10])
		n = binary.BigEndian.Uint64(head[2:])
	}
	switch {
	case err != nil:
	case head[0]&0xf0 != 0x80:
		return f, errors.New("not a whole plain frame")
	case n > 16<<20:
		return f, errors.New("a frame of more than a server here sends")
	default:
		f = frame{ws.Op(head[0] & 0x0f), make([]byte, n)}
		_, err = io.ReadFull(r, f.payload)
	}
	if errors.Is(err, io.EOF) && n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return f, err
}

// messages reads the content of messages. The end is complete if a close frame
// came before it.
type messages struct {
	r       io.Reader
	rest    []byte
	control []frame // that came between
}

func (m *messages) Read(p []byte) (int, error) {
	for len(m.rest) == 0 {
		f, err := readFrame(m.r)
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case f.op.Control():
			if m.control = append(m.control, f); f.op == ws.OpClose {
				return 0, io.EOF
			}
		default:
			m.rest = f.payload
		}
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// fromClient is a frame as a client sends it; fin says that it ends a message.
func fromClient(op ws.Op, fin bool, payload string) []byte {
	b := []byte{byte(op)}
	if fin {
		b[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	key := [4]byte{0xa7, 0x12, 0x00, byte(len(payload))}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func closeFrame(code uint16, reason string) frame {
	return frame{ws.OpClose, append(binary.BigEndian.AppendUint16(nil, code), reason...)}
}

func (p *peer) say(frames ...[]byte) {
	p.t.Helper()
	if _, err := p.client.Write(bytes.Join(frames, nil)); err != nil {
		p.t.Fatal(err)
	}
}

// wantFrame checks what the next frame is.
func (p *peer) wantFrame(want frame) {
	p.t.Helper()
	f, err := readFrame(p.client)
	if err != nil || f.op != want.op || !bytes.Equal(f.payload, want.payload) {
		p.t.Fatalf("frame: got %v and error %v, want %v", f, err, want)
	}
}

// item is one for streams and WebSockets.
func item(content string) grip.Item {
	return grip.Item{
		HTTPStream: &grip.HTTPStream{Content: []byte(content)},
		WSMessage:  &grip.WSMessage{Content: []byte(content)},
	}
}

func items(contents ...string) (all []grip.Item) {
	for _, c := range contents {
		all = append(all, item(c))
	}
	return all
}

func wanted(channel string, prevID ...string) []Want {
	if len(prevID) > 0 {
		return []Want{{Channel: channel, PrevID: prevID[0], HasPrevID: true}}
	}
	return []Want{{Channel: channel}}
}
