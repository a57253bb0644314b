package gateway

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"spillway/grip"
)

// maxClientMessage bounds a message of a client, in bytes.
const maxClientMessage = 64 << 10

// closePatience is how long a client may take to answer a close frame.
const closePatience = 2 * time.Second

// errMessageSize says that a client's message was over maxClientMessage. The
// client has been told.
var errMessageSize = errors.New("message too large")

// A socket is one WebSocket after its handshake. All methods are safe for
// concurrent use, read by one goroutine at a time.
type socket struct {
	conn    *websocket.Conn
	raw     net.Conn // to cut it
	timeout time.Duration

	writing atomic.Int64   // when the write that is going on began, Unix nanoseconds; 0: none
	silent  atomic.Bool    // a ping was not answered
	pinging atomic.Bool    // a ping is waiting for its pong
	pings   sync.WaitGroup // the goroutine that waits
}

// openSocket finishes a handshake. The headers of w go with it, and protocol
// when the client offered it. On error the client has been answered.
func openSocket(w http.ResponseWriter, r *http.Request, protocol string, timeout time.Duration) (*socket, error) {
	rec := &hijackRecorder{ResponseWriter: w}
	opts := &websocket.AcceptOptions{InsecureSkipVerify: true} // the origin has decided
	if protocol != "" {
		opts.Subprotocols = []string{protocol}
	}
	conn, err := websocket.Accept(rec, r, opts)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(maxClientMessage)
	return &socket{conn: conn, raw: rec.conn, timeout: timeout}, nil
}

// hijackRecorder keeps the connection that is taken over.
type hijackRecorder struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijackRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, rw, err
}

// read returns the next message. It ends when the socket does.
func (s *socket) read() (grip.MessageType, []byte, error) {
	typ, p, err := s.conn.Read(context.Background())
	if errors.Is(err, websocket.ErrMessageTooBig) {
		err = errMessageSize
	}
	if typ == websocket.MessageBinary {
		return grip.BinaryMessage, p, err
	}
	return grip.TextMessage, p, err
}

// write sends a message. A client that does not take it in time loses the
// connection.
func (s *socket) write(typ grip.MessageType, p []byte) error {
	t := websocket.MessageText
	switch typ {
	case grip.BinaryMessage:
		t = websocket.MessageBinary
	case grip.PingMessage:
		s.ping()
		return nil
	case grip.PongMessage:
		return nil // says nothing that a client waits for
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	s.writing.Store(time.Now().UnixNano())
	err := s.conn.Write(ctx, t, p)
	if err == nil {
		s.writing.Store(0)
	}
	return err
}

// stalled reports whether the socket ended because the client took nothing, or
// did not answer.
func (s *socket) stalled() bool {
	began := s.writing.Load()
	return s.silent.Load() || began != 0 && time.Since(time.Unix(0, began)) >= s.timeout*9/10
}

// ping sends a ping, unless one is on its way, and does not wait. A client
// that does not answer in time loses the connection.
func (s *socket) ping() {
	if s.pinging.Swap(true) {
		return
	}
	s.pings.Go(func() {
		defer s.pinging.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
		defer cancel()
		if err := s.conn.Ping(ctx); err != nil {
			s.silent.Store(ctx.Err() != nil)
			s.cut()
		}
	})
}

// close ends the socket with a close frame, and waits a little for the
// client's.
func (s *socket) close(code int, reason string) {
	cutting := time.AfterFunc(closePatience, s.cut)
	_ = s.conn.Close(websocket.StatusCode(code), truncated(reason))
	cutting.Stop()
	s.cut()
	s.pings.Wait()
}

// cut ends the socket without a word.
func (s *socket) cut() { _ = s.raw.Close() }

// release waits for what was started, after the socket has ended.
func (s *socket) release() {
	s.cut()
	_ = s.conn.CloseNow()
	s.pings.Wait()
}

// truncated makes a reason fit a close frame.
func truncated(reason string) string {
	const most = 123 // RFC 6455, 5.5, less the code
	if len(reason) <= most {
		return reason
	}
	end := most
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end]
}
