package relay

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/cursor"
)

const (
	longPollEvents = 500
	longPollBytes  = 1 << 20
)

// A page is a piece of history, written down, and what follows it.
type page struct {
	metrics *originMetrics
	memory  *pageMemory
	w       *writer
	link    link // its state moves along with the page
	scope
	tags []cursor.Tag
	pos  vector
	now  time.Time

	maxBytes  int
	maxEvents int64  // 0: none
	until     vector // where a bounded replay ends; nil while unknown
	existed   vector // what is before the live event; nil while unknown or not owed

	out     []byte
	id      []byte
	trail   trail  // of pos
	told    []byte // the newest id that is in out, where there is a filter
	events  int64
	minute  int64 // of the newest record before pos, for cursors
	sinceID int64 // events since one carried an id
	length  int   // of the cursor when the page began, in bytes; 0: not yet measured
	spent   bool  // ReplayBytes are used up
	first   bool  // it is in a stream's first answer
	looked  int64 // bytes that were gone through, where there is a filter
	ended   string
	pause   time.Duration // until the next record is due, of a paced replay

	// caughtUp says that pos is where the live channel goes on, and liveMinute
	// is then a time before all that follows. See appendID.
	caughtUp   bool
	liveMinute int64

	last      kgo.Record // the newest that was written, if it has no id,
	lastStart int        // and where in out the newest begins
	pieces    pieces     // of a stream that is spared some
}

// What a page holds before memory is made for all of it, and how much that is.
const smallPage, largePage = 4 << 10, 64 << 10

// A pageMemory is that of whole pages which have been sent.
type pageMemory struct{ sync.Pool } // of *[]byte

// grow returns out in memory for a whole page.
func (m *pageMemory) grow(out []byte) []byte {
	if had, ok := m.Get().(*[]byte); ok {
		return append((*had)[:0], out...)
	}
	return slices.Grow(out, largePage)
}

// keep takes the memory of a page that has been sent.
func (m *pageMemory) keep(out []byte) {
	if c := cap(out); largePage <= c && c <= 4*largePage { // rare large records must not stay for ever
		m.Put(&out)
	}
}

// record implements walker.
func (p *page) record(t int, r *kgo.Record) bool {
	if p.first && sizeOf(r) > firstRecordBytes {
		p.pos[t][r.Partition] = r.Offset // its turn comes later
		return false
	}
	bytes := int64(len(r.Key) + len(r.Value))
	r = p.shown(r)
	if p.link.Speed > 0 {
		if p.pause = p.link.due(r.Timestamp, p.now); p.pause > 0 {
			p.pos[t][r.Partition] = r.Offset // its turn comes later
			return false
		}
	}
	if !p.wide() {
		p.minute = minuteOf(r.Timestamp, p.now)
	}
	p.write(r)
	if !p.link.sparing.none() {
		p.pieces.add(t, r, p.lastStart, len(p.out), p.minute)
	}
	if p.link.Limit > 0 {
		if p.link.Limit--; p.link.Limit == 0 {
			p.ended = "limit"
			return false
		}
	}
	if p.query.filterOf() == nil && !p.replayed(bytes) { // else scanned has counted it
		return false
	}
	return len(p.out) < p.maxBytes && (p.maxEvents == 0 || p.events < p.maxEvents)
}

// shown is a record as the view shows it.
func (p *page) shown(r *kgo.Record) *kgo.Record {
	if p.query == nil || p.query.fields == nil {
		return r
	}
	shown := *r
	p.query.project(&shown, nil)
	return &shown
}

// write adds the event of a record.
func (p *page) write(r *kgo.Record) {
	p.sinceID++
	var id []byte
	if p.idIsDue() {
		if id = p.visibleID(0); len(id) > 0 {
			p.sinceID = 0
		}
	}
	p.tell(id)
	if p.lastStart = len(p.out); len(id) == 0 {
		p.last = *r
	}
	if len(p.out) > smallPage && cap(p.out) < min(p.maxBytes, largePage) {
		p.out = p.memory.grow(p.out) // it will be a whole one
	}
	p.add(func(dst []byte) []byte { return p.w.appendRecord(dst, p.link.Via, r, id) })
	p.events++
	if o := outcomeOf(r); sizeOf(r) > int(p.w.maxBytes) {
		p.metrics.oversize.Inc()
	} else if o != nil && o.undecodable != "" {
		p.metrics.undecodable.Inc()
	}
	p.link.Replayed++
}

// replayed counts bytes of history that were read for the client. It reports
// false when that is all that one request may read.
func (p *page) replayed(bytes int64) bool {
	p.link.Appended += bytes
	if p.link.ReplayBytes > 0 {
		if p.link.ReplayBytes -= bytes; p.link.ReplayBytes <= 0 {
			p.link.ReplayBytes, p.spent = 0, true
			return false
		}
	}
	return true
}

// pageScanBytes bounds what is gone through for one page where a filter passes
// little. What a list narrows costs a look-up in a block, and a part of that.
const (
	pageScanBytes = 4 << 20
	narrowedPart  = 16
)

// scanned implements walker.
func (p *page) scanned(bytes int64, narrowed bool) bool {
	if narrowed {
		p.looked += bytes / narrowedPart
	} else {
		p.looked += bytes
	}
	takesLong := p.first && !narrowed && p.query.filterOf().Evaluates()
	return p.replayed(bytes) && p.looked < pageScanBytes && !takesLong
}

// wide reports whether there are more partitions than a walk merges by time.
// Then the time of one record says nothing of the other partitions.
func (p *page) wide() bool {
	n := 0
	for _, t := range p.topics {
		n += t.partitions()
	}
	return n > mergeWidth
}

// idIsDue reports whether the next event carries an id, by the rule for long
// cursors (event-semantics.md 3.6). The last event of a page does anyway.
func (p *page) idIsDue() bool {
	if p.length == 0 {
		p.length = p.w.veil.sealer().Len(len(p.trail.at(p.pos, 0, p.minute, p.tags, p.parts())))
	}
	switch {
	case p.length > int(p.w.maxID) && !p.link.LongPoll:
		return false // see visibleID
	case p.link.Rate != "": // each may be the page's last
	case p.w.ids == idBatch, p.w.ids == idAuto && p.length > cursor.EveryEventBytes:
		return p.sinceID >= batchIDEvents
	}
	return true
}

// missing implements walker: retention passed the reader.
func (p *page) missing(t int, partition int32, from, to int64) {
	before := len(p.out)
	p.control(offsetGap(p.topics[t].name, partition, gapRetention, from, to).event(), 0)
	if !p.link.sparing.none() {
		p.pieces.all = append(p.pieces.all, piece{before, len(p.out), t, partition, to, p.minute, false, true})
	}
}

// control adds a control event, with the id of where the page is now.
func (p *page) control(e controlEvent, phase cursor.Phase) {
	p.event(e, p.visibleID(phase))
}

// event adds a control event.
func (p *page) event(e controlEvent, id []byte) {
	if g, ok := e.data.(gap); ok {
		p.metrics.gaps[g.Reason].Inc()
		e.data = p.w.veil.shown(g)
	}
	p.tell(id)
	p.add(func(dst []byte) []byte { return p.w.appendControl(dst, p.link.Via, e, id) })
	p.sinceID = 0
}

// gaps announces what is missing before the page's position. The id of each says
// that those up to it were announced, and no more: who loses the connection in
// between hears of the others again. Of a topic that is another one now there is
// no position before the gap, so these come first, and only the last has an id.
func (p *page) gaps(all []gap) {
	var timed, placed []gap
	for _, g := range all {
		if g.Partition == nil {
			timed = append(timed, g)
		} else {
			placed = append(placed, g)
		}
	}
	here := p.pos
	p.pos = here.clone()
	at := func(g gap) *int64 {
		t := slices.IndexFunc(p.topics, func(t *topicInfo) bool { return t.name == g.Topic })
		return &p.pos[t][*g.Partition]
	}
	for _, g := range slices.Backward(placed) {
		*at(g), _ = g.around()
	}
	for i, g := range timed {
		if i+1 < len(timed) {
			p.event(g.event(), nil)
		} else {
			p.control(g.event(), 0)
		}
	}
	for _, g := range placed {
		_, *at(g) = g.around()
		p.control(g.event(), 0)
	}
	p.pos = here
}

// mark gives the page's last event the id that it was spared, so that a
// reconnect does not repeat what came before it.
func (p *page) mark() {
	id := p.visibleID(0)
	if p.sinceID == 0 || len(id) == 0 || p.link.LongPoll { // the answer to a long poll has an id of its own
		return
	}
	p.sinceID = 0
	p.tell(id)
	p.out = p.w.appendRecord(p.out[:p.lastStart], p.link.Via, &p.last, id)
	if n := len(p.pieces.all); n > 0 {
		p.pieces.all[n-1].end = len(p.out)
	}
}

// visibleID is the id of an event here, or nil where it must have none: a
// cursor without offsets says "all before this time was sent", which is not
// true before the page has caught up. Without an id the client comes back with
// what it came with.
func (p *page) visibleID(phase cursor.Phase) []byte {
	var exact bool
	if phase == cursor.PhaseLive {
		phase = p.link.phase()
	}
	p.id, exact = p.appendID(p.id[:0], phase)
	if !exact && !p.caughtUp && phase != cursor.PhaseEnd {
		return nil
	}
	return p.id
}

// appendID is the cursor of where the page is, in the form that clients see:
// exact, or for views of very many partitions, a time before which all was
// sent. The answer to a long poll is no header, so its id may be long; by time
// alone a poll that is cut off at its most events would never get on.
func (p *page) appendID(dst []byte, phase cursor.Phase) (id []byte, exact bool) {
	start, sealer := len(dst), p.w.veil.sealer()
	dst = append(dst, p.trail.at(p.pos, phase, p.minute, p.tags, p.parts())...)
	if sealer.Len(len(dst)-start) <= int(p.w.maxID) || p.link.LongPoll {
		return sealer.Seal(dst, start), true
	}
	minute := p.link.Since
	if p.caughtUp {
		minute = p.liveMinute
	}
	return sealer.Seal(appendTimeOnly(dst[:start], phase, minute, p.tags, p.pos), start), false
}

// add appends one event; in a long poll, one member of the events array.
func (p *page) add(write func(dst []byte) []byte) {
	if !p.link.LongPoll {
		p.out = write(p.out)
		return
	}
	if len(p.out) > 0 {
		p.out = append(p.out, ',')
	}
	p.out = write(p.out)
	p.out = p.out[:len(p.out)-1] // the line's end
}

// internalID is the exact position, for the gateway and for links.
func (p *page) internalID() string { return p.positionID(p.pos) }

func (p *page) positionID(pos vector) string {
	return string(pos.appendCursor(nil, 0, p.minute, p.tags))
}

// follow makes the page that a link asks for, from position pos on. After it,
// p.ended says why the stream ends, or held where it may be held.
func (o *Origin) follow(ctx context.Context, p *page) (ch *channel, held bool, err error) {
	changing, err := o.prepare(ctx, p)
	if err != nil {
		return nil, false, err
	}
	if err := o.turns.take(ctx, spotOf(p.link.Topics, p.pos, o.blocks.reach(p.topics))); err != nil {
		return nil, false, unavailable("wait for a page", err)
	}
	defer o.turns.giveBack()
	o.metrics.pages.Inc()
	defer o.metrics.pages.Dec()
	snapshots := p.link.Stage == stageSnapshot
	if snapshots {
		if done, err := o.snapshotPage(ctx, p); err != nil || !done {
			return nil, false, err
		}
	}
	ch, to, err := o.target(ctx, p)
	if err != nil {
		return nil, false, err
	}
	if changing && !o.hub.tellsChanges(p.scope) {
		return nil, false, unavailable("join a channel", errors.New("its map is gone"))
	}
	if snapshots {
		o.hub.keepSnapshots(ch)
	}
	if !p.pos.covers(to) && o.tooSlow(p) {
		return nil, false, errTooSlow
	}
	begin := p.pos.clone()
	bounded := to
	if p.until != nil {
		bounded = earliest(to, p.until)
	}
	if changing {
		c := &changes{page: p, filter: p.query.filterOf()}
		if err := o.blocks.walk(ctx, p.topics, p.pos, bounded, nil, c); err != nil {
			return nil, false, err
		}
		if c.undecided {
			o.restart(p)
			return ch, false, nil
		}
	} else if err := o.blocks.walk(ctx, p.topics, p.pos, bounded, p.query.filterOf(), p); err != nil {
		return nil, false, err
	}
	if p.ended == "" {
		p.cutOff(bounded)
	}
	if p.ended == "" && p.until != nil && p.pos.covers(p.until) {
		p.ended = "until"
	}
	if p.ended != "" {
		p.control(controlEvent{name: "end", data: endData{Reason: p.ended}}, cursor.PhaseEnd)
		return ch, false, nil
	}
	p.caughtUp = p.pos.covers(to)
	if !p.link.sparing.none() {
		p.mark()
		p.spare(begin)
		p.caughtUp = p.pos.covers(to)
	}
	if p.caughtUp && p.link.Marks && (!p.link.LongPoll || p.events > 0) { // alone it would answer every poll at once
		live := liveData{Replayed: p.link.Replayed}
		if p.link.Stage == stageReplay {
			live.Complete, p.link.newest = new(bool), newest{}
		}
		p.control(controlEvent{name: "live", data: live}, 0)
		p.link.Marks, p.link.Existed = false, ""
	}
	p.mark()
	p.announce(begin)
	return ch, p.caughtUp, nil
}

// cutOff moves the page to the end of a replay of which it has had as much as one
// request may.
func (p *page) cutOff(to vector) {
	if !p.spent {
		return
	}
	for t, topic := range p.topics {
		for i := range to[t] {
			if from, end := p.pos[t][i], to[t][i]; from < end {
				p.pos[t][i] = end
				p.control(offsetGap(topic.name, int32(i), gapReplayLimit, from, end).event(), 0)
			}
		}
	}
}

// What of history may be in the first answer of a stream, in bytes. It is to be
// no reason for the client to wait.
const firstPageBytes, firstRecordBytes = 16 << 10, 8 << 10

// addAtHand adds what lies before to, as far as it is at hand, to the opening of
// a stream, which saves the gateway a link.
func (o *Origin) addAtHand(p *page, to vector) {
	if !p.link.sparing.none() || p.query.isChanging() || !o.turns.tryTake() {
		return
	}
	defer o.turns.giveBack()
	o.metrics.pages.Inc()
	defer o.metrics.pages.Dec()
	p.first, p.maxBytes = true, min(p.maxBytes, firstPageBytes)
	begin := p.pos.clone()
	o.blocks.walkAtHand(p.topics, p.pos, to, p.query.filterOf(), p)
	p.cutOff(to)
	p.caughtUp = p.pos.covers(to)
	p.mark()
	p.announce(begin)
}

// tell remembers an id that an event carries.
func (p *page) tell(id []byte) {
	if len(id) > 0 && p.query.filterOf() != nil {
		p.told = append(p.told[:0], id...)
	}
}

// announce moves the client's cursor past records that a filter has not passed,
// so that a reconnect does not go through them again.
func (p *page) announce(begin vector) {
	if p.query.filterOf() == nil || p.link.LongPoll || p.w.commentOnly || begin.covers(p.pos) {
		return
	}
	if id := p.visibleID(0); len(id) > 0 && !bytes.Equal(id, p.told) {
		p.out = p.w.appendAnnouncement(p.out, p.link.Via, id)
	}
}

// target is where the page's stream joins the live channel.
func (o *Origin) target(ctx context.Context, p *page) (*channel, vector, error) {
	ch, head, err := o.hub.open(ctx, p.scope, p.link.holdRendering())
	if err != nil {
		return nil, nil, err
	}
	if err := o.resolver.complete(ctx, p.scope, p.pos, head); err != nil {
		return nil, nil, err
	}
	if err := o.bound(ctx, p, head); err != nil {
		return nil, nil, err
	}
	want := p.pos
	for _, bound := range []vector{p.until, p.existed} {
		if bound != nil {
			want = latest(want, bound) // the hub may not be there yet
		}
	}
	to, minute, err := o.hub.attach(ctx, ch, p.scope, want)
	if err != nil {
		return nil, nil, err
	}
	p.liveMinute = minute
	if ch.form == formHint {
		// A hint has no content to skip: the newest position saves going
		// through them one by one.
		if to, err = o.hub.position(p.scope); err != nil {
			return nil, nil, err
		}
	}
	if now := o.now(); p.link.Until > 0 && p.until == nil && now.UnixMilli() >= p.link.Until {
		p.now = now // it has passed meanwhile, so this position may lie behind the end
		return o.target(ctx, p)
	}
	return ch, to, o.resolver.complete(ctx, p.scope, p.pos, to)
}

// bound finds out where a time that has passed ends the replay, and where what
// existed when it began does. Both are what Kafka has, not what the hub has
// read: a record before the bound may still be on its way here.
func (o *Origin) bound(ctx context.Context, p *page, head vector) error {
	until := time.UnixMilli(p.link.Until)
	untilPassed := p.link.Until > 0 && p.until == nil && !until.After(p.now)
	marks := p.link.Marks && p.existed == nil
	if !untilPassed && !marks {
		return nil
	}
	ends, err := o.resolver.ends(ctx, p.scope, head)
	if err != nil {
		return err
	}
	if marks {
		p.existed = ends
		p.link.Existed = p.positionID(ends)
	}
	if untilPassed {
		if p.until, err = o.resolver.after(ctx, p.topics, ends, until); err != nil {
			return err
		}
		p.link.Bound = p.positionID(p.until)
	}
	return nil
}

// errTooSlow says that a stream fell further behind than CATCHUP_MAX_BYTES or
// CATCHUP_MAX_AGE allow.
var errTooSlow = errors.New("too slow: the stream fell behind further than it may; come back for what is missing")

// fallBehind notes that a stream that had caught up asks for what its channel's
// log no longer holds.
func (o *Origin) fallBehind(p *page, minute int64) {
	p.link.lag = lag{Fell: p.now.UnixMilli(), Age: p.now.Unix()/60 - minute, Appended: o.hub.appended(p.topics)}
}

// tooSlow reports whether a stream fell behind, and since then further than it may.
func (o *Origin) tooSlow(p *page) bool {
	l := &p.link.lag
	if l.Fell == 0 {
		return false
	}
	age := time.Duration(p.now.Unix()/60-p.minute-l.Age) * time.Minute
	return o.lagBytes > 0 && o.hub.appended(p.topics)-l.Appended > o.lagBytes || o.lagAge > 0 && age > o.lagAge
}

// appended is how many bytes the hub has read of the topics in this life.
func (h *hub) appended(topics []*topicInfo) (bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, info := range topics {
		if t := h.topics[info.name]; t != nil {
			bytes += t.bytes
		}
	}
	return bytes
}

// position is H of the topics now.
func (h *hub) position(sc scope) (vector, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pos, ok := h.positionOf(sc)
	if !ok {
		return nil, unavailable("read position", errors.New("a topic stopped being read"))
	}
	return pos, nil
}

// earliest is the earlier of two positions, partition by partition.
func earliest(a, b vector) vector {
	out := a.clone()
	for t := range out {
		for p := range out[t] {
			if p < len(b[t]) {
				out[t][p] = min(out[t][p], b[t][p])
			} else {
				out[t][p] = 0 // it was added after b, which ends before it
			}
		}
	}
	return out
}
