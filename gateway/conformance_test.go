package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"spillway/gateway/ws"
)

// clientFrame is a frame with any first byte, masked.
func clientFrame(first byte, payload string) string {
	b := ws.AppendMasked(nil, ws.OpText, []byte(payload), 0xdecafbad)
	b[0] = first
	return string(b)
}

// What a client says, and what it gets from somebody who says all back, whichever
// way its messages take (RFC 6455, and the test suite of Autobahn, which
// tools/autobahn.sh runs).
func TestWebSocketConformance(t *testing.T) {
	const (
		text, binary, more      = "\x01", "\x02", "\x00"
		wholeText, wholeBinary  = 0x81, 0x82
		last, ping, pong, close = 0x80, 0x89, 0x8a, 0x88
	)
	begin := func(op, payload string) string { return clientFrame(op[0], payload) }
	end := func(payload string) string { return clientFrame(last, payload) }
	whole := func(payload string) string { return clientFrame(wholeText, payload) }
	long := strings.Repeat("*", 125)
	good := clientFrame(close, "\x03\xe8")
	type row struct {
		name, say string
		want      []string // op and payload of frames; of a close for an error, the code alone
	}
	table := []row{
		{"text of any length", whole("") + whole("a") + whole(long) + whole(long+"*") + whole(strings.Repeat("*", 60_000)),
			[]string{"1 ", "1 a", "1 " + long, "1 " + long + "*", "1 " + strings.Repeat("*", 60_000)}},
		{"binary of any length", clientFrame(wholeBinary, "") + clientFrame(wholeBinary, "\x00\xff"), []string{"2 ", "2 \x00\xff"}},
		{"a ping", clientFrame(ping, ""), []string{"10 "}},
		{"a ping with content", clientFrame(ping, long), []string{"10 " + long}},
		{"a ping that is too long", clientFrame(ping, long+"*"), []string{"8 1002"}},
		{"a pong that nobody asked for", clientFrame(pong, "x") + whole("a"), []string{"1 a"}},
		{"reserved bits", clientFrame(0x91, "x"), []string{"8 1002"}},
		{"another reserved bit", clientFrame(0xa1, "x"), []string{"8 1002"}},
		{"compressed, which was not agreed on", clientFrame(0xc1, "x"), []string{"8 1002"}},
		{"a reserved opcode", clientFrame(0x83, "x"), []string{"8 1002"}},
		{"a reserved opcode of a control frame", clientFrame(0x8b, ""), []string{"8 1002"}},
		{"not masked", string(ws.AppendFrame(nil, ws.OpText, []byte("x"))), []string{"8 1002"}},
		{"a length that could be shorter", "\x81\xfe\x00\x05\x00\x00\x00\x00hello", []string{"8 1002"}},
		{"fragments", begin(text, "one ") + begin(more, "two ") + end("three"), []string{"1 one two three"}},
		{"empty fragments", begin(binary, "") + begin(more, "") + end(""), []string{"2 "}},
		{"a ping between fragments", begin(text, "one ") + clientFrame(ping, "p") + end("two"), []string{"10 p", "1 one two"}},
		{"a fragmented ping", begin("\x09", "x") + end("y"), []string{"8 1002"}},
		{"a continuation of nothing", end("x"), []string{"8 1002"}},
		{"a message within a message", begin(text, "x") + whole("y"), []string{"8 1002"}},
		{"a character in two fragments", begin(text, "\xce") + end("\xba"), []string{"1 \xce\xba"}},
		{"not UTF-8", whole("a\xffb"), []string{"8 1007"}},
		{"half a character at the end", begin(text, "\xce") + end(""), []string{"8 1007"}},
		{"an overlong character", whole("\xc0\xaf"), []string{"8 1007"}},
		{"half a surrogate pair", whole("\xed\xa0\x80"), []string{"8 1007"}},
		{"beyond the last character", whole("\xf4\x90\x80\x80"), []string{"8 1007"}},
		{"a close without a code", clientFrame(close, ""), []string{"8"}},
		{"a close with a reason", clientFrame(close, "\x03\xe8"+long[:123]), []string{"8 1000"}},
		{"a close with half a code", clientFrame(close, "\x03"), []string{"8 1002"}},
		{"a close that is too long", clientFrame(close, "\x03\xe8"+long[:124]), []string{"8 1002"}},
		{"a reason that is not UTF-8", clientFrame(close, "\x03\xe8\xff"), []string{"8 1007"}},
		{"a code that is never sent", clientFrame(close, "\x03\xed"), []string{"8 1002"}},
		{"a code of nobody", clientFrame(close, "\x03\xe7"), []string{"8 1002"}},
		{"a code of a library", clientFrame(close, "\x0b\xb8"), []string{"8 3000"}},
		{"a code of an application", clientFrame(close, "\x13\x87"), []string{"8 4999"}},
		{"a code that is too high", clientFrame(close, "\x13\x88"), []string{"8 1002"}},
		{"what comes behind a close", good + whole("not heard") + clientFrame(ping, "x"), []string{"8 1000"}},
		{"masks of zeroes", string(ws.AppendMasked(nil, ws.OpText, []byte("plain"), 0)), []string{"1 plain"}},
		{"control frames between fragments", begin(text, "a") + clientFrame(ping, "1") + begin(more, "b") + clientFrame(pong, "2") + clientFrame(ping, "3") + end("c"),
			[]string{"10 1", "10 3", "1 abc"}},
		{"characters in fragments of a byte", begin(text, "\xf0") + begin(more, "\x9f") + clientFrame(ping, "p") + begin(more, "\x98") + begin(more, "\x80") + end("\xc3\xb6"),
			[]string{"10 p", "1 \U0001f600ö"}},
		{"not UTF-8 across fragments", begin(text, "\xce") + end("\xce"), []string{"8 1007"}},
		{"bytes of no text in fragments", begin(binary, "\xff") + end("\xce"), []string{"2 \xff\xce"}},
		{"a close between fragments", begin(text, "never whole") + good, []string{"8 1000"}},
		{"a code and nothing of UTF-8", clientFrame(close, "\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"), []string{"8 1007"}},
	}
	for _, code := range []int{1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3999, 4000} {
		table = append(table, row{fmt.Sprint("code ", code), clientFrame(close, string([]byte{byte(code >> 8), byte(code)})), []string{fmt.Sprint("8 ", code)}})
	}
	for _, code := range []int{0, 1004, 1006, 1015, 1016, 1100, 2000, 2999, 65535} {
		table = append(table, row{fmt.Sprint("code ", code), clientFrame(close, string([]byte{byte(code >> 8), byte(code)})), []string{"8 1002"}})
	}
	for _, tt := range table {
		t.Run(tt.name, func(t *testing.T) {
			for _, way := range []string{"events", "over_http", "proxied"} {
				for _, pieces := range []int{1, 7} {
					t.Run(fmt.Sprint(way, "/pieces=", pieces), func(t *testing.T) {
						f, path := echoing(t, way)
						c := f.shake(t, path).answered(101)
						c.sayRaw(tt.say, pieces)
						for _, want := range tt.want {
							if way == "events" { // where all is text
								want = strings.Replace(want, "2 ", "1 ", 1)
							}
							c.wantAsIs(want)
						}
						if !strings.HasPrefix(tt.want[len(tt.want)-1], "8") {
							c.sayRaw(good, 1)
							c.wantAsIs("8 1000")
						}
						c.wantCut()
					})
				}
			}
		})
	}
}

// echoing is a gateway, and a path where WebSockets hear what they have said.
func echoing(t *testing.T, way string) (f *fixture, path string) {
	t.Helper()
	switch way {
	case "events":
		return start(t, nil), "/events/list/"
	case "over_http":
		return start(t, func(c *Config) { c.Routes = "* test" }), "/"
	}
	checkGoroutines(t)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(1 << 20)
		for {
			typ, p, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), typ, p) != nil {
				return
			}
		}
	}))
	t.Cleanup(origin.Close)
	return start(t, func(c *Config) { c.Routes = "* " + origin.Listener.Addr().String() }), "/"
}

// sayRaw sends bytes in pieces. The other side may stop listening at any.
func (c *rawSocket) sayRaw(b string, pieces int) {
	for size := len(b)/pieces + 1; len(b) > 0; {
		n := min(size, len(b))
		if _, err := c.conn.Write([]byte(b[:n])); err != nil {
			return
		}
		b = b[n:]
	}
}

// wantAsIs checks the next frame: its op and payload, but of a close only the code.
func (c *rawSocket) wantAsIs(want string) {
	c.t.Helper()
	op, payload, err := c.frame()
	got := fmt.Sprintf("%d %s", op, payload)
	if op == ws.OpClose {
		got = strings.TrimSuffix(fmt.Sprintf("8 %d", closeCode(payload)), " 0")
		if want == "8" && got == "8 1000" { // so do origins answer that are not asked which
			got = "8"
		}
	}
	if err != nil || got != want {
		c.t.Fatalf("got %.200q and error %v, want %.200q", got, err, want)
	}
}

func closeCode(payload string) int {
	if len(payload) < 2 {
		return 0
	}
	return int(payload[0])<<8 | int(payload[1])
}
