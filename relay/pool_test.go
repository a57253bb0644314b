package relay

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestRecordPool(t *testing.T) {
	var p recordPool
	p.PutRecords(make([]kgo.Record, 3))
	p.PutDecompressBytes(make([]byte, 3))
	for range 3 { // whatever it has
		if s := p.GetRecords(10); len(s) != 10 {
			t.Errorf("%d records, want 10", len(s))
		}
		if s := p.GetDecompressBytes(make([]byte, 10), 0); cap(s) < 10 {
			t.Errorf("room for %d bytes, want 10 at least", cap(s))
		}
	}
	p.PutRecords(make([]kgo.Record, maxPooledRecords+1))
	p.PutDecompressBytes(make([]byte, maxPooledBytes+1))
	if p.records.Get() != nil || p.bytes.Get() != nil {
		t.Error("what is too large is kept")
	}
}
