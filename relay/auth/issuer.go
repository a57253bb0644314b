package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"golang.org/x/time/rate"
)

const (
	// refreshEvery is how often keys are fetched though every token finds one: so
	// long may a key be used that its issuer has taken back.
	refreshEvery = 10 * time.Minute
	// retryEvery is the same while that fails.
	retryEvery = 5 * time.Second

	// Tokens that name a key we do not know make us fetch: those of the first
	// unknownBurst at once, then one in unknownEvery, so that nobody can have us
	// flood the issuer.
	unknownEvery = 10 * time.Second
	unknownBurst = 5
	// unknownFor is how long a key that was not there is not asked for again.
	unknownFor = 10 * time.Second
	maxUnknown = 1000 // kids that are remembered for that
	maxKid     = 512  // bytes of one; none that is longer has a key

	// failedFor is how long it is not tried again to fetch what could not be had.
	failedFor = time.Second

	// maxKeysBytes bounds what an issuer answers.
	maxKeysBytes = 1 << 20
)

// An issuer is a place that keys are fetched from, by a set's own URL or by
// OpenID Connect Discovery.
type issuer struct {
	name    string // JWT_JWKS_URL or JWT_ISSUER, for people
	set     string // URL of the set; "": name is an issuer who says where it is
	client  *http.Client
	timeout time.Duration
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
	calls   *sync.WaitGroup // each ends by its own timeout

	mu      sync.Mutex
	keys    []key
	loaded  bool                 // keys were had once
	failed  error                // of the last fetch
	asked   time.Time            // when that was
	flight  *fetch               // nil: nothing is being fetched
	unknown map[string]time.Time // kids that were not there, and when
	limit   *rate.Limiter        // of fetches for their sake
}

// A fetch is the promise of a set.
type fetch struct {
	done chan struct{} // closed when err is set
	err  error
}

// errNoKey says that a token is signed with a key that its issuer does not have.
var errNoKey = errors.New("it is signed with a key that its issuer does not have")

// candidatesOf returns the keys that a token may have been signed with, and whether
// one of them has its kid. The error is errNoKey or wraps ErrUnavailable.
func (s *issuer) candidatesOf(ctx context.Context, kid, alg string) (fit []verifier, named bool, err error) {
	if len(kid) > maxKid {
		return nil, false, errNoKey
	}
	for again := false; ; again = true {
		s.mu.Lock()
		fit := candidates(s.keys, kid, alg)
		known := hasKey(s.keys, kid)
		loaded := s.loaded
		since, missing := s.unknown[kid]
		missing = missing && s.now().Sub(since) < unknownFor
		s.mu.Unlock()
		switch {
		case len(fit) > 0:
			return fit, known, nil
		case loaded && (known || missing || again):
			// One of that name is there, for another algorithm; or there was none
			// a moment ago.
			return nil, false, errNoKey
		case loaded && !s.limit.AllowN(s.now(), 1):
			return nil, false, fmt.Errorf("%s: keys were asked for too often to look for another one: %w", s.name, ErrUnavailable)
		}
		if err := s.fetch(ctx); err != nil {
			return nil, false, err
		}
		s.missing(kid)
	}
}

// missing remembers that there is no key of a name, if so.
func (s *issuer) missing(kid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !hasKey(s.keys, kid) {
		if len(s.unknown) >= maxUnknown {
			clear(s.unknown)
		}
		s.unknown[kid] = s.now()
	}
}

// again fetches the set for a token that none of the keys without names
// verifies, and reports whether that was done.
func (s *issuer) again(ctx context.Context) bool {
	return s.limit.AllowN(s.now(), 1) && s.fetch(ctx) == nil
}

func hasKey(keys []key, kid string) bool {
	for i := range keys {
		if kid != "" && keys[i].id == kid {
			return true
		}
	}
	return false
}

// fetch has the set fetched, once for all who ask at the same time. The error
// wraps ErrUnavailable.
func (s *issuer) fetch(ctx context.Context) error {
	s.mu.Lock()
	f := s.flight
	if f == nil && s.failed != nil && s.now().Sub(s.asked) < failedFor {
		defer s.mu.Unlock()
		return s.failed
	}
	if f == nil {
		f = &fetch{done: make(chan struct{})}
		s.flight = f
		s.calls.Go(func() { s.fly(context.WithoutCancel(ctx), f) })
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("keys of %s: %w: %w", s.name, ctx.Err(), ErrUnavailable)
	}
}

func (s *issuer) fly(ctx context.Context, f *fetch) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	keys, ignored, err := s.ask(ctx)
	if err != nil {
		f.err = fmt.Errorf("keys of %s: %w: %w", s.name, err, ErrUnavailable)
	}
	s.mu.Lock()
	s.flight = nil
	news := (s.failed != nil) != (err != nil)
	s.failed, s.asked = f.err, s.now()
	if err == nil {
		s.keys, s.loaded = keys, true
		clear(s.unknown)
	}
	s.mu.Unlock()
	if err != nil {
		s.metrics.fetchesFailed.Inc()
		if news {
			s.log.Error("keys of tokens cannot be fetched; those that are known stay in force", "from", s.name, "err", err)
		}
	} else {
		s.metrics.fetchesOK.Inc()
		if news {
			s.log.Info("keys of tokens can be fetched again", "from", s.name)
		}
		s.log.Debug("keys of tokens fetched", "from", s.name, "keys", len(keys), "ignored", ignored)
	}
	close(f.done)
}

// ask fetches the set. ignored is how many keys in it are for something else,
// or none that may be relied on.
func (s *issuer) ask(ctx context.Context) (keys []key, ignored int, err error) {
	set := s.set
	if set == "" {
		if set, err = s.discover(ctx); err != nil {
			return nil, 0, err
		}
	}
	var answer struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := s.get(ctx, set, &answer); err != nil {
		return nil, 0, err
	}
	if answer.Keys == nil {
		return nil, 0, fmt.Errorf("%s: no keys in the answer, so it is no JSON Web Key Set", set)
	}
	for _, raw := range *answer.Keys {
		k, err := parseJWK(raw)
		if err != nil || len(keys) >= maxKeys {
			ignored++
			continue
		}
		keys = append(keys, k)
	}
	return keys, ignored, nil
}

// parseJWK reads one key of a set. What it says of where else there are keys is
// not followed, and private keys and secrets are not read.
func parseJWK(raw []byte) (key, error) {
	jwk, err := jwkset.NewJWKFromRawJSON(raw, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return key{}, err
	}
	m := jwk.Marshal()
	if m.USE != "" && m.USE != jwkset.UseSig {
		return key{}, fmt.Errorf("key for use %q", m.USE)
	}
	if len(m.KEYOPS) > 0 {
		verifies := false
		for _, op := range m.KEYOPS {
			verifies = verifies || op == jwkset.KeyOpsVerify
		}
		if !verifies {
			return key{}, errors.New("key is not for verifying")
		}
	}
	if len(m.KID) > maxKid {
		return key{}, fmt.Errorf("kid is longer than %d bytes", maxKid)
	}
	k := key{id: m.KID, alg: m.ALG.String(), public: jwk.Key()}
	if k.alg == "Ed25519" { // RFC 9864, of what tokens call EdDSA
		k.alg = "EdDSA"
	}
	if _, secret := k.public.([]byte); secret {
		return key{}, errors.New("a secret is no public key")
	}
	return k, k.check()
}

// wellKnown is where an issuer says where its keys are (OpenID Connect
// Discovery 1.0, 4).
const wellKnown = "/.well-known/openid-configuration"

func (s *issuer) discover(ctx context.Context) (set string, err error) {
	at := strings.TrimSuffix(s.name, "/") + wellKnown
	var answer struct {
		Issuer string `json:"issuer"`
		Set    string `json:"jwks_uri"`
	}
	if err := s.get(ctx, at, &answer); err != nil {
		return "", err
	}
	if answer.Issuer != s.name {
		return "", fmt.Errorf("%s: it is of issuer %q, and JWT_ISSUER says %q; they must be the same, to the last slash", at, answer.Issuer, s.name)
	}
	u, err := url.Parse(answer.Set)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || strings.HasPrefix(s.name, "https:")) {
		return "", fmt.Errorf("%s: jwks_uri is %q; need a URL that is as safe as the issuer's", at, answer.Set)
	}
	return answer.Set, nil
}

// get reads the JSON at a URL.
func (s *issuer) get(ctx context.Context, at string, into any) error {
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	rq.Header.Set("Accept", "application/json")
	rq.Header.Set("User-Agent", "spillway")
	resp, err := s.client.Do(rq)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: answered %s; need 200", at, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysBytes+1))
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if len(text) > maxKeysBytes {
		return fmt.Errorf("%s: answered more than %d bytes", at, maxKeysBytes)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: not the JSON that was expected: %w", at, err)
	}
	return nil
}

// run fetches the set at once, and then every now and again, until ctx ends.
func (s *issuer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := refreshEvery
		if s.fetch(ctx) != nil {
			next = retryEvery
		}
		timer.Reset(next)
	}
}
