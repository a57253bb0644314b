package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

// Streams of HTTP origins stand in the log with their channels, and what the
// origin says of subjects is not believed.
func TestAuditLogOfRoutes(t *testing.T) {
	var asked atomic.Bool
	a := newAPI(t, map[string]http.HandlerFunc{"/hold": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "fruit")
		w.Header().Set(grip.SubjectField, "somebody")
		w.Header().Set(grip.TopicsField, "secret")
	}, "/poll": func(w http.ResponseWriter, _ *http.Request) {
		if !asked.Swap(true) {
			w.Header().Set("Grip-Hold", "response")
			w.Header().Set("Grip-Channel", "jobs")
		}
	}, "/plain": func(http.ResponseWriter, *http.Request) {}})
	name := filepath.Join(t.TempDir(), "audit.jsonl")
	f := start(t, func(c *Config) {
		c.Routes, c.EventsPath, c.AuditLog, c.MaxConnections = "*,id=api,prefix=p- "+a.Listener.Addr().String(), "", name, 1
	})
	f.get(t, "/plain").want("")
	held := f.get(t, "/hold?who=me")
	f.listening(t, "p-fruit", 1)
	lines := func() []auditLine { return auditLines(t, name) }
	eventually(t, "the line that opens it", func() bool { return len(lines()) == 1 })
	if resp := f.get(t, "/hold").resp; resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more than there may be: got %s", resp.Status)
	}
	f.publish(t, grip.Item{Channel: "p-fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	held.wantEnd("")
	eventually(t, "room", func() bool { return f.metric(t, "spillway_connections", prometheus.Labels{"transport": "stream"}) == 0 })
	poll := f.call(t)
	poll.say("GET /poll HTTP/1.1\r\nHost: x\r\n\r\n") // it is made once more, which is no other
	f.listening(t, "p-jobs", 1)
	f.publish(t, grip.Item{Channel: "p-jobs", ID: "1", HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint}})
	poll.wantAnswer("GET", 200, "")
	eventually(t, "all lines", func() bool { return len(lines()) == 4 })
	for i, want := range []auditLine{
		{Event: auditOpen, Transport: "stream", Address: "127.0.0.1", Route: "api", Topics: []string{"p-fruit"}},
		{Event: auditRefuse, Transport: "request", Address: "127.0.0.1", Route: "api", Reason: string(refusedTotal)},
		{Event: auditClose, Transport: "stream", Address: "127.0.0.1", Route: "api", Topics: []string{"p-fruit"}, Reason: string(closedByPublisher)},
		{Event: auditRead, Transport: "poll", Address: "127.0.0.1", Route: "api", Topics: []string{"p-jobs"}},
	} {
		got := lines()[i]
		if got.Event != want.Event || got.Transport != want.Transport || got.Address != want.Address || got.Route != want.Route ||
			!slices.Equal(got.Topics, want.Topics) || got.Reason != want.Reason || got.Subject != "" {
			t.Errorf("line %d: got %+v, want %+v", i, got, want)
		}
	}
	if l := lines(); l[0].ID != l[2].ID || l[0].ID == "" {
		t.Errorf("got ids %q and %q, want the same", l[0].ID, l[2].ID)
	}
	f.wantMetric(t, "spillway_audit_lines_total", nil, 4)
}

// auditLines reads what is whole of a log.
func auditLines(t *testing.T, name string) (all []auditLine) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var l auditLine
		if json.Unmarshal(line, &l) == nil {
			all = append(all, l)
		}
	}
	return all
}

// Who is refused again and again fills no disk.
func TestAuditLogRefusalRate(t *testing.T) {
	var out bytes.Buffer
	reg := prometheus.NewRegistry()
	a, err := newAudit(&Config{AuditLog: "-", AuditRefusalRate: 1}, slog.New(slog.DiscardHandler), reg)
	if err != nil {
		t.Fatal(err)
	}
	a.out = &out
	g := &Gateway{audit: a}
	r := httptest.NewRequest(http.MethodGet, "/events/x/", nil)
	a.start()
	const all = 100_000
	for range all {
		g.auditRefusal(r, true, nil, &told{refused: "unauthorized"})
	}
	a.add(auditLine{Event: auditOpen}) // is no refusal
	a.finish()
	refused, opened, beyond := 0, 0, int64(0)
	for line := range bytes.Lines(out.Bytes()) {
		var l auditLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		switch l.Event {
		case auditRefuse:
			refused++
		case auditOpen:
			opened++
		case auditDropped:
			beyond += l.Lines
			if l.Reason != droppedRate {
				t.Errorf("got %+v, want lines dropped for their rate", l)
			}
		}
	}
	if opened != 1 || refused < 10 || refused > all/10 || int64(refused)+beyond != all {
		t.Errorf("got %d opened, %d refused and %d more, want 1, a few, and %d together", opened, refused, beyond, all)
	}
	(&fixture{reg: reg}).wantMetric(t, "spillway_audit_refusals_dropped_total", nil, float64(beyond))
}

// A tightDisk has room for so many bytes.
type tightDisk struct {
	bytes.Buffer
	room int
}

func (d *tightDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

// A disk that is full takes half of a line: what comes next begins a new one.
func TestAuditLogOnFullDisk(t *testing.T) {
	reg := prometheus.NewRegistry()
	a, err := newAudit(&Config{AuditLog: "-"}, slog.New(slog.DiscardHandler), reg)
	if err != nil {
		t.Fatal(err)
	}
	const line = `{"event":"open"}` + "\n"
	disk := &tightDisk{room: 2*len(line) + 5}
	a.out = disk
	if lost, ok := a.write([]byte(strings.Repeat(line, 4)), 4); lost != 2 || ok {
		t.Errorf("got %d lost and %t, want 2 and false", lost, ok)
	}
	if lost, ok := a.write([]byte(line), 1); lost != 1 || ok {
		t.Errorf("got %d lost and %t, want 1 and false", lost, ok)
	}
	disk.room = 1000
	if lost, ok := a.write([]byte(line+line), 2); lost != 0 || !ok {
		t.Errorf("got %d lost and %t, want none and true", lost, ok)
	}
	if got, want := disk.String(), line+line+line[:5]+"\n"+line+line; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f := &fixture{reg: reg}
	f.wantMetric(t, "spillway_audit_lines_total", nil, 4)
	f.wantMetric(t, "spillway_audit_dropped_total", nil, 3)
}

// Files are moved away, cut off in place, and not to be had for a while.
func TestAuditLogIsRotated(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(folder, "audit.jsonl")
	if err := os.WriteFile(name, []byte(`{"event":"op`), 0o600); err != nil { // the disk was full once
		t.Fatal(err)
	}
	a, err := newAudit(&Config{AuditLog: name}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	a.start()
	defer a.finish()
	n := 0
	add := func(name string, want int) {
		t.Helper()
		n++
		id := strconv.Itoa(n)
		a.add(auditLine{Event: auditOpen, ID: id})
		eventually(t, "line "+id+" of "+name, func() bool {
			l := auditLines(t, name)
			return len(l) == want && l[want-1].ID == id
		})
	}
	add(name, 1)

	// copytruncate
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	add(name, 1)
	if b, _ := os.ReadFile(name); len(b) == 0 || b[0] != '{' {
		t.Errorf("got %q, want a line at the beginning", b)
	}

	// Without a signal the file is the same by another name.
	moved := name + ".1"
	if err := os.Rename(name, moved); err != nil {
		t.Fatal(err)
	}
	add(moved, 2)
	if err := a.reopen(); err != nil {
		t.Fatal(err)
	}
	add(name, 1)

	// Where there is no new one, the old one goes on.
	if err := os.Rename(folder, folder+".away"); err != nil {
		t.Fatal(err)
	}
	if err := a.reopen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want that there is no such folder", err)
	}
	add(filepath.Join(folder+".away", "audit.jsonl"), 2)
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
	if got := disk.buf.String(); !strings.Contains(got, `"event":"dropped","reason":"room","lines":3`) || !strings.Contains(got, `"event":"close"`) {
		t.Errorf("got %s, want the close, and what was dropped", got)
	}
	if n := strings.Count(log.String(), "audit log not written"); n != 1 {
		t.Errorf("logged %d times, want once: %s", n, log.String())
	}

	if _, err := newAudit(&Config{AuditLog: filepath.Join(t.TempDir(), "no", "folder")}, nil, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "AUDIT_LOG: open ") {
		t.Errorf("got %v, want AUDIT_LOG: open …", err)
	}
}
