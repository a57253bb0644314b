package sockjs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// A transport is a way in which frames come to the client in a response.
type transport struct {
	method      string
	contentType string
	callback    bool // the client names a function
	stream      bool // there may be many frames
	prelude     func(callback string) string
	frame       func(callback string, frame []byte) []byte
}

// streamed is what streams have in the place of notStored: proxies must not
// collect them.
const streamed = "no-store, no-cache, no-transform, must-revalidate, max-age=0"

var transports = map[string]*transport{
	"xhr":           {method: http.MethodPost, contentType: "text/plain", frame: line},
	"xhr_streaming": {method: http.MethodPost, contentType: "application/javascript; charset=UTF-8", stream: true, prelude: manyH, frame: line},
	"eventsource": {method: http.MethodGet, contentType: "text/event-stream; charset=UTF-8", stream: true,
		prelude: func(string) string { return "\r\n" }, frame: event},
	"htmlfile": {method: http.MethodGet, contentType: "text/html; charset=UTF-8", callback: true, stream: true, prelude: page, frame: element},
	"jsonp":    {method: http.MethodGet, contentType: "application/javascript", callback: true, frame: call},
}

func line(_ string, frame []byte) []byte { return append(frame, '\n') }

// manyH fills the buffers of browsers that show nothing before.
func manyH(string) string { return strings.Repeat("h", 2048) + "\n" }

func event(_ string, frame []byte) []byte {
	return append(append([]byte("data: "), frame...), "\r\n\r\n"...)
}

func call(callback string, frame []byte) []byte {
	return []byte("/**/" + callback + "(" + quoted(frame) + ");\n")
}

func element(_ string, frame []byte) []byte {
	return []byte("<script>\np(" + quoted(frame) + ");\n</script>\r\n")
}

// quoted is a string that may stand in a script, also in a page.
func quoted(frame []byte) string {
	b, _ := json.Marshal(string(frame)) // a string always can
	return string(b)
}

// page is the beginning of a document that calls functions of the one around it,
// long enough for browsers to begin with it.
func page(callback string) string {
	p := `<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.` + callback + `;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
`
	return p + strings.Repeat(" ", max(0, 1024-len(p))) + "\r\n\r\n"
}

// maxCallback bounds the name of a function, in bytes.
const maxCallback = 256

// callbackOf is the function that a request names.
func callbackOf(r *http.Request) (name, problem string) {
	query := r.URL.Query()
	name = query.Get("c")
	if name == "" {
		name = query.Get("callback")
	}
	if name == "" {
		return "", `"callback" parameter required`
	}
	for i := range len(name) {
		c := name[i]
		if len(name) > maxCallback || ('a' > c || c > 'z') && ('A' > c || c > 'Z') && ('0' > c || c > '9') && strings.IndexByte("-_.", c) < 0 {
			return "", `invalid "callback" parameter`
		}
	}
	return name, ""
}

// A reception is a response in which a client gets frames.
type reception struct {
	*transport
	w        http.ResponseWriter
	control  *http.ResponseController
	callback string
	begun    bool
}

// write sends a frame, and before the first one what all have.
func (r *reception) write(frame []byte) (n int, err error) {
	frame = r.frame(r.callback, frame)
	if !r.stream {
		answer(r.w, http.StatusOK, r.contentType, frame)
		return len(frame), nil
	}
	if !r.begun {
		r.begun = true
		r.w.Header().Set("Cache-Control", streamed)
		r.w.Header().Set("Content-Type", r.contentType)
		r.w.Header().Set("X-Accel-Buffering", "no")
		r.w.WriteHeader(http.StatusOK)
		if _, err := io.WriteString(r.w, r.prelude(r.callback)); err != nil {
			return 0, err
		}
		if err := r.control.Flush(); err != nil {
			return 0, err
		}
	}
	if n, err = r.w.Write(frame); err != nil {
		return n, err
	}
	return n, r.control.Flush()
}

// receive gives a client the frames of its session, and begins the session where
// there is none.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, id string, t *transport, open Open) {
	to := &reception{transport: t, w: w, control: http.NewResponseController(w)}
	if t.callback {
		problem := ""
		if to.callback, problem = callbackOf(r); problem != "" {
			text(w, http.StatusInternalServerError, problem)
			return
		}
	}
	// Who leaves is noticed when all of the request was read. It says nothing.
	_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, int64(s.cfg.SendBytes)))
	n, isNew := s.session(id)
	if isNew {
		ws, err := open(r.Context(), true)
		if err != nil {
			s.forget(n)
			s.refused(w, err)
			return
		}
		n.opened(ws)
		s.spawn(func(ctx context.Context) { n.listen(ctx, ws) })
	} else if !n.attach() {
		_, _ = to.write(closeFrame(2010, "Another connection still open"))
		return
	}
	if err := n.serve(r.Context(), to); err != nil {
		n.interrupted()
		return
	}
	n.detach()
}

// errLeft says that a client went away before it had what it asked for.
var errLeft = errors.New("the request broke off")

// serve writes frames as long as one response lasts.
func (n *session) serve(ctx context.Context, to *reception) error {
	beat := time.NewTimer(n.s.cfg.Heartbeat)
	defer beat.Stop()
	for written := 0; ; {
		frame, last := n.take()
		if frame == nil {
			select {
			case <-n.news:
				continue
			case <-beat.C:
				frame = []byte("h")
			case <-ctx.Done():
				return errLeft
			}
		}
		beat.Reset(n.s.cfg.Heartbeat)
		wrote, err := to.write(frame)
		if err != nil {
			return err
		}
		if written += wrote; last || !to.stream || written >= n.s.cfg.ResponseBytes {
			return nil
		}
	}
}

// send takes messages of a client.
func (s *Server) send(w http.ResponseWriter, r *http.Request, id string, form bool) {
	n := s.find(id)
	if n == nil {
		notFound(w)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.cfg.SendBytes)))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		text(w, http.StatusRequestEntityTooLarge, "A request must not have more than SOCKJS_SEND_BYTES.")
		return
	case err != nil:
		return // the client has left
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); form && err == nil && media == "application/x-www-form-urlencoded" {
		fields, _ := url.ParseQuery(string(body)) // what is wrong is not there
		body = []byte(fields.Get("d"))
	}
	messages, problem := parseMessages(body)
	if problem != "" {
		text(w, http.StatusInternalServerError, problem)
		return
	}
	if err := n.send(context.WithoutCancel(r.Context()), messages); err != nil { // half of them would be worse
		notFound(w)
		return
	}
	answer(w, http.StatusOK, "text/plain", []byte("ok"))
}

// parseMessages reads what a client sends: an array of strings, or one string.
func parseMessages(body []byte) (messages []string, problem string) {
	if len(body) == 0 {
		return nil, "Payload expected."
	}
	if json.Unmarshal(body, &messages) == nil && messages != nil {
		return messages, ""
	}
	var one *string
	if json.Unmarshal(body, &one) == nil && one != nil {
		return []string{*one}, ""
	}
	return nil, "Broken JSON encoding."
}

// socket is a session whose frames are messages of a WebSocket. It lasts as long as
// that, and its id means nothing.
func (s *Server) socket(w http.ResponseWriter, r *http.Request, open Open) {
	if !isHandshake(r) {
		text(w, http.StatusBadRequest, `Can "Upgrade" only to "WebSocket".`)
		return
	}
	ws, err := open(r.Context(), false)
	if err != nil {
		s.refused(w, err)
		return
	}
	defer func() { _ = ws.CloseNow() }()
	for _, name := range []string{"Cache-Control", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"} {
		w.Header().Del(name)
	}
	client, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // pages of all sites may
	if err != nil {
		return // the client has its answer
	}
	defer func() { _ = client.CloseNow() }()
	client.SetReadLimit(int64(s.cfg.SendBytes))
	n := newSession(s, "")
	n.opened(ws)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	heard := make(chan struct{})
	go func() { // ends with client; waited for below
		defer close(heard)
		defer cancel()
		n.hear(ctx, client)
	}()
	listened := make(chan struct{})
	go func() { // ends with ws; waited for below
		defer close(listened)
		n.listen(ctx, ws)
	}()
	n.talk(ctx, client)
	cancel()
	n.end(endedByClient, closeFrame(1000, ""))
	_ = client.CloseNow()
	<-heard
	<-listened
}

// hear gives what a client says to the WebSocket, until the client has ended.
func (n *session) hear(ctx context.Context, client *websocket.Conn) {
	for {
		_, body, err := client.Read(ctx)
		if err != nil {
			return
		}
		if len(body) == 0 {
			continue
		}
		messages, problem := parseMessages(body)
		if problem != "" || n.send(ctx, messages) != nil {
			return
		}
	}
}

// talk sends frames to a client, until one of both sides has ended.
func (n *session) talk(ctx context.Context, client *websocket.Conn) {
	beat := time.NewTimer(n.s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		frame, last := n.take()
		if frame == nil {
			select {
			case <-n.news:
				continue
			case <-beat.C:
				frame = []byte("h")
			case <-ctx.Done():
				return
			}
		}
		beat.Reset(n.s.cfg.Heartbeat)
		limited, cancel := context.WithTimeout(ctx, n.s.cfg.WriteTimeout)
		err := client.Write(limited, websocket.MessageText, frame)
		cancel()
		if err != nil {
			return
		}
		if last {
			_ = client.Close(websocket.StatusNormalClosure, "")
			return
		}
	}
}
