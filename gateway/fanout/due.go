package fanout

import (
	"time"

	"spillway/gateway/compress"
	"spillway/grip"
)

// lingerTime is how long a client may take to hang up, or to answer a close
// frame.
const lingerTime = 2 * time.Second

// A keepAlive is what is sent on a quiet connection. It is shared.
type keepAlive struct {
	frame    []byte
	sum      compress.Sum // of its content
	every    time.Duration
	interval bool // also when it was not quiet
	ping     bool // the client has to answer
}

// SetKeepAlive sets what is sent while the connection is quiet; nil: nothing. On a
// WebSocket it is a ping, whatever its content.
func (c *Conn) SetKeepAlive(k *grip.KeepAlive) {
	if c.framing == Framed && k != nil {
		k = &grip.KeepAlive{Timeout: k.Timeout, Interval: k.Interval}
	}
	c.SetKeepAliveMessage(grip.PingMessage, k)
}

// SetKeepAliveMessage is SetKeepAlive for a WebSocket, with a message of any type.
func (c *Conn) SetKeepAliveMessage(typ grip.MessageType, k *grip.KeepAlive) {
	c.mu.Lock()
	c.keep = c.engine().keepAlive(c, typ, k)
	if k != nil {
		c.keepFor = jittered(k.Timeout)
		c.lastKept = c.engine().now()
	}
	c.arm()
	c.mu.Unlock()
}

// EndAt moves the moment at which TimeOver is called to an earlier one.
func (c *Conn) EndAt(at time.Time) {
	c.mu.Lock()
	c.endAt = min(c.endAt, at.Sub(c.engine().started))
	c.arm()
	c.mu.Unlock()
}

// arm puts the connection into the wheel for what is due first. It is called
// with c.mu.
func (c *Conn) arm() {
	if c.state >= closed {
		return
	}
	if c.loop.wheel.add(c, c.due()) {
		c.loop.nudge()
	}
}

func (c *Conn) due() time.Duration {
	due := never
	if c.blocked || c.pumping || c.state == lingering {
		due = min(due, c.progress+c.patience())
	}
	if c.client != nil {
		due = min(due, c.client.due(c.timeout))
	}
	if c.state != open {
		return due
	}
	if !c.timeUp {
		due = min(due, c.endAt)
	}
	due = min(due, c.keepAt(), c.alarmAt())
	for _, s := range c.subs {
		if s.linkAfter > 0 && !s.asking {
			due = min(due, s.quiet+s.linkAfter)
		}
		due = min(due, s.restsUntil())
	}
	return due
}

// patience is how long the socket may take nothing, or the client may take to
// hang up.
func (c *Conn) patience() time.Duration {
	if c.state == lingering {
		return min(lingerTime, c.timeout)
	}
	return c.timeout
}

func (c *Conn) keepAt() time.Duration {
	switch k := c.keep; {
	case k == nil:
		return never
	case k.interval:
		return c.lastKept + c.keepFor
	default:
		return c.lastSent + c.keepFor
	}
}

// tickAt does what is due. It runs on the loop, and reports whether a rest has
// ended, so that there may be something to write.
func (c *Conn) tickAt(now time.Duration) (rested bool) {
	c.mu.Lock()
	if c.state >= closed {
		c.mu.Unlock()
		return false
	}
	over, alarm := false, false
	switch {
	case (c.blocked || c.pumping || c.state == lingering) && now >= c.progress+c.patience():
		why := Stalled
		if c.state == lingering {
			why = c.ending
		}
		c.cut(why)
	case c.client != nil && now >= c.client.due(c.timeout):
		c.cut(Stalled)
	case c.state != open:
	case !c.timeUp && now >= c.endAt:
		c.timeUp, over = true, true
	default:
		if now >= c.keepAt() {
			c.sendKeepAlive(now)
		}
		if alarm = now >= c.alarmAt(); alarm {
			c.client.relay.alarmAt = never
		}
		for i := len(c.subs) - 1; i >= 0; i-- {
			rested = c.subs[i].goOn(now) || rested
			if s := c.subs[i]; s.linkAfter > 0 && !s.asking && now >= s.quiet+s.linkAfter {
				c.tell(s, Quiet, Batch{})
			}
		}
	}
	c.arm()
	c.mu.Unlock()
	switch {
	case over:
		c.owner.TimeOver()
	case alarm:
		c.client.relay.to.Alarm()
	}
	return rested
}

// keepAlive sends a keep-alive, unless something is on its way anyway.
func (c *Conn) sendKeepAlive(now time.Duration) {
	c.keepFor = jittered(c.keep.every)
	c.lastKept = now
	if c.out != nil || c.blocked || c.pumping {
		c.lastSent = now
		return
	}
	c.engine().metrics.keepAlives.Add(1)
	c.put(c.keep.frame)
	if c.code != nil {
		c.code.add(c.keep.sum)
	}
	if c.keep.ping {
		c.client.pinged(now)
	}
	c.kick()
}
