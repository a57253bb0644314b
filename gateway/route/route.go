// Package route decides which targets answer a client's request, in the
// grammar of Pushpin's routes file (GRIP reference, 11). It reads and chooses;
// what a route asks for is carried out by gateway/upstream and the gateway.
//
// It differs from Pushpin in one way: nothing is skipped. A line with a
// mistake, or with an option that this program does not carry out, is an error,
// because a route that is silently missing sends requests somewhere else.
//
// Start at Parse and Table.Match.
package route

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"spillway/grip"
)

// A Proto limits a route to one kind of request.
type Proto string

const (
	AnyProto  Proto = ""
	HTTP      Proto = "http" // requests that are not WebSocket handshakes
	WebSocket Proto = "ws"
)

// A Route is one line: a condition and the targets that serve what it matches.
// It is read-only once parsed.
type Route struct {
	Source string // where it stands: a file or variable; may be empty
	Line   int    // in it: counted from 1, each ";" of a variable begins another line

	// The condition. A zero field does not limit, but for Host.
	Host    string // lower case, without port; "*" is any; empty is none: only ByID finds it
	Proto   Proto
	SSL     *bool  // whether the client came by TLS; nil: either
	PathBeg string // prefix of the encoded path

	ID     string   // names the route in statistics, and for ByID
	SigIss string   // iss of Grip-Sig; empty: the program's
	SigKey grip.Key // signs Grip-Sig; zero: the program's does
	Prefix string   // put before each channel name, for matching published items

	// Changes to the forwarded request.
	Header      []grip.Header // set, replacing; an empty value removes
	AsHost      string        // Host, with or without port; also the base of relative links
	PathRem     int           // bytes to remove from the start of the encoded path
	ReplaceBeg  string        // put in the place of PathBeg; empty: not asked for
	OrigHeaders bool          // the client's headers go along a second time, marked

	Debug  bool // errors may tell the client what went wrong
	NoGrip bool // plain proxy: nothing is signed and nothing interpreted
	Cache  bool // answers may be kept and shared

	CORS  bool // pages of other sites may use it (aco): CORS headers, and JSON-P
	JSONP JSONP

	SockJS       string // base path of SockJS clients; empty: not spoken
	SockJSAsPath string // path by which the origin sees them; empty: SockJS + "/websocket"

	Targets []Target // at least one; later ones are for when an earlier cannot be reached
}

// JSONP says how a request is wrapped into a script (GRIP reference, 10.2).
// Empty fields stand for what the reference names.
type JSONP struct {
	Basic           bool   // only the body, not status and headers
	Callback        string // parameter with the name of the function
	Body            string // parameter with the request's body
	DefaultCallback string // function, where the parameter is missing
	DefaultMethod   string // of the request, where it names none
}

// A Target is one place that answers requests.
type Target struct {
	Addr string // host:port, an IPv6 address in brackets; empty for Test
	Test bool   // answered by the built-in test origin

	TLS              bool
	Host             string // Host header and TLS name, instead of the request's
	Insecure         bool   // accept any certificate
	TrustConnectHost bool   // accept a certificate for the host of Addr as well
	ClientCert       string // PEM files with what this side shows of itself; both or none
	ClientKey        string

	OverHTTP bool     // WebSockets are carried as HTTP requests
	OneEvent bool     // one event in each of them
	Subs     []string // channels that whatever goes here is subscribed to; without Prefix
}

// A Table holds all routes. It is read-only and safe for concurrent use. The
// zero Table is empty and matches nothing.
type Table struct {
	routes []*Route            // in the order of their lines
	byHost map[string][]*Route // the same, by Route.Host; without those that have none
	byID   map[string]*Route   // those that have an id
}

// Empty reports whether there is no route at all.
func (t *Table) Empty() bool { return t == nil || len(t.routes) == 0 }

// Routes returns all routes in the order of their lines. The caller must not
// change them.
func (t *Table) Routes() []*Route {
	if t == nil {
		return nil
	}
	return t.routes
}

// ByID returns the route with an id, whatever its condition.
func (t *Table) ByID(id string) (*Route, bool) {
	if t.Empty() {
		return nil, false
	}
	r, ok := t.byID[id]
	return r, ok
}

// Match chooses the route for a request. host is that of the request, with or
// without port; path is encoded, as EncodedPath gives it; ws says whether it is
// a WebSocket handshake, tls whether the client came by TLS.
//
// If any line names the host, only lines that name it count: "*" is not tried
// when none of them matches. Of those that match, a line with proto is better
// than one without, then the longer path_beg wins, then a line with ssl over
// one without.
func (t *Table) Match(host, path string, ws, tls bool) (*Route, bool) {
	if t.Empty() {
		return nil, false
	}
	candidates, ok := t.byHost[normalHost(host)]
	if !ok {
		candidates = t.byHost["*"]
	}
	var best *Route
	for _, r := range candidates {
		if r.matches(path, ws, tls) && (best == nil || r.betterThan(best)) {
			best = r
		}
	}
	return best, best != nil
}

func (r *Route) matches(path string, ws, tls bool) bool {
	if r.Proto != AnyProto && (r.Proto == WebSocket) != ws {
		return false
	}
	if r.SSL != nil && *r.SSL != tls {
		return false
	}
	return strings.HasPrefix(path, r.PathBeg)
}

// betterThan is a strict order among routes that match the same request, since
// no two of them have the same condition.
func (r *Route) betterThan(other *Route) bool {
	if a, b := r.Proto != AnyProto, other.Proto != AnyProto; a != b {
		return a
	}
	if len(r.PathBeg) != len(other.PathBeg) {
		return len(r.PathBeg) > len(other.PathBeg)
	}
	return r.SSL != nil && other.SSL == nil
}

// RewritePath returns the encoded path that the target sees: path_rem or
// replace_beg applied. It always begins with "/", except that the "*" of an
// OPTIONS request is left as it is.
func (r *Route) RewritePath(path string) string {
	if path == "*" {
		return path
	}
	switch {
	case r.ReplaceBeg != "":
		path = r.ReplaceBeg + strings.TrimPrefix(path, r.PathBeg)
	case r.PathRem > 0:
		path = path[min(r.PathRem, len(path)):]
	}
	if !strings.HasPrefix(path, "/") {
		// Pushpin fails with 502 here unless nothing is left at all.
		path = "/" + path
	}
	return path
}

// EncodedPath returns the path of a server's request as it stood on the wire,
// without the query; bytes that do not belong into a path are percent-encoded.
// "%2F" therefore stays apart from "/", which URL.EscapedPath does not promise.
func EncodedPath(r *http.Request) string {
	if r.RequestURI == "" { // not from a server, as in a test
		return r.URL.EscapedPath()
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	path, _, _ = strings.Cut(path, "#")
	if !strings.HasPrefix(path, "/") && path != "*" {
		// Absolute form, "http://host/path": the request line of a client that
		// believes to talk to a forward proxy (RFC 9112, 3.2.2).
		_, rest, ok := strings.Cut(path, "://")
		if !ok {
			return r.URL.EscapedPath()
		}
		if slash := strings.IndexByte(rest, '/'); slash >= 0 {
			path = rest[slash:]
		} else {
			path = "/"
		}
	}
	return encodePath(path)
}

// encodePath encodes what RFC 3986, 3.3 does not allow in a path and leaves the
// rest, escapes included, byte for byte.
func encodePath(path string) string {
	bad := 0
	for i := 0; i < len(path); i++ {
		if !pathByte(path[i]) {
			bad++
		}
	}
	if bad == 0 {
		return path
	}
	const hex = "0123456789ABCDEF"
	dst := make([]byte, 0, len(path)+2*bad)
	for i := 0; i < len(path); i++ {
		if c := path[i]; pathByte(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(dst)
}

func pathByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("/-._~!$&'()*+,;=:@%", c) >= 0
}

// normalHost takes the port, the brackets of an IPv6 address and the dot of a
// rooted name away, and lowers the case: what is left is compared.
func normalHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimPrefix(strings.TrimSuffix(host, "]"), "[")
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.String() // ::1 has many spellings
	}
	return host
}

// String returns the route in the grammar of Parse, for logs: the values of
// sig_key and header, which may be secrets, are hidden.
func (r *Route) String() string { return r.format(false) }

func (r *Route) format(secrets bool) string {
	var b strings.Builder
	param := func(name, value string) { b.WriteString("," + name + "=" + quote(value)) }
	optional := func(name, value string) {
		if value != "" {
			param(name, value)
		}
	}
	flag := func(name string, on bool) {
		if on {
			b.WriteString("," + name)
		}
	}

	b.WriteString(r.Host)
	optional("proto", string(r.Proto))
	if r.SSL != nil {
		param("ssl", map[bool]string{true: "yes", false: "no"}[*r.SSL])
	}
	optional("path_beg", r.PathBeg)
	optional("id", r.ID)
	optional("sig_iss", r.SigIss)
	if !r.SigKey.IsZero() {
		param("sig_key", hidden)
	}
	optional("prefix", r.Prefix)
	for _, h := range r.Header {
		if secrets {
			param("header", h.Name+": "+h.Value)
		} else {
			param("header", h.Name+": "+hidden)
		}
	}
	optional("as_host", r.AsHost)
	if r.PathRem > 0 {
		param("path_rem", strconv.Itoa(r.PathRem))
	}
	optional("replace_beg", r.ReplaceBeg)
	flag("orig_headers", r.OrigHeaders)
	flag("aco", r.CORS)
	if r.JSONP.Basic {
		param("jsonp_mode", "basic")
	}
	optional("jsonp_cb", r.JSONP.Callback)
	optional("jsonp_body", r.JSONP.Body)
	optional("jsonp_defcb", r.JSONP.DefaultCallback)
	optional("jsonp_defmethod", r.JSONP.DefaultMethod)
	optional("sockjs", r.SockJS)
	optional("sockjs_as_path", r.SockJSAsPath)
	flag("debug", r.Debug)
	flag("no_grip", r.NoGrip)
	flag("cache", r.Cache)

	for _, t := range r.Targets {
		b.WriteString(" ")
		if t.Test {
			b.WriteString("test")
			continue
		}
		b.WriteString(t.Addr)
		flag("ssl", t.TLS)
		optional("host", t.Host)
		flag("insecure", t.Insecure)
		flag("trust_connect_host", t.TrustConnectHost)
		optional("client_cert", t.ClientCert)
		optional("client_key", t.ClientKey)
		flag("over_http", t.OverHTTP)
		flag("one_event", t.OneEvent)
		for _, channel := range t.Subs {
			param("sub", channel)
		}
	}
	return b.String()
}
