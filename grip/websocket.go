package grip

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A WebSocket is a client's WebSocket in the eyes of an origin that is asked by
// requests (WebSocket over HTTP): one request of the proxy, and the answer to
// it. The next request about the same client is another WebSocket with the same
// ID; whatever the origin has to remember goes into SetMeta, or a database.
//
//	ws, err := grip.ReadWebSocket(r)
//	…
//	for _, e := range ws.Events {
//		switch e.Type {
//		case grip.EventOpen:
//			ws.Accept()
//			ws.Subscribe("room")
//		case grip.EventText:
//			…
//		}
//	}
//	err = ws.Respond(w)
//
// Methods say what goes into the answer, in their order; what is wrong with it
// is Respond's error. Pings of the client, and its close, are answered by
// Respond. A WebSocket is for one goroutine.
type WebSocket struct {
	// ID is the Connection-Id, the same in all requests about one client.
	ID string

	// Events are what the client has done since the last request. There may be
	// none: the proxy asks because of AskAfter, or of a refresh.
	Events []Event

	// Replayed is how many of the content bytes were offered before, and not
	// accepted (see AcceptBytes).
	Replayed int

	// MessagePrefix marks messages for the client among those for the proxy. It
	// is DefaultMessagePrefix unless the origin changes it, in each request. It
	// is empty, and there are no control messages, where the proxy does not
	// offer GRIP.
	MessagePrefix string

	grip     bool // the proxy offers it
	meta     map[string]string
	set      map[string]string // of meta, what the answer says
	out      []byte
	accepted bool // Accept was called
	ended    bool // Close or Disconnect was
	controls bool
	askAfter *time.Duration
	taken    int // content bytes; -1: all
	err      error
}

// IsWebSocket reports whether r brings the events of a WebSocket, for
// ReadWebSocket.
func IsWebSocket(r *http.Request) bool {
	return r.Method == http.MethodPost && isType(r.Header, ContentTypeEvents)
}

// ReadWebSocket reads a request for which IsWebSocket holds: at most a million
// bytes of it (MaxEventsResponse), of which proxies send a fifth. Anybody may
// send such a request to an origin that clients can reach: VerifyRequest tells.
func ReadWebSocket(r *http.Request) (*WebSocket, error) {
	if !IsWebSocket(r) {
		return nil, fmt.Errorf("events: a %s of %q is no WebSocket over HTTP; that is a POST of %s", r.Method, r.Header.Get("Content-Type"), ContentTypeEvents)
	}
	ws := &WebSocket{ID: r.Header.Get("Connection-Id"), meta: ParseMeta(r.Header), set: make(map[string]string), taken: -1}
	if ws.ID == "" {
		return nil, errors.New("events: no Connection-Id")
	}
	if v := r.Header.Get("Content-Bytes-Replayed"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("events: Content-Bytes-Replayed: %q is not a number of bytes", v)
		}
		ws.Replayed = n
	}
	if _, ws.grip = ParseExtension(r.Header); ws.grip {
		ws.MessagePrefix = DefaultMessagePrefix
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxEventsResponse+1))
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	if len(body) > MaxEventsResponse {
		return nil, fmt.Errorf("events: more than %d bytes", MaxEventsResponse)
	}
	if ws.Events, err = ParseEvents(body); err != nil {
		return nil, err
	}
	return ws, nil
}

// Opening reports whether the client waits to be let in. The origin calls
// Accept, or refuses by any response in place of Respond, such as http.Error
// with 403: the client gets it as the answer to its handshake.
func (ws *WebSocket) Opening() bool {
	return len(ws.Events) > 0 && ws.Events[0].Type == EventOpen
}

// Accept opens the WebSocket. Headers of the response, such as
// Sec-WebSocket-Protocol, go to the client then.
func (ws *WebSocket) Accept() { ws.accepted = true }

// SendText sends a text message to the client.
func (ws *WebSocket) SendText(text string) {
	if !utf8.ValidString(text) {
		ws.fail(errors.New("a text message that is not UTF-8; send it as a binary one"))
		return
	}
	ws.send(EventText, []byte(text))
}

// SendBinary sends a binary message to the client.
func (ws *WebSocket) SendBinary(content []byte) { ws.send(EventBinary, content) }

func (ws *WebSocket) send(t EventType, content []byte) {
	message := slices.Concat([]byte(ws.MessagePrefix), content)
	if ws.grip && t == EventText && strings.HasPrefix(string(message), controlPrefix) {
		ws.fail(fmt.Errorf("a message that the proxy would take for its own: it begins with %s, and MessagePrefix is %q", controlPrefix, ws.MessagePrefix))
		return
	}
	ws.event(t, message)
}

func (ws *WebSocket) event(t EventType, content []byte) {
	ws.out = AppendEvent(ws.out, Event{Type: t, Content: content})
}

// Ping sends a ping to the client, whose answer is a PONG event.
func (ws *WebSocket) Ping(content []byte) { ws.event(EventPing, content) }

// Close sends a close to the client, with a code that 0 leaves out. It also
// answers the client's own close, where something else is to be said than what
// the client did.
func (ws *WebSocket) Close(code int, reason string) {
	ws.event(EventClose, CloseContent(code, reason))
	ws.ended = true
}

// Disconnect cuts the client off, without a close.
func (ws *WebSocket) Disconnect() {
	ws.event(EventDisconnect, nil)
	ws.ended = true
}

// Control sends the proxy a control message, for which there need not be a
// method below.
func (ws *WebSocket) Control(c Control) {
	content := AppendControl(nil, c)
	if _, _, err := ParseControl(content); err != nil {
		ws.fail(err) // proxies ignore it, and nobody would know
		return
	}
	ws.controls = true
	ws.event(EventText, content)
}

// Subscribe subscribes the client to what is published to a channel. Filters
// replace those that were there.
func (ws *WebSocket) Subscribe(channel string, filters ...string) {
	if len(filters) > MaxFilters {
		ws.fail(fmt.Errorf("channel %q: %d filters, more than %d", channel, len(filters), MaxFilters))
		return
	}
	ws.Control(Control{Type: ControlSubscribe, Channel: channel, Filters: filters})
}

// Unsubscribe ends a subscription.
func (ws *WebSocket) Unsubscribe(channel string) {
	ws.Control(Control{Type: ControlUnsubscribe, Channel: channel})
}

// Detach makes the proxy keep the WebSocket to itself: what is published still
// reaches the client, and what the client sends nobody.
func (ws *WebSocket) Detach() { ws.Control(Control{Type: ControlDetach}) }

// KeepAlive makes the proxy send a message whenever the WebSocket was quiet for
// so long, such as a PingMessage. No content ends it, but for pings and pongs.
func (ws *WebSocket) KeepAlive(t MessageType, content []byte, quiet time.Duration) {
	c := Control{Type: ControlKeepAlive, Timeout: quiet}
	if len(content) > 0 || t == PingMessage || t == PongMessage {
		c.MessageType, c.HasContent = t.String(), true
		if c.Content = string(content); !utf8.Valid(content) {
			c.Content, c.ContentBin = "", base64.StdEncoding.EncodeToString(content)
		}
	}
	ws.Control(c)
}

// Session binds the WebSocket to a session of an external service. Few proxies
// do anything with it.
func (ws *WebSocket) Session(id string) { ws.Control(Control{Type: ControlSession, ID: id}) }

// SetSubscriptionMeta sets a value that filters of subscriptions look at, such as
// user. It is the proxy's, and not what SetMeta sets. An empty value removes it.
func (ws *WebSocket) SetSubscriptionMeta(name, value string) {
	ws.Control(Control{Type: ControlSetMeta, Name: name, Value: value, HasValue: value != ""})
}

// Meta returns what SetMeta has set, in this request or an earlier one. The case
// of a name does not matter.
func (ws *WebSocket) Meta(name string) string { return ws.meta[strings.ToLower(name)] }

// SetMeta makes the proxy repeat a value in each later request about this
// client, for Meta. An empty value removes it. A client cannot read or forge it.
func (ws *WebSocket) SetMeta(name, value string) {
	if !isFieldName(name) || !isFieldValue(value) || strings.TrimSpace(value) != value {
		ws.fail(fmt.Errorf("meta %q: has a name or value that no header can carry", name))
		return
	}
	name = strings.ToLower(name)
	ws.meta[name], ws.set[name] = value, value
}

// AskAfter makes the proxy ask, by a request without events, whenever there was
// nothing to tell for so long: whole seconds, and MinEventsInterval at least. 0
// ends it.
func (ws *WebSocket) AskAfter(quiet time.Duration) { ws.askAfter = &quiet }

// AcceptBytes takes only the first n of the content bytes of Events: those of
// messages, pings, pongs and a close. The proxy offers the rest again, together
// with what comes then.
func (ws *WebSocket) AcceptBytes(n int) {
	offered := 0
	for _, e := range ws.Events {
		offered += len(e.Content)
	}
	if n < 0 || n > offered {
		ws.fail(fmt.Errorf("%d bytes accepted of %d", n, offered))
		return
	}
	ws.taken = n
}

func (ws *WebSocket) fail(err error) {
	if ws.err == nil {
		ws.err = err
	}
}

// Respond writes the answer. An error, unless it comes from w, says what is
// wrong with it; nothing was written then.
func (ws *WebSocket) Respond(w http.ResponseWriter) error {
	body := ws.appendAnswer(nil)
	if err := ws.check(body); err != nil {
		return fmt.Errorf("WebSocket: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", ContentTypeEvents)
	if ws.accepted && ws.grip {
		extension := "grip"
		if ws.MessagePrefix != DefaultMessagePrefix {
			extension += "; message-prefix=" + quote(ws.MessagePrefix)
		}
		h.Set("Sec-WebSocket-Extensions", extension)
	}
	for _, name := range slices.Sorted(maps.Keys(ws.set)) {
		h.Set("Set-"+metaPrefix+name, ws.set[name])
	}
	if ws.askAfter != nil {
		seconds, _ := wholeSeconds(*ws.askAfter)
		h.Set("Keep-Alive-Interval", seconds)
	}
	if ws.taken >= 0 {
		h.Set("Content-Bytes-Accepted", strconv.Itoa(ws.taken))
	}
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(body)
	return err
}

func (ws *WebSocket) check(body []byte) error {
	switch {
	case ws.err != nil:
		return ws.err
	case ws.Opening() && !ws.accepted && (ws.askAfter == nil || *ws.askAfter <= 0):
		return errors.New("the client waits to be let in; call Accept, or refuse it by another response")
	case ws.controls && !ws.grip:
		return errors.New("a control message to a proxy that does not offer GRIP")
	case !isFieldValue(ws.MessagePrefix):
		return fmt.Errorf("message prefix %q has control characters", ws.MessagePrefix)
	case len(body) > MaxEventsResponse:
		return fmt.Errorf("an answer of %d bytes, more than %d", len(body), MaxEventsResponse)
	}
	if ws.askAfter != nil {
		if _, err := wholeSeconds(*ws.askAfter); err != nil {
			return fmt.Errorf("interval %w", err)
		}
	}
	return nil
}

// appendAnswer appends the events of the answer. Those that the protocol owes
// come before the origin's own, but for a close.
func (ws *WebSocket) appendAnswer(dst []byte) []byte {
	if ws.accepted {
		dst = AppendEvent(dst, Event{Type: EventOpen})
	}
	var end []byte
	at := 0
	for _, e := range ws.Events {
		if at += len(e.Content); ws.taken >= 0 && at > ws.taken {
			break // the proxy tells of it again
		}
		switch e.Type {
		case EventPing:
			dst = AppendEvent(dst, Event{Type: EventPong, Content: e.Content})
		case EventClose:
			if code, reason, err := ParseClose(e.Content); err == nil && !ws.ended {
				end = AppendEvent(nil, Event{Type: EventClose, Content: CloseContent(code, reason)})
			}
		}
	}
	return append(append(dst, ws.out...), end...)
}
