package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/grip"
	"spillway/grip/secret"
)

// A vault is files of secrets that a test changes.
type vault struct {
	*secret.Source
	texts map[string]*atomic.Pointer[string]
}

func newVault(texts map[string]string) *vault {
	v := &vault{secret.NewSource(), make(map[string]*atomic.Pointer[string])}
	for name, text := range texts {
		p := new(atomic.Pointer[string])
		p.Store(&text)
		v.texts[name] = p
		v.Add(name, text, func() (string, error) { return *p.Load(), nil })
	}
	return v
}

func (v *vault) change(name, text string) {
	v.texts[name].Store(&text)
	v.Reload()
}

// Keys change under a running gateway, each for itself, and no bad one opens
// what the old one kept shut.
func TestKeysChange(t *testing.T) {
	var sig atomic.Value
	a := newAPI(t, map[string]http.HandlerFunc{"/": func(_ http.ResponseWriter, r *http.Request) { sig.Store(r.Header.Get("Grip-Sig")) }})
	v := newVault(map[string]string{"CONTROL_KEY": "first", "SIG_KEY": "sig one", "UPSTREAM_KEY": "front one", "CONTROL_REALMS": "me=mine"})
	f := start(t, func(c *Config) {
		c.Routes, c.EventsPath = "* "+a.Listener.Addr().String(), ""
		c.ControlKey, c.SigKey, c.UpstreamKey, c.ControlRealms, c.Secrets = "first", "sig one", "front one", "me=mine", v.Source
	})
	v.Watch(f.log, f.reg)
	publish := func(path, bearer string) int {
		r, err := http.NewRequest(http.MethodPost, "http://"+f.ControlAddr().String()+path, strings.NewReader(`{"items":[{"channel":"a","formats":{"http-stream":{"content":"x"}}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if bearer != "" {
			r.Header.Set("Authorization", "Bearer "+bearer)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	want := func(when, path, bearer string, status int) {
		t.Helper()
		if got := publish(path, bearer); got != status {
			t.Errorf("%s: %s with %q: got %d, want %d", when, path, bearer, got, status)
		}
	}
	want("at first", "/publish/", "first", 200)
	v.change("CONTROL_KEY", "second,first")
	want("both", "/publish/", "first", 200)
	want("both", "/publish/", "second", 200)
	v.change("CONTROL_KEY", "second")
	want("the new one", "/publish/", "first", 401)
	want("the new one", "/publish/", "second", 200)
	for _, bad := range []string{"", "base64:!", "a,b,c", ","} {
		v.change("CONTROL_KEY", bad)
		want("after "+bad, "/publish/", "", 401)
		want("after "+bad, "/publish/", "second", 200)
	}
	want("realm", "/realm/me/publish/", "mine", 200)
	v.change("CONTROL_REALMS", "me=other")
	want("another realm's key", "/realm/me/publish/", "mine", 401)
	want("another realm's key", "/realm/me/publish/", "other", 200)
	v.change("CONTROL_REALMS", ",")
	want("no realms", "/realm/me/publish/", "other", 200)

	signedBy := func(secret string) bool {
		f.get(t, "/")
		k, err := grip.ParseKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.Verify(sig.Load().(string), time.Now())
		return err == nil
	}
	if !signedBy("sig one") {
		t.Error("Grip-Sig is not by the first key")
	}
	v.change("SIG_KEY", "sig two")
	if !signedBy("sig two") {
		t.Error("Grip-Sig is not by the second key")
	}

	trusted := func(secret string) bool {
		k, err := grip.ParseKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		token, err := k.Sign("front", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return f.upstream.Trusted(&http.Request{Header: http.Header{"Grip-Sig": {token}}})
	}
	v.change("UPSTREAM_KEY", "front two")
	if trusted("front one") || !trusted("front two") {
		t.Errorf("trusted: got %v by the old key and %v by the new one, want the new one alone", trusted("front one"), trusted("front two"))
	}
	v.change("UPSTREAM_KEY", "front three,changeme")
	if trusted("changeme") || !trusted("front two") {
		t.Error("a public key was taken")
	}
}
