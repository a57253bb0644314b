package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// tokenPage does what its fragment says: it reads an event stream with the cookies of
// its visitor, a WebSocket with a token, or both.
const tokenPage = `<!doctype html><meta charset="utf-8"><title>page</title><script>
var got = [], opened = 0, errors = 0, ended = false, told = []; // of the event stream
var said = [], answers = [], closed = false; // of the WebSocket
var what = JSON.parse(decodeURIComponent(location.hash.slice(1)));
if (what.socket) {
  var socket = new WebSocket(what.socket, what.protocols);
  socket.onclose = function() { closed = true; };
  socket.onmessage = function(e) {
    var m = JSON.parse(e.data);
    if (m.type === "record") said.push(m.value); else answers.push(m.type);
  };
}
if (what.url) {
  var source = new EventSource(what.url, {withCredentials: true});
  source.onopen = function() { opened++; };
  source.onerror = function() { errors++; ended = source.readyState === EventSource.CLOSED; };
  source.onmessage = function(e) { got.push({data: e.data}); };
  source.addEventListener("stream-error", function(e) { told.push(JSON.parse(e.data).code); });
}
</script>`

// TestBrowserTokens has pages of other origins read with what a browser shows of its
// visitor: cookies, where CORS_ORIGINS names the page's origin, and a token in the
// subprotocol.
func TestBrowserTokens(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("a browser runs with SPILLWAY_E2E=full")
	}
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	site := func(handler http.HandlerFunc) *httptest.Server {
		s := httptest.NewServer(handler)
		t.Cleanup(s.Close)
		return s
	}
	show := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, tokenPage)
	}
	var cookie atomic.Value // of the visitor; it counts for all ports of a host
	listed := site(func(w http.ResponseWriter, r *http.Request) {
		c := &http.Cookie{Name: "session", Value: cookie.Load().(string), Path: "/"}
		if c.Value == "" {
			c.MaxAge = -1
		}
		http.SetCookie(w, c)
		show(w, r)
	})
	other := site(show)
	s := serve(t, k, "JWT_KEY="+tokenKey, "JWT_LEEWAY=0s", "AUTH_COOKIE=session", "CORS_ORIGINS="+listed.URL, "LOG_LEVEL=debug", "AUDIT_LOG=-")
	k.Produce(values(topic, 0, "before")...)
	events := s.url + "/events/" + topic + "/?from=earliest"
	b := openBrowser(t)
	open := func(site *httptest.Server, what map[string]any) {
		t.Helper()
		text, err := json.Marshal(what)
		if err != nil {
			t.Fatal(err)
		}
		b.open(site.URL + "/#" + url.PathEscape(string(text)))
	}
	long := tokenFor(t, "alice", topic, time.Hour)

	cookie.Store(long)
	open(listed, map[string]any{"url": events})
	b.await("a listed origin reads", `got.length === 1 && got[0].data === "before"`)
	open(other, map[string]any{"url": events}) // the browser has the cookie, and sends it
	b.await("an origin that is not listed does not", `ended && opened === 0 && got.length === 0`)
	eventually(t, "both had a cookie", func() (bool, string) {
		text := s.log.String()
		return strings.Count(text, `"event":"open"`) == 2, text
	})
	cookie.Store("")
	open(listed, map[string]any{"url": events})
	b.await("nor does anyone without the cookie", `ended && opened === 0 && got.length === 0`)

	// What both are opened with expires; one of them renews it.
	const lives = 11 * time.Second
	begun := time.Now()
	short := tokenFor(t, "alice", topic, lives)
	open(listed, map[string]any{
		"url":    events + "&access_token=" + short,
		"socket": "ws" + strings.TrimPrefix(events, "http"), "protocols": []string{"spillway.v1.json", asSubprotocol(short)},
	})
	b.await("a token in the URL", `got.length === 1`)
	b.await("a token in the subprotocol", `socket.protocol === "spillway.v1.json" && said.includes("before")`)
	var sent bool
	b.evaluate(fmt.Sprintf(`(socket.send(JSON.stringify({type: "auth", token: %q, ref: 1})), true)`, long), &sent)
	b.await("it is renewed", `answers.includes("authenticated")`)
	b.await("the event stream is told why it ends", `told.includes("token-expired")`)
	b.await("it comes again by itself, is refused, and stops", `ended && opened === 1`)
	if took := time.Since(begun); took < lives-time.Second {
		t.Errorf("it ended after %v, want its token's %v", took, lives)
	}
	k.Produce(values(topic, 0, "after")...)
	b.await("the WebSocket goes on", `!closed && said.includes("after")`)

	_, metrics := fetch(t, s.ops+"/metrics")
	for _, token := range []string{short, long} {
		if text := s.log.String() + metrics; strings.Contains(text, token) || strings.Contains(text, asSubprotocol(token)) {
			t.Error("there is a token in the log, the audit log or the metrics")
		}
	}
}
