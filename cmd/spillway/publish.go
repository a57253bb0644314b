package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"spillway/grip"
)

// defaultGripURL is the control API of a gateway on this machine.
const defaultGripURL = "http://localhost:5561"

// publishOptions are those of pushpin-publish, and a few more.
type publishOptions struct {
	spec                 string
	user, bearer         string
	id, prevID           string
	sender               string
	formats              string
	code                 int
	reason               string
	headers, metas       flagList
	hint, close, refresh bool
	patch                bool
	sse                  bool
	event                string
	noEOL, noSeq         bool
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

  -spec URL           a GRIP URL; else GRIP_URL, else http://localhost:5561
  -u, -user NAME:PASSWORD  basic authentication, over https or to this machine
  -bearer TOKEN       the bearer, or file:PATH with it
  -f FORMATS          only these, of http-stream,http-response,ws-message
  -sse, -event NAME   make the HTTP stream content a Server-Sent Event
  -id, -prev-id ID    the item's id, and that of the item before it
  -code N             status of the long-poll answer, or code of the -close
  -reason TEXT        the same in words
  -H, -header 'NAME: VALUE'  a header of the long-poll answer, repeatable
  -patch              CONTENT is a JSON Patch for the long-poll body
  -hint               no content: say that there is news
  -close, -refresh    no content: end connections; ask the origins of WebSockets
  -sender ID          do not send to this user
  -M, -meta NAME=VALUE  meta data for filters, repeatable
  -no-eol             no line break after the content
  -no-seq             deliver now, in whatever order
`,
		flags: func(fs *flag.FlagSet) {
			fs.StringVar(&o.spec, "spec", "", "")
			fs.StringVar(&o.user, "u", "", "")
			fs.StringVar(&o.user, "user", "", "")
			fs.StringVar(&o.bearer, "bearer", "", "")
			fs.StringVar(&o.formats, "f", "", "")
			fs.StringVar(&o.id, "id", "", "")
			fs.StringVar(&o.prevID, "prev-id", "", "")
			fs.StringVar(&o.sender, "sender", "", "")
			fs.IntVar(&o.code, "code", 0, "")
			fs.StringVar(&o.reason, "reason", "", "")
			fs.Var(&o.headers, "H", "")
			fs.Var(&o.headers, "header", "")
			fs.Var(&o.metas, "M", "")
			fs.Var(&o.metas, "meta", "")
			fs.BoolVar(&o.hint, "hint", false, "")
			fs.BoolVar(&o.close, "close", false, "")
			fs.BoolVar(&o.refresh, "refresh", false, "")
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
	proxies, err := parseSpec(spec)
	if err != nil {
		return wrongUsage("%s: %w", variable, err)
	}
	if err := o.authenticate(proxies); err != nil {
		return usageError{err}
	}
	action, err := o.action()
	if err != nil {
		return usageError{err}
	}
	var content []byte
	if action == grip.ActionSend {
		if content, err = publishContent(p, args[1:]); err != nil {
			return err
		}
	} else if len(args) > 1 {
		return wrongUsage("-hint, -close and -refresh take no content")
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

func parseSpec(spec string) ([]grip.Proxy, error) {
	if scheme, _, _ := strings.Cut(spec, "://"); slices.Contains([]string{"tcp", "ipc", "inproc"}, scheme) {
		return nil, errors.New("ZeroMQ is not supported; name the control API, such as " + defaultGripURL)
	}
	return grip.ParseURLs(spec)
}

// authenticate puts the credentials of the options in the place of the URLs'.
func (o publishOptions) authenticate(proxies []grip.Proxy) error {
	if o.user != "" && o.bearer != "" {
		return errors.New("-u and -bearer exclude each other")
	}
	if o.bearer != "" {
		key, err := grip.ParseKey(o.bearer)
		if err != nil || !key.Symmetric() {
			return errors.New("-bearer: is not a text, nor a file with one")
		}
		for i := range proxies {
			proxies[i].Iss, proxies[i].Key = "", key
		}
	}
	if o.user == "" {
		return nil
	}
	name, password, ok := strings.Cut(o.user, ":")
	if !ok || name == "" {
		return errors.New("-u: write NAME:PASSWORD")
	}
	for i := range proxies {
		p := &proxies[i]
		p.Iss, p.Key, p.User = "", grip.Key{}, url.UserPassword(name, password)
		if u, err := url.Parse(p.ControlURI); err != nil || u.Scheme != "https" && !isLoopback(u.Hostname()) {
			return fmt.Errorf("-u: %s would be sent the password in the clear; use https", p)
		}
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

// action is what is to be done, one of several at most.
func (o publishOptions) action() (grip.Action, error) {
	action := grip.ActionSend
	for _, a := range []struct {
		set    bool
		action grip.Action
	}{{o.hint, grip.ActionHint}, {o.close, grip.ActionClose}, {o.refresh, grip.ActionRefresh}} {
		switch {
		case a.set && action != grip.ActionSend:
			return "", errors.New("-hint, -close and -refresh exclude each other")
		case a.set:
			action = a.action
		}
	}
	return action, nil
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

// formatNames are the formats that -f chooses from.
var formatNames = []string{"http-stream", "http-response", "ws-message"}

// item builds the item, with all three formats unless -f says which.
func (o publishOptions) item(channel string, content []byte) (grip.Item, error) {
	item := grip.Item{Channel: channel, ID: o.id, PrevID: o.prevID, NoSeq: o.noSeq}
	if channel == "" {
		return item, errors.New("the channel is empty")
	}
	wanted := formatNames
	if o.formats != "" {
		wanted = strings.Split(o.formats, ",")
		for _, name := range wanted {
			if !slices.Contains(formatNames, name) {
				return item, fmt.Errorf("-f %q: is none of %s", name, strings.Join(formatNames, ", "))
			}
		}
	}
	var err error
	if item.Meta, err = o.meta(); err != nil {
		return item, err
	}
	if err := o.fill(&item, content); err != nil {
		return item, err
	}
	if !slices.Contains(wanted, "http-stream") {
		item.HTTPStream = nil
	}
	if !slices.Contains(wanted, "http-response") {
		item.HTTPResponse = nil
	}
	if !slices.Contains(wanted, "ws-message") {
		item.WSMessage = nil
	}
	if item.HTTPStream == nil && item.HTTPResponse == nil && item.WSMessage == nil {
		return item, fmt.Errorf("-f %s: nothing is left that these options send", o.formats)
	}
	return item, nil
}

// fill gives the item all formats that there are of it.
func (o publishOptions) fill(item *grip.Item, content []byte) error {
	action, err := o.action()
	if err != nil {
		return err
	}
	if action != grip.ActionSend {
		item.WSMessage = &grip.WSMessage{Action: action}
		if action == grip.ActionClose {
			item.WSMessage.Code, item.WSMessage.Reason = o.code, o.reason
		}
		if action != grip.ActionRefresh { // which is for WebSockets alone
			item.HTTPStream = &grip.HTTPStream{Action: action}
			item.HTTPResponse = &grip.HTTPResponse{Action: action}
		}
		return nil
	}
	item.HTTPResponse = &grip.HTTPResponse{Code: o.code, Reason: o.reason}
	for _, h := range o.headers {
		header, err := parseHeader(h)
		if err != nil {
			return err
		}
		item.HTTPResponse.Headers = append(item.HTTPResponse.Headers, header)
	}
	if o.patch {
		var operations []json.RawMessage
		if err := json.Unmarshal(content, &operations); err != nil {
			return fmt.Errorf("-patch: not a JSON array of operations: %w", err)
		}
		item.HTTPResponse.BodyPatch = content
		return nil
	}

	line := content // what HTTP clients get: with a line break, as a terminal likes it
	if !o.noEOL {
		line = append(bytes.Clone(content), '\n')
	}
	item.HTTPResponse.Body = line
	item.HTTPStream = &grip.HTTPStream{Content: line}
	if o.sse || o.event != "" {
		if item.HTTPStream.Content, err = sseEvent(o.event, content); err != nil {
			return err
		}
	}
	item.WSMessage = &grip.WSMessage{Content: content}
	if !utf8.Valid(content) {
		item.WSMessage.Type = grip.BinaryMessage
	}
	return nil
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
