package grip

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SetHeader asks a proxy for what in says, by the Grip headers of a response: a
// handler calls it before it writes its body. It replaces what h has of them,
// and leaves everything else alone; Header and Body of in count for nothing.
//
// A Timeout of 0 is the default. Times are written in whole seconds, rounded
// up, since Pushpin reads no others. An error names what a proxy would refuse
// or pass over; h is then as it was.
func (in Instruct) SetHeader(h http.Header) error {
	set, err := in.fields()
	if err != nil {
		return fmt.Errorf("instruct: %w", err)
	}
	for _, name := range instructFields {
		delete(h, name)
	}
	maps.Copy(h, set)
	return nil
}

// instructFields are the headers that SetHeader writes.
var instructFields = []string{
	"Grip-Hold", "Grip-Channel", "Grip-Timeout", "Grip-Keep-Alive", "Grip-Set-Meta", "Grip-Status", "Grip-Expose-Headers", "Grip-Link",
}

// WriteDocument writes in as a whole response, an instruct document, with
// Header and Body in it; what a document has no words for goes along as
// headers. The client sees no other header of w. An error names what a proxy
// would refuse or pass over; unless it comes from w, nothing was written.
func (in Instruct) WriteDocument(w http.ResponseWriter) error {
	set, err := in.fields()
	if err != nil {
		return fmt.Errorf("instruct: %w", err)
	}
	inDocument := []string{"Grip-Status", "Grip-Expose-Headers"}
	if in.Hold != HoldNone {
		inDocument = append(inDocument, "Grip-Hold", "Grip-Channel", "Grip-Timeout", "Grip-Set-Meta")
		if in.KeepAlive != nil && in.KeepAlive.Interval { // the only mode of documents
			inDocument = append(inDocument, "Grip-Keep-Alive")
		}
	}
	for _, name := range inDocument {
		delete(set, name)
	}
	doc, err := in.appendDocument(nil)
	if err != nil {
		return fmt.Errorf("instruct: %w", err)
	}
	if len(doc) > MaxHoldBody {
		return fmt.Errorf("instruct: a document of %d bytes, more than %d", len(doc), MaxHoldBody)
	}
	h := w.Header()
	for _, name := range instructFields {
		delete(h, name)
	}
	maps.Copy(h, set)
	h.Set("Content-Type", ContentTypeInstruct)
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(doc)
	return err
}

// fields makes the Grip headers of in.
func (in *Instruct) fields() (http.Header, error) {
	h := make(http.Header)
	switch in.Hold {
	case HoldNone:
	case HoldResponse, HoldStream:
		h["Grip-Hold"] = []string{string(in.Hold)}
	default:
		return nil, fmt.Errorf("hold %q is neither response nor stream", in.Hold)
	}
	if err := in.channelFields(h); err != nil {
		return nil, err
	}
	if in.Timeout != 0 && in.Hold == HoldResponse {
		timeout, err := wholeSeconds(in.Timeout)
		if err != nil {
			return nil, fmt.Errorf("timeout %w", err)
		}
		h["Grip-Timeout"] = []string{timeout}
	}
	if in.KeepAlive != nil {
		value, err := in.KeepAlive.field()
		if err != nil {
			return nil, fmt.Errorf("keep-alive: %w", err)
		}
		h["Grip-Keep-Alive"] = []string{value}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Meta)) {
		if !isParamName(name) || !isFieldValue(in.Meta[name]) {
			return nil, fmt.Errorf("meta %q: has a name or value that no header can carry", name)
		}
		h.Add("Grip-Set-Meta", name+"="+quoteParam(in.Meta[name]))
	}
	switch {
	case in.Code == 0 && in.Reason != "":
		return nil, fmt.Errorf("reason %q without a code", in.Reason)
	case in.Code == 0:
	case in.Code < 100 || in.Code > 999:
		return nil, fmt.Errorf("code %d is no status; it has three digits", in.Code)
	case !isFieldValue(in.Reason):
		return nil, fmt.Errorf("reason %q has control characters", in.Reason)
	default:
		h["Grip-Status"] = []string{strings.TrimSpace(strconv.Itoa(in.Code) + " " + in.Reason)}
	}
	if in.Expose != nil {
		for _, name := range in.Expose {
			if !isFieldName(name) {
				return nil, fmt.Errorf("expose %q: is no name of a header", name)
			}
		}
		h["Grip-Expose-Headers"] = []string{strings.Join(in.Expose, ", ")}
	}
	return h, in.linkFields(h)
}

func (in *Instruct) channelFields(h http.Header) error {
	if len(in.Channels) > MaxChannels {
		return fmt.Errorf("%d channels; a proxy looks at %d", len(in.Channels), MaxChannels)
	}
	for i, s := range in.Channels {
		value, err := s.field()
		if err != nil {
			return fmt.Errorf("channel %q: %w", s.Channel, err)
		}
		if slices.ContainsFunc(in.Channels[:i], func(t Subscription) bool { return t.Channel == s.Channel }) {
			return fmt.Errorf("channel %q: is named twice", s.Channel)
		}
		if in.Hold == HoldStream && in.Next == nil && s.hasPrevID() {
			return fmt.Errorf("channel %q: has a prev-id, but there is no next link to ask for what is missing: a proxy ends the stream", s.Channel)
		}
		h.Add("Grip-Channel", value)
	}
	return nil
}

func (s *Subscription) hasPrevID() bool { return s.HasPrevID || s.PrevID != "" }

func (s *Subscription) field() (string, error) {
	switch {
	case s.Channel == "":
		return "", errors.New("no name")
	case strings.ContainsAny(s.Channel, ",;") || !isFieldValue(s.Channel) || strings.TrimSpace(s.Channel) != s.Channel:
		return "", errors.New("has a comma, a semicolon, a control character, or a blank at its ends, which a header cannot carry in a name")
	case !isFieldValue(s.PrevID):
		return "", fmt.Errorf("prev-id %q has control characters", s.PrevID)
	case len(s.Filters) > MaxFilters:
		return "", fmt.Errorf("%d filters, more than %d", len(s.Filters), MaxFilters)
	}
	value := s.Channel
	if s.hasPrevID() {
		value += "; prev-id=" + quoteParam(s.PrevID)
	}
	for _, f := range s.Filters {
		if f == "" || !isFieldValue(f) {
			return "", fmt.Errorf("filter %q is no name", f)
		}
		value += "; filter=" + quoteParam(f)
	}
	return value, nil
}

// isParamName reports whether s stands as it is before an equals sign.
func isParamName(s string) bool {
	return s != "" && !strings.ContainsAny(s, ",;=") && isFieldValue(s) && strings.TrimSpace(s) == s
}

func (k *KeepAlive) field() (string, error) {
	if len(k.Content) == 0 {
		return "", errors.New("no content")
	}
	value, format := escape(k.Content), ""
	if value != string(k.Content) {
		format = "; format=cstring"
	}
	value += format
	if k.Timeout != 0 {
		timeout, err := wholeSeconds(k.Timeout)
		if err != nil {
			return "", fmt.Errorf("timeout %w", err)
		}
		value += "; timeout=" + timeout
	}
	if k.Interval {
		value += "; mode=interval"
	}
	return value, nil
}

// escape writes what unescape reads. Only what is as good raw stays as it is.
func escape(content []byte) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i, c := range content {
		switch {
		case c == '\\':
			b.WriteString(`\\`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\n':
			b.WriteString(`\n`)
		case c < ' ' || c > '~' || c == ';' || c == ' ' && (i == 0 || i == len(content)-1):
			b.WriteString(`\x`)
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func (in *Instruct) linkFields(h http.Header) error {
	for _, l := range []struct {
		rel  string
		link *Link
	}{{"next", in.Next}, {"gone", in.Gone}} {
		if l.link == nil {
			continue
		}
		value, err := l.link.field(l.rel)
		if err != nil {
			return fmt.Errorf("%s link: %w", l.rel, err)
		}
		h.Add("Grip-Link", value)
	}
	return nil
}

func (l *Link) field(rel string) (string, error) {
	if _, err := url.Parse(l.URL); err != nil || l.URL == "" || strings.ContainsFunc(l.URL, func(r rune) bool {
		return r <= ' ' || r > '~' || r == '<' || r == '>'
	}) {
		return "", fmt.Errorf("%q is not a URL as it goes onto the wire, percent-encoded", l.URL)
	}
	value := "<" + l.URL + ">; rel=" + rel
	if rel == "next" && (l.HasTimeout || l.Timeout != 0 && l.Timeout != DefaultLinkTimeout) {
		timeout, err := wholeSeconds(l.Timeout)
		if err != nil {
			return "", fmt.Errorf("timeout %w", err)
		}
		value += "; timeout=" + timeout
	}
	return value, nil
}

// wholeSeconds rounds up, so that a short time is not none.
func wholeSeconds(d time.Duration) (string, error) {
	s := math.Ceil(d.Seconds())
	switch {
	case d < 0:
		return "", fmt.Errorf("%v is negative", d)
	case s > math.MaxInt32:
		return "", fmt.Errorf("%v is more than a proxy can count", d)
	}
	return strconv.FormatInt(int64(s), 10), nil
}

// appendDocument appends what readDocument reads. What else fields has checked
// is not checked again.
func (in *Instruct) appendDocument(dst []byte) ([]byte, error) {
	dst = append(dst, '{')
	if in.Hold != HoldNone {
		dst = in.appendHold(appendMember(dst, "hold"))
	}
	dst = append(appendMember(dst, "response"), '{')
	if in.Code != 0 {
		dst = strconv.AppendInt(appendMember(dst, "code"), int64(in.Code), 10)
	}
	if in.Reason != "" {
		dst = appendText(dst, "reason", in.Reason)
	}
	var pairs [][]string
	for _, name := range slices.Sorted(maps.Keys(in.Header)) {
		for _, value := range in.Header[name] {
			if !isFieldName(name) || isGripField(name) || !isFieldValue(value) {
				return nil, fmt.Errorf("header %q: is not one that a client can get", name)
			}
			pairs = append(pairs, []string{name, value})
		}
	}
	if len(pairs) > 0 {
		dst = append(appendMember(dst, "headers"), '[')
		for i, pair := range pairs {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendStrings(dst, pair)
		}
		dst = append(dst, ']')
	}
	dst = appendContent(dst, "body", in.Body, false) // without one, Pushpin 1.36 answers 502
	return append(dst, '}', '}'), nil
}

func (in *Instruct) appendHold(dst []byte) []byte {
	dst = appendText(append(dst, '{'), "mode", string(in.Hold))
	dst = append(appendMember(dst, "channels"), '[')
	for i, s := range in.Channels {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(append(dst, '{'), "name", s.Channel)
		if s.hasPrevID() {
			dst = appendText(dst, "prev-id", s.PrevID)
		}
		if len(s.Filters) > 0 {
			dst = appendStrings(appendMember(dst, "filters"), s.Filters)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, ']')
	if in.Timeout != 0 && in.Hold == HoldResponse {
		dst = appendSeconds(dst, in.Timeout)
	}
	if ka := in.KeepAlive; ka != nil && ka.Interval {
		dst = append(appendMember(dst, "keep-alive"), '{')
		dst = appendContent(dst, "content", ka.Content, false)
		if ka.Timeout != 0 {
			dst = appendSeconds(dst, ka.Timeout)
		}
		dst = append(dst, '}')
	}
	if len(in.Meta) > 0 {
		dst = append(appendMember(dst, "meta"), '{')
		for _, name := range slices.Sorted(maps.Keys(in.Meta)) {
			dst = appendText(dst, name, in.Meta[name])
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

func appendSeconds(dst []byte, d time.Duration) []byte {
	s, _ := wholeSeconds(d) // fields has looked at it
	return append(appendMember(dst, "timeout"), s...)
}
