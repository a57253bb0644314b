package gateway

import (
	"io"
	"net/http"
	"testing"

	"spillway/grip"
)

// keyed is an item of a key.
func keyed(key, id, prev string) grip.Item {
	it := text("fruit", id, prev, id+"\n")
	it.Key = key
	return it
}

// Items that are published together are in the log together: who conflates is sent
// the newest of each key, and the others all of them.
func TestConflate(t *testing.T) {
	stream := func(params string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit; prev-id=0"+params)
			w.Header().Set("Grip-Link", "</next>; rel=next")
			io.WriteString(w, "hello\n")
		}
	}
	document := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grip-instruct")
		io.WriteString(w, `{"hold":{"mode":"stream","channels":[{"name":"fruit","rate":"100/s"}]},"response":{"body":"hello\n"}}`)
	}
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/all": stream(""), "/newest": stream("; conflate"), "/paced": stream("; rate=100/s"), "/document": document,
		"/wrong": stream("; rate=often"), "/filtered": stream("; conflate; filter=skip-self"),
	}, "")
	want := map[string]string{"/all": "1\n2\n3\n4\n5\n", "/newest": "3\n4\n5\n", "/paced": "3\n4\n5\n", "/document": "3\n4\n5\n"}
	clients := make(map[string]*client)
	for path := range want {
		clients[path] = f.get(t, path)
		clients[path].want("hello\n")
	}
	f.listening(t, "fruit", len(want))
	f.publish(t, keyed("k", "1", "0"), keyed("l", "2", "1"), keyed("k", "3", "2"), keyed("", "4", "3"), keyed("l", "5", "4"))
	for path, c := range clients {
		c.want(want[path])
	}
	for _, path := range []string{"/wrong", "/filtered"} {
		f.get(t, path).wantStatus(502)
	}
}

// The same of the origin in this process, on streams and WebSockets.
func TestConflateLocal(t *testing.T) {
	for _, params := range []string{"; conflate", "; rate=100/s"} {
		f := start(t, nil)
		f.list.params = params
		c := f.get(t, "/events/list/")
		c.want(":ok\n\n")
		ws := f.dial(t, "/events/list/")
		f.attached(t, 2)
		items := make([]grip.Item, 5)
		for i, key := range []string{"k", "l", "k", "", "l"} {
			line := string('1' + rune(i))
			items[i] = grip.Item{
				Key: key, HTTPStream: &grip.HTTPStream{Content: []byte(sse(line))}, WSMessage: &grip.WSMessage{Content: []byte(line)},
			}
		}
		f.list.channel.Append(items)
		c.wantLines(3, 5)
		ws.wantLines(3, 5)
	}
}
