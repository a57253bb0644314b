package cache

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// slowBody is how long the body of an answer may take until it is passed to the
// one who asked first as it comes, and the others ask for themselves.
const slowBody = time.Second

type flightKey struct {
	url, variant string
	route        any
}

// A flight is a request to an origin, and those who wait for its answer.
type flight struct {
	key  flightKey
	why  string // it was necessary, as Cache-Status says it
	done chan struct{}

	dropped bool // a purge came: the answer is not kept; guarded by Cache.mu

	begun uint64        // when the origin was asked, among the arrivals of requests
	since uint64        // news before it
	marks []fanout.Want // where logs ended before it, of channels that are known

	// What it brought, set before done is closed.
	kept    *answer // for all who wait; nil: not for others
	once    bool    // for them alone, and not for who comes later
	vary    []string
	variant string // of the one who asked, by vary
	status  int    // of the origin's answer; 0: none came
	err     error
	stale   bool // kept is what was there before, since the origin has failed
	passed  bool // it was the client's request as it stood

	cancel context.CancelFunc // ends the request

	mu   sync.Mutex
	own  *http.Response // for the one who asked, where nothing is kept; guarded by mu until done is closed
	left bool           // that one does not want it any more; guarded by mu
	over bool           // done is closed; guarded by mu
}

// leave says that nobody will take own.
func (f *flight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = true
	if f.over && f.own != nil {
		f.own.Body.Close()
	}
}

// land ends the flight, unless it has landed: nobody joins it any more, and who
// waits goes on. own may be nil.
func (c *Cache) land(f *flight, own *http.Response) {
	c.mu.Lock()
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
	c.mu.Unlock()

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	f.over, f.own = true, own
	if f.left && own != nil {
		own.Body.Close()
	}
	close(f.done)
}

// attach moves the beginning of a hold to where the logs ended when the origin
// was asked.
func (f *flight) attach(at []fanout.Want) []fanout.Want {
	for i := range at {
		for _, m := range f.marks {
			if m.Channel == at[i].Channel && !at[i].HasPrevID {
				at[i].Mark = m.Mark
			}
		}
	}
	return at
}

// join waits with others for the same, or begins a flight (leads). It returns nil
// when an answer has landed since the caller looked, and saw known.
func (c *Cache) join(rq *Request, known *answer) (f *flight, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.records[rq.URL]
	key := flightKey{rq.URL, rec.variantOf(rq), rq.Route}
	if f = c.flights[key]; f != nil {
		return f, false
	}
	if rec != nil {
		if a := rec.answers[key.variant]; a != nil && a != known && a.route == rq.Route {
			return nil, false
		}
	}
	f = c.newFlight(key, known)
	c.flights[key] = f
	c.cfg.Spawn(func() { c.fly(f, rq, known, rq.Ask) })
	return f, true
}

// renew begins a flight that nobody waits for, unless there is one.
func (c *Cache) renew(rq *Request, known *answer) {
	if !rq.credentials() {
		if f, leads := c.join(rq, known); leads {
			f.leave()
		}
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := flightKey{rq.URL, "own\n" + c.records[rq.URL].variantOf(rq), rq.Route} // nobody waits for it
	if c.flights[key] == nil {
		f := c.newFlight(key, known)
		f.left = true
		c.flights[key] = f
		c.own(f, rq, known)
	}
}

// takeOff begins a flight that nobody joins, with the client's own request.
func (c *Cache) takeOff(rq *Request, known *answer) *flight {
	f := c.newFlight(flightKey{url: rq.URL}, known)
	c.own(f, rq, known)
	return f
}

// own has f ask as the client does.
func (c *Cache) own(f *flight, rq *Request, known *answer) {
	f.passed = true
	c.cfg.Spawn(func() {
		c.fly(f, rq, known, func(ctx context.Context, _ http.Header) (*http.Response, error) { return rq.Pass(ctx) })
	})
}

func (c *Cache) newFlight(key flightKey, known *answer) *flight {
	f := &flight{key: key, why: "uri-miss", done: make(chan struct{})}
	if known != nil {
		f.why = "stale"
	}
	return f
}

// fly asks the origin. known is what was kept before, or nil.
func (c *Cache) fly(f *flight, rq *Request, known *answer, ask func(context.Context, http.Header) (*http.Response, error)) {
	ctx, cancel := context.WithCancel(c.cfg.Base)
	f.cancel = cancel
	if known != nil && len(known.wants) > 0 && !f.passed {
		pause(ctx, known.asked.Add(c.cfg.PublishInterval).Sub(c.now()))
	}
	c.begin(f, known)
	var conditions http.Header
	if known != nil && !known.grip && !f.passed && !rq.Link {
		conditions = validators(known.header)
	}
	asked := c.now()
	resp, err := ask(ctx, conditions)
	if err != nil {
		cancel()
		c.fail(f, known, err)
		c.land(f, nil)
		return
	}
	f.status = resp.StatusCode
	if failed(resp.StatusCode) && c.fail(f, known, nil) {
		resp.Body.Close()
		cancel()
		c.land(f, nil)
		return
	}
	resp.Body = &closer{resp.Body, cancel}
	a := &answer{status: resp.StatusCode, header: clean(resp.Header), route: rq.Route, asked: asked, came: c.now(), since: f.since}
	body := resp.Body
	if resp.StatusCode == http.StatusNotModified && len(conditions) > 0 {
		a.status, a.body, a.header = known.status, known.body, renewed(known.header, resp.Header)
		body = http.NoBody
	}
	a.age = initialAge(resp.Header, asked, a.came)
	if a.header["Date"] == nil { // RFC 9110, 6.6.1
		a.header["Date"] = []string{a.came.UTC().Format(http.TimeFormat)}
	}
	why := c.judge(f, rq, a, resp)
	if why != storable && !f.once {
		c.refuse(f, rq, a.status)
		if body == http.NoBody {
			resp.Body.Close()
			resp = again(a, resp)
		}
		c.land(f, resp)
		return
	}
	c.fill(f, rq, a, resp, body)
}

// begin notes what is in the answer of the origin, which is asked after it.
func (c *Cache) begin(f *flight, known *answer) {
	f.begun = c.order.Add(1)
	f.since = c.news.now()
	if known == nil {
		return
	}
	f.marks = slices.Clone(known.wants)
	for i := range f.marks {
		f.marks[i].HasPrevID, f.marks[i].Mark = false, 0
	}
	c.cfg.Logs.Marks(f.marks, false)
}

// fail is what happens when the origin gave no answer, or one that says that it
// has failed: what was kept may still be used (RFC 5861, 4), and it reports
// whether it is.
func (c *Cache) fail(f *flight, known *answer, err error) bool {
	now := c.now()
	if known != nil && known.policy.staleIfError > 0 && known.left(now)+known.policy.staleIfError > 0 {
		c.mu.Lock()
		known.failedAt = now
		c.mu.Unlock()
		f.kept, f.stale = known, true
		return true
	}
	f.err = err
	return false
}

// judge decides by the header whether an answer is kept.
func (c *Cache) judge(f *flight, rq *Request, a *answer, resp *http.Response) refusal {
	var why refusal
	a.policy, why = judge(a.status, a.header)
	f.vary, _ = varies(a.header)
	f.variant = variant(f.vary, rq.Header)
	a.grip = !rq.Plain && grip.IsInstruct(a.header)
	switch {
	case (rq.credentials() || len(rq.Lasts) > 0) && !a.policy.open && why == storable:
		why = personal
		if rq.Link {
			why = unnamedAge
		}
	case why == storable && a.grip && a.policy.fresh == 0 && a.policy.staleWhile == 0 && a.policy.staleIfError == 0:
		why = unnamedAge // holds are not validated: what to hold may depend on the condition
	case resp.ContentLength > c.cfg.MaxAnswer:
		return refused
	}
	// Requests by a link are equal to the byte, so that those that are made at
	// the same time may have one answer, unless it says no.
	f.once = why == unnamedAge && rq.Link && !parseDirectives(a.header["Cache-Control"]).noCache
	return why
}

// refuse remembers that an answer is not for others.
func (c *Cache) refuse(f *flight, rq *Request, status int) {
	c.mu.Lock()
	dropped := f.dropped
	c.mu.Unlock()
	if !dropped && !failed(status) && !f.passed {
		c.leaveAlone(rq)
	}
}

// fill reads the body, keeps the answer, and lands the flight.
func (c *Cache) fill(f *flight, rq *Request, a *answer, resp *http.Response, body io.ReadCloser) {
	t := &tap{reserve: c.reserve}
	defer c.release(t)
	divert := func() {
		if rest := t.divert(f.cancel); rest != nil {
			c.refuse(f, rq, a.status)
			own := *resp
			own.Body = rest
			c.land(f, &own)
		}
	}
	slow := time.AfterFunc(slowBody, divert)
	defer slow.Stop()
	err := t.fill(body, c.cfg.MaxAnswer, divert)
	whole := t.finish(err)
	resp.Body.Close()
	switch {
	case !whole: // it went to the one who asked
		return
	case err != nil:
		f.err = fmt.Errorf("body: %w", err)
		c.land(f, nil)
		return
	case body == http.NoBody: // a 304: the body is known
	default:
		a.body = t.buf
	}
	if a.more = rq.implied(resp); !c.interpret(rq, a) {
		f.once = false
		c.refuse(f, rq, a.status)
		c.land(f, again(a, resp)) //nolint:bodyclose // who asked does
		return
	}
	f.kept = a
	c.mu.Lock()
	dropped := f.dropped
	c.mu.Unlock()
	if !f.once && !dropped {
		c.release(t) // it is counted as kept from now on
		c.keep(rq, a, f.vary)
	}
	c.land(f, nil)
}

// again is an answer whose body was read, as if it came from the origin.
func again(a *answer, from *http.Response) *http.Response {
	resp := respond(a.status, a.header, a.body).Response
	resp.Request = from.Request
	return resp
}

// interpret reads from the instructions what an answer holds. It reports false
// when it cannot be given to others.
func (c *Cache) interpret(rq *Request, a *answer) bool {
	if !a.grip {
		return true
	}
	ins, err := grip.ParseInstruct(a.status, a.header, a.body)
	if err != nil || len(ins.Meta) > 0 {
		return false
	}
	if ins.Hold == grip.HoldNone {
		return true
	}
	for _, channel := range a.more {
		a.wants = append(a.wants, fanout.Want{Channel: channel})
	}
	// A long poll would be answered with the same item again and again.
	a.linked = len(a.more) == 0 && ins.Next != nil && ins.Hold == grip.HoldStream
	for _, s := range ins.Channels[:min(len(ins.Channels), grip.MaxChannels)] {
		w := fanout.Want{Channel: rq.Prefix + s.Channel, PrevID: s.PrevID, HasPrevID: s.HasPrevID}
		a.linked = a.linked && s.HasPrevID
		if rq.Link && !s.HasPrevID { // the stream that asked attaches where the log ends by then
			return false
		}
		a.wants = append(a.wants, w)
	}
	// What a publisher in this process appends is not announced here.
	return !slices.ContainsFunc(a.wants, func(w fanout.Want) bool { return c.cfg.Logs.IsOpen(w.Channel) })
}

// reserve counts n bytes of an answer on its way.
func (c *Cache) reserve(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.grow(n)
}

// release takes an answer that was on its way out of the accounts.
func (c *Cache) release(t *tap) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes -= t.reserved
	t.reserved = 0
}

// clean is an answer's header without what belongs to the connection.
func clean(from http.Header) http.Header {
	h := from.Clone()
	for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Proxy-Connection"} {
		delete(h, name)
	}
	return h
}

// A tap reads a body into memory, until what comes is diverted to one reader.
type tap struct {
	reserve  func(int64) bool
	reserved int64 // of the goroutine that fills

	mu      sync.Mutex
	buf     []byte         // guarded by mu until finish
	through *io.PipeWriter // not nil: what is read goes there; guarded by mu
	over    bool           // guarded by mu
}

// fill reads body to its end: into memory, and from the moment of divert to who
// has its reader. full is called, and must divert, when it does not fit.
func (t *tap) fill(body io.Reader, most int64, full func()) error {
	chunk := make([]byte, 16<<10)
	for {
		n, err := body.Read(chunk)
		if n > 0 && !t.add(chunk[:n], most) {
			full()
			t.mu.Lock()
			through := t.through
			t.mu.Unlock()
			if _, gone := through.Write(chunk[:n]); gone != nil {
				return gone
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// add puts p into memory; it reports false when it does not fit, or when the
// body is diverted already.
func (t *tap) add(p []byte, most int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := int64(len(p))
	if t.through != nil || int64(len(t.buf))+n > most || !t.reserve(n) {
		return false
	}
	t.reserved += n
	t.buf = append(t.buf, p...)
	return true
}

// divert returns all of the body, as it comes; closing it calls stop. It returns
// nil when the body is complete, or diverted already.
func (t *tap) divert(stop func()) io.ReadCloser {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.through != nil {
		return nil
	}
	rest, through := io.Pipe()
	t.through = through
	return &closer{struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(t.buf), rest), rest}, stop}
}

// finish ends what was diverted with err, or as it should where that is nil, and
// reports whether the body is in memory instead.
func (t *tap) finish(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.through == nil {
		return true
	}
	_ = t.through.CloseWithError(err)
	return false
}

// A closer does something more when it is closed.
type closer struct {
	io.ReadCloser
	also func()
}

func (c *closer) Close() error {
	err := c.ReadCloser.Close()
	c.also()
	return err
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
