package properties

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A provider hands out tokens called token-1, token-2, …, or answers as told.
type provider struct {
	*httptest.Server
	served atomic.Int64

	mu     sync.Mutex
	answer func(w http.ResponseWriter, n int64) // guarded by mu
	seen   *http.Request                        // guarded by mu; with its form parsed
}

func newProvider(t *testing.T, a *authority) *provider {
	t.Helper()
	p := &provider{}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := p.served.Add(1)
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen = r
		p.answer(w, n)
	}))
	p.answers(func(w http.ResponseWriter, n int64) {
		fmt.Fprintf(w, `{"access_token":"token-%d","token_type":"Bearer","expires_in":3600}`, n)
	})
	if a != nil {
		p.TLS = &tls.Config{Certificates: []tls.Certificate{a.server("127.0.0.1")}}
		p.Server.Config.ErrorLog = slog.NewLogLogger(quiet.Handler(), slog.LevelInfo)
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func (p *provider) answers(f func(w http.ResponseWriter, n int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// oidcProperties parses a configuration that gets its tokens at url.
func oidcProperties(t *testing.T, url string, more map[string]string) *Properties {
	t.Helper()
	all := map[string]string{
		"bootstrap.servers": "k", "security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc",
		"sasl.oauthbearer.client.id": "me", "sasl.oauthbearer.client.secret": "s&cret:+%", "sasl.oauthbearer.token.endpoint.url": url,
	}
	for k, v := range more {
		all[k] = v
	}
	p, err := Parse(nil, config(t, all), false)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// firstMessage is what the client sends to a broker to authenticate.
func firstMessage(t *testing.T, p *Properties) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, message, err := p.auth.mechanism(quiet).Authenticate(ctx, "broker.example:9092")
	return string(message), err
}

func TestOIDC(t *testing.T) {
	idp := newProvider(t, nil)
	p := oidcProperties(t, idp.URL+"/token", map[string]string{
		"sasl.oauthbearer.scope": "kafka read", "sasl.oauthbearer.extensions": "logicalCluster=lkc-1, identityPoolId=pool-2",
	})
	got, err := firstMessage(t, p)
	if err != nil {
		t.Fatal(err)
	}
	// RFC 7628, 3.1.
	if want := "n,,\x01auth=Bearer token-1\x01identityPoolId=pool-2\x01logicalCluster=lkc-1\x01\x01"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r := idp.seen
	user, secret, _ := r.BasicAuth()
	request := fmt.Sprint(r.Method, " ", r.URL, " ", r.PostForm.Encode(), " ", r.Header.Get("Content-Type"), " ", user, " ", secret)
	if want := "POST /token grant_type=client_credentials&scope=kafka+read application/x-www-form-urlencoded me s&cret:+%"; request != want {
		t.Errorf("got %s, want %s", request, want)
	}
}

func TestOIDCCaching(t *testing.T) {
	idp := newProvider(t, nil)
	p := oidcProperties(t, idp.URL, nil)
	cache := p.auth.tokens
	want := func(step, token string) {
		t.Helper()
		got, err := firstMessage(t, p)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if !strings.Contains(got, "Bearer "+token+"\x01") {
			t.Errorf("%s: got %q, want %s", step, got, token)
		}
	}
	start := time.Now()
	want("first", "token-1")
	want("second", "token-1")
	if renew, end := cache.renewAt.Sub(start), cache.endsAt.Sub(start); renew.Round(time.Minute) != 48*time.Minute || end.Round(time.Minute) != time.Hour {
		t.Errorf("80 %% of an hour: got %v of %v", renew, end)
	}
	cache.renewAt = time.Now()
	want("after 80 %", "token-2")

	down := func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) }
	idp.answers(down)
	cache.renewAt = time.Now()
	want("provider down, token alive", "token-2")
	cache.renewAt, cache.endsAt = time.Now(), time.Now()
	if got, err := firstMessage(t, p); err == nil || !strings.Contains(err.Error(), "token from "+idp.URL+": status 503") {
		t.Errorf("provider down, token dead: got %q, %v", got, err)
	}

	// A token that does not say how long it lives is used once.
	idp.answers(func(w http.ResponseWriter, n int64) { fmt.Fprintf(w, `{"access_token":"opaque-%d"}`, n) })
	n := idp.served.Load()
	want("no life", fmt.Sprintf("opaque-%d", n+1))
	want("no life, again", fmt.Sprintf("opaque-%d", n+2))
}

// Many connections at once ask the provider once.
func TestOIDCSharesOneRequest(t *testing.T) {
	idp := newProvider(t, nil)
	p := oidcProperties(t, idp.URL, nil)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := firstMessage(t, p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := idp.served.Load(); got != 1 {
		t.Errorf("got %d requests", got)
	}
}

// A wait for the provider ends with the context, also for those in the queue.
func TestOIDCContext(t *testing.T) {
	release := make(chan struct{})
	idp := newProvider(t, nil)
	idp.answers(func(http.ResponseWriter, int64) { <-release })
	defer close(release)
	p := oidcProperties(t, idp.URL, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, _, err := p.auth.mechanism(quiet).Authenticate(ctx, "b:1"); err == nil || ctx.Err() == nil {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

func TestOIDCAuthority(t *testing.T) {
	a := newAuthority(t, "idp")
	idp := newProvider(t, a)
	dir := t.TempDir()
	for _, tt := range []struct {
		name string
		more map[string]string
		want string
	}{
		{"PEM", map[string]string{"https.ca.pem": certPEM(a.cert)}, ""},
		{"file", map[string]string{"https.ca.location": write(t, dir, "ca.pem", certPEM(a.cert))}, ""},
		{"the system's", nil, "unknown authority"},
		{"that of the brokers does not count", map[string]string{"ssl.ca.pem": certPEM(a.cert)}, "unknown authority"},
	} {
		p := oidcProperties(t, idp.URL, tt.more)
		_, err := firstMessage(t, p)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestReadToken(t *testing.T) {
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte("k"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		status      int
		contentType string
		body        string
		token       string
		life        time.Duration // to the minute
		want        string
	}{
		{"usual", 200, "application/json", `{"access_token":"a","expires_in":3600}`, "a", time.Hour, ""},
		{"life as text", 200, "", `{"access_token":"a","expires_in":"3600"}`, "a", time.Hour, ""},
		{"life is in the JWT", 200, "", `{"access_token":"` + signed + `"}`, signed, time.Hour, ""},
		{"life unknown", 200, "", `{"access_token":"a"}`, "a", 0, ""},
		{"life not above 0", 200, "", `{"access_token":"a","expires_in":-5}`, "a", 0, ""},
		{"life beyond reason", 200, "", `{"access_token":"a","expires_in":1e300}`, "a", 24 * time.Hour, ""},
		{"no token", 200, "", `{}`, "", 0, "the answer holds no access_token"},
		{"a token that is none", 200, "", `{"access_token":"a\u0001b"}`, "", 0, "the access_token holds bytes that no token may"},
		{"a page", 200, "text/html; charset=utf-8", `<html>`, "", 0, `the answer is not the JSON of a token but "text/html"`},
		{"refused", 401, "", `{"error":"invalid_client","error_description":"no such client"}`, "", 0, "status 401: invalid_client no such client"},
		{"refused without a word", 403, "", ``, "", 0, "status 403"},
		{"moved", 302, "", ``, "", 0, "status 302"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token, life, err := readToken(tt.status, tt.contentType, []byte(tt.body))
			if tt.want != "" {
				if err == nil || err.Error() != tt.want {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil || token != tt.token || life.Round(time.Minute) != tt.life {
				t.Errorf("got %s, %v, %v", token, life, err)
			}
		})
	}
}

func TestRedirectedTokenRequestKeepsTheSecret(t *testing.T) {
	thief := newProvider(t, nil)
	idp := newProvider(t, nil)
	idp.answers(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Location", thief.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	if _, err := firstMessage(t, oidcProperties(t, idp.URL, nil)); err == nil || !strings.HasSuffix(err.Error(), "status 307") {
		t.Errorf("got %v", err)
	}
	if got := thief.served.Load(); got != 0 {
		t.Errorf("the request was repeated elsewhere %d times", got)
	}
}

func TestUnsecuredToken(t *testing.T) {
	p := parse(t, unsecured("principalClaimName=azp principal=admin scopeClaimName=roles scope=role1,role2 lifeSeconds=600 extension_traceId=123"))
	got, err := firstMessage(t, p)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(got, "\x01traceId=123\x01\x01") {
		t.Errorf("got %q", got)
	}
	token := strings.TrimPrefix(strings.Split(got, "\x01")[1], "auth=Bearer ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] != "" {
		t.Fatalf("got %s", token)
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || string(header) != `{"alg":"none"}` {
		t.Errorf("got %s, %v", header, err)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Azp      string
		Roles    []string
		Iat, Exp int64
	}
	if err := json.Unmarshal(body, &claims); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(claims.Azp, claims.Roles, claims.Exp-claims.Iat); got != "admin[role1 role2] 600" {
		t.Errorf("got %s", body)
	}
}
