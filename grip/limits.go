package grip

import "time"

// Times that the protocol fixes, as Pushpin has them.
const (
	// DefaultTimeout is how long a response hold waits when its origin does
	// not say, and the default of a keep-alive.
	DefaultTimeout = 55 * time.Second

	// MinTimeout is the shortest wait of a response hold; gateways raise
	// smaller values to it. ParseInstruct does not.
	MinTimeout = 5 * time.Second

	// MinKeepAlive is the shortest time between keep-alives. The parsers
	// raise smaller values to it.
	MinKeepAlive = time.Second

	// DefaultLinkTimeout is the quiet after which a held stream asks its next
	// link, when the link does not say.
	DefaultLinkTimeout = 120 * time.Second

	// DefaultSendDelay is the wait of a send-delayed control message.
	DefaultSendDelay = time.Second

	// MinEventsInterval is the smallest Keep-Alive-Interval of a WebSocket
	// over HTTP; gateways raise smaller values to it, except 0 (off).
	MinEventsInterval = 20 * time.Second

	// SigLifetime is how long a Grip-Sig is valid.
	SigLifetime = time.Hour
)

// Sizes and counts that the protocol fixes, as Pushpin has them.
const (
	// MaxHoldBody bounds, in bytes, the body of a request that may be held
	// and the body of its answer, instruct documents included.
	MaxHoldBody = 100_000

	// MaxPublishBody and MaxPublishHead bound a request to the control API,
	// in bytes.
	MaxPublishBody = 1_000_000
	MaxPublishHead = 10_000

	// MaxChannels is how many channels of one connection count; those after
	// them are ignored.
	MaxChannels = 20

	// MaxFilters is how many filters one channel may have; more are an error.
	MaxFilters = 5

	// MaxEventsRequest is how many content bytes go into one WebSocket over
	// HTTP request; MaxEventsResponse bounds the body of its response, and
	// MaxRefusal the body of an answer that refuses the WebSocket.
	MaxEventsRequest  = 200_000
	MaxEventsResponse = 1_000_000
	MaxRefusal        = 100_000
)

// Media types.
const (
	ContentTypeInstruct = "application/grip-instruct"
	ContentTypeEvents   = "application/websocket-events"
)
