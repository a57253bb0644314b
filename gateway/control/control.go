// Package control is the gateway's private HTTP API: publishing, as Pushpin's
// control port takes it (GRIP reference, 5.1), and lists of channels and
// connections. It knows requests and answers; what publishing means is the
// Backend's.
//
// Publishers written for Pushpin get the answers they know, byte for byte. What
// goes beyond is what Pushpin refuses: chunked and compressed bodies,
// connections that stay open, the paths of hosted services, and a key. What came
// of a request to publish is in the answer's headers (see Receipt).
package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"spillway/grip"
	"spillway/grip/secret"
)

// A Backend is the gateway behind the API. Its methods are safe for concurrent
// use.
type Backend interface {
	// Publish takes all items or none. It returns nil as soon as the gateway is
	// responsible for them, whether or not anyone listens; it never waits for a
	// client. A *Refused is the publisher's fault, any other error is ours. The
	// Backend may keep the items' bytes.
	Publish(ctx context.Context, items ...grip.Item) (Receipt, error)

	// Channels lists up to limit channels that have subscribers, in the order
	// of their names, beginning behind the name after ("" is before all). next
	// is the after of the following page, "" if there is none.
	Channels(after string, limit int) (infos []ChannelInfo, next string)
}

// A Recoverer is a Backend that can make every session ask its origin again
// (GRIP reference, 7.5). Without it POST /recover/ is answered 501.
type Recoverer interface {
	Recover(ctx context.Context) error
}

// A Purger is a Backend that keeps answers of origins. Without it PURGE is
// answered 501.
type Purger interface {
	// Purge drops all answers that are kept of an absolute URL, and says how many
	// there were. Text that is no URL is an error, which says so.
	Purge(url string) (answers int, err error)
}

// A Lister is a Backend that knows its connections. Without it GET /connections
// is answered 501.
type Lister interface {
	// Connections lists up to limit connections that wait for items, in the order
	// in which they came, beginning behind the one whose id is after ("" is before
	// all). next is the after of the following page, "" if there is none. An after
	// that is no id is a *Refused.
	Connections(ctx context.Context, after string, limit int) (infos []ConnectionInfo, next string, err error)
}

// A Receipt is what the gateway knows of items when it has taken them: the
// headers Spillway-Receivers and Spillway-Dropped of the answer.
type Receipt struct {
	Receivers int // subscribers of the items' channels, counted for each item
	Dropped   int // items that repeated an id of their channel
}

// ChannelInfo is one channel that has subscribers.
type ChannelInfo struct {
	Name        string `json:"name"`
	Subscribers int    `json:"subscribers"`
}

// ConnectionInfo is one connection.
type ConnectionInfo struct {
	ID        string    `json:"id"`
	Address   string    `json:"address"` // of the client; "" if it is not known
	Route     string    `json:"route"`
	Transport string    `json:"transport"`
	Channels  []string  `json:"channels"`
	Since     time.Time `json:"since"`
	Bytes     uint64    `json:"bytes"` // sent, after the response that began it
}

// Refused is an error that the client can mend: the answer is 400
// with Text, one line without a newline.
type Refused struct{ Text string }

func (e *Refused) Error() string { return e.Text }

// Config is what the API has to know.
type Config struct {
	// Keys open the API: a request shows one, or a token signed with it, as its
	// bearer. None leaves the API open to whoever reaches the port; CheckAddr
	// says when that is an error.
	Keys *secret.Value[grip.Keys]

	// Realms are keys that open nothing but the publishing paths of one realm or
	// service, by its id. With any, and no Keys, nothing else is open.
	Realms *secret.Value[map[string]grip.Key]

	// Hosts are the names, without port, that a request may give in Host beside
	// localhost and IP addresses.
	Hosts []string

	// MaxBody is the most that a publish request may hold, in bytes; 0 means
	// 1,000,000.
	MaxBody int64

	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// CheckAddr returns an error if an API without keys would be open to others than
// this machine: addr is what it listens on (CONTROL_ADDR), insecure says that
// this is meant (CONTROL_INSECURE).
func CheckAddr(addr string, keyed, insecure bool) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("CONTROL_ADDR=%s: write HOST:PORT, such as 127.0.0.1:5561", addr)
	}
	if insecure || keyed || IsLoopback(addr) {
		return nil
	}
	return fmt.Errorf("CONTROL_ADDR=%s: others could publish; set CONTROL_KEY, listen on 127.0.0.1, or set CONTROL_INSECURE=true", addr)
}

// IsLoopback reports whether only this machine reaches what listens on addr.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

type handler struct {
	cfg     Config
	backend Backend
	log     *slog.Logger
	now     func() time.Time

	publishes map[result]prometheus.Counter
	items     prometheus.Counter

	mu      sync.Mutex
	logged  time.Time // guarded by mu; when a failure was last logged
	swallow int       // guarded by mu; failures since then that were not
}

// A result is how a request to publish ended; a metric label.
type result string

const (
	published    result = "published"
	refused      result = "refused"      // 4xx of 5.1: not what the API takes
	failed       result = "failed"       // the backend could not
	forbidden    result = "forbidden"    // Host or Origin of somebody else's page
	unauthorized result = "unauthorized" // no bearer, or a wrong one
)

// NewHandler returns the API.
func NewHandler(cfg Config, b Backend, log *slog.Logger) http.Handler {
	cfg.MaxBody = cmp.Or(cfg.MaxBody, 1_000_000)
	hosts := make([]string, 0, len(cfg.Hosts))
	for _, h := range cfg.Hosts {
		if h = normalHost(strings.TrimSpace(h)); h != "" {
			hosts = append(hosts, h)
		}
	}
	cfg.Hosts = hosts

	auto := promauto.With(cfg.Metrics)
	h := &handler{
		cfg:       cfg,
		backend:   b,
		log:       log,
		now:       time.Now,
		publishes: make(map[result]prometheus.Counter),
		items: auto.NewCounter(prometheus.CounterOpts{
			Name: "spillway_control_items_total",
			Help: "Items taken from publishers over the control API.",
		}),
	}
	requests := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "spillway_control_requests_total",
		Help: "Requests to publish or recover over the control API, and those kept out, by how they ended.",
	}, []string{"result"})
	for _, r := range []result{published, refused, failed, forbidden, unauthorized} {
		h.publishes[r] = requests.WithLabelValues(string(r))
	}
	return h
}

func (h *handler) count(r result) { h.publishes[r].Inc() }

// ServeHTTP implements http.Handler. The order of the checks is Pushpin's, after
// ours: who may talk to us at all, length, Accept, path, method.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !KnownHost(r.Host, h.cfg.Hosts) {
		h.count(forbidden)
		text(w, http.StatusForbidden, "Host not allowed; add it to CONTROL_HOSTS.")
		return
	}
	if !OwnOrigin(r) {
		h.count(forbidden)
		text(w, http.StatusForbidden, "Origin not allowed.")
		return
	}
	to, publishes := publishTarget(r.URL)
	if r.Method == "PURGE" { // of a URL, whose path says nothing of ours
		to, publishes = target{}, false
	}
	if !h.authorized(r, to.realm) {
		h.count(unauthorized)
		w.Header().Set("WWW-Authenticate", "Bearer")
		text(w, http.StatusUnauthorized, "Bearer token or key required.")
		return
	}
	path := r.URL.Path
	switch path {
	case "/channels", "/channels/":
		h.channels(w, r)
		return
	case "/connections", "/connections/":
		h.connections(w, r)
		return
	}

	if r.Method == "PURGE" {
		h.purge(w, r)
		return
	}

	if noLength(r) {
		text(w, http.StatusLengthRequired, "Request requires Content-Length.")
		return
	}
	asJSON, ok := accept(r.Header)
	if !ok {
		text(w, http.StatusNotAcceptable, "Not Acceptable. Supported formats are text/plain and application/json.")
		return
	}
	switch {
	case r.URL.RawQuery != "" || r.URL.ForceQuery: // a query makes another path
		text(w, http.StatusNotFound, "Not Found")
	case path == "/":
		// Monitoring made for Pushpin looks for these words.
		text(w, http.StatusOK, "Pushpin API")
	case publishes:
		if onlyPOST(w, r) {
			h.publish(w, r, to, asJSON)
		}
	case path == "/recover/", path == "/recover":
		if onlyPOST(w, r) {
			h.recover(w, r, asJSON)
		}
	default:
		text(w, http.StatusNotFound, "Not Found")
	}
}

func (h *handler) recover(w http.ResponseWriter, r *http.Request, asJSON bool) {
	rec, ok := h.backend.(Recoverer)
	if !ok {
		h.count(refused)
		text(w, http.StatusNotImplemented, "Recover is not supported.")
		return
	}
	if err := rec.Recover(r.Context()); err != nil {
		h.failed(w, "recover", err)
		return
	}
	h.count(published)
	done(w, asJSON, "Updated")
}

// purge drops what is kept of the URL that follows the first slash:
//
//	PURGE /https://example.com/page?query
func (h *handler) purge(w http.ResponseWriter, r *http.Request) {
	p, ok := h.backend.(Purger)
	if !ok {
		h.count(refused)
		text(w, http.StatusNotImplemented, "Purge is not supported.")
		return
	}
	n, err := p.Purge(strings.TrimPrefix(r.RequestURI, "/"))
	if err != nil {
		h.count(refused)
		text(w, http.StatusBadRequest, "Invalid URL: "+err.Error()+", after the first slash.")
		return
	}
	h.count(published)
	text(w, http.StatusOK, fmt.Sprintf("Purged: %d", n))
}

const logInterval = 10 * time.Second

// failed answers for a backend that could not. The cause is for the log, which
// gets one line per logInterval.
func (h *handler) failed(w http.ResponseWriter, what string, cause error) {
	h.count(failed)
	text(w, http.StatusServiceUnavailable, "Not done; try again.")

	now := h.now()
	h.mu.Lock()
	due := h.logged.IsZero() || now.Sub(h.logged) >= logInterval
	swallowed := h.swallow
	if due {
		h.logged, h.swallow = now, 0
	} else {
		h.swallow++
	}
	h.mu.Unlock()
	if due {
		h.log.Warn("control request not carried out", "request", what, "cause", cause, "swallowed", swallowed)
	}
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// channels answers a page of channels:
//
//	{"channels":[{"name":"fruit","subscribers":2}],"next":"fruit"}
//
// next goes into ?after= of the following request; it is null on the last page.
func (h *handler) channels(w http.ResponseWriter, r *http.Request) {
	after, limit, ok := pageOf(w, r)
	if !ok {
		return
	}
	infos, next := h.backend.Channels(after, limit)
	answerJSON(w, struct {
		Channels []ChannelInfo `json:"channels"`
		Next     *string       `json:"next"`
	}{append([]ChannelInfo{}, infos...), orNull(next)})
}

// connections answers a page of connections in the same way.
func (h *handler) connections(w http.ResponseWriter, r *http.Request) {
	l, ok := h.backend.(Lister)
	if !ok {
		text(w, http.StatusNotImplemented, "Connections are not listed.")
		return
	}
	after, limit, ok := pageOf(w, r)
	if !ok {
		return
	}
	infos, next, err := l.Connections(r.Context(), after, limit)
	var refused *Refused
	switch {
	case errors.As(err, &refused):
		text(w, http.StatusBadRequest, refused.Text)
		return
	case err != nil:
		h.failed(w, "connections", err)
		return
	}
	answerJSON(w, struct {
		Connections []ConnectionInfo `json:"connections"`
		Next        *string          `json:"next"`
	}{append([]ConnectionInfo{}, infos...), orNull(next)})
}

// pageOf reads which page of a list is asked for. Where ok is false, the client
// has its answer.
func pageOf(w http.ResponseWriter, r *http.Request) (after string, limit int, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		text(w, http.StatusMethodNotAllowed, "Method not allowed: "+r.Method+".")
		return "", 0, false
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		text(w, http.StatusBadRequest, "Invalid query.")
		return "", 0, false
	}
	limit = defaultLimit
	if s := query.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxLimit {
			text(w, http.StatusBadRequest, fmt.Sprintf("Invalid limit: must be a number from 1 to %d.", maxLimit))
			return "", 0, false
		}
	}
	return query.Get("after"), limit, true
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func answerJSON(w http.ResponseWriter, page any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(page); err != nil {
		panic(err) // strings, numbers and times of now always marshal
	}
	answer(w, http.StatusOK, "application/json", buf.Bytes())
}

// KnownHost reports whether Host names a private port in a way that no page can
// arrange: by IP address, as localhost, or by one of these names. A page whose
// name was made to resolve to this machine ("DNS rebinding") sends its own name.
// No Host at all is HTTP/1.0, which no browser speaks.
func KnownHost(host string, names []string) bool {
	host = normalHost(host)
	if host == "" || host == "localhost" || slices.Contains(names, host) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// normalHost takes off the port, the brackets of an IPv6 address and the dot of
// a rooted name, and lowers the case.
func normalHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimPrefix(strings.TrimSuffix(host, "]"), "[")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// OwnOrigin reports whether the request comes from a page of this port itself, or
// from no page: publishers send no Origin.
func OwnOrigin(r *http.Request) bool {
	for _, origin := range r.Header.Values("Origin") {
		host, ok := strings.CutPrefix(origin, "http://")
		if !ok {
			host, ok = strings.CutPrefix(origin, "https://")
		}
		if !ok || !strings.EqualFold(host, r.Host) {
			return false
		}
	}
	return true
}

// authorized reports whether the request shows a key: as its bearer, as the
// password of basic authentication, or as Fastly's clients do.
func (h *handler) authorized(r *http.Request, realm string) bool {
	keys, realms := h.cfg.Keys.Get(), h.cfg.Realms.Get()
	if len(keys) == 0 && len(realms) == 0 {
		return true
	}
	var shown []string
	if scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		shown = append(shown, strings.TrimSpace(bearer))
	}
	if _, password, ok := r.BasicAuth(); ok {
		shown = append(shown, password)
	}
	if token := r.Header.Get("Fastly-Key"); token != "" {
		shown = append(shown, token)
	}
	key := realms[realm]
	return slices.ContainsFunc(shown, func(s string) bool { return opens(s, keys, realm, key, h.now()) })
}

// opens reports whether what was shown opens the API, or the realm by its key. A
// token of a realm names it; a service's is called fastly:ID.
func opens(shown string, keys grip.Keys, realm string, key grip.Key, now time.Time) bool {
	if _, err := keys.VerifyBearer(shown, now); err == nil {
		return true
	}
	if key.IsZero() {
		return false
	}
	iss, err := key.VerifyBearer(shown, now)
	return err == nil && (iss == "" || iss == realm || iss == "fastly:"+realm)
}

// noLength reports whether the request says nothing about its body although its
// method may have one. A chunked body, which Pushpin refuses, says enough.
func noLength(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		return false
	}
	return r.ContentLength == 0 && r.Header.Get("Content-Length") == "" && r.ProtoMajor == 1
}

// accept reports whether the client wants JSON instead of text, and whether it
// wants anything we have. As in Pushpin the last understood type of the list
// wins, whatever the q-values say; unlike there, case does not matter.
func accept(header http.Header) (asJSON, ok bool) {
	lines, given := header["Accept"]
	if !given {
		return false, true
	}
	for _, line := range lines {
		for elem := range strings.SplitSeq(line, ",") {
			mediaType, _, _ := strings.Cut(elem, ";")
			switch strings.ToLower(strings.TrimSpace(mediaType)) {
			case "text/plain", "text/*", "*/*", "*":
				asJSON, ok = false, true
			case "application/json", "application/*":
				asJSON, ok = true, true
			}
		}
	}
	return asJSON, ok
}

func onlyPOST(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodPost {
		return true
	}
	w.Header().Set("Allow", "POST")
	text(w, http.StatusMethodNotAllowed, "Method not allowed: "+r.Method+".")
	return false
}

func done(w http.ResponseWriter, asJSON bool, word string) {
	if asJSON {
		answer(w, http.StatusOK, "application/json", []byte(`{"message":"`+word+"\"}\n"))
		return
	}
	text(w, http.StatusOK, word)
}

func text(w http.ResponseWriter, code int, line string) {
	answer(w, code, "text/plain", []byte(line+"\n"))
}

func answer(w http.ResponseWriter, code int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = w.Write(body) // a publisher that left does not want the answer
}
