package pushpintest

import (
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// token is a Grip-Sig.
func token(key string, claims jwt.MapClaims) string {
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
	if err != nil {
		panic(err) // such a key signs everything
	}
	return s
}

var (
	inAnHour  = jwt.MapClaims{"iss": "front", "exp": time.Now().Add(time.Hour).Unix()}
	anHourAgo = jwt.MapClaims{"iss": "front", "exp": time.Now().Add(-time.Hour).Unix()}
)

const trusting = "upstream_key=upstream"

// plain has the origin answer the request before with ok.
func plain() step { return join(answer("Content-Type: text/plain\n\nok\n"), ended()) }

var forwarding = []scenario{
	{name: "1.1/plain", steps: []step{get("/a/b?c=d&e=%20f"), plain()}},
	{name: "1.1/encoded-path", steps: []step{get("/a%2Fb//c/../%7Ed;e=f"), plain()}},
	{name: "1.1/empty-query", steps: []step{get("/?"), plain()}},
	{name: "1.1/host-with-port", steps: []step{get("/", "Host: fruit.test:7999"), plain()}},
	{name: "1.1/host-upper-case", steps: []step{get("/", "Host: FRUIT.test"), plain()}},
	{name: "1.1/post", steps: []step{send("POST / HTTP/1.1\nContent-Type: text/x\n\nhello"), plain()}},
	{name: "1.1/put-empty", steps: []step{send("PUT / HTTP/1.1\nContent-Length: 0\n"), plain()}},
	{name: "1.1/delete", steps: []step{send("DELETE /x HTTP/1.1\n"), plain()}},
	{name: "1.1/own-method", steps: []step{send("PURR /x HTTP/1.1\n"), plain()}},
	{name: "1.1/options", steps: []step{send("OPTIONS /x HTTP/1.1\n"), plain()}},
	{name: "1.1/head", steps: []step{send("HEAD /x HTTP/1.1\n"), answer("Content-Length: 3\nX-A: 1\n"), ended()}},
	{name: "1.1/chunked-upload", steps: []step{send("POST / HTTP/1.1\nTransfer-Encoding: chunked\n\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), plain()}},
	{name: "1.1/get-with-body", steps: []step{send("GET / HTTP/1.1\n\nhello"), plain()}},
	{name: "1.1/large-upload", steps: []step{send("POST / HTTP/1.1\n\n" + strings.Repeat("x", 300_000)), plain()}},
	{name: "1.1/http-1.0", steps: []step{send("GET / HTTP/1.0\nHost: fruit.test\n"), answer("\n\nok\n"), ended(), closed()}},
	{name: "1.1/http-1.0-keep-alive", steps: []step{send("GET / HTTP/1.0\nHost: fruit.test\nConnection: keep-alive\n"), answer("\n\nok\n"), ended(), quiet()}},
	{name: "1.1/connection-close", steps: []step{get("/", "Connection: close"), answer("\n\nok\n"), ended(), closed()}},
	{name: "1.1/two-requests", steps: []step{get("/1"), plain(), get("/2"), plain()}},
	{name: "1.1/pipelined", steps: []step{get("/1"), get("/2"), plain(), plain()}},
	{name: "1.1/no-route", steps: []step{get("/", "Host: nowhere.test"), ended()}},
	{name: "1.1/second-target", route: "fruit.test $dead $origin", steps: []step{get("/"), plain()}},
	{name: "1.1/no-target", route: "fruit.test $dead", steps: []step{get("/"), ended()}},
	{name: "1.1/second-target-post", route: "fruit.test $dead $origin", steps: []step{send("POST / HTTP/1.1\n\nhello"), plain()}},

	{name: "1.2/connection-fields", steps: []step{get("/", "Connection: keep-alive", "Keep-Alive: timeout=5", "X-Own: 1"), plain()}},
	{name: "1.2/named-by-connection", steps: []step{get("/", "Connection: keep-alive, X-Hop", "X-Hop: 1"), plain()}},
	{name: "1.2/accept-encoding", steps: []step{get("/", "Accept-Encoding: zstd, x-own"), plain()}},
	{name: "1.2/content-encoding", steps: []step{send("POST / HTTP/1.1\nContent-Encoding: gzip\n\nhello"), plain()}},
	{name: "1.2/expect", steps: []step{send("POST / HTTP/1.1\nExpect: 100-continue\n\nhello"), plain()}},
	{name: "1.2/grip-fields", steps: []step{get("/", "Grip-Last: fruit; last-id=1", "grip-own: 1", "GRIP-SIG: x", "Grip-Feature: y", "Gripe: stays"), plain()}},
	{name: "1.2/pass", steps: []step{get("/", "TE: trailers", "Via: 1.1 x", "Forwarded: for=1.2.3.4", "X-Forwarded-For: 1.2.3.4", "Range: bytes=0-1"), plain()}},
	{name: "1.2/pass-conditions", steps: []step{get("/", "If-None-Match: \"x\"", "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT", "Cookie: a=b", "Authorization: Basic eA==", "Referer: http://x/"), plain()}},
	{name: "1.2/meta-and-connection-id", steps: []step{get("/", "Meta-User: x", "Connection-Id: mine"), plain()}},
	{name: "1.2/repeated", steps: []step{get("/", "X-A: 1", "X-B: 2", "X-A: 3", "Accept: text/a", "Accept: text/b"), plain()}},
	{name: "1.2/empty-value", steps: []step{get("/", "X-A:"), plain()}},
	{name: "1.2/x-forwarded-proto", steps: []step{get("/", "X-Forwarded-Proto: https", "X-Forwarded-Protocol: https"), plain()}},
	{name: "1.2/orig-prefix", steps: []step{get("/", "Eb9bf0f5-X-A: forged", "X-A: 1"), plain()}},
	{name: "1.2/orig-headers", route: "fruit.test,orig_headers $origin", steps: []step{get("/", "Eb9bf0f5-X-A: forged", "X-A: 1", "Cookie: a=b"), plain()}},
	{name: "1.2/pushpin-route", steps: []step{get("/", "Pushpin-Route: x"), plain()}},
	{name: "1.2/user-agent", steps: []step{get("/", "User-Agent: curl/8"), plain()}},
	{name: "1.2/upgrade-to-another", steps: []step{get("/", "Connection: Upgrade", "Upgrade: h2c"), plain()}},

	{name: "1.3/grip-feature", steps: []step{withFeatures(), get("/"), plain()}},
	{name: "1.3/forged-signature", steps: []step{get("/", "Grip-Sig: "+token("changeme", inAnHour)), plain()}},
	{name: "1.3/sig-key-of-route", route: "fruit.test,sig_key=other $origin", steps: []step{get("/"), plain()}},
	{name: "1.3/sig-key-base64", route: "fruit.test,sig_key=base64:AQID $origin", steps: []step{get("/"), plain()}},
	{name: "1.3/sig-iss-of-route", route: "fruit.test,sig_iss=me $origin", steps: []step{get("/"), plain()}},
	{name: "1.3/sig-key-and-iss-of-route", route: "fruit.test,sig_iss=me,sig_key=other $origin", steps: []step{get("/"), plain()}},
	{name: "1.3/sig-key-base64-and-iss-of-route", route: "fruit.test,sig_iss=me,sig_key=base64:AQID $origin", steps: []step{get("/"), plain()}},
	{name: "1.3/no-key", conf: "sig_key=", steps: []step{get("/"), plain()}},
	{name: "1.3/sig-iss", conf: "sig_iss=someone", steps: []step{get("/"), plain()}},
	{name: "1.3/no-grip", route: "fruit.test,no_grip $origin", steps: []step{get("/", "Grip-Sig: x", "Grip-Last: x; last-id=1"), answer("Grip-Hold: stream\nGrip-Channel: fruit\n\nok\n"), ended()}},
	{name: "1.3/x-forwarded-for-append", conf: "x_forwarded_for=append", steps: []step{get("/", "X-Forwarded-For: 1.2.3.4, 5.6.7.8"), plain()}},
	{name: "1.3/x-forwarded-for-none", conf: "x_forwarded_for=append", steps: []step{get("/"), plain()}},
	{name: "1.3/x-forwarded-for-truncate", conf: "x_forwarded_for=truncate:1,append", steps: []step{get("/", "X-Forwarded-For: 1.2.3.4, 5.6.7.8"), plain()}},
	{name: "1.3/x-forwarded-for-truncate-0", conf: "x_forwarded_for=truncate:0", steps: []step{get("/", "X-Forwarded-For: 1.2.3.4, 5.6.7.8"), plain()}},
	{name: "1.3/x-forwarded-proto-trusted", conf: "accept_x_forwarded_protocol=true", steps: []step{get("/", "X-Forwarded-Proto: https"), plain()}},
	{name: "1.3/x-forwarded-protocol", conf: "accept_x_forwarded_protocol=true\nset_x_forwarded_protocol=true", steps: []step{get("/", "X-Forwarded-Protocol: https"), plain()}},
	{name: "1.3/x-forwarded-proto-off", conf: "set_x_forwarded_protocol=false", steps: []step{get("/", "X-Forwarded-Proto: https"), plain()}},

	{name: "1.3/tls", tls: true, steps: []step{get("/", "X-Forwarded-Proto: http"), plain()}},
	{name: "1.3/tls-websocket", tls: true, steps: []step{proxied(), originSays("hello"), reads("hello")}},
	{name: "1.3/tls-over-http", tls: true, route: overHTTP, steps: []step{connected()}},
	{name: "1.3/tls-both", tls: true, conf: "set_x_forwarded_protocol=true", steps: []step{get("/"), plain()}},
	{name: "1.3/tls-off", tls: true, conf: "set_x_forwarded_protocol=false", steps: []step{get("/"), plain()}},
	{name: "1.3/tls-stream", tls: true, steps: []step{streaming(), until("apple"), publish(item("http-stream", closeStream)), ended()}},
	{name: "1.3/tls-long-poll", tls: true, steps: []step{polling(), publish(result("apple")), ended(), get("/2"), plain()}},
	{name: "1.3/tls-next-link", tls: true, steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("\n\n2\n"), ended()}},

	{name: "1.4/raw", conf: trusting, steps: []step{get("/", "Grip-Sig: "+token("upstream", inAnHour), "Grip-Feature: status", "Grip-Last: x; last-id=1"),
		answer("Grip-Hold: stream\nGrip-Channel: fruit\n\nok\n"), ended()}},
	{name: "1.4/raw-document", conf: trusting, steps: []step{get("/", "Grip-Sig: "+token("upstream", inAnHour)),
		answer("Content-Type: application/grip-instruct\n\n{\"hold\":{\"channels\":[{\"name\":\"fruit\"}]}}"), ended()}},
	{name: "1.4/wrong-key", conf: trusting, steps: []step{get("/", "Grip-Sig: "+token("other", inAnHour), "Grip-Last: x; last-id=1"), plain()}},
	{name: "1.4/expired", conf: trusting, steps: []step{get("/", "Grip-Sig: "+token("upstream", anHourAgo)), plain()}},
	{name: "1.4/no-exp", conf: trusting, steps: []step{get("/", "Grip-Sig: "+token("upstream", jwt.MapClaims{"iss": "front"})), plain()}},
	{name: "1.4/not-a-token", conf: trusting, steps: []step{get("/", "Grip-Sig: x.y.z"), plain()}},
	{name: "1.4/x-forwarded-for", conf: trusting + "\nx_forwarded_for=truncate:0\nx_forwarded_for_trusted=append",
		steps: []step{get("/", "Grip-Sig: "+token("upstream", inAnHour), "X-Forwarded-For: 1.2.3.4"), plain()}},

	{name: "1.5/passed-on", steps: []step{get("/"), answer("HTTP/1.1 418 I am a teapot\nX-A: 1\nx-b: 2\nX-A: 3\nSet-Cookie: a=b\nSet-Cookie: c=d\nDate: Mon, 01 Jan 2024 00:00:00 GMT\nServer: x\n\nshort"), ended()}},
	{name: "1.5/own-reason", steps: []step{get("/"), answer("HTTP/1.1 200 Fine\n\nok"), ended()}},
	{name: "1.5/unknown-status", steps: []step{get("/"), answer("HTTP/1.1 599 Own\n\nok"), ended()}},
	{name: "1.5/no-content", steps: []step{get("/"), answer("HTTP/1.1 204 No Content\nX-A: 1\n"), ended()}},
	{name: "1.5/not-modified", steps: []step{get("/"), answer("HTTP/1.1 304 Not Modified\nETag: \"x\"\n"), ended()}},
	{name: "1.5/chunked", steps: []step{get("/"), answer("Transfer-Encoding: chunked\n\n3\r\nabc\r\n"), reads("abc"), more("2\r\nde\r\n0\r\n\r\n"), ended()}},
	{name: "1.5/chunked-to-1.0", steps: []step{send("GET / HTTP/1.0\nHost: fruit.test\n"), answer("Transfer-Encoding: chunked\n\n3\r\nabc\r\n0\r\n\r\n"), ended(), closed()}},
	{name: "1.5/until-close", steps: []step{get("/"), answer("Connection: close\n\nabc"), cut(), ended()}},
	{name: "1.5/connection-fields", steps: []step{get("/"), answer("Content-Length: 2\nConnection: X-Hop\nKeep-Alive: timeout=3\nX-Hop: 1\nX-A: 1\n\nok"), ended()}},
	{name: "1.5/type-left-out", steps: []step{get("/"), answer("\n\n<html>ok</html>"), ended()}},
	{name: "1.5/location", steps: []step{get("/"), answer("HTTP/1.1 302 Found\nLocation: /elsewhere\n"), ended()}},
	{name: "1.5/continue-from-origin", steps: []step{get("/"), answer("HTTP/1.1 103 Early Hints\nLink: </x>\nContent-Length: 0\n\n"), more("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), ended()}},
	{name: "1.5/slow-body", steps: []step{get("/"), answer("Content-Length: 10\n\n12345"), reads("12345"), more("67890"), ended()}},
	{name: "1.5/large-body", steps: []step{get("/"), answer("\n\n" + strings.Repeat("0123456789", 50_000)), ended()}},
	{name: "1.5/unknown-grip-field", steps: []step{get("/"), answer("X-A: 1\nGrip-Own: x\n\nok\n"), ended()}},
	{name: "1.5/grip-field-any-case", steps: []step{get("/"), answer("gRIP-hold: stream\nGRIP-CHANNEL: fruit\n\nhello\n"), reads("hello\n"), listening(1)}},
	{name: "1.5/large-request", steps: []step{send("POST / HTTP/1.1\n\n" + strings.Repeat("x", 100_001)), answer(stream + "\nhello\n"), ended()}},
	{name: "1.5/largest-request", steps: []step{send("POST / HTTP/1.1\n\n" + strings.Repeat("x", 100_000)), answer(poll + "\nnone\n"), listening(1), publish(result("apple")), ended()}},
	{name: "1.5/large-poll-body", steps: []step{get("/"), answer(poll + "\n" + strings.Repeat("x", 100_001)), ended()}},
	{name: "1.5/large-stream-body", steps: []step{get("/"), answer(stream + "\n" + strings.Repeat("x", 200_000)), listening(1), until("apple")}},
	{name: "1.5/large-plain-body", steps: []step{get("/"), answer("Grip-Status: 201\n\n" + strings.Repeat("x", 100_001)), ended()}},
	{name: "1.5/large-document", steps: []step{get("/"), answer("Content-Type: application/grip-instruct\n\n{\"response\":{\"body\":\"" + strings.Repeat("x", 100_001) + "\"}}"), ended()}},

	{name: "1.6/websocket-events", route: "fruit.test $origin,over_http", steps: []step{send("POST / HTTP/1.1\nContent-Type: application/websocket-events\n\n" + opened), ended()}},
	{name: "1.6/websocket-events-accepted", route: "fruit.test $origin,over_http", steps: []step{send("POST / HTTP/1.1\nAccept: application/websocket-events\n\nx"), quiet()}},
	{name: "1.6/websocket-events-elsewhere", steps: []step{send("POST / HTTP/1.1\nContent-Type: application/websocket-events\n\n" + opened), plain()}},
	{name: "1.6/cut-before-head", steps: []step{get("/"), refuses(), ended()}},
	{name: "1.6/cut-before-head-second-target", route: "fruit.test $origin $dead", steps: []step{get("/"), refuses(), ended()}},
	{name: "1.6/cut-in-body", steps: []step{get("/"), answer("Content-Length: 10\n\n12345"), reads("12345"), cut(), quiet()}},
	{name: "1.6/cut-in-chunks", steps: []step{get("/"), answer("Transfer-Encoding: chunked\n\n3\r\nabc\r\n"), reads("abc"), cut(), quiet()}},
	{name: "1.6/not-http", steps: []step{get("/"), answer("HTTP/1.1 hello\n\n"), ended()}},
	{name: "1.6/debug-hold", route: "fruit.test,debug $origin", steps: []step{get("/"), answer("Grip-Hold: Stream\nGrip-Channel: fruit\n\nhello\n"), ended()}},
	{name: "1.6/debug-no-target", route: "fruit.test,debug $dead", steps: []step{get("/"), ended()}},
	{name: "1.6/client-leaves", steps: []step{get("/"), asked(), hangUp(), originLeft()}},
	{name: "1.6/long-head", steps: []step{get("/", "X-A: "+strings.Repeat("x", 7_000)), plain()}},
}
