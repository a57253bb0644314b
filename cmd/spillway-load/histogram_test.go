package main

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramBucketsFollowEachOther(t *testing.T) {
	next := 0
	for us := range 1 << 16 {
		d := time.Duration(us) * time.Microsecond
		got := bucketOf(d)
		if got != next && got != next-1 {
			t.Fatalf("%d µs is in bucket %d, the one before in %d", us, got, next-1)
		}
		next = got + 1
		top := topOf(got)
		if top < d || float64(top) > float64(d)*(1+1.0/64) {
			t.Fatalf("%d µs is in a bucket that ends at %v", us, top)
		}
	}
	for _, d := range []time.Duration{-time.Hour, 0, time.Hour, 1000 * time.Hour} {
		if b := bucketOf(d); b < 0 || b >= bucketCount {
			t.Errorf("%v is in bucket %d of %d", d, b, bucketCount)
		}
	}
	if got := bucketOf(1000 * time.Hour); got != bucketCount-1 {
		t.Errorf("the longest is in bucket %d of %d", got, bucketCount)
	}
}

func TestHistogramQuantiles(t *testing.T) {
	ms := func(values ...int) (d []time.Duration) {
		for _, v := range values {
			d = append(d, time.Duration(v)*time.Millisecond)
		}
		return d
	}
	for _, tt := range []struct {
		name   string
		values []time.Duration
		q      float64
		want   time.Duration
	}{
		{"of nothing", nil, 0.99, 0},
		{"of one, the middle", ms(7), 0.5, 7 * time.Millisecond},
		{"of one, the end", ms(7), 1, 7 * time.Millisecond},
		{"the least", ms(1, 2, 3), 0, time.Millisecond},
		{"the middle of three", ms(1, 2, 300), 0.5, 2 * time.Millisecond},
		{"the middle of four is the lower", ms(1, 2, 3, 4), 0.5, 2 * time.Millisecond},
		{"99 of 100 are short", append(slices.Repeat(ms(1), 99), ms(1000)...), 0.99, time.Millisecond},
		{"98 of 100 are short", append(slices.Repeat(ms(1), 98), ms(1000, 1000)...), 0.99, time.Second},
		{"less than nothing", ms(-5), 0.5, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h histogram
			for _, d := range tt.values {
				h.add(d)
			}
			if got := h.quantile(tt.q); got < tt.want || float64(got) > float64(tt.want)*(1+1.0/64) {
				t.Errorf("got %v, want %v or up to 1/64 more", got, tt.want)
			}
		})
	}
}

// Against sorting, over six powers of ten.
func TestHistogramAgainstSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Microsecond * time.Duration(1+r.Int64N(1<<r.Int64N(20)))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(0, int(q*float64(len(all)))-1)]
		if got := h.quantile(q); got < want || float64(got) > float64(want)*(1+1.0/64) {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
	if want := all[len(all)-1]; h.max != want {
		t.Errorf("max: got %v, want %v", h.max, want)
	}
}

// A histogram is the same behind the way from process to process, and merged.
func TestHistogramTravels(t *testing.T) {
	var a, b, both histogram
	for i := range 1000 {
		d := time.Duration(i*i) * time.Microsecond
		if i%3 == 0 {
			a.add(d)
		} else {
			b.add(d)
		}
		both.add(d)
	}
	text, err := json.Marshal(&b)
	if err != nil {
		t.Fatal(err)
	}
	var back histogram
	if err := json.Unmarshal(text, &back); err != nil || back != b {
		t.Fatalf("not the same behind JSON: %v", err)
	}
	if a.merge(&back); a != both {
		t.Error("merged is not what was counted together")
	}
	if json.Unmarshal([]byte(`{"buckets":[[99999,1]]}`), &back) == nil {
		t.Error("no error for a bucket that there is not")
	}
}
