package pushpintest

const (
	cors  = "fruit.test,aco $origin"
	basic = "fruit.test,aco,jsonp_mode=basic $origin"
	sock  = "fruit.test,sockjs=/sock,sockjs_as_path=/ws $origin,over_http"
)

// Section 10: CORS, JSON-P, SockJS.
var browsers = []scenario{
	{name: "10.1/plain", route: cors, steps: []step{get("/", "Origin: http://x.test"), answer("X-A: 1\nContent-Type: text/plain\n\nok\n"), ended()}},
	{name: "10.1/without-origin", route: cors, steps: []step{get("/"), plain()}},
	{name: "10.1/preflight", route: cors, steps: []step{send("OPTIONS / HTTP/1.1\nOrigin: http://x.test\nAccess-Control-Request-Method: PATCH\nAccess-Control-Request-Headers: X-A, X-B\n"), plain()}},
	{name: "10.1/already-there", route: cors, steps: []step{get("/", "Origin: http://x.test"), answer("Access-Control-Allow-Origin: http://mine\nAccess-Control-Allow-Credentials: false\nAccess-Control-Max-Age: 1\n\nok\n"), ended()}},
	{name: "10.1/expose", route: cors, steps: []step{get("/"), answer("X-A: 1\nCache-Control: no-store\nETag: \"x\"\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\n\nok\n"), ended()}},
	{name: "10.1/stream", route: cors, steps: []step{get("/", "Origin: http://x.test"), answer(stream + "X-A: 1\n\nhello\n"), reads("hello\n"), listening(1), until("apple")}},
	{name: "10.1/long-poll", route: cors, steps: []step{get("/", "Origin: http://x.test"), answer(poll + "X-A: 1\n\nnone\n"), listening(1), publish(item("http-response", `"headers":{"X-B":"2"},"body":"apple\n"`)), ended()}},
	{name: "10.1/error", route: "fruit.test,aco $dead", steps: []step{get("/", "Origin: http://x.test"), ended()}},
	{name: "10.1/off", steps: []step{send("OPTIONS / HTTP/1.1\nOrigin: http://x.test\nAccess-Control-Request-Method: PATCH\n"), plain()}},
	{name: "10.1/global", conf: "auto_cross_origin=true", steps: []step{get("/", "Origin: http://x.test"), plain()}},

	{name: "10.2/extended", route: cors, steps: []step{get("/x?callback=cb&a=b"), answer("X-A: 1\nContent-Type: text/plain\nCache-Control: no-store\n\nsay \"hi\"\n"), ended()}},
	{name: "10.2/basic", route: basic, steps: []step{get("/x?callback=cb"), answer("X-A: 1\nCache-Control: no-store\n\n{\"a\": 1}\n"), ended()}},
	{name: "10.2/method-fields-body", route: cors, steps: []step{get("/x?callback=cb&_method=PUT&_headers=%7B%22X-A%22%3A%221%22%2C%22Host%22%3A%22x%22%7D&_body=hello"), plain()}},
	{name: "10.2/basic-body", route: basic, steps: []step{get("/x?callback=cb&_body=hello"), plain()}},
	{name: "10.2/own-names", route: "fruit.test,aco,jsonp_mode=basic,jsonp_cb=jcb,jsonp_body=jbody $origin", steps: []step{get("/x?jcb=f&jbody=%7B%7D&callback=stays"), plain()}},
	{name: "10.2/default-callback", route: "fruit.test,aco,jsonp_mode=basic,jsonp_body=jbody,jsonp_defcb=dcb $origin", steps: []step{get("/x?jbody=%7B%7D"), plain()}},
	{name: "10.2/default-method", route: "fruit.test,aco,jsonp_mode=basic,jsonp_defmethod=GET $origin", steps: []step{get("/x?callback=cb"), plain()}},
	{name: "10.2/empty-callback", route: cors, steps: []step{get("/x?callback="), ended()}},
	{name: "10.2/bad-method", route: cors, steps: []step{get("/x?callback=cb&_method="), ended()}},
	{name: "10.2/bad-fields", route: cors, steps: []step{get("/x?callback=cb&_headers=x"), ended()}},
	{name: "10.2/post", route: cors, steps: []step{send("POST /x?callback=cb HTTP/1.1\n\nhello"), plain()}},
	{name: "10.2/status", route: cors, steps: []step{get("/x?callback=cb"), answer("HTTP/1.1 404 Gone fishing\n\nno\n"), ended()}},
	{name: "10.2/long-poll", route: cors, steps: []step{get("/x?callback=cb"), answer(poll + "\nnone\n"), listening(1), publish(item("http-response", `"headers":{"X-B":"2"},"body":"apple\n"`)), ended()}},
	{name: "10.2/long-poll-basic", route: basic, steps: []step{get("/x?callback=cb"), answer(poll + "\nnone\n"), listening(1), publish(result("apple")), ended()}},
	{name: "10.2/off", steps: []step{get("/x?callback=cb"), plain()}},

	{name: "10.3/greeting", route: sock, steps: []step{get("/sock"), quiet()}},
	{name: "10.3/options", route: sock, steps: []step{send("OPTIONS /sock/info HTTP/1.1\nOrigin: http://x.test\n"), quiet()}},
	{name: "10.3/xhr-open", route: sock, steps: []step{send("POST /sock/000/one/xhr HTTP/1.1\nOrigin: http://x.test\n\nx"), answer(withGrip + "\n" + opened), ended()}},
	{name: "10.3/xhr-send", route: sock, steps: []step{xhr("two"), answer(withGrip + "\n" + opened), ended(),
		send("POST /sock/000/two/xhr_send HTTP/1.1\n\n[\"hello\"]"), told(said("back")), ended(), xhr("two"), ended()}},
	{name: "10.3/xhr-send-unknown", route: sock, steps: []step{send("POST /sock/000/three/xhr_send HTTP/1.1\n\n[\"hello\"]"), ended()}},
	{name: "10.3/xhr-published", route: sock, steps: []step{xhr("four"), answer(withGrip + "\n" + opened + command(subscribe)), ended(), xhr("four"), listening(1), publish(message("apple")), ended()}},
	{name: "10.3/xhr-twice", route: sock, steps: []step{xhr("five"), answer(withGrip + "\n" + opened), ended(), xhr("five"), quiet(), as("b", xhr("five"), ended())}},
	{name: "10.3/jsonp", route: sock, steps: []step{get("/sock/000/six/jsonp?c=cb"), answer(withGrip + "\n" + opened), ended()}},
	{name: "10.3/raw-websocket", route: sock, steps: []step{open("/sock/websocket"), answer(withGrip + "\n" + opened + said("hello")), reads("hello")}},
	{name: "10.3/framed-websocket", route: sock, steps: []step{open("/sock/000/seven/websocket"), answer(withGrip + "\n" + opened + said("hello")), reads("hello"), says(`["hi"]`), told(said("back")), reads("back")}},
	{name: "10.3/streaming-is-not-there", route: sock, steps: []step{send("POST /sock/000/eight/xhr_streaming HTTP/1.1\n\nx"), ended()}},
	{name: "10.3/eventsource-is-not-there", route: sock, steps: []step{get("/sock/000/nine/eventsource"), ended()}},
	{name: "10.3/iframe", route: sock, steps: []step{get("/sock/iframe.html"), ended()}},
	{name: "10.3/other-path", route: sock, steps: []step{get("/other"), plain()}},
	{name: "10.3/refused", route: sock, steps: []step{xhr("ten"), answer("HTTP/1.1 403 Forbidden\n\nno\n"), ended()}},
}

// xhr polls a session of SockJS. The body is for Pushpin: it closes connections
// after a POST without one.
func xhr(session string) step { return send("POST /sock/000/" + session + "/xhr HTTP/1.1\n\nx") }
