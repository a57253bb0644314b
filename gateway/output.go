package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An output is the response to one client. Every write has writeTimeout: a
// client that takes nothing for that long is given up.
//
// It is an http.ResponseWriter, so that origins may write to it, too.
type output struct {
	http.ResponseWriter
	control      *http.ResponseController
	request      *http.Request
	writeTimeout time.Duration
	contentType  string    // of the head that was sent
	reason       string    // phrase of the status; empty: the standard one
	crossing     *crossing // nil: to a page of the same site
	visit        visit
	client       address
	deadlineAt   time.Time   // the newest that was set
	begun        bool        // the head was sent
	coming       *comingBody // nil: the request has no body
	duplex       bool        // the answer may begin before the request has ended
}

func newOutput(w http.ResponseWriter, r *http.Request, v visit, writeTimeout time.Duration) *output {
	return &output{ResponseWriter: w, control: http.NewResponseController(w), request: r, visit: v, writeTimeout: writeTimeout}
}

// handOver gives the visit to who has the connection from now on; nc is it,
// where it was taken over.
func (o *output) handOver(nc net.Conn) visit {
	v := o.visit
	_, v.seat = bareConn(nc)
	o.visit = visit{}
	return v
}

// Unwrap is for http.ResponseController.
func (o *output) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// writePiece is how much is written under one deadline, in bytes.
const writePiece = 64 << 10

// Write sends p, or holds some of it back until Flush.
func (o *output) Write(p []byte) (n int, err error) {
	for err == nil && n < len(p) {
		piece := p[n:min(len(p), n+writePiece)]
		o.deadline(o.writeTimeout)
		var wrote int
		wrote, err = o.ResponseWriter.Write(piece)
		n += wrote
	}
	o.rest()
	return n, err
}

func (o *output) WriteHeader(status int) {
	o.begun = true
	o.part()
	h := o.Header()
	if o.contentType = h.Get("Content-Type"); o.contentType == "" {
		h["Content-Type"] = nil // or net/http would guess one that the origin never said
	}
	switch c := o.crossing; {
	case c == nil:
	case c.script != nil:
		c.script.reason = o.reason
		o.ResponseWriter.WriteHeader(status)
		return
	default:
		c.allow(h)
	}
	if o.reason != "" {
		if c := phrasedOf(o.request); c != nil {
			c.say(o.request, status, o.reason)
		}
	}
	o.ResponseWriter.WriteHeader(status)
}

// part has net/http close the connection after the last answer that it is good for,
// which is also one that begins before its request has ended. On HTTP/1, and with
// full duplex, net/http would read the rest of that body as the next request, where
// it is long or comes late (RFC 9112, 9.3).
func (o *output) part() {
	if cameInChunks(o.request) || o.duplex && o.request.ProtoMajor < 2 && o.coming != nil && !o.coming.isWhole() {
		o.Header().Set("Connection", "close")
	}
}

// cameInChunks reports whether a request is the last of its connection for what it
// was sent as. It may have had a length, too, which net/http drops unseen: to a proxy
// before us that goes by the length, its body has another end (RFC 9112, 6.1).
func cameInChunks(r *http.Request) bool { return r.ProtoMajor < 2 && len(r.TransferEncoding) > 0 }

// hijack takes the connection over from net/http.
func (o *output) hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := o.control.Hijack()
	if c, ok := nc.(*phrased); ok {
		nc = c.Conn // the head is out
	}
	return nc, rw, err
}

// flush sends what was held back.
func (o *output) flush() error {
	o.deadline(o.writeTimeout)
	err := o.control.Flush()
	o.rest()
	return err
}

// FlushError is for http.ResponseController.
func (o *output) FlushError() error { return o.flush() }

// deadline bounds the writes from now on. Where the connection does not know
// deadlines (a recorder in a test), there are none.
//
// On HTTP/1 one that was set a moment ago will do: to set it is a lock and a
// timer of the runtime, for every batch of every client.
func (o *output) deadline(d time.Duration) {
	at := time.Now().Add(d)
	if o.request.ProtoMajor < 2 && at.Sub(o.deadlineAt) < d/16 {
		return
	}
	o.deadlineAt = at
	_ = o.control.SetWriteDeadline(at)
}

// rest takes the deadline away where it would end a stream that is merely
// quiet: HTTP/2 resets a stream when its time is over, writing or not.
func (o *output) rest() {
	if o.request.ProtoMajor >= 2 {
		_ = o.control.SetWriteDeadline(time.Time{})
	}
}

// done ends the visit, unless it was handed over, and bounds what net/http still
// writes when the handler has returned. The next request on the connection sets
// its own deadlines.
func (o *output) done() {
	if o.coming != nil {
		late := o.coming.leave(o.visit.g != nil)
		if late && !o.begun {
			o.Header().Set("Connection", "close")
			o.text(http.StatusRequestTimeout, "The request's body takes too long.")
		}
		o.request.Body = o.coming.ReadCloser // net/http asks its own how much is left
	}
	if !o.begun {
		o.part() // net/http writes the head
	}
	o.visit.leave()
	if o.request.ProtoMajor < 2 {
		o.deadline(o.writeTimeout)
	}
}

// text answers with one line of text, as Pushpin's own errors do (GRIP
// reference, 1.6).
func (o *output) text(status int, line string) {
	h := o.Header()
	h.Set("Content-Type", "text/plain")
	_ = o.body(status, []byte(line+"\n")) // a client that has left is noticed where its request ends
}

// body sends a whole response.
func (o *output) body(status int, body []byte) error {
	h := o.Header()
	h.Del("Content-Length")
	if o.request.Method != http.MethodHead && bodyAllowed(status) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	o.WriteHeader(status)
	if !bodyAllowed(status) || o.request.Method == http.MethodHead {
		return nil
	}
	_, err := o.Write(body)
	return err
}

// bodyAllowed reports whether a response with this status has a body.
func bodyAllowed(status int) bool { return status >= 200 && status != 204 && status != 304 }

// copy sends a body as it comes. The errors are those of reading and of
// writing.
func (o *output) copy(body io.Reader) (read, write error) {
	buf := make([]byte, 16<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, write := o.Write(buf[:n]); write != nil {
				return nil, write
			}
			if write := o.flush(); write != nil {
				return nil, write
			}
		}
		switch {
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// isSSE reports whether the response is an event stream.
func (o *output) isSSE() bool {
	media, _, _ := strings.Cut(o.contentType, ";")
	return strings.EqualFold(strings.TrimSpace(media), "text/event-stream")
}

// page sends the body of a page as part of a response, and closes the page.
func (o *output) page(p *page) error {
	if len(p.ins.Body) > 0 {
		if _, err := o.Write(p.ins.Body); err != nil {
			p.close()
			return err
		}
	}
	if p.rest == nil {
		return o.flush()
	}
	defer p.rest.Close()
	if err := o.flush(); err != nil { // the head, before who knows when there is more
		return err
	}
	read, write := o.copy(p.rest)
	if read != nil {
		return &brokenPage{read}
	}
	return write
}

// A brokenPage is a page whose body ended early: the client's must, too.
type brokenPage struct{ err error }

func (b *brokenPage) Error() string { return "page: " + b.err.Error() }
func (b *brokenPage) Unwrap() error { return b.err }
