package grip

import "encoding/json"

// An Item is one message for the subscribers of one channel, in as many forms
// as there are transports (GRIP reference, 5.2). Each subscriber gets the form
// of its transport; an item without that form is skipped by it.
type Item struct {
	// Channel is matched exactly; there are no wildcards.
	Channel string

	// ID names the item within its channel, PrevID the one before it. Empty
	// means not given. Items of a Channel opened with Gateway.Open carry
	// neither: its IDs knows them by sequence number.
	ID, PrevID string

	// At least one is not nil.
	HTTPStream   *HTTPStream
	HTTPResponse *HTTPResponse
	WSMessage    *WSMessage

	// Key is what the item is the newest word about, for subscriptions that
	// conflate (see Subscription); empty: it stands for itself. It is not part of
	// GRIP; other proxies skip it.
	Key string

	// Meta is read by filters: sender, skip_users, require_sub.
	Meta map[string]string

	// NoSeq asks for delivery now, in whatever order.
	NoSeq bool

	// Size is the publisher's own figure for accounting, in bytes; 0 means
	// that of the content.
	Size int
}

// An Action is what an item asks of the gateway.
type Action string

// The actions. Those that a transport has no use for do nothing on it.
const (
	ActionSend    Action = ""        // deliver the content
	ActionHint    Action = "hint"    // ask the origin again: there is news
	ActionClose   Action = "close"   // end the response or the WebSocket
	ActionRefresh Action = "refresh" // WebSocket-over-HTTP: make an empty request now
)

// HTTPStream is what a held stream appends to its response.
type HTTPStream struct {
	Action  Action
	Content []byte
	// ContentFilters, when not nil, must equal the content filters of a
	// subscription for the item to reach it (GRIP reference, 6.3).
	ContentFilters []string
}

// HTTPResponse answers a long poll.
type HTTPResponse struct {
	Action         Action
	Code           int    // 0 means 200
	Reason         string // empty means the standard one
	Headers        []Header
	Body           []byte
	BodyPatch      json.RawMessage // RFC 6902; applied to the hold's own body
	ContentFilters []string
}

// A Header is one field; a list of them keeps order and repeats.
type Header struct{ Name, Value string }

// A MessageType is the kind of a WebSocket message.
type MessageType uint8

// The types of messages.
const (
	TextMessage MessageType = iota
	BinaryMessage
	PingMessage
	PongMessage
)

// WSMessage is what a WebSocket subscriber receives.
type WSMessage struct {
	Action         Action
	Type           MessageType
	Content        []byte
	Code           int    // of a close; 0 means 1000
	Reason         string // of a close
	ContentFilters []string
}
