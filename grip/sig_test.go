package grip

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var now = time.Unix(1_700_000_000, 0)

// A keyFile is one key in all the spellings that a configuration may have.
type keyFile struct {
	alg                             string
	private, public, old, jwk, jwks string // PEM, PEM, PEM of its own kind, JWK private and public
}

func encodePEM(t testing.TB, kind string, der []byte, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

var makeKeys = sync.OnceValues(func() (*rsa.PrivateKey, *ecdsa.PrivateKey) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return r, e
})

func keyFiles(t testing.TB) []keyFile {
	t.Helper()
	r, e := makeKeys()
	b64 := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	raw := base64.RawURLEncoding.EncodeToString
	pkix := func(k crypto.Signer) string {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		return encodePEM(t, "PUBLIC KEY", der, err)
	}
	pkcs8 := func(k crypto.Signer) string {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		return encodePEM(t, "PRIVATE KEY", der, err)
	}
	point, err := e.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := e.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(e)
	params := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	rsaPublic := fmt.Sprintf(`"kty":"RSA","n":"%s","e":"AQAB"`, b64(r.N))
	ecPublic := fmt.Sprintf(`"kty":"EC","crv":"P-256","x":"%s","y":"%s"`, raw(point[1:33]), raw(point[33:]))
	return []keyFile{
		{
			alg: "RS256", private: pkcs8(r), public: pkix(r),
			old:  encodePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil),
			jwk:  fmt.Sprintf(`{%s,"d":"%s","p":"%s","q":"%s"}`, rsaPublic, b64(r.D), b64(r.Primes[0]), b64(r.Primes[1])),
			jwks: "{" + rsaPublic + "}",
		},
		{
			alg: "ES256", private: pkcs8(e), public: pkix(e),
			old:  params + encodePEM(t, "EC PRIVATE KEY", der, err),
			jwk:  fmt.Sprintf(`{%s,"d":"%s"}`, ecPublic, raw(scalar)),
			jwks: "{" + ecPublic + "}",
		},
	}
}

func parsedKey(t testing.TB, s string) Key {
	t.Helper()
	k, err := ParseKey(s)
	if err != nil {
		t.Fatalf("got error %q, want a key", err)
	}
	return k
}

// The token is put together by hand, as another implementation would.
func TestSignIsWhatOthersExpect(t *testing.T) {
	got, err := parsedKey(t, "changeme").Sign("pushpin", now)
	if err != nil {
		t.Fatal(err)
	}
	part := func(s string) map[string]any {
		text, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	parts := strings.Split(got, ".")
	if len(parts) != 3 {
		t.Fatalf("got %q, want three parts", got)
	}
	if h := part(parts[0]); len(h) != 2 || h["typ"] != "JWT" || h["alg"] != "HS256" {
		t.Errorf("got head %v, want typ JWT and alg HS256", h)
	}
	if c := part(parts[1]); len(c) != 2 || c["iss"] != "pushpin" || c["exp"] != 1_700_003_600.0 {
		t.Errorf("got claims %v, want exactly iss and exp", c)
	}
	if want := signature("changeme", parts[0]+"."+parts[1]); parts[2] != want {
		t.Errorf("got signature %s, want %s", parts[2], want)
	}
}

func signature(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// token makes an HS256 token with any head and claims.
func token(secret, head, claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	return text + "." + signature(secret, text)
}

func TestVerify(t *testing.T) {
	const head = `{"typ":"JWT","alg":"HS256"}`
	k := parsedKey(t, "changeme")
	for _, tt := range []struct {
		name, token, iss string
		ok               bool
	}{
		{"good", token("changeme", head, `{"iss":"pushpin","exp":1700000001}`), "pushpin", true},
		{"nobody issued it", token("changeme", head, `{"exp":1700000001}`), "", true},
		{"expired", token("changeme", head, `{"iss":"pushpin","exp":1699999999}`), "", false},
		{"expires this very second", token("changeme", head, `{"iss":"pushpin","exp":1700000000}`), "", false},
		{"never expires", token("changeme", head, `{"iss":"pushpin"}`), "", false},
		{"exp is no number", token("changeme", head, `{"exp":"later"}`), "", false},
		{"not yet", token("changeme", head, `{"exp":1700000009,"nbf":1700000005}`), "", false},
		{"another key", token("other", head, `{"iss":"pushpin","exp":1700000001}`), "", false},
		{"unsigned", "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1700000001}`)) + ".", "", false},
		{"another algorithm", token("changeme", `{"alg":"HS512"}`, `{"exp":1700000001}`), "", false},
		{"the secret itself", "changeme", "", false},
		{"empty", "", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			iss, err := k.Verify(tt.token, now)
			if iss != tt.iss || (err == nil) != tt.ok {
				t.Errorf("got %q, %v, want %q, ok %t", iss, err, tt.iss, tt.ok)
			}
		})
	}
}

func TestAsymmetricKeys(t *testing.T) {
	for _, kf := range keyFiles(t) {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte(kf.private), 0o600); err != nil {
			t.Fatal(err)
		}
		privates := map[string]string{
			"PKCS 8": kf.private, "own kind": kf.old, "JWK": kf.jwk, "file": "file:" + path,
			"base64":   "base64:" + base64.StdEncoding.EncodeToString([]byte(kf.private)),
			"one line": strings.ReplaceAll(kf.private, "\n", `\n`),
		}
		for private, ptext := range privates {
			for public, text := range map[string]string{"PEM": kf.public, "JWK": kf.jwks, "itself": ptext} {
				t.Run(kf.alg+"/"+private+"/"+public, func(t *testing.T) {
					signed, err := parsedKey(t, ptext).Sign("fastly:x", now)
					if err != nil {
						t.Fatal(err)
					}
					head, _ := base64.RawURLEncoding.DecodeString(strings.Split(signed, ".")[0])
					if !strings.Contains(string(head), kf.alg) {
						t.Errorf("got head %s, want %s", head, kf.alg)
					}
					if iss, err := parsedKey(t, text).Verify(signed, now); iss != "fastly:x" || err != nil {
						t.Errorf("got %q, %v, want fastly:x", iss, err)
					}
				})
			}
		}
		t.Run(kf.alg+"/a public key signs nothing", func(t *testing.T) {
			if signed, err := parsedKey(t, kf.public).Sign("a", now); err == nil {
				t.Errorf("got %s, want an error", signed)
			}
		})
		t.Run(kf.alg+"/a public key is no secret", func(t *testing.T) {
			forged := token(kf.public, `{"alg":"HS256"}`, `{"exp":1700000001}`)
			if _, err := parsedKey(t, kf.public).Verify(forged, now); err == nil {
				t.Error("got no error for a token signed with the text of the public key")
			}
		})
	}
}

func TestParseKeySecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("changeme\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	signed, err := parsedKey(t, "changeme").Sign("a", now)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"changeme", "base64:Y2hhbmdlbWU=", "base64:Y2hhbmdlbWU", "file:" + path, `{"kty":"oct","k":"Y2hhbmdlbWU"}`} {
		if _, err := parsedKey(t, s).Verify(signed, now); err != nil {
			t.Errorf("%s: got %v, want it to be the same key", s, err)
		}
	}
}

func TestParseKeyErrors(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	wrongCurve := encodePEM(t, "PRIVATE KEY", der, err)
	broken := "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
	for _, tt := range []struct{ name, key, want string }{
		{"empty", "", "key: is empty"},
		{"empty base64", "base64:", "key: is empty"},
		{"not base64", "base64:?secret", "key: what follows base64: is not base64"},
		{"no file", "file:" + filepath.Join(t.TempDir(), "none"), "no such file"},
		{"PEM that says nothing", broken, "key: PEM: PRIVATE KEY: not readable"},
		{"half a PEM", broken[:30], "key: PEM: no key in it"},
		{"PEM without a key", strings.ReplaceAll(broken, "PRIVATE KEY", "SECRET"), "key: PEM: no key in it"},
		{"encrypted", strings.ReplaceAll(broken, "PRIVATE", "ENCRYPTED PRIVATE"), "key: PEM: is encrypted; decrypt it first"},
		{"wrong curve", wrongCurve, "key: is neither RSA nor EC on P-256"},
		{"JWK of another type", `{"kty":"OKP","x":"c2VjcmV0"}`, "key: JWK: type is none of oct, EC, RSA"},
		{"JWK of another curve", `{"kty":"EC","crv":"P-384"}`, "key: JWK: curve is not P-256"},
		{"JWK not on the curve", `{"kty":"EC","crv":"P-256","x":"c2VjcmV0","y":"c2VjcmV0"}`, "key: JWK: EC: not readable"},
		{"JWK without a secret", `{"kty":"oct"}`, "key: JWK: oct: not readable"},
		{"JWK without a modulus", `{"kty":"RSA","e":"AQAB"}`, "key: JWK: RSA: not readable"},
		{"JWK that is half RSA", `{"kty":"RSA","e":"AQAB","n":"c2VjcmV0","d":"c2VjcmV0"}`, "key: JWK: RSA: not readable"},
		{"JWK with a strange exponent", `{"kty":"RSA","e":"AQ","n":"c2VjcmV0"}`, "key: JWK: exponent out of range"},
		{"JWK that is not JSON", `{"kty" c2VjcmV0}`, "key: JWK: not JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseKey(tt.key)
			if !strings.Contains(errorText(err), tt.want) || !k.IsZero() {
				t.Errorf("got %v, error %v, want %s", k, err, tt.want)
			}
			if text := errorText(err); strings.Contains(text, "secret") || strings.Contains(text, "c2VjcmV0") {
				t.Errorf("got error %q, which shows the key", text)
			}
		})
	}
}

func TestVerifyBearer(t *testing.T) {
	k := parsedKey(t, "changeme")
	signed, err := k.Sign("realm", now)
	if err != nil {
		t.Fatal(err)
	}
	if iss, err := k.VerifyBearer(signed, now); iss != "realm" || err != nil {
		t.Errorf("token: got %q, %v, want realm", iss, err)
	}
	if iss, err := k.VerifyBearer("changeme", now); iss != "" || err != nil {
		t.Errorf("secret: got %q, %v, want nobody", iss, err)
	}
	for _, wrong := range []string{"", "changem", "changeme2", "x"} {
		if _, err := k.VerifyBearer(wrong, now); err == nil {
			t.Errorf("%q: got no error", wrong)
		}
		if _, err := (Key{}).VerifyBearer(wrong, now); err == nil {
			t.Errorf("%q with no key at all: got no error", wrong)
		}
	}
}

func TestZeroKey(t *testing.T) {
	var k Key
	if _, err := k.Sign("a", now); err == nil {
		t.Error("sign: got no error")
	}
	if _, err := k.Verify(token("", `{"alg":"HS256"}`, `{"exp":1700000001}`), now); err == nil {
		t.Error("verify: got no error for a token signed with nothing")
	}
}

// printed returns v in all the ways in which it may end up in a log.
func printed(t testing.TB, v any) string {
	t.Helper()
	var buf bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&buf, verb+"\n", v)
		fmt.Fprintf(&buf, verb+"\n", []any{v, &v})
	}
	slog.New(slog.NewTextHandler(&buf, nil)).Info("x", "v", v)
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("x", "v", v)
	return buf.String()
}

func TestKeyHides(t *testing.T) {
	type config struct{ Key Key }
	k := parsedKey(t, "opensesame")
	for _, v := range []any{k, &k, config{k}, &config{k}, []Key{k}, map[string]Key{"a": k}} {
		out := printed(t, v)
		if strings.Contains(out, "opensesame") || strings.Contains(out, fmt.Sprintf("%x", "opensesame")) || strings.Contains(out, fmt.Sprint([]byte("opensesame"))) {
			t.Errorf("%T: got %s, which shows the key", v, out)
		}
	}
	if out := printed(t, k); !strings.Contains(out, hidden) {
		t.Errorf("got %s, want %s in it", out, hidden)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("changeme")
	f.Add("base64:Y2hhbmdlbWU=")
	f.Add(`{"kty":"oct","k":"Y2hhbmdlbWU"}`)
	for _, kf := range keyFiles(f) {
		for _, s := range []string{kf.private, kf.public, kf.old, kf.jwk, kf.jwks} {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.HasPrefix(s, "file:") {
			return // the file system is not under test
		}
		k, err := ParseKey(s)
		if err != nil {
			return
		}
		signed, err := k.Sign("a", now)
		if err != nil {
			// An RSA key may be too small to sign with, or only public.
			if k.Symmetric() {
				t.Errorf("got %v, want a token", err)
			}
			return
		}
		if iss, err := k.Verify(signed, now); iss != "a" || err != nil {
			t.Errorf("got %q, %v for our own token", iss, err)
		}
	})
}

func TestParseKeys(t *testing.T) {
	jwk := `{"kty":"oct","k":"c2VjcmV0"}` // secret
	for _, tt := range []struct {
		name, text string
		opens      []string
		not        []string
	}{
		{"one", "a", []string{"a"}, []string{"", "A", "a ", "aa"}},
		{"one with blanks", " a ", []string{" a "}, []string{"a"}},
		{"two", "new , old", []string{"new", "old"}, []string{"new ", "", "new,old", "new , old"}},
		{"base64", "base64:bmV3,base64:b2xk", []string{"new", "old"}, []string{"base64:bmV3"}},
		{"a JSON Web Key has commas of its own", jwk, []string{"secret"}, []string{`{"kty":"oct"`}},
		{"two of them", jwk + " , " + jwk, []string{"secret"}, nil},
		{"one and a text", jwk + ",old", []string{"secret", "old"}, nil},
		{"a text that begins like one", `{"a,b}`, []string{`{"a`, "b}"}, []string{`{"a,b}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keys, err := ParseKeys(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			for _, s := range tt.opens {
				if _, err := keys.VerifyBearer(s, now); err != nil {
					t.Errorf("%q: got %v, want it to open", s, err)
				}
				k, err := ParseKey(s)
				if err != nil {
					t.Fatal(err)
				}
				token, err := k.Sign("me", now)
				if err != nil {
					t.Fatal(err)
				}
				if iss, err := keys.Verify(token, now); err != nil || iss != "me" {
					t.Errorf("a token by %q: got %q, %v, want me", s, iss, err)
				}
				if _, err := keys.Verify(token, now.Add(2*time.Hour)); err == nil {
					t.Errorf("an old token by %q: got no error", s)
				}
			}
			for _, s := range tt.not {
				if _, err := keys.VerifyBearer(s, now); err == nil {
					t.Errorf("%q opens", s)
				}
			}
		})
	}
	for _, tt := range []struct{ name, text, want string }{
		{"none", "", "key: is empty"},
		{"an empty one", "a,", "key: is empty"},
		{"another empty one", ",a", "key: is empty"},
		{"three", "a,b,c", "more than 2 keys"},
		{"the second is broken", "a,base64:!", "key: what follows base64: is not base64"},
	} {
		if keys, err := ParseKeys(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v, want %s", tt.name, keys, err, tt.want)
		}
	}
	var none Keys
	if _, err := none.VerifyBearer("", time.Now()); err == nil {
		t.Error("no keys: got no error")
	}
	if keys, _ := ParseKeys("hunter2,hunter3"); strings.Contains(fmt.Sprintf("%v %+v %#v %s %x", keys, keys, keys, keys, keys), "hunter") {
		t.Errorf("shown: %v", keys)
	}
}

// A list of keys never opens with the empty bearer, nor by what is not one of them.
func FuzzParseKeys(f *testing.F) {
	for _, s := range []string{"a", "a,b", "a,b,c", `{"kty":"oct","k":"c2VjcmV0"},x`, "base64:bmV3,", `{"a":","},{"kty":"oct","k":"YQ"}`, ","} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "file:") {
			t.Skip("reads files")
		}
		keys, err := ParseKeys(s)
		if err != nil {
			return
		}
		if len(keys) < 1 || len(keys) > maxKeys {
			t.Errorf("%q: %d keys", s, len(keys))
		}
		if _, err := keys.VerifyBearer("", time.Now()); err == nil {
			t.Errorf("%q opens with nothing", s)
		}
	})
}
