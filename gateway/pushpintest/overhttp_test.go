package pushpintest

import (
	"strings"
	"time"
)

const (
	overHTTP = "fruit.test $origin,over_http"
	events   = "Content-Type: application/websocket-events\n"
	withGrip = events + "Sec-WebSocket-Extensions: grip\n"
)

// text and said are events of an origin: a message as it is, and one with the
// prefix for the client; command is a control message.
func text(content string) string    { return event("TEXT", content) }
func said(content string) string    { return text("m:" + content) }
func command(content string) string { return text("c:" + content) }

const subscribe = `{"type":"subscribe","channel":"fruit"}`

// connected has the client open a WebSocket over HTTP with GRIP; more are events
// of the first answer. hello is its first message.
func connected(more ...string) step {
	return join(open("/"), answer(withGrip+"\n"+opened+strings.Join(more, "")+said("hello")), reads("hello"))
}

// subscribed is connected, and listens to fruit.
func subscribed(more ...string) step {
	return join(connected(append([]string{command(subscribe)}, more...)...), listening(1))
}

// told has the origin answer the next request with these events.
func told(more ...string) step { return answer(events + "\n" + strings.Join(more, "")) }

// untilMessage publishes a message and waits for it.
func untilMessage(text string) step { return join(publish(message(text)), reads(text)) }

// Section 8: WebSocket over HTTP.
var overhttp = inOverHTTP([]scenario{
	{name: "8.1/text", steps: []step{connected(), says("hi there"), told(said("back")), reads("back")}},
	{name: "8.1/binary", steps: []step{connected(), frame(0x82, "\x00\xff"), told(event("BINARY", "m:\x01\xfe")), reads("\x01\xfe")}},
	{name: "8.1/empty-text", steps: []step{connected(), says(""), told(said("back")), reads("back")}},
	{name: "8.1/empty-binary", steps: []step{connected(), frame(0x82, ""), told(said("back")), reads("back")}},
	{name: "8.1/ping", steps: []step{connected(), frame(0x89, "hi"), told(event("PONG", "hi")), reads("hi")}},
	{name: "8.1/empty-ping", steps: []step{connected(), frame(0x89, ""), told("PONG\r\n"), reads("pong")}},
	{name: "8.1/pong", steps: []step{connected(), frame(0x8a, "hi"), told(), untilSaid("x")}},
	{name: "8.1/ping-from-origin", steps: []step{connected(), says("x"), told(event("PING", "are you there")), reads("are you there")}},
	{name: "8.1/fragments", steps: []step{connected(), frame(0x01, "one "), frame(0x00, "two "), frame(0x80, "three"), told(said("back")), reads("back")}},
	{name: "8.1/hexadecimal", steps: []step{connected(), says(strings.Repeat("x", 31)), told("TEXT 0C\r\nm:0123456789\r\n"), reads("0123456789")}},
	{name: "8.1/unknown-type", steps: []step{connected(), says("x"), told(event("OWN", "a"), said("back")), reads("back")}},
	{name: "8.1/close", steps: []step{connected(), frame(0x88, "\x03\xe8bye"), told(event("CLOSE", "\x03\xe8bye")), reads("close"), closed()}},
	{name: "8.1/close-own-code", steps: []step{connected(), frame(0x88, "\x0f\xa0own"), told(event("CLOSE", "\x0f\xa1other")), reads("close"), closed()}},
	{name: "8.1/close-without-code", steps: []step{connected(), frame(0x88, ""), told("CLOSE\r\n"), reads("close"), closed()}},
	{name: "8.1/disconnect", steps: []step{connected(), hangUp(), told()}},
	{name: "8.1/large-message", steps: []step{connected(), says(large(100_000)), told(said("back")), reads("back")}},

	{name: "8.2/handshake-fields", steps: []step{open("/chat?room=1", "Cookie: a=b", "Origin: http://x.test", "Sec-WebSocket-Protocol: chat, other", "Sec-WebSocket-Extensions: permessage-deflate", "Authorization: x", "X-Own: 1", "Accept: text/x", "User-Agent: me"),
		answer(withGrip + "Sec-WebSocket-Protocol: chat\n\n" + opened), reads("101"), says("x"), told()}},
	{name: "8.2/forged-fields", steps: []step{open("/", "Connection-Id: mine", "Meta-User: me", "Grip-Sig: x", "Grip-Last: y; last-id=1", "Keep-Alive: 1"), answer(withGrip + "\n" + opened), reads("101")}},
	{name: "8.2/one-at-a-time", steps: []step{connected(), says("1"), asked(), says("2"), says("3"), quiet(), told(), told(), says("4"), told()}},
	{name: "8.2/one-event", route: overHTTP + ",one_event", steps: []step{connected(), says("1"), asked(), says("2"), says("3"), quiet(), told(), told(), told()}},
	{name: "8.2/connection-ids", steps: []step{connected(), as("b", connected()), says("1"), told(), as("b", says("2"), told())}},

	{name: "8.3/refused", steps: []step{open("/"), answer("HTTP/1.1 403 Forbidden\nX-A: 1\nContent-Type: text/plain\n\nno\n"), ended()}},
	{name: "8.3/other-type", steps: []step{open("/"), answer("Content-Type: text/plain\n\nhello\n"), ended()}},
	{name: "8.3/type-with-parameter", steps: []step{open("/"), answer("Content-Type: application/websocket-events; x=y\n\n" + opened), quiet()}},
	{name: "8.3/malformed", steps: []step{open("/"), answer(withGrip + "\nhello"), quiet()}},
	{name: "8.3/not-open-first", steps: []step{open("/"), answer(withGrip + "\n" + said("hello")), quiet()}},
	{name: "8.3/no-events", steps: []step{open("/"), answer(withGrip + "\n"), quiet()}},
	{name: "8.3/no-events-but-interval", steps: []step{open("/"), answer(withGrip + "Keep-Alive-Interval: 30\n\n"), quiet()}},
	{name: "8.3/fields", steps: []step{open("/"), answer(withGrip + "X-A: 1\nSet-Cookie: a=b\nSet-Meta-User: me\nGrip-Own: 1\n\n" + opened), quiet()}},
	{name: "8.3/origin-away", route: "fruit.test $dead,over_http", steps: []step{open("/"), ended()}},
	{name: "8.3/second-target", route: "fruit.test $dead,over_http $origin,over_http", steps: []step{connected()}},
	{name: "8.3/later-refused", steps: []step{connected(), says("x"), answer("HTTP/1.1 500 Internal Server Error\n\nno"), closed()}},
	{name: "8.3/later-other-type", steps: []step{connected(), says("x"), answer("Content-Type: text/plain\n\nno"), closed()}},
	{name: "8.3/later-malformed", steps: []step{connected(), says("x"), answer(events + "\nTEXT 9\r\nhi\r\n"), quiet()}},
	{name: "8.3/later-empty", steps: []step{connected(), says("x"), told(), untilSaid("y")}},
	{name: "8.3/later-without-type", steps: []step{connected(), says("x"), answer("\n\n"), quiet()}},
	{name: "8.3/second-open", steps: []step{connected(), says("x"), told(opened, said("y")), quiet()}},
	{name: "8.3/disconnect-from-origin", steps: []step{connected(), says("x"), told(said("y"), "DISCONNECT\r\n"), closed()}},
	{name: "8.3/in-order", steps: []step{connected(), says("x"), told(said("1"), event("BINARY", "m:2"), said("3")), reads("3")}},
	{name: "8.3/too-large", steps: []step{connected(), says("x"), told(said(large(1_000_010))), quiet()}},

	{name: "8.4/control-is-hidden", steps: []step{subscribed(), untilMessage("apple")}},
	{name: "8.4/prefix", steps: []step{open("/"), answer(events + "Sec-WebSocket-Extensions: grip; message-prefix=\"x-\"\n\n" + opened + text("x-yes") + said("no") + text("x-end")), reads("end")}},
	{name: "8.4/empty-prefix", steps: []step{open("/"), answer(events + "Sec-WebSocket-Extensions: grip; message-prefix=\"\"\n\n" + opened + text("yes") + said("end")), reads("end")}},
	{name: "8.4/without-prefix", steps: []step{connected(), says("x"), told(text("dropped"), event("BINARY", "dropped"), said("kept")), reads("kept")}},
	{name: "8.4/binary-control", steps: []step{connected(), says("x"), told(event("BINARY", "c:"+subscribe), said("kept")), reads("kept")}},
	{name: "8.4/client-says-control", steps: []step{connected(), says("c:" + subscribe), told(said("kept")), reads("kept")}},
	{name: "8.4/without-extension", steps: []step{open("/"), answer(events + "\n" + opened + text("c:x") + text("m:y") + text("z")), reads("z")}},
	{name: "8.4/subscribe-twice", steps: []step{subscribed(command(subscribe)), publish(message("apple")), untilMessage("pear")}},
	{name: "8.4/unsubscribe", steps: []step{subscribed(), says("x"), told(command(`{"type":"unsubscribe","channel":"fruit"}`), said("done")), reads("done"), listening(0), publish(message("apple")), untilSaid("y")}},
	{name: "8.4/bad-control", steps: []step{connected(), says("x"), told(command("{"), command("[]"), command(`{"type":"own"}`), command(`{"type":"subscribe"}`), command(`{"type":"subscribe","channel":""}`), said("kept")), reads("kept")}},
	{name: "8.4/most-channels", steps: []step{connected(), says("x"), told(manySubscriptions(22), said("done")), reads("done"), listeningTo("fruit-19", 1), publish(itemTo("fruit-20", "ws-message", `"content":"no"`), itemTo("fruit-19", "ws-message", `"content":"yes"`)), reads("yes"), quiet()}},
	{name: "8.4/sub-of-target", route: overHTTP + ",sub=fruit", steps: []step{connected(), listening(1), untilMessage("apple")}},
	{name: "8.4/sub-of-target-stays", route: overHTTP + ",sub=fruit", steps: []step{connected(command(`{"type":"unsubscribe","channel":"fruit"}`)), listening(1), untilMessage("apple")}},
	{name: "8.4/prefix-of-route", route: "fruit.test,prefix=pre- $origin,over_http", steps: []step{connected(command(subscribe)), listeningTo("pre-fruit", 1), publish(message("no"), itemTo("pre-fruit", "ws-message", `"content":"yes"`)), reads("yes")}},
	{name: "8.4/keep-alive", steps: []step{connected(command(`{"type":"keep-alive","content":"tick","timeout":1}`)), reads("tick"), hangUp(), told()}},
	{name: "8.4/keep-alive-ping", steps: []step{connected(command(`{"type":"keep-alive","content":"tick","message-type":"ping","timeout":1}`)), reads("ping tick"), hangUp(), told()}},
	{name: "8.4/keep-alive-binary", steps: []step{connected(command(`{"type":"keep-alive","content-bin":"dGljaw==","message-type":"binary","timeout":1}`)), reads("binary tick"), hangUp(), told()}},
	{name: "8.4/keep-alive-stopped", steps: []step{connected(command(`{"type":"keep-alive","content":"tick","timeout":1}`), command(`{"type":"keep-alive"}`)), pass(1200 * time.Millisecond)}},
	{name: "8.4/send-delayed", steps: []step{connected(command(`{"type":"send-delayed","content":"later","timeout":1}`)), reads("later")}},
	{name: "8.4/send-delayed-twice", steps: []step{connected(command(`{"type":"send-delayed","content":"first","timeout":60}`), command(`{"type":"send-delayed","content":"second","timeout":60}`)), reads("first"), quiet()}},
	{name: "8.4/flush-delayed", steps: []step{connected(command(`{"type":"send-delayed","content":"later","timeout":60}`), command(`{"type":"flush-delayed"}`)), reads("later")}},

	{name: "8.5/meta", steps: []step{open("/"), answer(withGrip + "Set-Meta-User: me\nSet-Meta-Two: 2\n\n" + opened), reads("101"), says("1"), answer(events + "Set-Meta-User: you\nSet-Meta-Three: 3\n\n" + said("back")), reads("back"), says("2"), told(said("end")), reads("end")}},
	{name: "8.5/meta-removed", steps: []step{open("/"), answer(withGrip + "Set-Meta-User: me\n\n" + opened), reads("101"), says("1"), answer(events + "Set-Meta-User:\n\n"), quiet(), says("2"), quiet()}},

	{name: "8.6/close-not-answered", steps: []step{connected(), frame(0x88, "\x03\xe8"), told(), closed()}},
	{name: "8.6/message-and-close", steps: []step{connected(), says("0"), asked(), says("1"), frame(0x88, "\x03\xe8"), quiet(), told(), told(event("CLOSE", "\x03\xe8")), closed()}},
	{name: "8.6/origin-closes", steps: []step{connected(), says("x"), told(event("CLOSE", "\x0f\xa0own")), reads("own"), frame(0x88, "\x0f\xa0own"), told(), closed()}},
	{name: "8.6/origin-closes-without-code", steps: []step{connected(), says("x"), told("CLOSE\r\n"), reads("close"), frame(0x88, "\x03\xe8"), told(), closed()}},
	{name: "8.6/published-close", steps: []step{subscribed(), publish(item("ws-message", `"action":"close"`)), reads("close"), told("CLOSE\r\n"), quiet()}},
	{name: "8.6/published-close-code", steps: []step{subscribed(), publish(item("ws-message", `"action":"close","code":4000,"reason":"own"`)), reads("close"), told("CLOSE\r\n"), quiet()}},
	{name: "8.6/detach", steps: []step{subscribed(), says("x"), told(command(`{"type":"detach"}`), said("done")), reads("done"), told("CLOSE\r\n"), says("lost"), untilMessage("apple")}},
	{name: "8.6/detach-at-once", steps: []step{subscribed(command(`{"type":"detach"}`)), told("CLOSE\r\n"), says("lost"), untilMessage("apple"), frame(0x88, "\x03\xe8bye"), closed()}},
	{name: "8.6/origin-cut-later", steps: []step{connected(), says("x"), refuses(), told(said("back")), reads("back")}},
	{name: "8.6/too-much-from-client", steps: []step{connected(), says(large(200_010)), quiet()}},

	{name: "8.7/accepted-partly", steps: []step{connected(), says("hello"), answer(events + "Content-Bytes-Accepted: 2\n\n"), quiet(), says("x"), quiet()}},

	{name: "5.2/message-text", steps: []step{subscribed(), publish(item("ws-message", `"content":"a","type":"text"`)), reads("text a")}},
	{name: "5.2/message-binary", steps: []step{subscribed(), publish(item("ws-message", `"content":"a","type":"binary"`)), reads("binary a")}},
	{name: "5.2/message-content-bin", steps: []step{subscribed(), publish(item("ws-message", `"content":"text","content-bin":"AP8="`)), reads("binary \x00\xff")}},
	{name: "5.2/message-content-bin-as-text", steps: []step{subscribed(), publish(item("ws-message", `"content-bin":"YQ==","type":"text"`)), reads("text a")}},
	{name: "5.2/message-ping", steps: []step{subscribed(), publish(item("ws-message", `"content":"hi","type":"ping"`)), reads("ping hi")}},
	{name: "5.2/message-empty-ping", steps: []step{subscribed(), publish(item("ws-message", `"type":"ping"`)), untilMessage("apple")}},
	{name: "5.2/message-pong", steps: []step{subscribed(), publish(item("ws-message", `"content":"hi","type":"pong"`)), reads("pong hi")}},
	{name: "5.2/message-empty", steps: []step{subscribed(), publish(message("")), untilMessage("apple")}},
	{name: "5.2/message-has-no-prefix", steps: []step{subscribed(), untilMessage("c:apple")}},
	{name: "5.2/message-hint", steps: []step{subscribed(), publish(item("ws-message", `"action":"hint"`)), untilMessage("apple")}},
	{name: "5.2/message-refresh", steps: []step{subscribed(), publish(item("ws-message", `"action":"refresh"`)), quiet(), untilMessage("apple")}},
	{name: "5.2/message-large", steps: []step{subscribed(), publish(message(large(150_000))), reads("0123456789")}},
	{name: "5.2/message-other-formats", steps: []step{subscribed(), publish(line("no"), result("no")), untilMessage("apple")}},
})

// inOverHTTP gives scenarios that name no route one over HTTP.
func inOverHTTP(list []scenario) []scenario {
	for i := range list {
		if list[i].route == "" {
			list[i].route = overHTTP
		}
	}
	return list
}

// untilSaid has the client say something, and waits for the origin's answer.
func untilSaid(what string) step {
	return join(says(what), told(said("end")), reads("end"))
}

func manySubscriptions(n int) string {
	var out strings.Builder
	for i := range n {
		out.WriteString(command(`{"type":"subscribe","channel":"fruit-` + string(rune('0'+i/10)) + string(rune('0'+i%10)) + `"}`))
	}
	return out.String()
}
