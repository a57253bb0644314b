package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// certificateFiles are those of the clients' listener.
type certificateFiles struct {
	cert, key string
	clientCAs string // empty: clients show no certificate
}

func (c *Config) certificateFiles() certificateFiles {
	return certificateFiles{c.TLSCertFile, c.TLSKeyFile, c.TLSClientCAFile}
}

// stamp is when the files were changed.
func (f certificateFiles) stamp() (stamp [3]time.Time, err error) {
	for i, name := range []string{f.cert, f.key, f.clientCAs} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return stamp, err
		}
		stamp[i] = info.ModTime()
	}
	return stamp, nil
}

// read makes of the files what a handshake needs. HTTP/2 is what net/http would add.
func (f certificateFiles) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE=%s: %w", f.cert, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if f.clientCAs != "" {
		text, err := os.ReadFile(f.clientCAs)
		if err != nil {
			return nil, fmt.Errorf("TLS_CLIENT_CA_FILE=%s: %w", f.clientCAs, err)
		}
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("TLS_CLIENT_CA_FILE=%s: no certificate in it; write those of the authorities in PEM", f.clientCAs)
		}
	}
	return c, nil
}

// certificate is what the files say, read again when they change.
type certificate struct {
	files certificateFiles
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Config  // guarded by mu, as are the others
	stamp   [3]time.Time // of what was read last, in vain or not
	checked time.Time
}

// newCertificate reads the files for the first time.
func newCertificate(files certificateFiles, log *slog.Logger) (*certificate, error) {
	c := &certificate{files: files, log: log}
	var err error
	if c.stamp, err = files.stamp(); err != nil {
		return nil, fmt.Errorf("TLS_CERT_FILE=%s: %w", files.cert, err)
	}
	if c.current, err = files.read(); err != nil {
		return nil, err
	}
	return c, nil
}

// config is that of the listener: each handshake has the newest.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.now(), nil },
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return nil, errors.New("not reached: there is always a config for the client")
		},
	}
}

// now is what handshakes are made with. The files are looked at once a second at
// most. While they do not fit together, the old ones stay.
func (c *certificate) now() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= time.Second {
		c.checked = now
		stamp, err := c.files.stamp()
		if err == nil && stamp == c.stamp {
			return c.current
		}
		var next *tls.Config
		if err == nil {
			c.stamp = stamp
			next, err = c.files.read()
		}
		if err != nil {
			c.log.Warn("certificate not read again; the old one stays", "err", err)
		} else {
			c.log.Info("certificate read again", "file", c.files.cert, "not_after", next.Certificates[0].Leaf.NotAfter)
			c.current = next
		}
	}
	return c.current
}

// measure tells when the certificate expires.
func (c *certificate) measure(reg prometheus.Registerer) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{Name: "spillway_tls_certificate_expiry_timestamp_seconds",
		Help: "When the certificate of HTTP_ADDR expires, in seconds since 1970."},
		func() float64 { return float64(c.now().Certificates[0].Leaf.NotAfter.Unix()) })
}
