package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"spillway/gateway/control"
	"spillway/gateway/fanout"
	"spillway/grip"
)

// recoverRate is how many subscribers a second are made to ask their origin by
// /recover/ (GRIP reference, 7.3: ten batches of up to 100).
const recoverRate = 1000

// backend is the gateway behind the control API.
type backend struct {
	g *Gateway

	mu         sync.Mutex
	recovering bool // guarded by mu
	again      bool // somebody asked while it was going on; guarded by mu
}

var (
	_ control.Recoverer = (*backend)(nil)
	_ control.Purger    = (*backend)(nil)
)

// Publish implements control.Backend.
func (b *backend) Publish(_ context.Context, items ...grip.Item) (control.Receipt, error) {
	if check := b.g.cfg.CheckPublish; check != nil {
		for i := range items {
			if !fanout.HasContent(&items[i]) {
				continue
			}
			if err := check(items[i].Channel); err != nil {
				return control.Receipt{}, &control.Refused{Text: err.Error()}
			}
		}
	}
	b.g.answers.Published(items)
	r, err := b.g.engine.Deliver(items)
	if owned := (*fanout.OwnedError)(nil); errors.As(err, &owned) {
		return control.Receipt{}, &control.Refused{Text: owned.Error()}
	}
	return control.Receipt{Receivers: r.Receivers, Dropped: r.Duplicates}, err
}

// Recover implements control.Recoverer. It takes a while where there are many
// subscribers, and is not waited for: asked for again meanwhile, it begins once
// more in the end.
func (b *backend) Recover(context.Context) error {
	b.g.answers.Recovered()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recovering {
		b.again = true
		return nil
	}
	b.recovering = true
	b.g.drain.spawn(b.recover) // ends when draining begins
	return nil
}

func (b *backend) recover() {
	for {
		b.g.engine.Recover(b.restraint)
		b.mu.Lock()
		b.recovering, b.again = b.again, false
		more := b.recovering
		b.mu.Unlock()
		if !more {
			return
		}
	}
}

// restraint waits for as long as so many origins' requests take; it reports
// false when there is no more use in it.
func (b *backend) restraint(subscribers int) bool {
	t := time.NewTimer(time.Duration(subscribers) * time.Second / recoverRate)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-b.g.drain.started:
	case <-b.g.base.Done():
	}
	return false
}

// Channels implements control.Backend.
func (b *backend) Channels(after string, limit int) ([]control.ChannelInfo, string) {
	found, more := b.g.engine.Channels(after, limit)
	infos := make([]control.ChannelInfo, 0, len(found))
	for _, ch := range found {
		infos = append(infos, control.ChannelInfo{Name: ch.Name, Subscribers: ch.Subscribers})
	}
	if !more {
		return infos, ""
	}
	return infos, infos[len(infos)-1].Name
}
