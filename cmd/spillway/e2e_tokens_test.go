package main_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"spillway/relay/kafkatest"
)

const tokenKey = "a secret of the issuer, 32 bytes at least"

// tokenFor is a token that lets somebody read topics for a time.
func tokenFor(t *testing.T, who, topics string, lives time.Duration) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": who, "topics": topics, "exp": time.Now().Add(lives).Unix()}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(tokenKey))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// asSubprotocol is how a browser shows a token on a WebSocket.
func asSubprotocol(token string) string {
	return "bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
}

// TestTokensOfStreams has streams end with their tokens, and a WebSocket that
// renews its token in time go on.
func TestTokensOfStreams(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	s := serve(t, k, "JWT_KEY="+tokenKey, "JWT_LEEWAY=0s", "LOG_LEVEL=debug")
	url := s.url + "/events/" + topic + "/"
	eventually(t, "the topic is there", func() (bool, string) {
		resp := get(t, t.Context(), url, "Authorization: Bearer "+tokenFor(t, "bob", topic, time.Hour))
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})

	const lives = 10 * time.Second // long enough for all that comes before
	short := tokenFor(t, "alice", topic, lives)
	renewed := dial(t, url, "spillway.v1.json", asSubprotocol(short))
	left := dial(t, url, "spillway.v1.plain", asSubprotocol(short))
	sse := get(t, t.Context(), url+"?access_token="+short, "Accept: text/event-stream")
	defer sse.Body.Close()
	if got := renewed.conn.Subprotocol(); got != "spillway.v1.json" {
		t.Errorf("the server chose the subprotocol %q", got)
	}

	answer := func(ref string) string {
		return renewed.message(func(m string) bool { return strings.Contains(m, `"ref":`+ref) })
	}
	renewed.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"format":"x","ref":0}`, topic))
	wantJSON(t, answer(`0`), `{"type":"error","code":"bad-message"}`)
	renewed.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"key":"k","ref":1}`, topic))
	wantJSON(t, answer(`1`), `{"type":"subscribed"}`)
	renewed.send(`{"type":"subscribe","topics":["other"],"ref":2}`)
	wantJSON(t, answer(`2`), `{"type":"error","code":"not-found"}`)
	renewed.send(`{"type":"auth","token":"` + tokenFor(t, "mallory", ".*", time.Hour) + `","ref":3}`)
	wantJSON(t, answer(`3`), `{"type":"error","code":"forbidden"}`)
	renewed.send(`{"type":"auth","token":"abc","ref":4}`)
	wantJSON(t, answer(`4`), `{"type":"error","code":"forbidden"}`)
	renewed.send(`{"type":"auth","token":"` + tokenFor(t, "alice", topic, time.Hour) + `","ref":5}`)
	wantJSON(t, answer(`5`), `{"type":"authenticated"}`)

	// Those that did not renew it hear why they end, when it is time, whatever
	// comes meanwhile.
	begun, over := time.Now(), make(chan struct{})
	var producing sync.WaitGroup
	cl := k.Client()
	producing.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-over:
				tick.Stop()
				return
			case <-tick.C:
				cl.ProduceSync(t.Context(), values(topic, 0, "busy")...)
			}
		}
	})
	body, err := io.ReadAll(sse.Body)
	if want := `event: stream-error` + "\n" + `data: {"code":"token-expired"`; err != nil || !strings.Contains(string(body), want) {
		t.Errorf("SSE: got %q, %v, want %s", body, err, want)
	}
	if took := time.Since(begun); took > lives+patience/2 {
		t.Errorf("SSE: it ended after %v, want its token's %v", took, lives)
	}
	left.wantClose(websocket.StatusPolicyViolation)
	close(over)
	producing.Wait()

	// The one that did goes on, with all that it was subscribed to, and may
	// subscribe to more.
	k.Produce(values(topic, 0, "after")...)
	renewed.message(func(m string) bool { return strings.Contains(m, `"value":"after"`) })
	renewed.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"from":"earliest","partition":0,"ref":6}`, topic))
	wantJSON(t, answer(`6`), `{"type":"subscribed"}`)
	keyed := values(topic, 0, "keyed")
	keyed[0].Key = []byte("k")
	k.Produce(keyed...)
	channels := make(map[string]bool)
	for len(channels) < 3 {
		m := renewed.message(func(m string) bool { return strings.Contains(m, `"value":"keyed"`) })
		var r struct{ Channel string }
		if err := json.Unmarshal([]byte(m), &r); err != nil {
			t.Fatal(err)
		}
		channels[r.Channel] = true
	}

	for _, secret := range []string{short, tokenKey, asSubprotocol(short)} {
		if strings.Contains(s.log.String(), secret) {
			t.Error("there is a token or a key in the log")
		}
	}
}

// TestForwardAuth asks an API that knows its users by their cookies.
func TestForwardAuth(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		var seen atomic.Pointer[http.Request]
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen.Store(r)
			switch {
			case strings.Contains(r.Header.Get("Cookie"), "user="):
				_, tenant, _ := strings.Cut(r.Header.Get("Cookie"), "user=")
				w.Header().Set("X-Spillway-Claims", fmt.Sprintf(`{"tenant":%q}`, tenant))
			case r.Header.Get("Authorization") != "":
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, "not you")
			default:
				w.Header().Set("WWW-Authenticate", `Basic realm="api"`)
				w.WriteHeader(http.StatusUnauthorized)
				io.WriteString(w, "who are you?")
			}
		}))
		defer api.Close()
		s := serve(t, k, "AUTH_URL="+api.URL+"/check",
			fmt.Sprintf(`TOPIC_RULES={%q:{"filter":"value.tenant == claims.tenant"}}`, topic))
		url := s.url + "/events/" + topic + "/?from=earliest&limit=1"
		k.Produce(values(topic, 0, `{"tenant":"a"}`, `{"tenant":"b"}`)...)
		for _, tenant := range []string{"b", "a"} {
			eventually(t, "the record of "+tenant, func() (bool, string) {
				_, body := fetch(t, url, "Cookie: user="+tenant)
				return strings.Contains(body, fmt.Sprintf("data: {\"tenant\":%q}\n", tenant)) && strings.Count(body, "tenant") == 1, body
			})
		}
		if h := seen.Load().Header; h.Get("X-Forwarded-Uri") != "/events/"+topic+"/?from=earliest&limit=1" || h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("X-Forwarded-Method") != "GET" {
			t.Errorf("the API was shown %v", h)
		}
		for _, tt := range []struct {
			header []string
			status int
			body   string
		}{
			{nil, http.StatusUnauthorized, "who are you?"},
			{[]string{"Authorization: Bearer x"}, http.StatusForbidden, "not you"},
		} {
			resp, body := fetch(t, url, tt.header...)
			if resp.StatusCode != tt.status || body != tt.body || tt.header == nil && resp.Header.Get("WWW-Authenticate") != `Basic realm="api"` {
				t.Errorf("%v: %s %v %q, want the API's %d %q", tt.header, resp.Status, resp.Header, body, tt.status, tt.body)
			}
		}
	})
}

// TestTopicsAreNotForRooms lets nobody read a topic by naming its channel to an
// API elsewhere, which holds clients on what they ask for.
func TestTopicsAreNotForRooms(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", r.URL.Query().Get("room"))
		io.WriteString(w, "welcome\n")
	}))
	t.Cleanup(api.Close)
	s := serve(t, k, "JWT_KEY="+tokenKey, "ROUTES=*,path_beg=/chat/ "+strings.TrimPrefix(api.URL, "http://"))
	alice := tokenFor(t, "alice", topic, time.Hour)
	eventually(t, "the topic is there", func() (bool, string) {
		resp := get(t, t.Context(), s.url+"/events/"+topic+"/", "Authorization: Bearer "+alice)
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	subscribe(t, s.url+"/events/"+topic+"/", "Authorization: Bearer "+alice)
	ws := dial(t, s.url+"/events/"+topic+"/", "spillway.v1.json", asSubprotocol(alice))
	ws.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"filter":"value.tenant == 'acme'","ref":1}`, topic))
	var answer struct{ Channel string }
	ws.message(func(m string) bool {
		return strings.Contains(m, `"subscribed"`) && json.Unmarshal([]byte(m), &answer) == nil && answer.Channel != ""
	})
	for _, room := range []string{topic, answer.Channel, "lobby, " + topic} {
		if resp, body := fetch(t, s.url+"/chat/?room="+url.QueryEscape(room)); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("the room %s: %s %s, want 502", room, resp.Status, body)
		}
	}
	resp := get(t, t.Context(), s.url+"/chat/?room=lobby")
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a room of the API's own: %s", resp.Status)
	}
}

// TestConnectionsOfASubject lets nobody have more streams than there may be for
// one, however they are opened.
func TestConnectionsOfASubject(t *testing.T) {
	t.Parallel()
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	s := serve(t, k, "JWT_KEY="+tokenKey, "MAX_CONNECTIONS_PER_SUBJECT=2")
	url := s.url + "/events/" + topic + "/"
	alice, bob := tokenFor(t, "alice", topic, time.Hour), tokenFor(t, "bob", topic, time.Hour)
	eventually(t, "the topic is there", func() (bool, string) {
		resp := get(t, t.Context(), url, "Authorization: Bearer "+bob)
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})

	sse := subscribe(t, url, "Authorization: Bearer "+alice, "Accept: text/event-stream")
	ws := dial(t, url, "spillway.v1.json", asSubprotocol(alice))
	if _, body := fetch(t, url+"?access_token="+alice, "Accept: text/event-stream"); !strings.Contains(body, `{"code":"too-many-connections"`) {
		t.Errorf("a third, for an EventSource: %s", body)
	}
	if resp, body := fetch(t, url, "Authorization: Bearer "+alice, "Accept: application/x-ndjson"); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a third: %s %s", resp.Status, body)
	}
	_, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"spillway.v1.json", asSubprotocol(alice)}})
	if err == nil || resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a third WebSocket: %v %v", resp, err)
	}
	if n := s.metric(`spillway_refused_total{reason="max_connections_per_subject"}`); n != 3 {
		t.Errorf("%v refusals were counted, want 3", n)
	}
	dial(t, url, "spillway.v1.json", asSubprotocol(bob))

	sse.cancel()
	eventually(t, "there is room again", func() (bool, string) {
		resp := get(t, t.Context(), url, "Authorization: Bearer "+alice, "Accept: application/x-ndjson")
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	k.Produce(values(topic, 0, "v")...)
	ws.message(func(m string) bool { return strings.Contains(m, `"value":"v"`) })
}
