package relay

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A recordPool gives the live reader the memory of records that have been
// appended: a record takes more of it than a short value. Used by kgo.WithPools;
// whoever polls calls Recycle on every record.
type recordPool struct {
	records sync.Pool // *[]kgo.Record
	bytes   sync.Pool // *[]byte
}

const (
	// maxPooledRecords and maxPooledBytes are how large a slice may be to be
	// kept. Rare large batches must not stay for ever.
	maxPooledRecords = 1 << 14
	maxPooledBytes   = 4 << 20
	// inflation is how many times longer a batch is guessed to be than it is
	// compressed. Too short a guess costs a copy once: the longer slice is kept.
	inflation = 4
)

// GetRecords implements kgo.PoolRecords.
func (p *recordPool) GetRecords(n int) []kgo.Record {
	if s, ok := p.records.Get().(*[]kgo.Record); ok && cap(*s) >= n {
		return (*s)[:n]
	}
	return make([]kgo.Record, n)
}

// PutRecords implements kgo.PoolRecords.
func (p *recordPool) PutRecords(s []kgo.Record) {
	if cap(s) <= maxPooledRecords {
		p.records.Put(&s)
	}
}

// GetDecompressBytes implements kgo.PoolDecompressBytes.
func (p *recordPool) GetDecompressBytes(compressed []byte, _ kgo.CompressionCodecType) []byte {
	if s, ok := p.bytes.Get().(*[]byte); ok && cap(*s) >= len(compressed) {
		return *s
	}
	return make([]byte, 0, inflation*len(compressed))
}

// PutDecompressBytes implements kgo.PoolDecompressBytes.
func (p *recordPool) PutDecompressBytes(s []byte) {
	if cap(s) <= maxPooledBytes {
		p.bytes.Put(&s)
	}
}
