package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// A poster posts messages over one connection at a time, since the order of
// those on several is nobody's.
type poster struct {
	to   netip.AddrPort
	path func(channel string) string
	kind string // Content-Type

	// body is that of one request.
	body func(channel string, payloads [][]byte) []byte

	// oneByOne is for a server that closes the connection after each answer.
	// All others are sent postsAtOnce requests before the first is answered.
	oneByOne bool

	conn net.Conn      // nil: none
	in   *bufio.Reader // of conn
	used time.Time
	buf  []byte
}

// postsAtOnce is how many requests are on their way on a connection
// (RFC 9112, 9.3.2). A server that waits for nothing is not slowed by the way
// to us and back, and one that is too slow holds the rest of them back.
const postsAtOnce = 64

// publish posts the payloads, perPost in each request, and returns when all
// have been accepted.
func (p *poster) publish(ctx context.Context, channel string, payloads [][]byte, perPost int) error {
	err := p.post(ctx, channel, payloads, perPost)
	if err != nil {
		p.close() // answers may be on their way
		return fmt.Errorf("publish: %w", err)
	}
	p.used = time.Now()
	return nil
}

func (p *poster) post(ctx context.Context, channel string, payloads [][]byte, perPost int) error {
	if p.oneByOne {
		for begin := 0; begin < len(payloads); begin += perPost {
			if err := p.open(ctx); err != nil {
				return err
			}
			p.buf = p.request(p.buf[:0], channel, payloads[begin:min(begin+perPost, len(payloads))])
			if err := p.all(ctx, [][]byte{p.buf}); err != nil {
				return err
			}
			p.close()
		}
		return nil
	}
	// A server may have closed a connection that nothing was sent on.
	const idle = 5 * time.Second
	if time.Since(p.used) > idle {
		p.close()
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	p.buf = p.buf[:0]
	var requests [][]byte
	for begin := 0; begin < len(payloads); begin += perPost {
		from := len(p.buf)
		p.buf = p.request(p.buf, channel, payloads[begin:min(begin+perPost, len(payloads))])
		requests = append(requests, p.buf[from:len(p.buf):len(p.buf)])
	}
	return p.all(ctx, requests)
}

func (p *poster) open(ctx context.Context) error {
	if p.conn != nil {
		return nil
	}
	conn, err := dialReset(ctx, p.to)
	if err != nil {
		return err
	}
	p.conn, p.in = conn, bufio.NewReader(conn)
	return nil
}

func (p *poster) close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// request appends a request to dst.
func (p *poster) request(dst []byte, channel string, payloads [][]byte) []byte {
	dst = fmt.Appendf(dst, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: ", p.path(channel), p.to, p.kind)
	body := p.body(channel, payloads)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, body...)
}

// all sends the requests and reads their answers.
func (p *poster) all(ctx context.Context, requests [][]byte) error {
	conn, in := p.conn, p.in
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	onTheWay := make(chan struct{}, postsAtOnce)
	gone := make(chan struct{})
	var errAnswer error // set before gone is closed
	go func() {         // ends with the last answer, or with the connection
		defer close(gone)
		for range requests {
			if errAnswer = answered(in); errAnswer != nil {
				conn.Close() // we may be waiting for room in it
				return
			}
			<-onTheWay
		}
	}()
	errSend := func() error {
		out := bufio.NewWriterSize(conn, 64<<10)
		for _, request := range requests {
			select {
			case onTheWay <- struct{}{}:
			default:
				if err := out.Flush(); err != nil {
					return err
				}
				select {
				case onTheWay <- struct{}{}:
				case <-gone:
					return nil // it says why
				}
			}
			if _, err := out.Write(request); err != nil {
				return err
			}
		}
		return out.Flush()
	}()
	if errSend != nil {
		conn.Close()
	}
	<-gone
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(errSend, errAnswer)
}

// answered reads one answer, which has to say that the messages were taken.
func answered(in *bufio.Reader) error {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s: %.200s", resp.Status, text)
	}
	return nil
}

// dialReset connects to a server on loopback. A close of the connection takes
// effect at once: what the server has not read it will not read, and the port
// is free again.
func dialReset(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		return nil, err
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// askStatus sends a request and returns the status of the answer, of which it
// reads no more.
func askStatus(ctx context.Context, to netip.AddrPort, request []byte) (int, error) {
	conn, err := dialReset(ctx, to)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil) //nolint:bodyclose // that would wait for the end of a stream; the connection is closed
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}
