package gateway

import (
	"bufio"
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/time/rate"
)

// A presentation is how proxies say whose connection it is that they pass on, in
// front of its first byte: the PROXY protocol, version 1 or 2.
type presentation struct {
	timeout   time.Duration // for the header
	log       *slog.Logger
	sometimes rate.Sometimes // it is logged
}

// presentedBuffer is how much of a header is read at once, in bytes. What came
// behind it is kept.
const presentedBuffer = 256

// A presented is a connection that begins with a header of the PROXY protocol. The
// header is read when somebody wants to know the client or its bytes, which is on
// the connection's own goroutine.
type presented struct {
	net.Conn
	by      *cappedConn
	trusted bool

	once sync.Once
	rest []byte // that came behind the header, and was not read yet
	err  error  // there is no more to read
}

// NetConn is for who takes the connection over.
func (p *presented) NetConn() net.Conn { return p.Conn }

func (p *presented) Read(b []byte) (int, error) {
	p.introduce()
	if p.err != nil {
		return 0, p.err
	}
	if len(p.rest) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.rest)
	if p.rest = p.rest[n:]; len(p.rest) == 0 {
		p.rest = nil
	}
	return n, nil
}

// introduce reads the header, once.
func (p *presented) introduce() {
	p.once.Do(func() {
		l := p.by.seat.of
		if !p.trusted {
			p.refuse(http.StatusForbidden, "connections must come by a proxy of TRUSTED_PROXIES, since PROXY_PROTOCOL is on", nil)
			return
		}
		_ = p.Conn.SetReadDeadline(time.Now().Add(l.presented.timeout))
		r := bufio.NewReaderSize(p.Conn, presentedBuffer)
		h, err := proxyproto.Read(r)
		_ = p.Conn.SetReadDeadline(time.Time{}) // net/http sets its own
		if err != nil {
			p.refuse(http.StatusBadRequest, "a connection of this proxy must begin with a PROXY protocol header, since PROXY_PROTOCOL is on", err)
			return
		}
		early, _ := r.Peek(r.Buffered()) // they are there
		p.rest = bytes.Clone(early)
		if source, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command.IsProxy() {
			p.by.seat.client = source
		}
		client := addressIn(p.by.client().String())
		if !isTrusted(client, l.trusted) && !p.by.keepsPace(client) {
			p.err = net.ErrClosed
			_ = p.Conn.Close()
		}
	})
}

// refuse ends the connection, and says why to the client and the log.
func (p *presented) refuse(status int, text string, err error) {
	l := p.by.seat.of
	p.err = net.ErrClosed
	l.refused[refusedPresented].Inc()
	l.presented.sometimes.Do(func() {
		l.presented.log.Warn("connection refused: "+text, "peer", p.Conn.RemoteAddr().String(), "err", err)
	})
	p.by.say(status, text)
	_ = p.Conn.Close()
}
