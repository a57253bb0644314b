// Package relay is the Kafka side of Spillway. It reads topics, turns records
// into GRIP items, and answers the requests for them.
//
// It has two faces, and knows nothing of sockets:
//
//   - a publisher: the hub reads the topics that someone listens to, encodes
//     each record once per rendering, and appends it to a channel of a
//     [spillway/grip.Gateway];
//   - an [Origin]: the http.Handler behind /events/<topic>/. It resolves a
//     request to a view, a rendering and a position, and answers with GRIP
//     instructions: history, a channel to hold, a link to what comes next.
//
// Where to begin: hub.process is the way of a live record, Origin.ServeHTTP
// that of a request, Origin.page that of history. The words:
//
//   - view: the topics that a client selected, and everything that decides
//     which records it sees;
//   - rendering: how a record of the view is written down;
//   - channel: a view in one rendering, the unit that the gateway fans out;
//   - position: the next offset to read in every partition of a view, as a
//     cursor.Cursor on the wire;
//   - hub position (H): up to where every record of a topic has been
//     appended to all channels.
//
// Locks, outermost first: hub.mu, then the gateway's own, then index.mu;
// catalog.mu, blocks.mu and offsets.mu are innermost too. A lock is never held
// while Kafka is asked.
package relay
