package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"spillway/grip"
)

// An origin is the role of an HTTP origin behind GRIP proxies which costs as
// little as one can: one thread with an epoll set, and nothing but canned answers.
//
//	GET /CHANNEL        holds a stream
//	GET /poll/CHANNEL   holds a response
//	POST, with events   takes a WebSocket, and says all that it hears
//	POST /publish/      says what a proxy says, the floor of those
type origin struct {
	poll     *poll
	listener int
	clients  map[int][]byte // by descriptor; what has come of a request that is not complete
	out      []byte
}

// An originAnswer says where it listens.
type originAnswer struct {
	Addr string `json:"addr"`
}

// runOrigin plays it until its input ends.
func runOrigin(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := untilEOF(ctx, stdin)
	defer cancel()
	o, addr, err := openOrigin()
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- o.serve() }() // ends with the process
	if err := json.NewEncoder(stdout).Encode(originAnswer{addr.String()}); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func openOrigin() (*origin, netip.AddrPort, error) {
	none := netip.AddrPort{}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, none, fmt.Errorf("socket: %w", err)
	}
	const backlog = 4096
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, backlog)); err != nil {
		closeFDs(fd)
		return nil, none, fmt.Errorf("listen: %w", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		closeFDs(fd)
		return nil, none, fmt.Errorf("getsockname: %w", err)
	}
	p, err := openPoll()
	if err != nil {
		closeFDs(fd)
		return nil, none, err
	}
	if err := p.add(fd, fd); err != nil {
		closeFDs(fd, p.epoll)
		return nil, none, err
	}
	in := name.(*syscall.SockaddrInet4) // what it was bound to
	return &origin{poll: p, listener: fd, clients: make(map[int][]byte)},
		netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)), nil
}

func (o *origin) serve() error {
	for {
		if err := o.poll.wait(forever, o.ready); err != nil {
			return err
		}
	}
}

// ready takes clients, or what one of them says.
func (o *origin) ready(fd int) {
	if fd != o.listener {
		if err := o.hear(fd); err != nil {
			delete(o.clients, fd)
			closeFDs(fd)
		}
		return
	}
	for {
		fd, _, err := syscall.Accept4(o.listener, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
		if err != nil {
			return // there is none, or it has gone again
		}
		// An answer is one write, and goes at once.
		err = errors.Join(syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1), o.poll.add(fd, fd))
		if err != nil {
			closeFDs(fd)
			continue
		}
		o.clients[fd] = nil
	}
}

// hear answers all requests that are complete. An error is the end of the client.
func (o *origin) hear(fd int) error {
	text, err := o.poll.read(fd)
	if err != nil {
		return err
	}
	had := o.clients[fd]
	if len(had) > 0 {
		text = append(had, text...)
	}
	o.out = o.out[:0]
	for len(text) > 0 {
		m, ok, err := parseHTTP(text)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if o.out, err = appendOriginAnswer(o.out, m); err != nil {
			return err
		}
		text = text[m.length:]
	}
	if len(text) > 0 || len(had) > 0 {
		o.clients[fd] = append(had[:0:0], text...)
	}
	if len(o.out) == 0 {
		return nil
	}
	return send(fd, o.out)
}

// publishedBody is a proxy's answer to a request to publish.
const publishedBody = "Published\n"

// appendOriginAnswer appends the answer to a request.
func appendOriginAnswer(dst []byte, m httpMessage) ([]byte, error) {
	method, rest, _ := bytes.Cut(m.line, []byte(" "))
	path, _, _ := bytes.Cut(rest, []byte(" "))
	dst = append(dst, "HTTP/1.1 200 OK\r\n"...)
	if string(path) == "/publish/" {
		return append(dst, "Content-Type: text/plain\r\nContent-Length: 10\r\n\r\n"+publishedBody...), nil
	}
	if string(method) == "POST" {
		return appendEventsAnswer(dst, m.body)
	}
	channel, isPoll := bytes.CutPrefix(path, []byte("/poll/"))
	if isPoll {
		dst = append(dst, "Content-Type: text/plain\r\nGrip-Hold: response\r\nGrip-Timeout: 50\r\nGrip-Channel: "...)
		dst = append(dst, channel...)
		return append(dst, "\r\nContent-Length: 8\r\n\r\nnothing\n"...), nil
	}
	dst = append(dst, "Content-Type: text/event-stream\r\nGrip-Hold: stream\r\nGrip-Channel: "...)
	dst = append(dst, bytes.TrimPrefix(path, []byte("/"))...)
	return append(dst, "\r\nContent-Length: 0\r\n\r\n"...), nil
}

// appendEventsAnswer appends the rest of the answer to events: what was heard, as
// the origin's own words.
func appendEventsAnswer(dst, heard []byte) ([]byte, error) {
	events, err := grip.ParseEvents(heard)
	if err != nil {
		return nil, err
	}
	var said []byte
	dst = append(dst, "Content-Type: application/websocket-events\r\n"...)
	for _, e := range events {
		switch e.Type {
		case grip.EventOpen:
			dst = append(dst, "Sec-WebSocket-Extensions: grip\r\n"...)
			said = grip.AppendEvent(said, e)
		case grip.EventText, grip.EventBinary:
			e.Content = append([]byte("m:"), e.Content...)
			said = grip.AppendEvent(said, e)
		case grip.EventClose:
			said = grip.AppendEvent(said, e)
		}
	}
	dst = fmt.Appendf(dst, "Content-Length: %d\r\n\r\n", len(said))
	return append(dst, said...), nil
}

// An originRole is it as a child.
type originRole struct {
	*child
	addr netip.AddrPort
}

func startOrigin(ctx context.Context) (*originRole, error) {
	c, err := startRole("origin")
	if err != nil {
		return nil, err
	}
	o := &originRole{child: c}
	var a originAnswer
	if err = c.ask(ctx, nil, &a); err == nil {
		o.addr, err = netip.ParseAddrPort(a.Addr)
	}
	if err != nil {
		c.end()
		return nil, fmt.Errorf("origin: %w", err)
	}
	return o, nil
}
