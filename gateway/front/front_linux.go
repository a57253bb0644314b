package front

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readBytes is how much of a connection is read at once.
	readBytes = 64 << 10

	// pause is how long nobody is accepted when there are no descriptors left.
	pause = 100 * time.Millisecond

	// maxAccepts is how many are accepted in one turn.
	maxAccepts = 64
)

// A listener is a few loops. The first, which accepts, is run by who calls Accept;
// the others have goroutines, from the first call of Accept until the one that
// finds the listener closed, which waits for them.
type listener struct {
	cfg     Config
	addr    net.Addr
	socket  int
	loops   []*loop
	started bool // by Accept
	next    int  // loop that gets a connection; of the first loop
	running sync.WaitGroup

	mu      sync.Mutex
	leaving []net.Conn // to net/http; guarded by mu
	closed  bool       // guarded by mu
	ended   bool       // all descriptors are closed; guarded by mu
}

// A loop has connections, none of which has said anything that is not answered.
// All is its goroutine's but what is guarded.
type loop struct {
	f            *listener
	epoll, event int
	conns        []*conn // by descriptor
	events       []unix.EpollEvent
	input        []byte // what was read last
	requests     requests
	answers      answers
	replies      []reply // of this turn, in answers
	now          time.Time
	sweepAt      time.Time // zero: nobody is waited for
	resumeAt     time.Time // when accepting goes on; zero: it does
	inbox        []int     // accepted for it; guarded by listener.mu
}

type conn struct {
	fd      int
	due     time.Time // it is closed then
	watched bool      // it is in the set
}

// A reply is what a connection is to be sent: the answers between two places.
type reply struct {
	c        *conn
	from, to int
	last     bool // then it is closed
}

// Listen returns a listener for a server of net/http, in whose place l is closed.
// It serves while one goroutine calls Accept, until Accept has returned an error.
// Close ends it, with all connections that net/http does not have. Where the system
// does not let it, net/http does all: Listen returns l.
func Listen(l net.Listener, cfg Config) net.Listener {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return l
	}
	f := &listener{cfg: cfg, addr: l.Addr(), socket: -1}
	if err := f.begin(tcp); err != nil {
		f.end()
		cfg.Log.Info("net/http answers all requests", "err", err)
		return l
	}
	_ = l.Close()
	return f
}

func (f *listener) begin(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(own uintptr) { f.socket, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil || err != nil {
		return errors.Join(cerr, err)
	}
	// As net sets them; those that are accepted inherit them.
	for _, o := range []struct{ level, option, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if err := unix.SetsockoptInt(f.socket, o.level, o.option, o.value); err != nil {
			return fmt.Errorf("setsockopt: %w", err)
		}
	}
	n := f.cfg.Loops
	if n == 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2) // the others are for those who listen
	}
	for range n {
		lp := &loop{f: f, epoll: -1, event: -1, events: make([]unix.EpollEvent, 256), input: make([]byte, readBytes),
			requests: requests{quick: f.cfg.Quick, maxHead: f.cfg.MaxHead, maxBody: f.cfg.MaxBody, buf: bufio.NewReader(nil)},
			answers:  answers{header: make(http.Header)}}
		f.loops = append(f.loops, lp)
		if err := lp.begin(); err != nil {
			return err
		}
	}
	return f.loops[0].watch(f.socket)
}

// end closes all that is open. The loops have stopped.
func (f *listener) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	closeFDs(f.socket)
	for _, lp := range f.loops {
		for _, c := range lp.conns {
			if c != nil {
				closeFDs(c.fd)
			}
		}
		closeFDs(lp.inbox...)
		closeFDs(lp.event, lp.epoll)
	}
}

func closeFDs(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Addr implements net.Listener.
func (f *listener) Addr() net.Addr { return f.addr }

// Close implements net.Listener. Closing twice is fine.
func (f *listener) Close() error {
	f.mu.Lock()
	f.closed = true
	if !f.ended {
		for _, lp := range f.loops {
			lp.wake()
		}
	}
	started := f.started
	f.mu.Unlock()
	if !started {
		f.end()
	}
	return nil
}

// Accept implements net.Listener: it answers what it can, and returns the next
// connection that needs net/http.
func (f *listener) Accept() (net.Conn, error) {
	f.start()
	for {
		c, closed := f.pop()
		switch {
		case c != nil:
			return c, nil
		case closed:
			f.running.Wait()
			if c, _ := f.pop(); c != nil { // it left last
				return c, nil
			}
			f.end()
			return nil, net.ErrClosed
		}
		f.loops[0].turn()
	}
}

func (f *listener) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started || f.closed {
		return
	}
	f.started = true
	for _, lp := range f.loops[1:] {
		f.running.Go(func() {
			for !f.isClosed() {
				lp.turn()
			}
		})
	}
}

func (f *listener) pop() (c net.Conn, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.leaving) > 0 {
		c = f.leaving[0]
		f.leaving[0] = nil
		f.leaving = f.leaving[1:]
	}
	return c, f.closed
}

func (f *listener) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (lp *loop) begin() (err error) {
	if lp.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	if lp.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	return lp.watch(lp.event)
}

func (lp *loop) watch(fd int) error {
	if err := unix.EpollCtl(lp.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (lp *loop) wake() {
	one := uint64(1)
	_, _ = unix.Write(lp.event, unsafe.Slice((*byte)(unsafe.Pointer(&one)), 8)) // full: awake anyway
}

// turn waits for something to do, and does it. A descriptor has one event in a
// turn, and is closed in no other's.
func (lp *loop) turn() {
	n, err := unix.EpollWait(lp.epoll, lp.events, lp.timeout())
	if err != nil {
		return // EINTR
	}
	lp.now = time.Now()
	for i := range n {
		switch fd := int(lp.events[i].Fd); fd {
		case lp.event:
			var count [8]byte
			_, _ = unix.Read(lp.event, count[:])
			lp.admitInbox()
		case lp.f.socket:
			lp.accept()
		default:
			if c := lp.conns[fd]; c != nil {
				lp.read(c)
			}
		}
	}
	lp.flush()
	lp.sweep()
}

// timeout is how long to wait for events at most, in milliseconds.
func (lp *loop) timeout() int {
	at := lp.sweepAt
	if !lp.resumeAt.IsZero() && (at.IsZero() || lp.resumeAt.Before(at)) {
		at = lp.resumeAt
	}
	if at.IsZero() {
		return -1
	}
	return int((max(0, time.Until(at)) + time.Millisecond - 1) / time.Millisecond)
}

// sweep closes those that have said nothing for too long. It comes when the first
// of them may be due, but not more than once a second.
func (lp *loop) sweep() {
	if !lp.resumeAt.IsZero() && !lp.now.Before(lp.resumeAt) {
		lp.resumeAt = time.Time{}
		if err := lp.watch(lp.f.socket); err != nil {
			lp.pause(err)
		}
	}
	if lp.sweepAt.IsZero() || lp.now.Before(lp.sweepAt) {
		return
	}
	lp.sweepAt = time.Time{}
	for _, c := range lp.conns {
		switch {
		case c == nil:
		case !lp.now.Before(c.due):
			lp.close(c)
		default:
			lp.expect(c)
		}
	}
}

// expect makes a sweep come when c is due. That it becomes due later is noticed
// then.
func (lp *loop) expect(c *conn) {
	at := c.due
	if soon := lp.now.Add(time.Second); at.Before(soon) {
		at = soon
	}
	if lp.sweepAt.IsZero() || at.Before(lp.sweepAt) {
		lp.sweepAt = at
	}
}

// accept gives connections to all loops in turns.
func (lp *loop) accept() {
	f := lp.f
	for range maxAccepts {
		fd, _, err := unix.Accept4(f.socket, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == unix.EAGAIN:
			return
		case err == unix.EINTR, err == unix.ECONNABORTED:
			continue
		case err != nil:
			lp.pause(err)
			return
		}
		to := f.loops[f.next]
		f.next = (f.next + 1) % len(f.loops)
		if to == lp {
			lp.admit(fd)
			continue
		}
		f.mu.Lock()
		to.inbox = append(to.inbox, fd)
		f.mu.Unlock()
		to.wake()
	}
}

// pause stops accepting for a while: there are no descriptors, or no memory.
func (lp *loop) pause(err error) {
	lp.f.cfg.Log.Warn("no connection is accepted for a moment", "err", err, "retry_in", pause)
	_ = unix.EpollCtl(lp.epoll, unix.EPOLL_CTL_DEL, lp.f.socket, nil)
	lp.resumeAt = lp.now.Add(pause)
}

func (lp *loop) admitInbox() {
	lp.f.mu.Lock()
	inbox := lp.inbox
	lp.inbox = nil
	lp.f.mu.Unlock()
	for _, fd := range inbox {
		lp.admit(fd)
	}
}

func (lp *loop) admit(fd int) {
	for fd >= len(lp.conns) {
		lp.conns = append(lp.conns, make([]*conn, max(64, len(lp.conns)))...)
	}
	c := &conn{fd: fd, due: lp.now.Add(lp.f.cfg.FirstTimeout)}
	lp.conns[fd] = c
	lp.expect(c)
	lp.read(c) // often its request has come with it
}

// close ends a connection, which also takes it out of the set.
func (lp *loop) close(c *conn) {
	lp.conns[c.fd] = nil
	closeFDs(c.fd)
}

// read answers what has come, or makes the connection leave.
func (lp *loop) read(c *conn) {
	n, errno := receive(c.fd, lp.input)
	switch {
	case errno == unix.EAGAIN, errno == unix.EINTR:
		lp.wait(c)
		return
	case errno != 0, n == 0:
		lp.close(c)
		return
	}
	rest, last, ok := lp.input[:n], false, true
	from := lp.answers.out.Len()
	for len(rest) > 0 && ok && lp.answers.out.Len()-from <= maxKept {
		r, size := lp.requests.next(rest)
		if r == nil {
			break
		}
		rest, last, ok = rest[size:], r.Close, lp.answer(r)
	}
	said := reply{c: c, from: from, to: lp.answers.out.Len(), last: last || !ok}
	if len(rest) > 0 {
		lp.send(said, rest)
		return
	}
	lp.replies = append(lp.replies, said)
	if said.to > maxKept {
		lp.flush()
	}
}

// flush sends what was answered. That comes after all of a turn's requests, so that
// a client with many connections is woken once.
func (lp *loop) flush() {
	for _, said := range lp.replies {
		lp.send(said, nil)
	}
	clear(lp.replies)
	lp.replies = lp.replies[:0]
	lp.answers.begin()
}

// send sends answers. Where they do not all leave, or rest was read behind their
// requests, the connection leaves the loop.
func (lp *loop) send(said reply, rest []byte) {
	c, owed := said.c, lp.answers.out.Bytes()[said.from:said.to]
	if len(owed) > 0 {
		n, errno := send(c.fd, owed)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
			lp.close(c)
			return
		}
		owed = owed[n:]
	}
	switch {
	case said.last && len(owed) == 0:
		lp.close(c)
	case len(rest) > 0, len(owed) > 0:
		lp.leave(c, rest, owed, said.last)
	default:
		c.due = lp.now.Add(lp.f.cfg.IdleTimeout)
		lp.expect(c)
		lp.wait(c)
	}
}

// wait makes the loop read when something comes.
func (lp *loop) wait(c *conn) {
	if c.watched {
		return
	}
	if err := lp.watch(c.fd); err != nil {
		lp.f.cfg.Log.Warn("connection cut", "err", err)
		lp.close(c)
		return
	}
	c.watched = true
}

// answer reports false where the handler panicked: the connection is cut behind
// the answers before, as net/http does it.
func (lp *loop) answer(r *http.Request) (ok bool) {
	defer func() {
		if ok {
			return
		}
		lp.answers.forget()
		cause := recover()
		if err, is := cause.(error); !is || !errors.Is(err, http.ErrAbortHandler) {
			lp.f.cfg.Log.Error("a handler panicked", "cause", cause, "stack", string(debug.Stack()))
		}
	}()
	lp.f.cfg.Handler.ServeHTTP(&lp.answers, r)
	lp.answers.end(lp.now, r.Close)
	return true
}

// leave makes the connection net/http's, with what was read of it and what it has
// not taken of its answers.
func (lp *loop) leave(c *conn, rest, owed []byte, last bool) {
	lp.conns[c.fd] = nil
	if c.watched {
		_ = unix.EpollCtl(lp.epoll, unix.EPOLL_CTL_DEL, c.fd, nil)
	}
	file := os.NewFile(uintptr(c.fd), "")
	defer file.Close() // net has its own descriptor
	nc, err := net.FileConn(file)
	if err != nil {
		lp.f.cfg.Log.Warn("connection cut", "err", err)
		return
	}
	f := lp.f
	f.mu.Lock()
	f.leaving = append(f.leaving, &left{Conn: nc, rest: append([]byte(nil), rest...), owed: append([]byte(nil), owed...), last: last})
	f.mu.Unlock()
	if lp != f.loops[0] {
		f.loops[0].wake()
	}
}

// A left connection is net/http's.
type left struct {
	net.Conn
	rest []byte // to be read before what comes
	owed []byte // to be written before anything is read
	last bool   // nothing is read any more
}

func (c *left) Read(p []byte) (int, error) {
	if owed := c.owed; len(owed) > 0 {
		c.owed = nil
		if _, err := c.Conn.Write(owed); err != nil {
			return 0, err
		}
	}
	if c.last {
		return 0, io.EOF
	}
	if len(c.rest) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n, nil
}

// CloseWrite is for net/http, which lets clients read its last answer in this way.
func (c *left) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite() // it is TCP
}

// receive and send do so without the scheduler's knowledge: they never wait.
func receive(fd int, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_RECVFROM, fd, p, unix.MSG_DONTWAIT)
}

func send(fd int, p []byte) (int, syscall.Errno) {
	return transfer(syscall.SYS_SENDTO, fd, p, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

func transfer(call uintptr, fd int, p []byte, flags uintptr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
