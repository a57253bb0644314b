package kafkatest_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

// read consumes n records of a topic from its beginning, read committed, and
// returns them as "partition/offset value", each partition in its order.
func read(t *testing.T, k *kafkatest.Cluster, topic string, n int) []string {
	t.Helper()
	cl := k.Client(
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []string
	for len(got) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(got), n, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			got = append(got, fmt.Sprintf("%d/%d %s", r.Partition, r.Offset, r.Value))
		})
	}
	slices.Sort(got)
	return got
}

func record(topic string, partition int32, value string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}
}

func wantRecords(t *testing.T, k *kafkatest.Cluster, topic string, want ...string) {
	t.Helper()
	if got := read(t, k, topic, len(want)); !slices.Equal(got, want) {
		t.Errorf("records of %s: got %q, want %q", topic, got, want)
	}
}

func TestProduceGoesToTheNamedPartition(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 3)
		got := k.Produce(record(topic, 2, "a"), record(topic, 0, "b"), record(topic, 2, "c"))
		if want := []int64{0, 0, 1}; !slices.Equal(got, want) {
			t.Errorf("offsets: got %v, want %v", got, want)
		}
		wantRecords(t, k, topic, "0/0 b", "2/0 a", "2/1 c")
	})
}

func TestRestartKeepsEverything(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		id := topicID(t, k, topic)
		k.Produce(record(topic, 0, "before"), record(topic, 1, "before"))
		group := commit(t, k, topic, 1)
		brokers := k.Brokers()

		k.Stop()
		for _, addr := range k.Brokers() {
			if conn, err := net.Dial("tcp", addr); err == nil {
				_ = conn.Close()
				t.Errorf("%s still takes connections after Stop", addr)
			}
		}
		k.Start()
		k.Start() // does nothing

		if got := k.Brokers(); !slices.Equal(got, brokers) {
			t.Errorf("brokers after restart: got %v, want %v", got, brokers)
		}
		if got := topicID(t, k, topic); got != id {
			t.Errorf("topic id after restart: got %v, want %v", got, id)
		}
		k.Produce(record(topic, 0, "after"))
		wantRecords(t, k, topic, "0/0 before", "0/1 after", "1/0 before")
		if lag, ok := k.GroupLag(group, topic); lag != 1 || !ok {
			t.Errorf("lag after restart: got %d, %v, want 1, true", lag, ok)
		}
	})
}

func topicID(t *testing.T, k *kafkatest.Cluster, topic string) kadm.TopicID {
	t.Helper()
	topics, err := kadm.NewClient(k.Client()).ListTopics(t.Context(), topic)
	if err != nil || !topics.Has(topic) {
		t.Fatalf("no topic %s: %v", topic, err)
	}
	return topics[topic].ID
}

// commit makes a group that has committed offset at in every partition.
func commit(t *testing.T, k *kafkatest.Cluster, topic string, at int64) (group string) {
	t.Helper()
	group = topic + "-group"
	adm := kadm.NewClient(k.Client())
	var offsets kadm.Offsets
	for p := range int32(2) {
		offsets.Add(kadm.Offset{Topic: topic, Partition: p, At: at})
	}
	if err := adm.CommitAllOffsets(t.Context(), group, offsets); err != nil {
		t.Fatal(err)
	}
	return group
}

func TestGroupLag(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		k.Produce(record(topic, 0, "a"), record(topic, 0, "b"), record(topic, 1, "c"))
		if lag, ok := k.GroupLag(topic+"-group", topic); ok {
			t.Errorf("before a commit: got %d, true, want false", lag)
		}
		group := commit(t, k, topic, 1)
		if lag, ok := k.GroupLag(group, topic); lag != 1 || !ok {
			t.Errorf("after a commit: got %d, %v, want 1, true", lag, ok)
		}
	})
}

func TestTransactions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		k.ProduceTxn(false, record(topic, 0, "aborted"))
		k.ProduceTxn(true, record(topic, 0, "committed"))
		// Each transaction takes two offsets, its record and its marker.
		wantRecords(t, k, topic, "0/2 committed")

		open := k.Begin()
		open.Produce(record(topic, 0, "open"))
		k.Produce(record(topic, 0, "behind it"))
		open.End(true)
		wantRecords(t, k, topic, "0/2 committed", "0/4 open", "0/5 behind it")
	})
}

func TestTopicsChange(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1, "cleanup.policy=compact")
		k.AddPartitions(topic, 2)
		k.Produce(&kgo.Record{Topic: topic, Partition: 2, Key: []byte("k"), Value: []byte("new")})
		wantRecords(t, k, topic, "2/0 new")

		id := topicID(t, k, topic)
		k.DeleteTopic(topic)
		k.CreateTopic(topic, 1)
		if again := topicID(t, k, topic); again == id {
			t.Errorf("a topic created anew has the old id %v", id)
		}
		k.Produce(record(topic, 0, "0"), record(topic, 0, "1"), record(topic, 0, "2"))
		k.DeleteRecords(topic, 0, 2)
		wantRecords(t, k, topic, "0/2 2")
	})
}

func TestForeignProducers(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		k.Kcat("from kcat\n", "-P", "-t", topic)
		want := []string{"0/0 from kcat"}
		if kafkatest.Full() {
			k.ConsoleProducer(topic, "from the console\n")
			want = append(want, "0/1 from the console")
		}
		wantRecords(t, k, topic, want...)
	})
}

func TestFakeIsAsItsOptionsSay(t *testing.T) {
	k := kafkatest.Fake(t, kafkatest.Nodes(3), kafkatest.Topic("orders", 6, "cleanup.policy=compact"))
	if got := len(k.Brokers()); got != 3 {
		t.Errorf("brokers: got %d, want 3", got)
	}
	info := k.Fake().TopicInfo("orders")
	if info == nil {
		t.Fatal("topic orders is not there")
	}
	if got := len(k.Fake().PartitionInfos("orders")); got != 6 {
		t.Errorf("partitions: got %d, want 6", got)
	}
	topics, err := kadm.NewClient(k.Client()).ListTopics(t.Context(), "nosuch")
	if err != nil || topics.Has("nosuch") {
		t.Errorf("asking for a topic: got %v, %v, want that it does not exist", topics, err)
	}
}

func TestUniqueTopicIsAName(t *testing.T) {
	t.Run(strings.Repeat("long ünd with/odd:characters ", 10), func(t *testing.T) {
		a, b := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)
		if a == b {
			t.Errorf("twice the same: %s", a)
		}
		if len(a) > 249 || strings.ContainsFunc(a, func(r rune) bool { return r > 'z' || r == '/' || r == ':' || r == ' ' }) {
			t.Errorf("not a topic name: %s", a)
		}
	})
}

// TestSkip runs a test of its own that skips, as a machine without the thing
// in question would.
func TestSkip(t *testing.T) {
	if os.Getenv("KAFKATEST_SKIP_ME") != "" {
		kafkatest.Skip(t, "no such tool\ninstall it")
	}
	report := filepath.Join(t.TempDir(), "skips")
	for _, tt := range []struct {
		name, ci string
		wantFail bool
	}{
		{"a person's machine", "", false},
		{"CI", "true", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestSkip$")
			cmd.Env = append(os.Environ(), "KAFKATEST_SKIP_ME=1", "SPILLWAY_SKIPS="+report, "CI="+tt.ci)
			out, err := cmd.CombinedOutput()
			if failed := err != nil; failed != tt.wantFail {
				t.Errorf("failed: got %v, want %v; it said %s", failed, tt.wantFail, out)
			}
		})
	}
	got, err := os.ReadFile(report)
	if want := "TestSkip: no such tool; install it\n"; err != nil || string(got) != want {
		t.Errorf("report: got %q, %v, want %q", got, err, want)
	}
}

// TestBrokerEndsWithItsProcess kills a test process that has started the real
// broker, and expects the broker to go by itself.
func TestBrokerEndsWithItsProcess(t *testing.T) {
	if os.Getenv("KAFKATEST_START") != "" {
		k := kafkatest.Real(t)
		fmt.Println("broker", k.Bootstrap())
		select {} // until killed
	}
	if !kafkatest.Full() {
		t.Skip("a real broker runs with SPILLWAY_E2E=full")
	}
	kafkatest.Real(t) // skips where there is none

	cmd := exec.Command(os.Args[0], "-test.run=^TestBrokerEndsWithItsProcess$")
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), "KAFKATEST_START=1", "TMPDIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscanf(out, "broker %s\n", &addr); err != nil {
		_ = cmd.Process.Kill()
		t.Fatalf("the other process did not start a broker: %v", err)
	}
	broker := brokerPID(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	// Its process, not its port, which it closes while it still writes files.
	deadline := time.Now().Add(30 * time.Second)
	for syscall.Kill(broker, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatalf("the broker outlives the process that started it")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		t.Errorf("%s still takes connections after the broker's end", addr)
	}
}

// brokerPID is the process of the one broker whose files are below dir.
func brokerPID(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "pid"))
	if err != nil || len(files) != 1 {
		t.Fatalf("pid files of brokers below %s: got %v, %v, want one", dir, files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("%s: %v", files[0], err)
	}
	return pid
}
