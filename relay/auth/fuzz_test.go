package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// No text is a token but one that was signed, and whatever it is, the answer is
// a refusal that shows nothing of it.
func FuzzToken(f *testing.F) {
	k := keysOfTests()
	good, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "ada", "exp": 4102444800}).SignedString(k.secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("..")
	parts := strings.Split(good, ".")
	for _, header := range []string{`{"alg":"none"}`, `{"alg":"RS256","kid":"x","jku":"http://x"}`, `{"alg":1}`, `[]`, `{"alg":"HS256","crit":["b64"],"b64":false}`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2])
	}
	cfg := defaults()
	cfg.Key = string(k.secret) + "\n" + string(k.secret2)
	a, err := New(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := a.tokens.verify(t.Context(), text)
		if text == good {
			if err != nil {
				t.Errorf("got %v", err)
			}
			return
		}
		var d *Denied
		if id != nil || !errors.As(err, &d) || d.Status != 401 && d.Status != 403 {
			t.Fatalf("%q: got %+v, %v", text, id, err)
		}
		if len(text) > 20 && strings.Contains(d.Reason, text) {
			t.Errorf("the reason shows the token: %s", d.Reason)
		}
		for _, v := range d.Header["Www-Authenticate"] {
			if strings.ContainsAny(v, "\r\n\x00") || strings.Count(v, `"`) != 4 {
				t.Errorf("got WWW-Authenticate: %q", v)
			}
		}
	})
}

// Keys of any text are refused or good, and what is wrong with them shows
// nothing of them.
func FuzzKeys(f *testing.F) {
	k := keysOfTests()
	f.Add(k.all)
	f.Add(string(k.secret) + "\nbase64:" + base64.StdEncoding.EncodeToString(k.secret2))
	f.Add("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")
	f.Add("{\"keys\":[]}")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parseKeys(text)
		if err != nil {
			if len(text) > 12 && strings.Contains(err.Error(), text) {
				t.Errorf("the error shows the key: %v", err)
			}
			return
		}
		if len(keys) == 0 {
			t.Errorf("%q: neither keys nor an error", text)
		}
		for i := range keys {
			if err := keys[i].check(); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
	})
}

// Keys of sets are refused or good for something.
func FuzzJWK(f *testing.F) {
	f.Add(`{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"1","use":"sig","key_ops":["verify"]}`)
	f.Add(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA","x5u":"http://127.0.0.1:1/"}`)
	f.Add(`{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","alg":"Ed25519"}`)
	f.Add(`{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`)
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parseJWK([]byte(text))
		if err != nil {
			return
		}
		if _, secret := k.public.([]byte); secret || k.check() != nil || len(k.id) > maxKid {
			t.Errorf("%s was taken: %+v", text, k)
		}
		for _, alg := range secretAlgorithms {
			if k.fits(alg) {
				t.Errorf("%s is for %s", text, alg)
			}
		}
	})
}

// Claims are found wherever a path leads, and no path breaks the search.
func FuzzClaims(f *testing.F) {
	f.Add(`{"a":{"b":{"c":["x",1]}},"a.b":{"c":"y z"}}`, "a.b.c")
	f.Add(`{"https://x/y":{"topics":"a"}}`, "https://x/y.topics")
	f.Add(`null`, "....")
	f.Fuzz(func(t *testing.T, text, path string) {
		if strings.Count(path, ".") > 16 {
			return // the operator's, and a search in all ways to cut it
		}
		var c Claims
		if err := c.UnmarshalJSON([]byte(text)); err != nil {
			return
		}
		v, ok := c.at(path)
		if !ok && v != nil {
			t.Errorf("got %v, and not found", v)
		}
		for _, s := range listed(v) {
			if !strings.Contains(string(mustJSON(t, v)), s) && json.Valid([]byte(text)) && !strings.ContainsAny(s, "<>&\"\\\u2028\u2029\ufffd") && s == strings.ToValidUTF8(s, "") && !hasControl(s) {
				t.Errorf("%q is not in %v", s, v)
			}
		}
	})
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
