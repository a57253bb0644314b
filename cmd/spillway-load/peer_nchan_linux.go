package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
)

// nchanModule is where Debian has it.
const nchanModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

// A nchan is nginx with the Nchan module, the way to it without any proxying.
type nchan struct {
	peer
	workers   int
	webSocket bool // the clients' transport; else Server-Sent Events
}

// newNchan is Nchan with that many worker processes. Two are better for it even
// where the clients want the same two cores, by a quarter to a half.
func newNchan(workers int, webSocket bool) *nchan {
	return &nchan{peer: peer{label: "Nchan"}, workers: workers, webSocket: webSocket}
}

func (n *nchan) subscribeRequest(channel string, _ int) []byte {
	return subscribeTo(n.http, "/sub?id="+channel, n.webSocket)
}

func (n *nchan) start(ctx context.Context) error {
	if err := n.installed(ctx, "libnginx-mod-nchan", "nginx", "setpriv"); err != nil {
		return err
	}
	if _, err := os.Stat(nchanModule); err != nil {
		return fmt.Errorf("%s: %w", n.label, errNotInstalled)
	}
	err := n.prepare(1, func(dir string, free []netip.AddrPort) map[string]string {
		n.http = free[0]
		return map[string]string{"nginx.conf": nchanConfig(dir, n.http, n.workers)}
	})
	if err != nil {
		return err
	}
	n.poster = poster{
		to: n.http, kind: "text/plain",
		path: func(channel string) string { return "/pub?id=" + channel },
		body: func(_ string, payloads [][]byte) []byte { return payloads[0] }, // never more
	}
	return n.run(ctx, n.subscribeRequest("ready", 0), "nginx", "-p", n.dir, "-c", n.dir+"/nginx.conf", "-e", "stderr")
}

// nchanConfig asks of nginx nothing but what is measured. The buffer of messages
// is so deep that no client is ever behind it: what is not borne, is late.
func nchanConfig(dir string, addr netip.AddrPort, workers int) string {
	return fmt.Sprintf(`load_module %[1]s;
daemon off;
user root;
worker_processes %[2]d;
worker_rlimit_nofile 20000;
pid %[3]s/pid;
error_log stderr error;
events {
  worker_connections 19900;
  multi_accept on;
}
http {
  access_log off;
  client_body_temp_path %[3]s;
  proxy_temp_path %[3]s;
  fastcgi_temp_path %[3]s;
  uwsgi_temp_path %[3]s;
  scgi_temp_path %[3]s;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  tcp_nodelay on;
  nchan_shared_memory_size 1g;
  server {
    listen %[4]s backlog=4096;
    location = /pub {
      nchan_publisher http;
      nchan_channel_id $arg_id;
      nchan_message_buffer_length 20000;
      nchan_message_timeout 60s;
    }
    location = /sub {
      nchan_subscriber eventsource websocket;
      nchan_channel_id $arg_id;
      nchan_subscriber_first_message newest;
      nchan_eventsource_ping_interval 0;
      nchan_websocket_ping_interval 0;
    }
  }
}
`, nchanModule, workers, dir, addr)
}
