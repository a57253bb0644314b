package relay

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/grip"
	"spillway/grip/secret"
	"spillway/relay/auth"
	"spillway/relay/kafkatest"
)

func newTestSealer(t *testing.T, secret string) *sealer {
	t.Helper()
	s, err := newSealer(&Config{LinkKey: secret})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const aSecret, anotherSecret = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"

func TestLinkSeal(t *testing.T) {
	s := newTestSealer(t, aSecret)
	l := &link{
		Topics: []string{"a", "b"}, queryText: queryText{Filter: "f", Fields: "g"}, Form: formEnvelope, IDs: idBatch, Event: "header:x", Quiet: true, Schema: true, Via: overWebSocket,
		Cursor: "1-hi3hk-4fz1q.3.xg.rq.3ej", LongPoll: true, Subscription: true, Limit: 7, Until: 8, Bound: "1-a", Marks: true, Existed: "1-b",
		Replayed: 9, ReplayBytes: 10, HeartbeatMS: 11, Since: 12,
		pace: pace{Speed: 2, From: 13, Begun: 14}, lag: lag{Fell: 15, Age: 16, Appended: 17}, sparing: sparing{Latest: true, Rate: "5/s"}, Rest: 22,
		Bare: true, Right: &right{Subject: "s", Expires: 20, Bindings: "b", Bare: true, Socket: "w", Asks: &auth.Question{Method: "GET"}, AskAt: 21},
		newest: newest{Stage: stageSnapshot, Places: []string{"v.0"}, Topic: 18, Restarts: 19},
	}
	for i := range reflect.ValueOf(l).Elem().NumField() {
		if reflect.ValueOf(l).Elem().Field(i).IsZero() {
			t.Errorf("the test leaves %s out", reflect.TypeOf(*l).Field(i).Name)
		}
	}
	path, err := s.seal(l)
	if err != nil {
		t.Fatal(err)
	}
	sealed, ok := strings.CutPrefix(path, linkPrefix)
	if !ok || strings.Trim(sealed, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Errorf("%q is not a path that needs no escapes", path)
	}
	if again, _ := s.seal(l); again != path {
		t.Error("equal links have different paths, so gateways cannot share their answers")
	}
	got, err := s.open(sealed)
	if err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("got %+v, %v; want %+v", got, err, l)
	}
	if same, err := newTestSealer(t, aSecret).open(sealed); err != nil || !reflect.DeepEqual(same, l) {
		t.Errorf("a replica with the same key: %v", err)
	}
}

func TestLinkThatIsNotOurs(t *testing.T) {
	s := newTestSealer(t, aSecret)
	path, err := s.seal(&link{Topics: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	sealed := strings.TrimPrefix(path, linkPrefix)
	raw, _ := base64.RawURLEncoding.DecodeString(sealed)
	withJSON := func(text string) string {
		b, err := s.key().EncryptDeterministically([]byte(text), []byte(linkPrefix))
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	random := newTestSealer(t, "")
	for _, tt := range []struct {
		name, text string
		s          *sealer
	}{
		{"another key", sealed, newTestSealer(t, anotherSecret)},
		{"a key of this process alone", sealed, random},
		{"empty", "", s},
		{"not base64", "!" + sealed, s},
		{"padded", sealed + "==", s},
		{"cut short", sealed[:len(sealed)-4], s},
		{"longer", sealed + "AAAA", s},
		{"another version's member", withJSON(`{"t":["a"],"f":"plain","zz":1}`), s},
		{"not JSON", withJSON(`t`), s},
	} {
		if _, err := tt.s.open(tt.text); !errors.Is(err, errSeal) {
			t.Errorf("%s: %v, want errSeal", tt.name, err)
		}
	}
	for i := range raw { // every single bit counts
		forged := append([]byte(nil), raw...)
		forged[i] ^= 1
		if _, err := s.open(base64.RawURLEncoding.EncodeToString(forged)); !errors.Is(err, errSeal) {
			t.Fatalf("byte %d changed: %v, want errSeal", i, err)
		}
	}
}

// A key is replaced in three steps, and links are followed until the last: those
// of streams, and what WebSockets keep.
func TestLinkKeyIsReplaced(t *testing.T) {
	k := kafkatest.Fake(t)
	k.CreateTopic("t", 1)
	values(k, "t", "a")
	const a, b = aSecret, anotherSecret
	var file atomic.Value
	file.Store(a)
	source := secret.NewSource()
	source.Add("LINK_KEY", a, func() (string, error) { return file.Load().(string), nil })
	h := startRelay(t, k, func(c *Config) { c.LinkKey, c.Secrets = a, source })
	source.Watch(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	change := func(key string) {
		file.Store(key)
		source.Reload()
	}
	live := func() (link string) {
		l := h.open("/events/t/")
		l.until("hold", func(string) bool { return l.holding })
		return l.next
	}
	follow := func(link string) int {
		r := httptest.NewRequest(http.MethodGet, link, nil)
		return h.do(r.WithContext(grip.WithLink(r.Context()))).Code
	}
	kept := func(sealer *sealer) string {
		sealed, err := sealer.sealAs(metaGrant, &caller{Socket: "w"})
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	opens := func(sealed string) bool { return h.r.origin.sealer.openAs(metaGrant, sealed, new(caller)) == nil }

	old, oldSocket := live(), kept(newTestSealer(t, a))
	change(b + ", " + a)
	rotated := live() // not what streams shared before
	if rotated == old {
		t.Error("new streams have a link that the old key sealed")
	}
	if again := live(); again != rotated {
		t.Error("equal streams have different links")
	}
	for _, link := range []string{old, rotated} {
		if got := follow(link); got != http.StatusOK {
			t.Errorf("with both keys: got %d for %s, want 200", got, link)
		}
	}
	if !opens(oldSocket) || !opens(kept(newTestSealer(t, b))) {
		t.Error("with both keys: a WebSocket is not known any more")
	}
	for _, bad := range []string{"", "short", a + "," + b + "," + a, a + ","} {
		change(bad)
		if got := follow(rotated); got != http.StatusOK {
			t.Errorf("after the bad key %q: got %d, want 200", bad, got)
		}
	}
	change(b)
	for link, want := range map[string]int{old: http.StatusNotFound, rotated: http.StatusOK} {
		if got := follow(link); got != want {
			t.Errorf("with the new key alone: got %d for %s, want %d", got, link, want)
		}
	}
	if opens(oldSocket) {
		t.Error("with the new key alone: what the old one sealed is read")
	}
}

func TestParseSecret(t *testing.T) {
	for _, tt := range []struct{ name, in, want, err string }{
		{"text", aSecret, aSecret, ""},
		{"base64", "base64:" + base64.StdEncoding.EncodeToString([]byte(aSecret)), aSecret, ""},
		{"short text", aSecret[1:], "", "31 bytes are too few"},
		{"long base64 of few bytes", "base64:" + base64.StdEncoding.EncodeToString([]byte(aSecret[1:])), "", "31 bytes are too few"},
		{"not base64", "base64:" + strings.Repeat("!", 40), "", "not base64"},
		{"empty", "", "", "0 bytes"},
	} {
		got, err := parseSecret(tt.in)
		if string(got) != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: got %q, %v; want %q, %q", tt.name, got, err, tt.want, tt.err)
		}
		if err != nil && strings.Contains(err.Error(), aSecret[5:20]) {
			t.Errorf("%s: the error shows the secret: %v", tt.name, err)
		}
	}
}

func TestChannelNames(t *testing.T) {
	name := func(r rendering, topics ...string) string { return channelName(topics, nil, r) }
	plain := rendering{form: formPlain}
	if got := name(plain, "orders"); got != "orders" {
		t.Errorf("the plain channel of a topic is %q, want its name", got)
	}
	seen := map[string]string{"orders": "plain"}
	for what, n := range map[string]string{
		"envelope":      name(rendering{form: formEnvelope}, "orders"),
		"batch":         name(rendering{form: formPlain, ids: idBatch}, "orders"),
		"every":         name(rendering{form: formPlain, ids: idEvery}, "orders"),
		"event from":    name(rendering{form: formPlain, eventFrom: "key"}, "orders"),
		"event from h":  name(rendering{form: formPlain, eventFrom: "header:key"}, "orders"),
		"comments only": name(rendering{form: formPlain, commentOnly: true}, "orders"),
		"hint":          name(hint, "orders"),
		"two topics":    name(plain, "orders", "prices"),
	} {
		if other, taken := seen[n]; taken {
			t.Errorf("%s and %s share the channel %s", what, other, n)
		}
		seen[n] = what
		topics, hash, ok := strings.Cut(n, "~")
		if want := strings.ReplaceAll(what, "two topics", "orders+prices"); !ok || len(hash) != 26 || hash != strings.ToLower(hash) ||
			(topics != "orders" && topics != want) {
			t.Errorf("%s: %q, want the topics, a tilde and 26 digits of base 32", what, n)
		}
	}
	if name(hint, "a") != name(rendering{form: formHint}, "a") {
		t.Error("the name is not a function of view and rendering")
	}
}
