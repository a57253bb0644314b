package fanout

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"spillway/grip"
)

// Config bounds the logs. A zero value means the default.
type Config struct {
	ChannelLogBytes int64         // of one channel; default 4 MiB
	ChannelLogAge   time.Duration // of an item; default 60s

	// ChannelLogMinAge is how long an item stays, whatever ChannelLogBytes says,
	// while less than half of LogMemory is in use: on a channel that is very
	// fast, that many bytes may be less than a busy machine's moment.
	ChannelLogMinAge time.Duration

	LogMemory int64 // of all channels together, in bytes; default 256 MiB

	// PrivateMemory is how many bytes may wait for single connections, of all
	// together; default 128 MiB. What goes beyond it ends its connection.
	PrivateMemory int64

	// MaxPause bounds how long items wait, on a channel with so many connections
	// that a round of writes takes a while, for others to leave with them. 0: not
	// at all.
	MaxPause time.Duration

	// Linger is how long a foreign channel outlives its last subscriber, so
	// that a long poll's next request finds what came in between; default 60s
	// (Pushpin's subscription_linger).
	Linger time.Duration

	// IDCacheAge and IDCacheSize bound the memory of ids that were published:
	// for how long a repetition is recognised, and how many ids at most.
	// Default 60s (Pushpin's id_cache_ttl) and 100,000.
	IDCacheAge  time.Duration
	IDCacheSize int

	// MessageWait is how long an item of a foreign channel waits for those that
	// its prev-id says are missing; default 5s (Pushpin's message_wait).
	MessageWait time.Duration

	// WaitingMemory is how many bytes of such items may wait, of all channels
	// together; default 16 MiB. Others are dropped.
	WaitingMemory int64

	// FirstUpdate is how long after the first subscription to a foreign channel
	// its subscribers ask their origins: what was published before nobody has got
	// (GRIP reference, 4.2). 0: never.
	FirstUpdate time.Duration

	// Portable makes goroutines write to all connections, as where there is no
	// epoll.
	Portable bool

	// NoIOUring makes shards write with a system call for each connection, as
	// where io_uring is forbidden or missing.
	NoIOUring bool
}

func (c *Config) defaults() {
	set := func(n *int64, d int64) {
		if *n == 0 {
			*n = d
		}
	}
	set(&c.ChannelLogBytes, 4<<20)
	set((*int64)(&c.ChannelLogAge), int64(60*time.Second))
	set(&c.LogMemory, 256<<20)
	set(&c.PrivateMemory, 128<<20)
	set((*int64)(&c.Linger), int64(60*time.Second))
	set((*int64)(&c.IDCacheAge), int64(60*time.Second))
	set((*int64)(&c.MessageWait), int64(5*time.Second))
	set(&c.WaitingMemory, 16<<20)
	if c.IDCacheSize == 0 {
		c.IDCacheSize = 100_000
	}
}

// An Engine is all channels of a gateway. It implements grip.Gateway.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	metrics *metrics
	secret  [16]byte // in the hashes of keys

	logBytes    atomic.Int64 // memory of all logs
	subscribers atomic.Int64 // members of all channels
	order       order
	warned      atomic.Int64 // when warnMemory last did, on the engine's clock

	mu       sync.RWMutex
	channels map[string]*channel // guarded by mu

	seen         idCache
	agenda       agenda
	waitingBytes atomic.Int64 // of items that wait for those before them

	coders       sync.Pool      // of *[]byte, for what is to be compressed
	loops        []*loop        // shards, and last the portable one
	turn         atomic.Uint32  // of which shard gets the next connection
	ids          atomic.Uint64  // of connections
	telling      sync.WaitGroup // calls of owners, and goroutines of connections
	privateBytes atomic.Int64   // that wait for single connections, or are halves of what their clients say
	drainWithin  atomic.Int64   // connections end at a random moment within; 0: they do not
	keepAlives   sync.Map       // of keepAliveKey to *keepAlive
	kept         atomic.Int32   // entries of keepAlives
}

var _ grip.Gateway = (*Engine)(nil)

// New makes an engine. Its channels age only while Run runs.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Engine {
	cfg.defaults()
	e := &Engine{
		cfg:      cfg,
		log:      log,
		started:  time.Now(),
		channels: make(map[string]*channel),
	}
	_, _ = rand.Read(e.secret[:]) // never fails
	e.coders.New = func() any { return new([]byte) }
	e.seen.init(cfg.IDCacheAge, cfg.IDCacheSize)
	e.agenda.news = make(chan struct{}, 1)
	var mechs []mechanism
	if !cfg.Portable {
		mechs = newMechanisms(cfg)
	}
	for i, m := range append(mechs, newPortable()) {
		e.loops = append(e.loops, newLoop(e, i, m))
	}
	e.metrics = newMetrics(e, reg)
	return e
}

// nextClass is the size of a channel's next segment, in bytes: twice that of the
// one before, but small against the channel's limit, since a log is evicted by
// segments. While memory is short, segments get smaller again, since each
// channel keeps at least one.
func (e *Engine) nextClass(class int) int {
	if e.logBytes.Load() > e.cfg.LogMemory/2 {
		return max(class/2, firstSegmentBytes)
	}
	most := min(e.cfg.ChannelLogBytes/16, maxSegmentBytes)
	return max(min(2*class, int(most)), firstSegmentBytes)
}

// now is the engine's clock: the time since it was made.
func (e *Engine) now() time.Duration { return time.Since(e.started) }

// Run writes to connections, and drops what has become too old, until ctx ends.
// Then all connections are cut; it returns when their owners know.
func (e *Engine) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var loops errgroup.Group
	for _, l := range e.loops {
		loops.Go(func() error {
			defer stop() // one without the others is of no use
			return l.run(ctx.Done())
		})
	}
	rouse := context.AfterFunc(ctx, func() {
		for _, l := range e.loops {
			l.nudge()
		}
	})
	defer rouse()
	tick := time.NewTicker(max(time.Second, min(e.cfg.ChannelLogAge, e.cfg.Linger)/12))
	defer tick.Stop()
	next := time.NewTimer(e.agenda.keep(e.now))
	defer next.Stop()
	for {
		select {
		case <-next.C:
			next.Reset(e.agenda.keep(e.now))
		case <-e.agenda.news:
			next.Reset(e.agenda.keep(e.now))
		case <-ctx.Done():
			err := loops.Wait()
			e.telling.Wait()
			return err
		case <-tick.C:
			e.sweep()
		}
	}
}

// Keep counts bytes that an owner keeps for its connection alone: more of them, or
// fewer.
func (e *Engine) Keep(more int) { e.privateBytes.Add(int64(more)) }

// Crowded reports whether as much waits for single connections as may.
func (e *Engine) Crowded() bool { return e.privateBytes.Load() >= e.cfg.PrivateMemory }

// sweep evicts by age, and forgets foreign channels that nobody listens to.
func (e *Engine) sweep() {
	e.mu.RLock()
	all := make([]*channel, 0, len(e.channels))
	for _, ch := range e.channels {
		all = append(all, ch)
	}
	e.mu.RUnlock()
	now := e.now()
	for _, ch := range all {
		ch.mu.Lock()
		ch.limit(now)
		ch.forgetKeys(now)
		idle := ch.foreign() && ch.readers == 0 && now-ch.idleSince > e.cfg.Linger
		ch.mu.Unlock()
		if idle {
			e.forgetIdle(ch)
		}
	}
	e.seen.expire(now)
}

// forgetIdle removes a foreign channel, unless someone has come meanwhile.
func (e *Engine) forgetIdle(ch *channel) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ch.mu.Lock()
	idle := ch.readers == 0
	ch.mu.Unlock()
	if idle && ch.retire(func(*member) {}) && e.channels[ch.name] == ch {
		delete(e.channels, ch.name)
	}
}

// forget takes a dead channel's name away from it.
func (e *Engine) forget(ch *channel) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.channels[ch.name] == ch {
		delete(e.channels, ch.name)
	}
}

// Open implements grip.Gateway.
func (e *Engine) Open(name string, ids grip.IDs) grip.Channel {
	ch := newChannel(e, name, ids)
	e.mu.Lock()
	old := e.channels[name]
	e.channels[name] = ch
	e.mu.Unlock()
	if old != nil {
		old.replace()
	}
	return handle{ch}
}

// count is how many channels there are.
func (e *Engine) count() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.channels)
}

// IsOpen reports whether a publisher in this process owns the channel.
func (e *Engine) IsOpen(name string) bool {
	e.mu.RLock()
	ch := e.channels[name]
	e.mu.RUnlock()
	return ch != nil && !ch.foreign()
}

// An OwnedError refuses content for a channel that has a publisher in this
// process.
type OwnedError struct{ Channel string }

func (err *OwnedError) Error() string {
	return fmt.Sprintf("channel %q belongs to a publisher in this process; only close, hint and refresh may be published to it", err.Channel)
}

// A Receipt says what became of items from outside.
type Receipt struct {
	Receivers  int // subscribers of the items' channels, counted for each item
	Duplicates int // items that repeated an id, and were dropped
}

// Publish implements grip.Publisher, for items from outside: see Deliver.
func (e *Engine) Publish(_ context.Context, items ...grip.Item) error {
	_, err := e.Deliver(items)
	return err
}

// Deliver adds items from outside to foreign channels that exist. Content for a
// channel that is open refuses all items with an *OwnedError; actions go to
// those who are attached now, without a place in the log.
func (e *Engine) Deliver(items []grip.Item) (Receipt, error) {
	for i := range items {
		if HasContent(&items[i]) && e.IsOpen(items[i].Channel) {
			return Receipt{}, &OwnedError{items[i].Channel}
		}
	}
	e.metrics.published.Add(int64(len(items)))
	fresh := make([]grip.Item, 0, len(items))
	now := e.now()
	for _, it := range items {
		if it.ID != "" && !e.seen.add(it.Channel, it.ID, now) {
			continue
		}
		fresh = append(fresh, it)
	}
	r := Receipt{Duplicates: len(items) - len(fresh)}
	e.metrics.duplicates.Add(int64(r.Duplicates))
	for len(fresh) > 0 {
		n := 1
		for n < len(fresh) && fresh[n].Channel == fresh[0].Channel {
			n++
		}
		r.Receivers += n * e.publish(fresh[:n])
		fresh = fresh[n:]
	}
	return r, nil
}

// publish adds items of one channel to it, and returns how many subscribers it
// has.
func (e *Engine) publish(items []grip.Item) int {
	for { // again when the channel dies between the look-up and the append
		e.mu.RLock()
		ch := e.channels[items[0].Channel]
		e.mu.RUnlock()
		if ch == nil {
			return 0 // nobody listens, and nothing is stored (GRIP reference, 5.2)
		}
		readers := ch.subscribers()
		if !ch.foreign() {
			for i := range items {
				ch.signal(&items[i])
			}
			return readers
		}
		if ch.publish(items) {
			return readers
		}
		e.forget(ch)
	}
}

// Recover makes everyone who is subscribed to a foreign channel ask the origin
// again, as after a hint, and forgets the ids of the channels' newest items (GRIP
// reference, 7.5). After each channel it calls pause with the number of its
// subscribers; when that returns false, it stops.
func (e *Engine) Recover(pause func(subscribers int) bool) {
	e.mu.RLock()
	all := make([]*channel, 0, len(e.channels))
	for _, ch := range e.channels {
		if ch.foreign() {
			all = append(all, ch)
		}
	}
	e.mu.RUnlock()
	for _, ch := range all {
		ch.mu.Lock()
		ch.lastID, ch.follow = "", ""
		ch.mu.Unlock()
		ch.signal(&askAgain)
		if !pause(ch.subscribers()) {
			return
		}
	}
}

// HasContent reports whether an item has something to deliver, in any form,
// besides actions.
func HasContent(it *grip.Item) bool {
	return it.HTTPStream != nil && it.HTTPStream.Action == grip.ActionSend ||
		it.WSMessage != nil && it.WSMessage.Action == grip.ActionSend ||
		it.HTTPResponse != nil && it.HTTPResponse.Action == grip.ActionSend
}

// hasAction reports whether an item is an action, in any form.
func hasAction(it *grip.Item) bool {
	return it.HTTPStream != nil && it.HTTPStream.Action != grip.ActionSend ||
		it.WSMessage != nil && it.WSMessage.Action != grip.ActionSend ||
		it.HTTPResponse != nil && it.HTTPResponse.Action != grip.ActionSend
}

// signal gives the actions of an item to the members that are there now, to be
// carried out after what is in the log.
func (ch *channel) signal(it *grip.Item) {
	ch.mu.Lock()
	for m := range ch.all() {
		a := &action{after: ch.next - 1}
		switch m.sub.form {
		case Stream:
			if it.HTTPStream != nil {
				a.kind = kindOf(it.HTTPStream.Action)
			}
		case Message:
			if f := it.WSMessage; f != nil {
				a.kind, a.code, a.reason = kindOf(f.Action), f.Code, f.Reason
			}
		case Response:
			if it.HTTPResponse != nil {
				a.kind = kindOf(it.HTTPResponse.Action)
			}
		case Any:
			a.kind = content
		}
		if a.kind == absent || m.action != nil && m.action.kind == closing {
			continue // what is closing needs no hint
		}
		m.action = a
	}
	woken := ch.unpark()
	asleep := ch.markDirty()
	ch.mu.Unlock()
	wake(woken)
	ch.reuse(woken)
	ch.engine.rouse(asleep)
}

// Subscribe attaches to channels in one form. Where ok is false, a prev-id was
// given that a stream cannot go on from: the log has dropped what follows it, or
// never had it; then nothing is attached, and the caller asks its next link.
//
// With openOnly a channel that is not open is such a case, too; without it the
// channel is made. Of a foreign channel, a prev-id that is not in the log is
// accepted if the newest item is not known to be another (GRIP reference, 7.3).
func (e *Engine) Subscribe(form Form, wants []Want, openOnly bool) (_ *Subscriber, ok bool) {
	wants = wants[:min(len(wants), MaxSubscriptions)]
	s := &Subscriber{engine: e, form: form, wake: make(chan struct{}, 1)}
	s.members = make([]*member, 0, len(wants))
	for _, want := range wants {
		m := &member{sub: s, index: -1}
		if !e.attach(m, want, openOnly) {
			s.Close()
			return nil, false
		}
		s.members = append(s.members, m)
	}
	return s, true
}

// Marks notes the ends of the channels' logs, so that a subscription that is made
// a little later misses nothing of what is published meanwhile. Channels that do
// not exist are made, unless they would have to be open.
func (e *Engine) Marks(wants []Want, openOnly bool) {
	for i := range wants[:min(len(wants), MaxSubscriptions)] {
		if wants[i].HasPrevID && openOnly { // it is found by its id, or not at all
			continue
		}
		if ch := e.locked(wants[i].Channel, openOnly); ch != nil {
			wants[i].Mark = Mark(ch.next)
			ch.mu.Unlock()
		}
	}
}

// attach finds or makes m's channel, and m's place in it.
func (e *Engine) attach(m *member, want Want, openOnly bool) bool {
	ch := e.locked(want.Channel, openOnly)
	if ch == nil {
		return false
	}
	defer ch.mu.Unlock()
	m.began, m.hasBegan, m.filter = want.PrevID, want.HasPrevID, want.Filter
	m.conflatesBy(&want)
	first, last := ch.retained()
	switch {
	case !want.HasPrevID && want.Mark != 0:
		ch.join(m, min(max(uint64(want.Mark)-1, first-1), last))
	case !want.HasPrevID:
		ch.join(m, last)
	case ch.foreign():
		seq, found := ch.seqOf(want.PrevID)
		if !found {
			seq, found = ch.seqBefore(want.PrevID)
		}
		if !found {
			if ch.lastID != "" && ch.lastID != want.PrevID && uint64(want.Since) != ch.next {
				return false
			}
			if seq = last; want.Mark != 0 {
				seq = min(max(uint64(want.Mark)-1, first-1), last)
			}
		}
		m.prev, m.follows = want.PrevID, true
		ch.join(m, seq)
	default:
		seq, found := ch.ids.Seq(want.PrevID)
		if !found || seq+1 < first || seq > last {
			return false
		}
		ch.join(m, seq)
	}
	return true
}

// rejoin puts m at the beginning of the channel that now has its name, and
// returns that with its lock held.
func (e *Engine) rejoin(m *member) *channel {
	ch := e.locked(m.ch.name, false)
	first, _ := ch.retained()
	ch.join(m, first-1)
	if !ch.foreign() {
		m.follows, m.hasBegan = false, false // an id of the old channel means nothing here
	}
	return ch
}

// locked returns a living channel with its lock held. One that does not exist
// is made, or nil is returned with openOnly.
func (e *Engine) locked(name string, openOnly bool) *channel {
	for {
		e.mu.RLock()
		ch := e.channels[name]
		e.mu.RUnlock()
		if ch == nil || ch.foreign() && openOnly {
			if openOnly {
				return nil
			}
			e.mu.Lock()
			if ch = e.channels[name]; ch == nil {
				ch = newChannel(e, name, nil)
				e.channels[name] = ch
			}
			e.mu.Unlock()
		}
		ch.mu.Lock()
		if !ch.dead {
			return ch
		}
		ch.mu.Unlock()
		e.forget(ch)
	}
}

// ChannelInfo is what an operator may know of a channel.
type ChannelInfo struct {
	Name        string
	Subscribers int
}

// Channels lists at most n channels that have subscribers, in the order of
// their names, beginning behind the name given. more says that there are others
// behind the last.
func (e *Engine) Channels(after string, n int) (infos []ChannelInfo, more bool) {
	e.mu.RLock()
	found := make([]*channel, 0, len(e.channels))
	for name, ch := range e.channels {
		if name > after {
			found = append(found, ch)
		}
	}
	e.mu.RUnlock()
	slices.SortFunc(found, func(a, b *channel) int { return strings.Compare(a.name, b.name) })
	for _, ch := range found {
		ch.mu.Lock()
		members := ch.readers
		ch.mu.Unlock()
		if members == 0 {
			continue
		}
		if len(infos) == n {
			return infos, true
		}
		infos = append(infos, ChannelInfo{ch.name, members})
	}
	return infos, false
}
