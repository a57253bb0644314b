package route

import (
	"reflect"
	"strings"
	"testing"

	"spillway/grip"
)

func parse(t *testing.T, text string) *Table {
	t.Helper()
	table, err := parseText(text)
	if err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return table
}

func ptr[T any](v T) *T { return &v }

// parseText reads one text as that of a variable.
func parseText(text string) (*Table, error) { return Parse(Source{Text: text, Semicolons: true}) }

func TestParse(t *testing.T) {
	to := func(addr string) []Target { return []Target{{Addr: addr}} }
	for _, tt := range []struct {
		name, text string
		want       Route
	}{
		{"any host", "* localhost:8000", Route{Host: "*", Targets: to("localhost:8000")}},
		{"host is compared in lower case", "API.Example.com a:1", Route{Host: "api.example.com", Targets: to("a:1")}},
		{"IPv6 host", "[::1] a:1", Route{Host: "::1", Targets: to("a:1")}},
		{"IPv6 target", "* [::1]:80", Route{Host: "*", Targets: to("[::1]:80")}},
		{"tabs and blanks between sections", "*  \t a:1\r", Route{Host: "*", Targets: to("a:1")}},
		{"comment after the line", "* a:1 # b:2; c:3", Route{Host: "*", Targets: to("a:1")}},
		{"two targets", "* a:1 b:2", Route{Host: "*", Targets: []Target{{Addr: "a:1"}, {Addr: "b:2"}}}},
		{"limits", "*,proto=ws,ssl=no,path_beg=/a a:1",
			Route{Host: "*", Proto: WebSocket, SSL: ptr(false), PathBeg: "/a", Targets: to("a:1")}},
		{"signature", "*,id=x,sig_iss=me,prefix=p- a:1",
			Route{Host: "*", ID: "x", SigIss: "me", Prefix: "p-", Targets: to("a:1")}},
		{"header with comma, blank and semicolon", `*,header="X-A: b, c; d" a:1`,
			Route{Host: "*", Header: []grip.Header{{Name: "X-A", Value: "b, c; d"}}, Targets: to("a:1")}},
		{"header without blank", "*,header=X-A:b a:1",
			Route{Host: "*", Header: []grip.Header{{Name: "X-A", Value: "b"}}, Targets: to("a:1")}},
		{"header to remove", "*,header=Cookie:,header=X-A:b a:1",
			Route{Host: "*", Header: []grip.Header{{Name: "Cookie"}, {Name: "X-A", Value: "b"}}, Targets: to("a:1")}},
		{"value with a second equals sign", "*,prefix=a=b a:1", Route{Host: "*", Prefix: "a=b", Targets: to("a:1")}},
		{"quotes in the middle, escapes", `*,prefix=a"b \"c\\"d a:1`, Route{Host: "*", Prefix: `ab "c\d`, Targets: to("a:1")}},
		{"# in quotes", `*,prefix="a #b" a:1`, Route{Host: "*", Prefix: "a #b", Targets: to("a:1")}},
		{"rewriting", "*,path_beg=/a,replace_beg=/b,as_host=c.example:99 a:1",
			Route{Host: "*", PathBeg: "/a", ReplaceBeg: "/b", AsHost: "c.example:99", Targets: to("a:1")}},
		{"path_rem", "*,path_rem=3 a:1", Route{Host: "*", PathRem: 3, Targets: to("a:1")}},
		{"flags", "*,debug,no_grip,cache,orig_headers a:1",
			Route{Host: "*", Debug: true, NoGrip: true, Cache: true, OrigHeaders: true, Targets: to("a:1")}},
		{"only its id reaches it", ",id=x a:1", Route{ID: "x", Targets: to("a:1")}},
		{"pages of other sites", "*,aco,jsonp_mode=basic,jsonp_cb=cb,jsonp_body=b,jsonp_defcb=f,jsonp_defmethod=PUT a:1",
			Route{Host: "*", CORS: true, JSONP: JSONP{true, "cb", "b", "f", "PUT"}, Targets: to("a:1")}},
		{"jsonp_mode of Pushpin's default", "*,aco,jsonp_mode=extended a:1", Route{Host: "*", CORS: true, Targets: to("a:1")}},
		{"SockJS", "*,sockjs=/s,sockjs_as_path=/ws a:1", Route{Host: "*", SockJS: "/s", SockJSAsPath: "/ws", Targets: to("a:1")}},
		{"WebSocket over HTTP", "* a:1,over_http,one_event,sub=x,sub=\"y z\"",
			Route{Host: "*", Targets: []Target{{Addr: "a:1", OverHTTP: true, OneEvent: true, Subs: []string{"x", "y z"}}}}},
		{"TLS target", "* a:443,ssl,host=b.example,trust_connect_host",
			Route{Host: "*", Targets: []Target{{Addr: "a:443", TLS: true, Host: "b.example", TrustConnectHost: true}}}},
		{"insecure target", "* a:443,ssl,insecure", Route{Host: "*", Targets: []Target{{Addr: "a:443", TLS: true, Insecure: true}}}},
		{"test target", "* test", Route{Host: "*", Targets: []Target{{Test: true}}}},
		{"test as the last resort", "* a:1 test", Route{Host: "*", Targets: []Target{{Addr: "a:1"}, {Test: true}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			routes := parse(t, tt.text).Routes()
			if len(routes) != 1 {
				t.Fatalf("got %d routes, want 1", len(routes))
			}
			got := *routes[0]
			got.Line = 0
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseSigKey(t *testing.T) {
	r := parse(t, "*,sig_key=base64:Y2hhbmdlbWU= a:1").Routes()[0]
	if r.SigKey.IsZero() {
		t.Error("got no key, want one")
	}
	if strings.Contains(r.String(), "Y2hh") {
		t.Errorf("got %s, want the key hidden", r)
	}
}

func TestParseLines(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []int // line numbers
	}{
		{"nothing", "", nil},
		{"only comments and blanks", " # a\n\n\t\n#b", nil},
		{"newlines count", "# first\na h:1\n\nb h:1\n", []int{2, 4}},
		{"semicolons count too", "a h:1; b h:1;", []int{1, 2}},
		{"a comment goes to the newline", "a h:1 # x; c h:1\nb h:1", []int{1, 2}},
		{"semicolon between quotes", `a,prefix=";" h:1;b h:1`, []int{1, 2}},
		{"quote after an escaped quote", `a,prefix="\";" h:1;b h:1`, []int{1, 2}},
		{"Windows newlines", "a h:1\r\nb h:1\r\n", []int{1, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []int
			for _, r := range parse(t, tt.text).Routes() {
				got = append(got, r.Line)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got lines %v, want %v", got, tt.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string
	}{
		{"no target", "*", "line 1 (*): no target; write CONDITION TARGET, such as: * localhost:8000"},
		{"no port", "* localhost", "line 1 (*): target localhost: write HOST:PORT, [IPv6]:PORT or test"},
		{"port out of range", "* a:65536", "line 1 (*): target a:65536: write HOST:PORT, [IPv6]:PORT or test"},
		{"URL as target", "* http://a:80/", "line 1 (*): target http://a:80/: write HOST:PORT without http:// and path"},
		{"TLS URL as target", "* https://a", "line 1 (*): target https://a: write HOST:443,ssl instead of https://HOST"},
		{"ZeroMQ", "* zhttp/tcp://a:1", "line 1 (*): target zhttp/tcp://a:1: not carried out here: ZeroMQ is not spoken; write HOST:PORT"},
		{"host with port", "a.example:80 a:1", "line 1 (a.example:80): host a.example:80: write a host name without scheme, port or path, such as api.example.com"},
		{"wildcard", "*.example a:1", "line 1 (*.example): host *.example: no partial wildcards; write a whole host name or *"},
		{"empty condition", ",debug a:1", "line 1 (): no host: write a host name or *, or add id=ID to a route that only Pushpin-Route: ID reaches"},
		{"parameter first", "path_beg=/ a:1", "line 1 (path_beg): path_beg=/: a line begins with a host name or *"},
		{"unknown parameter", "*,pathbeg=/a a:1", `line 1 (*): unknown parameter "pathbeg" of a condition; known are proto, ssl, path_beg, id, sig_iss, sig_key, prefix, header, as_host, path_rem, replace_beg, orig_headers, aco, jsonp_mode, jsonp_cb, jsonp_body, jsonp_defcb, jsonp_defmethod, sockjs, sockjs_as_path, debug, no_grip, cache`},
		{"unknown target parameter", "* a:1,tls", `line 1 (*): unknown parameter "tls" of a target; known are ssl, host, insecure, trust_connect_host, client_cert, client_key, over_http, one_event, sub`},
		{"proto", "*,proto=https a:1", "line 1 (*): proto=https: must be proto=http or proto=ws"},
		{"ssl", "*,ssl a:1", "line 1 (*): ssl: needs a value; write ssl=…"},
		{"ssl value", "*,ssl=true a:1", "line 1 (*): ssl=true: must be ssl=yes or ssl=no"},
		{"path without slash", "*,path_beg=a a:1", "line 1 (*): path_beg=a: must be an encoded path that begins with /, without query"},
		{"path that cannot match", `*,path_beg="/a b" a:1`, "line 1 (*): path_beg=/a b: must be an encoded path that begins with /, without query"},
		{"path_rem", "*,path_rem=-1 a:1", "line 1 (*): path_rem=-1: must be a number of bytes from 1 to 65536"},
		{"both rewritings", "*,path_beg=/a,path_rem=1,replace_beg=/z a:1", "line 1 (*): path_rem and replace_beg: use one; replace_beg removes path_beg by itself"},
		{"as_host", "*,as_host=a/b a:1", "line 1 (*): as_host=a/b: must be HOST or HOST:PORT"},
		{"header without colon", "*,header=X a:1", `line 1 (*): header: write header="NAME: VALUE", or header=NAME: to remove NAME`},
		{"header twice", "*,header=X:a,header=x:b a:1", "line 1 (*): header: x is given twice"},
		{"Host by header", "*,header=host:a a:1", "line 1 (*): header: Host is set by as_host=HOST, or host=HOST of a target"},
		{"framing by header", "*,header=content-length:1 a:1", "line 1 (*): header: Content-Length belongs to the connection and cannot be set"},
		{"twice", "*,id=a,id=b a:1", "line 1 (*): id: given twice"},
		{"flag with value", "*,debug=1 a:1", "line 1 (*): debug=1: takes no value; write debug"},
		{"contradiction", "*,no_grip,prefix=a a:1", "line 1 (*): prefix: without effect on a no_grip route; remove one of them"},
		{"insecure without ssl", "* a:1,insecure", "line 1 (*): insecure: without effect on a target without ssl; add ssl or remove it"},
		{"trust without ssl", "* a:1,trust_connect_host", "line 1 (*): trust_connect_host: without effect on a target without ssl; add ssl or remove it"},
		{"target host with port", "* a:1,host=b:80", "line 1 (*): host=b:80: must be host=HOST, a name or address without port"},
		{"target value missing", "* a:1,sub", "line 1 (*): sub: needs a value; write sub=…"},
		{"one_event without over_http", "* a:1,one_event", "line 1 (*): one_event: without effect on a target without over_http; add over_http or remove it"},
		{"half a client certificate", "* a:1,ssl,client_cert=a.pem", "line 1 (*): client_cert and client_key: both are needed"},
		{"client certificate without ssl", "* a:1,client_cert=a.pem,client_key=b.pem", "line 1 (*): client_cert: without effect on a target without ssl; add ssl or remove it"},
		{"no such certificate", "* a:1,ssl,client_cert=/no/a.pem,client_key=/no/b.pem", "line 1 (*): client_cert: open /no/a.pem: no such file or directory"},
		{"jsonp_mode", "*,aco,jsonp_mode=x a:1", "line 1 (*): jsonp_mode=x: must be jsonp_mode=basic or jsonp_mode=extended"},
		{"jsonp_defmethod", "*,aco,jsonp_defmethod=\"A B\" a:1", "line 1 (*): jsonp_defmethod=A B: must be a method, such as POST"},
		{"sockjs without slash", "*,sockjs=s a:1", "line 1 (*): sockjs=s: must be an encoded path that begins with /, without query"},
		{"sockjs_as_path alone", "*,sockjs_as_path=/s a:1", "line 1 (*): sockjs_as_path: without effect without sockjs; add sockjs=PATH or remove it"},
		{"test with parameters", "* test,ssl", "line 1 (*): test: takes no parameters"},
		{"target after test", "* test a:1", "line 1 (*): test: answers always, so no target can come after it"},
		{"open quote", `*,prefix="a b:1`, `line 1 (*): a quote is not closed; end the value with "`},
		{"bad escape", `*,prefix="a\n" b:1`, `line 1 (*): \ between quotes: write \\ for a backslash, \" for a quote`},
		{"comment glued to a word", "* a:1#b", "line 1 (*): # inside a word: put a blank before a comment, or quotes around the value"},
		{"control character", "*,prefix=\x01 a:1", "line 1 (*): control character 0x01"},
		{"control character in quotes", "*,prefix=\"\x01\" a:1", "line 1 (*): prefix: control character in the value"},
		{"same condition", "a.example a:1\nA.example. b:1", "line 2 (A.example.): same condition as line 1; put all targets on one line"},
		{"same id", "a,id=x a:1\nb,id=x b:1", "line 2 (b): id=x: taken by line 1"},
		{"same id without hosts", ",id=x a:1\n,id=x b:1", "line 2 (): id=x: taken by line 1"},
		{"all mistakes of all lines", "* a\n\nb c:1;c,proto=x,ssl=x d:1",
			"line 1 (*): target a: write HOST:PORT, [IPv6]:PORT or test\n" +
				"line 4 (c): proto=x: must be proto=http or proto=ws\n" +
				"line 4 (c): ssl=x: must be ssl=yes or ssl=no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, err := parseText(tt.text)
			if err == nil {
				t.Fatalf("got routes %v, want an error", table.Routes())
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestParseNamed(t *testing.T) {
	file := Source{Name: "routes", Text: "\ufeff# first\na,path_beg=/x;y a:1 # ; b\n"}
	variable := Source{Name: "ROUTES", Text: "b b:1;c c:1", Semicolons: true}
	table, err := Parse(file, variable)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range table.Routes() {
		got = append(got, r.where()+" "+r.Host+r.PathBeg)
	}
	if want := []string{"routes:2 a/x;y", "ROUTES:1 b", "ROUTES:2 c"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	_, err = Parse(file, Source{Name: "ROUTES", Text: "a,path_beg=/x;y a:1;a,path_beg=\"/x;y\" a:1", Semicolons: true}, Source{Name: "more", Text: "* a"})
	want := `ROUTES:1 (a): no target; write CONDITION TARGET, such as: * localhost:8000
ROUTES:3 (a): same condition as routes:2; put all targets on one line
more:1 (*): target a: write HOST:PORT, [IPv6]:PORT or test`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// Whatever Pushpin has and this program has not must be refused by its name:
// a route that quietly does something else is worse than none.
func TestParseRefuses(t *testing.T) {
	for name, reason := range notCarriedOut {
		for _, text := range []string{"*," + name + " a:1", "*," + name + "=x a:1", "* a:1," + name, "* a:1," + name + "=x"} {
			_, err := parseText(text)
			want := "line 1 (*): " + name + ": not carried out here: " + reason + "; remove it"
			if err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", text, err, want)
			}
		}
	}
}

func TestParseErrorsHideSecrets(t *testing.T) {
	for _, text := range []string{
		"*,sig_key=hunter2",
		"*,sig_key=hunter2,sig_key=hunter2 a:1",
		"*,sig_key=base64:hunter2! a:1",
		`*,sig_key="-----BEGIN hunter2" a:1`,
		"*,sigkey=hunter2 a:1",
		`*,sig_key="hunter2 a:1`,
		"sig_key=hunter2 a:1",
		"*,header=Authorization:hunter2,no_such a:1",
		"*,header=hunter2 a:1",
		"*,header=\"Connection: hunter2\" a:1",
		"* a:1,sig_key=hunter2",
	} {
		if _, err := parseText(text); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error without the secret", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"* localhost:8000",
		"a.example,proto=http,ssl=yes,path_beg=/a,id=x,sig_iss=i,sig_key=k,prefix=p a:1 [::1]:2,ssl,insecure",
		`*,header="X-A: \"b\", c;\\",header=Cookie: a:1; b,path_beg=/x,replace_beg=/y test # c`,
		"*,as_host=h:1,path_rem=4,debug,no_grip a:443,ssl,host=b,trust_connect_host",
		"*,aco,jsonp_mode=basic,jsonp_cb=a,jsonp_body=b,jsonp_defcb=c,jsonp_defmethod=GET,sockjs=/s,sockjs_as_path=/t,cache,orig_headers a:1,over_http,one_event,sub=x,sub=y",
		"*,sockjs=/a zhttp/x\n,id=\n\"", ",id=x a:1", "*,ssl=yes a:1,ssl,client_cert=a,client_key=b", "=,=\\", "[::", "[]:1 []:1", "\xff\xfe", "a::b c",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parseText(text)
		if err != nil {
			for _, s := range strings.Split(err.Error(), "\n") {
				if !strings.HasPrefix(s, "line ") {
					t.Fatalf("got error line %q, want it to name the line", s)
				}
			}
			return
		}
		for _, r := range table.Routes() {
			_ = r.String()
			again, err := parseText(r.format(true))
			if err != nil {
				t.Fatalf("parse %q again: %v", r.format(true), err)
			}
			got, want := *again.Routes()[0], *r
			got.Line, want.Line = 0, 0
			got.SigKey, want.SigKey = grip.Key{}, grip.Key{} // is not printed
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v, want %+v", got, want)
			}
			host := r.Host
			if host == "*" {
				host = "no-such-host.example"
			}
			if r.ID != "" {
				if got, ok := table.ByID(r.ID); !ok || got != r {
					t.Fatalf("got %v for id %q, want %v", got, r.ID, r)
				}
			}
			if m, ok := table.Match(host, r.PathBeg, r.Proto == WebSocket, r.SSL != nil && *r.SSL); ok && !m.matches(r.PathBeg, r.Proto == WebSocket, r.SSL != nil && *r.SSL) {
				t.Fatalf("%s chosen for a request it does not match", m)
			}
			if got := r.RewritePath(r.PathBeg); got != "*" && !strings.HasPrefix(got, "/") {
				t.Fatalf("got path %q, want it to begin with /", got)
			}
		}
	})
}
