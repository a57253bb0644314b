package grip

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for _, tt := range []struct {
		name, url string
		control   string
		publish   string
		iss       string
		key       string // the secret
		verifyIss string
		verify    string // the secret
		user      string
	}{
		{name: "plain", url: "http://localhost:5561", control: "http://localhost:5561", publish: "http://localhost:5561/publish/"},
		{name: "final slash, blanks around", url: " http://localhost:5561/ ", control: "http://localhost:5561", publish: "http://localhost:5561/publish/"},
		{name: "path", url: "https://api.example.com/realm/a%2Fb/", control: "https://api.example.com/realm/a%2Fb", publish: "https://api.example.com/realm/a%2Fb/publish/"},
		{name: "a foreign parameter stays", url: "http://h/a?x=%20&iss=me&key=k&y", control: "http://h/a?x=%20&y", publish: "http://h/a/publish/?x=%20&y", iss: "me", key: "k", verify: "k"},
		{name: "IPv6", url: "http://[::1]:5561", control: "http://[::1]:5561", publish: "http://[::1]:5561/publish/"},
		{name: "key alone is a bearer, and verifies nothing", url: "https://h/?key=token+1", control: "https://h", publish: "https://h/publish/", key: "token 1"},
		{name: "a plus in base64", url: "https://h?iss=me&key=base64:+/8=", control: "https://h", publish: "https://h/publish/", iss: "me", key: "\xfb\xff", verify: "\xfb\xff"},
		{name: "base64, escaped", url: "https://h?iss=me&key=base64%3A%2B/8%3D", control: "https://h", publish: "https://h/publish/", iss: "me", key: "\xfb\xff", verify: "\xfb\xff"},
		{name: "verify-key of its own", url: "https://h?iss=me&key=k&verify-iss=fastly:x&verify-key=v", control: "https://h", publish: "https://h/publish/", iss: "me", key: "k", verifyIss: "fastly:x", verify: "v"},
		{name: "user", url: "https://bob:pass@h/a", control: "https://h/a", publish: "https://h/a/publish/", user: "bob:pass"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParseURL(tt.url)
			if err != nil {
				t.Fatalf("got error %q, want none", err)
			}
			for _, c := range []struct{ what, got, want string }{
				{"control URI", p.ControlURI, tt.control}, {"publish URL", p.PublishURL(), tt.publish},
				{"iss", p.Iss, tt.iss}, {"key", string(p.Key.material().secret), tt.key},
				{"verify-iss", p.VerifyIss, tt.verifyIss}, {"verify-key", string(p.VerifyKey.material().secret), tt.verify},
			} {
				if c.got != c.want {
					t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
				}
			}
			if user := p.User.String(); p.User != nil && user != tt.user || p.User == nil && tt.user != "" {
				t.Errorf("user: got %q, want %q", user, tt.user)
			}
		})
	}
}

func TestParseURLErrors(t *testing.T) {
	kf := keyFiles(t)[1]
	pem := func(s string) string {
		return url.QueryEscape("base64:" + base64.StdEncoding.EncodeToString([]byte(s)))
	}
	for _, tt := range []struct{ name, url, want string }{
		{"no scheme", "localhost:5561", "begins with neither http:// nor https://; write http://localhost:5561"},
		{"another scheme", "tcp://localhost:5561", "begins with neither http:// nor https://; write http://localhost:5561"},
		{"no host", "http:///a?key=sesame", "no host; write http://localhost:5561"},
		{"no URL", "http://h:port?key=sesame", "not a URL"},
		{"broken escape", "http://h?key=sesame%zz", "key: is not percent-encoded as a query"},
		{"a blank in what stays", "http://h?x=a b", "query: is not percent-encoded"},
		{"broken key", "http://h?key=base64:sesame!", "key: what follows base64: is not base64"},
		{"empty key", "http://h?verify-key=", "verify-key: is empty"},
		{"nothing to sign with", "http://h?iss=me", "iss without key: nothing to sign with"},
		{"a public key to sign with", "http://h?iss=me&key=" + pem(kf.public), "key: is a public one, and cannot sign for iss"},
		{"a private key as bearer", "http://h?key=" + pem(kf.private), "key without iss: is not a text that a header can carry"},
		{"a line break as bearer", "http://h?key=sesame%0aX:%20y", "key without iss: is not a text that a header can carry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseURL(tt.url)
			if errorText(err) != tt.want {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestParseURLs(t *testing.T) {
	for _, tt := range []struct {
		name, list string
		want       string // control URIs
		err        string
	}{
		{"none", " ", "", ""},
		{"one", "http://a", "http://a", ""},
		{"blanks and commas", "http://a, http://b\n\thttp://c,", "http://a http://b http://c", ""},
		{"one that is wrong", "a", "", "begins with neither http:// nor https://; write http://localhost:5561"},
		{"all that is wrong", "http://, http://b x:y", "", "URL 1: no host; write http://localhost:5561\nURL 3: begins with neither http:// nor https://; write http://localhost:5561"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxies, err := ParseURLs(tt.list)
			var uris []string
			for _, p := range proxies {
				uris = append(uris, p.ControlURI)
			}
			if got := strings.Join(uris, " "); got != tt.want || errorText(err) != tt.err {
				t.Errorf("got %q, error %q, want %q, error %q", got, errorText(err), tt.want, tt.err)
			}
		})
	}
}

func TestVerifySig(t *testing.T) {
	kf := keyFiles(t)[1]
	private := parsedKey(t, kf.private)
	p, err := ParseURL("https://h?key=token&verify-iss=fastly:x&verify-key=" + url.QueryEscape(kf.jwks))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ iss, want string }{
		{"fastly:x", ""},
		{"fastly:y", `verify: issued by "fastly:y", not by "fastly:x"`},
		{"", `verify: issued by "", not by "fastly:x"`},
	} {
		signed, err := private.Sign(tt.iss, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.VerifySig(signed, now); errorText(err) != tt.want {
			t.Errorf("issued by %q: got error %v, want %q", tt.iss, err, tt.want)
		}
	}
	if err := (Proxy{}).VerifySig("", now); err == nil {
		t.Error("no verify-key: got no error")
	}
}

func TestProxyHides(t *testing.T) {
	p, err := ParseURL("https://bob:sesame1@h/a?token=sesame2&iss=me&key=sesame3&verify-key=sesame4")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{p, &p, []Proxy{p}, struct{ P Proxy }{p}} {
		out := printed(t, v)
		for _, secret := range []string{"sesame1", "sesame3", "sesame4"} {
			if strings.Contains(out, secret) {
				t.Errorf("%T: got %s, which shows %s", v, out, secret)
			}
		}
	}
	if out := printed(t, p); strings.Contains(out, "sesame2") || !strings.Contains(out, "https://h/a") {
		t.Errorf("got %s, want the URI without its query", out)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("https://bob:pass@h:1/a/?x=y&iss=me&key=base64:+/8=&verify-iss=you&verify-key=v#frag")
	f.Add("http://h//%2f/?key=a%20b&&=")
	f.Add("http://[::1%25lo]:80?x")
	f.Add("http://0/0%0a? ")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "file:") || strings.Contains(strings.ToLower(s), "%") && strings.Contains(s, "key=") {
			return // a key may be a file, and the file system is not under test
		}
		p, err := ParseURL(s)
		if err != nil {
			return
		}
		again, err := ParseURL(p.ControlURI)
		if err != nil || again.ControlURI != p.ControlURI {
			t.Errorf("got %q, %v, want %q again", again.ControlURI, err, p.ControlURI)
		}
		if u, err := url.Parse(p.PublishURL()); err != nil || u.Host == "" || !strings.HasSuffix(u.Path, "/publish/") {
			t.Errorf("got %q, %v, want a URL that ends in /publish/", p.PublishURL(), err)
		}
	})
}
