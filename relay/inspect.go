package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Report is what Kafka says to a configuration.
type Report struct {
	Cluster      string
	Brokers      []string      // "id host:port", by id
	Topics       []TopicReport // exposed, by name
	Hidden       int           // topics that are not exposed
	GroupState   string        // of group.id: Empty, Stable, Dead (unknown to the broker), …
	GroupMembers int
	GroupProblem error // why the group cannot be described
}

// A TopicReport is one exposed topic.
type TopicReport struct {
	Name       string
	Partitions int
}

// Inspect connects to Kafka as Run would, asks, and disconnects.
func Inspect(ctx context.Context, cfg Config, log *slog.Logger) (*Report, error) {
	props, err := cfg.Properties()
	if err != nil {
		return nil, fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)
	}
	exposed, err := exposure(cfg.Topics, cfg.TopicsExclude, props.TopicBlacklist())
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(props.ClientOpts("ask", log)...)
	if err != nil {
		return nil, fmt.Errorf("KAFKA_CONSUMER_CONFIG: %w", err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	m, err := admin.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", strings.Join(props.Brokers(), ", "), err)
	}
	c := newCatalog(client, exposed, log)
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	r := &Report{Cluster: m.Cluster}
	for _, b := range m.Brokers {
		r.Brokers = append(r.Brokers, fmt.Sprintf("%d %s:%d", b.NodeID, b.Host, b.Port))
	}
	for _, t := range c.all() {
		r.Topics = append(r.Topics, TopicReport{t.name, t.partitions()})
	}
	r.Hidden = len(m.Topics) - len(r.Topics)
	if group := props.Group(); group != "" {
		described, err := admin.DescribeGroups(ctx, group)
		if err == nil {
			err = described.Error()
		}
		if err != nil {
			r.GroupProblem = err
		} else {
			g := described[group]
			r.GroupState, r.GroupMembers = g.State, len(g.Members)
		}
	}
	return r, nil
}

// LogConfig logs the consumer properties that are in force, a line each, and
// every warning about them. Secrets are hidden.
func (r *Relay) LogConfig() {
	for _, w := range r.props.Warnings() {
		r.log.Warn(w)
	}
	for _, l := range r.props.Effective() {
		r.log.Info("consumer property", "name", l.Name, "given", l.Given, "effective", l.Effective, "status", l.Status)
	}
}

// ConfigHandler answers the same as JSON.
func (r *Relay) ConfigHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(map[string]any{"kafka_consumer_config": r.props.Effective()}); err != nil {
			r.log.Debug("config page", "err", err)
		}
	})
}
