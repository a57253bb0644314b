package pushpintest

import "strings"

// posted has a publisher post this body, and shows the answer.
func posted(body string, header ...string) []step {
	return []step{control("POST /publish/ HTTP/1.1\n" + headerLines(header) + "\n" + body)}
}

func refusedItem(fields string) []step { return posted(`{"items":[{` + fields + `}]}`) }

const anItem = `{"items":[{"channel":"fruit","formats":{"http-stream":{"content":"apple\n"}}}]}`

// Section 5: publishing.
var publishing = []scenario{
	{name: "5.1/published", steps: posted(anItem)},
	{name: "5.1/without-slash", steps: []step{control("POST /publish HTTP/1.1\n\n" + anItem)}},
	{name: "5.1/recover", alone: true, steps: []step{control("POST /recover/ HTTP/1.1\nContent-Length: 0\n")}},
	{name: "5.1/recover-without-slash", alone: true, steps: []step{control("POST /recover HTTP/1.1\nContent-Length: 0\n")}},
	{name: "5.1/recover-json", alone: true, steps: []step{control("POST /recover/ HTTP/1.1\nAccept: application/json\nContent-Length: 0\n")}},
	{name: "5.1/root", steps: []step{control("GET / HTTP/1.1\n")}},
	{name: "5.1/root-json", steps: []step{control("GET / HTTP/1.1\nAccept: application/json\n")}},
	{name: "5.1/root-post", steps: []step{control("POST / HTTP/1.1\nContent-Length: 0\n")}},
	{name: "5.1/get-publish", steps: []step{control("GET /publish/ HTTP/1.1\n")}},
	{name: "5.1/put-publish", steps: []step{control("PUT /publish/ HTTP/1.1\n\n" + anItem)}},
	{name: "5.1/get-recover", steps: []step{control("GET /recover/ HTTP/1.1\n")}},
	{name: "5.1/other-path", steps: []step{control("POST /other/ HTTP/1.1\n\n" + anItem)}},
	{name: "5.1/query", steps: []step{control("POST /publish/?a=b HTTP/1.1\n\n" + anItem)}},
	{name: "5.1/realm", steps: []step{control("POST /realm/x/publish/ HTTP/1.1\nAuthorization: Bearer x\n\n" + anItem)}},
	{name: "5.1/authorization-ignored", steps: posted(anItem, "Authorization: Bearer x")},
	{name: "5.1/type-ignored", steps: posted(anItem, "Content-Type: image/png")},
	{name: "5.1/no-length", steps: []step{control("POST /publish/ HTTP/1.1\n")}},
	{name: "5.1/chunked", steps: []step{control("POST /publish/ HTTP/1.1\nTransfer-Encoding: chunked\n\n2\r\n{}\r\n0\r\n\r\n")}},
	{name: "5.1/expect", steps: posted(anItem, "Expect: 100-continue")},
	{name: "5.1/largest", steps: posted(`{"items":[{"channel":"fruit","formats":{"http-stream":{"content":"` + strings.Repeat("x", 999_926) + `"}}}]}`)},
	{name: "5.1/too-large", steps: []step{control("POST /publish/ HTTP/1.1\nContent-Length: 1000001\n\n")}},
	{name: "5.1/http-1.0", steps: []step{control("POST /publish/ HTTP/1.0\nHost: localhost\n\n" + anItem)}},

	{name: "5.1/accept-json", steps: posted(anItem, "Accept: application/json")},
	{name: "5.1/accept-any-application", steps: posted(anItem, "Accept: application/*")},
	{name: "5.1/accept-text", steps: posted(anItem, "Accept: text/plain")},
	{name: "5.1/accept-any", steps: posted(anItem, "Accept: */*")},
	{name: "5.1/accept-last-wins", steps: posted(anItem, "Accept: application/json, text/plain")},
	{name: "5.1/accept-quality-ignored", steps: posted(anItem, "Accept: text/plain;q=1.0, application/json;q=0.1")},
	{name: "5.1/accept-unknown-and-json", steps: posted(anItem, "Accept: application/json, image/png")},
	{name: "5.1/accept-nothing-known", steps: posted(anItem, "Accept: image/png")},
	{name: "5.1/error-is-text", steps: posted(`{}`, "Accept: application/json")},

	{name: "5.1/not-json", steps: posted(`hello`)},
	{name: "5.1/not-an-object", steps: posted(`[]`)},
	{name: "5.1/no-items", steps: posted(`{}`)},
	{name: "5.1/items-wrong-type", steps: posted(`{"items":{}}`)},
	{name: "5.1/items-empty", steps: posted(`{"items":[]}`)},
	{name: "5.1/item-not-an-object", steps: posted(`{"items":["x"]}`)},
	{name: "5.1/no-channel", steps: refusedItem(`"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/channel-wrong-type", steps: refusedItem(`"channel":1,"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/channel-empty", steps: refusedItem(`"channel":"","formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/id-wrong-type", steps: refusedItem(`"channel":"fruit","id":{},"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/id-number", steps: refusedItem(`"channel":"fruit","id":1,"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/prev-id-wrong-type", steps: refusedItem(`"channel":"fruit","prev-id":[],"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/no-formats", steps: refusedItem(`"channel":"fruit"`)},
	{name: "5.1/formats-empty", steps: refusedItem(`"channel":"fruit","formats":{}`)},
	{name: "5.1/formats-wrong-type", steps: refusedItem(`"channel":"fruit","formats":"x"`)},
	{name: "5.1/format-unknown", steps: refusedItem(`"channel":"fruit","formats":{"own":{}}`)},
	{name: "5.1/format-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"http-stream":"x"}`)},
	{name: "5.1/stream-without-content", steps: refusedItem(`"channel":"fruit","formats":{"http-stream":{}}`)},
	{name: "5.1/stream-content-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"http-stream":{"content":1}}`)},
	{name: "5.1/stream-content-bin-bad", steps: refusedItem(`"channel":"fruit","formats":{"http-stream":{"content-bin":"!!"}}`)},
	{name: "5.1/stream-unknown-action", steps: refusedItem(`"channel":"fruit","formats":{"http-stream":{"action":"own"}}`)},
	{name: "5.1/response-without-body", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{}}`)},
	{name: "5.1/response-code-too-large", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"code":1000,"body":""}}`)},
	{name: "5.1/response-code-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"code":[],"body":""}}`)},
	{name: "5.1/response-code-as-text", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"code":"200","body":""}}`)},
	{name: "5.1/response-headers-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"headers":"x","body":""}}`)},
	{name: "5.1/response-header-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"headers":{"X":1},"body":""}}`)},
	{name: "5.1/response-header-pair-wrong", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"headers":[["X"]],"body":""}}`)},
	{name: "5.1/response-unknown-action", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"action":"own"}}`)},
	{name: "5.1/message-without-content", steps: refusedItem(`"channel":"fruit","formats":{"ws-message":{}}`)},
	{name: "5.1/message-unknown-type", steps: refusedItem(`"channel":"fruit","formats":{"ws-message":{"type":"own","content":""}}`)},
	{name: "5.1/message-code-negative", steps: refusedItem(`"channel":"fruit","formats":{"ws-message":{"action":"close","code":-1}}`)},
	{name: "5.1/message-unknown-action", steps: refusedItem(`"channel":"fruit","formats":{"ws-message":{"action":"own"}}`)},
	{name: "5.1/message-content-filters-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"ws-message":{"content":"","content-filters":"x"}}`)},
	{name: "5.1/meta-wrong-type", steps: refusedItem(`"channel":"fruit","meta":"x","formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/meta-value-wrong-type", steps: refusedItem(`"channel":"fruit","meta":{"a":1},"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/no-seq-wrong-type", steps: refusedItem(`"channel":"fruit","no-seq":"x","formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/size-negative", steps: refusedItem(`"channel":"fruit","size":-1,"formats":{"http-stream":{"content":"x"}}`)},
	{name: "5.1/unknown-fields", steps: refusedItem(`"channel":"fruit","own":1,"formats":{"http-stream":{"content":"x","own":2}}`)},
	{name: "5.1/one-bad-refuses-all", steps: []step{streaming(), publish(line("no"), `{"channel":"fruit"}`), until("apple")}},

	{name: "5.2/old-form", steps: []step{streaming(), publish(`{"channel":"fruit","http-stream":{"content":"apple\n"}}`), reads("apple\n")}},
	{name: "5.2/other-channel", steps: []step{streaming(), publish(itemTo("fruits", "http-stream", `"content":"no\n"`), itemTo("frui", "http-stream", `"content":"no\n"`)), until("apple")}},
	{name: "5.2/no-wildcards", steps: []step{streaming(), publish(itemTo("*", "http-stream", `"content":"no\n"`), itemTo("fr*", "http-stream", `"content":"no\n"`)), until("apple")}},
	{name: "5.2/all-formats", steps: []step{streaming(), as("b", polling2()), publish(`{"channel":"fruit","formats":{"http-stream":{"content":"s\n"},"http-response":{"body":"r\n"},"ws-message":{"content":"m"}}}`), reads("s\n"), as("b", ended())}},
	{name: "5.2/unicode", steps: []step{streaming(), publish(item("http-stream", `"content":"\u00e9\ud83d\ude00\n"`)), reads("é😀\n")}},
	{name: "5.2/lone-surrogate", steps: []step{streaming(), publish(item("http-stream", `"content":"a\ud800b\n"`)), reads("b\n")}},
	{name: "5.2/stream-hint-without-link", steps: []step{streaming(), publish(item("http-stream", `"action":"hint"`)), until("apple")}},
	{name: "5.2/body-patch", steps: []step{get("/"), answer(poll + "\n{\"a\":1,\"b\":[1,2]}\n"), listening(1), publish(item("http-response", `"body-patch":[{"op":"replace","path":"/a","value":5},{"op":"add","path":"/b/-","value":3}]`)), ended()}},
	{name: "5.2/body-patch-fails", steps: []step{get("/"), answer(poll + "\n{\"a\":1}"), listening(1), publish(item("http-response", `"body-patch":[{"op":"remove","path":"/x"}]`)), ended()}},
	{name: "5.2/body-patch-of-text", steps: []step{polling(), publish(item("http-response", `"body-patch":[{"op":"add","path":"/x","value":1}]`)), ended()}},
	{name: "5.2/body-patch-wrong-type", steps: refusedItem(`"channel":"fruit","formats":{"http-response":{"body-patch":{}}}`)},
	{name: "5.2/code-zero", steps: []step{polling(), publish(item("http-response", `"code":0,"body":"apple\n"`)), ended()}},
	{name: "5.2/code-204", steps: []step{polling(), publish(item("http-response", `"code":204,"body":""`)), ended()}},
	{name: "5.2/no-seq", steps: []step{streaming(), publish(line("1", `"id":"1"`)), reads("1\n"), publish(line("9", `"id":"9"`, `"prev-id":"8"`, `"no-seq":true`)), reads("9\n")}},
	{name: "5.2/size", steps: []step{streaming(), publish(line("apple", `"size":10`)), reads("apple\n")}},
}

// polling2 is polling where fruit has a subscriber already.
func polling2() step {
	return join(get("/"), answer(poll+"\nnone\n"), listening(2))
}
