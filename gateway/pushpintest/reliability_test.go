package pushpintest

import "time"

// id is an item's id, following its prev-id; an empty one is left out.
func id(id, prev string) []string {
	var out []string
	if id != "" {
		out = append(out, `"id":"`+id+`"`)
	}
	if prev != "" {
		out = append(out, `"prev-id":"`+prev+`"`)
	}
	return out
}

const (
	reliable     = "Content-Type: text/plain\nGrip-Hold: stream\nGrip-Channel: fruit; prev-id=3\nGrip-Link: </next>; rel=next\n"
	reliablePoll = "Content-Type: text/plain\nGrip-Hold: response\nGrip-Channel: fruit; prev-id=3\n"
)

// following has the client get a stream of fruit behind id 3, with a link. Of a
// channel without a subscriber before, the proxy may ask the link about a second
// later: what a scenario does is over by then.
func following() step {
	return join(get("/"), answer(reliable+"\nhello\n"), reads("hello\n"), listening(1))
}

// next is a page behind the link, that holds at this id.
func next(id, body string) step {
	return answer("Grip-Hold: stream\nGrip-Channel: fruit; prev-id=" + id + "\nGrip-Link: </next>; rel=next\n\n" + body)
}

// Section 7: ids, order, links.
var reliability = []scenario{
	{name: "7.1/repeated", steps: []step{streaming(), publish(line("1", id("1", "")...)), publish(line("1 again", id("1", "")...)), reads("1\n"), until("end")}},
	{name: "7.1/repeated-before-subscription", steps: []step{publish(line("1", id("1", "")...)), streaming(), publish(line("1 again", id("1", "")...)), until("end")}},
	{name: "7.1/repeated-no-seq", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("1 again", append(id("1", ""), `"no-seq":true`)...)), until("end")}},
	{name: "7.1/repeated-elsewhere", steps: []step{streaming(), publish(itemTo("fruit-b", "http-stream", `"content":"b\n"`, id("1", "")...)), publish(line("1", id("1", "")...)), reads("1\n")}},
	{name: "7.1/no-ids", steps: []step{streaming(), publish(line("same"), line("same")), reads("same\nsame\n")}},
	{name: "7.1/out-of-order", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("3", id("3", "2")...)), quiet(), publish(line("2", id("2", "1")...)), reads("2\n3\n")}},
	{name: "7.1/three-out-of-order", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("4", id("4", "3")...)), publish(line("3", id("3", "2")...)), publish(line("2", id("2", "1")...)), reads("2\n3\n4\n")}},
	{name: "7.1/out-of-order-in-one-request", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("3", id("3", "2")...), line("2", id("2", "1")...)), reads("2\n3\n")}},
	{name: "7.1/missing-one-never-comes", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("3", id("3", "2")...)), reads("3\n")}},
	{name: "7.1/first-has-prev-id", steps: []step{streaming(), publish(line("5", id("5", "4")...)), reads("5\n"), publish(line("6", id("6", "5")...)), reads("6\n")}},
	{name: "7.1/without-id-forgets", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), until("x"), publish(line("9", id("9", "8")...)), reads("9\n")}},
	{name: "7.1/without-prev-id-follows", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("5", id("5", "")...)), reads("5\n"), publish(line("6", id("6", "5")...)), reads("6\n")}},
	{name: "7.1/no-seq-does-not-wait", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("3", append(id("3", "2"), `"no-seq":true`)...)), reads("3\n")}},
	{name: "7.1/one-per-prev-id", steps: []step{streaming(), publish(line("1", id("1", "")...)), reads("1\n"), publish(line("3", id("3", "2")...)), publish(line("3b", id("3b", "2")...)), publish(line("2", id("2", "1")...)), reads("2\n3\n"), quiet()}},
	{name: "7.1/websocket-out-of-order", route: overHTTP, steps: []step{subscribed(), publish(message("m1", id("1", "")...)), reads("m1"), publish(message("m3", id("3", "2")...)), publish(message("m2", id("2", "1")...)), reads("m2"), reads("m3")}},

	{name: "7.2/pages", steps: []step{get("/", "Cookie: a=b", "Authorization: x", "X-Own: 1"), answer("X-A: 1\nContent-Type: text/plain\nGrip-Link: </next?after=1>; rel=next\n\n1\n"), reads("1\n"),
		answer("X-B: 2\nContent-Type: text/html\nGrip-Link: </next?after=2>; rel=next\n\n2\n"), reads("2\n"), answer("\n\n3\n"), ended()}},
	{name: "7.2/reuse", steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("\n\n2\n"), ended(), get("/again"), plain()}},
	{name: "7.2/relative", steps: []step{get("/a/b"), answer("Grip-Link: <c?d=e>; rel=next\n\n1\n"), reads("1\n"), answer("Grip-Link: <f>; rel=next\n\n2\n"), reads("2\n"), answer("\n\n3\n"), ended()}},
	{name: "7.2/absolute", steps: []step{get("/"), answer("Grip-Link: <http://$origin/other>; rel=next\n\n1\n"), reads("1\n"), answer("\n\n2\n"), ended()}},
	{name: "7.2/to-stream", steps: []step{get("/"), answer("Content-Type: text/plain\nGrip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer(stream + "\n2\n"), reads("2\n"), listening(1), until("apple")}},
	{name: "7.2/post", steps: []step{send("POST / HTTP/1.1\n\nbody"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("\n\n2\n"), ended()}},
	{name: "7.2/status-of-page", steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("HTTP/1.1 201 Created\n\n2\n"), ended()}},
	{name: "7.2/page-fails-then-works", steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("HTTP/1.1 500 Internal Server Error\n\nbroken\n"), answer("\n\n2\n"), ended()}},
	{name: "7.2/page-is-long-poll", steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer(poll + "\n2\n"), quiet()}},
	{name: "7.2/empty-page", steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("Grip-Link: </next2>; rel=next\n\n"), answer("\n\n3\n"), ended()}},
	{name: "7.2/head", steps: []step{send("HEAD / HTTP/1.1\n"), answer("Grip-Link: </next>; rel=next\nContent-Length: 0\n"), quiet()}},
	{name: "7.2/status-and-expose-first-only", steps: []step{get("/"), answer("X-A: 1\nX-B: 2\nGrip-Status: 202\nGrip-Expose-Headers: X-A\nGrip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("Grip-Status: 203\n\n2\n"), ended()}},
	{name: "7.2/http-1.0", steps: []step{send("GET / HTTP/1.0\nHost: fruit.test\n"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), answer("\n\n2\n"), ended(), closed()}},
	{name: "7.2/client-leaves", steps: []step{get("/"), answer("Grip-Link: </next>; rel=next\n\n1\n"), reads("1\n"), asked(), hangUp(), answer("Grip-Link: </next>; rel=next\n\n2\n"), quiet()}},

	{name: "7.3/follows", steps: []step{following(), publish(line("4", id("4", "3")...)), reads("4\n"), publish(line("5", id("5", "4")...)), reads("5\n")}},
	{name: "7.3/gap", steps: []step{following(), publish(line("5", id("5", "4")...)), next("5", "4 and 5\n"), reads("4 and 5\n"), listening(1), publish(line("6", id("6", "5")...)), reads("6\n")}},
	{name: "7.3/first-hold-is-behind", steps: []step{as("b", streaming(), publish(line("5", id("5", "4")...)), reads("5\n")), get("/"), answer(reliable + "\nhello\n"), reads("hello\n"), next("5", "4 and 5\n"), reads("4 and 5\n")}},
	{name: "7.3/first-hold-is-up-to-date", steps: []step{as("b", streaming(), publish(line("3", id("3", "")...)), reads("3\n")), get("/"), answer(reliable + "\nhello\n"), reads("hello\n"), listening(2), publish(line("4", id("4", "3")...)), reads("4\n")}},
	{name: "7.3/hint", steps: []step{following(), publish(item("http-stream", `"action":"hint"`)), next("4", "4\n"), reads("4\n"), listening(1), publish(line("5", id("5", "4")...)), reads("5\n")}},
	{name: "7.3/hint-with-id", steps: []step{following(), publish(item("http-stream", `"action":"hint"`, id("8", "")...)), next("9", "9\n"), reads("9\n")}},
	{name: "7.3/hint-with-both-ids", steps: []step{following(), publish(item("http-stream", `"action":"hint"`, id("4", "3")...)), next("4", "4\n"), reads("4\n")}},
	{name: "7.3/page-without-hold-ends", steps: []step{following(), publish(item("http-stream", `"action":"hint"`)), answer("\n\nend\n"), ended()}},
	{name: "7.3/page-with-other-channel", steps: []step{following(), publish(item("http-stream", `"action":"hint"`)), answer("Grip-Hold: stream\nGrip-Channel: fruit-b; prev-id=1\nGrip-Link: </next>; rel=next\n\nmoved\n"), reads("moved\n"), listeningTo("fruit-b", 1), listening(0),
		publish(line("no")), publish(itemTo("fruit-b", "http-stream", `"content":"yes\n"`, id("2", "1")...)), reads("yes\n")}},
	{name: "7.3/page-with-other-keep-alive", steps: []step{as("b", streaming(), pass(1300*time.Millisecond)), get("/"), answer(reliable + "\nhello\n"), reads("hello\n"), listening(2), publish(item("http-stream", `"action":"hint"`)), answer("Grip-Hold: stream\nGrip-Channel: fruit; prev-id=4\nGrip-Link: </next>; rel=next\nGrip-Keep-Alive: tick; timeout=1\n\nmore\n"), reads("more\n"), reads("tick"), hangUp()}},
	{name: "7.3/link-timeout", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; prev-id=3\nGrip-Link: </next>; rel=next; timeout=2\n\nhello\n"), reads("hello\n"), next("3", ""), pass(100 * time.Millisecond)}},
	{name: "7.3/asked-after-first-subscription", steps: []step{following(), next("3", "asked\n"), reads("asked\n")}},
	{name: "7.3/item-without-prev-id", steps: []step{following(), publish(line("x", id("9", "")...)), next("9", "x\n"), reads("x\n")}},
	{name: "7.3/published-while-asking", steps: []step{following(), publish(item("http-stream", `"action":"hint"`)), asked(), publish(line("5", id("5", "4")...)), quiet(), next("4", "4\n"), reads("4\n"), reads("5\n")}},

	{name: "7.4/follows", steps: []step{get("/"), answer(reliablePoll + "\nnone\n"), listening(1), publish(result("4", id("4", "3")...)), ended()}},
	{name: "7.4/gap", steps: []step{send("POST / HTTP/1.1\nX-A: 1\n\nbody"), answer(reliablePoll + "\nnone\n"), listening(1), publish(result("5", id("5", "4")...)), answer("\n\n4 and 5\n"), ended()}},
	{name: "7.4/without-prev-id", steps: []step{get("/"), answer(reliablePoll + "\nnone\n"), listening(1), publish(result("5", id("5", "")...)), answer("\n\n4 and 5\n"), ended()}},
	{name: "7.4/behind-at-once", steps: []step{as("b", streaming(), publish(line("5", id("5", "4")...)), reads("5\n")), get("/"), answer(reliablePoll + "\nnone\n"), answer("\n\n4 and 5\n"), ended()}},
	{name: "7.4/hint-with-id", steps: []step{get("/"), answer(reliablePoll + "\nnone\n"), listening(1), publish(item("http-response", `"action":"hint"`, id("8", "")...)), answer("\n\nfresh\n"), ended()}},
	{name: "7.4/hint-with-both-ids", steps: []step{get("/"), answer(reliablePoll + "\nnone\n"), listening(1), publish(item("http-response", `"action":"hint"`, id("4", "3")...)), answer("\n\nfresh\n"), ended()}},
	{name: "7.4/gap-is-held-again", steps: []step{get("/"), answer(reliablePoll + "\nnone\n"), listening(1), publish(result("5", id("5", "4")...)), answer("Grip-Hold: response\nGrip-Channel: fruit; prev-id=5\n\nnone\n"), quiet(), publish(result("6", id("6", "5")...)), ended()}},

	{name: "7.5/recover-long-poll", alone: true, steps: []step{polling(), control("POST /recover/ HTTP/1.1\nContent-Length: 0\n"), answer("\n\nfresh\n"), ended()}},
	{name: "7.5/recover-stream", alone: true, steps: []step{following(), control("POST /recover/ HTTP/1.1\nContent-Length: 0\n"), next("4", "4\n"), reads("4\n")}},
	{name: "7.5/recover-plain-stream", alone: true, steps: []step{streaming(), control("POST /recover/ HTTP/1.1\nContent-Length: 0\n"), until("apple")}},
}
