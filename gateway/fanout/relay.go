package fanout

import "time"

// A Relay is the owner of a WebSocket whose client speaks to somebody else: pings
// and pongs are Received, and neither they nor a close are answered by the engine.
// Its methods must not block either.
type Relay interface {
	Owner

	// Closing is called when the client has said close, with what its frame
	// holds, good until it returns. The owner says Finish, unless it has.
	Closing(content []byte)

	// Refresh is called when an item asks for a WebSocket-over-HTTP request. It
	// runs on a goroutine of its own.
	Refresh()

	// Alarm is called when the time has come that SetAlarm has named.
	Alarm()
}

// A relay is what a connection knows of such an owner.
type relay struct {
	to      Relay
	alarmAt time.Duration // or never; guarded by Conn.mu
	over    bool          // the engine answers the client; guarded by Conn.mu
}

// SetAlarm names the moment when the owner, which is a Relay, is called next; the
// zero Time: never.
func (c *Conn) SetAlarm(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client.relay.alarmAt = never
	if !at.IsZero() {
		c.client.relay.alarmAt = at.Sub(c.engine().started)
	}
	c.arm()
}

// EndRelay makes the engine answer the client's pings and its close from now on. The
// owner may be just about to be told of one.
func (c *Conn) EndRelay() {
	c.mu.Lock()
	c.client.relay.over = true
	c.mu.Unlock()
}

// relayed reports whether the owner answers what the client says.
func (c *Conn) relayed() bool {
	if c.client.relay == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.client.relay.over
}

func (c *Conn) alarmAt() time.Duration {
	if c.client == nil || c.client.relay == nil {
		return never
	}
	return c.client.relay.alarmAt
}

// refresh tells the owner that it is asked to make a request. It is called with
// c.mu.
func (c *Conn) refresh() {
	if c.client != nil && c.client.relay != nil && !c.client.relay.over {
		c.engine().telling.Go(c.client.relay.to.Refresh)
	}
}
