package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A strictOrigin keeps every byte that it is sent, and takes requests apart itself.
type strictOrigin struct {
	net.Listener
	mu       sync.Mutex
	heads    []string // as they came
	requests []string // method, path, length of the body
	broken   []string // what was no request
}

func newStrictOrigin(t *testing.T) *strictOrigin {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &strictOrigin{Listener: l}
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				o.serve(c)
			})
		}
	})
	return o
}

func (o *strictOrigin) serve(c net.Conn) {
	var seen bytes.Buffer
	r := bufio.NewReader(io.TeeReader(c, &seen))
	for {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		before := seen.Len() - r.Buffered()
		req, err := http.ReadRequest(r)
		if err != nil {
			if rest := seen.String()[before:]; rest != "" {
				o.mu.Lock()
				o.broken = append(o.broken, rest)
				o.mu.Unlock()
			}
			return
		}
		head := seen.String()[before : seen.Len()-r.Buffered()]
		body, err := io.ReadAll(req.Body)
		o.mu.Lock()
		o.heads = append(o.heads, head)
		if err != nil {
			o.broken = append(o.broken, fmt.Sprintf("body of %s: %v", req.URL, err))
		} else {
			o.requests = append(o.requests, fmt.Sprintf("%s %s %d", req.Method, req.RequestURI, len(body)))
		}
		o.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// wellFormed is a head on which no two servers disagree, as far as a line of it goes.
var wellFormed = regexp.MustCompile("^[A-Z]+ /[!-~]* HTTP/1\\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n")

// Whatever a client says, its origin gets requests that can be read in one way only,
// each of which has its answer. What has a length and is chunked is chunked, and nothing
// that follows is a request, since a proxy may have taken it for the body (RFC 9112, 6.1).
func TestSmuggling(t *testing.T) {
	const next = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	post := func(headers, body string) string {
		return "POST /one HTTP/1.1\r\nHost: h\r\n" + headers + "\r\n" + body
	}
	for _, tt := range []struct {
		name, say string
		want      string // statuses; what the origin gets
	}{
		{"plain", post("Content-Length: 3\r\n", "abc"), "200 200 | POST /one 3, GET /last 0"},
		{"plain, chunked", post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"), "200 | POST /one 3"},
		{"CL.TE", post("Content-Length: 40\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+next), "200 | POST /one 0"},
		{"TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "23\r\n"+next+"\r\n0\r\n\r\n"), "200 | POST /one 35"},
		{"TE.TE", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+next), "501 | "},
		{"an unknown coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+next), "501 | "},
		{"chunked not the last", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"+next), "501 | "},
		{"chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"+next), "501 | "},
		{"a vertical tab before chunked", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+next), "400 | "},
		{"a blank before the colon", post("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+next), "400 | "},
		{"a blank before the name", post(" Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+next), "400 | "},
		{"HTTP/1.0 with a coding", "POST /one HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + next, "200 | POST /one 5"},
		{"obs-fold", post("X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+next), "200 200 200 | POST /one 5, GET /smuggled 0, GET /last 0"},
		{"obs-fold of a length", post("Content-Length:\r\n 5\r\n", "0\r\n\r\n"+next), "200 200 200 | POST /one 5, GET /smuggled 0, GET /last 0"},
		{"bare LF between headers", post("X-A: b\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+next), "200 | POST /one 0"},
		{"bare CR within a header", post("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+next), "400 | "},
		{"bare LF at the end", "GET /one HTTP/1.1\nHost: h\n\n" + next, "200 200 200 | GET /one 0, GET /smuggled 0, GET /last 0"},
		{"NUL in a value", post("X-A: b\x00c\r\nContent-Length: 0\r\n", next), "400 | "},
		{"NUL in a name", post("X-\x00A: b\r\nContent-Length: 0\r\n", next), "400 | "},
		{"NUL in the path", "GET /o\x00ne HTTP/1.1\r\nHost: h\r\n\r\n" + next, "400 | "},
		{"two lengths", post("Content-Length: 0\r\nContent-Length: 35\r\n", next), "400 | "},
		{"two equal lengths", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"), "200 200 | POST /one 3, GET /last 0"},
		{"a list of lengths", post("Content-Length: 3, 3\r\n", "abc"), "400 | "},
		{"a length with a sign", post("Content-Length: +3\r\n", "abc"), "400 | "},
		{"a negative length", post("Content-Length: -3\r\n", "abc"), "400 | "},
		{"a length in hexadecimal", post("Content-Length: 0x3\r\n", "abc"), "400 | "},
		{"a length that overflows", post("Content-Length: 18446744073709551619\r\n", "abc"), "400 | "},
		{"chunk extensions", post("Transfer-Encoding: chunked\r\n", "3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n"), "200 | POST /one 3"},
		{"a line break in an extension", post("Transfer-Encoding: chunked\r\n", "3;a\nabc\r\n0\r\n\r\n"+next), "400 | "},
		{"endless extensions", post("Transfer-Encoding: chunked\r\n", strings.Repeat("1;"+strings.Repeat("x", 2000)+"\r\na\r\n", 100)+"0\r\n\r\n"), "400 | "},
		{"a chunk size with a sign", post("Transfer-Encoding: chunked\r\n", "+3\r\nabc\r\n0\r\n\r\n"+next), "400 | "},
		{"a chunk size with a prefix", post("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"+next), "400 | "},
		{"a chunk size that overflows", post("Transfer-Encoding: chunked\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n"+next), "400 | "},
		{"a chunk that is longer than it says", post("Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n0\r\n\r\n"+next), "400 | "},
		{"chunks with bare LF", post("Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"+next), "400 | "},
		{"a trailer that is a length", post("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "3\r\nabc\r\n0\r\nContent-Length: 35\r\n\r\n"), "400 | "},
		{"a trailer that is a coding", post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\nX-Evil: 1\r\n\r\n"), "200 | POST /one 3"},
		{"a length named in Connection", post("Connection: Content-Length\r\nContent-Length: 35\r\n", next), "200 200 | POST /one 35, GET /last 0"},
		{"a coding named in Connection", post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", "23\r\n"+next+"\r\n0\r\n\r\n"), "200 | POST /one 35"},
		{"GET with a body", "GET /one HTTP/1.1\r\nHost: h\r\nContent-Length: 35\r\n\r\n" + next, "200 200 | GET /one 35, GET /last 0"},
		{"two hosts", "GET /one HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", "400 | "},
		{"a host with a blank", "GET /one HTTP/1.1\r\nHost: h i\r\n\r\n", "400 | "},
		{"no host", "GET /one HTTP/1.1\r\n\r\n", "400 | "},
		{"another host in the URL", "GET http://i/one HTTP/1.1\r\nHost: h\r\n\r\n", "200 200 | GET /one 0, GET /last 0"},
		{"a blank in the path", "GET /one HTTP/1.1 /x HTTP/1.1\r\nHost: h\r\n\r\n", "400 | "},
		{"CRLF in the path, encoded", "GET /one%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: h\r\n\r\n", "200 200 | GET /one%0d%0aX-Evil:%201 0, GET /last 0"},
		{"a method that is none", "GE(T /one HTTP/1.1\r\nHost: h\r\n\r\n", "400 | "},
		{"an upgrade to h2c", "GET /one HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", "200 200 | GET /one 0, GET /last 0"},
		{"a WebSocket that is none", "GET /one HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n" + next, "426 200 200 | GET /smuggled 0, GET /last 0"},
		{"CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n" + next, "200 200 200 | CONNECT / 0, GET /smuggled 0, GET /last 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newStrictOrigin(t)
			f := start(t, func(c *Config) { c.Routes = "* " + o.Addr().String() })
			c := f.bareTCP(t).say(tt.say + "GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			answers := ""
			for {
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil {
					break
				}
				answers += fmt.Sprint(resp.StatusCode, " ")
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					break
				}
			}
			f.Gateway.upstream.Close()
			o.mu.Lock()
			defer o.mu.Unlock()
			for _, head := range o.heads {
				if wellFormed.FindString(head) != head {
					t.Errorf("the origin got %q", head)
				}
				lower := strings.ToLower(head)
				if n := strings.Count(lower, "\r\ncontent-length:") + strings.Count(lower, "\r\ntransfer-encoding:"); n > 1 {
					t.Errorf("the origin has %d ways to read %q", n, head)
				}
				if strings.Count(lower, "\r\nhost:") != 1 || strings.Contains(lower, "\r\nx-evil:") {
					t.Errorf("the origin got %q", head)
				}
			}
			for _, broken := range o.broken {
				if !strings.HasPrefix(broken, "body of ") { // it was cut off
					t.Errorf("the origin got %q, which is no request", broken)
				}
			}
			got := answers + "| " + strings.Join(o.requests, ", ")
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
