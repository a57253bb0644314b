package auth

import (
	"container/list"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxBody bounds what of the API's refusals is passed on. A longer one goes
// without.
const maxBody = 64 << 10

// maxSubjectBytes bounds what an API calls somebody.
const maxSubjectBytes = 1024

// sayEvery bounds how often it is logged that the API does not answer, or does again.
const sayEvery = 10 * time.Second

// A Question is a request as AUTH_URL is shown it, without its token in the
// URI. It holds credentials.
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

// LogValue implements slog.LogValuer: credentials are not for logs.
func (q *Question) LogValue() slog.Value {
	return slog.GroupValue(slog.String("method", q.Method), slog.String("host", q.Host), slog.String("uri", q.URI))
}

// An api is AUTH_URL, with its answers of late.
type api struct {
	cfg     *Config
	client  *http.Client
	secret  []byte        // of keys in the cache
	turn    chan struct{} // has room for those that may ask at the same time
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
	calls   *sync.WaitGroup // each ends by its own timeout

	mu      sync.Mutex
	answers map[cacheKey]*list.Element // of *answer
	recent  *list.List                 // the most recently used first
	bytes   int
	asked   map[cacheKey]*question // on their way
	failing bool                   // it was logged that answers are none
	said    time.Time              // when that, or that it is over, was logged
}

// A cacheKey is a keyed hash of all that a question shows.
type cacheKey [sha256.Size]byte

// An answer is one that is kept.
type answer struct {
	key   cacheKey
	id    *Identity
	until time.Time
	bytes int
}

// A question is the promise of an answer.
type question struct {
	done chan struct{} // closed when id or err is set
	id   *Identity
	err  error

	left    chan struct{} // closed when nobody waits any more, and it was not asked yet
	waiting int           // who wants the answer; guarded by api.mu
	begun   bool          // it has its turn, and is asked whoever leaves; guarded by api.mu
}

func newAPI(cfg *Config, client *http.Client, log *slog.Logger, calls *sync.WaitGroup, now func() time.Time) *api {
	a := &api{
		cfg: cfg, client: client, secret: make([]byte, sha256.Size), turn: make(chan struct{}, cfg.MaxAsked),
		log: log, now: now, calls: calls,
		answers: make(map[cacheKey]*list.Element), recent: list.New(), asked: make(map[cacheKey]*question),
	}
	rand.Read(a.secret)
	return a
}

// key hashes all that the API is shown. Each part has its length in front, so
// that none can pass for two.
func (a *api) key(q *Question) (k cacheKey) {
	h := hmac.New(sha256.New, a.secret)
	var length [8]byte
	part := func(s string) {
		binary.BigEndian.PutUint64(length[:], uint64(len(s)))
		h.Write(length[:])
		h.Write([]byte(s))
	}
	for _, s := range []string{q.Method, q.Proto, q.Host, q.URI, q.Authorization, q.Cookie} {
		part(s)
	}
	if !a.cfg.CacheIgnoreIP {
		part(q.IP)
	}
	for _, name := range slices.Sorted(maps.Keys(q.Header)) {
		part(name)
		part(strconv.Itoa(len(q.Header[name])))
		for _, v := range q.Header[name] {
			part(v)
		}
	}
	h.Sum(k[:0])
	return k
}

// identify asks the API, unless an answer to the same is kept or on its way.
// The error is a *Denied or wraps ErrUnavailable.
func (a *api) identify(ctx context.Context, q *Question) (*Identity, error) {
	key := a.key(q)
	a.mu.Lock()
	if id := a.kept(key); id != nil {
		a.mu.Unlock()
		a.metrics.cached.Inc()
		return id, nil
	}
	p := a.asked[key]
	if p == nil {
		p = &question{done: make(chan struct{}), left: make(chan struct{})}
		a.asked[key] = p
		a.metrics.asked.Inc()
		// Not with ctx: others may wait for the answer when this caller has gone.
		a.calls.Go(func() { a.settle(context.WithoutCancel(ctx), key, q, p) })
	} else {
		a.metrics.shared.Inc()
	}
	p.waiting++
	a.mu.Unlock()
	select {
	case <-p.done:
		return p.id, p.err
	case <-ctx.Done():
		a.leave(key, p)
		return nil, fmt.Errorf("ask AUTH_URL: %w: %w", ctx.Err(), ErrUnavailable)
	}
}

// leave is for who does not wait for an answer any more. A question that nobody
// waits for is forgotten, unless it is being asked: clients that come and go must
// not leave more behind than AUTH_MAX_REQUESTS.
func (a *api) leave(key cacheKey, p *question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.waiting--; p.waiting == 0 && !p.begun {
		delete(a.asked, key)
		close(p.left)
	}
}

// turnOf waits for the turn of a question. The error is errNobody, or that of ctx.
func (a *api) turnOf(ctx context.Context, p *question) error {
	select {
	case a.turn <- struct{}{}:
	case <-p.left:
		return errNobody
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.waiting == 0 {
		<-a.turn
		return errNobody
	}
	p.begun = true
	return nil
}

// errNobody says that all have left who wanted an answer.
var errNobody = errors.New("nobody waits for the answer")

// settle keeps a promise.
func (a *api) settle(ctx context.Context, key cacheKey, q *Question, p *question) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	began := a.now()
	var fresh time.Duration
	switch err := a.turnOf(ctx, p); {
	case errors.Is(err, errNobody):
		return
	case err != nil:
		p.err = fmt.Errorf("ask AUTH_URL: AUTH_MAX_REQUESTS are under way, and none came to its end in time: %w", ErrUnavailable)
	default:
		p.id, fresh, p.err = a.ask(ctx, q)
		<-a.turn
	}
	a.metrics.seconds.Observe(a.now().Sub(began).Seconds())
	if p.err == nil && !p.id.Expires.IsZero() {
		fresh = min(fresh, p.id.Expires.Sub(a.now()))
	}
	a.mu.Lock()
	if a.asked[key] == p { // else all had left, and others ask the same
		delete(a.asked, key)
	}
	if p.err == nil && fresh > 0 {
		a.keep(&answer{key: key, id: p.id, until: began.Add(fresh), bytes: sizeOf(p.id)})
	}
	unavailable := errors.Is(p.err, ErrUnavailable)
	news := a.failing != unavailable && began.Sub(a.said) >= sayEvery // a client may be able to make it so, and otherwise, again and again
	if news {
		a.failing, a.said = unavailable, began
	}
	a.mu.Unlock()
	switch {
	case unavailable:
		a.metrics.unavailable.Inc()
		if news {
			a.log.Error("AUTH_URL does not say who may read; nobody new is let in", "err", p.err)
		}
	case p.err != nil:
		a.metrics.denied.Inc()
	default:
		a.metrics.allowed.Inc()
	}
	if news && !unavailable {
		a.log.Info("AUTH_URL says again who may read")
	}
	close(p.done)
}

// kept returns a fresh answer, or nil. a.mu is held.
func (a *api) kept(key cacheKey) *Identity {
	e := a.answers[key]
	if e == nil {
		return nil
	}
	kept := e.Value.(*answer)
	if !a.now().Before(kept.until) {
		a.drop(e)
		return nil
	}
	a.recent.MoveToFront(e)
	return kept.id
}

// keep keeps an answer within the bounds. a.mu is held.
func (a *api) keep(an *answer) {
	if an.bytes > int(a.cfg.CacheBytes) {
		return
	}
	if old := a.answers[an.key]; old != nil {
		a.drop(old)
	}
	a.answers[an.key] = a.recent.PushFront(an)
	a.bytes += an.bytes
	for len(a.answers) > a.cfg.CacheEntries || a.bytes > int(a.cfg.CacheBytes) {
		a.drop(a.recent.Back())
	}
}

// drop forgets an answer. a.mu is held.
func (a *api) drop(e *list.Element) {
	old := a.recent.Remove(e).(*answer)
	delete(a.answers, old.key)
	a.bytes -= old.bytes
}

// sizeOf is about what an answer takes in memory.
func sizeOf(id *Identity) int {
	size := 512 + len(id.Subject) + sizeOfValue(map[string]any(id.Claims))
	for _, l := range id.Topics.lists {
		for _, text := range l.texts {
			size += 64 + 2*len(text)
		}
		size += l.cost * 40
	}
	return size
}

func sizeOfValue(v any) int {
	size := 16
	switch v := v.(type) {
	case string:
		size += len(v)
	case fmt.Stringer: // json.Number
		size += len(v.String())
	case []any:
		for _, e := range v {
			size += sizeOfValue(e)
		}
	case map[string]any:
		for name, e := range v {
			size += 64 + len(name) + sizeOfValue(e)
		}
	}
	return size
}

// ask asks the API. fresh is how long the answer may be kept.
func (a *api) ask(ctx context.Context, q *Question) (id *Identity, fresh time.Duration, err error) {
	unavailable := func(err error) (*Identity, time.Duration, error) {
		return nil, 0, fmt.Errorf("ask AUTH_URL: %w: %w", err, ErrUnavailable)
	}
	rq, err := a.request(ctx, q)
	if err != nil {
		return unavailable(err)
	}
	resp, err := a.client.Do(rq)
	if err != nil {
		return unavailable(err)
	}
	defer resp.Body.Close()
	switch s := resp.StatusCode; {
	case s >= 200 && s <= 299:
		if id, err = a.read(resp.Header); err != nil {
			if denied := (*Denied)(nil); errors.As(err, &denied) {
				return nil, 0, err
			}
			return unavailable(err)
		}
		id.Anonymous = id.Anonymous || q.Authorization == "" && q.Cookie == "" && id.Subject == ""
		// What is left is read, so that the connection can be used again; if not, it cannot.
		_, _ = io.CopyN(io.Discard, resp.Body, maxBody)
		return id, min(a.cfg.CacheTTL, freshness(resp.Header, a.now())), nil
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		denied, err := refusal(resp)
		if err != nil {
			return unavailable(err)
		}
		return nil, 0, denied
	case s >= 300 && s <= 399:
		return unavailable(fmt.Errorf("it answered %s; redirects are not followed, so name the place itself", resp.Status))
	}
	return unavailable(fmt.Errorf("it answered %s; need 2xx, 401 or 403", resp.Status))
}

// request is the question as HTTP: the convention of nginx' auth_request, Traefik's
// ForwardAuth and Caddy's forward_auth.
func (a *api) request(ctx context.Context, q *Question) (*http.Request, error) {
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, a.cfg.URL, nil)
	if err != nil {
		return nil, err
	}
	h := rq.Header
	for name, values := range q.Header {
		h[name] = values
	}
	if h.Get("User-Agent") == "" {
		h.Set("User-Agent", "spillway")
	}
	for name, value := range map[string]string{
		"Authorization":      q.Authorization,
		"Cookie":             q.Cookie,
		"X-Forwarded-Method": q.Method,
		"X-Forwarded-Proto":  q.Proto,
		"X-Forwarded-Host":   q.Host,
		"X-Forwarded-Uri":    q.URI,
		"X-Forwarded-For":    q.IP,
	} {
		if value != "" {
			h.Set(name, value)
		}
	}
	return rq, nil
}

// read reads what an answer that lets in grants. The error is a *Denied where
// that is over already.
func (a *api) read(h http.Header) (*Identity, error) {
	id := &Identity{Topics: Everything()}
	one := func(name string) (string, bool, error) {
		values := h.Values(name)
		if len(values) > 1 {
			return "", false, fmt.Errorf("%s is there %d times", name, len(values))
		}
		return strings.TrimSpace(h.Get(name)), len(values) == 1, nil
	}
	var errs []error
	if fields, ok := h[http.CanonicalHeaderKey(a.cfg.TopicsHeader)]; ok {
		p, broken, err := newPatterns(splitPatterns(fields))
		if err == nil && broken > 0 {
			err = fmt.Errorf("%d of the patterns are no regular expressions", broken)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.cfg.TopicsHeader, err))
		}
		id.Topics = p
	}
	switch text, ok, err := one(a.cfg.ClaimsHeader); {
	case err != nil:
		errs = append(errs, err)
	case ok && text != "":
		if err := id.Claims.UnmarshalJSON([]byte(text)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", a.cfg.ClaimsHeader, err))
		}
	}
	switch text, ok, err := one(a.cfg.SubjectHeader); {
	case err != nil:
		errs = append(errs, err)
	case ok && len(text) > maxSubjectBytes:
		errs = append(errs, fmt.Errorf("%s: %d bytes; at most %d are allowed", a.cfg.SubjectHeader, len(text), maxSubjectBytes))
	default:
		id.Subject, id.Anonymous = text, ok && text == ""
	}
	switch text, ok, err := one(a.cfg.ExpiresHeader); {
	case err != nil:
		errs = append(errs, err)
	case ok && text != "":
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds < 0 {
			errs = append(errs, fmt.Errorf("%s: %q is no time in whole seconds since 1970", a.cfg.ExpiresHeader, text))
			break
		}
		id.Expires = time.Unix(min(seconds, lastExpiry.Unix()), 0).UTC()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if !id.Expires.IsZero() && !id.Expires.After(a.now()) {
		return nil, invalid(reasonExpired)
	}
	return id, nil
}

// passedOn are the fields of a refusal that the client gets. Nothing in them
// sends it elsewhere, or sets anything.
var passedOn = []string{"Www-Authenticate", "Content-Type", "Content-Language", "Retry-After"}

// refusal is a 401 or 403 as the client gets it. The error is one of reading it.
func refusal(resp *http.Response) (*Denied, error) {
	d := &Denied{Status: resp.StatusCode, Header: make(http.Header), Reason: "AUTH_URL answered " + resp.Status}
	for _, name := range passedOn {
		if values, ok := resp.Header[name]; ok {
			d.Header[name] = values
		}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if coding := resp.Header.Get("Content-Encoding"); len(body) > 0 && len(body) <= maxBody && (coding == "" || strings.EqualFold(coding, "identity")) {
		d.Body = body
		d.Header.Set("X-Content-Type-Options", "nosniff")
		if d.Header.Get("Content-Type") == "" { // nobody is to guess that it is a page
			d.Header.Set("Content-Type", "text/plain; charset=utf-8")
		}
	} else {
		d.Header.Del("Content-Type")
		d.Header.Del("Content-Language")
	}
	return d, nil
}

// freshness is how long an answer says that it may be kept, or very long. What
// cannot be read says that it may not.
func freshness(h http.Header, now time.Time) time.Duration {
	const long = 365 * 24 * time.Hour
	fresh, said := long, false
	for directive := range strings.SplitSeq(strings.Join(h["Cache-Control"], ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-store", "no-cache":
			return 0
		case "max-age", "s-maxage":
			seconds, err := strconv.ParseInt(strings.Trim(strings.TrimSpace(value), `"`), 10, 32)
			if err != nil || seconds <= 0 {
				return 0
			}
			fresh, said = min(fresh, time.Duration(seconds)*time.Second), true
		}
	}
	if strings.TrimSpace(h.Get("Vary")) == "*" {
		return 0
	}
	if text := h.Get("Expires"); !said && text != "" {
		at, err := http.ParseTime(text)
		if err != nil {
			return 0
		}
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		fresh, said = min(fresh, at.Sub(now)), true
	}
	if text := h.Get("Age"); said && text != "" {
		age, err := strconv.ParseInt(text, 10, 32)
		if err != nil || age < 0 {
			return 0
		}
		fresh -= time.Duration(age) * time.Second
	}
	return max(0, fresh)
}
