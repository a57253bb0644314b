package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/twmb/franz-go/pkg/sr"

	"spillway/grip/secret"
)

const (
	maxAnswerBytes = 4 << 20 // of one schema
	maxTextBytes   = 8 << 20 // of a schema and all that it refers to
	maxReferences  = 256     // of a schema, and of those that it refers to
)

// A client asks the registry's URLs, one after the other.
type client struct {
	places    *secret.Value[[]place]
	auth      *secret.Value[credentials] // for all places; none: those of each
	timeout   time.Duration              // of one question to all places
	first     atomic.Uint32              // the place that has answered last
	transport *http.Transport
}

// A place is one URL.
type place struct {
	*sr.Client
	name string
}

func newClient(cfg Config) (*client, error) {
	conf, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	c := &client{timeout: cfg.Timeout, transport: http.DefaultTransport.(*http.Transport).Clone()}
	c.transport.TLSClientConfig = conf
	hc := &http.Client{Transport: capped{c.transport}}
	if c.auth, err = secret.Follow(cfg.Secrets, "SCHEMA_REGISTRY_AUTH", cfg.Auth, parseAuth); err != nil {
		return nil, err
	}
	c.places, err = secret.Follow(cfg.Secrets, "SCHEMA_REGISTRY_URL", strings.Join(cfg.URLs, ","), func(text string) ([]place, error) {
		targets, err := parseURLs(text)
		if err == nil && len(targets) == 0 {
			err = errors.New("SCHEMA_REGISTRY_URL: nothing but commas; write https://HOST:PORT")
		}
		if err != nil {
			return nil, err
		}
		return c.placesOf(targets, hc)
	})
	return c, err
}

func (c *client) placesOf(targets []target, hc *http.Client) ([]place, error) {
	var places []place
	for _, t := range targets {
		one, err := sr.NewClient(sr.HTTPClient(hc), sr.URLs(t.url), sr.UserAgent("spillway"), sr.PreReq(func(rq *http.Request) error {
			if auth := c.auth.Get(); auth != (credentials{}) {
				auth.show(rq)
			} else {
				t.show(rq)
			}
			return nil
		}))
		if err != nil {
			return nil, err
		}
		places = append(places, place{one, t.url})
	}
	return places, nil
}

// show puts credentials into a request.
func (c *credentials) show(rq *http.Request) {
	switch {
	case c.token != "":
		rq.Header.Set("Authorization", "Bearer "+c.token)
	case c.basic:
		rq.SetBasicAuth(c.user, c.password)
	}
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// capped bounds what is read of an answer.
type capped struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t capped) RoundTrip(rq *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(rq)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswerBytes)
	}
	return resp, err
}

var errNotFound = errors.New("not found")

// ask asks one URL after the other until one has an answer, errNotFound
// included. Each gets its share of the time, so that one that hangs leaves some
// for the next.
func (c *client) ask(ctx context.Context, question func(context.Context, *sr.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var last error
	places, from := c.places.Get(), int(c.first.Load())
	for i := range places {
		at := (from + i) % len(places)
		err := c.askOne(ctx, len(places)-i, func(ctx context.Context) error { return question(ctx, places[at].Client) })
		if err == nil || errors.Is(err, errNotFound) {
			c.first.Store(uint32(at))
			return err
		}
		last = fmt.Errorf("%s: %w", places[at].name, err)
		if ctx.Err() != nil {
			break
		}
	}
	return last
}

func (c *client) askOne(ctx context.Context, left int, question func(context.Context) error) error {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	err := question(ctx)
	var refused *sr.ResponseError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound && refused.ErrorCode != 0:
		return errNotFound // said by a registry, and not by what stands in front of it
	case errors.As(err, &refused):
		text := fmt.Sprintf("status %d: %s", refused.StatusCode, cut(refused.Error()))
		if refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden {
			text += "; see SCHEMA_REGISTRY_AUTH"
		}
		return errors.New(text)
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer in time")
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner // without the URL, which has been named
	}
	return errors.New(cut(err.Error()))
}

// texts are a schema and all that it refers to, those first that others refer
// to. imports are the references by the names that they have in the schemas.
type texts struct {
	schema  sr.Schema
	ordered []string // with the schema's own last
	imports map[string]string
	bytes   int
}

// A missingError says that a reference leads nowhere, or that there are too many.
type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }

// fetch asks for a schema and all that it refers to.
func (c *client) fetch(ctx context.Context, id int) (*texts, error) {
	t := &texts{imports: make(map[string]string)}
	err := c.ask(ctx, func(ctx context.Context, cl *sr.Client) (err error) {
		t.schema, err = cl.SchemaByID(ctx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := c.references(ctx, t, t.schema.References, make(map[string]bool)); err != nil {
		return nil, err
	}
	t.ordered = append(t.ordered, t.schema.Schema)
	t.bytes += len(t.schema.Schema)
	return t, nil
}

func (c *client) references(ctx context.Context, t *texts, refs []sr.SchemaReference, seen map[string]bool) error {
	for _, ref := range refs {
		key := fmt.Sprintf("%s/%d", ref.Subject, ref.Version)
		if seen[key] && t.imports[ref.Name] != "" {
			continue
		}
		if len(t.imports) >= maxReferences {
			return &missingError{fmt.Sprintf("more than %d references", maxReferences)}
		}
		var s sr.SubjectSchema
		err := c.ask(ctx, func(ctx context.Context, cl *sr.Client) (err error) {
			// A version may be deleted for writers, and be in use here.
			s, err = cl.SchemaByVersion(sr.WithParams(ctx, sr.ShowDeleted), ref.Subject, ref.Version)
			return err
		})
		switch {
		case errors.Is(err, errNotFound):
			return &missingError{fmt.Sprintf("its reference %s, version %d of %s, does not exist", cut(ref.Name), ref.Version, cut(ref.Subject))}
		case err != nil:
			return err
		}
		t.imports[ref.Name] = s.Schema.Schema
		if t.bytes += len(s.Schema.Schema); t.bytes > maxTextBytes {
			return &missingError{fmt.Sprintf("more than %d bytes with its references", maxTextBytes)}
		}
		if seen[key] { // under another name
			continue
		}
		seen[key] = true
		if err := c.references(ctx, t, s.References, seen); err != nil {
			return err
		}
		t.ordered = append(t.ordered, s.Schema.Schema)
	}
	return nil
}

// cut makes a text of others fit for a line of ours.
func cut(text string) string {
	const most = 300 // half from each end: the cause is at the end
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) { // libraries of Protobuf use some that are not ASCII's
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most/2], "") + " … " + strings.ToValidUTF8(text[len(text)-most/2:], "")
	}
	return text
}
