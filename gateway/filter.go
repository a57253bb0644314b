package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"

	"spillway/gateway/fanout"
	"spillway/gateway/route"
	"spillway/grip"
)

// features are told to origins (Grip-Feature), besides those of package upstream.
var features = []string{
	"link:gone",
	"filter:" + grip.FilterSkipSelf, "filter:" + grip.FilterSkipUsers, "filter:" + grip.FilterRequireSub,
	"filter:" + grip.FilterBuildID, "filter:" + grip.FilterVarSubst, "filter:" + grip.FilterHTTPCheck, "filter:" + grip.FilterHTTPModify,
}

// A filterer is a source whose subscriptions may have filters. nil means that
// there is nothing to filter.
type filterer interface {
	filter(names []string, meta map[string]string) fanout.Filter
}

func (s *httpSource) filter(names []string, meta map[string]string) fanout.Filter {
	return s.g.newFilter(names, s.named, func() map[string]string { return meta }, s.base, s.route)
}

// A filter is the filters of one subscription to a channel (GRIP reference, 6).
// Those that only skip items come first, wherever they stand in the list: what is
// dropped need not be asked about. The others are carried out in order.
type filter struct {
	g       *Gateway
	names   []string
	content []string // of names, those that change content
	prefix  string   // of channels, which the origin does not say
	effort  fanout.Effort
	meta    func() map[string]string // of the subscription; what it returns does not change

	// Where services are.
	base  *url.URL
	route *route.Route
}

// newFilter makes one of what an origin asks for; nil where that is nothing we
// know.
func (g *Gateway) newFilter(names []string, prefix string, meta func() map[string]string, base *url.URL, rt *route.Route) fanout.Filter {
	f := &filter{g: g, content: grip.ContentFilters(names), prefix: prefix, meta: meta, base: base, route: rt}
	for _, name := range names {
		effort := fanout.NoEffort
		switch name {
		case grip.FilterSkipSelf, grip.FilterSkipUsers, grip.FilterRequireSub:
		case grip.FilterBuildID, grip.FilterVarSubst:
			effort = fanout.Quick
		case grip.FilterHTTPCheck, grip.FilterHTTPModify:
			effort = fanout.Slow
		default:
			continue
		}
		f.names = append(f.names, name)
		f.effort = max(f.effort, effort)
	}
	if len(f.names) == 0 {
		return nil
	}
	return f
}

// Skip implements fanout.Filter.
func (f *filter) Skip(item map[string]string, on func(channel string) bool) bool {
	return grip.Skips(f.names, f.meta(), item, on)
}

// ContentFilters implements fanout.Filter.
func (f *filter) ContentFilters() []string { return f.content }

// Effort implements fanout.Filter.
func (f *filter) Effort() fanout.Effort { return f.effort }

// Change implements fanout.Filter. An error drops the item, for this subscriber
// (GRIP reference, 6; as of Pushpin 2.0).
func (f *filter) Change(it *fanout.Passing) (content []byte, ok bool) {
	content, ok = it.Content, true
	meta := f.meta()
	for _, name := range f.names {
		var err error
		switch name {
		case grip.FilterVarSubst:
			content, err = grip.SubstituteVars(content, meta)
		case grip.FilterBuildID:
			var b *grip.IDBuilder
			if b, err = grip.NewIDBuilder(meta, f.lastOf(it)); err == nil {
				content, err = b.Append(nil, content, true)
			}
		case grip.FilterHTTPCheck:
			_, ok, err = f.g.services.ask(f, meta, it, nil)
		case grip.FilterHTTPModify:
			content, ok, err = f.g.services.ask(f, meta, it, content)
		}
		if err != nil {
			f.g.metrics.filterErrors.Inc()
			f.g.log.Debug("a filter dropped an item", "channel", it.Channel, "filter", name, "err", err)
			return nil, false
		}
		if !ok {
			return nil, false
		}
	}
	return content, true
}

// lastOf returns the last ids of the channels of a subscriber that an item goes
// to. The item's own counts already (GRIP reference, 6.1).
func (f *filter) lastOf(it *fanout.Passing) func(channel string) (id string, ok bool) {
	return func(channel string) (id string, ok bool) {
		for _, l := range it.Lasts {
			if strings.TrimPrefix(l.Channel, f.prefix) != channel {
				continue
			}
			if l.Channel == it.Channel && it.ID != "" {
				return it.ID, true
			}
			id, ok = l.ID, true
		}
		return id, ok
	}
}

// buildsID reports whether the body of a response has to pass build-id.
func buildsID(ins *grip.Instruct) bool {
	return slices.ContainsFunc(ins.Channels, func(c grip.Subscription) bool { return slices.Contains(c.Filters, grip.FilterBuildID) })
}

// build makes the body of a page pass build-id, where its channels have that.
// What was read of it already passes at once.
func (p *page) build() error {
	if !buildsID(&p.ins) {
		return nil
	}
	b, err := grip.NewIDBuilder(p.ins.Meta, func(channel string) (id string, ok bool) {
		for _, c := range p.ins.Channels {
			if c.Channel == channel {
				return c.PrevID, true
			}
		}
		return "", false
	})
	if err != nil {
		return err
	}
	if p.ins.Body, err = b.Append(nil, p.ins.Body, p.rest == nil); err != nil {
		return err
	}
	if p.rest != nil {
		p.rest = &builtBody{ReadCloser: p.rest, builder: b, piece: make([]byte, 4<<10)}
	}
	return nil
}

// A builtBody is the rest of a body on its way through build-id.
type builtBody struct {
	io.ReadCloser
	builder *grip.IDBuilder
	piece   []byte
	ready   bytes.Buffer
	end     error
}

func (b *builtBody) Read(p []byte) (int, error) {
	for b.ready.Len() == 0 && b.end == nil {
		n, err := b.ReadCloser.Read(b.piece)
		b.end = err
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			break
		}
		built, err := b.builder.Append(nil, b.piece[:n], last)
		if err != nil {
			b.end = err
			break
		}
		b.ready.Write(built)
	}
	if b.ready.Len() > 0 {
		return b.ready.Read(p)
	}
	return 0, b.end
}
