package cache

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// directives are those of Cache-Control in a response that a shared cache acts
// on. A duration below zero was not given.
type directives struct {
	noStore, noCache, private, public                 bool
	mustRevalidate, proxyRevalidate, mustUnderstand   bool
	maxAge, sMaxAge, staleWhileRevalidate, staleIfErr time.Duration
}

const notGiven = time.Duration(-1)

// parseDirectives reads the values of Cache-Control (RFC 9111, 5.2). Of a
// directive that is given twice the shorter time counts, and an age that is no
// number makes the answer stale (4.2.1). What no-cache and private say of single
// fields is read as of the whole answer.
func parseDirectives(values []string) directives {
	d := directives{maxAge: notGiven, sMaxAge: notGiven, staleWhileRevalidate: notGiven, staleIfErr: notGiven}
	for _, v := range values {
		for v != "" {
			var name, value string
			name, value, v = cutDirective(v)
			switch strings.ToLower(name) {
			case "no-store":
				d.noStore = true
			case "no-cache":
				d.noCache = true
			case "private":
				d.private = true
			case "public":
				d.public = true
			case "must-revalidate":
				d.mustRevalidate = true
			case "proxy-revalidate":
				d.proxyRevalidate = true
			case "must-understand":
				d.mustUnderstand = true
			case "max-age":
				d.maxAge = shorter(d.maxAge, value)
			case "s-maxage":
				d.sMaxAge = shorter(d.sMaxAge, value)
			case "stale-while-revalidate":
				d.staleWhileRevalidate = shorter(d.staleWhileRevalidate, value)
			case "stale-if-error":
				d.staleIfErr = shorter(d.staleIfErr, value)
			}
		}
	}
	return d
}

// cutDirective takes the first NAME or NAME=VALUE off a list; the value may
// stand between quotes.
func cutDirective(s string) (name, value, rest string) {
	end := strings.IndexAny(s, ",=")
	if end < 0 {
		return strings.TrimSpace(s), "", ""
	}
	name, rest = strings.TrimSpace(s[:end]), s[end+1:]
	if s[end] == ',' {
		return name, "", rest
	}
	rest = strings.TrimLeft(rest, " \t")
	if !strings.HasPrefix(rest, `"`) {
		value, rest, _ = strings.Cut(rest, ",")
		return name, strings.TrimSpace(value), rest
	}
	var b strings.Builder
	i := 1
	for ; i < len(rest) && rest[i] != '"'; i++ {
		if rest[i] == '\\' && i+1 < len(rest) {
			i++
		}
		b.WriteByte(rest[i])
	}
	_, rest, _ = strings.Cut(rest[min(i+1, len(rest)):], ",")
	return name, b.String(), rest
}

// shorter returns the shorter of a time that was given before and delta-seconds.
func shorter(before time.Duration, value string) time.Duration {
	d, ok := deltaSeconds(value)
	if !ok {
		return 0
	}
	if before >= 0 {
		return min(before, d)
	}
	return d
}

// deltaSeconds reads a number of seconds; a very large one is about 68 years
// (RFC 9111, 1.2.2).
func deltaSeconds(s string) (time.Duration, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > math.MaxInt32 {
		n = math.MaxInt32
	}
	return time.Duration(n) * time.Second, true
}

// A policy is what an answer allows a shared cache.
type policy struct {
	fresh time.Duration // the age up to which it is
	open  bool          // public or s-maxage: also for requests with credentials

	// How long after that it may still be used, while it is asked for anew, and
	// when the origin has failed (RFC 5861).
	staleWhile, staleIfError time.Duration
}

// A refusal is why an answer is not stored; it is said in Cache-Status.
type refusal string

const (
	storable    refusal = ""
	unnamedAge  refusal = "no-freshness" // it says nothing about its age, or is stale from the beginning
	refused     refusal = "not-storable" // its header, or its status, forbids it
	personal    refusal = "personal"     // it is for one client
	variesByAll refusal = "vary"
)

// judge says what may be done with an answer to a GET (RFC 9111, 3 and 4.2).
// There is no heuristic freshness: an origin that says nothing about the age of
// its answers does not expect that they are shared.
func judge(status int, h http.Header) (policy, refusal) {
	d := parseDirectives(h["Cache-Control"])
	switch {
	case status < 200, status == http.StatusPartialContent, status == http.StatusNotModified,
		d.mustUnderstand && !understood(status),
		d.noStore && !d.mustUnderstand:
		return policy{}, refused
	case d.private:
		return policy{}, personal
	}
	for name := range h {
		switch name := http.CanonicalHeaderKey(name); {
		case name == "Set-Cookie", name == "Grip-Set-Meta", name == "Grip-Last", strings.HasPrefix(name, "Grip-Session"):
			return policy{}, personal
		case name == "Content-Range":
			return policy{}, refused
		}
	}
	if isType(h, "application/websocket-events") {
		return policy{}, personal
	}
	if _, all := varies(h); all {
		return policy{}, variesByAll
	}
	p := policy{open: d.public || d.sMaxAge >= 0}
	explicit := true
	switch {
	case d.noCache:
	case d.sMaxAge >= 0:
		p.fresh = d.sMaxAge
	case d.maxAge >= 0:
		p.fresh = d.maxAge
	case len(h["Expires"]) > 0:
		p.fresh = lifetime(h)
	default:
		explicit = false
	}
	// s-maxage implies proxy-revalidate (5.2.2.10), but an origin that names a time
	// for which a stale answer may be used means it.
	if !d.noCache && !d.mustRevalidate && !d.proxyRevalidate {
		p.staleWhile, p.staleIfError = max(d.staleWhileRevalidate, 0), max(d.staleIfErr, 0)
	}
	useful := p.fresh > 0 || p.staleWhile > 0 || p.staleIfError > 0 || len(validators(h)) > 0
	if !explicit || !useful {
		return policy{}, unnamedAge
	}
	return p, storable
}

// lifetime is Expires less Date. One that cannot be read is over (RFC 9111, 5.3).
func lifetime(h http.Header) time.Duration {
	if len(h["Expires"]) != 1 {
		return 0
	}
	expires, err := http.ParseTime(h.Get("Expires"))
	if err != nil {
		return 0
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		date = time.Now() // it came just now
	}
	return max(expires.Sub(date), 0)
}

// understood are the final statuses whose caching we know (RFC 9110, 15.1).
func understood(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 500, 501, 502, 503, 504:
		return true
	}
	return false
}

// failed reports whether a status stands for an origin that is in trouble (RFC
// 5861, 4).
func failed(status int) bool {
	switch status {
	case 500, 502, 503, 504:
		return true
	}
	return false
}

// initialAge is how old an answer was when it came (RFC 9111, 4.2.3).
func initialAge(h http.Header, asked, came time.Time) time.Duration {
	var apparent time.Duration
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		apparent = max(came.Sub(date), 0)
	}
	// Date has whole seconds: what is younger than one has no age yet.
	if apparent < time.Second {
		apparent = 0
	}
	said, _, _ := strings.Cut(h.Get("Age"), ",")
	age, _ := deltaSeconds(strings.TrimSpace(said))
	return max(apparent, age+came.Sub(asked))
}

// varies returns the request fields that an answer depends on, sorted; all says
// that it depends on more than those (*). Accept-Encoding never reaches an
// origin, so no answer depends on it.
func varies(h http.Header) (names []string, all bool) {
	for _, v := range h["Vary"] {
		for name := range strings.SplitSeq(v, ",") {
			switch name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name {
			case "", "Accept-Encoding":
			case "*":
				return nil, true
			default:
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), false
}

// variant names the fields of a request that an answer depends on: two requests
// with the same variant have the same answer (RFC 9111, 4.1).
func variant(names []string, request http.Header) string {
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name)
		for i, v := range request[name] {
			b.WriteByte(":,"[min(i, 1)])
			b.WriteString(strings.TrimSpace(v))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// validators returns the conditions by which an origin is asked whether an
// answer still holds.
func validators(h http.Header) http.Header {
	conditions := make(http.Header)
	if tag := h.Get("Etag"); tag != "" {
		conditions.Set("If-None-Match", tag)
	}
	if when := h.Get("Last-Modified"); when != "" {
		conditions.Set("If-Modified-Since", when)
	}
	return conditions
}

// notModified reports whether a client that asks with these conditions has the
// answer already (RFC 9111, 4.3.2).
func notModified(request, answer http.Header) bool {
	if tags := request.Values("If-None-Match"); len(tags) > 0 {
		tag := strings.TrimPrefix(answer.Get("Etag"), "W/")
		for _, list := range tags {
			for _, other := range entityTags(list) {
				if other == "*" || tag != "" && other == tag {
					return true
				}
			}
		}
		return false
	}
	since, err := http.ParseTime(request.Get("If-Modified-Since"))
	if err != nil {
		return false
	}
	modified, err := http.ParseTime(answer.Get("Last-Modified"))
	return err == nil && !modified.After(since)
}

// entityTags returns the members of If-None-Match without W/, since they are
// compared weakly (RFC 9110, 13.1.2). Commas may stand inside of the quotes.
func entityTags(list string) []string {
	var tags []string
	for list != "" {
		list = strings.TrimPrefix(strings.TrimLeft(list, " \t,"), "W/")
		end := strings.IndexByte(list, ',')
		if strings.HasPrefix(list, `"`) {
			if end = strings.IndexByte(list[1:], '"'); end >= 0 {
				end += 2
			}
		}
		if end < 0 {
			end = len(list)
		}
		if tag := strings.TrimSpace(list[:end]); tag != "" {
			tags = append(tags, tag)
		}
		list = list[end:]
	}
	return tags
}

// renewed is a stored header after a 304 (RFC 9111, 3.2): what that says counts,
// except of the body, which it does not have.
func renewed(stored, from http.Header) http.Header {
	h := stored.Clone()
	h.Del("Age") // it was that of the answer before
	for name, values := range from {
		switch http.CanonicalHeaderKey(name) {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Trailer", "Content-Length", "Content-Encoding", "Content-Type", "Content-Range":
		default:
			h[name] = values
		}
	}
	return h
}

// onNotModified is what of an answer's header goes with a 304 (RFC 9110, 15.4.5).
func onNotModified(h http.Header) http.Header {
	out := make(http.Header)
	for _, name := range []string{"Age", "Cache-Control", "Cache-Status", "Content-Location", "Date", "Etag", "Expires", "Last-Modified", "Vary"} {
		if v, ok := h[name]; ok {
			out[name] = v
		}
	}
	return out
}

func isType(h http.Header, media string) bool {
	got, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(got), media)
}
