package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func demoCommand() command {
	return command{
		name:    "demo",
		summary: "serve with a Kafka broker of its own and live sample topics",
		help: `  spillway demo
  curl -N http://localhost:7999/events/test/

Usage: spillway demo

Starts a small Kafka broker in this process on 127.0.0.1:9092, or the next free
port, and serves its topics. It needs no network, and nothing is kept: the data
is in memory, at most 8 MiB of each partition.

  test     plain text, a tick every second
  orders   JSON with a key, 6 partitions
  prices   JSON with a key, compacted

Any Kafka client can produce to it:

  echo hello | kcat -P -b 127.0.0.1:9092 -t test

The settings of serve work here too, but for KAFKA_CONSUMER_CONFIG.
`,
		run: func(ctx context.Context, p *process, args []string) error {
			if len(args) > 0 {
				return wrongUsage("takes no argument, but got %q", args[0])
			}
			return demo(ctx, p)
		},
	}
}

const (
	demoPort = 9092
	// demoPorts is how many ports after it are tried.
	demoPorts = 100
	// demoBytes bounds each partition; the broker looks every demoClean.
	demoBytes = 8 << 20
	demoClean = 10 * time.Second
)

// demo serves an embedded broker until ctx ends.
func demo(ctx context.Context, p *process) error {
	broker, err := startBroker()
	if err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	defer broker.Close()
	addr := broker.ListenAddrs()[0]
	p.env["KAFKA_CONSUMER_CONFIG"] = fmt.Sprintf(`{"bootstrap.servers":%q,"group.id":"spillway-demo"}`, addr)
	delete(p.env, "KAFKA_CONSUMER_CONFIG_FILE")

	s, log, err := p.settle()
	if err != nil {
		return err
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ProducerLinger(0), kgo.AllowAutoTopicCreation())
	if err != nil {
		return fmt.Errorf("produce samples: %w", err)
	}
	defer producer.Close()
	ctx, cancel := context.WithCancel(ctx)
	produced := make(chan struct{})
	go func() { // ends with ctx, and is waited for below
		defer close(produced)
		produceSamples(ctx, producer, log)
	}()
	defer func() {
		cancel()
		<-produced
	}()
	return serve(ctx, s, log, func(httpAddr string) { p.welcome(httpAddr, addr, s.relay.EventsPath) })
}

// startBroker starts a fake Kafka in this process.
func startBroker() (*kfake.Cluster, error) {
	var err error
	for port := demoPort; port < demoPort+demoPorts; port++ {
		// Asking first is cheaper than starting a whole cluster to find out.
		var probe net.Listener
		if probe, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err != nil {
			continue
		}
		probe.Close()
		var broker *kfake.Cluster
		broker, err = kfake.NewCluster(
			kfake.NumBrokers(1),
			kfake.Ports(port),
			kfake.AllowAutoTopicCreation(),
			kfake.DefaultNumPartitions(1),
			kfake.BrokerConfigs(map[string]string{
				"log.retention.bytes":    strconv.Itoa(demoBytes),
				"log.cleaner.backoff.ms": strconv.FormatInt(demoClean.Milliseconds(), 10),
			}),
		)
		if err != nil {
			continue
		}
		size := map[string]string{"retention.bytes": strconv.Itoa(demoBytes)}
		for _, t := range []struct {
			name       string
			partitions int32
			configs    map[string]string
		}{
			{"test", 1, size},
			{"orders", 6, size},
			{"prices", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "delete.retention.ms": "60000"}},
		} {
			if err := broker.CreateTopic(t.name, t.partitions, t.configs); err != nil {
				broker.Close()
				return nil, fmt.Errorf("create topic %s: %w", t.name, err)
			}
		}
		return broker, nil
	}
	return nil, err
}

// welcome prints what to do next.
func (p *process) welcome(httpAddr, broker, events string) {
	_, port, err := net.SplitHostPort(httpAddr)
	if err != nil {
		port = httpAddr
	}
	url := "http://localhost:" + port
	fmt.Fprintf(p.stdout, `
Spillway demo: three topics, live.

  in a browser     %[1]s/
  in a terminal    curl -N %[1]s%[2]stest/
                   curl -N '%[1]s%[2]sorders/?last=3&format=envelope'
                   curl -N '%[1]s%[2]sprices/?from=earliest'
  your own record  echo hello | kcat -P -b %[3]s -t test

Ctrl-C ends it.

`, url, events, broker)
}

// produceSamples writes the sample topics until ctx ends.
func produceSamples(ctx context.Context, producer *kgo.Client, log *slog.Logger) {
	produce := func(topic, key string, value any, headers ...kgo.RecordHeader) {
		r := &kgo.Record{Topic: topic, Headers: headers}
		if key != "" {
			r.Key = []byte(key)
		}
		switch v := value.(type) {
		case nil: // a tombstone
		case string:
			r.Value = []byte(v)
		default:
			b, err := json.Marshal(v)
			if err != nil {
				panic("demo: marshal sample: " + err.Error()) // our own types
			}
			r.Value = b
		}
		producer.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil && ctx.Err() == nil {
				log.Debug("sample", "topic", topic, "err", err)
			}
		})
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		now := time.Now().UTC()
		if n%10 == 0 {
			produce("test", "", "tick "+strconv.Itoa(n/10)+" at "+now.Format(time.RFC3339))
		}
		if n%3 == 0 {
			o := newSampleOrder(n, now)
			produce("orders", o.Customer, o, kgo.RecordHeader{Key: "type", Value: []byte(o.Status)})
		}
		if n%2 == 0 {
			symbol, quote := samplePrice(n, now)
			produce("prices", symbol, quote)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

type sampleOrder struct {
	ID       int       `json:"id"`
	Customer string    `json:"customer"`
	Item     string    `json:"item"`
	Quantity int       `json:"quantity"`
	Total    float64   `json:"total"`
	Status   string    `json:"status"`
	Time     time.Time `json:"time"`
}

func newSampleOrder(n int, now time.Time) sampleOrder {
	items := []string{"kettle", "lamp", "bicycle bell", "notebook", "rain coat", "tea"}
	statuses := []string{"new", "paid", "packed", "sent"}
	quantity := 1 + rand.N(4)
	return sampleOrder{
		ID:       1000 + n/3,
		Customer: "customer-" + strconv.Itoa(rand.N(50)),
		Item:     items[rand.N(len(items))],
		Quantity: quantity,
		Total:    float64(quantity*(500+rand.N(5000))) / 100,
		Status:   statuses[rand.N(len(statuses))],
		Time:     now.Truncate(time.Millisecond),
	}
}

// samplePrice is a quote, or now and then nothing: the symbol was delisted.
func samplePrice(n int, now time.Time) (symbol string, quote any) {
	symbols := strings.Fields("ALDR BRCH CEDR ELMW FIRR HAZL LRCH MAPL OAKS PINE")
	i := rand.N(len(symbols))
	if n%400 == 398 {
		return symbols[i], nil
	}
	return symbols[i], map[string]any{
		"symbol": symbols[i],
		"price":  float64(10000+i*1500+rand.N(400)) / 100,
		"time":   now.Truncate(time.Millisecond),
	}
}
