// Chat is an origin: what one says, all hear, by Server-Sent Events or a
// WebSocket, and who was away hears what was said meanwhile.
//
//	GRIP_URL='http://localhost:5561?verify-key=changeme' go run ./docs/chat &
//	ROUTES='* localhost:8000,over_http' bin/spillway gateway &
//	curl -N localhost:7999/chat &
//	curl -d 'hello there' localhost:7999/chat
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway/grip"
)

func main() {
	proxies, err := grip.ParseURLs(os.Getenv("GRIP_URL"))
	if err != nil || len(proxies) == 0 {
		log.Fatal("GRIP_URL must say where to publish, and by which key proxies sign: ", err)
	}
	server := &http.Server{Addr: "localhost:8000", Handler: newChat(proxies), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

type chat struct {
	publisher grip.Publisher

	mu   sync.Mutex
	said []string // guarded by mu; the number of a line is its id
}

func newChat(proxies []grip.Proxy) http.Handler {
	c := &chat{publisher: grip.NewHTTPPublisher(proxies, nil)}
	return grip.RequireProxy(c, proxies...)
}

func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	switch {
	case grip.IsWebSocket(r):
		err = c.socket(w, r)
	case r.Method == http.MethodPost:
		line, tooLong := io.ReadAll(http.MaxBytesReader(w, r.Body, 1000))
		if tooLong != nil {
			http.Error(w, "say it in 1000 bytes", http.StatusRequestEntityTooLarge)
			return
		}
		err = c.say(r.Context(), string(line))
	default:
		err = c.stream(w, r)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// stream answers with what the client has not heard, and has it held for the
// rest. The gateway asks again, by the next link, when something got lost.
func (c *chat) stream(w http.ResponseWriter, r *http.Request) error {
	heard, ok := grip.LastID(r.Header, "chat") // the gateway knows best
	if !ok {
		heard = r.Header.Get("Last-Event-ID") // a browser that comes back
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	after, _ := strconv.Atoi(heard)
	after = min(max(after, 0), len(c.said))
	err := grip.Instruct{
		Hold:      grip.HoldStream,
		Channels:  []grip.Subscription{{Channel: "chat", PrevID: strconv.Itoa(len(c.said))}},
		KeepAlive: &grip.KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second},
		Next:      &grip.Link{URL: "/chat"},
	}.SetHeader(w.Header())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := after; i < len(c.said); i++ {
		fmt.Fprint(w, event(i+1, c.said[i]))
	}
	return nil
}

// socket answers what a client does on a WebSocket.
func (c *chat) socket(w http.ResponseWriter, r *http.Request) error {
	ws, err := grip.ReadWebSocket(r)
	if err != nil {
		return err
	}
	for _, e := range ws.Events {
		switch e.Type {
		case grip.EventOpen:
			ws.Accept()
			ws.Subscribe("chat")
			ws.SetMeta("since", time.Now().Format(time.Kitchen))
		case grip.EventText:
			if string(e.Content) == "/since" {
				ws.SendText("you are here since " + ws.Meta("since"))
			} else if err := c.say(r.Context(), string(e.Content)); err != nil {
				return err
			}
		}
	}
	return ws.Respond(w)
}

// say publishes under the lock, so that lines go out in the order of their ids.
func (c *chat) say(ctx context.Context, line string) error {
	line = strings.ToValidUTF8(strings.Join(strings.Fields(line), " "), "?")
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.said) == 1000 {
		return errors.New("everything is said") // a real one keeps lines elsewhere
	}
	c.said = append(c.said, line)
	id := len(c.said)
	return c.publisher.Publish(ctx, grip.Item{
		Channel: "chat", ID: strconv.Itoa(id), PrevID: strconv.Itoa(id - 1),
		HTTPStream: &grip.HTTPStream{Content: []byte(event(id, line))},
		WSMessage:  &grip.WSMessage{Content: []byte(line)},
	})
}

func event(id int, line string) string { return fmt.Sprintf("id: %d\ndata: %s\n\n", id, line) }
