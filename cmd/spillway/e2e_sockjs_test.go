package main_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

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

	t.Run("WebSocket over HTTP", func(t *testing.T) {
		// The built-in test target says back what it is told, and subscribes to test.
		testSockJS(t, site.URL, "ROUTES=*,path_beg=/sock,sockjs=/sock,sockjs_as_path=/ test; * "+site.Listener.Addr().String())
	})
	// Browsers speak HTTP/2 then, except on WebSockets.
	t.Run("WebSocket with TLS", func(t *testing.T) {
		origin := httptest.NewServer(http.HandlerFunc(sayBack))
		t.Cleanup(origin.Close)
		cert, key := certificate(t)
		testSockJS(t, site.URL, "TLS_CERT_FILE="+cert, "TLS_KEY_FILE="+key,
			"ROUTES=*,path_beg=/sock,sockjs=/sock "+origin.Listener.Addr().String()+",sub=test; * "+site.Listener.Addr().String())
	})
}

// certificate is a server's own, in files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	own := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b *pem.Block) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("tls.crt", &pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}), write("tls.key", &pem.Block{Type: "PRIVATE KEY", Bytes: key})
}

// sayBack is a WebSocket that says back what it is told.
func sayBack(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // the test meets it
	}
	defer func() { _ = conn.CloseNow() }()
	for {
		typ, p, err := conn.Read(r.Context())
		if err != nil || conn.Write(r.Context(), typ, p) != nil {
			return
		}
	}
}

// testSockJS has a browser speak by each transport with a gateway whose sessions say
// everything back, and are subscribed to test. another is a site with the page.
func testSockJS(t *testing.T, another string, env ...string) {
	control := fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t))
	s := newServer(t, append([]string{"CONTROL_ADDR=" + control, "SOCKJS_URL=/client.js", "SOCKJS_RESPONSE_BYTES=4KiB"}, env...)...)
	s.command = "gateway"
	if strings.HasPrefix(env[0], "TLS") {
		s.url = "https" + strings.TrimPrefix(s.url, "http")
	}
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
		{"another", another, []string{"websocket", "xhr-streaming", "eventsource", "xhr-polling", "iframe-eventsource", "iframe-htmlfile", "iframe-xhr-polling", "jsonp-polling"}},
	} {
		for _, transport := range tt.transports {
			t.Run(tt.where+"/"+transport, func(t *testing.T) {
				b.t = t
				b.open(tt.page + "/#" + s.url + "/sock%20" + transport)
				b.await("it is connected", `opened === 1`)
				if tt.page == s.url && strings.HasPrefix(s.url, "https:") {
					b.await("it speaks HTTP/2", `performance.getEntriesByType("navigation")[0].nextHopProtocol === "h2"`)
				}
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
