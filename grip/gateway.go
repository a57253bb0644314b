package grip

import "context"

// A Publisher takes items for delivery to whoever listens.
//
// When Publish returns nil, the receiver is responsible for every item, in the
// order given; no client has necessarily seen one yet. Publish never waits for
// a client. After an error the caller publishes the same items again: an item
// that was already taken is recognised by its channel and id, and ignored.
//
// The receiver may keep the bytes in the items. The caller must not change them.
type Publisher interface {
	Publish(ctx context.Context, items ...Item) error
}

// A Gateway is a gateway in the same process as the publisher. Beyond Publish
// it retains the items of the channels that the publisher opens, so that a
// stream can attach to any of them, and says who listens.
type Gateway interface {
	Publisher

	// Open makes the gateway retain the items of channel from now on, within
	// its limits, whether or not anyone listens. Opening a channel that is
	// open already replaces it: streams attached to the old one ask their
	// next link. Open never blocks and never calls ids.
	Open(channel string, ids IDs) Channel
}

// A Channel is one open channel's log in a Gateway. All methods are safe for
// concurrent use, and none waits for a client, a socket or Kafka.
type Channel interface {
	// Append adds items in order and returns the sequence number of the last.
	// The first item ever appended has number 1, the next 2, and so on. The
	// gateway copies what it needs before Append returns, so the caller may
	// use the memory again. Item.Channel, ID and PrevID are ignored.
	Append(items []Item) (last uint64)

	// Write does the same with items that write adds to the batch, without
	// copying what write puts into the batch's own memory. Calls of Write and
	// Append on one channel come one after the other; write must not call
	// the channel.
	Write(write func(Batch)) (last uint64)

	// Retained reports the numbers of the oldest and newest item that a
	// stream can still be given: first > last means none. A stream may attach
	// after any number in [first-1, last].
	Retained() (first, last uint64)

	// Subscribers counts the streams and long polls attached now.
	Subscribers() int

	// Close drops the log. Streams that are still attached ask their next
	// link, or end where they have none. Closing twice is fine.
	Close()
}

// A Batch takes the items of one Channel.Write, in order. It is of no use when
// write has returned.
type Batch interface {
	// Stream and Message return an empty slice in the log itself, with room
	// for n bytes at least: the content of the next item is appended to it,
	// and the result goes into Add. Content that grew beyond the room, or was
	// written elsewhere, is copied.
	Stream(n int) []byte
	Message(n int) []byte

	// Add ends an item.
	Add(e Entry)
}

// An Entry is an item in a Batch: for streams and WebSockets.
type Entry struct {
	// Action applies to all transports; the rest is for ActionSend.
	Action Action

	Stream  []byte // what a held stream appends; nil: nothing, and skipped
	Message []byte // content of a WebSocket message; nil: none, and skipped
	Type    MessageType

	// Key is what the item is the newest word about, for subscriptions that
	// conflate (see Subscription); nil: it stands for itself, as every item that is
	// added without one. It is copied where it is needed.
	Key []byte
}

// IDs knows what the sequence numbers of one open channel mean to its
// publisher. The gateway calls it with its own locks held, also from inside
// Append: an implementation takes at most a lock of its own that it never
// holds while calling the gateway.
type IDs interface {
	// ID returns the id of item seq, the value of a Grip-Last for a stream
	// that has received all up to and including it. seq 0 stands for the
	// beginning of the log. ok is false when seq is no longer known.
	ID(seq uint64) (id string, ok bool)

	// Seq returns the number of the last item that a response with this
	// prev-id already contains (0: none). ok is false when the id is not of
	// this log, or older than what it knows; the stream then asks its next link.
	Seq(id string) (seq uint64, ok bool)
}

// What an origin in the same process says of an answer that lets somebody read,
// or does not, for the gateway's records and limits. They go no further than the
// gateway.
const (
	SubjectField = "Spillway-Subject" // who it is; not there: nobody says
	TopicsField  = "Spillway-Topics"  // which topics, a value for each
	RefusedField = "Spillway-Refused" // why nothing is read, or why a stream ends; not there: something is
)

// FullField is what the gateway says of a WebSocket to the origin in the same
// process, with a message of its client, when there may be no more subscriptions:
// the names of those that there are, a value for each.
const FullField = "Spillway-Full"

type linkKey struct{}

// WithLink marks a request that a gateway makes for itself, to follow a next
// link. An origin in the same process trusts the mark; it cannot be forged
// from outside, since it travels in the context and not on the wire.
func WithLink(ctx context.Context) context.Context {
	return context.WithValue(ctx, linkKey{}, true)
}

// FromLink reports whether the request follows a next link (see WithLink).
func FromLink(ctx context.Context) bool {
	return ctx.Value(linkKey{}) != nil
}
