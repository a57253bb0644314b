package grip_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"spillway/grip"
)

// A gateway reads what an origin wants done with its response.
func ExampleParseInstruct() {
	response := http.Header{
		"Content-Type":    {"text/event-stream"},
		"Grip-Hold":       {"stream"},
		"Grip-Channel":    {"fruit; prev-id=3"},
		"Grip-Keep-Alive": {`:\n\n; format=cstring; timeout=20`},
		"Grip-Link":       {"</fruit/?after=3>; rel=next"},
	}
	in, err := grip.ParseInstruct(200, response, []byte("event: hello\n\n"))
	if err != nil {
		fmt.Println(err) // and answer 502
		return
	}
	fmt.Println(in.Hold, in.Channels[0].Channel, in.Channels[0].PrevID)
	fmt.Printf("every %v: %q\n", in.KeepAlive.Timeout, in.KeepAlive.Content)
	fmt.Println("next:", in.Next.URL)
	fmt.Println("the client sees:", in.Header)
	// Output:
	// stream fruit 3
	// every 20s: ":\n\n"
	// next: /fruit/?after=3
	// the client sees: map[Content-Type:[text/event-stream]]
}

// The instructions may also be a document.
func ExampleParseInstruct_document() {
	response := http.Header{"Content-Type": {grip.ContentTypeInstruct}}
	in, err := grip.ParseInstruct(200, response, []byte(`{
		"hold": {"channels": [{"name": "jobs-17"}], "timeout": 30},
		"response": {"code": 204, "headers": {"X-State": "idle"}}
	}`))
	fmt.Println(in.Hold, in.Channels[0].Channel, in.Timeout, in.Code, in.Header, err)
	// Output: response jobs-17 30s 204 map[X-State:[idle]] <nil>
}

func ExampleParseItems() {
	items, err := grip.ParseItems([]byte(`{"items": [
		{"channel": "fruit", "id": "4", "prev-id": "3", "formats": {"http-stream": {"content": "apple\n"}}}
	]}`))
	fmt.Printf("%s %s %q %v\n", items[0].Channel, items[0].ID, items[0].HTTPStream.Content, err)

	_, err = grip.ParseItems([]byte(`{"items": [{"channel": "fruit"}]}`))
	fmt.Println(err)
	// Output:
	// fruit 4 "apple\n" <nil>
	// Invalid format: no formats specified
}

func ExampleAppendItems() {
	body := grip.AppendItems(nil, grip.Item{
		Channel:    "fruit",
		HTTPStream: &grip.HTTPStream{Content: []byte("apple\n")},
		WSMessage:  &grip.WSMessage{Type: grip.BinaryMessage, Content: []byte{0, 1}},
	})
	fmt.Printf("%s\n", body)
	// Output: {"items":[{"channel":"fruit","formats":{"http-stream":{"content":"apple\n"},"ws-message":{"type":"binary","content-bin":"AAE="}}}]}
}

// A publisher posts to every proxy of a GRIP_URL.
func ExampleHTTPPublisher() {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer proxy.Close()

	proxies, err := grip.ParseURLs(proxy.URL + "/?key=token")
	if err != nil {
		fmt.Println(err)
		return
	}
	publisher := grip.NewHTTPPublisher(proxies, nil)
	err = publisher.Publish(context.Background(), grip.Item{
		Channel: "fruit", HTTPStream: &grip.HTTPStream{Content: []byte("apple\n")},
	})
	fmt.Println(err)
	// Output:
	// POST /publish/ Bearer token
	// <nil>
}

// The first answer of an origin to a WebSocket over HTTP.
func ExampleAppendEvent() {
	var body []byte
	body = grip.AppendEvent(body, grip.Event{Type: grip.EventOpen})
	body = grip.AppendControlEvent(body, grip.Control{Type: grip.ControlSubscribe, Channel: "room-1"})
	body = grip.AppendEvent(body, grip.Event{Type: grip.EventText, Content: []byte("m:welcome")})
	fmt.Printf("%q\n", body)
	// Output: "OPEN\r\nTEXT 29\r\nc:{\"type\":\"subscribe\",\"channel\":\"room-1\"}\r\nTEXT 9\r\nm:welcome\r\n"
}

func ExampleParseEvents() {
	events, err := grip.ParseEvents([]byte("TEXT 5\r\nhello\r\nCLOSE 5\r\n\x03\xe8bye\r\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range events {
		if e.Type != grip.EventClose {
			fmt.Printf("%s %q\n", e.Type, e.Content)
			continue
		}
		code, reason, err := grip.ParseClose(e.Content)
		fmt.Println(e.Type, code, reason, err)
	}
	// Output:
	// TEXT "hello"
	// CLOSE 1000 bye <nil>
}

func ExampleParseControl() {
	for _, text := range []string{`c:{"type": "set-meta", "name": "user", "value": "alice"}`, `m:hello`} {
		c, isControl, err := grip.ParseControl([]byte(text))
		fmt.Println(isControl, c.Type, c.Name, c.Value, err)
	}
	// Output:
	// true set-meta user alice <nil>
	// false    <nil>
}

func ExampleAppendLast() {
	h := make(http.Header)
	grip.AppendLast(h, grip.Last{Channel: "fruit", ID: "3"}, grip.Last{Channel: "veg", ID: "a,b"})
	fmt.Println(h["Grip-Last"])
	lasts, err := grip.ParseLast(h)
	fmt.Println(lasts, err)
	// Output:
	// [fruit; last-id=3 veg; last-id="a,b"]
	// [{fruit 3} {veg a,b}] <nil>
}

// An origin trusts a request that shows a Grip-Sig by the right key.
func ExampleKey_Verify() {
	key, err := grip.ParseKey("changeme")
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Now()
	sig, err := key.Sign("pushpin", now)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(key.Verify(sig, now))
	_, err = key.Verify(sig, now.Add(2*time.Hour))
	fmt.Println(err != nil)
	fmt.Println(key)
	// Output:
	// pushpin <nil>
	// true
	// ‹hidden›
}
