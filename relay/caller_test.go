package relay

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/grip"
	"spillway/relay/auth"
	"spillway/relay/kafkatest"
)

// byToken makes clients show tokens that aSecret signed.
func byToken(c *Config) {
	c.Auth.Key = aSecret
}

// byAPI makes an API say who clients are.
func byAPI(t *testing.T, answer http.HandlerFunc) func(*Config) {
	api := httptest.NewServer(answer)
	t.Cleanup(api.Close)
	return func(c *Config) {
		c.Auth.URL = api.URL
	}
}

// signed is a token of aSecret that lets its subject read topics for a time.
func signed(t testing.TB, lives time.Duration, topics string, more map[string]any) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": "alice", "topics": topics, "exp": float64(time.Now().Add(lives).UnixMilli()) / 1000}
	maps.Copy(claims, more)
	return signedBy(t, jwt.SigningMethodHS256, []byte(aSecret), claims)
}

func signedBy(t testing.TB, m jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(m, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// bearer is the header field with a token.
func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// Every combination of method, place of the token, its state, topic and way out
// has the answer that its row says: none is open by accident.
func TestWhoMayReadWhat(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	allowed, denied := kafkatest.UniqueTopic(t)+"-allowed", kafkatest.UniqueTopic(t)+"-denied"
	k.CreateTopic(allowed, 1)
	k.CreateTopic(denied, 1)
	h := startRelay(t, k, byToken, func(c *Config) { c.Auth.Cookie = "session" })
	h.open("/events/"+allowed+"/", bearer(signed(t, time.Hour, ".*", nil))...) // it is being read
	h.open("/events/"+denied+"/", bearer(signed(t, time.Hour, ".*", nil))...)

	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.MapClaims{"sub": "alice", "topics": allowed, "exp": time.Now().Add(time.Hour).Unix()}
	without := func(name string) jwt.MapClaims {
		c := maps.Clone(claims)
		delete(c, name)
		return c
	}
	tokens := map[string]string{
		"none":              "",
		"valid":             signedBy(t, jwt.SigningMethodHS256, []byte(aSecret), claims),
		"expired":           signed(t, -time.Hour, allowed, nil),
		"not yet":           signed(t, time.Hour, allowed, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}),
		"for ever":          signedBy(t, jwt.SigningMethodHS256, []byte(aSecret), without("exp")),
		"wrong key":         signedBy(t, jwt.SigningMethodHS256, []byte(anotherSecret), claims),
		"wrong algorithm":   signedBy(t, jwt.SigningMethodRS256, private, claims),
		"no algorithm":      signedBy(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims),
		"no topics":         signedBy(t, jwt.SigningMethodHS256, []byte(aSecret), without("topics")),
		"not a token":       "abc",
		"signature cut off": strings.TrimRight(signedBy(t, jwt.SigningMethodHS256, []byte(aSecret), claims), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
	}
	places := map[string]func(r *http.Request, token string){
		"header": func(r *http.Request, token string) { r.Header.Set("Authorization", "Bearer "+token) },
		"cookie": func(r *http.Request, token string) {
			r.Header.Set("Cookie", "a=b; session="+token)
			r.Header.Set("Origin", "http://"+r.Host)
		},
		"query": func(r *http.Request, token string) { r.URL.RawQuery = "access_token=" + token },
		"subprotocol": func(r *http.Request, token string) {
			r.Header.Set("Sec-Websocket-Protocol", "spillway.v1.json, bearer."+base64.RawURLEncoding.EncodeToString([]byte(token)))
		},
	}
	paths := map[string]string{"allowed": allowed + "/", "denied": denied + "/", "unknown": "unknown/", "internal": "__consumer_offsets/", "both": allowed + "," + denied + "/", "list": ""}
	notFound := make(map[string]string) // the one answer, by what CORS looks at
	cells := 0
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost} {
		for place, put := range places {
			for state, token := range tokens {
				for what, path := range paths {
					for form, header := range forms {
						if place == "subprotocol" && form != "subprotocol" {
							continue // only a WebSocket has one
						}
						cells++
						cell := strings.Join([]string{method, place, state, what, form}, ", ")
						r := httptest.NewRequest(method, "/events/"+path, nil)
						for i := 0; i < len(header); i += 2 {
							r.Header.Set(header[i], header[i+1])
						}
						if token != "" {
							put(r, token)
						}
						w := h.do(r)
						want := http.StatusNotFound
						switch {
						case method == http.MethodOptions:
							want = http.StatusNoContent
						case method == http.MethodPost:
							want = http.StatusMethodNotAllowed
						case state != "valid" && state != "no topics":
							want = http.StatusUnauthorized
						case what == "list", what == "allowed" && state == "valid":
							want = http.StatusOK
						}
						if w.Code != want {
							t.Errorf("%s: %d %s, want %d", cell, w.Code, w.Body, want)
						}
						if want != http.StatusOK && len(gripHeaders(w.Header())) > 0 {
							t.Errorf("%s: the answer has %v", cell, gripHeaders(w.Header()))
						}
						switch want {
						case http.StatusUnauthorized:
							if !strings.HasPrefix(w.Header().Get("Www-Authenticate"), "Bearer") {
								t.Errorf("%s: no WWW-Authenticate", cell)
							}
						case http.StatusNotFound: // with the same bytes, whatever is the reason
							got := fmt.Sprint(w.Header(), w.Body)
							like := method + r.Header.Get("Origin")
							if notFound[like] == "" {
								notFound[like] = got
							}
							if got != notFound[like] {
								t.Errorf("%s: got\n%s\nand elsewhere\n%s", cell, got, notFound[like])
							}
						case http.StatusOK:
							if what == "list" && method == http.MethodGet && strings.Contains(w.Body.String(), allowed) != (state == "valid") || strings.Contains(w.Body.String(), denied) {
								t.Errorf("%s: the list is %s", cell, w.Body)
							}
						}
						if !strings.HasPrefix(w.Header().Get("Cache-Control"), "private, no-store") || w.Header().Get("Vary") != variesByCaller[0] {
							t.Errorf("%s: Cache-Control %q, Vary %q", cell, w.Header().Get("Cache-Control"), w.Header().Get("Vary"))
						}
						if strings.Contains(w.Body.String(), token) && len(token) > 10 {
							t.Errorf("%s: the token is in the answer", cell)
						}
					}
				}
			}
		}
	}
	if cells < 1000 {
		t.Errorf("%d cells were looked at", cells)
	}
}

// A stream ends when its token does, with the reason.
func TestStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, "in time")
	h := startRelay(t, k, byToken, func(c *Config) { c.Auth.Leeway = 0 })
	for _, tt := range []struct {
		name, query, want string
		header            []string
	}{
		{"SSE", "", "event: stream-error\ndata: {\"code\":\"token-expired\"", nil},
		{"bounded", "&limit=5", `{"code":"token-expired"`, nil},
		{"marks", "&marks=1", `{"code":"token-expired"`, nil},
		{"paced", "&speed=1", `{"code":"token-expired"`, nil},
		{"NDJSON", "", `{"type":"error","code":"token-expired"`, []string{"Accept", "application/x-ndjson"}},
		{"WebSocket", "", "\x03\xf0token-expired", []string{"Accept", grip.ContentTypeEvents, "Sec-WebSocket-Protocol", protocolJSON}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &harness{t, h.gw, h.r}
			expires := time.Now().Add(6 * time.Second).Truncate(time.Second) // fractions are not exact in a token
			token := signed(t, 0, topic, map[string]any{"exp": expires.Unix()})
			s := h.open("/events/"+topic+"/?from=earliest"+tt.query, append(bearer(token), tt.header...)...)
			s.until("the record", func(out string) bool { return strings.Contains(out, "in time") })
			s.until("the end", func(string) bool { return s.ended })
			if out := s.out.String(); !strings.Contains(out, tt.want) || time.Now().Before(expires) {
				t.Errorf("%v before its end it ended with %q, want %q", time.Until(expires), tail(out), tt.want)
			}
		})
	}
	w := h.get("/events/"+topic+"/?wait=50s", append(bearer(signed(t, 30*time.Second, topic, nil)), "Accept", "application/json")...)
	if timeout, err := strconv.ParseFloat(w.Header().Get("Grip-Timeout"), 64); err != nil || timeout > 30 {
		t.Errorf("a long poll waits %vs, want no longer than its token lives", timeout)
	}
}

// AUTH_URL is asked again while a stream lives: it ends when it may not be read any more, or not as it was.
func TestStreamsAreRechecked(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	for _, tt := range []struct {
		name   string
		before http.HandlerFunc
		after  http.HandlerFunc
		want   string
	}{
		{"denied", ok, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }, `"code":"forbidden"`},
		{"logged out", ok, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, `"code":"forbidden"`},
		{"fewer topics", ok, allows("X-Spillway-Topics", "other"), `"code":"forbidden"`},
		{"other rows", allows("X-Spillway-Claims", `{"tenant":"a"}`), allows("X-Spillway-Claims", `{"tenant":"b"}`), `"code":"forbidden"`},
		{"somebody else", allows("X-Spillway-Subject", "a"), allows("X-Spillway-Subject", "b"), `"code":"forbidden"`},
		{"expired", ok, allows("X-Spillway-Expires", "1000000000"), `"code":"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			var later atomic.Bool
			h := startRelay(t, k, byAPI(t, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				if later.Load() {
					tt.after(w, r)
				} else {
					tt.before(w, r)
				}
			}), func(c *Config) {
				c.Auth.Recheck, c.Auth.CacheTTL = time.Second, 0
				c.TopicRules = fmt.Sprintf(`{%q: {"filter": "!has(claims.tenant) || value.tenant == claims.tenant"}}`, topic)
			})
			s := h.open("/events/"+topic+"/", "Cookie", "a=b")
			pages := s.pages
			s.until("it is asked again, and goes on", func(string) bool { return s.pages > pages+1 && s.holding })
			if asked.Load() < 2 {
				t.Errorf("the API was asked %d times", asked.Load())
			}
			later.Store(true)
			s.until("the end", func(string) bool { return s.ended })
			if out := s.out.String(); !strings.Contains(out, tt.want) {
				t.Errorf("it ended with %q, want %q", tail(out), tt.want)
			}
		})
	}
}

// A WebSocket cannot put off that AUTH_URL is asked again, neither by subscribing
// anew nor by renewing its token.
func TestWebSocketsAreRechecked(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	var away atomic.Bool
	h := startRelay(t, k, byAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}), func(c *Config) { c.Auth.Recheck, c.Auth.CacheTTL = time.Second, 0 })
	w := h.get("/events/"+topic+"/", "Accept", grip.ContentTypeEvents, "Sec-WebSocket-Protocol", protocolJSON, "Authorization", "Bearer x")
	s := &stream{h: h, ws: true}
	s.prefix, _ = grip.ParseExtension(w.Header())
	s.apply(w)
	grant := w.Header().Get("Set-Meta-Grant")
	say := func(messages ...string) string {
		var body []byte
		for _, m := range messages {
			body = grip.AppendEvent(body, grip.Event{Type: grip.EventText, Content: []byte(m)})
		}
		r := httptest.NewRequest(http.MethodPost, "/events/"+topic+"/", bytes.NewReader(body))
		w := h.do(r, "Content-Type", grip.ContentTypeEvents, "Accept", grip.ContentTypeEvents, "Meta-Grant", grant)
		if kept := w.Header().Get("Set-Meta-Grant"); kept != "" {
			grant = kept
		}
		return w.Body.String()
	}
	subscribe := fmt.Sprintf(`{"type":"subscribe","topics":[%q],"ref":1}`, topic)
	if got := say(`{"type":"auth","token":"x","ref":0}`, subscribe); !strings.Contains(got, `"authenticated"`) || !strings.Contains(got, `"subscribed"`) {
		t.Fatalf("the API says yes: %q", got)
	}
	pages := s.pages
	s.until("the API is asked again about the stream, which goes on", func(string) bool { return s.pages > pages+1 && s.holding })
	away.Store(true)
	s.until("the stream ends", func(string) bool { return s.ended })
	h.eventually("nothing can be subscribed to any more", func() bool { return strings.Contains(say(subscribe), `"code":"forbidden"`) })
	away.Store(false)
	if got := say(subscribe); !strings.Contains(got, `"subscribed"`) {
		t.Errorf("the API says yes again: %q", got)
	}
}

func ok(http.ResponseWriter, *http.Request) {}

func allows(name, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.Header().Set(name, value) }
}

// While the API is away nobody gets in, and a stream that is to be asked about
// gets nothing; it goes on when the API is back.
func TestAPIAway(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	var away atomic.Bool
	h := startRelay(t, k, byAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	}), func(c *Config) { c.Auth.Recheck, c.Auth.CacheTTL = time.Second, 0 })
	s := h.open("/events/" + topic + "/")
	away.Store(true)
	w := h.get("/events/"+topic+"/", "Accept", "text/event-stream")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `{"code":"auth-unavailable"`) || len(gripHeaders(w.Header())) > 0 {
		t.Errorf("EventSource: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w = h.get("/events/" + topic + "/"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("curl: %d %s", w.Code, w.Body)
	}
	refused := false
	s.until("it waits for the API", func(string) bool { refused = refused || !s.holding; return refused })
	values(k, topic, "meanwhile")
	away.Store(false)
	s.wantData("meanwhile")
}

// Rows of a topic are those of the caller, whatever the caller asks for.
func TestRowsOfTheCaller(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	row := func(tenant string, n int) *kgo.Record {
		return &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Appendf(nil, `{"tenant":%q,"n":%d}`, tenant, n)}
	}
	k.Produce(row("a", 1), row("b", 2), row("a", 3))
	h := startRelay(t, k, byToken, func(c *Config) {
		c.TopicRules = fmt.Sprintf(`{%q: {"filter": "value.tenant == claims.tenant"}}`, topic)
	})
	of := func(tenant any) []string {
		return bearer(signed(t, time.Hour, topic, map[string]any{"tenant": tenant, "jti": rand.Text()}))
	}
	url := "/events/" + topic + "/?from=earliest"
	a, b := h.open(url, of("a")...), h.open(url, of("b")...)
	a.wantData(`{"tenant":"a","n":1}`, `{"tenant":"a","n":3}`)
	b.wantData(`{"tenant":"b","n":2}`)
	k.Produce(row("b", 4), row("a", 5))
	a.wantData(`{"tenant":"a","n":1}`, `{"tenant":"a","n":3}`, `{"tenant":"a","n":5}`)
	b.wantData(`{"tenant":"b","n":2}`, `{"tenant":"b","n":4}`)

	again := h.open("/events/"+topic+"/", of("a")...)
	if again.channel != a.channel || again.channel == b.channel {
		t.Errorf("channels of a, a and b: %s, %s, %s; want those of one tenant to be one", a.channel, again.channel, b.channel)
	}
	// Nothing that a client can say widens it.
	for _, query := range []string{
		"filter=true", "filter=value.tenant=='b'", "filter=true||value.tenant=='b'", "key=k", "partition=0", "fields=n",
		"filter=" + strings.ReplaceAll(")||(true", "|", "%7C"), "filter=claims.tenant=='b'", "format=envelope", "from=earliest&filter=!false",
	} {
		w := h.get("/events/"+topic+"/?limit=100&until=0s&from=earliest&"+strings.TrimPrefix(query, "from=earliest&"), of("a")...)
		if w.Code == http.StatusBadRequest {
			continue
		}
		s := &stream{h: h}
		s.apply(w)
		s.until("the end", func(string) bool { return s.ended })
		if strings.Contains(s.out.String(), `"b"`) || strings.Contains(s.out.String(), `{"n":2}`) {
			t.Errorf("%s: a client of tenant a got %s", query, s.out.String())
		}
	}
	// A cursor of the other tenant is a position, and nothing more.
	h.open("/events/"+topic+"/", append(of("a"), "Last-Event-ID", b.events()[0].id)...).wantData(`{"tenant":"a","n":3}`, `{"tenant":"a","n":5}`)
	// Without the claim there are no rows; and a claim is a value, not a text of an expression.
	for _, tenant := range []any{nil, "", "a' || true || 'a' == 'a", []any{"a"}, map[string]any{"a": 1}, 7} {
		s := h.open(url+"&marks=1", of(tenant)...)
		s.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
		if strings.Contains(s.out.String(), "tenant") {
			t.Errorf("tenant %v sees %s", tenant, s.out.String())
		}
	}
	// Numbers compare as numbers.
	k.Produce(&kgo.Record{Topic: topic, Value: []byte(`{"tenant":9007199254740993,"n":6}`)})
	h.open(url, of(json.Number("9007199254740993"))...).wantData(`{"tenant":9007199254740993,"n":6}`)
	if s := h.open(url+"&marks=1", of(json.Number("9007199254740992"))...); true {
		s.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
		if strings.Contains(s.out.String(), "tenant") {
			t.Errorf("a neighbouring number sees %s", s.out.String())
		}
	}
}

// A claim that is null is another than one that is missing: a rule may let those
// see everything who have none.
func TestRowsOfCallersWithoutAClaim(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, `{"tenant":"a"}`, `{"tenant":null}`)
	h := startRelay(t, k, byToken, func(c *Config) {
		c.TopicRules = fmt.Sprintf(`{%q: {"filter": "!has(claims.tenant) || value.tenant == claims.tenant"}}`, topic)
	})
	url := "/events/" + topic + "/?from=earliest"
	h.open(url, bearer(signed(t, time.Hour, topic, nil))...).wantData(`{"tenant":"a"}`, `{"tenant":null}`)
	h.open(url, bearer(signed(t, time.Hour, topic, map[string]any{"tenant": nil}))...).wantData(`{"tenant":null}`)
}

// Nobody prepares for others what they see, with a name that is no topic's.
func TestRowsAreNotThoseOfAnotherName(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	values(k, topic, `{"public":false}`, `{"public":true}`)
	h := startRelay(t, k, byAPI(t, ok), func(c *Config) {
		c.TopicRules = fmt.Sprintf(`{%q: {"filter": "value.public"}, ".*": {"filter": "has(value.public)"}}`, topic)
	})
	if w := h.get("/events/bare%00"+topic+"/", "Cookie", "a=b"); w.Code != 404 {
		t.Errorf("a name that is no topic's: %d, want 404", w.Code)
	}
	h.open("/events/" + topic + "/?from=earliest").wantData(`{"public":true}`)
}

// A client that shows no credential sees no headers, unless the topic lists those
// that everyone may see.
func TestHeadersOfAnonymousCallers(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic, listed := kafkatest.UniqueTopic(t), kafkatest.UniqueTopic(t)+"-listed"
	for _, name := range []string{topic, listed} {
		k.CreateTopic(name, 1)
		k.Produce(&kgo.Record{Topic: name, Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "trace", Value: []byte("xyz")}, {Key: "other", Value: []byte("abc")}}})
	}
	h := startRelay(t, k, byAPI(t, ok), func(c *Config) { c.TopicRules = fmt.Sprintf(`{%q: {"headers": ["trace"]}}`, listed) })
	for _, tt := range []struct {
		path   string
		header []string
		want   []string // of "xyz", "abc"
	}{
		{topic + "/?format=envelope", nil, nil},
		{topic + "/?format=envelope", []string{"Cookie", "a=b"}, []string{"xyz", "abc"}},
		{topic + "/?event_from=header:trace", nil, nil},
		{topic + "/?event_from=header:trace", bearer("x"), []string{"xyz"}},
		{topic + "/?format=cloudevents&event_from=header:trace", nil, nil},
		{listed + "/?format=envelope", nil, []string{"xyz"}},
		{listed + "," + topic + "/?format=envelope", nil, nil},
	} {
		s := h.open("/events/"+tt.path+"&from=earliest&marks=1", tt.header...)
		s.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
		for _, value := range []string{"xyz", "abc"} {
			if got, want := strings.Contains(s.out.String(), value), slices.Contains(tt.want, value); got != want {
				t.Errorf("%s %v: header %s is shown: %v, want %v; in %s", tt.path, tt.header, value, got, want, s.out.String())
			}
		}
	}
	// Nor can they be asked for.
	for _, query := range []string{"header.trace=xyz", "filter=" + url.QueryEscape("headers.trace == 'xyz'"), "filter=" + url.QueryEscape("'trace' in headers")} {
		s := h.open("/events/" + topic + "/?from=earliest&marks=1&" + query)
		s.until("live", func(out string) bool { return strings.Contains(out, "event: live") })
		if strings.Contains(s.out.String(), "data: v") {
			t.Errorf("%s: a hidden header selects %s", query, s.out.String())
		}
	}
}

// A page of another site cannot open a WebSocket with the cookies of its visitor.
func TestWebSocketsOfOtherSites(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	for _, tt := range []struct {
		origins []string
		header  []string
		want    int
	}{
		{[]string{"*"}, []string{"Cookie", "a=b", "Origin", "https://evil.example"}, 403},
		{[]string{"*"}, []string{"Cookie", "a=b", "Origin", "*"}, 403},
		{[]string{"*"}, []string{"Cookie", "a=b", "Origin", "null"}, 403},
		{[]string{"*"}, []string{"Cookie", "a=b"}, 403},
		{[]string{"*"}, []string{"Cookie", "a=b", "Origin", "http://example.com"}, 200}, // the host of the request
		{[]string{"*"}, []string{"Cookie", "a=b", "Origin", "http://example.com.evil.example"}, 403},
		{[]string{"https://app.example"}, []string{"Cookie", "a=b", "Origin", "https://app.example"}, 200},
		{[]string{"https://app.example"}, []string{"Cookie", "a=b", "Origin", "https://app.example.evil.example"}, 403},
		{[]string{"*"}, []string{"Authorization", "Bearer x", "Origin", "https://other.example"}, 200},
	} {
		h := startRelay(t, k, byAPI(t, ok), func(c *Config) { c.CORSOrigins = tt.origins })
		w := h.get("/events/"+topic+"/", append([]string{"Accept", grip.ContentTypeEvents}, tt.header...)...)
		if w.Code != tt.want {
			t.Errorf("%v, %v: %d %s, want %d", tt.origins, tt.header, w.Code, w.Body, tt.want)
		}
		if tt.want == 403 && len(gripHeaders(w.Header())) > 0 {
			t.Errorf("%v: %v", tt.header, w.Header())
		}
	}
}

// Links are rights: a client has no use for one, no matter whose.
func TestLinksAreNotForClients(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	h := startRelay(t, k, byToken)
	valid := bearer(signed(t, time.Hour, topic, nil))
	s := h.open("/events/"+topic+"/", valid...)
	missing := h.get("/events/missing/", valid...)
	for _, path := range []string{s.next, strings.Replace(s.next, "~next", "%7Enext", 1), s.next + "?x=1", s.next + "/"} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions} {
			w := h.do(httptest.NewRequest(method, path, nil), append(valid, "Grip-Last", s.channel+"; last-id="+s.lastID, "Grip-Sig", "x")...)
			if w.Code != 404 || w.Body.String() != missing.Body.String() {
				t.Errorf("%s %s: %d %s, want what a topic that does not exist gets", method, path, w.Code, w.Body)
			}
		}
	}
	if strings.Contains(s.out.String(), "~next") {
		t.Error("the client is shown a link")
	}
}

// Another origin may hold clients on the plain channel of a topic. What the topic's
// rules keep from some clients it cannot have.
func TestListen(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.CreateTopic(topic+"-rows", 1)
	k.CreateTopic(topic+"-envelope", 1)
	h := startRelay(t, k, byAPI(t, ok), func(c *Config) {
		c.TopicRules = fmt.Sprintf(`{%q: {"filter": "value.tenant == claims.tenant"}, %q: {"formats": ["envelope"]}}`, topic+"-rows", topic+"-envelope")
	})
	for _, tt := range []struct{ channel, want string }{
		{topic, ""},
		{topic, ""}, // again
		{"none", ""},
		{topic + "~abc", ""},
		{channelName([]string{topic}, nil, rendering{form: formEnvelope}), "a selection of records"},
		{channelName([]string{topic, topic + "-rows"}, nil, rendering{}), "a selection of records"},
		{"__consumer_offsets", ""},
		{topic + "-rows", "TOPIC_RULES filters"},
		{topic + "-envelope", "does not show"},
	} {
		err := h.r.Listen(t.Context(), tt.channel)
		if tt.want == "" && err != nil || tt.want != "" && !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.channel, err, tt.want)
		}
		h.gw.mu.Lock()
		if open := h.gw.channels[tt.channel] != nil; open != (tt.channel == topic) {
			t.Errorf("%s: open: %v", tt.channel, open)
		}
		h.gw.mu.Unlock()
	}
	values(k, topic, "hello")
	h.eventually("the record is in the channel", func() bool {
		h.gw.mu.Lock()
		defer h.gw.mu.Unlock()
		return len(h.gw.channels[topic].items) == 1
	})
}

// What is known of renewed tokens is let go when no link asks for it, and is
// bounded.
func TestRenewals(t *testing.T) {
	const most = 1000
	rs := renewals{most: most}
	now := time.Now()
	of := func(socket string) *caller { return &caller{Socket: socket} }
	for i := range most {
		if err := rs.add(of(strconv.Itoa(i)), now.Add(time.Hour), now); err != nil {
			t.Fatal(err)
		}
	}
	if err := rs.add(of("one more"), now.Add(time.Hour), now); !errors.Is(err, auth.ErrUnavailable) || rs.of("one more") != nil {
		t.Errorf("one more than may be: %v", err)
	}
	newer := of("7")
	if err := rs.add(newer, now.Add(time.Minute), now); err != nil || rs.of("7") != newer {
		t.Errorf("renewed again: %v", err)
	}
	later := now.Add(time.Hour + renewalSlack - time.Second)
	if err := rs.add(of("x"), later, later); err == nil || rs.of("7") != newer {
		t.Error("they went before their time")
	}
	later = later.Add(2 * renewalSlack)
	if err := rs.add(of("x"), later, later); err != nil || rs.count() != 1 || rs.of("x") == nil {
		t.Errorf("%d are left, %v, want one", rs.count(), err)
	}
}
