package gateway

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a key pair in two files, read again when they change.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu, as are the others
	stamp   [2]time.Time     // when the files were changed that current is of
	checked time.Time
}

// newCertificate reads the pair for the first time.
func newCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: slog.Default()}
	stamp, err := c.stat()
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	c.current, c.stamp = &pair, stamp
	return c, nil
}

// get implements tls.Config.GetCertificate. The files are looked at once a
// second at most. While they do not make a pair, the old one stays.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= time.Second {
		c.checked = now
		if stamp, err := c.stat(); err == nil && stamp != c.stamp {
			c.stamp = stamp
			pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
			if err != nil {
				c.log.Warn("certificate not read again; the old one stays", "file", c.certFile, "err", err)
			} else {
				c.log.Info("certificate read again", "file", c.certFile)
				c.current = &pair
			}
		}
	}
	return c.current, nil
}

func (c *certificate) stat() (stamp [2]time.Time, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return stamp, err
		}
		stamp[i] = info.ModTime()
	}
	return stamp, nil
}

// tlsConfig is that of the clients' listener. net/http adds HTTP/2.
func tlsConfig(c *certificate) *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
}
