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
func ParseItems(body []byte) ([]Item, error) { return parseItems(body, "") }

// ParseItemsFor reads items for one channel, which they need not name.
func ParseItemsFor(channel string, body []byte) ([]Item, error) { return parseItems(body, channel) }

func parseItems(body []byte, channel string) ([]Item, error) {
	p := itemParser{scanner: scan(body), channel: channel}
	defer p.release()
	var refusal error // of the format; that the text is JSON has to be known first
	var err error
	if p.PeekKind() == '{' {
		refusal, err = p.root()
	} else {
		_, err = p.value()
		refusal = bodyError("Invalid format.")
	}
	if err == nil {
		err = p.end()
	}
	switch {
	case err != nil:
		return nil, bodyError("Body is not valid JSON.")
	case refusal != nil:
		return nil, refusal
	}
	return p.items, nil
}

// An itemParser goes through a body once. What is in an item comes in any order,
// and is looked at when it is complete, in Pushpin's order.
type itemParser struct {
	*scanner
	channel string // that items need not name
	items   []Item

	// Of one item; the memory is used again for the next.
	members []member
	formats formats // in a member of their own
	strange bool    // which is no object
	old     formats // in the item itself, where they stood before
}

// formats are the three that there are, and how many others.
type formats struct {
	given bool
	count int
	known [3]format
}

// A format is a member that is one: an object, or something wrong.
type format struct {
	given   bool
	members []member
	other   value // nil: an object
}

const (
	httpResponse = iota
	httpStream
	wsMessage
)

var (
	formatNames   = [3]string{httpResponse: "http-response", httpStream: "http-stream", wsMessage: "ws-message"}
	formatObjects = [3]string{httpResponse: "'http-response'", httpStream: "'http-stream'", wsMessage: "'ws-message'"} // in errors
)

func (f *formats) reset() {
	f.given, f.count = false, 0
	for i := range f.known {
		f.known[i] = format{members: f.known[i].members[:0]}
	}
}

// root reads the object around the items. An error is one of JSON; a refusal is
// the first that is wrong with the items.
func (p *itemParser) root() (refusal, err error) {
	o := object{name: "object"}
	found := false
	err = p.each(func(name []byte) error {
		if string(name) != "items" {
			_, err := p.value()
			return err
		}
		found = true
		if p.PeekKind() != '[' {
			refusal = o.wrongType("items")
			_, err := p.value()
			return err
		}
		var err error
		refusal, err = p.list()
		return err
	})
	if !found {
		refusal = o.missing("items")
	}
	if refusal != nil {
		refusal = bodyError("Invalid format: " + refusal.Error())
	}
	return refusal, err
}

func (p *itemParser) list() (refusal, err error) {
	if _, err := p.ReadToken(); err != nil {
		return nil, err
	}
	p.items = make([]Item, 0, 1)
	for p.PeekKind() != ']' {
		if p.PeekKind() != '{' {
			if _, err := p.value(); err != nil {
				return nil, err
			}
			if refusal == nil {
				refusal = errors.New("publish item object is not an object")
			}
			continue
		}
		if err := p.gather(); err != nil {
			return nil, err
		}
		if refusal != nil {
			continue
		}
		var it Item
		if it, refusal = p.item(); refusal == nil {
			p.items = append(p.items, it)
		}
	}
	_, err = p.ReadToken()
	return refusal, err
}

// gather reads one item's members.
func (p *itemParser) gather() error {
	p.members = p.members[:0]
	p.formats.reset()
	p.strange = false
	p.old.reset()
	return p.each(func(name []byte) error {
		if string(name) != "formats" {
			return p.format(&p.old, name)
		}
		p.formats.reset()
		if p.strange = p.PeekKind() != '{'; p.strange {
			_, err := p.value()
			return err
		}
		p.formats.given = true
		return p.each(func(name []byte) error {
			p.formats.count++
			return p.format(&p.formats, name)
		})
	})
}

// format reads a member that may be a format.
func (p *itemParser) format(f *formats, name []byte) error {
	var known *format
	switch string(name) { // the compiler does not copy it
	case formatNames[httpResponse]:
		known = &f.known[httpResponse]
	case formatNames[httpStream]:
		known = &f.known[httpStream]
	case formatNames[wsMessage]:
		known = &f.known[wsMessage]
	}
	if known != nil && p.PeekKind() == '{' {
		var err error
		*known = format{given: true, members: known.members[:0]}
		known.members, err = p.scanner.members(known.members)
		return err
	}
	v, err := p.value()
	switch {
	case err != nil:
		return err
	case known != nil:
		*known = format{given: true, members: known.members[:0], other: v}
	case f == &p.old:
		p.members = append(p.members, member{name, v})
	}
	return nil
}

// item makes an item of what was gathered.
func (p *itemParser) item() (it Item, err error) {
	o := object{name: "publish item object", members: p.members}
	if it.Channel, err = o.itemChannel(p.channel); err != nil {
		return it, err
	}
	if it.ID, err = o.text("id"); err != nil {
		return it, err
	}
	if it.PrevID, err = o.text("prev-id"); err != nil {
		return it, err
	}
	if v, ok := o.find("key"); ok { // not GRIP's: of another type it is something else
		it.Key, _ = v.str()
	}
	if p.strange {
		return it, o.wrongType("formats")
	}
	if err := it.parseFormats(p.given()); err != nil {
		return it, err
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
	if v, ok := o.find("no-seq"); ok {
		if k := v.kind(); k != 't' && k != 'f' {
			return it, o.wrongType("no-seq")
		}
		it.NoSeq = v.kind() == 't'
	}
	return it, nil
}

// itemChannel is the item's own channel, or the one that the request is for.
func (o object) itemChannel(channel string) (string, error) {
	if channel == "" {
		return o.required("channel")
	}
	own, ok, err := o.str("channel")
	if err == nil && ok && own != channel {
		err = fmt.Errorf("%s contains 'channel' that is not the one of the request", o.name)
	}
	return channel, err
}

// given returns the formats of the item. In the old form a null is as good as
// nothing.
func (p *itemParser) given() *formats {
	if p.formats.given {
		return &p.formats
	}
	for i := range p.old.known {
		f := &p.old.known[i]
		if f.given = f.given && (f.other == nil || f.other.kind() != 'n'); f.given {
			p.old.count++
		}
	}
	return &p.old
}

func (it *Item) parseFormats(given *formats) (err error) {
	if given.count == 0 {
		return errors.New("no formats specified")
	}
	for i := range given.known {
		f := &given.known[i]
		if !f.given {
			continue
		}
		o := object{name: formatObjects[i], members: f.members}
		if f.other != nil {
			return fmt.Errorf("%s is not an object", o.name)
		}
		switch i {
		case httpResponse:
			it.HTTPResponse, err = parseHTTPResponse(o)
		case httpStream:
			it.HTTPStream, err = parseHTTPStream(o)
		case wsMessage:
			it.WSMessage, err = parseWSMessage(o)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
func stringList(list []value) ([]string, bool) {
	out := make([]string, 0, len(list))
	for _, v := range list {
		s, ok := v.str()
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

func parseHTTPStream(o object) (*HTTPStream, error) {
	var err error
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

func parseHTTPResponse(o object) (*HTTPResponse, error) {
	var err error
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
	patch, ok := o.find("body-patch")
	if !ok {
		return nil, errors.New("'http-response' does not contain 'body', 'body-bin', or 'body-patch'")
	}
	if patch.kind() != '[' {
		return nil, o.wrongType("body-patch")
	}
	f.BodyPatch = slices.Clone(json.RawMessage(patch))
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

func parseWSMessage(o object) (*WSMessage, error) {
	var err error
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
	if it.Key != "" {
		dst = appendText(dst, "key", it.Key)
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
