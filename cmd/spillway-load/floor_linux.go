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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// The floor is the least that any server could do for the same clients: it
// makes the messages itself, when they are due, and sends the same bytes to
// every socket, with one system call per client and group of messages. No
// broker, no cursors, no other requests, no limits.
//
// It keeps what is due in one run of bytes per channel, with a place in it per
// client, so that it sends more at once when it is late, as a good server does.
//
// Its command is a plan, its answer a floorAnswer when all has been sent. It
// does not notice when clients go; a plan of no messages makes it drop them all.
// The C floor (floor.c) is the same program in C.

// A floorAnswer follows each command; the first one comes at the start, with
// the address.
type floorAnswer struct {
	Addr   string `json:"addr,omitempty"`
	Err    string `json:"err,omitempty"`
	Writes uint64 `json:"writes"` // system calls that sent something, since it began
}

// floorID is the id of each event. It is as long as the server's, so that both
// write the same number of bytes.
const floorID = "1-hi3hk-4fz1q.1.2s00"

// What stands before and behind a message in its event.
const (
	eventFront = "event: message\nid: " + floorID + "\ndata: "
	eventEnd   = "\n\n"
)

// channelName is what clients ask for as /events/<channel>/.
func channelName(channel int) string { return "c" + strconv.Itoa(channel) }

// channelOf is the channel that a path names; 0 where it names none.
func channelOf(path string) int {
	name, ok := strings.CutPrefix(path, "/events/c")
	if !ok {
		return 0
	}
	name, _, _ = strings.Cut(name, "/")
	n, err := strconv.Atoi(name)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

type floor struct {
	mu     sync.Mutex
	conns  []net.Conn  // guarded by mu; they keep the descriptors open
	joined []floorSlot // guarded by mu; those that the next step begins with

	// Of a step.
	slots  []floorSlot // by channel
	runs   []floorRun  // of each channel
	writes uint64
}

// A floorSlot is a client.
type floorSlot struct {
	fd      int // -1: gone
	channel int
	sent    int // of the channel's run
}

// A floorRun is what a channel's clients are sent in a step.
type floorRun struct {
	bytes       []byte
	first, last int // slots[first:last] are its clients
	dirty       bool
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
		a.Writes = f.writes
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
	slot := floorSlot{channel: channelOf(request.URL.Path)}
	if err := raw.Control(func(fd uintptr) { slot.fd = int(fd) }); err != nil {
		c.Close()
		return
	}
	f.mu.Lock()
	f.conns = append(f.conns, c)
	f.joined = append(f.joined, slot)
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
	f.conns, f.joined, f.slots = nil, nil, nil
}

// begin takes in who has joined, and forgets what was sent.
func (f *floor) begin(channels int) {
	f.mu.Lock()
	f.slots = append(f.slots, f.joined...)
	f.joined = nil
	f.mu.Unlock()
	slices.SortStableFunc(f.slots, func(a, b floorSlot) int { return a.channel - b.channel })
	if len(f.runs) != channels {
		f.runs = make([]floorRun, channels)
	}
	at := 0
	for i := range f.runs {
		r := &f.runs[i]
		r.bytes, r.first = r.bytes[:0], at
		for at < len(f.slots) && f.slots[at].channel == i {
			f.slots[at].sent = 0
			at++
		}
		r.last = at
	}
}

// send carries out a plan.
func (f *floor) send(ctx context.Context, p plan) error {
	f.begin(max(p.Channels, 1))
	var event []byte
	var dirty []int // channels
	err := p.pace(ctx, func(from, to int) error {
		err := p.groups(from, to, func(channel, from, to int) error {
			r := &f.runs[channel]
			for i := from; i < to; i++ {
				event = append(event[:0], eventFront...)
				event = p.message(event, i)
				event = append(event, eventEnd...)
				r.bytes = strconv.AppendInt(r.bytes, int64(len(event)), 16)
				r.bytes = append(r.bytes, "\r\n"...)
				r.bytes = append(r.bytes, event...)
				r.bytes = append(r.bytes, "\r\n"...)
			}
			if !r.dirty {
				r.dirty = true
				dirty = append(dirty, channel)
			}
			return nil
		})
		dirty = f.sweep(dirty)
		return err
	})
	// What the sockets had no room for, as they make room.
	for deadline := time.Now().Add(10 * time.Second); err == nil && len(dirty) > 0; {
		if time.Now().After(deadline) {
			err = errors.New("a client takes nothing")
			break
		}
		select {
		case <-time.After(time.Millisecond):
			dirty = f.sweep(dirty)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	for _, channel := range dirty {
		f.runs[channel].dirty = false
	}
	return err
}

// sweep sends to the clients of those channels what they have not been sent, as
// far as their sockets have room, and returns the channels with clients that
// are still behind.
func (f *floor) sweep(dirty []int) (behind []int) {
	behind = dirty[:0]
	for _, channel := range dirty {
		r := &f.runs[channel]
		r.dirty = false
		for i := r.first; i < r.last; i++ {
			s := &f.slots[i]
			rest := r.bytes[s.sent:]
			if len(rest) == 0 || s.fd < 0 {
				continue
			}
			// The descriptor is non-blocking, so the scheduler need not know.
			n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(s.fd),
				uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)), syscall.MSG_NOSIGNAL, 0, 0)
			f.writes++
			switch errno {
			case 0:
				s.sent += int(n)
			case syscall.EAGAIN, syscall.EINTR:
			default: // the client is gone; drop closes it
				s.fd = -1
				continue
			}
			r.dirty = r.dirty || s.sent < len(r.bytes)
		}
		if r.dirty {
			behind = append(behind, channel)
		}
	}
	return behind
}
