package properties

import (
	"log/slog"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestQuickstartConfiguration(t *testing.T) {
	p, err := Parse(nil, []byte(`{"bootstrap.servers":"localhost:9092","group.id":"mygroup"}`), true)
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]kgo.Opt{
		"reader": append(p.ClientOpts("read", slog.Default()), p.ReadOpts()...),
		"member": append(p.ClientOpts("grp", slog.Default()), p.GroupOpts("host")...),
	} {
		client, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		client.Close()
	}
}
