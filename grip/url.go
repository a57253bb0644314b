package grip

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// A Proxy is a GRIP proxy as its GRIP_URL describes it: where to publish and
// with which credentials, and whose Grip-Sig to believe. It prints without
// its secrets.
type Proxy struct {
	// ControlURI is where the control API lives, without a final slash. What
	// the GRIP_URL's query had besides the fields below is still in it.
	ControlURI string

	// Iss and Key sign the bearer token of publish requests. Without Iss, Key
	// is a text that is itself the bearer.
	Iss string
	Key Key

	// VerifyKey verifies the Grip-Sig of requests that come from the proxy.
	// VerifyIss, unless empty, is who must have issued it.
	VerifyIss string
	VerifyKey Key

	// User is for basic authentication, where there is no Key. May be nil.
	User *url.Userinfo
}

// ParseURL reads a GRIP_URL:
//
//	SCHEME://[USER:PASS@]HOST[:PORT]/PATH?iss=…&key=…&verify-iss=…&verify-key=…
//
// The two keys are as ParseKey reads them; in one that begins with base64: a
// plus sign is not a blank. A symmetric key with iss also verifies, unless
// there is a verify-key. Errors never show a key or password.
func ParseURL(s string) (Proxy, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil {
		// The URL in a url.Error would show the key.
		return Proxy{}, errors.New("not a URL")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return Proxy{}, errors.New("begins with neither http:// nor https://; write http://localhost:5561")
	}
	if u.Hostname() == "" {
		return Proxy{}, errors.New("no host; write http://localhost:5561")
	}
	p := Proxy{User: u.User}
	if u.RawQuery, err = p.takeParams(u.RawQuery); err != nil {
		return Proxy{}, err
	}
	if p.Iss != "" && p.Key.IsZero() {
		return Proxy{}, errors.New("iss without key: nothing to sign with")
	}
	if p.Iss != "" && !p.Key.canSign() {
		return Proxy{}, errors.New("key: is a public one, and cannot sign for iss")
	}
	if p.Iss == "" && !p.Key.IsZero() && (!p.Key.Symmetric() || !isFieldValue(string(p.Key.material().secret))) {
		return Proxy{}, errors.New("key without iss: is not a text that a header can carry")
	}
	if p.VerifyKey.IsZero() && p.Iss != "" && p.Key.Symmetric() {
		p.VerifyKey = p.Key
	}
	u.User, u.Fragment, u.RawFragment, u.ForceQuery = nil, "", "", false
	u.RawPath = strings.TrimRight(u.EscapedPath(), "/")
	if u.Path, err = url.PathUnescape(u.RawPath); err != nil {
		return Proxy{}, errors.New("not a URL")
	}
	p.ControlURI = u.String()
	return p, nil
}

// takeParams reads the parameters that are for us and returns the rest as it
// was.
func (p *Proxy) takeParams(query string) (rest string, err error) {
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		switch name {
		case "iss":
			p.Iss, err = url.QueryUnescape(value)
		case "verify-iss":
			p.VerifyIss, err = url.QueryUnescape(value)
		case "key":
			p.Key, err = keyParam(value)
		case "verify-key":
			p.VerifyKey, err = keyParam(value)
		default:
			if pair != "" {
				kept = append(kept, pair)
			}
		}
		if err != nil {
			if _, escape := errors.AsType[url.EscapeError](err); escape {
				err = errors.New("is not percent-encoded as a query") // without showing which part
			}
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	rest = strings.Join(kept, "&")
	if strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("query: is not percent-encoded") // it goes onto the wire as it is
	}
	return rest, nil
}

func keyParam(value string) (Key, error) {
	// PathUnescape is QueryUnescape with the plus left as it is.
	s, err := url.PathUnescape(value)
	if err == nil && !strings.HasPrefix(s, "base64:") {
		s, err = url.QueryUnescape(value)
	}
	if err != nil {
		return Key{}, err
	}
	return parseKey(s)
}

// ParseURLs reads a list of them, separated by blanks or commas; a comma within
// one is written %2C. An empty list is no error.
func ParseURLs(s string) ([]Proxy, error) {
	var proxies []Proxy
	var errs []error
	list := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
	for i, one := range list {
		p, err := ParseURL(one)
		switch {
		case err == nil:
			proxies = append(proxies, p)
		case len(list) == 1:
			errs = append(errs, err)
		default:
			errs = append(errs, fmt.Errorf("URL %d: %w", i+1, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return proxies, nil
}

// PublishURL returns where items are posted to.
func (p Proxy) PublishURL() string {
	path, query, ok := strings.Cut(p.ControlURI, "?")
	path = strings.TrimSuffix(path, "/") + "/publish/"
	if ok {
		path += "?" + query
	}
	return path
}

// VerifySig checks the Grip-Sig of a request against VerifyKey and VerifyIss.
func (p Proxy) VerifySig(token string, now time.Time) error {
	iss, err := p.VerifyKey.Verify(token, now)
	if err != nil {
		return err
	}
	if p.VerifyIss != "" && iss != p.VerifyIss {
		return fmt.Errorf("verify: issued by %q, not by %q", iss, p.VerifyIss)
	}
	return nil
}

// String returns the control URI without its query, which may hold secrets.
func (p Proxy) String() string {
	uri, _, _ := strings.Cut(p.ControlURI, "?")
	return uri
}

// Format prints what String returns, whatever the verb.
func (p Proxy) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// LogValue shows all but the secrets.
func (p Proxy) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("uri", p.String())}
	for _, a := range []struct{ name, value string }{
		{"iss", p.Iss}, {"key", p.Key.String()},
		{"verify-iss", p.VerifyIss}, {"verify-key", p.VerifyKey.String()},
		{"user", p.User.Username()},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.name, a.value))
		}
	}
	return slog.GroupValue(attrs...)
}
