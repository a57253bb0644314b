package gateway

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/gateway/control"
	"spillway/grip"
)

// connections is what GET /connections says, page by page.
func (f *fixture) connections(t *testing.T, limit int) (all []control.ConnectionInfo) {
	t.Helper()
	for after := ""; ; {
		status, body := f.tell(t, http.MethodGet, fmt.Sprintf("/connections?limit=%d&after=%s", limit, after))
		var page struct {
			Connections []control.ConnectionInfo
			Next        *string
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil || status != http.StatusOK || len(page.Connections) > limit {
			t.Fatalf("connections: got %d %s, %v", status, body, err)
		}
		all = append(all, page.Connections...)
		if page.Next == nil {
			return all
		}
		after = *page.Next
	}
}

func TestConnections(t *testing.T) {
	hold := func(mode, channel string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grip-Hold", mode)
			w.Header().Set("Grip-Channel", channel)
		}
	}
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprint("tls=", encrypted), func(t *testing.T) {
			begun := time.Now().Add(-2 * time.Second) // since is in whole seconds
			checkGoroutines(t)
			a := newAPI(t, map[string]http.HandlerFunc{"/stream": hold("stream", "one, two"), "/api/poll": hold("response", "two")})
			f := start(t, func(c *Config) {
				c.TrustedProxies = []string{"127.0.0.0/8"}
				c.Routes = "*,path_beg=/echo,id=echo,sockjs=/echo,sockjs_as_path=/,sig_key=s3cret test; *,path_beg=/api,prefix=p- " + a.Listener.Addr().String() + "; * " + a.Listener.Addr().String()
				if encrypted {
					dir := t.TempDir()
					c.TLSCertFile, c.TLSKeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
					writeCertificate(t, c.TLSCertFile, c.TLSKeyFile, 1)
				}
			})
			tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
			if encrypted {
				f.url = "https://" + f.Addr().String()
			}
			hc := &http.Client{Transport: tr}
			t.Cleanup(tr.CloseIdleConnections)
			open := func(path, address string) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("X-Forwarded-For", address)
				go func() { // ends with the test's context: a long poll has no answer before
					if resp, err := hc.Do(r); err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
					}
				}()
			}
			if got := f.connections(t, 10); len(got) != 0 {
				t.Errorf("got %+v, want none", got)
			}
			type want struct {
				address, route, transport string
				channels                  []string
			}
			wants := []want{
				{"192.0.2.1", "*", "stream", []string{"one", "two"}},
				{"2001:db8:1:2::/64", "*/api", "poll", []string{"p-two"}},
				{"198.51.100.7", "/events/", "stream", []string{"list"}},
				{"203.0.113.9", "echo", "websocket", []string{"test"}},
			}
			for i, path := range []string{"/stream", "/api/poll", "/events/list/", "/echo/000/one/eventsource"} {
				open(path, strings.TrimSuffix(wants[i].address, "/64"))
				eventually(t, path, func() bool { // so that they come in this order
					got := f.connections(t, 2)
					return len(got) == i+1 && len(got[i].Channels) == len(wants[i].channels)
				})
			}
			f.publish(t, grip.Item{Channel: "one", HTTPStream: &grip.HTTPStream{Content: []byte("hello")}})
			eventually(t, "what was sent is counted", func() bool { return f.connections(t, 3)[0].Bytes >= 5 })
			for i, c := range f.connections(t, 1) {
				if got := (want{c.Address, c.Route, c.Transport, c.Channels}); fmt.Sprint(got) != fmt.Sprint(wants[i]) ||
					c.ID == "" || c.Since.Before(begun) || c.Since.After(time.Now()) {
					t.Errorf("got %+v, want %+v", c, wants[i])
				}
			}
			if status, body := f.tell(t, http.MethodGet, "/connections?after=x"); status != http.StatusBadRequest || !strings.HasPrefix(body, "Invalid after: ") {
				t.Errorf("a wrong after: got %d %q", status, body)
			}
			f.publish(t, grip.Item{Channel: "one", HTTPStream: &grip.HTTPStream{Action: grip.ActionClose}})
			eventually(t, "the first is gone", func() bool { return len(f.connections(t, 10)) == 3 })
		})
	}
}

func TestAddress(t *testing.T) {
	for _, tt := range []struct{ address, want string }{
		{"192.0.2.1", "192.0.2.1"},
		{"0.0.0.0", "0.0.0.0"},
		{"255.255.255.255", "255.255.255.255"},
		{"2001:db8:1:2:3::4", "2001:db8:1:2::/64"},
		{"", ""},
	} {
		a, _ := netip.ParseAddr(tt.address)
		if got := addressOf(a).String(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.address, got, tt.want)
		}
	}
}
