package upstream

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"spillway/gateway/route"
)

// LinkHosts are hosts that any link may lead to. What an origin answers may have
// come from its clients, and the base of its links is what a client has said in
// Host: so a link is no reason to ask whoever it names.
type LinkHosts struct {
	any   bool
	hosts []linkHost
}

type linkHost struct{ name, port string } // port: empty is that of the scheme

// ParseLinkHosts reads a list of HOST, which stands for the ports 80 (http) and
// 443 (https), and HOST:PORT. * stands for all hosts.
func ParseLinkHosts(list []string) (LinkHosts, error) {
	var l LinkHosts
	for _, s := range list {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		if s == "*" {
			l.any = true
			continue
		}
		u, err := url.Parse("//" + s)
		if err != nil || u.Host != s || u.Hostname() == "" || u.User != nil || strings.Contains(s, "*") {
			return LinkHosts{}, fmt.Errorf("%q: write a host, such as api.example.com or 10.1.2.3:8080, or * for any", s)
		}
		if p := u.Port(); p != "" {
			if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
				return LinkHosts{}, fmt.Errorf("%q: no such port", s)
			}
		}
		l.hosts = append(l.hosts, linkHost{strings.ToLower(u.Hostname()), u.Port()})
	}
	return l, nil
}

func (l LinkHosts) contain(u *url.URL) bool {
	return l.any || slices.ContainsFunc(l.hosts, func(h linkHost) bool {
		if !strings.EqualFold(h.name, u.Hostname()) {
			return false
		}
		if h.port == "" {
			return u.Port() == "" || u.Port() == port(&url.URL{Scheme: u.Scheme})
		}
		return h.port == port(u)
	})
}

// mayLead reports whether a link that does not fit the route of its page may be
// followed: to a target of that route, or to where the page came from, if it came
// by no route, or to one of Config.LinkHosts.
func (f *Forwarder) mayLead(u, base *url.URL, by *route.Route) bool {
	if by == nil {
		if sameOrigin(u, base) {
			return true
		}
	} else {
		addr := net.JoinHostPort(u.Hostname(), port(u))
		if slices.ContainsFunc(by.Targets, func(t route.Target) bool {
			return !t.Test && strings.EqualFold(t.Addr, addr) && t.TLS == (u.Scheme == "https")
		}) {
			return true
		}
	}
	return f.cfg.LinkHosts.contain(u)
}
