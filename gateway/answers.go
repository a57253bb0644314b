package gateway

import (
	"context"
	"maps"
	"net/http"
	"net/url"

	"spillway/gateway/cache"
	"spillway/gateway/fanout"
	"spillway/gateway/route"
	"spillway/gateway/upstream"
	"spillway/grip"
	"spillway/grip/bytesize"
)

// CacheBytes is the share of memory for answers of origins.
func (c *Config) CacheBytes() bytesize.Bytes {
	switch {
	case c.CacheMemory > 0:
		return c.CacheMemory
	case c.Routes == "" && c.RoutesFile == "":
		return 0 // there are no origins
	default:
		return c.memoryLimit() / 16
	}
}

// mostAnswer is the largest answer that is kept.
func (c *Config) mostAnswer() bytesize.Bytes {
	return min(c.CacheMaxAnswer, c.CacheBytes()/4)
}

// caches reports whether a request may be answered with what others were
// answered. A gateway in front of this one has clients, and a cache, of its own.
func (g *Gateway) caches(r *http.Request, rt *route.Route) bool {
	return rt.Cache && (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		r.ContentLength == 0 && r.Host != "" && !isWebSocket(r) && !g.upstream.Trusted(r)
}

// ask asks the origin for a client, or the cache.
func (g *Gateway) ask(r *http.Request, rt *route.Route) (*cache.Answer, error) {
	if g.caches(r, rt) {
		return g.answers.Serve(r.Context(), g.shareable(r, rt, nil, func(ctx context.Context, r *http.Request) (*http.Response, error) {
			return g.upstream.Do(ctx, r, rt)
		}))
	}
	a, err := one(g.upstream.Do(r.Context(), r, rt)) //nolint:bodyclose // carryOut does
	if err == nil && rt.Cache && !safe(r.Method) && a.StatusCode < 400 {
		g.answers.Changed(g.cacheURL(r))
	}
	return a, err
}

// askAgain is the same for a long poll that has to learn what it missed.
func (g *Gateway) askAgain(r *http.Request, rt *route.Route, body []byte, lasts []grip.Last) (*cache.Answer, error) {
	if g.caches(r, rt) {
		return g.answers.Serve(r.Context(), g.shareable(r, rt, lasts, func(ctx context.Context, r *http.Request) (*http.Response, error) {
			return g.upstream.Redo(ctx, r, rt, nil, lasts)
		}))
	}
	return one(g.upstream.Redo(r.Context(), r, rt, body, lasts)) //nolint:bodyclose // carryOut does
}

// one is an answer for one client.
func one(resp *http.Response, err error) (*cache.Answer, error) {
	if err != nil {
		return nil, err
	}
	return &cache.Answer{Response: resp, Implied: implied(resp)}, nil
}

// implied are the channels that holds of a target are subscribed to (sub=).
func implied(resp *http.Response) []string { return upstream.TargetOf(resp).Subs }

// askLink follows a link; u is where it leads, and rt by which route.
func (s *httpSource) askLink(ctx context.Context, link string, u *url.URL, rt *route.Route, lasts []grip.Last) (*cache.Answer, error) {
	base, by := s.base, s.route // as they are now: others may ask later
	ask := func(ctx context.Context) (*http.Response, error) {
		return s.g.upstream.DoLink(ctx, link, base, by, lasts)
	}
	if rt != nil && rt.Cache {
		return s.g.answers.Serve(ctx, &cache.Request{
			URL: cache.URL(u.Scheme, u.Host, u.RequestURI()), Link: true, Lasts: lasts, Route: rt, Prefix: s.named,
			Ask:  func(ctx context.Context, _ http.Header) (*http.Response, error) { return ask(ctx) },
			Pass: ask,
		})
	}
	return one(s.g.links.do(ctx, linkKey(u, rt, lasts), ask)) //nolint:bodyclose // the page does
}

// shareable is what the cache has to know of a client's request. The origin may
// be asked when the client has left, so that it is asked with copies.
func (g *Gateway) shareable(r *http.Request, rt *route.Route, lasts []grip.Last, do func(context.Context, *http.Request) (*http.Response, error)) *cache.Request {
	return &cache.Request{
		URL: g.cacheURL(r), Header: r.Header, Lasts: lasts, Route: rt, Plain: rt.NoGrip, Prefix: rt.Prefix, Implied: implied,
		Ask: func(ctx context.Context, conditions http.Header) (*http.Response, error) {
			q := r.Clone(ctx)
			q.Method, q.Body = http.MethodGet, nil
			q.Header.Del("If-None-Match")
			q.Header.Del("If-Modified-Since")
			maps.Copy(q.Header, conditions)
			return do(ctx, q)
		},
		Pass: func(ctx context.Context) (*http.Response, error) {
			q := r.Clone(ctx)
			q.Body = nil
			return do(ctx, q)
		},
	}
}

// cacheURL is what the answers to a request are called: what the client asked
// for, whatever the route makes of it.
func (g *Gateway) cacheURL(r *http.Request) string {
	scheme := "http"
	if g.upstream.ClientTLS(r) {
		scheme = "https"
	}
	path := route.EncodedPath(r)
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		path += "?" + r.URL.RawQuery
	}
	return cache.URL(scheme, r.Host, path)
}

// safe reports whether a method changes nothing (RFC 9110, 9.2.1).
func safe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// attachAt moves what a hold attaches to, to where the cache says that its answer
// ends.
func attachAt(attach, marks []fanout.Want) {
	for i := range attach {
		for _, m := range marks {
			if m.Channel == attach[i].Channel && !m.HasPrevID {
				attach[i].Mark = m.Mark
			}
		}
	}
}

// Purge implements control.Purger.
func (b *backend) Purge(s string) (answers int, err error) {
	name, err := cache.ParseURL(s)
	if err != nil {
		return 0, err
	}
	return b.g.answers.Purge(name), nil
}
