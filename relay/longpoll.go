package relay

import (
	"net/http"
	"time"

	"spillway/grip"
	"spillway/relay/cursor"
)

// longPoll answers at once when there is something, and else holds until there
// is or the time is up; the gateway then asks the link.
func (o *Origin) longPoll(w http.ResponseWriter, r *http.Request, p *page, gaps []gap, wait time.Duration) {
	h := w.Header()
	p.gaps(gaps)
	begin := p.internalID()
	ch, live, err := o.follow(r.Context(), p)
	if err != nil {
		o.fail(w, r, err)
		return
	}
	if len(p.out) > 0 || !live {
		writeEvents(w, p)
		return
	}
	body := pollBody(h, p)
	h.Set("Grip-Hold", string(grip.HoldResponse))
	h.Set("Grip-Channel", ch.channel+"; prev-id="+p.internalID())
	h.Set("Grip-Timeout", seconds(sooner(p.link.Right.left(p.now), wait)))
	l := p.link
	l.Cursor = begin
	h["Grip-Link"] = o.nextLink(&l, "")
	w.WriteHeader(http.StatusOK)
	w.Write(body)
}

// writeEvents answers a long poll.
func writeEvents(w http.ResponseWriter, p *page) {
	body := pollBody(w.Header(), p)
	w.WriteHeader(http.StatusOK)
	w.Write(body)
}

// pollType is the Content-Type of the answer to a long poll.
func pollType(f form) []string {
	if f == formCloudBatch {
		return typeCloudBatch
	}
	return typeJSON
}

// lastIDHeader says where the next request goes on, where the body has no room
// for it.
const lastIDHeader = "Spillway-Last-Event-Id"

// pollBody is {"events":[…],"id":"1-…"} and a line end. The id is where the
// next request goes on. A batch of CloudEvents is the array alone.
func pollBody(h http.Header, p *page) []byte {
	h["Content-Type"] = pollType(p.w.form)
	phase := cursor.Phase(0)
	if p.ended != "" {
		phase = cursor.PhaseEnd
	}
	if p.w.form == formCloudBatch {
		id, _ := p.appendID(nil, phase)
		h[lastIDHeader] = []string{string(id)}
		if h["Access-Control-Expose-Headers"] != nil {
			h["Access-Control-Expose-Headers"] = exposedWithID
		}
		body := append([]byte{'['}, p.out...)
		return append(body, "]\n"...)
	}
	body := append([]byte(`{"events":[`), p.out...)
	body = append(body, `],"id":"`...)
	body, _ = p.appendID(body, phase)
	return append(body, "\"}\n"...)
}
