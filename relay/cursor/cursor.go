// Package cursor reads and writes cursors: the positions that clients get as
// the id of an event and bring back as Last-Event-ID.
//
// A cursor holds the next offset to read in every partition of a view, so any
// replica can resume from it without a session (event semantics, section 3):
//
//	cursor = "1" [ "s" | "e" ] "-" time "-" block *( "~" block )
//	block  = tag "." n 1*( "." off )            dense: offsets of partitions 0 to n-1
//	       / tag "." n 1*( "." part "_" off )   sparse: only these n partitions
//	       / tag "." n "!"                      n partitions, position unknown: resume by time
//	time   = base 36 minutes since 1970
//	tag    = 5 base 36 digits, the identity of the topic
//	n      = decimal; off and part are base 36
//
// For example, with three partitions:
//
//	1-hi3hk-4fz1q.3.xg.rq.3ej      next offsets 1204, 998, 4411
//
// There is one spelling of each cursor: Parse refuses whatever Append would
// not write, so parse and print is the identity.
//
// With a key a [Sealer] hides all of that in version 2.
//
// The package knows the text only. Whether an offset still exists, and which
// topic a tag stands for, is the relay's business. Start at [Parse] and
// [Cursor.Append]; per record the relay calls [AppendHead] and [AppendDense].
package cursor

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

const (
	// EveryEventBytes is the length up to which a cursor goes out on every
	// event when id=auto (section 3.6).
	EveryEventBytes = 256

	// MaxBytes is the length up to which a cursor is written with offsets; a
	// longer one uses the form of AppendUnknown. It leaves room for the
	// Last-Event-ID header under the 8 KiB that common proxies allow for all
	// request headers together.
	MaxBytes = 4096
)

// maxMinute is the last minute that six digits hold, in the year 6108. It
// bounds what a client can make us ask Kafka for.
const maxMinute = 36*36*36*36*36*36 - 1

// tagSpace is the number of different tags, 36^5.
const tagSpace = 36 * 36 * 36 * 36 * 36

// A Phase marks where in its life a stream is. Its value is the mark's byte.
type Phase byte

// The phases.
const (
	PhaseLive     Phase = 0   // no mark
	PhaseSnapshot Phase = 's' // still inside a snapshot: the offsets are the snapshot's start
	PhaseEnd      Phase = 'e' // a bounded replay is complete: nothing is to follow
)

// A Tag identifies a topic within a cursor, as five base 36 digits.
type Tag [5]byte

// TagOf returns the tag of a Kafka topic id: its first eight bytes, big
// endian, modulo 36^5. A topic that was deleted and created again has another
// id, and so, but for one case in 60 million, another tag.
func TagOf(topicID [16]byte) Tag {
	return tagOf(binary.BigEndian.Uint64(topicID[:8]))
}

// TagOfName returns the tag of a topic of a broker without topic ids (before
// 2.8): TagOf of SHA-256(cluster id, NUL, topic). It cannot tell a topic from
// its successor of the same name.
func TagOfName(clusterID, topic string) Tag {
	b := make([]byte, 0, len(clusterID)+1+len(topic))
	b = append(b, clusterID...)
	b = append(b, 0)
	b = append(b, topic...)
	sum := sha256.Sum256(b)
	return tagOf(binary.BigEndian.Uint64(sum[:8]))
}

func tagOf(n uint64) Tag {
	n %= tagSpace
	var t Tag
	for i := len(t) - 1; i >= 0; i-- {
		t[i] = digits[n%36]
		n /= 36
	}
	return t
}

func (t Tag) String() string { return string(t[:]) }

// A Cursor is a position in every partition of a view.
type Cursor struct {
	Phase Phase

	// Time is that of the record before the position (or the time of writing,
	// if earlier), in whole minutes, UTC. Only a topic whose offsets cannot
	// be used is resumed by it.
	Time time.Time

	// Blocks holds one block per topic, topics in byte order of their names.
	Blocks []Block
}

// A Block is the position in one topic, in exactly one of three forms: dense
// (Offsets), sparse (Parts) or Unknown.
type Block struct {
	Tag Tag

	// Partitions is n: the number of partitions that the topic had (dense and
	// Unknown), or of those in Parts. Append takes it from Offsets or Parts
	// where there are any.
	Partitions int32

	// Offsets is dense: the next offset to read, by partition. Nil otherwise.
	Offsets []int64

	// Parts is sparse: the partitions of the view, in ascending order. Nil
	// otherwise.
	Parts []PartitionOffset

	// Unknown says that the offsets are not known ("!"): resume by Time.
	Unknown bool
}

// A PartitionOffset is the next offset to read in one partition.
type PartitionOffset struct {
	Partition int32
	Offset    int64
}

// String returns the cursor as text.
func (c Cursor) String() string { return string(c.Append(nil)) }

// Append appends the cursor as text to dst. Offsets and partitions must not
// be negative, and no form of a block may be empty.
func (c Cursor) Append(dst []byte) []byte {
	dst = AppendHead(dst, c.Phase, Minute(c.Time))
	sep := byte('-')
	for i := range c.Blocks {
		b := &c.Blocks[i]
		dst = append(dst, sep)
		switch {
		case b.Unknown:
			dst = AppendUnknown(dst, b.Tag, int(b.Partitions))
		case b.Parts != nil:
			dst = AppendSparse(dst, b.Tag, b.Parts)
		default:
			dst = AppendDense(dst, b.Tag, b.Offsets)
		}
		sep = '~'
	}
	return dst
}
