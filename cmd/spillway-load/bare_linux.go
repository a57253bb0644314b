package main

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
	"unsafe"
)

// A poll is an epoll set of bare descriptors, each with a number of its owner's,
// for one goroutine.
type poll struct {
	epoll  int
	events [256]syscall.EpollEvent
	buf    [64 << 10]byte // what was read last
}

func openPoll() (*poll, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &poll{epoll: fd}, nil
}

func (p *poll) close() { closeFDs(p.epoll) }

func (p *poll) add(fd, number int) error {
	e := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(number)}
	if err := syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// forever is a wait without end.
const forever time.Duration = -1

// wait calls ready with the number of each descriptor that something has come
// for, or nothing when the time is over.
func (p *poll) wait(most time.Duration, ready func(number int)) error {
	timeout := int(most.Milliseconds())
	if most == forever {
		timeout = -1
	}
	n, err := syscall.EpollWait(p.epoll, p.events[:], timeout)
	if errors.Is(err, syscall.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll_wait: %w", err)
	}
	for _, e := range p.events[:n] {
		ready(int(e.Fd))
	}
	return nil
}

// read returns what has come, which the next read overwrites; nothing where
// nothing has, and io.EOF at the end.
func (p *poll) read(fd int) ([]byte, error) {
	// It never blocks, so the scheduler need not know.
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p.buf[0])), uintptr(len(p.buf)))
	switch {
	case errno == syscall.EINTR, errno == syscall.EAGAIN:
		return nil, nil
	case errno != 0:
		return nil, errno
	case n == 0:
		return nil, io.EOF
	}
	return p.buf[:n], nil
}

// send sends all of text, which is short: a socket that has no room for it is one
// whose other side has stopped reading.
func send(fd int, text []byte) error {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd),
			uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), syscall.MSG_NOSIGNAL, 0, 0)
		switch {
		case errno == syscall.EINTR:
		case errno != 0:
			return errno
		case int(n) < len(text):
			return syscall.EAGAIN
		default:
			return nil
		}
	}
}
