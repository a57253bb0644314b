package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/r3labs/sse/v2"
	"gopkg.in/cenkalti/backoff.v1"
)

const (
	// maxTailEvent bounds one event of a stream, in bytes.
	maxTailEvent = 64 << 20

	// firstRetry is the pause before a reconnect until the server sends a
	// retry field, minRetry the shortest that it can ask for, maxRetry the
	// longest after failures.
	firstRetry = time.Second
	minRetry   = 100 * time.Millisecond
	maxRetry   = 30 * time.Second
)

type tailOptions struct {
	json              bool
	n                 int
	since, from, last string
	resume            string
	keys              flagList
	filter, fields    string
	format            string
	headers           flagList
}

func tailCommand() command {
	var o tailOptions
	return command{
		name:    "tail",
		summary: "print the events of a stream, and follow it",
		help: `  spillway tail -since 15m http://localhost:7999/events/test/

Usage: spillway tail [options] URL

Prints the data of each event, after its name if that is not "message". What is
missing (gap) and why a stream stops is said on standard error. Reconnects where
it was until interrupted, or until the server says that there is no more.

  -n N          stop after N records
  -json         print a JSON object per event: {"event":…,"id":…,"data":…}
  -since TIME   begin with the records since then: 15m, 24h, RFC 3339, epoch ms
  -from PLACE   begin at earliest, latest or snapshot
  -last N       begin with the newest N records
  -resume ID    begin after the event with this id
  -key KEY      only records with this key; repeatable: any of them
  -filter EXPR  only records that match, such as 'value.total > 100'
  -fields PATHS only these parts of JSON values, such as id,customer.name
  -format NAME  plain, envelope or cloudevents
  -H 'NAME: V'  send a header, such as 'Authorization: Bearer …'; repeatable
`,
		flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&o.json, "json", false, "")
			fs.IntVar(&o.n, "n", 0, "")
			fs.StringVar(&o.since, "since", "", "")
			fs.StringVar(&o.from, "from", "", "")
			fs.StringVar(&o.last, "last", "", "")
			fs.StringVar(&o.resume, "resume", "", "")
			fs.Var(&o.keys, "key", "")
			fs.StringVar(&o.filter, "filter", "", "")
			fs.StringVar(&o.fields, "fields", "", "")
			fs.StringVar(&o.format, "format", "", "")
			fs.Var(&o.headers, "H", "")
		},
		run: func(ctx context.Context, p *process, args []string) error {
			if len(args) != 1 {
				return wrongUsage("takes one URL, but got %d arguments; see spillway tail --help", len(args))
			}
			t, err := newTail(p, o, args[0])
			if err != nil {
				return usageError{err}
			}
			return t.run(ctx)
		},
	}
}

// A tail follows one stream over all its connections.
type tail struct {
	opts   tailOptions
	url    string
	name   string      // of the stream in messages: url without user and query
	header http.Header // of every request
	client *http.Client
	out    io.Writer
	notes  io.Writer

	lastID   string        // of the last event; names the position to resume at
	retry    time.Duration // what the server asked for, or firstRetry
	left     int           // records still to print; -1 for no limit
	answered bool          // some connection has been a stream
	failures int           // connections in a row that were none
}

// These end a tail in peace.
var (
	errTailDone   = errors.New("printed all that was asked for")
	errStreamDone = errors.New("the server has no more")
)

func newTail(p *process, o tailOptions, rawURL string) (*tail, error) {
	if o.n < 0 {
		return nil, fmt.Errorf("-n %d: must not be negative", o.n)
	}
	if !strings.Contains(rawURL, "://") {
		rawURL = "http://" + rawURL
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not a URL of a stream; write http://localhost:7999/events/test/", rawURL)
	}
	u.RawQuery = o.query(u.RawQuery)
	t := &tail{
		opts:   o,
		url:    u.String(),
		name:   (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(),
		header: make(http.Header),
		out:    p.stdout,
		notes:  p.stderr,
		lastID: o.resume,
		retry:  firstRetry,
		left:   -1,
	}
	if o.n > 0 {
		t.left = o.n
	}
	for _, h := range o.headers {
		header, err := parseHeader(h)
		if err != nil {
			return nil, err
		}
		t.header.Add(header.Name, header.Value)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // a compressed stream arrives in lumps
	t.client = &http.Client{Transport: wholeEvents{transport}}
	return t, nil
}

// query is what a URL asks for, with the options in the place of what it says.
func (o *tailOptions) query(raw string) string {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return raw // the server says what is wrong with it
	}
	asked := false
	for name, values := range map[string][]string{
		"since": {o.since}, "from": {o.from}, "last": {o.last},
		"key": o.keys, "filter": {o.filter}, "fields": {o.fields}, "format": {o.format},
	} {
		if len(values) > 0 && (values[0] != "" || name == "key") { // there are empty keys
			query[name], asked = values, true
		}
	}
	if !asked {
		return raw
	}
	return query.Encode()
}

// run connects until there is no more to come or ctx ends.
func (t *tail) run(ctx context.Context) error {
	defer t.client.CloseIdleConnections()
	for {
		err := t.connect(ctx)
		var refused *refusedError
		switch {
		case ctx.Err() != nil, errors.Is(err, errTailDone), errors.Is(err, errStreamDone):
			return nil
		case errors.As(err, &refused) && !refused.transient():
			return err
		case err != nil && !t.answered: // a wrong address is not worth waiting for
			return err
		}
		wait := t.wait(refused)
		why := "stream ended"
		if err != nil {
			why = err.Error()
		}
		t.note("%s; reconnecting in %v", why, wait.Round(10*time.Millisecond))
		pause(ctx, wait)
	}
}

// connect makes one connection and prints what it brings. It returns nil when
// the server has ended the stream.
//
// The r3labs client reads the events; what it gets wrong is kept from it: it
// is used for one connection at a time without its own retries (they go on
// after the end of the context, and a clean end of stream is final to it), it
// is given whole events only (see wholeEvents), and the last event id is ours.
func (t *tail) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	c := sse.NewClient(t.url, sse.ClientMaxBufferSize(2*maxTailEvent))
	c.Connection = t.client
	c.ReconnectStrategy = &backoff.StopBackOff{}
	for name, values := range t.header {
		c.Headers[name] = strings.Join(values, ", ")
	}
	if t.lastID != "" {
		c.Headers["Last-Event-ID"] = t.lastID
	}
	c.ResponseValidator = func(_ *sse.Client, resp *http.Response) error {
		err := validate(resp)
		if err != nil {
			resp.Body.Close() // the client does not
			return err
		}
		t.answered, t.failures = true, -1 // so that this one is not counted below
		return nil
	}

	var failed error // by our own doing: printed all, or could not print
	err := c.SubscribeRawWithContext(ctx, func(e *sse.Event) {
		if failed != nil {
			return // read before the cancellation arrived
		}
		if failed = t.event(e); failed != nil {
			cancel()
		}
	})
	t.failures++
	if failed != nil {
		return failed
	}
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("%s: %w", t.name, u.Err) // the URL may hold a token
	}
	return err
}

// validate tells a stream from the other answers.
func validate(resp *http.Response) error {
	if resp.StatusCode == http.StatusNoContent {
		return errStreamDone
	}
	if isStream(resp) {
		return nil
	}
	contentType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	e := &refusedError{status: resp.StatusCode, contentType: contentType}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.retryAfter = time.Duration(min(s, 3600)) * time.Second
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what has arrived is good enough
	e.text = explanation(contentType, body)
	return e
}

func isStream(resp *http.Response) bool {
	contentType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return resp.StatusCode == http.StatusOK && strings.EqualFold(strings.TrimSpace(contentType), "text/event-stream")
}

// explanation is what the body of a refusal says: the detail or title of a
// problem (RFC 9457), or its first line.
func explanation(contentType string, body []byte) string {
	if strings.HasSuffix(contentType, "json") {
		var problem struct{ Title, Detail string }
		if json.Unmarshal(body, &problem) == nil && problem.Title+problem.Detail != "" {
			text := problem.Detail
			if text == "" {
				text = problem.Title
			}
			return text
		}
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(body), []byte("\n"))
	return string(bytes.ToValidUTF8(line[:min(len(line), 200)], []byte("\ufffd")))
}

// A refusedError is an answer that is not a stream.
type refusedError struct {
	status      int
	contentType string
	text        string
	retryAfter  time.Duration
}

func (e *refusedError) Error() string {
	if e.status == http.StatusOK {
		return fmt.Sprintf("the server answers with %q, not with an event stream", e.contentType)
	}
	s := fmt.Sprintf("the server answers %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

// transient reports whether the same request may succeed later.
func (e *refusedError) transient() bool {
	return e.status == http.StatusTooManyRequests || e.status >= 500
}

// wait is how long to wait before the next connection: what the server asks
// for; after failures twice as long each time, and spread a little.
func (t *tail) wait(refused *refusedError) time.Duration {
	d := t.retry
	if t.failures > 1 {
		d = max(min(d<<min(t.failures-1, 8), maxRetry), d)
		d += time.Duration(rand.Int64N(int64(d)/5 + 1))
	}
	if refused != nil {
		d = max(d, refused.retryAfter)
	}
	return d
}

// event handles what the r3labs client calls an event: also a block that has
// only an id or a retry field. Its data is nil then, and empty but not nil for
// an event with an empty data field.
func (t *tail) event(e *sse.Event) error {
	if len(e.ID) > 0 {
		t.lastID = string(e.ID)
	}
	if ms, err := strconv.ParseUint(string(e.Retry), 10, 31); err == nil {
		t.retry = max(time.Duration(ms)*time.Millisecond, minRetry)
	}
	if e.Data == nil {
		return nil
	}
	name := string(e.Event)
	if name == "" {
		name = "message"
	}
	control := slices.Contains(controlEvents, name)
	if err := t.print(name, e.Data, control); err != nil {
		return err
	}
	if name == "end" {
		return errStreamDone // a reconnect would be answered with 204
	}
	if !control && t.left > 0 {
		if t.left--; t.left == 0 {
			return errTailDone
		}
	}
	return nil
}

// controlEvents speak of the stream and are no records (event semantics, 4).
var controlEvents = []string{"gap", "live", "end", "stream-error"}

func (t *tail) print(name string, data []byte, control bool) error {
	if t.opts.json {
		enc := json.NewEncoder(t.out)
		enc.SetEscapeHTML(false)
		return enc.Encode(struct {
			Event string `json:"event"`
			ID    string `json:"id"`
			Data  string `json:"data"`
		}{name, t.lastID, string(data)})
	}
	if control {
		t.note("%s %s", name, data)
		return nil
	}
	line := make([]byte, 0, len(name)+2+len(data)+1)
	if name != "message" {
		line = append(append(line, name...), ": "...)
	}
	_, err := t.out.Write(append(append(line, data...), '\n'))
	return err
}

func (t *tail) note(format string, a ...any) {
	fmt.Fprintf(t.notes, "spillway: "+format+"\n", a...)
}
