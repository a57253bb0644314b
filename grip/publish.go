package grip

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// A bodyError is what the control API answers to a body it refuses. Its text
// is Pushpin's, word for word, since people search for it.
type bodyError string

func (e bodyError) Error() string { return string(e) }

// ParseItems reads the body of a publish request.
//
//	{"items": [{"channel": …, "formats": {"http-stream": {…}, …}}, …]}
//
// The text of an error is that of the 400 answer, in Pushpin's words, such as
// "Body is not valid JSON." One bad item refuses them all. Formats of unknown
// names are skipped, so an item may be left with none; it still takes its
// place in the order of its channel. The result does not refer to body.
func ParseItems(body []byte) ([]Item, error) {
	v, err := decodeJSON(body)
	if err != nil {
		return nil, bodyError("Body is not valid JSON.")
	}
	members, ok := v.(map[string]any)
	if !ok {
		return nil, bodyError("Invalid format.")
	}
	o := object{name: "object", members: members}
	list, ok, err := o.list("items")
	if err == nil && !ok {
		err = o.missing("items")
	}
	if err != nil {
		return nil, bodyError("Invalid format: " + err.Error())
	}
	items := make([]Item, 0, len(list))
	for _, v := range list {
		it, err := parseItem(v)
		if err != nil {
			return nil, bodyError("Invalid format: " + err.Error())
		}
		items = append(items, it)
	}
	return items, nil
}

func parseItem(v any) (it Item, err error) {
	o, err := asObject(v, "publish item object")
	if err != nil {
		return it, err
	}
	if it.Channel, err = o.required("channel"); err != nil {
		return it, err
	}
	if it.ID, err = o.text("id"); err != nil {
		return it, err
	}
	if it.PrevID, err = o.text("prev-id"); err != nil {
		return it, err
	}
	formats, ok, err := o.object("formats", "formats")
	if err != nil {
		return it, err
	}
	if !ok {
		formats = o.oldFormats()
	}
	if len(formats.members) == 0 {
		return it, errors.New("no formats specified")
	}
	if v, ok := formats.members["http-response"]; ok {
		if it.HTTPResponse, err = parseHTTPResponse(v); err != nil {
			return it, err
		}
	}
	if v, ok := formats.members["http-stream"]; ok {
		if it.HTTPStream, err = parseHTTPStream(v); err != nil {
			return it, err
		}
	}
	if v, ok := formats.members["ws-message"]; ok {
		if it.WSMessage, err = parseWSMessage(v); err != nil {
			return it, err
		}
	}
	meta, ok, err := o.object("meta", "'meta'")
	if err != nil {
		return it, err
	}
	if ok {
		if it.Meta, err = meta.strings(); err != nil {
			return it, err
		}
	}
	if it.Size, _, err = o.integer("size"); err != nil {
		return it, err
	}
	if it.Size < 0 {
		return it, o.invalid("size")
	}
	if v, ok := o.members["no-seq"]; ok {
		if it.NoSeq, ok = v.(bool); !ok {
			return it, o.wrongType("no-seq")
		}
	}
	return it, nil
}

// oldFormats finds the formats in the item itself, where they stood before
// there was a member for them. A null there is as good as nothing.
func (o object) oldFormats() object {
	formats := object{name: "formats", members: map[string]any{}}
	for _, name := range []string{"http-response", "http-stream", "ws-message"} {
		if v := o.members[name]; v != nil {
			formats.members[name] = v
		}
	}
	return formats
}

// action returns ActionSend when none is given.
func (o object) action() (Action, error) {
	s, ok, err := o.str("action")
	switch a := Action(s); {
	case err != nil:
		return "", err
	case !ok || s == "send":
		return ActionSend, nil
	case a == ActionHint || a == ActionClose || a == ActionRefresh:
		return a, nil
	}
	// Pushpin says nothing here: the answer is "Invalid format: ".
	return "", errors.New("")
}

func (o object) contentFilters() ([]string, error) {
	list, ok, err := o.list("content-filters")
	if err != nil || !ok {
		return nil, err
	}
	filters, ok := stringList(list)
	if !ok {
		return nil, errors.New("content-filters contains element with wrong type")
	}
	return filters, nil
}

// stringList never returns nil for a list of strings, not even for an empty
// one, since that means something else than no list.
func stringList(list []any) ([]string, bool) {
	out := make([]string, 0, len(list))
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

func parseHTTPStream(v any) (*HTTPStream, error) {
	o, err := asObject(v, "'http-stream'")
	if err != nil {
		return nil, err
	}
	f := new(HTTPStream)
	if f.Action, err = o.action(); err != nil || f.Action != ActionSend {
		return f, err
	}
	if f.ContentFilters, err = o.contentFilters(); err != nil {
		return nil, err
	}
	var ok bool
	if f.Content, _, ok, err = o.content("content"); err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("'http-stream' does not contain 'content' or 'content-bin'")
	}
	return f, nil
}

func parseHTTPResponse(v any) (*HTTPResponse, error) {
	o, err := asObject(v, "'http-response'")
	if err != nil {
		return nil, err
	}
	f := new(HTTPResponse)
	if f.Action, err = o.action(); err != nil || f.Action != ActionSend {
		return f, err
	}
	if f.Code, _, err = o.integer("code"); err != nil {
		return nil, err
	}
	if f.Code < 0 || f.Code > 999 {
		return nil, o.invalid("code")
	}
	if f.Reason, err = o.text("reason"); err != nil {
		return nil, err
	}
	if f.Headers, err = o.headers(); err != nil {
		return nil, err
	}
	if f.ContentFilters, err = o.contentFilters(); err != nil {
		return nil, err
	}
	body, _, ok, err := o.content("body")
	if err != nil {
		return nil, err
	}
	if ok {
		f.Body = body
		return f, nil
	}
	patch, ok, err := o.list("body-patch")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("'http-response' does not contain 'body', 'body-bin', or 'body-patch'")
	}
	if f.BodyPatch, err = json.Marshal(patch); err != nil {
		return nil, fmt.Errorf("'http-response' contains 'body-patch' with invalid value: %w", err)
	}
	return f, nil
}

var messageTypeNames = [...]string{
	TextMessage: "text", BinaryMessage: "binary", PingMessage: "ping", PongMessage: "pong",
}

// String returns the name of t on the wire.
func (t MessageType) String() string {
	if int(t) >= len(messageTypeNames) {
		return "unknown"
	}
	return messageTypeNames[t]
}

func messageType(name string) (t MessageType, known bool) {
	i := slices.Index(messageTypeNames[:], name)
	return MessageType(max(i, 0)), i >= 0
}

func parseWSMessage(v any) (*WSMessage, error) {
	o, err := asObject(v, "'ws-message'")
	if err != nil {
		return nil, err
	}
	f := new(WSMessage)
	if f.Action, err = o.action(); err != nil {
		return nil, err
	}
	switch f.Action {
	case ActionSend:
		return f, o.wsContent(f)
	case ActionClose:
		if f.Code, _, err = o.integer("code"); err != nil {
			return nil, err
		}
		if f.Code < 0 {
			return nil, o.invalid("code")
		}
		f.Reason, err = o.text("reason")
	}
	return f, err
}

func (o object) wsContent(f *WSMessage) error {
	name, typed, err := o.str("type")
	if err != nil {
		return err
	}
	if typed {
		var known bool
		if f.Type, known = messageType(name); !known {
			return fmt.Errorf("%s contains 'type' with unknown value", o.name)
		}
	}
	if f.ContentFilters, err = o.contentFilters(); err != nil {
		return err
	}
	content, binary, ok, err := o.content("content")
	if err != nil {
		return err
	}
	if !ok && f.Type != PingMessage && f.Type != PongMessage {
		return fmt.Errorf("%s does not contain 'content' or 'content-bin'", o.name)
	}
	if binary && !typed {
		f.Type = BinaryMessage
	}
	if ok {
		f.Content = content
	}
	return nil
}

// AppendItems appends the body of a publish request: {"items":[…]}. Content
// that is not UTF-8 travels as base64, headers as pairs, so that ParseItems
// finds the same again. A BodyPatch has to be valid JSON, and is left out where
// there is a Body.
func AppendItems(dst []byte, items ...Item) []byte {
	dst = append(dst, itemsHead...)
	for i := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendItem(dst, &items[i])
	}
	return append(dst, itemsTail...)
}

const (
	itemsHead = `{"items":[`
	itemsTail = `]}`
)

func appendItem(dst []byte, it *Item) []byte {
	dst = append(dst, '{')
	dst = appendText(dst, "channel", it.Channel)
	if it.ID != "" {
		dst = appendText(dst, "id", it.ID)
	}
	if it.PrevID != "" {
		dst = appendText(dst, "prev-id", it.PrevID)
	}
	dst = append(appendMember(dst, "formats"), '{')
	if f := it.HTTPStream; f != nil {
		dst = appendHTTPStream(appendMember(dst, "http-stream"), f)
	}
	if f := it.HTTPResponse; f != nil {
		dst = appendHTTPResponse(appendMember(dst, "http-response"), f)
	}
	if f := it.WSMessage; f != nil {
		dst = appendWSMessage(appendMember(dst, "ws-message"), f)
	}
	dst = append(dst, '}')
	if len(it.Meta) > 0 {
		dst = append(appendMember(dst, "meta"), '{')
		for _, name := range slices.Sorted(maps.Keys(it.Meta)) {
			dst = appendText(dst, name, it.Meta[name])
		}
		dst = append(dst, '}')
	}
	if it.NoSeq {
		dst = append(appendMember(dst, "no-seq"), "true"...)
	}
	if it.Size > 0 {
		dst = strconv.AppendInt(appendMember(dst, "size"), int64(it.Size), 10)
	}
	return append(dst, '}')
}

func appendHTTPStream(dst []byte, f *HTTPStream) []byte {
	dst = append(dst, '{')
	if f.Action != ActionSend {
		dst = appendText(dst, "action", string(f.Action))
		return append(dst, '}')
	}
	dst = appendContent(dst, "content", f.Content, false)
	dst = appendContentFilters(dst, f.ContentFilters)
	return append(dst, '}')
}

func appendHTTPResponse(dst []byte, f *HTTPResponse) []byte {
	dst = append(dst, '{')
	if f.Action != ActionSend {
		dst = appendText(dst, "action", string(f.Action))
		return append(dst, '}')
	}
	if f.Code != 0 {
		dst = strconv.AppendInt(appendMember(dst, "code"), int64(f.Code), 10)
	}
	if f.Reason != "" {
		dst = appendText(dst, "reason", f.Reason)
	}
	if len(f.Headers) > 0 {
		dst = append(appendMember(dst, "headers"), '[')
		for i, h := range f.Headers {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendStrings(dst, []string{h.Name, h.Value})
		}
		dst = append(dst, ']')
	}
	if len(f.Body) == 0 && len(f.BodyPatch) > 0 {
		dst = append(appendMember(dst, "body-patch"), f.BodyPatch...)
	} else {
		dst = appendContent(dst, "body", f.Body, false)
	}
	dst = appendContentFilters(dst, f.ContentFilters)
	return append(dst, '}')
}

func appendWSMessage(dst []byte, f *WSMessage) []byte {
	dst = append(dst, '{')
	if f.Action != ActionSend {
		dst = appendText(dst, "action", string(f.Action))
		if f.Action == ActionClose && f.Code > 0 {
			dst = strconv.AppendInt(appendMember(dst, "code"), int64(f.Code), 10)
		}
		if f.Action == ActionClose && f.Reason != "" {
			dst = appendText(dst, "reason", f.Reason)
		}
		return append(dst, '}')
	}
	// Always named: a text that is not UTF-8 travels as content-bin, which
	// would otherwise make it binary.
	dst = appendText(dst, "type", f.Type.String())
	dst = appendContent(dst, "content", f.Content, f.Type == BinaryMessage)
	dst = appendContentFilters(dst, f.ContentFilters)
	return append(dst, '}')
}

func appendContentFilters(dst []byte, filters []string) []byte {
	if filters == nil {
		return dst
	}
	return appendStrings(appendMember(dst, "content-filters"), filters)
}
