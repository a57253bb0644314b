package pushpintest

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
)

// A head is the first line and the fields of a request or response, as they
// came.
type head struct {
	line   string
	fields [][2]string
}

type badSyntax struct{ text string }

func (e *badSyntax) Error() string { return fmt.Sprintf("%q is not HTTP", e.text) }

func readHead(br *bufio.Reader) (h head, err error) {
	for {
		l, err := br.ReadString('\n')
		if err != nil {
			if l != "" {
				err = &badSyntax{h.String() + l}
			}
			return h, err
		}
		l = strings.TrimRight(l, "\r\n")
		if h.line == "" {
			if !strings.Contains(l, "HTTP/1.") {
				return h, &badSyntax{l}
			}
			h.line = l
			continue
		}
		if l == "" {
			return h, nil
		}
		name, value, ok := strings.Cut(l, ":")
		if !ok {
			return h, &badSyntax{l}
		}
		h.fields = append(h.fields, [2]string{name, strings.TrimSpace(value)})
	}
}

func (h head) String() string {
	s := h.line + "\n"
	for _, f := range h.fields {
		s += f[0] + ": " + f[1] + "\n"
	}
	return s
}

func (h head) get(name string) string {
	for _, f := range h.fields {
		if strings.EqualFold(f[0], name) {
			return f[1]
		}
	}
	return ""
}

// code is the status code of a response.
func (h head) code() int {
	parts := strings.SplitN(h.line, " ", 3)
	if len(parts) < 2 {
		return 0
	}
	code, _ := strconv.Atoi(parts[1])
	return code
}

func (h head) requestBody(br *bufio.Reader) io.Reader {
	if strings.EqualFold(h.get("Transfer-Encoding"), "chunked") {
		return &chunked{br: br, r: httputil.NewChunkedReader(br)}
	}
	n, _ := strconv.ParseInt(h.get("Content-Length"), 10, 64)
	return whole(br, n)
}

func (h head) responseBody(br *bufio.Reader, method string) (body io.Reader, untilClose bool) {
	code := h.code()
	length, err := strconv.ParseInt(h.get("Content-Length"), 10, 64)
	switch {
	case method == http.MethodHead || code == 204 || code == 304:
		return strings.NewReader(""), false
	case strings.EqualFold(h.get("Transfer-Encoding"), "chunked"):
		return &chunked{br: br, r: httputil.NewChunkedReader(br)}, false
	case err == nil:
		return whole(br, length), false
	default:
		return br, true
	}
}

// chunked reads the line behind the last chunk, too. Trailers become part of
// the body, so that they are seen.
type chunked struct {
	br      *bufio.Reader
	r       io.Reader
	trailer bool
}

func (c *chunked) Read(p []byte) (int, error) {
	if !c.trailer {
		n, err := c.r.Read(p)
		if err != io.EOF {
			return n, err
		}
		c.trailer = true
		if n > 0 {
			return n, nil
		}
	}
	l, err := c.br.ReadString('\n')
	if err != nil {
		return 0, io.ErrUnexpectedEOF
	}
	if strings.TrimRight(l, "\r\n") == "" {
		return 0, io.EOF
	}
	return copy(p, "trailer "+l), nil
}

// whole reads n bytes; that there are fewer is an error.
func whole(r io.Reader, n int64) io.Reader { return &exactly{r, n} }

type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// WebSockets.

const sampleKey = "dGhlIHNhbXBsZSBub25jZQ==" // of RFC 6455

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func frameHeader(first, masked byte, n int) []byte {
	switch {
	case n < 126:
		return []byte{first, masked | byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{first, masked | 126}, uint16(n))
	default:
		return binary.BigEndian.AppendUint64([]byte{first, masked | 127}, uint64(n))
	}
}

func plainFrame(first byte, payload []byte) []byte {
	return append(frameHeader(first, 0, len(payload)), payload...)
}

func maskedFrame(first byte, payload []byte) []byte {
	mask := [4]byte{1, 2, 3, 4}
	out := append(frameHeader(first, 0x80, len(payload)), mask[:]...)
	for i, b := range payload {
		out = append(out, b^mask[i%4])
	}
	return out
}

var opNames = map[byte]string{1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}

// readFrames reads messages until the connection ends. Fragments are joined:
// where a proxy cuts says nothing.
func (a *actor) readFrames(br *bufio.Reader) error {
	var message *entry
	for {
		h := make([]byte, 2, 14)
		if _, err := io.ReadFull(br, h); err != nil {
			return err
		}
		n := uint64(h[1] & 0x7f)
		if extra := map[uint64]int{126: 2, 127: 8}[n]; extra > 0 {
			b := make([]byte, 8)
			if _, err := io.ReadFull(br, b[8-extra:]); err != nil {
				return err
			}
			n = binary.BigEndian.Uint64(b)
		}
		if n > 64<<20 {
			return errors.New("a frame of more than 64 MiB")
		}
		var mask [4]byte
		if h[1]&0x80 != 0 {
			if _, err := io.ReadFull(br, mask[:]); err != nil {
				return err
			}
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(br, payload); err != nil {
			return err
		}
		for i := range payload {
			payload[i] ^= mask[i%4]
		}
		op := h[0] & 0xf
		if op == 0 && message != nil {
			a.update(func() { message.body = append(message.body, payload...) })
		} else {
			e := &entry{message: true, head: head{line: opNames[op]}, body: payload}
			if h[0]&0x70 != 0 {
				e.head.line += fmt.Sprintf(" rsv %x", h[0]>>4&7)
			}
			if op == 8 && len(payload) >= 2 {
				e.head.line = fmt.Sprintf("close %d", binary.BigEndian.Uint16(payload))
				e.body = payload[2:]
			}
			a.update(func() { a.list = append(a.list, e) })
			if op < 8 {
				message = e
			}
		}
		// A message counts as read when it is whole.
		a.update(func() {
			if h[0]&0x80 == 0 {
				return
			}
			done := a.list[len(a.list)-1]
			if op == 0 && message != nil {
				done = message
			}
			a.seen = append(a.seen, done.head.line+" "+string(done.body)+"\n"...)
		})
	}
}
