package relay

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway/grip"
	"spillway/relay/auth"
	"spillway/relay/filter"
)

// A caller is who makes a request, as far as that decides what is read. The nil
// caller is anyone, where nobody is asked who they are: all is theirs.
type caller struct {
	auth.Identity
	// At is when that was found out, in epoch nanoseconds, where Socket is set.
	At int64 `json:",omitempty"`
	// AskAt is when AUTH_URL is to be asked again, in epoch milliseconds; 0: never.
	AskAt int64 `json:",omitempty"`
	// Socket names the WebSocket that the request opened or came by.
	Socket string `json:",omitempty"`
}

// callerOf is who has just been granted something.
func (o *Origin) callerOf(g *auth.Identity, socket string) *caller {
	now := o.now()
	c := &caller{Identity: *g, Socket: socket}
	if socket != "" {
		c.At = now.UnixNano()
	}
	if g.Question != nil && o.recheck > 0 {
		c.AskAt = now.Add(o.recheck - o.recheck/10 + rand.N(o.recheck/5)).UnixMilli() // not all at once
	}
	return c
}

// mayReadAll reports whether the caller may know of topics.
func (c *caller) mayReadAll(topics []string) bool {
	return c == nil || !slices.ContainsFunc(topics, func(t string) bool { return !c.MayRead(t) })
}

// shows reports whether c may know of topics, and this origin is the one that
// answers for them.
func (o *Origin) shows(c *caller, r *http.Request, topics ...string) bool {
	return c.mayReadAll(topics) && !slices.ContainsFunc(topics, func(t string) bool { return o.away(r, t) })
}

// claims are what filters of rules are bound to.
func (c *caller) claims() map[string]any {
	if c == nil {
		return nil
	}
	return c.Claims
}

// bindings is the canonical text of those claims of the caller that a rule looks
// at: callers with equal ones see the same records by it.
func (c *caller) bindings(row *filter.Rule) string {
	if c == nil || row == nil {
		return ""
	}
	paths := row.Reads("claims")
	if len(paths) == 0 {
		return ""
	}
	bound := make(map[string]any, len(paths))
	for _, path := range paths {
		if v, ok := claimAt(c.claims(), path); ok { // one that is missing is another than null
			bound[strings.Join(path, "\x00")] = v
		}
	}
	return string(mustJSON(bound))
}

// claimAt is the claim that a path leads to.
func claimAt(v any, path []string) (any, bool) {
	for _, name := range path {
		members, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = members[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// seesHeaders reports whether the caller sees headers: without a credential, only
// where all of the topics list theirs.
func (c *caller) seesHeaders(d *decoder, topics []string) bool {
	return c == nil || !c.Anonymous || !slices.ContainsFunc(topics, func(t string) bool { return d.ruleOf(t).Header == nil })
}

// A right is whose a stream is, and for how long. A link carries it.
type right struct {
	Subject  string         `json:"s,omitempty"`
	Expires  int64          `json:"x,omitempty"` // epoch milliseconds; 0: never
	Bindings string         `json:"b,omitempty"` // caller.bindings of the stream's topics
	Bare     bool           `json:"n,omitempty"` // the caller has shown no credential
	Socket   string         `json:"w,omitempty"` // of the stream; "": it is none of a WebSocket
	At       int64          `json:"t,omitempty"` // caller.At
	Asks     *auth.Question `json:"q,omitempty"` // with which AUTH_URL is asked again; nil: it is not,
	AskAt    int64          `json:"a,omitempty"` // and when, in epoch milliseconds
}

// rightTo is the right by which a selection is read; nil where nobody is asked.
func (o *Origin) rightTo(s *selection) *right {
	c := s.caller
	if c == nil {
		return nil
	}
	r := &right{Subject: c.Subject, Bindings: c.bindings(o.decoder.rowsOf(s.topics)), Bare: c.Anonymous}
	if s.via == overWebSocket {
		r.Socket = c.Socket
	}
	r.renew(c)
	return r
}

// renew notes how long a grant holds.
func (r *right) renew(c *caller) {
	r.Expires, r.At, r.Asks, r.AskAt = 0, c.At, c.Question, c.AskAt
	if !c.Expires.IsZero() {
		r.Expires = c.Expires.UnixMilli()
	}
}

// left is how long a stream may be held before its right is looked at again; 0:
// for ever.
func (r *right) left(now time.Time) time.Duration {
	if r == nil {
		return 0
	}
	until := r.Expires
	if r.AskAt > 0 && (until == 0 || r.AskAt < until) {
		until = r.AskAt
	}
	if until == 0 {
		return 0
	}
	return max(time.UnixMilli(until).Sub(now), time.Millisecond)
}

var (
	// errExpired says that the token of a stream has expired.
	errExpired = errors.New("the token has expired")
	// errForbidden says that a stream's caller may not read it any more.
	errForbidden = errors.New("what was allowed is not any more")
)

// check looks whether a stream may go on, and asks AUTH_URL again when it is time
// to. The error is errExpired, errForbidden or errUnavailable.
func (o *Origin) check(ctx context.Context, l *link) error {
	r, now := l.Right, o.now()
	if r == nil {
		return nil
	}
	if c := o.renewals.of(r.Socket); c != nil && c.At > r.At {
		if err := o.adopt(l, c); err != nil {
			return err
		}
		r = l.Right
	}
	if r.Expires > 0 && now.UnixMilli() >= r.Expires {
		return errExpired
	}
	if r.AskAt == 0 || now.UnixMilli() < r.AskAt {
		return nil
	}
	g, err := o.auth.Recheck(ctx, r.Asks)
	switch {
	case errors.As(err, new(*auth.Denied)):
		return errForbidden
	case err != nil:
		return unavailable("ask again who this is", err)
	}
	return o.adopt(l, o.callerOf(g, r.Socket))
}

// adopt makes a newer caller the one whose a stream is, if they may read what the
// stream does, and see no other records of it.
func (o *Origin) adopt(l *link, c *caller) error {
	r := l.Right
	if c.Subject != r.Subject || c.Anonymous != r.Bare || !c.mayReadAll(l.Topics) || c.bindings(o.decoder.rowsOf(l.Topics)) != r.Bindings {
		return errForbidden
	}
	renewed := *r // links of one hold share it
	renewed.renew(c)
	l.Right = &renewed
	return nil
}

// identify says who makes a request of a client. The error is one that fail knows.
func (o *Origin) identify(r *http.Request) (*caller, error) {
	if o.auth == nil {
		return nil, nil
	}
	if err := o.sameSite(r); err != nil {
		return nil, err
	}
	g, err := o.auth.Identify(r.Context(), r)
	if err != nil {
		return nil, err
	}
	socket := ""
	if accepts(r.Header["Accept"], grip.ContentTypeEvents) {
		socket = cryptorand.Text()
	}
	return o.callerOf(g, socket), nil
}

// sameSite refuses a WebSocket that a page of another site opened with the
// cookies of its visitor: browsers ask nobody before they do so.
func (o *Origin) sameSite(r *http.Request) error {
	if !accepts(r.Header["Accept"], grip.ContentTypeEvents) || len(r.Header["Cookie"]) == 0 || !o.cookies {
		return nil
	}
	origin := first(r.Header["Origin"])
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) || slices.Contains(o.cors.origins, origin) && origin != "*" {
		return nil
	}
	return &forbiddenError{"a WebSocket that carries cookies must be opened by a page of this host, or of an origin that CORS_ORIGINS names"}
}

// metaGrant is the name under which the gateway keeps the caller of a WebSocket,
// sealed, for the messages that come by it.
const metaGrant = "Grant"

// keep has the gateway tell again whose a WebSocket is.
func (o *Origin) keep(h http.Header, c *caller) {
	if c == nil || c.Socket == "" {
		return
	}
	sealed, err := o.sealer.sealAs(metaGrant, c)
	if err != nil {
		o.log.Error("seal the caller of a WebSocket", "err", err) // its messages will be refused
		return
	}
	h["Set-Meta-"+metaGrant] = []string{sealed}
}

// keepOn is keep, also for the messages that came with the one that r is about.
func (o *Origin) keepOn(h http.Header, r *http.Request, c *caller) {
	o.keep(h, c)
	r.Header["Meta-"+metaGrant] = h["Set-Meta-"+metaGrant]
}

// tellReader tells the gateway who reads topics, for its records and limits.
func (o *Origin) tellReader(h http.Header, topics []string, c *caller) {
	if !o.tells {
		return
	}
	for _, topic := range topics {
		if !slices.Contains(h[grip.TopicsField], topic) {
			h[grip.TopicsField] = append(h[grip.TopicsField], topic)
		}
	}
	if c != nil && c.Subject != "" {
		h[grip.SubjectField] = []string{c.Subject}
	}
}

// tellNobody takes that back.
func tellNobody(h http.Header) {
	delete(h, grip.TopicsField)
	delete(h, grip.SubjectField)
}

// Why requests are refused, where it is not one of the codes of a stream-error.
const (
	refusedUnauthorized = "unauthorized" // nothing, or nothing that is valid, says who it is
	refusedForbidden    = "forbidden"    // who it is may not do this
	refusedHidden       = "hidden"       // the same, answered as if there were no such topic
)

// tellRefusal tells the gateway why an answer lets nobody read, for its records.
// What was told of the reader, and of the topics, stays.
func (o *Origin) tellRefusal(h http.Header, why string) {
	if o.tells {
		h[grip.RefusedField] = []string{why}
	}
}

// tellFailure tells the gateway of a request, or message, that came to nothing.
func (o *Origin) tellFailure(h http.Header, err error) {
	if why := refusalOf(err); why != "" {
		o.tellRefusal(h, why)
	} else if len(h[grip.RefusedField]) == 0 {
		tellNobody(h)
	}
}

// tellHidden is tellRefusal for topics that c may not know of. Names of topics that
// are not there are only what somebody says.
func (o *Origin) tellHidden(h http.Header, topics []string, c *caller) {
	for _, topic := range topics {
		if c.mayReadAll([]string{topic}) || !o.catalog.exposed(topic) {
			continue
		}
		if t, _, _ := o.catalog.cached(topic); t != nil {
			o.tellReader(h, []string{topic}, c)
			o.tellRefusal(h, refusedHidden)
		}
	}
}

// kept is who opened the WebSocket that a request came by.
func (o *Origin) kept(r *http.Request) (*caller, error) {
	if o.auth == nil {
		return nil, nil
	}
	c := new(caller)
	if err := o.sealer.openAs(metaGrant, first(r.Header["Meta-"+metaGrant]), c); err != nil {
		return nil, errForbidden
	}
	if !c.Expires.IsZero() && !o.now().Before(c.Expires) {
		return c, errExpired
	}
	return c, nil
}

// current is kept for who wants to read: AUTH_URL is asked again when it is time to,
// whatever streams the WebSocket has.
func (o *Origin) current(h http.Header, r *http.Request) (*caller, error) {
	c, err := o.kept(r)
	if err != nil || c == nil || c.AskAt == 0 || o.now().UnixMilli() < c.AskAt {
		return c, err
	}
	g, err := o.auth.Recheck(r.Context(), c.Question)
	switch {
	case err != nil:
		return nil, err
	case g.Subject != c.Subject:
		return nil, errForbidden
	}
	c = o.callerOf(g, c.Socket)
	o.keepOn(h, r, c)
	return c, nil
}

// renewToken carries out an auth message: from now on the WebSocket is that of
// another token of the same subject.
func (o *Origin) renewToken(h http.Header, r *http.Request, token string) error {
	before, err := o.kept(r)
	if before == nil {
		return err
	}
	g, err := o.auth.Renew(r.Context(), &before.Identity, token)
	if err != nil {
		return err
	}
	latest := before.Expires
	if latest.IsZero() {
		latest = o.now().Add(2 * o.recheck)
	}
	c := o.callerOf(g, before.Socket)
	if err := o.renewals.add(c, latest, o.now()); err != nil {
		return err
	}
	o.keepOn(h, r, c)
	return nil
}

// renewals are the newer callers of WebSockets, for streams whose links still
// have the older one.
type renewals struct {
	most    int // that are kept: sockets may end, and others come
	mu      sync.Mutex
	sockets map[string]renewal
	swept   time.Time
}

type renewal struct {
	caller *caller
	until  time.Time // by then no link has an older one
}

// A link is asked for when its right is to be looked at, or somewhat later where
// the origin is busy.
const renewalSlack = time.Minute

// errTooManyRenewals says that AUTH_MAX_RENEWALS are kept.
var errTooManyRenewals = fmt.Errorf("%w: too many tokens were renewed", auth.ErrUnavailable)

// add notes whose a WebSocket is, in place of who its links have, which look at
// that by a time at the latest.
func (rs *renewals) add(c *caller, latest, now time.Time) error {
	until := latest.Add(renewalSlack)
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.sockets == nil {
		rs.sockets = make(map[string]renewal)
	}
	if now.Sub(rs.swept) > renewalSlack {
		maps.DeleteFunc(rs.sockets, func(_ string, r renewal) bool { return now.After(r.until) })
		rs.swept = now
	}
	old, again := rs.sockets[c.Socket]
	switch {
	case again && old.until.After(until):
		until = old.until
	case !again && len(rs.sockets) >= rs.most:
		return errTooManyRenewals
	}
	rs.sockets[c.Socket] = renewal{c, until}
	return nil
}

func (rs *renewals) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.sockets)
}

// of is whose a WebSocket is since its token was renewed, or nil.
func (rs *renewals) of(socket string) *caller {
	if socket == "" {
		return nil
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.sockets[socket].caller
}
