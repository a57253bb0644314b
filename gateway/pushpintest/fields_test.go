package pushpintest

import (
	"fmt"
	"strings"
	"time"
)

// answered is a request that is answered so, and the response to its end.
func answered(text string) []step { return []step{get("/"), answer(text), ended()} }

// Section 2: the Grip- fields of answers.
var fields = []scenario{
	{name: "2/hold-upper-case", steps: answered("Grip-Hold: Stream\nGrip-Channel: fruit\n\nhello\n")},
	{name: "2/hold-unknown", steps: answered("Grip-Hold: forever\nGrip-Channel: fruit\n\nhello\n")},
	{name: "2/hold-empty", steps: answered("Grip-Hold:\nGrip-Channel: fruit\n\nhello\n")},
	{name: "2/timeout-not-a-number", steps: answered(poll + "Grip-Timeout: soon\n\nnone\n")},
	{name: "2/timeout-negative", steps: answered(poll + "Grip-Timeout: -1\n\nnone\n")},
	{name: "2/timeout-fraction", steps: answered(poll + "Grip-Timeout: 5.5\n\nnone\n")},
	{name: "2/timeout-least", steps: []step{get("/"), answer(poll + "Grip-Timeout: 0\n\nnone\n"), answers(1, poll+"Grip-Timeout: 0\n\nnone again\n"), ended()}},
	{name: "2/timeout", steps: []step{get("/"), answer(poll + "Grip-Timeout: 6\n\nnone\n"), answers(1, poll+"Grip-Timeout: 6\n\nnone again\n"), ended()}},
	{name: "2/timeout-of-stream-is-nothing", steps: []step{streaming("Grip-Timeout: 9"), until("apple")}},
	{name: "2/timeout-of-stream-bad", steps: answered(stream + "Grip-Timeout: x\n\nhello\n")},
	{name: "2/status", steps: answered("Grip-Status: 404\n\nhello\n")},
	{name: "2/status-reason", steps: answered("Grip-Status: 404 Gone fishing\n\nhello\n")},
	{name: "2/status-own", steps: answered("Grip-Status: 299 Own\n\nhello\n")},
	{name: "2/status-unknown", steps: answered("Grip-Status: 299\n\nhello\n")},
	{name: "2/status-too-large", steps: answered("Grip-Status: 1000\n\nhello\n")},
	{name: "2/status-negative", steps: answered("Grip-Status: -1\n\nhello\n")},
	{name: "2/status-text", steps: answered("Grip-Status: ok\n\nhello\n")},
	{name: "2/status-zero-padded", steps: answered("Grip-Status: 0404\n\nhello\n")},
	{name: "2/status-of-stream", steps: []step{streaming("Grip-Status: 404"), until("apple")}},
	{name: "2/status-of-origin-kept", steps: answered("HTTP/1.1 418 Teapot\nGrip-Foo: 1\n\nhello\n")},
	{name: "2/expose", steps: answered("Content-Type: text/plain\nX-A: 1\nX-B: 2\nGrip-Expose-Headers: x-a\n\nhello\n")},
	{name: "2/expose-list", steps: answered("X-A: 1\nX-B: 2\nX-C: 3\nGrip-Expose-Headers: X-A, X-B\nGrip-Expose-Headers: x-c\n\nhello\n")},
	{name: "2/expose-nothing", steps: answered("Content-Type: text/plain\nX-A: 1\nGrip-Expose-Headers:\n\nhello\n")},
	{name: "2/expose-of-stream", steps: []step{streaming("X-A: 1", "X-B: 2", "Grip-Expose-Headers: X-A"), until("apple")}},
	{name: "2/unknown-field", steps: []step{streaming("Grip-Set-Hold: x", "Grip-Foo: bar"), until("apple")}},
	{name: "2/link-not-in-brackets", steps: answered("Grip-Link: /next; rel=next\n\nhello\n")},
	{name: "2/link-unknown-rel", steps: answered("Grip-Link: </next>; rel=own\n\nhello\n")},
	{name: "2/link-timeout-bad", steps: answered("Grip-Link: </next>; rel=next; timeout=x\n\nhello\n")},
	{name: "2/link-timeout-negative", steps: answered("Grip-Link: </next>; rel=next; timeout=-1\n\nhello\n")},
	{name: "2/link-empty", steps: answered("Grip-Link: <>; rel=next\n\nhello\n")},
	{name: "2/meta-bad", steps: []step{get("/"), answer(stream + "Grip-Set-Meta: user\n\nhello\n"), quiet()}},

	{name: "2.1/several", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit-a, fruit-b\nGrip-Channel: fruit-c\n\nhello\n"), reads("hello\n"),
		listeningTo("fruit-a", 1), listeningTo("fruit-b", 1), listeningTo("fruit-c", 1),
		publish(itemTo("fruit-a", "http-stream", `"content":"1\n"`)), reads("1\n"), publish(itemTo("fruit-b", "http-stream", `"content":"2\n"`)), reads("2\n"),
		publish(itemTo("fruit-c", "http-stream", `"content":"3\n"`)), reads("3\n")}},
	{name: "2.1/quoted-name", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: \"fruit\"\n\nhello\n"), reads("hello\n"), listeningTo(`"fruit"`, 1),
		publish(line("without"), `{"channel":"\"fruit\"","formats":{"http-stream":{"content":"with\n"}}}`), reads("with\n")}},
	{name: "2.1/strange-name", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit/a b?c=d*[e]\n\nhello\n"), reads("hello\n"), listeningTo("fruit/a b?c=d*[e]", 1),
		publish(itemTo("fruit/a b?c=d*[e]", "http-stream", `"content":"apple\n"`)), reads("apple\n")}},
	{name: "2.1/utf-8-name", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit-é\n\nhello\n"), reads("hello\n"), quiet(),
		publish(itemTo("fruit-é", "http-stream", `"content":"apple\n"`)), quiet()}},
	{name: "2.1/case", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit-a\n\nhello\n"), reads("hello\n"), listeningTo("fruit-a", 1),
		publish(itemTo("fruit-A", "http-stream", `"content":"no\n"`), itemTo("fruit-a", "http-stream", `"content":"yes\n"`)), reads("yes\n")}},
	{name: "2.1/semicolon", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit;a=b\n\nhello\n"), reads("hello\n"), listening(1), until("apple")}},
	{name: "2.1/twice", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit, fruit\n\nhello\n"), reads("hello\n"), listening(1), publish(line("apple")), reads("apple\n"), until("pear")}},
	{name: "2.1/most", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: " + channels(22) + "\n\nhello\n"), reads("hello\n"), listeningTo("fruit-19", 1),
		publish(itemTo("fruit-20", "http-stream", `"content":"no\n"`), itemTo("fruit-21", "http-stream", `"content":"no\n"`), itemTo("fruit-19", "http-stream", `"content":"yes\n"`)), reads("yes\n"), quiet()}},
	{name: "2.1/empty-after-others", steps: answered(stream + "Grip-Channel:\n\nhello\n")},
	{name: "2.1/empty-before-others", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel:\nGrip-Channel: fruit\n\nhello\n"), quiet()}},
	{name: "2.1/empty-in-list", steps: []step{streaming("Grip-Channel: fruit-b,,fruit-c"), until("apple")}},
	{name: "2.1/unknown-filter", steps: []step{streaming("Grip-Channel: fruit; filter=own"), until("apple")}},
	{name: "2.1/unknown-parameter", steps: []step{streaming("Grip-Channel: fruit; own=1"), until("apple")}},
	{name: "2.1/prefix", route: "fruit.test,prefix=pre- $origin", steps: []step{get("/"), answer(stream + "\nhello\n"), reads("hello\n"), listeningTo("pre-fruit", 1),
		publish(line("no"), itemTo("pre-fruit", "http-stream", `"content":"yes\n"`)), reads("yes\n")}},
	{name: "2.1/without-hold", steps: []step{get("/"), answer("Grip-Channel: fruit\n\nhello\n"), ended(), publish(line("apple")), quiet()}},
	{name: "2.1/hold-without-channel", steps: []step{get("/"), answer("Grip-Hold: stream\n\nhello\n"), reads("hello\n"), quiet()}},
	{name: "2.1/response-hold-without-channel", steps: []step{get("/"), answer("Grip-Hold: response\n\nhello\n"), quiet()}},

	{name: "2.2/raw", steps: []step{streaming(`Grip-Keep-Alive: a\nb; timeout=1`), reads(`a\nb`), hangUp()}},
	{name: "2.2/cstring", steps: []step{streaming(`Grip-Keep-Alive: :\n\r\\\x41; format=cstring; timeout=1`), reads("A"), hangUp()}},
	{name: "2.2/cstring-unknown-escape", steps: []step{streaming(`Grip-Keep-Alive: a\qb; format=cstring; timeout=1`), reads("b"), hangUp()}},
	{name: "2.2/cstring-broken-hex", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: a\\x4; format=cstring; timeout=1\n\nhello\n"), quiet()}},
	{name: "2.2/cstring-half-escape", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: a\\; format=cstring; timeout=1\n\nhello\n"), quiet()}},
	{name: "2.2/base64", steps: []step{streaming(`Grip-Keep-Alive: YQpi; format=base64; timeout=1`), reads("a\nb"), hangUp()}},
	{name: "2.2/base64-bad", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: !!!; format=base64; timeout=1\n\nhello\n"), quiet()}},
	{name: "2.2/unknown-format", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: a; format=own\n\nhello\n"), quiet()}},
	{name: "2.2/empty", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive:\n\nhello\n"), quiet()}},
	{name: "2.2/timeout-bad", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: a; timeout=x\n\nhello\n"), quiet()}},
	{name: "2.2/timeout-negative", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: a; timeout=-1\n\nhello\n"), quiet()}},
	{name: "2.2/timeout-zero", steps: []step{streaming(`Grip-Keep-Alive: a; timeout=0`), reads("a"), hangUp()}},
	{name: "2.2/mode-unknown", steps: []step{get("/"), answer(stream + "Grip-Keep-Alive: a; mode=own\n\nhello\n"), quiet()}},
	{name: "2.2/comma", steps: []step{streaming(`Grip-Keep-Alive: a,b; timeout=1`), reads("a,b"), hangUp()}},
	{name: "2.2/quotes", steps: []step{streaming(`Grip-Keep-Alive: "a"; timeout=1`), reads(`"a"`), hangUp()}},
	{name: "2.2/mode-idle", steps: []step{streaming("Grip-Keep-Alive: a; timeout=4; mode=idle"), pass(2500 * time.Millisecond), publish(line("apple")), reads("apple\n"), pass(2500 * time.Millisecond), until("pear")}},
	{name: "2.2/of-long-poll", steps: []step{get("/"), answer(poll + "Grip-Keep-Alive: a; timeout=1\n\nnone\n"), answer(poll + "Grip-Keep-Alive: a; timeout=1\n\nnone\n"), listening(1), pass(1200 * time.Millisecond), publish(result("apple")), ended()}},
}

// channels are fruit-0 to fruit-(n-1).
func channels(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("fruit-%d", i))
	}
	return strings.Join(list, ", ")
}

// document is an answer that is an instruct document.
func document(text string, fields ...string) string {
	return "Content-Type: application/grip-instruct\n" + headerLines(fields) + "\n" + text
}

const onFruit = `"channels":[{"name":"fruit"}]`

// Section 3: instruct documents.
var documents = []scenario{
	{name: "3/long-poll", steps: []step{get("/"), answer(document(`{"hold":{"mode":"response",` + onFruit + `},"response":{"code":204,"reason":"Nothing","headers":{"X-State":"idle"}}}`)), listening(1), publish(result("apple")), ended()}},
	{name: "3/default-mode", steps: []step{get("/"), answer(document(`{"hold":{` + onFruit + `},"response":{"headers":{"X-State":"idle"},"body":"none\n"}}`)), listening(1), publish(result("apple")), ended()}},
	{name: "3/stream", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream",` + onFruit + `},"response":{"body":"hello\n"}}`)), reads("hello\n"), listening(1), until("apple")}},
	{name: "3/no-hold", steps: answered(document(`{"response":{"code":201,"reason":"Made","headers":[["X-A","1"],["X-A","2"]],"body":"ok\n"}}`))},
	{name: "3/code-as-text", steps: answered(document(`{"response":{"code":"404","body":"ok\n"}}`))},
	{name: "3/code-not-a-number", steps: answered(document(`{"response":{"code":"x","body":"ok\n"}}`))},
	{name: "3/code-too-large", steps: answered(document(`{"response":{"code":1000,"body":"ok\n"}}`))},
	{name: "3/body-bin", steps: answered(document(`{"response":{"body":"text","body-bin":"YQpi"}}`))},
	{name: "3/body-bin-bad", steps: answered(document(`{"response":{"body-bin":"!!"}}`))},
	{name: "3/outer-fields", steps: answered(document(`{"response":{"headers":{"X-In":"1"},"body":"ok\n"}}`, "X-Outer: 1"))},
	{name: "3/without-response", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream",` + onFruit + `}}`)), listening(1), until("apple")}},
	{name: "3/empty", steps: answered(document(`{}`))},
	{name: "3/not-json", steps: answered(document(`hello`))},
	{name: "3/not-an-object", steps: answered(document(`[]`))},
	{name: "3/hold-wrong-type", steps: answered(document(`{"hold":"stream"}`))},
	{name: "3/unknown-mode", steps: answered(document(`{"hold":{"mode":"forever",` + onFruit + `}}`))},
	{name: "3/no-channels", steps: answered(document(`{"hold":{"mode":"stream"}}`))},
	{name: "3/channel-without-name", steps: answered(document(`{"hold":{"mode":"stream","channels":[{}]}}`))},
	{name: "3/channels-wrong-type", steps: answered(document(`{"hold":{"mode":"stream","channels":"fruit"}}`))},
	{name: "3/status-not-200", steps: answered("HTTP/1.1 201 Created\n" + document(`{"response":{"body":"ok\n"}}`))},
	{name: "3/charset", steps: answered("Content-Type: application/grip-instruct; charset=utf-8\n\n{\"response\":{\"body\":\"ok\\n\"}}")},
	{name: "3/channels-of-both", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream","channels":[{"name":"fruit-b"}]},"response":{"body":"hello\n"}}`, "Grip-Channel: fruit")), reads("hello\n"), listening(1), listeningTo("fruit-b", 1), until("apple"),
		publish(itemTo("fruit-b", "http-stream", `"content":"pear\n"`)), reads("pear\n")}},
	{name: "3/mode-overrides", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream",`+onFruit+`},"response":{"body":"hello\n"}}`, "Grip-Hold: response")), reads("hello\n"), listening(1), until("apple")}},
	{name: "3/hold-by-field", steps: []step{get("/"), answer(document(`{"response":{"body":"hello\n"}}`, "Grip-Hold: stream", "Grip-Channel: fruit")), reads("hello\n"), listening(1), until("apple")}},
	{name: "3/keep-alive", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream",` + onFruit + `,"keep-alive":{"content":"|","timeout":1}},"response":{"body":"hello\n"}}`)), reads("hello\n|"), hangUp()}},
	{name: "3/keep-alive-bin", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream",` + onFruit + `,"keep-alive":{"content-bin":"YQpi","timeout":1}},"response":{"body":"hello\n"}}`)), reads("hello\na\nb"), hangUp()}},
	{name: "3/timeout-wrong-type", steps: []step{get("/"), answer(document(`{"hold":{"timeout":"x",` + onFruit + `}}`)), quiet()}},
	{name: "3/timeout-as-text", steps: []step{get("/"), answer(document(`{"hold":{"timeout":"30",` + onFruit + `}}`)), listening(1), publish(result("apple")), ended()}},
	{name: "3/meta-wrong-type", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream","meta":"x",` + onFruit + `},"response":{"body":"hello\n"}}`)), quiet()}},
	{name: "3/link-by-field", steps: []step{get("/"), answer(document(`{"response":{"body":"1\n"}}`, "Grip-Link: </next>; rel=next")), reads("1\n"), answer("\n\n2\n"), ended()}},
	{name: "3/exposed", steps: answered(document(`{"response":{"headers":{"X-A":"1","X-B":"2"},"body":"ok\n"}}`, "Grip-Expose-Headers: X-A"))},
	{name: "3/grip-status", steps: answered(document(`{"response":{"code":200,"body":"ok\n"}}`, "Grip-Status: 404"))},
	{name: "3/unknown-members", steps: answered(document(`{"own":1,"response":{"own":2,"body":"ok\n"}}`))},
	{name: "3/content-length-of-response", steps: answered(document(`{"response":{"headers":{"Content-Length":"99"},"body":"ok\n"}}`))},
	{name: "3/grip-field-of-response", steps: answered(document(`{"response":{"headers":{"Grip-Foo":"1","X-A":"1"},"body":"ok\n"}}`))},
	{name: "3/not-utf-8", steps: answered(document("{\"response\":{\"body\":\"\xff\\n\"}}"))},
}
