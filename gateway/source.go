package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"spillway/gateway/fanout"
	"spillway/gateway/route"
	"spillway/gateway/upstream"
	"spillway/grip"
)

// A page is what an origin answered: the first response to a client, or what a
// next link led to.
type page struct {
	status int
	reason string        // phrase of the status; empty: the standard one
	ins    grip.Instruct // Header and Body are for the client

	// rest is what of the body was not read yet, after ins.Body; nil when that
	// is all. Who takes the page closes it.
	rest io.ReadCloser

	// told is who reads by the page, and refused who may not, as the origin in this
	// process says it; nil: nobody.
	told, refused *told

	// marks are where in the logs the page's first hold begins, of an answer that
	// came before now; nil: where they end.
	marks []fanout.Want
}

func (p *page) close() {
	if p != nil && p.rest != nil {
		p.rest.Close()
	}
}

// A source is an origin, as a held stream needs it.
type source interface {
	// next follows a link. It belongs to one goroutine at a time. An error
	// means that there is no page to go on with; the answer may be there all
	// the same.
	next(ctx context.Context, link *grip.Link, lasts []grip.Last) (*page, error)

	// local reports whether the origin is in this process: its channels are
	// open ones, and the rules that go beyond GRIP hold.
	local() bool

	// prefix stands before the names of channels where items are published,
	// and not where the origin says them (a route's prefix=).
	prefix() string
}

// localSource is the origin in this process. Its links carry all that it needs
// to know, so that every stream has the same source.
type localSource struct{ g *Gateway }

func (localSource) local() bool    { return true }
func (localSource) prefix() string { return "" }

func (s localSource) next(ctx context.Context, link *grip.Link, lasts []grip.Last) (*page, error) {
	r, err := http.NewRequestWithContext(grip.WithLink(ctx), http.MethodGet, link.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("next link: %w", err)
	}
	if !strings.HasPrefix(link.URL, "/") {
		return nil, fmt.Errorf("next link: %q of the built-in origin does not begin with /", link.URL)
	}
	r.RequestURI = link.URL
	grip.AppendLast(r.Header, lasts...)
	p, err := s.g.call(r)
	if err == nil && (p.status < 200 || p.status > 299) {
		err = fmt.Errorf("next link: status %d", p.status)
	}
	return p, err
}

// A linkless is an HTTP origin whose subscriptions have no next link: that of a
// WebSocket.
type linkless struct {
	base  *url.URL
	route *route.Route
}

func (linkless) local() bool      { return false }
func (l linkless) prefix() string { return l.route.Prefix }

func (linkless) next(context.Context, *grip.Link, []grip.Last) (*page, error) {
	return nil, errors.New("next link: on the WebSocket of an HTTP origin there is none")
}

// call asks the origin in this process. It returns early when the request's
// context ends only if the origin does.
func (g *Gateway) call(r *http.Request) (*page, error) {
	rec := &recorder{header: make(http.Header)}
	if err := g.record(rec, r); err != nil {
		return nil, err
	}
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	if rec.head == nil {
		rec.head = rec.header
	}
	p := &page{status: rec.status}
	p.told, p.refused = g.takeTold(rec.status, rec.head)
	if !grip.IsInstruct(rec.head) {
		p.ins = grip.Instruct{Header: rec.head, Body: rec.body.Bytes()}
		return p, nil
	}
	var err error
	if p.ins, err = grip.ParseInstruct(rec.status, rec.head, rec.body.Bytes()); err != nil {
		return nil, fmt.Errorf("instructions of the built-in origin: %w", err)
	}
	return p, nil
}

// record runs the origin's handler. A panic is the answer to one request, and
// not the end of the process: it may run on a goroutine of ours.
func (g *Gateway) record(rec *recorder, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != any(http.ErrAbortHandler) { // a panic's value is compared as net/http does
				g.log.Error("the built-in origin panicked", "panic", p, "stack", string(debug.Stack()))
			}
			err = fmt.Errorf("built-in origin: panic: %v", p)
		}
	}()
	g.origin.ServeHTTP(rec, r)
	return nil
}

// A recorder is a response that stays here.
type recorder struct {
	header http.Header
	head   http.Header // as it was when the status was written
	status int
	body   bytes.Buffer
}

func (rec *recorder) Header() http.Header { return rec.header }

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 && status >= 200 {
		rec.status, rec.head = status, rec.header.Clone()
	}
}

func (rec *recorder) Write(p []byte) (int, error) {
	rec.WriteHeader(http.StatusOK)
	return rec.body.Write(p)
}

// httpSource is an HTTP origin, following links from one request.
type httpSource struct {
	g     *Gateway
	base  *url.URL     // of the newest page
	route *route.Route // by which it came; nil: directly
	named string       // prefix of the first response's route
	first *route.Route // of it
	subs  []string     // channels that all of its holds are subscribed to
}

func (s *httpSource) local() bool    { return false }
func (s *httpSource) prefix() string { return s.named }

func (s *httpSource) implied() []string { return s.subs }

// retries are the waits before a link is asked again, plus up to a second
// (GRIP reference, 7.2).
var retries = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}

func (s *httpSource) next(ctx context.Context, link *grip.Link, lasts []grip.Last) (*page, error) {
	for attempt := 0; ; attempt++ {
		p, err := s.ask(ctx, link, lasts)
		if err == nil {
			return p, nil
		}
		if attempt == len(retries) || ctx.Err() != nil || errors.Is(err, upstream.ErrForeignLink) {
			return nil, err
		}
		if !pause(ctx, retries[attempt]+rand.N(time.Second)) {
			return nil, context.Cause(ctx)
		}
	}
}

func (s *httpSource) ask(ctx context.Context, link *grip.Link, lasts []grip.Last) (*page, error) {
	base, rt, err := upstream.Resolve(link.URL, s.base, s.route)
	if err != nil {
		return nil, err
	}
	a, err := s.askLink(ctx, link.URL, base, rt, lasts)
	if err != nil {
		return nil, fmt.Errorf("next link: %w", err)
	}
	resp := a.Response
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		resp.Body.Close()
		return nil, fmt.Errorf("next link: status %d", resp.StatusCode)
	}
	p, err := readPage(resp, true)
	if err != nil {
		return nil, fmt.Errorf("next link: %w", err)
	}
	if err := s.g.listen(ctx, s.first, wants(&p.ins, s)); err != nil {
		p.close()
		return nil, fmt.Errorf("next link: %w", err)
	}
	s.base, s.route = base, rt
	return p, nil
}

// listen says which channels an HTTP origin is about to subscribe a client to, to
// who may have something for them. Origins of other routes than those below
// EVENTS_PATH have channels of their own only.
func (g *Gateway) listen(ctx context.Context, rt *route.Route, attach []fanout.Want) error {
	below := rt.PathBeg != "" && g.isEvents(rt.PathBeg)
	for i := range attach {
		var err error
		switch channel := attach[i].Channel; {
		case below && g.cfg.Listen != nil:
			err = g.cfg.Listen(ctx, channel)
		case !below && g.cfg.Owns != nil && g.cfg.Owns(channel):
			err = fmt.Errorf("it has the records of a topic, and clients are held on those only by a route whose path_beg is %s or lies below it", g.eventsPath)
		}
		if err != nil {
			return fmt.Errorf("channel %q: %w", attach[i].Channel, err)
		}
	}
	return nil
}

// readPage makes a page of an HTTP origin's response. With wait it waits for the
// body's first bytes: what fails before them can be asked for again. A body that
// is part of the instructions is read to its end.
func readPage(resp *http.Response, wait bool) (*page, error) {
	p := &page{status: resp.StatusCode, reason: reasonOf(resp), rest: resp.Body}
	if !grip.IsInstruct(resp.Header) {
		p.ins.Header = resp.Header
		return p, nil
	}
	var buf []byte
	var err error
	document := isDocument(resp.Header)
	whole := document
	if !document {
		if p.ins, err = grip.ParseInstruct(resp.StatusCode, resp.Header, nil); err != nil {
			resp.Body.Close()
			return nil, &badInstructions{err}
		}
		endWithoutLink(&p.ins)
		// A response that is complete in itself is, too, but for the last page
		// of many.
		whole = p.ins.Hold == grip.HoldResponse || (p.ins.Hold == grip.HoldNone && p.ins.Next == nil || buildsID(&p.ins)) && !wait
	}
	if whole || wait {
		if buf, err = readStart(resp.Body, whole); err != nil && !errors.Is(err, io.EOF) {
			resp.Body.Close()
			if errors.Is(err, errLargeBody) {
				return nil, &tooLargePage{upstream.TargetOf(resp).Addr}
			}
			return nil, err
		}
	}
	p.ins.Body = buf
	if document {
		if p.ins, err = grip.ParseInstruct(resp.StatusCode, resp.Header, buf); err != nil {
			resp.Body.Close()
			return nil, &badInstructions{err}
		}
		endWithoutLink(&p.ins)
	}
	if whole {
		resp.Body.Close()
		p.rest = nil
	}
	if err := p.build(); err != nil {
		p.close()
		return nil, &badInstructions{err}
	}
	return p, nil
}

// endWithoutLink makes a response of a stream that cannot be reliable, since there
// is no link to ask for what it misses (GRIP reference, 4.1).
func endWithoutLink(ins *grip.Instruct) {
	if ins.Hold == grip.HoldStream && ins.Next == nil && hasPrevID(ins.Channels) {
		ins.Hold = grip.HoldNone
	}
}

// badInstructions are those of an origin that are not understood.
type badInstructions struct{ err error }

func (b *badInstructions) Error() string { return "instructions: " + b.err.Error() }
func (b *badInstructions) Unwrap() error { return b.err }

// A tooLargePage is a response whose body is part of the instructions, and too
// large for that.
type tooLargePage struct{ target string }

func (l *tooLargePage) Error() string {
	return fmt.Sprintf("response of %s: a body with these instructions must not exceed %d bytes", l.target, grip.MaxHoldBody)
}

var errLargeBody = errors.New("too large")

// readStart reads the first bytes of a body, or all of it; io.EOF says that
// there is no more.
func readStart(body io.Reader, whole bool) ([]byte, error) {
	if !whole {
		buf := make([]byte, 4<<10)
		for {
			n, err := body.Read(buf)
			if n > 0 || err != nil {
				return buf[:n], err
			}
		}
	}
	buf, err := io.ReadAll(io.LimitReader(body, grip.MaxHoldBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(buf) > grip.MaxHoldBody:
		return nil, errLargeBody
	}
	return buf, io.EOF
}

func isDocument(h http.Header) bool {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(media), grip.ContentTypeInstruct)
}
