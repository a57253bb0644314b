package properties

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

// pool makes authorities of PEM certificates.
func pool(raw [][]byte) (*x509.CertPool, error) {
	out := x509.NewCertPool()
	n := 0
	for _, data := range raw {
		certs, err := certificates(data)
		if err != nil {
			return nil, err
		}
		for _, c := range certs {
			out.AddCert(c)
		}
		n += len(certs)
	}
	if n == 0 {
		return nil, errors.New("no certificate in it; must be PEM that begins with -----BEGIN CERTIFICATE-----")
	}
	return out, nil
}

// certificates reads every certificate of a PEM text, skipping what else is
// in it.
func certificates(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w; must be PEM", len(out)+1, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// keyPair joins a PEM certificate chain and the PEM key of its first
// certificate.
func keyPair(certPEM, keyPEM []byte, password string) (*tls.Certificate, error) {
	chain, err := certificates(certPEM)
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate for the key; must be PEM that begins with -----BEGIN CERTIFICATE-----")
	}
	key, err := privateKey(keyPEM, password)
	if err != nil {
		return nil, err
	}
	return certificate(key, chain)
}

// certificate checks that key belongs to the first certificate of chain.
func certificate(key any, chain []*x509.Certificate) (*tls.Certificate, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign; must be RSA, ECDSA or Ed25519", key)
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("the key does not belong to the certificate of %s; must be its key", chain[0].Subject)
	}
	out := &tls.Certificate{PrivateKey: signer, Leaf: chain[0]}
	for _, c := range chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// privateKey reads the first key of a PEM text: PKCS#8, PKCS#1 or SEC 1, the
// first of these also encrypted, the others also in the encryption that old
// versions of OpenSSL wrote into PEM headers.
func privateKey(data []byte, password string) (any, error) {
	const formats = "must be PEM of type PRIVATE KEY, ENCRYPTED PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY"
	var block *pem.Block
	for rest := data; ; {
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("no private key in it; " + formats)
		}
		if bytes.HasSuffix([]byte(block.Type), []byte("PRIVATE KEY")) {
			break
		}
	}
	der := block.Bytes
	encrypted := block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""
	if encrypted && password == "" {
		return nil, errors.New("the private key is encrypted; set ssl.key.password")
	}
	if encrypted && block.Type != "ENCRYPTED PRIVATE KEY" {
		var err error
		//nolint:staticcheck // Weak, and deprecated for it, but still what many a key on disk uses.
		if der, err = x509.DecryptPEMBlock(block, []byte(password)); err != nil {
			return nil, fmt.Errorf("the private key does not open: %w; check ssl.key.password", err)
		}
	}
	var (
		key any
		err error
	)
	switch block.Type {
	case "ENCRYPTED PRIVATE KEY":
		if key, err = decryptPKCS8(der, password); err != nil {
			return nil, fmt.Errorf("the private key does not open: %w; check ssl.key.password, or rewrite it with: openssl pkcs8 -topk8 -v2 aes256", err)
		}
		return key, nil
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	default:
		return nil, fmt.Errorf("a private key of type %q; %s", cut(block.Type), formats)
	}
	if err != nil {
		return nil, fmt.Errorf("private key: %w; %s", err, formats)
	}
	return key, nil
}

// decryptPKCS8 opens an encrypted PKCS#8 key. The library is lenient with
// what it is given, so that a broken file must not bring the program down.
func decryptPKCS8(der []byte, password string) (key any, err error) {
	defer func() {
		if r := recover(); r != nil {
			key, err = nil, fmt.Errorf("malformed: %v", r)
		}
	}()
	return pkcs8.ParsePKCS8PrivateKey(der, []byte(password))
}

// keystore opens the file that holds our certificate and key.
func keystore(data []byte, password, keyPassword, kind string) (*tls.Certificate, error) {
	isPEM, err := storeKind(data, kind)
	if err != nil {
		return nil, err
	}
	if isPEM {
		return keyPair(data, data, keyPassword)
	}
	key, leaf, between, err := pkcs12.DecodeChain(data, password)
	if err != nil {
		return nil, fmt.Errorf("%w; must be PKCS#12 with one key, check the password", err)
	}
	return certificate(key, append([]*x509.Certificate{leaf}, between...))
}

// truststore opens a file of authorities.
func truststore(data []byte, password, kind string) (*x509.CertPool, error) {
	isPEM, err := storeKind(data, kind)
	if err != nil {
		return nil, err
	}
	if isPEM {
		return pool([][]byte{data})
	}
	certs, err := pkcs12.DecodeTrustStore(data, password)
	if err != nil {
		return nil, fmt.Errorf("%w; must be PKCS#12 as keytool writes it, check the password, or use ssl.ca.location with PEM", err)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in it; must hold at least one")
	}
	out := x509.NewCertPool()
	for _, c := range certs {
		out.AddCert(c)
	}
	return out, nil
}

// storeKind tells PEM from PKCS#12 and refuses Java's own format, by the
// file's first bytes and by what kind says.
func storeKind(data []byte, kind string) (isPEM bool, err error) {
	// KeyStore magic of sun.security.provider.JavaKeyStore and its sibling.
	jks := bytes.HasPrefix(data, []byte{0xfe, 0xed, 0xfe, 0xed}) || bytes.HasPrefix(data, []byte{0xce, 0xce, 0xce, 0xce})
	if jks || kind == "JKS" {
		return false, errors.New("the format JKS cannot be read; must be PKCS#12, convert it with: keytool -importkeystore -srckeystore in.jks -destkeystore out.p12 -deststoretype PKCS12")
	}
	return kind == "PEM" || bytes.Contains(data[:min(len(data), 4096)], []byte("-----BEGIN ")), nil
}
