package fanout

import (
	"slices"
	"sync"
	"time"
	"unsafe"

	"spillway/grip"
)

// maxWaiting is how many items of a channel wait for one before them.
const maxWaiting = 100

// A sequence puts the items of a foreign channel into the order that their ids
// tell (GRIP reference, 7.1): one that does not follow the last waits for those
// between, for a time.
type sequence struct {
	mu      sync.Mutex    // held while items are put into order and appended; taken before channel.publishing
	waiting []waitingItem // in the order in which they came
}

type waitingItem struct {
	item  grip.Item
	size  int64         // of it, in bytes
	until time.Duration // when it goes anyway, on the engine's clock
}

// publish adds items to a foreign channel as soon as it is their turn. It reports
// false when the channel is dead.
func (ch *channel) publish(items []grip.Item) bool {
	q := &ch.sequence
	q.mu.Lock()
	defer q.mu.Unlock()
	now := ch.engine.now()
	ch.mu.Lock()
	present := ch.present(now)
	if !present {
		ch.follow = "" // what is appended now is not counted
	}
	last := ch.follow
	ch.mu.Unlock()
	if !present {
		_, ok := ch.append(items)
		return ok
	}
	if len(q.waiting) == 0 && inOrder(items, last) {
		return ch.appendUpTo(items)
	}
	var ready []grip.Item
	for _, it := range items {
		if mayGo(&it, last) {
			ready, last = ch.followed(append(ready, it))
			continue
		}
		same := func(w waitingItem) bool { return w.item.PrevID == it.PrevID }
		size := sizeOf(&it)
		if len(q.waiting) >= maxWaiting || slices.ContainsFunc(q.waiting, same) || !ch.engine.mayWait(size) {
			ch.engine.metrics.outOfOrder[orderDropped].Add(1)
			continue
		}
		ch.engine.metrics.outOfOrder[orderWaited].Add(1)
		q.waiting = append(q.waiting, waitingItem{it, size, now + ch.engine.cfg.MessageWait})
		ch.engine.agenda.add(now+ch.engine.cfg.MessageWait, ch, overdueItems)
	}
	return ch.appendUpTo(ready)
}

// mayGo reports whether it is an item's turn behind the item called last, which is
// empty when it is not known.
func mayGo(it *grip.Item, last string) bool {
	return it.NoSeq || last == "" || it.PrevID == "" || it.PrevID == last
}

func inOrder(items []grip.Item, last string) bool {
	for i := range items {
		if !mayGo(&items[i], last) {
			return false
		}
		last = items[i].ID
	}
	return true
}

// mayWait counts an item in among those of all channels that wait, unless they
// would have more than their share of memory then.
func (e *Engine) mayWait(size int64) bool {
	if e.waitingBytes.Add(size) > e.cfg.WaitingMemory {
		e.waitingBytes.Add(-size)
		return false
	}
	return true
}

// sizeOf is about what an item takes while it waits, in bytes.
func sizeOf(it *grip.Item) int64 {
	n := int(unsafe.Sizeof(waitingItem{})) + len(it.ID) + len(it.PrevID) + len(it.Key)
	for name, value := range it.Meta {
		n += len(name) + len(value)
	}
	if f := it.HTTPStream; f != nil {
		n += int(unsafe.Sizeof(*f)) + len(f.Content)
	}
	if f := it.HTTPResponse; f != nil {
		n += int(unsafe.Sizeof(*f)) + len(f.Reason) + len(f.Body) + len(f.BodyPatch)
		for _, h := range f.Headers {
			n += int(unsafe.Sizeof(h)) + len(h.Name) + len(h.Value)
		}
	}
	if f := it.WSMessage; f != nil {
		n += int(unsafe.Sizeof(*f)) + len(f.Content) + len(f.Reason)
	}
	return int64(n)
}

// take ends the wait of the ith item.
func (ch *channel) take(i int) grip.Item {
	q := &ch.sequence
	w := q.waiting[i]
	q.waiting = slices.Delete(q.waiting, i, i+1)
	ch.engine.waitingBytes.Add(-w.size)
	return w.item
}

// followed adds what has waited for the last of ready, and returns the id of what
// is the last then.
func (ch *channel) followed(ready []grip.Item) ([]grip.Item, string) {
	q := &ch.sequence
	for {
		last := ready[len(ready)-1].ID
		i := slices.IndexFunc(q.waiting, func(w waitingItem) bool { return last != "" && w.item.PrevID == last })
		if i < 0 {
			return ready, last
		}
		ready = append(ready, ch.take(i))
	}
}

// appendUpTo appends items, of which the last is the one that others have to
// follow.
func (ch *channel) appendUpTo(items []grip.Item) bool {
	if len(items) == 0 {
		return true
	}
	if _, ok := ch.append(items); !ok {
		return false
	}
	ch.mu.Lock()
	ch.follow = items[len(items)-1].ID
	ch.mu.Unlock()
	return true
}

// overdueItems lets those go that have waited long enough.
func overdueItems(ch *channel, now time.Duration) {
	q := &ch.sequence
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 && q.waiting[0].until <= now {
		first := ch.take(0)
		ch.engine.metrics.outOfOrder[orderOverdue].Add(1)
		ready, _ := ch.followed([]grip.Item{first})
		if !ch.appendUpTo(ready) {
			for len(q.waiting) > 0 { // they end with their channel
				ch.take(0)
			}
		}
	}
}

// present reports whether a foreign channel has subscribers: a long poll counts
// for a while after it has left, since its client is about to come again (GRIP
// reference, 4.2). It is called with the channel's lock.
func (ch *channel) present(now time.Duration) bool {
	return ch.readers > 0 || now < ch.lingerUntil
}

// updateFirst makes the subscribers of a channel ask their origins, some time
// after the first of them came.
func updateFirst(ch *channel, _ time.Duration) { ch.signal(&askAgain) }

// askAgain makes those ask their origins who can.
var askAgain = grip.Item{
	HTTPStream:   &grip.HTTPStream{Action: grip.ActionHint},
	HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint},
}

// An agenda is what is to be done for channels, and when. Engine.Run does it.
type agenda struct {
	news chan struct{} // receives when the first entry is a new one

	mu      sync.Mutex
	entries []agendaEntry // by time; guarded by mu
}

type agendaEntry struct {
	at time.Duration // on the engine's clock
	ch *channel
	do func(ch *channel, now time.Duration)
}

func (a *agenda) add(at time.Duration, ch *channel, do func(*channel, time.Duration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := len(a.entries)
	for i > 0 && a.entries[i-1].at > at { // few: there are only two delays
		i--
	}
	a.entries = slices.Insert(a.entries, i, agendaEntry{at, ch, do})
	if i == 0 {
		select {
		case a.news <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// due takes the next entry that is due. Otherwise it returns how long there is
// until then, at most idle.
func (a *agenda) due(now, idle time.Duration) (e agendaEntry, wait time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.entries) == 0 {
		a.entries = nil
		return e, idle, false
	}
	if e = a.entries[0]; e.at > now {
		return e, min(e.at-now, idle), false
	}
	a.entries[0] = agendaEntry{}
	a.entries = a.entries[1:]
	return e, 0, true
}

// keep does what is due, and returns how long there is until more is.
func (a *agenda) keep(clock func() time.Duration) time.Duration {
	for {
		now := clock()
		e, wait, ok := a.due(now, time.Hour)
		if !ok {
			return wait
		}
		e.do(e.ch, now)
	}
}
