package grip_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"spillway/grip"
)

// A long poll: the client gets the next message, or 204 when none came in time.
// startWorld puts a gateway in front of the handler.
func Example_longPoll() {
	gw := startWorld(func(proxies []grip.Proxy) http.Handler {
		mail := func(w http.ResponseWriter, _ *http.Request) {
			hold := grip.Instruct{
				Hold:     grip.HoldResponse,
				Channels: []grip.Subscription{{Channel: "mail"}},
				Timeout:  20 * time.Second,
			}
			if err := hold.SetHeader(w.Header()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		}
		return grip.RequireProxy(http.HandlerFunc(mail), proxies...)
	})
	defer gw.stop()

	go func() {
		gw.listening("mail", 1)
		err := grip.NewHTTPPublisher(gw.proxies, nil).Publish(context.Background(), grip.Item{
			Channel:      "mail",
			HTTPResponse: &grip.HTTPResponse{Body: []byte("you have post\n")},
		})
		if err != nil {
			fmt.Println(err)
		}
	}()
	lines, end := gw.get("/mail")
	defer end()
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
	// Output: you have post
}

// A fruitLog is an origin whose streams miss nothing: each fruit has the number
// of its line as id, and the next link gives what comes after one.
type fruitLog struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (f *fruitLog) add(line string) (id int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, line)
	return len(f.lines)
}

func (f *fruitLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after := 0
	if id, ok := grip.LastID(r.Header, "fruit"); ok { // the proxy knows how far the client is
		after, _ = strconv.Atoi(id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	after = min(max(after, 0), len(f.lines))
	stream := grip.Instruct{
		Hold:      grip.HoldStream,
		Channels:  []grip.Subscription{{Channel: "fruit", PrevID: strconv.Itoa(len(f.lines)), HasPrevID: true}},
		KeepAlive: &grip.KeepAlive{Content: []byte("\n"), Timeout: 20 * time.Second},
		Next:      &grip.Link{URL: "/fruit"},
	}
	if err := stream.SetHeader(w.Header()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, line := range f.lines[after:] {
		fmt.Fprintln(w, line)
	}
}

// A stream that misses nothing. Whatever gets lost on the way (here the second
// fruit is never published) shows as a prev-id that does not fit, and the
// gateway asks the next link.
func Example_stream() {
	fruit := new(fruitLog)
	gw := startWorld(func(proxies []grip.Proxy) http.Handler { return grip.RequireProxy(fruit, proxies...) })
	defer gw.stop()

	fruit.add("apple")
	lines, end := gw.get("/fruit")
	defer end()
	gw.listening("fruit", 1)
	fruit.add("banana")
	id := fruit.add("cherry")
	err := grip.NewHTTPPublisher(gw.proxies, nil).Publish(context.Background(), grip.Item{
		Channel: "fruit", ID: strconv.Itoa(id), PrevID: strconv.Itoa(id - 1),
		HTTPStream: &grip.HTTPStream{Content: []byte("cherry\n")},
	})
	if err != nil {
		fmt.Println(err)
	}
	for range 3 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	// Output:
	// apple
	// banana
	// cherry
}

// A chat over WebSockets, which the gateway brings as HTTP requests (over_http
// on its route): what one client says, all hear.
func Example_webSocket() {
	gw := startWorld(func(proxies []grip.Proxy) http.Handler {
		publisher := grip.NewHTTPPublisher(proxies, nil)
		chat := func(w http.ResponseWriter, r *http.Request) {
			ws, err := grip.ReadWebSocket(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			for _, e := range ws.Events {
				switch e.Type {
				case grip.EventOpen:
					name := r.URL.Query().Get("name")
					ws.Accept()
					ws.SetMeta("name", name)
					ws.Subscribe("chat")
					ws.SendText("welcome, " + name)
				case grip.EventText:
					err = publisher.Publish(r.Context(), grip.Item{
						Channel:   "chat",
						WSMessage: &grip.WSMessage{Content: fmt.Appendf(nil, "%s: %s", ws.Meta("name"), e.Content)},
					})
				}
			}
			if err == nil {
				err = ws.Respond(w)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		}
		return grip.RequireProxy(http.HandlerFunc(chat), proxies...)
	}, "over_http")
	defer gw.stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	join := func(name string) *websocket.Conn {
		c, _, err := websocket.Dial(ctx, gw.url+"/chat?name="+name, nil)
		if err != nil {
			panic(err)
		}
		return c
	}
	hear := func(who string, c *websocket.Conn) {
		_, message, err := c.Read(ctx)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s hears %q\n", who, message)
	}
	alice, bob := join("alice"), join("bob")
	hear("alice", alice)
	hear("bob", bob)
	gw.listening("chat", 2)
	if err := alice.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		panic(err)
	}
	hear("alice", alice)
	hear("bob", bob)
	fmt.Println(bob.Close(websocket.StatusNormalClosure, "")) // the gateway asks the origin, which says the same
	if err := alice.CloseNow(); err != nil {
		panic(err)
	}
	// Output:
	// alice hears "welcome, alice"
	// bob hears "welcome, bob"
	// alice hears "alice: hello"
	// bob hears "alice: hello"
	// <nil>
}

// One item reaches each subscriber in the format of its transport.
func ExampleHTTPPublisher_Publish() {
	gw := startWorld(func([]grip.Proxy) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hold := grip.Instruct{Hold: grip.HoldStream, Channels: []grip.Subscription{{Channel: "news"}}}
			switch r.URL.Path {
			case "/socket":
				ws, err := grip.ReadWebSocket(r)
				if err == nil {
					ws.Accept()
					ws.Subscribe("news")
					err = ws.Respond(w)
				}
				if err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
				}
				return
			case "/poll":
				hold.Hold = grip.HoldResponse
			}
			if err := hold.SetHeader(w.Header()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}, "over_http")
	defer gw.stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, gw.url+"/socket", nil)
	if err != nil {
		panic(err)
	}
	defer func() { _ = socket.CloseNow() }()
	stream, end := gw.get("/stream")
	defer end()
	polled := make(chan string)
	go func() {
		lines, end := gw.get("/poll")
		defer end()
		lines.Scan()
		polled <- lines.Text()
	}()
	gw.listening("news", 3)

	publisher := grip.NewHTTPPublisher(gw.proxies, nil)
	defer publisher.CloseIdleConnections()
	err = publisher.Publish(ctx, grip.Item{
		Channel:    "news",
		ID:         "7", // an item that comes again is dropped
		HTTPStream: &grip.HTTPStream{Content: []byte("data: rain\n")},
		HTTPResponse: &grip.HTTPResponse{
			Headers: []grip.Header{{Name: "Content-Type", Value: "application/json"}},
			Body:    []byte(`{"news":"rain"}`),
		},
		WSMessage: &grip.WSMessage{Content: []byte("rain")},
	})
	fmt.Println("published:", err)
	stream.Scan()
	fmt.Println("stream:", stream.Text())
	fmt.Println("poll:", <-polled)
	_, message, err := socket.Read(ctx)
	fmt.Printf("socket: %s %v\n", message, err)
	// Output:
	// published: <nil>
	// stream: data: rain
	// poll: {"news":"rain"}
	// socket: rain <nil>
}

// Only requests that a proxy has signed come through.
func ExampleRequireProxy() {
	proxies, err := grip.ParseURLs("http://localhost:5561?verify-key=changeme https://api.example.com/?iss=realm&key=base64:c2VjcmV0")
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := grip.RequireProxy(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello, proxy")
	}), proxies...)

	key, err := grip.ParseKey("changeme") // what the proxy has
	if err != nil {
		fmt.Println(err)
		return
	}
	sig, err := key.Sign("pushpin", time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, sig := range []string{sig, "forged", ""} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Grip-Sig", sig)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Print(w.Code, " ", w.Body)
	}
	// Output:
	// 200 hello, proxy
	// 501 The Grip-Sig of the request is not one that this server accepts.
	// 501 This is served through a GRIP proxy only.
}

// A filter keeps what alice says from coming back to her.
func ExampleInstruct_SetHeader() {
	hold := grip.Instruct{
		Hold:      grip.HoldStream,
		Channels:  []grip.Subscription{{Channel: "room", Filters: []string{grip.FilterSkipSelf}}},
		Meta:      map[string]string{"user": "alice"},
		KeepAlive: &grip.KeepAlive{Content: []byte(":\n\n"), Timeout: 20 * time.Second},
		Gone:      &grip.Link{URL: "/room/left?user=alice"},
	}
	h := make(http.Header)
	if err := hold.SetHeader(h); err != nil {
		fmt.Println(err)
	}
	for _, name := range []string{"Grip-Hold", "Grip-Channel", "Grip-Set-Meta", "Grip-Keep-Alive", "Grip-Link"} {
		fmt.Printf("%s: %s\n", name, h.Get(name))
	}

	hold.Channels[0].PrevID = "3"
	fmt.Println(hold.SetHeader(h))
	// Output:
	// Grip-Hold: stream
	// Grip-Channel: room; filter=skip-self
	// Grip-Set-Meta: user=alice
	// Grip-Keep-Alive: :\n\n; format=cstring; timeout=20
	// Grip-Link: </room/left?user=alice>; rel=gone
	// instruct: channel "room": has a prev-id, but there is no next link to ask for what is missing: a proxy ends the stream
}

// A long poll as an instruct document, where headers of its own do not get
// through what lies between origin and proxy.
func ExampleInstruct_WriteDocument() {
	w := httptest.NewRecorder()
	err := grip.Instruct{
		Hold:     grip.HoldResponse,
		Channels: []grip.Subscription{{Channel: "jobs-17"}},
		Timeout:  30 * time.Second,
		Code:     http.StatusNoContent,
		Header:   http.Header{"X-State": {"idle"}},
	}.WriteDocument(w)
	fmt.Println(w.Header().Get("Content-Type"), err)
	fmt.Println(w.Body)
	// Output:
	// application/grip-instruct <nil>
	// {"hold":{"mode":"response","channels":[{"name":"jobs-17"}],"timeout":30},"response":{"code":204,"headers":[["X-State","idle"]],"body":""}}
}
