package pushpintest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// An actor is one end of a connection, with all that it got: a client, a
// publisher, or the origin's end of one of the proxy's connections.
type actor struct {
	name     string
	conn     net.Conn
	answered chan bool // an origin's: after the request the connection is a WebSocket

	mu      sync.Mutex
	changed chan struct{} // closed and made anew when something came; guarded by mu, as all below
	list    []*entry
	seen    []byte // heads, bodies and messages
	at      int    // in seen, behind what reads has found
	methods []string
	ended   int // responses
	done    int // of them those that the scenario waited for
	closed  bool
	gone    bool // we closed it
}

// An entry is a request, a response or a message.
type entry struct {
	head    head
	message bool
	body    []byte
	state   string // why the body is not whole, or how it ended
}

func newActor(name string) *actor {
	return &actor{name: name, answered: make(chan bool, 1), changed: make(chan struct{})}
}

// update changes the actor's state, and wakes who waits for that.
func (a *actor) update(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

// await waits until is, called with the lock, is true.
func (a *actor) await(w *world, what string, is func() bool) error {
	deadline := time.After(w.patience)
	for {
		a.mu.Lock()
		ok, changed := is(), a.changed
		a.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-deadline:
			return fmt.Errorf("%s waited for %s", a.name, what)
		}
	}
}

func (a *actor) reads(w *world, text string) error {
	found := false
	err := a.await(w, fmt.Sprintf("%q", text), func() bool {
		i := bytes.Index(a.seen[a.at:], []byte(text))
		if i >= 0 {
			a.at += i + len(text)
			found = true
		}
		return found || a.closed
	})
	if err == nil && !found {
		return fmt.Errorf("%s waited for %q, but the connection ended", a.name, text)
	}
	return err
}

func (a *actor) responses() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended
}

// mark passes over what was got.
func (a *actor) mark() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = len(a.seen)
}

func (a *actor) request(w *world, text string) error {
	method, _, _ := strings.Cut(text, " ")
	a.update(func() { a.methods = append(a.methods, method) })
	return a.write(w.real(text))
}

// write ignores errors: that the other side has gone is seen where we read.
func (a *actor) write(text string) error {
	if a.conn == nil {
		return errors.New(a.name + " is not connected")
	}
	_ = a.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(a.conn, text)
	return nil
}

func (a *actor) hangUp() {
	a.update(func() { a.gone = true })
	if a.conn != nil {
		_ = a.conn.Close()
	}
	select {
	case a.answered <- false:
	default:
	}
}

// end notes the end of the connection. What was being read when it came is not
// whole.
func (a *actor) end(err error) {
	a.update(func() {
		if a.closed {
			return
		}
		a.closed = true
		var bad *badSyntax
		if errors.As(err, &bad) && !a.gone {
			a.list = append(a.list, &entry{message: true, body: []byte(bad.text), state: "is not HTTP"})
		}
	})
}

// add begins an entry.
func (a *actor) add(e *entry) {
	a.update(func() {
		a.list = append(a.list, e)
		if !e.message {
			a.seen = append(a.seen, e.head.String()...)
		}
		a.seen = append(a.seen, e.body...)
	})
}

// readBody reads an entry's body to its end.
func (a *actor) readBody(e *entry, r io.Reader) error {
	buf := make([]byte, 32<<10)
	a.update(func() { e.state = "unfinished" })
	for {
		n, err := r.Read(buf)
		a.update(func() {
			e.body = append(e.body, buf[:n]...)
			a.seen = append(a.seen, buf[:n]...)
			switch {
			case err == io.EOF:
				e.state = ""
			case err != nil && !a.gone:
				e.state = "cut off"
			}
		})
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readResponses is a client's or publisher's reader.
func (a *actor) readResponses() {
	br := bufio.NewReader(a.conn)
	for n := 0; ; {
		h, err := readHead(br)
		if err != nil {
			a.end(err)
			return
		}
		e := &entry{head: h}
		a.add(e)
		code := h.code()
		if code == 101 {
			a.end(a.readFrames(br))
			return
		}
		if code >= 100 && code < 200 {
			continue
		}
		a.mu.Lock()
		method := ""
		if n < len(a.methods) {
			method = a.methods[n]
		}
		a.mu.Unlock()
		n++
		body, untilClose := h.responseBody(br, method)
		if err = a.readBody(e, body); err == nil {
			a.update(func() { a.ended++ })
		}
		if err != nil || untilClose {
			if untilClose && err == nil {
				a.update(func() { e.state = "until the connection ended" })
			}
			a.end(err)
			return
		}
	}
}

// readRequests is the origin's reader: each request waits for its answer.
func (a *actor) readRequests(all *conns, arrived chan<- *actor) {
	br := bufio.NewReader(a.conn)
	for {
		h, err := readHead(br)
		if err != nil {
			a.end(err)
			return
		}
		e := &entry{head: h}
		a.add(e)
		all.note(a, e)
		if strings.EqualFold(h.get("Expect"), "100-continue") {
			_ = a.write("HTTP/1.1 100 Continue\r\n\r\n")
		}
		if err := a.readBody(e, h.requestBody(br)); err != nil {
			a.end(err)
			return
		}
		arrived <- a
		if <-a.answered {
			a.noteFrames(all)
			a.end(a.readFrames(br))
			return
		}
	}
}

// key is the handshake key of the request that came last.
func (a *actor) key() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list[len(a.list)-1].head.get("Sec-WebSocket-Key")
}

// conns are the proxy's connections to the origin, and what came over them in
// the order in which it did.
type conns struct {
	mu     sync.Mutex
	all    []*actor
	order  []noted
	framed map[*actor]bool
}

type noted struct {
	*entry
	from *actor
}

func (c *conns) add(a *actor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, a)
}

func (c *conns) list() []*actor {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*actor(nil), c.all...)
}

func (c *conns) note(a *actor, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = append(c.order, noted{e, a})
}

func (a *actor) noteFrames(c *conns) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.framed == nil {
		c.framed = make(map[*actor]bool)
	}
	c.framed[a] = true
}

// entries are requests in order; a WebSocket's messages follow its handshake.
func (c *conns) entries() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*entry
	for _, n := range c.order {
		n.from.mu.Lock()
		request := *n.entry // its connection may still read
		n.from.mu.Unlock()
		out = append(out, &request)
		if !c.framed[n.from] {
			continue
		}
		n.from.mu.Lock()
		for _, e := range n.from.list {
			if e.message {
				out = append(out, e)
			}
		}
		if n.from.closed && !n.from.gone {
			out = append(out, &entry{message: true, state: "closed"})
		}
		n.from.mu.Unlock()
	}
	return out
}
