package fanout

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/gateway/ws"
	"spillway/grip"
)

// raceEnabled is set where the race detector is on, under which there is less of
// what takes long.
var raceEnabled bool

const (
	tortureOpen    = 8 // channels with a publisher in the process
	tortureForeign = 4 // and others
	tortureItems   = 300
	aliveChannel   = 0xffff // that keep-alives are of

	tortureHead = 2 + 4 + 4 // bytes: channel, number, length
)

// history is all that will be published: contents by channel and number. An item
// of some bytes says which it is. The last one is never empty.
type history [tortureOpen + tortureForeign][tortureItems][]byte

func newHistory(random *rand.Rand) *history {
	var h history
	for c := range h {
		for i := range h[c] {
			size := tortureHead + random.IntN(200)
			switch random.IntN(100) {
			case 0:
				size = tortureHead + random.IntN(100<<10)
			case 1, 2, 3:
				size = tortureHead + random.IntN(10<<10)
			case 4, 5, 6, 7:
				size = 0
			}
			if i == tortureItems-1 {
				size = tortureHead
			}
			h[c][i] = tortureItem(c, i, size)
		}
	}
	return &h
}

func tortureItem(c, i, size int) []byte {
	if size == 0 {
		return nil
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, size), uint16(c))
	b = binary.BigEndian.AppendUint32(b, uint32(i))
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	for len(b) < size {
		b = append(b, byte(len(b)*7+i*31+c))
	}
	return b
}

// A verifier is a client's knowledge of what must come: of each channel the next
// item.
type verifier struct {
	history *history
	next    map[int]int // by channel, the number of the next item
	head    []byte      // of an item that has begun
	rest    []byte      // of the same: what must come
}

func (v *verifier) take(p []byte) error {
	for len(p) > 0 {
		if len(v.rest) > 0 {
			n := min(len(p), len(v.rest))
			if !bytes.Equal(p[:n], v.rest[:n]) {
				return errors.New("other bytes than were published")
			}
			p, v.rest = p[n:], v.rest[n:]
			continue
		}
		n := min(len(p), tortureHead-len(v.head))
		v.head, p = append(v.head, p[:n]...), p[n:]
		if len(v.head) < tortureHead {
			return nil
		}
		c, i := int(binary.BigEndian.Uint16(v.head)), int(binary.BigEndian.Uint32(v.head[2:]))
		if c != aliveChannel {
			next, subscribed := v.next[c]
			for subscribed && next < tortureItems && len(v.history[c][next]) == 0 {
				next++
			}
			if !subscribed || i != next {
				return fmt.Errorf("item %d of channel %d, want %d (subscribed: %t)", i, c, next, subscribed)
			}
			v.next[c] = i + 1
			v.rest = v.history[c][i][tortureHead:]
		}
		v.head = v.head[:0]
	}
	return nil
}

// between reports whether no item has begun.
func (v *verifier) between() bool { return len(v.head) == 0 && len(v.rest) == 0 }

func (v *verifier) complete() bool {
	for _, next := range v.next {
		if next < tortureItems {
			return false
		}
	}
	return v.between()
}

// A fate is what becomes of a client.
type fate uint8

const (
	survives   fate = iota // and gets everything, then is finished by us
	leaves                 // gets everything, then hangs up
	hangsUp                // somewhere on the way
	halfCloses             // the same
	resets
	freezes // takes nothing any more
	fates
)

// A victim is one connection, its owner and its client.
type victim struct {
	*torture
	conn     *Conn
	client   *net.TCPConn
	fate     fate
	stopAt   int64 // of the bytes on the wire, where its fate comes
	lazy     bool  // it stops now and then
	random   *rand.Rand
	channels int
	verifier verifier
	input    *bufio.Reader

	gone  chan Ending
	goneN atomic.Int32
}

type torture struct {
	*rig
	history   *history
	open      [tortureOpen]grip.Channel
	published [tortureForeign]atomic.Int64 // items
	behind    atomic.Int64
	paged     atomic.Int64
}

func channelName(c int) string { return "c" + strconv.Itoa(c) }

// Received implements Owner.
func (*victim) Received(grip.MessageType, []byte) {}

// TimeOver implements Owner.
func (v *victim) TimeOver() { v.t.Error("TimeOver") }

// Gone implements Owner.
func (v *victim) Gone(why Ending) {
	v.goneN.Add(1)
	select {
	case v.gone <- why:
	default:
	}
}

// Held implements Owner.
func (v *victim) Held(s *Subscriber, why Status, _ Batch) {
	lasts, _ := v.conn.Release(s)
	if why != Behind {
		v.t.Errorf("held with status %d", why)
	}
	v.behind.Add(1)
	v.hold(lasts)
}

// hold subscribes at the last items. Where that is not possible any more, it
// sends what the logs have lost first.
func (v *victim) hold(lasts []grip.Last) {
	for !v.conn.Over() {
		wants := make([]Want, len(lasts))
		for i, last := range lasts {
			wants[i] = Want{Channel: last.Channel, PrevID: last.ID, HasPrevID: true}
		}
		if _, ok := v.conn.Hold(Hold{Wants: wants}); ok {
			return
		}
		for i := range lasts {
			c, err := strconv.Atoi(lasts[i].Channel[1:])
			from, err2 := strconv.Atoi(lasts[i].ID)
			if err := errors.Join(err, err2); err != nil {
				v.t.Error(err)
				return
			}
			to := from
			if c < tortureOpen {
				if first, last := v.open[c].Retained(); first > uint64(from)+1 {
					to = int(last)
				}
			} else {
				to = max(from, int(v.published[c-tortureOpen].Load())) // what was received is counted a little later
			}
			page := bytes.Join(v.history[c][from:to], nil)
			if len(page) > 0 && v.conn.Write(page) != nil {
				return // it has ended
			}
			lasts[i].ID = strconv.Itoa(to)
			v.paged.Add(1)
		}
	}
}

var errFate = errors.New("the client's fate has come")

// Read counts what comes from the socket, and dawdles.
func (v *victim) Read(p []byte) (int, error) {
	if v.stopAt == 0 {
		if v.fate != halfCloses {
			return 0, errFate
		}
		_ = v.client.CloseWrite()
		v.stopAt = 1 << 60
	}
	if v.lazy && v.random.IntN(8) == 0 {
		time.Sleep(rand.N(150 * time.Millisecond)) // a slow client
	}
	n, err := v.client.Read(p[:min(int64(len(p)), v.stopAt)])
	v.stopAt -= int64(n)
	return n, err
}

// run is the client's life. It returns what it has met.
func (v *victim) run() error {
	defer v.client.Close()
	err := v.listen()
	switch {
	case err == nil: // a complete end
		if !v.verifier.complete() {
			return fmt.Errorf("the end came with %v", v.verifier.next)
		}
	case errors.Is(err, errComplete):
	case errors.Is(err, io.EOF) && v.fate == halfCloses:
	case v.fate == freezes && (errors.Is(err, errFate) || errors.Is(err, io.EOF) || errors.As(err, new(*net.OpError))):
		why := recv(v.t, v.gone, "a frozen client to be given up")
		v.gone <- why
		// Stalled comes early to one that dawdles, and not at all to one whose
		// socket has room for everything.
		if why != Stalled && (why != Finished || !errors.Is(err, errFate)) {
			return fmt.Errorf("ending %d, want %d: %w", why, Stalled, err)
		}
	case !errors.Is(err, errFate):
		return err
	case v.fate == resets:
		_ = v.client.SetLinger(0)
	}
	return nil
}

var errComplete = errors.New("everything has come")

// listen reads and verifies. It returns nil at a complete end.
func (v *victim) listen() error {
	for {
		if v.fate == leaves && v.verifier.complete() {
			return errComplete
		}
		var err error
		switch v.conn.Framing() {
		case Plain:
			if err = v.content(1 << 60); errors.Is(err, io.EOF) && v.verifier.complete() {
				return nil
			}
		case Chunked:
			var end bool
			if end, err = v.chunk(); end {
				return err
			}
		default:
			var end bool
			if end, err = v.message(); end {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// content verifies n bytes, or as many as there are when n is too large.
func (v *victim) content(n int) error {
	for n > 0 {
		if _, err := v.input.Peek(1); err != nil {
			return err
		}
		p, _ := v.input.Peek(min(v.input.Buffered(), n))
		if err := v.verifier.take(p); err != nil {
			return err
		}
		n -= len(p)
		_, _ = v.input.Discard(len(p))
		if v.conn.Framing() == Plain && v.fate == leaves && v.verifier.complete() {
			return errComplete
		}
	}
	return nil
}

func (v *victim) chunk() (end bool, err error) {
	head, err := v.input.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	n, err := strconv.ParseUint(string(bytes.TrimSuffix(head, []byte("\r\n"))), 16, 31)
	if err != nil {
		return false, err
	}
	if err := v.content(int(n)); err != nil {
		return false, err
	}
	if tail, err := v.input.ReadSlice('\n'); err != nil || len(tail) != 2 {
		return false, errors.Join(err, fmt.Errorf("behind a chunk: %q", tail))
	}
	return n == 0, v.whole()
}

// whole checks that items do not span frames.
func (v *victim) whole() error {
	if !v.verifier.between() {
		return errors.New("a frame ends within an item")
	}
	return nil
}

func (v *victim) message() (end bool, err error) {
	head, err := v.input.Peek(2)
	if err != nil {
		return false, err
	}
	op, n, size := ws.Op(head[0]&0x0f), int(head[1]), 2
	if n >= 126 {
		size = 4
		if n == 127 {
			size = 10
		}
		if head, err = v.input.Peek(size); err != nil {
			return false, err
		}
		n = int(binary.BigEndian.Uint16(head[size-2:]))
		if size == 10 {
			n = int(binary.BigEndian.Uint64(head[2:]))
		}
	}
	_, _ = v.input.Discard(size)
	switch {
	case op == ws.OpClose:
		_, _ = v.client.Write(fromClient(ws.OpClose, true, "\x03\xe8"))
		return true, nil
	case op == ws.OpPing:
		_, _ = v.client.Write(fromClient(ws.OpPong, true, ""))
		return false, nil
	case op == ws.OpPong:
		_, err = v.input.Discard(n)
		return false, err
	}
	if v.random.IntN(20) == 0 { // errors are met by reading
		ping := fromClient(ws.OpPing, true, "ping")
		cut := v.random.IntN(len(ping))
		_, _ = v.client.Write(append(fromClient(ws.OpText, true, "word"), ping[:cut]...))
		_, _ = v.client.Write(ping[cut:])
	}
	if err := v.content(n); err != nil {
		return false, err
	}
	return false, v.whole()
}

// TestTorture has many clients that do what clients do, while publishers publish
// and logs are evicted: what arrives is always the beginning of what must, and
// nothing is left in the end.
func TestTorture(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		clients := 2000
		if cfg.Portable {
			clients = 500
		}
		if raceEnabled || testing.Short() {
			clients /= 2
		}
		open, running := descriptors(t), runtime.NumGoroutine()
		tortureAll(t, cfg, clients)
		eventually(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= running })
		if now := descriptors(t); now > open {
			t.Errorf("%d descriptors are open, %d were before", now, open)
		}
	})
}

// descriptors is how many are open; 0 where the system does not tell.
func descriptors(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // has the runtime open its own
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(all)
}

func tortureAll(t *testing.T, cfg Config, clients int) {
	random := rand.New(rand.NewPCG(1, 2))
	cfg.ChannelLogBytes, cfg.LogMemory = 32<<10, 256<<10
	to := &torture{rig: newRig(t, cfg), history: newHistory(random)}
	for c := range to.open {
		to.open[c] = to.Open(channelName(c), numbers{})
	}
	victims := make([]*victim, clients)
	for i := range victims {
		victims[i] = to.newVictim(random)
	}
	var lives, publishers sync.WaitGroup
	for _, v := range victims {
		lives.Go(func() {
			if err := v.run(); err != nil {
				t.Errorf("a client of fate %d, framing %s: %v", v.fate, framings[v.conn.Framing()], err)
			}
		})
	}
	for c := range to.history {
		seed := random.Uint64()
		publishers.Go(func() { to.publish(c, rand.New(rand.NewPCG(seed, 0))) })
	}
	publishers.Wait()
	// Now each gets what it has not had yet. Who is to be ended by us is, when it
	// has everything.
	endings := make(map[Ending]int)
	for _, v := range victims {
		if v.fate == leaves {
			continue
		}
		eventually(t, "everything to be sent", func() bool { return v.idle() || v.goneN.Load() > 0 })
		v.conn.Finish(nil, 1000, "")
	}
	lives.Wait()
	for _, v := range victims {
		endings[recv(t, v.gone, "Gone")]++
		if n := v.goneN.Load(); n != 1 {
			t.Errorf("Gone was called %d times", n)
		}
	}
	t.Logf("%d clients fell behind %d times, and were sent %d pages; endings: %v; %d writes, %d blocked",
		clients, to.behind.Load(), to.paged.Load(), endings,
		int(to.sum(func(l *loop) *atomic.Int64 { return &l.writes })), int(to.sum(func(l *loop) *atomic.Int64 { return &l.blocked })))
	if to.behind.Load() == 0 || endings[Finished] == 0 || endings[Left] == 0 {
		t.Error("nobody fell behind, or nobody came to an end: the test shows nothing")
	}
	to.wantNothingLeft()
	for _, ch := range to.open {
		ch.Close()
	}
	to.stop()
	for c := tortureOpen; c < len(to.history); c++ {
		to.Open(channelName(c), numbers{}).Close() // which ends the foreign one
	}
	if n := to.logBytes.Load(); n != 0 {
		t.Errorf("the logs have %d bytes in the end", n)
	}
	_ = to.ln.Close()
}

// idle reports whether all that is in the logs is in the socket.
func (v *victim) idle() bool {
	v.conn.mu.Lock()
	defer v.conn.mu.Unlock()
	held := 0
	for _, s := range v.conn.subs {
		for _, m := range s.members {
			m.ch.mu.Lock()
			if m.status == Ready && m.cursor+1 == m.ch.next {
				held++
			}
			m.ch.mu.Unlock()
		}
	}
	return held == v.channels && v.conn.out == nil && !v.conn.pumping
}

func (to *torture) newVictim(random *rand.Rand) *victim {
	server, client := to.pair()
	v := &victim{
		torture: to,
		client:  client,
		fate:    fate(random.IntN(int(fates))),
		stopAt:  1 << 60,
		lazy:    random.IntN(4) == 0,
		random:  rand.New(rand.NewPCG(random.Uint64(), random.Uint64())),
		gone:    make(chan Ending, 1),
	}
	if v.fate > leaves {
		v.stopAt = 1 + random.Int64N(150<<10)
	}
	switch random.IntN(4) {
	case 0:
		narrow(to.t, server, client)
	case 1:
		_ = server.SetWriteBuffer(16 << 10)
		if v.fate > leaves { // so narrow that the kernel dawdles
			_ = client.SetReadBuffer(4 << 10)
			v.stopAt = min(v.stopAt, 1+random.Int64N(20<<10))
		}
	}
	o := Options{Owner: v, Framing: Framing(random.IntN(len(framings))), WriteTimeout: patience, Rules: &testRules}
	if v.fate == freezes {
		o.WriteTimeout = 500 * time.Millisecond
	}
	v.input = bufio.NewReaderSize(v, 4<<10)
	channels := 1
	if o.Framing != Plain { // where items cannot be told apart, their channel must not change within one
		channels += random.IntN(3)
	}
	v.verifier = verifier{history: to.history, next: make(map[int]int)}
	var lasts []grip.Last
	for range channels {
		c := random.IntN(len(to.history))
		if _, twice := v.verifier.next[c]; !twice {
			v.verifier.next[c] = 0
			lasts = append(lasts, grip.Last{Channel: channelName(c), ID: "0"})
		}
	}
	v.channels = len(lasts)
	v.conn = to.Take(server, o)
	v.conn.Start()
	v.conn.SetKeepAlive(&grip.KeepAlive{Content: tortureItem(aliveChannel, 0, tortureHead), Timeout: 100 * time.Millisecond, Interval: true})
	split := random.IntN(len(lasts) + 1) // into two subscriptions
	for _, part := range [][]grip.Last{lasts[:split], lasts[split:]} {
		if len(part) > 0 {
			v.hold(part)
		}
	}
	return v
}

// publish publishes a channel's history, in bursts.
func (to *torture) publish(c int, random *rand.Rand) {
	for i := 0; i < tortureItems; {
		var all []grip.Item
		for n := 1 + random.IntN(10); n > 0 && i < tortureItems; n-- {
			it := grip.Item{
				Channel:    channelName(c),
				HTTPStream: &grip.HTTPStream{Content: to.history[c][i]},
				WSMessage:  &grip.WSMessage{Content: to.history[c][i], Type: grip.BinaryMessage},
			}
			if c >= tortureOpen {
				it.ID, it.PrevID = strconv.Itoa(i+1), strconv.Itoa(i)
			}
			all = append(all, it)
			i++
		}
		if c < tortureOpen {
			to.open[c].Append(all)
		} else {
			if err := to.Publish(to.t.Context(), all...); err != nil {
				to.t.Error(err)
			}
			to.published[c-tortureOpen].Store(int64(i))
		}
		time.Sleep(rand.N(60 * time.Millisecond)) // a publisher's pace
	}
}
