package gateway

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"spillway/gateway/route"
)

func TestUnscript(t *testing.T) {
	own := route.JSONP{Basic: true, Callback: "f", Body: "b", DefaultCallback: "g", DefaultMethod: "PATCH"}
	for _, tt := range []struct {
		name   string
		j      route.JSONP
		target string
		want   string // METHOD uri body header=value …; callback
	}{
		{"no callback", route.JSONP{}, "/x?a=b", "GET /x?a=b"},
		{"callback alone", route.JSONP{}, "/x?callback=cb", "GET /x Accept=*/*; cb"},
		{"the rest stays as it is", route.JSONP{}, "/a%2Fb?%61=%7e&callback=cb&&c", "GET /a%2Fb?%61=%7e&&c Accept=*/*; cb"},
		{"an encoded name", route.JSONP{}, "/x?%63allback=a%2Eb", "GET /x Accept=*/*; a.b"},
		{"twice", route.JSONP{}, "/x?callback=a&callback=b", "GET /x Accept=*/*; a"},
		{"basic posts", route.JSONP{Basic: true}, "/x?callback=cb", "POST /x Accept=*/*; cb"},
		{"all there is", route.JSONP{}, "/x?callback=cb&_method=PUT&_body=a+b&_headers=%7B%22x-a%22:%221%22,%22accept%22:%22x%22,%22Host%22:%22x%22%7D",
			`PUT /x "a b" Accept=*/* X-A=1; cb`},
		{"empty body", route.JSONP{}, "/x?callback=cb&_body=", "GET /x Accept=*/*; cb"},
		{"own names", own, "/x?f=cb&b=1&_body=2&callback=3", `PATCH /x?_body=2&callback=3 "1" Accept=*/* Content-Type=application/json; cb`},
		{"default callback", own, "/x?b=1", `PATCH /x "1" Accept=*/* Content-Type=application/json; g`},
		{"default callback needs a body", own, "/x", "GET /x"},
		{"empty callback", route.JSONP{}, "/x?callback=", "Invalid callback parameter."},
		{"empty own callback", own, "/x?f", "Invalid f parameter."},
		{"callback with code", route.JSONP{}, "/x?callback=alert(1)", "Invalid callback parameter."},
		{"callback not decodable", route.JSONP{}, "/x?callback=%zz", "Invalid callback parameter."},
		{"long callback", route.JSONP{}, "/x?callback=" + strings.Repeat("a", 257), "Invalid callback parameter."},
		{"empty method", route.JSONP{}, "/x?callback=cb&_method=", "Invalid _method parameter."},
		{"not a method", route.JSONP{}, "/x?callback=cb&_method=A%20B", "Invalid _method parameter."},
		{"CONNECT", route.JSONP{}, "/x?callback=cb&_method=CONNECT", "Invalid _method parameter."},
		{"body not UTF-8", route.JSONP{}, "/x?callback=cb&_body=%ff", "Invalid _body parameter."},
		{"headers not an object", route.JSONP{}, "/x?callback=cb&_headers=null", "Invalid _headers parameter."},
		{"headers not strings", route.JSONP{}, "/x?callback=cb&_headers=%7B%22a%22:1%7D", "Invalid _headers parameter."},
		{"header with a line break", route.JSONP{}, "/x?callback=cb&_headers=%7B%22a%22:%22b%5Cnc%22%7D", "Invalid _headers parameter."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, tt.target, nil)
			if got := unscripted(t, r, tt.j); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	for _, r := range []*http.Request{httptest.NewRequest(http.MethodPost, "/x?callback=cb", nil),
		httptest.NewRequest(http.MethodGet, "/x?callback=cb", strings.NewReader("body"))} {
		if asked, s, err := unscript(r, route.JSONP{}); asked != r || s != nil || err != nil {
			t.Errorf("%s with a body of %d: got %v, %v, want it as it is", r.Method, r.ContentLength, s, err)
		}
	}
}

// unscripted is what unscript makes of a request, as text.
func unscripted(t *testing.T, r *http.Request, j route.JSONP) string {
	t.Helper()
	asked, s, err := unscript(r, j)
	if err != nil {
		return err.Error()
	}
	text := asked.Method + " " + asked.RequestURI
	if query := asked.URL.RawQuery; !strings.HasSuffix(asked.RequestURI, query) {
		t.Errorf("query: got %s, want that of %s", query, asked.RequestURI)
	}
	if asked.Body != nil && asked.ContentLength > 0 {
		body, _ := io.ReadAll(asked.Body)
		text += ` "` + string(body) + `"`
	}
	for _, name := range []string{"Accept", "Content-Type", "Host", "X-A"} {
		if v := asked.Header.Get(name); v != "" {
			text += " " + name + "=" + v
		}
	}
	if s != nil {
		text += "; " + s.callback
	}
	return text
}

func FuzzUnscript(f *testing.F) {
	for _, query := range []string{"callback=cb&a=b", "callback=cb&_method=PUT&_headers=%7B%22a%22%3A%22b%22%7D&_body=x", "callback=", "&&=&callback=%", "_body=1"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest(http.MethodGet, "/x", nil)
		r.URL.RawQuery = query
		asked, s, err := unscript(r, route.JSONP{DefaultCallback: "d"})
		if err != nil || s == nil {
			return
		}
		if !validCallback(s.callback) {
			t.Errorf("callback %q", s.callback)
		}
		for part := range strings.SplitSeq(asked.URL.RawQuery, "&") {
			name, _, _ := strings.Cut(part, "=")
			if plain, err := url.QueryUnescape(name); err == nil && slices.Contains([]string{"callback", "_method", "_headers", "_body"}, plain) {
				t.Errorf("%q is left in %q", plain, asked.URL.RawQuery)
			}
		}
	})
}

// A body may come in any pieces, and be larger than what is kept back.
func TestScript(t *testing.T) {
	long := strings.Repeat("é\n", scriptBuffer)
	for _, tt := range []struct {
		name   string
		s      script
		pieces []string
		want   string // the argument of the call
		sized  bool
	}{
		{"empty", script{}, nil, `{"code": 418, "reason": "I'm a teapot", "headers": {"X-A":"1, 2"}, "body": ""}`, true},
		{"half characters", script{}, []string{"\xc3", "\xa9 \xe2\x82", "\xac\xf0\x9f", "\x98", "\x80"}, `{"code": 418, "reason": "I'm a teapot", "headers": {"X-A":"1, 2"}, "body": "é €😀"}`, true},
		{"not UTF-8", script{}, []string{"\xff\xc3"}, `{"code": 418, "reason": "I'm a teapot", "headers": {"X-A":"1, 2"}, "body": "` + "\uFFFD\uFFFD" + `"}`, true},
		{"lines", script{}, []string{"a\r\n\u2028"}, `{"code": 418, "reason": "I'm a teapot", "headers": {"X-A":"1, 2"}, "body": "a\r\n\u2028"}`, true},
		{"own reason", script{reason: `"so"`}, nil, `{"code": 418, "reason": "\"so\"", "headers": {"X-A":"1, 2"}, "body": ""}`, true},
		{"held", script{held: true}, []string{"a"}, `{"body":"a","code":418,"headers":{"X-A":"1, 2"},"reason":"I'm a teapot"}`, true},
		{"basic", script{basic: true}, []string{"[1,\n", "2]", "\n"}, "[1,\n2]", true},
		{"basic, two newlines", script{basic: true}, []string{"1\n", "\n"}, "1\n", true},
		{"large", script{}, []string{long[:1001], long[1001:]}, `{"code": 418, "reason": "I'm a teapot", "headers": {"X-A":"1, 2"}, "body": "` + strings.ReplaceAll(long, "\n", `\n`) + `"}`, false},
		{"large, basic", script{basic: true}, []string{long, "\n"}, long, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			s := tt.s
			s.callback = "f"
			s.begin(w)
			s.Header()["X-A"] = []string{"1", "2"}
			s.Header()["Content-Type"] = nil
			s.WriteHeader(http.StatusTeapot)
			for _, p := range tt.pieces {
				if _, err := io.WriteString(&s, p); err != nil {
					t.Fatal(err)
				}
				if err := http.NewResponseController(&s).Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.finish(); err != nil {
				t.Fatal(err)
			}
			if got, want := w.Body.String(), "/**/f("+tt.want+");\n"; got != want {
				t.Errorf("got %.200q, want %.200q", got, want)
			}
			if got := w.Header().Get("Content-Length") != ""; got != tt.sized {
				t.Errorf("a length: got %v, want %v", got, tt.sized)
			}
			if got := w.Header().Get("X-A") != ""; got != tt.s.held {
				t.Errorf("X-A outside: got %v, want %v", got, tt.s.held)
			}
		})
	}
}

// A stream never ends, and so would its script not; what breaks off is no answer.
func TestScriptOfWhatDoesNotEnd(t *testing.T) {
	o := newAPI(t, map[string]http.HandlerFunc{
		"/stream": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit")
		},
		"/broken": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	})
	f := start(t, func(c *Config) { c.Routes = "*,aco " + o.Listener.Addr().String() })
	resp, err := http.Get(f.url + "/stream?callback=cb")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	argument := strings.TrimSuffix(strings.TrimPrefix(string(body), "/**/cb("), ");\n")
	var said struct{ Code int }
	if json.Unmarshal([]byte(argument), &said) != nil || said.Code != http.StatusBadGateway || err != nil {
		t.Errorf("a stream: got %s, %v, want a script that says 502", body, err)
	}
	if resp, err := http.Get(f.url + "/broken?callback=cb"); err == nil {
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("a broken body: got the whole answer %s, want none", body)
		}
	}
}

// Pages of another site see why they are turned away.
func TestCORSOfRefusal(t *testing.T) {
	f := start(t, func(c *Config) {
		c.Routes, c.AutoCrossOrigin, c.MaxConnections = "* localhost:1", true, 1
	})
	f.get(t, "/events/list/").want(":ok\n\n") // holds the only place
	resp, err := http.Get(f.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != http.StatusServiceUnavailable || got != "*" {
		t.Errorf("got %d with Access-Control-Allow-Origin %q, want 503 with *", resp.StatusCode, got)
	}
	if got, want := resp.Header.Get("Access-Control-Expose-Headers"), "Retry-After"; got != want {
		t.Errorf("exposed: got %q, want %q", got, want)
	}
}
