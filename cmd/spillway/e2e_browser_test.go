package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/relay/kafkatest"
)

// page subscribes to the URL in its fragment and keeps what it gets.
const page = `<!doctype html><meta charset="utf-8"><title>page</title><script>
var got = [], opened = 0, errors = 0, ended = false;
var source = new EventSource(decodeURIComponent(location.hash.slice(1)));
source.onopen = function() { opened++; };
source.onerror = function() { errors++; ended = source.readyState === EventSource.CLOSED; };
source.onmessage = function(e) { got.push({id: e.lastEventId, data: e.data}); };
</script>`

// TestBrowser has a real browser behind a page of another origin, and kills
// and restarts the server under it: the page ends up with every record once.
func TestBrowser(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("a browser runs with SPILLWAY_E2E=full")
	}
	kafkatest.Each(t, func(t *testing.T, k *kafkatest.Cluster) {
		topic := kafkatest.UniqueTopic(t)
		k.CreateTopic(topic, 3)
		s := serve(t, k)
		site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(w, page)
		}))
		t.Cleanup(site.Close)

		b := openBrowser(t)
		// Another port is another origin.
		b.open(site.URL + "/#" + s.url + "/events/" + topic + "/")
		b.await("it is connected", `opened === 1`)

		n := 0
		produce := func(count int) {
			t.Helper()
			k.Produce(numbered(topic, 3, n+count)[n:]...)
			n += count
		}
		produce(30)
		b.await("30 records", `got.length >= 30`)

		s.kill()
		produce(30) // nobody serves them yet
		b.await("it notices", `errors > 0`)
		s.start()
		b.await("60 records", `got.length >= 60`)

		s.stop()
		produce(30)
		s.start()
		b.await("90 records", `got.length >= 90`)

		k.Restart()
		produce(30)
		b.await("120 records", `got.length >= 120`)

		var got []struct{ ID, Data string }
		b.evaluate(`got`, &got)
		var data []string
		ids := map[string]bool{}
		for _, e := range got {
			data = append(data, e.Data)
			if e.ID == "" || ids[e.ID] {
				t.Errorf("record %s: got id %q, want one of its own", e.Data, e.ID)
			}
			ids[e.ID] = true
		}
		slices.Sort(data)
		if want := slices.Sorted(slices.Values(numbers(0, n))); !slices.Equal(data, want) {
			t.Errorf("records: got %q, want each once: %q", data, want)
		}

		// A bounded replay ends for good: the browser is told not to return.
		b.open(site.URL + "/#" + s.url + "/events/" + topic + "/?from=earliest%26limit=10")
		b.await("the end", `ended`)
		b.await("just what was asked for", `got.length === 10`)

		// Nor does it return to what is not there.
		b.open(site.URL + "/#" + s.url + "/events/nosuch/")
		b.await("no such topic", `ended && opened === 0`)
	})
}

// The page that lists the topics shows the records of the one that is chosen.
func TestTopicsPage(t *testing.T) {
	if !kafkatest.Full() {
		t.Skip("a browser runs with SPILLWAY_E2E=full")
	}
	k := kafkatest.Fake(t, kafkatest.Topic("greetings", 1))
	k.Produce(&kgo.Record{Topic: "greetings", Value: []byte("<b>hello</b> from before")})
	s := serve(t, k)
	b := openBrowser(t)
	b.open(s.url + "/")
	var clicked bool
	b.evaluate(`(() => { document.querySelector("button[data-url='/events/greetings/']").click(); return true })()`, &clicked)
	shows := func(want string) {
		t.Helper()
		eventually(t, "the page shows "+want, func() (bool, string) {
			var text string
			b.evaluate(`document.getElementById("events").textContent`, &text)
			return strings.Contains(text, want), text
		})
	}
	shows("<b>hello</b> from before") // as text
	k.Produce(&kgo.Record{Topic: "greetings", Value: []byte("hello now")})
	shows("hello now\n<b>hello</b>") // the newest above
}

// A browser is one tab.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		kafkatest.Skip(t, "chromium is not installed (Debian: apt-get install chromium)")
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path),
		chromedp.NoFirstRun,
		chromedp.NoDefaultBrowserCheck,
		chromedp.Headless,
		chromedp.NoSandbox, // containers run as root
		chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("ignore-certificate-errors", true), // tests make their own
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(patience),
	)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	// Cancel waits until the browser has ended, so that its directory can go.
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); cancel() })
	b := &browser{t, ctx}
	if err := chromedp.Do(ctx); err != nil { // its context is the browser's life
		t.Fatalf("start %s: %v", path, err)
	}
	return b
}

// open loads a page; the one before it, with its connections, is gone.
func (b *browser) open(url string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	// Between two fragments of one page a browser loads nothing.
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank"), chromedp.Navigate(url)); err != nil {
		b.t.Fatalf("browser: open %s: %v", url, err)
	}
}

// evaluate stores the value of an expression in the page in v.
func (b *browser) evaluate(expression string, v any) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string]("JSON.stringify("+expression+")"))
	if err == nil {
		err = json.Unmarshal([]byte(text), v)
	}
	if err != nil {
		b.t.Fatalf("browser: evaluate %s: %v", expression, err)
	}
}

// await waits until an expression is true in the page.
func (b *browser) await(what, expression string) {
	b.t.Helper()
	eventually(b.t, what, func() (bool, string) {
		var state struct {
			OK    bool
			State json.RawMessage
		}
		b.evaluate(`{ok: !!(`+expression+`), state: {opened, errors, ended, count: got.length, newest: got.slice(-3)}}`, &state)
		return state.OK, string(state.State)
	})
}
