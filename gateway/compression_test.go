package gateway

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/gateway/compress"
	"spillway/gateway/fanout"
	"spillway/grip"
)

// compressing starts a gateway with COMPRESSION.
func compressing(t testing.TB, names ...string) *fixture {
	t.Helper()
	return start(t, func(c *Config) { c.Compression = names })
}

func TestCompressionConfig(t *testing.T) {
	for _, tt := range []struct {
		names []string
		want  string // the error; empty: none
	}{
		{nil, ""},
		{[]string{"zstd", "gzip", "permessage-deflate"}, ""},
		{[]string{" gzip ", ""}, ""},
		{[]string{"br"}, "COMPRESSION=br: is none of zstd, gzip, permessage-deflate"},
		{[]string{"gzip", "deflate"}, "COMPRESSION=deflate: is none of"},
		{[]string{"GZIP"}, "COMPRESSION=GZIP: is none of"},
	} {
		c := testConfig()
		c.Compression = tt.names
		err := c.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("COMPRESSION=%s: got %v, want %q", strings.Join(tt.names, ","), err, tt.want)
		}
	}
}

func TestCompressionChosen(t *testing.T) {
	const sse = "text/event-stream; charset=utf-8"
	for _, tt := range []struct {
		name, allowed, typ, accept string
		already                    string // Content-Encoding of the origin
		want, vary                 string
		coding                     fanout.Coding
	}{
		{name: "gzip", allowed: "gzip", typ: sse, accept: "gzip, deflate", want: "gzip", vary: "Accept-Encoding", coding: fanout.Gzip},
		{name: "NDJSON", allowed: "gzip", typ: "application/x-ndjson", accept: "gzip", want: "gzip", vary: "Accept-Encoding", coding: fanout.Gzip},
		{name: "the best of ours", allowed: "zstd,gzip", typ: sse, accept: "gzip, deflate, br, zstd", want: "zstd", vary: "Accept-Encoding", coding: fanout.Zstd},
		{name: "in our order", allowed: "gzip,zstd", typ: sse, accept: "zstd, gzip", want: "gzip", vary: "Accept-Encoding", coding: fanout.Gzip},
		{name: "what the client likes better", allowed: "zstd,gzip", typ: sse, accept: "zstd;q=0.5, gzip", want: "gzip", vary: "Accept-Encoding", coding: fanout.Gzip},
		{name: "refused", allowed: "gzip", typ: sse, accept: "gzip;q=0", vary: "Accept-Encoding"},
		{name: "anything", allowed: "zstd", typ: sse, accept: "*", want: "zstd", vary: "Accept-Encoding", coding: fanout.Zstd},
		{name: "not offered", allowed: "zstd", typ: sse, accept: "gzip", vary: "Accept-Encoding"},
		{name: "no header", allowed: "gzip", typ: sse, vary: "Accept-Encoding"},
		{name: "off", typ: sse, accept: "gzip"},
		{name: "only of WebSockets", allowed: "permessage-deflate", typ: sse, accept: "gzip"},
		{name: "another type", allowed: "gzip", typ: "application/json", accept: "gzip"},
		{name: "no type", allowed: "gzip", accept: "gzip"},
		{name: "compressed already", allowed: "gzip", typ: sse, accept: "gzip", already: "br", want: "br"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, unknown := parseCompression(strings.Split(tt.allowed, ","))
			if unknown != "" {
				t.Fatalf("COMPRESSION=%s: %s is unknown", tt.allowed, unknown)
			}
			h := http.Header{}
			for name, value := range map[string]string{"Content-Type": tt.typ, "Content-Encoding": tt.already} {
				if value != "" {
					h.Set(name, value)
				}
			}
			r := mustRequest("http://x/")
			if tt.accept != "" {
				r.Header.Set("Accept-Encoding", tt.accept)
			}
			p := &page{ins: grip.Instruct{Body: []byte("first")}}
			coding, begun := (&Gateway{compression: c}).compress(h, r, p)
			if coding != tt.coding || h.Get("Content-Encoding") != tt.want || h.Get("Vary") != tt.vary {
				t.Errorf("got coding %d, Content-Encoding %q, Vary %q, want %d, %q, %q", coding, h.Get("Content-Encoding"), h.Get("Vary"), tt.coding, tt.want, tt.vary)
			}
			if coded := coding != fanout.Uncoded; coded != (string(p.ins.Body) != "first") || coded != (string(begun) == "first") {
				t.Errorf("first bytes: got %q, begun %q", p.ins.Body, begun)
			}
		})
	}
	t.Run("other Vary stays", func(t *testing.T) {
		h := http.Header{"Content-Type": {sse}, "Vary": {"Origin"}}
		(&Gateway{compression: compression{bodies: []compress.Coding{compress.Gzip}}}).compress(h, mustRequest("http://x/", "Accept-Encoding", "gzip"), &page{})
		if got := strings.Join(h.Values("Vary"), ", "); got != "Origin, Accept-Encoding" {
			t.Errorf("Vary: got %q", got)
		}
	})
}

// coded asks for a stream in a coding and decodes it by another library than
// ours.
func (f *fixture) coded(t testing.TB, client *http.Client, coding compress.Coding, header ...string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	r := mustRequest(f.url+"/events/list/", append(header, "Accept-Encoding", string(coding))...).WithContext(ctx)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if got := resp.Header.Get("Content-Encoding"); got != string(coding) {
		t.Fatalf("Content-Encoding: got %q, want %q", got, coding)
	}
	if got := resp.Header.Get("Vary"); got != "Accept-Encoding" {
		t.Errorf("Vary: got %q, want Accept-Encoding", got)
	}
	return newClient(t, resp, decoder(t, coding, resp.Body))
}

func newClient(t testing.TB, resp *http.Response, body io.Reader) *client {
	return &client{t, resp, bufioReader(body)}
}

func decoder(t testing.TB, coding compress.Coding, r io.Reader) io.Reader {
	t.Helper()
	switch coding {
	case compress.Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return z
	case compress.Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(z.Close)
		return z
	default:
		return r
	}
}

var bothCodings = []compress.Coding{compress.Gzip, compress.Zstd}

// A compressed stream has all that one has: first bytes at once, history in
// pages, what is live, keep-alives, the word at a drain and a clean end.
func TestCompressedStream(t *testing.T) {
	for version, change := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2":   func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		for _, coding := range bothCodings {
			t.Run(fmt.Sprintf("%s over %s", coding, version), func(t *testing.T) {
				f := start(t, func(c *Config) {
					c.Compression, c.TrustedProxies = []string{"gzip", "zstd"}, []string{"127.0.0.0/8"}
				})
				tr := &http.Transport{Protocols: new(http.Protocols)}
				change(tr.Protocols)
				defer tr.CloseIdleConnections()
				f.list.page, f.list.keep = 10, `#\n; format=cstring; timeout=1`
				f.list.gate = make(chan struct{})
				f.list.publish(35)
				c := f.coded(t, &http.Client{Transport: tr}, coding, "Last-Event-ID", "2")
				if c.resp.Proto[:6] != version[:6] {
					t.Errorf("protocol: got %s, want %s", c.resp.Proto, version)
				}
				c.want(":ok\n\n") // before there is a page
				close(f.list.gate)
				c.wantLines(3, 35)
				f.attached(t, 1)
				late := f.coded(t, &http.Client{Transport: tr}, coding)
				late.want(":ok\n\n")
				f.attached(t, 2)
				f.list.publish(20)
				c.wantLines(36, 55)
				late.wantLines(36, 55)
				c.want("#\n") // a keep-alive

				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				if err := f.Drain(ctx); err != nil {
					t.Errorf("drain: %v", err)
				}
				for _, c := range []*client{c, late} {
					rest, err := io.ReadAll(c.body) // gzip: its sum is right
					if err != nil || !regexp.MustCompile(`^(#\n)*retry: [0-9]+\n\n$`).Match(rest) {
						t.Errorf("end: got %q and error %v, want retry", rest, err)
					}
				}
			})
		}
	}
}

// Go's client asks for gzip by itself, and does not show that it did.
func TestCompressedForGo(t *testing.T) {
	f := compressing(t, "zstd", "gzip")
	c := f.get(t, "/events/list/")
	if !c.resp.Uncompressed {
		t.Error("the response was not compressed")
	}
	c.want(":ok\n\n")
	f.attached(t, 1)
	f.list.publish(3)
	c.wantLines(1, 3)
	f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
	c.wantEnd("")
}

func TestCompressedHTTP10(t *testing.T) {
	for _, coding := range bothCodings {
		t.Run(string(coding), func(t *testing.T) {
			f := compressing(t, "gzip", "zstd")
			conn, err := net.Dial("tcp", f.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "GET /events/list/ HTTP/1.0\r\nAccept-Encoding: %s\r\n\r\n", coding)
			f.attached(t, 1)
			f.list.publish(3)
			f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
			resp, err := http.ReadResponse(bufioReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Header.Get("Content-Encoding") != string(coding) {
				t.Errorf("Content-Encoding: got %q, want %q", resp.Header.Get("Content-Encoding"), coding)
			}
			newClient(t, resp, decoder(t, coding, resp.Body)).wantEnd(":ok\n\n" + sse("1") + sse("2") + sse("3"))
		})
	}
}

// Off, refused, HEAD, and what comes from another origin: as it is.
func TestNotCompressed(t *testing.T) {
	plain := func(t *testing.T, c *client, vary string) {
		t.Helper()
		if c.resp.Header.Get("Content-Encoding") != "" || c.resp.Uncompressed || c.resp.Header.Get("Vary") != vary {
			t.Errorf("header: got %v, want no Content-Encoding and Vary %q", c.resp.Header, vary)
		}
	}
	t.Run("off", func(t *testing.T) {
		c := start(t, nil).get(t, "/events/list/", "Accept-Encoding", "gzip")
		plain(t, c, "")
		c.want(":ok\n\n")
	})
	t.Run("refused by the client", func(t *testing.T) {
		c := compressing(t, "gzip").get(t, "/events/list/", "Accept-Encoding", "gzip;q=0, identity")
		plain(t, c, "Accept-Encoding")
		c.want(":ok\n\n")
	})
	t.Run("a long poll", func(t *testing.T) {
		f := compressing(t, "gzip")
		f.list.wait = "1"
		c := f.get(t, "/events/list/", "Accept", "application/json", "Accept-Encoding", "gzip")
		plain(t, c, "")
		c.wantEnd(`{"events":[],"id":"0"}`)
	})
	t.Run("a route's stream", func(t *testing.T) {
		checkGoroutines(t)
		a := newAPI(t, map[string]http.HandlerFunc{"/stream": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "c")
			io.WriteString(w, ":ok\n\n")
		}})
		f := start(t, func(c *Config) {
			c.Routes, c.Compression = "* "+a.Listener.Addr().String(), []string{"gzip", "zstd"}
		})
		c := f.get(t, "/stream", "Accept-Encoding", "gzip")
		plain(t, c, "")
		c.want(":ok\n\n")
		f.listening(t, "c", 1)
		f.publish(t, text("c", "1", "", "data: x\n\n"))
		c.want("data: x\n\n")
	})
}

// A stream that was cut does not end well, also where there are no chunks to tell.
func TestCompressedAndCut(t *testing.T) {
	f := compressing(t, "gzip")
	conn, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /events/list/ HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n")
	resp, err := http.ReadResponse(bufioReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	c := newClient(t, resp, decoder(t, compress.Gzip, resp.Body))
	c.want(":ok\n\n")
	f.attached(t, 1)
	f.list.publish(1)
	c.wantLines(1, 1)

	f.drain.enter() // something that never ends
	defer f.drain.leave()
	f.list.gate = make(chan struct{}) // and a page that never comes
	f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
	f.attached(t, 0)
	f.cutOff(errors.New("cut off by the test"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Drain(ctx); err == nil {
		t.Error("drain: got no error, want that connections were cut off")
	}
	if rest, err := io.ReadAll(c.body); err == nil || len(rest) > 0 {
		t.Errorf("end: got %q and error %v, want nothing, and an error", rest, err)
	}
}

// Messages of both sides are compressed, whether the client would keep its
// window or not: it is told not to.
func TestCompressedWebSocket(t *testing.T) {
	for name, mode := range map[string]websocket.CompressionMode{
		"no context takeover": websocket.CompressionNoContextTakeover,
		"context takeover":    websocket.CompressionContextTakeover,
		"not offered":         websocket.CompressionDisabled,
	} {
		t.Run(name, func(t *testing.T) {
			f := compressing(t, "gzip", "permessage-deflate")
			f.list.pad = strings.Repeat("-", 1000)
			f.list.publish(30)
			ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
			defer cancel()
			conn, resp, err := websocket.Dial(ctx, f.url+"/events/list/", &websocket.DialOptions{
				CompressionMode: mode, CompressionThreshold: 1, HTTPHeader: http.Header{"Last-Event-Id": {"0"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			extensions := resp.Header.Get("Sec-WebSocket-Extensions")
			on := mode != websocket.CompressionDisabled
			if on != (extensions == "permessage-deflate; client_no_context_takeover; server_no_context_takeover") || !on && extensions != "" {
				t.Errorf("extensions: got %q", extensions)
			}
			if got := resp.Header.Get("Content-Encoding"); got != "" {
				t.Errorf("Content-Encoding: got %q, want none", got)
			}
			c := &wsClient{t: t, ctx: ctx, conn: conn}
			c.wantLines(1, 30) // a page
			f.attached(t, 1)
			f.list.publish(20)
			c.wantLines(31, 50)
			// A message may be shorter than its frame's header and still be compressed.
			for _, said := range []string{strings.Repeat("echo ", 1000) + ".", "echo", strings.Repeat("again ", 50) + "."} {
				c.send(said)
				c.want(said)
			}
			f.list.act(grip.Item{HTTPStream: &grip.HTTPStream{Action: grip.ActionRefresh}}) // nothing to a WebSocket
			f.list.publish(1)
			c.wantLines(52, 52)
			eventually(t, "the bytes of the live ones", func() bool {
				n := f.metric(t, "spillway_delivered_items_total", prometheus.Labels{})
				return n >= 21
			})
			if n := f.metric(t, "spillway_delivered_bytes_total", prometheus.Labels{}); on != (n < 15_000) {
				t.Errorf("bytes of 51 messages and three answers: got %v, compressed: %t", n, on)
			}
		})
	}
	t.Run("off", func(t *testing.T) {
		f := compressing(t, "gzip")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, resp, err := websocket.Dial(ctx, f.url+"/events/list/", &websocket.DialOptions{CompressionMode: websocket.CompressionNoContextTakeover})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("extensions: got %q, want none", got)
		}
	})
	t.Run("a message that is too large once inflated", func(t *testing.T) {
		f := compressing(t, "permessage-deflate")
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, f.url+"/events/list/", &websocket.DialOptions{CompressionMode: websocket.CompressionNoContextTakeover, CompressionThreshold: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		c := &wsClient{t: t, ctx: ctx, conn: conn}
		c.send(strings.Repeat("x", maxClientMessage+1))
		if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != 1009 {
			t.Errorf("close: got %v, want 1009", err)
		}
	})
}
