package relay

import (
	"context"
	"slices"
	"sort"
	"strings"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/filter"
)

// A block is a run of a partition as one fetch returned it. But for its postings
// it is never changed.
//
// There are many records in many blocks, and the garbage collector looks at
// every pointer again and again. So a block has hardly any: a record is put
// together when somebody wants it.
type block struct {
	topic       string
	partition   int32
	start, next int64     // it covers the offsets [start, next)
	bytes       int64     // of memory
	until       time.Time // it is not shared after this; zero: no bound
	offset      offsetBytes
	logStart    int64 // where the log began; -1: the broker did not say

	records  []blockRecord      // without control records and aborted ones
	arena    []byte             // their keys, values and headers' values
	headers  []kgo.RecordHeader // of all of them
	outcomes []*outcome         // of each; nil: decoding has told nothing

	// postings find records by what filters ask for. They grow when a filter
	// asks for something new.
	postings filter.Postings
	entry    *blockEntry
}

// A blockRecord is where a block has a record.
type blockRecord struct {
	offset, millis int64
	key            int   // where in arena it begins; the value is right behind it
	keyLen         int32 // -1: there is none
	valueLen       int32
	header         int32 // the first of headers that is past the record's
	attrs          kgo.RecordAttrs
}

const (
	// recordOverhead is what a record costs beside its bytes.
	recordOverhead = int64(unsafe.Sizeof(blockRecord{}))
	headerOverhead = int64(unsafe.Sizeof(kgo.RecordHeader{}))
	blockOverhead  = int64(unsafe.Sizeof(block{}))
	// outcomeOverhead is what it costs that decoding has told something.
	outcomeOverhead = 96
	pointerBytes    = int64(unsafe.Sizeof(uintptr(0)))
)

// newBlock makes the block for w that ends before next. It has a copy of all that
// records have: as the library returns them they share the memory of the whole
// answer, so that one block would keep the answers for all partitions alive.
func newBlock(w blockWant, next int64, records []*kgo.Record) *block {
	b := &block{topic: w.info.name, partition: w.partition, start: w.offset, next: next}
	size, headers, told := 0, 0, false
	for _, r := range records {
		size += len(r.Key) + len(r.Value)
		headers += len(r.Headers)
		for i := range r.Headers {
			size += len(r.Headers[i].Value)
		}
		told = told || outcomeOf(r) != nil
	}
	b.records, b.arena = make([]blockRecord, len(records)), make([]byte, 0, size)
	if headers > 0 {
		b.headers = make([]kgo.RecordHeader, 0, headers)
	}
	if told {
		b.outcomes = make([]*outcome, len(records))
	}
	b.bytes = blockOverhead + recordOverhead*int64(len(records)) + int64(size) + headerOverhead*int64(headers) + pointerBytes*int64(len(b.outcomes))
	for i, r := range records {
		at := &b.records[i]
		at.offset, at.millis, at.attrs, at.key = r.Offset, r.Timestamp.UnixMilli(), r.Attrs, len(b.arena)
		at.keyLen, at.valueLen = b.keep(r.Key), b.keep(r.Value)
		for _, h := range r.Headers {
			begin, n := len(b.arena), b.keep(h.Value)
			b.headers = append(b.headers, kgo.RecordHeader{Key: strings.Clone(h.Key), Value: b.kept(begin, n)})
			b.bytes += int64(len(h.Key))
		}
		at.header = int32(len(b.headers))
		if o := outcomeOf(r); o != nil {
			b.outcomes[i] = o
			b.bytes += outcomeOverhead + int64(len(o.raw))
			if o.mayChange && b.until.IsZero() {
				b.until = time.Now().Add(undecodableRest)
			}
		}
	}
	return b
}

// keep copies bytes to the arena's end, and returns how many; -1 for none at all,
// which is a tombstone where nothing is not.
func (b *block) keep(bytes []byte) int32 {
	if bytes == nil {
		return -1
	}
	b.arena = append(b.arena, bytes...)
	return int32(len(bytes))
}

// kept returns what keep has copied.
func (b *block) kept(begin int, n int32) []byte {
	if n < 0 {
		return nil
	}
	end := begin + int(n)
	return b.arena[begin:end:end]
}

// Len and Record implement filter.Records.
func (b *block) Len() int { return len(b.records) }

// Record puts record number i together. What r refers to is the block's, and not
// to be changed.
func (b *block) Record(i int, r *kgo.Record) {
	at := &b.records[i]
	r.Topic, r.Partition, r.Offset, r.Attrs = b.topic, b.partition, at.offset, at.attrs
	r.Timestamp = time.UnixMilli(at.millis)
	r.Key, r.Value = b.kept(at.key, at.keyLen), b.kept(at.key+max(int(at.keyLen), 0), at.valueLen)
	r.Headers, r.Context = nil, b.outcome(i)
	first := int32(0)
	if i > 0 {
		first = b.records[i-1].header
	}
	if first < at.header {
		r.Headers = b.headers[first:at.header:at.header]
	}
}

// outcome is what a record carries of its decoding, or nil.
func (b *block) outcome(i int) context.Context {
	if b.outcomes == nil || b.outcomes[i] == nil {
		return nil
	}
	return b.outcomes[i]
}

// bytesOf is about how many bytes the block's last n records have.
func (b *block) bytesOf(n int) int64 {
	return b.bytes * int64(n) / int64(max(len(b.records), 1))
}

// from is the number of the first record at or past offset.
func (b *block) from(offset int64) int {
	return sort.Search(len(b.records), func(i int) bool { return b.records[i].offset >= offset })
}

// candidates returns the numbers of those of the block's records, from number
// first on, that f may pass, if a list has narrowed them.
func (b *blocks) candidates(blk *block, f *filter.Filter, first int, seen *filter.Record) (places []int32, narrowed bool) {
	places, narrowed, grown := blk.postings.Candidates(f, blk, seen)
	if grown > 0 {
		b.looked.Add(float64(len(blk.records)))
		b.grown(blk, grown)
	}
	begin, _ := slices.BinarySearch(places, int32(first))
	return places[begin:], narrowed
}
