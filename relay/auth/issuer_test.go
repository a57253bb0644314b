package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Keys come and go while tokens are verified.
func TestRotation(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	one, two := jwk(t, &k.rsa.PublicKey, "1", "RS256", "sig"), jwk(t, &k.rsa2.PublicKey, "2", "RS256", "sig")
	p.has(one)
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	byOne := of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"}))
	byTwo := of(sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "2"}))
	unnamed := of(sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), nil))

	f.wantOK(t, byOne)
	f.wantOK(t, byOne)
	if got := p.fetched(); got != 1 {
		t.Fatalf("the set was fetched %d times, want once", got)
	}
	f.wantDenied(t, byTwo, 401, "a key that its issuer does not have")
	f.wantDenied(t, byTwo, 401, "a key that its issuer does not have")
	if got := p.fetched(); got != 2 {
		t.Errorf("an unknown key: the set was fetched %d times in all, want 2", got)
	}
	p.has(one, two)
	f.advance(unknownFor)
	f.wantOK(t, byTwo)
	f.wantOK(t, byOne)
	p.has(two)
	f.wantOK(t, byOne) // until the set is fetched again
	f.run(t)
	eventually(t, "the key that is gone is refused", func() bool {
		_, err := f.Identify(t.Context(), byOne)
		return errors.As(err, new(*Denied))
	})
	f.wantOK(t, byTwo)
	f.wantOK(t, unnamed)
	if got := f.metric(t, "spillway_auth_keys", ""); got != 1 {
		t.Errorf("%v keys are counted, want 1", got)
	}
}

// Of keys without names one may be replaced, and nothing but a signature tells.
func TestRotationWithoutNames(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.ec.PublicKey, "", "", ""))
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	f.wantOK(t, of(sign(t, jwt.SigningMethodES256, k.ec, claimsOf(nil), nil)))
	p.has(jwk(t, &k.ec2.PublicKey, "", "", ""))
	f.wantOK(t, of(sign(t, jwt.SigningMethodES256, k.ec2, claimsOf(nil), nil)))
	f.wantDenied(t, of(sign(t, jwt.SigningMethodES256, k.ec, claimsOf(nil), nil)), 401, "its signature")
}

// Nobody can have us flood the issuer with names of keys, and whoever tries
// keeps no key out that comes later.
func TestUnknownKeysAreBounded(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	f.wantOK(t, of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"})))
	for i := range 50 {
		if i == unknownBurst+10 {
			f.advance(unknownEvery)
		}
		r := of(sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": fmt.Sprint("x", i)}))
		if i < unknownBurst || i == unknownBurst+10 {
			f.wantDenied(t, r, 401, "a key that its issuer does not have")
		} else {
			f.wantUnavailable(t, r, "asked for too often")
		}
	}
	if got, want := p.fetched(), 1+unknownBurst+1; got != want {
		t.Errorf("the set was fetched %d times, want %d", got, want)
	}
	f.wantOK(t, of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"})))
	for _, s := range f.tokens.issuers {
		for i := range 3 * maxUnknown {
			s.missing(fmt.Sprint("y", i))
		}
		if len(s.unknown) > maxUnknown {
			t.Errorf("%d unknown keys are remembered, want at most %d", len(s.unknown), maxUnknown)
		}
	}
}

// An issuer in trouble is asked once in failedFor, whoever comes.
func TestIssuerInTroubleIsLeftAlone(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.change(func() { p.status = http.StatusInternalServerError })
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	r := of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"}))
	for want := range 3 {
		for range 5 {
			f.wantUnavailable(t, r, "500")
		}
		if got := p.fetched(); got != want+1 {
			t.Errorf("the set was fetched %d times, want %d", got, want+1)
		}
		f.advance(failedFor)
	}
}

// An issuer that is not there yet lets nobody in, and keeps nothing from
// starting.
func TestIssuerComesLater(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.change(func() { p.status = http.StatusInternalServerError })
	p.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	f.run(t)
	r := of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"}))
	f.wantUnavailable(t, r, "500")
	f.wantDenied(t, of("a.b.c"), 401, "it is no JWT") // which needs no keys
	p.change(func() { p.status = 0 })
	eventually(t, "the keys are there", func() bool {
		f.advance(failedFor)
		_, err := f.Identify(t.Context(), r)
		return err == nil
	})
	if !strings.Contains(f.log.String(), "keys of tokens can be fetched again") {
		t.Errorf("nothing was said of it: %s", f.log)
	}
}

// An issuer that goes away takes no keys with it.
func TestIssuerGoesAway(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	r := of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"}))
	f.wantOK(t, r)
	for _, trouble := range []func(){
		func() { p.status = http.StatusBadGateway },
		func() { p.status, p.text = 0, "no JSON" },
		func() { p.text = `{"error":"no keys"}` },
		func() { p.text = `{"keys":[]}` + strings.Repeat(" ", maxKeysBytes) },
	} {
		p.change(trouble)
		f.advance(unknownEvery)
		n := f.metric(t, "spillway_auth_key_fetches_total", "failed")
		f.wantUnavailable(t, of(sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "2"})), "")
		f.wantOK(t, r)
		if got := f.metric(t, "spillway_auth_key_fetches_total", "failed"); got != n+1 {
			t.Errorf("%v fetches failed, want %v", got, n+1)
		}
	}
	p.change(func() { p.text = `{"keys":[]}` }) // this it means
	f.advance(unknownEvery)
	f.wantDenied(t, of(sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "2"})), 401, "")
	f.wantDenied(t, r, 401, "a key that its issuer does not have")
	if n := strings.Count(f.log.String(), "keys of tokens cannot be fetched"); n != 1 {
		t.Errorf("the trouble was logged %d times, want once: %s", n, f.log)
	}
}

func TestKeysThatAreNotUsed(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(
		jwk(t, &k.rsaShort.PublicKey, "short", "", ""), jwk(t, &k.rsa.PublicKey, "enc", "", "enc"), jwk(t, k.secret, "secret", "", ""),
		jwk(t, k.rsa2, "private", "", ""), // with its private half, of which nothing is read
	)
	all, err := json.Marshal(p.keys)
	if err != nil {
		t.Fatal(err)
	}
	p.change(func() {
		p.text = fmt.Sprintf(`{"keys":[%s,{"kty":"RSA"},{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},null,1,"x",{}]}`, strings.Trim(string(all), "[]"))
	})
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{p.jwks()} })
	f.wantOK(t, of(sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "private"})))
	f.wantDenied(t, of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "enc"})), 401, "")
	f.wantDenied(t, of(sign(t, jwt.SigningMethodRS256, k.rsaShort, claimsOf(nil), map[string]any{"kid": "short"})), 401, "")
	f.wantDenied(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(nil), map[string]any{"kid": "secret"})), 401, "")
	if got := f.metric(t, "spillway_auth_keys", ""); got != 1 {
		t.Errorf("%v keys are used, want 1", got)
	}
}

func TestDiscovery(t *testing.T) {
	k := keysOfTests()
	one, two := newIDP(t), newIDP(t)
	one.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
	two.has(jwk(t, &k.rsa2.PublicKey, "1", "", "")) // of the same name
	f := authenticator(t, func(c *Config) { c.Issuers = []string{one.URL, two.URL} })
	from := func(p *idp, private any) *http.Request {
		return of(sign(t, jwt.SigningMethodRS256, private, claimsOf(map[string]any{"iss": p.URL}), map[string]any{"kid": "1"}))
	}
	f.wantOK(t, from(one, k.rsa))
	f.wantOK(t, from(two, k.rsa2))
	f.wantDenied(t, from(one, k.rsa2), 401, "its signature")
	f.wantDenied(t, from(two, k.rsa), 401, "its signature")
	f.wantDenied(t, of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"})), 401, "an issuer that is not listed")
	if !strings.Contains(f.log.String(), "JWT_AUDIENCE is not set") {
		t.Error("nothing was said of the audience")
	}
}

func TestDiscoveryRefuses(t *testing.T) {
	k := keysOfTests()
	for name, tt := range map[string]struct {
		change func(*idp)
		want   string
	}{
		"an issuer of another name":       {func(p *idp) { p.issuer = "https://else.example" }, "they must be the same"},
		"the name with a slash":           {func(p *idp) { p.issuer = p.URL + "/" }, "to the last slash"},
		"no set":                          {func(p *idp) { p.set = "keys" }, "need a URL"},
		"a set in a file":                 {func(p *idp) { p.set = "file:///etc/passwd" }, "need a URL"},
		"a set that is not there":         {func(p *idp) { p.set = p.URL + "/else" }, "404"},
		"a set in the document's place":   {func(p *idp) { p.set = p.URL + wellKnown }, "no JSON Web Key Set"},
		"a set that cannot be had at all": {func(p *idp) { p.status = 503 }, "503"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newIDP(t)
			p.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
			p.change(func() { tt.change(p) })
			f := authenticator(t, func(c *Config) { c.Issuers = []string{p.URL} })
			f.wantUnavailable(t, of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(map[string]any{"iss": p.URL}), nil)), tt.want)
		})
	}
}

// Each issuer may have its set behind a URL of its own.
func TestSetPerIssuer(t *testing.T) {
	k := keysOfTests()
	one, two := newIDP(t), newIDP(t)
	one.has(jwk(t, &k.rsa.PublicKey, "", "", ""))
	two.has(jwk(t, &k.rsa2.PublicKey, "", "", ""))
	f := authenticator(t, func(c *Config) { c.Issuers, c.JWKSURLs = []string{"one", "two"}, []string{one.jwks(), two.jwks()} })
	for _, tt := range []struct {
		iss     string
		private any
		ok      bool
	}{{"one", k.rsa, true}, {"two", k.rsa2, true}, {"one", k.rsa2, false}, {"two", k.rsa, false}, {"three", k.rsa, false}} {
		r := of(sign(t, jwt.SigningMethodRS256, tt.private, claimsOf(map[string]any{"iss": tt.iss}), nil))
		if tt.ok {
			f.wantOK(t, r)
		} else {
			f.wantDenied(t, r, 401, "")
		}
	}
}

// All who come while keys are on their way wait for the same ones, and who
// goes away keeps nobody else from them.
func TestKeysAreFetchedOnce(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(slow.Close)
	f := authenticator(t, func(c *Config) { c.JWKSURLs = []string{slow.URL + "/keys"} })
	r := of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"}))
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := f.Identify(ctx, r)
		left <- err
	}()
	<-asked
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := f.Identify(t.Context(), r); err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(answer)
	all.Wait()
	if got := p.fetched(); got != 1 {
		t.Errorf("the set was fetched %d times, want once", got)
	}
}

func TestRedirectsOfIssuers(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.rsa.PublicKey, "1", "", ""))
	hops := 1
	moved := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := p.jwks()
		if n := len(r.URL.Query()["n"]); n < hops-1 {
			to = "/?" + r.URL.RawQuery + "&n=x"
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	t.Cleanup(moved.Close)
	r := of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "1"}))
	authenticator(t, func(c *Config) { c.JWKSURLs = []string{moved.URL} }).wantOK(t, r)
	hops = 4
	authenticator(t, func(c *Config) { c.JWKSURLs = []string{moved.URL} }).wantUnavailable(t, r, "more than 3 redirects")

	plain := httptest.NewRequest("GET", "http://a.example/", nil)
	secure := httptest.NewRequest("GET", "https://a.example/", nil)
	if err := checkRedirect(plain, []*http.Request{secure}); err == nil {
		t.Error("a redirect from https to http was followed")
	}
}

// An issuer that takes connections and says nothing costs AUTH_TIMEOUT.
func TestSilentIssuer(t *testing.T) {
	k := keysOfTests()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f := authenticator(t, func(c *Config) {
		c.JWKSURLs, c.Timeout = []string{"http://" + l.Addr().String()}, 100*time.Millisecond
	})
	f.wantUnavailable(t, of(sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), nil)), "deadline exceeded")
	if got := f.metric(t, "spillway_auth_tokens_total", "unavailable"); got != 1 {
		t.Errorf("%v tokens could not be looked at, want 1", got)
	}
}
