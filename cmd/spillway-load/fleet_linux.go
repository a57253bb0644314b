package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// A fleet is many clients of one server on bare sockets: one goroutine, one
// epoll, no state per client but a stream and an order, so that the generator
// costs the machine as little as it can.
type fleet struct {
	epoll   int
	wake    [2]int // a pipe; what is written to it ends the reader
	stopped chan struct{}

	// news receives when ready, the tally or broken may have changed enough
	// for somebody who waits. It holds one.
	news chan struct{}

	mu      sync.Mutex
	clients []client
	ready   int // clients with a good status
	broken  []error
	plan    plan // of the step
	begin   time.Time
	end     uint32 // sequence number behind the step's last
	open    int    // messages of the step that have not come
	tally   tally
	answers histogram // from connect to the answer's head, since the last connect
	shared  inflater

	// While a client is served.
	current *client
	since   time.Duration // the beginning of the step
}

type client struct {
	fd      int // -1: gone
	asked   int64
	channel int32
	stalled bool // reads nothing behind the head
	gzip    bool // the answer must be compressed
	stream
	order
}

// A tally is what a fleet saw since expect, of all clients together.
type tally struct {
	Delivered uint64    `json:"delivered"` // messages of the step, each counted once per client
	Repeated  uint64    `json:"repeated"`
	Late      uint64    `json:"late"`  // came behind a later one
	Other     uint64    `json:"other"` // events that are no messages: gaps, errors
	Bytes     uint64    `json:"bytes"` // read from sockets
	Reads     uint64    `json:"reads"`
	First     time.Time `json:"first"` // when the first message came
	Last      time.Time `json:"last"`  // when the last one did
	Latency   histogram `json:"latency"`
	Oddity    string    `json:"oddity,omitempty"` // one of other, as an example
	Lost      int       `json:"lost"`             // messages that have not come
}

// add adds what another fleet saw.
func (t *tally) add(o *tally) {
	t.Delivered += o.Delivered
	t.Repeated += o.Repeated
	t.Late += o.Late
	t.Other += o.Other
	t.Bytes += o.Bytes
	t.Reads += o.Reads
	t.Lost += o.Lost
	if !o.First.IsZero() && (t.First.IsZero() || o.First.Before(t.First)) {
		t.First = o.First
	}
	if o.Last.After(t.Last) {
		t.Last = o.Last
	}
	t.Latency.merge(&o.Latency)
	if t.Oddity == "" {
		t.Oddity = o.Oddity
	}
}

// openFleet makes a fleet without clients.
func openFleet() (*fleet, error) {
	f := &fleet{stopped: make(chan struct{}), news: make(chan struct{}, 1)}
	var err error
	if f.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := syscall.Pipe2(f.wake[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		closeFDs(f.epoll)
		return nil, fmt.Errorf("pipe: %w", err)
	}
	if err := f.watch(f.wake[0], -1); err != nil {
		closeFDs(f.epoll, f.wake[0], f.wake[1])
		return nil, err
	}
	go f.read() // ends when close wakes it
	return f, nil
}

// A crew is clients that connect together.
type crew struct {
	Addr     netip.AddrPort `json:"addr"`
	Count    int            `json:"count"`
	From     int            `json:"from"`     // number of the first of them, which gives its address
	Channels int            `json:"channels"` // client i is of channel i mod Channels; 0 means 1

	// Requests are what each sends, or one for all.
	Requests [][]byte `json:"requests"`

	// Window is how many may be without an answer at a time; 0: any number.
	Window int `json:"window"`

	// StalledEvery is how many of them there is a client for that reads nothing
	// behind the head of its answer, and has a small receive buffer; 0: none.
	StalledEvery int `json:"stalledEvery"`

	// Gzip demands that answers are compressed.
	Gzip bool `json:"gzip"`
}

// connect opens a stream for each client of the crew, and returns when each has
// been answered with 200 or 101. The clients' addresses are spread over
// 127.0.0.0/8, since one address has only some 28,000 ports.
func (f *fleet) connect(ctx context.Context, c crew) error {
	f.mu.Lock()
	had := len(f.clients)
	f.answers = histogram{}
	for i := range c.Count {
		f.clients = append(f.clients, client{
			fd: -1, channel: int32((c.From + i) % max(c.Channels, 1)),
			stalled: c.StalledEvery > 0 && i%c.StalledEvery == 0,
			gzip:    c.Gzip,
			stream:  stream{inflater: &f.shared},
		})
	}
	f.mu.Unlock()
	for i := range c.Count {
		if c.Window > 0 {
			if err := f.wait(ctx, func() bool { return had+i-f.ready < c.Window }); err != nil {
				return fmt.Errorf("client %d: %w", had+i, err)
			}
		} else if err := ctx.Err(); err != nil {
			return err
		}
		request := c.Requests[min(i, len(c.Requests)-1)]
		asked := time.Now().UnixNano()
		stalled := f.clients[had+i].stalled
		fd, err := dial(sourceOf(c.From+i), c.Addr, request, stalled)
		if err != nil {
			return fmt.Errorf("client %d: %w", had+i, err)
		}
		f.mu.Lock()
		f.clients[had+i].fd, f.clients[had+i].asked = fd, asked
		f.mu.Unlock()
		if err := f.watch(fd, had+i); err != nil {
			return err
		}
	}
	if err := f.wait(ctx, func() bool { return f.ready == had+c.Count }); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Errorf("%d of %d clients were answered: %w", f.ready-had, c.Count, err)
	}
	return nil
}

// sourceOf is the address of client i.
func sourceOf(i int) [4]byte {
	// Looking for a free port takes the kernel longer the more are taken.
	const perAddress = 2500
	return [4]byte{127, byte(i / perAddress >> 8), byte(i / perAddress), 1}
}

// ipBindAddressNoPort is IP_BIND_ADDRESS_NO_PORT (ip(7)), which package syscall
// does not have.
const ipBindAddressNoPort = 24

// What a client asks for that will not read: a small receive buffer, and small
// segments, by which the kernel sizes the server's send buffer, so that what is
// sent to it soon waits at the server.
const (
	stalledBuffer  = 4 << 10
	stalledSegment = 536
)

// dial connects from source to addr and sends the request.
func dial(source [4]byte, addr netip.AddrPort, request []byte, stalled bool) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			closeFDs(fd)
		}
	}()
	// The port is chosen by connect, so that it need only be new for the server's
	// address; and close forgets it at once, where it would else be taken for a
	// minute (TIME_WAIT).
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, ipBindAddressNoPort, 1); err != nil {
		return -1, fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
	}
	if err := syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}); err != nil {
		return -1, fmt.Errorf("SO_LINGER: %w", err)
	}
	if stalled {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, stalledBuffer); err != nil {
			return -1, fmt.Errorf("SO_RCVBUF: %w", err)
		}
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, stalledSegment); err != nil {
			return -1, fmt.Errorf("TCP_MAXSEG: %w", err)
		}
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: source}); err != nil {
		return -1, fmt.Errorf("bind to %v: %w", net.IP(source[:]), err)
	}
	// It blocks for as long as the server's queue is full; on loopback that is
	// short, and a timeout of the kernel's ends it.
	err = retry(func() error {
		return syscall.Connect(fd, &syscall.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
	})
	if err != nil && !errors.Is(err, syscall.EISCONN) { // connected before the call was repeated
		return -1, fmt.Errorf("connect to %v: %w", addr, err)
	}
	if _, err := syscall.Write(fd, request); err != nil {
		return -1, fmt.Errorf("send the request: %w", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return -1, fmt.Errorf("set non-blocking: %w", err)
	}
	return fd, nil
}

// retry repeats a system call that a signal interrupted; Go's scheduler sends
// many.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (f *fleet) watch(fd, index int) error {
	e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(index)}
	if err := syscall.EpollCtl(f.epoll, syscall.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// read is the fleet's goroutine.
func (f *fleet) read() {
	defer close(f.stopped)
	events := make([]syscall.EpollEvent, 1024)
	buf := make([]byte, 256<<10)
	for {
		n, err := syscall.EpollWait(f.epoll, events, -1)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil { // only a bug of ours can be the reason
			panic(fmt.Sprintf("epoll_wait: %v", err))
		}
		f.mu.Lock()
		was, done := f.ready+len(f.broken), f.open == 0
		for _, e := range events[:n] {
			if e.Fd < 0 {
				f.mu.Unlock()
				return
			}
			f.serve(int(e.Fd), buf)
		}
		if f.ready+len(f.broken) != was || f.open == 0 && !done {
			f.tell()
		}
		f.mu.Unlock()
	}
}

// serve reads what has come for one client, once: the next round brings the
// rest. Called with mu.
func (f *fleet) serve(index int, buf []byte) {
	if index >= len(f.clients) || f.clients[index].fd < 0 {
		return // closed since
	}
	c := &f.clients[index]
	// It never blocks, so the scheduler need not know.
	got, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	n := int(got)
	switch {
	case errno == syscall.EINTR, errno == syscall.EAGAIN:
		return
	case errno != 0:
		f.drop(index, errno)
		return
	case n == 0:
		f.drop(index, io.EOF)
		return
	}
	f.tally.Bytes += uint64(n)
	f.tally.Reads++
	now := time.Now()
	f.since = now.Sub(f.begin)
	before := f.tally.Delivered
	unready := c.status == 0
	f.current = c
	err := c.feed(buf[:n], f)
	if f.tally.Delivered > before {
		if before == 0 {
			f.tally.First = now
		}
		f.tally.Last = now
	}
	if err == nil {
		err = c.check()
	}
	if err == nil && c.gzip && c.status != 0 && c.zip == nil {
		err = errNotCompressed
	}
	if err != nil {
		f.drop(index, err)
		return
	}
	if unready && c.status != 0 {
		f.ready++
		f.answers.add(time.Duration(now.UnixNano() - c.asked))
		if c.stalled {
			if err := syscall.EpollCtl(f.epoll, syscall.EPOLL_CTL_DEL, c.fd, nil); err != nil {
				f.drop(index, fmt.Errorf("epoll: %w", err))
			}
		}
	}
}

// message, other and ping make the fleet a sink: of what the current client
// reads. Called with mu.
func (f *fleet) message(m message) {
	if m.seq < f.plan.First || m.seq >= f.end {
		return // of no step: expect comes before whatever is sent
	}
	i := int(m.seq - f.plan.First)
	if f.plan.Channels > 1 {
		if f.plan.channel(i) != int(f.current.channel) {
			f.other("message", fmt.Sprintf("%d, which is of channel %d, at a client of channel %d", m.seq, f.plan.channel(i), f.current.channel))
			return
		}
		i = f.plan.place(i)
	}
	switch f.current.take(uint32(i)) {
	case inOrder, early:
	case late:
		f.tally.Late++
	case repeated:
		f.tally.Repeated++
		return
	case ignored:
		return
	}
	f.tally.Delivered++
	f.open--
	f.tally.Latency.add(f.since - m.due)
}

func (f *fleet) other(name, text string) {
	f.tally.Other++
	f.tally.Oddity = fmt.Sprintf("event %s: %.200s", name, text)
}

func (f *fleet) ping(payload []byte) {
	// A client's frames are masked; a mask of zeros changes nothing.
	pong := append([]byte{0x80 | opPong, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	_, _ = syscall.Write(f.current.fd, pong) // where that fails, reading does as well
}

// drop closes a client whose stream has ended. Called with mu.
func (f *fleet) drop(index int, why error) {
	if errors.Is(why, io.EOF) {
		why = errEnded
	}
	c := &f.clients[index]
	closeFDs(c.fd)
	c.fd = -1
	f.broken = append(f.broken, fmt.Errorf("client %d: %w", index, why))
}

// tell wakes who waits.
func (f *fleet) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// wait returns when until, which is called with mu, is true. It returns an
// error when a client breaks or ctx ends first. One caller at a time.
func (f *fleet) wait(ctx context.Context, until func() bool) error {
	for {
		f.mu.Lock()
		ok, broken := until(), slices.Clone(f.broken)
		f.mu.Unlock()
		switch {
		case len(broken) == 1:
			return broken[0]
		case len(broken) > 1:
			return fmt.Errorf("%d clients broke, the first: %w", len(broken), broken[0])
		case ok:
			return nil
		}
		select {
		case <-f.news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// expect begins a step: from now on the tally counts the messages of p. Those
// before are not looked at any more.
func (f *fleet) expect(p plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.begin, f.end = p, p.start(), p.First+uint32(p.Count)
	f.tally = tally{}
	f.open = 0
	for i := range f.clients {
		f.clients[i].expect(0)
		if !f.clients[i].stalled {
			f.open += p.each()
		}
	}
}

// arrived waits until every client that reads has every message of the step.
func (f *fleet) arrived(ctx context.Context) error {
	return f.wait(ctx, func() bool { return f.open == 0 })
}

// result is the tally so far.
func (f *fleet) result() tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tally
	for i := range f.clients {
		if c := &f.clients[i]; !c.stalled {
			t.Lost += c.missing(uint32(f.plan.each()))
		}
	}
	return t
}

// shorten closes the clients behind the first n.
func (f *fleet) shorten(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := n; i < len(f.clients); i++ {
		if c := &f.clients[i]; c.fd >= 0 {
			closeFDs(c.fd)
			c.fd = -1
		}
		if f.clients[i].status != 0 {
			f.ready--
		}
	}
	f.clients = f.clients[:n]
	if n == 0 {
		f.broken = nil
	}
}

// close ends all connections and the reader. Call it once.
func (f *fleet) close() {
	_, _ = syscall.Write(f.wake[1], []byte{0}) // the pipe is empty: it takes a byte
	<-f.stopped
	for i := range f.clients {
		if fd := f.clients[i].fd; fd >= 0 {
			closeFDs(fd)
		}
	}
	closeFDs(f.epoll, f.wake[0], f.wake[1])
}

// errNotCompressed is an answer without Content-Encoding where one was wanted.
var errNotCompressed = errors.New("the answer is not compressed")

// closeFDs closes descriptors; nothing was written that a failure could lose.
func closeFDs(fds ...int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
