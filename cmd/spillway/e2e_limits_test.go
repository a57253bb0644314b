package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"spillway/relay/kafkatest"
)

// An asking is a client that crosses limits of a server.
type asking struct {
	*server
	t     *testing.T
	topic string
}

// raw sends text and returns the first line of the answer; "" where there is none.
func (a *asking) raw(text string) string {
	a.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
	if err != nil {
		a.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return "" // it was closed
	}
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

// answer is the status and the body of a request, which may be one for an event
// stream that ends.
func (a *asking) answer(query string, header ...string) string {
	a.t.Helper()
	resp, body := fetch(a.t, a.url+"/events/"+a.topic+"/"+query, header...)
	return resp.Status + " " + resp.Header.Get("Retry-After") + " " + body
}

// hold opens a stream that stays.
func (a *asking) hold() { subscribe(a.t, a.url+"/events/"+a.topic+"/") }

func (a *asking) controlAddr() (addr string) {
	for _, v := range a.env {
		if rest, ok := strings.CutPrefix(v, "CONTROL_ADDR="); ok {
			addr = rest
		}
	}
	return addr
}

// wantClosed wants that a WebSocket is closed, whatever it has said before.
func wantClosed(t *testing.T, ws *wsConn, code websocket.StatusCode) {
	t.Helper()
	for {
		if _, _, err := ws.read(); err != nil {
			if got := websocket.CloseStatus(err); got != code {
				t.Errorf("got %v, want close code %d", err, code)
			}
			return
		}
	}
}

// TestLimits crosses each limit as the environment sets it: the answer says what is
// wrong, and a metric has counted it.
func TestLimits(t *testing.T) {
	t.Parallel()
	const (
		sse    = "Accept: text/event-stream"
		ndjson = "Accept: application/x-ndjson"
	)
	api := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(api.Close)
	k := kafkatest.Fake(t)
	topic := kafkatest.UniqueTopic(t)
	k.CreateTopic(topic, 1)
	k.Produce(numbered(topic, 1, 10)...)

	// wantBusy wants the answers for those who may come again.
	wantBusy := func(t *testing.T, a *asking) {
		t.Helper()
		eventually(t, "an EventSource is told to come again", func() (bool, string) {
			got := a.answer("?from=earliest&limit=1", sse)
			return strings.HasPrefix(got, "200") && strings.Contains(got, "retry: ") && strings.Contains(got, `{"code":"too-many-connections"`), got
		})
		eventually(t, "others get 429", func() (bool, string) {
			got := a.answer("?from=earliest&limit=1", ndjson)
			return strings.HasPrefix(got, "429") && strings.Contains(got, " 5 "), got
		})
	}
	for _, tt := range []struct {
		env    string
		cross  func(t *testing.T, a *asking)
		metric string // counts it; "": there is nothing to count, one waits
	}{
		{"MAX_HEADER_BYTES=4KiB", func(t *testing.T, a *asking) {
			if got := a.raw("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 20_000) + "\r\n\r\n"); !strings.Contains(got, " 431 ") {
				t.Errorf("got %q, want 431", got)
			}
		}, `spillway_refused_total{reason="headers"}`},
		{"MAX_HEADERS=10", func(t *testing.T, a *asking) {
			if got := a.raw("GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: x\r\n", 11) + "\r\n"); !strings.Contains(got, " 431 ") {
				t.Errorf("got %q, want 431", got)
			}
		}, `spillway_refused_total{reason="headers"}`},
		{"MAX_URL_BYTES=256", func(t *testing.T, a *asking) {
			if got := a.answer("?key=" + strings.Repeat("x", 256)); !strings.HasPrefix(got, "414") || !strings.Contains(got, "at most 256") {
				t.Errorf("got %q, want 414, and how much there may be", got)
			}
		}, `spillway_refused_total{reason="url"}`},
		{"HEADER_TIMEOUT=200ms", func(t *testing.T, a *asking) {
			if got := a.raw("GET / HTTP/1.1\r\nHost"); !strings.Contains(got, " 408 ") {
				t.Errorf("got %q, want 408", got)
			}
		}, `spillway_refused_total{reason="header_timeout"}`},
		{"BODY_TIMEOUT=200ms\nROUTES=* " + strings.TrimPrefix(api.URL, "http://"), func(t *testing.T, a *asking) {
			if got := a.raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"); !strings.Contains(got, " 408 ") {
				t.Errorf("got %q, want 408", got)
			}
		}, `spillway_refused_total{reason="body_timeout"}`},
		{"REQUEST_RATE_PER_IP=1", func(t *testing.T, a *asking) {
			wantBusy(t, a)
		}, `spillway_refused_total{reason="request_rate_per_ip"}`},
		{"CONNECT_RATE_PER_IP=1", func(t *testing.T, a *asking) {
			eventually(t, "a connection is refused", func() (bool, string) {
				got := a.raw("GET /events/ HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n")
				return strings.Contains(got, " 429 "), got
			})
		}, `spillway_refused_total{reason="connect_rate_per_ip"}`},
		{"MAX_CONNECTIONS=1", func(t *testing.T, a *asking) {
			a.hold()
			wantBusy(t, a)
		}, `spillway_refused_total{reason="max_connections"}`},
		{"MAX_CONNECTIONS_PER_IP=1", func(t *testing.T, a *asking) {
			a.hold()
			wantBusy(t, a)
		}, `spillway_refused_total{reason="max_connections_per_ip"}`},
		{"MAX_IDLE_CONNECTIONS=1", func(t *testing.T, a *asking) {
			for range 5 {
				conn, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
			}
		}, `spillway_refused_total{reason="idle_connections"}`},
		{"MAX_SUBSCRIPTIONS=2", func(t *testing.T, a *asking) {
			ws := dial(t, a.url+"/events/"+a.topic+"/", "spillway.v1.json")
			ask := func(typ string, ref int, want string) {
				t.Helper()
				ws.send(fmt.Sprintf(`{"type":%q,"topics":[%q],"key":"k","ref":%d}`, typ, a.topic, ref))
				wantJSON(t, ws.message(func(m string) bool { return strings.Contains(m, fmt.Sprintf(`"ref":%d`, ref)) }), want)
			}
			ask("subscribe", 1, `{"type":"subscribed"}`)
			ask("subscribe", 2, `{"type":"error","code":"too-many-subscriptions"}`)
			ask("subscribe", 1, `{"type":"subscribed"}`) // in the place of the first
			ask("unsubscribe", 1, `{"type":"unsubscribed"}`)
			ask("subscribe", 2, `{"type":"subscribed"}`)
		}, `spillway_subscriptions_refused_total`},
		{"MAX_VIEWS=1", func(t *testing.T, a *asking) {
			subscribe(t, a.url+"/events/"+a.topic+"/?key=a")
			eventually(t, "another view is refused", func() (bool, string) {
				got := a.answer("?key=b", ndjson)
				return strings.HasPrefix(got, "503") && strings.Contains(got, "too-many-views"), got
			})
			if got := a.answer("?key=b", sse); !strings.Contains(got, "retry: ") || !strings.Contains(got, `{"code":"too-many-views"`) {
				t.Errorf("got %q, want to be told to come again", got)
			}
		}, `spillway_views_refused_total`},
		{"FILTER_MAX_COST=50", func(t *testing.T, a *asking) {
			if got := a.answer("?filter=value.exists(x,x.a=='b')"); !strings.HasPrefix(got, "400") || !strings.Contains(got, "50 are the most") {
				t.Errorf("got %q, want 400, and what it may cost", got)
			}
		}, `spillway_filters_refused_total`},
		{"FILTER_MAX_BYTES=16", func(t *testing.T, a *asking) {
			if got := a.answer("?filter=value.longer==1234567"); !strings.HasPrefix(got, "400") || !strings.Contains(got, "16 are the most") {
				t.Errorf("got %q, want 400, and how long it may be", got)
			}
		}, `spillway_filters_refused_total`},
		{"CATCHUP_PAGES=1", func(t *testing.T, a *asking) { // waiting is the answer
			if got := a.answer("?from=earliest&limit=10"); strings.Count(got, "data: ") != 11 {
				t.Errorf("got %q, want 10 records and the end", got)
			}
		}, ""},
		{"EVENTS_MESSAGE_MAX_BYTES=1KiB", func(t *testing.T, a *asking) {
			ws := dial(t, a.url+"/events/"+a.topic+"/", "spillway.v1.json")
			ws.send(strings.Repeat("x", 2000))
			wantClosed(t, ws, websocket.StatusMessageTooBig)
		}, `spillway_connections_closed_total{reason="message_size"}`},
		{"EVENTS_MESSAGE_RATE=1", func(t *testing.T, a *asking) {
			ws := dial(t, a.url+"/events/"+a.topic+"/", "spillway.v1.json")
			for range 20 {
				if ws.conn.Write(t.Context(), websocket.MessageText, []byte(`{}`)) != nil {
					break // it is closed
				}
			}
			wantClosed(t, ws, websocket.StatusPolicyViolation)
		}, `spillway_connections_closed_total{reason="message_rate"}`},
		{"CONTROL_MAX_BODY=1KiB", func(t *testing.T, a *asking) {
			resp, err := http.Post("http://"+a.controlAddr()+"/publish/", "application/json", strings.NewReader(`{"items":[`+strings.Repeat(" ", 2000)+`]}`))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("got %s %q, want that it is too large", resp.Status, body)
			}
		}, `spillway_control_requests_total{result="refused"}`},
	} {
		name, _, _ := strings.Cut(tt.env, "=")
		t.Run(name, func(t *testing.T) {
			s := newServer(t, append([]string{consumerConfig(k)}, strings.Split(tt.env, "\n")...)...)
			s.start()
			a := &asking{s, t, topic}
			tt.cross(t, a)
			if tt.metric == "" {
				return
			}
			eventually(t, tt.metric, func() (bool, string) {
				n := s.metric(tt.metric)
				return n > 0, fmt.Sprint(n)
			})
		})
	}
}
