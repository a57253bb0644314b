package relay

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The password in KAFKA_CONSUMER_CONFIG_FILE may change, in both commands.
func TestKafkaCredentialsChange(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser("PLAIN", "me", "new"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	file := filepath.Join(t.TempDir(), "kafka.json")
	put := func(password string) []byte {
		text := fmt.Appendf(nil, `{"bootstrap.servers":%q,"security.protocol":"sasl_plaintext","sasl.mechanism":"PLAIN","sasl.username":"me","sasl.password":%q,"group.id":"g"}`,
			strings.Join(cluster.ListenAddrs(), ","), password)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return text
	}
	cfg := testConfig("")
	cfg.KafkaConsumerConfig, cfg.KafkaConsumerConfigFile, cfg.KafkaConsumerConfigJSON = "", file, put("old")
	log := slog.New(slog.DiscardHandler)
	r, err := New(cfg, newMemGateway(), log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(t.Context())
	f, err := NewForwarder(cfg, nil, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer f.client.Close()
	ask := func(client *kgo.Client) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return client.Ping(ctx)
	}
	clients := map[string]*kgo.Client{"reader": r.reader, "asker": r.asker, "forwarder": f.client}
	for name, client := range clients {
		if err := ask(client); err == nil {
			t.Errorf("%s: the old password was let in", name)
		}
	}
	put("new") // for all at once: they ask on their own as well
	for name, client := range clients {
		if err := ask(client); err != nil {
			t.Errorf("%s: with the new password: %v", name, err)
		}
	}
}
