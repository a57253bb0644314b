package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A consumeAnswer is how long a bare franz-go client took for the records, from
// its making to the last of them, and what CPU time.
type consumeAnswer struct {
	Records int           `json:"records"`
	Took    time.Duration `json:"took"`
	CPU     time.Duration `json:"cpu"`
}

// runConsume is the floor of reading: a bare franz-go client that reads records
// of one partition and drops them.
func runConsume(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := untilEOF(ctx, stdin)
	defer cancel()
	fs := flag.NewFlagSet("consume", flag.ContinueOnError)
	bootstrap := fs.String("bootstrap", "", "")
	topic := fs.String("topic", "", "")
	offset := fs.Int64("offset", 0, "")
	records := fs.Int("records", 0, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	began := time.Now()
	used, err := ownCPU()
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(*bootstrap),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{*topic: {0: kgo.NewOffset().At(*offset)}}),
	)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	var answer consumeAnswer
	for answer.Records < *records {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("kafka: %w", err)
		}
		answer.Records += fetches.NumRecords()
	}
	answer.Took = time.Since(began)
	now, err := ownCPU()
	if err != nil {
		return err
	}
	answer.CPU = now - used
	return json.NewEncoder(stdout).Encode(answer)
}

// ownCPU is the CPU time of this process, user and system.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
