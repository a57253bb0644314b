package properties

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

// cluster starts a broker and returns its address.
func cluster(t *testing.T, opts ...kfake.Opt) string {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

// config is a configuration as JSON.
func config(t *testing.T, properties map[string]string) []byte {
	t.Helper()
	data, err := json.Marshal(properties)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// connect asks the broker something by a new client, and so connects and
// authenticates anew.
func connect(t *testing.T, p *Properties, log *slog.Logger) error {
	t.Helper()
	c, err := kgo.NewClient(append(p.ClientOpts("test", log), kgo.RequestRetries(0))...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return c.Ping(ctx)
}

func TestConnect(t *testing.T) {
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	sasl := []kfake.Opt{
		kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "plain", "secret"),
		kfake.Superuser("SCRAM-SHA-256", "scram256", "secret"),
		kfake.Superuser("SCRAM-SHA-512", "scram512", "secret"),
	}
	encrypted := func(host string) kfake.Opt {
		return kfake.TLS(&tls.Config{Certificates: []tls.Certificate{ours.server(host)}})
	}
	plain, secure := cluster(t), cluster(t, encrypted("127.0.0.1"))
	elsewhere := cluster(t, encrypted("kafka.example"))
	both := cluster(t, append(sasl, encrypted("127.0.0.1"))...)
	auth := cluster(t, sasl...)
	ca := certPEM(ours.cert)
	dir := t.TempDir()
	caFile := write(t, dir, "ca.crt", certPEM(others.cert)+certPEM(ours.cert))
	write(t, dir, "readme.txt", "not a certificate")
	trust, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{ours.cert}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	trustFile := write(t, t.TempDir(), "trust.p12", string(trust))

	for _, tt := range []struct {
		name, broker string
		properties   map[string]string
		want         string // part of the error, empty for none
	}{
		{"plain", plain, nil, ""},
		{"plain to TLS", secure, nil, "is TLS missing?"},
		{"TLS to a broker that says nothing", plain, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": ca, "socket.connection.setup.timeout.ms": "1000"}, "tls with"},
		{"PEM", secure, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": ca}, ""},
		{"PEM with escaped line breaks", secure, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": strings.ReplaceAll(ca, "\n", `\n`)}, ""},
		{"file", secure, map[string]string{"security.protocol": "SSL", "ssl.ca.location": caFile}, ""},
		{"directory", secure, map[string]string{"security.protocol": "ssl", "ssl.ca.location": dir}, ""},
		{"truststore", secure, map[string]string{"security.protocol": "ssl", "ssl.truststore.location": trustFile, "ssl.truststore.password": "secret"}, ""},
		{"PEM truststore", secure, map[string]string{"security.protocol": "ssl", "ssl.truststore.location": caFile, "ssl.truststore.type": "PEM"}, ""},
		{"the system's authorities", secure, map[string]string{"security.protocol": "ssl", "ssl.ca.location": "probe"}, "unknown authority"},
		{"another authority", secure, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": certPEM(others.cert)}, "unknown authority"},
		{"another host", elsewhere, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": ca}, "127.0.0.1"},
		{"another host, not looked at", elsewhere, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": ca, "ssl.endpoint.identification.algorithm": "none"}, ""},
		{"host not looked at, authority is", elsewhere, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": certPEM(others.cert), "ssl.endpoint.identification.algorithm": "none"}, "unknown authority"},
		{"nothing looked at", elsewhere, map[string]string{"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"}, ""},
		{"suites and curves", secure, map[string]string{"security.protocol": "ssl", "ssl.ca.pem": ca,
			"ssl.cipher.suites": "ECDHE-ECDSA-AES256-GCM-SHA384:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256", "ssl.curves.list": "prime256v1"}, ""},
		{"TLS with SCRAM-SHA-512", both, map[string]string{"security.protocol": "sasl_ssl", "ssl.ca.pem": ca,
			"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "scram512", "sasl.password": "secret"}, ""},
		{"TLS with SCRAM-SHA-256, Java's way", both, map[string]string{"security.protocol": "SASL_SSL", "ssl.ca.pem": ca, "sasl.mechanism": "SCRAM-SHA-256",
			"sasl.jaas.config": `org.apache.kafka.common.security.scram.ScramLoginModule required username="scram256" password="secret";`}, ""},
		{"TLS with a wrong password", both, map[string]string{"security.protocol": "sasl_ssl", "ssl.ca.pem": ca,
			"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "scram512", "sasl.password": "wrong"}, "EOF"},
		{"PLAIN", auth, map[string]string{"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN", "sasl.username": "plain", "sasl.password": "secret"}, ""},
		{"PLAIN over TLS", both, map[string]string{"security.protocol": "sasl_ssl", "ssl.ca.pem": ca, "sasl.mechanisms": "PLAIN", "sasl.username": "plain", "sasl.password": "secret"}, ""},
		{"sockets", plain, map[string]string{"broker.address.family": "v4", "socket.keepalive.enable": "false", "socket.nagle.disable": "false",
			"socket.send.buffer.bytes": "65536", "socket.receive.buffer.bytes": "65536"}, ""},
		{"the other address family", plain, map[string]string{"broker.address.family": "v6"}, "no suitable address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := map[string]string{"bootstrap.servers": tt.broker}
			maps.Copy(all, tt.properties)
			p, err := Parse(nil, config(t, all), false)
			if err != nil {
				t.Fatal(err)
			}
			err = connect(t, p, quiet)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// mutual is a broker that wants a certificate of clients and says who came.
func mutual(t *testing.T, a *authority) (address string, who <-chan string) {
	t.Helper()
	came := make(chan string, 100)
	return cluster(t, kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{a.server("127.0.0.1")},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    a.pool(),
		VerifyConnection: func(s tls.ConnectionState) error {
			came <- s.PeerCertificates[0].Subject.CommonName
			return nil
		},
	})), came
}

func TestClientCertificates(t *testing.T) {
	a := newAuthority(t, "ours")
	broker, who := mutual(t, a)
	cert, key := a.client("spillway")
	dir := t.TempDir()
	der, err := pkcs8.MarshalPrivateKey(key, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	locked := string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}))
	store, err := pkcs12.Modern.Encode(key, cert, []*x509.Certificate{a.cert}, "secret")
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := write(t, dir, "tls.crt", certPEM(cert)), write(t, dir, "tls.key", keyPEM(t, key))
	for _, tt := range []struct {
		name       string
		properties map[string]string
		want       string
	}{
		{"none", nil, "certificate required"},
		{"text", map[string]string{"ssl.certificate.pem": certPEM(cert), "ssl.key.pem": keyPEM(t, key)}, ""},
		{"text with an encrypted key", map[string]string{"ssl.certificate.pem": certPEM(cert), "ssl.key.pem": locked, "ssl.key.password": "secret"}, ""},
		{"files", map[string]string{"ssl.certificate.location": certFile, "ssl.key.location": keyFile}, ""},
		{"a file and text", map[string]string{"ssl.certificate.location": certFile, "ssl.key.pem": locked, "ssl.key.password": "secret"}, ""},
		{"one file for both", map[string]string{"ssl.certificate.location": write(t, dir, "both.pem", keyPEM(t, key)+certPEM(cert))}, ""},
		{"keystore", map[string]string{"ssl.keystore.location": write(t, dir, "store.p12", string(store)), "ssl.keystore.password": "secret"}, ""},
		{"PEM keystore", map[string]string{"ssl.keystore.location": write(t, dir, "store.pem", locked+certPEM(cert)), "ssl.keystore.type": "PEM", "ssl.key.password": "secret"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := map[string]string{"bootstrap.servers": broker, "security.protocol": "ssl", "ssl.ca.pem": certPEM(a.cert)}
			maps.Copy(all, tt.properties)
			p, err := Parse(nil, config(t, all), false)
			if err != nil {
				t.Fatal(err)
			}
			err = connect(t, p, quiet)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := <-who; got != "spillway" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// A certificate and an authority that change on disk are used from the next
// connection on, and rubbish in their place is not.
func TestRotation(t *testing.T) {
	old, next := newAuthority(t, "old"), newAuthority(t, "next")
	broker, who := mutual(t, next)
	cert1, key1 := next.client("first")
	cert2, key2 := next.client("second")
	dir := t.TempDir()
	ca := write(t, dir, "ca.crt", certPEM(old.cert))
	p, err := Parse(nil, config(t, map[string]string{
		"bootstrap.servers": broker, "security.protocol": "ssl", "ssl.ca.location": ca,
		"ssl.certificate.location": write(t, dir, "tls.crt", certPEM(cert1)), "ssl.key.location": write(t, dir, "tls.key", keyPEM(t, key1)),
	}), false)
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	if err := connect(t, p, log); err == nil {
		t.Fatal("the old authority let the broker through")
	}
	come := func(step, want string) {
		t.Helper()
		if err := connect(t, p, log); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if got := <-who; got != want {
			t.Errorf("%s: got %s, want %s", step, got, want)
		}
	}
	write(t, dir, "ca.crt", certPEM(next.cert))
	come("new authority", "first")
	write(t, dir, "tls.crt", certPEM(cert2))
	come("new certificate, old key", "first")
	if !strings.Contains(said.String(), "the last good content is used") || !strings.Contains(said.String(), "the key does not belong to the certificate of CN=second") {
		t.Errorf("log: got %s", said.String())
	}
	write(t, dir, "tls.key", keyPEM(t, key2))
	come("new certificate and key", "second")
	write(t, dir, "ca.crt", "rubbish")
	if err := os.Remove(filepath.Join(dir, "tls.key")); err != nil {
		t.Fatal(err)
	}
	come("both broken", "second")
}

// TestRecordedKeys reads what OpenSSL and keytool have written.
func TestRecordedKeys(t *testing.T) {
	for _, tt := range []struct{ key, password, want string }{
		{"plain.key", "", ""},
		{"plain.key", "secret", ""}, // a password that is not needed does no harm
		{"sec1.key", "", ""},
		{"sec1-aes256.key", "secret", ""},
		{"pkcs8-aes256.key", "secret", ""},
		{"pkcs8-scrypt.key", "secret", ""},
		{"pkcs8-des3.key", "secret", ""},
		{"sec1-aes256.key", "", "the private key is encrypted; set ssl.key.password"},
		{"pkcs8-aes256.key", "", "the private key is encrypted; set ssl.key.password"},
		{"sec1-aes256.key", "wrong", "check ssl.key.password"},
		{"pkcs8-aes256.key", "wrong", "check ssl.key.password"},
		{"pkcs8-v1.key", "secret", "rewrite it with: openssl pkcs8 -topk8 -v2 aes256"},
		{"cert.pem", "", "no private key in it; must be PEM"},
	} {
		properties := map[string]string{"ssl.certificate.location": "testdata/keys/cert.pem", "ssl.key.location": "testdata/keys/" + tt.key}
		if tt.password != "" {
			properties["ssl.key.password"] = tt.password
		}
		recorded(t, fmt.Sprintf("%s with %q", tt.key, tt.password), "ssl.key.location", properties, tt.want)
	}
	for _, tt := range []struct{ store, password, want string }{
		{"modern.p12", "secret", ""},
		{"legacy.p12", "secret", ""},
		{"modern.p12", "wrong", "check the password"},
		{"modern.p12", "", "check the password"},
		{"cert.pem", "", "no private key in it"},
		{"trust.jks", "secretsecret", "convert it with: keytool -importkeystore"},
	} {
		recorded(t, fmt.Sprintf("%s with %q", tt.store, tt.password), "ssl.keystore.location",
			map[string]string{"ssl.keystore.location": "testdata/keys/" + tt.store, "ssl.keystore.password": tt.password}, tt.want)
	}
	for _, tt := range []struct{ store, password, kind, want string }{
		{"trust.p12", "secretsecret", "", ""},
		{"trust.p12", "secretsecret", "pkcs12", ""},
		{"cert.pem", "", "PEM", ""},
		{"trust.p12", "wrong", "", "check the password"},
		{"trust.p12", "secretsecret", "PEM", "no certificate in it"},
		{"trust.p12", "secretsecret", "JKS", "convert it with: keytool -importkeystore"},
		{"trust.jks", "secretsecret", "", "convert it with: keytool -importkeystore"},
	} {
		properties := map[string]string{"ssl.truststore.location": "testdata/keys/" + tt.store, "ssl.truststore.password": tt.password}
		if tt.kind != "" {
			properties["ssl.truststore.type"] = tt.kind
		}
		recorded(t, fmt.Sprintf("%s as %s with %q", tt.store, tt.kind, tt.password), "ssl.truststore.location", properties, tt.want)
	}
}

// recorded parses a configuration whose only problem, if any, is in the
// property named.
func recorded(t *testing.T, name, property string, properties map[string]string, want string) {
	t.Helper()
	properties["bootstrap.servers"], properties["security.protocol"] = "k", "ssl"
	_, err := Parse(nil, config(t, properties), false)
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: got %v", name, err)
	case want != "" && (err == nil || !strings.HasPrefix(err.Error(), property+": ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")):
		t.Errorf("%s: got %v, want %s", name, err, want)
	}
}

func TestForeignKey(t *testing.T) {
	a := newAuthority(t, "ours")
	cert, _ := a.client("one")
	_, key := a.client("two")
	recorded(t, "another's key", "ssl.key.pem", map[string]string{"ssl.certificate.pem": certPEM(cert), "ssl.key.pem": keyPEM(t, key)},
		"the key does not belong to the certificate of CN=one; must be its key")
}

func TestSuites(t *testing.T) {
	for _, tt := range []struct {
		list    string
		suites  int
		minimum uint16
	}{
		{"", 0, tls.VersionTLS12},
		{"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384", 2, tls.VersionTLS12},
		{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, AES128-GCM-SHA256", 2, tls.VersionTLS12},
		{strings.Join(suites13(), ":"), 0, tls.VersionTLS13},
	} {
		p := parse(t, `{"security.protocol":"ssl","ssl.cipher.suites":"`+tt.list+`"}`)
		if got := p.tls.base; len(got.CipherSuites) != tt.suites || got.MinVersion != tt.minimum {
			t.Errorf("%s: got %d suites from version %x", tt.list, len(got.CipherSuites), got.MinVersion)
		}
	}
	for name, id := range openSSLSuites {
		if got, is13, _, ok := suite(name); got != id || is13 || !ok {
			t.Errorf("%s: got %x, %v, %v", name, got, is13, ok)
		}
	}
}
