package control

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"spillway/grip"
)

// A target is where the path of a request to publish leads to.
type target struct {
	realm   string // of a hosted service, or the service itself; empty: none
	channel string // of items that name none; empty: each names its own
}

// publishTarget reads a path. ok is false where it is none to publish to.
//
//	/publish/                      Pushpin
//	/realm/ID/publish/             Fanout Cloud
//	/realm/ID/publish/CHANNEL/     the same, for items without a channel
//	/service/ID/publish/           Fastly Fanout
//
// Whatever else stands before /publish/ is the rest of somebody's GRIP_URL, and
// says nothing. The last slash may be missing.
func publishTarget(u *url.URL) (to target, ok bool) {
	if u.Path == "/publish/" || u.Path == "/publish" {
		return target{}, true
	}
	segments := strings.Split(strings.TrimSuffix(u.EscapedPath(), "/"), "/")
	for i, s := range segments {
		var err error
		if segments[i], err = url.PathUnescape(s); err != nil {
			return target{}, false
		}
	}
	n := len(segments)
	realm := func(i int) (id string, ok bool) { // of a "publish" that stands at i
		if i < 3 || segments[i-2] != "realm" && segments[i-2] != "service" {
			return "", false
		}
		return segments[i-1], true
	}
	switch {
	case n >= 2 && segments[n-1] == "publish":
		to.realm, _ = realm(n - 1)
		return to, true
	case n >= 2 && segments[n-2] == "publish" && segments[n-1] != "":
		to.realm, ok = realm(n - 2)
		to.channel = segments[n-1]
		return to, ok
	}
	return target{}, false
}

// Quick reports whether the API's handler answers a request, whose body is there,
// without waiting for anything: it publishes.
func Quick(r *http.Request) bool {
	_, publishes := publishTarget(r.URL)
	return publishes && r.Method == http.MethodPost
}

func (h *handler) publish(w http.ResponseWriter, r *http.Request, to target, asJSON bool) {
	refuse := func(code int, line string) {
		h.count(refused)
		text(w, code, line)
	}
	buf := bodies.Get().(*bytes.Buffer)
	defer func() {
		if buf.Cap() <= maxKept {
			bodies.Put(buf)
		}
	}()
	body, err := h.body(w, r, buf)
	if errors.Is(err, errEncoding) {
		w.Header().Set("Accept-Encoding", "gzip") // RFC 9110, 12.5.3
		refuse(http.StatusUnsupportedMediaType, err.Error())
		return
	}
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	items, err := grip.ParseItems(body)
	if to.channel != "" {
		items, err = grip.ParseItemsFor(to.channel, body)
	}
	if err != nil {
		refuse(http.StatusBadRequest, err.Error())
		return
	}
	receipt, err := h.backend.Publish(r.Context(), items...)
	if no := (*Refused)(nil); errors.As(err, &no) {
		refuse(http.StatusBadRequest, no.Text)
		return
	}
	if err != nil {
		h.failed(w, "publish", err)
		return
	}
	h.count(published)
	h.items.Add(float64(len(items)))
	w.Header().Set("Spillway-Receivers", strconv.Itoa(receipt.Receivers))
	w.Header().Set("Spillway-Dropped", strconv.Itoa(receipt.Dropped))
	done(w, asJSON, "Published")
}

// Texts of a body that cannot be read, in Pushpin's words where it has some.
var (
	errTooLarge = errors.New("Request body too large.")                                    //nolint:staticcheck // goes to the client as it is
	errCutOff   = errors.New("Request body incomplete.")                                   //nolint:staticcheck // likewise
	errGzip     = errors.New("Request body is not gzip.")                                  //nolint:staticcheck // likewise
	errEncoding = errors.New("Content-Encoding not supported; use gzip, or leave it out.") //nolint:staticcheck // likewise
)

const (
	// maxTrusted bounds the memory that is set aside because a Content-Length
	// says so, in bytes.
	maxTrusted = 1 << 20

	// maxKept bounds the memory that is kept for the next body, in bytes.
	maxKept = 64 << 10
)

// bodies are for reading; items do not refer to them (grip.ParseItems).
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// body reads the body into buf. MaxBody bounds what is sent, and what comes out of
// it.
func (h *handler) body(w http.ResponseWriter, r *http.Request, buf *bytes.Buffer) ([]byte, error) {
	if r.ContentLength > h.cfg.MaxBody {
		return nil, errTooLarge
	}
	body := http.MaxBytesReader(w, r.Body, h.cfg.MaxBody)
	var zipped bool
	switch coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); coding {
	case "", "identity":
	case "gzip", "x-gzip":
		zipped = true
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, bodyError(err, errGzip)
		}
		body = http.MaxBytesReader(w, z, h.cfg.MaxBody)
	default:
		return nil, errEncoding
	}
	buf.Reset()
	// No second buffer for a body of known length.
	buf.Grow(int(min(max(r.ContentLength, 0), maxTrusted)) + bytes.MinRead)
	if _, err := io.Copy(buf, body); err != nil {
		if zipped {
			return nil, bodyError(err, errGzip)
		}
		return nil, bodyError(err, errCutOff)
	}
	return buf.Bytes(), nil
}

// bodyError is what the publisher is told of an error in reading.
func bodyError(err, otherwise error) error {
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return errTooLarge
	}
	return otherwise
}
