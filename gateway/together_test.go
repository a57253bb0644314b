package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway/grip"
)

// Streams that ask the same link at the same time share requests, but none is given
// an answer to one that was made before it asked.
func TestLinksAreAskedTogether(t *testing.T) {
	const streams = 20
	for _, tt := range []struct {
		name, page string
		own        bool // each asks for itself in the end
	}{
		{"small", "page", false},
		{"none", "", false},
		{"as large as may be shared", strings.Repeat("x", grip.MaxHoldBody), false},
		{"larger", strings.Repeat("x", grip.MaxHoldBody+1), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ready := make(chan struct{})
			hold := func(w http.ResponseWriter, body string) {
				w.Header().Set("Grip-Hold", "stream")
				w.Header().Set("Grip-Channel", "a")
				w.Header().Set("Grip-Link", "</next>; rel=next")
				_, _ = io.WriteString(w, body)
			}
			f, a := routed(t, map[string]http.HandlerFunc{
				"/":     func(w http.ResponseWriter, _ *http.Request) { hold(w, "one ") },
				"/next": func(w http.ResponseWriter, _ *http.Request) { <-ready; hold(w, tt.page) },
			}, "")
			f.links.gatherTime, f.links.sharedTime = time.Hour, time.Hour
			clients := make([]*client, streams)
			for i := range clients {
				clients[i] = f.get(t, "/")
				clients[i].want("one ")
			}
			f.listening(t, "a", streams)
			f.publish(t, grip.Item{Channel: "a", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}).wantStatus(200)
			f.asking(t, streams-1)
			close(ready)
			f.listening(t, "a", streams)
			f.publish(t, grip.Item{Channel: "a", HTTPStream: &grip.HTTPStream{Content: []byte(" two")}}).wantStatus(200)
			for _, c := range clients {
				c.want(tt.page + " two")
			}
			want, shared := streams+2, float64(streams-2)
			if tt.own {
				want, shared = 2*streams+1, 0
			}
			if got := a.count(); got != want {
				t.Errorf("requests: got %d, want %d", got, want)
			}
			f.wantMetric(t, "spillway_links_shared_total", nil, shared)
			f.wantNoLines(t)
		})
	}
}

// Those who wait do not wait for ever for a request that was made before.
func TestLinksDoNotWaitForALostRequest(t *testing.T) {
	stuck := make(chan struct{})
	var asked atomic.Int32
	hold := func(w http.ResponseWriter, body string) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "a")
		w.Header().Set("Grip-Link", "</next>; rel=next")
		_, _ = io.WriteString(w, body)
	}
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/": func(w http.ResponseWriter, _ *http.Request) { hold(w, "one ") },
		"/next": func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) == 1 {
				select {
				case <-stuck:
				case <-r.Context().Done():
				}
			}
			hold(w, "page")
		},
	}, "")
	f.links.gatherTime = time.Millisecond
	first, second := f.get(t, "/"), f.get(t, "/")
	first.want("one ")
	second.want("one ")
	f.listening(t, "a", 2)
	f.publish(t, grip.Item{Channel: "a", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}).wantStatus(200)
	f.listening(t, "a", 1) // whichever of them came second
	close(stuck)
	first.want("page")
	second.want("page")
	f.wantNoLines(t)
}

// Who leaves does not keep a request going that nobody waits for.
func TestLinksOfThoseWhoLeave(t *testing.T) {
	given := make(chan struct{}, 10)
	hold := func(w http.ResponseWriter) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "a")
		w.Header().Set("Grip-Link", "</next>; rel=next")
		_, _ = io.WriteString(w, "one ")
	}
	f, a := routed(t, map[string]http.HandlerFunc{
		"/":     func(w http.ResponseWriter, _ *http.Request) { hold(w) },
		"/next": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); given <- struct{}{} },
	}, "")
	f.links.gatherTime = time.Millisecond
	clients := []*client{f.get(t, "/"), f.get(t, "/"), f.get(t, "/")}
	for _, c := range clients {
		c.want("one ")
	}
	f.listening(t, "a", 3)
	f.publish(t, grip.Item{Channel: "a", HTTPStream: &grip.HTTPStream{Action: grip.ActionHint}}).wantStatus(200)
	eventually(t, "two requests for three", func() bool { return a.count() >= 5 })
	for _, c := range clients {
		c.resp.Body.Close()
	}
	for range a.count() - 3 {
		<-given
	}
	f.wantNoLines(t)
}

// asking waits until as many streams wait for a request that is made together.
func (f *fixture) asking(t *testing.T, n int) {
	t.Helper()
	eventually(t, "streams to wait for a link", func() bool {
		f.links.mu.Lock()
		defer f.links.mu.Unlock()
		for _, ln := range f.links.lines {
			if ln.next != nil && ln.next.waiting == n {
				return true
			}
		}
		return false
	})
}

// wantNoLines waits until no link is asked.
func (f *fixture) wantNoLines(t *testing.T) {
	t.Helper()
	eventually(t, "no link to be asked", func() bool {
		f.links.mu.Lock()
		defer f.links.mu.Unlock()
		return len(f.links.lines) == 0
	})
}
