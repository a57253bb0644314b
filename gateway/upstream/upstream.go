// Package upstream forwards requests to the targets of a route: a client's
// request (Forwarder.Do) and the requests the gateway makes for itself to
// follow a next link (Forwarder.DoLink). Wire facts are those of the GRIP
// reference, 1.1 to 1.5 and 7.2.
//
// It hands back what the origin answered, as it came. To look for GRIP
// instructions in it, to act on them and to write to the client is the
// gateway's.
package upstream

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/route"
	"spillway/grip"
	"spillway/grip/secret"
)

// ErrUnreachable says that no target of the route took the request: name
// resolution, connecting or TLS failed for each of them. No origin has seen
// anything of the request.
var ErrUnreachable = errors.New("no target reachable")

// ErrForeignLink says that a link leads to a host that neither its route nor
// Config.LinkHosts names. Nobody was asked.
var ErrForeignLink = errors.New("leads to a host that is neither the client's nor a target of the route; LINK_HOSTS may name it")

// Features are the values of Grip-Feature that hold for any gateway built on
// this package; what else the gateway carries out is added by Config.Features.
var Features = []string{"status", "link:next"}

// Config is what a Forwarder has to know beyond the routes.
type Config struct {
	// SigKey signs Grip-Sig for routes without sig_key; the zero key leaves
	// their requests unsigned. SigIss is its iss for routes without sig_iss;
	// empty means pushpin.
	SigKey *secret.Value[grip.Key]
	SigIss string

	// UpstreamKeys verify the Grip-Sig of gateways in front of this one; none
	// trust nobody.
	UpstreamKeys *secret.Value[grip.Keys]

	// Features is the list for Grip-Feature; nil means Features of the package.
	Features []string

	// TrustedProxies are the peers whose X-Forwarded-* headers tell the truth.
	// Empty: X-Forwarded-Proto is always made anew, the others pass, as in
	// Pushpin. Otherwise those of a peer not listed are removed, and
	// X-Forwarded-For is continued with the peer's address.
	TrustedProxies []netip.Prefix

	// Proto says which headers tell that the client came by TLS; empty means
	// ProtoOnly.
	Proto ProtoHeader

	// ForwardedFor is what happens to X-Forwarded-For; for the requests of
	// trusted gateways ForwardedForTrusted is in its place.
	ForwardedFor        ForwardedFor
	ForwardedForTrusted ForwardedFor

	// CDNLoop is added to CDN-Loop; empty leaves it alone.
	CDNLoop string

	// LinkHosts are the hosts that links may lead to besides those of their routes
	// (see ParseLinkHosts).
	LinkHosts LinkHosts

	// NeedMark are headers of which an orig_headers route copies only what the
	// client has marked.
	NeedMark []string

	// AcceptPushpinRoute says that Pushpin-Route was for us: it goes no further.
	AcceptPushpinRoute bool

	// Roots verify the certificates of targets (see LoadRoots); nil means the
	// system's, or the embedded ones where the system has none.
	Roots *x509.CertPool

	// ConnectTimeout bounds connecting and the TLS handshake, each, per target;
	// 0 means 10s. ResponseTimeout is how long an origin may take from the end
	// of the request to the end of its response head; 0 means 60s.
	ConnectTimeout  time.Duration
	ResponseTimeout time.Duration
}

// A Forwarder sends requests to targets over pooled connections. All methods
// are safe for concurrent use.
type Forwarder struct {
	cfg     Config
	feature string // value of Grip-Feature
	log     *slog.Logger
	metrics metrics
	now     func() time.Time
	signer  signer
	direct  *pool   // of all hosts that links lead to outside of routes
	foreign limiter // of what is logged about links that lead elsewhere

	mu    sync.Mutex
	pools map[poolKey]*pool // guarded by mu; made when first used
}

// New returns a Forwarder. reg may be nil.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Forwarder {
	cfg.SigIss = cmp.Or(cfg.SigIss, "pushpin")
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, 10*time.Second)
	cfg.ResponseTimeout = cmp.Or(cfg.ResponseTimeout, 60*time.Second)
	cfg.Proto = cmp.Or(cfg.Proto, ProtoOnly)
	if cfg.Features == nil {
		cfg.Features = Features
	}
	f := &Forwarder{
		cfg:     cfg,
		feature: strings.Join(cfg.Features, ", "),
		log:     log,
		metrics: newMetrics(reg),
		now:     time.Now,
		pools:   map[poolKey]*pool{},
	}
	f.direct = &pool{transport: f.newTransport(route.Target{})}
	return f
}

// Close closes the connections that no request uses. The Forwarder stays
// usable; closing twice is fine.
func (f *Forwarder) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.direct.transport.CloseIdleConnections()
	for _, p := range f.pools {
		p.transport.CloseIdleConnections()
	}
}

// Do forwards a server's request by rt and returns the origin's response as it
// came, redirects and GRIP headers included; the caller closes its body. The
// request's body is streamed: part of it may still be unread when Do returns,
// and what is unread when the response's body is closed is never sent.
//
// A target that cannot be reached is passed over for the next; any other
// failure is final. The error is ErrUnreachable if no target was left.
func (f *Forwarder) Do(ctx context.Context, r *http.Request, rt *route.Route) (*http.Response, error) {
	out := &outgoing{
		kind:   kindRequest,
		method: r.Method,
		path:   route.EncodedPath(r),
		query:  r.URL.RawQuery,
		host:   hostOf(r, rt),
		header: f.requestHeader(r, rt),
	}
	out.forceQuery = r.URL.ForceQuery
	if r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody {
		out.body, out.length = newBody(r.Body, r.ContentLength), r.ContentLength
	}
	return f.send(ctx, out, rt)
}

// DoLink follows a next link: a GET without any header of the client. rawURL is
// as it stood in the link, base is the URL of the page that held it, rt the
// route by which that page was fetched, nil if directly. Resolve says where the
// request goes; errors are those of Do.
//
// The caller judges the status: only 2xx is a page.
func (f *Forwarder) DoLink(ctx context.Context, rawURL string, base *url.URL, rt *route.Route, lasts []grip.Last) (*http.Response, error) {
	return f.follow(ctx, &outgoing{kind: kindLink, method: http.MethodGet, header: http.Header{}}, rawURL, base, rt, lasts)
}

// DoGone tells the origin that a session has ended: a POST of nothing to a gone
// link, in all else as DoLink.
func (f *Forwarder) DoGone(ctx context.Context, rawURL string, base *url.URL, rt *route.Route) (*http.Response, error) {
	return f.follow(ctx, &outgoing{kind: kindGone, method: http.MethodPost, header: http.Header{}}, rawURL, base, rt, nil)
}

// DoFilter asks a service about an item: a POST with this header, which it keeps,
// and body, in all else as DoLink.
func (f *Forwarder) DoFilter(ctx context.Context, rawURL string, base *url.URL, rt *route.Route, header http.Header, body []byte, lasts []grip.Last) (*http.Response, error) {
	return f.follow(ctx, &outgoing{kind: kindFilter, method: http.MethodPost, header: header, events: body}, rawURL, base, rt, lasts)
}

func (f *Forwarder) follow(ctx context.Context, out *outgoing, rawURL string, base *url.URL, by *route.Route, lasts []grip.Last) (*http.Response, error) {
	u, rt, err := Resolve(rawURL, base, by)
	if err != nil {
		return nil, err
	}
	if rt == nil && !f.mayLead(u, base, by) {
		f.metrics.requests.WithLabelValues(string(out.kind), string(foreign)).Inc()
		if n, ok := f.foreign.due(f.now()); ok {
			f.log.Warn("link not followed: it leads to a host that LINK_HOSTS does not name", "kind", out.kind, "host", u.Host, "swallowed", n)
		}
		return nil, fmt.Errorf("link %q: %w", rawURL, ErrForeignLink)
	}
	out.path, out.query, out.forceQuery, out.host = u.EscapedPath(), u.RawQuery, u.ForceQuery, u.Host
	if rt == nil {
		out.direct, rt = true, directRoute(u)
	} else if u.Scheme == "https" {
		// The client's own request said so too; an origin that insists on TLS
		// would answer with a redirect instead of a page.
		f.setProto(out.header, "https")
	}
	f.setLoop(out.header)
	setRouteHeader(out.header, rt)
	f.setGripHeader(out.header, rt)
	grip.AppendLast(out.header, lasts...)
	return f.send(ctx, out, rt)
}

// Resolve returns the absolute URL of a link, the base of the links in its
// page, and the route by which it is fetched: rt if it is not nil and scheme,
// host, port and path of the link fit it, else nil, which means directly from
// the host that the URL names.
func Resolve(rawURL string, base *url.URL, rt *route.Route) (*url.URL, *route.Route, error) {
	u, err := base.Parse(rawURL)
	if err != nil {
		return nil, nil, fmt.Errorf("link: %w", err)
	}
	u.Fragment, u.RawFragment, u.User = "", "", nil
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, nil, fmt.Errorf("link %q: not an http or https URL", rawURL)
	}
	if u.Path == "" {
		u.Path = "/"
	}
	if rt != nil && sameOrigin(u, base) && strings.HasPrefix(u.EscapedPath(), rt.PathBeg) {
		return u, rt, nil
	}
	return u, nil, nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// URL returns what a client's request asked for, the base of the links in its
// response: scheme and host of the client, or as_host of the route, and the
// path before rewriting.
func (f *Forwarder) URL(r *http.Request, rt *route.Route) *url.URL {
	u := &url.URL{Scheme: "http", Host: hostOf(r, rt), RawQuery: r.URL.RawQuery}
	if f.ClientTLS(r) {
		u.Scheme = "https"
	}
	if err := setPath(u, route.EncodedPath(r)); err != nil {
		u.Path = "/" // a server's request has been through url.Parse
	}
	return u
}

// setPath makes u.EscapedPath return path byte for byte.
func setPath(u *url.URL, path string) error {
	plain, err := url.PathUnescape(path)
	if err != nil {
		return fmt.Errorf("path %q: %w", path, err)
	}
	u.Path, u.RawPath = plain, path
	return nil
}

// outgoing is a request before a target is chosen.
type outgoing struct {
	kind       kind
	direct     bool // to the host of the URL: the target is of no route
	method     string
	path       string // encoded, as the route's condition sees it
	query      string
	forceQuery bool // a "?" with nothing after it
	host       string
	header     http.Header
	body       *requestBody // nil: none
	length     int64        // of body; -1: unknown

	events  []byte   // the body, in place of body
	upgrade bool     // a WebSocket is asked for
	taken   net.Conn // that was used, when it is one
}

// send tries the targets in turn. It counts and, where one is passed over,
// logs.
func (f *Forwarder) send(ctx context.Context, out *outgoing, rt *route.Route) (*http.Response, error) {
	began := f.now()
	var misses []string
	for _, t := range rt.Targets {
		if t.Test {
			f.metrics.requests.WithLabelValues(string(out.kind), string(answered)).Inc()
			return testResponse(out, rt), nil
		}
		p := f.direct
		if !out.direct {
			p = f.pool(t)
		}
		resp, connected, err := f.roundTrip(ctx, out, rt, t, p)
		switch {
		case err == nil:
			f.metrics.requests.WithLabelValues(string(out.kind), string(answered)).Inc()
			f.metrics.seconds.Observe(f.now().Sub(began).Seconds())
			return resp, nil
		case ctx.Err() != nil:
			f.metrics.requests.WithLabelValues(string(out.kind), string(canceled)).Inc()
			return nil, fmt.Errorf("target %s: %w", t.Addr, context.Cause(ctx))
		case connected:
			f.metrics.requests.WithLabelValues(string(out.kind), string(broken)).Inc()
			return nil, fmt.Errorf("target %s: %w", t.Addr, err)
		}
		f.metrics.unreachable.Inc()
		misses = append(misses, fmt.Sprintf("target %s: %v", t.Addr, err))
		if n, ok := p.misses.due(f.now()); ok {
			f.log.Warn("target not reachable", "target", t.Addr, "cause", err, "swallowed", n)
		}
	}
	f.metrics.requests.WithLabelValues(string(out.kind), string(unreachable)).Inc()
	return nil, fmt.Errorf("%w: %s", ErrUnreachable, strings.Join(misses, "; "))
}

// targetKey is for the target of a request, in its context.
type targetKey struct{}

// TargetOf returns the target that gave a response.
func TargetOf(resp *http.Response) route.Target {
	if resp.Request == nil {
		return route.Target{}
	}
	t, _ := resp.Request.Context().Value(targetKey{}).(route.Target)
	return t
}

// An attempt is what is known of a request on its way to a target. The transport
// asks for a connection again when a kept one turned out to be dead, so only the
// last one counts.
type attempt struct {
	out               *outgoing
	got, wrote, stale atomic.Bool
}

func (a *attempt) trace() *httptrace.ClientTrace {
	t := &httptrace.ClientTrace{
		GetConn: func(string) { a.got.Store(false) },
		GotConn: func(info httptrace.GotConnInfo) {
			a.got.Store(true)
			a.stale.Store(info.Reused)
			if a.out.body != nil {
				a.out.body.conn.Store(connOf(info.Conn))
			}
			if a.out.upgrade {
				a.out.taken = info.Conn
			}
		},
	}
	if a.out.kind == kindEvents { // nobody else asks
		t.WroteRequest = func(info httptrace.WroteRequestInfo) { a.wrote.Store(info.Err == nil) }
		t.GotFirstResponseByte = func() { a.stale.Store(false) }
	}
	return t
}

// roundTrip sends out to one target. connected says whether a connection was
// made, so that the origin may have seen the request.
func (f *Forwarder) roundTrip(ctx context.Context, out *outgoing, rt *route.Route, t route.Target, p *pool) (resp *http.Response, connected bool, err error) {
	host := cmp.Or(t.Host, out.host)
	u := &url.URL{Scheme: "http", Host: t.Addr, RawQuery: out.query, ForceQuery: out.forceQuery}
	if t.TLS {
		u.Scheme, u.Host = "https", tlsAddr(host, t.Addr)
	}
	if err := setPath(u, rt.RewritePath(out.path)); err != nil {
		return nil, true, err
	}

	ctx = context.WithValue(ctx, targetKey{}, t)

	a := &attempt{out: out}
	ctx = httptrace.WithClientTrace(ctx, a.trace())
	req := (&http.Request{
		Method:     out.method,
		URL:        u,
		Host:       host,
		Header:     out.header, // which the transport leaves as it is
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
	}).WithContext(ctx)
	if out.body != nil {
		req.Body, req.ContentLength = out.body, out.length
	}
	if len(out.events) > 0 {
		req.ContentLength = int64(len(out.events))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.events)), nil }
		req.Body, _ = req.GetBody()
	}

	resp, err = p.transport.RoundTrip(req)
	if err != nil {
		var slow net.Error
		if out.kind == kindEvents && a.got.Load() && (!a.wrote.Load() || a.stale.Load() && !(errors.As(err, &slow) && slow.Timeout())) {
			err = fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, a.got.Load(), err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if out.upgrade {
			return resp, true, nil
		}
		_ = resp.Body.Close()
		return nil, true, errors.New("switches protocols without being asked")
	}
	if out.body != nil {
		resp.Body = &closeBoth{resp.Body, out.body}
	}
	decode(resp)
	return resp, true, nil
}
