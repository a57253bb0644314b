package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

// Streams of HTTP origins stand in the log with their channels, and what the
// origin says of subjects is not believed.
func TestAuditLogOfRoutes(t *testing.T) {
	a := newAPI(t, map[string]http.HandlerFunc{"/hold": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "fruit")
		w.Header().Set(grip.SubjectField, "somebody")
		w.Header().Set(grip.TopicsField, "secret")
	}, "/plain": func(http.ResponseWriter, *http.Request) {}})
	name := filepath.Join(t.TempDir(), "audit.jsonl")
	f := start(t, func(c *Config) {
		c.Routes, c.EventsPath, c.AuditLog = "*,id=api "+a.Listener.Addr().String(), "", name
	})
	f.get(t, "/plain").want("")
	held := f.get(t, "/hold?who=me")
	f.listening(t, "fruit", 1)
	lines := func() (all []auditLine) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var l auditLine
			if json.Unmarshal(line, &l) == nil { // else it is not whole
				all = append(all, l)
			}
		}
		return all
	}
	eventually(t, "the line that opens it", func() bool { return len(lines()) == 1 })
	f.publish(t, grip.Item{Channel: "fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	held.wantEnd("")
	eventually(t, "the line that closes it", func() bool { return len(lines()) == 2 })
	for i, want := range []auditLine{
		{Event: auditOpen, Transport: "stream", Address: "127.0.0.1", Route: "api", Topics: []string{"fruit"}},
		{Event: auditClose, Transport: "stream", Address: "127.0.0.1", Route: "api", Topics: []string{"fruit"}, Reason: closedByPublisher},
	} {
		got := lines()[i]
		if got.Event != want.Event || got.Transport != want.Transport || got.Address != want.Address || got.Route != want.Route ||
			!slices.Equal(got.Topics, want.Topics) || got.Reason != want.Reason || got.Subject != "" {
			t.Errorf("line %d: got %+v, want %+v", i, got, want)
		}
	}
	if l := lines(); l[0].ID != l[1].ID || l[0].ID == "" {
		t.Errorf("got ids %q and %q, want the same", l[0].ID, l[1].ID)
	}
	f.wantMetric(t, "spillway_audit_lines_total", nil, 2)
}

// A slowDisk takes nothing until it is told to.
type slowDisk struct {
	ready chan struct{}
	mu    sync.Mutex
	buf   bytes.Buffer
	err   error
}

func (d *slowDisk) Write(p []byte) (int, error) {
	<-d.ready
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return 0, d.err
	}
	return d.buf.Write(p)
}

// Nobody waits for a disk, and what there was no room for is counted in the log.
func TestAuditLogDrops(t *testing.T) {
	disk := &slowDisk{ready: make(chan struct{})}
	a, err := newAudit(&Config{AuditLog: "-"}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	a.out = disk
	a.start()
	const all = 3 * auditQueue
	for range all {
		a.add(auditLine{Event: auditOpen}) // hangs where somebody waits
	}
	close(disk.ready)
	a.finish()
	written, dropped := 0, int64(0)
	for line := range bytes.Lines(disk.buf.Bytes()) {
		var l auditLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		if dropped += l.Lines; l.Event == auditOpen {
			written++
		}
	}
	if dropped == 0 || int64(written)+dropped != all {
		t.Errorf("got %d lines, and %d told to be dropped, want %d together", written, dropped, all)
	}
}

func TestAuditLogThatCannotBeWritten(t *testing.T) {
	var log bytes.Buffer
	disk := &slowDisk{ready: make(chan struct{}), err: errors.New("disk full")}
	close(disk.ready)
	a, err := newAudit(&Config{AuditLog: "stderr"}, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	a.out = disk
	a.start()
	for range 3 {
		a.add(auditLine{Event: auditOpen})
	}
	eventually(t, "three lines are missing", func() bool { return a.missed.Load() >= 3 })
	disk.mu.Lock()
	disk.err = nil
	disk.mu.Unlock()
	a.add(auditLine{Event: auditClose})
	a.finish()
	if got := disk.buf.String(); !strings.Contains(got, `"event":"dropped","lines":`) || !strings.Contains(got, `"event":"close"`) {
		t.Errorf("got %s, want the close, and what was dropped", got)
	}
	if n := strings.Count(log.String(), "audit log not written"); n != 1 {
		t.Errorf("logged %d times, want once: %s", n, log.String())
	}

	if _, err := newAudit(&Config{AuditLog: filepath.Join(t.TempDir(), "no", "folder")}, nil, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "AUDIT_LOG: open ") {
		t.Errorf("got %v, want AUDIT_LOG: open …", err)
	}
}
