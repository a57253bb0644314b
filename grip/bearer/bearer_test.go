package bearer

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func request(target string, header http.Header) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	return r
}

func TestMove(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		header       http.Header
		want         http.Header // of Authorization and Sec-Websocket-Protocol
		wantURI      string
	}{
		{"nothing", "/e/x/?a=1&b=2", nil, nil, "/e/x/?a=1&b=2"},
		{"what looks odd stays when there is nothing to move", "/e/x/?&a=1&;&", nil, nil, "/e/x/?&a=1&;&"},
		{"a field stays as it is", "/e/x/", http.Header{"Authorization": {"bearer  abc"}}, http.Header{"Authorization": {"bearer  abc"}}, "/e/x/"},
		{"in the query", "/e/x/?access_token=abc", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/"},
		{"among others, which keep their order and bytes", "/e/x/?z=%2f&access_token=a.b-c_d~e%2B/=&a=+1", nil, http.Header{"Authorization": {"Bearer a.b-c_d~e+/="}}, "/e/x/?z=%2f&a=+1"},
		{"first", "/e/x/?access_token=abc&a=1", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/?a=1"},
		{"last", "/e/x/?a=1&access_token=abc", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/?a=1"},
		{"behind a semicolon, which some servers split at", "/e/x/?a=1;access_token=abc", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/?a=1"},
		{"with an encoded name", "/e/x/?access%5Ftoken=abc", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/"},
		{"twice the same", "/e/x/?access_token=abc&access_token=abc", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/"},
		{"empty is none", "/e/x/?access_token=&a=1", nil, nil, "/e/x/?a=1"},
		{"without a value", "/e/x/?access_token", nil, nil, "/e/x/"},
		{"empty and not", "/e/x/?access_token=&access_token=abc", nil, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/"},
		{"of another name", "/e/x/?Access_Token=abc&xaccess_token=d", nil, nil, "/e/x/?Access_Token=abc&xaccess_token=d"},
		{"the same as in the field", "/e/x/?access_token=abc", http.Header{"Authorization": {"BEARER abc"}}, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/"},
		{"beside a field that is empty", "/e/x/?access_token=abc", http.Header{"Authorization": {""}}, http.Header{"Authorization": {"Bearer abc"}}, "/e/x/"},
		{"an empty one beside another scheme", "/e/x/?access_token=", http.Header{"Authorization": {"Basic eDp5"}}, http.Header{"Authorization": {"Basic eDp5"}}, "/e/x/"},
		{"a subprotocol", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"spillway.v1.json, bearer.YWJj"}}, http.Header{"Authorization": {"Bearer abc"}, "Sec-Websocket-Protocol": {"spillway.v1.json"}}, "/e/x/"},
		{"in a field of its own", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"bearer.YWJj", "a,b"}}, http.Header{"Authorization": {"Bearer abc"}, "Sec-Websocket-Protocol": {"a, b"}}, "/e/x/"},
		{"both the same", "/e/x/?access_token=abc", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.YWJj"}}, http.Header{"Authorization": {"Bearer abc"}, "Sec-Websocket-Protocol": {"a"}}, "/e/x/"},
		{"subprotocols without one", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a ,b"}}, http.Header{"Sec-Websocket-Protocol": {"a ,b"}}, "/e/x/"},
		{"of another case it is a protocol", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"Bearer.YWJj"}}, http.Header{"Sec-Websocket-Protocol": {"Bearer.YWJj"}}, "/e/x/"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(tt.target, tt.header)
			before := r.Clone(t.Context())
			got, err := Move(r)
			if err != nil {
				t.Fatal(err)
			}
			if got.RequestURI != tt.wantURI || got.URL.RequestURI() != tt.wantURI {
				t.Errorf("got %s and %s, want %s", got.RequestURI, got.URL.RequestURI(), tt.wantURI)
			}
			if tt.want == nil {
				tt.want = http.Header{}
			}
			if !reflect.DeepEqual(got.Header, tt.want) {
				t.Errorf("got %v, want %v", got.Header, tt.want)
			}
			if !reflect.DeepEqual(r.Header, before.Header) || *r.URL != *before.URL || r.RequestURI != before.RequestURI {
				t.Error("the request itself was changed")
			}
			again, err := Move(got)
			if err != nil || again != got {
				t.Errorf("moved again: %v, %v; want the same request", again, err)
			}
		})
	}
}

func TestMoveRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		header       http.Header
		want         error
	}{
		{"two in the query", "/e/x/?access_token=secret1&access_token=secret2", nil, errTwo},
		{"two that are separated by a semicolon", "/e/x/?access_token=secret1;access_token=secret2", nil, errTwo},
		{"query and field", "/e/x/?access_token=secret1", http.Header{"Authorization": {"Bearer secret2"}}, errTwo},
		{"query and another scheme", "/e/x/?access_token=secret1", http.Header{"Authorization": {"Basic c2VjcmV0"}}, errOther},
		{"query and a field without a token", "/e/x/?access_token=secret1", http.Header{"Authorization": {"Bearer"}}, errOther},
		{"query and subprotocol", "/e/x/?access_token=secret1", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.YWJj"}}, errTwo},
		{"two subprotocols", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.YWJj, bearer.YWJk"}}, errTwo},
		{"subprotocol and field", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.YWJj"}, "Authorization": {"Bearer secret2"}}, errTwo},
		{"only a token as subprotocol", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"bearer.YWJj"}}, errProtocols},
		{"two fields", "/e/x/", http.Header{"Authorization": {"Bearer secret1", "Bearer secret1"}}, errFields},
		{"a line's end", "/e/x/?access_token=secret1%0d%0aX:1", nil, errParam},
		{"a blank", "/e/x/?access_token=secret1+x", nil, errParam},
		{"NUL", "/e/x/?access_token=secret1%00", nil, errParam},
		{"beyond ASCII", "/e/x/?access_token=secret1%c3%a4", nil, errParam},
		{"broken encoding", "/e/x/?access_token=secret1%zz", nil, errParam},
		{"no base64url", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.secret1!"}}, errProtocol},
		{"with padding", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.YQ=="}}, errProtocol},
		{"empty", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a, bearer."}}, errProtocol},
		{"a line's end in base64url", "/e/x/", http.Header{"Sec-WebSocket-Protocol": {"a, bearer.DQo"}}, errProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Move(request(tt.target, tt.header))
			if err != tt.want { //nolint:errorlint // none is wrapped
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a token: %v", err)
			}
		})
	}
}

func TestToken(t *testing.T) {
	for _, tt := range []struct {
		fields []string
		want   string
	}{
		{nil, ""}, {[]string{""}, ""}, {[]string{"Bearer"}, ""}, {[]string{"Bearer "}, ""}, {[]string{"Basic abc"}, ""},
		{[]string{"Bearer abc"}, "abc"}, {[]string{"bEARER   abc "}, "abc"}, {[]string{"Bearerabc"}, ""},
		{[]string{"Bearer abc", "Bearer abc"}, ""},
	} {
		got, ok := Token(http.Header{"Authorization": tt.fields})
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tt.fields, got, ok, tt.want)
		}
	}
}

// What is moved cannot be found where it was, whatever clients send, and can
// forge no header.
func FuzzMove(f *testing.F) {
	f.Add("a=1&access_token=abc", "spillway.v1.json, bearer.YWJj", "")
	f.Add("access%5ftoken=%41;b", "bearer.YWJj,x", "Bearer abc")
	f.Add("access_token=a&access_token=b", "", "Basic x")
	f.Add("%zz&=&;access_token", "bearer.", "Bearer ")
	f.Fuzz(func(t *testing.T, query, protocols, authorization string) {
		r := &http.Request{Method: "GET", URL: &url.URL{Path: "/e/x/", RawQuery: query}, RequestURI: "/e/x/?" + query, Header: http.Header{}}
		if protocols != "" {
			r.Header["Sec-Websocket-Protocol"] = []string{protocols}
		}
		if authorization != "" {
			r.Header["Authorization"] = []string{authorization}
		}
		moved, err := Move(r)
		if err != nil {
			return
		}
		for piece := range strings.FieldsFuncSeq(moved.URL.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
			name, _, _ := strings.Cut(piece, "=")
			if name, err := url.QueryUnescape(name); err == nil && name == param {
				t.Errorf("%q is left of %q", moved.URL.RawQuery, query)
			}
		}
		for _, field := range moved.Header["Sec-Websocket-Protocol"] {
			for name := range strings.SplitSeq(field, ",") {
				if strings.HasPrefix(strings.Trim(name, " \t"), subprotocol) {
					t.Errorf("%q is left of %q", field, protocols)
				}
			}
		}
		if moved != r {
			token, ok := Token(moved.Header)
			if ok && !IsToken(token) {
				t.Errorf("%q is no token", token)
			}
			if given, _ := Token(r.Header); given != "" && ok && given != token {
				t.Errorf("token %q became %q", given, token)
			}
			// What can be read of the query is the same, in the same order.
			want, err := url.ParseQuery(query)
			got, errGot := url.ParseQuery(moved.URL.RawQuery)
			delete(want, param)
			if err == nil && (errGot != nil || !reflect.DeepEqual(got, want)) {
				t.Errorf("%q became %q", query, moved.URL.RawQuery)
			}
		}
	})
}
