package grip

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// hidden is what a secret prints as.
const hidden = "‹hidden›"

// A Key signs and verifies the JSON Web Tokens of a Grip-Sig and of publish
// requests: HS256 by a secret, ES256 or RS256 by an EC or RSA key. It shows
// itself neither to fmt nor to slog nor to JSON. The zero Key does neither.
type Key struct {
	// Behind a pointer, because fmt calls no Format method inside a value
	// that it was given a wrong verb for, but does not follow pointers there.
	m *material
}

type material struct {
	secret  []byte        // nil for an RSA or EC key
	private crypto.Signer // nil for a public key
	public  crypto.PublicKey
}

func (k Key) material() material {
	if k.m == nil {
		return material{}
	}
	return *k.m
}

// ParseKey reads a key from configuration:
//
//	TEXT              a secret, as it stands
//	base64:…          the same in base64, also without padding
//	file:PATH         what is in the file, without the newline at its end
//
// Where TEXT, or what the other two lead to, is a PEM block or a JSON Web Key,
// it is that key: RSA, EC on P-256, or (JWK only) symmetric; private to sign
// and verify, public or a certificate to verify only. Errors never show it.
func ParseKey(s string) (Key, error) {
	k, err := parseKey(s)
	if err != nil {
		return Key{}, fmt.Errorf("key: %w", err)
	}
	return k, nil
}

func parseKey(s string) (Key, error) {
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		text, err := os.ReadFile(path)
		if err != nil {
			return Key{}, err
		}
		s = strings.TrimRight(string(text), "\r\n")
	}
	if text, ok := strings.CutPrefix(s, "base64:"); ok {
		secret, err := decodeBase64(text)
		if err != nil {
			return Key{}, errors.New("what follows base64: is not base64")
		}
		s = string(secret)
	}
	return keyOf(s)
}

func keyOf(s string) (Key, error) {
	switch trimmed := strings.TrimSpace(s); {
	case s == "":
		return Key{}, errors.New("is empty")
	case strings.Contains(s, "-----BEGIN "):
		// A PEM block that cannot be read must not become a secret: its public
		// half, which is no secret, would then sign tokens.
		return keyOfPEM(s)
	case strings.HasPrefix(trimmed, "{") && strings.Contains(trimmed, `"kty"`):
		return keyOfJWK(trimmed)
	}
	return Key{&material{secret: []byte(s)}}, nil
}

func keyOfPEM(s string) (Key, error) {
	if !strings.Contains(s, "\n") {
		s = strings.ReplaceAll(s, `\n`, "\n") // as environment files write it
	}
	for rest := []byte(s); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return Key{}, errors.New("PEM: no key in it")
		}
		var k any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			k, err = x509.ParseECPrivateKey(block.Bytes)
		case "PUBLIC KEY":
			k, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			k, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var cert *x509.Certificate
			if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				k = cert.PublicKey
			}
		case "ENCRYPTED PRIVATE KEY":
			return Key{}, errors.New("PEM: is encrypted; decrypt it first")
		default:
			continue // EC PARAMETERS stand before the key
		}
		if err != nil {
			return Key{}, fmt.Errorf("PEM: %s: not readable", block.Type)
		}
		return asymmetric(k)
	}
}

// asymmetric takes the key types that RS256 and ES256 know.
func asymmetric(k any) (Key, error) {
	switch k := k.(type) {
	case *rsa.PrivateKey:
		return Key{&material{private: k, public: k.Public()}}, nil
	case *rsa.PublicKey:
		return Key{&material{public: k}}, nil
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			break
		}
		return Key{&material{private: k, public: k.Public()}}, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			break
		}
		return Key{&material{public: k}}, nil
	}
	return Key{}, errors.New("is neither RSA nor EC on P-256")
}

// keyOfJWK reads a JSON Web Key (RFC 7518, 6).
func keyOfJWK(s string) (Key, error) {
	var jwk struct{ Kty, Crv, X, Y, N, E, D, P, Q, K string }
	if err := json.Unmarshal([]byte(s), &jwk); err != nil {
		return Key{}, errors.New("JWK: not JSON")
	}
	var broken bool
	raw := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		broken = broken || err != nil || len(b) == 0
		return b
	}
	number := func(s string) *big.Int { return new(big.Int).SetBytes(raw(s)) }
	var k any
	var err error
	switch jwk.Kty {
	case "oct":
		if secret := raw(jwk.K); !broken {
			return Key{&material{secret: secret}}, nil
		}
	case "EC":
		if jwk.Crv != "P-256" {
			return Key{}, errors.New("JWK: curve is not P-256")
		}
		if jwk.D != "" {
			k, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), raw(jwk.D))
			break
		}
		point := append([]byte{4}, raw(jwk.X)...) // 4: uncompressed (SEC 1, 2.3.3)
		k, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(point, raw(jwk.Y)...))
	case "RSA":
		public := rsa.PublicKey{N: number(jwk.N)}
		e := number(jwk.E)
		if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return Key{}, errors.New("JWK: exponent out of range")
		}
		public.E = int(e.Int64())
		if k = &public; jwk.D == "" {
			break
		}
		private := &rsa.PrivateKey{PublicKey: public, D: number(jwk.D), Primes: []*big.Int{number(jwk.P), number(jwk.Q)}}
		if k = private; !broken {
			err = private.Validate()
			private.Precompute()
		}
	default:
		return Key{}, errors.New("JWK: type is none of oct, EC, RSA")
	}
	if broken || err != nil {
		return Key{}, fmt.Errorf("JWK: %s: not readable", jwk.Kty)
	}
	return asymmetric(k)
}

// IsZero reports whether k is no key.
func (k Key) IsZero() bool { return k.m == nil }

// Symmetric reports whether k verifies with the secret it signs with.
func (k Key) Symmetric() bool { return k.material().secret != nil }

// canSign reports whether k is more than a public key.
func (k Key) canSign() bool { return k.Symmetric() || k.material().private != nil }

// method returns the only algorithm that k is used with: a token does not get
// to choose, or a public key could be taken for a secret.
func (k Key) method() (m jwt.SigningMethod, sign, verify any) {
	mat := k.material()
	switch public := mat.public.(type) {
	case *rsa.PublicKey:
		return jwt.SigningMethodRS256, mat.private, public
	case *ecdsa.PublicKey:
		return jwt.SigningMethodES256, mat.private, public
	}
	return jwt.SigningMethodHS256, mat.secret, mat.secret
}

var errNoKey = errors.New("no key")

// Sign returns a token with the claims iss and exp, an hour from now.
func (k Key) Sign(iss string, now time.Time) (string, error) {
	if k.IsZero() {
		return "", fmt.Errorf("sign: %w", errNoKey)
	}
	if !k.canSign() {
		return "", errors.New("sign: the key is a public one")
	}
	method, key, _ := k.method()
	token := jwt.NewWithClaims(method, jwt.MapClaims{"iss": iss, "exp": now.Add(SigLifetime).Unix()})
	signed, err := token.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return signed, nil
}

// Verify checks a token's signature and that it has not expired, and returns
// who issued it, which may be nobody (""). A token without exp is refused.
func (k Key) Verify(token string, now time.Time) (iss string, err error) {
	if k.IsZero() {
		return "", fmt.Errorf("verify: %w", errNoKey)
	}
	method, _, key := k.method()
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{method.Alg()}),
		jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	var claims jwt.RegisteredClaims
	if _, err := parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return key, nil }); err != nil {
		return "", fmt.Errorf("verify: %w", err)
	}
	return claims.Issuer, nil
}

// VerifyBearer checks what a publish request shows as its bearer: a token, as
// Verify does, or the secret itself, compared in constant time.
func (k Key) VerifyBearer(bearer string, now time.Time) (iss string, err error) {
	if k.Symmetric() {
		// Of sums, so that not even the length of the secret shows.
		got, want := sha256.Sum256([]byte(bearer)), sha256.Sum256(k.material().secret)
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return "", nil
		}
	}
	return k.Verify(bearer, now)
}

// Keys are keys of which any is enough: while one is replaced, the old and the
// new. None verify nothing.
type Keys []Key

// maxKeys is how many there are while one is replaced.
const maxKeys = 2

// ParseKeys reads one key, or two that are comma separated, in the forms of
// ParseKey.
func ParseKeys(s string) (Keys, error) {
	var keys Keys
	for more := true; more; {
		var one string
		if one, s, more = cutKey(s); len(keys) == maxKeys {
			return nil, fmt.Errorf("more than %d keys, comma separated; give the new one and the old one", maxKeys)
		}
		k, err := ParseKey(one)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// cutKey cuts s behind its first key: at a comma, but for those in a JSON Web
// Key. more says that there was one.
func cutKey(s string) (one, rest string, more bool) {
	if trimmed := strings.TrimLeft(s, " \t\r\n"); strings.HasPrefix(trimmed, "{") {
		d := json.NewDecoder(strings.NewReader(trimmed))
		var object json.RawMessage
		if d.Decode(&object) == nil {
			if after := strings.TrimLeft(trimmed[d.InputOffset():], " \t\r\n"); after == "" || after[0] == ',' {
				return string(object), strings.TrimPrefix(after, ","), after != ""
			}
		}
	}
	if one, rest, more = strings.Cut(s, ","); more { // of two; one alone is taken as it stands
		one, rest = strings.TrimSpace(one), strings.TrimSpace(rest)
	}
	return one, rest, more
}

// Verify does what Key's method does, by any of the keys.
func (ks Keys) Verify(token string, now time.Time) (iss string, err error) {
	return ks.any(func(k Key) (string, error) { return k.Verify(token, now) })
}

// VerifyBearer does what Key's method does, by any of the keys.
func (ks Keys) VerifyBearer(bearer string, now time.Time) (iss string, err error) {
	return ks.any(func(k Key) (string, error) { return k.VerifyBearer(bearer, now) })
}

func (ks Keys) any(verify func(Key) (string, error)) (iss string, err error) {
	err = fmt.Errorf("verify: %w", errNoKey)
	for _, k := range ks {
		if iss, err = verify(k); err == nil {
			return iss, nil
		}
	}
	return "", err
}

// String hides the key.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return hidden
}

// Format hides the key from every verb, %#v and %x included.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue hides the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
