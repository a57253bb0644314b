package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"spillway/gateway/control"
	"spillway/gateway/fanout"
	"spillway/gateway/upstream"
	"spillway/grip"
	"spillway/grip/bytesize"
	"spillway/grip/secret"
)

// Config is what the gateway reads from the environment.
type Config struct {
	// HTTPAddr is where clients connect, host:port.
	HTTPAddr string `envconfig:"HTTP_ADDR" default:":7999"`

	// EventsPath is the path of the built-in origin, which serves topics. A
	// missing slash at either end is added. Empty turns it off.
	EventsPath string `envconfig:"EVENTS_PATH" default:"/events/"`

	// Routes are routes to HTTP origins in the grammar of Pushpin's routes
	// file, separated by ; or line breaks, such as * localhost:8000.
	Routes string `envconfig:"ROUTES"`

	// RoutesFile is a file with more routes, one a line. It is read again when it
	// changes, and on SIGHUP; while it has mistakes the old routes stay.
	RoutesFile string `envconfig:"ROUTES_FILE"`

	// SigKey signs the Grip-Sig header of requests to HTTP origins: text,
	// base64:…, or file:PEM with an RSA or EC key. The default is public and
	// proves nothing. Empty leaves requests unsigned.
	SigKey Secret `envconfig:"SIG_KEY" default:"changeme" secret:"true"`

	// SigIss is the issuer named in Grip-Sig.
	SigIss string `envconfig:"SIG_ISS" default:"pushpin"`

	// UpstreamKey verifies the Grip-Sig of GRIP gateways in front of this one,
	// whose requests are passed on as they are. Same forms as SIG_KEY; two,
	// comma separated, while one is replaced. Not set, nobody is trusted.
	UpstreamKey Secret `envconfig:"UPSTREAM_KEY" secret:"true"`

	// UpstreamCAFile is a PEM file with the certificates that HTTP origins
	// with TLS are verified by, in place of the usual ones.
	UpstreamCAFile string `envconfig:"UPSTREAM_CA_FILE"`

	// UpstreamConnectTimeout is how long connecting to a target, and its TLS
	// handshake, may take before the route's next target is tried. 10ms to 5m.
	UpstreamConnectTimeout time.Duration `envconfig:"UPSTREAM_CONNECT_TIMEOUT" default:"10s"`

	// UpstreamTimeout is how long an HTTP origin may take from the end of the
	// request to the head of its response. 100ms to 1h.
	UpstreamTimeout time.Duration `envconfig:"UPSTREAM_TIMEOUT" default:"60s"`

	// XForwardedFor says how X-Forwarded-For goes to HTTP origins: truncate:N
	// keeps its last N entries, append adds the client's address, comma
	// separated. Empty leaves it alone; with TRUSTED_PROXIES it is append.
	XForwardedFor []string `envconfig:"X_FORWARDED_FOR"`

	// XForwardedForTrusted is the same for the requests that UPSTREAM_KEY
	// verifies.
	XForwardedForTrusted []string `envconfig:"X_FORWARDED_FOR_TRUSTED"`

	// SetXForwardedProtocol says how HTTP origins learn that a client came by
	// TLS: proto-only (X-Forwarded-Proto), true (X-Forwarded-Protocol as well), or
	// false (what the client says is passed on).
	SetXForwardedProtocol string `envconfig:"SET_X_FORWARDED_PROTOCOL" default:"proto-only"`

	// CDNLoop is added to the CDN-Loop header of requests to HTTP origins, such as
	// a name of this installation. Empty leaves the header alone.
	CDNLoop string `envconfig:"CDN_LOOP"`

	// LinkHosts are the hosts, comma separated, that links of HTTP origins (next,
	// gone, and the url of http-check and http-modify) may lead to besides the targets
	// of their routes: HOST, HOST:PORT, or * for any.
	LinkHosts []string `envconfig:"LINK_HOSTS"`

	// OrigHeadersNeedMark are the headers, comma separated, of which a route with
	// orig_headers copies only what came marked, as eb9bf0f5-NAME, from another
	// proxy.
	OrigHeadersNeedMark []string `envconfig:"ORIG_HEADERS_NEED_MARK"`

	// AcceptPushpinRoute lets a request choose its route by id, with a
	// Pushpin-Route header.
	AcceptPushpinRoute bool `envconfig:"ACCEPT_PUSHPIN_ROUTE" default:"false"`

	// AutoCrossOrigin lets pages of other sites use all routes, by CORS headers and
	// JSON-P, as the option aco does on one.
	AutoCrossOrigin bool `envconfig:"AUTO_CROSS_ORIGIN" default:"false"`

	// SockJSURL is the script that browsers load in a frame, for routes with sockjs,
	// where a page may not ask another site itself: a URL of sockjs-client.
	SockJSURL string `envconfig:"SOCKJS_URL" default:"https://cdn.jsdelivr.net/npm/sockjs-client@1.6.1"`

	// SockJSHeartbeat is how long a SockJS client hears nothing at most. 1s to 10m.
	SockJSHeartbeat time.Duration `envconfig:"SOCKJS_HEARTBEAT" default:"25s"`

	// SockJSSessionTimeout is how long a SockJS session lasts while no request of
	// its client waits for messages. 1s to 10m.
	SockJSSessionTimeout time.Duration `envconfig:"SOCKJS_SESSION_TIMEOUT" default:"5s"`

	// SockJSResponseBytes is what a streaming response of SockJS carries before the
	// client has to come again, since browsers keep all of it. 1KiB to 1GiB.
	SockJSResponseBytes bytesize.Bytes `envconfig:"SOCKJS_RESPONSE_BYTES" default:"128KiB"`

	// SockJSBufferBytes is what waits for the next request of a SockJS session;
	// beyond it, messages stay with the channel for WRITE_TIMEOUT. 1KiB to 1GiB.
	SockJSBufferBytes bytesize.Bytes `envconfig:"SOCKJS_BUFFER_BYTES" default:"256KiB"`

	// SockJSSendBytes is the largest request or message with which a SockJS client
	// may send. 1KiB to 1GiB.
	SockJSSendBytes bytesize.Bytes `envconfig:"SOCKJS_SEND_BYTES" default:"256KiB"`

	// ProxyDebug tells clients what went wrong between gateway and HTTP origin,
	// on all routes, as the option debug does on one.
	ProxyDebug bool `envconfig:"PROXY_DEBUG" default:"false"`

	// ControlAddr is where the control API listens, host:port: POST
	// /publish/, GET /channels and GET /connections. Keep it private. Empty turns it off.
	ControlAddr string `envconfig:"CONTROL_ADDR" default:"127.0.0.1:5561"`

	// ControlKey is the bearer token, or the key of the JWTs, that the control
	// API asks for. Same forms as SIG_KEY; either of two, comma separated. Needed
	// where CONTROL_ADDR is not a loopback address, unless there are
	// CONTROL_REALMS.
	ControlKey Secret `envconfig:"CONTROL_KEY" secret:"true"`

	// ControlRealms are further keys of the control API, each of which opens
	// nothing but /realm/ID/publish/ and /service/ID/publish/: a comma list of
	// ID=KEY, such as myrealm=base64:…. Same forms as CONTROL_KEY; a JWT's iss
	// is ID or fastly:ID.
	ControlRealms Secret `envconfig:"CONTROL_REALMS" secret:"true"`

	// ControlInsecure allows a CONTROL_ADDR that others can reach without a
	// key.
	ControlInsecure bool `envconfig:"CONTROL_INSECURE" default:"false"`

	// ControlHosts are the names, besides localhost and IP addresses, that the
	// control API may be called by (the Host of requests), comma separated.
	ControlHosts []string `envconfig:"CONTROL_HOSTS"`

	// ControlMaxBody is the largest request that the control API reads,
	// compressed or not. 1KiB to 1GiB.
	ControlMaxBody bytesize.Bytes `envconfig:"CONTROL_MAX_BODY" default:"1MB"`

	// ChannelLogBytes is how much a channel retains for clients that reconnect
	// or are slow; who is further behind is served from Kafka. 4KiB to 1GiB.
	ChannelLogBytes bytesize.Bytes `envconfig:"CHANNEL_LOG_BYTES" default:"4MiB"`

	// ChannelLogAge is how long a channel retains an item. 1s to 1h.
	ChannelLogAge time.Duration `envconfig:"CHANNEL_LOG_AGE" default:"60s"`

	// ChannelLogMinAge is how long a channel retains an item even beyond
	// CHANNEL_LOG_BYTES, while less than half of LOG_MEMORY is in use, so that
	// nobody falls behind a very fast topic in a moment. 0 to 10s.
	ChannelLogMinAge time.Duration `envconfig:"CHANNEL_LOG_MIN_AGE" default:"250ms"`

	// FlushPauseMax bounds the rest between two rounds of writes to all clients
	// of a channel, on each core: three times what a round took, where the last two
	// took 1ms or more. It lets more items leave in one write while there are many; an
	// item that comes after a rest leaves at once. 0 to 1s; 0 means no rest.
	FlushPauseMax time.Duration `envconfig:"FLUSH_PAUSE_MAX" default:"10ms"`

	// IOUring lets writes to many clients share a system call, on Linux 5.19 and
	// later. Where io_uring is missing or forbidden, as in many containers, each
	// write is one of its own, and the log says so at the start.
	IOUring bool `envconfig:"IO_URING" default:"true"`

	// MessageWait is how long an item published to a channel waits for those
	// that its prev-id says come before it. 10ms to 1m.
	MessageWait time.Duration `envconfig:"MESSAGE_WAIT" default:"5s"`

	// MessageWaitMemory is what items that wait so may take, of all channels
	// together; others are dropped. 64KiB to 1GiB.
	MessageWaitMemory bytesize.Bytes `envconfig:"MESSAGE_WAIT_MEMORY" default:"16MiB"`

	// UpdateOnFirstSubscription lets long polls, and streams with a next link,
	// ask their origin again a second after the first of them has subscribed to a
	// channel, so that nothing is missed between an answer and its subscription.
	UpdateOnFirstSubscription bool `envconfig:"UPDATE_ON_FIRST_SUBSCRIPTION" default:"true"`

	// MemoryLimit is the memory that the process may use, from which shares
	// are derived. 0 means the limit of the container, or else all memory of
	// the machine.
	MemoryLimit bytesize.Bytes `envconfig:"MEMORY_LIMIT" default:"0"`

	// LogMemory is what all channels together retain. Beyond it the oldest
	// items go first. 0 means a quarter of MEMORY_LIMIT; else 1MiB or more.
	LogMemory bytesize.Bytes `envconfig:"LOG_MEMORY" default:"0"`

	// CacheMemory is what answers of HTTP origins may take that are kept for
	// others, by routes with the option cache. 0 means a sixteenth of
	// MEMORY_LIMIT where there are routes; else 1MiB or more.
	CacheMemory bytesize.Bytes `envconfig:"CACHE_MEMORY" default:"0"`

	// CacheMaxAnswer is the largest answer that is kept, and never more than a
	// quarter of CACHE_MEMORY. 1KiB to 1GiB.
	CacheMaxAnswer bytesize.Bytes `envconfig:"CACHE_MAX_ANSWER" default:"1MiB"`

	// CachePublishInterval is the least time between two requests to an origin
	// for an answer that holds channels, and that publications have made stale:
	// clients that come meanwhile wait. 0 to 1m.
	CachePublishInterval time.Duration `envconfig:"CACHE_PUBLISH_INTERVAL" default:"250ms"`

	// MaxConnections is how many streams, WebSockets and other requests are
	// served at once; more are refused, so that clients try again. 0 means as
	// many as a quarter of MEMORY_LIMIT holds at 8KiB each (48KiB with TLS), and
	// as there may be sockets open; the log says at start how many those are.
	// For more than that, raise MEMORY_LIMIT as well.
	MaxConnections int `envconfig:"MAX_CONNECTIONS" default:"0"`

	// MaxConnectionsPerIP is the same for one client address (of IPv6, one /64
	// network). Behind a proxy it needs TRUSTED_PROXIES. 0 means any number.
	MaxConnectionsPerIP int `envconfig:"MAX_CONNECTIONS_PER_IP" default:"0"`

	// MaxConnectionsPerSubject is the same for one subject of EVENTS_PATH: who a
	// token, or the answer of AUTH_URL, says that it is. 0 means any number.
	MaxConnectionsPerSubject int `envconfig:"MAX_CONNECTIONS_PER_SUBJECT" default:"0"`

	// MaxSubscriptions is how many streams one WebSocket may carry. 1 to 1000.
	MaxSubscriptions int `envconfig:"MAX_SUBSCRIPTIONS" default:"20"`

	// WriteTimeout is how long a client's connection may take nothing before
	// it is closed. 1s to 10m.
	WriteTimeout time.Duration `envconfig:"WRITE_TIMEOUT" default:"30s"`

	// ConnectionMaxAge is how long a stream of EVENTS_PATH lasts, ± 20 %;
	// clients then reconnect, which spreads them over replicas. 0 means no
	// limit; else 1s or more.
	ConnectionMaxAge time.Duration `envconfig:"CONNECTION_MAX_AGE" default:"30m"`

	// Compression lists how streams of EVENTS_PATH may be compressed, the best
	// first, comma separated: zstd and gzip for SSE and NDJSON, permessage-deflate
	// for WebSockets. A client that offers none of them gets its stream as it is.
	// What is compressed is shared by all clients of a channel. Empty means no
	// compression.
	Compression []string `envconfig:"COMPRESSION"`

	// MaxHeaderBytes bounds the request line and headers of a client. 1KiB to
	// 1MiB.
	MaxHeaderBytes bytesize.Bytes `envconfig:"MAX_HEADER_BYTES" default:"16KiB"`

	// MaxHeaders is how many headers a request may have. 10 to 10000.
	MaxHeaders int `envconfig:"MAX_HEADERS" default:"100"`

	// MaxURLBytes is how long the URL of a request may be; MAX_HEADER_BYTES counts
	// it, too. 256 bytes to 1MiB.
	MaxURLBytes bytesize.Bytes `envconfig:"MAX_URL_BYTES" default:"8KiB"`

	// HeaderTimeout is how long a client may take for a TLS handshake, and for the
	// head of a request. 100ms to 10m.
	HeaderTimeout time.Duration `envconfig:"HEADER_TIMEOUT" default:"10s"`

	// BodyTimeout is how long a client may pause within the body of a request.
	// 100ms to 1h.
	BodyTimeout time.Duration `envconfig:"BODY_TIMEOUT" default:"60s"`

	// RequestRatePerIP is how many requests, WebSocket handshakes included, one
	// client address (of IPv6, one /64 network) may make a second; twice as many at
	// once. Behind a proxy it needs TRUSTED_PROXIES. 0 means any number.
	RequestRatePerIP int `envconfig:"REQUEST_RATE_PER_IP" default:"0"`

	// ConnectRatePerIP is the same for new connections, but those of
	// TRUSTED_PROXIES.
	ConnectRatePerIP int `envconfig:"CONNECT_RATE_PER_IP" default:"0"`

	// MaxIdleConnections is how many connections may be open on which no request is
	// being served: beyond it those are closed that have been idle longest, but none
	// that has only just come. 0 means a quarter of MAX_CONNECTIONS and 64.
	MaxIdleConnections int `envconfig:"MAX_IDLE_CONNECTIONS" default:"0"`

	// MessageMaxBytes is the largest message that passes between a client and an
	// HTTP origin, in either direction, on a WebSocket that is not over_http. 1KiB
	// to 64MiB.
	MessageMaxBytes bytesize.Bytes `envconfig:"MESSAGE_MAX_BYTES" default:"1MiB"`

	// EventsMessageMaxBytes is the largest message of a client on a WebSocket of
	// EVENTS_PATH, inflated. 1KiB to 1MiB.
	EventsMessageMaxBytes bytesize.Bytes `envconfig:"EVENTS_MESSAGE_MAX_BYTES" default:"64KiB"`

	// EventsMessageRate is how many messages a client may send a second on a
	// WebSocket of EVENTS_PATH, twice as many at once; more close it. 0 means any
	// number.
	EventsMessageRate int `envconfig:"EVENTS_MESSAGE_RATE" default:"100"`

	// TLSCertFile is a PEM file with the certificate for HTTP_ADDR and its
	// chain. It is read again when it changes. With it clients can use HTTP/2.
	TLSCertFile string `envconfig:"TLS_CERT_FILE"`

	// TLSKeyFile is a PEM file with the key of TLS_CERT_FILE.
	TLSKeyFile string `envconfig:"TLS_KEY_FILE"`

	// TLSClientCAFile is a PEM file with the authorities whose certificates clients
	// of HTTP_ADDR must show. It is read again when it changes. Not set, clients
	// show none.
	TLSClientCAFile string `envconfig:"TLS_CLIENT_CA_FILE"`

	// TrustedProxies are the addresses or networks, comma separated, of
	// proxies whose X-Forwarded-* headers are believed, such as 10.0.0.0/8. With
	// them HTTP_ADDR also speaks HTTP/2 without TLS (h2c, prior knowledge).
	TrustedProxies []string `envconfig:"TRUSTED_PROXIES"`

	// ProxyProtocol says that all connections to HTTP_ADDR are made by
	// TRUSTED_PROXIES, and begin with a header of the PROXY protocol (version 1 or
	// 2), which names the client. Others are refused.
	ProxyProtocol bool `envconfig:"PROXY_PROTOCOL" default:"false"`

	// Secrets say when a file of a secret has changed; nil: none does.
	Secrets *secret.Source `ignored:"true"`

	// AuditLog is where a line of JSON goes for each stream that is opened, closed or
	// refused: who, when, why, from where, which topics. A file, which is opened again
	// on SIGHUP, or - for standard error. Not set, nothing is kept.
	AuditLog string `envconfig:"AUDIT_LOG"`

	// AuditRefusalRate is how many refusals a second AUDIT_LOG has, ten times as many
	// at once; it says how many more there were. 0 means any number.
	AuditRefusalRate int `envconfig:"AUDIT_REFUSAL_RATE" default:"10"`

	// OtherMemory is what others in the process may take of MEMORY_LIMIT.
	OtherMemory bytesize.Bytes `ignored:"true"`

	// PrometheusPrefix is put before the names of the metrics that are Pushpin's
	// (request_received, message_sent and others), as its prometheus_prefix.
	PrometheusPrefix string `envconfig:"PROMETHEUS_PREFIX"`

	// CheckPublish, where set, is asked whether content may be published from
	// outside to a channel that is not open now: an error, whose text is shown
	// to the publisher, refuses it.
	CheckPublish func(channel string) error `ignored:"true"`

	// Listen, where set, is told of each channel to which the HTTP origin of a
	// route below EVENTS_PATH subscribes a client, before the client is answered,
	// so that a publisher in this process may open it. On an error there is
	// nobody to listen to: the client is refused.
	Listen func(ctx context.Context, channel string) error `ignored:"true"`

	// Owns, where set, reports whether a channel is one that a publisher in this
	// process opens. The HTTP origins of routes that are not below EVENTS_PATH
	// subscribe nobody to these: they may name channels as their clients like.
	Owns func(channel string) bool `ignored:"true"`
}

// metricName is what the name of a metric may begin with.
var metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)

// Validate reports everything that is wrong, not only the first thing.
func (c *Config) Validate() error {
	var errs []error
	bad := func(env string, got any, want string) {
		errs = append(errs, fmt.Errorf("%s=%v: %s", env, got, want))
	}
	key := func(env string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", env, err))
		}
	}
	between := func(env string, got, low, high bytesize.Bytes) {
		if got < low || got > high {
			bad(env, got, fmt.Sprintf("must be between %v and %v", low, high))
		}
	}
	if _, _, err := net.SplitHostPort(c.HTTPAddr); err != nil {
		bad("HTTP_ADDR", c.HTTPAddr, "write host:port, such as :7999 or 127.0.0.1:7999")
	}
	if p := c.EventsPath; strings.ContainsAny(p, "?#%~ ") || strings.Contains(p, "//") {
		bad("EVENTS_PATH", p, "write a plain path, such as /events/")
	}
	if _, err := c.routes(); err != nil {
		errs = append(errs, err)
	}
	_, err := parseSigKey(string(c.SigKey))
	key("SIG_KEY", err)
	_, err = parseUpstreamKeys(string(c.UpstreamKey))
	key("UPSTREAM_KEY", err)
	controlKeys, err := parseControlKeys(string(c.ControlKey))
	key("CONTROL_KEY", err)
	realms, err := parseRealms(string(c.ControlRealms))
	if err != nil {
		errs = append(errs, err)
	}
	if c.ControlAddr != "" {
		keyed := len(controlKeys) > 0 || len(realms) > 0
		if err := control.CheckAddr(c.ControlAddr, keyed, c.ControlInsecure); err != nil {
			errs = append(errs, err)
		}
	}
	between("CONTROL_MAX_BODY", c.ControlMaxBody, 1<<10, 1<<30)
	if m := c.CacheMemory; m != 0 && m < 1<<20 {
		bad("CACHE_MEMORY", m, "must be 0 or at least 1MiB")
	}
	between("CACHE_MAX_ANSWER", c.CacheMaxAnswer, 1<<10, 1<<30)
	if d := c.CachePublishInterval; d < 0 || d > time.Minute {
		bad("CACHE_PUBLISH_INTERVAL", d, "must be between 0 and 1m")
	}
	between("CHANNEL_LOG_BYTES", c.ChannelLogBytes, 4<<10, 1<<30)
	if d := c.ChannelLogAge; d < time.Second || d > time.Hour {
		bad("CHANNEL_LOG_AGE", d, "must be between 1s and 1h")
	}
	if d := c.ChannelLogMinAge; d < 0 || d > 10*time.Second {
		bad("CHANNEL_LOG_MIN_AGE", d, "must be between 0 and 10s")
	}
	if d := c.FlushPauseMax; d < 0 || d > time.Second {
		bad("FLUSH_PAUSE_MAX", d, "must be between 0 and 1s")
	}
	if c.LogMemory != 0 && c.LogMemory < 1<<20 {
		bad("LOG_MEMORY", c.LogMemory, "must be 0 or at least 1MiB")
	}
	if n := c.MaxConnections; n < 0 || n > mostConnections {
		bad("MAX_CONNECTIONS", n, fmt.Sprintf("must be between 0 and %d", mostConnections))
	}
	c.checkMemory(bad)
	if c.MaxConnectionsPerIP < 0 {
		bad("MAX_CONNECTIONS_PER_IP", c.MaxConnectionsPerIP, "must be 0 or more")
	}
	if c.MaxConnectionsPerSubject < 0 {
		bad("MAX_CONNECTIONS_PER_SUBJECT", c.MaxConnectionsPerSubject, "must be 0 or more")
	}
	if n := c.MaxSubscriptions; n < 1 || n > 1000 {
		bad("MAX_SUBSCRIPTIONS", n, "must be between 1 and 1000")
	}
	if d := c.MessageWait; d < 10*time.Millisecond || d > time.Minute {
		bad("MESSAGE_WAIT", d, "must be between 10ms and 1m")
	}
	between("MESSAGE_WAIT_MEMORY", c.MessageWaitMemory, 64<<10, 1<<30)
	if d := c.WriteTimeout; d < time.Second || d > 10*time.Minute {
		bad("WRITE_TIMEOUT", d, "must be between 1s and 10m")
	}
	c.checkSockJS(bad, between)
	if d := c.ConnectionMaxAge; d != 0 && d < time.Second {
		bad("CONNECTION_MAX_AGE", d, "must be 0 or at least 1s")
	}
	if _, unknown := parseCompression(c.Compression); unknown != "" {
		bad("COMPRESSION", unknown, "is none of zstd, gzip, permessage-deflate")
	}
	if d := c.UpstreamConnectTimeout; d < 10*time.Millisecond || d > 5*time.Minute {
		bad("UPSTREAM_CONNECT_TIMEOUT", d, "must be between 10ms and 5m")
	}
	if d := c.UpstreamTimeout; d < 100*time.Millisecond || d > time.Hour {
		bad("UPSTREAM_TIMEOUT", d, "must be between 100ms and 1h")
	}
	if _, err := upstream.ParseForwardedFor(c.XForwardedFor); err != nil {
		errs = append(errs, fmt.Errorf("X_FORWARDED_FOR: %w", err))
	}
	if _, err := upstream.ParseForwardedFor(c.XForwardedForTrusted); err != nil {
		errs = append(errs, fmt.Errorf("X_FORWARDED_FOR_TRUSTED: %w", err))
	}
	switch upstream.ProtoHeader(c.SetXForwardedProtocol) {
	case upstream.ProtoOnly, upstream.ProtoBoth, upstream.ProtoNone:
	default:
		bad("SET_X_FORWARDED_PROTOCOL", c.SetXForwardedProtocol, "must be proto-only, true or false")
	}
	if !httpguts.ValidHeaderFieldValue(c.CDNLoop) || strings.Contains(c.CDNLoop, ",") {
		bad("CDN_LOOP", c.CDNLoop, "must be one entry of a header, such as edge.example.com")
	}
	if _, err := upstream.ParseLinkHosts(c.LinkHosts); err != nil {
		errs = append(errs, fmt.Errorf("LINK_HOSTS: %w", err))
	}
	for _, name := range c.OrigHeadersNeedMark {
		if !httpguts.ValidHeaderFieldName(name) {
			bad("ORIG_HEADERS_NEED_MARK", name, "must be names of headers, comma separated")
		}
	}
	between("MESSAGE_MAX_BYTES", c.MessageMaxBytes, 1<<10, 64<<20)
	between("EVENTS_MESSAGE_MAX_BYTES", c.EventsMessageMaxBytes, 1<<10, 1<<20)
	between("MAX_HEADER_BYTES", c.MaxHeaderBytes, 1<<10, 1<<20)
	c.checkPatience(bad)
	between("MAX_URL_BYTES", c.MaxURLBytes, 256, 1<<20)
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		errs = append(errs, errors.New("TLS_CERT_FILE and TLS_KEY_FILE: set both or none"))
	} else if c.TLSCertFile != "" {
		if _, err := newCertificate(c.certificateFiles(), slog.New(slog.DiscardHandler)); err != nil {
			errs = append(errs, err)
		}
	}
	if c.TLSClientCAFile != "" && c.TLSCertFile == "" {
		bad("TLS_CLIENT_CA_FILE", c.TLSClientCAFile, "needs TLS_CERT_FILE and TLS_KEY_FILE")
	}
	if p := c.PrometheusPrefix; p != "" && !metricName.MatchString(p) {
		bad("PROMETHEUS_PREFIX", p, "write letters, digits and _, such as pushpin_")
	}
	if proxies, err := c.trustedProxies(); err != nil {
		errs = append(errs, err)
	} else if c.ProxyProtocol && len(proxies) == 0 {
		bad("PROXY_PROTOCOL", true, "needs TRUSTED_PROXIES, the addresses of who may say so")
	}
	return errors.Join(errs...)
}

// checkPatience looks at what bounds how much and how fast clients may ask.
func (c *Config) checkPatience(bad func(env string, got any, want string)) {
	if n := c.MaxHeaders; n < 10 || n > 10_000 {
		bad("MAX_HEADERS", n, "must be between 10 and 10000")
	}
	if d := c.HeaderTimeout; d < 100*time.Millisecond || d > 10*time.Minute {
		bad("HEADER_TIMEOUT", d, "must be between 100ms and 10m")
	}
	if d := c.BodyTimeout; d < 100*time.Millisecond || d > time.Hour {
		bad("BODY_TIMEOUT", d, "must be between 100ms and 1h")
	}
	const most = 1_000_000
	for _, r := range []struct {
		env string
		n   int
	}{{"REQUEST_RATE_PER_IP", c.RequestRatePerIP}, {"CONNECT_RATE_PER_IP", c.ConnectRatePerIP}, {"EVENTS_MESSAGE_RATE", c.EventsMessageRate}, {"AUDIT_REFUSAL_RATE", c.AuditRefusalRate}} {
		if r.n < 0 || r.n > most {
			bad(r.env, r.n, fmt.Sprintf("must be between 0 and %d", most))
		}
	}
	if n := c.MaxIdleConnections; n < 0 || n > mostConnections {
		bad("MAX_IDLE_CONNECTIONS", n, fmt.Sprintf("must be between 0 and %d", mostConnections))
	}
}

// checkMemory holds what channels and connections may take against the whole.
func (c *Config) checkMemory(bad func(env string, got any, want string)) {
	limit, logs := c.Memory()
	connections, answers := c.ConnectionMemory(), c.CacheBytes()
	besides := ""
	if answers > 0 {
		besides = fmt.Sprintf(" and CACHE_MEMORY (%v)", answers)
	}
	switch {
	case c.MemoryLimit != 0 && c.MemoryLimit < 16<<20:
		bad("MEMORY_LIMIT", c.MemoryLimit, "must be 0 or at least 16MiB")
	case logs > limit:
		bad("LOG_MEMORY", c.LogMemory, fmt.Sprintf("must not be more than the memory there is (%v)", limit))
	case logs+answers > limit:
		bad("CACHE_MEMORY", c.CacheMemory, fmt.Sprintf("must not be more than the memory there is (%v), less LOG_MEMORY (%v)", limit, logs))
	case c.MaxConnections > mostConnections, logs+connections+answers <= limit:
	case c.MaxConnections > 0:
		bad("MAX_CONNECTIONS", c.MaxConnections, fmt.Sprintf("may take %v, at %v each, and there are %v less LOG_MEMORY (%v)%s; lower it, or raise MEMORY_LIMIT",
			connections, c.ConnectionCost(), limit, logs, besides))
	default:
		bad("LOG_MEMORY", c.LogMemory, fmt.Sprintf("leaves connections less than %v of the memory there is (%v)", connections, limit))
	}
}

// Fanout is what the engine of this configuration is made with.
func (c *Config) Fanout() fanout.Config {
	_, logMemory := c.Memory()
	var firstUpdate time.Duration
	if c.UpdateOnFirstSubscription {
		firstUpdate = time.Second
	}
	return fanout.Config{
		MessageWait:      c.MessageWait,
		WaitingMemory:    int64(c.MessageWaitMemory),
		FirstUpdate:      firstUpdate,
		ChannelLogBytes:  int64(c.ChannelLogBytes),
		ChannelLogMinAge: c.ChannelLogMinAge,
		ChannelLogAge:    c.ChannelLogAge,
		MaxPause:         c.FlushPauseMax,
		NoIOUring:        !c.IOUring,
		LogMemory:        int64(logMemory),
		PrivateMemory:    int64(c.ConnectionMemory() / 2),
	}
}

// NormalEventsPath is EVENTS_PATH with a slash at both ends, or empty.
func (c *Config) NormalEventsPath() string {
	path := strings.Trim(c.EventsPath, "/")
	switch {
	case path != "":
		return "/" + path + "/"
	case c.EventsPath != "":
		return "/"
	default:
		return ""
	}
}

// parseSigKey reads SIG_KEY; the zero Key if it is empty.
func parseSigKey(text string) (grip.Key, error) {
	if text == "" {
		return grip.Key{}, nil
	}
	k, err := grip.ParseKey(text)
	if err != nil {
		return grip.Key{}, err
	}
	if _, err := k.Sign("", time.Now()); err != nil {
		return grip.Key{}, fmt.Errorf("%w; give the private key, or a secret", err)
	}
	return k, nil
}

// parseControlKeys reads CONTROL_KEY; none if it is empty.
func parseControlKeys(text string) (grip.Keys, error) {
	if text == "" {
		return nil, nil
	}
	return grip.ParseKeys(text)
}

// parseUpstreamKeys reads UPSTREAM_KEY; none if it is empty.
func parseUpstreamKeys(text string) (grip.Keys, error) {
	if text == "" {
		return nil, nil
	}
	keys, err := grip.ParseKeys(text)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if _, err := k.VerifyBearer("changeme", time.Now()); err == nil {
			return nil, errors.New("changeme is public; choose a key that only the gateways in front know")
		}
	}
	return keys, nil
}

// parseRealms reads CONTROL_REALMS. Errors do not show the keys.
func parseRealms(text string) (map[string]grip.Key, error) {
	realms := make(map[string]grip.Key)
	var errs []error
	n := 0
	for one := range strings.SplitSeq(text, ",") {
		n++
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		id, text, ok := strings.Cut(one, "=")
		id = strings.TrimSpace(id)
		if !ok || id == "" || strings.Contains(id, "/") {
			errs = append(errs, fmt.Errorf("CONTROL_REALMS: entry %d: write ID=KEY", n))
			continue
		}
		k, err := grip.ParseKey(strings.TrimSpace(text))
		if err != nil {
			errs = append(errs, fmt.Errorf("CONTROL_REALMS: entry %d: %w", n, err))
			continue
		}
		if _, twice := realms[id]; twice {
			errs = append(errs, fmt.Errorf("CONTROL_REALMS: entry %d: its id was there before; an id has one key", n))
		}
		realms[id] = k
	}
	if text != "" && len(realms)+len(errs) == 0 {
		errs = append(errs, errors.New("CONTROL_REALMS: nothing but commas; write ID=KEY"))
	}
	return realms, errors.Join(errs...)
}

func (c *Config) trustedProxies() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, s := range c.TrustedProxies {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			addr, addrErr := netip.ParseAddr(s)
			if addrErr != nil {
				return nil, fmt.Errorf("TRUSTED_PROXIES: %q is neither an address nor a network; write 10.0.0.0/8 or 10.1.2.3", s)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}

// mostConnections is the largest MAX_CONNECTIONS.
const mostConnections = 100_000_000

// Memory is the memory that there is for the process, and the share of it that
// channels may retain.
func (c *Config) Memory() (limit, logs bytesize.Bytes) {
	limit, logs = c.memoryLimit(), c.LogMemory
	if logs == 0 {
		logs = limit / 4
	}
	return limit, logs
}

// memoryLimit is the memory that there is for the process.
func (c *Config) memoryLimit() bytesize.Bytes {
	if c.MemoryLimit > 0 {
		return c.MemoryLimit
	}
	return machineMemory(os.ReadFile)
}

// fallbackMemory is assumed where the system does not say what there is.
const fallbackMemory = 1 << 30

// machineMemory is the smallest of the limit of the control group and the
// memory of the machine.
func machineMemory(readFile func(string) ([]byte, error)) bytesize.Bytes {
	limit := int64(0)
	consider := func(n int64, err error) {
		if err == nil && n > 0 && (limit == 0 || n < limit) {
			limit = n
		}
	}
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := readFile(name) // "max" where there is no limit
		if err == nil {
			consider(strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64))
		}
	}
	if b, err := readFile("/proc/meminfo"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "MemTotal:"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				kib, err := strconv.ParseInt(fields[0], 10, 64)
				consider(kib<<10, err)
			}
		}
	}
	if limit == 0 {
		limit = fallbackMemory
	}
	return bytesize.Bytes(limit)
}

// A Secret does not show itself in logs and messages.
type Secret string

const hidden = "‹hidden›"

// String hides the secret from fmt.
func (s Secret) String() string { return hidden }

// GoString hides it from %#v.
func (s Secret) GoString() string { return hidden }

// LogValue hides it from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }
