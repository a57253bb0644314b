package pushpintest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/relay/kafkatest"
)

// A proxy is what is tested: Pushpin, or the gateway.
type proxy interface {
	clients() string // host:port
	clientsByTLS() string
	control() string
	// listening waits until a channel has n subscribers.
	listening(channel string, n int, patience time.Duration) error
}

// settle is how long a scenario goes on after its last step, so that what nobody
// expected gets into the transcript.
const settle = 60 * time.Millisecond

// stopped begins a line that says that a scenario could not go on.
const stopped = "stopped: "

const publisherName = "publisher "

// A world is a scenario that is being played.
type world struct {
	word         string // in place of fruit
	dead         string // host:port where nobody listens
	proxy        proxy
	patience     time.Duration // of each wait
	origin       *origin
	actors       []*actor // clients and publishers, in the order of their appearance
	who          string   // of them
	tls          bool     // clients come by it
	publishers   int
	showFeatures bool
	ids          []string // of connections and sessions, as they appear
	notes        []string // of the publisher, and what went wrong
}

// newWorld makes a world for the scenario with this number; the origin listens.
func newWorld(t *testing.T, number int) (*world, error) {
	o, err := newOrigin()
	if err != nil {
		return nil, err
	}
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	word := []byte("zq000")
	for i := len(word) - 1; i > 1; i-- {
		word[i] = digits[number%len(digits)]
		number /= len(digits)
	}
	return &world{word: string(word), dead: fmt.Sprintf("127.0.0.1:%d", kafkatest.FreePort(t)), origin: o, who: "a"}, nil
}

// real puts this world's names into a text of the scenario; nominal takes them
// out of a transcript.
func (w *world) real(text string) string {
	return strings.NewReplacer("fruit", w.word, "FRUIT", strings.ToUpper(w.word), "$origin", w.origin.addr(), "$dead", w.dead).Replace(text)
}

func (w *world) nominal(text string) string {
	return strings.NewReplacer(w.word, "fruit", strings.ToUpper(w.word), "FRUIT", w.origin.addr(), "$origin", w.dead, "$dead",
		w.proxy.clients(), "$proxy", w.proxy.control(), "$control").Replace(text)
}

func (w *world) routes(s *scenario) string {
	if s.route == "" {
		return w.real("fruit.test $origin")
	}
	return w.real(s.route)
}

// run plays a scenario and returns its transcript.
func (w *world) run(s *scenario, p proxy, patience, settle time.Duration) string {
	w.proxy, w.patience, w.tls = p, patience, s.tls
	defer w.close()
	if err := w.play(s.steps); err != nil {
		w.notes = append(w.notes, stopped+err.Error())
	}
	time.Sleep(settle)
	return w.transcript()
}

func (w *world) close() {
	w.origin.close()
	for _, a := range w.actors {
		a.hangUp()
	}
}

func (w *world) play(steps []step) error {
	for _, do := range steps {
		if err := do(w); err != nil {
			return err
		}
	}
	return nil
}

// host is the Host of what w.who sends.
func (w *world) host() string {
	if strings.HasPrefix(w.who, publisherName) {
		return "localhost"
	}
	return "fruit.test"
}

// client is the actor that w.who names; it connects at its first appearance.
func (w *world) client() *actor {
	for _, a := range w.actors {
		if a.name == w.who {
			return a
		}
	}
	addr := w.proxy.clients()
	if w.tls {
		addr = w.proxy.clientsByTLS()
	}
	if strings.HasPrefix(w.who, publisherName) {
		addr = w.proxy.control()
	}
	a := newActor(w.who)
	w.actors = append(w.actors, a)
	conn, err := net.DialTimeout("tcp", addr, w.patience)
	if err != nil {
		a.end(err)
		return a
	}
	if w.tls && !strings.HasPrefix(w.who, publisherName) {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	a.conn = conn
	go a.readResponses()
	return a
}

// publish posts to the control API; an ordinary answer is not worth a line.
func (w *world) publish(body string) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.proxy.control()+"/publish/", strings.NewReader(body))
	if err != nil {
		return err
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return errors.New("publish: no answer")
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return errors.New("publish: half an answer")
	}
	if resp.StatusCode != http.StatusOK || string(text) != "Published\n" {
		w.notes = append(w.notes, fmt.Sprintf("publisher: %d %q", resp.StatusCode, text))
	}
	return nil
}

// An origin is the web service behind the proxy.
type origin struct {
	listener net.Listener
	arrived  chan *actor // with a request that nobody has answered

	conns   *conns
	current *actor // whose request next took, and nobody has answered yet
	last    *actor // that was answered last
}

func newOrigin() (*origin, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{listener: l, arrived: make(chan *actor, 1000), conns: new(conns)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			a := newActor("origin")
			a.conn = conn
			o.conns.add(a)
			go a.readRequests(o.conns, o.arrived)
		}
	}()
	return o, nil
}

func (o *origin) addr() string { return o.listener.Addr().String() }

func (o *origin) close() {
	_ = o.listener.Close()
	for _, a := range o.conns.list() {
		a.hangUp()
	}
}

// next waits for a request, unless there is one that waits for its answer.
func (o *origin) next(w *world) error {
	if o.current != nil {
		return nil
	}
	select {
	case o.current = <-o.arrived:
		return nil
	case <-time.After(w.patience):
		return errors.New("waited for a request to the origin")
	}
}

// take is the actor that asked.
func (o *origin) take() *actor {
	a := o.current
	o.current, o.last = nil, a
	return a
}

func (o *origin) answer(text string) error {
	a := o.take()
	err := a.write(text)
	a.answered <- false
	return err
}

func (o *origin) upgrade(header string) error {
	a := o.take()
	if header != "" {
		header += "\r\n"
	}
	err := a.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		acceptKey(a.key()) + "\r\n" + header + "\r\n")
	a.answered <- true
	return err
}

func (o *origin) latest() *actor {
	if o.last == nil {
		return newActor("nobody")
	}
	return o.last
}

func (o *origin) write(text string) error { return o.latest().write(text) }
func (o *origin) cut()                    { o.latest().hangUp() }

// transcript is what all saw.
func (w *world) transcript() string {
	var out bytes.Buffer
	for _, e := range w.origin.conns.entries() {
		e.print(&out, "origin: ", w)
	}
	slices.SortStableFunc(w.actors, func(a, b *actor) int { return strings.Compare(a.name, b.name) })
	for _, a := range w.actors {
		name := a.name
		if strings.HasPrefix(name, publisherName) {
			name = strings.TrimSpace(publisherName)
		} else {
			name = "client " + name
		}
		a.print(&out, name, w)
	}
	for _, n := range w.notes {
		fmt.Fprintln(&out, w.nominal(n))
	}
	return out.String()
}
