package upstream

import (
	"bufio"
	"crypto/tls"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/gateway/route"
	"spillway/grip"
	"spillway/grip/secret"
)

// header returns the fields that an origin gets, "Name: value", sorted.
func header(h http.Header) []string {
	var fields []string
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, name+": "+v)
		}
	}
	slices.Sort(fields)
	return fields
}

func TestParseForwardedFor(t *testing.T) {
	for _, tt := range []struct {
		items []string
		want  ForwardedFor
		err   string
	}{
		{nil, ForwardedFor{}, ""},
		{[]string{"append"}, ForwardedFor{Append: true}, ""},
		{[]string{"truncate:0", "append"}, ForwardedFor{Truncate: true, Append: true}, ""},
		{[]string{"truncate:2"}, ForwardedFor{Truncate: true, Keep: 2}, ""},
		{[]string{"truncate"}, ForwardedFor{}, `"truncate": must be truncate:N or append`},
		{[]string{"truncate:-1"}, ForwardedFor{}, "truncate:-1: write truncate:N, where N is how many entries stay, such as truncate:0"},
	} {
		got, err := ParseForwardedFor(tt.items)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%q: got %+v, %v, want %+v, %s", tt.items, got, err, tt.want, tt.err)
		}
	}
}

func TestForwardedFor(t *testing.T) {
	for _, tt := range []struct {
		name, rule   string
		values, want []string
	}{
		{"left alone", "", []string{"1.1.1.1,2.2.2.2", "3.3.3.3"}, []string{"1.1.1.1,2.2.2.2", "3.3.3.3"}},
		{"append", "append", []string{"1.1.1.1,2.2.2.2", "3.3.3.3"}, []string{"1.1.1.1, 2.2.2.2, 3.3.3.3, 9.9.9.9"}},
		{"append to nothing", "append", nil, []string{"9.9.9.9"}},
		{"the last two", "truncate:2", []string{"1.1.1.1,2.2.2.2", "3.3.3.3"}, []string{"2.2.2.2, 3.3.3.3"}},
		{"fewer than that", "truncate:2", []string{"3.3.3.3"}, []string{"3.3.3.3"}},
		{"none", "truncate:0", []string{"3.3.3.3"}, nil},
		{"only the peer", "truncate:0,append", []string{"1.1.1.1", "2.2.2.2"}, []string{"9.9.9.9"}},
		{"empty entries", "truncate:2", []string{" ,1.1.1.1,, 2.2.2.2 ,"}, []string{"1.1.1.1, 2.2.2.2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var rule ForwardedFor
			if tt.rule != "" {
				var err error
				if rule, err = ParseForwardedFor(strings.Split(tt.rule, ",")); err != nil {
					t.Fatal(err)
				}
			}
			if got := rule.apply(tt.values, "9.9.9.9"); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// What configuration and route options do to the headers of a request.
func TestRequestHeader(t *testing.T) {
	up := key(t, "up")
	trustedSig, err := up.Sign("front", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, route, request string
		tls                  bool
		cfg                  Config
		want                 []string
	}{
		{"both proto headers", "*,no_grip test", "X-Forwarded-Proto: x", true, Config{Proto: ProtoBoth},
			[]string{"X-Forwarded-Proto: https", "X-Forwarded-Protocol: https"}},
		{"only the newer", "*,no_grip test", "X-Forwarded-Protocol: x", true, Config{Proto: ProtoOnly},
			[]string{"X-Forwarded-Proto: https"}},
		{"neither: the client's", "*,no_grip test", "X-Forwarded-Proto: x\nX-Forwarded-Protocol: y", true, Config{Proto: ProtoNone},
			[]string{"X-Forwarded-Proto: x", "X-Forwarded-Protocol: y"}},
		{"neither, of somebody who is no proxy", "*,no_grip test", "X-Forwarded-Proto: x", false,
			Config{Proto: ProtoNone, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ForwardedFor: ForwardedFor{Truncate: true}},
			nil},
		{"the older name of a proxy", "*,no_grip test", "X-Forwarded-Protocol: https", false,
			Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ForwardedFor: ForwardedFor{Truncate: true}},
			[]string{"X-Forwarded-Proto: https"}},
		{"X-Forwarded-For by rule", "*,no_grip test", "X-Forwarded-For: 1.1.1.1", false,
			Config{ForwardedFor: ForwardedFor{Append: true}, ForwardedForTrusted: ForwardedFor{Truncate: true}},
			[]string{"X-Forwarded-For: 1.1.1.1, 192.0.2.7"}},
		{"X-Forwarded-For of a gateway", "* test", "X-Forwarded-For: 1.1.1.1\nGrip-Sig: " + trustedSig, false,
			Config{UpstreamKeys: secret.Fixed(grip.Keys{up}), ForwardedFor: ForwardedFor{Append: true}, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
			[]string{"Grip-Sig: " + trustedSig, "X-Forwarded-For: 1.1.1.1"}},
		{"X-Forwarded-For of a gateway by its rule", "* test", "X-Forwarded-For: 1.1.1.1\nGrip-Sig: " + trustedSig, false,
			Config{UpstreamKeys: secret.Fixed(grip.Keys{up}), ForwardedForTrusted: ForwardedFor{Append: true}},
			[]string{"Grip-Sig: " + trustedSig, "X-Forwarded-For: 1.1.1.1, 192.0.2.7"}},
		{"first in the loop", "*,no_grip test", "", false, Config{CDNLoop: "spill"}, []string{"Cdn-Loop: spill"}},
		{"next in the loop", "*,no_grip test", "CDN-Loop: a; v=1\nCDN-Loop: b", false, Config{CDNLoop: "spill"}, []string{"Cdn-Loop: a; v=1, b, spill"}},
		{"no part of the loop", "*,no_grip test", "CDN-Loop: a", false, Config{}, []string{"Cdn-Loop: a"}},
		{"Pushpin-Route means nothing", "*,no_grip test", "Pushpin-Route: x", false, Config{}, []string{"Pushpin-Route: x"}},
		{"Pushpin-Route was for us", "*,no_grip test", "Pushpin-Route: x", false, Config{AcceptPushpinRoute: true}, nil},
		{"original headers", "*,no_grip,orig_headers,header=X-A:route test", "X-A: 1\nX-A: 2\nGrip-Last: x\nConnection: close", false, Config{},
			[]string{"X-A: route", "eb9bf0f5-Connection: close", "eb9bf0f5-Grip-Last: x", "eb9bf0f5-Host: h", "eb9bf0f5-X-A: 1", "eb9bf0f5-X-A: 2"}},
		{"original headers that are marked already", "*,no_grip,orig_headers test", "X-A: 1\nEB9BF0F5-x-a: 0\nX-M: 1\neb9bf0f5-X-M: 2\nX-N: 1", false,
			Config{NeedMark: []string{"x-m", "X-N", "host"}},
			[]string{"X-A: 1", "X-M: 1", "X-N: 1", "eb9bf0f5-X-A: 0", "eb9bf0f5-X-A: 1", "eb9bf0f5-X-M: 2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, strings.ReplaceAll("GET / HTTP/1.1\nHost: h\n"+tt.request+"\n\n", "\n\n\n", "\n\n"))
			if tt.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if got := header(newForwarder(t, tt.cfg).requestHeader(r, routeTo(t, tt.route, ""))); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A token is used again in the second that it was made in, by the same key and
// issuer only.
func TestSigner(t *testing.T) {
	var s signer
	a, b := key(t, "a"), key(t, "b")
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		name string
		key  grip.Key
		iss  string
		at   time.Time
	}{
		{"first", a, "x", now},
		{"again", a, "x", now.Add(999 * time.Millisecond)},
		{"another issuer", a, "y", now},
		{"another key", b, "x", now},
		{"a second later", a, "x", now.Add(time.Second)},
		{"the clock was set back", a, "x", now.Add(-time.Hour)},
	} {
		want, err := tt.key.Sign(tt.iss, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.sign(tt.key, tt.iss, tt.at); got != want || err != nil {
			t.Errorf("%s: got %s, %v, want %s", tt.name, got, err, want)
		}
	}
	if got := len(s.tokens); got != 1 {
		t.Errorf("got %d tokens kept, want that of the newest second", got)
	}
	if got, err := s.sign(grip.Key{}, "x", now); err == nil {
		t.Errorf("no key: got %q, want an error", got)
	}
}

// Whatever a client sends, the origin sees no header that only a gateway may
// make, nor one that belongs to the client's connection.
func FuzzRequestHeader(f *testing.F) {
	for _, seed := range []string{
		"Grip-Sig: x\r\ngrip-last: a\r\n",
		"Connection: keep-alive, X-A\r\nKeep-Alive: 5\r\nTE: trailers\r\nExpect: 100-continue\r\n",
		"eb9bf0f5-Host: x\r\nEB9BF0F5-: y\r\n",
		"X-Forwarded-For: , ,1,2,3\r\nX-Forwarded-Proto: https\r\nForwarded: for=1\r\nCDN-Loop: a,,b\r\n",
		"Content-Length: 3\r\nContent-Encoding: gzip\r\nAccept-Encoding: br\r\nPushpin-Route: a\r\n",
	} {
		f.Add(seed)
	}
	table, err := route.Parse(route.Source{Text: "*,id=plain test\n*,path_beg=/o,id=orig,orig_headers test"})
	if err != nil {
		f.Fatal(err)
	}
	sigKey, err := grip.ParseKey("k")
	if err != nil {
		f.Fatal(err)
	}
	fw := New(Config{SigKey: secret.Fixed(sigKey), UpstreamKeys: secret.Fixed(grip.Keys{sigKey}), CDNLoop: "us", AcceptPushpinRoute: true, ForwardedFor: ForwardedFor{Truncate: true, Keep: 1, Append: true}}, nil, nil)
	f.Fuzz(func(t *testing.T, fields string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n")))
		if err != nil {
			return
		}
		r.RemoteAddr = "192.0.2.7:1"
		for _, rt := range table.Routes() {
			h := fw.requestHeader(r, rt)
			for name := range h {
				switch http.CanonicalHeaderKey(name) {
				case "Connection", "Keep-Alive", "Transfer-Encoding", "Expect", "Accept-Encoding", "Content-Encoding", "Content-Length",
					"X-Forwarded-Proto", "X-Forwarded-Protocol", "Pushpin-Route":
					t.Errorf("got %s, want it to stay here", name)
				case "Grip-Sig", "Grip-Feature":
				default:
					if isGrip(name) || !rt.OrigHeaders && hasPrefixFold(name, origHeaderPrefix) {
						t.Errorf("got %s, which only we may say", name)
					}
				}
			}
			if _, err := sigKey.Verify(h.Get("Grip-Sig"), time.Now()); err != nil || len(h["Grip-Sig"]) != 1 {
				t.Errorf("got Grip-Sig %q, want one of ours: %v", h["Grip-Sig"], err)
			}
			entries := strings.Split(h.Get("X-Forwarded-For"), ", ")
			if len(h["X-Forwarded-For"]) != 1 || len(entries) > 2 || entries[len(entries)-1] != "192.0.2.7" {
				t.Errorf("got X-Forwarded-For %q, want one entry of the client at most, and its address", h["X-Forwarded-For"])
			}
			if got := h.Get("Cdn-Loop"); got != "us" && !strings.HasSuffix(got, ", us") {
				t.Errorf("got CDN-Loop %q, want us at its end", got)
			}
		}
	})
}
