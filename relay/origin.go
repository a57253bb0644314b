package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway/grip"
	"spillway/relay/auth"
	"spillway/relay/cursor"
)

// An Origin answers EVENTS_PATH with GRIP instructions. It is the origin that
// a gateway in the same process calls, and the one that says who may read what.
type Origin struct {
	path      string // EVENTS_PATH, with a slash at both ends
	log       *slog.Logger
	hub       *hub
	catalog   *catalog
	blocks    *blocks
	decoder   *decoder
	resolver  *resolver
	sealer    *sealer
	turns     *turns // of pages
	memory    pageMemory
	cors      cors
	ignore    []string
	maxBytes  int // EVENT_MAX_BYTES
	pageBytes int
	lagBytes  int64         // CATCHUP_MAX_BYTES; 0: no bound
	lagAge    time.Duration // CATCHUP_MAX_AGE; 0: no bound
	metrics   originMetrics
	queries   *queries
	policies  *policies
	now       func() time.Time

	replayBytes int64 // REPLAY_MAX_BYTES; 0: no bound

	// away reports whether a topic is not ours to show to who makes r: see
	// Relay.Leave.
	away func(r *http.Request, topic string) bool

	auth     *auth.Authenticator // nil: nobody is asked who they are
	recheck  time.Duration       // AUTH_RECHECK
	cookies  bool                // that a client has may be what lets it in
	renewals renewals

	keepAlives *keepAlives
	tells      bool // the gateway is told who reads what
}

// ServeHTTP answers one request of a client, of a gateway that follows a link,
// or of a WebSocket.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, o.path)
	if strings.TrimSuffix(o.path, "/") == r.URL.Path {
		rest, ok = "", true
	}
	if !ok {
		o.serveElsewhere(w, r)
		return
	}
	h := w.Header()
	o.setCaching(h, r)
	o.cors.set(h, r)
	if sealed, ok := strings.CutPrefix(rest, linkPrefix); ok {
		o.serveLink(w, r, sealed)
		return
	}
	switch {
	case r.Method == http.MethodOptions:
		o.cors.preflight(h)
		h.Set("Allow", allowedMethods)
		w.WriteHeader(http.StatusNoContent)
	case grip.IsWebSocket(r):
		o.serveMessages(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", allowedMethods)
		writeProblem(w, r, problem{Status: http.StatusMethodNotAllowed, Detail: "use GET; records are produced to Kafka, not here"})
	default:
		c, err := o.identify(r)
		switch {
		case err != nil:
			o.fail(w, r, err)
		case rest == "" && !r.URL.Query().Has("topic"):
			o.serveList(w, r, c)
		default:
			o.serveEvents(w, r, rest, c)
		}
	}
}

// answerTimeout bounds how long any answer may take; then it is the transient
// one, or for a link that of "later". It is more than catchUpWait.
const answerTimeout = 8 * time.Second

// patient bounds how long the answer to r may take: a broker that takes
// connections and never answers must not keep a client waiting for its first
// bytes.
func patient(r *http.Request) (*http.Request, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	return r.WithContext(ctx), cancel
}

const allowedMethods = "GET, HEAD, OPTIONS"

// serveEvents answers a client's request for the events of topics. Order of
// checks: syntax, permission by name, existence, position.
func (o *Origin) serveEvents(w http.ResponseWriter, r *http.Request, path string, c *caller) {
	s, err := parseSelection(path, r, o.ignore, o.queries, o.hub.veil.sealer(), c, o.now())
	if err != nil {
		o.fail(w, r, err)
		return
	}
	if !o.shows(c, r, s.topics...) {
		o.tellHidden(w.Header(), s.topics, c)
		o.notFound(w, r) // as if there were no such topic
		return
	}
	if r.Method == http.MethodHead {
		o.serveHead(w, r, &s)
		return
	}
	o.tellReader(w.Header(), s.topics, c)
	if o.serveNow(w, &s) {
		return
	}
	r, cancel := patient(r)
	defer cancel()
	topics, err := o.find(r.Context(), s.topics)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	if err := o.decoder.allows(&s); err != nil {
		o.fail(w, r, err)
		return
	}
	if s.bounded() && s.start.kind == startCursor && s.start.cursor.Phase == cursor.PhaseEnd {
		w.WriteHeader(http.StatusNoContent) // EventSource stops for good
		return
	}
	p, gaps, err := o.begin(r.Context(), &s, topics)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	if s.failOnGap && len(gaps) > 0 {
		for i := range gaps {
			gaps[i] = o.hub.veil.shown(gaps[i])
		}
		writeProblem(w, r, problem{Status: http.StatusGone, Detail: "records that were asked for no longer exist", Gaps: gaps})
		return
	}
	if s.longPoll {
		o.longPoll(w, r, p, gaps, s.wait)
		return
	}
	o.openStream(w, r, &s, p, gaps)
}

// find looks every topic up.
func (o *Origin) find(ctx context.Context, names []string) ([]*topicInfo, error) {
	topics := make([]*topicInfo, len(names))
	for i, name := range names {
		var err error
		if topics[i], err = o.catalog.lookup(ctx, name); err != nil {
			return nil, err
		}
	}
	return topics, nil
}

// begin resolves the position of a new stream, and makes the page that its
// events begin on. topics are what the selection's topics were found to be.
func (o *Origin) begin(ctx context.Context, s *selection, topics []*topicInfo) (*page, []gap, error) {
	for try := 1; ; try++ {
		p, gaps, err := o.beginWith(ctx, s, topics)
		if !errors.Is(err, errRecreated) || try == recreations {
			return p, gaps, err
		}
		if topics, err = o.find(ctx, s.topics); err != nil {
			return nil, nil, err
		}
	}
}

// recreations is how often a request begins anew because a topic was created
// again meanwhile.
const recreations = 3

func (o *Origin) beginWith(ctx context.Context, s *selection, topics []*topicInfo) (*page, []gap, error) {
	l := link{
		Topics: slices.Clone(s.topics), queryText: s.query.textOf(), Form: s.form, IDs: s.ids, Event: s.eventFrom, Quiet: s.commentOnly, Schema: s.schema, Bare: s.bare,
		Via: s.via, LongPoll: s.longPoll, Limit: s.limit, Marks: s.marks,
		pace: pace{Speed: s.speed}, sparing: s.sparing, HeartbeatMS: s.heartbeat.Milliseconds(), ReplayBytes: o.decoder.replayBytes(o.replayBytes, s.topics), Since: s.start.minute(o.now()),
		Right: o.rightTo(s),
	}
	if !s.until.IsZero() {
		l.Until = max(s.until.UnixMilli(), 1) // 0 is none
	}
	topics, err := o.upToCursor(ctx, topics, s)
	if err != nil {
		return nil, nil, err
	}
	if err := checkPartitions(topics, s.query.partsOf()); err != nil {
		return nil, nil, err
	}
	if s.start.newest {
		if err := o.checkCompacted(ctx, topics); err != nil {
			return nil, nil, err
		}
	}
	sc := scope{topics, s.query}
	ch, head, err := o.hub.open(ctx, sc, l.holdRendering())
	if err != nil {
		return nil, nil, err
	}
	pos, gaps, err := o.resolver.resolve(ctx, sc, ch, head, s.start)
	if err != nil {
		return nil, nil, err
	}
	if s.start.newest {
		outdated, err := o.outdated(ctx, topics, &s.start.cursor, pos, head, gaps)
		if err != nil {
			return nil, nil, err
		}
		if gaps = append(gaps, outdated...); s.start.kind == startSnapshot || beginsAnew(gaps) {
			l.beginSnapshot(0)
		}
	}
	return o.newPage(l, sc, ch, pos), gaps, nil
}

// upToCursor looks the topics up again if the cursor may know more of them than
// we do: another replica has seen first that there are more partitions, or that
// a topic was created again.
func (o *Origin) upToCursor(ctx context.Context, topics []*topicInfo, s *selection) ([]*topicInfo, error) {
	blocks := s.start.cursor.Blocks
	if more, _ := o.catalog.compare(blocks, topics); !more {
		return topics, nil
	}
	if err := o.catalog.refreshSoon(ctx); err != nil {
		return nil, err
	}
	topics, err := o.find(ctx, s.topics)
	if err == nil {
		_, foreign := o.catalog.compare(blocks, topics)
		o.catalog.remember(foreign)
	}
	return topics, err
}

// A noPartitionError says that a topic has no such partition.
type noPartitionError struct {
	topic     string
	partition int32
	has       int
}

func (e *noPartitionError) Error() string {
	return fmt.Sprintf("partition=%d: topic %s has the partitions 0 to %d", e.partition, e.topic, e.has-1)
}

// checkPartitions refuses partitions that a topic has not.
func checkPartitions(topics []*topicInfo, parts parts) error {
	for _, t := range topics {
		for _, p := range parts {
			if int(p) >= t.partitions() {
				return &noPartitionError{t.name, p, t.partitions()}
			}
		}
	}
	return nil
}

// newPage makes the page at pos of streams that hold ch when they have caught up.
func (o *Origin) newPage(l link, sc scope, ch *channel, pos vector) *page {
	p := &page{metrics: &o.metrics, memory: &o.memory, link: l, scope: sc, tags: ch.index.tags, pos: pos, now: o.now(), minute: l.Since, maxBytes: o.pageBytes, w: &ch.writer}
	if r := l.rendering(); r != ch.rendering { // it holds hints
		p.w = &writer{rendering: r, channel: channelName(l.Topics, sc.query, r), maxBytes: int32(o.maxBytes), maxID: int32(o.hub.maxID), cloud: newCloud(r.form, o.path, l.Topics, ch.index.tags), veil: o.hub.veil}
	}
	if l.LongPoll {
		p.maxBytes, p.maxEvents = longPollBytes, longPollEvents
	}
	if l.Rate != "" {
		p.maxBytes, p.link.ReplayBytes = min(p.maxBytes, sparedPageBytes), 0 // it reads the same again and again
	}
	return p
}

// openStream answers with the first bytes of a stream: they must be on their
// way before any history is read from Kafka. What is at hand goes with them. What
// follows is a hold where that is all, else a link to the next page.
func (o *Origin) openStream(w http.ResponseWriter, r *http.Request, s *selection, p *page, gaps []gap) {
	ch, to, err := o.joins(r.Context(), s, p)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	h := w.Header()
	p.out = appendOpening(p.out, h, s)
	p.gaps(gaps)
	switch {
	case ch == nil:
	case !p.pos.covers(to):
		o.addAtHand(p, to)
	case s.start.kind != startCursor && !s.commentOnly:
		if id := p.visibleID(0); id != nil {
			p.out = p.w.appendAnnouncement(p.out, s.via, id)
		}
	}
	if ch != nil && p.pos.covers(to) {
		o.hold(h, ch, p)
	} else {
		o.next(h, p)
	}
	o.keep(h, s.caller)
	w.WriteHeader(http.StatusOK)
	w.Write(p.out)
}

// joins returns the channel that the stream is to hold, and where it joins it;
// none where the first page decides that.
func (o *Origin) joins(ctx context.Context, s *selection, p *page) (*channel, vector, error) {
	if s.bounded() || p.link.Marks || s.speed > 0 || s.query.isChanging() && !o.hub.tellsChanges(p.scope) {
		return nil, nil, nil // the page decides what ends and what is marked
	}
	return o.target(ctx, p)
}

// appendOpening appends what every stream begins with, before anything that
// depends on where it begins, and says in h what it is.
func appendOpening(dst []byte, h http.Header, s *selection) []byte {
	h["X-Accel-Buffering"] = unbuffered
	switch {
	case s.via == overWebSocket:
		h["Content-Type"] = typeEvents
		h["Sec-Websocket-Extensions"] = bareMessages
		if s.form == formPlain {
			h["Sec-Websocket-Extensions"] = markedMessages
		}
		switch s.protocol {
		case protocolJSON:
			h["Sec-Websocket-Protocol"] = speakJSON
		case protocolCloud:
			h["Sec-Websocket-Protocol"] = speakCloud
		case protocolPlain:
			h["Sec-Websocket-Protocol"] = speakPlain
		}
		dst = append(dst, openEvent...)
		if s.form != formJSON {
			dst = append(dst, detachEvent...)
		}
	case s.form.lines():
		h["Content-Type"] = typeNDJSON
	default:
		h["Content-Type"] = typeSSE
		dst = appendPreamble(dst, s.padding)
	}
	return dst
}

// openEvent begins a WebSocket, and detachEvent says that nothing which the
// client says is to be passed on.
var (
	openEvent   = grip.AppendEvent(nil, grip.Event{Type: grip.EventOpen})
	detachEvent = grip.AppendControlEvent(nil, grip.Control{Type: grip.ControlDetach})
)

// appendPreamble appends what every SSE stream begins with: a comment, so that
// onopen fires and proxies see a response, and the reconnect delay.
func appendPreamble(dst []byte, padding bool) []byte {
	dst = append(dst, ":ok\n"...)
	dst = appendRetry(dst, retryMin, retryMax)
	if padding {
		dst = append(dst, ':')
		dst = append(dst, strings.Repeat(" ", paddingBytes)...)
		dst = append(dst, "\n\n"...)
	}
	return dst
}

const (
	retryMin     = time.Second
	retryMax     = 5 * time.Second
	paddingBytes = 2048
)

// appendRetry appends a random reconnect delay, so that clients that lose
// their connections together do not come back together.
func appendRetry(dst []byte, least, most time.Duration) []byte {
	d := least + rand.N(most-least)
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, d.Milliseconds(), 10)
	return append(dst, "\n\n"...)
}

// hold makes the gateway hold the stream on a channel, from the page's
// position on.
func (o *Origin) hold(h http.Header, ch *channel, p *page) {
	l := p.link
	o.setHold(h, []string{ch.channel + "; prev-id=" + p.internalID() + l.sparing.params()}, l.Form, time.Duration(l.HeartbeatMS)*time.Millisecond)
	if !l.bounded() && !l.Marks {
		h["Grip-Link"] = o.holdLink(ch, l.Topics, l.queryText, holdLink{via: l.Via, subscription: l.Subscription, heartbeatMS: l.HeartbeatMS, sparing: l.sparing}, l.Right)
		return
	}
	l.Cursor, l.ReplayBytes, l.Replayed, l.pace = "", 0, 0, pace{} // Grip-Last says where; the replay is over
	left := l.Right.left(p.now)
	if l.Until > 0 && p.until == nil {
		left = sooner(left, max(time.UnixMilli(l.Until).Sub(p.now), time.Millisecond))
	}
	h["Grip-Link"] = o.nextLink(&l, timeout(left))
}

// sooner is the shorter of two times to wait, of which 0 is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// timeout is the parameter of a next link that is to be asked by then at the
// latest; 0 is never.
func timeout(left time.Duration) string {
	if left == 0 {
		return ""
	}
	return "; timeout=" + seconds(min(left, longestTimeout))
}

// setHold sets what all stream holds say, but for their links. heartbeat is 0
// for the default.
func (o *Origin) setHold(h http.Header, channel []string, f form, heartbeat time.Duration) {
	h["Grip-Hold"] = holdStream
	h["Grip-Channel"] = channel
	h["Grip-Keep-Alive"] = o.keepAlives.value(f, heartbeat)
}

// holdLink is the next link of streams that hold ch and do not end by
// themselves. Grip-Last says where they are when they ask it, so that they
// share it, but for those that are held by somebody's right.
func (o *Origin) holdLink(ch *channel, topics []string, query queryText, like holdLink, right *right) []string {
	make := func() []string {
		return o.nextLink(&link{
			Topics: slices.Clone(topics), queryText: query, Form: ch.form, IDs: ch.ids, Event: ch.eventFrom, Quiet: ch.commentOnly, Schema: ch.schema, Bare: ch.bare,
			Via: like.via, Subscription: like.subscription, HeartbeatMS: like.heartbeatMS, sparing: like.sparing, Right: right,
		}, timeout(right.left(o.now())))
	}
	if right != nil {
		return make()
	}
	like.key = o.sealer.key()
	return ch.links.value(like, make)
}

// longestTimeout bounds how long a stream waits for a time that is far away
// before it asks again.
const longestTimeout = time.Hour

// pauseChannel is what a stream holds until the first record of its next page is
// due: a channel that never has anything. One is enough for all streams, and no
// topic or view has such a name.
const pauseChannel = "~pause"

// silence knows the items of pauseChannel: there are none.
type silence struct{}

func (silence) ID(uint64) (string, bool)  { return "", false }
func (silence) Seq(string) (uint64, bool) { return 0, true }

// pause makes the gateway ask for the next page when its first record is due.
func (o *Origin) pause(h http.Header, p *page) {
	l := p.link
	l.Cursor = p.internalID()
	if l.Rate != "" {
		l.Rest = p.now.Add(p.pause).UnixMilli()
	}
	o.setHold(h, holdPause, l.Form, time.Duration(l.HeartbeatMS)*time.Millisecond)
	h["Grip-Link"] = o.nextLink(&l, timeout(sooner(l.Right.left(p.now), max(p.pause, time.Millisecond))))
}

// next makes the gateway ask for the page after this one.
func (o *Origin) next(h http.Header, p *page) {
	l := p.link
	l.Cursor = p.internalID()
	h["Grip-Link"] = o.nextLink(&l, "")
}

// nextLink is the value of Grip-Link that names l.
func (o *Origin) nextLink(l *link, params string) []string {
	sealed, err := o.sealer.seal(l)
	if err != nil {
		o.log.Error("next link", "err", err) // the stream ends after this page, and the client resumes
		return nil
	}
	return []string{"<" + o.path + sealed + ">; rel=next" + params}
}

// seconds writes a duration as GRIP does, with fractions.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', 3, 64)
}

// serveLink answers a gateway that follows a next link. To anyone else there
// is no such page.
func (o *Origin) serveLink(w http.ResponseWriter, r *http.Request, sealed string) {
	l, err := o.sealer.open(sealed)
	if err != nil || !grip.FromLink(r.Context()) {
		o.notFound(w, r)
		return
	}
	r, cancel := patient(r)
	defer cancel()
	if err := o.check(r.Context(), l); err != nil {
		o.failLink(w, r, l, err)
		return
	}
	p, err := o.resume(r, l)
	if err != nil {
		o.failLink(w, r, l, err)
		return
	}
	var ch *channel
	live := false
	// A link that is asked early, since rights had to be looked at, brings nothing early.
	p.pause, p.link.Rest = max(0, time.UnixMilli(l.Rest).Sub(p.now)), 0
	if p.pause == 0 {
		if ch, live, err = o.follow(r.Context(), p); err != nil {
			o.failLink(w, r, l, err)
			return
		}
	}
	h := w.Header()
	switch {
	case l.LongPoll:
		writeEvents(w, p)
		return
	case l.Via == overWebSocket:
		h["Content-Type"] = typeEvents
		if p.ended != "" && !l.Subscription {
			p.out = grip.AppendEvent(p.out, grip.Event{Type: grip.EventClose, Content: grip.CloseContent(1000, "")})
		}
	default:
		h["Content-Type"] = typeBytes
	}
	switch {
	case p.ended != "":
	case p.pause > 0:
		o.pause(h, p)
	case live:
		o.hold(h, ch, p)
	default:
		o.next(h, p)
	}
	w.WriteHeader(http.StatusOK)
	w.Write(p.out)
	o.memory.keep(p.out)
}

// resume makes the page of a link, at the position that the gateway named or
// else the link's own.
func (o *Origin) resume(r *http.Request, l *link) (p *page, err error) {
	for range recreations {
		var topics []*topicInfo
		if topics, err = o.find(r.Context(), l.Topics); err != nil {
			return nil, err
		}
		if p, err = o.resumeWith(r, l, topics); !errors.Is(err, errRecreated) {
			break
		}
	}
	return p, err
}

func (o *Origin) resumeWith(r *http.Request, l *link, topics []*topicInfo) (*page, error) {
	text := l.Cursor
	lasts, err := grip.ParseLast(r.Header)
	if err != nil {
		return nil, fmt.Errorf("Grip-Last: %w", err)
	}
	// Between two pages there is no channel, whatever was held before.
	if len(lasts) > 0 && lasts[0].ID != "" && (text == "" || l.LongPoll) {
		text = lasts[0].ID
	}
	pos, tags, minute, ok := parsePosition(text)
	if !ok {
		return nil, fmt.Errorf("position %q is none of ours", text)
	}
	q, err := o.queries.of(l.queryText)
	if err != nil {
		return nil, fmt.Errorf("query of a link: %w", err)
	}
	sc := scope{topics, q}
	ch, head, err := o.hub.open(r.Context(), sc, l.holdRendering())
	if err != nil {
		return nil, err
	}
	p := o.newPage(*l, sc, ch, nil)
	p.minute = minute
	if l.Cursor == "" { // a stream that had caught up
		p.link.Since = minute
		if !l.LongPoll && !l.bounded() && l.Rate == "" {
			o.fallBehind(p, minute)
		}
	}
	if slices.Equal(tags, p.tags) && head.covers(pos) {
		p.pos = pos
		if l.Cursor == "" && l.Rate != "" && !q.isChanging() { // that one begins again where it does not know what it missed
			p.skipTo(ch.index.oldest())
		}
		if l.Bound != "" {
			p.until, _, _, _ = parsePosition(l.Bound)
		}
		if l.Existed != "" {
			p.existed, _, _, _ = parsePosition(l.Existed)
		}
		return p, nil
	}
	// A topic was created again under the stream, or its log was cut off.
	var gaps []gap
	p.pos, gaps, err = o.resolver.resolve(r.Context(), sc, ch, head, start{kind: startCursor, cursor: pos.cursor(minute, tags)})
	if err != nil {
		return nil, err
	}
	p.gaps(gaps)
	return p, nil
}

// serveHead answers from what is known, without waiting for Kafka.
func (o *Origin) serveHead(w http.ResponseWriter, r *http.Request, s *selection) {
	for _, name := range s.topics {
		if _, _, err := o.catalog.cached(name); !o.catalog.exposed(name) || errors.Is(err, errUnknownTopic) {
			o.notFound(w, r)
			return
		}
	}
	if err := o.decoder.allows(s); err != nil {
		o.fail(w, r, err)
		return
	}
	h := w.Header()
	switch {
	case s.longPoll:
		h["Content-Type"] = pollType(s.form)
	case s.form.lines():
		h["Content-Type"] = typeNDJSON
	default:
		h["Content-Type"] = typeSSE
	}
	h["X-Accel-Buffering"] = unbuffered
	w.WriteHeader(http.StatusOK)
}

// setCaching keeps every answer out of caches and proxies' compressors.
func (o *Origin) setCaching(h http.Header, r *http.Request) {
	value := uncached
	if o.auth != nil || first(r.Header["Authorization"]) != "" || first(r.Header["Cookie"]) != "" {
		value = uncachedPrivate // for caches that heed nothing else where credentials are
	}
	h["Cache-Control"] = value
}

// first is the first value of a header field, or "". Callers name the field in
// its canonical form, which saves Header.Get's look at every byte of it.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// pathOf is the URL path of a topic's events.
func (o *Origin) pathOf(topic string) string { return o.path + url.PathEscape(topic) + "/" }
