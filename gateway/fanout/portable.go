package fanout

import (
	"io"
	"net"
	"time"
)

// A portable is the loop of all connections that no shard can own: those whose
// bytes go through a library (TLS, HTTP/2), and all where there is no epoll. A
// connection has one goroutine that reads, or its handler's, and another while
// something is being written.
type portable struct {
	awake chan struct{}
	conns map[*Conn]struct{} // the loop's own
}

func newPortable() *portable {
	return &portable{awake: make(chan struct{}, 1), conns: make(map[*Conn]struct{})}
}

func (p *portable) begin(*loop) error { return nil }
func (p *portable) end()              {}

func (p *portable) wake() {
	select {
	case p.awake <- struct{}{}:
	default:
	}
}

func (p *portable) wait(_ *loop, d time.Duration) {
	if d == 0 {
		return
	}
	if d == never {
		<-p.awake
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.awake:
	case <-t.C:
	}
}

func (p *portable) admit(l *loop, c *Conn) {
	p.conns[c] = struct{}{}
	if nc, ok := c.stream.(net.Conn); ok {
		l.engine.telling.Go(func() { c.listen(nc) }) // ends when the connection is closed
	}
}

func (p *portable) close(l *loop, c *Conn) {
	delete(p.conns, c)
	if _, own := c.stream.(net.Conn); own || c.pumping {
		l.engine.telling.Go(func() { _ = c.stream.Close() }) // TLS says good-bye, which may take its time
	}
	if c.client != nil {
		c.client.goOn.Broadcast()
	}
}

func (p *portable) each(f func(c *Conn)) {
	for c := range p.conns {
		f(c)
	}
}

func (p *portable) read(*loop, *Conn) {} // listen does

func (p *portable) flushAll(l *loop, conns []*Conn) { l.flushEach(conns) }

// flush starts a goroutine that writes, if there is something and none is at it.
func (p *portable) flush(l *loop, c *Conn) {
	if c.pumping {
		return
	}
	var b Batch
	private, ok := c.next(&b, l.now)
	if !ok {
		c.said(l.now)
		return
	}
	c.pumping, c.progress = true, l.now                // a tick may come before pump does
	l.engine.telling.Go(func() { c.pump(private, b) }) // ends when there is nothing more to write
}

// pump writes until there is nothing more.
func (c *Conn) pump(private []byte, b Batch) {
	e := c.engine()
	var scratch []byte
	c.mu.Lock()
	defer c.mu.Unlock()
	for ok := true; ok; private, ok = c.next(&b, e.now()) {
		p := private
		if private == nil {
			p = c.wire(&b, &scratch)
		}
		c.progress = e.now()
		c.arm()
		c.mu.Unlock()
		_ = c.stream.SetWriteDeadline(time.Now().Add(c.timeout)) // an error is met by Write
		_, err := c.stream.Write(p)
		c.mu.Lock()
		if err != nil {
			c.cut(lostBy(err))
			break
		}
		c.lastSent = e.now()
		c.loop.writes.Add(1)
		c.loop.bytes.Add(int64(len(p)))
		c.bytes += uint64(len(p))
		switch {
		case private == nil:
			c.loop.items.Add(int64(b.Items))
		case c.out != nil: // or it was cut meanwhile
			c.took(len(p))
		}
	}
	c.pumping = false
	if c.state == closed {
		c.kick()
		return
	}
	c.said(e.now())
}

// listen reads until the client hangs up. What a client of HTTP says is nothing
// that anyone waits for.
func (c *Conn) listen(r io.Reader) {
	defer c.deafen()
	buf := make([]byte, 1)
	if c.client != nil {
		buf = make([]byte, 4<<10)
		c.mu.Lock()
		early := c.client.early
		c.client.early = nil
		c.mu.Unlock()
		if early != nil {
			c.hear(early)
		}
	}
	for {
		if c.client != nil {
			c.mu.Lock()
			for c.client.paused && c.state < closed {
				c.client.goOn.Wait()
			}
			c.mu.Unlock()
		}
		n, err := r.Read(buf)
		if n > 0 && c.client != nil {
			c.hear(buf[:n])
		}
		if err != nil {
			c.left()
			return
		}
	}
}
