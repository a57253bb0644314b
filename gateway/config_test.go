package gateway

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"spillway/grip/bytesize"
)

func TestValidateReportsEverything(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   []string // the beginning of each line of the error
	}{
		{"the defaults of the tests", func(*Config) {}, nil},
		{"addresses", func(c *Config) { c.HTTPAddr, c.ControlAddr = "localhost", "5561" },
			[]string{"HTTP_ADDR=localhost: write host:port", "CONTROL_ADDR=5561: write HOST:PORT"}},
		{"a control API that others reach", func(c *Config) { c.ControlAddr = ":5561" }, []string{"CONTROL_ADDR=:5561: others could publish"}},
		{"the same, on purpose", func(c *Config) { c.ControlAddr, c.ControlInsecure = ":5561", true }, nil},
		{"the same, with a key", func(c *Config) { c.ControlAddr, c.ControlKey = ":5561", "secret" }, nil},
		{"the same, with the key of a realm", func(c *Config) { c.ControlAddr, c.ControlRealms = ":5561", "me=secret" }, nil},
		{"realms", func(c *Config) { c.ControlRealms = "me=secret, s3cret,,a/b=x,me=other,you=base64:!" },
			[]string{"CONTROL_REALMS: entry 2: write ID=KEY", "CONTROL_REALMS: entry 4: write ID=KEY", "CONTROL_REALMS: entry 5: its id was there before", "CONTROL_REALMS: entry 6: key: what follows base64: is not"}},
		{"off", func(c *Config) { c.ControlAddr, c.EventsPath = "", "" }, nil},
		{"paths", func(c *Config) { c.EventsPath = "/events/?x" }, []string{"EVENTS_PATH=/events/?x: write a plain path"}},
		{"routes", func(c *Config) { c.Routes, c.RoutesFile = "nonsense", "" }, []string{"ROUTES:1 (nonsense): no target"}},
		{"SockJS", func(c *Config) {
			c.SockJSURL, c.SockJSHeartbeat, c.SockJSSessionTimeout, c.SockJSSendBytes = "x", 0, time.Hour, 1
		},
			[]string{"SOCKJS_URL=x", "SOCKJS_HEARTBEAT=0s", "SOCKJS_SESSION_TIMEOUT=1h", "SOCKJS_SEND_BYTES=1"}},
		{"a public key cannot sign", func(c *Config) { c.SigKey = Secret(publicKey) }, []string{"SIG_KEY: sign: the key is a public one; give"}},
		{"origins", func(c *Config) {
			c.UpstreamConnectTimeout, c.UpstreamTimeout, c.SetXForwardedProtocol, c.CDNLoop = 0, 0, "yes", "a,b"
			c.XForwardedFor, c.XForwardedForTrusted, c.OrigHeadersNeedMark = []string{"x"}, []string{"truncate:x"}, []string{"a b"}
		}, []string{"UPSTREAM_CONNECT_TIMEOUT=0s", "UPSTREAM_TIMEOUT=0s", `X_FORWARDED_FOR: "x": must be truncate:N or append`, "X_FORWARDED_FOR_TRUSTED: truncate:x",
			"SET_X_FORWARDED_PROTOCOL=yes: must be proto-only, true or false", "CDN_LOOP=a,b", "ORIG_HEADERS_NEED_MARK=a b"}},
		{"a routes file that is not there", func(c *Config) { c.RoutesFile = "/nowhere/routes" }, []string{"ROUTES_FILE: open /nowhere/routes"}},
		{"keys", func(c *Config) { c.SigKey, c.UpstreamKey = "base64:!", "changeme" }, []string{"SIG_KEY: ", "UPSTREAM_KEY: changeme is public"}},
		{"sizes", func(c *Config) {
			c.ControlMaxBody, c.ChannelLogBytes, c.LogMemory, c.MessageWaitMemory, c.MemoryLimit, c.MaxHeaderBytes = 1, 1, 1, 1, 1, 1
		},
			[]string{"CONTROL_MAX_BODY=1: must be between 1KiB and 1GiB", "CHANNEL_LOG_BYTES=1", "LOG_MEMORY=1", "MEMORY_LIMIT=1", "MESSAGE_WAIT_MEMORY=1", "MAX_HEADER_BYTES=1"}},
		{"more memory than there is", func(c *Config) { c.LogMemory, c.MemoryLimit = 1<<30, 1<<29 }, []string{"LOG_MEMORY=1GiB: must not be more than the memory there is (512MiB)"}},
		{"more logs than leave room for connections", func(c *Config) { c.LogMemory, c.MemoryLimit = 32<<20-1, 32<<20 }, []string{"LOG_MEMORY=33554431: leaves connections less than 8MiB of the memory there is (32MiB)"}},
		{"more connections than memory", func(c *Config) { c.MaxConnections, c.MemoryLimit = 100_000, 1<<30 },
			[]string{"MAX_CONNECTIONS=100000: may take 800000KiB, at 8KiB each, and there are 1GiB less LOG_MEMORY (256MiB); lower it, or raise MEMORY_LIMIT"}},
		{"more than anyone has", func(c *Config) { c.MaxConnections = 1 << 40 }, []string{"MAX_CONNECTIONS=1099511627776: must be between 0 and 100000000"}},
		{"numbers", func(c *Config) { c.MaxConnections, c.MaxConnectionsPerIP, c.MaxSubscriptions = -1, -1, 0 },
			[]string{"MAX_CONNECTIONS=-1", "MAX_CONNECTIONS_PER_IP=-1", "MAX_SUBSCRIPTIONS=0"}},
		{"times", func(c *Config) {
			c.WriteTimeout, c.ConnectionMaxAge, c.ChannelLogAge, c.MessageWait = 0, time.Millisecond, 0, 0
		},
			[]string{"CHANNEL_LOG_AGE=0s", "MESSAGE_WAIT=0s", "WRITE_TIMEOUT=0s", "CONNECTION_MAX_AGE=1ms"}},
		{"links", func(c *Config) { c.LinkHosts = []string{"http://api"} }, []string{`LINK_HOSTS: "http://api": write a host`}},
		{"headers", func(c *Config) { c.MaxHeaders, c.MaxURLBytes = 9, 2<<20 }, []string{"MAX_HEADERS=9: must be between 10 and 10000", "MAX_URL_BYTES=2MiB: must be between"}},
		{"patience", func(c *Config) { c.HeaderTimeout, c.BodyTimeout = 0, 2*time.Hour }, []string{"HEADER_TIMEOUT=0s: must be", "BODY_TIMEOUT=2h0m0s: must be"}},
		{"rates", func(c *Config) {
			c.RequestRatePerIP, c.ConnectRatePerIP, c.EventsMessageRate, c.MaxIdleConnections, c.AuditRefusalRate = -1, -1, -1, -1, -1
		},
			[]string{"REQUEST_RATE_PER_IP=-1: must be", "CONNECT_RATE_PER_IP=-1: must be", "EVENTS_MESSAGE_RATE=-1: must be", "AUDIT_REFUSAL_RATE=-1: must be", "MAX_IDLE_CONNECTIONS=-1: must be"}},
		{"messages of EVENTS_PATH", func(c *Config) { c.EventsMessageMaxBytes = 0 }, []string{"EVENTS_MESSAGE_MAX_BYTES=0: must be between"}},
		{"clients' certificates without one", func(c *Config) { c.TLSClientCAFile = "x" }, []string{"TLS_CLIENT_CA_FILE=x: needs TLS_CERT_FILE"}},
		{"the PROXY protocol by nobody", func(c *Config) { c.ProxyProtocol = true }, []string{"PROXY_PROTOCOL=true: needs TRUSTED_PROXIES"}},
		{"half a certificate", func(c *Config) { c.TLSCertFile = "x" }, []string{"TLS_CERT_FILE and TLS_KEY_FILE: set both or none"}},
		{"no certificate", func(c *Config) { c.TLSCertFile, c.TLSKeyFile = "/nowhere/x", "/nowhere/y" }, []string{"TLS_CERT_FILE=/nowhere/x: "}},
		{"a prefix of metrics", func(c *Config) { c.PrometheusPrefix = "pushpin-" }, []string{"PROMETHEUS_PREFIX=pushpin-: write letters"}},
		{"proxies", func(c *Config) { c.TrustedProxies = []string{" 10.0.0.0/8", "", "proxy"} }, []string{`TRUSTED_PROXIES: "proxy" is neither`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			tt.change(&c)
			err := c.Validate()
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) {
				t.Fatalf("got %d problems:\n%s\nwant %d", len(got), strings.Join(got, "\n"), len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(got[i], want) {
					t.Errorf("problem %d: got %q, want %q…", i, got[i], want)
				}
			}
		})
	}
}

// Every field that comes from the environment has a default that is valid, or
// may be empty.
func TestDefaultsAreDocumented(t *testing.T) {
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		field := typ.Field(i)
		if field.Tag.Get("ignored") == "true" {
			continue
		}
		if field.Tag.Get("envconfig") == "" {
			t.Errorf("%s has no envconfig tag", field.Name)
		}
		if field.Type == reflect.TypeFor[Secret]() != (field.Tag.Get("secret") == "true") {
			t.Errorf("%s: a Secret and secret:\"true\" belong together", field.Name)
		}
	}
}

func TestEventsPath(t *testing.T) {
	for in, want := range map[string]string{"/events/": "/events/", "events": "/events/", "/a/b": "/a/b/", "/": "/", "": ""} {
		if got := (&Config{EventsPath: in}).NormalEventsPath(); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// publicKey is one of P-256, which verifies and does not sign.
const publicKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDXH+oghTcsylIdLK4rTAb+GuD+OE
ZYcBHWWHly2eru1F3QgUszjNv0JInu6Yrst5VB6++Ir4+tU94QBdaDEKdw==
-----END PUBLIC KEY-----`

func TestMemoryLimit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  bytesize.Bytes
	}{
		{"container", map[string]string{"/sys/fs/cgroup/memory.max": "536870912\n", "/proc/meminfo": "MemTotal:       8000000 kB\n"}, 512 << 20},
		{"container without limit", map[string]string{"/sys/fs/cgroup/memory.max": "max\n", "/proc/meminfo": "MemTotal:       1024 kB\n"}, 1 << 20},
		{"old container whose limit is no limit", map[string]string{"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "/proc/meminfo": "x\nMemTotal: 2048 kB\n"}, 2 << 20},
		{"the system says nothing", nil, fallbackMemory},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := machineMemory(func(name string) ([]byte, error) {
				if text, ok := tt.files[name]; ok {
					return []byte(text), nil
				}
				return nil, fs.ErrNotExist
			})
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	c := Config{MemoryLimit: 1 << 30}
	if got := c.Fanout().LogMemory; got != 1<<28 {
		t.Errorf("log memory: got %d, want a quarter of 1GiB", got)
	}
}

func TestSecretsAreHidden(t *testing.T) {
	c := Config{SigKey: "hunter2"}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "key", c.SigKey)
	fmt.Fprintf(&b, "%v %s %+v %#v", c.SigKey, c.SigKey, c, c)
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("got %s", b.String())
	}
}

func TestClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, tt := range []struct{ name, peer, forwarded, want string }{
		{"direct", "192.0.2.1:5", "", "192.0.2.1"},
		{"what a client claims", "192.0.2.1:5", "198.51.100.1", "192.0.2.1"},
		{"proxy", "10.0.0.1:5", "198.51.100.1", "198.51.100.1"},
		{"two proxies", "10.0.0.1:5", "203.0.113.7, 198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"only proxies", "10.0.0.1:5", "10.0.0.2", "10.0.0.2"},
		{"garbage", "10.0.0.1:5", "198.51.100.1, unknown", "10.0.0.1"},
		{"with ports", "[::1]:5", "198.51.100.1:80", "198.51.100.1"},
		{"IPv6 is one network", "[2001:db8:1:2:3:4:5:6]:5", "", "2001:db8:1:2::"},
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:5", "", "192.0.2.1"},
		{"no address", "@", "", "invalid IP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{}}
			if tt.forwarded != "" {
				r.Header.Set("X-Forwarded-For", tt.forwarded)
			}
			if got := clientAddress(r, trusted).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// The API that AUTH_URL asks is told of the client, not of the proxy.
func TestSender(t *testing.T) {
	f := start(t, func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8"} })
	for _, tt := range []struct {
		name, peer, forwarded, proto string
		tls                          bool
		want                         string
	}{
		{"direct", "192.0.2.1:5", "", "", false, "192.0.2.1 http"},
		{"by TLS", "192.0.2.1:5", "", "", true, "192.0.2.1 https"},
		{"what a client claims", "192.0.2.1:5", "198.51.100.1", "https", false, "192.0.2.1 http"},
		{"proxy", "10.0.0.1:5", "198.51.100.1", "https", false, "198.51.100.1 https"},
		{"IPv6, all of it", "10.0.0.1:5", "2001:db8:1:2:3:4:5:6", "http", false, "2001:db8:1:2:3:4:5:6 http"},
		{"no address", "@", "", "", false, " http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{}}
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if tt.forwarded != "" {
				r.Header.Set("X-Forwarded-For", tt.forwarded)
				r.Header.Set("X-Forwarded-Proto", tt.proto)
			}
			ip, proto := f.Sender(r)
			if got := ip + " " + proto; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPatched(t *testing.T) {
	for _, tt := range []struct{ name, body, patch, want string }{
		{"add to an object", `{"a":1}`, `[{"op":"add","path":"/b","value":{"c":null}}]`, `{"a":1,"b":{"c":null}}`},
		{"add into an array", `[1,3]`, `[{"op":"add","path":"/1","value":2}]`, `[1,2,3]`},
		{"append", `[1]`, `[{"op":"add","path":"/-","value":2}]`, `[1,2]`},
		{"deep", `{"a":[{"b":1}]}`, `[{"op":"replace","path":"/a/0/b","value":2}]`, `{"a":[{"b":2}]}`},
		{"remove", `{"a":1,"b":2}`, `[{"op":"remove","path":"/a"}]`, `{"b":2}`},
		{"move", `{"a":{"x":1}}`, `[{"op":"move","from":"/a/x","path":"/y"}]`, `{"a":{},"y":1}`},
		{"copy is a copy", `{"a":[1]}`, `[{"op":"copy","from":"/a","path":"/b"},{"op":"add","path":"/b/-","value":2}]`, `{"a":[1],"b":[1,2]}`},
		{"test that holds", `{"a":"x"}`, `[{"op":"test","path":"/a","value":"x"}]`, `{"a":"x"}`},
		{"the whole", `{"a":1}`, `[{"op":"replace","path":"","value":[1]}]`, `[1]`},
		{"quoted keys", `{"a/b":1,"c~d":2}`, `[{"op":"remove","path":"/a~1b"},{"op":"remove","path":"/c~0d"}]`, `{}`},
		{"numbers stay", `{"n":12345678901234567890.5}`, `[]`, `{"n":12345678901234567890.5}`},
		{"compact, line end kept", "{ \"a\" : 1 }\r\n", `[]`, "{\"a\":1}\r\n"},
		{"no HTML escapes", `{"a":"<"}`, `[]`, `{"a":"<"}`},

		{"test that fails", `{"a":"x"}`, `[{"op":"test","path":"/a","value":"y"}]`, ""},
		{"not there", `{}`, `[{"op":"remove","path":"/a"}]`, ""},
		{"beyond the end", `[1]`, `[{"op":"add","path":"/2","value":1}]`, ""},
		{"leading zero", `[1,2]`, `[{"op":"remove","path":"/01"}]`, ""},
		{"into itself", `{"a":{}}`, `[{"op":"move","from":"/a","path":"/a/b"}]`, ""},
		{"no value", `{}`, `[{"op":"add","path":"/a"}]`, ""},
		{"unknown operation", `{}`, `[{"op":"jump","path":"/a"}]`, ""},
		{"not a container", `"text"`, `[]`, ""},
		{"not JSON", `{`, `[]`, ""},
		{"copies that double", `[1]`, "[" + strings.Repeat(`{"op":"copy","from":"","path":"/-"},`, 64) + `{"op":"test","path":"/0","value":1}]`, ""},
		{"into a number", `{"a":1}`, `[{"op":"add","path":"/a/b","value":1}]`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := patched([]byte(tt.body), []byte(tt.patch))
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func FuzzPatched(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":2}]}`), []byte(`[{"op":"add","path":"/a/-","value":2},{"op":"move","from":"/a/0","path":"/c"},{"op":"copy","from":"","path":"/d"}]`))
	f.Add([]byte(`[1,2]`), []byte(`[{"op":"remove","path":""},{"op":"test","path":"/0","value":1}]`))
	f.Fuzz(func(t *testing.T, body, patch []byte) {
		got, err := patched(body, patch)
		if err != nil {
			return
		}
		if _, err := decodeJSON(got); err != nil {
			t.Errorf("patched %q with %q: got %q: %v", body, patch, got, err)
		}
	})
}
