// Package grip speaks GRIP, the protocol between a web service and the proxy
// in front of it that holds its clients' connections open.
//
// A GRIP proxy forwards a client's request to an origin. The origin answers
// with instructions (hold this open, subscribe it to these channels), and
// from then on items published to a channel become bytes for its subscribers.
// Spillway, Pushpin and Fastly Fanout are such proxies. So an origin has
// streams, long polls and WebSockets without a connection of its own, in
// handlers that return at once:
//
//	proxies, err := grip.ParseURLs("http://localhost:5561?verify-key=changeme")
//	publisher := grip.NewHTTPPublisher(proxies, nil)
//
//	func news(w http.ResponseWriter, r *http.Request) { // GET: listen
//		w.Header().Set("Content-Type", "text/event-stream")
//		hold := grip.Instruct{Hold: grip.HoldStream, Channels: []grip.Subscription{{Channel: "news"}}}
//		if err := hold.SetHeader(w.Header()); err != nil {
//			http.Error(w, err.Error(), http.StatusInternalServerError)
//		}
//	}
//
//	http.Handle("/news", grip.RequireProxy(http.HandlerFunc(news), proxies...))
//	err = publisher.Publish(ctx, grip.Item{ // from anywhere
//		Channel: "news", HTTPStream: &grip.HTTPStream{Content: []byte("data: rain\n\n")},
//	})
//
// The package is for all sides of the wire:
//
//   - An origin checks who asks with [RequireProxy] or [VerifyRequest], asks for
//     holds with [Instruct.SetHeader], goes on where a client was ([LastID]), and
//     speaks with WebSockets that travel as HTTP requests by [ReadWebSocket].
//   - A publisher makes an [Item] and gives it to an [HTTPPublisher], for all
//     proxies of a GRIP_URL ([ParseURLs]).
//   - A proxy reads an origin's answer with [ParseInstruct], what publishers
//     post to it with [ParseItems], events of WebSockets with [ParseEvents] and
//     [ParseControl], and signs its requests with [Key.Sign].
//   - Where an origin and its proxy live in one process they meet in
//     [Publisher] and [Gateway].
//
// It opens no connection except in [HTTPPublisher], starts no goroutine that
// outlives a call but for the connections that one keeps, and has no state of
// its own: holding, routing and delivering are the business of a gateway.
//
// Begin with the examples: a long poll, a stream that misses nothing, a chat
// over WebSockets. Then see [Item], which is what travels, and [Instruct], which
// says where it goes.
package grip
