package relay

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"spillway/grip/bytesize"
	"spillway/grip/secret"
	"spillway/relay/auth"
	"spillway/relay/filter"
	"spillway/relay/properties"
	"spillway/relay/registry"
)

// Config is what the relay reads from the environment.
type Config struct {
	// KafkaConsumerConfig is a JSON object of librdkafka-style consumer
	// properties, such as {"bootstrap.servers":"localhost:9092","group.id":"mygroup"}.
	// With KAFKA_CONSUMER_CONFIG_FILE the file is read first and this wins
	// property by property.
	KafkaConsumerConfig string `envconfig:"KAFKA_CONSUMER_CONFIG" secret:"true"`

	// KafkaConsumerConfigFile is a file with the same JSON, for a mounted Secret.
	KafkaConsumerConfigFile string `envconfig:"KAFKA_CONSUMER_CONFIG_FILE"`

	// Topics are the patterns of the topics that are exposed: a comma list of
	// regular expressions, each of which must match the whole name. Topics
	// that begin with __ never are.
	Topics []string `envconfig:"TOPICS" default:".*"`

	// TopicsExclude are the patterns of topics that TOPICS would expose and
	// must not.
	TopicsExclude []string `envconfig:"TOPICS_EXCLUDE"`

	// TopicRules is a JSON object that says, by pattern of topics, what of their
	// records anyone sees, such as {"orders.*":{"redact":["value.card"]}}. The
	// first pattern that matches the whole name counts.
	TopicRules string `envconfig:"TOPIC_RULES" file:"true"`

	// GripURL names the GRIP proxies that relay and publish publish to, blank
	// or comma separated.
	GripURL string `envconfig:"GRIP_URL" secret:"true"`

	// RelayChannels says to which channels the relay command publishes each
	// record: partition (<topic>.<p>, resumable), topic (<topic>, for origins
	// that hold Grip-Channel: <topic>), or both.
	RelayChannels string `envconfig:"RELAY_CHANNELS" default:"partition"`

	// LinkKey seals next links: any text of 32 bytes or more, or base64:….
	// Of two, comma separated, the first seals, and what the second sealed is
	// still read. Not set, a random key is made at start, which is right for serve.
	LinkKey string `envconfig:"LINK_KEY" secret:"true"`

	// CursorKey seals the ids of events, so that they neither show offsets, and
	// with them how many records a topic has, nor can be made up: any text of 32
	// bytes or more, or base64:…, the same on all replicas. Of two, comma
	// separated, the first seals, and what the second sealed is still read.
	CursorKey string `envconfig:"CURSOR_KEY" secret:"true"`

	// CORSOrigins are the web origins whose pages may read EVENTS_PATH: a
	// comma list such as https://app.example.com, or * for any page, without
	// credentials.
	CORSOrigins []string `envconfig:"CORS_ORIGINS" default:"*"`

	// HeartbeatInterval is how long a quiet stream waits, ± 10 %, before it
	// sends a comment so that proxies keep it open. 1s to 10m.
	HeartbeatInterval time.Duration `envconfig:"HEARTBEAT_INTERVAL" default:"15s"`

	// EventMaxBytes is the largest record value that is sent. A larger one
	// becomes an oversize event that says where it is. What a schema registry
	// makes of a value may be four times as large.
	EventMaxBytes bytesize.Bytes `envconfig:"EVENT_MAX_BYTES" default:"1MiB"`

	// TopicLinger is how long a topic or view that lost its last listener is
	// still read. 0s to 1h.
	TopicLinger time.Duration `envconfig:"TOPIC_LINGER" default:"30s"`

	// ReplayMaxRecords bounds the offsets that one request may replay; a
	// request for more starts later and gets a gap event. 0 means no bound.
	ReplayMaxRecords int64 `envconfig:"REPLAY_MAX_RECORDS" default:"1000000"`

	// ReplayMaxBytes bounds the bytes that one request may replay; when they
	// are spent the stream jumps to live with a gap event. 0 means no bound.
	ReplayMaxBytes bytesize.Bytes `envconfig:"REPLAY_MAX_BYTES" default:"1GiB"`

	// ReplayMaxAge bounds how far back one request may replay. 0s means as
	// far as Kafka has records.
	ReplayMaxAge time.Duration `envconfig:"REPLAY_MAX_AGE" default:"0s"`

	// HistoryPageBytes bounds one page of history, in bytes of frames; one
	// larger record still makes a page. 4KiB to 4MiB.
	HistoryPageBytes bytesize.Bytes `envconfig:"HISTORY_PAGE_BYTES" default:"64KiB"`

	// CatchupPages bounds the pages of history that are made at the same
	// time; for each there must be 256KiB of HISTORY_CACHE_BYTES. Requests
	// beyond it wait their turn.
	CatchupPages int `envconfig:"CATCHUP_PAGES" default:"256"`

	// CatchupMaxBytes bounds how many bytes of records a stream that had caught
	// up may fall behind; further, it ends with too-slow. 0 means no bound.
	CatchupMaxBytes bytesize.Bytes `envconfig:"CATCHUP_MAX_BYTES" default:"1GiB"`

	// CatchupMaxAge bounds the same in time. 0s means no bound.
	CatchupMaxAge time.Duration `envconfig:"CATCHUP_MAX_AGE" default:"1h"`

	// HistoryCacheBytes bounds the blocks of records that history reads share.
	HistoryCacheBytes bytesize.Bytes `envconfig:"HISTORY_CACHE_BYTES" default:"64MiB"`

	// FilterMaxBytes bounds the text of a filter= parameter.
	FilterMaxBytes bytesize.Bytes `envconfig:"FILTER_MAX_BYTES" default:"2KiB"`

	// FilterMaxCost bounds what a filter may cost for one record, in CEL's steps.
	// One that may cost more is refused; one that does for a record whose lists
	// or texts are very long does not show it.
	FilterMaxCost int64 `envconfig:"FILTER_MAX_COST" default:"100000"`

	// MaxViews bounds the views that are kept at the same time, each counted
	// once for every form in which it is asked for. A quiet one takes about 1
	// KiB. 0 means no bound.
	MaxViews int `envconfig:"MAX_VIEWS" default:"250000"`

	// SnapshotMaxBytes bounds the newest records of one topic that are kept for
	// streams that begin with a snapshot. Where it is not enough they get a
	// plain replay. 64KiB or more.
	SnapshotMaxBytes bytesize.Bytes `envconfig:"SNAPSHOT_MAX_BYTES" default:"64MiB"`

	// SnapshotMemory bounds those of all topics together. 0 means an eighth of
	// MEMORY_LIMIT, or half of what the other shares leave; else 1MiB or more.
	SnapshotMemory bytesize.Bytes `envconfig:"SNAPSHOT_MEMORY" default:"0"`

	// CursorTimeSlack is how much earlier than a cursor's time a stream
	// resumes where it can only resume by time.
	CursorTimeSlack time.Duration `envconfig:"CURSOR_TIME_SLACK" default:"60s"`

	// IgnoreParams are query parameters of EVENTS_PATH that are ignored. Any
	// other unknown one is refused, except those that begin with _ or utm_.
	IgnoreParams []string `envconfig:"IGNORE_PARAMS"`

	// Registry is where schemas of keys and values come from.
	Registry registry.Config

	// Auth says who clients are, and what they may read.
	Auth auth.Config

	// EventsPath is where the Origin lives, with a slash at both ends. The
	// gateway reads it from the environment, and the wiring copies it.
	EventsPath string `ignored:"true"`

	// Secrets say when a file of a secret has changed; nil: none does.
	Secrets *secret.Source `ignored:"true"`

	// TellReaders says that the gateway wants to know who reads which topics.
	TellReaders bool `ignored:"true"`

	// Instance tells this process apart from others with the same
	// group.instance.id: <hostname>-<short hash of HTTP_ADDR>. The wiring makes it.
	Instance string `ignored:"true"`

	// RequireGroup makes group.id required, as the relay command does.
	RequireGroup bool `ignored:"true"`

	// KafkaConsumerConfigJSON is what the file holds. The wiring reads it.
	KafkaConsumerConfigJSON []byte `ignored:"true"`
}

// RelayChannels values.
const (
	channelsPartition = "partition"
	channelsTopic     = "topic"
	channelsBoth      = "both"
)

// minKeyBytes is the shortest secret that a sealing key is made from: 256 bits.
const minKeyBytes = 32

// Validate reports everything that is wrong, not only the first thing.
func (c *Config) Validate() error {
	var errs []error
	bad := func(env string, got any, want string) {
		errs = append(errs, fmt.Errorf("%s=%v: %s", env, got, want))
	}
	if _, err := c.Properties(); err != nil {
		errs = append(errs, propertyProblems(err)...)
	}
	for _, list := range []struct {
		env      string
		patterns []string
	}{{"TOPICS", c.Topics}, {"TOPICS_EXCLUDE", c.TopicsExclude}} {
		for _, p := range list.patterns {
			if _, err := regexp.Compile(p); err != nil {
				bad(list.env, p, fmt.Sprintf("not a regular expression: %v", err))
			}
		}
	}
	if len(c.Topics) == 0 {
		bad("TOPICS", `""`, "need at least one pattern; .* exposes every topic")
	}
	if _, err := c.rules(); err != nil {
		errs = append(errs, err)
	}
	switch c.RelayChannels {
	case channelsPartition, channelsTopic, channelsBoth:
	default:
		bad("RELAY_CHANNELS", c.RelayChannels, "must be partition, topic or both")
	}
	if c.LinkKey != "" {
		if _, err := parseLinkKey(c.LinkKey); err != nil {
			errs = append(errs, fmt.Errorf("LINK_KEY: %w", err))
		}
	}
	if _, err := ParseCursorKey(c.CursorKey); err != nil {
		errs = append(errs, fmt.Errorf("CURSOR_KEY: %w", err))
	}
	for _, o := range c.CORSOrigins {
		if o != "*" && !strings.HasPrefix(o, "http://") && !strings.HasPrefix(o, "https://") {
			bad("CORS_ORIGINS", o, "write an origin with its scheme, such as https://app.example.com, or *")
		} else if strings.Count(o, "/") > 2 {
			bad("CORS_ORIGINS", o, "an origin has no path and no slash at its end")
		}
	}
	for _, d := range []struct {
		env      string
		got      time.Duration
		min, max time.Duration
	}{
		{"HEARTBEAT_INTERVAL", c.HeartbeatInterval, time.Second, 10 * time.Minute},
		{"TOPIC_LINGER", c.TopicLinger, 0, time.Hour},
		{"REPLAY_MAX_AGE", c.ReplayMaxAge, 0, 100 * 365 * 24 * time.Hour},
		{"CATCHUP_MAX_AGE", c.CatchupMaxAge, 0, 100 * 365 * 24 * time.Hour},
		{"CURSOR_TIME_SLACK", c.CursorTimeSlack, 0, 24 * time.Hour},
	} {
		if d.got < d.min || d.got > d.max {
			bad(d.env, d.got, fmt.Sprintf("must be between %v and %v", d.min, d.max))
		}
	}
	for _, n := range []struct {
		env      string
		got      int64
		min, max int64
	}{
		{"EVENT_MAX_BYTES", int64(c.EventMaxBytes), 1, 1 << 30},
		{"REPLAY_MAX_RECORDS", c.ReplayMaxRecords, 0, 1 << 62},
		{"HISTORY_PAGE_BYTES", int64(c.HistoryPageBytes), 4 << 10, 4 << 20},
		{"HISTORY_CACHE_BYTES", int64(c.HistoryCacheBytes), 1 << 20, 1 << 40},
		{"SNAPSHOT_MAX_BYTES", int64(c.SnapshotMaxBytes), 64 << 10, 1 << 40},
		{"CATCHUP_MAX_BYTES", int64(c.CatchupMaxBytes), 0, 1 << 62},
		{"CATCHUP_PAGES", int64(c.CatchupPages), 1, 1 << 20},
		{"FILTER_MAX_BYTES", int64(c.FilterMaxBytes), 1, 64 << 10},
		{"FILTER_MAX_COST", c.FilterMaxCost, 1, 1e9},
		{"MAX_VIEWS", int64(c.MaxViews), 0, 1e9},
	} {
		if n.got < n.min || n.got > n.max {
			bad(n.env, n.got, fmt.Sprintf("must be between %d and %d", n.min, n.max))
		}
	}
	if err := c.Registry.Validate(); err != nil {
		errs = append(errs, err)
	}
	if err := c.Auth.Validate(); err != nil {
		errs = append(errs, err)
	}
	if m := c.SnapshotMemory; m != 0 && m < 1<<20 {
		bad("SNAPSHOT_MEMORY", m, "must be 0 or at least 1MiB")
	}
	return errors.Join(errs...)
}

// propertyProblems makes one problem of each wrong property, all under the name
// of the variable.
func propertyProblems(err error) []error {
	problems := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // errors.Join makes such a one
		problems = joined.Unwrap()
	}
	for i, p := range problems {
		if !strings.HasPrefix(p.Error(), "KAFKA_CONSUMER_CONFIG") { // what is not JSON names its source
			problems[i] = fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", p)
		}
	}
	return problems
}

// rules are those of TOPIC_RULES.
func (c *Config) rules() (rules, error) {
	if c.TopicRules == "" {
		return nil, nil
	}
	compiler, err := filter.NewCompiler(filter.Limits{Length: int(c.FilterMaxBytes), Cost: uint64(c.FilterMaxCost)})
	if err != nil {
		return nil, err
	}
	rs, err := parseRules([]byte(c.TopicRules), compiler, c.Auth.Enabled())
	if err == nil {
		err = rs.checkCodecs(c.Registry.Enabled())
	}
	if err != nil {
		return nil, fmt.Errorf("TOPIC_RULES: %w", err)
	}
	return rs, nil
}

// kafka are the consumer properties to connect with: credentials in the file
// may change.
func (c *Config) kafka() (*properties.Properties, error) {
	props, err := c.Properties()
	if err != nil {
		return nil, fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)
	}
	if file := c.KafkaConsumerConfigFile; file != "" {
		props.Reread(func() ([]byte, error) { return os.ReadFile(file) }) // a Secret that changes
	}
	return props, nil
}

// Properties are the consumer properties of both sources.
func (c *Config) Properties() (*properties.Properties, error) {
	return properties.Parse(c.KafkaConsumerConfigJSON, []byte(c.KafkaConsumerConfig), c.RequireGroup)
}
