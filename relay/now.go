package relay

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"spillway/grip"
	"spillway/relay/cursor"
)

// Values of header fields that many answers share. Whoever has the header may
// replace them, but not write to them; nobody else does either.
var (
	uncached        = []string{"no-store, no-transform"}
	uncachedPrivate = []string{"private, no-store, no-transform"}
	varies          = []string{"Origin, Accept"}
	variesByCaller  = []string{"Origin, Accept, Authorization, Cookie"}
	anyOrigin       = []string{"*"}
	withCredentials = []string{"true"}
	exposedFields   = []string{"Retry-After"}
	exposedWithID   = []string{"Retry-After, " + lastIDHeader}
	unbuffered      = []string{"no"}
	typeSSE         = []string{"text/event-stream; charset=utf-8"}
	typeNDJSON      = []string{"application/x-ndjson"}
	typeCloudBatch  = []string{"application/cloudevents-batch+json"}
	typeJSON        = []string{"application/json"}
	typeEvents      = []string{grip.ContentTypeEvents}
	typeBytes       = []string{"application/octet-stream"}
	bareMessages    = []string{`grip; message-prefix=""`} // objects of JSON, which no control message is
	markedMessages  = []string{"grip"}                    // whatever a record holds
	speakJSON       = []string{protocolJSON}
	speakCloud      = []string{protocolCloud}
	speakPlain      = []string{protocolPlain}
	holdStream      = []string{string(grip.HoldStream)}
	holdPause       = []string{pauseChannel}
)

// serveNow answers a request for what is to come of topics that others read
// already, from now on or from where the client lost its connection: what most
// requests are, and what comes by the thousand at a time. It reports false, and
// has done nothing, where there is more to it.
//
// Nothing is asked of Kafka and nothing waited for; and what of the answer
// does not differ from client to client is the same memory for all of them.
func (o *Origin) serveNow(w http.ResponseWriter, s *selection) bool {
	if s.start.kind > startCursor || s.bounded() || s.marks || s.longPoll || s.speed > 0 {
		return false
	}
	ch, at := o.hub.here(s.topics, s.query, s.rendering)
	if ch == nil {
		return false
	}
	channel := at.channel
	if s.start.kind == startCursor {
		if channel = o.rejoin(s.topics, ch, at, &s.start.cursor); channel == nil {
			return false
		}
	}
	if !s.sparing.none() {
		channel = []string{channel[0] + s.sparing.params()}
	}
	h := w.Header()
	buf := openings.Get().(*[]byte)
	out := appendOpening((*buf)[:0], h, s)
	if s.start.kind == startLive && !s.commentOnly && len(at.shown) <= int(ch.maxID) {
		out = ch.appendAnnouncement(out, s.via, at.shown)
	}
	o.setHold(h, channel, s.form, s.heartbeat)
	h["Grip-Link"] = o.holdLink(ch, s.topics, s.query.textOf(), holdLink{via: s.via, heartbeatMS: s.heartbeat.Milliseconds(), sparing: s.sparing}, o.rightTo(s))
	o.keep(h, s.caller)
	w.WriteHeader(http.StatusOK)
	w.Write(out)
	*buf = out
	openings.Put(buf)
	return true
}

// rejoin returns the Grip-Channel of a stream that goes on after cursor c: nil
// if that is no position of the channel's log, or further back than one
// request may replay, as far as can be told at once.
func (o *Origin) rejoin(topics []string, ch *channel, at *standing, c *cursor.Cursor) []string {
	if c.Phase != cursor.PhaseLive || len(c.Blocks) != len(at.pos) {
		return nil
	}
	var few [4][]int64
	want := vector(few[:0])
	for t := range c.Blocks {
		b := &c.Blocks[t]
		if b.Tag != ch.index.tags[t] || len(b.Offsets) != len(at.pos[t]) { // none: it is not dense
			return nil
		}
		want = append(want, b.Offsets)
	}
	if !at.pos.covers(want) {
		return nil // another replica is further
	}
	if behind := want.distance(at.pos); behind > 0 && !(o.resolver.mayReplay(topics, behind) && ch.index.has(want)) {
		return nil
	}
	value := append(append(make([]byte, 0, 256), ch.channel...), "; prev-id="...)
	return []string{string(c.Append(value))}
}

// openings are buffers for the first bytes of streams.
var openings = sync.Pool{New: func() any { return new([]byte) }}

// keepAlives are values of Grip-Keep-Alive with the default heartbeat, spread
// so that the heartbeats of many streams are: up to 10 % later. The gateway
// takes up to as much off again (GRIP reference, 2.2).
type keepAlives struct {
	heartbeat time.Duration
	comments  [64][]string // of SSE
	lines     [64][]string // of NDJSON: empty ones
}

func newKeepAlives(heartbeat time.Duration) *keepAlives {
	k := &keepAlives{heartbeat: heartbeat}
	for i := range k.comments {
		late := heartbeat + heartbeat/10*time.Duration(i)/time.Duration(len(k.comments)-1)
		k.comments[i], k.lines[i] = keepAlive(formPlain, late), keepAlive(formNDJSON, late)
	}
	return k
}

// value returns one for streams of form f; heartbeat is 0 for the default.
func (k *keepAlives) value(f form, heartbeat time.Duration) []string {
	switch i := rand.IntN(len(k.comments)); {
	case heartbeat > 0:
		return keepAlive(f, heartbeat+rand.N(heartbeat/10+1))
	case f.lines():
		return k.lines[i]
	default:
		return k.comments[i]
	}
}

// The comment has no blank line after it: there are parsers that take each blank
// line for the end of an event.
func keepAlive(f form, timeout time.Duration) []string {
	content := `:\n`
	if f.lines() {
		content = `\n`
	}
	return []string{content + "; format=cstring; timeout=" + seconds(timeout) + "; mode=idle"}
}
