package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// wholeEvents is a transport whose streams hold whole events only, as the
// r3labs client needs them: it takes the torn half of an event at the end of a
// connection for an event, and half an id is a valid cursor of another place.
type wholeEvents struct{ http.RoundTripper }

func (w wholeEvents) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(req)
	if err == nil && isStream(resp) {
		resp.Body = newEventReader(resp.Body)
	}
	return resp, err
}

// An eventReader passes on the blocks of an event stream, each when its blank
// line has arrived, with LF as the only line end (CR, LF and CRLF end a line:
// HTML, "Server-sent events", §9.2.5), and without comments or a byte order
// mark. A block of comments alone is dropped. Every block begins with the
// default event name, which another event field overrides: without a name and
// an id the client would drop an event whose data is empty.
type eventReader struct {
	io.Closer
	in *bufio.Reader

	begun  bool   // the first line has been read
	skipLF bool   // the last line ended with CR: an LF that follows is part of it
	block  []byte // lines so far of the block being read, each with its LF
	ready  []byte // of the last whole block, what Read has not given out yet
}

func newEventReader(body io.ReadCloser) *eventReader {
	return &eventReader{in: bufio.NewReader(body), Closer: body}
}

var byteOrderMark = []byte("\ufeff")

// Read returns io.EOF at the end of the stream, and drops an unfinished block.
func (r *eventReader) Read(p []byte) (int, error) {
	for len(r.ready) == 0 {
		line, err := r.line()
		if err != nil {
			return 0, err
		}
		if !r.begun {
			r.begun = true
			line = bytes.TrimPrefix(line, byteOrderMark)
		}
		switch {
		case len(line) > 0 && line[0] == ':':
		case len(line) > 0:
			if len(r.block) == 0 {
				r.block = append(r.block, "event: message\n"...)
			}
			r.block = append(append(r.block, line...), '\n')
		case len(r.block) > 0:
			r.ready = append(r.block, '\n')
			r.block = nil
		}
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// line reads a line and returns it without its end. A line that ends with CR
// is returned at once, without waiting for a byte that may be an LF.
func (r *eventReader) line() ([]byte, error) {
	var line []byte
	for {
		if _, err := r.in.Peek(1); err != nil {
			return nil, err
		}
		buf, _ := r.in.Peek(r.in.Buffered()) // what is there already: cannot fail
		skip := r.skipLF && buf[0] == '\n'
		r.skipLF = false
		if skip {
			_, _ = r.in.Discard(1)
			continue
		}
		if i := bytes.IndexAny(buf, "\r\n"); i >= 0 {
			line = append(line, buf[:i]...)
			r.skipLF = buf[i] == '\r'
			_, _ = r.in.Discard(i + 1)
			return line, nil
		}
		line = append(line, buf...)
		_, _ = r.in.Discard(len(buf))
		if len(line)+len(r.block) > maxTailEvent {
			return nil, errTooLarge
		}
	}
}

var errTooLarge = fmt.Errorf("an event above %d MiB", maxTailEvent>>20)
