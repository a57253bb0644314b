package fanout

import (
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"spillway/gateway/compress"
	"spillway/gateway/ws"
	"spillway/grip"
)

// Take makes nc the engine's, as soon as it is told to Start: nobody else uses it
// any more. Where it is TCP and the system has epoll, it becomes a bare
// descriptor of a shard.
func (e *Engine) Take(nc net.Conn, o Options) *Conn {
	if c, ok := e.TakeBare(nc, o); ok {
		return c
	}
	return e.Adopt(nc, o)
}

// HasShards reports whether there are loops of bare descriptors.
func (e *Engine) HasShards() bool { return len(e.loops) > 1 }

// TakeBare is Take, but nc stays as it was where it does not become a bare
// descriptor: then ok is false.
func (e *Engine) TakeBare(nc net.Conn, o Options) (_ *Conn, ok bool) {
	if !e.HasShards() {
		return nil, false
	}
	fd, ok := bare(nc)
	if !ok {
		return nil, false
	}
	c := e.newConn(e.loops[int(e.turn.Add(1))%(len(e.loops)-1)], o)
	c.fd = fd
	c.returns = o.Return && o.Framing == Chunked
	return c, true
}

// Adopt makes the engine write to s, as soon as it is told to Start. Where s is a
// net.Conn, the engine also reads from it, and closes it in the end; otherwise
// its owner says when the client has left ([Conn.Left]), and Close is called only
// to end a Write.
func (e *Engine) Adopt(s StreamWriter, o Options) *Conn {
	c := e.newConn(e.loops[len(e.loops)-1], o)
	c.stream = s
	if c.client != nil {
		c.client.goOn = sync.NewCond(&c.mu)
	}
	return c
}

// A StreamWriter is a connection, or part of one, whose Write blocks.
type StreamWriter interface {
	Write(p []byte) (int, error)
	SetWriteDeadline(t time.Time) error
	Close() error
}

func (e *Engine) newConn(l *loop, o Options) *Conn {
	now := e.now()
	c := &Conn{loop: l, owner: o.Owner, framing: o.Framing, timeout: o.WriteTimeout, lastSent: now, progress: now, endAt: never,
		id: e.ids.Add(1), since: uint32(now / time.Second)}
	if !o.EndAt.IsZero() {
		c.endAt = o.EndAt.Sub(e.started)
	}
	if o.Coding != Uncoded {
		c.code = &coder{coding: o.Coding, done: compress.SumOf(o.Begun)}
	}
	if o.Framing == Framed {
		c.client = &client{reader: ws.NewReader(o.Rules), early: o.Early, resumed: len(o.Early) > 0}
		if o.Relay {
			c.client.relay = &relay{to: o.Owner.(Relay), alarmAt: never}
		}
	}
	return c
}

// Start makes the engine look after the connection: from now on it calls the
// owner. One that comes after the engine's end is cut at once.
func (c *Conn) Start() {
	c.mu.Lock()
	c.arm()
	c.kick()
	c.mu.Unlock()
	if c.loop.hasEnded() {
		c.Cut()
		c.loop.look(c)
	}
}

// closeUnseen closes a connection that no loop has.
func (c *Conn) closeUnseen() {
	if c.stream == nil {
		c.closeBare()
	} else if nc, own := c.stream.(net.Conn); own {
		_ = nc.Close()
	}
}

// Drain makes every connection, also those to come, end at a random moment
// within d: its TimeOver is called.
func (e *Engine) Drain(d time.Duration) {
	e.drainWithin.Store(int64(max(d, 1)))
	for _, l := range e.loops {
		l.draining.Store(true)
		l.nudge()
	}
}

func (e *Engine) drainDelay() time.Duration { return rand.N(time.Duration(e.drainWithin.Load())) }

// rouse wakes the loops of which there is a bit in asleep.
func (e *Engine) rouse(asleep uint64) {
	for i := 0; asleep != 0; i, asleep = i+1, asleep>>1 {
		if asleep&1 != 0 {
			e.loops[i].rouse()
		}
	}
}

// inFlight reports whether a shard writes bytes of s at this moment. It is
// called with the channel's lock, which the shard has when it begins to.
func (e *Engine) inFlight(s *segment) bool {
	for _, l := range e.loops {
		for i := range l.writing {
			if l.writing[i].Load() == s {
				return true
			}
		}
	}
	return false
}

// maxKeepAlives bounds how many different keep-alives are shared.
const maxKeepAlives = 1024

type keepAliveKey struct {
	framing  Framing
	coding   Coding
	typ      grip.MessageType
	content  string
	every    time.Duration
	interval bool
}

// keepAlive makes a keep-alive ready for connections like c; nil stays nil. The
// type is of a WebSocket's message.
func (e *Engine) keepAlive(c *Conn, typ grip.MessageType, k *grip.KeepAlive) *keepAlive {
	if k == nil {
		return nil
	}
	key := keepAliveKey{c.framing, Uncoded, typ, string(k.Content), k.Timeout, k.Interval}
	if c.code != nil {
		key.coding = c.code.coding
	}
	if known, ok := e.keepAlives.Load(key); ok {
		return known.(*keepAlive)
	}
	made := &keepAlive{every: k.Timeout, interval: k.Interval, ping: c.framing == Framed && typ == grip.PingMessage}
	switch {
	case c.framing == Framed:
		made.frame = c.AppendFrame(nil, typ, k.Content)
	case c.code != nil:
		alike := &coder{coding: key.coding}
		made.frame = alike.append(nil, k.Content, c.framing)
		made.sum = compress.SumOf(k.Content)
	default:
		made.frame = c.AppendFrame(nil, grip.TextMessage, k.Content)
	}
	if e.kept.Add(1) <= maxKeepAlives {
		e.keepAlives.Store(key, made)
	}
	return made
}

// jittered is a keep-alive's timeout, shortened at random so that streams which
// began together do not stay together: by up to 999 ms (GRIP reference, 2.2), but
// at most a tenth.
func jittered(d time.Duration) time.Duration {
	return d - rand.N(min(999*time.Millisecond, d/10)+1)
}
