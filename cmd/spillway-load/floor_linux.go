package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// The floor is the least that any server could do for the same clients: it
// makes the messages itself, when they are due, and writes the same bytes to
// every socket, with one system call per client and group of messages. No
// broker, no cursors, no other requests, no limits.
//
// It keeps what is due in one run of bytes, with a place in it per client, so
// that it writes more at once when it is late, as a good server does.
//
// Its command is a plan, its answer a floorAnswer when all has been written. It
// does not notice when clients go; a plan of no messages makes it drop them all.

// A floorAnswer follows each command; the first one comes at the start, with
// the address.
type floorAnswer struct {
	Addr string `json:"addr,omitempty"`
	Err  string `json:"err,omitempty"`
}

// floorID is the id of each event. It is as long as the server's, so that both
// write the same number of bytes.
const floorID = "1-hi3hk-4fz1q.1.2s00"

type floor struct {
	mu    sync.Mutex
	conns []*floorConn // guarded by mu; those of a step are taken out meanwhile

	bytes []byte // of the step, so far
}

type floorConn struct {
	net.Conn // keeps fd open
	fd       uintptr
	sent     int // of floor.bytes
}

func runFloor(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	f := new(floor)
	go f.accept(ln) // ends with the process
	answers := json.NewEncoder(stdout)
	if err := answers.Encode(floorAnswer{Addr: ln.Addr().String()}); err != nil {
		return err
	}
	commands := json.NewDecoder(stdin)
	for {
		var p plan
		if err := commands.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		var a floorAnswer
		if p.Count == 0 {
			f.drop()
		} else if err := f.send(ctx, p); err != nil {
			a.Err = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

func (f *floor) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // the process ends
		}
		go f.greet(c) // ends with the head that it waits for, or the client
	}
}

// greet answers the request and gives the connection to the floor.
func (f *floor) greet(c net.Conn) {
	request, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		c.Close()
		return
	}
	request.Body.Close() // a GET has none
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		c.Close()
		return
	}
	conn := &floorConn{Conn: c}
	if err := raw.Control(func(fd uintptr) { conn.fd = fd }); err != nil {
		c.Close()
		return
	}
	f.mu.Lock()
	f.conns = append(f.conns, conn)
	f.mu.Unlock()
	// The client counts as connected when it has this, so it comes last.
	_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	if err != nil { // the next write to it fails as well
		return
	}
}

func (f *floor) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

// send carries out a plan.
func (f *floor) send(ctx context.Context, p plan) error {
	f.mu.Lock()
	conns := f.conns
	f.conns = nil
	f.mu.Unlock()
	for _, c := range conns {
		c.sent = 0
	}
	f.bytes = f.bytes[:0]
	var event []byte
	err := p.pace(ctx, func(from, to int) error {
		for i := from; i < to; i++ {
			event = append(event[:0], "event: message\nid: "...)
			event = append(event, floorID...)
			event = append(event, "\ndata: "...)
			event = message{seq: p.First + uint32(i), due: p.due(i)}.append(event, p.Size)
			event = append(event, "\n\n"...)
			f.bytes = fmt.Appendf(f.bytes, "%x\r\n%s\r\n", len(event), event)
		}
		conns = f.sweep(conns)
		return nil
	})
	// What the sockets had no room for, as they make room.
	for deadline := time.Now().Add(10 * time.Second); err == nil && f.behind(conns); {
		if time.Now().After(deadline) {
			err = errors.New("a client takes nothing")
			break
		}
		select {
		case <-time.After(time.Millisecond):
			conns = f.sweep(conns)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	f.mu.Lock()
	f.conns = append(f.conns, conns...)
	f.mu.Unlock()
	return err
}

// sweep writes to every client what it has not been sent, as far as its socket
// has room, and returns those that are still there.
func (f *floor) sweep(conns []*floorConn) []*floorConn {
	left := conns[:0]
	for _, c := range conns {
		if rest := f.bytes[c.sent:]; len(rest) > 0 {
			// The descriptor is non-blocking, so the scheduler need not know.
			n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, c.fd, uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)))
			switch errno {
			case 0:
				c.sent += int(n)
			case syscall.EAGAIN, syscall.EINTR:
			default: // the client is gone
				c.Close()
				continue
			}
		}
		left = append(left, c)
	}
	return left
}

func (f *floor) behind(conns []*floorConn) bool {
	for _, c := range conns {
		if c.sent < len(f.bytes) {
			return true
		}
	}
	return false
}
