package grip

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"
)

// A StatusError is a proxy's refusal to take items.
type StatusError struct {
	URL  string // where they were posted to, without a query
	Code int    // HTTP status, outside of 2xx
	Text string // the beginning of the body, in one line
}

func (e *StatusError) Error() string {
	text := e.Text
	if text == "" {
		text = http.StatusText(e.Code)
	}
	return fmt.Sprintf("%s answers %d: %s", e.URL, e.Code, text)
}

// Temporary reports whether the same items may be taken later: the proxy is
// the matter, and not what it was sent.
func (e *StatusError) Temporary() bool {
	return e.Code >= 500 || e.Code == http.StatusTooManyRequests || e.Code == http.StatusRequestTimeout
}

// An HTTPPublisher posts items to the control APIs of one or more proxies. It
// is safe for concurrent use; items of concurrent calls have no order. Make one,
// and keep it: it keeps connections.
type HTTPPublisher struct {
	client  *http.Client
	targets []*target
}

var _ Publisher = (*HTTPPublisher)(nil)

// defaultPublishTimeout is for callers that bring no client and no deadline.
const defaultPublishTimeout = 30 * time.Second

// maxIdlePublishers is how many connections to a proxy wait for the next
// Publish. With the two of net/http's own, a handler that publishes would open
// one for nearly each of its requests as soon as there are many at once.
const maxIdlePublishers = 64

// NewHTTPPublisher returns a publisher to all of proxies. A nil client means
// one with a timeout of 30 seconds and connections of its own. Redirects are
// not followed unless the client says how: a POST that ends as a GET would look
// like a success.
func NewHTTPPublisher(proxies []Proxy, client *http.Client) *HTTPPublisher {
	if client == nil {
		client = &http.Client{Timeout: defaultPublishTimeout}
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			t = t.Clone()
			t.MaxIdleConnsPerHost = maxIdlePublishers
			client.Transport = t
		}
	}
	c := *client
	if c.CheckRedirect == nil {
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	p := &HTTPPublisher{client: &c}
	for _, proxy := range proxies {
		p.targets = append(p.targets, &target{Proxy: proxy})
	}
	return p
}

var errNoProxies = errors.New("publish: no proxies")

// CloseIdleConnections ends the connections to proxies that no Publish uses
// now. A publisher that is no longer needed is left with that; one that is
// connects again.
func (p *HTTPPublisher) CloseIdleConnections() { p.client.CloseIdleConnections() }

// Publish posts items to all proxies at once, and to each in the order given,
// as few bodies of up to MaxPublishBody bytes. It returns nil when each proxy
// has taken everything. Otherwise the error joins those of the proxies that
// have not, a *StatusError among them where one answered; a proxy gets nothing
// after what it has not taken. An item that no proxy would take is an error
// before anything is sent. Publish does not try again: whoever does gives the
// items an ID, by which proxies drop those that they have already.
func (p *HTTPPublisher) Publish(ctx context.Context, items ...Item) error {
	if len(p.targets) == 0 {
		return errNoProxies
	}
	if len(items) == 0 {
		return nil
	}
	for i := range items {
		if err := items[i].check(); err != nil {
			return fmt.Errorf("publish: item %d of %d: %w", i+1, len(items), err)
		}
	}
	bodies := splitItems(items, MaxPublishBody)
	errs := make([]error, len(p.targets))
	var all sync.WaitGroup
	for i, t := range p.targets[1:] {
		all.Go(func() { errs[i+1] = t.publish(ctx, p.client, bodies) })
	}
	errs[0] = p.targets[0].publish(ctx, p.client, bodies)
	all.Wait()
	return errors.Join(errs...)
}

// check finds what makes a proxy refuse the whole request.
func (it *Item) check() error {
	switch f := it.HTTPResponse; {
	case it.Channel == "":
		return errors.New("no channel")
	case it.HTTPStream == nil && f == nil && it.WSMessage == nil:
		return fmt.Errorf("channel %q: no format; set HTTPStream, HTTPResponse or WSMessage", it.Channel)
	case f == nil:
		return nil
	case f.Code < 0 || f.Code > 999:
		return fmt.Errorf("channel %q: HTTPResponse: %d is no status", it.Channel, f.Code)
	case len(f.BodyPatch) > 0 && !json.Valid(f.BodyPatch):
		return fmt.Errorf("channel %q: HTTPResponse: BodyPatch is not JSON", it.Channel)
	}
	return nil
}

// splitItems encodes items into bodies of at most limit bytes each. An item
// that exceeds it alone gets a body of its own: the proxy may allow more.
func splitItems(items []Item, limit int) [][]byte {
	var bodies [][]byte
	buf := []byte(itemsHead)
	for i := range items {
		mark := len(buf)
		if mark > len(itemsHead) {
			buf = append(buf, ',')
		}
		start := len(buf)
		buf = appendItem(buf, &items[i])
		if len(buf)+len(itemsTail) <= limit || mark == len(itemsHead) {
			continue
		}
		next := append([]byte(itemsHead), buf[start:]...)
		bodies = append(bodies, append(buf[:mark], itemsTail...))
		buf = next
	}
	return append(bodies, append(buf, itemsTail...))
}

// A target is a proxy together with the token it was last shown.
type target struct {
	Proxy

	mu    sync.Mutex
	token string    // guarded by mu
	until time.Time // guarded by mu; when to sign a new one
}

// tokenReuse is well below SigLifetime, so that a proxy's clock may differ.
const tokenReuse = SigLifetime / 6

func (t *target) publish(ctx context.Context, client *http.Client, bodies [][]byte) error {
	for _, body := range bodies {
		if err := t.post(ctx, client, body); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	return nil
}

func (t *target) post(ctx context.Context, client *http.Client, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.PublishURL(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", t.Proxy, withoutURL(err))
	}
	req.Header.Set("Content-Type", "application/json")
	if err := t.authorize(req, time.Now()); err != nil {
		return fmt.Errorf("%s: %w", t.Proxy, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Proxy, withoutURL(err))
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		where, _, _ := strings.Cut(t.PublishURL(), "?")
		return &StatusError{URL: where, Code: resp.StatusCode, Text: oneLine(text)}
	}
	_ = err // the status says that the items were taken; the body only that it was long
	return nil
}

// maxErrorText bounds what of an answer is read, in bytes. "Published" fits,
// so the connection can be used again.
const maxErrorText = 1024

// oneLine makes a foreign text fit for a log line.
func oneLine(text []byte) string {
	blank := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(text), "\uFFFD"), blank), " ")
}

// withoutURL drops what http.Client puts before an error: it shows the query.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func (t *target) authorize(req *http.Request, now time.Time) error {
	switch {
	case t.Iss != "":
		token, err := t.sign(now)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	case !t.Key.IsZero():
		req.Header.Set("Authorization", "Bearer "+string(t.Key.material().secret))
	case t.User != nil:
		password, _ := t.User.Password()
		req.SetBasicAuth(t.User.Username(), password)
	}
	return nil
}

func (t *target) sign(now time.Time) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.until) {
		return t.token, nil
	}
	token, err := t.Key.Sign(t.Iss, now)
	if err != nil {
		return "", err
	}
	t.token, t.until = token, now.Add(tokenReuse)
	return token, nil
}
