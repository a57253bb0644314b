package route

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	const table = `
		* any:1
		*,path_beg=/a/ any-a:1
		*,path_beg=/a/b any-ab:1
		*,proto=ws any-ws:1
		*,path_beg=/s,ssl=yes any-s-tls:1
		*,path_beg=/s any-s:1
		x.example,path_beg=/only x:1
		[::1] v6:1
		,id=hidden hidden:1
	`
	for _, tt := range []struct {
		name, host, path string
		ws, tls          bool
		want             string // target, "" for none
	}{
		{"default", "y.example", "/", false, false, "any:1"},
		{"port does not count", "y.example:8080", "/", false, false, "any:1"},
		{"longer path_beg", "y.example", "/a/c", false, false, "any-a:1"},
		{"longest path_beg", "y.example", "/a/bc", false, false, "any-ab:1"},
		{"prefix is of bytes, with the slash", "y.example", "/a", false, false, "any:1"},
		{"encoded path", "y.example", "/%61/", false, false, "any:1"},
		{"proto beats the longer path_beg", "y.example", "/a/b", true, false, "any-ws:1"},
		{"ssl beats none", "y.example", "/s", false, true, "any-s-tls:1"},
		{"ssl does not match", "y.example", "/s", false, false, "any-s:1"},
		{"named host", "x.example", "/only/this", false, false, "x:1"},
		{"named host in capitals, rooted, with port", "X.Example.:80", "/only/this", false, false, "x:1"},
		{"named host shuts out *", "x.example", "/other", false, false, ""},
		{"IPv6 with port", "[::1]:7999", "/", false, false, "v6:1"},
		{"IPv6 in another spelling", "[0:0::1]", "/", false, false, "v6:1"},
		{"no host", "", "/", false, false, "any:1"},
		{"a host called *", "*", "/", false, false, "any:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if r, ok := parse(t, table).Match(tt.host, tt.path, tt.ws, tt.tls); ok {
				got = r.Targets[0].Addr
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestByID(t *testing.T) {
	table := parse(t, "*,id=a any:1;,id=b only:1;x none:1")
	for id, want := range map[string]string{"a": "any:1", "b": "only:1", "c": "", "": ""} {
		got := ""
		if r, ok := table.ByID(id); ok {
			got = r.Targets[0].Addr
		}
		if got != want {
			t.Errorf("id %q: got %q, want %q", id, got, want)
		}
	}
	if r, ok := (*Table)(nil).ByID("a"); ok {
		t.Errorf("no table: got %v, want none", r)
	}
}

func TestMatchOrderOfLinesDoesNotMatter(t *testing.T) {
	lines := []string{"* a:1", "*,path_beg=/x b:1", "*,path_beg=/x,ssl=yes c:1", "*,path_beg=/x/y d:1", "*,proto=http,ssl=yes e:1", "*,proto=http f:1"}
	for shift := range lines {
		turned := append(append([]string{}, lines[shift:]...), lines[:shift]...)
		r, ok := parse(t, strings.Join(turned, ";")).Match("h", "/x/y", false, true)
		if !ok || r.Targets[0].Addr != "e:1" {
			t.Errorf("lines turned by %d: got %v, want e:1", shift, r)
		}
	}
}

func TestEmpty(t *testing.T) {
	var none *Table
	for _, tt := range []struct {
		name  string
		table *Table
		want  bool
	}{
		{"nil", none, true},
		{"zero", &Table{}, true},
		{"only a comment", parse(t, "# nothing"), true},
		{"a route", parse(t, "* a:1"), false},
	} {
		if got := tt.table.Empty(); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		if _, ok := tt.table.Match("h", "/", false, false); ok == tt.want {
			t.Errorf("%s: got a match: %v, want %v", tt.name, ok, !tt.want)
		}
		if got := len(tt.table.Routes()) == 0; got != tt.want {
			t.Errorf("%s: got no routes: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestRewritePath(t *testing.T) {
	for _, tt := range []struct{ name, route, path, want string }{
		{"as it is", "* a:1", "/a%2Fb//c", "/a%2Fb//c"},
		{"path_rem", "*,path_beg=/api/,path_rem=4 a:1", "/api/x", "/x"},
		{"path_rem up to the slash", "*,path_beg=/api/,path_rem=5 a:1", "/api/x", "/x"},
		{"path_rem takes all", "*,path_rem=9 a:1", "/api", "/"},
		{"replace_beg", "*,path_beg=/api,replace_beg=/v2 a:1", "/api/x", "/v2/x"},
		{"replace_beg without path_beg goes before", "*,replace_beg=/v2 a:1", "/x", "/v2/x"},
		{"OPTIONS of the whole server", "*,path_rem=1 a:1", "*", "*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := parse(t, tt.route).Routes()[0].RewritePath(tt.path); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestEncodedPath(t *testing.T) {
	for _, tt := range []struct{ name, target, want string }{
		{"plain", "/a/b?c/d", "/a/b"},
		{"escapes stay", "/a%2fb%20c", "/a%2fb%20c"},
		{"what no path may hold is escaped, the rest stays", `/a%2Fb|"{}é`, "/a%2Fb%7C%22%7B%7D%C3%A9"},
		{"two slashes", "//a//", "//a//"},
		{"absolute form", "http://h.example:1/a%2F?b", "/a%2F"},
		{"absolute form without path", "http://h.example", "/"},
		{"whole server", "*", "*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("OPTIONS " + tt.target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
			if err != nil {
				t.Fatal(err)
			}
			if got := EncodedPath(r); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	r, _ := http.NewRequest("GET", "http://h/a%2Fb", nil)
	if got, want := EncodedPath(r), "/a%2Fb"; got != want {
		t.Errorf("client request: got %q, want %q", got, want)
	}
}

func TestString(t *testing.T) {
	const text = `*,ssl=yes,path_beg=/a,sig_key=k,header="X-A: b" h:1,ssl test`
	const want = `*,ssl=yes,path_beg=/a,sig_key=‹hidden›,header="X-A: ‹hidden›" h:1,ssl test`
	if got := parse(t, text).Routes()[0].String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
