package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
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

	// Latency is from when each record was due; see runLag.
	Latency *histogram `json:"latency,omitempty"`
	Err     string     `json:"err,omitempty"`
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

// runLag is a bare franz-go client that says how long after they were due it
// had the records of a plan, which is its command. Its first answer says that it
// reads the topic, from its end.
func runLag(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 3 {
		return errors.New("lag: wants bootstrap servers, topic and offset")
	}
	offset, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return fmt.Errorf("lag: offset: %w", err)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(args[0], ",")...),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{args[1]: {0: kgo.NewOffset().At(offset)}}),
	)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	answers := json.NewEncoder(stdout)
	if err := answers.Encode(consumeAnswer{}); err != nil {
		return err
	}
	commands := json.NewDecoder(stdin)
	for {
		var p plan
		if err := commands.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		var a consumeAnswer
		if a.Latency, err = lag(ctx, client, p); err != nil {
			a.Err = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// lag reads until it has the last message of the plan.
func lag(ctx context.Context, client *kgo.Client, p plan) (*histogram, error) {
	limit := p.start().Add(time.Duration(float64(p.Count)/p.Rate*float64(time.Second)) + grace)
	ctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	h := new(histogram)
	last := p.First + uint32(p.Count) - 1
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("%d of %d records came: %w", h.count, p.Count, err)
		}
		since := time.Since(p.start())
		for it := fetches.RecordIter(); !it.Done(); {
			m, ok := parseMessage(it.Next().Value)
			if !ok || m.seq < p.First {
				continue // of an earlier plan
			}
			h.add(since - m.due)
			if m.seq == last {
				return h, nil
			}
		}
	}
}

// ownCPU is the CPU time of this process, user and system.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
