package upstream

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	// Targets are verified in an image without any certificates too.
	_ "golang.org/x/crypto/x509roots/fallback"

	"spillway/gateway/route"
)

// LoadRoots reads the certificates of a PEM file (UPSTREAM_CA_FILE), to be
// trusted in place of the usual ones. No file, no error: nil means the usual.
func LoadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in it; need PEM blocks of type CERTIFICATE", file)
	}
	return roots, nil
}

// idleConnTimeout is below the 5 s after which common origin servers (Node.js
// among them) close a kept connection, so that a request seldom meets one that
// is being closed. One that cannot be repeated would fail.
const idleConnTimeout = 4 * time.Second

// A pool is the connections to one target.
type pool struct {
	transport *http.Transport
	misses    limiter
}

// A poolKey is what of a target decides about its connections.
type poolKey struct {
	addr                       string
	tls, insecure, connectHost bool
	clientCert, clientKey      string
}

func poolKeyOf(t route.Target) poolKey {
	return poolKey{t.Addr, t.TLS, t.Insecure, t.TrustConnectHost, t.ClientCert, t.ClientKey}
}

func (f *Forwarder) pool(t route.Target) *pool {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := poolKeyOf(t)
	p, ok := f.pools[key]
	if !ok {
		p = &pool{transport: f.newTransport(t)}
		f.pools[key] = p
	}
	return p
}

// Keep closes the idle connections to targets of none of these routes, and
// forgets them. A request that still goes to one of them makes it anew.
func (f *Forwarder) Keep(routes []*route.Route) {
	used := map[poolKey]bool{}
	for _, rt := range routes {
		for _, t := range rt.Targets {
			used[poolKeyOf(t)] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, p := range f.pools {
		if !used[key] {
			p.transport.CloseIdleConnections()
			delete(f.pools, key)
		}
	}
}

// directRoute leads to the host that a URL names.
func directRoute(u *url.URL) *route.Route {
	addr := net.JoinHostPort(u.Hostname(), port(u))
	return &route.Route{Targets: []route.Target{{Addr: addr, TLS: u.Scheme == "https"}}}
}

// newTransport speaks HTTP/1.1 and nothing else: no proxy of the environment, no
// redirects, no encoding of its own. It connects to t whatever the URL says, or
// where the URL says if t is the zero Target.
func (f *Forwarder) newTransport(t route.Target) *http.Transport {
	dialer := &net.Dialer{Timeout: f.cfg.ConnectTimeout}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			// The URL of a TLS request names the host to verify instead.
			c, err := dialer.DialContext(ctx, network, cmp.Or(t.Addr, addr))
			if err != nil {
				return nil, err
			}
			return &conn{Conn: c, closed: make(chan struct{})}, nil
		},
		TLSClientConfig:        f.tlsConfig(t),
		TLSHandshakeTimeout:    f.cfg.ConnectTimeout,
		ResponseHeaderTimeout:  f.cfg.ResponseTimeout,
		DisableCompression:     true,
		IdleConnTimeout:        idleConnTimeout,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// A conn tells the body that is being sent over it when it is closed.
type conn struct {
	net.Conn
	once   sync.Once
	closed chan struct{} // closed by Close
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// connOf finds the conn below TLS.
func connOf(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	own, _ := c.(*conn)
	return own
}

func (f *Forwarder) tlsConfig(t route.Target) *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.cfg.Roots}
	switch {
	case t.Insecure:
		cfg.InsecureSkipVerify = true // the route asks for it by name
	case t.TrustConnectHost:
		connectHost, _, _ := net.SplitHostPort(t.Addr) // route.Parse has checked it
		cfg.InsecureSkipVerify = true                  // VerifyConnection does it
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			return verifyEither(cs, f.cfg.Roots, cs.ServerName, connectHost)
		}
	}
	if t.ClientCert != "" {
		// Read for each handshake, so that a renewed one is used.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.ClientCert, t.ClientKey)
			if err != nil {
				return nil, fmt.Errorf("client_cert: %w", err)
			}
			return &pair, nil
		}
	}
	return cfg
}

// verifyEither accepts a certificate for any of the names. An empty name, as
// that of a server addressed by IP, fits none.
func verifyEither(cs tls.ConnectionState, roots *x509.CertPool, names ...string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	var first error
	for _, name := range names {
		if name == "" {
			continue
		}
		opts.DNSName = name
		_, err := cs.PeerCertificates[0].Verify(opts)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// tlsAddr is the host whose certificate is wanted, with the port of addr, which
// only keeps connections apart.
func tlsAddr(host, addr string) string {
	connectHost, port, _ := net.SplitHostPort(addr) // route.Parse has checked it
	name := (&url.URL{Host: host}).Hostname()
	if name == "" {
		name = connectHost
	}
	return net.JoinHostPort(name, port)
}

// A limiter lets through one log line per logInterval.
type limiter struct {
	mu        sync.Mutex
	last      time.Time // guarded by mu
	swallowed int       // guarded by mu; since last
}

const logInterval = 10 * time.Second

// due reports whether to log now, and how many times it was not.
func (l *limiter) due(now time.Time) (swallowed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && now.Sub(l.last) < logInterval {
		l.swallowed++
		return 0, false
	}
	swallowed, l.swallowed, l.last = l.swallowed, 0, now
	return swallowed, true
}
