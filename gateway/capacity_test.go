package gateway

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCapacity(t *testing.T) {
	for _, tt := range []struct {
		name          string
		cfg           Config
		descriptors   uint64
		most, sockets int
		because       string
	}{
		{"a quarter of the memory", Config{MemoryLimit: 1 << 30}, 1 << 20, 32768, 32768 + 8192 + 64, "256 MiB of MEMORY_LIMIT (1024 MiB) are for connections, at 8KiB each"},
		{"connections with TLS cost more", Config{MemoryLimit: 1 << 30, TLSCertFile: "x"}, 1 << 20, 5461, 5461 + 1365 + 64, "at 48KiB each"},
		{"what others leave", Config{MemoryLimit: 128 << 20, OtherMemory: 80 << 20}, 1 << 20, 2048, 2048 + 512 + 64, "16 MiB of MEMORY_LIMIT"},
		{"others leave nothing, which is refused elsewhere", Config{MemoryLimit: 64 << 20, OtherMemory: 64 << 20}, 1 << 20, 64, 64 + 16 + 64, "0 MiB of"},
		{"descriptors", Config{MemoryLimit: 1 << 30}, 1024, 1024 - 128 - 64, 1024 - 128, "1024 files and sockets open, of which 128 are kept"},
		{"many descriptors", Config{MemoryLimit: 1 << 40}, 20_000, 20_000 - 512 - 64, 20_000 - 512, "20000 files and sockets open, of which 512 are kept"},
		{"hardly any", Config{MemoryLimit: 1 << 30}, 16, 1, 14, "16 files and sockets"},
		{"more than can be counted", Config{MemoryLimit: 1 << 30}, 1<<63 - 1, 32768, 32768 + 8192 + 64, "MEMORY_LIMIT"},
		{"unknown", Config{MemoryLimit: 1 << 30}, 0, 32768, 32768 + 8192 + 64, "MEMORY_LIMIT"},
		{"as configured", Config{MemoryLimit: 1 << 30, MaxConnections: 10}, 1 << 20, 10, 76, "MAX_CONNECTIONS says so"},
		{"as configured, beyond the descriptors", Config{MemoryLimit: 1 << 30, MaxConnections: 50_000}, 1024, 50_000, 896, "MAX_CONNECTIONS says so"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.cfg.capacity(tt.descriptors)
			if got.most != tt.most || got.sockets != tt.sockets || !strings.Contains(got.because, tt.because) {
				t.Errorf("got %+v, want most %d, sockets %d, because …%s…", got, tt.most, tt.sockets, tt.because)
			}
		})
	}
}

func TestConnectionsAreLimitedByDefault(t *testing.T) {
	f := start(t, func(c *Config) { c.MaxConnections, c.MemoryLimit = 0, 16<<20 })
	if got := f.metric(t, "spillway_connections_limit", prometheus.Labels{}); got != 512 {
		t.Errorf("limit: got %v, want 4MiB / 8KiB", got)
	}
}
