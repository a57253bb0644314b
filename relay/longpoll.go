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
	for _, g := range gaps {
		p.control(g.event(), 0)
	}
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
	h.Set("Content-Type", "application/json")
	h.Set("Grip-Hold", string(grip.HoldResponse))
	h.Set("Grip-Channel", ch.channel+"; prev-id="+p.internalID())
	h.Set("Grip-Timeout", seconds(wait))
	l := p.link
	l.Cursor = begin
	h["Grip-Link"] = o.nextLink(&l, "")
	w.WriteHeader(http.StatusOK)
	w.Write(pollBody(p))
}

// writeEvents answers a long poll.
func writeEvents(w http.ResponseWriter, p *page) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.Write(pollBody(p))
}

// pollBody is {"events":[…],"id":"1-…"} and a line end. The id is where the
// next request goes on.
func pollBody(p *page) []byte {
	phase := cursor.Phase(0)
	if p.ended != "" {
		phase = cursor.PhaseEnd
	}
	body := append([]byte(`{"events":[`), p.out...)
	body = append(body, `],"id":"`...)
	body, _ = p.appendID(body, phase)
	return append(body, "\"}\n"...)
}
