package cache

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// header reads lines of NAME: VALUE.
func header(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			panic("no colon in " + line)
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h
}

// Section numbers are those of RFC 9111.
func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		header []string
		want   policy
		why    refusal
	}{
		{"max-age", 200, []string{"Cache-Control: max-age=60"}, policy{fresh: time.Minute}, storable},
		{"names in any case, blanks", 200, []string{"Cache-Control:  Max-Age=60 , X-y"}, policy{fresh: time.Minute}, storable},
		{"quoted (5.2)", 200, []string{`Cache-Control: max-age="60"`}, policy{fresh: time.Minute}, storable},
		{"s-maxage wins, and opens (4.2.1, 3.5)", 200, []string{"Cache-Control: max-age=60, s-maxage=10"}, policy{fresh: 10 * time.Second, open: true}, storable},
		{"several lines", 200, []string{"Cache-Control: public", "Cache-Control: max-age=5"}, policy{fresh: 5 * time.Second, open: true}, storable},
		{"the shorter of two (4.2.1)", 200, []string{"Cache-Control: max-age=60, max-age=5"}, policy{fresh: 5 * time.Second}, storable},
		{"Expires less Date (4.2.1)", 200, []string{"Date: Sun, 06 Nov 1994 08:49:37 GMT", "Expires: Sun, 06 Nov 1994 08:50:37 GMT"}, policy{fresh: time.Minute}, storable},
		{"max-age over Expires (5.3)", 200, []string{"Cache-Control: max-age=5", "Expires: 0"}, policy{fresh: 5 * time.Second}, storable},
		{"Expires: 0 is over (5.3)", 200, []string{"Expires: 0"}, policy{}, unnamedAge},
		{"over, but can be validated", 200, []string{"Expires: 0", `Etag: "a"`}, policy{}, storable},
		{"no heuristic (4.2.2)", 200, []string{"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"}, policy{}, unnamedAge},
		{"public alone names no age", 200, []string{"Cache-Control: public"}, policy{}, unnamedAge},
		{"no number", 200, []string{"Cache-Control: max-age=soon"}, policy{}, unnamedAge},
		{"below zero", 200, []string{"Cache-Control: max-age=-1"}, policy{}, unnamedAge},
		{"beyond all numbers (1.2.2)", 200, []string{"Cache-Control: max-age=99999999999999999999"}, policy{fresh: (1<<31 - 1) * time.Second}, storable},
		{"no-cache, to be validated (5.2.2.4)", 200, []string{"Cache-Control: no-cache, max-age=60", `Etag: "a"`}, policy{}, storable},
		{"no-cache of a field is of all", 200, []string{`Cache-Control: no-cache="x-a, x-b", max-age=60`, `Etag: "a"`}, policy{}, storable},
		{"no-store (5.2.2.5)", 200, []string{"Cache-Control: no-store, max-age=60"}, policy{}, refused},
		{"private (5.2.2.7)", 200, []string{"Cache-Control: private, max-age=60"}, policy{}, personal},
		{"private of a field is of all", 200, []string{`Cache-Control: private="x-a", max-age=60`}, policy{}, personal},
		{"must-understand over no-store (5.2.2.3)", 200, []string{"Cache-Control: must-understand, no-store, max-age=60"}, policy{fresh: time.Minute}, storable},
		{"not understood", 299, []string{"Cache-Control: must-understand, max-age=60"}, policy{}, refused},
		{"any status that says so (3)", 404, []string{"Cache-Control: max-age=60"}, policy{fresh: time.Minute}, storable},
		{"206", 206, []string{"Cache-Control: max-age=60"}, policy{}, refused},
		{"Vary: *", 200, []string{"Cache-Control: max-age=60", "Vary: a, *"}, policy{}, variesByAll},
		{"Set-Cookie", 200, []string{"Cache-Control: max-age=60, public", "Set-Cookie: a=b"}, policy{}, personal},
		{"Grip-Set-Meta", 200, []string{"Cache-Control: max-age=60", "Grip-Set-Meta: user=bob"}, policy{}, personal},
		{"Grip-Session-Id", 200, []string{"Cache-Control: max-age=60", "Grip-Session-Id: 1"}, policy{}, personal},
		{"WebSocket events", 200, []string{"Cache-Control: max-age=60", "Content-Type: application/websocket-events; a=b"}, policy{}, personal},
		{"stale windows (RFC 5861)", 200, []string{"Cache-Control: max-age=1, stale-while-revalidate=2, stale-if-error=3"},
			policy{fresh: time.Second, staleWhile: 2 * time.Second, staleIfError: 3 * time.Second}, storable},
		{"must-revalidate forbids them (5.2.2.2)", 200, []string{"Cache-Control: max-age=1, must-revalidate, stale-while-revalidate=2, stale-if-error=3"}, policy{fresh: time.Second}, storable},
		{"proxy-revalidate, too (5.2.2.8)", 200, []string{"Cache-Control: max-age=1, proxy-revalidate, stale-if-error=3"}, policy{fresh: time.Second}, storable},
		{"s-maxage alone does not: the origin named a time", 200, []string{"Cache-Control: s-maxage=1, stale-if-error=3"},
			policy{fresh: time.Second, open: true, staleIfError: 3 * time.Second}, storable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := judge(tt.status, header(tt.header...))
			if got != tt.want || why != tt.why {
				t.Errorf("got %+v %q, want %+v %q", got, why, tt.want, tt.why)
			}
		})
	}
}

func TestInitialAge(t *testing.T) {
	asked := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		header []string
		took   time.Duration
		want   time.Duration
	}{
		{"nothing said", nil, 0, 0},
		{"the way counts", nil, 3 * time.Second, 3 * time.Second},
		{"Age and the way (4.2.3)", []string{"Age: 10"}, 3 * time.Second, 13 * time.Second},
		{"by Date", []string{"Date: Sun, 06 Nov 1994 08:49:17 GMT"}, 0, 20 * time.Second},
		{"the larger of both", []string{"Age: 30", "Date: Sun, 06 Nov 1994 08:49:17 GMT"}, 0, 30 * time.Second},
		{"a clock ahead of ours", []string{"Date: Sun, 06 Nov 1994 08:59:17 GMT"}, 0, 0},
		{"what cannot be read", []string{"Age: old", "Date: today"}, 0, 0},
		{"the first of two", []string{"Age: 10, 20"}, 0, 10 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := initialAge(header(tt.header...), asked, asked.Add(tt.took)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestVariant(t *testing.T) {
	names, all := varies(header("Vary: accept-language, Accept-Encoding", "Vary: Accept, accept-language"))
	if want := []string{"Accept", "Accept-Language"}; all || !slices.Equal(names, want) {
		t.Fatalf("got %q %v, want %q", names, all, want)
	}
	base := variant(names, header("Accept: a, b", "Accept-Language: de"))
	for _, tt := range []struct {
		name   string
		header []string
		same   bool
	}{
		{"equal", []string{"Accept: a, b", "Accept-Language: de"}, true},
		{"others do not matter", []string{"Accept: a, b", "Accept-Language: de", "X-A: 1"}, true},
		{"another value", []string{"Accept: a, b", "Accept-Language: en"}, false},
		{"absent", []string{"Accept: a, b"}, false},
		{"empty", []string{"Accept: a, b", "Accept-Language:"}, false},
		{"a value is not another field", []string{"Accept: a, b", "Accept-Language: de\nX: y"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := variant(names, header(tt.header...)) == base; got != tt.same {
				t.Errorf("got the same: %v, want %v", got, tt.same)
			}
		})
	}
	if variant(names, header("Accept;x: 1")) != variant(names, header()) {
		t.Error("what is not named counts")
	}
}

func TestNotModified(t *testing.T) {
	answer := header(`Etag: "a,b"`, "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT")
	for _, tt := range []struct {
		name    string
		request []string
		want    bool
	}{
		{"its tag", []string{`If-None-Match: "a,b"`}, true},
		{"weakly (4.3.2)", []string{`If-None-Match: "x", W/"a,b"`}, true},
		{"any", []string{"If-None-Match: *"}, true},
		{"another", []string{`If-None-Match: "a", "b"`}, false},
		{"the tag counts before the date", []string{`If-None-Match: "x"`, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"}, false},
		{"its date", []string{"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"}, true},
		{"an earlier date", []string{"If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"}, false},
		{"no date", []string{"If-Modified-Since: yesterday"}, false},
		{"broken quotes", []string{`If-None-Match: "a,b`}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := notModified(header(tt.request...), answer); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRenewed(t *testing.T) {
	got := renewed(header("Content-Type: a/b", "Content-Length: 5", "Cache-Control: max-age=1", "X-Old: 1", "Age: 9"),
		header("Cache-Control: max-age=2", "Content-Length: 0", "X-New: 1", "Connection: close"))
	want := header("Content-Type: a/b", "Content-Length: 5", "Cache-Control: max-age=2", "X-Old: 1", "X-New: 1")
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for name := range want {
		if got.Get(name) != want.Get(name) {
			t.Errorf("%s: got %q, want %q", name, got.Get(name), want.Get(name))
		}
	}
}

func TestParseURL(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"http://Example.com/a?b", "http://example.com/a?b"},
		{"HTTPS://example.com:443", "https://example.com/"},
		{"http://example.com:80/%2F", "http://example.com/%2F"},
		{"http://example.com:8080?x", "http://example.com:8080/?x"},
		{"http://[::1]:80/", "http://[::1]/"},
		{"http://example.com/a#b", "http://example.com/a"},
		{"/a", ""}, {"ftp://example.com/", ""}, {"http:///a", ""}, {"http://u:p@example.com/", ""},
	} {
		if got, err := ParseURL(tt.in); got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %q, %v, want %q", tt.in, got, err, tt.want)
		}
	}
}

// FuzzRules gives outside bytes to everything that reads them: nothing panics,
// times are sane, and what forbids to store is not overlooked.
func FuzzRules(f *testing.F) {
	for _, s := range []string{"max-age=60", `no-cache="a,b", s-maxage="1\"`, ",,=,\"", `private="`, "stale-if-error=1,max-age", "no-store"} {
		f.Add(s, "0", `"a", W/"b`, "a,*")
	}
	f.Fuzz(func(t *testing.T, control, expires, tags, vary string) {
		h := http.Header{"Cache-Control": {control}, "Expires": {expires}, "Vary": {vary}, "Etag": {tags}, "Age": {expires}, "Date": {expires}}
		p, why := judge(200, h)
		if p.fresh < 0 || p.staleWhile < 0 || p.staleIfError < 0 || why != storable && p != (policy{}) {
			t.Errorf("got %+v %q", p, why)
		}
		if control == "no-store" && why == storable {
			t.Error("no-store was overlooked")
		}
		if age := initialAge(h, time.Unix(0, 0), time.Unix(1, 0)); age < 0 {
			t.Errorf("got an age of %v", age)
		}
		names, _ := varies(h)
		variant(names, h)
		notModified(http.Header{"If-None-Match": {tags}, "If-Modified-Since": {expires}}, h)
		onlyIfCached(h)
		if u, err := ParseURL(vary); err == nil {
			if again, err := ParseURL(u); err != nil || again != u {
				t.Errorf("%q becomes %q, and that %q, %v", vary, u, again, err)
			}
		}
	})
}
