package properties

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ClientOpts are the options that every Kafka client of the process has:
// where the brokers are, how to reach them, and who we are. role, such as
// "read" or "grp", is appended to the client id, so that quotas and logs of
// the brokers tell the clients apart. log gets what the library and the
// connections have to say.
//
// Two clients built from the same Properties share the certificates and
// tokens that were read, not connections.
func (p *Properties) ClientOpts(role string, log *slog.Logger) []kgo.Opt {
	dialer := &dialer{settings: p.dial, network: p.network, tls: p.tls, log: log}
	opts := []kgo.Opt{
		kgo.SeedBrokers(p.brokers...),
		kgo.ClientID(p.clientID + "-" + role),
		kgo.Dialer(dialer.dial),
		kgo.RequestTimeoutOverhead(p.overhead),
		kgo.ConnIdleTimeout(p.connIdle),
		kgo.RetryBackoffFn(backoff(p.backoffMin, p.backoffMax)),
		kgo.MetadataMaxAge(p.metadataMax),
		kgo.MetadataMinAge(p.metadataMin),
		kgo.ConsiderMissingTopicDeletedAfter(p.missingTopic),
		kgo.BrokerMaxReadBytes(p.maxReadBytes),
		kgo.WithLogger(&logger{log: log, most: p.logLevel}),
	}
	if p.rack != "" {
		opts = append(opts, kgo.Rack(p.rack))
	}
	if p.rebootstrap {
		opts = append(opts, kgo.OnRebootstrapRequired(func() ([]string, error) { return p.Brokers(), nil }))
	}
	if !p.pushMetrics {
		opts = append(opts, kgo.DisableClientMetrics())
	}
	if p.autoCreate {
		opts = append(opts, kgo.AllowAutoTopicCreation())
	}
	if p.auth != nil {
		opts = append(opts, kgo.SASL(p.auth.mechanism(log)))
	}
	return opts
}

// ReadOpts are the options of live readers, which belong to no group. An
// offset that no longer exists surfaces as an error, since the library's own
// way, going on elsewhere, would hide a gap. Control records are kept, since
// without them the position stands still over the marks of transactions.
func (p *Properties) ReadOpts() []kgo.Opt {
	level := kgo.ReadUncommitted()
	if p.fetch.ReadCommitted {
		level = kgo.ReadCommitted()
	}
	opts := []kgo.Opt{
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(level),
		kgo.FetchMaxWait(p.fetch.MaxWait),
		kgo.FetchMinBytes(p.fetch.MinBytes),
		kgo.FetchMaxBytes(p.fetch.MaxBytes),
		kgo.FetchMaxPartitionBytes(p.fetch.MaxPartitionBytes),
	}
	if !p.fetch.CheckCRCs {
		opts = append(opts, kgo.DisableFetchCRCValidation())
	}
	return opts
}

// GroupOpts are the options of the group's member, nil without group.id. The
// library never commits by itself: what counts is what was published, and
// AutoCommit says when to commit it. Without a commit the member begins where
// OffsetReset says; for Error the library answers such a partition with an
// error.
//
// instanceSuffix tells replicas with the same group.instance.id apart and is
// appended to it, unless it holds {hostname} or {pod} and so does that itself.
func (p *Properties) GroupOpts(instanceSuffix string) []kgo.Opt {
	if p.group == "" {
		return nil
	}
	start := map[OffsetReset]kgo.Offset{
		Earliest: kgo.NewOffset().AtStart(),
		Latest:   kgo.NewOffset().AtEnd(),
		Error:    kgo.NewOffset().AtCommitted(),
	}[p.reset]
	opts := []kgo.Opt{
		kgo.ConsumerGroup(p.group),
		kgo.DisableAutoCommit(),
		kgo.Balancers(p.balancers...),
		kgo.SessionTimeout(p.session),
		kgo.HeartbeatInterval(p.heartbeat),
		kgo.RebalanceTimeout(p.rebalance),
		kgo.ConsumeStartOffset(start),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	}
	if p.instance != "" {
		opts = append(opts, kgo.InstanceID(instanceID(p.instance, hostname(), podName(), instanceSuffix)))
	}
	return opts
}

// maxInstanceBytes is what brokers accept, as for a topic's name.
const maxInstanceBytes = 249

// instanceProblem says why group.instance.id cannot be sent, "" if it can.
func instanceProblem(id string) string {
	rest := strings.NewReplacer("{hostname}", "", "{pod}", "").Replace(id)
	if i := strings.IndexFunc(rest, notInInstance); i >= 0 {
		return "must hold only letters, digits, dots, underscores and hyphens, and {hostname} or {pod}"
	}
	if id == "." || id == ".." {
		return "must not be . or .."
	}
	return ""
}

// instanceID fills the placeholders of group.instance.id, or appends suffix
// if there is none. The result is what brokers accept; where it has to be
// shortened, a hash keeps it different from others.
func instanceID(id, host, pod, suffix string) string {
	full := strings.NewReplacer("{hostname}", host, "{pod}", pod).Replace(id)
	if full == id && suffix != "" {
		full = id + "-" + strings.TrimPrefix(suffix, "-")
	}
	clean := strings.Map(func(r rune) rune {
		if notInInstance(r) {
			return '-'
		}
		return r
	}, full)
	if len(clean) > maxInstanceBytes {
		sum := sha256.Sum256([]byte(full))
		clean = clean[:maxInstanceBytes-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return clean
}

func notInInstance(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-')
}

// hostname is what {hostname} stands for.
func hostname() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "unknown"
	}
	return name
}

// podName is what {pod} stands for: POD_NAME, which a chart sets from the
// pod's own metadata, or the host name, which in most pods is the same.
func podName() string {
	if name := os.Getenv("POD_NAME"); name != "" {
		return name
	}
	return hostname()
}

// backoff doubles from low to high with every failure, give or take a fifth,
// so that a thousand clients do not come back at once.
func backoff(low, high time.Duration) func(fails int) time.Duration {
	return func(fails int) time.Duration {
		d := float64(low) * math.Pow(2, float64(min(max(fails-1, 0), 30)))
		d = min(d, float64(high)) * (0.8 + 0.4*rand.Float64())
		return time.Duration(min(d, float64(high)))
	}
}
