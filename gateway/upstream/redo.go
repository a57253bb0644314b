package upstream

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"spillway/gateway/route"
	"spillway/grip"
)

// Redo makes a request again that Do has made, with all of its body and the
// last ids of channels: a long poll that has to learn what it missed (GRIP
// reference, 4.2). Everything else is as with Do.
func (f *Forwarder) Redo(ctx context.Context, r *http.Request, rt *route.Route, body []byte, lasts []grip.Last) (*http.Response, error) {
	out := &outgoing{
		kind:       kindRequest,
		method:     r.Method,
		path:       route.EncodedPath(r),
		query:      r.URL.RawQuery,
		forceQuery: r.URL.ForceQuery,
		host:       hostOf(r, rt),
		header:     f.requestHeader(r, rt),
	}
	grip.AppendLast(out.header, lasts...)
	if len(body) > 0 {
		out.body, out.length = newBody(io.NopCloser(bytes.NewReader(body)), int64(len(body))), int64(len(body))
	}
	return f.send(ctx, out, rt)
}
