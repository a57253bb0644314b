// Package sockjs speaks SockJS with browsers (GRIP reference, 10.3): WebSockets for
// where there are none, over requests that are held open. What is behind a session
// is a WebSocket, opened by the caller; this package knows nothing of origins.
//
// Sessions that are polled live in a table, and have a goroutine each, which
// listens to the WebSocket. A session over a WebSocket lives in its handler.
//
// Start at Server.Serve.
package sockjs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/net/http/httpguts"
)

// Config is how a Server treats its clients.
type Config struct {
	URL           string        // of the client's script, for pages that load it in a frame
	Heartbeat     time.Duration // how long a client hears nothing at most
	Timeout       time.Duration // how long a session without a request lasts
	ResponseBytes int           // of a stream, after which the client comes again
	BufferBytes   int           // what may wait for a client; beyond it nothing is taken from the WebSocket
	SendBytes     int           // of what a client may send at once
	WriteTimeout  time.Duration // how long either side may take nothing
}

// A Server has the sessions. All methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	spawn   func(func(context.Context))
	metrics metrics
	page    []byte // for frames
	tag     string // of page

	mu       sync.Mutex
	sessions map[string]*session // guarded by mu
}

// An ending is why a session ended; it is a metric label.
type ending string

const (
	endedByOrigin ending = "origin"      // the WebSocket was closed, or broke off
	endedByClient ending = "client"      // the client closed its WebSocket
	endedAlone    ending = "timeout"     // no request came for the time that it may take
	endedBroken   ending = "interrupted" // a request broke off
	endedRefused  ending = "refused"     // the origin did not want it
)

type metrics struct {
	sessions prometheus.Gauge
	waiting  prometheus.Gauge
	ended    map[ending]prometheus.Counter
}

// New returns a Server without sessions. spawn starts a goroutine that the caller
// waits for: it ends with its session's WebSocket, or with the context that it is
// given.
func New(cfg Config, spawn func(func(context.Context)), log *slog.Logger, reg prometheus.Registerer) *Server {
	with := promauto.With(reg)
	s := &Server{cfg: cfg, log: log, spawn: spawn, sessions: make(map[string]*session), metrics: metrics{
		sessions: with.NewGauge(prometheus.GaugeOpts{Name: "spillway_sockjs_sessions",
			Help: "Sessions of SockJS whose WebSocket to the origin is open."}),
		waiting: with.NewGauge(prometheus.GaugeOpts{Name: "spillway_sockjs_waiting_bytes",
			Help: "Messages that wait for the next request of their SockJS session."}),
		ended: make(map[ending]prometheus.Counter),
	}}
	ended := with.NewCounterVec(prometheus.CounterOpts{Name: "spillway_sockjs_sessions_ended_total",
		Help: "Sessions of SockJS that ended, by what ended them."}, []string{"reason"})
	for _, why := range []ending{endedByOrigin, endedByClient, endedAlone, endedBroken, endedRefused} {
		s.metrics.ended[why] = ended.WithLabelValues(string(why))
	}
	s.page = fmt.Appendf(nil, framePage, html.EscapeString(cfg.URL))
	s.tag = fmt.Sprintf(`"%x"`, sha256.Sum256(s.page))[:33] + `"`
	return s
}

// framePage is what browsers load in a frame, where a page may not ask another
// site.
const framePage = `<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="%s"></script>
  <script>
    document.domain = document.domain;
    SockJS.bootstrap_iframe();
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>
</body>
</html>
`

// An Open makes the WebSocket of a session. polled says that no connection of the
// client lasts as long as the session. The error is a *Refusal where the origin
// said something else.
type Open func(ctx context.Context, polled bool) (*websocket.Conn, error)

// A Refusal is what an origin answered in place of a WebSocket.
type Refusal struct {
	Status int
	Header http.Header
	Body   []byte
}

func (r *Refusal) Error() string { return "refused with status " + strconv.Itoa(r.Status) }

// Serve answers a request under a base path. rest is the encoded path behind the
// base, service tells sessions of several bases apart.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, service, rest string, open Open) {
	head(w.Header(), r)
	if r.Method == http.MethodOptions {
		s.preflight(w, r)
		return
	}
	switch {
	case rest == "", rest == "/":
		if allow(w, r, http.MethodGet) {
			answer(w, http.StatusOK, "text/plain; charset=UTF-8", []byte("Welcome to SockJS!\n"))
		}
		return
	case rest == "/info":
		if allow(w, r, http.MethodGet) {
			s.info(w)
		}
		return
	case strings.HasPrefix(rest, "/iframe") && strings.HasSuffix(rest, ".html") && !strings.Contains(rest[1:], "/"):
		if allow(w, r, http.MethodGet) {
			s.frame(w, r)
		}
		return
	}
	id, name, ok := splitRest(rest)
	if !ok {
		notFound(w)
		return
	}
	id = service + " " + id
	switch name {
	case "websocket":
		if allow(w, r, http.MethodGet) {
			s.socket(w, r, open)
		}
	case "xhr_send", "jsonp_send":
		if allow(w, r, http.MethodPost) {
			s.send(w, r, id, name == "jsonp_send")
		}
	default:
		if t, ok := transports[name]; !ok {
			notFound(w)
		} else if allow(w, r, t.method) {
			s.receive(w, r, id, t, open)
		}
	}
}

// Continues reports whether a request waits for what comes in a session that is
// there: there is one at a time.
func (s *Server) Continues(service, rest string) bool {
	id, name, ok := splitRest(rest)
	return ok && transports[name] != nil && s.find(service+" "+id) != nil
}

// splitRest takes /SERVER/SESSION/TRANSPORT apart. The server is for balancers
// alone.
func splitRest(rest string) (session, transport string, ok bool) {
	parts := strings.Split(rest, "/")
	if len(parts) != 4 || parts[1] == "" || parts[2] == "" || strings.Contains(parts[1]+parts[2], ".") {
		return "", "", false
	}
	return parts[2], parts[3], true
}

const notStored = "no-store, no-cache, must-revalidate, max-age=0"

// head sets what all answers have.
func head(h http.Header, r *http.Request) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		origin = "*"
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set("Cache-Control", notStored)
}

func answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	if contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	if body != nil {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	if len(body) > 0 {
		_, _ = w.Write(body) // a client that has left is noticed where its request ends
	}
}

func text(w http.ResponseWriter, status int, line string) {
	answer(w, status, "text/plain", []byte(line+"\n"))
}

func notFound(w http.ResponseWriter) { text(w, http.StatusNotFound, "Not Found") }

// allow answers a request of another method.
func allow(w http.ResponseWriter, r *http.Request, method string) bool {
	if r.Method == method {
		return true
	}
	w.Header().Set("Allow", "OPTIONS, "+method)
	answer(w, http.StatusMethodNotAllowed, "", []byte{})
	return false
}

const year = 365 * 24 * time.Hour

// forAYear lets an answer be kept.
func forAYear(h http.Header) {
	h.Set("Cache-Control", "public, max-age="+strconv.Itoa(int(year.Seconds())))
}

func (s *Server) preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if r.Header.Get("Access-Control-Request-Method") != "" {
		forAYear(h)
		h.Set("Access-Control-Allow-Methods", "OPTIONS, GET, POST")
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(year.Seconds())))
		if names := r.Header.Get("Access-Control-Request-Headers"); names != "" {
			h.Set("Access-Control-Allow-Headers", names)
		}
	}
	answer(w, http.StatusNoContent, "text/plain", nil)
}

func (s *Server) info(w http.ResponseWriter) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	answer(w, http.StatusOK, "application/json; charset=UTF-8",
		fmt.Appendf(nil, `{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":%d}`, binary.LittleEndian.Uint32(b[:])))
}

func (s *Server) frame(w http.ResponseWriter, r *http.Request) {
	forAYear(w.Header())
	w.Header().Set("ETag", s.tag)
	if r.Header.Get("If-None-Match") == s.tag {
		answer(w, http.StatusNotModified, "", nil)
		return
	}
	answer(w, http.StatusOK, "text/html; charset=UTF-8", s.page)
}

// refused answers when there is no WebSocket for a session.
func (s *Server) refused(w http.ResponseWriter, err error) {
	s.metrics.ended[endedRefused].Inc()
	var no *Refusal
	if !errors.As(err, &no) {
		s.log.Debug("no WebSocket for a session of SockJS", "err", err)
		text(w, http.StatusBadGateway, "Error while proxying to origin.")
		return
	}
	for name, values := range no.Header {
		if name != "Content-Length" && name != "Connection" {
			w.Header()[name] = values
		}
	}
	answer(w, no.Status, no.Header.Get("Content-Type"), no.Body)
}

// session returns a session by its id, and whether it is new: then it has a
// receiver already, who makes its WebSocket.
func (s *Server) session(id string) (_ *session, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.sessions[id]; known != nil {
		return known, false
	}
	n := newSession(s, id)
	n.received = true
	s.sessions[id] = n
	return n, true
}

// find returns a session that is there; nil: it is not.
func (s *Server) find(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id]
}

// forget takes a session out of the table.
func (s *Server) forget(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[n.id] == n {
		delete(s.sessions, n.id)
	}
}

// isHandshake reports whether a request is for a WebSocket.
func isHandshake(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") &&
		httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
}
