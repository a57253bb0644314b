package upstream

import (
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// A requestBody is that of a client on its way to the origin.
type requestBody struct {
	r io.ReadCloser

	conn  atomic.Pointer[conn] // to the origin; set before the transport reads
	reads atomic.Bool          // Read was called: a target was connected
	ended sync.Once
	end   chan struct{} // closed by stop

	// Owned by Read, which the transport calls from one goroutine at a time.
	buf  []byte
	rest []byte        // of buf: read, and not yet given out
	err  error         // comes after rest
	got  chan readDone // of the read under way; holds one
}

type readDone struct {
	n   int
	err error
}

// newBody reads r, which has length bytes, -1 if that is unknown.
func newBody(r io.ReadCloser, length int64) *requestBody {
	const most = 32 << 10 // what net/http copies at a time
	if length < 0 || length > most {
		length = most
	}
	return &requestBody{r: r, end: make(chan struct{}), got: make(chan readDone, 1), buf: make([]byte, length)}
}

// Read implements io.Reader for the transport. It returns when the connection
// to the origin is closed, even while the client is silent: net/http waits for
// it before it reports that the origin is gone or the request canceled.
func (b *requestBody) Read(p []byte) (int, error) {
	b.reads.Store(true)
	var gone chan struct{} // nil, which never closes, for a transport not of ours
	if c := b.conn.Load(); c != nil {
		gone = c.closed
	}
	select {
	case <-b.end:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	if len(b.rest) == 0 && b.err == nil {
		// Ends with the read, at the latest when the server closes the body
		// after the handler; got has room, so nobody needs to wait for it.
		go func() {
			n, err := b.r.Read(b.buf)
			b.got <- readDone{n, err}
		}()
		select {
		case <-b.end: // nobody calls Read again, so buf stays the goroutine's
			return 0, http.ErrBodyReadAfterClose
		case <-gone:
			b.stop()
			return 0, net.ErrClosed
		case d := <-b.got:
			b.rest, b.err = b.buf[:d.n], d.err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if len(b.rest) == 0 {
		return n, b.err
	}
	return n, nil
}

// Close implements io.Closer for the transport. A transport that could not
// connect closes the body too, but has not read from it: the next target will.
func (b *requestBody) Close() error {
	if b.reads.Load() {
		b.stop()
	}
	return nil
}

func (b *requestBody) stop() { b.ended.Do(func() { close(b.end) }) }

// closeBoth ends the request with the response: once the caller is done with
// the answer, its handler may return, and then nobody may read from the client.
type closeBoth struct {
	io.ReadCloser
	request *requestBody
}

func (c *closeBoth) Close() error {
	c.request.stop()
	return c.ReadCloser.Close()
}

// decode undoes gzip. None was asked for, but files that are stored compressed
// are served so regardless, and bodies must be plain for items to be appended.
// A part of a compressed file (206) cannot be undone.
func decode(resp *http.Response) {
	encodings := resp.Header.Values("Content-Encoding")
	if len(encodings) != 1 || resp.StatusCode == http.StatusPartialContent {
		return
	}
	if e := strings.ToLower(strings.TrimSpace(encodings[0])); e != "gzip" && e != "x-gzip" {
		return
	}
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	resp.Uncompressed = true
	resp.Body = &gunzip{compressed: resp.Body}
}

// gunzip reads the head of the compressed data only when it is read from, so
// that a response without a body, to HEAD, is none of its business.
type gunzip struct {
	compressed io.ReadCloser
	plain      *gzip.Reader
	err        error
}

func (g *gunzip) Read(p []byte) (int, error) {
	if g.err == nil && g.plain == nil {
		if g.plain, g.err = gzip.NewReader(g.compressed); errors.Is(g.err, io.EOF) {
			g.err = io.EOF // no bytes at all: an empty body
		}
	}
	if g.err != nil {
		return 0, g.err
	}
	return g.plain.Read(p)
}

func (g *gunzip) Close() error { return g.compressed.Close() }
