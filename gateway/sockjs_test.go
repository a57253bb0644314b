package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"spillway/grip"
)

// What SockJS clients and origins say to each other, by every transport, over
// every protocol, whichever WebSocket the origin speaks.
func TestSockJS(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "TLS", "HTTP/2"} {
		for _, way := range []string{"over_http", "proxied"} {
			t.Run(protocol+"/"+way, func(t *testing.T) {
				s := newSocks(t, protocol, way)
				for _, transport := range []string{"xhr", "xhr_streaming", "eventsource", "htmlfile", "jsonp", "websocket"} {
					if transport == "websocket" && protocol == "HTTP/2" {
						continue // browsers open them by HTTP/1.1
					}
					t.Run(transport, func(t *testing.T) { s.converse(t, transport) })
				}
				s.wantMetric(t, "spillway_sockjs_sessions", nil, 0)
			})
		}
	}
}

// socks is a gateway with a route for SockJS, and how clients reach it.
type socks struct {
	*fixture
	client *http.Client
	major  int                // of the protocol of polls and streams
	asked  chan *http.Request // handshakes that came to the origin; nil: it is the test target
}

func newSocks(t *testing.T, protocol, way string) *socks {
	checkGoroutines(t)
	s := &socks{major: 1}
	target := "test"
	if way == "proxied" {
		s.asked = make(chan *http.Request, 100)
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.asked <- r
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.CloseNow()
			for {
				typ, p, err := conn.Read(r.Context())
				if err != nil || conn.Write(r.Context(), typ, p) != nil {
					return
				}
			}
		}))
		t.Cleanup(origin.Close)
		target = origin.Listener.Addr().String() + ",sub=test"
	}
	s.fixture = start(t, func(c *Config) {
		c.Routes = "*,sockjs=/sock,sockjs_as_path=/ " + target
		c.SockJSResponseBytes, c.SockJSSessionTimeout = 1<<10, time.Minute
		if protocol != "HTTP/1.1" {
			dir := t.TempDir()
			c.TLSCertFile, c.TLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			writeCertificate(t, c.TLSCertFile, c.TLSKeyFile, 1)
		}
	})
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: protocol == "HTTP/2"}
	t.Cleanup(tr.CloseIdleConnections)
	s.client = &http.Client{Transport: tr, Timeout: 4 * patience}
	if protocol != "HTTP/1.1" {
		s.url = "https://" + s.Addr().String()
	}
	if protocol == "HTTP/2" {
		s.major = 2
	}
	return s
}

// converse is a session: messages there and back, more of them than one response
// takes, one that is published, and the end, which is published too.
func (s *socks) converse(t *testing.T, transport string) {
	c := &sock{t: t, socks: s, transport: transport, session: s.url + "/sock/000/" + transport}
	c.open()
	if s.asked != nil {
		r := <-s.asked
		scheme := map[bool]string{true: "wss"}[strings.HasPrefix(s.url, "https:")]
		if r.URL.Path != "/" || r.Host != s.Addr().String() || r.Header.Get("X-Forwarded-Proto") != scheme ||
			r.Header.Get("Cookie") != "a=b" || r.Header.Get("Content-Type") != "" || r.ContentLength != 0 {
			t.Errorf("handshake at the origin: got %s %s %v, want / with the client's header", r.Host, r.URL, r.Header)
		}
	}
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprint(i, " größer \u2028 </script>", strings.Repeat("x", 100)))
	}
	c.send(want...)
	var got []string
	for range want {
		got = append(got, c.message())
	}
	if !slices.Equal(got, want) {
		t.Errorf("back came %q, want %q", got, want)
	}
	s.listening(t, "test", 1)
	s.publish(t, grip.Item{Channel: "test", WSMessage: &grip.WSMessage{Content: []byte("published")}}).wantStatus(200)
	if got := c.message(); got != "published" {
		t.Errorf("got %q, want the item", got)
	}
	s.publish(t, grip.Item{Channel: "test", WSMessage: &grip.WSMessage{Action: grip.ActionClose, Code: 3001, Reason: "so long"}}).wantStatus(200)
	if got, want := c.frame(), `c[3001,"so long"]`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.listening(t, "test", 0)
}

// A sock is a client of SockJS.
type sock struct {
	*socks
	t         *testing.T
	transport string
	session   string // URL
	body      *bufio.Reader
	ws        *websocket.Conn
	messages  []string // that have come
}

func (c *sock) open() {
	c.t.Helper()
	if c.transport == "websocket" {
		ctx, cancel := context.WithTimeout(c.t.Context(), 4*patience)
		defer cancel()
		var err error
		if c.ws, _, err = websocket.Dial(ctx, c.session+"/websocket", &websocket.DialOptions{
			HTTPClient: &http.Client{Transport: c.client.Transport}, HTTPHeader: http.Header{"Cookie": {"a=b"}}}); err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = c.ws.CloseNow() })
	}
	if got := c.frame(); got != "o" {
		c.t.Fatalf("first: got %q, want o", got)
	}
}

func (c *sock) send(messages ...string) {
	c.t.Helper()
	body, err := json.Marshal(messages)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.ws != nil {
		if err := c.ws.Write(c.t.Context(), websocket.MessageText, body); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	resp := c.do(http.MethodPost, "/xhr_send", body)
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" {
		c.t.Fatalf("send: got %d %q, %v", resp.StatusCode, b, err)
	}
}

// message is the next message of the other side.
func (c *sock) message() string {
	c.t.Helper()
	for len(c.messages) == 0 {
		frame := c.frame()
		list, ok := strings.CutPrefix(frame, "a")
		if err := json.Unmarshal([]byte(list), &c.messages); !ok || err != nil {
			c.t.Fatalf("got frame %q, want messages", frame)
		}
	}
	m := c.messages[0]
	c.messages = c.messages[1:]
	return m
}

// frame is the next frame, from this response or the next.
func (c *sock) frame() string {
	c.t.Helper()
	if c.ws != nil {
		ctx, cancel := context.WithTimeout(c.t.Context(), 4*patience)
		defer cancel()
		_, b, err := c.ws.Read(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		return string(b)
	}
	for {
		if c.body == nil {
			method, query := http.MethodGet, ""
			switch c.transport {
			case "xhr", "xhr_streaming":
				method = http.MethodPost
			case "jsonp", "htmlfile":
				query = "?c=p"
			}
			resp := c.do(method, "/"+c.transport+query, nil)
			c.t.Cleanup(func() { resp.Body.Close() })
			c.body = bufio.NewReader(resp.Body)
		}
		line, err := c.body.ReadString('\n')
		switch {
		case err == io.EOF && line == "":
			c.body = nil
		case err != nil:
			c.t.Fatalf("got %q, %v", line, err)
		default:
			if frame := c.frameOf(strings.TrimRight(line, "\r\n")); frame != "" {
				return frame
			}
		}
	}
}

// frameOf is the frame on a line; empty: there is none.
func (c *sock) frameOf(line string) string {
	switch c.transport {
	case "eventsource":
		frame, _ := strings.CutPrefix(line, "data: ")
		return frame
	case "jsonp", "htmlfile":
		line, ok := strings.CutPrefix(strings.TrimPrefix(line, "/**/"), "p(")
		if !ok {
			return ""
		}
		var frame string
		if err := json.Unmarshal([]byte(strings.TrimSuffix(line, ");")), &frame); err != nil {
			c.t.Fatalf("got %q: %v", line, err)
		}
		return frame
	}
	if strings.HasPrefix(line, "h") {
		return "" // the beginning of a stream
	}
	return line
}

func (c *sock) do(method, path string, body []byte) *http.Response {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.session+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Cookie", "a=b")
	if body != nil {
		r.Header.Set("Content-Type", "text/plain")
	}
	resp, err := c.client.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != c.major {
		b, _ := io.ReadAll(resp.Body)
		c.t.Fatalf("%s %s: got %s %s %q, want 200 of HTTP/%d", method, path, resp.Proto, resp.Status, b, c.major)
	}
	return resp
}
