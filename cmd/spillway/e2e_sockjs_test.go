package main_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spillway/relay/kafkatest"
)

// sockPage connects by one transport, and keeps what it gets.
const sockPage = `<!doctype html><meta charset="utf-8"><title>page</title><script src="/client.js"></script><script>
var got = [], opened = 0, errors = 0, ended = false, how = null;
var [url, transport] = decodeURIComponent(location.hash.slice(1)).split(" ");
var sock = new SockJS(url, null, {transports: [transport]});
sock.onopen = function() { opened++; };
sock.onmessage = function(e) { got.push(e.data); };
sock.onclose = function(e) { ended = true; how = [e.code, e.reason]; };
</script>`

// The client that SockJS has for browsers, in one, by each of its transports: in a
// page of the gateway's own site, and in one of another.
func TestSockJS(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("a browser runs with SPILLWAY_E2E=full")
	}
	origins, err := filepath.Abs("../../testdata/origins")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(origins, "origins.sh"), "fetch", "sockjs").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		kafkatest.Skip(t, fmt.Sprintf("sockjs-client cannot be had: %s", out))
	case err != nil:
		t.Fatalf("origins.sh fetch sockjs: %v: %s", err, out)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/client.js" {
			http.ServeFile(w, r, filepath.Join(origins, "sockjs/node_modules/sockjs-client/dist/sockjs.min.js"))
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, sockPage)
	}))
	t.Cleanup(site.Close)

	control := fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t))
	// The built-in test target says back what it is told, and subscribes to test.
	s := newServer(t, "CONTROL_ADDR="+control, "SOCKJS_URL=/client.js", "SOCKJS_RESPONSE_BYTES=4KiB",
		"ROUTES=*,path_beg=/sock,sockjs=/sock,sockjs_as_path=/ test; * "+site.Listener.Addr().String())
	s.command = "gateway"
	s.start()
	publish := func(item string) {
		t.Helper()
		resp, err := http.Post("http://"+control+"/publish/", "application/json", strings.NewReader(`{"items":[{"channel":"test",`+item+`}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusOK {
			t.Fatalf("publish: got %s", resp.Status)
		}
	}

	b := openBrowser(t)
	for _, tt := range []struct {
		where, page string
		transports  []string
	}{
		{"same site", s.url, []string{"websocket", "xhr-streaming", "eventsource", "htmlfile", "xhr-polling", "jsonp-polling"}},
		// Another port is another origin.
		{"another", site.URL, []string{"websocket", "xhr-streaming", "eventsource", "xhr-polling", "iframe-eventsource", "iframe-htmlfile", "iframe-xhr-polling", "jsonp-polling"}},
	} {
		for _, transport := range tt.transports {
			t.Run(tt.where+"/"+transport, func(t *testing.T) {
				b.t = t
				b.open(tt.page + "/#" + s.url + "/sock%20" + transport)
				b.await("it is connected", `opened === 1`)
				// More than a response carries, and what browsers mangle.
				b.await("it has said all", `!window.said && (window.said = true) && (() => {
					for (var i = 0; i < 100; i++) sock.send(i + " " + "\u2028\ufff0\u00e9<\/script>".repeat(10));
					return true })()`)
				b.await("all is back, in order", `got.length === 100 && got.every((m, i) => m === i + " " + "\u2028\ufff0\u00e9<\/script>".repeat(10))`)
				publish(`"formats":{"ws-message":{"content":"published"}}`)
				b.await("the item", `got.length === 101 && got[100] === "published" && sock.transport === "`+transport+`"`)
				publish(`"formats":{"ws-message":{"action":"close","code":3001,"reason":"so long"}}`)
				b.await("the end", `ended && how[0] === 3001 && how[1] === "so long"`)
			})
		}
	}
}
