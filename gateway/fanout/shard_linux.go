package fanout

import (
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newMechanisms returns one shard for each core.
func newMechanisms(cfg Config) []mechanism {
	all := make([]mechanism, min(runtime.GOMAXPROCS(0), maxShards))
	for i := range all {
		all[i] = &shard{noRing: cfg.NoIOUring}
	}
	return all
}

// A shard writes to bare, non-blocking descriptors and waits in one epoll set
// for all of them. Between begin and end only its loop uses it, but for wake.
//
// Descriptors are registered once, edge-triggered: the kernel says that one takes
// bytes again only after it has refused some, and a client that has hung up is
// told without a byte being read.
type shard struct {
	epoll, event int
	events       []unix.EpollEvent
	conns        []*Conn // by descriptor
	input        []byte  // where what clients say is read to
	ring         *ring   // nil: each write is a system call
	noRing       bool
}

// maxShards bounds how many there are.
const maxShards = 32

// ringFrom is how many connections have to have their turn together for a ring to
// be worth its while.
const ringFrom = 4

// inputBytes is how much of a client is read at once.
const inputBytes = 16 << 10

// maxReads is how often one client is read from in one turn.
const maxReads = 16

// flushBytes is how much is written to one connection in one turn, more or less;
// a write counts as writeBytes at least.
const (
	flushBytes = 256 << 10
	writeBytes = 1 << 10
)

func (s *shard) begin(l *loop) (err error) {
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if s.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(s.epoll)
		return fmt.Errorf("eventfd: %w", err)
	}
	if err = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, s.event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.event)}); err != nil {
		s.end()
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	s.events = make([]unix.EpollEvent, 256)
	s.input = make([]byte, inputBytes)
	if !s.noRing {
		if s.ring, err = newRing(); err != nil {
			l.engine.log.Info("each write is a system call of its own, since there is no io_uring", "err", err)
		}
	}
	return nil
}

func (s *shard) end() {
	if s.ring != nil {
		s.ring.close()
	}
	_ = unix.Close(s.event)
	_ = unix.Close(s.epoll)
}

func (s *shard) wake() {
	one := uint64(1)
	_, _ = unix.Write(s.event, unsafe.Slice((*byte)(unsafe.Pointer(&one)), 8)) // full: awake anyway
}

func (s *shard) wait(l *loop, d time.Duration) {
	timeout := -1
	if d != never {
		timeout = int((d + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(s.epoll, s.events, timeout)
	if err != nil {
		return // EINTR
	}
	l.now = l.engine.now()
	for i := range n {
		ev := &s.events[i]
		if int(ev.Fd) == s.event {
			var count [8]byte
			_, _ = unix.Read(s.event, count[:])
			continue
		}
		if c := s.conns[ev.Fd]; c != nil {
			s.happened(l, c, ev.Events)
		}
	}
}

// happened does what an event of the kernel asks for. A connection is closed by
// look, later, so that no event of the same wait can meet another connection under
// its descriptor.
func (s *shard) happened(l *loop, c *Conn, events uint32) {
	if c.client != nil && events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		s.read(l, c)
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.left()
		return
	}
	if events&unix.EPOLLOUT != 0 {
		c.mu.Lock()
		if c.blocked {
			c.blocked = false
			s.flush(l, c)
		}
		c.mu.Unlock()
	}
}

func (s *shard) admit(_ *loop, c *Conn) {
	for c.fd >= len(s.conns) {
		s.conns = append(s.conns, make([]*Conn, max(256, len(s.conns)))...)
	}
	s.conns[c.fd] = c
	events := uint32(unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff)
	if c.client != nil {
		events |= unix.EPOLLIN
	}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)}); err != nil {
		c.cut(CutOff) // the kernel is out of memory for it, or out of watches
	}
}

func (s *shard) close(_ *loop, c *Conn) {
	s.conns[c.fd] = nil
	c.deafen()
	if c.ending == Returned {
		_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, c.fd, nil)
		return
	}
	c.closeBare() // which also takes it out of the set
}

func (s *shard) each(f func(c *Conn)) {
	for _, c := range s.conns {
		if c != nil {
			f(c)
		}
	}
}

// pageSlots is how many descriptors one step of a list looks at.
const pageSlots = 1024

// page implements pager.
func (s *shard) page(at int, f func(*Conn)) int {
	end := min(at+pageSlots, len(s.conns))
	for _, c := range s.conns[min(at, end):end] {
		if c != nil {
			f(c)
		}
	}
	if end == len(s.conns) {
		return -1
	}
	return end
}

func (s *shard) flushAll(l *loop, conns []*Conn) {
	if s.ring == nil || len(conns) < ringFrom {
		l.flushEach(conns)
		return
	}
	if err := s.ring.flushAll(s, l, conns); err != nil {
		l.engine.log.Warn("each write is a system call of its own from now on", "err", err)
		s.ring.close()
		s.ring = nil
	}
}

func (s *shard) flush(l *loop, c *Conn) {
	b, pins := &l.batch, l.pins
	for budget := flushBytes; !c.blocked; {
		if budget <= 0 {
			c.kick() // after the others
			return
		}
		private, ok := c.next(b, l.now)
		if !ok {
			c.said(l.now)
			return
		}
		p := private
		if private == nil {
			p = c.wire(b, &l.scratch)
		}
		n, errno := send(c.fd, p)
		budget -= max(n, writeBytes)
		more := s.wrote(l, c, b, private != nil, len(p), n, errno)
		l.unpin(pins)
		if !more {
			return
		}
	}
}

// wrote notes that n of size bytes of the outbox, or of a batch, have left. It
// reports whether there may be more to write.
func (s *shard) wrote(l *loop, c *Conn, b *Batch, private bool, size, n int, errno syscall.Errno) (more bool) {
	if errno != 0 && errno != syscall.EAGAIN {
		c.cut(Left)
		return false
	}
	if n > 0 {
		c.lastSent, c.progress = l.now, l.now
		l.writes.Add(1)
		l.bytes.Add(int64(n))
		c.bytes += uint64(n)
	}
	switch {
	case private:
		c.took(n)
	case n < size:
		c.unsent(b, n)
		l.items.Add(int64(b.Items))
	default:
		c.sent()
		l.items.Add(int64(b.Items))
	}
	if n < size {
		c.block(l)
		return false
	}
	// What comes from now on to the newest puts its lane on the list again.
	return private || !b.newest || len(c.subs) != 1
}

// block makes the connection wait until its socket takes something again.
func (c *Conn) block(l *loop) {
	l.blocked.Add(1)
	c.blocked = true
	c.progress = l.now
	c.arm()
}

func (c *Conn) closeBare() { _ = unix.Close(c.fd) }

// shutdown says to the client that nothing more will come.
func (c *Conn) shutdown() bool { return unix.Shutdown(c.fd, unix.SHUT_WR) == nil }

// send is send(2), without the scheduler's knowledge: it never waits.
func send(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func (s *shard) read(l *loop, c *Conn) {
	for reads := 1; ; reads++ {
		c.mu.Lock()
		stop := c.client.paused || c.client.hungUp || c.state >= closed
		early := c.client.early
		c.client.early = nil
		c.mu.Unlock()
		switch {
		case stop:
			return
		case reads > maxReads: // the others first
			c.mu.Lock()
			c.client.early, c.client.resumed = early, true
			c.kick()
			c.mu.Unlock()
			return
		}
		if early != nil {
			c.hear(early)
			continue
		}
		n, err := unix.Read(c.fd, s.input)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil, n == 0:
			c.left()
			return
		}
		c.hear(s.input[:n])
	}
}

// bare takes the descriptor of a TCP connection away from the runtime; the
// connection is closed. ok is false, and the connection as it was, when it has
// none of its own.
func bare(nc net.Conn) (fd int, ok bool) {
	for {
		under, wrapped := nc.(interface{ NetConn() net.Conn })
		if _, isTCP := nc.(*net.TCPConn); isTCP || !wrapped {
			break
		}
		if _, isTLS := nc.(*tls.Conn); isTLS {
			return 0, false
		}
		nc = under.NetConn()
	}
	tcp, isTCP := nc.(*net.TCPConn)
	if !isTCP {
		return 0, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false
	}
	fd = -1
	if err = raw.Control(func(own uintptr) {
		fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || fd < 0 {
		return 0, false
	}
	_ = tcp.Close() // only the runtime's descriptor: the connection lives on in ours
	return fd, true
}
