// Counter is an origin: a number that anybody may raise, and everybody sees at
// once. It begins each stream with the number as it is, and holds it for what
// follows.
//
//	go run ./docs/counter &
//	ROUTES='*,cache localhost:8000' bin/spillway gateway &
//	curl -N localhost:7999/counter &
//	curl -X POST localhost:7999/counter
//
// The origin may say that its answer is good for an hour: publishing makes it
// stale.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"sync"
	"time"

	"spillway/grip"
)

func main() {
	to := grip.NewHTTPPublisher([]grip.Proxy{{ControlURI: "http://localhost:5561"}}, nil)
	server := &http.Server{Addr: "localhost:8000", Handler: newCounter(to), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

type counter struct {
	to grip.Publisher

	mu sync.Mutex
	n  int // guarded by mu
}

func newCounter(to grip.Publisher) *counter { return &counter{to: to} }

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		c.mu.Lock()
		n := c.n
		c.mu.Unlock()
		h := w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "s-maxage=3600, stale-if-error=86400")
		h.Set("Grip-Hold", "stream")
		h.Set("Grip-Channel", fmt.Sprintf("counter; prev-id=%d", n))
		h.Set("Grip-Link", "</counter>; rel=next") // what to ask if something is missing
		h.Set("Grip-Keep-Alive", `:\n\n; format=cstring; timeout=20`)
		if last, ok := grip.LastID(r.Header, "counter"); !ok || last != fmt.Sprint(n) { // a stream that has it already
			_, _ = w.Write(event(n)) // who has left asks again
		}
	case http.MethodPost:
		if err := c.raise(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "ask with GET, raise with POST", http.StatusMethodNotAllowed)
	}
}

// raise adds one, and tells everybody. It does both under the lock, so that
// numbers are published in their order.
func (c *counter) raise(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.to.Publish(ctx, grip.Item{
		Channel: "counter", ID: fmt.Sprint(c.n), PrevID: fmt.Sprint(c.n - 1),
		HTTPStream: &grip.HTTPStream{Content: event(c.n)},
	})
}

func event(n int) []byte { return fmt.Appendf(nil, "data: %d\n\n", n) }
