package relay

import (
	_ "embed"
	"html/template"
	"net/http"
)

// A topicEntry is one line of the list of topics.
type topicEntry struct {
	Name       string `json:"name"`
	Partitions int    `json:"partitions"`
	URL        string `json:"url"`
}

//go:embed list.html
var listHTML string

var listPage = template.Must(template.New("list").Parse(listHTML))

// serveList answers EVENTS_PATH itself: the topics that the caller may read,
// as JSON, or as a page for browsers.
//
//	{"topics":[{"name":"orders","partitions":6,"url":"/events/orders/"}]}
func (o *Origin) serveList(w http.ResponseWriter, r *http.Request, c *caller) {
	if err := o.catalog.state(); err != nil && len(o.catalog.all()) == 0 {
		o.fail(w, r, unavailable("list topics", err))
		return
	}
	entries := []topicEntry{}
	for _, t := range o.catalog.all() {
		if o.shows(c, r, t.name) {
			entries = append(entries, topicEntry{t.name, t.partitions(), o.pathOf(t.name)})
		}
	}
	h := w.Header()
	if accepts(r.Header.Values("Accept"), "text/html") {
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'")
		if r.Method == http.MethodHead {
			return
		}
		if err := listPage.Execute(w, struct {
			Path   string
			Topics []topicEntry
		}{o.path, entries}); err != nil {
			o.log.Debug("list page", "err", err)
		}
		return
	}
	h.Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		return
	}
	w.Write(append(mustJSON(map[string]any{"topics": entries}), '\n'))
}

// serveElsewhere answers paths outside EVENTS_PATH where no route owns them:
// the root says what this is, all others where to go.
func (o *Origin) serveElsewhere(w http.ResponseWriter, r *http.Request) {
	o.setCaching(w.Header(), r)
	w.Header()["Vary"] = o.cors.vary
	if r.URL.Path != "/" {
		writeProblem(w, r, problem{Status: http.StatusNotFound, Detail: "nothing here; topics are at " + o.path + "<topic>/"})
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", allowedMethods)
		writeProblem(w, r, problem{Status: http.StatusMethodNotAllowed, Detail: "use GET"})
		return
	}
	if accepts(r.Header.Values("Accept"), "text/html") {
		if c, err := o.identify(r); err != nil {
			o.fail(w, r, err)
		} else {
			o.serveList(w, r, c)
		}
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodGet {
		w.Write([]byte("Spillway: Kafka topics, live. " + o.path + " lists them, " + o.path + "<topic>/ streams one.\n"))
	}
}
