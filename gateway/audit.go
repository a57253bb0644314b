package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// auditQueue bounds the lines that wait to be written: of more, AUDIT_LOG says
// how many there were. Nobody ever waits for a disk.
const auditQueue = 8192

// An auditEvent is what happened.
type auditEvent string

const (
	auditOpen      auditEvent = "open"      // a stream or WebSocket began
	auditSubscribe auditEvent = "subscribe" // a message of a WebSocket asked for more topics
	auditRead      auditEvent = "read"      // a long poll
	auditClose     auditEvent = "close"     // what was opened has ended
	auditDropped   auditEvent = "dropped"   // lines that there was no room for
)

// An auditLine is one line of AUDIT_LOG. It holds nothing that a record says and
// nothing that lets anybody in.
type auditLine struct {
	Time      time.Time  `json:"time"`
	Event     auditEvent `json:"event"`
	ID        string     `json:"id,omitempty"` // of the connection, as GET /connections has it
	Transport string     `json:"transport,omitempty"`
	Address   string     `json:"address,omitempty"`
	Subject   string     `json:"subject,omitempty"` // "": nobody says
	Route     string     `json:"route,omitempty"`
	Topics    []string   `json:"topics,omitempty"` // of EVENTS_PATH; of other routes the channels

	// Of what was opened and has ended.
	Reason  closeReason `json:"reason,omitempty"`
	Seconds *float64    `json:"seconds,omitempty"`
	Bytes   *uint64     `json:"bytes,omitempty"`

	Lines int64 `json:"lines,omitempty"` // of auditDropped
}

// An audit writes AUDIT_LOG. Nil writes nothing.
type audit struct {
	name    string // of the file; "": standard error
	log     *slog.Logger
	queue   chan auditLine
	done    chan struct{}  // closed when no more lines come
	running sync.WaitGroup // run
	missed  atomic.Int64   // lines that were dropped and not told of yet
	written prometheus.Counter
	dropped prometheus.Counter

	mu     sync.Mutex
	out    io.Writer // guarded by mu
	failed bool      // the last write did; guarded by mu
}

// newAudit opens AUDIT_LOG; nil if there is none.
func newAudit(cfg *Config, log *slog.Logger, reg prometheus.Registerer) (*audit, error) {
	with := promauto.With(reg)
	a := &audit{
		log: log, queue: make(chan auditLine, auditQueue), done: make(chan struct{}), out: os.Stderr,
		written: with.NewCounter(prometheus.CounterOpts{Name: "spillway_audit_lines_total", Help: "Lines written to AUDIT_LOG."}),
		dropped: with.NewCounter(prometheus.CounterOpts{Name: "spillway_audit_dropped_total",
			Help: "Lines missing in AUDIT_LOG, since it could not be written, or not as fast as they came."}),
	}
	switch cfg.AuditLog {
	case "":
		return nil, nil
	case "-", "stderr":
		return a, nil
	}
	a.name = cfg.AuditLog
	return a, a.reopen()
}

// reopen opens the file by its name, which may be another one now.
func (a *audit) reopen() error {
	if a == nil || a.name == "" {
		return nil
	}
	f, err := os.OpenFile(a.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("AUDIT_LOG: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.out
	a.out, a.failed = f, false
	if old, ok := old.(*os.File); ok && old != os.Stderr {
		_ = old.Close() // every line was written by a call of its own
	}
	return nil
}

// ReopenAudit opens AUDIT_LOG again, which somebody may have moved away. Where that
// is not possible, the old file is written on.
func (g *Gateway) ReopenAudit() {
	if err := g.audit.reopen(); err != nil {
		g.log.Error("audit log not opened again; the old file is written on", "err", err)
	}
}

// add writes a line soon. It never waits.
func (a *audit) add(l auditLine) {
	l.Time = time.Now().UTC()
	select {
	case a.queue <- l:
	default:
		a.missed.Add(1)
		a.dropped.Inc()
	}
}

// start begins to write. finish ends it.
func (a *audit) start() {
	if a != nil {
		a.running.Go(a.run)
	}
}

// finish writes what is left.
func (a *audit) finish() {
	if a != nil {
		close(a.done)
		a.running.Wait()
	}
}

// run writes until done is closed, and then what is left.
func (a *audit) run() {
	var buf bytes.Buffer
	for more := true; more; {
		buf.Reset()
		n := 0
		select {
		case l := <-a.queue:
			n += appendLine(&buf, l)
		case <-a.done:
			more = false
		}
		for waits := true; waits && buf.Len() < 64<<10; {
			select {
			case l := <-a.queue:
				n += appendLine(&buf, l)
			default:
				waits = false
			}
		}
		more = more || len(a.queue) > 0
		missed := a.missed.Swap(0)
		if missed > 0 {
			appendLine(&buf, auditLine{Time: time.Now().UTC(), Event: auditDropped, Lines: missed})
		}
		if buf.Len() > 0 && !a.write(buf.Bytes(), n) {
			a.missed.Add(missed + int64(n))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if f, ok := a.out.(*os.File); ok && f != os.Stderr {
		_ = f.Close()
	}
}

func appendLine(buf *bytes.Buffer, l auditLine) int {
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		panic("gateway: marshal a line of the audit log: " + err.Error()) // texts, numbers and times of now
	}
	return 1
}

// write writes n whole lines. Where it cannot it reports false, and they are gone.
func (a *audit) write(lines []byte, n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.out.Write(lines); err != nil {
		a.dropped.Add(float64(n))
		if !a.failed && !errors.Is(err, os.ErrClosed) {
			a.log.Error("audit log not written", "err", err)
		}
		a.failed = true
		return false
	}
	a.failed = false
	a.written.Add(float64(n))
	return true
}

// told is who reads which topics, as the origin in this process says it.
type told struct {
	subject string
	topics  []string
}

// takeTold takes it out of an answer; nil where there is nothing, or the answer
// let nobody read.
func (g *Gateway) takeTold(status int, h http.Header) (t *told) {
	if topics := h[grip.TopicsField]; (g.audit != nil || g.limits.mostPerSubject > 0) && status == http.StatusOK && len(topics) > 0 {
		t = &told{topics: topics}
		if subject := h[grip.SubjectField]; len(subject) > 0 {
			t.subject = subject[0]
		}
	}
	delete(h, grip.TopicsField)
	delete(h, grip.SubjectField)
	return t
}

// An audited is a connection that AUDIT_LOG has as open.
type audited struct {
	audit *audit
	line  auditLine // what all lines of it say
}

// auditOpened notes that a connection was opened, and returns it; nil where there
// is no AUDIT_LOG. attach is what it begins with.
func (g *Gateway) auditOpened(r *http.Request, as transport, conn *fanout.Conn, from source, t *told, attach []fanout.Want) *audited {
	if g.audit == nil {
		return nil
	}
	c := &audited{audit: g.audit, line: auditLine{
		ID: strconv.FormatUint(conn.ID(), 10), Transport: transportNames[as], Address: g.auditAddress(r), Route: g.routeOf(from),
	}}
	switch {
	case t != nil:
		c.line.Subject, c.line.Topics = t.subject, t.topics
	case !from.local():
		for _, want := range attach {
			c.line.Topics = append(c.line.Topics, want.Channel)
		}
	}
	c.add(auditOpen, nil)
	return c
}

func (c *audited) add(e auditEvent, change func(*auditLine)) {
	l := c.line
	l.Event = e
	if change != nil {
		change(&l)
	}
	c.audit.add(l)
}

// subscribed notes that a WebSocket reads more topics.
func (c *audited) subscribed(t *told) {
	if c != nil && t != nil {
		c.add(auditSubscribe, func(l *auditLine) { l.Subject, l.Topics = t.subject, t.topics })
	}
}

// closed notes that the connection has ended.
func (c *audited) closed(why closeReason, conn *fanout.Conn) {
	if c == nil {
		return
	}
	sent, since := conn.Sent()
	seconds := max(time.Since(since).Round(time.Millisecond).Seconds(), 0)
	c.add(auditClose, func(l *auditLine) { l.Reason, l.Seconds, l.Bytes = why, &seconds, &sent })
}

// auditRead notes a long poll of the origin in this process.
func (g *Gateway) auditRead(r *http.Request, from source, t *told) {
	if t != nil && g.audit != nil {
		g.audit.add(auditLine{Event: auditRead, Transport: transportNames[byPoll], Address: g.auditAddress(r), Subject: t.subject, Route: g.routeOf(from), Topics: t.topics})
	}
}

func (g *Gateway) auditAddress(r *http.Request) string {
	if a := senderAddress(r, g.trusted); a.IsValid() {
		return a.String()
	}
	return ""
}
