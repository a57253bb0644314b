package fanout

import (
	"slices"
	"sort"
	"time"
	"unsafe"

	"spillway/grip"
)

// Form is the shape in which a subscriber takes items.
type Form uint8

const (
	Stream   Form = iota // bytes appended to a held HTTP response (http-stream)
	Message              // WebSocket messages (ws-message)
	Response             // the answer of a long poll (http-response)
	Any                  // no content: only that there was an item

	byteForms = 2 // Stream and Message have bytes in the log
	forms     = 3
)

// A kind is what an item is for subscribers of one form.
type kind uint8

const (
	absent  kind = iota // the item does not have the form
	content             // deliver it
	hint                // ask the next link
	closing             // end the response or the socket
	refresh             // WebSocket-over-HTTP: make a request now
)

func kindOf(a grip.Action) kind {
	switch a {
	case grip.ActionHint:
		return hint
	case grip.ActionClose:
		return closing
	case grip.ActionRefresh:
		return refresh
	default:
		return content
	}
}

const (
	firstSegmentBytes = 256
	maxSegmentBytes   = 64 << 10
	maxSegmentItems   = maxSegmentBytes / 4
)

// An entry is the index of one item in its segment.
type entry struct {
	end  [byteForms]uint32 // where the item ends in segment.bytes
	kind [forms]kind
	msg  grip.MessageType // of the Message form
}

// A special is what an item has besides bytes.
type special struct {
	index    uint32 // in segment.items
	response *grip.HTTPResponse
	code     int // of a WebSocket close
	reason   string
}

// An itemID is the name of a foreign item, and of the one before it.
type itemID struct{ id, prev string }

// A segment is a run of consecutive items of one channel: the unit in which
// logs grow and are evicted. Items never span segments, so a run of bytes from
// one segment holds whole items only.
//
// The bytes of an item are its frame, ready for the wire: a chunk of HTTP/1.1,
// or a WebSocket frame (frame.go). Who needs the content alone takes a slice.
//
// Everything up to len(items) is frozen: readers hold slices of it without the
// channel's lock while more is written behind them.
type segment struct {
	ch    *channel
	first uint64 // sequence number of items[0]

	items    []entry
	bytes    [byteForms][]byte
	special  [byteForms]bool // some item is not content in this form, or not for everyone
	coded    [codings]*coded
	keyed    *keyed   // nil: no item has a key
	ids      []itemID // of foreign channels, parallel to items; else nil
	terms    []*terms // parallel to items; nil: there are none
	specials []special

	newest  time.Duration // when the last item came, on the engine's clock
	outside int64         // bytes that ids, terms and specials refer to
	cost    int64         // bytes of memory that were accounted for

	// Neighbours in the engine's order of eviction; guarded by order.mu.
	older, newer *segment
	queued       bool
}

const (
	entryBytes   = int64(unsafe.Sizeof(entry{}))
	segmentBytes = int64(unsafe.Sizeof(segment{}))
	byIDBytes    = 64 // about what an entry of channel.byID takes
)

func (s *segment) last() uint64 { return s.first + uint64(len(s.items)) - 1 }

// memory is what the segment occupies, in bytes.
func (s *segment) memory() int64 {
	n := segmentBytes + entryBytes*int64(cap(s.items))
	for _, b := range s.bytes {
		n += int64(cap(b))
	}
	for _, c := range s.coded {
		n += c.memory()
	}
	n += int64(cap(s.ids)) * int64(unsafe.Sizeof(itemID{}))
	n += int64(cap(s.terms)) * int64(unsafe.Sizeof((*terms)(nil)))
	n += int64(cap(s.specials)) * int64(unsafe.Sizeof(special{}))
	return n + s.keyed.memory() + s.outside
}

// start is where item i begins in the bytes of form.
func (s *segment) start(form Form, i int) uint32 {
	if i == 0 {
		return 0
	}
	return s.items[i-1].end[form]
}

// upTo returns where a run of items from one on ends that has at most maxBytes
// in a form, but one item at least.
func (s *segment) upTo(form Form, from, maxBytes int) int {
	n := len(s.items)
	most := int(s.start(form, from)) + maxBytes
	if int(s.items[n-1].end[form]) <= most {
		return n
	}
	i := from + sort.Search(n-from, func(i int) bool { return int(s.items[from+i].end[form]) > most })
	return max(i, from+1)
}

// response returns the Response form of item i; nil when it has none.
func (s *segment) response(i int) *grip.HTTPResponse {
	for _, sp := range s.specials {
		if int(sp.index) == i && sp.response != nil {
			return sp.response
		}
	}
	return nil
}

// close returns code and reason of item i, a close of a WebSocket.
func (s *segment) close(i int) (code int, reason string) {
	for _, sp := range s.specials {
		if int(sp.index) == i && sp.response == nil {
			return sp.code, sp.reason
		}
	}
	return 0, ""
}

// clone copies a response with everything it refers to.
func clone(f *grip.HTTPResponse) *grip.HTTPResponse {
	c := *f
	c.Headers = slices.Clone(f.Headers)
	c.Body = slices.Clone(f.Body)
	c.BodyPatch = slices.Clone(f.BodyPatch)
	return &c
}

// responseBytes is about what a response occupies in memory.
func responseBytes(f *grip.HTTPResponse) int64 {
	n := int64(unsafe.Sizeof(*f)) + int64(len(f.Reason)+len(f.Body)+len(f.BodyPatch))
	for _, h := range f.Headers {
		n += int64(unsafe.Sizeof(h)) + int64(len(h.Name)+len(h.Value))
	}
	return n
}
