package upstream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"spillway/gateway/route"
	"spillway/grip"
)

// testResponse answers for the target "test", with which a set-up can be tried
// before there is an origin (GRIP reference, 11):
//
//	/                        a line of text
//	/stream?channel=NAME…    a stream hold
//	/response?channel=NAME…  a response hold
//
// path_beg is removed first. Without a channel it is "test". A WebSocket gets its
// own messages back, and is on the channels.
func testResponse(out *outgoing, rt *route.Route) *http.Response {
	if out.kind == kindEvents {
		return testEvents(out)
	}
	switch strings.TrimPrefix(out.path, rt.PathBeg) {
	case "/":
		return respond(out, http.StatusOK, "text/plain", "Hello from the Spillway test handler!\n")
	case "/stream":
		return respond(out, http.StatusOK, grip.ContentTypeInstruct, testInstruct(out.query, grip.HoldStream, "[stream opened]\n"))
	case "/response":
		return respond(out, http.StatusOK, grip.ContentTypeInstruct, testInstruct(out.query, grip.HoldResponse, "nothing for now\n"))
	}
	return respond(out, http.StatusNotFound, "text/plain", "no such test resource\n")
}

// testInstruct is a document and not headers, because a channel name from the
// query may hold what no header can.
func testInstruct(query string, mode grip.HoldMode, body string) string {
	type channel struct {
		Name string `json:"name"`
	}
	var doc struct {
		Hold struct {
			Mode     grip.HoldMode `json:"mode"`
			Channels []channel     `json:"channels"`
		} `json:"hold"`
		Response struct {
			Headers map[string]string `json:"headers"`
			Body    string            `json:"body"`
		} `json:"response"`
	}
	for _, name := range testChannels(query) {
		doc.Hold.Channels = append(doc.Hold.Channels, channel{name})
	}
	doc.Hold.Mode = mode
	doc.Response.Headers = map[string]string{"Content-Type": "text/plain"}
	doc.Response.Body = body
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings and maps of strings always marshal
	}
	return string(text)
}

// testChannels are those that a query names.
func testChannels(query string) []string {
	values, _ := url.ParseQuery(query) // what can be read of it
	if names := values["channel"]; names != nil {
		return names
	}
	return []string{"test"}
}

func testEvents(out *outgoing) *http.Response {
	events, err := grip.ParseEvents(out.events)
	if err != nil {
		return respond(out, http.StatusBadRequest, "text/plain", err.Error()+"\n")
	}
	var body []byte
	for _, e := range events {
		switch e.Type {
		case grip.EventOpen:
			body = grip.AppendEvent(body, e)
			for _, name := range testChannels(out.query) {
				body = grip.AppendControlEvent(body, grip.Control{Type: grip.ControlSubscribe, Channel: name})
			}
		case grip.EventText, grip.EventBinary:
			e.Content = append([]byte(grip.DefaultMessagePrefix), e.Content...)
			body = grip.AppendEvent(body, e)
		case grip.EventPing:
			e.Type = grip.EventPong
			body = grip.AppendEvent(body, e)
		case grip.EventClose:
			body = grip.AppendEvent(body, e)
		}
	}
	resp := respond(out, http.StatusOK, grip.ContentTypeEvents, string(body))
	resp.Header.Set("Sec-WebSocket-Extensions", "grip")
	return resp
}

func respond(out *outgoing, code int, contentType, body string) *http.Response {
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", code, http.StatusText(code)),
		StatusCode: code,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"Content-Type":   {contentType},
			"Content-Length": {strconv.Itoa(len(body))},
		},
		ContentLength: int64(len(body)),
		Body:          io.NopCloser(strings.NewReader(body)),
		Request:       &http.Request{Method: out.method, Header: out.header},
	}
}
