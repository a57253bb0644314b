// Package fanout is the engine that carries items to many connections: it keeps
// the logs of channels, knows what each subscriber has not been given yet, and
// writes it to sockets.
//
// A channel is a bounded, append-only log of items. An item is in the log in
// each form it was published in: bytes of a held HTTP stream, a WebSocket
// message, the answer of a long poll. Bytes go in ready-made and never change
// again; "everything since my cursor" is one contiguous run of them, shared by
// all subscribers. A [Subscriber] is a cursor into up to some channels' logs and
// never a queue: it owns no bytes, and publishing never waits for it. What the
// log has dropped before a subscriber came for it, the subscriber learns as
// [Behind], together with the exact id of the last item that it was given.
//
// There are two kinds of channels. One that is opened ([Engine.Open]) belongs
// to a publisher in this process: it retains items whether or not anyone
// listens, and its publisher knows what the sequence numbers mean. All others
// are foreign: they exist while someone listens, and a while longer; items
// come by [Engine.Publish], carry their own ids, and an id that was seen in the
// last minute is a repetition and dropped.
//
// A connection is given to the engine by [Engine.Take] or [Engine.Adopt], and
// subscribes with [Conn.Hold]. From then on a loop writes to it: a shard, on a
// bare descriptor, or the portable loop, by a goroutine that lives while there
// is something to write. Whoever wants only to hear of items, such as a long poll,
// uses [Engine.Subscribe], asks [Subscriber.Next], and waits for
// [Subscriber.Wake] when there is nothing. Begin at channel.write, loop.sweep and
// Conn.next.
//
// # Locks
//
// Conn.mu, coders.mu or channel.publishing, Engine.mu, channel.mu, order.mu,
// loop.mu, wheel.mu; any may be left out. Grip.IDs is called with a channel's lock
// held. Owners are called without any lock.
package fanout
