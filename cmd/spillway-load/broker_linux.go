package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kfake"
)

// A brokerAnswer says where the embedded broker listens.
type brokerAnswer struct {
	Addr string `json:"addr"`
}

// runBroker is the role of a Kafka broker, in memory, until its input ends.
func runBroker(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := untilEOF(ctx, stdin)
	defer cancel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(0))
	if err != nil {
		return fmt.Errorf("kfake: %w", err)
	}
	defer cluster.Close()
	if err := json.NewEncoder(stdout).Encode(brokerAnswer{cluster.ListenAddrs()[0]}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}
