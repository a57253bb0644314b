package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A subject is what clients connect to and messages go through: the server, or
// the floor.
type subject interface {
	name() string
	addr() netip.AddrPort
	path() string
	pid() int

	// send carries out a plan, and returns when every message is on its way.
	// acked is how long after they were due the messages were safe in Kafka;
	// nil where there is none.
	send(ctx context.Context, p plan) (acked *histogram, err error)

	// left says that all clients have gone.
	left(ctx context.Context) error
}

// A server is spillway serve between Kafka and the clients.
type server struct {
	*child
	http, ops netip.AddrPort
	kafka     *kafka
	dir       string // its working directory, without a .env
}

// startServer starts the binary, and returns when it says that it is ready.
func startServer(ctx context.Context, binary string, k *kafka) (*server, error) {
	s := &server{kafka: k}
	for _, a := range []*netip.AddrPort{&s.http, &s.ops} {
		var err error
		if *a, err = freeAddr(); err != nil {
			return nil, err
		}
	}
	config, err := json.Marshal(map[string]string{"bootstrap.servers": k.bootstrap})
	if err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "spillway-load-"); err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "serve")
	cmd.Dir = s.dir
	// The rest of the environment is passed on, so that settings can be tried.
	cmd.Env = append(os.Environ(),
		"HTTP_ADDR="+s.http.String(),
		"OPS_ADDR="+s.ops.String(),
		"CONTROL_ADDR=",
		"KAFKA_CONSUMER_CONFIG="+string(config),
		"TOPICS="+k.topic,
		"DEBUG=true", // the profile
		"LOG_LEVEL=warn",
		"DRAIN_TIMEOUT=1s",
	)
	if s.child, err = start("spillway serve", cmd); err != nil {
		_ = os.Remove(s.dir) // empty
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		s.end()
		return nil, s.because(err)
	}
	return s, nil
}

// end also removes its directory.
func (s *server) end() {
	s.child.end()
	_ = os.RemoveAll(s.dir) // the system removes old ones
}

// freeAddr is an address of this machine that nothing listened on just now.
func freeAddr() (netip.AddrPort, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer ln.Close()
	return netip.ParseAddrPort(ln.Addr().String())
}

// ready waits until /readyz says 200.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return errExited
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		}
	}
}

// get asks the ops port.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.ops.String()+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", path, resp.Status, body)
	}
	return body, err
}

func (s *server) name() string         { return "spillway" }
func (s *server) addr() netip.AddrPort { return s.http }
func (s *server) path() string         { return "/events/" + s.kafka.topic + "/" }

func (s *server) send(ctx context.Context, p plan) (*histogram, error) { return s.kafka.send(ctx, p) }

func (s *server) left(context.Context) error { return nil } // it sees for itself

// A kafka is the producer's side of the server's topic.
type kafka struct {
	bootstrap string
	topic     string
	client    *kgo.Client
}

// openKafka makes a topic of one partition, so that all messages have one order.
func openKafka(ctx context.Context, bootstrap, topic string) (*kafka, error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.DefaultProduceTopic(topic),
		kgo.ProducerLinger(0),                             // batches form while the last one is on its way
		kgo.ProducerBatchCompression(kgo.NoCompression()), // filling would be nothing
		kgo.MaxBufferedRecords(4<<20),                     // an open loop waits for nobody
	)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	k := &kafka{bootstrap: bootstrap, topic: topic, client: client}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, 1, 1, nil, topic); err != nil {
		client.Close()
		return nil, fmt.Errorf("kafka at %s: create topic %s: %w", bootstrap, topic, err)
	}
	return k, nil
}

// close deletes the topic: the broker may be one that stays.
func (k *kafka) close() error {
	defer k.client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(k.client).DeleteTopic(ctx, k.topic); err != nil {
		return fmt.Errorf("kafka at %s: delete topic %s: %w", k.bootstrap, k.topic, err)
	}
	return nil
}

// end is the offset behind the last record.
func (k *kafka) end(ctx context.Context) (int64, error) {
	ends, err := kadm.NewClient(k.client).ListEndOffsets(ctx, k.topic)
	if err != nil {
		return 0, fmt.Errorf("kafka at %s: %w", k.bootstrap, err)
	}
	o, ok := ends.Lookup(k.topic, 0)
	if !ok || o.Err != nil {
		return 0, fmt.Errorf("kafka at %s: end of %s: %v", k.bootstrap, k.topic, o.Err)
	}
	return o.Offset, nil
}

// send produces a plan's messages, and waits until Kafka has them all.
func (k *kafka) send(ctx context.Context, p plan) (*histogram, error) {
	var mu sync.Mutex
	acked := new(histogram) // guarded by mu
	var refused error       // guarded by mu
	err := p.pace(ctx, func(from, to int) error {
		values := make([]byte, 0, (to-from)*p.Size)
		for i := from; i < to; i++ {
			due := p.due(i)
			begin := len(values)
			values = message{seq: p.First + uint32(i), due: due}.append(values, p.Size)
			k.client.Produce(ctx, &kgo.Record{Value: slices.Clip(values[begin:])}, func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					refused = err
				}
				acked.add(time.Since(p.Start) - due)
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := k.client.Flush(ctx); err != nil {
		return nil, fmt.Errorf("kafka at %s: %w", k.bootstrap, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if refused != nil {
		return nil, fmt.Errorf("kafka at %s: %w", k.bootstrap, refused)
	}
	return acked, nil
}

// A floorTarget is the floor in a process of its own.
type floorTarget struct {
	*child
	http netip.AddrPort
}

func startFloor(ctx context.Context) (*floorTarget, error) {
	c, err := startRole("floor")
	if err != nil {
		return nil, err
	}
	var a floorAnswer
	if err := c.ask(ctx, nil, &a); err != nil {
		c.end()
		return nil, err
	}
	f := &floorTarget{child: c}
	if f.http, err = netip.ParseAddrPort(a.Addr); err != nil {
		c.end()
		return nil, fmt.Errorf("floor: %w", err)
	}
	return f, nil
}

func (f *floorTarget) name() string         { return "floor" }
func (f *floorTarget) addr() netip.AddrPort { return f.http }
func (f *floorTarget) path() string         { return "/" }

func (f *floorTarget) send(ctx context.Context, p plan) (*histogram, error) {
	var a floorAnswer
	if err := f.ask(ctx, p, &a); err != nil {
		return nil, err
	}
	if a.Err != "" {
		return nil, fmt.Errorf("floor: %s", a.Err)
	}
	return nil, nil
}

func (f *floorTarget) left(ctx context.Context) error {
	_, err := f.send(ctx, plan{})
	return err
}
