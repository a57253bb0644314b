package fanout

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httputil"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"spillway/gateway/compress"
	"spillway/gateway/ws"
	"spillway/grip"
)

// A dress is what content wears on the wire.
type dress struct {
	name    string
	coding  Coding
	framing Framing
}

var dresses = []dress{
	{"gzip-chunked", Gzip, Chunked},
	{"gzip-plain", Gzip, Plain},
	{"zstd-chunked", Zstd, Chunked},
	{"zstd-plain", Zstd, Plain},
	{"deflate-websocket", Deflate, Framed},
}

func eachDress(t *testing.T, f func(t *testing.T, d dress)) {
	for _, d := range dresses {
		t.Run("as="+d.name, func(t *testing.T) { f(t, d) })
	}
}

func (d dress) form() Form { return d.coding.form() }

// The first bytes of a stream, which were sent before the engine had it.
const begun = "#begun\n"

func (d dress) options() Options {
	o := Options{Framing: d.framing, Coding: d.coding}
	if d.coding == Gzip {
		o.Begun = []byte(begun)
	}
	return o
}

// head is what the gateway has sent of a stream: its first bytes.
func (d dress) head() []byte {
	var p []byte
	switch d.coding {
	case Gzip:
		p = compress.AppendDeflate(bytes.Clone(compress.GzipHeader), []byte(begun))
	case Zstd:
		p = compress.AppendZstd(nil, []byte(begun))
	}
	if d.framing == Chunked {
		return append(append(appendChunkHead(nil, len(p)), p...), "\r\n"...)
	}
	return p
}

// undress reads the content by other libraries than ours.
func (d dress) undress(r io.Reader) (io.Reader, error) {
	if d.framing == Chunked {
		r = httputil.NewChunkedReader(r)
	}
	switch d.coding {
	case Gzip:
		return gzip.NewReader(r)
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	default:
		return &inflated{r: r}, nil
	}
}

// inflated reads the content of messages, some of which are compressed, up to a
// close frame.
type inflated struct {
	r     io.Reader
	rest  []byte
	flate io.ReadCloser
}

func (in *inflated) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		var first [1]byte
		if _, err := io.ReadFull(in.r, first[:]); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		const rsv1 = 0x40
		f, err := readFrame(io.MultiReader(bytes.NewReader([]byte{first[0] &^ rsv1}), in.r))
		switch {
		case err != nil:
			return 0, err
		case f.op == ws.OpClose:
			return 0, io.EOF
		case f.op.Control():
			continue
		}
		in.rest = f.payload
		if first[0]&rsv1 != 0 {
			whole := bytes.NewReader(append(f.payload, "\x00\x00\xff\xff\x03\x00"...))
			if in.flate == nil {
				in.flate = flate.NewReader(whole)
			} else if err := in.flate.(flate.Resetter).Reset(whole, nil); err != nil {
				return 0, err
			}
			if in.rest, err = io.ReadAll(in.flate); err != nil {
				return 0, err
			}
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// numberedItem is item seq of all logs here: mostly a line that begins with its
// number, but there are items without content, too.
func numberedItem(seq uint64) grip.Item {
	it := grip.Item{Channel: "c", ID: strconv.FormatUint(seq, 10), PrevID: strconv.FormatUint(seq-1, 10)}
	text := []byte(line(seq))
	switch {
	case seq%41 == 0:
		it.HTTPStream = &grip.HTTPStream{Action: grip.ActionHint}
		it.WSMessage = &grip.WSMessage{Action: grip.ActionHint}
	case seq%43 == 0:
		it.HTTPResponse = &grip.HTTPResponse{Code: 200, Body: text}
	case seq%47 == 0:
		it.HTTPStream = &grip.HTTPStream{}
		it.WSMessage = &grip.WSMessage{}
	case seq%29 == 0:
		it.HTTPStream = &grip.HTTPStream{Content: text}
	case seq%31 == 0:
		it.WSMessage = &grip.WSMessage{Content: text}
	default:
		it.HTTPStream = &grip.HTTPStream{Content: text}
		it.WSMessage = &grip.WSMessage{Content: text}
	}
	return it
}

func numberedItems(first uint64, n int) []grip.Item {
	all := make([]grip.Item, n)
	for i := range all {
		all[i] = numberedItem(first + uint64(i))
	}
	return all
}

func line(seq uint64) string {
	size := int(seq * 7919 % 300)
	if seq%97 == 0 {
		size *= 40
	}
	text := fmt.Appendf(nil, "%d ", seq)
	for noise := rand.NewPCG(seq, 3); len(text) < size; {
		text = fmt.Appendf(text, `{"topic":"orders","state":%d,"id":"%016x"}`, seq%13, noise.Uint64())
	}
	return string(text) + "\n"
}

// said is what item seq is in a form, as text.
func said(form Form, seq uint64) string {
	it := numberedItem(seq)
	switch {
	case form == Stream && it.HTTPStream != nil:
		return string(it.HTTPStream.Content)
	case form == Message && it.WSMessage != nil:
		return string(it.WSMessage.Content)
	}
	return ""
}

func hasContent(form Form, seq uint64) bool {
	it := numberedItem(seq)
	if form == Stream {
		return it.HTTPStream != nil && it.HTTPStream.Action == grip.ActionSend
	}
	return it.WSMessage != nil && it.WSMessage.Action == grip.ActionSend
}

// behindHint is the number of the hint that follows item seq, where one does.
func behindHint(seq uint64) uint64 {
	if f := numberedItem(seq + 1).HTTPStream; f != nil && f.Action == grip.ActionHint {
		return seq + 1
	}
	return seq
}

// textBetween is what the items between two have to say.
func textBetween(form Form, after, last uint64) string {
	var b strings.Builder
	for seq := after + 1; seq <= last; seq++ {
		b.WriteString(said(form, seq))
	}
	return b.String()
}

// An account follows what a client reads: lines of items in their order, with
// other lines between them, which begin with #.
type account struct {
	form   Form
	at     uint64 // the last item that there was, or that had nothing to say
	others map[string]int
}

func (a *account) read(text string) error {
	if strings.HasPrefix(text, "#") {
		if a.others == nil {
			a.others = map[string]int{}
		}
		a.others[text]++
		return nil
	}
	next := a.at + 1
	for ; said(a.form, next) == ""; next++ {
	}
	if text != said(a.form, next) {
		return fmt.Errorf("behind item %d: got %s, want %s", a.at, short([]byte(text)), short([]byte(said(a.form, next))))
	}
	a.at = next
	return nil
}

func (a *account) readAll(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		switch {
		case err == io.EOF && text == "":
			return nil
		case err != nil:
			return fmt.Errorf("behind item %d: %w, and half a line %s", a.at, err, short([]byte(text)))
		}
		if err := a.read(text); err != nil {
			return err
		}
	}
}

// A puller is a connection that a test writes for, as a shard does.
type puller struct {
	*peer
	d       dress
	wire    []byte // what was written
	scratch []byte
	since   uint64 // the item before the first
}

// newPuller makes one of an engine that does not run.
func newPuller(t testing.TB, e *Engine, d dress, after uint64) *puller {
	t.Helper()
	p := &puller{peer: newPeer(t), d: d, wire: d.head(), since: after}
	p.conn = e.newConn(e.loops[0], d.options().withDefaults(p.peer))
	p.holdAfter(after)
	return p
}

func (p *puller) holdAfter(seq uint64) {
	p.t.Helper()
	p.hold(Hold{Wants: wanted("c", strconv.FormatUint(seq, 10))})
}

// next gives the engine a socket that takes as many bytes of what there is as
// room says. It reports false when there is nothing.
func (p *puller) next(room func(n int) int) bool {
	c := p.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	var b Batch
	private, ok := c.next(&b, 0)
	if !ok {
		return false
	}
	defer c.loop.unpin(0)
	out := private
	if private == nil {
		out = c.wire(&b, &p.scratch)
	}
	n := room(len(out))
	p.wire = append(p.wire, out[:n]...)
	switch {
	case private != nil:
		c.took(n)
	case n < len(out):
		c.unsent(&b, n)
	default:
		c.sent()
	}
	return true
}

func all(n int) int { return n }

// finish ends the connection, and checks what it was sent: everything up to last.
func (p *puller) finish(last uint64) account {
	p.t.Helper()
	p.conn.Finish([]byte("#bye\n"), 1000, "")
	for p.next(all) {
	}
	a := account{form: p.d.form(), at: p.since}
	r, err := p.d.undress(bytes.NewReader(p.wire))
	if err == nil {
		err = a.readAll(r)
	}
	if err != nil {
		p.t.Fatalf("from %d to %d: %v", p.since, last, err)
	}
	if rest := textBetween(a.form, a.at, last); rest != "" {
		p.t.Fatalf("got items up to %d, want those up to %d", a.at, last)
	}
	if p.d.framing != Framed && (a.others[begun] != 1 || a.others["#bye\n"] != 1) {
		p.t.Fatalf("got %v between items, want what was begun and the last words", a.others)
	}
	return a
}

// wantEmpty checks that nothing is kept, once its channels are closed.
func wantEmpty(t *testing.T, e *Engine) {
	t.Helper()
	for what, n := range map[string]int64{
		"bytes of logs": e.logBytes.Load(), "private bytes": e.privateBytes.Load(), "subscriptions": e.subscribers.Load(),
	} {
		if n != 0 {
			t.Errorf("%s in the end: got %d, want 0", what, n)
		}
	}
}

// A batch is cut at each of its bytes, and goes on behind it.
func TestCodedCutAnywhere(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprintf("foreign=%t", foreign), func(t *testing.T) {
			eachDress(t, func(t *testing.T, d dress) {
				e := newEngine(t, Config{})
				last, batches := uint64(46), []int{1, 20, 3, 9, 4}
				if foreign { // the ids of items without content would be missing
					last, batches = 28, []int{1, 12, 3, 4}
				}
				var ch grip.Channel
				publish := func(first uint64, n int) { ch.Append(numberedItems(first, n)) }
				if foreign {
					keep := subscribe(t, e, Any, Want{Channel: "c"}) // or nothing would be kept
					defer keep.Close()
					publish = func(first uint64, n int) {
						if err := e.Publish(context.Background(), numberedItems(first, n)...); err != nil {
							t.Fatal(err)
						}
					}
				} else {
					ch = e.Open("c", numbers{})
				}
				// Who comes after each append makes a block of it.
				publish(1, 1)
				maker := newPuller(t, e, d, 1)
				at := uint64(2)
				for _, n := range batches {
					publish(at, n)
					at += uint64(n)
					for maker.next(all) {
					}
				}
				maker.finish(at - 1)
				publish(at, int(last-at)+1) // nobody has compressed these

				// Not after every byte: the places differ between the ways to
				// begin and between runs.
				stride := 11
				if raceEnabled {
					stride = 41
				}
				for _, from := range []uint64{1, 7, last - 3} { // between blocks, and within them
					for cut, more := rand.IntN(stride), true; more; cut += stride {
						p := newPuller(t, e, d, from)
						left := cut
						part := func(n int) int {
							took := min(left, n)
							left -= took
							return took
						}
						for left > 0 && p.nextOrAgain(part) {
						}
						more = left == 0
						for p.nextOrAgain(all) {
						}
						p.finish(last)
					}
				}
				if !foreign {
					ch.Close()
					wantEmpty(t, e)
				}
			})
		})
	}
}

// nextOrAgain goes on behind a hint.
func (p *puller) nextOrAgain(room func(int) int) bool {
	p.t.Helper()
	if p.next(room) {
		return true
	}
	p.conn.engine().telling.Wait()
	select {
	case w := <-p.held:
		return p.again(w)
	default:
		return false
	}
}

// again holds once more after a word; what the log has lost comes as a page.
func (p *puller) again(w word) bool {
	p.t.Helper()
	lasts, _ := p.conn.Release(w.sub)
	if len(lasts) != 1 {
		p.t.Fatalf("release: got %v, want the last id", lasts)
	}
	seq, err := strconv.ParseUint(lasts[0].ID, 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	switch w.why {
	case Hint:
		seq = behindHint(seq)
	case Behind:
	default:
		p.t.Fatalf("held: got %d, want a hint, or that it is behind", w.why)
	}
	h := handle{p.conn.engine().channels["c"]}
	if first, last := h.Retained(); seq+1 < first {
		p.write(textBetween(p.d.form(), seq, last))
		seq = last
	}
	p.holdAfter(seq)
	return true
}

// write sends content for this connection alone; it waits for no socket.
func (p *puller) write(text string) {
	p.t.Helper()
	if text == "" {
		return
	}
	before := p.added()
	if p.d.framing == Framed { // a message for each line
		var frames []byte
		for l := range strings.Lines(text) {
			frames = p.conn.AppendFrame(frames, grip.TextMessage, []byte(l))
		}
		go func() { _ = p.conn.WriteFrames(frames) }() // ends when it is taken
	} else {
		go func() { _ = p.conn.Write([]byte(text)) }()
	}
	for end := time.Now().Add(patience); p.added() == before; runtime.Gosched() {
		if time.Now().After(end) {
			p.t.Fatal("waited in vain for a write")
		}
	}
}

func (p *puller) added() uint64 {
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if p.conn.out == nil {
		return 0
	}
	return p.conn.out.added
}

// keepAlive sends one, where nothing is on its way.
func (p *puller) keepAlive() {
	p.conn.SetKeepAlive(&grip.KeepAlive{Content: []byte("#keep\n"), Timeout: time.Hour})
	p.conn.mu.Lock()
	p.conn.sendKeepAlive(0)
	p.conn.mu.Unlock()
}

// Many connections are at different places of a log whose segments are small:
// they come, are sent parts of what there is, fall behind and go on, in any
// order.
func TestCodedInAnyOrder(t *testing.T) {
	eachDress(t, func(t *testing.T, d dress) {
		seeds := uint64(12)
		if raceEnabled {
			seeds = 3
		}
		for seed := range seeds {
			random := rand.New(rand.NewPCG(seed, 1))
			e := newEngine(t, Config{ChannelLogBytes: 32 << 10})
			ch := e.Open("c", numbers{})
			last := uint64(0)
			var all []*puller
			room := func(n int) int {
				if random.IntN(2) == 0 {
					return n
				}
				return random.IntN(n + 1)
			}
			for range 600 {
				if len(all) == 0 || random.IntN(10) == 0 {
					n := 1 + random.IntN(1+random.IntN(20))
					ch.Append(numberedItems(last+1, n))
					last += uint64(n)
					if random.IntN(3) == 0 { // newest first: not the order in which they are compressed
						for i := len(all) - 1; i >= 0; i-- {
							all[i].next(room)
						}
					}
				}
				if len(all) < 12 && (len(all) == 0 || random.IntN(20) == 0) {
					first, _ := ch.Retained()
					after := last
					if random.IntN(2) == 0 {
						after = first - 1 + random.Uint64N(last-first+2)
					}
					all = append(all, newPuller(t, e, d, after))
				}
				p := all[random.IntN(len(all))]
				switch random.IntN(12) {
				case 0:
					p.write("#alone\n")
				case 1:
					p.keepAlive()
				default:
					p.nextOrAgain(room)
				}
			}
			alone := 0
			for _, p := range all {
				for p.nextOrAgain(room) {
				}
				a := p.finish(last)
				alone += a.others["#alone\n"]
			}
			if alone == 0 {
				t.Errorf("seed %d: nothing was written to one connection alone", seed)
			}
			ch.Close()
			wantEmpty(t, e)
		}
	})
}

// Real connections, on both mechanisms: some read at once, some late, with
// windows so small that most of what is written goes in parts.
func TestCodedConnections(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		eachDress(t, func(t *testing.T, d dress) { testCodedConnections(t, cfg, d) })
	})
}

// How many items testCodedConnections publishes, and how many its clients have at
// least before they end.
const (
	lastItem    = 3000
	enoughItems = lastItem - 100
)

func testCodedConnections(t *testing.T, cfg Config, d dress) {
	cfg.ChannelLogBytes = 128 << 10
	r := newRig(t, cfg)
	ch := r.Open("c", numbers{})
	clients := 30
	if raceEnabled {
		clients = 12
	}
	var published atomic.Uint64
	var working sync.WaitGroup
	random := rand.New(rand.NewPCG(1, 1))
	ch.Append(numberedItems(1, 1))
	published.Store(1)

	readers := make([]*reader, 0, clients)
	for published.Load() < lastItem {
		if len(readers) < clients {
			c := &reader{d: d, kind: len(readers) % 4, published: &published, ready: make(chan struct{})}
			readers = append(readers, c)
			seed := random.Uint64()
			server, client := r.pair()
			working.Go(func() { c.run(r, ch, server, client, rand.New(rand.NewPCG(seed, 2))) })
			if random.IntN(2) == 0 {
				recv(t, c.ready, "a client to hold")
			}
		}
		at := published.Load()
		n := min(1+random.IntN(1+random.IntN(60)), int(lastItem-at))
		ch.Append(numberedItems(at+1, n))
		published.Add(uint64(n))
		if at <= enoughItems && random.IntN(3) == 0 { // otherwise batches grow
			recv(t, readers[0].ready, "a client to hold")
			eventually(t, "the first client to have it", func() bool {
				return t.Failed() || textBetween(d.form(), readers[0].has.Load(), at) == ""
			})
		}
	}
	working.Wait()
	behind := 0
	for i, c := range readers {
		behind += c.behind
		if c.err != nil {
			t.Errorf("client %d, of kind %d: %v", i, c.kind, c.err)
		}
	}
	if behind == 0 {
		t.Error("no client fell behind")
	}
	ch.Close()
	if n := r.logBytes.Load(); n != 0 {
		t.Errorf("bytes of logs in the end: got %d, want 0", n)
	}
}

// A reader is a client of testCodedConnections, and what its connection's owner
// does.
type reader struct {
	d         dress
	kind      int // 0: reads at once; 1: from a small window; 2: late; 3: is ended in the middle
	published *atomic.Uint64
	ready     chan struct{} // closed when it holds
	has       atomic.Uint64

	behind int
	err    error
}

func (c *reader) run(r *rig, ch grip.Channel, server, client *net.TCPConn, random *rand.Rand) {
	if c.kind == 1 || c.kind == 2 {
		if c.err = errors.Join(server.SetWriteBuffer(1), client.SetReadBuffer(16<<10)); c.err != nil {
			return
		}
	}
	if _, c.err = server.Write(c.d.head()); c.err != nil {
		return
	}
	p := &puller{peer: newPeer(r.t), d: c.d}
	p.conn = r.Take(server, c.d.options().withDefaults(p.peer))
	p.conn.Start()
	p.conn.SetKeepAlive(&grip.KeepAlive{Content: []byte("#keep\n"), Timeout: 20 * time.Millisecond, Interval: true})
	_, after := ch.Retained()
	if random.IntN(2) == 0 {
		if first, _ := ch.Retained(); after > first {
			after = first + (after-first)/2 + random.Uint64N(after-first)/2
		}
	}
	if _, ok := p.conn.Hold(Hold{Wants: wanted("c", strconv.FormatUint(after, 10))}); !ok { // it was evicted meanwhile
		_, after = ch.Retained()
		p.conn.Hold(Hold{Wants: wanted("c", strconv.FormatUint(after, 10))})
	}
	c.has.Store(after)
	close(c.ready)

	ended := make(chan error, 1)
	go func() { ended <- c.own(p, ch) }() // ends with the connection
	a := account{form: c.d.form(), at: after}
	if err := c.read(client, p.conn, &a, random); err != nil {
		c.err = err
		p.conn.Cut()
	}
	_ = client.Close()
	if err := <-ended; c.err == nil {
		c.err = err
	}
	if c.err == nil && c.d.framing != Framed && a.others["#bye\n"] != 1 {
		c.err = fmt.Errorf("got %v between items, want the last words", a.others)
	}
}

// read reads to the end of the stream, which it asks for when it has enough.
func (c *reader) read(client io.Reader, conn *Conn, a *account, random *rand.Rand) error {
	enough := uint64(enoughItems)
	if c.kind == 3 {
		enough = lastItem/4 + random.Uint64N(lastItem/2)
	}
	if c.kind == 2 { // late: the log will have lost what follows
		enough := min(a.at+lastItem/2, lastItem)
		for end := time.Now().Add(patience); c.published.Load() < enough; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return fmt.Errorf("waited in vain for item %d", enough)
			}
		}
	}
	content, err := c.d.undress(client)
	if err != nil {
		return err
	}
	lines := bufio.NewReader(content)
	for {
		text, err := lines.ReadString('\n')
		switch {
		case err == io.EOF && text == "":
			if a.at < enough {
				return fmt.Errorf("the end behind item %d, want at least %d", a.at, enough)
			}
			return nil
		case err != nil:
			return fmt.Errorf("behind item %d: %w", a.at, err)
		}
		if err := a.read(text); err != nil {
			return err
		}
		c.has.Store(a.at)
		if a.at >= enough {
			conn.Finish([]byte("#bye\n"), 1000, "")
		}
	}
}

// own does what the owner of a connection does, until it is gone.
func (c *reader) own(p *puller, ch grip.Channel) error {
	for {
		select {
		case <-p.gone:
			return nil
		case w := <-p.held:
			lasts, _ := p.conn.Release(w.sub)
			if len(lasts) != 1 {
				return fmt.Errorf("release: got %v, want the last id", lasts)
			}
			seq, err := strconv.ParseUint(lasts[0].ID, 10, 64)
			if err != nil {
				return err
			}
			content := "#alone\n"
			switch w.why {
			case Hint:
				seq = behindHint(seq)
			case Behind:
				c.behind++
				_, last := ch.Retained()
				content += textBetween(c.d.form(), seq, last)
				seq = last
			}
			for { // until the log has what follows
				if !c.write(p.conn, content) {
					break // it is ending
				}
				if _, ok := p.conn.Hold(Hold{Wants: wanted("c", strconv.FormatUint(seq, 10))}); ok || p.conn.Over() {
					break
				}
				_, last := ch.Retained()
				content, seq = textBetween(c.d.form(), seq, last), last
			}
		}
	}
}

func (c *reader) write(conn *Conn, text string) bool {
	if c.d.framing != Framed {
		return conn.Write([]byte(text)) == nil
	}
	var frames []byte
	for l := range strings.Lines(text) {
		frames = conn.AppendFrame(frames, grip.TextMessage, []byte(l))
	}
	return conn.WriteFrames(frames) == nil
}

// What all are sent was compressed once.
func TestCodedOnce(t *testing.T) {
	eachMechanism(t, func(t *testing.T, cfg Config) {
		eachDress(t, func(t *testing.T, d dress) {
			r := newRig(t, cfg)
			ch := r.Open("c", numbers{})
			const clients, last = 100, 1000
			var reading sync.WaitGroup
			got := make([][]byte, clients)
			for i := range got {
				server, client := r.pair()
				p := newPeer(t)
				p.conn = r.Take(server, d.options().withDefaults(p))
				p.conn.Start()
				p.hold(Hold{Wants: wanted("c"), PassHints: true})
				reading.Go(func() { got[i], _ = io.ReadAll(client) }) // ends with the connection, in whatever way
			}
			for at := uint64(0); at < last; at += 10 {
				ch.Append(numberedItems(at+1, 10))
			}
			contents := 0
			for seq := uint64(1); seq <= last; seq++ {
				if hasContent(d.form(), seq) {
					contents++
				}
			}
			items := func() int64 { return int64(r.sum(func(l *loop) *atomic.Int64 { return &l.items })) }
			eventually(t, "everyone to be sent everything", func() bool { return items() >= int64(clients*contents) })
			if n := items(); n != int64(clients*contents) {
				t.Errorf("items: got %d, want %d", n, clients*contents)
			}
			sent := int64(r.sum(func(l *loop) *atomic.Int64 { return &l.bytes }))
			made := int64(0) // as it goes to one client
			c := r.channels["c"]
			c.mu.Lock()
			for _, s := range c.segs {
				k := s.coded[d.coding]
				for i := range k.blocks {
					_, start := k.start(i)
					block := k.bytes[start:k.blocks[i].end]
					if d.framing == Plain {
						block = unframed(Stream, block)
					}
					made += int64(len(block))
				}
			}
			c.mu.Unlock()
			if sent != clients*made {
				t.Errorf("sent %d bytes to %d clients, want %d: what was compressed for all", sent, clients, clients*made)
			}
			if raw := int64(len(textBetween(d.form(), 0, last))); 2*made > raw {
				t.Errorf("%d bytes became %d, want less than half", raw, made)
			}

			r.stop()
			reading.Wait()
			for i := range got {
				if !bytes.Equal(got[i], got[0]) {
					t.Fatalf("client %d: got %d bytes, want those of client 0, which got %d", i, len(got[i]), len(got[0]))
				}
			}
			content, err := d.undress(io.MultiReader(bytes.NewReader(d.head()), bytes.NewReader(got[0])))
			if err != nil {
				t.Fatal(err)
			}
			a := account{form: d.form()}
			for lines := bufio.NewReader(content); a.at < last; {
				text, err := lines.ReadString('\n')
				if err == nil {
					err = a.read(text)
				}
				if err != nil {
					t.Fatalf("behind item %d: %v", a.at, err)
				}
			}
			ch.Close()
			wantEmpty(t, r.Engine)
		})
	})
}

// What stands between a stream's end and its last batch is counted as it goes
// out, also where a goroutine is at writing that batch.
func TestCodedEndWhileWriting(t *testing.T) {
	for _, d := range dresses[:4] {
		t.Run("as="+d.name, func(t *testing.T) {
			r := newRig(t, Config{Portable: true})
			ch := r.Open("c", numbers{})
			server, client := r.pair()
			narrow(t, server, client)
			if _, err := server.Write(d.head()); err != nil {
				t.Fatal(err)
			}
			p := newPeer(t)
			p.conn = r.Take(server, d.options().withDefaults(p))
			p.conn.Start()
			p.hold(Hold{Wants: wanted("c"), PassHints: true})
			noise := rand.NewChaCha8([32]byte{})
			text := make([]byte, 1<<20)
			_, _ = noise.Read(text) // never fails
			for i := range text {
				text[i] = 'a' + text[i]%26
			}
			copy(text, "#")
			text[len(text)-1] = '\n'
			ch.Append(items(string(text)))
			p.waitBlocked()
			p.conn.Finish([]byte("#bye\n"), 0, "")
			content, err := d.undress(client)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(content)
			if want := begun + string(text) + "#bye\n"; err != nil || string(got) != want {
				t.Errorf("got %s and error %v, want %s", short(got), err, short([]byte(want)))
			}
		})
	}
}
