package relay

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A queue is readers that want turns, and in which order they were given them.
type queue struct {
	*turns
	given []string
}

// wants begins to wait for a turn, and keeps it.
func (q *queue) wants(topic string, at int64) {
	synctest.Wait()
	go func() {
		if q.take(context.Background(), spot{topics: []string{topic}, at: at, reach: 10}) == nil {
			q.given = append(q.given, fmt.Sprint(topic, at))
		}
	}()
	synctest.Wait()
}

// pass gives back n turns, one after the other.
func (q *queue) pass(n int) {
	for range n {
		q.giveBack()
		synctest.Wait()
	}
}

func newQueue(atOnce int) *queue {
	return &queue{turns: newTurns(atOnce, time.Now, prometheus.NewRegistry())}
}

func (q *queue) want(t *testing.T, given ...string) {
	t.Helper()
	if !slices.Equal(q.given, given) {
		t.Errorf("turns were given to %v, want %v", q.given, given)
	}
}

func TestTurnsGoUpAndBeginAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		for _, at := range []int64{500, 300} {
			q.wants("b", at) // there is room for both
		}
		q.wants("b", 100)
		q.wants("b", 400)
		q.wants("a", 900)
		q.wants("b", 200)
		q.pass(3)
		q.wants("b", 195) // a little behind
		q.wants("b", 150) // further
		q.wants("b", 210)
		q.pass(4)
		q.want(t, "b500", "b300", "a900", "b100", "b200", "b195", "b210", "b400", "b150")
		q.pass(1)
		if q.pass(1); q.free != 2 {
			t.Errorf("%d turns are free at the end, want 2", q.free)
		}
	})
}

func TestTurnsOfThoseWhoWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		q.wants("a", 50)
		q.wants("a", 400)
		q.wants("a", 10)
		time.Sleep(turnPatience + time.Millisecond)
		q.wants("a", 60)
		q.wants("a", 410)
		q.pass(2) // 400 has waited for long; 10 too, and the hand goes on for a while
		time.Sleep(turnBatch + time.Millisecond)
		q.pass(2)
		q.want(t, "a50", "a400", "a410", "a10", "a60")
		q.pass(1)
	})
}

func TestTurnsOfThoseWhoLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1)
		q.wants("a", 1)
		ctx, cancel := context.WithCancel(context.Background())
		left := make(chan error, 1)
		go func() { left <- q.take(ctx, spot{topics: []string{"a"}, at: 2}) }()
		q.wants("a", 3)
		cancel()
		if err := <-left; err == nil {
			t.Error("who left was given a turn")
		}
		q.pass(1)
		q.want(t, "a1", "a3")
		if q.pass(1); !q.tryTake() || q.tryTake() {
			t.Error("not one turn is left at the end")
		}
	})
}
