package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// Claims are JSON values by name, with json.Number for numbers: an id beyond
// 2^53 must not become that of a neighbour.
type Claims map[string]any

// UnmarshalJSON implements json.Unmarshaler. It takes one JSON object.
func (c *Claims) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return errors.New("not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	*c = m
	return nil
}

// at returns the claim of a name, or, where there is none, the one that a path
// with dots leads to. Names in the path may have dots themselves.
func (c Claims) at(path string) (any, bool) {
	if v, ok := c[path]; ok {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		if below, ok := c[path[:i]].(map[string]any); ok {
			if v, ok := Claims(below).at(path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// listed returns the texts in a claim: those of an array, or the words of a
// text. Anything else has none.
func listed(claim any) []string {
	switch claim := claim.(type) {
	case string:
		return strings.Fields(claim)
	case []any:
		texts := make([]string, 0, len(claim))
		for _, v := range claim {
			if s, ok := v.(string); ok {
				texts = append(texts, s)
			}
		}
		return texts
	}
	return nil
}
