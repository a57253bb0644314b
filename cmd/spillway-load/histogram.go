package main

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"time"
)

// A histogram counts durations in buckets that are at most 1/64 (1.6 %) wide,
// from a microsecond to an hour, so that its size does not depend on how much
// it counts. The zero histogram is empty.
type histogram struct {
	buckets [bucketCount]uint64
	count   uint64
	max     time.Duration
}

const (
	exactBits   = 7                    // values below 2^7 µs have a bucket each
	subBuckets  = 1 << (exactBits - 1) // buckets per power of two above
	longestBits = 32                   // 2^32 µs is 71 minutes
	bucketCount = (longestBits - exactBits + 2) * subBuckets
)

// add counts d. Less than nothing counts as nothing, more than an hour as the
// longest.
func (h *histogram) add(d time.Duration) {
	h.count++
	h.max = max(h.max, d)
	h.buckets[bucketOf(d)]++
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	us = min(us, 1<<longestBits-1)
	if us < 1<<exactBits {
		return int(us)
	}
	shift := bits.Len64(us) - exactBits
	return shift*subBuckets + int(us>>shift)
}

// topOf is the longest duration in a bucket, to the microsecond.
func topOf(bucket int) time.Duration {
	if bucket < 1<<exactBits {
		return time.Duration(bucket) * time.Microsecond
	}
	shift := bucket/subBuckets - 1
	within := uint64(bucket - shift*subBuckets)
	return time.Duration((within+1)<<shift-1) * time.Microsecond
}

// quantile is a duration that at least q (0 to 1) of all were no longer than,
// at most 1.6 % too long; 0 when nothing was counted.
func (h *histogram) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := uint64(q * float64(h.count))
	if float64(rank) < q*float64(h.count) {
		rank++
	}
	rank = max(rank, 1)
	var seen uint64
	for i, n := range h.buckets {
		if seen += n; seen >= rank {
			return min(topOf(i), h.max)
		}
	}
	return h.max
}

// merge adds what another histogram counted.
func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
	h.max = max(h.max, o.max)
}

// histogramJSON is a histogram on its way from process to process: the buckets
// that are not empty, and what each counted.
type histogramJSON struct {
	Buckets [][2]uint64   `json:"buckets"`
	Max     time.Duration `json:"max"`
}

// MarshalJSON implements json.Marshaler.
func (h *histogram) MarshalJSON() ([]byte, error) {
	doc := histogramJSON{Max: h.max}
	for i, n := range h.buckets {
		if n > 0 {
			doc.Buckets = append(doc.Buckets, [2]uint64{uint64(i), n})
		}
	}
	return json.Marshal(doc)
}

// UnmarshalJSON implements json.Unmarshaler.
func (h *histogram) UnmarshalJSON(text []byte) error {
	var doc histogramJSON
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	*h = histogram{max: doc.Max}
	for _, b := range doc.Buckets {
		if b[0] >= bucketCount {
			return fmt.Errorf("histogram: no bucket %d", b[0])
		}
		h.buckets[b[0]] = b[1]
		h.count += b[1]
	}
	return nil
}
