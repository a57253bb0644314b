package grip

import (
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestSetHeader(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   Instruct
		want http.Header
	}{
		{"nothing", Instruct{Header: fields("X-A: 1"), Body: []byte("x")}, fields()},
		{
			"stream that misses nothing",
			Instruct{
				Hold: HoldStream, Channels: []Subscription{{Channel: "fruit", PrevID: "3"}},
				KeepAlive: &KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second},
				Next:      &Link{URL: "/fruit/?after=3", Timeout: 30 * time.Second},
			},
			fields("Grip-Hold: stream", "Grip-Channel: fruit; prev-id=3",
				`Grip-Keep-Alive: :\n\n; format=cstring; timeout=20`, "Grip-Link: </fruit/?after=3>; rel=next; timeout=30"),
		},
		{
			"long poll",
			Instruct{Hold: HoldResponse, Channels: []Subscription{{Channel: "a"}, {Channel: "b", HasPrevID: true}}, Timeout: 20*time.Second + 1},
			fields("Grip-Hold: response", "Grip-Channel: a", "Grip-Channel: b; prev-id=", "Grip-Timeout: 21"),
		},
		{
			"filters, and what they look at",
			Instruct{
				Hold: HoldStream, Channels: []Subscription{{Channel: "a b/é", Filters: []string{"skip-self", "x;y"}}},
				Meta: map[string]string{"user": "bob", "color": `dark; "red"`},
			},
			fields("Grip-Hold: stream", `Grip-Channel: a b/é; filter=skip-self; filter="x;y"`,
				`Grip-Set-Meta: color="dark; \"red\""`, "Grip-Set-Meta: user=bob"),
		},
		{"a prev-id that needs quotes", Instruct{Hold: HoldResponse, Channels: []Subscription{{Channel: "a", PrevID: " 1,2"}}}, fields("Grip-Hold: response", `Grip-Channel: a; prev-id=" 1,2"`)},
		{"a page", Instruct{Next: &Link{URL: "?page=2"}, Gone: &Link{URL: "https://example.com/gone"}}, fields("Grip-Link: <?page=2>; rel=next", "Grip-Link: <https://example.com/gone>; rel=gone")},
		{"a link to be asked at once", Instruct{Hold: HoldStream, Next: &Link{URL: "/", HasTimeout: true}}, fields("Grip-Hold: stream", "Grip-Link: </>; rel=next; timeout=0")},
		{"status", Instruct{Code: 404, Reason: "Not here"}, fields("Grip-Status: 404 Not here")},
		{"status in one number", Instruct{Code: 299}, fields("Grip-Status: 299")},
		{"some headers", Instruct{Hold: HoldStream, Expose: []string{"Content-Type", "X-A"}}, fields("Grip-Hold: stream", "Grip-Expose-Headers: Content-Type, X-A")},
		{"no headers", Instruct{Hold: HoldStream, Expose: []string{}}, fields("Grip-Hold: stream", "Grip-Expose-Headers: ")},
		{"plain keep-alive", Instruct{Hold: HoldStream, KeepAlive: &KeepAlive{Content: []byte(`a, "b"`), Interval: true}}, fields("Grip-Hold: stream", `Grip-Keep-Alive: a, "b"; mode=interval`)},
		{"keep-alive of any bytes", Instruct{Hold: HoldStream, KeepAlive: &KeepAlive{Content: []byte(" \\;\x00\xff ")}}, fields("Grip-Hold: stream", `Grip-Keep-Alive: \x20\\\x3b\x00\xff\x20; format=cstring`)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := fields("X-Own: 1", "Grip-Timeout: 7", "Grip-Hold: x", "Grip-Session-Id: 1")
			if err := tt.in.SetHeader(got); err != nil {
				t.Fatal(err)
			}
			want := maps.Clone(tt.want)
			want["X-Own"], want["Grip-Session-Id"] = []string{"1"}, []string{"1"}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// What a proxy would refuse, or pass over in silence, is an error here.
func TestInstructMistakes(t *testing.T) {
	on := func(s ...Subscription) Instruct { return Instruct{Hold: HoldResponse, Channels: s} }
	for _, tt := range []struct {
		in   Instruct
		want string
	}{
		{Instruct{Hold: "Stream"}, `hold "Stream" is neither response nor stream`},
		{on(Subscription{}), `channel "": no name`},
		{on(Subscription{Channel: "a,b"}), `channel "a,b": has a comma`},
		{on(Subscription{Channel: "a;b"}), `channel "a;b": has a comma, a semicolon`},
		{on(Subscription{Channel: "a\r\nX: 1"}), "a control character"},
		{on(Subscription{Channel: "a "}), "a blank at its ends"},
		{on(Subscription{Channel: "a"}, Subscription{Channel: "a"}), `channel "a": is named twice`},
		{on(make([]Subscription, 21)...), "21 channels; a proxy looks at 20"},
		{on(Subscription{Channel: "a", PrevID: "\n"}), `channel "a": prev-id "\n" has control characters`},
		{on(Subscription{Channel: "a", Filters: make([]string, 6)}), `channel "a": 6 filters, more than 5`},
		{on(Subscription{Channel: "a", Filters: []string{""}}), `channel "a": filter "" is no name`},
		{Instruct{Hold: HoldStream, Channels: []Subscription{{Channel: "a", PrevID: "1"}}}, `channel "a": has a prev-id, but there is no next link`},
		{Instruct{Hold: HoldResponse, Timeout: -time.Second}, "timeout -1s is negative"},
		{Instruct{Hold: HoldResponse, Timeout: math.MaxInt64}, "timeout 2562047h47m16.854775807s is more than a proxy can count"},
		{Instruct{KeepAlive: &KeepAlive{}}, "keep-alive: no content"},
		{Instruct{KeepAlive: &KeepAlive{Content: []byte("x"), Timeout: -1}}, "keep-alive: timeout -1ns is negative"},
		{Instruct{Meta: map[string]string{"a=b": ""}}, `meta "a=b": has a name or value that no header can carry`},
		{Instruct{Meta: map[string]string{"": ""}}, `meta "": has`},
		{Instruct{Meta: map[string]string{"a": "\r\n"}}, `meta "a": has`},
		{Instruct{Code: 99}, "code 99 is no status"},
		{Instruct{Code: 1000}, "code 1000 is no status"},
		{Instruct{Reason: "OK"}, `reason "OK" without a code`},
		{Instruct{Code: 200, Reason: "a\nb"}, `reason "a\nb" has control characters`},
		{Instruct{Expose: []string{"A B"}}, `expose "A B": is no name of a header`},
		{Instruct{Next: &Link{}}, `next link: "" is not a URL`},
		{Instruct{Next: &Link{URL: "/a>b"}}, `next link: "/a>b" is not a URL`},
		{Instruct{Next: &Link{URL: "/a b"}}, `next link: "/a b" is not a URL`},
		{Instruct{Gone: &Link{URL: "/é"}}, `gone link: "/é" is not a URL`},
		{Instruct{Next: &Link{URL: "/", Timeout: -1}}, "next link: timeout -1ns is negative"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			h := fields("Grip-Hold: stream")
			err := tt.in.SetHeader(h)
			if text := errorText(err); !strings.HasPrefix(text, "instruct: ") || !strings.Contains(text, tt.want) {
				t.Errorf("got error %q, want %q", text, tt.want)
			}
			if !reflect.DeepEqual(h, fields("Grip-Hold: stream")) {
				t.Errorf("got %q, want the header as it was", h)
			}
			w := httptest.NewRecorder()
			if err := tt.in.WriteDocument(w); err == nil || w.Body.Len() > 0 {
				t.Errorf("document: got error %v and %q, want an error and nothing written", err, w.Body)
			}
		})
	}
	for _, in := range []Instruct{
		{Header: fields("Grip-Hold: stream")},
		{Header: http.Header{"A B": {"1"}}},
		{Header: http.Header{"A": {"1\r\nB: 2"}}},
		{Body: make([]byte, MaxHoldBody)},
	} {
		if err := in.WriteDocument(httptest.NewRecorder()); err == nil {
			t.Errorf("document of %q, %d bytes: got no error, want one", in.Header, len(in.Body))
		}
	}
}

func TestWriteDocument(t *testing.T) {
	for _, tt := range []struct {
		name      string
		in        Instruct
		want, doc string
	}{
		{"nothing", Instruct{}, "", `{"response":{"body":""}}`},
		{
			"long poll",
			Instruct{
				Hold: HoldResponse, Channels: []Subscription{{Channel: "jobs-17", PrevID: "3", Filters: []string{"skip-self"}}},
				Timeout: 30 * time.Second, Meta: map[string]string{"user": "bob"},
				Code: 202, Reason: "Wait", Header: fields("X-B: 2", "X-A: 1", "X-B: 3"), Body: []byte("idle\n"),
			},
			"",
			`{"hold":{"mode":"response","channels":[{"name":"jobs-17","prev-id":"3","filters":["skip-self"]}],"timeout":30,"meta":{"user":"bob"}},` +
				`"response":{"code":202,"reason":"Wait","headers":[["X-A","1"],["X-B","2"],["X-B","3"]],"body":"idle\n"}}`,
		},
		{
			"a keep-alive that items put off has no words in it, nor have links",
			Instruct{Hold: HoldStream, KeepAlive: &KeepAlive{Content: []byte("\n")}, Next: &Link{URL: "/a"}},
			`Grip-Keep-Alive: \n; format=cstring|Grip-Link: </a>; rel=next`,
			`{"hold":{"mode":"stream","channels":[]},"response":{"body":""}}`,
		},
		{
			"one at intervals has",
			Instruct{Hold: HoldStream, KeepAlive: &KeepAlive{Content: []byte("\xff"), Timeout: time.Minute, Interval: true}, Body: []byte{0xff}},
			"",
			`{"hold":{"mode":"stream","channels":[],"keep-alive":{"content-bin":"/w==","timeout":60}},"response":{"body-bin":"/w=="}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("Grip-Hold", "stream")
			if err := tt.in.WriteDocument(w); err != nil {
				t.Fatal(err)
			}
			want := fields("Content-Type: application/grip-instruct")
			if tt.want != "" {
				maps.Copy(want, fields(strings.Split(tt.want, "|")...))
			}
			if got := w.Header(); !reflect.DeepEqual(got, want) {
				t.Errorf("got header %q, want %q", got, want)
			}
			if got := w.Body.String(); got != tt.doc {
				t.Errorf("got %s, want %s", got, tt.doc)
			}
		})
	}
}

// What an origin writes is what a proxy reads: whatever a proxy has read can be
// written again, in either form.
func FuzzInstruct(f *testing.F) {
	f.Add("stream", `fruit; prev-id="3,\"4\\"; filter=f, b`, `:\n\n; format=cstring; timeout=20`, "</a?b=1,2>; rel=next; timeout=0, <b>; rel=gone", `a=b, c="d;"`, "404 No", "5")
	f.Add("response", "a,,b;", "AAE=; format=base64; mode=interval", "<a>; rel=next", "=;,=", "", "55.5")
	f.Fuzz(func(t *testing.T, hold, channel, keepAlive, link, meta, status, timeout string) {
		h := fields("Content-Type: text/plain", "X-A: 1")
		for name, value := range map[string]string{
			"Grip-Hold": hold, "Grip-Channel": channel, "Grip-Keep-Alive": keepAlive, "Grip-Link": link,
			"Grip-Set-Meta": meta, "Grip-Status": status, "Grip-Timeout": timeout,
		} {
			if value != "" {
				h[name] = []string{value}
			}
		}
		want, err := ParseInstruct(200, h, []byte("body"))
		if err != nil {
			return
		}
		h = want.Header.Clone()
		if err := want.SetHeader(h); err != nil {
			return // what a lenient reader lets pass; see TestInstructMistakes
		}
		got, err := ParseInstruct(200, h, want.Body)
		if err != nil {
			t.Fatalf("got %v for %q", err, h)
		}
		if want = written(want); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v from %q, want %+v", got, h, want)
		}
		w := httptest.NewRecorder()
		if err := want.WriteDocument(w); err != nil {
			t.Fatal(err)
		}
		got, err = ParseInstruct(200, w.Header(), w.Body.Bytes())
		if err != nil {
			t.Fatalf("got %v for %s", err, w.Body)
		}
		if !validText(want) {
			return // JSON has no other
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v from %s, want %+v", got, w.Body, want)
		}
	})
}

// written is in with what writing changes: seconds are whole, and what a
// response without a timeout has is the default.
func written(in Instruct) Instruct {
	whole := func(d time.Duration) time.Duration { return (d + time.Second - 1).Truncate(time.Second) }
	in.Timeout = whole(in.Timeout)
	if in.Timeout == 0 || in.Hold != HoldResponse {
		in.Timeout = DefaultTimeout
	}
	if in.KeepAlive != nil {
		ka := *in.KeepAlive
		ka.Timeout = whole(ka.Timeout)
		in.KeepAlive = &ka
	}
	if in.Next != nil {
		next := *in.Next
		next.Timeout = whole(next.Timeout)
		in.Next = &next
	}
	return in
}

func validText(in Instruct) bool {
	var all strings.Builder
	for _, s := range in.Channels {
		all.WriteString(s.Channel + s.PrevID + strings.Join(s.Filters, ""))
	}
	for name, value := range in.Meta {
		all.WriteString(name + value)
	}
	all.WriteString(in.Reason)
	return strings.ToValidUTF8(all.String(), "") == all.String()
}
