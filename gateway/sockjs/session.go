package sockjs

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"spillway/grip/jsonstring"
)

// A session is a WebSocket, as seen by a client that comes and goes.
type session struct {
	s  *Server
	id string

	sending sync.Mutex // messages of the client go one after the other

	mu       sync.Mutex
	ws       *websocket.Conn // nil: not yet; guarded by mu
	greeted  bool            // the client knows that the session is open; guarded by mu
	received bool            // a request waits for messages; guarded by mu
	queue    []byte          // messages for the client, as JSON strings with commas between; guarded by mu
	over     []byte          // the close frame, once the session has ended; guarded by mu
	lonely   *time.Timer     // runs while no request waits; guarded by mu

	news chan struct{} // has one when the receiver should look; one at most
	room chan struct{} // has one when queue is empty; one at most
}

func newSession(s *Server, id string) *session {
	return &session{s: s, id: id, news: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// tell makes who waits on c look.
func tell(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// opened gives a new session its WebSocket.
func (n *session) opened(ws *websocket.Conn) {
	ws.SetReadLimit(-1) // the gateway, which sends, has limits of its own
	n.mu.Lock()
	n.ws = ws
	n.mu.Unlock()
	n.s.metrics.sessions.Inc()
}

// listen takes what the WebSocket says, until it has ended.
func (n *session) listen(ctx context.Context, ws *websocket.Conn) {
	for {
		_, message, err := ws.Read(ctx)
		if err != nil {
			n.end(endedByOrigin, closeFrameOf(err))
			return
		}
		if !n.push(ctx, message) {
			_ = ws.CloseNow()
			return
		}
	}
}

// push queues a message, and waits where too much is queued already. It reports
// false when the session is over.
func (n *session) push(ctx context.Context, message []byte) bool {
	for {
		n.mu.Lock()
		if n.over != nil {
			n.mu.Unlock()
			return false
		}
		if len(n.queue) == 0 || len(n.queue)+len(message) <= n.s.cfg.BufferBytes {
			was := len(n.queue)
			if was > 0 {
				n.queue = append(n.queue, ',')
			}
			n.queue = appendString(n.queue, message)
			n.s.metrics.waiting.Add(float64(len(n.queue) - was))
			n.mu.Unlock()
			tell(n.news)
			return true
		}
		n.mu.Unlock()
		select {
		case <-n.room:
		case <-ctx.Done():
			return false
		}
	}
}

// take returns the next frame for the client; nil: there is none yet. last says
// that none follows.
func (n *session) take() (frame []byte, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case !n.greeted:
		n.greeted = true
		return []byte("o"), false
	case len(n.queue) > 0:
		frame = append(append([]byte("a["), n.queue...), ']')
		n.drop()
		return frame, false
	}
	return slices.Clone(n.over), n.over != nil
}

// drop empties the queue. It is called with n.mu.
func (n *session) drop() {
	n.s.metrics.waiting.Sub(float64(len(n.queue)))
	n.queue = nil
	tell(n.room)
}

// attach makes the caller the receiver; false: there is another one.
func (n *session) attach() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.received {
		return false
	}
	n.received = true
	if n.lonely != nil {
		n.lonely.Stop()
	}
	return true
}

// detach ends that. The session lasts for a while without a receiver.
func (n *session) detach() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.received = false
	n.lonely = time.AfterFunc(n.s.cfg.Timeout, n.alone)
}

// alone ends a session to which no request came.
func (n *session) alone() {
	n.mu.Lock()
	if n.received {
		n.mu.Unlock()
		return // one has just come
	}
	n.received = true // none can come any more
	n.mu.Unlock()
	n.s.forget(n)
	n.end(endedAlone, closeFrame(1002, "Connection interrupted"))
}

// interrupted ends a session whose receiver broke off: nobody knows what has
// arrived.
func (n *session) interrupted() {
	n.s.forget(n)
	n.end(endedBroken, closeFrame(1002, "Connection interrupted"))
}

// end ends the session; the first reason counts. Who asks for messages is told so
// until the session is forgotten.
func (n *session) end(why ending, frame []byte) {
	n.mu.Lock()
	if n.over != nil {
		n.mu.Unlock()
		return
	}
	n.over = frame
	ws := n.ws
	if why != endedByOrigin {
		n.drop()
	}
	n.mu.Unlock()
	tell(n.news)
	tell(n.room)
	if ws != nil {
		n.s.metrics.sessions.Dec()
		n.s.metrics.ended[why].Inc()
		_ = ws.CloseNow()
	}
}

// errOver says that a session has ended, or has not begun.
var errOver = errors.New("there is no such session")

// send gives messages of the client to the WebSocket.
func (n *session) send(ctx context.Context, messages []string) error {
	n.sending.Lock()
	defer n.sending.Unlock()
	n.mu.Lock()
	ws, over := n.ws, n.over
	n.mu.Unlock()
	if ws == nil || over != nil {
		return errOver
	}
	return sendAll(ctx, ws, messages, n.s.cfg.WriteTimeout)
}

func sendAll(ctx context.Context, ws *websocket.Conn, messages []string, timeout time.Duration) error {
	for _, m := range messages {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		err := ws.Write(ctx, websocket.MessageText, []byte(m))
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// closeFrameOf is what a client is told when its WebSocket has ended.
func closeFrameOf(err error) []byte {
	var closed websocket.CloseError
	switch {
	case !errors.As(err, &closed):
		return closeFrame(1006, "Connection lost")
	case closed.Code == websocket.StatusNoStatusRcvd:
		return closeFrame(1000, "")
	}
	return closeFrame(int(closed.Code), closed.Reason)
}

func closeFrame(code int, reason string) []byte {
	b := append([]byte("c["), strconv.Itoa(code)...)
	return append(appendString(append(b, ','), []byte(reason)), ']')
}

// appendString appends a JSON string in which everything is escaped that some
// browser does not let through.
func appendString(dst, s []byte) []byte {
	at := len(dst)
	dst = jsonstring.Append(dst, s)
	for i := at; i < len(dst); {
		if dst[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, size := utf8.DecodeRune(dst[i:])
		if !mangled(r) {
			i += size
			continue
		}
		// From here on it is written anew.
		rest := string(dst[i:])
		dst = dst[:i]
		for _, r := range rest {
			if mangled(r) {
				dst = append(dst, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			} else {
				dst = utf8.AppendRune(dst, r)
			}
		}
		break
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// mangled reports whether a character must not be sent as it is.
func mangled(r rune) bool {
	return 0x200c <= r && r <= 0x200f || 0x2028 <= r && r <= 0x202f || 0x2060 <= r && r <= 0x206f || 0xfff0 <= r && r <= 0xffff
}
