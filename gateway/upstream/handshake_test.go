package upstream

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/grip"
	"spillway/grip/secret"
)

const handshakeLines = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n"

func TestHandshakePost(t *testing.T) {
	keys := map[string]grip.Key{"config": key(t, "changeme"), "upstream": key(t, "up")}
	trustedSig, err := keys["upstream"].Sign("front", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const signed = "Grip-Feature: status, link:next|Grip-Sig: config/pushpin"
	const common = "Accept: application/websocket-events|Connection-Id: 1|Content-Length: 6|Content-Type: application/websocket-events|"
	const ws = "Sec-Websocket-Extensions: grip|Sec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==|Sec-Websocket-Version: 13"
	for _, tt := range []struct {
		name, route, request, want string // want: lines apart by "|", in order
	}{
		{"what is added", "* ORIGIN,over_http", "", "POST /chat?room=1 HTTP/1.1|" + common + signed + "|Host: h|" + ws},
		{"what goes on", "* ORIGIN,over_http", "Cookie: a=b\nOrigin: http://h\nSec-WebSocket-Protocol: chat\nX-Two: a\nX-Two: b\n",
			"POST /chat?room=1 HTTP/1.1|" + common + "Cookie: a=b|" + signed + "|Host: h|Origin: http://h|" +
				strings.Replace(ws, "|Sec-Websocket-Version", "|Sec-Websocket-Protocol: chat|Sec-Websocket-Version", 1) + "|X-Two: a|X-Two: b"},
		{"what a client cannot say", "* ORIGIN,over_http", "Connection-Id: 7\nMeta-User: root\nmeta-x: 1\nAccept: x\nContent-Length: 0\n" +
			"Sec-WebSocket-Extensions: permessage-deflate\nGrip-Sig: x\n",
			"POST /chat?room=1 HTTP/1.1|" + common + signed + "|Host: h|" + ws},
		{"another gateway can speak GRIP", "* ORIGIN,over_http", "Grip-Sig: " + trustedSig + "\nGrip-Feature: status\n",
			"POST /chat?room=1 HTTP/1.1|" + common + "Grip-Feature: status|Grip-Sig: upstream/front|Host: h|" + ws},
		{"plain proxy", "*,no_grip ORIGIN,over_http", "", "POST /chat?room=1 HTTP/1.1|" + common + "Host: h|" + strings.TrimPrefix(ws, "Sec-Websocket-Extensions: grip|")},
		{"changes of the route", "*,header=X-A:b,replace_beg=/v2/,path_beg=/ ORIGIN,over_http", "",
			"POST /v2/chat?room=1 HTTP/1.1|" + common + signed + "|Host: h|" + ws + "|X-A: b"},
		{"a target that is passed over", "* DEAD,over_http ORIGIN,over_http", "", "POST /chat?room=1 HTTP/1.1|" + common + signed + "|Host: h|" + ws},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newForwarder(t, Config{SigKey: secret.Fixed(keys["config"]), UpstreamKeys: secret.Fixed(grip.Keys{keys["upstream"]})})
			h := f.Handshake(request(t, "GET /chat?room=1 HTTP/1.1\nHost: h\n"+handshakeLines+tt.request+"\n\n"), routeTo(t, tt.route, echo(t)))
			for range 2 {
				resp, err := h.Post(t.Context(), http.Header{"Connection-Id": {"1"}}, []byte("OPEN\r\n"))
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(lines(t, strings.TrimSuffix(read(t, resp), "OPEN\r\n"), keys), "|"); got != tt.want {
					t.Errorf("got\n%s\nwant\n%s", got, tt.want)
				}
				f.Close() // the origin does, too
			}
		})
	}
}

// Each request is signed anew.
func TestHandshakeSignsEachTime(t *testing.T) {
	f := newForwarder(t, Config{SigKey: secret.Fixed(key(t, "changeme"))})
	now := time.Now()
	f.now = func() time.Time { now = now.Add(time.Hour); return now }
	h := f.Handshake(request(t, "GET / HTTP/1.1\nHost: h\n"+handshakeLines+"\n\n"), routeTo(t, "* ORIGIN,over_http", echo(t)))
	sig := func() string {
		f.Close() // the origin does, too
		resp, err := h.Post(t.Context(), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(read(t, resp), "Grip-Sig: ")
		sig, _, _ := strings.Cut(rest, "\r\n")
		return sig
	}
	if first, second := sig(), sig(); first == second || first == "" {
		t.Errorf("signatures %q and %q, want two that differ", first, second)
	}
}

func TestHandshakePostErrors(t *testing.T) {
	f := newForwarder(t, Config{})
	r := request(t, "GET / HTTP/1.1\nHost: h\n"+handshakeLines+"\n\n")
	_, err := f.Handshake(r, routeTo(t, "* DEAD,over_http", "")).Post(t.Context(), nil, []byte("OPEN\r\n"))
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: got %v, want ErrUnreachable", err)
	}
	// More than fits into the buffers of a connection, to somebody who takes nothing.
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(srv.Close)
	_, err = f.Handshake(r, routeTo(t, "* ORIGIN,over_http", srv.Listener.Addr().String())).Post(t.Context(), nil, make([]byte, 32<<20))
	if !errors.Is(err, ErrNotSent) {
		t.Errorf("half a request: got %v, want ErrNotSent", err)
	}
	silent := serveRaw(t, func(string) string { return "" })
	_, err = f.Handshake(r, routeTo(t, "* ORIGIN,over_http", silent)).Post(t.Context(), nil, []byte("OPEN\r\n"))
	if err == nil || errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnreachable) {
		t.Errorf("no answer to a whole request: got %v, want another error", err)
	}
}

// A kept connection that ends without an answer is one that the origin took for
// idle, most likely.
func TestHandshakePostOnKeptConnection(t *testing.T) {
	f := newForwarder(t, Config{ResponseTimeout: 200 * time.Millisecond})
	var requests atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch requests.Add(1) {
		case 2:
			panic(http.ErrAbortHandler)
		case 4:
			<-r.Context().Done()
		}
	}))
	t.Cleanup(srv.Close)
	h := f.Handshake(request(t, "GET / HTTP/1.1\nHost: h\n"+handshakeLines+"\n\n"), routeTo(t, "* ORIGIN,over_http", srv.Listener.Addr().String()))
	for i, want := range []error{nil, ErrNotSent, nil, os.ErrDeadlineExceeded} {
		resp, err := h.Post(t.Context(), nil, []byte("OPEN\r\n"))
		if err == nil {
			read(t, resp)
		}
		if errors.Is(want, os.ErrDeadlineExceeded) { // which net/http says in its own way
			if err == nil || errors.Is(err, ErrNotSent) {
				t.Errorf("request %d, slow: got %v, want another error than ErrNotSent", i+1, err)
			}
		} else if !errors.Is(err, want) {
			t.Errorf("request %d: got %v, want %v", i+1, err, want)
		}
	}
}

// upgraded answers a handshake, and says back what it hears.
func upgraded(t *testing.T, fields ...string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		head := strings.ReplaceAll(strings.Join(fields, "\r\n"), "ACCEPT", acceptOf(r.Header.Get("Sec-WebSocket-Key")))
		io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nX-Key: "+r.Header.Get("Sec-WebSocket-Key")+"\r\nX-Extensions: "+
			strings.Join(r.Header["Sec-Websocket-Extensions"], ",")+"\r\n"+head+"\r\n\r\n")
		rw.Flush()
		io.Copy(conn, rw)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestHandshakeDial(t *testing.T) {
	f := newForwarder(t, Config{})
	const client = "GET / HTTP/1.1\nHost: h\nSec-WebSocket-Extensions: permessage-deflate\n" + handshakeLines + "\n\n"
	accepted := []string{"Connection: upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Accept: ACCEPT"}
	h := f.Handshake(request(t, client), routeTo(t, "* DEAD ORIGIN", upgraded(t, append(accepted, "Sec-WebSocket-Extensions: grip; message-prefix=x")...)))
	resp, s, err := h.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := resp.Header.Get("X-Key"); got == "dGhlIHNhbXBsZSBub25jZQ==" || got == "" {
		t.Errorf("key: got %q, want one of our own", got)
	}
	if got := resp.Header.Get("X-Extensions"); got != "grip" {
		t.Errorf("extensions: got %q, want grip", got)
	}
	if err := s.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(s, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(s).ReadString('\n'); got != "hello\n" {
		t.Errorf("back: got %q, %v, want hello", got, err)
	}

	refusing := serveRaw(t, func(string) string { return "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno" })
	resp, s, err = f.Handshake(request(t, client), routeTo(t, "* ORIGIN", refusing)).Dial(t.Context())
	if err != nil || s != nil || resp.StatusCode != 403 || read(t, resp) != "no" {
		t.Errorf("refused: got %v, %v, %v, want the origin's 403", resp, s, err)
	}

	for _, tt := range []struct {
		name   string
		fields []string
	}{
		{"another key", []string{accepted[0], accepted[1], "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}},
		{"another protocol", []string{accepted[0], "Upgrade: h2c", accepted[2]}},
		{"an extension that was not offered", append(accepted[:3:3], "Sec-WebSocket-Extensions: grip, permessage-deflate")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, s, err := f.Handshake(request(t, client), routeTo(t, "* ORIGIN", upgraded(t, tt.fields...))).Dial(t.Context())
			if err == nil || s != nil {
				t.Errorf("got %v, %v, want an error", s, err)
			}
		})
	}
}

func TestTestTargetEvents(t *testing.T) {
	f := newForwarder(t, Config{})
	h := f.Handshake(request(t, "GET /any?channel=a HTTP/1.1\nHost: h\n"+handshakeLines+"\n\n"), routeTo(t, "* test", ""))
	resp, err := h.Post(t.Context(), nil, []byte("OPEN\r\nTEXT 2\r\nhi\r\nPING 1\r\np\r\nCLOSE\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "OPEN\r\nTEXT 24\r\nc:{\"type\":\"subscribe\",\"channel\":\"a\"}\r\nTEXT 4\r\nm:hi\r\nPONG 1\r\np\r\nCLOSE\r\n"
	if got := read(t, resp); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
