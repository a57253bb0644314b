package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// patience is how long a condition may take on a busy machine.
const patience = 60 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

// The keys of tests, made once: RSA keys take their time.
var keysOfTests = sync.OnceValue(func() (k struct {
	rsa, rsa2, rsaShort       *rsa.PrivateKey
	ec, ec2, ec384, ec521     *ecdsa.PrivateKey
	ed                        ed25519.PrivateKey
	secret, secret2           []byte
	rsaPEM, ecPEM, edPEM, all string
},
) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	k.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.rsa2, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	k.rsaShort, err = rsa.GenerateKey(rand.Reader, 1024)
	must(err)
	for curve, key := range map[elliptic.Curve][]**ecdsa.PrivateKey{elliptic.P256(): {&k.ec, &k.ec2}, elliptic.P384(): {&k.ec384}, elliptic.P521(): {&k.ec521}} {
		for _, key := range key {
			*key, err = ecdsa.GenerateKey(curve, rand.Reader)
			must(err)
		}
	}
	_, k.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	k.secret, k.secret2 = []byte("a secret of thirty-two bytes, or more"), []byte("another secret of thirty-two bytes")
	k.rsaPEM, k.ecPEM, k.edPEM = publicPEM(&k.rsa.PublicKey), publicPEM(&k.ec.PublicKey), publicPEM(k.ed.Public())
	k.all = k.rsaPEM + k.ecPEM + k.edPEM
	return k
})

func publicPEM(public crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// jwk is a key as sets have it.
func jwk(t *testing.T, public any, kid, alg, use string) jwkset.JWK {
	t.Helper()
	k, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{
		Metadata: jwkset.JWKMetadataOptions{KID: kid, ALG: jwkset.ALG(alg), USE: jwkset.USE(use)},
		Marshal:  jwkset.JWKMarshalOptions{Private: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// claimsOf are good claims, with changes; one that is nil is left out.
func claimsOf(changes map[string]any) jwt.MapClaims {
	claims := jwt.MapClaims{"sub": "ada", "topics": []string{"orders"}, "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range changes {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	return claims
}

// sign makes a token. header is added to what it has anyway.
func sign(t *testing.T, method jwt.SigningMethod, private any, claims jwt.MapClaims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	for name, v := range header {
		token.Header[name] = v
	}
	text, err := token.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An idp is an issuer of tokens.
type idp struct {
	*httptest.Server
	mu       sync.Mutex
	keys     []jwkset.JWKMarshal
	text     string // in place of the set
	issuer   string // in place of its own name
	set      string // in place of its own set
	status   int
	fetches  int // of the set
	discover int
}

func newIDP(t *testing.T) *idp {
	p := &idp{}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *idp) jwks() string { return p.URL + "/keys" }

// has replaces the set.
func (p *idp) has(keys ...jwkset.JWK) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = nil
	for _, k := range keys {
		p.keys = append(p.keys, k.Marshal())
	}
}

func (p *idp) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *idp) fetched() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches
}

func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path == wellKnown:
		p.discover++
		doc := map[string]string{"issuer": p.URL, "jwks_uri": p.jwks()}
		if p.issuer != "" {
			doc["issuer"] = p.issuer
		}
		if p.set != "" {
			doc["jwks_uri"] = p.set
		}
		json.NewEncoder(w).Encode(doc)
	case r.URL.Path != "/keys":
		http.NotFound(w, r)
	case p.status != 0:
		p.fetches++
		w.WriteHeader(p.status)
	case p.text != "":
		p.fetches++
		w.Write([]byte(p.text))
	default:
		p.fetches++
		json.NewEncoder(w).Encode(map[string]any{"keys": p.keys})
	}
}

// A clock is a time that stands still until a test moves it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// A fixture is an Authenticator with a registry, a log and a clock.
type fixture struct {
	*Authenticator
	clock
	reg *prometheus.Registry
	log *logged
}

// A logged is a log that can be read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// defaults is a Config as the environment makes it.
func defaults() Config {
	return Config{
		CacheTTL: 10 * time.Second, CacheEntries: 10000, CacheBytes: 16 << 20, Recheck: time.Minute, Timeout: 5 * time.Second, MaxAsked: 256, MaxRenewals: 1000,
		TopicsHeader: "X-Spillway-Topics", ClaimsHeader: "X-Spillway-Claims", ExpiresHeader: "X-Spillway-Expires", SubjectHeader: "X-Spillway-Subject",
		TopicsClaim: "topics", SubjectClaim: "sub", Leeway: 5 * time.Second,
	}
}

func authenticator(t *testing.T, change func(*Config)) *fixture {
	t.Helper()
	cfg := defaults()
	change(&cfg)
	f := &fixture{clock: clock{at: time.Now()}, reg: prometheus.NewRegistry(), log: &logged{}}
	a, err := newAuthenticator(cfg, slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})), f.reg, f.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	f.Authenticator = a
	if cfg.Timeout == defaults().Timeout {
		f.wait(patience)
	}
	return f
}

// wait changes AUTH_TIMEOUT, beyond what is allowed if need be.
func (f *fixture) wait(d time.Duration) {
	f.cfg.Timeout = d
	if f.tokens != nil {
		for _, s := range f.tokens.issuers {
			s.timeout = d
		}
	}
}

// run has the Authenticator's Run run until the test ends.
func (f *fixture) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// of is a request with a token.
func of(token string) *http.Request {
	r := httptest.NewRequest("GET", "http://events.example/events/orders/", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

// with is a request with header fields, name and value in turns.
func with(target string, fields ...string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

// wantOK is the identity of who sent r.
func (f *fixture) wantOK(t *testing.T, r *http.Request) *Identity {
	t.Helper()
	id, err := f.Identify(t.Context(), r)
	if err != nil {
		t.Fatalf("got %v, want an identity", err)
	}
	return id
}

// wantDenied refuses r with a status and a reason that has the text in it.
func (f *fixture) wantDenied(t *testing.T, r *http.Request, status int, reason string) *Denied {
	t.Helper()
	id, err := f.Identify(t.Context(), r)
	var d *Denied
	if !errors.As(err, &d) {
		t.Fatalf("got %+v, %v; want a Denied with %q", id, err, reason)
	}
	if id != nil || d.Status != status || !strings.Contains(d.Reason, reason) {
		t.Errorf("got %v, %d %q, want %d %q", id, d.Status, d.Reason, status, reason)
	}
	return d
}

func (f *fixture) wantUnavailable(t *testing.T, r *http.Request, reason string) {
	t.Helper()
	id, err := f.Identify(t.Context(), r)
	if id != nil || !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), reason) {
		t.Fatalf("got %+v, %v; want ErrUnavailable with %q", id, err, reason)
	}
}

// metric is the sum of a metric's samples whose labels have the value; "": all.
func (f *fixture) metric(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum, found := 0.0, false
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" || hasLabel(m, label) {
				found = true
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	if !found {
		t.Fatalf("there is no metric %s with label %q", name, label)
	}
	return sum
}

func hasLabel(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}
