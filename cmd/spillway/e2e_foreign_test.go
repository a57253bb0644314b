package main_test

// Identities and proxies of others: an OpenID provider, a Django application that
// knows its users, and nginx in front.

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"spillway/relay/kafkatest"
)

// A provider is testdata/origins/oidc: npm's oidc-provider.
type provider struct {
	t   *testing.T
	url string
}

// newProvider starts a provider with these clients.
func newProvider(t *testing.T, clients ...string) *provider {
	t.Helper()
	home := librariesOf(t, "oidc", "node")
	port := port(t)
	cmd := exec.Command("node", "provider.js")
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PORT=" + port, "CLIENTS=" + strings.Join(clients, " ")}
	background(t, cmd)
	awaitListener(t, "127.0.0.1:"+port)
	return &provider{t, "http://127.0.0.1:" + port}
}

// post posts a form, and returns the answer's body.
func (p *provider) post(path string, form url.Values) string {
	p.t.Helper()
	resp, err := http.PostForm(p.url+path, form)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("POST %s: %s %q %v", path, resp.Status, body, err)
	}
	return string(body)
}

// token is a new one of a client.
func (p *provider) token(client string) string {
	p.t.Helper()
	body := p.post("/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {"secret"}, "scope": {"read"}})
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Token == "" {
		p.t.Fatalf("no token in %s: %v", body, err)
	}
	return answer.Token
}

// TestOpenID has tokens of an OpenID provider, of which nothing is known but its
// URL, and whose keys change meanwhile.
func TestOpenID(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	allowed, denied := topic+"-allowed", topic+"-denied"
	k.CreateTopic(allowed, 1)
	k.CreateTopic(denied, 1)
	const lives = 10 * time.Second
	long, short := allowed, fmt.Sprintf("%s:%d", allowed, lives/time.Second)
	p := newProvider(t, long, short)
	s := serve(t, k, "JWT_ISSUER="+p.url, "JWT_AUDIENCE=live", "JWT_LEEWAY=0s")
	events := s.url + "/events/" + allowed + "/"
	wantStatus := func(what, url, token string, want int) string {
		t.Helper()
		resp := get(t, t.Context(), url, "Authorization: Bearer "+token)
		defer resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %s, want %d", what, resp.Status, want)
		}
		return resp.Header.Get("WWW-Authenticate")
	}

	first := p.token(long)
	eventually(t, "the topic is there", func() (bool, string) {
		resp := get(t, t.Context(), events, "Authorization: Bearer "+first)
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	wantStatus("a topic that the token does not list", s.url+"/events/"+denied+"/", first, http.StatusNotFound)
	if _, list := fetch(t, s.url+"/events/", "Authorization: Bearer "+first); !strings.Contains(list, allowed) || strings.Contains(list, denied) {
		t.Errorf("the list has %s, want %s and not %s", list, allowed, denied)
	}
	if got := wantStatus("half a token", events, first[:len(first)-10], http.StatusUnauthorized); !strings.Contains(got, `error="invalid_token"`) {
		t.Errorf("half a token: WWW-Authenticate is %q", got)
	}
	open := subscribe(t, events+"?access_token="+first)

	p.post("/rotate", nil)
	second := p.token(long)
	wantStatus("a token of a new key", events, second, http.StatusOK)
	wantStatus("a token of the old key", events, first, http.StatusOK)
	p.post("/rotate", nil)
	p.post("/retire", nil)
	third := p.token(long)
	wantStatus("a token of the newest key", events, third, http.StatusOK)
	wantStatus("a token of a key that was taken back", events, first, http.StatusUnauthorized)
	k.Produce(values(allowed, 0, "hello")...)
	open.wantData("hello") // it came in when the key was good

	begun := time.Now()
	ending := subscribe(t, events+"?access_token="+p.token(short))
	if got := ending.next(); got.name != "stream-error" || !strings.Contains(got.data, `"code":"token-expired"`) {
		t.Errorf("at the end of the token: got %+v, want a stream-error", got)
	}
	if took := time.Since(begun); took < lives-2*time.Second || took > lives+patience/2 {
		t.Errorf("the stream ended after %v, want the token's %v", took, lives)
	}
	ending.wantEnd()
}

// accounts starts testdata/origins/django/accounts.py, whose users may read topic.
func accounts(t *testing.T, topic, control string) (addr string) {
	t.Helper()
	home := librariesOf(t, "django", "python3")
	addr = "127.0.0.1:" + port(t)
	cmd := exec.Command("python3", "accounts.py", "runserver", "--noreload", addr)
	cmd.Dir = home
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PYTHONPATH=target", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1",
		"TOPICS=" + topic, "GRIP_URL=http://" + control,
	}
	background(t, cmd)
	awaitListener(t, addr)
	return addr
}

// A user is somebody who has logged in.
type user struct{ cookie, token string } // header fields

func login(t *testing.T, s *server, form url.Values) user {
	t.Helper()
	resp, err := http.PostForm(s.url+"/login/", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	token, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 1 {
		t.Fatalf("login of %v: %s, %v, %q, want a cookie and a token", form, resp.Status, err, token)
	}
	c := resp.Cookies()[0]
	return user{"Cookie: " + c.Name + "=" + c.Value, string(token)}
}

// TestDjangoForwardAuth asks a Django application with its own sessions and tokens.
func TestDjangoForwardAuth(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	other := topic + "-other"
	k.CreateTopic(topic, 1)
	k.CreateTopic(other, 1)
	control := "127.0.0.1:" + port(t)
	api := accounts(t, topic, control)
	s := serve(t, k, "CONTROL_ADDR="+control, "ROUTES=* "+api, "AUTH_URL=http://"+api+"/may-read/", "AUTH_CACHE_TTL=0s",
		fmt.Sprintf(`TOPIC_RULES={%q:{"filter":"value.tenant == claims.tenant"}}`, topic))
	ann, bob, eve := login(t, s, url.Values{"user": {"ann"}}), login(t, s, url.Values{"user": {"bob"}}), login(t, s, url.Values{"user": {"eve"}})
	events := s.url + "/events/" + topic + "/"
	eventually(t, "the topic is there", func() (bool, string) {
		resp := get(t, t.Context(), events, ann.cookie)
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})

	acme := []*stream{
		subscribe(t, events, ann.cookie),
		subscribe(t, events, "Authorization: Bearer "+ann.token),
		subscribe(t, events+"?access_token="+url.QueryEscape(ann.token)),
		subscribe(t, events+"?filter="+url.QueryEscape(`true || value.tenant == 'bolt'`), ann.cookie),
	}
	bolt := subscribe(t, events, bob.cookie)
	socket := dial(t, "ws"+strings.TrimPrefix(events, "http"), "spillway.v1.plain", asSubprotocol(bob.token))
	k.Produce(values(topic, 0, `{"tenant":"acme","n":1}`, `{"tenant":"bolt","n":2}`, `{"n":3}`, `{"tenant":"acme","n":4}`)...)
	for _, s := range acme {
		s.wantData(`{"tenant":"acme","n":1}`, `{"tenant":"acme","n":4}`)
	}
	bolt.wantData(`{"tenant":"bolt","n":2}`)
	socket.want(websocket.MessageText, `{"tenant":"bolt","n":2}`)

	for _, tt := range []struct {
		what, url, header string
		status            int
		body              string
	}{
		{"nobody", events, "Accept: */*", http.StatusUnauthorized, "log in first\n"},
		{"a forged token", events, "Authorization: Bearer " + ann.token + "x", http.StatusUnauthorized, "log in first\n"},
		{"who has nothing to read", events, eve.cookie, http.StatusForbidden, "this is not for you\n"},
		{"another topic", s.url + "/events/" + other + "/", ann.cookie, http.StatusNotFound, ""},
		{"no topic", s.url + "/events/" + topic + "-none/", ann.cookie, http.StatusNotFound, ""},
	} {
		resp, body := fetch(t, tt.url, tt.header)
		if resp.StatusCode != tt.status || tt.body != "" && body != tt.body {
			t.Errorf("%s: got %s %q, want %d %q", tt.what, resp.Status, body, tt.status, tt.body)
		}
	}
	_, asked := fetch(t, s.url+"/asked/")
	wantJSON(t, asked, fmt.Sprintf(`{"X-Forwarded-Method":"GET","X-Forwarded-Uri":"/events/%s-none/","X-Forwarded-For":"127.0.0.1","X-Forwarded-Proto":"http"}`, topic))

	ending := subscribe(t, events, login(t, s, url.Values{"user": {"ann"}, "seconds": {"10"}}).cookie)
	if got := ending.next(); got.name != "stream-error" || !strings.Contains(got.data, `"code":"token-expired"`) {
		t.Errorf("at the end of the session: got %+v, want a stream-error", got)
	}
	ending.wantEnd()
}

// TestDjangoOrigin has the same application answer for a topic itself, and hold
// clients on it.
func TestDjangoOrigin(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	control := "127.0.0.1:" + port(t)
	api := accounts(t, topic, control)
	s := serve(t, k, "CONTROL_ADDR="+control, "ROUTES=*,path_beg=/events/ "+api+",over_http; * "+api)
	ann := login(t, s, url.Values{"user": {"ann"}})
	events := s.url + "/events/" + topic + "/"
	for _, tt := range []struct {
		url    string
		status int
	}{
		{events, http.StatusUnauthorized},
		{events + "?access_token=abc", http.StatusUnauthorized},
		{s.url + "/events/other/", http.StatusUnauthorized},
		{s.url + "/events/?topic=" + topic, http.StatusNotFound}, // nor by the built-in origin
	} {
		if resp, body := fetch(t, tt.url); resp.StatusCode != tt.status {
			t.Errorf("nobody at %s: got %s %.200q, want %d", tt.url, resp.Status, body, tt.status)
		}
	}
	streams := []*stream{
		subscribe(t, events, ann.cookie),
		subscribe(t, events, "Authorization: Bearer "+ann.token),
		subscribe(t, events+"?access_token="+url.QueryEscape(ann.token)),
	}
	socket := dial(t, "ws"+strings.TrimPrefix(events, "http"), "chat", asSubprotocol(ann.token))
	eventually(t, "all listen", func() (bool, string) {
		var list struct {
			Channels []struct {
				Name        string
				Subscribers int
			}
		}
		_, body := fetch(t, "http://"+control+"/channels")
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		return len(list.Channels) == 1 && list.Channels[0].Name == topic && list.Channels[0].Subscribers == 4, body
	})
	k.Produce(values(topic, 0, "hello", "größer")...)
	for _, s := range streams {
		s.wantData("hello", "größer")
	}
	socket.want(websocket.MessageText, "hello")
	socket.want(websocket.MessageText, "größer")
}

// TestNginx has Debian's nginx in front, as README.md says: it ends TLS, and is
// believed who the client is.
func TestNginx(t *testing.T) {
	t.Parallel()
	if !kafkatest.Full() {
		t.Skip("nginx runs with SPILLWAY_E2E=full")
	}
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		if nginx, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			kafkatest.Skip(t, "nginx is not installed")
		}
	}
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	var seen atomic.Pointer[http.Header]
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen.Store(&r.Header) }))
	t.Cleanup(api.Close)
	s := serve(t, k, "AUTH_URL="+api.URL, "AUTH_CACHE_TTL=0s", "TRUSTED_PROXIES=127.0.0.1", "HEARTBEAT_INTERVAL=1s")

	all, _ := readme(t)
	snippets := blocksOf(all, "nginx")
	if len(snippets) != 1 {
		t.Fatalf("README.md has %d snippets for nginx, want 1", len(snippets))
	}
	dir, front := t.TempDir(), "127.0.0.1:"+port(t)
	cert, key := certificate(t)
	config := fmt.Sprintf(`
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {
        listen %s ssl;
        ssl_certificate %s;
        ssl_certificate_key %s;
        %s
    }
}
`, front, cert, key, strings.ReplaceAll(snippets[0], "http://127.0.0.1:7999", s.url))
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, exec.Command(nginx, "-p", dir, "-e", "stderr", "-c", "nginx.conf", "-g", "daemon off; master_process off;"))
	awaitListener(t, front)

	// Another address than nginx's own. What the client says of itself counts for nothing.
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	client := &http.Client{Transport: &http.Transport{DialContext: from.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	t.Cleanup(client.CloseIdleConnections)
	wantSeen := func(uri string) {
		t.Helper()
		for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.2", "X-Forwarded-Proto": "https", "X-Forwarded-Host": front, "X-Forwarded-Uri": uri, "Authorization": "Bearer abc"} {
			if got := seen.Load().Get(name); got != want {
				t.Errorf("the API was shown %s %q, want %q", name, got, want)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	path := "/events/" + topic + "/"
	ask := func() *http.Response {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+front+path+"?access_token=abc", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		req.Header.Set("X-Forwarded-For", "192.0.2.1")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	eventually(t, "the topic is there", func() (bool, string) {
		resp := ask()
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	events := readStream(t, ask(), cancel)
	wantSeen(path)
	events.heartbeat() // nothing is held back until there is more
	k.Produce(values(topic, 0, "hello")...)
	events.wantData("hello")
	events.heartbeat()

	conn, resp, err := websocket.Dial(ctx, "wss://"+front+path, &websocket.DialOptions{
		HTTPClient: client, Subprotocols: []string{"spillway.v1.plain", asSubprotocol("abc")}, HTTPHeader: http.Header{"X-Forwarded-For": {"192.0.2.1"}},
	})
	if err != nil {
		t.Fatalf("WebSocket: %v, %v", resp, err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	wantSeen(path)
	k.Produce(values(topic, 0, "again")...)
	(&wsConn{t, conn}).want(websocket.MessageText, "again")
	events.wantData("again")
}
