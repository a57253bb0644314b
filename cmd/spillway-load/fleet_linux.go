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
)

// A fleet is many clients of one server that read Server-Sent Events on bare
// sockets: one goroutine, one epoll, no state per client but a stream and an
// order, so that the generator costs the machine as little as it can.
type fleet struct {
	epoll   int
	wake    [2]int // a pipe; what is written to it ends the reader
	stopped chan struct{}

	// news receives when ready, the tally or broken may have changed enough
	// for somebody who waits. It holds one.
	news chan struct{}

	mu      sync.Mutex
	clients []client
	ready   int // clients with status 200
	broken  []error
	begin   time.Time // of the step, which due times count from
	end     uint32    // sequence number behind the step's last
	open    int       // messages of the step that have not come
	tally   tally
}

type client struct {
	fd int // -1: gone
	stream
	order
}

// A tally is what a fleet saw since expect, of all clients together.
type tally struct {
	delivered uint64 // messages of the step, each counted once per client
	repeated  uint64
	late      uint64 // came behind a later one
	other     uint64 // events that are no messages: gaps, errors
	bytes     uint64 // read from sockets
	reads     uint64
	first     time.Time // when the first message came
	last      time.Time // when the last one did
	latency   histogram
	oddity    string // one of other, as an example
}

// openFleet makes a fleet of n clients that are not connected yet.
func openFleet(n int) (*fleet, error) {
	f := &fleet{stopped: make(chan struct{}), news: make(chan struct{}, 1), clients: make([]client, n)}
	for i := range f.clients {
		f.clients[i].fd = -1
	}
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

// connect opens a stream of path at addr for each client, and returns when each
// has been answered with 200. The clients' addresses are spread over
// 127.0.0.0/8, since one address has only some 28,000 ports. Call it once.
func (f *fleet) connect(ctx context.Context, addr netip.AddrPort, path string) error {
	request := "GET " + path + " HTTP/1.1\r\nHost: " + addr.String() + "\r\nAccept: text/event-stream\r\n\r\n"
	n := len(f.clients)
	for i := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		fd, err := dial(sourceOf(i), addr, request)
		if err != nil {
			return fmt.Errorf("client %d of %d: %w", i+1, n, err)
		}
		f.mu.Lock()
		f.clients[i].fd = fd
		f.mu.Unlock()
		if err := f.watch(fd, i); err != nil {
			return err
		}
	}
	if err := f.wait(ctx, func() bool { return f.ready == n }); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		return fmt.Errorf("%d of %d clients were answered: %w", f.ready, n, err)
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

// dial connects from source to addr and sends the request.
func dial(source [4]byte, addr netip.AddrPort, request string) (fd int, err error) {
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
	if _, err := syscall.Write(fd, []byte(request)); err != nil {
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
	events := make([]syscall.EpollEvent, 512)
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
	c := &f.clients[index]
	if c.fd < 0 {
		return
	}
	n, err := syscall.Read(c.fd, buf)
	switch {
	case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN):
		return
	case err != nil:
		f.drop(index, err)
		return
	case n == 0:
		f.drop(index, io.EOF)
		return
	}
	f.tally.bytes += uint64(n)
	f.tally.reads++
	now := time.Now()
	since := now.Sub(f.begin)
	before := f.tally.delivered
	unready := c.status == 0
	err = c.feed(buf[:n], func(a arrival) {
		if !a.ok {
			f.tally.other++
			f.tally.oddity = fmt.Sprintf("event %s: %.200s", a.name, a.text)
			return
		}
		switch c.take(a.seq) {
		case inOrder, early:
		case late:
			f.tally.late++
		case repeated:
			f.tally.repeated++
			return
		case ignored:
			return
		}
		if a.seq >= f.end {
			return // of no step: expect comes before whatever is sent
		}
		f.tally.delivered++
		f.open--
		f.tally.latency.add(since - a.due)
	})
	if f.tally.delivered > before {
		if before == 0 {
			f.tally.first = now
		}
		f.tally.last = now
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		f.drop(index, err)
		return
	}
	if unready && c.status != 0 {
		f.ready++
	}
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
	f.begin, f.end = p.Start, p.First+uint32(p.Count)
	f.open = p.Count * len(f.clients)
	f.tally = tally{}
	for i := range f.clients {
		f.clients[i].expect(p.First)
	}
}

// arrived waits until every client has every message of the step.
func (f *fleet) arrived(ctx context.Context) error {
	return f.wait(ctx, func() bool { return f.open == 0 })
}

// result is the tally so far, and how many messages are missing.
func (f *fleet) result() (t tally, lost int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.clients {
		lost += f.clients[i].missing(f.end)
	}
	return f.tally, lost
}

// close ends all connections and the reader. Call it once.
func (f *fleet) close() {
	_, _ = syscall.Write(f.wake[1], []byte{0}) // the pipe is empty: it takes a byte
	<-f.stopped
	for _, c := range f.clients {
		if c.fd >= 0 {
			closeFDs(c.fd)
		}
	}
	closeFDs(f.epoll, f.wake[0], f.wake[1])
}

// closeFDs closes descriptors; nothing was written that a failure could lose.
func closeFDs(fds ...int) {
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}
