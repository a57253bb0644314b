package grip

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

// eventsRequest is what a proxy sends about a WebSocket.
func eventsRequest(body string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/chat", strings.NewReader(body))
	r.Header = fields("Content-Type: application/websocket-events", "Connection-Id: c1", "Sec-WebSocket-Extensions: grip")
	maps.Copy(r.Header, fields(header...))
	return r
}

func TestReadWebSocket(t *testing.T) {
	ws, err := ReadWebSocket(eventsRequest("OPEN\r\nTEXT 2\r\nhi\r\n", "Meta-User: alice", "Content-Bytes-Replayed: 1"))
	if err != nil {
		t.Fatal(err)
	}
	if ws.ID != "c1" || !ws.Opening() || len(ws.Events) != 2 || string(ws.Events[1].Content) != "hi" || ws.Meta("USER") != "alice" || ws.Replayed != 1 || ws.MessagePrefix != "m:" {
		t.Errorf("got %+v, want what the request says", ws)
	}
	large := "TEXT f4240\r\n" + strings.Repeat("x", 1_000_000) + "\r\n"
	for _, tt := range []struct {
		name   string
		r      *http.Request
		change func(r *http.Request)
		want   string
	}{
		{"no type", eventsRequest(""), func(r *http.Request) { r.Header.Del("Content-Type") }, `events: a POST of "" is no WebSocket over HTTP`},
		{"GET", eventsRequest(""), func(r *http.Request) { r.Method = http.MethodGet }, "events: a GET of"},
		{"no id", eventsRequest(""), func(r *http.Request) { r.Header.Del("Connection-Id") }, "events: no Connection-Id"},
		{"no events", eventsRequest("TEXT x\r\n"), nil, `events: byte 0: length "x" is not hexadecimal`},
		{"too many", eventsRequest(large), nil, "events: more than 1000000 bytes"},
		{"replayed", eventsRequest("", "Content-Bytes-Replayed: -1"), nil, `Content-Bytes-Replayed: "-1" is not a number of bytes`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.r)
			}
			if _, err := ReadWebSocket(tt.r); !strings.Contains(errorText(err), tt.want) {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
		})
	}
	r := eventsRequest(large)
	r.Body = http.MaxBytesReader(nil, r.Body, 10)
	_, err = ReadWebSocket(r)
	if _, ok := errors.AsType[*http.MaxBytesError](err); !ok {
		t.Errorf("got error %v, want one that says 413", err)
	}
}

func TestRespond(t *testing.T) {
	const open = "OPEN\r\n"
	subscribed := string(AppendControlEvent(nil, Control{Type: ControlSubscribe, Channel: "room", Filters: []string{"skip-self"}}))
	for _, tt := range []struct {
		name   string
		body   string
		header []string
		do     func(ws *WebSocket)
		want   string
		extra  http.Header // besides the type
	}{
		{"nothing to say", "TEXT 1\r\nx\r\n", nil, func(*WebSocket) {}, "", fields()},
		{
			"let in", open, nil,
			func(ws *WebSocket) {
				ws.Subscribe("room", "skip-self")
				ws.SendText("welcome")
				ws.SendBinary([]byte{0xff})
				ws.SetMeta("User", "alice")
				ws.SetMeta("old", "")
				ws.AskAfter(30*time.Second + 1)
				ws.Accept() // OPEN is first, whenever it is said
			},
			open + subscribed + "TEXT 9\r\nm:welcome\r\nBINARY 3\r\nm:\xff\r\n",
			fields("Sec-Websocket-Extensions: grip", "Set-Meta-User: alice", "Set-Meta-Old:", "Keep-Alive-Interval: 31"),
		},
		{
			"without a prefix", open, nil,
			func(ws *WebSocket) { ws.MessagePrefix = ""; ws.Accept(); ws.SendText("x") },
			open + "TEXT 1\r\nx\r\n", fields(`Sec-Websocket-Extensions: grip; message-prefix=""`),
		},
		{
			"a prefix of its own", open, nil,
			func(ws *WebSocket) { ws.MessagePrefix = `";`; ws.Accept(); ws.SendText("c:x") },
			open + "TEXT 5\r\n\";c:x\r\n", fields(`Sec-Websocket-Extensions: grip; message-prefix="\";"`),
		},
		{
			"where GRIP is not spoken", open, []string{"Sec-WebSocket-Extensions: other"},
			func(ws *WebSocket) { ws.Accept(); ws.SendText("c:x") }, // a message like any other
			open + "TEXT 3\r\nc:x\r\n", fields(),
		},
		{"let in later", open, nil, func(ws *WebSocket) { ws.AskAfter(time.Minute) }, "", fields("Keep-Alive-Interval: 60")},
		{"now it is later", "", nil, func(ws *WebSocket) { ws.Accept() }, open, fields("Sec-Websocket-Extensions: grip")},
		{"pings are answered", "PING 2\r\nhi\r\nPING\r\n", nil, func(ws *WebSocket) { ws.SendText("x") }, "PONG 2\r\nhi\r\nPONG\r\nTEXT 3\r\nm:x\r\n", fields()},
		{"a close is answered", "CLOSE 5\r\n\x03\xe8bye\r\n", nil, func(ws *WebSocket) { ws.SendText("x") }, "TEXT 3\r\nm:x\r\nCLOSE 5\r\n\x03\xe8bye\r\n", fields()},
		{"a close without a code is too", "CLOSE\r\n", nil, func(*WebSocket) {}, "CLOSE\r\n", fields()},
		{"one that is no close is not", "CLOSE 1\r\nx\r\n", nil, func(*WebSocket) {}, "", fields()},
		{"by the origin's own words", "CLOSE 2\r\n\x03\xe8\r\n", nil, func(ws *WebSocket) { ws.Close(4000, "no") }, "CLOSE 4\r\n\x0f\xa0no\r\n", fields()},
		{"cut off", "CLOSE 2\r\n\x03\xe8\r\n", nil, func(ws *WebSocket) { ws.Disconnect() }, "DISCONNECT\r\n", fields()},
		{
			"a part is taken", "TEXT 3\r\nabc\r\nPING\r\nPING 1\r\nx\r\nCLOSE\r\n", nil, func(ws *WebSocket) { ws.AcceptBytes(3) },
			"PONG\r\n", fields("Content-Bytes-Accepted: 3"),
		},
		{
			"everything is taken", "TEXT 3\r\nabc\r\nCLOSE\r\n", nil, func(ws *WebSocket) { ws.AcceptBytes(3) },
			"CLOSE\r\n", fields("Content-Bytes-Accepted: 3"),
		},
		{
			"all control messages", "", nil,
			func(ws *WebSocket) {
				ws.Ping([]byte("p"))
				ws.Unsubscribe("room")
				ws.KeepAlive(TextMessage, []byte("k"), 20*time.Second)
				ws.KeepAlive(PingMessage, nil, 0)
				ws.KeepAlive(BinaryMessage, []byte{0xff}, time.Second)
				ws.KeepAlive(TextMessage, nil, 0)
				ws.Session("s")
				ws.SetSubscriptionMeta("user", "bob")
				ws.SetSubscriptionMeta("user", "")
				ws.Detach()
			},
			"PING 1\r\np\r\n" + controls(`{"type":"unsubscribe","channel":"room"}`,
				`{"type":"keep-alive","content":"k","message-type":"text","timeout":20}`,
				`{"type":"keep-alive","content":"","message-type":"ping"}`,
				`{"type":"keep-alive","content-bin":"/w==","message-type":"binary","timeout":1}`,
				`{"type":"keep-alive"}`, `{"type":"session","id":"s"}`,
				`{"type":"set-meta","name":"user","value":"bob"}`, `{"type":"set-meta","name":"user"}`, `{"type":"detach"}`),
			fields(),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ws, err := ReadWebSocket(eventsRequest(tt.body, tt.header...))
			if err != nil {
				t.Fatal(err)
			}
			tt.do(ws)
			w := httptest.NewRecorder()
			if err := ws.Respond(w); err != nil {
				t.Fatal(err)
			}
			if got := w.Body.String(); got != tt.want || w.Code != http.StatusOK {
				t.Errorf("got %d %q, want %q", w.Code, got, tt.want)
			}
			tt.extra.Set("Content-Type", ContentTypeEvents)
			if got := w.Header(); !reflect.DeepEqual(got, tt.extra) {
				t.Errorf("got header %q, want %q", got, tt.extra)
			}
		})
	}
}

func controls(texts ...string) string {
	var out []byte
	for _, text := range texts {
		out = AppendEvent(out, Event{Type: EventText, Content: []byte("c:" + text)})
	}
	return string(out)
}

func TestRespondMistakes(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
		do   func(ws *WebSocket)
		want string
	}{
		{"neither let in nor refused", "OPEN\r\n", func(ws *WebSocket) { ws.AskAfter(0) }, "the client waits to be let in; call Accept"},
		{"a message for the proxy", "", func(ws *WebSocket) { ws.MessagePrefix = ""; ws.SendText("c:{}") }, "a message that the proxy would take for its own"},
		{"a prefix of the proxy's", "", func(ws *WebSocket) { ws.MessagePrefix = "c:"; ws.SendText("x") }, "a message that the proxy would take for its own"},
		{"not text", "", func(ws *WebSocket) { ws.SendText("\xff") }, "a text message that is not UTF-8"},
		{"no channel", "", func(ws *WebSocket) { ws.Subscribe("") }, "control message: subscribe"},
		{"filters", "", func(ws *WebSocket) { ws.Subscribe("a", make([]string, 6)...) }, `channel "a": 6 filters, more than 5`},
		{"no such message", "", func(ws *WebSocket) { ws.Control(Control{Type: "dance"}) }, `unknown type "dance"`},
		{"meta", "", func(ws *WebSocket) { ws.SetMeta("a b", "") }, `meta "a b": has a name or value`},
		{"meta with a line break", "", func(ws *WebSocket) { ws.SetMeta("a", "x\r\ny") }, `meta "a": has a name or value`},
		{"too few", "TEXT 1\r\nx\r\n", func(ws *WebSocket) { ws.AcceptBytes(-1) }, "-1 bytes accepted of 1"},
		{"too many", "TEXT 1\r\nx\r\n", func(ws *WebSocket) { ws.AcceptBytes(2) }, "2 bytes accepted of 1"},
		{"interval", "", func(ws *WebSocket) { ws.AskAfter(-1) }, "interval -1ns is negative"},
		{"prefix", "", func(ws *WebSocket) { ws.MessagePrefix = "\n" }, `message prefix "\n"`},
		{"too large", "", func(ws *WebSocket) { ws.SendBinary(make([]byte, MaxEventsResponse)) }, "more than 1000000"},
		{"no GRIP", "", func(ws *WebSocket) { ws.grip = false; ws.Detach() }, "a control message to a proxy that does not offer GRIP"},
		{"the first mistake is told", "", func(ws *WebSocket) { ws.SendText("\xff"); ws.SetMeta("", "") }, "not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ws, err := ReadWebSocket(eventsRequest(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			tt.do(ws)
			w := httptest.NewRecorder()
			if err := ws.Respond(w); !strings.HasPrefix(errorText(err), "WebSocket: ") || !strings.Contains(errorText(err), tt.want) {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
			if w.Body.Len() > 0 || len(w.Header()) > 0 {
				t.Errorf("got %q, %q written, want nothing", w.Header(), w.Body)
			}
		})
	}
}

// Whatever a proxy says and an origin answers, the proxy can read.
func FuzzWebSocket(f *testing.F) {
	f.Add([]byte("OPEN\r\nTEXT 2\r\nhi\r\nPING 1\r\nx\r\nCLOSE 2\r\n\x03\xe8\r\n"), "grip", "m:", "user", "alice", 2)
	f.Add([]byte("PING\r\nCLOSE\r\n"), "", "", "", "", -1)
	f.Fuzz(func(t *testing.T, body []byte, extension, prefix, name, value string, taken int) {
		r := eventsRequest(string(body))
		r.Header["Sec-Websocket-Extensions"] = []string{extension}
		r.Header["Meta-"+name] = []string{value}
		ws, err := ReadWebSocket(r)
		if err != nil {
			return
		}
		ws.Accept()
		ws.MessagePrefix = prefix
		ws.SetMeta(name, value)
		ws.AcceptBytes(taken)
		if ws.grip {
			ws.Subscribe(value)
		}
		for _, e := range ws.Events {
			switch e.Type {
			case EventText:
				ws.SendText(string(e.Content))
			case EventBinary:
				ws.SendBinary(e.Content)
			}
		}
		w := httptest.NewRecorder()
		if err := ws.Respond(w); err != nil {
			return
		}
		events, err := ParseEvents(w.Body.Bytes())
		if err != nil || events[0].Type != EventOpen {
			t.Fatalf("got %q, %v, want events that begin with OPEN", w.Body, err)
		}
		got, speaks := ParseExtension(w.Header())
		if speaks != ws.grip || speaks && got != prefix {
			t.Errorf("got prefix %q, %t from %q, want %q, %t", got, speaks, w.Header(), prefix, ws.grip)
		}
		for _, e := range events {
			_, control, err := ParseControl(e.Content)
			if e.Type == EventText && control && ws.grip && (err != nil || !bytes.Contains(e.Content, []byte("subscribe"))) {
				t.Errorf("got control message %q, %v, want none but the origin's", e.Content, err)
			}
		}
	})
}
