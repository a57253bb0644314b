package relay

import (
	"spillway/grip/secret"
	"spillway/relay/cursor"
)

// A veil keeps clients from learning how many records topics have: with
// CURSOR_KEY their cursors are sealed, and offsets stand only in what shows a
// record's place anyway. Inside the process, and in links, cursors are as they
// are. A nil veil hides nothing.
type veil struct {
	keys    *secret.Value[*cursor.Sealer]
	decoder *decoder // knows the rules of topics
}

// newVeil is nil where CURSOR_KEY is not set.
func newVeil(cfg *Config, d *decoder) (*veil, error) {
	if cfg.CursorKey == "" {
		return nil, nil
	}
	keys, err := secret.Follow(cfg.Secrets, "CURSOR_KEY", cfg.CursorKey, ParseCursorKey)
	if err != nil {
		return nil, err
	}
	return &veil{keys, d}, nil
}

// ParseCursorKey reads CURSOR_KEY: one secret, or two while one is replaced,
// comma separated. The error does not show them. No secret gives a nil Sealer,
// which seals nothing.
func ParseCursorKey(text string) (*cursor.Sealer, error) {
	if text == "" {
		return nil, nil
	}
	secrets, err := parseSecrets(text)
	if err != nil {
		return nil, err
	}
	return cursor.NewSealer(secrets...)
}

// sealer is what clients' cursors are sealed with; nil: they are not.
func (v *veil) sealer() *cursor.Sealer {
	if v == nil {
		return nil
	}
	return v.keys.Get()
}

// hides reports whether clients are not told where records of a topic are: its
// rule allows no form in which they would see that, as they would see keys.
func (v *veil) hides(topic string) bool {
	return v != nil && !v.decoder.ruleOf(topic).showsKeys()
}

// shown is what clients are told of a gap.
func (v *veil) shown(g gap) gap {
	if v.hides(g.Topic) {
		g.Partition, g.From, g.To = nil, nil, nil
	}
	return g
}
