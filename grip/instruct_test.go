package grip

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// fields builds a header from "Name: value" lines.
func fields(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h.Add(name, strings.TrimSpace(value))
	}
	return h
}

func TestIsInstruct(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.Header
		want bool
	}{
		{"plain", fields("Content-Type: text/plain"), false},
		{"hold", fields("Grip-Hold: stream"), true},
		{"a header that means nothing", fields("Grip-Nonsense: 1"), true},
		{"any case, not canonical", http.Header{"gRIP-x": {"1"}}, true},
		{"only similar", fields("Gripe-Box: 1", "Grip: 2"), false},
		{"document", fields("Content-Type: application/grip-instruct"), true},
		{"document with charset", fields("Content-Type: application/grip-instruct; charset=utf-8"), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := IsInstruct(tt.h); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

func TestParseInstructHeaders(t *testing.T) {
	none := func() Instruct {
		return Instruct{Timeout: DefaultTimeout, Header: http.Header{}, Body: []byte("body")}
	}
	for _, tt := range []struct {
		name string
		h    http.Header
		want func(*Instruct)
	}{
		{"nothing for the proxy", fields("X-A: 1"), func(in *Instruct) { in.Header = fields("X-A: 1") }},
		{
			"stream with parameters", fields("Grip-Hold: stream", "Grip-Channel: fruit; prev-id=3; filter=skip-self; filter=build-id"),
			func(in *Instruct) {
				in.Hold = HoldStream
				in.Channels = []Subscription{{Channel: "fruit", PrevID: "3", HasPrevID: true, Filters: []string{"skip-self", "build-id"}}}
			},
		},
		{
			"for slow clients", fields("Grip-Channel: a; conflate; prev-id=3, b; rate=5/s, c; rate=30/m; conflate"),
			func(in *Instruct) {
				in.Channels = []Subscription{
					{Channel: "a", PrevID: "3", HasPrevID: true, Conflate: true},
					{Channel: "b", Conflate: true, Every: 200 * time.Millisecond},
					{Channel: "c", Conflate: true, Every: 2 * time.Second},
				}
			},
		},
		{
			"lists and repeats add up", fields("Grip-Hold: response", "Grip-Channel: a, b", "Grip-Channel: c"),
			func(in *Instruct) {
				in.Hold = HoldResponse
				in.Channels = []Subscription{{Channel: "a"}, {Channel: "b"}, {Channel: "c"}}
			},
		},
		{
			"a name may hold nearly anything", fields(`Grip-Channel: /a b?c=*[é"x"`),
			func(in *Instruct) { in.Channels = []Subscription{{Channel: `/a b?c=*[é"x"`}} },
		},
		{
			"of a channel named twice the later parameters count", fields("Grip-Channel: a; prev-id=1; filter=x, b, a; prev-id=2"),
			func(in *Instruct) {
				in.Channels = []Subscription{{Channel: "a", PrevID: "2", HasPrevID: true}, {Channel: "b"}}
			},
		},
		{
			"an empty prev-id is still given", fields("Grip-Channel: a; prev-id="),
			func(in *Instruct) { in.Channels = []Subscription{{Channel: "a", HasPrevID: true}} },
		},
		{
			"quoted values may hold separators", fields(`Grip-Channel: a; prev-id="1,2;\"3\\", b`),
			func(in *Instruct) {
				in.Channels = []Subscription{{Channel: "a", PrevID: `1,2;"3\`, HasPrevID: true}, {Channel: "b"}}
			},
		},
		{
			"an empty channel beside others", fields("Grip-Channel: ", "Grip-Channel: a,,"),
			func(in *Instruct) { in.Channels = []Subscription{{Channel: "a"}} },
		},
		{"timeout below the minimum is the caller's", fields("Grip-Timeout: 0"), func(in *Instruct) { in.Timeout = 0 }},
		{"timeout with fraction", fields("Grip-Timeout: 1.5"), func(in *Instruct) { in.Timeout = 1500 * time.Millisecond }},
		{
			"keep-alive", fields(`Grip-Keep-Alive: :\n\n; format=cstring; timeout=20; mode=interval`),
			func(in *Instruct) {
				in.KeepAlive = &KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second, Interval: true}
			},
		},
		{
			"keep-alive is raw by default, and no list", fields(`Grip-Keep-Alive: "a,b\n"`),
			func(in *Instruct) { in.KeepAlive = &KeepAlive{Content: []byte(`"a,b\n"`), Timeout: DefaultTimeout} },
		},
		{
			"keep-alive escapes", fields(`Grip-Keep-Alive: \\\r\x00\xfF\q.; format=cstring`),
			func(in *Instruct) {
				in.KeepAlive = &KeepAlive{Content: []byte("\\\r\x00\xff."), Timeout: DefaultTimeout}
			},
		},
		{
			"keep-alive in base64, at least a second", fields(`Grip-Keep-Alive: AAE=; format=base64; timeout=0; mode=idle`),
			func(in *Instruct) { in.KeepAlive = &KeepAlive{Content: []byte{0, 1}, Timeout: MinKeepAlive} },
		},
		{
			"all parameters of a meta count", fields(`Grip-Set-Meta: user=bob, color="dark red"; size=9`, "Grip-Set-Meta: x"),
			func(in *Instruct) {
				in.Meta = map[string]string{"user": "bob", "color": "dark red", "size": "9", "x": ""}
			},
		},
		{
			"links", fields("Grip-Link: </next?a=1,2;b>; rel=next; timeout=30, <http://o/gone>; rel=gone"),
			func(in *Instruct) {
				in.Next = &Link{URL: "/next?a=1,2;b", Timeout: 30 * time.Second, HasTimeout: true}
				in.Gone = &Link{URL: "http://o/gone", Timeout: DefaultLinkTimeout}
			},
		},
		{
			"link without timeout", fields(`Grip-Link: <n>; rel="next"`),
			func(in *Instruct) { in.Next = &Link{URL: "n", Timeout: DefaultLinkTimeout} },
		},
		{"links that are for someone else", fields("Grip-Link: </a>; rel=prev, nothing"), func(*Instruct) {}},
		{"status", fields("Grip-Status: 404"), func(in *Instruct) { in.Code = 404 }},
		{"status with reason", fields("Grip-Status: 299 Quite Fine"), func(in *Instruct) { in.Code, in.Reason = 299, "Quite Fine" }},
		{
			"the rest reaches the client, repeats in order", fields("Set-Cookie: a", "Set-Cookie: b", "Grip-Nonsense: 1"),
			func(in *Instruct) { in.Header = fields("Set-Cookie: a", "Set-Cookie: b") },
		},
		{
			"only exposed headers", fields("Grip-Expose-Headers: x-a, X-B", "Grip-Expose-Headers: grip-hold", "X-A: 1", "X-C: 2", "Content-Type: text/plain", "Grip-Hold: stream"),
			func(in *Instruct) { in.Hold, in.Header = HoldStream, fields("X-A: 1") },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := none()
			tt.want(&want)
			got, err := ParseInstruct(200, tt.h, []byte("body"))
			if err != nil {
				t.Fatalf("got error %q, want none", err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestParseInstructHeaderErrors(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"Grip-Hold: Stream", "Grip-Hold must be set to either 'response' or 'stream'"},
		{"Grip-Hold: ", "Grip-Hold must be set to either 'response' or 'stream'"},
		{"Grip-Channel: ", "Grip-Channel: no name"},
		{`Grip-Channel: a; prev-id="1`, "Grip-Channel: quote without end"},
		{`Grip-Channel: a; prev-id="1\`, "Grip-Channel: quote without end"},
		{"Grip-Channel: a" + strings.Repeat("; filter=f", 6), `Grip-Channel: channel "a": 6 filters, more than 5`},
		{"Grip-Channel: a; rate=1000/s", `Grip-Channel: channel "a": rate "1000/s" is more than 100/s`},
		{"Grip-Channel: a; rate", `Grip-Channel: channel "a": rate "" is not N/s or N/m`},
		{"Grip-Channel: a; rate=1; filter=f", `Grip-Channel: channel "a": conflate and rate exclude filters`},
		{"Grip-Channel: a; conflate; filter=f", `Grip-Channel: channel "a": conflate and rate exclude filters`},
		{"Grip-Expose-Headers: ,", "Grip-Expose-Headers: no name"},
		{"Grip-Timeout: soon", `Grip-Timeout: "soon": not a number of seconds`},
		{"Grip-Timeout: ", `Grip-Timeout: "": not a number of seconds`},
		{"Grip-Timeout: -1", `Grip-Timeout: "-1": is negative`},
		{"Grip-Timeout: 0x10", `Grip-Timeout: "0x10": not a number of seconds`},
		{"Grip-Timeout: inf", `Grip-Timeout: "inf": not a number of seconds`},
		{"Grip-Timeout: 99999999999", `Grip-Timeout: "99999999999": not a number of seconds`},
		{"Grip-Keep-Alive: ", "Grip-Keep-Alive: no content"},
		{"Grip-Keep-Alive: ; timeout=5", "Grip-Keep-Alive: no content"},
		{"Grip-Keep-Alive: a; format=hex", `Grip-Keep-Alive: unknown format "hex"`},
		{"Grip-Keep-Alive: a; mode=often", `Grip-Keep-Alive: unknown mode "often"`},
		{"Grip-Keep-Alive: a; timeout=x", `Grip-Keep-Alive: timeout "x": not a number of seconds`},
		{`Grip-Keep-Alive: \x4; format=cstring`, `Grip-Keep-Alive: cstring ends in half a \x`},
		{`Grip-Keep-Alive: \xzz; format=cstring`, `Grip-Keep-Alive: cstring has \xzz, which is not hexadecimal`},
		{`Grip-Keep-Alive: a\; format=cstring`, "Grip-Keep-Alive: cstring ends in a backslash"},
		{`Grip-Keep-Alive: \q; format=cstring`, "Grip-Keep-Alive: no content"},
		{"Grip-Set-Meta: a=\"b", "Grip-Set-Meta: quote without end"},
		{"Grip-Status: fine", `Grip-Status: "fine" is not a status`},
		{"Grip-Status: 1000", `Grip-Status: "1000" is not a status`},
		{"Grip-Status: -1 No", `Grip-Status: "-1" is not a status`},
		{"Grip-Link: /next; rel=next", `Grip-Link: "/next" is not <URL>`},
		{"Grip-Link: <>; rel=next", `Grip-Link: "<>" is not <URL>`},
		{"Grip-Link: <http://[>; rel=next", `Grip-Link: "http://[" is not a URL`},
		{"Grip-Link: </a>; rel=next; timeout=-3", `Grip-Link: timeout "-3": is negative`},
	} {
		t.Run(tt.line, func(t *testing.T) {
			_, err := ParseInstruct(200, fields(tt.line), nil)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got error %v, want %s", err, tt.want)
			}
		})
	}
}

var document = fields("Content-Type: application/grip-instruct", "X-Outer: 1")

func TestParseInstructDocument(t *testing.T) {
	for _, tt := range []struct {
		name string
		doc  string
		more []string // headers beside the type
		want Instruct
	}{
		{"empty", `{}`, nil, Instruct{}},
		{
			"response only", `{"response": {"code": "201", "reason": "Done", "headers": {"X-B": "2", "X-A": " 1 "}, "body": "hé"}}`, nil,
			Instruct{Code: 201, Reason: "Done", Header: fields("X-A: 1", "X-B: 2"), Body: []byte("hé")},
		},
		{
			"header pairs may repeat, and grip ones go no further",
			`{"response": {"headers": [["x-a", "1"], ["X-A", "2"], ["Grip-Hold", "stream"]], "body": "x", "body-bin": "AAE="}}`, nil,
			Instruct{Header: fields("X-A: 1", "X-A: 2"), Body: []byte{0, 1}},
		},
		{"a code that is no number counts as 0", `{"response": {"code": "teapot"}}`, nil, Instruct{}},
		{
			"a code makes a header's reason void", `{"response": {"code": 202}}`, []string{"Grip-Status: 404 Gone Fishing"},
			Instruct{Code: 202},
		},
		{"a header's status stays without one", `{"response": {}}`, []string{"Grip-Status: 404 Gone Fishing"}, Instruct{Code: 404, Reason: "Gone Fishing"}},
		{
			"hold is a response by default", `{"hold": {"channels": [{"name": "a"}], "timeout": 1.5}}`, nil,
			Instruct{Hold: HoldResponse, Timeout: 1500 * time.Millisecond, Channels: []Subscription{{Channel: "a"}}},
		},
		{
			"everything", `{"hold": {"mode": "stream", "timeout": "30", "meta": {"user": "bob"},
				"channels": [{"name": "a", "prev-id": "", "filters": ["skip-self"]}],
				"keep-alive": {"content-bin": "fA==", "content": "no", "timeout": 20}}}`, nil,
			Instruct{
				Hold: HoldStream, Timeout: 30 * time.Second, Meta: map[string]string{"user": "bob"},
				Channels:  []Subscription{{Channel: "a", HasPrevID: true, Filters: []string{"skip-self"}}},
				KeepAlive: &KeepAlive{Content: []byte("|"), Timeout: 20 * time.Second, Interval: true},
			},
		},
		{
			"on top of headers", `{"hold": {"mode": "response", "channels": [{"name": "b"}], "meta": {"user": "eve"}, "keep-alive": {"content": "x"}}}`,
			[]string{
				"Grip-Hold: stream", "Grip-Channel: a", "Grip-Timeout: 9", "Grip-Set-Meta: user=bob, lang=de",
				"Grip-Keep-Alive: y; timeout=7; mode=idle", "Grip-Link: <n>; rel=next",
			},
			Instruct{
				Hold: HoldResponse, Timeout: 9 * time.Second, Channels: []Subscription{{Channel: "a"}, {Channel: "b"}},
				Meta: map[string]string{"user": "eve", "lang": "de"}, KeepAlive: &KeepAlive{Content: []byte("x"), Timeout: DefaultTimeout},
				Next: &Link{URL: "n", Timeout: DefaultLinkTimeout},
			},
		},
		{
			"for slow clients", `{"hold": {"mode": "stream", "channels": [{"name": "a", "conflate": true}, {"name": "b", "conflate": false}, {"name": "c", "rate": "0.5/s"}]}}`, nil,
			Instruct{Hold: HoldStream, Channels: []Subscription{{Channel: "a", Conflate: true}, {Channel: "b"}, {Channel: "c", Conflate: true, Every: 2 * time.Second}}},
		},
		{
			"a keep-alive of nothing is none", `{"hold": {"channels": [], "keep-alive": {"timeout": 3}}}`, nil,
			Instruct{Hold: HoldResponse},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := document.Clone()
			for name, values := range fields(tt.more...) {
				h[name] = values
			}
			got, err := ParseInstruct(200, h, []byte(tt.doc))
			if err != nil {
				t.Fatalf("got error %q, want none", err)
			}
			if tt.want.Timeout == 0 {
				tt.want.Timeout = DefaultTimeout
			}
			if tt.want.Header == nil {
				tt.want.Header = http.Header{}
			}
			if string(got.Body) != string(tt.want.Body) {
				t.Errorf("body: got %q, want %q", got.Body, tt.want.Body)
			}
			got.Body, tt.want.Body = nil, nil // nil and empty are the same body
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestParseInstructDocumentErrors(t *testing.T) {
	for _, tt := range []struct{ doc, want string }{
		{``, "not JSON: EOF"},
		{"{\"response\": {\"body\": \"\xff\"}}", "not UTF-8; bytes go into body-bin"},
		{`{} {}`, "not JSON: text after the value"},
		{`[]`, "instruct is not an object"},
		{`{"hold": 1}`, "instruct contains 'hold' with wrong type"},
		{`{"hold": null}`, "instruct contains 'hold' with wrong type"},
		{`{"hold": {}}`, "hold does not contain 'channels'"},
		{`{"hold": {"mode": "Stream", "channels": []}}`, `hold mode "Stream" is neither response nor stream`},
		{`{"hold": {"mode": "", "channels": []}}`, `hold mode "" is neither response nor stream`},
		{`{"hold": {"mode": 1, "channels": []}}`, "hold contains 'mode' with wrong type"},
		{`{"hold": {"channels": {}}}`, "hold contains 'channels' with wrong type"},
		{`{"hold": {"channels": ["a"]}}`, "channel is not an object"},
		{`{"hold": {"channels": [{}]}}`, "channel does not contain 'name'"},
		{`{"hold": {"channels": [{"Name": "a"}]}}`, "channel does not contain 'name'"},
		{`{"hold": {"channels": [{"name": "a", "prev-id": 3}]}}`, "channel contains 'prev-id' with wrong type"},
		{`{"hold": {"channels": [{"name": "a", "filters": "f"}]}}`, "channel contains 'filters' with wrong type"},
		{`{"hold": {"channels": [{"name": "a", "filters": [1]}]}}`, "channel contains 'filters' with wrong type of value"},
		{`{"hold": {"channels": [{"name": "a", "filters": ["","","","","",""]}]}}`, `channel "a": 6 filters, more than 5`},
		{`{"hold": {"channels": [{"name": "a", "conflate": "yes"}]}}`, "channel contains 'conflate' with wrong type"},
		{`{"hold": {"channels": [{"name": "a", "rate": 5}]}}`, "channel contains 'rate' with wrong type"},
		{`{"hold": {"channels": [{"name": "a", "rate": "5/h"}]}}`, `channel "a": rate "5/h" is not N/s or N/m`},
		{`{"hold": {"channels": [], "timeout": -1}}`, "hold contains 'timeout' with invalid value"},
		{`{"hold": {"channels": [], "timeout": "soon"}}`, "hold contains 'timeout' with invalid value"},
		{`{"hold": {"channels": [], "timeout": 1e99999}}`, "hold contains 'timeout' with invalid value"},
		{`{"hold": {"channels": [], "timeout": []}}`, "hold contains 'timeout' with wrong type"},
		{`{"hold": {"channels": [], "keep-alive": "x"}}`, "hold contains 'keep-alive' with wrong type"},
		{`{"hold": {"channels": [], "keep-alive": {"content": 1}}}`, "keep-alive contains 'content' with wrong type"},
		{`{"hold": {"channels": [], "keep-alive": {"content-bin": "%"}}}`, "keep-alive contains 'content-bin' with invalid value"},
		{`{"hold": {"channels": [], "meta": {"a": 1}}}`, "'meta' contains 'a' with wrong type"},
		{`{"response": []}`, "instruct contains 'response' with wrong type"},
		{`{"response": {"code": 1000}}`, "response contains 'code' with invalid value"},
		{`{"response": {"code": -1}}`, "response contains 'code' with invalid value"},
		{`{"response": {"code": {}}}`, "response contains 'code' with wrong type"},
		{`{"response": {"reason": "a\r\nb"}}`, "response contains 'reason' with invalid value"},
		{`{"response": {"headers": {"A": "1\r\nB: 2"}}}`, "headers contains 'A' with invalid name or value"},
		{`{"response": {"headers": {"A B": "1"}}}`, "headers contains 'A B' with invalid name or value"},
		{`{"response": {"headers": [["A"]]}}`, "headers contains list with wrong number of elements"},
		{`{"response": {"body": 1}}`, "response contains 'body' with wrong type"},
	} {
		t.Run(tt.doc, func(t *testing.T) {
			_, err := ParseInstruct(200, document, []byte(tt.doc))
			if want := "instruct document: " + tt.want; err == nil || err.Error() != want {
				t.Errorf("got error %v, want %s", err, want)
			}
		})
	}
	if _, err := ParseInstruct(201, document, []byte(`{}`)); err == nil {
		t.Error("status 201: got no error, want one")
	}
}

// checkInstruct states what holds for every Instruct, however strange the
// bytes it came from.
func checkInstruct(t *testing.T, in Instruct) {
	t.Helper()
	if in.Timeout < 0 || in.Code < 0 || in.Code > 999 {
		t.Errorf("got timeout %v, code %d, want them in range", in.Timeout, in.Code)
	}
	if ka := in.KeepAlive; ka != nil && (len(ka.Content) == 0 || ka.Timeout < MinKeepAlive) {
		t.Errorf("got keep-alive %+v, want content and at least %v", ka, MinKeepAlive)
	}
	if in.Next != nil && (in.Next.URL == "" || in.Next.Timeout < 0) {
		t.Errorf("got next link %+v, want a URL and a timeout", in.Next)
	}
	var seen []string
	for _, s := range in.Channels {
		if s.Channel == "" || len(s.Filters) > MaxFilters || slices.Contains(seen, s.Channel) {
			t.Errorf("got channel %+v after %q, want a new name and few filters", s, seen)
		}
		seen = append(seen, s.Channel)
	}
	for name := range in.Header {
		if isGripField(name) {
			t.Errorf("got header %s, want it removed", name)
		}
	}
}

func FuzzParseInstructHeaders(f *testing.F) {
	f.Add("stream", `fruit; prev-id="3,\"4\\"; filter=f, b`, `:\n\n; format=cstring; timeout=20`, "</a?b=1,2>; rel=next; timeout=0", `a=b, c="d"`, "404 No", "X-A")
	f.Add("stream", "a; conflate, b; rate=0.5/m", "", "", "", "", "")
	f.Add("response", "a,,b;", "AAE=; format=base64; mode=interval", "<a>; rel=gone", "=;,=", "", "")
	f.Fuzz(func(t *testing.T, hold, channel, keepAlive, link, meta, status, expose string) {
		in, err := ParseInstruct(200, http.Header{
			"Grip-Hold": {hold}, "Grip-Channel": {channel}, "Grip-Keep-Alive": {keepAlive}, "Grip-Link": {link},
			"Grip-Set-Meta": {meta}, "Grip-Status": {status}, "Grip-Expose-Headers": {expose}, "Grip-Timeout": {"5"}, "X-A": {"1"},
		}, nil)
		if err == nil {
			checkInstruct(t, in)
		}
	})
}

func FuzzParseInstructDocument(f *testing.F) {
	f.Add([]byte(`{"hold": {"mode": "stream", "timeout": 55, "channels": [{"name": "fruit", "prev-id": "3", "filters": ["skip-self"]}],
		"keep-alive": {"content": "|", "timeout": 20}, "meta": {"user": "bob"}},
		"response": {"code": 200, "reason": "OK", "headers": {"Content-Type": "text/plain"}, "body": "welcome\n"}}`))
	f.Add([]byte(`{"hold":{"channels":[{"name":"a","conflate":true},{"name":"b","rate":"30/m"}]}}`))
	f.Add([]byte(`{"hold":{"channels":[{"name":"a"},{"name":"a"},{"name":""}],"timeout":"1e3"},"response":{"headers":[["Grip-A","b"]],"body-bin":"AA"}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		in, err := ParseInstruct(200, document, doc)
		if err != nil {
			return
		}
		checkInstruct(t, in)
		for name, values := range in.Header {
			if !isFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !isFieldValue(v) }) {
				t.Errorf("got header %q: %q, want one that can be sent", name, values)
			}
		}
	})
}

func TestLast(t *testing.T) {
	h := make(http.Header)
	want := []Last{{"fruit", "3"}, {"a b/é", ""}, {"c", `x,y;"z\`}, {"d", " e "}}
	AppendLast(h, want[:2]...)
	AppendLast(h, want[2:]...)
	AppendLast(h, Last{"a,b", "1"}, Last{"a;b", "1"}, Last{"a\nb", "1"}, Last{"a", "1\r\n2"})
	if got := h["Grip-Last"]; got[0] != "fruit; last-id=3" || len(got) != len(want) {
		t.Errorf("got headers %q, want %d, the first as simple as can be", got, len(want))
	}
	got, err := ParseLast(h)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestParseLast(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.Header
		want []Last
		err  string
	}{
		{"none", fields(), nil, ""},
		{"empty", fields("Grip-Last: "), nil, ""},
		{"list", fields("Grip-Last: a; last-id=1, b;last-id=2"), []Last{{"a", "1"}, {"b", "2"}}, ""},
		{"other parameters", fields("Grip-Last: a; x=y; last-id=1; z"), []Last{{"a", "1"}}, ""},
		{"no id", fields("Grip-Last: a"), nil, `Grip-Last: channel "a": no last-id`},
		{"broken", fields(`Grip-Last: a; last-id="1`), nil, "Grip-Last: quote without end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseLast(tt.h)
			if text := errorText(err); !slices.Equal(got, tt.want) || text != tt.err {
				t.Errorf("got %q, error %q, want %q, error %q", got, text, tt.want, tt.err)
			}
		})
	}
}

func FuzzLast(f *testing.F) {
	f.Add(`a; last-id="1,\"2", b; last-id=3`)
	f.Fuzz(func(t *testing.T, value string) {
		want, err := ParseLast(http.Header{"Grip-Last": {value}})
		if err != nil || !isFieldValue(value) {
			return
		}
		h := make(http.Header)
		AppendLast(h, want...)
		if got, err := ParseLast(h); err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v from %q, want %q", got, err, h, want)
		}
	})
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
