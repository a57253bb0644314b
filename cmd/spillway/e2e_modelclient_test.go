package main_test

// The clients of TestModel: they come and go, by every way out, and leave it to
// the oracle whether what they got is right.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// A modelClient is one that has been told to disconnect now and then. Its first
// reader has streams of its own, and with a WebSocket the others subscribe there.
type modelClient struct {
	m           *model
	urls        []string
	rand        *rand.Rand
	readers     []*modelReader
	connections int
	last        bool // it stays until it has everything
	ref         int  // of the newest subscription
}

// run connects again and again, and after finish stays until it has everything.
func (c *modelClient) run(ctx context.Context, finish chan struct{}) error {
	for ctx.Err() == nil {
		select {
		case <-finish:
			if c.last = true; c.missing() == "" {
				return nil
			}
		default:
		}
		err := c.connect(ctx)
		c.connections++
		if errors.As(err, new(*errModel)) {
			return err
		}
		if err != nil { // transient: a real client waits for the retry time
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return faultf("it did not get everything in time: %s", c.missing())
}

func (c *modelClient) missing() string {
	var owed []string
	for _, r := range c.readers {
		if text := r.missing(); text != "" {
			owed = append(owed, text)
		}
	}
	return strings.Join(owed, "; and ")
}

// enough reports whether a connection of readers, which was to last for n more
// events, has lasted long enough.
func (c *modelClient) enough(n int, readers ...*modelReader) bool {
	if !c.last {
		return n <= 0
	}
	return !slices.ContainsFunc(readers, func(r *modelReader) bool { return r.missing() != "" })
}

// connect reads from one connection until the client has had enough of it, or it ends.
func (c *modelClient) connect(ctx context.Context) error {
	patient := time.Duration(20+c.rand.IntN(900)) * time.Millisecond
	if c.last {
		patient = 5 * time.Second // then it looks again from where it is
	}
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	first := c.readers[0]
	way := c.rand.IntN(10)
	if len(c.readers) > 1 && (c.rand.IntN(2) == 0 || c.last && first.missing() == "") {
		way = 9
	}
	poll := way >= 6 && way < 8 && !first.view.snapshot
	params := c.params(first, !poll || c.rand.IntN(2) == 0)
	switch {
	case way < 3 || way < 8 && !poll && c.rand.IntN(2) == 0:
		return c.stream(ctx, params)
	case poll:
		return c.poll(ctx, params)
	case way < 8:
		return c.lines(ctx, params)
	}
	return c.socket(ctx, params)
}

// params are those of the next request for what a reader reads: the view, from
// where it is on or from where it likes, and perhaps only a part of that.
func (c *modelClient) params(r *modelReader, mayEnd bool) []string {
	params := append([]string(nil), r.view.params...)
	r.start, r.until, r.limit = "", time.Time{}, 0
	if c.last && r.view.snapshot && !r.exact {
		r.id = ""
	}
	switch {
	case r.view.snapshot:
		params = append(params, "from=snapshot")
	case r.id != "":
	default:
		switch c.rand.IntN(5) {
		case 0, 1:
			r.start = "from=earliest"
			params = append(params, r.start)
		case 2:
			r.start, r.since = "since", time.Now().Add(-time.Duration(c.rand.IntN(5000))*time.Millisecond).Truncate(time.Millisecond)
			params = append(params, "since="+strconv.FormatInt(r.since.UnixMilli(), 10))
		case 3:
			params = append(params, "last="+strconv.Itoa(c.rand.IntN(50)))
		}
	}
	if r.view.snapshot || !mayEnd || c.last {
		return params
	}
	switch c.rand.IntN(6) {
	case 0:
		r.limit = 1 + c.rand.IntN(100)
		params = append(params, "limit="+strconv.Itoa(r.limit))
	case 1:
		r.until = time.Now().Add(time.Duration(c.rand.IntN(1000)-500) * time.Millisecond).Truncate(time.Millisecond)
		params = append(params, "until="+strconv.FormatInt(r.until.UnixMilli(), 10))
	}
	return params
}

// address is the URL and the headers of a request of the first reader.
func (c *modelClient) address(params []string) (string, http.Header) {
	r, header := c.readers[0], make(http.Header)
	if r.id != "" && c.rand.IntN(2) == 0 {
		header.Set("Last-Event-ID", r.id)
	} else if r.id != "" {
		params = append(params, "last_event_id="+r.id)
	}
	for i, param := range params {
		name, value, _ := strings.Cut(param, "=")
		params[i] = name + "=" + url.QueryEscape(value)
	}
	return c.urls[c.rand.IntN(len(c.urls))] + "/events/" + strings.Join(r.names(), ",") + "/?" + strings.Join(params, "&"), header
}

// ask makes a request that must be answered 200, or by something transient.
func (c *modelClient) ask(ctx context.Context, params []string, accept string) (*http.Response, error) {
	r := c.readers[0]
	address, header := c.address(params)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	r.request(address + ", Last-Event-ID: " + header.Get("Last-Event-ID") + ", Accept: " + accept)
	header.Set("Accept", accept)
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if err = c.accepts(resp, http.StatusOK); err == nil && !r.answered() {
		err = errors.New("a topic was created again meanwhile")
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// accepts holds the status of an answer against what it may be.
func (c *modelClient) accepts(resp *http.Response, want int) error {
	r := c.readers[0]
	over := strings.HasPrefix(r.id, "1e-") && (r.limit > 0 || !r.until.IsZero())
	r.over = over
	switch {
	case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusNotFound: // between two lives, or without Kafka
		return errors.New(resp.Status)
	case over && resp.StatusCode == http.StatusNoContent:
		return errors.New("it is at the end")
	case resp.StatusCode != want:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return faultf("got %s %s, want %d", resp.Status, body, want)
	}
	return nil
}

// some is how many events one connection lasts.
func (c *modelClient) some() int { return 1 + c.rand.IntN(400) }

func (c *modelClient) stream(ctx context.Context, params []string) error {
	r := c.readers[0]
	// Without it a tombstone does not say which one it is.
	if c.rand.IntN(3) == 0 || c.m.topics[r.view.topics[len(r.view.topics)-1]].compacted {
		params = append(params, "format=envelope")
	}
	resp, err := c.ask(ctx, params, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	events := newEventReader(resp.Body)
	for n := c.some(); !c.enough(n, c.readers[0]); n-- {
		b, err := events.next()
		switch {
		case err != nil:
			return err
		case !b.fires && b.id != "":
			err = r.event(&modelEvent{name: "cursor", id: b.id})
		case b.fires:
			var e *modelEvent
			if e, err = parseModelEvent(b.name, b.data, b.id); err == nil {
				err = r.event(e)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// line takes an event that is a JSON object with a type, but for records.
func (c *modelClient) line(text string) error {
	e, err := parseModelEvent("", text, "")
	if err != nil {
		return err
	}
	return c.readers[0].event(e)
}

func (c *modelClient) lines(ctx context.Context, params []string) error {
	resp, err := c.ask(ctx, params, "application/x-ndjson")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	l := &lineReader{lines: make(chan string)}
	go l.read(resp.Body) // ends with the response, whose rest is read below
	defer func() {
		resp.Body.Close()
		for range l.lines {
		}
	}()
	for n := c.some(); !c.enough(n, c.readers[0]); n-- {
		line, ok := <-l.lines
		if !ok {
			return io.ErrUnexpectedEOF
		}
		if line == "" {
			continue
		}
		if err := c.line(line); err != nil {
			return err
		}
	}
	return nil
}

func (c *modelClient) poll(ctx context.Context, params []string) error {
	resp, err := c.ask(ctx, append(params, "wait=1s"), "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Events []json.RawMessage
		ID     string
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.ID == "" {
		return faultf("poll: got %s: %v", body, err)
	}
	for _, text := range answer.Events {
		e, err := parseModelEvent("", string(text), "")
		if err != nil {
			return err
		}
		if e.id == "" {
			e.id = answer.ID
		}
		if err := c.readers[0].event(e); err != nil {
			return err
		}
	}
	return c.readers[0].event(&modelEvent{name: "cursor", id: answer.ID})
}

// A modelSocket is a WebSocket with its subscriptions.
type modelSocket struct {
	*modelClient
	conn     *websocket.Conn
	waiting  map[int]*modelReader    // by the ref of a subscribe that was not answered
	leaving  map[int]string          // channels, by the ref of an unsubscribe that was not answered
	channels map[string]*modelReader // who reads them; nil: nobody any more
	refs     map[*modelReader]int    // of those who read
}

func (c *modelClient) socket(ctx context.Context, params []string) error {
	r := c.readers[0]
	address, header := c.address(params)
	r.request(address + ", Last-Event-ID: " + header.Get("Last-Event-ID") + ", a WebSocket")
	conn, resp, err := websocket.Dial(ctx, address, &websocket.DialOptions{Subprotocols: []string{"spillway.v1.json"}, HTTPHeader: header})
	if err != nil && resp == nil {
		return err
	}
	if err == nil {
		defer conn.CloseNow()
	}
	if e := c.accepts(resp, http.StatusSwitchingProtocols); err == nil || e != nil {
		err = e
	}
	if err != nil {
		return err
	}
	if !r.answered() {
		return errors.New("a topic was created again meanwhile")
	}
	conn.SetReadLimit(8 << 20)
	s := &modelSocket{
		modelClient: c, conn: conn, waiting: make(map[int]*modelReader), leaving: make(map[int]string),
		channels: make(map[string]*modelReader), refs: make(map[*modelReader]int),
	}
	for n := c.some(); !c.enough(n, c.readers...); n-- {
		if err := s.change(ctx); err != nil {
			return err
		}
		_, text, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if err := s.message(string(text)); err != nil {
			return err
		}
	}
	return nil
}

// change adds or takes away subscriptions now and then.
func (s *modelSocket) change(ctx context.Context) error {
	for _, r := range s.readers[1:] {
		ref := s.refs[r]
		switch {
		case ref == 0 && (s.last || s.rand.IntN(8) == 0):
			s.ref++
			s.refs[r], s.waiting[s.ref] = s.ref, r
			if err := s.send(ctx, s.subscribe(r)); err != nil {
				return err
			}
		case ref != 0 && !s.last && s.waiting[ref] == nil && s.leaving[ref] == "" && s.rand.IntN(40) == 0:
			for channel, reader := range s.channels {
				if reader == r {
					s.leaving[ref] = channel
				}
			}
			if err := s.send(ctx, map[string]any{"type": "unsubscribe", "ref": ref}); err != nil {
				return err
			}
		}
	}
	return nil
}

// subscribe is the message that asks for what r reads, with the newest ref.
func (s *modelSocket) subscribe(r *modelReader) map[string]any {
	m := map[string]any{"type": "subscribe", "ref": s.ref, "topics": r.names()}
	many, headers := make(map[string][]string), make(map[string]string)
	for _, param := range s.params(r, !strings.HasPrefix(r.id, "1e-")) {
		name, value, _ := strings.Cut(param, "=")
		switch header, isHeader := strings.CutPrefix(name, "header."); {
		case isHeader:
			headers[header] = value
			m["header"] = headers
		case name == "key", name == "partition":
			many[name] = append(many[name], value)
			m[name] = many[name]
		default:
			m[name] = value
		}
	}
	if r.id != "" {
		m["last_event_id"] = r.id
	}
	return m
}

func (s *modelSocket) send(ctx context.Context, m map[string]any) error {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // our own types
	}
	if r := s.waiting[s.ref]; r != nil && m["type"] == "subscribe" {
		r.request(string(text))
	}
	return s.conn.Write(ctx, websocket.MessageText, text)
}

// message takes one message for the reader that it is for.
func (s *modelSocket) message(text string) error {
	e, err := parseModelEvent("", text, "")
	if err != nil {
		return err
	}
	if e.Ref != 0 {
		return s.answer(e)
	}
	r := s.readers[0]
	if e.Channel != "" {
		if reader, known := s.channels[e.Channel]; known && reader == nil {
			return faultf("a message of a channel that was left: %s", text)
		} else if known {
			r = reader
		}
	}
	if err := r.event(e); err != nil {
		return err
	}
	if e.name == "end" && r != s.readers[0] {
		delete(s.leaving, s.refs[r])
		delete(s.refs, r)
		s.channels[e.Channel] = nil
	}
	return nil
}

// answer takes what a subscribe or unsubscribe is answered.
func (s *modelSocket) answer(e *modelEvent) error {
	switch {
	case e.Type == "subscribed" && s.waiting[e.Ref] != nil:
		r := s.waiting[e.Ref]
		delete(s.waiting, e.Ref)
		s.channels[e.Channel] = r
		if !r.answered() {
			return errors.New("a topic was created again meanwhile")
		}
	case e.Type == "unsubscribed":
		if channel, leaving := s.leaving[e.Ref]; leaving {
			delete(s.leaving, e.Ref)
			delete(s.refs, s.channels[channel])
			s.channels[channel] = nil
		}
	case e.Type == "error" && s.waiting[e.Ref] != nil && (e.Code == "kafka-unavailable" || e.Code == "not-found"):
		return fmt.Errorf("subscribe: %s", e.data)
	default:
		return faultf("an answer that fits to nothing: %s", e.data)
	}
	return nil
}
