package cursor

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/daead/subtle"
)

// sealedPrefix begins version 2, and is authenticated with what is in it.
const sealedPrefix = "2-"

// sealBytes is by how much AES-SIV makes a text longer.
const sealBytes = 16

// A Sealer writes cursors that clients cannot read, and reads none that it or
// another with its key has not written:
//
//	"2-" base64url(AES-SIV(version 1))
//
// Equal cursors are sealed to equal texts, by every server with the key, since
// AES-SIV (RFC 5297) needs no nonce. A nil Sealer writes and reads version 1.
type Sealer struct{ keys []*subtle.AESSIV }

// NewSealer returns a Sealer that seals with a key made from the first secret, and
// opens what was sealed with any.
func NewSealer(secrets ...[]byte) (*Sealer, error) {
	s := new(Sealer)
	for _, secret := range secrets {
		key, err := hkdf.Key(sha256.New, secret, nil, "spillway cursor", subtle.AESSIVKeySize)
		if err != nil {
			return nil, fmt.Errorf("derive cursor key: %w", err)
		}
		siv, err := subtle.NewAESSIV(key)
		if err != nil {
			return nil, fmt.Errorf("make cursor cipher: %w", err)
		}
		s.keys = append(s.keys, siv)
	}
	if len(s.keys) == 0 {
		return nil, errors.New("no key to seal cursors with")
	}
	return s, nil
}

// Len is how long a cursor of n bytes is after Seal.
func (s *Sealer) Len(n int) int {
	if s == nil {
		return n
	}
	return len(sealedPrefix) + base64.RawURLEncoding.EncodedLen(n+sealBytes)
}

// Seal replaces the cursor of version 1 that dst[from:] is.
func (s *Sealer) Seal(dst []byte, from int) []byte {
	if s == nil {
		return dst
	}
	sealed, err := s.keys[0].EncryptDeterministically(dst[from:], []byte(sealedPrefix))
	if err != nil {
		panic("cursor: seal: " + err.Error()) // of texts beyond all memory only
	}
	dst = append(dst[:from], sealedPrefix...)
	return base64.RawURLEncoding.AppendEncode(dst, sealed)
}

// ErrSealed is the error of Parse for what was not sealed with a key of the
// Sealer. It does not say more: whoever forges one learns nothing.
var ErrSealed = errors.New("cursor: version 2: this server has not sealed it, or its key was replaced")

// errUnsealed is that of version 1, which anybody can write.
var errUnsealed = errors.New(`cursor: byte 0: this server seals its cursors, which begin with "2-", and takes no others`)

// Parse reads what Seal has written, and nothing else.
func (s *Sealer) Parse(text string) (Cursor, error) {
	if s == nil {
		return Parse(text)
	}
	encoded, ok := strings.CutPrefix(text, sealedPrefix)
	switch {
	case !ok:
		return Cursor{}, errUnsealed
	case len(text) > s.Len(maxParseBytes):
		return Cursor{}, fmt.Errorf("cursor of %d bytes: at most %d are allowed", len(text), s.Len(maxParseBytes))
	case strings.ContainsAny(encoded, "\r\n"): // the decoder passes over them
		return Cursor{}, ErrSealed
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Cursor{}, ErrSealed
	}
	var plain []byte
	if !slices.ContainsFunc(s.keys, func(k *subtle.AESSIV) bool {
		plain, err = k.DecryptDeterministically(sealed, []byte(sealedPrefix))
		return err == nil
	}) {
		return Cursor{}, ErrSealed
	}
	return Parse(string(plain))
}
