package front

import (
	"bufio"
	"bytes"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

// requests reads requests that are complete, with the parser of net/http.
type requests struct {
	quick            func(*http.Request) bool
	maxHead, maxBody int

	head bytes.Reader
	buf  *bufio.Reader // of head
	body body          // of the request that was read last
}

type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

// next is the request that text begins with, and its size. It is nil where it is
// not complete, not plain, or not quick; or where something follows although it is
// to be the last (r.Close). It is valid until the next one is read.
func (q *requests) next(text []byte) (r *http.Request, size int) {
	end := bytes.Index(text[:min(len(text), q.maxHead)], endOfHead)
	if end < 0 {
		return nil, 0
	}
	end += len(endOfHead)
	if !isPlain(text[:end]) {
		return nil, 0
	}
	q.head.Reset(text[:end])
	q.buf.Reset(&q.head)
	r, err := http.ReadRequest(q.buf)
	if err != nil || r.Host == "" || !httpguts.ValidHostHeader(r.Host) || !q.quick(r) {
		return nil, 0
	}
	length := r.ContentLength
	if length < 0 || length > int64(min(q.maxBody, len(text)-end)) {
		return nil, 0
	}
	size = end + int(length)
	if r.Close && size < len(text) {
		return nil, 0
	}
	q.body.Reset(text[end:size])
	r.Body = &q.body
	return r, size
}

var (
	endOfLine = []byte("\r\n")
	endOfHead = []byte("\r\n\r\n")
)

// isPlain reports whether a head is of a kind on which no two servers disagree: a
// POST of HTTP/1.1 with a path, one Host, at most one Content-Length, nothing that
// changes how the body or the connection is understood, and no byte that is not
// visible ASCII or a blank within a line.
func isPlain(head []byte) bool {
	line, head, _ := bytes.Cut(head, endOfLine)
	method, line, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(line, []byte(" "))
	if string(method) != http.MethodPost || string(version) != "HTTP/1.1" || len(target) == 0 || target[0] != '/' || !isVisible(target, false) {
		return false
	}
	hosts, lengths, connections := 0, 0, 0
	for {
		line, head, _ = bytes.Cut(head, endOfLine)
		if len(line) == 0 {
			return hosts == 1 && lengths <= 1
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found || !isName(name) || !isVisible(value, true) {
			return false
		}
		value = bytes.Trim(value, " ")
		switch {
		case is(name, "host"):
			hosts++
		case is(name, "content-length"):
			lengths++
			if !isNumber(value) {
				return false
			}
		case is(name, "connection"):
			if connections++; connections > 1 || !is(value, "keep-alive") && !is(value, "close") {
				return false
			}
		case is(name, "transfer-encoding"), is(name, "content-encoding"), is(name, "trailer"), is(name, "te"),
			is(name, "expect"), is(name, "upgrade"), is(name, "http2-settings"):
			return false
		}
	}
}

// is reports whether text is a word, which is in lower case, in any case.
func is(text []byte, word string) bool {
	return len(text) == len(word) && bytes.EqualFold(text, []byte(word))
}

func isVisible(text []byte, blanks bool) bool {
	for _, c := range text {
		if c <= ' ' && !(blanks && c == ' ') || c >= 0x7f {
			return false
		}
	}
	return true
}

// isName is stricter than a token of HTTP: what has other bytes is unusual.
func isName(name []byte) bool {
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(name) > 0
}

func isNumber(text []byte) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(text) > 0
}
