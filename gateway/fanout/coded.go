package fanout

import (
	"sort"
	"sync"
	"unsafe"

	"spillway/gateway/compress"
	"spillway/gateway/ws"
)

// A Coding is how the content on a connection is compressed. What is compressed
// refers to nothing before it, so that all connections share it.
type Coding uint8

const (
	Uncoded Coding = iota
	Gzip           // of HTTP responses: one gzip stream, a deflate block after the other (RFC 1952)
	Zstd           // of HTTP responses: one frame after the other (RFC 8878)
	Deflate        // of WebSockets: permessage-deflate without context takeover (RFC 7692)

	codings
)

// deflateFrom is how long a message must be to be compressed, in bytes: shorter
// ones hardly get any smaller.
const deflateFrom = 100

// coded is what of a segment is compressed in one coding. It is made when a
// connection comes for it, of all items that are there then: the more there are,
// the smaller the blocks. Guarded by the channel's lock; what is in bytes never
// changes.
type coded struct {
	bytes  []byte // frames, each with a block
	blocks []block
	first  int          // items before this one are not in
	done   int          // nor from here on
	before compress.Sum // with Gzip, of what the channel had compressed before
}

// A block is a run of items that were compressed together; a message of a
// WebSocket is one of its own.
type block struct {
	items int // the index behind the last item
	end   uint32
	skip  bool         // not compressed: nobody came for them, or there are none
	sum   compress.Sum // with Gzip, of all that the channel has compressed so far
}

const blockBytes = int64(unsafe.Sizeof(block{}))

func (c *coded) memory() int64 {
	if c == nil {
		return 0
	}
	return int64(cap(c.bytes)) + int64(cap(c.blocks))*blockBytes
}

// at returns the index of the block that item is in.
func (c *coded) at(item int) int {
	return sort.Search(len(c.blocks), func(i int) bool { return c.blocks[i].items > item })
}

// sum is that of the last block.
func (c *coded) sum() compress.Sum {
	if n := len(c.blocks); n > 0 {
		return c.blocks[n-1].sum
	}
	return c.before
}

// start is where block i begins: its first item, and in bytes.
func (c *coded) start(i int) (item int, offset uint32) {
	if i == 0 {
		return c.first, 0
	}
	return c.blocks[i-1].items, c.blocks[i-1].end
}

// code compresses what is new in s, from item from on, where somebody is. It is
// called without the channel's lock, and takes as long as it takes: whoever else
// wants the same waits for it.
func (ch *channel) code(s *segment, from int, coding Coding) {
	ch.coders.mu.Lock()
	defer ch.coders.mu.Unlock()

	ch.mu.Lock()
	c := s.coded[coding]
	if c == nil {
		c = &coded{first: from, done: from, before: ch.coders.sums[coding]}
		s.coded[coding] = c
	}
	if c.done > from {
		ch.mu.Unlock()
		return // someone was quicker
	}
	form := coding.form()
	items, raw, done := s.items, s.bytes[form], c.done
	bytes, blocks := c.bytes, c.blocks
	sum := ch.coders.sums[coding]
	ch.mu.Unlock()

	// Only who holds coders.mu changes these; readers have no more than what was
	// there before. What was compressed of other segments since the last block is
	// a break, too: the next one's sum goes on from there.
	if done < from || sum != c.sum() {
		blocks = append(blocks, block{items: from, end: uint32(len(bytes)), skip: true, sum: sum})
	}
	buf := ch.engine.coders.Get().(*[]byte)
	for at := from; at < len(items); {
		end := blockEnd(items, form, at, coding)
		if bytes == nil {
			bytes = make([]byte, 0, len(raw)/2+64)
		}
		bytes, sum = appendBlock(bytes, sum, raw, items, at, end, coding, buf)
		blocks = append(blocks, block{items: end, end: uint32(len(bytes)), sum: sum})
		at = end
	}
	ch.engine.coders.Put(buf)

	ch.mu.Lock()
	c.bytes, c.blocks, c.done = bytes, blocks, len(items)
	ch.coders.sums[coding] = sum
	if s.cost > 0 { // it is still in the log
		ch.account(s, s.memory())
	}
	ch.mu.Unlock()
}

func (c Coding) form() Form {
	if c == Deflate {
		return Message
	}
	return Stream
}

// blockEnd is where a block ends that begins at an item: nothing but content is
// put together, so that an action stands between two blocks.
func blockEnd(items []entry, form Form, at int, coding Coding) int {
	if coding == Deflate || items[at].kind[form] != content {
		return at + 1
	}
	end := at + 1
	for end < len(items) && items[end].kind[form] == content {
		end++
	}
	return end
}

// appendBlock appends the frame with the items from at to end, compressed.
func appendBlock(dst []byte, sum compress.Sum, raw []byte, items []entry, at, end int, coding Coding, buf *[]byte) ([]byte, compress.Sum) {
	form := coding.form()
	start := uint32(0)
	if at > 0 {
		start = items[at-1].end[form]
	}
	if coding == Deflate {
		if frame := raw[start:items[at].end[form]]; len(frame) > 0 {
			dst = appendDeflated(dst, frame, buf)
		}
		return dst, sum
	}
	plain := (*buf)[:0]
	for i := at; i < end; i++ {
		plain = append(plain, unframed(form, raw[start:items[i].end[form]])...)
		start = items[i].end[form]
	}
	*buf = plain
	if len(plain) == 0 {
		return dst, sum
	}
	if coding == Gzip {
		sum = sum.Add(plain)
	}
	return appendCoded(dst, plain, coding), sum
}

// appendCoded appends a chunk with content, compressed.
func appendCoded(dst, content []byte, coding Coding) []byte {
	// The length stands first, and is known last.
	const room = 8 + len("\r\n")
	start := len(dst)
	dst = append(dst, make([]byte, room)...)
	if coding == Gzip {
		dst = compress.AppendDeflate(dst, content)
	} else {
		dst = compress.AppendZstd(dst, content)
	}
	n := len(dst) - start - room
	head := hexDigits(n) + len("\r\n")
	copy(dst[start+head:], dst[start+room:])
	appendChunkHead(dst[start:start], n)
	return append(dst[:start+head+n], "\r\n"...)
}

// appendDeflated appends a frame of a WebSocket, compressed where that is of use.
func appendDeflated(dst, frame []byte, buf *[]byte) []byte {
	content := unframed(Message, frame)
	op := ws.Op(frame[0] & 0x0f)
	if op.Control() || len(content) < deflateFrom {
		return append(dst, frame...)
	}
	*buf = compress.AppendMessage((*buf)[:0], content)
	if len(*buf) >= len(content) {
		return append(dst, frame...)
	}
	dst = ws.AppendHeader(dst, op, true, len(*buf))
	return append(dst, *buf...)
}

// coders is what a channel needs to compress.
type coders struct {
	mu   sync.Mutex            // held while something is compressed; taken before channel.mu
	sums [codings]compress.Sum // of all that was; guarded by channel.mu
}

// A coder is what a connection whose content is compressed has besides.
type coder struct {
	coding Coding

	// What the connection was sent in its gzip stream: done, and behind it what
	// the channel compressed between from and at.
	done, from, at compress.Sum

	// Of the batch that is being written: its blocks, the channel's sum before
	// them, or that of a block for this connection alone.
	blocks []block
	before compress.Sum
	alone  bool
	sum    compress.Sum
}

// gave notes that the first n blocks of the batch are sent. It is called with
// Conn.mu, as is add, in the order in which bytes go out.
func (k *coder) gave(n int) {
	if k.coding != Gzip || n == 0 {
		return
	}
	if k.alone {
		k.add(k.sum)
		return
	}
	if k.at != k.before { // it goes on elsewhere
		k.settle()
		k.from = k.before
	}
	k.at = k.blocks[n-1].sum
}

// add notes content that only this connection is sent.
func (k *coder) add(sum compress.Sum) {
	if k.coding != Gzip {
		return
	}
	k.settle()
	k.done = k.done.Join(sum)
}

func (k *coder) settle() {
	if k.at != k.from {
		k.done = k.done.Join(k.at.After(k.from))
		k.from = k.at
	}
}

// append appends content for this connection alone; who puts it on its way says
// add.
func (k *coder) append(dst, content []byte, framing Framing) []byte {
	if len(content) == 0 {
		return dst
	}
	chunk := appendCoded(nil, content, k.coding)
	if framing == Plain {
		chunk = unframed(Stream, chunk)
	}
	return append(dst, chunk...)
}

// end appends what ends the stream.
func (k *coder) end(dst []byte, framing Framing) []byte {
	if k.coding != Gzip {
		return dst
	}
	k.settle()
	end := compress.AppendGzipEnd(nil, k.done)
	if framing == Plain {
		return append(dst, end...)
	}
	dst = appendChunkHead(dst, len(end))
	return append(append(dst, end...), "\r\n"...)
}

// inCode turns a run of items, [from, to) of s, into what is to be sent of it in
// the member's coding; it may be less than the run. ok is false when it has to be
// compressed first. It is called with the channel's lock.
func (m *member) inCode(run *Batch, s *segment, from, to, maxBytes int) (ok bool) {
	k := m.sub.conn.code
	c := s.coded[k.coding]
	if c == nil || from >= c.done {
		return false
	}
	i := c.at(from)
	first, offset := c.start(i)
	if from >= c.first && from == first && !c.blocks[i].skip && c.blocks[i].items <= to {
		// This block, and those that follow without a break.
		j := i + 1
		for j < len(c.blocks) && c.blocks[j].items <= to && !c.blocks[j].skip && int(c.blocks[j].end-offset) <= maxBytes {
			j++
		}
		last := c.blocks[j-1]
		run.Frames, run.base, run.entries = c.bytes[offset:last.end:last.end], offset, s.items[from:last.items]
		k.blocks, k.alone, k.before = c.blocks[i:j:j], false, c.before
		if i > 0 {
			k.before = c.blocks[i-1].sum
		}
		return true
	}
	// In the middle of a block, or where nothing is compressed: up to the next
	// one, for this connection alone.
	if from < c.first {
		to = min(to, c.first)
	} else {
		to = min(to, c.blocks[i].items)
	}
	form := m.sub.form
	to = min(to, blockEnd(s.items, form, from, k.coding))
	buf := m.ch.engine.coders.Get().(*[]byte)
	run.Frames, k.sum = appendBlock(nil, compress.Sum{}, s.bytes[form], s.items, from, to, k.coding, buf)
	m.ch.engine.coders.Put(buf)
	run.base, run.entries = 0, s.items[from:to]
	k.blocks, k.alone = []block{{items: to, end: uint32(len(run.Frames))}}, true
	return true
}
