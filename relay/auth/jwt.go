package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"spillway/grip/secret"
)

// A verifier is what a signature is verified by: a public key or a secret.
type verifier = jwt.VerificationKey

// maxTokenBytes bounds a token before anything is made of it.
const maxTokenBytes = 16 << 10

// lastExpiry is as late as times can be written down.
var lastExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// tokens says what tokens are worth.
type tokens struct {
	cfg     *Config
	keys    *secret.Value[[]key] // nil: they are fetched
	issuers map[string]*issuer   // by iss; "" for any
	parser  *jwt.Parser
	log     *slog.Logger
	broken  sync.Once // says that a token lists what is no pattern
	now     func() time.Time
}

// newTokens makes what verifies tokens, and asks nobody. fetching makes an issuer.
func newTokens(cfg *Config, log *slog.Logger, now func() time.Time, fetching func(name, set string) *issuer) (*tokens, error) {
	t := &tokens{cfg: cfg, issuers: make(map[string]*issuer), log: log, now: now}
	switch {
	case cfg.Key != "":
		var err error
		if t.keys, err = secret.Follow(cfg.Secrets, "JWT_KEY", cfg.Key, cfg.parseKey); err != nil {
			return nil, fmt.Errorf("JWT_KEY: %w", err)
		}
	case len(cfg.JWKSURLs) == 1:
		t.issuers[""] = fetching(cfg.JWKSURLs[0], cfg.JWKSURLs[0])
	default:
		for i, name := range cfg.Issuers {
			if len(cfg.JWKSURLs) > 0 {
				t.issuers[name] = fetching(cfg.JWKSURLs[i], cfg.JWKSURLs[i])
			} else {
				t.issuers[name] = fetching(name, "")
			}
		}
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(cfg.algorithms()), jwt.WithJSONNumber(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now),
		jwt.WithLeeway(cfg.Leeway), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
	}
	if len(cfg.Audiences) > 0 {
		options = append(options, jwt.WithAudience(cfg.Audiences...))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

// count is how many keys there are.
func (t *tokens) count() int {
	n := len(t.keys.Get())
	for _, s := range t.issuers {
		s.mu.Lock()
		n += len(s.keys)
		s.mu.Unlock()
	}
	return n
}

// What a token can be worth, for metrics.
const (
	tokenOK          = "ok"
	tokenMissing     = "missing"
	tokenExpired     = "expired"
	tokenRefused     = "refused"
	tokenUnavailable = "unavailable"
)

// errHeader says that a token needs something that we do not do.
var errHeader = errors.New("its header has crit, and nothing that it could name is known")

var errIssuer = errors.New("it is of an issuer that is not listed")

// verify says who a token is of. The error is a *Denied or wraps ErrUnavailable.
func (t *tokens) verify(ctx context.Context, token string) (*Identity, error) {
	if len(token) > maxTokenBytes {
		return nil, invalid(fmt.Sprintf("it is longer than %d bytes", maxTokenBytes))
	}
	for again := false; ; again = true {
		claims := jwt.MapClaims{}
		var doubtful *issuer // who may have a newer key, of the same name or without one
		_, err := t.parser.ParseWithClaims(token, claims, func(token *jwt.Token) (any, error) {
			fit, from, err := t.candidatesOf(ctx, token)
			doubtful = from
			return jwt.VerificationKeySet{Keys: fit}, err
		})
		switch {
		case err == nil:
			return t.identity(Claims(claims))
		case errors.Is(err, jwt.ErrTokenSignatureInvalid) && !again && doubtful != nil && doubtful.again(ctx):
		default:
			return nil, explain(err)
		}
	}
}

// candidatesOf returns the keys that a token may have been signed with. Of its
// header kid and alg are looked at; jku, jwk, x5u and x5c are the client's word
// for itself. doubtful is who has keys without names, one of which may have been
// replaced; nil: nobody.
func (t *tokens) candidatesOf(ctx context.Context, token *jwt.Token) (fit []verifier, doubtful *issuer, err error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, nil, errHeader // RFC 7515, 4.1.11
	}
	from, err := token.Claims.GetIssuer()
	if err != nil || len(t.cfg.Issuers) > 0 && !slices.Contains(t.cfg.Issuers, from) {
		return nil, nil, errIssuer
	}
	kid, _ := token.Header["kid"].(string)
	alg := token.Method.Alg()
	if t.keys != nil {
		if fit = candidates(t.keys.Get(), kid, alg); len(fit) == 0 {
			return nil, nil, errNoKey
		}
		return fit, nil, nil
	}
	s := t.issuers[from]
	if s == nil {
		s = t.issuers[""]
	}
	if s == nil {
		return nil, nil, errIssuer
	}
	fit, named, err := s.candidatesOf(ctx, kid, alg)
	if named {
		s = nil
	}
	return fit, s, err
}

// identity reads the claims of a token that is valid.
func (t *tokens) identity(claims Claims) (*Identity, error) {
	id := &Identity{Claims: claims, Expires: t.expiry(claims)}
	if v, ok := claims.at(t.cfg.SubjectClaim); ok {
		id.Subject = subjectOf(v)
	}
	if t.cfg.TopicsClaim == "" { // only where AUTH_URL says it
		id.Topics = Everything()
		return id, nil
	}
	v, _ := claims.at(t.cfg.TopicsClaim)
	var broken int
	var err error
	if id.Topics, broken, err = newPatterns(listed(v)); err != nil {
		return nil, &Denied{Status: http.StatusForbidden, Reason: "the token lists " + err.Error()}
	}
	if broken > 0 {
		t.broken.Do(func() {
			t.log.Warn("a token lists what is no regular expression, which matches no topic; * is none, .* is", "claim", t.cfg.TopicsClaim, "subject", id.Subject)
		})
	}
	return id, nil
}

// subjectOf is a claim as a text: many number their users.
func subjectOf(claim any) string {
	switch claim := claim.(type) {
	case string:
		return claim
	case json.Number:
		return claim.String()
	}
	return ""
}

// expiry is when streams of the token end: at exp, whatever the leeway. Only
// who comes later, and is let in all the same, gets that much.
func (t *tokens) expiry(claims Claims) time.Time {
	exp, ok := claims["exp"].(json.Number)
	if !ok {
		panic("auth: a token without exp was accepted")
	}
	seconds, err := exp.Float64()
	if err != nil || seconds >= float64(lastExpiry.Unix()) {
		return lastExpiry
	}
	whole, part := math.Modf(seconds)
	at := time.Unix(int64(whole), int64(part*1e9)).UTC()
	if !at.After(t.now()) {
		at = at.Add(t.cfg.Leeway)
	}
	return at
}

// explain says what is wrong with a token, without anything of it.
func explain(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	for _, known := range []struct {
		is     error
		reason string
	}{
		{errIssuer, errIssuer.Error()},
		{errNoKey, errNoKey.Error()},
		{errHeader, errHeader.Error()},
		{jwt.ErrTokenMalformed, "it is no JWT"},
		{jwt.ErrTokenUnverifiable, "its algorithm is none of those that are allowed"},
		{jwt.ErrTokenSignatureInvalid, "its signature, or its algorithm, is not valid"},
		{jwt.ErrTokenExpired, reasonExpired},
		{jwt.ErrTokenNotValidYet, "it is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "it is of the future"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks exp, or the aud that is asked for"},
		{jwt.ErrTokenInvalidAudience, "it is for another audience"},
	} {
		if errors.Is(err, known.is) {
			return invalid(known.reason)
		}
	}
	return invalid("a claim in it is of the wrong type")
}

const reasonExpired = "it has expired"

// invalid refuses a token (RFC 6750, 3.1). The reason goes to the client.
func invalid(reason string) *Denied {
	return &Denied{
		Status: http.StatusUnauthorized,
		Header: http.Header{"Www-Authenticate": {`Bearer error="invalid_token", error_description="` + reason + `"`}},
		Reason: "the token is refused: " + reason,
	}
}

// missing refuses a request without a token.
func missing() *Denied {
	return &Denied{
		Status: http.StatusUnauthorized,
		Header: http.Header{"Www-Authenticate": {"Bearer"}},
		Reason: "a token is needed: send it as Authorization: Bearer, or as access_token in the query",
	}
}
