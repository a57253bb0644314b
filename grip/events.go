package grip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An EventType is the word that a WebSocket over HTTP event begins with.
type EventType string

// The types of events.
const (
	EventOpen       EventType = "OPEN"
	EventText       EventType = "TEXT"
	EventBinary     EventType = "BINARY"
	EventPing       EventType = "PING"
	EventPong       EventType = "PONG"
	EventClose      EventType = "CLOSE"      // content: see CloseContent
	EventDisconnect EventType = "DISCONNECT" // gone without a close
)

// An Event is one step in the life of a WebSocket that travels as HTTP
// requests, in either direction.
type Event struct {
	Type    EventType
	Content []byte
}

var crlf = []byte("\r\n")

// ParseEvents reads the body of a WebSocket over HTTP request or response.
//
//	TYPE CRLF
//	TYPE SP length CRLF content CRLF        length in hexadecimal, either case
//
// Types it does not know are left out. The contents are parts of body.
func ParseEvents(body []byte) ([]Event, error) {
	var events []Event
	for at := 0; at < len(body); {
		line, rest, ok := bytes.Cut(body[at:], crlf)
		if !ok {
			return nil, fmt.Errorf("events: byte %d: line without end", at)
		}
		word, length, hasLength := bytes.Cut(line, []byte{' '})
		if len(word) == 0 {
			return nil, fmt.Errorf("events: byte %d: no type", at)
		}
		var content []byte
		if hasLength {
			n, err := strconv.ParseUint(string(length), 16, 63)
			if err != nil {
				return nil, fmt.Errorf("events: byte %d: length %q is not hexadecimal", at, length)
			}
			// The comparison comes first: n may be far more than an int can add to.
			if n > uint64(len(rest)) || !bytes.HasPrefix(rest[n:], crlf) {
				return nil, fmt.Errorf("events: byte %d: content does not end after %d bytes", at, n)
			}
			content, rest = rest[:n:n], rest[n+2:]
		}
		if t := EventType(word); t.known() {
			events = append(events, Event{Type: t, Content: content})
		}
		at = len(body) - len(rest)
	}
	return events, nil
}

func (t EventType) known() bool {
	switch t {
	case EventOpen, EventText, EventBinary, EventPing, EventPong, EventClose, EventDisconnect:
		return true
	}
	return false
}

// AppendEvent appends one event to dst, in the form that ParseEvents reads.
// Text and binary messages always get a length, also when they are empty; the
// others only with content.
func AppendEvent(dst []byte, e Event) []byte {
	dst = append(dst, e.Type...)
	if len(e.Content) > 0 || e.Type == EventText || e.Type == EventBinary {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, uint64(len(e.Content)), 16)
		dst = append(dst, crlf...)
		dst = append(dst, e.Content...)
	}
	return append(dst, crlf...)
}

// maxCloseReason is what a WebSocket close frame has left after the code
// (RFC 6455, 5.5).
const maxCloseReason = 123

// CloseContent returns the content of a CLOSE event or of a WebSocket close
// frame: the code in 2 bytes, big endian, and the reason. A code that 2 bytes
// cannot hold, or 0, stands for no code, and gives no content. The reason is
// made valid UTF-8 and cut to the 123 bytes that a frame can carry.
func CloseContent(code int, reason string) []byte {
	if code <= 0 || code > 0xffff {
		return nil
	}
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	if len(reason) > maxCloseReason {
		end := maxCloseReason
		for !utf8.RuneStart(reason[end]) {
			end--
		}
		reason = reason[:end]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
}

// ParseClose reads what CloseContent writes. No content is code 0.
func ParseClose(content []byte) (code int, reason string, err error) {
	switch {
	case len(content) == 0:
		return 0, "", nil
	case len(content) == 1:
		return 0, "", errors.New("close: half a code")
	case !utf8.Valid(content[2:]):
		return 0, "", errors.New("close: reason is not UTF-8")
	}
	return int(binary.BigEndian.Uint16(content)), string(content[2:]), nil
}

// DefaultMessagePrefix is what a message of an origin to its client begins with
// where GRIP is spoken, unless the origin chooses another.
const DefaultMessagePrefix = "m:"

// ParseExtension reads an origin's Sec-WebSocket-Extensions: whether it speaks
// GRIP on the WebSocket, and by which prefix it marks messages for the client. What
// is not understood is no GRIP.
func ParseExtension(h http.Header) (messagePrefix string, ok bool) {
	elems, err := elements(h.Values("Sec-Websocket-Extensions"), false)
	if err != nil {
		return "", false
	}
	for _, e := range elems {
		if e.first == "grip" {
			if prefix, given := e.get("message-prefix"); given {
				return prefix, true
			}
			return DefaultMessagePrefix, true
		}
	}
	return "", false
}
