// Package kafkatest gives tests a Kafka: a fake one in this process, or a real
// broker beside it, behind the same methods, so that one scenario runs on both.
//
//	func TestResume(t *testing.T) {
//		kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
//			topic := kafkatest.UniqueTopic(t)
//			k.CreateTopic(topic, 3)
//			k.Produce(&kgo.Record{Topic: topic, Partition: 1, Value: []byte("hello")})
//			...
//		})
//	}
//
// The fake is quick (about 15 ms) and is a test's own. The real broker takes
// seconds to start, so one serves all tests of a process, which keep out of
// each other's way with UniqueTopic; it runs only where SPILLWAY_E2E=full asks
// for it, as make test does. A package whose tests use it has
//
//	func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }
//
// What cannot be had on a machine is skipped aloud: a line in the file that
// SPILLWAY_SKIPS names, and a failure with CI=true.
//
// Not for benchmarks of Kafka, and not for use outside of tests.
package kafkatest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience bounds every single thing that a test waits for here. It is long
// because a loaded machine is slow, and never reached when all is well.
const patience = 60 * time.Second

// Full reports whether the slow tests were asked for, those that need more
// than this process: SPILLWAY_E2E=full.
func Full() bool { return os.Getenv("SPILLWAY_E2E") == "full" }

// A Cluster is a Kafka as one test sees it. Its methods fail that test when
// something goes wrong, so they belong in the test's own goroutine; Client is
// for the others.
type Cluster struct {
	tb      testing.TB
	backend backend

	mu       sync.Mutex
	producer *kgo.Client // guarded by mu; nil until needed and while stopped
}

// A backend is what the two kinds of cluster do differently. start and stop
// are idempotent, and after both the same records are at the same addresses.
type backend interface {
	name() string
	brokers() []string
	start() error
	stop() error
}

// Each runs f as the subtests "kfake" and "kafka".
func Each(t *testing.T, f func(t *testing.T, k *Cluster)) {
	t.Helper()
	t.Run("kfake", func(t *testing.T) { f(t, Fake(t)) })
	t.Run("kafka", func(t *testing.T) { f(t, Real(t)) })
}

// UniqueTopic makes a topic name that nobody else uses, and that tells in
// Kafka's tools which test it was.
func UniqueTopic(tb testing.TB) string {
	safe := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.':
			return r
		}
		return '-'
	}
	name := strings.Map(safe, strings.TrimPrefix(tb.Name(), "Test"))
	// A topic name has at most 249 characters.
	return fmt.Sprintf("%.200s-%s", name, strings.ToLower(rand.Text()[:8]))
}

// Name is "kfake" or "kafka".
func (c *Cluster) Name() string { return c.backend.name() }

// Brokers are the addresses to start from, host:port each. They stay the same
// over Stop and Start.
func (c *Cluster) Brokers() []string { return c.backend.brokers() }

// Bootstrap is Brokers as bootstrap.servers wants them.
func (c *Cluster) Bootstrap() string { return strings.Join(c.Brokers(), ",") }

// Fake is the fake broker itself, to break it in ways that a real one will not
// be broken on request. It is nil on the real broker, and another one after
// Stop and Start.
func (c *Cluster) Fake() *kfake.Cluster {
	if f, ok := c.backend.(*fake); ok {
		return f.cluster
	}
	return nil
}

// Client returns a new client of the cluster, closed at the end of the test.
func (c *Cluster) Client(opts ...kgo.Opt) *kgo.Client {
	c.tb.Helper()
	cl, err := c.newClient(opts...)
	if err != nil {
		c.tb.Fatalf("%s: new client: %v", c.Name(), err)
	}
	c.tb.Cleanup(cl.Close)
	return cl
}

func (c *Cluster) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.Brokers()...),
		kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), // Record.Partition means what it says
	}, opts...)...)
}

// do runs one administrative request on a client of its own: a client that
// lived through a restart would answer from what it remembers.
func (c *Cluster) do(what string, f func(context.Context, *kadm.Client) error) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := c.newClient()
	if err == nil {
		defer cl.Close()
		err = f(ctx, kadm.NewClient(cl))
	}
	if err != nil {
		c.tb.Fatalf("%s: %s: %v", c.Name(), what, err)
	}
}

// CreateTopic creates a topic; configs are written name=value.
func (c *Cluster) CreateTopic(topic string, partitions int, configs ...string) {
	c.tb.Helper()
	c.do("create topic "+topic, func(ctx context.Context, adm *kadm.Client) error {
		settings := make(map[string]*string)
		for _, kv := range configs {
			name, value, ok := strings.Cut(kv, "=")
			if !ok {
				return fmt.Errorf("config %q: want name=value", kv)
			}
			settings[name] = &value
		}
		if _, err := adm.CreateTopic(ctx, int32(partitions), 1, settings, topic); err != nil {
			return err
		}
		return awaitPartitions(ctx, adm, topic, partitions)
	})
}

// DeleteTopic deletes a topic and waits until the broker no longer names it,
// so that one of the same name can be created.
func (c *Cluster) DeleteTopic(topic string) {
	c.tb.Helper()
	c.closeProducer() // it remembers the topic's id
	c.do("delete topic "+topic, func(ctx context.Context, adm *kadm.Client) error {
		if _, err := adm.DeleteTopic(ctx, topic); err != nil {
			return err
		}
		return poll(ctx, func() (bool, error) {
			topics, err := adm.ListTopics(ctx, topic)
			return !topics.Has(topic), err
		})
	})
}

// AddPartitions adds so many partitions to a topic.
func (c *Cluster) AddPartitions(topic string, add int) {
	c.tb.Helper()
	c.do("add partitions to "+topic, func(ctx context.Context, adm *kadm.Client) error {
		topics, err := adm.ListTopics(ctx, topic)
		if err = errors.Join(err, topics.Error()); err != nil {
			return err
		}
		rs, err := adm.CreatePartitions(ctx, add, topic)
		if err = errors.Join(err, rs.Error()); err != nil {
			return err
		}
		return awaitPartitions(ctx, adm, topic, len(topics[topic].Partitions)+add)
	})
	c.closeProducer() // the next one knows them
}

// awaitPartitions waits until the broker that clients ask knows what the
// controller has decided: so many partitions, each with a leader.
func awaitPartitions(ctx context.Context, adm *kadm.Client, topic string, partitions int) error {
	return poll(ctx, func() (bool, error) {
		topics, err := adm.ListTopics(ctx, topic)
		if err != nil {
			return false, err
		}
		led := 0
		for _, p := range topics[topic].Partitions {
			if p.Err == nil && p.Leader >= 0 {
				led++
			}
		}
		return led == partitions, nil
	})
}

// DeleteRecords deletes the records of a partition that are before an offset.
func (c *Cluster) DeleteRecords(topic string, partition int32, before int64) {
	c.tb.Helper()
	c.do(fmt.Sprintf("delete records of %s/%d before %d", topic, partition, before),
		func(ctx context.Context, adm *kadm.Client) error {
			var offsets kadm.Offsets
			offsets.Add(kadm.Offset{Topic: topic, Partition: partition, At: before})
			rs, err := adm.DeleteRecords(ctx, offsets)
			return errors.Join(err, rs.Error())
		})
}

// Produce produces records in order, each to its Record.Partition, waits until
// all are acknowledged and returns their offsets.
func (c *Cluster) Produce(records ...*kgo.Record) []int64 {
	c.tb.Helper()
	cl, err := c.producing()
	if err != nil {
		c.tb.Fatalf("%s: new client: %v", c.Name(), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.acknowledged(cl.ProduceSync(ctx, records...), records)
}

// ProduceTxn produces records in one transaction, which it then commits or
// aborts, and returns their offsets. The transaction's markers, one per
// partition, take the next offsets: they are written when it returns.
func (c *Cluster) ProduceTxn(commit bool, records ...*kgo.Record) []int64 {
	c.tb.Helper()
	txn := c.Begin()
	offsets := txn.Produce(records...)
	txn.End(commit)
	return offsets
}

// A Txn is a transaction that is open until End. Until then nobody who reads
// committed records sees what came after its first one.
type Txn struct {
	c  *Cluster
	id string
	cl *kgo.Client
}

// Begin begins a transaction, with a producer of its own that End closes.
func (c *Cluster) Begin() *Txn {
	c.tb.Helper()
	t := &Txn{c: c, id: "kafkatest-" + rand.Text()}
	var err error
	if t.cl, err = c.newClient(kgo.TransactionalID(t.id)); err != nil {
		c.tb.Fatalf("%s: new client: %v", c.Name(), err)
	}
	if err := t.cl.BeginTransaction(); err != nil {
		c.tb.Fatalf("%s: begin transaction: %v", c.Name(), err)
	}
	return t
}

// Produce is the Cluster's, within the transaction.
func (t *Txn) Produce(records ...*kgo.Record) []int64 {
	t.c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return t.c.acknowledged(t.cl.ProduceSync(ctx, records...), records)
}

// End commits or aborts the transaction. Its markers are written when it returns.
func (t *Txn) End(commit bool) {
	t.c.tb.Helper()
	defer t.cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := t.cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)); err != nil {
		t.c.tb.Fatalf("%s: end transaction, commit %v: %v", t.c.Name(), commit, err)
	}
	// The coordinator answers before it writes the markers.
	t.c.do("transaction markers", func(ctx context.Context, adm *kadm.Client) error {
		return poll(ctx, func() (bool, error) {
			txns, err := adm.DescribeTransactions(ctx, t.id)
			if err != nil {
				return false, err
			}
			switch txns[t.id].State {
			case "Ongoing", "PrepareCommit", "PrepareAbort":
				return false, nil
			}
			return true, txns[t.id].Err // CompleteCommit, CompleteAbort; the fake says Empty
		})
	})
}

// acknowledged returns the offsets that produced records have got. It reads
// them from the records, since results come in the order of their arrival.
func (c *Cluster) acknowledged(results kgo.ProduceResults, records []*kgo.Record) []int64 {
	c.tb.Helper()
	if err := results.FirstErr(); err != nil {
		c.tb.Fatalf("%s: produce %d records: %v", c.Name(), len(records), err)
	}
	offsets := make([]int64, len(records))
	for i, r := range records {
		offsets[i] = r.Offset
	}
	return offsets
}

// producing returns the client that Produce uses; making one for every record
// would take longer than the test.
func (c *Cluster) producing() (*kgo.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producer != nil {
		return c.producer, nil
	}
	cl, err := c.newClient()
	if err != nil {
		return nil, err
	}
	c.producer = cl
	return cl, nil
}

// closeProducer is called where the broker may forget producer ids.
func (c *Cluster) closeProducer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.producer != nil {
		c.producer.Close()
		c.producer = nil
	}
}

// GroupLag is how many records of a topic lie between the offsets a group has
// committed and the ends of the partitions, as Kafka's tools count it. ok is
// false while the group has not committed every partition.
func (c *Cluster) GroupLag(group, topic string) (lag int64, ok bool) {
	c.tb.Helper()
	c.do("lag of group "+group, func(ctx context.Context, adm *kadm.Client) error {
		committed, err := adm.FetchOffsets(ctx, group)
		if errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.CoordinatorNotAvailable) {
			return nil // nobody has joined yet, or the first group of all is being made
		}
		if err != nil {
			return err
		}
		ends, err := adm.ListEndOffsets(ctx, topic)
		if err = errors.Join(err, ends.Error()); err != nil {
			return err
		}
		ok = len(ends[topic]) > 0
		for p, end := range ends[topic] {
			at, found := committed.Lookup(topic, p)
			if !found || at.At < 0 {
				ok = false
				continue
			}
			lag += end.Offset - at.At
		}
		return nil
	})
	return lag, ok
}

// Stop stops the brokers. What was acknowledged is there again after Start. A
// test that ends without Start is not the end of the broker for others. Tests
// that stop brokers do not run in parallel: the real one is shared.
func (c *Cluster) Stop() {
	c.tb.Helper()
	c.closeProducer()
	if err := c.backend.stop(); err != nil {
		c.tb.Fatalf("%s: stop: %v", c.Name(), err)
	}
}

// Start starts the brokers after Stop, on the same addresses, and waits until
// they answer. It does nothing when they run.
func (c *Cluster) Start() {
	c.tb.Helper()
	if err := c.backend.start(); err != nil {
		c.tb.Fatalf("%s: start: %v", c.Name(), err)
	}
	c.do("start", func(ctx context.Context, adm *kadm.Client) error {
		_, err := adm.ListBrokers(ctx)
		return err
	})
}

// Restart is Stop and Start.
func (c *Cluster) Restart() {
	c.tb.Helper()
	c.Stop()
	c.Start()
}

// Kcat runs kcat against the cluster, gives it stdin and returns its stdout:
// Kcat("hello\n", "-P", "-t", topic).
func (c *Cluster) Kcat(stdin string, args ...string) string {
	c.tb.Helper()
	if _, err := exec.LookPath("kcat"); err != nil {
		Skip(c.tb, "kcat is not installed (Debian: apt-get install kcat)")
	}
	out, err := run(exec.Command("kcat", append([]string{"-b", c.Bootstrap()}, args...)...), stdin)
	if err != nil {
		c.tb.Fatalf("%s: kcat %s: %v", c.Name(), strings.Join(args, " "), err)
	}
	return out
}

// ConsoleProducer gives stdin, a record per line, to Kafka's own console
// producer. Further args are its own, such as "--property", "parse.key=true".
func (c *Cluster) ConsoleProducer(topic, stdin string, args ...string) {
	c.tb.Helper()
	c.Tool(stdin, append([]string{"console-producer", "--topic", topic}, args...)...)
}

// Tool runs one of Kafka's own command line tools, named as kafka.sh names it,
// and returns its stdout: Tool("", "groups", "--describe", "--group", "g").
// It needs Java, so a test that uses it is for Full runs.
func (c *Cluster) Tool(stdin string, args ...string) string {
	c.tb.Helper()
	if !Full() {
		c.tb.Skip("Kafka's own tools run with SPILLWAY_E2E=full")
	}
	_, port, _ := strings.Cut(c.Brokers()[0], ":")
	out, err := run(kafkaSh(append(args, "--port", port)...), stdin)
	if isUnavailable(err) {
		Skip(c.tb, err.Error())
	}
	if err != nil {
		c.tb.Fatalf("%s: %s: %v", c.Name(), strings.Join(args, " "), err)
	}
	return out
}

// run runs a command to its end; the error says what it wrote to stderr.
func run(cmd *exec.Cmd, stdin string) (stdout string, err error) {
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Start(); err != nil {
		return "", err
	}
	// A tool that waits for a broker which is not there would wait for ever.
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// poll calls f until it says true, fails, or ctx ends.
func poll(ctx context.Context, f func() (bool, error)) error {
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
