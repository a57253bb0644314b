package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestAlgorithms(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.rsa.PublicKey, "r", "", "sig"), jwk(t, &k.ec.PublicKey, "e", "", ""), jwk(t, &k.ec384.PublicKey, "e3", "", ""),
		jwk(t, &k.ec521.PublicKey, "e5", "", ""), jwk(t, k.ed.Public(), "d", "EdDSA", "sig"))
	fetched := func(c *Config) { c.JWKSURLs = []string{p.jwks()} }
	static := func(key string) func(*Config) { return func(c *Config) { c.Key = key } }
	only := func(algs ...string) func(*Config) {
		return func(c *Config) { c.Key, c.Algorithms = k.all, algs }
	}
	good := map[string]struct {
		private any
		kid     string
	}{
		"RS256": {k.rsa, "r"}, "RS384": {k.rsa, "r"}, "RS512": {k.rsa, "r"}, "PS256": {k.rsa, "r"}, "PS384": {k.rsa, "r"}, "PS512": {k.rsa, "r"},
		"ES256": {k.ec, "e"}, "ES384": {k.ec384, "e3"}, "ES512": {k.ec521, "e5"}, "EdDSA": {k.ed, "d"},
		"HS256": {k.secret, ""}, "HS384": {k.secret, ""}, "HS512": {k.secret, ""},
	}
	secret := string(k.secret)
	for _, tt := range []struct {
		name   string
		config func(*Config)
		want   []string // algorithms that get in
	}{
		{"a set that is fetched", fetched, publicAlgorithms},
		{"a secret", static(secret), secretAlgorithms},
		{"a secret in base64", static("base64:" + base64.StdEncoding.EncodeToString(k.secret)), secretAlgorithms},
		{"an RSA key", static(k.rsaPEM), []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}},
		{"an EC key", static(k.ecPEM), []string{"ES256"}},
		{"an Ed25519 key", static(k.edPEM), []string{"EdDSA"}},
		{"several keys", static(k.all), []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "EdDSA"}},
		{"several keys, of which a part is allowed", only("PS256", "EdDSA", "ES256"), []string{"PS256", "EdDSA", "ES256"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasPrefix(tt.name, "several keys, ") {
				for i, public := range []string{k.rsaPEM, k.ecPEM} { // each must be good for something
					cfg := defaults()
					cfg.Key, cfg.Algorithms = public, []string{"EdDSA"}
					if err := cfg.Validate(); err == nil {
						t.Errorf("key %d is for none of JWT_ALGORITHMS, and was taken", i)
					}
				}
			}
			f := authenticator(t, tt.config)
			for alg, with := range good {
				for _, kid := range slices.Compact([]string{with.kid, ""}) {
					header := map[string]any{}
					if kid != "" {
						header["kid"] = kid
					}
					r := of(sign(t, jwt.GetSigningMethod(alg), with.private, claimsOf(nil), header))
					if slices.Contains(tt.want, alg) {
						f.wantOK(t, r)
					} else {
						f.wantDenied(t, r, 401, "")
					}
				}
			}
		})
	}
}

// Tokens that are not what they say get in nowhere.
func TestForgedTokens(t *testing.T) {
	k := keysOfTests()
	p := newIDP(t)
	p.has(jwk(t, &k.rsa.PublicKey, "r", "RS256", "sig"), jwk(t, &k.ec.PublicKey, "e", "", "sig"), jwk(t, k.secret, "s", "HS256", "sig"))
	evil := newIDP(t)
	evil.has(jwk(t, &k.rsa2.PublicKey, "r", "RS256", "sig"))
	evilJWK := jwk(t, &k.rsa2.PublicKey, "r", "", "").Marshal()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	hs := func(alg, key string, header map[string]any) string {
		h := map[string]any{"alg": alg, "typ": "JWT"}
		maps.Copy(h, header)
		signed := part(h) + "." + part(claimsOf(nil))
		mac := hmac.New(sha256.New, []byte(key))
		if alg == "HS512" {
			mac = hmac.New(sha512.New, []byte(key))
		}
		mac.Write([]byte(signed))
		return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	good := sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "r"})
	parts := strings.Split(good, ".")
	other := "A"
	if parts[2][0] == 'A' {
		other = "B"
	}
	der, _ := base64.StdEncoding.DecodeString(strings.Join(strings.Split(strings.TrimSpace(k.rsaPEM), "\n")[1:len(strings.Split(strings.TrimSpace(k.rsaPEM), "\n"))-1], ""))
	n, _ := json.Marshal(jwk(t, &k.rsa.PublicKey, "r", "RS256", "sig").Marshal())
	tokens := map[string]string{
		"alg none":                               part(map[string]any{"alg": "none"}) + "." + parts[1] + ".",
		"alg None":                               part(map[string]any{"alg": "None"}) + "." + parts[1] + ".",
		"alg nOnE with a signature":              part(map[string]any{"alg": "nOnE"}) + "." + parts[1] + "." + parts[2],
		"no alg":                                 part(map[string]any{"kid": "r"}) + "." + parts[1] + "." + parts[2],
		"alg is no text":                         part(map[string]any{"alg": []string{"RS256"}}) + "." + parts[1] + "." + parts[2],
		"unknown alg":                            part(map[string]any{"alg": "XS256"}) + "." + parts[1] + "." + parts[2],
		"no signature":                           parts[0] + "." + parts[1] + ".",
		"two parts":                              parts[0] + "." + parts[1],
		"four parts":                             good + "." + parts[2],
		"five parts, as encrypted ones have":     good + ".a.b",
		"other claims":                           parts[0] + "." + part(claimsOf(map[string]any{"topics": ".*"})) + "." + parts[2],
		"other header":                           part(map[string]any{"alg": "RS256", "kid": "r", "x": 1}) + "." + parts[1] + "." + parts[2],
		"a bit of the signature":                 parts[0] + "." + parts[1] + "." + other + parts[2][1:],
		"bits that no byte has":                  good[:len(good)-1] + string(good[len(good)-1]+1),
		"HS256 with the public key's PEM":        hs("HS256", k.rsaPEM, map[string]any{"kid": "r"}),
		"HS256 with the PEM without its end":     hs("HS256", strings.TrimSpace(k.rsaPEM), nil),
		"HS256 with the public key's bytes":      hs("HS256", string(der), nil),
		"HS512 with the public key's PEM":        hs("HS512", k.rsaPEM, nil),
		"HS256 with the public key as JSON":      hs("HS256", string(n), map[string]any{"kid": "r"}),
		"HS256 with nothing":                     hs("HS256", "", nil),
		"HS256 by a secret in the set":           hs("HS256", string(k.secret), map[string]any{"kid": "s"}),
		"kid of a secret file":                   hs("HS256", "", map[string]any{"kid": "../../../../dev/null"}),
		"kid of a query":                         hs("HS256", "x", map[string]any{"kid": "' UNION SELECT 'x"}),
		"kid that is no text":                    sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": []string{"r"}}),
		"a long kid":                             sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": strings.Repeat("r", maxKid+1)}),
		"another key":                            sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), nil),
		"another key under the same kid":         sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "r"}),
		"another EC key":                         sign(t, jwt.SigningMethodES256, k.ec2, claimsOf(nil), map[string]any{"kid": "e"}),
		"the kid of a key of another kind":       sign(t, jwt.SigningMethodES256, k.ec2, claimsOf(nil), map[string]any{"kid": "r"}),
		"an algorithm that its key is not for":   sign(t, jwt.SigningMethodPS256, k.rsa, claimsOf(nil), map[string]any{"kid": "r"}),
		"jku":                                    sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "r", "jku": evil.jwks()}),
		"jku and a kid that is not here":         sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"kid": "z", "jku": evil.jwks()}),
		"jwk":                                    sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"jwk": evilJWK}),
		"x5u":                                    sign(t, jwt.SigningMethodRS256, k.rsa2, claimsOf(nil), map[string]any{"x5u": evil.URL}),
		"crit":                                   sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "r", "crit": []string{"exp"}}),
		"crit of nothing":                        sign(t, jwt.SigningMethodRS256, k.rsa, claimsOf(nil), map[string]any{"kid": "r", "crit": nil}),
		"claims are an array":                    parts[0] + "." + part([]int{1}) + "." + parts[2],
		"no JSON":                                parts[0] + ".e30x." + parts[2],
		"no base64":                              parts[0] + ".!." + parts[2],
		"padding":                                parts[0] + "." + parts[1] + "==." + parts[2],
		"a short one":                            "x",
		"a long one":                             good + strings.Repeat("A", maxTokenBytes),
		"dots":                                   "..",
		"P-384's key by ES256, signed as it can": sign(t, jwt.SigningMethodES384, k.ec384, claimsOf(nil), map[string]any{"kid": "e"}),
	}
	for name, config := range map[string]func(*Config){
		"fetched": func(c *Config) { c.JWKSURLs = []string{p.jwks()} },
		"static":  func(c *Config) { c.Key = k.rsaPEM + k.ecPEM },
		"all algorithms": func(c *Config) {
			c.Key, c.Algorithms = k.rsaPEM, append(slices.Clone(publicAlgorithms), secretAlgorithms...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := authenticator(t, config)
			f.wantOK(t, of(good))
			for what, token := range tokens {
				if what == "an algorithm that its key is not for" && name != "fetched" {
					continue // where no key says what it is for
				}
				id, err := f.Identify(t.Context(), of(token))
				if id != nil || err == nil {
					t.Errorf("%s: got %+v, %v; want it refused", what, id, err)
					continue
				}
				d, ok := err.(*Denied) //nolint:errorlint // it is none that is wrapped
				if !ok || d.Status != 401 {
					t.Errorf("%s: got %v, want a Denied with 401", what, err)
					continue
				}
				if w := d.Header.Get("WWW-Authenticate"); !strings.HasPrefix(w, `Bearer error="invalid_token", error_description="`) || strings.Count(w, `"`) != 4 {
					t.Errorf("%s: got WWW-Authenticate: %s", what, w)
				}
				if len(token) > 20 && strings.Contains(d.Reason, token[:20]) {
					t.Errorf("%s: the reason shows the token: %s", what, d.Reason)
				}
			}
			if strings.Contains(f.log.String(), parts[1]) || strings.Contains(f.log.String(), parts[2]) {
				t.Errorf("a token was logged: %s", f.log)
			}
			if evil.fetched() != 0 {
				t.Error("keys were fetched from where a token says")
			}
		})
	}
}

func TestClaims(t *testing.T) {
	k := keysOfTests()
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	type m = map[string]any
	for _, tt := range []struct {
		name   string
		claims m
		config func(*Config)
		reason string // "": it gets in
	}{
		{"good", nil, nil, ""},
		{"expired", m{"exp": at(-time.Hour)}, nil, "it has expired"},
		{"expired within the leeway", m{"exp": at(-2 * time.Second)}, func(c *Config) { c.Leeway = time.Minute }, ""},
		{"expired beyond the leeway", m{"exp": at(-2 * time.Minute)}, func(c *Config) { c.Leeway = time.Minute }, "it has expired"},
		{"no leeway", m{"exp": at(-2 * time.Second)}, func(c *Config) { c.Leeway = 0 }, "it has expired"},
		{"no exp", m{"exp": nil}, nil, "it lacks exp"},
		{"exp 0", m{"exp": 0}, nil, "it has expired"},
		{"exp is negative", m{"exp": -1}, nil, "it has expired"},
		{"exp is a text", m{"exp": fmt.Sprint(at(time.Hour))}, nil, "wrong type"},
		{"exp is null", m{"exp": json.RawMessage("null")}, nil, "wrong type"},
		{"exp is a fraction", m{"exp": float64(at(time.Hour)) + .5}, nil, ""},
		{"not yet", m{"nbf": at(time.Hour)}, nil, "not valid yet"},
		{"not yet, within the leeway", m{"nbf": at(time.Minute)}, func(c *Config) { c.Leeway = 5 * time.Minute }, ""},
		{"nbf is a text", m{"nbf": "now"}, nil, "wrong type"},
		{"of the future", m{"iat": at(time.Hour)}, nil, "of the future"},
		{"of the future, within the leeway", m{"iat": at(time.Minute)}, func(c *Config) { c.Leeway = 5 * time.Minute }, ""},
		{"iat of long ago", m{"iat": at(-10000 * time.Hour)}, nil, ""},
		{"audience", m{"aud": "events"}, func(c *Config) { c.Audiences = []string{"events"} }, ""},
		{"one of several audiences", m{"aud": []string{"x", "events"}}, func(c *Config) { c.Audiences = []string{"other", "events"} }, ""},
		{"another audience", m{"aud": []string{"x"}}, func(c *Config) { c.Audiences = []string{"events"} }, "another audience"},
		{"part of an audience", m{"aud": "events-admin"}, func(c *Config) { c.Audiences = []string{"events"} }, "another audience"},
		{"no audience", nil, func(c *Config) { c.Audiences = []string{"events"} }, "the aud that is asked for"},
		{"audience is a number", m{"aud": 1}, func(c *Config) { c.Audiences = []string{"1"} }, "the aud that is asked for"},
		{"audience is an object", m{"aud": m{"events": true}}, func(c *Config) { c.Audiences = []string{"events"} }, "the aud that is asked for"},
		{"audience that nobody asks for", m{"aud": "x"}, nil, ""},
		{"issuer", m{"iss": "https://a.example/"}, func(c *Config) { c.Issuers = []string{"https://b.example", "https://a.example/"} }, ""},
		{"issuer without its slash", m{"iss": "https://a.example"}, func(c *Config) { c.Issuers = []string{"https://a.example/"} }, "an issuer that is not listed"},
		{"issuer of another case", m{"iss": "https://A.example/"}, func(c *Config) { c.Issuers = []string{"https://a.example/"} }, "an issuer that is not listed"},
		{"no issuer", nil, func(c *Config) { c.Issuers = []string{"https://a.example/"} }, "an issuer that is not listed"},
		{"issuer is an array", m{"iss": []string{"https://a.example/"}}, func(c *Config) { c.Issuers = []string{"https://a.example/"} }, "an issuer that is not listed"},
		{"issuer that nobody asks for", m{"iss": "x"}, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := authenticator(t, func(c *Config) {
				c.Key = string(k.secret)
				if tt.config != nil {
					tt.config(c)
				}
			})
			r := of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(tt.claims), nil))
			if tt.reason == "" {
				f.wantOK(t, r)
			} else {
				f.wantDenied(t, r, 401, tt.reason)
			}
			worth := "ok"
			switch {
			case tt.reason == reasonExpired:
				worth = "expired"
			case tt.reason != "":
				worth = "refused"
			}
			if got := f.metric(t, "spillway_auth_tokens_total", worth); got != 1 {
				t.Errorf("%v tokens were counted as %s, want 1", got, worth)
			}
		})
	}
}

// What is too long is not looked at, though it is signed.
func TestLongToken(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key = string(k.secret) })
	of := func(n int) *http.Request {
		return of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"pad": strings.Repeat("a", n)}), nil))
	}
	f.wantOK(t, of(maxTokenBytes/2))
	f.wantDenied(t, of(maxTokenBytes), 401, "it is longer than 16384 bytes")
}

func TestTopicsClaim(t *testing.T) {
	k := keysOfTests()
	type m = map[string]any
	const namespaced = "https://example.com/topics"
	for _, tt := range []struct {
		name, claim  string
		claims       m
		may, mustNot []string
	}{
		{"an array", "topics", m{"topics": []any{"orders", "stock"}}, []string{"orders", "stock"}, []string{"order", "orders2", "orders stock", ""}},
		{"a text", "topics", m{"topics": " orders  stock\t"}, []string{"orders", "stock"}, []string{" orders", "orders  stock"}},
		{"patterns", "topics", m{"topics": []any{"orders\\..*", "a|b", "(?i)CASE"}}, []string{"orders.eu", "a", "b", "case"}, []string{"orders", "xorders.eu", "ab", "xb", "ax", "orders\neu"}},
		{"everything", "topics", m{"topics": ".*"}, []string{"orders", "x.y-z_0"}, nil},
		{"an anchor cannot be got around", "topics", m{"topics": []any{"a$|^", "a)|(?:.*"}}, []string{"a"}, []string{"b", "ab", "aa"}},
		{"no claim", "topics", m{"topics": nil}, nil, []string{"orders", "", "null"}},
		{"null", "topics", m{"topics": json.RawMessage("null")}, nil, []string{"orders", "null", ""}},
		{"an empty array", "topics", m{"topics": []any{}}, nil, []string{"orders", ""}},
		{"an empty text", "topics", m{"topics": ""}, nil, []string{"orders"}},
		{"an empty pattern", "topics", m{"topics": []any{""}}, nil, []string{"orders"}},
		{"true", "topics", m{"topics": true}, nil, []string{"orders", "true"}},
		{"a number", "topics", m{"topics": 5}, nil, []string{"5"}},
		{"an object", "topics", m{"topics": m{"orders": true}}, nil, []string{"orders"}},
		{"an array of others", "topics", m{"topics": []any{1, nil, m{"a": 1}, []any{"orders"}, "stock"}}, []string{"stock"}, []string{"1", "orders", "null"}},
		{"what is no pattern matches nothing", "topics", m{"topics": []any{"*", "(", "stock"}}, []string{"stock"}, []string{"*", "(", "x"}},
		{"a path", "realm.access.topics", m{"realm": m{"access": m{"topics": []any{"orders"}}}, "topics": nil}, []string{"orders"}, []string{"stock"}},
		{"a path that leads nowhere", "realm.access.topics", m{"realm": m{"access": "topics"}, "topics": nil}, nil, []string{"orders", "topics"}},
		{"a name with dots", "a.b", m{"a.b": []any{"orders"}, "a": m{"b": []any{"stock"}}}, []string{"orders"}, []string{"stock"}},
		{"a URL", namespaced, m{namespaced: "orders", "topics": nil}, []string{"orders"}, nil},
		{"a path below a URL", namespaced + ".read", m{namespaced: m{"read": "orders"}, "topics": nil}, []string{"orders"}, nil},
		{"scopes", "scope", m{"scope": "openid email orders", "topics": nil}, []string{"orders"}, []string{"stock"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := authenticator(t, func(c *Config) { c.Key, c.TopicsClaim = string(k.secret), tt.claim })
			id := f.wantOK(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(tt.claims), nil)))
			text, err := json.Marshal(id)
			if err != nil {
				t.Fatal(err)
			}
			var again Identity
			if err := json.Unmarshal(text, &again); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(again.Claims, id.Claims) || !again.Expires.Equal(id.Expires) || again.Subject != id.Subject || again.Topics.String() != id.Topics.String() {
				t.Errorf("got %+v, written and read again %+v", *id, again)
			}
			for _, id := range []*Identity{id, &again} {
				for _, topic := range tt.may {
					if !id.MayRead(topic) {
						t.Errorf("%q must be readable, by %s", topic, id.Topics)
					}
				}
				for _, topic := range tt.mustNot {
					if id.MayRead(topic) {
						t.Errorf("%q must not be readable, by %s", topic, id.Topics)
					}
				}
			}
		})
	}
}

func TestBrokenPatternsAreTold(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key = string(k.secret) })
	for range 3 {
		f.wantOK(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"topics": "*"}), nil)))
	}
	if got := strings.Count(f.log.String(), "no regular expression"); got != 1 {
		t.Errorf("it was logged %d times, want once: %s", got, f.log)
	}
}

func TestTooManyPatterns(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key = string(k.secret) })
	many := strings.TrimSuffix(strings.Repeat("a ", maxPatterns), " ")
	f.wantOK(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"topics": many}), nil)))
	f.wantDenied(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"topics": many + " a"}), nil)), 403, "1001 patterns")
	large := strings.Repeat("(a{1000}){1} ", 100)
	f.wantDenied(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"topics": large}), nil)), 403, "too large")
}

func TestSubject(t *testing.T) {
	k := keysOfTests()
	for _, tt := range []struct {
		claim string
		value any
		want  string
	}{
		{"sub", "ada", "ada"},
		{"sub", json.RawMessage("9007199254740993"), "9007199254740993"},
		{"sub", nil, ""},
		{"user.id", "x", "x"},
		{"user.id", []string{"x"}, ""},
	} {
		f := authenticator(t, func(c *Config) { c.Key, c.SubjectClaim = string(k.secret), tt.claim })
		claims := claimsOf(map[string]any{"sub": nil, tt.claim: tt.value})
		if id := f.wantOK(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claims, nil))); id.Subject != tt.want {
			t.Errorf("%s=%v: got %q, want %q", tt.claim, tt.value, id.Subject, tt.want)
		}
	}
}

// Streams end at exp to the second, whatever the leeway; who comes later gets
// what of the leeway is left.
func TestExpiry(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key, c.Leeway = string(k.secret), time.Minute })
	exp := time.Now().Add(30 * time.Second).Truncate(time.Second)
	r := of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"exp": exp.Unix()}), nil))
	if got := f.wantOK(t, r).Expires; !got.Equal(exp) {
		t.Errorf("got %v, want exp, %v", got, exp)
	}
	f.advance(45 * time.Second)
	if got, want := f.wantOK(t, r).Expires, exp.Add(time.Minute); !got.Equal(want) {
		t.Errorf("within the leeway: got %v, want %v", got, want)
	}
	f.advance(time.Hour)
	f.wantDenied(t, r, 401, reasonExpired)
	far := of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"exp": json.Number("999999999999")}), nil))
	if got := f.wantOK(t, far).Expires; !got.Equal(lastExpiry) {
		t.Errorf("far away: got %v, want %v", got, lastExpiry)
	}
	if _, err := json.Marshal(f.wantOK(t, far)); err != nil {
		t.Errorf("far away cannot be written: %v", err)
	}
}

// Numbers in claims stay what they are: tenants with long ids are neighbours
// as floating-point numbers.
func TestNumbersInClaims(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key = string(k.secret) })
	id := f.wantOK(t, of(sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"tenant": json.RawMessage("9007199254740993")}), nil)))
	if got, want := id.Claims["tenant"], json.Number("9007199254740993"); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhereTokensAre(t *testing.T) {
	k := keysOfTests()
	good := sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(nil), nil)
	other := sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(map[string]any{"sub": "eve"}), nil)
	const base = "http://events.example/events/orders/"
	inProtocol := "spillway.v1.json, bearer." + base64.RawURLEncoding.EncodeToString([]byte(good))
	for _, tt := range []struct {
		name   string
		r      *http.Request
		status int // 0: it gets in
	}{
		{"nowhere", with(base), 401},
		{"in the field", with(base, "Authorization", "Bearer "+good), 0},
		{"in a field of another case", with(base, "authorization", "bearer "+good), 0},
		{"in the query", with(base + "?access_token=" + good), 0},
		{"in a subprotocol", with(base, "Sec-WebSocket-Protocol", inProtocol), 0},
		{"in the cookie", with(base, "Cookie", "a=b; session="+good+"; c=d"), 0},
		{"in the quoted cookie", with(base, "Cookie", `session="`+good+`"`), 0},
		{"in the cookie, beside another scheme", with(base, "Cookie", "session="+good, "Authorization", "Basic eDp5"), 0},
		{"in the cookie, in a second field", with(base, "Cookie", "a=b", "Cookie", "session="+good), 0},
		{"in the cookie, beside one that is broken", with(base, "Cookie", "a b; session="+good), 0},
		{"in another cookie", with(base, "Cookie", "other="+good), 401},
		{"in a cookie of another case", with(base, "Cookie", "Session="+good), 401},
		{"everywhere the same", with(base+"?access_token="+good, "Authorization", "Bearer "+good, "Cookie", "session="+good, "Sec-WebSocket-Protocol", inProtocol), 0},
		{"another in the cookie", with(base, "Authorization", "Bearer "+good, "Cookie", "session="+other), 400},
		{"two in cookies", with(base, "Cookie", "session="+good+"; session="+other), 400},
		{"another in the query", with(base+"?access_token="+other, "Authorization", "Bearer "+good), 400},
		{"another in the query than in the cookie", with(base+"?access_token="+other, "Cookie", "session="+good), 400},
		{"another scheme", with(base, "Authorization", "Basic "+good), 401},
		{"an empty field", with(base, "Authorization", ""), 401},
		{"an empty cookie", with(base, "Cookie", "session="), 401},
		{"an empty parameter", with(base + "?access_token="), 401},
		{"only in the fragment of a parameter's name", with(base + "?token=" + good), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := authenticator(t, func(c *Config) { c.Key, c.Cookie = string(k.secret), "session" })
			id, err := f.Identify(t.Context(), tt.r)
			switch e := err.(type) { //nolint:errorlint // none is wrapped
			case nil:
				if tt.status != 0 || id.Subject != "ada" {
					t.Errorf("got in as %s, want %d", id.Subject, tt.status)
				}
			case *Denied:
				if e.Status != tt.status || e.Header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("got %d %v, want %d", e.Status, e.Header, tt.status)
				}
			case *BadRequest:
				if tt.status != 400 || strings.Contains(e.Detail, good) {
					t.Errorf("got %v, want %d", err, tt.status)
				}
			default:
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCookieIsOff(t *testing.T) {
	k := keysOfTests()
	f := authenticator(t, func(c *Config) { c.Key = string(k.secret) })
	good := sign(t, jwt.SigningMethodHS256, k.secret, claimsOf(nil), nil)
	f.wantDenied(t, with("http://a.example/events/x/", "Cookie", "session="+good), 401, "a token is needed")
	if got := f.metric(t, "spillway_auth_tokens_total", "missing"); got != 1 {
		t.Errorf("%v tokens were missing, want 1", got)
	}
}
