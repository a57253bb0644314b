package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"spillway/grip/bytesize"
	"spillway/grip/secret"
)

// Config is what is read from the environment about the schema registry.
type Config struct {
	// URLs are the places of the schema registry, http or https, comma separated;
	// the next is asked where one does not answer. Each may hold user:password@.
	// Not set, nothing is decoded.
	URLs []string `envconfig:"SCHEMA_REGISTRY_URL" secret:"true"`

	// Auth is user:password for all URLs, or "Bearer " and a token.
	Auth string `envconfig:"SCHEMA_REGISTRY_AUTH" secret:"true"`

	// CAFile is a PEM file with the certificates that the registry's is verified
	// by, in place of the usual ones.
	CAFile string `envconfig:"SCHEMA_REGISTRY_CA_FILE"`

	// CertFile is a PEM file with the certificate that this side shows of
	// itself. It is read again for each connection.
	CertFile string `envconfig:"SCHEMA_REGISTRY_CERT_FILE"`

	// KeyFile is a PEM file with the key of SCHEMA_REGISTRY_CERT_FILE.
	KeyFile string `envconfig:"SCHEMA_REGISTRY_KEY_FILE"`

	// Timeout is how long records wait for a schema that is not known yet, before
	// they are sent as undecodable. 100ms to 30s.
	Timeout time.Duration `envconfig:"SCHEMA_REGISTRY_TIMEOUT" default:"2s"`

	// CacheEntries bounds the schemas that are kept.
	CacheEntries int `envconfig:"SCHEMA_CACHE_ENTRIES" default:"1000"`

	// CacheBytes bounds the memory of the schemas that are kept, as far as it can
	// be told from their texts.
	CacheBytes bytesize.Bytes `envconfig:"SCHEMA_CACHE_BYTES" default:"64MiB"`

	// MaxBytes bounds the JSON of one key or value. The wiring derives it from
	// EVENT_MAX_BYTES.
	MaxBytes int `ignored:"true"`

	// Secrets is where SCHEMA_REGISTRY_URL and SCHEMA_REGISTRY_AUTH may change.
	// The wiring sets it.
	Secrets *secret.Source `ignored:"true"`
}

// Enabled reports whether there is a registry.
func (c *Config) Enabled() bool { return len(c.URLs) > 0 }

// Validate reports everything that is wrong, not only the first thing.
func (c *Config) Validate() error {
	var errs []error
	bad := func(env string, got any, want string) {
		errs = append(errs, fmt.Errorf("%s=%v: %s", env, got, want))
	}
	errs = append(errs, c.checkTargets())
	if !c.Enabled() {
		for _, v := range []struct{ env, got string }{
			{"SCHEMA_REGISTRY_AUTH", c.Auth}, {"SCHEMA_REGISTRY_CA_FILE", c.CAFile},
			{"SCHEMA_REGISTRY_CERT_FILE", c.CertFile}, {"SCHEMA_REGISTRY_KEY_FILE", c.KeyFile},
		} {
			if v.got != "" {
				errs = append(errs, fmt.Errorf("%s: there is no SCHEMA_REGISTRY_URL that it could be for; add that or remove this", v.env))
			}
		}
	}
	if _, err := c.tls(); err != nil {
		errs = append(errs, err)
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > 30*time.Second {
		bad("SCHEMA_REGISTRY_TIMEOUT", c.Timeout, "must be between 100ms and 30s")
	}
	if c.CacheEntries < 1 || c.CacheEntries > 1e6 {
		bad("SCHEMA_CACHE_ENTRIES", c.CacheEntries, "must be between 1 and 1000000")
	}
	if c.CacheBytes < 1<<20 || c.CacheBytes > 1<<40 {
		bad("SCHEMA_CACHE_BYTES", c.CacheBytes, "must be between 1MiB and 1TiB")
	}
	return errors.Join(errs...)
}

// A target is one URL, without the credentials in it.
type target struct {
	url string
	credentials
}

// credentials are what a registry wants to see. The zero value is none.
type credentials struct {
	user, password string
	basic          bool
	token          string // in place of the others
}

func (c *Config) checkTargets() error {
	var errs []error
	targets, err := parseURLs(strings.Join(c.URLs, ","))
	errs = append(errs, err)
	for i, t := range targets {
		if t.basic && c.Auth != "" {
			errs = append(errs, fmt.Errorf("SCHEMA_REGISTRY_URL: number %d names a user, and SCHEMA_REGISTRY_AUTH is set; keep one", i+1))
		}
	}
	_, err = parseAuth(c.Auth)
	return errors.Join(append(errs, err)...)
}

// parseURLs reads SCHEMA_REGISTRY_URL. The errors quote no credentials.
func parseURLs(text string) (targets []target, err error) {
	const env = "SCHEMA_REGISTRY_URL"
	var errs []error
	n := 0
	for raw := range strings.SplitSeq(text, ",") {
		if raw = strings.TrimSpace(raw); raw == "" {
			continue
		}
		n++
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
			errs = append(errs, fmt.Errorf("%s: number %d is not a URL; write https://HOST:PORT", env, n))
			continue
		}
		if u.RawQuery != "" || u.Fragment != "" {
			errs = append(errs, fmt.Errorf("%s: number %d has a query or fragment; write https://HOST:PORT", env, n))
			continue
		}
		t := target{}
		if u.User != nil {
			t.user, t.basic = u.User.Username(), true
			t.password, _ = u.User.Password()
			u.User = nil
		}
		t.url = u.String()
		targets = append(targets, t)
	}
	return targets, errors.Join(errs...)
}

// parseAuth reads SCHEMA_REGISTRY_AUTH; none if it is empty.
func parseAuth(text string) (credentials, error) {
	if token, ok := cutScheme(text, "Bearer "); ok {
		if token == "" || strings.ContainsAny(token, " \t\r\n") {
			return credentials{}, errors.New("SCHEMA_REGISTRY_AUTH: one token must follow Bearer, without blanks in it")
		}
		return credentials{token: token}, nil
	}
	if text == "" {
		return credentials{}, nil
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok {
		return credentials{}, errors.New(`SCHEMA_REGISTRY_AUTH: no colon in it; write user:password, or "Bearer " and a token`)
	}
	return credentials{user: user, password: password, basic: true}, nil
}

// cutScheme is strings.CutPrefix in any case of letters, for what a token ends
// with a line's end in a file.
func cutScheme(s, scheme string) (rest string, ok bool) {
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return s, false
	}
	return strings.TrimSpace(s[len(scheme):]), true
}

// tls is what connections are made with.
func (c *Config) tls() (*tls.Config, error) {
	var errs []error
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		text, err := os.ReadFile(c.CAFile)
		out.RootCAs = x509.NewCertPool()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("SCHEMA_REGISTRY_CA_FILE: %w", err))
		case !out.RootCAs.AppendCertsFromPEM(text):
			errs = append(errs, fmt.Errorf("SCHEMA_REGISTRY_CA_FILE: no certificate in %s; need PEM blocks of type CERTIFICATE", c.CAFile))
		}
	}
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		errs = append(errs, errors.New("SCHEMA_REGISTRY_CERT_FILE, SCHEMA_REGISTRY_KEY_FILE: only one is given; set both or none"))
	case c.CertFile != "":
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("SCHEMA_REGISTRY_CERT_FILE: %w", err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			errs = append(errs, err)
		}
		// Read for each handshake, so that a renewed one is used.
		out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return out, errors.Join(errs...)
}
