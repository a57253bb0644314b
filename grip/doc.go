// Package grip speaks GRIP, the protocol between a web service and the proxy
// in front of it that holds its clients' connections open.
//
// A GRIP proxy forwards a client's request to an origin. The origin answers
// with instructions (hold this open, subscribe it to these channels), and
// from then on items published to a channel become bytes for its subscribers.
// Pushpin and Fastly Fanout are such proxies.
//
// The package is for both sides of the wire:
//
//   - A proxy reads an origin's answer with [ParseInstruct], what publishers
//     post to it with [ParseItems], and signs its requests with [Key.Sign].
//   - An origin says what it already sent with [AppendLast] and [ParseLast],
//     checks who asks with [Key.Verify], and publishes with [HTTPPublisher]
//     to the proxies of a GRIP_URL ([ParseURLs]).
//   - For WebSockets that travel as HTTP requests both use [ParseEvents],
//     [AppendEvent], [ParseControl] and [AppendControl].
//   - Where both live in one process they meet in [Publisher] and [Gateway].
//
// It opens no connection except in [HTTPPublisher], starts no goroutine that
// outlives a call, and keeps no state of its own: holding, routing and
// delivering are the business of a gateway.
//
// Begin with [Item], which is what travels, then [Instruct], which says where
// it goes.
package grip
