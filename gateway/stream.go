package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// A sink is where a stream's bytes go: the body of a response, or the messages
// of a WebSocket. Its methods return when the bytes are in the socket, or held
// back until flush.
type sink interface {
	form() fanout.Form
	page(p *page) error // also closes it
	batch(b fanout.Batch) error
	flush() error
	keepAlive(k *grip.KeepAlive) error
}

// batchBytes is how much is written at once, in bytes.
const batchBytes = 64 << 10

// An ending is how a stream ended.
type ending struct {
	reason closeReason
	code   int    // of a WebSocket close; 0: the stream ends, not the socket
	text   string // of the same
	broken bool   // the client must see that the body is incomplete
	err    error  // for the log, where it is the origin's fault
}

// A follow is one stream: it carries out instructions, page after page, hold
// after hold. It runs on one goroutine.
type follow struct {
	g      *Gateway
	source source
	sink   sink

	// Whether the stream ends by age and by drain; where it does not, its owner
	// sees to that.
	endAt   time.Time       // zero: never
	drains  <-chan struct{} // nil: does not
	drained bool            // drains was seen; endAt is due to it

	// holding, where set, is told the channels of each hold, nil after it.
	holding func(channels []grip.Subscription)

	keep      *grip.KeepAlive // nil: none
	keepEvery time.Duration   // its timeout less the jitter, chosen anew each time
	lastSent  time.Time       // when something was written, for idle keep-alives

	fruitless int // links asked in a row, to attach, that brought nothing
}

// run carries out ins, whose body is written already, until the stream ends.
func (f *follow) run(ctx context.Context, ins *grip.Instruct) ending {
	f.lastSent = time.Now()
	for {
		var lasts []grip.Last
		why := askedForPage
		switch {
		case ins.Hold == grip.HoldStream:
			var end *ending
			f.setKeepAlive(ins.KeepAlive)
			if lasts, why, end = f.hold(ctx, ins); end != nil {
				return *end
			}
		case ins.Hold == grip.HoldResponse: // a page may not be one
			return ending{reason: closedOriginError, code: 1011, text: "internal error", err: errors.New("a page of a stream holds a response")}
		case ins.Next == nil:
			return ending{reason: closedByOrigin}
		}
		p, end := f.ask(ctx, ins.Next, lasts, why)
		if end != nil {
			return *end
		}
		ins = &p.ins
		if len(ins.Body) > 0 || p.rest != nil {
			f.fruitless = 0
		}
		if err := f.sink.page(p); err != nil {
			return f.lost(ctx, err)
		}
		f.lastSent = time.Now()
	}
}

// lost is the ending when the client could not be written to, or a page's body
// could not be read.
func (f *follow) lost(ctx context.Context, err error) ending {
	var broken *brokenPage
	if errors.As(err, &broken) {
		return ending{reason: closedOriginError, code: 1011, text: "internal error", broken: true, err: err}
	}
	return ending{reason: lostReason(ctx, err), broken: true}
}

// hold attaches the stream to the channels of ins and sends what comes, until
// the next link is to be asked (with which ids, and why) or the stream ends.
func (f *follow) hold(ctx context.Context, ins *grip.Instruct) ([]grip.Last, askReason, *ending) {
	if ins.Next == nil && !f.source.local() && hasPrevID(ins.Channels) {
		return nil, "", &ending{reason: closedByOrigin} // GRIP reference, 4.1
	}
	sub, ok := f.g.engine.Subscribe(f.sink.form(), wants(ins.Channels, f.source.prefix()), f.source.local())
	if !ok {
		if ins.Next == nil {
			return nil, "", &ending{reason: closedByOrigin}
		}
		return lastsOf(ins.Channels), askedForAttach, nil
	}
	defer sub.Close()
	if f.holding != nil {
		f.holding(ins.Channels)
		defer f.holding(nil)
	}
	t := f.newTimer(f.linkTimeout(ins.Next))
	defer t.Stop()
	for {
		b, status := sub.Next(batchBytes)
		switch status {
		case fanout.Ready:
			f.fruitless = 0
			if err := f.sink.batch(b); err != nil {
				end := f.lost(ctx, err)
				return nil, "", &end
			}
			f.lastSent = time.Now()
			t.quietSince = f.lastSent
			if end := t.over(f.lastSent); end != nil {
				_ = f.sink.flush()
				return nil, "", end
			}
			continue
		case fanout.Hint:
			if ins.Next != nil {
				return detach(sub, f.source.prefix()), askedForHint, f.flush(ctx)
			}
			continue
		case fanout.Behind, fanout.Closed:
			if ins.Next == nil {
				if status == fanout.Closed {
					return nil, "", &ending{reason: closedByOrigin}
				}
				return nil, "", &ending{reason: closedTooSlow, code: 1013, text: "too slow", broken: true}
			}
			why := askedForBehind
			if status == fanout.Closed {
				why = askedForClosed
			}
			return detach(sub, f.source.prefix()), why, f.flush(ctx)
		case fanout.End:
			if end := f.flush(ctx); end != nil {
				return nil, "", end
			}
			return nil, "", &ending{reason: closedByPublisher, code: max(b.Code, 1000), text: b.Reason}
		case fanout.Refresh:
			continue // means something only to an origin that is asked over HTTP
		}
		if end := f.flush(ctx); end != nil {
			return nil, "", end
		}
		select {
		case <-sub.Wake():
		case <-ctx.Done():
			return nil, "", &ending{reason: lostReason(ctx, nil), broken: true}
		case <-f.drains:
			f.beginDrain()
			t.arm()
		case <-t.C:
			link, end := t.fire(ctx)
			if end != nil {
				return nil, "", end
			}
			if link {
				return detach(sub, f.source.prefix()), askedForQuiet, nil
			}
		}
	}
}

func (f *follow) flush(ctx context.Context) *ending {
	if err := f.sink.flush(); err != nil {
		end := f.lost(ctx, err)
		return &end
	}
	return nil
}

// ask follows a link. Meanwhile keep-alives go on.
func (f *follow) ask(ctx context.Context, link *grip.Link, lasts []grip.Last, why askReason) (*page, *ending) {
	f.g.metrics.asked[why].Inc()
	askCtx, cancel := context.WithCancel(ctx)
	type answer struct {
		page *page
		err  error
	}
	answers := make(chan answer, 1)
	wait := f.restraint(why)
	go func() { // ends with askCtx; waited for below
		pause(askCtx, wait)
		p, err := f.fetch(askCtx, link, lasts)
		answers <- answer{p, err}
	}()
	abandon := func(end *ending) (*page, *ending) {
		cancel()
		a := <-answers
		a.page.close()
		return nil, end
	}
	t := f.newTimer(0)
	defer t.Stop()
	for {
		select {
		case a := <-answers:
			if a.err != nil {
				cancel()
				if ctx.Err() != nil {
					return nil, &ending{reason: lostReason(ctx, nil), broken: true}
				}
				return nil, &ending{reason: closedOriginError, code: 1011, text: "internal error",
					err: fmt.Errorf("follow a link: %w", a.err)}
			}
			if a.page.rest == nil {
				cancel()
			} else {
				a.page.rest = &bodyUnder{a.page.rest, cancel}
			}
			return a.page, nil
		case <-ctx.Done():
			return abandon(&ending{reason: lostReason(ctx, nil), broken: true})
		case <-f.drains:
			f.beginDrain()
			t.arm()
		case <-t.C:
			if _, end := t.fire(ctx); end != nil {
				return abandon(end)
			}
		}
	}
}

// fetch gets the page behind a link. While the origin in this process says that
// it cannot make one now (503: Kafka is away), the client waits, connected.
func (f *follow) fetch(ctx context.Context, link *grip.Link, lasts []grip.Last) (*page, error) {
	for {
		p, err := f.source.next(ctx, link, lasts)
		if p == nil || p.status != http.StatusServiceUnavailable {
			return p, err
		}
		wait := time.Second
		if n, err := strconv.Atoi(p.ins.Header.Get("Retry-After")); err == nil && n >= 0 {
			wait = min(time.Duration(n)*time.Second, time.Minute)
		}
		if !pause(ctx, wait+rand.N(wait/2+time.Millisecond)) {
			return nil, context.Cause(ctx)
		}
	}
}

// restraint slows down a stream that goes in circles: an origin whose holds can
// never be attached would be asked without end.
func (f *follow) restraint(why askReason) time.Duration {
	if why != askedForAttach && why != askedForBehind && why != askedForClosed {
		return 0
	}
	f.fruitless++
	return circling(f.fruitless)
}

// circling is the wait before an origin is asked for the nth time in a row
// without result: none for the first three.
func circling(n int) time.Duration {
	if n <= 3 {
		return 0
	}
	return min(time.Second, 50*time.Millisecond<<min(n-4, 5))
}

// pause waits for d, or until ctx ends; then it reports false.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// bodyUnder is a body that is read under a context of its own.
type bodyUnder struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *bodyUnder) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// beginDrain sets when the stream ends, and stops listening for it.
func (f *follow) beginDrain() {
	f.drains = nil
	if at := time.Now().Add(f.g.drain.delay()); f.endAt.IsZero() || at.Before(f.endAt) {
		f.endAt, f.drained = at, true
	}
}

// setKeepAlive sets what is sent when the stream is quiet; nil means nothing.
func (f *follow) setKeepAlive(k *grip.KeepAlive) {
	f.keep = k
	if k != nil {
		f.keepEvery = jittered(k.Timeout)
	}
}

// jittered is a keep-alive's timeout, shortened at random so that streams which
// began together do not stay together: by up to 999 ms (GRIP reference, 2.2), but
// at most a tenth.
func jittered(d time.Duration) time.Duration {
	return d - rand.N(min(999*time.Millisecond, d/10)+1)
}

// linkTimeout is the quiet after which a hold asks its next link; 0: never.
func (f *follow) linkTimeout(link *grip.Link) time.Duration {
	switch {
	case link == nil:
		return 0
	case link.HasTimeout:
		return max(link.Timeout, time.Millisecond)
	case f.source.local():
		return 0
	default:
		return grip.DefaultLinkTimeout
	}
}

// A timer wakes a stream at the next moment when something is due.
type timer struct {
	*time.Timer
	f          *follow
	link       time.Duration // quiet until the link is asked; 0: never
	quietSince time.Time     // when the last item came
	keepSince  time.Time     // when the last keep-alive went, with mode=interval
}

func (f *follow) newTimer(link time.Duration) *timer {
	now := time.Now()
	t := &timer{Timer: time.NewTimer(time.Hour), f: f, link: link, quietSince: now, keepSince: now}
	t.arm()
	return t
}

func (t *timer) keepAt() time.Time {
	switch k := t.f.keep; {
	case k == nil:
		return time.Time{}
	case k.Interval:
		return t.keepSince.Add(t.f.keepEvery)
	default:
		return t.f.lastSent.Add(t.f.keepEvery)
	}
}

func (t *timer) linkAt() time.Time {
	if t.link == 0 {
		return time.Time{}
	}
	return t.quietSince.Add(t.link)
}

// arm sets the timer to what is due next.
func (t *timer) arm() {
	next := time.Now().Add(time.Hour)
	for _, at := range []time.Time{t.keepAt(), t.linkAt(), t.f.endAt} {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	t.Reset(time.Until(next))
}

// fire does what is due. link reports that it is time to ask the link.
func (t *timer) fire(ctx context.Context) (link bool, end *ending) {
	now := time.Now()
	if end := t.over(now); end != nil {
		return false, end
	}
	if at := t.keepAt(); !at.IsZero() && !now.Before(at) {
		if err := t.f.sink.keepAlive(t.f.keep); err != nil {
			end := t.f.lost(ctx, err)
			return false, &end
		}
		t.f.lastSent, t.keepSince = now, now
		t.f.keepEvery = jittered(t.f.keep.Timeout)
	}
	if at := t.linkAt(); !at.IsZero() && !now.Before(at) {
		return true, nil
	}
	t.arm()
	return false, nil
}

// over returns the ending when the stream's time is over.
func (t *timer) over(now time.Time) *ending {
	f := t.f
	if f.drains != nil {
		select { // a busy stream waits for nothing
		case <-f.drains:
			f.beginDrain()
		default:
		}
	}
	if f.endAt.IsZero() || now.Before(f.endAt) {
		return nil
	}
	if f.drained {
		return &ending{reason: closedDraining}
	}
	return &ending{reason: closedMaxAge}
}

func hasPrevID(channels []grip.Subscription) bool {
	for _, c := range channels {
		if c.HasPrevID {
			return true
		}
	}
	return false
}

func wants(channels []grip.Subscription, prefix string) []fanout.Want {
	wants := make([]fanout.Want, len(channels))
	for i, c := range channels {
		wants[i] = fanout.Want{Channel: prefix + c.Channel, PrevID: c.PrevID, HasPrevID: c.HasPrevID}
	}
	return wants
}

// detach ends a subscription and returns its last ids, as the origin knows the
// channels.
func detach(sub *fanout.Subscriber, prefix string) []grip.Last {
	lasts := sub.Detach()
	for i := range lasts {
		lasts[i].Channel = strings.TrimPrefix(lasts[i].Channel, prefix)
	}
	return lasts
}

// lastsOf are the ids that a response already contains.
func lastsOf(channels []grip.Subscription) []grip.Last {
	var lasts []grip.Last
	for _, c := range channels[:min(len(channels), grip.MaxChannels)] {
		if c.HasPrevID {
			lasts = append(lasts, grip.Last{Channel: c.Channel, ID: c.PrevID})
		}
	}
	return lasts
}
