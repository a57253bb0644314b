package grip

import (
	"bytes"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func equalEvents(a, b []Event) bool {
	return slices.EqualFunc(a, b, func(a, b Event) bool { return a.Type == b.Type && bytes.Equal(a.Content, b.Content) })
}

func TestParseEvents(t *testing.T) {
	text := func(s string) Event { return Event{EventText, []byte(s)} }
	for _, tt := range []struct {
		name, body string
		want       []Event
	}{
		{"none", "", nil},
		{"open", "OPEN\r\n", []Event{{Type: EventOpen}}},
		{"a batch", "OPEN\r\nTEXT 5\r\nhello\r\nPING\r\nPONG 2\r\nhi\r\nCLOSE\r\n", []Event{{Type: EventOpen}, text("hello"), {Type: EventPing}, {EventPong, []byte("hi")}, {Type: EventClose}}},
		{"length in either case", "TEXT 0A\r\n0123456789\r\nTEXT a\r\n0123456789\r\n", []Event{text("0123456789"), text("0123456789")}},
		{"empty text, both spellings", "TEXT\r\nTEXT 0\r\n\r\n", []Event{text(""), text("")}},
		{"content may look like events", "BINARY 8\r\nOPEN\r\n\r\n\r\n", []Event{{EventBinary, []byte("OPEN\r\n\r\n")}}},
		{"unknown types are ignored", "SONG 2\r\nla\r\nSIT\r\nopen\r\nDISCONNECT\r\n", []Event{{Type: EventDisconnect}}},
		{"close", "CLOSE 5\r\n\x03\xe8bye\r\n", []Event{{EventClose, []byte("\x03\xe8bye")}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseEvents([]byte(tt.body))
			if err != nil || !equalEvents(got, tt.want) {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestParseEventsErrors(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{"OPEN", "events: byte 0: line without end"},
		{"OPEN\n", "events: byte 0: line without end"},
		{"\r\n", "events: byte 0: no type"},
		{"OPEN\r\n 5\r\nhello\r\n", "events: byte 6: no type"},
		{"TEXT 5\r\nhell", "events: byte 0: content does not end after 5 bytes"},
		{"TEXT 5\r\nhello", "events: byte 0: content does not end after 5 bytes"},
		{"TEXT 4\r\nhello\r\n", "events: byte 0: content does not end after 4 bytes"},
		{"TEXT \r\n\r\n", `events: byte 0: length "" is not hexadecimal`},
		{"TEXT -1\r\n\r\n", `events: byte 0: length "-1" is not hexadecimal`},
		{"TEXT 5 6\r\n\r\n", `events: byte 0: length "5 6" is not hexadecimal`},
		{"TEXT ffffffffffffffff\r\n\r\n", `events: byte 0: length "ffffffffffffffff" is not hexadecimal`},
		{"TEXT 7fffffffffffffff\r\n\r\n", "events: byte 0: content does not end after 9223372036854775807 bytes"},
	} {
		t.Run(tt.body, func(t *testing.T) {
			if _, err := ParseEvents([]byte(tt.body)); errorText(err) != tt.want {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestAppendEvent(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    Event
		want string
	}{
		{"open", Event{Type: EventOpen}, "OPEN\r\n"},
		{"lower-case length", Event{EventText, []byte("0123456789")}, "TEXT a\r\n0123456789\r\n"},
		{"empty message", Event{Type: EventBinary}, "BINARY 0\r\n\r\n"},
		{"empty ping", Event{EventPing, []byte{}}, "PING\r\n"},
		{"close", Event{EventClose, CloseContent(1000, "bye")}, "CLOSE 5\r\n\x03\xe8bye\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendEvent([]byte("^"), tt.e)); got != "^"+tt.want {
				t.Errorf("got %q, want %q", got, "^"+tt.want)
			}
		})
	}
}

func TestAppendEventDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1024)
	e := Event{EventText, []byte(strings.Repeat("x", 300))}
	if n := testing.AllocsPerRun(100, func() { buf = AppendEvent(buf[:0], e) }); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestClose(t *testing.T) {
	long := strings.Repeat("é", 100)
	for _, tt := range []struct {
		name   string
		code   int
		reason string
		want   string // content
		back   string // reason as read again
	}{
		{"code only", 1000, "", "\x03\xe8", ""},
		{"reason", 1012, "soon", "\x03\xf4soon", "soon"},
		{"no code, no content", 0, "lost", "", ""},
		{"a code too large for the frame", 65536, "lost", "", ""},
		{"cut between characters", 4000, long, "\x0f\xa0" + long[:122], long[:122]},
		{"not UTF-8", 4000, "a\xff", "\x0f\xa0a\uFFFD", "a\uFFFD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			content := CloseContent(tt.code, tt.reason)
			if string(content) != tt.want {
				t.Errorf("got %q, want %q", content, tt.want)
			}
			wantCode := tt.code
			if len(tt.want) == 0 {
				wantCode = 0
			}
			if code, reason, err := ParseClose(content); code != wantCode || reason != tt.back || err != nil {
				t.Errorf("got %d %q %v, want %d %q", code, reason, err, wantCode, tt.back)
			}
		})
	}
	for _, broken := range []string{"\x03", "\x03\xe8\xff"} {
		if _, _, err := ParseClose([]byte(broken)); err == nil {
			t.Errorf("%q: got no error, want one", broken)
		}
	}
}

func TestParseExtension(t *testing.T) {
	for _, tt := range []struct {
		name, value, prefix string
		ok                  bool
	}{
		{"none", "", "", false},
		{"alone", "grip", "m:", true},
		{"no prefix", `grip; message-prefix=""`, "", true},
		{"its own prefix", `grip; message-prefix="a;,\"b"`, `a;,"b`, true},
		{"without quotes", "grip;message-prefix=x:", "x:", true},
		{"another parameter", "grip; sugar=1", "m:", true},
		{"behind another", "permessage-deflate; client_max_window_bits, grip", "m:", true},
		{"another", "gripe", "", false},
		{"a quote without end", `grip; message-prefix="`, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			if tt.value != "" {
				h.Set("Sec-WebSocket-Extensions", tt.value)
			}
			if prefix, ok := ParseExtension(h); prefix != tt.prefix || ok != tt.ok {
				t.Errorf("got %q, %t, want %q, %t", prefix, ok, tt.prefix, tt.ok)
			}
		})
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte("OPEN\r\nTEXT 5\r\nhello\r\nPING\r\nBINARY A\r\n0123456789\r\nX 1\r\n1\r\nCLOSE 2\r\n\x03\xe8\r\n"))
	f.Add([]byte("TEXT ffffffffffffffff\r\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		want, err := ParseEvents(body)
		if err != nil {
			return
		}
		var wire []byte
		for _, e := range want {
			wire = AppendEvent(wire, e)
			if code, reason, err := ParseClose(e.Content); e.Type == EventClose && err == nil && code != 0 && len(reason) <= 123 {
				if again := CloseContent(code, reason); !bytes.Equal(again, e.Content) {
					t.Errorf("close: got %q, want %q", again, e.Content)
				}
			}
		}
		if got, err := ParseEvents(wire); err != nil || !equalEvents(got, want) {
			t.Errorf("got %q, %v from %q, want %q", got, err, wire, want)
		}
	})
}

func TestParseControl(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Control
	}{
		{"subscribe", `c:{"type": "subscribe", "channel": "room-1"}`, Control{Type: "subscribe", Channel: "room-1"}},
		{
			"reliable subscription", `c:{"type": "subscribe", "channel": "a", "filters": ["skip-self"], "prev-id": "", "link": "/n"}`,
			Control{Type: "subscribe", Channel: "a", Filters: []string{"skip-self"}, HasPrevID: true, Link: "/n"},
		},
		{
			"a subscription known by a name, to whatever the link names", `c:{"type": "subscribe", "name": "s1", "link": "/n"}`,
			Control{Type: "subscribe", Name: "s1", Link: "/n"},
		},
		{"and its end", `c:{"type": "unsubscribe", "name": "s1"}`, Control{Type: "unsubscribe", Name: "s1"}},
		{"unsubscribe", `c: {"type": "unsubscribe", "channel": "a"}`, Control{Type: "unsubscribe", Channel: "a"}},
		{"detach", `c:{"type": "detach", "more": 1}`, Control{Type: "detach"}},
		{"session", `c:{"type": "session", "id": "x"}`, Control{Type: "session", ID: "x"}},
		{"set-meta", `c:{"type": "set-meta", "name": "user", "value": ""}`, Control{Type: "set-meta", Name: "user", HasValue: true}},
		{"set-meta that removes", `c:{"type": "set-meta", "name": "user"}`, Control{Type: "set-meta", Name: "user"}},
		{
			"keep-alive", `c:{"type": "keep-alive", "content": "", "message-type": "ping", "timeout": 0, "mode": "interval"}`,
			Control{Type: "keep-alive", HasContent: true, MessageType: "ping", Timeout: MinKeepAlive, Mode: "interval"},
		},
		{"keep-alive that stops", `c:{"type": "keep-alive"}`, Control{Type: "keep-alive", Timeout: DefaultTimeout}},
		{
			"send-delayed", `c:{"type": "send-delayed", "content-bin": "AAE", "timeout": "0.25"}`,
			Control{Type: "send-delayed", ContentBin: "AAE=", HasContent: true, Timeout: 250 * time.Millisecond},
		},
		{"flush-delayed", `c:{"type": "flush-delayed"}`, Control{Type: "flush-delayed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := ParseControl([]byte(tt.text))
			if !ok || err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, %t, %v, want %+v", got, ok, err, tt.want)
			}
			again, _, err := ParseControl(AppendControl(nil, got))
			if err != nil || !reflect.DeepEqual(again, tt.want) {
				t.Errorf("written and read again: got %+v, %v, want %+v", again, err, tt.want)
			}
		})
	}
}

func TestParseControlErrors(t *testing.T) {
	for _, text := range []string{"", "c", "m:c:{}", "C:{}", ` c:{"type":"detach"}`} {
		if _, ok, err := ParseControl([]byte(text)); ok || err != nil {
			t.Errorf("%q: got %t, %v, want it to be a message like any other", text, ok, err)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{`c:`, "not JSON: EOF"},
		{`c:[]`, "message is not an object"},
		{`c:{}`, "message does not contain 'type'"},
		{`c:{"type": "sing"}`, `unknown type "sing"`},
		{`c:{"type": ""}`, `unknown type ""`},
		{`c:{"type": "subscribe"}`, "subscribe does not contain 'channel'"},
		{`c:{"type": "subscribe", "name": "s1"}`, "subscribe does not contain 'channel'"},
		{`c:{"type": "unsubscribe", "link": "/n"}`, "unsubscribe does not contain 'channel'"},
		{`c:{"type": "subscribe", "link": 1}`, "subscribe contains 'link' with wrong type"},
		{`c:{"type": "subscribe", "channel": ""}`, "subscribe contains 'channel' with invalid value"},
		{`c:{"type": "subscribe", "channel": "a", "filters": [1]}`, "subscribe contains 'filters' with wrong type of value"},
		{`c:{"type": "subscribe", "channel": "a", "prev-id": 1}`, "subscribe contains 'prev-id' with wrong type"},
		{`c:{"type": "set-meta", "name": ""}`, "set-meta contains 'name' with invalid value"},
		{`c:{"type": "keep-alive", "message-type": "song"}`, "keep-alive contains 'message-type' with unknown value"},
		{`c:{"type": "keep-alive", "mode": "often"}`, "keep-alive contains 'mode' with unknown value"},
		{`c:{"type": "keep-alive", "timeout": -1}`, "keep-alive contains 'timeout' with invalid value"},
		{`c:{"type": "send-delayed", "content-bin": "?"}`, "send-delayed contains 'content-bin' with invalid value"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			_, ok, err := ParseControl([]byte(tt.text))
			if want := "control message: " + tt.want; !ok || errorText(err) != want {
				t.Errorf("got %t, error %v, want %s", ok, err, want)
			}
		})
	}
}

func TestControlMessage(t *testing.T) {
	for _, tt := range []struct {
		name    string
		c       Control
		mt      MessageType
		content string
		ok      bool
	}{
		{"nothing stops", Control{Type: ControlKeepAlive}, TextMessage, "", false},
		{"empty ping", Control{HasContent: true, MessageType: "ping"}, PingMessage, "", true},
		{"text", Control{Content: "x"}, TextMessage, "x", true},
		{"base64", Control{ContentBin: "AAE=", MessageType: "binary"}, BinaryMessage, "\x00\x01", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if mt, content, ok := tt.c.Message(); mt != tt.mt || string(content) != tt.content || ok != tt.ok {
				t.Errorf("got %v %q %t, want %v %q %t", mt, content, ok, tt.mt, tt.content, tt.ok)
			}
		})
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte(`c:{"type": "subscribe", "channel": "a", "filters": ["b"], "prev-id": "c", "link": "d"}`))
	f.Add([]byte(`c:{"type": "keep-alive", "content-bin": "AAE=", "message-type": "pong", "timeout": 1.5, "mode": "idle"}`))
	f.Add([]byte(`c:{"type": "set-meta", "name": "a", "value": "b"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		want, ok, err := ParseControl(text)
		if !ok || err != nil || !utf8.Valid(text) {
			return
		}
		if _, _, given := want.Message(); want.HasContent != given {
			t.Errorf("got content %t from %+v", given, want)
		}
		wire := AppendControl(nil, want)
		got, ok, err := ParseControl(wire)
		if want.Timeout == 0 { // which is written as the default
			got.Timeout = 0
		}
		if !ok || err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %t, %v from %s, want %+v", got, ok, err, wire, want)
		}
	})
}
