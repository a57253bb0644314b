package gateway

import (
	"cmp"
	"context"
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"spillway/gateway/control"
	"spillway/gateway/route"
)

// An address is a client's, as clientAddress says it, in as little memory as
// there is one of for each connection: an IPv4 address behind ::ffff, or the
// network of an IPv6 one. 0 is unknown.
type address uint64

const mapped address = 0xffff << 32

func addressOf(a netip.Addr) address {
	switch {
	case a.Is4():
		b := a.As4()
		return mapped | address(binary.BigEndian.Uint32(b[:]))
	case a.Is6():
		b := a.As16()
		return address(binary.BigEndian.Uint64(b[:8]))
	}
	return 0
}

func (a address) String() string {
	var b [16]byte
	switch {
	case a == 0:
		return ""
	case a>>32 == mapped>>32:
		binary.BigEndian.PutUint32(b[:4], uint32(a))
		return netip.AddrFrom4([4]byte(b[:4])).String()
	}
	binary.BigEndian.PutUint64(b[:8], uint64(a))
	return netip.PrefixFrom(netip.AddrFrom16(b), 64).String()
}

// A holder has a connection that an operator may know of.
type holder interface {
	holds() (as transport, client address, from source)
}

func (s *stream) holds() (transport, address, source)  { return byStream, s.client, s.follow.source }
func (p *poll) holds() (transport, address, source)    { return byPoll, p.client, p.from }
func (s *session) holds() (transport, address, source) { return byWebSocket, s.client, s.from }

// routeOf names the route by which a connection came: by its id, or else by host
// and path; EVENTS_PATH is that of the origin in this process.
func (g *Gateway) routeOf(from source) string {
	var rt *route.Route
	switch from := from.(type) {
	case *httpSource:
		rt = from.first
	case linkless:
		rt = from.route
	}
	return g.nameOf(rt)
}

// nameOf is how a route is named to operators; nil is that of the origin in this
// process.
func (g *Gateway) nameOf(rt *route.Route) string {
	if rt == nil {
		return g.eventsPath
	}
	return cmp.Or(rt.ID, rt.Host+rt.PathBeg)
}

// Connections implements control.Lister.
func (b *backend) Connections(ctx context.Context, after string, limit int) (infos []control.ConnectionInfo, next string, err error) {
	id := uint64(0)
	if after != "" {
		if id, err = strconv.ParseUint(after, 10, 64); err != nil {
			return nil, "", &control.Refused{Text: "Invalid after: must be the next of another page."}
		}
	}
	found, more := b.g.engine.Connections(ctx, id, limit)
	for _, c := range found {
		h, ok := c.Owner.(holder)
		if !ok {
			continue
		}
		as, client, from := h.holds()
		infos = append(infos, control.ConnectionInfo{
			ID: strconv.FormatUint(c.ID, 10), Address: client.String(), Route: b.g.routeOf(from), Transport: transportNames[as],
			Channels: c.Channels, Since: c.Since.UTC().Truncate(time.Second), Bytes: c.Bytes,
		})
	}
	if more {
		next = strconv.FormatUint(found[len(found)-1].ID, 10)
	}
	return infos, next, nil
}

var _ control.Lister = (*backend)(nil)
