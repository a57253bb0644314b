// Package auth says who a request is, and what they may read: by a JWT, by
// asking the API that is there already (forward auth), or by both. It knows
// nothing of topics beyond their names, and answers no request.
//
// [Authenticator.Identify] is where to begin.
package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// An Identity is who sent a request, and what they may read. It can be written
// as JSON and read again. It must not be changed.
type Identity struct {
	// Subject is who it is, for logs and limits; "" where nobody says. It is not
	// to be trusted for more than telling two apart.
	Subject string `json:"sub,omitempty"`

	// Anonymous is set where the API let in a request without Authorization and
	// cookies.
	Anonymous bool `json:"anon,omitempty"`

	// Topics are those that may be read.
	Topics Patterns `json:"topics"`

	// Claims are what is bound into filters of TOPIC_RULES. There may be none.
	Claims Claims `json:"claims,omitempty"`

	// Expires is when streams must end; zero: never. It lies in the future when
	// the identity is made, but for clocks that differ (see Config.JWTLeeway).
	Expires time.Time `json:"exp,omitzero"`

	// Question is what AUTH_URL was asked, for Recheck; nil where there is none.
	// It holds credentials: it must not be logged, or leave the process unsealed.
	Question *Question `json:"q,omitempty"`
}

// MayRead reports whether the topic may be read.
func (id *Identity) MayRead(topic string) bool { return id.Topics.Match(topic) }

// Claims are JSON values by name, with json.Number for numbers.
type Claims map[string]any

// A Question is a request as AUTH_URL is shown it, without its token in the URI.
type Question struct {
	Method        string              `json:"m"`
	Proto         string              `json:"p"` // http or https
	Host          string              `json:"h"`
	URI           string              `json:"u"`
	IP            string              `json:"ip,omitempty"`
	Authorization string              `json:"a,omitempty"`
	Cookie        string              `json:"c,omitempty"`
	Header        map[string][]string `json:"f,omitempty"` // those of AUTH_FORWARD_HEADERS that the request had
}

// A Denied says that a request may not go on: what to answer it. Body is at
// most maxBody bytes; Header has WWW-Authenticate and what belongs to the body,
// and nothing else. Where the API said nothing, Body is nil and the answer is
// the caller's to word.
type Denied struct {
	Status int // 401 or 403
	Header http.Header
	Body   []byte
	Reason string // for people, such as "the token has expired"; never holds a token
}

func (d *Denied) Error() string { return d.Reason }

// A BadRequest says what is wrong with how a request shows its credentials: 400.
type BadRequest struct{ Detail string }

func (e *BadRequest) Error() string { return e.Detail }

// ErrUnavailable is the end of errors that say that nobody can tell now who a
// request is: keys or the API cannot be had, or the API's answer is none. It is
// for the transient form of refusal, auth-unavailable.
var ErrUnavailable = errors.New("authorisation cannot be had")

// An Authenticator is safe for concurrent use.
type Authenticator struct {
	cfg Config
	log *slog.Logger
}

// New makes an Authenticator, and registers its metrics where reg is not nil.
// It asks nobody: keys are fetched by Run, or when a token needs them. Close
// ends what it holds.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Authenticator, error) {
	return &Authenticator{cfg: cfg, log: log}, nil
}

// Run keeps the keys of JWT issuers fresh until ctx ends (nil). While it does
// not run, they are fetched when a token needs them.
func (a *Authenticator) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Identify says who sent r, and what they may read. r may have gone through
// bearer.Move, and need not.
//
// With JWT_* the request must have a token that is valid; with AUTH_URL the API
// must let it in. With both it must pass both, in this order: so the API need
// not check tokens, and is not asked about bad ones. Then only topics that both
// allow may be read, the API's claims replace those of the token of the same
// name, and the earlier expiry counts.
//
// The error is a *BadRequest, a *Denied, or wraps ErrUnavailable.
func (a *Authenticator) Identify(ctx context.Context, r *http.Request) (*Identity, error) {
	return nil, ErrUnavailable
}

// Recheck asks again, with what Identify asked. Answers come from the cache
// while they are fresh. Errors are those of Identify.
func (a *Authenticator) Recheck(ctx context.Context, q Question) (*Identity, error) {
	return nil, ErrUnavailable
}

// Renew is Identify for a client of which was is known, and that now has
// another token. The token must be of the same subject: a *Denied says so else.
// With AUTH_URL the question is the old one with the new token as
// "Authorization: Bearer". Errors are those of Identify.
func (a *Authenticator) Renew(ctx context.Context, was *Identity, token string) (*Identity, error) {
	return nil, ErrUnavailable
}

// Close waits until nothing is asked any more. Call it when nobody calls
// Identify any more.
func (a *Authenticator) Close() {}
