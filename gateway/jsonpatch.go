package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// patched applies a JSON Patch (RFC 6902) to a JSON object or array. A line
// break at its end is kept; otherwise the output is compact (GRIP reference,
// 5.2).
func patched(body []byte, patch json.RawMessage) ([]byte, error) {
	var ops []patchOp
	if err := json.Unmarshal(patch, &ops); err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	end := ""
	for _, nl := range []string{"\r\n", "\n"} {
		if end == "" && bytes.HasSuffix(body, []byte(nl)) {
			end = nl
		}
	}
	doc, err := decodeJSON(body)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	switch doc.(type) {
	case map[string]any, []any:
	default:
		return nil, errors.New("body: neither an object nor an array")
	}
	room := maxCopied
	for i, op := range ops {
		if doc, err = op.apply(doc, &room); err != nil {
			return nil, fmt.Errorf("operation %d: %s %s: %w", i, op.Op, op.Path, err)
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return nil, err
	}
	return append(bytes.TrimSuffix(out.Bytes(), []byte("\n")), end...), nil
}

// maxCopied bounds what the copy operations of one patch copy, in bytes of JSON:
// each could double the document.
const maxCopied = 1 << 20

type patchOp struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	From  string          `json:"from"`
	Value json.RawMessage `json:"value"`
}

var errNoPlace = errors.New("there is no such place")

func (op patchOp) apply(doc any, room *int) (any, error) {
	switch op.Op {
	case "add", "replace", "test":
		if op.Value == nil {
			return nil, errors.New("value is missing")
		}
	}
	switch op.Op {
	case "add":
		value, err := decodeJSON(op.Value)
		if err != nil {
			return nil, err
		}
		return edit(doc, op.Path, add(value))
	case "remove":
		return edit(doc, op.Path, remove)
	case "replace":
		value, err := decodeJSON(op.Value)
		if err != nil {
			return nil, err
		}
		return edit(doc, op.Path, replace(value))
	case "test":
		want, err := decodeJSON(op.Value)
		if err != nil {
			return nil, err
		}
		got, err := lookUp(doc, op.Path)
		if err == nil && !reflect.DeepEqual(got, want) {
			err = errors.New("the value is another")
		}
		return doc, err
	case "move", "copy":
		value, err := lookUp(doc, op.From)
		if err != nil {
			return nil, fmt.Errorf("from %s: %w", op.From, err)
		}
		if op.Op == "move" {
			if strings.HasPrefix(op.Path, op.From+"/") {
				return nil, errors.New("a value cannot move into itself")
			}
			if doc, err = edit(doc, op.From, remove); err != nil {
				return nil, err
			}
		} else if value, err = copyJSON(value, room); err != nil {
			return nil, err
		}
		return edit(doc, op.Path, add(value))
	default:
		return nil, errors.New("unknown operation")
	}
}

// An editor changes what holds key, and returns it; nil stands for the whole
// document's holder, and key is then empty.
type editor func(holder any, key string) (any, error)

func add(value any) editor {
	return func(holder any, key string) (any, error) {
		switch h := holder.(type) {
		case nil:
			return value, nil
		case map[string]any:
			h[key] = value
			return h, nil
		case []any:
			i := len(h)
			if key != "-" {
				var err error
				if i, err = index(key, len(h)+1); err != nil {
					return nil, err
				}
			}
			h = append(h, nil)
			copy(h[i+1:], h[i:])
			h[i] = value
			return h, nil
		default:
			return nil, errNoPlace
		}
	}
}

func replace(value any) editor {
	return func(holder any, key string) (any, error) {
		switch h := holder.(type) {
		case nil:
			return value, nil
		case map[string]any:
			if _, ok := h[key]; !ok {
				return nil, errNoPlace
			}
			h[key] = value
			return h, nil
		case []any:
			i, err := index(key, len(h))
			if err != nil {
				return nil, err
			}
			h[i] = value
			return h, nil
		default:
			return nil, errNoPlace
		}
	}
}

func remove(holder any, key string) (any, error) {
	switch h := holder.(type) {
	case nil:
		return nil, nil // leaves null
	case map[string]any:
		if _, ok := h[key]; !ok {
			return nil, errNoPlace
		}
		delete(h, key)
		return h, nil
	case []any:
		i, err := index(key, len(h))
		if err != nil {
			return nil, err
		}
		return append(h[:i], h[i+1:]...), nil
	default:
		return nil, errNoPlace
	}
}

// edit applies e at a JSON Pointer (RFC 6901) and returns the changed document.
func edit(doc any, pointer string, e editor) (any, error) {
	if pointer == "" {
		return e(nil, "")
	}
	keys, err := split(pointer)
	if err != nil {
		return nil, err
	}
	return editAt(doc, keys, e)
}

func editAt(holder any, keys []string, e editor) (any, error) {
	if len(keys) == 1 {
		if holder == nil {
			return nil, errNoPlace
		}
		return e(holder, keys[0])
	}
	inner, err := member(holder, keys[0])
	if err != nil {
		return nil, err
	}
	if inner, err = editAt(inner, keys[1:], e); err != nil {
		return nil, err
	}
	return replace(inner)(holder, keys[0])
}

func lookUp(doc any, pointer string) (any, error) {
	keys, err := split(pointer)
	for _, key := range keys {
		if err == nil {
			doc, err = member(doc, key)
		}
	}
	return doc, err
}

func member(holder any, key string) (any, error) {
	switch h := holder.(type) {
	case map[string]any:
		if value, ok := h[key]; ok {
			return value, nil
		}
	case []any:
		i, err := index(key, len(h))
		if err != nil {
			return nil, err
		}
		return h[i], nil
	}
	return nil, errNoPlace
}

// index reads an array index below n; leading zeros are not allowed.
func index(key string, n int) (int, error) {
	i, err := strconv.Atoi(key)
	if err != nil || i < 0 || i >= n || strconv.Itoa(i) != key {
		return 0, errNoPlace
	}
	return i, nil
}

// split reads a JSON Pointer.
func split(pointer string) ([]string, error) {
	if pointer == "" {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(pointer, "/")
	if !ok {
		return nil, errors.New("a path begins with /")
	}
	keys := strings.Split(rest, "/")
	for i, key := range keys {
		keys[i] = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
	}
	return keys, nil
}

// decodeJSON keeps numbers as they are written.
func decodeJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

func copyJSON(v any, room *int) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if *room -= len(b); *room < 0 {
		return nil, errors.New("copies too much")
	}
	return decodeJSON(b)
}
