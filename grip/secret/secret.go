// Package secret keeps what secrets of the configuration stand for, while the
// files that they were read from change.
//
// A part that needs a secret asks [Follow] for it when it is made, and the
// [Value] that it gets for what is in force whenever it uses it. Where secrets
// come from is the program's business: it tells the [Source], watches, and gives
// the same Source to all parts.
package secret

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A Value is what a secret stands for now, such as a key. Get is safe for
// concurrent use, and costs one atomic load.
type Value[T any] struct{ now atomic.Pointer[T] }

// Fixed returns a Value that does not change.
func Fixed[T any](v T) *Value[T] {
	f := new(Value[T])
	f.now.Store(&v)
	return f
}

// Get returns what is in force. A nil Value has the zero T.
func (v *Value[T]) Get() (t T) {
	if v == nil {
		return t
	}
	return *v.now.Load()
}

// Follow returns what parse makes of a secret: of text at once, which may be
// empty where the variable called name is not set, and of each later text that s
// reads, which never is. It is parsed again, too, when a file changes that the
// text names (file:PATH). What parse refuses then is logged, and the old value
// stays; so its errors must not show the text. Call it before Watch.
func Follow[T any](s *Source, name, text string, parse func(text string) (T, error)) (*Value[T], error) {
	before := contentOf(text) // what changes while it is parsed is parsed again
	first, err := parse(text)
	if err != nil {
		return nil, err
	}
	v := Fixed(first)
	s.follow(name, before, func(text string) (func(), error) {
		next, err := parse(text)
		return func() { v.now.Store(&next) }, err
	})
	return v, nil
}

// A Source is where secrets come from that may change: one file each, or those
// that their texts name. A nil Source has none.
type Source struct {
	reading sync.Mutex // one reads at a time

	mu      sync.Mutex
	secrets map[string]*followed // by name; guarded by mu
	log     *slog.Logger         // guarded by mu; nil before Watch
	metrics metrics              // the same
}

// NewSource returns a Source without secrets.
func NewSource() *Source { return &Source{secrets: make(map[string]*followed)} }

// followed is one secret. What changes belongs to who holds Source.reading.
type followed struct {
	name    string
	read    func() (string, error)                // nil: there is no file
	takers  []func(string) (take func(), _ error) // guarded by Source.mu
	now     content                               // in force
	last    content                               // when it was looked at last
	refused bool                                  // what last holds, or that there is no file, was said
}

// mayChange reports whether there are files to look at.
func (f *followed) mayChange() bool { return f.read != nil || f.now.named != none }

// A content is the text of a secret, and what the files hold that it names.
type content struct {
	text  string
	named [sha256.Size]byte
}

var none = sha256.Sum256(nil) // no file is named

// namesFile finds the paths of files in keys as package grip reads them: alone,
// in lists, of realms, and in URLs. Something that is none can do no harm: all
// that comes of it is when a text is parsed again.
var namesFile = regexp.MustCompile(`(?:^|[\s,=])file:([^\s,&]+)`)

// maxNamedBytes bounds what is looked at of a named file.
const maxNamedBytes = 1 << 20

func contentOf(text string) content {
	var paths []string
	if whole, ok := strings.CutPrefix(text, "file:"); ok {
		paths = append(paths, whole) // which may have blanks and commas in it
	}
	for _, found := range namesFile.FindAllStringSubmatch(text, -1) {
		path := found[1]
		if unescaped, err := url.PathUnescape(path); err == nil && strings.Contains(text, "://") {
			path = unescaped
		}
		paths = append(paths, path)
	}
	all := sha256.New()
	for _, path := range slices.Compact(paths) {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxNamedBytes {
			fmt.Fprintf(all, "%s: cannot be read\n", path) // parse says why
			continue
		}
		held, err := os.ReadFile(path)
		fmt.Fprintf(all, "%s: %v %d %s\n", path, err, len(held), held)
	}
	c := content{text: text}
	all.Sum(c.named[:0])
	return c
}

// A metrics tells of secrets that have files.
type metrics struct {
	reloads *prometheus.CounterVec // by name and result
	good    *prometheus.GaugeVec   // by name
	changed *prometheus.GaugeVec   // by name
}

// Add tells that text is what read returned for the variable called name.
// Nobody has to follow it.
func (s *Source) Add(name, text string, read func() (string, error)) {
	f := s.of(name)
	f.read, f.now = read, contentOf(text)
	f.last = f.now
}

func (s *Source) of(name string) *followed {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.secrets[name]
	if f == nil {
		f = &followed{name: name}
		s.secrets[name] = f
	}
	return f
}

func (s *Source) follow(name string, before content, taker func(string) (func(), error)) {
	if s == nil {
		return
	}
	f := s.of(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(f.takers) == 0 {
		f.now, f.last = before, before
	}
	f.takers = append(f.takers, taker)
}

// poll is how often files are looked at. A mounted Secret changes by a link to
// another folder, of which change notifications say nothing.
const poll = 500 * time.Millisecond

// Watch registers the metrics, and returns what looks at the files until its
// context ends. A file counts when it has held the same for two looks: half a
// secret is one, too.
func (s *Source) Watch(log *slog.Logger, reg prometheus.Registerer) (run func(context.Context) error) {
	if s == nil {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }
	}
	with := promauto.With(reg)
	m := metrics{
		reloads: with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_secret_reloads_total",
			Help: "Times the changed file of a secret was read, by variable and result: ok, failed."}, []string{"name", "result"}),
		good: with.NewGaugeVec(prometheus.GaugeOpts{Name: "spillway_secret_last_reload_successful",
			Help: "1 while a secret is what its file holds, 0 while that cannot be used and an older one is in force."}, []string{"name"}),
		changed: with.NewGaugeVec(prometheus.GaugeOpts{Name: "spillway_secret_last_change_timestamp_seconds",
			Help: "When the secret in force was read from its file, in seconds since 1970."}, []string{"name"}),
	}
	s.mu.Lock()
	s.log, s.metrics = log, m
	for _, f := range s.secrets {
		if len(f.takers) > 0 && f.mayChange() {
			m.reloads.WithLabelValues(f.name, "ok")
			m.reloads.WithLabelValues(f.name, "failed")
			m.good.WithLabelValues(f.name).Set(1)
			m.changed.WithLabelValues(f.name).SetToCurrentTime()
		}
	}
	s.mu.Unlock()
	return s.run
}

func (s *Source) run(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.look(false)
		}
	}
}

// Reload reads all files at once, and has their secrets parsed again. Call it
// after Watch.
func (s *Source) Reload() {
	if s != nil {
		s.look(true)
	}
}

// look reads the files. What has changed is taken when it is at rest, or at once.
func (s *Source) look(atOnce bool) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.mu.Lock()
	all := make([]*followed, 0, len(s.secrets))
	for _, f := range s.secrets {
		if len(f.takers) > 0 {
			all = append(all, f)
		}
	}
	s.mu.Unlock()
	for _, f := range all {
		s.lookAt(f, atOnce)
	}
}

var errEmpty = errors.New("its file is empty")

func (s *Source) lookAt(f *followed, atOnce bool) {
	if !f.mayChange() {
		return
	}
	text := f.now.text
	if f.read != nil {
		var err error
		if text, err = f.read(); err != nil {
			s.refuse(f, err)
			f.last = f.now // whatever comes next is new
			return
		}
	}
	found := contentOf(text)
	switch {
	case found == f.now && !atOnce:
		if f.refused { // somebody put the old one back
			f.refused = false
			s.metrics.good.WithLabelValues(f.name).Set(1)
		}
		f.last = found
		return
	case found != f.last:
		f.last, f.refused = found, false
		if !atOnce {
			return // it may not be whole
		}
	case f.refused && !atOnce:
		return
	}
	var err error
	if text == "" && f.read != nil {
		err = errEmpty // taken, it could open what the old one kept shut
	} else {
		err = f.take(text)
	}
	if err != nil {
		s.refuse(f, err)
		return
	}
	changed := found != f.now
	f.now, f.last, f.refused = found, found, false
	s.metrics.good.WithLabelValues(f.name).Set(1)
	if changed {
		s.metrics.reloads.WithLabelValues(f.name, "ok").Inc()
		s.metrics.changed.WithLabelValues(f.name).SetToCurrentTime()
		s.log.Info("secret read again", "name", f.name)
	}
}

// refuse says once why the old secret stays.
func (s *Source) refuse(f *followed, err error) {
	if f.refused {
		return
	}
	f.refused = true
	s.metrics.reloads.WithLabelValues(f.name, "failed").Inc()
	s.metrics.good.WithLabelValues(f.name).Set(0)
	s.log.Error("secret not read again; the old one stays", "name", f.name, "err", err)
}

// take gives the text to all that follow the secret, or to none.
func (f *followed) take(text string) error {
	var take []func()
	for _, t := range f.takers {
		do, err := t(text)
		if err != nil {
			return err
		}
		take = append(take, do)
	}
	for _, do := range take {
		do()
	}
	return nil
}
