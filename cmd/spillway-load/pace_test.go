package main

import (
	"context"
	"errors"
	"math"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// A sending is one call of what pace calls.
type sending struct {
	at       time.Duration
	from, to int
}

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name string
		plan
		takes time.Duration // each sending
		want  []sending
	}{
		{"one by one", plan{Count: 3, Rate: 100, Group: 1}, 0,
			[]sending{{0, 0, 1}, {10 * ms, 1, 2}, {20 * ms, 2, 3}}},
		{"in groups, when they are complete", plan{Count: 4, Rate: 100, Group: 2}, 0,
			[]sending{{10 * ms, 0, 2}, {30 * ms, 2, 4}}},
		{"the last group is short", plan{Count: 3, Rate: 100, Group: 2}, 0,
			[]sending{{10 * ms, 0, 2}, {20 * ms, 2, 3}}},
		{"a slow sender gets what became due", plan{Count: 6, Rate: 100, Group: 1}, 25 * ms,
			[]sending{{0, 0, 1}, {25 * ms, 1, 3}, {50 * ms, 3, 6}}},
		{"as fast as it goes", plan{Count: 3}, 0, []sending{{0, 0, 3}}},
		{"but not all at once", plan{Count: atOnce + 1}, 0, []sending{{0, 0, atOnce}, {0, atOnce, atOnce + 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.Start = time.Now()
				var got []sending
				err := tt.pace(t.Context(), func(from, to int) error {
					got = append(got, sending{time.Since(tt.Start), from, to})
					time.Sleep(tt.takes) // of the bubble's time
					return nil
				})
				if err != nil || !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got %v, %v, want %v", got, err, tt.want)
				}
			})
		})
	}
}

func TestPaceEnds(t *testing.T) {
	refused := errors.New("refused")
	err := plan{Count: 10, Start: time.Now()}.pace(t.Context(), func(from, to int) error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("got %v, want the sender's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = plan{Count: 10, Rate: 0.001, Start: time.Now()}.pace(ctx, func(from, to int) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestSearch(t *testing.T) {
	for _, tt := range []struct {
		name    string
		limit   float64 // what can be borne
		ceiling float64
		want    float64 // and up to 2^(1/8) less
	}{
		{"between", 700, 1e6, 700},
		{"just borne", 10, 1e6, 10},
		{"nothing is borne", 9, 1e6, 0},
		{"all is borne", 1e9, 100, 80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := search(10, tt.ceiling, 3, func(load float64) (bool, error) { return load <= tt.limit, nil })
			if err != nil || got > tt.want || got < tt.want/math.Pow(2, 1.0/8) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	t.Run("one bad moment", func(t *testing.T) {
		calls := 0
		got, _ := search(10, 100, 3, func(float64) (bool, error) { calls++; return calls != 2, nil })
		if got != 80 {
			t.Errorf("got %v, want 80", got)
		}
	})
	t.Run("time is up", func(t *testing.T) {
		got, err := search(10, 1e6, 3, func(load float64) (bool, error) {
			if load > 50 {
				return false, context.DeadlineExceeded
			}
			return true, nil
		})
		if got != 40 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v, want 40 and the error", got, err)
		}
	})
}
