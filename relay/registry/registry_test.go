package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"spillway/grip/secret"
)

func TestWireFormat(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	f.seed(2, sr.TypeJSON, `{}`)
	r := newRegistry(t, testConfig(f.server.URL))
	hello := string(framed(1, "\x0ahello"))
	for _, tt := range []struct {
		name  string
		codec Codec
		data  string
		want  string // JSON; empty: as it is
		why   Reason // undecodable
	}{
		{"auto, text", Auto, "hello", "", ""},
		{"auto, nothing", Auto, "", "", ""},
		{"auto, too short for an id", Auto, "\x00\x00\x00\x00", "", ""},
		{"auto, id 0, as a small number of eight bytes", Auto, "\x00\x00\x00\x00\x00\x00\x00\x07", "", ""},
		{"auto, no id has 32 bits", Auto, "\x00\x80\x00\x00\x01x", "", ""},
		{"auto, known id", Auto, hello, `"hello"`, ""},
		{"auto, unknown id", Auto, string(framed(77, "x")), "", UnknownSchema},
		{"avro", Avro, hello, `"hello"`, ""},
		{"avro, not in the wire format", Avro, "hello", "", NotWireFormat},
		{"avro, empty", Avro, "", "", NotWireFormat},
		{"avro, of a JSON schema", Avro, string(framed(2, "{}")), "", OtherSchema},
		{"protobuf, of an Avro schema", Protobuf, hello, "", OtherSchema},
		{"jsonschema", JSONSchema, string(framed(2, `{"a":1}`)), `{"a":1}`, ""},
		{"jsonschema, no JSON", JSONSchema, string(framed(2, `{`)), "", BadData},
		{"string", String, hello, "", ""},
		{"json", JSON, hello, "", ""},
		{"binary", Binary, hello, "", ""},
		{"data too short", Avro, hello[:8], "", BadData},
		{"data left over", Avro, hello + "x", "", BadData},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.why != "" {
				wantReason(t, r, tt.codec, []byte(tt.data), tt.why)
				return
			}
			wantJSON(t, r, tt.codec, []byte(tt.data), tt.want)
		})
	}
	if got := countOf(t, r.metrics.undecodable[OtherSchema]); got != 2 {
		t.Errorf("%v records counted as %s, want 2", got, OtherSchema)
	}
}

func TestKnownIDsAreAskedOnce(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	r := newRegistry(t, testConfig(f.server.URL))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			got, err := r.Decode(context.Background(), nil, Auto, framed(1, "\x02x"))
			if err != nil || string(got.JSON) != `"x"` {
				t.Errorf("got %s, %v", got.JSON, err)
			}
		})
	}
	all.Wait()
	wantAsked(t, f, 1)
}

func TestDecodeKnownAllocatesNothing(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `{"type":"record","name":"R","fields":[{"name":"a","type":"string"},{"name":"b","type":["null","long"]},{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}`)
	r := newRegistry(t, testConfig(f.server.URL))
	data := framed(1, "\x0ahello\x02\x54\x02")
	wantJSON(t, r, Auto, data, `{"a":"hello","b":42,"at":"1970-01-01T00:00:00.001Z"}`)
	dst := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Decode(context.Background(), dst, Auto, data) }); n > 1 {
		t.Errorf("%v allocations, want one at most", n) // the walk
	}
}

// An id that is not there is asked for again after a while, which grows.
func TestUnknownIDIsRemembered(t *testing.T) {
	f := startFake(t)
	r := newRegistry(t, testConfig(f.server.URL))
	data := framed(5, "\x02x")
	for range 3 {
		wantReason(t, r, Auto, data, UnknownSchema)
	}
	wantAsked(t, f, 1)
	r.after(firstRest)
	wantReason(t, r, Auto, data, UnknownSchema)
	wantAsked(t, f, 2)
	r.after(firstRest)
	wantReason(t, r, Auto, data, UnknownSchema)
	wantAsked(t, f, 2)
	f.seed(5, sr.TypeAvro, `"string"`)
	r.after(firstRest)
	wantJSON(t, r, Auto, data, `"x"`)
	if n := len(r.failed); n != 0 {
		t.Errorf("%d failures are remembered, want none", n)
	}
}

func TestOutage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault http.HandlerFunc
		text  string // of the error
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "boom", http.StatusInternalServerError) }, "status 500: boom"},
		{"401", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who?", http.StatusUnauthorized) }, "see SCHEMA_REGISTRY_AUTH"},
		{"404 of a proxy", http.NotFound, "status 404"},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
		{"HTML", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "invalid character"},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for range 2 * maxAnswerBytes / 1024 {
				if _, err := w.Write(bytes.Repeat([]byte{' '}, 1024)); err != nil {
					return
				}
			}
		}, "too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t)
			for id := range 4 {
				f.seed(id+1, sr.TypeAvro, `"string"`)
			}
			r := newRegistry(t, testConfig(f.server.URL))
			wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
			f.fail(tt.fault)
			f.asked.Store(0)
			err := wantReason(t, r, Auto, framed(2, "\x02x"), Unavailable)
			if !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), f.server.URL) {
				t.Errorf("got %q, want it to name the URL and %q", err, tt.text)
			}
			asked := f.asked.Load() // net/http may have tried again by itself

			// Other ids are not asked for either, and known ones are decoded.
			for range 3 {
				wantReason(t, r, Auto, framed(2, "\x02x"), Unavailable)
				wantReason(t, r, Auto, framed(3, "\x02x"), Unavailable)
				wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
			}
			wantAsked(t, f, asked)

			// After a while one is asked for, and the others wait for longer.
			r.after(firstRest)
			wantReason(t, r, Auto, framed(4, "\x02x"), Unavailable)
			again := f.asked.Load()
			if again == asked {
				t.Error("the registry was not asked again")
			}
			r.after(firstRest)
			wantReason(t, r, Auto, framed(3, "\x02x"), Unavailable)
			wantAsked(t, f, again)

			// When it answers, nothing waits any more.
			f.heal()
			r.after(firstRest)
			wantJSON(t, r, Auto, framed(3, "\x02x"), `"x"`)
			wantJSON(t, r, Auto, framed(2, "\x02x"), `"x"`)
			wantJSON(t, r, Auto, framed(4, "\x02x"), `"x"`)
		})
	}
}

// A registry that does not answer holds records up for the timeout once.
func TestSlowRegistry(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	f.fail(func(_ http.ResponseWriter, rq *http.Request) { <-rq.Context().Done() })
	cfg := testConfig(f.server.URL)
	cfg.Timeout = 100 * time.Millisecond
	r := newRegistry(t, cfg)
	wantReason(t, r, Auto, framed(1, "\x02x"), Unavailable)
	begun := time.Now()
	for range 1000 {
		wantReason(t, r, Auto, framed(1, "\x02x"), Unavailable)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("a thousand records took %v", took)
	}
	f.heal()
	r.after(maxRest)
	r.cfg.Timeout = 30 * time.Second // the machine may be slow; the client has its own
	for deadline := time.Now().Add(30 * time.Second); ; r.after(maxRest) {
		got, err := r.Decode(context.Background(), nil, Auto, framed(1, "\x02x"))
		if err == nil && string(got.JSON) == `"x"` {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %s, %v long after the registry came back", got.JSON, err)
		}
	}
}

// A schema that takes longer than records wait is there later.
func TestSchemaThatTakesLong(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	release := make(chan struct{})
	f.fail(func(w http.ResponseWriter, rq *http.Request) {
		<-release
		f.Handler().ServeHTTP(w, rq)
	})
	r := newRegistry(t, testConfig(f.server.URL))
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error)
	go func() {
		_, err := r.Decode(ctx, nil, Auto, framed(1, "\x02x"))
		left <- err
	}()
	for deadline := time.Now().Add(30 * time.Second); f.asked.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the registry was not asked")
		}
	}
	cancel()
	var e *Error
	if err := <-left; !errors.Is(err, context.Canceled) || errors.As(err, &e) {
		t.Errorf("got %v for who has left, want the context's error", err)
	}
	r.after(r.cfg.Timeout) // nobody is patient any more
	wantReason(t, r, Auto, framed(1, "\x02x"), Unavailable)
	close(release)
	r.flights.Wait()
	wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
	wantAsked(t, f, 1)
}

func TestNextURL(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	f.seed(2, sr.TypeAvro, `"string"`)
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "boom", http.StatusBadGateway)
	}))
	defer broken.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	r := newRegistry(t, testConfig(gone.URL, broken.URL, f.server.URL))
	wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
	broken.Close()
	wantJSON(t, r, Auto, framed(2, "\x02x"), `"x"`)
	if got := r.client.first.Load(); got != 2 {
		t.Errorf("URL %d is asked first, want the one that has answered", got)
	}
}

// A URL that hangs leaves time for the next.
func TestNextURLAfterOneThatHangs(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	hangs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, rq *http.Request) { <-rq.Context().Done() }))
	defer hangs.Close()
	cfg := testConfig(hangs.URL, f.server.URL)
	cfg.Timeout = 2 * time.Second
	r := newRegistry(t, cfg)
	r.cfg.Timeout = 30 * time.Second // the client has its own
	wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
}

func TestUnusableSchemas(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `{"type":"record"}`)
	f.seed(2, sr.TypeProtobuf, `syntax = "proto3"; import "not/there.proto"; message M {}`)
	f.Intercept(func(w http.ResponseWriter, rq *http.Request) bool { // the fake itself refuses these
		text, ok := map[string]string{
			"/schemas/ids/3":              `{"schema":"\"o.T\"","references":[{"name":"o.T","subject":"gone","version":4}]}`,
			"/schemas/ids/4":              `{"schema":"\"b.B\"","references":[{"name":"b.B","subject":"circle","version":1}]}`,
			"/subjects/circle/versions/1": `{"schema":"\"b.B\"","references":[{"name":"b.B","subject":"circle","version":1}]}`,
		}[rq.URL.Path]
		if ok {
			_, _ = w.Write([]byte(text))
		}
		return ok
	})
	f.seed(5, sr.TypeProtobuf, `syntax = "proto3"; message M { `+strings.Repeat("message M { ", 40)+strings.Repeat("}", 41))
	f.seed(6, sr.TypeAvro, strings.Repeat(`{"type":"array","items":`, 4_000)+`"int"`+strings.Repeat("}", 4_000))
	r := newRegistry(t, testConfig(f.server.URL))
	for id, text := range map[uint32]string{1: "", 2: "not/there.proto", 3: "version 4 of gone", 4: "", 5: "depth", 6: "deep"} {
		if err := wantReason(t, r, Auto, framed(id, "\x00"), UnusableSchema); !strings.Contains(err.Error(), text) || len(err.Error()) > 600 {
			t.Errorf("schema %d: got %q, want it to say %q", id, err, text)
		}
	}
}

// Random bytes that look like ids make us ask now and then, and no more.
func TestManyUnknownIDs(t *testing.T) {
	f := startFake(t)
	r := newRegistry(t, testConfig(f.server.URL))
	still := time.Now()
	r.now = func() time.Time { return still }
	for id := range uint32(2 * asksAtOnce) {
		_, err := r.Decode(context.Background(), nil, Auto, framed(id+1, "x"))
		want := UnknownSchema
		if id >= asksAtOnce {
			want = Unavailable
		}
		var e *Error
		if !errors.As(err, &e) || e.Reason != want {
			t.Fatalf("id %d: got %v, want %s", id+1, err, want)
		}
	}
	wantAsked(t, f, asksAtOnce)
	if got := countOf(t, r.metrics.refused); got != asksAtOnce {
		t.Errorf("%v look-ups were refused, want %d", got, asksAtOnce)
	}
}

func TestCacheBounds(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*Config)
	}{
		{"entries", func(c *Config) { c.CacheEntries = 3 }},
		{"bytes", func(c *Config) { c.CacheBytes = 3 * (entryBytes + textFactor*8) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t)
			for id := range 4 {
				f.seed(id+1, sr.TypeAvro, `"string"`) // 8 bytes
			}
			cfg := testConfig(f.server.URL)
			tt.set(&cfg)
			r := newRegistry(t, cfg)
			for _, id := range []uint32{1, 2, 3, 1, 4, 1, 3, 4} { // 4 puts out 2
				wantJSON(t, r, Auto, framed(id, "\x02x"), `"x"`)
			}
			wantAsked(t, f, 4)
			wantJSON(t, r, Auto, framed(2, "\x02x"), `"x"`)
			wantAsked(t, f, 5)
			if len(r.known) != 3 || r.recent.Len() != 3 || r.bytes != 3*(entryBytes+textFactor*8) {
				t.Errorf("%d schemas, %d of them in order, of %d bytes", len(r.known), r.recent.Len(), r.bytes)
			}
		})
	}
}

func TestClose(t *testing.T) {
	f := startFake(t)
	f.seed(1, sr.TypeAvro, `"string"`)
	r := newRegistry(t, testConfig(f.server.URL))
	wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
	f.fail(func(_ http.ResponseWriter, rq *http.Request) { <-rq.Context().Done() })
	waiting := make(chan error)
	go func() {
		_, err := r.Decode(context.Background(), nil, Auto, framed(2, "x"))
		waiting <- err
	}()
	for deadline := time.Now().Add(30 * time.Second); f.asked.Load() < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the registry was not asked")
		}
	}
	r.Close()
	if err := <-waiting; err == nil {
		t.Error("got no error for who waited for a schema")
	}
	wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
	wantReason(t, r, Auto, framed(3, "x"), Unavailable)
	r.Close()
}

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user))
}

func TestCredentials(t *testing.T) {
	const secret = "pa:ss%2Fword"
	for _, tt := range []struct {
		name, header string
		set          func(*Config)
		works        bool
	}{
		{"in the URL", basic("user:pa:ss/word"), func(c *Config) { c.URLs[0] = strings.Replace(c.URLs[0], "://", "://user:"+secret+"@", 1) }, true},
		{"apart", basic("user:" + secret), func(c *Config) { c.Auth = "user:" + secret }, true},
		{"a token", "Bearer abc.def", func(c *Config) { c.Auth = "Bearer abc.def" }, true},
		{"wrong", basic("user:other"), func(c *Config) { c.Auth = "user:" + secret }, false},
		{"wrong in the URL", basic("user:other"), func(c *Config) { c.URLs[0] = strings.Replace(c.URLs[0], "://", "://user:"+secret+"@", 1) }, false},
		{"none", basic("user:other"), func(*Config) {}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, srfake.WithAuth(tt.header))
			f.seed(1, sr.TypeAvro, `"string"`)
			cfg := testConfig(f.server.URL)
			tt.set(&cfg)
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			var logged bytes.Buffer
			r, err := New(cfg, slog.New(slog.NewTextHandler(&logged, nil)), prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if tt.works {
				wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
				return
			}
			failed := wantReason(t, r, Auto, framed(1, "\x02x"), Unavailable)
			if text := failed.Error() + logged.String(); strings.Contains(text, "ss/word") || strings.Contains(text, "ss%2Fword") || !strings.Contains(logged.String(), "unavailable") {
				t.Errorf("got %q and in the log %q", failed, logged.String())
			}
		})
	}
}

// Who may ask, and whom, changes with the files that say so.
func TestCredentialsChange(t *testing.T) {
	first, other := startFake(t, srfake.WithAuth(basic("user:new"))), startFake(t, srfake.WithAuth("Bearer token"))
	first.seed(1, sr.TypeAvro, `"string"`)
	other.seed(2, sr.TypeAvro, `"string"`)
	files := map[string]string{"SCHEMA_REGISTRY_URL": first.server.URL, "SCHEMA_REGISTRY_AUTH": "user:old"}
	source := secret.NewSource()
	for name, text := range files {
		source.Add(name, text, func() (string, error) { return files[name], nil })
	}
	cfg := testConfig(first.server.URL)
	cfg.Auth, cfg.Secrets = "user:old", source
	r := newRegistry(t, cfg)
	var logged bytes.Buffer
	source.Watch(slog.New(slog.NewTextHandler(&logged, nil)), prometheus.NewRegistry())
	change := func(name, text string) {
		files[name] = text
		source.Reload()
		r.after(maxRest + time.Second)
	}
	wantReason(t, r, Auto, framed(1, "\x02x"), Unavailable)
	change("SCHEMA_REGISTRY_AUTH", "user:new")
	wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)

	change("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1, "+other.server.URL)
	wantReason(t, r, Auto, framed(2, "\x02x"), Unavailable) // the old password
	change("SCHEMA_REGISTRY_AUTH", "Bearer token")
	wantJSON(t, r, Auto, framed(2, "\x02x"), `"x"`)

	for _, bad := range []struct{ name, text string }{
		{"SCHEMA_REGISTRY_AUTH", "hunter2"}, {"SCHEMA_REGISTRY_AUTH", "Bearer  "}, {"SCHEMA_REGISTRY_URL", "ftp://a:hunter2@b"}, {"SCHEMA_REGISTRY_URL", ", ,"},
	} {
		change(bad.name, bad.text)
	}
	other.seed(3, sr.TypeAvro, `"string"`)
	wantJSON(t, r, Auto, framed(3, "\x02x"), `"x"`)
	if text := logged.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "write user:password") || !strings.Contains(text, "write https://HOST:PORT") {
		t.Errorf("the log does not say what is wrong, or shows it:\n%s", text)
	}
}

func TestTLS(t *testing.T) {
	f := newFake(t)
	f.server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	f.server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	f.server.StartTLS()
	f.seed(1, sr.TypeAvro, `"string"`)
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := file("ca.pem", "CERTIFICATE", f.server.Certificate().Raw)
	keys := "../properties/testdata/keys/"
	for _, tt := range []struct {
		name  string
		set   func(*Config)
		works bool
	}{
		{"all", func(c *Config) { c.CAFile, c.CertFile, c.KeyFile = ca, keys+"cert.pem", keys+"plain.key" }, true},
		{"no certificate of ours", func(c *Config) { c.CAFile = ca }, false},
		{"the usual authorities", func(c *Config) { c.CertFile, c.KeyFile = keys+"cert.pem", keys+"plain.key" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(f.server.URL)
			tt.set(&cfg)
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			r := newRegistry(t, cfg)
			if tt.works {
				wantJSON(t, r, Auto, framed(1, "\x02x"), `"x"`)
				return
			}
			if err := wantReason(t, r, Auto, framed(1, "\x02x"), Unavailable); !strings.Contains(err.Error(), "certificate") {
				t.Errorf("got %q, want it to say that it is about a certificate", err)
			}
		})
	}
}

// Failures grow to their longest rest and no further.
func TestRests(t *testing.T) {
	var f failure
	now := time.Now()
	for i := range 100 {
		f.fail(&Error{}, now, maxRest)
		want := maxRest
		if i < 5 {
			want = firstRest << i
		}
		if rest := f.until.Sub(now); rest > want || rest < want*9/10 {
			t.Fatalf("failure %d: got a rest of %v, want up to a tenth less than %v", i+1, rest, want)
		}
	}
}

func TestConfigProblems(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{"no scheme", func(c *Config) { c.URLs = []string{"registry:8081"} }, "number 1 is not a URL; write https://HOST:PORT"},
		{"no host", func(c *Config) { c.URLs = []string{"http://a", "https://"} }, "number 2 is not a URL"},
		{"a secret that is no URL", func(c *Config) { c.URLs = []string{"http://u:secret%zz@h"} }, "number 1 is not a URL"},
		{"a query", func(c *Config) { c.URLs = []string{"http://u:secret@h/?a=b"} }, "has a query"},
		{"two users", func(c *Config) { c.URLs, c.Auth = []string{"http://u:secret@h"}, "a:secret" }, "keep one"},
		{"no colon", func(c *Config) { c.Auth = "secret" }, "write user:password"},
		{"no token", func(c *Config) { c.Auth = "bearer  " }, "one token must follow"},
		{"for nobody", func(c *Config) { c.URLs, c.Auth = nil, "a:secret" }, "SCHEMA_REGISTRY_AUTH: there is no SCHEMA_REGISTRY_URL"},
		{"no CA", func(c *Config) { c.CAFile = "testdata/none.pem" }, "SCHEMA_REGISTRY_CA_FILE: open testdata/none.pem"},
		{"no PEM", func(c *Config) { c.CAFile = "testdata/golden.py" }, "need PEM blocks"},
		{"one of two", func(c *Config) { c.CertFile = "x" }, "set both or none"},
		{"no key", func(c *Config) { c.CertFile, c.KeyFile = "testdata/golden.py", "testdata/golden.py" }, "SCHEMA_REGISTRY_CERT_FILE: tls"},
		{"timeout", func(c *Config) { c.Timeout = time.Millisecond }, "SCHEMA_REGISTRY_TIMEOUT=1ms: must be"},
		{"entries", func(c *Config) { c.CacheEntries = 0 }, "SCHEMA_CACHE_ENTRIES=0: must be"},
		{"bytes", func(c *Config) { c.CacheBytes = 1 }, "SCHEMA_CACHE_BYTES=1: must be"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig("http://localhost:8081")
			tt.set(&c)
			err := c.Validate()
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q and no secret", err, tt.want)
			}
		})
	}
	none := testConfig()
	if err := none.Validate(); err != nil {
		t.Errorf("without a registry: %v", err)
	}
}

func TestParseCodec(t *testing.T) {
	for c := range numCodecs {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("ParseCodec(%q) = %v, %v", c, got, err)
		}
	}
	if _, err := ParseCodec("xml"); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("ParseCodec(xml): %v; want an error that names it", err)
	}
}

func TestCut(t *testing.T) {
	for in, want := range map[string]string{
		"proto:\u00a0it":         "proto: it",
		"a\r\nb\x1b[31m":         "a  b[31m",
		strings.Repeat("ü", 200): strings.Repeat("ü", 75) + " … " + strings.Repeat("ü", 75),
	} {
		if got := cut(in); got != want {
			t.Errorf("cut(%q) = %q, want %q", in, got, want)
		}
	}
}
