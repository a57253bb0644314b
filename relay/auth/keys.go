package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// A key verifies tokens: a secret, or a public key.
type key struct {
	id  string // kid; "" where it has none
	alg string // the only algorithm that it is for; "" for any that fits

	// public is an *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or a
	// []byte, which is a secret.
	public any
}

// The algorithms that tokens may be signed with. "none" is not among them.
var (
	secretAlgorithms = []string{"HS256", "HS384", "HS512"}
	publicAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)

const (
	minSecretBytes = 32   // RFC 7518, 3.2, for HS256: as many as the hash has
	minRSABits     = 2048 // RFC 7518, 3.3
	maxRSABits     = 8192 // what is larger takes its time to verify
	maxKeys        = 100  // in one place: tokens without a kid are tried with each
)

// fits reports whether a token signed with alg can be verified by the key. That
// is decided by what the key is, not by what the token says of it, so that
// nobody can use a public key as a secret.
func (k *key) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch public := k.public.(type) {
	case []byte:
		return slices.Contains(secretAlgorithms, alg)
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return alg == "ES256"
		case elliptic.P384():
			return alg == "ES384"
		case elliptic.P521():
			return alg == "ES512"
		}
	case ed25519.PublicKey:
		return alg == "EdDSA"
	}
	return false
}

// check refuses keys that must not be relied on.
func (k *key) check() error {
	switch public := k.public.(type) {
	case []byte:
		if len(public) < minSecretBytes {
			return fmt.Errorf("a secret of %d bytes can be guessed from any token; need %d or more (RFC 7518, 3.2)", len(public), minSecretBytes)
		}
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("an RSA key has %d bits; need %d to %d", bits, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, public.Curve) {
			return errors.New("the curve of an EC key is none of P-256, P-384 and P-521")
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("no token is verified by a %T; need RSA, EC or Ed25519", public)
	}
	return nil
}

// candidates are the keys that a token may have been signed with. A kid picks
// among keys that have one, and does nothing else.
func candidates(keys []key, kid, alg string) []jwt.VerificationKey {
	var fit []jwt.VerificationKey
	for i := range keys {
		if k := &keys[i]; k.fits(alg) && (kid == "" || k.id == "" || k.id == kid) {
			fit = append(fit, k.public)
		}
	}
	return fit
}

// parseKeys reads JWT_KEY: PEM, or secrets in lines. The errors show nothing of it.
func parseKeys(text string) ([]key, error) {
	var keys []key
	if strings.Contains(text, "-----") {
		if !strings.Contains(text, "\n") { // as it comes from where a value has one line
			text = strings.ReplaceAll(text, `\n`, "\n")
		}
		rest := []byte(text)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			public, err := parsePublic(block)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key{public: public})
		}
		if len(keys) == 0 || strings.Contains(string(rest), "-----BEGIN ") {
			return nil, errors.New("a PEM block is broken; its lines must be whole, from -----BEGIN … to -----END …")
		}
	} else {
		for line := range strings.Lines(text) {
			line = strings.TrimRight(line, "\r\n")
			if line == "" {
				continue
			}
			if err := notSecret(line); err != nil {
				return nil, err
			}
			secret := []byte(line)
			if encoded, ok := strings.CutPrefix(line, "base64:"); ok {
				var err error
				if secret, err = decodeBase64(encoded); err != nil {
					return nil, err
				}
			}
			keys = append(keys, key{public: secret})
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it; write public keys in PEM, or secrets")
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("%d keys; at most %d are allowed", len(keys), maxKeys)
	}
	for i := range keys {
		if err := keys[i].check(); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// notSecret refuses what is meant as a public key, and as a secret would be one
// that everybody knows.
func notSecret(line string) error {
	if strings.HasPrefix(line, "{") {
		return errors.New("JSON is not read; write a public key in PEM, or put the key set behind JWT_JWKS_URL")
	}
	der, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(line, "base64:"))
	if err != nil {
		return nil //nolint:nilerr // so it is none, as it should be
	}
	if _, err := x509.ParsePKIXPublicKey(der); err == nil {
		return errors.New("this is a public key without its PEM lines; put -----BEGIN PUBLIC KEY----- before it and -----END PUBLIC KEY----- behind it")
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		return errors.New("this is a certificate without its PEM lines; put -----BEGIN CERTIFICATE----- before it and -----END CERTIFICATE----- behind it")
	}
	return nil
}

func decodeBase64(encoded string) ([]byte, error) {
	encoding := base64.StdEncoding
	if strings.ContainsAny(encoded, "-_") {
		encoding = base64.URLEncoding
	}
	if !strings.HasSuffix(encoded, "=") {
		encoding = encoding.WithPadding(base64.NoPadding)
	}
	secret, err := encoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("what follows base64: is not base64 (RFC 4648)")
	}
	return secret, nil
}

func parsePublic(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("what a PEM block of type PUBLIC KEY holds is none")
		}
		return public, nil
	case "RSA PUBLIC KEY":
		public, err := x509.ParsePKCS1PublicKey(block.Bytes)
		if err != nil {
			return nil, errors.New("what a PEM block of type RSA PUBLIC KEY holds is none")
		}
		return public, nil
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("what a PEM block of type CERTIFICATE holds is none")
		}
		return cert.PublicKey, nil
	}
	if strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, errors.New("a PEM block is a private key; give the public key, as from `openssl pkey -pubout`, and keep the private one where tokens are made")
	}
	return nil, fmt.Errorf("a PEM block is of type %s; need PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE", block.Type)
}
