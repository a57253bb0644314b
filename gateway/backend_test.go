package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"spillway/grip"
)

// control sends a request to the control API, and returns the answer's body.
func (f *fixture) control(t *testing.T, path, body string) (string, http.Header) {
	t.Helper()
	resp, err := http.Post("http://"+f.ControlAddr().String()+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), resp.Header
}

// Recover makes long polls repeat their request and streams ask their link; a
// stream without one stays as it is.
func TestRecover(t *testing.T) {
	var polls, pages, plains atomic.Int32
	var last atomic.Value
	f, _ := routed(t, map[string]http.HandlerFunc{
		"/poll": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Hold", "response")
			w.Header().Set("Grip-Channel", "fruit")
			polls.Add(1)
		},
		"/stream": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit; prev-id=1")
			w.Header().Set("Grip-Link", "<page>; rel=next")
			io.WriteString(w, "first ")
		},
		"/page": func(w http.ResponseWriter, r *http.Request) {
			last.Store(r.Header.Get("Grip-Last"))
			pages.Add(1)
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit; prev-id=1")
			w.Header().Set("Grip-Link", "<page>; rel=next")
			io.WriteString(w, "page ")
		},
		"/plain": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Grip-Hold", "stream")
			w.Header().Set("Grip-Channel", "fruit")
			plains.Add(1)
		},
	}, "")
	stream, plain := f.get(t, "/stream"), f.get(t, "/plain")
	answered := make(chan *http.Response, 1)
	go func() {
		resp, err := http.Get(f.url + "/poll")
		if err != nil {
			t.Error(err)
		}
		answered <- resp
	}()
	f.listening(t, "fruit", 3)
	if got, _ := f.control(t, "/recover/", ""); got != "Updated\n" {
		t.Errorf("got %q, want Updated", got)
	}
	stream.want("first page ")
	if got, want := last.Load(), "fruit; last-id=1"; got != want {
		t.Errorf("Grip-Last: got %q, want %q", got, want)
	}
	eventually(t, "the long poll's second request", func() bool { return polls.Load() == 2 })
	f.listening(t, "fruit", 3)
	got, header := f.control(t, "/publish/", string(grip.AppendItems(nil, text("fruit", "2", "1", "apple"), text("fruit", "2", "1", "apple"), text("nobody", "", "", "x"))))
	if got != "Published\n" || header.Get("Spillway-Receivers") != "3" || header.Get("Spillway-Dropped") != "1" {
		t.Errorf("got %q %v, want 3 receivers, 1 dropped", got, header)
	}
	plain.want("apple")
	stream.want("apple")
	resp := <-answered
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "apple" {
		t.Errorf("long poll: got %q, %v, want apple", b, err)
	}
	if pages, plains := pages.Load(), plains.Load(); pages != 1 || plains != 1 {
		t.Errorf("got %d pages and %d requests of the plain stream, want 1 and 1", pages, plains)
	}
}

// A recovery that goes on does not hold up the end.
func TestRecoverWhileDraining(t *testing.T) {
	f, _ := routed(t, map[string]http.HandlerFunc{"/plain": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Grip-Hold", "stream")
		w.Header().Set("Grip-Channel", "fruit")
	}}, "")
	c := f.get(t, "/plain")
	f.listening(t, "fruit", 1)
	b := &backend{g: f.Gateway}
	done := make(chan bool)
	go func() { done <- b.restraint(1_000_000) }()
	ctx, cancel := contextWithTimeout()
	defer cancel()
	for range 3 {
		if err := b.Recover(ctx); err != nil {
			t.Error(err)
		}
	}
	if err := f.Drain(ctx); err != nil {
		t.Error(err)
	}
	c.wantEnd("")
	if <-done {
		t.Error("restraint waited as if there was no drain")
	}
}
