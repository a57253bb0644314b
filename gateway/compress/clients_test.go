package compress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// patience is how long a test waits for what must happen: long, because a loaded
// machine is slow, and never reached when all is well.
const patience = 60 * time.Second

// A shared log is sent to all clients as the same bytes: runs of some messages
// each, as the test releases them, and then the end. What is released together is
// written in one piece.
//
//	GET /?form=sse&coding=gzip&from=2    from run 2 on
//
// The answer is 406 to a client that does not accept the coding.
type sharedLog struct {
	*httptest.Server
	runs map[string][][]byte // by form and coding

	mu       sync.Mutex
	released int           // guarded by mu; runs
	more     chan struct{} // guarded by mu; closed when released changes
}

const logRuns = 12

// messagesIn is how many messages a run holds: one that is short, and more.
func messagesIn(run int) int { return 1 + run%3 }

func newSharedLog(t *testing.T) *sharedLog {
	l := &sharedLog{runs: map[string][][]byte{}, more: make(chan struct{})}
	sums := map[string][]Sum{"sse": {{}}, "ndjson": {{}}} // before each run, by form
	for i := range logRuns {
		var sse, ndjson []byte
		for j := range messagesIn(i) {
			ndjson = append(ndjson, message(i, j)+"\n"...)
			sse = append(sse, "data: "+message(i, j)+"\n\n"...)
		}
		for form, text := range map[string][]byte{"sse": sse, "ndjson": ndjson} {
			l.runs[form+"gzip"] = append(l.runs[form+"gzip"], AppendDeflate(nil, text))
			l.runs[form+"zstd"] = append(l.runs[form+"zstd"], AppendZstd(nil, text))
			sums[form] = append(sums[form], sums[form][i].Add(text))
		}
	}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		form := r.URL.Query().Get("form")
		coding := Coding(r.URL.Query().Get("coding"))
		from, err := strconv.Atoi(r.URL.Query().Get("from"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		// Pages of any origin may look, like those of Spillway.
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if Choose(r.Header.Get("Accept-Encoding"), []Coding{coding}) != coding {
			http.Error(w, "Accept-Encoding: "+r.Header.Get("Accept-Encoding"), http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Encoding", string(coding))
		w.Header().Set("Content-Type", map[string]string{"sse": "text/event-stream", "ndjson": "application/x-ndjson"}[form])
		// await flushes, unless there is more to write at once. It reports
		// whether the client has stayed.
		await := func(run int) bool {
			for {
				ok, more := l.isReleased(run)
				if ok {
					return true
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return false
				}
				select {
				case <-more:
				case <-r.Context().Done():
					return false
				}
			}
		}
		if coding == Gzip {
			w.Write(GzipHeader)
		}
		for i, run := range l.runs[form+string(coding)] {
			if i < from {
				continue
			}
			if !await(i) {
				return
			}
			w.Write(run)
		}
		if !await(logRuns) {
			return
		}
		if coding == Gzip {
			w.Write(AppendGzipEnd(nil, sums[form][logRuns].After(sums[form][from])))
		}
	}))
	t.Cleanup(l.Close)
	t.Cleanup(l.CloseClientConnections)
	return l
}

// message has something of its own in each, and much that repeats.
func message(run, i int) string {
	return fmt.Sprintf(`{"run":%d,"message":%d,"topic":"orders","state":"packed","café":"naïve ☕"}`, run, i)
}

func (l *sharedLog) url(form string, coding Coding, from int) string {
	return fmt.Sprintf("%s/?form=%s&coding=%s&from=%d", l.URL, form, coding, from)
}

// release sends n more runs; after the last one, the end.
func (l *sharedLog) release(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released += n
	close(l.more)
	l.more = make(chan struct{})
}

// isReleased also returns what is closed when more is.
func (l *sharedLog) isReleased(run int) (ok bool, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.released > run, l.more
}

// batches are the runs that are released together: most alone, some of them not.
func batches() [][]int {
	var b [][]int
	for i := range logRuns - 4 {
		b = append(b, []int{i})
	}
	return append(b, []int{logRuns - 4, logRuns - 3, logRuns - 2, logRuns - 1})
}

// wantRuns reads an NDJSON stream that began at run from: each message comes
// when its run is released and not only with the next one, and then the end.
func (l *sharedLog) wantRuns(t *testing.T, stream io.Reader, from int) {
	t.Helper()
	lines := bufio.NewReader(stream)
	for _, batch := range batches() {
		l.release(len(batch))
		for _, i := range batch {
			for j := range messagesIn(i) {
				if i < from {
					continue
				}
				got, err := lines.ReadString('\n')
				if want := message(i, j) + "\n"; err != nil || got != want {
					t.Fatalf("run %d: got %q and %v, want %q", i, got, err, want)
				}
			}
		}
	}
	l.release(1)
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("at the end: got %q and %v, want nothing", rest, err)
	}
}

// Go's client takes gzip by itself; zstd is asked for.
func TestGoClient(t *testing.T) {
	for _, coding := range []Coding{Gzip, Zstd} {
		for _, from := range []int{0, 5} {
			t.Run(fmt.Sprintf("%s from %d", coding, from), func(t *testing.T) {
				l := newSharedLog(t)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url("ndjson", coding, from), nil)
				if err != nil {
					t.Fatal(err)
				}
				if coding != Gzip {
					req.Header.Set("Accept-Encoding", string(coding))
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK || resp.Uncompressed != (coding == Gzip) {
					t.Fatalf("got %s, uncompressed %v", resp.Status, resp.Uncompressed)
				}
				stream := io.Reader(resp.Body)
				if coding == Zstd {
					d, err := zstd.NewReader(stream, zstd.WithDecoderConcurrency(1))
					if err != nil {
						t.Fatal(err)
					}
					defer d.Close()
					stream = d
				}
				l.wantRuns(t, stream, from)
			})
		}
	}
}

// curl checks the end of gzip, and says by its exit code what it thinks of it.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		skip(t, "curl is not installed (Debian: apt-get install curl)")
	}
	version, err := exec.Command("curl", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, coding := range []Coding{Gzip, Zstd} {
		for _, from := range []int{0, 5} {
			t.Run(fmt.Sprintf("%s from %d", coding, from), func(t *testing.T) {
				feature := map[Coding]string{Gzip: "libz", Zstd: "zstd"}[coding]
				if !strings.Contains(string(version), " "+feature) {
					skip(t, "curl was built without "+feature)
				}
				l := newSharedLog(t)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, "curl", "-sS", "-N", "--fail", "--compressed", l.url("ndjson", coding, from))
				var problems strings.Builder
				cmd.Stderr = &problems
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if t.Failed() {
						cancel()
					}
					if err := cmd.Wait(); err != nil {
						t.Errorf("curl: %v: %s", err, problems.String())
					}
				}()
				l.wantRuns(t, out, from)
			})
		}
	}
}

// skip skips a test for want of something on this machine, aloud: it leaves a
// line in the file named by SPILLWAY_SKIPS, and with CI=true it fails.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI must not skip: %s", why)
	}
	if file := os.Getenv("SPILLWAY_SKIPS"); file != "" {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatalf("SPILLWAY_SKIPS: %v", err)
		}
		_, err = fmt.Fprintf(f, "%s: %s\n", t.Name(), why)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatalf("SPILLWAY_SKIPS: %v", err)
		}
	}
	t.Skip(why)
}
