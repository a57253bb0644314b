package pushpintest

// proxied has the client open a WebSocket that the origin accepts, with header
// lines.
func proxied(header ...string) step { return join(open("/"), upgrade(header...), reads("101")) }

const gripExtension = "Sec-WebSocket-Extensions: grip"

// Section 9: plain WebSockets.
var websockets = []scenario{
	{name: "9/fields", steps: []step{open("/chat?room=1", "Cookie: a=b", "Origin: http://x.test", "Sec-WebSocket-Protocol: chat, other", "X-Own: 1", "Accept: text/x", "Grip-Last: x", "Meta-User: me", "Connection-Id: mine"), upgrade("Sec-WebSocket-Protocol: chat", "X-A: 1", "Grip-Own: 1"), reads("101")}},
	{name: "9/text", steps: []step{proxied(), originSays("hello"), reads("hello"), says("yes"), originReads("yes")}},
	{name: "9/binary", steps: []step{proxied(), originFrame(0x82, "\x00\xff"), reads("\x00\xff"), frame(0x82, "\x01\xfe"), originReads("\x01\xfe")}},
	{name: "9/fragments", steps: []step{proxied(), frame(0x01, "one "), frame(0x80, "two"), originReads("one two"), originFrame(0x01, "three "), originFrame(0x80, "four"), reads("three four")}},
	{name: "9/ping", steps: []step{proxied(), frame(0x89, "hi"), originReads("ping"), originFrame(0x8a, "hi"), reads("pong")}},
	{name: "9/ping-from-origin", steps: []step{proxied(), originFrame(0x89, "hi"), reads("ping"), frame(0x8a, "hi"), originReads("pong")}},
	{name: "9/client-closes", steps: []step{proxied(), frame(0x88, "\x0f\xa0own"), originReads("own"), originFrame(0x88, "\x0f\xa0own"), reads("own"), closed()}},
	{name: "9/origin-closes", steps: []step{proxied(), originFrame(0x88, "\x0f\xa0own"), reads("own"), frame(0x88, "\x0f\xa0own"), originReads("own"), closed(), originClosed()}},
	{name: "9/refused", steps: []step{open("/"), answer("HTTP/1.1 403 Stay out\nX-A: 1\n\nno\n"), ended()}},
	{name: "9/answered-200", steps: []step{open("/"), answer("X-A: 1\n\nhello\n"), ended()}},
	{name: "9/client-vanishes", steps: []step{proxied(), hangUp(), originClosed()}},
	{name: "9/origin-vanishes", steps: []step{proxied(), cut(), closed()}},
	{name: "9/origin-away", route: "fruit.test $dead", steps: []step{open("/"), ended()}},
	{name: "9/second-target", route: "fruit.test $dead $origin", steps: []step{proxied(), originSays("hello"), reads("hello")}},
	{name: "9/grip", steps: []step{proxied(gripExtension), originSays("c:" + subscribe), listening(1), originSays("m:hello"), reads("hello"), untilMessage("apple"), says("m:x"), originReads("m:x")}},
	{name: "9/grip-drops", steps: []step{proxied(gripExtension), originSays("dropped"), originSays("m:kept"), reads("kept")}},
	{name: "9/grip-prefix", steps: []step{proxied(gripExtension + `; message-prefix=""`), originSays("kept"), reads("kept")}},
	{name: "9/without-grip", steps: []step{proxied(), originSays("c:" + subscribe), reads("subscribe"), originSays("m:hello"), reads("m:hello")}},
	{name: "9/detach", steps: []step{proxied(gripExtension), originSays("c:" + subscribe), listening(1), originSays(`c:{"type":"detach"}`), originReads("close"), originFrame(0x88, "\x03\xe8"), quiet(), untilMessage("apple")}},
	{name: "9/published-close", steps: []step{proxied(gripExtension), originSays("c:" + subscribe), listening(1), publish(item("ws-message", `"action":"close","code":4000,"reason":"own"`)), reads("own"), quiet()}},
	{name: "9/sub-of-target", route: "fruit.test $origin,sub=fruit", steps: []step{proxied(gripExtension), listening(1), untilMessage("apple")}},
	{name: "9/trusted", conf: trusting, steps: []step{open("/", "Grip-Sig: "+token("upstream", inAnHour), gripExtension), upgrade(gripExtension), originSays("c:x"), reads("c:x"), originSays("plain"), reads("plain")}},
	{name: "9/no-version", steps: []step{get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: "+sampleKey), quiet()}},
	{name: "9/old-version", steps: []step{get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: "+sampleKey, "Sec-WebSocket-Version: 8"), quiet()}},
	{name: "9/no-grip-route", route: "fruit.test,no_grip $origin", steps: []step{proxied(), originSays("c:x"), reads("c:x")}},
}
