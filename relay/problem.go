package relay

import (
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"spillway/grip"
	"spillway/relay/auth"
)

// A problem is an error body (RFC 9457).
type problem struct {
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail,omitempty"`
	Suggestion string `json:"suggestion,omitempty"`
	Code       string `json:"code,omitempty"`
	Gaps       []gap  `json:"gaps,omitempty"`
}

func writeProblem(w http.ResponseWriter, _ *http.Request, p problem) {
	p.Title = http.StatusText(p.Status)
	dropInstructions(w.Header())
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	w.Write(append(mustJSON(p), '\n'))
}

// dropInstructions takes back what an answer that was begun as a hold said to
// the gateway.
func dropInstructions(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Grip-") {
			h.Del(name)
		}
	}
}

// notFound is the one answer for what does not exist and for what may not be
// read; it must not differ between the two.
func (o *Origin) notFound(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, r, problem{Status: http.StatusNotFound, Detail: "no such topic; " + o.path + " lists those that can be read"})
}

// fail turns an error of one request into its answer.
func (o *Origin) fail(w http.ResponseWriter, r *http.Request, err error) {
	o.tellFailure(w.Header(), err)
	var bad *badRequest
	var missing *noPartitionError
	var forbidden *forbiddenError
	var denied *auth.Denied
	var shown *auth.BadRequest
	switch {
	case errors.As(err, &bad):
		writeProblem(w, r, problem{Status: http.StatusBadRequest, Detail: bad.detail, Suggestion: bad.suggestion})
	case errors.As(err, &forbidden):
		writeProblem(w, r, problem{Status: http.StatusForbidden, Detail: forbidden.detail})
	case errors.As(err, &missing):
		writeProblem(w, r, problem{Status: http.StatusNotFound, Detail: missing.Error()})
	case errors.As(err, &denied):
		writeDenied(w, r, denied)
	case errors.As(err, &shown):
		writeProblem(w, r, problem{Status: http.StatusBadRequest, Detail: shown.Detail})
	case errors.Is(err, auth.ErrUnavailable):
		o.log.Debug("nobody can say who a request is", "err", err)
		o.Refuse(w, r, codeAuthUnavailable, authUnavailable)
	case errors.Is(err, errExpired):
		writeDenied(w, r, &auth.Denied{Status: http.StatusUnauthorized, Reason: expired, Header: http.Header{"Www-Authenticate": {`Bearer error="invalid_token"`}}})
	case errors.Is(err, errForbidden), errors.Is(err, errUnknownTopic):
		o.notFound(w, r)
	case errors.Is(err, errUnavailable):
		o.log.Debug("request refused for now", "path", r.URL.Path, "err", err)
		o.Refuse(w, r, codeKafkaUnavailable, "Kafka cannot be reached; try again")
	case errors.Is(err, errTooManyViews):
		o.Refuse(w, r, codeTooManyViews, tooManyViews)
	default:
		o.log.Error("request", "path", r.URL.Path, "err", err)
		o.Refuse(w, r, codeInternal, "internal error; try again")
	}
}

// refusalOf is why an error refuses somebody; "" where it is not about who asks, nor
// a limit.
func refusalOf(err error) string {
	var denied *auth.Denied
	switch {
	case errors.As(err, &denied) && denied.Status == http.StatusForbidden, errors.As(err, new(*forbiddenError)):
		return refusedForbidden
	case denied != nil, errors.Is(err, errExpired):
		return refusedUnauthorized
	case errors.Is(err, auth.ErrUnavailable):
		return codeAuthUnavailable
	case errors.Is(err, errTooManyViews):
		return codeTooManyViews
	case errors.Is(err, errTooManySubscriptions):
		return codeTooManySubscriptions
	}
	return ""
}

// writeDenied answers who may not go on, in the API's words where it had some.
func writeDenied(w http.ResponseWriter, r *http.Request, d *auth.Denied) {
	maps.Copy(w.Header(), d.Header)
	if d.Body == nil {
		writeProblem(w, r, problem{Status: d.Status, Detail: d.Reason})
		return
	}
	dropInstructions(w.Header())
	w.WriteHeader(d.Status)
	w.Write(d.Body)
}

const (
	authUnavailable = "it cannot be found out now who you are; try again"
	expired         = "the token has expired; come back with a new one"
)

const tooManyViews = "there are too many different selections at the moment; try again"

// Refuse answers a request that cannot be served now but may be later. A
// client that asked for an event stream gets one that says so and ends: any
// other status would make a browser give up for good. All others get a 503,
// or a 429 for too-many-connections, with Retry-After.
func (o *Origin) Refuse(w http.ResponseWriter, r *http.Request, code, message string) {
	h := w.Header()
	o.setCaching(h, r)
	o.cors.set(h, r)
	if accepts(r.Header.Values("Accept"), "text/event-stream") && !accepts(r.Header.Values("Accept"), grip.ContentTypeEvents) {
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("X-Accel-Buffering", "no")
		dropInstructions(h)
		wr := &writer{rendering: rendering{form: formPlain}}
		out := append([]byte(":ok\n"), appendRetry(nil, retryMin, retryMax)...)
		out = wr.appendControlStream(out, controlEvent{name: "stream-error", data: streamError{Code: code, Message: message, Retry: true}}, nil)
		w.WriteHeader(http.StatusOK)
		w.Write(out)
		return
	}
	status := http.StatusServiceUnavailable
	if code == codeTooManyConnections {
		status = http.StatusTooManyRequests
	}
	h.Set("Retry-After", strconv.Itoa(int(retryMax/time.Second)))
	writeProblem(w, r, problem{Status: status, Code: code, Detail: message})
}

// Close codes of a WebSocket (RFC 6455, 7.4.1, and its registry).
const (
	closePolicy   = 1008
	closeTryLater = 1013
)

// failLink answers a link that cannot be followed. A passing trouble is a 503,
// which the gateway retries while the client waits; anything else ends the
// stream with the reason.
func (o *Origin) failLink(w http.ResponseWriter, r *http.Request, l *link, err error) {
	if errors.Is(err, errUnavailable) || errors.Is(err, errTooManyViews) {
		o.log.Debug("page is late", "topics", l.Topics, "err", err)
		w.Header().Set("Retry-After", "1")
		writeProblem(w, r, problem{Status: http.StatusServiceUnavailable, Detail: err.Error()})
		return
	}
	e, closing := streamError{Code: codeInternal, Message: "the stream cannot go on", Retry: true}, closeTryLater
	switch {
	case errors.Is(err, errTooSlow):
		e = streamError{Code: codeTooSlow, Message: err.Error(), Retry: true}
		o.metrics.tooSlow.Inc()
	case errors.Is(err, errExpired):
		e, closing = streamError{Code: codeTokenExpired, Message: expired, Retry: true}, closePolicy
	case errors.Is(err, errForbidden):
		e, closing = streamError{Code: codeForbidden, Message: "this may not be read any more as it was; come back to learn what may", Retry: true}, closePolicy
	case errors.Is(err, errUnknownTopic):
		e = streamError{Code: codeTopicDeleted, Message: "the topic no longer exists", Retry: true}
	default:
		o.log.Error("page", "topics", l.Topics, "err", err)
	}
	if l.LongPoll {
		o.fail(w, r, err)
		return
	}
	o.tellRefusal(w.Header(), e.Code)
	q, _ := o.queries.of(l.queryText) // one that is broken has no channel whose name it could be
	wr := &writer{rendering: l.rendering(), channel: channelName(l.Topics, q, l.rendering()), cloud: newCloud(l.Form, o.path, nil, nil)}
	out := wr.appendControl(nil, l.Via, controlEvent{name: "stream-error", data: e}, nil)
	if l.Via == overWebSocket {
		w.Header().Set("Content-Type", grip.ContentTypeEvents)
		if !l.Subscription {
			out = grip.AppendEvent(out, grip.Event{Type: grip.EventClose, Content: grip.CloseContent(closing, e.Code)})
		}
	}
	w.WriteHeader(http.StatusOK)
	w.Write(out)
}
