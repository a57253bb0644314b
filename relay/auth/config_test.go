package auth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip/secret"
)

func TestValidate(t *testing.T) {
	k := keysOfTests()
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := func(p string) string { return strings.Join(strings.Split(strings.TrimSpace(p), "\n"), "\n") }
	body := strings.ReplaceAll(strings.Trim(strings.TrimSpace(strings.NewReplacer("-----BEGIN PUBLIC KEY-----", "", "-----END PUBLIC KEY-----", "").Replace(k.rsaPEM)), "\n"), "\n", "")
	private := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.rsa)}))
	secretText := string(k.secret)
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   []string // nil: it is good
	}{
		{"nothing is set", func(*Config) {}, nil},
		{"forward auth", func(c *Config) {
			c.URL, c.ForwardHeaders, c.Cookie = "https://api.example:8443/auth?x=1", []string{"x-tenant"}, "session"
		}, nil},
		{"no URL", func(c *Config) { c.URL = "api.example/auth" }, []string{"AUTH_URL: not a URL"}},
		{"another scheme", func(c *Config) { c.URL = "ftp://api.example/" }, []string{"AUTH_URL: not a URL"}},
		{"a password in the URL", func(c *Config) { c.URL = "https://me:hunter2@api.example/" }, []string{"AUTH_URL: https://me:xxxxx@api.example/: has a user in it"}},
		{"a fragment", func(c *Config) { c.URL = "https://api.example/#x" }, []string{"AUTH_URL: https://api.example/#x: remove"}},
		{"times", func(c *Config) {
			c.Timeout, c.CacheTTL, c.Recheck, c.Leeway = 8*time.Second, -1, time.Millisecond, time.Hour
		},
			[]string{"AUTH_TIMEOUT=8s", "AUTH_CACHE_TTL=-1ns", "JWT_LEEWAY=1h0m0s", "AUTH_RECHECK=1ms"}},
		{"answers outlive what asks for them", func(c *Config) { c.CacheTTL, c.Recheck = 2*time.Minute, time.Minute }, []string{"AUTH_CACHE_TTL=2m0s: is longer than AUTH_RECHECK, 1m0s"}},
		{"never asked again", func(c *Config) { c.CacheTTL, c.Recheck = 2*time.Minute, 0 }, nil},
		{"sizes", func(c *Config) { c.CacheEntries, c.CacheBytes, c.MaxAsked, c.MaxRenewals = 0, 1, -1, 0 }, []string{"AUTH_CACHE_ENTRIES=0", "AUTH_CACHE_BYTES=1:", "AUTH_MAX_REQUESTS=-1", "AUTH_MAX_RENEWALS=0"}},
		{"headers", func(c *Config) { c.TopicsHeader, c.ClaimsHeader, c.SubjectHeader = "a b", "", "x-spillway-expires" },
			[]string{"AUTH_TOPICS_HEADER=a b: is no name", "AUTH_CLAIMS_HEADER=: is no name", "AUTH_SUBJECT_HEADER=x-spillway-expires: is what AUTH_EXPIRES_HEADER is called"}},
		{"forwarded headers", func(c *Config) {
			c.URL, c.ForwardHeaders = "http://a", []string{"cookie", "x y", "X-Forwarded-For", "X-Ok"}
		},
			[]string{"AUTH_FORWARD_HEADERS: cookie is shown in any case", `AUTH_FORWARD_HEADERS: "x y" is no name`, "AUTH_FORWARD_HEADERS: X-Forwarded-For is shown in any case"}},
		{"forwarded headers to nobody", func(c *Config) { c.ForwardHeaders = []string{"X-Ok"} }, []string{"AUTH_FORWARD_HEADERS=X-Ok: there is no AUTH_URL"}},
		{"a cookie's value", func(c *Config) { c.URL, c.Cookie = "http://a", "session=" }, []string{"AUTH_COOKIE=session=: is no name"}},
		{"a cookie for nobody", func(c *Config) { c.Cookie = "session" }, []string{"AUTH_COOKIE=session: nothing is set that looks at tokens"}},
		{"certificates that are not there", func(c *Config) { c.CAFile = "/does/not/exist" }, []string{"AUTH_CA_FILE: open /does/not/exist"}},
		{"certificates that are none", func(c *Config) { c.CAFile = junk }, []string{"AUTH_CA_FILE: no certificate in " + junk}},

		{"a set", func(c *Config) { c.JWKSURLs, c.Audiences = []string{"https://a/keys?v=1"}, []string{"x"} }, nil},
		{"discovery", func(c *Config) { c.Issuers = []string{"https://a/", "https://b/realms/x"} }, nil},
		{"names of issuers", func(c *Config) { c.Issuers, c.JWKSURLs = []string{"a", "b"}, []string{"https://a/keys"} }, nil},
		{"names of issuers, which nobody can ask", func(c *Config) { c.Issuers = []string{"a", "https://b/?x=1"} }, []string{"JWT_ISSUER: not a URL", "JWT_ISSUER: https://b/?x=1: remove what follows"}},
		{"the same twice", func(c *Config) { c.Issuers = []string{"https://a", "https://a"} }, []string{"JWT_ISSUER=https://a: is there twice"}},
		{"sets and issuers differ in number", func(c *Config) { c.Issuers, c.JWKSURLs = []string{"a", "b", "c"}, []string{"https://a", "https://b"} }, []string{"JWT_JWKS_URL=https://a,https://b: need one URL for all issuers, or one for each of the 3"}},
		{"a set that is none", func(c *Config) { c.JWKSURLs = []string{"keys.json"} }, []string{"JWT_JWKS_URL: not a URL"}},
		{"key and set", func(c *Config) { c.JWKSURLs, c.Key = []string{"https://a"}, secretText }, []string{"JWT_KEY, JWT_JWKS_URL: both are set"}},
		{"audience of nothing", func(c *Config) { c.Audiences, c.Algorithms = []string{"x"}, []string{"RS256"} }, []string{"JWT_AUDIENCE=x: nothing says where keys", "JWT_ALGORITHMS=RS256: nothing says where keys"}},
		{"unknown algorithm", func(c *Config) { c.Key, c.Algorithms = secretText, []string{"HS256", "none", "hs256"} }, []string{"JWT_ALGORITHMS=none: must be among", "JWT_ALGORITHMS=hs256: must be among"}},
		{"an algorithm of secrets for a set", func(c *Config) { c.JWKSURLs, c.Algorithms = []string{"https://a"}, []string{"HS256"} }, []string{"JWT_ALGORITHMS=HS256: is for a shared secret"}},
		{"an algorithm of keys for a secret", func(c *Config) { c.Key, c.Algorithms = secretText, []string{"RS256"} }, []string{"JWT_KEY: a key in it is for none of JWT_ALGORITHMS, RS256"}},
		{"no claim of topics", func(c *Config) { c.Key, c.TopicsClaim, c.SubjectClaim = secretText, "", "" }, []string{`JWT_TOPICS_CLAIM="": need the name of a claim`, `JWT_SUBJECT_CLAIM=""`}},
		{"no claim of topics, for the API says them", func(c *Config) { c.Key, c.TopicsClaim, c.URL = secretText, "", "http://a" }, nil},

		{"a secret", func(c *Config) { c.Key = secretText }, nil},
		{"two secrets, with the line's end of another system", func(c *Config) { c.Key = secretText + "\r\n" + string(k.secret2) + "\r\n" }, nil},
		{"a short secret", func(c *Config) { c.Key = "hunter2hunter2" }, []string{"JWT_KEY: a secret of 14 bytes can be guessed"}},
		{"a short secret in base64", func(c *Config) { c.Key = "base64:" + base64.StdEncoding.EncodeToString(make([]byte, 31)) }, []string{"JWT_KEY: a secret of 31 bytes"}},
		{"base64 without padding", func(c *Config) {
			c.Key = "base64:" + base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe?????>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>>"))
		}, nil},
		{"no base64", func(c *Config) { c.Key = "base64:" + secretText }, []string{"JWT_KEY: what follows base64:"}},
		{"blank lines", func(c *Config) { c.Key = "\n\n" }, []string{"JWT_KEY: no key in it"}},
		{"PEM", func(c *Config) { c.Key = k.all }, nil},
		{"PEM in one line", func(c *Config) { c.Key = strings.ReplaceAll(lines(k.rsaPEM), "\n", `\n`) }, nil},
		{"PEM of PKCS 1", func(c *Config) {
			c.Key = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&k.rsa.PublicKey)}))
		}, nil},
		{"a certificate", func(c *Config) { c.Key = certificatePEM(t, k.rsa) }, nil},
		{"a private key", func(c *Config) { c.Key = private }, []string{"JWT_KEY: a PEM block is a private key"}},
		{"another PEM", func(c *Config) { c.Key = strings.ReplaceAll(k.rsaPEM, "PUBLIC KEY", "DH PARAMETERS") }, []string{"JWT_KEY: a PEM block is of type DH PARAMETERS"}},
		{"PEM of something else", func(c *Config) {
			c.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))
		}, []string{"JWT_KEY: what a PEM block of type PUBLIC KEY holds is none"}},
		{"PEM that is cut off", func(c *Config) { c.Key = k.rsaPEM[:len(k.rsaPEM)-30] }, []string{"JWT_KEY: a PEM block is broken"}},
		{"PEM of which the second is cut off", func(c *Config) { c.Key = k.rsaPEM + k.ecPEM[:40] }, []string{"JWT_KEY: a PEM block is broken"}},
		{"a short RSA key", func(c *Config) { c.Key = publicPEM(&k.rsaShort.PublicKey) }, []string{"JWT_KEY: an RSA key has 1024 bits"}},
		{"a public key without its lines, which would be a secret that all know", func(c *Config) { c.Key = body }, []string{"JWT_KEY: this is a public key without its PEM lines"}},
		{"the same behind base64:", func(c *Config) { c.Key = "base64:" + body }, []string{"JWT_KEY: this is a public key without its PEM lines"}},
		{"JSON", func(c *Config) { c.Key = `{"keys":[{"kty":"RSA","n":"AQAB"}]}` }, []string{"JWT_KEY: JSON is not read"}},
		{"too many", func(c *Config) { c.Key = strings.Repeat(secretText+"\n", maxKeys+1) }, []string{"JWT_KEY: 101 keys"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := defaults()
			tt.change(&cfg)
			err := cfg.Validate()
			if tt.want == nil {
				if err != nil {
					t.Fatalf("got %v, want no problem", err)
				}
				return
			}
			if err == nil {
				t.Fatalf("got no problem, want %q", tt.want)
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(tt.want) {
				t.Errorf("got %d problems, want %d:\n%v", len(got), len(tt.want), err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			for _, hidden := range []string{"hunter2", secretText, body[:30]} {
				if strings.Contains(err.Error(), hidden) {
					t.Errorf("the error shows a secret: %v", err)
				}
			}
			if _, err := New(cfg, slog.New(slog.DiscardHandler), nil); err == nil {
				t.Error("New takes it")
			}
		})
	}
}

func certificatePEM(t *testing.T, private *rsa.PrivateKey) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestEnabled(t *testing.T) {
	for _, tt := range []struct {
		cfg           Config
		enabled, byte bool
	}{
		{Config{}, false, false}, {Config{URL: "x"}, true, false}, {Config{Key: "x"}, true, true},
		{Config{Issuers: []string{"x"}}, true, true}, {Config{JWKSURLs: []string{"x"}}, true, true},
	} {
		if tt.cfg.Enabled() != tt.enabled || tt.cfg.ByJWT() != tt.byte {
			t.Errorf("%+v: got %v and %v, want %v and %v", tt.cfg, tt.cfg.Enabled(), tt.cfg.ByJWT(), tt.enabled, tt.byte)
		}
	}
	if _, err := New(defaults(), slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("an Authenticator of nothing was made, which would let everybody in")
	}
}

// JWT_KEY changes with its file; what is in it must go on being good.
func TestKeyChanges(t *testing.T) {
	k := keysOfTests()
	path := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (string, error) { text, err := os.ReadFile(path); return string(text), err }
	write(string(k.secret))
	source := secret.NewSource()
	source.Add("JWT_KEY", string(k.secret), read)
	f := authenticator(t, func(c *Config) { c.Key, c.Secrets = string(k.secret), source })
	log := &logged{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	run := source.Watch(slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
	go func() { done <- run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	first := of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(nil), nil))
	second := of(sign(t, jwt.SigningMethodHS256, k.secret2, claimsOf(nil), nil))
	f.wantOK(t, first)
	f.wantDenied(t, second, 401, "its signature")
	write(string(k.secret2) + "\n" + string(k.secret) + "\n")
	eventually(t, "both are good", func() bool {
		_, err := f.Identify(t.Context(), second)
		return err == nil
	})
	f.wantOK(t, first)
	write("short")
	eventually(t, "what cannot be used is told", func() bool { return strings.Contains(log.String(), "the old one stays") })
	f.wantOK(t, second)
	write(string(k.secret2))
	eventually(t, "the first one is gone", func() bool {
		_, err := f.Identify(t.Context(), first)
		return errors.As(err, new(*Denied))
	})
	f.wantOK(t, second)
}

// Keys that come unprotected are worth a warning; names of issuers are not.
func TestKeysOnTheWay(t *testing.T) {
	for _, tt := range []struct {
		name, want string // the variable that is warned of; "": none
		set        func(*Config)
	}{
		{"an issuer", "JWT_ISSUER", func(c *Config) { c.Issuers = []string{"https://a.example", "http://id.example"} }},
		{"a set", "JWT_JWKS_URL", func(c *Config) { c.JWKSURLs = []string{"http://id.example/keys?a=b"} }},
		{"a private address", "JWT_ISSUER", func(c *Config) { c.Issuers = []string{"http://10.0.0.1:8080"} }},
		{"protected", "", func(c *Config) { c.Issuers = []string{"https://id.example"} }},
		{"only a name, of a set", "", func(c *Config) {
			c.Issuers, c.JWKSURLs = []string{"http://id.example"}, []string{"https://id.example/keys"}
		}},
		{"only a name, of a key", "", func(c *Config) {
			c.Issuers, c.Key = []string{"http://id.example"}, "a secret of thirty-two bytes, or more"
		}},
		{"on this machine", "", func(c *Config) {
			c.Issuers = []string{"http://localhost:8080", "http://LOCALHOST", "http://127.0.0.2:1", "http://[::1]:8080"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said := authenticator(t, tt.set).log.String()
			if got := strings.Contains(said, "begins with http://"); got != (tt.want != "") || !strings.Contains(said, tt.want) {
				t.Errorf("got a warning: %v, want one of %q:\n%s", got, tt.want, said)
			}
			if n := strings.Count(said, "begins with http://"); n > 1 || strings.Contains(said, "a.example") {
				t.Errorf("got %d warnings, want one at most:\n%s", n, said)
			}
		})
	}
}
