package fanout

import (
	"errors"
	"sync"
	"time"

	"spillway/gateway/ws"
	"spillway/grip"
)

// A client is the other side of a WebSocket: what it says, and whether it still
// answers.
type client struct {
	reader ws.Reader // of who reads

	// Guarded by Conn.mu.
	early   []byte        // what it said before the connection was taken over
	goOn    *sync.Cond    // on Conn.mu: resumed, or the end; nil on a shard
	relay   *relay        // nil: the engine answers it
	pingAt  time.Duration // when a ping went out that nothing was heard after; 0: none
	deaf    bool          // what it says is of no interest any more
	paused  bool
	resumed bool // reading is to go on
	closing bool // we have said close
	hungUp  bool // it has said close
}

// pongBytes is how much may wait for a client that sends pings and takes
// nothing: then it gets no more pongs.
const pongBytes = 4 << 10

// due is when the client has been silent for too long.
func (cl *client) due(timeout time.Duration) time.Duration {
	if cl.pingAt == 0 {
		return never
	}
	return cl.pingAt + timeout
}

// pinged notes that a ping went out.
func (cl *client) pinged(now time.Duration) {
	if cl.pingAt == 0 {
		cl.pingAt = now
	}
}

// Pause stops taking messages from a WebSocket's client; some that are here
// already may still be received.
func (c *Conn) Pause() {
	c.mu.Lock()
	c.client.paused = true
	c.mu.Unlock()
}

// Resume goes on after Pause.
func (c *Conn) Resume() {
	c.mu.Lock()
	if c.client.paused {
		c.client.paused, c.client.resumed = false, true
		if c.client.goOn != nil {
			c.client.goOn.Broadcast()
		}
		c.kick()
	}
	c.mu.Unlock()
}

// hear takes bytes of a WebSocket's client. It is called by who reads, without
// c.mu.
func (c *Conn) hear(p []byte) {
	c.mu.Lock()
	c.client.pingAt = 0
	deaf := c.client.deaf
	c.mu.Unlock()
	if deaf {
		return
	}
	r := &c.client.reader
	held := r.Held()
	err := r.Feed(p, c.received)
	more := r.Held() - held
	c.engine().Keep(more)
	var wrong *ws.Error
	switch {
	case err == nil && more > 0 && c.engine().Crowded():
		c.deafen()
		c.refuse(&ws.Error{Code: 1013, Text: "try again later"}, Crowded)
	case err == nil, errors.Is(err, errHungUp):
	case errors.As(err, &wrong) && wrong.Code == ws.CodeTooBig:
		c.refuse(wrong, TooBig)
	case errors.As(err, &wrong):
		c.refuse(wrong, Wrong)
	}
}

// deafen forgets what was heard. Who reads calls it, and hears nothing from then
// on.
func (c *Conn) deafen() {
	if c.client != nil {
		c.engine().Keep(-c.client.reader.Held())
		c.client.reader.Reset()
	}
}

func (c *Conn) refuse(err *ws.Error, why Ending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client.deaf = true
	c.finish(nil, err.Code, err.Text, why)
}

// errHungUp ends the reading when the client has said close.
var errHungUp = errors.New("the client has closed the WebSocket")

func (c *Conn) received(m ws.Message) error {
	switch m.Op {
	case ws.OpText:
		c.owner.Received(grip.TextMessage, m.Payload)
	case ws.OpBinary:
		c.owner.Received(grip.BinaryMessage, m.Payload)
	case ws.OpPing:
		if c.relayed() {
			c.owner.Received(grip.PingMessage, m.Payload)
			return nil
		}
		c.mu.Lock()
		if c.state == open && (c.out == nil || c.out.pongs < pongBytes) {
			pong := ws.AppendFrame(nil, ws.OpPong, m.Payload)
			c.put(pong)
			c.out.pongs += len(pong)
			c.kick()
		}
		c.mu.Unlock()
	case ws.OpPong:
		if c.relayed() {
			c.owner.Received(grip.PongMessage, m.Payload)
		}
	case ws.OpClose:
		relayed := c.relayed()
		if relayed {
			c.client.relay.to.Closing(m.Payload) // Gone comes later
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.client.hungUp = true
		if !relayed {
			code, _ := ws.ParseClose(m.Payload)
			c.finish(nil, code, "", Left)
		}
		if c.state == lingering {
			c.cut(c.ending)
		}
		return errHungUp
	}
	return nil
}
