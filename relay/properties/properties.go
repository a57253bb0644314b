// Package properties reads KAFKA_CONSUMER_CONFIG: one JSON object of consumer
// properties as librdkafka names them, checked completely before anything
// connects, and turned into options of the Kafka client library (kgo).
//
// It holds no connection and starts nothing. Begin at Parse; the properties
// themselves are rows in table.go, what several of them mean together is in
// resolve.go, and what they become in options.go. Whoever copies a working
// configuration gets librdkafka's defaults, not those of kgo.
package properties

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Properties is a validated consumer configuration. Except for credentials,
// which Reread refreshes, it never changes; all methods are safe for any
// goroutine.
type Properties struct {
	lines    []Line
	warnings []string

	brokers       []string
	clientID      string
	rack          string
	network       string // tcp, tcp4 or tcp6
	dial          dialSettings
	tls           *tlsSource // nil: plain connections
	auth          *auth      // nil: no SASL
	overhead      time.Duration
	connIdle      time.Duration
	backoffMin    time.Duration
	backoffMax    time.Duration
	rebootstrap   bool
	metadataMax   time.Duration
	metadataMin   time.Duration
	missingTopic  time.Duration
	maxReadBytes  int32
	pushMetrics   bool
	autoCreate    bool
	logLevel      kgo.LogLevel
	blacklist     []*regexp.Regexp
	fetch         FetchSettings
	queuedBytes   int64
	queuedRecords int
	pollRecords   int

	group           string
	instance        string
	balancers       []kgo.GroupBalancer
	session         time.Duration
	heartbeat       time.Duration
	rebalance       time.Duration
	autoCommit      bool
	autoCommitEvery time.Duration
	reset           OffsetReset
	groupNeeded     bool
	fromEnv         []byte // what Parse got, for Reread
}

// OffsetReset is where the group's member begins without a commit. A browser
// without a cursor is not concerned: it begins live.
type OffsetReset int

// The values of auto.offset.reset.
const (
	Earliest OffsetReset = iota // the oldest record that still exists
	Latest                      // the end
	Error                       // nowhere: stop and say so
)

func (r OffsetReset) String() string {
	return [...]string{"earliest", "latest", "error"}[r]
}

// FetchSettings are what a fetch request asks of a broker. Readers have them
// in their options; whoever writes fetch requests puts them there.
type FetchSettings struct {
	MaxWait           time.Duration
	MinBytes          int32
	MaxBytes          int32
	MaxPartitionBytes int32 // never more than MaxBytes
	ReadCommitted     bool
	CheckCRCs         bool
}

// A Line says what became of one property that was given. Secrets are hidden.
type Line struct {
	Name      string `json:"name"`
	Given     string `json:"given"`
	Effective string `json:"effective"`
	Status    Status `json:"status"`
}

// Parse merges the properties of fileJSON and envJSON, either of which may be
// nil; where both give one, envJSON wins. requireGroup is whether group.id
// has to be there, as it has in relay mode.
//
// The error is every problem, joined. Each is one line that starts with the
// property's name and ends in what would be right, and none shows a secret.
// Files that the properties name are read here, so that a missing one is
// reported too; nothing is connected to.
func Parse(fileJSON, envJSON []byte, requireGroup bool) (*Properties, error) {
	var sources []source
	if len(fileJSON) > 0 {
		sources = append(sources, source{"KAFKA_CONSUMER_CONFIG_FILE", fileJSON})
	}
	if len(envJSON) > 0 {
		sources = append(sources, source{"KAFKA_CONSUMER_CONFIG", envJSON})
	}
	p := &parser{values: map[string]*value{}, producing: map[string]bool{}, unsound: map[string]bool{}}
	p.read(sources)
	props := p.resolve(requireGroup)
	if len(p.errs) > 0 {
		slices.SortStableFunc(p.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		p.errs = slices.CompactFunc(p.errs, func(a, b error) bool { return a.Error() == b.Error() })
		return nil, errors.Join(p.errs...)
	}
	props.lines = p.lines()
	props.warnings = p.warnings
	props.groupNeeded = requireGroup
	props.fromEnv = slices.Clone(envJSON)
	return props, nil
}

// lines describes everything that was given.
func (p *parser) lines() []Line {
	var out []Line
	for name, v := range p.values {
		l := Line{Name: name, Given: v.prop.redact(v.shown), Effective: v.effective, Status: v.status}
		switch {
		case l.Effective != "":
		case v.status == Ignored || v.status == Warned:
			l.Effective = "– (" + v.prop.note + ")"
		default:
			l.Effective = v.prop.redact(v.text)
		}
		out = append(out, l)
	}
	for name := range p.producing {
		out = append(out, Line{Name: name, Given: hidden, Effective: "– (only producers use it)", Status: Ignored})
	}
	slices.SortFunc(out, func(a, b Line) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// hidden stands for a value that must not be seen.
const hidden = "‹hidden›"

// redact is what may be shown of a property's value.
func (prop *property) redact(s string) string {
	switch {
	case s == "":
		return ""
	case prop.secret:
		return hidden
	case prop.pem:
		return "‹PEM, " + strconv.Itoa(len(s)) + " bytes›"
	case strings.HasSuffix(prop.name, ".url"):
		// A user name and password may stand before the host.
		u, err := url.Parse(s)
		if err != nil {
			return hidden
		}
		return u.Redacted()
	}
	return s
}

// Warnings are what somebody should know and nothing has to be stopped for,
// one sentence each.
func (p *Properties) Warnings() []string { return slices.Clone(p.warnings) }

// Effective lists every property that was given, sorted by name.
func (p *Properties) Effective() []Line { return slices.Clone(p.lines) }

// Brokers are the addresses to ask first, host:port each.
func (p *Properties) Brokers() []string { return slices.Clone(p.brokers) }

// Group is group.id, "" for none.
func (p *Properties) Group() string { return p.group }

// AutoCommit says whether positions are committed, and how often. An interval
// of 0 means only when a partition is given up and at the end.
func (p *Properties) AutoCommit() (enabled bool, interval time.Duration) {
	return p.autoCommit, p.autoCommitEvery
}

// OffsetReset is where the group's member begins without a commit.
func (p *Properties) OffsetReset() OffsetReset { return p.reset }

// IsolationReadCommitted says whether records of open and aborted
// transactions stay unseen. The end of a partition is then the last stable
// offset.
func (p *Properties) IsolationReadCommitted() bool { return p.fetch.ReadCommitted }

// TopicBlacklist are patterns of topics to treat as if they did not exist. A
// pattern matches anywhere in a name unless it is anchored.
func (p *Properties) TopicBlacklist() []*regexp.Regexp { return slices.Clone(p.blacklist) }

// MetadataMaxAge is how old the list of topics and partitions may get, and so
// how long a new one may stay unseen.
func (p *Properties) MetadataMaxAge() time.Duration { return p.metadataMax }

// QueuedMaxBytes bounds what is read and not yet published, in bytes.
func (p *Properties) QueuedMaxBytes() int64 { return p.queuedBytes }

// QueuedMaxRecords bounds the same in records.
func (p *Properties) QueuedMaxRecords() int { return p.queuedRecords }

// MaxPollRecords is how many records to take from the client at once.
func (p *Properties) MaxPollRecords() int { return p.pollRecords }

// AllowAutoCreate says whether asking for a topic may create it.
func (p *Properties) AllowAutoCreate() bool { return p.autoCreate }

// FetchSettings are what raw fetch requests should ask for.
func (p *Properties) FetchSettings() FetchSettings { return p.fetch }

// TLS reports whether connections to brokers are encrypted.
func (p *Properties) TLS() bool { return p.tls != nil }
