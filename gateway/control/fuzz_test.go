package control

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"spillway/grip"
)

// Whatever is posted: it is taken as a whole, and every item can be written and
// read again, or it is refused as a whole.
func FuzzPublish(f *testing.F) {
	for _, s := range []struct {
		path, coding string
		body         string
	}{
		{"/publish/", "", item},
		{"/realm/me/publish/a/", "", unnamed},
		{"/publish/", "gzip", zipped(item)},
		{"/publish/", "gzip", zipped(item)[:20]},
		{"/publish", "br", "{"},
		{"/service/%2F/publish/%00", "identity", `{"items":[{"http-stream":{"content-bin":"AA=="},"ws-message":{"action":"close","code":"1"}},{}]}`},
	} {
		f.Add(s.path, s.coding, []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, path, coding string, body []byte) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Host != "" || u.Path == "" {
			return
		}
		b := &memBackend{}
		h := NewHandler(Config{MaxBody: 1 << 16}, b, slog.New(slog.DiscardHandler))
		r := httptest.NewRequest(http.MethodPost, "http://localhost/", bytes.NewReader(body))
		r.URL = u
		r.Header.Set("Content-Encoding", coding)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK && len(b.items) > 0 {
			t.Errorf("got %d items and status %d, want none", len(b.items), w.Code)
		}
		if !strings.HasSuffix(w.Body.String(), "\n") || w.Code >= 500 {
			t.Errorf("got %d %q, want a line", w.Code, w.Body)
		}
		for _, it := range b.items {
			if it.HTTPStream == nil && it.HTTPResponse == nil && it.WSMessage == nil {
				continue // of formats that nobody knows
			}
			if _, err := grip.ParseItems(grip.AppendItems(nil, it)); err != nil {
				t.Errorf("got %v for our own %+v", err, it)
			}
		}
	})
}
