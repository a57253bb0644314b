// Package cache keeps answers of HTTP origins and gives them to many clients: a
// shared cache as RFC 9111 has it, that also knows GRIP holds. A hold is kept as
// the origin answered it, instructions and first body, and each client that gets
// it is subscribed as if the origin had answered that client.
//
// What may be kept, and for how long, is decided by pure functions (rules.go).
// The cache asks the origin through its callers, once for all who want the same
// answer at the same time (flight.go), and has no connections of its own.
//
// A hold must not be older than what was published on its channels: nobody
// would get what came after the origin answered, and before the client
// subscribed. So a publication makes the answers that hold its channel stale
// (news.go), unless they are streams that say with prev-id what they contain, and
// the channel's log still has all that follows.
//
// Start at Cache.Serve.
package cache

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// Logs are the channels' logs, in the engine. Its methods are those of
// [fanout.Engine].
type Logs interface {
	Marks(wants []fanout.Want, openOnly bool)
	Known(wants []fanout.Want) bool
	IsOpen(channel string) bool
}

// Config is what a Cache is made with.
type Config struct {
	MaxBytes  int64 // of all answers, kept or on their way
	MaxAnswer int64 // of one answer; larger ones are passed on, and not kept

	// PublishInterval is the least time between two requests for one answer that
	// publications have made stale. Who asks meanwhile waits.
	PublishInterval time.Duration

	Logs Logs

	// Spawn runs what asks an origin, under Base: it outlives the request that it
	// was begun for, since others may wait for the answer, too.
	Spawn func(func())
	Base  context.Context
}

// A Cache keeps answers. All methods are safe for concurrent use.
type Cache struct {
	cfg     Config
	metrics *metrics
	news    news
	now     func() time.Time
	order   atomic.Uint64 // of arrivals of requests, and of requests to origins

	mu      sync.Mutex
	bytes   int64                 // of records and of answers on their way; guarded by mu
	records map[string]*record    // by URL; guarded by mu
	lru     list.List             // of *record, the one last used in front; guarded by mu
	flights map[flightKey]*flight // guarded by mu
}

// New makes a Cache. reg may be nil.
func New(cfg Config, reg prometheus.Registerer) *Cache {
	c := &Cache{
		cfg:     cfg,
		now:     time.Now,
		records: make(map[string]*record),
		flights: make(map[flightKey]*flight),
	}
	c.news.seed = maphash.MakeSeed()
	c.metrics = newMetrics(c, reg)
	return c
}

// A Request is a GET or HEAD of a client, or what a next link leads to.
type Request struct {
	URL    string      // as [URL] makes it
	Header http.Header // of the client; nil for a link
	Head   bool
	Link   bool
	Lasts  []grip.Last // Grip-Last

	Route  any    // answers are used only for the route that they came by
	Plain  bool   // the route is a plain proxy: nothing is interpreted
	Prefix string // of the route's channels

	// Implied are channels, without a prefix, that a hold is subscribed to besides
	// those that it names. It may be nil.
	Implied func(*http.Response) []string

	// Ask makes the request without the client's conditions, and with these
	// instead; Pass makes it as the client did. The caller closes the body.
	Ask  func(ctx context.Context, conditions http.Header) (*http.Response, error)
	Pass func(ctx context.Context) (*http.Response, error)
}

// URL is the name of what a request asks for: the scheme, the host without the
// scheme's own port, and path and query as they stand on the wire.
func URL(scheme, host, pathAndQuery string) string {
	host = strings.ToLower(host)
	if h, port, err := net.SplitHostPort(host); err == nil && port == map[string]string{"http": "80", "https": "443"}[scheme] {
		host = h
		if strings.Contains(h, ":") {
			host = "[" + h + "]"
		}
	}
	if !strings.HasPrefix(pathAndQuery, "/") {
		pathAndQuery = "/" + pathAndQuery
	}
	return scheme + "://" + host + pathAndQuery
}

// ParseURL reads an absolute URL, as an operator writes it, into what [URL]
// makes of requests for it.
func ParseURL(s string) (string, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	host, path := rest, "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	if !ok || scheme != "http" && scheme != "https" || host == "" || strings.ContainsAny(host, "@ ") {
		return "", fmt.Errorf("%q is not a URL; write http://HOST/PATH?QUERY, or https://", s)
	}
	path, _, _ = strings.Cut(path, "#")
	return URL(scheme, host, path), nil
}

// An Answer is what a client gets. Response is of its own; the body is shared.
type Answer struct {
	*http.Response

	// Attach is where in the channels' logs a hold begins; nil: where they end
	// when the client has the head.
	Attach []fanout.Want

	Implied []string // as Request.Implied says of the origin's response
}

// An answer is one that is kept. Its fields do not change, but those of the
// record's lock.
type answer struct {
	status int
	header http.Header
	body   []byte
	policy policy
	route  any
	asked  time.Time
	came   time.Time
	age    time.Duration // when it came

	grip   bool // there are instructions in it
	linked bool // whoever holds it learns what is missing after its prev-ids
	wants  []fanout.Want
	more   []string // the implied ones among them
	since  uint64   // news that are older are in it

	failedAt time.Time // when the origin last could not renew it; guarded by Cache.mu
	reported bool      // counted as purged by a publication; guarded by Cache.mu
}

func (a *answer) ageAt(now time.Time) time.Duration { return a.age + max(now.Sub(a.came), 0) }

// left is how long a is still fresh.
func (a *answer) left(now time.Time) time.Duration { return a.policy.fresh - a.ageAt(now) }

// A record is all answers of one URL.
type record struct {
	url     string
	place   *list.Element
	bytes   int64
	vary    []string           // request fields that the answers depend on
	answers map[string]*answer // by variant
	alone   map[string]time.Time
}

const (
	// aloneFor is how long requests do not wait for one another after an answer
	// that was for one client.
	aloneFor = 10 * time.Second

	// restAfterError is the least time between two requests for an answer that is
	// used stale because its origin has failed.
	restAfterError = time.Second

	maxVariants = 64  // of one URL
	maxRounds   = 4   // of waiting for an answer
	overhead    = 512 // of an answer, and of a record, in bytes
)

// variantOf is the name of the request among those for the same URL.
func (rec *record) variantOf(rq *Request) string {
	var b strings.Builder
	if rq.Link {
		b.WriteString("link\n")
	}
	for _, l := range rq.Lasts {
		b.WriteString(strconv.Quote(l.Channel) + "=" + strconv.Quote(l.ID) + "\n")
	}
	if rec != nil {
		b.WriteString(variant(rec.vary, rq.Header))
	}
	return b.String()
}

// find returns what is kept for a request; alone says that it is known not to
// be for others.
func (c *Cache) find(rq *Request) (a *answer, failedAt time.Time, alone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.records[rq.URL]
	if rec == nil {
		return nil, time.Time{}, false
	}
	c.lru.MoveToFront(rec.place)
	key := rec.variantOf(rq)
	if a = rec.answers[key]; a != nil && a.route == rq.Route {
		return a, a.failedAt, false
	}
	until, ok := rec.alone[key]
	return nil, time.Time{}, ok && c.now().Before(until)
}

// credentials reports whether the answer may be for this client only.
func (rq *Request) credentials() bool {
	return len(rq.Header["Authorization"]) > 0 || len(rq.Header["Cookie"]) > 0
}

// conditional reports whether the client has an answer, and asks for another.
func (rq *Request) conditional() bool {
	return len(rq.Header["If-None-Match"]) > 0 || len(rq.Header["If-Modified-Since"]) > 0
}

// special reports whether a request is for something that is never kept: a part,
// or an answer under conditions that only the origin can check.
func (rq *Request) special() bool {
	for _, name := range []string{"Range", "If-Range", "If-Match", "If-Unmodified-Since"} {
		if len(rq.Header[name]) > 0 {
			return true
		}
	}
	return slices.ContainsFunc(rq.Header["Cache-Control"], func(v string) bool { return parseDirectives([]string{v}).noStore })
}

// Serve answers a request: with what is kept, or together with others who want
// the same, or by the origin.
func (c *Cache) Serve(ctx context.Context, rq *Request) (*Answer, error) {
	if rq.special() {
		return c.alone(ctx, rq, "bypass")
	}
	arrived := c.order.Add(1)
	var known *answer // the newest answer we have seen
	for range maxRounds {
		a, failedAt, alone := c.find(rq)
		switch {
		case alone,
			a != nil && rq.credentials() && !a.policy.open,
			a != nil && rq.conditional() && a.grip: // what to hold may depend on the condition
			return c.alone(ctx, rq, "bypass")
		}
		why := "uri-miss"
		if a != nil {
			known, why = a, "stale"
			if out := c.stored(rq, a, failedAt); out != nil {
				return out, nil
			}
		}
		if onlyIfCached(rq.Header) {
			c.metrics.count(resultMiss)
			return gatewayTimeout(), nil
		}
		if rq.credentials() && rq.conditional() {
			return c.alone(ctx, rq, why)
		}
		if rq.credentials() { // these wait for nobody, and nobody for them
			return c.landed(ctx, rq, c.takeOff(rq, known), true, why)
		}
		f, leads := c.join(rq, known)
		if f == nil {
			continue
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			if leads {
				f.leave()
			}
			return nil, context.Cause(ctx)
		}
		if leads || f.err != nil {
			return c.landed(ctx, rq, f, leads, why)
		}
		if f.kept == nil {
			return c.alone(ctx, rq, "request")
		}
		if variant(f.vary, rq.Header) != f.variant {
			known = nil
			continue
		}
		if known = f.kept; known.grip && rq.conditional() {
			return c.alone(ctx, rq, "bypass")
		}
		if out := c.shared(rq, f, f.begun > arrived); out != nil {
			return out, nil
		}
	}
	return c.alone(ctx, rq, "request")
}

// stored answers with what is kept, if that may be used now; what is stale, and
// may be used, is asked for anew meanwhile.
func (c *Cache) stored(rq *Request, a *answer, failedAt time.Time) *Answer {
	now := c.now()
	at, current := c.attach(a)
	if !current {
		c.report(a)
	}
	left := a.left(now)
	switch {
	case current && left > 0:
		c.metrics.count(resultHit)
		return c.answer(rq, a, at, "hit; ttl="+seconds(left))
	case current && left+a.policy.staleWhile > 0:
		c.renew(rq, a)
	case !failedAt.IsZero() && left+a.policy.staleIfError > 0:
		if now.Sub(failedAt) > restAfterError {
			c.renew(rq, a)
		}
	default:
		return nil
	}
	c.metrics.count(resultStale)
	return c.answer(rq, a, at, "hit; ttl="+seconds(left))
}

// shared answers with what a flight brought that another began. It returns nil
// if the origin was asked before the request came (so that it is not new), and
// that may matter.
func (c *Cache) shared(rq *Request, f *flight, isNew bool) *Answer {
	a := f.kept
	at, current := c.attach(a)
	switch {
	case isNew && !current:
		at = f.attach(at)
	case isNew:
	case !current, a.policy.fresh == 0 && (!f.once || len(a.wants) == 0):
		return nil
	}
	c.metrics.count(resultWait)
	return c.answer(rq, a, at, "fwd="+f.why+"; fwd-status="+strconv.Itoa(a.status)+"; collapsed")
}

// landed answers the one who began a flight, and everybody if it has failed.
func (c *Cache) landed(ctx context.Context, rq *Request, f *flight, leads bool, why string) (*Answer, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		f.leave()
		return nil, context.Cause(ctx)
	}
	if !leads {
		c.metrics.count(resultWait)
	} else {
		c.metrics.count(resultMiss)
	}
	switch {
	case f.err != nil:
		return nil, f.err
	case f.kept == nil:
		return c.personally(ctx, rq, f, why)
	case f.kept.grip && rq.conditional():
		return c.alone(ctx, rq, "bypass")
	}
	at, current := c.attach(f.kept)
	if !current {
		at = f.attach(at)
	}
	if f.stale {
		c.metrics.count(resultStale)
		return c.answer(rq, f.kept, at, "hit; ttl="+seconds(f.kept.left(c.now()))+"; detail=origin-failed"), nil
	}
	how := "fwd=" + why + "; fwd-status=" + strconv.Itoa(f.status)
	if !f.once {
		how += "; stored"
	}
	return c.answer(rq, f.kept, at, how), nil
}

// personally gives an answer that is not kept to the one whose request brought it.
func (c *Cache) personally(ctx context.Context, rq *Request, f *flight, why string) (*Answer, error) {
	resp := f.own
	stop := context.AfterFunc(ctx, f.cancel)
	resp.Body = &closer{resp.Body, func() { stop() }}
	if rq.conditional() && !f.passed {
		if grip.IsInstruct(resp.Header) && !rq.Plain {
			resp.Body.Close()
			return c.alone(ctx, rq, "bypass")
		}
		if resp.StatusCode == http.StatusOK && notModified(rq.Header, resp.Header) {
			resp.Body.Close()
			resp = respond(http.StatusNotModified, onNotModified(resp.Header), nil).Response
		}
	}
	status(resp.Header, "fwd="+why+"; fwd-status="+strconv.Itoa(resp.StatusCode))
	return &Answer{Response: resp, Implied: rq.implied(f.own)}, nil
}

func (rq *Request) implied(resp *http.Response) []string {
	if rq.Implied == nil {
		return nil
	}
	return rq.Implied(resp)
}

// alone has the origin answer the client itself.
func (c *Cache) alone(ctx context.Context, rq *Request, why string) (*Answer, error) {
	c.metrics.count(resultPass)
	resp, err := rq.Pass(ctx) //nolint:bodyclose // the caller of Serve does
	if err != nil {
		return nil, err
	}
	status(resp.Header, "fwd="+why+"; fwd-status="+strconv.Itoa(resp.StatusCode))
	return &Answer{Response: resp, Implied: rq.implied(resp)}, nil
}

// answer makes a response of what is kept.
func (c *Cache) answer(rq *Request, a *answer, at []fanout.Want, how string) *Answer {
	h := make(http.Header, len(a.header)+2)
	for name, values := range a.header {
		h[name] = values // nobody changes them; who adds to them gets others
	}
	h["Age"] = []string{seconds(a.ageAt(c.now()))}
	status(h, how)
	if rq.conditional() && a.status == http.StatusOK && notModified(rq.Header, a.header) {
		return respond(http.StatusNotModified, onNotModified(h), nil)
	}
	out := respond(a.status, h, a.body)
	out.Attach, out.Implied = at, a.more
	return out
}

func respond(status int, h http.Header, body []byte) *Answer {
	return &Answer{Response: &http.Response{
		StatusCode: status, Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}}
}

func gatewayTimeout() *Answer { // RFC 9111, 5.2.1.7
	h := http.Header{"Content-Type": {"text/plain"}}
	status(h, "fwd=uri-miss; detail=only-if-cached")
	return respond(http.StatusGatewayTimeout, h, []byte("Not in the cache.\n"))
}

func onlyIfCached(h http.Header) bool {
	for _, v := range h["Cache-Control"] {
		for v != "" {
			var name string
			if name, _, v = cutDirective(v); strings.EqualFold(name, "only-if-cached") {
				return true
			}
		}
	}
	return false
}

// status says in Cache-Status how a request was handled (RFC 9211).
func status(h http.Header, how string) {
	h["Cache-Status"] = append(slices.Clip(h["Cache-Status"]), "spillway; "+how)
}

func seconds(d time.Duration) string {
	return strconv.FormatInt(int64(d.Truncate(time.Second)/time.Second), 10)
}

// attach returns where a hold of a begins now, so that nothing is missed from
// now on. It reports false when something may have been missed already.
func (c *Cache) attach(a *answer) (at []fanout.Want, current bool) {
	if len(a.wants) == 0 {
		return nil, true
	}
	at = slices.Clone(a.wants)
	c.cfg.Logs.Marks(at, false) // and only then:
	if c.news.all.Load() > a.since {
		return at, false
	}
	for _, w := range at {
		if c.news.since(w.Channel, a.since) {
			return at, a.linked && c.cfg.Logs.Known(a.wants)
		}
	}
	return at, true
}

// report counts an answer that publications have made stale, once.
func (c *Cache) report(a *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !a.reported {
		a.reported = true
		c.metrics.purged[purgedByPublish].Inc()
	}
}

// Published tells the cache, before they are delivered, that there are items.
func (c *Cache) Published(items []grip.Item) {
	for i := range items {
		c.news.note(items[i].Channel)
	}
}

// Recovered tells the cache that publications may have been missed: logs do not
// have all that came since, either.
func (c *Cache) Recovered() { c.news.noteAll() }

// Purge drops all answers of a URL, and returns how many. What origins are asked
// for at this moment is given to those who wait for it, and not kept.
func (c *Cache) Purge(url string) int { return c.purge(url, purgedByRequest) }

// Changed drops all answers of a URL, since a request that is not safe was
// answered there without an error (RFC 9111, 4.4).
func (c *Cache) Changed(url string) { c.purge(url, purgedByMethod) }

func (c *Cache) purge(url string, by purgeReason) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, f := range c.flights {
		if key.url == url {
			f.dropped = true
			delete(c.flights, key)
		}
	}
	if rec := c.records[url]; rec != nil {
		n = len(rec.answers)
		c.remove(rec)
	}
	c.metrics.purged[by].Add(float64(n))
	return n
}

// remove forgets a record. The caller holds mu.
func (c *Cache) remove(rec *record) {
	c.bytes -= rec.bytes
	c.lru.Remove(rec.place)
	delete(c.records, rec.url)
}

// grow makes room for n bytes; it reports false when there is none. The caller
// holds mu.
func (c *Cache) grow(n int64) bool {
	for c.bytes+n > c.cfg.MaxBytes {
		last := c.lru.Back()
		if last == nil {
			return false
		}
		rec := last.Value.(*record)
		c.metrics.evicted.Add(float64(len(rec.answers)))
		c.remove(rec)
	}
	c.bytes += n
	return true
}

// record returns the record of a URL, made if need be, in front of the others;
// nil if there is no room for it. The caller holds mu.
func (c *Cache) record(url string) *record {
	if rec := c.records[url]; rec != nil {
		c.lru.MoveToFront(rec.place)
		return rec
	}
	own := overhead + int64(len(url))
	if !c.grow(own) {
		return nil
	}
	rec := &record{url: url, bytes: own, answers: make(map[string]*answer), alone: make(map[string]time.Time)}
	rec.place = c.lru.PushFront(rec)
	c.records[url] = rec
	return rec
}

// keep stores an answer that depends on these fields of the request.
func (c *Cache) keep(rq *Request, a *answer, vary []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.record(rq.URL)
	if rec == nil {
		return
	}
	all := slices.Concat(rec.vary, vary)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) > len(rec.vary) {
		for key := range rec.answers { // they are named by fewer fields
			c.drop(rec, key)
		}
		rec.vary = all
	}
	key := rec.variantOf(rq)
	c.drop(rec, key)
	delete(rec.alone, key)
	if len(rec.answers) >= maxVariants {
		oldest := key
		for other, b := range rec.answers {
			if oldest == key || b.came.Before(rec.answers[oldest].came) {
				oldest = other
			}
		}
		c.drop(rec, oldest)
		c.metrics.evicted.Inc()
	}
	size := a.size(key)
	if !c.grow(size) {
		return
	}
	if c.records[rq.URL] != rec { // all the others were not enough
		c.bytes -= size
		return
	}
	rec.bytes += size
	rec.answers[key] = a
}

// drop forgets one answer of a record, if there is one. The caller holds mu.
func (c *Cache) drop(rec *record, key string) {
	if a := rec.answers[key]; a != nil {
		size := a.size(key)
		rec.bytes -= size
		c.bytes -= size
		delete(rec.answers, key)
	}
}

// size is what an answer costs, in bytes.
func (a *answer) size(key string) int64 {
	n := overhead + len(key) + len(a.body)
	for name, values := range a.header {
		for _, v := range values {
			n += len(name) + len(v) + 32
		}
	}
	for _, w := range a.wants {
		n += len(w.Channel) + len(w.PrevID) + 64
	}
	return int64(n)
}

// leaveAlone remembers that what a request is for is not for others, so that
// they need not wait to learn it.
func (c *Cache) leaveAlone(rq *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.record(rq.URL)
	if rec == nil {
		return
	}
	key := rec.variantOf(rq)
	c.drop(rec, key)
	if len(rec.alone) >= maxVariants {
		clear(rec.alone)
	}
	rec.alone[key] = c.now().Add(aloneFor)
}
