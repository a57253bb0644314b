package grip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"spillway/grip/jsonstring"
)

func TestParseItems(t *testing.T) {
	stream := func(s string) *HTTPStream { return &HTTPStream{Content: []byte(s)} }
	for _, tt := range []struct {
		name string
		item string
		want Item
	}{
		{
			"all of it",
			`{"channel": "fruit", "id": "4", "prev-id": "3", "formats": {
				"http-stream": {"content": "apple\n"},
				"http-response": {"code": 201, "reason": "Yes", "headers": {"Content-Type": "text/plain"}, "body": "apple\n"},
				"ws-message": {"content": "apple"}},
			  "meta": {"sender": "bob"}, "no-seq": true, "size": 6, "unknown": []}`,
			Item{
				Channel: "fruit", ID: "4", PrevID: "3", Meta: map[string]string{"sender": "bob"}, NoSeq: true, Size: 6,
				HTTPStream: stream("apple\n"),
				HTTPResponse: &HTTPResponse{
					Code: 201, Reason: "Yes", Headers: []Header{{"Content-Type", "text/plain"}}, Body: []byte("apple\n"),
				},
				WSMessage: &WSMessage{Content: []byte("apple")},
			},
		},
		{"old form", `{"channel": "a", "http-stream": {"content": "x"}}`, Item{Channel: "a", HTTPStream: stream("x")}},
		{"a key", `{"channel": "a", "key": "k", "http-stream": {"content": "x"}}`, Item{Channel: "a", Key: "k", HTTPStream: stream("x")}},
		{"a key that is somebody else's", `{"channel": "a", "key": {"k": 1}, "http-stream": {"content": "x"}}`, Item{Channel: "a", HTTPStream: stream("x")}},
		{"formats hide the old form", `{"channel": "a", "formats": {"ws-message": {"content": ""}}, "http-stream": {"content": "x"}}`, Item{Channel: "a", WSMessage: &WSMessage{Content: []byte{}}}},
		{"formats nobody knows", `{"channel": "a", "formats": {"carrier-pigeon": 1}}`, Item{Channel: "a"}},
		{"numbers as strings", `{"channel": "a", "size": "7", "formats": {"http-response": {"code": "404", "body": ""}}}`, Item{Channel: "a", Size: 7, HTTPResponse: &HTTPResponse{Code: 404, Body: []byte{}}}},
		{"content-bin wins", `{"channel": "a", "formats": {"http-stream": {"content": "x", "content-bin": "AAE="}}}`, Item{Channel: "a", HTTPStream: stream("\x00\x01")}},
		{"base64 without padding, with line breaks", `{"channel": "a", "formats": {"http-stream": {"content-bin": "AA\r\nE"}}}`, Item{Channel: "a", HTTPStream: stream("\x00\x01")}},
		{"content-bin is a binary message", `{"channel": "a", "formats": {"ws-message": {"content-bin": "AAE="}}}`, Item{Channel: "a", WSMessage: &WSMessage{Type: BinaryMessage, Content: []byte{0, 1}}}},
		{"unless the type says otherwise", `{"channel": "a", "formats": {"ws-message": {"content-bin": "eA==", "type": "text"}}}`, Item{Channel: "a", WSMessage: &WSMessage{Content: []byte("x")}}},
		{"binary from text", `{"channel": "a", "formats": {"ws-message": {"content": "x", "type": "binary"}}}`, Item{Channel: "a", WSMessage: &WSMessage{Type: BinaryMessage, Content: []byte("x")}}},
		{"ping needs no content", `{"channel": "a", "formats": {"ws-message": {"type": "ping"}}}`, Item{Channel: "a", WSMessage: &WSMessage{Type: PingMessage}}},
		{"pong may have some", `{"channel": "a", "formats": {"ws-message": {"type": "pong", "content": "x"}}}`, Item{Channel: "a", WSMessage: &WSMessage{Type: PongMessage, Content: []byte("x")}}},
		{"of two members the last counts", `{"channel": "a", "channel": "b", "formats": 1, "formats": {"http-stream": 1, "http-stream": {"content": 1, "content": "x"}}}`, Item{Channel: "b", HTTPStream: stream("x")}},
		{"what is not UTF-8", `{"channel": "a` + "\xff" + `", "formats": {"http-stream": {"content": "\ud800\u0062"}}}`, Item{Channel: "a\uFFFD", HTTPStream: stream("\uFFFDb")}},
		{"in any order, with more", `{"formats": {"http-stream": {"a": [{}], "content": "x"}, "b": [[]]}, "x": {"y": [1, null]}, "channel": "a"}`, Item{Channel: "a", HTTPStream: stream("x")}},
		{"send is the default", `{"channel": "a", "formats": {"http-stream": {"action": "send", "content": "x"}}}`, Item{Channel: "a", HTTPStream: stream("x")}},
		{"hint needs nothing", `{"channel": "a", "formats": {"http-stream": {"action": "hint"}, "http-response": {"action": "hint", "code": []}}}`, Item{Channel: "a", HTTPStream: &HTTPStream{Action: ActionHint}, HTTPResponse: &HTTPResponse{Action: ActionHint}}},
		{"close", `{"channel": "a", "formats": {"ws-message": {"action": "close", "code": 4000, "reason": "bye"}, "http-stream": {"action": "close"}}}`, Item{Channel: "a", HTTPStream: &HTTPStream{Action: ActionClose}, WSMessage: &WSMessage{Action: ActionClose, Code: 4000, Reason: "bye"}}},
		{"refresh", `{"channel": "a", "formats": {"ws-message": {"action": "refresh"}}}`, Item{Channel: "a", WSMessage: &WSMessage{Action: ActionRefresh}}},
		{"header pairs keep order and repeats", `{"channel": "a", "formats": {"http-response": {"headers": [["B", "1"], ["A", "2"], ["B", "3"]], "body-bin": "AAE="}}}`, Item{Channel: "a", HTTPResponse: &HTTPResponse{Headers: []Header{{"B", "1"}, {"A", "2"}, {"B", "3"}}, Body: []byte{0, 1}}}},
		{"patch keeps its numbers", `{"channel": "a", "formats": {"http-response": {"body-patch": [{"value": 12345678901234567890.5, "op": "add"}]}}}`, Item{Channel: "a", HTTPResponse: &HTTPResponse{BodyPatch: json.RawMessage(`[{"value": 12345678901234567890.5, "op": "add"}]`)}}},
		{"a body hides a patch", `{"channel": "a", "formats": {"http-response": {"body": "x", "body-patch": []}}}`, Item{Channel: "a", HTTPResponse: &HTTPResponse{Body: []byte("x")}}},
		{"content filters", `{"channel": "a", "formats": {"http-stream": {"content": "", "content-filters": ["build-id"]}}}`, Item{Channel: "a", HTTPStream: &HTTPStream{Content: []byte{}, ContentFilters: []string{"build-id"}}}},
		{"no content filters is not the same as none given", `{"channel": "a", "formats": {"http-stream": {"content": "", "content-filters": []}}}`, Item{Channel: "a", HTTPStream: &HTTPStream{Content: []byte{}, ContentFilters: []string{}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseItems([]byte(`{"items": [` + tt.item + `]}`))
			if err != nil {
				t.Fatalf("got error %q, want none", err)
			}
			if !reflect.DeepEqual(got, []Item{tt.want}) {
				g, _ := json.Marshal(got[0])
				w, _ := json.Marshal(tt.want)
				t.Errorf("got  %s\nwant %s", g, w)
			}
		})
	}
}

// The texts are Pushpin's, and clients show them to people.
func TestParseItemsErrors(t *testing.T) {
	item := func(s string) string { return `{"items": [` + s + `]}` }
	format := func(s string) string { return item(`{"channel": "a", "formats": {` + s + `}}`) }
	for _, tt := range []struct{ body, want string }{
		{``, "Body is not valid JSON."},
		{`{"items": []`, "Body is not valid JSON."},
		{`{"items": []} x`, "Body is not valid JSON."},
		{`[]`, "Invalid format."},
		{`null`, "Invalid format."},
		{`{"Items": []}`, "Invalid format: object does not contain 'items'"},
		{`{"items": {}}`, "Invalid format: object contains 'items' with wrong type"},
		{item(`1`), "Invalid format: publish item object is not an object"},
		{item(`{}`), "Invalid format: publish item object does not contain 'channel'"},
		{item(`{"channel": 1}`), "Invalid format: publish item object contains 'channel' with wrong type"},
		{item(`{"channel": "a", "id": 1}`), "Invalid format: publish item object contains 'id' with wrong type"},
		{item(`{"channel": "a", "id": null}`), "Invalid format: publish item object contains 'id' with wrong type"},
		{item(`{"channel": "a", "prev-id": 1}`), "Invalid format: publish item object contains 'prev-id' with wrong type"},
		{item(`{"channel": "a", "formats": []}`), "Invalid format: publish item object contains 'formats' with wrong type"},
		{item(`{"channel": "a", "formats": {}}`), "Invalid format: no formats specified"},
		{item(`{"channel": "a", "http-stream": null}`), "Invalid format: no formats specified"},
		{item(`{"channel": "a"}`), "Invalid format: no formats specified"},
		{format(`"http-stream": 1`), "Invalid format: 'http-stream' is not an object"},
		{format(`"http-stream": {}`), "Invalid format: 'http-stream' does not contain 'content' or 'content-bin'"},
		{format(`"http-stream": {"content": 1}`), "Invalid format: 'http-stream' contains 'content' with wrong type"},
		{format(`"http-stream": {"content-bin": 1}`), "Invalid format: 'http-stream' contains 'content-bin' with wrong type"},
		{format(`"http-stream": {"content-bin": "?"}`), "Invalid format: 'http-stream' contains 'content-bin' with invalid value"},
		{format(`"http-stream": {"action": 1}`), "Invalid format: 'http-stream' contains 'action' with wrong type"},
		{format(`"http-stream": {"action": "sing"}`), "Invalid format: "},
		{format(`"http-stream": {"content": "", "content-filters": ""}`), "Invalid format: 'http-stream' contains 'content-filters' with wrong type"},
		{format(`"http-stream": {"content": "", "content-filters": [1]}`), "Invalid format: content-filters contains element with wrong type"},
		{format(`"http-response": {}`), "Invalid format: 'http-response' does not contain 'body', 'body-bin', or 'body-patch'"},
		{format(`"http-response": {"code": 1000}`), "Invalid format: 'http-response' contains 'code' with invalid value"},
		{format(`"http-response": {"code": "-1"}`), "Invalid format: 'http-response' contains 'code' with invalid value"},
		{format(`"http-response": {"code": []}`), "Invalid format: 'http-response' contains 'code' with wrong type"},
		{format(`"http-response": {"reason": 1}`), "Invalid format: 'http-response' contains 'reason' with wrong type"},
		{format(`"http-response": {"headers": 1}`), "Invalid format: 'http-response' contains 'headers' with wrong type"},
		{format(`"http-response": {"headers": {"A": 1}}`), "Invalid format: headers contains 'A' with wrong type"},
		{format(`"http-response": {"headers": [1]}`), "Invalid format: headers contains element with wrong type"},
		{format(`"http-response": {"headers": [["A"]]}`), "Invalid format: headers contains list with wrong number of elements"},
		{format(`"http-response": {"headers": [[1, "A"]]}`), "Invalid format: header contains name element with wrong type"},
		{format(`"http-response": {"headers": [["A", 1]]}`), "Invalid format: header contains value element with wrong type"},
		{format(`"http-response": {"body": 1}`), "Invalid format: 'http-response' contains 'body' with wrong type"},
		{format(`"http-response": {"body-patch": {}}`), "Invalid format: 'http-response' contains 'body-patch' with wrong type"},
		{format(`"ws-message": {}`), "Invalid format: 'ws-message' does not contain 'content' or 'content-bin'"},
		{format(`"ws-message": {"type": "song"}`), "Invalid format: 'ws-message' contains 'type' with unknown value"},
		{format(`"ws-message": {"type": 1}`), "Invalid format: 'ws-message' contains 'type' with wrong type"},
		{format(`"ws-message": {"action": "close", "code": -1}`), "Invalid format: 'ws-message' contains 'code' with invalid value"},
		{format(`"ws-message": {"action": "close", "reason": 1}`), "Invalid format: 'ws-message' contains 'reason' with wrong type"},
		{item(`{"channel": "a", "http-stream": {"content": ""}, "meta": 1}`), "Invalid format: publish item object contains 'meta' with wrong type"},
		{item(`{"channel": "a", "http-stream": {"content": ""}, "meta": {"b": 1, "a": 2}}`), "Invalid format: 'meta' contains 'a' with wrong type"},
		{item(`{"channel": "a", "http-stream": {"content": ""}, "size": -1}`), "Invalid format: publish item object contains 'size' with invalid value"},
		{item(`{"channel": "a", "http-stream": {"content": ""}, "size": null}`), "Invalid format: publish item object contains 'size' with wrong type"},
		{item(`{"channel": "a", "http-stream": {"content": ""}, "no-seq": 1}`), "Invalid format: publish item object contains 'no-seq' with wrong type"},
		{`{"items": [{}], "items": [1]}`, "Invalid format: publish item object is not an object"},
		{`{"items": 1, "items": [], "x": }`, "Body is not valid JSON."},
		{item(`{}, {"channel": "a", "formats": {"http-stream": {"content": ""}}`), "Body is not valid JSON."},
		{item(`{"channel": "a", "http-stream": {"content": ""}}, {}`), "Invalid format: publish item object does not contain 'channel'"},
	} {
		t.Run(tt.body, func(t *testing.T) {
			got, err := ParseItems([]byte(tt.body))
			if errorText(err) != tt.want || got != nil {
				t.Errorf("got %v, error %q, want error %q", got, errorText(err), tt.want)
			}
		})
	}
}

func TestParseItemsFor(t *testing.T) {
	const formats = `"formats": {"http-stream": {"content": "x"}}`
	for _, tt := range []struct{ name, body, want string }{
		{"none", `{"items": [{` + formats + `}]}`, ""},
		{"the same", `{"items": [{"channel": "a", ` + formats + `}, {` + formats + `}]}`, ""},
		{"another", `{"items": [{"channel": "b", ` + formats + `}]}`, "Invalid format: publish item object contains 'channel' that is not the one of the request"},
		{"a number", `{"items": [{"channel": 1, ` + formats + `}]}`, "Invalid format: publish item object contains 'channel' with wrong type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			items, err := ParseItemsFor("a", []byte(tt.body))
			if got := errorText(err); got != tt.want {
				t.Fatalf("got error %q, want %q", got, tt.want)
			}
			for _, it := range items {
				if it.Channel != "a" {
					t.Errorf("got channel %q, want a", it.Channel)
				}
			}
		})
	}
}

func TestItemsRoundTrip(t *testing.T) {
	want := []Item{
		{
			Channel: "a\"\\\n\u2028é", ID: "1", PrevID: "0", Key: "k\n", NoSeq: true, Size: 9, Meta: map[string]string{"b": "2", "a": "1"},
			HTTPStream:   &HTTPStream{Content: []byte("\x00\x1f\r\t<é>"), ContentFilters: []string{"build-id", "var-subst"}},
			HTTPResponse: &HTTPResponse{Code: 404, Reason: "No", Headers: []Header{{"B", "1"}, {"A", "2"}, {"B", "3"}}, Body: []byte{0xff}},
			WSMessage:    &WSMessage{Content: []byte{0xff}, ContentFilters: []string{}},
		},
		{Channel: "b", WSMessage: &WSMessage{Type: BinaryMessage, Content: []byte("x")}},
		{Channel: "b", WSMessage: &WSMessage{Type: PingMessage, Content: []byte{}}},
		{Channel: "b", WSMessage: &WSMessage{Action: ActionClose, Code: 4001, Reason: "bye"}},
		{Channel: "b", HTTPStream: &HTTPStream{Action: ActionHint}, HTTPResponse: &HTTPResponse{BodyPatch: json.RawMessage(`[]`)}},
	}
	wire := AppendItems(nil, want...)
	if !json.Valid(wire) {
		t.Fatalf("got %q, want JSON", wire)
	}
	got, err := ParseItems(wire)
	clear(wire) // the items do not refer to it
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestAppendItems(t *testing.T) {
	for _, tt := range []struct {
		name  string
		items []Item
		want  string
	}{
		{"none", nil, `{"items":[]}`},
		{"text", []Item{{Channel: "a", HTTPStream: &HTTPStream{Content: []byte("x\n")}}}, `{"items":[{"channel":"a","formats":{"http-stream":{"content":"x\n"}}}]}`},
		{"two", []Item{{Channel: "a", HTTPStream: &HTTPStream{Action: ActionClose}}, {Channel: "b", WSMessage: &WSMessage{Content: []byte{0x80}}}}, `{"items":[{"channel":"a","formats":{"http-stream":{"action":"close"}}},{"channel":"b","formats":{"ws-message":{"type":"text","content-bin":"gA=="}}}]}`},
		{"a channel that is not UTF-8", []Item{{Channel: "a\xff", HTTPStream: &HTTPStream{}}}, `{"items":[{"channel":"a` + "\uFFFD" + `","formats":{"http-stream":{"content":""}}}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendItems([]byte("^"), tt.items...)); got != "^"+tt.want {
				t.Errorf("got  %s\nwant ^%s", got, tt.want)
			}
		})
	}
}

func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\x00\x1f\u2028é\xff\xe2\x82")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(jsonstring.Append(nil, s), &got); err != nil {
			t.Fatalf("got %v for %q", err, s)
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); utf8.ValidString(s) && got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if !bytes.Equal(jsonstring.Append(nil, s), jsonstring.Append(nil, []byte(s))) {
			t.Errorf("string and bytes of %q differ", s)
		}
	})
}

func FuzzParseItems(f *testing.F) {
	f.Add([]byte(`{"items": [{"channel": "fruit", "id": "4", "prev-id": "3", "key": "k", "formats": {"http-stream": {"content": "apple\n"},
		"http-response": {"code": 200, "headers": {"Content-Type": "text/plain"}, "body": "apple\n"}, "ws-message": {"content": "apple"}},
		"meta": {"sender": "bob"}, "no-seq": false, "size": 6}]}`))
	f.Add([]byte(`{"items": [{"channel": "", "http-response": {"body-patch": [1e3, {"<": null}], "content-filters": []}, "size": "1.5"}]}`))
	f.Add([]byte(`{"items": [{"channel": "a", "formats":null, "formats": {"http-response":1, "http-response":{"body-bin":"AA==", "headers":[["a","b"]]}}, "http-stream": null}],"items":[]}`))
	f.Add([]byte(`{"items": [{"channel": "\ud800\u0061\ud83d\ude00` + "\xff" + `", "formats":{"ws-message":{"type":"text","content":"a\"\n","content-filters":["x"]}}, "meta":{"a":"1","\u0061":"3"}}]}`))
	f.Add([]byte(`{"items": [{"channel": "a", "ws-message": {"action": "close", "code": 1e1}, "http-stream": {"content-bin": "gA", "action": "send"}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		items, err := ParseItems(body)
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, "Body is not valid JSON.") && !strings.HasPrefix(text, "Invalid format") {
				t.Errorf("got error %q, want one that Pushpin gives", text)
			}
			return
		}
		for _, it := range items {
			if it.HTTPStream == nil && it.HTTPResponse == nil && it.WSMessage == nil {
				return // nothing that could be written
			}
		}
		wire := AppendItems(nil, items...)
		again, err := ParseItems(wire)
		if err != nil {
			t.Fatalf("got error %q from our own %s", err, wire)
		}
		if got := AppendItems(nil, again...); !bytes.Equal(got, wire) {
			t.Errorf("got  %s\nwant %s", got, wire)
		}
	})
}

func BenchmarkParseItems(b *testing.B) {
	for _, n := range []int{1, 100} {
		items := make([]Item, n)
		for i := range items {
			items[i] = Item{
				Channel: "orders", ID: fmt.Sprint(i + 1), PrevID: fmt.Sprint(i),
				HTTPStream: &HTTPStream{Content: bytes.Repeat([]byte("x"), 512)},
			}
		}
		wire := AppendItems(nil, items...)
		b.Run(fmt.Sprintf("items=%d/size=512", n), func(b *testing.B) {
			b.SetBytes(int64(len(wire)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseItems(wire); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
