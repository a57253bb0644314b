package relay

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/daead/subtle"

	"spillway/grip/secret"
)

// A link is all that the page behind a next link depends on. A gateway follows
// links without any of the client's headers, so the link carries the rights:
// it is sealed, and whoever holds it may read what it says and nothing else.
type link struct {
	Topics []string `json:"t"`
	queryText
	Form   form      `json:"f"`
	IDs    idRule    `json:"i,omitempty"`
	Event  string    `json:"e,omitempty"`
	Quiet  bool      `json:"q,omitempty"` // rendering.commentOnly
	Schema bool      `json:"sc,omitempty"`
	Bare   bool      `json:"ba,omitempty"` // rendering.bare
	Via    transport `json:"v,omitempty"`

	// Cursor is the position that the page begins at. Links of holds have
	// none: the gateway says where it is, with Grip-Last.
	Cursor string `json:"c,omitempty"`

	// Since is a time, in minutes since 1970, such that the client has seen
	// nothing after it that it did not ask for again.
	Since int64 `json:"si,omitempty"`

	LongPoll     bool  `json:"lp,omitempty"`
	Subscription bool  `json:"s,omitempty"` // made by a message on a WebSocket; its end is not the socket's
	Limit        int64 `json:"l,omitempty"` // records still to send; 0: no limit
	Until        int64 `json:"u,omitempty"` // epoch milliseconds; 0: none
	// Bound is where an until that has passed ends.
	Bound       string `json:"b,omitempty"`
	Marks       bool   `json:"m,omitempty"`  // a live event is owed,
	Existed     string `json:"x,omitempty"`  // once all before this position has been sent
	Replayed    int64  `json:"r,omitempty"`  // records sent so far, for the live event
	ReplayBytes int64  `json:"rb,omitempty"` // bytes that may still be replayed; 0: no bound
	HeartbeatMS int64  `json:"hb,omitempty"` // 0: the default

	pace
	lag
	sparing
	Rest int64 `json:"re,omitempty"` // of a rate: when the next event may come, in epoch milliseconds
	newest

	Right *right `json:"a,omitempty"` // nil: nobody is asked who they are
}

// A pace is a replay with the spacing of the records' timestamps.
type pace struct {
	Speed float64 `json:"sp,omitempty"` // how much faster than that; 0: as fast as can be
	// A record of the time From, in epoch milliseconds, was due at Begun.
	From  int64 `json:"pf,omitempty"`
	Begun int64 `json:"pb,omitempty"`
}

// due returns how long after now a record of time t is to be sent. The first
// begins the replay.
func (p *pace) due(t, now time.Time) time.Duration {
	if p.Begun == 0 {
		p.From, p.Begun = t.UnixMilli(), now.UnixMilli()
	}
	later := time.Duration(float64(t.UnixMilli()-p.From) / p.Speed * float64(time.Millisecond))
	return time.UnixMilli(p.Begun).Add(later).Sub(now)
}

// A lag is how a stream that had caught up fell behind again
// (event-semantics.md 8).
type lag struct {
	Fell     int64 `json:"lf,omitempty"` // when its place left the channel's log, in epoch milliseconds; 0: it did not
	Age      int64 `json:"la,omitempty"` // minutes that it was behind then
	Appended int64 `json:"lb,omitempty"` // bytes that the hub had read of the topics then, and those that the stream has been sent since
}

func (l *link) bounded() bool { return l.Limit > 0 || l.Until > 0 }

func (l *link) rendering() rendering {
	return rendering{form: l.Form, ids: l.IDs, eventFrom: l.Event, commentOnly: l.Quiet, schema: l.Schema, bare: l.Bare}
}

// holdRendering is the channel that the stream holds when it has caught up.
// What ends by itself counts its records one by one, so it only needs to hear
// that there are some.
func (l *link) holdRendering() rendering {
	if l.bounded() || l.LongPoll {
		return hint
	}
	return l.rendering()
}

// A holdLink is the next link of streams that hold a channel and do not end by
// themselves. All that they do not share is in it.
type holdLink struct {
	key          *subtle.AESSIV // that it is sealed with
	via          transport
	subscription bool
	heartbeatMS  int64
	sparing      sparing
	value        []string // of Grip-Link
}

// A linkCache keeps the links of a channel's holds, so that the same ones are
// sealed once and are the same memory for all streams.
type linkCache struct{ links atomic.Pointer[[]holdLink] }

// maxHoldLinks bounds the links of one channel: heartbeat= has very many values.
const maxHoldLinks = 8

func (c *linkCache) all() []holdLink {
	if links := c.links.Load(); links != nil {
		return *links
	}
	return nil
}

// value returns the Grip-Link of streams that are like this, or makes it.
func (c *linkCache) value(like holdLink, make func() []string) []string {
	links := c.all()
	if len(links) > 0 && links[0].key != like.key { // LINK_KEY has changed
		links = nil
	}
	for i := range links {
		l := &links[i]
		if l.via == like.via && l.heartbeatMS == like.heartbeatMS && l.subscription == like.subscription && l.sparing == like.sparing {
			return l.value
		}
	}
	like.value = make()
	if like.value != nil && len(links) < maxHoldLinks {
		grown := append(slices.Clip(links), like)
		c.links.Store(&grown) // of two at the same time one is forgotten; both are right
	}
	return like.value
}

// linkPrefix stands between EVENTS_PATH and the sealed link. No topic has such
// a name: Kafka allows no tilde.
const linkPrefix = "~next/"

// A sealer seals links with AES-SIV (RFC 5297): equal links have equal paths,
// so that gateways can share their answers, and none can be forged or read.
type sealer struct {
	keys *secret.Value[[]*subtle.AESSIV] // the first seals, and all open
}

// newSealer makes keys from LINK_KEY, or a random one that dies with the process.
func newSealer(cfg *Config) (*sealer, error) {
	text := cfg.LinkKey
	if text == "" {
		text = rand.Text() + rand.Text()
	}
	keys, err := secret.Follow(cfg.Secrets, "LINK_KEY", text, parseLinkKey)
	if err != nil {
		return nil, err
	}
	return &sealer{keys}, nil
}

// parseLinkKey reads LINK_KEY: one secret, or two while one is replaced. The
// error does not show them.
func parseLinkKey(text string) ([]*subtle.AESSIV, error) {
	secrets, err := parseSecrets(text)
	if err != nil {
		return nil, err
	}
	keys := make([]*subtle.AESSIV, len(secrets))
	for i, one := range secrets {
		key, err := hkdf.Key(sha256.New, one, nil, "spillway next link", subtle.AESSIVKeySize)
		if err != nil {
			return nil, fmt.Errorf("derive link key: %w", err)
		}
		if keys[i], err = subtle.NewAESSIV(key); err != nil {
			return nil, fmt.Errorf("make link cipher: %w", err)
		}
	}
	return keys, nil
}

// key is what links are sealed with now.
func (s *sealer) key() *subtle.AESSIV { return s.keys.Get()[0] }

// seal is the path of a link behind EVENTS_PATH.
func (s *sealer) seal(l *link) (string, error) {
	sealed, err := s.sealAs(linkPrefix, l)
	return linkPrefix + sealed, err
}

// open reads a path behind linkPrefix. Anything that was not sealed with our
// key is errSeal.
func (s *sealer) open(text string) (*link, error) {
	var l link
	if err := s.openAs(linkPrefix, text, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// sealAs seals v, which marshals to JSON, for one purpose.
func (s *sealer) sealAs(purpose string, v any) (string, error) {
	sealed, err := s.key().EncryptDeterministically(mustJSON(v), []byte(purpose))
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

var errSeal = errors.New("not sealed here")

// openAs reads into v what was sealed for a purpose, or else is errSeal.
func (s *sealer) openAs(purpose, text string, v any) error {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return errSeal
	}
	var plain []byte
	if !slices.ContainsFunc(s.keys.Get(), func(k *subtle.AESSIV) bool {
		plain, err = k.DecryptDeterministically(sealed, []byte(purpose))
		return err == nil
	}) {
		return errSeal
	}
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: it was sealed by another version: %w", errSeal, err)
	}
	return nil
}

// parseSecrets reads one secret, or two, comma separated: the new one, and the
// one that it replaces. The error does not show them.
func parseSecrets(text string) ([][]byte, error) {
	texts := strings.Split(text, ",")
	if len(texts) > 2 {
		return nil, errors.New("more than two keys, comma separated; give the one to seal with, and the old one")
	}
	secrets := make([][]byte, len(texts))
	for i, one := range texts {
		var err error
		if secrets[i], err = parseSecret(strings.TrimSpace(one)); err != nil {
			if len(texts) > 1 {
				err = fmt.Errorf("key %d of 2, comma separated: %w", i+1, err)
			}
			return nil, err
		}
	}
	return secrets, nil
}

// parseSecret reads a secret that keys are made from: text, or base64:….
func parseSecret(s string) ([]byte, error) {
	secret := []byte(s)
	if encoded, ok := strings.CutPrefix(s, "base64:"); ok {
		var err error
		if secret, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, errors.New("what follows base64: is not base64 (RFC 4648, with padding)")
		}
	}
	if len(secret) < minKeyBytes {
		return nil, fmt.Errorf("%d bytes are too few; need %d or more, such as base64: and the output of `openssl rand -base64 32`", len(secret), minKeyBytes)
	}
	return secret, nil
}
