package compress

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// page reads each of the streams in its fragment, and keeps what it gets by URL:
// Server-Sent Events with EventSource, NDJSON with fetch.
const page = `<!doctype html><meta charset="utf-8"><title>page</title><script>
var got = {}, ended = {}, problems = [];
async function read(url) {
  var reader = (await fetch(url)).body.pipeThrough(new TextDecoderStream()).getReader(), rest = "";
  for (;;) {
    var {done, value} = await reader.read();
    if (done) break;
    var lines = (rest + value).split("\n");
    rest = lines.pop();
    got[url].push(...lines);
  }
  if (rest) problems.push(url + ": ended with " + rest);
  ended[url] = true;
}
for (let url of JSON.parse(decodeURIComponent(location.hash.slice(1)))) {
  got[url] = [];
  if (url.includes("form=ndjson")) {
    read(url).catch(e => problems.push(url + ": " + e));
    continue;
  }
  let source = new EventSource(url);
  source.onmessage = e => got[url].push(e.data);
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) problems.push(url + ": refused");
    ended[url] = true; // it would connect again
    source.close();
  };
}
</script>`

// TestBrowser has Chromium read shared runs, from the beginning and from within
// the log: each message is there when its run was sent, and not only with the
// next one, and the end is no error.
func TestBrowser(t *testing.T) {
	if os.Getenv("SPILLWAY_E2E") != "full" {
		t.Skip("a browser runs with SPILLWAY_E2E=full")
	}
	ctx := openBrowser(t)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, page)
	}))
	t.Cleanup(site.Close)
	for _, coding := range []Coding{Gzip, Zstd} {
		t.Run(string(coding), func(t *testing.T) {
			l := newSharedLog(t)
			const late = 5
			begins := map[string]int{} // by URL
			for _, from := range []int{0, late} {
				begins[l.url("sse", coding, from)] = from
				begins[l.url("ndjson", coding, from)] = from
			}
			urls := make([]string, 0, len(begins))
			for url := range begins {
				urls = append(urls, url)
			}
			text, err := json.Marshal(urls)
			if err != nil {
				t.Fatal(err)
			}
			// Between two fragments of one page a browser loads nothing.
			do(t, ctx, chromedp.Navigate("about:blank"))
			do(t, ctx, chromedp.Navigate(site.URL+"/#"+strings.ReplaceAll(string(text), "%", "%25")))
			want := map[string][]string{} // by URL
			for _, batch := range batches() {
				for _, i := range batch {
					for url, from := range begins {
						for j := range messagesIn(i) {
							if i >= from {
								want[url] = append(want[url], message(i, j))
							}
						}
					}
				}
				l.release(len(batch))
				await(t, ctx, fmt.Sprintf("runs %v", batch), func(s state) bool {
					for url := range want {
						if len(s.Got[url]) < len(want[url]) {
							return false
						}
					}
					return true
				})
			}
			l.release(1)
			s := await(t, ctx, "the end", func(s state) bool { return len(s.Ended) == len(begins) })
			for url := range begins {
				if got := s.Got[url]; !slices.Equal(got, want[url]) {
					t.Errorf("%s: got %q, want %q", url, got, want[url])
				}
			}
		})
	}
}

// state is what the page has.
type state struct {
	Got      map[string][]string
	Ended    map[string]bool
	Problems []string
}

// await waits until the page is as it should be, and fails when it has problems.
func await(t *testing.T, ctx context.Context, what string, enough func(state) bool) state {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var s state
		limited, cancel := context.WithDeadline(ctx, deadline)
		text, err := chromedp.Run(limited, chromedp.Evaluate[string](
			`JSON.stringify(typeof got === "undefined" ? {} : {got, ended, problems})`))
		cancel()
		if err == nil {
			err = json.Unmarshal([]byte(text), &s)
		}
		if err != nil || len(s.Problems) > 0 {
			t.Fatalf("%s: %v, problems %q; got %s", what, err, s.Problems, text)
		}
		if enough(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s; got %s", patience, what, text)
		}
		time.Sleep(20 * time.Millisecond) // between two looks, not instead of one
	}
}

func do(t *testing.T, ctx context.Context, action chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, action); err != nil {
		t.Fatalf("browser: %v", err)
	}
}

// openBrowser starts a browser with one tab.
func openBrowser(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		skip(t, "chromium is not installed (Debian: apt-get install chromium)")
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
		chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WSURLReadTimeout(patience),
	)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	// Cancel waits until the browser has ended, so that its directory can go.
	t.Cleanup(func() { _ = chromedp.Cancel(ctx); cancel() })
	if err := chromedp.Do(ctx); err != nil { // its context is the browser's life
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}
