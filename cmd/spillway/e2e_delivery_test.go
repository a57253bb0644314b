package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// TestDelivery counts. Clients that go away at random and come back with the
// id they saw last, each time to the other one of two servers, while records
// are produced and the broker is restarted in the middle, get every record
// exactly once, each partition in its order.
func TestDelivery(t *testing.T) {
	t.Run("kfake", func(t *testing.T) {
		d := delivery{records: 20_000, partitions: 12, clients: 50, timeout: 2 * time.Minute}
		d.run(t, kafkatest.Fake(t))
	})
	t.Run("kafka", func(t *testing.T) {
		d := delivery{records: 200_000, partitions: 12, clients: 50, timeout: 15 * time.Minute}
		d.run(t, kafkatest.Real(t))
	})
}

type delivery struct {
	records, partitions, clients int
	timeout                      time.Duration
}

func (d delivery) run(t *testing.T, k *kafkatest.Cluster) {
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, d.partitions)
	servers := []*server{serve(t, k), serve(t, k)}
	ctx, cancel := context.WithTimeout(t.Context(), d.timeout)
	defer cancel()

	var (
		began    = time.Now()
		clients  []*countingClient
		running  sync.WaitGroup
		finished atomic.Int64
	)
	for i := range d.clients {
		c := &countingClient{
			urls: []string{
				servers[i%2].url + "/events/" + topic + "/?from=earliest",
				servers[(i+1)%2].url + "/events/" + topic + "/?from=earliest",
			},
			want: d.records,
			next: make([]int, d.partitions),
			rand: rand.New(rand.NewPCG(1, uint64(i))),
		}
		clients = append(clients, c)
		running.Go(func() { // ends when it has all, with its first fault, or with ctx
			if err := c.run(ctx); err != nil {
				c.fault = err
			}
			finished.Add(1)
		})
	}

	// Half of the records, the restart, and the other half from a producer
	// that lived through it.
	produced := make(chan error, 1)
	half := make(chan struct{})
	producer := k.Client()
	go func() { produced <- d.produce(ctx, producer, topic, half) }()
	select {
	case <-half:
		k.Restart()
	case err := <-produced:
		t.Fatalf("produce: %v before the half", err)
	}
	if err := <-produced; err != nil {
		t.Fatalf("produce: %v", err)
	}
	running.Wait()

	connections := 0
	for i, c := range clients {
		connections += c.connections
		if c.fault != nil {
			t.Errorf("client %d, connection %d, after %d of %d records: %v", i, c.connections, c.got, d.records, c.fault)
		}
	}
	if min := 3 * d.clients; connections < min {
		t.Errorf("connections: got %d, want at least %d, or nothing has been tried", connections, min)
	}
	took := time.Since(began)
	t.Logf("%d records to %d clients over %d connections in %v, %.0f events/s",
		d.records, d.clients, connections, took.Round(time.Millisecond), float64(d.records*d.clients)/took.Seconds())
}

// produce produces records whose values are "<partition> <number in it>".
// It closes half when half of them are acknowledged.
func (d delivery) produce(ctx context.Context, cl *kgo.Client, topic string, half chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pace := time.NewTicker(30 * time.Millisecond)
	defer pace.Stop()
	var acknowledged atomic.Int64
	for i := range d.records {
		p := i % d.partitions
		r := &kgo.Record{Topic: topic, Partition: int32(p), Value: fmt.Appendf(nil, "%d %d", p, i/d.partitions)}
		cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil {
				cancel(fmt.Errorf("record %s: %w", r.Value, err))
				return
			}
			if acknowledged.Add(1) == int64(d.records/2) {
				close(half)
			}
		})
		if ctx.Err() != nil {
			break
		}
		// A burst at a time, so that clients also wait for what is to come.
		if burst := d.records / 100; i%burst == burst-1 {
			if err := cl.Flush(ctx); err != nil {
				break
			}
			<-pace.C
		}
	}
	_ = cl.Flush(ctx) // fails only with ctx, which knows why
	return context.Cause(ctx)
}

// A countingClient is an EventSource that has been told to disconnect now and
// then. It keeps only counts, so that it sees at once what is out of order.
type countingClient struct {
	urls []string
	want int
	rand *rand.Rand

	next        []int // by partition: the number that must come next
	got         int
	lastID      string
	connections int
	fault       error
}

func (c *countingClient) run(ctx context.Context) error {
	for c.got < c.want {
		if ctx.Err() != nil {
			return fmt.Errorf("not done in time; next of each partition: %v", c.next)
		}
		err := c.connect(ctx, c.urls[c.connections%len(c.urls)])
		c.connections++
		var wrong *wrongRecord
		switch {
		case errors.As(err, &wrong):
			return err
		case err != nil: // transient: a real client waits for the retry time
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	return nil
}

// A wrongRecord breaks the promise; nothing else does.
type wrongRecord struct{ what string }

func (e *wrongRecord) Error() string { return e.what }

// connect reads from one connection until it has had enough of it (nil) or
// it breaks.
func (c *countingClient) connect(ctx context.Context, url string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if c.lastID != "" {
		req.Header.Set("Last-Event-ID", c.lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &wrongRecord{"got " + resp.Status}
	}
	r := newEventReader(resp.Body)
	// Some connections are short, some see a good part of it all.
	enough := c.rand.IntN(100)
	if c.rand.IntN(4) > 0 {
		enough = c.rand.IntN(c.want/10 + 1)
	}
	for n := 0; n < enough || n == 0; {
		b, err := r.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF // the server had no reason to end it
			}
			return err
		}
		if b.id != "" {
			c.lastID = b.id
		}
		if !b.fires {
			continue
		}
		if b.name == "stream-error" {
			return errors.New(b.data)
		}
		if err := c.count(b); err != nil {
			return err
		}
		if n++; c.got == c.want {
			return nil
		}
	}
	return nil
}

func (c *countingClient) count(b block) error {
	partition, number, ok := strings.Cut(b.data, " ")
	p, err := strconv.Atoi(partition)
	n, err2 := strconv.Atoi(number)
	if b.name != "message" || !ok || err != nil || err2 != nil || p < 0 || p >= len(c.next) {
		return &wrongRecord{fmt.Sprintf("got %+v, want a record", b)}
	}
	if want := c.next[p]; n != want {
		what := "repeated"
		if n > want {
			what = "lost"
		}
		return &wrongRecord{fmt.Sprintf("partition %d: got number %d, want %d: %s", p, n, want, what)}
	}
	c.next[p]++
	c.got++
	return nil
}
