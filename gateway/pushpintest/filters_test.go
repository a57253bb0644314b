package pushpintest

// filtering has the client get a stream of fruit with a filter and metadata.
func filtering(filter string, meta ...string) step {
	fields := ""
	for _, m := range meta {
		fields += "Grip-Set-Meta: " + m + "\n"
	}
	return join(get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; filter="+filter+"\n"+fields+"\nhello\n"), reads("hello\n"), listening(1))
}

func meta(members string) string { return `"meta":{` + members + `}` }

// filtered is a WebSocket that listens to fruit with filters (a JSON list) and
// the meta user=bob.
func filtered(filters string) step {
	return join(connected(command(`{"type":"set-meta","name":"user","value":"bob"}`), command(`{"type":"subscribe","channel":"fruit","filters":`+filters+`}`)), listening(1))
}

// Section 6: filters.
var filters = []scenario{
	{name: "6/skip-self", steps: []step{filtering("skip-self", "user=bob"), publish(line("no", meta(`"sender":"bob"`))), publish(line("alice", meta(`"sender":"alice"`))), reads("alice\n"), until("end")}},
	{name: "6/skip-self-without-user", steps: []step{filtering("skip-self"), publish(line("apple", meta(`"sender":"bob"`))), reads("apple\n")}},
	{name: "6/skip-self-without-filter", steps: []step{streaming("Grip-Set-Meta: user=bob"), publish(line("apple", meta(`"sender":"bob"`))), reads("apple\n")}},
	{name: "6/skip-self-without-sender", steps: []step{filtering("skip-self", "user=bob"), until("apple")}},
	{name: "6/skip-self-empty", steps: []step{filtering("skip-self", `user=""`), publish(line("apple", meta(`"sender":""`))), reads("apple\n")}},
	{name: "6/skip-users", steps: []step{filtering("skip-users", "user=bob"), publish(line("no", meta(`"skip_users":"alice, bob ,carol"`)), line("yes", meta(`"skip_users":"alice,bobby"`))), reads("yes\n")}},
	{name: "6/skip-users-empty", steps: []step{filtering("skip-users", "user=bob"), publish(line("yes", meta(`"skip_users":""`))), reads("yes\n")}},
	{name: "6/require-sub", steps: []step{filtering("require-sub"), publish(line("no", meta(`"require_sub":"fruit-x"`)), line("yes", meta(`"require_sub":"fruit"`))), reads("yes\n")}},
	{name: "6/require-sub-empty", steps: []step{filtering("require-sub"), publish(line("yes", meta(`"require_sub":""`))), reads("yes\n")}},
	{name: "6/meta-list", steps: []step{filtering("skip-self", `color=red, user=bob`), publish(line("no", meta(`"sender":"bob"`))), until("end")}},
	{name: "6/meta-quoted", steps: []step{filtering("skip-self", `user="bob smith"`), publish(line("no", meta(`"sender":"bob smith"`))), until("end")}},
	{name: "6/meta-twice", steps: []step{filtering("skip-self", "user=alice", "user=bob"), publish(line("alice", meta(`"sender":"alice"`)), line("bob", meta(`"sender":"bob"`))), until("end")}},
	{name: "6/meta-of-document", steps: []step{get("/"), answer(document(`{"hold":{"mode":"stream","channels":[{"name":"fruit","filters":["skip-self"]}],"meta":{"user":"bob"}},"response":{"body":"hello\n"}}`)), reads("hello\n"), listening(1), publish(line("no", meta(`"sender":"bob"`))), until("end")}},
	{name: "6/two-filters", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; filter=skip-self; filter=skip-users\nGrip-Set-Meta: user=bob\n\nhello\n"), reads("hello\n"), listening(1),
		publish(line("no", meta(`"sender":"bob"`)), line("no", meta(`"skip_users":"bob"`))), until("end")}},
	{name: "6/other-channel-of-session", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; filter=skip-self, fruit-b\nGrip-Set-Meta: user=bob\n\nhello\n"), reads("hello\n"), listening(1), listeningTo("fruit-b", 1),
		publish(line("no", meta(`"sender":"bob"`)), itemTo("fruit-b", "http-stream", `"content":"yes\n"`, meta(`"sender":"bob"`))), reads("yes\n")}},
	{name: "6/skip-self-long-poll", steps: []step{get("/"), answer("Grip-Hold: response\nGrip-Channel: fruit; filter=skip-self\nGrip-Set-Meta: user=bob\n\nnone\n"), listening(1), publish(result("no", meta(`"sender":"bob"`))), quiet(), publish(result("yes")), ended()}},
	{name: "6/skip-self-websocket", route: overHTTP, steps: []step{filtered(`["skip-self"]`), publish(message("no", meta(`"sender":"bob"`))), untilMessage("end")}},
	{name: "6/meta-removed-websocket", route: overHTTP, steps: []step{filtered(`["skip-self"]`), says("x"), told(command(`{"type":"set-meta","name":"user"}`), said("done")), reads("done"), quiet(), publish(message("yes", meta(`"sender":"bob"`))), untilMessage("end")}},
	{name: "6/filters-replaced-websocket", route: overHTTP, steps: []step{filtered(`["skip-self"]`), says("x"), told(command(subscribe), said("done")), reads("done"), quiet(), publish(message("yes", meta(`"sender":"bob"`))), reads("yes")}},
	{name: "6/require-sub-websocket", route: overHTTP, steps: []step{filtered(`["require-sub"]`), publish(message("yes", meta(`"require_sub":"fruit"`))), quiet()}},
	{name: "6/unknown-filter-websocket", route: overHTTP, steps: []step{filtered(`["own"]`), untilMessage("apple")}},

	{name: "6.1/var-subst", steps: []step{filtering("var-subst", "user=bob"), publish(line("hi %(user)s, 100%%")), reads("100%\n")}},
	{name: "6.1/var-subst-unknown-name", steps: []step{filtering("var-subst", "user=bob"), publish(line("hi %(other)s")), quiet()}},
	{name: "6.1/var-subst-bad-directive", steps: []step{filtering("var-subst", "user=bob"), publish(line("hi %q")), quiet()}},
	{name: "6.1/var-subst-escaped", steps: []step{filtering("var-subst", `"a)b"=x`, "user=bob"), publish(line(`hi %(us\er)s`)), quiet()}},
	{name: "6.1/var-subst-not-in-response", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; filter=var-subst\nGrip-Set-Meta: user=bob\n\nhello %(user)s\n"), reads("\n"), listening(1), until("end")}},
	{name: "6.1/var-subst-long-poll", steps: []step{get("/"), answer("Grip-Hold: response\nGrip-Channel: fruit; filter=var-subst\nGrip-Set-Meta: user=bob\n\nnone\n"), listening(1), publish(result("hi %(user)s")), ended()}},
	{name: "6.1/var-subst-long-poll-error", steps: []step{get("/"), answer("Grip-Hold: response\nGrip-Channel: fruit; filter=var-subst\n\nnone\n"), listening(1), publish(result("hi %(user)s")), quiet()}},
	{name: "6.1/var-subst-websocket", route: overHTTP, steps: []step{filtered(`["var-subst"]`), publish(message("hi %(user)s")), reads("hi bob")}},
	{name: "6.1/var-subst-websocket-error", route: overHTTP, steps: []step{filtered(`["var-subst"]`), publish(message("hi %(other)s")), untilMessage("end")}},
	{name: "6.1/build-id", steps: []step{building(), publish(line("a %I", id("6", "5")...)), reads("a pos-6\n")}},
	{name: "6.1/build-id-text", steps: []step{building(), publish(line("a %(text)I", id("6", "5")...)), reads("a text\n")}},
	{name: "6.1/build-id-hex", steps: []step{building("id_encoding=hex"), publish(line("a %I", id("6", "5")...)), reads("a 706f732d36\n")}},
	{name: "6.1/build-id-percent", steps: []step{building(), publish(line("100%%", id("6", "5")...)), reads("100%\n")}},
	{name: "6.1/build-id-unknown-id", steps: []step{filtering("build-id", `id_format="pos-%(fruit)s"`), publish(line("a %I")), quiet()}},
	{name: "6.1/build-id-no-format", steps: answered("Grip-Hold: stream\nGrip-Channel: fruit; filter=build-id\n\nhello\n")},
	{name: "6.1/build-id-response", steps: []step{get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; filter=build-id\nGrip-Set-Meta: id_format=\"pos-%(fruit)s\"\n\nhello %(text)I\n"), reads("\n"), quiet()}},

	{name: "6.3/content-filters-equal", steps: []step{filtering("var-subst", "user=bob"), publish(item("http-stream", `"content":"hi %(user)s\n","content-filters":["var-subst"]`)), reads("hi bob\n")}},
	{name: "6.3/content-filters-missing", steps: []step{streaming(), publish(item("http-stream", `"content":"hi\n","content-filters":["var-subst"]`)), quiet()}},
	{name: "6.3/content-filters-none", steps: []step{filtering("var-subst", "user=bob"), publish(item("http-stream", `"content":"hi\n","content-filters":[]`)), quiet()}},
	{name: "6.3/content-filters-none-of-none", steps: []step{streaming(), publish(item("http-stream", `"content":"hi\n","content-filters":[]`)), reads("hi\n")}},
	{name: "6.3/content-filters-ignore-others", steps: []step{filtering("skip-self", "user=bob"), publish(item("http-stream", `"content":"hi\n","content-filters":[]`)), reads("hi\n")}},
	{name: "6.3/content-filters-long-poll", steps: []step{polling(), publish(item("http-response", `"body":"hi\n","content-filters":["var-subst"]`)), quiet()}},
	{name: "6.3/content-filters-websocket", route: overHTTP, steps: []step{subscribed(), publish(item("ws-message", `"content":"no","content-filters":["var-subst"]`)), untilMessage("end")}},
}

// building has the client get a stream with the filter build-id, at id 5.
func building(meta ...string) step {
	fields := ""
	for _, m := range meta {
		fields += "Grip-Set-Meta: " + m + "\n"
	}
	return join(get("/"), answer("Grip-Hold: stream\nGrip-Channel: fruit; prev-id=5; filter=build-id\nGrip-Set-Meta: id_format=\"pos-%(fruit)s\"\n"+fields+"Grip-Link: </next>; rel=next\n\nhello\n"), reads("hello\n"), listening(1))
}
