package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/golang-jwt/jwt/v5"

	"spillway/relay/auth"
	"spillway/relay/kafkatest"
)

// An answer is a ResponseWriter that keeps what a gateway would: the header,
// and how long the body is.
type answer struct {
	header http.Header
	status int
	length int
}

func (a *answer) Header() http.Header    { return a.header }
func (a *answer) WriteHeader(status int) { a.status = status }
func (a *answer) Write(p []byte) (int, error) {
	a.length += len(p)
	return len(p), nil
}

// BenchmarkAccept is the origin's answer to one client, topics being read
// already: what of a new stream's cost is the relay's.
func BenchmarkAccept(b *testing.B) {
	k := kafkatest.Fake(b)
	for _, topic := range []string{"orders", "payments", "refunds"} {
		k.CreateTopic(topic, 6)
		values(k, topic, numbered("v", 0, 10)...)
	}
	h := startRelay(b, k)
	position := h.open("/events/orders/").lastEventID()
	sse := []string{"Accept", "text/event-stream", "Origin", "https://app.example.com"}
	for _, bm := range []struct {
		name, url string
		header    []string
	}{
		{"start=live", "/events/orders/", nil},
		{"start=live/browser", "/events/orders/", sse},
		{"start=live/topics=3", "/events/orders,payments,refunds/", sse},
		{"start=live/form=envelope", "/events/orders/?format=envelope", sse},
		{"start=live/websocket", "/events/orders/", []string{"Accept", "application/websocket-events"}},
		{"start=cursor", "/events/orders/", append(sse, "Last-Event-ID", position)},
		{"start=earliest", "/events/orders/?from=earliest", sse},
		{"start=live/poll", "/events/orders/", []string{"Accept", "application/json"}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r := httptest.NewRequest(http.MethodGet, bm.url, nil)
			for i := 0; i < len(bm.header); i += 2 {
				r.Header.Set(bm.header[i], bm.header[i+1])
			}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			r = r.WithContext(ctx)
			b.ReportAllocs()
			w := answer{header: make(http.Header)}
			for b.Loop() {
				clear(w.header) // the gateway has a new one each time, which is its cost
				h.r.Origin().ServeHTTP(&w, r)
				if w.status != http.StatusOK {
					b.Fatal(w.status)
				}
			}
		})
	}
}

// BenchmarkAcceptAuth is the same with each way to say who a client is.
func BenchmarkAcceptAuth(b *testing.B) {
	k := kafkatest.Fake(b)
	k.CreateTopic("orders", 6)
	values(k, "orders", "v")
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Spillway-Subject", "alice")
	}))
	b.Cleanup(api.Close)
	claims := jwt.MapClaims{"sub": "alice", "topics": []string{"orders"}, "exp": time.Now().Add(time.Hour).Unix()}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	for _, bm := range []struct {
		name, token string
		set         func(*auth.Config)
	}{
		{"none", "", func(*auth.Config) {}},
		{"jwt=HS256", signedBy(b, jwt.SigningMethodHS256, []byte(aSecret), claims), func(c *auth.Config) { c.Key = aSecret }},
		{"jwt=RS256", signedBy(b, jwt.SigningMethodRS256, rsaKey, claims), func(c *auth.Config) { c.Key = publicPEM(b, rsaKey.Public()) }},
		{"jwt=ES256", signedBy(b, jwt.SigningMethodES256, ecKey, claims), func(c *auth.Config) { c.Key = publicPEM(b, ecKey.Public()) }},
		{"api/cached", "opaque", func(c *auth.Config) { c.URL = api.URL }},
		{"api/asked", "opaque", func(c *auth.Config) { c.URL, c.CacheTTL = api.URL, 0 }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			h := startRelay(b, k, func(c *Config) { bm.set(&c.Auth) })
			r := httptest.NewRequest(http.MethodGet, "/events/orders/", nil)
			if bm.token != "" {
				r.Header.Set("Authorization", "Bearer "+bm.token)
			}
			h.open("/events/orders/", bearer(bm.token)...)
			b.ReportAllocs()
			w := answer{header: make(http.Header)}
			for b.Loop() {
				clear(w.header)
				h.r.Origin().ServeHTTP(&w, r)
				if w.status != http.StatusOK {
					b.Fatal(w.status)
				}
			}
		})
	}
}

func publicPEM(tb testing.TB, key any) string {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// What is the same for all streams of a channel is one piece of memory, however
// many they are, and making the answer costs next to none.
func TestStreamsShareTheirInstructions(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("orders", 3)
	values(k, "orders", "v0")
	h := startRelay(t, k)
	h.open("/events/orders/")
	for _, accept := range []string{"text/event-stream", "application/x-ndjson", "application/websocket-events"} {
		r := httptest.NewRequest(http.MethodGet, "/events/orders/", nil)
		r.Header.Set("Accept", accept)
		h.open("/events/orders/", "Accept", accept)
		ask := func(w *answer) {
			w.header = make(http.Header, 16)
			h.r.Origin().ServeHTTP(w, r)
		}
		var a, b answer
		ask(&a)
		ask(&b)
		for _, name := range []string{"Grip-Hold", "Grip-Channel", "Grip-Link"} {
			one, other := a.header.Get(name), b.header.Get(name)
			if one == "" || unsafe.StringData(one) != unsafe.StringData(other) {
				t.Errorf("%s: %s is %q and %q, want one string", accept, name, one, other)
			}
		}
		empty := testing.AllocsPerRun(10, func() { a.header = make(http.Header, 16) })
		if n := testing.AllocsPerRun(1000, func() { ask(&a) }) - empty; n > 3 {
			t.Errorf("%s: %v allocations for each answer, want hardly any", accept, n)
		}
	}
}

// The position in an answer is that of the moment, not the one that was shared
// before the hub moved.
func TestStreamsBeginWhereTheHubIs(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("orders", 1)
	h := startRelay(t, k)
	first := h.open("/events/orders/")
	for i := range 5 {
		again := h.open("/events/orders/")
		values(k, "orders", numbered("v", i, i+1)...)
		again.wantData(numbered("v", i, i+1)...)
	}
	first.wantData(numbered("v", 0, 5)...)
	k.AddPartitions("orders", 2)
	h.eventually("the new partition is read", func() bool {
		id := h.open("/events/orders/").lastEventID()
		return strings.HasSuffix(id, ".3.5.0.0")
	})
}

// A client that comes back with the id of an event that is still in the log is
// held at once; one that was anywhere else goes through history first.
func TestReconnectIntoTheLog(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("orders", 2)
	values(k, "orders", "before")
	h := startRelay(t, k)
	s := h.open("/events/orders/")
	values(k, "orders", numbered("v", 0, 5)...)
	s.wantData(numbered("v", 0, 5)...)
	events := s.events()
	for i, e := range events {
		again := h.open("/events/orders/", "Last-Event-ID", e.id)
		if !again.holding || strings.Contains(again.out.String(), "id:") {
			t.Errorf("after event %d: holding %v, got %q", i, again.holding, again.out.String())
		}
		again.wantData(numbered("v", i+1, 5)...)
	}
	last := events[len(events)-1].id
	for _, tt := range []struct {
		name, id string
		want     []string
	}{
		{"before the log", strings.Replace(last, ".2.6.0", ".2.0.0", 1), append([]string{"before"}, numbered("v", 0, 5)...)},
		{"a partition less", strings.Replace(last, ".2.6.0", ".1.4", 1), numbered("v", 3, 5)},
		{"another time", strings.Replace(events[2].id, "1-", "1-1", 1), numbered("v", 3, 5)},
		{"the end of a bounded stream", strings.Replace(events[2].id, "1-", "1e-", 1), numbered("v", 3, 5)},
	} {
		t.Log(tt.name)
		h.open("/events/orders/", "Last-Event-ID", tt.id).wantData(tt.want...)
	}
}
