package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"spillway/relay"
	"spillway/relay/cursor"
)

func cursorCommand() command {
	var asJSON bool
	return command{
		name:    "cursor",
		summary: "decode the id of an event: time, topics, offsets",
		help: `  spillway cursor 1-hi3hk-4fz1q.3.xg.rq.3ej
      time   2025-11-23T03:20:00Z
      phase  live
      topic  4fz1q, 3 partitions
               partition  next offset
               0          1204
               1          998
               2          4411

Usage: spillway cursor [options] ID

Decodes the id of an event, which is a position in every partition of its
topics. A topic shows as five digits of its Kafka topic id, not by name. With
CURSOR_KEY it reads ids that this key has sealed (2-…).

  -json   print one JSON object
`,
		flags: func(fs *flag.FlagSet) { fs.BoolVar(&asJSON, "json", false, "") },
		run: func(_ context.Context, p *process, args []string) error {
			if len(args) != 1 {
				return wrongUsage("takes one id, but got %d arguments; see spillway cursor --help", len(args))
			}
			c, err := p.parseCursor(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printCursorJSON(p, c)
			}
			return printCursor(p, c)
		},
	}
}

// parseCursor reads an id as pasted from a terminal: "id: 1-…". An open one is
// read with a key too: it may be of another server.
func (p *process) parseCursor(text string) (cursor.Cursor, error) {
	var cfg struct {
		CursorKey string `envconfig:"CURSOR_KEY" secret:"true"`
	}
	if _, err := p.load(&cfg); err != nil {
		return cursor.Cursor{}, err
	}
	sealer, err := relay.ParseCursorKey(cfg.CursorKey)
	if err != nil {
		return cursor.Cursor{}, usageError{fmt.Errorf("CURSOR_KEY: %w", err)}
	}
	text = strings.TrimSpace(strings.TrimPrefix(text, "id:"))
	if !strings.HasPrefix(text, "2-") {
		sealer = nil
	}
	c, err := sealer.Parse(text)
	if err != nil {
		return cursor.Cursor{}, usageError{err}
	}
	return c, nil
}

func phaseName(p cursor.Phase) string {
	switch p {
	case cursor.PhaseSnapshot:
		return "snapshot"
	case cursor.PhaseEnd:
		return "end"
	}
	return "live"
}

func printCursor(p *process, c cursor.Cursor) error {
	w := tabwriter.NewWriter(p.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "time\t%s\nphase\t%s\n", c.Time.Format(time.RFC3339), phaseName(c.Phase))
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range c.Blocks {
		n := "1 partition"
		if b.Partitions != 1 {
			n = fmt.Sprintf("%d partitions", b.Partitions)
		}
		if b.Unknown {
			n += ", resumed by time"
		}
		fmt.Fprintf(p.stdout, "topic  %s, %s\n", b.Tag, n)
		if b.Unknown {
			continue
		}
		fmt.Fprintf(w, "         partition\tnext offset\n")
		for _, o := range offsets(b) {
			fmt.Fprintf(w, "         %d\t%d\n", o.Partition, o.Offset)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// printCursorJSON prints
//
//	{"time":"2025-…Z","phase":"live","topics":[
//	  {"tag":"4fz1q","partitions":3,"offsets":[{"partition":0,"offset":1204},…]}]}
//
// on one line. A topic that is resumed by time has no offsets.
func printCursorJSON(p *process, c cursor.Cursor) error {
	type offset struct {
		Partition int32 `json:"partition"`
		Offset    int64 `json:"offset"`
	}
	type topic struct {
		Tag        string   `json:"tag"`
		Partitions int32    `json:"partitions"`
		Offsets    []offset `json:"offsets,omitempty"`
	}
	out := struct {
		Time   time.Time `json:"time"`
		Phase  string    `json:"phase"`
		Topics []topic   `json:"topics"`
	}{c.Time, phaseName(c.Phase), nil}
	for _, b := range c.Blocks {
		t := topic{Tag: b.Tag.String(), Partitions: b.Partitions}
		for _, o := range offsets(b) {
			t.Offsets = append(t.Offsets, offset(o))
		}
		out.Topics = append(out.Topics, t)
	}
	return json.NewEncoder(p.stdout).Encode(out)
}

// offsets lists the positions of a dense or sparse block.
func offsets(b cursor.Block) []cursor.PartitionOffset {
	if b.Offsets == nil {
		return b.Parts
	}
	list := make([]cursor.PartitionOffset, len(b.Offsets))
	for p, off := range b.Offsets {
		list[p] = cursor.PartitionOffset{Partition: int32(p), Offset: off}
	}
	return list
}
