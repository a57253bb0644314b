package compress

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
)

// However many ask at once, so many values exist, and no two have the same.
func TestPoolIsBounded(t *testing.T) {
	var made atomic.Int64
	p := newPool(func() *sync.Mutex { made.Add(1); return new(sync.Mutex) })
	size := cap(p.lent)
	held := make([]*sync.Mutex, size)
	for i := range held {
		held[i] = p.get()
	}
	var wg sync.WaitGroup
	for range 10 * size {
		wg.Go(func() {
			m := p.get()
			if !m.TryLock() {
				t.Error("lent to two at once")
				return
			}
			m.Unlock()
			p.put(m)
		})
	}
	for _, m := range held {
		p.put(m)
	}
	wg.Wait()
	if got := int(made.Load()); got != size {
		t.Errorf("made %d, want %d", got, size)
	}
}

// Encoders are shared by goroutines, and none sees another's text.
func TestConcurrent(t *testing.T) {
	all := messages(256)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 50 {
				text := all[128*i:][:1+97*j]
				if got := inflate(t, AppendDeflate(nil, text), []byte{3, 0}); !bytes.Equal(got, text) {
					t.Errorf("deflate: %d bytes came back as others", len(text))
				}
				if got := unzstd(t, AppendZstd(nil, text)); !bytes.Equal(got, text) {
					t.Errorf("zstd: %d bytes came back as others", len(text))
				}
				if got, err := Inflate(nil, AppendMessage(nil, text), len(text)); err != nil || !bytes.Equal(got, text) {
					t.Errorf("message: %d bytes came back as %d others, %v", len(text), len(got), err)
				}
			}
		})
	}
	wg.Wait()
}
