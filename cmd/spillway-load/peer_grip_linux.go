package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"spillway/grip"
)

// A gripPeer is a GRIP proxy in front of an origin that holds every request as
// a stream, and is published to by POST /publish/: Pushpin, or ours.
type gripPeer struct {
	peer
	outside netip.AddrPort // of an origin that also takes WebSockets over HTTP; the zero one: it is in this process
	origin  *http.Server   // in this process; nil when it is not running
}

func (g *gripPeer) subscribeRequest(channel string, _ int) []byte {
	return subscribeTo(g.http, "/"+channel, false)
}

// serveOrigin starts the origin, unless there is one, and returns the target of
// the route to it.
func (g *gripPeer) serveOrigin() (target string, err error) {
	if g.outside.IsValid() {
		return g.outside.String() + ",over_http", nil
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{channel}", func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Grip-Hold", "stream")
		h.Set("Grip-Channel", r.PathValue("channel"))
	})
	g.origin = &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { // ends when stop closes it
		if err := g.origin.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			panic(fmt.Sprintf("origin: %v", err)) // it has no other reason to end
		}
	}()
	return ln.Addr().String(), nil
}

func (g *gripPeer) stop() {
	g.peer.stop()
	if g.origin != nil {
		g.origin.Close()
		g.origin = nil
	}
}

// postItems publishes to addr, an event for each payload with the bytes that
// the floor sends.
func postItems(addr netip.AddrPort) poster {
	return poster{
		to: addr, kind: "application/json",
		path: func(string) string { return "/publish/" },
		body: func(channel string, payloads [][]byte) []byte {
			items := make([]grip.Item, len(payloads))
			for i, payload := range payloads {
				event := fmt.Appendf(nil, "event: message\nid: %s\ndata: %s\n\n", floorID, payload)
				items[i] = grip.Item{Channel: channel, HTTPStream: &grip.HTTPStream{Content: event}}
			}
			return grip.AppendItems(nil, items...)
		},
	}
}

// A gatewayPeer is spillway gateway, over the same road as the others.
type gatewayPeer struct {
	gripPeer
	binary string
	ops    netip.AddrPort
}

func newGatewayPeer(binary string) *gatewayPeer {
	return &gatewayPeer{gripPeer: gripPeer{peer: peer{label: "spillway gateway"}}, binary: binary}
}

func (g *gatewayPeer) start(ctx context.Context) error {
	origin, err := g.serveOrigin()
	if err != nil {
		return err
	}
	err = g.prepare(3, func(_ string, free []netip.AddrPort) map[string]string {
		g.http = free[0]
		g.poster = postItems(free[1])
		g.ops = free[2]
		// It reads .env in its directory; the environment is passed on, so that
		// settings can be tried.
		return map[string]string{".env": fmt.Sprintf("HTTP_ADDR=%s\nCONTROL_ADDR=%s\nOPS_ADDR=%s\nROUTES=* %s\nDEBUG=true\nLOG_LEVEL=error\nDRAIN_TIMEOUT=1s\n",
			g.http, free[1], g.ops, origin)}
	})
	if err != nil {
		return err
	}
	return g.run(ctx, g.subscribeRequest("ready", 0), g.binary, "gateway")
}

// A pushpin is the GRIP proxy that the protocol comes from: a runner, condure
// with the clients, zurl with the origin, a proxy and a handler.
//
// Of a thousand streams that are opened it drops a few at their first message
// (condure's keep-alive and the hand-over from proxy to handler may cross, and
// the handler finds a message "out of sequence"), and it answers some with 502
// when more than 50 are being opened: who measures it opens those again.
type pushpin struct {
	gripPeer
}

func newPushpin() *pushpin {
	return &pushpin{gripPeer{peer: peer{label: "Pushpin"}}}
}

func (p *pushpin) start(ctx context.Context) error {
	if err := p.installed(ctx, "pushpin", "pushpin", "condure", "zurl", "setpriv"); err != nil {
		return err
	}
	origin, err := p.serveOrigin()
	if err != nil {
		return err
	}
	// Now and then its parts do not find each other: it says that it has started
	// and answers everything with 500.
	for range 3 {
		if err = p.try(ctx, origin); err == nil || ctx.Err() != nil {
			break
		}
		p.peer.stop()
	}
	return err
}

func (p *pushpin) try(ctx context.Context, origin string) error {
	err := p.prepare(2, func(dir string, free []netip.AddrPort) map[string]string {
		p.http = free[0]
		p.poster = postItems(free[1])
		p.oneByOne = true
		return map[string]string{
			"pushpin.conf": pushpinConfig(dir, p.http, free[1]),
			"routes":       fmt.Sprintf("* %s\n", origin),
		}
	})
	if err != nil {
		return err
	}
	if err := os.Mkdir(p.dir+"/run", 0o700); err != nil { // for its sockets
		return err
	}
	return p.run(ctx, p.subscribeRequest("ready", 0), "pushpin", "--config="+p.dir+"/pushpin.conf")
}

// pushpinConfig is Debian's, without the limits of deliveries a second and of
// those that wait, behind which messages are dropped. A high limit is not the
// same as none (-1): it delivers in beats, which costs less CPU time, but did
// not bear more.
func pushpinConfig(dir string, clients, publish netip.AddrPort) string {
	return fmt.Sprintf(`[global]
include={libdir}/internal.conf
rundir=%[1]s/run
ipc_prefix=pushpin-
port_offset=0
stats_connection_ttl=120

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=%[2]s
logdir=%[1]s
log_level=1
client_buffer_size=8192
client_maxconn=19500
condure_bin=condure
zurl_bin=zurl

[proxy]
routesfile=routes
debug=false
auto_cross_origin=false
sig_iss=pushpin
sig_key=changeme
updates_check=off
zurl_out_specs=ipc://{rundir}/{ipc_prefix}zurl-in
zurl_out_stream_specs=ipc://{rundir}/{ipc_prefix}zurl-in-stream
zurl_in_specs=ipc://{rundir}/{ipc_prefix}zurl-out

[handler]
push_in_spec=
push_in_sub_specs=
push_in_http_addr=%[3]s
push_in_http_port=%[4]d
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
command_spec=ipc://{rundir}/{ipc_prefix}command
message_rate=-1
message_hwm=-1
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
stats_subscription_ttl=60
stats_report_interval=10
`, dir, clients, publish.Addr(), publish.Port())
}
