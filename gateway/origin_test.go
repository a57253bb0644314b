package gateway

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"spillway/gateway/fanout"
	"spillway/grip"
)

// listOrigin is a small origin in the same process: a list of lines, whose
// position is the id, served at /events/list/ as a stream, WebSocket or long
// poll, with history in pages. It is what the relay does, on paper.
type listOrigin struct {
	engine *fanout.Engine
	page   int           // lines on a page of history
	wait   string        // of long polls, in seconds
	pad    string        // makes lines longer
	keep   string        // value of Grip-Keep-Alive; empty: none
	params string        // of the channel of a stream, behind its prev-id
	gate   chan struct{} // where set, pages and detach wait until it is closed

	mu      sync.Mutex // also keeps lines and the channel in the same order
	lines   []string
	channel grip.Channel
	pages   int      // links answered
	holds   int      // links of long polls to be answered with another hold before
	late    int      // links to be answered 503 before
	asked   []string // Grip-Last of each
	posts   []string // bodies of WebSocket requests
	headers []http.Header
}

func newListOrigin(e *fanout.Engine) *listOrigin {
	o := &listOrigin{engine: e, page: 100, wait: "20"}
	o.channel = e.Open("list", ids{})
	return o
}

// ids of the list: item n has id "n".
type ids struct{}

func (ids) ID(seq uint64) (string, bool) { return strconv.FormatUint(seq, 10), true }
func (ids) Seq(id string) (uint64, bool) {
	seq, err := strconv.ParseUint(id, 10, 64)
	return seq, err == nil
}

// publish adds lines "n" to the list, n being their position.
func (o *listOrigin) publish(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	items := make([]grip.Item, n)
	for i := range items {
		line := strconv.Itoa(len(o.lines) + 1)
		o.lines = append(o.lines, line)
		items[i] = grip.Item{
			HTTPStream: &grip.HTTPStream{Content: []byte(o.sse(line))},
			WSMessage:  &grip.WSMessage{Content: []byte(line + o.wsPad())},
		}
	}
	o.channel.Append(items)
}

// act publishes an action; it takes a position, without a line.
func (o *listOrigin) act(it grip.Item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, "")
	o.channel.Append([]grip.Item{it})
}

func (o *listOrigin) sse(line string) string {
	return "id: " + line + "\ndata: " + line + o.pad + "\n\n"
}

// wsPad makes messages longer in a way that a reader need not look at.
func (o *listOrigin) wsPad() string { return strings.Repeat(" ", len(o.pad)) }

func sse(line string) string { return "id: " + line + "\ndata: " + line + "\n\n" }

func (o *listOrigin) Refuse(w http.ResponseWriter, r *http.Request, code, message string) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "event: stream-error\ndata: {\"code\":%q}\n\n", code)
}

func (o *listOrigin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.headers = append(o.headers, r.Header)
	o.mu.Unlock()
	switch rest, isLink := strings.CutPrefix(r.URL.Path, "/events/~next/"); {
	case isLink && !grip.FromLink(r.Context()):
		http.Error(w, "no such page", http.StatusNotFound)
	case isLink:
		o.serveLink(w, r, rest)
	case r.URL.Path != "/events/list/":
		http.Error(w, "no such list", http.StatusNotFound)
	case r.Method == http.MethodPost:
		o.serveMessages(w, r)
	case r.Method == http.MethodHead:
		w.Header().Set("Content-Type", "text/event-stream")
	default:
		o.serveList(w, r)
	}
}

func (o *listOrigin) serveList(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	at := len(o.lines)
	o.mu.Unlock()
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		at, _ = strconv.Atoi(id)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	switch accept := r.Header.Get("Accept"); {
	case accept == grip.ContentTypeEvents:
		if r.URL.Query().Get("refuse") != "" {
			http.Error(w, "not for you", http.StatusForbidden)
			return
		}
		h.Set("Content-Type", grip.ContentTypeEvents)
		h.Set("Sec-WebSocket-Extensions", `grip; message-prefix=""`)
		body := grip.AppendEvent(nil, grip.Event{Type: grip.EventOpen})
		if r.URL.Query().Get("detach") != "" {
			body = grip.AppendControlEvent(body, grip.Control{Type: "detach"})
		}
		if p := r.Header.Get("Sec-WebSocket-Protocol"); p != "" {
			h.Set("Sec-WebSocket-Protocol", strings.TrimSpace(strings.Split(p, ",")[0]))
		}
		h.Set("Grip-Link", fmt.Sprintf("</events/~next/ws/%d>; rel=next", at))
		w.Write(body)
	case accept == "application/json":
		h.Set("Content-Type", "application/json")
		h.Set("Grip-Hold", "response")
		h.Set("Grip-Timeout", o.wait)
		h.Set("Grip-Channel", fmt.Sprintf("list; prev-id=%d", at))
		h.Set("Grip-Link", "</events/~next/poll/0>; rel=next")
	default:
		h.Set("Content-Type", "text/event-stream")
		h.Set("Grip-Link", fmt.Sprintf("</events/~next/sse/%d>; rel=next", at))
		io.WriteString(w, ":ok\n\n")
	}
}

func (o *listOrigin) serveLink(w http.ResponseWriter, r *http.Request, rest string) {
	via, from, _ := strings.Cut(rest, "/")
	at, _ := strconv.Atoi(from)
	lasts, err := grip.ParseLast(r.Header)
	if err != nil || len(lasts) > 1 {
		panic(fmt.Sprint("Grip-Last: ", lasts, err))
	}
	last := ""
	if len(lasts) == 1 {
		last = lasts[0].ID
		at, _ = strconv.Atoi(last)
	}
	if o.gate != nil {
		select {
		case <-o.gate:
		case <-r.Context().Done():
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.late > 0 {
		o.late--
		w.Header().Set("Retry-After", "0")
		http.Error(w, "Kafka is away", http.StatusServiceUnavailable)
		return
	}
	o.pages++
	o.asked = append(o.asked, last)
	end := min(at+o.page, len(o.lines))
	lines := o.lines[at:end]
	h := w.Header()
	if via == "poll" {
		h.Set("Content-Type", "application/json")
		if o.holds > 0 {
			o.holds--
			h.Set("Grip-Hold", "response")
			h.Set("Grip-Channel", fmt.Sprintf("list; prev-id=%d", end))
			h.Set("Grip-Link", "</events/~next/poll/0>; rel=next")
			return
		}
		fmt.Fprintf(w, `{"events":[%s],"id":"%d"}`, strings.Trim(strings.Join(lines, ","), ","), end)
		return
	}
	h.Set("Grip-Link", fmt.Sprintf("</events/~next/%s/%d>; rel=next", via, end))
	if end == len(o.lines) {
		h.Set("Grip-Hold", "stream")
		h.Set("Grip-Channel", fmt.Sprintf("list; prev-id=%d%s", end, o.params))
		if o.keep != "" {
			h.Set("Grip-Keep-Alive", o.keep)
		}
	}
	var body []byte
	for _, line := range lines {
		switch {
		case line == "": // was an action
		case via == "ws":
			body = grip.AppendEvent(body, grip.Event{Type: grip.EventText, Content: []byte(line + o.wsPad())})
		default:
			body = append(body, o.sse(line)...)
		}
	}
	w.Write(body)
}

// serveMessages answers each message with itself, and knows two commands.
func (o *listOrigin) serveMessages(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	events, err := grip.ParseEvents(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	o.posts = append(o.posts, string(body))
	at := len(o.lines)
	o.mu.Unlock()
	w.Header().Set("Content-Type", grip.ContentTypeEvents)
	var out []byte
	text := func(s string) { out = grip.AppendEvent(out, grip.Event{Type: grip.EventText, Content: []byte(s)}) }
	for _, e := range events {
		command, arg, _ := strings.Cut(string(e.Content), " ")
		switch command {
		case "subscribe": // to the list, from the beginning of history, under a name
			out = grip.AppendControlEvent(out, grip.Control{Type: "subscribe", Name: arg, Link: "/events/~next/ws/0"})
		case "attach":
			out = grip.AppendControlEvent(out, grip.Control{Type: "subscribe", Name: arg, Channel: "list", PrevID: strconv.Itoa(at), HasPrevID: true, Link: "/events/~next/ws/0"})
		case "unsubscribe":
			out = grip.AppendControlEvent(out, grip.Control{Type: "unsubscribe", Name: arg})
			text("unsubscribed " + arg)
		case "drop":
			out = grip.AppendControlEvent(out, grip.Control{Type: "unsubscribe", Channel: arg})
			text("dropped " + arg)
		case "detach":
			<-o.gate
			out = grip.AppendControlEvent(out, grip.Control{Type: "detach"})
		case "count":
			n, _ := strconv.Atoi(r.Header.Get("Meta-Count"))
			w.Header().Set("Set-Meta-Count", strconv.Itoa(n+1))
			text(fmt.Sprint("count ", n+1, " id ", r.Header.Get("Connection-Id") != ""))
		case "close":
			out = grip.AppendEvent(out, grip.Event{Type: grip.EventClose, Content: grip.CloseContent(4000, arg)})
		default:
			text(string(e.Content))
		}
	}
	w.Write(out)
}

func (o *listOrigin) askedIDs() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.asked...)
}

var _ Origin = (*listOrigin)(nil)
