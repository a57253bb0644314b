package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// A stream reads the response to one request, in pieces of any size: the head,
// then Server-Sent Events (in chunks of HTTP/1.1 or until the connection ends,
// compressed with gzip or not), or after a 101 WebSocket messages. It keeps at
// most the beginning of one line, so that ten thousand of them cost little.
//
// It understands what servers write, not all that they might: lines end with LF
// or CRLF, never with CR alone, the generator's messages are one line, and
// WebSocket messages are not fragmented.
type stream struct {
	phase  phase
	status int    // of the response; 0 before its head has come
	left   int    // bytes left of the chunk
	digits int    // of the chunk's size, so far
	line   []byte // the beginning of a line, of the head or of a frame, whose end has not come
	zip    *gunzip

	// inflater is what a compressed stream uses, shared with others; nil: its own.
	inflater *inflater

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
	inFrames    // of a WebSocket
)

// A sink is told what a stream holds.
type sink interface {
	// message is called for each of the generator's messages.
	message(m message)

	// other is called for an event that is none of them: its name ("message"
	// for a foreign record), and its data where the name came first.
	other(name, text string)

	// ping is called for a WebSocket's ping, whose payload is not kept.
	ping(payload []byte)
}

const (
	maxHead = 64 << 10
	maxLine = 4 << 20
)

// feed takes the next bytes of the response and tells to about each event that
// ends in them. It returns io.EOF when the response has ended, and an error when
// it is none that a stream can have. p is not kept.
func (s *stream) feed(p []byte, to sink) error {
	for len(p) > 0 {
		switch s.phase {
		case inHead:
			n, err := s.head(p)
			if err != nil {
				return err
			}
			p = p[n:]
		case inBody:
			return s.body(p, to)
		case inFrames:
			return s.frames(p, to)
		case inSize:
			if n := s.wholeSize(p); n > 0 {
				p = p[n:]
				continue
			}
			c := p[0] | 0x20
			d := hexDigits[c]
			switch {
			case d != notHex && s.digits < 7:
				s.left, s.digits = s.left<<4|int(d), s.digits+1
				p = p[1:]
			case s.digits == 0 || d != notHex:
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
			if err := s.body(p[:n], to); err != nil {
				return err
			}
			p = p[n:]
			if s.left -= n; s.left == 0 {
				s.phase = behindChunk
			}
		case behindChunk:
			if len(p) >= 2 && p[0] == '\r' && p[1] == '\n' {
				p, s.phase = p[2:], inSize
				continue
			}
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

// wholeSize reads the line with a chunk's size, where all of it is there and as
// short as servers write it, and returns its length; else 0, and the line is
// read byte by byte.
func (s *stream) wholeSize(p []byte) int {
	if s.digits > 0 {
		return 0
	}
	size := 0
	for i := 0; i < min(len(p)-1, 7); i++ {
		if p[i] == '\r' && p[i+1] == '\n' && size > 0 {
			s.left, s.phase = size, inChunk
			return i + 2
		}
		d := hexDigits[p[i]]
		if d == notHex {
			return 0
		}
		size = size<<4 | int(d)
	}
	return 0
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
	switch coding := resp.Header.Get("Content-Encoding"); {
	case s.status == http.StatusSwitchingProtocols:
		s.phase = inFrames
		return end - had, nil
	case coding == "gzip":
		if s.inflater == nil {
			s.inflater = new(inflater)
		}
		s.zip = &gunzip{inflater: s.inflater}
	case coding != "" && coding != "identity":
		return 0, fmt.Errorf("head: Content-Encoding: %s", coding)
	}
	if slices.Contains(resp.TransferEncoding, "chunked") {
		s.phase = inSize
	}
	return end - had, nil
}

// body reads a piece of the body, without its chunks.
func (s *stream) body(p []byte, to sink) error {
	if s.zip == nil {
		return s.lines(p, to)
	}
	return s.zip.feed(p, func(plain []byte) error { return s.lines(plain, to) })
}

// lines reads a piece of the text.
func (s *stream) lines(p []byte, to sink) error {
	for len(p) > 0 {
		if len(s.line) == 0 && !s.data && s.other == "" {
			if n := wholeEvents(p, to); n > 0 {
				p = p[n:]
				continue
			}
		}
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
			s.field(s.line, to)
			s.line = s.line[:0]
			continue
		}
		s.field(line, to)
	}
	return nil
}

const (
	eventPrefix = "event: message\nid: "
	dataPrefix  = "data: "
)

// wholeEvents reads the events at the beginning of p that are written as
// Spillway writes them, with all their lines in p, and returns their length. It
// is what the generator does most of the time.
func wholeEvents(p []byte, to sink) (n int) {
	for {
		rest := p[n:]
		if len(rest) < len(eventPrefix) || string(rest[:len(eventPrefix)]) != eventPrefix {
			return n
		}
		at := bytes.IndexByte(rest[len(eventPrefix):], '\n') + len(eventPrefix) + 1 // len(eventPrefix) if there is none
		if at == len(eventPrefix) || len(rest) < at+len(dataPrefix) || string(rest[at:at+len(dataPrefix)]) != dataPrefix {
			return n
		}
		data := rest[at+len(dataPrefix):]
		end := bytes.IndexByte(data, '\n')
		if end < 0 || len(data) < end+2 || data[end+1] != '\n' {
			return n
		}
		m, ok := parseMessage(data[:end])
		if !ok {
			return n
		}
		to.message(m)
		n += at + len(dataPrefix) + end + 2
	}
}

// field reads one line without its LF (HTML, "Server-sent events", §9.2.6).
func (s *stream) field(line []byte, to sink) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) == 0 {
		if s.data {
			s.event(to)
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

// event tells of the event that has ended.
func (s *stream) event(to sink) {
	switch {
	case s.other != "":
		to.other(s.other, string(s.text))
		s.text = nil
	case s.has:
		to.message(s.msg)
	default:
		to.other("message", "")
	}
}

// Opcodes of RFC 6455, section 5.2.
const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// frames reads WebSocket frames of a server, which are not masked.
func (s *stream) frames(p []byte, to sink) error {
	if len(s.line) > 0 {
		s.line = append(s.line, p...)
		n, err := wholeFrames(s.line, to)
		s.line = s.line[:copy(s.line, s.line[n:])]
		return err
	}
	n, err := wholeFrames(p, to)
	s.line = append(s.line, p[n:]...)
	return err
}

// wholeFrames reads the frames at the beginning of p that are wholly there, and
// returns their length.
func wholeFrames(p []byte, to sink) (n int, err error) {
	for {
		rest := p[n:]
		if len(rest) < 2 {
			return n, nil
		}
		length, at := int(rest[1]), 2
		switch {
		case rest[1] == 126 && len(rest) >= 4:
			length, at = int(binary.BigEndian.Uint16(rest[2:])), 4
		case rest[1] == 127 && len(rest) >= 10:
			long := binary.BigEndian.Uint64(rest[2:])
			if long > maxLine {
				return n, fmt.Errorf("a WebSocket message of %d bytes", long)
			}
			length, at = int(long), 10
		case rest[1] > 127:
			return n, errors.New("WebSocket: a server's frame is masked")
		case rest[1] > 125:
			return n, nil // the length has not come
		}
		if rest[0]&0xf0 != 0x80 {
			return n, fmt.Errorf("WebSocket: a frame that begins with %#x: fragments and extensions are not understood", rest[0])
		}
		if len(rest) < at+length {
			return n, nil
		}
		payload := rest[at : at+length]
		n += at + length
		switch op := rest[0] & 15; op {
		case opText, opBinary:
			if m, ok := parseMessage(payload); ok {
				to.message(m)
			} else {
				to.other("message", string(payload))
			}
		case opPing:
			to.ping(payload)
		case opPong:
		case opClose:
			return n, io.EOF
		default:
			return n, fmt.Errorf("WebSocket: opcode %d", op)
		}
	}
}

// check says what is wrong with the head, if it has come.
func (s *stream) check() error {
	if s.status != 0 && s.status != http.StatusOK && s.status != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %d %s", s.status, http.StatusText(s.status))
	}
	return nil
}

// errEnded is a stream that the server ended.
var errEnded = errors.New("the server ended the stream")
