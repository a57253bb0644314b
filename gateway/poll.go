package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway/gateway/fanout"
	"spillway/gateway/route"
	"spillway/gateway/upstream"
	"spillway/grip"
)

// A poll is a response that is held back until an item or the timeout (GRIP
// reference, 4.2).
//
// A hold with a next link is ours alone, and of the origin in this process:
// instead of the item, and instead of the hold's own response, what is behind
// the link answers the client.
//
// While it waits it is the engine's. On a bare descriptor that is all: net/http
// has forgotten the connection, and gets it back for the answer (returns.go).
// Elsewhere the handler waits, too.
type poll struct {
	held
	page     *page // the newest hold
	status   int   // of the first
	from     source
	origin   *exchange // with whom the request can be made again; nil: it cannot
	endAt    time.Time
	rounds   int // links asked
	crossing *crossing
	ending   pollEnd
	bye      *farewell // nil: none

	busy   bool // someone is at the end of the wait, or asks the link; guarded by held.mu
	timeUp bool // guarded by held.mu
	came   bool // the engine has returned the connection; set before gone is closed

	// Of one that left net/http.
	again replay
	early []byte   // what the client has said since its request
	own   net.Conn // that the engine could not take; nil: it has
}

// A pollEnd is how the wait of a poll has ended.
type pollEnd struct {
	event  pollEvent
	item   *grip.HTTPResponse // of pollItem
	lasts  []grip.Last        // of pollAgain
	linked bool               // the link was asked; this is what it led to:
	answer *page              // nil: there was none
}

// A pollEvent is what a long poll was waiting for.
type pollEvent uint8

const (
	pollWaits   pollEvent = iota
	pollItem              // there is one
	pollAgain             // the origin has to be asked: a hint, or an item is missing
	pollTimeout           // nothing came
	pollDrained           // nothing came, and we are shutting down
)

func (e pollEvent) reason() closeReason {
	switch e {
	case pollTimeout:
		return closedTimeout
	case pollDrained:
		return closedDraining
	default:
		return closedAnswered
	}
}

// poll answers with an item, or when its time is over; now, or later on another
// goroutine. With redo, the caller makes the request once more, with these ids.
func (g *Gateway) poll(out *output, r *http.Request, first *page, status int, from source, origin *exchange) (lasts []grip.Last, redo bool) {
	timeout := first.ins.Timeout
	if !from.local() {
		timeout = max(timeout, grip.MinTimeout)
	}
	p := &poll{held: held{g: g, client: out.client}, page: waiting(first, from), status: status, from: from, origin: origin, bye: newFarewell(&first.ins, from), endAt: time.Now().Add(timeout), crossing: out.crossing}
	out.visit.become(byPoll)
	attach := p.wants()
	for {
		end := p.glance(attach)
		if end.event == pollWaits {
			break
		}
		if p.react(r.Context(), end) {
			return p.answer(out, r)
		}
		attach = p.wants()
	}
	if p.park(out, r, attach) {
		return nil, false
	}
	return p.wait(out, r, attach)
}

// waiting is what of a hold is needed until the answer: where a link has that,
// the hold's own response is for nobody.
func waiting(p *page, from source) *page {
	if !from.local() || p.ins.Next == nil {
		return p
	}
	return &page{ins: grip.Instruct{Hold: p.ins.Hold, Channels: p.ins.Channels, Next: p.ins.Next}}
}

// wants is what the newest hold attaches to, from this moment on.
func (p *poll) wants() []fanout.Want {
	attach := wants(&p.page.ins, p.from)
	p.g.engine.Marks(attach, p.from.local())
	attachAt(attach, p.page.marks)
	return attach
}

// linked reports whether a link has the answer.
func (p *poll) linked() bool { return p.from.local() && p.page.ins.Next != nil }

func (p *poll) form() fanout.Form {
	if p.linked() {
		return fanout.Any
	}
	return fanout.Response
}

// glance looks what there is already: then the connection need not be taken
// over.
func (p *poll) glance(attach []fanout.Want) pollEnd {
	if !time.Now().Before(p.endAt) {
		return p.overdue()
	}
	sub, ok := p.g.engine.Subscribe(p.form(), attach, p.from.local())
	if !ok {
		return p.unattached()
	}
	defer sub.Close()
	for {
		b, status := sub.Next(batchBytes)
		switch status {
		case fanout.Wait:
			return pollEnd{}
		case fanout.Ready:
			return pollEnd{event: pollItem, item: b.Response}
		case fanout.Hint, fanout.Behind, fanout.Closed:
			return pollEnd{event: pollAgain, lasts: detach(sub, p.from.prefix())}
		}
	}
}

// overdue is the end of a poll whose time has come.
func (p *poll) overdue() pollEnd {
	if p.g.drain.begun() {
		return pollEnd{event: pollDrained}
	}
	return pollEnd{event: pollTimeout}
}

// unattached is the end of one whose channels have not what follows their
// prev-id.
func (p *poll) unattached() pollEnd {
	return pollEnd{event: pollAgain, lasts: lastsOf(p.page.ins.Channels)}
}

// react reports whether the wait is over with end. It is not when the link says
// to go on waiting, for the rest of the time.
func (p *poll) react(ctx context.Context, end pollEnd) bool {
	p.ending = end
	if !p.linked() {
		return true
	}
	if ctx.Err() != nil {
		return true // the client has left
	}
	over := end.event == pollTimeout || end.event == pollDrained
	if over {
		p.g.metrics.asked[askedForTimeout].Inc()
	} else {
		p.g.metrics.asked[askedForItem].Inc()
	}
	answer, err := p.from.next(ctx, p.page.ins.Next, lastsOf(p.page.ins.Channels))
	p.ending = pollEnd{event: end.event, linked: true, answer: answer}
	switch {
	case ctx.Err() != nil:
		return true
	case err != nil && answer == nil:
		p.g.log.Debug("no answer for a long poll", "err", err)
		return true
	case over || answer.ins.Hold != grip.HoldResponse || answer.ins.Next == nil:
		return true
	}
	p.page = waiting(answer, p.from)
	p.rounds++
	if end.event == pollAgain {
		pause(ctx, circling(p.rounds))
	}
	return false
}

// wait waits in the handler.
func (p *poll) wait(out *output, r *http.Request, attach []fanout.Want) (lasts []grip.Last, redo bool) {
	ctx := r.Context()
	p.gone = make(chan struct{})
	p.conn = p.g.engine.Adopt(through{out}, fanout.Options{Owner: p, WriteTimeout: p.g.cfg.WriteTimeout, EndAt: p.endAt})
	p.conn.Start()
	p.begin(attach)
	select {
	case <-p.gone:
	case <-ctx.Done():
		if lostReason(ctx) == closedAborted {
			p.conn.Cut()
		} else {
			p.conn.Left()
		}
		<-p.gone
	}
	if !p.came {
		return nil, false
	}
	return p.answer(out, r)
}

// park gives the connection to the engine alone. It reports false where it stays
// with net/http.
func (p *poll) park(out *output, r *http.Request, attach []fanout.Want) bool {
	switch {
	case out.request.ProtoMajor >= 2 || r.TLS != nil || !p.g.engine.HasShards():
		return false
	case !wasRead(r):
		return false // what the client says next is no request yet
	}
	nc, rw, err := out.hijack()
	if err != nil {
		return false
	}
	early, _ := rw.Peek(rw.Reader.Buffered()) // they are there
	p.early = append(bytes.Clone(early), unread(nc)...)
	p.again = replayOf(out.request)
	if p.origin != nil {
		p.origin.keep(r)
	}
	p.visit = out.handOver(nc)
	conn, ok := p.g.engine.TakeBare(nc, fanout.Options{Owner: p, WriteTimeout: p.g.cfg.WriteTimeout, EndAt: p.endAt})
	if !ok { // there is no descriptor left, or it is no TCP: then a handler waits
		p.own = nc
		p.g.comeBack(p)
		return true
	}
	p.conn = conn
	p.conn.Start()
	p.begin(attach)
	return true
}

// begin makes the connection wait.
func (p *poll) begin(attach []fanout.Want) {
	if !p.attach(attach) && p.claim() {
		p.g.drain.spawn(func() { // ends with the connection
			ctx, done := p.ask()
			defer done()
			p.run(ctx, p.unattached())
		})
	}
}

func (p *poll) attach(attach []fanout.Want) bool {
	_, ok := p.conn.Hold(fanout.Hold{Form: p.form(), Wants: attach, OpenOnly: p.from.local()})
	return ok
}

// claim reports true to one of those who have something to say.
func (p *poll) claim() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.busy
	p.busy = true
	return !was
}

// goOn ends a claim. It reports false where the time has come meanwhile, and the
// claim stays.
func (p *poll) goOn() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timeUp {
		return false
	}
	p.busy = false
	return true
}

// run does what an event asks for, until the poll waits again or has its answer.
// It needs the claim.
func (p *poll) run(ctx context.Context, end pollEnd) {
	for !p.react(ctx, end) {
		attach := p.wants()
		if !p.goOn() {
			end = p.overdue()
			continue
		}
		if p.attach(attach) || !p.claim() {
			return
		}
		end = p.unattached()
	}
	p.conn.Return()
}

// Held implements fanout.Owner.
func (p *poll) Held(sub *fanout.Subscriber, status fanout.Status, b fanout.Batch) {
	lasts, _ := p.conn.Release(sub)
	if !p.claim() {
		return
	}
	end := pollEnd{event: pollItem, item: b.Response}
	if status != fanout.Ready {
		end = pollEnd{event: pollAgain, lasts: unprefixed(lasts, p.from.prefix())}
	}
	ctx, done := p.ask()
	defer done()
	p.run(ctx, end)
}

// Received implements fanout.Owner.
func (*poll) Received(grip.MessageType, []byte) {}

// TimeOver implements fanout.Owner.
func (p *poll) TimeOver() {
	p.mu.Lock()
	p.timeUp = true
	busy := p.busy
	p.busy = true
	p.mu.Unlock()
	switch {
	case busy: // who is at it will see
	case !p.linked():
		p.ending = p.overdue()
		p.conn.Return()
	default:
		p.g.drain.spawn(func() { // ends with the connection
			ctx, done := p.ask()
			defer done()
			p.run(ctx, p.overdue())
		})
	}
}

// Gone implements fanout.Owner.
func (p *poll) Gone(why fanout.Ending) {
	switch {
	case why != fanout.Returned:
		p.g.farewells.say(p.bye)
		p.left(why)
	case p.gone != nil:
		p.came = true
		close(p.gone)
	default:
		p.g.comeBack(p)
	}
}

// back implements leaver. Where the connection is lost, it is the end of the poll.
func (p *poll) back() net.Conn {
	nc := p.own
	if nc != nil {
		nc, _ = bareConn(nc)
	} else {
		var err error
		if nc, err = p.conn.Net(); err != nil {
			p.g.log.Debug("a long poll was cut off", "err", err)
			p.abandon()
			return nil
		}
	}
	if v := &p.visit; v.seat != nil {
		nc, v.seat = v.seat.again(nc), nil
	}
	c := &returned{Conn: nc, first: append(p.again.append(nil), p.early...)}
	p.early = nil
	c.poll.Store(p)
	return c
}

// abandon ends a poll that cannot be answered any more.
func (p *poll) abandon() {
	p.g.metrics.closed[closedAborted].Inc()
	p.g.farewells.say(p.bye)
	p.visit.leave()
}

// resume answers the client of a poll that was parked.
func (g *Gateway) resume(p *poll, w http.ResponseWriter, r *http.Request) {
	out := newOutput(w, r, p.visit, g.cfg.WriteTimeout)
	p.visit, out.client = visit{}, p.client
	defer out.done()
	out.cross(p.crossing)
	var lasts []grip.Last
	var redo bool
	if p.own != nil {
		p.own = nil
		lasts, redo = p.wait(out, r, p.wants())
	} else {
		lasts, redo = p.answer(out, r)
	}
	if redo {
		again, err := p.origin.request(r)
		if err != nil { // it was a request once
			g.log.Error("a request that was kept cannot be read", "err", err)
			abort()
		}
		g.redo(out, again, p.origin, lasts)
	}
	out.finish()
}

// answer ends the wait with the client's answer, or says that the request is to
// be made once more.
func (p *poll) answer(out *output, r *http.Request) (lasts []grip.Last, redo bool) {
	defer out.visit.become(byRequest)
	if p.crossing != nil && p.crossing.script != nil {
		p.crossing.script.held = true
	}
	g, end := p.g, p.ending
	g.farewells.say(p.bye)
	switch {
	case r.Context().Err() != nil:
		g.metrics.closed[lostReason(r.Context())].Inc()
	case end.linked && end.answer == nil:
		g.metrics.closed[closedOriginError].Inc()
		out.text(http.StatusBadGateway, "Error while proxying to origin.")
	case end.linked:
		g.metrics.closed[end.event.reason()].Inc()
		g.plain(out, end.answer, end.answer.status)
	case end.event == pollAgain:
		g.metrics.asked[askedForHint].Inc()
		return end.lasts, true
	case end.event == pollItem:
		g.metrics.closed[closedAnswered].Inc()
		g.answerItem(out, p.page, end.item)
	default:
		g.metrics.closed[end.event.reason()].Inc()
		g.plain(out, p.page, p.status)
	}
	return nil, false
}

// answerItem answers a long poll with an item (GRIP reference, 4.2).
func (g *Gateway) answerItem(out *output, p *page, item *grip.HTTPResponse) {
	h := out.Header()
	upstream.CopyHeaders(h, p.ins.Header)
	named := make(map[string]bool)
	for _, field := range item.Headers {
		name := http.CanonicalHeaderKey(field.Name)
		switch {
		case strings.HasPrefix(name, "Grip-"), name == "Content-Length", name == "Transfer-Encoding", name == "Connection", name == "Keep-Alive":
			continue // ours to say
		}
		if !named[name] {
			h.Del(name)
			named[name] = true
		}
		h.Add(name, field.Value)
	}
	status := item.Code
	if status == 0 {
		status = http.StatusOK
	}
	if status < 200 || status > 999 { // net/http cannot send them
		status = http.StatusBadGateway
	}
	out.reason = item.Reason
	body := item.Body
	if item.BodyPatch != nil {
		var err error
		if body, err = patched(p.ins.Body, item.BodyPatch); err != nil {
			g.log.Debug("body-patch does not apply", "channel", p.ins.Channels[0].Channel, "err", err)
			body = nil // as Pushpin 2.0
		}
	}
	if out.request.Method == http.MethodHead && bodyAllowed(status) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		out.WriteHeader(status)
		return
	}
	_ = out.body(status, body)
}

// An exchange is a client's request to an HTTP origin, which may have to be made
// again.
type exchange struct {
	route  *route.Route
	body   *keptBody
	rounds int
	head   []byte // of the request, while net/http has forgotten it
}

// keep remembers a request whose body was read.
func (x *exchange) keep(r *http.Request) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\n", r.Method, r.RequestURI, r.Proto, r.Host)
	_ = r.Header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	x.head = bytes.Clone(b.Bytes())
	x.body = x.body.kept()
}

// request is what was kept, in the place of r, on whose connection it came.
func (x *exchange) request(r *http.Request) (*http.Request, error) {
	kept, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(x.head)))
	if err != nil {
		return nil, err
	}
	x.head = nil
	kept.RemoteAddr = r.RemoteAddr
	return kept.WithContext(r.Context()), nil
}

// A replay is what net/http has to know of a request to answer it again: how
// much it may send, and whether the connection stays.
type replay struct{ head, old, last bool }

func replayOf(r *http.Request) replay {
	return replay{head: r.Method == http.MethodHead, old: !r.ProtoAtLeast(1, 1), last: r.Close || cameInChunks(r)}
}

// append appends a request for it.
func (a replay) append(dst []byte) []byte {
	method, end := http.MethodGet, " / HTTP/1.1\r\nHost: x\r\n"
	if a.head {
		method = http.MethodHead
	}
	switch {
	case a.old && a.last:
		end = " / HTTP/1.0\r\n"
	case a.old:
		end = " / HTTP/1.0\r\nConnection: keep-alive\r\n"
	case a.last:
		end += "Connection: close\r\n"
	}
	dst = append(append(dst, method...), end...)
	return append(dst, "\r\n"...)
}

// keptBody remembers what a client sent, so that a request can be repeated. It
// is read on a goroutine of the upstream package.
type keptBody struct {
	length  int64 // as announced; -1: unknown
	reading sync.Mutex
	body    io.ReadCloser // guarded by reading

	mu    sync.Mutex
	buf   []byte // the first MaxHoldBody bytes; guarded by mu
	total int64  // guarded by mu
	ended bool   // all was read; guarded by mu
}

// keepBody makes r's body remember what is read of it.
func keepBody(r *http.Request) *keptBody {
	k := &keptBody{length: r.ContentLength, body: http.NoBody, ended: true}
	if r.Body != nil && r.Body != http.NoBody {
		k.body, k.ended = r.Body, false
		r.Body = k
	}
	return k
}

func (k *keptBody) Read(p []byte) (int, error) {
	k.reading.Lock()
	defer k.reading.Unlock()
	n, err := k.body.Read(p)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.total += int64(n)
	k.buf = append(k.buf, p[:min(n, grip.MaxHoldBody-len(k.buf))]...)
	k.ended = k.ended || errors.Is(err, io.EOF)
	return n, err
}

func (k *keptBody) Close() error { return k.body.Close() }

// wasRead reports whether what a client says next is another request.
func wasRead(r *http.Request) bool {
	switch b := r.Body.(type) {
	case nil:
		return true
	case *keptBody:
		return b.done()
	default:
		return b == http.NoBody
	}
}

// done reports whether all of it was read.
func (k *keptBody) done() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ended
}

// kept is a body that was read, without where it came from.
func (k *keptBody) kept() *keptBody {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &keptBody{length: k.length, body: http.NoBody, buf: bytes.Clone(k.buf), total: k.total, ended: true}
}

// tooLarge reports whether the request is too large to be held (GRIP reference,
// 1.5).
func (k *keptBody) tooLarge() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(k.total, k.length) > grip.MaxHoldBody
}

// whole returns the body, and reads what the origin left unread. ok is false
// when it is too large, or the client broke off.
func (k *keptBody) whole() (body []byte, ok bool) {
	k.mu.Lock()
	left := grip.MaxHoldBody + 1 - k.total
	k.mu.Unlock()
	if left > 0 {
		if _, err := io.CopyN(io.Discard, k, left); err != nil && !errors.Is(err, io.EOF) {
			return nil, false
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.buf, k.total <= grip.MaxHoldBody
}
