package grip

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A HoldMode says what a proxy does with a response.
type HoldMode string

// The modes of a hold.
const (
	HoldNone     HoldMode = ""         // send it
	HoldResponse HoldMode = "response" // wait for one item, or send it after a timeout
	HoldStream   HoldMode = "stream"   // send it, and append items to it
)

// A Subscription is a channel that a hold listens to.
type Subscription struct {
	Channel string

	// PrevID is the id of the last item that the response already contains.
	PrevID    string
	HasPrevID bool

	Filters []string // in order

	// Conflate says that an item need not be sent when a later one of the same
	// key is there. Every, where it is not 0, is how long there has to be between
	// two items of the channel (rate=N/s); it conflates, too. They count for a
	// stream hold, and exclude Filters. Neither is part of GRIP; other proxies
	// skip them.
	Conflate bool
	Every    time.Duration
}

// A KeepAlive is what a held stream sends when it is quiet.
type KeepAlive struct {
	Content []byte
	Timeout time.Duration // at least MinKeepAlive

	// Interval means that items do not put the timer back.
	Interval bool
}

// A Link is a URL that the proxy asks for the origin's sake, relative to that
// of the response.
type Link struct {
	URL string

	// Timeout is the quiet after which a held stream asks a next link,
	// DefaultLinkTimeout unless HasTimeout. It means nothing in a gone link.
	Timeout    time.Duration
	HasTimeout bool
}

// An Instruct is what an origin wants done with its response, and what of the
// response is meant for the client. A proxy reads one with ParseInstruct; an
// origin fills in what it needs and calls SetHeader or WriteDocument.
type Instruct struct {
	Hold     HoldMode
	Channels []Subscription // each name once; not yet cut to MaxChannels

	// Timeout of a response hold, DefaultTimeout if not given. It may be less
	// than MinTimeout.
	Timeout time.Duration

	KeepAlive *KeepAlive // nil: none
	Meta      map[string]string
	Next      *Link // nil: none
	Gone      *Link // nil: none

	// Code replaces the status, 0 means unchanged. It is at most 999 but may
	// be less than 100, where net/http would panic. An empty Reason means the
	// standard one.
	Code   int
	Reason string

	// Expose, unless nil, names the only headers of the origin's response that
	// the client sees. ParseInstruct obeys it in Header, and leaves it nil.
	Expose []string

	// Header and Body are what the client sees: those of the response without
	// what is for the proxy, or those of the instruct document. A
	// Content-Length is left as it was.
	Header http.Header
	Body   []byte
}

// IsInstruct reports whether a response is for the proxy to interpret: any
// header of it begins with Grip-, even one that means nothing, or it is an
// instruct document.
func IsInstruct(h http.Header) bool {
	for name := range h {
		if isGripField(name) {
			return true
		}
	}
	return isDocument(h)
}

func isDocument(h http.Header) bool { return isType(h, ContentTypeInstruct) }

// isType reports whether the body that h stands before is of a media type.
func isType(h http.Header, media string) bool {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(t), media)
}

// ParseInstruct reads the instructions in the headers of a response and, if
// its type is application/grip-instruct, in its body. A response without any
// gives an Instruct that sends it as it is.
//
// The headers count first and the document on top: its channels are added,
// everything else it names replaces what the headers say. Errors are the
// origin's mistakes, for which a client gets a 502. The Instruct shares body.
func ParseInstruct(status int, h http.Header, body []byte) (Instruct, error) {
	in := Instruct{Timeout: DefaultTimeout, Body: body}
	if err := in.readHeaders(h); err != nil {
		return Instruct{}, err
	}
	if isDocument(h) {
		if status != http.StatusOK {
			return Instruct{}, fmt.Errorf("instruct document: status is %d, not 200", status)
		}
		if err := in.readDocument(body); err != nil {
			return Instruct{}, fmt.Errorf("instruct document: %w", err)
		}
		return in, nil
	}
	var err error
	in.Header, err = exposed(h)
	return in, err
}

func (in *Instruct) readHeaders(h http.Header) error {
	if v := h.Values("Grip-Hold"); len(v) > 0 {
		in.Hold = HoldMode(v[0])
		if in.Hold != HoldResponse && in.Hold != HoldStream {
			return errors.New("Grip-Hold must be set to either 'response' or 'stream'")
		}
	}
	if err := in.readChannels(h.Values("Grip-Channel")); err != nil {
		return fmt.Errorf("Grip-Channel: %w", err)
	}
	if v := h.Values("Grip-Timeout"); len(v) > 0 {
		var err error
		if in.Timeout, err = parseSeconds(v[0]); err != nil {
			return fmt.Errorf("Grip-Timeout: %q: %w", v[0], err)
		}
	}
	if v := h.Values("Grip-Keep-Alive"); len(v) > 0 {
		var err error
		if in.KeepAlive, err = parseKeepAlive(v[0]); err != nil {
			return fmt.Errorf("Grip-Keep-Alive: %w", err)
		}
	}
	if err := in.readMeta(h.Values("Grip-Set-Meta")); err != nil {
		return fmt.Errorf("Grip-Set-Meta: %w", err)
	}
	if v := h.Get("Grip-Status"); v != "" {
		code, reason, _ := strings.Cut(v, " ")
		n, err := strconv.Atoi(code)
		if err != nil || n < 0 || n > 999 {
			return fmt.Errorf("Grip-Status: %q is not a status", code)
		}
		in.Code, in.Reason = n, strings.TrimSpace(reason)
	}
	if err := in.readLinks(h.Values("Grip-Link")); err != nil {
		return fmt.Errorf("Grip-Link: %w", err)
	}
	return nil
}

func (in *Instruct) readChannels(values []string) error {
	if len(values) == 0 {
		return nil
	}
	elems, err := elements(values, false)
	if err != nil {
		return err
	}
	for _, e := range elems {
		s := Subscription{Channel: e.first}
		s.PrevID, s.HasPrevID = e.get("prev-id")
		for _, p := range e.params {
			if p.name == "filter" {
				s.Filters = append(s.Filters, p.value)
			}
		}
		_, s.Conflate = e.get("conflate")
		if rate, ok := e.get("rate"); ok {
			if err := s.slow(rate); err != nil {
				return fmt.Errorf("channel %q: %w", s.Channel, err)
			}
		}
		if err := in.subscribe(s); err != nil {
			return err
		}
	}
	if len(in.Channels) == 0 {
		return errors.New("no name")
	}
	return nil
}

// subscribe adds a channel. A name that was there before keeps its place and
// gets the new parameters; an empty name is passed over.
func (in *Instruct) subscribe(s Subscription) error {
	if s.Channel == "" {
		return nil
	}
	if len(s.Filters) > MaxFilters {
		return fmt.Errorf("channel %q: %d filters, more than %d", s.Channel, len(s.Filters), MaxFilters)
	}
	if s.Conflate && len(s.Filters) > 0 {
		return fmt.Errorf("channel %q: conflate and rate exclude filters", s.Channel)
	}
	same := func(old Subscription) bool { return old.Channel == s.Channel }
	if i := slices.IndexFunc(in.Channels, same); i >= 0 {
		in.Channels[i] = s
		return nil
	}
	in.Channels = append(in.Channels, s)
	return nil
}

func (s *Subscription) slow(rate string) (err error) {
	s.Conflate = true
	s.Every, err = ParseRate(rate)
	return err
}

func parseKeepAlive(value string) (*KeepAlive, error) {
	r := paramReader{s: value} // no list: a comma belongs to the content
	e, err := r.element(false)
	if err != nil {
		return nil, err
	}
	ka := &KeepAlive{Timeout: DefaultTimeout}
	if e.first == "" {
		return nil, errors.New("no content")
	}
	switch format, _ := e.get("format"); format {
	case "", "raw":
		ka.Content = []byte(e.first)
	case "cstring":
		ka.Content, err = unescape(e.first)
	case "base64":
		ka.Content, err = decodeBase64(e.first)
	default:
		err = fmt.Errorf("unknown format %q", format)
	}
	if err != nil {
		return nil, err
	}
	switch mode, _ := e.get("mode"); mode {
	case "", "idle":
	case "interval":
		ka.Interval = true
	default:
		return nil, fmt.Errorf("unknown mode %q", mode)
	}
	if v, ok := e.get("timeout"); ok {
		d, err := parseSeconds(v)
		if err != nil {
			return nil, fmt.Errorf("timeout %q: %w", v, err)
		}
		ka.Timeout = max(d, MinKeepAlive)
	}
	return ka, nil
}

// unescape reads the escapes of a cstring: \\, \r, \n and \xHH. Any other
// stands for nothing.
func unescape(s string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i++; i == len(s) {
			return nil, errors.New("cstring ends in a backslash")
		}
		switch s[i] {
		case '\\':
			out = append(out, '\\')
		case 'r':
			out = append(out, '\r')
		case 'n':
			out = append(out, '\n')
		case 'x':
			if len(s)-i < 3 {
				return nil, errors.New(`cstring ends in half a \x`)
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return nil, fmt.Errorf(`cstring has \x%s, which is not hexadecimal`, s[i+1:i+3])
			}
			out = append(out, byte(n))
			i += 2
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no content")
	}
	return out, nil
}

func (in *Instruct) readMeta(values []string) error {
	for _, v := range values {
		for r := (paramReader{s: v, list: true}); r.s != ""; {
			p, err := r.param()
			if err != nil {
				return err
			}
			if p.name != "" {
				in.setMeta(p.name, p.value)
			}
			if r.s != "" {
				r.s = r.s[1:] // the comma or semicolon at which param stops
			}
		}
	}
	return nil
}

func (in *Instruct) setMeta(name, value string) {
	if in.Meta == nil {
		in.Meta = make(map[string]string)
	}
	in.Meta[name] = value
}

func (in *Instruct) readLinks(values []string) error {
	elems, err := elements(values, true)
	if err != nil {
		return err
	}
	for _, e := range elems {
		rel, ok := e.get("rel")
		if !ok && len(e.params) == 0 {
			continue // nothing says what it would be for
		}
		ref, ok := strings.CutPrefix(e.first, "<")
		if ok {
			ref, ok = strings.CutSuffix(ref, ">")
		}
		if !ok || ref == "" {
			return fmt.Errorf("%q is not <URL>", e.first)
		}
		if _, err := url.Parse(ref); err != nil {
			return fmt.Errorf("%q is not a URL", ref)
		}
		link := &Link{URL: ref, Timeout: DefaultLinkTimeout}
		switch rel {
		case "next":
			if v, ok := e.get("timeout"); ok {
				link.HasTimeout = true
				if link.Timeout, err = parseSeconds(v); err != nil {
					return fmt.Errorf("timeout %q: %w", v, err)
				}
			}
			in.Next = link
		case "gone":
			in.Gone = link
		}
	}
	return nil
}

// exposed returns what of h reaches the client.
func exposed(h http.Header) (http.Header, error) {
	expose := func(string) bool { return true }
	if v := h.Values("Grip-Expose-Headers"); len(v) > 0 {
		list := names(v)
		if len(list) == 0 {
			return nil, errors.New("Grip-Expose-Headers: no name")
		}
		expose = func(name string) bool {
			return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, name) })
		}
	}
	out := make(http.Header, len(h))
	for name, values := range h {
		if !isGripField(name) && expose(name) {
			out[name] = slices.Clone(values)
		}
	}
	return out, nil
}

func (in *Instruct) readDocument(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("not UTF-8; bytes go into body-bin")
	}
	v, err := decodeJSON(body)
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	doc, err := asObject(v, "instruct")
	if err != nil {
		return err
	}
	if hold, ok, err := doc.object("hold", "hold"); err != nil {
		return err
	} else if ok {
		if err := in.readHold(hold); err != nil {
			return err
		}
	}
	in.Header, in.Body = make(http.Header), nil
	if resp, ok, err := doc.object("response", "response"); err != nil {
		return err
	} else if ok {
		return in.readResponse(resp)
	}
	return nil
}

func (in *Instruct) readHold(hold object) error {
	mode, ok, err := hold.str("mode")
	switch in.Hold = HoldMode(mode); {
	case err != nil:
		return err
	case !ok:
		in.Hold = HoldResponse
	case in.Hold != HoldResponse && in.Hold != HoldStream:
		return fmt.Errorf("hold mode %q is neither response nor stream", mode)
	}
	channels, ok, err := hold.list("channels")
	if err == nil && !ok {
		err = hold.missing("channels")
	}
	if err != nil {
		return err
	}
	for _, v := range channels {
		if err := in.readChannel(v); err != nil {
			return err
		}
	}
	if d, ok, err := hold.seconds("timeout"); err != nil {
		return err
	} else if ok {
		in.Timeout = d
	}
	if ka, ok, err := hold.object("keep-alive", "keep-alive"); err != nil {
		return err
	} else if ok {
		if err := in.readKeepAlive(ka); err != nil {
			return err
		}
	}
	meta, ok, err := hold.object("meta", "'meta'")
	if err != nil || !ok {
		return err
	}
	values, err := meta.strings()
	for name, value := range values {
		in.setMeta(name, value)
	}
	return err
}

func (in *Instruct) readChannel(v value) error {
	o, err := asObject(v, "channel")
	if err != nil {
		return err
	}
	var s Subscription
	if s.Channel, err = o.required("name"); err != nil {
		return err
	}
	if s.PrevID, s.HasPrevID, err = o.str("prev-id"); err != nil {
		return err
	}
	if s.Filters, err = o.filters(); err != nil {
		return err
	}
	if v, ok := o.find("conflate"); ok {
		if k := v.kind(); k != 't' && k != 'f' {
			return o.wrongType("conflate")
		}
		s.Conflate = v.kind() == 't'
	}
	if rate, ok, err := o.str("rate"); err != nil {
		return err
	} else if ok {
		if err := s.slow(rate); err != nil {
			return fmt.Errorf("channel %q: %w", s.Channel, err)
		}
	}
	return in.subscribe(s)
}

// readKeepAlive has no mode to read. The timer runs as an interval, unless a
// header has named the mode.
func (in *Instruct) readKeepAlive(o object) error {
	ka := KeepAlive{Interval: true}
	if in.KeepAlive != nil {
		ka = *in.KeepAlive
	}
	content, _, ok, err := o.content("content")
	if err != nil {
		return err
	}
	if ok {
		ka.Content = content
	}
	ka.Timeout = DefaultTimeout
	if d, ok, err := o.seconds("timeout"); err != nil {
		return err
	} else if ok {
		ka.Timeout = max(d, MinKeepAlive)
	}
	if in.KeepAlive = &ka; len(ka.Content) == 0 {
		in.KeepAlive = nil // nothing to send
	}
	return nil
}

func (in *Instruct) readResponse(o object) error {
	if code, ok, err := o.integer("code"); err != nil {
		return err
	} else if ok {
		if code < 0 || code > 999 {
			return o.invalid("code")
		}
		in.Code, in.Reason = code, "" // a Grip-Status's reason was for its own code
	}
	reason, err := o.text("reason")
	if err != nil {
		return err
	}
	if !isFieldValue(reason) {
		return o.invalid("reason")
	}
	if reason != "" {
		in.Reason = reason
	}
	headers, err := o.headers()
	if err != nil {
		return err
	}
	for _, h := range headers {
		value := strings.TrimSpace(h.Value)
		if !isFieldName(h.Name) || !isFieldValue(value) {
			return fmt.Errorf("headers contains '%s' with invalid name or value", h.Name)
		}
		if !isGripField(h.Name) {
			in.Header.Add(h.Name, value)
		}
	}
	in.Body, _, _, err = o.content("body")
	return err
}
