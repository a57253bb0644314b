package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"
)

// Callers are clients of one server that ask again as soon as they are answered (a
// closed loop), on bare sockets: one goroutine, one epoll set. Clients that hold a
// stream stay, and are listened to while others ask.
type callers struct {
	poll  *poll
	calls []call // by number

	errand   errand
	requests []byte // as many as one client has on their way
	waiting  int    // calls of the errand without an answer
	over     bool   // its time: who is answered asks no more
	tally    callAnswer
	heard    callAnswer // by those that hold a stream
}

// A call is one client.
type call struct {
	fd    int // -1: gone
	does  deed
	asked time.Time
	due   int    // answers
	met   bool   // the head of its answer has come
	heard bool   // a mark, of those that hold a stream
	in    []byte // of an answer that is not complete
}

// A deed is what callers do.
type deed string

const (
	asks  deed = "ask"  // a request and an answer, again and again
	holds deed = "hold" // opens a stream, and leaves it open
	talks deed = "talk" // opens a WebSocket, says a frame and hears one, again and again
)

// An errand is what callers are told to do.
type errand struct {
	Addr    netip.AddrPort `json:"addr"`
	Does    deed           `json:"does"`
	Clients int            `json:"clients"`
	Window  int            `json:"window"`  // of streams, how many wait for an answer at a time
	Depth   int            `json:"depth"`   // how many requests of each are without an answer; 0 means 1
	Request []byte         `json:"request"` // of each, or the handshake
	Frame   []byte         `json:"frame"`   // what is said on a WebSocket
	Want    []byte         `json:"want"`    // an answer's body, or a frame's payload

	For time.Duration `json:"for"` // at most; the errand of streams ends with the last
}

// A callCommand is one of its fields.
type callCommand struct {
	Errand *errand `json:"errand,omitempty"`

	Listen *listening `json:"listen,omitempty"`
}

// A listening is what those that hold streams are waited for.
type listening struct {
	Marks   int           `json:"marks"`   // that they hear together
	Streams int           `json:"streams"` // that have heard any, or have been ended
	Within  time.Duration `json:"within"`
	HangUp  bool          `json:"hangUp"` // close them in the end
}

// A callAnswer follows each command.
type callAnswer struct {
	Done    int           `json:"done"` // requests answered, streams opened, frames heard
	Bad     int           `json:"bad"`  // answers that were not what was wanted, and connections that broke
	Example string        `json:"example,omitempty"`
	Took    time.Duration `json:"took"`
	Latency *histogram    `json:"latency"` // where there is one request at a time

	Marks   int `json:"marks"`   // that were heard
	Streams int `json:"streams"` // that have heard any
	Ended   int `json:"ended"`   // streams that were ended by the server

	Err string `json:"err,omitempty"`
}

// mark ends each message to those that hold a stream, and is nowhere else.
const mark = '~'

// mostBad is how many times it may go wrong before an errand ends.
const mostBad = 1000

func openCallers() (*callers, error) {
	p, err := openPoll()
	if err != nil {
		return nil, err
	}
	return &callers{poll: p}, nil
}

func (c *callers) close() {
	c.hangUp(0)
	c.poll.close()
}

// hangUp closes the clients behind the first n.
func (c *callers) hangUp(n int) {
	for i := range c.calls[n:] {
		if fd := c.calls[n+i].fd; fd >= 0 {
			closeFDs(fd)
		}
	}
	c.calls = c.calls[:n]
}

// run does an errand. The error is ctx's, or of a machine that cannot.
func (c *callers) run(ctx context.Context, e errand) (callAnswer, error) {
	c.errand, c.tally, c.waiting, c.over = e, callAnswer{Latency: new(histogram)}, 0, false
	c.requests = bytes.Repeat(e.Request, max(e.Depth, 1))
	const look, patience = 10 * time.Millisecond, 30 * time.Second
	began := time.Now()
	first, more := len(c.calls), e.Clients
	for ctx.Err() == nil && c.tally.Bad < mostBad {
		for ; more > 0 && (e.Does != holds || c.waiting < e.Window); more-- {
			c.calls = append(c.calls, call{fd: -1, does: e.Does})
			c.open(len(c.calls) - 1)
		}
		passed := time.Since(began)
		c.over = passed >= e.For || e.Does == holds && more == 0
		if c.over && (c.waiting == 0 || passed > e.For+patience) {
			break
		}
		if err := c.poll.wait(look, c.ready); err != nil {
			return c.tally, err
		}
	}
	c.tally.Took = time.Since(began)
	c.bad(c.waiting, errors.New("not answered in time"))
	if e.Does != holds {
		c.hangUp(first)
	} else {
		c.bad(more, errors.New("not asked in time"))
	}
	return c.tally, ctx.Err()
}

// bad counts what went wrong.
func (c *callers) bad(n int, why error) {
	if c.tally.Bad += n; n > 0 && c.tally.Example == "" {
		c.tally.Example = why.Error()
	}
}

// open connects a client, which asks.
func (c *callers) open(number int) {
	one := &c.calls[number]
	one.asked, one.due, one.met, one.in = time.Now(), max(c.errand.Depth, 1), false, one.in[:0]
	fd, err := dial(sourceOf(number), c.errand.Addr, c.requests, false)
	if err == nil {
		err = c.poll.add(fd, number)
	}
	if err != nil {
		c.bad(1, err)
		return
	}
	one.fd = fd
	c.waiting++
}

// ready takes what has come for a client.
func (c *callers) ready(number int) {
	if number >= len(c.calls) || c.calls[number].fd < 0 {
		return // closed since
	}
	one := &c.calls[number]
	text, err := c.poll.read(one.fd)
	if one.does == holds && one.met {
		c.listen(one, text, err)
		return
	}
	if err == nil {
		if len(one.in) > 0 {
			one.in = append(one.in, text...)
			text = one.in
		}
		var rest []byte
		rest, err = c.answered(one, text)
		one.in = append(one.in[:0], rest...)
	} else if errors.Is(err, io.EOF) {
		err = errEnded
	}
	if err == nil {
		return
	}
	c.waiting--
	closeFDs(one.fd)
	one.fd = -1
	if !errors.Is(err, errLast) {
		c.bad(1, err)
	}
	if one.does != holds && !c.over && c.tally.Bad < mostBad {
		c.open(number)
	}
}

// errLast is an answer that is the last on its connection.
var errLast = errors.New("ask on another connection")

// answered takes an answer, if it is complete, and returns what is left of text.
func (c *callers) answered(one *call, text []byte) (rest []byte, err error) {
	if one.met {
		return c.frame(one, text)
	}
	if one.does != asks { // the head is enough
		end := bytes.Index(text, headEnd)
		if end < 0 {
			return text, nil
		}
		m := httpMessage{line: text[:end]}
		if err := c.judge(one, &m); err != nil {
			return nil, err
		}
		one.met = true
		if one.does == holds {
			c.done(one)
			c.waiting--
			c.listen(one, text[end+len(headEnd):], nil)
			return nil, nil
		}
		one.due = 0
		return nil, c.again(one, c.errand.Frame)
	}
	n := 0
	for len(text) > 0 {
		m, ok, err := parseHTTP(text)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if err := c.judge(one, &m); err != nil {
			return nil, err
		}
		c.done(one)
		if m.closes {
			return nil, errLast
		}
		text = text[m.length:]
		n++
	}
	if n == 0 {
		return text, nil
	}
	return text, c.again(one, c.requests[:n*len(c.errand.Request)])
}

// judge returns an error where the answer is not the one that is wanted.
func (c *callers) judge(one *call, m *httpMessage) error {
	want := http.StatusOK
	if one.does == talks {
		want = http.StatusSwitchingProtocols
	}
	if got := m.status(); got != want {
		return fmt.Errorf("status %d, want %d", got, want)
	}
	if one.does == asks && !bytes.Equal(m.body, c.errand.Want) {
		return fmt.Errorf("body %.100q, want %.100q", m.body, c.errand.Want)
	}
	return nil
}

// frame takes a frame of a WebSocket.
func (c *callers) frame(one *call, text []byte) (rest []byte, err error) {
	const head, short = 2, 125
	if len(text) < head {
		return text, nil
	}
	if text[0] != 0x80|opText || text[1] > short {
		return nil, fmt.Errorf("a frame that begins with %#x %#x, want a short text", text[0], text[1])
	}
	length := head + int(text[1])
	if len(text) < length {
		return text, nil
	}
	if !bytes.Equal(text[head:length], c.errand.Want) {
		return nil, fmt.Errorf("message %.100q, want %.100q", text[head:length], c.errand.Want)
	}
	c.done(one)
	return text[length:], c.again(one, c.errand.Frame)
}

func (c *callers) done(one *call) {
	c.tally.Done++
	one.due--
	c.tally.Latency.add(time.Since(one.asked))
}

// again says text, unless the time is over.
func (c *callers) again(one *call, text []byte) error {
	switch {
	case !c.over:
	case one.due > 0:
		return nil
	default:
		return errLast
	}
	one.asked, one.due = time.Now(), max(c.errand.Depth, 1)
	return send(one.fd, text)
}

// listen takes what a stream brings.
func (c *callers) listen(one *call, text []byte, err error) {
	n := bytes.Count(text, []byte{mark})
	c.heard.Marks += n
	if n > 0 && !one.heard {
		one.heard = true
		c.heard.Streams++
	}
	if err != nil {
		closeFDs(one.fd)
		one.fd = -1
		c.heard.Ended++
	}
}

// wait listens to those that hold a stream.
func (c *callers) wait(ctx context.Context, l listening) (callAnswer, error) {
	began := time.Now()
	for (c.heard.Marks < l.Marks || c.heard.Streams+c.heard.Ended < l.Streams) && ctx.Err() == nil && time.Since(began) < l.Within {
		if err := c.poll.wait(10*time.Millisecond, c.ready); err != nil {
			return c.heard, err
		}
	}
	heard := c.heard
	heard.Took = time.Since(began)
	if l.HangUp {
		c.hangUp(0)
		c.heard = callAnswer{}
	}
	return heard, ctx.Err()
}

// runCallers is the role of callers, until its input ends.
func runCallers(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	c, err := openCallers()
	if err != nil {
		return err
	}
	defer c.close()
	commands, answers := json.NewDecoder(stdin), json.NewEncoder(stdout)
	for {
		var cmd callCommand
		if err := commands.Decode(&cmd); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("command: %w", err)
		}
		var a callAnswer
		var err error
		switch {
		case cmd.Errand != nil:
			a, err = c.run(ctx, *cmd.Errand)
		case cmd.Listen != nil:
			a, err = c.wait(ctx, *cmd.Listen)
		}
		if err != nil {
			a.Err = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}

// do asks callers in a process of their own.
func do(ctx context.Context, of *child, cmd callCommand) (callAnswer, error) {
	var a callAnswer
	if err := of.ask(ctx, cmd, &a); err != nil {
		return a, err
	}
	if a.Err != "" {
		return a, fmt.Errorf("%s: %s", of.label, a.Err)
	}
	return a, nil
}
