package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"spillway/grip"
)

// defaultGripURL is the control API of a gateway on this machine.
const defaultGripURL = "http://localhost:5561"

// publishOptions are those of pushpin-publish, where it has them.
type publishOptions struct {
	spec           string
	id, prevID     string
	sender         string
	code           int
	headers, metas flagList
	hint, close    bool
	patch          bool
	sse            bool
	event          string
	noEOL, noSeq   bool
}

func publishCommand() command {
	var o publishOptions
	return command{
		name:    "publish",
		summary: "post an item to the control API of a GRIP proxy",
		help: `  spillway publish test 'hello there'

Usage: spillway publish [options] CHANNEL [CONTENT | @FILE]

Posts one item to everyone who listens to CHANNEL, for HTTP streams, long polls
and WebSockets alike. Without CONTENT it is read from standard input.

  -spec URL         where to: a GRIP URL; else GRIP_URL, else
                    http://localhost:5561
  -sse              make the HTTP stream content a Server-Sent Event
  -event NAME       the same, with an event name
  -id, -prev-id ID  the item's id, and that of the item before it
  -code N           status of the long-poll answer, default 200
  -H 'NAME: VALUE'  a header of the long-poll answer, repeatable
  -patch            CONTENT is a JSON Patch for the long-poll body
  -hint, -close     no content: say that there is news, or end the connections
  -sender ID        do not send to this user
  -M NAME=VALUE     meta data for filters, repeatable
  -no-eol           no line break after the content
  -no-seq           deliver now, in whatever order
`,
		flags: func(fs *flag.FlagSet) {
			fs.StringVar(&o.spec, "spec", "", "")
			fs.StringVar(&o.id, "id", "", "")
			fs.StringVar(&o.prevID, "prev-id", "", "")
			fs.StringVar(&o.sender, "sender", "", "")
			fs.IntVar(&o.code, "code", 0, "")
			fs.Var(&o.headers, "H", "")
			fs.Var(&o.metas, "M", "")
			fs.BoolVar(&o.hint, "hint", false, "")
			fs.BoolVar(&o.close, "close", false, "")
			fs.BoolVar(&o.patch, "patch", false, "")
			fs.BoolVar(&o.sse, "sse", false, "")
			fs.StringVar(&o.event, "event", "", "")
			fs.BoolVar(&o.noEOL, "no-eol", false, "")
			fs.BoolVar(&o.noSeq, "no-seq", false, "")
		},
		run: func(ctx context.Context, p *process, args []string) error { return publish(ctx, p, o, args) },
	}
}

// publish posts one item and prints "Published".
func publish(ctx context.Context, p *process, o publishOptions, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return wrongUsage("takes a channel and at most one content, but got %d arguments; see spillway publish --help", len(args))
	}
	var cfg struct {
		GripURL string `envconfig:"GRIP_URL" secret:"true"`
	}
	if _, err := p.load(&cfg); err != nil {
		return err
	}
	variable, spec := "-spec", o.spec
	if spec == "" {
		variable, spec = "GRIP_URL", cfg.GripURL
	}
	if strings.TrimSpace(spec) == "" {
		spec = defaultGripURL
	}
	proxies, err := grip.ParseURLs(spec)
	if err != nil {
		return wrongUsage("%s: %w", variable, err)
	}
	var content []byte
	if !o.hint && !o.close {
		if content, err = publishContent(p, args[1:]); err != nil {
			return err
		}
	} else if len(args) > 1 {
		return wrongUsage("-hint and -close take no content")
	}
	item, err := o.item(args[0], content)
	if err != nil {
		return usageError{err}
	}
	if err := grip.NewHTTPPublisher(proxies, nil).Publish(ctx, item); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; the item may have been published")
		}
		return err
	}
	_, err = fmt.Fprintln(p.stdout, "Published")
	return err
}

// publishContent is the argument, the file that it names, or standard input
// without its last line break, which echo has put there.
func publishContent(p *process, args []string) ([]byte, error) {
	if len(args) == 0 {
		b, err := io.ReadAll(p.stdin)
		if err != nil {
			return nil, fmt.Errorf("standard input: %w", err)
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r")), nil
	}
	if path, ok := strings.CutPrefix(args[0], "@"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError{err}
		}
		return b, nil
	}
	return []byte(args[0]), nil
}

// item builds the item with all three formats.
func (o publishOptions) item(channel string, content []byte) (grip.Item, error) {
	item := grip.Item{Channel: channel, ID: o.id, PrevID: o.prevID, NoSeq: o.noSeq}
	var err error
	if item.Meta, err = o.meta(); err != nil {
		return item, err
	}
	switch {
	case channel == "":
		return item, errors.New("the channel is empty")
	case o.hint && o.close:
		return item, errors.New("-hint and -close exclude each other")
	case o.hint, o.close:
		action := grip.ActionHint
		if o.close {
			action = grip.ActionClose
		}
		item.HTTPStream = &grip.HTTPStream{Action: action}
		item.HTTPResponse = &grip.HTTPResponse{Action: action}
		item.WSMessage = &grip.WSMessage{Action: action}
		return item, nil
	case o.patch:
		var operations []json.RawMessage
		if err := json.Unmarshal(content, &operations); err != nil {
			return item, fmt.Errorf("-patch: not a JSON array of operations: %w", err)
		}
		item.HTTPResponse = &grip.HTTPResponse{BodyPatch: content}
		return item, nil
	}

	line := content // what HTTP clients get: with a line break, as a terminal likes it
	if !o.noEOL {
		line = append(bytes.Clone(content), '\n')
	}
	item.HTTPStream = &grip.HTTPStream{Content: line}
	if o.sse || o.event != "" {
		if item.HTTPStream.Content, err = sseEvent(o.event, content); err != nil {
			return item, err
		}
	}
	item.HTTPResponse = &grip.HTTPResponse{Code: o.code, Body: line}
	for _, h := range o.headers {
		header, err := parseHeader(h)
		if err != nil {
			return item, err
		}
		item.HTTPResponse.Headers = append(item.HTTPResponse.Headers, header)
	}
	item.WSMessage = &grip.WSMessage{Content: content}
	if !utf8.Valid(content) {
		item.WSMessage.Type = grip.BinaryMessage
	}
	return item, nil
}

func (o publishOptions) meta() (map[string]string, error) {
	meta := make(map[string]string)
	if o.sender != "" {
		meta["sender"] = o.sender
	}
	for _, m := range o.metas {
		name, value, ok := strings.Cut(m, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("-M %q: write NAME=VALUE", m)
		}
		meta[name] = value
	}
	if len(meta) == 0 {
		return nil, nil
	}
	return meta, nil
}

// sseEvent writes content as a Server-Sent Event, a data field for each line.
func sseEvent(name string, content []byte) ([]byte, error) {
	if strings.ContainsAny(name, "\r\n\x00") {
		return nil, fmt.Errorf("-event %q: a name is one line", name)
	}
	if name == "" {
		name = "message"
	}
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(content))
	out := []byte("event: " + name + "\n")
	for line := range strings.SplitSeq(text, "\n") {
		out = append(append(append(out, "data: "...), line...), '\n')
	}
	return append(out, '\n'), nil
}

// parseHeader reads "Name: value", as curl's -H.
func parseHeader(s string) (grip.Header, error) {
	name, value, ok := strings.Cut(s, ":")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || name == "" || strings.ContainsAny(s, "\r\n\x00") || strings.ContainsAny(name, " \t") {
		return grip.Header{}, fmt.Errorf("-H %q: write 'Name: value'", s)
	}
	return grip.Header{Name: name, Value: value}, nil
}
