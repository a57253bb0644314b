package main_test

// Applications that are written with the GRIP libraries of others, as PyPI and
// npm have them, behind "spillway gateway". They are in testdata/origins.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"spillway/relay/kafkatest"
)

// An application is one of testdata/origins with a gateway in front of it.
type application struct {
	*server
	control string   // of CONTROL_ADDR
	key     string   // CONTROL_KEY
	home    string   // the application's directory
	env     []string // of its processes
}

// An appConfig is how an application and its gateway know each other.
type appConfig struct {
	dir     string
	key     string // CONTROL_KEY and SIG_KEY; none is none
	query   string // of GRIP_URL
	prepare []string
	command []string // a last PORT is the port that it is to listen on
	env     []string
}

// behindGateway starts an application and a gateway before it, and waits for
// both. The test is skipped where its libraries cannot be had.
func behindGateway(t *testing.T, c appConfig) *application {
	t.Helper()
	home := librariesOf(t, c.dir, c.command[0])

	addr := func() string { return fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t)) }
	control, origin := addr(), addr()
	_, port, _ := net.SplitHostPort(origin)
	env := []string{"CONTROL_ADDR=" + control, "ROUTES=* " + origin + ",over_http"}
	if c.key != "" {
		env = append(env, "CONTROL_KEY="+c.key, "SIG_KEY="+c.key)
	}
	a := &application{server: newServer(t, env...), control: "http://" + control, key: c.key}
	a.command = "gateway"
	a.home = home
	a.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"PYTHONPATH=target", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1",
		"DATABASE=" + filepath.Join(t.TempDir(), "app.sqlite3"),
		"GRIP_URL=" + a.control + c.query, "PORT=" + port,
	}
	a.env = append(a.env, c.env...)
	if c.prepare != nil {
		cmd := a.process(c.prepare...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", c.prepare, err, out)
		}
	}
	command := append([]string{}, c.command...)
	if last := len(command) - 1; command[last] == "PORT" {
		command[last] = port
	}
	a.run(command...)
	awaitListener(t, origin)
	a.start()
	return a
}

// librariesOf brings the libraries of an application of testdata/origins, and
// returns its directory. The test is skipped where they, or the command that runs
// the application, cannot be had.
func librariesOf(t *testing.T, dir, command string) (home string) {
	t.Helper()
	if !kafkatest.Full() {
		t.Skip("libraries of others run with SPILLWAY_E2E=full")
	}
	origins, err := filepath.Abs("../../testdata/origins")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath(command); err != nil {
		kafkatest.Skip(t, command+" is not installed")
	}
	out, err := exec.Command(filepath.Join(origins, "origins.sh"), "fetch", dir).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		kafkatest.Skip(t, fmt.Sprintf("the libraries of testdata/origins/%s cannot be had: %s", dir, out))
	case err != nil:
		t.Fatalf("origins.sh fetch %s: %v: %s", dir, err, out)
	}
	return filepath.Join(origins, dir)
}

// awaitListener waits until somebody listens at an address.
func awaitListener(t *testing.T, addr string) {
	t.Helper()
	eventually(t, "somebody listens at "+addr, func() (bool, string) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return false, err.Error()
		}
		return true, fmt.Sprint(conn.Close())
	})
}

// process is a command in the application's directory.
func (a *application) process(command ...string) *exec.Cmd {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = a.home, a.env
	return cmd
}

// run starts a process of the application; it ends with stop, or with the test.
func (a *application) run(command ...string) (stop func()) {
	a.t.Helper()
	return background(a.t, a.process(command...))
}

// background starts a process; it ends with stop, or with the test.
func background(t *testing.T, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	log := &logBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // by the signal
		timer.Stop()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("log of %q:\n%s", cmd.Args, log)
		}
	})
	return stop
}

// post posts a text to one of the application's pages, through the gateway.
func (a *application) post(t *testing.T, path, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	form := strings.NewReader(url.Values{"text": {text}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, form)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("POST %s of %q: got %s, %v, want 200: %.2000s", path, text, resp.Status, err, body)
	}
}

// open opens an event stream of the application; it ends with the test.
func (a *application) open(t *testing.T, path string, header ...string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	resp := get(t, ctx, a.url+path, append([]string{"Accept: text/event-stream"}, header...)...)
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || !strings.HasPrefix(got, "text/event-stream") {
		cancel()
		t.Fatalf("GET %s: got %s, %s, want 200 and an event stream", path, resp.Status, got)
	}
	return readStream(t, resp, cancel)
}

// dial opens a WebSocket; it ends with the test.
func (a *application) dial(t *testing.T, path string) *wsConn {
	t.Helper()
	return dial(t, "ws"+strings.TrimPrefix(a.url, "http")+path)
}

// notKeepAlive is true for what a page wants to know.
func notKeepAlive(b block) bool { return b.fires && b.name != "keep-alive" }

// wantListeners waits until so many listen to a channel.
func (a *application) wantListeners(t *testing.T, channel string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d listen to %s", want, channel), func() (bool, string) {
		var list struct {
			Channels []struct {
				Name        string
				Subscribers int
			}
		}
		_, body := fetch(t, a.control+"/channels", "Authorization: Bearer "+a.key)
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatalf("/channels: %v: %s", err, body)
		}
		got := 0
		for _, c := range list.Channels {
			if c.Name == channel {
				got = c.Subscribers
			}
		}
		return got == want, body
	})
}

// testHolds is what all applications with /stream/, /poll/ and /say/ do.
func (a *application) testHolds(t *testing.T, slash string) {
	t.Run("stream", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		resp := get(t, ctx, a.url+"/stream"+slash)
		defer resp.Body.Close()
		got := bufio.NewReader(resp.Body)
		want := func(want string) {
			t.Helper()
			for {
				line, err := got.ReadString('\n')
				if err == nil && line == "keep-alive\n" && want != line {
					continue // whenever nothing was said for a second
				}
				if err != nil || line != want {
					t.Fatalf("stream: got %q, %v, want %q", line, err, want)
				}
				return
			}
		}
		want("[open]\n")
		a.post(t, "/say"+slash, "hello")
		want("hello\n")
		a.post(t, "/say"+slash, "größer")
		want("größer\n")
	})
	t.Run("long poll", func(t *testing.T) {
		a.wantListeners(t, "chat", 0) // the stream above has gone
		answers := make(chan string, 1)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		go func() { // ends with the answer, or with the context
			defer close(answers)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/poll"+slash, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			answers <- fmt.Sprintf("%d %s", resp.StatusCode, body)
		}()
		a.wantListeners(t, "chat", 1)
		a.post(t, "/say"+slash, "hello")
		if got, want := <-answers, "200 hello\n"; got != want {
			t.Errorf("long poll: got %q, want %q", got, want)
		}
	})
}

// testKeepAlive has a quiet stream whose keep-alives are a second apart.
func (a *application) testKeepAlive(t *testing.T, path string) {
	t.Run("keep-alive", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		resp := get(t, ctx, a.url+path)
		defer resp.Body.Close()
		want := "[open]\nkeep-alive\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Errorf("a quiet stream: got %q, %v, want %q", got, err, want)
		}
	})
}

// testChat has two clients of a chat over WebSockets, of which the first is
// called ann where the application knows names.
func (a *application) testChat(t *testing.T, path, called string) {
	t.Run("chat", func(t *testing.T) {
		ann, bob := a.dial(t, path), a.dial(t, path)
		for i := range 10 {
			ann.send(fmt.Sprintf("hello %d größer", i))
		}
		for i := range 10 {
			want := called + fmt.Sprintf("hello %d größer", i)
			ann.want(websocket.MessageText, want)
			bob.want(websocket.MessageText, want)
		}
		bob.send("")
		ann.want(websocket.MessageText, called)
		bob.want(websocket.MessageText, called)
		if err := ann.conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
			t.Errorf("close: got %v, want that the application closes too", err)
		}
		bob.send("still here")
		bob.want(websocket.MessageText, called+"still here")
	})
	t.Run("no WebSocket", func(t *testing.T) {
		if resp, body := fetch(t, a.url+path); resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("got %s %q, want that the application refuses", resp.Status, body)
		}
	})
}

const libraryKey = "a-key-that-is-long-enough-for-hs256" // libraries refuse or warn of shorter ones

func djangoApp(t *testing.T) *application {
	return behindGateway(t, appConfig{
		dir:     "django",
		prepare: []string{"python3", "app.py", "migrate"},
		command: []string{"python3", "app.py", "runserver", "--noreload", "PORT"},
	})
}

func TestDjangoGrip(t *testing.T) {
	t.Parallel()
	a := djangoApp(t)
	a.testHolds(t, "/")
	a.testKeepAlive(t, "/stream/")
	a.testChat(t, "/chat/?name=ann", "ann: ")
}

// TestDjangoEventstream has events that the application stores, and a client
// that is to miss none of them, whatever happens.
func TestDjangoEventstream(t *testing.T) {
	t.Parallel()
	a := djangoApp(t)
	send := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			a.post(t, "/send/", text)
		}
	}
	s := a.open(t, "/events/")
	opened := func() {
		t.Helper()
		if b := s.next(); b.name != "stream-open" {
			t.Fatalf("first event: got %+v, want stream-open", b)
		}
	}
	want := func(ids ...int) {
		t.Helper()
		for _, id := range ids {
			want := block{name: "message", id: fmt.Sprintf("test:%d", id), data: fmt.Sprintf(`{"text": "%d"}`, id), fires: true}
			got := s.block("an event", notKeepAlive)
			if got != want {
				t.Fatalf("event: got %+v, want %+v", got, want)
			}
		}
	}
	opened()
	send("1", "2")
	want(1, 2)

	// Its connection is lost.
	s.close()
	send("3", "4")
	s = a.open(t, "/events/", "Last-Event-ID: test:2")
	opened()
	want(3, 4)
	send("5")
	want(5)

	// The application crashes between storing an event and publishing it.
	a.post(t, "/store/", "6")
	send("7")
	want(6, 7)

	// The gateway crashes.
	a.kill()
	s.close()
	a.start()
	s = a.open(t, "/events/", "Last-Event-ID: test:6")
	opened()
	want(7)
	send("8")
	want(8)

	// More is missing than one page holds.
	s.close()
	var ids []int
	for id := 9; id <= 230; id++ {
		a.post(t, "/store/", fmt.Sprint(id))
		ids = append(ids, id)
	}
	s = a.open(t, "/events/", "Last-Event-ID: test:8")
	opened()
	want(ids...)
	send("231")
	want(231)

	// It asks for what was never there.
	s = a.open(t, "/events/", "Last-Event-ID: test:1000")
	opened()
	s.wantEvent("stream-reset", `{"channels":["test"]}`)
}

// The library's own script in a browser, which is to come back by itself.
func TestDjangoEventstreamInBrowser(t *testing.T) {
	t.Parallel()
	a := djangoApp(t)
	b := openBrowser(t)
	b.open(a.url + "/")
	b.await("it is connected", `opened === 1`)
	a.post(t, "/send/", "hello")
	b.await("an event", `got.join() === "hello"`)
	a.kill()
	a.start()
	a.post(t, "/send/", "again")
	b.await("an event after it came back", `got.join() === "hello,again"`)
}

func TestExpress(t *testing.T) {
	t.Parallel()
	a := behindGateway(t, appConfig{
		dir: "express", key: libraryKey, query: "/?iss=app&key=" + libraryKey,
		command: []string{"node", "server.js"},
	})
	a.testHolds(t, "")
	a.testKeepAlive(t, "/stream")
	a.testChat(t, "/chat", "")
	t.Run("in a browser", func(t *testing.T) {
		b := openBrowser(t)
		b.open(a.url + "/")
		b.await("it is connected", `opened === 1`)
		var sent bool
		b.evaluate(`(socket.send("hello"), true)`, &sent)
		b.await("its own message", `got.join() === "hello"`)
		a.post(t, "/say", "from the application")
		b.await("a message of the application", `got.join() === "hello,from the application"`)
		b.evaluate(`(socket.close(), true)`, &sent)
		b.await("the end", `ended && errors === 0`)
	})
	t.Run("eventstream", func(t *testing.T) {
		s := a.open(t, "/events")
		if b := s.next(); b.name != "stream-open" {
			t.Fatalf("first event: got %+v, want stream-open", b)
		}
		a.post(t, "/send", "hello")
		s.wantEvent("message", `{"text":"hello"}`)
	})
}

func TestGripcontrol(t *testing.T) {
	t.Parallel()
	a := behindGateway(t, appConfig{
		dir: "gripcontrol", key: libraryKey, query: "/?iss=app&key=" + libraryKey,
		command: []string{"python3", "app.py", "PORT"},
	})
	a.testHolds(t, "/")
	a.testChat(t, "/chat/", "")
}

// The function answers by itself. It does not publish: faas-grip 1.0.1 asks for
// pubcontrol before 3, which cannot with Python from 3.10 on.
func TestFaasGrip(t *testing.T) {
	t.Parallel()
	a := behindGateway(t, appConfig{
		dir: "faas", command: []string{"python3", "app.py", "PORT"},
	})
	ann, bob := a.dial(t, "/"), a.dial(t, "/")
	ann.send("größer")
	ann.want(websocket.MessageText, "you said größer")
	publish := spillway(t, []string{"GRIP_URL=" + a.control}, "publish", "chat", "hello")
	if out, err := publish.CombinedOutput(); err != nil {
		t.Fatalf("publish: %v: %s", err, out)
	}
	ann.want(websocket.MessageText, "hello")
	bob.want(websocket.MessageText, "hello")
	if err := ann.conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: got %v, want that the application closes too", err)
	}
	if resp, body := fetch(t, a.url+"/"); resp.StatusCode != http.StatusBadRequest || body != "not a WebSocket\n" {
		t.Errorf("no WebSocket: got %s %q, want that the application refuses", resp.Status, body)
	}
}

// TestKafkaDemo has the demo of old, a Django application and a relay that is
// written with gripcontrol, on our gateway instead of Pushpin; and then with our
// relay instead of its own.
func TestKafkaDemo(t *testing.T) {
	t.Parallel()
	if !kafkatest.Full() {
		t.Skip("libraries of others run with SPILLWAY_E2E=full")
	}
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		demo := appConfig{dir: "kafka-sse", command: []string{"python3", "app.py", "runserver", "--noreload", "PORT"}}
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		group := fmt.Sprintf(`"group.id":%q,"auto.offset.reset":"earliest"`, topic)
		want := func(s *stream, want ...string) {
			t.Helper()
			for _, want := range want {
				got := s.block("an event", notKeepAlive)
				if got.name != "message" || got.data != want {
					t.Fatalf("event: got %+v, want a message %q", got, want)
				}
			}
		}

		a := behindGateway(t, demo)
		s := a.open(t, "/events/"+topic+"/")
		a.env = append(a.env, consumerConfig(k, group))
		stop := a.run("python3", "relay.py", topic)
		k.Produce(values(topic, 0, "hello", "two\nlines", "größer")...)
		want(s, "hello", "two\nlines", "größer")
		stop()

		demo.env = []string{"CHANNEL_PREFIX="}
		a = behindGateway(t, demo)
		s = a.open(t, "/events/"+topic+"/")
		relay := newServer(t, consumerConfig(k, group), "GRIP_URL="+a.control, "TOPICS="+topic, "RELAY_CHANNELS=topic")
		relay.command = "relay"
		relay.start()
		k.Produce(values(topic, 0, "again", "two\nlines")...)
		// What the other relay has not committed may come once more.
		s.block("again", func(b block) bool { return b.data == "again" })
		want(s, "two\nlines")
	})
}
