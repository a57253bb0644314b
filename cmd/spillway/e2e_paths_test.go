package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// rawGet sends a request whose target is not touched by any client library, and
// returns the answer.
func rawGet(t *testing.T, s *server, target string, header ...string) (status int, body string) {
	t.Helper()
	addr := strings.TrimPrefix(s.url, "http://")
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAccept: application/json\r\n", target, addr)
	for _, h := range header {
		fmt.Fprintf(conn, "%s\r\n", h)
	}
	io.WriteString(conn, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	return resp.StatusCode, string(b)
}

// TestPathTricks spells the names of topics that may not be read in every way
// that servers have been deceived with.
func TestPathTricks(t *testing.T) {
	k := kafkatest.Fake(t)
	for _, topic := range []string{"open", "secret", "routed"} {
		k.CreateTopic(topic, 1)
		k.Produce(values(topic, 0, "value of "+topic)...)
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "the API says no")
	}))
	defer api.Close()
	s := serve(t, k, "JWT_KEY="+tokenKey, "ROUTES=*,path_beg=/events/routed/ "+strings.TrimPrefix(api.URL, "http://"))
	auth := "Authorization: Bearer " + tokenFor(t, "alice", "open routed", time.Hour)
	const since = "?from=earliest&wait=1s"
	eventually(t, "the topics are there", func() (bool, string) {
		_, body := rawGet(t, s, "/events/open/"+since, auth)
		return strings.Contains(body, "value of open"), body
	})

	for _, target := range []string{
		"/events/%6fpen/", "/events/open", "/events/open,/", "/events/open%2C/", "/events/?topic=open&x=", "/events/open/?topic=open",
	} {
		q := strings.Replace(since, "?", "&", 1)
		if !strings.Contains(target, "?") {
			q = since
		}
		status, body := rawGet(t, s, strings.Replace(target, "&x=", "", 1)+q, auth)
		if status != 200 || !strings.Contains(body, "value of open") {
			t.Errorf("%s: %d %s, want the topic that may be read", target, status, body)
		}
	}
	for _, target := range []string{
		"/events/secret/", "/events/secret", "/events/%73ecret/", "/events/%2573ecret/", "/events//secret/", "//events/secret/", "/events/./secret/",
		"/events/open/../secret/", "/events/open/%2e%2e/secret/", "/events/open%2f..%2fsecret/", "/events/open/..%5csecret/", "/events/SECRET/", "/Events/secret/",
		"/events/secret%00/", "/events/secret%00open/", "/events/open%00,secret/", "/events/%c1%b3ecret/", "/events/%c0%ae%c0%ae/secret/", "/events/secret%20/", "/events/secret;x/",
		"/events/secret/open/", "/events/open,secret/", "/events/open%2csecret/", "/events/open%252csecret/", "/events/open/?topic=secret", "/events/?topic=open,secret", "/events/?topic=secret",
		"/events/?topic=open&topic=secret", "/events/?%74opic=secret", "/events/open/?topic=%73ecret", "http://other.example/events/secret/", "/events/secret/?access_token=",
		"/events/~next/secret", "/events/%7enext/secret",
	} {
		status, body := rawGet(t, s, target, auth)
		if status == 200 || strings.Contains(body, "value of secret") {
			t.Errorf("%s: %d %s, want none of it", target, status, body)
		}
	}
	// What a route has taken over is the API's to answer, or nobody's.
	for _, target := range []string{
		"/events/routed/", "/events/routed", "/events/%72outed/", "/events/routed%2f", "/events/open,routed/", "/events/routed,open/", "/events/?topic=routed", "/events/open/?topic=routed",
		"/events//routed/", "/events/./routed/", "/events/open/../routed/", "/events/routed,/", "/events/,routed/", "/events/routed%2C/",
	} {
		status, body := rawGet(t, s, target, auth)
		if status != 404 && !(status == 403 && body == "the API says no") && status != 400 || strings.Contains(body, "value of") {
			t.Errorf("%s: %d %s, want 404, or the API's answer", target, status, body)
		}
	}
	if _, body := rawGet(t, s, "/events/", auth); strings.Contains(body, "routed") || strings.Contains(body, "secret") || !strings.Contains(body, "open") {
		t.Errorf("the list is %s", body)
	}
	ws := dial(t, s.url+"/events/open/", "spillway.v1.json", asSubprotocol(tokenFor(t, "alice", "open routed", time.Hour)))
	for ref, topics := range []string{`["routed"]`, `["open","routed"]`, `["secret"]`, `["open,secret"]`, `["secret/"]`, `["../secret"]`} {
		ws.send(fmt.Sprintf(`{"type":"subscribe","topics":%s,"ref":%d}`, topics, ref))
		m := ws.message(func(m string) bool { return strings.Contains(m, fmt.Sprintf(`"ref":%d`, ref)) })
		if !strings.Contains(m, `"type":"error"`) {
			t.Errorf("subscribe to %s: %s", topics, m)
		}
	}
}
