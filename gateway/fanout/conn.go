package fanout

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
	"unsafe"

	"spillway/gateway/compress"
	"spillway/gateway/ws"
	"spillway/grip"
)

// A Framing is what stands around the content on a connection.
type Framing uint8

const (
	Plain   Framing = iota // nothing: the end of the connection is the end of the body, or someone else frames
	Chunked                // chunks of HTTP/1.1 (RFC 9112, 7.1)
	Framed                 // WebSocket (RFC 6455)
)

// An Owner is told what happens on a connection. Its methods must not block,
// except for Held.
type Owner interface {
	// Held is called when a subscription of the connection says something else
	// than content, or was quiet for its time, or has an item that is not for the
	// wire (Response, Any). That ends it: the owner detaches it. It runs on a
	// goroutine of its own, and may block.
	Held(s *Subscriber, why Status, b Batch)

	// Received is called for each message of a WebSocket's client. content is
	// good until it returns.
	Received(typ grip.MessageType, content []byte)

	// TimeOver is called once when the time of the connection has come; the
	// owner says Finish.
	TimeOver()

	// Gone is called once, when the connection has ended. Held may still be
	// running, or about to.
	Gone(why Ending)
}

// An Ending is how a connection ended.
type Ending uint8

const (
	Left     Ending = iota // the client went away, or closed the WebSocket
	Stalled                // it took nothing, or did not answer a ping, for WriteTimeout
	Crowded                // it needed memory when all connections together had Config.PrivateMemory
	TooBig                 // it sent a message that is too large
	Wrong                  // it sent what is no WebSocket
	Finished               // Finish was called, and the client had its time to take what there was
	CutOff                 // Cut, or the engine has ended
	Returned               // the connection is its owner's again: by Return, or Options.Return
)

// A Sized owner says what it keeps for its connection, in bytes. Of others
// nothing is counted.
type Sized interface{ Size() int }

// Options are what a connection is taken over with.
type Options struct {
	Owner   Owner
	Framing Framing
	Coding  Coding
	// Begun is what was sent already of a content that is compressed, before it
	// was: the response's first bytes. It is for Gzip.
	Begun        []byte
	WriteTimeout time.Duration // how long the client may take nothing
	EndAt        time.Time     // when TimeOver is called; zero: never
	// Return gives a bare connection back after Finish, with Gone(Returned), where
	// the end of the content is not that of the connection, and nothing drains.
	Return bool

	// Of WebSockets: what a client must keep to, and what it has said already.
	Rules *ws.Rules
	Early []byte
	// Relay says that Owner is a Relay.
	Relay bool
}

// A Conn is a client's connection that the engine writes to, and closes. While
// nothing is to be written it has no goroutine and no buffer of its own. All
// methods are safe for concurrent use.
type Conn struct {
	loop    *loop
	owner   Owner
	fd      int          // on a shard
	stream  StreamWriter // elsewhere; nil on a shard
	code    *coder       // nil: nothing is compressed
	client  *client      // of a WebSocket: what the other side says; nil otherwise
	timeout time.Duration

	mu       sync.Mutex
	state    connState
	ending   Ending
	admitted bool    // the loop knows it
	timeUp   bool    // TimeOver was called
	blocked  bool    // the socket takes nothing now
	pumping  bool    // a goroutine writes
	returns  bool    // to the owner, after Finish
	out      *outbox // bytes that only this connection gets; nil: none
	subs     []*Subscriber
	keep     *keepAlive
	keepFor  time.Duration // keep's time less the jitter, chosen anew each time
	// On the engine's clock:
	lastSent time.Duration // when something was written
	lastKept time.Duration // when a keep-alive was
	progress time.Duration // when the socket took something, since it is blocked; or when it began to close
	endAt    time.Duration // or never
	// restUntil is when a subscription with a rate, also the next one, may be given
	// something again.
	restUntil time.Duration

	framing Framing
	sending bool   // in a ring; the loop's own
	queued  bool   // in the loop's list of connections to look at; guarded by loop.mu
	since   uint32 // when it came, on the engine's clock, in seconds
	id      uint64 // 1 and up
	bytes   uint64 // that were written; guarded by mu

	// In the wheel; guarded by wheel.mu.
	ticking        bool
	slot           int32
	earlier, later *Conn

	// The first subscription, and its first channel: most have no others.
	first       Subscriber
	firstMember [1]member
	firstList   [1]*member
	firstSubs   [1]*Subscriber
}

// size is what we and the owner keep for a connection whatever it is doing, in
// bytes.
func (c *Conn) size() int64 {
	n := unsafe.Sizeof(*c)
	if c.client != nil {
		n += unsafe.Sizeof(*c.client)
	}
	if o, ok := c.owner.(Sized); ok {
		return int64(n) + int64(o.Size())
	}
	return int64(n)
}

type connState uint8

const (
	open      connState = iota
	finishing           // nothing more is said when out is empty
	lingering           // everything is said; the client is to hang up
	closed              // the loop is to close it
	gone                // it has
)

// An outbox is what is to be written to one connection alone, before anything
// of its subscriptions. It lives while it holds something.
type outbox struct {
	buf     []byte
	written uint64 // bytes that have left
	added   uint64 // bytes that were put in
	pongs   int    // bytes of them that are pongs
	waiters []waiter
}

type waiter struct {
	until uint64
	done  chan<- error
}

// ErrGone is the error of writing to a connection that has ended.
var ErrGone = errors.New("the connection has ended")

func (c *Conn) engine() *Engine { return c.loop.engine }

// Framing is what stands around the content.
func (c *Conn) Framing() Framing { return c.framing }

// AppendFrame appends content as it stands on this connection's wire; the type
// is of a WebSocket's message.
func (c *Conn) AppendFrame(dst []byte, typ grip.MessageType, content []byte) []byte {
	switch {
	case c.framing == Framed && c.code != nil:
		buf := c.engine().coders.Get().(*[]byte)
		defer c.engine().coders.Put(buf)
		return appendDeflated(dst, ws.AppendFrame(nil, opcode(typ), content), buf)
	case c.framing == Framed:
		return ws.AppendFrame(dst, opcode(typ), content)
	case c.code != nil:
		return c.code.append(dst, content, c.framing)
	case len(content) == 0, c.framing == Plain:
		return append(dst, content...)
	}
	dst = appendChunkHead(dst, len(content))
	dst = append(dst, content...)
	return append(dst, "\r\n"...)
}

// Write sends content, behind what was written before and ahead of what
// subscriptions have, and returns when it is in the socket. On a WebSocket it is
// a text message.
func (c *Conn) Write(p []byte) error {
	var sum compress.Sum
	if c.code != nil {
		sum = compress.SumOf(p)
	}
	return c.send(c.AppendFrame(nil, grip.TextMessage, p), sum)
}

// send does so with frames; sum is of their content, where it is compressed.
func (c *Conn) send(frames []byte, sum compress.Sum) error {
	done := make(chan error, 1)
	c.mu.Lock()
	switch {
	case c.state != open:
		c.mu.Unlock()
		return ErrGone
	case len(frames) == 0:
		c.mu.Unlock()
		return nil
	}
	c.put(frames)
	if c.code != nil {
		c.code.add(sum)
	}
	c.out.waiters = append(c.out.waiters, waiter{c.out.added, done})
	c.kick()
	c.mu.Unlock()
	return <-done
}

// put adds bytes to the outbox. It is called with c.mu.
func (c *Conn) put(p []byte) {
	if len(p) == 0 {
		return
	}
	if c.out == nil {
		c.out = new(outbox)
	}
	c.out.buf = append(c.out.buf, p...)
	c.out.added += uint64(len(p))
	c.engine().privateBytes.Add(int64(len(p)))
}

// putRest does so with what is left of a frame, if there is memory for it.
func (c *Conn) putRest(p []byte) {
	if len(p) > 0 && c.engine().Crowded() {
		c.cut(Crowded)
		return
	}
	c.put(p)
}

// took notes that n bytes of the outbox have left. It is called with c.mu.
func (c *Conn) took(n int) {
	o := c.out
	o.buf = o.buf[n:]
	o.written += uint64(n)
	c.engine().privateBytes.Add(-int64(n))
	for len(o.waiters) > 0 && o.waiters[0].until <= o.written {
		o.waiters[0].done <- nil
		o.waiters = o.waiters[1:]
	}
	if len(o.buf) == 0 {
		c.out = nil
	}
}

// Left tells that the client has hung up, where nobody reads from the
// connection.
func (c *Conn) Left() { c.left() }

// Over reports whether nothing more can be sent.
func (c *Conn) Over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != open
}

// WriteFrames is Write for what AppendFrame made, on a WebSocket.
func (c *Conn) WriteFrames(frames []byte) error {
	return c.send(frames, compress.Sum{})
}

// Finish ends the connection when content and everything before it is in the
// socket: an HTTP response is complete, a WebSocket is closed with the code (0:
// without a close frame, by hanging up). Subscriptions end at once. The first
// word counts.
func (c *Conn) Finish(content []byte, code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(content, code, reason, Finished)
}

func (c *Conn) finish(content []byte, code int, reason string, why Ending) {
	if c.state != open {
		return
	}
	c.dropAll()
	switch c.framing {
	case Framed:
		if code != 0 {
			c.client.closing = true
			c.put(ws.AppendClose(nil, code, reason))
		}
	default:
		last := c.AppendFrame(nil, grip.TextMessage, content)
		if c.code != nil {
			c.code.add(compress.SumOf(content))
			last = c.code.end(last, c.framing)
		}
		if c.framing == Chunked {
			last = append(last, "0\r\n\r\n"...)
		}
		c.put(last)
	}
	c.state, c.ending = finishing, why
	c.arm()
	c.kick()
}

// Cut ends the connection at once. The client can tell that what it got is not
// complete.
func (c *Conn) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut(CutOff)
}

// Return ends what the engine has to do with a connection that it wrote nothing
// to: with Gone(Returned) it is the owner's again, unless it has ended otherwise
// before.
func (c *Conn) Return() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut(Returned)
}

// Net is a bare connection that was returned. It is called once; an error means
// that the connection is closed.
func (c *Conn) Net() (net.Conn, error) {
	f := os.NewFile(uintptr(c.fd), "")
	defer f.Close() // net has its own descriptor
	return net.FileConn(f)
}

// cut makes the loop close the connection. It is called with c.mu. What is
// still on its way may be written, and nothing after it.
func (c *Conn) cut(why Ending) {
	if c.state >= closed {
		return
	}
	if c.state == open {
		c.ending = why
	}
	c.dropAll()
	c.state = closed
	if o := c.out; o != nil {
		for _, w := range o.waiters {
			w.done <- ErrGone
		}
		c.engine().privateBytes.Add(-int64(len(o.buf)))
		c.out = nil
	}
	c.kick()
}

// kick makes the loop look at the connection soon.
func (c *Conn) kick() {
	if c.loop.push(c) {
		c.loop.rouse()
	}
}

// next is what is to be written next, with c.mu: bytes of the outbox, or a
// batch. Neither means that there is nothing now. What subscriptions say
// besides is told.
func (c *Conn) next(b *Batch, now time.Duration) (private []byte, ok bool) {
	for {
		if c.out != nil {
			return c.out.buf, true
		}
		if c.state != open {
			return nil, false
		}
		var status Status
		var s *Subscriber
		var i int
		for i, s = range c.subs {
			if status = s.next(b, batchBytes); status != Wait {
				break
			}
		}
		if status == Ready && s.paced {
			c.arm()
		}
		switch {
		case status == Wait:
			return nil, false
		case status == asking:
			c.ask(s, *b)
			*b = Batch{}
		case status == Ready && b.passing != nil:
			c.others(i)
			c.emit(s, b, now)
			*b = Batch{}
		case status == Ready:
			s.sent(now)
			if s.form >= byteForms {
				c.engine().metrics.delivered(b)
				c.tell(s, Ready, *b)
				continue
			}
			c.others(i)
			if len(b.Frames) == 0 {
				continue
			}
			if c.stream != nil { // it goes out whole, or nothing does any more
				c.sent()
			}
			return nil, true
		case status == Refresh:
			c.refresh()
		case status == Hint && s.passHints:
		default:
			c.tell(s, status, *b)
		}
	}
}

// others gives the other subscriptions their turn before the one at i.
func (c *Conn) others(i int) {
	if last := len(c.subs) - 1; i < last {
		s := c.subs[i]
		copy(c.subs[i:], c.subs[i+1:])
		c.subs[last] = s
	}
}

// batchBytes is how much of a log is written at once at most, unless it is one
// item, in bytes.
const batchBytes = 64 << 10

// wire is what of a batch is written to this connection.
func (c *Conn) wire(b *Batch, scratch *[]byte) []byte {
	if c.framing != Plain {
		return b.Frames
	}
	if b.pieces() == 1 {
		return unframed(b.form, b.Frames)
	}
	*scratch = (*scratch)[:0]
	for i := range b.pieces() {
		*scratch = append(*scratch, unframed(b.form, b.Frames[b.pieceStart(i):b.pieceEnd(i)])...)
	}
	return *scratch
}

// sent notes that all of a batch is on its way. It is called with c.mu.
func (c *Conn) sent() {
	if c.code != nil {
		c.code.gave(len(c.code.blocks))
	}
}

// unsent keeps what of a batch was not written, of which the first n bytes
// were. It is called with c.mu.
func (c *Conn) unsent(b *Batch, n int) {
	if c.framing != Plain {
		c.putRest(b.rewind(n))
		return
	}
	// The same place in the frames, and what is left of the content there.
	for i := range b.pieces() {
		start, end := b.pieceStart(i), b.pieceEnd(i)
		content := unframed(b.form, b.Frames[start:end])
		switch {
		case n >= len(content):
			n -= len(content)
		case n == 0:
			b.rewind(start)
			return
		default:
			b.rewind(start + 1)
			c.putRest(content[n:])
			return
		}
	}
}

// hangUp says that nothing more will come; false means that there is no way to.
func (c *Conn) hangUp() bool {
	if c.stream == nil {
		return c.shutdown()
	}
	half, ok := c.stream.(interface{ CloseWrite() error })
	if ok {
		c.engine().telling.Go(func() { _ = half.CloseWrite() }) // TLS says good-bye, which may take its time
	}
	return ok
}

// said is called with c.mu when everything is written. It sees to the end of a
// connection that is finishing.
func (c *Conn) said(now time.Duration) {
	if c.state != finishing {
		return
	}
	switch {
	case c.returns && c.engine().drainWithin.Load() == 0:
		c.ending = Returned
		c.cut(Returned)
		return
	case c.framing == Framed && (c.client.hungUp || !c.client.closing):
		c.cut(c.ending)
		return
	case (c.framing != Framed || c.client.deaf) && !c.hangUp(): // who is not heard cannot say that it has understood
		c.cut(c.ending)
		return
	}
	c.state, c.progress = lingering, now
	c.arm()
}

// left is called when the client has hung up.
func (c *Conn) left() {
	c.mu.Lock()
	c.cut(Left) // what was finishing keeps its own ending
	c.mu.Unlock()
}

// lostBy is how an error of writing ends a connection.
func lostBy(err error) Ending {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Stalled
	}
	return Left
}
