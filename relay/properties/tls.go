package properties

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
)

// A tlsSource makes the TLS configuration of one connection after another. It
// looks at its files for each, so that a certificate that was renewed on disk
// is used from the next connection on, without a restart.
type tlsSource struct {
	base       *tls.Config                 // suites, curves, versions; never changed
	roots      *material[*x509.CertPool]   // nil: the system's
	own        *material[*tls.Certificate] // nil: none is presented
	verify     bool                        // the broker's certificate
	verifyName bool                        // that it names the host we dialled
}

// config is for a connection to host. Where a file has become unusable the
// last good content is used and log hears of it: a half-written Secret must
// not take down a program that works.
func (s *tlsSource) config(host string, log *slog.Logger) *tls.Config {
	c := s.base.Clone()
	c.ServerName = host
	if s.roots != nil {
		c.RootCAs = s.roots.latest(log)
	}
	if s.own != nil {
		own := s.own.latest(log)
		// Not Certificates, which keeps back one that the broker's list of
		// authorities does not mention; OpenSSL sends it all the same.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	switch {
	case !s.verify:
		c.InsecureSkipVerify = true
	case !s.verifyName:
		c.InsecureSkipVerify = true // VerifyConnection does the rest
		roots := c.RootCAs
		c.VerifyConnection = func(state tls.ConnectionState) error { return verifyChain(state.PeerCertificates, roots) }
	}
	return c
}

// verifyChain is crypto/tls's own verification without the host name.
func verifyChain(certs []*x509.Certificate, roots *x509.CertPool) error {
	if len(certs) == 0 {
		return errors.New("the broker sent no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	return err
}

// A material is a key, a certificate or a set of them, decoded from files or
// from text in the configuration. Only what changed is decoded again: opening
// a keystore is slow by design.
type material[T any] struct {
	name   string // property, for the log
	read   func() ([][]byte, error)
	decode func([][]byte) (T, error)

	mu      sync.Mutex
	raw     [][]byte // guarded by mu; what current was decoded from
	current T        // guarded by mu
}

// newMaterial reads for the first time, when an error still stops the start.
func newMaterial[T any](name string, read func() ([][]byte, error), decode func([][]byte) (T, error)) (*material[T], error) {
	m := &material[T]{name: name, read: read, decode: decode}
	return m, m.refresh()
}

func (m *material[T]) refresh() error {
	raw, err := m.read()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.raw != nil && equal(m.raw, raw) {
		return nil
	}
	fresh, err := m.decode(raw)
	if err != nil {
		return err
	}
	m.raw, m.current = raw, fresh
	return nil
}

// latest is what the files hold now, or held when they last made sense.
func (m *material[T]) latest(log *slog.Logger) T {
	if err := m.refresh(); err != nil {
		log.Warn("kafka tls: the last good content is used", "property", m.name, "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// resolveTLS reads everything that begins with ssl.
func (p *parser) resolveTLS() *tlsSource {
	out := &tlsSource{
		base:       &tls.Config{MinVersion: tls.VersionTLS12},
		verify:     p.on("enable.ssl.certificate.verification"),
		verifyName: p.text("ssl.endpoint.identification.algorithm") == "https",
	}
	if !out.verify {
		p.warn("enable.ssl.certificate.verification=false: ANYONE ON THE NETWORK CAN POSE AS KAFKA, read the credentials and forge records; remove it")
	} else if !out.verifyName {
		p.warn("ssl.endpoint.identification.algorithm=none: any certificate of the authority passes for any broker; use https")
	}
	p.resolveSuites(out.base)
	p.resolveCurves(out.base)
	out.roots = p.resolveRoots()
	out.own = p.resolveOwn()
	return out
}

// resolveRoots reads the authorities that brokers are verified by: at most one
// of a file or directory, PEM text, and a Java-style truststore.
func (p *parser) resolveRoots() *material[*x509.CertPool] {
	const location, inline, store, password, kind = "ssl.ca.location", "ssl.ca.pem", "ssl.truststore.location", "ssl.truststore.password", "ssl.truststore.type"
	if p.exclusive(location, inline, store) > 1 || !p.sound(location, inline, store, kind) {
		return nil
	}
	if p.has(password) && !p.has(store) {
		p.problem("%s: there is no %s to open with it; add that or remove this", password, store)
	}
	switch {
	case p.has(store):
		pass, kind := p.text(password), p.text(kind)
		return keep(p, store, fromFiles(p.text(store)), func(raw [][]byte) (*x509.CertPool, error) { return truststore(raw[0], pass, kind) })
	default:
		return p.authorities(location, inline)
	}
}

// authorities reads a pair of properties such as ssl.ca.location and
// ssl.ca.pem; nil is the system's own.
func (p *parser) authorities(location, inline string) *material[*x509.CertPool] {
	switch {
	case p.has(inline):
		return keep(p, inline, fromText(p.text(inline)), pool)
	case p.has(location) && p.text(location) != "probe":
		return keep(p, location, fromPath(p.text(location)), pool)
	}
	return nil
}

// resolveOwn reads the certificate that we show to brokers, and its key: from
// a keystore, or from PEM in files or text.
func (p *parser) resolveOwn() *material[*tls.Certificate] {
	const (
		certFile, certText = "ssl.certificate.location", "ssl.certificate.pem"
		keyFile, keyText   = "ssl.key.location", "ssl.key.pem"
		store, storeKind   = "ssl.keystore.location", "ssl.keystore.type"
		keyPassword        = "ssl.key.password"
		storePassword      = "ssl.keystore.password"
	)
	certs, keys := p.exclusive(certFile, certText, store), p.exclusive(keyFile, keyText, store)
	if certs > 1 || keys > 1 || !p.sound(certFile, certText, keyFile, keyText, store, storeKind, keyPassword, storePassword) {
		return nil
	}
	if p.has(storePassword) && !p.has(store) {
		p.problem("%s: there is no %s to open with it; add that or remove this", storePassword, store)
	}
	if p.has(store) {
		pass, keyPass, kind := p.text(storePassword), p.text(keyPassword), p.text(storeKind)
		return keep(p, store, fromFiles(p.text(store)), func(raw [][]byte) (*tls.Certificate, error) {
			return keystore(raw[0], pass, keyPass, kind)
		})
	}
	cert, key := p.either(certFile, certText), p.either(keyFile, keyText)
	switch {
	case cert == nil && key == nil:
		if p.has(keyPassword) {
			p.problem("%s: there is no key to open with it; add %s or remove this", keyPassword, keyFile)
		}
		return nil
	case cert == nil:
		p.problem("%s: a key without a certificate; add %s", p.given(keyFile, keyText), certFile)
		return nil
	case key == nil:
		key = cert // one PEM may hold both
	}
	password := p.text(keyPassword)
	read := func() ([][]byte, error) {
		c, err := cert()
		if err != nil {
			return nil, err
		}
		k, err := key()
		return append(c, k...), err
	}
	return keep(p, p.given(keyFile, keyText, certFile, certText), read, func(raw [][]byte) (*tls.Certificate, error) {
		return keyPair(raw[0], raw[1], password)
	})
}

// keep reads a material for the first time and reports what is wrong with it.
func keep[T any](p *parser, name string, read func() ([][]byte, error), decode func([][]byte) (T, error)) *material[T] {
	m, err := newMaterial(name, read, decode)
	if err != nil {
		p.problem("%s: %w", name, err)
		return nil
	}
	return m
}

// exclusive counts how many of the properties were given and reports more
// than one.
func (p *parser) exclusive(names ...string) int {
	var given []string
	for _, n := range names {
		if p.has(n) {
			given = append(given, n)
		}
	}
	if len(given) > 1 {
		p.problem("%s and %s: both given; keep one", given[0], given[1])
	}
	return len(given)
}

// given is the first of the properties that was.
func (p *parser) given(names ...string) string {
	for _, n := range names {
		if p.has(n) {
			return n
		}
	}
	return ""
}

// either is a reader of a file or of text in the configuration, nil for none.
func (p *parser) either(location, inline string) func() ([][]byte, error) {
	switch {
	case p.has(location):
		return fromFiles(p.text(location))
	case p.has(inline):
		return fromText(p.text(inline))
	}
	return nil
}
