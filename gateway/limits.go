package gateway

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// limits counts the requests that are being served.
type limits struct {
	capacity
	mostPerIP      int // 0: any number
	mostPerSubject int // 0: any number

	mu         sync.Mutex
	total      int                  // guarded by mu
	perIP      map[netip.Addr]*peer // guarded by mu; only with mostPerIP
	perSubject map[string]*reader   // guarded by mu; only with mostPerSubject
}

// A peer is a client's address that there are requests from.
type peer struct {
	address  netip.Addr
	requests int // guarded by limits.mu
}

// A reader is a subject that requests are answered for.
type reader struct {
	subject  string
	requests int // guarded by limits.mu
}

func newLimits(c capacity, mostPerIP, mostPerSubject int) *limits {
	return &limits{
		capacity: c, mostPerIP: mostPerIP, mostPerSubject: mostPerSubject,
		perIP: make(map[netip.Addr]*peer), perSubject: make(map[string]*reader),
	}
}

// enter counts a request of a client in, or says which limit it met. Without a
// limit for each there is no peer.
func (l *limits) enter(address netip.Addr) (_ *peer, why refusal, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.most {
		return nil, refusedTotal, false
	}
	var p *peer
	if l.mostPerIP > 0 && address.IsValid() {
		if p = l.perIP[address]; p == nil {
			p = &peer{address: address}
			l.perIP[address] = p
		}
		if p.requests >= l.mostPerIP {
			return nil, refusedPerIP, false
		}
		p.requests++
	}
	l.total++
	return p, "", true
}

func (l *limits) leave(p *peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if p == nil {
		return
	}
	if p.requests--; p.requests == 0 {
		delete(l.perIP, p.address)
	}
}

// enterSubject counts a request for who it is, or reports that there are as many
// as there may be.
func (l *limits) enterSubject(subject string) (*reader, bool) {
	if l.mostPerSubject == 0 || subject == "" {
		return nil, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.perSubject[subject]
	if r == nil {
		r = &reader{subject: subject}
		l.perSubject[subject] = r
	}
	if r.requests >= l.mostPerSubject {
		return nil, false
	}
	r.requests++
	return r, true
}

func (l *limits) leaveSubject(r *reader) {
	if r == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.requests--; r.requests == 0 {
		delete(l.perSubject, r.subject)
	}
}

// clientAddress is what counts as one client: its address, or its network of
// IPv6, where one customer has a whole /64. The zero Addr means unknown.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	return network(senderAddress(r, trusted))
}

// senderAddress is where a request comes from: behind trusted proxies the last of
// X-Forwarded-For that is none of them. The zero Addr means unknown.
func senderAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	address := addressIn(r.RemoteAddr)
	if isTrusted(address, trusted) {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0; i-- {
			hop, ok := parseHop(hops[i])
			if !ok {
				break // whoever wrote this, what stands before it is worth no more
			}
			address = hop
			if !isTrusted(hop, trusted) {
				break
			}
		}
	}
	return address
}

// addressIn is the address of host:port; the zero Addr where there is none.
func addressIn(hostPort string) netip.Addr {
	peer, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap().WithZone("")
}

// network is what counts as one client: an address, or a /64 of IPv6.
func network(address netip.Addr) netip.Addr {
	if address.Is6() {
		if n, err := address.Prefix(64); err == nil {
			return n.Addr()
		}
	}
	return address
}

// Sender says where a client's request comes from, and whether by http or https,
// also behind trusted proxies. There is no address where nobody knows it.
func (g *Gateway) Sender(r *http.Request) (ip, proto string) {
	proto = "http"
	if g.upstream.ClientTLS(r) {
		proto = "https"
	}
	if address := senderAddress(r, g.trusted); address.IsValid() {
		ip = address.String()
	}
	return ip, proto
}

// parseHop reads an entry of X-Forwarded-For: an address, in some proxies with
// a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	address, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		address = withPort.Addr()
	}
	return address.Unmap().WithZone(""), true
}

func isTrusted(address netip.Addr, trusted []netip.Prefix) bool {
	for _, p := range trusted {
		if p.Contains(address) {
			return true
		}
	}
	return false
}
