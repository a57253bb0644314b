// Package auth says who a request is, and what they may read: by a JWT, by
// asking the API that is there already (forward auth), or by both. It knows
// nothing of topics beyond their names, and answers no request.
//
// [Authenticator.Identify] is where to begin. Where clients put tokens is the
// business of package bearer.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"spillway/grip/bearer"
)

// An Identity is who sent a request, and what they may read. It can be written
// as JSON and read again. It must not be changed.
type Identity struct {
	// Subject is who it is, for logs and limits; "" where nobody says.
	Subject string `json:"sub,omitempty"`

	// Anonymous is set where the API let in a request without Authorization and
	// cookies, and does not say who it is; or says that it is nobody.
	Anonymous bool `json:"anon,omitempty"`

	// Topics are those that may be read.
	Topics Patterns `json:"topics"`

	// Claims are what is bound into filters of TOPIC_RULES. There may be none.
	Claims Claims `json:"claims,omitempty"`

	// Expires is when streams must end; zero: never. When the identity is made it
	// lies in the future.
	Expires time.Time `json:"exp,omitzero"`

	// Question is what AUTH_URL was asked, for Recheck and Renew; nil where there
	// is no AUTH_URL. It holds credentials: it must not be logged, or leave the
	// process unsealed.
	Question *Question `json:"q,omitempty"`
}

// MayRead reports whether the topic may be read.
func (id *Identity) MayRead(topic string) bool { return id.Topics.Match(topic) }

// A Denied says that a request may not go on, and what to answer it. Header has
// WWW-Authenticate and what belongs to Body, and nothing else; it may be nil.
// Where Body is nil the caller words the answer, from Reason or not.
type Denied struct {
	Status int // 401 or 403
	Header http.Header
	Body   []byte // of at most 64 KiB
	Reason string // for people; nothing of a token is in it
}

func (d *Denied) Error() string { return d.Reason }

// A BadRequest says what is wrong with how a request shows its credentials: 400.
// Nothing of them is in Detail.
type BadRequest struct{ Detail string }

func (e *BadRequest) Error() string { return e.Detail }

// ErrUnavailable is in errors that say that nobody can tell now who a request
// is: keys or the API cannot be had, or what it answers is neither yes nor no. It
// is for the transient form of refusal, auth-unavailable.
var ErrUnavailable = errors.New("authorisation cannot be had")

// An Authenticator is safe for concurrent use.
type Authenticator struct {
	cfg     Config
	tokens  *tokens // nil: no token is needed
	api     *api    // nil: nobody is asked
	metrics *metrics
	calls   sync.WaitGroup
	client  *http.Client
}

// New makes an Authenticator, and registers its metrics where reg is not nil.
// cfg must be valid and enabled. New asks nobody.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Authenticator, error) {
	return newAuthenticator(cfg, log, reg, time.Now)
}

func newAuthenticator(cfg Config, log *slog.Logger, reg prometheus.Registerer, now func() time.Time) (*Authenticator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if !cfg.Enabled() {
		return nil, errors.New("neither JWT_* nor AUTH_URL is set")
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	a := &Authenticator{cfg: cfg, client: &http.Client{Transport: transport, CheckRedirect: checkRedirect}}
	if cfg.URL != "" {
		asking := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		a.api = newAPI(&a.cfg, asking, log, &a.calls, now)
	}
	a.metrics = newMetrics(a, reg)
	if a.api != nil {
		a.api.metrics = a.metrics
	}
	if cfg.ByJWT() {
		a.tokens, err = newTokens(&a.cfg, log, now, func(name, set string) *issuer {
			return &issuer{
				name: name, set: set, client: a.client, timeout: cfg.Timeout, log: log, metrics: a.metrics, now: now, calls: &a.calls,
				unknown: make(map[string]time.Time), limit: rate.NewLimiter(rate.Every(unknownEvery), unknownBurst),
			}
		})
		if err != nil {
			return nil, err
		}
		cfg.warnOfPlainText(log)
		if cfg.Key == "" && len(cfg.Audiences) == 0 {
			log.Warn("JWT_AUDIENCE is not set: tokens that an issuer made for another program are taken, too")
		}
	}
	return a, nil
}

// checkRedirect follows an issuer's redirects, to places that are as safe.
func checkRedirect(rq *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("more than 3 redirects")
	}
	if via[0].URL.Scheme == "https" && rq.URL.Scheme != "https" {
		return errors.New("redirected from https to http")
	}
	return nil
}

// Run keeps the keys of issuers fresh until ctx ends (nil). Before and after,
// they are only fetched when a token needs one that is not there.
func (a *Authenticator) Run(ctx context.Context) error {
	var running sync.WaitGroup
	if a.tokens != nil {
		for _, s := range a.tokens.issuers {
			running.Go(func() { s.run(ctx) })
		}
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

// Close waits until nothing is asked any more, which takes AUTH_TIMEOUT at most.
// Call it when nobody calls the other methods any more.
func (a *Authenticator) Close() {
	a.calls.Wait()
	a.client.CloseIdleConnections()
}

// Identify says who sent r, and what they may read. r may have gone through
// bearer.Move, and need not. It takes AUTH_TIMEOUT for keys and as long for the
// API, at most, or until ctx ends.
//
// With JWT_* the request must have a token that is valid; with AUTH_URL the API
// must let it in. With both it must pass both, in this order, so that the API
// is not asked about tokens that are none. Then only topics that both allow may
// be read, claims of the API replace those of the token that have the same
// name, and the earlier expiry counts.
//
// The error is a *BadRequest, a *Denied, or wraps ErrUnavailable.
func (a *Authenticator) Identify(ctx context.Context, r *http.Request) (*Identity, error) {
	r, err := bearer.Move(r)
	if err != nil {
		return nil, &BadRequest{err.Error()}
	}
	q := a.question(r)
	token, err := a.token(q)
	if err != nil {
		return nil, err
	}
	return a.identify(ctx, token, q)
}

// Recheck asks again what Identify asked. The answer comes from the cache where
// one is fresh. The errors are those of Identify.
func (a *Authenticator) Recheck(ctx context.Context, q *Question) (*Identity, error) {
	token, err := a.token(q)
	if err != nil {
		return nil, err
	}
	return a.identify(ctx, token, q)
}

// Renew is Identify for a client that had an identity, and now shows another
// token, which must be for the same subject. AUTH_URL is asked what it was asked
// before, with this token as "Authorization: Bearer" in place of the one before,
// which AUTH_COOKIE may have held. It is the caller's to see
// to it that what the client reads goes with the new identity: topics, claims and
// expiry may all be others. The errors are those of Identify.
func (a *Authenticator) Renew(ctx context.Context, was *Identity, token string) (*Identity, error) {
	if token == "" || !bearer.IsToken(token) {
		return nil, &BadRequest{"the token is empty, or has bytes that no token has"}
	}
	q := &Question{}
	if was.Question != nil {
		*q = *was.Question
	}
	q.Authorization, q.Cookie = "Bearer "+token, a.dropCookie(q.Cookie)
	id, err := a.identify(ctx, token, q)
	if err != nil {
		return nil, err
	}
	if was.Subject != id.Subject {
		return nil, &Denied{Status: http.StatusForbidden, Reason: "the token is for another subject than the one before"}
	}
	return id, nil
}

// question is what of r says who sent it.
func (a *Authenticator) question(r *http.Request) *Question {
	q := &Question{
		Method: r.Method, Host: r.Host, URI: r.URL.RequestURI(),
		Authorization: strings.Join(r.Header["Authorization"], ""), // bearer.Move allows one
		Cookie:        strings.Join(r.Header["Cookie"], "; "),
	}
	q.IP, q.Proto = a.cfg.client(r)
	for _, name := range a.cfg.ForwardHeaders {
		name = http.CanonicalHeaderKey(name)
		if values, ok := r.Header[name]; ok {
			if q.Header == nil {
				q.Header = make(map[string][]string)
			}
			q.Header[name] = values
		}
	}
	return q
}

// client is where a request comes from, as its connection says.
func (c *Config) client(r *http.Request) (ip, proto string) {
	if c.Client != nil {
		return c.Client(r)
	}
	proto = "http"
	if r.TLS != nil {
		proto = "https"
	}
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil { // a Unix socket has no address
		return "", proto
	}
	return ip, proto
}

// token returns the token of a question, from Authorization or the cookie; "":
// there is none. The error is a *BadRequest.
func (a *Authenticator) token(q *Question) (string, error) {
	token, _ := bearer.Token(http.Header{"Authorization": {q.Authorization}})
	if a.cfg.Cookie == "" || q.Cookie == "" {
		return token, nil
	}
	cookies, err := http.ParseCookie(q.Cookie)
	if err != nil {
		cookies = (&http.Request{Header: http.Header{"Cookie": {q.Cookie}}}).Cookies() // those that can be read
	}
	for _, c := range cookies {
		switch {
		case c.Name != a.cfg.Cookie || c.Value == "" || c.Value == token:
		case token != "":
			return "", &BadRequest{fmt.Sprintf("two different tokens in one request, one of them in the cookie %s; send one", c.Name)}
		default:
			token = c.Value
		}
	}
	return token, nil
}

// dropCookie takes AUTH_COOKIE out of a Cookie field, and leaves all else as it is.
func (a *Authenticator) dropCookie(field string) string {
	if a.cfg.Cookie == "" {
		return field
	}
	var kept []string
	for piece := range strings.SplitSeq(field, ";") {
		if name, _, _ := strings.Cut(piece, "="); strings.TrimSpace(name) != a.cfg.Cookie {
			kept = append(kept, piece)
		}
	}
	return strings.TrimSpace(strings.Join(kept, ";"))
}

func (a *Authenticator) identify(ctx context.Context, token string, q *Question) (*Identity, error) {
	var id *Identity
	if a.tokens != nil {
		var err error
		if id, err = a.verify(ctx, token); err != nil {
			return nil, err
		}
	}
	if a.api == nil {
		return id, nil
	}
	granted, err := a.api.identify(ctx, q)
	if err != nil {
		return nil, err
	}
	both := *granted
	both.Question = q
	if id != nil {
		both.Anonymous = false
		both.Topics = id.Topics.and(granted.Topics)
		both.Claims = maps.Clone(id.Claims)
		maps.Copy(both.Claims, granted.Claims)
		if both.Subject == "" {
			both.Subject = id.Subject
		}
		if both.Expires.IsZero() || id.Expires.Before(both.Expires) {
			both.Expires = id.Expires
		}
	}
	return &both, nil
}

// verify says what a token is worth, and counts it.
func (a *Authenticator) verify(ctx context.Context, token string) (*Identity, error) {
	worth := func(what string) { a.metrics.tokens[what].Inc() }
	if token == "" {
		worth(tokenMissing)
		return nil, missing()
	}
	id, err := a.tokens.verify(ctx, token)
	var denied *Denied
	switch {
	case err == nil:
		worth(tokenOK)
	case errors.Is(err, ErrUnavailable):
		worth(tokenUnavailable)
	case errors.As(err, &denied) && strings.HasSuffix(denied.Reason, reasonExpired):
		worth(tokenExpired)
	default:
		worth(tokenRefused)
	}
	return id, err
}
