package properties

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// dialSettings are the properties of sockets.
type dialSettings struct {
	timeout       time.Duration // for everything up to the end of the TLS handshake
	keepAlive     bool
	noDelay       bool
	sendBuffer    int // bytes; 0 is the system's
	receiveBuffer int
}

// A dialer connects to brokers. The client library's own one knows neither
// address families nor buffers, and would keep certificates as they were when
// it was made.
type dialer struct {
	settings dialSettings
	network  string     // tcp, tcp4 or tcp6
	tls      *tlsSource // nil: plain
	log      *slog.Logger
}

// dial connects to a broker at address, host:port, and shakes hands.
func (d *dialer) dial(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.settings.timeout)
	defer cancel()
	nd := net.Dialer{KeepAlive: -1}
	if d.settings.keepAlive {
		nd.KeepAlive = 0 // Go's default, which is on
	}
	conn, err := nd.DialContext(ctx, d.network, address)
	if err != nil {
		return nil, err
	}
	if err := d.tune(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if d.tls == nil {
		return conn, nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	secure := tls.Client(conn, d.tls.config(strings.TrimSuffix(host, "."), d.log))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("tls with %s: %w", address, errors.Join(err, conn.Close()))
	}
	return secure, nil
}

// tune sets what the properties say about a socket.
func (d *dialer) tune(conn net.Conn) error {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	var errs []error
	errs = append(errs, c.SetNoDelay(d.settings.noDelay))
	if n := d.settings.sendBuffer; n > 0 {
		errs = append(errs, c.SetWriteBuffer(n))
	}
	if n := d.settings.receiveBuffer; n > 0 {
		errs = append(errs, c.SetReadBuffer(n))
	}
	return errors.Join(errs...)
}
