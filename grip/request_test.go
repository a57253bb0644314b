package grip

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func proxiesOf(t *testing.T, urls string) []Proxy {
	t.Helper()
	proxies, err := ParseURLs(urls)
	if err != nil {
		t.Fatal(err)
	}
	return proxies
}

func TestVerifyRequest(t *testing.T) {
	sign := func(secret, iss string, at time.Time) string {
		key, err := ParseKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := key.Sign(iss, at)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	now := time.Now()
	for _, tt := range []struct {
		name, urls, sig string
		want            string // in the error; empty: none
		body            string // of the answer
	}{
		{"signed", "http://a?verify-key=one", sign("one", "x", now), "", "inside"},
		{"the key that publishes also verifies", "http://a?iss=realm&key=one", sign("one", "realm", now), "", "inside"},
		{"by the second proxy", "http://a?verify-key=one http://b?verify-key=two", sign("two", "", now), "", "inside"},
		{"by the issuer that is asked for", "http://a?verify-key=one&verify-iss=fastly:1", sign("one", "fastly:1", now), "", "inside"},
		{"by another", "http://a?verify-key=one&verify-iss=fastly:1", sign("one", "fastly:2", now), `http://a: verify: issued by "fastly:2", not by "fastly:1"`, "not one that this server accepts"},
		{"by nobody's key", "http://a?verify-key=one http://b?verify-key=two", sign("three", "", now), "http://b: verify: ", "not one that this server accepts"},
		{"long ago", "http://a?verify-key=one", sign("one", "", now.Add(-2*time.Hour)), "expired", "not one that this server accepts"},
		{"not signed", "http://a?verify-key=one", "", "no Grip-Sig", "through a GRIP proxy only"},
		{"no key", "http://a", sign("one", "", now), "http://a: no key to verify by; add verify-key=", "not one that this server accepts"},
		{"no proxies", "", sign("one", "", now), "is GRIP_URL set?", "not one that this server accepts"},
		{"garbage", "http://a?verify-key=one", "a.b.c", "malformed", "not one that this server accepts"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxies := proxiesOf(t, tt.urls)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Grip-Sig", tt.sig)
			err := VerifyRequest(r, proxies...)
			if text := errorText(err); (text == "") != (tt.want == "") || !strings.Contains(text, tt.want) {
				t.Errorf("got error %q, want %q", text, tt.want)
			}
			w := httptest.NewRecorder()
			RequireProxy(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("inside")) }), proxies...).ServeHTTP(w, r)
			code := http.StatusNotImplemented
			if tt.want == "" {
				code = http.StatusOK
			}
			if w.Code != code || !strings.Contains(w.Body.String(), tt.body) || strings.Contains(w.Body.String(), "http:") {
				t.Errorf("got %d %q, want %d and %q", w.Code, w.Body, code, tt.body)
			}
		})
	}
}

func TestProxied(t *testing.T) {
	for _, tt := range []struct {
		h    http.Header
		want bool
	}{
		{fields(), false},
		{fields("Grip-Sig: x"), true},
		{fields("Grip-Feature: status"), true}, // a proxy without a key
		{fields("Grip-Sig:"), false},
	} {
		if got := Proxied(&http.Request{Header: tt.h}); got != tt.want {
			t.Errorf("%q: got %t, want %t", tt.h, got, tt.want)
		}
	}
}

func TestWhatAProxySays(t *testing.T) {
	h := fields(
		"Grip-Feature: status, link:next,", "Grip-Feature: filter:skip-self",
		"Grip-Last: fruit; last-id=3", `Grip-Last: veg; last-id="a,b", empty; last-id=`,
		"Meta-User: alice", "Meta-: x", "Metal: y",
	)
	h["meta-Room"] = []string{"1", "2"}
	if got, want := Features(h), []string{"status", "link:next", "filter:skip-self"}; !slices.Equal(got, want) {
		t.Errorf("features: got %q, want %q", got, want)
	}
	for channel, want := range map[string]string{"fruit": "3 true", "veg": "a,b true", "empty": " true", "other": " false"} {
		id, ok := LastID(h, channel)
		if got := id + " " + map[bool]string{true: "true", false: "false"}[ok]; got != want {
			t.Errorf("last id of %s: got %q, want %q", channel, got, want)
		}
	}
	if id, ok := LastID(fields("Grip-Last: a"), "a"); ok {
		t.Errorf("last id without one: got %q, want none", id)
	}
	if got, want := ParseMeta(h), map[string]string{"user": "alice", "room": "1"}; !maps.Equal(got, want) {
		t.Errorf("meta: got %q, want %q", got, want)
	}
}
