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
// path_beg is removed first. Without a channel it is "test".
func testResponse(out *outgoing, rt *route.Route) *http.Response {
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
	values, _ := url.ParseQuery(query) // what can be read of it
	for _, name := range values["channel"] {
		doc.Hold.Channels = append(doc.Hold.Channels, channel{name})
	}
	if doc.Hold.Channels == nil {
		doc.Hold.Channels = []channel{{"test"}}
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
