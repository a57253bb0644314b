package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// A crossing is a response to a page of another site: it gets CORS headers, or is
// a script (GRIP reference, 10.1 and 10.2).
type crossing struct {
	origin, method, headers string // of the request
	script                  *script
}

func crossingOf(r *http.Request) *crossing {
	return &crossing{
		origin:  r.Header.Get("Origin"),
		method:  r.Header.Get("Access-Control-Request-Method"),
		headers: r.Header.Get("Access-Control-Request-Headers"),
	}
}

// cross makes the response a crossing; nil changes nothing.
func (o *output) cross(c *crossing) {
	o.crossing = c
	if c != nil && c.script != nil {
		c.script.begin(o.ResponseWriter)
		o.ResponseWriter, o.control = c.script, http.NewResponseController(c.script)
	}
}

// finish ends a response of which all was written. Where it is a script, there is
// something to add.
func (o *output) finish() {
	if c := o.crossing; c != nil && c.script != nil {
		_ = c.script.finish() // a client that has left is noticed where its request ends
	}
}

// allow adds CORS headers to a response. Those that the origin has set stay.
func (c *crossing) allow(h http.Header) {
	set := func(name, value string) {
		if _, ok := h[name]; !ok && value != "" {
			h[name] = []string{value}
		}
	}
	set("Access-Control-Expose-Headers", exposed(h))
	method, origin := c.method, c.origin
	if method == "" {
		method = "OPTIONS, HEAD, GET, POST, PUT, DELETE"
	}
	if origin == "" {
		origin = "*"
	}
	set("Access-Control-Allow-Methods", method)
	set("Access-Control-Allow-Headers", c.headers)
	set("Access-Control-Allow-Credentials", "true")
	set("Access-Control-Allow-Origin", origin)
	set("Access-Control-Max-Age", "3600")
}

// exposed are the names of a response's headers that a page may read only when
// told so, in a list.
func exposed(h http.Header) string {
	var names []string
	for name := range h {
		switch name {
		case "Cache-Control", "Content-Language", "Content-Length", "Content-Type", "Expires", "Last-Modified", "Pragma",
			"Connection", "Keep-Alive", "Transfer-Encoding":
			continue
		}
		if !strings.HasPrefix(name, "Access-Control-") && !strings.HasPrefix(name, "Grip-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
