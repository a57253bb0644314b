package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// A fakeRegistry is one that can be made to fail.
type fakeRegistry struct {
	*srfake.Registry
	server *httptest.Server
	asked  atomic.Int64
	fault  atomic.Pointer[http.HandlerFunc] // nil: none
}

func newFake(t testing.TB, opts ...srfake.Option) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{Registry: srfake.NewRegistry(opts...)}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, rq *http.Request) {
		f.asked.Add(1)
		if fault := f.fault.Load(); fault != nil {
			(*fault)(w, rq)
			return
		}
		f.Handler().ServeHTTP(w, rq)
	}))
	t.Cleanup(f.server.Close)
	return f
}

func startFake(t testing.TB, opts ...srfake.Option) *fakeRegistry {
	f := newFake(t, opts...)
	f.server.Start()
	return f
}

func (f *fakeRegistry) fail(h http.HandlerFunc) { f.fault.Store(&h) }
func (f *fakeRegistry) heal()                   { f.fault.Store(nil) }

func (f *fakeRegistry) seed(id int, kind sr.SchemaType, text string) {
	f.SeedSchema("s", id, id, sr.Schema{Schema: text, Type: kind})
}

func testConfig(urls ...string) Config {
	return Config{URLs: urls, Timeout: 10 * time.Second, CacheEntries: 1000, CacheBytes: 64 << 20, MaxBytes: 1 << 20}
}

func newRegistry(t testing.TB, cfg Config) *Registry {
	t.Helper()
	r, err := New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// after makes r believe that this much time has passed.
func (r *Registry) after(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	then := r.now()
	r.now = func() time.Time { return then.Add(d) }
}

// framed puts the wire format in front of data.
func framed(id uint32, data string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), data...)
}

func wantJSON(t *testing.T, r *Registry, codec Codec, data []byte, want string) {
	t.Helper()
	got, err := r.Decode(context.Background(), nil, codec, data)
	if err != nil || string(got.JSON) != want {
		t.Fatalf("got %s, %v; want %s", got.JSON, err, want)
	}
}

func wantReason(t *testing.T, r *Registry, codec Codec, data []byte, want Reason) *Error {
	t.Helper()
	got, err := r.Decode(context.Background(), nil, codec, data)
	var e *Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Fatalf("got %s, %v; want %s", got.JSON, err, want)
	}
	return e
}

func wantAsked(t *testing.T, f *fakeRegistry, want int64) {
	t.Helper()
	if got := f.asked.Load(); got != want {
		t.Errorf("the registry was asked %d times, want %d", got, want)
	}
}

func countOf(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}
