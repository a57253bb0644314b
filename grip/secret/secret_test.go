package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// patience is for machines that are slow.
const patience = 60 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// A mounted is a Secret as Kubernetes mounts it: a link to a folder, replaced
// as a whole.
type mounted struct {
	dir string
	n   int
}

func (m *mounted) path() string { return filepath.Join(m.dir, "key") }

func (m *mounted) put(t *testing.T, text string) {
	t.Helper()
	m.n++
	data := filepath.Join(m.dir, fmt.Sprintf("..%d", m.n))
	must(t, os.Mkdir(data, 0o700))
	must(t, os.WriteFile(filepath.Join(data, "key"), []byte(text), 0o600))
	must(t, os.Symlink(data, filepath.Join(m.dir, "..tmp")))
	must(t, os.Rename(filepath.Join(m.dir, "..tmp"), filepath.Join(m.dir, "..data")))
	if m.n == 1 {
		must(t, os.Symlink("..data/key", m.path()))
	}
}

func (m *mounted) read() (string, error) {
	b, err := os.ReadFile(m.path())
	return string(b), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logged is a log that may be read meanwhile.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// number is what a counter or gauge says.
func number(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	must(t, m.Write(&out))
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// upper refuses what is too short, and does not show it.
func upper(text string) (string, error) {
	if len(text) < 3 {
		return "", fmt.Errorf("%d bytes are too few", len(text))
	}
	return strings.ToUpper(text), nil
}

func TestFollow(t *testing.T) {
	m := &mounted{dir: t.TempDir()}
	m.put(t, "first")
	s := NewSource()
	s.Add("KEY", "first", m.read)
	s.Add("OTHER", "x", func() (string, error) { t.Error("a file that nobody follows was read"); return "", nil })
	v, err := Follow(s, "KEY", "first", upper)
	must(t, err)
	// A second part with a rule of its own: all take a secret, or none.
	short, err := Follow(s, "KEY", "first", func(text string) (int, error) {
		if len(text) > 10 {
			return 0, errors.New("too long for me")
		}
		return len(text), nil
	})
	must(t, err)

	var log logged
	reg := prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	run := s.Watch(slog.New(slog.NewTextHandler(&log, nil)), reg)
	go func() { done <- run(ctx) }()
	result := func(name string) float64 { return number(t, s.metrics.reloads.WithLabelValues("KEY", name)) }
	good := func() float64 { return number(t, s.metrics.good.WithLabelValues("KEY")) }
	if got := v.Get(); got != "FIRST" || good() != 1 {
		t.Fatalf("at start: got %q and good %v, want FIRST and 1", got, good())
	}

	m.put(t, "second")
	eventually(t, "the second value", func() bool { return v.Get() == "SECOND" && short.Get() == 6 && result("ok") == 1 })

	failures := 0.0
	for _, bad := range []string{"xy", "", "quite a lot too long"} {
		m.put(t, bad)
		failures++
		eventually(t, "a refusal of "+bad, func() bool { return result("failed") == failures && good() == 0 })
		if got := v.Get(); got != "SECOND" || short.Get() != 6 {
			t.Errorf("%q: got %q and %d, want the old value in both", bad, got, short.Get())
		}
	}
	must(t, os.Rename(m.path(), m.path()+".away"))
	s.Reload() // said already: it counts as the same trouble until there is something else
	if got := v.Get(); got != "SECOND" {
		t.Errorf("without a file: got %q, want SECOND", got)
	}
	must(t, os.Rename(m.path()+".away", m.path()))

	m.put(t, "second") // what is in force
	eventually(t, "the old value's return", func() bool { return good() == 1 })
	m.put(t, "third")
	s.Reload()
	if got := v.Get(); got != "THIRD" || good() != 1 {
		t.Errorf("at once: got %q and good %v, want THIRD and 1", got, good())
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: got %v, want nil", err)
	}
	for _, want := range []string{"2 bytes are too few", "its file is empty", "too long for me", "name=KEY"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
	for _, secret := range []string{"first", "second", "third", "quite a lot"} {
		if strings.Contains(strings.ToLower(log.String()), secret) {
			t.Errorf("the log shows %q:\n%s", secret, log.String())
		}
	}
}

// A file that changes with every look is never taken.
func TestAtRest(t *testing.T) {
	s, text := NewSource(), "first"
	s.Add("KEY", text, func() (string, error) { return text, nil })
	v, err := Follow(s, "KEY", text, upper)
	must(t, err)
	s.Watch(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	for _, tt := range []struct{ text, want string }{
		{"one", "FIRST"}, {"two", "FIRST"}, {"two", "TWO"}, {"two", "TWO"}, {"three", "TWO"}, {"two", "TWO"}, {"three", "TWO"}, {"three", "THREE"},
	} {
		text = tt.text
		if s.look(false); v.Get() != tt.want {
			t.Errorf("the file holds %s: got %s, want %s", tt.text, v.Get(), tt.want)
		}
	}
}

// A file that was not there for a moment is taken when it is at rest.
func TestFileWasAway(t *testing.T) {
	s, text, away := NewSource(), "first", error(nil)
	s.Add("KEY", text, func() (string, error) { return text, away })
	v, err := Follow(s, "KEY", text, upper)
	must(t, err)
	s.Watch(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	text = "second"
	s.look(false)
	away = os.ErrNotExist
	s.look(false)
	away = nil
	s.look(false)
	if s.look(false); v.Get() != "SECOND" {
		t.Errorf("got %s, want SECOND", v.Get())
	}
}

// What has no file may name some, which are looked at like one.
func TestNamedFiles(t *testing.T) {
	for _, tt := range []struct{ name, text string }{ // PATH is where the file is
		{"alone", "file:PATH"},
		{"in a list", "base64:eA==, file:PATH"},
		{"of a realm", "a=b,mine=file:PATH"},
		{"in a URL", "https://a.example http://b.example/?iss=me&key=file:PATH&verify-iss=you"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &mounted{dir: t.TempDir()}
			m.put(t, "first")
			text := strings.ReplaceAll(tt.text, "PATH", m.path())
			if strings.Contains(text, "://") {
				text = strings.ReplaceAll(tt.text, "PATH", url.QueryEscape(m.path()))
			}
			s, parsed := NewSource(), 0
			v, err := Follow(s, "KEY", text, func(got string) (string, error) {
				if parsed++; got != text {
					t.Errorf("got %q to parse, want %q", got, text)
				}
				held, err := m.read()
				if err != nil {
					return "", err
				}
				return upper(held)
			})
			must(t, err)
			s.Watch(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			result := func(name string) float64 { return number(t, s.metrics.reloads.WithLabelValues("KEY", name)) }
			for _, step := range []struct {
				put    string // ""; the file goes away
				want   string
				ok     float64
				failed float64
			}{
				{"second", "SECOND", 1, 0},
				{"no", "SECOND", 1, 1},
				{"second", "SECOND", 1, 1}, // the old one is back
				{"", "SECOND", 1, 2},
				{"third", "THIRD", 2, 2},
			} {
				if step.put == "" {
					must(t, os.Remove(filepath.Join(m.dir, "..data")))
				} else {
					m.put(t, step.put)
				}
				s.look(false)
				if s.look(false); v.Get() != step.want || result("ok") != step.ok || result("failed") != step.failed {
					t.Errorf("%q: got %s with %v reloads and %v failures, want %s, %v, %v", step.put, v.Get(), result("ok"), result("failed"), step.want, step.ok, step.failed)
				}
			}
			before := parsed
			if s.look(false); parsed != before {
				t.Error("parsed again though nothing has changed")
			}
			m.put(t, "fourth")
			if s.Reload(); v.Get() != "FOURTH" {
				t.Errorf("at once: got %s, want FOURTH", v.Get())
			}
		})
	}
}

// A secret that names no file has nothing to look at, and no metrics.
func TestNoNamedFiles(t *testing.T) {
	s, parsed := NewSource(), 0
	for _, text := range []string{"", "text", "a profile:x", "file:"} {
		_, err := Follow(s, "KEY "+text, text, func(string) (int, error) { parsed++; return 0, nil })
		must(t, err)
	}
	reg := prometheus.NewRegistry()
	s.Watch(slog.New(slog.DiscardHandler), reg)
	before := parsed
	s.look(false)
	s.Reload()
	if parsed > before+1 { // file: is parsed once more, to say what is wrong
		t.Errorf("parsed %d times more, want none", parsed-before)
	}
	all, err := reg.Gather()
	must(t, err)
	for _, family := range all {
		for _, m := range family.GetMetric() {
			if name := m.GetLabel()[0].GetValue(); name != "KEY file:" {
				t.Errorf("%s has %s, want none", name, family.GetName())
			}
		}
	}
}

func TestNothingToFollow(t *testing.T) {
	var s *Source
	v, err := Follow(s, "KEY", "first", upper)
	if err != nil || v.Get() != "FIRST" {
		t.Errorf("got %q, %v, want FIRST", v.Get(), err)
	}
	if _, err := Follow(s, "KEY", "", upper); err == nil {
		t.Error("got no error of the first text")
	}
	s.Reload()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Watch(nil, nil)(ctx); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	var none *Value[int]
	if got := none.Get(); got != 0 {
		t.Errorf("got %d, want 0", got)
	}
}
