package kafkatest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// An Option says what a fake cluster is to be like.
type Option func(*fake)

// Nodes is how many brokers it has; 1 by default.
func Nodes(n int) Option { return func(f *fake) { f.nodes = n } }

// Topic creates a topic in it; configs are written name=value.
func Topic(name string, partitions int, configs ...string) Option {
	return func(f *fake) { f.topics = append(f.topics, topicSpec{name, partitions, configs}) }
}

// AutoCreate lets it create topics that a client asks for, as the real broker
// does. By default it does not, so that a topic that is not there stays so.
func AutoCreate() Option { return Kfake(kfake.AllowAutoTopicCreation()) }

// Kfake passes options of its own to the fake broker, such as users or TLS.
func Kfake(opts ...kfake.Opt) Option {
	return func(f *fake) { f.opts = append(f.opts, opts...) }
}

type topicSpec struct {
	name       string
	partitions int
	configs    []string
}

// fake is a cluster in this process that keeps its records in a directory, so
// that they are there again after stop and start.
type fake struct {
	nodes  int
	topics []topicSpec
	opts   []kfake.Opt
	ports  []int

	cluster *kfake.Cluster
	running bool
}

// Fake starts a fake cluster that ends with the test.
func Fake(tb testing.TB, opts ...Option) *Cluster {
	tb.Helper()
	f := &fake{nodes: 1}
	for _, opt := range opts {
		opt(f)
	}
	for range f.nodes {
		f.ports = append(f.ports, FreePort(tb))
	}
	f.opts = append(f.opts, kfake.Ports(f.ports...), kfake.ListenFn(Listen), kfake.DataDir(tb.TempDir()))
	if err := f.start(); err != nil {
		tb.Fatalf("kfake: %v", err)
	}
	c := &Cluster{tb: tb, backend: f}
	tb.Cleanup(func() {
		c.closeProducer()
		_ = f.stop() // it returns no error
	})
	for _, t := range f.topics {
		c.CreateTopic(t.name, t.partitions, t.configs...)
	}
	return c
}

func (f *fake) name() string { return "kfake" }

func (f *fake) brokers() []string {
	var addrs []string
	for _, port := range f.ports {
		addrs = append(addrs, "127.0.0.1:"+strconv.Itoa(port))
	}
	return addrs
}

func (f *fake) start() error {
	if f.running {
		return nil
	}
	cluster, err := kfake.NewCluster(f.opts...)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", strings.Join(f.brokers(), ", "), err)
	}
	f.cluster, f.running = cluster, true
	return nil
}

func (f *fake) stop() error {
	if f.running {
		f.cluster.Close()
		f.running = false
	}
	return nil
}
