package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A subject is what clients connect to and messages go through: the server, the
// gateway alone, a floor, or a peer.
type subject interface {
	name() string
	addr() netip.AddrPort
	pids() []int

	// request is what client i sends, which wants that channel.
	request(as mode, channel, i int) []byte

	// send carries out a plan, and returns when every message is on its way.
	// acked is how long after they were due the messages were safe in Kafka;
	// nil where there is none.
	send(ctx context.Context, p plan) (acked *histogram, err error)

	// writes is how many system calls have written to clients, since the
	// process began.
	writes(ctx context.Context) (uint64, error)

	// left says that all clients have gone.
	left(ctx context.Context) error

	end()
}

// A mode is what clients ask for.
type mode string

const (
	sse      mode = "SSE"
	sseGzip  mode = "SSE with gzip"
	wsFrames mode = "WebSocket"
)

// requestFor is a request for a path.
func requestFor(as mode, addr netip.AddrPort, path string) []byte {
	fields := "Accept: text/event-stream\r\n"
	switch as {
	case sseGzip:
		fields += "Accept-Encoding: gzip\r\n"
	case wsFrames: // the key is any 16 bytes (RFC 6455, section 4.1)
		fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3BpbGx3YXktbG9hZC0wMA==\r\n"
	}
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, addr, fields)
}

// writesSeries is the server's own count of system calls that wrote to clients;
// /proc/<pid>/io does not count send(2).
const writesSeries = "spillway_socket_writes_total"

// A server is spillway serve between Kafka and the clients.
type server struct {
	*child
	http, ops netip.AddrPort
	kafka     *kafka
	dir       string // its working directory, without a .env
}

// startServer starts the binary, with more variables of the environment ("A=b"),
// and returns when it says that it is ready.
func startServer(ctx context.Context, binary string, k *kafka, env ...string) (*server, error) {
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
	cmd.Env = append(cmd.Env, env...)
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
	return getOps(ctx, s.ops, path)
}

func getOps(ctx context.Context, ops netip.AddrPort, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops.String()+path, nil)
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
func (s *server) pids() []int          { return []int{s.pid()} }

func (s *server) request(as mode, _, _ int) []byte {
	return requestFor(as, s.http, "/events/"+s.kafka.topic+"/")
}

func (s *server) writes(ctx context.Context) (uint64, error) {
	if n, err := s.counter(ctx, writesSeries); err == nil {
		return uint64(n), nil
	}
	u, err := readUsage(s.pid())
	return u.writes, err
}

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
	start := p.start()
	err := p.pace(ctx, func(from, to int) error {
		values := make([]byte, 0, (to-from)*p.Size)
		for i := from; i < to; i++ {
			due := p.due(i)
			begin := len(values)
			values = p.message(values, i)
			k.client.Produce(ctx, &kgo.Record{Value: slices.Clip(values[begin:])}, func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					refused = err
				}
				acked.add(time.Since(start) - due)
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

// A floorSubject is a floor in a process of its own.
type floorSubject struct {
	*child
	http  netip.AddrPort
	wrote uint64
}

// startFloor starts the Go floor.
func startFloor(ctx context.Context) (*floorSubject, error) { return startFloorUnder(ctx, nil) }

// startFloorUnder starts it as the last arguments of another program, with more
// variables of the environment ("A=b").
func startFloorUnder(ctx context.Context, program []string, env ...string) (*floorSubject, error) {
	c, err := startRoleUnder(program, "floor", env)
	if err != nil {
		return nil, err
	}
	return greetFloor(ctx, c)
}

//go:embed floor.c
var floorSource []byte

// errNoCompiler is a machine that cannot compile the C floor.
var errNoCompiler = errors.New("no C compiler (cc): the C floor is left out")

// startCFloor compiles the C floor and starts it.
func startCFloor(ctx context.Context) (*floorSubject, error) { return startCFloorUnder(ctx, nil) }

// startCFloorUnder starts it as the last argument of another program.
func startCFloorUnder(ctx context.Context, program []string) (*floorSubject, error) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return nil, errNoCompiler
	}
	dir, err := os.MkdirTemp("", "spillway-load-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a program that runs goes on
	binary := filepath.Join(dir, "floor")
	cmd := exec.CommandContext(ctx, cc, "-O2", "-pthread", "-x", "c", "-", "-o", binary)
	cmd.Stdin = bytes.NewReader(floorSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cc floor.c: %w\n%s", err, out)
	}
	line := append(slices.Clone(program), binary)
	c, err := start("C floor", exec.Command(line[0], line[1:]...))
	if err != nil {
		return nil, err
	}
	return greetFloor(ctx, c) // it runs by then, and its file can go
}

func greetFloor(ctx context.Context, c *child) (*floorSubject, error) {
	f := &floorSubject{child: c}
	var a floorAnswer
	err := c.ask(ctx, nil, &a)
	if err == nil {
		f.http, err = netip.ParseAddrPort(a.Addr)
	}
	if err != nil {
		c.end()
		return nil, fmt.Errorf("floor: %w", err)
	}
	return f, nil
}

func (f *floorSubject) name() string         { return f.label }
func (f *floorSubject) addr() netip.AddrPort { return f.http }
func (f *floorSubject) pids() []int          { return []int{f.pid()} }

func (f *floorSubject) request(as mode, channel, _ int) []byte {
	return requestFor(as, f.http, "/events/"+channelName(channel)+"/")
}

func (f *floorSubject) send(ctx context.Context, p plan) (*histogram, error) {
	var a floorAnswer
	if err := f.ask(ctx, p, &a); err != nil {
		return nil, err
	}
	f.wrote = a.Writes
	if a.Err != "" {
		return nil, fmt.Errorf("%s: %s", f.label, a.Err)
	}
	return nil, nil
}

func (f *floorSubject) writes(context.Context) (uint64, error) { return f.wrote, nil }

func (f *floorSubject) left(ctx context.Context) error {
	_, err := f.send(ctx, plan{})
	return err
}

// A posted is a target as a subject: messages are posted when they are due, by
// this process.
type posted struct {
	target
	perPost int // messages in each request
}

func (p *posted) name() string {
	if p.perPost > 1 {
		return fmt.Sprintf("%s, up to %d messages a POST", p.target.name(), p.perPost)
	}
	return p.target.name()
}

func (p *posted) request(_ mode, channel, i int) []byte {
	return p.subscribeRequest(channelName(channel), i)
}

func (p *posted) send(ctx context.Context, pl plan) (*histogram, error) {
	return nil, pl.pace(ctx, func(from, to int) error {
		payloads := make([][]byte, 0, to-from)
		for i := from; i < to; i++ {
			payloads = append(payloads, pl.message(nil, i))
		}
		return p.publish(ctx, channelName(0), payloads, p.perPost) // peers are measured with one channel
	})
}

func (p *posted) writes(context.Context) (uint64, error) { return 0, nil } // unknown

func (p *posted) left(context.Context) error { return nil } // it sees for itself

func (p *posted) end() { p.stop() }
