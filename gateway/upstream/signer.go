package upstream

import (
	"sync"
	"time"

	"spillway/grip"
)

// A signer makes Grip-Sig. Tokens that it would make in the same second differ
// in nothing that is told by them, and an RSA signature takes a millisecond, so
// each is used for the second that it was made in.
type signer struct {
	mu     sync.Mutex
	second int64               // of all tokens; guarded by mu
	tokens map[signedBy]string // guarded by mu; one for each route's key and issuer
}

type signedBy struct {
	key grip.Key
	iss string
}

func (s *signer) sign(key grip.Key, iss string, now time.Time) (string, error) {
	by := signedBy{key, iss}
	s.mu.Lock()
	if second := now.Unix(); second != s.second || s.tokens == nil {
		s.second, s.tokens = second, map[signedBy]string{}
	}
	token, ok := s.tokens[by]
	s.mu.Unlock()
	if ok {
		return token, nil
	}
	token, err := key.Sign(iss, now) // not under the lock: many wait for it at most once a second
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.second == now.Unix() {
		s.tokens[by] = token
	}
	return token, nil
}
