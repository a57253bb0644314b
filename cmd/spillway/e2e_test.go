package main_test

// The built binary, from outside: Kafka's tools and foreign clients at one end,
// curl, libraries and a browser at the other. Every scenario runs on a fake
// broker, and with SPILLWAY_E2E=full on a real one too.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/r3labs/sse/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// values makes a record of each value, all for one partition.
func values(topic string, partition int32, vs ...string) []*kgo.Record {
	var rs []*kgo.Record
	for _, v := range vs {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)})
	}
	return rs
}

// numbered makes n records with the values 0 … n-1, spread over partitions.
func numbered(topic string, partitions, n int) []*kgo.Record {
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, values(topic, int32(i%partitions), strconv.Itoa(i))...)
	}
	return rs
}

// numbers are the values of numbered, first … last-1.
func numbers(first, last int) []string {
	var vs []string
	for i := first; i < last; i++ {
		vs = append(vs, strconv.Itoa(i))
	}
	return vs
}

// await waits until a new topic is known to the server, and returns its URL.
func (s *server) await(topic string) string {
	s.t.Helper()
	url := s.url + "/events/" + topic + "/"
	eventually(s.t, "topic "+topic+" is there", func() (bool, string) {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		defer cancel()
		resp := get(s.t, ctx, url)
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	return url
}

// TestClassicFlow is the promise of the README: a .env file with two
// properties, then curl.
func TestClassicFlow(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		k.CreateTopic("test", 2)
		t.Cleanup(func() { k.DeleteTopic("test") })
		s := newServer(t)
		config := fmt.Sprintf(`KAFKA_CONSUMER_CONFIG={"bootstrap.servers":%q,"group.id":"mygroup"}`+"\n", k.Bootstrap())
		if err := os.WriteFile(filepath.Join(s.dir, ".env"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		s.start()
		_, port, _ := strings.Cut(strings.TrimPrefix(s.url, "http://"), ":")

		curl := lines(t, "curl", "-i", "-s", "-N", "http://127.0.0.1:"+port+"/events/test/")
		if got, want := curl.next(), "HTTP/1.1 200 OK\r"; got != want {
			t.Fatalf("status line: got %q, want %q", got, want)
		}
		header := http.Header{}
		for line := curl.next(); line != "\r"; line = curl.next() {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r"), ": ")
			header.Add(name, value)
		}
		for name, want := range map[string]string{
			"Content-Type":      "text/event-stream; charset=utf-8",
			"Cache-Control":     "no-store, no-transform",
			"X-Accel-Buffering": "no",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		// The first bytes come at once, before there is a record.
		if got, want := curl.nextFull(), ":ok"; got != want {
			t.Errorf("first line: got %q, want %q", got, want)
		}
		retry := curl.nextFull()
		ms, err := strconv.Atoi(strings.TrimPrefix(retry, "retry: "))
		if err != nil || ms < 1000 || ms > 5000 {
			t.Errorf("second line: got %q, want retry: 1000 to 5000", retry)
		}

		id := regexp.MustCompile(`^id: 1-[0-9a-z]+-[0-9a-z]{5}\.2\.[0-9a-z]+\.[0-9a-z]+$`)
		wantHello := func(producer string) {
			t.Helper()
			first := curl.nextFull()
			for strings.HasPrefix(first, ":") || strings.HasPrefix(first, "id:") {
				first = curl.nextFull() // heartbeats, while a slow tool starts
			}
			got := []string{first, curl.next(), curl.next(), curl.next()}
			if got[0] != "event: message" || !id.MatchString(got[1]) || got[2] != "data: hello" || got[3] != "" {
				t.Fatalf("hello from %s: got %q, want event: message, id: %s, data: hello and a blank line", producer, got, id)
			}
		}
		k.Kcat("hello\n", "-P", "-t", "test")
		wantHello("kcat")
		if kafkatest.Full() {
			k.ConsoleProducer("test", "hello\n")
			wantHello("Kafka's console producer")
		}

		for path, want := range map[string]int{
			"/events/nosuch/":             http.StatusNotFound,
			"/events/__consumer_offsets/": http.StatusNotFound,
			"/nosuch":                     http.StatusNotFound,
			"/":                           http.StatusOK,
			"/events/":                    http.StatusOK,
		} {
			if resp, body := fetch(t, s.url+path); resp.StatusCode != want {
				t.Errorf("GET %s: got %s %s, want %d", path, resp.Status, body, want)
			}
		}
		_, list := fetch(t, s.url+"/events/", "Accept: application/json")
		if !strings.Contains(list, `"name":"test"`) || strings.Contains(list, "__") {
			t.Errorf("topics: got %s, want test and none that begins with __", list)
		}

		// The group is that of the standard tools, which show no lag.
		eventually(t, "the group has no lag", func() (bool, string) {
			lag, committed := k.GroupLag("mygroup", "test")
			return committed && lag == 0, fmt.Sprintf("lag %d, committed %v", lag, committed)
		})
		if k.Name() == "kafka" {
			out := k.Tool("", "groups", "--describe", "--group", "mygroup")
			for _, partition := range []string{"0", "1"} {
				// GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID …
				row := regexp.MustCompile(`(?m)^mygroup\s+test\s+` + partition + `\s+\d+\s+\d+\s+0\s+[^-\s]`)
				if !row.MatchString(out) {
					t.Errorf("kafka-consumer-groups: got %s, want partition %s with lag 0 and a consumer", out, partition)
				}
			}
		}
	})
}

func TestNewTopicsAndPartitions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		s := serve(t, k)
		url := s.url + "/events/" + topic + "/"
		if resp, _ := fetch(t, url); resp.StatusCode != http.StatusNotFound {
			t.Fatalf("before the topic exists: got %s, want 404", resp.Status)
		}

		k.CreateTopic(topic, 1)
		s.await(topic)
		live := subscribe(t, url)
		k.Produce(values(topic, 0, "a")...)
		live.wantData("a")

		k.AddPartitions(topic, 2)
		k.Produce(values(topic, 2, "b", "c")...)
		live.wantData("b", "c") // from its first record on
	})
}

func TestEveryWayOut(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		s := serve(t, k)
		url := s.url + "/events/" + topic + "/"
		produce := func(vs ...string) { t.Helper(); k.Produce(values(topic, 0, vs...)...) }

		t.Run("SSE by r3labs", func(t *testing.T) {
			events, connected := r3labs(t, url)
			<-connected
			produce("one", "two\nlines")
			for _, want := range []string{"one", "two\nlines"} {
				select {
				case e := <-events:
					if string(e.Event) != "message" || string(e.Data) != want || len(e.ID) == 0 {
						t.Errorf("got event %q, id %q, data %q, want message, an id, %q", e.Event, e.ID, e.Data, want)
					}
				case <-time.After(patience):
					t.Fatalf("no event within %v, want %q", patience, want)
				}
			}
		})
		t.Run("SSE envelope", func(t *testing.T) {
			st := subscribe(t, url+"?format=envelope")
			produce(`{"n":12345678901234567890}`)
			b := st.next()
			wantJSON(t, b.data, fmt.Sprintf(`{"topic":%q,"partition":0}`, topic))
			if !strings.Contains(b.data, `"value":{"n":12345678901234567890}`) {
				t.Errorf("data: got %s, want the JSON value as it is, digit by digit", b.data)
			}
		})
		t.Run("NDJSON by curl", func(t *testing.T) {
			st := lines(t, "curl", "-s", "-N", "-H", "Accept: application/x-ndjson", url+"?last=1")
			first := st.nextFull() // the newest record: proof that it is connected
			if !strings.HasPrefix(first, "{") {
				t.Fatalf("first line: got %q, want a JSON object", first)
			}
			produce("hello")
			line := st.nextFull()
			wantJSON(t, line, fmt.Sprintf(`{"topic":%q,"partition":0,"value":"hello"}`, topic))
			if !strings.Contains(line, `"id":"1-`) {
				t.Errorf("line: got %s, want an id", line)
			}
		})
		t.Run("long-poll", func(t *testing.T) {
			var answer struct {
				Events []json.RawMessage
				ID     string
			}
			poll := func(query string) {
				t.Helper()
				resp, body := fetch(t, url+query, "Accept: application/json")
				if err := json.Unmarshal([]byte(body), &answer); err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("long-poll %s: got %s %s, want 200 and JSON", query, resp.Status, body)
				}
				if answer.ID == "" {
					t.Fatalf("long-poll %s: got %s, want an id", query, body)
				}
			}
			poll("?wait=1s")
			if len(answer.Events) != 0 {
				t.Errorf("with nothing new: got %s, want no events", answer.Events)
			}
			produce("a", "b")
			poll("?wait=20s&last_event_id=" + answer.ID)
			n := len(answer.Events)
			if n == 0 {
				t.Fatal("with news: got no events")
			}
			wantJSON(t, string(answer.Events[0]), `{"value":"a"}`)
			if n < 2 { // it may have come between the two
				poll("?wait=20s&last_event_id=" + answer.ID)
			}
			wantJSON(t, string(answer.Events[len(answer.Events)-1]), `{"value":"b"}`)

			// One that is waiting is answered when something comes.
			sent, done := make(chan struct{}), make(chan string, 1)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
			})
			go func(id string) { // ends with its answer
				done <- tryFetch(ctx, url+"?wait=55s&last_event_id="+id, "application/json")
			}(answer.ID)
			<-sent
			produce("c")
			if body := <-done; !strings.Contains(body, `"value":"c"`) {
				t.Errorf("waiting long-poll: got %s, want the record c", body)
			}
		})
		t.Run("WebSocket plain", func(t *testing.T) {
			ws := dial(t, url)
			produce("text", "")
			ws.want(websocket.MessageText, "text")
			ws.want(websocket.MessageText, "")
			k.Produce(&kgo.Record{Topic: topic, Value: []byte{0xff, 0x00}})
			ws.want(websocket.MessageBinary, "\xff\x00")
		})
		t.Run("WebSocket spillway.v1.json", func(t *testing.T) {
			ws := dial(t, url, "spillway.v1.json")
			if got, want := ws.conn.Subprotocol(), "spillway.v1.json"; got != want {
				t.Fatalf("subprotocol: got %q, want %q", got, want)
			}
			produce("json")
			m := ws.record()
			wantJSON(t, m, fmt.Sprintf(`{"type":"record","topic":%q,"partition":0,"value":"json"}`, topic))

			// A further topic on the same connection.
			other := kafkatest.UniqueTopic(t)
			k.CreateTopic(other, 1)
			s.await(other)
			ws.send(fmt.Sprintf(`{"type":"subscribe","topics":[%q],"ref":1}`, other))
			wantJSON(t, ws.message(func(m string) bool { return strings.Contains(m, `"ref"`) }), `{"ref":1}`)
			k.Produce(values(other, 0, "other")...)
			wantJSON(t, ws.record(), fmt.Sprintf(`{"type":"record","topic":%q,"value":"other"}`, other))
			ws.send(`{"type":"unsubscribe","ref":1}`)
			wantJSON(t, ws.message(func(m string) bool { return strings.Contains(m, `"ref"`) }), `{"ref":1}`)
			k.Produce(values(other, 0, "not wanted any more")...)
			produce("last")
			wantJSON(t, ws.record(), `{"value":"last"}`)
		})
		t.Run("unknown subprotocol", func(t *testing.T) {
			_, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"mqtt"}})
			if err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest {
				t.Errorf("got %v, %v, want 400 before the upgrade", resp, err)
			}
		})
		t.Run("several topics", func(t *testing.T) {
			other := kafkatest.UniqueTopic(t)
			k.CreateTopic(other, 1)
			s.await(other)
			list := subscribe(t, s.url+"/events/"+topic+","+other+"/?format=envelope")
			param := subscribe(t, s.url+"/events/?topic="+topic+"&topic="+other+"&format=envelope")
			for _, one := range []string{topic, other} {
				k.Produce(values(one, 0, "both")...)
				for _, st := range []*stream{list, param} {
					wantJSON(t, st.next().data, fmt.Sprintf(`{"topic":%q,"value":"both"}`, one))
				}
			}
		})
	})
}

// tryFetch is fetch for other goroutines: what went wrong is the answer.
func tryFetch(ctx context.Context, url, accept string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// r3labs subscribes with the library and comes back after every end, as that
// library does not after a clean one. connected is closed by the first answer.
func r3labs(t *testing.T, url string) (events <-chan *sse.Event, connected <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ch, up, done := make(chan *sse.Event, 1000), make(chan struct{}), make(chan struct{})
	var once sync.Once
	client := sse.NewClient(url, sse.ClientMaxBufferSize(1<<20))
	client.ReconnectStrategy = onlyOnce{} // its own retries would ignore ctx
	client.ResponseValidator = func(_ *sse.Client, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return errors.New(resp.Status)
		}
		once.Do(func() { close(up) })
		return nil
	}
	go func() { // ends with ctx
		defer close(done)
		for ctx.Err() == nil {
			_ = client.SubscribeRawWithContext(ctx, func(e *sse.Event) {
				if e.Data != nil { // an id by itself and retry arrive as events, too
					ch <- e
				}
			})
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return ch, up
}

// onlyOnce is a backoff that gives up at once.
type onlyOnce struct{}

func (onlyOnce) NextBackOff() time.Duration { return -1 } // backoff.Stop
func (onlyOnce) Reset()                     {}

// A wsConn is a WebSocket as a test sees it.
type wsConn struct {
	t    *testing.T
	conn *websocket.Conn
}

func dial(t *testing.T, url string, protocols ...string) *wsConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		t.Fatalf("dial %s: %v, %v", url, resp, err)
	}
	conn.SetReadLimit(8 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &wsConn{t, conn}
}

func (w *wsConn) read() (websocket.MessageType, string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	typ, b, err := w.conn.Read(ctx)
	return typ, string(b), err
}

func (w *wsConn) want(typ websocket.MessageType, want string) {
	w.t.Helper()
	gotType, got, err := w.read()
	if err != nil || gotType != typ || got != want {
		w.t.Fatalf("message: got %v %.200q, %v, want %v %.200q", gotType, got, err, typ, want)
	}
}

func (w *wsConn) send(text string) {
	w.t.Helper()
	if err := w.conn.Write(w.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		w.t.Fatalf("send %s: %v", text, err)
	}
}

// message returns the next message that f accepts.
func (w *wsConn) message(f func(string) bool) string {
	w.t.Helper()
	for {
		_, m, err := w.read()
		if err != nil {
			w.t.Fatalf("read: %v", err)
		}
		if f(m) {
			return m
		}
	}
}

// record returns the next message of type record.
func (w *wsConn) record() string {
	w.t.Helper()
	return w.message(func(m string) bool { return strings.Contains(m, `"type":"record"`) })
}

// wantClose wants that the server closes the connection with this code.
func (w *wsConn) wantClose(code websocket.StatusCode) {
	w.t.Helper()
	for {
		_, m, err := w.read()
		if err == nil {
			w.t.Logf("before the close: %.200q", m)
			continue
		}
		if got := websocket.CloseStatus(err); got != code {
			w.t.Errorf("close code: got %v (%v), want %v", got, err, code)
		}
		return
	}
}

func TestResume(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 3)
		k.Produce(numbered(topic, 3, 30)...)
		a, b := serve(t, k), serve(t, k)
		urlA, urlB := a.url+"/events/"+topic+"/", b.url+"/events/"+topic+"/"

		first := subscribe(t, urlA+"?from=earliest")
		seen := first.take(10)
		id := first.lastID
		first.close()
		rest := func(first []string) []string {
			return slices.DeleteFunc(numbers(0, 30), func(v string) bool { return slices.Contains(first, v) })
		}

		t.Run("another instance", func(t *testing.T) {
			st := subscribe(t, urlB, "Last-Event-ID: "+id)
			st.wantSet(rest(seen)...)
		})
		t.Run("query for those who cannot set headers", func(t *testing.T) {
			for _, name := range []string{"last_event_id", "lastEventId"} {
				st := subscribe(t, urlB+"?"+name+"="+id)
				st.wantSet(rest(seen)...)
			}
		})
		t.Run("header wins over the parameters of the first request", func(t *testing.T) {
			st := subscribe(t, urlB+"?from=earliest", "Last-Event-ID: "+id)
			st.wantSet(rest(seen)...)
		})
		t.Run("twice, to the end, then live", func(t *testing.T) {
			st := subscribe(t, urlA, "Last-Event-ID: "+id)
			more := st.take(7)
			st.close()
			st = subscribe(t, urlB, "Last-Event-ID: "+st.lastID)
			st.wantSet(rest(append(slices.Clone(seen), more...))...)
			end := st.lastID
			other := subscribe(t, urlA, "Last-Event-ID: "+end)
			k.Produce(values(topic, 1, "new")...)
			st.wantData("new")
			other.wantData("new")
		})
		t.Run("after a restart", func(t *testing.T) {
			a.stop()
			a.start()
			st := subscribe(t, urlA, "Last-Event-ID: "+id)
			st.wantSet(append(rest(seen), "new")...)
		})
		t.Run("after a crash", func(t *testing.T) {
			a.kill()
			a.start()
			st := subscribe(t, urlA, "Last-Event-ID: "+id)
			st.wantSet(append(rest(seen), "new")...)
		})
		t.Run("r3labs over a restart", func(t *testing.T) {
			events, connected := r3labs(t, urlA)
			<-connected
			want := func(v string) {
				t.Helper()
				select {
				case e := <-events:
					if string(e.Event) != "message" || string(e.Data) != v {
						t.Fatalf("got event %q, data %q, want message, %q", e.Event, e.Data, v)
					}
				case <-time.After(patience):
					t.Fatalf("no event within %v, want %q", patience, v)
				}
			}
			k.Produce(values(topic, 2, "before")...)
			want("before")
			a.stop()
			k.Produce(values(topic, 2, "meanwhile")...)
			a.start()
			want("meanwhile")
			k.Produce(values(topic, 2, "after")...)
			want("after")
		})
		t.Run("not a cursor", func(t *testing.T) {
			resp, body := fetch(t, urlA, "Accept: text/event-stream", "Last-Event-ID: nonsense")
			if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusBadRequest || !strings.HasPrefix(got, "application/problem+json") {
				t.Errorf("got %s, %s, %s, want 400 and a problem body", resp.Status, got, body)
			}
		})
	})
}

func TestPositions(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 2)
		// One record a minute, the last one now, alternating partitions.
		now := time.Now().Truncate(time.Millisecond)
		records := numbered(topic, 2, 10)
		for i, r := range records {
			r.Timestamp = now.Add(time.Duration(i-9) * time.Minute)
		}
		k.Produce(records...)
		s := serve(t, k)
		url := s.url + "/events/" + topic + "/"

		tests := []struct {
			name, query string
			want        []string
		}{
			{"everything", "from=earliest", numbers(0, 10)},
			{"newest three", "last=3", numbers(7, 10)},
			{"more than there are", "last=100", numbers(0, 10)},
			{"a time", "since=" + records[4].Timestamp.UTC().Format("2006-01-02T15:04:05.000Z"), numbers(4, 10)},
			{"milliseconds", "since=" + strconv.FormatInt(records[6].Timestamp.UnixMilli(), 10), numbers(6, 10)},
			{"a duration back", "since=210s", numbers(6, 10)}, // 3.5 minutes: those of 3, 2, 1, 0
			{"a time to come", "since=" + strconv.FormatInt(now.Add(time.Hour).UnixMilli(), 10), nil},
			{"latest", "from=latest", nil},
			{"nothing said", "", nil},
			{"none of the past", "last=0", nil},
		}
		streams := make([]*stream, len(tests))
		for i, tt := range tests {
			streams[i] = subscribe(t, url+"?"+tt.query)
		}
		for i, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				streams[i].t = t
				streams[i].wantSet(tt.want...)
			})
		}
		// Then live, with nothing before it.
		k.Produce(values(topic, 0, "live")...)
		for i, tt := range tests {
			t.Run(tt.name+", then live", func(t *testing.T) {
				streams[i].t = t
				streams[i].wantData("live")
			})
		}
	})
}

func TestBoundedReplay(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		k.Produce(numbered(topic, 1, 10)...)
		s := serve(t, k)
		url := s.url + "/events/" + topic + "/"

		t.Run("limit", func(t *testing.T) {
			st := subscribe(t, url+"?from=earliest&limit=3")
			st.wantData(numbers(0, 3)...)
			st.wantEvent("end", `{"reason":"limit"}`)
			st.wantEnd()
			resp, body := fetch(t, url+"?from=earliest&limit=3", "Accept: text/event-stream", "Last-Event-ID: "+st.lastID)
			if resp.StatusCode != http.StatusNoContent || body != "" {
				t.Errorf("coming back after the end: got %s %q, want 204 and nothing", resp.Status, body)
			}
		})
		t.Run("limit counts live records too", func(t *testing.T) {
			st := subscribe(t, url+"?last=1&limit=2")
			st.wantData("9")
			k.Produce(values(topic, 0, "10")...)
			st.wantData("10")
			st.wantEvent("end", `{"reason":"limit"}`)
			st.wantEnd()
		})
		t.Run("until now", func(t *testing.T) {
			st := subscribe(t, url+"?from=earliest&until="+strconv.FormatInt(time.Now().UnixMilli()+1, 10))
			st.wantData(numbers(0, 11)...)
			if b := st.next(); b.name != "end" {
				t.Errorf("got %+v, want event end", b)
			}
			st.wantEnd()
		})
		t.Run("WebSocket ends with 1000", func(t *testing.T) {
			ws := dial(t, url+"?from=earliest&limit=2")
			ws.want(websocket.MessageText, "0")
			ws.want(websocket.MessageText, "1")
			ws.wantClose(websocket.StatusNormalClosure)
		})
		t.Run("limit of nothing", func(t *testing.T) {
			if resp, body := fetch(t, url+"?limit=0"); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("limit=0: got %s %s, want 400", resp.Status, body)
			}
		})
	})
}

func TestGaps(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		s := serve(t, k)
		t.Run("records deleted", func(t *testing.T) {
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, 2)
			k.Produce(numbered(topic, 2, 20)...)
			url := s.await(topic)
			st := subscribe(t, url+"?from=earliest")
			st.take(2)
			st.close()
			old := st.lastID
			k.DeleteRecords(topic, 0, 8)
			k.DeleteRecords(topic, 1, 8)
			st = subscribe(t, url, "Last-Event-ID: "+old)
			// One gap per partition, each before that partition's next record.
			gaps, records := map[float64]bool{}, 0
			for len(gaps) < 2 || records < 4 {
				b := st.next()
				switch b.name {
				case "gap":
					var gap struct {
						Partition float64
						To        int
					}
					if err := json.Unmarshal([]byte(b.data), &gap); err != nil || gaps[gap.Partition] {
						t.Fatalf("got %+v, %v, want one gap per partition", b, err)
					}
					wantJSON(t, b.data, fmt.Sprintf(`{"topic":%q,"reason":"retention","to":8,"exact":true}`, topic))
					gaps[gap.Partition] = true
				case "message":
					n, err := strconv.Atoi(b.data)
					if err != nil || n < 16 || !gaps[float64(n%2)] {
						t.Fatalf("got record %s, %v, gaps so far %v: want 16 to 19 and the gap before", b.data, err, gaps)
					}
					records++
				default:
					t.Fatalf("got %+v, want gap and message", b)
				}
			}
			resp, body := fetch(t, url+"?on_gap=fail", "Last-Event-ID: "+old)
			if resp.StatusCode != http.StatusGone || !strings.Contains(body, `"gaps"`) {
				t.Errorf("on_gap=fail: got %s %s, want 410 and the gaps", resp.Status, body)
			}
		})
		t.Run("topic made anew", func(t *testing.T) {
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, 1)
			k.Produce(numbered(topic, 1, 3)...)
			url := s.await(topic)
			st := subscribe(t, url+"?from=earliest")
			st.wantData(numbers(0, 3)...)
			st.close()
			k.DeleteTopic(topic)
			k.CreateTopic(topic, 1)
			k.Produce(values(topic, 0, "new")...)
			// Until the server has noticed, it may end the stream with a
			// transient error or know no such topic; a client tries again
			// with the same id.
			id := st.lastID
			var b block
			eventually(t, "an answer about the new topic", func() (bool, string) {
				again, status := trySubscribe(t, url, "Last-Event-ID: "+id)
				if again == nil {
					return false, status
				}
				var ok bool
				st = again
				b, ok = st.tryNext()
				return ok && b.name != "stream-error", fmt.Sprintf("%+v", b)
			})
			if b.name != "gap" {
				t.Fatalf("got %+v, want a gap", b)
			}
			wantJSON(t, b.data, fmt.Sprintf(`{"topic":%q,"reason":"topic-changed","exact":false}`, topic))
			st.wantData("new")
		})
		t.Run("aborted transaction is none", func(t *testing.T) {
			topic := kafkatest.UniqueTopic(t)
			k.CreateTopic(topic, 1)
			url := s.await(topic)
			live := subscribe(t, url)
			k.Produce(values(topic, 0, "before")...)
			live.wantData("before")
			id := live.lastID
			k.ProduceTxn(false, values(topic, 0, "aborted")...)
			k.ProduceTxn(true, values(topic, 0, "committed")...)
			live.wantData("committed")
			resumed := subscribe(t, url, "Last-Event-ID: "+id)
			resumed.wantData("committed")
			end := subscribe(t, url, "Last-Event-ID: "+live.lastID)
			k.Produce(values(topic, 0, "after")...)
			live.wantData("after")
			resumed.wantData("after")
			end.wantData("after")
		})
	})
}
