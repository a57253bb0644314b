package gateway

import (
	"cmp"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"spillway/gateway/route"
	"spillway/grip/jsonstring"
)

// serveCrossing answers a request on a route that pages of other sites may use.
func (g *Gateway) serveCrossing(out *output, r *http.Request, rt *route.Route) {
	asked, s, err := unscript(r, rt.JSONP)
	if err != nil {
		out.text(http.StatusBadRequest, err.Error())
		return
	}
	if s != nil {
		out.cross(&crossing{script: s})
	}
	g.serveRoute(out, asked, rt)
	out.finish()
}

// unscript returns the request that a URL for a script stands for, and the script
// that its response becomes. Any other request it returns as it is, without one.
func unscript(r *http.Request, j route.JSONP) (*http.Request, *script, error) {
	if r.Method != http.MethodGet || r.Body != nil && r.Body != http.NoBody {
		return r, nil, nil
	}
	callbackName, bodyName := cmp.Or(j.Callback, "callback"), cmp.Or(j.Body, "_body")
	given, query, err := takeParams(r.URL.RawQuery, callbackName, "_method", "_headers", bodyName)
	callback, ok := given[callbackName]
	body, hasBody := given[bodyName]
	if !ok && hasBody {
		callback, ok = j.DefaultCallback, j.DefaultCallback != ""
	}
	switch {
	case !ok && err == nil:
		return r, nil, nil
	case !validCallback(callback):
		return nil, nil, invalidParam(callbackName)
	case err != nil:
		return nil, nil, err
	}

	out := r.Clone(r.Context())
	out.URL.RawQuery, out.URL.ForceQuery = query, false
	out.RequestURI, _, _ = strings.Cut(out.RequestURI, "?")
	if query != "" {
		out.RequestURI += "?" + query
	}
	out.Header.Set("Accept", "*/*")
	if err := setHeaders(out.Header, given["_headers"]); err != nil {
		return nil, nil, err
	}
	standard := http.MethodGet
	if j.Basic {
		standard = http.MethodPost
	}
	out.Method = cmp.Or(given["_method"], j.DefaultMethod, standard)
	if method, ok := given["_method"]; ok && (!httpguts.ValidHeaderFieldName(method) || method == http.MethodConnect) { // a method is a token, too
		return nil, nil, invalidParam("_method")
	}
	if hasBody {
		if j.Body != "" {
			out.Header.Set("Content-Type", "application/json")
		}
		if body != "" {
			out.Body, out.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		}
	}
	return out, &script{callback: callback, basic: j.Basic}, nil
}

// An invalidParam is the name of a parameter that cannot be used; its error is what
// the client is told.
type invalidParam string

func (p invalidParam) Error() string { return "Invalid " + string(p) + " parameter." }

// takeParams takes parameters out of a query and leaves the rest byte for byte. Of
// one that is there twice the first counts.
func takeParams(query string, names ...string) (given map[string]string, rest string, err error) {
	given = make(map[string]string)
	var left []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		plain, bad := url.QueryUnescape(name)
		if bad != nil || !slices.Contains(names, plain) {
			left = append(left, part)
			continue
		}
		v, bad := url.QueryUnescape(value)
		if bad != nil || !utf8.ValidString(v) {
			err = invalidParam(plain)
		}
		if _, twice := given[plain]; !twice {
			given[plain] = v
		}
	}
	return given, strings.Join(left, "&"), err
}

// maxCallback bounds the name of a function, in bytes.
const maxCallback = 256

// validCallback reports whether a script may call a function by this name. A page
// must not be able to make the script of another site out of it.
func validCallback(name string) bool {
	if name == "" || len(name) > maxCallback {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if ('a' > c || c > 'z') && ('A' > c || c > 'Z') && ('0' > c || c > '9') && strings.IndexByte("_$.-[]", c) < 0 {
			return false
		}
	}
	return true
}

// setHeaders sets the headers that a JSON object of strings names.
func setHeaders(h http.Header, object string) error {
	if object == "" {
		return nil
	}
	var fields map[string]string
	if json.Unmarshal([]byte(object), &fields) != nil || fields == nil {
		return invalidParam("_headers")
	}
	for name, value := range fields {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return invalidParam("_headers")
		}
		if name = http.CanonicalHeaderKey(name); name != "Host" && name != "Accept" {
			h.Set(name, value)
		}
	}
	return nil
}

// scriptBuffer is how much of a script is made before its head goes out without a
// length, in bytes.
const scriptBuffer = 64 << 10

// A script is a response as a call of a function (JSON-P): what is written to it
// becomes the function's argument. It is an http.ResponseWriter.
type script struct {
	callback string
	basic    bool // only the body, not status and headers
	held     bool // the response was held: GRIP gateways write it in another order

	http.ResponseWriter // to the client
	head                http.Header
	status              int
	reason              string // phrase of the status; empty: the standard one
	rest                []byte // end of the body, of which more has to be known
	made                []byte // of the script, not written yet
	sent                bool   // the head is out
}

// begin makes w what the script is written to.
func (s *script) begin(w http.ResponseWriter) {
	s.ResponseWriter = w
	if s.head == nil {
		s.head = make(http.Header)
	}
}

// Unwrap is for http.ResponseController.
func (s *script) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *script) Header() http.Header { return s.head }

func (s *script) WriteHeader(status int) {
	if s.status != 0 || status < 200 {
		return
	}
	s.status = status
	s.reason = cmp.Or(s.reason, http.StatusText(status))
	s.made = append(append(append(s.made, "/**/"...), s.callback...), '(')
	switch {
	case s.basic:
	case s.held:
		s.made = append(s.made, `{"body":"`...)
	default:
		s.made = append(s.made, `{"code": `...)
		s.made = strconv.AppendInt(s.made, int64(status), 10)
		s.made = append(s.made, `, "reason": `...)
		s.made = jsonstring.Append(s.made, s.reason)
		s.made = append(s.made, `, "headers": `...)
		s.made = s.appendHead(s.made)
		s.made = append(s.made, `, "body": "`...)
	}
}

// appendHead appends the response's headers as an object.
func (s *script) appendHead(dst []byte) []byte {
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(s.head)) {
		if s.head[name] == nil || s.held && name == "Content-Length" {
			continue
		}
		if i > 0 && dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = jsonstring.Append(dst, name)
		dst = append(dst, ':')
		dst = jsonstring.Append(dst, strings.Join(s.head[name], ", "))
	}
	return append(dst, '}')
}

func (s *script) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	s.rest = append(s.rest, p...)
	ready := len(s.rest) - s.unsure()
	s.argue(s.rest[:ready])
	s.rest = append(s.rest[:0], s.rest[ready:]...)
	if !s.sent && len(s.made) < scriptBuffer {
		return len(p), nil
	}
	s.send(-1)
	_, err := s.ResponseWriter.Write(s.made)
	s.made = s.made[:0]
	return len(p), err
}

// unsure is how many bytes of rest depend on what follows: the newline that ends
// the body is left out, and a character is written whole.
func (s *script) unsure() int {
	n := len(s.rest)
	if s.basic {
		if n > 0 && s.rest[n-1] == '\n' {
			return 1
		}
		return 0
	}
	for back := 1; back < utf8.UTFMax && back <= n; back++ {
		if c := s.rest[n-back]; utf8.RuneStart(c) {
			if utf8.FullRune(s.rest[n-back:]) {
				return 0
			}
			return back
		}
	}
	return 0
}

// argue makes some of the body part of the argument.
func (s *script) argue(body []byte) {
	if s.basic {
		s.made = append(s.made, body...)
		return
	}
	at := len(s.made)
	s.made = jsonstring.Append(s.made, body)
	s.made = append(s.made[:at], s.made[at+1:len(s.made)-1]...) // without the quotes
}

// send sends the head. A length of less than 0 is unknown.
func (s *script) send(length int) {
	if s.sent {
		return
	}
	s.sent = true
	h := s.ResponseWriter.Header()
	for name, values := range s.head {
		if s.held && name != "Content-Type" && name != "Content-Length" || name == "Cache-Control" {
			h[name] = values
		}
	}
	h.Set("Content-Type", "application/javascript")
	if length >= 0 {
		h.Set("Content-Length", strconv.Itoa(length))
	}
	s.ResponseWriter.WriteHeader(http.StatusOK)
}

// FlushError is for http.ResponseController. A script is of no use before its end.
func (s *script) FlushError() error { return nil }

// finish ends the script, if there is a response: a request may be answered later,
// and on another connection.
func (s *script) finish() error {
	if s.status == 0 {
		return nil
	}
	if !s.basic {
		s.argue(s.rest)
		if s.made = append(s.made, '"'); s.held {
			s.made = append(s.made, `,"code":`...)
			s.made = strconv.AppendInt(s.made, int64(s.status), 10)
			s.made = append(s.made, `,"headers":`...)
			s.made = s.appendHead(s.made)
			s.made = append(s.made, `,"reason":`...)
			s.made = jsonstring.Append(s.made, s.reason)
		}
		s.made = append(s.made, '}')
	}
	s.made = append(s.made, ");\n"...)
	s.send(len(s.made))
	_, err := s.ResponseWriter.Write(s.made)
	return err
}
