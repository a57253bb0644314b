package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// A stream reads the response to one request for Server-Sent Events, in pieces
// of any size: the head, the chunks of HTTP/1.1 where there are any, the lines,
// the events. It keeps at most the beginning of one line, so that ten thousand
// of them cost little.
//
// It understands what servers write, not all that they might: lines end with LF
// or CRLF, never with CR alone, and the generator's messages are one line.
type stream struct {
	phase  phase
	status int    // of the response; 0 before its head has come
	left   int    // bytes left of the chunk
	digits int    // of the chunk's size, so far
	line   []byte // the beginning of a line, or of the head, whose end has not come

	// The event whose blank line has not come.
	msg   message
	has   bool   // a message
	data  bool   // some data, a message or not
	other string // its name, unless "message"
	text  []byte // its data, for names other than "message"
}

type phase uint8

const (
	inHead     phase = iota
	inBody           // without chunks: until the connection ends
	inSize           // digits of a chunk's size
	inSizeRest       // behind the digits
	inChunk
	behindChunk // its CRLF
	ended       // the last chunk, which is empty, has come
)

// An arrival is one event of a stream.
type arrival struct {
	message
	ok bool // the event is one of the generator's messages

	// Of other events: the name ("message" for a foreign record) and the data
	// where the name came first.
	name, text string
}

const (
	maxHead = 64 << 10
	maxLine = 4 << 20
)

// feed takes the next bytes of the response and calls on for each event that
// ends in them. It returns io.EOF when the response has ended, and an error when
// it is none that a stream can have. p is not kept.
func (s *stream) feed(p []byte, on func(arrival)) error {
	for len(p) > 0 {
		switch s.phase {
		case inHead:
			n, err := s.head(p)
			if err != nil {
				return err
			}
			p = p[n:]
		case inBody:
			return s.lines(p, on)
		case inSize:
			c := p[0] | 0x20
			d, ok := hex([]byte{c})
			switch {
			case ok && s.digits < 7:
				s.left, s.digits = s.left<<4|int(d), s.digits+1
				p = p[1:]
			case s.digits == 0 || ok:
				return fmt.Errorf("chunk size: unexpected %q after %d digits", p[0], s.digits)
			default:
				s.digits, s.phase = 0, inSizeRest
			}
		case inSizeRest:
			i := bytes.IndexByte(p, '\n')
			if i < 0 {
				return nil
			}
			p, s.phase = p[i+1:], inChunk
			if s.left == 0 {
				s.phase = ended
			}
		case inChunk:
			n := min(s.left, len(p))
			if err := s.lines(p[:n], on); err != nil {
				return err
			}
			p = p[n:]
			if s.left -= n; s.left == 0 {
				s.phase = behindChunk
			}
		case behindChunk:
			switch p[0] {
			case '\r':
			case '\n':
				s.phase = inSize
			default:
				return fmt.Errorf("chunk: goes on behind its end with %q", p[0])
			}
			p = p[1:]
		case ended:
			return io.EOF // trailers say nothing to us
		}
	}
	if s.phase == ended {
		return io.EOF
	}
	return nil
}

// head takes as much of p as belongs to the response's head.
func (s *stream) head(p []byte) (n int, err error) {
	had := len(s.line)
	s.line = append(s.line, p...)
	end := bytes.Index(s.line, []byte("\r\n\r\n"))
	if end < 0 {
		if len(s.line) > maxHead {
			return 0, fmt.Errorf("head: more than %d bytes", maxHead)
		}
		return len(p), nil
	}
	end += 4
	// The request was a GET: it decides what may follow.
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(s.line[:end])), nil)
	if err != nil {
		return 0, fmt.Errorf("head: %w", err)
	}
	resp.Body.Close() // nothing of it is there
	s.line, s.status, s.phase = nil, resp.StatusCode, inBody
	if slices.Contains(resp.TransferEncoding, "chunked") {
		s.phase = inSize
	}
	return end - had, nil
}

// lines reads a piece of the body.
func (s *stream) lines(p []byte, on func(arrival)) error {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			if s.line = append(s.line, p...); len(s.line) > maxLine {
				return fmt.Errorf("a line of more than %d bytes", maxLine)
			}
			return nil
		}
		line := p[:i]
		p = p[i+1:]
		if len(s.line) > 0 {
			s.line = append(s.line, line...)
			s.field(s.line, on)
			s.line = s.line[:0]
			continue
		}
		s.field(line, on)
	}
	return nil
}

// field reads one line without its LF (HTML, "Server-sent events", §9.2.6).
func (s *stream) field(line []byte, on func(arrival)) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) == 0 {
		if s.data {
			on(s.event())
		}
		s.has, s.data, s.other = false, false, ""
		return
	}
	switch line[0] {
	case 'd':
		if rest, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			rest = bytes.TrimPrefix(rest, []byte(" "))
			s.data = true
			if s.other != "" {
				s.text = append(s.text[:0], rest...)
				return
			}
			s.msg, s.has = parseMessage(rest)
		}
	case 'e':
		if rest, ok := bytes.CutPrefix(line, []byte("event:")); ok {
			if rest = bytes.TrimPrefix(rest, []byte(" ")); string(rest) != "message" {
				s.other = string(rest)
			}
		}
	}
}

// event makes an arrival of the event that has ended.
func (s *stream) event() arrival {
	switch {
	case s.other != "":
		a := arrival{name: s.other, text: string(s.text)}
		s.text = nil
		return a
	case s.has:
		return arrival{message: s.msg, ok: true}
	default:
		return arrival{name: "message"}
	}
}

// check says what is wrong with the head, if it has come.
func (s *stream) check() error {
	if s.status != 0 && s.status != http.StatusOK {
		return fmt.Errorf("status %d %s", s.status, http.StatusText(s.status))
	}
	return nil
}

// errEnded is a stream that the server ended.
var errEnded = errors.New("the server ended the stream")
