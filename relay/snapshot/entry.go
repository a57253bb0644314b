package snapshot

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// An entry is the newest record of a key, in memory of its own. It is never
// changed: versions share it.
type entry struct {
	key, value []byte
	headers    []kgo.RecordHeader
	offset     int64
	millis     int64
	partition  int32
	attrs      kgo.RecordAttrs
	extra      int             // bytes of context
	context    context.Context // of the record
}

const (
	// entryOverhead is what an entry costs beside its bytes: itself and its place
	// in the tree.
	entryOverhead = 152
	// headerOverhead is the same of a header.
	headerOverhead = 56
	// nodeBytes is a node of the tree. The first change to one that a version
	// shares copies it.
	nodeBytes = 640
	// leafEntries is how many entries a leaf has at least.
	leafEntries = 31
)

// before is the order of a snapshot: by the bytes of the keys. It does not
// depend on what else is in it, so that all versions and replicas agree.
func before(a, b *entry) bool { return bytes.Compare(a.key, b.key) < 0 }

func entryBytes(key, value []byte, headers []kgo.RecordHeader, extra int) int64 {
	n := len(key) + len(value) + extra
	for _, h := range headers {
		n += headerOverhead + len(h.Key) + len(h.Value)
	}
	return int64(entryOverhead + n + n/8) // by so much are allocations rounded up
}

func (e *entry) bytes() int64 { return entryBytes(e.key, e.value, e.headers, e.extra) }

func newEntry(r *kgo.Record, extra int) *entry {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Value)
	}
	arena := make([]byte, 0, n)
	keep := func(b []byte) []byte {
		if b == nil {
			return nil // a header without a value is not one with an empty value
		}
		start := len(arena)
		arena = append(arena, b...)
		return arena[start:len(arena):len(arena)]
	}
	e := &entry{
		key: keep(r.Key), value: keep(r.Value), headers: slices.Clone(r.Headers),
		offset: r.Offset, millis: r.Timestamp.UnixMilli(), partition: r.Partition, attrs: r.Attrs,
		extra: extra, context: r.Context,
	}
	for i := range e.headers {
		h := &e.headers[i]
		h.Key, h.Value = strings.Clone(h.Key), keep(h.Value)
	}
	return e
}

// record sets r to the record that the entry was made of. They share memory.
func (e *entry) record(r *kgo.Record, topic string) {
	*r = kgo.Record{
		Key: e.key, Value: e.value, Headers: e.headers, Timestamp: time.UnixMilli(e.millis),
		Topic: topic, Partition: e.partition, Attrs: e.attrs, Offset: e.offset, Context: e.context,
	}
}
