package main

import (
	"context"
	"errors"
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
		{"one by one", plan{Count: 3, Rate: 100, Beat: 1}, 0,
			[]sending{{0, 0, 1}, {10 * ms, 1, 2}, {20 * ms, 2, 3}}},
		{"in beats, when they are complete", plan{Count: 4, Rate: 100, Beat: 2}, 0,
			[]sending{{10 * ms, 0, 2}, {30 * ms, 2, 4}}},
		{"the last beat is short", plan{Count: 3, Rate: 100, Beat: 2}, 0,
			[]sending{{10 * ms, 0, 2}, {20 * ms, 2, 3}}},
		{"a slow sender gets what became due", plan{Count: 6, Rate: 100, Beat: 1}, 25 * ms,
			[]sending{{0, 0, 1}, {25 * ms, 1, 3}, {50 * ms, 3, 6}}},
		{"as fast as it goes", plan{Count: 3}, 0, []sending{{0, 0, 3}}},
		{"but not all at once", plan{Count: atOnce + 1}, 0, []sending{{0, 0, atOnce}, {0, atOnce, atOnce + 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.StartNs = time.Now().UnixNano()
				var got []sending
				err := tt.pace(t.Context(), func(from, to int) error {
					got = append(got, sending{time.Since(tt.start()), from, to})
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
	err := plan{Count: 10, StartNs: time.Now().UnixNano()}.pace(t.Context(), func(from, to int) error { return refused })
	if !errors.Is(err, refused) {
		t.Errorf("got %v, want the sender's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = plan{Count: 10, Rate: 0.001, StartNs: time.Now().UnixNano()}.pace(ctx, func(from, to int) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// Each channel gets its groups in turn, and its messages are numbered.
func TestChannels(t *testing.T) {
	p := plan{Count: 24, Channels: 3, Group: 2}
	type place struct{ channel, nth int }
	var got []place
	for i := range 14 {
		got = append(got, place{p.channel(i), p.place(i)})
	}
	want := []place{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {2, 0}, {2, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 2}, {2, 3}, {0, 4}, {0, 5}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if p.each() != 8 {
		t.Errorf("%d messages for each channel, want 8", p.each())
	}
	var groups [][3]int
	err := p.groups(1, 7, func(channel, from, to int) error {
		groups = append(groups, [3]int{channel, from, to})
		return nil
	})
	if want := [][3]int{{0, 1, 2}, {1, 2, 4}, {2, 4, 6}, {0, 6, 7}}; err != nil || !reflect.DeepEqual(groups, want) {
		t.Errorf("groups: got %v, %v, want %v", groups, err, want)
	}
}
