package upstream

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

var anyHost, _ = ParseLinkHosts([]string{"*"})

func TestParseLinkHosts(t *testing.T) {
	for _, tt := range []struct{ list, url, want string }{
		{"api.example", "http://api.example/x", "yes"},
		{"api.example", "https://API.example/x", "yes"},
		{"api.example", "http://api.example:80/x", "yes"},
		{"api.example", "http://api.example:8080/x", "no"},
		{"api.example", "http://api.example:443/x", "no"},
		{"api.example", "http://x.api.example/", "no"},
		{"api.example", "http://api.example.evil/", "no"},
		{"api.example:8080", "http://api.example:8080/", "yes"},
		{"api.example:8080", "https://api.example:8080/", "yes"},
		{"api.example:443", "https://api.example/", "yes"},
		{"api.example:8080", "http://api.example/", "no"},
		{"[2001:db8::1]:81", "http://[2001:db8::1]:81/", "yes"},
		{" a , b,", "http://b/", "yes"},
		{"*", "http://169.254.169.254/", "yes"},
		{"", "http://a/", "no"},
		{"http://a", "", `"http://a": write a host`},
		{"a/b", "", `"a/b": write a host`},
		{"*.a", "", `"*.a": write a host`},
		{"u@a", "", `"u@a": write a host`},
		{"a:0", "", `"a:0": no such port`},
		{"a:70000", "", `"a:70000": no such port`},
	} {
		l, err := ParseLinkHosts(strings.Split(tt.list, ","))
		got := "no"
		switch {
		case err != nil:
			got = err.Error()
		case l.contain(mustURL(t, tt.url)):
			got = "yes"
		}
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%q, %s: got %s, want %s", tt.list, tt.url, got, tt.want)
		}
	}
}

// A link is followed where its route goes, and nowhere else, whatever the client
// says in Host.
func TestForeignLinks(t *testing.T) {
	victim := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the victim was asked") }))
	t.Cleanup(victim.Close)
	host := victim.Listener.Addr().String()
	origin := echo(t)
	for _, tt := range []struct {
		name, base, link string
		direct           bool // the page came by no route
		ok               bool
	}{
		{"by the route", "http://h/a/", "/a/next", false, true},
		{"to a target of the route", "http://h/a/", "http://ORIGIN/next", false, true},
		{"to a target by another protocol", "http://h/a/", "https://ORIGIN/next", false, false},
		{"where the page came from", "http://ORIGIN/a", "/next", true, true},
		{"another host", "http://h/a/", "http://VICTIM/a/", false, false},
		{"without a scheme", "http://h/a/", "//VICTIM/a/", false, false},
		{"the target as user", "http://h/a/", "http://ORIGIN@VICTIM/a/", false, false},
		{"out of the route, with a Host of the client's choice", "http://VICTIM/a/", "/latest/meta-data/", false, false},
		{"up, with a Host of the client's choice", "http://VICTIM/a/", "../latest", false, false},
		{"from a page that came by no route", "http://ORIGIN/a", "http://VICTIM/", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place := strings.NewReplacer("ORIGIN", origin, "VICTIM", host).Replace
			f := newForwarder(t, Config{})
			rt := routeTo(t, "*,path_beg=/a/ ORIGIN", origin)
			if tt.direct {
				rt = nil
			}
			for kind, do := range map[kind]func() (*http.Response, error){
				kindLink: func() (*http.Response, error) {
					return f.DoLink(t.Context(), place(tt.link), mustURL(t, place(tt.base)), rt, nil)
				},
				kindGone: func() (*http.Response, error) {
					return f.DoGone(t.Context(), place(tt.link), mustURL(t, place(tt.base)), rt)
				},
				kindFilter: func() (*http.Response, error) {
					return f.DoFilter(t.Context(), place(tt.link), mustURL(t, place(tt.base)), rt, http.Header{}, nil, nil)
				},
			} {
				resp, err := do()
				if err == nil {
					read(t, resp)
				}
				if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrForeignLink) {
					t.Errorf("%s: got %v, want ok=%t", kind, err, tt.ok)
				}
				var m dto.Metric
				if err := f.metrics.requests.WithLabelValues(string(kind), string(foreign)).Write(&m); err != nil {
					t.Fatal(err)
				}
				if got, want := m.GetCounter().GetValue(), map[bool]float64{false: 1}[tt.ok]; got != want {
					t.Errorf("%s: got %v counted, want %v", kind, got, want)
				}
			}
		})
	}
}
