package fanout

import (
	"sync"
	"time"
	"unsafe"

	"spillway/gateway/ws"
	"spillway/grip"
)

// A writer puts the items of one append into the log's memory, behind what
// readers can see, without the channel's lock; publish shows them. It
// implements grip.Batch.
type writer struct {
	ch    *channel
	now   time.Duration
	class int  // capacity of the next segment's byte slices
	count int  // items so far
	keyed bool // keys are noted

	draft         // the segment that is being written
	full  []draft // those before it

	room  [byteForms][]byte // given out for the content of the next item
	guess [byteForms]int    // how long the head of a frame will be: as of the last one
	buf   []byte            // in which keys are hashed
}

// A draft is a segment as it will be. Where readers have the segment already,
// they see what is in it, not what is here.
type draft struct {
	seg      *segment // nil: none yet
	items    []entry
	bytes    [byteForms][]byte
	special  [byteForms]bool
	ids      []itemID
	terms    []*terms
	keys     []key
	specials []special
	outside  int64
}

func draftOf(s *segment) draft {
	d := draft{seg: s, items: s.items, bytes: s.bytes, special: s.special, ids: s.ids, terms: s.terms, specials: s.specials, outside: s.outside}
	if s.keyed != nil {
		d.keys = s.keyed.keys
	}
	return d
}

func (d *draft) store(now time.Duration) {
	s := d.seg
	s.items, s.bytes, s.special = d.items, d.bytes, d.special
	s.ids, s.terms, s.specials, s.outside = d.ids, d.terms, d.specials, d.outside
	s.newest = now
}

// maxKeyBuf bounds what a writer keeps of the memory in which it hashed a key, in
// bytes.
const maxKeyBuf = 4 << 10

var writers = sync.Pool{New: func() any { return new(writer) }}

// begin makes a writer. The caller holds the channel's lock, and has set
// ch.writing, which keeps the last segment from being evicted.
func (ch *channel) begin(now time.Duration) *writer {
	w := writers.Get().(*writer)
	*w = writer{ch: ch, now: now, class: ch.class, keyed: ch.keys != nil, full: w.full[:0], buf: w.buf}
	if n := len(ch.segs); n > 0 {
		w.draft = draftOf(ch.segs[n-1])
	}
	return w
}

// release gives the writer's memory back.
func (w *writer) release() {
	clear(w.full)
	*w = writer{full: w.full[:0], buf: w.buf}
	if cap(w.buf) > maxKeyBuf {
		w.buf = nil
	}
	writers.Put(w)
}

// turn begins a new segment.
func (w *writer) turn() {
	if w.seg != nil {
		w.class = w.ch.engine.nextClass(w.class)
		w.full = append(w.full, w.draft)
	}
	w.draft = draft{seg: &segment{ch: w.ch, first: w.ch.next + uint64(w.count)}}
}

// Stream implements grip.Batch.
func (w *writer) Stream(n int) []byte { return w.give(Stream, n) }

// Message implements grip.Batch.
func (w *writer) Message(n int) []byte { return w.give(Message, n) }

func (w *writer) give(form Form, n int) []byte {
	head := w.guess[form]
	if head == 0 {
		head = headBytes(form, n)
	}
	need := head + n + frameTail
	if w.seg == nil || len(w.items) >= maxSegmentItems || w.bytes[form] != nil && need > cap(w.bytes[form])-len(w.bytes[form]) {
		if w.room[1-form] != nil { // the item has begun in this segment
			return make([]byte, 0, n)
		}
		w.turn()
	}
	if w.bytes[form] == nil {
		w.bytes[form] = make([]byte, 0, max(w.class, need))
	}
	b := w.bytes[form]
	w.guess[form] = head
	w.room[form] = b[len(b)+head : len(b)+head : cap(b)-frameTail]
	return w.room[form]
}

// Add implements grip.Batch.
func (w *writer) Add(e grip.Entry) {
	if e.Action != grip.ActionSend {
		k := kindOf(e.Action)
		w.add(entry{kind: [forms]kind{k, k, k}}, nil, nil)
		return
	}
	en := entry{msg: e.Type}
	if e.Stream != nil {
		en.kind[Stream] = content
	}
	if e.Message != nil {
		en.kind[Message] = content
	}
	w.add(en, e.Stream, e.Message)
	if w.keyed && e.Key != nil {
		w.name(e.Key)
	}
}

// name notes the key of the item that was added last.
func (w *writer) name(of []byte) {
	for len(w.keys) < len(w.items)-1 {
		w.keys = append(w.keys, key{})
	}
	var k key
	k, w.buf = w.ch.engine.keyOf(w.buf, of)
	w.keys = append(w.keys, k)
}

// add puts one item into the segment, or into a new one where it does not fit.
// It sets en.end.
func (w *writer) add(en entry, stream, message []byte) {
	contents := [byteForms][]byte{Stream: stream, Message: message}
	fits := w.seg != nil && len(w.items) < maxSegmentItems
	for form, c := range contents {
		if b := w.bytes[form]; b != nil && framed(Form(form), en.kind[form], c) && frameBytes(Form(form), len(c)) > cap(b)-len(b) {
			fits = false
		}
	}
	if !fits {
		w.turn()
	}
	for form, c := range contents {
		if framed(Form(form), en.kind[form], c) {
			w.put(Form(form), c, en.msg)
		}
		w.room[form] = nil
		en.end[form] = uint32(len(w.bytes[form]))
		w.special[form] = w.special[form] || en.kind[form] != content
	}
	if w.items == nil {
		w.items = make([]entry, 0, max(2, w.class/128))
	}
	w.items = append(w.items, en)
	w.count++
}

// framed reports whether content makes a frame: a message does when it is empty,
// too, but an empty chunk would be the end of the response.
func framed(form Form, k kind, c []byte) bool {
	return k == content && (form == Message || len(c) > 0)
}

// put appends the frame of one content, which there is room for. Content that
// was written in its place is not copied.
func (w *writer) put(form Form, c []byte, typ grip.MessageType) {
	b := w.bytes[form]
	size := frameBytes(form, len(c))
	if b == nil {
		b = make([]byte, 0, max(w.class, size))
	}
	frame := b[len(b) : len(b)+size]
	head := headBytes(form, len(c))
	if unsafe.SliceData(c) != unsafe.SliceData(frame[head:]) {
		copy(frame[head:], c)
	}
	w.guess[form] = head
	putFrame(frame, form, len(c), typ)
	w.bytes[form] = b[:len(b)+size]
}

// item adds an item that came ready-made.
func (w *writer) item(it *grip.Item, foreign bool) {
	var en entry
	var stream, message []byte
	var more []special
	if f := it.HTTPStream; f != nil {
		if en.kind[Stream] = kindOf(f.Action); en.kind[Stream] == content {
			stream = f.Content
		}
	}
	if f := it.WSMessage; f != nil {
		en.kind[Message], en.msg = kindOf(f.Action), f.Type
		switch {
		case en.kind[Message] == content:
			message = f.Content
			if f.Type == grip.PingMessage || f.Type == grip.PongMessage {
				message = message[:min(len(message), ws.MaxControl)]
			}
		case f.Action == grip.ActionClose && (f.Code != 0 || f.Reason != ""):
			more = append(more, special{code: f.Code, reason: f.Reason})
		}
	}
	if f := it.HTTPResponse; f != nil {
		en.kind[Response] = kindOf(f.Action)
		more = append(more, special{response: clone(f)})
	}
	w.add(en, stream, message)
	for _, sp := range more {
		sp.index = uint32(len(w.items) - 1)
		w.specials = append(w.specials, sp)
		w.outside += int64(len(sp.reason))
		if sp.response != nil {
			w.outside += responseBytes(sp.response)
		}
	}
	if foreign {
		w.ids = append(w.ids, itemID{it.ID, it.PrevID})
		w.outside += int64(len(it.ID) + len(it.PrevID))
		if it.ID != "" {
			w.outside += byIDBytes
		}
	}
	t := termsOf(it)
	w.limit(t)
	// What some do not get, or is no content, supersedes nothing.
	if w.keyed && it.Key != "" && t == nil && !hasAction(it) {
		w.name([]byte(it.Key))
	}
}

// limit notes for whom the item is that was added last; nil: for everyone.
func (w *writer) limit(t *terms) {
	if t == nil && w.terms == nil {
		return
	}
	for len(w.terms) < len(w.items)-1 {
		w.terms = append(w.terms, nil)
	}
	w.terms = append(w.terms, t)
	if t == nil {
		return
	}
	w.outside += t.bytes()
	for form := range byteForms {
		w.special[form] = w.special[form] || t.content[form] != nil
	}
}

// publish shows the items to readers. It is called with the channel's lock.
func (w *writer) publish() {
	ch := w.ch
	ch.seal()
	if w.seg == nil {
		return
	}
	w.full = append(w.full, w.draft)
	for i := range w.full {
		d := &w.full[i]
		ch.learn(d.ids[len(d.seg.ids):], d.seg.first+uint64(len(d.seg.items)))
		known := len(d.seg.items)
		d.store(w.now)
		if n := len(ch.segs); n == 0 || ch.segs[n-1] != d.seg {
			ch.segs = append(ch.segs, d.seg)
		}
		if ch.keys != nil && len(d.keys) > known {
			if d.seg.keyed == nil {
				d.seg.keyed = new(keyed)
			}
			d.seg.keyed.keys = d.keys
			ch.learnKeys(d.seg, known)
		}
		ch.account(d.seg, d.seg.memory())
	}
	ch.class = w.class
	ch.next += uint64(w.count)
	ch.idleSince = w.now
}

// learn notes the ids of new items, of which the first has number seq.
func (ch *channel) learn(ids []itemID, seq uint64) {
	for i, id := range ids {
		ch.lastID = id.id
		if ch.byID != nil && id.id != "" {
			ch.byID[id.id] = seq + uint64(i)
		}
	}
}

var _ grip.Batch = (*writer)(nil)
