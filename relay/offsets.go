package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/singleflight"
)

const listOffsetsTimeout = 10 * time.Second

// offsets asks Kafka where logs begin and end. Requests for the same answer
// that arrive while one is on its way share it: a reconnect storm is one
// ListOffsets per topic.
type offsets struct {
	admin  *kadm.Client
	flight singleflight.Group
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

func (o *offsets) list(ctx context.Context, kind, topic string, n int, ask func(context.Context) (kadm.ListedOffsets, error)) ([]int64, error) {
	done := o.flight.DoChan(kind+" "+topic, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listOffsetsTimeout)
		defer cancel()
		listed, err := ask(ctx)
		if err != nil {
			return nil, err
		}
		if err := listed.Error(); err != nil {
			return nil, err
		}
		byPartition := make([]int64, len(listed[topic]))
		for p, l := range listed[topic] {
			if int(p) < len(byPartition) {
				byPartition[p] = l.Offset
			}
		}
		return byPartition, nil
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, unavailable("list offsets of "+topic, r.Err)
		}
		list := r.Val.([]int64)
		if len(list) < n {
			return nil, unavailable("list offsets of "+topic, fmt.Errorf("%d of %d partitions answered", len(list), n))
		}
		return append([]int64(nil), list[:n]...), nil // shared with other callers
	case <-ctx.Done():
		return nil, unavailable("list offsets of "+topic, ctx.Err())
	}
}
