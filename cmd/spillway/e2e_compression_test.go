package main_test

// Compressed streams, as the clients see them that decode them.

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// wordy makes records with the values that wordyValues lists, which gain from
// compression.
func wordy(topic string, partitions, first, last int) []*kgo.Record {
	var rs []*kgo.Record
	for i, v := range wordyValues(first, last) {
		rs = append(rs, values(topic, int32((first+i)%partitions), v)...)
	}
	return rs
}

func wordyValues(first, last int) []string {
	vs := numbers(first, last)
	for i := range vs {
		vs[i] += strings.Repeat(" and much that repeats", 50)
	}
	return vs
}

// deliveredBytes is how much all clients were sent, as the metrics say.
func (s *server) deliveredBytes() float64 {
	s.t.Helper()
	return s.metric("spillway_delivered_bytes_total")
}

func TestCompression(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 1)
		s := serve(t, k, "COMPRESSION=zstd,gzip,permessage-deflate")
		url := s.url + "/events/" + topic + "/"
		n := 0
		produce := func(count int) []string {
			t.Helper()
			k.Produce(wordy(topic, 1, n, n+count)...)
			n += count
			return wordyValues(n-count, n)
		}

		t.Run("SSE by Go", func(t *testing.T) { // which asks for gzip by itself
			early := subscribe(t, url)
			if !early.resp.Uncompressed {
				t.Errorf("header: got %v, want a response that Go has decoded", early.resp.Header)
			}
			early.wantData(produce(1)...)
			early.wantData(produce(40)...)
			// Clients that come in the middle of what others were sent together.
			var late []*stream
			id := early.lastID
			all := produce(40)
			for i := range 20 {
				early.wantData(all[i])
				if i%5 == 0 {
					late = append(late, subscribe(t, url, "Last-Event-ID: "+early.lastID))
				}
			}
			for i, st := range late {
				st.wantData(all[5*i+1:]...)
			}
			early.wantData(all[20:]...)
			next := produce(3)
			for _, st := range append(late, early) {
				st.wantData(next...)
				st.close()
			}
			missed := produce(5)
			again := subscribe(t, url, "Last-Event-ID: "+id)
			again.wantData(slices.Concat(all, next, missed)...)
			again.wantData(produce(2)...)
		})
		t.Run("an end by Go", func(t *testing.T) {
			st := subscribe(t, url+"?from=earliest&limit=3")
			st.wantData(wordyValues(0, 3)...)
			st.wantEvent("end", `{"reason":"limit"}`)
			st.wantEnd() // with the right sum
		})
		for _, coding := range []string{"gzip", "zstd"} {
			t.Run("NDJSON by curl as "+coding, func(t *testing.T) {
				needCurl(t, coding)
				st := lines(t, "curl", "-i", "-s", "-N", "--compressed", "-H", "Accept-Encoding: "+coding,
					"-H", "Accept: application/x-ndjson", url+"?last=2")
				head := http.Header{}
				for line := st.next(); line != "\r"; line = st.next() {
					name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r"), ": ")
					head.Add(name, value)
				}
				if got := head.Get("Content-Encoding"); got != coding {
					t.Errorf("Content-Encoding: got %q, want %s", got, coding)
				}
				if !slices.Contains(head.Values("Vary"), "Accept-Encoding") {
					t.Errorf("Vary: got %q, want Accept-Encoding", head.Values("Vary"))
				}
				want := wordyValues(n-2, n)
				for range 3 {
					for _, value := range want {
						line := st.nextFull()
						for !strings.Contains(line, `"value":`) {
							line = st.nextFull() // a heartbeat
						}
						wantJSON(t, line, fmt.Sprintf(`{"topic":%q,"value":%q}`, topic, value))
					}
					want = produce(3) // each comes at once
				}
			})
			t.Run("SSE by curl to the end as "+coding, func(t *testing.T) {
				needCurl(t, coding)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				out, err := exec.CommandContext(ctx, "curl", "-s", "-S", "-N", "--compressed", "-H", "Accept-Encoding: "+coding, url+"?from=earliest&limit=10").Output()
				if err != nil { // also when the sum at the end is wrong
					t.Errorf("curl: %v", err)
				}
				var got []string
				for line := range strings.Lines(string(out)) {
					if value, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "data: "); ok {
						got = append(got, value)
					}
				}
				if want := wordyValues(0, 10); len(got) != 11 || !slices.Equal(got[:10], want) {
					t.Errorf("got %d data lines %.200q, want 10 records and the end", len(got), got)
				}
			})
		}
		t.Run("WebSocket", func(t *testing.T) {
			conn, resp, err := websocket.Dial(t.Context(), url+"?last=2", &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover, Subprotocols: []string{"spillway.v1.json"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.CloseNow() })
			if got := resp.Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
				t.Errorf("extensions: got %q, want permessage-deflate", got)
			}
			ws := &wsConn{t, conn}
			want := wordyValues(n-2, n)
			for range 3 {
				for _, value := range want {
					wantJSON(t, ws.record(), fmt.Sprintf(`{"topic":%q,"value":%q}`, topic, value))
				}
				want = produce(3)
			}
		})
		t.Run("nothing is asked for", func(t *testing.T) {
			resp, body := fetch(t, url+"?from=earliest&limit=1", "Accept-Encoding: identity")
			if got := resp.Header.Get("Content-Encoding"); got != "" || !strings.Contains(body, "data: "+wordyValues(0, 1)[0]+"\n") {
				t.Errorf("got Content-Encoding %q and %.200q, want the first record as it is", got, body)
			}
		})
	})
}

// needCurl skips a test where there is no curl, or none that decodes this.
func needCurl(t *testing.T, coding string) {
	t.Helper()
	feature := map[string]string{"gzip": " libz", "zstd": " zstd"}[coding]
	for line := range lines(t, "curl", "-V").lines {
		if strings.HasPrefix(line, "Features:") && strings.Contains(line, feature) {
			return
		}
	}
	kafkatest.Skip(t, "curl was built without"+feature)
}

// compressedPage reads the URL in its fragment in three ways, each of which comes
// back by itself with the last id that it has.
const compressedPage = `<!doctype html><meta charset="utf-8"><title>page</title><script>
var got = [], opened = 0, errors = 0, ended = false, by = {sse: [], ndjson: [], socket: []}, extensions = "";
var url = decodeURIComponent(location.hash.slice(1));
function have(way, value) { by[way].push(value); got.push(way + " " + value.slice(0, 10)); }
var source = new EventSource(url);
source.onopen = () => { opened++; };
source.onerror = () => { errors++; ended = source.readyState === EventSource.CLOSED; };
source.onmessage = e => have("sse", e.data);
function after(id) { return id ? "?last_event_id=" + encodeURIComponent(id) : ""; }
function soon(f) { errors++; setTimeout(f, 200); }
var lineID = "", socketID = "";
async function readLines() {
  try {
    var response = await fetch(url + after(lineID), {headers: {Accept: "application/x-ndjson"}});
    if (!response.ok) throw response.status;
    opened++;
    var reader = response.body.pipeThrough(new TextDecoderStream()).getReader(), rest = "";
    for (;;) {
      var {done, value} = await reader.read();
      if (done) break;
      var lines = (rest + value).split("\n");
      rest = lines.pop();
      for (var line of lines.filter(l => l)) {
        var record = JSON.parse(line);
        if (record.value !== undefined) have("ndjson", record.value);
        if (record.id) lineID = record.id;
      }
    }
  } catch (e) {}
  soon(readLines);
}
readLines();
function readSocket() {
  var socket = new WebSocket(url.replace("http", "ws") + after(socketID), "spillway.v1.json");
  socket.onopen = () => { opened++; extensions = socket.extensions; };
  socket.onmessage = e => {
    var message = JSON.parse(e.data);
    if (message.type === "record") have("socket", message.value);
    if (message.id) socketID = message.id;
  };
  socket.onclose = () => soon(readSocket);
}
readSocket();
</script>`

// TestCompressionInBrowser kills and restarts the server under EventSource, fetch
// and WebSocket of a real browser: each ends up with every record once, and little
// was sent.
func TestCompressionInBrowser(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("a browser runs with SPILLWAY_E2E=full")
	}
	b := openBrowser(t)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, compressedPage)
	}))
	t.Cleanup(site.Close)
	for _, coding := range []string{"gzip", "zstd"} {
		t.Run(coding, func(t *testing.T) {
			b := &browser{t, b.ctx}
			k := kafkatest.Fake(t, kafkatest.Topic("c", 3))
			s := serve(t, k, "COMPRESSION="+coding+",permessage-deflate")
			t.Cleanup(func() { b.open("about:blank") }) // or it would keep coming back
			b.open(site.URL + "/#" + url.PathEscape(s.url+"/events/c/"))
			b.await("all are connected", `opened === 3`)
			n := 0
			produce := func(count int) {
				t.Helper()
				k.Produce(wordy("c", 3, n, n+count)...)
				n += count
			}
			everywhere := func() {
				t.Helper()
				b.await(fmt.Sprint(n, " records everywhere"), fmt.Sprintf(
					`by.sse.length >= %d && by.ndjson.length >= %[1]d && by.socket.length >= %[1]d`, n))
			}
			little := func(records int) {
				t.Helper()
				sent, whole := s.deliveredBytes(), 3*records*len(wordyValues(0, 1)[0])
				if sent == 0 || sent > float64(whole)/2 {
					t.Errorf("bytes sent: got %v, want less than half of %d", sent, whole)
				}
			}
			produce(1)
			everywhere()
			produce(60)
			everywhere()
			little(n)

			s.kill()
			produce(30) // nobody serves them yet
			b.await("they notice", `errors >= 3`)
			s.start()
			everywhere()
			s.stop()
			produce(30)
			s.start()
			everywhere()
			before := n
			produce(60)
			everywhere()
			little(n - before + 30)

			var by map[string][]string
			b.evaluate(`by`, &by)
			want := slices.Sorted(slices.Values(wordyValues(0, n)))
			for way, got := range by {
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("%s: got %d records, want each of %d once", way, len(got), len(want))
				}
			}
			var extensions string
			if b.evaluate(`extensions`, &extensions); !strings.HasPrefix(extensions, "permessage-deflate") {
				t.Errorf("extensions: got %q, want permessage-deflate", extensions)
			}
		})
	}
}
