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
	"unsafe"

	"spillway/gateway/fanout"
	"spillway/gateway/upstream"
	"spillway/grip"
)

// A sink is where a stream goes: the body of a response, or the messages of a
// WebSocket.
type sink interface {
	page(p *page) error // also closes it; returns when it is in the socket
	hold(h fanout.Hold) (*fanout.Subscriber, bool)
}

// batchBytes is how much of a log is taken at once, in bytes.
const batchBytes = 64 << 10

// An ending is how a stream ended.
type ending struct {
	reason closeReason
	code   int    // of a WebSocket close; 0: the stream ends, not the socket
	text   string // of the same
	says   string // why, as the origin in this process says it, for AUDIT_LOG
	broken bool   // the client must see that the body is incomplete
	err    error  // for the log, where it is the origin's fault
}

// A stream is a held response.
type stream struct {
	held
	follow follow
	retry  bool      // at a drain the client is told when to come again
	bye    *farewell // nil: none
}

// stream sends the first response of a stream at once, and follows it.
func (g *Gateway) stream(out *output, r *http.Request, p *page, status int, from source) {
	out.visit.become(byStream)
	attach := g.marks(&p.ins, from)
	attachAt(attach, p.marks)
	h := out.Header()
	upstream.CopyHeaders(h, p.ins.Header)
	h.Del("Content-Length")
	o := fanout.Options{}
	if from.local() {
		o.EndAt = g.endOfAge(time.Now())
		o.Coding, o.Begun = g.compress(h, r, p)
	}
	out.reason = p.phrase()
	out.WriteHeader(status)
	if r.Method == http.MethodHead || !bodyAllowed(status) {
		p.close()
		return
	}
	if err := out.page(p); err != nil {
		reason := lostReason(r.Context())
		var broken *brokenPage
		if errors.As(err, &broken) {
			reason = closedOriginError
		}
		g.metrics.closed[reason].Inc()
		abort()
	}
	s := &stream{held: held{g: g, client: out.client}, retry: from.local() && out.isSSE(), bye: newFarewell(&p.ins, from)}
	s.follow = follow{held: &s.held, source: from, sink: s}
	o.Owner = s
	wait := s.take(out, o)
	s.record = g.auditOpened(r, byStream, s.conn, from, p.told, attach)
	s.conn.Start()
	s.begin(&p.ins, attach)
	if wait == nil {
		return
	}
	if wait(); s.result != nil && !s.result.broken {
		return
	}
	abort()
}

// marks returns what a first hold attaches to, as it is now: a client that has
// its response misses nothing from then on.
func (g *Gateway) marks(ins *grip.Instruct, from source) []fanout.Want {
	if ins.Hold != grip.HoldStream {
		return nil
	}
	attach := wants(ins, from)
	g.engine.Marks(attach, from.local())
	return attach
}

// begin carries out the first instructions. What cannot wait for the engine at
// once goes on by itself.
func (s *stream) begin(ins *grip.Instruct, attach []fanout.Want) {
	if ins.Hold == grip.HoldStream {
		if sub, end, ok := s.follow.hold(ins, attach); ok {
			s.settle(sub, end)
			return
		}
	}
	s.g.drain.spawn(func() { // ends with the connection
		ctx, done := s.ask()
		defer done()
		s.settle(s.follow.run(ctx, &page{ins: *ins}, nil))
	})
}

// settle is what happens when a stream holds, or has ended.
func (s *stream) settle(sub *fanout.Subscriber, end ending) {
	if sub != nil || !s.end(end) {
		return
	}
	if end.broken {
		s.conn.Cut()
	} else {
		s.conn.Finish(nil, 0, "")
	}
}

// Held implements fanout.Owner.
func (s *stream) Held(sub *fanout.Subscriber, status fanout.Status, b fanout.Batch) {
	ctx, done := s.ask()
	defer done()
	s.settle(s.follow.resume(ctx, sub, status, b))
}

// Received implements fanout.Owner.
func (*stream) Received(grip.MessageType, []byte) {}

// TimeOver implements fanout.Owner.
func (s *stream) TimeOver() {
	end := s.timeOver()
	if !s.end(end) {
		return
	}
	var last []byte
	if s.retry && end.reason == closedDraining {
		last = fmt.Appendf(nil, "retry: %d\n\n", s.g.drain.retry().Milliseconds())
	}
	s.conn.Finish(last, 0, "")
}

// Size implements fanout.Sized.
func (s *stream) Size() int { return int(unsafe.Sizeof(*s)) }

// Gone implements fanout.Owner.
func (s *stream) Gone(why fanout.Ending) {
	if why == fanout.Returned {
		s.g.comeBack(&finished{g: s.g, conn: s.conn, seat: s.visit.seat})
		s.visit.seat = nil
	}
	s.g.farewells.say(s.bye)
	s.left(why)
}

func (s *stream) hold(h fanout.Hold) (*fanout.Subscriber, bool) { return s.conn.Hold(h) }

func (s *stream) page(p *page) error {
	defer p.close()
	if len(p.ins.Body) > 0 {
		if err := s.conn.Write(p.ins.Body); err != nil {
			return err
		}
	}
	if p.rest == nil {
		return nil
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := p.rest.Read(buf)
		if n > 0 {
			if err := s.conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return &brokenPage{err}
		}
	}
}

// A follow is one stream: it carries out instructions, page after page, hold
// after hold. It has a goroutine while it asks the origin and writes what comes;
// while it holds, it is the engine's, and costs what is in here.
type follow struct {
	held   *held
	source source
	sink   sink

	next      string // where the next link of the hold leads; empty: there is none
	fruitless int    // links asked in a row, to attach, that brought nothing
}

// run carries out p, whose body is written already, until the stream holds (then
// sub is what it holds by), or ends.
//
// since is what the channels' logs held when p was asked for.
func (f *follow) run(ctx context.Context, p *page, since []fanout.Want) (sub *fanout.Subscriber, end ending) {
	for {
		ins := &p.ins
		var lasts []grip.Last
		why := askedForPage
		switch {
		case ins.Hold == grip.HoldStream:
			attach := wants(ins, f.source)
			for i := range attach {
				attach[i].Since = markOf(since, attach[i].Channel)
			}
			if sub, end, ok := f.hold(ins, attach); ok {
				return sub, end
			}
			lasts, why = lastsOf(ins.Channels), askedForAttach
		case ins.Hold == grip.HoldResponse: // a page may not be one
			return nil, ending{reason: closedOriginError, code: 1011, text: "internal error", err: errors.New("a page of a stream holds a response")}
		case ins.Next == nil:
			return nil, ending{reason: closedByOrigin, says: p.refused.why()}
		}
		since = f.marks(lasts)
		var over *ending
		if p, over = f.ask(ctx, ins.Next, lasts, why); over != nil {
			return nil, *over
		}
		if len(p.ins.Body) > 0 || p.rest != nil {
			f.fruitless = 0
		}
		if err := f.sink.page(p); err != nil {
			return nil, f.lost(err)
		}
	}
}

// lost is the ending when the client could not be written to, or a page's body
// could not be read.
func (f *follow) lost(err error) ending {
	var broken *brokenPage
	if errors.As(err, &broken) {
		return ending{reason: closedOriginError, code: 1011, text: "internal error", broken: true, err: err}
	}
	return ending{reason: closedByClient, broken: true}
}

// hold gives the stream to the engine, attached to the channels of ins. ok is
// false when it cannot be attached there, and the next link is to be asked.
func (f *follow) hold(ins *grip.Instruct, attach []fanout.Want) (sub *fanout.Subscriber, end ending, ok bool) {
	if ins.Next == nil && !f.source.local() && hasPrevID(ins.Channels) {
		return nil, ending{reason: closedByOrigin}, true // GRIP reference, 4.1
	}
	f.held.keepAlive(ins.KeepAlive)
	f.next = ""
	if ins.Next != nil {
		f.next = ins.Next.URL
	}
	sub, ok = f.sink.hold(fanout.Hold{
		Wants:     attach,
		OpenOnly:  f.source.local(),
		LinkAfter: f.linkTimeout(ins.Next),
		// Our own origin means a moment by it, such as the end of a right to read.
		LinkAnyway: f.source.local(),
		PassHints:  ins.Next == nil,
		Context:    f,
	})
	if !ok && (ins.Next == nil || f.held.conn.Over()) {
		return nil, ending{reason: closedByOrigin}, true
	}
	return sub, ending{}, ok
}

// resume goes on with a stream that the engine gives back.
func (f *follow) resume(ctx context.Context, sub *fanout.Subscriber, status fanout.Status, b fanout.Batch) (*fanout.Subscriber, ending) {
	lasts, gave := f.held.conn.Release(sub)
	if gave {
		f.fruitless = 0
	}
	lasts = unprefixed(lasts, f.source.prefix())
	var why askReason
	switch status {
	case fanout.Hint:
		why = askedForHint
	case fanout.Quiet:
		why = askedForQuiet
	case fanout.Behind:
		if f.next == "" {
			return nil, ending{reason: closedTooSlow, code: 1013, text: "too slow", broken: true}
		}
		why = askedForBehind
	case fanout.Closed:
		if f.next == "" {
			return nil, ending{reason: closedByOrigin}
		}
		why = askedForClosed
	default: // End
		return nil, ending{reason: closedByPublisher, code: max(b.Code, 1000), text: b.Reason}
	}
	since := f.marks(lasts)
	p, end := f.ask(ctx, &grip.Link{URL: f.next}, lasts, why)
	if end != nil {
		return nil, *end
	}
	if len(p.ins.Body) > 0 || p.rest != nil {
		f.fruitless = 0
	}
	if err := f.sink.page(p); err != nil {
		return nil, f.lost(err)
	}
	return f.run(ctx, p, since)
}

// marks notes the ends of the logs of channels whose ids the origin is asked with.
// In this process it names only ids that the logs know.
func (f *follow) marks(lasts []grip.Last) []fanout.Want {
	if f.source.local() {
		return nil
	}
	marks := make([]fanout.Want, len(lasts))
	for i, l := range lasts {
		marks[i].Channel = f.source.prefix() + l.Channel
	}
	f.held.g.engine.Marks(marks, false)
	return marks
}

func markOf(marks []fanout.Want, channel string) fanout.Mark {
	for _, m := range marks {
		if m.Channel == channel {
			return m.Mark
		}
	}
	return 0
}

// ask follows a link, as long as the client is there.
func (f *follow) ask(ctx context.Context, link *grip.Link, lasts []grip.Last, why askReason) (*page, *ending) {
	g := f.held.g
	g.metrics.asked[why].Inc()
	pause(ctx, f.restraint(why))
	for g.engine.Crowded() && pause(ctx, 50*time.Millisecond+rand.N(50*time.Millisecond)) { // it would be one more page that waits
	}
	p, err := f.fetch(ctx, link, lasts)
	switch {
	case ctx.Err() != nil:
		p.close()
		return nil, &ending{reason: closedByClient, broken: true}
	case err != nil:
		return nil, &ending{reason: closedOriginError, code: 1011, text: "internal error",
			err: fmt.Errorf("follow a link: %w", err)}
	}
	return p, nil
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

func hasPrevID(channels []grip.Subscription) bool {
	for _, c := range channels {
		if c.HasPrevID {
			return true
		}
	}
	return false
}

// An implier is a source whose holds are subscribed to more channels than its
// origin names, without a prefix. Other sources have none.
type implier interface{ implied() []string }

// wants are the channels of a hold, as items are published to them.
func wants(ins *grip.Instruct, from source) []fanout.Want {
	wants := make([]fanout.Want, 0, len(ins.Channels))
	for _, c := range ins.Channels {
		want := fanout.Want{
			Channel: from.prefix() + c.Channel, PrevID: c.PrevID, HasPrevID: c.HasPrevID,
			Conflate: c.Conflate, Every: c.Every,
		}
		if from, ok := from.(filterer); ok && len(c.Filters) > 0 {
			want.Filter = from.filter(c.Filters, ins.Meta)
		}
		wants = append(wants, want)
	}
	if from, ok := from.(implier); ok {
		for _, channel := range from.implied() {
			wants = append(wants, fanout.Want{Channel: channel})
		}
	}
	return wants
}

// detach ends a subscription and returns its last ids, as the origin knows the
// channels.
func detach(sub *fanout.Subscriber, prefix string) []grip.Last {
	return unprefixed(sub.Detach(), prefix)
}

func unprefixed(lasts []grip.Last, prefix string) []grip.Last {
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
