package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

const listOffsetsTimeout = 10 * time.Second

// offsets asks Kafka where logs begin and end. Of each question at most one
// is on its way and one waits; whoever asks meanwhile shares the one that
// waits. So a reconnect storm is one ListOffsets after the other.
type offsets struct {
	admin *kadm.Client
	calls sync.WaitGroup // each ends by its own timeout

	mu      sync.Mutex
	waiting map[string]*call // by question, not sent yet
	sent    map[string]*call
}

func newOffsets(admin *kadm.Client) *offsets {
	return &offsets{admin: admin, waiting: make(map[string]*call), sent: make(map[string]*call)}
}

// starts are the log start offsets of a topic's n partitions.
func (o *offsets) starts(ctx context.Context, topic string, n int) ([]int64, error) {
	return o.list(ctx, "starts", topic, n, func(ctx context.Context) (kadm.ListedOffsets, error) {
		return o.admin.ListStartOffsets(ctx, topic)
	})
}

// ends are the last stable offsets: the end for a reader of committed records.
func (o *offsets) ends(ctx context.Context, topic string, n int) ([]int64, error) {
	return o.list(ctx, "ends", topic, n, func(ctx context.Context) (kadm.ListedOffsets, error) {
		return o.admin.ListCommittedOffsets(ctx, topic)
	})
}

// highWatermarks are the ends of the logs, open transactions included.
func (o *offsets) highWatermarks(ctx context.Context, topic string, n int) ([]int64, error) {
	return o.list(ctx, "hw", topic, n, func(ctx context.Context) (kadm.ListedOffsets, error) {
		return o.admin.ListEndOffsets(ctx, topic)
	})
}

// after are the first offsets whose record is not older than t; a partition
// without such a record is at its end.
func (o *offsets) after(ctx context.Context, topic string, n int, t time.Time) ([]int64, error) {
	ms := max(t.UnixMilli(), 0)
	return o.list(ctx, fmt.Sprintf("after %d", ms), topic, n, func(ctx context.Context) (kadm.ListedOffsets, error) {
		return o.admin.ListOffsetsAfterMilli(ctx, ms, topic)
	})
}

// A call is one question to Kafka, for all who asked before it was sent.
type call struct {
	done chan struct{} // closed when list or err is set
	list []int64
	err  error
}

// list asks, or waits for a call that has not been sent yet: the answer is
// never older than the question, or a cursor that another replica wrote a
// moment ago would look as if it lay past the end.
func (o *offsets) list(ctx context.Context, kind, topic string, n int, ask func(context.Context) (kadm.ListedOffsets, error)) ([]int64, error) {
	key := kind + " " + topic
	o.mu.Lock()
	c := o.waiting[key]
	if c == nil {
		c = &call{done: make(chan struct{})}
		before := o.sent[key]
		o.waiting[key] = c
		o.calls.Go(func() { o.run(context.WithoutCancel(ctx), c, before, key, topic, ask) })
	}
	o.mu.Unlock()
	select {
	case <-c.done:
		if c.err != nil {
			return nil, unavailable("list offsets of "+topic, c.err)
		}
		if len(c.list) < n {
			return nil, unavailable("list offsets of "+topic, fmt.Errorf("%d of %d partitions answered", len(c.list), n))
		}
		return slices.Clone(c.list[:n]), nil // shared with other callers
	case <-ctx.Done():
		return nil, unavailable("list offsets of "+topic, ctx.Err())
	}
}

// run sends c as soon as the call before it, if any, was answered.
func (o *offsets) run(ctx context.Context, c, before *call, key, topic string, ask func(context.Context) (kadm.ListedOffsets, error)) {
	if before != nil {
		<-before.done // it ends by its own timeout
	}
	o.mu.Lock()
	delete(o.waiting, key)
	o.sent[key] = c
	o.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listOffsetsTimeout)
	defer cancel()
	listed, err := ask(ctx)
	if err == nil {
		err = listed.Error()
	}
	if err == nil {
		c.list = make([]int64, len(listed[topic]))
		for p, l := range listed[topic] {
			if int(p) < len(c.list) {
				c.list[p] = l.Offset
			}
		}
	}
	c.err = err
	o.mu.Lock()
	if o.sent[key] == c {
		delete(o.sent, key)
	}
	o.mu.Unlock()
	close(c.done)
}
