package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"spillway/grip"
	"spillway/relay/auth"
)

// A clientMessage is what a spillway.v1.json client sends.
//
//	{"type":"subscribe","topics":["orders"],"last_event_id":"1-…","ref":1}
//	{"type":"unsubscribe","ref":1}
//	{"type":"auth","token":"…"}
//
// ref is any number or string of the client's; answers repeat it. The other
// members are those of the URL, by the same names.
type clientMessage struct {
	Type        string           `json:"type"`
	Ref         json.RawMessage  `json:"ref"`
	Token       string           `json:"token"`
	Topics      []string         `json:"topics"`
	LastEventID string           `json:"last_event_id"`
	Key         texts            `json:"key"`
	Partition   texts            `json:"partition"`
	Header      map[string]texts `json:"header"`
	Filter      string           `json:"filter"`
	Fields      texts            `json:"fields"`
	Since       text             `json:"since"`
	From        string           `json:"from"`
	Last        text             `json:"last"`
	Until       text             `json:"until"`
	Slow        string           `json:"slow"`
	Rate        text             `json:"rate"`
	Speed       text             `json:"speed"`
	Limit       text             `json:"limit"`
	Marks       text             `json:"marks"`
	ID          string           `json:"id"`
	Schema      text             `json:"schema"`
	Heartbeat   string           `json:"heartbeat"`
}

// text is a JSON string, number or boolean, as a query parameter would hold it.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	switch {
	case bytes.Equal(b, []byte("true")):
		*t = "1"
	case bytes.Equal(b, []byte("false")):
		*t = "0"
	case len(b) > 0 && b[0] == '"':
		return json.Unmarshal(b, (*string)(t))
	default:
		var n json.Number
		if err := json.Unmarshal(b, &n); err != nil {
			return err
		}
		*t = text(n)
	}
	return nil
}

// texts are one text or an array of them: a parameter that may be repeated.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		var one text
		err := one.UnmarshalJSON(b)
		*t = texts{string(one)}
		return err
	}
	var many []text
	err := json.Unmarshal(b, &many)
	for _, one := range many {
		*t = append(*t, string(one))
	}
	return err
}

// The codes of an error that answers a message; the others are those of a
// stream-error.
const (
	codeBadMessage    = "bad-message"
	codeNotFound      = "not-found"
	codeNotConfigured = "not-configured"

	codeTooManySubscriptions = "too-many-subscriptions"
)

// messageMistake says what is wrong with a message, in the words of its sender.
func messageMistake(err error) string {
	var typ *json.UnmarshalTypeError
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return "unknown member " + name + "; the nearest known one is " + strconv.Quote(nearest(strings.Trim(name, `"`), clientMembers))
	}
	if errors.As(err, &typ) && typ.Field == "" {
		return "a message is one JSON object, not " + typ.Value
	}
	if errors.As(err, &typ) {
		return typ.Field + ": must be " + kindOf(typ.Type) + ", not " + typ.Value
	}
	return "a message is one JSON object: " + strings.TrimPrefix(strings.TrimPrefix(err.Error(), "json: "), "jsontext: ")
}

// kindOf says in the words of JSON what a member of a clientMessage is.
func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[json.Number]():
		return "a string or number"
	case t.Kind() == reflect.Slice:
		return "an array of strings"
	case t.Kind() == reflect.Map:
		return "an object"
	}
	return "a string"
}

// clientMembers are the members of a clientMessage.
var clientMembers = func() (names []string) {
	for f := range reflect.TypeFor[clientMessage]().Fields() {
		names = append(names, f.Tag.Get("json"))
	}
	return names
}()

// query is the message's selection as the URL would say it.
func (m *clientMessage) query() url.Values {
	q := url.Values{"topic": m.Topics, "key": m.Key, "partition": m.Partition}
	for name, values := range m.Header {
		q["header."+name] = values
	}
	for name, value := range map[string]string{
		"last_event_id": m.LastEventID, "since": string(m.Since), "from": m.From, "last": string(m.Last),
		"until": string(m.Until), "limit": string(m.Limit), "speed": string(m.Speed), "slow": m.Slow, "rate": string(m.Rate), "marks": string(m.Marks), "id": m.ID, "heartbeat": m.Heartbeat, "schema": string(m.Schema),
		"filter": m.Filter, "fields": strings.Join(m.Fields, ","),
	} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return q
}

const maxRefBytes = 64

// refName checks ref and makes the name of the subscription in the gateway.
func (m *clientMessage) refName() (string, error) {
	switch {
	case len(m.Ref) == 0:
		return "", errors.New("ref is missing; give each subscription a number or string of its own")
	case len(m.Ref) > maxRefBytes:
		return "", errors.New("ref is longer than " + strconv.Itoa(maxRefBytes) + " bytes")
	case m.Ref[0] == '{' || m.Ref[0] == '[' || bytes.Equal(m.Ref, []byte("null")):
		return "", errors.New("ref must be a number or a string")
	}
	return "ref " + string(m.Ref), nil
}

// serveMessages carries out what a client said on a WebSocket, and answers
// with WebSocket events (GRIP reference, section 8).
func (o *Origin) serveMessages(w http.ResponseWriter, r *http.Request) {
	r, cancel := patient(r)
	defer cancel()
	var body bytes.Buffer
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, 1<<20)); err != nil {
		writeProblem(w, r, problem{Status: http.StatusBadRequest, Detail: "messages: " + err.Error()})
		return
	}
	events, err := grip.ParseEvents(body.Bytes())
	if err != nil {
		writeProblem(w, r, problem{Status: http.StatusBadRequest, Detail: err.Error()})
		return
	}
	var out []byte
	for _, e := range events {
		if e.Type == grip.EventText || e.Type == grip.EventBinary {
			out = o.message(out, w.Header(), r, e.Content)
		}
	}
	w.Header().Set("Content-Type", grip.ContentTypeEvents)
	w.WriteHeader(http.StatusOK)
	w.Write(out)
}

// message carries out one message and appends the events that answer it. What
// the gateway is to remember of the WebSocket goes into h.
func (o *Origin) message(out []byte, h http.Header, r *http.Request, content []byte) []byte {
	var m clientMessage
	// A member that is there twice would count only once, and what is not UTF-8
	// could not be said in the answer.
	text := jsontext.NewDecoder(bytes.NewReader(content))
	raw, err := text.ReadValue()
	if err != nil {
		return appendReply(out, &m, "error", codeBadMessage, messageMistake(err), "")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return appendReply(out, &m, "error", codeBadMessage, messageMistake(err), "")
	}
	if _, err := text.ReadToken(); !errors.Is(err, io.EOF) {
		return appendReply(out, &m, "error", codeBadMessage, "more than one JSON text; send one in each message", "")
	}
	switch m.Type {
	case "subscribe":
		return o.subscribe(out, h, r, &m)
	case "unsubscribe":
		name, err := m.refName()
		if err != nil {
			return appendReply(out, &m, "error", codeBadMessage, err.Error(), "")
		}
		out = grip.AppendControlEvent(out, grip.Control{Type: grip.ControlUnsubscribe, Name: name})
		return appendReply(out, &m, "unsubscribed", "", "", "")
	case "auth":
		if o.auth == nil {
			return appendReply(out, &m, "error", codeNotConfigured, "this server does not authenticate clients; there is no token to renew", "")
		}
		if err := o.renewToken(h, r, m.Token); err != nil {
			o.tellFailure(h, err)
			return o.refuseMessage(out, &m, err)
		}
		return appendReply(out, &m, "authenticated", "", "", "")
	default:
		return appendReply(out, &m, "error", codeBadMessage, "type must be subscribe, unsubscribe or auth", "")
	}
}

// refuseMessage answers a message that cannot be carried out.
func (o *Origin) refuseMessage(out []byte, m *clientMessage, err error) []byte {
	code, detail := codeInternal, "internal error; try again"
	var bad *badRequest
	var denied *auth.Denied
	switch {
	case errors.As(err, &bad):
		code, detail = codeBadMessage, bad.detail
	case errors.As(err, &denied):
		code, detail = codeForbidden, denied.Reason
	case errors.Is(err, auth.ErrUnavailable):
		o.log.Debug("nobody can say who a WebSocket is", "err", err)
		code, detail = codeAuthUnavailable, authUnavailable
	case errors.Is(err, errExpired):
		code, detail = codeTokenExpired, "the token has expired; send a new one: {\"type\":\"auth\",\"token\":…}"
	case errors.Is(err, errForbidden):
		code, detail = codeForbidden, "this WebSocket is nobody's who may ask"
	case errors.As(err, new(*forbiddenError)):
		code, detail = codeForbidden, err.Error()
	case errors.As(err, new(*noPartitionError)):
		code, detail = codeNotFound, err.Error()
	case errors.Is(err, errUnknownTopic):
		code, detail = codeNotFound, "no such topic; "+o.path+" lists those that can be read"
	case errors.Is(err, errUnavailable):
		code, detail = codeKafkaUnavailable, "Kafka cannot be reached; try again"
	case errors.Is(err, errTooManyViews):
		code, detail = codeTooManyViews, tooManyViews
	case errors.Is(err, errTooManySubscriptions):
		code, detail = codeTooManySubscriptions, "this WebSocket has as many subscriptions as it may; end one, or open another WebSocket"
	default:
		o.log.Error("message", "type", m.Type, "err", err)
	}
	return appendReply(out, m, "error", code, detail, "")
}

// errTooManySubscriptions says that the gateway follows no more on a WebSocket.
var errTooManySubscriptions = errors.New("as many subscriptions as there may be")

func (o *Origin) subscribe(out []byte, h http.Header, r *http.Request, m *clientMessage) []byte {
	refuse := func(err error) []byte {
		o.tellFailure(h, err)
		return o.refuseMessage(out, m, err)
	}
	name, err := m.refName()
	if err != nil {
		return refuse(badf("%v", err))
	}
	// One of the same name would take its place.
	if names, full := r.Header[grip.FullField]; full && !slices.Contains(names, name) {
		o.metrics.overSubscribed.Inc()
		return refuse(errTooManySubscriptions)
	}
	// The handshake's own parameters belong to the URL's stream, not to this one.
	like := &http.Request{
		URL: &url.URL{RawQuery: m.query().Encode()},
		Header: http.Header{
			"Accept":                 {grip.ContentTypeEvents},
			"Sec-Websocket-Protocol": {protocolJSON},
		},
	}
	if len(m.Topics) == 0 {
		return refuse(badf("topics is missing; list their names as an array"))
	}
	if slices.ContainsFunc(m.Topics, func(t string) bool { return strings.Contains(t, ",") }) {
		return refuse(badf("topics: a name has no comma; list the topics as an array"))
	}
	c, err := o.current(h, r)
	if err != nil {
		return refuse(err)
	}
	s, err := parseSelection("", like, nil, o.queries, o.hub.veil.sealer(), c, o.now())
	if err != nil {
		return refuse(err)
	}
	if !o.shows(c, r, s.topics...) {
		o.tellHidden(h, s.topics, c)
		return refuse(errUnknownTopic)
	}
	o.tellReader(h, s.topics, c)
	topics, err := o.find(r.Context(), s.topics)
	if err != nil {
		return refuse(err)
	}
	if err := o.decoder.allows(&s); err != nil {
		return refuse(err)
	}
	p, gaps, err := o.begin(r.Context(), &s, topics)
	if err != nil {
		return refuse(err)
	}
	p.link.Subscription = true
	out = appendReply(out, m, "subscribed", "", "", p.w.channel)
	p.gaps(gaps)
	out = append(out, p.out...)
	l := p.link
	l.Cursor = p.internalID()
	sealed, err := o.sealer.seal(&l)
	if err != nil {
		return refuse(err)
	}
	return grip.AppendControlEvent(out, grip.Control{Type: grip.ControlSubscribe, Name: name, Link: o.path + sealed})
}

// appendReply appends the text message that answers m: {"type":…,"ref":…}.
func appendReply(out []byte, m *clientMessage, typ, code, detail, channel string) []byte {
	return grip.AppendEvent(out, grip.Event{Type: grip.EventText, Content: mustJSON(struct {
		Type    string          `json:"type"`
		Ref     json.RawMessage `json:"ref,omitempty"`
		Channel string          `json:"channel,omitempty"`
		Code    string          `json:"code,omitempty"`
		Message string          `json:"message,omitempty"`
	}{typ, m.Ref, channel, code, detail})})
}
