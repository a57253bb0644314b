package main

import (
	"strings"
	"testing"
)

const someKafka = `KAFKA_CONSUMER_CONFIG={"bootstrap.servers":"localhost:9092"}`

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want []string // in the problems; none means valid
	}{
		{"the least", []string{someKafka}, nil},
		{"no Kafka", nil, []string{"KAFKA_CONSUMER_CONFIG: ", "bootstrap.servers"}},
		{"every problem at once", []string{`KAFKA_CONSUMER_CONFIG={"bootstrap.server":"x"}`, "TOPICS=(", "HTTP_ADDR=7999", "CURSOR_KEY=x", "LINK_KEY=short"},
			[]string{"bootstrap.server", "TOPICS=(", "HTTP_ADDR=7999", "CURSOR_KEY: ", "LINK_KEY: "}},
		{"a protection in a file", []string{someKafka, "JWT_KEY_FILE=/nowhere"}, []string{"JWT_KEY_FILE"}},
		{"no events path", []string{someKafka, "EVENTS_PATH="}, []string{"EVENTS_PATH="}},
		{"more shares than memory", []string{someKafka, "MEMORY_LIMIT=64MiB"}, []string{"MEMORY_LIMIT: ", "HISTORY_CACHE_BYTES (67108864)"}},
		{"connections are a share", []string{someKafka, "MEMORY_LIMIT=1GiB", "MAX_CONNECTIONS=90000"}, []string{"MEMORY_LIMIT: ", "MAX_CONNECTIONS at 8192 each (737280000)"}},
		{"a share that is left", []string{someKafka, "MEMORY_LIMIT=128MiB"}, nil},
		{"none is left", []string{someKafka, "MEMORY_LIMIT=112MiB"}, []string{"MAX_CONNECTIONS at 8192 each (8388608)"}},
		{"snapshots are a share", []string{someKafka, "MEMORY_LIMIT=1GiB", "SNAPSHOT_MEMORY=1GiB"}, []string{"MEMORY_LIMIT: ", "SNAPSHOT_MEMORY (1073741824)"}},
		{"snapshots that need a unit more", []string{someKafka, "SNAPSHOT_MAX_BYTES=64", "SNAPSHOT_MEMORY=64KiB"},
			[]string{"SNAPSHOT_MAX_BYTES=64: must be between 65536", "SNAPSHOT_MEMORY=64KiB: must be 0 or at least 1MiB"}},
		{"shares that fit", []string{someKafka, "MEMORY_LIMIT=64MiB", "HISTORY_CACHE_BYTES=8MiB"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s settings
			_, err := s.load(newProcess(t, tt.env...).process)
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v\nwant %q in it", err, w)
				}
			}
		})
	}
}

func TestEventsPathGetsItsSlashes(t *testing.T) {
	var s settings
	if _, err := s.load(newProcess(t, someKafka, "EVENTS_PATH=live").process); err != nil {
		t.Fatal(err)
	}
	if s.relay.EventsPath != "/live/" {
		t.Errorf("got %q, want /live/", s.relay.EventsPath)
	}
}
