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
	"golang.org/x/time/rate"

	"spillway/gateway/fanout"
	"spillway/gateway/route"
	"spillway/grip"
)

// auditQueue bounds the lines that wait to be written: of more, AUDIT_LOG says
// how many there were. Nobody ever waits for a disk.
const auditQueue = 8192

// An auditEvent is what happened.
type auditEvent string

const (
	auditOpen        auditEvent = "open"        // a stream or WebSocket began
	auditSubscribe   auditEvent = "subscribe"   // a WebSocket reads more topics
	auditUnsubscribe auditEvent = "unsubscribe" // it does not any more, and goes on
	auditRead        auditEvent = "read"        // a long poll
	auditRefuse      auditEvent = "refuse"      // a request, or a message of a WebSocket, was turned away
	auditClose       auditEvent = "close"       // what was opened has ended
	auditDropped     auditEvent = "dropped"     // lines that are missing
)

// Why lines are missing.
const (
	droppedRoom = "room" // they came faster than they could be written, or could not be
	droppedRate = "rate" // refusals beyond AUDIT_REFUSAL_RATE
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

	// Reason is a closeReason, or a refusal, or a word of the origin in this process.
	Reason string `json:"reason,omitempty"`
	// Code is why that origin ended what was opened, as the client was told.
	Code string `json:"code,omitempty"`

	// Of what was opened and has ended.
	Seconds *float64 `json:"seconds,omitempty"`
	Bytes   *uint64  `json:"bytes,omitempty"`

	Lines int64 `json:"lines,omitempty"` // of auditDropped
}

// An audit writes AUDIT_LOG. Nil writes nothing.
type audit struct {
	name     string // of the file; "": standard error
	log      *slog.Logger
	queue    chan auditLine
	done     chan struct{}  // closed when no more lines come
	running  sync.WaitGroup // run
	refusals *rate.Limiter  // nil: any number
	missed   atomic.Int64   // lines that were dropped and not told of yet
	spared   atomic.Int64   // the same of refusals beyond their rate
	written  prometheus.Counter
	dropped  prometheus.Counter
	beyond   prometheus.Counter

	mu     sync.Mutex
	out    io.Writer // guarded by mu
	failed bool      // the last write did; guarded by mu
	torn   bool      // what was written ends within a line; guarded by mu
}

// newAudit opens AUDIT_LOG; nil if there is none.
func newAudit(cfg *Config, log *slog.Logger, reg prometheus.Registerer) (*audit, error) {
	with := promauto.With(reg)
	a := &audit{
		log: log, queue: make(chan auditLine, auditQueue), done: make(chan struct{}), out: os.Stderr,
		written: with.NewCounter(prometheus.CounterOpts{Name: "spillway_audit_lines_total", Help: "Lines written to AUDIT_LOG."}),
		dropped: with.NewCounter(prometheus.CounterOpts{Name: "spillway_audit_dropped_total",
			Help: "Lines missing in AUDIT_LOG, since it could not be written, or not as fast as they came."}),
		beyond: with.NewCounter(prometheus.CounterOpts{Name: "spillway_audit_refusals_dropped_total",
			Help: "Refusals missing in AUDIT_LOG, since there were more than AUDIT_REFUSAL_RATE."}),
	}
	if most := cfg.AuditRefusalRate; most > 0 {
		a.refusals = rate.NewLimiter(rate.Limit(most), 10*most)
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
	torn := endsWithinLine(a.name)
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.out
	a.out, a.failed, a.torn = f, false, torn
	if old, ok := old.(*os.File); ok && old != os.Stderr {
		_ = old.Close() // every line was written by a call of its own
	}
	return nil
}

// endsWithinLine reports whether a disk was full, or a machine lost its power, in the
// midst of a line of a file.
func endsWithinLine(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	last := make([]byte, 1)
	_, err = f.ReadAt(last, info.Size()-1)
	return err == nil && last[0] != '\n'
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
		missed, spared := a.missed.Swap(0), a.spared.Swap(0)
		appendDropped(&buf, droppedRoom, missed)
		appendDropped(&buf, droppedRate, spared)
		if buf.Len() == 0 {
			continue
		}
		if lost, ok := a.write(buf.Bytes(), n); !ok {
			a.missed.Add(missed + int64(lost))
			a.spared.Add(spared)
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

func appendDropped(buf *bytes.Buffer, why string, n int64) {
	if n > 0 {
		appendLine(buf, auditLine{Time: time.Now().UTC(), Event: auditDropped, Reason: why, Lines: n})
	}
}

// write writes whole lines, of which the first n count. Where it cannot write all, ok
// is false, and those that are lost are gone.
func (a *audit) write(lines []byte, n int) (lost int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	whole := 0
	if a.torn {
		lines = append([]byte("\n"), lines...)
		whole = -1
	}
	count, err := a.out.Write(lines)
	if count > 0 {
		a.torn = lines[count-1] != '\n'
		whole += bytes.Count(lines[:count], []byte("\n"))
	}
	lost = n - min(max(whole, 0), n)
	a.written.Add(float64(n - lost))
	a.dropped.Add(float64(lost))
	if err != nil && !a.failed && !errors.Is(err, os.ErrClosed) {
		a.log.Error("audit log not written", "err", err)
	}
	a.failed = err != nil
	return lost, err == nil
}

// told is who reads which topics, or may not, as the origin in this process says it.
type told struct {
	subject string
	topics  []string
	refused string // why; "": they read
}

// why is "" where nobody was refused.
func (t *told) why() string {
	if t == nil {
		return ""
	}
	return t.refused
}

// takeTold takes it out of an answer: who reads by it, or may not. Both are nil where
// there is nothing of the kind.
func (g *Gateway) takeTold(status int, h http.Header) (reads, refused *told) {
	topics, subject, why := h[grip.TopicsField], h[grip.SubjectField], h[grip.RefusedField]
	delete(h, grip.TopicsField)
	delete(h, grip.SubjectField)
	delete(h, grip.RefusedField)
	if g.audit == nil && g.limits.mostPerSubject == 0 || len(topics) == 0 && len(why) == 0 {
		return nil, nil
	}
	t := &told{topics: topics}
	if len(subject) > 0 {
		t.subject = subject[0]
	}
	switch {
	case len(why) > 0:
		t.refused = why[0]
		return nil, t
	case status == http.StatusOK:
		return t, nil
	}
	return nil, nil
}

// toldChannels is who reads by an HTTP origin: nobody says who, and the channels are
// what is read. It is nil where there is no AUDIT_LOG.
func (g *Gateway) toldChannels(attach []fanout.Want) *told {
	if g.audit == nil || len(attach) == 0 {
		return nil
	}
	t := new(told)
	for _, want := range attach {
		t.topics = append(t.topics, want.Channel)
	}
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
	if t == nil && !from.local() {
		t = g.toldChannels(attach)
	}
	if t != nil {
		c.line.Subject, c.line.Topics = t.subject, t.topics
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

// unsubscribed notes that it does not read them any more.
func (c *audited) unsubscribed(t *told, why ending) {
	if c != nil && t != nil {
		c.add(auditUnsubscribe, func(l *auditLine) {
			l.Subject, l.Topics, l.Reason, l.Code = t.subject, t.topics, string(why.reason), why.says
		})
	}
}

// refused notes that a message of a WebSocket was turned away.
func (c *audited) refused(t *told) {
	if c != nil && t != nil && c.audit.mayRefuse() {
		c.add(auditRefuse, func(l *auditLine) { l.Topics, l.Reason = t.topics, t.refused })
	}
}

// closed notes that the connection has ended.
func (c *audited) closed(why ending, conn *fanout.Conn) {
	if c == nil {
		return
	}
	sent, since := conn.Sent()
	seconds := max(time.Since(since).Round(time.Millisecond).Seconds(), 0)
	c.add(auditClose, func(l *auditLine) {
		l.Reason, l.Code, l.Seconds, l.Bytes = string(why.reason), why.says, &seconds, &sent
	})
}

// mayRefuse reports whether there may be one more line of a refusal now.
func (a *audit) mayRefuse() bool {
	if a.refusals == nil || a.refusals.Allow() {
		return true
	}
	a.spared.Add(1)
	a.beyond.Inc()
	return false
}

// auditRefusal notes that a request was turned away: of the origin in this process
// (local), or of a route, which may be nil: there is none.
func (g *Gateway) auditRefusal(r *http.Request, local bool, rt *route.Route, t *told) {
	if g.audit == nil || t == nil || !g.audit.mayRefuse() {
		return
	}
	l := auditLine{Event: auditRefuse, Transport: transportNames[byRequest], Address: g.auditAddress(r), Subject: t.subject, Topics: t.topics, Reason: t.refused}
	if isWebSocket(r) {
		l.Transport = transportNames[byWebSocket]
	}
	if local || rt != nil {
		l.Route = g.nameOf(rt)
	}
	g.audit.add(l)
}

// auditRead notes a long poll.
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
