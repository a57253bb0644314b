package gateway

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
)

// filtered answers with a stream of fruit, or a long poll, that has filters and
// metadata.
func filtered(hold, filters, meta, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Grip-Hold", hold)
		channel := "fruit; prev-id=0"
		for f := range strings.SplitSeq(filters, ",") {
			channel += "; filter=" + f
		}
		w.Header().Set("Grip-Channel", channel)
		w.Header().Set("Grip-Link", "</next>; rel=next")
		w.Header().Set("Grip-Set-Meta", meta)
		io.WriteString(w, body)
	}
}

// about is an item with metadata.
func about(id, prev, content string, meta ...string) grip.Item {
	it := text("fruit", id, prev, content)
	it.Meta = make(map[string]string)
	for i := 0; i < len(meta); i += 2 {
		it.Meta[meta[i]] = meta[i+1]
	}
	return it
}

// All filters, on streams and long polls, with the prefix of a route and without.
func TestFilters(t *testing.T) {
	for _, tt := range []struct {
		name, filters, meta string
		items               []grip.Item
		want, wantFirst     string // of the stream; of a long poll
	}{
		{"skip-self", "skip-self", "user=bob", []grip.Item{about("1", "0", "no", "sender", "bob"), about("2", "1", "a", "sender", "amy"), about("3", "2", "b")}, "ab", "a"},
		{"skip-users", "skip-users", "user=bob", []grip.Item{about("1", "0", "no", "skip_users", "amy, bob"), about("2", "1", "a")}, "a", "a"},
		{"require-sub", "require-sub", "user=bob", []grip.Item{about("1", "0", "no", "require_sub", "pear"), about("2", "1", "a", "require_sub", "$fruit")}, "a", "a"},
		{"var-subst", "var-subst", `user="bob b"`, []grip.Item{about("1", "0", "hi %(user)s"), about("2", "1", "%x"), about("3", "2", "100%%")}, "hi bob b100%", "hi bob b"},
		{"build-id", "build-id", `id_format="at-%(fruit)s"`, []grip.Item{about("1", "0", "<%I>"), about("2", "1", "<%I %(x)I>")}, "<at-1><at-2 x>", "<at-1>"},
		{"build-id in hexadecimal", "build-id", `id_format="%(fruit)s", id_encoding=hex`, []grip.Item{about("1", "0", "<%I>")}, "<31>", "<31>"},
		{"several", "var-subst,own,skip-self,build-id", `user=bob, id_format="%(fruit)s"`,
			[]grip.Item{about("1", "0", "no", "sender", "bob"), about("2", "1", "%(user)s %%I")}, "bob 2", "bob 2"},
	} {
		for _, prefix := range []string{"", "p-"} {
			t.Run(tt.name+prefix, func(t *testing.T) {
				params := ""
				if prefix != "" {
					params = ",prefix=" + prefix
				}
				f, _ := routed(t, map[string]http.HandlerFunc{
					"/stream": filtered("stream", tt.filters, tt.meta, "hello"),
					"/poll":   filtered("response", tt.filters, tt.meta, "hello"),
				}, params)
				stream := f.get(t, "/stream")
				stream.want("hello")
				poll := make(chan *client)
				go func() { poll <- f.get(t, "/poll") }()
				f.listening(t, prefix+"fruit", 2)
				for _, it := range tt.items {
					it.Channel, it.Meta = prefix+it.Channel, maps.Clone(it.Meta)
					if need := it.Meta["require_sub"]; need == "$fruit" {
						it.Meta["require_sub"] = it.Channel
					}
					f.publish(t, it)
				}
				stream.want(tt.want)
				(<-poll).wantEnd(tt.wantFirst)
				f.publish(t, grip.Item{Channel: prefix + "fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
				stream.wantEnd("")
			})
		}
	}
}

// The body of a response passes build-id, whatever becomes of it: at once, page by
// page, at the end of a long poll.
func TestBuildIDOfResponses(t *testing.T) {
	builds := func(header string, body ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grip-Channel", `a; prev-id="7"; filter=build-id, b; filter=own`)
			w.Header().Set("Grip-Set-Meta", `id_format="%(a)s,%(b)s"`)
			for line := range strings.SplitSeq(header, "\n") {
				if name, value, ok := strings.Cut(line, ": "); ok {
					w.Header().Add(name, value)
				}
			}
			for _, piece := range body {
				io.WriteString(w, piece)
				http.NewResponseController(w).Flush()
			}
		}
	}
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/plain":  builds("", "id: %", "(x)", "I %I", "%%\n"),
		"/stream": builds("Grip-Hold: stream\nGrip-Link: </end>; rel=next", "%I"),
		"/pages":  builds("Grip-Link: </more>; rel=next", "1 %I "),
		"/more":   builds("Grip-Link: </end>; rel=next", strings.Repeat("%", 1), "I ", "%(", strings.Repeat("x", 3000), ")", "I"),
		"/end":    builds("", "."),
		"/wrong":  builds("", "100%"),
		"/large":  builds("", strings.Repeat("x", grip.MaxHoldBody+1)),
		"/late":   builds("Grip-Link: </broken>; rel=next", "1"),
		"/broken": builds("", strings.Repeat("x", 5000), "%q"),
	}, "")
	f.get(t, "/plain").wantEnd("id: x 7,%\n")
	f.get(t, "/pages").wantEnd("1 7, 7, " + strings.Repeat("x", 3000) + ".")
	stream := f.get(t, "/stream")
	stream.want("7,")
	f.publish(t, grip.Item{Channel: "a", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
	stream.wantEnd(".")
	f.get(t, "/wrong").wantStatus(502)
	f.get(t, "/large").wantStatus(502)
	late := f.get(t, "/late")
	late.want("1")
	if _, err := io.ReadAll(late.resp.Body); err == nil {
		t.Error("a page that cannot be built: got a complete response, want it cut off")
	}
}

// http-check and http-modify ask a service, with all it needs to know.
func TestServices(t *testing.T) {
	var asked atomic.Int32
	service := func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodPost || r.Header.Get("Sub-Meta") != `{"url":"/service","user":"bob"}` || r.Header.Get("Grip-Sig") == "" {
			t.Errorf("the service got %s %v", r.Method, r.Header)
		}
		switch r.Header.Get("Pub-Meta") {
		case `{"do":"drop"}`:
			w.Header().Set("Action", "drop")
		case `{"do":"fail"}`:
			w.WriteHeader(500)
		case `{"do":"nothing"}`:
			w.WriteHeader(204)
		case `{"do":"much"}`:
			io.WriteString(w, strings.Repeat("x", grip.MaxHoldBody+1))
		default:
			fmt.Fprintf(w, "<%s>", r.Header.Get("Grip-Last"))
		}
	}
	for _, tt := range []struct{ filter, want, first string }{
		{"http-check", "14", "1"},
		{"http-modify", "<fruit; last-id=0>4", "<fruit; last-id=0>"},
	} {
		t.Run(tt.filter, func(t *testing.T) {
			asked.Store(0)
			f, a := routed(t, map[string]http.HandlerFunc{
				"/service": service,
				"/stream":  filtered("stream", tt.filter, "user=bob, url=/service", "hello"),
				"/poll":    filtered("response", tt.filter, "user=bob, url=/service", "hello"),
			}, "")
			var clients []*client
			for range 5 {
				c := f.get(t, "/stream")
				c.want("hello")
				clients = append(clients, c)
			}
			poll := make(chan *client)
			go func() { poll <- f.get(t, "/poll") }()
			f.listening(t, "fruit", 6)
			f.publish(t, about("1", "0", "1"))
			(<-poll).wantEnd(tt.first)
			f.publish(t, about("2", "1", "2", "do", "drop"), about("3", "2", "3", "do", "fail"), about("4", "3", "4", "do", "nothing"))
			for _, c := range clients {
				c.want(tt.want)
			}
			a.mu.Lock()
			body := a.bodies[slices.IndexFunc(a.requests, func(r *http.Request) bool { return r.URL.Path == "/service" })]
			a.mu.Unlock()
			if want := map[string]string{"http-check": "", "http-modify": "1"}[tt.filter]; body != want {
				t.Errorf("the service got %q, want %q", body, want)
			}
			f.publish(t, about("5", "4", "5", "do", "much"), about("6", "5", "6", "do", "nothing"))
			for _, c := range clients {
				if tt.filter == "http-check" { // its answer's body is not looked at
					c.want("5")
				}
				c.want("6")
			}
			if n := asked.Load(); n < 6 || n > 6*6 {
				t.Errorf("the service was asked %d times, want each item asked about, and no more than once for each client", n)
			}
		})
	}
}

// Whoever asks the same at the same time shares the answer.
func TestServicesShare(t *testing.T) {
	release := make(chan bool)
	var asked atomic.Int32
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/service": func(http.ResponseWriter, *http.Request) { asked.Add(1); <-release },
		"/stream":  filtered("stream", "http-check", "url=/service", "hello"),
	}, "")
	var clients []*client
	for range 20 {
		c := f.get(t, "/stream")
		c.want("hello")
		clients = append(clients, c)
	}
	f.listening(t, "fruit", 20)
	f.publish(t, about("1", "0", "1"))
	eventually(t, "the service to be asked", func() bool { return asked.Load() > 0 })
	close(release)
	for _, c := range clients {
		c.want("1")
	}
	if n := asked.Load(); n > 10 { // all that were there when it was asked have one answer
		t.Errorf("the service was asked %d times by 20 clients", n)
	}
}

func TestServiceURL(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/none":  filtered("stream", "http-check", "user=bob", "hello"),
		"/wrong": filtered("stream", "http-check", "url=ftp://x/", "hello"),
	}, "")
	for _, path := range []string{"/none", "/wrong"} {
		f.get(t, path).want("hello")
	}
	f.listening(t, "fruit", 2)
	f.publish(t, about("1", "0", "1"))
	eventually(t, "errors of filters", func() bool { return f.metric(t, "spillway_filter_errors_total", nil) == 2 })
}

// A gone link is asked once when the session ends, however it does; only the first
// response's counts.
func TestGoneLinks(t *testing.T) {
	hold := func(header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Grip-Last") != "" {
				io.WriteString(w, "again")
				return
			}
			w.Header().Set("Grip-Channel", "fruit; prev-id=0")
			for i := 0; i < len(header); i += 2 {
				w.Header().Add(header[i], header[i+1])
			}
			io.WriteString(w, "hello")
		}
	}
	closing := grip.Item{Channel: "fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}}
	for _, tt := range []struct {
		name, path string
		end        func(f *fixture, c *client)
	}{
		{"the client leaves", "/stream", func(_ *fixture, c *client) { c.resp.Body.Close() }},
		{"close action", "/stream", func(f *fixture, c *client) { f.publish(t, closing); c.wantEnd("") }},
		{"the last page", "/stream", func(f *fixture, c *client) {
			f.publish(t, grip.Item{Channel: "fruit", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}})
			c.wantEnd("end")
		}},
		{"pages", "/pages", func(_ *fixture, c *client) { c.wantEnd("end") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, a := routed(t, map[string]http.HandlerFunc{
				"/stream": hold("Grip-Hold", "stream", "Grip-Link", "</end>; rel=next", "Grip-Link", "<gone?a=b>; rel=gone"),
				"/pages":  hold("Grip-Link", "</end>; rel=next, <gone?a=b>; rel=gone"),
				"/end": func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Grip-Link", "</other>; rel=gone")
					io.WriteString(w, "end")
				},
				"/gone": func(http.ResponseWriter, *http.Request) {},
			}, "")
			c := f.get(t, tt.path)
			c.want("hello")
			if tt.path == "/stream" {
				f.listening(t, "fruit", 1)
			}
			tt.end(f, c)
			a.wantGone(t, 1)
			f.wantMetric(t, "spillway_gone_links_total", prometheus.Labels{"result": "failed"}, 0)
		})
	}
	t.Run("long polls", func(t *testing.T) {
		f, a := routed(t, map[string]http.HandlerFunc{"/poll": hold("Grip-Hold", "response", "Grip-Link", "<gone?a=b>; rel=gone")}, "")
		answered := make(chan *client)
		get := func() { answered <- f.get(t, "/poll") }
		go get()
		f.listening(t, "fruit", 1)
		f.publish(t, grip.Item{Channel: "fruit", HTTPResponse: &grip.HTTPResponse{Action: grip.ActionHint}}) // it is made again
		(<-answered).wantEnd("again")
		a.wantGone(t, 1)
		go get()
		f.listening(t, "fruit", 1)
		f.publish(t, text("fruit", "", "0", "apple"))
		(<-answered).wantEnd("apple")
		a.wantGone(t, 2)
		eventually(t, "failures: there is no such page", func() bool {
			return f.metric(t, "spillway_gone_links_total", prometheus.Labels{"result": "failed"}) == 2
		})
	})
	t.Run("not when we stop", func(t *testing.T) {
		f, a := routed(t, map[string]http.HandlerFunc{"/stream": hold("Grip-Hold", "stream", "Grip-Link", "</end>; rel=next, <gone?a=b>; rel=gone")}, "")
		c := f.get(t, "/stream")
		c.want("hello")
		ctx, cancel := contextWithTimeout()
		defer cancel()
		if err := f.Drain(ctx); err != nil {
			t.Error(err)
		}
		a.wantGone(t, 0)
	})
}

// wantGone checks that the gone link was asked so often, by POST of nothing, and
// no other was.
func (a *apiOrigin) wantGone(t *testing.T, want int) {
	t.Helper()
	gone := func() (n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for i, r := range a.requests {
			switch {
			case r.URL.Path == "/other":
				t.Error("the gone link of a page was asked")
			case r.URL.Path == "/gone" && r.Method == "POST" && r.URL.RawQuery == "a=b" && a.bodies[i] == "":
				n++
			}
		}
		return n
	}
	eventually(t, fmt.Sprint(want, " requests of the gone link"), func() bool { return gone() == want })
}
