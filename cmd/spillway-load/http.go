package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A httpMessage is an HTTP/1.1 request or answer that is wholly there, as far as the
// bare clients and the bare origin look at it.
type httpMessage struct {
	line   []byte // the first of the head, without CRLF
	body   []byte
	length int  // of all of it
	closes bool // nothing follows it on the connection
}

var (
	headEnd = []byte("\r\n\r\n")
	crlf    = []byte("\r\n")
)

// parseHTTP reads the message at the beginning of text. ok is false while some of
// it is missing. It understands bodies of a length that is said, chunked ones, and
// none: not those that end with the connection.
func parseHTTP(text []byte) (m httpMessage, ok bool, err error) {
	end := bytes.Index(text, headEnd)
	if end < 0 {
		if len(text) > maxHead {
			return m, false, fmt.Errorf("head: more than %d bytes", maxHead)
		}
		return m, false, nil
	}
	line, fields, _ := bytes.Cut(text[:end], crlf)
	m.line = line
	length, chunked := 0, false
	for len(fields) > 0 {
		var field []byte
		field, fields, _ = bytes.Cut(fields, crlf)
		name, value, _ := bytes.Cut(field, []byte(":"))
		switch len(name) { // most are none of these
		case len("content-length"):
			if is(name, "content-length") {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 || length > maxLine {
					return m, false, fmt.Errorf("Content-Length: %q is not a number of bytes up to %d", value, maxLine)
				}
			}
		case len("transfer-encoding"):
			chunked = chunked || is(name, "transfer-encoding") && is(bytes.TrimSpace(value), "chunked")
		case len("connection"):
			m.closes = m.closes || is(name, "connection") && is(bytes.TrimSpace(value), "close")
		}
	}
	rest := text[end+len(headEnd):]
	if chunked {
		n := 0
		if m.body, n, err = unchunk(rest); n == 0 || err != nil {
			return m, false, err
		}
		m.length = len(text) - len(rest) + n
		return m, true, nil
	}
	if len(rest) < length {
		return m, false, nil
	}
	m.body, m.length = rest[:length], len(text)-len(rest)+length
	return m, true, nil
}

func is(text []byte, word string) bool { return strings.EqualFold(string(text), word) }

// unchunk reads a chunked body without trailers; n is the length that it has with
// its chunks, 0 while some of it is missing.
func unchunk(text []byte) (body []byte, n int, err error) {
	for {
		line, rest, ok := bytes.Cut(text[n:], crlf)
		if !ok {
			return nil, 0, nil
		}
		digits, _, _ := bytes.Cut(line, []byte(";"))
		size, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 31)
		if err != nil || size > maxLine {
			return nil, 0, fmt.Errorf("chunk size: %q", line)
		}
		if len(rest) < int(size)+len(crlf) {
			return nil, 0, nil
		}
		if !bytes.HasPrefix(rest[size:], crlf) {
			return nil, 0, errors.New("chunk: goes on behind its end")
		}
		body = append(body, rest[:size]...)
		n += len(line) + len(crlf) + int(size) + len(crlf)
		if size == 0 {
			return body, n, nil
		}
	}
}

// status is that of an answer; 0 where its first line is none of one.
func (m *httpMessage) status() int {
	_, rest, _ := bytes.Cut(m.line, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	n, err := strconv.Atoi(string(code))
	if err != nil || !bytes.HasPrefix(m.line, []byte("HTTP/1.")) {
		return 0
	}
	return n
}
