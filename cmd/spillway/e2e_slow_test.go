package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"spillway/relay/kafkatest"
)

// stalls is a client whose sockets do not grow, so that they are full some time
// after it stops to read.
var stalls = &http.Client{Transport: &http.Transport{
	DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(256 << 10)
		}
		return conn, err
	},
}}

// TestTooSlow has clients stall on real sockets until they are further behind
// than they may be. They get what they had coming, hear why it ends, and find
// the rest when they come back.
func TestTooSlow(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		s := serve(t, k, "CHANNEL_LOG_BYTES=64KiB", "CHANNEL_LOG_MIN_AGE=0s", "CATCHUP_MAX_BYTES=1MiB", "WRITE_TIMEOUT=10m")
		padding := " " + strings.Repeat(".", 10<<10)
		t.Run("stream", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			defer cancel()
			var resp *http.Response
			var r *eventReader
			st := &staller{t: t, s: s, k: k, padding: padding}
			st.run(func(url string) {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", "text/event-stream")
				if resp, err = stalls.Do(req); err != nil {
					t.Fatal(err)
				}
				r = newEventReader(resp.Body)
			}, func() (value, id, problem string) {
				for {
					switch b, err := r.next(); {
					case err != nil:
						t.Fatalf("after %d records: %v, want a stream-error", len(st.had), err)
					case b.name == "stream-error":
						return "", "", b.data
					case b.fires:
						return b.data, b.id, ""
					}
				}
			})
			defer resp.Body.Close()
			if _, err := r.next(); !errors.Is(err, io.EOF) {
				t.Errorf("behind the error: got %v, want a clean end", err)
			}
		})
		t.Run("WebSocket", func(t *testing.T) {
			var ws *wsConn
			st := &staller{t: t, s: s, k: k, padding: padding}
			st.run(func(url string) {
				conn, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPClient: stalls, Subprotocols: []string{"spillway.v1.json"}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.CloseNow() })
				conn.SetReadLimit(1 << 20)
				ws = &wsConn{t, conn}
			}, func() (value, id, problem string) {
				for {
					_, text, err := ws.read()
					if err != nil {
						t.Fatalf("after %d records: %v, want an error message", len(st.had), err)
					}
					var m struct{ Type, ID, Value string }
					switch err := json.Unmarshal([]byte(text), &m); {
					case err != nil:
						t.Fatalf("message %.100s: %v", text, err)
					case m.Type == "error":
						return "", "", text
					case m.Type == "record":
						return m.Value, m.ID, ""
					}
				}
			})
			ws.wantClose(websocket.StatusTryAgainLater)
		})
	})
}

// A staller is a client that stops to read.
type staller struct {
	t       *testing.T
	s       *server
	k       *kafkatest.Cluster
	padding string
	topic   string
	all     []string // numbers of the records that were produced
	had     []string // of those that the client got
}

// run opens a stream of a new topic and lets it fall too far behind. read
// returns the next record, or what the stream says when it ends.
func (st *staller) run(open func(url string), read func() (value, id, problem string)) {
	t, s := st.t, st.s
	t.Helper()
	st.topic = kafkatest.UniqueTopic(t)
	st.k.CreateTopic(st.topic, 1)
	url := s.await(st.topic)
	const behind, page, tooSlow = `spillway_links_asked_total{reason="behind"}`, `spillway_links_asked_total{reason="page"}`, "spillway_too_slow_total"
	tooSlowBefore := s.metric(tooSlow)
	open(url)

	var lastID, problem string
	next := func() bool {
		var value, id string
		if value, id, problem = read(); problem == "" {
			st.had, lastID = append(st.had, strings.TrimSuffix(value, st.padding)), id
		}
		return problem == "" && len(st.had) < len(st.all)
	}
	for round := 0; problem == ""; round++ {
		if round == 10 {
			t.Fatalf("it had all %d records, however slow it was", len(st.had))
		}
		// The channel's log goes past it while its socket is full. That it has
		// fallen behind counts from when its place is asked for, which is when it
		// reads on; then history fills the socket again. Where its socket had room
		// for all of that, it has caught up.
		behindBefore, pageBefore := s.metric(behind), s.metric(page)
		st.produce(16)
		reads := true
		for reads && (len(st.had)%20 != 0 || s.metric(behind) == behindBefore || s.metric(page) == pageBefore) {
			reads = next()
		}
		if reads {
			st.produce(16)
		}
		for reads {
			reads = next()
		}
	}
	wantJSON(t, problem, `{"code":"too-slow","retry":true}`)
	if n := s.metric(tooSlow) - tooSlowBefore; n != 1 {
		t.Errorf("streams that were too slow: %v, want 1", n)
	}
	if n := len(st.had); n == 0 || n == len(st.all) || !slices.Equal(st.had, st.all[:n]) {
		t.Fatalf("it had %d records, want some of the first of %d, in order", n, len(st.all))
	}
	again := subscribe(t, url, "Last-Event-ID: "+lastID)
	for _, want := range st.all[len(st.had):] {
		if got := strings.TrimSuffix(again.next().data, st.padding); got != want {
			t.Fatalf("after %s: got %.100s, want %s", lastID, got, want)
		}
	}
}

// produce adds so many MiB of records, about, and waits until they are read.
func (st *staller) produce(mib int) {
	st.t.Helper()
	const records = 100 // of a MiB
	want := st.s.metric("spillway_records_total") + float64(records*mib)
	for range mib {
		more := numbers(len(st.all), len(st.all)+records)
		st.all = append(st.all, more...)
		for i := range more {
			more[i] += st.padding
		}
		st.k.Produce(values(st.topic, 0, more...)...)
	}
	eventually(st.t, "the records are read", func() (bool, string) {
		got := st.s.metric("spillway_records_total")
		return got == want, fmt.Sprintf("%v, want %v", got, want)
	})
}
