package grip

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The types of control messages.
const (
	ControlSubscribe    = "subscribe"
	ControlUnsubscribe  = "unsubscribe"
	ControlDetach       = "detach"
	ControlSession      = "session"
	ControlSetMeta      = "set-meta"
	ControlKeepAlive    = "keep-alive"
	ControlSendDelayed  = "send-delayed"
	ControlFlushDelayed = "flush-delayed"
)

var controlTypes = []string{
	ControlSubscribe, ControlUnsubscribe, ControlDetach, ControlSession,
	ControlSetMeta, ControlKeepAlive, ControlSendDelayed, ControlFlushDelayed,
}

// A Control is a message by which an origin tells the proxy what to do with a
// WebSocket: "c:" and a JSON object, in a text message of its own.
type Control struct {
	Type string

	Channel string   // subscribe, unsubscribe
	Filters []string // subscribe

	// PrevID and Link make a subscription reliable, as the prev-id of a
	// Grip-Channel and the next Grip-Link do for a stream. A subscribe with a
	// Link needs no Channel: the link's answer names it. It may have a Name,
	// by which unsubscribe finds it again without a Channel. None of this is
	// part of GRIP; other proxies skip members that they do not know, and
	// ignore the message if there is no Channel.
	PrevID    string
	HasPrevID bool
	Link      string

	Name     string // subscribe and unsubscribe, see above; set-meta
	Value    string // set-meta
	HasValue bool   // false: remove the name

	// Content (text) or ContentBin (base64) is the message of keep-alive and
	// send-delayed; see Message. Neither stops a keep-alive.
	Content, ContentBin string
	HasContent          bool
	MessageType         string // text (the default), binary, ping or pong
	Mode                string // keep-alive: idle (the default) or interval

	// Timeout is that of keep-alive (default 55 s) and send-delayed (1 s).
	Timeout time.Duration

	ID string // session
}

// Message returns what keep-alive and send-delayed send. ok is false when
// there is nothing to send: a keep-alive then ends.
func (c Control) Message() (t MessageType, content []byte, ok bool) {
	if !c.HasContent && c.Content == "" && c.ContentBin == "" {
		return TextMessage, nil, false
	}
	t, _ = messageType(c.MessageType) // text when it is empty
	if c.ContentBin == "" {
		return t, []byte(c.Content), true
	}
	content, err := decodeBase64(c.ContentBin)
	return t, content, err == nil
}

const controlPrefix = "c:"

// ParseControl reads a text message from the origin. ok reports whether it is
// a control message at all; err, whether it is one that makes no sense, which
// a proxy ignores. Neither kind is for the client.
func ParseControl(content []byte) (c Control, ok bool, err error) {
	if len(content) < 2 || string(content[:2]) != controlPrefix {
		return Control{}, false, nil
	}
	if c, err = parseControl(content[2:]); err != nil {
		return Control{}, true, fmt.Errorf("control message: %w", err)
	}
	return c, true, nil
}

func parseControl(text []byte) (c Control, err error) {
	v, err := decodeJSON(text)
	if err != nil {
		return c, fmt.Errorf("not JSON: %w", err)
	}
	o, err := asObject(v, "message")
	if err != nil {
		return c, err
	}
	if c.Type, err = o.required("type"); err != nil {
		return c, err
	}
	o.name = c.Type
	switch c.Type {
	case ControlSubscribe, ControlUnsubscribe:
		err = o.subscription(&c)
	case ControlSession:
		c.ID, err = o.text("id")
	case ControlSetMeta:
		if c.Name, err = o.nonEmpty("name"); err == nil {
			c.Value, c.HasValue, err = o.str("value")
		}
	case ControlKeepAlive, ControlSendDelayed:
		err = o.message(&c)
	default:
		if !slices.Contains(controlTypes, c.Type) {
			err = fmt.Errorf("unknown type %q", c.Type)
		}
	}
	return c, err
}

func (o object) nonEmpty(member string) (string, error) {
	s, err := o.required(member)
	if err == nil && s == "" {
		err = o.invalid(member)
	}
	return s, err
}

func (o object) subscription(c *Control) (err error) {
	if c.Name, err = o.text("name"); err != nil {
		return err
	}
	instead := c.Name
	if c.Type == ControlSubscribe {
		if c.Link, err = o.text("link"); err != nil {
			return err
		}
		instead = c.Link
	}
	if instead == "" {
		c.Channel, err = o.nonEmpty("channel")
	} else {
		c.Channel, err = o.text("channel")
	}
	if err != nil || c.Type == ControlUnsubscribe {
		return err
	}
	if c.Filters, err = o.filters(); err != nil {
		return err
	}
	c.PrevID, c.HasPrevID, err = o.str("prev-id")
	return err
}

// filters returns nil for an empty list too. How many there may be is for the
// caller to say: too many close a WebSocket, but refuse an instruct.
func (o object) filters() ([]string, error) {
	list, _, err := o.list("filters")
	if err != nil || len(list) == 0 {
		return nil, err
	}
	filters, ok := stringList(list)
	if !ok {
		return nil, fmt.Errorf("%s contains 'filters' with wrong type of value", o.name)
	}
	return filters, nil
}

func (o object) message(c *Control) (err error) {
	if c.MessageType, err = o.text("message-type"); err != nil {
		return err
	}
	if _, known := messageType(c.MessageType); !known && c.MessageType != "" {
		return fmt.Errorf("%s contains 'message-type' with unknown value", o.name)
	}
	content, binary, ok, err := o.content("content")
	if err != nil {
		return err
	}
	c.HasContent = ok
	if binary {
		c.ContentBin = base64.StdEncoding.EncodeToString(content)
	} else {
		c.Content = string(content)
	}
	c.Timeout = DefaultTimeout
	if c.Type == ControlSendDelayed {
		c.Timeout = DefaultSendDelay
	}
	if timeout, ok, err := o.seconds("timeout"); err != nil {
		return err
	} else if ok {
		c.Timeout = timeout
	}
	if c.Type == ControlSendDelayed {
		return nil
	}
	c.Timeout = max(c.Timeout, MinKeepAlive)
	if c.Mode, err = o.text("mode"); err != nil {
		return err
	}
	if c.Mode != "" && c.Mode != "idle" && c.Mode != "interval" {
		return fmt.Errorf("%s contains 'mode' with unknown value", o.name)
	}
	return nil
}

// seconds returns a number, or a string with one, as a duration.
func (o object) seconds(member string) (d time.Duration, ok bool, err error) {
	v, ok := o.find(member)
	if !ok {
		return 0, false, nil
	}
	switch v.kind() {
	case '0':
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil {
			return 0, false, o.invalid(member)
		}
		if d, err = seconds(f); err != nil {
			return 0, false, o.invalid(member)
		}
		return d, true, nil
	case '"':
		if d, err = parseSeconds(string(v.content())); err != nil {
			return 0, false, o.invalid(member)
		}
		return d, true, nil
	}
	return 0, false, o.wrongType(member)
}

// AppendControl appends the content of a control message: what ParseControl
// reads, and what goes into a TEXT event or a text frame. Empty members are
// left out; a Timeout of 0 means the default.
func AppendControl(dst []byte, c Control) []byte {
	dst = append(dst, controlPrefix...)
	dst = append(dst, '{')
	dst = appendText(dst, "type", c.Type)
	given := func(member, value string, has bool) {
		if has || value != "" {
			dst = appendText(dst, member, value)
		}
	}
	given("channel", c.Channel, false)
	if len(c.Filters) > 0 {
		dst = appendStrings(appendMember(dst, "filters"), c.Filters)
	}
	given("prev-id", c.PrevID, c.HasPrevID)
	given("link", c.Link, false)
	given("id", c.ID, false)
	given("name", c.Name, false)
	given("value", c.Value, c.HasValue)
	given("content-bin", c.ContentBin, false)
	if c.ContentBin == "" {
		given("content", c.Content, c.HasContent)
	}
	given("message-type", c.MessageType, false)
	given("mode", c.Mode, false)
	if c.Timeout > 0 {
		dst = strconv.AppendFloat(appendMember(dst, "timeout"), c.Timeout.Seconds(), 'f', -1, 64)
	}
	return append(dst, '}')
}

// AppendControlEvent appends a control message as the TEXT event that carries
// it over HTTP.
func AppendControlEvent(dst []byte, c Control) []byte {
	return AppendEvent(dst, Event{Type: EventText, Content: AppendControl(nil, c)})
}
