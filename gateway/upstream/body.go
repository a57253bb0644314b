package upstream

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// A Body is the client's request body on its way to the origin. It counts, for
// an answer with GRIP instructions is only accepted to a small request.
type Body struct {
	r      io.ReadCloser
	n      atomic.Int64
	eof    atomic.Bool
	closed atomic.Bool
}

// RequestBody returns the body of the request that resp answers, nil if it had
// none.
func RequestBody(resp *http.Response) *Body {
	if resp.Request == nil {
		return nil
	}
	b, _ := resp.Request.Body.(*Body)
	return b
}

// Bytes returns how many bytes have been read from the client so far.
func (b *Body) Bytes() int64 { return b.n.Load() }

// Done reports whether the body has been read to its end. Before that, the
// client's connection is still being read from and cannot be taken over.
func (b *Body) Done() bool { return b.eof.Load() }

// Read implements io.Reader for the transport.
func (b *Body) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.r.Read(p)
	b.n.Add(int64(n))
	if errors.Is(err, io.EOF) {
		b.eof.Store(true)
	}
	return n, err
}

// Close does nothing: the transport closes the body after each attempt, but the
// next target needs it.
func (b *Body) Close() error { return nil }

// closeBoth ends the request with the response: once the caller is done with
// the answer, its handler may return, and then nobody may read from the client.
type closeBoth struct {
	io.ReadCloser
	request *Body
}

func (c *closeBoth) Close() error {
	c.request.closed.Store(true)
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
