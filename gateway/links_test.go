package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"spillway/grip"
)

// Nothing that an origin answers makes the gateway ask a host that its route does
// not name, unless LINK_HOSTS does: not by links, nor by filters, nor by redirects.
func TestLinksStayWithTheirRoute(t *testing.T) {
	saved := retries
	retries = nil
	t.Cleanup(func() { retries = saved })
	for _, allowed := range []bool{false, true} {
		t.Run(map[bool]string{false: "not allowed", true: "allowed"}[allowed], func(t *testing.T) {
			var asked atomic.Int32
			victim := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked.Add(1) }))
			t.Cleanup(victim.Close)
			place := func(w http.ResponseWriter, name, value string) {
				w.Header().Set(name, strings.ReplaceAll(value, "VICTIM", victim.Listener.Addr().String()))
			}
			a := newAPI(t, map[string]http.HandlerFunc{
				"/a/next": func(w http.ResponseWriter, _ *http.Request) { place(w, "Grip-Link", "<http://VICTIM/>; rel=next") },
				"/a/host": func(w http.ResponseWriter, _ *http.Request) { place(w, "Grip-Link", "</latest/>; rel=next") },
				"/a/gone": func(w http.ResponseWriter, _ *http.Request) {
					place(w, "Grip-Hold", "stream")
					place(w, "Grip-Channel", "gone")
					place(w, "Grip-Link", "<http://VICTIM/>; rel=gone")
				},
				"/a/check": func(w http.ResponseWriter, _ *http.Request) {
					place(w, "Grip-Hold", "stream")
					place(w, "Grip-Channel", "check; filter=http-check")
					place(w, "Grip-Set-Meta", `url="http://VICTIM/"`)
				},
				"/a/redirect": func(w http.ResponseWriter, _ *http.Request) { place(w, "Grip-Link", "</a/away>; rel=next") },
				"/a/away": func(w http.ResponseWriter, _ *http.Request) {
					place(w, "Location", "http://VICTIM/")
					w.WriteHeader(http.StatusFound)
				},
			})
			f := start(t, func(c *Config) {
				c.Routes = "*,path_beg=/a/ " + a.Listener.Addr().String()
				if allowed {
					c.LinkHosts = []string{victim.Listener.Addr().String()}
				}
			})
			want := int32(0)
			asks := func(what string) {
				t.Helper()
				if allowed {
					want++
				}
				if got := asked.Load(); got != want {
					t.Errorf("%s: the other host was asked %d times, want %d", what, got, want)
				}
			}

			f.get(t, "/a/next").wantEnd("")
			asks("a next link")

			r := mustRequest(f.url + "/a/host")
			r.Host = victim.Listener.Addr().String()
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			(&client{t, resp, bufioReader(resp.Body)}).wantEnd("")
			asks("a link out of the route, with the other host's name")

			f.get(t, "/a/gone")
			f.listening(t, "gone", 1)
			f.publish(t, grip.Item{Channel: "gone", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}}).wantStatus(200)
			f.wantMetric(t, "spillway_gone_links_total", map[string]string{"result": map[bool]string{false: "failed", true: "answered"}[allowed]}, 1)
			asks("a gone link")

			c := f.get(t, "/a/check")
			f.listening(t, "check", 1)
			f.publish(t, text("check", "", "", "x")).wantStatus(200)
			f.wantMetric(t, "spillway_filter_verdicts_total", map[string]string{"verdict": map[bool]string{false: "error", true: "pass"}[allowed]}, 1)
			asks("a filter")
			c.resp.Body.Close()

			f.get(t, "/a/redirect").wantEnd("")
			if got := asked.Load(); got != want {
				t.Errorf("a redirect: the other host was asked %d times, want %d", got, want)
			}
		})
	}
}

// No answer of ours sends a client to a place of its own choice.
func TestNoOpenRedirect(t *testing.T) {
	f := start(t, func(c *Config) { c.Routes = "*,path_beg=/t,sockjs=/t,aco test" })
	for _, path := range []string{"//evil.example/events", "/events//evil.example", "/events/list/..//evil.example", "/events", "/%2f%2fevil.example/", "/t//evil.example", "/t/iframe.html//evil.example", "/\\evil.example"} {
		for _, host := range []string{"", "evil.example"} {
			r := mustRequest(f.url+"/", "X-Forwarded-Host", "evil.example")
			r.URL.Opaque = path
			if host != "" {
				r.Host = host
			}
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if at := resp.Header.Get("Location"); at != "" || resp.StatusCode >= 300 && resp.StatusCode < 400 {
				t.Errorf("%s: got %d to %q, want no redirect", path, resp.StatusCode, at)
			}
		}
	}
}
