package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"spillway/gateway/fanout"
	"spillway/gateway/upstream"
	"spillway/grip"
)

// poll holds a response back until an item or the timeout (GRIP reference,
// 4.2). With again, the caller makes the request once more, with these ids.
//
// A hold with a next link is ours alone, and of the origin in this process:
// instead of the item, and instead of the hold's own response, what is behind
// the link answers the client.
func (g *Gateway) poll(out *output, r *http.Request, p *page, status int, from source) (lasts []grip.Last, again bool) {
	out.visit.become(byPoll)
	defer out.visit.become(byRequest)

	timeout := p.ins.Timeout
	if !from.local() {
		timeout = max(timeout, grip.MinTimeout)
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	drains := g.drain.started
	form := fanout.Response
	linked := from.local() && p.ins.Next != nil
	if linked {
		form = fanout.Any
	}
	for round := 1; ; round++ {
		got, b, ids := g.await(r.Context(), form, p.ins.Channels, from, deadline, &drains)
		if got == pollLeft {
			g.metrics.closed[lostReason(r.Context())].Inc()
			return nil, false
		}
		over := got == pollTimeout || got == pollDrained
		if !linked {
			switch got {
			case pollItem:
				g.metrics.closed[closedAnswered].Inc()
				g.answerItem(out, p, b.Response)
			case pollAgain:
				g.metrics.asked[askedForHint].Inc()
				return ids, true
			default:
				g.metrics.closed[pollReason(got)].Inc()
				g.plain(out, p, status)
			}
			return nil, false
		}

		if over {
			g.metrics.asked[askedForTimeout].Inc()
		} else {
			g.metrics.asked[askedForItem].Inc()
		}
		answer, err := from.next(r.Context(), p.ins.Next, lastsOf(p.ins.Channels))
		switch {
		case err != nil && answer == nil:
			g.metrics.closed[closedOriginError].Inc()
			g.log.Debug("no answer for a long poll", "err", err)
			out.text(http.StatusBadGateway, "Error while proxying to origin.")
			return nil, false
		case answer.ins.Hold == grip.HoldResponse && answer.ins.Next != nil && !over:
			p = answer // for the rest of the time
			if got == pollAgain {
				pause(r.Context(), circling(round))
			}
			continue
		}
		g.metrics.closed[pollReason(got)].Inc()
		g.plain(out, answer, answer.status)
		return nil, false
	}
}

// A pollEvent is what a long poll was waiting for.
type pollEvent uint8

const (
	pollItem    pollEvent = iota
	pollAgain             // the origin has to be asked: a hint, or an item is missing
	pollTimeout           // nothing came
	pollDrained           // nothing came, and we are shutting down
	pollLeft              // the client did
)

func pollReason(e pollEvent) closeReason {
	switch e {
	case pollTimeout:
		return closedTimeout
	case pollDrained:
		return closedDraining
	default:
		return closedAnswered
	}
}

// await waits for an item on channels. drains is set to nil once it was seen:
// then the deadline is that of the drain.
func (g *Gateway) await(ctx context.Context, form fanout.Form, channels []grip.Subscription, from source,
	deadline *time.Timer, drains *chan struct{}) (pollEvent, fanout.Batch, []grip.Last) {
	sub, ok := g.engine.Subscribe(form, wants(channels, from.prefix()), from.local())
	if !ok {
		return pollAgain, fanout.Batch{}, lastsOf(channels)
	}
	defer sub.Close()
	for {
		b, status := sub.Next(batchBytes)
		switch status {
		case fanout.Ready:
			return pollItem, b, nil
		case fanout.Hint, fanout.Behind, fanout.Closed:
			return pollAgain, b, detach(sub, from.prefix())
		case fanout.End, fanout.Refresh:
			continue
		}
		select {
		case <-sub.Wake():
		case <-ctx.Done():
			return pollLeft, b, nil
		case <-deadline.C:
			if *drains == nil {
				return pollDrained, b, nil
			}
			return pollTimeout, b, nil
		case <-*drains:
			*drains = nil
			deadline.Reset(g.drain.delay())
		}
	}
}

// answerItem answers a long poll with an item (GRIP reference, 4.2).
func (g *Gateway) answerItem(out *output, p *page, item *grip.HTTPResponse) {
	h := out.Header()
	upstream.CopyHeaders(h, p.ins.Header)
	named := make(map[string]bool)
	for _, field := range item.Headers {
		name := http.CanonicalHeaderKey(field.Name)
		if strings.HasPrefix(strings.ToLower(name), "grip-") {
			continue
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
	body := item.Body
	if item.BodyPatch != nil {
		var err error
		if body, err = patched(p.ins.Body, item.BodyPatch); err != nil {
			g.log.Debug("body-patch does not apply", "channel", p.ins.Channels[0].Channel, "err", err)
			body = nil // as Pushpin 2.0
		}
	}
	_ = out.body(status, body)
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
}

// keepBody makes r's body remember what is read of it.
func keepBody(r *http.Request) *keptBody {
	k := &keptBody{length: r.ContentLength, body: http.NoBody}
	if r.Body != nil && r.Body != http.NoBody {
		k.body = r.Body
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
	return n, err
}

func (k *keptBody) Close() error { return k.body.Close() }

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
