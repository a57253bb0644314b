package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"spillway/grip/bytesize"
	"spillway/grip/secret"
)

// Config is what is read from the environment about who may read.
type Config struct {
	// URL is where your API is asked whether a request may read, with the
	// request's own Authorization and cookies. 2xx lets it in, 401 and 403 go
	// back to the client. Not set, nobody is asked.
	URL string `envconfig:"AUTH_URL"`

	// CacheTTL bounds how long an answer of AUTH_URL counts for requests that
	// show the same. 0s to AUTH_RECHECK; 0s asks for each request.
	CacheTTL time.Duration `envconfig:"AUTH_CACHE_TTL" default:"10s"`

	// CacheEntries bounds the answers that are kept.
	CacheEntries int `envconfig:"AUTH_CACHE_ENTRIES" default:"10000"`

	// CacheBytes bounds their memory.
	CacheBytes bytesize.Bytes `envconfig:"AUTH_CACHE_BYTES" default:"16MiB"`

	// CacheIgnoreIP lets requests that differ only in the client's address share
	// an answer. It is right where the API does not look at the address.
	CacheIgnoreIP bool `envconfig:"AUTH_CACHE_IGNORE_IP" default:"false"`

	// Recheck is how often AUTH_URL is asked again while a stream lives, ± 10 %. 1s
	// to 24h, or 0s for never.
	Recheck time.Duration `envconfig:"AUTH_RECHECK" default:"60s"`

	// Timeout bounds an answer of AUTH_URL, and of where keys come from. 100ms to 7s.
	Timeout time.Duration `envconfig:"AUTH_TIMEOUT" default:"5s"`

	// MaxAsked bounds the requests to AUTH_URL at the same time. What is asked
	// beyond it waits its turn, for AUTH_TIMEOUT at most.
	MaxAsked int `envconfig:"AUTH_MAX_REQUESTS" default:"256"`

	// MaxRenewals bounds the WebSockets whose token was renewed while streams of
	// theirs know an older one. Beyond it a renewal is answered auth-unavailable.
	MaxRenewals int `envconfig:"AUTH_MAX_RENEWALS" default:"100000"`

	// ForwardHeaders are further fields of the client's request that AUTH_URL is
	// shown, comma separated.
	ForwardHeaders []string `envconfig:"AUTH_FORWARD_HEADERS"`

	// TopicsHeader is the field of an answer that lists the patterns of topics
	// that may be read, separated by blanks. Without it all may be.
	TopicsHeader string `envconfig:"AUTH_TOPICS_HEADER" default:"X-Spillway-Topics"`

	// ClaimsHeader is the field of an answer with a JSON object that rules use as
	// claims.
	ClaimsHeader string `envconfig:"AUTH_CLAIMS_HEADER" default:"X-Spillway-Claims"`

	// ExpiresHeader is the field of an answer with the time in epoch seconds at
	// which streams end.
	ExpiresHeader string `envconfig:"AUTH_EXPIRES_HEADER" default:"X-Spillway-Expires"`

	// SubjectHeader is the field of an answer that says who it is; there but
	// empty: nobody, whatever credentials the request had.
	SubjectHeader string `envconfig:"AUTH_SUBJECT_HEADER" default:"X-Spillway-Subject"`

	// CAFile is a PEM file with the certificates that AUTH_URL, JWT_JWKS_URL and
	// JWT_ISSUER are verified by, in place of the usual ones.
	CAFile string `envconfig:"AUTH_CA_FILE"`

	// Cookie is the name of a cookie that holds a token. Not set, no cookie does.
	Cookie string `envconfig:"AUTH_COOKIE"`

	// JWKSURLs are where the keys of tokens are: one place for all issuers, or
	// one for each of JWT_ISSUER in the same order. Not set, JWT_ISSUER is asked.
	JWKSURLs []string `envconfig:"JWT_JWKS_URL"`

	// Issuers are the values of iss that tokens may have, comma separated. Without
	// JWT_JWKS_URL and JWT_KEY each is a URL that is asked for its keys, as OpenID
	// Connect Discovery says.
	Issuers []string `envconfig:"JWT_ISSUER"`

	// Audiences are the values, comma separated, one of which must be in aud. Not
	// set, aud is not looked at.
	Audiences []string `envconfig:"JWT_AUDIENCE"`

	// Key is what tokens are verified by: public keys or certificates in PEM, or
	// secrets, text or base64:… of 32 bytes or more. Several secrets stand in
	// lines of their own.
	Key string `envconfig:"JWT_KEY" secret:"true"`

	// Algorithms are those that tokens may be signed with, comma separated. Not
	// set, all that go with the kind of key: HS256, HS384 and HS512 with a secret,
	// else RS, PS and ES with 256, 384 and 512, and EdDSA.
	Algorithms []string `envconfig:"JWT_ALGORITHMS"`

	// TopicsClaim is the claim that lists the patterns of topics that may be read,
	// an array or a text with blanks between them. It is a claim of that name,
	// or, where there is none, a path with dots. Without the claim nothing may be
	// read.
	TopicsClaim string `envconfig:"JWT_TOPICS_CLAIM" default:"topics"`

	// SubjectClaim is the claim that says who it is, found in the same way.
	SubjectClaim string `envconfig:"JWT_SUBJECT_CLAIM" default:"sub"`

	// Leeway is how far the clocks of issuers may differ from ours. 0s to 5m.
	Leeway time.Duration `envconfig:"JWT_LEEWAY" default:"5s"`

	// Secrets is where JWT_KEY may change. The wiring sets it.
	Secrets *secret.Source `ignored:"true"`

	// Client says from which address a request came, and by http or https. The
	// wiring may set it; nil: what the connection says.
	Client func(*http.Request) (ip, proto string) `ignored:"true"`
}

// Enabled reports whether there is anyone to say who a request is.
func (c *Config) Enabled() bool { return c.ByJWT() || c.URL != "" }

// ByJWT reports whether requests need a JWT.
func (c *Config) ByJWT() bool { return c.Key != "" || len(c.JWKSURLs) > 0 || len(c.Issuers) > 0 }

// Validate reports everything that is wrong, not only the first thing.
func (c *Config) Validate() error {
	var errs []error
	bad := func(env string, got any, want string) {
		errs = append(errs, fmt.Errorf("%s=%v: %s", env, got, want))
	}
	if c.URL != "" {
		if err := checkURL(c.URL, true); err != nil {
			errs = append(errs, fmt.Errorf("AUTH_URL: %w", err)) // which may hold a password
		}
	} else if len(c.ForwardHeaders) > 0 {
		bad("AUTH_FORWARD_HEADERS", strings.Join(c.ForwardHeaders, ","), "there is no AUTH_URL that they could be for; add that or remove this")
	}
	for _, d := range []struct {
		env      string
		got      time.Duration
		min, max time.Duration
	}{
		{"AUTH_TIMEOUT", c.Timeout, 100 * time.Millisecond, 7 * time.Second},
		{"AUTH_CACHE_TTL", c.CacheTTL, 0, time.Hour},
		{"JWT_LEEWAY", c.Leeway, 0, 5 * time.Minute},
	} {
		if d.got < d.min || d.got > d.max {
			bad(d.env, d.got, fmt.Sprintf("must be between %v and %v", d.min, d.max))
		}
	}
	switch {
	case c.Recheck != 0 && (c.Recheck < time.Second || c.Recheck > 24*time.Hour):
		bad("AUTH_RECHECK", c.Recheck, "must be between 1s and 24h, or 0s for never")
	case c.Recheck != 0 && c.CacheTTL > c.Recheck:
		bad("AUTH_CACHE_TTL", c.CacheTTL, fmt.Sprintf("is longer than AUTH_RECHECK, %v, which would then ask in vain", c.Recheck))
	}
	for _, n := range []struct {
		env      string
		got      int64
		min, max int64
	}{
		{"AUTH_CACHE_ENTRIES", int64(c.CacheEntries), 1, 1e7},
		{"AUTH_CACHE_BYTES", int64(c.CacheBytes), 64 << 10, 1 << 40},
		{"AUTH_MAX_REQUESTS", int64(c.MaxAsked), 1, 1e5},
		{"AUTH_MAX_RENEWALS", int64(c.MaxRenewals), 1, 1e7},
	} {
		if n.got < n.min || n.got > n.max {
			bad(n.env, n.got, fmt.Sprintf("must be between %d and %d", n.min, n.max))
		}
	}
	errs = append(errs, c.validateHeaders()...)
	if c.Cookie != "" {
		if !httpguts.ValidHeaderFieldName(c.Cookie) {
			bad("AUTH_COOKIE", c.Cookie, "is no name of a cookie; write the name alone, such as session")
		} else if !c.Enabled() {
			bad("AUTH_COOKIE", c.Cookie, "nothing is set that looks at tokens; add JWT_* or AUTH_URL, or remove this")
		}
	}
	if _, err := c.roots(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.validateJWT()...)...)
}

// neverForwarded are fields that AUTH_URL gets in any case, or must not get.
var neverForwarded = []string{
	"Authorization", "Cookie", "Host", "Connection", "Content-Length", "Content-Type", "Content-Encoding", "Expect", "Keep-Alive", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Sec-Websocket-Protocol", "Accept-Encoding",
	"X-Forwarded-Method", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-For", "Forwarded",
}

func (c *Config) validateHeaders() (errs []error) {
	for _, name := range c.ForwardHeaders {
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			errs = append(errs, fmt.Errorf("AUTH_FORWARD_HEADERS: %q is no name of a header field", name))
		case slices.Contains(neverForwarded, http.CanonicalHeaderKey(name)):
			errs = append(errs, fmt.Errorf("AUTH_FORWARD_HEADERS: %s is shown in any case, or belongs to one connection; remove it", name))
		}
	}
	seen := make(map[string]string)
	for _, f := range []struct{ env, name string }{
		{"AUTH_TOPICS_HEADER", c.TopicsHeader}, {"AUTH_CLAIMS_HEADER", c.ClaimsHeader},
		{"AUTH_EXPIRES_HEADER", c.ExpiresHeader}, {"AUTH_SUBJECT_HEADER", c.SubjectHeader},
	} {
		name := http.CanonicalHeaderKey(f.name)
		if !httpguts.ValidHeaderFieldName(f.name) {
			errs = append(errs, fmt.Errorf("%s=%s: is no name of a header field", f.env, f.name))
		} else if other := seen[name]; other != "" {
			errs = append(errs, fmt.Errorf("%s=%s: is what %s is called; need another name", f.env, f.name, other))
		}
		seen[name] = f.env
	}
	return errs
}

func (c *Config) validateJWT() (errs []error) {
	bad := func(env string, got any, want string) {
		errs = append(errs, fmt.Errorf("%s=%v: %s", env, got, want))
	}
	if !c.ByJWT() {
		for _, v := range []struct {
			env  string
			list []string
		}{{"JWT_AUDIENCE", c.Audiences}, {"JWT_ALGORITHMS", c.Algorithms}} {
			if len(v.list) > 0 {
				bad(v.env, strings.Join(v.list, ","), "nothing says where keys of tokens come from; add JWT_ISSUER, JWT_JWKS_URL or JWT_KEY, or remove this")
			}
		}
		return errs
	}
	for _, u := range c.JWKSURLs {
		if err := checkURL(u, true); err != nil {
			errs = append(errs, fmt.Errorf("JWT_JWKS_URL: %w", err))
		}
	}
	for i, name := range c.Issuers {
		if slices.Contains(c.Issuers[:i], name) {
			bad("JWT_ISSUER", name, "is there twice")
		} else if c.Key == "" && len(c.JWKSURLs) == 0 {
			if err := checkURL(name, false); err != nil {
				errs = append(errs, fmt.Errorf("JWT_ISSUER: %w; or say with JWT_JWKS_URL or JWT_KEY where its keys are", err))
			}
		}
	}
	switch n := len(c.JWKSURLs); {
	case n > 0 && c.Key != "":
		errs = append(errs, errors.New("JWT_KEY, JWT_JWKS_URL: both are set; keep one"))
	case n > 1 && n != len(c.Issuers):
		bad("JWT_JWKS_URL", strings.Join(c.JWKSURLs, ","), fmt.Sprintf("need one URL for all issuers, or one for each of the %d in JWT_ISSUER, in the same order", len(c.Issuers)))
	}
	known := append(slices.Clone(publicAlgorithms), secretAlgorithms...)
	for _, alg := range c.Algorithms {
		switch {
		case !slices.Contains(known, alg):
			bad("JWT_ALGORITHMS", alg, "must be among "+strings.Join(known, ", "))
		case c.Key == "" && slices.Contains(secretAlgorithms, alg):
			bad("JWT_ALGORITHMS", alg, "is for a shared secret, and keys that are fetched are public; "+strings.Join(publicAlgorithms, ", ")+" are for those")
		}
	}
	if c.Key != "" {
		if _, err := c.parseKey(c.Key); err != nil {
			errs = append(errs, fmt.Errorf("JWT_KEY: %w", err))
		}
	}
	if c.TopicsClaim == "" && c.URL == "" {
		bad("JWT_TOPICS_CLAIM", `""`, "need the name of a claim, or AUTH_URL to say which topics may be read")
	}
	if c.SubjectClaim == "" {
		bad("JWT_SUBJECT_CLAIM", `""`, "need the name of a claim, such as sub")
	}
	return errs
}

// warnOfPlainText warns of keys that whoever is on the way can replace.
func (c *Config) warnOfPlainText(log *slog.Logger) {
	env, urls := "JWT_JWKS_URL", c.JWKSURLs
	if c.Key == "" && len(urls) == 0 { // else an issuer is a name that nobody asks
		env, urls = "JWT_ISSUER", c.Issuers
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" { // it was validated
			continue
		}
		if ip, err := netip.ParseAddr(u.Hostname()); strings.EqualFold(u.Hostname(), "localhost") || err == nil && ip.IsLoopback() {
			continue
		}
		log.Warn(env+" begins with http://: whoever is on the way can put keys of their own in the place of the issuer's, and with them make any token; use https", "url", u.Redacted())
	}
}

// algorithms are those that tokens may be signed with, as far as their keys are
// for them.
func (c *Config) algorithms() []string {
	switch {
	case len(c.Algorithms) > 0:
		return c.Algorithms
	case c.Key != "":
		return append(slices.Clone(publicAlgorithms), secretAlgorithms...)
	}
	return publicAlgorithms
}

// parseKey reads a JWT_KEY, all of whose keys must be good for something.
func (c *Config) parseKey(text string) ([]key, error) {
	keys, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	for i := range keys {
		if !slices.ContainsFunc(c.algorithms(), keys[i].fits) {
			return nil, fmt.Errorf("a key in it is for none of JWT_ALGORITHMS, %s", strings.Join(c.algorithms(), ", "))
		}
	}
	return keys, nil
}

// checkURL checks the URL of somebody who is asked. The error quotes no password.
func checkURL(text string, query bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("not a URL; write https://HOST/PATH")
	case u.User != nil:
		return fmt.Errorf("%s: has a user in it, which would pass for the client's; remove it", u.Redacted())
	case u.Fragment != "" || u.RawQuery != "" && !query:
		return fmt.Errorf("%s: remove what follows the path", u.Redacted())
	}
	return nil
}

// roots are the certificates of AUTH_CA_FILE; nil: the usual ones.
func (c *Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("AUTH_CA_FILE: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("AUTH_CA_FILE: no certificate in %s; need PEM blocks of type CERTIFICATE", c.CAFile)
	}
	return pool, nil
}

// transport is what connections to AUTH_URL and issuers are made with.
func (c *Config) transport() (*http.Transport, error) {
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	t.DisableCompression = true // a refusal's body is passed on as it is
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, c.MaxAsked
	t.MaxResponseHeaderBytes = maxBody
	return t, nil
}
