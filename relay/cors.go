package relay

import (
	"net/http"
	"slices"
)

// cors are the web origins that may read EVENTS_PATH.
type cors struct {
	any     bool
	origins []string
	vary    []string // of all answers
}

func newCORS(origins []string, authenticates bool) cors {
	c := cors{any: slices.Contains(origins, "*"), origins: origins, vary: varies}
	if authenticates {
		c.vary = variesByCaller
	}
	return c
}

// set adds the CORS and Vary fields that every answer of EVENTS_PATH has.
func (c cors) set(h http.Header, r *http.Request) {
	h["Vary"] = c.vary
	origin := first(r.Header["Origin"])
	switch {
	case origin == "":
		return
	case origin != "*" && slices.Contains(c.origins, origin):
		h.Set("Access-Control-Allow-Origin", origin)
		h["Access-Control-Allow-Credentials"] = withCredentials
	case c.any:
		h["Access-Control-Allow-Origin"] = anyOrigin
	default:
		return
	}
	h["Access-Control-Expose-Headers"] = exposedFields
}

func (c cors) preflight(h http.Header) {
	if h.Get("Access-Control-Allow-Origin") == "" {
		return
	}
	h.Set("Access-Control-Allow-Methods", allowedMethods)
	h.Set("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control, Content-Type")
	h.Set("Access-Control-Max-Age", "86400")
}
