package ws

import (
	"bufio"
	"bytes"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// Upgrade answers a handshake (RFC 6455, 4.2) and takes the connection over.
// The fields of w.Header() go with the answer. protocol is chosen when the
// client offers it; "" chooses none. compress allows permessage-deflate without
// context takeover on either side, and compressed says that the client takes
// part.
//
// early is what the client sent behind the handshake and has been read already.
// conn has no deadline, and nobody else uses it. On error the client has been
// answered. Whether the client's Origin may do this is not asked here.
func Upgrade(w http.ResponseWriter, r *http.Request, protocol string, compress bool) (conn net.Conn, early []byte, compressed bool, err error) {
	// What is negotiated is said by Accept alone.
	w.Header().Del("Sec-WebSocket-Extensions")
	w.Header().Del("Sec-WebSocket-Protocol")
	opts := &websocket.AcceptOptions{InsecureSkipVerify: true}
	if protocol != "" {
		opts.Subprotocols = []string{protocol}
	}
	if compress {
		opts.CompressionMode = websocket.CompressionNoContextTakeover
	}
	taken := &takeover{ResponseWriter: w, from: hijacker(w)}
	if taken.from != nil { // else Accept says so, before it says 101
		w = taken
	}
	c, err := websocket.Accept(w, r, opts)
	if err != nil {
		return nil, nil, false, err
	}
	// The library's connection has begun nothing, and ends without a byte; its
	// finalizer goes with that.
	_ = c.CloseNow()
	return taken.conn, taken.early, w.Header().Get("Sec-WebSocket-Extensions") != "", nil
}

// hijacker returns what can take over the connection of w, or nil.
func hijacker(w http.ResponseWriter) http.Hijacker {
	for {
		switch v := w.(type) {
		case http.Hijacker:
			return v
		case interface{ Unwrap() http.ResponseWriter }:
			w = v.Unwrap()
		default:
			return nil
		}
	}
}

// takeover keeps the connection that the library takes over, and gives it
// nothing to use.
type takeover struct {
	http.ResponseWriter
	from  http.Hijacker
	conn  net.Conn
	early []byte
}

func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := t.from.Hijack()
	if err != nil {
		return nil, nil, err
	}
	t.conn = conn
	if n := rw.Reader.Buffered(); n > 0 {
		b, _ := rw.Reader.Peek(n) // it is there
		t.early = bytes.Clone(b)
	}
	// 16 bytes is the least that bufio makes.
	none := noConn{}
	return none, bufio.NewReadWriter(bufio.NewReaderSize(none, 16), bufio.NewWriterSize(none, 1)), nil
}

// noConn is a connection that can only be closed.
type noConn struct{ net.Conn }

func (noConn) Close() error { return nil }
